/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The mover as the daemon sees it: a process that is told of memory, copies, and ends.
 *
 * Over the host back end, whose device is memfds, so that both sides of every copy can be read
 * here.
 */

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cuda_driver/gpu.h"
#include "cuda_driver/gpu_mover.h"
#include "tests/unit/suite.h"
#include "tests/unit/test_mover_daemon.h"

#define SLAB 7u
#define LOWER 9u
#define MOVED 1000u

/* One slab on the device, one below it, and what the test sees of both. */
struct world {
	struct test_daemon d;
	int fds[TEST_HANDLES];
	char *handle[TEST_HANDLES];
	char *chunk;
};

static void world_tell(struct world *w, uint32_t sums)
{
	const int ring[] = { w->d.ring.memfd, w->d.ring.doorbell, w->d.ring.wake };
	struct mover_request request = { .type = MOVER_RING };
	int fd = test_memfd(TEST_CHUNK_BYTES, &w->chunk);

	ck_assert_int_eq(test_daemon_ask(&w->d, request, ring, 3), 0);
	ck_assert_int_eq(test_daemon_ask(&w->d, test_chunk(0, sums), &fd, 1), 0);
	close(fd);
	for (uint32_t i = 0; i < TEST_HANDLES; i++)
		w->fds[i] = test_memfd(TEST_HANDLE_BYTES, &w->handle[i]);
	ck_assert_int_eq(test_daemon_ask(&w->d, test_slab(SLAB), w->fds, TEST_HANDLES), 0);
	ck_assert_int_eq(test_daemon_ask(&w->d, test_lower(LOWER, 4096), NULL, 0), 0);
}

static void world_open(struct world *w, uint32_t sums)
{
	struct mover_hello hello;

	test_daemon_start(&w->d, GPU_KIND_HOST, &hello);
	ck_assert_int_eq(hello.error, 0);
	test_ring_open(&w->d.ring, 0);
	world_tell(w, sums);
}

/* Closes the socket: the mover ends, having done nothing wrong. */
static void world_close(struct world *w)
{
	close(w->d.fd);
	ck_assert_int_eq(test_daemon_wait(&w->d), 0);
	test_ring_close(&w->d.ring);
	for (uint32_t i = 0; i < TEST_HANDLES; i++) {
		munmap(w->handle[i], TEST_HANDLE_BYTES);
		close(w->fds[i]);
	}
	munmap(w->chunk, TEST_CHUNK_BYTES);
}

static char *above(const struct world *w, uint32_t region, uint32_t page)
{
	const uint32_t per_handle = TEST_HANDLE_BYTES / TEST_STRIDE;

	return w->handle[region * (TEST_HANDLES / TEST_REGIONS) + page / per_handle] +
	       page % per_handle * TEST_STRIDE;
}

static char *below(const struct world *w, uint32_t region, uint32_t page)
{
	return w->chunk + 4096 + ((uint64_t)region * TEST_PAGES + page) * TEST_STRIDE;
}

static uint64_t word_of(uint32_t region, uint32_t page, uint32_t i)
{
	return ((uint64_t)region << 56 | (uint64_t)page << 24 | i) * 0x9e3779b97f4a7c15ull;
}

static void page_fill(const struct world *w, uint32_t page)
{
	for (uint32_t r = 0; r < TEST_REGIONS; r++) {
		uint64_t *word = (void *)above(w, r, page);

		for (uint32_t i = 0; i < TEST_STRIDE / 8; i++)
			word[i] = word_of(r, page, i);
	}
}

/* Whether both pages hold what page_fill() wrote for `page`. */
static bool page_is(const struct world *w, uint32_t page, uint32_t lower_page)
{
	for (uint32_t r = 0; r < TEST_REGIONS; r++) {
		const uint64_t *word = (void *)above(w, r, page);

		if (memcmp(word, below(w, r, lower_page), TEST_STRIDE) != 0)
			return false;
		for (uint32_t i = 0; i < TEST_STRIDE / 8; i++) {
			if (word[i] != word_of(r, page, i))
				return false;
		}
	}
	return true;
}

