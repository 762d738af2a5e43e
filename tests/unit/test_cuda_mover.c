/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The mover of a device keeps what gpu_mover.h promises: both back ends in the same cases, the one
 * of GPUs over the stand-in driver, with each of its calls failing once.
 *
 * Memory on the device is seen through the mover alone: what goes up one way comes down another.
 */

#include "tests/unit/cuda_roles.h"

#include "cuda_driver/gpu.h"
#include "cuda_driver/gpu_mover.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define MOVED_BYTES (BATCH * HANDLE_BYTES)
#define PIECES 64u
#define PIECE_BYTES (MOVED_BYTES / PIECES)
#define HOST_BYTES (2 * MOVED_BYTES)
#define WHY_BYTES 256
#define TIMEOUT_S 60 /* a busy machine has little time for the threads of copies */

static const uint32_t kinds[] = { GPU_KIND_HOST, GPU_KIND_CUDA };
#define KINDS ((int)(sizeof(kinds) / sizeof(kinds[0])))

struct moved {
	uint32_t kind;
	struct cuda_owner *owner; /* NULL: host */
	struct gpu_mover *mover;
	uint64_t tokens[HANDLES];
	int fds[HANDLES];
	uint64_t device; /* of the map */
	uint8_t *host;   /* HOST_BYTES, shared and attached */
	char why[WHY_BYTES];
};

/* ---- a device with memory, and its mover --------------------------------------------------- */

static int memfd_of(uint64_t bytes)
{
	int fd = memfd_create("mover-test", MFD_CLOEXEC);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(ftruncate(fd, (off_t)bytes), 0);
	return fd;
}

/* Memory alone: what fails later is of the mover. */
static void moved_prepare(struct moved *m, uint32_t kind)
{
	memset(m, 0, sizeof(*m));
	m->kind = kind;
	if (kind == GPU_KIND_CUDA) {
		ck_assert_int_eq(cuda_owner_open(0, &m->owner), 0);
		ck_assert_int_eq(
			cuda_owner_create(m->owner, BATCH, HANDLE_BYTES, m->tokens, m->fds), 0);
	} else {
		for (uint32_t i = 0; i < BATCH; i++)
			m->fds[i] = memfd_of(HANDLE_BYTES);
	}
	m->host = mmap(NULL, HOST_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne(m->host, MAP_FAILED);
}

static void moved_open(struct moved *m, uint32_t kind, const char *more)
{
	fake_set(1, more);
	moved_prepare(m, kind);
	ck_assert_msg(gpu_mover_open(kind, 0, &m->mover, m->why, WHY_BYTES) == 0, "%s", m->why);
	ck_assert_int_eq(gpu_mover_map(m->mover, BATCH, HANDLE_BYTES, m->fds, &m->device), 0);
	ck_assert_int_eq(gpu_mover_attach(m->mover, m->host, HOST_BYTES), 0);
}

/* The whole device can be had, so nobody holds any of it. */
static void moved_expect_all_free(struct moved *m)
{
	uint32_t n = (uint32_t)(cuda_owner_info(m->owner)->total_bytes / HANDLE_BYTES);

	ck_assert_uint_le(n, HANDLES);
	ck_assert_int_eq(cuda_owner_create(m->owner, n, HANDLE_BYTES, m->tokens, m->fds), 0);
}

static void moved_drop(struct moved *m)
{
	for (uint32_t i = 0; i < BATCH; i++)
		close(m->fds[i]);
	munmap(m->host, HOST_BYTES);
	if (m->owner)
		ck_assert_int_eq(cuda_owner_release(m->owner, BATCH, m->tokens), 0);
}

static void moved_close(struct moved *m)
{
	ck_assert_ptr_null(gpu_mover_close(m->mover));
	moved_drop(m);
	if (m->owner)
		moved_expect_all_free(m);
	cuda_owner_close(m->owner);
}

/* ---- copies -------------------------------------------------------------------------------- */

static int poll_to_end(struct gpu_mover *mover, uint32_t batch)
{
	int error;

	while ((error = gpu_mover_poll(mover, batch)) == -EINPROGRESS)
		nanosleep(&(struct timespec){ .tv_nsec = 100000 }, NULL);
	return error;
}

/* The pieces of the map, whose lengths no handle divides, to or from host memory at `host`. */
static uint32_t pieces_of(const struct moved *m, uint8_t *host, struct gpu_copy *ret)
{
	uint64_t at = 0;
	uint32_t n = 0;

	for (; at < MOVED_BYTES; n++) {
		uint64_t bytes = PIECE_BYTES + (n % 3) * 4096;

		bytes = bytes < MOVED_BYTES - at ? bytes : MOVED_BYTES - at;
		ret[n] = (struct gpu_copy){ .device = m->device + at,
					    .host = host + at,
					    .bytes = bytes };
		at += bytes;
	}
	return n;
}

static void fill(uint8_t *at, uint32_t seed)
{
	uint64_t x = seed * 0x9e3779b97f4a7c15ull + 1;

	for (uint64_t i = 0; i < MOVED_BYTES; i += 512) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		memcpy(at + i, &x, sizeof(x));
	}
}

