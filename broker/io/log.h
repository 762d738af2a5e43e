/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The daemon's log: lines on stderr (`<N>` priorities when systemd reads it). A blocked sink never
 * blocks the daemon: stderr that is a pipe or socket is written without waiting and lost lines are
 * counted. Repeated complaints about peers go through a rate limit.
 */

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

void log_init(enum log_level level);
void log_write(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
uint64_t log_dropped(void);

#define log_error(...) log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...) log_write(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...) log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_LEVEL_DEBUG, __VA_ARGS__)

/* A complaint at most `burst` times a second a call site; how many were held back is said next. */
struct log_limit {
	uint64_t window_ns;
	uint32_t count;
	uint32_t held;
};
bool log_limit_pass(struct log_limit *limit, uint64_t now_ns, uint32_t burst);
