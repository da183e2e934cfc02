# SPDX-License-Identifier: GPL-2.0
"""Partitions, isolation, the BAR2 window."""

from case import DeviceTest, noise
from lib import HW


class Partition(DeviceTest):
    def test_after_power_on_the_pf_owns_everything(self):
        pf = self.pf()
        self.assertEqual(pf.reg(HW.REG_MEM_SIZE, 8), pf.reg(HW.REG_MEM_TOTAL, 8))
        vf = pf.enable_vfs(1)[0]
        self.assertEqual(vf.reg(HW.REG_MEM_SIZE, 8), 0)
        self.assertStatus(vf.queue().run(HW.OP_FILL, device_addr=0, bytes=8), HW.STATUS_DEVICE_RANGE, 0)

    def test_index_loads_what_the_function_has(self):
        pf = self.pf()
        g = pf.reg(HW.REG_PART_GRANULE)
        self.assertEqual(pf.partition(0, 0, 4 * g, 9), HW.PART_OK)
        self.assertEqual(pf.partition(3, 8 * g, 2 * g, 7), HW.PART_OK)
        pf.set_reg(HW.REG_PART_INDEX, 0)
        self.assertEqual(pf.reg(HW.REG_PART_SIZE, 8), 4 * g)
        pf.set_reg(HW.REG_PART_INDEX, 3)
        self.assertEqual([pf.reg(HW.REG_PART_BASE, 8), pf.reg(HW.REG_PART_SIZE, 8), pf.reg(HW.REG_PART_WEIGHT)],
                         [8 * g, 2 * g, 7])

    def test_each_bad_partition_is_refused(self):
        pf = self.pf(total_vfs=2)
        g, total = pf.reg(HW.REG_PART_GRANULE), pf.reg(HW.REG_MEM_TOTAL, 8)
        self.assertEqual(pf.partition(0, 0, 4 * g), HW.PART_OK)
        for expected, args in (
                (HW.PART_INDEX, (3, 4 * g, g, 1)),
                (HW.PART_INDEX, (0xFFFFFFFF, 4 * g, g, 1)),
                (HW.PART_RANGE, (1, 4 * g + 1, g)),
                (HW.PART_RANGE, (1, 4 * g, g - 1)),
                (HW.PART_RANGE, (1, total, g)),
                (HW.PART_RANGE, (1, g, total)),
                (HW.PART_RANGE, (1, 4 * g, (1 << 64) - g)),
                (HW.PART_RANGE, (1, (1 << 64) - g, 2 * g)),
                (HW.PART_OVERLAP, (1, 3 * g, g)),
                (HW.PART_OVERLAP, (1, 0, total)),
                (HW.PART_WEIGHT, (1, 4 * g, g, 0)),
                (HW.PART_WEIGHT, (1, 4 * g, g, 256))):
            self.assertEqual(pf.partition(*args), expected, args)
        pf.set_reg(HW.REG_PART_INDEX, 1)
        self.assertEqual(pf.reg(HW.REG_PART_SIZE, 8), 0)
        pf.set_reg(HW.REG_PART_COMMAND, 77)
        self.assertEqual(pf.reg(HW.REG_PART_RESULT), HW.PART_COMMAND)

    def test_a_busy_function_keeps_its_partition(self):
        pf, vf = self.functions(1)
        size = vf.reg(HW.REG_MEM_SIZE, 8)
        q = vf.queue()
        self.assertEqual(pf.partition(1, 0, 0), HW.PART_BUSY)
        self.assertEqual(vf.reg(HW.REG_MEM_SIZE, 8), size)
        q.reset()
        self.assertEqual(pf.partition(1, 0, 0), HW.PART_OK)
        self.assertEqual(vf.reg(HW.REG_MEM_SIZE, 8), 0)

    def test_memory_changes_hands_scrubbed(self):
        pf, vf = self.functions(1)
        q = vf.queue()
        q.write(0, noise(70000))
        q.reset()
        size = vf.reg(HW.REG_MEM_SIZE, 8)
        self.assertEqual(pf.partition(1, 0, 0), HW.PART_OK)
        self.assertEqual(pf.partition(0, 0, 2 * size), HW.PART_OK)
        self.assertEqual(pf.queue().read(size, 70000), bytes(70000))

    def test_weight_shows_at_the_function(self):
        _, a, b = self.functions(2, weights=[1, 2, 255])
        self.assertEqual((a.reg(HW.REG_LINK_WEIGHT), b.reg(HW.REG_LINK_WEIGHT)), (2, 255))


