#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Runs the tests and counts them: the last line is

    N passed, N failed, N skipped

Started by scripts/test.sh, in the sandbox, after everything was built. A suite
is the Rust workspace's own tests, a program tests/host/NAME/run that prints
TAP, or an entry of tests/guest/suites.toml, which runs in a guest. A suite
that crashes, is too slow, ends with a bad status although its report is fine,
or skips what tests/skips.txt does not list, has failed.
"""

import argparse
import concurrent.futures
import glob
import os
import signal
import subprocess
import sys
import threading
import time
import tomllib

import tap
from tap import FAILED, PASSED, SKIPPED, Result

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# What an entry of suites.toml may say, and what holds where it does not.
GUEST_DEFAULTS = {
    "name": None,        # what `make test SUITE=` and the results call it
    "command": None,     # run in /host; prints TAP or KTAP
    "files": [],         # what becomes /host; patterns, relative to the top
    "timeout": 120,      # seconds of real time, on an idle machine
    "debug": True,       # also on the debug kernel
    "stock": True,       # also on the stock kernel
    "smp": 2, "mem": "1G", "vfs": 0,
    "device": "",        # properties of the device
    "icount": None, "iommu": 0, "qmp": 0, "load": 1,
    "threads": "single", # multi: processors really run at once; no VF comes or goes meanwhile (scripts/vm.py)
    "modargs": "", "modules": "", "append": "",
    "allow": [],         # {pattern, reason}: what the kernel may say
}
# The sanitizers' price, and that of two guests on two processors.
DEBUG_TIMEOUT_FACTOR = 6


class Suite:
    def __init__(self, name, command, timeout, env=None, parse=tap.parse, accept=(0,), alone=False):
        self.name, self.command, self.timeout, self.env = name, command, timeout, env or {}
        self.parse, self.accept, self.alone = parse, accept, alone


def host_suites(a):
    yield Suite("rust", ["cargo", "test", "--workspace", "--locked", "--no-fail-fast"], 1200, parse=tap.parse_libtest,
                accept=(0, 101), alone=True)
    for run in sorted(glob.glob(f"{TOP}/tests/host/*/run")):
        yield Suite(os.path.basename(os.path.dirname(run)), [run], 600, accept=(0, 1),
                    env={"VFETCH_DEVICE_SO": a.device or "", "VFETCH_KERNEL": a.kernel,
                         "VFETCH_MODULE": a.module or "", "VFETCH_TOOLS": " ".join(a.tool)})


def guest_suites(a):
    with open(f"{TOP}/tests/guest/suites.toml", "rb") as f:
        document = tomllib.load(f)
    if unknown := set(document) - {"suite"}:
        raise SystemExit(f"suites.toml: unknown: {', '.join(unknown)}")
    for entry in document.get("suite", []):
        if unknown := set(entry) - set(GUEST_DEFAULTS):
            raise SystemExit(f"suites.toml: {entry.get('name')}: unknown: {', '.join(unknown)}")
        s = {**GUEST_DEFAULTS, **entry}
        if not s["name"] or not s["command"]:
            raise SystemExit(f"suites.toml: {entry}: name and command are needed")
        if not s["debug" if a.debug else "stock"]:
            continue
        yield guest_suite(a, s)


def guest_suite(a, s):
    timeout = s["timeout"] * (DEBUG_TIMEOUT_FACTOR if a.debug else 1)
    command = [f"{TOP}/scripts/vm.py", "--kernel", a.kernel, "--smp", s["smp"], "--vfs", s["vfs"],
               "--mem", a.mem or s["mem"], f"--props={s['device']}", "--iommu", s["iommu"], "--qmp", s["qmp"],
               "--load", s["load"], f"--modargs={s['modargs']}", f"--modules={s['modules']}",
               f"--append={s['append']}", "--threads", s["threads"], "--timeout", timeout, "--log", f"{a.out}/{s['name']}.log",
               f"--cmd={s['command']}", "--reports-first"]
    if s["icount"] is not None:
        command += ["--icount", s["icount"]]
    if a.module:
        command += ["--module", a.module]
    if a.device:
        command += ["--device", a.device]
    for t in a.tool:
        command += ["--tool", t]
    for pattern in s["files"]:
        found = sorted(glob.glob(pattern, root_dir=TOP))
        if not found:
            raise SystemExit(f"suites.toml: {s['name']}: nothing matches '{pattern}'")
        for path in found:
            command += ["--file", f"{TOP}/{path}"]
    for allow in s["allow"]:
        if set(allow) != {"pattern", "reason"} or not allow["reason"]:
            raise SystemExit(f"suites.toml: {s['name']}: allow needs a pattern and a reason")
        command += [f"--allow={allow['pattern']}"]
    # 1: a test failed, and the report says which.
    return Suite(s["name"], [str(c) for c in command], timeout + 60, accept=(0, 1))


def read_skips(path):
    """Lines 'suite/test: reason'."""
    skips = {}
    with open(path, encoding="utf-8") as f:
        for number, line in enumerate(f, 1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            name, colon, reason = line.rpartition(": ")
            if not colon or not reason.strip():
                raise SystemExit(f"{path}:{number}: it is 'suite/test: reason'")
            skips[name] = reason
    return skips


class Runner:
    def __init__(self, a, skips):
        self.a, self.skips = a, skips
        self.print_lock = threading.Lock()
        self.running = {}
        self.stopping = False
        self.counts = {PASSED: 0, FAILED: 0, SKIPPED: 0}
        self.failures = []

    def run(self, suite):
        if self.stopping:
            return
        start = time.monotonic()
        env = dict(os.environ, **suite.env)
        errors = open(f"{self.a.out}/{suite.name}.err", "w+b")
        out = bytearray()
        # A process group of its own, so that a time-out takes all of it.
        p = subprocess.Popen(suite.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT if suite.parse is tap.parse_libtest else errors,
                             cwd=TOP, env=env, start_new_session=True)
        self.running[p.pid] = p
        late = threading.Event()

        def stop():
            late.set()
            end_group(p)

        timer = threading.Timer(suite.timeout, stop)
        timer.start()
        shown = start
        try:
            while data := os.read(p.stdout.fileno(), 1 << 16):
                out += data
                if time.monotonic() - shown > 20:
                    shown = time.monotonic()
                    self.say(f"  … {suite.name}: {shown - start:.0f} s, {last_line(out)}")
            status = p.wait()
        finally:
            timer.cancel()
            end_group(p)
            self.running.pop(p.pid, None)
        text = out.decode(errors="replace")
        with open(f"{self.a.out}/{suite.name}.out", "w", encoding="utf-8") as f:
            f.write(text)
        errors.seek(0)
        self.finish(suite, self.judge(suite, text, status, late.is_set()), time.monotonic() - start,
                    errors.read().decode(errors="replace"))

    def judge(self, suite, text, status, late):
        results = suite.parse(text)
        if late:
            results.append(Result("(suite)", FAILED, detail=[f"not done after {suite.timeout:g} s"]))
        elif status not in suite.accept:
            results.append(Result("(suite)", FAILED, detail=[f"ended with status {status}"] + text.splitlines()[-30:]))
        elif status != 0 and not any(r.status == FAILED for r in results):
            results.append(Result("(suite)", FAILED, detail=[f"ended with status {status}, but reports no failure"]
                                  + text.splitlines()[-30:]))
        elif not results:
            results.append(Result("(suite)", FAILED, detail=["reports no test at all"]))
        for r in results:
            if r.status == SKIPPED and f"{suite.name}/{r.name}" not in self.skips:
                r.status = FAILED
                r.detail.append(f"skipped ({r.reason or 'no reason'}), which tests/skips.txt does not list")
        return results

    def finish(self, suite, results, seconds, errors):
        count = {s: sum(r.status == s for r in results) for s in self.counts}
        with self.print_lock:
            for s, n in count.items():
                self.counts[s] += n
            word = "FAILED" if count[FAILED] else "ok"
            line = f"{word:7}{suite.name:24}{count[PASSED]:5} passed"
            for s in (FAILED, SKIPPED):
                if count[s]:
                    line += f", {count[s]} {s}"
            print(f"{line}  ({seconds:.1f} s)", flush=True)
            for r in results:
                if r.status == SKIPPED:
                    print(f"       skipped: {suite.name}/{r.name}: {r.reason}")
                if r.status != FAILED:
                    continue
                print(f"       failed: {suite.name}/{r.name}")
                for line in r.detail[-60:]:
                    print(f"         {line}")
                self.failures.append(f"{suite.name}/{r.name}")
            if count[FAILED] and errors.strip():
                lines = errors.strip().splitlines()
                print(f"       stderr, all of it in build/test/{suite.name}.err:")
                print("\n".join("         " + l for l in lines[-120:]), flush=True)

    def say(self, text):
        with self.print_lock:
            print(text, flush=True)

    def stop(self):
        self.stopping = True
        for p in list(self.running.values()):
            end_group(p)


def end_group(p):
    """Ends a suite with all that it started."""
    for number, patience in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
        try:
            os.killpg(p.pid, number)
        except ProcessLookupError:
            return
        if p.poll() is not None:
            continue
        try:
            p.wait(patience)
        except subprocess.TimeoutExpired:
            pass


def last_line(out):
    lines = out.rstrip().rsplit(b"\n", 1)
    return lines[-1].decode(errors="replace").strip()[:90]


def main(argv):
    p = argparse.ArgumentParser()
    p.add_argument("--kernel", required=True)
    p.add_argument("--module")
    p.add_argument("--device")
    p.add_argument("--tool", action="append", default=[])
    p.add_argument("--debug", action="store_true", help="the kernel is the debug kernel: guest suites only")
    p.add_argument("--suite", help="only these, separated by spaces")
    p.add_argument("--jobs", type=int, default=2, help="suites at a time")
    p.add_argument("--mem", help="memory of each guest")
    p.add_argument("--out", default=f"{TOP}/build/test", help="where logs and reports go")
    a = p.parse_args(argv)
    os.makedirs(a.out, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    suites = ([] if a.debug else list(host_suites(a))) + list(guest_suites(a))
    names = [s.name for s in suites]
    if twice := {n for n in names if names.count(n) > 1}:
        raise SystemExit(f"two suites have one name: {', '.join(twice)}")
    if a.suite:
        wanted = a.suite.split()
        if unknown := set(wanted) - set(names):
            raise SystemExit(f"no such suite: {', '.join(sorted(unknown))}; there are: {', '.join(names)}")
        suites = [s for s in suites if s.name in wanted]

    runner = Runner(a, read_skips(f"{TOP}/tests/skips.txt"))
    start = time.monotonic()
    try:
        # What uses every processor itself goes first and alone.
        for s in suites:
            if s.alone:
                runner.run(s)
        with concurrent.futures.ThreadPoolExecutor(a.jobs) as pool:
            for future in [pool.submit(runner.run, s) for s in suites if not s.alone]:
                future.result()
    except BaseException:
        runner.stop()
        raise
    print(f"{len(suites)} suites in {time.monotonic() - start:.0f} s")
    if runner.failures:
        print("failed: " + " ".join(runner.failures))
    c = runner.counts
    print(f"{c[PASSED]} passed, {c[FAILED]} failed, {c[SKIPPED]} skipped", flush=True)
    return 1 if c[FAILED] or not c[PASSED] else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
