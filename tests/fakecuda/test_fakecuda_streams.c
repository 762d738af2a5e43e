/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The stand-in's streams, as far as they are not the driver's: rates, failures that it is told to
 * have, what it refuses where the driver is quiet, and that nothing hangs or crashes when memory,
 * contexts, devices and processes go away under a copy. What both must answer alike is in
 * tests/gpu/conformance_stream.c and beside it.
 */

#include "tests/fakecuda/test_process.h"
#include "tests/unit/suite.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define HOST_FLAGS (CU_FLAG_HOST_PORTABLE | CU_FLAG_HOST_DEVICEMAP)
#define FORKS 100u

static const struct cuda_stream_api *cs;

/* What a case works with: device memory, known host memory of that size, a stream, a gate. */
struct bench {
	cu_context context;
	cu_handle handle;
	cu_address device;
	uint8_t *host;
	uint64_t *gate;
	cu_address gate_address;
	uint64_t bytes;
	cu_stream stream;
};

static void *known_memory(uint64_t bytes)
{
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	ck_assert(memory != MAP_FAILED);
	ck_assert_int_eq(cs->host_register(memory, bytes, HOST_FLAGS), CU_OK);
	return memory;
}

static void bench_start(struct bench *b, const char *node, const char *settings, uint64_t bytes)
{
	struct cu_access_desc desc = { .location = { .type = CU_LOCATION_DEVICE },
				       .flags = CU_ACCESS_READ_WRITE };

	fake_start(node, settings);
	ck_assert_int_eq(cuda_load_streams(&cs), 0);
	ck_assert_int_eq(cu->primary_ctx_retain(&b->context, 0), CU_OK);
	ck_assert_int_eq(cu->ctx_set_current(b->context), CU_OK);
	ck_assert_int_eq(fake_create(0, bytes, &b->handle), CU_OK);
	ck_assert_int_eq(cu->mem_address_reserve(&b->device, bytes, 0, 0, 0), CU_OK);
	ck_assert_int_eq(cu->mem_map(b->device, bytes, 0, b->handle, 0), CU_OK);
	ck_assert_int_eq(cu->mem_set_access(b->device, bytes, &desc, 1), CU_OK);
	b->bytes = bytes;
	b->host = known_memory(bytes);
	b->gate = known_memory(4096);
	ck_assert_int_eq(cs->host_get_device_pointer(&b->gate_address, b->gate, 0), CU_OK);
	ck_assert_int_eq(cs->stream_create(&b->stream, CU_FLAG_STREAM_NON_BLOCKING), CU_OK);
}

/* The stream stands still until the gate is opened. */
static void gate_shut(struct bench *b)
{
	ck_assert_int_eq(cs->stream_wait_value64(b->stream, b->gate_address, 1, 0), CU_OK);
}

static void gate_open(struct bench *b)
{
	__atomic_store_n(b->gate, 1, __ATOMIC_RELEASE);
}

static enum cu_result copy_up(struct bench *b)
{
	return cs->memcpy_htod_async(b->device, b->host, b->bytes, b->stream);
}

static void bench_unmap(struct bench *b)
{
	ck_assert_int_eq(cu->mem_unmap(b->device, b->bytes), CU_OK);
	ck_assert_int_eq(cu->mem_address_free(b->device, b->bytes), CU_OK);
	ck_assert_int_eq(cu->mem_release(b->handle), CU_OK);
}

/* ---- settings ------------------------------------------------------------------------------ */

