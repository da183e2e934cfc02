/*
 * vfetch: surprise removal.
 *
 * SPDX-License-Identifier: GPL-2.0
 *
 * QEMU's device_del asks the guest first. Setting x-surprise does what pulling
 * the card does: from one moment to the next nothing answers, and the slot
 * reports that presence and link are gone.
 *
 * The object stays until the guest has noticed and has switched the slot off:
 * without it the BARs would be unmapped, and QEMU reads 0 there, where a bus
 * without an answer reads all ones.
 *
 * It also stays because the slot is not ready for another device before. QEMU's
 * port unplugs what is present when power and power indicator are off after a
 * write that switched off the second of them (hw/pci/pcie.c,
 * pcie_cap_slot_write_config()). Linux switches off the power, waits for a
 * second, and then switches off the indicator (pciehp_ctrl.c, remove_board()):
 * whatever was plugged in during that second would be gone again at once.
 */
#include "qemu/osdep.h"
#include "hw/hotplug.h"
#include "hw/pci/msi.h"
#include "hw/pci/msix.h"
#include "hw/pci/pci_bridge.h"
#include "hw/pci/pci_bus.h"
#include "hw/pci/pcie_port.h"
#include "qapi/error.h"
#include "vfetch.h"

/* For guests that do not switch off the power, or not the indicator after it. */
#define REMOVAL_NS  (5 * NANOSECONDS_PER_SECOND)

/* How often the indicator is looked at; and for how long it has been off then. */
#define SLOT_POLL_NS    (10 * SCALE_MS)

/* ---- the MSI-X table, which is QEMU's, does not answer either ----------- */

static uint64_t silence_read(void *opaque, hwaddr addr, unsigned size)
{
    return vfetch_ones(size);
}

static void silence_write(void *opaque, hwaddr addr, uint64_t val,
                          unsigned size)
{
}

static const MemoryRegionOps silence_ops =
    VFETCH_REGION_OPS(silence_read, silence_write);

void vfetch_silence_init(VfetchFunction *f)
{
    MemoryRegion *bar = &f->pci->msix_exclusive_bar;

    memory_region_init_io(&f->silence, OBJECT(f->pci), &silence_ops, f,
                          "vfetch-silence", memory_region_size(bar));
    memory_region_set_enabled(&f->silence, false);
    memory_region_add_subregion_overlap(bar, 0, &f->silence, 1);
}

void vfetch_silence_exit(VfetchFunction *f)
{
    memory_region_del_subregion(&f->pci->msix_exclusive_bar, &f->silence);
}

/* ---- the slot ----------------------------------------------------------- */

/* The port above, if it is one that reports hot-plug events. */
static PCIDevice *slot_of(PCIDevice *pci)
{
    PCIDevice *port = pci_bridge_get_device(pci_get_bus(pci));

    return port && object_dynamic_cast(OBJECT(port), TYPE_PCIE_SLOT) &&
           port->exp.exp_cap ? port : NULL;
}

/*
 * As hotplug_event_notify() of hw/pci/pcie.c, which is not exported, does it:
 * one interrupt when an enabled event appears.
 */
static void slot_interrupt(PCIDevice *port)
{
    uint8_t *cap = port->config + port->exp.exp_cap;
    uint16_t control = pci_get_word(cap + PCI_EXP_SLTCTL);
    uint16_t status = pci_get_word(cap + PCI_EXP_SLTSTA);
    bool before = port->exp.hpev_notified;
    bool now = (control & PCI_EXP_SLTCTL_HPIE) &&
               (control & status & PCI_EXP_HP_EV_SUPPORTED);

    port->exp.hpev_notified = now;
    if (before == now) {
        return;
    }
    if (msix_enabled(port)) {
        msix_notify(port, pcie_cap_flags_get_vector(port));
    } else if (msi_enabled(port)) {
        msi_notify(port, pcie_cap_flags_get_vector(port));
    } else if (pci_intx(port) != -1) {
        pci_set_irq(port, now);
    }
}

/*
 * A real port would also report the change of the link. QEMU's cannot, and
 * Linux enables no interrupt for presence on a slot that has an attention
 * button. So the button is what wakes the guest up, as in QEMU's hot plug; it
 * then finds the card not present.
 */
