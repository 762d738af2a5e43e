/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Streams that write a word of memory, or wait for one: how a stream and the processor, or streams
 * of two processes, tell each other how far they are.
 *
 * The word lies in known host memory or in memory of the device. It is written with what was before
 * it in the stream visible to who reads it, and read so often that a wait is over soon after.
 */

#include "tests/fakecuda/fake.h"

#include <stdlib.h>

struct value_op {
	struct stream_op op;
	uint64_t word; /* address */
	uint64_t value;
	uint32_t ordinal; /* of the device */
};

static bool value_is_reachable(uint64_t word, uint32_t ordinal)
{
	return word % sizeof(uint64_t) == 0 &&
	       (host_knows(word, sizeof(uint64_t)) == HOST_KNOWN ||
		space_allows(word, sizeof(uint64_t), ordinal, CU_ACCESS_READ_WRITE));
}

static uint64_t *value_pointer(const struct value_op *op)
{
	return (uint64_t *)(uintptr_t)op->word;
}

static enum cu_result value_write_run(struct stream_op *op, struct cu_stream_object *stream)
{
	const struct value_op *write = (const struct value_op *)op;

	if (!value_is_reachable(write->word, stream->ordinal))
		return CU_ERROR_ILLEGAL_ADDRESS;
	__atomic_store_n(value_pointer(write), write->value, __ATOMIC_RELEASE);
	return CU_OK;
}

/* A word that is gone ends the wait, with a fault. */
static bool value_wait_is_ready(struct stream_op *op)
{
	const struct value_op *wait = (const struct value_op *)op;

	return !value_is_reachable(wait->word, wait->ordinal) ||
	       (int64_t)(__atomic_load_n(value_pointer(wait), __ATOMIC_ACQUIRE) - wait->value) >= 0;
}

static enum cu_result value_wait_run(struct stream_op *op, struct cu_stream_object *stream)
{
	const struct value_op *wait = (const struct value_op *)op;

	return value_is_reachable(wait->word, stream->ordinal) ? CU_OK : CU_ERROR_ILLEGAL_ADDRESS;
}

static void value_end(struct stream_op *op)
{
	free(op);
}

static enum cu_result value_queue(struct cu_stream_object *stream, bool wait, uint64_t word,
				  uint64_t value)
{
	struct value_op *op;

	if (!value_is_reachable(word, stream->ordinal))
		return CU_ERROR_INVALID_VALUE;
	op = calloc(1, sizeof(*op));
	if (!op)
		return CU_ERROR_OUT_OF_MEMORY;
	op->op.is_ready = wait ? value_wait_is_ready : NULL;
	op->op.run = wait ? value_wait_run : value_write_run;
	op->op.end = value_end;
	op->word = word;
	op->value = value;
	op->ordinal = stream->ordinal;
	return stream_queue(stream, &op->op, false);
}

enum cu_result cuStreamWriteValue64_v2(cu_stream handle, cu_address word, uint64_t value,
				       unsigned int flags)
{
	struct cu_stream_object *stream;
	enum cu_result result = stream_enter_work(FAKE_CALL_stream_write_value64, handle, &stream);

	if (result == CU_OK && flags)
		result = CU_ERROR_INVALID_VALUE;
	return fake_leave(result ? result : value_queue(stream, false, word, value));
}

/* Of the driver's comparisons there is the one that is declared. */
enum cu_result cuStreamWaitValue64_v2(cu_stream handle, cu_address word, uint64_t value,
				      unsigned int flags)
{
	struct cu_stream_object *stream;
	enum cu_result result = stream_enter_work(FAKE_CALL_stream_wait_value64, handle, &stream);

	if (result == CU_OK && flags != CU_FLAG_WAIT_VALUE_GEQ)
		result = CU_ERROR_INVALID_VALUE;
	return fake_leave(result ? result : value_queue(stream, true, word, value));
}