/* 4 MiB each at 8 MiB/s, on two streams: they share the engine, the other direction does not. */
START_TEST(test_rates)
{
	const uint64_t part = 4 << 20;
	cu_stream other, back;
	struct bench b;
	uint64_t start;

	bench_start(&b, "rates", "mem=64M,up=8M", 12 << 20);
	ck_assert_int_eq(cs->stream_create(&other, CU_FLAG_STREAM_NON_BLOCKING), CU_OK);
	ck_assert_int_eq(cs->stream_create(&back, CU_FLAG_STREAM_NON_BLOCKING), CU_OK);
	start = now_us();
	ck_assert_int_eq(cs->memcpy_htod_async(b.device, b.host, part, b.stream), CU_OK);
	ck_assert_int_eq(cs->memcpy_htod_async(b.device + part, b.host + part, part, other), CU_OK);
	ck_assert_int_eq(cs->stream_query(b.stream), CU_ERROR_NOT_READY);
	ck_assert_int_eq(cs->memcpy_dtoh_async(b.host + 2 * part, b.device + 2 * part, part, back),
			 CU_OK);
	ck_assert_int_eq(cs->stream_synchronize(back), CU_OK);
	ck_assert_int_eq(cs->stream_query(b.stream), CU_ERROR_NOT_READY);
	ck_assert_int_eq(cs->stream_synchronize(b.stream), CU_OK);
	ck_assert_uint_ge(now_us() - start, 500000);
	ck_assert_int_eq(cs->stream_synchronize(other), CU_OK);
	ck_assert_uint_ge(now_us() - start, 1000000);
	start = now_us();
	ck_assert_int_eq(cu->memcpy_htod(b.device, b.host, part), CU_OK);
	ck_assert_uint_ge(now_us() - start, 500000);
	bench_unmap(&b);
}
END_TEST

START_TEST(test_rate_down)
{
	struct bench b;
	uint64_t start;

	bench_start(&b, "down", "mem=64M,down=16M", PIECE);
	start = now_us();
	ck_assert_int_eq(cs->memcpy_dtoh_async(b.host, b.device, b.bytes, b.stream), CU_OK);
	ck_assert_int_eq(cs->stream_synchronize(b.stream), CU_OK);
	ck_assert_uint_ge(now_us() - start, 125000);
	bench_unmap(&b);
}
END_TEST

static const struct {
	const char *settings;
	bool has_12, has_13;
} batch_versions[] = {
	{ "version=12070", false, false },
	{ "version=12080", true, false },
	{ "version=12090", true, false },
	{ "version=13000", false, true },
};

/* A version decides whether there is a batch, and of which form. */
START_TEST(test_batch_versions)
{
	fake_start("versions", batch_versions[_i].settings);
	ck_assert_int_eq(cuda_load_streams(&cs), 0);
	ck_assert_int_eq(cs->batch_12 != NULL, batch_versions[_i].has_12);
	ck_assert_int_eq(cs->batch_13 != NULL, batch_versions[_i].has_13);
}
END_TEST

/* ---- failures ------------------------------------------------------------------------------ */

START_TEST(test_fail_calls)
{
	struct cu_copy_attributes attributes = { .order = CU_COPY_ORDER_STREAM };
	cu_address to, from;
	size_t bytes = PIECE, first = 0;
	struct bench b;
	cu_event event;

	bench_start(&b, "failcalls",
		    "mem=64M,fail=cuMemcpyHtoDAsync_v2:2:OUT_OF_MEMORY,"
		    "fail=cuMemcpyBatchAsync_v2:1:OUT_OF_MEMORY,"
		    "fail=cuMemHostRegister_v2@0:3:OUT_OF_MEMORY,"
		    "fail=cuEventRecord:1:NOT_PERMITTED",
		    PIECE);
	to = b.device;
	from = (uintptr_t)b.host;
	ck_assert_int_eq(copy_up(&b), CU_OK);
	ck_assert_int_eq(copy_up(&b), CU_ERROR_OUT_OF_MEMORY);
	ck_assert_int_eq(copy_up(&b), CU_OK);
	ck_assert_int_eq(cs->batch_13(&to, &from, &bytes, 1, &attributes, &first, 1, b.stream),
			 CU_ERROR_OUT_OF_MEMORY);
	ck_assert_int_eq(cs->batch_13(&to, &from, &bytes, 1, &attributes, &first, 1, b.stream),
			 CU_OK);
	ck_assert_int_eq(cs->host_register(&first, 1, HOST_FLAGS), CU_ERROR_OUT_OF_MEMORY);
	ck_assert_int_eq(cs->event_create(&event, 0), CU_OK);
	ck_assert_int_eq(cs->event_record(event, b.stream), CU_ERROR_NOT_PERMITTED);
	ck_assert_int_eq(cs->event_query(event), CU_OK);
	ck_assert_int_eq(cs->event_destroy(event), CU_OK);
	ck_assert_int_eq(cs->stream_synchronize(b.stream), CU_OK);
	bench_unmap(&b);
}
END_TEST

