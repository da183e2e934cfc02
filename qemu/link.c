/*
 * vfetch: time.
 *
 * SPDX-License-Identifier: GPL-2.0
 *
 * The device is a small discrete-event simulation on QEMU_CLOCK_VIRTUAL. What
 * happens when follows from when descriptors were fetched and from nothing
 * else: vfetch_link_run() may be called at any time and performs what is due,
 * in the order of the events' times and with these times. So transfers need
 * no timer for each quantum: one timer fires when the guest can next notice
 * something (a completion), and whoever looks earlier runs the model first.
 *
 * The link carries one quantum at a time. A function has lanes, each first in,
 * first out: relaxed and ordered, of the priority class and of the ordinary
 * class; and one for its jobs' flights. The first transfer of a lane may use the
 * link
 *
 *     from  max(its ready time, when it became the first)  on.
 *
 * When the link is free it goes to the function with the least virtual time
 * (start-time fair queueing: a quantum advances the function's virtual time
 * by bytes / weight, and one that was idle starts at the link's), then to the
 * function's priority class; within a class the relaxed and the ordered lane
 * alternate, and flights with the ordinary class. Fills and copies take their
 * time off the link, at the head of their lane.
 */
#include "qemu/osdep.h"
#include "qemu/host-utils.h"
#include "job.h"

#define NEVER INT64_MAX

/*
 * Events and work (vfetch.h) performed in one go. Beyond them the timer
 * continues at once, so that the main loop is never held up for long: on a busy
 * host the link, which is about as fast as memcpy, may fall behind the clock.
 */
#define BUDGET_EVENTS   4096
#define BUDGET_WORK     (4 * 1024 * 1024)

/*
 * Nobody notices a strand's step but by what it leaves in memory. So many of
 * them are taken in one go, each with its own time, when the clock has come to
 * the next multiple of this.
 */
#define STEP_GRID_NS    1000

/*
 * Jobs may ask for more than this host can compute. Of steps that are so late a
 * few are taken at a time, in turns with everything else, so that nobody's
 * transfers are late for them; then the guest gets a word in. (With -icount the
 * clock waits for the device, and nothing is ever late.)
 */
#define STEP_LATE_NS        1000000
#define STEP_REST_NS        100000
#define BUDGET_LATE_STEPS   256

typedef enum EventKind {
    EV_NONE,
    EV_DUE,                     /* the first of the due list */
    EV_LINK_END,                /* the quantum on the link */
    EV_LANE_END,                /* a lane's first that needs no link */
    EV_STEP,                    /* the first of the strands' */
    EV_FAULT_MESSAGE,
    EV_LINK_START,
} EventKind;

typedef struct Event {
    int64_t at;
    EventKind kind;             /* at equal times the lower kind is first */
    VfetchTransfer *x;          /* LANE_END */
} Event;

uint64_t vfetch_duration_ns(uint64_t bytes, uint32_t bytes_per_us)
{
    return DIV_ROUND_UP(bytes * 1000, bytes_per_us);
}

static int64_t later(int64_t t, uint64_t ns)
{
    return ns > (uint64_t)(NEVER - 1 - t) ? NEVER - 1 : t + (int64_t)ns;
}

static int lane_of(const VfetchTransfer *x)
{
    return vfetch_lane_index(x->queue->class, x->flags & VFETCH_DESC_RELAXED);
}

/* 1 if the first of @lane needs no link. */
static uint32_t off_link(const VfetchLane *lane)
{
    const VfetchTransfer *x = QTAILQ_FIRST(&lane->list);

    return x && x->service != VFETCH_BY_LINK;
}

void vfetch_lane_add(VfetchTransfer *x)
{
    VfetchFunction *f = x->queue->fn;
    VfetchDevice *d = f->dev;
    int i = lane_of(x);
    VfetchLane *lane = &f->lane[i];

    x->state = VFETCH_LANE;
    d->off_link -= off_link(lane);
    QTAILQ_INSERT_TAIL(&lane->list, x, lane_link);
    d->off_link += off_link(lane);
    if (!f->lanes) {
        QTAILQ_INSERT_TAIL(&d->busy, f, busy_link);
    }
    f->lanes |= 1u << i;
}

