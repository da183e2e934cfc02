/*
 * vfetch: jobs over graphs and sparse matrices in compressed rows.
 *
 * SPDX-License-Identifier: GPL-2.0
 *
 * include/uapi/linux/vfetch_job.h says what each computes, from which
 * arguments. A row is begun, gone through entry by entry, and ended, each a unit
 * of its own: a row may be longer than a step. How many entries there are is
 * only known from the rows, so each access of them is checked.
 */
#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "job.h"

/* Rows of a chunk. */
#define CHUNK   16

/* Element @i of the array that argument @array is; it may be beyond all. */
static const void *load_element(VfetchStep *s, unsigned array, uint64_t i,
                                uint32_t size)
{
    uint64_t start = argument(s, array);

    if (i >= (s->job->bytes - start) / size) {
        step_error(s, VFETCH_STATUS_SPACE_RANGE, MAX(start, s->job->bytes));
        return NULL;
    }
    return step_load(s, start + size * i, size);
}

static bool load_u32(VfetchStep *s, unsigned array, uint64_t i, uint32_t *value)
{
    const void *p = load_element(s, array, i, 4);

    if (p) {
        *value = ldl_le_p(p);
    }
    return p;
}

static bool load_u64(VfetchStep *s, unsigned array, uint64_t i, uint64_t *value)
{
    const void *p = load_element(s, array, i, 8);

    if (p) {
        *value = ldq_le_p(p);
    }
    return p;
}

static bool load_f64(VfetchStep *s, unsigned array, uint64_t i, double *value)
{
    const void *p = load_element(s, array, i, 8);

    if (p) {
        *value = get_double(p);
    }
    return p;
}

/* Row @row of argument 0: its entries are pos[0] to before pos[1]. */
static bool row_begin(VfetchStep *s, uint64_t row)
{
    VfetchStrand *strand = s->strand;
    uint64_t first, end;

    if (!load_u64(s, 0, row, &first) || !load_u64(s, 0, row + 1, &end)) {
        return false;
    }
    if (end < first) {
        return step_error(s, VFETCH_STATUS_JOB, argument(s, 0) + 8 * (row + 1));
    }
    strand->pos[0] = first;
    strand->pos[1] = end;
    strand->sum = 0;
    strand->begun = true;
    s->elements += 2;
    return true;
}

static void row_end(VfetchStep *s)
{
    s->strand->begun = false;
    s->strand->at++;
}

/* The row's result, which ends it. */
static bool row_result(VfetchStep *s, unsigned array, double result)
{
    void *to = step_store(s, argument(s, array) + 8 * s->strand->at, 8);

    if (!to) {
        return false;
    }
    put_double(to, result);
    s->elements++;
    row_end(s);
    return true;
}

/* The next entry's column, which must be below @columns of array @of. */
static bool load_column(VfetchStep *s, uint64_t columns, unsigned of,
                        uint32_t size, uint32_t *column)
{
    if (!load_u32(s, 1, s->strand->pos[0], column)) {
        return false;
    }
    if (*column >= columns) {
        return step_error(s, VFETCH_STATUS_SPACE_RANGE,
                          argument(s, of) + (uint64_t)size * *column);
    }
    return true;
}

/* ---- sparse matrix by vector -------------------------------------------- */

/* row, col, val, x, y, n, columns */

static void spmv_begin(VfetchJob *j)
{
    uint64_t n = j->in.argument[5];

    if (job_array(j, 0, n, 8) && job_array(j, 0, n + 1, 8) &&
        job_array(j, 1, 0, 4) && job_array(j, 2, 0, 8) &&
        job_array(j, 3, j->in.argument[6], 8) && job_array(j, 4, n, 8)) {
        j->results = n;
        j->chunk = CHUNK;
    }
}

static bool spmv_unit(VfetchStep *s)
{
    VfetchStrand *strand = s->strand;
    uint32_t column;
    double value, x;

    if (!strand->begun) {
        return row_begin(s, strand->at);
    }
    if (strand->pos[0] == strand->pos[1]) {
        return row_result(s, 4, strand->sum);
    }
    if (!load_column(s, argument(s, 6), 3, 8, &column) ||
        !load_f64(s, 2, strand->pos[0], &value) ||
        !load_f64(s, 3, column, &x)) {
        return false;
    }
    strand->sum += value * x;
    strand->pos[0]++;
    s->elements += 3;
    return true;
}

const VfetchKernel vfetch_kernel_spmv = {
    .arguments = 7,
    .begin = spmv_begin,
    .unit = spmv_unit,
};

/* ---- page rank ---------------------------------------------------------- */

/* row, col, degree, from, to, n, iterations, d */

static void pagerank_begin(VfetchJob *j)
{
    uint64_t n = j->in.argument[5];

    if (job_array(j, 0, n, 8) && job_array(j, 0, n + 1, 8) &&
        job_array(j, 1, 0, 4) && job_array(j, 2, n, 4) &&
        job_array(j, 3, n, 8) && job_array(j, 4, n, 8)) {
        j->results = j->in.argument[6] ? n : 0;
        j->chunk = CHUNK;
    }
}

