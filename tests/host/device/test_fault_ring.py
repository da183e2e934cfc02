# SPDX-License-Identifier: GPL-2.0
"""Page faults: records, messages, replay; and that none is ever lost."""

from case import DeviceTest
from kernels import stamped
from lib import HW
from spaces import PAGE, FaultRing, Pager, Spaces

LATENCY = 1000
WORDS = PAGE // 8
MISS = 200


class RingTest(DeviceTest):
    def space(self, pages=8, ring_order=6, ring=True, strands=8, **options):
        options.setdefault("mem_size", "4M")
        self.s = Spaces(self.fresh_pf(**options), ring_order=ring_order, strands=strands, ring=ring)
        self.m, self.f, self.ring = self.s.m, self.s.f, self.s.ring
        return self.s.space(1, pages)

    def stamp(self, space, pages, **fields):
        """A page for each strand; the transaction."""
        return space.submit(HW.JOB_STAMP, 0, pages * WORDS, 0, 1, order=HW.JOB_BLOCKED, strands=pages, **fields)

    def faults(self, space, pages, **fields):
        """Strands that wait for a page each."""
        self.stamp(space, pages, **fields)
        self.m.step(LATENCY)

    def assertStamped(self, pages):
        for page in range(pages):
            self.assertEqual(self.f.window(page * PAGE, 8), stamped(page * WORDS, 1).to_bytes(8, "little"))


class Records(RingTest):
    def test_a_record_says_who_misses_what(self):
        space = self.space()
        job = self.stamp(space, 3)
        start = self.m.now
        self.m.step(LATENCY)
        records = self.ring.take()
        self.assertEqual([(r.page, r.strand, r.asid, r.job, r.access, r.reason, r.time_ns - start) for r in records],
                         [(n, n, 1, job, HW.ACCESS_WRITE, HW.REASON_ABSENT, LATENCY) for n in range(3)])
        self.assertEqual((self.f.counter("FAULTS"), self.f.reg(HW.REG_FAULT_TAIL)), (3, 3))

    def test_a_strand_tells_one_page_at_a_time(self):
        space = self.space(3)
        space.submit(HW.JOB_TRIAD, 0, PAGE, 2 * PAGE, 8, 0, strands=1)
        for page, access in ((1, HW.ACCESS_READ), (2, HW.ACCESS_READ), (0, HW.ACCESS_WRITE)):
            self.m.step(50_000)
            r, = self.ring.take()
            self.assertEqual((r.page, r.access), (page, access))
            space.map(page, page)
            self.ring.replay(1)
        self.assertStatus(self.s.end(), HW.STATUS_OK)

    def test_interleaved_strands_miss_neighbours_and_blocked_ones_do_not(self):
        for order, pages in ((HW.JOB_INTERLEAVED, {0, 1}), (HW.JOB_BLOCKED, set(range(0, 64, 4)))):
            space = self.space(64)
            space.submit(HW.JOB_STAMP, 0, 64 * WORDS, 0, 1, strands=16, order=order)
            self.m.step(LATENCY)
            records = self.ring.take()
            self.assertEqual(({r.page for r in records}, len(records)), (pages, 16))
        shuffled = []
        for seed in (1, 1, 2):
            space = self.space(64)
            space.submit(HW.JOB_STAMP, 0, 64 * WORDS, 0, 1, strands=16, order=HW.JOB_SHUFFLED, seed=seed)
            self.m.step(LATENCY)
            shuffled.append([r.page for r in self.ring.take()])
        self.assertEqual(shuffled[0], shuffled[1])
        self.assertNotEqual(shuffled[0], shuffled[2])
        self.assertGreater(len(set(shuffled[0])), 10)

    def test_the_phase_turns_with_every_pass(self):
        space = self.space(40, ring_order=1, strands=1)
        space.submit(HW.JOB_STAMP, 0, 40 * WORDS, 0, 1)
        for page in range(40):
            self.m.step(5_000)
            self.assertEqual([r.page for r in self.ring.take()], [page])
            space.map(page, page)
            self.ring.replay()
        self.assertStatus(self.s.end(), HW.STATUS_OK)

    def test_a_full_ring_holds_faults_back_and_loses_none(self):
        space = self.space(32, ring_order=2)
        self.faults(space, 32)
        seen = []
        while len(seen) < 32:
            records = self.ring.take(acknowledge=False)
            self.assertEqual(len(records), 4)
            self.assertEqual(self.ring.take(acknowledge=False), [])
            seen += [r.page for r in records]
            self.ring.acknowledge()
        self.assertEqual(seen, list(range(32)))
        self.assertEqual(self.ring.take(), [])
        space.map_all()
        self.ring.replay()
        self.assertStatus(self.s.end(), HW.STATUS_OK)
        self.assertStamped(32)

    def test_a_record_that_waited_for_room_says_when_it_was_missed(self):
        space = self.space(4, ring_order=1)
        self.faults(space, 4)
        first = self.ring.take(acknowledge=False)
        self.m.step(70_000)
        self.ring.acknowledge()
        self.assertEqual({r.time_ns for r in first + self.ring.take()}, {first[0].time_ns})

    def test_faults_wait_for_the_ring_to_be_enabled(self):
        space = self.space(4, ring=False)
        self.faults(space, 4)
        ring = FaultRing(self.f, 4)
        self.assertEqual([r.page for r in ring.take()], [0, 1, 2, 3])
        space.map_all()
        ring.replay(1)
        self.assertStatus(self.s.end(), HW.STATUS_OK)

    def test_faults_outlive_a_reset_of_the_ring(self):
        space = self.space(8, ring_order=2)
        self.faults(space, 8)
        self.assertEqual(len(self.ring.take(acknowledge=False)), 4)
        self.ring.reset()
        self.assertEqual((self.ring.status(), self.f.reg(HW.REG_FAULT_TAIL)), (0, 0))
        self.ring.enable()
        # Those that had no record get one at once, the others after a replay.
        self.assertEqual([r.page for r in self.ring.take()], [4, 5, 6, 7])
        space.map_all()
        self.ring.replay()
        self.assertStatus(self.s.end(), HW.STATUS_OK)
        self.assertStamped(8)


