// SPDX-License-Identifier: GPL-2.0
/*
 * abi NODE: holds the driver to include/uapi/linux/vfetch.h, the only thing of
 * the project that this program knows. Built for 64-bit and for 32-bit callers,
 * for whom everything is the same. Prints TAP.
 */
#include <linux/vfetch.h>

#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "tap.h"

#define PAGE VFETCH_PAGE_BYTES

/* The same for every caller, or a 32-bit program's commands are other numbers. */
_Static_assert(sizeof(struct vfetch_info) == 120, "vfetch_info");
_Static_assert(sizeof(struct vfetch_size) == 16, "vfetch_size");
_Static_assert(sizeof(struct vfetch_range) == 24, "vfetch_range");
_Static_assert(sizeof(struct vfetch_job) == 128, "vfetch_job");
_Static_assert(sizeof(struct vfetch_submit) == 144, "vfetch_submit");
_Static_assert(sizeof(struct vfetch_wait) == 40, "vfetch_wait");
_Static_assert(sizeof(struct vfetch_cancel) == 16, "vfetch_cancel");
_Static_assert(offsetof(struct vfetch_info, memory_bytes) == 56, "memory_bytes");
_Static_assert(offsetof(struct vfetch_info, space_bytes) == 104, "space_bytes");
_Static_assert(offsetof(struct vfetch_stats, reads) == 8, "reads");
_Static_assert(offsetof(struct vfetch_stats, evicted_pages) == 240, "evicted_pages");
_Static_assert(sizeof(struct vfetch_advise) == 24, "vfetch_advise");

/* A command of this number for a structure of another size. */
#define SIZED(command, bytes) _IOC(_IOC_DIR(command), _IOC_TYPE(command), _IOC_NR(command), bytes)

static const char *node;

static int open_space(unsigned long long bytes)
{
	struct vfetch_size size = { .bytes = bytes };
	int fd = open(node, O_RDWR | O_CLOEXEC);

	if (fd < 0 || (bytes && ioctl(fd, VFETCH_IOC_SET_SIZE, &size))) {
		/* Without a space there is nothing to test. */
		printf("Bail out! no space of %llu bytes on %s: %s\n", bytes, node,
		       strerror(errno));
		exit(1);
	}
	return fd;
}

static struct vfetch_info info_of(int fd)
{
	struct vfetch_info info = { 0 };

	ioctl(fd, VFETCH_IOC_GET_INFO, &info);
	return info;
}

static int all(const void *data, unsigned char byte, size_t bytes)
{
	const unsigned char *p = data;

	while (bytes--)
		if (*p++ != byte)
			return 0;
	return 1;
}

