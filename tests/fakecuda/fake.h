/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A stand-in for the CUDA driver: libcuda.so.1 for machines without a GPU.
 *
 * It is made of pretend devices whose memory lies in files that all processes share, so that an
 * owner, a daemon and clients can be tested as they run in production: the same calls, the same
 * fds, the same results. What it must answer was read off a real driver (580, an H100), and
 * tests/gpu/conformance.c holds the two to the same answers. Where the real one crashes -- a handle
 * that does not exist -- this one aborts and says which call it was.
 *
 * Parts, each used only by those after it:
 *   settings  the FAKECUDA variable
 *   store     a device's memory: who holds what, across processes
 *   call      what every call passes first: initialised, lost, sick, told to fail, slow
 *   device    cuInit and what is asked about a device
 *   handle    cuMemCreate, release, export, import
 *   host      host memory that was made known
 *   stream    streams: what is queued, the order it is done in, who does it
 *   space     reserved addresses, maps and access rights
 *   context   primary contexts
 *   copy      copies and fills: at once, in a stream, many in one call
 *   event     events, and streams that wait for them
 *   value     streams that write a word of memory, or wait for one
 *   symbol    cuGetProcAddress
 *
 * One mutex, fake_enter() to fake_leave(), spans every call: the real driver too lets one thread at
 * a time through its memory calls. Internal functions expect it held. It is not held while bytes
 * are moved, and while something is waited for: functions that let go of it meanwhile say so.
 */

#include "cuda_driver/cuda_abi.h"

#include <stdbool.h>
#include <stdint.h>

#define FAKE_GPUS_MAX 16u
#define FAKE_GRANULE_BYTES (2ull << 20)
#define FAKE_RULES_MAX 16u
#define FAKE_EXPORT __attribute__((visibility("default")))

/* The batch copy is in neither list of the ABI: a driver need not have it. */
#define FAKE_BATCH_CALLS(X)                                                                        \
	X(batch_12, cuMemcpyBatchAsync, CU_BATCH_ARGS_12)                                          \
	X(batch_13, cuMemcpyBatchAsync_v2, CU_BATCH_ARGS_13)

#define FAKE_ALL_CALLS(X) CU_CALLS(X) CU_STREAM_CALLS(X) FAKE_BATCH_CALLS(X)

#define FAKE_CALL_ENUM(field, symbol, args) FAKE_CALL_##field,
enum fake_call { FAKE_ALL_CALLS(FAKE_CALL_ENUM) FAKE_CALLS };
#undef FAKE_CALL_ENUM

#define FAKE_CALL_DECLARE(field, symbol, args) FAKE_EXPORT enum cu_result symbol args;
FAKE_ALL_CALLS(FAKE_CALL_DECLARE)
#undef FAKE_CALL_DECLARE

/* ---- settings ------------------------------------------------------------------------------ */

#define FAKE_CALL_ANY FAKE_CALLS
#define FAKE_DEVICE_ANY (-1)
#define FAKE_DEVICE_LOST 100000u /* in place of a result: the call and the device fail for good */

enum fake_direction { FAKE_UP = 0, FAKE_DOWN = 1 }; /* host to device, device to host */

struct fake_rule {
	uint32_t call;   /* enum fake_call, or FAKE_CALL_ANY */
	int ordinal;     /* of the device, or FAKE_DEVICE_ANY */
	uint64_t count;  /* the how-manieth such call of the process; from 1 */
	bool onwards;    /* and all after it */
	uint32_t result; /* enum cu_result, or FAKE_DEVICE_LOST */
	uint64_t seen;
};

struct fake_settings {
	uint32_t gpus;
	uint64_t mem_bytes;
	int numa[FAKE_GPUS_MAX];
	uint32_t real[FAKE_GPUS_MAX]; /* ordinals of the pretend machine, of those that are seen */
	int version;
	int mode; /* compute mode */
	char node[32];
	char dir[128];
	uint64_t latency_ns[FAKE_CALLS];
	uint64_t copy_rate[2]; /* bytes/s of a device, by enum fake_direction; 0: as fast as it goes
				*/
	struct fake_rule rules[FAKE_RULES_MAX];
	uint32_t rules_count;
};

/* Reads FAKECUDA; what is not set has its default. False: a line on stderr says what is wrong. */
bool settings_read(struct fake_settings *ret);
/* Exact name of the symbol; "cuda_driver/cuda_abi.h" lists them. FAKE_CALLS: no such call. */
uint32_t settings_call_named(const char *name);

/* ---- store --------------------------------------------------------------------------------- */

struct store;

/* 0 or -errno. */
int store_open(const struct fake_settings *settings, uint32_t ordinal, struct store **ret);
/* The last one to leave a device of which nothing is allocated takes its file along. */
void store_close(struct store *st);
/* An fd that is a zeroed piece of the device for as long as a copy of it, or a map, lives. */
enum cu_result store_take(struct store *st, uint64_t bytes, int *ret_fd, uint64_t *ret_offset);
/* Closes the fd of a piece, which is free again if that was the last reference to it. */
void store_give(struct store *st, int fd, uint64_t offset, uint64_t bytes);
/* Is this fd a piece of this device? */
bool store_find(struct store *st, int fd, uint64_t *ret_offset, uint64_t *ret_bytes);
bool store_is_lost(struct store *st);
void store_lose(struct store *st);

/* ---- call ---------------------------------------------------------------------------------- */

/* A primary context: of a device, for as long as it is retained. */
struct cu_context_object {
	uint32_t ordinal;
	uint32_t retained;
};

struct stream_op;

