/*
 * vfetch: page faults.
 *
 * SPDX-License-Identifier: GPL-2.0
 *
 * A strand that misses a page is on one of two lists until a replay: `told`
 * when a record in the ring says so, `untold` while the ring has no room for
 * it, is off or has stopped. So no fault is lost, whatever the driver does with
 * the ring; and a replay of the space lets both try again.
 */
#include "qemu/osdep.h"
#include "qemu/atomic.h"
#include "qemu/bswap.h"
#include "qemu/log.h"
#include "job.h"

static uint32_t ring_entries(const VfetchFaultRing *r)
{
    return 1u << r->order;
}

static bool ring_full(const VfetchFaultRing *r)
{
    return r->tail - r->head >= ring_entries(r);
}

/* ---- messages ----------------------------------------------------------- */

static void notify(VfetchFunction *f)
{
    VfetchFaultRing *r = &f->ring;

    r->armed = false;
    vfetch_agenda_remove(&f->dev->fault_messages, &r->message);
    if (r->quiet) {
        r->quiet = false;
    } else {
        vfetch_message(f, r->vector);
    }
}

/* Sends the message, or sees to it that it is sent when it is time. */
static void message_plan(VfetchFunction *f, int64_t now)
{
    VfetchFaultRing *r = &f->ring;
    uint64_t pending = r->tail - r->head;
    int64_t at;

    vfetch_agenda_remove(&f->dev->fault_messages, &r->message);
    if (!r->enabled || !r->armed) {
        return;
    }
    if (r->stop_untold) {
        r->stop_untold = false;
        notify(f);
        return;
    }
    if (!pending) {
        return;
    }
    at = r->written[r->head & (ring_entries(r) - 1)] + r->wait_ns;
    if (pending >= MAX(r->min, 1) || ring_full(r) || at <= now) {
        notify(f);
    } else {
        vfetch_agenda_add(&f->dev->fault_messages, &r->message, at);
    }
}

void vfetch_fault_message_due(VfetchAppointment *e, int64_t now)
{
    VfetchFaultRing *r = container_of(e, VfetchFaultRing, message);

    notify(container_of(r, VfetchFunction, ring));
}

/* ---- records ------------------------------------------------------------ */

static void ring_error(VfetchFunction *f, uint8_t error, int64_t now)
{
    VfetchFaultRing *r = &f->ring;

    if (r->error != VFETCH_FERR_NONE) {
        return;
    }
    qemu_log_mask(LOG_GUEST_ERROR, "vfetch: function %u, fault ring: error %u\n",
                  f->index, error);
    r->error = error;
    r->stop_untold = r->enabled;
    message_plan(f, now);
}

/* As a completion: the phase last. */
static bool write_record(VfetchFunction *f, struct vfetch_fault *record,
                         int64_t now)
{
    VfetchFaultRing *r = &f->ring;
    uint32_t slot = r->tail & (ring_entries(r) - 1);
    uint64_t addr = r->base + slot * sizeof(*record);
    uint16_t phase = (r->tail >> r->order) & 1 ? 0 : VFETCH_PHASE;

    record->phase = cpu_to_le16(phase ^ VFETCH_PHASE);
    if (!vfetch_dma_write(f, addr, record, sizeof(*record))) {
        return false;
    }
    /* The host's reader: phase first, smp_rmb(), then the rest. */
    smp_wmb();
    phase = cpu_to_le16(phase);
    if (!vfetch_dma_write(f, addr + offsetof(struct vfetch_fault, phase),
                          &phase, sizeof(phase))) {
        return false;
    }
    r->written[slot] = now;
    r->tail++;
    f->count.faults++;
    return true;
}