static void page_wipe(const struct world *w, uint32_t page)
{
	for (uint32_t r = 0; r < TEST_REGIONS; r++)
		memset(above(w, r, page), 0, TEST_STRIDE);
}

static uint32_t sum_below(const struct world *w, uint32_t lower_page)
{
	uint32_t crc = 0;

	for (uint32_t r = 0; r < TEST_REGIONS; r++)
		crc = test_crc32c(crc, below(w, r, lower_page), TEST_STRIDE);
	return crc;
}

/* One way for n pages, page[i] and lower[i]; sums and results by i. */
static void move(struct world *w, enum gpu_direction direction, uint32_t n, const uint32_t *page,
		 const uint32_t *lower, uint32_t *sum, int32_t *ret_res)
{
	uint32_t sent = 0, done = 0;
	struct kvb_cqe cqe;

	while (done < n) {
		for (; sent < n; sent++) {
			const struct mover_entry entry = {
				.direction = direction,
				.id = sent,
				.slab = SLAB,
				.page = page[sent],
				.lower_slab = LOWER,
				.lower_page = lower[sent],
				.sum = direction == GPU_UP ? sum[sent] : 0,
			};

			if (!test_ring_put(&w->d.ring, &entry))
				break;
		}
		test_ring_send(&w->d.ring);
		ck_assert(test_ring_reap(&w->d.ring, &cqe));
		ck_assert_uint_lt(cqe.user_data, n);
		ret_res[cqe.user_data] = cqe.res;
		if (direction == GPU_DOWN)
			sum[cqe.user_data] = (uint32_t)cqe.aux;
		done++;
	}
}

/* Every other page lies where a neighbour's is not, and pages come in no order. */
static void scatter(uint32_t *page, uint32_t *lower)
{
	for (uint32_t i = 0; i < MOVED; i++) {
		page[i] = i * 7 % MOVED;
		lower[i] = page[i] % 2 ? page[i] : (page[i] + 500) % MOVED;
	}
}

START_TEST(moves_a_thousand_pages_both_ways)
{
	static uint32_t page[MOVED], lower[MOVED], sum[MOVED];
	static int32_t res[MOVED];
	struct world w;

	world_open(&w, 2);
	scatter(page, lower);
	for (uint32_t i = 0; i < MOVED; i++)
		page_fill(&w, page[i]);
	move(&w, GPU_DOWN, MOVED, page, lower, sum, res);
	for (uint32_t i = 0; i < MOVED; i++) {
		ck_assert_int_eq(res[i], 0);
		ck_assert(page_is(&w, page[i], lower[i]));
		ck_assert_uint_eq(sum[i], sum_below(&w, lower[i]));
		page_wipe(&w, page[i]);
	}
	move(&w, GPU_UP, MOVED, page, lower, sum, res);
	for (uint32_t i = 0; i < MOVED; i++) {
		ck_assert_int_eq(res[i], 0);
		ck_assert(page_is(&w, page[i], lower[i]));
	}
	world_close(&w);
}
END_TEST

START_TEST(a_flipped_byte_is_not_copied_up)
{
	static uint32_t page[MOVED], lower[MOVED], sum[MOVED];
	static int32_t res[MOVED];
	struct world w;

	world_open(&w, 2);
	scatter(page, lower);
	for (uint32_t i = 0; i < MOVED; i++)
		page_fill(&w, page[i]);
	move(&w, GPU_DOWN, MOVED, page, lower, sum, res);
	for (uint32_t i = 0; i < MOVED; i++) {
		page_wipe(&w, page[i]);
		if (i % 10 == 3)
			below(&w, i % TEST_REGIONS, lower[i])[i] ^= 1;
	}
	move(&w, GPU_UP, MOVED, page, lower, sum, res);
	for (uint32_t i = 0; i < MOVED; i++) {
		if (i % 10 != 3) {
			ck_assert_int_eq(res[i], 0);
			ck_assert(page_is(&w, page[i], lower[i]));
			continue;
		}
		ck_assert_int_eq(res[i], -EBADMSG);
		for (uint32_t r = 0; r < TEST_REGIONS; r++)
			ck_assert_uint_eq(*(uint64_t *)above(&w, r, page[i]), 0);
	}
	world_close(&w);
}
END_TEST

