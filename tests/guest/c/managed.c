// SPDX-License-Identifier: GPL-2.0
/*
 * managed NODE: limits, policies, advice, where pages are, and the trace, as a
 * stranger would use them: by the uapi headers and nothing else. Built for 64-bit
 * and for 32-bit callers. Prints TAP.
 */
#include <linux/vfetch.h>

#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tap.h"

#define PAGE VFETCH_PAGE_BYTES
#define WORDS (PAGE / 8)
/* Six blocks. */
#define PAGES 3072
#define MIB (1ull << 20)
/* Longer than anything takes. */
#define PATIENCE_NS 30000000000LL
#define PATIENCE_MS 30000

_Static_assert(sizeof(struct vfetch_limits) == 40, "vfetch_limits");
_Static_assert(sizeof(struct vfetch_policy) == 48, "vfetch_policy");
_Static_assert(sizeof(struct vfetch_policy_stats) == 80, "vfetch_policy_stats");
_Static_assert(sizeof(struct vfetch_residency) == 72, "vfetch_residency");
_Static_assert(sizeof(struct vfetch_advise) == 24, "vfetch_advise");
_Static_assert(sizeof(struct vfetch_trace_record) == 192, "vfetch_trace_record");
_Static_assert(sizeof(struct vfetch_trace_start) == 16, "vfetch_trace_start");
_Static_assert(sizeof(struct vfetch_trace_read) == 32, "vfetch_trace_read");
_Static_assert(sizeof(struct vfetch_trace_stop) == 8, "vfetch_trace_stop");
_Static_assert(offsetof(struct vfetch_trace_record, pages) == 64, "pages");

static const char *node;
static int fd;
static uint64_t *memory;

/* Has the function stamp pages: they are its own then. 0, or why not. */
static long long stamp(size_t page, size_t pages, unsigned int generation)
{
	struct vfetch_submit submit = {
		.job = { .kind = VFETCH_JOB_STAMP, .strands = 32, .element_ps = 100 },
	};
	struct vfetch_wait end = { .timeout_ns = PATIENCE_NS };

	submit.job.argument[0] = page * PAGE;
	submit.job.argument[1] = pages * WORDS;
	submit.job.argument[2] = page * WORDS;
	submit.job.argument[3] = generation;
	if (ioctl(fd, VFETCH_IOC_SUBMIT, &submit))
		return -1;
	end.id = submit.id;
	if (ioctl(fd, VFETCH_IOC_WAIT, &end))
		return -1;
	return end.status;
}

/* A word of the mapping, which others change. */
static uint64_t load(size_t word)
{
	return __atomic_load_n(&memory[word], __ATOMIC_SEQ_CST);
}

static int is_stamped(size_t page, unsigned int generation)
{
	return load(page * WORDS + 7) == VFETCH_JOB_STAMPED(page * WORDS + 7, generation);
}

static int advise(unsigned int advice, size_t page, size_t pages)
{
	struct vfetch_advise said = {
		.advice = advice,
		.offset = page * PAGE,
		.bytes = (unsigned long long)pages * PAGE,
	};

	return ioctl(fd, VFETCH_IOC_ADVISE, &said);
}

/* Where pages are, once none is on its way. */
static struct vfetch_residency where(size_t page, size_t pages, unsigned char *each)
{
	struct vfetch_residency found = {
		.offset = page * PAGE,
		.bytes = (unsigned long long)pages * PAGE,
		.pages = (uintptr_t)each,
	};

	int answer;

	do {
		answer = ioctl(fd, VFETCH_IOC_RESIDENCY, &found);
	} while (!answer && found.moving && !usleep(1000));
	is(answer, 0, "RESIDENCY answers");
	return found;
}

