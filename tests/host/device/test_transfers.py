# SPDX-License-Identifier: GPL-2.0
"""Opcodes, scatter lists, and every status of a completion."""

import random

from case import DeviceTest, noise
from lib import HW


class Opcodes(DeviceTest):
    def test_write_then_read_returns_the_data(self):
        q = self.pf().queue()
        for size in (1, 2, 63, 4095, 4096, 4097, 100_000, 1 << 20):
            self.assertStatus(q.write(size, noise(size, size)), HW.STATUS_OK, size)
            self.assertEqual(q.read(size, size), noise(size, size))

    def test_largest_transfer_works_and_one_more_byte_does_not(self):
        pf = self.pf(total_vfs=0)
        q = pf.queue()
        most = pf.reg(HW.REG_MAX_BYTES)
        host = pf.m.alloc(most + 1)
        self.assertStatus(q.run(HW.OP_WRITE, device_addr=0, host_addr=host, bytes=most), HW.STATUS_OK, most)
        self.assertStatus(q.run(HW.OP_WRITE, device_addr=0, host_addr=host, bytes=most + 1), HW.STATUS_LENGTH, 0)

    def test_any_alignment_works_and_touches_nothing_beside(self):
        pf = self.pf()
        q = pf.queue()
        rng = random.Random(7)
        model = bytearray(16384)
        for _ in range(60):
            at, n = rng.randrange(12000), rng.randrange(1, 4000)
            data = rng.randbytes(n)
            model[at:at + n] = data
            q.write(at, data)
        self.assertEqual(q.read(0, len(model)), bytes(model))
        host = pf.m.alloc(300)
        pf.m.poke(host, b"\x77" * 300)
        q.run(HW.OP_READ, device_addr=11, host_addr=host + 101, bytes=99)
        self.assertEqual(pf.m.peek(host, 300), b"\x77" * 101 + bytes(model[11:110]) + b"\x77" * 100)

    def test_random_transfers_on_pf_and_8_vfs_keep_their_data(self):
        functions = self.functions(8)
        rng = random.Random(3)
        m = functions[0].m
        models = {f: bytearray(65536) for f in functions}
        for f in functions:
            f.queue(0)
            f.queue(1, cls=HW.CLASS_PRIORITY)
        for _ in range(12):
            for f in functions:
                for q in f.queues.values():
                    half = 32768 * q.index
                    at = half + rng.randrange(30000)
                    data = rng.randbytes(rng.randrange(1, half + 32768 - at))
                    models[f][at:at + len(data)] = data
                    cut = sorted(rng.randrange(1, len(data)) for _ in range(3)) if len(data) > 9 else []
                    pieces, last = [], 0
                    for end in cut + [len(data)]:
                        if end > last:
                            host = m.alloc(end - last, rng.choice((1, 64, 4096)))
                            m.poke(host, data[last:end])
                            pieces.append((host, end - last))
                            last = end
                    q.push(HW.OP_WRITE, device_addr=at, bytes=len(data), **q.sg(*pieces))
            m.step(2_000_000)
            for f in functions:
                for q in f.queues.values():
                    self.assertEqual([c.status for c in q.take()], [HW.STATUS_OK])
            m.free = 32 << 20
        for f in functions:
            self.assertEqual(f.queues[0].read(0, 65536), bytes(models[f]))

    def test_fill_repeats_its_pattern(self):
        q = self.pf().queue()
        pattern = int.from_bytes(b"patterns", "little")
        self.assertStatus(q.run(HW.OP_FILL, device_addr=3, host_addr=pattern, bytes=80), HW.STATUS_OK, 80)
        self.assertEqual(q.read(0, 90), bytes(3) + b"patterns" * 10 + bytes(7))

    def test_fill_with_zeros_clears_exactly_its_range(self):
        q = self.pf().queue()
        q.write(0, b"\xee" * 100_000)
        q.run(HW.OP_FILL, device_addr=1001, host_addr=0, bytes=80_000)
        self.assertEqual(q.read(0, 100_000), b"\xee" * 1001 + bytes(80_000) + b"\xee" * 18_999)

    def test_copy_moves_overlapping_ranges(self):
        q = self.pf().queue()
        data = noise(10_000)
        q.write(0, data)
        self.assertStatus(q.run(HW.OP_COPY, device_addr=77, host_addr=0, bytes=9000), HW.STATUS_OK, 9000)
        self.assertEqual(q.read(77, 9000), data[:9000])
        q.run(HW.OP_COPY, device_addr=1, host_addr=77, bytes=9000)
        self.assertEqual(q.read(1, 9000), data[:9000])

    def test_fence_completes(self):
        self.assertStatus(self.pf().queue().run(HW.OP_FENCE), HW.STATUS_OK, 0)

    def test_completion_carries_transaction_and_time(self):
        pf = self.pf()
        q = pf.queue()
        c = q.run(HW.OP_FENCE, transaction=0xFEDCBA9876543210)
        self.assertEqual((c.transaction, c.value), (0xFEDCBA9876543210, 0))
        self.assertEqual(c.time_ns, pf.reg(HW.REG_LINK_LATENCY_NS))


