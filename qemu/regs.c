/*
 * vfetch: BAR0.
 *
 * SPDX-License-Identifier: GPL-2.0
 */
#include "qemu/osdep.h"
#include "vfetch.h"

uint64_t vfetch_half_read(uint64_t value, hwaddr addr, unsigned size)
{
    return size == 8 ? value : extract64(value, addr & 4 ? 32 : 0, 32);
}

uint64_t vfetch_half_write(uint64_t old, hwaddr addr, uint64_t val,
                           unsigned size)
{
    return size == 8 ? val : deposit64(old, addr & 4 ? 32 : 0, 32, val);
}

/* The queue whose register is at @addr, and which of its registers that is. */
static VfetchQueue *queue_at(VfetchFunction *f, hwaddr addr, uint32_t *reg)
{
    hwaddr index = (addr - VFETCH_QUEUE_BASE) / VFETCH_QUEUE_STRIDE;

    if (addr < VFETCH_QUEUE_BASE || index >= f->dev->queues) {
        return NULL;
    }
    *reg = (addr - VFETCH_QUEUE_BASE) % VFETCH_QUEUE_STRIDE;
    return &f->queue[index];
}

static bool queue_read32(VfetchFunction *f, hwaddr addr, uint32_t *val)
{
    uint32_t reg;
    VfetchQueue *q = queue_at(f, addr, &reg);

    if (!q) {
        return false;
    }
    switch (reg) {
    case VFETCH_QREG_ORDER:
        *val = q->order;
        return true;
    case VFETCH_QREG_VECTOR:
        *val = q->vector;
        return true;
    case VFETCH_QREG_CLASS:
        *val = q->class;
        return true;
    case VFETCH_QREG_STATUS:
        *val = (q->enabled ? VFETCH_QSTAT_ENABLED : 0) |
               (q->resetting ? VFETCH_QSTAT_RESETTING : 0) |
               (q->error << VFETCH_QSTAT_ERROR_SHIFT);
        return true;
    case VFETCH_QREG_SQ_HEAD:
        *val = q->sq_head;
        return true;
    case VFETCH_QREG_CQ_TAIL:
        *val = q->cq_tail & VFETCH_INDEX_MASK;
        return true;
    case VFETCH_QREG_CONTROL:
    case VFETCH_QREG_SQ_TAIL:
    case VFETCH_QREG_CQ_HEAD:
        *val = 0;
        return true;
    default:
        return false;
    }
}

static bool function_read32(VfetchFunction *f, hwaddr addr, uint32_t *val)
{
    VfetchDevice *d = f->dev;

    switch (addr) {
    case VFETCH_REG_ID:
        *val = VFETCH_ID;
        return true;
    case VFETCH_REG_VERSION:
        *val = VFETCH_VERSION_MAJOR << 16 | VFETCH_VERSION_MINOR;
        return true;
    case VFETCH_REG_FUNCTION:
        *val = f->index;
        return true;
    case VFETCH_REG_CAPS:
        *val = VFETCH_CAP_SPACES |
               (f->index ? 0
                         : VFETCH_CAP_PF | (d->test ? VFETCH_CAP_TEST : 0));
        return true;
    case VFETCH_REG_QUEUES:
        *val = d->queues;
        return true;
    case VFETCH_REG_MAX_ORDER:
        *val = VFETCH_MAX_ORDER;
        return true;
    case VFETCH_REG_MAX_SG:
        *val = VFETCH_MAX_SG;
        return true;
    case VFETCH_REG_MAX_BYTES:
        *val = VFETCH_MAX_BYTES;
        return true;
    case VFETCH_REG_LINK_LATENCY_NS:
        *val = d->link_latency_ns;
        return true;
    case VFETCH_REG_LINK_BYTES_PER_US:
        *val = d->link_bytes_per_us;
        return true;
    case VFETCH_REG_LINK_WEIGHT:
        *val = f->weight;
        return true;
    case VFETCH_REG_LINK_QUANTUM:
        *val = d->link_quantum;
        return true;
    case VFETCH_REG_MEM_BYTES_PER_US:
        *val = d->mem_bytes_per_us;
        return true;
    case VFETCH_REG_GENERATION:
        *val = f->generation;
        return true;
    case VFETCH_REG_DEPTH:
        *val = f->count.depth;
        return true;
    case VFETCH_REG_DEPTH_MAX:
        *val = f->count.depth_max;
        return true;
    default:
        return false;
    }
}

