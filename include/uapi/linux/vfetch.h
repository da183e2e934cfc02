/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * vfetch: memory of PCIe functions, shared with the host.
 *
 * This header is the manual of /dev/vfetchN, one node for each bound function
 * (a PF or a VF). N stays with a PCI address for as long as the module is
 * loaded. Nodes are created with mode 0600.
 *
 * SPACES. Each open() makes a *space*: memory of its own that is reached through the file, and that host
 * and function see at the same offsets. A space holds 0 bytes until VFETCH_IOC_SET_SIZE. What was never written
 * reads as zeros; what was written comes back; no other file ever sees it; the last close() frees and scrubs it.
 * dup() and fork() share the space, a second open() does not.
 *
 * PAGES. The contents of a page are in host memory or in the function's memory. They move to the other
 * side when it touches them: when a process that has the space mapped does, they come to the host; when a job of
 * the function does, they go to the device. Pages beside them come along, as the function's policy decides. read()
 * and write() move no page: they copy from and to where it is. A space may be larger than the function's memory; what does not
 * fit goes to the host, the least recently used block first (VFETCH_IOC_SET_LIMITS). A page that both sides take from one another
 * all the time stays with either for a moment, and after some of that in host memory, where the device reaches it, for a while. When the machine runs
 * short of memory pages go to the device, as far as it has memory that nobody uses. What user space knows better it can say
 * (VFETCH_IOC_ADVISE).
 *
 * Host memory is charged to the memory cgroup of the process that opened the file, whoever uses the space. Where that cgroup has no room left
 * for it, pages of the space go to the device likewise, before anybody is killed.
 *
 * MMAP. Shared mappings only (EINVAL otherwise), at any offset and length; they may be larger than the space. SIGBUS: a page
 * beyond the space's end; a lost page; no room for new contents; or the device did not deliver.
 * Mappings are inherited by fork(), may be moved but not grown by mremap(), and are left out of core dumps. Their pages can be used for
 * direct I/O, io_uring, ptrace and process_vm_readv(); one that is held so stays in host memory, and the function
 * reaches it there. ptrace and /proc/PID/mem keep a process from changing its mappings while they wait for a page:
 * after 5 seconds it is EIO.
 *
 * JOBS. VFETCH_IOC_SUBMIT has the function compute on the space (linux/vfetch_job.h).
 *
 * READ AND WRITE. read, pread, readv, write, pwrite, writev, splice, sendfile
 * and io_uring move data by DMA between the caller's buffer and the space, at
 * any offset, size and alignment. lseek() knows SEEK_SET, SEEK_CUR and SEEK_END,
 * and EINVAL beyond the end. O_APPEND means nothing here.
 *
 *   - At or beyond the end, read returns 0 and write fails with ENOSPC. Across
 *     the end both are short.
 *   - A transfer that stops midway returns what it has moved; the error comes
 *     with the next call.
 *   - When write() returns, every read() that starts later sees its data.
 *     Concurrent access to one page is atomic for aligned 8 bytes.
 *   - O_NONBLOCK: EAGAIN rather than waiting for a free slot in the device's
 *     queue, for a recovery, or for a page that is on its way. A
 *     transfer that the device has is waited for (microseconds to milliseconds).
 *   - A signal ends these waits (a short count; if nothing has moved, EINTR, or
 *     with SA_RESTART, as after SIGSTOP and SIGCONT, the call starts again), but not the wait for a
 *     transfer, since the device is using the caller's memory. That one is bounded by the
 *     module's timeout_ms and the recovery that follows (seconds at the worst). A call
 *     consists of several transfers; after a fatal signal no more of them begin.
 *   - RWF_NOWAIT is not supported (EOPNOTSUPP). io_uring works; requests run one
 *     after the other unless IOSQE_ASYNC sends them to its worker threads.
 *
 * Errors of read and write:
 *   EFAULT   the caller's buffer is not all readable or writable
 *   EAGAIN   see O_NONBLOCK
 *   EINTR    a signal came before anything moved
 *   EINVAL   negative offset
 *   EIO      the transfer failed or timed out; or the page was lost (below)
 *   ENODEV   the device is gone, or the function was unbound
 *   ENOMEM   no kernel memory for the transfer, or for new contents
 *   ENOSPC   write at or beyond the space's end
 *
 * LOST PAGES. A function reset (sysfs `reset`, or a recovery that a queue reset
 * could not do) scrubs the function's memory. Pages that had contents are then
 * *lost*: reading one is EIO, never zeros. A lost page ends being lost when it is
 * overwritten as a whole by one write(), discarded (VFETCH_IOC_DISCARD), or cut off by SET_SIZE.
 *
 * POLL. POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM: the space has a size, no
 * recovery is under way, and the ordinary queue has a free slot. POLLPRI: a job has ended that was not waited for. POLLRDBAND: the trace that this
 * file began has records, or has ended, so that VFETCH_IOC_TRACE_READ does not wait. POLLERR: the space has lost pages. POLLHUP | POLLERR: the device
 * is gone.
 *
 * IOCTLS. A structure's size is part of the command, and structures grow at
 * the end: a caller with a shorter structure gets, and sets, what it holds (the
 * rest is 0); one with a longer structure must hold 0 in what the driver does not
 * know (E2BIG otherwise) and gets 0 there. Layouts are the same for 32- and
 * 64-bit callers. All numbers are in the machine's byte order.
 *
 * Errors of every ioctl:
 *   ENOTTY   unknown command
 *   EINVAL   unknown flag, reserved field not 0, or a structure too short to hold the required fields
 *   E2BIG    unknown part of a longer structure is not 0
 *   EFAULT   the structure is not readable or writable
 *   EBADF    the file is not open for writing (SET_SIZE, DISCARD, SET_LIMITS, SET_POLICY), not for reading (TRACE_START), or not for both (SUBMIT)
 *   ENODEV   the device is gone (GET_INFO and GET_STATS still answer)
 */