/* A memory error, or a device that is gone, and nobody waits for what can no longer come. */
START_TEST(test_fail_in_flight)
{
	static const struct {
		const char *settings;
		enum cu_result result;
	} kinds[] = {
		{ "mem=64M,fail=cuEventQuery@0:2:ECC_UNCORRECTABLE", CU_ERROR_ECC_UNCORRECTABLE },
		{ "mem=64M,fail=cuEventQuery@0:2:DEVICE_LOST", CU_ERROR_UNKNOWN },
	};
	struct bench b;
	cu_event event;

	bench_start(&b, "inflight", kinds[_i].settings, PIECE);
	ck_assert_int_eq(cs->event_create(&event, 0), CU_OK);
	gate_shut(&b);
	ck_assert_int_eq(copy_up(&b), CU_OK);
	ck_assert_int_eq(cs->event_record(event, b.stream), CU_OK);
	ck_assert_int_eq(cs->event_query(event), CU_ERROR_NOT_READY);
	ck_assert_int_eq(cs->event_query(event), kinds[_i].result);
	ck_assert_int_eq(cs->event_synchronize(event), kinds[_i].result);
	ck_assert_int_eq(cs->stream_synchronize(b.stream), kinds[_i].result);
	ck_assert_int_eq(copy_up(&b), kinds[_i].result);
	ck_assert_int_eq(cs->stream_create(&b.stream, 0), kinds[_i].result);
	ck_assert_int_eq(cs->host_unregister(b.host), kinds[_i].result);
	ck_assert_int_eq(cu->ctx_synchronize(), kinds[_i].result);
}
END_TEST

START_TEST(test_refused)
{
	cu_address at;
	struct bench b;

	bench_start(&b, "refused", "mem=64M", PIECE);
	at = b.gate_address;
	ck_assert_int_eq(cs->stream_write_value64(b.stream, at + 4, 1, 0), CU_ERROR_INVALID_VALUE);
	ck_assert_int_eq(cs->stream_write_value64(b.stream, at + 4096, 1, 0),
			 CU_ERROR_INVALID_VALUE);
	ck_assert_int_eq(cs->stream_write_value64(b.stream, at, 1, 8), CU_ERROR_INVALID_VALUE);
	ck_assert_int_eq(cs->stream_wait_value64(b.stream, at, 0, 1), CU_ERROR_INVALID_VALUE);
	ck_assert_int_eq(cs->stream_wait_value64(b.stream, 0, 0, 0), CU_ERROR_INVALID_VALUE);
	ck_assert_int_eq(cs->memcpy_htod_async(b.device, b.host, PIECE + 1, b.stream),
			 CU_ERROR_INVALID_VALUE);
	ck_assert_int_eq(cs->memcpy_htod_async((uintptr_t)&at, b.host, 8, b.stream),
			 CU_ERROR_INVALID_VALUE);
	ck_assert_int_eq(cs->memcpy_dtoh_async(b.host, 0, 8, b.stream), CU_ERROR_INVALID_VALUE);
	ck_assert_int_eq(cu->ctx_set_current(NULL), CU_OK);
	ck_assert_int_eq(copy_up(&b), CU_ERROR_INVALID_CONTEXT);
	ck_assert_int_eq(cs->stream_synchronize(b.stream), CU_OK);
	ck_assert_int_eq(cs->stream_synchronize(NULL), CU_ERROR_INVALID_CONTEXT);
	ck_assert_int_eq(cs->host_unregister(b.host), CU_ERROR_INVALID_CONTEXT);
	bench_unmap(&b);
}
END_TEST

