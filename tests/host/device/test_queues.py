# SPDX-License-Identifier: GPL-2.0
"""Queue pairs: life cycle, doorbells, rings that wrap and fill up, reset."""

from case import DeviceTest, noise
from lib import HW


class LifeCycle(DeviceTest):
    def test_registers_are_zero_and_writable_while_disabled(self):
        pf = self.pf()
        q = pf.queue(enable=False)
        self.assertEqual(q.status(), 0)
        q.set(HW.QREG_VECTOR, 3)
        self.assertEqual(q.get(HW.QREG_VECTOR), 3)
        q.enable()
        self.assertEqual(q.status(), HW.QSTAT_ENABLED)

    def test_registers_are_fixed_while_enabled(self):
        q = self.pf().queue(order=4)
        for reg, size in ((HW.QREG_SQ_BASE, 8), (HW.QREG_CQ_BASE, 8), (HW.QREG_ORDER, 4), (HW.QREG_VECTOR, 4),
                          (HW.QREG_CLASS, 4)):
            before = q.get(reg, size)
            q.set(reg, 1, size)
            self.assertEqual(q.get(reg, size), before)

    def test_a_disabled_queue_ignores_doorbells(self):
        pf = self.pf()
        q = pf.queue(enable=False)
        q.set(HW.QREG_SQ_TAIL, 5)
        q.set(HW.QREG_CQ_HEAD, 5)
        self.assertEqual((q.status(), pf.counter("QUEUE_ERRORS"), pf.counter("DEPTH")), (0, 0, 0))

    def test_each_bad_configuration_is_an_error(self):
        pf = self.pf()
        good = {HW.QREG_SQ_BASE: 0x100000, HW.QREG_CQ_BASE: 0x200000, HW.QREG_ORDER: 4, HW.QREG_VECTOR: 0,
                HW.QREG_CLASS: 0}
        bad = [(HW.QREG_SQ_BASE, 0x100020), (HW.QREG_CQ_BASE, 0x200001), (HW.QREG_SQ_BASE, (1 << 64) - 64),
               (HW.QREG_ORDER, HW.MIN_ORDER - 1), (HW.QREG_ORDER, HW.MAX_ORDER + 1), (HW.QREG_ORDER, 0xFFFFFFFF),
               (HW.QREG_VECTOR, HW.MSIX_VECTORS), (HW.QREG_CLASS, 3)]
        q = pf.queue(enable=False)
        for n, (reg, value) in enumerate(bad, 1):
            for r, v in {**good, reg: value}.items():
                q.set(r, v, 8 if r in (HW.QREG_SQ_BASE, HW.QREG_CQ_BASE) else 4)
            q.set(HW.QREG_CONTROL, HW.QCTL_ENABLE)
            self.assertEqual(q.status(), HW.QERR_CONFIG << HW.QSTAT_ERROR_SHIFT, (reg, value))
            self.assertEqual(pf.counter("QUEUE_ERRORS"), n)
            q.reset()
            self.assertEqual(q.status(), 0)

    def test_enable_again_changes_nothing(self):
        q = self.pf().queue()
        q.run(HW.OP_FENCE)
        q.set(HW.QREG_CONTROL, HW.QCTL_ENABLE)
        self.assertEqual(q.get(HW.QREG_SQ_HEAD), 1)
        self.assertStatus(q.run(HW.OP_FENCE), HW.STATUS_OK)

    def test_reset_counts_when_both_bits_of_control_are_written(self):
        q = self.pf().queue()
        q.run(HW.OP_FENCE)
        for value in (HW.QCTL_RESET | HW.QCTL_ENABLE, 0xFFFFFFFC):
            q.set(HW.QREG_CONTROL, value)
            self.assertEqual(q.status(), 0)

    def test_every_order_works(self):
        for order in range(HW.MIN_ORDER, HW.MAX_ORDER + 1):
            q = self.pf().queue(order=order)
            self.assertStatus(q.run(HW.OP_FENCE), HW.STATUS_OK)

    def test_eight_queues_work_side_by_side(self):
        pf = self.pf(queues=8)
        queues = [pf.queue(i, cls=i % 2) for i in range(8)]
        for q in queues:
            q.push(HW.OP_FENCE, transaction=q.index)
        pf.m.step(10_000)
        self.assertEqual([q.take()[0].transaction for q in queues], list(range(8)))


