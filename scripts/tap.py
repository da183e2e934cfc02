# SPDX-License-Identifier: GPL-2.0
"""Reads what tests print: TAP and KTAP (subtests indented, any depth), and the
output of Rust's libtest.

Strict on purpose: what is missing, out of order or contradicts itself comes
out as a failed test, so that a test program that dies early, forgets its plan
or lies about its subtests cannot pass.
"""

import re
from dataclasses import dataclass, field

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


@dataclass
class Result:
    name: str
    status: str
    reason: str = ""                             # of a skip
    detail: list = field(default_factory=list)   # what the test printed about itself


_VERSION = re.compile(r"(K?TAP) version \d+$")
_PLAN = re.compile(r"1\.\.(\d+)(?:\s*#\s*(.*))?$")
_LINE = re.compile(r"(not ok|ok)\b(.*)$")
_REST = re.compile(r"\s+(?:(\d+)\b)?\s*(?:- )?\s*(.*?)\s*(?:(?<!\\)#\s*(\S+)\s*(.*))?$")


class _Level:
    """One level of nesting: its plan and the tests so far."""

    def __init__(self, indent):
        self.indent, self.planned, self.whole_skip, self.count = indent, None, None, 0
        self.failed = False       # some test of this level failed
        self.results = []         # leaves below here
        self.problems = []
        self.plan_ended = False   # the plan came after tests: nothing may follow

    def finish(self):
        if self.planned is None:
            self.problems.append("no plan (1..N)" if self.count else "no plan and no tests")
        elif self.count != self.planned:
            self.problems.append(f"the plan says {self.planned}, {self.count} reported")
        elif self.planned == 0 and self.whole_skip is None:
            self.problems.append("an empty plan without '# SKIP reason'")


def parse(text):
    """The results of a TAP or KTAP document, leaves only; anything wrong with the
    document itself is a failed result of its own."""
    stack, closed, detail, bail = [_Level(0)], None, [], None
    for raw in text.splitlines():
        body = raw.lstrip(" ")
        indent = len(raw) - len(body)
        body = body.rstrip()
        plan, line = _PLAN.match(body), _LINE.match(body)
        if body.startswith("Bail out!"):
            bail = body[9:].strip() or "no reason"
            break
        if not (plan or line or _VERSION.match(body)):
            detail.append(raw)
            continue
        # Deeper than the current level: a subtest begins. Shallower: it ends, and the
        # line that ends it has to be its parent's result.
        if indent > stack[-1].indent:
            stack.append(_Level(indent))
        while indent < stack[-1].indent:
            if closed is not None:
                stack[-1].problems += [f"a subtest without a result: {p}" for p in (closed.problems or ["unnamed"])]
                stack[-1].results += closed.results
            closed = stack.pop()
            closed.finish()
            if indent > stack[-1].indent:
                stack.append(_Level(indent))
                break
        top = stack[-1]
        if plan:
            if closed is not None:
                top.problems.append("a subtest without a result of its own")
                top.results += closed.results
                top.failed = True
                closed = None
            if top.planned is not None:
                top.problems.append("more than one plan")
            top.planned = int(plan.group(1))
            top.plan_ended = top.count > 0
            comment = plan.group(2) or ""
            if top.planned == 0 and comment.upper().startswith("SKIP"):
                top.whole_skip = comment[4:].strip()
        elif line:
            _result(top, line, closed, detail)
            closed, detail = None, []
    while len(stack) > 1:
        level = stack.pop()
        level.finish()
        stack[-1].results += level.results
        stack[-1].problems += [f"a subtest without an end: {p}" for p in level.problems] or ["a subtest without an end"]
    top = stack[0]
    if closed is not None:
        top.results += closed.results
        top.problems += [f"subtest: {p}" for p in closed.problems] + ["a subtest without a result of its own"]
    top.finish()
    if bail is not None:
        top.problems.insert(0, f"bailed out: {bail}")
    results = top.results
    if top.whole_skip is not None and not results and not top.problems:
        results = [Result("(all)", SKIPPED, top.whole_skip)]
    if top.problems:
        results.append(Result("(report)", FAILED, detail=top.problems + detail[-20:]))
    return results


