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
#include "cuda_driver/gpu.h"
#include "cuda_driver/gpu_mover.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TEXT_BYTES 512

struct probe {
	int load, again, owner, client, streams, mover;
	char why[TEXT_BYTES];         /* cuda_load_error() */
	char streams_why[TEXT_BYTES]; /* cuda_load_streams_error() */
	char mover_why[TEXT_BYTES];
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
	ck_assert_int_eq(fscanf(f, "%d %d %d %d %d %d", &p.load, &p.again, &p.owner, &p.client,
				&p.streams, &p.mover),
			 6);
	ck_assert_int_eq(fgetc(f), '\n'); /* a space in the format would take empty lines too */
	ck_assert_ptr_nonnull(fgets(p.why, sizeof(p.why), f));
	ck_assert_ptr_nonnull(fgets(p.streams_why, sizeof(p.streams_why), f));
	ck_assert_ptr_nonnull(fgets(p.mover_why, sizeof(p.mover_why), f));
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
	const struct cuda_stream_api *streams;
	struct gpu_mover *mover;
	char why[TEXT_BYTES] = "";
	int load = cuda_load(&api);

	printf("%d %d %d %d %d %d\n", load, cuda_load(&api), cuda_owner_open(0, &owner),
	       cuda_client_open(0, &client), cuda_load_streams(&streams),
	       gpu_mover_open(GPU_KIND_CUDA, 0, &mover, why, sizeof(why)));
	printf("%s\n%s\n%s\n", cuda_load_error(), cuda_load_streams_error(), why);
	return 0;
}

START_TEST(load_says_when_the_library_cannot_be_opened)
{
	struct probe p = probe_run(NULL);

	ck_assert_int_eq(p.load, -ENOENT);
	ck_assert_int_eq(p.again, -ENOENT);
	ck_assert_int_eq(p.owner, -ENOENT);
	ck_assert_int_eq(p.client, -ENOENT);
	ck_assert_int_eq(p.streams, -ENOENT);
	ck_assert_int_eq(p.mover, -ENOENT);
	ck_assert_msg(strstr(p.why, CU_LIBRARY) != NULL, "names no library: %s", p.why);
	ck_assert_str_eq(p.streams_why, p.why);
	ck_assert_str_eq(p.mover_why, p.why);
}
END_TEST

START_TEST(load_names_the_symbol_that_an_old_driver_lacks)
{
	struct probe p = probe_run(OLD_DRIVER);

	ck_assert_int_eq(p.load, -ENOSYS);
	ck_assert_int_eq(p.again, -ENOSYS);
	ck_assert_int_eq(p.owner, -ENOSYS);
	ck_assert_int_eq(p.client, -ENOSYS);
	ck_assert_int_eq(p.streams, -ENOSYS);
	ck_assert_int_eq(p.mover, -ENOSYS);
	ck_assert_msg(strstr(p.why, "cuGetErrorName") != NULL, "names no symbol: %s", p.why);
	ck_assert_str_eq(p.mover_why, p.why);
}
END_TEST

/* Owner and client come to ask the driver, which has no GPU; a mover does not come so far. */
START_TEST(load_of_memory_does_without_streams)
{
	struct probe p = probe_run(STREAMLESS_DRIVER);

	ck_assert_int_eq(p.load, 0);
	ck_assert_int_eq(p.again, 0);
	ck_assert_int_eq(p.owner, -ENODEV);
	ck_assert_int_eq(p.client, -ENODEV);
	ck_assert_int_eq(p.streams, -ENOSYS);
	ck_assert_int_eq(p.mover, -ENOSYS);
	ck_assert_str_eq(p.why, "\n");
	ck_assert_msg(strstr(p.streams_why, "cuDevicePrimaryCtxSetFlags_v2") != NULL,
		      "names no symbol: %s", p.streams_why);
	ck_assert_str_eq(p.mover_why, p.streams_why);
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
		{ &load_of_memory_does_without_streams, 0 },
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
