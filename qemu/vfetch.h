/*
 * The vfetch device: what its files share.
 *
 * SPDX-License-Identifier: GPL-2.0
 *
 *   pci.c       PF and VF as PCI functions: identity, BARs, reset, properties
 *   regs.c      BAR0: decoding of registers, counters
 *   memory.c    device memory: partitions, scrubbing, the BAR2 window
 *   queue.c     queue pairs: life cycle, doorbells, fetching, completions
 *   transfer.c  descriptors: validation, moving the data
 *   link.c      time: who uses the link when, and what happens next
 *   agenda.c    what is due when: a heap
 *   mmu.c       address spaces: page tables, the TLB, invalidation
 *   faultring.c page faults: the ring, its message, replay
 *   job.c       jobs: from descriptor to completion; cancelling
 *   step.c      what a strand does at one time, and its way over the link
 *   kernels*.c  what jobs compute; they see job.h and not this file
 *   interrupt.c MSI-X messages
 *   fault.c     faults on demand: rules, BAR5, x-inject
 *   hotplug.c   surprise removal
 *
 * Everything runs under the BQL. Two rules keep a guest from using the device
 * against itself:
 *
 *   - DMA only ever reaches RAM (vfetch_dma_*), so it cannot enter the device
 *     again through its own registers while lists are being walked.
 *   - A message can be aimed at any address. Messages are sent only when the
 *     device's state is consistent, and register accesses that they cause are
 *     ignored (interrupt.c).
 */
#ifndef QEMU_VFETCH_H
#define QEMU_VFETCH_H

#include "hw/pci/pci_device.h"
#include "qemu/queue.h"
#include "qemu/timer.h"
#include "qom/object.h"
#include "vfetch_hw.h"

#define TYPE_VFETCH     "vfetch"
#define TYPE_VFETCH_VF  "vfetch-vf"

/* Limits that the driver reads from registers. */
#define VFETCH_MAX_SG           1024
#define VFETCH_MAX_BYTES        (16 * 1024 * 1024)
#define VFETCH_PART_GRANULE     (64 * 1024)
#define VFETCH_DEFAULT_WEIGHT   16

/*
 * Work is counted in bytes moved. Finding out where a bus address is takes
 * about as long as moving so many: scatter lists may have entries of one byte.
 */
#define VFETCH_ACCESS_WORK      1024

/* Descriptors of one queue that are fetched and not completed, at most. */
#define VFETCH_MAX_INFLIGHT     256

typedef struct VfetchDevice VfetchDevice;
typedef struct VfetchFunction VfetchFunction;
typedef struct VfetchQueue VfetchQueue;
typedef struct VfetchTransfer VfetchTransfer;
typedef struct VfetchJob VfetchJob;
typedef struct VfetchStrand VfetchStrand;
typedef struct VfetchFlight VfetchFlight;
typedef struct VfetchStep VfetchStep;

DECLARE_INSTANCE_CHECKER(VfetchDevice, VFETCH, TYPE_VFETCH)

typedef QTAILQ_HEAD(, VfetchTransfer) VfetchTransferList;
typedef QTAILQ_HEAD(, VfetchStrand) VfetchStrandList;
typedef QTAILQ_HEAD(, VfetchFlight) VfetchFlightList;

/* Something that happens at a time; part of what it happens to. */
typedef struct VfetchAppointment {
    int64_t at;
    uint64_t order;             /* among those of the same time */
    uint32_t place;             /* in the heap, from 1; 0: none made */
} VfetchAppointment;

typedef struct VfetchAgenda {
    VfetchAppointment **heap;   /* from 1 */
    uint32_t made;
    uint32_t room;
    uint64_t order;
} VfetchAgenda;

/* What the rules that hit a descriptor want done to it (fault.c). */
typedef struct VfetchFaults {
    uint32_t kinds;             /* bit n: VFETCH_FAULT_* n */
    uint64_t arg[VFETCH_FAULT_KINDS + 1];
} VfetchFaults;

