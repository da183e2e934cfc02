#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Boots the guest, runs a command in it and ends with the command's status.

Started by scripts/vm.sh, in the sandbox, which builds what is needed first.
Its own failures have a status of their own:

  124  the time limit was reached
  125  the guest did not start, or ended before the command did
  126  the guest's kernel reported a defect, and the command did not fail
  130  interrupted

What the guest says comes through pipes that are read here, in one loop; its
kernel's log goes to a file. Neither is ever full, so that QEMU never has to
retry later, which virtual time would show. QEMU is our child, dies with us
(also when we are killed) and is always waited for.
"""

import argparse
import ctypes
import fcntl
import json
import os
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import time

import initramfs
import klog
import tsc

TIMED_OUT, NOT_STARTED, REPORTED, INTERRUPTED = 124, 125, 126, 130
TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def parse(argv):
    p = argparse.ArgumentParser(prog="vm", usage=argparse.SUPPRESS, description=__doc__.splitlines()[0])
    p.add_argument("--kernel", required=True, help="folder made by kernel.sh or kernel-debug.sh")
    p.add_argument("--module", help="vfetch.ko")
    p.add_argument("--device", help="vfetch-qemu.so; without it the guest has no vfetch device")
    p.add_argument("--tool", action="append", default=[], help="a program for the guest's /usr/bin")
    p.add_argument("--file", action="append", default=[], help="a file or folder for /host")
    p.add_argument("--modules", default="", help="further modules of the kernel to load first")
    p.add_argument("--modargs", default="", help="parameters of vfetch.ko")
    p.add_argument("--load", type=int, default=1, help="0: vfetch.ko is there but not loaded")
    p.add_argument("--cmd", help="without it an interactive shell")
    p.add_argument("--smp", type=int, default=2)
    p.add_argument("--threads", choices=("single", "multi"), default="single", help="of QEMU, for all processors or for each")
    p.add_argument("--mem", default="1G")
    p.add_argument("--vfs", type=int, default=0, help="VFs to switch on")
    p.add_argument("--props", default="", help="properties of the device, e.g. total_vfs=63,x-test=on")
    p.add_argument("--icount", type=int, help="deterministic virtual time, 2^N ns an instruction")
    p.add_argument("--iommu", type=int, default=0)
    p.add_argument("--qmp", type=int, default=0, help="1: the guest may issue QMP commands")
    p.add_argument("--results", help="file for what the guest's program 'results' is given")
    p.add_argument("--accel", choices=("tcg", "kvm"), default="tcg")
    p.add_argument("--append", default="", help="more of the kernel's command line")
    p.add_argument("--qemu-args", default="", help="more arguments for QEMU")
    p.add_argument("--timeout", type=float, help="seconds of real time; default 120, for a shell none")
    p.add_argument("--log", default=f"{TOP}/build/vm/kernel.log", help="where the guest's kernel log goes")
    p.add_argument("--log-name", help="what to call it in messages")
    p.add_argument("--allow", action="append", default=[], help="regular expression: no defect, although it looks like one")
    p.add_argument("--show", action="store_true", help="show QEMU's command line")
    p.add_argument("--reports-first", action="store_true", help="status 126 also for a command that failed")
    p.add_argument("--time", action="store_true", help="say at the end how long everything took")
    a = p.parse_args(argv)
    if a.cmd is None and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise SystemExit("vm: no command and no terminal: give CMD='…', or run this in a terminal")
    if a.timeout is None and a.cmd is not None:
        a.timeout = 120
    if a.icount is not None:
        a.smp = 1
    return a


def say(text):
    print(f"vm: {text}", file=sys.stderr, flush=True)


def qemu_command(a, work, fds, clock):
    """QEMU's arguments; `fds`: the other ends of our pipes and sockets."""
    append = ("console=ttyS0,115200 loglevel=8 panic=-1 oops=panic nokaslr mitigations=off random.trust_cpu=on "
              "tsc=reliable no_timer_check ia32_emulation=1 sysrq_always_enabled=1 "
              # Two emulated processors on a busy machine can be without time for long; our own limits find hangs.
              "rcupdate.rcu_cpu_stall_timeout=180")
    # One thread for all processors, which take turns. With one each, QEMU 10.0 looks a register's memory region up
    # by an index that is stale while another processor changes the memory map, as switching a VF on does. QEMU was seen
    # to abort over that (iotlb_to_section). That it also explains guests whose timers stopped (a write to a local APIC
    # that went astray) is read from QEMU's source and was not traced. While the guest starts, and switches VFs on, it
    # has one processor; `init` starts the others, and after that the map is to stay as it is.
    cpu, accel = "max", f"tcg,thread={a.threads}"
    if a.threads == "multi":
        append += " maxcpus=1"
    cmd = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
           "-smp", str(a.smp), "-m", a.mem, "-kernel", f"{a.kernel}/kernel.elf", "-initrd", f"{work}/initramfs"]
    if a.accel == "kvm":
        cpu, accel = "host", "kvm"
    elif a.icount is None and clock:
        append += f" tsc_early_khz={clock.khz()}"
    if a.icount is not None:
        # One instruction takes 2^N ns and idle time none: virtual time depends on
        # nothing outside the guest. String instructions cost one instruction an
        # iteration here, so the kernel is kept from copying with them; random
        # numbers come from a seed.
        accel = "tcg,thread=single"
        cpu = "max,-erms,-fsrm"
        append += " init_on_alloc=0 cryptomgr.notests"
        cmd += ["-icount", f"shift={a.icount},sleep=off", "-rtc", "base=2026-01-01,clock=vm", "-seed", "1"]
    machine = "q35"
    if a.iommu:
        machine += ",kernel-irqchip=split" if a.accel == "kvm" else ""
        append += " intel_iommu=on iommu.strict=1"
        # Before every device that is to be behind it.
        cmd += ["-device", "intel-iommu,intremap=on" + (",caching-mode=off" if a.accel == "tcg" else "")]
    cmd += ["-M", machine, "-accel", accel, "-cpu", cpu]

    # Without ioeventfd the virtual CPU itself carries the data over: faster for
    # short lines, and nothing depends on when another thread runs.
    cmd += ["-device", "virtio-serial-pci,id=ports,ioeventfd=off,max_ports=16"]
    for number, name in enumerate(("status", "stdout", "stderr", "qmp", "results"), 1):
        if name not in fds:
            continue
        if name == "qmp":
            cmd += ["-chardev", f"socket,id=qmp,fd={fds[name]}"]
        else:
            cmd += ["-add-fd", f"fd={fds[name]},set={number}", "-chardev", f"file,id={name},path=/dev/fdset/{number},append=on"]
        cmd += ["-device", f"virtserialport,bus=ports.0,nr={number},chardev={name},name={name}"]
    cmd += ["-chardev", f"file,id=log,path={work}/log,input-path={work}/keys", "-serial", "chardev:log",
            "-chardev", f"socket,id=monitor,fd={fds['monitor']}", "-mon", "chardev=monitor,mode=control"]
    if a.cmd is None:
        cmd += ["-chardev", "stdio,id=console,mux=on,signal=off", "-mon", "console",
                "-device", "virtconsole,bus=ports.0,nr=8,chardev=console"]

    # Hot plug by the port itself: surprise removal is nothing that ACPI's reports.
    cmd += ["-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off",
            "-device", "pcie-root-port,id=rp0,chassis=1,slot=1"]
    if a.device:
        cmd += ["-device", "vfetch,bus=rp0,id=vf0" + ("," + a.props if a.props else "")]
    cmd += shlex.split(a.qemu_args)
    if os.path.exists(f"{a.kernel}/append"):
        with open(f"{a.kernel}/append", encoding="ascii") as f:
            append += " " + f.read().strip()
    return cmd + ["-append", f"{append} {a.append}".strip()]


