/* SPDX-License-Identifier: GPL-2.0 */
/* What the parts of probe share. */
#ifndef VFETCH_PROBE_H
#define VFETCH_PROBE_H

#include <stdbool.h>
#include <stddef.h>

#include <linux/vfetch.h>

/* What the plugin looks for: a section begins, or ends. */
void mark(void);
/* Nanoseconds, from some time on. */
long long now(void);
/* Says why, and ends the program. */
void fail(const char *what) __attribute__((__noreturn__));
/* A space of a function, without contents. */
int open_sparse(const char *function, size_t bytes);
/* One of so many MiB, all of which its device has. */
int open_space(const char *function, size_t bytes);

/* Runs a section of managed memory, if it is one (probe_managed.c). */
bool managed(const char *function, const char *name, long count);

#endif /* VFETCH_PROBE_H */
