/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Opens libcuda once a process. See cuda_api.h.
 *
 * pthread_once() makes it once and safe; what it found is constant afterwards, so readers need no
 * lock. The library is never closed: its threads and its exit handlers outlive any use of ours. One
 * that lacks a symbol stays open as well, for whoever else in the process uses it.
 */

#include "cuda_driver/cuda_api.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>

struct cuda_loaded {
	struct cuda_api api;
	int error;
	char why[256];
};

static struct cuda_loaded cuda_loaded;
static pthread_once_t cuda_once = PTHREAD_ONCE_INIT;

struct cuda_symbol {
	const char *name;
	size_t offset; /* of its pointer in struct cuda_api */
};

#define CUDA_SYMBOL(field, symbol, args) { #symbol, offsetof(struct cuda_api, field) },
static const struct cuda_symbol cuda_symbols[] = { CU_CALLS(CUDA_SYMBOL) };
#undef CUDA_SYMBOL

static void cuda_load_once(void)
{
	struct cuda_loaded *l = &cuda_loaded;
	void *library = dlopen(CU_LIBRARY, RTLD_NOW | RTLD_LOCAL);

	if (!library) {
		const char *why = dlerror();

		l->error = -ENOENT;
		snprintf(l->why, sizeof(l->why),
			 "cannot open the CUDA driver (%s): install the NVIDIA driver, or give the "
			 "container its libraries",
			 why ? why : CU_LIBRARY);
		return;
	}
	for (size_t i = 0; i < sizeof(cuda_symbols) / sizeof(cuda_symbols[0]); i++) {
		void *call = dlsym(library, cuda_symbols[i].name);

		if (!call) {
			l->error = -ENOSYS;
			snprintf(l->why, sizeof(l->why),
				 "the CUDA driver has no %s: it is too old, update it",
				 cuda_symbols[i].name);
			return;
		}
		*(void **)((char *)&l->api + cuda_symbols[i].offset) = call;
	}
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
