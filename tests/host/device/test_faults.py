# SPDX-License-Identifier: GPL-2.0
"""Faults on demand, by BAR5 and over QMP: each kind, and what takes it back."""

from case import DeviceTest
from lib import HW, QmpError

EINVAL, ENOSPC = 22, 28


class Faults(DeviceTest):
    def setUp(self):
        self.functions_ = self.functions(1, x__test="on")
        self.dev, self.vf = self.functions_
        self.m = self.dev.m
        self.q = self.dev.queue()

    def arm(self, kind, function=0, queue=HW.TEST_ANY, opcode=0, skip=0, count=1, arg=0):
        for reg, value, size in ((HW.TEST_FUNCTION, function, 4), (HW.TEST_QUEUE, queue, 4),
                                 (HW.TEST_OPCODE, opcode, 4), (HW.TEST_KIND, kind, 4), (HW.TEST_SKIP, skip, 4),
                                 (HW.TEST_COUNT, count, 4), (HW.TEST_ARG, arg, 8)):
            self.dev.set_test(reg, value, size)
        self.dev.set_test(HW.TEST_COMMAND, HW.TEST_ARM)
        return self.dev.test(HW.TEST_RESULT)

    def clear(self, function=0):
        self.dev.set_test(HW.TEST_FUNCTION, function)
        self.dev.set_test(HW.TEST_COMMAND, HW.TEST_CLEAR)
        return self.dev.test(HW.TEST_RESULT)

    def fences(self, n, **fields):
        for _ in range(n):
            self.q.push(HW.OP_FENCE, **fields)
        self.m.step(10_000)
        return self.q.take()

    def read(self, n=4096):
        """A read of n bytes; returns where they go."""
        host = self.m.alloc(n)
        self.q.push(HW.OP_READ, device_addr=0, host_addr=host, bytes=n)
        return host

    def test_test_registers_identify_themselves(self):
        self.assertEqual(self.dev.test(HW.TEST_ID), HW.ID)
        self.assertEqual(self.dev.test(HW.TEST_COMMAND), 0)
        self.dev.set_test(HW.TEST_ARG, 0x1122334455667788, 8)
        self.assertEqual(self.dev.test(HW.TEST_ARG + 4), 0x11223344)

    def test_drop_posts_no_completion(self):
        self.assertEqual(self.arm(HW.FAULT_DROP), 0)
        self.assertEqual([c.transaction for c in self.fences(3)], [2, 3])
        self.assertEqual(self.dev.counter("DEPTH"), 0)

    def test_skip_and_count_choose_the_descriptors(self):
        self.arm(HW.FAULT_DROP, skip=2, count=3)
        self.assertEqual([c.transaction for c in self.fences(8)], [1, 2, 6, 7, 8])
        self.assertEqual(self.dev.test(HW.TEST_HITS), 3)

    def test_any_count_hits_until_cleared(self):
        self.arm(HW.FAULT_DROP, count=HW.TEST_ANY)
        self.assertEqual(self.fences(9), [])
        self.assertEqual(self.dev.test(HW.TEST_HITS), 9)
        self.assertEqual(self.clear(), 0)
        self.assertEqual(self.dev.test(HW.TEST_HITS), 0)
        self.assertEqual(len(self.fences(2)), 2)

    def test_rules_match_function_queue_and_opcode(self):
        self.arm(HW.FAULT_DROP, function=1)
        self.arm(HW.FAULT_DROP, queue=1)
        self.arm(HW.FAULT_DROP, opcode=HW.OP_COPY)
        self.assertEqual(len(self.fences(3)), 3)
        q1 = self.dev.queue(1)
        q1.push(HW.OP_FENCE)
        self.q.push(HW.OP_COPY, device_addr=0, host_addr=64, bytes=8)
        qv = self.vf.queue()
        qv.push(HW.OP_FENCE)
        self.m.step(10_000)
        self.assertEqual([q1.take(), self.q.take(), qv.take()], [[], [], []])

    def test_delay_puts_off_completion_and_data(self):
        self.q.write(0, b"d" * 4096)
        self.arm(HW.FAULT_DELAY, arg=100_000)
        host = self.read()
        start = self.m.now
        self.assertEqual(len(self.fences(0)), 0)
        self.m.step(start + 101_511 - self.m.now)
        self.assertEqual((self.q.take(), self.m.peek(host, 4096)), ([], bytes(4096)))
        self.m.step(1)
        self.assertEqual([c.time_ns for c in self.q.take()], [start + 101_512])
        self.assertEqual(self.m.peek(host, 4096), b"d" * 4096)

    def test_a_delayed_transfer_holds_up_only_fences(self):
        self.arm(HW.FAULT_DELAY, arg=100_000)
        self.read()
        self.read()
        self.q.push(HW.OP_FENCE)
        self.m.step(10_000)
        self.assertEqual([c.transaction for c in self.q.take()], [2])
        self.m.step(100_000)
        self.assertEqual([c.transaction for c in self.q.take()], [1, 3])

    def test_duplicate_completes_twice(self):
        self.arm(HW.FAULT_DUPLICATE, skip=1)
        self.assertEqual([c.transaction for c in self.fences(3)], [1, 2, 2, 3])

    def test_duplicates_respect_a_full_ring(self):
        self.q.reset()
        self.q = self.dev.queue(order=1)
        self.arm(HW.FAULT_DUPLICATE, count=2)
        self.q.push(HW.OP_FENCE)
        self.q.push(HW.OP_FENCE)
        self.m.step(10_000)
        self.assertEqual([c.transaction for c in self.q.take()], [1, 1])
        self.assertEqual([c.transaction for c in self.q.take()], [2, 2])

    def test_corrupt_changes_the_transaction(self):
        self.arm(HW.FAULT_CORRUPT, arg=0xFF00000000000000)
        self.assertEqual([c.transaction for c in self.fences(1, transaction=5)], [0xFF00000000000005])

    def test_late_data_follows_the_completion(self):
        self.q.write(0, b"l" * 4096)
        self.arm(HW.FAULT_LATE_DATA, arg=50_000)
        host = self.read()
        self.m.step(1512)
        done = self.q.take()
        self.assertEqual([(c.status, c.bytes) for c in done], [(HW.STATUS_OK, 4096)])
        self.m.step(49_999)
        self.assertEqual(self.m.peek(host, 4096), bytes(4096))
        self.m.step(1)
        self.assertEqual(self.m.peek(host, 4096), b"l" * 4096)

    def test_queue_reset_cancels_late_data(self):
        self.q.write(0, b"l" * 4096)
        self.arm(HW.FAULT_LATE_DATA, arg=50_000)
        host = self.read()
        self.m.step(2000)
        self.q.reset()
        self.assertEqual(self.q.status(), 0)
        self.m.step(100_000)
        self.assertEqual(self.m.peek(host, 4096), bytes(4096))

    def test_late_write_data_arrives_late_in_the_device(self):
        self.arm(HW.FAULT_LATE_DATA, opcode=HW.OP_WRITE, arg=10_000_000)
        self.assertStatus(self.q.write(0, b"w" * 4096), HW.STATUS_OK, 4096)
        self.assertEqual(self.dev.window(0, 8), bytes(8))
        self.m.step(10_000_000)
        self.assertEqual(self.dev.window(0, 8), b"w" * 8)

    def test_fail_moves_nothing(self):
        self.q.write(0, b"f" * 4096)
        for arg, status in ((0, HW.STATUS_FAILED), (HW.STATUS_HOST_ACCESS, HW.STATUS_HOST_ACCESS)):
            self.arm(HW.FAULT_FAIL, arg=arg)
            host = self.read()
            self.m.step(10_000)
            c, = self.q.take()
            self.assertStatus(c, status, 0)
            self.assertEqual(self.m.peek(host, 4096), bytes(4096))

    def test_stuck_stops_one_queue_until_reset(self):
        other = self.dev.queue(1)
        self.arm(HW.FAULT_STUCK, queue=0, skip=1)
        self.assertEqual(len(self.fences(4)), 1)
        self.assertStatus(other.run(HW.OP_FENCE), HW.STATUS_OK)
        self.assertEqual(self.q.get(HW.QREG_SQ_HEAD), 2)
        self.q.reset()
        self.assertEqual(self.q.status(), 0)
        self.q.enable()
        self.assertEqual(len(self.fences(4)), 4)

    def test_clear_releases_a_stuck_queue(self):
        self.arm(HW.FAULT_STUCK)
        self.assertEqual(self.fences(4), [])
        self.clear()
        self.m.step(10_000)
        self.assertEqual([c.transaction for c in self.q.take()], [1, 2, 3, 4])

    def test_clear_releases_what_is_delayed(self):
        self.q.write(0, b"d" * 4096)
        self.arm(HW.FAULT_DELAY, arg=1 << 62)
        host = self.read()
        self.m.step(1_000_000)
        self.assertEqual(self.q.take(), [])
        self.clear()
        self.assertEqual(len(self.q.take()), 1)
        self.assertEqual(self.m.peek(host, 4096), b"d" * 4096)

    def test_a_wedged_queue_needs_an_flr(self):
        self.arm(HW.FAULT_WEDGED)
        self.assertEqual(self.fences(1), [])
        self.q.reset()
        self.m.step(1_000_000_000)
        self.assertEqual(self.q.status(), HW.QSTAT_ENABLED | HW.QSTAT_RESETTING)
        other = self.dev.queue(1)
        self.assertStatus(other.run(HW.OP_FENCE), HW.STATUS_OK)
        self.dev.flr()
        self.q = self.dev.queue()
        self.assertEqual(len(self.fences(1)), 1)

    def test_clear_lets_a_wedged_reset_finish(self):
        self.arm(HW.FAULT_WEDGED)
        self.fences(1)
        self.q.reset()
        self.clear()
        self.assertEqual(self.q.status(), 0)

    def test_no_interrupt_loses_the_message(self):
        message = self.dev.msix(0)
        self.arm(HW.FAULT_NO_INTERRUPT)
        self.q.push(HW.OP_FENCE)
        self.m.step(10_000)
        self.q.push(HW.OP_FENCE)
        self.m.step(10_000)
        self.assertFalse(message.taken())
        self.assertEqual(len(self.q.take()), 2)
        self.fences(1)
        self.assertTrue(message.taken())

    def test_several_rules_hit_one_descriptor(self):
        self.arm(HW.FAULT_CORRUPT, arg=0xFF)
        self.arm(HW.FAULT_DUPLICATE)
        self.arm(HW.FAULT_FAIL)
        self.assertEqual([(c.transaction, c.status) for c in self.fences(1)], [(0xFE, HW.STATUS_FAILED)] * 2)

    def test_flr_drops_what_faults_hold(self):
        self.q.write(0, b"d" * 4096)
        self.arm(HW.FAULT_DELAY, arg=50_000)
        self.arm(HW.FAULT_LATE_DATA, skip=1, arg=50_000)
        hosts = [self.read(), self.read()]
        self.m.step(10_000)
        self.dev.flr()
        self.m.step(1_000_000)
        self.assertEqual([self.m.peek(h, 4096) for h in hosts], [bytes(4096)] * 2)

    def test_bad_rules_are_refused(self):
        for fields in ({"kind": 0}, {"kind": HW.FAULT_KINDS + 1}, {"kind": 1, "function": 2},
                       {"kind": 1, "queue": 3}, {"kind": 1, "opcode": 9}, {"kind": 1, "count": 0},
                       {"kind": HW.FAULT_FAIL, "arg": 1 << 16}):
            self.assertEqual(self.arm(**fields), EINVAL, fields)
        self.dev.set_test(HW.TEST_COMMAND, 3)
        self.assertEqual(self.dev.test(HW.TEST_RESULT), EINVAL)
        self.assertEqual(self.clear(99), EINVAL)
        self.assertEqual(len(self.fences(3)), 3)

    def test_there_is_room_for_64_rules(self):
        for _ in range(HW.TEST_RULES):
            self.assertEqual(self.arm(HW.FAULT_DROP, function=1), 0)
        self.assertEqual(self.arm(HW.FAULT_DROP), ENOSPC)
        self.clear(1)
        self.assertEqual(self.arm(HW.FAULT_DROP), 0)


