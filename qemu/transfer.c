/*
 * vfetch: what a descriptor says, and moving its data.
 *
 * SPDX-License-Identifier: GPL-2.0
 *
 * A descriptor is read from the ring once and checked when it is fetched; the
 * scatter list, which would take memory for thousands of waiting descriptors,
 * when its service begins.
 */
#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "vfetch.h"

/*
 * Only RAM: a device that reached registers by DMA could enter itself.
 * (An access that an IOMMU refuses fails the same way.)
 */
static const MemTxAttrs ram_only = { .memory = 1 };

static bool dma(VfetchFunction *f, uint64_t addr, void *buf, uint64_t len,
                DMADirection dir)
{
    if (f->dev->gone) {
        return false;
    }
    f->dev->work += VFETCH_ACCESS_WORK + len;
    return pci_dma_rw(f->pci, addr, buf, len, dir, ram_only) == MEMTX_OK;
}

bool vfetch_dma_read(VfetchFunction *f, uint64_t addr, void *buf, uint64_t len)
{
    return dma(f, addr, buf, len, DMA_DIRECTION_TO_DEVICE);
}

bool vfetch_dma_write(VfetchFunction *f, uint64_t addr, const void *buf,
                      uint64_t len)
{
    return dma(f, addr, (void *)buf, len, DMA_DIRECTION_FROM_DEVICE);
}

static uint16_t check(VfetchTransfer *x, const struct vfetch_desc *desc)
{
    const VfetchFunction *f = x->queue->fn;
    bool compute = x->queue->class == VFETCH_CLASS_COMPUTE;
    uint8_t allowed = VFETCH_DESC_QUIET;
    bool in_space = false;      /* asid says something */

    switch (x->opcode) {
    case VFETCH_OP_READ:
    case VFETCH_OP_WRITE:
        allowed |= VFETCH_DESC_SG | VFETCH_DESC_RELAXED;
        break;
    case VFETCH_OP_FILL:
    case VFETCH_OP_COPY:
        allowed |= VFETCH_DESC_RELAXED;
        break;
    case VFETCH_OP_FENCE:
        break;
    case VFETCH_OP_INVALIDATE:
        in_space = true;
        allowed |= VFETCH_DESC_RELAXED;
        break;
    case VFETCH_OP_CANCEL:
        allowed |= VFETCH_DESC_RELAXED;
        break;
    case VFETCH_OP_JOB:
        in_space = true;
        break;
    default:
        return VFETCH_STATUS_OPCODE;
    }
    if (x->opcode != VFETCH_OP_FENCE &&
        compute != (x->opcode == VFETCH_OP_JOB)) {
        return VFETCH_STATUS_CLASS;
    }
    if ((x->flags & ~allowed) || (x->asid && !in_space) || desc->reserved1[0] ||
        desc->reserved1[1] || desc->reserved1[2] ||
        (x->sg_entries && !(x->flags & VFETCH_DESC_SG))) {
        return VFETCH_STATUS_FLAGS;
    }
    switch (x->opcode) {
    case VFETCH_OP_FENCE:
    case VFETCH_OP_CANCEL:
        return x->bytes ? VFETCH_STATUS_LENGTH : VFETCH_STATUS_OK;
    case VFETCH_OP_INVALIDATE:
        return x->bytes ? VFETCH_STATUS_LENGTH :
               x->asid >= VFETCH_MAX_AS && x->asid != VFETCH_AS_ALL
               ? VFETCH_STATUS_AS : VFETCH_STATUS_OK;
    case VFETCH_OP_JOB:
        return x->bytes != sizeof(struct vfetch_job) ? VFETCH_STATUS_LENGTH
                                                     : VFETCH_STATUS_OK;
    default:
        break;
    }
    if (!x->bytes || x->bytes > VFETCH_MAX_BYTES ||
        (x->opcode == VFETCH_OP_FILL && x->bytes % 8)) {
        return VFETCH_STATUS_LENGTH;
    }
    if (!vfetch_memory_in_range(f, x->device_addr, x->bytes) ||
        (x->opcode == VFETCH_OP_COPY &&
         !vfetch_memory_in_range(f, x->host_addr, x->bytes))) {
        return VFETCH_STATUS_DEVICE_RANGE;
    }
    if ((x->flags & VFETCH_DESC_SG) &&
        (!x->sg_entries || x->sg_entries > VFETCH_MAX_SG)) {
        return VFETCH_STATUS_SG;
    }
    return VFETCH_STATUS_OK;
}