/* In a batch everything is right, or nothing is begun; it says which copy is wrong. */
START_TEST(test_batch_refused)
{
	struct cu_copy_attributes attributes = { .order = CU_COPY_ORDER_STREAM };
	cu_address to[4], from[4];
	size_t bytes[4], first = 0, failed = 0;
	struct bench b;
	char stray[64];

	bench_start(&b, "batch", "mem=64M,version=12080", PIECE);
	for (uint32_t i = 0; i < 4; i++) {
		to[i] = b.device + i * 64;
		from[i] = (uintptr_t)b.host + i * 64;
		bytes[i] = 64;
	}
	memset(b.host, 0x77, 4 * 64);
	from[2] = (uintptr_t)stray; /* not known */
	ck_assert_int_eq(
		cs->batch_12(to, from, bytes, 4, &attributes, &first, 1, &failed, b.stream),
		CU_ERROR_INVALID_VALUE);
	ck_assert_uint_eq(failed, 2);
	ck_assert_int_eq(
		cs->batch_12(to, from, bytes, 4, &attributes, &first, 5, &failed, b.stream),
		CU_ERROR_INVALID_VALUE);
	ck_assert_uint_eq(failed, SIZE_MAX);
	ck_assert_int_eq(cs->batch_12(to, from, bytes, 4, &attributes, &first, 1, NULL, NULL),
			 CU_ERROR_INVALID_VALUE);
	ck_assert_int_eq(cs->stream_synchronize(b.stream), CU_OK);
	ck_assert_int_eq(cu->memcpy_dtoh(stray, b.device, sizeof(stray)), CU_OK);
	ck_assert_int_eq(stray[0], 0);
	ck_assert_int_eq(cs->batch_12(to, from, bytes, 2, &attributes, &first, 1, NULL, b.stream),
			 CU_OK);
	ck_assert_int_eq(cs->stream_synchronize(b.stream), CU_OK);
	ck_assert_int_eq(cu->memcpy_dtoh(stray, b.device + 64, sizeof(stray)), CU_OK);
	ck_assert_int_eq(stray[63], 0x77);
	bench_unmap(&b);
}
END_TEST

/* A stream and an event are their device's; streams of others may wait for the event. */
START_TEST(test_devices)
{
	cu_context other;
	struct bench b;
	cu_stream there;
	cu_event event;

	bench_start(&b, "devices", "gpus=2,mem=64M", PIECE);
	ck_assert_int_eq(cs->event_create(&event, 0), CU_OK);
	ck_assert_int_eq(cu->primary_ctx_retain(&other, 1), CU_OK);
	ck_assert_int_eq(cu->ctx_set_current(other), CU_OK);
	ck_assert_int_eq(cs->stream_create(&there, CU_FLAG_STREAM_NON_BLOCKING), CU_OK);
	ck_assert_int_eq(copy_up(&b), CU_ERROR_INVALID_HANDLE);
	ck_assert_int_eq(cs->event_record(event, there), CU_ERROR_INVALID_HANDLE);
	ck_assert_int_eq(cs->memcpy_htod_async(b.device, b.host, 8, there), CU_ERROR_INVALID_VALUE);
	ck_assert_int_eq(cu->ctx_set_current(b.context), CU_OK);
	gate_shut(&b);
	ck_assert_int_eq(cs->event_record(event, b.stream), CU_OK);
	ck_assert_int_eq(cu->ctx_set_current(other), CU_OK);
	ck_assert_int_eq(cs->stream_wait_event(there, event, 0), CU_OK);
	ck_assert_int_eq(cs->stream_wait_event(there, event, 2), CU_ERROR_INVALID_VALUE);
	ck_assert_int_eq(cs->stream_query(there), CU_ERROR_NOT_READY);
	gate_open(&b);
	ck_assert_int_eq(cs->stream_synchronize(there), CU_OK);
	ck_assert_int_eq(cs->event_query(event), CU_OK);
	bench_unmap(&b);
}
END_TEST

static bool use_destroyed_stream(const char *settings)
{
	struct bench b;

	close(STDERR_FILENO);
	signal(SIGABRT, SIG_DFL); /* not a sanitizer's */
	bench_start(&b, "destroyed", settings, PIECE);
	cs->stream_destroy(b.stream);
	return cs->stream_query(b.stream) == CU_OK;
}

static bool use_destroyed_event(const char *settings)
{
	struct bench b;
	cu_event event;

	close(STDERR_FILENO);
	signal(SIGABRT, SIG_DFL);
	bench_start(&b, "destroyed", settings, PIECE);
	cs->event_create(&event, 0);
	cs->event_destroy(event);
	return cs->event_query(event) == CU_OK;
}

START_TEST(test_destroyed)
{
	int status = child_run(use_destroyed_stream, "mem=64M");
	struct bench b;

	ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
	status = child_run(use_destroyed_event, "mem=64M");
	ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
	bench_start(&b, "destroyed", "mem=64M", PIECE); /* take along what they left */
	bench_unmap(&b);
}
END_TEST

/* ---- what goes away under a copy ------------------------------------------------------------ */

