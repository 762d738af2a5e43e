/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Batches: which copies entries become, in which order their stages come, and how they end.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "broker/mover/batch.h"
#include "tests/unit/suite.h"
#include "tests/unit/test_mover_daemon.h"
#include "tests/unit/test_mover_device.h"

#define UPPER 3u /* slabs on the device */
#define UPPER2 4u
#define LOWER 10u /* and below */
#define LOWER2 11u
#define LOWER_BYTES ((uint64_t)TEST_REGIONS * TEST_PAGES * TEST_STRIDE)

/* Large, and one a case: Check forks. */
static struct mover_memory memory;
static struct mover_queue queue;
static struct mover_sums sums;
static struct mover_batches batches;
static struct test_ring ring;
static char *chunk;
static uint64_t now_ns;

static void tell_slab(struct mover_request request)
{
	char why[MOVER_WHY_BYTES];
	int fds[MOVER_FDS_MAX];

	for (request.first = 0; request.first < request.count; request.first += MOVER_FDS_MAX) {
		uint32_t n = request.count - request.first;

		n = n < MOVER_FDS_MAX ? n : MOVER_FDS_MAX;
		for (uint32_t i = 0; i < n; i++)
			fds[i] = dup(STDERR_FILENO);
		ck_assert_int_ge(mover_memory_slab(&memory, &request, fds, n, false, why), 0);
	}
}

static void tell_lower(struct mover_request request)
{
	char why[MOVER_WHY_BYTES];

	ck_assert_int_eq(mover_memory_lower(&memory, &request, why), 0);
}

static void setup(uint32_t threads)
{
	struct mover_request request = test_chunk(0, 0);
	char why[MOVER_WHY_BYTES];
	int fd = test_memfd(TEST_CHUNK_BYTES, &chunk);

	test_device_reset();
	test_ring_open(&ring, 0);
	ck_assert_int_eq(mover_queue_open(&queue, ring.memfd, ring.doorbell, ring.wake), 0);
	mover_memory_init(&memory, &test_device);
	ck_assert_int_eq(mover_memory_chunk(&memory, &request, fd, why), 0);
	close(fd);
	tell_slab(test_slab(UPPER));
	tell_slab(test_slab(UPPER2));
	tell_lower(test_lower(LOWER, 0));
	tell_lower(test_lower(LOWER2, LOWER_BYTES));
	if (threads)
		ck_assert_int_eq(mover_sums_open(&sums, threads, chunk), 0);
	mover_batches_init(&batches, &test_device, &memory, &queue, &sums);
}

static void put(enum gpu_direction direction, uint32_t slab, uint32_t page, uint32_t lower_slab,
		uint32_t lower_page, uint32_t sum)
{
	const struct mover_entry entry = {
		.direction = direction,
		.id = ring.ring.sq_tail,
		.slab = slab,
		.page = page,
		.lower_slab = lower_slab,
		.lower_page = lower_page,
		.sum = sum,
	};

	ck_assert(test_ring_put(&ring, &entry));
}

static void down(uint32_t page, uint32_t lower_page)
{
	put(GPU_DOWN, UPPER, page, LOWER, lower_page, 0);
}

static int turn(void)
{
	test_ring_send(&ring);
	now_ns += 1000;
	return mover_batches_turn(&batches, now_ns);
}

/* Turns until n completions have come; counts those of `res`. */
static uint32_t reap(uint32_t n, int32_t res)
{
	uint32_t got = 0, fit = 0;
	struct kvb_cqe cqe;

	for (uint32_t turns = 0; got < n; turns++) {
		ck_assert_uint_lt(turns, 100000);
		ck_assert_int_ge(turn(), 0);
		while (kvb_step_take(&ring.ring, &cqe) == 1) {
			got++;
			fit += cqe.res == res;
		}
		kvb_step_show_head(&ring.ring);
	}
	ck_assert_uint_eq(got, n);
	return fit;
}

/* Copy i of a batch is `pages` strides from there to there. */
static void check_copy(uint32_t batch, uint32_t i, uint32_t slab, uint32_t region, uint32_t page,
		       uint32_t lower_slab, uint32_t lower_page, uint32_t pages)
{
	const struct gpu_copy *copy = &test_device.batch[batch].copies[i];
	const uint64_t below = ((uint64_t)region * TEST_PAGES + lower_page) * TEST_STRIDE;

	ck_assert_uint_eq(copy->device,
			  memory.slab[slab].device[region] + (uint64_t)page * TEST_STRIDE);
	ck_assert_ptr_eq(copy->host, memory.slab[lower_slab].host + below);
	ck_assert_uint_eq(copy->bytes, (uint64_t)pages * TEST_STRIDE);
}