static void slot_report_empty(PCIDevice *port)
{
    uint8_t *cap = port->config + port->exp.exp_cap;
    uint16_t control = pci_get_word(cap + PCI_EXP_SLTCTL);
    uint16_t events = PCI_EXP_SLTSTA_PDC;

    if (!(control & PCI_EXP_SLTCTL_PDCE)) {
        events |= PCI_EXP_SLTSTA_ABP;
    }
    pci_word_test_and_clear_mask(cap + PCI_EXP_LNKSTA, PCI_EXP_LNKSTA_DLLLA);
    pci_word_test_and_clear_mask(cap + PCI_EXP_SLTSTA, PCI_EXP_SLTSTA_PDS);
    pci_word_test_and_set_mask(cap + PCI_EXP_SLTSTA, events);
    slot_interrupt(port);
}

/* The power is off, the indicator not yet: the guest is about to do that. */
static bool slot_switching_off(VfetchDevice *d)
{
    PCIDevice *port = slot_of(PCI_DEVICE(d));
    uint16_t control = pci_get_word(port->config + port->exp.exp_cap +
                                    PCI_EXP_SLTCTL);

    return (control & PCI_EXP_SLTCTL_PCC) == PCI_EXP_SLTCTL_PWR_OFF &&
           (control & PCI_EXP_SLTCTL_PIC) != PCI_EXP_SLTCTL_PWR_IND_OFF;
}

static void removal(void *opaque)
{
    VfetchDevice *d = opaque;
    DeviceState *dev = DEVICE(d);
    bool switching_off = slot_switching_off(d);

    /* Once more when it is off: the guest looks at the slot after that. */
    if ((switching_off || d->slot_was_on) && vfetch_now() < d->removal_by) {
        d->slot_was_on = switching_off;
        timer_mod_ns(d->removal, vfetch_now() + SLOT_POLL_NS);
        return;
    }
    object_ref(OBJECT(d));
    hotplug_handler_unplug(qdev_get_hotplug_handler(dev), dev, &error_abort);
    object_unparent(OBJECT(d));
    object_unref(OBJECT(d));
}

/* The slot's power went off, or the machine was reset. */
void vfetch_hotplug_reset(VfetchDevice *d)
{
    if (d->removal) {
        d->removal_by = vfetch_now() + REMOVAL_NS;
        timer_mod_ns(d->removal, vfetch_now());
    }
}

void vfetch_hotplug_exit(VfetchDevice *d)
{
    timer_free(d->removal);
    d->removal = NULL;
}

/* ---- QMP ---------------------------------------------------------------- */

static void surprise_set(Object *obj, bool value, Error **errp)
{
    VfetchDevice *d = VFETCH(obj);
    PCIDevice *port;

    if (!value) {
        return;
    }
    if (!qdev_is_realized(DEVICE(obj)) || d->gone) {
        error_setg(errp, "x-surprise: the device is not there");
        return;
    }
    port = slot_of(PCI_DEVICE(d));
    if (!port) {
        error_setg(errp, "x-surprise: the device is not in a hot-plug slot: "
                   "put it behind a pcie-root-port");
        return;
    }

    if (OBJECT(qdev_get_hotplug_handler(DEVICE(obj))) != OBJECT(port)) {
        error_setg(errp, "x-surprise: ACPI handles hot plug of this slot, not "
                   "the port: start QEMU with -global "
                   "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off");
        return;
    }

    d->gone = true;
    memory_region_transaction_begin();
    for (uint32_t i = 0; i <= d->total_vfs; i++) {
        if (d->fn[i]) {
            vfetch_function_reset(d->fn[i]);
            memory_region_set_enabled(&d->fn[i]->silence, true);
        }
    }
    memory_region_transaction_commit();
    timer_del(d->timer);
    d->removal = timer_new_ns(QEMU_CLOCK_VIRTUAL, removal, d);
    d->removal_by = vfetch_now() + REMOVAL_NS;
    timer_mod_ns(d->removal, d->removal_by);
    slot_report_empty(port);
}

static bool surprise_get(Object *obj, Error **errp)
{
    return VFETCH(obj)->gone;
}

void vfetch_hotplug_class_init(ObjectClass *klass)
{
    object_class_property_add_bool(klass, "x-surprise", surprise_get,
                                   surprise_set);
    object_class_property_set_description(klass, "x-surprise",
        "Set to true: the device is pulled out without notice");
}
