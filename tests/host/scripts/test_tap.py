# SPDX-License-Identifier: GPL-2.0
import unittest

import tap


def counts(text, parse=tap.parse):
    results = parse(text)
    return tuple(sum(r.status == s for r in results) for s in (tap.PASSED, tap.FAILED, tap.SKIPPED))


class Flat(unittest.TestCase):
    def test_all_pass(self):
        self.assertEqual(counts("TAP version 14\n1..2\nok 1 - a\nok 2 - b\n"), (2, 0, 0))

    def test_plan_at_the_end(self):
        self.assertEqual(counts("ok 1 a\nok 2 b\n1..2\n"), (2, 0, 0))

    def test_not_ok_fails(self):
        self.assertEqual(counts("1..2\nok 1 a\nnot ok 2 b\n"), (1, 1, 0))

    def test_nothing_fails(self):
        self.assertEqual(counts(""), (0, 1, 0))
        self.assertEqual(counts("hello\n"), (0, 1, 0))

    def test_missing_plan_fails(self):
        self.assertEqual(counts("ok 1 a\n"), (1, 1, 0))

    def test_too_few_fail(self):
        self.assertEqual(counts("1..3\nok 1 a\nok 2 b\n"), (2, 1, 0))

    def test_too_many_fail(self):
        self.assertEqual(counts("1..1\nok 1 a\nok 2 b\n"), (2, 1, 0))

    def test_wrong_number_fails(self):
        self.assertEqual(counts("1..2\nok 1 a\nok 3 b\n"), (1, 1, 0))

    def test_repeated_number_fails(self):
        self.assertEqual(counts("1..2\nok 1 a\nok 1 b\n"), (1, 1, 0))

    def test_two_plans_fail(self):
        self.assertEqual(counts("1..1\nok 1 a\n1..1\n"), (1, 1, 0))

    def test_test_after_final_plan_fails(self):
        self.assertEqual(counts("ok 1 a\n1..2\nok 2 b\n"), (1, 1, 0))

    def test_bail_out_fails(self):
        self.assertEqual(counts("1..2\nok 1 a\nBail out! no device\n")[1], 1)

    def test_empty_plan_without_reason_fails(self):
        self.assertEqual(counts("1..0\n"), (0, 1, 0))

    def test_whole_skip(self):
        results = tap.parse("1..0 # SKIP no KVM\n")
        self.assertEqual([(r.status, r.reason) for r in results], [(tap.SKIPPED, "no KVM")])

    def test_skip_with_reason(self):
        results = tap.parse("1..1\nok 1 - a # SKIP needs a GPU\n")
        self.assertEqual([(r.name, r.status, r.reason) for r in results], [("a", tap.SKIPPED, "needs a GPU")])

    def test_not_ok_skip_is_a_failure(self):
        self.assertEqual(counts("1..1\nnot ok 1 a # SKIP x\n"), (0, 1, 0))

    def test_not_ok_todo_is_a_failure(self):
        self.assertEqual(counts("1..1\nnot ok 1 a # TODO later\n"), (0, 1, 0))

    def test_escaped_hash_is_a_name(self):
        results = tap.parse("1..1\nok 1 - queue \\# SKIP\n")
        self.assertEqual((results[0].name, results[0].status), ("queue # SKIP", tap.PASSED))

    def test_names_that_start_with_a_number(self):
        self.assertEqual(tap.parse("1..1\nok 1 - 64 functions\n")[0].name, "64 functions")

    def test_okay_is_no_result(self):
        self.assertEqual(counts("1..1\nokay\nok 1\n"), (1, 0, 0))

    def test_diagnostics_belong_to_the_failure_after_them(self):
        results = tap.parse("1..2\n# one\nok 1 a\n# two\nnot ok 2 b\n")
        self.assertEqual(results[1].detail, ["# two"])


