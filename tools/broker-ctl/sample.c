/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Commands that print a line every so often: [INTERVAL [COUNT]].
 *
 * Each sample is a connection of its own: its HELLO makes the daemon publish. Ctrl-C is waited for
 * together with the time, so it ends the command between two lines, and is no failure; while the
 * daemon is asked it waits for that.
 */

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

#include "tools/broker-ctl/ctl.h"

static double clock_s(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* False: somebody wants an end. */
static bool rest(const sigset_t *ends, double s)
{
	const double until_s = clock_s() + s;

	for (double left = s; left > 0; left = until_s - clock_s()) {
		struct timespec ts = { .tv_sec = (time_t)left,
				       .tv_nsec = (long)(fmod(left, 1) * 1e9) };

		if (sigtimedwait(ends, NULL, &ts) > 0)
			return false;
		if (errno == EAGAIN)
			return true;
	}
	return true;
}

static int sample_every(struct ctl *ctl, sample_fn line, double interval_s, uint64_t first,
			uint64_t count)
{
	struct stats_segment *from = malloc(sizeof(*from));
	int r = from ? 0 : ctl_fail(ctl, ADMIN_EXIT_FAILED, "sample", NULL, "out of memory");
	sigset_t ends;

	sigemptyset(&ends);
	sigaddset(&ends, SIGINT);
	(void)sigprocmask(SIG_BLOCK, &ends, NULL);
	for (uint64_t i = first; r == 0 && (count == 0 || i < count); i++) {
		*from = *ctl->seg;
		if (!output_flush(ctl) || !rest(&ends, interval_s))
			break;
		r = link_open(ctl);
		link_close(ctl);
		if (r == 0)
			r = line(ctl, from, i);
		if (!output_flush(ctl))
			break;
	}
	free(from);
	return r;
}

int ctl_sample(struct ctl *ctl, bool since_start, sample_fn line)
{
	double interval_s = 0;
	uint64_t count = 0, first = 0;
	char *end = NULL;
	int r;

	if (ctl->nargs > 0) {
		interval_s = strtod(ctl->args[0], &end);
		if (!isdigit((unsigned char)ctl->args[0][0]) || *end || !(interval_s >= 0.1) ||
		    interval_s > 86400)
			return ctl_fail(ctl, ADMIN_EXIT_USAGE, ctl->args[0], NULL,
					"the interval is 0.1 to 86400 seconds");
	}
	if (ctl->nargs > 1) {
		count = strtoull(ctl->args[1], &end, 10);
		if (!isdigit((unsigned char)ctl->args[1][0]) || *end || count == 0)
			return ctl_fail(ctl, ADMIN_EXIT_USAGE, ctl->args[1], NULL,
					"the count is a number from 1");
	}
	r = link_open(ctl);
	link_close(ctl);
	if (r == 0 && (since_start || ctl->nargs == 0))
		r = line(ctl, NULL, first++);
	if (r || ctl->nargs == 0)
		return r;
	return sample_every(ctl, line, interval_s, first, count);
}
