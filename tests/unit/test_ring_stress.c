/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The library's ring code against a daemon's consumer, two threads at full speed, for the thread
 * sanitizer.
 *
 * Small rings, indices that start just below 2^32 and wrap at once, and both sides falling asleep
 * often: the client by (F), the daemon by (E) with nothing else to wake it. The two sides share one
 * mapping, as the sanitizer knows memory by its address. Operands and results are checked, so an
 * entry that is seen before its operands, or a slot reused too early, is a wrong sum even where no
 * sanitizer looks.
 */

#include "tests/unit/suite.h"

#include <poll.h>
#include <sched.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <linux/futex.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "broker/io/shm.h"
#include "uapi/internal.h"

#define ENTRIES 20000u
#define OPERAND_BYTES 4096u
#define LOST_MS 5000 /* nothing for so long is a lost wake-up */

struct side {
	struct kvb_sub *sub;
	struct kvb_ctl *ctl;
	const struct kvb_sqe *sqes;
	struct kvb_cqe *cqes;
	const uint64_t *operands;
	uint64_t *results;
	uint32_t sq_entries, cq_entries;
	uint32_t sq_head, cq_tail;
	int doorbell;
	uint32_t sleeps, wakes;
	bool lost;
};

static uint64_t mix(uint64_t x)
{
	x *= 0x9e3779b97f4a7c15ull;
	return x ^ x >> 29;
}

/* ---- the daemon's side --------------------------------------------------------------------- */

static void side_sleep(struct side *s)
{
	struct pollfd p = { .fd = s->doorbell, .events = POLLIN };
	uint64_t rung;

	shm_store(&s->ctl->flags, KVB_CTL_NEED_DOORBELL);
	shm_fence();
	if (shm_load_acquire(&s->sub->sq_tail) == s->sq_head) {
		s->sleeps++;
		s->lost = poll(&p, 1, LOST_MS) == 0;
	}
	(void)!read(s->doorbell, &rung, sizeof(rung));
	shm_store(&s->ctl->flags, 0);
}