class ScatterLists(DeviceTest):
    def test_read_scatters_and_write_gathers(self):
        pf = self.pf()
        q = pf.queue()
        data = noise(10_000)
        host = pf.m.alloc(32768)
        pf.m.poke(host + 1, data[:3000])
        pf.m.poke(host + 8191, data[3000:3001])
        pf.m.poke(host + 20_000, data[3001:])
        pieces = (host + 1, 3000), (host + 8191, 1), (host + 20_000, 6999)
        self.assertStatus(q.run(HW.OP_WRITE, device_addr=5, bytes=10_000, **q.sg(*pieces)), HW.STATUS_OK, 10_000)
        self.assertEqual(q.read(5, 10_000), data)
        pf.m.poke(host, bytes(32768))
        q.run(HW.OP_READ, device_addr=5, bytes=10_000, **q.sg(*reversed(pieces)))
        self.assertEqual(pf.m.peek(host + 20_000, 6999), data[:6999])
        self.assertEqual(pf.m.peek(host + 8191, 1), data[6999:7000])
        self.assertEqual(pf.m.peek(host, 3002), b"\0" + data[7000:] + b"\0")

    def test_longest_list_works_and_one_more_entry_does_not(self):
        pf = self.pf()
        q = pf.queue()
        most = pf.reg(HW.REG_MAX_SG)
        host = pf.m.alloc(most + 1)
        for n, status in ((most, HW.STATUS_OK), (most + 1, HW.STATUS_SG)):
            sg = q.sg(*((host + i, 1) for i in range(n)))
            self.assertStatus(q.run(HW.OP_WRITE, device_addr=0, bytes=n, **sg), status)

    def test_each_bad_list_is_refused(self):
        pf = self.pf()
        q = pf.queue()
        host = pf.m.alloc(4096)
        before = pf.counter("BYTES_READ")
        for pieces in (((host, 4095),), ((host, 4097),), ((host, 4096), (host, 1)), ((host, 4096), (host, 0)),
                       ((host, 0xFFFFFFFF), (host, 4097)), (((1 << 64) - 1, 4096),)):
            self.assertStatus(q.run(HW.OP_READ, device_addr=0, bytes=4096, **q.sg(*pieces)), HW.STATUS_SG, 0)
        sg = q.sg((host, 4096))
        pf.m.write(sg["host_addr"] + HW.sg.offset("reserved"), 4, 1)
        self.assertStatus(q.run(HW.OP_READ, device_addr=0, bytes=4096, **sg), HW.STATUS_SG, 0)
        self.assertStatus(q.run(HW.OP_READ, device_addr=0, bytes=4096, host_addr=pf.m.RAM, sg_entries=1,
                                flags=HW.DESC_SG), HW.STATUS_SG, 0)
        self.assertStatus(q.run(HW.OP_READ, device_addr=0, bytes=4096, flags=HW.DESC_SG), HW.STATUS_SG, 0)
        self.assertEqual(pf.counter("BYTES_READ"), before)


