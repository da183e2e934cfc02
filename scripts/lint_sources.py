#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0
"""Checks of the sources that no compiler makes: lint_sources.py FILE... prints
what is wrong, one finding a line, and fails when there is any.

- Every source file says its licence in one of its first five lines, the one
  that its place demands.
- `unsafe` and `bindings::` appear in the module's Rust only under rust/sys.
- No path of one machine and no mirror's address is in any file.
- No trailing blanks, no missing newline at the end.
"""

import os
import re
import sys

# Where there is no place for a licence line.
UNLICENSED = ("COPYING", "Cargo.lock", ".md", ".json", ".gz", ".svg")


def wanted_license(path):
    if path.startswith("include/uapi/"):
        return "GPL-2.0 WITH Linux-syscall-note"
    if path.startswith(("rust/engine/", "rust/engine.rs", "tools/")):
        return "GPL-2.0 OR MIT"
    return "GPL-2.0"


def check_license(path, text):
    if path.endswith(UNLICENSED):
        return
    head = "\n".join(text.splitlines()[:5])
    m = re.search(r"SPDX-License-Identifier: *([^*\n]*?) *(?:\*/|-->)?$", head, re.M)
    if not m:
        yield 1, "no SPDX-License-Identifier in the first five lines"
    elif m.group(1) != wanted_license(path):
        yield 1, f"licence '{m.group(1)}' where '{wanted_license(path)}' is due"


# ---- Rust ----

_RAW_STRING = re.compile(r'(?:br|cr|r)(#*)"')
_CHARACTER = re.compile(r"b?'(?:\\(?:x[0-9a-fA-F]{2}|u\{[^}]*\}|.)|[^\\'])'")


def blank_rust(text):
    """`text` with comments, strings and characters blanked out, line by line as
    before: what is left is code."""
    out, i = [], 0

    def skip(end):
        nonlocal i
        out.append(re.sub(r"[^\n]", " ", text[i:end]))
        i = end

    while i < len(text):
        c = text[i]
        before = text[i - 1] if i else " "
        word = before.isalnum() or before == "_"
        if text.startswith("//", i):
            end = text.find("\n", i)
            skip(len(text) if end < 0 else end)
        elif text.startswith("/*", i):
            depth, end = 1, i + 2
            while depth and end < len(text):
                if text.startswith("/*", end):
                    depth, end = depth + 1, end + 2
                elif text.startswith("*/", end):
                    depth, end = depth - 1, end + 2
                else:
                    end += 1
            skip(end)
        elif not word and (m := _RAW_STRING.match(text, i)):
            end = text.find('"' + m.group(1), m.end())
            skip(len(text) if end < 0 else end + 1 + len(m.group(1)))
        elif c == '"':
            end = i + 1
            while end < len(text) and text[end] != '"':
                end += 2 if text[end] == "\\" else 1
            skip(min(end + 1, len(text)))
        elif c == "'" and (m := _CHARACTER.match(text, i)):
            # Anything else that starts so is a lifetime.
            skip(m.end())
        else:
            out.append(c)
            i += 1
    return "".join(out)


def check_unsafe(path, text):
    if not path.endswith(".rs") or not path.startswith("rust/") or re.match(r"rust/sys(/|\.rs$)", path):
        return
    for number, line in enumerate(blank_rust(text).splitlines(), 1):
        if re.search(r"\bunsafe\b", line):
            yield number, "'unsafe' outside rust/sys"
        if re.search(r"\bbindings\b", line):
            yield number, "'bindings' outside rust/sys"


# ---- every file ----

# In pieces, so that this file passes.
_MACHINE = re.compile("|".join((
    "(?<![\\w.])/" + "work/", "(?<![\\w.])/" + "root/", "(?<![\\w.])/" + "home/", "shared/" + "design", "shared/" + "recipes",
    "\\." + "\\./shared", "deb\\." + "debian\\.org", "snapshot\\." + "debian", "brief" + "\\.md",
    r"https?://\d+\.\d+\.\d+\.\d+")))


def check_text(path, text):
    for number, line in enumerate(text.splitlines(), 1):
        if m := _MACHINE.search(line):
            yield number, f"names one machine or mirror: '{m.group(0)}'"
        if line != line.rstrip():
            yield number, "blanks at the end of the line"
    if text and not text.endswith("\n"):
        yield text.count("\n") + 1, "no newline at the end"


def check(path, text):
    for finder in (check_license, check_unsafe) + (() if path in ("COPYING", "Cargo.lock") else (check_text,)):
        yield from finder(path, text)


def main(paths):
    bad = 0
    for path in paths:
        if os.path.islink(path) or not os.path.isfile(path):
            continue
        with open(path, "rb") as f:
            data = f.read()
        if b"\0" in data or path.endswith((".gz", ".png")):
            continue
        for number, what in check(path, data.decode()):
            print(f"{path}:{number}: {what}")
            bad += 1
    return bad > 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