/* Where a transfer is; says which of its queue's lists it is on. */
typedef enum VfetchTransferState {
    VFETCH_LANE,                /* open: waiting for the link, or on it */
    VFETCH_STUCK,               /* open: held up by a fault */
    VFETCH_DELAYED,             /* open: served, ends later */
    VFETCH_HELD,                /* held: ended, the completion ring is full */
    VFETCH_LATE,                /* late: completed, its data follows */
    VFETCH_ASIDE,               /* open: a command that waits for no lane */
    VFETCH_JOB,                 /* open: waiting to run, or running */
} VfetchTransferState;

/* How a transfer is served once it is the first of its lane. */
typedef enum VfetchService {
    VFETCH_BY_LINK,             /* read, write */
    VFETCH_BY_MEMORY,           /* fill, copy */
    VFETCH_AT_ONCE,             /* nothing to move: fence, errors */
    VFETCH_BY_COMMAND,          /* invalidate, cancel */
    VFETCH_BY_JOB,              /* on no lane */
} VfetchService;

/* A descriptor from when it is fetched until nothing of it is left. */
struct VfetchTransfer {
    VfetchQueue *queue;
    VfetchTransferState state;
    VfetchService service;
    uint8_t opcode;
    uint8_t flags;
    uint16_t sg_entries;
    uint16_t status;
    uint32_t bytes;
    uint32_t served;            /* of them, by the link */
    uint32_t moved;             /* of those, for the completion */
    uint32_t tag;
    uint32_t asid;
    uint64_t transaction;
    uint64_t value;             /* of a job */
    uint64_t device_addr;
    uint64_t host_addr;
    int64_t ready_at;
    int64_t ended_at;
    uint8_t copies;             /* completions still to be posted */
    bool counted;               /* in the function's DEPTH */
    VfetchFaults *faults;       /* NULL: none */
    struct vfetch_sg *sg;       /* read when service begins */
    uint32_t sg_next;           /* entry that holds the next byte to move */
    uint32_t sg_offset;         /* of that byte in the entry */
    QTAILQ_ENTRY(VfetchTransfer) lane_link;
    QTAILQ_ENTRY(VfetchTransfer) queue_link;
    QTAILQ_ENTRY(VfetchTransfer) due_link;
    int64_t due;
    bool on_due;

    /* Commands and jobs. */
    uint64_t id;                /* transaction, whatever becomes of that */
    uint64_t seq;               /* job: fetched; command: begun. 0: not yet */
    bool begun;                 /* the command */
    int64_t begun_at;
    uint32_t pending;           /* what the command still waits for */
    QTAILQ_ENTRY(VfetchTransfer) wait_link; /* draining, cancels, waiting */
    bool waiting;               /* it is on one of them */
    VfetchJob *job;             /* it runs */
    VfetchFlight *flight;       /* no descriptor: a step on its way */
};

/* Of the opcodes that do. */
static inline bool vfetch_moves_data(const VfetchTransfer *x)
{
    return x->service == VFETCH_BY_LINK || x->service == VFETCH_BY_MEMORY;
}

struct VfetchQueue {
    VfetchFunction *fn;
    uint32_t index;

    /* Registers. */
    uint64_t sq_base;
    uint64_t cq_base;
    uint32_t order;
    uint32_t vector;
    uint32_t class;
    bool enabled;
    bool resetting;
    uint8_t error;              /* VFETCH_QERR_* */

    uint16_t sq_tail;
    uint16_t sq_head;
    /* Free-running; the ring and the registers see the low 16 bits. */
    uint64_t cq_head;
    uint64_t cq_tail;
    uint64_t cq_loud;           /* end of the last completion that interrupts */
    bool armed;
    bool stop_untold;           /* stopped, and no message said so yet */

    bool stuck;                 /* fetches nothing: VFETCH_FAULT_STUCK */
    bool wedged;                /* acknowledges no reset either */

