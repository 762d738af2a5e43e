/* SPDX-License-Identifier: Apache-2.0 */

/*
 * libkvbroker against a daemon of straw (fake_daemon.h): fence words.
 *
 * A stream that waits for a LOAD is here a thread, or the test itself, that looks at the word and
 * calls nothing. What must hold however the broker ends, and whichever thread notices: the word of
 * every LOAD that was submitted reaches its value, what the broker did set is not called failed,
 * and words of other entries are left alone.
 */

#include "tests/unit/suite.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "broker/io/shm.h"
#include "tests/unit/fake_daemon.h"
#include "uapi/internal.h"

#define MS 1000000ull

static struct fake fake;

static bool serve_never(struct fake *f, const struct kvb_sqe *sqe)
{
	return true;
}

static void hang_up(struct fake *f, void *arg)
{
	close(f->fd);
	f->fd = -1;
}

static void break_ring(struct fake *f, void *arg)
{
	shm_store(&fake_ctl(f)->error, EPROTO);
	shm_store_release(&fake_ctl(f)->flags, shm_load(&fake_ctl(f)->flags) | KVB_CTL_BROKEN);
	fake_wake(f);
}

static struct kvb *start(struct kvb_space **ret)
{
	const struct kvb_params p = { .socket = fake.path, .timeout_ns = 2000 * MS };
	const struct kvb_space_params space = { .stride_bytes = FAKE_PAGE_BYTES };
	struct kvb *kvb = NULL;
	char text[256] = "";

	fake_init(&fake);
	fake_start(&fake);
	ck_assert_msg(kvb_connect(&p, &kvb, text) == 0, "%s", text);
	ck_assert_msg(kvb_space_open(kvb, &space, ret) == 0, "%s", kvb_error_text(kvb));
	fake.serve = serve_never;
	return kvb;
}

static void finish(struct kvb *kvb)
{
	kvb_disconnect(kvb);
	fake_stop(&fake);
}

static void get_entry(struct kvb *kvb, const struct kvb_space *space, enum kvb_op op,
		      uint32_t fence, uint64_t value)
{
	struct kvb_sqe *sqe = kvb_get_sqe(kvb);

	ck_assert_ptr_nonnull(sqe);
	kvb_prep_load(sqe, space, 0, 0, 0, 1, 0);
	sqe->opcode = (uint8_t)op;
	kvb_prep_fence(sqe, fence, value);
}

static void load(struct kvb *kvb, const struct kvb_space *space, uint32_t fence, uint64_t value)
{
	get_entry(kvb, space, KVB_OP_LOAD, fence, value);
	ck_assert_int_eq(kvb_submit(kvb), 1);
}

static uint64_t word(struct kvb *kvb, uint32_t fence)
{
	return __atomic_load_n(&kvb_fence_word(kvb, fence)->value, __ATOMIC_ACQUIRE);
}

/* Until the library has noticed, by its own looking. */
static void wait_for_the_end(struct kvb *kvb)
{
	const struct kvb_cqe *cqe;

	ck_assert_int_eq(kvb_wait_cqe(kvb, &cqe, 2000 * MS), -ENOTCONN);
}

/* ---- words --------------------------------------------------------------------------------- */

START_TEST(words_are_given_out_once)
{
	struct kvb_space *space;
	uint64_t seen = 0;

	struct kvb *kvb = start(&space);
	for (unsigned i = 0; i < KVB_FENCES; i++) {
		const int fence = kvb_fence_get(kvb);

		ck_assert_int_ge(fence, 0);
		ck_assert_int_lt(fence, KVB_FENCES);
		ck_assert(!(seen >> fence & 1));
		seen |= 1ull << fence;
		kvb_fence_word(kvb, (uint32_t)fence)->value = 77;
	}
	ck_assert_int_eq(kvb_fence_get(kvb), -ENOSPC);
	ck_assert_ptr_nonnull(strstr(kvb_error_text(kvb), "put some back"));
	kvb_fence_put(kvb, KVB_FENCES);
	ck_assert_int_eq(kvb_fence_get(kvb), -ENOSPC);
	kvb_fence_put(kvb, 13);
	ck_assert_int_eq(kvb_fence_get(kvb), 13);
	ck_assert_uint_eq(word(kvb, 13), 0);
	fake_do(&fake, hang_up, NULL);
	wait_for_the_end(kvb);
	ck_assert_int_eq(kvb_fence_get(kvb), -ENOTCONN);
	finish(kvb);
}
END_TEST