class Vm:
    def __init__(self, a, work, clock):
        self.a, self.work = a, work
        self.lines = {}              # unfinished lines, by channel
        self.ended = None            # the command's status
        self.failed = None           # why the guest could not run it
        self.times = {}
        self.asked = []              # who waits for QMP replies: None (nobody) or "guest"
        self.select = selectors.DefaultSelector()
        self.sockets, theirs = {}, {}
        for name in ["status"] + (["stdout", "stderr"] if a.cmd is not None else []):
            ours, theirs[name] = pipe()
            self.select.register(ours, selectors.EVENT_READ, name)
        for name in ["monitor"] + (["qmp"] if a.qmp else []):
            self.sockets[name], end = socket.socketpair()
            theirs[name] = end.detach()
            self.select.register(self.sockets[name], selectors.EVENT_READ, name)
        if a.results:
            theirs["results"] = os.open(a.results, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        # Where the guest's serial line reads from. Open at both ends, or opening blocks.
        with open(f"{work}/log", "wb"):
            pass
        os.mkfifo(f"{work}/keys")
        self.keys = os.open(f"{work}/keys", os.O_RDWR)
        self.command = qemu_command(a, work, theirs, clock)
        env = dict(os.environ)
        if a.device:
            env["LD_PRELOAD"] = a.device
        if a.show:
            say(shlex.join(self.command))
        self.start = time.monotonic()
        self.qemu_errors = open(f"{work}/qemu", "w+b")
        self.qemu = subprocess.Popen(self.command, pass_fds=theirs.values(), env=env, preexec_fn=die_with_parent,
                                     stdin=None if a.cmd is None else subprocess.DEVNULL,
                                     stdout=None if a.cmd is None else self.qemu_errors, stderr=self.qemu_errors)
        for fd in theirs.values():
            os.close(fd)
        self.ask({"execute": "qmp_capabilities"})

    # ---- what comes in ----

    def loop(self):
        """Until QEMU has ended and all it said is read, or the time is up.
        Returns whether it ended in time."""
        limit = self.start + self.a.timeout if self.a.timeout else None
        while self.select.get_map():
            wait = 1.0
            if limit is not None:
                left = limit - time.monotonic()
                if left <= 0:
                    return False
                wait = min(wait, left)
            self.read(wait)
        self.qemu.wait()
        return True

    def read(self, wait):
        for key, _ in self.select.select(wait):
            try:
                data = os.read(key.fd, 1 << 16)
            except ConnectionError:
                data = b""
            if data:
                self.got(key.data, data)
            else:
                self.select.unregister(key.fileobj)

    def got(self, channel, data):
        if channel in ("stdout", "stderr"):
            out = sys.stdout.buffer if channel == "stdout" else sys.stderr.buffer
            out.write(data)
            out.flush()
        else:
            lines = (self.lines.get(channel, b"") + data).split(b"\n")
            self.lines[channel] = lines.pop()
            for line in lines:
                getattr(self, "on_" + channel)(line.decode(errors="replace").strip())

    def on_status(self, line):
        word, _, rest = line.partition(" ")
        self.times[word] = time.monotonic() - self.start
        if word == "ready":
            self.times["ready guest"] = float(rest)
        elif word == "exit":
            # When the command ended, and when it told us: a search for leaks is between them.
            status, ended, told = rest.split()
            self.ended = int(status)
            self.times["exit guest"] = float(ended)
            self.times["told guest"] = float(told)
        elif word == "fail":
            self.failed = rest

    # ---- QMP ----

    def ask(self, command, answer_to=None):
        self.asked.append(answer_to)
        self.send("monitor", json.dumps(command))

    def send(self, channel, text):
        try:
            self.sockets[channel].sendall(text.encode() + b"\n")
        except OSError:
            pass  # QEMU has gone; the loop notices

    def on_monitor(self, line):
        if not line:
            return
        reply = json.loads(line)
        if "return" not in reply and "error" not in reply:
            return  # the greeting, or an event
        if self.asked and self.asked.pop(0) == "guest":
            self.send("qmp", json.dumps(reply))

    def on_qmp(self, line):
        """A line from the guest's qmp program."""
        if not line:
            return
        try:
            command = json.loads(line)
            if not isinstance(command, dict):
                raise ValueError("not an object")
        except ValueError as e:
            self.send("qmp", json.dumps({"error": {"class": "GenericError", "desc": f"not JSON: {e}"}}))
            return
        self.ask(command, "guest")

    # ---- the end ----

    def show_hang(self):
        """Asks the guest's kernel what its tasks and CPUs are doing: a break and a
        SysRq key on the serial line, twice."""
        for key in (b"w", b"l"):
            self.ask({"execute": "chardev-send-break", "arguments": {"id": "log"}})
            self.read_for(0.3)
            os.write(self.keys, key)
            self.read_for(1.5)

    def read_for(self, seconds):
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and self.select.get_map():
            self.read(left)

    def clock_is_right(self):
        """Whether the guest's seconds were as long as ours while the command ran, give
        or take how late we may have been told. With --icount it has its own time."""
        t = self.times
        if self.a.icount is not None or "told guest" not in t or "ready guest" not in t:
            return True
        ours, its = t["exit"] - t["ready"], t["told guest"] - t["ready guest"]
        return abs(its - ours) < 5 + ours / 5

    def durations(self):
        t = self.times
        if "ready" in t:
            yield f"ready after {t['ready']:.1f} s (guest {t['ready guest']:.2f} s)"
        if "exit" in t:
            yield (f"command took {t['exit'] - t['ready']:.2f} s "
                   f"(guest {t['exit guest'] - t['ready guest']:.2f} s)")
        yield f"all {time.monotonic() - self.start:.1f} s"

    def kill(self):
        if self.qemu.poll() is None:
            self.qemu.kill()
        self.qemu.wait()

    def log_text(self):
        with open(f"{self.work}/log", "rb") as f:
            return f.read().decode(errors="replace").replace("\r", "")

    def qemu_said(self):
        self.qemu_errors.seek(0)
        return self.qemu_errors.read().decode(errors="replace").strip()


def pipe():
    """Our end and theirs, with room for more than is ever said at once."""
    ours, theirs = os.pipe()
    try:
        fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, 1 << 20)
    except OSError:
        pass  # beyond what an ordinary user may have: 64 KiB do too
    return ours, theirs


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def tail(text, lines=25):
    return "\n".join("    " + l for l in text.splitlines()[-lines:])


