// SPDX-License-Identifier: GPL-2.0
/*
 * mapped NODE: uses a space as memory, and has the function compute on it, as a
 * stranger would: by the uapi headers, mmap() and nothing else. Built for 64-bit
 * and for 32-bit callers. Prints TAP.
 */
#include <linux/vfetch.h>

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tap.h"

#define PAGE VFETCH_PAGE_BYTES
#define PAGES 1200
#define WORDS (PAGE / 8)
/* Longer than anything takes. */
#define PATIENCE_NS 30000000000LL

static const char *node;
static int fd;
static unsigned char *memory;

static uint64_t *word(size_t page, size_t n)
{
	return (uint64_t *)(memory + page * PAGE) + n;
}

static double *number(size_t page, size_t n)
{
	return (double *)(memory + page * PAGE) + n;
}

static int set_size(unsigned long long bytes)
{
	struct vfetch_size size = { .bytes = bytes };

	return ioctl(fd, VFETCH_IOC_SET_SIZE, &size);
}

static struct vfetch_submit a_job(unsigned int kind)
{
	struct vfetch_submit submit = {
		.job = { .kind = kind, .strands = 32, .element_ps = 100 },
	};

	return submit;
}

static struct vfetch_submit stamp(size_t page, size_t pages, unsigned int generation)
{
	struct vfetch_submit submit = a_job(VFETCH_JOB_STAMP);

	submit.job.argument[0] = page * PAGE;
	submit.job.argument[1] = pages * WORDS;
	submit.job.argument[2] = page * WORDS;
	submit.job.argument[3] = generation;
	return submit;
}

/* Submits a job and waits for it: its status, or -1. */
static long long run(struct vfetch_submit *submit, uint64_t *value)
{
	struct vfetch_wait end = { .timeout_ns = PATIENCE_NS };

	if (ioctl(fd, VFETCH_IOC_SUBMIT, submit))
		return -1;
	end.id = submit->id;
	if (ioctl(fd, VFETCH_IOC_WAIT, &end))
		return -1;
	if (value)
		*value = end.value;
	return end.status;
}

static sigjmp_buf back;

static void jump(int signal)
{
	siglongjmp(back, signal);
}

/* The signal that a load ends in, 0 if it is none. */
static int signal_of_load(const unsigned char *p)
{
	struct sigaction action = { .sa_handler = jump }, bus, segv;
	unsigned char loaded;
	int signal;

	sigaction(SIGBUS, &action, &bus);
	sigaction(SIGSEGV, &action, &segv);
	signal = sigsetjmp(back, 1);
	if (!signal)
		__atomic_load(p, &loaded, __ATOMIC_SEQ_CST);
	sigaction(SIGBUS, &bus, NULL);
	sigaction(SIGSEGV, &segv, NULL);
	return signal;
}

static void maps(void)
{
	void *private;
	unsigned char page[PAGE];
	size_t i, wrong = 0;

	memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ok(memory != MAP_FAILED, "a space can be mapped before it has a size");
	if (memory == MAP_FAILED) {
		printf("Bail out! no mapping: %s\n", strerror(errno));
		exit(1);
	}
	fails((private = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 0)) == MAP_FAILED ? -1 : 0,
	      EINVAL, "a private mapping is EINVAL");
	is(signal_of_load(memory), SIGBUS, "without a size there is nothing");
	is(set_size((PAGES - 1) * PAGE), 0, "it gets a size");
	is(signal_of_load(memory), 0, "its first page is there");
	is(signal_of_load(memory + (PAGES - 1) * PAGE - 1), 0, "and its last byte");
	is(signal_of_load(memory + (PAGES - 1) * PAGE), SIGBUS, "and nothing beyond");
	is(set_size(PAGES * PAGE), 0, "it grows");
	is(signal_of_load(memory + (PAGES - 1) * PAGE), 0, "and so there is more");

	for (i = 0; i < PAGES * WORDS; i += 61)
		wrong += *word(0, i) != 0;
	is(wrong, 0, "it is zeros");
	memset(memory + 5 * PAGE, 0x5a, PAGE);
	is(pread(fd, page, PAGE, 5 * PAGE), PAGE, "a page is read");
	ok(!memcmp(page, memory + 5 * PAGE, PAGE), "and is what was stored");
	memset(page, 0x33, PAGE);
	is(pwrite(fd, page, PAGE, 6 * PAGE), PAGE, "a page is written");
	ok(!memcmp(page, memory + 6 * PAGE, PAGE), "and is what is loaded");
	is(munmap(memory + 100 * PAGE, PAGE), 0, "a page is unmapped");
	is(signal_of_load(memory + 100 * PAGE), SIGSEGV, "and is no memory");
	memory = mmap(memory, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
	ok(memory != MAP_FAILED, "all is mapped once more, where it was");
	is(memory[6 * PAGE + 9], 0x33, "and is what it was");
}

