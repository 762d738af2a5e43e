/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Memory made ahead of need: a back end of gpu.h in front of another.
 *
 * Creating and exporting the handles of a slab takes the driver milliseconds; handing over what is
 * there takes none. So after each slab another of the same shape is made while nothing else is
 * asked for, as long as the device has room for it and the pool for its bytes. Only memory that was
 * never handed out is in the pool, so it reads zero, as what is new must.
 *
 * The pool counts against the device's capacity like what was handed out, and gives way to it: a
 * request of another shape, or one that the device has no room for, empties it first.
 */

#include <stdint.h>

#include "cuda_driver/gpu.h"

/*
 * Takes `inner` over, also when it fails. At most warm_bytes lie ready, and what was handed out and
 * lies ready is never more than capacity_bytes. 0, -ENOMEM.
 */
int warm_open(struct gpu_device *inner, uint64_t capacity_bytes, uint64_t warm_bytes,
	      struct gpu_device **ret);
