/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The epoll engine: for places where io_uring is forbidden. See loop.h.
 */

#include <errno.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "broker/io/fault.h"
#include "broker/io/loop_engine.h"

/* The engine's own is the epoll fd, in the pointer itself. */
static int epoll_fd(const struct loop *loop)
{
	return (int)(intptr_t)loop->engine;
}

static int epoll_start(struct loop *loop)
{
	int fd = fault_fails("epoll") ? -1 : epoll_create1(EPOLL_CLOEXEC);

	if (fd < 0)
		return -errno;
	loop->engine = (void *)(intptr_t)fd;
	return 0;
}

static void epoll_finish(struct loop *loop)
{
	close(epoll_fd(loop));
}

static int epoll_add(struct loop *loop, uint32_t slot)
{
	const struct loop_slot *s = &loop->slots[slot];
	struct epoll_event event = { .data.u64 = loop_name(loop, slot) };

	event.events = EPOLLRDHUP;
	if (s->want & LOOP_IN)
		event.events |= EPOLLIN;
	if (s->want & LOOP_OUT)
		event.events |= EPOLLOUT;
	if (s->want & LOOP_EDGE)
		event.events |= EPOLLET;
	return epoll_ctl(epoll_fd(loop), EPOLL_CTL_ADD, s->fd, &event) < 0 ? -errno : 0;
}

static void epoll_del(struct loop *loop, uint32_t slot)
{
	epoll_ctl(epoll_fd(loop), EPOLL_CTL_DEL, loop->slots[slot].fd, NULL);
	loop_slot_free(loop, slot);
}

/* Without a syscall there is no telling. */
static bool epoll_pending(const struct loop *loop)
{
	return true;
}

static int epoll_wait_ns(int fd, struct epoll_event *events, uint64_t timeout_ns)
{
	struct timespec ts = { .tv_sec = (time_t)(timeout_ns / 1000000000ull),
			       .tv_nsec = (long)(timeout_ns % 1000000000ull) };
	int n = epoll_pwait2(fd, events, LOOP_BATCH, timeout_ns == UINT64_MAX ? NULL : &ts, NULL);
	int ms;

	if (n >= 0 || (errno != ENOSYS && errno != EPERM))
		return n;
	/* A seccomp profile older than the call. */
	if (timeout_ns == UINT64_MAX)
		ms = -1;
	else
		ms = timeout_ns > 3600000000000ull ? 3600000
						   : (int)((timeout_ns + 999999) / 1000000);
	return epoll_wait(fd, events, LOOP_BATCH, ms);
}

static int epoll_run(struct loop *loop, uint64_t timeout_ns)
{
	struct epoll_event events[LOOP_BATCH];
	int n = epoll_wait_ns(epoll_fd(loop), events, timeout_ns);
	int error = n < 0 ? -errno : 0;

	if (timeout_ns)
		loop_woke(loop);
	if (error)
		return error == -EINTR ? 0 : error;
	for (int i = 0; i < n; i++) {
		uint32_t slot = loop_slot_of(loop, events[i].data.u64);
		uint32_t got = 0;

		if (slot == LOOP_SLOT_NONE)
			continue;
		if (events[i].events & EPOLLIN)
			got |= LOOP_IN;
		if (events[i].events & EPOLLOUT)
			got |= LOOP_OUT;
		if (events[i].events & (EPOLLHUP | EPOLLRDHUP | EPOLLERR))
			got |= LOOP_HUP;
		loop_dispatch(loop, slot, got);
	}
	return n;
}

const struct loop_engine_ops loop_epoll_ops = {
	.name = "epoll",
	.start = epoll_start,
	.finish = epoll_finish,
	.add = epoll_add,
	.del = epoll_del,
	.pending = epoll_pending,
	.run = epoll_run,
};