class Replay(RingTest):
    def test_it_is_for_one_space_or_for_all(self):
        one = self.space(1, strands=1)
        two = self.s.space(2, 1)
        for space in (one, two):
            space.submit(HW.JOB_STAMP, 0, WORDS, 0, 1)
        self.m.step(10_000)
        self.assertEqual([r.asid for r in self.ring.take()], [1, 2])
        for asid, again in ((2, [2]), (3, []), (1, [1]), (None, [2, 1])):
            self.ring.replay(asid)
            self.m.step(10_000)
            self.assertEqual([r.asid for r in self.ring.take()], again)
        self.assertEqual(self.f.counter("REPLAYS"), 4)

    def test_strands_that_have_no_record_yet_try_again_too(self):
        space = self.space(8, ring_order=1)
        self.faults(space, 8)
        space.map_all()
        self.ring.replay()
        self.assertStatus(self.s.end(), HW.STATUS_OK)

    def test_the_oldest_fault_stays_the_oldest(self):
        space = self.space(8)
        self.faults(space, 8)
        for _ in range(5):
            self.assertEqual([r.page for r in self.ring.take()], list(range(8)))
            self.ring.replay()
            self.m.step(1_000)

    def test_a_replay_too_many_does_no_harm(self):
        space = self.space(4)
        self.ring.replay()
        self.faults(space, 4)
        for _ in range(3):
            self.ring.replay()
        self.m.step(1_000)
        self.assertGreaterEqual(len(self.ring.take()), 4)
        space.map_all()
        self.ring.replay()
        self.assertStatus(self.s.end(), HW.STATUS_OK)

    def test_waiting_is_counted_and_walks_are_paid_for(self):
        space = self.space(1, strands=1)
        space.submit(HW.JOB_STAMP, 0, WORDS, 0, 1)
        start = self.m.now
        self.m.step(LATENCY + 30_000)
        space.map(0, 0)
        self.ring.replay()
        self.assertEqual(self.f.counter("FAULT_WAIT_STRAND_NS"), 30_000)
        done = self.s.end()
        self.assertEqual(done.time_ns - start, LATENCY + 30_000 + 2 * MISS + WORDS)

    def test_a_fault_ends_with_its_job(self):
        space = self.space(4)
        self.faults(space, 4)
        self.s.jobs.reset()
        self.assertEqual(self.s.jobs.status(), 0)
        self.assertEqual(self.f.counter("FAULT_WAIT_STRAND_NS"), 0)
        self.ring.take()
        self.ring.replay()
        self.m.step(10_000)
        self.assertEqual(self.ring.take(), [])