class Rings(DeviceTest):
    def test_indices_wrap_past_16_bits(self):
        pf = self.pf(link_latency_ns=0)
        q = pf.queue(order=12)
        q.m.poke(q.sq, b"".join(HW.desc.pack(opcode=HW.OP_FENCE, transaction=i) for i in range(q.entries)))
        n = 0
        while n < 70_000:
            q.tail = (q.tail + 4000) & HW.INDEX_MASK
            q.ring()
            pf.m.step(1)
            done = q.take()
            self.assertEqual([c.transaction for c in done], [(n + i) % q.entries for i in range(4000)])
            n += 4000
        self.assertEqual(q.status(), HW.QSTAT_ENABLED)
        self.assertEqual(q.get(HW.QREG_SQ_HEAD), n & HW.INDEX_MASK)
        self.assertEqual(q.get(HW.QREG_CQ_TAIL), n & HW.INDEX_MASK)

    def test_one_doorbell_may_reach_around_the_end_of_the_ring(self):
        q = self.pf().queue(order=3)
        for _ in range(5):
            q.run(HW.OP_FENCE)
        ids = [q.push(HW.OP_FENCE, ring=False) for _ in range(7)]
        q.ring()
        q.m.step(10_000)
        self.assertEqual([c.transaction for c in q.take()], ids)

    def test_phase_alternates_with_each_pass(self):
        q = self.pf().queue(order=1)
        phases = [q.run(HW.OP_FENCE).phase for _ in range(6)]
        self.assertEqual(phases, [1, 1, 0, 0, 1, 1])

    def test_a_full_completion_ring_is_never_overwritten(self):
        pf = self.pf()
        q = pf.queue(order=2)
        for i in range(4):
            q.push(HW.OP_FENCE, transaction=100 + i)
        pf.m.step(10_000)
        for i in range(4, 8):
            q.push(HW.OP_FENCE, transaction=100 + i)
        pf.m.step(10_000)
        self.assertEqual(pf.counter("DEPTH"), 4)
        self.assertEqual([c.transaction for c in q.take(head=False)], [100, 101, 102, 103])
        q.set(HW.QREG_CQ_HEAD, 1)
        self.assertEqual([c.transaction for c in q.take(head=False)], [104])
        q.set(HW.QREG_CQ_HEAD, 5)
        self.assertEqual([c.transaction for c in q.take()], [105, 106, 107])
        self.assertEqual((pf.counter("DEPTH"), q.error()), (0, HW.QERR_NONE))

    def test_held_completions_keep_their_time(self):
        pf = self.pf()
        q = pf.queue(order=1)
        for _ in range(2):
            q.push(HW.OP_FENCE)
        pf.m.step(5000)
        before = pf.m.now
        q.push(HW.OP_FENCE)
        pf.m.step(90_000)
        self.assertEqual(len(q.take()), 2)
        self.assertEqual(q.take()[0].time_ns, before + 1000)

    def test_no_more_than_256_descriptors_are_in_flight(self):
        pf = self.pf()
        q = pf.queue(order=10)
        for _ in range(1000):
            q.push(HW.OP_FENCE, ring=False)
        q.ring()
        self.assertEqual((pf.counter("DEPTH"), q.get(HW.QREG_SQ_HEAD)), (256, 256))
        pf.m.step(10_000)
        self.assertEqual(len(q.take()), 1000)
        self.assertEqual(pf.counter("DEPTH_MAX"), 256)


class Errors(DeviceTest):
    def assertStopped(self, q, error):
        self.assertEqual(q.error(), error)
        self.assertEqual(q.f.counter("QUEUE_ERRORS"), 1)
        head = q.get(HW.QREG_SQ_HEAD)
        q.push(HW.OP_FENCE)
        q.m.step(10_000)
        self.assertEqual(q.get(HW.QREG_SQ_HEAD), head)
        q.reset()
        self.assertEqual(q.status(), 0)

    def test_sq_tail_more_than_a_ring_ahead(self):
        q = self.pf().queue(order=3)
        q.ring(9)
        self.assertStopped(q, HW.QERR_SQ_TAIL)

    def test_a_stop_is_in_qemus_log(self):
        pf = self.pf(qemu=("-d", "guest_errors"))
        q = pf.queue(1)
        q.ring(0x8000)
        self.assertIn(f"vfetch: function 0, queue 1: error {HW.QERR_SQ_TAIL}", pf.m.output())

    def test_sq_tail_backwards(self):
        q = self.pf().queue(order=3)
        q.run(HW.OP_FENCE)
        q.ring(0)
        self.assertStopped(q, HW.QERR_SQ_TAIL)

    def test_sq_tail_beyond_16_bits(self):
        q = self.pf().queue(order=3)
        q.ring(0x10001)
        self.assertStopped(q, HW.QERR_SQ_TAIL)

    def test_cq_head_beyond_what_was_posted(self):
        q = self.pf().queue()
        q.set(HW.QREG_CQ_HEAD, 1)
        self.assertStopped(q, HW.QERR_CQ_HEAD)

    def test_cq_head_backwards(self):
        q = self.pf().queue()
        q.run(HW.OP_FENCE)
        q.set(HW.QREG_CQ_HEAD, 0)
        self.assertStopped(q, HW.QERR_CQ_HEAD)

    def test_submission_ring_unreadable(self):
        pf = self.pf()
        q = pf.queue(sq=pf.m.RAM)
        q.ring(1)
        self.assertEqual(q.error(), HW.QERR_SQ_READ)

    def test_completion_ring_unwritable(self):
        pf = self.pf()
        q = pf.queue(enable=False, cq=pf.m.RAM)
        q.set(HW.QREG_CONTROL, HW.QCTL_ENABLE)
        q.push(HW.OP_FENCE)
        pf.m.step(10_000)
        self.assertEqual(q.error(), HW.QERR_CQ_WRITE)
        self.assertEqual(pf.counter("DEPTH"), 0)

    def test_a_stopped_queue_completes_what_it_has_fetched(self):
        pf = self.pf()
        q = pf.queue(order=3)
        q.push(HW.OP_READ, device_addr=0, host_addr=pf.m.alloc(4096), bytes=4096)
        q.ring(0x8000)
        self.assertEqual(q.error(), HW.QERR_SQ_TAIL)
        pf.m.step(10_000)
        self.assertEqual([c.status for c in q.take()], [HW.STATUS_OK])

    def test_one_queues_error_does_not_stall_another(self):
        pf, vf = self.functions(1)
        bad, good, other = pf.queue(0), pf.queue(1), vf.queue()
        bad.ring(0x8000)
        self.assertStatus(good.run(HW.OP_FENCE), HW.STATUS_OK)
        self.assertStatus(other.run(HW.OP_FENCE), HW.STATUS_OK)
        self.assertEqual(bad.error(), HW.QERR_SQ_TAIL)