def _result(level, line, sub, detail):
    """One 'ok' or 'not ok' line; `sub`: the subtest that it ends."""
    level.count += 1
    rest = _REST.match(line.group(2)) if line.group(2) else None
    number, name, directive, reason = rest.groups() if rest else (None, "", None, None)
    name = (name or f"test {level.count}").replace("\\#", "#")
    problems = []
    if line.group(2) and not rest:
        problems.append(f"malformed: {line.group(0)}")
    if number is not None and int(number) != level.count:
        problems.append(f"number {number} where {level.count} was expected")
    if level.plan_ended:
        problems.append("comes after the plan that ended the tests")
    passed = line.group(1) == "ok"
    skipped = directive is not None and directive.upper() == "SKIP"
    if sub is not None:
        problems += sub.problems
        if passed and sub.failed:
            problems.append("says ok although a subtest failed")
        for r in sub.results:
            r.name = f"{name}: {r.name}"
        level.results += sub.results
        if sub.whole_skip is not None and not sub.results:
            level.results.append(Result(name, SKIPPED, sub.whole_skip))
        if not passed and not sub.failed:
            problems.append("says not ok although no subtest failed")
        if problems:
            level.results.append(Result(name, FAILED, detail=problems))
        if problems or not passed:
            level.failed = True
        return
    if problems:
        level.results.append(Result(name, FAILED, detail=problems + detail))
        level.failed = True
    elif skipped and passed:
        level.results.append(Result(name, SKIPPED, reason or ""))
    elif passed:
        level.results.append(Result(name, PASSED))
    else:
        level.results.append(Result(name, FAILED, detail=detail))
        level.failed = True


# ---- libtest ----

_RUNNING = re.compile(r"running (\d+) tests?$")
_TEST = re.compile(r"test (.+?) \.\.\. (?:(ok|FAILED)|ignored(?:, (.*))?)(?: <[\d.]+s>)?$")
_TOTAL = re.compile(r"test result: (ok|FAILED)\. (\d+) passed; (\d+) failed; (\d+) ignored;")
_BINARY = re.compile(r"\s+(?:Running (?:unittests |)(\S+)|Doc-tests (\S+))")
_OUTPUT = re.compile(r"---- (.+?) stdout ----$")


def parse_libtest(text):
    """The results in the output of `cargo test` (stdout and stderr together)."""
    results, where, running, seen = [], "", None, []
    by_name, showing = {}, None

    def check(total):
        nonlocal running, seen
        counts = [sum(r.status == s for r in seen) for s in (PASSED, FAILED, SKIPPED)]
        if running is None or running != len(seen) or (total and [int(n) for n in total.groups()[1:]] != counts):
            said = "nothing" if total is None else total.group(0)
            results.append(Result(f"{where} (report)", FAILED,
                                  detail=[f"running {running} tests, {len(seen)} results, total: {said}"]))
        running, seen = None, []

    for line in text.splitlines():
        m = _BINARY.match(line)
        if m:
            where = (m.group(1) or f"doc {m.group(2)}")
        elif m := _RUNNING.match(line):
            if running is not None:
                check(None)
            running, showing = int(m.group(1)), None
        elif (m := _TEST.match(line)) and running is not None:
            name, status, reason = m.groups()
            r = Result(f"{where} {name}".strip(), {"ok": PASSED, "FAILED": FAILED}.get(status, SKIPPED), reason or "")
            seen.append(r)
            results.append(r)
            by_name[name] = r
        elif m := _OUTPUT.match(line):
            showing = by_name.get(m.group(1))
        elif m := _TOTAL.match(line):
            check(m)
            showing = None
        elif showing is not None:
            if line == "failures:":
                showing = None
            else:
                showing.detail.append(line)
    if running is not None:
        check(None)
    return results
