# SPDX-License-Identifier: GPL-2.0
"""The life of jobs: what is refused, who runs when, how they end."""

import random
import struct

import kernels
from case import DeviceTest
from kernels import stamped
from lib import HW, Slot
from spaces import PAGE, Spaces, bits, u32, u64
from test_hostile import SEED

LATENCY = 1000
WORDS = PAGE // 8
MISS = 200
SPACE = 16


class JobTest(DeviceTest):
    def resident(self, pages=SPACE, asid=1, strands=1, **options):
        """A space whose pages are all there, in frames of the same numbers."""
        options.setdefault("mem_size", "4M")
        self.s = Spaces(self.fresh_pf(**options), strands=strands)
        self.m, self.f, self.ring = self.s.m, self.s.f, self.s.ring
        space = self.s.space(asid, pages)
        space.map_all()
        return space

    def put(self, offset, data):
        self.f.set_window(offset, data)

    def stamp(self, space, words=WORDS, **fields):
        return space.submit(HW.JOB_STAMP, 0, words, 0, 1, **fields)

    def wait_forever(self, asid=2, **fields):
        """A job that waits for a page."""
        space = self.s.space(asid, 1)
        job = self.stamp(space, **fields)
        self.m.step(2 * LATENCY)
        return job


class Checks(JobTest):
    def test_what_a_job_may_not_say(self):
        space = self.resident()
        for fields in (dict(kind=0), dict(kind=HW.JOB_KINDS + 1), dict(kind=1 << 31), dict(reserved=1), dict(flags=1),
                       dict(order=3), dict(strands=0), dict(strands=1025), dict(strands=0xFFFFFFFF), dict(element_ps=1000000001)):
            done = space.run(HW.JOB_REDUCE, 0, 8, job=fields)
            self.assertStatus(done, HW.STATUS_JOB, 0)
            self.assertEqual(done.value, HW.JOB_ARGUMENTS, fields)

    def test_arguments_beyond_a_kinds_own_are_0(self):
        space = self.resident()
        count = {HW.JOB_TRIAD: 5, HW.JOB_STENCIL: 8, HW.JOB_GEMM: 7, HW.JOB_CONV2D: 8, HW.JOB_SPMV: 7, HW.JOB_BFS: 5,
                 HW.JOB_PAGERANK: 8, HW.JOB_GATHER: 5, HW.JOB_SCATTER: 5, HW.JOB_REDUCE: 2, HW.JOB_STAMP: 4,
                 HW.JOB_CHECK: 5}
        for kind, n in count.items():
            for extra in (n, HW.JOB_ARGUMENTS - 1):
                arguments = [0] * HW.JOB_ARGUMENTS
                arguments[extra] = 1
                done = space.run(kind, *arguments)
                self.assertEqual((done.status, done.value), (HW.STATUS_JOB, extra))

    def test_arrays_are_aligned_and_inside_of_the_space(self):
        space = self.resident()
        end = SPACE * PAGE
        one = bits(1.0)
        arrays = {
            HW.JOB_TRIAD: ([0, 0, 0, 8, one], {0: 64, 1: 64, 2: 64}, ()),
            HW.JOB_STENCIL: ([0, 0, 2, 2, 2, 1, one, one], {0: 64, 1: 64}, ()),
            HW.JOB_GEMM: ([0, 0, 0, 2, 4, 3, 2], {0: 48, 1: 96, 2: 64}, ()),
            HW.JOB_CONV2D: ([0, 0, 0, 2, 3, 4, 5, 2], {0: 320, 1: 192, 2: 288}, ()),
            HW.JOB_SPMV: ([0, 0, 0, 0, 0, 4, 6], {0: 40, 3: 48, 4: 32}, (1, 2)),
            HW.JOB_BFS: ([0, 0, 0, 4, 0], {0: 40, 2: 16}, (1,)),
            HW.JOB_PAGERANK: ([0, 0, 0, 0, 0, 4, 1, one], {0: 40, 2: 16, 3: 32, 4: 32}, (1,)),
            HW.JOB_GATHER: ([0, 0, 0, 4, 6], {0: 48, 1: 16, 2: 32}, ()),
            HW.JOB_SCATTER: ([0, 0, 0, 4, 6], {0: 32, 1: 16, 2: 48}, ()),
            HW.JOB_REDUCE: ([0, 4], {0: 32}, ()),
            HW.JOB_STAMP: ([0, 4, 0, 0], {0: 32}, ()),
            HW.JOB_CHECK: ([0, 4, 0, 0, 0], {0: 32}, ()),
        }
        for kind, (arguments, sizes, open_ended) in arrays.items():
            for i in (*sizes, *open_ended):
                for offset, status, value in ((2, HW.STATUS_JOB, i), (end + 8, HW.STATUS_SPACE_RANGE, end + 8),
                                              ((1 << 64) - 8, HW.STATUS_SPACE_RANGE, (1 << 64) - 8)):
                    done = space.run(kind, *[offset if n == i else a for n, a in enumerate(arguments)])
                    self.assertEqual((done.status, done.value), (status, value), (kind, i, offset))
            for i, size in sizes.items():
                at = end - size
                done = space.run(kind, *[at + 8 if n == i else a for n, a in enumerate(arguments)])
                self.assertEqual((done.status, done.value), (HW.STATUS_SPACE_RANGE, end), (kind, i))
                done = space.run(kind, *[at if n == i else a for n, a in enumerate(arguments)])
                if kind not in (HW.JOB_SPMV, HW.JOB_BFS, HW.JOB_PAGERANK):  # what the rows say is left to chance
                    self.assertNotIn(done.status, (HW.STATUS_SPACE_RANGE, HW.STATUS_JOB), (kind, i))

    def test_sizes_that_wrap_around_are_too_large(self):
        space = self.resident()
        huge, one = 1 << 61, bits(1.0)
        for kind, arguments in (
                (HW.JOB_TRIAD, (0, 0, 0, huge, one)), (HW.JOB_TRIAD, (8, 0, 0, (1 << 64) - 1, one)),
                (HW.JOB_STENCIL, (0, 0, 1 << 32, 1 << 32, 1, 1, one, one)),
                (HW.JOB_STENCIL, (0, 0, 1 << 22, 1 << 22, 1 << 22, 1, one, one)),
                (HW.JOB_GEMM, (0, 0, 0, 1 << 32, 1 << 32, 1, 1)), (HW.JOB_GEMM, (0, 0, 0, 1, 1, huge, 1)),
                (HW.JOB_CONV2D, (0, 0, 0, huge, 1, 8, 8, 1)), (HW.JOB_CONV2D, (0, 0, 0, 1, huge, 8, 8, 1)),
                (HW.JOB_CONV2D, (0, 0, 0, 1 << 32, 1 << 32, 1, 1, 1)),
                (HW.JOB_SPMV, (0, 0, 0, 0, 0, (1 << 64) - 1, 1)), (HW.JOB_SPMV, (0, 0, 0, 0, 0, 1, huge)),
                (HW.JOB_PAGERANK, (0, 0, 0, 0, 0, (1 << 64) - 1, 1, one)), (HW.JOB_GATHER, (0, 0, 0, huge, 1)),
                (HW.JOB_SCATTER, (0, 0, 0, 1, huge)), (HW.JOB_REDUCE, (0, huge)),
                (HW.JOB_STAMP, (0, (1 << 64) - 1, 0, 0))):
            self.assertStatus(space.run(kind, *arguments), HW.STATUS_SPACE_RANGE)

    def test_impossible_arguments(self):
        space = self.resident()
        for kind, arguments, which in (
                (HW.JOB_GEMM, (0, 0, 0, 1, 1, 1, 0), 6), (HW.JOB_GEMM, (0, 0, 0, 1, 1, 1, 513), 6),
                (HW.JOB_CONV2D, (0, 0, 0, 0, 1, 4, 4, 2), 3), (HW.JOB_CONV2D, (0, 0, 0, 1, 1, 4, 4, 0), 7),
                (HW.JOB_CONV2D, (0, 0, 0, 1, 1, 4, 9, 5), 7), (HW.JOB_CONV2D, (0, 0, 0, 1, 1, 9, 4, 5), 7),
                (HW.JOB_BFS, (0, 0, 0, 4, 4), 4), (HW.JOB_BFS, (0, 0, 0, (4 << 20) // 8 + 1, 0), 3),
                (HW.JOB_BFS, (0, 0, 0, (1 << 64) - 1, 0), 3)):
            done = space.run(kind, *arguments)
            self.assertEqual((done.status, done.value), (HW.STATUS_JOB, which), (kind, arguments))

    def test_a_job_of_nothing_is_done_at_once(self):
        space = self.resident()
        one = bits(1.0)
        for kind, arguments in (
                (HW.JOB_TRIAD, (0, 0, 0, 0, one)), (HW.JOB_STENCIL, (0, 0, 0, 9, 9, 1, one, one)),
                (HW.JOB_STENCIL, (0, 0, 2, 2, 2, 0, one, one)), (HW.JOB_GEMM, (0, 0, 0, 0, 1 << 40, 0, 1)),
                (HW.JOB_SPMV, (0, 0, 0, 0, 0, 0, 0)), (HW.JOB_BFS, (0, 0, 0, 0, 0)),
                (HW.JOB_PAGERANK, (0, 0, 0, 0, 0, 0, 5, one)), (HW.JOB_PAGERANK, (0, 0, 0, 0, 0, 4, 0, one)),
                (HW.JOB_GATHER, (0, 0, 0, 0, 0)), (HW.JOB_REDUCE, (SPACE * PAGE, 0)), (HW.JOB_CHECK, (0, 0, 1, 2, 3))):
            start = self.m.now
            done = space.run(kind, *arguments)
            self.assertEqual((done.status, done.value, done.time_ns - start), (HW.STATUS_OK, 0, LATENCY), kind)

    def test_indices_that_lead_out(self):
        space = self.resident()
        end = SPACE * PAGE
        self.put(0, u32([0, 7, 8]))
        out = (HW.STATUS_SPACE_RANGE, 8192 + 64)
        done = space.run(HW.JOB_GATHER, 8192, 0, 4096, 3, 8)
        self.assertEqual((done.status, done.value), out)
        done = space.run(HW.JOB_SCATTER, 4096, 0, 8192, 3, 8)
        self.assertEqual((done.status, done.value), out)
        # One row of 3 entries, whose columns are those.
        self.put(4096, u64([0, 3]))
        done = space.run(HW.JOB_SPMV, 4096, 0, 12288, 8192, 16384, 1, 8)
        self.assertEqual((done.status, done.value), out)
        done = space.run(HW.JOB_PAGERANK, 4096, 4, 12288, 8192, 16384, 1, 1, bits(0.5))
        self.assertEqual((done.status, done.value), (HW.STATUS_SPACE_RANGE, 8192 + 56))
        done = space.run(HW.JOB_BFS, 4096, 0, 12288, 1, 0)
        self.assertEqual((done.status, done.value), (HW.STATUS_SPACE_RANGE, 12288 + 28))
        # Rows that end before they begin, or nowhere.
        self.put(4096, u64([3, 2]))
        done = space.run(HW.JOB_SPMV, 4096, 0, 12288, 8192, 16384, 1, 8)
        self.assertEqual((done.status, done.value), (HW.STATUS_JOB, 4104))
        for far in (end // 4, 1 << 61, 1 << 62, (1 << 64) - 2):
            self.put(4096, u64([far, far + 1]))
            for kind, arguments in ((HW.JOB_SPMV, (4096, 0, 12288, 8192, 16384, 1, 8)),
                                    (HW.JOB_PAGERANK, (4096, 0, 12288, 8192, 16384, 1, 1, bits(0.5))),
                                    (HW.JOB_BFS, (4096, 0, 12288, 1, 0))):
                done = space.run(kind, *arguments)
                self.assertEqual((done.status, done.value), (HW.STATUS_SPACE_RANGE, end))

    def test_the_structure_has_its_size_and_is_in_memory(self):
        self.resident()
        q = self.s.jobs
        for size in (0, HW.job.size - 1, HW.job.size + 1, 4096):
            self.assertStatus(q.run(HW.OP_JOB, asid=1, bytes=size), HW.STATUS_LENGTH, 0)
        for at in (1 << 40, (1 << 64) - 64, self.m.MEM32):
            self.assertStatus(q.run(HW.OP_JOB, asid=1, bytes=HW.job.size, host_addr=at), HW.STATUS_HOST_ACCESS, 0)
        for flags in (HW.DESC_RELAXED, HW.DESC_SG):
            self.assertStatus(q.run(HW.OP_JOB, asid=1, bytes=HW.job.size, flags=flags), HW.STATUS_FLAGS, 0)

    def test_each_class_takes_its_own(self):
        self.resident()
        for opcode in (HW.OP_READ, HW.OP_WRITE, HW.OP_FILL, HW.OP_COPY, HW.OP_INVALIDATE, HW.OP_CANCEL):
            self.assertStatus(self.s.jobs.run(opcode, bytes=8), HW.STATUS_CLASS, 0)
        for q in (self.s.transfers, self.s.commands):
            self.assertStatus(q.run(HW.OP_JOB, bytes=HW.job.size), HW.STATUS_CLASS, 0)
        for q in (self.s.transfers, self.s.commands, self.s.jobs):
            self.assertStatus(q.run(HW.OP_FENCE), HW.STATUS_OK, 0)
            self.assertStatus(q.run(9), HW.STATUS_OPCODE, 0)


class Time(JobTest):
    def test_strands_share_the_work(self):
        for strands, order in ((1, 0), (4, 0), (8, 1), (8, 2)):
            space = self.resident(strands=strands)
            start = self.m.now
            self.stamp(space, 8 * WORDS, order=order)
            ns = self.s.end().time_ns - start
            elements = 8 * WORDS // strands
            self.assertGreaterEqual(ns, LATENCY + elements)
            self.assertLessEqual(ns, LATENCY + elements + 8 * MISS)

    def test_picoseconds_add_up(self):
        for ps, ns in ((0, 2), (1, 2), (250, 128), (333, 170), (999, 511), (1001, 512), (10**9, 512 * 10**6)):
            space = self.resident(tlb_miss_ns=0)
            start = self.m.now
            self.stamp(space, element_ps=ps)
            self.assertEqual(self.s.end(ns=1_000_000_000).time_ns - start, LATENCY + ns, ps)

    def test_resident_and_flat_take_the_same_time(self):
        times = []
        for flat in (False, True):
            space = self.resident(strands=16)
            if flat:
                self.s.flat(1, 0, SPACE)
            start = self.m.now
            done = space.run(HW.JOB_TRIAD, 0, 4 * PAGE, 8 * PAGE, 4 * WORDS, bits(2.0))
            times.append((done.status, done.time_ns - start, self.f.counter("TLB_MISSES"), self.f.counter("TLB_HITS")))
        self.assertEqual(times[0], times[1])

    def test_results_and_times_do_not_depend_on_when_one_looks(self):
        def run(step):
            case = kernels.make(kernels.pagerank, 3)
            s = Spaces(self.pf(mem_size="1M"), strands=8)
            space = s.space(1, case.pages)
            space.map_all()
            s.f.set_window(0, case.contents)
            space.submit(case.kind, *case.arguments)
            until = s.m.now + 60_000
            while s.m.now < until:
                s.m.step(min(step, until - s.m.now))
                s.f.counter("TLB_HITS")
            done = s.end()
            return done, s.f.counter("TLB_HITS"), s.f.window(0, case.pages * PAGE)

        self.assertEqual(run(60_000), run(1_777))

    def test_slots_are_for_so_many_jobs_and_others_wait(self):
        space = self.resident(job_slots=2)
        self.stamp(space)
        self.s.end()
        ids = [self.stamp(space) for _ in range(5)]
        self.m.step(100_000)
        done = self.s.jobs.take()
        start = done[0].time_ns
        self.assertEqual([c.transaction for c in done], ids)
        self.assertEqual([c.time_ns - start for c in done], [0, 0, WORDS, WORDS, 2 * WORDS])

    def test_jobs_of_two_functions_do_not_wait_for_each_other(self):
        functions = self.functions(2, mem_size="12M", job_slots=1)[1:]
        for f in functions:
            s = Spaces(f, strands=1)
            s.flat(1, 0, 4)
            s.submit(1, HW.JOB_STAMP, 0, 4 * WORDS, 0, 1)
        f.m.step(LATENCY + MISS * 4 + 4 * WORDS)
        f.m.step(1_000)
        self.assertEqual(len({f.queues[2].take()[0].time_ns for f in functions}), 1)

    def test_transfers_go_on_beside_jobs(self):
        space = self.resident(strands=64)
        self.stamp(space, SPACE * WORDS, element_ps=1_000_000)
        self.m.step(5_000)
        start = self.m.now
        self.s.transfers.push(HW.OP_READ, device_addr=0, host_addr=self.m.alloc(PAGE), bytes=PAGE)
        self.m.step(10_000)
        self.assertEqual([c.time_ns - start for c in self.s.transfers.take()], [LATENCY + 512])


class Ends(JobTest):
    def test_completions_are_as_all_others(self):
        space = self.resident()
        message = self.f.msix(2)
        job = self.stamp(space)
        c = self.s.end()
        self.assertEqual((c.transaction, c.bytes, c.value), (job, 0, 0))
        self.assertTrue(message.taken())
        self.stamp(space, flags=HW.DESC_QUIET)
        self.s.end()
        self.assertFalse(message.taken())
        self.assertEqual((self.f.counter("JOBS"), self.f.counter("TRANSFERS"), self.f.counter("DEPTH")), (2, 2, 0))

    def test_a_fence_comes_after_the_jobs_before_it(self):
        space = self.resident()
        long = self.stamp(space, 8 * WORDS)
        fence = self.s.jobs.push(HW.OP_FENCE)
        short = self.stamp(space, 8)
        self.s.transfers.push(HW.OP_FENCE)
        self.m.step(100_000)
        self.assertEqual([c.transaction for c in self.s.jobs.take()], [short, long, fence])
        self.assertEqual(len(self.s.transfers.take()), 1)

    def test_cancelling_ends_running_waiting_and_missing_jobs(self):
        for jobs in ("running", "waiting", "missing"):
            space = self.resident(job_slots=1)
            if jobs == "missing":
                job, other = self.wait_forever(), None
            else:
                other = self.stamp(space, SPACE * WORDS, element_ps=1_000_000)
                job = other
                if jobs == "waiting":
                    job = self.stamp(space)
                self.m.step(5_000)
            start = self.m.now
            cancel = self.s.commands.push(HW.OP_CANCEL, device_addr=job)
            self.m.step(5_000)
            done, = self.s.jobs.take()
            self.assertEqual((done.transaction, done.value), (job, 0))
            self.assertStatus(done, HW.STATUS_CANCELLED, 0)
            c, = self.s.commands.take()
            self.assertStatus(c, HW.STATUS_OK, 0)
            self.assertEqual((c.transaction, done.time_ns - start, c.time_ns - start), (cancel, LATENCY, LATENCY))
            if jobs == "waiting":
                self.assertStatus(self.s.end(10_000_000), HW.STATUS_OK)

    def test_cancelling_gives_the_slot_to_the_next(self):
        space = self.resident(job_slots=1)
        job = self.wait_forever()
        following = self.stamp(space)
        self.m.step(10_000)
        self.assertEqual(self.s.jobs.take(), [])
        self.s.commands.push(HW.OP_CANCEL, device_addr=job)
        self.m.step(10_000)
        self.assertEqual([(c.transaction, c.status) for c in self.s.jobs.take()],
                         [(job, HW.STATUS_CANCELLED), (following, HW.STATUS_OK)])

    def test_cancelling_what_is_not_there(self):
        space = self.resident()
        self.stamp(space)
        self.s.end()
        for id in (0, 12345):
            self.assertStatus(self.s.commands.run(HW.OP_CANCEL, device_addr=id), HW.STATUS_OK, 0)
        self.assertStatus(self.s.commands.run(HW.OP_CANCEL, bytes=8), HW.STATUS_LENGTH, 0)
        self.assertStatus(self.s.commands.run(HW.OP_CANCEL, asid=1), HW.STATUS_FLAGS, 0)

    def test_cancelling_ends_all_of_that_transaction_and_no_other(self):
        self.resident()
        for asid, id in ((2, 50), (3, 51), (4, 50), (5, 50)):
            self.wait_forever(asid, transaction=id)
        self.s.commands.push(HW.OP_CANCEL, device_addr=50, flags=HW.DESC_RELAXED)
        self.m.step(5_000)
        self.assertEqual([(c.transaction, c.status) for c in self.s.jobs.take()], [(50, HW.STATUS_CANCELLED)] * 3)
        self.assertEqual(len(self.s.commands.take()), 1)

    def test_a_cancel_waits_until_the_completion_is_posted(self):
        for running, status in ((True, HW.STATUS_CANCELLED), (False, HW.STATUS_OK)):
            space = self.resident()
            self.s.jobs.reset()
            jobs = self.s.jobs = self.f.queue(2, order=1, cls=HW.CLASS_COMPUTE)
            for _ in range(2):
                jobs.push(HW.OP_FENCE)
                self.m.step(5_000)
            self.assertEqual(len(jobs.take(head=False)), 2)
            job = self.stamp(space, element_ps=10_000_000 if running else 1)
            self.m.step(5_000)
            self.s.commands.push(HW.OP_CANCEL, device_addr=job)
            self.m.step(5_000)
            self.assertEqual(self.s.commands.take(), [])
            jobs.set(HW.QREG_CQ_HEAD, jobs.head)
            self.m.step(5_000)
            self.assertEqual([(c.transaction, c.status) for c in jobs.take()], [(job, status)])
            self.assertEqual(len(self.s.commands.take()), 1)

    def test_a_reset_of_the_queue_ends_its_jobs_and_nothing_else(self):
        space = self.resident(job_slots=2, queues=4)
        other = self.f.queue(3, cls=HW.CLASS_COMPUTE)
        for asid in (2, 3, 4):
            self.wait_forever(asid)
        mine, self.s.jobs = self.s.jobs, other
        job = self.stamp(space)
        self.m.step(10_000)
        self.assertEqual(other.take(), [])
        mine.reset()
        self.assertEqual(mine.status(), 0)
        self.m.step(10_000)
        self.assertEqual([c.transaction for c in other.take()], [job])
        self.assertEqual((mine.take(head=False), self.f.counter("DEPTH")), ([], 0))
        self.assertEqual(self.f.counter("JOBS"), 4)

    def test_a_reset_waits_for_the_quantum_that_is_on_the_link(self):
        space = self.resident(link_bytes_per_us=1, link_quantum=512)
        at = space.map_remote(0)
        self.stamp(space)
        self.m.step(2 * LATENCY + 100_000)
        self.s.jobs.reset()
        self.assertEqual(self.s.jobs.status(), HW.QSTAT_ENABLED | HW.QSTAT_RESETTING)
        self.m.step(500_000)
        self.assertEqual(self.s.jobs.status(), 0)
        self.m.step(10_000_000)
        self.assertEqual(self.m.peek(at, PAGE), bytes(PAGE))

    def test_a_function_reset_ends_all_at_once(self):
        pf, vf = self.functions(1, mem_size="8M", link_bytes_per_us=1)
        for f in (vf, pf):
            s = Spaces(f, strands=4)
            space = s.space(1, 4)
            ats = [space.map_remote(p) for p in range(3)]
            s.submit(1, HW.JOB_STAMP, 0, 4 * WORDS, 0, 1, order=HW.JOB_BLOCKED)
            f.m.step(50_000)
            self.assertEqual(len(s.ring.take()), 1)
            f.flr()
            f.m.step(100_000_000)
            self.assertEqual([f.m.peek(a, PAGE) for a in ats], [bytes(PAGE)] * 3)
            self.assertEqual((f.counter("DEPTH"), f.counter("JOBS"), f.counter("REMOTE_WRITTEN")), (0, 0, 0))

    def test_the_partition_stays_while_jobs_can_run(self):
        pf, vf = self.functions(1, mem_size="8M")
        s = Spaces(vf)
        s.space(1, 1)
        s.submit(1, HW.JOB_STAMP, 0, WORDS, 0, 1)
        vf.m.step(10_000)
        for q in (s.transfers, s.commands):
            q.reset()
        self.assertEqual(pf.partition(1, 4 << 20, 0), HW.PART_BUSY)
        s.jobs.reset()
        self.assertEqual(pf.partition(1, 4 << 20, 0), HW.PART_OK)

    def test_without_mastering_a_job_ends_or_waits_but_harms_nobody(self):
        pf, a, b = self.functions(2, mem_size="12M")
        spaces = []
        for f in (a, b):
            s = Spaces(f, strands=4)
            space = s.space(1, 8)
            space.map_all()
            s.submit(1, HW.JOB_STAMP, 0, 8 * WORDS, 0, 1, element_ps=100_000)
            spaces.append(s)
        pf.m.step(20_000)
        a.enable(2)
        self.assertStatus(spaces[1].end(), HW.STATUS_OK)
        a.enable()
        self.assertEqual(spaces[0].jobs.error(), HW.QERR_CQ_WRITE)


class OnDemand(JobTest):
    def test_rules_match_the_new_opcodes(self):
        space = self.resident()
        for name in ("invalidate", "cancel", "job"):
            self.m.inject(f"kind=drop,opcode={name}")
        self.assertStatus(self.s.commands.run(HW.OP_FENCE), HW.STATUS_OK)
        self.s.commands.push(HW.OP_INVALIDATE, asid=1)
        self.s.commands.push(HW.OP_CANCEL, device_addr=9)
        self.stamp(space)
        self.m.step(100_000)
        self.assertEqual((self.s.commands.take(), self.s.jobs.take()), ([], []))
        self.assertEqual((self.f.counter("INVALIDATIONS"), self.f.counter("JOBS"), self.f.counter("DEPTH")), (1, 1, 0))
        self.assertEqual(self.f.window(0, 8), u64([stamped(0, 1)]))

    def test_delays_and_late_data(self):
        space = self.resident()
        for kind, late in (("delay", 50_000), ("late-data", 0)):
            self.m.inject(f"kind={kind},opcode=invalidate,arg=50000")
            self.m.inject(f"kind={kind},opcode=job,arg=50000")
            start = self.m.now
            self.s.commands.push(HW.OP_INVALIDATE, asid=1, flags=HW.DESC_RELAXED)
            self.stamp(space)
            self.m.step(100_000)
            (i,), (j,) = self.s.commands.take(), self.s.jobs.take()
            self.assertEqual(i.time_ns - start, LATENCY + 500 + late)
            self.assertEqual(j.time_ns - start, LATENCY + MISS + WORDS + late)

    def test_failing_ones_do_nothing(self):
        space = self.resident()
        self.m.inject(f"kind=fail,count=any,arg={HW.STATUS_CANCELLED}")
        self.stamp(space)
        self.assertStatus(self.s.end(), HW.STATUS_CANCELLED)
        self.assertStatus(self.s.commands.run(HW.OP_INVALIDATE, asid=1), HW.STATUS_CANCELLED)
        self.assertEqual((self.f.counter("INVALIDATIONS"), self.f.window(0, 8)), (0, bytes(8)))

    def test_a_stuck_job_holds_its_queue_and_a_cancel(self):
        for way in ("clear", "reset"):
            space = self.resident()
            self.m.inject("kind=stuck,opcode=job")
            job = self.stamp(space)
            self.stamp(space)
            self.s.commands.push(HW.OP_CANCEL, device_addr=job, flags=HW.DESC_RELAXED)
            self.m.step(100_000)
            self.assertEqual((self.s.jobs.take(), self.s.commands.take()), ([], []))
            if way == "clear":
                self.m.inject("clear")
            else:
                self.s.jobs.reset()
            self.m.step(100_000)
            self.assertEqual(len(self.s.jobs.take()), 2 if way == "clear" else 0)
            self.assertEqual(len(self.s.commands.take()), 1)

    def test_clearing_rules_does_not_hurry_what_is_not_held_up(self):
        space = self.resident(invalidate_ns=100_000)
        self.stamp(space, element_ps=100_000)
        self.s.commands.push(HW.OP_INVALIDATE, asid=1)
        start = self.m.now
        self.m.step(10_000)
        self.m.inject("clear")
        self.m.step(1_000_000)
        self.assertEqual([c.time_ns - start for c in self.s.commands.take()], [LATENCY + 100_000])

    def test_duplicates_and_corrupted_ids(self):
        space = self.resident()
        self.m.inject("kind=duplicate,opcode=job")
        job = self.stamp(space)
        self.m.step(100_000)
        self.assertEqual([c.transaction for c in self.s.jobs.take()], [job, job])
        self.m.inject("kind=corrupt,opcode=job,arg=255")
        job = self.wait_forever()
        self.s.commands.push(HW.OP_CANCEL, device_addr=job)
        self.m.step(100_000)
        self.assertEqual([c.transaction for c in self.s.jobs.take()], [job ^ 255])
        self.assertEqual(len(self.s.commands.take()), 1)


class Hostile(JobTest):
    def garbage(self, rng, m, n):
        words = [rng.choice((0, rng.randrange(4096), rng.randrange(m.RAM) & ~0xFFF | rng.randrange(16),
                             rng.getrandbits(64), 1 << rng.randrange(64))) for _ in range(n // 8)]
        return u64(words)

    def random_job(self, rng):
        small = (0, 1, 2, 3, 8, 100, rng.randrange(5000))
        fields = {f"argument{i}": rng.choice((*small, rng.randrange(1 << 16) * 8, rng.getrandbits(64)))
                  if rng.random() < 0.97 else rng.getrandbits(64) for i in range(rng.randrange(1, 9))}
        return HW.job.pack(kind=rng.choice((*range(1, 13), rng.getrandbits(32))), order=rng.choice((0, 1, 2, 2, 3)),
                           strands=rng.choice((1, 2, 33, 200)), element_ps=rng.choice((0, 1, 1000, 100_000)),
                           seed=rng.getrandbits(64), **fields)

    def test_random_jobs_over_random_tables(self):
        for seed in range(SEED, SEED + 6):
            rng = random.Random(seed)
            functions = self.functions(2, mem_size="6M", job_slots=3, tlb_entries=16)
            m = functions[0].m
            all_spaces = []
            for f in functions:
                s = Spaces(f, order=5, ring_order=rng.choice((1, 3, 5)))
                for asid in range(4):
                    space = s.space(asid, rng.choice((1, 16, 700, 1 << 20)))
                    for page in range(16 if asid < 3 else 0):
                        rng.choice((lambda p: space.map(p, rng.randrange(512)), lambda p: space.map(p, p, 0),
                                    space.map_remote, lambda p: space.map_remote(p, at=rng.getrandbits(40) & ~0xFFF),
                                    lambda p: space.set(p, rng.getrandbits(64))))(page % space.pages)
                    s.f.set_window(0, self.garbage(rng, m, 4096))
                if rng.random() < 0.3:
                    s.flat(2, 0, 512)
                all_spaces.append(s)
            for _ in range(40):
                s = rng.choice(all_spaces)
                what = rng.randrange(12)
                if what < 6:
                    at = m.alloc(HW.job.size, 64)
                    m.poke(at, self.random_job(rng))
                    s.jobs.push(HW.OP_JOB, host_addr=at, bytes=HW.job.size, asid=rng.randrange(5),
                                transaction=rng.randrange(8))
                elif what == 6:
                    s.commands.push(HW.OP_INVALIDATE, asid=rng.choice((0, 1, 2, HW.AS_ALL)), flags=rng.choice((0, 1)),
                                    device_addr=rng.choice((0, 5)), host_addr=rng.choice((0, 1, 1 << 63)))
                elif what == 7:
                    s.commands.push(HW.OP_CANCEL, device_addr=rng.randrange(8), flags=rng.choice((0, 1)))
                elif what == 8:
                    table = rng.choice((s.table, rng.randrange(m.free) & ~7))
                    m.poke(table, self.garbage(rng, m, 64))
                elif what == 9:
                    s.jobs.reset()
                    m.step(5_000)
                    s.jobs.enable()
                elif what == 10:
                    s.ring.reset()
                    s.ring.enable()
                else:
                    s.transfers.push(HW.OP_READ, device_addr=0, host_addr=m.alloc(PAGE), bytes=PAGE)
                m.step(rng.choice((100, 3_000, 60_000)))
                for s in all_spaces:
                    s.f.set_reg(HW.REG_FAULT_HEAD, s.f.reg(HW.REG_FAULT_TAIL))
                    s.f.set_reg(HW.REG_FAULT_REPLAY, rng.choice((0, 1, 2, HW.AS_ALL)))
                    for q in (s.jobs, s.commands, s.transfers):
                        q.set(HW.QREG_CQ_HEAD, q.get(HW.QREG_CQ_TAIL))
            for s in all_spaces:
                for q in (s.jobs, s.commands, s.transfers):
                    q.reset()
            m.step(1_000_000)
            for f in reversed(functions):
                self.assertEqual(f.counter("DEPTH"), 0)
                f.flr()
            self.assertEqual(functions[0].reg(HW.REG_ID), HW.ID)
            m.close()

    def test_an_endless_job_of_no_time_does_not_stop_the_clock(self):
        space = self.resident(strands=64)
        one = bits(1.0)
        space.submit(HW.JOB_STENCIL, 0, PAGE, 3, 3, 3, (1 << 64) - 1, one, one, element_ps=0)
        self.m.step(20_000)
        start = self.m.now
        self.s.transfers.push(HW.OP_READ, device_addr=0, host_addr=self.m.alloc(PAGE), bytes=PAGE)
        self.m.step(5_000)
        self.assertEqual([c.time_ns - start for c in self.s.transfers.take()], [LATENCY + 512])
        self.s.commands.push(HW.OP_CANCEL, device_addr=self.s.jobs.transaction | self.s.jobs.index << 40)
        self.m.step(5_000)
        self.assertStatus(self.s.jobs.take()[0], HW.STATUS_CANCELLED)

    def test_a_search_that_others_disturb_ends(self):
        # All pages of `level` are one frame: what is written to one vertex is seen in many.
        n = 4000
        rng = random.Random(5)
        row, col = kernels.rows_of(rng, n, n)
        s = Spaces(self.pf(mem_size="1M"), strands=16)
        space = s.space(1, 64)
        pages = [p for p in range(64)]
        for p in pages:
            space.map(p, p if p < 32 else 40)
        s.f.set_window(0, u64(row))
        s.f.set_window(12 * PAGE, u32(col))
        done = space.run(HW.JOB_BFS, 0, 12 * PAGE, 32 * PAGE, n, 0)
        self.assertStatus(done, HW.STATUS_OK)
        self.assertLessEqual(done.value, n)

    def test_a_vertex_is_found_once_even_while_its_level_is_on_its_way(self):
        # The source, 64 vertices that it leads to, and 64 to which all of these lead.
        col = [*range(1, 65), *[v for _ in range(64) for v in range(65, 129)]]
        row = [0, *range(64, 64 + 65 * 64, 64), *[65 * 64] * 64]
        s = Spaces(self.pf(mem_size="1M", link_bytes_per_us=100), strands=64)
        space = s.space(1, 8)
        space.map_all()
        level = space.map_remote(7)
        s.f.set_window(0, u64(row))
        s.f.set_window(PAGE, u32(col))
        done = space.run(HW.JOB_BFS, 0, PAGE, 7 * PAGE, 129, 0)
        self.assertEqual((done.status, done.value), (HW.STATUS_OK, 129))
        self.assertEqual(s.m.peek(level, 4 * 129), u32([0] + [1] * 64 + [2] * 64))

    def test_removal_in_the_middle_of_everything(self):
        pf, vf = self.functions(1, mem_size="8M", link_bytes_per_us=10)
        for f in (pf, vf):
            s = Spaces(f, strands=16)
            space = s.space(1, 16)
            for p in range(8):
                space.map_remote(p)
            s.submit(1, HW.JOB_STAMP, 0, 16 * WORDS, 0, 1, order=HW.JOB_BLOCKED)
            s.commands.push(HW.OP_INVALIDATE, asid=1, flags=HW.DESC_RELAXED)
        pf.m.step(30_000)
        pf.m.qmp("qom-set", path="dev", property="x-surprise", value=True)
        pf.m.step(1_000_000)
        self.assertEqual(pf.reg(HW.REG_ID), 0xFFFFFFFF)
        for control in (Slot.NO_POWER, Slot.POWER_OFF):
            Slot(pf.m).control(control)
        pf.m.step(20_000_000_000)
        pf.m.event("DEVICE_DELETED")

    def test_functions_fault_and_replay_each_for_itself(self):
        functions = self.functions(2, mem_size="12M")
        spaces = []
        for n, f in enumerate(functions):
            s = Spaces(f, strands=2 + n, ring_order=2)
            space = s.space(1, 8)
            s.submit(1, HW.JOB_STAMP, 0, 8 * WORDS, 0, 1, order=HW.JOB_BLOCKED)
            spaces.append(space)
        functions[0].m.step(10_000)
        functions[1].flr()
        for n, space in enumerate(spaces):
            self.assertEqual(space.s.f.counter("FAULTS"), 0 if n == 1 else 2 + n)
            space.map_all()
            if n == 0:
                space.s.ring.replay()
        self.assertStatus(spaces[0].s.end(), HW.STATUS_OK)
        self.assertEqual(spaces[2].s.jobs.take(), [])
        spaces[2].s.ring.replay()
        self.assertStatus(spaces[2].s.end(), HW.STATUS_OK)
        self.assertEqual([f.window(0, 8) != bytes(8) for f in functions], [True, False, True])


class Packing(DeviceTest):
    def test_a_job_is_laid_out_as_the_header_says(self):
        packed = HW.job.pack(kind=1, flags=2, order=3, strands=4, element_ps=5, reserved=6, seed=7, argument0=8,
                             argument11=9)
        self.assertEqual(packed, struct.pack("<6I13Q", 1, 2, 3, 4, 5, 6, 7, 8, *[0] * 10, 9))