class OverQmp(DeviceTest):
    def test_rules_work_without_x_test(self):
        pf, vf = self.functions(1)
        m = pf.m
        q = vf.queue()
        m.inject("function=1,kind=drop,queue=0,opcode=fence,skip=1,count=1")
        for _ in range(3):
            q.push(HW.OP_FENCE)
        m.step(10_000)
        self.assertEqual(len(q.take()), 2)
        self.assertEqual(m.injected(), "hits function=1,kind=drop,count=1\n")
        m.inject("clear,function=1")
        self.assertEqual(m.injected(), "")

    def test_the_rules_that_are_armed_can_be_read(self):
        m = self.machine()
        m.inject("function=0,kind=late-data,count=any,arg=0x10")
        self.assertEqual(m.injected(), "rule function=0,kind=late-data,opcode=any,skip=0,count=any,arg=16\n")

    def test_mistakes_are_explained(self):
        m = self.machine()
        for text, word in (("kind=nonsense", "kind"), ("colour=red", "colour"), ("drop", "drop"),
                           ("kind=drop,function=99", "function"), ("kind=drop,count=0", "count"),
                           ("kind=drop,skip=-1", "skip"), ("clear,function=1000", "function")):
            with self.assertRaises(QmpError) as caught:
                m.inject(text)
            self.assertIn(word, str(caught.exception))

    def test_clear_releases_a_stuck_queue(self):
        m = self.machine()
        q = m.pf.queue()
        m.inject("function=0,kind=stuck")
        q.push(HW.OP_READ, device_addr=0, host_addr=m.alloc(4096), bytes=4096)
        m.step(100_000)
        self.assertEqual(q.take(), [])
        m.inject("clear,function=0")
        m.step(100_000)
        self.assertEqual(len(q.take()), 1)
