/*
 * vfetch: one step of a strand.
 *
 * SPDX-License-Identifier: GPL-2.0
 *
 * See job.h for what a step is. A page of the space is touched through the
 * function's TLB once a step; from then on the step knows where it is. Of pages
 * in host memory it has images: what is read is copied in, what is written
 * stays there, accounted for word by word, until the step's flight lands.
 */
#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "job.h"

/* ---- touching pages ----------------------------------------------------- */

static void *stopped(VfetchStep *s, VfetchStop why)
{
    s->stop = why;
    return NULL;
}

bool step_error(VfetchStep *s, uint16_t status, uint64_t where)
{
    s->stop = STOP_ERROR;
    s->status = status;
    s->where = where;
    return false;
}

static VfetchStepPage *fault(VfetchStep *s, uint64_t page, bool write,
                             uint8_t reason)
{
    s->fault_page = page;
    s->access = write ? VFETCH_ACCESS_WRITE : VFETCH_ACCESS_READ;
    s->reason = reason;
    return stopped(s, STOP_FAULT);
}

static VfetchStepPage *touch(VfetchStep *s, uint64_t offset, bool write)
{
    VfetchFunction *f = s->fn;
    uint64_t page = offset >> VFETCH_PAGE_SHIFT;
    VfetchStepPage *p;
    VfetchTlbEntry e;

    for (p = s->page; p < s->page + s->pages; p++) {
        if (p->page == page) {
            break;
        }
    }
    if (p < s->page + s->pages && (!write || p->writable)) {
        return p;
    }
    if (page >= s->job->as.pages) {
        step_error(s, VFETCH_STATUS_SPACE_RANGE, offset);
        return NULL;
    }
    if (p == s->page + STEP_PAGES) {
        return stopped(s, STOP_PAGES);
    }
    switch (vfetch_translate(f, &s->job->as, page, write, &e, &s->walks)) {
    case VFETCH_WALK_ABSENT:
        return fault(s, page, write, VFETCH_REASON_ABSENT);
    case VFETCH_WALK_READ_ONLY:
        return fault(s, page, write, VFETCH_REASON_READ_ONLY);
    case VFETCH_WALK_MALFORMED:
        step_error(s, VFETCH_STATUS_TABLE, offset);
        return NULL;
    case VFETCH_WALK_OK:
        break;
    }
    if (p == s->page + s->pages) {
        s->pages++;
        p->written = false;
    }
    /* (Where it is may have changed since the step read it: all as now.) */
    p->page = page;
    p->bus = e.addr;
    p->remote = e.flags & VFETCH_TLB_REMOTE;
    /* Only a translation for a write leaves a mark of it. */
    p->writable = write;
    p->bytes = p->remote ? s->image[p - s->page]
                         : f->dev->mem + f->base + e.addr;
    if (p->remote && !p->written) {
        bitmap_zero(p->words, PAGE_WORDS);
    }
    return p;
}

/* Brings bytes of host memory into the image, but not over what is new there. */
static bool image_read(VfetchStep *s, VfetchStepPage *p, uint32_t at,
                       uint32_t bytes)
{
    uint8_t copy[PAGE_BYTES];
    uint8_t *to = p->written ? copy : p->bytes + at;

    if (!vfetch_dma_read(s->fn, p->bus + at, to, bytes)) {
        return step_error(s, VFETCH_STATUS_HOST_ACCESS,
                          (p->page << VFETCH_PAGE_SHIFT) + at);
    }
    s->remote_read += bytes;
    for (uint32_t i = 0; p->written && i < bytes; i += WORD_BYTES) {
        if (!test_bit((at + i) / WORD_BYTES, p->words)) {
            memcpy(p->bytes + at + i, copy + i, WORD_BYTES);
        }
    }
    return true;
}

const void *step_load(VfetchStep *s, uint64_t offset, uint32_t bytes)
{
    uint32_t at = offset % PAGE_BYTES;
    VfetchStepPage *p = touch(s, offset, false);

    if (!p || (p->remote && !image_read(s, p, at, bytes))) {
        return NULL;
    }
    return p->bytes + at;
}

void *step_store(VfetchStep *s, uint64_t offset, uint32_t bytes)
{
    uint32_t at = offset % PAGE_BYTES;
    VfetchStepPage *p = touch(s, offset, true);

    if (!p) {
        return NULL;
    }
    if (p->remote) {
        if (s->stores == ARRAY_SIZE(s->store)) {
            return stopped(s, STOP_PAGES);
        }
        s->store[s->stores++] = (VfetchStepStore) {
            .page = p,
            .word = at / WORD_BYTES,
            .words = bytes / WORD_BYTES,
        };
    }
    return p->bytes + at;
}