START_TEST(devices_without_streams_say_so)
{
	struct kvb_space *space;
	int stream;

	struct kvb *kvb = start(&space);
	ck_assert_int_eq(kvb_fence_stream_write(space, &stream, 0, 1), -EOPNOTSUPP);
	ck_assert_int_eq(kvb_fence_stream_wait(space, &stream, 0, 1), -EOPNOTSUPP);
	ck_assert_ptr_nonnull(strstr(kvb_error_text(kvb), "no streams"));
	ck_assert_int_eq(kvb_fence_stream_write(space, &stream, KVB_FENCES, 1), -EINVAL);
	ck_assert_int_eq(kvb_fence_stream_wait(space, &stream, KVB_FENCES, 1), -EINVAL);
	finish(kvb);
}
END_TEST

/* ---- the end of a broker ------------------------------------------------------------------- */

START_TEST(fences_of_loads_are_released_with_the_broker)
{
	void (*const ends[])(struct fake *, void *) = { hang_up, break_ring };
	struct kvb_space *space;

	for (unsigned i = 0; i < 2; i++) {
		struct kvb *kvb = start(&space);

		load(kvb, space, 3, 9);
		load(kvb, space, 5, 1);
		get_entry(kvb, space, KVB_OP_SEAL, 6, 4);
		get_entry(kvb, space, KVB_OP_FREE, 7, 4);
		ck_assert_int_eq(kvb_submit(kvb), 2);
		ck_assert(!kvb_fence_failed(kvb, 3));
		/* The broker is done with one of them. */
		__atomic_store_n(&kvb_fence_word(kvb, 5)->value, 1, __ATOMIC_RELEASE);
		fake_do(&fake, ends[i], NULL);
		wait_for_the_end(kvb);
		ck_assert_uint_eq(word(kvb, 3), 9);
		ck_assert(kvb_fence_failed(kvb, 3));
		ck_assert_uint_eq(word(kvb, 5), 1);
		ck_assert(!kvb_fence_failed(kvb, 5));
		for (unsigned other = 6; other < KVB_FENCES; other++) {
			ck_assert_uint_eq(word(kvb, other), 0);
			ck_assert(!kvb_fence_failed(kvb, other));
		}
		ck_assert(!kvb_fence_failed(kvb, KVB_FENCES));
		finish(kvb);
	}
}
END_TEST

START_TEST(the_last_value_of_a_word_is_what_it_is_set_to)
{
	struct kvb_space *space;

	struct kvb *kvb = start(&space);
	load(kvb, space, 0, 5);
	load(kvb, space, 0, 3);
	/* Modulo 2^64. */
	__atomic_store_n(&kvb_fence_word(kvb, 1)->value, UINT64_MAX - 1, __ATOMIC_RELEASE);
	load(kvb, space, 1, UINT64_MAX);
	load(kvb, space, 1, 1);
	/* No word of that number: the broker's to refuse. */
	load(kvb, space, KVB_FENCES, 1);
	fake_do(&fake, hang_up, NULL);
	wait_for_the_end(kvb);
	ck_assert_uint_eq(word(kvb, 0), 5);
	ck_assert_uint_eq(word(kvb, 1), 1);
	ck_assert(kvb_fence_failed(kvb, 0) && kvb_fence_failed(kvb, 1));
	finish(kvb);
}
END_TEST

START_TEST(a_word_put_back_is_left_alone)
{
	struct kvb_space *space;

	struct kvb *kvb = start(&space);
	const int fence = kvb_fence_get(kvb);
	load(kvb, space, (uint32_t)fence, 8);
	kvb_fence_put(kvb, (uint32_t)fence);
	fake_do(&fake, hang_up, NULL);
	wait_for_the_end(kvb);
	ck_assert_uint_eq(word(kvb, (uint32_t)fence), 0);
	ck_assert(!kvb_fence_failed(kvb, (uint32_t)fence));
	finish(kvb);
}
END_TEST

START_TEST(a_load_that_is_not_sent_any_more_is_released)
{
	struct kvb_space *space;

	struct kvb *kvb = start(&space);
	get_entry(kvb, space, KVB_OP_LOAD, 2, 6);
	fake_do(&fake, hang_up, NULL);
	while (kvb_poll(kvb) == 0)
		usleep(1000);
	ck_assert_uint_eq(word(kvb, 2), 0); /* not submitted, nobody waits yet */
	ck_assert_int_eq(kvb_submit(kvb), -ENOTCONN);
	ck_assert_uint_eq(word(kvb, 2), 6);
	ck_assert(kvb_fence_failed(kvb, 2));
	finish(kvb);
}
END_TEST

