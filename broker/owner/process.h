/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The owner as a process: how the daemon starts it and makes sure that it ends. Only proxy.c calls
 * this.
 *
 * pid 0: there is none. fd -1 with a pid: it was told to end and has not yet, because a call into
 * its driver does not return; it is waited for again later.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "broker/io/log.h"

struct owner_process {
	pid_t pid;
	int pidfd;
	int fd; /* our end of the socketpair; blocking */
};

#define OWNER_PROCESS_NONE                                                                         \
	{                                                                                          \
		.pidfd = -1, .fd = -1                                                              \
	}

/* 0, -errno. Any thread; the owner ends with the thread that started it. */
int owner_process_start(uint32_t ordinal, enum log_level level, struct owner_process *ret);
bool owner_process_dead(const struct owner_process *p); /* it has ended, or there is none */
/*
 * After its fd is closed: waits until it has ended, for wait_ms, then kills it and waits as long
 * again. True: it is gone, p is NONE again and how it went is in why.
 */
bool owner_process_end(struct owner_process *p, int wait_ms, char *why, size_t why_bytes);
