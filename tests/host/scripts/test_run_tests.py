# SPDX-License-Identifier: GPL-2.0
import argparse
import contextlib
import io
import os
import subprocess
import sys
import tempfile
import time
import unittest

import run_tests
import tap

RUNNER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../../scripts/run_tests.py")


class Judge(unittest.TestCase):
    def judge(self, text, status=0, late=False, skips=()):
        runner = run_tests.Runner(argparse.Namespace(out=""), dict(skips))
        suite = run_tests.Suite("s", [], 1, accept=(0, 1))
        results = runner.judge(suite, text, status, late)
        return tuple(sum(r.status == s for r in results) for s in (tap.PASSED, tap.FAILED, tap.SKIPPED))

    def test_good(self):
        self.assertEqual(self.judge("1..1\nok 1 a\n"), (1, 0, 0))

    def test_reported_failure_counts_once(self):
        self.assertEqual(self.judge("1..1\nnot ok 1 a\n", 1), (0, 1, 0))

    def test_bad_status_with_a_good_report_fails(self):
        for status in (1, 2, 124, 126, -9):
            with self.subTest(status):
                self.assertEqual(self.judge("1..1\nok 1 a\n", status), (1, 1, 0))

    def test_report_of_the_kernel_beside_a_failure_counts_too(self):
        self.assertEqual(self.judge("1..1\nnot ok 1 a\n", 126), (0, 2, 0))

    def test_late_fails(self):
        self.assertEqual(self.judge("1..1\nok 1 a\n", -15, late=True), (1, 1, 0))

    def test_silence_fails(self):
        self.assertEqual(self.judge(""), (0, 1, 0))

    def test_unlisted_skip_fails(self):
        self.assertEqual(self.judge("1..1\nok 1 a # SKIP b\n"), (0, 1, 0))

    def test_listed_skip_is_one(self):
        self.assertEqual(self.judge("1..1\nok 1 a # SKIP b\n", skips={"s/a": "b"}), (0, 0, 1))


class Run(unittest.TestCase):
    """Whole suites, as programs."""

    def run_program(self, program, timeout=20.0):
        with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(io.StringIO()) as said:
            runner = run_tests.Runner(argparse.Namespace(out=out), {})
            runner.run(run_tests.Suite("s", ["sh", "-c", program], timeout, accept=(0, 1)))
        return tuple(runner.counts.values()), said.getvalue()

    def test_counts_what_a_program_prints(self):
        counts, said = self.run_program("echo 1..2; echo ok 1 a; echo '# why'; echo not ok 2 b; exit 1")
        self.assertEqual(counts, (1, 1, 0))
        self.assertIn("s/b", said)
        self.assertIn("# why", said)

    def test_time_out_takes_the_whole_group(self):
        start = time.monotonic()
        counts, said = self.run_program("echo 1..1; echo ok 1 a; sleep 4444 & sleep 4444", 1.0)
        self.assertEqual(counts, (1, 1, 0))
        self.assertIn("not done after 1 s", said)
        self.assertLess(time.monotonic() - start, 15)
        self.assertEqual(self.running(b"sleep\x004444\0"), 0)

    @staticmethod
    def running(command):
        count = 0
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as f:
                count += f.read() == command
        return count


class Skips(unittest.TestCase):
    def read(self, text):
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as f:
            f.write(text)
            f.flush()
            return run_tests.read_skips(f.name)

    def test_reads_names_with_colons(self):
        self.assertEqual(self.read("# x\nio/a: b: needs C\n"), {"io/a: b": "needs C"})

    def test_no_reason_is_refused(self):
        with self.assertRaises(SystemExit):
            self.read("io/a\n")


class CommandLine(unittest.TestCase):
    def test_unknown_suite_is_refused(self):
        p = subprocess.run([sys.executable, RUNNER, "--kernel", "/nonexistent", "--suite", "nonsense"], capture_output=True,
                           text=True)
        self.assertNotEqual(p.returncode, 0)
        self.assertIn("no such suite: nonsense", p.stderr)
