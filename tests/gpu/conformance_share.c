/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Memory between processes: what the broker is built on.
 */

#include "tests/gpu/conformance.h"

#include <fcntl.h>
#include <unistd.h>

#define PIECE (4 * test_granule)

static enum cu_result import_fd(int fd, cu_handle *ret)
{
	return cu->mem_import(ret, (void *)(intptr_t)fd, CU_HANDLE_POSIX_FD);
}

/* Import, look, let go: CU_OK if the memory behind the fd has the pattern. */
static enum cu_result fd_equals(int fd, uint64_t bytes, uint32_t seed, bool *ret_equal)
{
	enum cu_result result, closed;
	cu_address at = 0;
	cu_handle handle;

	*ret_equal = false;
	result = import_fd(fd, &handle);
	if (result != CU_OK)
		return result;
	result = window_open(handle, bytes, &at);
	if (result == CU_OK)
		result = window_equals(at, bytes, seed, ret_equal);
	closed = window_close(at, bytes);
	if (result == CU_OK)
		result = closed;
	closed = cu->mem_release(handle);
	return result ? result : closed;
}

static void test_both_ways(void)
{
	struct peer peer;
	cu_handle handle;
	cu_address at;
	bool equal;
	int fd = -1, other = -1;

	CHECK(peer_start(&peer));
	EXPECT(OK, context_enter());
	EXPECT(OK, allocation_create(PIECE, &handle));
	EXPECT(OK, cu->mem_export(&fd, handle, CU_HANDLE_POSIX_FD, 0));
	CHECK(fd >= 0 && fcntl(fd, F_GETFD) == FD_CLOEXEC);
	EXPECT(OK, window_open(handle, PIECE, &at));
	EXPECT(OK, window_fill(at, PIECE, 21));
	EXPECT(OK, peer_call(&peer, PEER_IMPORT, PIECE, 0, fd, NULL));
	close(fd);
	EXPECT(OK, peer_call(&peer, PEER_EQUALS, PIECE, 21, -1, NULL));
	EXPECT(OK, peer_call(&peer, PEER_FILL, PIECE, 22, -1, NULL));
	EXPECT(OK, window_equals(at, PIECE, 22, &equal));
	CHECK(equal);
	EXPECT(INVALID_VALUE, peer_call(&peer, PEER_EXPORT, PIECE, 0, -1, &other));
	EXPECT(OK, peer_call(&peer, PEER_DROP, PIECE, 0, -1, NULL));
	EXPECT(OK, window_equals(at, PIECE, 22, &equal));
	CHECK(equal);
	peer_kill(&peer);
	EXPECT(OK, window_close(at, PIECE));
	EXPECT(OK, cu->mem_release(handle));
	EXPECT(OK, context_leave());
}

/* The importer lives on when the owner has let go, and when an importer is killed nobody minds. */
static void test_lives_with_importer(void)
{
	struct peer peer;
	cu_handle handle;
	cu_address at;
	bool equal;
	int fd = -1;

	CHECK(peer_start(&peer));
	EXPECT(OK, context_enter());
	EXPECT(OK, allocation_create(PIECE, &handle));
	EXPECT(OK, window_open(handle, PIECE, &at));
	EXPECT(OK, window_fill(at, PIECE, 31));
	EXPECT(OK, cu->mem_export(&fd, handle, CU_HANDLE_POSIX_FD, 0));
	EXPECT(OK, peer_call(&peer, PEER_IMPORT, PIECE, 0, fd, NULL));
	EXPECT(OK, window_close(at, PIECE));
	EXPECT(OK, cu->mem_release(handle));
	EXPECT(OK, peer_call(&peer, PEER_EQUALS, PIECE, 31, -1, NULL));
	EXPECT(OK, peer_call(&peer, PEER_FILL, PIECE, 32, -1, NULL));
	peer_kill(&peer);
	EXPECT(OK, fd_equals(fd, PIECE, 32, &equal));
	CHECK(equal);
	close(fd);
	EXPECT(OK, context_leave());
}

static void test_survives_owner(void)
{
	struct peer owner;
	bool equal;
	int fd = -1;

	CHECK(peer_start(&owner));
	EXPECT(OK, context_enter());
	EXPECT(OK, peer_call(&owner, PEER_CREATE, PIECE, 0, -1, &fd));
	CHECK(fd >= 0);
	EXPECT(OK, peer_call(&owner, PEER_FILL, PIECE, 41, -1, NULL));
	peer_kill(&owner);
	EXPECT(OK, fd_equals(fd, PIECE, 41, &equal));
	CHECK(equal);
	EXPECT(OK, fd_equals(fd, PIECE, 41, &equal));
	CHECK(equal);
	close(fd);
	EXPECT(OK, context_leave());
}

