/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Chooses the back end of a device. See gpu.h.
 */

#include "cuda_driver/gpu.h"

#include <errno.h>
#include <stddef.h>

int gpu_device_open(uint32_t kind, uint32_t ordinal, struct gpu_device **ret)
{
	switch (kind) {
	case GPU_KIND_HOST:
		return gpu_host_open(ordinal, ret);
	default:
		return -ENODEV;
	}
}

struct gpu_device *gpu_device_close(struct gpu_device *dev)
{
	if (dev)
		dev->ops->finish(dev);
	return NULL;
}

const char *gpu_driver_name(uint32_t kind)
{
	return kind == GPU_KIND_HOST ? "host" : NULL;
}

uint64_t gpu_handle_bytes(uint32_t kind, uint64_t capacity_bytes)
{
	uint64_t bytes = GPU_HANDLE_BYTES_MIN;

	/* A handle is an fd in every process that maps it: bounded by number, not by size. */
	if (kind == GPU_KIND_HOST) {
		while (capacity_bytes / bytes > GPU_HOST_HANDLES_MAX)
			bytes <<= 1;
	}
	return bytes;
}