void vfetch_lane_remove(VfetchTransfer *x, int64_t now)
{
    VfetchFunction *f = x->queue->fn;
    VfetchDevice *d = f->dev;
    int i = lane_of(x);
    VfetchLane *lane = &f->lane[i];

    if (d->cur == x) {
        /* What was on the link stays on it to the quantum's end. */
        d->cur = NULL;
        d->link_free = d->cur_end;
    }
    if (QTAILQ_FIRST(&lane->list) == x) {
        lane->since = now;
    }
    d->off_link -= off_link(lane);
    QTAILQ_REMOVE(&lane->list, x, lane_link);
    d->off_link += off_link(lane);
    if (QTAILQ_EMPTY(&lane->list)) {
        f->lanes &= ~(1u << i);
        if (!f->lanes) {
            QTAILQ_REMOVE(&d->busy, f, busy_link);
        }
    }
}

void vfetch_due_add(VfetchTransfer *x, int64_t due)
{
    VfetchDevice *d = x->queue->fn->dev;
    VfetchTransfer *o;

    x->due = due;
    x->on_due = true;
    QTAILQ_FOREACH_REVERSE(o, &d->due, due_link) {
        if (o->due <= due) {
            QTAILQ_INSERT_AFTER(&d->due, o, x, due_link);
            return;
        }
    }
    QTAILQ_INSERT_HEAD(&d->due, x, due_link);
}

void vfetch_due_remove(VfetchTransfer *x)
{
    x->on_due = false;
    QTAILQ_REMOVE(&x->queue->fn->dev->due, x, due_link);
}

/* From when on the first transfer of @lane may be served. NEVER: not yet. */
static int64_t eligible_at(const VfetchLane *lane, const VfetchTransfer *x)
{
    int64_t t = MAX(x->ready_at, lane->since);

    if (x->begun) {
        return NEVER;           /* a command: it is due, or waits */
    }
    if (x->opcode == VFETCH_OP_FENCE && x->status == VFETCH_STATUS_OK) {
        /* All that its queue fetched before it must have ended. */
        if (QTAILQ_FIRST(&x->queue->open) != x) {
            return NEVER;
        }
        t = MAX(t, x->queue->last_end);
    }
    return t;
}

/* Link time of what @x still has to move, in quanta. */
static uint64_t remaining_ns(const VfetchDevice *d, const VfetchTransfer *x)
{
    uint32_t left = x->bytes - x->served;
    uint32_t quantum = d->link_quantum;
    uint32_t speed = d->link_bytes_per_us;

    return (left / quantum) * vfetch_duration_ns(quantum, speed) +
           vfetch_duration_ns(left % quantum, speed);
}

static void consider(Event *best, int64_t at, EventKind kind, VfetchTransfer *x)
{
    if (at < best->at || (at == best->at && kind < best->kind)) {
        *best = (Event) { .at = at, .kind = kind, .x = x };
    }
}

static bool step_late(const VfetchAppointment *step)
{
    return vfetch_now() - step->at > STEP_LATE_NS;
}

/* When the timer sees to it. */
static int64_t step_seen(const VfetchAppointment *step)
{
    return step_late(step) ? vfetch_now() + STEP_REST_NS
                           : ROUND_UP(step->at, STEP_GRID_NS);
}

/*
 * What happens next. With @visible: a time before which the guest sees nothing.
 *
 * This is asked for every quantum. Most often all lanes that have something wait
 * for the link: then they need not be looked at while it is taken, and when it
 * is free one that is ready is as good as any.
 */