static void try_residency(void)
{
	struct vfetch_residency found, bad = { .offset = PAGE, .bytes = PAGES * PAGE };
	unsigned char each[8];

	/* In another block. */
	__atomic_store_n(&memory[1030 * WORDS], 1, __ATOMIC_SEQ_CST);
	is(stamp(4, 2, 1), 0, "the function stamps two pages");
	where(1030, 1, each);
	is(each[0], VFETCH_PAGE_HOST, "a page that was stored to is the host's");
	found = where(0, 8, each);
	is(each[4], VFETCH_PAGE_DEVICE, "one that was stamped is the device's");
	is(each[5], VFETCH_PAGE_DEVICE, "and so is the other");
	is(found.host + found.device + found.none, 8, "each of them is somewhere");
	is(found.moving + found.lost, 0, "none moves, none is lost");
	ok(is_stamped(4, 1), "the host loads what was stamped");
	found = where(4, 1, NULL);
	is(found.host, 1, "which brings it");

	fails(ioctl(fd, VFETCH_IOC_RESIDENCY, &bad), ERANGE, "RESIDENCY: beyond the end is ERANGE");
	bad.offset = 1;
	fails(ioctl(fd, VFETCH_IOC_RESIDENCY, &bad), EINVAL, "RESIDENCY: half a page is EINVAL");
	bad.offset = 0;
	bad.flags = 1;
	fails(ioctl(fd, VFETCH_IOC_RESIDENCY, &bad), EINVAL, "RESIDENCY: a flag is EINVAL");
	bad.flags = 0;
	bad.pages = 8;
	fails(ioctl(fd, VFETCH_IOC_RESIDENCY, &bad), EFAULT, "RESIDENCY: nowhere is EFAULT");
}

static void try_advice(void)
{
	struct vfetch_residency found;
	struct vfetch_advise said = { .flags = 1, .bytes = PAGE };
	int reader = open(node, O_RDONLY | O_CLOEXEC);

	is(advise(VFETCH_ADVICE_WILL_NEED_DEVICE, 0, 8), 0, "pages are brought to the device");
	found = where(0, 8, NULL);
	is(found.host, 0, "and none is the host's any more");
	is(advise(VFETCH_ADVICE_WILL_NEED_HOST, 0, 8), 0, "and back");
	found = where(0, 8, NULL);
	is(found.device, 0, "and none is the device's any more");
	is(advise(VFETCH_ADVICE_PREFER_HOST, 512, 512), 0, "a block is wanted on the host");
	is(stamp(600, 4, 2), 0, "the function stamps pages of it");
	found = where(600, 4, NULL);
	is(found.host, 4, "which are on the host all the same");
	ok(is_stamped(603, 2), "and are stamped");
	is(advise(VFETCH_ADVICE_NORMAL, 512, 512), 0, "nothing is said of it any more");
	is(advise(VFETCH_ADVICE_DO_NOT_NEED, 512, 512), 0, "nobody needs it");
	is(load(603 * WORDS), 0, "it is zeros");

	fails(advise(VFETCH_ADVICE_DO_NOT_NEED + 1, 0, 1), EINVAL, "ADVISE: what there is not is EINVAL");
	fails(advise(VFETCH_ADVICE_NORMAL, PAGES, 1), ERANGE, "ADVISE: beyond the end is ERANGE");
	fails(ioctl(fd, VFETCH_IOC_ADVISE, &said), EINVAL, "ADVISE: a flag is EINVAL");
	said.flags = 0;
	said.bytes = 1;
	fails(ioctl(fd, VFETCH_IOC_ADVISE, &said), EINVAL, "ADVISE: half a page is EINVAL");
	said.bytes = 0;
	said.advice = VFETCH_ADVICE_DO_NOT_NEED;
	fails(ioctl(reader, VFETCH_IOC_ADVISE, &said), EBADF,
	      "ADVISE: who may not write discards nothing");
	close(reader);
}

