# SPDX-License-Identifier: GPL-2.0
"""Address spaces: page tables, the TLB, marks, invalidation, host memory."""

import struct

from case import DeviceTest
from kernels import stamped
from lib import HW
from spaces import AS, PAGE, Spaces, u64

LATENCY = 1000
WORDS = PAGE // 8
MISS = 200
GENERATION = 5


def stamps(first, n, generation=GENERATION):
    return u64([stamped(first + i, generation) for i in range(n)])


class SpaceTest(DeviceTest):
    def spaces(self, **options):
        options.setdefault("mem_size", "4M")
        self.s = Spaces(self.fresh_pf(**options), strands=1)
        self.m, self.f, self.ring = self.s.m, self.s.f, self.s.ring
        return self.s

    def space(self, pages, asid=1, **options):
        return self.spaces(**options).space(asid, pages)

    def stamp(self, space, page, pages=1, generation=GENERATION, words=WORDS, **fields):
        """Stamps pages in order; the transaction."""
        return space.submit(HW.JOB_STAMP, page * PAGE, pages * words, page * WORDS, generation, **fields)

    def frame(self, n, size=PAGE):
        return self.f.window(n * PAGE, size)

    def window(self, n, data):
        self.f.set_window(n * PAGE, data)


class Walks(SpaceTest):
    def test_a_job_reaches_the_frames_that_the_table_names(self):
        space = self.space(3)
        for page, frame in enumerate((9, 2, 700)):
            space.map(page, frame)
        self.stamp(space, 0, 3)
        self.assertStatus(self.s.end(), HW.STATUS_OK, 0)
        for page, frame in enumerate((9, 2, 700)):
            self.assertEqual(self.frame(frame), stamps(page * WORDS, WORDS))

    def test_a_flat_space_needs_no_table(self):
        s = self.spaces()
        s.flat(2, 5 * PAGE, 3)
        done = s.run(2, HW.JOB_STAMP, PAGE, 2 * WORDS, 0, 1)
        self.assertStatus(done, HW.STATUS_OK)
        self.assertEqual(self.frame(5) + self.frame(6, 2 * PAGE), bytes(PAGE) + stamps(0, 2 * WORDS, 1))
        done = s.run(2, HW.JOB_STAMP, PAGE, 2 * WORDS + 1, 0, 1)
        self.assertStatus(done, HW.STATUS_SPACE_RANGE)

    def test_a_space_of_a_tebibyte_is_walked_where_it_is_mapped(self):
        pages = HW.AS_MAX_PAGES
        space = self.space(pages)
        for page in (0, 512 * 512 - 1, 512 * 512, pages - 1):
            space.map(page, page % 1000)
            self.stamp(space, page)
            self.assertStatus(self.s.end(), HW.STATUS_OK)
            self.assertEqual(self.frame(page % 1000), stamps(page * WORDS, WORDS))

    def test_spaces_do_not_share_entries(self):
        s = self.spaces(tlb_entries=8)
        one, two = s.space(1, 1), s.space(2, 1)
        one.map(0, 1)
        two.map(0, 2)
        for space, generation in ((one, 1), (two, 2), (one, 3)):
            self.stamp(space, 0, generation=generation)
            s.end()
        self.assertEqual((self.frame(1, 8), self.frame(2, 8)), (stamps(0, 1, 3), stamps(0, 1, 2)))

    def test_an_entry_may_have_bits_of_the_drivers(self):
        space = self.space(1)
        space.map(0, 3, HW.PTE_WRITE | HW.PTE_IGNORED)
        self.stamp(space, 0)
        self.assertStatus(self.s.end(), HW.STATUS_OK)

    def test_what_is_not_valid_at_any_level_is_absent(self):
        for level in range(3):
            space = self.space(3 * 512)
            if level < 2:
                space.make(600)
                at = (space.root, space.second[0] + 16)[level]
                self.m.write(at, 8, 0xFFF00000_12345FFE)
            else:
                space.set(600, 0xFFFFFFFF_FFFFFFFE)
            self.stamp(space, 600)
            self.m.step(10_000)
            r, = self.ring.take()
            self.assertEqual((r.page, r.access, r.reason), (600, HW.ACCESS_WRITE, HW.REASON_ABSENT))

    def test_a_malformed_table_ends_the_job_at_the_offset(self):
        frames = (4 << 20) // PAGE

        def root(bits):
            return lambda s: self.m.write(s.root, 8, s.second[0] | HW.PT_VALID | bits)

        def block(leaf, marks=0):
            return lambda s: self.m.poke(s.second[0], struct.pack("<QQ", s.leaf[0] | HW.PT_VALID | leaf,
                                                                  s.marks[0] | marks))

        def leaf(entry):
            return lambda s: s.set(2, entry)

        valid = HW.PT_VALID | HW.PTE_WRITE
        for n, spoil in enumerate((
                root(2), root(0x800), root(1 << 63), root(1 << 52), root(1 << 40),
                block(2), block(0x800), block(1 << 63), block(1 << 40), block(0, 1), block(0, 0x100),
                block(0, 1 << 60),
                leaf(valid | 8), leaf(valid | 1 << 52), leaf(valid | 1 << 63), leaf(valid | frames * PAGE),
                leaf(valid | HW.PTE_ADDRESS))):
            space = self.space(8)
            space.map_all()
            spoil(space)
            self.stamp(space, 2)
            done = self.s.end()
            self.assertStatus(done, HW.STATUS_TABLE)
            self.assertEqual(done.value, 2 * PAGE, n)
            self.assertEqual(self.frame(2), bytes(PAGE))

    def test_a_vf_reaches_no_frames_but_its_own(self):
        pf, vf = self.functions(1, mem_size="2M")
        s = Spaces(vf, strands=1)
        space = s.space(1, 2)
        space.map(0, 255)
        space.map(1, 256)
        space.submit(HW.JOB_STAMP, 0, WORDS, 0, 1)
        self.assertStatus(s.end(), HW.STATUS_OK)
        space.submit(HW.JOB_STAMP, PAGE, WORDS, 0, 1)
        self.assertStatus(s.end(), HW.STATUS_TABLE)
        self.assertEqual(pf.window(255 * PAGE, 8), bytes(8))

    def test_spaces_that_are_none(self):
        s = self.spaces()
        good = dict(root=self.m.alloc(PAGE), pages=4, flags=HW.AS_VALID)
        size = 4 << 20
        for change in (dict(flags=0), dict(flags=HW.AS_VALID | 4), dict(reserved0=1), dict(reserved1=1),
                       dict(root=good["root"] + 8), dict(pages=HW.AS_MAX_PAGES + 1), dict(pages=1 << 63),
                       dict(flags=3, root=size), dict(flags=3, root=0, pages=size // PAGE + 1),
                       dict(flags=3, root=(1 << 64) - PAGE), dict(flags=3, root=8)):
            s.entry(1, **{**good, **change})
            self.assertStatus(s.run(1, HW.JOB_REDUCE, 0, 1), HW.STATUS_AS)
        s.entry(1, **good)
        for asid in (8, HW.MAX_AS, 0xFFFFFFFF):
            self.assertStatus(s.run(asid, HW.JOB_REDUCE, 0, 1), HW.STATUS_AS)
        for table in (0, s.table + 32):
            self.f.set_reg(HW.REG_AS_TABLE, table, 8)
            self.assertStatus(s.run(1, HW.JOB_REDUCE, 0, 1), HW.STATUS_AS)
        self.f.set_reg(HW.REG_AS_TABLE, 1 << 40, 8)
        self.assertStatus(s.run(1, HW.JOB_REDUCE, 0, 1), HW.STATUS_TABLE)
        self.f.set_reg(HW.REG_AS_TABLE, s.table, 8)
        self.f.set_reg(HW.REG_AS_COUNT, 1)
        self.assertStatus(s.run(1, HW.JOB_REDUCE, 0, 1), HW.STATUS_AS)

    def test_the_table_stays_where_it_is_while_there_is_a_job(self):
        space = self.space(1)
        self.stamp(space, 0)
        for ns in (1, 10_000):
            self.m.step(ns)
            self.f.set_reg(HW.REG_AS_TABLE, 0, 8)
            self.f.set_reg(HW.REG_AS_COUNT, 0)
            self.assertEqual((self.f.reg(HW.REG_AS_TABLE, 8), self.f.reg(HW.REG_AS_COUNT)), (self.s.table, 8))
        self.s.jobs.reset()
        self.f.set_reg(HW.REG_AS_TABLE, 0, 8)
        self.f.set_reg(HW.REG_AS_COUNT, 0)
        self.assertEqual((self.f.reg(HW.REG_AS_TABLE, 8), self.f.reg(HW.REG_AS_COUNT)), (0, 0))


class Tlb(SpaceTest):
    def test_a_walk_takes_its_time_in_flat_spaces_too(self):
        s = self.spaces()
        space = s.space(1, 1)
        space.map(0, 0)
        s.flat(2, PAGE, 1)
        for asid in (1, 2):
            for expected in (MISS + WORDS, WORDS):
                start = self.m.now
                done = s.run(asid, HW.JOB_STAMP, 0, WORDS, 0, 1)
                self.assertEqual(done.time_ns - start, LATENCY + expected)

    def test_the_cost_of_a_walk_is_a_property(self):
        space = self.space(1, tlb_miss_ns=12_345)
        space.map(0, 0)
        self.stamp(space, 0)
        self.assertEqual(self.s.end().time_ns, LATENCY + 12_345 + WORDS)

    def test_it_holds_as_many_pages_as_it_says(self):
        for pages, misses in ((8, 8), (9, 18)):
            space = self.space(9, tlb_entries=8)
            space.map_all()
            for _ in range(2):
                self.stamp(space, 0, pages)
                self.s.end()
            self.assertEqual(self.f.counter("TLB_MISSES"), misses)
            # Two steps touch each page.
            self.assertEqual(self.f.counter("TLB_HITS"), 4 * pages - misses)

    def test_the_least_recently_used_entry_goes(self):
        space = self.space(9, tlb_entries=8)
        space.map_all()
        for page, misses in ((0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 7), (7, 8), (0, 8), (8, 9), (0, 9),
                             (1, 10)):
            self.stamp(space, page, words=8)
            self.s.end()
            self.assertEqual(self.f.counter("TLB_MISSES"), misses, page)

    def test_a_large_one_keeps_neighbours_and_powers_of_two_apart(self):
        space = self.space(1024, tlb_entries=1024)
        space.map_all()
        for _ in range(2):
            self.stamp(space, 0, 1000)
            self.assertStatus(self.s.end(), HW.STATUS_OK)
        self.assertEqual(self.f.counter("TLB_MISSES"), 1000)

    def test_an_entry_stays_until_it_is_invalidated(self):
        space = self.space(4)
        space.map_all()
        for frame, invalidate, seen in ((10, None, 1), (11, (1, 0, 1), 1), (11, (1, 2, 1), 1), (12, (2, 1, 1), 1),
                                        (13, (1, 1, 1), 13), (14, (1, 0, 2), 14), (15, (1, 0, 0), 15),
                                        (16, (1, 1, 1 << 60), 16), (17, (HW.AS_ALL, 0, 0), 17),
                                        (18, (HW.AS_ALL, 1, 1), 18), (19, (HW.AS_ALL, 2, 1), 18)):
            self.stamp(space, 1, generation=1)
            self.s.end()
            space.map(1, frame)
            if invalidate:
                self.s.invalidate(*invalidate)
            self.stamp(space, 1, generation=frame)
            self.s.end()
            self.assertEqual(self.frame(seen, 8), stamps(WORDS, 1, frame))

    def test_what_is_absent_is_not_remembered(self):
        space = self.space(1)
        self.stamp(space, 0)
        self.m.step(10_000)
        self.assertEqual(len(self.ring.take()), 1)
        space.map(0, 0)
        self.ring.replay()
        self.assertStatus(self.s.end(), HW.STATUS_OK)

    def test_a_write_looks_again_at_an_entry_that_forbids_it(self):
        space = self.space(1)
        space.map(0, 0, 0)
        self.window(0, stamps(0, WORDS))
        done = space.run(HW.JOB_CHECK, 0, WORDS, 0, GENERATION, GENERATION)
        self.assertEqual((done.status, done.value), (HW.STATUS_OK, 0))
        self.stamp(space, 0, generation=8)
        self.m.step(10_000)
        r, = self.ring.take()
        self.assertEqual((r.page, r.access, r.reason), (0, HW.ACCESS_WRITE, HW.REASON_READ_ONLY))
        self.assertEqual(self.frame(0), stamps(0, WORDS))
        space.map(0, 0)
        self.ring.replay()
        self.assertStatus(self.s.end(), HW.STATUS_OK)
        self.assertEqual(self.frame(0), stamps(0, WORDS, 8))

    def test_a_reset_forgets_all(self):
        space = self.space(1)
        space.map(0, 0)
        self.stamp(space, 0)
        self.s.end()
        self.f.flr()
        s = Spaces(self.f, strands=1)
        space = s.space(1, 1)
        space.map(0, 1)
        self.stamp(space, 0)
        self.assertStatus(s.end(), HW.STATUS_OK)
        self.assertEqual((self.frame(0, 8), self.frame(1, 8)), (bytes(8), stamps(0, 1)))


class Marks(SpaceTest):
    def test_reads_and_writes_leave_marks(self):
        space = self.space(4)
        space.map_all()
        space.run(HW.JOB_REDUCE, PAGE, WORDS)
        self.assertEqual([space.mark(p) for p in range(4)], [0, HW.MARK_ACCESSED, 0, 0])
        self.stamp(space, 1)
        self.s.end()
        self.stamp(space, 2)
        self.s.end()
        both = HW.MARK_ACCESSED | HW.MARK_DIRTY
        self.assertEqual([space.mark(p) for p in range(4)], [0, both, both, 0])

    def test_marks_that_were_taken_come_again_after_an_invalidation(self):
        space = self.space(1)
        space.map_all()
        for invalidate, expected in ((False, 0), (True, HW.MARK_ACCESSED | HW.MARK_DIRTY)):
            self.stamp(space, 0)
            self.s.end()
            self.m.write(space.marks[0], 1, 0)
            if invalidate:
                self.s.invalidate(1)
            self.stamp(space, 0)
            self.s.end()
            self.assertEqual(space.mark(0), expected)

    def test_a_space_may_do_without_marks(self):
        space = self.space(1)
        space.map_all()
        self.m.write(space.second[0] + 8, 8, 0)
        self.stamp(space, 0)
        self.assertStatus(self.s.end(), HW.STATUS_OK)
        self.assertEqual(space.mark(0), 0)

    def test_a_write_that_faults_leaves_no_mark(self):
        space = self.space(1)
        space.map(0, 0, 0)
        self.stamp(space, 0)
        self.m.step(10_000)
        self.assertEqual(len(self.ring.take()), 1)
        self.assertEqual(space.mark(0), 0)

    def test_marks_of_neighbours_are_left_alone(self):
        space = self.space(3)
        space.map_all()
        self.m.poke(space.marks[0], b"\xF0\xF4\xF8")
        self.stamp(space, 1)
        self.s.end()
        self.assertEqual(self.m.peek(space.marks[0], 3), b"\xF0\xF7\xF8")


class Invalidation(SpaceTest):
    def test_it_takes_its_time(self):
        s = self.spaces()
        start = self.m.now
        self.assertEqual(s.invalidate(1).time_ns - start, LATENCY + 500)
        start = self.m.now
        self.assertEqual(s.invalidate(1, flags=0).time_ns - start, LATENCY + 500)
        self.assertEqual(self.f.counter("INVALIDATIONS"), 2)

    def test_an_ordered_one_keeps_its_place_in_its_class(self):
        s = self.spaces()
        q = s.transfers
        host = self.m.alloc(1 << 20)
        q.push(HW.OP_READ, ring=False, device_addr=0, host_addr=host, bytes=1 << 20)
        q.push(HW.OP_INVALIDATE, ring=False, asid=1)
        q.push(HW.OP_READ, device_addr=0, host_addr=host, bytes=4096)
        start = self.m.now
        self.m.step(1_000_000)
        bulk = LATENCY + 131_072
        self.assertEqual([c.time_ns - start for c in q.take()], [bulk, bulk + 500, bulk + 500 + 512])

    def test_a_relaxed_one_passes_everything(self):
        s = self.spaces()
        q = s.transfers
        for flags in (0, HW.DESC_RELAXED):
            q.push(HW.OP_READ, ring=False, device_addr=0, host_addr=self.m.alloc(1 << 20), bytes=1 << 20, flags=flags)
        at = q.push(HW.OP_INVALIDATE, asid=1, flags=HW.DESC_RELAXED)
        start = self.m.now
        self.m.step(LATENCY + 500)
        self.assertEqual([(c.transaction, c.time_ns - start) for c in q.take()], [(at, LATENCY + 500)])

    def test_a_fence_waits_for_it(self):
        s = self.spaces(invalidate_ns=50_000)
        q = s.transfers
        q.push(HW.OP_INVALIDATE, ring=False, asid=1, flags=HW.DESC_RELAXED)
        q.push(HW.OP_FENCE)
        self.m.step(40_000)
        self.assertEqual(q.take(), [])
        self.m.step(20_000)
        self.assertEqual(len(q.take()), 2)

    def test_it_waits_for_a_write_on_its_way_to_host_memory(self):
        for flags in (0, HW.DESC_RELAXED):
            # 256 words are 2048 ns at 1000 bytes/us.
            space = self.space(3, link_bytes_per_us=1000)
            at = space.map_remote(0)
            space.map(1, 1)
            self.stamp(space, 0)
            start = self.m.now
            # The step is at 1000, its latency over at 2000, its bytes at 4048.
            self.m.step(1_200)
            self.f.reg(HW.REG_TIME)
            ids = [self.s.commands.push(HW.OP_INVALIDATE, asid=1, device_addr=page, host_addr=1,
                                        flags=HW.DESC_RELAXED) for page in (1, 0)]
            space.set(0, 0)
            self.m.step(start + 4_047 - self.m.now)
            self.assertEqual([c.transaction for c in self.s.commands.take()], ids[:1])
            self.assertEqual(self.m.peek(at, 8), bytes(8))
            self.m.step(1)
            self.assertEqual([(c.transaction, c.time_ns - start) for c in self.s.commands.take()],
                             [(ids[1], 4_048)])
            self.assertEqual(self.m.peek(at, PAGE), stamps(0, 256) + bytes(2048))
            # The strand's next step faults.
            self.m.step(20_000)
            self.assertEqual([r.page for r in self.ring.take()], [0])
            self.assertEqual(self.m.peek(at, PAGE), stamps(0, 256) + bytes(2048))

    def test_it_waits_for_the_other_pages_of_such_a_step(self):
        space = self.space(3, link_bytes_per_us=1000)
        space.map_remote(0)
        space.map(1, 1)
        space.map(2, 2)
        # a is in host memory, b and c are not: one step of 128 results.
        space.submit(HW.JOB_TRIAD, 0, PAGE, 2 * PAGE, 128, 0)
        start = self.m.now
        self.m.step(1_200)
        self.s.commands.push(HW.OP_INVALIDATE, asid=1, device_addr=2, host_addr=1, flags=HW.DESC_RELAXED)
        self.m.step(1_700)
        self.assertEqual(self.s.commands.take(), [])
        self.m.step(10_000)
        c, = self.s.commands.take()
        self.assertEqual(c.time_ns - start, 3_024)

    def test_it_waits_for_no_step_that_began_after_it(self):
        space = self.space(2, link_bytes_per_us=1000, invalidate_ns=3_000)
        space.map_remote(0)
        self.s.commands.push(HW.OP_INVALIDATE, asid=1, flags=HW.DESC_RELAXED)
        self.m.step(500)
        self.stamp(space, 0)
        self.m.step(LATENCY + 3_000 - 500)
        self.assertEqual(len(self.s.commands.take()), 1)
        self.assertStatus(self.s.end(), HW.STATUS_OK)

    def test_it_is_released_by_what_ends_the_job(self):
        for how in ("cancel", "reset"):
            space = self.space(1, link_bytes_per_us=1)
            at = space.map_remote(0)
            job = self.stamp(space, 0)
            self.m.step(10_000)
            self.s.commands.push(HW.OP_INVALIDATE, asid=1, flags=HW.DESC_RELAXED)
            self.m.step(10_000)
            self.assertEqual(self.s.commands.take(), [])
            if how == "cancel":
                self.s.commands.push(HW.OP_CANCEL, device_addr=job, flags=HW.DESC_RELAXED)
            else:
                self.s.jobs.reset()
            self.m.step(10_000)
            self.assertEqual(len(self.s.commands.take()), 2 if how == "cancel" else 1)
            self.m.step(10_000_000)
            self.assertEqual(self.m.peek(at, PAGE), bytes(PAGE))

    def test_statuses(self):
        q = self.spaces().transfers
        self.assertStatus(q.run(HW.OP_INVALIDATE, asid=HW.MAX_AS - 1), HW.STATUS_OK, 0)
        self.assertStatus(q.run(HW.OP_INVALIDATE, asid=HW.MAX_AS), HW.STATUS_AS, 0)
        self.assertStatus(q.run(HW.OP_INVALIDATE, asid=1, bytes=1), HW.STATUS_LENGTH, 0)
        self.assertStatus(q.run(HW.OP_INVALIDATE, asid=1, flags=HW.DESC_SG), HW.STATUS_FLAGS, 0)
        self.assertStatus(q.run(HW.OP_INVALIDATE, asid=1, reserved11=1), HW.STATUS_FLAGS, 0)


class Remote(SpaceTest):
    def test_host_memory_is_read_and_written_over_the_link(self):
        space = self.space(2)
        a, b = space.map_remote(0), space.map_remote(1)
        self.m.poke(a, bytes(range(256)) * 16)
        # 128 results a step: twice 128 words come, as many go; b's are read and written.
        busy = self.f.counter("BUSY_NS")
        start = self.m.now
        done = space.run(HW.JOB_TRIAD, PAGE, 0, PAGE, 128, 0)
        self.assertStatus(done, HW.STATUS_OK)
        self.assertEqual(self.m.peek(b, 1024), (bytes(range(256)) * 16)[:1024])
        self.assertEqual((self.f.counter("REMOTE_READ"), self.f.counter("REMOTE_WRITTEN")), (2048, 1024))
        self.assertEqual(self.f.counter("BUSY_NS") - busy, 3072 // 8)
        # Fetched, one flight of 3 KiB, two walks, 3 elements a result.
        self.assertEqual(done.time_ns - start, LATENCY + LATENCY + 384 + 2 * MISS + 3 * 128)
        self.assertEqual((self.f.counter("BYTES_READ"), self.f.counter("BYTES_WRITTEN")), (0, 0))

    def test_only_what_a_step_writes_is_written(self):
        space = self.space(1)
        at = space.map_remote(0)
        self.m.poke(at, b"\xEE" * PAGE)
        space.run(HW.JOB_STAMP, 24, 3, 0, 1)
        self.assertEqual(self.m.peek(at, PAGE), b"\xEE" * 24 + stamps(0, 3, 1) + b"\xEE" * (PAGE - 48))

    def test_host_memory_that_is_not_there_ends_the_job(self):
        for kind, arguments in ((HW.JOB_REDUCE, (16, 8)), (HW.JOB_STAMP, (16, 8, 0, 1))):
            space = self.space(1)
            space.map_remote(0, at=1 << 40)
            done = space.run(kind, *arguments)
            self.assertStatus(done, HW.STATUS_HOST_ACCESS)
            self.assertEqual(done.value, 16)

    def test_registers_are_no_host_memory(self):
        space = self.space(1)
        space.map_remote(0, at=self.m.MEM32)
        self.assertStatus(space.run(HW.JOB_REDUCE, 0, 8), HW.STATUS_HOST_ACCESS)

    def test_flights_have_their_share_of_the_link(self):
        functions = self.functions(2, mem_size="12M", link_bytes_per_us=100)
        a, b = functions[1:]
        s = Spaces(a, strands=8)
        space = s.space(1, 8)
        for page in range(8):
            space.map_remote(page)
        space.submit(HW.JOB_STAMP, 0, 8 * WORDS, 0, 1, element_ps=0, order=HW.JOB_BLOCKED)
        q = b.queue(0)
        q.push(HW.OP_READ, device_addr=0, host_addr=a.m.alloc(1 << 20), bytes=1 << 20)
        a.m.step(300_000)
        written, read = a.counter("REMOTE_WRITTEN"), b.counter("BYTES_READ")
        self.assertLessEqual(abs(written - read), 3 * 4096)
        self.assertGreater(written, 8_000)

    def test_flights_wait_for_no_bulk_transfers_of_the_same_function(self):
        for flags in (0, HW.DESC_RELAXED):
            space = self.space(1)
            space.map_remote(0)
            for _ in range(4):
                self.s.transfers.push(HW.OP_READ, device_addr=0, host_addr=self.m.alloc(1 << 20), bytes=1 << 20,
                                      flags=flags)
            self.m.step(50_000)
            start = self.m.now
            self.stamp(space, 0, words=256)
            c = self.s.end(ns=10_000)
            # Fetched, over the link after at most one quantum, and its own time.
            self.assertLessEqual(c.time_ns - start, LATENCY + LATENCY + 512 + 256 + MISS + 256)

    def test_flights_and_both_kinds_of_transfers_all_get_on(self):
        space = self.space(8, link_bytes_per_us=1000)
        for page in range(8):
            space.map_remote(page)
        for flags in (0, HW.DESC_RELAXED):
            self.s.transfers.push(HW.OP_READ, device_addr=0, host_addr=self.m.alloc(1 << 16), bytes=1 << 16,
                                  flags=flags)
        self.stamp(space, 0, 8, strands=8, order=HW.JOB_BLOCKED, element_ps=0)
        # In 24 quanta: a flight is of 2 KiB.
        self.m.step(2 * LATENCY + 100_000)
        self.assertEqual(self.f.counter("REMOTE_WRITTEN"), 8 * PAGE)
        self.assertGreater(self.f.counter("BYTES_READ"), 50_000)

    def test_ordered_transfers_do_not_wait_for_flights_of_the_same_function(self):
        space = self.space(8, link_bytes_per_us=1000)
        for page in range(8):
            space.map_remote(page)
        self.stamp(space, 0, 8, strands=8, order=HW.JOB_BLOCKED)
        self.m.step(3_000)
        start = self.m.now
        self.s.transfers.push(HW.OP_READ, device_addr=0, host_addr=self.m.alloc(PAGE), bytes=PAGE)
        self.m.step(20_000)
        c, = self.s.transfers.take()
        self.assertLessEqual(c.time_ns - start, LATENCY + 3 * 4096)


class Structures(DeviceTest):
    def test_sizes(self):
        self.assertEqual([s.size for s in (AS, HW.pt_block, HW.fault, HW.job, HW.desc, HW.completion)],
                         [32, 16, 32, 128, 64, 32])