/* One batch of them all; 0 or what submit or poll said. */
static int move(struct moved *m, enum gpu_direction direction, uint8_t *host)
{
	struct gpu_copy copies[PIECES + 1];
	uint32_t n = pieces_of(m, host, copies), batch = 0;
	int error = gpu_mover_submit(m->mover, direction, n, copies, &batch);

	memset(copies, 0xff, sizeof(copies)); /* they are ours again */
	return error ? error : poll_to_end(m->mover, batch);
}

static void moved_round_trip(struct moved *m, uint32_t seed)
{
	fill(m->host, seed);
	memset(m->host + MOVED_BYTES, 0, MOVED_BYTES);
	ck_assert_int_eq(move(m, GPU_UP, m->host), 0);
	ck_assert_int_eq(move(m, GPU_DOWN, m->host + MOVED_BYTES), 0);
	ck_assert_int_eq(memcmp(m->host, m->host + MOVED_BYTES, MOVED_BYTES), 0);
}

START_TEST(mover_moves_both_ways)
{
	struct moved m;

	moved_open(&m, kinds[_i], "");
	ck_assert(gpu_mover_has_batch(m.mover));
	moved_round_trip(&m, 1);
	moved_round_trip(&m, 2);
	ck_assert(!gpu_mover_is_spoilt(m.mover));
	moved_close(&m);
}
END_TEST

/* 13.0 and 12.8 have two shapes of the batch copy, what was before has none. */
START_TEST(mover_moves_with_any_driver)
{
	static const struct {
		const char *version;
		bool has_batch;
	} drivers[] = {
		{ ",version=13000,fail=cuMemcpyHtoDAsync_v2:1+:INVALID_VALUE", true },
		{ ",version=12080,fail=cuMemcpyDtoHAsync_v2:1+:INVALID_VALUE", true },
		{ ",version=12060", false },
		{ ",version=13000,fail=cuGetProcAddress_v2:1+:NOT_SUPPORTED", false },
		{ ",version=13000,fail=cuGetProcAddress_v2:1:NOT_SUPPORTED", true },
	};
	struct moved m;

	if ((size_t)_i >= sizeof(drivers) / sizeof(drivers[0]))
		ck_abort_msg("fewer drivers than loops");
	moved_open(&m, GPU_KIND_CUDA, drivers[_i].version);
	ck_assert_int_eq(gpu_mover_has_batch(m.mover), drivers[_i].has_batch);
	moved_round_trip(&m, 3);
	moved_close(&m);
}
END_TEST

START_TEST(mover_needs_no_fd_after_map)
{
	struct moved m;

	moved_open(&m, kinds[_i], "");
	for (uint32_t i = 0; i < BATCH; i++) {
		close(m.fds[i]);
		m.fds[i] = open("/dev/null", O_RDONLY | O_CLOEXEC);
	}
	moved_round_trip(&m, 4);
	moved_close(&m);
}
END_TEST

