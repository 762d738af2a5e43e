/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The owner's side of a CUDA device keeps what cuda_owner.h promises, with each of its calls
 * failing once, over the stand-in driver.
 */

#include "tests/unit/cuda_roles.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static uint32_t open_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	uint32_t n = 0;

	ck_assert_ptr_nonnull(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

START_TEST(owner_tells_about_its_device)
{
	const struct cuda_owner_info *info;
	struct cuda_owner *owner;

	fake_set(2, ",numa=0:1");
	ck_assert_int_eq(cuda_owner_open(1, &owner), 0);
	info = cuda_owner_info(owner);
	ck_assert_int_eq(strncmp(info->name, "fakecuda", 8), 0);
	ck_assert_uint_eq(info->total_bytes, DEVICE_BYTES);
	ck_assert_uint_eq(info->granularity_bytes, 2 * MIB);
	ck_assert_int_eq(info->numa_node, 1);
	ck_assert_int_ge(info->driver_version, 12000);
	ck_assert_uint_gt(strlen(info->pci_id), 0);
	cuda_owner_close(owner);
	ck_assert_int_eq(cuda_owner_open(2, &owner), -ENODEV);
	ck_assert_int_eq(cuda_owner_open(UINT32_MAX, &owner), -ENODEV);
}
END_TEST

START_TEST(owner_has_no_context)
{
	struct cuda_owner *owner;
	const struct cuda_api *api;
	cu_context context = NULL;
	uint64_t token;
	int fd;

	fake_set(1, ",fail=cuDevicePrimaryCtxRetain:1+:UNKNOWN,fail=cuCtxSetCurrent:1+:UNKNOWN");
	ck_assert_int_eq(cuda_owner_open(0, &owner), 0);
	ck_assert_int_eq(cuda_owner_create(owner, 1, HANDLE_BYTES, &token, &fd), 0);
	ck_assert_int_eq(cuda_load(&api), 0);
	ck_assert_int_eq(api->ctx_get_current(&context), CU_OK);
	ck_assert_ptr_null(context);
	ck_assert_int_eq(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	close(fd);
	cuda_owner_close(owner);
}
END_TEST

START_TEST(owner_refuses_what_cannot_be)
{
	struct roles r;

	roles_open(&r, "");
	ck_assert_int_eq(cuda_owner_create(r.owner, 0, HANDLE_BYTES, r.tokens, r.fds), -EINVAL);
	ck_assert_int_eq(cuda_owner_create(r.owner, 1, 0, r.tokens, r.fds), -EINVAL);
	ck_assert_int_eq(cuda_owner_create(r.owner, 1, 3 * MIB, r.tokens, r.fds), -EINVAL);
	ck_assert_int_eq(cuda_owner_create(r.owner, CUDA_OWNER_HANDLES_MAX + 1, HANDLE_BYTES,
					   r.tokens, r.fds),
			 -ENOSPC);
	ck_assert_uint_eq(cuda_owner_count(r.owner), 0);
	roles_close(&r);
}
END_TEST

START_TEST(owner_out_of_memory_is_soft)
{
	uint64_t token;
	struct roles r;
	int fd;

	roles_open(&r, "");
	roles_create(&r, HANDLES);
	ck_assert_int_eq(cuda_owner_create(r.owner, 1, HANDLE_BYTES, &token, &fd), -ENOMEM);
	ck_assert(!cuda_error_is_sticky(cuda_error_last_result()));
	ck_assert_str_eq(cuda_error_last(), "cuMemCreate: CUDA_ERROR_OUT_OF_MEMORY (2)");
	roles_drop(&r, HANDLES);
	roles_close(&r);
}
END_TEST

/* One handle that must come, whatever was refused before. */
static void owner_create_succeeds(struct cuda_owner *owner)
{
	uint64_t token;
	int fd;

	ck_assert_int_eq(cuda_owner_create(owner, 1, HANDLE_BYTES, &token, &fd), 0);
	close(fd);
	ck_assert_int_eq(cuda_owner_release(owner, 1, &token), 0);
}

/* Abilities are given up one by one, the last refusal is the caller's to hear. */
START_TEST(owner_gives_up_what_is_refused)
{
	struct cuda_owner *owner;
	uint64_t token;
	int fd;

	fake_set(1, ",fail=cuMemCreate:2:NOT_PERMITTED,fail=cuMemCreate:4:NOT_PERMITTED"
		    ",fail=cuMemCreate:6:NOT_PERMITTED");
	ck_assert_int_eq(cuda_owner_open(0, &owner), 0);
	owner_create_succeeds(owner);
	ck_assert(cuda_owner_has_fabric(owner) && cuda_owner_has_rdma(owner));
	owner_create_succeeds(owner);
	ck_assert(!cuda_owner_has_fabric(owner) && cuda_owner_has_rdma(owner));
	owner_create_succeeds(owner);
	ck_assert(!cuda_owner_has_fabric(owner) && !cuda_owner_has_rdma(owner));
	ck_assert_int_eq(cuda_owner_create(owner, 1, HANDLE_BYTES, &token, &fd), -EPERM);
	owner_create_succeeds(owner);
	cuda_owner_close(owner);
}
END_TEST

START_TEST(owner_keeps_its_belief_when_all_is_refused)
{
	struct cuda_owner *owner;
	uint64_t token;
	int fd;

	fake_set(1, ",fail=cuMemCreate:1:NOT_SUPPORTED,fail=cuMemCreate:2:NOT_SUPPORTED"
		    ",fail=cuMemCreate:3:NOT_SUPPORTED,fail=cuMemCreate:4:OUT_OF_MEMORY");
	ck_assert_int_eq(cuda_owner_open(0, &owner), 0);
	ck_assert_int_eq(cuda_owner_create(owner, 1, HANDLE_BYTES, &token, &fd), -EOPNOTSUPP);
	ck_assert(cuda_owner_has_fabric(owner) && cuda_owner_has_rdma(owner));
	/* A full device has refused no ability. */
	ck_assert_int_eq(cuda_owner_create(owner, 1, HANDLE_BYTES, &token, &fd), -ENOMEM);
	ck_assert(cuda_owner_has_fabric(owner) && cuda_owner_has_rdma(owner));
	owner_create_succeeds(owner);
	cuda_owner_close(owner);
}
END_TEST

static const struct {
	const char *fail;
	bool fabric, rdma;
} owner_abilities[] = {
	{ "", true, true },
	/* Three attributes are asked for before: may it be shared, and where does it sit? */
	{ ",fail=cuDeviceGetAttribute:5:INVALID_VALUE", true, false },
	{ ",fail=cuDeviceGetAttribute:6:INVALID_VALUE", false, true },
	{ ",fail=cuMemGetAllocationGranularity:2:NOT_SUPPORTED", false, false },
};
#define OWNER_ABILITIES ((int)(sizeof(owner_abilities) / sizeof(owner_abilities[0])))

START_TEST(owner_asks_what_the_device_takes)
{
	struct cuda_owner *owner;

	fake_set(1, owner_abilities[_i].fail);
	ck_assert_int_eq(cuda_owner_open(0, &owner), 0);
	ck_assert_int_eq(cuda_owner_has_fabric(owner), owner_abilities[_i].fabric);
	ck_assert_int_eq(cuda_owner_has_rdma(owner), owner_abilities[_i].rdma);
	ck_assert_uint_eq(cuda_owner_info(owner)->granularity_bytes, 2 * MIB);
	owner_create_succeeds(owner);
	cuda_owner_close(owner);
}
END_TEST

START_TEST(owner_tokens_are_never_given_twice)
{
	struct roles r;
	uint64_t late, invented[] = { 0, UINT64_MAX };

	roles_open(&r, "");
	roles_create(&r, 1);
	late = r.tokens[0];
	roles_drop(&r, 1);
	roles_create(&r, 1);
	ck_assert(r.tokens[0] != late);
	ck_assert_int_eq(cuda_owner_release(r.owner, 1, &late), -ENOENT);
	ck_assert_int_eq(cuda_owner_release(r.owner, 2, invented), -ENOENT);
	ck_assert_uint_eq(cuda_owner_count(r.owner), 1);
	roles_drop(&r, 1);
	roles_close(&r);
}
END_TEST

/* A bad token among good ones does not keep the good ones. */
START_TEST(owner_releases_what_it_can)
{
	struct roles r;
	uint64_t mixed[3];

	roles_open(&r, "");
	roles_create(&r, 2);
	mixed[0] = r.tokens[0];
	mixed[1] = r.tokens[0];
	mixed[2] = r.tokens[1];
	ck_assert_int_eq(cuda_owner_release(r.owner, 3, mixed), -ENOENT);
	ck_assert_uint_eq(cuda_owner_count(r.owner), 0);
	close(r.fds[0]);
	close(r.fds[1]);
	roles_close(&r);
}
END_TEST

static void owner_create_fails(const char *fail)
{
	struct roles r;
	uint32_t fds_before;

	roles_open(&r, fail);
	fds_before = open_fds();
	ck_assert_int_eq(cuda_owner_create(r.owner, BATCH, HANDLE_BYTES, r.tokens, r.fds), -ENOMEM);
	ck_assert_uint_eq(cuda_owner_count(r.owner), 0);
	ck_assert_uint_eq(open_fds(), fds_before);
	roles_close(&r);
}

START_TEST(owner_create_is_all_or_nothing_when_create_fails)
{
	owner_create_fails(",fail=cuMemCreate:3:OUT_OF_MEMORY");
}
END_TEST

START_TEST(owner_create_is_all_or_nothing_when_export_fails)
{
	owner_create_fails(",fail=cuMemExportToShareableHandle:3:OUT_OF_MEMORY");
}
END_TEST

START_TEST(owner_forgets_a_handle_whose_release_failed)
{
	struct roles r;

	roles_open(&r, ",fail=cuMemRelease:1:OPERATING_SYSTEM");
	roles_create(&r, 1);
	close(r.fds[0]);
	ck_assert_int_eq(cuda_owner_release(r.owner, 1, r.tokens), -EIO);
	ck_assert_uint_eq(cuda_owner_count(r.owner), 0);
	ck_assert_int_eq(cuda_owner_release(r.owner, 1, r.tokens), -ENOENT);
	cuda_client_close(r.client);
	cuda_owner_close(r.owner);
}
END_TEST

static const char *const info_calls[] = {
	"cuDeviceGetName",
	"cuDeviceGetUuid",
	"cuDeviceTotalMem",
	"cuDriverGetVersion",
};
#define INFO_CALLS ((int)(sizeof(info_calls) / sizeof(info_calls[0])))

START_TEST(owner_open_fails_cleanly)
{
	const char *call = info_calls[_i];
	struct cuda_owner *owner;
	char fail[96];

	snprintf(fail, sizeof(fail), ",fail=%s%s:1:NOT_PERMITTED", call,
		 strstr(call, "Uuid") || strstr(call, "TotalMem") ? "_v2" : "");
	fake_set(1, fail);
	ck_assert_int_eq(cuda_owner_open(0, &owner), -EPERM);
	ck_assert_ptr_nonnull(strstr(cuda_error_last(), call));
	ck_assert_int_eq(cuda_owner_open(0, &owner), 0);
	ck_assert_ptr_null(cuda_owner_close(owner));
}
END_TEST

/* Where a device sits is good to know, and no reason to refuse it. */
START_TEST(owner_opens_without_a_place)
{
	const struct cuda_owner_info *info;
	struct cuda_owner *owner;

	/* The attributes before it are those that say whether memory can be shared. */
	fake_set(1, ",numa=1,fail=cuDeviceGetPCIBusId:1:UNKNOWN"
		    ",fail=cuDeviceGetAttribute:3:INVALID_VALUE");
	ck_assert_int_eq(cuda_owner_open(0, &owner), 0);
	info = cuda_owner_info(owner);
	ck_assert_str_eq(info->pci_id, "");
	ck_assert_int_eq(info->numa_node, CUDA_NUMA_UNKNOWN);
	cuda_owner_close(owner);
}
END_TEST

/* A driver that does not tell is taken for one that lets all processes in. */
START_TEST(owner_knows_the_compute_mode)
{
	static const struct {
		const char *settings;
		int mode;
	} modes[] = {
		{ "", CU_COMPUTE_DEFAULT },
		{ ",mode=2", CU_COMPUTE_PROHIBITED },
		{ ",mode=3", CU_COMPUTE_EXCLUSIVE_PROCESS },
		{ ",mode=3,fail=cuDeviceGetAttribute:4:INVALID_VALUE", CU_COMPUTE_DEFAULT },
	};
	struct cuda_owner *owner;

	fake_set(1, modes[_i].settings);
	ck_assert_int_eq(cuda_owner_open(0, &owner), 0);
	ck_assert_int_eq(cuda_owner_info(owner)->compute_mode, modes[_i].mode);
	cuda_owner_close(owner);
}
END_TEST

int main(void)
{
	static const struct suite_case cases[] = {
		{ &owner_tells_about_its_device, 0 },
		{ &owner_has_no_context, 0 },
		{ &owner_refuses_what_cannot_be, 0 },
		{ &owner_out_of_memory_is_soft, 0 },
		{ &owner_gives_up_what_is_refused, 0 },
		{ &owner_keeps_its_belief_when_all_is_refused, 0 },
		{ &owner_asks_what_the_device_takes, 0, OWNER_ABILITIES },
		{ &owner_tokens_are_never_given_twice, 0 },
		{ &owner_releases_what_it_can, 0 },
		{ &owner_create_is_all_or_nothing_when_create_fails, 0 },
		{ &owner_create_is_all_or_nothing_when_export_fails, 0 },
		{ &owner_forgets_a_handle_whose_release_failed, 0 },
		{ &owner_open_fails_cleanly, 0, INFO_CALLS },
		{ &owner_opens_without_a_place, 0 },
		{ &owner_knows_the_compute_mode, 0, 4 },
		{ NULL, 0 },
	};

	return roles_run("cuda_owner", cases);
}
