/*
 * vfetch: device memory, its partitions, and the BAR2 window.
 *
 * SPDX-License-Identifier: GPL-2.0
 *
 * All functions share one piece of memory. The PF's driver says which part is
 * whose; a function reaches nothing else, through descriptors or its window.
 *
 * The window translates inside of its handlers. An alias would be faster for
 * the guest, but has to be remapped when the partition changes.
 */
#include "qemu/osdep.h"
#include <sys/mman.h>
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "vfetch.h"

bool vfetch_memory_init(VfetchDevice *d, Error **errp)
{
    void *p = mmap(NULL, d->mem_size, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (p == MAP_FAILED) {
        error_setg_errno(errp, errno,
                         "vfetch: cannot map mem_size=%" PRIu64 " bytes",
                         d->mem_size);
        return false;
    }
    d->mem = p;
    return true;
}

void vfetch_memory_free(VfetchDevice *d)
{
    if (d->mem) {
        munmap(d->mem, d->mem_size);
        d->mem = NULL;
    }
}

/* Zeroes, and costs nothing where nothing was written. */
void vfetch_memory_scrub(VfetchDevice *d, uint64_t base, uint64_t size)
{
    uint64_t page = qemu_real_host_page_size();
    uint64_t start = ROUND_UP(base, page);
    uint64_t end = ROUND_DOWN(base + size, page);

    if (end <= start || madvise(d->mem + start, end - start, MADV_DONTNEED)) {
        memset(d->mem + base, 0, size);
        return;
    }
    memset(d->mem + base, 0, start - base);
    memset(d->mem + end, 0, base + size - end);
}

/* @bytes is a multiple of 8. */
void vfetch_memory_fill(VfetchDevice *d, uint64_t at, uint64_t bytes,
                        uint64_t pattern)
{
    uint8_t *p = d->mem + at;

    if (!pattern) {
        vfetch_memory_scrub(d, at, bytes);
        return;
    }
    for (uint64_t i = 0; i < bytes; i += 8) {
        stq_le_p(p + i, pattern);
    }
}

bool vfetch_memory_in_range(const VfetchFunction *f, uint64_t addr,
                            uint64_t bytes)
{
    return addr <= f->size && bytes <= f->size - addr;
}

/* The PF owns everything; every weight is the default. */
void vfetch_memory_power_on(VfetchDevice *d)
{
    vfetch_memory_scrub(d, 0, d->mem_size);
    for (uint32_t i = 0; i <= d->total_vfs; i++) {
        VfetchFunction *f = d->fn[i];

        if (f) {
            f->base = 0;
            f->size = i ? 0 : d->mem_size;
            f->weight = VFETCH_DEFAULT_WEIGHT;
        }
    }
    d->part_result = VFETCH_PART_OK;
    vfetch_part_select(d, 0);
}

/* Writing INDEX loads what the function has; nothing if there is none. */
void vfetch_part_select(VfetchDevice *d, uint32_t index)
{
    VfetchFunction *f = index <= d->total_vfs ? d->fn[index] : NULL;

    d->part_index = index;
    d->part_base = f ? f->base : 0;
    d->part_size = f ? f->size : 0;
    d->part_weight = f ? f->weight : 0;
}

static uint32_t part_apply(VfetchDevice *d)
{
    uint64_t base = d->part_base, size = d->part_size;
    VfetchFunction *f;

    if (d->part_index > d->total_vfs || !d->fn[d->part_index]) {
        return VFETCH_PART_INDEX;
    }
    f = d->fn[d->part_index];
    if (vfetch_function_active(f)) {
        return VFETCH_PART_BUSY;
    }
    if (base % VFETCH_PART_GRANULE || size % VFETCH_PART_GRANULE ||
        base > d->mem_size || size > d->mem_size - base) {
        return VFETCH_PART_RANGE;
    }
    for (uint32_t i = 0; i <= d->total_vfs; i++) {
        VfetchFunction *o = d->fn[i];

        if (o && o != f && size && o->size &&
            base < o->base + o->size && o->base < base + size) {
            return VFETCH_PART_OVERLAP;
        }
    }
    if (d->part_weight < 1 || d->part_weight > 255) {
        return VFETCH_PART_WEIGHT;
    }

    /* What it gives up belongs to nobody from here on: nobody's bytes. */
    vfetch_memory_scrub(d, f->base, f->size);
    vfetch_memory_scrub(d, base, size);
    f->base = base;
    f->size = size;
    f->weight = d->part_weight;
    return VFETCH_PART_OK;
}

void vfetch_part_command(VfetchDevice *d, uint32_t command)
{
    d->part_result = command == VFETCH_PART_APPLY ? part_apply(d)
                                                  : VFETCH_PART_COMMAND;
}

static uint64_t window_read(void *opaque, hwaddr addr, unsigned size)
{
    VfetchFunction *f = opaque;
    VfetchDevice *d = f->dev;
    uint64_t val = vfetch_ones(size);

    if (vfetch_ignores_access(d)) {
        return val;
    }
    vfetch_link_run(d);
    if (vfetch_memory_in_range(f, addr, size)) {
        val = ldn_le_p(d->mem + f->base + addr, size);
    }
    vfetch_messages_send(d);
    return val;
}

static void window_write(void *opaque, hwaddr addr, uint64_t val,
                         unsigned size)
{
    VfetchFunction *f = opaque;
    VfetchDevice *d = f->dev;

    if (vfetch_ignores_access(d)) {
        return;
    }
    vfetch_link_run(d);
    if (vfetch_memory_in_range(f, addr, size)) {
        stn_le_p(d->mem + f->base + addr, size, val);
    }
    vfetch_messages_send(d);
}

static const MemoryRegionOps window_ops =
    VFETCH_REGION_OPS(window_read, window_write);

void vfetch_window_init(VfetchFunction *f, Object *owner, uint64_t size)
{
    memory_region_init_io(&f->window, owner, &window_ops, f, "vfetch-window",
                          size);
}