/* The daemon: it keeps fds, and never calls the driver. */
static void test_survives_in_stranger(void)
{
	struct peer owner, keeper;
	bool equal;
	int fd = -1;

	CHECK(peer_start(&owner) && peer_start(&keeper));
	EXPECT(OK, context_enter());
	EXPECT(OK, peer_call(&owner, PEER_CREATE, PIECE, 0, -1, &fd));
	EXPECT(OK, peer_call(&owner, PEER_FILL, PIECE, 51, -1, NULL));
	EXPECT(OK, peer_call(&keeper, PEER_KEEP, 0, 0, fd, NULL));
	close(fd);
	peer_kill(&owner);
	EXPECT(OK, peer_call(&keeper, PEER_RETURN, 0, 0, -1, &fd));
	peer_kill(&keeper);
	CHECK(fd >= 0);
	EXPECT(OK, fd_equals(fd, PIECE, 51, &equal));
	CHECK(equal);
	close(fd);
	EXPECT(OK, context_leave());
}

/* What one process left behind, with and without saying so, another never sees. */
static void test_zero_between_processes(void)
{
	enum { ROUNDS = 4 };
	const uint64_t piece = 16 * test_granule;
	struct peer peer;

	for (uint32_t i = 0; i < ROUNDS; i++) {
		CHECK(peer_start(&peer));
		EXPECT(OK, peer_call(&peer, PEER_CREATE, piece, 0, -1, NULL));
		EXPECT(OK, peer_call(&peer, PEER_EQUALS, piece, 0, -1, NULL));
		EXPECT(OK, peer_call(&peer, PEER_FILL, piece, 61 + i, -1, NULL));
		if (i % 2 == 0)
			EXPECT(OK, peer_call(&peer, PEER_DROP, piece, 0, -1, NULL));
		peer_kill(&peer);
	}
}

/* Only on a device so small that taking all of it hurts nobody. */
static void test_killed_leaks_nothing(void)
{
	enum { ROUNDS = 2 };
	struct peer peer;
	size_t total = 0;
	cu_handle handle;

	EXPECT(OK, cu->device_total_mem(&total, test_ordinal));
	if (total > 1ull << 30) {
		test_skip("it takes all memory of the device, which has more than 1 GiB");
		return;
	}
	for (uint32_t i = 0; i < ROUNDS; i++) {
		CHECK(peer_start(&peer));
		EXPECT(OUT_OF_MEMORY,
		       peer_call(&peer, PEER_EXHAUST, 8 * test_granule, 0, -1, NULL));
		EXPECT(OUT_OF_MEMORY, allocation_create(8 * test_granule, &handle));
		peer_kill(&peer);
		EXPECT(OK, allocation_create(total / 2, &handle));
		EXPECT(OK, cu->mem_release(handle));
	}
}

/* Each device has its own memory: what is written to one is not on another. */
static void test_every_device(void)
{
	int count = 0, own = test_ordinal;
	cu_handle handle;
	cu_address at;
	bool equal;

	EXPECT(OK, cu->device_get_count(&count));
	if (count < 2) {
		test_skip("there is one device");
		return;
	}
	for (test_ordinal = 0; test_ordinal < count; test_ordinal++) {
		EXPECT(OK, context_enter());
		EXPECT(OK, allocation_create(PIECE, &handle));
		EXPECT(OK, window_open(handle, PIECE, &at));
		EXPECT(OK, window_equals(at, PIECE, 0, &equal));
		CHECK(equal);
		EXPECT(OK, window_fill(at, PIECE, 71 + (uint32_t)test_ordinal));
		EXPECT(OK, window_equals(at, PIECE, 71 + (uint32_t)test_ordinal, &equal));
		CHECK(equal);
		EXPECT(OK, window_close(at, PIECE));
		EXPECT(OK, cu->mem_release(handle));
		EXPECT(OK, context_leave());
	}
	test_ordinal = own;
}

const struct test tests_share[] = {
	{ "two processes see each other's writes; an importer cannot export", test_both_ways },
	{ "memory lives with its importer", test_lives_with_importer },
	{ "contents survive the death of the owner", test_survives_owner },
	{ "also in a process that never called the driver", test_survives_in_stranger },
	{ "memory that changes hands reads zero", test_zero_between_processes },
	{ "a killed process leaks nothing", test_killed_leaks_nothing },
	{ "every device", test_every_device },
	{ NULL, NULL },
};