#ifndef _UAPI_LINUX_VFETCH_H
#define _UAPI_LINUX_VFETCH_H

#include <linux/ioctl.h>
#include <linux/types.h>
#include <linux/vfetch_job.h>

/* Changes only when an old program would misunderstand a new driver. */
#define VFETCH_ABI_VERSION	1

#define VFETCH_IOC_MAGIC	0xA8

/* Memory is managed in pages; larger decisions are made for blocks. */
#define VFETCH_PAGE_BYTES	4096
#define VFETCH_BLOCK_BYTES	2097152

/* vfetch_info.kind */
#define VFETCH_KIND_PF		0
#define VFETCH_KIND_VF		1

/* vfetch_info.state */
#define VFETCH_STATE_READY	0
#define VFETCH_STATE_RECOVERING	1	/* a queue or function reset is under way */
#define VFETCH_STATE_GONE	2	/* removed, unbound, or beyond recovery */

/**
 * struct vfetch_info - what this function is
 * @flags: in: must be 0
 * @abi_version: VFETCH_ABI_VERSION of the driver
 * @kind: VFETCH_KIND_*
 * @state: VFETCH_STATE_*
 * @function: 0 for the PF, n for its nth VF, counted from 1
 * @node: N of /dev/vfetchN
 * @pci_domain: PCI address of the function
 * @pci_bus: bus number
 * @pci_devfn: device number << 3 | PCI function number
 * @vendor: PCI vendor id
 * @device: PCI device id
 * @queues: queue pairs in use
 * @queue_entries: slots of each
 * @transfer_max_bytes: largest single device transfer; read and write have no such limit
 * @page_bytes: VFETCH_PAGE_BYTES
 * @block_bytes: VFETCH_BLOCK_BYTES
 * @memory_bytes: device memory of the function
 * @free_bytes: of it, what SET_SIZE could still hand out
 * @window_bytes: size of the function's window (BAR2)
 * @link_latency_ns: of a transfer, as the device says
 * @link_bytes_per_us: of the link that all functions of the device share
 * @link_weight: this function's weight on it
 * @generation: function resets that the driver has seen
 * @pf_node: node of its PF; the same as @node for a PF; VFETCH_NODE_NONE when the PF is not bound here
 * @strands: most strands of a job; 0: the function does not compute
 * @space_bytes: size of this file's space
 * @space_lost_pages: pages of this space that are lost
 */
struct vfetch_info {
	__u32 flags;
	__u32 abi_version;
	__u32 kind;
	__u32 state;
	__u32 function;
	__u32 node;
	__u32 pci_domain;
	__u16 pci_bus;
	__u16 pci_devfn;
	__u16 vendor;
	__u16 device;
	__u32 queues;
	__u32 queue_entries;
	__u32 transfer_max_bytes;
	__u32 page_bytes;
	__u32 block_bytes;
	__u64 memory_bytes;
	__u64 free_bytes;
	__u64 window_bytes;
	__u32 link_latency_ns;
	__u32 link_bytes_per_us;
	__u32 link_weight;
	__u32 generation;
	__u32 pf_node;
	__u32 strands;
	__u64 space_bytes;
	__u64 space_lost_pages;
};

