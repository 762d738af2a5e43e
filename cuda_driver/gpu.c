/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What is the same for every back end: names of kinds, the cut of a device into handles. See gpu.h.
 */

#include "cuda_driver/gpu.h"

#include <stddef.h>

#define CUDA_HANDLE_BYTES (16ull << 20) /* calls cost the same for any size: rather few */
#define CUDA_HANDLES_WANTED 64u         /* so that a small device can still be shared */

struct gpu_device *gpu_device_close(struct gpu_device *dev)
{
	if (dev)
		dev->ops->finish(dev);
	return NULL;
}

const char *gpu_kind_name(uint32_t kind)
{
	return kind == GPU_KIND_CUDA ? "cuda" : "host";
}

/* A handle is an fd in every process that maps it: bounded by number, not by size. */
uint64_t gpu_handle_bytes(uint32_t kind, uint64_t capacity_bytes)
{
	uint64_t bytes = GPU_HANDLE_BYTES_MIN;
	uint32_t max = GPU_HOST_HANDLES_MAX;

	if (kind == GPU_KIND_CUDA) {
		max = GPU_CUDA_HANDLES_MAX;
		while (bytes < CUDA_HANDLE_BYTES &&
		       capacity_bytes / (bytes << 1) >= CUDA_HANDLES_WANTED)
			bytes <<= 1;
	}
	while (capacity_bytes / bytes > max)
		bytes <<= 1;
	return bytes;
}