/* ---- spans -------------------------------------------------------------- */

bool step_load_span(VfetchStep *s, uint64_t offset, uint32_t bytes, void *copy)
{
    uint32_t first = MIN(bytes, PAGE_BYTES - offset % PAGE_BYTES);
    const void *a = step_load(s, offset, first);
    const void *b = a;

    if (a && first < bytes) {
        b = step_load(s, offset + first, bytes - first);
    }
    if (!a || !b) {
        return false;
    }
    memcpy(copy, a, first);
    memcpy((uint8_t *)copy + first, b, bytes - first);
    return true;
}

bool step_store_span(VfetchStep *s, uint64_t offset, uint32_t bytes,
                     VfetchSpan *span)
{
    span->bytes[0] = MIN(bytes, PAGE_BYTES - offset % PAGE_BYTES);
    span->bytes[1] = bytes - span->bytes[0];
    span->part[0] = step_store(s, offset, span->bytes[0]);
    span->part[1] = span->part[0];
    if (span->part[0] && span->bytes[1]) {
        span->part[1] = step_store(s, offset + span->bytes[0], span->bytes[1]);
    }
    return span->part[0] && span->part[1];
}

void step_fill_span(const VfetchSpan *span, const void *from)
{
    memcpy(span->part[0], from, span->bytes[0]);
    memcpy(span->part[1], (const uint8_t *)from + span->bytes[0],
           span->bytes[1]);
}

/* ---- steps -------------------------------------------------------------- */

/* The unit is done: what it stored counts. */
static void commit(VfetchStep *s)
{
    for (uint32_t i = 0; i < s->stores; i++) {
        VfetchStepStore *store = &s->store[i];

        bitmap_set(store->page->words, store->word, store->words);
        store->page->written = true;
    }
    s->stores = 0;
}

/* Takes units. False: not a single one; `stop` is NONE if none was left. */
bool vfetch_step_take(VfetchStrand *strand, VfetchStep *s)
{
    VfetchJob *j = strand->job;
    bool some = false;

    s->fn = j->fn;
    s->job = j;
    s->strand = strand;
    s->stop = STOP_NONE;
    s->elements = 0;
    s->walks = 0;
    s->remote_read = 0;
    s->remote_written = 0;
    s->pages = 0;
    s->stores = 0;
    while (s->elements < STEP_ELEMENTS) {
        if (strand->at == strand->end && !vfetch_strand_next_chunk(strand)) {
            break;
        }
        if (!j->kernel->unit(s)) {
            break;
        }
        commit(s);
        some = true;
        if (s->stop != STOP_NONE) {
            break;              /* it did a part of what it could have */
        }
    }
    j->fn->dev->work += VFETCH_ACCESS_WORK / 4 + 8 * s->elements;
    return some;
}

/* The strand's time for it. */
uint64_t vfetch_step_time(VfetchStep *s, bool done)
{
    VfetchStrand *strand = s->strand;
    uint64_t walks = (uint64_t)s->walks * s->fn->dev->tlb_miss_ns;
    uint64_t ps, ns;

    if (!done) {
        strand->debt_ns += walks;
        return 0;
    }
    ps = s->elements * s->job->in.element_ps + strand->debt_ps;
    ns = ps / 1000 + walks + strand->debt_ns;
    strand->debt_ps = ps % 1000;
    strand->debt_ns = 0;
    /* Time goes on, whatever a job is told to be. */
    return MAX(ns, 1);
}

/* ---- flights ------------------------------------------------------------ */

static void pack(VfetchFlight *flight, const VfetchStepPage *p, uint64_t *filled)
{
    unsigned long word = find_first_bit(p->words, PAGE_WORDS);

    while (word < PAGE_WORDS) {
        unsigned long end = find_next_zero_bit(p->words, PAGE_WORDS, word);
        uint32_t at = word * WORD_BYTES;
        VfetchFlightPiece *piece = &flight->piece[flight->pieces++];

        piece->bus = p->bus + at;
        piece->offset = (p->page << VFETCH_PAGE_SHIFT) + at;
        piece->bytes = (end - word) * WORD_BYTES;
        memcpy(flight->data + *filled, p->bytes + at, piece->bytes);
        *filled += piece->bytes;
        word = find_next_bit(p->words, PAGE_WORDS, end);
    }
}

