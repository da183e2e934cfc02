/*
 * vfetch: queue pairs.
 *
 * SPDX-License-Identifier: GPL-2.0
 *
 * A descriptor that has been fetched is a VfetchTransfer on one of its queue's
 * lists until nothing of it is left: `open` until it ends, `held` until its
 * completion is posted, `late` while a fault owes its data. While there are
 * VFETCH_MAX_INFLIGHT nothing is fetched, so a guest cannot make QEMU's memory
 * grow; when one leaves, the next is fetched. (A fault that sends the
 * completion ahead of the data makes two of one.)
 */
#include "qemu/osdep.h"
#include "qemu/atomic.h"
#include "qemu/bswap.h"
#include "qemu/log.h"
#include "vfetch.h"

#define FETCH_BATCH 32

static uint32_t ring_entries(const VfetchQueue *q)
{
    return 1u << q->order;
}

/* Sends the queue's message if that is armed. */
static void notify(VfetchQueue *q)
{
    if (q->armed) {
        q->armed = false;
        vfetch_message(q->fn, q->vector);
    }
}

/* Tells the driver once that the queue has stopped, when it wants to be told. */
static void notify_stop(VfetchQueue *q)
{
    if (q->stop_untold && q->armed) {
        q->stop_untold = false;
        notify(q);
    }
}

/* The queue fetches nothing more. */
static void queue_error(VfetchQueue *q, uint8_t error)
{
    if (q->error != VFETCH_QERR_NONE) {
        return;
    }
    qemu_log_mask(LOG_GUEST_ERROR, "vfetch: function %u, queue %u: error %u\n",
                  q->fn->index, q->index, error);
    q->error = error;
    q->stop_untold = q->enabled;
    q->fn->count.queue_errors++;
    notify_stop(q);
}

/* ---- transfers ---------------------------------------------------------- */

static VfetchTransfer *transfer_new(VfetchQueue *q)
{
    VfetchCounters *count = &q->fn->count;
    VfetchTransfer *x = g_new0(VfetchTransfer, 1);

    x->queue = q;
    x->counted = true;
    q->inflight++;
    count->depth++;
    count->depth_max = MAX(count->depth_max, count->depth);
    return x;
}

/* Takes @x off whatever it is on, and forgets it. */
void vfetch_transfer_free(VfetchTransfer *x)
{
    VfetchQueue *q = x->queue;

    switch (x->state) {
    case VFETCH_LANE:
        vfetch_lane_remove(x, vfetch_now());
        QTAILQ_REMOVE(&q->open, x, queue_link);
        break;
    case VFETCH_STUCK:
    case VFETCH_DELAYED:
    case VFETCH_ASIDE:
        QTAILQ_REMOVE(&q->open, x, queue_link);
        break;
    case VFETCH_JOB:
        vfetch_job_drop(x, vfetch_now());
        QTAILQ_REMOVE(&q->open, x, queue_link);
        break;
    case VFETCH_HELD:
        QTAILQ_REMOVE(&q->held, x, queue_link);
        break;
    case VFETCH_LATE:
        QTAILQ_REMOVE(&q->late, x, queue_link);
        break;
    }
    if (x->on_due) {
        vfetch_due_remove(x);
    }
    if (x->waiting) {
        /* A command: an invalidation or a cancel. */
        QTAILQ_REMOVE(x->opcode == VFETCH_OP_CANCEL ? &q->fn->cancels
                                                    : &q->fn->draining,
                      x, wait_link);
    }
    if (x->opcode == VFETCH_OP_JOB) {
        vfetch_cancel_progress(x, vfetch_now());
    }
    q->inflight--;
    q->fn->count.depth -= x->counted;
    g_free(x->faults);
    g_free(x->sg);
    g_free(x);
}

static void free_all(VfetchTransferList *list)
{
    VfetchTransfer *x, *next;

    QTAILQ_FOREACH_SAFE(x, list, queue_link, next) {
        vfetch_transfer_free(x);
    }
}