static void side_complete(struct side *s, const struct kvb_sqe *sqe)
{
	const uint64_t *operand = s->operands + sqe->operand / 8;
	const struct kvb_cqe cqe = { .user_data = sqe->user_data, .res = 1, .done = 1 };

	while (s->cq_tail - shm_load_acquire(&s->sub->cq_head) == s->cq_entries)
		sched_yield();
	s->results[sqe->operand / 8] = mix(*operand);
	s->cqes[s->cq_tail & (s->cq_entries - 1)] = cqe;
	shm_store_release(&s->ctl->cq_tail, ++s->cq_tail);
	shm_fence();
	if (!shm_load(&s->sub->need_wake))
		return;
	s->wakes++;
	shm_store_release(&s->ctl->wake, shm_load(&s->ctl->wake) + 1);
	syscall(SYS_futex, &s->ctl->wake, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void *side_main(void *arg)
{
	struct side *s = arg;
	uint32_t idle = 0;

	for (uint32_t n = 0; n < ENTRIES && !s->lost;) {
		if (shm_load_acquire(&s->sub->sq_tail) == s->sq_head) {
			if (++idle > mix(n) % 64)
				side_sleep(s);
			continue;
		}
		const struct kvb_sqe sqe = s->sqes[s->sq_head & (s->sq_entries - 1)];
		shm_store_release(&s->ctl->sq_head, ++s->sq_head);
		side_complete(s, &sqe);
		idle = 0;
		n++;
	}
	return NULL;
}

/* ---- the library's side -------------------------------------------------------------------- */

struct memory {
	struct kvb_msg_hello_reply reply;
	char *sub, *ctl, *fence;
};

static void *zeroed(size_t bytes)
{
	void *mem = aligned_alloc(4096, bytes);

	ck_assert_ptr_nonnull(mem);
	return memset(mem, 0, bytes);
}

static void make_memory(struct memory *m, uint32_t sq_entries, uint32_t cq_entries)
{
	m->reply = (struct kvb_msg_hello_reply){
		.version = KVB_ABI_VERSION,
		.sq_entries = sq_entries,
		.cq_entries = cq_entries,
		.operand_bytes = OPERAND_BYTES,
		.sub_sqes = 4096,
		.sub_operands = 8192,
		.ctl_cqes = 4096,
		.ctl_results = 8192,
	};
	m->sub = zeroed(8192 + OPERAND_BYTES);
	m->ctl = zeroed(8192 + OPERAND_BYTES);
	m->fence = zeroed(KVB_FENCES * sizeof(struct kvb_fence));
}

/* The operand of an entry in flight: each has eight bytes of its own. */
static uint32_t operand_of(uint64_t n, uint32_t cq_entries)
{
	return (uint32_t)(n % cq_entries) * 8;
}

static void run_library(struct kvb *kvb, uint32_t cq_entries)
{
	uint64_t *operands = (uint64_t *)(void *)kvb->operands;
	uint64_t sent = 0, seen = 0, round = 0;

	while (seen < ENTRIES) {
		const struct kvb_cqe *cqe;
		struct kvb_sqe *sqe;

		for (uint32_t n = (uint32_t)(mix(++round) % 5); n && sent < ENTRIES; n--) {
			sqe = kvb_get_sqe(kvb);
			if (!sqe)
				break;
			sqe->user_data = sent;
			sqe->operand = operand_of(sent, cq_entries);
			operands[sqe->operand / 8] = sent;
			sent++;
		}
		ck_assert_int_ge(kvb_submit(kvb), 0);
		if (sent == seen)
			continue;
		ck_assert_int_eq(kvb_wait_cqe(kvb, &cqe, LOST_MS * 1000000ull), 0);
		ck_assert_uint_eq(cqe->user_data, seen);
		const uint64_t *result = kvb_results(kvb, operand_of(seen, cq_entries));
		ck_assert_uint_eq(*result, mix(seen));
		kvb_cqe_seen(kvb);
		seen++;
	}
}

static void stress(uint32_t sq_entries, uint32_t cq_entries, uint64_t spin_ns)
{
	const uint32_t first = UINT32_MAX - ENTRIES / 2; /* the wrap comes half way */
	struct kvb *kvb = zeroed((sizeof(*kvb) + 4095) / 4096 * 4096);
	struct memory m;
	pthread_t thread;

	make_memory(&m, sq_entries, cq_entries);
	struct side side = {
		.sub = (void *)m.sub,
		.ctl = (void *)m.ctl,
		.sqes = (void *)(m.sub + m.reply.sub_sqes),
		.cqes = (void *)(m.ctl + m.reply.ctl_cqes),
		.operands = (void *)(m.sub + m.reply.sub_operands),
		.results = (void *)(m.ctl + m.reply.ctl_results),
		.sq_entries = sq_entries,
		.cq_entries = cq_entries,
		.sq_head = first,
		.cq_tail = first,
		.doorbell = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC),
	};
	side.ctl->sq_head = side.ctl->cq_tail = first;
	kvb->fd = -1;
	kvb->doorbell = side.doorbell;
	kvb->spin_ns = spin_ns;
	kvb->magazine_size = 8;
	ck_assert_int_eq(kvb_attach(kvb, &m.reply, m.sub, m.ctl, m.fence), 0);
	ck_assert_int_eq(pthread_create(&thread, NULL, side_main, &side), 0);
	run_library(kvb, cq_entries);
	pthread_join(thread, NULL);
	ck_assert(!side.lost);
	ck_assert_uint_gt(side.sleeps, 0);
	ck_assert_uint_eq(side.sq_head, first + ENTRIES);
	close(side.doorbell);
	free(kvb->side);
	free(kvb);
	free(m.sub);
	free(m.ctl);
	free(m.fence);
}

START_TEST(two_slots)
{
	stress(2, 2, 1000);
}
END_TEST

START_TEST(four_slots)
{
	stress(4, 4, 1000);
}
END_TEST

START_TEST(more_completions_than_entries)
{
	stress(2, 16, 20000);
}
END_TEST

START_TEST(client_that_never_sleeps)
{
	stress(4, 8, UINT64_MAX);
}
END_TEST

int main(void)
{
	static const struct suite_case cases[] = {
		{ &two_slots, 120 },
		{ &four_slots, 120 },
		{ &more_completions_than_entries, 120 },
		{ &client_that_never_sleeps, 120 },
		{ NULL, 0 },
	};

	return suite_run("ring-stress", cases);
}
