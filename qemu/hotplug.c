/*
 * vfetch: surprise removal.
 *
 * SPDX-License-Identifier: GPL-2.0
 *
 * QEMU's device_del asks the guest first. Setting x-surprise does what pulling
 * the card does: from one moment to the next nothing answers, and the slot
 * reports that presence and link are gone.
 *
 * The object stays until the guest has noticed and switches the slot's power
 * off: without it the BARs would be unmapped, and QEMU reads 0 there, where a
 * bus without an answer reads all ones.
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

/* For guests that do not switch the power off. */
#define REMOVAL_NS (5 * NANOSECONDS_PER_SECOND)

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

static void removal(void *opaque)
{
    VfetchDevice *d = opaque;
    DeviceState *dev = DEVICE(d);

    object_ref(OBJECT(d));
    hotplug_handler_unplug(qdev_get_hotplug_handler(dev), dev, &error_abort);
    object_unparent(OBJECT(d));
    object_unref(OBJECT(d));
}

/* The slot's power went off, or the machine was reset. */
void vfetch_hotplug_reset(VfetchDevice *d)
{
    if (d->removal) {
        timer_mod_ns(d->removal, vfetch_now());
    }
}

void vfetch_hotplug_exit(VfetchDevice *d)
{
    timer_free(d->removal);
    d->removal = NULL;
}

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
    for (uint32_t i = 0; i <= d->total_vfs; i++) {
        if (d->fn[i]) {
            vfetch_function_reset(d->fn[i]);
        }
    }
    timer_del(d->timer);
    d->removal = timer_new_ns(QEMU_CLOCK_VIRTUAL, removal, d);
    timer_mod_ns(d->removal, vfetch_now() + REMOVAL_NS);
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
