/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Fault points: labelled places where memory, an fd or a kernel service can be refused.
 *
 * The fault tests run the daemon once to count the points (KVB_FAULT_COUNT=FILE: totals are written
 * at exit) and then once for each k with KVB_FAULT=NAME:K[:ERRNO]: the k-th call of that point
 * fails with the errno (default ENOMEM). NAME `*` counts all points together. Wrapped libraries
 * make raw syscalls, so a preloaded library would not see them; these points do.
 *
 * Without -Dfault_points=true nothing of this is compiled in. Thread safe.
 */

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#ifdef KVB_FAULT_POINTS
int fault_point(const char *name); /* 0, or the -errno this call has to fail with */
#else
static inline int fault_point(const char *name)
{
	return 0;
}
#endif

/* For calls that report through errno: `fd = fault_fails("accept") ? -1 : accept4(...)`. */
static inline bool fault_fails(const char *name)
{
	int error = fault_point(name);

	if (error)
		errno = -error;
	return error != 0;
}

static inline void *fault_calloc(const char *name, size_t n, size_t bytes)
{
	return fault_fails(name) ? NULL : calloc(n, bytes);
}
