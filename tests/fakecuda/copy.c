/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Copies between host and device memory, and fills: at once, in a stream, many in one call.
 *
 * They refuse what the device of the current context may not touch with INVALID_VALUE, before a
 * byte is moved, as the driver does: it knows its maps. It is looked again when a stream comes to a
 * copy, because maps go meanwhile; then it is a fault, LAUNCH_FAILED, and the process is sick.
 *
 * Bytes are moved in chunks and without the mutex. copy_chunks says where, so that nobody takes a
 * map or known host memory away under them.
 *
 * A copy with host memory that is not known is over when its call returns, as is one without a
 * stream. The real driver sometimes returns earlier, from what it has put aside; a caller that
 * needs that is found out here. The batch does not take such memory.
 *
 * Rates are those of a device in this process: its copies of one direction share one engine.
 */

#include "tests/fakecuda/fake.h"

#include <stdlib.h>
#include <string.h>

#define COPY_CHUNK_BYTES (4ull << 20)

enum copy_place {
	COPY_NOWHERE = 0,
	COPY_DEVICE,
	COPY_HOST,     /* known */
	COPY_PAGEABLE, /* host memory that is not known */
	COPY_FILL,     /* as source: a byte, many times */
};

struct copy_piece {
	uint64_t to, from, bytes; /* from: the byte of a fill */
	enum copy_place to_place, from_place;
};

struct copy_op {
	struct stream_op op;
	uint64_t count;
	struct copy_piece pieces[];
};

/* On the stack of who moves the bytes. */
struct copy_chunk {
	struct copy_chunk *next;
	uint64_t to, from, bytes;
};

static struct copy_chunk *copy_chunks;
static uint32_t copy_waiting; /* for a chunk to be done; no other is begun before they had a look */

/* ---- moving -------------------------------------------------------------------------------- */

static bool copy_overlaps(uint64_t a, uint64_t a_bytes, uint64_t b, uint64_t b_bytes)
{
	return a < b + b_bytes && b < a + a_bytes;
}

void copy_wait_range(uint64_t address, uint64_t bytes)
{
	const struct copy_chunk *chunk = copy_chunks;

	copy_waiting++;
	while (chunk) {
		if (copy_overlaps(chunk->to, chunk->bytes, address, bytes) ||
		    copy_overlaps(chunk->from, chunk->bytes, address, bytes)) {
			fake_wait();
			chunk = copy_chunks;
		} else {
			chunk = chunk->next;
		}
	}
	copy_waiting--;
	fake_wake();
}

/* Is it what it was when the copy was queued? */
static bool copy_place_holds(enum copy_place place, uint64_t address, uint64_t bytes,
			     uint32_t ordinal, enum cu_access access)
{
	if (place == COPY_DEVICE)
		return space_allows(address, bytes, ordinal, access);
	return place != COPY_HOST || host_knows(address, bytes) == HOST_KNOWN;
}

static void copy_move(const struct copy_piece *piece, uint64_t at, uint64_t bytes)
{
	struct copy_chunk chunk = { .next = copy_chunks, .to = piece->to + at, .bytes = bytes };
	struct copy_chunk **link = &copy_chunks;

	chunk.from = piece->from_place == COPY_FILL ? chunk.to : piece->from + at;
	copy_chunks = &chunk;
	fake_unlock();
	if (piece->from_place == COPY_FILL)
		memset((void *)(uintptr_t)chunk.to, (int)piece->from, bytes);
	else
		memmove((void *)(uintptr_t)chunk.to, (const void *)(uintptr_t)chunk.from, bytes);
	fake_relock();
	while (*link != &chunk)
		link = &(*link)->next;
	*link = chunk.next;
	fake_wake();
	while (copy_waiting > 0)
		fake_wait();
}

static enum cu_result copy_piece_run(const struct copy_piece *piece, uint32_t ordinal)
{
	for (uint64_t at = 0, bytes; at < piece->bytes; at += bytes) {
		if (fake.finished)
			return CU_OK;
		bytes = piece->bytes - at < COPY_CHUNK_BYTES ? piece->bytes - at : COPY_CHUNK_BYTES;
		if (!copy_place_holds(piece->to_place, piece->to + at, bytes, ordinal,
				      CU_ACCESS_READ_WRITE) ||
		    !copy_place_holds(piece->from_place, piece->from + at, bytes, ordinal,
				      CU_ACCESS_READ))
			return CU_ERROR_LAUNCH_FAILED;
		copy_move(piece, at, bytes);
	}
	return CU_OK;
}

/* Takes the engine of the direction for so many bytes. When it is done with them. */
static uint64_t copy_engine_take(uint32_t ordinal, enum fake_direction direction, uint64_t bytes)
{
	uint64_t *free_ns = &fake.devices[ordinal].copy_free_ns[direction];
	uint64_t rate = fake.settings.copy_rate[direction];
	uint64_t now = fake_now_ns();

	if (rate == 0 || bytes == 0)
		return 0;
	*free_ns =
		(*free_ns > now ? *free_ns : now) + (uint64_t)((double)bytes / (double)rate * 1e9);
	return *free_ns;
}