static bool pagerank_next_phase(VfetchJob *j)
{
    return j->phase + 1 < j->in.argument[6];
}

static bool pagerank_unit(VfetchStep *s)
{
    VfetchStrand *strand = s->strand;
    bool odd = s->job->phase & 1;
    uint64_t n = argument(s, 5);
    double d = bits_to_double(argument(s, 7));
    uint32_t u, degree;
    double rank;

    if (!strand->begun) {
        return row_begin(s, strand->at);
    }
    if (strand->pos[0] == strand->pos[1]) {
        return row_result(s, odd ? 3 : 4, (1 - d) / n + d * strand->sum);
    }
    if (!load_column(s, n, 3, 8, &u) || !load_u32(s, 2, u, &degree) ||
        !load_f64(s, odd ? 4 : 3, u, &rank)) {
        return false;
    }
    strand->sum += rank / degree;
    strand->pos[0]++;
    s->elements += 3;
    return true;
}

const VfetchKernel vfetch_kernel_pagerank = {
    .arguments = 8,
    .begin = pagerank_begin,
    .unit = pagerank_unit,
    .next_phase = pagerank_next_phase,
};

/* ---- breadth-first search ----------------------------------------------- */

/* row, col, level, n, source */

#define UNREACHED   0xffffffff

/*
 * The device keeps a bit for each vertex and two lists of them: more than its
 * memory has room for, at 8 bytes a vertex, it does not search.
 */
static void bfs_begin(VfetchJob *j)
{
    uint64_t n = j->in.argument[3];

    if (n > j->fn->size / 8 || n > UNREACHED) {
        job_bad(j, 3);
    } else if (n && j->in.argument[4] >= n) {
        job_bad(j, 4);
    } else if (job_array(j, 0, n + 1, 8) && job_array(j, 1, 0, 4) &&
               job_array(j, 2, n, 4)) {
        j->results = n;
        j->chunk = 4 * CHUNK;
    }
}

/* The vertex is of the next level. */
static void bfs_found(VfetchJob *j, uint32_t vertex)
{
    if (j->founds == j->found_room) {
        j->found_room = MAX(1024, 2 * j->found_room);
        j->found = g_renew(uint32_t, j->found, j->found_room);
    }
    j->found[j->founds++] = vertex;
    set_bit(vertex, j->seen);
    j->value++;
}

/* Phase 0 fills in the levels, phase 1 begins at the source. */
static bool bfs_next_phase(VfetchJob *j)
{
    if (j->phase == 0) {
        j->seen = bitmap_new(j->in.argument[3]);
        bfs_found(j, j->in.argument[4]);
    }
    g_free(j->front);
    j->front = j->found;
    j->fronts = j->founds;
    j->found = NULL;
    j->founds = 0;
    j->found_room = 0;
    j->results = j->fronts;
    j->chunk = 1;
    return j->fronts;
}

/* Levels of the chunk: the source's is 0. */
static bool bfs_fill(VfetchStep *s)
{
    VfetchStrand *strand = s->strand;
    uint64_t offset = argument(s, 2) + 4 * strand->at;
    uint64_t n = MIN(strand->end - strand->at, elements_of_page(offset, 4));
    uint8_t *to = step_store(s, offset, 4 * n);

    if (!to) {
        return false;
    }
    for (uint64_t i = 0; i < n; i++) {
        stl_le_p(to + 4 * i, strand->at + i == argument(s, 4) ? 0 : UNREACHED);
    }
    strand->at += n;
    s->elements += n;
    return true;
}

/* An edge to @v, whose level is looked at, and set if it has none yet. */
static bool bfs_edge(VfetchStep *s, uint32_t v)
{
    VfetchJob *j = s->job;
    uint32_t level;
    uint8_t *to;

    if (!load_u32(s, 2, v, &level)) {
        return false;
    }
    s->elements += 2;
    if (test_bit(v, j->seen)) {
        return true;
    }
    to = step_store(s, argument(s, 2) + 4 * (uint64_t)v, 4);
    if (!to) {
        s->elements -= 2;
        return false;
    }
    stl_le_p(to, j->phase);
    s->elements++;
    bfs_found(j, v);
    return true;
}

static bool bfs_unit(VfetchStep *s)
{
    VfetchStrand *strand = s->strand;
    uint32_t v;

    if (s->job->phase == 0) {
        return bfs_fill(s);
    }
    if (!strand->begun) {
        return row_begin(s, s->job->front[strand->at]);
    }
    if (strand->pos[0] == strand->pos[1]) {
        row_end(s);
        return true;
    }
    if (!load_column(s, argument(s, 3), 2, 4, &v) || !bfs_edge(s, v)) {
        return false;
    }
    strand->pos[0]++;
    return true;
}

const VfetchKernel vfetch_kernel_bfs = {
    .arguments = 5,
    .begin = bfs_begin,
    .unit = bfs_unit,
    .next_phase = bfs_next_phase,
};
