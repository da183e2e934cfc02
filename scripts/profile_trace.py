#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Tables of where the instructions of an operation go, from a trace.

profile_trace.py FOLDER [--top N] [--tree] [--json FILE]

FOLDER is what scripts/profile.sh left: 'trace' (written by qemu/profile/trace.c),
'said' (the guest's output: what the sections were, then /proc/kallsyms) and
'probe.nm'. A table of each section is printed and written to FOLDER/*.txt.

A block's instructions are those of the function it lies in (*self*), and they
are *in* every function on the stack at that time. The stack is followed by the
stack pointer alone: a call makes it smaller, and it is greater than it was at
a function's entry only when that function has returned. A block belongs to the
group of the innermost function that has one; so a lock taken by the driver is
the driver's, the same lock taken by the scheduler is the scheduler's.
"""

import argparse
import bisect
import collections
import json
import os
import re
import struct
import subprocess
import sys

PAGES = {4096: "4k", 65536: "64k", 1 << 20: "1m"}

# Groups in the order in which they are printed, with the functions (regular
# expressions, matched as a whole) that make a block and what it calls belong.
GROUPS = [
    ("user space", None),
    ("system call", r"entry_SYSCALL_64.*|do_syscall_64|x64_sys_call|syscall_(enter|exit)_.*|exit_to_user_mode.*|"
                    r"__x64_sys_getppid|syscall_return_via_sysret"),
    ("VFS", r"__x64_sys_p?(read|write)(64)?|ksys_\w+|vfs_(read|write)\w*|rw_verify_area|security_file_\w+|"
            r"__fsnotify\w*|fdget\w*|fput\w*|file_update_time\w*|inode_.*|read_iter_zero|shmem_file_read_iter"),
    ("driver, calling thread", None),
    ("driver, interrupt thread", None),
    ("driver, hard interrupt", None),
    ("driver, polling for completion", None),
    ("pinning of user pages", r"iov_iter_extract_.*|p?in_user_pages.*|pin_user_\w*|internal_get_user_pages.*|"
                              r"gup_.*|unpin_.*|sanity_check_pinned_pages|import_(ubuf|iovec|single_range)\w*"),
    ("DMA mapping", r"dma_(un)?map_.*|dma_direct_.*|dma_pool_.*|dma_alloc_.*|dma_free_.*|sg_alloc_.*|sg_free_.*|__sg_\w+|sg_\w+|"
                    r"iommu_.*|intel_iommu_.*|swiotlb_.*|debug_dma_.*"),
    ("allocation", r"__?kmalloc.*|kfree|kvfree.*|kmem_cache_.*|krealloc.*|__kvmalloc.*|__alloc_pages.*|__free_pages.*|"
                   r"alloc_pages.*|rust_helper_k(re|v)?alloc.*|kvrealloc.*|vrealloc.*"),
    ("waking up", r"try_to_wake_up|wake_up_.*|default_wake_function|__wake_up.*|complete|swake_up_.*|autoremove_wake_function|"
                  r"__swake_up.*|woken_wake_function|complete_all|complete_with_flags"),
    ("waiting", r"prepare_to_(wait|swait)\w*|finish_s?wait|wait_for_completion.*|schedule_timeout.*|wait_woken|"
                r"__wait_for_common|init_wait_entry|prepare_to_wait_event|schedule_hrtimeout.*|schedule_preempt_disabled"),
    ("scheduler", r"schedule|__schedule|preempt_schedule.*|__cond_resched|schedule_idle|finish_task_switch.*|"
                  r"ret_from_fork.*|__switch_to.*|switch_mm.*|context_switch"),
    ("idle", r"do_idle|cpu_startup_entry|cpuidle_.*|tick_nohz_.*|default_idle.*|arch_cpu_idle.*|rcu_nocb_flush_deferred_wakeup|"
             r"pv_native_safe_halt|call_cpuidle|ct_idle_.*|start_secondary|rest_init|default_enter_idle"),
    ("hard interrupt", r"asm_common_interrupt|common_interrupt|__common_interrupt|handle_edge_irq|handle_fasteoi_irq|"
                       r"__handle_irq_event_percpu|handle_irq_event.*|irq_enter.*|irq_exit.*|__irq_exit_rcu|asm_.*|error_entry|"
                       r"irqentry_.*|error_return|apic_ack_.*|restore_regs_and_return_to_kernel|swapgs_restore_.*|common_interrupt_return"),
    ("interrupt thread", r"irq_thread|irq_thread_fn|irq_forced_thread_fn|irq_finalize_oneshot.*|__irq_wake_thread|kthread|"
                         r"irq_thread_check_affinity|irq_wait_for_interrupt.*"),
    ("timer", r"(__)?(asm_)?sysvec_apic_timer_interrupt|hrtimer_interrupt|tick_.*|update_process_times|run_timer_.*|hrtimer_run_queues"),
    ("soft interrupts, RCU", r"handle_softirqs|__do_softirq|do_softirq.*|rcu_core.*|invoke_rcu_core|rcu_gp_.*|run_ksoftirqd|"
                             r"rcu_sched_clock_irq"),
    ("work queues", r"process_one_work|worker_thread|queue_work_on|__queue_work.*|kick_pool|queue_delayed_work_on|mod_delayed_work_on|"
                    r"process_scheduled_works"),
    ("device registers", None),
    ("other", None),
]
ORDER = {name: i for i, (name, _) in enumerate(GROUPS)}
DRIVER = ("driver, calling thread", "driver, interrupt thread", "driver, hard interrupt")
POLLING = "driver, polling for completion"
# Which functions of the driver wait for a completion by looking for it.
POLLS = re.compile(r".*queue::Slot\b.*::(wait(_with)?|spin)\b.*")
USER_LIMIT = 1 << 63


def group_of(function, module):
    """The group that a kernel function brings, or None: its caller's."""
    if module == "vfetch":
        return "driver"
    for name, pattern in COMPILED:
        if pattern.fullmatch(function):
            return name
    return None


# Later groups first: 'asm_sysvec_apic_timer_interrupt' is the timer's, not any interrupt's.
COMPILED = [(name, re.compile(pattern)) for name, pattern in reversed(GROUPS) if pattern]


class Symbols:
    """Function names by address."""

    def __init__(self, kallsyms, nm):
        found = {}
        for line in kallsyms:
            address, _, rest = line.split(" ", 2)
            name, _, module = rest.strip().partition("\t")
            if not name.startswith("__pfx_"):
                # Of several names of one address the global one, or the first.
                found.setdefault(int(address, 16), (name, module.strip("[]")))
        for line in nm:
            m = re.match(r"([0-9a-f]{8,}) [tTwWi] (.*)", line)
            if m:
                found.setdefault(int(m.group(1), 16), (m.group(2), "user"))
        self.module = [(name, a) for a, (name, module) in found.items() if module == "vfetch"]
        self.addresses = sorted(found)
        names = demangle([found[a][0] for a in self.addresses])
        self.names = [(n, found[a][1]) for n, a in zip(names, self.addresses)]
        self.cache = {}

    def __call__(self, pc):
        """(name, module) of the function that pc is in."""
        if pc not in self.cache:
            i = bisect.bisect_right(self.addresses, pc) - 1
            far = i < 0 or (pc < USER_LIMIT) != (self.addresses[i] < USER_LIMIT)
            self.cache[pc] = ("another program" if pc < USER_LIMIT else hex(pc), "") if far else self.names[i]
        return self.cache[pc]


def demangle(names):
    """Readable names for Rust's mangled ones, without what only tells crates apart."""
    mangled = [n for n in names if n.startswith("_R")]
    if not mangled:
        return names
    said = subprocess.run(["c++filt"], input="\n".join(mangled), text=True, capture_output=True, check=True).stdout
    plain = dict(zip(mangled, (shorten(s) for s in said.splitlines())))
    return [plain.get(n, n) for n in names]


def shorten(name):
    name = re.sub(r"\[[0-9a-f]{12,}\]", "", name)
    name = re.sub(r"::\{closure#(\d+)\}", "::{\\1}", name)
    return name.replace("vfetch_main::", "").replace("vfetch::", "")


class Section:
    """What was executed between two markers."""

    def __init__(self):
        self.self_ = collections.Counter()      # by function
        self.in_ = collections.Counter()        # by function, with all it calls
        self.groups = collections.Counter()     # by group
        self.by_group = collections.Counter()   # by (group, function)
        self.edges = collections.Counter()      # by (caller, function): entries
        self.blocks = collections.Counter()     # the module's own, by (address, instructions): entries
        self.total = 0


class Stacks:
    """Follows the stack pointer. A frame is (stack pointer at entry, function, group, set of functions)."""

    def __init__(self, symbols):
        self.symbols = symbols
        self.stacks = {}
        self.brings = {}

    def frame(self, pc, sp):
        user = pc < USER_LIMIT
        # A kernel stack is 16 KiB, aligned; user stacks are never followed.
        key = -1 if user else sp >> 14
        stack = self.stacks.setdefault(key, [])
        while stack and stack[-1][0] < sp:
            stack.pop()
        function = self.symbols(pc)
        if user:
            stack.clear()
        elif stack and stack[-1][1] == function:
            return stack[-1], False
        elif stack and stack[-1][0] == sp:
            stack.pop()     # a jump into another function
        if stack and stack[-1][1] == function:
            return stack[-1], False
        above = stack[-1] if stack else None
        group = "user space" if user else self.group(function, above)
        functions = (above[3] if above else frozenset()) | {function}
        stack.append((sp, function, group, functions, above[1] if above else None))
        return stack[-1], True

    def group(self, function, above):
        if function not in self.brings:
            self.brings[function] = group_of(*function)
        own, outer = self.brings[function], above[2] if above else None
        if own == "driver" and outer == POLLING or own == "driver" and POLLS.fullmatch(function[0]):
            return POLLING
        if own == "driver":
            context = DRIVER[0]
            if above:
                if outer == "driver, interrupt thread" or any(f[0] in ("irq_thread", "irq_thread_fn", "kthread") for f in above[3]):
                    context = DRIVER[1]
                elif outer == DRIVER[2] or any(f[0] in ("__handle_irq_event_percpu", "handle_edge_irq") for f in above[3]):
                    context = DRIVER[2]
            return context
        # The interrupt's way back through the scheduler, a timer's wake-up, … stay what they
        # are named; a tick in the idle loop is idle's.
        if outer == "idle" and own == "timer" and function[0].startswith("tick_"):
            return "idle"
        return own or outer or "other"


def read(path, symbols):
    """The sections of a trace."""
    sections, now = [], Section()
    stacks = Stacks(symbols)
    blocks = collections.Counter()
    with open(path, "rb") as f:
        data = f.read()
    for pc, sp, n in struct.iter_unpack("<3Q", data):
        if pc == 0:
            now.total = n
            for frame, count in blocks.items():
                _, function, group, functions, _ = frame
                now.self_[function] += count
                now.groups[group] += count
                now.by_group[group, function] += count
                for name in functions:
                    now.in_[name] += count
            sections.append(now)
            now, blocks = Section(), collections.Counter()
            stacks.stacks.clear()
            continue
        frame, entered = stacks.frame(pc, sp)
        blocks[frame] += n
        if frame[1][1] == "vfetch":
            now.blocks[pc, n] += 1
        if entered:
            now.edges[frame[4], frame[1]] += 1
    return sections


class Lines:
    """Source lines of the module's instructions, by their address in the guest."""

    def __init__(self, module, symbols):
        """module: vfetch.ko with its debug information. Raises ValueError when
        it is not the one that was loaded."""
        self.module = module
        nm = subprocess.run(["nm", module], text=True, capture_output=True, check=True).stdout
        offsets = {}
        for line in nm.splitlines():
            m = re.match(r"([0-9a-f]+) [tT] (.*)", line)
            if m:
                offsets.setdefault(m.group(2), int(m.group(1), 16))
        self.base = None
        wrong = 0
        for name, address in symbols.module:
            if name in offsets and "init" not in name and "exit" not in name and "cleanup" not in name:
                base = address - offsets[name]
                if self.base is None:
                    self.base = base
                wrong += base != self.base
        if self.base is None or wrong > 2:
            raise ValueError(f"{module} is not the module that was loaded")
        code = subprocess.run(["objdump", "-d", "--no-show-raw-insn", "-j", ".text", module], text=True, capture_output=True,
                              check=True).stdout
        self.code = [int(m.group(1), 16) for m in re.finditer(r"^ +([0-9a-f]+):\t", code, re.M)]
        self.known = {}

    def count(self, blocks):
        """Instructions by (file:line, function) of the innermost call that is of the project's own source."""
        by_address = collections.Counter()
        for (pc, n), times in blocks.items():
            at = bisect.bisect_left(self.code, pc - self.base)
            for address in self.code[at:at + n]:
                by_address[address] += times
        self.learn(sorted(set(by_address) - set(self.known)))
        lines = collections.Counter()
        for address, times in by_address.items():
            lines[self.known[address]] += times
        return lines

    def learn(self, addresses):
        if not addresses:
            return
        asked = "\n".join(hex(a) for a in addresses) + "\n"
        said = subprocess.run(["addr2line", "-e", self.module, "-j", ".text", "-a", "-i", "-f", "-C"], input=asked, text=True,
                              capture_output=True, check=True).stdout
        for answer in re.split(r"^0x", said, flags=re.M)[1:]:
            rows = answer.splitlines()
            calls = list(zip(rows[1::2], rows[2::2]))
            own = [c for c in calls if re.search(r"/rust/(driver|sys|engine)/", c[1]) and "/tree/rust/" not in c[1]] or calls[-1:]
            where = re.sub(r"^.*/(rust/(?=driver/|sys/|engine/)|library/)", "", own[0][1]).split(" ")[0]
            self.known[int(rows[0], 16)] = (where, shorten(own[0][0]))


def label(function):
    name, module = function
    if module == "vfetch":
        return f"[vfetch] {name}"
    return f"[user] {name}" if module == "user" else name


def clip(text, width):
    return text if len(text) <= width else text[: width - 1] + "…"


def table(what, section, count, top, tree, lines):
    """The table of a section, per operation, as lines."""
    total = sum(section.self_.values())
    ns = what["ns"] / count
    yield (f"{title(what)}: {section.total / count:,.0f} instructions an operation, "
           f"{ns:,.0f} ns of virtual time, mean of {count}")
    if total < 0.999 * section.total:
        yield f"  ({section.total - total:,} of {section.total:,} instructions could not be placed)"
    yield ""
    yield f"  {'group':<60} {'instr.':>8}  {'share':>5}"
    for name, _ in GROUPS:
        if section.groups[name]:
            yield f"  {name:<60} {section.groups[name] / count:>8,.1f}  {section.groups[name] / total:>5.0%}"
    yield ""
    yield f"  {'function':<60} {'self':>8} {'with callees':>13} {'calls':>7}"
    entries = collections.Counter()
    for (_, function), n in section.edges.items():
        entries[function] += n
    for function, n in section.self_.most_common(top):
        yield (f"  {clip(label(function), 60):<60} {n / count:>8,.1f} {section.in_[function] / count:>13,.1f} "
               f"{entries[function] / count:>7.2f}")
    yield ""
    yield "  by group"
    for name, _ in GROUPS:
        rows = [(n, f) for (g, f), n in section.by_group.items() if g == name]
        if not rows or name == "user space":
            continue
        yield f"  {name}: {section.groups[name] / count:,.1f}"
        for n, f in sorted(rows, key=lambda r: (-r[0], r[1]))[:max(8, top // 2)]:
            if n / count >= 1:
                yield f"    {clip(label(f), 58):<58} {n / count:>8,.1f}"
    rows = sorted(lines.count(section.blocks).items(), key=lambda r: (-r[1], r[0])) if lines else []
    if rows:
        yield ""
        yield f"  {'line of the module':<30} {'instr.':>8}  of (inlined calls are resolved)"
    for (where, function), n in rows[:top]:
        yield f"  {where:<30} {n / count:>8,.1f}  {clip(function, 60)}"
    by_function = collections.Counter()
    for (_, function), n in rows:
        by_function[function] += n
    if rows:
        yield ""
        yield f"  {'function of the module, before inlining':<80} {'instr.':>8}"
    for function, n in by_function.most_common(top):
        yield f"  {clip(function, 80):<80} {n / count:>8,.1f}"
    if tree:
        yield ""
        yield "  calls an operation, most instructions first"
        rows = sorted(section.edges.items(), key=lambda e: (-section.in_[e[0][1]], -e[1]))
        for (caller, function), n in rows:
            if n / count >= 0.5 and caller:
                yield f"    {n / count:>7.2f}  {clip(label(caller), 50)} -> {clip(label(function), 50)}"


def title(what):
    size = PAGES.get(what["bytes"], str(what["bytes"]) if what["bytes"] else "")
    return f"{what['section']} {size}".strip()


def load_trace(folder, kallsyms):
    """The symbols, the sections, and the module's source lines or None."""
    with open(f"{folder}/probe.nm", encoding="utf-8") as f:
        symbols = Symbols(kallsyms, f.readlines())
    sections = read(f"{folder}/trace", symbols)
    try:
        lines = Lines(f"{folder}/vfetch.ko", symbols)
    except (ValueError, subprocess.CalledProcessError) as e:
        print(f"profile: no source lines: {e}", file=sys.stderr)
        lines = None
    return symbols, sections, lines


def load(folder):
    """(what each section was, the sections, the source lines)."""
    whats, kallsyms = [], []
    with open(f"{folder}/said", encoding="utf-8") as f:
        for line in f:
            if line.startswith("{"):
                whats.append(json.loads(line))
            elif line.strip() == "kallsyms":
                kallsyms = f.readlines()
    _, sections, lines = load_trace(folder, kallsyms)
    if len(sections) != len(whats):
        raise SystemExit(f"profile: {len(whats)} sections were run, the trace has {len(sections)}")
    return whats, sections, lines


def main(argv):
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("folder")
    p.add_argument("--top", type=int, default=30)
    p.add_argument("--tree", action="store_true")
    a = p.parse_args(argv)
    whats, sections, lines = load(a.folder)
    for what, section in zip(whats, sections):
        text = "\n".join(table(what, section, what["count"], a.top, a.tree, lines)) + "\n"
        path = f"{a.folder}/{title(what).replace(' ', '-')}.txt"
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        print(text)
        print(f"  ({os.path.relpath(path)})\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
