/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The vfetch device as its driver sees it: PCI identity, registers,
 * descriptors, completions. qemu/SPEC.md is the programming manual; this file
 * is the only place where a number of it is written down. The device model
 * includes it as it is, the driver through bindgen.
 *
 * All registers and structures are little-endian. Registers are naturally
 * aligned and are accessed whole: 32-bit ones by 4 bytes, 64-bit ones by 8
 * bytes or as two halves. Any other access reads as all ones and writes
 * nothing. Access: RO read only, RW read and write, WO write only (reads 0).
 */
#ifndef VFETCH_HW_H
#define VFETCH_HW_H

#include <linux/types.h>
#include <linux/vfetch_job.h>

/* ---- PCI ---------------------------------------------------------------- */

#define VFETCH_PCI_VENDOR		0x1b36
#define VFETCH_PCI_DEVICE_PF		0x7646
#define VFETCH_PCI_DEVICE_VF		0x7647
#define VFETCH_PCI_CLASS		0x1200	/* processing accelerator */

#define VFETCH_BAR_REGS			0	/* registers, 32-bit memory */
#define VFETCH_BAR_WINDOW		2	/* own memory, 64-bit, prefetchable */
#define VFETCH_BAR_MSIX			4	/* MSI-X table and pending bits */
#define VFETCH_BAR_TEST			5	/* fault injection; PF with x-test=on */

#define VFETCH_BAR_REGS_BYTES		0x4000
#define VFETCH_BAR_TEST_BYTES		0x1000

/* MSI-X vectors of each function. */
#define VFETCH_MSIX_VECTORS		16

/* Most VFs that a device can have; PF and VFs are functions 0 to 255. */
#define VFETCH_MAX_VFS			255

/* ---- BAR0: the function ------------------------------------------------- */

#define VFETCH_REG_ID			0x000	/* RO32 VFETCH_ID */
#define VFETCH_REG_VERSION		0x004	/* RO32 major << 16 | minor */
#define VFETCH_REG_FUNCTION		0x008	/* RO32 0: PF, n: the nth VF, from 1 */
#define VFETCH_REG_CAPS			0x00c	/* RO32 VFETCH_CAP_* */
#define VFETCH_REG_QUEUES		0x010	/* RO32 number of queue pairs */
#define VFETCH_REG_MAX_ORDER		0x014	/* RO32 log2 of the most ring entries */
#define VFETCH_REG_MAX_SG		0x018	/* RO32 most entries of a scatter list */
#define VFETCH_REG_MAX_BYTES		0x01c	/* RO32 most bytes of a descriptor */
#define VFETCH_REG_MEM_SIZE		0x020	/* RO64 bytes of the function's memory */
#define VFETCH_REG_WINDOW_SIZE		0x028	/* RO64 bytes of BAR2 */
#define VFETCH_REG_TIME			0x030	/* RO64 device time, ns */
#define VFETCH_REG_LINK_LATENCY_NS	0x038	/* RO32 */
#define VFETCH_REG_LINK_BYTES_PER_US	0x03c	/* RO32 of the link that all share */
#define VFETCH_REG_LINK_WEIGHT		0x040	/* RO32 this function's share of it */
#define VFETCH_REG_LINK_QUANTUM		0x044	/* RO32 bytes served at a time */
#define VFETCH_REG_MEM_BYTES_PER_US	0x048	/* RO32 of fill and copy */
#define VFETCH_REG_GENERATION		0x04c	/* RO32 resets so far; memory was scrubbed at each */

#define VFETCH_ID			0x48435456	/* "VTCH" */
#define VFETCH_VERSION_MAJOR		1
#define VFETCH_VERSION_MINOR		1

#define VFETCH_CAP_PF			0x1	/* partition registers are there */
#define VFETCH_CAP_TEST			0x2	/* BAR5 is there */
#define VFETCH_CAP_SPACES		0x4	/* address spaces, faults and jobs, since version 1.1 */

