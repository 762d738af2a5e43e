/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What a process hears that has no usable driver (fault 86): no library, one that cannot be opened,
 * one that is too old. And the map of results, which needs no driver.
 *
 * The driver is looked for once a process, so each case runs this program again, with --probe, and
 * a folder of its own in LD_LIBRARY_PATH.
 */

#include "tests/unit/suite.h"
#include "cuda_driver/cuda_api.h"
#include "cuda_driver/cuda_client.h"
#include "cuda_driver/cuda_error.h"
#include "cuda_driver/cuda_owner.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TEXT_BYTES 512

struct probe {
	int load, again, owner, client;
	char why[TEXT_BYTES];
};

/* Runs --probe with `target` in the place of the driver; NULL: an empty file there. */
static struct probe probe_run(const char *target)
{
	char dir[] = "/tmp/kvb-cuda-load.XXXXXX";
	char library[64], self[256], command[TEXT_BYTES];
	struct probe p = { 0 };
	ssize_t bytes = readlink("/proc/self/exe", self, sizeof(self) - 1);
	FILE *f;

	ck_assert(bytes > 0 && mkdtemp(dir) != NULL);
	self[bytes] = '\0';
	snprintf(library, sizeof(library), "%s/%s", dir, CU_LIBRARY);
	if (target) {
		ck_assert_int_eq(symlink(target, library), 0);
	} else {
		f = fopen(library, "we");
		ck_assert_ptr_nonnull(f);
		fclose(f);
	}
	snprintf(command, sizeof(command), "LD_LIBRARY_PATH=%s '%s' --probe", dir, self);
	f = popen(command, "re");
	ck_assert_ptr_nonnull(f);
	ck_assert_int_eq(fscanf(f, "%d %d %d %d ", &p.load, &p.again, &p.owner, &p.client), 4);
	ck_assert_ptr_nonnull(fgets(p.why, sizeof(p.why), f));
	ck_assert_int_eq(pclose(f), 0);
	unlink(library);
	rmdir(dir);
	return p;
}

static int probe_main(void)
{
	const struct cuda_api *api;
	struct cuda_owner *owner;
	struct cuda_client *client;
	int load = cuda_load(&api);

	printf("%d %d %d %d %s\n", load, cuda_load(&api), cuda_owner_open(0, &owner),
	       cuda_client_open(0, &client), cuda_load_error());
	return 0;
}

START_TEST(load_says_when_the_library_cannot_be_opened)
{
	struct probe p = probe_run(NULL);

	ck_assert_int_eq(p.load, -ENOENT);
	ck_assert_int_eq(p.again, -ENOENT);
	ck_assert_int_eq(p.owner, -ENOENT);
	ck_assert_int_eq(p.client, -ENOENT);
	ck_assert_msg(strstr(p.why, CU_LIBRARY) != NULL, "names no library: %s", p.why);
}
END_TEST

START_TEST(load_names_the_symbol_that_an_old_driver_lacks)
{
	struct probe p = probe_run(OLD_DRIVER);

	ck_assert_int_eq(p.load, -ENOSYS);
	ck_assert_int_eq(p.again, -ENOSYS);
	ck_assert_int_eq(p.owner, -ENOSYS);
	ck_assert_int_eq(p.client, -ENOSYS);
	ck_assert_msg(strstr(p.why, "cuGetErrorName") != NULL, "names no symbol: %s", p.why);
}
END_TEST

START_TEST(error_knows_every_result)
{
#define ERROR_IS_KNOWN(name, value)                                                                \
	ck_assert_str_eq(cuda_error_name(CU_ERROR_##name), "CUDA_ERROR_" #name);                   \
	ck_assert_int_lt(cuda_error_errno(CU_ERROR_##name), 0);
	CU_ERRORS(ERROR_IS_KNOWN)
#undef ERROR_IS_KNOWN
	ck_assert_int_eq(cuda_error_errno(CU_OK), 0);
	ck_assert_str_eq(cuda_error_name(CU_OK), "CUDA_SUCCESS");
}
END_TEST

START_TEST(error_tells_what_sticks)
{
	ck_assert(!cuda_error_is_sticky(CU_OK));
	ck_assert(!cuda_error_is_sticky(CU_ERROR_OUT_OF_MEMORY));
	ck_assert(!cuda_error_is_sticky(CU_ERROR_INVALID_VALUE));
	ck_assert(cuda_error_is_sticky(CU_ERROR_ECC_UNCORRECTABLE));
	ck_assert(cuda_error_is_sticky(CU_ERROR_ILLEGAL_ADDRESS));
	ck_assert(cuda_error_is_sticky(CU_ERROR_CONTAINED));
	ck_assert_int_eq(cuda_error_errno(CU_ERROR_OUT_OF_MEMORY), -ENOMEM);
	ck_assert_int_eq(cuda_error_errno(CU_ERROR_ECC_UNCORRECTABLE), -EIO);
	ck_assert_int_eq(cuda_error_errno(CU_ERROR_NO_DEVICE), -ENODEV);
}
END_TEST

/* A driver is newer than we are: what it says then is not trusted and not lost. */
START_TEST(error_takes_the_unknown_for_the_worst)
{
	enum cu_result unknown = (enum cu_result)4711;

	ck_assert_int_eq(cuda_error_errno(unknown), -EIO);
	ck_assert(cuda_error_is_sticky(unknown));
	ck_assert_int_eq(cuda_error_note("cuMemMap", unknown), -EIO);
	ck_assert_str_eq(cuda_error_last(), "cuMemMap: unknown CUDA error (4711)");
	ck_assert_int_eq((int)cuda_error_last_result(), 4711);
}
END_TEST

static void *error_note_elsewhere(void *arg)
{
	*(bool *)arg = cuda_error_last()[0] == '\0' && cuda_error_last_result() == CU_OK;
	cuda_error_note("cuMemMap", CU_ERROR_UNKNOWN);
	return NULL;
}

START_TEST(error_last_is_of_the_thread)
{
	pthread_t thread;
	bool was_clean = false;

	ck_assert_int_eq(cuda_error_note("cuMemCreate", CU_ERROR_OUT_OF_MEMORY), -ENOMEM);
	ck_assert_int_eq(pthread_create(&thread, NULL, error_note_elsewhere, &was_clean), 0);
	pthread_join(thread, NULL);
	ck_assert(was_clean);
	ck_assert_str_eq(cuda_error_last(), "cuMemCreate: CUDA_ERROR_OUT_OF_MEMORY (2)");
	ck_assert_int_eq(cuda_error_refuse(-EINVAL, "too odd"), -EINVAL);
	ck_assert_str_eq(cuda_error_last(), "too odd");
	ck_assert_int_eq((int)cuda_error_last_result(), CU_OK);
}
END_TEST

int main(int argc, char **argv)
{
	static const struct suite_case cases[] = {
		{ &load_says_when_the_library_cannot_be_opened, 0 },
		{ &load_names_the_symbol_that_an_old_driver_lacks, 0 },
		{ &error_knows_every_result, 0 },
		{ &error_tells_what_sticks, 0 },
		{ &error_takes_the_unknown_for_the_worst, 0 },
		{ &error_last_is_of_the_thread, 0 },
		{ NULL, 0 },
	};

	if (argc == 2 && !strcmp(argv[1], "--probe"))
		return probe_main();
	return suite_run("cuda_load", cases);
}
