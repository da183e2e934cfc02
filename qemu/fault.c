/*
 * vfetch: faults on demand.
 *
 * SPDX-License-Identifier: GPL-2.0
 *
 * Rules are armed through BAR5 (x-test=on) or through QMP:
 *
 *   qom-set PATH x-inject "function=1,kind=drop,queue=0,skip=2,count=1"
 *   qom-set PATH x-inject "clear,function=1"
 *
 * They are looked at once for each descriptor, when it is fetched, so that
 * what they hit does not depend on timing.
 */
#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "vfetch.h"

static const char *const kind_names[VFETCH_FAULT_KINDS + 1] = {
    [VFETCH_FAULT_DROP] = "drop",
    [VFETCH_FAULT_DELAY] = "delay",
    [VFETCH_FAULT_DUPLICATE] = "duplicate",
    [VFETCH_FAULT_CORRUPT] = "corrupt",
    [VFETCH_FAULT_LATE_DATA] = "late-data",
    [VFETCH_FAULT_FAIL] = "fail",
    [VFETCH_FAULT_STUCK] = "stuck",
    [VFETCH_FAULT_WEDGED] = "wedged",
    [VFETCH_FAULT_NO_INTERRUPT] = "no-interrupt",
    [VFETCH_FAULT_RECORD_TWICE] = "record-twice",
    [VFETCH_FAULT_RECORD_SPURIOUS] = "record-spurious",
    [VFETCH_FAULT_RECORD_QUIET] = "record-quiet",
};

#define LAST_OPCODE VFETCH_OP_JOB

static const char *const opcode_names[LAST_OPCODE + 1] = {
    "any",
    [VFETCH_OP_READ] = "read",
    [VFETCH_OP_WRITE] = "write",
    [VFETCH_OP_FILL] = "fill",
    [VFETCH_OP_COPY] = "copy",
    [VFETCH_OP_FENCE] = "fence",
    [VFETCH_OP_INVALIDATE] = "invalidate",
    [VFETCH_OP_CANCEL] = "cancel",
    [VFETCH_OP_JOB] = "job",
};

/* Rules of these kinds are for records of the fault ring. */
static bool for_records(const VfetchRule *r)
{
    return r->kind >= VFETCH_FAULT_RECORD_TWICE;
}

/* @r matches: it lets pass, or hits, maybe for the last time. */
static void rule_hits(VfetchDevice *d, VfetchRule *r, VfetchFaults *faults,
                      bool *spent)
{
    *spent = false;
    if (r->skip) {
        r->skip--;
        return;
    }
    faults->kinds |= 1u << r->kind;
    faults->arg[r->kind] = r->arg;
    d->hits[r->function][r->kind]++;
    *spent = r->count != VFETCH_TEST_ANY && --r->count == 0;
}

/* Notes what the rules want done to the next record of @f's fault ring. */
void vfetch_fault_apply_record(VfetchFunction *f, VfetchFaults *faults)
{
    VfetchDevice *d = f->dev;
    uint32_t kept = 0;

    for (uint32_t i = 0; i < d->rules; i++) {
        VfetchRule *r = &d->rule[i];
        bool spent = false;

        if (r->function == f->index && for_records(r)) {
            rule_hits(d, r, faults, &spent);
        }
        if (!spent) {
            d->rule[kept++] = *r;
        }
    }
    d->rules = kept;
}