/* Counters since the function's last reset. RO64, DEPTH and DEPTH_MAX RO32. */
#define VFETCH_REG_BYTES_READ		0x100	/* payload, device to host */
#define VFETCH_REG_BYTES_WRITTEN	0x108	/* payload, host to device */
#define VFETCH_REG_BYTES_INTERNAL	0x110	/* by fill and copy */
#define VFETCH_REG_TRANSFERS		0x118	/* descriptors completed with OK */
#define VFETCH_REG_ERRORS		0x120	/* descriptors completed otherwise */
#define VFETCH_REG_QUEUE_ERRORS		0x128	/* times a queue stopped, VFETCH_QERR_* */
#define VFETCH_REG_BUSY_NS		0x130	/* link time used */
#define VFETCH_REG_WAIT_NS		0x138	/* time spent ready and waiting for the link */
#define VFETCH_REG_INTERRUPTS		0x140	/* messages sent */
#define VFETCH_REG_DEPTH		0x148	/* descriptors fetched and not completed */
#define VFETCH_REG_DEPTH_MAX		0x14c	/* largest DEPTH so far */

/*
 * PF only: who gets which part of device memory. Write INDEX, BASE, SIZE and
 * WEIGHT, then APPLY to COMMAND, then read RESULT. Writing INDEX loads the
 * function's present values into BASE, SIZE and WEIGHT.
 */
#define VFETCH_REG_PART_INDEX		0x200	/* RW32 function */
#define VFETCH_REG_PART_COUNT		0x204	/* RO32 functions: total VFs + 1 */
#define VFETCH_REG_PART_BASE		0x208	/* RW64 first byte, multiple of the granule */
#define VFETCH_REG_PART_SIZE		0x210	/* RW64 bytes, multiple of the granule */
#define VFETCH_REG_PART_WEIGHT		0x218	/* RW32 link weight, 1 to 255 */
#define VFETCH_REG_PART_COMMAND		0x21c	/* WO32 VFETCH_PART_APPLY */
#define VFETCH_REG_PART_RESULT		0x220	/* RO32 VFETCH_PART_* of the last command */
#define VFETCH_REG_PART_GRANULE		0x224	/* RO32 bytes */
#define VFETCH_REG_MEM_TOTAL		0x228	/* RO64 bytes of the whole device */

#define VFETCH_PART_APPLY		1

#define VFETCH_PART_OK			0
#define VFETCH_PART_BUSY		1	/* the function has an enabled queue */
#define VFETCH_PART_INDEX		2	/* no such function */
#define VFETCH_PART_RANGE		3	/* unaligned, or outside the memory */
#define VFETCH_PART_OVERLAP		4	/* part of it is another function's */
#define VFETCH_PART_WEIGHT		5	/* not 1 to 255 */
#define VFETCH_PART_COMMAND		6	/* unknown command */

/* ---- BAR0: address spaces, faults, jobs ---------------------------------- */

/*
 * AS_TABLE and AS_COUNT say where the table of address spaces (struct vfetch_as) is. They are
 * writable while no job is running or waiting.
 */
#define VFETCH_REG_AS_TABLE		0x300	/* RW64 bus address, page-aligned; 0: none */
#define VFETCH_REG_AS_COUNT		0x308	/* RW32 entries, at most VFETCH_MAX_AS */
#define VFETCH_REG_TLB_ENTRIES		0x30c	/* RO32 */
#define VFETCH_REG_TLB_MISS_NS		0x310	/* RO32 time of a walk of the page table */
#define VFETCH_REG_INVALIDATE_NS	0x314	/* RO32 time of an invalidation, at least */
#define VFETCH_REG_JOB_SLOTS		0x318	/* RO32 jobs that run at once */
#define VFETCH_REG_JOB_STRANDS		0x31c	/* RO32 most strands of a job */

