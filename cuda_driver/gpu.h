/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The seam to device memory.
 *
 * A device gives memory in handles: equal pieces, each an fd that any process can map. Who calls
 * sees only this table; which driver stands behind it is decided once, when the device is opened.
 * The back end here is `host`: DRAM of a NUMA node, a sealed memfd a handle, for CPU engines, for
 * engines that copy to their GPU themselves, and for machines without a GPU. GPUs are behind a
 * process of their own (broker/owner/), which fills in the same table.
 *
 * Contract of every back end:
 *   - A new handle reads zero, and its memory is committed: a write to it later cannot fail.
 *   - Closing a handle takes its memory back even when a peer still has it mapped. That peer then
 *     sees zeros, never the next owner's bytes, because a handle is never used twice.
 *   - create is all or nothing.
 *
 * create, close, ahead, look, rest and finish are for one thread at a time; info and cancel are for
 * any, also while another is in one of these. This knows nothing of the broker.
 */

#include <stdbool.h>
#include <stdint.h>

#define GPU_HANDLE_BYTES_MIN (2ull << 20)
#define GPU_HOST_HANDLES_MAX 1024u  /* of one host device */
#define GPU_CUDA_HANDLES_MAX 16384u /* of one GPU */

enum gpu_kind {
	GPU_KIND_HOST = 1, /* ordinal is the NUMA node */
	GPU_KIND_CUDA = 2,
};

struct gpu_device;

/* What is known of a device at the moment. */
struct gpu_info {
	char driver[16];            /* "host", "cuda" */
	char model[64];             /* "" where there is none */
	uint8_t uuid[16];           /* as the driver names a GPU; zero for others */
	char pci[16];               /* address, as sysfs spells it; "" where there is none */
	uint64_t total_bytes;       /* 0: not the back end's to know */
	uint64_t granularity_bytes; /* handles are a multiple of it */
	int32_t node;               /* NUMA node it is near; -1: not known */
	int32_t owner_pid;          /* process that keeps the handles; 0: none but the caller */
	uint64_t warm_bytes;        /* made ahead of need, and not handed out yet */
	bool failed;                /* requests fail now, for the reason in why */
	char why[256];
	/* Of all of its memory; known says whether anything is */
	bool memory_known;
	uint64_t unused_bytes; /* nobody's */
	uint64_t others_bytes; /* taken by others than the broker */
	char warning[160];     /* what will not go well though nothing has failed; "" */
};

struct gpu_ops {
	/*
	 * n handles of handle_bytes each into ret_fds; ret_token is what close wants to know them
	 * by, all together. 0, -ENOMEM, -ENOSPC, -errno.
	 */
	int (*create)(struct gpu_device *dev, uint32_t n, uint64_t handle_bytes, int *ret_fds,
		      uint64_t *ret_token);
	/* Takes all handles of one create back; the fds are closed. Cannot fail. */
	void (*close)(struct gpu_device *dev, uint32_t n, uint64_t handle_bytes, const int *fds,
		      uint64_t token);
	/* For the thread that creates, while it has nothing to do: makes a little ahead of need.
	 * False: nothing more is to be made. NULL: it never is. */
	bool (*ahead)(struct gpu_device *dev);
	/* For the same thread, every few seconds: sees how the device is. NULL: nothing to see. */
	void (*look)(struct gpu_device *dev);
	void (*info)(struct gpu_device *dev, struct gpu_info *ret);
	/*
	 * Ends the process that keeps the handles, of which none is left, or starts it again. NULL:
	 * there is none.
	 */
	void (*rest)(struct gpu_device *dev, bool rest);
	/* Makes what is at hand, and all that comes, end soon; NULL: it always does. */
	void (*cancel)(struct gpu_device *dev);
	void (*finish)(struct gpu_device *dev);
};

struct gpu_device {
	const struct gpu_ops *ops;
	uint32_t ordinal;
};

struct gpu_device *gpu_device_close(struct gpu_device *dev); /* NULL is fine */

/* What devices of a kind are called, before the colon. */
const char *gpu_kind_name(uint32_t kind);
/* Size of the handles a device of this capacity is cut into: a power of two. */
uint64_t gpu_handle_bytes(uint32_t kind, uint64_t capacity_bytes);

/* host.c: the DRAM of a NUMA node. -ENODEV, -ENOMEM. */
int gpu_host_open(uint32_t ordinal, struct gpu_device **ret);