class Messages(RingTest):
    def setup_ring(self, pages=8, least=0, wait=0, **options):
        space = self.space(pages, **options)
        self.message = self.f.msix(3)
        self.f.set_reg(HW.REG_FAULT_MIN, least)
        self.f.set_reg(HW.REG_FAULT_WAIT_NS, wait)
        return space

    def test_a_record_sends_one_at_once_and_disarms(self):
        space = self.setup_ring()
        self.faults(space, 2)
        self.assertTrue(self.message.taken())
        self.ring.replay()
        self.m.step(10_000)
        self.assertFalse(self.message.taken())
        self.assertEqual(len(self.ring.take()), 4)
        self.ring.replay()
        self.m.step(10_000)
        self.assertTrue(self.message.taken())

    def test_few_records_wait_for_more_or_for_their_time(self):
        space = self.setup_ring(least=3, wait=20_000)
        self.faults(space, 2)
        self.m.step(19_999)
        self.assertFalse(self.message.taken())
        self.m.step(1)
        self.assertTrue(self.message.taken())
        self.ring.take()
        self.s.jobs.reset()
        self.s.jobs.enable()
        self.faults(space, 3)
        self.assertTrue(self.message.taken())

    def test_arming_sends_it_when_records_are_there(self):
        space = self.setup_ring()
        self.ring.acknowledge(HW.FAULT_DISARM)
        self.faults(space, 3)
        self.assertFalse(self.message.taken())
        self.ring.head = 2
        self.ring.acknowledge()
        self.assertTrue(self.message.taken())
        self.ring.head = 3
        self.ring.acknowledge()
        self.assertFalse(self.message.taken())

    def test_disarming_stops_the_clock(self):
        space = self.setup_ring(least=9, wait=20_000)
        self.faults(space, 3)
        self.ring.acknowledge(HW.FAULT_DISARM)
        self.m.step(50_000)
        self.assertFalse(self.message.taken())
        self.ring.acknowledge()
        self.assertTrue(self.message.taken())

    def test_the_age_is_that_of_the_oldest_left(self):
        space = self.setup_ring(least=9, wait=20_000)
        self.faults(space, 1)
        self.m.step(10_000)
        self.ring.replay()
        self.m.step(1_000)
        self.ring.head = 1
        self.ring.acknowledge()
        self.m.step(18_000)
        self.assertFalse(self.message.taken())
        self.m.step(2_000)
        self.assertTrue(self.message.taken())

    def test_a_full_ring_waits_for_nothing(self):
        space = self.setup_ring(least=100, wait=1_000_000_000, ring_order=1)
        self.faults(space, 4)
        self.assertTrue(self.message.taken())

    def test_new_settings_count_at_once(self):
        for reg, value in ((HW.REG_FAULT_MIN, 2), (HW.REG_FAULT_WAIT_NS, 10)):
            space = self.setup_ring(least=100, wait=1_000_000_000)
            self.faults(space, 2)
            self.m.step(100)
            self.assertFalse(self.message.taken())
            self.f.set_reg(reg, value)
            self.assertTrue(self.message.taken())


class Errors(RingTest):
    def test_registers_are_writable_while_the_ring_is_off(self):
        self.space(ring_order=3)
        values = {HW.REG_FAULT_ORDER: 4, HW.REG_FAULT_VECTOR: 5}
        for reg, value in values.items():
            before = self.f.reg(reg)
            self.f.set_reg(reg, value)
            self.assertEqual(self.f.reg(reg), before)
        self.f.set_reg(HW.REG_FAULT_BASE, 64, 8)
        self.assertEqual(self.f.reg(HW.REG_FAULT_BASE, 8), self.ring.base)
        self.ring.reset()
        for reg, value in values.items():
            self.f.set_reg(reg, value)
            self.assertEqual(self.f.reg(reg), value)
        self.f.set_reg(HW.REG_FAULT_BASE, 64, 8)
        self.assertEqual(self.f.reg(HW.REG_FAULT_BASE, 8), 64)
        for reg in (HW.REG_FAULT_CONTROL, HW.REG_FAULT_HEAD, HW.REG_FAULT_REPLAY):
            self.assertEqual(self.f.reg(reg), 0)

    def test_each_bad_configuration_is_an_error(self):
        self.space(ring=False)
        good = {HW.REG_FAULT_BASE: 0x100000, HW.REG_FAULT_ORDER: 4, HW.REG_FAULT_VECTOR: 0}
        for reg, value in ((HW.REG_FAULT_BASE, 0x100020), (HW.REG_FAULT_BASE, (1 << 64) - 64),
                           (HW.REG_FAULT_ORDER, 0), (HW.REG_FAULT_ORDER, HW.FAULT_MAX_ORDER + 1),
                           (HW.REG_FAULT_ORDER, 0xFFFFFFFF), (HW.REG_FAULT_VECTOR, HW.MSIX_VECTORS)):
            for r, v in {**good, reg: value}.items():
                self.f.set_reg(r, v, 8 if r == HW.REG_FAULT_BASE else 4)
            self.f.set_reg(HW.REG_FAULT_CONTROL, HW.FCTL_ENABLE)
            self.assertEqual(self.f.reg(HW.REG_FAULT_STATUS), HW.FERR_CONFIG << HW.FSTAT_ERROR_SHIFT)
            self.f.set_reg(HW.REG_FAULT_CONTROL, HW.FCTL_RESET)
            self.assertEqual(self.f.reg(HW.REG_FAULT_STATUS), 0)

    def test_a_bad_head_stops_the_ring_until_it_is_reset(self):
        for value in (1, 0xFFFF, 0x10000, 0x40000000):
            space = self.space(4)
            message = self.f.msix(3)
            self.f.set_reg(HW.REG_FAULT_HEAD, value)
            self.assertEqual(self.ring.error(), HW.FERR_HEAD)
            self.assertTrue(message.taken())
            self.faults(space, 4)
            self.assertEqual(self.ring.take(), [])
            self.ring.reset()
            self.ring.enable()
            self.assertEqual(len(self.ring.take()), 4)

    def test_an_unwritable_ring_loses_no_fault(self):
        space = self.space(4)
        message = self.f.msix(3)
        self.ring.reset()
        self.f.set_reg(HW.REG_FAULT_BASE, 1 << 40, 8)
        self.f.set_reg(HW.REG_FAULT_CONTROL, HW.FCTL_ENABLE)
        self.faults(space, 4)
        self.assertEqual(self.ring.error(), HW.FERR_WRITE)
        self.assertTrue(message.taken())
        self.ring.reset()
        self.f.set_reg(HW.REG_FAULT_BASE, self.ring.base, 8)
        self.ring.enable()
        self.assertEqual(len(self.ring.take()), 4)
        space.map_all()
        self.ring.replay()
        self.assertStatus(self.s.end(), HW.STATUS_OK)

    def test_a_function_reset_switches_it_off(self):
        space = self.space(4)
        self.faults(space, 4)
        self.f.set_reg(HW.REG_FAULT_MIN, 7)
        self.f.flr()
        for reg in (HW.REG_FAULT_STATUS, HW.REG_FAULT_ORDER, HW.REG_FAULT_VECTOR, HW.REG_FAULT_MIN,
                    HW.REG_FAULT_WAIT_NS, HW.REG_FAULT_TAIL, HW.REG_AS_COUNT):
            self.assertEqual(self.f.reg(reg), 0)
        self.assertEqual((self.f.reg(HW.REG_FAULT_BASE, 8), self.f.reg(HW.REG_AS_TABLE, 8)), (0, 0))
        self.assertEqual(self.f.counter("FAULTS"), 0)


