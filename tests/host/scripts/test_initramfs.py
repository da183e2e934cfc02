# SPDX-License-Identifier: GPL-2.0
import os
import subprocess
import tempfile
import unittest

import initramfs

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../..")


class Initramfs(unittest.TestCase):
    def make(self, folder, name):
        sub = os.path.join(folder, "sub")
        os.makedirs(sub, exist_ok=True)
        with open(os.path.join(sub, "data"), "wb") as f:
            f.write(b"abcde")
        os.utime(f.name)
        path = os.path.join(folder, name)
        initramfs.make(path, top=TOP, files=[sub], conf={"CMD": "echo 'it is'; x"}, qmp=True)
        with open(path, "rb") as f:
            return f.read()

    def test_same_contents_same_bytes(self):
        with tempfile.TemporaryDirectory() as d:
            self.assertEqual(self.make(d, "a"), self.make(d, "b"))

    def test_cpio_reads_it(self):
        with tempfile.TemporaryDirectory() as d:
            data = self.make(d, "a")
            names = subprocess.run(["cpio", "-t", "--quiet"], input=data, check=True, capture_output=True).stdout
            for name in ("init", "bin/busybox", "bin/sh", "usr/bin/qmp", "host/sub/data", "etc/vm.conf"):
                self.assertIn(name, names.decode().split("\n"))
            out = subprocess.run(["cpio", "-i", "--quiet", "--to-stdout", "host/sub/data"], input=data, check=True,
                                 capture_output=True).stdout
            self.assertEqual(out, b"abcde")

    def test_shell_reads_the_settings_as_they_were(self):
        with tempfile.TemporaryDirectory() as d:
            data = self.make(d, "a")
            conf = subprocess.run(["cpio", "-i", "--quiet", "--to-stdout", "etc/vm.conf"], input=data, check=True,
                                  capture_output=True).stdout.decode()
            out = subprocess.run(["sh", "-c", conf + 'printf %s "$VM_CMD"'], check=True, capture_output=True).stdout
            self.assertEqual(out, b"echo 'it is'; x")
