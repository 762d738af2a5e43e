/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The client's side of a CUDA device keeps what cuda_client.h promises, with each of its calls
 * failing once, over the stand-in driver; and memory goes through the hands of several processes.
 */

#include "tests/unit/cuda_roles.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static void send_fds(int socket, const int *fds, uint32_t n)
{
	union {
		char bytes[CMSG_SPACE(BATCH * sizeof(int))];
		struct cmsghdr align;
	} control = { .bytes = { 0 } };
	char byte = 0;
	struct iovec iov = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = control.bytes,
			      .msg_controllen = CMSG_SPACE(n * sizeof(int)) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(n * sizeof(int));
	memcpy(CMSG_DATA(c), fds, n * sizeof(int));
	if (sendmsg(socket, &msg, 0) != 1)
		_exit(1);
}

static void receive_fds(int socket, int *ret_fds, uint32_t n)
{
	union {
		char bytes[CMSG_SPACE(BATCH * sizeof(int))];
		struct cmsghdr align;
	} control;
	char byte;
	struct iovec iov = { .iov_base = &byte, .iov_len = 1 };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = control.bytes,
			      .msg_controllen = sizeof(control.bytes) };

	ck_assert_int_eq(recvmsg(socket, &msg, MSG_CMSG_CLOEXEC), 1);
	ck_assert_ptr_nonnull(CMSG_FIRSTHDR(&msg));
	ck_assert_uint_eq(CMSG_FIRSTHDR(&msg)->cmsg_len, CMSG_LEN(n * sizeof(int)));
	memcpy(ret_fds, CMSG_DATA(CMSG_FIRSTHDR(&msg)), n * sizeof(int));
}

/* Of an owner that dies at once, its handles never released: what is left are the fds. */
static void dead_owner_main(int socket)
{
	struct cuda_owner *owner;
	uint64_t tokens[BATCH];
	int fds[BATCH];

	if (cuda_owner_open(0, &owner) ||
	    cuda_owner_create(owner, BATCH, HANDLE_BYTES, tokens, fds))
		_exit(1);
	send_fds(socket, fds, BATCH);
	kill(getpid(), SIGKILL);
}

/* The owner is killed; a client writes, goes, and the next client reads. */
START_TEST(contents_outlive_owner_and_mapping)
{
	struct roles r;
	int sockets[2], status;
	pid_t pid;

	fake_set(1, "");
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets), 0);
	pid = fork();
	if (pid == 0)
		dead_owner_main(sockets[1]);
	roles_open(&r, "");
	receive_fds(sockets[0], r.fds, BATCH);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFSIGNALED(status));

	ck_assert_int_eq(roles_map(&r, BATCH), 0);
	for (uint32_t i = 0; i < BATCH; i++) {
		ck_assert_uint_eq(roles_read(&r, r.addresses[i]), 0);
		roles_write(&r, r.addresses[i] + HANDLE_BYTES - 8, 1000 + i);
	}
	r.client = cuda_client_close(r.client);
	ck_assert_int_eq(cuda_client_open(0, &r.client), 0);
	ck_assert_int_eq(cuda_client_reserve(r.client, DEVICE_BYTES, &r.base), 0);
	for (uint32_t i = 0; i < BATCH; i++)
		r.addresses[i] = r.base + i * HANDLE_BYTES;
	ck_assert_int_eq(roles_map(&r, BATCH), 0);
	for (uint32_t i = 0; i < BATCH; i++) {
		ck_assert_uint_eq(roles_read(&r, r.addresses[i] + HANDLE_BYTES - 8), 1000 + i);
		close(r.fds[i]);
	}
	roles_close(&r);
}
END_TEST