/* ---- which copies -------------------------------------------------------------------------- */

START_TEST(neighbours_go_in_one_copy_a_region)
{
	setup(0);
	for (uint32_t i = 0; i < 10; i++)
		down(20 + i * 3 % 10, 120 + i * 3 % 10);
	ck_assert_uint_eq(reap(10, 0), 10);
	ck_assert_uint_eq(test_device.batches, 1);
	ck_assert_uint_eq(test_device.batch[0].n, TEST_REGIONS);
	for (uint32_t r = 0; r < TEST_REGIONS; r++)
		check_copy(0, r, UPPER, r, 20, LOWER, 120, 10);
}
END_TEST

START_TEST(what_is_apart_above_or_below_is_copied_apart)
{
	setup(0);
	down(1, 1);
	down(3, 2); /* apart above */
	down(4, 8); /* apart below */
	down(5, 7); /* backwards below */
	ck_assert_uint_eq(reap(4, 0), 4);
	ck_assert_uint_eq(test_device.batch[0].n, 4 * TEST_REGIONS);
	check_copy(0, 0, UPPER, 0, 1, LOWER, 1, 1);
	check_copy(0, TEST_REGIONS, UPPER, 0, 3, LOWER, 2, 1);
	check_copy(0, 2 * TEST_REGIONS + 1, UPPER, 1, 4, LOWER, 8, 1);
	check_copy(0, 3 * TEST_REGIONS + 2, UPPER, 2, 5, LOWER, 7, 1);
}
END_TEST

START_TEST(runs_end_where_a_slab_ends)
{
	setup(0);
	/* The numbers go on, the slabs do not. */
	put(GPU_DOWN, UPPER, 5, LOWER, 5, 0);
	put(GPU_DOWN, UPPER2, 6, LOWER, 6, 0);
	put(GPU_DOWN, UPPER2, 7, LOWER2, 7, 0);
	put(GPU_DOWN, UPPER2, 8, LOWER2, 8, 0);
	ck_assert_uint_eq(reap(4, 0), 4);
	ck_assert_uint_eq(test_device.batch[0].n, 3 * TEST_REGIONS);
	check_copy(0, 0, UPPER, 0, 5, LOWER, 5, 1);
	check_copy(0, TEST_REGIONS, UPPER2, 0, 6, LOWER, 6, 1);
	check_copy(0, 2 * TEST_REGIONS, UPPER2, 0, 7, LOWER2, 7, 2);
}
END_TEST

START_TEST(directions_are_batches_of_their_own)
{
	setup(0);
	put(GPU_DOWN, UPPER, 1, LOWER, 1, 0);
	put(GPU_UP, UPPER, 2, LOWER, 2, 0);
	ck_assert_uint_eq(reap(2, 0), 2);
	ck_assert_uint_eq(test_device.batches, 2);
	ck_assert_int_ne(test_device.batch[0].direction, test_device.batch[1].direction);
}
END_TEST

START_TEST(a_batch_has_no_more_copies_than_the_device_takes)
{
	struct mover_request upper = test_slab(100), lower = test_lower(101, 0);
	const uint32_t pages = 40, fit = GPU_MOVER_COPIES_MAX / KVB_REGIONS_MAX;

	setup(0);
	upper.regions = lower.regions = upper.count = KVB_REGIONS_MAX;
	upper.pages = lower.pages = 2 * pages;
	upper.stride_bytes = lower.stride_bytes = 64;
	upper.handles_per_region = 1;
	upper.handle_bytes = 8192;
	tell_slab(upper);
	tell_lower(lower);
	for (uint32_t i = 0; i < pages; i++)
		put(GPU_DOWN, 100, 2 * i, 101, 2 * i, 0);
	ck_assert_uint_eq(reap(pages, 0), pages);
	ck_assert_uint_eq(test_device.batches, (pages + fit - 1) / fit);
	ck_assert_uint_eq(test_device.batch[0].n, GPU_MOVER_COPIES_MAX);
}
END_TEST

START_TEST(a_batch_has_no_more_pages_than_it_has_room_for)
{
	setup(0);
	for (uint32_t i = 0; i < MOVER_BATCH_PAGES_MAX + 7; i++)
		down(i, i);
	ck_assert_uint_eq(reap(MOVER_BATCH_PAGES_MAX + 7, 0), MOVER_BATCH_PAGES_MAX + 7);
	ck_assert_uint_eq(test_device.batches, 2);
	check_copy(0, 0, UPPER, 0, 0, LOWER, 0, MOVER_BATCH_PAGES_MAX);
	check_copy(1, 0, UPPER, 0, MOVER_BATCH_PAGES_MAX, LOWER, MOVER_BATCH_PAGES_MAX, 7);
}
END_TEST

