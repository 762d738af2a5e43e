/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A process beside the daemon, the owner or the mover of a device: how the daemon starts it and
 * makes sure that it ends. Only proxy.c and broker/io/mover_link.c call this.
 *
 * pid 0: there is none. fd -1 with a pid: it was told to end and has not yet, because a call into
 * its driver does not return; it is waited for again later.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "broker/io/log.h"

struct process {
	pid_t pid;
	int pidfd;
	int fd;     /* our end of the socketpair; blocking */
	int status; /* exit status of the one before; -1: a signal ended it */
};

#define PROCESS_DEVICE_BYTES 112 /* cuda:N@UUID */

#define PROCESS_NONE                                                                               \
	{                                                                                          \
		.pidfd = -1, .fd = -1                                                              \
	}

/*
 * Starts `kvbrokerd --ROLE=DEVICE`, as owner and cuda:0, or cuda:0@UUID. 0, -errno. Any thread; the
 * process ends with the thread that started it.
 */
int process_start(const char *role, const char *device, enum log_level level, struct process *ret);
bool process_dead(const struct process *p); /* it has ended, or there is none */
/*
 * After its fd is closed: waits until it has ended, for wait_ms, then kills it and waits as long
 * again. True: it is gone, p is NONE again but for its status, and how
 * it went is in why.
 */
bool process_end(struct process *p, int wait_ms, char *why, size_t why_bytes);
