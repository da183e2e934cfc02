# SPDX-License-Identifier: GPL-2.0
"""PCI: identity, BARs, FLR, SR-IOV."""

from case import DeviceTest, noise
from lib import CAP_EXP, CAP_MSIX, EXT_ARI, EXT_SRIOV, HW, Machine, Died


class Pci(DeviceTest):
    def test_pf_identifies_itself(self):
        pf = self.pf()
        self.assertEqual(pf.cfg(0), HW.PCI_DEVICE_PF << 16 | HW.PCI_VENDOR)
        self.assertEqual(pf.cfg(0x0A, 2), HW.PCI_CLASS)
        self.assertEqual(pf.reg(HW.REG_ID), HW.ID)
        self.assertEqual(pf.reg(HW.REG_VERSION), HW.VERSION_MAJOR << 16 | HW.VERSION_MINOR)
        self.assertEqual(pf.reg(HW.REG_FUNCTION), 0)
        self.assertEqual(pf.reg(HW.REG_CAPS), HW.CAP_PF | HW.CAP_SPACES)
        self.assertEqual(pf.reg(HW.REG_PART_COUNT), 9)

    def test_capabilities_are_there(self):
        pf = self.pf()
        self.assertIn(CAP_EXP, pf.cap)
        self.assertTrue(pf.cfg(pf.cap[CAP_EXP] + 4) & 1 << 28, "FLR capable")
        self.assertEqual((pf.cfg(pf.cap[CAP_MSIX] + 2, 2) & 0x7FF) + 1, HW.MSIX_VECTORS)
        self.assertEqual(set(pf.extended()), {EXT_ARI, EXT_SRIOV})

    def test_bars_are_as_the_header_says(self):
        pf = self.pf(x__test="on", window_size="8M")
        for bar, size, kind in ((HW.BAR_REGS, HW.BAR_REGS_BYTES, 0x0),
                                (HW.BAR_WINDOW, 8 << 20, 0xC),
                                (HW.BAR_TEST, HW.BAR_TEST_BYTES, 0x0)):
            at = 0x10 + 4 * bar
            pf.set_cfg(at, 4, 0xFFFFFFFF)
            mask = pf.cfg(at)
            self.assertEqual((~(mask & ~0xF) & 0xFFFFFFFF) + 1, size, bar)
            self.assertEqual(mask & 0xF, kind, bar)
        self.assertEqual(pf.cap[CAP_MSIX] and pf.cfg(pf.cap[CAP_MSIX] + 4) & 7, HW.BAR_MSIX)

    def test_test_bar_is_absent_without_x_test(self):
        pf = self.pf()
        pf.set_cfg(0x10 + 4 * HW.BAR_TEST, 4, 0xFFFFFFFF)
        self.assertEqual(pf.cfg(0x10 + 4 * HW.BAR_TEST), 0)

    def test_properties_show_in_registers(self):
        pf = self.pf(total_vfs=3, mem_size="32M", queues=5, link_latency_ns=700, link_bytes_per_us=4000,
                     link_quantum=1024, mem_bytes_per_us=5000, window_size="1M", x__test="on", tlb_entries=64,
                     tlb_miss_ns=90, invalidate_ns=800, job_slots=2, job_strands=33)
        self.assertEqual(pf.reg(HW.REG_PART_COUNT), 4)
        self.assertEqual(pf.reg(HW.REG_MEM_TOTAL, 8), 32 << 20)
        self.assertEqual(pf.reg(HW.REG_MEM_SIZE, 8), 32 << 20)
        self.assertEqual(pf.reg(HW.REG_WINDOW_SIZE, 8), 1 << 20)
        self.assertEqual(pf.reg(HW.REG_QUEUES), 5)
        self.assertEqual(pf.reg(HW.REG_LINK_LATENCY_NS), 700)
        self.assertEqual(pf.reg(HW.REG_LINK_BYTES_PER_US), 4000)
        self.assertEqual(pf.reg(HW.REG_LINK_QUANTUM), 1024)
        self.assertEqual(pf.reg(HW.REG_MEM_BYTES_PER_US), 5000)
        self.assertEqual([pf.reg(r) for r in (HW.REG_TLB_ENTRIES, HW.REG_TLB_MISS_NS, HW.REG_INVALIDATE_NS,
                                              HW.REG_JOB_SLOTS, HW.REG_JOB_STRANDS)], [64, 90, 800, 2, 33])
        self.assertEqual(pf.reg(HW.REG_CAPS), HW.CAP_PF | HW.CAP_TEST | HW.CAP_SPACES)

    def test_bad_properties_are_refused_by_name(self):
        for name, value in (("total_vfs", 256), ("queues", 1), ("queues", 9), ("mem_size", "100000"),
                            ("mem_size", 0), ("window_size", "3M"), ("vf_window_size", "1K"),
                            ("link_quantum", 0), ("link_bytes_per_us", 0), ("mem_bytes_per_us", 0),
                            ("tlb_entries", 4), ("tlb_entries", 100), ("tlb_miss_ns", 1000001),
                            ("invalidate_ns", 1000000001), ("job_slots", 0), ("job_strands", 4097)):
            with self.subTest(name=name, value=value):
                with self.assertRaises(Died) as caught:
                    Machine(**{name: value}).close()
                self.assertIn(f"{name}={value}" if str(value).isdigit() else name, str(caught.exception))

    def test_registers_take_whole_accesses_only(self):
        pf = self.pf()
        regs = pf.bar[HW.BAR_REGS]
        self.assertEqual(pf.m.read(regs + HW.REG_ID, 1), 0xFF)
        self.assertEqual(pf.m.read(regs + HW.REG_ID, 2), 0xFFFF)
        self.assertEqual(pf.m.read(regs + HW.REG_ID, 8), 0xFFFFFFFFFFFFFFFF)
        self.assertEqual(pf.m.read(regs + HW.REG_MEM_SIZE + 4, 8), 0xFFFFFFFFFFFFFFFF)
        self.assertEqual(pf.m.read(regs + 0xF00, 4), 0xFFFFFFFF)
        at = regs + HW.QUEUE_BASE
        pf.m.write(at + HW.QREG_ORDER, 2, 7)
        pf.m.write(at + HW.QREG_SQ_BASE, 1, 7)
        self.assertEqual(pf.m.read(at + HW.QREG_ORDER, 4), 0)
        self.assertEqual(pf.m.read(at + HW.QREG_SQ_BASE, 8), 0)

    def test_long_registers_work_in_halves(self):
        pf = self.pf()
        at = pf.bar[HW.BAR_REGS] + HW.QUEUE_BASE + HW.QREG_SQ_BASE
        pf.m.write(at + 4, 4, 0x11223344)
        pf.m.write(at, 4, 0x55667740)
        self.assertEqual(pf.m.read(at, 8), 0x1122334455667740)
        self.assertEqual(pf.m.read(at + 4, 4), 0x11223344)
        pf.m.write(at, 8, 0x40)
        self.assertEqual((pf.m.read(at, 4), pf.m.read(at + 4, 4)), (0x40, 0))

    def test_read_only_registers_stay(self):
        pf = self.pf()
        for reg in (HW.REG_ID, HW.REG_VERSION, HW.REG_QUEUES, HW.REG_LINK_WEIGHT, HW.REG_PART_COUNT):
            before = pf.reg(reg)
            pf.set_reg(reg, 0xFFFFFFFF)
            self.assertEqual(pf.reg(reg), before)

    def test_queues_beyond_the_last_are_not_there(self):
        pf = self.pf(queues=3)
        at = HW.QUEUE_BASE + 3 * HW.QUEUE_STRIDE
        self.assertEqual(pf.reg(at + HW.QREG_STATUS), 0xFFFFFFFF)
        self.assertEqual(pf.reg(at - HW.QUEUE_STRIDE + HW.QREG_STATUS), 0)

    def test_time_runs_with_the_virtual_clock(self):
        pf = self.pf()
        before = pf.reg(HW.REG_TIME, 8)
        pf.m.step(12345)
        self.assertEqual(pf.reg(HW.REG_TIME, 8) - before, 12345)

    def test_flr_scrubs_counts_and_disables(self):
        pf = self.pf()
        q = pf.queue()
        q.write(4096, noise(5000))
        generation = pf.reg(HW.REG_GENERATION)
        pf.flr()
        self.assertEqual(pf.reg(HW.REG_GENERATION), generation + 1)
        self.assertEqual(q.status(), 0)
        self.assertEqual(q.get(HW.QREG_SQ_BASE, 8), 0)
        self.assertEqual(pf.counter("TRANSFERS"), 0)
        self.assertEqual(pf.queue().read(4096, 5000), bytes(5000))

    def test_flr_drops_transfers_in_flight(self):
        pf = self.pf()
        q = pf.queue()
        host = pf.m.alloc(1 << 20)
        q.write(0, b"\xaa" * 65536)
        for _ in range(4):
            q.push(HW.OP_READ, device_addr=0, host_addr=host, bytes=1 << 20)
        pf.m.step(20_000)
        cq, entries = q.cq, q.entries
        pf.m.poke(cq, bytes(entries * HW.completion.size))
        pf.flr()
        pf.m.poke(host, bytes(1 << 20))
        pf.m.step(10_000_000)
        self.assertEqual(pf.m.peek(host, 1 << 20), bytes(1 << 20))
        self.assertEqual(pf.m.peek(cq, entries * HW.completion.size), bytes(entries * HW.completion.size))
        self.assertEqual(pf.counter("DEPTH"), 0)