/* Bytes that are on their way arrive, what has not begun is a fault; nothing crashes. */
START_TEST(test_unmap_in_flight)
{
	enum cu_result result;
	struct bench b;

	bench_start(&b, "unmap", "mem=64M", 64 << 20);
	ck_assert_int_eq(copy_up(&b), CU_OK);
	usleep((useconds_t)_i * 2000);
	ck_assert_int_eq(cu->mem_unmap(b.device, b.bytes), CU_OK);
	result = cs->stream_synchronize(b.stream);
	ck_assert(result == CU_OK || result == CU_ERROR_LAUNCH_FAILED);
}
END_TEST

START_TEST(test_unregister_in_flight)
{
	struct bench b;

	bench_start(&b, "unregister", "mem=64M", PIECE);
	gate_shut(&b);
	ck_assert_int_eq(copy_up(&b), CU_OK);
	ck_assert_int_eq(cs->host_unregister(b.host), CU_OK);
	ck_assert_int_eq(munmap(b.host, b.bytes), 0);
	gate_open(&b);
	ck_assert_int_eq(cs->stream_synchronize(b.stream), CU_ERROR_LAUNCH_FAILED);
}
END_TEST

START_TEST(test_right_taken_in_flight)
{
	struct cu_access_desc desc = { .location = { .type = CU_LOCATION_DEVICE },
				       .flags = CU_ACCESS_READ };
	struct bench b;

	bench_start(&b, "right", "mem=64M", PIECE);
	gate_shut(&b);
	ck_assert_int_eq(cs->memcpy_dtoh_async(b.host, b.device, b.bytes, b.stream), CU_OK);
	ck_assert_int_eq(copy_up(&b), CU_OK);
	ck_assert_int_eq(cu->mem_set_access(b.device, b.bytes, &desc, 1), CU_OK);
	gate_open(&b);
	ck_assert_int_eq(cs->stream_synchronize(b.stream), CU_ERROR_LAUNCH_FAILED);
}
END_TEST

/* The word that a stream waits for goes: the wait is over, with a fault. */
START_TEST(test_word_goes)
{
	struct bench b;

	bench_start(&b, "word", "mem=64M", PIECE);
	gate_shut(&b);
	ck_assert_int_eq(cs->host_unregister(b.gate), CU_OK);
	ck_assert_int_eq(munmap(b.gate, 4096), 0);
	ck_assert_int_eq(cs->stream_synchronize(b.stream), CU_ERROR_ILLEGAL_ADDRESS);
}
END_TEST

/* With its context a stream loses what it has not begun, and who waits need not. */
START_TEST(test_context_goes)
{
	struct bench b;
	cu_event event;

	bench_start(&b, "context", "mem=64M", PIECE);
	memset(b.host, 1, b.bytes);
	ck_assert_int_eq(cs->event_create(&event, 0), CU_OK);
	gate_shut(&b);
	ck_assert_int_eq(copy_up(&b), CU_OK);
	ck_assert_int_eq(cs->event_record(event, b.stream), CU_OK);
	ck_assert_int_eq(cu->primary_ctx_release(0), CU_OK);
	ck_assert_int_eq(cs->event_synchronize(event), CU_OK);
	ck_assert_int_eq(cs->stream_synchronize(b.stream), CU_ERROR_CONTEXT_IS_DESTROYED);
	ck_assert_int_eq(copy_up(&b), CU_ERROR_CONTEXT_IS_DESTROYED);
	ck_assert_int_eq(cs->stream_create(&b.stream, 0), CU_ERROR_CONTEXT_IS_DESTROYED);
	ck_assert_int_eq(cs->stream_destroy(b.stream), CU_ERROR_CONTEXT_IS_DESTROYED);
	ck_assert_int_eq(cu->primary_ctx_retain(&b.context, 0), CU_OK);
	ck_assert_int_eq(cs->stream_create(&b.stream, 0), CU_OK);
	ck_assert_int_eq(cu->memcpy_dtoh(b.host, b.device, 1), CU_OK);
	ck_assert_int_eq(b.host[0], 0);
	bench_unmap(&b);
}
END_TEST

static bool exit_in_flight(const char *settings)
{
	struct bench b;

	bench_start(&b, "exit", settings, PIECE);
	if (copy_up(&b))
		return false;
	gate_shut(&b);
	return copy_up(&b) == CU_OK;
}

/* A program may end with streams at work, and leaves nothing then either. */
START_TEST(test_exit_in_flight)
{
	ck_assert_int_eq(child_run(exit_in_flight, "mem=68M,up=1M"), 0);
}
END_TEST