/* ---- fetching ----------------------------------------------------------- */

static bool may_fetch(const VfetchQueue *q)
{
    return q->enabled && !q->resetting && !q->error && !q->stuck &&
           q->sq_head != q->sq_tail && q->inflight < VFETCH_MAX_INFLIGHT;
}

/* To where it waits for its turn, if it has to wait for others at all. */
static void launch(VfetchTransfer *x, int64_t now)
{
    x->ready_at = now + x->queue->fn->dev->link_latency_ns;
    if (x->service == VFETCH_BY_JOB) {
        vfetch_job_add(x, now);
    } else if (x->service == VFETCH_BY_COMMAND &&
               (x->flags & VFETCH_DESC_RELAXED)) {
        x->state = VFETCH_ASIDE;
        vfetch_due_add(x, x->ready_at);
    } else {
        vfetch_lane_add(x);
    }
}

static void fetch_one(VfetchQueue *q, const struct vfetch_desc *desc,
                      int64_t now)
{
    VfetchTransfer *x = transfer_new(q);

    vfetch_transfer_validate(x, desc);
    vfetch_fault_apply(x);
    x->seq = ++q->fn->dev->seq;
    QTAILQ_INSERT_TAIL(&q->open, x, queue_link);
    if (vfetch_fault(x, VFETCH_FAULT_STUCK) ||
        vfetch_fault(x, VFETCH_FAULT_WEDGED)) {
        x->state = VFETCH_STUCK;
        q->stuck = true;
        q->wedged |= vfetch_fault(x, VFETCH_FAULT_WEDGED);
    } else {
        launch(x, now);
    }
}

void vfetch_queue_fetch(VfetchQueue *q, int64_t now)
{
    while (may_fetch(q)) {
        struct vfetch_desc batch[FETCH_BATCH];
        uint32_t slot = q->sq_head & (ring_entries(q) - 1);
        uint32_t n = (uint16_t)(q->sq_tail - q->sq_head);

        n = MIN(n, ring_entries(q) - slot);
        n = MIN(n, VFETCH_MAX_INFLIGHT - q->inflight);
        n = MIN(n, FETCH_BATCH);
        if (!vfetch_dma_read(q->fn, q->sq_base + slot * sizeof(batch[0]),
                             batch, n * sizeof(batch[0]))) {
            queue_error(q, VFETCH_QERR_SQ_READ);
            return;
        }
        for (uint32_t i = 0; i < n && !q->stuck; i++) {
            q->sq_head++;
            fetch_one(q, &batch[i], now);
        }
    }
}

/* Goes on where VFETCH_FAULT_STUCK or _WEDGED stopped. */
void vfetch_queue_release(VfetchQueue *q, int64_t now)
{
    VfetchTransfer *x, *next;

    q->stuck = false;
    q->wedged = false;
    if (q->resetting) {
        vfetch_queue_reset_progress(q);
        return;
    }
    QTAILQ_FOREACH_SAFE(x, &q->open, queue_link, next) {
        if (x->state == VFETCH_STUCK) {
            launch(x, now);
        }
    }
    vfetch_queue_fetch(q, now);
}

/* ---- completing --------------------------------------------------------- */

static bool ring_full(const VfetchQueue *q)
{
    return q->cq_tail - q->cq_head >= ring_entries(q);
}

/*
 * The host takes an entry for new when its phase is: so the entry is written
 * with the old phase first, and the phase last.
 */
