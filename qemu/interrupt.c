/*
 * vfetch: MSI-X messages.
 *
 * SPDX-License-Identifier: GPL-2.0
 *
 * A message is a write to an address that the guest chose: the interrupt
 * controller if it is sane, but it may be a register of this device, or
 * configuration space, where it resets a function or unplugs the device. So a
 * message is only noted where it is due, and sent at the end of whatever the
 * device was doing.
 */
#include "qemu/osdep.h"
#include "hw/pci/msix.h"
#include "vfetch.h"

void vfetch_message(VfetchFunction *f, uint32_t vector)
{
    if (vector < VFETCH_MSIX_VECTORS) {
        f->messages |= 1u << vector;
        f->dev->messages = true;
    }
}

/* A message may have unplugged the device when this returns. */
void vfetch_messages_send(VfetchDevice *d)
{
    if (!d->messages || d->in_message) {
        return;
    }
    object_ref(OBJECT(d));
    d->messages = false;
    d->in_message = true;
    for (uint32_t i = 0; i <= d->total_vfs; i++) {
        VfetchFunction *f;

        /* Looked up each time: the message before may have taken it away. */
        while (!d->gone && (f = d->fn[i]) && f->messages) {
            PCIDevice *pci = f->pci;
            uint32_t vector = ctz32(f->messages);

            f->messages &= ~(1u << vector);
            if (!msix_enabled(pci)) {
                continue;
            }
            f->count.interrupts++;
            object_ref(OBJECT(pci));
            msix_notify(pci, vector);
            object_unref(OBJECT(pci));
        }
    }
    d->in_message = false;
    object_unref(OBJECT(d));
}
