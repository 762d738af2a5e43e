/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Streams: what is queued in one is done in order, and by nobody's call.
 *
 * Every op has a ticket, which is its place in the order of the whole process. An op is due when it
 * is the first of its stream, when what it waits for is there, and when the NULL stream lets it: an
 * op of a blocking stream waits for all that the NULL stream got before it, one of the NULL stream
 * for all that blocking streams got before it.
 *
 * A stream gets a thread with its first op that somebody does not wait for; ops that are waited for
 * are done by their callers, so a program without asynchronous work has no thread of ours. Both do
 * the first op of a stream and no other, with `running` set, and only who set it ends that op.
 *
 * An error of an op makes the process sick, as a fault of a GPU does; then, and when the device is
 * lost, what is queued is dropped, so that nobody waits for what never comes.
 *
 * A destroyed stream does what it has and then goes. One whose context is destroyed drops what it
 * has, and stays to say so until it is destroyed itself.
 */

#include "tests/fakecuda/fake.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#define STREAM_POLL_NS 50000ull

static struct cu_stream_object *stream_list;
static uint64_t stream_tickets;

/* Has it something unfinished from before this ticket? */
static bool stream_has_before(const struct cu_stream_object *stream, uint64_t ticket)
{
	return stream->first && stream->first->ticket < ticket;
}

/* Does the NULL stream, or do the blocking ones, let the first op of this stream go ahead? */
static bool stream_in_turn(const struct cu_stream_object *stream)
{
	const struct cu_stream_object *null = &fake.devices[stream->ordinal].null_stream;
	uint64_t ticket = stream->first->ticket;

	if (stream != null)
		return !stream->blocking || !stream_has_before(null, ticket);
	for (const struct cu_stream_object *other = stream_list; other; other = other->next) {
		if (other->ordinal == stream->ordinal && other->blocking &&
		    stream_has_before(other, ticket))
			return false;
	}
	return true;
}

static void stream_pop(struct cu_stream_object *stream)
{
	struct stream_op *op = stream->first;

	stream->first = op->next;
	if (!stream->first)
		stream->last = &stream->first;
	op->end(op);
	fake_wake();
}

/*
 * Does the first op, or drops it in a process that is sick, or waits a while for it to be due. Lets
 * go of the mutex.
 */
static void stream_step(struct cu_stream_object *stream)
{
	struct stream_op *op = stream->first;
	enum cu_result result = CU_OK;

	if (fake_health(stream->ordinal) == CU_OK) {
		if (!stream_in_turn(stream)) {
			fake_wait();
			return;
		}
		if (op->is_ready && !op->is_ready(op)) {
			fake_sleep_until(fake_now_ns() + STREAM_POLL_NS);
			return;
		}
		stream->running = true;
		if (op->run)
			result = op->run(op, stream);
		stream->running = false;
	}
	if (result != CU_OK)
		fake_sicken(result);
	stream_pop(stream);
}

/* ---- who does it --------------------------------------------------------------------------- */

static void stream_free(struct cu_stream_object *stream)
{
	struct cu_stream_object **link = &stream_list;

	while (*link != stream)
		link = &(*link)->next;
	*link = stream->next;
	free(stream);
}

static void *stream_thread(void *argument)
{
	struct cu_stream_object *stream = argument;

	fake_relock();
	while (!fake.finished && (stream->first || !stream->closing)) {
		if (stream->first && !stream->first->by_caller)
			stream_step(stream);
		else
			fake_wait();
	}
	if (!fake.finished)
		stream_free(stream);
	fake_unlock();
	return NULL;
}

/* Signals are for the threads of the program. */
static bool stream_start_thread(struct cu_stream_object *stream)
{
	sigset_t all, before;
	pthread_t thread;

	if (stream->has_thread)
		return true;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	stream->has_thread = pthread_create(&thread, NULL, stream_thread, stream) == 0;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (stream->has_thread)
		pthread_detach(thread);
	return stream->has_thread;
}

/* Until all is done that the stream had when the ticket was drawn. */
static void stream_wait(struct cu_stream_object *stream, uint64_t ticket)
{
	while (stream_has_before(stream, ticket))
		fake_wait();
}

enum cu_result stream_queue(struct cu_stream_object *stream, struct stream_op *op, bool by_caller)
{
	uint64_t ticket = ++stream_tickets;

	if (!op)
		return CU_ERROR_OUT_OF_MEMORY;
	if (!by_caller && !stream_start_thread(stream)) {
		op->end(op);
		return CU_ERROR_OUT_OF_MEMORY;
	}
	op->ticket = ticket;
	op->by_caller = by_caller;
	*stream->last = op;
	stream->last = &op->next;
	if (!by_caller) {
		fake_wake();
		return CU_OK;
	}
	stream_wait(stream, ticket);
	while (stream->first == op)
		stream_step(stream);
	return fake_health(stream->ordinal);
}

/* ---- those of a device --------------------------------------------------------------------- */