    VfetchTransferList open;    /* in the order of fetching */
    VfetchTransferList held;    /* in the order of ending */
    VfetchTransferList late;
    uint32_t inflight;          /* on any of the three */
    VfetchTransferList flights; /* of its jobs */
    int64_t last_end;           /* when the last one left `open` */
};

/* First in, first out: one for ordered and one for relaxed per class. */
typedef struct VfetchLane {
    VfetchTransferList list;
    int64_t since;              /* when the first one became the first */
} VfetchLane;

#define VFETCH_CLASSES  3
#define VFETCH_LANES    (2 * VFETCH_CLASSES)

/* In the order of precedence; within a class the two alternate. */
static inline int vfetch_lane_index(uint32_t class, bool relaxed)
{
    static const int precedence[VFETCH_CLASSES] = {
        [VFETCH_CLASS_PRIORITY] = 0,
        [VFETCH_CLASS_ORDINARY] = 1,
        /* Ordered: fences and errors; relaxed: flights. */
        [VFETCH_CLASS_COMPUTE] = 2,
    };

    return 2 * precedence[class] + (relaxed ? 0 : 1);
}

typedef struct VfetchCounters {
    uint64_t bytes_read;
    uint64_t bytes_written;
    uint64_t bytes_internal;
    uint64_t transfers;
    uint64_t errors;
    uint64_t queue_errors;
    uint64_t busy_ns;
    uint64_t wait_ns;
    uint64_t interrupts;
    uint32_t depth;
    uint32_t depth_max;
    uint64_t tlb_hits;
    uint64_t tlb_misses;
    uint64_t faults;
    uint64_t fault_wait_strand_ns;
    uint64_t replays;
    uint64_t invalidations;
    uint64_t jobs;
    uint64_t remote_read;
    uint64_t remote_written;
} VfetchCounters;

/* What a job remembers of its struct vfetch_as. */
typedef struct VfetchSpace {
    uint32_t asid;
    uint32_t flags;             /* VFETCH_AS_* */
    uint64_t root;
    uint64_t pages;
} VfetchSpace;

typedef struct VfetchTlbEntry {
    uint64_t page;
    uint64_t addr;              /* in the function's memory; remote: on the bus */
    uint64_t mark;              /* bus address of its byte; 0: none */
    uint64_t used;              /* when, by the TLB's count of uses */
    uint32_t asid;
    uint32_t flags;             /* VFETCH_TLB_* */
} VfetchTlbEntry;

#define VFETCH_TLB_VALID    0x1
#define VFETCH_TLB_WRITE    0x2
#define VFETCH_TLB_REMOTE   0x4
#define VFETCH_TLB_DIRTY    0x8 /* its mark says so */

typedef enum VfetchWalk {
    VFETCH_WALK_OK,
    VFETCH_WALK_ABSENT,
    VFETCH_WALK_READ_ONLY,
    VFETCH_WALK_MALFORMED,
} VfetchWalk;

/* The fault ring, and who waits because of a fault. */
typedef struct VfetchFaultRing {
    /* Registers. */
    uint64_t base;
    uint32_t order;
    uint32_t vector;
    uint32_t min;
    uint32_t wait_ns;
    bool enabled;
    uint8_t error;              /* VFETCH_FERR_* */

    /* Free-running; the ring and the registers see the low 16 bits. */
    uint64_t head;
    uint64_t tail;
    bool armed;
    bool quiet;                 /* the next message is lost, by a rule */
    bool stop_untold;           /* stopped, and no message said so yet */
    int64_t *written;           /* when each entry was */
    VfetchAppointment message;  /* when the oldest record is old enough */
    VfetchStrandList told;      /* wait for a replay */
    VfetchStrandList untold;    /* wait for room in the ring as well */
} VfetchFaultRing;

struct VfetchFunction {
    VfetchDevice *dev;
    PCIDevice *pci;
    uint32_t index;             /* 0: PF, n: the nth VF */
    uint32_t generation;