START_TEST(two_batches_are_copied_at_a_time_and_the_rest_gathers)
{
	setup(0);
	test_device.hold = true;
	for (uint32_t i = 0; i < 6; i++) {
		down(i, i);
		turn();
	}
	ck_assert_uint_eq(test_device.batches, MOVER_BATCHES_COPYING);
	ck_assert_int_eq(turn(), 0);
	test_device.hold = false;
	ck_assert_uint_eq(reap(6, 0), 6);
	ck_assert_uint_eq(test_device.batches, MOVER_BATCHES_COPYING + 1);
	check_copy(2, 0, UPPER, 0, 2, LOWER, 2, 4);
}
END_TEST

/* ---- checksums ----------------------------------------------------------------------------- */

START_TEST(a_page_goes_down_with_its_sum_and_up_only_with_it)
{
	static const uint32_t sizes[] = { 1, 200 }; /* summed here, and by the pool */
	const uint32_t n = sizes[_i];
	uint32_t sum[200];
	struct kvb_cqe cqe;

	setup(3);
	for (uint32_t i = 0; i < n; i++) {
		memset((void *)(uintptr_t)(memory.slab[UPPER].device[1] + i * TEST_STRIDE),
		       (int)i + 1, TEST_STRIDE);
		down(i, i);
	}
	for (uint32_t got = 0; got < n;) {
		ck_assert_int_ge(turn(), 0);
		for (; kvb_step_take(&ring.ring, &cqe) == 1; got++) {
			ck_assert_int_eq(cqe.res, 0);
			sum[cqe.user_data] = (uint32_t)cqe.aux;
		}
	}
	for (uint32_t i = 0; i < n; i++) {
		uint32_t crc = 0;

		for (uint32_t r = 0; r < TEST_REGIONS; r++)
			crc = test_crc32c(crc, mover_slab_host(&memory.slab[LOWER], r, i),
					  TEST_STRIDE);
		ck_assert_uint_eq(sum[i], crc);
	}
	*mover_slab_host(&memory.slab[LOWER], TEST_REGIONS - 1, n - 1) ^= 0x40;
	test_device.batches = 0;
	for (uint32_t i = 0; i < n; i++)
		put(GPU_UP, UPPER2, i, LOWER, i, sum[i]);
	ck_assert_uint_eq(reap(n, -EBADMSG), 1);
	/* Nothing of it was copied, and all the rest was. */
	ck_assert_uint_eq(test_device.batches, n > 1);
	if (n > 1)
		check_copy(0, 0, UPPER2, 0, 0, LOWER, 0, n - 1);
	ck_assert_uint_eq(memory.slab[UPPER2].users, 0);
	mover_sums_close(&sums);
}
END_TEST

/* ---- how they end -------------------------------------------------------------------------- */

START_TEST(a_copy_that_fails_fails_its_batch_alone)
{
	char why[MOVER_WHY_BYTES];

	setup(1);
	test_device.fail_submit = -ENOMEM;
	down(0, 0);
	ck_assert_uint_eq(reap(1, -ENOMEM), 1);
	test_device.fail_poll = -EIO;
	down(0, 0);
	down(1, 1);
	ck_assert_uint_eq(reap(2, -EIO), 2);
	test_device.fail_poll = 0;
	down(0, 0);
	ck_assert_uint_eq(reap(1, 0), 1);
	ck_assert_int_eq(mover_memory_drop(&memory, UPPER, why), 0);
	ck_assert_int_eq(mover_memory_drop(&memory, LOWER, why), 0);
	mover_sums_close(&sums);
}
END_TEST

START_TEST(what_a_spoilt_device_had_is_not_completed)
{
	uint32_t failed = 0;
	struct kvb_cqe cqe;

	setup(1);
	test_device.hold = true;
	for (uint32_t i = 0; i < 5; i++) {
		down(i, i);
		turn();
	}
	ck_assert_uint_eq(test_device.batches, MOVER_BATCHES_COPYING);
	test_device.hold = false;
	test_device.spoilt = true;
	test_device.fail_poll = -EIO;
	ck_assert_int_eq(turn(), -EIO);
	ck_assert_int_eq(kvb_step_take(&ring.ring, &cqe), 0);
	mover_sums_close(&sums);
	mover_batches_fail(&batches);
	for (; kvb_step_take(&ring.ring, &cqe) == 1; failed++) {
		ck_assert_int_eq(cqe.res, -EIO);
		ck_assert_uint_ge(cqe.user_data, MOVER_BATCHES_COPYING);
	}
	ck_assert_uint_eq(failed, 5 - MOVER_BATCHES_COPYING);
	ck_assert_uint_eq(queue.owed, MOVER_BATCHES_COPYING);
	ck_assert_uint_eq(memory.slab[UPPER].users, MOVER_BATCHES_COPYING);
}
END_TEST