static bool write_completion(VfetchTransfer *x)
{
    VfetchQueue *q = x->queue;
    uint32_t slot = q->cq_tail & (ring_entries(q) - 1);
    uint64_t addr = q->cq_base + slot * sizeof(struct vfetch_completion);
    uint16_t phase = (q->cq_tail >> q->order) & 1 ? 0 : VFETCH_PHASE;
    struct vfetch_completion c = {
        .transaction = cpu_to_le64(x->transaction),
        .time_ns = cpu_to_le64(x->ended_at),
        .bytes = cpu_to_le32(x->moved),
        .status = cpu_to_le16(x->status),
        .value = cpu_to_le64(x->value),
        .phase = cpu_to_le16(phase ^ VFETCH_PHASE),
    };

    if (!vfetch_dma_write(q->fn, addr, &c, sizeof(c))) {
        return false;
    }
    /* The host's reader: phase first, smp_rmb(), then the rest. */
    smp_wmb();
    phase = cpu_to_le16(phase);
    return vfetch_dma_write(q->fn, addr + offsetof(struct vfetch_completion,
                                                   phase),
                            &phase, sizeof(phase));
}

static void posted(VfetchTransfer *x)
{
    VfetchQueue *q = x->queue;

    q->cq_tail++;
    if (x->flags & VFETCH_DESC_QUIET) {
        return;
    }
    q->cq_loud = q->cq_tail;
    if (q->armed) {
        q->armed = false;
        if (!vfetch_fault(x, VFETCH_FAULT_NO_INTERRUPT)) {
            vfetch_message(q->fn, q->vector);
        }
    }
}

/* Posts what has ended, as far as there is room. */
static void post_held(VfetchQueue *q)
{
    VfetchTransfer *x;

    while ((x = QTAILQ_FIRST(&q->held))) {
        for (; x->copies && q->error != VFETCH_QERR_CQ_WRITE; x->copies--) {
            if (ring_full(q)) {
                return;
            }
            if (!write_completion(x)) {
                /* Whatever stopped it before: no more is posted now. */
                queue_error(q, VFETCH_QERR_CQ_WRITE);
                q->error = VFETCH_QERR_CQ_WRITE;
                break;
            }
            posted(x);
        }
        vfetch_transfer_free(x);
    }
}

/* The completion goes first, as a transfer of its own; @x keeps the data. */
static VfetchTransfer *split_late_data(VfetchTransfer *x, int64_t now)
{
    VfetchQueue *q = x->queue;
    VfetchTransfer *c = g_memdup2(x, sizeof(*x));

    q->inflight++;
    x->counted = false;
    x->state = VFETCH_LATE;
    QTAILQ_INSERT_TAIL(&q->late, x, queue_link);
    vfetch_due_add(x, now + MIN(x->faults->arg[VFETCH_FAULT_LATE_DATA],
                                INT64_MAX / 2));
    c->moved = x->bytes;
    c->sg = NULL;
    c->faults = g_memdup2(x->faults, sizeof(*x->faults));
    return c;
}

/* @x is on no lane and not due any more. */
static void complete(VfetchTransfer *x, int64_t now)
{
    VfetchQueue *q = x->queue;
    VfetchCounters *count = &q->fn->count;

    QTAILQ_REMOVE(&q->open, x, queue_link);
    q->last_end = now;
    x->ended_at = now;
    if (x->status == VFETCH_STATUS_OK) {
        count->transfers++;
    } else {
        count->errors++;
    }

    if (vfetch_fault(x, VFETCH_FAULT_LATE_DATA) &&
        x->status == VFETCH_STATUS_OK && vfetch_moves_data(x)) {
        x = split_late_data(x, now);
    }
    if (vfetch_fault(x, VFETCH_FAULT_CORRUPT)) {
        x->transaction ^= x->faults->arg[VFETCH_FAULT_CORRUPT];
    }
    if (vfetch_fault(x, VFETCH_FAULT_DUPLICATE)) {
        x->copies = 2;
    }
    if (vfetch_fault(x, VFETCH_FAULT_DROP)) {
        x->copies = 0;
    }
    /* Held for as long as the driver likes: not with a list of 16 KiB. */
    g_free(x->sg);
    x->sg = NULL;
    x->state = VFETCH_HELD;
    QTAILQ_INSERT_TAIL(&q->held, x, queue_link);
    post_held(q);
    vfetch_queue_fetch(q, now);
}