static void jobs(void)
{
	struct vfetch_submit submit;
	struct vfetch_stats before = { 0 }, after = { 0 };
	double s = 0.75;
	uint64_t value;
	size_t i, wrong = 0;

	ioctl(fd, VFETCH_IOC_GET_STATS, &before);
	/* a in pages 600 to 615, b in 100 to 115, c in 300 to 315. */
	for (i = 0; i < 16 * WORDS; i++) {
		*number(100, i) = i;
		*number(300, i) = 1.0 / (i + 1);
	}
	submit = a_job(VFETCH_JOB_TRIAD);
	submit.job.argument[0] = 600 * PAGE;
	submit.job.argument[1] = 100 * PAGE;
	submit.job.argument[2] = 300 * PAGE;
	submit.job.argument[3] = 16 * WORDS;
	memcpy(&submit.job.argument[4], &s, 8);
	is(run(&submit, NULL), 0, "the function computes a triad");
	ok(submit.id != 0, "its job has a name");
	for (i = 0; i < 16 * WORDS; i++) {
		double product = s * *number(300, i);

		wrong += *number(600, i) != *number(100, i) + product;
	}
	is(wrong, 0, "and the host has the results");
	ioctl(fd, VFETCH_IOC_GET_STATS, &after);
	ok(after.device_faults > before.device_faults, "the pages were the function's to fetch");
	ok(after.fault_batches > before.fault_batches, "in batches");
	ok(after.host_faults > before.host_faults, "and the host's");
	ok(after.invalidations > before.invalidations, "which took them back");

	submit = stamp(0, PAGES, 3);
	is(run(&submit, NULL), 0, "the function stamps all of the space");
	*word(77, 5) = 1;
	*word(1199, 511) ^= 1;
	submit = a_job(VFETCH_JOB_CHECK);
	submit.job.argument[1] = PAGES * WORDS;
	submit.job.argument[3] = 3;
	submit.job.argument[4] = 3;
	is(run(&submit, &value), 0, "and checks it");
	is(value, 2, "and finds the words that the host has changed");
	is(*word(700, 9), VFETCH_JOB_STAMPED(700 * WORDS + 9, 3), "the host finds the stamps");

	submit = stamp(PAGES, 1, 1);
	is(run(&submit, &value), ERANGE, "a job that leaves the space ends with ERANGE");
	is(value, PAGES * PAGE, "and says where");
	submit = stamp(0, 1, 1);
	submit.job.argument[0] = 4;
	is(run(&submit, NULL), EINVAL, "one with a crooked offset ends with EINVAL");
}

static void bad_jobs(void)
{
	struct {
		struct vfetch_submit submit;
		unsigned char rest[8];
	} longer = { .submit = stamp(0, 1, 1) };
	struct vfetch_submit submit;
	struct vfetch_wait end = { 0 };
	struct vfetch_cancel cancel = { 0 };

#define REFUSED(change, error, claim)                                                              \
	do {                                                                                       \
		submit = stamp(0, 1, 1);                                                           \
		change;                                                                            \
		fails(ioctl(fd, VFETCH_IOC_SUBMIT, &submit), error, "SUBMIT: " claim);             \
	} while (0)

	REFUSED(submit.flags = 2, EINVAL, "an unknown flag is EINVAL");
	REFUSED(submit.eventfd = 1, EINVAL, "an eventfd without its flag is EINVAL");
	REFUSED((submit.flags = VFETCH_SUBMIT_EVENTFD, submit.eventfd = -1), EBADF,
		"no file as eventfd is EBADF");
	REFUSED((submit.flags = VFETCH_SUBMIT_EVENTFD, submit.eventfd = fd), EINVAL,
		"another file as eventfd is EINVAL");
	REFUSED(submit.job.kind = 0, EINVAL, "kind 0 is EINVAL");
	REFUSED(submit.job.kind = VFETCH_JOB_KINDS + 1, EINVAL, "an unknown kind is EINVAL");
	REFUSED(submit.job.flags = 1, EINVAL, "an unknown flag of the job is EINVAL");
	REFUSED(submit.job.order = 3, EINVAL, "an unknown order is EINVAL");
	REFUSED(submit.job.strands = 0, EINVAL, "no strand is EINVAL");
	REFUSED(submit.job.strands = 1 << 20, EINVAL, "too many strands are EINVAL");
	REFUSED(submit.job.element_ps = 1000000001, EINVAL, "too much time is EINVAL");
	REFUSED(submit.job.reserved = 1, EINVAL, "something reserved is EINVAL");
	fails(ioctl(fd, VFETCH_IOC_SUBMIT, NULL), EFAULT, "SUBMIT: no structure is EFAULT");
	longer.rest[3] = 1;
	fails(ioctl(fd, _IOWR(VFETCH_IOC_MAGIC, 0x04, longer), &longer), E2BIG,
	      "SUBMIT: a longer structure with something in its rest is E2BIG");
	fails(ioctl(fd, _IOWR(VFETCH_IOC_MAGIC, 0x04, struct vfetch_range), &longer), EINVAL,
	      "SUBMIT: a structure without the job is EINVAL");

	fails(ioctl(fd, VFETCH_IOC_WAIT, &end), ENOENT, "WAIT: no job is ENOENT");
	end.flags = 1;
	fails(ioctl(fd, VFETCH_IOC_WAIT, &end), EINVAL, "WAIT: an unknown flag is EINVAL");
	fails(ioctl(fd, VFETCH_IOC_WAIT, NULL), EFAULT, "WAIT: no structure is EFAULT");
	fails(ioctl(fd, VFETCH_IOC_CANCEL, &cancel), ENOENT, "CANCEL: no job is ENOENT");
	cancel.reserved = 1;
	fails(ioctl(fd, VFETCH_IOC_CANCEL, &cancel), EINVAL,
	      "CANCEL: something reserved is EINVAL");
	cancel.reserved = 0;
	cancel.flags = 1;
	fails(ioctl(fd, VFETCH_IOC_CANCEL, &cancel), EINVAL, "CANCEL: an unknown flag is EINVAL");
}