static bool space_read32(VfetchFunction *f, hwaddr addr, uint32_t *val)
{
    const VfetchDevice *d = f->dev;

    switch (addr) {
    case VFETCH_REG_AS_COUNT:
        *val = f->as_count;
        return true;
    case VFETCH_REG_TLB_ENTRIES:
        *val = d->tlb_entries;
        return true;
    case VFETCH_REG_TLB_MISS_NS:
        *val = d->tlb_miss_ns;
        return true;
    case VFETCH_REG_INVALIDATE_NS:
        *val = d->invalidate_ns;
        return true;
    case VFETCH_REG_JOB_SLOTS:
        *val = d->job_slots;
        return true;
    case VFETCH_REG_JOB_STRANDS:
        *val = d->job_strands;
        return true;
    default:
        return false;
    }
}

/* The PF alone has these. */
static bool partition_read32(VfetchDevice *d, hwaddr addr, uint32_t *val)
{
    switch (addr) {
    case VFETCH_REG_PART_INDEX:
        *val = d->part_index;
        return true;
    case VFETCH_REG_PART_COUNT:
        *val = d->total_vfs + 1;
        return true;
    case VFETCH_REG_PART_WEIGHT:
        *val = d->part_weight;
        return true;
    case VFETCH_REG_PART_COMMAND:
        *val = 0;
        return true;
    case VFETCH_REG_PART_RESULT:
        *val = d->part_result;
        return true;
    case VFETCH_REG_PART_GRANULE:
        *val = VFETCH_PART_GRANULE;
        return true;
    default:
        return false;
    }
}

static bool read32(VfetchFunction *f, hwaddr addr, uint32_t *val)
{
    return function_read32(f, addr, val) || space_read32(f, addr, val) ||
           vfetch_fault_read32(f, addr, val) ||
           (f->index == 0 && partition_read32(f->dev, addr, val)) ||
           queue_read32(f, addr, val);
}

/* The register of 8 bytes at @addr if it is of those that are written. */
static uint64_t *settable64(VfetchFunction *f, hwaddr addr)
{
    uint32_t reg;
    VfetchQueue *q = queue_at(f, addr, &reg);

    if (f->index == 0 && addr == VFETCH_REG_PART_BASE) {
        return &f->dev->part_base;
    }
    if (f->index == 0 && addr == VFETCH_REG_PART_SIZE) {
        return &f->dev->part_size;
    }
    if (addr == VFETCH_REG_AS_TABLE) {
        return &f->as_table;
    }
    if (addr == VFETCH_REG_FAULT_BASE) {
        return &f->ring.base;
    }
    if (q && reg == VFETCH_QREG_SQ_BASE) {
        return &q->sq_base;
    }
    if (q && reg == VFETCH_QREG_CQ_BASE) {
        return &q->cq_base;
    }
    return NULL;
}

/*
 * The same, if it can be written now: a ring's only while that is disabled, the
 * table's while nobody uses it.
 */
static uint64_t *writable64(VfetchFunction *f, hwaddr addr)
{
    uint32_t reg;
    VfetchQueue *q = queue_at(f, addr, &reg);

    if ((q && q->enabled) ||
        (addr == VFETCH_REG_AS_TABLE && !vfetch_jobs_idle(f)) ||
        (addr == VFETCH_REG_FAULT_BASE && f->ring.enabled)) {
        return NULL;
    }
    return settable64(f, addr);
}

#define COUNTER(reg, field) { reg, offsetof(VfetchCounters, field) }

static const struct {
    hwaddr reg;
    size_t offset;              /* of a uint64_t */
} counters64[] = {
    COUNTER(VFETCH_REG_BYTES_READ, bytes_read),
    COUNTER(VFETCH_REG_BYTES_WRITTEN, bytes_written),
    COUNTER(VFETCH_REG_BYTES_INTERNAL, bytes_internal),
    COUNTER(VFETCH_REG_TRANSFERS, transfers),
    COUNTER(VFETCH_REG_ERRORS, errors),
    COUNTER(VFETCH_REG_QUEUE_ERRORS, queue_errors),
    COUNTER(VFETCH_REG_BUSY_NS, busy_ns),
    COUNTER(VFETCH_REG_WAIT_NS, wait_ns),
    COUNTER(VFETCH_REG_INTERRUPTS, interrupts),
    COUNTER(VFETCH_REG_TLB_HITS, tlb_hits),
    COUNTER(VFETCH_REG_TLB_MISSES, tlb_misses),
    COUNTER(VFETCH_REG_FAULTS, faults),
    COUNTER(VFETCH_REG_FAULT_WAIT_STRAND_NS, fault_wait_strand_ns),
    COUNTER(VFETCH_REG_REPLAYS, replays),
    COUNTER(VFETCH_REG_INVALIDATIONS, invalidations),
    COUNTER(VFETCH_REG_JOBS, jobs),
    COUNTER(VFETCH_REG_REMOTE_READ, remote_read),
    COUNTER(VFETCH_REG_REMOTE_WRITTEN, remote_written),
};