static void try_limits(void)
{
	struct vfetch_limits before = { .scope = VFETCH_SCOPE_SPACE }, set, now = before;
	struct vfetch_stats stats = { 0 };
	uint64_t evictions;
	size_t page;
	int wrong = 0;

	is(ioctl(fd, VFETCH_IOC_GET_LIMITS, &before), 0, "a space has limits");
	ok(before.host_bytes >= MIB && before.device_bytes >= MIB, "of at least what they must be");
	ok(before.host_used_bytes > 0, "and uses some of it");
	ioctl(fd, VFETCH_IOC_GET_STATS, &stats);
	evictions = stats.evictions;
	set = before;
	set.device_bytes = 2 * MIB;
	is(ioctl(fd, VFETCH_IOC_SET_LIMITS, &set), 0, "which can be set");
	is(stamp(0, PAGES, 3), 0, "the function stamps more than it may keep");
	is(ioctl(fd, VFETCH_IOC_GET_LIMITS, &now), 0, "the limits are asked for again");
	is(now.device_bytes, 2 * MIB, "they are what was set");
	ok(now.device_used_bytes <= 2 * MIB + 2 * VFETCH_BLOCK_BYTES,
	   "and hold, but for pages that were on their way");
	ioctl(fd, VFETCH_IOC_GET_STATS, &stats);
	ok(stats.evictions > evictions, "what did not fit went to the host");
	for (page = 0; page < PAGES; page++)
		wrong += !is_stamped(page, 3);
	is(wrong, 0, "and nothing was lost");
	is(ioctl(fd, VFETCH_IOC_SET_LIMITS, &before), 0, "the limits are as they were");

	now.scope = VFETCH_SCOPE_FUNCTION;
	is(ioctl(fd, VFETCH_IOC_GET_LIMITS, &now), 0, "a function has limits, too");
	now.scope = 2;
	fails(ioctl(fd, VFETCH_IOC_GET_LIMITS, &now), EINVAL, "LIMITS: what there is not is EINVAL");
	set = before;
	set.host_bytes = VFETCH_LIMIT_MIN_BYTES - PAGE;
	fails(ioctl(fd, VFETCH_IOC_SET_LIMITS, &set), EINVAL, "LIMITS: too few bytes are EINVAL");
	set.host_bytes = VFETCH_LIMIT_MIN_BYTES + 1;
	fails(ioctl(fd, VFETCH_IOC_SET_LIMITS, &set), EINVAL, "LIMITS: half a page is EINVAL");
}

static void try_policy(void)
{
	struct vfetch_policy before = { 0 }, set, now = { 0 };
	struct vfetch_policy_stats counted = { .policy = VFETCH_POLICY_ALWAYS_MAX };
	struct vfetch_residency found;

	is(ioctl(fd, VFETCH_IOC_GET_POLICY, &before), 0, "a function has a policy");
	ok(before.policy < VFETCH_POLICIES, "one that there is");
	set = before;
	set.enabled = 1;
	set.policy = VFETCH_POLICY_ALWAYS_MAX;
	set.min_faults = 1;
	is(ioctl(fd, VFETCH_IOC_SET_POLICY, &set), 0, "another is set");
	is(ioctl(fd, VFETCH_IOC_GET_POLICY, &now), 0, "and asked for");
	is(memcmp(&now, &set, sizeof(set)), 0, "it is what was set");
	is(advise(VFETCH_ADVICE_WILL_NEED_DEVICE, 0, 512), 0, "the device has a block");
	ok(is_stamped(100, 3), "the host loads from a page of it");
	found = where(0, 512, NULL);
	is(found.host, 512, "and all of the block comes along");
	is(ioctl(fd, VFETCH_IOC_POLICY_STATS, &counted), 0, "what came of it is counted");
	ok(counted.hints > 0 && counted.prefetched_pages >= 511, "all that came along");
	set.policy = VFETCH_POLICY_NONE;
	is(ioctl(fd, VFETCH_IOC_SET_POLICY, &set), 0, "nothing is to come along");
	is(advise(VFETCH_ADVICE_WILL_NEED_DEVICE, 0, 512), 0, "the device has the block again");
	ok(is_stamped(100, 3), "the host loads from it");
	found = where(0, 512, NULL);
	is(found.host, 1, "and has that page");

	set.threshold = 0;
	fails(ioctl(fd, VFETCH_IOC_SET_POLICY, &set), EINVAL, "POLICY: a threshold of 0 is EINVAL");
	set.threshold = 51;
	set.min_faults = 21;
	fails(ioctl(fd, VFETCH_IOC_SET_POLICY, &set), EINVAL, "POLICY: too many faults are EINVAL");
	is(ioctl(fd, VFETCH_IOC_GET_POLICY, &now), 0, "the policy is asked for");
	is(now.threshold, before.threshold, "what was refused has changed nothing");
	counted.policy = VFETCH_POLICIES;
	fails(ioctl(fd, VFETCH_IOC_POLICY_STATS, &counted), EINVAL, "POLICY_STATS: of none is EINVAL");
	is(ioctl(fd, VFETCH_IOC_SET_POLICY, &before), 0, "the policy is as it was");
}