/* In order of their creation; the NULL stream of a device is in no list. */
struct cu_stream_object {
	struct cu_stream_object *next;
	struct stream_op *first; /* what is not done yet; the first may be under way */
	struct stream_op **last;
	uint32_t ordinal; /* of the device */
	bool blocking;    /* it and the NULL stream wait for each other */
	bool has_thread;  /* that does what is queued */
	bool running;     /* the first is under way, the mutex perhaps not held */
	bool closing;     /* destroyed: goes when it is empty */
	bool dead;        /* its context is gone */
};

struct fake_device {
	struct store *store;
	struct cu_context_object primary;
	struct cu_stream_object null_stream;
	uint64_t copy_free_ns[2]; /* when its copy engines are free again, by enum fake_direction */
};

struct fake {
	struct fake_settings settings;
	struct fake_device devices[FAKE_GPUS_MAX];
	int pid; /* that initialised it; 0: none has */
	bool finished;
};

extern struct fake fake;

/* Takes the mutex; what a call is about may then be looked up. */
void fake_lock(void);
/*
 * Begins a call on a device (FAKE_DEVICE_ANY: on none) that handles so many pieces of memory.
 * Not CU_OK: what the call has to return, having done nothing.
 */
enum cu_result fake_begin(enum fake_call call, int ordinal, uint64_t pieces);
/* Both. */
enum cu_result fake_enter(enum fake_call call, int ordinal, uint64_t pieces);
/* Drops the mutex, whatever fake_begin() said, and gives the result back. */
enum cu_result fake_leave(enum cu_result result);
/* Lets go of the mutex, and takes it again. */
void fake_unlock(void);
void fake_relock(void);
/* Lets go of the mutex until fake_wake(), or for no reason. */
void fake_wait(void);
void fake_wake(void);
/* Lets go of the mutex until then, on the clock of fake_now_ns(). */
void fake_sleep_until(uint64_t ns);
uint64_t fake_now_ns(void);
/* What every call on this device has to return; CU_OK: nothing. */
enum cu_result fake_health(uint32_t ordinal);
/* From now on every call of the process returns this. */
void fake_sicken(enum cu_result result);

static inline bool device_exists(int64_t ordinal)
{
	return ordinal >= 0 && ordinal < fake.settings.gpus;
}

/* ---- handle -------------------------------------------------------------------------------- */

struct handle {
	int fd;
	uint32_t ordinal; /* of the device */
	uint64_t offset;  /* in its store */
	uint64_t bytes;
	uint32_t references; /* the handle itself, until released, and its maps */
	bool exportable;
};

/* Aborts when there is none: the real driver would read wild memory. */
struct handle *handle_get(cu_handle id, const char *call);
void handle_put(struct handle *handle);
/* The process ends: all handles are released. */
void handle_finish(void);
/* Of its device; FAKE_DEVICE_ANY: no such handle. */
int handle_ordinal(cu_handle id);

/* ---- host ---------------------------------------------------------------------------------- */

enum host_known {
	HOST_UNKNOWN = 0,
	HOST_KNOWN,        /* all of it lies in memory that one call made known */
	HOST_KNOWN_PARTLY, /* or spans what two calls did */
};

enum host_known host_knows(uint64_t address, uint64_t bytes);

/* ---- stream -------------------------------------------------------------------------------- */

/*
 * Something that a stream does when it comes to it. Made with calloc() by who queues it, as the
 * first member of whatever else it needs to know.
 */
struct stream_op {
	struct stream_op *next;
	uint64_t ticket; /* place in the order of all of the process */
	bool by_caller;  /* done by the thread that queued it */
	/* Is what it waits for there? NULL: it waits for nothing. */
	bool (*is_ready)(struct stream_op *op);
	/* Does it. May let go of the mutex. Not CU_OK: the process is sick of it. NULL: nothing. */
	enum cu_result (*run)(struct stream_op *op, struct cu_stream_object *stream);
	/* Frees it, done or dropped. */
	void (*end)(struct stream_op *op);
};

/*
 * Begins a call on a stream, NULL being that of the current context. A stream that does not exist
 * aborts. As fake_enter(), and CONTEXT_IS_DESTROYED.
 */
enum cu_result stream_enter(enum fake_call call, cu_stream stream, struct cu_stream_object **ret);
/* The same where work is queued: its context is current. INVALID_CONTEXT, INVALID_HANDLE. */
enum cu_result stream_enter_work(enum fake_call call, cu_stream stream,
				 struct cu_stream_object **ret);
/*
 * Takes the op over; NULL: OUT_OF_MEMORY. by_caller: returns when it is done, and lets go of the
 * mutex until then. What went wrong in an op is told by the next call.
 */
enum cu_result stream_queue(struct cu_stream_object *stream, struct stream_op *op, bool by_caller);
/* Until all is done that streams of the device have now. Lets go of the mutex. */
void stream_wait_device(uint32_t ordinal);
/* The context is destroyed: what is not under way is dropped. Lets go of the mutex. */
void stream_end_device(uint32_t ordinal);

/* ---- copy ---------------------------------------------------------------------------------- */

/* Until no byte of the range is read or written by a copy. Lets go of the mutex. */
void copy_wait_range(uint64_t address, uint64_t bytes);

/* ---- space, context ------------------------------------------------------------------------ */

/* Has the device this right on every byte? An empty range has. */
bool space_allows(cu_address address, uint64_t bytes, uint32_t ordinal, enum cu_access access);

/* The process ends: maps go. Who still reads or writes there meets memory of nobody, not a fault.
 */
void space_finish(void);

/* Device of the thread's context. INVALID_CONTEXT, CONTEXT_IS_DESTROYED. */
enum cu_result context_device(uint32_t *ret_ordinal);
/* The same without asking whether it is alive; FAKE_DEVICE_ANY: the thread has none. Takes no lock.
 */
int context_ordinal(void);
