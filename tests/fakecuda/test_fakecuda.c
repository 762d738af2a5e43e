/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The stand-in driver, as far as it is not the driver that it stands in for: its settings, the
 * failures it is told to have, what it costs, and that it says so rather than crash at random. What
 * both must answer alike is in tests/gpu/conformance.c.
 *
 * Every case is a process of its own, so each has its own driver with its own settings; the devices
 * of a case are on a pretend machine named after it.
 */

#include "tests/fakecuda/test_process.h"
#include "tests/unit/suite.h"

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- settings ------------------------------------------------------------------------------ */

START_TEST(test_settings)
{
	size_t bytes = 0;
	int value = 0;

	fake_start("settings", "gpus=8,mem=48M,numa=0:0:0:0:1:1:-1:3,version=12020");
	ck_assert_int_eq(cu->device_get_count(&value), CU_OK);
	ck_assert_int_eq(value, 8);
	ck_assert_int_eq(cu->driver_get_version(&value), CU_OK);
	ck_assert_int_eq(value, 12020);
	ck_assert_int_eq(cu->device_total_mem(&bytes, 7), CU_OK);
	ck_assert_uint_eq(bytes, 48u << 20);
	ck_assert_int_eq(cu->device_get_attribute(&value, CU_ATTRIBUTE_HOST_NUMA_ID, 5), CU_OK);
	ck_assert_int_eq(value, 1);
	ck_assert_int_eq(cu->device_get_attribute(&value, CU_ATTRIBUTE_HOST_NUMA_ID, 6), CU_OK);
	ck_assert_int_eq(value, -1);
}
END_TEST

/* In the order of the variable, up to the first word that names no device. */
START_TEST(test_visible_devices)
{
	struct cu_uuid uuid;
	int value = 0;

	setenv("CUDA_VISIBLE_DEVICES", "2,0,9,1", 1);
	fake_start("visible", "gpus=4,mem=48M,numa=0:1:2:3,mode=3");
	ck_assert_int_eq(cu->device_get_count(&value), CU_OK);
	ck_assert_int_eq(value, 2);
	ck_assert_int_eq(cu->device_get(&value, 2), CU_ERROR_INVALID_DEVICE);
	ck_assert_int_eq(cu->device_get_uuid(&uuid, 0), CU_OK);
	ck_assert_int_eq(uuid.bytes[12], 2);
	ck_assert_int_eq(cu->device_get_uuid(&uuid, 1), CU_OK);
	ck_assert_int_eq(uuid.bytes[12], 0);
	ck_assert_int_eq(cu->device_get_attribute(&value, CU_ATTRIBUTE_HOST_NUMA_ID, 0), CU_OK);
	ck_assert_int_eq(value, 2);
	ck_assert_int_eq(cu->device_get_attribute(&value, CU_ATTRIBUTE_COMPUTE_MODE, 1), CU_OK);
	ck_assert_int_eq(value, 3);
}
END_TEST

START_TEST(test_no_visible_device)
{
	setenv("CUDA_VISIBLE_DEVICES", "GPU-00000000-0000-0000-0000-000000000000", 1);
	fake_load("invisible", "gpus=4");
	ck_assert_int_eq(cu->init(0), CU_ERROR_NO_DEVICE);
}
END_TEST

START_TEST(test_no_device)
{
	fake_load("none", "gpus=0");
	ck_assert_int_eq(cu->init(0), CU_ERROR_NO_DEVICE);
}
END_TEST

static bool wrong_settings(const char *settings)
{
	char path[] = "/tmp/kvb-fakecuda-XXXXXX";
	char line[256] = "";
	int fd = mkstemp(path);

	unlink(path);
	dup2(fd, STDERR_FILENO);
	fake_load("wrong", settings);
	return cu->init(0) == CU_ERROR_SYSTEM_NOT_READY &&
	       cu->driver_get_version(&(int){ 0 }) == CU_ERROR_SYSTEM_NOT_READY &&
	       pread(fd, line, sizeof(line) - 1, 0) > 0 &&
	       strstr(line, "fakecuda: FAKECUDA: ") == line;
}

