/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The seam to device memory.
 *
 * A device gives memory in handles: equal pieces, each an fd that any process can map. Who calls
 * sees only this table; which driver stands behind it is decided once, in gpu_device_open(). The
 * one back end so far is `host`: DRAM of a NUMA node, a sealed memfd a handle, for CPU engines,
 * for engines that copy to their GPU themselves, and for machines without a GPU.
 *
 * Contract of every back end:
 *   - A new handle reads zero, and its memory is committed: a write to it later cannot fail.
 *   - Closing a handle takes its memory back even when a peer still has it mapped. That peer then
 *     sees zeros, never the next owner's bytes, because a handle is never used twice.
 *   - create is all or nothing.
 *
 * A device may be used by one thread at a time. This knows nothing of the broker.
 */

#include <stdbool.h>
#include <stdint.h>

#define GPU_HANDLE_BYTES_MIN (2ull << 20)
#define GPU_HOST_HANDLES_MAX 1024u /* of one host device */

enum gpu_kind {
	GPU_KIND_HOST = 1, /* ordinal is the NUMA node */
	GPU_KIND_CUDA = 2,
};

struct gpu_device;

struct gpu_ops {
	const char *name; /* of the driver: "host" */
	/* n handles of handle_bytes each into ret_fds. 0, -ENOMEM, -ENOSPC, -errno. */
	int (*create)(struct gpu_device *dev, uint32_t n, uint64_t handle_bytes, int *ret_fds);
	/* Takes n handles back; the fds are closed. Cannot fail. */
	void (*close)(struct gpu_device *dev, uint32_t n, uint64_t handle_bytes, const int *fds);
	void (*finish)(struct gpu_device *dev);
};

struct gpu_device {
	const struct gpu_ops *ops;
	uint32_t ordinal;
};

/* -ENODEV: no driver for this kind. */
int gpu_device_open(uint32_t kind, uint32_t ordinal, struct gpu_device **ret);
struct gpu_device *gpu_device_close(struct gpu_device *dev);

/* Name of the driver for a kind; NULL: none. */
const char *gpu_driver_name(uint32_t kind);
/* Size of the handles a device of this capacity is cut into: a power of two. */
uint64_t gpu_handle_bytes(uint32_t kind, uint64_t capacity_bytes);

int gpu_host_open(uint32_t ordinal, struct gpu_device **ret); /* host.c */