START_TEST(without_checksums_nothing_is_compared)
{
	uint32_t page = 5, lower = 6, sum = 1;
	struct world w;
	int32_t res;

	world_open(&w, 0);
	page_fill(&w, page);
	move(&w, GPU_DOWN, 1, &page, &lower, &sum, &res);
	ck_assert_int_eq(res, 0);
	ck_assert_uint_eq(sum, 0);
	ck_assert(page_is(&w, page, lower));
	page_wipe(&w, page);
	sum = 12345;
	move(&w, GPU_UP, 1, &page, &lower, &sum, &res);
	ck_assert_int_eq(res, 0);
	ck_assert(page_is(&w, page, lower));
	world_close(&w);
}
END_TEST

START_TEST(wrong_ids_are_answered_and_harm_nothing)
{
	const struct mover_entry good = { .slab = SLAB, .lower_slab = LOWER };
	struct mover_entry bad[8];
	struct kvb_cqe cqe;
	struct world w;

	world_open(&w, 1);
	for (uint32_t i = 0; i < 8; i++)
		bad[i] = good;
	bad[0].direction = 2;
	bad[1].slab = SLAB + 1;
	bad[2].slab = UINT32_MAX;
	bad[3].page = TEST_PAGES;
	bad[4].lower_slab = LOWER + 1;
	bad[5].lower_slab = UINT32_MAX;
	bad[6].lower_page = UINT32_MAX;
	bad[7].slab = LOWER;
	for (uint32_t i = 0; i < 8; i++) {
		bad[i].id = i;
		ck_assert(test_ring_put(&w.d.ring, &bad[i]));
	}
	test_ring_send(&w.d.ring);
	for (uint32_t i = 0; i < 8; i++) {
		ck_assert(test_ring_reap(&w.d.ring, &cqe));
		ck_assert_uint_eq(cqe.user_data, i);
		ck_assert_int_eq(cqe.res, -EINVAL);
	}
	world_close(&w);
}
END_TEST

START_TEST(a_tail_that_jumps_ends_it)
{
	struct world w;

	world_open(&w, 0);
	kvb_set_word_release(&w.d.ring.ring.sub->sq_tail, MOVER_RING_ENTRIES + 1);
	ck_assert_int_eq(write(w.d.ring.doorbell, &(uint64_t){ 1 }, 8), 8);
	ck_assert_int_eq(WEXITSTATUS(test_daemon_wait(&w.d)), 1);
}
END_TEST

START_TEST(a_slab_given_up_is_unknown_and_can_be_told_again)
{
	struct mover_request drop = { .type = MOVER_DROP, .id = SLAB };
	uint32_t page = 0, lower = 0, sum = 0;
	struct world w;
	int32_t res;

	world_open(&w, 1);
	ck_assert_int_eq(test_daemon_ask(&w.d, test_slab(SLAB), w.fds, TEST_HANDLES), -EEXIST);
	ck_assert_int_eq(test_daemon_ask(&w.d, drop, NULL, 0), 0);
	ck_assert_int_eq(test_daemon_ask(&w.d, drop, NULL, 0), -EINVAL);
	move(&w, GPU_DOWN, 1, &page, &lower, &sum, &res);
	ck_assert_int_eq(res, -EINVAL);
	ck_assert_int_eq(test_daemon_ask(&w.d, test_slab(SLAB), w.fds, TEST_HANDLES), 0);
	drop.id = LOWER;
	ck_assert_int_eq(test_daemon_ask(&w.d, drop, NULL, 0), 0);
	ck_assert_int_eq(test_daemon_ask(&w.d, test_lower(LOWER, 4096), NULL, 0), 0);
	page_fill(&w, page);
	move(&w, GPU_DOWN, 1, &page, &lower, &sum, &res);
	ck_assert_int_eq(res, 0);
	ck_assert(page_is(&w, page, lower));
	world_close(&w);
}
END_TEST

