/*
 * vfetch: jobs.
 *
 * SPDX-License-Identifier: GPL-2.0
 *
 * A job waits for its descriptor's latency, then for a slot, in the order of
 * fetching; its structure is read and checked when it gets one. It ends when
 * its last phase has, when a step is impossible, or when it is cancelled.
 */
#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/host-utils.h"
#include "job.h"

const VfetchKernel *const vfetch_kernels[VFETCH_JOB_KINDS + 1] = {
    [VFETCH_JOB_TRIAD] = &vfetch_kernel_triad,
    [VFETCH_JOB_STENCIL] = &vfetch_kernel_stencil,
    [VFETCH_JOB_GEMM] = &vfetch_kernel_gemm,
    [VFETCH_JOB_CONV2D] = &vfetch_kernel_conv2d,
    [VFETCH_JOB_SPMV] = &vfetch_kernel_spmv,
    [VFETCH_JOB_BFS] = &vfetch_kernel_bfs,
    [VFETCH_JOB_PAGERANK] = &vfetch_kernel_pagerank,
    [VFETCH_JOB_GATHER] = &vfetch_kernel_gather,
    [VFETCH_JOB_SCATTER] = &vfetch_kernel_scatter,
    [VFETCH_JOB_REDUCE] = &vfetch_kernel_reduce,
    [VFETCH_JOB_STAMP] = &vfetch_kernel_stamp,
    [VFETCH_JOB_CHECK] = &vfetch_kernel_check,
};

#define ELEMENT_PS_MAX  1000000000

/* ---- arguments ---------------------------------------------------------- */

static void refuse(VfetchJob *j, uint16_t status, uint64_t where)
{
    if (j->status == VFETCH_STATUS_OK) {
        j->status = status;
        j->where = where;
    }
}

void job_bad(VfetchJob *j, unsigned argument)
{
    refuse(j, VFETCH_STATUS_JOB, argument);
}

bool job_aligned(VfetchJob *j, unsigned at, uint32_t size)
{
    if (j->in.argument[at] % size) {
        job_bad(j, at);
        return false;
    }
    return true;
}

bool job_array(VfetchJob *j, unsigned at, uint64_t count, uint32_t size)
{
    uint64_t offset = j->in.argument[at];

    if (!job_aligned(j, at, size)) {
        return false;
    }
    if (offset > j->bytes || count > (j->bytes - offset) / size) {
        refuse(j, VFETCH_STATUS_SPACE_RANGE, MAX(offset, j->bytes));
        return false;
    }
    return true;
}

uint64_t job_product(uint64_t a, uint64_t b)
{
    uint64_t low, high;

    mulu64(&low, &high, a, b);
    return high ? UINT64_MAX : low;
}

/* ---- which strand has which results ------------------------------------- */

static uint64_t mix(uint64_t x)
{
    x ^= x >> 31;
    x *= 0x9e3779b97f4a7c15ull;
    x ^= x >> 29;
    x *= 0xbf58476d1ce4e5b9ull;
    return x ^ x >> 32;
}

/*
 * The i-th of n in an order that the seed decides: a Feistel network over the
 * next power of four, walked until it comes back below n.
 */
static uint64_t shuffled(uint64_t i, uint64_t n, uint64_t seed)
{
    unsigned half = (64 - clz64(n - 1 ?: 1) + 1) / 2;
    uint64_t mask = (UINT64_C(1) << half) - 1;

    do {
        uint64_t left = i >> half, right = i & mask;

        for (int round = 0; round < 4; round++) {
            uint64_t next = left ^ (mix(right + seed + round) & mask);

            left = right;
            right = next;
        }
        i = left << half | right;
    } while (i >= n);
    return i;
}

bool vfetch_strand_next_chunk(VfetchStrand *strand)
{
    VfetchJob *j = strand->job;
    uint64_t chunks = DIV_ROUND_UP(j->results, j->chunk);
    uint64_t k;

    if (j->in.order == VFETCH_JOB_BLOCKED) {
        /* (Of 2^38 and 2^12 at most.) */
        k = chunks * strand->index / j->strands + strand->turn;
        if (k >= chunks * (strand->index + 1) / j->strands) {
            return false;
        }
    } else {
        k = strand->turn * j->strands + strand->index;
        if (k >= chunks) {
            return false;
        }
        if (j->in.order == VFETCH_JOB_SHUFFLED) {
            k = shuffled(k, chunks, mix(j->in.seed));
        }
    }
    strand->turn++;
    strand->at = k * j->chunk;
    strand->end = MIN(strand->at + j->chunk, j->results);
    return true;
}

/* ---- life --------------------------------------------------------------- */

static void phase_begin(VfetchJob *j, int64_t now)
{
    j->busy = j->strands;
    for (uint32_t i = 0; i < j->strands; i++) {
        VfetchStrand *s = &j->strand[i];

        s->turn = 0;
        s->at = 0;
        s->end = 0;
        vfetch_agenda_add(&j->fn->dev->steps, &s->next, now);
    }
}

