/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Events: that a stream has come to a place, and when.
 *
 * Each record of an event is a thing of its own, which those who wait for it hold: an event that is
 * recorded again, or destroyed, does not change what they wait for. A record that was dropped, in a
 * sick process, counts as done, for nobody shall wait for it.
 */

#include "tests/fakecuda/fake.h"

#include <stdio.h>
#include <stdlib.h>

#define EVENT_FLAGS (CU_FLAG_EVENT_BLOCKING_SYNC | CU_FLAG_EVENT_DISABLE_TIMING)

struct event_record {
	uint32_t references;
	bool done;
	uint64_t ns;
};

struct cu_event_object {
	struct cu_event_object *next;
	struct event_record *record; /* the latest; NULL: none */
	uint32_t ordinal;            /* of the device */
	bool timed;
};

struct event_op {
	struct stream_op op;
	struct event_record *record;
};

static struct cu_event_object *event_list;

static void event_record_put(struct event_record *record)
{
	if (record && --record->references == 0)
		free(record);
}

static bool event_is_done(const struct cu_event_object *event)
{
	return !event->record || event->record->done;
}

/* ---- ops ----------------------------------------------------------------------------------- */

static enum cu_result event_record_run(struct stream_op *op, struct cu_stream_object *stream)
{
	(void)stream;
	((struct event_op *)op)->record->ns = fake_now_ns();
	return CU_OK;
}

static void event_record_end(struct stream_op *op)
{
	struct event_op *event_op = (struct event_op *)op;

	event_op->record->done = true;
	event_record_put(event_op->record);
	free(op);
}

static bool event_wait_is_ready(struct stream_op *op)
{
	return ((struct event_op *)op)->record->done;
}

static void event_wait_end(struct stream_op *op)
{
	event_record_put(((struct event_op *)op)->record);
	free(op);
}

/* ---- calls --------------------------------------------------------------------------------- */

static struct cu_event_object *event_find(cu_event handle)
{
	for (struct cu_event_object *event = event_list; event; event = event->next) {
		if (event == handle)
			return event;
	}
	return NULL;
}

static void event_must_exist(cu_event handle)
{
	if (event_find(handle))
		return;
	fprintf(stderr, "fakecuda: there is no event %p; the real driver crashes here\n",
		(void *)handle);
	abort();
}

/* Begins a call on an event; one that does not exist aborts. */
static enum cu_result event_enter(enum fake_call call, cu_event handle)
{
	struct cu_event_object *event;
	enum cu_result result;

	fake_lock();
	event = event_find(handle);
	result = fake_begin(call, event ? (int)event->ordinal : FAKE_DEVICE_ANY, 1);
	if (result == CU_OK)
		event_must_exist(handle);
	return result;
}

static enum cu_result event_make(uint32_t ordinal, bool timed, cu_event *ret)
{
	struct cu_event_object *event = calloc(1, sizeof(*event));

	if (!event)
		return CU_ERROR_OUT_OF_MEMORY;
	event->ordinal = ordinal;
	event->timed = timed;
	event->next = event_list;
	event_list = event;
	*ret = event;
	return CU_OK;
}

enum cu_result cuEventCreate(cu_event *ret_event, unsigned int flags)
{
	enum cu_result result = fake_enter(FAKE_CALL_event_create, context_ordinal(), 1);
	uint32_t ordinal;

	if (result == CU_OK)
		result = context_device(&ordinal);
	if (result == CU_OK && (!ret_event || (flags & ~EVENT_FLAGS)))
		result = CU_ERROR_INVALID_VALUE;
	if (result == CU_OK)
		result = event_make(ordinal, !(flags & CU_FLAG_EVENT_DISABLE_TIMING), ret_event);
	return fake_leave(result);
}

enum cu_result cuEventDestroy_v2(cu_event event)
{
	enum cu_result result = event_enter(FAKE_CALL_event_destroy, event);
	struct cu_event_object **link = &event_list;

	if (result == CU_OK) {
		while (*link != event)
			link = &(*link)->next;
		*link = event->next;
		event_record_put(event->record);
		free(event);
	}
	return fake_leave(result);
}

static enum cu_result event_record(struct cu_event_object *event, struct cu_stream_object *stream)
{
	struct event_record *record = calloc(1, sizeof(*record));
	struct event_op *op = calloc(1, sizeof(*op));

	if (!record || !op) {
		free(record);
		free(op);
		return CU_ERROR_OUT_OF_MEMORY;
	}
	op->op.run = event_record_run;
	op->op.end = event_record_end;
	op->record = record;
	record->references = 2;
	event_record_put(event->record);
	event->record = record;
	return stream_queue(stream, &op->op, false);
}

enum cu_result cuEventRecord(cu_event event, cu_stream handle)
{
	struct cu_stream_object *stream;
	enum cu_result result = stream_enter_work(FAKE_CALL_event_record, handle, &stream);

	if (result == CU_OK) {
		event_must_exist(event);
		if (event->ordinal != stream->ordinal)
			result = CU_ERROR_INVALID_HANDLE;
	}
	return fake_leave(result ? result : event_record(event, stream));
}

enum cu_result cuEventQuery(cu_event event)
{
	enum cu_result result = event_enter(FAKE_CALL_event_query, event);

	if (result == CU_OK && !event_is_done(event))
		result = CU_ERROR_NOT_READY;
	return fake_leave(result);
}

enum cu_result cuEventSynchronize(cu_event event)
{
	enum cu_result result = event_enter(FAKE_CALL_event_synchronize, event);
	struct event_record *record = result == CU_OK ? event->record : NULL;
	uint32_t ordinal = record ? event->ordinal : 0;

	if (record) {
		record->references++;
		while (!record->done)
			fake_wait();
		event_record_put(record);
		result = fake_health(ordinal);
	}
	return fake_leave(result);
}

enum cu_result cuEventElapsedTime(float *ret_ms, cu_event start, cu_event end)
{
	enum cu_result result = event_enter(FAKE_CALL_event_elapsed_time, start);

	if (result == CU_OK)
		event_must_exist(end);
	if (result == CU_OK && !ret_ms)
		result = CU_ERROR_INVALID_VALUE;
	if (result == CU_OK && (!start->timed || !end->timed || !start->record || !end->record))
		result = CU_ERROR_INVALID_HANDLE;
	if (result == CU_OK && (!event_is_done(start) || !event_is_done(end)))
		result = CU_ERROR_NOT_READY;
	if (result == CU_OK)
		*ret_ms = (float)((double)((int64_t)end->record->ns - (int64_t)start->record->ns) /
				  1e6);
	return fake_leave(result);
}

static enum cu_result event_wait(struct cu_event_object *event, struct cu_stream_object *stream)
{
	struct event_op *op;

	if (event_is_done(event))
		return CU_OK;
	op = calloc(1, sizeof(*op));
	if (!op)
		return CU_ERROR_OUT_OF_MEMORY;
	op->op.is_ready = event_wait_is_ready;
	op->op.end = event_wait_end;
	op->record = event->record;
	op->record->references++;
	return stream_queue(stream, &op->op, false);
}

/* The event may be of another device. */
enum cu_result cuStreamWaitEvent(cu_stream handle, cu_event event, unsigned int flags)
{
	struct cu_stream_object *stream;
	enum cu_result result = stream_enter_work(FAKE_CALL_stream_wait_event, handle, &stream);

	if (result == CU_OK)
		event_must_exist(event);
	if (result == CU_OK && flags)
		result = CU_ERROR_INVALID_VALUE;
	return fake_leave(result ? result : event_wait(event, stream));
}