static Event next_event(VfetchDevice *d, bool visible, bool steps)
{
    Event best = { .at = NEVER };
    VfetchTransfer *x = QTAILQ_FIRST(&d->due);
    VfetchAppointment *step = steps ? vfetch_agenda_first(&d->steps) : NULL;
    VfetchAppointment *message = vfetch_agenda_first(&d->fault_messages);
    bool link_only = !visible && !d->off_link;
    VfetchFunction *f;

    if (x) {
        consider(&best, x->due, EV_DUE, NULL);
    }
    if (step) {
        consider(&best, visible ? step_seen(step) : step->at, EV_STEP, NULL);
    }
    if (message) {
        consider(&best, message->at, EV_FAULT_MESSAGE, NULL);
    }
    if (d->cur && (!visible || d->cur->queue->resetting)) {
        consider(&best, d->cur_end, EV_LINK_END, NULL);
    }
    if (d->cur && link_only) {
        return best;
    }
    QTAILQ_FOREACH(f, &d->busy, busy_link) {
        for (uint32_t left = f->lanes; left; left &= left - 1) {
            VfetchLane *lane = &f->lane[ctz32(left)];
            int64_t t;

            x = QTAILQ_FIRST(&lane->list);
            t = eligible_at(lane, x);
            if (t == NEVER) {
                continue;
            }
            if (x->service == VFETCH_AT_ONCE ||
                x->service == VFETCH_BY_COMMAND) {
                consider(&best, t, EV_LANE_END, x);
            } else if (x->service == VFETCH_BY_MEMORY) {
                t = later(t, vfetch_duration_ns(x->bytes, d->mem_bytes_per_us));
                consider(&best, t, EV_LANE_END, x);
            } else if (visible) {
                /* As if the link were all its own from here on. */
                if (d->cur == x) {
                    t = d->cur_end - vfetch_duration_ns(d->cur_bytes,
                                                        d->link_bytes_per_us);
                } else {
                    t = MAX(t, d->cur ? d->cur_end : d->link_free);
                }
                t = later(t, remaining_ns(d, x));
                consider(&best, t, EV_LINK_END, NULL);
            } else if (!d->cur) {
                consider(&best, MAX(t, d->link_free), EV_LINK_START, NULL);
                if (t <= d->link_free && link_only) {
                    return best;
                }
            }
        }
    }
    return best;
}

static bool share_before(uint64_t a, uint64_t b)
{
    return (int64_t)(a - b) < 0;
}

/* Either, or that which was not the last of the two. */
static VfetchTransfer *in_turn(VfetchTransfer *a, VfetchTransfer *b,
                               bool a_last)
{
    return a && (!b || !a_last) ? a : b;
}

/* What the link would take of @f at @now, and since when @f waits for it. */
static VfetchTransfer *candidate(VfetchFunction *f, int64_t now, int64_t *since)
{
    VfetchTransfer *ready[VFETCH_LANES] = { NULL };
    VfetchTransfer *class[VFETCH_CLASSES];

    *since = NEVER;
    for (uint32_t left = f->lanes; left; left &= left - 1) {
        int i = ctz32(left);
        VfetchTransfer *x = QTAILQ_FIRST(&f->lane[i].list);

        if (x->service == VFETCH_BY_LINK) {
            int64_t t = eligible_at(&f->lane[i], x);

            if (t <= now) {
                ready[i] = x;
                *since = MIN(*since, t);
            }
        }
    }
    for (int i = 0; i < VFETCH_CLASSES; i++) {
        class[i] = in_turn(ready[2 * i], ready[2 * i + 1], f->relaxed_last);
    }
    return class[0] ?: in_turn(class[2], class[1], f->flight_last);
}

static void link_start(VfetchDevice *d, int64_t now)
{
    VfetchTransfer *best = NULL;
    VfetchFunction *f;
    uint64_t best_share = 0;
    int64_t best_since = 0;
    uint64_t ns;

    QTAILQ_FOREACH(f, &d->busy, busy_link) {
        uint64_t share = share_before(f->share, d->share) ? d->share : f->share;
        VfetchTransfer *x;
        int64_t since;

        if (best && (share_before(best_share, share) ||
                     (share == best_share &&
                      best->queue->fn->index < f->index))) {
            continue;
        }
        x = candidate(f, now, &since);
        if (x) {
            best = x;
            best_share = share;
            best_since = since;
        }
    }
    if (!best) {
        return;                 /* not reached: something was eligible */
    }

    f = best->queue->fn;
    d->cur = best;
    d->cur_bytes = MIN(d->link_quantum, best->bytes - best->served);
    ns = vfetch_duration_ns(d->cur_bytes, d->link_bytes_per_us);
    d->cur_end = now + ns;
    d->share = best_share;
    f->share = best_share + ((uint64_t)d->cur_bytes << 16) / f->weight;
    f->flight_last = best->flight;
    if (!best->flight) {
        f->relaxed_last = best->flags & VFETCH_DESC_RELAXED;
    }
    f->count.busy_ns += ns;
    f->count.wait_ns += MAX(0, now - MAX(best_since, f->last_served));
    f->last_served = d->cur_end;
}

/* A fault wants the data later, or never. */
static bool withholds_data(const VfetchTransfer *x)
{
    return vfetch_fault(x, VFETCH_FAULT_DELAY) ||
           vfetch_fault(x, VFETCH_FAULT_LATE_DATA);
}

