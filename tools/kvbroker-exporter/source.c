/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Reading, and telling the living from the dead: see source.h.
 *
 * The segment names its daemon's process. That process must be there, and must not have begun after
 * the daemon did: a later one has got its number. Both are in /proc, of which nothing else is
 * needed; where others' processes are hidden there (hidepid), that a signal could be sent has to
 * do.
 */

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "broker/admin/stats_read.h"
#include "broker/io/shm.h"
#include "tools/kvbroker-exporter/source.h"

/* Between the start of a process and of the daemon in it, clocks read at different moments. */
#define CLOCK_SLACK_S 2.0

/* As stats_segment.ready counts them; behind them is one that has stopped. */
const char *const source_states[SOURCE_STATES] = { "starting", "ready", "draining" };

int source_init(struct source *s, const char *path)
{
	*s = (struct source){ .path = path, .seg = malloc(sizeof(*s->seg)) };
	return s->seg ? 0 : -ENOMEM;
}

void source_free(struct source *s)
{
	free(s->seg);
	s->seg = NULL;
}

static double clock_s(clockid_t clock)
{
	struct timespec ts;

	(void)clock_gettime(clock, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* When a process began, in seconds since the machine did; < 0: not to be seen. INFINITY: it has
 * ended, and its parent has not looked yet. */
static double process_start_s(int32_t pid)
{
	char path[32], text[1024];
	const char *at;
	unsigned long long ticks;
	ssize_t n;
	int fd;

	(void)snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	n = read(fd, text, sizeof(text) - 1);
	(void)close(fd);
	if (n <= 0)
		return -1;
	text[n] = '\0';
	/* The name, field 2, may hold anything, also brackets; of those behind it the 20th. */
	at = strrchr(text, ')');
	if (at && (strncmp(at, ") Z", 3) == 0 || strncmp(at, ") X", 3) == 0))
		return INFINITY;
	for (unsigned field = 2; at && field < 22; field++)
		at = strchr(at + 1, ' ');
	if (!at || sscanf(at, "%llu", &ticks) != 1)
		return -1;
	return (double)ticks / (double)sysconf(_SC_CLK_TCK);
}

static bool process_lives(const struct stats_segment *seg)
{
	double begun_s, daemon_s;

	if (seg->pid <= 0 || (kill(seg->pid, 0) < 0 && errno != EPERM))
		return false;
	begun_s = process_start_s(seg->pid);
	daemon_s =
		(double)seg->started_ns / 1e9 + clock_s(CLOCK_BOOTTIME) - clock_s(CLOCK_MONOTONIC);
	return begun_s < daemon_s + CLOCK_SLACK_S;
}

/* The segment in the file, mapped; NULL, and s->why. */
static const struct stats_segment *source_map(struct source *s)
{
	const struct stats_segment *seg;
	uint32_t version = 0;
	int fd = open(s->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	int r = fd < 0 ? -errno : stats_read_map(fd, &seg, &version);

	if (fd >= 0)
		(void)close(fd);
	if (r == 0)
		return seg;
	if (r == -EPROTO && version)
		(void)snprintf(s->why, sizeof(s->why),
			       "the stats segment is of version %u, this program reads version %u "
			       "(use the exporter that came with the daemon)",
			       version, STATS_VERSION);
	else if (r == -EPROTO)
		(void)snprintf(s->why, sizeof(s->why), "the file is no stats segment");
	else if (r == -ENOENT)
		(void)snprintf(s->why, sizeof(s->why),
			       "no daemon has run here: there is no stats segment");
	else
		(void)snprintf(s->why, sizeof(s->why), "cannot read the stats segment: %s",
			       strerror(-r));
	return NULL;
}

void source_read(struct source *s)
{
	const struct stats_segment *seg;

	s->up = false;
	seg = source_map(s);
	if (!seg)
		return;
	/* Both first, so that what died while it wrote is not waited for. */
	if (shm_load(&seg->ready) >= SOURCE_STATES)
		(void)snprintf(s->why, sizeof(s->why), "it was stopped");
	else if (!process_lives(seg))
		(void)snprintf(s->why, sizeof(s->why), "its process, pid %d, has ended", seg->pid);
	else if (stats_read_copy(seg, s->seg) < 0)
		(void)snprintf(s->why, sizeof(s->why), "the stats segment stays half written");
	else
		s->up = true;
	stats_read_unmap(seg);
}

void source_tell(struct source *s)
{
	char now[sizeof(s->told)];

	if (s->up)
		(void)snprintf(now, sizeof(now), "is up, pid %d", s->seg->pid);
	else
		(void)snprintf(now, sizeof(now), "is down: %.240s", s->why);
	if (strcmp(now, s->told) == 0)
		return;
	memcpy(s->told, now, sizeof(s->told));
	(void)fprintf(stderr, "kvbroker-exporter: the daemon of %s %s\n", s->path, now);
}

const char *source_state(const struct source *s)
{
	return source_states[s->seg->ready < SOURCE_STATES ? s->seg->ready : 0];
}

double source_wall_s(uint64_t ns)
{
	double ago_s = clock_s(CLOCK_MONOTONIC) - (double)ns / 1e9;

	return round((clock_s(CLOCK_REALTIME) - ago_s) * 1e3) / 1e3;
}