START_TEST(mover_takes_batches_up_to_its_most)
{
	uint32_t batches[GPU_MOVER_BATCHES_MAX], late;
	struct gpu_copy copy;
	struct moved m;

	moved_open(&m, kinds[_i], "");
	fill(m.host, 5);
	for (uint32_t i = 0; i < GPU_MOVER_BATCHES_MAX; i++) {
		copy = (struct gpu_copy){ .device = m.device + i * PIECE_BYTES,
					  .host = m.host + i * PIECE_BYTES,
					  .bytes = PIECE_BYTES };
		ck_assert_int_eq(gpu_mover_submit(m.mover, GPU_UP, 1, &copy, &batches[i]), 0);
	}
	ck_assert_int_eq(gpu_mover_submit(m.mover, GPU_UP, 1, &copy, &late), -EBUSY);
	for (uint32_t i = 0; i < GPU_MOVER_BATCHES_MAX; i++)
		ck_assert_int_eq(poll_to_end(m.mover, batches[i]), 0);
	ck_assert_int_eq(move(&m, GPU_DOWN, m.host + MOVED_BYTES), 0);
	ck_assert_int_eq(memcmp(m.host, m.host + MOVED_BYTES, MOVED_BYTES), 0);
	/* What was forgotten stays so, also when its place is used again. */
	ck_assert_int_eq(gpu_mover_submit(m.mover, GPU_UP, 1, &copy, &late), 0);
	ck_assert_int_eq(gpu_mover_poll(m.mover, batches[0]), -EINVAL);
	ck_assert_int_eq(poll_to_end(m.mover, late), 0);
	ck_assert_int_eq(gpu_mover_poll(m.mover, late), -EINVAL);
	moved_close(&m);
}
END_TEST

START_TEST(mover_refuses_what_cannot_be)
{
	struct gpu_copy copy = { 0 };
	struct moved m;
	uint64_t device;
	uint32_t batch;

	moved_open(&m, kinds[_i], "");
	ck_assert_int_eq(gpu_mover_submit(m.mover, GPU_UP, 0, &copy, &batch), -EINVAL);
	ck_assert_int_eq(gpu_mover_submit(m.mover, GPU_UP, GPU_MOVER_COPIES_MAX + 1, &copy, &batch),
			 -EINVAL);
	ck_assert_int_eq(gpu_mover_submit(m.mover, (enum gpu_direction)2, 1, &copy, &batch),
			 -EINVAL);
	ck_assert_int_eq(gpu_mover_poll(m.mover, 0), -EINVAL);
	ck_assert_int_eq(gpu_mover_poll(m.mover, UINT32_MAX), -EINVAL);

	ck_assert_int_eq(gpu_mover_map(m.mover, 0, HANDLE_BYTES, m.fds, &device), -EINVAL);
	ck_assert_int_eq(gpu_mover_map(m.mover, 1, 0, m.fds, &device), -EINVAL);
	ck_assert_int_eq(gpu_mover_map(m.mover, 4, UINT64_MAX / 4, m.fds, &device), -EINVAL);
	ck_assert_int_eq(gpu_mover_map(m.mover, 1, 3, m.fds, &device), -EINVAL);
	ck_assert_int_eq(gpu_mover_unmap(m.mover, m.device + HANDLE_BYTES), -ENOENT);
	ck_assert_int_eq(gpu_mover_unmap(m.mover, 0), -ENOENT);

	ck_assert_int_eq(gpu_mover_attach(m.mover, NULL, 4096), -EINVAL);
	ck_assert_int_eq(gpu_mover_attach(m.mover, m.host, 0), -EINVAL);
	ck_assert_int_eq(gpu_mover_attach(m.mover, m.host, HOST_BYTES), -EBUSY);
	ck_assert_int_eq(gpu_mover_detach(m.mover, m.host + 4096), -ENOENT);

	ck_assert_int_eq(gpu_mover_unmap(m.mover, m.device), 0);
	ck_assert_int_eq(gpu_mover_unmap(m.mover, m.device), -ENOENT);
	ck_assert_int_eq(gpu_mover_detach(m.mover, m.host), 0);
	ck_assert_int_eq(gpu_mover_detach(m.mover, m.host), -ENOENT);
	ck_assert(!gpu_mover_is_spoilt(m.mover));
	moved_close(&m);
}
END_TEST

