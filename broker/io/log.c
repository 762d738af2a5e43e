/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Log lines to stderr; see log.h.
 *
 * A line is one write(2), so lines of the worker and of the loop do not mix. Where stderr is a pipe
 * or a socket whose reader has stopped, the line is dropped and counted: poll() first, because
 * O_NONBLOCK would be set on the open file that other processes share.
 */

#include "broker/io/log.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOG_LINE_BYTES 1024

static enum log_level log_level = LOG_LEVEL_INFO;
static bool log_priorities; /* stderr is the journal */
static bool log_may_block;
static uint64_t log_lost;

void log_init(enum log_level level)
{
	const char *journal = getenv("JOURNAL_STREAM");
	unsigned long dev = 0, ino = 0;
	struct stat st;

	log_level = level;
	if (fstat(STDERR_FILENO, &st) < 0)
		return;
	log_may_block = S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode);
	if (journal && sscanf(journal, "%lu:%lu", &dev, &ino) == 2)
		log_priorities = st.st_dev == dev && st.st_ino == ino;
}

static bool log_sink_ready(void)
{
	struct pollfd pfd = { .fd = STDERR_FILENO, .events = POLLOUT };

	return !log_may_block || (poll(&pfd, 1, 0) == 1 && (pfd.revents & POLLOUT));
}

void log_write(enum log_level level, const char *fmt, ...)
{
	static const char *const word[] = { "error: ", "warning: ", "", "debug: " };
	static const char priority[] = { '3', '4', '6', '7' };
	int saved = errno;
	char line[LOG_LINE_BYTES];
	size_t used = 0;
	va_list args;
	int n;

	if (level > log_level)
		return;
	n = log_priorities ? snprintf(line, sizeof(line), "<%c>%s", priority[level], word[level])
			   : snprintf(line, sizeof(line), "kvbrokerd: %s", word[level]);
	used = (size_t)n;
	va_start(args, fmt);
	n = vsnprintf(line + used, sizeof(line) - used - 1, fmt, args);
	va_end(args);
	if (n > 0)
		used += (size_t)n < sizeof(line) - used - 1 ? (size_t)n : sizeof(line) - used - 2;
	line[used++] = '\n';
	if (!log_sink_ready() || write(STDERR_FILENO, line, used) != (ssize_t)used)
		__atomic_fetch_add(&log_lost, 1, __ATOMIC_RELAXED);
	errno = saved;
}

uint64_t log_dropped(void)
{
	return __atomic_load_n(&log_lost, __ATOMIC_RELAXED);
}

bool log_limit_pass(struct log_limit *limit, uint64_t now_ns, uint32_t burst)
{
	if (now_ns - limit->window_ns >= 1000000000ull) {
		if (limit->held)
			log_warn("%u similar messages were held back", limit->held);
		limit->window_ns = now_ns;
		limit->count = 0;
		limit->held = 0;
	}
	if (limit->count < burst) {
		limit->count++;
		return true;
	}
	limit->held++;
	return false;
}
