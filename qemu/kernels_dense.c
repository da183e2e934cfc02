/*
 * vfetch: jobs over dense grids and matrices.
 *
 * SPDX-License-Identifier: GPL-2.0
 *
 * include/uapi/linux/vfetch_job.h says what each computes, from which
 * arguments. Sums that take several steps are kept where the result goes.
 */
#include "qemu/osdep.h"
#include "job.h"

/* So many neighbouring results are a strand's own, and most of a row at once. */
#define CHUNK       64
#define TILE_MAX    512

static void row_from_le(double *row, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        row[i] = get_double(&row[i]);
    }
}

static void row_to_le(double *row, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        put_double(&row[i], row[i]);
    }
}

/* @n doubles from @offset on, of one or two pages. */
static bool load_row(VfetchStep *s, uint64_t offset, uint64_t n, double *row)
{
    if (!step_load_span(s, offset, 8 * n, row)) {
        return false;
    }
    row_from_le(row, n);
    return true;
}

static void fill_row(const VfetchSpan *span, double *row, uint64_t n)
{
    row_to_le(row, n);
    step_fill_span(span, row);
}

/* ---- stencil ------------------------------------------------------------ */

/* in, out, nx, ny, nz, steps, c0, c1 */

static void stencil_begin(VfetchJob *j)
{
    uint64_t cells = job_product(job_product(j->in.argument[2],
                                             j->in.argument[3]),
                                 j->in.argument[4]);

    if (job_array(j, 0, cells, 8) && job_array(j, 1, cells, 8)) {
        j->results = j->in.argument[5] ? cells : 0;
        j->chunk = CHUNK;
    }
}

static bool stencil_next_phase(VfetchJob *j)
{
    return j->phase + 1 < j->in.argument[5];
}

typedef struct Stencil {
    const uint8_t *centre, *before, *after;
    const uint8_t *beside[4];   /* y-1, y+1, z-1, z+1 */
    double c0, c1;
} Stencil;

static double stencil_cell(const Stencil *st, uint64_t i, uint64_t n)
{
    double sum = get_double(i ? st->centre + 8 * (i - 1) : st->before);

    sum += get_double(i + 1 < n ? st->centre + 8 * (i + 1) : st->after);
    for (int k = 0; k < 4; k++) {
        sum += get_double(st->beside[k] + 8 * i);
    }
    return st->c0 * get_double(st->centre + 8 * i) + st->c1 * sum;
}

/*
 * Cells of one row, whose own places and neighbours' are of one page each, but
 * that the one before or behind them may be of another: not both, there are
 * more cells in a page than in a chunk.
 */
static bool stencil_unit(VfetchStep *s)
{
    VfetchStrand *strand = s->strand;
    bool odd = s->job->phase & 1;
    uint64_t in = argument(s, odd ? 1 : 0), out = argument(s, odd ? 0 : 1);
    uint64_t nx = argument(s, 2), ny = argument(s, 3), nz = argument(s, 4);
    uint64_t at = strand->at;
    uint64_t x = at % nx, y = at / nx % ny, z = at / nx / ny;
    const int64_t beside[4] = { -nx, nx, -(nx * ny), nx * ny };
    uint64_t n = MIN(strand->end - at, nx - x);
    bool surface = y == 0 || y + 1 == ny || z == 0 || z + 1 == nz;
    Stencil st;
    uint8_t *to;

    n = MIN(n, elements_of_page(in + 8 * at, 8));
    n = MIN(n, elements_of_page(out + 8 * at, 8));
    if (!surface && (x == 0 || x + 1 == nx)) {
        surface = true;
        n = 1;
    } else if (!surface) {
        n = MIN(n, nx - 1 - x);
        for (int k = 0; k < 4; k++) {
            n = MIN(n, elements_of_page(in + 8 * (at + beside[k]), 8));
        }
    }

    st.centre = step_load(s, in + 8 * at, 8 * n);
    if (!st.centre) {
        return false;
    }
    if (!surface) {
        st.before = step_load(s, in + 8 * (at - 1), 8);
        st.after = st.before ? step_load(s, in + 8 * (at + n), 8) : NULL;
        if (!st.after) {
            return false;
        }
        for (int k = 0; k < 4; k++) {
            st.beside[k] = step_load(s, in + 8 * (at + beside[k]), 8 * n);
            if (!st.beside[k]) {
                return false;
            }
        }
        st.c0 = bits_to_double(argument(s, 6));
        st.c1 = bits_to_double(argument(s, 7));
    }
    to = step_store(s, out + 8 * at, 8 * n);
    if (!to) {
        return false;
    }
    if (surface) {
        memmove(to, st.centre, 8 * n);
    } else {
        for (uint64_t i = 0; i < n; i++) {
            put_double(to + 8 * i, stencil_cell(&st, i, n));
        }
    }
    strand->at += n;
    s->elements += surface ? 2 * n : 6 * n + 2;
    return true;
}

const VfetchKernel vfetch_kernel_stencil = {
    .arguments = 8,
    .begin = stencil_begin,
    .unit = stencil_unit,
    .next_phase = stencil_next_phase,
};

/* ---- matrix product ----------------------------------------------------- */

/* a, b, c, m, n, k, tile */

static void gemm_begin(VfetchJob *j)
{
    uint64_t m = j->in.argument[3], n = j->in.argument[4];
    uint64_t k = j->in.argument[5], tile = j->in.argument[6];

    if (tile < 1 || tile > TILE_MAX) {
        job_bad(j, 6);
    } else if (job_array(j, 0, job_product(m, k), 8) &&
               job_array(j, 1, job_product(k, n), 8) &&
               job_array(j, 2, job_product(m, n), 8)) {
        /* (A dimension may be anything where another is 0.) */
        if (m && n) {
            j->results = DIV_ROUND_UP(m, tile) * DIV_ROUND_UP(n, tile);
        }
    }
}

