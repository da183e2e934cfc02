/*
 * vfetch: jobs, strands and steps.
 *
 * SPDX-License-Identifier: GPL-2.0
 *
 * A job computes *results*, numbered from 0, in one or more *phases*; a phase
 * begins when all strands have done with the one before. The results of a phase
 * are divided into chunks, and order and strands say which strand has which.
 *
 * A strand goes from step to step. A step happens at one instant: it takes
 * *units* of work, one after the other, until it has accessed enough, may not
 * touch a further page, or misses a page. The strand's time passes after it. A
 * unit asks for all that it reads and writes before it changes anything, so it
 * can be given up and tried again; what came before it in the step stays done.
 * Only a step without a single unit reports a fault.
 *
 * What is in host memory is read at once. What is written to it waits in a
 * *flight*, which takes the bytes of both directions over the link; the strand
 * goes on when that has landed.
 */
#ifndef QEMU_VFETCH_JOB_H
#define QEMU_VFETCH_JOB_H

#include "qemu/bswap.h"
#include "vfetch.h"

#define PAGE_BYTES      (1u << VFETCH_PAGE_SHIFT)

/*
 * Pages of a step. The dearest unit is a row of the stencil: two of its own,
 * one for each of four neighbours, one for the result.
 */
#define STEP_PAGES      8

/* Elements after which a step ends. */
#define STEP_ELEMENTS   256

/* Elements of host memory's pages are accounted for in words of so many bytes. */
#define WORD_BYTES      4
#define PAGE_WORDS      (PAGE_BYTES / WORD_BYTES)

typedef struct VfetchKernel VfetchKernel;

struct VfetchStrand {
    VfetchJob *job;
    VfetchAppointment next;     /* its next step */
    uint32_t index;

    /* Which results: at to end of its chunk; `turn` chunks were begun. */
    uint64_t turn;
    uint64_t at;
    uint64_t end;
    /* Within a result, as the kernel likes; zeros to begin with. */
    bool begun;
    uint64_t pos[3];
    double sum;

    uint64_t debt_ns;           /* of walks of steps that faulted */
    uint32_t debt_ps;           /* what was rounded off */

    /* Its fault. */
    bool faulted;
    bool told;                  /* a record says so */
    uint8_t access;
    uint8_t reason;
    uint64_t page;
    int64_t since;
    QTAILQ_ENTRY(VfetchStrand) fault_link;

    VfetchTransfer *flight;     /* of its step */
};

struct VfetchJob {
    VfetchTransfer *x;
    VfetchFunction *fn;
    VfetchSpace as;
    const VfetchKernel *kernel;
    struct vfetch_job in;       /* in the host's byte order */
    uint64_t bytes;             /* of the space */

    uint64_t phase;
    uint64_t results;           /* of this phase */
    uint64_t chunk;             /* results of a chunk */
    uint32_t busy;              /* strands that have not done with the phase */
    uint64_t value;

    /* What the breadth-first search keeps. */
    uint32_t *front;            /* this level's vertices */
    uint32_t *found;            /* the next one's */
    uint64_t fronts;
    uint64_t founds;
    uint64_t found_room;
    unsigned long *seen;

    /* Why it cannot begin, if status is not OK. */
    uint16_t status;
    uint64_t where;

    uint32_t strands;
    VfetchStrand strand[];
};

/* Why a unit was given up. */
typedef enum VfetchStop {
    STOP_NONE,
    STOP_PAGES,                 /* the step may touch no further page */
    STOP_FAULT,
    STOP_ERROR,
} VfetchStop;

/* A page that the step has touched. */
typedef struct VfetchStepPage {
    uint64_t page;
    uint64_t bus;               /* remote */
    uint8_t *bytes;             /* device memory; remote: its image */
    bool writable;
    bool remote;
    bool written;               /* some word of it is */
    unsigned long words[PAGE_WORDS / BITS_PER_LONG]; /* remote: written */
} VfetchStepPage;

/* What a unit will write to host memory. */
typedef struct VfetchStepStore {
    VfetchStepPage *page;
    uint16_t word;
    uint16_t words;
} VfetchStepStore;

struct VfetchStep {
    VfetchFunction *fn;
    VfetchJob *job;
    VfetchStrand *strand;

    VfetchStop stop;
    uint8_t access;             /* FAULT */
    uint8_t reason;
    uint64_t fault_page;
    uint16_t status;            /* ERROR */
    uint64_t where;

    uint64_t elements;
    uint32_t walks;
    uint64_t remote_read;
    uint64_t remote_written;

    uint32_t pages;
    uint32_t stores;
    VfetchStepPage page[STEP_PAGES];
    VfetchStepStore store[STEP_PAGES];
    uint8_t image[STEP_PAGES][PAGE_BYTES];
};