static bool counter_read64(VfetchFunction *f, hwaddr addr, uint64_t *val)
{
    for (size_t i = 0; i < ARRAY_SIZE(counters64); i++) {
        if (counters64[i].reg == addr) {
            *val = *(uint64_t *)((char *)&f->count + counters64[i].offset);
            return true;
        }
    }
    return false;
}

static bool read64(VfetchFunction *f, hwaddr addr, uint64_t *val)
{
    const uint64_t *settable = settable64(f, addr);

    if (settable) {
        *val = *settable;
        return true;
    }
    if (f->index == 0 && addr == VFETCH_REG_MEM_TOTAL) {
        *val = f->dev->mem_size;
        return true;
    }
    switch (addr) {
    case VFETCH_REG_MEM_SIZE:
        *val = f->size;
        return true;
    case VFETCH_REG_WINDOW_SIZE:
        *val = memory_region_size(&f->window);
        return true;
    case VFETCH_REG_TIME:
        *val = vfetch_now();
        return true;
    default:
        return counter_read64(f, addr, val);
    }
}

static bool queue_write32(VfetchFunction *f, hwaddr addr, uint32_t val)
{
    uint32_t reg;
    VfetchQueue *q = queue_at(f, addr, &reg);

    if (!q) {
        return false;
    }
    switch (reg) {
    case VFETCH_QREG_ORDER:
        q->order = q->enabled ? q->order : val;
        return true;
    case VFETCH_QREG_VECTOR:
        q->vector = q->enabled ? q->vector : val;
        return true;
    case VFETCH_QREG_CLASS:
        q->class = q->enabled ? q->class : val;
        return true;
    case VFETCH_QREG_CONTROL:
        vfetch_queue_control(q, val);
        return true;
    case VFETCH_QREG_SQ_TAIL:
        vfetch_queue_sq_tail(q, val);
        return true;
    case VFETCH_QREG_CQ_HEAD:
        vfetch_queue_cq_head(q, val);
        return true;
    default:
        return false;
    }
}

static bool partition_write32(VfetchDevice *d, hwaddr addr, uint32_t val)
{
    switch (addr) {
    case VFETCH_REG_PART_INDEX:
        vfetch_part_select(d, val);
        return true;
    case VFETCH_REG_PART_WEIGHT:
        d->part_weight = val;
        return true;
    case VFETCH_REG_PART_COMMAND:
        vfetch_part_command(d, val);
        return true;
    default:
        return false;
    }
}

static bool space_write32(VfetchFunction *f, hwaddr addr, uint32_t val)
{
    if (addr == VFETCH_REG_AS_COUNT) {
        f->as_count = vfetch_jobs_idle(f) ? val : f->as_count;
        return true;
    }
    return vfetch_fault_write32(f, addr, val);
}

static bool write32(VfetchFunction *f, hwaddr addr, uint32_t val)
{
    return space_write32(f, addr, val) ||
           (f->index == 0 && partition_write32(f->dev, addr, val)) ||
           queue_write32(f, addr, val);
}

static bool whole_access(hwaddr addr, unsigned size)
{
    return (size == 4 || size == 8) && addr % size == 0;
}

static uint64_t regs_read(void *opaque, hwaddr addr, unsigned size)
{
    VfetchFunction *f = opaque;
    VfetchDevice *d = f->dev;
    uint64_t val64;
    uint32_t val32;

    if (vfetch_ignores_access(d) || !whole_access(addr, size)) {
        return vfetch_ones(size);
    }
    vfetch_link_run(d);
    if (size == 4 && read32(f, addr, &val32)) {
        val64 = val32;
    } else if (read64(f, addr & ~UINT64_C(7), &val64)) {
        val64 = vfetch_half_read(val64, addr, size);
    } else {
        val64 = vfetch_ones(size);
    }
    vfetch_messages_send(d);
    return val64;
}

static void regs_write(void *opaque, hwaddr addr, uint64_t val, unsigned size)
{
    VfetchFunction *f = opaque;
    VfetchDevice *d = f->dev;
    uint64_t *reg64;

    if (vfetch_ignores_access(d) || !whole_access(addr, size)) {
        return;
    }
    vfetch_link_run(d);
    if (size != 4 || !write32(f, addr, val)) {
        reg64 = writable64(f, addr & ~UINT64_C(7));
        if (reg64) {
            *reg64 = vfetch_half_write(*reg64, addr, val, size);
        }
    }
    vfetch_link_arm(d);
    vfetch_messages_send(d);
}

static const MemoryRegionOps regs_ops =
    VFETCH_REGION_OPS(regs_read, regs_write);

void vfetch_regs_init(VfetchFunction *f, Object *owner)
{
    memory_region_init_io(&f->regs, owner, &regs_ops, f, "vfetch-regs",
                          VFETCH_BAR_REGS_BYTES);
}