/*
 * A tile is computed from tiles of a and b, k by k; of such a pair of tiles row
 * by row. A unit adds to one row of the tile what as many k as possible give.
 * pos: first k of the tiles, row of the tile, k within the tiles.
 */
static bool gemm_unit(VfetchStep *s)
{
    VfetchStrand *strand = s->strand;
    uint64_t m = argument(s, 3), n = argument(s, 4), k = argument(s, 5);
    uint64_t tile = argument(s, 6);
    uint64_t across = DIV_ROUND_UP(n, tile);
    uint64_t row = strand->at / across * tile + strand->pos[1];
    uint64_t column = strand->at % across * tile;
    uint64_t width = MIN(tile, n - column);
    uint64_t height = MIN(tile, m - strand->at / across * tile);
    uint64_t first = strand->pos[0] + strand->pos[2];
    uint64_t end = MIN(strand->pos[0] + tile, k);
    uint64_t c = argument(s, 2) + 8 * (row * n + column);
    double sum[TILE_MAX], b[TILE_MAX];
    uint64_t i = first;
    VfetchSpan to;

    if (!step_store_span(s, c, 8 * width, &to)) {
        return false;
    }
    if (first == 0) {
        memset(sum, 0, sizeof(sum));
    } else if (!load_row(s, c, width, sum)) {
        return false;
    }
    for (; i < end; i++) {
        const uint8_t *a = step_load(s, argument(s, 0) + 8 * (row * k + i), 8);
        double factor;

        if (!a || !load_row(s, argument(s, 1) + 8 * (i * n + column), width,
                            b)) {
            if (i == first) {
                return false;
            }
            break;
        }
        factor = get_double(a);
        for (uint64_t x = 0; x < width; x++) {
            sum[x] += factor * b[x];
        }
    }
    fill_row(&to, sum, width);
    s->elements += (i - first) * (width + 1) + width * (first ? 2 : 1);

    strand->pos[2] += i - first;
    if (i == end) {
        strand->pos[2] = 0;
        if (++strand->pos[1] == height) {
            strand->pos[1] = 0;
            strand->pos[0] += tile;
            if (strand->pos[0] >= k) {
                strand->pos[0] = 0;
                strand->at++;
            }
        }
    }
    return true;
}

const VfetchKernel vfetch_kernel_gemm = {
    .arguments = 7,
    .begin = gemm_begin,
    .unit = gemm_unit,
};

/* ---- convolution -------------------------------------------------------- */

/* in, w, out, cin, cout, h, w, k */

static void conv2d_begin(VfetchJob *j)
{
    const __u64 *a = j->in.argument;
    uint64_t cin = a[3], cout = a[4], h = a[5], w = a[6], k = a[7];

    for (unsigned i = 3; i < 8; i++) {
        if (!a[i] || (i == 7 && (k > h || k > w))) {
            job_bad(j, i);
            return;
        }
    }
    if (job_array(j, 0, job_product(cin, job_product(h, w)), 8) &&
        job_array(j, 1, job_product(job_product(cout, cin), job_product(k, k)),
                  8) &&
        job_array(j, 2, job_product(cout, job_product(h - k + 1, w - k + 1)),
                  8)) {
        j->results = cout * (h - k + 1) * (w - k + 1);
        j->chunk = CHUNK;
    }
}

/*
 * Neighbouring results of one row, to which as many weights as possible are
 * applied, in the order of the sum. pos: how many have been.
 */
static bool conv2d_unit(VfetchStep *s)
{
    VfetchStrand *strand = s->strand;
    uint64_t cin = argument(s, 3), h = argument(s, 5), w = argument(s, 6);
    uint64_t k = argument(s, 7);
    uint64_t oh = h - k + 1, ow = w - k + 1;
    uint64_t x = strand->at % ow, y = strand->at / ow % oh;
    uint64_t o = strand->at / ow / oh;
    uint64_t n = MIN(strand->end - strand->at, ow - x);
    uint64_t weights = cin * k * k;
    uint64_t first = strand->pos[0], i = first;
    uint64_t out = argument(s, 2) + 8 * strand->at;
    double sum[CHUNK], in[CHUNK];
    VfetchSpan to;

    if (!step_store_span(s, out, 8 * n, &to)) {
        return false;
    }
    if (first == 0) {
        memset(sum, 0, sizeof(sum));
    } else if (!load_row(s, out, n, sum)) {
        return false;
    }
    for (; i < weights && i - first < TILE_MAX; i++) {
        uint64_t dx = i % k, dy = i / k % k, c = i / k / k;
        uint64_t from = (c * h + y + dy) * w + x + dx;
        const uint8_t *weight = step_load(s, argument(s, 1) +
                                          8 * (o * weights + i), 8);
        double factor;

        if (!weight || !load_row(s, argument(s, 0) + 8 * from, n, in)) {
            if (i == first) {
                return false;
            }
            break;
        }
        factor = get_double(weight);
        for (uint64_t r = 0; r < n; r++) {
            sum[r] += in[r] * factor;
        }
    }
    fill_row(&to, sum, n);
    s->elements += (i - first) * (n + 1) + n * (first ? 2 : 1);

    strand->pos[0] = i;
    if (i == weights) {
        strand->pos[0] = 0;
        strand->at += n;
    }
    return true;
}

const VfetchKernel vfetch_kernel_conv2d = {
    .arguments = 8,
    .begin = conv2d_begin,
    .unit = conv2d_unit,
};