static bool tell(VfetchFunction *f, const VfetchStrand *s, int64_t now)
{
    VfetchFaultRing *r = &f->ring;
    VfetchFaults rules = { 0 };
    struct vfetch_fault record = {
        .page = cpu_to_le64(s->page),
        .time_ns = cpu_to_le64(s->since),
        .job = cpu_to_le64(s->job->x->transaction),
        .asid = cpu_to_le16(s->job->as.asid),
        .strand = cpu_to_le16(s->index),
        .access = s->access,
        .reason = s->reason,
    };
    struct vfetch_fault extra = record;

    vfetch_fault_apply_record(f, &rules);
    if (rules.kinds & (1u << VFETCH_FAULT_RECORD_QUIET)) {
        r->quiet = true;
    }
    if (!write_record(f, &record, now)) {
        return false;
    }
    /* What rules add is not worth waiting for. */
    if ((rules.kinds & (1u << VFETCH_FAULT_RECORD_TWICE)) && !ring_full(r) &&
        !write_record(f, &extra, now)) {
        return false;
    }
    if ((rules.kinds & (1u << VFETCH_FAULT_RECORD_SPURIOUS)) && !ring_full(r)) {
        extra.page = cpu_to_le64(rules.arg[VFETCH_FAULT_RECORD_SPURIOUS]);
        return write_record(f, &extra, now);
    }
    return true;
}

/* Writes the records of those that wait for it, as far as there is room. */
static void tell_all(VfetchFunction *f, int64_t now)
{
    VfetchFaultRing *r = &f->ring;
    VfetchStrand *s;

    while (r->enabled && !r->error && !ring_full(r) &&
           (s = QTAILQ_FIRST(&r->untold))) {
        if (!tell(f, s, now)) {
            ring_error(f, VFETCH_FERR_WRITE, now);
            return;
        }
        QTAILQ_REMOVE(&r->untold, s, fault_link);
        QTAILQ_INSERT_TAIL(&r->told, s, fault_link);
        s->told = true;
    }
    message_plan(f, now);
}

/* @s misses its `page`, and waits. */
void vfetch_fault_report(VfetchStrand *s, int64_t now)
{
    VfetchFunction *f = s->job->fn;

    s->faulted = true;
    s->told = false;
    s->since = now;
    QTAILQ_INSERT_TAIL(&f->ring.untold, s, fault_link);
    tell_all(f, now);
}

/* @s waits no more. */
void vfetch_fault_forget(VfetchStrand *s, int64_t now)
{
    VfetchFunction *f = s->job->fn;
    VfetchFaultRing *r = &f->ring;

    QTAILQ_REMOVE(s->told ? &r->told : &r->untold, s, fault_link);
    s->faulted = false;
    f->count.fault_wait_strand_ns += now - s->since;
}

/* ---- doorbells and control ---------------------------------------------- */

static void replay_list(VfetchStrandList *list, uint32_t asid, int64_t now)
{
    VfetchStrand *s, *next;

    QTAILQ_FOREACH_SAFE(s, list, fault_link, next) {
        if (asid == VFETCH_AS_ALL || asid == s->job->as.asid) {
            vfetch_fault_forget(s, now);
            vfetch_strand_retry(s, now);
        }
    }
}

static void replay(VfetchFunction *f, uint32_t asid)
{
    int64_t now = vfetch_now();

    f->count.replays++;
    replay_list(&f->ring.told, asid, now);
    replay_list(&f->ring.untold, asid, now);
}

static void set_head(VfetchFunction *f, uint32_t value)
{
    VfetchFaultRing *r = &f->ring;
    uint32_t taken = (uint16_t)(value - (uint16_t)r->head);
    int64_t now = vfetch_now();

    if (!r->enabled) {
        return;
    }
    if ((value & ~(VFETCH_INDEX_MASK | VFETCH_FAULT_DISARM)) ||
        taken > r->tail - r->head) {
        ring_error(f, VFETCH_FERR_HEAD, now);
        return;
    }
    r->head += taken;
    r->armed = !(value & VFETCH_FAULT_DISARM);
    tell_all(f, now);
}

