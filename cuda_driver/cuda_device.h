/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What the owner and the client do first: find the device, and agree on its allocations.
 *
 * Both sides describe an allocation by the same words, or the sizes that one creates would not be
 * sizes that the other can map.
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
