/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The event loop: which fds are ready.
 *
 * Two engines with one interface. `uring` is one io_uring (SINGLE_ISSUER, DEFER_TASKRUN where the
 * kernel has them) with multishot polls; `epoll` serves where io_uring is forbidden (containers'
 * seccomp, kernel.io_uring_disabled). Chosen at run time, shown in `broker-ctl status`.
 *
 * A source is edge-triggered on request (LOOP_EDGE: doorbells, which are never read), else level:
 * it is reported again for as long as it stays ready. Callbacks may add and remove any source,
 * their own included; a removed source is never called again.
 *
 * One thread: the one that made the loop.
 */

#include <stdbool.h>
#include <stdint.h>

struct loop;

#define LOOP_IN (1u << 0)
#define LOOP_OUT (1u << 1)
#define LOOP_EDGE (1u << 2)
#define LOOP_HUP (1u << 3) /* reported only: peer closed, or error */

struct loop_source {
	void (*ready)(struct loop_source *source, uint32_t events);
	int fd; /* -1: not in a loop */
	uint32_t want;
	uint32_t id; /* the loop's */
};
#define LOOP_SOURCE_NULL ((struct loop_source){ .fd = -1 })

enum loop_engine { LOOP_AUTO, LOOP_URING, LOOP_EPOLL };

int loop_new(enum loop_engine want, unsigned sources_max, struct loop **ret);
struct loop *loop_free(struct loop *loop);
const char *loop_engine_name(const struct loop *loop);

/* fd stays the caller's. 0, -ENOSPC, -errno. The source must not move until loop_del(). */
int loop_add(struct loop *loop, struct loop_source *source, int fd, uint32_t want,
	     void (*ready)(struct loop_source *, uint32_t));
void loop_del(struct loop *loop, struct loop_source *source); /* no-op for fd == -1 */

/* Might something be ready? No syscall with uring; with epoll always true. */
bool loop_pending(const struct loop *loop);
/* woke is called in loop_run() after each wait, before the first callback: there is time to read a
 * clock, and callbacks must not go by what it showed before. */
void loop_on_wake(struct loop *loop, void (*woke)(void *arg), void *arg);
/* Calls what is ready; waits for up to timeout_ns (0: not at all; UINT64_MAX: for ever) if nothing
 * is. Returns how many were called, or -errno when the loop itself is broken. */
int loop_run(struct loop *loop, uint64_t timeout_ns);