START_TEST(what_a_spoilt_device_refused_is_not_completed)
{
	struct kvb_cqe cqe;

	setup(0);
	test_device.spoilt = true;
	test_device.fail_submit = -EIO;
	down(0, 0);
	ck_assert_int_eq(turn(), -EIO);
	mover_batches_fail(&batches);
	ck_assert_int_eq(kvb_step_take(&ring.ring, &cqe), 0);
	ck_assert_uint_eq(queue.owed, 1);
}
END_TEST

START_TEST(a_slab_with_copies_in_flight_is_not_given_up)
{
	char why[MOVER_WHY_BYTES];

	setup(0);
	test_device.hold = true;
	down(1, 1);
	turn();
	ck_assert_int_eq(mover_memory_drop(&memory, UPPER, why), -EBUSY);
	ck_assert_int_eq(mover_memory_drop(&memory, LOWER, why), -EBUSY);
	ck_assert_int_eq(mover_memory_drop(&memory, UPPER2, why), 0);
	test_device.hold = false;
	ck_assert_uint_eq(reap(1, 0), 1);
	ck_assert_int_eq(mover_memory_drop(&memory, UPPER, why), 0);
	ck_assert_int_eq(mover_memory_drop(&memory, LOWER, why), 0);
}
END_TEST

START_TEST(a_device_that_hangs_is_looked_at_ever_more_rarely)
{
	setup(0);
	ck_assert_uint_eq(mover_batches_wait_ns(&batches), UINT64_MAX);
	test_device.hold = true;
	down(1, 1);
	turn();
	ck_assert_uint_eq(mover_batches_wait_ns(&batches), 10000);
	now_ns += 400000;
	turn();
	ck_assert_uint_gt(mover_batches_wait_ns(&batches), 90000);
	now_ns += 3600ull * 1000000000;
	turn();
	ck_assert_uint_eq(mover_batches_wait_ns(&batches), 1000000);
	test_device.hold = false;
	ck_assert_uint_eq(reap(1, 0), 1);
	ck_assert_uint_eq(mover_batches_wait_ns(&batches), UINT64_MAX);
}
END_TEST

START_TEST(the_end_of_copies_is_expected_at_the_speed_that_was_measured)
{
	const uint32_t pages = MOVER_BATCH_PAGES_MAX;

	setup(0);
	test_device.hold = true;
	for (uint32_t i = 0; i < pages; i++)
		down(i, i);
	turn();
	now_ns += 6000000; /* for all of it */
	test_device.hold = false;
	ck_assert_uint_eq(reap(pages, 0), pages);
	test_device.hold = true;
	for (uint32_t i = 0; i < pages; i++)
		down(i, i);
	turn();
	/* A quarter of 6 ms, but no more than the most. */
	ck_assert_uint_eq(mover_batches_wait_ns(&batches), 1000000);
	now_ns += 5000000;
	turn();
	ck_assert_uint_lt(mover_batches_wait_ns(&batches), 260000);
	ck_assert_uint_gt(mover_batches_wait_ns(&batches), 200000);
}
END_TEST

int main(void)
{
	static const struct suite_case cases[] = {
		{ &neighbours_go_in_one_copy_a_region },
		{ &what_is_apart_above_or_below_is_copied_apart },
		{ &runs_end_where_a_slab_ends },
		{ &directions_are_batches_of_their_own },
		{ &a_batch_has_no_more_copies_than_the_device_takes },
		{ &a_batch_has_no_more_pages_than_it_has_room_for },
		{ &two_batches_are_copied_at_a_time_and_the_rest_gathers },
		{ &a_page_goes_down_with_its_sum_and_up_only_with_it, 30, 2 },
		{ &a_copy_that_fails_fails_its_batch_alone },
		{ &what_a_spoilt_device_had_is_not_completed },
		{ &what_a_spoilt_device_refused_is_not_completed },
		{ &a_slab_with_copies_in_flight_is_not_given_up },
		{ &a_device_that_hangs_is_looked_at_ever_more_rarely },
		{ &the_end_of_copies_is_expected_at_the_speed_that_was_measured },
		{ NULL },
	};

	return suite_run("mover-batch", cases);
}
