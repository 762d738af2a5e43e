/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The frame of the driver's conformance suite.
 *
 * One program, linked with nothing but our loader, asks a driver for what we rely on: on a machine
 * with a GPU the real one, else the stand-in. It speaks TAP. A check ends its test at the first
 * answer that is wrong, and says which. What a test took it gives back at the end; a failed one may
 * leave things behind, the next has its own.
 *
 * The suite holds no more than 1 GiB at any time, and creates no context before the tests that are
 * about having none.
 */

#include "cuda_driver/cuda_api.h"

#include <stdbool.h>
#include <stdint.h>

struct test {
	const char *name;
	void (*run)(void);
};

extern const struct test tests_device[];
extern const struct test tests_memory[];
extern const struct test tests_copy[];
extern const struct test tests_share[];
extern const struct test tests_stream[];
extern const struct test tests_batch[];
extern const struct test tests_host[];
extern const struct test tests_fault[];

/* ---- of every test ------------------------------------------------------------------------- */

extern const struct cuda_api *cu;
extern const struct cuda_stream_api *cs;
extern bool test_is_stand_in; /* by the name of the device */
extern int test_ordinal;
extern uint64_t test_granule; /* bytes; minimum granularity of the device */

/* Ends the test with a reason unless the condition holds. */
#define CHECK(condition)                                                                           \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			test_fail(__FILE__, __LINE__, #condition);                                 \
			return;                                                                    \
		}                                                                                  \
	} while (0)

/* Ends the test unless the call returns this: EXPECT(OK, cu->init(0)). */
#define EXPECT(want, call)                                                                         \
	do {                                                                                       \
		enum cu_result result_ = (call);                                                   \
		if (result_ != CU_ERROR_##want) {                                                  \
			test_fail_result(__FILE__, __LINE__, #call, #want, result_);               \
			return;                                                                    \
		}                                                                                  \
	} while (0)

/*
 * The same of the stand-in. Of a real driver, where it is not documented and nothing of ours hangs
 * on it, the answer is told.
 */
#define EXPECT_TOLD(want, call)                                                                    \
	do {                                                                                       \
		enum cu_result told_ = (call);                                                     \
		if (test_is_stand_in)                                                              \
			EXPECT(want, told_);                                                       \
		else if (told_ != CU_ERROR_##want)                                                 \
			test_tell(#call, told_);                                                   \
	} while (0)

#define CU_ERROR_OK CU_OK

void test_fail(const char *file, int line, const char *what);
void test_fail_result(const char *file, int line, const char *what, const char *want,
		      enum cu_result got);
void test_tell(const char *what, enum cu_result got);
/* The test ends well but did not test; the caller returns. */
void test_skip(const char *why);

/* ---- memory -------------------------------------------------------------------------------- */

/* Whose bytes depend on the seed and on where they are. Seed 0: zeros. */
void pattern_fill(void *to, uint64_t bytes, uint32_t seed);
bool pattern_equals(const void *at, uint64_t bytes, uint32_t seed);

/* Pinned memory of the device that may leave the process. */
struct cu_allocation allocation_prop(void);
enum cu_result allocation_create(uint64_t bytes, cu_handle *ret);
enum cu_result access_set(cu_address address, uint64_t bytes, enum cu_access access);

/* A handle, mapped at an address of its own, that the device reads and writes. */
enum cu_result window_open(cu_handle handle, uint64_t bytes, cu_address *ret);
enum cu_result window_close(cu_address address, uint64_t bytes);
/* Through a host buffer; a context is current. */
enum cu_result window_fill(cu_address address, uint64_t bytes, uint32_t seed);
/* CU_OK and *ret_equal, or why it could not be read. */
enum cu_result window_equals(cu_address address, uint64_t bytes, uint32_t seed, bool *ret_equal);

/* The device's primary context, made current; put back to none. */
enum cu_result context_enter(void);
enum cu_result context_leave(void);

/* ---- known host memory, streams that stand still (conformance_stream.c) --------------------- */

/* Memory of a memfd, mapped, and known to the device. */
struct pinned {
	int fd;
	uint8_t *memory;
	uint64_t bytes;
	cu_address address; /* of the device */
};

/* fd: of so much memory, or -1: new. Takes it over. A context is current. */
enum cu_result pinned_open(struct pinned *pinned, uint64_t bytes, int fd);
enum cu_result pinned_close(struct pinned *pinned);

/* The stream stands still until its gate is opened: a word of known memory. */
enum cu_result gate_shut(struct pinned *gate, cu_stream stream);
void gate_open(struct pinned *gate);

/* The event's answer, when it is no longer NOT_READY, or that after so long. */
enum cu_result event_await(cu_event event, uint32_t timeout_ms);
void sleep_ms(uint32_t ms);

/* ---- another process (conformance_peer.c) -------------------------------------------------- */

enum peer_op {
	PEER_IMPORT = 1,  /* the fd that comes along: import, map, make accessible */
	PEER_CREATE,      /* the same with memory of its own; an fd of it comes back */
	PEER_EXPORT,      /* an fd of what it has comes back */
	PEER_FILL,        /* with the pattern of a seed */
	PEER_EQUALS,      /* CU_OK if it has the pattern of a seed, NOT_FOUND if not */
	PEER_DROP,        /* unmap, release */
	PEER_KEEP,        /* the fd that comes along, without a call to the driver */
	PEER_RETURN,      /* the fd that it keeps */
	PEER_EXHAUST,     /* create pieces until the driver refuses; returns what it says */
	PEER_HOST_EQUALS, /* as PEER_EQUALS, of a memfd that comes along, without the driver */
	PEER_HOST_FILL,
	PEER_WORD_WRITE,  /* a stream writes the seed to the first word of a memfd */
	PEER_WORD_WAIT,   /* a stream waits for it: NOT_READY if it waits too long */
	PEER_COPY_ASTRAY, /* a stream copies to where nothing is: what it gets for it, soon or late
			   */
	PEER_COPY_UNMAP,  /* the target of a copy in a stream goes: what the stream says */
	PEER_HEALTH,      /* what the driver says to a call that never fails */
};

struct peer {
	int pid;
	int socket;
};

/* Starts this program again. False: it could not. */
bool peer_start(struct peer *peer);
/*
 * fd: goes along, -1: none. ret_fd: the one that came back, NULL: none is wanted.
 * What the peer's driver said; OPERATING_SYSTEM: the peer did not answer.
 */
enum cu_result peer_call(struct peer *peer, enum peer_op op, uint64_t bytes, uint32_t seed, int fd,
			 int *ret_fd);
/* Kills it, with nothing given back, and waits until it is gone. */
void peer_kill(struct peer *peer);
/* main() of the other process. */
int peer_main(int socket);