class OnDemand(RingTest):
    """Rules for records."""

    def inject(self, text):
        self.m.inject(text)

    def test_a_record_comes_twice(self):
        space = self.space(3)
        self.inject("kind=record-twice,skip=1")
        self.faults(space, 3)
        self.assertEqual([r.page for r in self.ring.take()], [0, 1, 1, 2])
        self.assertIn("kind=record-twice,count=1", self.m.injected())

    def test_a_record_of_what_nobody_misses(self):
        space = self.space(2)
        self.inject("kind=record-spurious,arg=77,count=any")
        self.faults(space, 2)
        self.assertEqual([r.page for r in self.ring.take()], [0, 77, 1, 77])
        space.map_all()
        self.ring.replay()
        self.assertStatus(self.s.end(), HW.STATUS_OK)

    def test_a_lost_message(self):
        space = self.space(2)
        message = self.f.msix(3)
        self.inject("kind=record-quiet")
        self.faults(space, 1)
        self.assertFalse(message.taken())
        self.assertEqual(len(self.ring.take()), 1)
        self.ring.replay()
        self.m.step(1_000)
        self.assertTrue(message.taken())

    def test_extras_need_room(self):
        space = self.space(4, ring_order=2)
        self.inject("kind=record-twice,count=any")
        self.inject("kind=record-spurious,count=any,arg=9")
        self.faults(space, 4)
        seen = []
        while 3 not in seen:
            seen += [r.page for r in self.ring.take()]
        self.assertEqual([p for n, p in enumerate(seen) if p != 9 and p not in seen[:n]], [0, 1, 2, 3])

    def test_descriptors_are_not_hit_by_rules_for_records(self):
        self.space(1)
        self.inject("kind=record-twice")
        self.assertStatus(self.s.transfers.run(HW.OP_FENCE), HW.STATUS_OK)
        self.assertNotIn("hits", self.m.injected())


class Pressure(RingTest):
    def test_a_working_set_far_above_the_memory_is_worked_off(self):
        for ring_order in (1, 6):
            space = self.space(64, ring_order=ring_order)
            pager = Pager(space, room=8)
            done = pager.run(HW.JOB_STAMP, 0, 64 * WORDS, 0, 1, strands=32, order=HW.JOB_SHUFFLED)
            self.assertStatus(done, HW.STATUS_OK)
            done = pager.run(HW.JOB_CHECK, 0, 64 * WORDS, 0, 1, 1, strands=32)
            self.assertEqual((done.status, done.value), (HW.STATUS_OK, 0))