static const char *const settings_wrong[] = {
	"gpus=17",
	"gpus=",
	"gpus=2x",
	"mem=16",
	"mem=3M",
	"mem=16T",
	"mem=99999G",
	"gpus=2,numa=0:1:0",
	"numa=a",
	"numa=0:",
	"lat=cuMemCreate",
	"lat=cuMemCreate:15",
	"lat=cuMemCreat:15us",
	"lat=cuMemCreate:4000s",
	"fail=cuMemCreate:OUT_OF_MEMORY",
	"fail=cuMemCreate:0:OUT_OF_MEMORY",
	"fail=cuMemCreate:1:OUT_OF_MEMORIES",
	"fail=cuMemCreat:1:OUT_OF_MEMORY",
	"fail=cuMemCreate@99:1:OUT_OF_MEMORY",
	"dir=relative",
	"node=a/b",
	"version=x",
	"mode=4",
	"mode=13",
	"gpu=1",
	"gpus",
	"gpus=1,,mem=2M",
	"up=25",
	"up=0G",
	"up=G",
	"up=2000G",
	"down=25T",
	"down=1GB",
	"lat=cuEventQuerry:1us",
	"fail=cuMemcpyBatch:1:UNKNOWN",
};

/* One that cannot be read is not guessed at: a line tells which, and no call works. */
START_TEST(test_settings_wrong)
{
	for (uint32_t i = 0; i < sizeof(settings_wrong) / sizeof(settings_wrong[0]); i++) {
		int status = child_run(wrong_settings, settings_wrong[i]);

		ck_assert_msg(status == 0, "'%s' was taken", settings_wrong[i]);
	}
}
END_TEST

/* ---- failures ------------------------------------------------------------------------------ */

START_TEST(test_fail_once)
{
	cu_handle handle;

	fake_start("once", "mem=64M,fail=cuMemCreate:2:OUT_OF_MEMORY,fail=cuMemRelease:1:UNKNOWN");
	ck_assert_int_eq(fake_create(0, PIECE, &handle), CU_OK);
	ck_assert_int_eq(cu->mem_release(handle), CU_ERROR_UNKNOWN);
	ck_assert_int_eq(cu->mem_release(handle), CU_OK);
	ck_assert_int_eq(fake_create(0, PIECE, &handle), CU_ERROR_OUT_OF_MEMORY);
	ck_assert_int_eq(fake_create(0, PIECE, &handle), CU_OK);
	ck_assert_int_eq(cu->mem_release(handle), CU_OK);
}
END_TEST

START_TEST(test_fail_onwards)
{
	cu_handle handle;

	fake_start("onwards", "gpus=2,mem=64M,fail=cuMemCreate@1:2+:OUT_OF_MEMORY");
	for (uint32_t i = 0; i < 4; i++) {
		ck_assert_int_eq(fake_create(0, PIECE, &handle), CU_OK);
		ck_assert_int_eq(cu->mem_release(handle), CU_OK);
	}
	ck_assert_int_eq(fake_create(1, PIECE, &handle), CU_OK);
	ck_assert_int_eq(cu->mem_release(handle), CU_OK);
	for (uint32_t i = 0; i < 4; i++)
		ck_assert_int_eq(fake_create(1, PIECE, &handle), CU_ERROR_OUT_OF_MEMORY);
}
END_TEST

/* Each call in turn, which is also how a sweep over all calls of a program works. */
START_TEST(test_fail_any)
{
	int count;

	fake_load("any", "fail=*:2:NOT_PERMITTED");
	ck_assert_int_eq(cu->init(0), CU_OK);
	ck_assert_int_eq(cu->device_get_count(&count), CU_ERROR_NOT_PERMITTED);
	ck_assert_int_eq(cu->device_get_count(&count), CU_OK);
}
END_TEST

/* After some errors a process can do nothing more; others still can. */
START_TEST(test_fail_sticks)
{
	cu_context context;
	uint64_t word = 0;

	fake_start("sticks", "mem=64M,fail=cuMemcpyDtoH_v2:1:ILLEGAL_ADDRESS");
	ck_assert_int_eq(cu->primary_ctx_retain(&context, 0), CU_OK);
	ck_assert_int_eq(cu->ctx_set_current(context), CU_OK);
	ck_assert_int_eq(cu->memcpy_dtoh(&word, PIECE, sizeof(word)), CU_ERROR_ILLEGAL_ADDRESS);
	ck_assert_int_eq(cu->ctx_synchronize(), CU_ERROR_ILLEGAL_ADDRESS);
	ck_assert_int_eq(fake_create(0, PIECE, &(cu_handle){ 0 }), CU_ERROR_ILLEGAL_ADDRESS);
}
END_TEST

static bool device_is_lost(const char *settings)
{
	cu_handle handle;

	fake_start("lost", settings);
	return fake_create(1, PIECE, &handle) == CU_ERROR_UNKNOWN &&
	       fake_create(0, PIECE, &handle) == CU_OK && cu->mem_release(handle) == CU_OK;
}