START_TEST(memory_created_again_reads_zero)
{
	struct roles r;

	roles_open(&r, "");
	roles_create(&r, HANDLES);
	ck_assert_int_eq(roles_map(&r, HANDLES), 0);
	for (uint32_t i = 0; i < HANDLES; i++)
		roles_write(&r, r.addresses[i] + 8, UINT64_MAX);
	ck_assert_int_eq(cuda_client_unmap(r.client, r.base, DEVICE_BYTES), 0);
	roles_drop(&r, HANDLES);
	roles_create(&r, HANDLES);
	ck_assert_int_eq(roles_map(&r, HANDLES), 0);
	for (uint32_t i = 0; i < HANDLES; i++)
		ck_assert_uint_eq(roles_read(&r, r.addresses[i] + 8), 0);
	roles_drop(&r, HANDLES);
	roles_close(&r);
}
END_TEST

START_TEST(client_needs_no_fd_after_map)
{
	struct roles r;

	roles_open(&r, "");
	roles_create(&r, BATCH);
	ck_assert_int_eq(roles_map(&r, BATCH), 0);
	roles_drop(&r, BATCH);
	roles_write(&r, r.addresses[2], 42);
	ck_assert_uint_eq(roles_read(&r, r.addresses[2]), 42);
	ck_assert_int_eq(cuda_client_unreserve(r.client, r.base), 0);
	roles_close(&r);
}
END_TEST

START_TEST(client_refuses_what_cannot_be)
{
	struct roles r;
	uint64_t address;
	int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);

	roles_open(&r, "");
	roles_create(&r, 2);
	ck_assert_int_eq(cuda_client_reserve(r.client, 0, &address), -EINVAL);
	ck_assert_int_eq(cuda_client_reserve(r.client, UINT64_MAX, &address), -ENOMEM);
	ck_assert_int_eq(cuda_client_unreserve(r.client, r.base + HANDLE_BYTES), -ENOENT);
	ck_assert_int_eq(cuda_client_map(r.client, 1, 0, r.fds, r.addresses), -EINVAL);

	address = r.base + DEVICE_BYTES - 2 * MIB;
	ck_assert_int_eq(cuda_client_map(r.client, 1, HANDLE_BYTES, r.fds, &address), -EINVAL);
	address = r.base + MIB;
	ck_assert_int_eq(cuda_client_map(r.client, 1, HANDLE_BYTES, r.fds, &address), -EINVAL);
	address = r.base - HANDLE_BYTES;
	ck_assert_int_eq(cuda_client_map(r.client, 1, HANDLE_BYTES, r.fds, &address), -EINVAL);
	ck_assert_int_eq(cuda_client_map(r.client, 1, HANDLE_BYTES, &nothing, r.addresses),
			 -EINVAL);
	ck_assert(!cuda_error_is_sticky(cuda_error_last_result()));
	ck_assert_int_eq(cuda_client_map(r.client, 1, 2 * HANDLE_BYTES, r.fds, r.addresses),
			 -EINVAL);
	ck_assert(!cuda_error_is_sticky(cuda_error_last_result()));

	ck_assert_int_eq(roles_map(&r, 1), 0);
	ck_assert_int_eq(roles_map(&r, 2), -EBUSY);
	address = r.base + 2 * MIB;
	ck_assert_int_eq(cuda_client_map(r.client, 1, HANDLE_BYTES, r.fds + 1, &address), -EBUSY);
	ck_assert_int_eq(cuda_client_unmap(r.client, r.base, 2 * MIB), -EINVAL);
	ck_assert_int_eq(cuda_client_unmap(r.client, r.base + 2 * MIB, 2 * MIB), -EINVAL);
	ck_assert_int_eq(cuda_client_unmap(r.client, r.base + 1, HANDLE_BYTES), -EINVAL);
	ck_assert_int_eq(cuda_client_unmap(r.client, r.base, DEVICE_BYTES + 2 * MIB), -EINVAL);
	roles_write(&r, r.base, 1);
	ck_assert_int_eq(cuda_client_unmap(r.client, r.base, HANDLE_BYTES), 0);
	ck_assert_int_eq(cuda_client_unmap(r.client, r.base, HANDLE_BYTES), 0);
	close(nothing);
	roles_drop(&r, 2);
	roles_close(&r);
}
END_TEST

