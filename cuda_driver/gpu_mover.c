/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What is the same for every mover: the choice of the back end, the checks, the books. See
 * gpu_mover.h; the back ends are behind gpu_mover_ops.h.
 *
 * A batch's name is its slot and a count, so that one which was forgotten is found out when it is
 * asked for again. Maps and attached memory stand in trees by address: there is one map a slab and
 * region, tens of thousands of them.
 */

#include "cuda_driver/gpu_mover_ops.h"

#include "cuda_driver/gpu.h"

#include <errno.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>

struct mover_span {
	uint64_t address;
	uint64_t handle_bytes;
	uint32_t n;
};

static int mover_span_compare(const void *a, const void *b)
{
	const struct mover_span *x = a, *y = b;

	return (x->address > y->address) - (x->address < y->address);
}

static struct mover_span *mover_span_find(void *const *tree, uint64_t address)
{
	const struct mover_span key = { .address = address };
	struct mover_span *const *node = tfind(&key, tree, mover_span_compare);

	return node ? *node : NULL;
}

/* 0; -EEXIST: one begins there already, so nothing was added; -ENOMEM. */
static int mover_span_add(void **tree, struct mover_span what)
{
	struct mover_span *span = malloc(sizeof(*span));
	struct mover_span **node;

	if (!span)
		return -ENOMEM;
	*span = what;
	node = tsearch(span, tree, mover_span_compare);
	if (node && *node == span)
		return 0;
	free(span);
	return node ? -EEXIST : -ENOMEM;
}

static void mover_span_drop(void **tree, struct mover_span *span)
{
	tdelete(span, tree, mover_span_compare);
	free(span);
}

int gpu_mover_open(uint32_t kind, uint32_t ordinal, struct gpu_mover **ret, char *why,
		   uint32_t why_bytes)
{
	switch (kind) {
	case GPU_KIND_CUDA:
		return cuda_mover_open(ordinal, ret, why, why_bytes);
	case GPU_KIND_HOST:
		return host_mover_open(ret, why, why_bytes);
	default:
		snprintf(why, why_bytes, "devices of kind %u have no mover", kind);
		return -EOPNOTSUPP;
	}
}

struct gpu_mover *gpu_mover_close(struct gpu_mover *mover)
{
	if (!mover)
		return NULL;
	mover->ops->settle(mover);
	while (mover->maps) {
		struct mover_span *span = *(struct mover_span **)mover->maps;

		mover->ops->unmap(mover, span->address, span->n, span->handle_bytes);
		mover_span_drop(&mover->maps, span);
	}
	while (mover->attached) {
		struct mover_span *span = *(struct mover_span **)mover->attached;

		mover->ops->detach(mover, (void *)(uintptr_t)span->address);
		mover_span_drop(&mover->attached, span);
	}
	mover->ops->finish(mover);
	return NULL;
}

int gpu_mover_map(struct gpu_mover *mover, uint32_t n, uint64_t handle_bytes, const int *fds,
		  uint64_t *ret_device)
{
	struct mover_span span = { .n = n, .handle_bytes = handle_bytes };
	int error;

	if (n == 0 || handle_bytes == 0 || handle_bytes > UINT64_MAX / 2 / n)
		return -EINVAL;
	if (mover->spoilt)
		return -EIO;
	error = mover->ops->map(mover, n, handle_bytes, fds, &span.address);
	if (error)
		return error;
	error = mover_span_add(&mover->maps, span);
	if (error) {
		mover->ops->unmap(mover, span.address, n, handle_bytes);
		return error;
	}
	*ret_device = span.address;
	return 0;
}

int gpu_mover_unmap(struct gpu_mover *mover, uint64_t device)
{
	struct mover_span *span = mover_span_find(&mover->maps, device);
	int error;

	if (!span)
		return -ENOENT;
	error = mover->ops->unmap(mover, span->address, span->n, span->handle_bytes);
	if (error == 0)
		mover_span_drop(&mover->maps, span);
	return error;
}

int gpu_mover_attach(struct gpu_mover *mover, void *memory, uint64_t bytes)
{
	const struct mover_span span = { .address = (uintptr_t)memory };
	int error;

	if (!memory || bytes == 0)
		return -EINVAL;
	if (mover->spoilt)
		return -EIO;
	error = mover_span_add(&mover->attached, span);
	if (error)
		return error == -EEXIST ? -EBUSY : error;
	error = mover->ops->attach(mover, memory, bytes);
	if (error)
		mover_span_drop(&mover->attached, mover_span_find(&mover->attached, span.address));
	return error;
}

int gpu_mover_detach(struct gpu_mover *mover, void *memory)
{
	struct mover_span *span = mover_span_find(&mover->attached, (uintptr_t)memory);
	int error;

	if (!span)
		return -ENOENT;
	error = mover->ops->detach(mover, memory);
	if (error == 0)
		mover_span_drop(&mover->attached, span);
	return error;
}

int gpu_mover_submit(struct gpu_mover *mover, enum gpu_direction direction, uint32_t n,
		     const struct gpu_copy *copies, uint32_t *ret_batch)
{
	uint32_t slot = 0;
	int error;

	if (n == 0 || n > GPU_MOVER_COPIES_MAX || (direction != GPU_UP && direction != GPU_DOWN))
		return -EINVAL;
	if (mover->spoilt)
		return -EIO;
	while (slot < GPU_MOVER_BATCHES_MAX && mover->live[slot])
		slot++;
	if (slot == GPU_MOVER_BATCHES_MAX)
		return -EBUSY;
	error = mover->ops->submit(mover, slot, direction, n, copies);
	if (error)
		return error;
	/* 0 is no name. */
	if (++mover->uses > UINT32_MAX / GPU_MOVER_BATCHES_MAX - 1)
		mover->uses = 1;
	mover->live[slot] = mover->uses * GPU_MOVER_BATCHES_MAX + slot;
	*ret_batch = mover->live[slot];
	return 0;
}

int gpu_mover_poll(struct gpu_mover *mover, uint32_t batch)
{
	uint32_t slot = batch % GPU_MOVER_BATCHES_MAX;
	int error;

	if (batch == 0 || mover->live[slot] != batch)
		return -EINVAL;
	error = mover->ops->poll(mover, slot);
	if (error != -EINPROGRESS)
		mover->live[slot] = 0;
	return error;
}

bool gpu_mover_memory_is_bad(const struct gpu_mover *mover)
{
	return mover->memory_is_bad;
}

bool gpu_mover_is_spoilt(const struct gpu_mover *mover)
{
	return mover->spoilt;
}

bool gpu_mover_has_batch(const struct gpu_mover *mover)
{
	return mover->has_batch;
}
