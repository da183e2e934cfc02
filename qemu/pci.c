/*
 * vfetch: PF and VF as PCI functions.
 *
 * SPDX-License-Identifier: GPL-2.0
 *
 * The PF's object is the device: it holds what the functions share. QEMU's
 * SR-IOV code makes the VFs when the PF is realized and switches them on and
 * off; each is reset on either occasion.
 */
#include "qemu/osdep.h"
#include "hw/pci/msix.h"
#include "hw/qdev-properties.h"
#include "migration/vmstate.h"
#include "qapi/error.h"
#include "qemu/host-utils.h"
#include "qemu/module.h"
#include "qemu/units.h"
#include "vfetch.h"

/* Extended capabilities. */
#define ARI_OFFSET      0x100
#define SRIOV_OFFSET    0x140

/* VF n is n functions after the PF, on the same bus. */
#define VF_OFFSET       1
#define VF_STRIDE       1

#define BAR_MEM32       PCI_BASE_ADDRESS_SPACE_MEMORY
#define BAR_WINDOW      (PCI_BASE_ADDRESS_SPACE_MEMORY | \
                         PCI_BASE_ADDRESS_MEM_TYPE_64 | \
                         PCI_BASE_ADDRESS_MEM_PREFETCH)

typedef struct VfetchVF {
    PCIDevice parent_obj;
    VfetchFunction fn;
} VfetchVF;

DECLARE_INSTANCE_CHECKER(VfetchVF, VFETCH_VF, TYPE_VFETCH_VF)

/* ---- what PF and VF have in common -------------------------------------- */

static uint32_t function_read_config(PCIDevice *pci, uint32_t addr, int len)
{
    VfetchDevice *d = VFETCH(pci_is_vf(pci) ? pcie_sriov_get_pf(pci) : pci);

    return d->gone ? vfetch_ones(len) : pci_default_read_config(pci, addr, len);
}

/*
 * A reset, SR-IOV and the bus-master bit change what happens from now on. What
 * was due before happens first, as if it had been done in time.
 */
static void function_write_config(PCIDevice *pci, uint32_t addr, uint32_t val,
                                  int len)
{
    VfetchDevice *d = VFETCH(pci_is_vf(pci) ? pcie_sriov_get_pf(pci) : pci);

    if (d->gone) {
        return;
    }
    if (!d->in_message) {
        vfetch_link_run(d);
    }
    pci_default_write_config(pci, addr, val, len);
    pcie_cap_flr_write_config(pci, addr, val, len);
    vfetch_link_arm(d);
    vfetch_messages_send(d);
}

/* BARs and capabilities of a function. The PF adds its own behind it. */
static bool function_realize(VfetchFunction *f, PCIDevice *pci,
                             uint64_t window_size, Error **errp)
{
    f->pci = pci;
    vfetch_function_init(f);

    vfetch_regs_init(f, OBJECT(pci));
    pci_register_bar(pci, VFETCH_BAR_REGS, BAR_MEM32, &f->regs);
    vfetch_window_init(f, OBJECT(pci), window_size);
    pci_register_bar(pci, VFETCH_BAR_WINDOW, BAR_WINDOW, &f->window);

    if (pcie_endpoint_cap_init(pci, 0) < 0) {
        error_setg(errp, "vfetch: no room for the PCI Express capability");
        return false;
    }
    pcie_cap_flr_init(pci);
    if (msix_init_exclusive_bar(pci, VFETCH_MSIX_VECTORS, VFETCH_BAR_MSIX,
                                errp)) {
        pcie_cap_exit(pci);
        return false;
    }
    for (unsigned i = 0; i < VFETCH_MSIX_VECTORS; i++) {
        msix_vector_use(pci, i);
    }
    vfetch_silence_init(f);
    pcie_ari_init(pci, ARI_OFFSET);

    f->dev->fn[f->index] = f;
    return true;
}

