# SPDX-License-Identifier: GPL-2.0
import os
import subprocess
import tempfile
import unittest

SCRIPTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../../scripts")


class Cache(unittest.TestCase):
    """Where the cache may be, and what `make clean-cache` removes."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.parent = folder.name
        self.cache = os.path.join(self.parent, "cache")

    def run_it(self, *command, **env):
        env = {**os.environ, "VFETCH_CACHE": self.cache, **env}
        p = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
        return p.returncode, p.stderr

    def source(self, **env):
        return self.run_it("bash", "-c", f". {SCRIPTS}/lib.sh", **env)

    def clean(self):
        return self.run_it(f"{SCRIPTS}/clean.sh", "cache")

    def test_a_cache_that_was_empty_is_removed(self):
        self.assertEqual(self.source(), (0, ""))
        os.mkdir(f"{self.cache}/thing-0123456789ab")
        self.assertEqual(self.clean()[0], 0)
        self.assertFalse(os.path.exists(self.cache))

    def test_a_folder_with_other_files_is_not_removed(self):
        os.mkdir(self.cache)
        with open(f"{self.cache}/thesis", "w", encoding="ascii") as f:
            f.write("years of work")
        for _ in range(2):
            self.assertEqual(self.source(), (0, ""))
            code, errors = self.clean()
            self.assertEqual(code, 1)
            self.assertIn("held other files", errors)
        self.assertTrue(os.path.exists(f"{self.cache}/thesis"))

    def test_a_cache_in_use_is_not_removed(self):
        script = f". {SCRIPTS}/lib.sh\necho ready\nexec sleep 60"
        user = subprocess.Popen(["bash", "-c", script], env=dict(os.environ, VFETCH_CACHE=self.cache),
                                stdout=subprocess.PIPE, text=True)
        self.addCleanup(user.stdout.close)
        self.addCleanup(user.wait)
        self.addCleanup(user.terminate)
        self.assertEqual(user.stdout.readline(), "ready\n")
        code, errors = self.clean()
        self.assertEqual(code, 1)
        self.assertIn("using", errors)
        self.assertTrue(os.path.exists(self.cache))

    def test_paths_that_kbuild_refuses_are_refused_at_once(self):
        for name in ("a b", "a:b", "a$b", "a'b"):
            code, errors = self.source(VFETCH_CACHE=os.path.join(self.parent, name))
            self.assertEqual(code, 1, name)
            self.assertIn("no blank", errors)

    def test_without_a_home_the_message_names_the_setting(self):
        code, errors = self.run_it("env", "-u", "HOME", "-u", "XDG_CACHE_HOME", "-u", "VFETCH_CACHE",
                                   "bash", "-c", f". {SCRIPTS}/lib.sh")
        self.assertNotEqual(code, 0)
        self.assertIn("VFETCH_CACHE", errors)
