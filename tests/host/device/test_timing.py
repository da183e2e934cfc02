# SPDX-License-Identifier: GPL-2.0
"""Order and time. The virtual clock makes every figure exact."""

from case import DeviceTest
from lib import HW

LATENCY, PAGE_NS = 1000, 512  # the defaults: 8000 bytes per us


class Timing(DeviceTest):
    def times(self, queues, ns=10_000_000):
        """Lets ns pass; the ends of all completions, by queue, since now."""
        start = queues[0].m.now
        queues[0].m.step(ns)
        return [[c.time_ns - start for c in q.take()] for q in queues]

    def read(self, q, n, **fields):
        return q.push(HW.OP_READ, device_addr=0, host_addr=q.m.alloc(n), bytes=n, **fields)

    def test_a_4k_read_takes_1512_ns_and_is_seen_then(self):
        q = self.pf().queue()
        self.read(q, 4096)
        q.m.step(LATENCY + PAGE_NS - 1)
        self.assertEqual(q.take(), [])
        q.m.step(1)
        self.assertEqual([c.time_ns for c in q.take()], [LATENCY + PAGE_NS])

    def test_link_time_rounds_up_to_a_nanosecond_per_quantum(self):
        for n, ns in ((1, 1), (8, 1), (9, 2), (4097, 513), (1 << 20, 131072)):
            q = self.pf().queue()
            self.read(q, n)
            self.assertEqual(self.times([q]), [[LATENCY + ns]])

    def test_latencies_of_many_transfers_overlap(self):
        q = self.pf().queue()
        for _ in range(16):
            self.read(q, 4096, )
        self.assertEqual(self.times([q]), [[LATENCY + PAGE_NS * (i + 1) for i in range(16)]])

    def test_fill_and_copy_run_at_memory_speed_beside_the_link(self):
        pf = self.pf()
        a, b = pf.queue(0), pf.queue(1, cls=HW.CLASS_PRIORITY)
        a.push(HW.OP_FILL, device_addr=0, bytes=1 << 20)
        self.read(b, 4096)
        self.assertEqual(self.times([a, b]), [[LATENCY + 10486], [LATENCY + PAGE_NS]])
        self.assertEqual(pf.counter("BUSY_NS"), PAGE_NS)

    def test_ordered_transfers_wait_for_a_fill_before_them(self):
        pf = self.pf()
        q = pf.queue()
        q.push(HW.OP_FILL, device_addr=0, bytes=1 << 20)
        self.read(q, 4096)
        self.assertEqual(self.times([q]), [[LATENCY + 10486, LATENCY + 10486 + PAGE_NS]])

    def test_results_do_not_depend_on_when_one_looks(self):
        def run(step):
            functions = self.functions(3, weights=[1, 2, 3, 4])
            for f in functions:
                q = f.queue()
                for n in (10_000, 1, 70_000, 4096):
                    self.read(q, n)
            m = functions[0].m
            until = m.now + 400_000
            while m.now < until:
                m.step(min(step, until - m.now))
                functions[0].counter("BUSY_NS")
            return [[(c.transaction & 0xFF, c.time_ns - until) for c in f.queues[0].take()] for f in functions]

        self.assertEqual(run(400_000), run(1777))

    def test_what_happened_before_a_reset_stays_so(self):
        for end in ("flr", "vfs off", "master off"):
            functions = self.functions(2)
            pf, a = functions[:2]
            b = pf if end == "vfs off" else functions[2]
            for f in (a, b):
                self.read(f.queue(), 1 << 20)
            start = pf.m.now
            # Nothing completes by then, so the device need not have done any of it.
            pf.m.step(50_000)
            if end == "flr":
                a.flr()
            elif end == "vfs off":
                pf.disable_vfs()
            else:
                a.enable(2)
            pf.m.step(10_000_000)
            # Of the 96 quanta that had begun half were b's. The rest are, and with the master
            # off one more of a's, which fails.
            quanta = 48 + 256 + (end == "master off")
            c, = b.queues[0].take()
            self.assertEqual(c.time_ns - start, LATENCY + quanta * PAGE_NS, end)

    def test_equal_weights_share_in_turns(self):
        functions = self.functions(3)[1:]
        queues = [f.queue() for f in functions]
        for q in queues:
            self.read(q, 4096 * 4)
        self.assertEqual(self.times(queues), [[LATENCY + PAGE_NS * n] for n in (10, 11, 12)])

    def test_shares_follow_the_weights_within_a_quantum(self):
        weights = [1, 1, 2, 5]
        functions = self.functions(3, weights=weights)[1:]
        for f in functions:
            self.read(f.queue(), 4 << 20)
        m = functions[0].m
        m.step(LATENCY)
        for quanta in (8, 80, 333, 800):
            target = LATENCY + quanta * PAGE_NS
            m.step(target - m.now)
            shares = [f.counter("BYTES_READ") / 4096 for f in functions]
            self.assertEqual(sum(shares), quanta)
            for share, weight in zip(shares, weights[1:]):
                self.assertLessEqual(abs(share - quanta * weight / 8), 1, shares)

    def test_a_newcomer_waits_for_no_more_than_its_turn(self):
        functions = self.functions(2)[1:]
        a, b = (f.queue() for f in functions)
        self.read(a, 8 << 20)
        a.m.step(500_000)
        self.read(b, 4096)
        (time,), = self.times([b], 100_000)
        self.assertLessEqual(time, LATENCY + 2 * PAGE_NS)

    def test_an_idle_function_saves_up_no_share(self):
        functions = self.functions(2)[1:]
        a, b = (f.queue() for f in functions)
        self.read(a, 4 << 20)
        a.m.step(1_000_000)
        a.take()
        self.read(a, 64 << 10)
        self.read(b, 64 << 10)
        (ta,), (tb,) = self.times([a, b])
        self.assertLessEqual(abs(ta - tb), 2 * PAGE_NS)