static void function_exit(VfetchFunction *f)
{
    vfetch_function_reset(f);
    vfetch_mmu_exit(f);
    f->dev->fn[f->index] = NULL;
    vfetch_silence_exit(f);
    msix_unuse_all_vectors(f->pci);
    msix_uninit_exclusive_bar(f->pci);
    pcie_cap_exit(f->pci);
}

/* ---- VF ----------------------------------------------------------------- */

static void vf_realize(PCIDevice *pci, Error **errp)
{
    VfetchFunction *f = &VFETCH_VF(pci)->fn;
    VfetchDevice *d = VFETCH(pcie_sriov_get_pf(pci));

    f->index = pcie_sriov_vf_number(pci) + 1;
    f->dev = d;
    /* An access may be on its way to the VF's registers when it goes. */
    object_ref(OBJECT(d));
    function_realize(f, pci, d->vf_window_size, errp);
}

static void vf_exit(PCIDevice *pci)
{
    function_exit(&VFETCH_VF(pci)->fn);
}

static void vf_finalize(Object *obj)
{
    VfetchDevice *d = VFETCH_VF(obj)->fn.dev;

    if (d) {
        object_unref(OBJECT(d));
    }
}

static void vf_reset_hold(Object *obj, ResetType type)
{
    vfetch_function_reset(&VFETCH_VF(obj)->fn);
}

/* ---- PF ----------------------------------------------------------------- */

static bool check_range(const char *name, uint64_t value, uint64_t least,
                        uint64_t most, Error **errp)
{
    if (value < least || value > most) {
        error_setg(errp, "vfetch: %s=%" PRIu64 " is not between %" PRIu64
                   " and %" PRIu64, name, value, least, most);
        return false;
    }
    return true;
}

static bool check_power(const char *name, uint64_t value, Error **errp)
{
    if (!is_power_of_2(value)) {
        error_setg(errp, "vfetch: %s=%" PRIu64 " is not a power of two", name,
                   value);
        return false;
    }
    return true;
}

static bool check_window(const char *name, uint64_t value, Error **errp)
{
    return check_power(name, value, errp) &&
           check_range(name, value, 4 * KiB, 1 * TiB, errp);
}

static bool check_properties(VfetchDevice *d, Error **errp)
{
    if (d->mem_size % VFETCH_PART_GRANULE) {
        error_setg(errp, "vfetch: mem_size=%" PRIu64 " is not a multiple of %u",
                   d->mem_size, VFETCH_PART_GRANULE);
        return false;
    }
    return check_range("total_vfs", d->total_vfs, 0, VFETCH_MAX_VFS, errp) &&
           check_range("mem_size", d->mem_size, VFETCH_PART_GRANULE, 1 * TiB,
                       errp) &&
           check_window("window_size", d->window_size, errp) &&
           check_window("vf_window_size", d->vf_window_size, errp) &&
           check_range("queues", d->queues, 2, VFETCH_MAX_QUEUES, errp) &&
           check_range("link_latency_ns", d->link_latency_ns, 0, 1000000000,
                       errp) &&
           check_range("link_bytes_per_us", d->link_bytes_per_us, 1, 10000000,
                       errp) &&
           check_range("link_quantum", d->link_quantum, 64, VFETCH_MAX_BYTES,
                       errp) &&
           check_range("mem_bytes_per_us", d->mem_bytes_per_us, 1, 100000000,
                       errp) &&
           check_power("tlb_entries", d->tlb_entries, errp) &&
           check_range("tlb_entries", d->tlb_entries, 8, 65536, errp) &&
           check_range("tlb_miss_ns", d->tlb_miss_ns, 0, 1000000, errp) &&
           check_range("invalidate_ns", d->invalidate_ns, 0, 1000000000,
                       errp) &&
           check_range("job_slots", d->job_slots, 1, 64, errp) &&
           check_range("job_strands", d->job_strands, 1, 4096, errp);
}