/* Notes on @x what the rules want done to it. */
void vfetch_fault_apply(VfetchTransfer *x)
{
    VfetchQueue *q = x->queue;
    VfetchDevice *d = q->fn->dev;
    uint32_t kept = 0;
    VfetchFaults faults = { 0 };

    for (uint32_t i = 0; i < d->rules; i++) {
        VfetchRule *r = &d->rule[i];
        bool spent = false;

        if (r->function == q->fn->index && !for_records(r) &&
            (r->queue == VFETCH_TEST_ANY || r->queue == q->index) &&
            (!r->opcode || r->opcode == x->opcode)) {
            rule_hits(d, r, &faults, &spent);
        }
        if (!spent) {
            d->rule[kept++] = *r;
        }
    }
    d->rules = kept;

    if (faults.kinds) {
        x->faults = g_memdup2(&faults, sizeof(faults));
    }
    if (vfetch_fault(x, VFETCH_FAULT_FAIL)) {
        x->status = x->faults->arg[VFETCH_FAULT_FAIL] ?: VFETCH_STATUS_FAILED;
        x->service = VFETCH_AT_ONCE;
    }
}

/* 0 or a negative errno. */
static int rule_arm(VfetchDevice *d, const VfetchRule *r)
{
    if (r->function > d->total_vfs ||
        r->kind < 1 || r->kind > VFETCH_FAULT_KINDS ||
        r->opcode > LAST_OPCODE || !r->count ||
        (r->queue != VFETCH_TEST_ANY && r->queue >= d->queues) ||
        (r->kind == VFETCH_FAULT_FAIL && r->arg > UINT16_MAX)) {
        return -EINVAL;
    }
    if (d->rules == VFETCH_TEST_RULES) {
        return -ENOSPC;
    }
    d->rule[d->rules++] = *r;
    return 0;
}

/* Completions and data that were put off are due now; stuck queues go on. */
static void release(VfetchDevice *d, VfetchFunction *f)
{
    VfetchTransferList due = QTAILQ_HEAD_INITIALIZER(due);
    VfetchTransfer *x, *next;
    int64_t now = vfetch_now();

    QTAILQ_FOREACH_SAFE(x, &d->due, due_link, next) {
        if (x->queue->fn == f &&
            (x->state == VFETCH_DELAYED || x->state == VFETCH_LATE)) {
            vfetch_due_remove(x);
            QTAILQ_INSERT_TAIL(&due, x, due_link);
        }
    }
    QTAILQ_FOREACH_SAFE(x, &due, due_link, next) {
        QTAILQ_REMOVE(&due, x, due_link);
        vfetch_due_add(x, now);
    }
    for (uint32_t i = 0; i < d->queues; i++) {
        if (f->queue[i].stuck) {
            vfetch_queue_release(&f->queue[i], now);
        }
    }
}

static int rules_clear(VfetchDevice *d, uint32_t function)
{
    uint32_t kept = 0;

    if (function > d->total_vfs || !d->fn[function]) {
        return -EINVAL;
    }
    for (uint32_t i = 0; i < d->rules; i++) {
        if (d->rule[i].function != function) {
            d->rule[kept++] = d->rule[i];
        }
    }
    d->rules = kept;
    memset(d->hits[function], 0, sizeof(d->hits[function]));
    release(d, d->fn[function]);
    return 0;
}

/* ---- BAR5 --------------------------------------------------------------- */

static uint32_t *test_reg32(VfetchDevice *d, hwaddr addr)
{
    switch (addr) {
    case VFETCH_TEST_FUNCTION:
        return &d->test_rule.function;
    case VFETCH_TEST_QUEUE:
        return &d->test_rule.queue;
    case VFETCH_TEST_OPCODE:
        return &d->test_rule.opcode;
    case VFETCH_TEST_KIND:
        return &d->test_rule.kind;
    case VFETCH_TEST_SKIP:
        return &d->test_rule.skip;
    case VFETCH_TEST_COUNT:
        return &d->test_rule.count;
    default:
        return NULL;
    }
}

static uint32_t test_hits(VfetchDevice *d)
{
    const VfetchRule *r = &d->test_rule;

    return r->function <= d->total_vfs && r->kind <= VFETCH_FAULT_KINDS
           ? d->hits[r->function][r->kind] : 0;
}