/* The last of a map is not what it should be: nothing of it stays, and nothing is spoilt. */
START_TEST(mover_refuses_an_fd_that_is_no_handle)
{
	struct moved m;
	uint64_t device;
	int good;

	moved_open(&m, kinds[_i], "");
	good = m.fds[BATCH - 1];
	m.fds[BATCH - 1] = open("/dev/null", O_RDWR | O_CLOEXEC);
	ck_assert_int_eq(gpu_mover_map(m.mover, BATCH, HANDLE_BYTES, m.fds, &device), -EINVAL);
	close(m.fds[BATCH - 1]);
	m.fds[BATCH - 1] = memfd_of(HANDLE_BYTES / 2);
	ck_assert_int_eq(gpu_mover_map(m.mover, BATCH, HANDLE_BYTES, m.fds, &device), -EINVAL);
	close(m.fds[BATCH - 1]);
	m.fds[BATCH - 1] = good;
	ck_assert_int_eq(gpu_mover_map(m.mover, 1, 2 * HANDLE_BYTES, m.fds, &device), -EINVAL);
	ck_assert(!gpu_mover_is_spoilt(m.mover));
	moved_round_trip(&m, 6);
	ck_assert_int_eq(gpu_mover_map(m.mover, BATCH, HANDLE_BYTES, m.fds, &device), 0);
	ck_assert_uint_ne(device, m.device);
	moved_close(&m);
}
END_TEST

/* Nothing is written after close: slow copies, and host memory that changes hands. */
START_TEST(mover_close_ends_what_is_in_flight)
{
	struct gpu_copy copies[PIECES + 1];
	uint32_t n, batch;
	uint8_t *seen;
	struct moved m;

	moved_open(&m, kinds[_i], ",down=128M");
	fill(m.host, 7);
	ck_assert_int_eq(move(&m, GPU_UP, m.host), 0);
	n = pieces_of(&m, m.host + MOVED_BYTES, copies);
	for (uint32_t i = 0; i + 8 <= n; i += 8)
		ck_assert_int_eq(gpu_mover_submit(m.mover, GPU_DOWN, 8, copies + i, &batch), 0);
	m.mover = gpu_mover_close(m.mover);
	seen = malloc(MOVED_BYTES);
	ck_assert_ptr_nonnull(seen);
	memset(m.host + MOVED_BYTES, 0, MOVED_BYTES);
	memset(seen, 0, MOVED_BYTES);
	nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
	ck_assert_int_eq(memcmp(seen, m.host + MOVED_BYTES, MOVED_BYTES), 0);
	free(seen);
	moved_close(&m);
}
END_TEST

/* submit gives the work away, poll asks and does not wait. */
START_TEST(mover_submit_does_not_wait)
{
	struct timespec before, after;
	struct gpu_copy copies[PIECES + 1];
	uint32_t batch;
	struct moved m;
	double ms;

	moved_open(&m, GPU_KIND_CUDA, ",up=16M");
	clock_gettime(CLOCK_MONOTONIC, &before);
	ck_assert_int_eq(
		gpu_mover_submit(m.mover, GPU_UP, pieces_of(&m, m.host, copies), copies, &batch),
		0);
	ck_assert_int_eq(gpu_mover_poll(m.mover, batch), -EINPROGRESS);
	clock_gettime(CLOCK_MONOTONIC, &after);
	ms = (double)(after.tv_sec - before.tv_sec) * 1e3 +
	     (double)(after.tv_nsec - before.tv_nsec) / 1e6;
	/* 16 MiB take a second; a slow machine has half of it. */
	ck_assert_msg(ms < 500, "%.1f ms", ms);
	ck_assert_int_eq(poll_to_end(m.mover, batch), 0);
	moved_close(&m);
}
END_TEST

