/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What a mover is told of memory: what fits is kept, what does not leaves nothing behind.
 */

#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "broker/mover/memory.h"
#include "tests/unit/suite.h"
#include "tests/unit/test_mover_daemon.h"
#include "tests/unit/test_mover_device.h"

static struct mover_memory memory;
static char why[MOVER_WHY_BYTES];

static void setup(void)
{
	test_device_reset();
	mover_memory_init(&memory, &test_device);
}

static uint32_t count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	uint32_t n = 0;

	ck_assert_ptr_nonnull(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/* n fds of the request's; they are the mover's. */
static int tell(const struct mover_request *request, uint32_t n, bool truncated)
{
	int fds[MOVER_FDS_MAX];

	for (uint32_t i = 0; i < n; i++)
		fds[i] = dup(STDERR_FILENO);
	return mover_memory_slab(&memory, request, fds, n, truncated, why);
}

static int tell_chunk(struct mover_request request, uint64_t file_bytes)
{
	int fd = test_memfd(file_bytes, NULL);
	int error = mover_memory_chunk(&memory, &request, fd, why);

	close(fd);
	return error;
}

/* Of a slab that was refused there is nothing, and it can be told as it should be. */
static void check_nothing(uint32_t fds)
{
	struct mover_request request = test_slab(1);

	ck_assert_uint_eq(test_device.maps, 0);
	ck_assert_uint_eq(count_fds(), fds);
	ck_assert_int_eq(tell(&request, TEST_HANDLES, false), 0);
	ck_assert_uint_eq(test_device.maps, TEST_REGIONS);
	ck_assert_uint_eq(count_fds(), fds);
	ck_assert_int_eq(mover_memory_drop(&memory, 1, why), 0);
	ck_assert_uint_eq(test_device.maps, 0);
}

START_TEST(a_chunk_is_what_it_is_said_to_be)
{
	struct mover_request request = test_chunk(3, 0);

	setup();
	ck_assert_int_eq(tell_chunk(request, TEST_CHUNK_BYTES - 1), -EINVAL);
	request.bytes = 0;
	ck_assert_int_eq(tell_chunk(request, TEST_CHUNK_BYTES), -EINVAL);
	request.bytes = UINT64_MAX;
	ck_assert_int_eq(tell_chunk(request, TEST_CHUNK_BYTES), -EINVAL);
	request = test_chunk(MOVER_CHUNKS_MAX, 0);
	ck_assert_int_eq(tell_chunk(request, TEST_CHUNK_BYTES), -EINVAL);
	request = test_chunk(3, 0);
	test_device.fail_attach = -ENOMEM;
	ck_assert_int_eq(tell_chunk(request, TEST_CHUNK_BYTES), -ENOMEM);
	test_device.fail_attach = 0;
	ck_assert_uint_eq(test_device.attached, 0);
	ck_assert_int_eq(tell_chunk(request, TEST_CHUNK_BYTES), 0);
	ck_assert_uint_eq(test_device.attached, 1);
	ck_assert_int_eq(tell_chunk(request, TEST_CHUNK_BYTES), -EEXIST);
}
END_TEST

START_TEST(a_slab_below_lies_in_its_chunk)
{
	struct mover_request request = test_lower(2, 0);
	const uint64_t bytes = (uint64_t)TEST_REGIONS * TEST_PAGES * TEST_STRIDE;

	setup();
	ck_assert_int_eq(mover_memory_lower(&memory, &request, why), -EINVAL); /* no chunk yet */
	ck_assert_int_eq(tell_chunk(test_chunk(0, 0), TEST_CHUNK_BYTES), 0);
	request.chunk = 1;
	ck_assert_int_eq(mover_memory_lower(&memory, &request, why), -EINVAL);
	request.chunk = UINT32_MAX;
	ck_assert_int_eq(mover_memory_lower(&memory, &request, why), -EINVAL);
	request.chunk = 0;
	request.offset_bytes = TEST_CHUNK_BYTES - bytes + 1;
	ck_assert_int_eq(mover_memory_lower(&memory, &request, why), -EINVAL);
	request.offset_bytes = UINT64_MAX - 63;
	ck_assert_int_eq(mover_memory_lower(&memory, &request, why), -EINVAL);
	request.offset_bytes = TEST_CHUNK_BYTES - bytes;
	request.stride_bytes = 1ull << 62;
	ck_assert_int_eq(mover_memory_lower(&memory, &request, why), -EINVAL);
	request.stride_bytes = (1ull << 54); /* times pages it is 0 */
	ck_assert_int_eq(mover_memory_lower(&memory, &request, why), -EINVAL);
	request.stride_bytes = TEST_STRIDE;
	request.id = MOVER_SLABS_MAX;
	ck_assert_int_eq(mover_memory_lower(&memory, &request, why), -EINVAL);
	request.id = 2;
	ck_assert_int_eq(mover_memory_lower(&memory, &request, why), 0);
	ck_assert_int_eq(mover_memory_lower(&memory, &request, why), -EEXIST);
	/* What is handed out ends where the chunk does. */
	ck_assert_ptr_eq(mover_slab_host(&memory.slab[2], TEST_REGIONS - 1, TEST_PAGES - 1) +
				 TEST_STRIDE,
			 memory.chunk[0].mem + TEST_CHUNK_BYTES);
}
END_TEST

START_TEST(handles_that_do_not_make_the_regions_are_refused)
{
	struct mover_request bad[9];
	const uint32_t fds = count_fds();

	setup();
	for (uint32_t i = 0; i < 9; i++)
		bad[i] = test_slab(1);
	bad[0].id = MOVER_SLABS_MAX;
	bad[1].regions = 0;
	bad[2].regions = KVB_REGIONS_MAX + 1;
	bad[3].pages = 0;
	bad[4].stride_bytes = TEST_STRIDE + 1;
	bad[5].pages = TEST_PAGES + 1; /* more than the handles hold */
	bad[6].handles_per_region = 3;
	bad[7].handles_per_region = bad[7].count = 0;
	bad[8].handle_bytes = 1ull << 63; /* times two it is 0 */
	for (uint32_t i = 0; i < 9; i++) {
		ck_assert_int_eq(tell(&bad[i], TEST_HANDLES, false), -EINVAL);
		check_nothing(fds);
	}
}
END_TEST

START_TEST(a_slab_is_all_or_nothing)
{
	struct mover_request request = test_slab(1);
	const uint32_t fds = count_fds();

	setup();
	test_device.fail_map = (uint32_t)_i + 1;
	ck_assert_int_eq(tell(&request, TEST_HANDLES, false), -ENOSPC);
	check_nothing(fds);
	/* In pieces only the last one is answered. */
	test_device.fail_map = (uint32_t)_i + 1;
	for (request.first = 0; request.first < TEST_HANDLES - 1; request.first++)
		ck_assert_int_eq(tell(&request, 1, false), 1);
	ck_assert_int_eq(tell(&request, 1, false), -ENOSPC);
	check_nothing(fds);
}
END_TEST

START_TEST(pieces_have_to_go_on_where_the_last_one_ended)
{
	struct mover_request request = test_slab(1), other = test_slab(2);
	const uint32_t fds = count_fds();

	setup();
	request.first = 2;
	ck_assert_int_eq(tell(&request, 1, false), -EINVAL); /* of nothing */
	check_nothing(fds);
	request.first = 0;
	ck_assert_int_eq(tell(&request, 0, false), -EINVAL);
	check_nothing(fds);
	ck_assert_int_eq(tell(&request, TEST_HANDLES + 1, false), -EINVAL);
	check_nothing(fds);
	ck_assert_int_eq(tell(&request, 3, false), 1);
	request.first = 2;
	ck_assert_int_eq(tell(&request, 1, false), -EINVAL); /* there was that one */
	request.first = 3;
	request.seq = 9;
	ck_assert_int_eq(tell(&request, 1, false), -EINVAL); /* of another request */
	request.seq = 0;
	ck_assert_int_eq(tell(&request, 3, false), 0); /* which the wrong ones did not end */
	ck_assert_int_eq(mover_memory_drop(&memory, 1, why), 0);
	/* Another one takes its place, and it is gone. */
	request.first = 0;
	ck_assert_int_eq(tell(&request, 3, false), 1);
	ck_assert_int_eq(tell(&other, TEST_HANDLES, false), 0);
	request.first = 3;
	ck_assert_int_eq(tell(&request, 3, false), -EINVAL);
	ck_assert_int_eq(mover_memory_drop(&memory, 2, why), 0);
	check_nothing(fds);
}
END_TEST

START_TEST(fds_that_found_no_room_are_an_error_of_the_whole)
{
	struct mover_request request = test_slab(1);
	const uint32_t fds = count_fds();

	setup();
	ck_assert_int_eq(tell(&request, 4, true), -EMFILE);
	check_nothing(fds);
	request.regions = 100;
	request.count = 200;
	ck_assert_int_eq(tell(&request, 4, true), 1);
	request.first = MOVER_FDS_MAX;
	ck_assert_int_eq(tell(&request, 72, false), -EMFILE);
	check_nothing(fds);
}
END_TEST

START_TEST(entries_name_one_of_each_alike)
{
	struct mover_request upper = test_slab(1), lower = test_lower(2, 0),
			     thin = test_lower(3, 0);
	const struct mover_entry good = { .slab = 1, .lower_slab = 2, .page = TEST_PAGES - 1 };
	struct mover_entry entry = good;
	struct mover_slab *ret;

	setup();
	ck_assert_int_eq(tell_chunk(test_chunk(0, 0), TEST_CHUNK_BYTES), 0);
	ck_assert_int_eq(tell(&upper, TEST_HANDLES, false), 0);
	ck_assert_int_eq(mover_memory_lower(&memory, &lower, why), 0);
	thin.regions = 1;
	ck_assert_int_eq(mover_memory_lower(&memory, &thin, why), 0);
	ck_assert_ptr_eq(mover_memory_upper(&memory, &entry, &ret), &memory.slab[1]);
	ck_assert_ptr_eq(ret, &memory.slab[2]);
	entry.lower_slab = 3; /* of another geometry */
	ck_assert_ptr_null(mover_memory_upper(&memory, &entry, &ret));
	entry.lower_slab = 1; /* above as below */
	ck_assert_ptr_null(mover_memory_upper(&memory, &entry, &ret));
	entry = good;
	entry.slab = 2;
	ck_assert_ptr_null(mover_memory_upper(&memory, &entry, &ret));
	entry = good;
	entry.page = TEST_PAGES;
	ck_assert_ptr_null(mover_memory_upper(&memory, &entry, &ret));
	entry = good;
	entry.lower_page = TEST_PAGES;
	ck_assert_ptr_null(mover_memory_upper(&memory, &entry, &ret));
	ck_assert_int_eq(mover_memory_drop(&memory, 2, why), 0);
	ck_assert_ptr_null(mover_memory_upper(&memory, &good, &ret));
	ck_assert_int_eq(mover_memory_drop(&memory, UINT32_MAX, why), -EINVAL);
	ck_assert_int_eq(mover_memory_drop(&memory, 77, why), -EINVAL);
}
END_TEST

START_TEST(at_the_end_nothing_is_left)
{
	struct mover_request upper = test_slab(1), begun = test_slab(2);
	const uint32_t fds = count_fds();

	setup();
	ck_assert_int_eq(tell_chunk(test_chunk(0, 0), TEST_CHUNK_BYTES), 0);
	ck_assert_int_eq(tell(&upper, TEST_HANDLES, false), 0);
	ck_assert_int_eq(tell(&begun, 3, false), 1);
	gpu_mover_close(&test_device);
	mover_memory_finish(&memory);
	ck_assert_uint_eq(count_fds(), fds);
	ck_assert_ptr_null(memory.chunk[0].mem);
	ck_assert(!memory.slab[1].used);
}
END_TEST

int main(void)
{
	static const struct suite_case cases[] = {
		{ &a_chunk_is_what_it_is_said_to_be },
		{ &a_slab_below_lies_in_its_chunk },
		{ &handles_that_do_not_make_the_regions_are_refused },
		{ &a_slab_is_all_or_nothing, 0, TEST_REGIONS },
		{ &pieces_have_to_go_on_where_the_last_one_ended },
		{ &fds_that_found_no_room_are_an_error_of_the_whole },
		{ &entries_name_one_of_each_alike },
		{ &at_the_end_nothing_is_left },
		{ NULL },
	};

	return suite_run("mover-memory", cases);
}