void stream_wait_device(uint32_t ordinal)
{
	uint64_t ticket = stream_tickets + 1;
	struct cu_stream_object *stream;

	stream_wait(&fake.devices[ordinal].null_stream, ticket);
	stream = stream_list;
	while (stream) {
		if (stream->ordinal == ordinal && stream_has_before(stream, ticket)) {
			fake_wait();
			stream = stream_list; /* it may be another one by now */
		} else {
			stream = stream->next;
		}
	}
}

/* Drops what nobody does yet. False: something is under way, and was waited for. */
static bool stream_drop(struct cu_stream_object *stream)
{
	while (stream->first) {
		if (stream->running || stream->first->by_caller) {
			fake_wait();
			return false;
		}
		stream_pop(stream);
	}
	return true;
}

void stream_end_device(uint32_t ordinal)
{
	struct cu_stream_object *stream;

	while (!stream_drop(&fake.devices[ordinal].null_stream))
		continue;
	stream = stream_list;
	while (stream) {
		if (stream->ordinal == ordinal) {
			stream->dead = true;
			if (!stream_drop(stream)) {
				stream = stream_list; /* it may be another one by now */
				continue;
			}
		}
		stream = stream->next;
	}
}

/* ---- calls --------------------------------------------------------------------------------- */

static struct cu_stream_object *stream_find(cu_stream handle)
{
	for (struct cu_stream_object *stream = stream_list; stream; stream = stream->next) {
		if (stream == handle && !stream->closing)
			return stream;
	}
	return NULL;
}

enum cu_result stream_enter(enum fake_call call, cu_stream handle, struct cu_stream_object **ret)
{
	struct cu_stream_object *stream;
	enum cu_result result;
	uint32_t ordinal;

	fake_lock();
	stream = stream_find(handle);
	result = fake_begin(call, stream ? (int)stream->ordinal : context_ordinal(), 1);
	if (result == CU_OK && !handle) {
		result = context_device(&ordinal);
		stream = result == CU_OK ? &fake.devices[ordinal].null_stream : NULL;
	} else if (result == CU_OK && !stream) {
		fprintf(stderr, "fakecuda: there is no stream %p; the real driver crashes here\n",
			(void *)handle);
		abort();
	} else if (result == CU_OK && stream->dead) {
		result = CU_ERROR_CONTEXT_IS_DESTROYED;
	}
	*ret = stream;
	return result;
}

enum cu_result stream_enter_work(enum fake_call call, cu_stream handle,
				 struct cu_stream_object **ret)
{
	enum cu_result result = stream_enter(call, handle, ret);
	uint32_t ordinal;

	if (result == CU_OK)
		result = context_device(&ordinal);
	if (result == CU_OK && ordinal != (*ret)->ordinal)
		result = CU_ERROR_INVALID_HANDLE;
	return result;
}

static enum cu_result stream_make(uint32_t ordinal, bool blocking, cu_stream *ret)
{
	struct cu_stream_object *stream = calloc(1, sizeof(*stream));

	if (!stream)
		return CU_ERROR_OUT_OF_MEMORY;
	stream->last = &stream->first;
	stream->ordinal = ordinal;
	stream->blocking = blocking;
	stream->next = stream_list;
	stream_list = stream;
	*ret = stream;
	return CU_OK;
}

enum cu_result cuStreamCreate(cu_stream *ret_stream, unsigned int flags)
{
	enum cu_result result = fake_enter(FAKE_CALL_stream_create, context_ordinal(), 1);
	uint32_t ordinal;

	if (result == CU_OK)
		result = context_device(&ordinal);
	if (result == CU_OK && (!ret_stream || (flags & ~CU_FLAG_STREAM_NON_BLOCKING)))
		result = CU_ERROR_INVALID_VALUE;
	if (result == CU_OK)
		result = stream_make(ordinal, !(flags & CU_FLAG_STREAM_NON_BLOCKING), ret_stream);
	return fake_leave(result);
}

/* Does not wait: what it has is done first, then it is gone. */
enum cu_result cuStreamDestroy_v2(cu_stream handle)
{
	struct cu_stream_object *stream;
	enum cu_result result = stream_enter(FAKE_CALL_stream_destroy, handle, &stream);

	if (result == CU_OK && !handle)
		result = CU_ERROR_INVALID_VALUE;
	if (result == CU_OK || (stream && stream->dead)) {
		stream->closing = true;
		if (!stream->has_thread)
			stream_free(stream);
		fake_wake();
	}
	return fake_leave(result);
}

enum cu_result cuStreamSynchronize(cu_stream handle)
{
	struct cu_stream_object *stream;
	enum cu_result result = stream_enter(FAKE_CALL_stream_synchronize, handle, &stream);

	if (result == CU_OK) {
		stream_wait(stream, stream_tickets + 1);
		result = fake_health(stream->ordinal);
	}
	return fake_leave(result);
}

enum cu_result cuStreamQuery(cu_stream handle)
{
	struct cu_stream_object *stream;
	enum cu_result result = stream_enter(FAKE_CALL_stream_query, handle, &stream);

	if (result == CU_OK && stream->first)
		result = CU_ERROR_NOT_READY;
	return fake_leave(result);
}