class Isolation(DeviceTest):
    def test_functions_do_not_see_each_others_bytes(self):
        functions = self.functions(8)
        for f in functions:
            f.queue().write(100, noise(20000, f.devfn))
        for f in functions:
            self.assertEqual(f.queues[0].read(100, 20000), noise(20000, f.devfn))

    def test_the_partition_ends_where_it_ends(self):
        for f in self.functions(2):
            size = f.reg(HW.REG_MEM_SIZE, 8)
            q = f.queue()
            host = f.m.alloc(4096)
            for at, n, status in ((size - 4096, 4096, HW.STATUS_OK), (size - 4095, 4096, HW.STATUS_DEVICE_RANGE),
                                  (size, 1, HW.STATUS_DEVICE_RANGE), ((1 << 64) - 1, 2, HW.STATUS_DEVICE_RANGE),
                                  ((1 << 64) - 4096, 4096, HW.STATUS_DEVICE_RANGE)):
                for op in (HW.OP_READ, HW.OP_WRITE):
                    self.assertStatus(q.run(op, device_addr=at, host_addr=host, bytes=n), status)
            self.assertStatus(q.run(HW.OP_FILL, device_addr=size - 8, bytes=16), HW.STATUS_DEVICE_RANGE)
            self.assertStatus(q.run(HW.OP_COPY, device_addr=size - 8, host_addr=0, bytes=16), HW.STATUS_DEVICE_RANGE)
            self.assertStatus(q.run(HW.OP_COPY, device_addr=0, host_addr=size - 8, bytes=16), HW.STATUS_DEVICE_RANGE)


class Window(DeviceTest):
    def test_window_and_dma_see_the_same_bytes(self):
        for f in self.functions(2):
            q = f.queue()
            q.write(5, noise(3000))
            self.assertEqual(f.window(5, 3000), noise(3000))
            f.set_window(1001, noise(555, 2))
            self.assertEqual(q.read(1001, 555), noise(555, 2))

    def test_window_takes_every_size_and_alignment(self):
        pf = self.pf()
        base = pf.bar[HW.BAR_WINDOW]
        for size in (1, 2, 4, 8):
            for offset in range(8):
                value = int.from_bytes(noise(size, offset), "little")
                pf.m.write(base + offset, size, value)
                self.assertEqual(pf.m.read(base + offset, size), value)

    def test_beyond_the_partition_reads_ones_and_writes_nothing(self):
        pf = self.pf(window_size="1M", total_vfs=1)
        g = pf.reg(HW.REG_PART_GRANULE)
        pf.partition(0, 0, g)
        pf.partition(1, g, g)
        pf.set_window(g, b"leak" * 4)
        self.assertEqual(pf.window(g, 16), b"\xff" * 16)
        self.assertEqual(pf.m.read(pf.bar[HW.BAR_WINDOW] + g - 4, 8), (1 << 64) - 1)
        vf, = pf.enable_vfs(1)
        self.assertEqual(vf.window(0, 16), bytes(16))

    def test_window_shows_what_the_clock_has_reached(self):
        pf = self.pf()
        q = pf.queue()
        host = pf.m.alloc(8192)
        pf.m.poke(host, b"x" * 8192)
        q.push(HW.OP_WRITE, device_addr=0, host_addr=host, bytes=8192)
        pf.m.step(1000 + 512 + 1)
        self.assertEqual(pf.window(0, 8192), b"x" * 4096 + bytes(4096))