static bool config_valid(const VfetchFaultRing *r)
{
    return r->order >= VFETCH_MIN_ORDER && r->order <= VFETCH_FAULT_MAX_ORDER &&
           r->vector < VFETCH_MSIX_VECTORS && r->base % 64 == 0 &&
           r->base <= UINT64_MAX -
                      (ring_entries(r) * sizeof(struct vfetch_fault) - 1);
}

static void ring_off(VfetchFunction *f)
{
    VfetchFaultRing *r = &f->ring;

    r->enabled = false;
    r->error = VFETCH_FERR_NONE;
    r->head = 0;
    r->tail = 0;
    r->armed = false;
    r->quiet = false;
    r->stop_untold = false;
    g_free(r->written);
    r->written = NULL;
    vfetch_agenda_remove(&f->dev->fault_messages, &r->message);
}

static void control(VfetchFunction *f, uint32_t value)
{
    VfetchFaultRing *r = &f->ring;
    int64_t now = vfetch_now();

    if (value & VFETCH_FCTL_RESET) {
        ring_off(f);
    } else if ((value & VFETCH_FCTL_ENABLE) && !r->enabled && !r->error) {
        if (!config_valid(r)) {
            ring_error(f, VFETCH_FERR_CONFIG, now);
            return;
        }
        r->written = g_new0(int64_t, ring_entries(r));
        r->enabled = true;
        r->armed = true;
        tell_all(f, now);
    }
}

/* ---- registers ---------------------------------------------------------- */

bool vfetch_fault_read32(VfetchFunction *f, hwaddr addr, uint32_t *val)
{
    const VfetchFaultRing *r = &f->ring;

    switch (addr) {
    case VFETCH_REG_FAULT_ORDER:
        *val = r->order;
        return true;
    case VFETCH_REG_FAULT_VECTOR:
        *val = r->vector;
        return true;
    case VFETCH_REG_FAULT_STATUS:
        *val = (r->enabled ? VFETCH_FSTAT_ENABLED : 0) |
               (r->error << VFETCH_FSTAT_ERROR_SHIFT);
        return true;
    case VFETCH_REG_FAULT_TAIL:
        *val = r->tail & VFETCH_INDEX_MASK;
        return true;
    case VFETCH_REG_FAULT_MIN:
        *val = r->min;
        return true;
    case VFETCH_REG_FAULT_WAIT_NS:
        *val = r->wait_ns;
        return true;
    case VFETCH_REG_FAULT_CONTROL:
    case VFETCH_REG_FAULT_HEAD:
    case VFETCH_REG_FAULT_REPLAY:
        *val = 0;
        return true;
    default:
        return false;
    }
}

bool vfetch_fault_write32(VfetchFunction *f, hwaddr addr, uint32_t val)
{
    VfetchFaultRing *r = &f->ring;

    switch (addr) {
    case VFETCH_REG_FAULT_ORDER:
        r->order = r->enabled ? r->order : val;
        return true;
    case VFETCH_REG_FAULT_VECTOR:
        r->vector = r->enabled ? r->vector : val;
        return true;
    case VFETCH_REG_FAULT_CONTROL:
        control(f, val);
        return true;
    case VFETCH_REG_FAULT_HEAD:
        set_head(f, val);
        return true;
    case VFETCH_REG_FAULT_MIN:
        r->min = val;
        message_plan(f, vfetch_now());
        return true;
    case VFETCH_REG_FAULT_WAIT_NS:
        r->wait_ns = val;
        message_plan(f, vfetch_now());
        return true;
    case VFETCH_REG_FAULT_REPLAY:
        replay(f, val);
        return true;
    default:
        return false;
    }
}

/* ---- functions ---------------------------------------------------------- */

void vfetch_fault_ring_init(VfetchFunction *f)
{
    QTAILQ_INIT(&f->ring.told);
    QTAILQ_INIT(&f->ring.untold);
}

void vfetch_fault_ring_reset(VfetchFunction *f)
{
    VfetchFaultRing *r = &f->ring;

    ring_off(f);
    r->base = 0;
    r->order = 0;
    r->vector = 0;
    r->min = 0;
    r->wait_ns = 0;
}