/*
 * The last member of PCIDevice is also a property, and QEMU has noted where it
 * is. If that is where this file thinks it is, both mean the same structure.
 */
static bool check_layout(VfetchDevice *d, Error **errp)
{
    ObjectProperty *p = object_class_property_find(object_get_class(OBJECT(d)),
                                                   "x-max-bounce-buffer-size");
    const Property *field = p ? p->opaque : NULL;

    if (!field ||
        field->offset != offsetof(PCIDevice, max_bounce_buffer_size)) {
        error_setg(errp, "vfetch: compiled for another version of QEMU than "
                   "the one that is running");
        return false;
    }
    return true;
}

static void pf_realize(PCIDevice *pci, Error **errp)
{
    VfetchDevice *d = VFETCH(pci);

    if (!check_layout(d, errp)) {
        return;
    }
    d->gone = false;
    d->pf.dev = d;
    d->pf.index = 0;
    if (!check_properties(d, errp) || !vfetch_memory_init(d, errp)) {
        return;
    }
    vfetch_link_init(d);
    if (!function_realize(&d->pf, pci, d->window_size, errp)) {
        goto fail;
    }
    if (d->test) {
        vfetch_fault_regs_init(d);
        pci_register_bar(pci, VFETCH_BAR_TEST, BAR_MEM32, &d->test_regs);
    }
    if (d->total_vfs) {
        if (!pcie_sriov_pf_init(pci, SRIOV_OFFSET, TYPE_VFETCH_VF,
                                VFETCH_PCI_DEVICE_VF, d->total_vfs,
                                d->total_vfs, VF_OFFSET, VF_STRIDE, errp)) {
            function_exit(&d->pf);
            goto fail;
        }
        pcie_sriov_pf_init_vf_bar(pci, VFETCH_BAR_REGS, BAR_MEM32,
                                  VFETCH_BAR_REGS_BYTES);
        pcie_sriov_pf_init_vf_bar(pci, VFETCH_BAR_WINDOW, BAR_WINDOW,
                                  d->vf_window_size);
        pcie_sriov_pf_init_vf_bar(pci, VFETCH_BAR_MSIX, BAR_MEM32,
                                  memory_region_size(&pci->msix_exclusive_bar));
    }
    vfetch_memory_power_on(d);
    return;

fail:
    vfetch_link_exit(d);
    vfetch_memory_free(d);
}

static void pf_exit(PCIDevice *pci)
{
    VfetchDevice *d = VFETCH(pci);

    pcie_sriov_pf_exit(pci);
    function_exit(&d->pf);
    d->gone = true;
    vfetch_link_exit(d);
    vfetch_hotplug_exit(d);
}

static void pf_finalize(Object *obj)
{
    vfetch_memory_free(VFETCH(obj));
}

/* A PF reset takes the VFs with it; QEMU's PCI code then switches them off. */
static void pf_reset_hold(Object *obj, ResetType type)
{
    VfetchDevice *d = VFETCH(obj);

    for (uint32_t i = 0; i <= d->total_vfs; i++) {
        if (d->fn[i]) {
            vfetch_function_reset(d->fn[i]);
        }
    }
    if (d->mem) {
        vfetch_memory_power_on(d);
    }
    vfetch_hotplug_reset(d);
}

