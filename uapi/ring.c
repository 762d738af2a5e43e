/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Entries and completions: the hot path, waiting, and whose completion is whose.
 *
 * THE HOT PATH (kvb_get_sqe, kvb_submit to a daemon that polls, kvb_peek_cqe) makes no syscall. It
 * touches the entry, one line of sub, the first line of ctl and the completion. The head of the
 * completion queue is told the daemon together with the next submission, because it lies on the
 * line that is written then anyway; or when the queue is found empty; or when half of it is taken.
 *
 * WAITING spins for spin_ns and then sleeps on ctl.wake by the protocol (F). A sleeper wakes every
 * few milliseconds to look whether the socket is still there: a daemon that dies wakes nobody.
 *
 * OUTSIDE OF CALLS ONLY. The user's revocation callback, which may make calls, runs where no call
 * is in progress; returning recalled magazine pages must not publish entries that the user has got
 * and not yet filled, and waits until he submits them.
 */

#include <errno.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

#define GRANT_WAIT_MAX_NS (5ull * 1000 * 1000)
#define SPINS_A_CLOCK 64u /* looks between two looks at the clock */

/* ---- sending ------------------------------------------------------------------------------- */

static int end_broken(struct kvb *kvb)
{
	const uint32_t err = kvb_word(&kvb->ring.ctl->error);

	/* The daemon says why on the socket, if it still could. */
	if (!kvb->dead)
		kvb_socket_process(kvb);
	return kvb_end(kvb, -ENOTCONN, "the broker gave up on this client: %s", strerror((int)err));
}

