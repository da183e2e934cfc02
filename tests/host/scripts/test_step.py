# SPDX-License-Identifier: GPL-2.0
import os
import signal
import subprocess
import tempfile
import time
import unittest

LIB = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../../scripts/lib.sh")


class Step(unittest.TestCase):
    """`step` of scripts/lib.sh: whole or not at all, once."""

    # Its sleepers are known by it, also beside those of another run.
    SECONDS = 1_000_000 + os.getpid()

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.cache = folder.name

    def start(self, function, after="", name="thing"):
        """Starts a shell that makes the step with `function` as its body."""
        script = f'. {LIB}\nmake_it() {{ {function}\n}}\nstep {name} 0123456789ab make_it "making it"\necho "$REPLY"\n{after}'
        # Who runs the tests in the background may ignore interrupts, and a shell that is born so cannot notice them.
        return subprocess.Popen(["bash", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                env=dict(os.environ, VFETCH_CACHE=self.cache), start_new_session=True,
                                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))

    def finish(self, process):
        out, errors = process.communicate(timeout=30)
        return process.returncode, out.strip(), errors

    def folder(self, name="thing"):
        return os.path.join(self.cache, f"{name}-0123456789ab")

    def made(self):
        return sorted(f for f in os.listdir(self.cache) if f not in ("CACHEDIR.TAG", "lock", "log"))

    def test_is_made_once(self):
        count = os.path.join(self.cache, "log.count")
        body = f'mkdir "$1"; echo x >>{count}'
        for _ in range(2):
            code, out, errors = self.finish(self.start(body))
            self.assertEqual((code, out), (0, self.folder()), errors)
        with open(count, encoding="ascii") as f:
            self.assertEqual(f.read(), "x\n")

    def test_two_at_a_time_make_it_once(self):
        count = os.path.join(self.cache, "log.count")
        body = f'mkdir "$1"; sleep 1; echo x >>{count}'
        both = [self.start(body), self.start(body)]
        self.assertEqual([self.finish(p)[:2] for p in both], [(0, self.folder())] * 2)
        with open(count, encoding="ascii") as f:
            self.assertEqual(f.read(), "x\n")

    def test_failure_leaves_nothing_finished_and_is_shown(self):
        code, out, errors = self.finish(self.start('mkdir "$1"; echo why it failed; false; echo went on'))
        self.assertNotEqual(code, 0)
        self.assertEqual(out, "")
        self.assertIn("why it failed", errors)
        self.assertNotIn("went on", errors)
        self.assertFalse(os.path.exists(self.folder()))

    def test_after_a_failure_it_is_made_anew(self):
        self.finish(self.start('mkdir "$1"; touch "$1/old"; false'))
        self.assertEqual(self.finish(self.start('mkdir "$1"; touch "$1/new"'))[0], 0)
        self.assertEqual(os.listdir(self.folder()), ["new"])

    def test_interrupt_ends_all_of_it(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            with self.subTest(number):
                p = self.start('mkdir -p "$1"; bash -c "sleep %d; true" & wait' % self.SECONDS)
                self.until(self.sleeping)
                p.send_signal(number)
                self.assertEqual(self.finish(p)[0], 130)
                self.assertFalse(os.path.exists(self.folder()))
                self.until(lambda: not self.sleeping())

    def until(self, condition):
        end = time.monotonic() + 10
        while not condition():
            self.assertLess(time.monotonic(), end)
            time.sleep(0.05)

    @staticmethod
    def sleeping():
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    if f.read() == b"sleep\0%d\0" % Step.SECONDS:
                        found.append(int(pid))
            except OSError:
                pass
        return found

    def test_half_made_folders_of_other_keys_go(self):
        os.mkdir(os.path.join(self.cache, "thing-aaaaaaaaaaaa.part"))
        self.finish(self.start('mkdir "$1"'))
        self.assertEqual(self.made(), ["thing-0123456789ab"])

    def test_what_a_half_made_folder_has_beside_it_goes_too(self):
        for name in ("thing-aaaaaaaaaaaa.part.tar", "thing-0123456789ab.part.tar"):
            with open(os.path.join(self.cache, name), "w", encoding="ascii") as f:
                f.write("half")
        self.finish(self.start('mkdir "$1"'))
        self.assertEqual(self.made(), ["thing-0123456789ab"])

    def test_folders_of_other_names_stay(self):
        os.mkdir(os.path.join(self.cache, "thing-two-aaaaaaaaaaaa"))
        os.utime(os.path.join(self.cache, "thing-two-aaaaaaaaaaaa"), (0, 0))
        os.mkdir(os.path.join(self.cache, "thing-aaaaaaaaaaaa"))
        self.finish(self.start('mkdir "$1"'))
        self.assertEqual(self.made(), ["thing-0123456789ab", "thing-aaaaaaaaaaaa", "thing-two-aaaaaaaaaaaa"])

    def test_long_unused_folders_go(self):
        old = os.path.join(self.cache, "thing-aaaaaaaaaaaa")
        os.mkdir(old)
        os.utime(old, (0, 0))
        self.finish(self.start('mkdir "$1"'))
        self.assertEqual(self.made(), ["thing-0123456789ab"])