#define VFETCH_NODE_NONE	0xffffffff

/**
 * struct vfetch_stats - counters of this function since it was bound
 * @flags: in: must be 0
 * @spaces: open files
 * @reads: read calls that moved data
 * @writes: write calls that moved data
 * @read_bytes: given to callers
 * @written_bytes: taken from callers
 * @transfers: device transfers completed without error
 * @transfer_errors: completed with an error of the device
 * @to_host_bytes: moved from device memory by transfers
 * @to_device_bytes: moved to device memory by transfers
 * @scrubbed_bytes: device memory cleared before it was given on
 * @zero_bytes: delivered as zeros without a transfer, since never written
 * @timeouts: transfers given up after the time-out
 * @queue_resets: queue resets by the driver
 * @function_resets: function resets that the driver has seen or asked for
 * @lost_pages: pages that lost their contents, ever
 * @interrupts: handled
 * @bad_completions: completions with an unknown, late or duplicate transaction id
 * @slot_waits: times a caller waited for a queue slot
 * @in_flight: transfers now
 * @device_pages: pages that hold contents now
 * @device_busy_ns: link time, as counted by the device since its last reset
 * @device_wait_ns: time transfers waited for the link, likewise
 * @device_errors: descriptors that the device refused or failed, likewise
 * @device_queue_errors: likewise, times that a queue stopped
 * @device_time_ns: device clock when the counters were read
 * @host_faults: faults of processes that have a space mapped
 * @device_faults: faults of jobs
 * @fault_batches: batches in which they were served
 * @invalidations: of the device's memory of page tables
 * @evictions: blocks that were sent to the other side to make room
 * @evicted_pages: pages of theirs
 * @throttled: times that a page was not moved to who wanted it yet, since it was thrashing
 * @thrashing_pins: pages that were pinned to the host for that
 * @thrashing_unpins: pages whose pins were over
 * @thrashing_missed: blocks that were not watched for want of kernel memory
 * @window_pins: pages that were pinned to the device for that, and mapped through the window
 * @window_misses: those that could not, since there was no frame of the window free
 */
struct vfetch_stats {
	__u32 flags;
	__u32 spaces;
	__u64 reads;
	__u64 writes;
	__u64 read_bytes;
	__u64 written_bytes;
	__u64 transfers;
	__u64 transfer_errors;
	__u64 to_host_bytes;
	__u64 to_device_bytes;
	__u64 scrubbed_bytes;
	__u64 zero_bytes;
	__u64 timeouts;
	__u64 queue_resets;
	__u64 function_resets;
	__u64 lost_pages;
	__u64 interrupts;
	__u64 bad_completions;
	__u64 slot_waits;
	__u64 in_flight;
	__u64 device_pages;
	__u64 device_busy_ns;
	__u64 device_wait_ns;
	__u64 device_errors;
	__u64 device_queue_errors;
	__u64 device_time_ns;
	__u64 host_faults;
	__u64 device_faults;
	__u64 fault_batches;
	__u64 invalidations;
	__u64 evictions;
	__u64 evicted_pages;
	__u64 throttled;
	__u64 thrashing_pins;
	__u64 thrashing_unpins;
	__u64 thrashing_missed;
	__u64 window_pins;
	__u64 window_misses;
};

