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
 *   space     reserved addresses, maps and access rights
 *   context   primary contexts
 *   copy      copies and fills
 *
 * One mutex, fake_enter() to fake_leave(), spans every call: the real driver too lets one thread at
 * a time through its memory calls. Internal functions expect it held.
 */

#include "cuda_driver/cuda_abi.h"

#include <stdbool.h>
#include <stdint.h>

#define FAKE_GPUS_MAX 16u
#define FAKE_GRANULE_BYTES (2ull << 20)
#define FAKE_RULES_MAX 16u
#define FAKE_EXPORT __attribute__((visibility("default")))

#define FAKE_CALL_ENUM(field, symbol, args) FAKE_CALL_##field,
enum fake_call { CU_CALLS(FAKE_CALL_ENUM) FAKE_CALLS };
#undef FAKE_CALL_ENUM

#define FAKE_CALL_DECLARE(field, symbol, args) FAKE_EXPORT enum cu_result symbol args;
CU_CALLS(FAKE_CALL_DECLARE)
#undef FAKE_CALL_DECLARE

/* ---- settings ------------------------------------------------------------------------------ */

#define FAKE_CALL_ANY FAKE_CALLS
#define FAKE_DEVICE_ANY (-1)
#define FAKE_DEVICE_LOST 100000u /* in place of a result: the call and the device fail for good */

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
	int version;
	char node[32];
	char dir[128];
	uint64_t latency_ns[FAKE_CALLS];
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

struct fake_device {
	struct store *store;
	struct cu_context_object primary;
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
/* Of its device; FAKE_DEVICE_ANY: no such handle. */
int handle_ordinal(cu_handle id);

/* ---- space, context ------------------------------------------------------------------------ */

/* Has the device this right on every byte? An empty range has. */
bool space_allows(cu_address address, uint64_t bytes, uint32_t ordinal, enum cu_access access);

/* Device of the thread's context. INVALID_CONTEXT, CONTEXT_IS_DESTROYED. */
enum cu_result context_device(uint32_t *ret_ordinal);
/* The same without asking whether it is alive; FAKE_DEVICE_ANY: the thread has none. Takes no lock.
 */
int context_ordinal(void);
