# SPDX-License-Identifier: GPL-2.0
"""Plugging and unplugging the whole device, politely and not."""

from case import DeviceTest, noise
from lib import HW, PF, QmpError, Slot


class Hotplug(DeviceTest):
    def load(self, functions):
        m = functions[0].m
        hosts = []
        for f in functions:
            q = f.queue()
            for _ in range(4):
                hosts.append(m.alloc(1 << 18))
                q.push(HW.OP_READ, device_addr=0, host_addr=hosts[-1], bytes=1 << 18)
        m.step(10_000)
        return hosts

    def test_device_del_under_load_with_vfs_enabled(self):
        functions = self.functions(8)
        m = functions[0].m
        slot = Slot(m)
        slot.control(Slot.POWER_ON | Slot.HPIE | Slot.PDCE)
        self.load(functions)
        m.qmp("device_del", id="dev")
        self.assertTrue(slot.status() & Slot.ABP)
        slot.control(Slot.POWER_OFF)
        m.event("DEVICE_DELETED")
        self.assertEqual(functions[0].cfg(0), 0xFFFFFFFF)
        self.assertFalse(slot.status() & Slot.PDS)
        m.step(10_000_000)

    def test_device_add_after_device_del(self):
        m = self.machine(total_vfs=4)
        slot = Slot(m)
        for _ in range(5):
            slot.control(Slot.POWER_ON)
            q = m.pf.queue()
            self.assertEqual(q.read(0, 4096), bytes(4096))
            q.write(0, noise(4096))
            m.pf.enable_vfs(4)
            m.qmp("device_del", id="dev")
            slot.control(Slot.POWER_OFF)
            m.event("DEVICE_DELETED")
            m.plug()
            slot.control(Slot.POWER_ON)
            m.pf = PF(m)

    def test_device_add_into_an_empty_slot(self):
        m = self.machine(plug=False)
        slot = Slot(m)
        self.assertFalse(slot.status() & Slot.PDS)
        slot.control(Slot.POWER_OFF | Slot.HPIE | Slot.PDCE)
        m.plug(total_vfs=63, vf_window_size=65536)
        self.assertTrue(slot.status() & Slot.PDS)
        self.assertTrue(slot.interrupted())
        slot.control(Slot.POWER_ON)
        pf = PF(m)
        self.assertEqual(pf.reg(HW.REG_ID), HW.ID)
        pf.enable_vfs(63)

    def test_surprise_removal_under_load(self):
        functions = self.functions(8)
        m, pf, vf = functions[0].m, functions[0], functions[3]
        slot = Slot(m)
        slot.control(Slot.POWER_ON | Slot.HPIE | Slot.PDCE)
        slot.interrupted()
        hosts = self.load(functions)
        m.qmp("qom-set", path="dev", property="x-surprise", value=True)
        for host in hosts:
            m.poke(host, b"\x55" * (1 << 18))
        self.assertTrue(slot.interrupted())
        self.assertEqual(slot.status() & (Slot.PDS | Slot.PDC), Slot.PDC)
        self.assertFalse(slot.link() & Slot.DLLLA)
        self.assertEqual((pf.cfg(0), vf.cfg(0)), (0xFFFFFFFF, 0xFFFFFFFF))
        for f in functions:
            self.assertEqual([f.reg(HW.REG_ID), f.window(0, 4), m.peek(f.bar[HW.BAR_MSIX], 32)],
                             [0xFFFFFFFF, b"\xff" * 4, b"\xff" * 32])
        m.step(10_000_000)
        for host in hosts:
            self.assertEqual(m.peek(host, 1 << 18), b"\x55" * (1 << 18))
        slot.control(Slot.POWER_OFF)
        m.event("DEVICE_DELETED")
        self.assertFalse(self.plugged(m))

    def second(self, m):
        """Another device whose PF and VF hold 1 MiB each. Their queues and data."""
        functions = m.plug_second(total_vfs=1).share_out(1)
        data = [noise(1 << 20, f.devfn) for f in functions]
        for f, bytes_ in zip(functions, data):
            f.queue().write(0, bytes_)
        return [f.queues[0] for f in functions], data

    def test_another_device_carries_on_while_one_is_unplugged(self):
        for polite in (True, False):
            functions = self.functions(4)
            m = functions[0].m
            slot = Slot(m)
            slot.control(Slot.POWER_ON)
            queues, data = self.second(m)
            self.load(functions)
            hosts = [m.alloc(1 << 20) for _ in queues]
            for q, host in zip(queues, hosts):
                q.push(HW.OP_READ, device_addr=0, host_addr=host, bytes=1 << 20)
            start = m.now
            m.step(50_000)
            if polite:
                m.qmp("device_del", id="dev")
            else:
                m.qmp("qom-set", path="dev", property="x-surprise", value=True)
            slot.control(Slot.NO_POWER)
            slot.control(Slot.POWER_OFF)
            m.step(1_000_000_000)
            m.event("DEVICE_DELETED")
            done = [q.take()[0] for q in queues]
            for c, host, expected in zip(done, hosts, data):
                self.assertStatus(c, HW.STATUS_OK, 1 << 20)
                self.assertEqual(m.peek(host, 1 << 20), expected)
            # Its link was never idle, nor anybody else's.
            self.assertEqual(max(c.time_ns for c in done) - start, 1000 + 512 * 512)
            m.plug()
            slot.control(Slot.POWER_ON)
            self.assertEqual(PF(m).queue().read(0, 4096), bytes(4096))
            self.assertEqual(queues[1].read(0, 1 << 20), data[1])

    def test_surprise_wakes_a_guest_that_waits_for_the_button_only(self):
        m = self.machine()
        slot = Slot(m)
        slot.control(Slot.POWER_ON | Slot.HPIE | Slot.ABPE)
        m.qmp("qom-set", path="dev", property="x-surprise", value=True)
        self.assertTrue(slot.interrupted())
        self.assertEqual(slot.status() & (Slot.PDS | Slot.PDC | Slot.ABP), Slot.PDC | Slot.ABP)

    def test_plug_again_after_surprise(self):
        m = self.machine(total_vfs=2)
        slot = Slot(m)
        for _ in range(5):
            slot.control(Slot.POWER_ON)
            m.pf.enable_vfs(2)
            self.load([m.pf])
            m.qmp("qom-set", path="dev", property="x-surprise", value=True)
            m.write(slot.cap + slot.SLTSTA, 2, Slot.PDC)
            slot.control(Slot.POWER_OFF)
            m.event("DEVICE_DELETED")
            m.plug()
            self.assertTrue(slot.status() & Slot.PDS)
            slot.control(Slot.POWER_ON)
            m.pf = PF(m)
        self.assertEqual(m.pf.reg(HW.REG_ID), HW.ID)

    def plugged(self, m):
        return "dev" in [c["name"] for c in m.qmp("qom-list", path="/machine/peripheral")]

    def test_a_slot_takes_another_device_when_power_and_indicator_are_off(self):
        m = self.machine(total_vfs=2)
        slot = Slot(m)
        slot.control(Slot.POWER_ON)
        m.qmp("qom-set", path="dev", property="x-surprise", value=True)
        m.step(1_000_000_000)
        # As Linux does it, with a second between the two.
        slot.control(Slot.NO_POWER)
        for _ in range(10):
            m.step(100_000_000)
            self.assertTrue(self.plugged(m))
            with self.assertRaises(QmpError) as caught:
                m.qmp("device_add", driver="vfetch", bus="rp")
            self.assertIn("occupied", str(caught.exception))
        slot.control(Slot.POWER_OFF)
        self.assertTrue(self.plugged(m))
        m.step(20_000_000)
        m.event("DEVICE_DELETED")
        m.plug()
        slot.control(Slot.POWER_ON)
        m.step(1_000_000_000)
        self.assertEqual(PF(m).reg(HW.REG_ID), HW.ID)

    def test_qemus_port_ejects_what_comes_before_the_slot_is_off(self):
        m = self.machine()
        slot = Slot(m)
        slot.control(Slot.POWER_ON)
        m.qmp("qom-set", path="dev", property="x-surprise", value=True)
        # The guest is busy for longer than the device waits for it.
        m.step(5_000_000_000)
        m.event("DEVICE_DELETED")
        m.plug()
        slot.control(Slot.NO_POWER)
        self.assertTrue(slot.status() & Slot.PDS)
        slot.control(Slot.POWER_OFF)
        m.event("DEVICE_DELETED")
        self.assertFalse(slot.status() & Slot.PDS)

    def test_a_guest_that_leaves_the_indicator_on_loses_the_device_after_5_s(self):
        m = self.machine()
        slot = Slot(m)
        slot.control(Slot.POWER_ON)
        m.qmp("qom-set", path="dev", property="x-surprise", value=True)
        m.step(3_000_000_000)
        slot.control(Slot.NO_POWER)
        m.step(4_900_000_000)
        self.assertTrue(self.plugged(m))
        m.step(100_000_000)
        m.event("DEVICE_DELETED")

    def test_a_guest_that_leaves_the_power_on_loses_the_device_after_5_s(self):
        m = self.machine()
        m.qmp("qom-set", path="dev", property="x-surprise", value=True)
        self.assertEqual(m.pf.reg(HW.REG_ID), 0xFFFFFFFF)
        m.step(5_000_000_000)
        m.event("DEVICE_DELETED")

    def test_surprise_twice_is_refused(self):
        m = self.machine()
        m.qmp("qom-set", path="dev", property="x-surprise", value=True)
        with self.assertRaises(QmpError):
            m.qmp("qom-set", path="dev", property="x-surprise", value=True)

    def test_surprise_needs_native_hot_plug(self):
        m = self.machine(native_hotplug=False)
        with self.assertRaises(QmpError) as caught:
            m.qmp("qom-set", path="dev", property="x-surprise", value=True)
        self.assertIn("acpi-pci-hotplug-with-bridge-support=off", str(caught.exception))

    def test_surprise_needs_a_slot(self):
        m = self.machine(plug=False, qemu=("-device", "vfetch,id=fixed,bus=pcie.0,addr=6,total_vfs=0"))
        with self.assertRaises(QmpError) as caught:
            m.qmp("qom-set", path="fixed", property="x-surprise", value=True)
        self.assertIn("pcie-root-port", str(caught.exception))

    def test_system_reset_takes_everything_back(self):
        functions = self.functions(4)
        m, pf = functions[0].m, functions[0]
        pf.queue().write(0, noise(4096))
        pf.queues[0].reset()
        self.load(functions)
        m.qmp("system_reset")
        m.event("RESET")
        m._setup_bridge()
        pf = PF(m)
        self.assertEqual(pf.reg(HW.REG_MEM_SIZE, 8), pf.reg(HW.REG_MEM_TOTAL, 8))
        self.assertEqual(pf.reg(HW.QUEUE_BASE + HW.QREG_STATUS), 0)
        self.assertEqual(pf.queue().read(0, 4096), bytes(4096))