/* How many runs, and how many bytes, the step writes to host memory. */
static uint32_t count_pieces(VfetchStep *s)
{
    uint32_t pieces = 0;

    for (VfetchStepPage *p = s->page; p < s->page + s->pages; p++) {
        unsigned long word = 0;

        if (!p->remote || !p->written) {
            continue;
        }
        s->remote_written += WORD_BYTES * bitmap_count_one(p->words,
                                                           PAGE_WORDS);
        while ((word = find_next_bit(p->words, PAGE_WORDS, word)) <
               PAGE_WORDS) {
            word = find_next_zero_bit(p->words, PAGE_WORDS, word);
            pieces++;
        }
    }
    return pieces;
}

/*
 * Sends the step over the link if it touched host memory; the strand's next one
 * is @after_ns after that. All its pages count as touched until it lands, so
 * that an invalidation of any of them waits for it.
 */
void vfetch_flight_start(VfetchStep *s, uint64_t after_ns, int64_t now)
{
    VfetchStrand *strand = s->strand;
    VfetchFunction *f = s->fn;
    uint32_t pieces = count_pieces(s);
    VfetchFlight *flight;
    VfetchTransfer *x;
    uint64_t filled = 0;

    if (!s->remote_read && !s->remote_written) {
        vfetch_agenda_add(&f->dev->steps, &strand->next, now + after_ns);
        return;
    }
    flight = g_new0(VfetchFlight, 1);
    flight->strand = strand;
    flight->fn = f;
    flight->after_ns = after_ns;
    flight->seq = ++f->dev->seq;
    flight->asid = s->job->as.asid;
    flight->piece = g_new(VfetchFlightPiece, pieces);
    flight->data = g_malloc(s->remote_written);
    for (VfetchStepPage *p = s->page; p < s->page + s->pages; p++) {
        flight->page[flight->pages++] = p->page;
        if (p->remote && p->written) {
            pack(flight, p, &filled);
        }
    }
    f->count.remote_read += s->remote_read;

    x = g_new0(VfetchTransfer, 1);
    x->queue = s->job->x->queue;
    x->service = VFETCH_BY_LINK;
    x->flags = VFETCH_DESC_RELAXED;
    x->bytes = s->remote_read + s->remote_written;
    x->ready_at = now + f->dev->link_latency_ns;
    x->flight = flight;
    flight->x = x;
    strand->flight = x;
    QTAILQ_INSERT_TAIL(&f->flights, flight, link);
    QTAILQ_INSERT_TAIL(&x->queue->flights, x, queue_link);
    vfetch_lane_add(x);
}

/* Forgets @x, and whoever waited for it goes on. */
void vfetch_flight_free(VfetchTransfer *x, int64_t now)
{
    VfetchFlight *flight = x->flight;

    vfetch_lane_remove(x, now);
    QTAILQ_REMOVE(&x->queue->flights, x, queue_link);
    if (flight->strand) {
        flight->strand->flight = NULL;
        QTAILQ_REMOVE(&flight->fn->flights, flight, link);
        vfetch_flight_left(flight->fn, flight, now);
    }
    g_free(flight->piece);
    g_free(flight->data);
    g_free(flight);
    g_free(x);
}

/*
 * The flight's strand ends. What is on the link cannot be called back, but it
 * will touch nothing: it writes when it lands.
 */
void vfetch_flight_abandon(VfetchTransfer *x, int64_t now)
{
    VfetchFlight *flight = x->flight;

    if (flight->fn->dev->cur != x) {
        vfetch_flight_free(x, now);
        return;
    }
    flight->strand->flight = NULL;
    flight->strand = NULL;
    QTAILQ_REMOVE(&flight->fn->flights, flight, link);
    vfetch_flight_left(flight->fn, flight, now);
}

/* A quantum of @x has ended, and maybe all of it. */
void vfetch_flight_landed(VfetchTransfer *x, int64_t now)
{
    VfetchFlight *flight = x->flight;
    VfetchStrand *strand = flight->strand;
    VfetchFunction *f = flight->fn;
    VfetchDevice *d = f->dev;
    uint64_t after_ns = flight->after_ns;
    const uint8_t *data = flight->data;

    if (strand && x->served < x->bytes) {
        return;
    }
    for (uint32_t i = 0; strand && i < flight->pieces; i++) {
        VfetchFlightPiece *piece = &flight->piece[i];

        if (!vfetch_dma_write(f, piece->bus, data, piece->bytes)) {
            vfetch_job_end(strand->job, VFETCH_STATUS_HOST_ACCESS,
                           piece->offset, now);
            return;
        }
        f->count.remote_written += piece->bytes;
        data += piece->bytes;
    }
    vfetch_flight_free(x, now);
    if (strand) {
        vfetch_agenda_add(&d->steps, &strand->next, now + after_ns);
    }
}