    uint64_t base;              /* partition of device memory */
    uint64_t size;
    uint32_t weight;

    VfetchQueue queue[VFETCH_MAX_QUEUES];
    VfetchCounters count;

    VfetchLane lane[VFETCH_LANES];
    uint32_t lanes;             /* bit i: lane i is not empty */
    QTAILQ_ENTRY(VfetchFunction) busy_link; /* while lanes != 0 */
    bool relaxed_last;          /* which of an alternating pair was served */
    bool flight_last;           /* the same, of flights and other ordinary ones */
    uint64_t share;             /* virtual time of the fair queueing */
    int64_t last_served;        /* when its last quantum ended */

    uint32_t messages;          /* bit v: vector v wants a message */

    uint64_t as_table;
    uint32_t as_count;
    VfetchTlbEntry *tlb;        /* NULL: never used */
    uint64_t tlb_uses;
    VfetchFaultRing ring;
    VfetchTransferList draining; /* invalidations that wait for flights */
    VfetchTransferList cancels; /* that wait for jobs to end */
    VfetchTransferList waiting; /* jobs that wait for a slot */
    uint32_t running;           /* jobs in slots */
    VfetchFlightList flights;

    MemoryRegion regs;
    MemoryRegion window;
    MemoryRegion silence;       /* over the MSI-X table once gone is set */
};

typedef struct VfetchRule {
    uint32_t function;
    uint32_t queue;
    uint32_t opcode;
    uint32_t kind;
    uint32_t skip;
    uint32_t count;
    uint64_t arg;
} VfetchRule;

struct VfetchDevice {
    PCIDevice parent_obj;
    VfetchFunction pf;
    VfetchFunction *fn[VFETCH_MAX_VFS + 1];

    /* Properties. */
    uint32_t total_vfs;
    uint64_t mem_size;
    uint64_t window_size;
    uint64_t vf_window_size;
    uint32_t queues;
    uint32_t link_latency_ns;
    uint32_t link_bytes_per_us;
    uint32_t link_quantum;
    uint32_t mem_bytes_per_us;
    uint32_t tlb_entries;
    uint32_t tlb_miss_ns;
    uint32_t invalidate_ns;
    uint32_t job_slots;
    uint32_t job_strands;
    bool test;

    uint8_t *mem;
    bool gone;                  /* removed by surprise, or unrealized */
    QEMUTimer *removal;         /* from surprise removal to unrealizing */
    int64_t removal_by;         /* whatever the guest does */
    bool slot_was_on;           /* its indicator, at the last look */
    bool messages;              /* a function may have some */
    bool in_message;            /* a message is being sent */

    /* Partition registers. */
    uint32_t part_index;
    uint64_t part_base;
    uint64_t part_size;
    uint32_t part_weight;
    uint32_t part_result;

    /* The link (link.c). */
    QEMUTimer *timer;
    QTAILQ_HEAD(, VfetchFunction) busy;
    uint32_t off_link;          /* lanes whose first needs no link */
    VfetchTransfer *cur;        /* owner of the quantum on the link */
    uint32_t cur_bytes;
    int64_t cur_end;
    int64_t link_free;          /* when the last quantum ended */
    uint64_t share;             /* virtual time */
    uint64_t work;              /* done since vfetch_link_run() began */
    QTAILQ_HEAD(, VfetchTransfer) due; /* soonest first */

    VfetchAgenda steps;         /* of strands */
    VfetchAgenda fault_messages;
    VfetchStep *step;           /* the one that is being taken */
    bool step_last;             /* which of two that are late was served */
    uint64_t seq;               /* orders commands, jobs and flights */

    /* Faults on demand (fault.c). */
    MemoryRegion test_regs;
    VfetchRule rule[VFETCH_TEST_RULES];
    uint32_t rules;
    VfetchRule test_rule;       /* being written in BAR5 */
    uint32_t test_result;
    uint32_t hits[VFETCH_MAX_VFS + 1][VFETCH_FAULT_KINDS + 1];
};