static void *sync_copies(void *argument)
{
	struct bench *b = argument;

	if (cu->ctx_set_current(b->context))
		return b;
	for (uint32_t i = 0; i < 200; i++) {
		if (cu->memcpy_dtoh(b->host, b->device, 4096))
			return b;
	}
	return NULL;
}

/* A child of fork has no driver, and does not hang, whatever streams were at then. */
START_TEST(test_fork_in_flight)
{
	struct bench b;
	pthread_t thread;
	void *failed;

	bench_start(&b, "fork", "mem=64M", PIECE);
	gate_shut(&b);
	ck_assert_int_eq(pthread_create(&thread, NULL, sync_copies, &b), 0);
	for (uint32_t i = 0; i < FORKS; i++) {
		int status = -1, count;
		pid_t pid = fork();

		if (pid == 0) {
			alarm(10);
			_exit(cu->device_get_count(&count) == CU_ERROR_NOT_INITIALIZED ? 0 : 1);
		}
		ck_assert_int_eq(waitpid(pid, &status, 0), pid);
		ck_assert_int_eq(status, 0);
	}
	pthread_join(thread, &failed);
	ck_assert_ptr_null(failed);
	gate_open(&b);
	ck_assert_int_eq(cs->stream_synchronize(b.stream), CU_OK);
	bench_unmap(&b);
}
END_TEST

/* ---- threads ------------------------------------------------------------------------------- */

struct worker {
	struct bench *bench;
	uint32_t number;
	bool failed;
	pthread_t thread;
};

static void *worker_run(void *argument)
{
	struct worker *w = argument;
	uint64_t bytes = w->bench->bytes / 4, at = w->number * bytes;
	cu_stream stream;
	cu_event event;

	w->failed = cu->ctx_set_current(w->bench->context) || cs->stream_create(&stream, 0) ||
		    cs->event_create(&event, 0);
	for (uint32_t i = 0; i < 20 && !w->failed; i++) {
		w->failed = cs->memcpy_htod_async(w->bench->device + at, w->bench->host + at, bytes,
						  stream) ||
			    cs->memcpy_dtoh_async(w->bench->host + at, w->bench->device + at, bytes,
						  stream) ||
			    cs->event_record(event, stream) ||
			    cu->memset_d8(w->bench->device + at, (uint8_t)i, 64) ||
			    cs->event_synchronize(event);
	}
	w->failed |= cs->event_destroy(event) || cs->stream_destroy(stream);
	return NULL;
}

/* Streams of many threads, and what waits for them all between. */
START_TEST(test_threads)
{
	struct worker workers[4];
	struct bench b;

	bench_start(&b, "threads", "mem=64M", 4 * PIECE);
	for (uint32_t i = 0; i < 4; i++) {
		workers[i] = (struct worker){ .bench = &b, .number = i };
		ck_assert_int_eq(pthread_create(&workers[i].thread, NULL, worker_run, &workers[i]),
				 0);
	}
	for (uint32_t i = 0; i < 20; i++)
		ck_assert_int_eq(cu->ctx_synchronize(), CU_OK);
	for (uint32_t i = 0; i < 4; i++) {
		pthread_join(workers[i].thread, NULL);
		ck_assert(!workers[i].failed);
	}
	bench_unmap(&b);
}
END_TEST

int main(void)
{
	static const struct suite_case cases[] = {
		{ &test_rates, 20 },
		{ &test_rate_down, 20 },
		{ &test_batch_versions, 0, sizeof(batch_versions) / sizeof(batch_versions[0]) },
		{ &test_fail_calls, 0 },
		{ &test_fail_in_flight, 20, 2 },
		{ &test_refused, 0 },
		{ &test_batch_refused, 0 },
		{ &test_devices, 0 },
		{ &test_destroyed, 20 },
		{ &test_unmap_in_flight, 60, 6 },
		{ &test_unregister_in_flight, 20 },
		{ &test_right_taken_in_flight, 20 },
		{ &test_word_goes, 20 },
		{ &test_context_goes, 20 },
		{ &test_exit_in_flight, 20 },
		{ &test_fork_in_flight, 30 },
		{ &test_threads, 60 },
		{ NULL, 0 },
	};

	return suite_run("fakecuda-streams", cases);
}