/* The fault ring. BASE, ORDER and VECTOR are writable while it is disabled. */
#define VFETCH_REG_FAULT_BASE		0x340	/* RW64 bus address, 64-byte aligned */
#define VFETCH_REG_FAULT_ORDER		0x348	/* RW32 log2 of its entries */
#define VFETCH_REG_FAULT_VECTOR		0x34c	/* RW32 MSI-X vector */
#define VFETCH_REG_FAULT_CONTROL	0x350	/* WO32 VFETCH_FCTL_* */
#define VFETCH_REG_FAULT_STATUS		0x354	/* RO32 VFETCH_FSTAT_*, error in bits 15:8 */
#define VFETCH_REG_FAULT_HEAD		0x358	/* WO32 doorbell, VFETCH_FAULT_DISARM */
#define VFETCH_REG_FAULT_TAIL		0x35c	/* RO32 next record to write */
#define VFETCH_REG_FAULT_MIN		0x360	/* RW32 records that send a message at once; 0 as 1 */
#define VFETCH_REG_FAULT_WAIT_NS	0x364	/* RW32 age at which fewer do */
#define VFETCH_REG_FAULT_REPLAY		0x368	/* WO32 doorbell: address space, or VFETCH_AS_ALL */

#define VFETCH_FCTL_ENABLE		0x1	/* start with the ring empty */
#define VFETCH_FCTL_RESET		0x2	/* disable; strands that faulted go on waiting */

#define VFETCH_FSTAT_ENABLED		0x1
#define VFETCH_FSTAT_ERROR_SHIFT	8
#define VFETCH_FSTAT_ERROR_MASK		0xff00

/* Why the fault ring stopped. Nothing more is written until it is reset. */
#define VFETCH_FERR_NONE		0
#define VFETCH_FERR_CONFIG		1	/* enabled with a bad base, order or vector */
#define VFETCH_FERR_HEAD		2	/* doorbell beyond what was written, or backwards */
#define VFETCH_FERR_WRITE		3	/* ring unwritable */

#define VFETCH_FAULT_DISARM		0x80000000	/* as VFETCH_CQ_DISARM */
#define VFETCH_FAULT_MAX_ORDER		12

/* Counters, as those above. RO64. */
#define VFETCH_REG_TLB_HITS		0x380
#define VFETCH_REG_TLB_MISSES		0x388	/* walks */
#define VFETCH_REG_FAULTS		0x390	/* records written */
#define VFETCH_REG_FAULT_WAIT_STRAND_NS	0x398	/* time that strands waited for replays, summed */
#define VFETCH_REG_REPLAYS		0x3a0
#define VFETCH_REG_INVALIDATIONS	0x3a8
#define VFETCH_REG_JOBS			0x3b0	/* that ended, however */
#define VFETCH_REG_REMOTE_READ		0x3b8	/* bytes read from host memory by jobs */
#define VFETCH_REG_REMOTE_WRITTEN	0x3c0	/* bytes written */

/* ---- BAR0: queue pairs -------------------------------------------------- */

/* Queue pair q has its registers at VFETCH_QUEUE_BASE + q * STRIDE. */
#define VFETCH_QUEUE_BASE		0x1000
#define VFETCH_QUEUE_STRIDE		0x40
#define VFETCH_MAX_QUEUES		8

/* BASE, ORDER, VECTOR and CLASS are writable while the queue is disabled. */
#define VFETCH_QREG_SQ_BASE		0x00	/* RW64 bus address, 64-byte aligned */
#define VFETCH_QREG_CQ_BASE		0x08	/* RW64 bus address, 64-byte aligned */
#define VFETCH_QREG_ORDER		0x10	/* RW32 log2 of the entries of either ring */
#define VFETCH_QREG_VECTOR		0x14	/* RW32 MSI-X vector */
#define VFETCH_QREG_CLASS		0x18	/* RW32 VFETCH_CLASS_* */
#define VFETCH_QREG_CONTROL		0x1c	/* WO32 VFETCH_QCTL_* */
#define VFETCH_QREG_STATUS		0x20	/* RO32 VFETCH_QSTAT_*, error in bits 15:8 */
#define VFETCH_QREG_SQ_TAIL		0x24	/* WO32 doorbell */
#define VFETCH_QREG_CQ_HEAD		0x28	/* WO32 doorbell, VFETCH_CQ_DISARM */
#define VFETCH_QREG_SQ_HEAD		0x2c	/* RO32 next descriptor to fetch */
#define VFETCH_QREG_CQ_TAIL		0x30	/* RO32 next completion to post */