static inline int64_t vfetch_now(void)
{
    return qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL);
}

/* Registers that are not there, and a device that is not: all ones. */
static inline uint64_t vfetch_ones(unsigned size)
{
    return size >= 8 ? UINT64_MAX : (UINT64_C(1) << (8 * size)) - 1;
}

/* Accesses of all sizes and alignments come through: the handlers decide. */
#define VFETCH_REGION_OPS(on_read, on_write) {                                 \
    .read = on_read,                                                           \
    .write = on_write,                                                         \
    .endianness = DEVICE_LITTLE_ENDIAN,                                        \
    .valid = { .min_access_size = 1, .max_access_size = 8,                     \
               .unaligned = true },                                            \
    .impl = { .min_access_size = 1, .max_access_size = 8,                      \
              .unaligned = true },                                             \
}

static inline bool vfetch_ignores_access(VfetchDevice *d)
{
    return d->gone || d->in_message;
}

/* regs.c */
void vfetch_regs_init(VfetchFunction *f, Object *owner);

/*
 * A register of 4 or 8 bytes at @reg. The part that an access of @size bytes at
 * @addr reaches (all of it, or a half of 8 bytes) is merged in or taken out.
 */
uint64_t vfetch_half_read(uint64_t value, hwaddr addr, unsigned size);
uint64_t vfetch_half_write(uint64_t old, hwaddr addr, uint64_t val,
                           unsigned size);

/* memory.c */
bool vfetch_memory_init(VfetchDevice *d, Error **errp);
void vfetch_memory_free(VfetchDevice *d);
void vfetch_memory_power_on(VfetchDevice *d);
void vfetch_memory_scrub(VfetchDevice *d, uint64_t base, uint64_t size);
void vfetch_memory_fill(VfetchDevice *d, uint64_t at, uint64_t bytes,
                        uint64_t pattern);
bool vfetch_memory_in_range(const VfetchFunction *f, uint64_t addr,
                            uint64_t bytes);
void vfetch_window_init(VfetchFunction *f, Object *owner, uint64_t size);
void vfetch_part_select(VfetchDevice *d, uint32_t index);
void vfetch_part_command(VfetchDevice *d, uint32_t command);

/* queue.c */
void vfetch_function_init(VfetchFunction *f);
void vfetch_function_reset(VfetchFunction *f);
bool vfetch_function_active(const VfetchFunction *f);
void vfetch_queue_control(VfetchQueue *q, uint32_t value);
void vfetch_queue_sq_tail(VfetchQueue *q, uint32_t value);
void vfetch_queue_cq_head(VfetchQueue *q, uint32_t value);
void vfetch_queue_fetch(VfetchQueue *q, int64_t now);
void vfetch_queue_release(VfetchQueue *q, int64_t now);
void vfetch_queue_reset_progress(VfetchQueue *q);
void vfetch_transfer_ended(VfetchTransfer *x, int64_t now);
void vfetch_transfer_due(VfetchTransfer *x, int64_t now);
void vfetch_transfer_free(VfetchTransfer *x);

/* transfer.c */
void vfetch_command_begin(VfetchTransfer *x, int64_t now);
void vfetch_transfer_validate(VfetchTransfer *x,
                              const struct vfetch_desc *desc);
void vfetch_transfer_move(VfetchTransfer *x, uint32_t bytes);
void vfetch_transfer_move_all(VfetchTransfer *x);
bool vfetch_dma_read(VfetchFunction *f, uint64_t addr, void *buf, uint64_t len);
bool vfetch_dma_write(VfetchFunction *f, uint64_t addr, const void *buf,
                      uint64_t len);