/* A process that numbers its GPUs otherwise asks by UUID; here the number is what comes out. */
START_TEST(client_finds_a_device_by_its_uuid)
{
	struct cuda_owner *owner;
	struct cuda_client *client;
	const struct cuda_api *api;
	struct cu_uuid uuid;
	cu_context engine, current = NULL;

	fake_set(3, "");
	ck_assert_int_eq(cuda_owner_open(2, &owner), 0);
	uuid = cuda_owner_info(owner)->uuid;
	ck_assert_int_eq(cuda_load(&api), 0);
	ck_assert_int_eq(api->primary_ctx_retain(&engine, 2), CU_OK);
	ck_assert_int_eq(api->ctx_set_current(engine), CU_OK);
	/* Were it another device, the context would not be of it. */
	ck_assert_int_eq(cuda_client_open_uuid(&uuid, &client), 0);
	ck_assert_int_eq(api->ctx_get_current(&current), CU_OK);
	ck_assert_ptr_eq(current, engine);
	ck_assert_ptr_null(cuda_client_close(client));
	uuid.bytes[15] ^= 0x80;
	ck_assert_int_eq(cuda_client_open_uuid(&uuid, &client), -ENODEV);
	ck_assert_ptr_nonnull(strstr(cuda_error_last(), "UUID"));
	ck_assert_int_eq(api->primary_ctx_release(2), CU_OK);
	cuda_owner_close(owner);
}
END_TEST

static const char *const find_calls[] = {
	"cuInit",
	"cuDeviceGetCount",
	"cuDeviceGet",
	"cuDeviceGetUuid",
};
#define FIND_CALLS ((int)(sizeof(find_calls) / sizeof(find_calls[0])))

START_TEST(client_find_fails_cleanly)
{
	const struct cu_uuid uuid = { { 0 } };
	struct cuda_client *client;
	char fail[96];

	snprintf(fail, sizeof(fail), ",fail=%s%s:1:NOT_PERMITTED", find_calls[_i],
		 strstr(find_calls[_i], "Uuid") ? "_v2" : "");
	fake_set(1, fail);
	ck_assert_int_eq(cuda_client_open_uuid(&uuid, &client), -EPERM);
	ck_assert_ptr_nonnull(strstr(cuda_error_last(), find_calls[_i]));
	ck_assert_int_eq(cuda_client_open_uuid(&uuid, &client), -ENODEV);
}
END_TEST

/* Fails the k-th `call` of a batch in two runs; nothing of it stays, and it works the next time. */
static void client_map_fails(const char *call, uint32_t k)
{
	struct roles r;
	char fail[96];

	snprintf(fail, sizeof(fail), ",fail=%s:%u:OUT_OF_MEMORY", call, k);
	roles_open(&r, fail);
	roles_create(&r, BATCH);
	r.addresses[3] = r.base + 8 * HANDLE_BYTES;
	ck_assert_int_eq(roles_map(&r, BATCH), -ENOMEM);
	ck_assert_ptr_nonnull(strstr(cuda_error_last(), call));
	ck_assert_int_eq(roles_map(&r, BATCH), 0);
	for (uint32_t i = 0; i < BATCH; i++)
		roles_write(&r, r.addresses[i], i);
	roles_drop(&r, BATCH);
	roles_close(&r);
}

START_TEST(client_map_is_all_or_nothing_when_import_fails)
{
	client_map_fails("cuMemImportFromShareableHandle", 1 + (uint32_t)_i);
}
END_TEST

START_TEST(client_map_is_all_or_nothing_when_map_fails)
{
	client_map_fails("cuMemMap", 1 + (uint32_t)_i);
}
END_TEST

/* One call a run, so that the second fails and there is no third. */
START_TEST(client_map_is_all_or_nothing_when_access_fails)
{
	client_map_fails("cuMemSetAccess", 2);
}
END_TEST

START_TEST(client_asks_for_access_once_a_run)
{
	struct roles r;

	roles_open(&r, ",fail=cuMemSetAccess:2+:UNKNOWN");
	roles_create(&r, HANDLES);
	ck_assert_int_eq(roles_map(&r, HANDLES), 0);
	roles_drop(&r, HANDLES);
	roles_close(&r);
}
END_TEST