class Reset(DeviceTest):
    def test_an_idle_queue_is_reset_at_once(self):
        q = self.pf().queue()
        q.run(HW.OP_FENCE)
        q.reset()
        self.assertEqual((q.status(), q.get(HW.QREG_SQ_HEAD), q.get(HW.QREG_CQ_TAIL)), (0, 0, 0))
        q.enable()
        self.assertStatus(q.run(HW.OP_FENCE), HW.STATUS_OK)

    def test_a_busy_queue_is_reset_when_its_quantum_ends(self):
        pf = self.pf()
        q = pf.queue()
        host = pf.m.alloc(1 << 20)
        q.push(HW.OP_READ, device_addr=0, host_addr=host, bytes=1 << 20)
        pf.m.step(1000 + 512 + 100)
        q.reset()
        self.assertEqual(q.status(), HW.QSTAT_ENABLED | HW.QSTAT_RESETTING)
        pf.m.step(411)
        self.assertEqual(q.status(), HW.QSTAT_ENABLED | HW.QSTAT_RESETTING)
        pf.m.step(1)
        self.assertEqual((q.status(), pf.counter("DEPTH")), (0, 0))

    def test_after_the_acknowledgement_host_memory_is_left_alone(self):
        pf = self.pf()
        q = pf.queue()
        host = pf.m.alloc(1 << 20)
        for _ in range(8):
            q.push(HW.OP_READ, device_addr=0, host_addr=host, bytes=1 << 20)
        pf.m.step(200_000)
        q.reset()
        while q.status():
            pf.m.step(100)
        pf.m.poke(host, b"\x55" * (1 << 20))
        pf.m.poke(q.cq, b"\x55" * (q.entries * HW.completion.size))
        pf.m.step(10_000_000)
        self.assertEqual(pf.m.peek(host, 1 << 20), b"\x55" * (1 << 20))
        self.assertEqual(pf.m.peek(q.cq, q.entries * HW.completion.size), b"\x55" * (q.entries * HW.completion.size))

    def test_reset_keeps_device_memory_and_the_other_queue(self):
        pf = self.pf()
        a, b = pf.queue(0), pf.queue(1)
        a.write(0, noise(9000))
        host = pf.m.alloc(1 << 20)
        a.push(HW.OP_READ, device_addr=0, host_addr=host, bytes=1 << 20)
        b.push(HW.OP_READ, device_addr=0, host_addr=host, bytes=9000)
        pf.m.step(2000)
        a.reset()
        pf.m.step(1_000_000)
        self.assertEqual([c.status for c in b.take()], [HW.STATUS_OK])
        self.assertEqual(a.status(), 0)
        self.assertEqual(pf.m.peek(host, 9000), noise(9000))
        a.enable()
        self.assertEqual(a.read(0, 9000), noise(9000))

    def test_reset_drops_held_completions(self):
        pf = self.pf()
        q = pf.queue(order=1)
        for _ in range(2):
            q.push(HW.OP_FENCE)
        pf.m.step(5000)
        q.push(HW.OP_FENCE)
        pf.m.step(5000)
        self.assertEqual(pf.counter("DEPTH"), 1)
        q.reset()
        self.assertEqual((q.status(), pf.counter("DEPTH")), (0, 0))