#define VFETCH_CLASS_ORDINARY		0
#define VFETCH_CLASS_PRIORITY		1
#define VFETCH_CLASS_COMPUTE		2	/* jobs and nothing else */

#define VFETCH_QCTL_ENABLE		0x1	/* start with both rings empty */
#define VFETCH_QCTL_RESET		0x2	/* empty, then disable */

#define VFETCH_QSTAT_ENABLED		0x1
#define VFETCH_QSTAT_RESETTING		0x2	/* reset asked for and not acknowledged yet */
#define VFETCH_QSTAT_ERROR_SHIFT	8
#define VFETCH_QSTAT_ERROR_MASK		0xff00

/* Why a queue stopped. It fetches nothing more until it is reset. */
#define VFETCH_QERR_NONE		0
#define VFETCH_QERR_CONFIG		1	/* enabled with a bad base, order, vector or class */
#define VFETCH_QERR_SQ_TAIL		2	/* doorbell more than a ring ahead, or backwards */
#define VFETCH_QERR_CQ_HEAD		3	/* doorbell beyond what was posted */
#define VFETCH_QERR_SQ_READ		4	/* submission ring unreadable */
#define VFETCH_QERR_CQ_WRITE		5	/* completion ring unwritable */

/*
 * Ring indices are 16 bits, free-running; an entry's place is its index modulo
 * the ring's size. A write of CQ_HEAD re-arms the queue's interrupt unless
 * VFETCH_CQ_DISARM is set in it.
 */
#define VFETCH_INDEX_MASK		0xffff
#define VFETCH_CQ_DISARM		0x80000000
#define VFETCH_MIN_ORDER		1
#define VFETCH_MAX_ORDER		12

/* ---- descriptors -------------------------------------------------------- */

#define VFETCH_OP_READ			1	/* device memory to host memory */
#define VFETCH_OP_WRITE			2	/* host memory to device memory */
#define VFETCH_OP_FILL			3	/* host_addr is a pattern of 8 bytes */
#define VFETCH_OP_COPY			4	/* host_addr is the source in device memory */
#define VFETCH_OP_FENCE			5	/* completes after all before it in its queue */
#define VFETCH_OP_INVALIDATE		6	/* host_addr pages of `asid` from page device_addr on; 0: all of it */
#define VFETCH_OP_CANCEL		7	/* ends the jobs whose transaction is device_addr */
#define VFETCH_OP_JOB			8	/* host_addr is a struct vfetch_job's bus address */

#define VFETCH_DESC_RELAXED		0x1	/* may pass ordered transfers and other relaxed ones */
#define VFETCH_DESC_SG			0x2	/* host_addr is the scatter list's bus address */
#define VFETCH_DESC_QUIET		0x4	/* its completion sends no interrupt */
#define VFETCH_DESC_FLAGS		0x7	/* the others must be 0 */

struct vfetch_desc {
	__u8  opcode;		/* VFETCH_OP_* */
	__u8  flags;		/* VFETCH_DESC_* */
	__u16 sg_entries;	/* entries of the scatter list, else 0 */
	__u32 tag;		/* carried to the write records; 0: none */
	__u64 transaction;	/* comes back in the completion */
	__u64 device_addr;	/* byte of the function's own memory */
	__u64 host_addr;	/* bus address, scatter list, pattern or source */
	__u32 bytes;		/* 1 to MAX_BYTES; job: of the structure; fence, invalidate, cancel 0 */
	__u32 asid;		/* address space: job, invalidate; else 0 */
	__u64 reserved1[3];	/* 0 */
};

