/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Opens libcuda once a process. See cuda_api.h.
 *
 * pthread_once() makes it once and safe; what it found is constant afterwards, so readers need no
 * lock. The library is never closed: its threads and its exit handlers outlive any use of ours. One
 * that lacks a symbol stays open as well, for whoever else in the process uses it.
 *
 * The batch copy has one name and two shapes. A driver is asked for the shape of a version that it
 * has itself, because what it would answer to one from its future is its own affair.
 */

#include "cuda_driver/cuda_api.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>

struct cuda_loaded {
	void *library;
	struct cuda_api api;
	int error;
	char why[256];
};

struct cuda_loaded_streams {
	struct cuda_stream_api api;
	int error;
	char why[256];
};

struct cuda_symbol {
	const char *name;
	size_t offset; /* of its pointer in the table */
};

static struct cuda_loaded cuda_loaded;
static struct cuda_loaded_streams cuda_streams;
static pthread_once_t cuda_once = PTHREAD_ONCE_INIT;
static pthread_once_t cuda_streams_once = PTHREAD_ONCE_INIT;

#define CUDA_COUNT(symbols) (sizeof(symbols) / sizeof((symbols)[0]))
#define CUDA_SYMBOL(field, symbol, args) { #symbol, offsetof(struct cuda_api, field) },
static const struct cuda_symbol cuda_symbols[] = { CU_CALLS(CUDA_SYMBOL) };
#undef CUDA_SYMBOL
#define CUDA_SYMBOL(field, symbol, args) { #symbol, offsetof(struct cuda_stream_api, field) },
static const struct cuda_symbol cuda_stream_symbols[] = { CU_STREAM_CALLS(CUDA_SYMBOL) };
#undef CUDA_SYMBOL

/* Fills a table. 0; -ENOSYS: why names the symbol that is not there. */
static int cuda_load_symbols(const struct cuda_symbol *symbols, size_t n, void *table, char *why,
			     size_t why_bytes)
{
	for (size_t i = 0; i < n; i++) {
		void *call = dlsym(cuda_loaded.library, symbols[i].name);

		if (!call) {
			snprintf(why, why_bytes,
				 "the CUDA driver has no %s: it is too old, update it",
				 symbols[i].name);
			return -ENOSYS;
		}
		*(void **)((char *)table + symbols[i].offset) = call;
	}
	return 0;
}

static void cuda_load_once(void)
{
	struct cuda_loaded *l = &cuda_loaded;

	l->library = dlopen(CU_LIBRARY, RTLD_NOW | RTLD_LOCAL);
	if (!l->library) {
		const char *why = dlerror();

		l->error = -ENOENT;
		snprintf(l->why, sizeof(l->why),
			 "cannot open the CUDA driver (%s): install the NVIDIA driver, or give the "
			 "container its libraries",
			 why ? why : CU_LIBRARY);
		return;
	}
	l->error = cuda_load_symbols(cuda_symbols, CUDA_COUNT(cuda_symbols), &l->api, l->why,
				     sizeof(l->why));
}

int cuda_load(const struct cuda_api **ret)
{
	pthread_once(&cuda_once, cuda_load_once);
	if (cuda_loaded.error)
		return cuda_loaded.error;
	*ret = &cuda_loaded.api;
	return 0;
}

const char *cuda_load_error(void)
{
	return cuda_loaded.why;
}

/* The batch copy as `version` declares it; NULL: the driver has none such. */
static void *cuda_find_batch(int driver_version, int version)
{
	void *call = NULL;
	int status = 0;

	if (driver_version < version ||
	    cuda_streams.api.get_proc_address(CU_BATCH_SYMBOL, &call, version, 0, &status) !=
		    CU_OK ||
	    status != CU_PROC_FOUND)
		return NULL;
	return call;
}

static void cuda_load_batch(struct cuda_stream_api *api)
{
	int version = 0;
	void *call;

	if (cuda_loaded.api.driver_get_version(&version) != CU_OK)
		return;
	call = cuda_find_batch(version, CU_BATCH_VERSION_13);
	if (call)
		*(void **)&api->batch_13 = call;
	else
		*(void **)&api->batch_12 = cuda_find_batch(version, CU_BATCH_VERSION_12);
}

static void cuda_load_streams_once(void)
{
	struct cuda_loaded_streams *l = &cuda_streams;
	const struct cuda_api *api;

	l->error = cuda_load(&api);
	if (l->error) {
		snprintf(l->why, sizeof(l->why), "%s", cuda_load_error());
		return;
	}
	l->error = cuda_load_symbols(cuda_stream_symbols, CUDA_COUNT(cuda_stream_symbols), &l->api,
				     l->why, sizeof(l->why));
	if (l->error == 0)
		cuda_load_batch(&l->api);
}

int cuda_load_streams(const struct cuda_stream_api **ret)
{
	pthread_once(&cuda_streams_once, cuda_load_streams_once);
	if (cuda_streams.error)
		return cuda_streams.error;
	*ret = &cuda_streams.api;
	return 0;
}

const char *cuda_load_streams_error(void)
{
	return cuda_streams.why;
}
