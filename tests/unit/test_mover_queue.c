/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The mover's half of the ring against the library's half of it, step by step in one thread.
 */

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "broker/mover/queue.h"
#include "tests/unit/suite.h"
#include "tests/unit/test_mover_daemon.h"

static struct test_ring ring;
static struct mover_queue queue;

static void setup(uint32_t start)
{
	test_ring_open(&ring, start);
	ck_assert_int_eq(mover_queue_open(&queue, ring.memfd, dup(ring.doorbell), dup(ring.wake)),
			 0);
}

static void teardown(void)
{
	mover_queue_close(&queue);
	test_ring_close(&ring);
}

static void put(uint32_t id)
{
	const struct mover_entry entry = { .id = id };

	ck_assert(test_ring_put(&ring, &entry));
	kvb_step_send(&ring.ring);
}

static bool woken(void)
{
	uint64_t rung;

	return read(ring.wake, &rung, sizeof(rung)) == sizeof(rung);
}

START_TEST(entries_and_completions_pass_2_32)
{
	struct mover_entry entry;
	struct kvb_cqe cqe;
	uint32_t sent = 0, done = 0;

	setup(UINT32_MAX - 40 * (uint32_t)_i);
	while (done < 3 * MOVER_RING_ENTRIES) {
		for (uint32_t i = 0; i < 100 && kvb_step_sq_room(&ring.ring); i++)
			put(sent++);
		while (mover_queue_take(&queue, &entry) == 1)
			mover_queue_post(&queue, entry.id, -(int32_t)(entry.id % 7), ~entry.id);
		mover_queue_publish(&queue);
		while (kvb_step_take(&ring.ring, &cqe) == 1) {
			ck_assert_uint_eq(cqe.user_data, done);
			ck_assert_int_eq(cqe.res, -(int32_t)(done % 7));
			ck_assert_uint_eq(cqe.aux, (uint32_t)~done);
			done++;
		}
		kvb_step_show_head(&ring.ring);
	}
	teardown();
}
END_TEST

START_TEST(a_full_ring_is_taken_whole_and_not_more)
{
	struct mover_entry entry;
	struct kvb_cqe cqe;

	setup(UINT32_MAX - 3);
	for (uint32_t i = 0; i < MOVER_RING_ENTRIES; i++)
		put(i);
	ck_assert_int_eq(kvb_step_sq_room(&ring.ring), 0);
	for (uint32_t i = 0; i < MOVER_RING_ENTRIES; i++) {
		ck_assert_int_eq(mover_queue_take(&queue, &entry), 1);
		ck_assert_uint_eq(entry.id, i);
	}
	ck_assert_int_eq(mover_queue_take(&queue, &entry), 0);
	ck_assert(!queue.stuck);
	/* Slots are the daemon's again, but no completion has room. */
	mover_queue_publish(&queue);
	put(1);
	ck_assert_int_eq(mover_queue_take(&queue, &entry), 0);
	ck_assert(queue.stuck);
	ck_assert(!mover_queue_arm(&queue));
	mover_queue_post(&queue, 0, 0, 0);
	mover_queue_publish(&queue);
	ck_assert_int_eq(mover_queue_take(&queue, &entry), 0);
	ck_assert_int_eq(kvb_step_take(&ring.ring, &cqe), 1);
	kvb_step_show_head(&ring.ring);
	ck_assert_int_eq(mover_queue_take(&queue, &entry), 1);
	ck_assert(!queue.stuck);
	teardown();
}
END_TEST

START_TEST(nothing_is_seen_before_it_is_shown)
{
	struct mover_entry entry;
	struct kvb_cqe cqe;

	setup(0);
	put(5);
	ck_assert_int_eq(mover_queue_take(&queue, &entry), 1);
	ck_assert_uint_eq(kvb_word(&ring.ring.ctl->sq_head), 0);
	mover_queue_post(&queue, entry.id, 0, 0);
	ck_assert_int_eq(kvb_step_take(&ring.ring, &cqe), 0);
	mover_queue_publish(&queue);
	ck_assert_uint_eq(kvb_word(&ring.ring.ctl->sq_head), 1);
	ck_assert_int_eq(kvb_step_take(&ring.ring, &cqe), 1);
	teardown();
}
END_TEST