class Nested(unittest.TestCase):
    GOOD = "KTAP version 1\n1..1\n    KTAP version 1\n    1..2\n    ok 1 a\n    ok 2 b\nok 1 - suite\n"

    def test_leaves_are_counted(self):
        results = tap.parse(self.GOOD)
        self.assertEqual([r.name for r in results], ["suite: a", "suite: b"])
        self.assertEqual(counts(self.GOOD), (2, 0, 0))

    def test_ok_over_a_failed_subtest_fails(self):
        self.assertEqual(counts(self.GOOD.replace("ok 2 b", "not ok 2 b")), (1, 2, 0))

    def test_not_ok_over_a_failed_subtest_counts_once(self):
        self.assertEqual(counts("1..1\n  1..1\n  not ok 1 a\nnot ok 1 s\n"), (0, 1, 0))

    def test_not_ok_over_good_subtests_fails(self):
        self.assertEqual(counts(self.GOOD.replace("ok 1 - suite", "not ok 1 - suite")), (2, 1, 0))

    def test_subtest_short_of_its_plan_fails(self):
        self.assertEqual(counts("1..1\n  1..2\n  ok 1 a\nok 1 s\n")[1], 1)

    def test_subtest_without_plan_fails(self):
        self.assertEqual(counts("1..1\n  ok 1 a\nok 1 s\n")[1], 1)

    def test_end_within_a_subtest_fails(self):
        self.assertGreater(counts("1..2\nok 1 x\n  1..1\n  ok 1 a\n")[1], 0)

    def test_subtest_without_result_fails(self):
        self.assertGreater(counts("  1..1\n  ok 1 a\n1..1\n")[1], 0)

    def test_three_levels(self):
        self.assertEqual(counts("1..1\n  1..1\n    1..2\n    ok 1 a\n    ok 2 b # SKIP c\n  ok 1 m\nok 1 s\n"), (1, 0, 1))

    def test_failure_two_levels_down_needs_all_its_parents(self):
        text = "1..1\n  1..1\n    1..1\n    not ok 1 a\n  {} 1 m\n{} 1 s\n"
        self.assertEqual(counts(text.format("not ok", "not ok")), (0, 1, 0))
        self.assertGreater(counts(text.format("not ok", "ok"))[1], 1)
        self.assertGreater(counts(text.format("ok", "ok"))[1], 1)

    def test_skipped_subtest(self):
        self.assertEqual(counts("1..1\n  1..0 # SKIP no\nok 1 s\n"), (0, 0, 1))

    def test_two_levels_ending_at_once_fail(self):
        self.assertGreater(counts("1..1\n  1..1\n    1..1\n    ok 1 a\nok 1 s\n")[1], 0)

    def test_odd_indentation_fails(self):
        self.assertGreater(counts("1..1\n    1..1\n  ok 1 a\nok 1 s\n")[1], 0)


class Libtest(unittest.TestCase):
    GOOD = ("     Running unittests src/lib.rs (target/debug/deps/x-1)\n\nrunning 3 tests\ntest a ... ok\n"
            "test b::c ... ok\ntest d ... ignored, slow\n\n"
            "test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n")

    def check(self, text):
        return counts(text, tap.parse_libtest)

    def test_counts(self):
        self.assertEqual(self.check(self.GOOD), (2, 0, 1))
        self.assertEqual(tap.parse_libtest(self.GOOD)[2].reason, "slow")

    def test_binaries_add_up(self):
        self.assertEqual(self.check(self.GOOD * 2), (4, 0, 2))

    def test_failure_with_its_output(self):
        text = ("running 1 test\ntest a ... FAILED\n\nfailures:\n\n---- a stdout ----\nboom\n\nfailures:\n    a\n\n"
                "test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\n")
        self.assertEqual(self.check(text), (0, 1, 0))
        self.assertIn("boom", tap.parse_libtest(text)[0].detail)

    def test_crash_in_the_middle_fails(self):
        self.assertEqual(self.check("running 3 tests\ntest a ... ok\n"), (1, 1, 0))

    def test_wrong_total_fails(self):
        self.assertEqual(self.check(self.GOOD.replace("2 passed", "3 passed")), (2, 1, 1))

    def test_missing_result_fails(self):
        self.assertEqual(self.check(self.GOOD.replace("test b::c ... ok\n", ""))[1], 1)

    def test_no_tests_is_fine(self):
        text = "running 0 tests\n\ntest result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n"
        self.assertEqual(self.check(text), (0, 0, 0))


if __name__ == "__main__":
    unittest.main()
