/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * How much of a GPU's memory is used, by whomever: NVIDIA's management library, by dlopen.
 *
 * The CUDA driver tells that only to a process with a context, which an owner must not have. The
 * library belongs to the driver but is not always there (containers, the stand-in); without it the
 * broker works the same and does not know what others have taken.
 *
 * For one thread, of an owner process: its calls enter the driver and can hang as others do.
 */

#include "cuda_driver/cuda_abi.h"

#include <stddef.h>
#include <stdint.h>

struct nvml;

struct nvml_memory {
	uint64_t free_bytes;
	uint64_t used_bytes; /* allocated by any process; not what the driver keeps for itself */
};

/*
 * Finds the GPU. 0; -ENOENT: no library; -ENOSYS: one that is too old; -ENODEV: it does not know
 * the GPU; -EIO: it does not work; -ENOMEM. Then `why` says it.
 */
int nvml_open(const struct cu_uuid *uuid, struct nvml **ret, char *why, size_t why_bytes);

/* 0, -EIO: the library's own error is in why. */
int nvml_read_memory(const struct nvml *nvml, struct nvml_memory *ret, char *why, size_t why_bytes);

struct nvml *nvml_close(struct nvml *nvml); /* NULL is fine */
