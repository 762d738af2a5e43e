/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The io_uring engine; see loop.h.
 *
 * Edge sources are multishot polls: a doorbell costs one CQE and no re-arming. Level sources are
 * single-shot polls armed again after their callback, because a multishot poll reports changes only
 * and a callback need not take everything there is.
 *
 * Adding and removing only lists the slot; loop_run() turns the list into SQEs. So neither can fail
 * for want of SQ room, and a removed slot is free again only when its removal is on its way.
 *
 * With DEFER_TASKRUN the kernel completes nothing until we enter it, and says so in the SQ flags:
 * uring_pending() looks there, without a syscall.
 */

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>

#include "broker/io/fault.h"
#include "broker/io/loop_engine.h"

#define URING_SQ_ENTRIES 256u
#define URING_CQ_ENTRIES 4096u

struct uring {
	struct io_uring ring;
	uint32_t listed; /* first slot to tell the kernel about */
};

static int uring_init(struct io_uring *ring, unsigned flags)
{
	struct io_uring_params params = { .flags = flags | IORING_SETUP_CQSIZE,
					  .cq_entries = URING_CQ_ENTRIES };

	return io_uring_queue_init_params(URING_SQ_ENTRIES, ring, &params);
}

static int uring_start(struct loop *loop)
{
	struct uring *u = fault_calloc("uring", 1, sizeof(*u));
	int error = -ENOMEM;

	if (!u)
		return error;
	u->listed = LOOP_SLOT_NONE;
	error = fault_point("uring-setup");
	if (error == 0) {
		error = uring_init(&u->ring, IORING_SETUP_SINGLE_ISSUER |
						     IORING_SETUP_DEFER_TASKRUN |
						     IORING_SETUP_TASKRUN_FLAG);
		if (error == -EINVAL)
			error = uring_init(&u->ring, 0);
	}
	/* Waiting with a timeout without an SQE for it, from 5.11. */
	if (error == 0 && !(u->ring.features & IORING_FEAT_EXT_ARG)) {
		io_uring_queue_exit(&u->ring);
		error = -ENOSYS;
	}
	if (error) {
		free(u);
		return error;
	}
	loop->engine = u;
	return 0;
}

static void uring_finish(struct loop *loop)
{
	struct uring *u = loop->engine;

	io_uring_queue_exit(&u->ring);
	free(u);
}

static void uring_list(struct loop *loop, uint32_t slot)
{
	struct uring *u = loop->engine;
	struct loop_slot *s = &loop->slots[slot];

	if (s->listed)
		return;
	s->listed = true;
	s->next = u->listed;
	u->listed = slot;
}

static int uring_add(struct loop *loop, uint32_t slot)
{
	uring_list(loop, slot);
	return 0;
}

static void uring_del(struct loop *loop, uint32_t slot)
{
	const struct loop_slot *s = &loop->slots[slot];

	/* On the list already: its turn there frees it. */
	if (s->listed || s->armed)
		uring_list(loop, slot);
	else
		loop_slot_free(loop, slot);
}

static struct io_uring_sqe *uring_sqe(struct uring *u)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);

	if (sqe)
		return sqe;
	io_uring_submit(&u->ring);
	return io_uring_get_sqe(&u->ring);
}

static void uring_arm(struct loop *loop, uint32_t slot, struct io_uring_sqe *sqe)
{
	struct loop_slot *s = &loop->slots[slot];
	unsigned mask = POLLRDHUP;

	if (s->want & LOOP_IN)
		mask |= POLLIN;
	if (s->want & LOOP_OUT)
		mask |= POLLOUT;
	if (s->want & LOOP_EDGE)
		io_uring_prep_poll_multishot(sqe, s->fd, mask | EPOLLET);
	else
		io_uring_prep_poll_add(sqe, s->fd, mask);
	s->armed = true;
	s->name = loop_name(loop, slot);
	io_uring_sqe_set_data64(sqe, s->name);
}

