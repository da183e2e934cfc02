# SPDX-License-Identifier: GPL-2.0
"""Plugging and unplugging the whole device, politely and not."""

from case import DeviceTest, noise
from lib import HW, PF, QmpError

SLTCTL, SLTSTA, LNKSTA = 0x18, 0x1A, 0x12
PDS, PDC, ABP, DLLLA = 1 << 6, 1 << 3, 1 << 0, 1 << 13
# Power and attention indicator off, power off; hot-plug and presence interrupts.
POWER_OFF = 0x400 | 0x300 | 0xC0
POWER_ON = 0x100 | 0xC0
HPIE, PDCE, ABPE = 1 << 5, 1 << 3, 1 << 0


class Slot:
    """The root port's hot-plug registers, and its message."""

    def __init__(self, m):
        self.m = m
        self.config = m.config(0, m.SLOT)
        caps, at = {}, m.read(self.config + 0x34, 1)
        while at:
            caps[m.read(self.config + at, 1)] = at
            at = m.read(self.config + at + 1, 1)
        self.cap = self.config + caps[0x10]
        self.where = m.alloc(4, 4)
        msix = self.config + caps[0x11]
        # The port's MSI-X table is in its BAR0.
        m.write(self.config + 0x10, 4, m.MEM32 + 0x10000000 - 0x1000)
        m.write(self.config + 0x20, 4, ((m.MEM32 + 0x0FEFFFFF) & 0xFFF00000) | m.MEM32 >> 16)
        table = m.MEM32 + 0x10000000 - 0x1000 + (m.read(msix + 4, 4) & ~7)
        for i, value in enumerate((self.where, 0, 1, 0)):
            m.write(table + 4 * i, 4, value)
        m.write(msix + 2, 2, 0x8000)

    def status(self):
        return self.m.read(self.cap + SLTSTA, 2)

    def link(self):
        return self.m.read(self.cap + LNKSTA, 2)

    def control(self, value):
        self.m.write(self.cap + SLTCTL, 2, value)

    def interrupted(self):
        value = self.m.read(self.where, 4)
        self.m.write(self.where, 4, 0)
        return value != 0


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
        slot.control(POWER_ON | HPIE | PDCE)
        self.load(functions)
        m.qmp("device_del", id="dev")
        self.assertTrue(slot.status() & ABP)
        slot.control(POWER_OFF)
        m.event("DEVICE_DELETED")
        self.assertEqual(functions[0].cfg(0), 0xFFFFFFFF)
        self.assertFalse(slot.status() & PDS)
        m.step(10_000_000)

    def test_device_add_after_device_del(self):
        m = self.machine(total_vfs=4)
        slot = Slot(m)
        for _ in range(5):
            slot.control(POWER_ON)
            q = m.pf.queue()
            self.assertEqual(q.read(0, 4096), bytes(4096))
            q.write(0, noise(4096))
            m.pf.enable_vfs(4)
            m.qmp("device_del", id="dev")
            slot.control(POWER_OFF)
            m.event("DEVICE_DELETED")
            m.plug()
            slot.control(POWER_ON)
            m.pf = PF(m)

    def test_device_add_into_an_empty_slot(self):
        m = self.machine(plug=False)
        slot = Slot(m)
        self.assertFalse(slot.status() & PDS)
        slot.control(POWER_OFF | HPIE | PDCE)
        m.plug(total_vfs=63, vf_window_size=65536)
        self.assertTrue(slot.status() & PDS)
        self.assertTrue(slot.interrupted())
        slot.control(POWER_ON)
        pf = PF(m)
        self.assertEqual(pf.reg(HW.REG_ID), HW.ID)
        pf.enable_vfs(63)

    def test_surprise_removal_under_load(self):
        functions = self.functions(8)
        m, pf, vf = functions[0].m, functions[0], functions[3]
        slot = Slot(m)
        slot.control(POWER_ON | HPIE | PDCE)
        slot.interrupted()
        hosts = self.load(functions)
        m.qmp("qom-set", path="dev", property="x-surprise", value=True)
        for host in hosts:
            m.poke(host, b"\x55" * (1 << 18))
        self.assertTrue(slot.interrupted())
        self.assertEqual(slot.status() & (PDS | PDC), PDC)
        self.assertFalse(slot.link() & DLLLA)
        self.assertEqual((pf.cfg(0), vf.cfg(0)), (0xFFFFFFFF, 0xFFFFFFFF))
        self.assertEqual(pf.reg(HW.REG_ID), 0xFFFFFFFF)
        m.step(10_000_000)
        for host in hosts:
            self.assertEqual(m.peek(host, 1 << 18), b"\x55" * (1 << 18))
        slot.control(POWER_OFF)
        m.event("DEVICE_DELETED")
        self.assertEqual([c["name"] for c in m.qmp("qom-list", path="/machine/peripheral")], ["type", "rp"])

    def test_surprise_wakes_a_guest_that_waits_for_the_button_only(self):
        m = self.machine()
        slot = Slot(m)
        slot.control(POWER_ON | HPIE | ABPE)
        m.qmp("qom-set", path="dev", property="x-surprise", value=True)
        self.assertTrue(slot.interrupted())
        self.assertEqual(slot.status() & (PDS | PDC | ABP), PDC | ABP)

    def test_plug_again_after_surprise(self):
        m = self.machine(total_vfs=2)
        slot = Slot(m)
        for _ in range(5):
            slot.control(POWER_ON)
            m.pf.enable_vfs(2)
            self.load([m.pf])
            m.qmp("qom-set", path="dev", property="x-surprise", value=True)
            m.write(slot.cap + SLTSTA, 2, PDC)
            slot.control(POWER_OFF)
            m.event("DEVICE_DELETED")
            m.plug()
            self.assertTrue(slot.status() & PDS)
            slot.control(POWER_ON)
            m.pf = PF(m)
        self.assertEqual(m.pf.reg(HW.REG_ID), HW.ID)

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
        m = self.machine(plug=False, qemu=("-device", "vfetch,id=fixed,bus=pcie.0,addr=5,total_vfs=0"))
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