/* It has been served: as the first of its lane, or on none. */
void vfetch_transfer_ended(VfetchTransfer *x, int64_t now)
{
    if (x->state == VFETCH_LANE) {
        vfetch_lane_remove(x, now);
    }
    if (vfetch_fault(x, VFETCH_FAULT_DELAY)) {
        x->state = VFETCH_DELAYED;
        vfetch_due_add(x, now + MIN(x->faults->arg[VFETCH_FAULT_DELAY],
                                    INT64_MAX / 2));
    } else {
        complete(x, now);
    }
}

/* A command's time has come: to begin if it is on no lane, or to end. */
static void command_due(VfetchTransfer *x, int64_t now)
{
    if (x->begun) {
        vfetch_transfer_ended(x, now);
    } else {
        vfetch_command_begin(x, now);
    }
}

/*
 * What a fault put off is due: the data, or data and completion. Or a command
 * or a job is.
 */
void vfetch_transfer_due(VfetchTransfer *x, int64_t now)
{
    VfetchQueue *q = x->queue;

    vfetch_due_remove(x);
    switch (x->state) {
    case VFETCH_LANE:
    case VFETCH_ASIDE:
        command_due(x, now);
        return;
    case VFETCH_JOB:
        vfetch_job_due(x, now);
        return;
    default:
        break;
    }

    if (x->state == VFETCH_DELAYED) {
        if (!vfetch_fault(x, VFETCH_FAULT_LATE_DATA)) {
            vfetch_transfer_move_all(x);
        }
        complete(x, now);
    } else {
        vfetch_transfer_move_all(x);
        vfetch_transfer_free(x);
        vfetch_queue_fetch(q, now);
    }
}

/* ---- doorbells and control ---------------------------------------------- */

void vfetch_queue_sq_tail(VfetchQueue *q, uint32_t value)
{
    uint32_t waiting = (uint16_t)(q->sq_tail - q->sq_head);
    uint32_t more = (uint16_t)(value - q->sq_tail);

    if (!q->enabled || q->resetting || q->error) {
        return;
    }
    if ((value & ~VFETCH_INDEX_MASK) || waiting + more > ring_entries(q)) {
        queue_error(q, VFETCH_QERR_SQ_TAIL);
        return;
    }
    q->sq_tail = value;
    vfetch_queue_fetch(q, vfetch_now());
}

void vfetch_queue_cq_head(VfetchQueue *q, uint32_t value)
{
    uint32_t taken = (uint16_t)(value - (uint16_t)q->cq_head);

    if (!q->enabled || q->resetting) {
        return;
    }
    if ((value & ~(VFETCH_INDEX_MASK | VFETCH_CQ_DISARM)) ||
        taken > q->cq_tail - q->cq_head) {
        queue_error(q, VFETCH_QERR_CQ_HEAD);
        return;
    }
    q->cq_head += taken;
    q->armed = !(value & VFETCH_CQ_DISARM);
    if (q->cq_loud > q->cq_head) {
        notify(q);
    }
    notify_stop(q);
    post_held(q);
    vfetch_queue_fetch(q, vfetch_now());
}

static bool ring_valid(uint64_t base, uint64_t bytes)
{
    return base % 64 == 0 && base <= UINT64_MAX - (bytes - 1);
}

static bool config_valid(const VfetchQueue *q)
{
    return q->order >= VFETCH_MIN_ORDER && q->order <= VFETCH_MAX_ORDER &&
           q->vector < VFETCH_MSIX_VECTORS &&
           q->class < VFETCH_CLASSES &&
           ring_valid(q->sq_base,
                      ring_entries(q) * sizeof(struct vfetch_desc)) &&
           ring_valid(q->cq_base,
                      ring_entries(q) * sizeof(struct vfetch_completion));
}

static void queue_empty(VfetchQueue *q)
{
    q->enabled = false;
    q->resetting = false;
    q->error = VFETCH_QERR_NONE;
    q->sq_tail = 0;
    q->sq_head = 0;
    q->cq_head = 0;
    q->cq_tail = 0;
    q->cq_loud = 0;
    q->armed = false;
    q->stop_untold = false;
    q->stuck = false;
    q->wedged = false;
}