static void ring_doorbell(struct kvb *kvb)
{
	const uint64_t one = 1;

	/* EAGAIN: the counter is full, so the bell has certainly been rung. */
	while (write(kvb->doorbell, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

/* (E), after a store to sub that the daemon may be asleep for. */
static void wake_daemon(struct kvb *kvb)
{
	kvb_full_fence();
	if (kvb_step_flags(&kvb->ring) & KVB_CTL_NEED_DOORBELL)
		ring_doorbell(kvb);
}

/* What must be known of entries before the daemon sees them. */
static void note_fences(struct kvb *kvb)
{
	const struct kvb_ring *r = &kvb->ring;

	for (uint32_t i = r->sq_sent; i != r->sq_tail; i++) {
		const struct kvb_sqe *sqe = &r->sqes[i & (r->sq_entries - 1)];

		if (sqe->opcode == KVB_OP_LOAD && sqe->fence)
			kvb_fence_note(kvb, sqe);
	}
}

static uint32_t ring_send(struct kvb *kvb)
{
	struct kvb_ring *r = &kvb->ring;
	const uint32_t n = r->sq_tail - r->sq_sent;

	if (!n)
		return 0;
	note_fences(kvb);
	if (r->cq_shown != r->cq_head)
		kvb_step_show_head(r);
	kvb_step_send(r);
	wake_daemon(kvb);
	return n;
}

struct kvb_sqe *kvb_get_sqe(struct kvb *kvb)
{
	struct kvb_ring *r = &kvb->ring;
	struct kvb_sqe *sqe;

	if (kvb->dead || kvb->in_flight == r->cq_entries || kvb_step_sq_room(r) <= 0)
		return NULL;
	sqe = &r->sqes[r->sq_tail++ & (r->sq_entries - 1)];
	memset(sqe, 0, sizeof(*sqe));
	kvb->in_flight++;
	return sqe;
}

int kvb_submit(struct kvb *kvb)
{
	if (kvb->dead) {
		note_fences(kvb); /* a stream may wait already for what is not sent any more */
		return kvb->dead;
	}
	const uint32_t n = ring_send(kvb);
	if (kvb->chores)
		kvb_ring_chores(kvb);
	return (int)n;
}

/* Puts an own entry behind those of the user. */
static int push(struct kvb *kvb, const struct kvb_sqe *sqe)
{
	struct kvb_ring *r = &kvb->ring;
	const int room = kvb_step_sq_room(r);

	if (room < 0)
		return kvb_end(kvb, -EPROTO, "the broker claims entries that were never sent");
	if (!room)
		return -EBUSY;
	r->sqes[r->sq_tail++ & (r->sq_entries - 1)] = *sqe;
	ring_send(kvb);
	return 0;
}

bool kvb_ring_try_send(struct kvb *kvb, const struct kvb_sqe *sqe)
{
	return !kvb->dead && kvb->ring.sq_tail == kvb->ring.sq_sent && push(kvb, sqe) == 0;
}

int kvb_ring_send(struct kvb *kvb, const struct kvb_sqe *sqe, uint64_t deadline_ns)
{
	for (;;) {
		int rc = kvb->dead ? kvb->dead : push(kvb, sqe);

		if (rc != -EBUSY)
			return rc;
		ring_send(kvb);
		rc = kvb_ring_reap(kvb);
		if (!rc)
			rc = kvb_ring_wait(kvb, deadline_ns);
		if (rc)
			return rc;
	}
}

/* ---- taking -------------------------------------------------------------------------------- */

/* One completion that is not the user's. */
static void take_own(struct kvb *kvb, const struct kvb_cqe *cqe)
{
	if (cqe->flags & KVB_CQE_EVENT) {
		kvb_space_event(kvb, cqe);
	} else if (cqe->user_data == kvb->call) {
		kvb->call_cqe = *cqe;
		kvb->call_done = true;
	} else if (cqe->user_data & KVB_OWN_MAGAZINE) {
		const uint64_t handle = cqe->user_data & ~(KVB_OWN | KVB_OWN_MAGAZINE);
		if (handle < KVB_SPACES_MAX && kvb->space[handle])
			kvb_magazine_completed(kvb->space[handle], cqe);
	}
}

/* The next completion of the user straight from the ring: 1, 0 none, or why it is over. */
static int take_user(struct kvb *kvb, struct kvb_cqe *ret)
{
	struct kvb_ring *r = &kvb->ring;

	for (;;) {
		const int rc = kvb_step_take(r, ret);

		if (rc < 0)
			return kvb_end(kvb, rc, "the broker completed more than its ring can hold");
		if (rc ? r->cq_head - r->cq_shown >= r->cq_entries / 2
		       : r->cq_shown != r->cq_head) {
			kvb_step_show_head(r);
			/* Entries may have waited for these slots, and the daemon with them. */
			if (kvb_word(&r->ctl->sq_head) != r->sq_sent)
				wake_daemon(kvb);
		}
		if (!rc)
			return 0;
		if (!(ret->flags & KVB_CQE_EVENT) && !(ret->user_data & KVB_OWN))
			return 1;
		take_own(kvb, ret);
	}
}

int kvb_ring_reap(struct kvb *kvb)
{
	struct kvb_cqe cqe;
	int rc;

	if (kvb->dead)
		return kvb->dead;
	while ((rc = take_user(kvb, &cqe)) > 0) {
		if (kvb->side_tail - kvb->side_head == kvb->ring.cq_entries)
			return kvb_end(kvb, -EPROTO,
				       "the broker completed more entries than it was sent");
		kvb->side[kvb->side_tail++ & (kvb->ring.cq_entries - 1)] = cqe;
	}
	return rc;
}

const struct kvb_cqe *kvb_peek_cqe(struct kvb *kvb)
{
	if (kvb->current_used)
		return &kvb->current;
	if (kvb->side_head != kvb->side_tail)
		kvb->current = kvb->side[kvb->side_head++ & (kvb->ring.cq_entries - 1)];
	else if (kvb->dead || take_user(kvb, &kvb->current) <= 0)
		return NULL;
	kvb->current_used = true;
	if (kvb->in_flight)
		kvb->in_flight--;
	return &kvb->current;
}

void kvb_cqe_seen(struct kvb *kvb)
{
	kvb->current_used = false;
}

/* ---- waiting ------------------------------------------------------------------------------- */

static void sleep_on_wake(struct kvb *kvb, uint32_t word, uint64_t ns)
{
	const struct timespec ts = {
		.tv_sec = (time_t)(ns / 1000000000u),
		.tv_nsec = (long)(ns % 1000000000u),
	};

	/* EAGAIN, EINTR, ETIMEDOUT and a wake-up are one: look again. Not PRIVATE: two processes.
	 */
	(void)syscall(SYS_futex, &kvb->ring.ctl->wake, FUTEX_WAIT, word, &ts, NULL, 0);
}

/* True when news came before the time was up. */
static bool spin(const struct kvb_ring *r, uint64_t spin_ns, uint64_t deadline_ns)
{
	uint64_t until_ns = 0;

	for (;;) {
		for (unsigned i = 0; i < SPINS_A_CLOCK; i++) {
			if (kvb_step_news(r))
				return true;
			kvb_cpu_relax();
		}
		const uint64_t now = kvb_clock_ns();
		if (!until_ns)
			until_ns = spin_ns > UINT64_MAX - now ? UINT64_MAX : now + spin_ns;
		if (now >= until_ns || now >= deadline_ns)
			return false;
	}
}

/* Messages, the end of the broker, completions of the library's own. */
static int take_news(struct kvb *kvb)
{
	struct kvb_ring *r = &kvb->ring;

	if (kvb_step_flags(r) & KVB_CTL_BROKEN)
		return end_broken(kvb);
	if (kvb_word_acquire(&r->ctl->sock_seq) != r->sock_seen)
		return kvb_socket_process(kvb);
	return 0;
}

int kvb_ring_wait(struct kvb *kvb, uint64_t deadline_ns)
{
	struct kvb_ring *r = &kvb->ring;
	const bool sleeps = kvb->spin_ns != UINT64_MAX;
	uint64_t tick_ns = KVB_SOCKET_TICK_NS;

	if (kvb->dead)
		return kvb->dead;
	if (kvb_step_news(r) || (sleeps && kvb->spin_ns && spin(r, kvb->spin_ns, deadline_ns)))
		return take_news(kvb);
	for (;;) {
		const uint32_t word = kvb_step_wake_word(r);
		const uint64_t now = kvb_clock_ns();
		const uint64_t left = deadline_ns > now ? deadline_ns - now : 0;

		if (!left)
			return -ETIME;
		if (!sleeps) {
			spin(r, tick_ns, deadline_ns);
		} else {
			kvb_step_arm(r);
			kvb_full_fence();
			if (!kvb_step_news(r))
				sleep_on_wake(kvb, word, left < tick_ns ? left : tick_ns);
			kvb_step_disarm(r);
		}
		if (kvb_step_news(r))
			return take_news(kvb);
		if (kvb_socket_hung_up(kvb)) {
			const int rc = kvb_socket_process(kvb);
			return rc ? rc : -ENOTCONN;
		}
		if (kvb_word(&r->ctl->sq_head) != r->sq_sent)
			wake_daemon(kvb);
		tick_ns =
			tick_ns < KVB_SOCKET_TICK_MAX_NS / 2 ? tick_ns * 2 : KVB_SOCKET_TICK_MAX_NS;
	}
}

void kvb_ring_chores(struct kvb *kvb)
{
	bool more = false;

	for (unsigned i = 0; i < KVB_SPACES_MAX; i++)
		if (kvb->space[i])
			more |= kvb_magazine_chore(kvb->space[i]);
	kvb->chores = more;
}

void kvb_ring_deferred(struct kvb *kvb)
{
	if (kvb->chores && !kvb->dead)
		kvb_ring_chores(kvb);
	if (kvb->tell && !kvb->telling)
		kvb_space_tell(kvb);
}

bool kvb_ring_wait_grant(struct kvb *kvb, uint64_t *wait_ns, uint64_t deadline_ns)
{
	const uint64_t until_ns = kvb_deadline_ns(*wait_ns);
	const uint64_t before = kvb->grants;
	int rc = 0;

	*wait_ns = *wait_ns < GRANT_WAIT_MAX_NS / 2 ? *wait_ns * 2 : GRANT_WAIT_MAX_NS;
	while (!rc && kvb->grants == before && kvb_clock_ns() < until_ns) {
		rc = kvb_ring_wait(kvb, until_ns);
		if (!rc)
			rc = kvb_ring_reap(kvb);
	}
	return !kvb->dead && kvb_clock_ns() < deadline_ns;
}

int kvb_wait_cqe(struct kvb *kvb, const struct kvb_cqe **ret, uint64_t timeout_ns)
{
	const struct kvb_cqe *cqe = kvb_peek_cqe(kvb);
	uint64_t deadline_ns;

	if (cqe) {
		*ret = cqe;
		return 0;
	}
	deadline_ns = kvb_deadline_ns(timeout_ns);
	for (;;) {
		const int rc = kvb_ring_wait(kvb, deadline_ns);

		cqe = kvb_peek_cqe(kvb);
		kvb_ring_deferred(kvb);
		if (cqe) {
			*ret = cqe;
			return 0;
		}
		if (rc)
			return rc;
	}
}

/* Whether it is time to ask the kernel if the socket still stands: a dead daemon leaves no other
 * trace. The coarse clock costs as little as a load and moves every few milliseconds. */
static bool hang_up_due(struct kvb *kvb)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	if (ts.tv_nsec == kvb->hang_up_tick)
		return false;
	kvb->hang_up_tick = ts.tv_nsec;
	return true;
}

int kvb_poll(struct kvb *kvb)
{
	const struct kvb_ring *r = &kvb->ring;
	int rc = kvb->dead;

	if (!rc && kvb_step_news(r)) {
		rc = take_news(kvb);
		if (!rc)
			rc = kvb_ring_reap(kvb);
	} else if (!rc && hang_up_due(kvb) && kvb_socket_hung_up(kvb)) {
		rc = kvb_socket_process(kvb);
	}
	kvb_ring_deferred(kvb);
	return rc;
}

/* ---- one call ------------------------------------------------------------------------------ */

/* After a timeout the entry is still out there with our operands: this connection cannot go on. */
static int call_over(struct kvb *kvb, int rc, uint64_t timeout_ns)
{
	if (rc == -ETIME)
		kvb_end(kvb, -ENOTCONN,
			"the broker did not answer within %llu ms: is it stopped? connect again",
			(unsigned long long)(timeout_ns / 1000000));
	return rc;
}

int kvb_ring_call_start(struct kvb *kvb, const struct kvb_sqe *sqe, uint64_t timeout_ns)
{
	struct kvb_sqe own = *sqe;
	int rc;

	kvb->calls = (kvb->calls + 1) & (KVB_OWN_MAGAZINE - 1);
	kvb->call = own.user_data = KVB_OWN | kvb->calls;
	kvb->call_done = false;
	rc = kvb_ring_send(kvb, &own, kvb_deadline_ns(timeout_ns));
	if (rc)
		kvb->call = 0;
	return call_over(kvb, rc, timeout_ns);
}

int kvb_ring_call_finish(struct kvb *kvb, uint64_t timeout_ns, struct kvb_cqe *ret)
{
	const uint64_t deadline_ns = kvb_deadline_ns(timeout_ns);
	int rc = 0;

	while (!rc) {
		rc = kvb_ring_reap(kvb);
		if (rc || kvb->call_done)
			break;
		rc = kvb_ring_wait(kvb, deadline_ns);
	}
	kvb->call = 0;
	if (!rc)
		*ret = kvb->call_cqe;
	return call_over(kvb, rc, timeout_ns);
}

int kvb_ring_call(struct kvb *kvb, const struct kvb_sqe *sqe, uint64_t timeout_ns,
		  struct kvb_cqe *ret)
{
	int rc = kvb_ring_call_start(kvb, sqe, timeout_ns);

	return rc ? rc : kvb_ring_call_finish(kvb, timeout_ns, ret);
}

/* ---- what the user fills entries with ------------------------------------------------------ */

void *kvb_operands(struct kvb *kvb, size_t *ret_bytes)
{
	*ret_bytes = kvb->call_operand;
	return kvb->operands;
}

uint32_t kvb_operand_offset(const struct kvb *kvb, const void *operand)
{
	return (uint32_t)((const char *)operand - kvb->operands);
}

const void *kvb_results(const struct kvb *kvb, uint32_t offset)
{
	return kvb->results + offset;
}
