/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What the owner, the client and the mover do first: find the device, and agree on its allocations.
 *
 * All sides describe an allocation by the same words, or the sizes that one creates would not be
 * sizes that the others can map.
 */

#include "cuda_driver/cuda_api.h"

struct cuda_device {
	const struct cuda_api *api;
	cu_device device;
	struct cu_allocation allocation; /* as every handle is created: exportable as an fd */
	uint64_t granularity_bytes;
};

/*
 * Initialises the driver in this process and finds device `ordinal`. Makes no context.
 * 0; -ENOENT, -ENOSYS: cuda_load_error() says why; -ENODEV; -EOPNOTSUPP: no virtual memory
 * management, or no export as an fd; others by cuda_error.h.
 */
int cuda_device_open(uint32_t ordinal, struct cuda_device *ret);

/* Ordinal of the device with this UUID in this process. -ENODEV: it sees none; as above. */
int cuda_device_find(const struct cu_uuid *uuid, uint32_t *ret_ordinal);

/*
 * Imports what fd stands for and maps it, whole, without access, at a reserved address. The fd
 * stays the caller's. Afterwards the import is the caller's to release: the mapping lives without
 * it. 0; -EINVAL: fd is no allocation of that size, which is the fault of whoever sent it and no
 * sign that the driver is in trouble; others by cuda_error.h, and nothing is mapped.
 */
int cuda_device_map(const struct cuda_device *d, int fd, uint64_t bytes, cu_address address,
		    cu_handle *ret_handle);