/**
 * struct vfetch_size - the size of this file's space
 * @flags: in: VFETCH_SIZE_RESERVE, VFETCH_SIZE_FLAT or 0
 * @reserved: in: must be 0
 * @bytes: in: new size, a multiple of VFETCH_PAGE_BYTES
 *
 * A space may be as large as 1 TiB; it takes memory for pages that have contents. With VFETCH_SIZE_RESERVE a frame of the
 * function's memory is set aside for each page at once, so that no later write fails for room; then all of a space's
 * sizes are set with it. Growing keeps the contents and adds zeros. Shrinking discards what lies beyond the new end;
 * processes that have it mapped get SIGBUS there. 0 gives everything back.
 *
 * With VFETCH_SIZE_FLAT the space is *flat*: its pages are in neighbouring frames of the function's memory from the start, where the device finds
 * them without a page table, and never move. That is what managed memory is to be compared with. Jobs,
 * read() and write() use it as any space, and RESIDENCY finds all of it on the device. A process that has it mapped gets SIGBUS; DISCARD and
 * ADVISE say EOPNOTSUPP. Its frames count as device memory that is in use, and limits do not change that. A flat space has
 * one size: 0 ends it, and its jobs with ERANGE. A function reset takes all of it, and what is lost stays so until the size is 0.
 *
 * Errors, with which the size stays: EINVAL not a multiple of the page, both flags, with a flag where the size was set without (or the other
 * way round), or another size of a flat space; EFBIG more than 1 TiB; ENOSPC with a flag, the function has not that much free (flat: in
 * one piece); EIO flat, and the device did not clear it; ENOMEM no kernel memory. A process that is killed (EINTR) does not wait for pages that are on
 * their way: a space that it was making smaller has its new size, and what was cut off is forgotten when the size is set the next time.
 */
#define VFETCH_SIZE_RESERVE	0x1	/* a frame for each page, at once */
#define VFETCH_SIZE_FLAT	0x2	/* neighbouring frames, and no page table */

struct vfetch_size {
	__u32 flags;
	__u32 reserved;
	__u64 bytes;
};

/**
 * struct vfetch_range - a part of this file's space
 * @flags: in: must be 0
 * @reserved: in: must be 0
 * @offset: in: first byte, a multiple of VFETCH_PAGE_BYTES
 * @bytes: in: length, a multiple of VFETCH_PAGE_BYTES
 *
 * VFETCH_IOC_DISCARD: the pages read as zeros again, lost ones included; their
 * memory is scrubbed. The size stays.
 *
 * Errors: EINVAL not a multiple of the page; ERANGE not all inside the space; EOPNOTSUPP the space is flat. EINTR killed midway.
 */
struct vfetch_range {
	__u32 flags;
	__u32 reserved;
	__u64 offset;
	__u64 bytes;
};

/**
 * struct vfetch_submit - a job for the function to compute on this file's space
 * @flags: in: VFETCH_SUBMIT_EVENTFD or 0
 * @eventfd: in: with VFETCH_SUBMIT_EVENTFD, an eventfd that is signalled when the job has ended; else 0
 * @id: out: names the job in VFETCH_IOC_WAIT and _CANCEL; not 0
 * @job: in: the job (linux/vfetch_job.h)
 *
 * Returns when the device has the job, which runs beside other jobs of this and other spaces. Pages that it
 * touches come to the device as it touches them; the host may use the space meanwhile. A job that
 * has ended is kept until it is waited for, or the file is closed, which cancels those that run.
 *
 * Errors: EINVAL the job is wrong in a way that can be known beforehand; EAGAIN 64 jobs were not waited for,
 * or O_NONBLOCK and the device's queue is full; EBADF no such eventfd; ENOMEM; ENOSPC too many spaces
 * of the function have jobs; EOPNOTSUPP the device computes nothing; EINTR a signal came first; EFAULT @id cannot be
 * written, in which case the job was ended and need not be waited for.
 */
struct vfetch_submit {
	__u32 flags;
	__s32 eventfd;
	__u64 id;
	struct vfetch_job job;
};

#define VFETCH_SUBMIT_EVENTFD	0x1

/**
 * struct vfetch_wait - waits for a job
 * @flags: in: must be 0
 * @status: out: 0, or why the job ended: EINVAL a bad argument; ERANGE it left the space, at the offset @value; EIO
 *	it touched a lost page, or its queue was reset; ENOSPC there was no room for what it wrote, ENOMEM no kernel memory;
 *	ECANCELED; ENODEV the device is gone
 * @id: in: of the job
 * @timeout_ns: in: for how long to wait at most; negative: for ever. Rounded up to milliseconds
 * @value: out: of the job, by its kind
 * @time_ns: out: when it ended, by the device's clock (vfetch_stats.device_time_ns)
 *
 * When this returns 0 everything that the job has written is visible, and the job is forgotten.
 *
 * Errors: ENOENT no such job; ETIME it has not ended; EINTR a signal came first.
 */
struct vfetch_wait {
	__u32 flags;
	__u32 status;
	__u64 id;
	__s64 timeout_ns;
	__u64 value;
	__u64 time_ns;
};

