# SPDX-License-Identifier: GPL-2.0
"""Judges a guest's kernel log: which lines report a defect."""

import re

# What the kernel prints when something is wrong. Each is a regular expression
# that is searched for in a line.
REPORTS = [
    r"\bBUG\b",
    r"\bWARNING\b: ",
    r"\bOops\b",
    r"Kernel panic",
    r"general protection",
    r"double fault",
    r"\bKASAN: ",
    r"\bKFENCE: ",
    r"\bUBSAN: ",
    r"unchecked MSR",
    r"blocked for more than \d+ seconds",
    r"blocked in I/O wait for more than",
    r"soft lockup",
    r"hard LOCKUP",
    r"detected stalls?\b|self-detected stall|detected expedited stalls",
    r"workqueue lockup",
    r"possible (recursive|circular|irq|deadlock)",
    r"inconsistent lock state",
    r"suspicious RCU usage",
    r"trying to register non-static key",
    r"held lock freed|lock held when returning to user space|bad unlock balance",
    r"DEBUG_LOCKS_WARN_ON",
    r"sleeping function called from invalid context",
    r"scheduling while atomic",
    r"DMA-API: .*(error|without|leak|not allocated|pending|mismatch|overlap|abort|check)",
    r"kmemleak: .*suspected memory leak|unreferenced object 0x",
    r"refcount_t: ",
    r"list_(add|del) corruption",
    r"ODEBUG: ",
    r"Bad page (state|map)",
    r"Bad rss-counter",
    r"non-zero pgtables_bytes on freeing mm",
    r"Objects remaining in ",
    r"rust_kernel: panicked",
    r"cut here",
    r"Call Trace:",
    r"irq \d+: nobody cared",
    r"DMAR: \[.*\] .*[Ff]ault|DMAR: DRHD: handling fault status",
    r"segfault at|traps: .* (general|trap)",
    r"Out of memory: Killed",
]
_REPORT = re.compile("|".join(f"(?:{r})" for r in REPORTS))


def read_allowed(path):
    """The allow list: a regular expression a line, each under a comment that
    says why. An expression without a reason is refused."""
    allowed, reason = [], False
    with open(path, encoding="utf-8") as f:
        for number, line in enumerate(f, 1):
            line = line.strip()
            if line.startswith("#"):
                reason = not line.startswith("# SPDX")
            elif not line:
                reason = False
            elif not reason:
                raise SystemExit(f"{path}:{number}: no reason is given above '{line}'")
            else:
                allowed.append(line)
    return allowed


# Reports of several lines: how the first and the last one are known. A warning, a
# report of lockdep, and an object that kmemleak lists (which ends before the next).
_BLOCKS = [
    (re.compile(r"\[ cut here \]"), re.compile(r"---\[ end trace")),
    (re.compile(r"WARNING: possible (circular|recursive|irq) lock|inconsistent lock state"), re.compile(r"</TASK>")),
]
_LEAK = re.compile(r"kmemleak: unreferenced object 0x")
_LEAKS = re.compile(r"kmemleak: \d+ new suspected memory leak")


def find(log, allowed=()):
    """The lines of `log` that report a defect and that nothing in `allowed`
    covers. An expression that fits a line of a report of several lines covers all of it."""
    ok = re.compile("|".join(f"(?:{r})" for r in allowed)) if allowed else None
    found = []
    # That there are leaks says nothing more where each of them is listed.
    listed = _LEAK.search(log) is not None
    for block in _blocks(log.splitlines()):
        if not (ok and any(ok.search(line) for line in block)):
            found += [line for line in block if _REPORT.search(line) and not (listed and _LEAKS.search(line))]
    return found


def _blocks(lines):
    """`lines` one by one, and those of a report together."""
    block, end = None, None
    for line in lines:
        if end is _LEAK and (_LEAK.search(line) or "kmemleak: " not in line):
            yield block
            block, end = None, None
        started = next((last for first, last in _BLOCKS if first.search(line)), None)
        if started or (end is None and _LEAK.search(line)):
            for earlier in block or ():
                yield [earlier]
            block, end = [line], started or _LEAK
        elif block is None:
            yield [line]
        else:
            block.append(line)
            if end is not _LEAK and end.search(line):
                yield block
                block, end = None, None
    if end is _LEAK:
        yield block
        block = None
    # One without an end covers nothing but itself.
    for line in block or ():
        yield [line]


def around(log, lines, before=3, after=40, limit=150):
    """The part of the log that shows the reports `lines`: from a little before
    the first one on."""
    every = log.splitlines()
    keep = set()
    for i, l in enumerate(every):
        if l in lines:
            keep.update(range(max(0, i - before), min(len(every), i + after)))
    out, last = [], -1
    for i in sorted(keep):
        if last >= 0 and i != last + 1:
            out.append("…")
        out.append(every[i])
        last = i
    if len(out) > limit:
        out = out[:limit] + [f"… ({len(out) - limit} more lines)"]
    return "\n".join(out)
