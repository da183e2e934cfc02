# SPDX-License-Identifier: GPL-2.0
import unittest

import lint_sources

SPDX = "// SPDX-License-Identifier: GPL-2.0\n"


def findings(path, text):
    return [number for number, _ in lint_sources.check(path, text)]


class Unsafe(unittest.TestCase):
    def lines(self, text, path="rust/driver/x.rs"):
        return [number for number, _ in lint_sources.check_unsafe(path, text)]

    def test_finds_every_form(self):
        for code in ("unsafe { x() }", "unsafe fn f() {}", "unsafe impl Send for X {}", "#[unsafe(no_mangle)]",
                     "let x = bindings::EINVAL;", "use kernel::bindings;", "use kernel::{bindings, pci};",
                     "f(unsafe{x})", "/* a */ unsafe { /* b */ }", "let s = \"a\"; unsafe { s }",
                     "let c = '\"'; unsafe { c } // '\"'", "let c = b'\\''; unsafe { c }",
                     "fn f<'a>(x: &'a str) { unsafe { x } }", "r#\"a\" b\"#; unsafe { x }",
                     "let s = \"\\\\\"; unsafe { x }", "br\"x\"; unsafe {}"):
            with self.subTest(code):
                self.assertEqual(self.lines(code), [1])

    def test_passes_over_comments_strings_and_names(self):
        for code in ("// unsafe", "/// `unsafe` is bindings::x", "/* unsafe /* bindings */ unsafe */", "\"unsafe\"",
                     "\"a \\\" unsafe\"", "r\"unsafe\"", "r#\"a\" unsafe\"#", "b\"unsafe\"", "c\"unsafe bindings::\"",
                     "my_unsafe()", "unsafely()", "vf_bindings::x", "\"multi\nunsafe\nline\"", "'\"'; // unsafe"):
            with self.subTest(code):
                self.assertEqual(self.lines(code), [])

    def test_counts_lines_across_comments(self):
        self.assertEqual(self.lines("/* a\nb\n*/\n\"c\nd\"\nunsafe {}\n"), [6])

    def test_sys_may(self):
        for path in ("rust/sys/x.rs", "rust/sys.rs", "rust/sys/a/b.rs"):
            self.assertEqual(self.lines("unsafe {}", path), [])

    def test_neighbours_of_sys_may_not(self):
        for path in ("rust/system.rs", "rust/driver/sys/x.rs", "rust/vfetch_main.rs", "rust/engine/src/lib.rs"):
            self.assertEqual(self.lines("unsafe {}", path), [1])


class License(unittest.TestCase):
    def test_each_place_has_its_own(self):
        self.assertEqual(findings("scripts/x.sh", "#!/bin/sh\n# SPDX-License-Identifier: GPL-2.0\n"), [])
        self.assertEqual(findings("include/x.h", "/* SPDX-License-Identifier: GPL-2.0 */\n"), [])
        self.assertEqual(findings("tools/x.rs", "// SPDX-License-Identifier: GPL-2.0 OR MIT\n"), [])
        self.assertEqual(findings("tools/x.rs", SPDX), [1])
        self.assertEqual(findings("rust/driver/x.rs", "// SPDX-License-Identifier: GPL-2.0 OR MIT\n"), [1])
        self.assertEqual(findings("include/uapi/linux/x.h",
                                  "/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */\n"), [])

    def test_missing_or_late_is_found(self):
        self.assertEqual(findings("scripts/x.sh", "#!/bin/sh\n"), [1])
        self.assertEqual(findings("scripts/x.sh", "\n\n\n\n\n# SPDX-License-Identifier: GPL-2.0\n"), [1])


class Text(unittest.TestCase):
    def test_machine_paths_are_found(self):
        for path in ("/wor" "k/main", "cd /roo" "t/x", "/hom" "e/me", "see sha" "red/design", "http://deb.de" "bian.org/x",
                     "http" "://10.0.0.1/"):
            with self.subTest(path):
                self.assertEqual(findings("scripts/x.sh", f"# SPDX-License-Identifier: GPL-2.0\n{path}\n"), [2])

    def test_other_paths_are_not(self):
        for path in ("HOME=/root PATH", "framework/", "$VFETCH_TOP/work/x", "https://docs.kernel.org/", "127.0.0.1"):
            with self.subTest(path):
                self.assertEqual(findings("scripts/x.sh", f"# SPDX-License-Identifier: GPL-2.0\n{path}\n"), [])

    def test_blanks_and_ends_are_found(self):
        self.assertEqual(findings("a.rs", SPDX + "x \n"), [2])
        self.assertEqual(findings("a.rs", SPDX + "x"), [2])