static bool device_works(const char *settings)
{
	cu_handle handle;

	fake_start("lost", settings);
	return fake_create(1, PIECE, &handle) == CU_OK && cu->mem_release(handle) == CU_OK;
}

/* Loses a device while another process waits to see it. */
static bool device_lose(const char *settings)
{
	int pipes[2], status = -1;
	char byte = 0;
	pid_t other;
	bool lost;

	if (pipe(pipes) < 0)
		return false;
	other = fork();
	if (other == 0) {
		lost = read(pipes[0], &byte, 1) == 1 && device_is_lost("gpus=2,mem=64M");
		exit(lost ? 0 : 1);
	}
	lost = device_is_lost(settings);
	return lost && write(pipes[1], &byte, 1) == 1 && waitpid(other, &status, 0) == other &&
	       status == 0;
}

/* A lost device is lost to all that use it, and back when none does. */
START_TEST(test_device_lost)
{
	ck_assert_int_eq(child_run(device_lose, "gpus=2,mem=64M,fail=cuMemCreate@1:1:DEVICE_LOST"),
			 0);
	ck_assert_int_eq(child_run(device_works, "gpus=2,mem=64M"), 0);
}
END_TEST

static bool release_twice(const char *settings)
{
	cu_handle handle;

	close(STDERR_FILENO);
	signal(SIGABRT, SIG_DFL); /* not a sanitizer's */
	fake_start("twice", settings);
	return fake_create(0, PIECE, &handle) == CU_OK && cu->mem_release(handle) == CU_OK &&
	       cu->mem_release(handle) == CU_OK;
}

/* The real driver crashes at random; this one at once, and says why. */
START_TEST(test_release_twice)
{
	int status = child_run(release_twice, "mem=64M");

	ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
	fake_start("twice", "mem=64M"); /* takes along what it left */
}
END_TEST

/* ---- what it costs, what it leaves ---------------------------------------------------------- */

START_TEST(test_latency)
{
	uint64_t start;

	fake_start("latency", "mem=64M,lat=*:0us,lat=cuDeviceGetCount:20ms");
	start = now_us();
	ck_assert_int_eq(cu->device_get_count(&(int){ 0 }), CU_OK);
	ck_assert_uint_ge(now_us() - start, 20000);
}
END_TEST

/* Access costs by handle, also in one call: as measured. */
START_TEST(test_latency_by_piece)
{
	struct cu_access_desc desc = { .location = { .type = CU_LOCATION_DEVICE },
				       .flags = CU_ACCESS_READ_WRITE };
	cu_handle handle;
	cu_address at;
	uint64_t start;

	fake_start("piece", "mem=64M,lat=cuMemSetAccess:5ms");
	ck_assert_int_eq(fake_create(0, PIECE, &handle), CU_OK);
	ck_assert_int_eq(cu->mem_address_reserve(&at, 4 * PIECE, 0, 0, 0), CU_OK);
	for (uint32_t i = 0; i < 4; i++)
		ck_assert_int_eq(cu->mem_map(at + i * PIECE, PIECE, 0, handle, 0), CU_OK);
	start = now_us();
	ck_assert_int_eq(cu->mem_set_access(at, 4 * PIECE, &desc, 1), CU_OK);
	ck_assert_uint_ge(now_us() - start, 20000);
	ck_assert_int_eq(cu->mem_unmap(at, 4 * PIECE), CU_OK);
	ck_assert_int_eq(cu->mem_release(handle), CU_OK);
}
END_TEST

static bool touch_mapped(const char *settings)
{
	cu_handle handle;
	cu_address at;

	fake_start("faults", settings);
	if (fake_create(0, PIECE, &handle) || cu->mem_address_reserve(&at, PIECE, 0, 0, 0) ||
	    cu->mem_map(at, PIECE, 0, handle, 0))
		return false;
	signal(SIGSEGV, SIG_DFL); /* not a sanitizer's */
	*(volatile char *)(uintptr_t)at = 1;
	return true;
}

/*
 * What is mapped but not accessible is not there, for the CPU either. Who dies of it leaves no
 * piece of the device behind.
 */
START_TEST(test_access_faults)
{
	int status = child_run(touch_mapped, "mem=64M");
	cu_handle handle;

	ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
	fake_start("faults", "mem=64M");
	ck_assert_int_eq(fake_create(0, 64 << 20, &handle), CU_OK);
	ck_assert_int_eq(cu->mem_release(handle), CU_OK);
}
END_TEST

