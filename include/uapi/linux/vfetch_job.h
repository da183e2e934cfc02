/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * vfetch: what a function can compute.
 *
 * A *job* works on a space: it reads and writes it at the offsets at which the
 * host's mappings, read() and write() see it. Programs hand it in with
 * VFETCH_IOC_SUBMIT (linux/vfetch.h); the driver checks @kind, @flags, @order,
 * @strands and the reserved fields, and gives the rest to the device as it is.
 *
 * Offsets are bytes in the space, aligned to the size of the elements; counts are
 * elements; doubles are given by their bits. All numbers are little-endian. The
 * order in which a job touches memory depends on @order and @strands, its
 * results do not: each is computed by one strand, in the order of indices, in
 * IEEE double precision, without fused operations.
 */
#ifndef _UAPI_LINUX_VFETCH_JOB_H
#define _UAPI_LINUX_VFETCH_JOB_H

#include <linux/types.h>

/*
 * vfetch_job.kind, and what its arguments are. "f64 a[n]" is the offset of so
 * many doubles; a plain name is a number.
 */
/*
 * a[i] = b[i] + s * c[i]
 * f64 a[n], f64 b[n], f64 c[n], n, f64 bits s
 */
#define VFETCH_JOB_TRIAD	1
/*
 * steps times: out = c0 * in + c1 * (in of the six neighbours, in the order
 * x-1, x+1, y-1, y+1, z-1, z+1); a cell of the surface is copied. Then in and out
 * change places: the result is in `out` after an odd number of steps.
 * f64 in[nz][ny][nx], f64 out[nz][ny][nx], nx, ny, nz, steps, f64 bits c0, f64 bits c1
 */
#define VFETCH_JOB_STENCIL	2
/*
 * c = a * b, tile by tile of tile x tile results; tile is 1 to 512
 * f64 a[m][k], f64 b[k][n], f64 c[m][n], m, n, k, tile
 */
#define VFETCH_JOB_GEMM		3
/*
 * out[o][y][x] = sum over i, dy, dx of in[i][y + dy][x + dx] * w[o][i][dy][dx]
 * f64 in[cin][h][w], f64 w[cout][cin][k][k], f64 out[cout][h-k+1][w-k+1],
 * cin, cout, h, w, k; none is 0
 */
#define VFETCH_JOB_CONV2D	4
/*
 * y = A * x, A in compressed rows
 * u64 row[n + 1], u32 col[nnz], f64 val[nnz], f64 x[columns], f64 y[n], n, columns
 */
#define VFETCH_JOB_SPMV		5
/*
 * level[v] = edges from source to v, 0xffffffff where there is no way; level by
 * level from the vertices of the one before, whose list the device keeps itself.
 * value: vertices reached. At most one vertex for each 8 bytes of device memory.
 * u64 row[n + 1], u32 col[nnz], u32 level[n], n, source
 */
#define VFETCH_JOB_BFS		6
/*
 * iterations times: to[v] = (1 - d) / n + d * sum of from[u] / degree[u] over the edges u of v,
 * then they change places: the result is in `to` after an odd number of iterations.
 * The caller fills in `from`. Row and col are those of incoming edges, degree counts outgoing
 * ones, and is not 0 where it is used.
 * u64 row[n + 1], u32 col[nnz], u32 degree[n], f64 from[n], f64 to[n], n, iterations, f64 bits d
 */
#define VFETCH_JOB_PAGERANK	7
/*
 * out[i] = in[index[i]]
 * f64 in[m], u32 index[n], f64 out[n], n, m
 */
#define VFETCH_JOB_GATHER	8
/*
 * out[index[i]] = in[i]; no index comes twice
 * f64 in[n], u32 index[n], f64 out[m], n, m
 */
#define VFETCH_JOB_SCATTER	9
/*
 * value: the sum of u64 in[n], modulo 2^64
 * u64 in[n], n
 */
#define VFETCH_JOB_REDUCE	10
/*
 * word i of u64 out[n] becomes VFETCH_JOB_STAMPED(first + i, generation)
 * u64 out[n], n, first, generation
 */
#define VFETCH_JOB_STAMP	11
/*
 * value: how many words i of u64 in[n] are not VFETCH_JOB_STAMPED(first + i, g) of a generation
 * g from lowest to highest (0: the word may also be 0)
 * u64 in[n], n, first, lowest, highest
 */
#define VFETCH_JOB_CHECK	12
#define VFETCH_JOB_KINDS	12

/* A word that says where it belongs (modulo 2^40) and of which generation (modulo 2^24) it is. */
#define VFETCH_JOB_STAMPED(word, generation)					\
	(((__u64)(generation) << 40) | ((__u64)(word) & 0xffffffffffull))

/* vfetch_job.order: which results a strand computes. */
#define VFETCH_JOB_INTERLEAVED	0	/* strands work side by side on neighbours */
#define VFETCH_JOB_BLOCKED	1	/* each has a contiguous part of its own */
#define VFETCH_JOB_SHUFFLED	2	/* in an order that the seed decides */

#define VFETCH_JOB_ARGUMENTS	12

/**
 * struct vfetch_job - a computation
 * @kind: VFETCH_JOB_*
 * @flags: 0
 * @order: VFETCH_JOB_INTERLEAVED, _BLOCKED or _SHUFFLED
 * @strands: how many work at once, each waiting for its own faults; 1 to what vfetch_info says
 * @element_ps: time that a strand takes for each element that it reads or writes, in picoseconds, at most 10^9
 * @reserved: 0
 * @seed: for VFETCH_JOB_SHUFFLED
 * @argument: by kind; those that the kind has not are 0
 */
struct vfetch_job {
	__u32 kind;
	__u32 flags;
	__u32 order;
	__u32 strands;
	__u32 element_ps;
	__u32 reserved;
	__u64 seed;
	__u64 argument[VFETCH_JOB_ARGUMENTS];
};

#endif /* _UAPI_LINUX_VFETCH_JOB_H */
