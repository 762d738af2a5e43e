/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Runs the suite: see conformance.h.
 *
 * usage: conformance [ORDINAL]        of the device; 0
 *
 * Without a driver every test is skipped and the reason is told; with one that cannot be
 * initialised too, unless CONFORMANCE_MUST_RUN is set, which is for machines that have a GPU.
 */

#include "tests/gpu/conformance.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const struct cuda_api *cu;
const struct cuda_stream_api *cs;
bool test_is_stand_in;
int test_ordinal;
uint64_t test_granule;

static bool test_failed;
static const char *test_skipped;

static const char *result_name(enum cu_result result)
{
	const char *name;

	return cu->get_error_name(result, &name) == CU_OK ? name : "a result without a name";
}

void test_fail(const char *file, int line, const char *what)
{
	printf("# %s:%d: %s\n", file, line, what);
	test_failed = true;
}

void test_fail_result(const char *file, int line, const char *what, const char *want,
		      enum cu_result got)
{
	printf("# %s:%d: %s: want %s, got %d %s\n", file, line, what, want, (int)got,
	       result_name(got));
	test_failed = true;
}

void test_tell(const char *what, enum cu_result got)
{
	printf("# %s: %d %s\n", what, (int)got, result_name(got));
}

void test_skip(const char *why)
{
	test_skipped = why;
}

/* ---- memory -------------------------------------------------------------------------------- */

static uint64_t pattern_word(uint64_t index, uint32_t seed)
{
	return seed ? (index + 1) * 0x9e3779b97f4a7c15ull * (2ull * seed + 1) : 0;
}

void pattern_fill(void *to, uint64_t bytes, uint32_t seed)
{
	uint64_t *words = to;

	for (uint64_t i = 0; i < bytes / sizeof(*words); i++)
		words[i] = pattern_word(i, seed);
}

bool pattern_equals(const void *at, uint64_t bytes, uint32_t seed)
{
	const uint64_t *words = at;

	for (uint64_t i = 0; i < bytes / sizeof(*words); i++) {
		if (words[i] != pattern_word(i, seed))
			return false;
	}
	return true;
}

struct cu_allocation allocation_prop(void)
{
	return (struct cu_allocation){
		.type = CU_ALLOCATION_PINNED,
		.handle_types = CU_HANDLE_POSIX_FD,
		.location = { .type = CU_LOCATION_DEVICE, .id = test_ordinal },
	};
}

enum cu_result allocation_create(uint64_t bytes, cu_handle *ret)
{
	struct cu_allocation prop = allocation_prop();

	return cu->mem_create(ret, bytes, &prop, 0);
}

enum cu_result access_set(cu_address address, uint64_t bytes, enum cu_access access)
{
	struct cu_access_desc desc = {
		.location = { .type = CU_LOCATION_DEVICE, .id = test_ordinal },
		.flags = access,
	};

	return cu->mem_set_access(address, bytes, &desc, 1);
}

enum cu_result window_open(cu_handle handle, uint64_t bytes, cu_address *ret)
{
	enum cu_result result = cu->mem_address_reserve(ret, bytes, 0, 0, 0);

	if (result != CU_OK)
		return result;
	result = cu->mem_map(*ret, bytes, 0, handle, 0);
	if (result == CU_OK)
		result = access_set(*ret, bytes, CU_ACCESS_READ_WRITE);
	return result;
}

enum cu_result window_close(cu_address address, uint64_t bytes)
{
	enum cu_result result = cu->mem_unmap(address, bytes);

	return result ? result : cu->mem_address_free(address, bytes);
}

enum cu_result window_fill(cu_address address, uint64_t bytes, uint32_t seed)
{
	void *buffer = malloc(bytes);
	enum cu_result result = CU_ERROR_OPERATING_SYSTEM;

	if (buffer) {
		pattern_fill(buffer, bytes, seed);
		result = cu->memcpy_htod(address, buffer, bytes);
	}
	free(buffer);
	return result;
}

enum cu_result window_equals(cu_address address, uint64_t bytes, uint32_t seed, bool *ret_equal)
{
	void *buffer = malloc(bytes);
	enum cu_result result = CU_ERROR_OPERATING_SYSTEM;

	*ret_equal = false;
	if (buffer) {
		memset(buffer, 0xa5, bytes);
		result = cu->memcpy_dtoh(buffer, address, bytes);
		*ret_equal = result == CU_OK && pattern_equals(buffer, bytes, seed);
	}
	free(buffer);
	return result;
}

enum cu_result context_enter(void)
{
	cu_context context;
	enum cu_result result = cu->primary_ctx_retain(&context, test_ordinal);

	return result ? result : cu->ctx_set_current(context);
}

enum cu_result context_leave(void)
{
	enum cu_result result = cu->ctx_set_current(NULL);

	return result ? result : cu->primary_ctx_release(test_ordinal);
}

/* ---- the run ------------------------------------------------------------------------------- */

static int run_all(void)
{
	static const struct test *const lists[] = {
		tests_device, tests_memory, tests_copy, tests_share,
		tests_stream, tests_batch,  tests_host, tests_fault,
	};
	uint32_t count = 0, failed = 0;

	for (uint32_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
		for (const struct test *test = lists[i]; test->name; test++) {
			test_failed = false;
			test_skipped = NULL;
			test->run();
			printf("%sok %u - %s", test_failed ? "not " : "", ++count, test->name);
			printf(test_skipped ? " # SKIP %s\n" : "\n", test_skipped);
			fflush(stdout);
			failed += test_failed;
		}
	}
	printf("1..%u\n", count);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* No driver, or none that works. */
static int skip_all(const char *why)
{
	if (getenv("CONFORMANCE_MUST_RUN")) {
		printf("1..1\nnot ok 1 - a driver # %s\n", why);
		return EXIT_FAILURE;
	}
	printf("1..0 # SKIP %s\n", why);
	return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
	struct cu_allocation prop;
	char name[64];
	size_t granule;

	if (cuda_load(&cu) < 0)
		return skip_all(cuda_load_error());
	if (cuda_load_streams(&cs) < 0)
		return skip_all(cuda_load_streams_error());
	if (argc == 3 && strcmp(argv[1], "--peer") == 0)
		return peer_main(atoi(argv[2]));
	if (argc > 2 || (argc == 2 && (argv[1][0] < '0' || argv[1][0] > '9'))) {
		fprintf(stderr, "usage: conformance [ORDINAL]\n");
		return 2;
	}
	test_ordinal = argc == 2 ? atoi(argv[1]) : 0;
	if (cu->device_get_count(&(int){ 0 }) != CU_ERROR_NOT_INITIALIZED ||
	    allocation_create(2u << 20, &(cu_handle){ 0 }) != CU_ERROR_NOT_INITIALIZED) {
		printf("1..1\nnot ok 1 - before cuInit nothing works\n");
		return EXIT_FAILURE;
	}
	if (cu->init(0) != CU_OK)
		return skip_all("the driver cannot be initialised: is there a GPU?");
	prop = allocation_prop();
	if (cu->device_get_name(name, sizeof(name), test_ordinal) != CU_OK ||
	    cu->mem_get_allocation_granularity(&granule, &prop, CU_GRANULARITY_MINIMUM) != CU_OK)
		return skip_all("there is no such device");
	test_granule = granule;
	test_is_stand_in = strncmp(name, "fakecuda", 8) == 0;
	printf("# device %d: %s\n", test_ordinal, name);
	return run_all();
}
