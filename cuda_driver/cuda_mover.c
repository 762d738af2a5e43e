/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The mover of a GPU: its copy engines, driven from a context of our own. See gpu_mover.h.
 *
 * What it asks of the device is copies between host and device, and nothing else. The context is
 * the primary one, made to block instead of spin, and current in the one thread for as long as the
 * mover lives. Two streams a direction, used in turn, keep a copy engine busy while the next batch
 * is being handed to it. Each batch has an event behind its copies, so poll is one question.
 *
 * A slab's handles are mapped into one reserved range, and the imports are released at once: a
 * mapping keeps its allocation. Access is asked for once, over all of it.
 *
 * Between "started" and "not started" there is nothing: when a call fails half way through a batch,
 * the stream is waited for before the error is told, so that no page is written after its copy was
 * called failed. If even that fails the mover is spoilt, and the pages are safe when its process
 * has ended.
 */

#include "cuda_driver/gpu_mover_ops.h"

#include "cuda_driver/cuda_device.h"
#include "cuda_driver/cuda_error.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CUDA_MOVER_STREAMS 2u /* a direction */

struct cuda_mover {
	struct gpu_mover base;
	struct cuda_device device;
	const struct cuda_stream_api *streams;
	cu_context context; /* NULL: not retained */
	cu_stream stream[2][CUDA_MOVER_STREAMS];
	uint32_t turn[2]; /* which stream comes next */
	cu_event events[GPU_MOVER_BATCHES_MAX];
	cu_stream stream_of[GPU_MOVER_BATCHES_MAX]; /* of a batch in flight */
	/* What the batch call wants: three arrays instead of one. */
	cu_address to[GPU_MOVER_COPIES_MAX];
	cu_address from[GPU_MOVER_COPIES_MAX];
	size_t bytes[GPU_MOVER_COPIES_MAX];
};

static struct cuda_mover *cuda_mover_of(struct gpu_mover *mover)
{
	return (struct cuda_mover *)mover; /* base is the first member */
}

/* Whatever call it is that returns it: memory is bad that something in flight has touched. */
static void cuda_mover_judge(struct cuda_mover *m, enum cu_result r)
{
	if (cuda_error_is_sticky(r))
		m->base.spoilt = true;
	if (r == CU_ERROR_ECC_UNCORRECTABLE || r == CU_ERROR_CONTAINED)
		m->base.memory_is_bad = true;
}

static int cuda_mover_note(struct cuda_mover *m, const char *call, enum cu_result r)
{
	cuda_mover_judge(m, r);
	return cuda_error_note(call, r);
}

/* Nothing of this stream is in flight any more, or the mover is spoilt. */
static void cuda_mover_wait(struct cuda_mover *m, cu_stream stream)
{
	if (!m->base.spoilt && m->streams->stream_synchronize(stream) != CU_OK)
		m->base.spoilt = true;
}

/* ---- memory -------------------------------------------------------------------------------- */

static int cuda_mover_attach(struct gpu_mover *mover, void *memory, uint64_t bytes)
{
	struct cuda_mover *m = cuda_mover_of(mover);
	enum cu_result r = m->streams->host_register(memory, bytes, CU_FLAG_HOST_PORTABLE);

	return r == CU_OK ? 0 : cuda_mover_note(m, "cuMemHostRegister", r);
}

static int cuda_mover_detach(struct gpu_mover *mover, void *memory)
{
	struct cuda_mover *m = cuda_mover_of(mover);
	enum cu_result r = m->streams->host_unregister(memory);

	return r == CU_OK ? 0 : cuda_mover_note(m, "cuMemHostUnregister", r);
}

static int cuda_mover_unmap(struct gpu_mover *mover, uint64_t device, uint32_t n,
			    uint64_t handle_bytes)
{
	struct cuda_mover *m = cuda_mover_of(mover);
	enum cu_result r;

	/* A mapping is unmapped whole, one by one; where none is the driver agrees too. */
	for (uint32_t i = 0; i < n; i++) {
		r = m->device.api->mem_unmap(device + i * handle_bytes, handle_bytes);
		if (r != CU_OK)
			return cuda_mover_note(m, "cuMemUnmap", r);
	}
	r = m->device.api->mem_address_free(device, n * handle_bytes);
	return r == CU_OK ? 0 : cuda_mover_note(m, "cuMemAddressFree", r);
}

static int cuda_mover_map_one(struct cuda_mover *m, int fd, uint64_t bytes, cu_address address)
{
	cu_handle handle;
	enum cu_result r;
	int error = cuda_device_map(&m->device, fd, bytes, address, &handle);

	if (error) {
		cuda_mover_judge(m, cuda_error_last_result());
		return error;
	}
	r = m->device.api->mem_release(handle);
	return r == CU_OK ? 0 : cuda_mover_note(m, "cuMemRelease", r);
}