/* agenda.c */
void vfetch_agenda_add(VfetchAgenda *a, VfetchAppointment *e, int64_t at);
void vfetch_agenda_remove(VfetchAgenda *a, VfetchAppointment *e);
void vfetch_agenda_free(VfetchAgenda *a);
static inline VfetchAppointment *vfetch_agenda_first(const VfetchAgenda *a)
{
    return a->made ? a->heap[1] : NULL;
}

/* mmu.c */
uint16_t vfetch_space_open(VfetchFunction *f, uint32_t asid, VfetchSpace *as);
VfetchWalk vfetch_translate(VfetchFunction *f, const VfetchSpace *as,
                            uint64_t page, bool write, VfetchTlbEntry *found,
                            uint32_t *walks);
void vfetch_invalidate_begin(VfetchTransfer *x, int64_t now);
void vfetch_flight_left(VfetchFunction *f, const VfetchFlight *flight,
                        int64_t now);
void vfetch_mmu_reset(VfetchFunction *f);
void vfetch_mmu_exit(VfetchFunction *f);

/* faultring.c */
void vfetch_fault_report(VfetchStrand *s, int64_t now);
void vfetch_fault_forget(VfetchStrand *s, int64_t now);
void vfetch_fault_message_due(VfetchAppointment *e, int64_t now);
bool vfetch_fault_read32(VfetchFunction *f, hwaddr addr, uint32_t *val);
bool vfetch_fault_write32(VfetchFunction *f, hwaddr addr, uint32_t val);
void vfetch_fault_ring_init(VfetchFunction *f);
void vfetch_fault_ring_reset(VfetchFunction *f);

/* job.c */
void vfetch_job_add(VfetchTransfer *x, int64_t now);
void vfetch_job_due(VfetchTransfer *x, int64_t now);
void vfetch_job_drop(VfetchTransfer *x, int64_t now);
void vfetch_jobs_start(VfetchFunction *f, int64_t now);
bool vfetch_jobs_idle(const VfetchFunction *f);
void vfetch_strand_due(VfetchAppointment *e, int64_t now);
void vfetch_strand_retry(VfetchStrand *s, int64_t now);
void vfetch_cancel_begin(VfetchTransfer *c, int64_t now);
void vfetch_cancel_progress(VfetchTransfer *x, int64_t now);

/* step.c */
void vfetch_flight_landed(VfetchTransfer *x, int64_t now);
void vfetch_flight_free(VfetchTransfer *x, int64_t now);
void vfetch_flight_abandon(VfetchTransfer *x, int64_t now);

/* link.c */
void vfetch_link_init(VfetchDevice *d);
void vfetch_link_exit(VfetchDevice *d);
void vfetch_link_run(VfetchDevice *d);
void vfetch_link_arm(VfetchDevice *d);
void vfetch_lane_add(VfetchTransfer *x);
void vfetch_lane_remove(VfetchTransfer *x, int64_t now);
void vfetch_due_add(VfetchTransfer *x, int64_t due);
void vfetch_due_remove(VfetchTransfer *x);
uint64_t vfetch_duration_ns(uint64_t bytes, uint32_t bytes_per_us);

/* interrupt.c */
void vfetch_message(VfetchFunction *f, uint32_t vector);
void vfetch_messages_send(VfetchDevice *d);

/* fault.c */
void vfetch_fault_class_init(ObjectClass *klass);
void vfetch_fault_regs_init(VfetchDevice *d);
void vfetch_fault_apply(VfetchTransfer *x);
void vfetch_fault_apply_record(VfetchFunction *f, VfetchFaults *faults);
static inline bool vfetch_fault(const VfetchTransfer *x, unsigned kind)
{
    return x->faults && (x->faults->kinds & (1u << kind));
}

/* hotplug.c */
void vfetch_silence_init(VfetchFunction *f);
void vfetch_silence_exit(VfetchFunction *f);
void vfetch_hotplug_reset(VfetchDevice *d);
void vfetch_hotplug_exit(VfetchDevice *d);
void vfetch_hotplug_class_init(ObjectClass *klass);

#endif /* QEMU_VFETCH_H */