static enum cu_result copy_run(struct stream_op *op, struct cu_stream_object *stream)
{
	const struct copy_op *copy = (const struct copy_op *)op;
	uint64_t bytes[2] = { 0 }, up_ns, down_ns;
	enum cu_result result = CU_OK;

	for (uint64_t i = 0; i < copy->count; i++) {
		const struct copy_piece *piece = &copy->pieces[i];

		if (piece->from_place != piece->to_place && piece->from_place != COPY_FILL)
			bytes[piece->from_place == COPY_DEVICE ? FAKE_DOWN : FAKE_UP] +=
				piece->bytes;
	}
	up_ns = copy_engine_take(stream->ordinal, FAKE_UP, bytes[FAKE_UP]);
	down_ns = copy_engine_take(stream->ordinal, FAKE_DOWN, bytes[FAKE_DOWN]);
	for (uint64_t i = 0; i < copy->count && result == CU_OK; i++)
		result = copy_piece_run(&copy->pieces[i], stream->ordinal);
	if (up_ns || down_ns)
		fake_sleep_until(up_ns > down_ns ? up_ns : down_ns);
	return result;
}

static void copy_end(struct stream_op *op)
{
	free(op);
}

/* ---- asking -------------------------------------------------------------------------------- */

static struct copy_op *copy_new(uint64_t count)
{
	struct copy_op *copy = calloc(1, sizeof(*copy) + count * sizeof(copy->pieces[0]));

	if (copy) {
		copy->op.run = copy_run;
		copy->op.end = copy_end;
		copy->count = count;
	}
	return copy;
}

/* What an address is to a device that wants to do this there. */
static enum copy_place copy_place(uint64_t address, uint64_t bytes, uint32_t ordinal,
				  enum cu_access access)
{
	if (space_allows(address, bytes, ordinal, access))
		return COPY_DEVICE;
	switch (host_knows(address, bytes)) {
	case HOST_KNOWN:
		return COPY_HOST;
	case HOST_UNKNOWN:
		return COPY_PAGEABLE;
	case HOST_KNOWN_PARTLY:
		break;
	}
	return COPY_NOWHERE;
}

/* Queues one, and does it if it is not to be left to the stream. Device memory, where it says so.
 */
static enum cu_result copy_one(struct cu_stream_object *stream, const struct copy_piece *piece,
			       bool at_once)
{
	struct copy_op *copy;

	if (piece->to_place == COPY_NOWHERE || piece->from_place == COPY_NOWHERE)
		return CU_ERROR_INVALID_VALUE;
	copy = copy_new(1);
	if (copy)
		copy->pieces[0] = *piece;
	return stream_queue(stream, copy ? &copy->op : NULL,
			    at_once || piece->to_place == COPY_PAGEABLE ||
				    piece->from_place == COPY_PAGEABLE);
}

/* An address of the device's side, which is never pageable. */
static enum copy_place copy_device_place(uint64_t address, uint64_t bytes, uint32_t ordinal,
					 enum cu_access access)
{
	enum copy_place place = copy_place(address, bytes, ordinal, access);

	return place == COPY_PAGEABLE ? COPY_NOWHERE : place;
}

static enum cu_result copy_up(enum fake_call call, cu_address to, const void *from, size_t bytes,
			      cu_stream handle, bool at_once)
{
	struct copy_piece piece = { .to = to, .from = (uintptr_t)from, .bytes = bytes };
	struct cu_stream_object *stream;
	enum cu_result result = stream_enter_work(call, handle, &stream);

	if (result == CU_OK && bytes > 0) {
		piece.to_place =
			copy_device_place(to, bytes, stream->ordinal, CU_ACCESS_READ_WRITE);
		piece.from_place = copy_place(piece.from, bytes, stream->ordinal, CU_ACCESS_READ);
		result = copy_one(stream, &piece, at_once);
	}
	return fake_leave(result);
}

static enum cu_result copy_down(enum fake_call call, void *to, cu_address from, size_t bytes,
				cu_stream handle, bool at_once)
{
	struct copy_piece piece = { .to = (uintptr_t)to, .from = from, .bytes = bytes };
	struct cu_stream_object *stream;
	enum cu_result result = stream_enter_work(call, handle, &stream);

	if (result == CU_OK && bytes > 0) {
		piece.to_place = copy_place(piece.to, bytes, stream->ordinal, CU_ACCESS_READ_WRITE);
		piece.from_place = copy_device_place(from, bytes, stream->ordinal, CU_ACCESS_READ);
		result = copy_one(stream, &piece, at_once);
	}
	return fake_leave(result);
}

enum cu_result cuMemcpyHtoD_v2(cu_address to, const void *from, size_t bytes)
{
	return copy_up(FAKE_CALL_memcpy_htod, to, from, bytes, NULL, true);
}

