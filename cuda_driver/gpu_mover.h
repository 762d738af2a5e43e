/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The seam to what copies pages between a device and host memory: the mover's side of a device.
 *
 * Two back ends: `cuda` holds the GPU's primary context and uses copy engines only -- it never
 * launches a kernel, a device-to-device copy or a memset, which would stall an engine beside it;
 * `host` copies between memfds with the CPU. The process around them (broker/mover/) is the same.
 *
 *   open -> attach host memory, map handles -> submit batches, poll them -> unmap, detach -> close
 *
 * A batch is copies in one direction, done in any order among themselves; batches of one direction
 * may overlap (two streams), so what must come after another is submitted after that one was polled
 * to its end. Batches submitted are ended by close.
 *
 * Errors: -EINVAL, -ENOMEM, -ENOSPC; -EIO and what cuda_error.h says of results. After an error for
 * which gpu_mover_is_spoilt() is true nothing works any more in this process: it ends and another
 * one starts. One thread. It knows nothing of the broker.
 */

#include <stdbool.h>
#include <stdint.h>

#define GPU_MOVER_BATCHES_MAX 64u  /* submitted and not polled to their end */
#define GPU_MOVER_COPIES_MAX 4096u /* of one batch */

enum gpu_direction { GPU_UP = 0, GPU_DOWN = 1 }; /* host to device, device to host */

struct gpu_copy {
	uint64_t device; /* address: as map gave it, plus an offset */
	void *host;      /* within attached memory */
	uint64_t bytes;
};

struct gpu_mover;

/*
 * kind: enum gpu_kind. ordinal as the owner of the device counts it.
 * 0; -ENOENT, -ENOSYS: no usable driver; -ENODEV; -EOPNOTSUPP; -ENOMEM; by cuda_error.h. why: what,
 * and what to do.
 */
int gpu_mover_open(uint32_t kind, uint32_t ordinal, struct gpu_mover **ret, char *why,
		   uint32_t why_bytes);
/*
 * Ends what is in flight: nothing is read or written when it returned, unless the mover is spoilt
 * -- then, when the process has ended. Unmaps and detaches the rest. NULL is fine. Returns NULL.
 */
struct gpu_mover *gpu_mover_close(struct gpu_mover *mover);

/*
 * n handles next to each other at one address. The fds stay the caller's. All or nothing.
 * -EINVAL: a size, or an fd that is no handle of it.
 */
int gpu_mover_map(struct gpu_mover *mover, uint32_t n, uint64_t handle_bytes, const int *fds,
		  uint64_t *ret_device);
/* Takes back one map, whole. No batch that uses it is in flight. -ENOENT. */
int gpu_mover_unmap(struct gpu_mover *mover, uint64_t device);

/*
 * Makes mapped host memory known to the device, page-locked; for a GPU that takes some 50 ms a GiB.
 * No copy in flight uses what is detached. -EBUSY: it, or a part of it, is known; -ENOENT: detach
 * of what is not.
 */
int gpu_mover_attach(struct gpu_mover *mover, void *memory, uint64_t bytes);
int gpu_mover_detach(struct gpu_mover *mover, void *memory);

/*
 * Starts n copies; they are the caller's again at return. That each lies within one map and within
 * attached memory is the caller's to see to: a host mover would write where it is told to.
 * 0; -EINVAL: n, direction, or what the driver found wrong with them; -EBUSY:
 * GPU_MOVER_BATCHES_MAX; others by cuda_error.h. After an error no copy of them is in flight,
 * unless the mover is spoilt.
 */
int gpu_mover_submit(struct gpu_mover *mover, enum gpu_direction direction, uint32_t n,
		     const struct gpu_copy *copies, uint32_t *ret_batch);
/*
 * 0: done, the batch is forgotten; -EINPROGRESS; -EINVAL: there is no such batch; others: it failed
 * and is forgotten, and nothing of it is in flight unless the mover is spoilt.
 */
int gpu_mover_poll(struct gpu_mover *mover, uint32_t batch);

bool gpu_mover_is_spoilt(const struct gpu_mover *mover);
/* Why it is: what was in flight read or wrote memory of the device that is damaged. */
bool gpu_mover_memory_is_bad(const struct gpu_mover *mover);
bool gpu_mover_has_batch(const struct gpu_mover *mover); /* many copies cost one driver call */
