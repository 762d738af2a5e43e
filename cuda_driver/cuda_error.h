/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What the driver's results mean to us: the one map from them to errno.
 *
 * It holds no pointer to the driver, so it can name a result when there is no driver, and when the
 * driver does not answer any more. A result that the map does not know is -EIO and sticky: what
 * nobody has classified is not trusted.
 *
 *   -ENOMEM      the device is full; less, or later, can work
 *   -EINVAL      a call of ours was wrong, or the fd is not an allocation
 *   -ENODEV      no such device, or it is gone
 *   -EIO         the device failed: memory error, link error, a fault of a kernel
 *   -EPERM       refused: compute mode, container, licence
 *   -EOPNOTSUPP  this driver or device cannot do it
 *   -EBUSY       in use, already mapped, or not ready yet
 *   -ENXIO       no context, or a destroyed one
 *   -ENOTCONN    the MPS server does not answer
 */

#include "cuda_driver/cuda_abi.h"

#include <stdbool.h>

/* 0 for CU_OK, else -errno by the map above. */
int cuda_error_errno(enum cu_result result);

/* "CUDA_ERROR_OUT_OF_MEMORY"; a static string, also for results that nobody knows. */
const char *cuda_error_name(enum cu_result result);

/*
 * Whether the process cannot use the device any more after this result: every later call fails
 * until the process ends. An owner ends then and is started again; a client gives up its spaces.
 */
bool cuda_error_is_sticky(enum cu_result result);

/*
 * Notes that `call` (a literal, the driver's name of it) returned `result`, for cuda_error_last()
 * of this thread. Returns cuda_error_errno(result).
 */
int cuda_error_note(const char *call, enum cu_result result);

/* Notes that we refuse it ourselves, and why. Returns error. */
int cuda_error_refuse(int error, const char *why);

/* The thread's last note: "cuMemCreate: CUDA_ERROR_OUT_OF_MEMORY (2)". "" if there was none. */
const char *cuda_error_last(void);
/* Its result, for cuda_error_is_sticky(); CU_OK if there was none, or the refusal was ours. */
enum cu_result cuda_error_last_result(void);
