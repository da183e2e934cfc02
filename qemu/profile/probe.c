/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Runs in the guest: operations one after the other, for scripts/profile_trace.py.
 *
 *   probe FUNCTION SECTION...     e.g. probe 0 null:200 read:4096:100
 *
 * SECTION  null:N        N null system calls
 *          copy:B:N      N copies of B bytes in this program
 *          zero:B:N      N reads of B bytes of /dev/zero
 *          memfd:B:N     N reads of B bytes of a memory file
 *          read:B:N      N reads of B bytes of /dev/vfetchFUNCTION, in order
 *          write:B:N     N writes
 *          sread:B:N     reads to, and
 *          swrite:B:N    writes from memory of scattered single pages; that of
 *                        the others begins at a huge page
 *          shared:N      N loads by mmap of a memory file's pages, one of each:
 *                        they are there, and are mapped one by one
 *          mfault:N      N loads by mmap of pages that the device has, one of each,
 *                        of which none comes along with another
 *          mload:N       the same with the policy that holds
 *          dfault:N      N pages that the host has and a job reads, 256 of them at
 *                        once, which are neighbours; none comes along
 *          dscatter:N    the same with 256 at once that are N/256 pages apart
 *          resident:N    a job that reads N pages that the device has
 *          block:N       N blocks of a space of which one page each is used; in "value" the bytes that
 *                        the kernel allocates for one
 *          decide:T      asks what comes along at a threshold of T percent while a block
 *                        that the device has is read page by page; in "value" how often
 *
 * Each is done a few times before, and is then between two markers that the
 * plugin (trace.c) looks for. Prints a line for each, in JSON: what it was, and
 * the virtual nanoseconds of all N.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "probe.h"

#define SPACE (16 << 20)
#define WARM 20

enum kind { NOTHING, NULL_CALL, COPY, READ, WRITE };

static char *buffer, *other, *scattered;

/*
 * The compiler must not make a string instruction or a vector loop of the copy:
 * it stands for what a kernel's copy costs, 8 bytes at a time. (The attributes
 * are spelled out: a user program has not the kernel's names for them.)
 */
#define OUT_OF_LINE __attribute__((__noinline__))
#define PLAIN_LOOP __attribute__((__optimize__("no-tree-loop-distribute-patterns,no-tree-vectorize")))

static OUT_OF_LINE PLAIN_LOOP void copy(uint64_t *to, const uint64_t *from, size_t bytes)
{
	size_t i;

	for (i = 0; i < bytes / 8; i += 4) {
		to[i] = from[i];
		to[i + 1] = from[i + 1];
		to[i + 2] = from[i + 2];
		to[i + 3] = from[i + 3];
	}
}

OUT_OF_LINE void mark(void)
{
	__asm__ volatile(".byte 0x0f, 0x1f, 0x84, 0x00, 'V', 'F', 'T', 'C'" ::: "memory");
}

void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void operations(enum kind kind, int fd, char *memory, size_t bytes, off_t size, long count)
{
	off_t at = 0;
	long i;

	for (i = 0; i < count; i++) {
		ssize_t n = bytes;

		switch (kind) {
		case NOTHING:
			break;
		case NULL_CALL:
			syscall(SYS_getppid);
			break;
		case COPY:
			copy((uint64_t *)memory, (uint64_t *)other, bytes);
			break;
		case READ:
			n = pread(fd, memory, bytes, at);
			break;
		case WRITE:
			n = pwrite(fd, memory, bytes, at);
			break;
		}
		if (n != (ssize_t)bytes)
			fail("a transfer");
		at = at + 2 * (off_t)bytes <= size ? at + (off_t)bytes : 0;
	}
}

long long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* 2 MiB that are there. */
static char *pages(int advice)
{
	char *at = mmap(NULL, 4 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED)
		fail("mmap");
	at = (char *)(((uintptr_t)at + (2 << 20) - 1) & -(uintptr_t)(2 << 20));
	if (madvise(at, 2 << 20, advice))
		fail("madvise");
	memset(at, 0x5a, 2 << 20);
	return at;
}

int open_sparse(const char *function, size_t bytes)
{
	struct vfetch_size set = { .bytes = bytes };
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/dev/vfetch%s", function);
	fd = open(path, O_RDWR);
	if (fd < 0)
		fail(path);
	if (ioctl(fd, VFETCH_IOC_SET_SIZE, &set))
		fail("SET_SIZE");
	return fd;
}

int open_space(const char *function, size_t bytes)
{
	int fd = open_sparse(function, bytes);
	size_t at;

	for (at = 0; at < bytes; at += 1 << 20)
		if (pwrite(fd, buffer, 1 << 20, at) != 1 << 20)
			fail("filling the space");
	return fd;
}

int main(int argc, char **argv)
{
	int i, space = -1, zero, memfd;

	buffer = pages(MADV_HUGEPAGE);
	scattered = pages(MADV_NOHUGEPAGE);
	other = buffer + (1 << 20);
	zero = open("/dev/zero", O_RDONLY);
	memfd = memfd_create("probe", 0);
	if (zero < 0 || memfd < 0)
		fail("open");
	if (write(memfd, buffer, 1 << 20) != 1 << 20)
		fail("memfd");

	for (i = 2; i < argc; i++) {
		char name[16] = "", *kind_name = name, *memory = buffer;
		size_t bytes = 0;
		long count = 0, warm;
		enum kind kind;
		int fd = -1;
		off_t size = 1 << 20;
		long long start, end;

		if (sscanf(argv[i], "%15[a-z]:%zu:%ld", name, &bytes, &count) == 2) {
			count = bytes;
			bytes = 0;
		}
		if (managed(argv[1], name, count))
			continue;
		if (name[0] == 's') {
			kind_name = name + 1;
			memory = scattered;
		}
		if (!strcmp(name, "nothing")) {
			kind = NOTHING;
		} else if (!strcmp(name, "null")) {
			kind = NULL_CALL;
		} else if (!strcmp(name, "copy")) {
			kind = COPY;
		} else if (!strcmp(name, "zero")) {
			kind = READ;
			fd = zero;
		} else if (!strcmp(name, "memfd")) {
			kind = READ;
			fd = memfd;
		} else if (!strcmp(kind_name, "read") || !strcmp(kind_name, "write")) {
			if (space < 0)
				space = open_space(argv[1], SPACE);
			kind = kind_name[0] == 'r' ? READ : WRITE;
			fd = space;
			size = SPACE;
		} else {
			kind = NOTHING;
			count = 0;
		}
		if (count <= 0 || bytes > 1 << 20 || bytes % 32) {
			fprintf(stderr, "probe: bad section '%s'\n", argv[i]);
			return 2;
		}
		warm = count < WARM ? count : WARM;
		operations(kind, fd, memory, bytes, size, warm);
		start = now();
		mark();
		operations(kind, fd, memory, bytes, size, count);
		mark();
		end = now();
		printf("{\"section\": \"%s\", \"bytes\": %zu, \"count\": %ld, \"ns\": %lld}\n", name, bytes, count,
		       end - start);
	}
	return 0;
}