static uint64_t test_read(void *opaque, hwaddr addr, unsigned size)
{
    VfetchDevice *d = opaque;
    bool whole = (size == 4 || size == 8) && addr % size == 0;
    uint32_t *reg;

    if (vfetch_ignores_access(d) || !whole) {
        return vfetch_ones(size);
    }
    if ((addr & ~UINT64_C(7)) == VFETCH_TEST_ARG) {
        return vfetch_half_read(d->test_rule.arg, addr, size);
    }
    if (size != 4) {
        return vfetch_ones(size);
    }
    reg = test_reg32(d, addr);
    if (reg) {
        return *reg;
    }
    switch (addr) {
    case VFETCH_TEST_ID:
        return VFETCH_ID;
    case VFETCH_TEST_COMMAND:
        return 0;
    case VFETCH_TEST_RESULT:
        return d->test_result;
    case VFETCH_TEST_HITS:
        return test_hits(d);
    default:
        return vfetch_ones(size);
    }
}

static void test_write(void *opaque, hwaddr addr, uint64_t val, unsigned size)
{
    VfetchDevice *d = opaque;
    bool whole = (size == 4 || size == 8) && addr % size == 0;
    int err = -EINVAL;
    uint32_t *reg;

    if (vfetch_ignores_access(d) || !whole) {
        return;
    }
    if ((addr & ~UINT64_C(7)) == VFETCH_TEST_ARG) {
        d->test_rule.arg = vfetch_half_write(d->test_rule.arg, addr, val, size);
        return;
    }
    if (size != 4) {
        return;
    }
    reg = test_reg32(d, addr);
    if (reg) {
        *reg = val;
    } else if (addr == VFETCH_TEST_COMMAND) {
        vfetch_link_run(d);
        if (val == VFETCH_TEST_ARM) {
            err = rule_arm(d, &d->test_rule);
        } else if (val == VFETCH_TEST_CLEAR) {
            err = rules_clear(d, d->test_rule.function);
        }
        d->test_result = -err;
        vfetch_link_run(d);
        vfetch_link_arm(d);
        vfetch_messages_send(d);
    }
}

static const MemoryRegionOps test_ops =
    VFETCH_REGION_OPS(test_read, test_write);

void vfetch_fault_regs_init(VfetchDevice *d)
{
    memory_region_init_io(&d->test_regs, OBJECT(d), &test_ops, d,
                          "vfetch-test", VFETCH_BAR_TEST_BYTES);
}

/* ---- QMP ---------------------------------------------------------------- */

static bool parse_number(const char *key, const char *text, uint64_t most,
                         uint64_t *value, Error **errp)
{
    if (qemu_strtou64(text, NULL, 0, value) < 0 || *value > most) {
        error_setg(errp, "x-inject: %s='%s' is not a number up to %" PRIu64,
                   key, text, most);
        return false;
    }
    return true;
}

static bool parse_name(const char *key, const char *text,
                       const char *const *names, size_t n, uint32_t *value,
                       Error **errp)
{
    uint64_t number;

    for (size_t i = 0; i < n; i++) {
        if (names[i] && !strcmp(names[i], text)) {
            *value = i;
            return true;
        }
    }
    if (!parse_number(key, text, n - 1, &number, errp)) {
        return false;
    }
    *value = number;
    return true;
}