/**
 * struct vfetch_cancel - ends a job
 * @flags: in: must be 0
 * @reserved: in: must be 0
 * @id: in: of the job
 *
 * When this returns 0 the job has ended; what it has written until then stays. It is still to be waited for.
 *
 * Jobs may take as long as they like: nobody can tell one of which the device has lost the end from one that takes long. When it
 * was cancelled and its end is not heard of within the module's timeout_ms, the queue of jobs is reset, which ends all
 * jobs of the function with EIO.
 *
 * Errors: ENOENT no such job; EIO the device does not end it: its queue is being reset.
 */
struct vfetch_cancel {
	__u32 flags;
	__u32 reserved;
	__u64 id;
};

/* What limits are of. */
#define VFETCH_SCOPE_SPACE	0	/* this file's space */
#define VFETCH_SCOPE_FUNCTION	1	/* all spaces of the function together */

/**
 * struct vfetch_limits - how much memory may be used where
 * @flags: in: must be 0
 * @scope: in: VFETCH_SCOPE_*
 * @host_bytes: host memory, multiple of the page, at least VFETCH_LIMIT_MIN_BYTES
 * @device_bytes: device memory, likewise; more than the function has means all of it
 * @host_used_bytes: out: in use now
 * @device_used_bytes: out: likewise
 *
 * To begin with a space and a function may use half of the machine's memory and all of the function's. What does not fit
 * on one side goes to the other, the least recently used block first. Contents that would fit
 * nowhere are refused: SIGBUS for a process that has the space mapped, ENOSPC for write() and for a job. A
 * quarter of each side, at most a block, is kept free for pages that change sides.
 *
 * VFETCH_IOC_SET_LIMITS sends blocks away until what is used fits, as far as it can be done; what does not go
 * by itself (pages that are pinned for I/O) stays. Pages on their way to the device may be beyond its limit, by two blocks at most. It changes nothing for spaces with VFETCH_SIZE_RESERVE or VFETCH_SIZE_FLAT.
 *
 * Errors: EINVAL unknown scope, a limit too small or not a multiple of the page.
 */
struct vfetch_limits {
	__u32 flags;
	__u32 scope;
	__u64 host_bytes;
	__u64 device_bytes;
	__u64 host_used_bytes;
	__u64 device_used_bytes;
};

#define VFETCH_LIMIT_MIN_BYTES	1048576

/* Policies: who decides which pages come along with those that fault. ARCHITECTURE.md says what each does. */
#define VFETCH_POLICY_NONE		0
#define VFETCH_POLICY_ALWAYS_MAX	1
#define VFETCH_POLICY_FIXED		2
#define VFETCH_POLICY_TRAFFIC		3
#define VFETCH_POLICY_PRESSURE		4
#define VFETCH_POLICY_STRIDE		5
#define VFETCH_POLICY_MULTI_LEVEL	6
#define VFETCH_POLICY_THRASHING_AWARE	7
#define VFETCH_POLICY_PROBABILISTIC	8
#define VFETCH_POLICY_LRU		9
#define VFETCH_POLICY_FREQUENCY		10
#define VFETCH_POLICY_AUTO		11
#define VFETCH_POLICIES			12

/**
 * struct vfetch_policy - how a function prefetches
 * @flags: in: must be 0
 * @enabled: 0: nothing comes along, 1
 * @policy: VFETCH_POLICY_*
 * @threshold: percent of a node of the tree that must be resident, 1 to 100
 * @min_faults: faults of a block before anything comes along, 1 to 20
 * @compat: 1: answers as NVIDIA's driver does, 0: exactly
 * @ats: 1: faults count as they are, 0: they grow to 64 KiB first
 * @sample_period_us: of the policies that adapt to traffic and to pressure, 1 to 10000000
 * @stride_degree: strides ahead, 1 to 64
 * @aggressiveness: of the probabilistic policy, in percent of the hit rate, 0 to 1000
 * @neighbours: of the LRU-based policy: 64 KiB that it looks at, 1 to 8
 * @horizon_us: of the fault-frequency-based policy, 1 to 10000000
 *
 * VFETCH_IOC_SET_POLICY holds for all spaces of the function, from the next fault on. What holds before is what the module parameters
 * prefetch_enable, prefetch_threshold and prefetch_min_faults said, which have the ranges of @enabled, @threshold and @min_faults; the rest
 * are defaults.
 *
 * Errors: EINVAL a value out of its range; nothing has changed then.
 */