/* Nothing of it is left but its transfer, which is on its queue's open list. */
static void job_free(VfetchJob *j, int64_t now)
{
    VfetchFunction *f = j->fn;

    for (uint32_t i = 0; i < j->strands; i++) {
        VfetchStrand *s = &j->strand[i];

        vfetch_agenda_remove(&f->dev->steps, &s->next);
        if (s->faulted) {
            vfetch_fault_forget(s, now);
        }
        if (s->flight) {
            vfetch_flight_abandon(s->flight, now);
        }
    }
    j->x->job = NULL;
    f->running--;
    f->count.jobs++;
    g_free(j->front);
    g_free(j->found);
    g_free(j->seen);
    g_free(j);
}

static void job_finish(VfetchJob *j, uint16_t status, uint64_t value,
                       int64_t now)
{
    VfetchTransfer *x = j->x;

    job_free(j, now);
    x->status = status;
    x->value = value;
    vfetch_transfer_ended(x, now);
}

void vfetch_job_end(VfetchJob *j, uint16_t status, uint64_t value, int64_t now)
{
    VfetchFunction *f = j->fn;

    job_finish(j, status, value, now);
    vfetch_jobs_start(f, now);
}

/* Reads the job and checks all of it. Returns NULL with @x's status. */
static VfetchJob *job_read(VfetchTransfer *x)
{
    VfetchFunction *f = x->queue->fn;
    struct vfetch_job in;
    VfetchSpace as;
    VfetchJob *j;

    x->status = vfetch_space_open(f, x->asid, &as);
    if (x->status != VFETCH_STATUS_OK) {
        return NULL;
    }
    if (!vfetch_dma_read(f, x->host_addr, &in, sizeof(in))) {
        x->status = VFETCH_STATUS_HOST_ACCESS;
        return NULL;
    }
    x->status = VFETCH_STATUS_JOB;
    in.kind = le32_to_cpu(in.kind);
    in.flags = le32_to_cpu(in.flags);
    in.order = le32_to_cpu(in.order);
    in.strands = le32_to_cpu(in.strands);
    in.element_ps = le32_to_cpu(in.element_ps);
    in.seed = le64_to_cpu(in.seed);
    if (in.kind < 1 || in.kind > VFETCH_JOB_KINDS || in.flags ||
        in.reserved || in.order > VFETCH_JOB_SHUFFLED || !in.strands ||
        in.strands > f->dev->job_strands || in.element_ps > ELEMENT_PS_MAX) {
        x->value = VFETCH_JOB_ARGUMENTS;
        return NULL;
    }
    for (unsigned i = 0; i < VFETCH_JOB_ARGUMENTS; i++) {
        in.argument[i] = le64_to_cpu(in.argument[i]);
        if (in.argument[i] && i >= vfetch_kernels[in.kind]->arguments) {
            x->value = i;
            return NULL;
        }
    }

    j = g_malloc0(sizeof(*j) + in.strands * sizeof(j->strand[0]));
    j->x = x;
    j->fn = f;
    j->as = as;
    j->kernel = vfetch_kernels[in.kind];
    j->in = in;
    j->bytes = as.pages << VFETCH_PAGE_SHIFT;
    j->chunk = 1;
    j->strands = in.strands;
    j->kernel->begin(j);
    x->status = j->status;
    x->value = j->where;
    if (j->status != VFETCH_STATUS_OK) {
        g_free(j);
        return NULL;
    }
    for (uint32_t i = 0; i < j->strands; i++) {
        j->strand[i].job = j;
        j->strand[i].index = i;
    }
    return j;
}

static void job_begin(VfetchTransfer *x, int64_t now)
{
    VfetchFunction *f = x->queue->fn;
    VfetchJob *j = job_read(x);

    if (!j) {
        f->count.jobs++;
        vfetch_transfer_ended(x, now);
        return;
    }
    x->job = j;
    f->running++;
    if (j->results) {
        phase_begin(j, now);
    } else {
        job_finish(j, VFETCH_STATUS_OK, 0, now);
    }
}

/* Gives the free slots to those that wait. */
void vfetch_jobs_start(VfetchFunction *f, int64_t now)
{
    VfetchTransfer *x;

    while (f->running < f->dev->job_slots &&
           (x = QTAILQ_FIRST(&f->waiting))) {
        QTAILQ_REMOVE(&f->waiting, x, wait_link);
        x->waiting = false;
        job_begin(x, now);
    }
}

/* A job's descriptor has been fetched. */
void vfetch_job_add(VfetchTransfer *x, int64_t now)
{
    x->state = VFETCH_JOB;
    vfetch_due_add(x, MAX(x->ready_at, now));
}

void vfetch_job_due(VfetchTransfer *x, int64_t now)
{
    VfetchFunction *f = x->queue->fn;

    QTAILQ_INSERT_TAIL(&f->waiting, x, wait_link);
    x->waiting = true;
    vfetch_jobs_start(f, now);
}

