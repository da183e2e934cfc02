# SPDX-License-Identifier: GPL-2.0
"""MSI-X: one message, then none until CQ_HEAD re-arms the queue."""

from case import DeviceTest
from lib import CAP_MSIX, EXT_SRIOV, HW, Slot


class Interrupts(DeviceTest):
    def fence(self, q, **fields):
        q.push(HW.OP_FENCE, **fields)
        q.m.step(2000)

    def test_a_completion_sends_its_queues_vector(self):
        pf = self.pf()
        messages = [pf.msix(v) for v in range(HW.MSIX_VECTORS)]
        for vector in (0, 5, HW.MSIX_VECTORS - 1):
            q = pf.queue(vector=vector)
            self.fence(q)
            self.assertEqual([v for v, m in enumerate(messages) if m.taken()], [vector])
            q.reset()

    def test_one_message_until_re_armed(self):
        pf = self.pf()
        message, q = pf.msix(0), pf.queue()
        self.fence(q)
        self.assertTrue(message.taken())
        self.fence(q)
        self.fence(q)
        self.assertFalse(message.taken())
        self.assertEqual(pf.counter("INTERRUPTS"), 1)
        q.take()
        self.assertFalse(message.taken())
        self.fence(q)
        self.assertTrue(message.taken())

    def test_re_arming_with_completions_left_sends_at_once(self):
        pf = self.pf()
        message, q = pf.msix(0), pf.queue()
        self.fence(q)
        self.fence(q)
        self.assertTrue(message.taken())
        q.set(HW.QREG_CQ_HEAD, 1)
        self.assertTrue(message.taken())
        q.set(HW.QREG_CQ_HEAD, 2)
        self.assertFalse(message.taken())

    def test_disarm_keeps_the_queue_silent(self):
        pf = self.pf()
        message, q = pf.msix(0), pf.queue()
        q.set(HW.QREG_CQ_HEAD, HW.CQ_DISARM)
        self.fence(q)
        self.assertFalse(message.taken())
        q.set(HW.QREG_CQ_HEAD, HW.CQ_DISARM | 1)
        self.fence(q)
        self.assertFalse(message.taken())
        q.set(HW.QREG_CQ_HEAD, 1)
        self.assertTrue(message.taken())

    def test_quiet_completions_send_nothing(self):
        pf = self.pf()
        message, q = pf.msix(0), pf.queue()
        self.fence(q, flags=HW.DESC_QUIET)
        self.assertFalse(message.taken())
        q.set(HW.QREG_CQ_HEAD, 0)
        self.assertFalse(message.taken())
        self.fence(q)
        self.assertTrue(message.taken())
        self.fence(q, flags=HW.DESC_QUIET)
        q.set(HW.QREG_CQ_HEAD, 2)
        self.assertFalse(message.taken())

    def test_a_masked_vector_sends_when_unmasked(self):
        pf = self.pf()
        message, q = pf.msix(0), pf.queue()
        control = pf.bar[HW.BAR_MSIX] + 12
        pf.m.write(control, 4, 1)
        self.fence(q)
        self.assertFalse(message.taken())
        pf.m.write(control, 4, 0)
        self.assertTrue(message.taken())

    def test_without_msix_nothing_is_sent_then_or_later(self):
        pf = self.pf()
        message, q = pf.msix(0), pf.queue()
        pf.set_cfg(pf.cap[CAP_MSIX] + 2, 2, 0)
        self.fence(q)
        pf.set_cfg(pf.cap[CAP_MSIX] + 2, 2, 0x8000)
        self.assertFalse(message.taken())
        self.assertEqual(pf.counter("INTERRUPTS"), 0)

    def test_vfs_have_vectors_of_their_own(self):
        pf, a, b = self.functions(2)
        messages = [f.msix(0) for f in (pf, a, b)]
        self.fence(a.queue())
        self.assertEqual([m.taken() for m in messages], [False, True, False])

    def test_a_queue_that_stops_says_so(self):
        pf = self.pf()
        message, q = pf.msix(0), pf.queue()
        q.ring(0x8000)
        self.assertTrue(message.taken())
        self.assertEqual(q.error(), HW.QERR_SQ_TAIL)

    def test_held_completions_announce_themselves_when_posted(self):
        pf = self.pf()
        message, q = pf.msix(0), pf.queue(order=1)
        for _ in range(2):
            self.fence(q)
        self.fence(q)
        self.assertTrue(message.taken())
        q.set(HW.QREG_CQ_HEAD, 2)
        self.assertTrue(message.taken())

    def test_a_message_aimed_at_the_device_itself_does_nothing(self):
        pf, vf = self.functions(1)
        q, victim = pf.queue(), vf.queue()
        pf.msix(0)
        entry = pf.bar[HW.BAR_MSIX]
        for target, data in ((pf.bar[HW.BAR_REGS] + q.at + HW.QREG_CQ_HEAD, 0),
                             (pf.bar[HW.BAR_REGS] + q.at + HW.QREG_CONTROL, HW.QCTL_RESET),
                             (vf.bar[HW.BAR_REGS] + victim.at + HW.QREG_CONTROL, HW.QCTL_RESET),
                             (vf.bar[HW.BAR_WINDOW], 0xDEAD)):
            pf.m.write(entry, 4, target & 0xFFFFFFFF)
            pf.m.write(entry + 4, 4, target >> 32)
            pf.m.write(entry + 8, 4, data)
            self.fence(q)
            q.take()
        self.assertEqual((q.status(), victim.status()), (HW.QSTAT_ENABLED, HW.QSTAT_ENABLED))
        self.assertEqual(victim.read(0, 8), bytes(8))

    def test_a_message_that_resets_its_own_function_is_survived(self):
        pf, vf = self.functions(1)
        for f in (vf, pf):
            f.msix(0)
            q = f.queue()
            entry = f.bar[HW.BAR_MSIX]
            # Device control with "initiate FLR", by way of configuration space.
            pf.m.write(entry, 4, f.config + f.cap[0x10] + 8)
            pf.m.write(entry + 8, 4, 0x8000)
            for _ in range(3):
                q.push(HW.OP_READ, device_addr=0, host_addr=pf.m.alloc(65536), bytes=65536, ring=False)
            q.push(HW.OP_FENCE)
            pf.m.step(1_000_000)
        self.assertEqual(pf.cfg(0) & 0xFFFF, HW.PCI_VENDOR)

    def test_a_message_that_unplugs_the_device_is_survived(self):
        for sender in (0, 1):
            functions = self.functions(2)
            pf, f = functions[0], functions[sender]
            slot = Slot(pf.m)
            slot.control(Slot.POWER_ON)
            for other in functions:
                q = other.queue()
                for _ in range(4):
                    q.push(HW.OP_READ, device_addr=0, host_addr=pf.m.alloc(65536), bytes=65536)
                other.msix(1)
            # The slot's control, by way of configuration space: power off.
            entry = f.bar[HW.BAR_MSIX] + 16
            pf.m.write(entry, 4, slot.cap + slot.SLTCTL)
            pf.m.write(entry + 8, 4, Slot.POWER_OFF)
            f.queue(1, cls=HW.CLASS_PRIORITY).push(HW.OP_FENCE)
            # The VFs' BARs are not mapped any more, and keep nothing alive.
            pf.set_cfg(pf.extended()[EXT_SRIOV] + 8, 2, 0x11)
            pf.m.step(2000)
            pf.m.event("DEVICE_DELETED")
            self.assertFalse(slot.status() & Slot.PDS)
            pf.m.step(1_000_000)

    def test_a_stop_behind_a_completions_message_is_told_when_re_armed(self):
        pf = self.pf()
        message, q = pf.msix(0), pf.queue(order=3)
        self.fence(q)
        self.assertTrue(message.taken())
        q.ring(0x8000)
        self.assertEqual(q.error(), HW.QERR_SQ_TAIL)
        self.assertFalse(message.taken())
        q.set(HW.QREG_CQ_HEAD, 1)
        self.assertTrue(message.taken())
        # Once.
        q.set(HW.QREG_CQ_HEAD, 1)
        self.assertFalse(message.taken())

    def test_a_stop_behind_a_completion_that_is_left_takes_a_further_write(self):
        pf = self.pf()
        message, q = pf.msix(0), pf.queue(order=3)
        self.fence(q)
        self.fence(q)
        q.ring(0x8000)
        self.assertTrue(message.taken())
        q.set(HW.QREG_CQ_HEAD, 1)
        self.assertTrue(message.taken())
        q.set(HW.QREG_CQ_HEAD, HW.CQ_DISARM | 2)
        self.assertFalse(message.taken())
        q.set(HW.QREG_CQ_HEAD, 2)
        self.assertTrue(message.taken())

    def test_a_stop_is_not_told_after_a_reset(self):
        pf = self.pf()
        message, q = pf.msix(0), pf.queue(order=3)
        q.set(HW.QREG_CQ_HEAD, HW.CQ_DISARM)
        q.ring(0x8000)
        q.reset()
        q.set(HW.QREG_CONTROL, HW.QCTL_ENABLE)
        q.set(HW.QREG_CQ_HEAD, 0)
        self.assertFalse(message.taken())