START_TEST(an_end_of_our_own_releases_too)
{
	struct kvb_space *space;

	struct kvb *kvb = start(&space);
	const struct kvb_fence *seen =
		mmap(NULL, KVB_FENCES * sizeof(*seen), PROT_READ, MAP_SHARED, fake.fence_fd, 0);
	ck_assert_ptr_ne(seen, MAP_FAILED);
	load(kvb, space, 4, 2);
	finish(kvb); /* disconnects with the LOAD under way */
	ck_assert_uint_eq(__atomic_load_n(&seen[4].value, __ATOMIC_ACQUIRE), 2);
}
END_TEST

/* ---- another thread ------------------------------------------------------------------------ */

struct watcher {
	struct kvb *kvb;
	int rc;
};

static void *watch(void *arg)
{
	struct watcher *w = arg;

	do
		w->rc = kvb_fence_watch(w->kvb, 50 * MS);
	while (w->rc == 0);
	return NULL;
}

START_TEST(watch_ends_by_time_while_the_broker_stands)
{
	struct kvb_space *space;

	struct kvb *kvb = start(&space);
	load(kvb, space, 1, 1);
	const uint64_t from = kvb_clock_ns();
	ck_assert_int_eq(kvb_fence_watch(kvb, 50 * MS), 0);
	ck_assert_uint_ge(kvb_clock_ns() - from, 50 * MS);
	ck_assert_uint_eq(word(kvb, 1), 0);
	ck_assert_int_eq(kvb_fence_watch(kvb, 0), 0);
	finish(kvb);
}
END_TEST

/* The thread of the connection is stuck in the driver; only the watcher can free it. */
START_TEST(watch_frees_a_stream_whose_thread_waits_for_it)
{
	void (*const ends[])(struct fake *, void *) = { hang_up, break_ring };
	struct kvb_space *space;

	for (unsigned i = 0; i < 2; i++) {
		struct kvb *kvb = start(&space);
		struct watcher w = { .kvb = kvb };
		pthread_t thread;

		load(kvb, space, 1, 1);
		ck_assert_int_eq(pthread_create(&thread, NULL, watch, &w), 0);
		fake_do(&fake, ends[i], NULL);
		const uint64_t from = kvb_clock_ns();
		while (!kvb_fence_reached(word(kvb, 1), 1))
			ck_assert_uint_lt(kvb_clock_ns() - from, 2000 * MS);
		ck_assert(kvb_fence_failed(kvb, 1));
		pthread_join(thread, NULL);
		ck_assert_int_eq(w.rc, -ENOTCONN);
		/* What is sent from now on is released at once. */
		get_entry(kvb, space, KVB_OP_LOAD, 2, 3);
		(void)kvb_submit(kvb);
		ck_assert_uint_eq(word(kvb, 2), 3);
		finish(kvb);
	}
}
END_TEST

static void *hang_up_soon(void *arg)
{
	const unsigned us = *(unsigned *)arg;

	usleep(us);
	shutdown(fake.fd, SHUT_RDWR);
	return NULL;
}

/* LOADs are sent while the broker dies and the watcher notices: not one is left out. */
START_TEST(no_load_slips_between_sender_and_watcher)
{
	struct kvb_space *space;

	for (unsigned run = 0; run < 40; run++) {
		struct kvb *kvb = start(&space);
		struct watcher w = { .kvb = kvb };
		unsigned us = 100 + 37 * run;
		pthread_t watcher, killer;
		uint64_t value = 0;

		ck_assert_int_eq(pthread_create(&watcher, NULL, watch, &w), 0);
		ck_assert_int_eq(pthread_create(&killer, NULL, hang_up_soon, &us), 0);
		for (;;) {
			struct kvb_sqe *sqe = kvb_get_sqe(kvb);

			if (!sqe)
				break;
			kvb_prep_load(sqe, space, 0, 0, 0, 1, 0);
			kvb_prep_fence(sqe, 9, ++value);
			(void)kvb_submit(kvb);
		}
		pthread_join(watcher, NULL);
		pthread_join(killer, NULL);
		ck_assert_uint_eq(word(kvb, 9), value);
		finish(kvb);
	}
}
END_TEST

int main(void)
{
	static const struct suite_case cases[] = {
		{ &words_are_given_out_once, 0 },
		{ &devices_without_streams_say_so, 0 },
		{ &fences_of_loads_are_released_with_the_broker, 20 },
		{ &the_last_value_of_a_word_is_what_it_is_set_to, 0 },
		{ &a_word_put_back_is_left_alone, 0 },
		{ &a_load_that_is_not_sent_any_more_is_released, 20 },
		{ &an_end_of_our_own_releases_too, 0 },
		{ &watch_ends_by_time_while_the_broker_stands, 0 },
		{ &watch_frees_a_stream_whose_thread_waits_for_it, 20 },
		{ &no_load_slips_between_sender_and_watcher, 60 },
		{ NULL, 0 },
	};

	return suite_run("lib-fence", cases);
}