START_TEST(client_unmap_that_failed_can_be_tried_again)
{
	struct roles r;

	roles_open(&r, ",fail=cuMemUnmap:2:OPERATING_SYSTEM");
	roles_create(&r, BATCH);
	ck_assert_int_eq(roles_map(&r, BATCH), 0);
	ck_assert_int_eq(cuda_client_unmap(r.client, r.base, DEVICE_BYTES), -EIO);
	ck_assert_uint_eq(roles_read(&r, r.addresses[1]), 0);
	ck_assert_int_eq(cuda_client_map(r.client, 1, HANDLE_BYTES, r.fds, &r.addresses[1]),
			 -EBUSY);
	ck_assert_int_eq(cuda_client_unmap(r.client, r.base, DEVICE_BYTES), 0);
	roles_drop(&r, BATCH);
	roles_close(&r);
}
END_TEST

START_TEST(client_leaves_the_thread_as_it_was)
{
	struct roles r;
	cu_context context = NULL;

	roles_open(&r, "");
	roles_create(&r, 1);
	ck_assert_int_eq(roles_map(&r, 1), 0);
	roles_write(&r, r.base, 1);
	ck_assert_int_eq(r.api->ctx_get_current(&context), CU_OK);
	ck_assert_ptr_null(context);
	roles_drop(&r, 1);
	roles_close(&r);
}
END_TEST

START_TEST(client_uses_the_context_of_the_engine)
{
	const struct cuda_api *api;
	struct cuda_client *client;
	cu_context engine = NULL, current = NULL;

	fake_set(2, ",fail=cuDevicePrimaryCtxRetain:2+:UNKNOWN");
	ck_assert_int_eq(cuda_load(&api), 0);
	ck_assert_int_eq(api->init(0), CU_OK);
	ck_assert_int_eq(api->primary_ctx_retain(&engine, 1), CU_OK);
	ck_assert_int_eq(api->ctx_set_current(engine), CU_OK);
	ck_assert_int_eq(cuda_client_open(0, &client), -EXDEV);
	ck_assert_int_eq(cuda_client_open(1, &client), 0);
	cuda_client_close(client);
	ck_assert_int_eq(api->ctx_get_current(&current), CU_OK);
	ck_assert_ptr_eq(current, engine);
	ck_assert_int_eq(api->ctx_synchronize(), CU_OK);
	ck_assert_int_eq(api->primary_ctx_release(1), CU_OK);
}
END_TEST

/* A memory error of the device: every later call says so, close still returns. */
START_TEST(client_survives_an_error_that_sticks)
{
	struct roles r;
	uint64_t word = 1;

	roles_open(&r, ",fail=cuMemcpyHtoD_v2:1:ECC_UNCORRECTABLE");
	roles_create(&r, 1);
	ck_assert_int_eq(roles_map(&r, 1), 0);
	ck_assert_int_eq(cuda_client_copy_to(r.client, r.base, &word, sizeof(word)), -EIO);
	ck_assert(cuda_error_is_sticky(cuda_error_last_result()));
	ck_assert_int_eq(cuda_client_copy_from(r.client, &word, r.base, sizeof(word)), -EIO);
	ck_assert_ptr_null(cuda_client_close(r.client));
	close(r.fds[0]);
	cuda_owner_close(r.owner);
}
END_TEST

static const char *const open_calls[] = {
	"cuInit",
	"cuDeviceGet",
	"cuDeviceGetAttribute",
	"cuMemGetAllocationGranularity",
	"cuCtxGetCurrent",
	"cuDevicePrimaryCtxRetain",
};
#define OPEN_CALLS ((int)(sizeof(open_calls) / sizeof(open_calls[0])))

/* Each call of an opening fails once: the error comes through, and nothing is left behind. */
START_TEST(client_open_fails_cleanly)
{
	struct cuda_client *client;
	char fail[96];

	snprintf(fail, sizeof(fail), ",fail=%s:1:NOT_PERMITTED", open_calls[_i]);
	fake_set(1, fail);
	ck_assert_int_eq(cuda_client_open(0, &client), -EPERM);
	ck_assert_ptr_nonnull(strstr(cuda_error_last(), open_calls[_i]));
	ck_assert_int_eq(cuda_client_open(0, &client), 0);
	ck_assert_ptr_null(cuda_client_close(client));
	ck_assert_ptr_null(cuda_client_close(NULL));
	ck_assert_ptr_null(cuda_owner_close(NULL));
}
END_TEST