/*
 * Takes @x off whatever a job can be on. Whoever drops all that is to be
 * dropped then gives the slots to others, with vfetch_jobs_start().
 */
void vfetch_job_drop(VfetchTransfer *x, int64_t now)
{
    VfetchFunction *f = x->queue->fn;

    if (x->job) {
        job_free(x->job, now);
    } else {
        if (x->on_due) {
            vfetch_due_remove(x);
        } else if (x->waiting) {
            QTAILQ_REMOVE(&f->waiting, x, wait_link);
            x->waiting = false;
        }
        f->count.jobs++;
    }
}

bool vfetch_jobs_idle(const VfetchFunction *f)
{
    for (uint32_t i = 0; i < f->dev->queues; i++) {
        const VfetchTransfer *x;

        QTAILQ_FOREACH(x, &f->queue[i].open, queue_link) {
            if (x->state == VFETCH_JOB) {
                return false;
            }
        }
    }
    return true;
}

/* ---- steps -------------------------------------------------------------- */

static void strand_idle(VfetchJob *j, int64_t now)
{
    if (--j->busy) {
        return;
    }
    if (j->kernel->next_phase && j->kernel->next_phase(j)) {
        if (j->status != VFETCH_STATUS_OK) {
            vfetch_job_end(j, j->status, j->where, now);
        } else {
            j->phase++;
            phase_begin(j, now);
        }
    } else {
        vfetch_job_end(j, VFETCH_STATUS_OK, j->value, now);
    }
}

void vfetch_strand_due(VfetchAppointment *e, int64_t now)
{
    VfetchStrand *strand = container_of(e, VfetchStrand, next);
    VfetchJob *j = strand->job;
    VfetchStep *s = j->fn->dev->step;
    bool done = vfetch_step_take(strand, s);
    uint64_t ns = vfetch_step_time(s, done);

    if (done) {
        vfetch_flight_start(s, ns, now);
        return;
    }
    switch (s->stop) {
    case STOP_NONE:
        strand_idle(j, now);
        break;
    case STOP_FAULT:
        strand->page = s->fault_page;
        strand->access = s->access;
        strand->reason = s->reason;
        vfetch_fault_report(strand, now);
        break;
    case STOP_ERROR:
        vfetch_job_end(j, s->status, s->where, now);
        break;
    case STOP_PAGES:
        /* A unit of more pages than a step has: not reached. */
        vfetch_job_end(j, VFETCH_STATUS_FAILED, 0, now);
        break;
    }
}

void vfetch_strand_retry(VfetchStrand *s, int64_t now)
{
    vfetch_agenda_add(&s->job->fn->dev->steps, &s->next, now);
}

/* ---- cancelling --------------------------------------------------------- */

/*
 * Ends the jobs of that transaction which have been fetched, and waits until
 * their completions are posted, which a full ring or a fault may put off.
 */
void vfetch_cancel_begin(VfetchTransfer *c, int64_t now)
{
    VfetchFunction *f = c->queue->fn;
    g_autoptr(GPtrArray) doomed = g_ptr_array_new();

    for (uint32_t i = 0; i < f->dev->queues; i++) {
        VfetchQueue *q = &f->queue[i];
        VfetchTransfer *x;

        QTAILQ_FOREACH(x, &q->open, queue_link) {
            if (x->opcode == VFETCH_OP_JOB && x->id == c->device_addr) {
                c->pending++;
                if (x->state == VFETCH_JOB) {
                    g_ptr_array_add(doomed, x);
                }
            }
        }
        QTAILQ_FOREACH(x, &q->held, queue_link) {
            c->pending += x->opcode == VFETCH_OP_JOB && x->id == c->device_addr;
        }
    }
    if (!c->pending) {
        vfetch_due_add(c, now);
        return;
    }
    QTAILQ_INSERT_TAIL(&f->cancels, c, wait_link);
    c->waiting = true;
    for (guint i = 0; i < doomed->len; i++) {
        VfetchTransfer *x = g_ptr_array_index(doomed, i);

        vfetch_job_drop(x, now);
        x->status = VFETCH_STATUS_CANCELLED;
        vfetch_transfer_ended(x, now);
    }
    vfetch_jobs_start(f, now);
}

/* @x, a job's, is about to be freed: nothing more comes of it. */
void vfetch_cancel_progress(VfetchTransfer *x, int64_t now)
{
    VfetchFunction *f = x->queue->fn;
    VfetchTransfer *c, *next;

    QTAILQ_FOREACH_SAFE(c, &f->cancels, wait_link, next) {
        if (c->device_addr == x->id && c->seq > x->seq && --c->pending == 0) {
            QTAILQ_REMOVE(&f->cancels, c, wait_link);
            c->waiting = false;
            vfetch_due_add(c, now);
        }
    }
}