struct vfetch_sg {
	__u64 addr;		/* bus address */
	__u32 bytes;		/* not 0 */
	__u32 reserved;		/* 0 */
};

/* Statuses of a completion. */
#define VFETCH_STATUS_OK		0
#define VFETCH_STATUS_OPCODE		1	/* unknown opcode */
#define VFETCH_STATUS_FLAGS		2	/* unknown flag, reserved field not 0, flag not for this opcode */
#define VFETCH_STATUS_LENGTH		3	/* 0, above MAX_BYTES, or fill not in 8 bytes */
#define VFETCH_STATUS_DEVICE_RANGE	4	/* outside the function's memory */
#define VFETCH_STATUS_HOST_ACCESS	5	/* the host refused an access */
#define VFETCH_STATUS_SG		6	/* list unreadable, too long, or its sum is not bytes */
#define VFETCH_STATUS_FAILED		7	/* the transfer failed */
#define VFETCH_STATUS_CLASS		8	/* opcode not for a queue of this class */
#define VFETCH_STATUS_AS		9	/* no such address space */
#define VFETCH_STATUS_JOB		10	/* bad job: unknown kind, bad argument */
#define VFETCH_STATUS_SPACE_RANGE	11	/* the job left its space; value: the offset */
#define VFETCH_STATUS_TABLE		12	/* page table unreadable or malformed; value: the offset */
#define VFETCH_STATUS_CANCELLED		13	/* the job was cancelled */

struct vfetch_completion {
	__u64 transaction;	/* of the descriptor */
	__u64 time_ns;		/* device time when the transfer ended */
	__u32 bytes;		/* moved; all of them when the status is OK */
	__u16 status;		/* VFETCH_STATUS_* */
	__u16 phase;		/* bit 0: 1 in the first pass over the ring, then 0, 1, … */
	__u64 value;		/* of a job; else 0 */
};

#define VFETCH_PHASE			0x1

/* ---- address spaces ----------------------------------------------------- */

/*
 * A page is 4 KiB, a block 512 pages; all addresses are bus addresses. The table of a space has
 * three levels: `root` is an array of bus addresses, one for each 512 blocks, of arrays of 512 struct
 * vfetch_pt_block, one for each block. Its `leaf` is an array of 512 entries, one for each page, its
 * `marks` one of 512 bytes. The device reads the table when it misses in its TLB,
 * and may read it at any time; what was not valid is never cached.
 */
#define VFETCH_PAGE_SHIFT		12
#define VFETCH_PT_ENTRIES		512	/* of the second level, of a leaf, of marks */
#define VFETCH_MAX_AS			4096
#define VFETCH_AS_ALL			0xffffffff
#define VFETCH_AS_MAX_PAGES		(1ull << 28)	/* 1 TiB */

struct vfetch_as {
	__u64 root;		/* page-aligned; flat: first byte of the function's memory, page-aligned */
	__u64 pages;		/* size of the space */
	__u32 flags;		/* VFETCH_AS_* */
	__u32 reserved0;	/* 0 */
	__u64 reserved1;	/* 0 */
};

#define VFETCH_AS_VALID			0x1
#define VFETCH_AS_FLAT			0x2	/* no table: page n is the nth from `root` on */
#define VFETCH_AS_FLAGS			0x3

struct vfetch_pt_block {
	__u64 leaf;		/* page-aligned, | VFETCH_PT_VALID */
	__u64 marks;		/* 512-byte aligned; 0: none */
};

/* Entries of the root, vfetch_pt_block.leaf, and entries of a leaf. */
#define VFETCH_PT_VALID			0x1
/* Entries of a leaf. In one that is not valid all other bits are the driver's. */
#define VFETCH_PTE_WRITE		0x2	/* may be written */
#define VFETCH_PTE_REMOTE		0x4	/* the page is in host memory, at a bus address */
#define VFETCH_PTE_ADDRESS		0x000ffffffffff000ull	/* device address, or bus address */
#define VFETCH_PTE_IGNORED		0xff0	/* the driver's; all other bits are 0 */

