/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A device of the test's own; see test_mover_device.h. Its memory is the test's, whatever the fds.
 */

#include "tests/unit/test_mover_device.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/suite.h"

struct gpu_mover test_device;

void test_device_reset(void)
{
	memset(&test_device, 0, sizeof(test_device));
}

int gpu_mover_map(struct gpu_mover *mover, uint32_t n, uint64_t handle_bytes, const int *fds,
		  uint64_t *ret_device)
{
	void *mem;

	if (mover->fail_map && --mover->fail_map == 0)
		return -ENOSPC;
	mem = calloc(n, handle_bytes);
	ck_assert_ptr_nonnull(mem);
	ck_assert_uint_lt(mover->maps, TEST_MAPS_MAX);
	mover->map[mover->maps++] = mem;
	*ret_device = (uintptr_t)mem;
	return 0;
}

int gpu_mover_unmap(struct gpu_mover *mover, uint64_t device)
{
	uint32_t i = 0;

	while (i < mover->maps && (uintptr_t)mover->map[i] != device)
		i++;
	ck_assert_uint_lt(i, mover->maps);
	free(mover->map[i]);
	mover->map[i] = mover->map[--mover->maps];
	return 0;
}

int gpu_mover_attach(struct gpu_mover *mover, void *memory, uint64_t bytes)
{
	if (mover->fail_attach)
		return mover->fail_attach;
	mover->attached++;
	return 0;
}

int gpu_mover_detach(struct gpu_mover *mover, void *memory)
{
	mover->attached--;
	return 0;
}

int gpu_mover_submit(struct gpu_mover *mover, enum gpu_direction direction, uint32_t n,
		     const struct gpu_copy *copies, uint32_t *ret_batch)
{
	struct test_batch *batch = &mover->batch[mover->batches % 16];
	int error = mover->fail_submit;

	mover->fail_submit = 0;
	if (error)
		return error;
	ck_assert_uint_ge(n, 1);
	ck_assert_uint_le(n, GPU_MOVER_COPIES_MAX);
	batch->direction = direction;
	batch->n = n;
	memcpy(batch->copies, copies, n * sizeof(*copies));
	for (uint32_t i = 0; i < n; i++) {
		void *device = (void *)(uintptr_t)copies[i].device;

		if (direction == GPU_UP)
			memcpy(device, copies[i].host, copies[i].bytes);
		else
			memcpy(copies[i].host, device, copies[i].bytes);
	}
	*ret_batch = mover->batches++;
	return 0;
}

int gpu_mover_poll(struct gpu_mover *mover, uint32_t batch)
{
	ck_assert_uint_lt(batch, mover->batches);
	return mover->hold ? -EINPROGRESS : mover->fail_poll;
}

bool gpu_mover_is_spoilt(const struct gpu_mover *mover)
{
	return mover->spoilt;
}

bool gpu_mover_memory_is_bad(const struct gpu_mover *mover)
{
	return mover->memory_is_bad;
}

/* The process's; what is tested over this device opens none. */
int gpu_mover_open(uint32_t kind, uint32_t ordinal, struct gpu_mover **ret, char *why,
		   uint32_t why_bytes)
{
	return -EOPNOTSUPP;
}

struct gpu_mover *gpu_mover_close(struct gpu_mover *mover)
{
	while (mover->maps)
		free(mover->map[--mover->maps]);
	mover->attached = 0;
	return NULL;
}