START_TEST(mover_open_says_why_not)
{
	struct gpu_mover *mover;
	char why[WHY_BYTES] = "";

	fake_set(1, ",fail=cuDevicePrimaryCtxRetain:1:DEVICE_UNAVAILABLE");
	ck_assert_int_eq(gpu_mover_open(77, 0, &mover, why, WHY_BYTES), -EOPNOTSUPP);
	ck_assert_ptr_nonnull(strstr(why, "77"));
	ck_assert_int_eq(gpu_mover_open(GPU_KIND_CUDA, 1, &mover, why, WHY_BYTES), -ENODEV);
	ck_assert_ptr_nonnull(strstr(why, "cuda:1"));
	ck_assert_int_eq(gpu_mover_open(GPU_KIND_CUDA, 0, &mover, why, WHY_BYTES), -EBUSY);
	ck_assert_ptr_nonnull(strstr(why, "cuDevicePrimaryCtxRetain"));
	ck_assert_int_eq(gpu_mover_open(GPU_KIND_CUDA, 0, &mover, why, WHY_BYTES), 0);
	ck_assert_ptr_null(gpu_mover_close(mover));
	ck_assert_ptr_null(gpu_mover_close(NULL));
}
END_TEST

/* ---- every call fails once ----------------------------------------------------------------- */

static void moved_must(bool *failed, int error, int want)
{
	ck_assert_msg(error == 0 || (error == want && !*failed), "%d: %s", error,
		      cuda_error_last());
	*failed = *failed || error;
}

/* Each step again when it failed: it left nothing behind that is in its way. */
#define MOVED_STEP(failed, want, step)                                                             \
	do {                                                                                       \
		int e_ = (step);                                                                   \
		moved_must(failed, e_, want);                                                      \
		if (e_)                                                                            \
			moved_must(failed, (step), want);                                          \
	} while (0)

/* All that a mover does in its life. True: a call failed in it. */
static bool moved_live(struct moved *m, int want)
{
	bool failed = false;

	MOVED_STEP(&failed, want, gpu_mover_open(GPU_KIND_CUDA, 0, &m->mover, m->why, WHY_BYTES));
	MOVED_STEP(&failed, want, gpu_mover_map(m->mover, BATCH, HANDLE_BYTES, m->fds, &m->device));
	MOVED_STEP(&failed, want, gpu_mover_attach(m->mover, m->host, HOST_BYTES));
	fill(m->host, 8);
	MOVED_STEP(&failed, want, move(m, GPU_UP, m->host));
	MOVED_STEP(&failed, want, move(m, GPU_DOWN, m->host + MOVED_BYTES));
	ck_assert_int_eq(memcmp(m->host, m->host + MOVED_BYTES, MOVED_BYTES), 0);
	MOVED_STEP(&failed, want, gpu_mover_detach(m->mover, m->host));
	MOVED_STEP(&failed, want, gpu_mover_unmap(m->mover, m->device));
	ck_assert(!gpu_mover_is_spoilt(m->mover));
	m->mover = gpu_mover_close(m->mover);
	return failed;
}

/*
 * Every call of such a life, and which of them: the first ones of some are the owner's. What close
 * does has nobody to tell.
 */
