/*
 * vfetch: address spaces.
 *
 * SPDX-License-Identifier: GPL-2.0
 *
 * Tables are the host's, and are read when the TLB misses. What a walk finds is
 * checked as it is found; nothing that is not valid is kept.
 *
 * An invalidation first forgets the entries, then waits for the flights
 * (job.h) that began under them: everything else that a step does has been
 * performed when the step is over, at the instant of its translations.
 */
#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "job.h"

#define TLB_WAYS    8

/* Bits of the two upper levels that mean something. */
#define UPPER_BITS  (VFETCH_PTE_ADDRESS | VFETCH_PT_VALID)
#define LEAF_BITS   (VFETCH_PTE_ADDRESS | VFETCH_PTE_IGNORED |                 \
                     VFETCH_PT_VALID | VFETCH_PTE_WRITE | VFETCH_PTE_REMOTE)

/* ---- spaces ------------------------------------------------------------- */

/* Reads the space's structure. Returns a VFETCH_STATUS_*. */
uint16_t vfetch_space_open(VfetchFunction *f, uint32_t asid, VfetchSpace *as)
{
    struct vfetch_as in;

    if (!f->as_table || f->as_table % PAGE_BYTES ||
        asid >= MIN(f->as_count, VFETCH_MAX_AS)) {
        return VFETCH_STATUS_AS;
    }
    if (!vfetch_dma_read(f, f->as_table + asid * sizeof(in), &in,
                         sizeof(in))) {
        return VFETCH_STATUS_TABLE;
    }
    as->asid = asid;
    as->root = le64_to_cpu(in.root);
    as->pages = le64_to_cpu(in.pages);
    as->flags = le32_to_cpu(in.flags);
    if (!(as->flags & VFETCH_AS_VALID) || (as->flags & ~VFETCH_AS_FLAGS) ||
        in.reserved0 || in.reserved1 || as->root % PAGE_BYTES ||
        as->pages > VFETCH_AS_MAX_PAGES) {
        return VFETCH_STATUS_AS;
    }
    if ((as->flags & VFETCH_AS_FLAT) &&
        !vfetch_memory_in_range(f, as->root,
                                as->pages << VFETCH_PAGE_SHIFT)) {
        return VFETCH_STATUS_AS;
    }
    return VFETCH_STATUS_OK;
}

/* ---- walks -------------------------------------------------------------- */

static bool read_words(VfetchFunction *f, uint64_t table, uint64_t index,
                       uint64_t *words, unsigned n)
{
    if (!vfetch_dma_read(f, table + index * 8 * n, words, 8 * n)) {
        return false;
    }
    for (unsigned i = 0; i < n; i++) {
        words[i] = le64_to_cpu(words[i]);
    }
    return true;
}

static VfetchWalk upper(uint64_t entry)
{
    if (!(entry & VFETCH_PT_VALID)) {
        return VFETCH_WALK_ABSENT;
    }
    return entry & ~UPPER_BITS ? VFETCH_WALK_MALFORMED : VFETCH_WALK_OK;
}

