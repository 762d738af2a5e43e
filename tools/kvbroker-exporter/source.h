/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The daemon's figures, or why there are none.
 *
 * Every reading opens the file of the stats segment anew, because a daemon that starts replaces it,
 * and copies it whole. The figures of a daemon that has ended are still there, and are not given
 * out: whoever shows them would show what was as what is. A daemon lives while its process does,
 * which is seen without a privilege and without asking it, so the exporter and the daemon have to
 * be in one PID namespace.
 *
 * Not for several threads at once.
 */

#include "broker/admin/stats.h"

struct source {
	const char *path;
	struct stats_segment *seg; /* a copy; holds figures of the living only while up */
	bool up;
	char why[256];  /* it is not up */
	char told[256]; /* what was last said of it, by source_tell() */
};

int source_init(struct source *s, const char *path); /* 0, -ENOMEM */
void source_free(struct source *s);
void source_read(struct source *s);
void source_tell(struct source *s); /* a line on stderr, when it has come or gone since the last */

#define SOURCE_STATES 3u
extern const char *const source_states[SOURCE_STATES]; /* starting, ready, draining */
/* Which of them: of a daemon that is up. */
const char *source_state(const struct source *s);
/* Seconds since 1970 at which a CLOCK_MONOTONIC time of the segment was, in whole ms. */
double source_wall_s(uint64_t ns);