static const struct life_call {
	const char *name;
	int version; /* of the driver */
	int first, count;
	bool silent;
} life_calls[] = {
	{ "cuInit", 13000, 2, 1, false },
	{ "cuDeviceGet", 13000, 2, 1, false },
	{ "cuDeviceGetAttribute", 13000, 7, 2, false },
	{ "cuMemGetAllocationGranularity", 13000, 3, 1, false },
	{ "cuDevicePrimaryCtxSetFlags_v2", 13000, 1, 1, false },
	{ "cuDevicePrimaryCtxRetain", 13000, 1, 1, false },
	{ "cuCtxSetCurrent", 13000, 1, 1, false },
	{ "cuStreamCreate", 13000, 1, 4, false },
	{ "cuEventCreate", 13000, 1, 2, false },
	{ "cuEventCreate", 13000, GPU_MOVER_BATCHES_MAX, 1, false },
	{ "cuMemAddressReserve", 13000, 1, 1, false },
	{ "cuMemImportFromShareableHandle", 13000, 1, BATCH, false },
	{ "cuMemMap", 13000, 1, BATCH, false },
	{ "cuMemRelease", 13000, 1, BATCH, false },
	{ "cuMemSetAccess", 13000, 1, 1, false },
	{ "cuMemHostRegister_v2", 13000, 1, 1, false },
	{ "cuMemcpyBatchAsync_v2", 13000, 1, 2, false },
	{ "cuMemcpyBatchAsync", 12080, 1, 2, false },
	{ "cuMemcpyHtoDAsync_v2", 12000, 1, 3, false },
	{ "cuMemcpyDtoHAsync_v2", 12000, PIECES / 2, 1, false },
	{ "cuEventRecord", 13000, 1, 2, false },
	{ "cuEventQuery", 13000, 1, 2, false },
	{ "cuMemHostUnregister", 13000, 1, 1, false },
	{ "cuMemUnmap", 13000, 1, BATCH, false },
	{ "cuMemAddressFree", 13000, 1, 1, false },
	{ "cuEventDestroy_v2", 13000, 1, 1, true },
	{ "cuStreamDestroy_v2", 13000, 1, 1, true },
	{ "cuStreamSynchronize", 13000, 1, 1, true },
	{ "cuDevicePrimaryCtxRelease_v2", 13000, 1, 1, true },
};
#define LIFE_CALLS 52

static const struct life_call *life_call_at(int i, int *ret_k)
{
	for (size_t c = 0; c < sizeof(life_calls) / sizeof(life_calls[0]); c++) {
		if (i < life_calls[c].count) {
			*ret_k = life_calls[c].first + i;
			return &life_calls[c];
		}
		i -= life_calls[c].count;
	}
	return NULL;
}

START_TEST(mover_copes_with_the_failure_of_any_call)
{
	const struct life_call *call;
	struct moved m;
	char more[128];
	bool failed;
	int k;

	call = life_call_at(_i, &k);
	ck_assert_ptr_nonnull(call);
	snprintf(more, sizeof(more), ",mem=16M,version=%d,fail=%s:%d:OUT_OF_MEMORY", call->version,
		 call->name, k);
	fake_set(1, more);
	moved_prepare(&m, GPU_KIND_CUDA);
	failed = moved_live(&m, -ENOMEM);
	ck_assert_int_eq(failed, !call->silent);
	moved_drop(&m);
	/* An import that the driver did not let go of stays as long as this process. */
	if (strcmp(call->name, "cuMemRelease") != 0)
		moved_expect_all_free(&m);
	cuda_owner_close(m.owner);
}
END_TEST

START_TEST(mover_life_is_all_listed)
{
	int k;

	ck_assert_ptr_nonnull(life_call_at(LIFE_CALLS - 1, &k));
	ck_assert_ptr_null(life_call_at(LIFE_CALLS, &k));
}
END_TEST

static const char *const spoiling_calls[] = {
	"cuMemImportFromShareableHandle",
	"cuMemMap",
	"cuMemSetAccess",
	"cuMemHostRegister_v2",
	"cuMemcpyHtoDAsync_v2",
	"cuMemcpyDtoHAsync_v2",
	"cuEventRecord",
	"cuEventQuery",
	"cuMemHostUnregister",
	"cuMemUnmap",
};
#define SPOILING_CALLS ((int)(sizeof(spoiling_calls) / sizeof(spoiling_calls[0])))

/* An error of the device's memory, or of a context, at every point: it is told which, it stays, and
 * close returns. */
