/* SPDX-License-Identifier: GPL-2.0 */
/* Test Anything Protocol, version 13: a line a claim, the plan last. */
#ifndef TAP_H
#define TAP_H

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static int tap_tests, tap_failed;

/* One claim. What follows it on failure says what was found. */
static inline void tap_result(int good, const char *file, int line, const char *claim)
{
	tap_tests++;
	printf("%sok %d - %s\n", good ? "" : "not ", tap_tests, claim);
	if (!good) {
		tap_failed++;
		printf("# at %s:%d\n", file, line);
	}
	fflush(stdout);
}

#define ok(good, claim) tap_result(!!(good), __FILE__, __LINE__, claim)

/* The call returned this value. */
static inline void tap_is(long long found, long long wanted, const char *file, int line,
			  const char *claim)
{
	int error = errno;

	tap_result(found == wanted, file, line, claim);
	if (found != wanted)
		printf("# wanted %lld, found %lld (errno %d: %s)\n", wanted, found, error,
		       strerror(error));
}

#define is(call, wanted, claim)                                                                   \
	do {                                                                                      \
		errno = 0;                                                                        \
		long long found_ = (call);                                                        \
		tap_is(found_, (wanted), __FILE__, __LINE__, claim);                              \
	} while (0)

/* The call failed with this errno. */
static inline void tap_fails(long long found, int wanted, const char *file, int line,
			     const char *claim)
{
	int error = errno;

	tap_result(found == -1 && error == wanted, file, line, claim);
	if (found != -1)
		printf("# wanted errno %d (%s), but it returned %lld\n", wanted, strerror(wanted),
		       found);
	else if (error != wanted)
		printf("# wanted errno %d (%s), found %d (%s)\n", wanted, strerror(wanted), error,
		       strerror(error));
}

#define fails(call, wanted, claim)                                                                \
	do {                                                                                      \
		errno = 0;                                                                        \
		long long found_ = (call);                                                        \
		tap_fails(found_, (wanted), __FILE__, __LINE__, claim);                           \
	} while (0)

/* Ends the program's test: prints the plan, gives the exit status. */
static inline int tap_done(void)
{
	printf("1..%d\n", tap_tests);
	return tap_failed ? 1 : 0;
}

#endif /* TAP_H */
