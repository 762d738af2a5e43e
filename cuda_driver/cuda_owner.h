/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The owner's side of one CUDA device: creates and exports allocations, and keeps them.
 *
 * It never makes a context. A fault in an engine, or a context error that sticks, therefore cannot
 * reach it, and it takes none of the GPU's time. It never maps what it creates.
 *
 * An allocation lives as long as anything holds it: the owner's handle, an exported fd, a mapping
 * or an import of a client. The fds belong to the caller from the moment create returns. The owner
 * keeps its handles too, so that release acts at once; it never exports one twice. Memory comes
 * back to the device when the last of them goes, so a caller that wants it back closes its fd,
 * releases the token and waits for the clients. Memory created later reads zero.
 *
 * Where the device takes it, allocations can be read and written by network cards (GPUDirect RDMA)
 * and exported over NVLink fabric too. Whether it really does is only seen when one is created --
 * fabric needs a service and a permission of the system -- so what is refused is given up then, for
 * the owner's life, and costs nothing but that ability.
 *
 * A token names one allocation of this owner and is never given out again while the owner lives; so
 * a token that is late, or invented, is found out and harms nothing.
 *
 * One thread at a time. Calls can hang while the device is in trouble: an owner belongs into a
 * process of its own. It knows nothing of the broker.
 */

#include "cuda_driver/cuda_abi.h"

#include <stdbool.h>
#include <stdint.h>

#define CUDA_OWNER_HANDLES_MAX 16384u /* of one owner, at one time */
#define CUDA_NAME_BYTES 128
#define CUDA_PCI_BYTES 16
#define CUDA_NUMA_UNKNOWN (-1)

struct cuda_owner_info {
	char name[CUDA_NAME_BYTES];  /* "NVIDIA H100 80GB HBM3" */
	char pci_id[CUDA_PCI_BYTES]; /* "0000:3b:00.0", as sysfs spells it; "" if unknown */
	struct cu_uuid uuid;
	int32_t numa_node;          /* of the host, next to the device; CUDA_NUMA_UNKNOWN */
	int32_t driver_version;     /* 1000 * major + 10 * minor */
	int32_t compute_mode;       /* enum cu_compute_mode */
	uint64_t total_bytes;       /* of the device, used or not */
	uint64_t granularity_bytes; /* sizes of handles are multiples of it */
};

struct cuda_owner;

/*
 * Opens device `ordinal`, in the order of the process (CUDA_VISIBLE_DEVICES).
 * 0; -ENOENT, -ENOSYS: no usable driver, cuda_load_error() says why; -ENODEV: no such device;
 * -EOPNOTSUPP: a device without virtual memory management or without export as an fd; -ENOMEM;
 * others by cuda_error.h, cuda_error_last() says which call.
 */
int cuda_owner_open(uint32_t ordinal, struct cuda_owner **ret);

/* Releases every handle. NULL is fine. Exported fds stay good. Returns NULL. */
struct cuda_owner *cuda_owner_close(struct cuda_owner *owner);

/* Of the owner's life, unchanging. */
const struct cuda_owner_info *cuda_owner_info(const struct cuda_owner *owner);

/*
 * Creates n allocations of handle_bytes each, exported: ret_fds (close-on-exec, the caller's) and
 * ret_tokens. All or nothing.
 * 0; -ENOMEM: the device is full; -ENOSPC: above CUDA_OWNER_HANDLES_MAX; -EINVAL: n is 0 or
 * handle_bytes no multiple of the granularity; others by cuda_error.h.
 */
int cuda_owner_create(struct cuda_owner *owner, uint32_t n, uint64_t handle_bytes,
		      uint64_t *ret_tokens, int *ret_fds);

/*
 * Gives up the owner's handles of n tokens; every valid one, whatever the others are.
 * 0; -ENOENT: a token was not of a live handle; others by cuda_error.h: the driver refused one,
 * which is forgotten all the same.
 */
int cuda_owner_release(struct cuda_owner *owner, uint32_t n, const uint64_t *tokens);

/* What allocations can be used for beyond our own, as far as it is known by now. */
bool cuda_owner_has_fabric(const struct cuda_owner *owner);
bool cuda_owner_has_rdma(const struct cuda_owner *owner);

/* Handles kept now. */
uint32_t cuda_owner_count(const struct cuda_owner *owner);
