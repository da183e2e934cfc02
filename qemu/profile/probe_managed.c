/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The sections of managed memory; probe.c says what they are.
 *
 * A space is used for one section, and most pages of it once. Some are used before it
 * begins, so that what is done only the first time has been done.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "probe.h"

#define PAGE VFETCH_PAGE_BYTES
#define BLOCK VFETCH_BLOCK_BYTES
/* Faults that a batch may hold. */
#define BATCH 256

static struct vfetch_policy policy_of(int fd)
{
	struct vfetch_policy policy = { 0 };

	if (ioctl(fd, VFETCH_IOC_GET_POLICY, &policy))
		fail("GET_POLICY");
	return policy;
}

static void set_policy(int fd, const struct vfetch_policy *policy)
{
	if (ioctl(fd, VFETCH_IOC_SET_POLICY, policy))
		fail("SET_POLICY");
}

static struct vfetch_stats stats_of(int fd)
{
	struct vfetch_stats stats = { 0 };

	if (ioctl(fd, VFETCH_IOC_GET_STATS, &stats))
		fail("GET_STATS");
	return stats;
}

static uint64_t decisions(int fd)
{
	struct vfetch_policy_stats stats = { .policy = VFETCH_POLICY_ALL };

	if (ioctl(fd, VFETCH_IOC_POLICY_STATS, &stats))
		fail("POLICY_STATS");
	return stats.decisions;
}

static char *map(int fd, size_t bytes)
{
	char *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (at == MAP_FAILED)
		fail("mmap");
	return at;
}

static void load(const char *memory, long first, long pages)
{
	long i;

	for (i = first; i < first + pages; i++)
		__asm__ volatile("movq %0, %%rax" : : "m"(memory[i * PAGE]) : "rax");
}

/* A job that reads pages from `first` on, each strand the same number of neighbours, and waits for it. */
static void reduce(int fd, long first, long pages, unsigned int strands)
{
	struct vfetch_submit submit = {
		.eventfd = 0,
		.job = {
			.kind = VFETCH_JOB_REDUCE,
			.order = VFETCH_JOB_BLOCKED,
			.strands = strands,
			.element_ps = 100,
			.argument = { (uint64_t)first * PAGE, (uint64_t)pages * (PAGE / 8) },
		},
	};
	struct vfetch_wait wait = { .timeout_ns = -1 };

	if (ioctl(fd, VFETCH_IOC_SUBMIT, &submit))
		fail("SUBMIT");
	wait.id = submit.id;
	if (ioctl(fd, VFETCH_IOC_WAIT, &wait))
		fail("WAIT");
	if (wait.status) {
		fprintf(stderr, "probe: a job ended with errno %u\n", wait.status);
		exit(1);
	}
}

/* Prints the section, which began at `start` with the counters `before`. */
static void tell(int fd, const char *name, long count, long long start, const struct vfetch_stats *before, uint64_t value)
{
	long long ns = now() - start;
	struct vfetch_stats after = fd < 0 ? *before : stats_of(fd);

	printf("{\"section\": \"%s\", \"bytes\": 0, \"count\": %ld, \"ns\": %lld, ", name, count, ns);
	printf("\"host_faults\": %llu, ", after.host_faults - before->host_faults);
	printf("\"device_faults\": %llu, ", after.device_faults - before->device_faults);
	printf("\"batches\": %llu, ", after.fault_batches - before->fault_batches);
	printf("\"value\": %llu}\n", (unsigned long long)value);
}

/* The baseline: faults of pages that are there. */
static void shared(const char *name, long count)
{
	const struct vfetch_stats none = { 0 };
	size_t bytes = (size_t)(count + BATCH) * PAGE;
	int fd = memfd_create("probe", 0);
	long long start;
	char *memory;
	size_t at;

	if (fd < 0 || ftruncate(fd, bytes))
		fail("memfd");
	for (at = 0; at < bytes; at += PAGE)
		if (pwrite(fd, "x", 1, at) != 1)
			fail("memfd");
	memory = map(fd, bytes);
	/* Otherwise neighbours are mapped, too. */
	if (madvise(memory, bytes, MADV_RANDOM))
		fail("madvise");
	load(memory, count, BATCH);
	start = now();
	mark();
	load(memory, 0, count);
	mark();
	tell(-1, name, count, start, &none, 0);
	munmap(memory, bytes);
	close(fd);
}