class Statuses(DeviceTest):
    def test_unknown_opcodes(self):
        q = self.pf().queue()
        for opcode in (0, 9, 255):
            self.assertStatus(q.run(opcode, bytes=8), HW.STATUS_OPCODE, 0)

    def test_flags_and_reserved_fields(self):
        q = self.pf().queue()
        for fields in ({"flags": 8}, {"flags": 0x80}, {"asid": 1}, {"reserved10": 1}, {"reserved12": 1 << 63},
                       {"sg_entries": 1}):
            self.assertStatus(q.run(HW.OP_READ, bytes=8, host_addr=4096, **fields), HW.STATUS_FLAGS, 0)
        for op in (HW.OP_FILL, HW.OP_COPY, HW.OP_FENCE):
            self.assertStatus(q.run(op, bytes=8, flags=HW.DESC_SG, sg_entries=1), HW.STATUS_FLAGS, 0)
        self.assertStatus(q.run(HW.OP_FENCE, flags=HW.DESC_RELAXED), HW.STATUS_FLAGS, 0)

    def test_lengths(self):
        q = self.pf().queue()
        for op in (HW.OP_READ, HW.OP_WRITE, HW.OP_FILL, HW.OP_COPY):
            self.assertStatus(q.run(op, bytes=0, host_addr=4096), HW.STATUS_LENGTH, 0)
            self.assertStatus(q.run(op, bytes=0xFFFFFFFF, host_addr=4096), HW.STATUS_LENGTH, 0)
        self.assertStatus(q.run(HW.OP_FILL, bytes=12), HW.STATUS_LENGTH, 0)
        self.assertStatus(q.run(HW.OP_FENCE, bytes=1), HW.STATUS_LENGTH, 0)

    def test_host_memory_that_is_not_there(self):
        pf = self.pf()
        q = pf.queue()
        for op in (HW.OP_READ, HW.OP_WRITE):
            for addr in (pf.m.RAM, 1 << 50, (1 << 64) - 1, (1 << 64) - 4096):
                c = q.run(op, device_addr=0, host_addr=addr, bytes=4097)
                self.assertStatus(c, HW.STATUS_HOST_ACCESS)
                self.assertLess(c.bytes, 4097)

    def test_bytes_says_how_far_a_failed_transfer_came(self):
        pf = self.pf()
        q = pf.queue()
        sg = q.sg((pf.m.alloc(5000), 5000), (pf.m.RAM, 100))
        self.assertStatus(q.run(HW.OP_READ, device_addr=0, bytes=5100, **sg), HW.STATUS_HOST_ACCESS, 5000)

    def test_registers_are_no_host_memory(self):
        pf = self.pf()
        q = pf.queue()
        for addr in (pf.bar[HW.BAR_REGS] + q.at + HW.QREG_CONTROL, pf.bar[HW.BAR_WINDOW], pf.m.ECAM + 4096):
            c = q.run(HW.OP_READ, device_addr=0, host_addr=addr, bytes=8)
            self.assertStatus(c, HW.STATUS_HOST_ACCESS, 0)
        self.assertEqual(q.status(), HW.QSTAT_ENABLED)

    def test_errors_complete_in_order_and_are_counted(self):
        pf = self.pf()
        q = pf.queue()
        host = pf.m.alloc(1 << 16)
        q.push(HW.OP_READ, device_addr=0, host_addr=host, bytes=65536, ring=False)
        q.push(99, ring=False)
        q.push(HW.OP_FILL, device_addr=0, bytes=8)
        pf.m.step(1_000_000)
        done = q.take()
        self.assertEqual([c.status for c in done], [HW.STATUS_OK, HW.STATUS_OPCODE, HW.STATUS_OK])
        self.assertEqual([c.transaction for c in done], [1, 2, 3])
        self.assertEqual((pf.counter("TRANSFERS"), pf.counter("ERRORS")), (2, 1))


class Counters(DeviceTest):
    def test_bytes_are_counted_by_direction(self):
        pf, vf = self.functions(1)
        q = vf.queue()
        q.write(0, b"x" * 1000)
        q.read(0, 300)
        q.run(HW.OP_FILL, device_addr=0, bytes=80)
        q.run(HW.OP_COPY, device_addr=0, host_addr=100, bytes=7)
        self.assertEqual([vf.counter(n) for n in ("BYTES_WRITTEN", "BYTES_READ", "BYTES_INTERNAL", "TRANSFERS", "ERRORS")],
                         [1000, 300, 87, 4, 0])
        self.assertEqual(pf.counter("TRANSFERS"), 0)

    def test_depth_counts_what_is_not_completed(self):
        pf = self.pf()
        q = pf.queue()
        for _ in range(5):
            q.push(HW.OP_FENCE, ring=False)
        q.ring()
        self.assertEqual((pf.counter("DEPTH"), pf.counter("DEPTH_MAX")), (5, 5))
        pf.m.step(2000)
        self.assertEqual((pf.counter("DEPTH"), pf.counter("DEPTH_MAX")), (0, 5))

    def test_busy_and_wait_time(self):
        _, a, b = self.functions(2)
        for f in (a, b):
            f.queue().push(HW.OP_READ, device_addr=0, host_addr=f.m.alloc(8192), bytes=8192)
        a.m.step(10_000)
        # Quanta of 512 ns in turn: a b a b.
        self.assertEqual([f.counter("BUSY_NS") for f in (a, b)], [1024, 1024])
        self.assertEqual([f.counter("WAIT_NS") for f in (a, b)], [512, 1024])