START_TEST(fds_of_a_slab_come_in_three_messages)
{
	static const uint32_t first[] = { 0, 3, 4, TEST_HANDLES };
	struct mover_request request = { .type = MOVER_DROP, .id = SLAB };
	uint32_t page = 1000, lower = 3, sum = 0;
	struct world w;
	int32_t res;

	world_open(&w, 1);
	ck_assert_int_eq(test_daemon_ask(&w.d, request, NULL, 0), 0);
	request = test_slab(SLAB);
	for (uint32_t i = 0; i < 3; i++) {
		request.first = first[i];
		test_daemon_send(&w.d, &request, w.fds + first[i], first[i + 1] - first[i], i > 0);
	}
	ck_assert_int_eq(test_daemon_reply(&w.d, &request), 0);
	page_fill(&w, page);
	move(&w, GPU_DOWN, 1, &page, &lower, &sum, &res);
	ck_assert_int_eq(res, 0);
	ck_assert(page_is(&w, page, lower));
	world_close(&w);
}
END_TEST

START_TEST(ends_at_once_when_the_socket_closes)
{
	struct timespec from, to;
	struct world w;

	world_open(&w, 2);
	clock_gettime(CLOCK_MONOTONIC, &from);
	close(w.d.fd);
	ck_assert_int_eq(test_daemon_wait(&w.d), 0);
	clock_gettime(CLOCK_MONOTONIC, &to);
	ck_assert_int_lt((to.tv_sec - from.tv_sec) * 1000 + (to.tv_nsec - from.tv_nsec) / 1000000,
			 1000);
}
END_TEST

START_TEST(signals_for_the_daemon_are_not_for_it)
{
	uint32_t page = 1, lower = 1, sum = 0;
	struct world w;
	int32_t res;

	world_open(&w, 1);
	kill(w.d.pid, SIGTERM);
	kill(w.d.pid, SIGINT);
	kill(w.d.pid, SIGHUP);
	page_fill(&w, page);
	move(&w, GPU_DOWN, 1, &page, &lower, &sum, &res);
	ck_assert_int_eq(res, 0);
	world_close(&w);
}
END_TEST

START_TEST(a_device_it_cannot_serve_is_said_in_the_hello)
{
	struct mover_hello hello;
	struct test_daemon d;

	test_daemon_start(&d, 99, &hello);
	ck_assert_int_lt(hello.error, 0);
	ck_assert_str_ne(hello.why, "");
	ck_assert_int_eq(WEXITSTATUS(test_daemon_wait(&d)), 1);
	close(d.fd);
}
END_TEST

START_TEST(a_request_nobody_knows_ends_it)
{
	struct mover_request request = { .type = 77 };
	struct world w;

	world_open(&w, 1);
	test_daemon_send(&w.d, &request, w.fds, 1, false);
	ck_assert_int_eq(WEXITSTATUS(test_daemon_wait(&w.d)), 1);
}
END_TEST

#ifdef KVB_FAULT_POINTS

static const char *const points[] = { "mover-hello",  "mover-chunk",  "mover-slab",
				      "mover-taken",  "mover-submit", "mover-submitted",
				      "mover-copied", "mover-sum" };
#define POINTS (sizeof(points) / sizeof(points[0]))