static bool parse_field(VfetchRule *r, const char *key, const char *value,
                        Error **errp)
{
    uint32_t *field = NULL;
    uint64_t number;

    if (!strcmp(key, "kind")) {
        return parse_name(key, value, kind_names, ARRAY_SIZE(kind_names),
                          &r->kind, errp);
    }
    if (!strcmp(key, "opcode")) {
        return parse_name(key, value, opcode_names, ARRAY_SIZE(opcode_names),
                          &r->opcode, errp);
    }
    if (!strcmp(key, "arg")) {
        return parse_number(key, value, UINT64_MAX, &r->arg, errp);
    }
    if (!strcmp(key, "function")) {
        field = &r->function;
    } else if (!strcmp(key, "queue")) {
        field = &r->queue;
    } else if (!strcmp(key, "skip")) {
        field = &r->skip;
    } else if (!strcmp(key, "count")) {
        field = &r->count;
    } else {
        error_setg(errp, "x-inject: unknown key '%s'; known are function, "
                   "kind, queue, opcode, skip, count, arg", key);
        return false;
    }
    if (field != &r->function && field != &r->skip && !strcmp(value, "any")) {
        *field = VFETCH_TEST_ANY;
        return true;
    }
    if (!parse_number(key, value, UINT32_MAX, &number, errp)) {
        return false;
    }
    *field = number;
    return true;
}

static void inject_set(Object *obj, const char *text, Error **errp)
{
    VfetchDevice *d = VFETCH(obj);
    VfetchRule r = { .queue = VFETCH_TEST_ANY, .count = 1 };
    g_auto(GStrv) fields = g_strsplit(text, ",", -1);
    bool clear = false;
    int err;

    if (!qdev_is_realized(DEVICE(obj)) || d->gone) {
        error_setg(errp, "x-inject: the device is not there");
        return;
    }
    for (char **field = fields; *field; field++) {
        char *value = strchr(*field, '=');

        if (!strcmp(*field, "clear")) {
            clear = true;
            continue;
        }
        if (!value) {
            error_setg(errp, "x-inject: '%s' is neither 'clear' nor key=value",
                       *field);
            return;
        }
        *value++ = '\0';
        if (!parse_field(&r, *field, value, errp)) {
            return;
        }
    }

    vfetch_link_run(d);
    err = clear ? rules_clear(d, r.function) : rule_arm(d, &r);
    vfetch_link_run(d);
    vfetch_link_arm(d);
    vfetch_messages_send(d);
    if (err == -ENOSPC) {
        error_setg(errp, "x-inject: %d rules are armed; clear some",
                   VFETCH_TEST_RULES);
    } else if (err) {
        error_setg(errp, "x-inject: no such function, queue or kind, or a "
                   "count of 0, or a status above 65535");
    }
}

/* One line for each rule that is armed and each kind that has hit. */
static char *inject_get(Object *obj, Error **errp)
{
    VfetchDevice *d = VFETCH(obj);
    GString *s = g_string_new(NULL);

    for (uint32_t i = 0; i < d->rules; i++) {
        const VfetchRule *r = &d->rule[i];

        g_string_append_printf(s, "rule function=%u,kind=%s,", r->function,
                               kind_names[r->kind]);
        if (r->queue != VFETCH_TEST_ANY) {
            g_string_append_printf(s, "queue=%u,", r->queue);
        }
        g_string_append_printf(s, "opcode=%s,skip=%u,",
                               opcode_names[r->opcode], r->skip);
        if (r->count != VFETCH_TEST_ANY) {
            g_string_append_printf(s, "count=%u,", r->count);
        } else {
            g_string_append(s, "count=any,");
        }
        g_string_append_printf(s, "arg=%" PRIu64 "\n", r->arg);
    }
    for (uint32_t f = 0; f <= d->total_vfs && f <= VFETCH_MAX_VFS; f++) {
        for (int k = 1; k <= VFETCH_FAULT_KINDS; k++) {
            if (d->hits[f][k]) {
                g_string_append_printf(s, "hits function=%u,kind=%s,count=%u\n",
                                       f, kind_names[k], d->hits[f][k]);
            }
        }
    }
    return g_string_free(s, FALSE);
}

void vfetch_fault_class_init(ObjectClass *klass)
{
    object_class_property_add_str(klass, "x-inject", inject_get, inject_set);
    object_class_property_set_description(klass, "x-inject",
        "Faults on demand: function=N,kind=KIND[,queue=][,opcode=][,skip=]"
        "[,count=][,arg=], or clear,function=N");
}
