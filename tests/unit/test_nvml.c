/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What is used of a GPU, over a stand-in of the management library: the figures as they are told,
 * and every way in which it does not tell.
 */

#include "cuda_driver/nvml.h"
#include "tests/unit/suite.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct cu_uuid uuid = { { 1, 2, 3, (char)0xfe } };

/* What the library is to tell from now on. */
static void tell(const char *line)
{
	static char path[64];
	FILE *f;

	if (!path[0]) {
		int fd;

		snprintf(path, sizeof(path), "/tmp/kvb-nvml-XXXXXX");
		fd = mkstemp(path);
		ck_assert_int_ge(fd, 0);
		close(fd);
		setenv("FAKENVML", path, 1);
	}
	f = fopen(path, "we");
	ck_assert_ptr_nonnull(f);
	fputs(line, f);
	fclose(f);
}

static void forget(void)
{
	unlink(getenv("FAKENVML"));
}

START_TEST(what_is_used_is_told_anew_each_time)
{
	struct nvml_memory memory;
	struct nvml *nvml = NULL;
	char why[96] = "";

	tell("700 300");
	ck_assert_int_eq(nvml_open(&uuid, &nvml, why, sizeof(why)), 0);
	ck_assert_str_eq(why, "");
	ck_assert_int_eq(nvml_read_memory(nvml, &memory, why, sizeof(why)), 0);
	ck_assert_uint_eq(memory.free_bytes, 700ull << 20);
	ck_assert_uint_eq(memory.used_bytes, 300ull << 20);
	tell("1 2");
	ck_assert_int_eq(nvml_read_memory(nvml, &memory, why, sizeof(why)), 0);
	ck_assert_uint_eq(memory.free_bytes, 1ull << 20);
	tell("nothing");
	ck_assert_int_eq(nvml_read_memory(nvml, &memory, why, sizeof(why)), -EIO);
	ck_assert_str_eq(why, "nvmlDeviceGetMemoryInfo: error 999");
	ck_assert_uint_eq(memory.free_bytes, 1ull << 20);
	tell("3 4");
	ck_assert_int_eq(nvml_read_memory(nvml, &memory, why, sizeof(why)), 0);
	ck_assert_uint_eq(memory.used_bytes, 4ull << 20);
	ck_assert_ptr_null(nvml_close(nvml));
	forget();
}
END_TEST

START_TEST(what_does_not_tell_says_why)
{
	struct nvml *nvml = NULL;
	char why[96] = "";

	tell("deaf");
	ck_assert_int_eq(nvml_open(&uuid, &nvml, why, sizeof(why)), -EIO);
	ck_assert_str_eq(why, "nvmlInit: error 999");
	tell("blind");
	ck_assert_int_eq(nvml_open(&uuid, &nvml, why, sizeof(why)), -ENODEV);
	ck_assert_str_eq(why, "nvmlDeviceGetHandleByUUID: error 999 of "
			      "GPU-010203fe-0000-0000-0000-000000000000");
	ck_assert_ptr_null(nvml);
	/* the next one finds it well */
	tell("1 1");
	ck_assert_int_eq(nvml_open(&uuid, &nvml, why, sizeof(why)), 0);
	nvml_close(nvml);
	forget();
}
END_TEST

START_TEST(fault_086_an_old_library_is_refused_by_name)
{
	struct nvml *nvml = NULL;
	char why[96] = "";

	ck_assert_int_eq(nvml_open(&uuid, &nvml, why, sizeof(why)), -ENOSYS);
	ck_assert_str_eq(
		why, "libnvidia-ml.so.1 has no nvmlDeviceGetMemoryInfo_v2: the driver is too old");
	ck_assert_ptr_null(nvml);
}
END_TEST

/* With an argument: over the library of an old driver. */
int main(int argc, char **argv)
{
	static const struct suite_case old[] = {
		{ &fault_086_an_old_library_is_refused_by_name },
		{ NULL },
	};
	static const struct suite_case cases[] = {
		{ &what_is_used_is_told_anew_each_time },
		{ &what_does_not_tell_says_why },
		{ NULL },
	};

	return suite_run("nvml", argc > 1 ? old : cases);
}