enum cu_result cuMemcpyDtoH_v2(void *to, cu_address from, size_t bytes)
{
	return copy_down(FAKE_CALL_memcpy_dtoh, to, from, bytes, NULL, true);
}

enum cu_result cuMemcpyHtoDAsync_v2(cu_address to, const void *from, size_t bytes, cu_stream stream)
{
	return copy_up(FAKE_CALL_memcpy_htod_async, to, from, bytes, stream, false);
}

enum cu_result cuMemcpyDtoHAsync_v2(void *to, cu_address from, size_t bytes, cu_stream stream)
{
	return copy_down(FAKE_CALL_memcpy_dtoh_async, to, from, bytes, stream, false);
}

enum cu_result cuMemsetD8_v2(cu_address to, unsigned char value, size_t bytes)
{
	struct copy_piece piece = {
		.to = to, .from = value, .bytes = bytes, .from_place = COPY_FILL
	};
	struct cu_stream_object *stream;
	enum cu_result result = stream_enter_work(FAKE_CALL_memset_d8, NULL, &stream);

	if (result == CU_OK && bytes > 0) {
		piece.to_place =
			copy_device_place(to, bytes, stream->ordinal, CU_ACCESS_READ_WRITE);
		result = copy_one(stream, &piece, true);
	}
	return fake_leave(result);
}

/* ---- the batch ----------------------------------------------------------------------------- */

struct copy_batch {
	const cu_address *to, *from;
	const size_t *bytes;
	size_t count;
	const struct cu_copy_attributes *attributes;
	const size_t *attribute_first;
	size_t attributes_count;
};

static bool copy_attributes_valid(const struct copy_batch *batch)
{
	if (!batch->attributes || !batch->attribute_first || batch->attributes_count == 0 ||
	    batch->attributes_count > batch->count || batch->attribute_first[0] != 0)
		return false;
	for (size_t i = 0; i < batch->attributes_count; i++) {
		if (batch->attributes[i].order != CU_COPY_ORDER_STREAM ||
		    batch->attribute_first[i] >= batch->count ||
		    (i > 0 && batch->attribute_first[i] <= batch->attribute_first[i - 1]))
			return false;
	}
	return true;
}

static bool copy_batch_piece(const struct copy_batch *batch, size_t i, uint32_t ordinal,
			     struct copy_piece *ret)
{
	*ret = (struct copy_piece){
		.to = batch->to[i],
		.from = batch->from[i],
		.bytes = batch->bytes[i],
		.to_place = copy_device_place(batch->to[i], batch->bytes[i], ordinal,
					      CU_ACCESS_READ_WRITE),
		.from_place =
			copy_device_place(batch->from[i], batch->bytes[i], ordinal, CU_ACCESS_READ),
	};
	return ret->bytes > 0 && ret->to_place != COPY_NOWHERE && ret->from_place != COPY_NOWHERE;
}

/* All or nothing; *ret_failed: the first that is wrong, SIZE_MAX: none of them is. */
static enum cu_result copy_batch_queue(const struct copy_batch *batch,
				       struct cu_stream_object *stream, size_t *ret_failed)
{
	struct copy_op *copy;

	*ret_failed = SIZE_MAX;
	if (!batch->to || !batch->from || !batch->bytes || batch->count == 0 ||
	    !copy_attributes_valid(batch))
		return CU_ERROR_INVALID_VALUE;
	copy = copy_new(batch->count);
	for (size_t i = 0; copy && i < batch->count; i++) {
		if (!copy_batch_piece(batch, i, stream->ordinal, &copy->pieces[i])) {
			*ret_failed = i;
			free(copy);
			return CU_ERROR_INVALID_VALUE;
		}
	}
	return stream_queue(stream, copy ? &copy->op : NULL, false);
}

static enum cu_result copy_batch(enum fake_call call, const struct copy_batch *batch,
				 cu_stream handle, size_t *ret_failed)
{
	struct cu_stream_object *stream;
	enum cu_result result = stream_enter_work(call, handle, &stream);

	if (result == CU_OK && !handle) /* the driver has no batches for it */
		result = CU_ERROR_INVALID_VALUE;
	return fake_leave(result ? result : copy_batch_queue(batch, stream, ret_failed));
}

enum cu_result cuMemcpyBatchAsync CU_BATCH_ARGS_12
{
	const struct copy_batch batch = {
		to, from, bytes, count, attributes, attribute_first, attributes_count
	};
	size_t failed;

	return copy_batch(FAKE_CALL_batch_12, &batch, stream, ret_failed ? ret_failed : &failed);
}

enum cu_result cuMemcpyBatchAsync_v2 CU_BATCH_ARGS_13
{
	const struct copy_batch batch = {
		to, from, bytes, count, attributes, attribute_first, attributes_count
	};
	size_t failed;

	return copy_batch(FAKE_CALL_batch_13, &batch, stream, &failed);
}
