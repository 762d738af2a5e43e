/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The client's half of the barrier contract, one shared access a function.
 *
 * kvbroker.h names six pairs, (A) to (F). Here is the client's side of each, and nothing else in
 * the library touches a shared word: ring.c strings these steps together, and a test runs every
 * interleaving of the same steps against a daemon's. That is why they are this small.
 *
 * Indices run freely modulo 2^32. The library keeps its own in private memory (struct kvb_ring) and
 * only writes the shared copies; what the daemon writes is loaded once and checked for being
 * possible, because a wild index would otherwise become a wild pointer here.
 *
 * Used by uapi/ and its tests; not installed.
 */

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>

#include "kvbroker.h"

struct kvb_ring {
	struct kvb_sub *sub;
	const struct kvb_ctl *ctl;
	struct kvb_sqe *sqes;
	const struct kvb_cqe *cqes;
	uint32_t sq_entries;
	uint32_t cq_entries;
	uint32_t sq_tail;   /* entries got */
	uint32_t sq_sent;   /* of those, made visible: sub.sq_tail */
	uint32_t sq_head;   /* ctl.sq_head when last looked at */
	uint32_t cq_head;   /* completions taken */
	uint32_t cq_shown;  /* of those, told the daemon: sub.cq_head */
	uint32_t cq_tail;   /* ctl.cq_tail when last looked at */
	uint32_t sock_seen; /* ctl.sock_seq when the socket was last emptied */
};

static inline uint32_t kvb_word(const uint32_t *word)
{
	return __atomic_load_n(word, __ATOMIC_RELAXED);
}

static inline uint32_t kvb_word_acquire(const uint32_t *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static inline uint64_t kvb_word64(const uint64_t *word)
{
	return __atomic_load_n(word, __ATOMIC_RELAXED);
}

static inline void kvb_set_word(uint32_t *word, uint32_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELAXED);
}

static inline void kvb_set_word_release(uint32_t *word, uint32_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
}

static inline void kvb_full_fence(void)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* Tells the CPU that this is a waiting loop. */
static inline void kvb_cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield" ::: "memory");
#else
	__asm__ volatile("" ::: "memory");
#endif
}

/*
 * Starts where the daemon's words stand: 0 in a fresh ring. Before the first entry, so no barrier.
 */
static inline void kvb_step_begin(struct kvb_ring *r)
{
	r->sq_tail = r->sq_sent = r->sq_head = kvb_word_acquire(&r->ctl->sq_head);
	r->cq_head = r->cq_shown = r->cq_tail = kvb_word_acquire(&r->ctl->cq_tail);
	kvb_set_word(&r->sub->cq_head, r->cq_head);
	kvb_set_word_release(&r->sub->sq_tail, r->sq_tail);
}

/* (B) Slots free for new entries, looking at sq_head only when the last look does not suffice.
 * -EPROTO: the daemon claims entries that were never sent. */
static inline int kvb_step_sq_room(struct kvb_ring *r)
{
	if (r->sq_tail - r->sq_head < r->sq_entries)
		return (int)(r->sq_entries - (r->sq_tail - r->sq_head));
	const uint32_t head = kvb_word_acquire(&r->ctl->sq_head);
	if (r->sq_sent - head > r->sq_entries)
		return -EPROTO;
	r->sq_head = head;
	return (int)(r->sq_entries - (r->sq_tail - head));
}

/* (A) Everything got so far becomes visible. */
static inline void kvb_step_send(struct kvb_ring *r)
{
	r->sq_sent = r->sq_tail;
	kvb_set_word_release(&r->sub->sq_tail, r->sq_tail);
}

/* (E) After kvb_step_send() and a full fence: ctl.flags, with KVB_CTL_NEED_DOORBELL or not. */
static inline uint32_t kvb_step_flags(const struct kvb_ring *r)
{
	return kvb_word(&r->ctl->flags);
}

/* (D) Completions taken are the daemon's to reuse. */
static inline void kvb_step_show_head(struct kvb_ring *r)
{
	r->cq_shown = r->cq_head;
	kvb_set_word_release(&r->sub->cq_head, r->cq_head);
}

/* (C) Copies the next completion out: 1, 0 none, -EPROTO more than there can be. */
static inline int kvb_step_take(struct kvb_ring *r, struct kvb_cqe *ret)
{
	if (r->cq_head == r->cq_tail) {
		/* Fetched beside the tail, not after it: a completion costs one transfer, not two. */
		__builtin_prefetch(&r->cqes[r->cq_head & (r->cq_entries - 1)]);
		const uint32_t tail = kvb_word_acquire(&r->ctl->cq_tail);
		if (tail - r->cq_head > r->cq_entries)
			return -EPROTO;
		r->cq_tail = tail;
		if (tail == r->cq_head)
			return 0;
	}
	*ret = r->cqes[r->cq_head & (r->cq_entries - 1)];
	r->cq_head++;
	return 1;
}

/* Whether kvb_step_show_head() is due after a take: not for each completion, since it dirties the
 * line that the daemon polls, but before the daemon could run out of slots while we do nothing. */
static inline bool kvb_step_show_due(const struct kvb_ring *r, bool took)
{
	return took ? r->cq_head - r->cq_shown >= r->cq_entries / 2 : r->cq_shown != r->cq_head;
}

/* (F) The futex word, to be read before kvb_step_arm(). */
static inline uint32_t kvb_step_wake_word(const struct kvb_ring *r)
{
	return kvb_word_acquire(&r->ctl->wake);
}

/* (F) Asks for a wake-up. A full fence must follow, then kvb_step_news(). */
static inline void kvb_step_arm(struct kvb_ring *r)
{
	kvb_set_word(&r->sub->need_wake, 1);
}

static inline void kvb_step_disarm(struct kvb_ring *r)
{
	kvb_set_word(&r->sub->need_wake, 0);
}

/* (F) Completions, messages or the end of this ring have come: do not sleep. */
static inline bool kvb_step_news(const struct kvb_ring *r)
{
	return kvb_word_acquire(&r->ctl->cq_tail) != r->cq_head ||
	       kvb_word_acquire(&r->ctl->sock_seq) != r->sock_seen ||
	       kvb_word(&r->ctl->flags) & KVB_CTL_BROKEN;
}