static const Property pf_properties[] = {
    DEFINE_PROP_UINT32("total_vfs", VfetchDevice, total_vfs, 8),
    DEFINE_PROP_SIZE("mem_size", VfetchDevice, mem_size, 256 * MiB),
    DEFINE_PROP_SIZE("window_size", VfetchDevice, window_size, 16 * MiB),
    DEFINE_PROP_SIZE("vf_window_size", VfetchDevice, vf_window_size, 4 * MiB),
    DEFINE_PROP_UINT32("queues", VfetchDevice, queues, 3),
    DEFINE_PROP_UINT32("link_latency_ns", VfetchDevice, link_latency_ns, 1000),
    DEFINE_PROP_UINT32("link_bytes_per_us", VfetchDevice, link_bytes_per_us,
                       8000),
    DEFINE_PROP_UINT32("link_quantum", VfetchDevice, link_quantum, 4096),
    DEFINE_PROP_UINT32("mem_bytes_per_us", VfetchDevice, mem_bytes_per_us,
                       100000),
    DEFINE_PROP_UINT32("tlb_entries", VfetchDevice, tlb_entries, 1024),
    DEFINE_PROP_UINT32("tlb_miss_ns", VfetchDevice, tlb_miss_ns, 200),
    DEFINE_PROP_UINT32("invalidate_ns", VfetchDevice, invalidate_ns, 500),
    DEFINE_PROP_UINT32("job_slots", VfetchDevice, job_slots, 4),
    DEFINE_PROP_UINT32("job_strands", VfetchDevice, job_strands, 1024),
    DEFINE_PROP_BOOL("x-test", VfetchDevice, test, false),
};

/* The functions' state is large and of no use elsewhere. */
static const VMStateDescription vmstate_vfetch = {
    .name = TYPE_VFETCH,
    .unmigratable = 1,
};

typedef struct FunctionClass {
    uint16_t device_id;
    const char *desc;
    void (*realize)(PCIDevice *pci, Error **errp);
    PCIUnregisterFunc *exit;
    ResettableHoldPhase reset_hold;
} FunctionClass;

static void function_class_init(ObjectClass *klass, const FunctionClass *fc)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    PCIDeviceClass *pc = PCI_DEVICE_CLASS(klass);

    pc->vendor_id = VFETCH_PCI_VENDOR;
    pc->device_id = fc->device_id;
    pc->class_id = VFETCH_PCI_CLASS;
    pc->revision = VFETCH_VERSION_MAJOR;
    pc->realize = fc->realize;
    pc->exit = fc->exit;
    pc->config_read = function_read_config;
    pc->config_write = function_write_config;
    RESETTABLE_CLASS(klass)->phases.hold = fc->reset_hold;
    dc->desc = fc->desc;
    dc->vmsd = &vmstate_vfetch;
    set_bit(DEVICE_CATEGORY_MISC, dc->categories);
}

static void pf_class_init(ObjectClass *klass, void *data)
{
    function_class_init(klass, &(const FunctionClass) {
        .device_id = VFETCH_PCI_DEVICE_PF,
        .desc = "vfetch accelerator with SR-IOV",
        .realize = pf_realize,
        .exit = pf_exit,
        .reset_hold = pf_reset_hold,
    });
    device_class_set_props(DEVICE_CLASS(klass), pf_properties);
    vfetch_fault_class_init(klass);
    vfetch_hotplug_class_init(klass);
}

static void vf_class_init(ObjectClass *klass, void *data)
{
    function_class_init(klass, &(const FunctionClass) {
        .device_id = VFETCH_PCI_DEVICE_VF,
        .desc = "vfetch virtual function",
        .realize = vf_realize,
        .exit = vf_exit,
        .reset_hold = vf_reset_hold,
    });
    /* VFs come with their PF. */
    DEVICE_CLASS(klass)->user_creatable = false;
}

static const TypeInfo vfetch_types[] = {
    {
        .name = TYPE_VFETCH,
        .parent = TYPE_PCI_DEVICE,
        .instance_size = sizeof(VfetchDevice),
        .instance_finalize = pf_finalize,
        .class_init = pf_class_init,
        .interfaces = (InterfaceInfo[]) { { INTERFACE_PCIE_DEVICE }, { } },
    },
    {
        .name = TYPE_VFETCH_VF,
        .parent = TYPE_PCI_DEVICE,
        .instance_size = sizeof(VfetchVF),
        .instance_finalize = vf_finalize,
        .class_init = vf_class_init,
        .interfaces = (InterfaceInfo[]) { { INTERFACE_PCIE_DEVICE }, { } },
    },
};

DEFINE_TYPES(vfetch_types)