/* One page down, as far as it comes. True: it was completed, with *ret_res. */
static bool live(struct world *w, int32_t *ret_res)
{
	const int ring[] = { w->d.ring.memfd, w->d.ring.doorbell, w->d.ring.wake };
	const struct mover_entry entry = { .direction = GPU_DOWN,
					   .slab = SLAB,
					   .lower_slab = LOWER };
	struct mover_request request[] = {
		{ .type = MOVER_RING }, test_chunk(0, 1), test_slab(SLAB), test_lower(LOWER, 4096)
	};
	int chunk = test_memfd(TEST_CHUNK_BYTES, &w->chunk);
	struct kvb_cqe cqe;
	char byte;

	for (uint32_t i = 0; i < TEST_HANDLES; i++)
		w->fds[i] = test_memfd(TEST_HANDLE_BYTES, &w->handle[i]);
	const int *fds[] = { ring, &chunk, w->fds, NULL };
	const uint32_t n[] = { 3, 1, TEST_HANDLES, 0 };

	for (uint32_t i = 0; i < 4; i++) {
		struct pollfd p = { .fd = w->d.fd, .events = POLLIN };

		if (!test_daemon_try(&w->d, &request[i], fds[i], n[i], false))
			return false;
		ck_assert_int_eq(poll(&p, 1, 5000), 1);
		if (recv(w->d.fd, &byte, 1, MSG_PEEK) <= 0)
			return false;
		*ret_res = test_daemon_reply(&w->d, &request[i]);
		if (*ret_res)
			return true;
	}
	ck_assert(test_ring_put(&w->d.ring, &entry));
	test_ring_send(&w->d.ring);
	for (int i = 0; i < 5000; i++) {
		siginfo_t info = { 0 };

		if (kvb_step_take(&w->d.ring.ring, &cqe) == 1) {
			*ret_res = cqe.res;
			return true;
		}
		/* Not reaped: its status is the test's. */
		if (waitid(P_PID, (id_t)w->d.pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
		    info.si_pid == w->d.pid)
			return false;
		poll(NULL, 0, 1);
	}
	ck_abort_msg("neither completed nor dead");
}

static void start_with(struct world *w, const char *point, int error)
{
	struct mover_hello hello;
	char spec[64];

	snprintf(spec, sizeof(spec), "%s:1:%d", point, error);
	setenv("KVB_FAULT", spec, 1);
	test_daemon_start(&w->d, GPU_KIND_HOST, &hello);
	test_ring_open(&w->d.ring, 0);
	ck_assert_int_eq(hello.error, 0);
}

START_TEST(dies_at_every_labelled_point)
{
	struct world w;
	int32_t res = 0;
	int status;

	start_with(&w, points[_i], EOWNERDEAD);
	ck_assert_msg(!live(&w, &res), "%s: it lives, result %d", points[_i], res);
	status = test_daemon_wait(&w.d);
	ck_assert(WIFSIGNALED(status));
	ck_assert_int_eq(WTERMSIG(status), SIGKILL);
}
END_TEST

START_TEST(a_successor_of_one_that_died_lives)
{
	char once[] = "/tmp/test-mover-XXXXXX";
	struct world w;
	int32_t res = 0;

	close(mkstemp(once)); /* one has died already */
	setenv("KVB_FAULT_ONCE", once, 1);
	start_with(&w, points[_i], EOWNERDEAD);
	ck_assert(live(&w, &res));
	ck_assert_int_eq(res, 0);
	world_close(&w);
	unlink(once);
}
END_TEST

START_TEST(fails_at_every_labelled_point)
{
	const bool ends = strcmp(points[_i], "mover-hello") == 0;
	const bool breaks = strcmp(points[_i], "mover-submitted") == 0;
	struct world w;
	int32_t res = 0;

	start_with(&w, points[_i], ENOSPC);
	ck_assert_int_eq(live(&w, &res), !ends && !breaks);
	if (ends || breaks) {
		/* Of no use any more: its end says so, and a successor starts clean. */
		ck_assert_int_eq(WEXITSTATUS(test_daemon_wait(&w.d)), 1);
		return;
	}
	ck_assert_int_eq(res, -ENOSPC);
	world_close(&w);
}
END_TEST

#endif

int main(void)
{
	static const struct suite_case cases[] = {
		{ &moves_a_thousand_pages_both_ways, 60 },
		{ &a_flipped_byte_is_not_copied_up, 60 },
		{ &without_checksums_nothing_is_compared },
		{ &wrong_ids_are_answered_and_harm_nothing },
		{ &a_tail_that_jumps_ends_it },
		{ &a_slab_given_up_is_unknown_and_can_be_told_again },
		{ &fds_of_a_slab_come_in_three_messages },
		{ &ends_at_once_when_the_socket_closes },
		{ &signals_for_the_daemon_are_not_for_it },
		{ &a_device_it_cannot_serve_is_said_in_the_hello },
		{ &a_request_nobody_knows_ends_it },
#ifdef KVB_FAULT_POINTS
		{ &dies_at_every_labelled_point, 30, POINTS },
		{ &a_successor_of_one_that_died_lives, 30, POINTS },
		{ &fails_at_every_labelled_point, 30, POINTS },
#endif
		{ NULL },
	};

	return suite_run("mover-process", cases);
}