static bool leaves_maps(const char *settings)
{
	cu_handle handle;
	cu_address at;

	fake_start("lost", settings);
	return fake_create(1, PIECE, &handle) == CU_OK &&
	       cu->mem_address_reserve(&at, PIECE, 0, 0, 0) == CU_OK &&
	       cu->mem_map(at, PIECE, 0, handle, 0) == CU_OK &&
	       fake_create(1, PIECE, &handle) == CU_OK;
}

static bool node_has_file(const char *node, int ordinal, uint64_t bytes)
{
	char name[64], path[128];

	fake_node(name, sizeof(name), node);
	snprintf(path, sizeof(path), "/dev/shm/fakecuda-%s-%d-%llu", name, ordinal,
		 (unsigned long long)bytes);
	return access(path, F_OK) == 0;
}

/* The last to leave takes the files along, and all that it still had. */
START_TEST(test_leaves_nothing)
{
	ck_assert_int_eq(child_run(device_works, "gpus=2,mem=66M"), 0);
	ck_assert(!node_has_file("lost", 0, 66 << 20) && !node_has_file("lost", 1, 66 << 20));
	ck_assert_int_eq(child_run(leaves_maps, "gpus=2,mem=66M"), 0);
	ck_assert(!node_has_file("lost", 0, 66 << 20) && !node_has_file("lost", 1, 66 << 20));
}
END_TEST

static bool device_lose_and_die(const char *settings)
{
	cu_handle handle;

	fake_start("lost", settings);
	if (fake_create(1, PIECE, &handle) != CU_OK || cu->mem_release(handle) != CU_ERROR_UNKNOWN)
		return false;
	kill(getpid(), SIGKILL);
	return false;
}

/* A lost device is back when all that used it were killed, too. */
START_TEST(test_lost_and_killed)
{
	int status =
		child_run(device_lose_and_die, "gpus=2,mem=62M,fail=cuMemRelease@1:1:DEVICE_LOST");

	ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	ck_assert(node_has_file("lost", 1, 62 << 20));
	ck_assert_int_eq(child_run(device_works, "gpus=2,mem=62M"), 0);
}
END_TEST

/* An fd holds the memory, and the room, after its handle is gone; then the room is back. */
START_TEST(test_fd_holds_room)
{
	cu_handle handle, other;
	int fd = -1;

	fake_start("room", "mem=4M");
	ck_assert_int_eq(fake_create(0, 2 * PIECE, &handle), CU_OK);
	ck_assert_int_eq(cu->mem_export(&fd, handle, CU_HANDLE_POSIX_FD, 0), CU_OK);
	ck_assert_int_eq(cu->mem_release(handle), CU_OK);
	ck_assert_int_eq(fake_create(0, PIECE, &other), CU_ERROR_OUT_OF_MEMORY);
	close(fd);
	ck_assert_int_eq(fake_create(0, PIECE, &other), CU_OK);
	ck_assert_int_eq(cu->mem_release(other), CU_OK);
}
END_TEST

/* Holes of the wrong sizes do not make a device full. */
START_TEST(test_does_not_fragment)
{
	cu_handle handles[16], big;

	fake_start("fragment", "mem=32M,lat=*:0us");
	for (uint32_t i = 0; i < 16; i++)
		ck_assert_int_eq(fake_create(0, PIECE, &handles[i]), CU_OK);
	for (uint32_t i = 0; i < 16; i += 2)
		ck_assert_int_eq(cu->mem_release(handles[i]), CU_OK);
	ck_assert_int_eq(fake_create(0, 8 * PIECE, &big), CU_OK);
	ck_assert_int_eq(cu->mem_release(big), CU_OK);
	for (uint32_t i = 1; i < 16; i += 2)
		ck_assert_int_eq(cu->mem_release(handles[i]), CU_OK);
}
END_TEST

int main(void)
{
	static const struct suite_case cases[] = {
		{ &test_settings, 0 },
		{ &test_visible_devices, 0 },
		{ &test_no_visible_device, 0 },
		{ &test_no_device, 0 },
		{ &test_settings_wrong, 20 },
		{ &test_fail_once, 0 },
		{ &test_fail_onwards, 0 },
		{ &test_fail_any, 0 },
		{ &test_fail_sticks, 0 },
		{ &test_device_lost, 20 },
		{ &test_release_twice, 0 },
		{ &test_latency, 0 },
		{ &test_latency_by_piece, 0 },
		{ &test_access_faults, 0 },
		{ &test_leaves_nothing, 0 },
		{ &test_fd_holds_room, 0 },
		{ &test_does_not_fragment, 0 },
		{ &test_lost_and_killed, 0 },
		{ NULL, 0 },
	};

	return suite_run("fakecuda", cases);
}
