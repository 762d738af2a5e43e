/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Host memory that is made known to a device: copied from and to, also by many copies in one call,
 * words that streams and processes tell each other by, and what happens to copies that go wrong.
 *
 * What spoils a process for good is done in another one.
 */

#include "tests/gpu/conformance.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PIECE (2 * test_granule)
#define PATIENCE_MS 10000u

/* ---- known and unknown --------------------------------------------------------------------- */

static void test_register(void)
{
	const unsigned int flags = CU_FLAG_HOST_PORTABLE | CU_FLAG_HOST_DEVICEMAP;
	uint8_t *memory =
		mmap(NULL, 3 * PIECE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	cu_address at = 0, inner = 0;

	CHECK(memory != MAP_FAILED);
	EXPECT_TOLD(INVALID_CONTEXT, cs->host_register(memory, PIECE, flags));
	EXPECT(OK, context_enter());
	EXPECT(INVALID_VALUE, cs->host_register(memory, 0, flags));
	EXPECT_TOLD(INVALID_VALUE, cs->host_register(NULL, PIECE, flags));
	EXPECT_TOLD(INVALID_VALUE, cs->host_register(memory, PIECE, 0x8000));
	EXPECT(INVALID_VALUE, cs->host_get_device_pointer(&at, memory, 0));
	EXPECT(OK, cs->host_register(memory, 2 * PIECE, flags));
	EXPECT(HOST_MEMORY_ALREADY_REGISTERED, cs->host_register(memory, 2 * PIECE, flags));
	EXPECT(HOST_MEMORY_ALREADY_REGISTERED, cs->host_register(memory + PIECE, PIECE, flags));
	EXPECT_TOLD(HOST_MEMORY_ALREADY_REGISTERED,
		    cs->host_register(memory + PIECE, 2 * PIECE, flags));
	EXPECT(OK, cs->host_get_device_pointer(&at, memory, 0));
	EXPECT(OK, cs->host_get_device_pointer(&inner, memory + 4096, 0));
	CHECK(at != 0 && inner == at + 4096);
	EXPECT_TOLD(INVALID_VALUE, cs->host_get_device_pointer(&inner, memory, 1));
	EXPECT_TOLD(HOST_MEMORY_NOT_REGISTERED, cs->host_unregister(memory + PIECE));
	EXPECT(OK, cs->host_unregister(memory));
	EXPECT(HOST_MEMORY_NOT_REGISTERED, cs->host_unregister(memory));
	EXPECT(OK, cs->host_register(memory + PIECE, PIECE, flags));
	EXPECT(OK, cs->host_register(memory, PIECE, flags));
	EXPECT(OK, cs->host_unregister(memory));
	EXPECT(OK, cs->host_unregister(memory + PIECE));
	munmap(memory, 3 * PIECE);
	EXPECT_TOLD(INVALID_VALUE, cs->host_register(memory, PIECE, flags));
	EXPECT(OK, context_leave());
}

/* What a device gets from a memfd and writes to one is what others see, there and in its memory. */
static void test_both_ways(void)
{
	const uint64_t bytes = 8 * PIECE;
	struct peer device_side, host_side;
	struct pinned host;
	cu_handle handle;
	cu_stream stream;
	cu_address at;
	int fd = -1;

	CHECK(peer_start(&device_side) && peer_start(&host_side));
	EXPECT(OK, context_enter());
	EXPECT(OK, pinned_open(&host, bytes, -1));
	EXPECT(OK, allocation_create(bytes, &handle));
	EXPECT(OK, window_open(handle, bytes, &at));
	EXPECT(OK, cu->mem_export(&fd, handle, CU_HANDLE_POSIX_FD, 0));
	EXPECT(OK, cs->stream_create(&stream, CU_FLAG_STREAM_NON_BLOCKING));
	EXPECT(OK, peer_call(&device_side, PEER_IMPORT, bytes, 0, fd, NULL));
	close(fd);
	EXPECT(OK, peer_call(&host_side, PEER_HOST_FILL, bytes, 81, host.fd, NULL));
	EXPECT(OK, cs->memcpy_htod_async(at, host.memory, bytes, stream));
	EXPECT(OK, cs->stream_synchronize(stream));
	EXPECT(OK, peer_call(&device_side, PEER_EQUALS, bytes, 81, -1, NULL));
	EXPECT(OK, peer_call(&device_side, PEER_FILL, bytes, 82, -1, NULL));
	EXPECT(OK, cs->memcpy_dtoh_async(host.memory, at, bytes, stream));
	EXPECT(OK, cs->stream_synchronize(stream));
	CHECK(pattern_equals(host.memory, bytes, 82));
	EXPECT(OK, peer_call(&host_side, PEER_HOST_EQUALS, bytes, 82, host.fd, NULL));
	EXPECT(OK, peer_call(&device_side, PEER_DROP, bytes, 0, -1, NULL));
	peer_kill(&device_side);
	peer_kill(&host_side);
	EXPECT(OK, cs->stream_destroy(stream));
	EXPECT(OK, window_close(at, bytes));
	EXPECT(OK, cu->mem_release(handle));
	EXPECT(OK, pinned_close(&host));
	EXPECT(OK, context_leave());
}

/* What was made known by two calls is not one memory. */
static void test_known_twice(void)
{
	struct pinned host;
	cu_handle handle;
	cu_stream stream;
	cu_address at;

	EXPECT(OK, context_enter());
	EXPECT(OK, pinned_open(&host, 2 * PIECE, -1));
	EXPECT(OK, cs->host_unregister(host.memory));
	EXPECT(OK, cs->host_register(host.memory, PIECE, CU_FLAG_HOST_PORTABLE));
	EXPECT(OK, cs->host_register(host.memory + PIECE, PIECE, CU_FLAG_HOST_PORTABLE));
	EXPECT(OK, allocation_create(PIECE, &handle));
	EXPECT(OK, window_open(handle, PIECE, &at));
	EXPECT(OK, cs->stream_create(&stream, CU_FLAG_STREAM_NON_BLOCKING));
	EXPECT_TOLD(INVALID_VALUE,
		    cs->memcpy_htod_async(at, host.memory + PIECE / 2, PIECE, stream));
	EXPECT(OK, cs->stream_synchronize(stream));
	EXPECT(OK, cs->stream_destroy(stream));
	EXPECT(OK, window_close(at, PIECE));
	EXPECT(OK, cu->mem_release(handle));
	EXPECT(OK, cs->host_unregister(host.memory + PIECE));
	EXPECT(OK, pinned_close(&host));
	EXPECT(OK, context_leave());
}

/* Memory that is not known is copied too, and right. */
static void test_unknown_memory(void)
{
	uint8_t *host = malloc(2 * PIECE);
	cu_handle handle;
	cu_stream stream;
	cu_address at;

	CHECK(host);
	EXPECT(OK, context_enter());
	EXPECT(OK, allocation_create(PIECE, &handle));
	EXPECT(OK, window_open(handle, PIECE, &at));
	EXPECT(OK, cs->stream_create(&stream, CU_FLAG_STREAM_NON_BLOCKING));
	pattern_fill(host, PIECE, 91);
	EXPECT(OK, cs->memcpy_htod_async(at, host, PIECE, stream));
	EXPECT(OK, cs->memcpy_dtoh_async(host + PIECE, at, PIECE, stream));
	EXPECT(OK, cs->memcpy_htod_async(at, host, 0, stream));
	EXPECT(OK, cs->stream_synchronize(stream));
	CHECK(pattern_equals(host + PIECE, PIECE, 91));
	EXPECT(OK, cs->stream_destroy(stream));
	EXPECT(OK, window_close(at, PIECE));
	EXPECT(OK, cu->mem_release(handle));
	EXPECT(OK, context_leave());
	free(host);
}

/* ---- words --------------------------------------------------------------------------------- */

static uint64_t word_read(const struct pinned *word)
{
	return __atomic_load_n((const uint64_t *)word->memory, __ATOMIC_ACQUIRE);
}

static void word_write(struct pinned *word, uint64_t value)
{
	__atomic_store_n((uint64_t *)word->memory, value, __ATOMIC_RELEASE);
}

/* Streams of two processes, and the processor, over one word. */
static void test_words(void)
{
	struct peer peer;
	struct pinned word;
	cu_stream stream;
	cu_event event;

	CHECK(peer_start(&peer));
	EXPECT(OK, context_enter());
	EXPECT(OK, pinned_open(&word, PIECE, -1));
	EXPECT(OK, cs->stream_create(&stream, CU_FLAG_STREAM_NON_BLOCKING));
	EXPECT(OK, cs->event_create(&event, CU_FLAG_EVENT_DISABLE_TIMING));
	EXPECT(OK, cs->stream_wait_value64(stream, word.address, 7, CU_FLAG_WAIT_VALUE_GEQ));
	EXPECT(OK, cs->event_record(event, stream));
	EXPECT(NOT_READY, event_await(event, 50));
	EXPECT(OK, peer_call(&peer, PEER_WORD_WRITE, PIECE, 6, word.fd, NULL));
	CHECK(word_read(&word) == 6);
	EXPECT(NOT_READY, event_await(event, 50));
	EXPECT(OK, peer_call(&peer, PEER_WORD_WRITE, PIECE, 9, word.fd, NULL));
	EXPECT(OK, event_await(event, PATIENCE_MS));
	EXPECT(NOT_READY, peer_call(&peer, PEER_WORD_WAIT, PIECE, 12, word.fd, NULL));
	EXPECT(OK, cs->stream_write_value64(stream, word.address, 12, 0));
	EXPECT(OK, peer_call(&peer, PEER_WORD_WAIT, PIECE, 12, word.fd, NULL));
	CHECK(word_read(&word) == 12);
	word_write(&word, 5);
	EXPECT(OK, cs->stream_wait_value64(stream, word.address, UINT64_MAX - 5,
					   CU_FLAG_WAIT_VALUE_GEQ)); /* 5 is behind that */
	EXPECT(OK, cs->stream_synchronize(stream));
	EXPECT(OK, cs->event_destroy(event));
	EXPECT(OK, cs->stream_destroy(stream));
	EXPECT(OK, pinned_close(&word));
	EXPECT(OK, context_leave());
	peer_kill(&peer);
}

/* Who sees the word sees what the stream did before. */
static void test_word_after_copy(void)
{
	enum { ROUNDS = 64 };
	struct pinned host, word;
	cu_handle handle;
	cu_stream stream;
	cu_address at;

	EXPECT(OK, context_enter());
	EXPECT(OK, pinned_open(&host, PIECE, -1));
	EXPECT(OK, pinned_open(&word, PIECE, -1));
	EXPECT(OK, allocation_create(PIECE, &handle));
	EXPECT(OK, window_open(handle, PIECE, &at));
	EXPECT(OK, cs->stream_create(&stream, CU_FLAG_STREAM_NON_BLOCKING));
	for (uint32_t i = 1; i <= ROUNDS; i++) {
		EXPECT(OK, window_fill(at, PIECE, i));
		EXPECT(OK, cs->memcpy_dtoh_async(host.memory, at, PIECE, stream));
		EXPECT(OK, cs->stream_write_value64(stream, word.address, i, 0));
		for (uint32_t ms = 0; ms < PATIENCE_MS && word_read(&word) != i; ms++)
			sleep_ms(1);
		CHECK(word_read(&word) == i);
		CHECK(pattern_equals(host.memory, PIECE, i));
	}
	EXPECT(OK, cs->stream_destroy(stream));
	EXPECT(OK, window_close(at, PIECE));
	EXPECT(OK, cu->mem_release(handle));
	EXPECT(OK, pinned_close(&word));
	EXPECT(OK, pinned_close(&host));
	EXPECT(OK, context_leave());
}

const struct test tests_host[] = {
	{ "host memory is made known once, and given up as it was", test_register },
	{ "a memfd and device memory, both ways, as other processes see them", test_both_ways },
	{ "host memory that two calls made known is not one", test_known_twice },
	{ "host memory that is not known is copied too", test_unknown_memory },
	{ "streams of two processes wait for a word and write it", test_words },
	{ "who sees the word sees what was copied before", test_word_after_copy },
	{ NULL, NULL },
};

/* ---- faults -------------------------------------------------------------------------------- */

/* Refused at once, as other copies are, or a fault of the stream: either way it is said. */
static void test_copy_astray(void)
{
	enum cu_result result;
	struct peer peer;

	CHECK(peer_start(&peer));
	result = peer_call(&peer, PEER_COPY_ASTRAY, 0, 0, -1, NULL);
	if (test_is_stand_in || result != CU_ERROR_ILLEGAL_ADDRESS)
		EXPECT(INVALID_VALUE, result);
	else
		test_tell("a copy to nowhere", result);
	peer_kill(&peer);
}

/*
 * Nobody may count on it that a map waits for the copies that a stream has queued for it. The
 * stand-in faults, which finds who does.
 */
static void test_copy_unmap(void)
{
	enum cu_result result;
	struct peer peer;

	CHECK(peer_start(&peer));
	result = peer_call(&peer, PEER_COPY_UNMAP, PIECE, 0, -1, NULL);
	if (test_is_stand_in || result != CU_OK) {
		EXPECT(LAUNCH_FAILED, result);
		EXPECT(LAUNCH_FAILED, peer_call(&peer, PEER_HEALTH, 0, 0, -1, NULL));
	}
	/* A context that is sick is none of the calls' that need no context, on a real driver. */
	if (test_is_stand_in)
		EXPECT(LAUNCH_FAILED, peer_call(&peer, PEER_CREATE, PIECE, 0, -1, NULL));
	else
		test_tell("a new allocation after that",
			  peer_call(&peer, PEER_CREATE, PIECE, 0, -1, NULL));
	test_tell("a stream whose copy lost its map", result);
	peer_kill(&peer);
}

/* One process's fault is no other's. */
static void test_fault_alone(void)
{
	cu_handle handle;
	cu_address at;
	bool equal;

	EXPECT(OK, context_enter());
	EXPECT(OK, allocation_create(PIECE, &handle));
	EXPECT(OK, window_open(handle, PIECE, &at));
	EXPECT(OK, window_fill(at, PIECE, 3));
	EXPECT(OK, window_equals(at, PIECE, 3, &equal));
	CHECK(equal);
	EXPECT(OK, window_close(at, PIECE));
	EXPECT(OK, cu->mem_release(handle));
	EXPECT(OK, context_leave());
}

const struct test tests_fault[] = {
	{ "a copy to nowhere is refused or faults", test_copy_astray },
	{ "a map that goes under a copy that is queued", test_copy_unmap },
	{ "a fault stays in its process", test_fault_alone },
	{ NULL, NULL },
};
