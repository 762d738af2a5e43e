/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The readers' side of the stats segment (stats.h): map it, take a consistent copy.
 *
 * For broker-ctl and whatever else shows figures. A reader never waits for a lock that a dead
 * daemon holds: it gives up after a while and says so.
 */

#include "broker/admin/stats.h"

/*
 * Maps the segment behind fd (which stays the caller's) and checks that it is one of this version.
 * -EPROTO: not a segment, or of another version; *ret_version (may be NULL) is the one found, 0 if
 * none. -errno of fstat() and mmap().
 */
int stats_read_map(int fd, const struct stats_segment **ret, uint32_t *ret_version);
void stats_read_unmap(const struct stats_segment *seg); /* NULL is fine */

/* A consistent copy. -ETIME: it stayed half written for 200 ms, so its daemon died writing it. */
int stats_read_copy(const struct stats_segment *seg, struct stats_segment *ret);