START_TEST(who_did_not_ask_is_not_woken)
{
	struct mover_entry entry;

	setup(0);
	put(1);
	put(2);
	ck_assert_int_eq(mover_queue_take(&queue, &entry), 1);
	mover_queue_post(&queue, entry.id, 0, 0);
	mover_queue_publish(&queue);
	ck_assert(!woken());
	kvb_step_arm(&ring.ring);
	mover_queue_publish(&queue);
	ck_assert(!woken()); /* nothing new */
	ck_assert_int_eq(mover_queue_take(&queue, &entry), 1);
	mover_queue_post(&queue, entry.id, 0, 0);
	mover_queue_publish(&queue);
	ck_assert(woken());
	ck_assert(!woken());
	teardown();
}
END_TEST

START_TEST(the_doorbell_is_asked_for_before_a_sleep_only)
{
	struct mover_entry entry;

	setup(0);
	mover_queue_disarm(&queue);
	ck_assert_uint_eq(kvb_step_flags(&ring.ring), 0);
	ck_assert(!mover_queue_arm(&queue));
	ck_assert_uint_eq(kvb_step_flags(&ring.ring), KVB_CTL_NEED_DOORBELL);
	put(1);
	ck_assert(mover_queue_arm(&queue)); /* came between the last look and the sleep */
	mover_queue_disarm(&queue);
	ck_assert_int_eq(mover_queue_take(&queue, &entry), 1);
	ck_assert(!mover_queue_arm(&queue));
	teardown();
}
END_TEST

START_TEST(indices_that_cannot_be_are_refused)
{
	struct mover_entry entry;

	setup(10);
	kvb_set_word(&ring.ring.sub->sq_tail, 10 + MOVER_RING_ENTRIES + 1);
	ck_assert(mover_queue_arm(&queue));
	ck_assert_int_eq(mover_queue_take(&queue, &entry), -EPROTO);
	kvb_set_word(&ring.ring.sub->sq_tail, 9); /* back */
	ck_assert_int_eq(mover_queue_take(&queue, &entry), -EPROTO);
	kvb_set_word(&ring.ring.sub->sq_tail, 10 + MOVER_RING_ENTRIES);
	for (uint32_t i = 0; i < MOVER_RING_ENTRIES; i++)
		ck_assert_int_eq(mover_queue_take(&queue, &entry), 1);
	mover_queue_publish(&queue);
	kvb_set_word(&ring.ring.sub->sq_tail, 11 + MOVER_RING_ENTRIES);
	kvb_set_word(&ring.ring.sub->cq_head, 11); /* reaped what was never posted */
	ck_assert_int_eq(mover_queue_take(&queue, &entry), -EPROTO);
	kvb_set_word(&ring.ring.sub->cq_head, 9); /* back */
	ck_assert_int_eq(mover_queue_take(&queue, &entry), -EPROTO);
	teardown();
}
END_TEST

START_TEST(a_file_that_is_too_small_is_no_ring)
{
	struct mover_queue q = MOVER_QUEUE_NONE;
	int fd = test_memfd(MOVER_RING_BYTES - 1, NULL);

	ck_assert_int_eq(mover_queue_open(&q, fd, 100, 101), -EINVAL);
	ck_assert_ptr_null(q.mem);
	mover_queue_close(&q);
	close(fd);
}
END_TEST

int main(void)
{
	static const struct suite_case cases[] = {
		{ &entries_and_completions_pass_2_32, 30, 4 },
		{ &a_full_ring_is_taken_whole_and_not_more },
		{ &nothing_is_seen_before_it_is_shown },
		{ &who_did_not_ask_is_not_woken },
		{ &the_doorbell_is_asked_for_before_a_sleep_only },
		{ &indices_that_cannot_be_are_refused },
		{ &a_file_that_is_too_small_is_no_ring },
		{ NULL },
	};

	return suite_run("mover-queue", cases);
}