static void link_end(VfetchDevice *d)
{
    VfetchTransfer *x = d->cur;
    VfetchQueue *q = x->queue;
    int64_t now = d->cur_end;

    d->cur = NULL;
    d->link_free = now;
    x->served += d->cur_bytes;
    if (x->flight) {
        vfetch_flight_landed(x, now);
        if (q->resetting) {
            vfetch_queue_reset_progress(q);
        }
        return;
    }
    if (!withholds_data(x)) {
        vfetch_transfer_move(x, d->cur_bytes);
    }
    if (q->resetting) {
        vfetch_queue_reset_progress(q);
    } else if (x->served == x->bytes || x->status != VFETCH_STATUS_OK) {
        vfetch_transfer_ended(x, now);
    }
}

static void lane_end(VfetchTransfer *x, int64_t now)
{
    if (x->service == VFETCH_BY_COMMAND) {
        vfetch_command_begin(x, now);
        return;
    }
    if (!withholds_data(x)) {
        vfetch_transfer_move_all(x);
    }
    vfetch_transfer_ended(x, now);
}

/* What is performed next. So many late steps may still be. */
static Event next_due(VfetchDevice *d, int64_t now, uint32_t *late_steps)
{
    Event e = next_event(d, false, true);
    Event other;

    if (e.kind != EV_STEP || !step_late(vfetch_agenda_first(&d->steps))) {
        return e;
    }
    d->step_last = !d->step_last;
    if (d->step_last && *late_steps) {
        --*late_steps;
        return e;
    }
    other = next_event(d, false, false);
    if (other.at <= now || !*late_steps) {
        return other;
    }
    --*late_steps;
    return e;
}

static void take_step(VfetchDevice *d)
{
    VfetchAppointment *step = vfetch_agenda_first(&d->steps);

    vfetch_agenda_remove(&d->steps, step);
    vfetch_strand_due(step, step->at);
}

/* Performs what is due by now, or the first part of it, and sets the timer. */
void vfetch_link_run(VfetchDevice *d)
{
    int64_t now = vfetch_now();
    uint32_t late_steps = BUDGET_LATE_STEPS;
    VfetchAppointment *message;
    Event e;

    if (d->gone) {
        return;
    }
    if (QTAILQ_EMPTY(&d->busy) && QTAILQ_EMPTY(&d->due) && !d->steps.made &&
        !d->fault_messages.made) {
        return;
    }
    d->work = 0;
    for (int events = 0; events < BUDGET_EVENTS && d->work < BUDGET_WORK;
         events++) {
        e = next_due(d, now, &late_steps);
        if (e.kind == EV_NONE || e.at > now) {
            break;
        }
        switch (e.kind) {
        case EV_DUE:
            vfetch_transfer_due(QTAILQ_FIRST(&d->due), e.at);
            break;
        case EV_LINK_END:
            link_end(d);
            break;
        case EV_LANE_END:
            lane_end(e.x, e.at);
            break;
        case EV_STEP:
            take_step(d);
            break;
        case EV_FAULT_MESSAGE:
            message = vfetch_agenda_first(&d->fault_messages);
            vfetch_agenda_remove(&d->fault_messages, message);
            vfetch_fault_message_due(message, e.at);
            break;
        case EV_LINK_START:
            link_start(d, e.at);
            break;
        case EV_NONE:
            break;
        }
    }
    vfetch_link_arm(d);
}

void vfetch_link_arm(VfetchDevice *d)
{
    Event e;

    if (d->gone) {
        return;
    }
    e = next_event(d, true, true);
    if (e.at == NEVER) {
        timer_del(d->timer);
    } else {
        timer_mod_ns(d->timer, MAX(e.at, vfetch_now()));
    }
}

static void link_timer(void *opaque)
{
    VfetchDevice *d = opaque;

    vfetch_link_run(d);
    vfetch_messages_send(d);
}

void vfetch_link_init(VfetchDevice *d)
{
    QTAILQ_INIT(&d->busy);
    QTAILQ_INIT(&d->due);
    d->step = g_new0(VfetchStep, 1);
    d->timer = timer_new_ns(QEMU_CLOCK_VIRTUAL, link_timer, d);
}

void vfetch_link_exit(VfetchDevice *d)
{
    timer_free(d->timer);
    d->timer = NULL;
    vfetch_agenda_free(&d->steps);
    vfetch_agenda_free(&d->fault_messages);
    g_free(d->step);
    d->step = NULL;
}