struct vfetch_policy {
	__u32 flags;
	__u32 enabled;
	__u32 policy;
	__u32 threshold;
	__u32 min_faults;
	__u32 compat;
	__u32 ats;
	__u32 sample_period_us;
	__u32 stride_degree;
	__u32 aggressiveness;
	__u32 neighbours;
	__u32 horizon_us;
};

/**
 * struct vfetch_policy_stats - what came of the hints of a function's policy
 * @flags: in: must be 0
 * @policy: in: VFETCH_POLICY_*, or VFETCH_POLICY_ALL: the sum
 * @decisions: out: that it was asked for
 * @hints: out: those in which pages came along
 * @withheld: out: hints that were withheld, because of too few faults
 * @invalid: out: answers that were invalid
 * @prefetched_pages: out: pages that came along
 * @used_pages: out: of them, those that were used afterwards
 * @late_pages: out: those that were asked for while they were on their way
 * @unused_pages: out: those that were sent back unused
 * @dropped_pages: out: those of which nothing more is known
 */
struct vfetch_policy_stats {
	__u32 flags;
	__u32 policy;
	__u64 decisions;
	__u64 hints;
	__u64 withheld;
	__u64 invalid;
	__u64 prefetched_pages;
	__u64 used_pages;
	__u64 late_pages;
	__u64 unused_pages;
	__u64 dropped_pages;
};

#define VFETCH_POLICY_ALL	0xffffffff

/* Where a page of a space is. */
#define VFETCH_PAGE_NONE	0	/* it has no contents, and reads as zeros */
#define VFETCH_PAGE_HOST	1
#define VFETCH_PAGE_DEVICE	2
#define VFETCH_PAGE_MOVING	3
#define VFETCH_PAGE_LOST	4
#define VFETCH_PAGE_PINNED	0x80	/* with _HOST, _DEVICE: the other side reaches it there */

/**
 * struct vfetch_residency - where the pages of a part of this file's space are
 * @flags: in: must be 0
 * @reserved: in: must be 0
 * @offset: in: first byte, a multiple of VFETCH_PAGE_BYTES
 * @bytes: in: length, a multiple of VFETCH_PAGE_BYTES
 * @pages: in: address of bytes / VFETCH_PAGE_BYTES bytes, each of which becomes VFETCH_PAGE_*; 0: only count
 * @none: out: pages without contents
 * @host: out: pages that the host owns
 * @device: out: pages that the device owns
 * @moving: out: pages on their way
 * @lost: out: pages that are lost
 *
 * Errors: EINVAL not a multiple of the page; ERANGE not all inside the space; EFAULT @pages cannot be written.
 */
struct vfetch_residency {
	__u32 flags;
	__u32 reserved;
	__u64 offset;
	__u64 bytes;
	__u64 pages;
	__u64 none;
	__u64 host;
	__u64 device;
	__u64 moving;
	__u64 lost;
};

/*
 * What is said of pages. It holds for what is at these offsets, with or without contents, until something else is said, the
 * space ends before them, or the file is closed; nothing moves when it is said. It is advice: where there is no
 * memory for it pages are somewhere else, and contents are always the same.
 */
#define VFETCH_ADVICE_NORMAL		0	/* nothing is said any more */
/*
 * Where pages are wanted. Host: the device reaches them in host memory, as long as they are there, and they get
 * their first contents there. Device: a block that the device touches first gets all of its pages there at once, and pages that the host
 * and the device take from one another all the time stay there for a while, and are mapped through the function's window (BAR2) as far as it
 * has room; such a page cannot be the buffer of direct I/O, of io_uring, or of read() and write() of a space then (EFAULT, or what the
 * kernel says elsewhere: EEXIST), nor be looked at by ptrace. Faults of the other side bring nothing along.
 */
#define VFETCH_ADVICE_PREFER_HOST	1
#define VFETCH_ADVICE_PREFER_DEVICE	2
#define VFETCH_ADVICE_PREFER_NONE	3
/* While they are in host memory the device reaches them there, and does not take them. */
#define VFETCH_ADVICE_ACCESSED_BY_DEVICE	4
#define VFETCH_ADVICE_NOT_ACCESSED_BY_DEVICE	5
/* Nothing comes along with them, and they come along with nothing. */
#define VFETCH_ADVICE_NO_PREFETCH	6
#define VFETCH_ADVICE_PREFETCH		7
/*
 * Brings those that have contents, whatever else was said, and waits until they are there: as many as may be there (VFETCH_IOC_SET_LIMITS),
 * from the first on. Others go to make room. Pages that somebody has pinned for I/O stay in host memory.
 */
