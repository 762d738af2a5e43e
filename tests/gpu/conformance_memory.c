/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Handles, addresses, maps and access rights within one process, and copies through them.
 *
 * Handles that do not exist are not tried: a driver takes them for pointers.
 */

#include "tests/gpu/conformance.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NOWHERE 0x700000000000ull /* device address that nobody reserved */

/* ---- create -------------------------------------------------------------------------------- */

static void test_create_refused(void)
{
	struct cu_allocation prop = allocation_prop();
	cu_handle handle;

	EXPECT(INVALID_VALUE, allocation_create(0, &handle));
	EXPECT(INVALID_VALUE, allocation_create(test_granule / 2, &handle));
	EXPECT(INVALID_VALUE, allocation_create(test_granule + test_granule / 2, &handle));
	EXPECT(INVALID_VALUE, cu->mem_create(&handle, test_granule, &prop, 1));
	prop.location.id = 99;
	EXPECT(INVALID_DEVICE, cu->mem_create(&handle, test_granule, &prop, 0));
	prop.location.id = -1;
	EXPECT(INVALID_DEVICE, cu->mem_create(&handle, test_granule, &prop, 0));
	prop = allocation_prop();
	prop.type = 0;
	EXPECT(INVALID_VALUE, cu->mem_create(&handle, test_granule, &prop, 0));
	prop = allocation_prop();
	prop.location.type = 0;
	EXPECT(INVALID_VALUE, cu->mem_create(&handle, test_granule, &prop, 0));
}

static void test_create_too_much(void)
{
	size_t total = 0;
	cu_handle handle;

	EXPECT(OK, cu->device_total_mem(&total, test_ordinal));
	EXPECT(OUT_OF_MEMORY,
	       allocation_create((total / test_granule + 1) * test_granule, &handle));
	EXPECT(OUT_OF_MEMORY, allocation_create(1ull << 42, &handle));
	EXPECT(OK, allocation_create(test_granule, &handle));
	EXPECT(OK, cu->mem_release(handle));
}

static void test_export_refused(void)
{
	struct cu_allocation prop = allocation_prop();
	cu_handle handle, imported, inner;
	int fd = -1, other = -1;

	prop.handle_types = CU_HANDLE_NONE;
	EXPECT(OK, cu->mem_create(&inner, test_granule, &prop, 0));
	EXPECT(INVALID_VALUE, cu->mem_export(&fd, inner, CU_HANDLE_POSIX_FD, 0));
	EXPECT(OK, cu->mem_release(inner));
	EXPECT(OK, allocation_create(test_granule, &handle));
	EXPECT(INVALID_VALUE, cu->mem_export(&fd, handle, CU_HANDLE_NONE, 0));
	EXPECT(INVALID_VALUE, cu->mem_export(&fd, handle, CU_HANDLE_POSIX_FD, 1));
	EXPECT(OK, cu->mem_export(&fd, handle, CU_HANDLE_POSIX_FD, 0));
	EXPECT(OK, cu->mem_export(&other, handle, CU_HANDLE_POSIX_FD, 0));
	CHECK(fd != other);
	close(other);
	EXPECT(OK, cu->mem_import(&imported, (void *)(intptr_t)fd, CU_HANDLE_POSIX_FD));
	CHECK(imported != handle);
	EXPECT(INVALID_VALUE, cu->mem_export(&other, imported, CU_HANDLE_POSIX_FD, 0));
	EXPECT(OK, cu->mem_release(imported));
	EXPECT(OK, cu->mem_release(handle));
	close(fd);
}

static void test_import_refused(void)
{
	cu_handle handle;
	int pipes[2];

	CHECK(pipe(pipes) == 0);
	EXPECT(UNKNOWN, cu->mem_import(&handle, (void *)(intptr_t)-1, CU_HANDLE_POSIX_FD));
	EXPECT(UNKNOWN, cu->mem_import(&handle, (void *)(intptr_t)pipes[0], CU_HANDLE_POSIX_FD));
	EXPECT(INVALID_VALUE, cu->mem_import(&handle, (void *)(intptr_t)pipes[0], CU_HANDLE_NONE));
	close(pipes[0]);
	close(pipes[1]);
	EXPECT(OK, allocation_create(test_granule, &handle));
	EXPECT(OK, cu->mem_release(handle));
}

/* ---- reserve and map ----------------------------------------------------------------------- */

