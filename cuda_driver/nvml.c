/* SPDX-License-Identifier: Apache-2.0 */

/*
 * NVIDIA's management library; see nvml.h. Its ABI as far as it is used here: four symbols and one
 * struct that carries its size and version. A GPU is named by its UUID, because the library's
 * numbers are not CUDA's.
 */

#include "cuda_driver/nvml.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define NVML_LIBRARY "libnvidia-ml.so.1"
#define NVML_UUID_BYTES 41 /* GPU-8-4-4-4-12 */

/* nvmlMemory_v2_t */
struct nvml_memory_2 {
	uint32_t version;
	uint64_t total_bytes, reserved_bytes, free_bytes, used_bytes;
};

#define NVML_MEMORY_2 ((uint32_t)sizeof(struct nvml_memory_2) | 2u << 24)

struct nvml {
	void *library;
	void *device;
	int (*init)(void);
	int (*shutdown)(void);
	int (*find)(const char *uuid, void **ret_device);
	int (*read)(void *device, struct nvml_memory_2 *ret);
};

static void nvml_name(const struct cu_uuid *uuid, char *ret)
{
	const uint8_t *b = (const uint8_t *)uuid->bytes;

	snprintf(ret, NVML_UUID_BYTES,
		 "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0],
		 b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13],
		 b[14], b[15]);
}

static int nvml_load(struct nvml *n, char *why, size_t why_bytes)
{
	const struct {
		const char *name;
		void **call;
	} symbols[] = {
		{ "nvmlInit_v2", (void **)&n->init },
		{ "nvmlShutdown", (void **)&n->shutdown },
		{ "nvmlDeviceGetHandleByUUID", (void **)&n->find },
		{ "nvmlDeviceGetMemoryInfo_v2", (void **)&n->read },
	};

	n->library = dlopen(NVML_LIBRARY, RTLD_NOW | RTLD_LOCAL);
	if (!n->library) {
		snprintf(why, why_bytes, "there is no %s", NVML_LIBRARY);
		return -ENOENT;
	}
	for (size_t i = 0; i < sizeof(symbols) / sizeof(symbols[0]); i++) {
		*symbols[i].call = dlsym(n->library, symbols[i].name);
		if (*symbols[i].call)
			continue;
		snprintf(why, why_bytes, "%s has no %s: the driver is too old", NVML_LIBRARY,
			 symbols[i].name);
		return -ENOSYS;
	}
	return 0;
}

int nvml_open(const struct cu_uuid *uuid, struct nvml **ret, char *why, size_t why_bytes)
{
	struct nvml *n = calloc(1, sizeof(*n));
	char name[NVML_UUID_BYTES];
	int error, r;

	if (!n) {
		snprintf(why, why_bytes, "no host memory");
		return -ENOMEM;
	}
	error = nvml_load(n, why, why_bytes);
	if (error == 0) {
		r = n->init();
		if (r)
			snprintf(why, why_bytes, "nvmlInit: error %d", r);
		error = r ? -EIO : 0;
	}
	if (error) {
		/* never initialised: nothing to shut down */
		n->shutdown = NULL;
		nvml_close(n);
		return error;
	}
	nvml_name(uuid, name);
	r = n->find(name, &n->device);
	if (r) {
		snprintf(why, why_bytes, "nvmlDeviceGetHandleByUUID: error %d of %s", r, name);
		nvml_close(n);
		return -ENODEV;
	}
	*ret = n;
	return 0;
}

int nvml_read_memory(const struct nvml *nvml, struct nvml_memory *ret, char *why, size_t why_bytes)
{
	struct nvml_memory_2 memory = { .version = NVML_MEMORY_2 };
	int r = nvml->read(nvml->device, &memory);

	if (r) {
		snprintf(why, why_bytes, "nvmlDeviceGetMemoryInfo: error %d", r);
		return -EIO;
	}
	*ret = (struct nvml_memory){
		.free_bytes = memory.free_bytes,
		.used_bytes = memory.used_bytes,
	};
	return 0;
}

struct nvml *nvml_close(struct nvml *nvml)
{
	if (!nvml)
		return NULL;
	if (nvml->shutdown)
		nvml->shutdown();
	if (nvml->library)
		dlclose(nvml->library);
	free(nvml);
	return NULL;
}