#define VFETCH_ADVICE_WILL_NEED_HOST	8
#define VFETCH_ADVICE_WILL_NEED_DEVICE	9
/* They read as zeros again, lost ones included, as after VFETCH_IOC_DISCARD; their memory is scrubbed when it is used again. */
#define VFETCH_ADVICE_DO_NOT_NEED	10

/* Parts of a space that may differ in what was said of them. */
#define VFETCH_ADVICE_MOST	4096

/**
 * struct vfetch_advise - says something of a part of this file's space
 * @flags: in: must be 0
 * @advice: in: VFETCH_ADVICE_*
 * @offset: in: first byte, a multiple of VFETCH_PAGE_BYTES
 * @bytes: in: length, a multiple of VFETCH_PAGE_BYTES
 *
 * Errors: EINVAL unknown advice, or not a multiple of the page; ERANGE not all inside the space; ENOSPC more than
 * VFETCH_ADVICE_MOST parts differ; ENOMEM no kernel memory; EOPNOTSUPP the space is flat; EINTR killed midway; EBADF VFETCH_ADVICE_DO_NOT_NEED, and the file is not
 * open for writing.
 */
struct vfetch_advise {
	__u32 flags;
	__u32 advice;
	__u64 offset;
	__u64 bytes;
};

/* What a record of a trace says; bit n of vfetch_trace_start.kinds asks for VFETCH_TRACE_n. */
#define VFETCH_TRACE_BATCH		1	/* @count faults of jobs were taken from the device */
#define VFETCH_TRACE_DEVICE_FAULTS	2	/* jobs faulted on @pages, those in @more to write */
#define VFETCH_TRACE_HOST_FAULT		3	/* a process faulted on @pages (one), to write if it is in @more */
#define VFETCH_TRACE_HINT		4	/* @policy has @pages come along to @to with faults on @more */
#define VFETCH_TRACE_MOVE		5	/* @pages begin to move to @to */
#define VFETCH_TRACE_ARRIVED		6	/* @pages have moved to @to */
#define VFETCH_TRACE_STAYED		7	/* @pages did not move to @to, for @error */
#define VFETCH_TRACE_EVICTED		8	/* @pages made room by moving to @to */
#define VFETCH_TRACE_THRASHING		9	/* @pages thrash and are held back from @to, which wants them; those in @more are pinned */
#define VFETCH_TRACE_UNPINNED		10	/* @pages that thrashed may move again */
#define VFETCH_TRACE_KINDS		10

/* Where pages go. */
#define VFETCH_TRACE_TO_HOST	0
#define VFETCH_TRACE_TO_DEVICE	1

#define VFETCH_TRACE_MASK_WORDS	8

/**
 * struct vfetch_trace_record - something that a function's memory manager did or saw
 * @time_ns: when, by CLOCK_MONOTONIC
 * @number: of the record, from 0; counts those that were lost too
 * @kind: VFETCH_TRACE_*
 * @to: VFETCH_TRACE_TO_*; 0 where it says nothing
 * @policy: VFETCH_POLICY_* in force, of VFETCH_TRACE_HINT
 * @count: of VFETCH_TRACE_BATCH: faults; of others: how many pages are in @pages
 * @space: which space of the function; numbers are not used twice
 * @move: names the migration in VFETCH_TRACE_MOVE, _ARRIVED and _STAYED; else 0
 * @first: first page of the block that the masks are of, in the space
 * @error: of VFETCH_TRACE_STAYED: an errno, or 0 where somebody else holds the pages
 * @reserved: 0
 * @pages: bit i % 64 of word i / 64: page @first + i
 * @more: likewise; see the kinds
 */
struct vfetch_trace_record {
	__u64 time_ns;
	__u64 number;
	__u32 kind;
	__u32 to;
	__u32 policy;
	__u32 count;
	__u64 space;
	__u64 move;
	__u64 first;
	__u32 error;
	__u32 reserved;
	__u64 pages[VFETCH_TRACE_MASK_WORDS];
	__u64 more[VFETCH_TRACE_MASK_WORDS];
};

