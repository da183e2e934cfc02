/*
 * vfetch: jobs over arrays, element by element.
 *
 * SPDX-License-Identifier: GPL-2.0
 *
 * include/uapi/linux/vfetch_job.h says what each computes, from which
 * arguments. What is in the space is little-endian.
 */
#include "qemu/osdep.h"
#include "job.h"

/* So many neighbouring results are a strand's own. */
#define CHUNK   64

static void plan(VfetchJob *j, uint64_t results)
{
    j->results = results;
    j->chunk = CHUNK;
}

/* The next results of the chunk whose element of each array is of one page. */
static uint64_t run_length(const VfetchStep *s, unsigned arrays)
{
    const VfetchStrand *strand = s->strand;
    uint64_t n = strand->end - strand->at;

    for (unsigned i = 0; i < arrays; i++) {
        n = MIN(n, elements_of_page(argument(s, i) + 8 * strand->at, 8));
    }
    return n;
}

/* ---- triad -------------------------------------------------------------- */

static void triad_begin(VfetchJob *j)
{
    uint64_t n = j->in.argument[3];

    if (job_array(j, 0, n, 8) && job_array(j, 1, n, 8) &&
        job_array(j, 2, n, 8)) {
        plan(j, n);
    }
}

static bool triad_unit(VfetchStep *s)
{
    VfetchStrand *strand = s->strand;
    uint64_t at = 8 * strand->at;
    uint64_t n = run_length(s, 3);
    double scale = bits_to_double(argument(s, 4));
    const uint8_t *b, *c;
    uint8_t *a;

    b = step_load(s, argument(s, 1) + at, 8 * n);
    c = b ? step_load(s, argument(s, 2) + at, 8 * n) : NULL;
    a = c ? step_store(s, argument(s, 0) + at, 8 * n) : NULL;
    if (!a) {
        return false;
    }
    for (uint64_t i = 0; i < 8 * n; i += 8) {
        put_double(a + i, get_double(b + i) + scale * get_double(c + i));
    }
    strand->at += n;
    s->elements += 3 * n;
    return true;
}

const VfetchKernel vfetch_kernel_triad = {
    .arguments = 5,
    .begin = triad_begin,
    .unit = triad_unit,
};

/* ---- gather, scatter ---------------------------------------------------- */

static void gather_begin(VfetchJob *j)
{
    uint64_t n = j->in.argument[3], m = j->in.argument[4];

    if (job_array(j, 0, m, 8) && job_array(j, 1, n, 4) &&
        job_array(j, 2, n, 8)) {
        plan(j, n);
    }
}

static void scatter_begin(VfetchJob *j)
{
    uint64_t n = j->in.argument[3], m = j->in.argument[4];

    if (job_array(j, 0, n, 8) && job_array(j, 1, n, 4) &&
        job_array(j, 2, m, 8)) {
        plan(j, n);
    }
}

/* Moves one element; one of its two places is the index's. */
static bool move_unit(VfetchStep *s, bool gather)
{
    VfetchStrand *strand = s->strand;
    unsigned there = gather ? 0 : 2;
    const uint8_t *index, *in;
    uint64_t from, to;
    uint8_t *out;
    uint32_t i;

    index = step_load(s, argument(s, 1) + 4 * strand->at, 4);
    if (!index) {
        return false;
    }
    i = ldl_le_p(index);
    if (i >= argument(s, 4)) {
        return step_error(s, VFETCH_STATUS_SPACE_RANGE,
                          argument(s, there) + 8 * (uint64_t)i);
    }
    from = argument(s, 0) + 8 * (gather ? i : strand->at);
    to = argument(s, 2) + 8 * (gather ? strand->at : i);
    in = step_load(s, from, 8);
    out = in ? step_store(s, to, 8) : NULL;
    if (!out) {
        return false;
    }
    memmove(out, in, 8);
    strand->at++;
    s->elements += 3;
    return true;
}

static bool gather_unit(VfetchStep *s)
{
    return move_unit(s, true);
}

static bool scatter_unit(VfetchStep *s)
{
    return move_unit(s, false);
}

const VfetchKernel vfetch_kernel_gather = {
    .arguments = 5,
    .begin = gather_begin,
    .unit = gather_unit,
};

const VfetchKernel vfetch_kernel_scatter = {
    .arguments = 5,
    .begin = scatter_begin,
    .unit = scatter_unit,
};

/* ---- reduce, stamp, check ----------------------------------------------- */

static void words_begin(VfetchJob *j)
{
    uint64_t n = j->in.argument[1];

    if (job_array(j, 0, n, 8)) {
        plan(j, n);
    }
}

/* The strand's next words, which are loaded, and how many they are. */
static const uint8_t *words_load(VfetchStep *s, uint64_t *n)
{
    *n = run_length(s, 1);
    return step_load(s, argument(s, 0) + 8 * s->strand->at, 8 * *n);
}

static bool words_done(VfetchStep *s, uint64_t n)
{
    s->strand->at += n;
    s->elements += n;
    return true;
}

static bool reduce_unit(VfetchStep *s)
{
    uint64_t n;
    const uint8_t *in = words_load(s, &n);

    if (!in) {
        return false;
    }
    for (uint64_t i = 0; i < n; i++) {
        s->job->value += ldq_le_p(in + 8 * i);
    }
    return words_done(s, n);
}

static bool stamp_unit(VfetchStep *s)
{
    uint64_t at = s->strand->at;
    uint64_t n = run_length(s, 1);
    uint8_t *out = step_store(s, argument(s, 0) + 8 * at, 8 * n);

    if (!out) {
        return false;
    }
    for (uint64_t i = 0; i < n; i++) {
        stq_le_p(out + 8 * i,
                 VFETCH_JOB_STAMPED(argument(s, 2) + at + i, argument(s, 3)));
    }
    return words_done(s, n);
}

static bool check_unit(VfetchStep *s)
{
    uint64_t at = s->strand->at;
    uint64_t lowest = argument(s, 3), highest = argument(s, 4);
    uint64_t n;
    const uint8_t *in = words_load(s, &n);

    if (!in) {
        return false;
    }
    for (uint64_t i = 0; i < n; i++) {
        uint64_t word = ldq_le_p(in + 8 * i);
        uint64_t generation = word >> 40;
        bool right = word == VFETCH_JOB_STAMPED(argument(s, 2) + at + i,
                                                generation) &&
                     generation >= lowest && generation <= highest;

        s->job->value += !right && !(word == 0 && lowest == 0);
    }
    return words_done(s, n);
}

const VfetchKernel vfetch_kernel_reduce = {
    .arguments = 2,
    .begin = words_begin,
    .unit = reduce_unit,
};

const VfetchKernel vfetch_kernel_stamp = {
    .arguments = 4,
    .begin = words_begin,
    .unit = stamp_unit,
};

const VfetchKernel vfetch_kernel_check = {
    .arguments = 5,
    .begin = words_begin,
    .unit = check_unit,
};