/* Fills in @x from @desc; its status is the verdict. */
void vfetch_transfer_validate(VfetchTransfer *x, const struct vfetch_desc *desc)
{
    x->opcode = desc->opcode;
    x->flags = desc->flags;
    x->sg_entries = le16_to_cpu(desc->sg_entries);
    x->tag = le32_to_cpu(desc->tag);
    x->asid = le32_to_cpu(desc->asid);
    x->transaction = le64_to_cpu(desc->transaction);
    x->id = x->transaction;
    x->device_addr = le64_to_cpu(desc->device_addr);
    x->host_addr = le64_to_cpu(desc->host_addr);
    x->bytes = le32_to_cpu(desc->bytes);
    x->copies = 1;

    x->status = check(x, desc);
    if (x->status != VFETCH_STATUS_OK || x->opcode == VFETCH_OP_FENCE) {
        x->service = VFETCH_AT_ONCE;
    } else if (x->opcode == VFETCH_OP_READ || x->opcode == VFETCH_OP_WRITE) {
        x->service = VFETCH_BY_LINK;
    } else if (x->opcode == VFETCH_OP_FILL || x->opcode == VFETCH_OP_COPY) {
        x->service = VFETCH_BY_MEMORY;
    } else if (x->opcode == VFETCH_OP_JOB) {
        x->service = VFETCH_BY_JOB;
    } else {
        x->service = VFETCH_BY_COMMAND;
    }
}

/* A command is the first of its lane, or waits for none: it takes effect. */
void vfetch_command_begin(VfetchTransfer *x, int64_t now)
{
    x->begun = true;
    x->begun_at = now;
    x->seq = ++x->queue->fn->dev->seq;
    if (x->opcode == VFETCH_OP_INVALIDATE) {
        vfetch_invalidate_begin(x, now);
    } else {
        vfetch_cancel_begin(x, now);
    }
}

/* The list is read once, into memory of ours, and then checked. */
static bool load_sg(VfetchTransfer *x)
{
    VfetchFunction *f = x->queue->fn;
    size_t len = x->sg_entries * sizeof(*x->sg);
    uint64_t sum = 0;

    if (x->sg) {
        return true;
    }
    x->sg = g_malloc(len);
    if (!vfetch_dma_read(f, x->host_addr, x->sg, len)) {
        return false;
    }
    for (uint32_t i = 0; i < x->sg_entries; i++) {
        struct vfetch_sg *sg = &x->sg[i];

        sg->addr = le64_to_cpu(sg->addr);
        sg->bytes = le32_to_cpu(sg->bytes);
        if (!sg->bytes || sg->reserved ||
            sg->addr > UINT64_MAX - (sg->bytes - 1)) {
            return false;
        }
        sum += sg->bytes;
    }
    return sum == x->bytes;
}

/* The next contiguous piece of host memory, at most *@len bytes. */
static uint64_t host_piece(VfetchTransfer *x, uint32_t *len)
{
    struct vfetch_sg *sg;
    uint64_t addr;

    if (!(x->flags & VFETCH_DESC_SG)) {
        return x->host_addr + x->moved;
    }
    sg = &x->sg[x->sg_next];
    addr = sg->addr + x->sg_offset;
    *len = MIN(*len, sg->bytes - x->sg_offset);
    x->sg_offset += *len;
    if (x->sg_offset == sg->bytes) {
        x->sg_next++;
        x->sg_offset = 0;
    }
    return addr;
}

static void move_link(VfetchTransfer *x, uint32_t bytes)
{
    VfetchFunction *f = x->queue->fn;
    bool read = x->opcode == VFETCH_OP_READ;

    if ((x->flags & VFETCH_DESC_SG) && !load_sg(x)) {
        x->status = VFETCH_STATUS_SG;
        return;
    }
    if (!(x->flags & VFETCH_DESC_SG) &&
        x->host_addr > UINT64_MAX - (x->bytes - 1)) {
        x->status = VFETCH_STATUS_HOST_ACCESS;
        return;
    }
    while (bytes) {
        uint32_t len = bytes;
        uint64_t addr = host_piece(x, &len);
        uint8_t *mem = f->dev->mem + f->base + x->device_addr + x->moved;

        if (read ? !vfetch_dma_write(f, addr, mem, len)
                 : !vfetch_dma_read(f, addr, mem, len)) {
            x->status = VFETCH_STATUS_HOST_ACCESS;
            return;
        }
        x->moved += len;
        bytes -= len;
        if (read) {
            f->count.bytes_read += len;
        } else {
            f->count.bytes_written += len;
        }
    }
}

static void move_memory(VfetchTransfer *x)
{
    VfetchFunction *f = x->queue->fn;
    VfetchDevice *d = f->dev;

    if (x->opcode == VFETCH_OP_FILL) {
        vfetch_memory_fill(d, f->base + x->device_addr, x->bytes, x->host_addr);
    } else {
        memmove(d->mem + f->base + x->device_addr,
                d->mem + f->base + x->host_addr, x->bytes);
    }
    x->moved = x->bytes;
    d->work += x->bytes;
    f->count.bytes_internal += x->bytes;
}

/*
 * Moves the next @bytes of @x, and sets its status if that fails. The
 * partition cannot have changed since the check: that needs disabled queues.
 */
void vfetch_transfer_move(VfetchTransfer *x, uint32_t bytes)
{
    if (x->service == VFETCH_BY_LINK) {
        move_link(x, MIN(bytes, x->bytes - x->moved));
    } else if (x->service == VFETCH_BY_MEMORY) {
        move_memory(x);
    }
}

void vfetch_transfer_move_all(VfetchTransfer *x)
{
    if (x->status == VFETCH_STATUS_OK) {
        vfetch_transfer_move(x, x->bytes);
    }
}