static VfetchWalk walk_table(VfetchFunction *f, const VfetchSpace *as,
                             uint64_t page, VfetchTlbEntry *e)
{
    uint64_t block = page / VFETCH_PT_ENTRIES;
    uint64_t root, leaf;
    uint64_t pt_block[2];       /* leaf, marks */
    VfetchWalk w;

    if (!read_words(f, as->root, block / VFETCH_PT_ENTRIES, &root, 1)) {
        return VFETCH_WALK_MALFORMED;
    }
    w = upper(root);
    if (w != VFETCH_WALK_OK) {
        return w;
    }
    if (!read_words(f, root & VFETCH_PTE_ADDRESS, block % VFETCH_PT_ENTRIES,
                    pt_block, 2)) {
        return VFETCH_WALK_MALFORMED;
    }
    w = upper(pt_block[0]);
    if (w != VFETCH_WALK_OK) {
        return w;
    }
    if (pt_block[1] % VFETCH_PT_ENTRIES ||
        !read_words(f, pt_block[0] & VFETCH_PTE_ADDRESS,
                    page % VFETCH_PT_ENTRIES, &leaf, 1)) {
        return VFETCH_WALK_MALFORMED;
    }
    if (!(leaf & VFETCH_PT_VALID)) {
        return VFETCH_WALK_ABSENT;
    }
    if (leaf & ~LEAF_BITS) {
        return VFETCH_WALK_MALFORMED;
    }
    e->addr = leaf & VFETCH_PTE_ADDRESS;
    e->mark = pt_block[1] ? pt_block[1] + page % VFETCH_PT_ENTRIES : 0;
    e->flags = VFETCH_TLB_VALID |
               (leaf & VFETCH_PTE_WRITE ? VFETCH_TLB_WRITE : 0) |
               (leaf & VFETCH_PTE_REMOTE ? VFETCH_TLB_REMOTE : 0);
    if (!(leaf & VFETCH_PTE_REMOTE) &&
        !vfetch_memory_in_range(f, e->addr, PAGE_BYTES)) {
        return VFETCH_WALK_MALFORMED;
    }
    return VFETCH_WALK_OK;
}

/* What the TLB would hold for @page. */
static VfetchWalk walk(VfetchFunction *f, const VfetchSpace *as, uint64_t page,
                       VfetchTlbEntry *e)
{
    *e = (VfetchTlbEntry) { .page = page, .asid = as->asid };
    if (as->flags & VFETCH_AS_FLAT) {
        e->addr = as->root + (page << VFETCH_PAGE_SHIFT);
        e->flags = VFETCH_TLB_VALID | VFETCH_TLB_WRITE;
        return VFETCH_WALK_OK;
    }
    return walk_table(f, as, page, e);
}

/*
 * The device alone sets marks, so a bit that it reads is still there, or the
 * driver has taken it meanwhile: then it is told again.
 */
static bool mark(VfetchFunction *f, const VfetchTlbEntry *e, uint8_t bits)
{
    uint8_t old;

    if (!e->mark) {
        return true;
    }
    if (!vfetch_dma_read(f, e->mark, &old, 1)) {
        return false;
    }
    if ((old & bits) == bits) {
        return true;
    }
    bits |= old;
    return vfetch_dma_write(f, e->mark, &bits, 1);
}

/* ---- the TLB ------------------------------------------------------------ */

static VfetchTlbEntry *tlb_set(VfetchFunction *f, uint32_t asid, uint64_t page)
{
    uint32_t sets = f->dev->tlb_entries / TLB_WAYS;
    uint64_t hash = page ^ page >> 9 ^ page >> 18 ^ asid * 0x9e5u;

    if (!f->tlb) {
        f->tlb = g_new0(VfetchTlbEntry, f->dev->tlb_entries);
    }
    return &f->tlb[(hash & (sets - 1)) * TLB_WAYS];
}

/* The page's entry, if not the one to give up for it. */
static VfetchTlbEntry *tlb_way(VfetchFunction *f, uint32_t asid, uint64_t page,
                               bool *hit)
{
    VfetchTlbEntry *set = tlb_set(f, asid, page);
    VfetchTlbEntry *oldest = set;

    for (VfetchTlbEntry *e = set; e < set + TLB_WAYS; e++) {
        if (e->flags && e->page == page && e->asid == asid) {
            *hit = true;
            return e;
        }
        if (e->used < oldest->used) {
            oldest = e;
        }
    }
    *hit = false;
    return oldest;
}

/*
 * Where @page is. An entry that does not allow the write is looked up again: it
 * takes no invalidation to allow more.
 */
