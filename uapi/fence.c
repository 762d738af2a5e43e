/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fence words: who has which, and what becomes of them when the broker is gone.
 *
 * A stream that waits for a LOAD waits for the broker to set a word. A broker that has died sets
 * none, and a stream that waits for ever takes its context with it. So every LOAD with a fence that
 * is sent leaves a note of the value it will set, and when the connection is over the library sets
 * those words itself, to that value, and remembers which it had to: kvb_fence_failed().
 *
 * TWO THREADS meet here and nowhere else in the library: the connection's, which sends entries and
 * may find the broker dead, and the one in kvb_fence_watch(), which only ever looks whether it is.
 * What they share is atomic. The sender writes its note, then looks whether all is over; who finds
 * that all is over says so, then reads the notes: one of the two sees the other, and setting a word
 * twice does no harm. A word only moves forward, whoever sets it: the broker's last store may still
 * be on its way.
 *
 * A note is not taken back when its LOAD is done. The word has reached the value then, and there is
 * nothing to set.
 */

#include <errno.h>
#include <poll.h>

#include "internal.h"

#define WATCH_TICK_MS 20 /* how late a broker that gave up and did not hang up is noticed */

/* ---- LOADs on their way -------------------------------------------------------------------- */

/* Sets word i to the value its LOAD would have left there, unless it has come so far. */
static void release_word(struct kvb *kvb, unsigned i)
{
	const uint64_t value = __atomic_load_n(&kvb->fence_value[i], __ATOMIC_SEQ_CST);
	uint64_t word = __atomic_load_n(&kvb->fences[i].value, __ATOMIC_ACQUIRE);

	do {
		if (kvb_fence_reached(word, value))
			return;
		/* First, so that who sees the word can already ask. A store of the broker's that
		 * comes between is then called failed, which costs a page computed again. */
		__atomic_fetch_or(&kvb->fence_failed, 1ull << i, __ATOMIC_SEQ_CST);
	} while (!__atomic_compare_exchange_n(&kvb->fences[i].value, &word, value, false,
					      __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE));
}

void kvb_fence_release_all(struct kvb *kvb)
{
	uint64_t waited;

	__atomic_store_n(&kvb->fence_over, true, __ATOMIC_SEQ_CST);
	waited = __atomic_load_n(&kvb->fence_waited, __ATOMIC_SEQ_CST);
	for (; waited; waited &= waited - 1)
		release_word(kvb, (unsigned)__builtin_ctzll(waited));
}

void kvb_fence_note(struct kvb *kvb, const struct kvb_sqe *sqe)
{
	const unsigned i = sqe->fence - 1u;

	if (i >= KVB_FENCES) /* the broker says so */
		return;
	const uint64_t bit = 1ull << i;
	/* Of several LOADs on one word the last value is the one all waits are over at. */
	if (!(kvb->fence_waited & bit) || !kvb_fence_reached(kvb->fence_value[i], sqe->fence_value))
		__atomic_store_n(&kvb->fence_value[i], sqe->fence_value, __ATOMIC_SEQ_CST);
	__atomic_fetch_or(&kvb->fence_waited, bit, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&kvb->fence_over, __ATOMIC_SEQ_CST))
		release_word(kvb, i);
}

bool kvb_fence_failed(const struct kvb *kvb, uint32_t fence)
{
	return fence < KVB_FENCES &&
	       __atomic_load_n(&kvb->fence_failed, __ATOMIC_SEQ_CST) >> fence & 1;
}

int kvb_fence_watch(struct kvb *kvb, uint64_t timeout_ns)
{
	const uint64_t deadline_ns = kvb_deadline_ns(timeout_ns);
	struct pollfd p = { .fd = kvb->fd, .events = POLLRDHUP };

	for (;;) {
		const uint64_t now = kvb_clock_ns();
		const uint64_t left_ms =
			now >= deadline_ns ? 0 : (deadline_ns - now + 999999) / 1000000;
		const int n = poll(&p, 1, left_ms > WATCH_TICK_MS ? WATCH_TICK_MS : (int)left_ms);

		if (n > 0 || kvb_step_flags(&kvb->ring) & KVB_CTL_BROKEN ||
		    __atomic_load_n(&kvb->fence_over, __ATOMIC_SEQ_CST)) {
			kvb_fence_release_all(kvb);
			return -ENOTCONN;
		}
		if (!left_ms)
			return 0;
	}
}

/* ---- words --------------------------------------------------------------------------------- */

struct kvb_fence *kvb_fence_word(struct kvb *kvb, uint32_t i)
{
	return i < KVB_FENCES ? &kvb->fences[i] : NULL;
}

int kvb_fence_get(struct kvb *kvb)
{
	if (kvb->dead)
		return kvb->dead;
	if (kvb->fence_used == UINT64_MAX)
		return kvb_fail(kvb, -ENOSPC, "all %u fence words are in use: put some back",
				KVB_FENCES);
	const int i = __builtin_ctzll(~kvb->fence_used);
	kvb->fence_used |= 1ull << i;
	__atomic_store_n(&kvb->fences[i].value, 0, __ATOMIC_RELEASE);
	return i;
}

void kvb_fence_put(struct kvb *kvb, uint32_t fence)
{
	if (fence >= KVB_FENCES)
		return;
	kvb->fence_used &= ~(1ull << fence);
	__atomic_fetch_and(&kvb->fence_waited, ~(1ull << fence), __ATOMIC_SEQ_CST);
}

/* ---- streams ------------------------------------------------------------------------------- */

static int check_stream(struct kvb_space *s, uint32_t fence)
{
	if (fence >= KVB_FENCES)
		return kvb_fail(s->kvb, -EINVAL, "there is no fence word %u: they are 0..%u", fence,
				KVB_FENCES - 1);
	if (!s->ops->stream_write)
		return kvb_fail(s->kvb, -EOPNOTSUPP,
				"the space's device has no streams: the CPU writes and waits for "
				"the word itself");
	return 0;
}

int kvb_fence_stream_write(struct kvb_space *space, void *stream, uint32_t fence, uint64_t value)
{
	const int rc = check_stream(space, fence);

	return rc ? rc : space->ops->stream_write(space, stream, fence, value);
}

int kvb_fence_stream_wait(struct kvb_space *space, void *stream, uint32_t fence, uint64_t value)
{
	const int rc = check_stream(space, fence);

	return rc ? rc : space->ops->stream_wait(space, stream, fence, value);
}