/**
 * struct vfetch_trace_start - begins to trace a function
 * @flags: in: must be 0
 * @kinds: in: bit n: records of VFETCH_TRACE_n; at least one
 * @records: in: how many the driver keeps until they are read, 64 to 65536 (each takes 192 bytes)
 * @reserved: in: must be 0
 *
 * The trace is of all spaces of the function, and belongs to this file: it ends with VFETCH_IOC_TRACE_STOP, or when the file is
 * closed. One file traces a function at a time. While nobody does it costs a function one load for each record that is
 * not made. When the driver's records are all unread, new ones are lost: their numbers are left out, and
 * they are counted (vfetch_trace_read.lost).
 *
 * Errors: EINVAL no such kind, or a number of records out of range; EBUSY the function is being traced; ENOMEM.
 */
struct vfetch_trace_start {
	__u32 flags;
	__u32 kinds;
	__u32 records;
	__u32 reserved;
};

/**
 * struct vfetch_trace_read - takes records of the trace that this file began, the oldest first
 * @flags: in: must be 0
 * @count: in: how many there is room for, at least 1; out: how many were taken
 * @records: in: address of so many struct vfetch_trace_record
 * @timeout_ns: in: for how long to wait at most while there is none; negative: for ever. Rounded up to milliseconds
 * @lost: out: records that were lost since the beginning of the trace
 *
 * When VFETCH_IOC_TRACE_STOP was called, or the function is gone, what is left can still be read; then @count is 0. POLLRDBAND says when a
 * call would not wait.
 *
 * Errors: EINVAL @count is 0, or this file began no trace; EFAULT @records cannot be written, in which case up to 64 records
 * are lost and counted; ETIME none came; EINTR a signal came first.
 */
struct vfetch_trace_read {
	__u32 flags;
	__u32 count;
	__u64 records;
	__s64 timeout_ns;
	__u64 lost;
};

/**
 * struct vfetch_trace_stop - ends the trace that this file began
 * @flags: in: must be 0
 * @reserved: in: must be 0
 *
 * Errors: EINVAL this file began no trace.
 */
struct vfetch_trace_stop {
	__u32 flags;
	__u32 reserved;
};

#define VFETCH_IOC_GET_INFO	_IOWR(VFETCH_IOC_MAGIC, 0x00, struct vfetch_info)
#define VFETCH_IOC_GET_STATS	_IOWR(VFETCH_IOC_MAGIC, 0x01, struct vfetch_stats)
#define VFETCH_IOC_SET_SIZE	_IOW(VFETCH_IOC_MAGIC, 0x02, struct vfetch_size)
#define VFETCH_IOC_DISCARD	_IOW(VFETCH_IOC_MAGIC, 0x03, struct vfetch_range)
#define VFETCH_IOC_SUBMIT	_IOWR(VFETCH_IOC_MAGIC, 0x04, struct vfetch_submit)
#define VFETCH_IOC_WAIT		_IOWR(VFETCH_IOC_MAGIC, 0x05, struct vfetch_wait)
#define VFETCH_IOC_CANCEL	_IOW(VFETCH_IOC_MAGIC, 0x06, struct vfetch_cancel)
#define VFETCH_IOC_GET_LIMITS	_IOWR(VFETCH_IOC_MAGIC, 0x07, struct vfetch_limits)
#define VFETCH_IOC_SET_LIMITS	_IOWR(VFETCH_IOC_MAGIC, 0x08, struct vfetch_limits)
#define VFETCH_IOC_GET_POLICY	_IOWR(VFETCH_IOC_MAGIC, 0x09, struct vfetch_policy)
#define VFETCH_IOC_SET_POLICY	_IOW(VFETCH_IOC_MAGIC, 0x0a, struct vfetch_policy)
#define VFETCH_IOC_POLICY_STATS	_IOWR(VFETCH_IOC_MAGIC, 0x0b, struct vfetch_policy_stats)
#define VFETCH_IOC_RESIDENCY	_IOWR(VFETCH_IOC_MAGIC, 0x0c, struct vfetch_residency)
#define VFETCH_IOC_ADVISE	_IOW(VFETCH_IOC_MAGIC, 0x0d, struct vfetch_advise)
#define VFETCH_IOC_TRACE_START	_IOW(VFETCH_IOC_MAGIC, 0x10, struct vfetch_trace_start)
#define VFETCH_IOC_TRACE_READ	_IOWR(VFETCH_IOC_MAGIC, 0x11, struct vfetch_trace_read)
#define VFETCH_IOC_TRACE_STOP	_IOW(VFETCH_IOC_MAGIC, 0x12, struct vfetch_trace_stop)

#endif /* _UAPI_LINUX_VFETCH_H */