static int cuda_mover_map_all(struct cuda_mover *m, uint32_t n, uint64_t handle_bytes,
			      const int *fds, cu_address base)
{
	const struct cu_access_desc desc = {
		.location = m->device.allocation.location,
		.flags = CU_ACCESS_READ_WRITE,
	};
	enum cu_result r;

	for (uint32_t i = 0; i < n; i++) {
		int error = cuda_mover_map_one(m, fds[i], handle_bytes, base + i * handle_bytes);

		if (error)
			return error;
	}
	r = m->device.api->mem_set_access(base, n * handle_bytes, &desc, 1);
	return r == CU_OK ? 0 : cuda_mover_note(m, "cuMemSetAccess", r);
}

static int cuda_mover_map(struct gpu_mover *mover, uint32_t n, uint64_t handle_bytes,
			  const int *fds, uint64_t *ret_device)
{
	struct cuda_mover *m = cuda_mover_of(mover);
	cu_address base;
	enum cu_result r;
	int error;

	if (handle_bytes % m->device.granularity_bytes)
		return cuda_error_refuse(-EINVAL, "no such size of a handle on this device");
	r = m->device.api->mem_address_reserve(&base, n * handle_bytes, 0, 0, 0);
	if (r != CU_OK)
		return cuda_mover_note(m, "cuMemAddressReserve", r);
	error = cuda_mover_map_all(m, n, handle_bytes, fds, base);
	if (error) {
		cuda_mover_unmap(mover, base, n, handle_bytes);
		return error;
	}
	*ret_device = base;
	return 0;
}

/* ---- copies -------------------------------------------------------------------------------- */

static enum cu_result cuda_mover_copy_batch(struct cuda_mover *m, enum gpu_direction direction,
					    uint32_t n, const struct gpu_copy *copies,
					    cu_stream stream)
{
	struct cu_copy_attributes attributes = { .order = CU_COPY_ORDER_STREAM };
	size_t first = 0, failed;

	for (uint32_t i = 0; i < n; i++) {
		cu_address host = (uintptr_t)copies[i].host;

		m->to[i] = direction == GPU_UP ? copies[i].device : host;
		m->from[i] = direction == GPU_UP ? host : copies[i].device;
		m->bytes[i] = copies[i].bytes;
	}
	if (m->streams->batch_13)
		return m->streams->batch_13(m->to, m->from, m->bytes, n, &attributes, &first, 1,
					    stream);
	return m->streams->batch_12(m->to, m->from, m->bytes, n, &attributes, &first, 1, &failed,
				    stream);
}

static enum cu_result cuda_mover_copy_each(struct cuda_mover *m, enum gpu_direction direction,
					   uint32_t n, const struct gpu_copy *copies,
					   cu_stream stream)
{
	enum cu_result r = CU_OK;

	for (uint32_t i = 0; i < n && r == CU_OK; i++) {
		const struct gpu_copy *c = &copies[i];

		r = direction == GPU_UP
			    ? m->streams->memcpy_htod_async(c->device, c->host, c->bytes, stream)
			    : m->streams->memcpy_dtoh_async(c->host, c->device, c->bytes, stream);
	}
	return r;
}

static int cuda_mover_submit(struct gpu_mover *mover, uint32_t slot, enum gpu_direction direction,
			     uint32_t n, const struct gpu_copy *copies)
{
	struct cuda_mover *m = cuda_mover_of(mover);
	cu_stream stream = m->stream[direction][m->turn[direction]++ % CUDA_MOVER_STREAMS];
	const char *call = "cuMemcpyAsync";
	enum cu_result r;
	int error;

	/* One copy is cheaper without a batch around it. */
	if (mover->has_batch && n > 1) {
		call = CU_BATCH_SYMBOL;
		r = cuda_mover_copy_batch(m, direction, n, copies, stream);
	} else {
		r = cuda_mover_copy_each(m, direction, n, copies, stream);
	}
	if (r == CU_OK) {
		call = "cuEventRecord";
		r = m->streams->event_record(m->events[slot], stream);
	}
	if (r == CU_OK) {
		m->stream_of[slot] = stream;
		return 0;
	}
	error = cuda_mover_note(m, call, r);
	cuda_mover_wait(m, stream);
	return error;
}

static int cuda_mover_poll(struct gpu_mover *mover, uint32_t slot)
{
	struct cuda_mover *m = cuda_mover_of(mover);
	enum cu_result r = m->streams->event_query(m->events[slot]);
	int error;

	if (r == CU_OK)
		return 0;
	if (r == CU_ERROR_NOT_READY)
		return -EINPROGRESS;
	error = cuda_mover_note(m, "cuEventQuery", r);
	cuda_mover_wait(m, m->stream_of[slot]);
	return error;
}