static void test_reserve(void)
{
	cu_address address, other;

	EXPECT(INVALID_VALUE, cu->mem_address_reserve(&address, 0, 0, 0, 0));
	EXPECT(INVALID_VALUE, cu->mem_address_reserve(&address, 4096, 0, 0, 0));
	EXPECT(INVALID_VALUE, cu->mem_address_reserve(&address, test_granule, 3, 0, 0));
	EXPECT(INVALID_VALUE, cu->mem_address_reserve(&address, test_granule, 0, 0, 1));
	EXPECT(OK, cu->mem_address_reserve(&address, 1ull << 36, 64ull << 20, 0, 0));
	CHECK(address != 0 && address % (64ull << 20) == 0);
	EXPECT(OK, cu->mem_address_reserve(&other, test_granule, 0, 0, 0));
	CHECK(other % test_granule == 0);
	CHECK(other + test_granule <= address || other >= address + (1ull << 36));
	EXPECT(INVALID_VALUE, cu->mem_address_free(address, 1ull << 35));
	EXPECT(INVALID_VALUE, cu->mem_address_free(address + test_granule, test_granule));
	EXPECT(OK, cu->mem_address_free(address, 1ull << 36));
	EXPECT(INVALID_VALUE, cu->mem_address_free(address, 1ull << 36));
	EXPECT(OK, cu->mem_address_free(other, test_granule));
}

static void test_map_refused(void)
{
	const uint64_t piece = 2 * test_granule, space = 8 * test_granule;
	cu_handle handle, second;
	cu_address at;

	EXPECT(OK, allocation_create(piece, &handle));
	EXPECT(OK, allocation_create(piece, &second));
	EXPECT(OK, cu->mem_address_reserve(&at, space, 0, 0, 0));
	EXPECT(NOT_SUPPORTED, cu->mem_map(at, test_granule, test_granule, handle, 0));
	EXPECT(NOT_SUPPORTED, cu->mem_map(at, test_granule, 0, handle, 0));
	EXPECT(NOT_SUPPORTED, cu->mem_map(at, 2 * piece, 0, handle, 0));
	EXPECT(INVALID_VALUE, cu->mem_map(at, piece, 0, handle, 1));
	EXPECT(INVALID_VALUE, cu->mem_map(at + 4096, piece, 0, handle, 0));
	EXPECT(INVALID_VALUE, cu->mem_map(NOWHERE, piece, 0, handle, 0));
	EXPECT(OK, cu->mem_map(at, piece, 0, handle, 0));
	EXPECT(INVALID_VALUE, cu->mem_map(at, piece, 0, second, 0));
	EXPECT(INVALID_VALUE, cu->mem_map(at + test_granule, piece, 0, second, 0));
	EXPECT(INVALID_VALUE, cu->mem_address_free(at, space));
	EXPECT(OK, cu->mem_unmap(at, piece));
	EXPECT(OK, cu->mem_address_free(at, space));
	EXPECT(OK, cu->mem_release(second));
	EXPECT(OK, cu->mem_release(handle));
}

/* A map goes whole; what is between maps does not matter, nor what is gone already. */
static void test_unmap(void)
{
	const uint64_t piece = 2 * test_granule, space = 8 * test_granule;
	cu_handle handle;
	cu_address at;

	EXPECT(OK, allocation_create(piece, &handle));
	EXPECT(OK, cu->mem_address_reserve(&at, space, 0, 0, 0));
	EXPECT(OK, cu->mem_map(at, piece, 0, handle, 0));
	EXPECT(OK, cu->mem_map(at + 2 * piece, piece, 0, handle, 0));
	EXPECT(INVALID_VALUE, cu->mem_unmap(at, test_granule));
	EXPECT(INVALID_VALUE, cu->mem_unmap(at + test_granule, test_granule));
	EXPECT(INVALID_VALUE, cu->mem_unmap(at, 0));
	EXPECT(INVALID_VALUE, cu->mem_unmap(NOWHERE, piece));
	EXPECT(OK, cu->mem_unmap(at, 3 * piece));
	EXPECT(OK, cu->mem_unmap(at, piece));
	EXPECT(OK, cu->mem_address_free(at, space));
	EXPECT(OK, cu->mem_release(handle));
}