START_TEST(client_ranges_fail_cleanly)
{
	struct roles r;
	uint64_t address = 0;

	roles_open(&r, ",fail=cuMemAddressReserve:2:OUT_OF_MEMORY"
		       ",fail=cuMemAddressFree:1:OPERATING_SYSTEM");
	roles_create(&r, BATCH);
	ck_assert_int_eq(cuda_client_reserve(r.client, HANDLE_BYTES, &address), -ENOMEM);
	ck_assert_int_eq(cuda_client_reserve(r.client, HANDLE_BYTES, &address), 0);
	ck_assert_int_eq(roles_map(&r, BATCH), 0);
	ck_assert_int_eq(cuda_client_unreserve(r.client, r.base), -EIO);
	ck_assert_int_eq(cuda_client_unreserve(r.client, r.base), -ENOENT);
	ck_assert_int_eq(cuda_client_unreserve(r.client, address), 0);
	roles_drop(&r, BATCH);
	roles_close(&r);
}
END_TEST

static const char *const copy_calls[] = {
	"cuCtxGetCurrent",
	"cuCtxSetCurrent",
	"cuMemcpyHtoD",
	"cuCtxSynchronize",
};
#define COPY_CALLS ((int)(sizeof(copy_calls) / sizeof(copy_calls[0])))

/* Not one that sticks: the same copy works the next time. */
START_TEST(client_copy_fails_cleanly)
{
	const char *call = copy_calls[_i];
	/* Opening and reserving have asked for the context before, mapping does it once more. */
	int k = strstr(call, "GetCurrent") ? 4 : strstr(call, "SetCurrent") ? 5 : 1;
	uint64_t word = 7;
	struct roles r;
	char fail[96];

	snprintf(fail, sizeof(fail), ",fail=%s%s:%d:NOT_READY", call,
		 strstr(call, "Memcpy") ? "_v2" : "", k);
	roles_open(&r, fail);
	roles_create(&r, 1);
	ck_assert_int_eq(roles_map(&r, 1), 0);
	ck_assert_int_eq(cuda_client_copy_to(r.client, r.base, &word, sizeof(word)), -EBUSY);
	ck_assert_ptr_nonnull(strstr(cuda_error_last(), call));
	roles_write(&r, r.base, word);
	ck_assert_uint_eq(roles_read(&r, r.base), word);
	roles_drop(&r, 1);
	roles_close(&r);
}
END_TEST

int main(void)
{
	static const struct suite_case cases[] = {
		{ &contents_outlive_owner_and_mapping, 0 },
		{ &memory_created_again_reads_zero, 0 },
		{ &client_needs_no_fd_after_map, 0 },
		{ &client_refuses_what_cannot_be, 0 },
		{ &client_finds_a_device_by_its_uuid, 0 },
		{ &client_find_fails_cleanly, 0, FIND_CALLS },
		{ &client_map_is_all_or_nothing_when_import_fails, 0, BATCH },
		{ &client_map_is_all_or_nothing_when_map_fails, 0, BATCH },
		{ &client_map_is_all_or_nothing_when_access_fails, 0 },
		{ &client_asks_for_access_once_a_run, 0 },
		{ &client_unmap_that_failed_can_be_tried_again, 0 },
		{ &client_leaves_the_thread_as_it_was, 0 },
		{ &client_uses_the_context_of_the_engine, 0 },
		{ &client_survives_an_error_that_sticks, 0 },
		{ &client_open_fails_cleanly, 0, OPEN_CALLS },
		{ &client_ranges_fail_cleanly, 0 },
		{ &client_copy_fails_cleanly, 0, COPY_CALLS },
		{ NULL, 0 },
	};

	return roles_run("cuda_client", cases);
}