/* ---- life ---------------------------------------------------------------------------------- */

static void cuda_mover_settle(struct gpu_mover *mover)
{
	struct cuda_mover *m = cuda_mover_of(mover);

	for (uint32_t i = 0; i < 2 * CUDA_MOVER_STREAMS; i++) {
		cu_stream stream = m->stream[i / CUDA_MOVER_STREAMS][i % CUDA_MOVER_STREAMS];

		if (stream)
			cuda_mover_wait(m, stream);
	}
}

/* Also of one that was opened half. */
static void cuda_mover_finish(struct gpu_mover *mover)
{
	struct cuda_mover *m = cuda_mover_of(mover);

	for (uint32_t i = 0; i < GPU_MOVER_BATCHES_MAX; i++) {
		if (m->events[i])
			m->streams->event_destroy(m->events[i]);
	}
	for (uint32_t i = 0; i < 2 * CUDA_MOVER_STREAMS; i++) {
		cu_stream stream = m->stream[i / CUDA_MOVER_STREAMS][i % CUDA_MOVER_STREAMS];

		if (stream)
			m->streams->stream_destroy(stream);
	}
	if (m->context) {
		m->device.api->ctx_set_current(NULL);
		m->device.api->primary_ctx_release(m->device.device);
	}
	free(m);
}

static const struct gpu_mover_ops cuda_mover_ops = {
	.map = cuda_mover_map,
	.unmap = cuda_mover_unmap,
	.attach = cuda_mover_attach,
	.detach = cuda_mover_detach,
	.submit = cuda_mover_submit,
	.poll = cuda_mover_poll,
	.settle = cuda_mover_settle,
	.finish = cuda_mover_finish,
};

static int cuda_mover_make_context(struct cuda_mover *m)
{
	const struct cuda_api *api = m->device.api;
	enum cu_result r;

	r = m->streams->primary_ctx_set_flags(m->device.device, CU_FLAG_CTX_BLOCKING_SYNC);
	if (r != CU_OK)
		return cuda_error_note("cuDevicePrimaryCtxSetFlags", r);
	r = api->primary_ctx_retain(&m->context, m->device.device);
	if (r != CU_OK) {
		m->context = NULL;
		return cuda_error_note("cuDevicePrimaryCtxRetain", r);
	}
	r = api->ctx_set_current(m->context);
	return r == CU_OK ? 0 : cuda_error_note("cuCtxSetCurrent", r);
}

static int cuda_mover_make_streams(struct cuda_mover *m)
{
	enum cu_result r;

	for (uint32_t i = 0; i < 2 * CUDA_MOVER_STREAMS; i++) {
		r = m->streams->stream_create(
			&m->stream[i / CUDA_MOVER_STREAMS][i % CUDA_MOVER_STREAMS],
			CU_FLAG_STREAM_NON_BLOCKING);
		if (r != CU_OK)
			return cuda_error_note("cuStreamCreate", r);
	}
	for (uint32_t i = 0; i < GPU_MOVER_BATCHES_MAX; i++) {
		r = m->streams->event_create(&m->events[i], CU_FLAG_EVENT_BLOCKING_SYNC |
								    CU_FLAG_EVENT_DISABLE_TIMING);
		if (r != CU_OK)
			return cuda_error_note("cuEventCreate", r);
	}
	return 0;
}

int cuda_mover_open(uint32_t ordinal, struct gpu_mover **ret, char *why, uint32_t why_bytes)
{
	struct cuda_mover *m = calloc(1, sizeof(*m));
	int error;

	if (!m) {
		snprintf(why, why_bytes, "no memory for the mover: free some, or add swap");
		return -ENOMEM;
	}
	m->base.ops = &cuda_mover_ops;
	error = cuda_load_streams(&m->streams);
	if (error) {
		snprintf(why, why_bytes, "%s", cuda_load_streams_error());
		free(m);
		return error;
	}
	error = cuda_device_open(ordinal, &m->device);
	if (error == 0)
		error = cuda_mover_make_context(m);
	if (error == 0)
		error = cuda_mover_make_streams(m);
	if (error) {
		snprintf(why, why_bytes,
			 "cannot copy on cuda:%u: %s (%s): see that the GPU is healthy, not in an "
			 "exclusive mode, and not full",
			 ordinal, cuda_error_last(), strerror(-error));
		cuda_mover_finish(&m->base);
		return error;
	}
	m->base.has_batch = m->streams->batch_13 || m->streams->batch_12;
	*ret = &m->base;
	return 0;
}
