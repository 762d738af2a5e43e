/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The loader of the CUDA driver.
 *
 * libcuda is opened by name and never linked: the same binary runs on machines without a GPU, and
 * LD_LIBRARY_PATH puts the stand-in driver in its place. The library is opened once a process and
 * stays; so do its pointers. Loading initialises nothing: the owner and the client call init() when
 * they open a device, because an initialised driver does not survive fork().
 *
 * There are two tables, for an owner needs no streams. Each is all there or not there: a driver
 * that lacks a symbol of it is refused, by name.
 *
 * The daemon itself never calls this. Owner processes, client processes and tests do.
 */

#include "cuda_driver/cuda_abi.h"

#define CUDA_API_FIELD(field, symbol, args) enum cu_result(*field) args;
struct cuda_api {
	CU_CALLS(CUDA_API_FIELD)
};
#undef CUDA_API_FIELD

/*
 * The driver's table, the same one in every call. Any thread, any number at once.
 * 0; -ENOENT: no library (or one that cannot be opened); -ENOSYS: it lacks a symbol. The first
 * answer is the answer of the process.
 */
int cuda_load(const struct cuda_api **ret);

/* Why cuda_load() failed: what, and what to do about it. "" before it, and after it succeeded. */
const char *cuda_load_error(void);

#define CUDA_STREAM_FIELD(field, symbol, args) enum cu_result(*field) args;
struct cuda_stream_api {
	CU_STREAM_CALLS(CUDA_STREAM_FIELD)
	cu_batch_12 batch_12; /* at most one of the two; NULL: the driver is older than both */
	cu_batch_13 batch_13;
};
#undef CUDA_STREAM_FIELD

/*
 * The rest of the table, for movers and fences. Any thread, any number at once.
 * 0; -ENOENT, -ENOSYS as cuda_load(), which it calls first, or a symbol of streams is missing. The
 * batch copy is looked for in its newest form first, and its absence is no error.
 */
int cuda_load_streams(const struct cuda_stream_api **ret);

/* Why cuda_load_streams() failed: what, and what to do about it. "" before it, and after it
 * succeeded. */
const char *cuda_load_streams_error(void);