def judge(vm, in_time):
    """Says what went wrong, returns the exit status."""
    a, log = vm.a, vm.log_text()
    allowed = klog.read_allowed(f"{TOP}/tests/guest/klog-allow.txt") + a.allow
    # What the time limit made us ask the kernel for is no report of its own.
    judged = log.split("sysrq: ", 1)[0] if not in_time else log
    reports = klog.find(judged, allowed)
    if reports:
        say("the guest's kernel reports:")
        print("\n".join("    " + l for l in klog.around(log, reports).splitlines()), file=sys.stderr)
    where = f"the kernel's log: {a.log_name or a.log}"
    if not in_time:
        what = "the command" if "ready" in vm.times else "the boot"
        say(f"time limit: {what} did not end within {a.timeout:g} s (TIMEOUT= sets the limit); {where}")
        if not reports:
            print(tail(log, 60), file=sys.stderr)
        return TIMED_OUT
    if vm.failed is not None:
        say(f"{vm.failed}; {where}")
        if not reports:
            print(tail(log), file=sys.stderr)
        return NOT_STARTED
    if vm.ended is None:
        said = vm.qemu_said()
        when = "while the command ran" if "ready" in vm.times else "while it booted"
        say(f"the guest ended {when} (QEMU's exit status: {vm.qemu.returncode}); {where}")
        if said:
            print("    QEMU: " + said.replace("\n", "\n    "), file=sys.stderr)
        if reports:
            return REPORTED
        print(tail(log), file=sys.stderr)
        return NOT_STARTED
    if vm.qemu.returncode != 0:
        say(f"QEMU ended with status {vm.qemu.returncode} after the command: {vm.qemu_said()}")
        return vm.ended or NOT_STARTED
    if "reboot: Power down" not in log and a.cmd is not None:
        say(f"the guest did not power down cleanly; {where}")
        return vm.ended or NOT_STARTED
    if reports:
        say(where)
        return REPORTED if a.reports_first else vm.ended or REPORTED
    if not vm.clock_is_right():
        say(f"the guest's clock was wrong: {', '.join(vm.durations())}")
        return vm.ended or NOT_STARTED
    return vm.ended