static void test_access_refused(void)
{
	const uint64_t piece = 2 * test_granule, space = 8 * test_granule;
	struct cu_access_desc desc = { .location = { .type = CU_LOCATION_DEVICE, .id = 99 },
				       .flags = CU_ACCESS_READ_WRITE };
	cu_handle handle;
	cu_address at;

	EXPECT(OK, allocation_create(piece, &handle));
	EXPECT(OK, cu->mem_address_reserve(&at, space, 0, 0, 0));
	EXPECT(OK, cu->mem_map(at, piece, 0, handle, 0));
	EXPECT(OK, cu->mem_map(at + piece, piece, 0, handle, 0));
	EXPECT(INVALID_VALUE, access_set(at + 2 * piece, piece, CU_ACCESS_READ_WRITE));
	EXPECT(INVALID_VALUE, access_set(at, 3 * piece, CU_ACCESS_READ_WRITE));
	EXPECT(INVALID_VALUE, access_set(at, test_granule, CU_ACCESS_READ_WRITE));
	EXPECT(INVALID_VALUE, access_set(at, 0, CU_ACCESS_READ_WRITE));
	EXPECT(INVALID_VALUE, access_set(at, piece, (enum cu_access)7));
	EXPECT(INVALID_VALUE, access_set(at, piece, (enum cu_access)2));
	EXPECT(INVALID_VALUE, cu->mem_set_access(at, piece, &desc, 1));
	EXPECT(INVALID_VALUE, cu->mem_set_access(at, piece, &desc, 0));
	EXPECT(OK, access_set(at, 2 * piece, CU_ACCESS_READ_WRITE));
	EXPECT(OK, cu->mem_unmap(at, 2 * piece));
	EXPECT(OK, cu->mem_address_free(at, space));
	EXPECT(OK, cu->mem_release(handle));
}

/* ---- copies -------------------------------------------------------------------------------- */

static void test_access_rights(void)
{
	const uint64_t piece = 2 * test_granule;
	uint64_t word = 1;
	cu_handle handle;
	cu_address at;

	EXPECT(OK, context_enter());
	EXPECT(OK, allocation_create(piece, &handle));
	EXPECT(OK, cu->mem_address_reserve(&at, piece, 0, 0, 0));
	EXPECT(INVALID_VALUE, cu->memcpy_htod(at, &word, sizeof(word)));
	EXPECT(OK, cu->mem_map(at, piece, 0, handle, 0));
	EXPECT(INVALID_VALUE, cu->memcpy_htod(at, &word, sizeof(word)));
	EXPECT(INVALID_VALUE, cu->memcpy_dtoh(&word, at, sizeof(word)));
	EXPECT(INVALID_VALUE, cu->memset_d8(at, 1, 8));
	EXPECT(OK, access_set(at, piece, CU_ACCESS_READ_WRITE));
	EXPECT(OK, cu->memcpy_htod(at, &word, sizeof(word)));
	EXPECT(OK, access_set(at, piece, CU_ACCESS_READ));
	EXPECT(INVALID_VALUE, cu->memcpy_htod(at, &word, sizeof(word)));
	word = 0;
	EXPECT(OK, cu->memcpy_dtoh(&word, at, sizeof(word)));
	CHECK(word == 1);
	EXPECT(OK, access_set(at, piece, CU_ACCESS_NONE));
	EXPECT(INVALID_VALUE, cu->memcpy_dtoh(&word, at, sizeof(word)));
	EXPECT(OK, window_close(at, piece));
	EXPECT(INVALID_VALUE, cu->memcpy_dtoh(&word, at, sizeof(word)));
	EXPECT(OK, cu->ctx_synchronize()); /* a refusal is no fault */
	EXPECT(OK, cu->mem_release(handle));
	EXPECT(OK, context_leave());
}

static void test_copies_exact(void)
{
	const uint64_t piece = 8 * test_granule;
	uint8_t odd[13] = "odd and short";
	cu_handle handle;
	cu_address at;
	uint8_t *host = malloc(piece);
	bool equal;

	CHECK(host);
	EXPECT(OK, context_enter());
	EXPECT(OK, allocation_create(piece, &handle));
	EXPECT(OK, window_open(handle, piece, &at));
	EXPECT(OK, window_equals(at, piece, 0, &equal));
	CHECK(equal);
	EXPECT(OK, window_fill(at, piece, 7));
	EXPECT(OK, window_equals(at, piece, 7, &equal));
	CHECK(equal);
	EXPECT(OK, cu->memcpy_htod(at + 1001, odd, sizeof(odd)));
	pattern_fill(host, piece, 7);
	memcpy(host + 1001, odd, sizeof(odd));
	memset(odd, 0, sizeof(odd));
	EXPECT(OK, cu->memcpy_dtoh(odd, at + 1001, sizeof(odd)));
	CHECK(memcmp(odd, host + 1001, sizeof(odd)) == 0);
	EXPECT(OK, cu->memset_d8(at + 4096, 0x5a, 77));
	EXPECT(OK, cu->memcpy_dtoh(host, at + 4090, 89));
	for (uint32_t i = 6; i < 83; i++)
		CHECK(host[i] == 0x5a);
	EXPECT(INVALID_VALUE, cu->memcpy_htod(at + piece - 4, odd, 8));
	EXPECT(INVALID_VALUE, cu->memcpy_dtoh(host, 0, 8));
	EXPECT(OK, cu->memcpy_htod(at, odd, 0));
	EXPECT(OK, window_close(at, piece));
	EXPECT(OK, cu->mem_release(handle));
	EXPECT(OK, context_leave());
	free(host);
}