class Order(DeviceTest):
    def read(self, q, n, **fields):
        return q.push(HW.OP_READ, device_addr=0, host_addr=q.m.alloc(n), bytes=n, **fields)

    def order(self, *queues):
        queues[0].m.step(10_000_000)
        done = [c for q in queues for c in q.take()]
        return [c.transaction for c in sorted(done, key=lambda c: c.time_ns)]

    def test_ordered_transfers_complete_in_order(self):
        q = self.pf().queue()
        ids = [self.read(q, n) for n in (1 << 20, 1, 4096, 65536, 8)]
        self.assertEqual(self.order(q), ids)

    def test_ordered_transfers_of_two_ordinary_queues_are_one_sequence(self):
        pf = self.pf()
        a, b = pf.queue(0), pf.queue(1)
        ids = [self.read(q, n) for q, n in ((a, 1 << 20), (b, 1), (a, 1), (b, 65536), (a, 1))]
        self.assertEqual(self.order(a, b), ids)

    def test_relaxed_read_passes_ordered_megabyte(self):
        q = self.pf().queue()
        big = self.read(q, 1 << 20)
        small = self.read(q, 4096, flags=HW.DESC_RELAXED)
        q.m.step(LATENCY + 2 * PAGE_NS)
        self.assertEqual([c.transaction for c in q.take()], [small])
        self.assertEqual(self.order(q), [big])

    def test_an_ordered_read_does_not_pass_the_megabyte(self):
        q = self.pf().queue()
        ids = [self.read(q, 1 << 20), self.read(q, 4096)]
        self.assertEqual(self.order(q), ids)

    def test_relaxed_transfers_do_not_starve_ordered_ones(self):
        q = self.pf().queue()
        for _ in range(20):
            self.read(q, 65536, flags=HW.DESC_RELAXED)
        small = self.read(q, 4096)
        self.assertLess(self.order(q).index(small), 2)

    def test_priority_passes_ordinary(self):
        pf = self.pf()
        ordinary, priority = pf.queue(0), pf.queue(1, cls=HW.CLASS_PRIORITY)
        self.read(ordinary, 1 << 20)
        pf.m.step(50_000)
        self.read(priority, 16384)
        pf.m.step(LATENCY + PAGE_NS + 4 * PAGE_NS)
        self.assertEqual(len(priority.take()), 1)
        self.assertEqual(ordinary.take(), [])

    def test_fence_completes_after_all_before_it(self):
        q = self.pf().queue()
        slow = self.read(q, 1 << 20, flags=HW.DESC_RELAXED)
        ordered = self.read(q, 4096)
        fence = q.push(HW.OP_FENCE)
        after = self.read(q, 4096)
        self.assertEqual(self.order(q), [ordered, slow, fence, after])

    def test_fence_does_not_wait_for_another_queue(self):
        pf = self.pf()
        a, b = pf.queue(0), pf.queue(1)
        self.read(a, 1 << 20, flags=HW.DESC_RELAXED)
        b.push(HW.OP_FENCE)
        pf.m.step(LATENCY)
        self.assertEqual(len(b.take()), 1)

    def test_relaxed_transfers_pass_a_waiting_fence(self):
        q = self.pf().queue()
        slow = self.read(q, 1 << 20, flags=HW.DESC_RELAXED)
        fence = q.push(HW.OP_FENCE)
        late = self.read(q, 4096, flags=HW.DESC_RELAXED)
        order = self.order(q)
        self.assertLess(order.index(slow), order.index(fence))
        self.assertIn(late, order)

    def test_data_of_a_write_is_read_back_by_the_next(self):
        q = self.pf().queue()
        host = q.m.alloc(200_000)
        q.m.poke(host, b"w" * 100_000)
        q.push(HW.OP_WRITE, ring=False, device_addr=0, host_addr=host, bytes=100_000)
        q.push(HW.OP_COPY, ring=False, device_addr=200_000, host_addr=0, bytes=100_000)
        q.push(HW.OP_READ, device_addr=200_000, host_addr=host + 100_000, bytes=100_000)
        self.order(q)
        self.assertEqual(q.m.peek(host + 100_000, 100_000), b"w" * 100_000)
