/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Streams and events: what is done in which order, and how one learns that it is done.
 *
 * A stream that has to stand still waits for a word of host memory, its gate: so what is asked
 * before the gate opens has one right answer, however fast a device is.
 */

#include "tests/gpu/conformance.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PIECE (2 * test_granule)
#define PATIENCE_MS 10000u

/* ---- for all tests of streams -------------------------------------------------------------- */

enum cu_result pinned_open(struct pinned *pinned, uint64_t bytes, int fd)
{
	enum cu_result result;

	*pinned = (struct pinned){ .fd = fd, .bytes = bytes };
	if (fd < 0) {
		pinned->fd = memfd_create("conformance", MFD_CLOEXEC);
		if (pinned->fd < 0 || ftruncate(pinned->fd, (off_t)bytes) < 0)
			return CU_ERROR_OPERATING_SYSTEM;
	}
	pinned->memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, pinned->fd, 0);
	if (pinned->memory == MAP_FAILED)
		return CU_ERROR_OPERATING_SYSTEM;
	result = cs->host_register(pinned->memory, bytes,
				   CU_FLAG_HOST_PORTABLE | CU_FLAG_HOST_DEVICEMAP);
	if (result == CU_OK)
		result = cs->host_get_device_pointer(&pinned->address, pinned->memory, 0);
	return result;
}

enum cu_result pinned_close(struct pinned *pinned)
{
	enum cu_result result = cs->host_unregister(pinned->memory);

	munmap(pinned->memory, pinned->bytes);
	close(pinned->fd);
	return result;
}

enum cu_result gate_shut(struct pinned *gate, cu_stream stream)
{
	__atomic_store_n((uint64_t *)gate->memory, 0, __ATOMIC_RELEASE);
	return cs->stream_wait_value64(stream, gate->address, 1, CU_FLAG_WAIT_VALUE_GEQ);
}

void gate_open(struct pinned *gate)
{
	__atomic_store_n((uint64_t *)gate->memory, 1, __ATOMIC_RELEASE);
}

void sleep_ms(uint32_t ms)
{
	struct timespec left = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L };

	while (nanosleep(&left, &left) < 0 && errno == EINTR)
		continue;
}

enum cu_result event_await(cu_event event, uint32_t timeout_ms)
{
	enum cu_result result = cs->event_query(event);

	for (uint32_t ms = 0; ms < timeout_ms && result == CU_ERROR_NOT_READY; ms++) {
		sleep_ms(1);
		result = cs->event_query(event);
	}
	return result;
}

/* ---- created and refused ------------------------------------------------------------------- */

static void test_created(void)
{
	cu_stream stream;
	cu_event event;

	EXPECT(INVALID_CONTEXT, cs->stream_create(&stream, 0));
	EXPECT(INVALID_CONTEXT, cs->event_create(&event, 0));
	EXPECT(INVALID_DEVICE, cs->primary_ctx_set_flags(99, CU_FLAG_CTX_BLOCKING_SYNC));
	EXPECT_TOLD(INVALID_VALUE, cs->primary_ctx_set_flags(test_ordinal, 0x8000));
	EXPECT(OK, cs->primary_ctx_set_flags(test_ordinal, CU_FLAG_CTX_BLOCKING_SYNC));
	EXPECT(OK, context_enter());
	EXPECT(INVALID_VALUE, cs->stream_create(&stream, 0x80));
	EXPECT(INVALID_VALUE, cs->event_create(&event, 0x80));
	EXPECT(OK, cs->stream_create(&stream, 0));
	EXPECT(OK, cs->stream_query(stream));
	EXPECT(OK, cs->stream_synchronize(stream));
	EXPECT(OK, cs->stream_query(NULL));
	EXPECT(OK, cs->stream_synchronize(NULL));
	EXPECT(OK, cs->stream_destroy(stream));
	EXPECT(OK, cs->event_create(&event, 0));
	EXPECT(OK, cs->event_query(event)); /* never recorded: nothing to wait for */
	EXPECT(OK, cs->event_synchronize(event));
	EXPECT(OK, cs->event_destroy(event));
	EXPECT(OK, context_leave());
}

/* ---- events -------------------------------------------------------------------------------- */