def interrupted(number, _frame):
    raise KeyboardInterrupt(number)


def main(argv):
    a = parse(argv)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    with open(f"{a.kernel}/release", encoding="ascii") as f:
        release = f.read().strip()
    modules = initramfs.kernel_modules(f"{a.kernel}/image", release, a.modules.split()) if a.modules else []
    size = shutil.get_terminal_size()
    conf = {"CMD": a.cmd or "", "SHELL": int(a.cmd is None), "VFS": a.vfs, "MODARGS": a.modargs, "LOAD": a.load,
            "ROWS": size.lines, "COLS": size.columns}
    status = NOT_STARTED
    clock = tsc.clock()
    with tempfile.TemporaryDirectory(prefix="vfetch-vm-") as work:
        initramfs.make(f"{work}/initramfs", top=TOP, files=a.file, conf=conf, tools=a.tool, module=a.module,
                       modules=modules, qmp=bool(a.qmp), results=bool(a.results))
        # QEMU puts the terminal into raw mode and may not live to undo it.
        terminal = termios.tcgetattr(sys.stdin) if a.cmd is None else None
        vm = Vm(a, work, clock)
        try:
            if a.cmd is None:
                say("a shell in the guest; 'exit' or ctrl-a x ends it")
            in_time = vm.loop()
            if not in_time:
                vm.show_hang()
            vm.kill()
            save_log(vm)
            # ctrl-a x at the shell's prompt is a way to leave, not a failure.
            if a.cmd is None and vm.ended is None and "ready" in vm.times and vm.qemu.returncode == 0:
                vm.ended = 0
            status = judge(vm, in_time)
        except KeyboardInterrupt as e:
            save_log(vm)
            status = 128 + int(e.args[0]) if e.args else INTERRUPTED
            say("interrupted")
        finally:
            vm.kill()
            if terminal:
                termios.tcsetattr(sys.stdin, termios.TCSANOW, terminal)
        if a.time:
            say(", ".join(vm.durations()))
    return status


def save_log(vm):
    os.makedirs(os.path.dirname(vm.a.log), exist_ok=True)
    part = f"{vm.a.log}.{os.getpid()}"
    with open(part, "w", encoding="utf-8") as f:
        f.write(vm.log_text())
    os.replace(part, vm.a.log)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