/* Tells the kernel about listed slots. What finds no SQE stays listed for the next run. */
static void uring_flush(struct loop *loop)
{
	struct uring *u = loop->engine;

	while (u->listed != LOOP_SLOT_NONE) {
		uint32_t slot = u->listed;
		struct loop_slot *s = &loop->slots[slot];
		bool work = s->source ? !s->armed : s->armed;
		struct io_uring_sqe *sqe = work ? uring_sqe(u) : NULL;

		if (work && !sqe)
			return;
		u->listed = s->next;
		s->listed = false;
		if (work && s->source) {
			uring_arm(loop, slot, sqe);
		} else if (work) {
			io_uring_prep_poll_remove(sqe, s->name);
			io_uring_sqe_set_data64(sqe, 0);
			s->armed = false;
		}
		if (!s->source)
			loop_slot_free(loop, slot);
	}
}

static bool uring_pending(const struct loop *loop)
{
	const struct uring *u = loop->engine;

	return io_uring_cq_ready(&u->ring) || u->listed != LOOP_SLOT_NONE ||
	       io_uring_sq_ready(&u->ring) ||
	       (IO_URING_READ_ONCE(*u->ring.sq.kflags) &
		(IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW));
}

static int uring_enter(struct uring *u, uint64_t timeout_ns)
{
	struct __kernel_timespec ts = { .tv_sec = (long long)(timeout_ns / 1000000000ull),
					.tv_nsec = (long long)(timeout_ns % 1000000000ull) };
	struct io_uring_cqe *cqe;
	int error = fault_point("uring-enter");

	if (error == 0 && (timeout_ns == 0 || io_uring_cq_ready(&u->ring)))
		error = io_uring_submit_and_get_events(&u->ring);
	else if (error == 0)
		error = io_uring_submit_and_wait_timeout(
			&u->ring, &cqe, 1, timeout_ns == UINT64_MAX ? NULL : &ts, NULL);
	/* Shortage and signals pass: what was not submitted stays in the SQ and goes with the next.
	 */
	if (error == -ETIME || error == -EINTR || error == -EAGAIN || error == -EBUSY ||
	    error == -ENOMEM)
		return 0;
	return error < 0 ? error : 0;
}

static void uring_report(struct loop *loop, uint64_t name, int res, uint32_t flags)
{
	uint32_t slot = loop_slot_of(loop, name);
	struct loop_slot *s;
	uint32_t got = 0;

	if (slot == LOOP_SLOT_NONE)
		return;
	s = &loop->slots[slot];
	if (!(flags & IORING_CQE_F_MORE))
		s->armed = false;
	if (res < 0 || (res & (POLLHUP | POLLRDHUP | POLLERR | POLLNVAL)))
		got |= LOOP_HUP;
	if (res > 0 && (res & POLLIN))
		got |= LOOP_IN;
	if (res > 0 && (res & POLLOUT))
		got |= LOOP_OUT;
	loop_dispatch(loop, slot, got);
	/* Still the same source? It may have been removed, and even another one been added. */
	if (loop_slot_of(loop, name) == slot && !s->armed)
		uring_list(loop, slot);
}

static int uring_run(struct loop *loop, uint64_t timeout_ns)
{
	struct uring *u = loop->engine;
	struct io_uring_cqe *cqe;
	int called = 0;
	int error;

	uring_flush(loop);
	error = uring_enter(u, timeout_ns);
	if (timeout_ns)
		loop_woke(loop);
	if (error)
		return error;
	while (called < LOOP_BATCH && io_uring_peek_cqe(&u->ring, &cqe) == 0) {
		uint64_t name = cqe->user_data;
		uint32_t flags = cqe->flags;
		int res = cqe->res;

		io_uring_cqe_seen(&u->ring, cqe);
		uring_report(loop, name, res, flags);
		called++;
	}
	return called;
}

const struct loop_engine_ops loop_uring_ops = {
	.name = "io_uring",
	.start = uring_start,
	.finish = uring_finish,
	.add = uring_add,
	.del = uring_del,
	.pending = uring_pending,
	.run = uring_run,
};
