/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The owner of a GPU: a process of its own that creates, exports and keeps the GPU's handles.
 *
 * The daemon loads no driver (a call into one can hang for seconds, and its faults are its
 * caller's). So for each GPU it starts its own binary again as `kvbrokerd --owner cuda:N`, which
 * does nothing but answer requests from the one socket it inherited, one at a time.
 *
 *   daemon                                       owner
 *     worker thread of the GPU                     owner_main(): driver, no context
 *       owner_open(): a back end of gpu.h  <--->     create, export, keep; release
 *
 * What the two ends promise:
 *   - Memory belongs to whoever holds an fd of it. The daemon keeps the fds, so slabs outlive their
 *     owner, with their contents. The owner keeps handles besides only so that closing a slab gives
 *     its memory back at once.
 *   - A request has a deadline. When it passes, or the owner ends, that request fails softly and
 *     the next one starts a new owner, at most one a second; never a second one beside a former
 *     that does not end.
 *   - How much of the GPU others have taken is looked at every few seconds, and before a create:
 *     one that would fill the GPU to its end is refused. Where the driver's management library is
 *     not there, nobody knows, and a create is refused by the driver alone.
 *   - The owner ends when the daemon closes the socket or dies, whatever it is doing.
 */

#include <stdint.h>

#include "broker/io/log.h"
#include "cuda_driver/gpu.h"

struct owner_config {
	uint32_t ordinal;
	const char *uuid;     /* outlives the owner; "": the ordinal is the driver's */
	uint64_t deadline_ns; /* for one request */
	uint64_t capacity_bytes;
	uint64_t keep_bytes;  /* of the GPU, that a create leaves unused as far as that is known */
	enum log_level level; /* the owner's */
};

/* Starts an owner and does not wait for it. 0, -ENOMEM, -errno. */
int owner_open(const struct owner_config *cfg, struct gpu_device **ret);
/*
 * Waits until it serves its device. 0; -errno: it does not, and info() has the reason. Before the
 * first create only.
 */
int owner_wait(struct gpu_device *dev);

/* The owner process: serves GPU `ordinal`, to the driver driver_ordinal, on WIRE_FD until the
 * daemon is gone. Exit status. */
int owner_main(uint32_t ordinal, uint32_t driver_ordinal);