static void test_event(void)
{
	cu_event start, end, bare;
	struct pinned gate;
	cu_stream stream;
	float ms = 0;

	EXPECT(OK, context_enter());
	EXPECT(OK, pinned_open(&gate, PIECE, -1));
	EXPECT(OK, cs->stream_create(&stream, CU_FLAG_STREAM_NON_BLOCKING));
	EXPECT(OK, cs->event_create(&start, CU_FLAG_EVENT_BLOCKING_SYNC));
	EXPECT(OK, cs->event_create(&end, CU_FLAG_EVENT_BLOCKING_SYNC));
	EXPECT(OK, cs->event_create(&bare, CU_FLAG_EVENT_DISABLE_TIMING));
	EXPECT(INVALID_HANDLE, cs->event_elapsed_time(&ms, start, end));
	EXPECT(OK, cs->event_record(start, stream));
	EXPECT(OK, gate_shut(&gate, stream));
	EXPECT(OK, cs->event_record(end, stream));
	EXPECT(OK, cs->event_record(bare, stream));
	EXPECT(OK, event_await(start, PATIENCE_MS));
	sleep_ms(40);
	EXPECT(NOT_READY, cs->event_query(end));
	EXPECT(NOT_READY, cs->stream_query(stream));
	EXPECT(NOT_READY, cs->event_elapsed_time(&ms, start, end));
	gate_open(&gate);
	EXPECT(OK, cs->event_synchronize(end));
	EXPECT(OK, cs->event_query(end));
	EXPECT(OK, cs->event_elapsed_time(&ms, start, end));
	CHECK(ms >= 35 && ms < 10000);
	EXPECT(OK, cs->stream_synchronize(stream));
	EXPECT(OK, cs->event_query(bare));
	EXPECT(INVALID_HANDLE, cs->event_elapsed_time(&ms, start, bare));
	EXPECT(OK, cs->event_destroy(start));
	EXPECT(OK, cs->event_destroy(end));
	EXPECT(OK, cs->event_destroy(bare));
	EXPECT(OK, cs->stream_destroy(stream));
	EXPECT(OK, pinned_close(&gate));
	EXPECT(OK, context_leave());
}

/* What waits for an event waits for what it was recorded behind then, not for what comes later. */
static void test_wait_event(void)
{
	cu_stream first, second, third;
	struct pinned gate, host;
	cu_handle handle;
	cu_address at;
	cu_event event;

	EXPECT(OK, context_enter());
	EXPECT(OK, pinned_open(&gate, PIECE, -1));
	EXPECT(OK, pinned_open(&host, 2 * PIECE, -1));
	EXPECT(OK, allocation_create(PIECE, &handle));
	EXPECT(OK, window_open(handle, PIECE, &at));
	EXPECT(OK, cs->stream_create(&first, CU_FLAG_STREAM_NON_BLOCKING));
	EXPECT(OK, cs->stream_create(&second, CU_FLAG_STREAM_NON_BLOCKING));
	EXPECT(OK, cs->stream_create(&third, CU_FLAG_STREAM_NON_BLOCKING));
	EXPECT(OK, cs->event_create(&event, CU_FLAG_EVENT_DISABLE_TIMING));
	pattern_fill(host.memory, PIECE, 5);
	EXPECT(OK, gate_shut(&gate, first));
	EXPECT(OK, cs->memcpy_htod_async(at, host.memory, PIECE, first));
	EXPECT(OK, cs->event_record(event, first));
	EXPECT(OK, cs->stream_wait_event(second, event, 0));
	EXPECT(OK, cs->memcpy_dtoh_async(host.memory + PIECE, at, PIECE, second));
	EXPECT(OK, cs->event_record(event, third));
	EXPECT(OK, cs->event_synchronize(event));
	sleep_ms(20);
	EXPECT(NOT_READY, cs->stream_query(second));
	gate_open(&gate);
	EXPECT(OK, cs->stream_synchronize(second));
	CHECK(pattern_equals(host.memory + PIECE, PIECE, 5));
	EXPECT(OK, cs->event_destroy(event));
	EXPECT(OK, cs->stream_destroy(first));
	EXPECT(OK, cs->stream_destroy(second));
	EXPECT(OK, cs->stream_destroy(third));
	EXPECT(OK, window_close(at, PIECE));
	EXPECT(OK, cu->mem_release(handle));
	EXPECT(OK, pinned_close(&host));
	EXPECT(OK, pinned_close(&gate));
	EXPECT(OK, context_leave());
}

/* ---- order --------------------------------------------------------------------------------- */

/* Through one piece of device memory: any other order would show. */
static void test_in_order(void)
{
	enum { COPIES = 32 };
	struct pinned gate, from, to;
	cu_stream stream;
	cu_handle handle;
	cu_address at;

	EXPECT(OK, context_enter());
	EXPECT(OK, pinned_open(&gate, PIECE, -1));
	EXPECT(OK, pinned_open(&from, COPIES * PIECE, -1));
	EXPECT(OK, pinned_open(&to, COPIES * PIECE, -1));
	EXPECT(OK, allocation_create(PIECE, &handle));
	EXPECT(OK, window_open(handle, PIECE, &at));
	EXPECT(OK, cs->stream_create(&stream, CU_FLAG_STREAM_NON_BLOCKING));
	for (uint32_t i = 0; i < COPIES; i++)
		pattern_fill(from.memory + i * PIECE, PIECE, 200 + i);
	EXPECT(OK, gate_shut(&gate, stream));
	for (uint32_t i = 0; i < COPIES; i++) {
		EXPECT(OK, cs->memcpy_htod_async(at, from.memory + i * PIECE, PIECE, stream));
		EXPECT(OK, cs->memcpy_dtoh_async(to.memory + i * PIECE, at, PIECE, stream));
	}
	sleep_ms(10);
	CHECK(pattern_equals(to.memory, PIECE, 0));
	gate_open(&gate);
	EXPECT(OK, cs->stream_synchronize(stream));
	EXPECT(OK, cs->stream_query(stream));
	for (uint32_t i = 0; i < COPIES; i++)
		CHECK(pattern_equals(to.memory + i * PIECE, PIECE, 200 + i));
	EXPECT(OK, cs->stream_destroy(stream));
	EXPECT(OK, window_close(at, PIECE));
	EXPECT(OK, cu->mem_release(handle));
	EXPECT(OK, pinned_close(&to));
	EXPECT(OK, pinned_close(&from));
	EXPECT(OK, pinned_close(&gate));
	EXPECT(OK, context_leave());
}