class Sriov(DeviceTest):
    def test_vfs_identify_themselves(self):
        pf, *vfs = self.functions(3)
        sriov = pf.extended()[EXT_SRIOV]
        self.assertEqual(pf.cfg(sriov + 0x1A, 2), HW.PCI_DEVICE_VF)
        for n, vf in enumerate(vfs, 1):
            self.assertEqual(vf.reg(HW.REG_ID), HW.ID)
            self.assertEqual(vf.reg(HW.REG_FUNCTION), n)
            self.assertEqual(vf.reg(HW.REG_CAPS), HW.CAP_SPACES)
            self.assertTrue(vf.cfg(vf.cap[CAP_EXP] + 4) & 1 << 28, "FLR capable")

    def test_vfs_have_no_partition_registers(self):
        _, vf = self.functions(1)
        self.assertEqual(vf.reg(HW.REG_PART_COUNT), 0xFFFFFFFF)
        self.assertEqual(vf.reg(HW.REG_MEM_TOTAL, 8), 0xFFFFFFFFFFFFFFFF)

    def test_63_vfs_come_move_data_and_go(self):
        functions = self.functions(63, mem_size="64M", vf_window_size="64K")
        pf = functions[0]
        for f in functions:
            f.queue(order=2)
        hosts = []
        for f in functions:
            data = noise(3000, f.devfn)
            host = pf.m.alloc(3000)
            pf.m.poke(host, data)
            hosts.append((f, host, data))
            f.queues[0].push(HW.OP_WRITE, device_addr=0, host_addr=host, bytes=3000)
        pf.m.step(1_000_000)
        for f, host, data in hosts:
            self.assertEqual([c.status for c in f.queues[0].take()], [HW.STATUS_OK])
            pf.m.poke(host, bytes(3000))
            f.queues[0].push(HW.OP_READ, device_addr=0, host_addr=host, bytes=3000)
        pf.m.step(1_000_000)
        for f, host, data in hosts:
            self.assertEqual(pf.m.peek(host, 3000), data)
        last = functions[-1]
        pf.disable_vfs()
        self.assertEqual(last.cfg(0), 0xFFFFFFFF)
        again = pf.enable_vfs(63)
        for vf in again:
            self.assertEqual(vf.queue(order=2).read(0, 3000), bytes(3000))

    def test_255_vfs_can_be_had(self):
        pf = self.pf(total_vfs=255, vf_window_size="4K")
        vfs = pf.enable_vfs(255)
        self.assertEqual(vfs[254].reg(HW.REG_FUNCTION), 255)

    def test_a_device_without_vfs_works(self):
        pf = self.pf(total_vfs=0)
        self.assertNotIn(EXT_SRIOV, pf.extended())
        self.assertEqual(pf.queue().write(0, b"x" * 100).status, HW.STATUS_OK)

    def test_disabling_vfs_scrubs_their_memory(self):
        pf, vf = self.functions(1)
        vf.queue().write(0, noise(10000))
        pf.disable_vfs()
        vf, = pf.enable_vfs(1)
        self.assertEqual(vf.queue().read(0, 10000), bytes(10000))

    def test_disabling_vfs_under_load_stops_their_dma(self):
        pf, vf = self.functions(1)
        q = vf.queue()
        q.write(0, b"\xaa" * 1000)
        host = pf.m.alloc(1 << 20)
        q.push(HW.OP_READ, device_addr=0, host_addr=host, bytes=1 << 20)
        pf.m.step(5_000)
        pf.disable_vfs()
        pf.m.poke(host, b"\x55" * (1 << 20))
        pf.m.step(1_000_000)
        self.assertEqual(pf.m.peek(host, 1 << 20), b"\x55" * (1 << 20))

    def test_vf_flr_leaves_the_others_alone(self):
        pf, a, b = self.functions(2)
        a.queue().write(0, b"a" * 4096)
        qb = b.queue()
        qb.write(0, b"b" * 4096)
        generation = b.reg(HW.REG_GENERATION)
        host = pf.m.alloc(1 << 20)
        qb.push(HW.OP_READ, device_addr=0, host_addr=host, bytes=1 << 20)
        pf.m.step(3_000)
        a.flr()
        pf.m.step(1_000_000)
        self.assertEqual([c.status for c in qb.take()], [HW.STATUS_OK])
        self.assertEqual(pf.m.peek(host, 4096), b"b" * 4096)
        self.assertEqual(b.reg(HW.REG_GENERATION), generation)
        self.assertEqual(a.queue().read(0, 4096), bytes(4096))
        self.assertEqual(a.reg(HW.REG_MEM_SIZE, 8), b.reg(HW.REG_MEM_SIZE, 8))

    def test_pf_flr_takes_the_vfs_with_it(self):
        pf, vf = self.functions(1)
        vf.queue().write(0, b"v" * 4096)
        pf.flr()
        self.assertEqual(vf.cfg(0), 0xFFFFFFFF)
        self.assertEqual(pf.cfg(pf.extended()[EXT_SRIOV] + 0x08, 2) & 1, 0)
        self.assertEqual(pf.reg(HW.REG_MEM_SIZE, 8), pf.reg(HW.REG_MEM_TOTAL, 8))
        vf, = pf.enable_vfs(1)
        self.assertEqual(vf.reg(HW.REG_MEM_SIZE, 8), 0)

    def test_bus_master_off_fails_accesses(self):
        pf = self.pf()
        q = pf.queue()
        pf.enable(2)
        q.push(HW.OP_FENCE)
        self.assertEqual(q.error(), HW.QERR_SQ_READ)

    def test_bus_master_off_midway_stops_the_queue_at_its_completion(self):
        pf = self.pf()
        q = pf.queue()
        q.push(HW.OP_READ, device_addr=0, host_addr=pf.m.alloc(4096), bytes=4096)
        pf.enable(2)
        pf.m.step(10_000)
        self.assertEqual(q.error(), HW.QERR_CQ_WRITE)
        self.assertEqual(pf.counter("ERRORS"), 1)
        pf.enable()
        q.reset()
        q.enable()
        self.assertEqual(q.read(0, 100), bytes(100))
