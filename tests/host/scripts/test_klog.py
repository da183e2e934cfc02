# SPDX-License-Identifier: GPL-2.0
import os
import tempfile
import unittest

import klog

DEFECTS = """\
[    1.0] BUG: kernel NULL pointer dereference, address: 0000000000000010
[    1.0] kernel BUG at mm/slub.c:1!
[    1.0] WARNING: CPU: 0 PID: 1 at kernel/x.c:1 f+0x1/0x2
[    1.0] WARNING: possible circular locking dependency detected
[    1.0] Oops: general protection fault, probably for non-canonical address 0xdead: 0000 [#1] SMP
[    1.0] Kernel panic - not syncing: sysrq triggered crash
[    1.0] BUG: KASAN: slab-use-after-free in f+0x1/0x2
[    1.0] INFO: task sh:1 blocked for more than 60 seconds.
[    1.0] unchecked MSR access error: RDMSR from 0x10
[    1.0] watchdog: BUG: soft lockup - CPU#0 stuck for 22s!
[    1.0] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:
[    1.0] DMA-API: pci 0000:01:00.0: device driver failed to check map error
[    1.0] kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)
[    1.0] refcount_t: underflow; use-after-free.
[    1.0] list_del corruption, ffff->next is LIST_POISON1
[    1.0] UBSAN: array-index-out-of-bounds in x.c:1:2
[    1.0] BUG: sleeping function called from invalid context at x.c:1
[    1.0] rust_kernel: panicked at x.rs:1:2:
[    1.0] DMAR: [DMA Read NO_PASID] Request device [01:00.0] fault addr 0x0 [fault reason 0x06]
[    1.0] WARNING: suspicious RCU usage
[    1.0] BUG: workqueue lockup - pool cpus=0
[    1.0] irq 16: nobody cared (try booting with the "irqpoll" option)
""".splitlines()

HARMLESS = """\
[    0.1] PCI: Using host bridge windows from ACPI; if necessary, use "pci=nocrs" and report a bug
[    0.1] RAS: Correctable Errors collector initialized.
[    0.1] vfetch: loading out-of-tree module taints kernel.
[    0.1] debug: something debugging, rebuggable
[    0.1] DMA-API: preallocated 65536 debug entries
[    0.1] DMA-API: debugging enabled by kernel config
[    0.1] kmemleak: Kernel memory leak detector initialized (mem pool available: 15000)
[    0.1] DMAR: Host address width 39
[    0.1] rcu: RCU lockdep checking is enabled.
""".splitlines()


class Find(unittest.TestCase):
    def test_every_defect_is_found(self):
        for line in DEFECTS:
            with self.subTest(line):
                self.assertEqual(klog.find(line), [line])

    def test_harmless_lines_are_not(self):
        self.assertEqual(klog.find("\n".join(HARMLESS)), [])

    def test_allowed_line_is_passed_over_and_no_other(self):
        log = "\n".join(DEFECTS)
        self.assertEqual(klog.find(log, [r"DMAR: \[DMA Read"]), [l for l in DEFECTS if "DMAR" not in l])

    WARNING = ["[ 1.0] ------------[ cut here ]------------", "[ 1.0] known trouble", "[ 1.0] WARNING: x.c:1 at f+0x1/0x2",
               "[ 1.0] Call Trace:", "[ 1.0] ---[ end trace 0000000000000000 ]---"]

    def test_what_fits_one_line_of_a_warning_covers_all_of_it(self):
        self.assertEqual(klog.find("\n".join(self.WARNING), ["known trouble"]), [])
        self.assertEqual(len(klog.find("\n".join(self.WARNING), ["other trouble"])), 3)

    def test_and_nothing_after_it(self):
        self.assertEqual(klog.find("\n".join(self.WARNING + DEFECTS[:1]), ["known trouble"]), DEFECTS[:1])

    def test_a_warning_without_an_end_covers_only_its_line(self):
        log = "\n".join(self.WARNING[:-1] + DEFECTS[:1])
        self.assertEqual(len(klog.find(log, ["known trouble"])), 4)
        log = "\n".join(self.WARNING[:-1] + ["[ 2.0] ------------[ cut here ]------------"] + DEFECTS[:1])
        self.assertEqual(len(klog.find(log, ["known trouble"])), 5)

    LOCKDEP = ["[ 1.0] WARNING: possible circular locking dependency detected", "[ 1.0]        someone_locks+0x1/0x2",
               "[ 1.0] stack backtrace:", "[ 1.0] Call Trace:", "[ 1.0]  <TASK>", "[ 1.0]  </TASK>"]

    def test_what_fits_one_line_of_lockdeps_report_covers_all_of_it(self):
        log = "\n".join(self.LOCKDEP + DEFECTS[:1])
        self.assertEqual(klog.find(log, ["someone_locks"]), DEFECTS[:1])
        self.assertEqual(len(klog.find(log, ["someone_else"])), 3)

    LEAKS = ["[ 1.0] kmemleak: 2 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
             "[ 2.0] kmemleak: unreferenced object 0xffff888000000000 (size 64):", "[ 2.0] kmemleak: known_leak+0x1/0x2",
             "[ 2.0] kmemleak: unreferenced object 0xffff888000000040 (size 64):", "[ 2.0] kmemleak: ours+0x1/0x2"]

    def test_each_leak_is_a_report_of_its_own(self):
        log = "\n".join(self.LEAKS)
        self.assertEqual(klog.find(log), [self.LEAKS[1], self.LEAKS[3]])
        self.assertEqual(klog.find(log, ["known_leak"]), [self.LEAKS[3]])
        self.assertEqual(klog.find(log, ["known_leak", "ours"]), [])
        self.assertEqual(klog.find("\n".join(self.LEAKS + DEFECTS[:1]), ["known_leak", "ours"]), DEFECTS[:1])

    def test_leaks_that_are_not_listed_are_reported(self):
        self.assertEqual(klog.find(self.LEAKS[0], ["known_leak"]), self.LEAKS[:1])

    def test_around_shows_what_follows(self):
        log = "\n".join(["before"] * 10 + [DEFECTS[0]] + ["trace"] * 3)
        shown = klog.around(log, klog.find(log)).splitlines()
        self.assertEqual(shown, ["before"] * 3 + [DEFECTS[0]] + ["trace"] * 3)


class Allowed(unittest.TestCase):
    def read(self, text):
        with tempfile.TemporaryDirectory() as d:
            path = os.path.join(d, "list")
            with open(path, "w", encoding="utf-8") as f:
                f.write(text)
            return klog.read_allowed(path)

    def test_reads_expressions_with_reasons(self):
        self.assertEqual(self.read("# SPDX-License-Identifier: x\n\n# why\na.b\nc\n"), ["a.b", "c"])

    def test_no_reason_is_refused(self):
        for text in ("a\n", "# why\na\n\nb\n", "# SPDX-License-Identifier: x\na\n"):
            with self.subTest(text), self.assertRaises(SystemExit):
                self.read(text)