START_TEST(mover_is_spoilt_by_an_error_that_sticks)
{
	uint32_t batch;
	struct gpu_copy copy;
	struct moved m;
	char more[96];

	snprintf(more, sizeof(more), ",version=12000,fail=%s:1:%s", spoiling_calls[_i / 2],
		 _i % 2 ? "LAUNCH_FAILED" : "ECC_UNCORRECTABLE");
	fake_set(1, more);
	moved_prepare(&m, GPU_KIND_CUDA);
	ck_assert_int_eq(gpu_mover_open(GPU_KIND_CUDA, 0, &m.mover, m.why, WHY_BYTES), 0);
	if (gpu_mover_map(m.mover, BATCH, HANDLE_BYTES, m.fds, &m.device) == 0 &&
	    gpu_mover_attach(m.mover, m.host, HOST_BYTES) == 0 && move(&m, GPU_UP, m.host) == 0 &&
	    move(&m, GPU_DOWN, m.host) == 0 && gpu_mover_detach(m.mover, m.host) == 0)
		ck_assert_int_eq(gpu_mover_unmap(m.mover, m.device), -EIO);
	ck_assert(gpu_mover_is_spoilt(m.mover));
	ck_assert(gpu_mover_memory_is_bad(m.mover) == (_i % 2 == 0));
	copy = (struct gpu_copy){ .device = m.device, .host = m.host, .bytes = PIECE_BYTES };
	ck_assert_int_eq(gpu_mover_submit(m.mover, GPU_UP, 1, &copy, &batch), -EIO);
	ck_assert_int_eq(gpu_mover_map(m.mover, 1, HANDLE_BYTES, m.fds, &m.device), -EIO);
	ck_assert_int_eq(gpu_mover_attach(m.mover, m.host + 4096, 4096), -EIO);
	ck_assert_ptr_null(gpu_mover_close(m.mover));
	cuda_owner_close(m.owner);
}
END_TEST

/* The stream could not be waited for after a copy failed: pages may be written yet. */
START_TEST(mover_is_spoilt_when_copies_cannot_be_ended)
{
	struct moved m;

	moved_open(&m, GPU_KIND_CUDA,
		   ",version=12000,fail=cuMemcpyHtoDAsync_v2:3:OUT_OF_MEMORY"
		   ",fail=cuStreamSynchronize:1:OUT_OF_MEMORY");
	ck_assert_int_eq(move(&m, GPU_UP, m.host), -ENOMEM);
	ck_assert(gpu_mover_is_spoilt(m.mover));
	ck_assert(!gpu_mover_memory_is_bad(m.mover));
	ck_assert_ptr_null(gpu_mover_close(m.mover));
	cuda_owner_close(m.owner);
}
END_TEST

int main(void)
{
	static const struct suite_case cases[] = {
		{ &mover_moves_both_ways, TIMEOUT_S, KINDS },
		{ &mover_moves_with_any_driver, TIMEOUT_S, 5 },
		{ &mover_needs_no_fd_after_map, TIMEOUT_S, KINDS },
		{ &mover_takes_batches_up_to_its_most, TIMEOUT_S, KINDS },
		{ &mover_refuses_what_cannot_be, TIMEOUT_S, KINDS },
		{ &mover_refuses_an_fd_that_is_no_handle, TIMEOUT_S, KINDS },
		{ &mover_close_ends_what_is_in_flight, TIMEOUT_S, KINDS },
		{ &mover_submit_does_not_wait, TIMEOUT_S },
		{ &mover_open_says_why_not, TIMEOUT_S },
		{ &mover_copes_with_the_failure_of_any_call, TIMEOUT_S, LIFE_CALLS },
		{ &mover_life_is_all_listed, TIMEOUT_S },
		{ &mover_is_spoilt_by_an_error_that_sticks, TIMEOUT_S, 2 * SPOILING_CALLS },
		{ &mover_is_spoilt_when_copies_cannot_be_ended, TIMEOUT_S },
		{ NULL, 0 },
	};

	return roles_run("cuda_mover", cases);
}