/* Loads of what the device has. */
static void loads(const char *function, const char *name, long count, bool alone)
{
	size_t bytes = ((size_t)(count + BATCH) * PAGE + BLOCK - 1) & -(size_t)BLOCK;
	int fd = open_space(function, bytes);
	struct vfetch_policy before = policy_of(fd), policy = before;
	char *memory = map(fd, bytes);
	struct vfetch_stats stats;
	long long start;

	policy.enabled = !alone;
	set_policy(fd, &policy);
	load(memory, count, BATCH);
	stats = stats_of(fd);
	start = now();
	mark();
	load(memory, 0, count);
	mark();
	tell(fd, name, count, start, &stats, 0);
	set_policy(fd, &before);
	munmap(memory, bytes);
	close(fd);
}

/* Jobs that read what the host has, or (`resident`) the device. */
static void jobs(const char *function, const char *name, long count, bool neighbours, bool resident)
{
	size_t bytes = ((size_t)(count + BATCH) * PAGE + BLOCK - 1) & -(size_t)BLOCK;
	int fd = open_space(function, bytes);
	struct vfetch_policy before = policy_of(fd), policy = before;
	char *memory = map(fd, bytes);
	struct vfetch_stats stats;
	long long start;
	long i;

	policy.enabled = 0;
	set_policy(fd, &policy);
	if (!resident)
		load(memory, 0, bytes / PAGE);
	reduce(fd, count, BATCH, BATCH);
	if (resident)
		reduce(fd, 0, count, BATCH);
	stats = stats_of(fd);
	start = now();
	mark();
	for (i = 0; neighbours && i < count; i += BATCH)
		reduce(fd, i, BATCH, BATCH);
	if (!neighbours)
		reduce(fd, 0, count, BATCH);
	mark();
	tell(fd, name, count, start, &stats, 0);
	set_policy(fd, &before);
	munmap(memory, bytes);
	close(fd);
}

/* What the kernel has allocated for itself, in bytes. */
static uint64_t slab(void)
{
	unsigned long long kib = 0;
	char line[128];
	FILE *info = fopen("/proc/meminfo", "r");

	if (!info)
		fail("/proc/meminfo");
	while (fgets(line, sizeof(line), info) && sscanf(line, "Slab: %llu kB", &kib) != 1)
		;
	fclose(info);
	return kib << 10;
}

/* Blocks of a space that has jobs, of each of which one page is used. */
static void blocks(const char *function, const char *name, long count)
{
	int fd = open_sparse(function, (size_t)(count + 1) * BLOCK);
	char *memory = map(fd, (size_t)(count + 1) * BLOCK);
	struct vfetch_stats stats;
	long long start;
	uint64_t before;
	long i;

	reduce(fd, count * (BLOCK / PAGE), 1, 1);
	stats = stats_of(fd);
	before = slab();
	start = now();
	mark();
	for (i = 0; i < count; i++)
		load(memory, i * (BLOCK / PAGE), 1);
	mark();
	tell(fd, name, count, start, &stats, (slab() - before) / count);
	munmap(memory, (size_t)(count + 1) * BLOCK);
	close(fd);
}

/* How often it is asked what comes along. */
static void decide(const char *function, const char *name, long threshold)
{
	int fd = open_space(function, BLOCK);
	struct vfetch_policy before = policy_of(fd), policy = before;
	char *memory = map(fd, BLOCK);
	struct vfetch_stats stats = stats_of(fd);
	uint64_t asked = decisions(fd);
	long long start;

	policy.enabled = 1;
	policy.policy = VFETCH_POLICY_FIXED;
	policy.threshold = threshold;
	policy.compat = 0;
	policy.ats = 0;
	policy.min_faults = 1;
	set_policy(fd, &policy);
	start = now();
	mark();
	load(memory, 0, BLOCK / PAGE);
	mark();
	tell(fd, name, threshold, start, &stats, decisions(fd) - asked);
	set_policy(fd, &before);
	munmap(memory, BLOCK);
	close(fd);
}

bool managed(const char *function, const char *name, long count)
{
	if (count <= 0)
		return false;
	if (!strcmp(name, "shared"))
		shared(name, count);
	else if (!strcmp(name, "mfault"))
		loads(function, name, count, true);
	else if (!strcmp(name, "mload"))
		loads(function, name, count, false);
	else if (!strcmp(name, "dfault"))
		jobs(function, name, count, true, false);
	else if (!strcmp(name, "dscatter"))
		jobs(function, name, count, false, false);
	else if (!strcmp(name, "resident"))
		jobs(function, name, count, false, true);
	else if (!strcmp(name, "block"))
		blocks(function, name, count);
	else if (!strcmp(name, "decide"))
		decide(function, name, count);
	else
		return false;
	return true;
}