/* One range over many handles, as a space with layers has them. */
static void test_ranges(void)
{
	enum { HANDLES = 8 };
	const uint64_t piece = 2 * test_granule;
	cu_handle handles[HANDLES];
	cu_address at;
	bool equal;

	EXPECT(OK, context_enter());
	EXPECT(OK, cu->mem_address_reserve(&at, HANDLES * piece, 0, 0, 0));
	for (uint32_t i = 0; i < HANDLES; i++) {
		EXPECT(OK, allocation_create(piece, &handles[i]));
		EXPECT(OK, cu->mem_map(at + i * piece, piece, 0, handles[i], 0));
	}
	EXPECT(OK, access_set(at, HANDLES * piece, CU_ACCESS_READ_WRITE));
	EXPECT(OK, window_fill(at, HANDLES * piece, 11));
	EXPECT(OK, window_equals(at, HANDLES * piece, 11, &equal));
	CHECK(equal);
	EXPECT(OK, cu->mem_unmap(at, HANDLES * piece));
	EXPECT(OK, cu->mem_address_free(at, HANDLES * piece));
	for (uint32_t i = 0; i < HANDLES; i++)
		EXPECT(OK, cu->mem_release(handles[i]));
	EXPECT(OK, context_leave());
}

/* Two maps are one memory; a map outlives the release of its handle. */
static void test_references(void)
{
	const uint64_t piece = 2 * test_granule;
	cu_address first, second;
	cu_handle handle;
	bool equal;

	EXPECT(OK, context_enter());
	EXPECT(OK, allocation_create(piece, &handle));
	EXPECT(OK, window_open(handle, piece, &first));
	EXPECT(OK, window_open(handle, piece, &second));
	EXPECT(OK, cu->mem_release(handle));
	EXPECT(OK, window_fill(first, piece, 3));
	EXPECT(OK, window_equals(second, piece, 3, &equal));
	CHECK(equal);
	EXPECT(OK, window_close(first, piece));
	EXPECT(OK, window_equals(second, piece, 3, &equal));
	CHECK(equal);
	EXPECT(OK, window_close(second, piece));
	EXPECT(OK, context_leave());
}

static void test_reads_zero(void)
{
	enum { ROUNDS = 8 };
	const uint64_t piece = 16 * test_granule;
	cu_handle handle;
	cu_address at;
	bool equal;

	EXPECT(OK, context_enter());
	for (uint32_t i = 0; i < ROUNDS; i++) {
		EXPECT(OK, allocation_create(piece, &handle));
		EXPECT(OK, window_open(handle, piece, &at));
		EXPECT(OK, window_equals(at, piece, 0, &equal));
		CHECK(equal);
		EXPECT(OK, window_fill(at, piece, 100 + i));
		EXPECT(OK, window_close(at, piece));
		EXPECT(OK, cu->mem_release(handle));
	}
	EXPECT(OK, context_leave());
}

const struct test tests_memory[] = {
	{ "create refuses odd sizes, flags, kinds and devices", test_create_refused },
	{ "more than there is, is an error and no more", test_create_too_much },
	{ "export refuses what may not leave and what was imported", test_export_refused },
	{ "import refuses what is no allocation", test_import_refused },
	{ "addresses are reserved aligned and freed whole", test_reserve },
	{ "a map is of a whole handle, at a free place", test_map_refused },
	{ "a map goes whole, one range may hold many", test_unmap },
	{ "access is given to whole maps without a hole", test_access_refused },
	{ NULL, NULL },
};

const struct test tests_copy[] = {
	{ "nothing is read or written without the right to", test_access_rights },
	{ "copies and fills are exact", test_copies_exact },
	{ "one range over many handles", test_ranges },
	{ "two maps are one memory, and outlive the handle", test_references },
	{ "memory that was released reads zero", test_reads_zero },
	{ NULL, NULL },
};