/* A run of bytes that a flight writes to host memory. */
typedef struct VfetchFlightPiece {
    uint64_t bus;
    uint64_t offset;            /* in the space */
    uint32_t bytes;
} VfetchFlightPiece;

/* A step on its way over the link. */
struct VfetchFlight {
    VfetchTransfer *x;
    VfetchStrand *strand;       /* NULL: its job has ended meanwhile */
    VfetchFunction *fn;
    uint64_t after_ns;          /* until the strand's next step */
    uint64_t seq;
    uint32_t asid;
    uint32_t pages;
    uint64_t page[STEP_PAGES];
    uint32_t pieces;
    VfetchFlightPiece *piece;
    uint8_t *data;
    QTAILQ_ENTRY(VfetchFlight) link;
};

struct VfetchKernel {
    uint32_t arguments;
    /* Checks the arguments (job_array() and job_bad()), and plans phase 0. */
    void (*begin)(VfetchJob *j);
    /* Tries the next unit of the strand's results; false: the step's `stop`. */
    bool (*unit)(VfetchStep *s);
    /* Plans the phase that follows `phase`; false: that was the last. */
    bool (*next_phase)(VfetchJob *j);
};

extern const VfetchKernel *const vfetch_kernels[VFETCH_JOB_KINDS + 1];
extern const VfetchKernel vfetch_kernel_triad, vfetch_kernel_stencil,
    vfetch_kernel_gemm, vfetch_kernel_conv2d, vfetch_kernel_spmv,
    vfetch_kernel_bfs, vfetch_kernel_pagerank, vfetch_kernel_gather,
    vfetch_kernel_scatter, vfetch_kernel_reduce, vfetch_kernel_stamp,
    vfetch_kernel_check;

/* ---- for kernels -------------------------------------------------------- */

/* job.c: an argument is wrong, in itself (@where: which) or by where it leads. */
void job_bad(VfetchJob *j, unsigned argument);
/* @count elements of @size bytes from argument @at on are in the space. */
bool job_array(VfetchJob *j, unsigned at, uint64_t count, uint32_t size);
/* The argument is aligned for elements of @size bytes; their number comes later. */
bool job_aligned(VfetchJob *j, unsigned at, uint32_t size);
/* @a * @b; UINT64_MAX when that is too large for anything. */
uint64_t job_product(uint64_t a, uint64_t b);

/*
 * step.c: @bytes at @offset, which are of one page and aligned to words. NULL:
 * the step's `stop` says why, and the unit returns false. A unit asks for all it
 * needs and only then writes; of what it asked to store it writes every byte.
 */
const void *step_load(VfetchStep *s, uint64_t offset, uint32_t bytes);
void *step_store(VfetchStep *s, uint64_t offset, uint32_t bytes);
/* The unit is impossible, because of what was read at @where. */
bool step_error(VfetchStep *s, uint16_t status, uint64_t where);

/* Up to 4 KiB that may be of two pages: a copy of them, and where they are. */
typedef struct VfetchSpan {
    uint8_t *part[2];
    uint32_t bytes[2];
} VfetchSpan;

bool step_load_span(VfetchStep *s, uint64_t offset, uint32_t bytes, void *copy);
bool step_store_span(VfetchStep *s, uint64_t offset, uint32_t bytes,
                     VfetchSpan *span);
void step_fill_span(const VfetchSpan *span, const void *from);

/* How many elements of @size bytes from @offset on are of the same page. */
static inline uint64_t elements_of_page(uint64_t offset, uint32_t size)
{
    return (PAGE_BYTES - offset % PAGE_BYTES) / size;
}

static inline uint64_t argument(const VfetchStep *s, unsigned i)
{
    return s->job->in.argument[i];
}

static inline double bits_to_double(uint64_t bits)
{
    double d;

    memcpy(&d, &bits, sizeof(d));
    return d;
}

static inline double get_double(const void *p)
{
    return bits_to_double(ldq_le_p(p));
}

static inline void put_double(void *p, double d)
{
    uint64_t bits;

    memcpy(&bits, &d, sizeof(bits));
    stq_le_p(p, bits);
}

/* step.c, for job.c */
bool vfetch_step_take(VfetchStrand *strand, VfetchStep *s);
uint64_t vfetch_step_time(VfetchStep *s, bool done);
void vfetch_flight_start(VfetchStep *s, uint64_t after_ns, int64_t now);
bool vfetch_strand_next_chunk(VfetchStrand *strand);
void vfetch_job_end(VfetchJob *j, uint16_t status, uint64_t value, int64_t now);

#endif /* QEMU_VFETCH_JOB_H */
