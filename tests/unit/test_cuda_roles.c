/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The two sides of a CUDA device, over the stand-in driver: what they promise in cuda_owner.h and
 * cuda_client.h, with each call of theirs failing once.
 *
 * Every case runs in a process of its own and sets the stand-in up before the driver is loaded: a
 * small device that no other process shares, so that whether memory came back is asked by taking
 * all of it.
 */

#include "tests/unit/suite.h"
#include "cuda_driver/cuda_api.h"
#include "cuda_driver/cuda_client.h"
#include "cuda_driver/cuda_error.h"
#include "cuda_driver/cuda_owner.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (1ull << 20)
#define DEVICE_BYTES (64 * MIB)
#define HANDLE_BYTES (4 * MIB)
#define HANDLES 16u /* of the whole device */
#define BATCH 4u

struct roles {
	const struct cuda_api *api;
	struct cuda_owner *owner;
	struct cuda_client *client;
	uint64_t base; /* of a range as long as the device */
	uint64_t tokens[HANDLES];
	uint64_t addresses[HANDLES]; /* adjacent, from base */
	int fds[HANDLES];
};

/* Of the stand-in's devices; a case that ends while memory is held leaves its own behind. */
static char fake_dir[] = "/dev/shm/kvb-cuda-roles.XXXXXX";

static void fake_dir_remove(void)
{
	DIR *d = opendir(fake_dir);

	for (struct dirent *e = d ? readdir(d) : NULL; e; e = readdir(d))
		unlinkat(dirfd(d), e->d_name, 0);
	if (d)
		closedir(d);
	rmdir(fake_dir);
}

/* Before the first call to the driver. `more` begins with a comma, or is "". */
static void fake_set(unsigned int gpus, const char *more)
{
	char text[256];

	snprintf(text, sizeof(text), "gpus=%u,mem=64M,lat=*:0us,dir=%s,node=p%d%s", gpus, fake_dir,
		 (int)getpid(), more);
	ck_assert_int_eq(setenv("FAKECUDA", text, 1), 0);
}

static void roles_open(struct roles *r, const char *more)
{
	memset(r, 0, sizeof(*r));
	fake_set(1, more);
	ck_assert_msg(cuda_load(&r->api) == 0, "%s", cuda_load_error());
	ck_assert_int_eq(cuda_owner_open(0, &r->owner), 0);
	ck_assert_int_eq(cuda_client_open(0, &r->client), 0);
	ck_assert_int_eq(cuda_client_reserve(r->client, DEVICE_BYTES, &r->base), 0);
	for (uint32_t i = 0; i < HANDLES; i++)
		r->addresses[i] = r->base + i * HANDLE_BYTES;
}

static void roles_create(struct roles *r, uint32_t n)
{
	ck_assert_int_eq(cuda_owner_create(r->owner, n, HANDLE_BYTES, r->tokens, r->fds), 0);
}

static void roles_drop(struct roles *r, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		close(r->fds[i]);
	ck_assert_int_eq(cuda_owner_release(r->owner, n, r->tokens), 0);
}

/* The whole device can be had, so nobody holds any of it. */
static void roles_expect_all_free(struct roles *r)
{
	roles_create(r, HANDLES);
	roles_drop(r, HANDLES);
	ck_assert_uint_eq(cuda_owner_count(r->owner), 0);
}

static void roles_close(struct roles *r)
{
	r->client = cuda_client_close(r->client);
	roles_expect_all_free(r);
	r->owner = cuda_owner_close(r->owner);
	ck_assert_ptr_null(r->client);
	ck_assert_ptr_null(r->owner);
}

static int roles_map(struct roles *r, uint32_t n)
{
	return cuda_client_map(r->client, n, HANDLE_BYTES, r->fds, r->addresses);
}

static uint64_t roles_read(struct roles *r, uint64_t address)
{
	uint64_t word = 0;

	ck_assert_int_eq(cuda_client_copy_from(r->client, &word, address, sizeof(word)), 0);
	return word;
}

static void roles_write(struct roles *r, uint64_t address, uint64_t word)
{
	ck_assert_int_eq(cuda_client_copy_to(r->client, address, &word, sizeof(word)), 0);
}

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
	ck_assert_int_lt(cuda_client_map(r.client, 1, HANDLE_BYTES, &nothing, r.addresses), 0);

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
		{ &owner_tells_about_its_device, 0 },
		{ &owner_has_no_context, 0 },
		{ &owner_refuses_what_cannot_be, 0 },
		{ &owner_out_of_memory_is_soft, 0 },
		{ &owner_tokens_are_never_given_twice, 0 },
		{ &owner_releases_what_it_can, 0 },
		{ &owner_create_is_all_or_nothing_when_create_fails, 0 },
		{ &owner_create_is_all_or_nothing_when_export_fails, 0 },
		{ &owner_forgets_a_handle_whose_release_failed, 0 },
		{ &contents_outlive_owner_and_mapping, 0 },
		{ &memory_created_again_reads_zero, 0 },
		{ &client_needs_no_fd_after_map, 0 },
		{ &client_refuses_what_cannot_be, 0 },
		{ &client_map_is_all_or_nothing_when_import_fails, 0, BATCH },
		{ &client_map_is_all_or_nothing_when_map_fails, 0, BATCH },
		{ &client_map_is_all_or_nothing_when_access_fails, 0 },
		{ &client_asks_for_access_once_a_run, 0 },
		{ &client_unmap_that_failed_can_be_tried_again, 0 },
		{ &client_leaves_the_thread_as_it_was, 0 },
		{ &client_uses_the_context_of_the_engine, 0 },
		{ &client_survives_an_error_that_sticks, 0 },
		{ &client_open_fails_cleanly, 0, OPEN_CALLS },
		{ &owner_open_fails_cleanly, 0, INFO_CALLS },
		{ &owner_opens_without_a_place, 0 },
		{ &client_ranges_fail_cleanly, 0 },
		{ &client_copy_fails_cleanly, 0, COPY_CALLS },
		{ NULL, 0 },
	};
	int status;

	if (!mkdtemp(fake_dir)) {
		perror(fake_dir);
		return EXIT_FAILURE;
	}
	status = suite_run("cuda_roles", cases);
	fake_dir_remove();
	return status;
}