static void *no_access(void)
{
	void *p = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static void get_info(void)
{
	struct {
		struct vfetch_info info;
		unsigned char rest[16];
	} longer;
	struct vfetch_info info = { 0 };
	unsigned char poisoned[64];
	const char *digits = node + strcspn(node, "0123456789");
	int fd = open_space(0);

	is(ioctl(fd, VFETCH_IOC_GET_INFO, &info), 0, "GET_INFO works on a new file");
	is(info.flags, 0, "GET_INFO gives no flags");
	is(info.abi_version, VFETCH_ABI_VERSION, "the driver speaks this header's version");
	is(info.node, atoi(digits), "the node is the one that was opened");
	ok(info.kind == VFETCH_KIND_PF || info.kind == VFETCH_KIND_VF, "the kind is PF or VF");
	ok((info.kind == VFETCH_KIND_PF) == (info.function == 0), "function 0 is the PF");
	is(info.state, VFETCH_STATE_READY, "the function is ready");
	is(info.vendor, 0x1b36, "the vendor is the PCI vendor id");
	is(info.page_bytes, VFETCH_PAGE_BYTES, "the page is the header's");
	is(info.block_bytes, VFETCH_BLOCK_BYTES, "the block is the header's");
	ok(info.memory_bytes > 0 && info.memory_bytes % PAGE == 0,
	   "the function has whole pages of memory");
	ok(info.free_bytes <= info.memory_bytes, "not more is free than there is");
	ok(info.queues > 0 && info.queue_entries > 0, "it has queues with slots");
	ok(info.transfer_max_bytes >= PAGE, "a transfer can move a page");
	ok(info.link_bytes_per_us > 0, "the link has a rate");
	ok(info.strands > 0, "jobs have strands");
	is(info.space_bytes, 0, "a new space has 0 bytes");
	is(info.space_lost_pages, 0, "a new space has lost nothing");

	info.flags = 1;
	fails(ioctl(fd, VFETCH_IOC_GET_INFO, &info), EINVAL, "GET_INFO: an unknown flag is EINVAL");
	info.flags = 0x80000000;
	fails(ioctl(fd, VFETCH_IOC_GET_INFO, &info), EINVAL,
	      "GET_INFO: another unknown flag is EINVAL");

	memset(poisoned, 0xa5, sizeof(poisoned));
	memset(poisoned, 0, 4);
	is(ioctl(fd, SIZED(VFETCH_IOC_GET_INFO, 8), poisoned), 0,
	   "GET_INFO: a short structure is accepted");
	memcpy(&info, poisoned, 8);
	is(info.abi_version, VFETCH_ABI_VERSION, "GET_INFO: and gets what it holds");
	ok(all(poisoned + 8, 0xa5, sizeof(poisoned) - 8), "GET_INFO: and nothing beyond");
	fails(ioctl(fd, SIZED(VFETCH_IOC_GET_INFO, 2), poisoned), EINVAL,
	      "GET_INFO: a structure without whole flags is EINVAL");
	fails(ioctl(fd, SIZED(VFETCH_IOC_GET_INFO, 0), poisoned), EINVAL,
	      "GET_INFO: a structure of no bytes is EINVAL");

	memset(&longer, 0, sizeof(longer));
	is(ioctl(fd, SIZED(VFETCH_IOC_GET_INFO, sizeof(longer)), &longer), 0,
	   "GET_INFO: a longer structure that ends in zeros is accepted");
	is(longer.info.page_bytes, PAGE, "GET_INFO: and gets everything");
	ok(all(longer.rest, 0, sizeof(longer.rest)), "GET_INFO: and zeros in the rest");
	memset(&longer, 0, sizeof(longer));
	longer.rest[15] = 1;
	fails(ioctl(fd, SIZED(VFETCH_IOC_GET_INFO, sizeof(longer)), &longer), E2BIG,
	      "GET_INFO: a longer structure with something in its rest is E2BIG");

	fails(ioctl(fd, VFETCH_IOC_GET_INFO, NULL), EFAULT, "GET_INFO: no structure is EFAULT");
	fails(ioctl(fd, VFETCH_IOC_GET_INFO, no_access()), EFAULT,
	      "GET_INFO: an unreadable structure is EFAULT");
	close(fd);
}

static void get_stats(void)
{
	struct {
		struct vfetch_stats stats;
		unsigned char rest[8];
	} longer;
	struct vfetch_stats before = { 0 }, after = { 0 };
	unsigned char page[PAGE];
	unsigned char poisoned[64];
	int fd = open_space(4 * PAGE);

	is(ioctl(fd, VFETCH_IOC_GET_STATS, &before), 0, "GET_STATS works");
	ok(before.spaces >= 1, "this file is among the spaces");
	memset(page, 0x5a, sizeof(page));
	is(pwrite(fd, page, PAGE, 0), PAGE, "a page is written");
	is(pread(fd, page, PAGE, 0), PAGE, "and read");
	is(pread(fd, page, PAGE, 2 * PAGE), PAGE, "and one that was never written");
	is(ioctl(fd, VFETCH_IOC_GET_STATS, &after), 0, "GET_STATS works again");
	ok(after.writes - before.writes >= 1, "the write was counted");
	ok(after.reads - before.reads >= 2, "the reads were counted");
	ok(after.written_bytes - before.written_bytes >= PAGE, "the bytes written were counted");
	ok(after.read_bytes - before.read_bytes >= 2 * PAGE, "the bytes read were counted");
	ok(after.zero_bytes - before.zero_bytes >= PAGE, "zeros were delivered without a transfer");
	ok(after.transfers - before.transfers >= 2, "the transfers were counted");
	ok(after.to_device_bytes - before.to_device_bytes >= PAGE, "bytes went to the device");
	ok(after.to_host_bytes - before.to_host_bytes >= PAGE, "bytes came from the device");
	ok(after.device_pages >= 1, "a page has contents");
	ok(after.device_busy_ns > before.device_busy_ns, "the link was used");
	ok(after.device_time_ns > before.device_time_ns, "the device's time passes");

	after.flags = 2;
	fails(ioctl(fd, VFETCH_IOC_GET_STATS, &after), EINVAL,
	      "GET_STATS: an unknown flag is EINVAL");
	memset(poisoned, 0xa5, sizeof(poisoned));
	memset(poisoned, 0, 4);
	is(ioctl(fd, SIZED(VFETCH_IOC_GET_STATS, 16), poisoned), 0,
	   "GET_STATS: a short structure is accepted");
	ok(all(poisoned + 16, 0xa5, sizeof(poisoned) - 16),
	   "GET_STATS: and nothing is written beyond it");
	fails(ioctl(fd, SIZED(VFETCH_IOC_GET_STATS, 3), poisoned), EINVAL,
	      "GET_STATS: a structure without whole flags is EINVAL");
	memset(&longer, 0, sizeof(longer));
	is(ioctl(fd, SIZED(VFETCH_IOC_GET_STATS, sizeof(longer)), &longer), 0,
	   "GET_STATS: a longer structure that ends in zeros is accepted");
	ok(longer.stats.spaces >= 1 && all(longer.rest, 0, sizeof(longer.rest)),
	   "GET_STATS: and gets everything, and zeros");
	memset(&longer, 0, sizeof(longer));
	longer.rest[0] = 1;
	fails(ioctl(fd, SIZED(VFETCH_IOC_GET_STATS, sizeof(longer)), &longer), E2BIG,
	      "GET_STATS: a longer structure with something in its rest is E2BIG");
	fails(ioctl(fd, VFETCH_IOC_GET_STATS, NULL), EFAULT, "GET_STATS: no structure is EFAULT");
	close(fd);
}

static void set_size(void)
{
	struct {
		struct vfetch_size size;
		unsigned char rest[8];
	} longer = { 0 };
	struct vfetch_size size = { 0 };
	unsigned long long memory, unused;
	unsigned char page[PAGE];
	int fd = open_space(0);

	memory = info_of(fd).memory_bytes;
	unused = info_of(fd).free_bytes;
	size.bytes = 8 * PAGE;
	is(ioctl(fd, VFETCH_IOC_SET_SIZE, &size), 0, "SET_SIZE gives the space a size");
	is(info_of(fd).space_bytes, 8 * PAGE, "which GET_INFO then tells");
	is(info_of(fd).free_bytes, unused, "it takes no room");

	size.bytes = 8 * PAGE + 1;
	fails(ioctl(fd, VFETCH_IOC_SET_SIZE, &size), EINVAL,
	      "SET_SIZE: no multiple of the page is EINVAL");
	size.bytes = (1ULL << 40) + PAGE;
	fails(ioctl(fd, VFETCH_IOC_SET_SIZE, &size), EFBIG,
	      "SET_SIZE: more than 1 TiB is EFBIG");
	size.bytes = 1ULL << 62;
	fails(ioctl(fd, VFETCH_IOC_SET_SIZE, &size), EFBIG,
	      "SET_SIZE: far more than that is EFBIG");
	size.bytes = ~0ULL - PAGE + 1;
	fails(ioctl(fd, VFETCH_IOC_SET_SIZE, &size), EFBIG,
	      "SET_SIZE: the largest of all is EFBIG");
	size.bytes = PAGE;
	size.flags = VFETCH_SIZE_RESERVE;
	fails(ioctl(fd, VFETCH_IOC_SET_SIZE, &size), EINVAL,
	      "SET_SIZE: what was not reserved cannot go on reserved");
	size.flags = VFETCH_SIZE_FLAT;
	fails(ioctl(fd, VFETCH_IOC_SET_SIZE, &size), EINVAL, "SET_SIZE: nor flat");
	size.flags = VFETCH_SIZE_RESERVE | VFETCH_SIZE_FLAT;
	fails(ioctl(fd, VFETCH_IOC_SET_SIZE, &size), EINVAL, "SET_SIZE: both flags are EINVAL");
	size.flags = VFETCH_SIZE_FLAT << 1;
	fails(ioctl(fd, VFETCH_IOC_SET_SIZE, &size), EINVAL, "SET_SIZE: an unknown flag is EINVAL");
	size.flags = 0;
	size.reserved = 1;
	fails(ioctl(fd, VFETCH_IOC_SET_SIZE, &size), EINVAL,
	      "SET_SIZE: something reserved is EINVAL");
	size.reserved = 0;
	fails(ioctl(fd, SIZED(VFETCH_IOC_SET_SIZE, 8), &size), EINVAL,
	      "SET_SIZE: a structure without the size is EINVAL");
	longer.size.bytes = PAGE;
	longer.rest[3] = 1;
	fails(ioctl(fd, SIZED(VFETCH_IOC_SET_SIZE, sizeof(longer)), &longer), E2BIG,
	      "SET_SIZE: a longer structure with something in its rest is E2BIG");
	fails(ioctl(fd, VFETCH_IOC_SET_SIZE, NULL), EFAULT, "SET_SIZE: no structure is EFAULT");
	is(info_of(fd).space_bytes, 8 * PAGE, "SET_SIZE: what failed left the size alone");

	longer.rest[3] = 0;
	longer.size.bytes = 4 * PAGE;
	is(ioctl(fd, SIZED(VFETCH_IOC_SET_SIZE, sizeof(longer)), &longer), 0,
	   "SET_SIZE: a longer structure that ends in zeros is accepted");
	is(info_of(fd).space_bytes, 4 * PAGE, "SET_SIZE: and does it");

	memset(page, 0x77, sizeof(page));
	is(pwrite(fd, page, PAGE, 0), PAGE, "the first page is written");
	is(pwrite(fd, page, PAGE, 3 * PAGE), PAGE, "and the last");
	size.bytes = PAGE;
	is(ioctl(fd, VFETCH_IOC_SET_SIZE, &size), 0, "the space shrinks");
	size.bytes = 4 * PAGE;
	is(ioctl(fd, VFETCH_IOC_SET_SIZE, &size), 0, "and grows again");
	is(pread(fd, page, PAGE, 3 * PAGE), PAGE, "what was cut off is read");
	ok(all(page, 0, PAGE), "and is zeros");
	is(pread(fd, page, PAGE, 0), PAGE, "what stayed is read");
	ok(all(page, 0x77, PAGE), "and is what was written");
	size.bytes = 0;
	is(ioctl(fd, VFETCH_IOC_SET_SIZE, &size), 0, "the space is given back");
	is(pread(fd, page, PAGE, 0), 0, "and then has nothing to read");
	size.bytes = 1ULL << 40;
	is(ioctl(fd, VFETCH_IOC_SET_SIZE, &size), 0, "a space can be far larger than its function");
	is(pwrite(fd, page, 1, (1ULL << 40) - 1), 1, "its last byte is written");
	is(info_of(fd).free_bytes, unused - PAGE, "that took a page");
	size.bytes = 0;
	is(ioctl(fd, VFETCH_IOC_SET_SIZE, &size), 0, "the space is given back");

	size.flags = VFETCH_SIZE_RESERVE;
	size.bytes = 8 * PAGE;
	is(ioctl(fd, VFETCH_IOC_SET_SIZE, &size), 0, "a size is reserved");
	is(info_of(fd).free_bytes, unused - 8 * PAGE, "its room is taken at once");
	size.bytes = memory + PAGE;
	fails(ioctl(fd, VFETCH_IOC_SET_SIZE, &size), ENOSPC,
	      "SET_SIZE: more than the function has cannot be reserved");
	size.bytes = (1ULL << 40) + PAGE;
	fails(ioctl(fd, VFETCH_IOC_SET_SIZE, &size), EFBIG,
	      "SET_SIZE: more than 1 TiB is EFBIG then, too");
	size.bytes = 4 * PAGE;
	is(ioctl(fd, VFETCH_IOC_SET_SIZE, &size), 0, "a reserved size shrinks");
	is(info_of(fd).free_bytes, unused - 4 * PAGE, "and gives its room back");
	size.flags = 0;
	fails(ioctl(fd, VFETCH_IOC_SET_SIZE, &size), EINVAL,
	      "SET_SIZE: what was reserved stays reserved");
	size.bytes = 0;
	is(ioctl(fd, VFETCH_IOC_SET_SIZE, &size), 0, "until it is given back");
	is(info_of(fd).free_bytes, unused, "and all its room with it");
	close(fd);
}

static void discard(void)
{
	struct {
		struct vfetch_range range;
		unsigned char rest[8];
	} longer = { 0 };
	struct vfetch_range range = { .offset = PAGE, .bytes = 2 * PAGE };
	unsigned char page[4 * PAGE];
	int fd = open_space(4 * PAGE);

	memset(page, 0x33, sizeof(page));
	is(pwrite(fd, page, sizeof(page), 0), sizeof(page), "four pages are written");
	is(ioctl(fd, VFETCH_IOC_DISCARD, &range), 0, "DISCARD of the middle two works");
	is(pread(fd, page, sizeof(page), 0), sizeof(page), "all are read");
	ok(all(page + PAGE, 0, 2 * PAGE), "those are zeros");
	ok(all(page, 0x33, PAGE) && all(page + 3 * PAGE, 0x33, PAGE), "the others are not");
	is(info_of(fd).space_bytes, 4 * PAGE, "the size is what it was");

	range.offset = 1;
	fails(ioctl(fd, VFETCH_IOC_DISCARD, &range), EINVAL,
	      "DISCARD: an unaligned offset is EINVAL");
	range.offset = 0;
	range.bytes = 100;
	fails(ioctl(fd, VFETCH_IOC_DISCARD, &range), EINVAL,
	      "DISCARD: an unaligned length is EINVAL");
	range.bytes = 5 * PAGE;
	fails(ioctl(fd, VFETCH_IOC_DISCARD, &range), ERANGE, "DISCARD: across the end is ERANGE");
	range.offset = 8 * PAGE;
	range.bytes = PAGE;
	fails(ioctl(fd, VFETCH_IOC_DISCARD, &range), ERANGE, "DISCARD: beyond the end is ERANGE");
	range.offset = PAGE;
	range.bytes = ~0ULL - PAGE + 1;
	fails(ioctl(fd, VFETCH_IOC_DISCARD, &range), ERANGE,
	      "DISCARD: a range that wraps around is ERANGE");
	range.bytes = PAGE;
	range.flags = 1;
	fails(ioctl(fd, VFETCH_IOC_DISCARD, &range), EINVAL, "DISCARD: an unknown flag is EINVAL");
	range.flags = 0;
	range.reserved = 1;
	fails(ioctl(fd, VFETCH_IOC_DISCARD, &range), EINVAL,
	      "DISCARD: something reserved is EINVAL");
	range.reserved = 0;
	fails(ioctl(fd, SIZED(VFETCH_IOC_DISCARD, 16), &range), EINVAL,
	      "DISCARD: a structure without the length is EINVAL");
	longer.range = range;
	longer.rest[7] = 0xff;
	fails(ioctl(fd, SIZED(VFETCH_IOC_DISCARD, sizeof(longer)), &longer), E2BIG,
	      "DISCARD: a longer structure with something in its rest is E2BIG");
	fails(ioctl(fd, VFETCH_IOC_DISCARD, NULL), EFAULT, "DISCARD: no structure is EFAULT");
	is(pread(fd, page, PAGE, 0), PAGE, "the first page is read");
	ok(all(page, 0x33, PAGE), "what failed discarded nothing");
	close(fd);
}

static void unknown_commands(void)
{
	unsigned char data[256] = { 0 };
	int fd = open_space(0);

	fails(ioctl(fd, _IO(VFETCH_IOC_MAGIC, 0xff), data), ENOTTY, "an unknown number is ENOTTY");
	fails(ioctl(fd, _IOWR(VFETCH_IOC_MAGIC, 0x7f, struct vfetch_info), data), ENOTTY,
	      "an unknown number with a structure is ENOTTY");
	fails(ioctl(fd, _IOWR('x', 0x00, struct vfetch_info), data), ENOTTY,
	      "another driver's command is ENOTTY");
	fails(ioctl(fd, 0x5401 /* TCGETS */, data), ENOTTY, "a node is no terminal");
	close(fd);
}

static void read_and_write(void)
{
	unsigned char out[3 * PAGE], in[3 * PAGE];
	struct iovec parts[2] = { { out, 100 }, { out + 100, 9000 } };
	struct pollfd ready;
	size_t i;
	int fd = open_space(0), other, same;

	for (i = 0; i < sizeof(out); i++)
		out[i] = i * 7 + i / 256;

	is(read(fd, in, PAGE), 0, "an empty space reads nothing");
	fails(write(fd, out, 1), ENOSPC, "an empty space takes nothing");
	ready = (struct pollfd){ .fd = fd, .events = POLLIN | POLLOUT };
	is(poll(&ready, 1, 0), 0, "an empty space is not ready");
	close(fd);

	fd = open_space(4 * PAGE);
	ready = (struct pollfd){ .fd = fd, .events = POLLIN | POLLOUT };
	is(poll(&ready, 1, 0), 1, "a space with a size is ready");
	is(ready.revents, POLLIN | POLLOUT, "to read and to write, and nothing is lost or gone");

	is(pread(fd, in, sizeof(in), 0), sizeof(in), "a new space is read");
	ok(all(in, 0, sizeof(in)), "and is zeros");
	is(pwrite(fd, out, 7, PAGE - 3), 7, "7 bytes across a page are written");
	memset(in, 0xff, sizeof(in));
	is(pread(fd, in, 2 * PAGE, 0), 2 * PAGE, "both pages are read");
	ok(!memcmp(in + PAGE - 3, out, 7), "the 7 bytes came back");
	ok(all(in, 0, PAGE - 3) && all(in + PAGE + 4, 0, PAGE - 4), "around them are zeros");
	is(pwrite(fd, out, sizeof(out), 13), sizeof(out), "much is written at an odd offset");
	is(pread(fd, in, sizeof(in), 13), sizeof(in), "and read");
	ok(!memcmp(in, out, sizeof(in)), "and came back");
	is(pwritev(fd, parts, 2, 5), 9100, "parts are written together");
	is(pread(fd, in, 9100, 5), 9100, "and read as one");
	ok(!memcmp(in, out, 9100), "and came back");

	is(pread(fd, in, 0, 0), 0, "reading no bytes does nothing");
	is(pwrite(fd, out, 0, 0), 0, "writing no bytes does nothing");
	is(pread(fd, in, PAGE, 4 * PAGE - 10), 10, "reading across the end is short");
	is(pwrite(fd, out, PAGE, 4 * PAGE - 10), 10, "writing across the end is short");
	is(pread(fd, in, PAGE, 4 * PAGE), 0, "at the end there is nothing to read");
	fails(pwrite(fd, out, PAGE, 4 * PAGE), ENOSPC, "at the end there is no room");
	is(pread(fd, in, PAGE, 1LL << 40), 0, "far beyond 4 GiB there is nothing to read");
	fails(pwrite(fd, out, PAGE, 1LL << 40), ENOSPC, "far beyond 4 GiB there is no room");
	fails(pread(fd, in, PAGE, -1), EINVAL, "reading at a negative offset is EINVAL");
	fails(pwrite(fd, out, PAGE, -1), EINVAL, "writing at a negative offset is EINVAL");
	fails(pread(fd, no_access(), PAGE, 0), EFAULT, "reading to nowhere is EFAULT");
	fails(pwrite(fd, no_access(), PAGE, 0), EFAULT, "writing from nowhere is EFAULT");

	is(lseek(fd, 0, SEEK_END), 4 * PAGE, "SEEK_END is the space's size");
	is(lseek(fd, -PAGE, SEEK_CUR), 3 * PAGE, "SEEK_CUR counts from here");
	is(lseek(fd, 13, SEEK_SET), 13, "SEEK_SET counts from the start");
	fails(lseek(fd, -1, SEEK_SET), EINVAL, "a position before the start is EINVAL");
	lseek(fd, 4 * PAGE - 5, SEEK_SET);
	is(write(fd, out, 5), 5, "write goes to the position");
	is(lseek(fd, 0, SEEK_CUR), 4 * PAGE, "and moves it");
	lseek(fd, 4 * PAGE - 5, SEEK_SET);
	is(read(fd, in, PAGE), 5, "read comes from the position");
	ok(!memcmp(in, out, 5), "and it is the same");

	other = open_space(4 * PAGE);
	is(pread(other, in, PAGE, 0), PAGE, "another file is read");
	ok(all(in, 0, PAGE), "and has nothing of this one's");
	close(other);
	is(pwrite(fd, out, PAGE, 0), PAGE, "a page is written");
	same = dup(fd);
	close(fd);
	is(pread(same, in, PAGE, 0), PAGE, "a duplicate is read, the original closed");
	ok(!memcmp(in, out, PAGE), "and is the same space");
	close(same);
}

int main(int argc, char **argv)
{
	struct stat st;

	if (argc != 2) {
		fprintf(stderr, "usage: %s /dev/vfetchN\n", argv[0]);
		return 2;
	}
	node = argv[1];
	printf("TAP version 13\n# %zu-bit caller\n", 8 * sizeof(void *));
	is(stat(node, &st), 0, "the node is there");
	is(st.st_mode, S_IFCHR | 0600, "a character device for its owner alone");
	get_info();
	get_stats();
	set_size();
	discard();
	unknown_commands();
	read_and_write();
	return tap_done();
}