VfetchWalk vfetch_translate(VfetchFunction *f, const VfetchSpace *as,
                            uint64_t page, bool write, VfetchTlbEntry *found,
                            uint32_t *walks)
{
    bool hit;
    VfetchTlbEntry *way = tlb_way(f, as->asid, page, &hit);
    VfetchTlbEntry e;
    VfetchWalk w;

    if (hit && (!write || (way->flags & VFETCH_TLB_WRITE))) {
        f->count.tlb_hits++;
        if (write && !(way->flags & VFETCH_TLB_DIRTY)) {
            if (!mark(f, way, VFETCH_MARK_ACCESSED | VFETCH_MARK_DIRTY)) {
                return VFETCH_WALK_MALFORMED;
            }
            way->flags |= VFETCH_TLB_DIRTY;
        }
        way->used = ++f->tlb_uses;
        *found = *way;
        return VFETCH_WALK_OK;
    }

    f->count.tlb_misses++;
    ++*walks;
    w = walk(f, as, page, &e);
    if (w != VFETCH_WALK_OK) {
        return w;
    }
    if (write && !(e.flags & VFETCH_TLB_WRITE)) {
        return VFETCH_WALK_READ_ONLY;
    }
    if (!mark(f, &e, VFETCH_MARK_ACCESSED | (write ? VFETCH_MARK_DIRTY : 0))) {
        return VFETCH_WALK_MALFORMED;
    }
    e.flags |= write ? VFETCH_TLB_DIRTY : 0;
    e.used = ++f->tlb_uses;
    *way = e;
    *found = e;
    return VFETCH_WALK_OK;
}

static void tlb_forget_all(VfetchFunction *f)
{
    if (f->tlb) {
        memset(f->tlb, 0, f->dev->tlb_entries * sizeof(*f->tlb));
    }
    f->tlb_uses = 0;
}

/* ---- invalidation ------------------------------------------------------- */

/* Which pages @x is about: @asid's from @first to before @end. */
static bool covers(const VfetchTransfer *x, uint32_t asid, uint64_t page)
{
    return (x->asid == VFETCH_AS_ALL || x->asid == asid) &&
           (!x->host_addr ||
            (page >= x->device_addr && page - x->device_addr < x->host_addr));
}

static bool flight_under(const VfetchTransfer *x, const VfetchFlight *flight)
{
    if (flight->seq > x->seq) {
        return false;
    }
    for (uint32_t i = 0; i < flight->pages; i++) {
        if (covers(x, flight->asid, flight->page[i])) {
            return true;
        }
    }
    return false;
}

static void drained(VfetchTransfer *x, int64_t now)
{
    vfetch_due_add(x, MAX(now, x->begun_at + x->queue->fn->dev->invalidate_ns));
}

void vfetch_invalidate_begin(VfetchTransfer *x, int64_t now)
{
    VfetchFunction *f = x->queue->fn;
    VfetchDevice *d = f->dev;
    VfetchFlight *flight;

    f->count.invalidations++;
    for (uint32_t i = 0; f->tlb && i < d->tlb_entries; i++) {
        if (covers(x, f->tlb[i].asid, f->tlb[i].page)) {
            f->tlb[i].flags = 0;
            f->tlb[i].used = 0;
        }
    }
    d->work += d->tlb_entries;
    QTAILQ_FOREACH(flight, &f->flights, link) {
        x->pending += flight_under(x, flight);
    }
    if (x->pending) {
        QTAILQ_INSERT_TAIL(&f->draining, x, wait_link);
        x->waiting = true;
    } else {
        drained(x, now);
    }
}

/* @flight, which is on no list any more, touches memory no more. */
void vfetch_flight_left(VfetchFunction *f, const VfetchFlight *flight,
                        int64_t now)
{
    VfetchTransfer *x, *next;

    QTAILQ_FOREACH_SAFE(x, &f->draining, wait_link, next) {
        if (flight_under(x, flight) && --x->pending == 0) {
            QTAILQ_REMOVE(&f->draining, x, wait_link);
            x->waiting = false;
            drained(x, now);
        }
    }
}

/* ---- functions ---------------------------------------------------------- */

void vfetch_mmu_reset(VfetchFunction *f)
{
    tlb_forget_all(f);
    f->as_table = 0;
    f->as_count = 0;
}

void vfetch_mmu_exit(VfetchFunction *f)
{
    g_free(f->tlb);
    f->tlb = NULL;
}