static void queue_enable(VfetchQueue *q)
{
    if (q->enabled || q->error) {
        return;
    }
    if (!config_valid(q)) {
        queue_error(q, VFETCH_QERR_CONFIG);
        return;
    }
    queue_empty(q);
    q->last_end = 0;
    q->enabled = true;
    q->armed = true;
}

/*
 * Drops what is left of the queue, except for a quantum on the link: a
 * transfer that has begun on a bus cannot be called back. When that has ended
 * too, the reset is acknowledged.
 */
void vfetch_queue_reset_progress(VfetchQueue *q)
{
    VfetchTransfer *cur = q->fn->dev->cur;
    VfetchTransfer *x, *next;

    /* (Jobs take their flights along, but for the one on the link.) */
    QTAILQ_FOREACH_SAFE(x, &q->open, queue_link, next) {
        if (x != cur) {
            vfetch_transfer_free(x);
        }
    }
    free_all(&q->held);
    free_all(&q->late);
    if (QTAILQ_EMPTY(&q->open) && QTAILQ_EMPTY(&q->flights) && !q->wedged) {
        queue_empty(q);
    }
    vfetch_jobs_start(q->fn, vfetch_now());
}

void vfetch_queue_control(VfetchQueue *q, uint32_t value)
{
    if (value & VFETCH_QCTL_RESET) {
        if (!q->enabled) {
            q->error = VFETCH_QERR_NONE;
        } else if (!q->resetting) {
            q->resetting = true;
            vfetch_queue_reset_progress(q);
        }
    } else if (value & VFETCH_QCTL_ENABLE) {
        queue_enable(q);
    }
}

/* ---- functions ---------------------------------------------------------- */

/* Its memory may be in use: it has a queue that is not disabled. */
bool vfetch_function_active(const VfetchFunction *f)
{
    for (uint32_t i = 0; i < f->dev->queues; i++) {
        if (f->queue[i].enabled) {
            return true;
        }
    }
    return false;
}

void vfetch_function_init(VfetchFunction *f)
{
    for (int i = 0; i < VFETCH_LANES; i++) {
        QTAILQ_INIT(&f->lane[i].list);
    }
    for (uint32_t i = 0; i < VFETCH_MAX_QUEUES; i++) {
        VfetchQueue *q = &f->queue[i];

        q->fn = f;
        q->index = i;
        QTAILQ_INIT(&q->open);
        QTAILQ_INIT(&q->held);
        QTAILQ_INIT(&q->late);
        QTAILQ_INIT(&q->flights);
    }
    QTAILQ_INIT(&f->draining);
    QTAILQ_INIT(&f->cancels);
    QTAILQ_INIT(&f->waiting);
    QTAILQ_INIT(&f->flights);
    vfetch_fault_ring_init(f);
    f->weight = VFETCH_DEFAULT_WEIGHT;
}

/* FLR, VF disable, power-on: everything at once, and the memory with it. */
void vfetch_function_reset(VfetchFunction *f)
{
    for (uint32_t i = 0; i < VFETCH_MAX_QUEUES; i++) {
        VfetchQueue *q = &f->queue[i];

        VfetchTransfer *x, *next;

        free_all(&q->open);
        free_all(&q->held);
        free_all(&q->late);
        QTAILQ_FOREACH_SAFE(x, &q->flights, queue_link, next) {
            vfetch_flight_free(x, vfetch_now());
        }
        queue_empty(q);
        q->sq_base = 0;
        q->cq_base = 0;
        q->order = 0;
        q->vector = 0;
        q->class = 0;
    }
    vfetch_fault_ring_reset(f);
    vfetch_mmu_reset(f);
    f->messages = 0;
    memset(&f->count, 0, sizeof(f->count));
    f->generation++;
    vfetch_memory_scrub(f->dev, f->base, f->size);
}
