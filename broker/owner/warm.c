/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The pool of warm.h: a short list of creates that nobody asked for yet.
 *
 * All of it belongs to the one thread that works for the device; ready_bytes alone is read by
 * others, for operators.
 */

#include "broker/owner/warm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/io/fault.h"

#define WARM_BLOCKS_MAX 64u

struct warm_block {
	uint32_t n;
	uint64_t handle_bytes;
	uint64_t token;
	int *fds;
};

struct warm {
	struct gpu_device dev;
	struct gpu_device *inner;
	uint64_t capacity_bytes;
	uint64_t ready_max_bytes;
	uint64_t ready_bytes; /* in the pool */
	uint64_t out_bytes;   /* handed out */
	unsigned blocks;
	struct warm_block block[WARM_BLOCKS_MAX];
	uint32_t n; /* shape of the last create; 0: there was none, or the device had no more */
	uint64_t handle_bytes;
};

static struct warm *warm_of(struct gpu_device *dev)
{
	return (struct warm *)dev; /* dev is first */
}

static void warm_count(struct warm *w, int64_t bytes)
{
	__atomic_store_n(&w->ready_bytes, w->ready_bytes + (uint64_t)bytes, __ATOMIC_RELAXED);
}

static void warm_empty(struct warm *w)
{
	while (w->blocks) {
		struct warm_block *b = &w->block[--w->blocks];

		w->inner->ops->close(w->inner, b->n, b->handle_bytes, b->fds, b->token);
		warm_count(w, -(int64_t)(b->n * b->handle_bytes));
		free(b->fds);
	}
}

static bool warm_take(struct warm *w, uint32_t n, uint64_t handle_bytes, int *ret_fds,
		      uint64_t *ret_token)
{
	struct warm_block *b = w->blocks ? &w->block[w->blocks - 1] : NULL;

	if (!b || b->n != n || b->handle_bytes != handle_bytes)
		return false;
	memcpy(ret_fds, b->fds, n * sizeof(*ret_fds));
	*ret_token = b->token;
	free(b->fds);
	w->blocks--;
	warm_count(w, -(int64_t)(n * handle_bytes));
	return true;
}

static int warm_create(struct gpu_device *dev, uint32_t n, uint64_t handle_bytes, int *ret_fds,
		       uint64_t *ret_token)
{
	struct warm *w = warm_of(dev);
	uint64_t bytes = n * handle_bytes;
	int error = 0;

	w->n = n;
	w->handle_bytes = handle_bytes;
	if (!warm_take(w, n, handle_bytes, ret_fds, ret_token)) {
		/* of another shape, it only takes room */
		warm_empty(w);
		error = w->inner->ops->create(w->inner, n, handle_bytes, ret_fds, ret_token);
	}
	if (error)
		w->n = 0;
	else
		w->out_bytes += bytes;
	return error;
}

static bool warm_ahead(struct gpu_device *dev)
{
	struct warm *w = warm_of(dev);
	uint64_t bytes = w->n * w->handle_bytes;
	struct warm_block *b = &w->block[w->blocks];

	if (!bytes || w->blocks == WARM_BLOCKS_MAX || w->ready_bytes + bytes > w->ready_max_bytes ||
	    w->out_bytes + w->ready_bytes + bytes > w->capacity_bytes)
		return false;
	*b = (struct warm_block){ .n = w->n, .handle_bytes = w->handle_bytes };
	b->fds = fault_calloc("warm", w->n, sizeof(*b->fds));
	if (!b->fds ||
	    w->inner->ops->create(w->inner, b->n, b->handle_bytes, b->fds, &b->token) != 0) {
		free(b->fds);
		w->n = 0; /* not again before somebody asks */
		return false;
	}
	w->blocks++;
	warm_count(w, (int64_t)bytes);
	return true;
}

static void warm_close(struct gpu_device *dev, uint32_t n, uint64_t handle_bytes, const int *fds,
		       uint64_t token)
{
	struct warm *w = warm_of(dev);

	w->out_bytes -= n * handle_bytes;
	w->inner->ops->close(w->inner, n, handle_bytes, fds, token);
}

static void warm_look(struct gpu_device *dev)
{
	struct gpu_device *inner = warm_of(dev)->inner;

	if (inner->ops->look)
		inner->ops->look(inner);
}

static void warm_info(struct gpu_device *dev, struct gpu_info *ret)
{
	struct warm *w = warm_of(dev);

	w->inner->ops->info(w->inner, ret);
	ret->warm_bytes = __atomic_load_n(&w->ready_bytes, __ATOMIC_RELAXED);
}

static void warm_rest(struct gpu_device *dev, bool rest)
{
	struct warm *w = warm_of(dev);

	if (rest) {
		warm_empty(w);
		w->n = 0;
	}
	if (w->inner->ops->rest)
		w->inner->ops->rest(w->inner, rest);
}

static void warm_cancel(struct gpu_device *dev)
{
	struct gpu_device *inner = warm_of(dev)->inner;

	if (inner->ops->cancel)
		inner->ops->cancel(inner);
}

static void warm_finish(struct gpu_device *dev)
{
	struct warm *w = warm_of(dev);

	warm_empty(w);
	gpu_device_close(w->inner);
	free(w);
}

static const struct gpu_ops warm_ops = {
	.create = warm_create,
	.close = warm_close,
	.ahead = warm_ahead,
	.look = warm_look,
	.info = warm_info,
	.rest = warm_rest,
	.cancel = warm_cancel,
	.finish = warm_finish,
};

int warm_open(struct gpu_device *inner, uint64_t capacity_bytes, uint64_t warm_bytes,
	      struct gpu_device **ret)
{
	struct warm *w = fault_calloc("warm", 1, sizeof(*w));

	if (!w) {
		gpu_device_close(inner);
		return -ENOMEM;
	}
	w->dev = (struct gpu_device){ .ops = &warm_ops, .ordinal = inner->ordinal };
	w->inner = inner;
	w->capacity_bytes = capacity_bytes;
	w->ready_max_bytes = warm_bytes;
	*ret = &w->dev;
	return 0;
}