static void try_trace(void)
{
	static struct vfetch_trace_record records[64];
	struct vfetch_trace_start start = {
		.kinds = 1 << VFETCH_TRACE_HOST_FAULT | 1 << VFETCH_TRACE_ARRIVED,
		.records = 256,
	};
	struct vfetch_trace_read take = { .count = 64, .records = (uintptr_t)records };
	struct vfetch_trace_stop stop = { 0 };
	struct pollfd ready = { .fd = fd, .events = POLLRDBAND };
	unsigned int i, faults = 0, arrived = 0, wrong = 0;

	is(advise(VFETCH_ADVICE_WILL_NEED_DEVICE, 700, 1), 0, "the device has a page");
	fails(ioctl(fd, VFETCH_IOC_TRACE_READ, &take), EINVAL, "TRACE_READ: without a trace is EINVAL");
	fails(ioctl(fd, VFETCH_IOC_TRACE_STOP, &stop), EINVAL, "TRACE_STOP: likewise");
	is(poll(&ready, 1, 0), 0, "poll knows of none");
	is(ioctl(fd, VFETCH_IOC_TRACE_START, &start), 0, "the function is traced");
	fails(ioctl(fd, VFETCH_IOC_TRACE_START, &start), EBUSY, "once at a time");
	is(poll(&ready, 1, 0), 0, "there is no record yet");
	fails(ioctl(fd, VFETCH_IOC_TRACE_READ, &take), ETIME, "waiting for one takes its time");
	ok(is_stamped(700, 3), "the host loads from the page");
	is(poll(&ready, 1, PATIENCE_MS), 1, "poll tells of a record");
	is(ready.revents, POLLRDBAND, "by a band of its own");
	take.count = 64;
	is(ioctl(fd, VFETCH_IOC_TRACE_READ, &take), 0, "records are read");
	for (i = 0; i < take.count; i++) {
		wrong += records[i].number != i || records[i].first != 512;
		if (records[i].kind == VFETCH_TRACE_HOST_FAULT)
			faults += records[i].pages[(700 - 512) / 64] >> (700 - 512) % 64 & 1;
		else if (records[i].kind == VFETCH_TRACE_ARRIVED)
			arrived += records[i].pages[(700 - 512) / 64] >> (700 - 512) % 64 & 1;
		else
			wrong++;
	}
	is(wrong, 0, "each is in its turn, of the block, and of a kind that was asked for");
	is(faults, 1, "one is of the fault");
	is(arrived, 1, "one of the page's arrival");
	is(take.lost, 0, "none was lost");
	is(poll(&ready, 1, 0), 0, "poll has nothing more to tell");
	is(ioctl(fd, VFETCH_IOC_TRACE_STOP, &stop), 0, "the trace ends");
	is(poll(&ready, 1, 0), 1, "which poll tells");
	take.count = 64;
	is(ioctl(fd, VFETCH_IOC_TRACE_READ, &take), 0, "and reading does not wait");
	is(take.count, 0, "and finds nothing");
	start.records = 63;
	fails(ioctl(fd, VFETCH_IOC_TRACE_START, &start), EINVAL, "TRACE_START: too few records are EINVAL");
	start.records = 64;
	start.kinds = 1;
	fails(ioctl(fd, VFETCH_IOC_TRACE_START, &start), EINVAL, "TRACE_START: kind 0 is EINVAL");
}

int main(int argc, char **argv)
{
	struct vfetch_size size = { .bytes = (unsigned long long)PAGES * PAGE };

	if (argc != 2) {
		fprintf(stderr, "usage: %s /dev/vfetchN\n", argv[0]);
		return 2;
	}
	node = argv[1];
	printf("TAP version 13\n# %zu-bit caller\n", 8 * sizeof(void *));
	fd = open(node, O_RDWR | O_CLOEXEC);
	if (fd < 0 || ioctl(fd, VFETCH_IOC_SET_SIZE, &size)) {
		printf("Bail out! no space on %s: %s\n", node, strerror(errno));
		return 1;
	}
	memory = mmap(NULL, size.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED) {
		printf("Bail out! no mapping: %s\n", strerror(errno));
		return 1;
	}
	try_residency();
	try_advice();
	try_limits();
	try_policy();
	try_trace();
	return tap_done();
}