static void ends(void)
{
	struct vfetch_submit submit = stamp(0, 64, 5);
	struct vfetch_wait end = { 0 };
	struct vfetch_cancel cancel = { 0 };
	struct pollfd ready = { .fd = fd, .events = POLLPRI };
	int event = eventfd(0, EFD_NONBLOCK);
	uint64_t count = 0;

	is(poll(&ready, 1, 0), 0, "no job has ended");
	submit.flags = VFETCH_SUBMIT_EVENTFD;
	submit.eventfd = event;
	submit.job.strands = 1;
	submit.job.element_ps = 1000000000;
	is(ioctl(fd, VFETCH_IOC_SUBMIT, &submit), 0, "a long job begins");
	is(poll(&ready, 1, 0), 0, "it has not ended");
	end.id = submit.id;
	fails(ioctl(fd, VFETCH_IOC_WAIT, &end), ETIME, "waiting for no time is ETIME");
	end.timeout_ns = 20000000;
	fails(ioctl(fd, VFETCH_IOC_WAIT, &end), ETIME, "waiting for 20 ms is ETIME");
	fails(read(event, &count, 8), EAGAIN, "its event has not come");
	cancel.id = submit.id;
	is(ioctl(fd, VFETCH_IOC_CANCEL, &cancel), 0, "it is cancelled");
	is(poll(&ready, 1, 30000), 1, "poll tells of it");
	is(ready.revents, POLLPRI, "as something out of the ordinary");
	is(read(event, &count, 8), 8, "its event has come");
	is(count, 1, "once");
	end.timeout_ns = -1;
	is(ioctl(fd, VFETCH_IOC_WAIT, &end), 0, "it is waited for");
	is(end.status, ECANCELED, "and was cancelled");
	fails(ioctl(fd, VFETCH_IOC_WAIT, &end), ENOENT, "and then forgotten");
	is(poll(&ready, 1, 0), 0, "and poll has nothing more to tell");
	close(event);
}

static void processes(void)
{
	struct vfetch_submit submit = stamp(50, 10, 8);
	int status = -1;
	pid_t child;

	run(&submit, NULL);
	child = fork();
	if (!child) {
		if (*word(55, 0) != VFETCH_JOB_STAMPED(55 * WORDS, 8))
			_exit(1);
		*word(56, 0) = 123;
		submit = stamp(57, 1, 9);
		_exit(run(&submit, NULL) ? 2 : 0);
	}
	is(waitpid(child, &status, 0), child, "a child uses the space");
	is(status, 0, "and finds what it should");
	is(*word(56, 0), 123, "what it stored is there");
	is(*word(57, 3), VFETCH_JOB_STAMPED(57 * WORDS + 3, 9), "and what its job did");
	close(fd);
	is(*word(58, 1), VFETCH_JOB_STAMPED(58 * WORDS + 1, 8), "the mapping outlives the file");
	is(munmap(memory, PAGES * PAGE), 0, "until it is unmapped");
}

int main(int argc, char **argv)
{
	if (argc != 2) {
		fprintf(stderr, "usage: %s /dev/vfetchN\n", argv[0]);
		return 2;
	}
	node = argv[1];
	printf("TAP version 13\n# %zu-bit caller\n", 8 * sizeof(void *));
	fd = open(node, O_RDWR | O_CLOEXEC);
	if (fd < 0) {
		printf("Bail out! %s: %s\n", node, strerror(errno));
		return 1;
	}
	maps();
	jobs();
	bad_jobs();
	ends();
	processes();
	return tap_done();
}
