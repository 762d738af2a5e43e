/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The labelled points of a mover's life, where tests make it fail or die.
 *
 *   mover-hello      it has said that it serves
 *   mover-chunk      a chunk is mapped and attached
 *   mover-slab       a slab of the device is mapped
 *   mover-taken      an entry was taken from the ring
 *   mover-submit     a batch is about to be submitted
 *   mover-submitted  it was; an error here is a device that broke for good
 *   mover-copied     its copies are over, nothing of it was completed
 *   mover-sum        a page was summed, by any thread; nothing is known of its sum
 *
 * KVB_FAULT=NAME:K[:ERRNO] as in fault.h makes the k-th passing fail. With ERRNO 130 (EOWNERDEAD)
 * the process kills itself there, as kill -9 would. The successor has the same environment, so with
 * KVB_FAULT_ONCE=FILE only the process that creates FILE dies.
 */

#include "broker/io/fault.h"

#ifdef KVB_FAULT_POINTS

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

static inline int mover_point(const char *name)
{
	const char *once = getenv("KVB_FAULT_ONCE");
	int error = fault_point(name);
	int fd;

	if (error != -EOWNERDEAD)
		return error;
	if (once) {
		fd = open(once, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		if (fd < 0)
			return 0;
		close(fd);
	}
	kill(getpid(), SIGKILL);
	return error;
}

#else

static inline int mover_point(const char *name)
{
	return 0;
}

#endif
