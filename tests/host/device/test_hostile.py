# SPDX-License-Identifier: GPL-2.0
"""A guest that does everything wrong. QEMU must survive, and so must others."""

import os
import random
import unittest

from case import DeviceTest
from lib import HW

SEED = int(os.environ.get("VFETCH_DEVICE_SEED", "1"))


class Hostile(DeviceTest):
    def test_random_register_accesses(self):
        for seed in range(SEED, SEED + 3):
            rng = random.Random(seed)
            functions = self.functions(2, x__test="on")
            m = functions[0].m
            for _ in range(1500):
                f = rng.choice(functions)
                at = rng.choice((rng.randrange(0x400), HW.QUEUE_BASE + rng.randrange(0x100), rng.randrange(0x4000)))
                size = rng.choice((1, 2, 4, 4, 4, 8))
                at = at // size * size if rng.random() < 0.9 else at
                value = rng.choice((0, 1, 2, rng.randrange(16), 1 << rng.randrange(64), rng.getrandbits(64),
                                    (1 << 64) - 1, 0x100000))
                bar = HW.BAR_REGS
                if f.devfn == 0 and rng.random() < 0.1:
                    bar, at = HW.BAR_TEST, rng.randrange(0x40)
                if rng.random() < 0.3:
                    m.read(f.bar[bar] + at, size)
                else:
                    m.write(f.bar[bar] + at, size, value)
                if rng.random() < 0.05:
                    m.step(rng.randrange(1, 100_000))
            self.assertEqual(functions[0].reg(HW.REG_ID), HW.ID)

    def random_descriptor(self, rng, m):
        small = rng.randrange(1, 70_000)
        return HW.desc.pack(
            opcode=rng.choice((1, 2, 3, 4, 5, 6, 7, 8, 8, 1, 2, rng.randrange(256))),
            flags=rng.choice((0, 1, 2, 3, 4, 6, rng.randrange(256))),
            sg_entries=rng.choice((0, 0, 1, 3, rng.randrange(65536))),
            tag=rng.getrandbits(32),
            transaction=rng.getrandbits(64),
            device_addr=rng.choice((0, small, rng.getrandbits(64), (1 << 64) - small)),
            host_addr=rng.choice((1 << 20, rng.randrange(m.RAM), m.RAM - 1, rng.getrandbits(64), m.MEM32, m.ECAM)),
            bytes=rng.choice((0, 8, 128, 4096, small, rng.getrandbits(32))),
            asid=rng.choice((0, 0, 0, 0, 0, 0, 0, 1)))

    def test_random_descriptors_all_complete_and_only_ram_is_touched(self):
        for seed in range(SEED, SEED + 4):
            rng = random.Random(seed)
            functions = self.functions(3)
            m = functions[0].m
            for f in functions:
                f.msix(0)
                for i in (0, 1, 2):
                    f.queue(i, order=5, cls=i)
            for _ in range(12):
                for f in functions:
                    for q in f.queues.values():
                        n = rng.randrange(1, 32)
                        for _ in range(n):
                            slot = q.tail % q.entries
                            m.poke(q.sq + slot * HW.desc.size, self.random_descriptor(rng, m))
                            q.tail = (q.tail + 1) & HW.INDEX_MASK
                        q.ring()
                m.step(rng.randrange(1, 60_000))
                if rng.random() < 0.3:
                    q = rng.choice(functions).queues[rng.randrange(3)]
                    q.reset()
                    m.step(5_000)
                    q.enable()
                if rng.random() < 0.1:
                    f = rng.choice(functions[1:])
                    f.flr()
                    for i in (0, 1, 2):
                        f.queue(i, order=5, cls=i)
                for f in functions:
                    for q in f.queues.values():
                        # Transfers may have overwritten the rings themselves.
                        q.set(HW.QREG_CQ_HEAD, q.get(HW.QREG_CQ_TAIL))
            m.step(100_000_000)
            for f in functions:
                for q in f.queues.values():
                    q.set(HW.QREG_CQ_HEAD, q.get(HW.QREG_CQ_TAIL))
            m.step(100_000_000)
            self.assertEqual([f.counter("DEPTH") for f in functions], [0] * 4)

    def test_random_configuration_space_writes(self):
        for seed in range(SEED, SEED + 3):
            rng = random.Random(seed)
            functions = self.functions(4)
            m = functions[0].m
            for _ in range(600):
                f = rng.choice(functions)
                size = rng.choice((1, 2, 4))
                at = rng.choice((rng.randrange(0x100), 0x100 + rng.randrange(0x90))) // size * size
                f.set_cfg(at, size, rng.choice((0, 1, 0xFFFFFFFF, rng.getrandbits(32))))
                if rng.random() < 0.1:
                    m.step(1000)
            m.qmp("query-status")

    def test_a_neighbour_is_not_stalled_by_a_hammering_vf(self):
        functions = self.functions(2)
        hammer, victim = functions[1:]
        m = victim.m
        for i in (0, 1):
            q = hammer.queue(i, order=8, cls=i)
            host = m.alloc(1 << 20)
            for _ in range(256):
                q.push(HW.OP_WRITE, ring=False, device_addr=0, host_addr=host, bytes=1 << 20,
                       flags=HW.DESC_RELAXED)
            q.ring()
        m.step(1_000_000)
        q = victim.queue()
        for _ in range(20):
            start = m.now
            q.push(HW.OP_READ, device_addr=0, host_addr=m.alloc(4096), bytes=4096)
            m.step(4000)
            c, = q.take()
            self.assertLessEqual(c.time_ns - start, 1000 + 512 + 2 * 512)

    def test_a_ring_that_the_device_overwrites_itself(self):
        pf = self.pf()
        q = pf.queue(order=3)
        for _ in range(8):
            q.push(HW.OP_READ, ring=False, device_addr=0, host_addr=q.sq, bytes=4096)
        q.ring()
        pf.m.step(1_000_000)
        q.set(HW.QREG_CQ_HEAD, 8)
        q.ring(16)
        pf.m.step(1_000_000)
        self.assertEqual(pf.counter("DEPTH"), 0)

    @unittest.skipIf("VFETCH_DEVICE_WRAP" in os.environ, "checkers of memory keep what is freed")
    def test_scatter_lists_of_held_completions_take_no_memory(self):
        pf = self.pf(queues=8)
        entries = pf.reg(HW.REG_MAX_SG)
        ring = pf.m.alloc(128 * HW.desc.size)
        queues = [pf.queue(i, order=7, sq=ring) for i in range(8)]
        sg = queues[0].sg(*[(pf.m.alloc(8), 1)] * entries)
        pf.m.poke(ring, HW.desc.pack(opcode=HW.OP_READ, device_addr=0, bytes=entries, **sg) * 128)
        before = pf.m.resident()
        # Nobody takes completions: a ring of them is posted, two more are held.
        for q in queues:
            for tail in (128, 256, 384):
                q.ring(tail)
                pf.m.step(100_000)
        self.assertEqual(pf.counter("DEPTH"), 8 * 256)
        # 2048 lists of 16 KiB would be 32 MiB.
        self.assertLess(pf.m.resident() - before, 8 << 20)

    def test_everything_at_once_stays_bounded(self):
        functions = self.functions(8, queues=8)
        m = functions[0].m
        ring = m.alloc(4096 * HW.desc.size)
        descriptor = HW.desc.pack(opcode=HW.OP_FILL, device_addr=0, host_addr=1, bytes=16 << 20)
        m.poke(ring, descriptor * 4096)
        for f in functions:
            for i in range(8):
                q = f.queue(i, order=12, sq=ring, enable=False, cq=ring + (1 << 20))
                q.set(HW.QREG_CONTROL, HW.QCTL_ENABLE)
                q.ring(4096)
        self.assertEqual(functions[0].counter("DEPTH"), 8 * 256)
        m.step(100_000)
        for f in functions[1:]:
            f.flr()
        functions[0].flr()
        self.assertEqual(functions[0].counter("DEPTH"), 0)