/* Marks of a page. The device sets them when an entry enters the TLB, and at the first write by it. */
#define VFETCH_MARK_ACCESSED		0x1
#define VFETCH_MARK_DIRTY		0x2

/* A record of the fault ring. */
struct vfetch_fault {
	__u64 page;		/* of the space */
	__u64 time_ns;		/* device time */
	__u64 job;		/* transaction */
	__u16 asid;
	__u16 strand;
	__u8  access;		/* VFETCH_ACCESS_* */
	__u8  reason;		/* VFETCH_REASON_* */
	__u16 phase;		/* as in a completion */
};

#define VFETCH_ACCESS_READ		0
#define VFETCH_ACCESS_WRITE		1

#define VFETCH_REASON_ABSENT		0	/* no valid entry */
#define VFETCH_REASON_READ_ONLY		1	/* a write, and the entry is for reading */

/* ---- BAR5: faults on demand (PF, x-test=on) ----------------------------- */

/*
 * Write the rule's fields, then ARM to COMMAND, then read RESULT. A rule
 * applies to the descriptors of one function that match QUEUE and OPCODE: it
 * lets SKIP of them pass, hits COUNT of them and is then gone. Several rules
 * may hit one descriptor.
 */
#define VFETCH_TEST_ID			0x00	/* RO32 VFETCH_ID */
#define VFETCH_TEST_FUNCTION		0x04	/* RW32 */
#define VFETCH_TEST_QUEUE		0x08	/* RW32 VFETCH_TEST_ANY: any */
#define VFETCH_TEST_OPCODE		0x0c	/* RW32 0: any */
#define VFETCH_TEST_KIND		0x10	/* RW32 VFETCH_FAULT_* */
#define VFETCH_TEST_SKIP		0x14	/* RW32 */
#define VFETCH_TEST_COUNT		0x18	/* RW32 VFETCH_TEST_ANY: for ever */
#define VFETCH_TEST_ARG			0x20	/* RW64 by kind */
#define VFETCH_TEST_COMMAND		0x28	/* WO32 VFETCH_TEST_ARM, _CLEAR */
#define VFETCH_TEST_RESULT		0x2c	/* RO32 0, or an errno of the last command */
#define VFETCH_TEST_HITS		0x30	/* RO32 hits of KIND on FUNCTION since CLEAR */

#define VFETCH_TEST_ANY			0xffffffff
#define VFETCH_TEST_ARM			1
#define VFETCH_TEST_CLEAR		2	/* forget FUNCTION's rules and hits; releases what they hold up */
#define VFETCH_TEST_RULES		64	/* at most, in all */

#define VFETCH_FAULT_DROP		1	/* no completion */
#define VFETCH_FAULT_DELAY		2	/* completion and data ARG ns later */
#define VFETCH_FAULT_DUPLICATE		3	/* completion twice */
#define VFETCH_FAULT_CORRUPT		4	/* transaction id xor ARG */
#define VFETCH_FAULT_LATE_DATA		5	/* completion now, data ARG ns later */
#define VFETCH_FAULT_FAIL		6	/* status ARG (default FAILED), no data */
#define VFETCH_FAULT_STUCK		7	/* the queue stops until it is reset */
#define VFETCH_FAULT_WEDGED		8	/* … and its reset is not acknowledged: FLR */
#define VFETCH_FAULT_NO_INTERRUPT	9	/* completion without interrupt */
/* These apply to records of the fault ring as they are written, QUEUE and OPCODE being any. */
#define VFETCH_FAULT_RECORD_TWICE	10	/* the record comes twice */
#define VFETCH_FAULT_RECORD_SPURIOUS	11	/* one for page ARG comes behind it, which nobody waits for */
#define VFETCH_FAULT_RECORD_QUIET	12	/* the next message of the ring is lost */
#define VFETCH_FAULT_KINDS		12

#endif /* VFETCH_HW_H */