/* It waits for the streams that were made to block, and holds them up; not the others. */
static void test_null_stream(void)
{
	cu_stream blocking, other;
	struct pinned gate, host;
	cu_handle handle;
	cu_address at;

	EXPECT(OK, context_enter());
	EXPECT(OK, pinned_open(&gate, PIECE, -1));
	EXPECT(OK, pinned_open(&host, 4 * PIECE, -1));
	EXPECT(OK, allocation_create(2 * PIECE, &handle));
	EXPECT(OK, window_open(handle, 2 * PIECE, &at));
	EXPECT(OK, cs->stream_create(&blocking, 0));
	EXPECT(OK, cs->stream_create(&other, CU_FLAG_STREAM_NON_BLOCKING));
	pattern_fill(host.memory, PIECE, 9);
	EXPECT(OK, gate_shut(&gate, blocking));
	EXPECT(OK, cs->memcpy_htod_async(at, host.memory, PIECE, blocking));
	EXPECT(OK, cs->memcpy_dtoh_async(host.memory + PIECE, at, PIECE, NULL));
	EXPECT(OK, cs->memcpy_htod_async(at, host.memory + 2 * PIECE, PIECE, blocking));
	EXPECT(OK, cs->memcpy_htod_async(at + PIECE, host.memory, PIECE, other));
	EXPECT(OK, cs->stream_synchronize(other));
	sleep_ms(10);
	EXPECT(NOT_READY, cs->stream_query(NULL));
	EXPECT(NOT_READY, cs->stream_query(blocking));
	gate_open(&gate);
	EXPECT(OK, cs->stream_synchronize(NULL));
	CHECK(pattern_equals(host.memory + PIECE, PIECE, 9));
	EXPECT(OK, cs->memcpy_dtoh_async(host.memory + 3 * PIECE, at + PIECE, PIECE, blocking));
	EXPECT(OK, cu->ctx_synchronize());
	EXPECT(OK, cs->stream_query(blocking));
	CHECK(pattern_equals(host.memory + 3 * PIECE, PIECE, 9));
	EXPECT(OK, cs->stream_destroy(blocking));
	EXPECT(OK, cs->stream_destroy(other));
	EXPECT(OK, window_close(at, 2 * PIECE));
	EXPECT(OK, cu->mem_release(handle));
	EXPECT(OK, pinned_close(&host));
	EXPECT(OK, pinned_close(&gate));
	EXPECT(OK, context_leave());
}

/* A stream that is destroyed has what it has done, all the same. */
static void test_destroyed_early(void)
{
	struct pinned gate, host;
	cu_stream stream;
	cu_handle handle;
	cu_event event;
	cu_address at;
	bool equal;

	EXPECT(OK, context_enter());
	EXPECT(OK, pinned_open(&gate, PIECE, -1));
	EXPECT(OK, pinned_open(&host, PIECE, -1));
	EXPECT(OK, allocation_create(PIECE, &handle));
	EXPECT(OK, window_open(handle, PIECE, &at));
	EXPECT(OK, cs->stream_create(&stream, CU_FLAG_STREAM_NON_BLOCKING));
	EXPECT(OK, cs->event_create(&event, CU_FLAG_EVENT_DISABLE_TIMING));
	pattern_fill(host.memory, PIECE, 13);
	EXPECT(OK, gate_shut(&gate, stream));
	EXPECT(OK, cs->memcpy_htod_async(at, host.memory, PIECE, stream));
	EXPECT(OK, cs->event_record(event, stream));
	EXPECT(OK, cs->stream_destroy(stream));
	EXPECT(NOT_READY, cs->event_query(event));
	gate_open(&gate);
	EXPECT(OK, event_await(event, PATIENCE_MS));
	EXPECT(OK, window_equals(at, PIECE, 13, &equal));
	CHECK(equal);
	EXPECT(OK, cs->event_destroy(event));
	EXPECT(OK, window_close(at, PIECE));
	EXPECT(OK, cu->mem_release(handle));
	EXPECT(OK, pinned_close(&host));
	EXPECT(OK, pinned_close(&gate));
	EXPECT(OK, context_leave());
}

const struct test tests_stream[] = {
	{ "streams and events are made in a context, with flags that exist", test_created },
	{ "an event is done with what was before it, and says when", test_event },
	{ "a stream waits for what an event was recorded behind", test_wait_event },
	{ "copies of a stream are done in order, and after their call", test_in_order },
	{ "the stream that is none waits for blocking ones, and they for it", test_null_stream },
	{ "a stream that is destroyed does what it has", test_destroyed_early },
	{ NULL, NULL },
};
