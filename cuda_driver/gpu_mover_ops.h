/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What a back end of the mover fills in. gpu_mover.c is the only caller, cuda_mover.c and
 * host_mover.c are the back ends; nobody else includes this.
 *
 * gpu_mover.c keeps the books that are the same for both: which batches are in flight, what is
 * mapped and attached. So a back end is asked only for what exists: it never sees an address that
 * it did not give, a batch twice, or more than GPU_MOVER_BATCHES_MAX of them.
 */

#include "cuda_driver/gpu_mover.h"

struct gpu_mover_ops {
	int (*map)(struct gpu_mover *mover, uint32_t n, uint64_t handle_bytes, const int *fds,
		   uint64_t *ret_device);
	/* After an error it is called again for the same map, or never. */
	int (*unmap)(struct gpu_mover *mover, uint64_t device, uint32_t n, uint64_t handle_bytes);
	int (*attach)(struct gpu_mover *mover, void *memory, uint64_t bytes);
	int (*detach)(struct gpu_mover *mover, void *memory);
	/* Batch `slot` is free. After an error nothing of it is in flight, or the mover is spoilt.
	 */
	int (*submit)(struct gpu_mover *mover, uint32_t slot, enum gpu_direction direction,
		      uint32_t n, const struct gpu_copy *copies);
	/* Of a batch in flight. After all but -EINPROGRESS nothing of it is, or it is spoilt. */
	int (*poll)(struct gpu_mover *mover, uint32_t slot);
	/* Ends what is in flight: nothing is written any more when it returns, unless spoilt. */
	void (*settle)(struct gpu_mover *mover);
	/* Frees the mover; all is settled, unmapped and detached. */
	void (*finish)(struct gpu_mover *mover);
};

struct gpu_mover {
	const struct gpu_mover_ops *ops;
	bool spoilt;
	bool memory_is_bad;
	bool has_batch;
	uint32_t uses;                        /* of slots, for names of batches */
	uint32_t live[GPU_MOVER_BATCHES_MAX]; /* name of the batch in a slot; 0: free */
	void *maps;                           /* trees of struct mover_span, by address */
	void *attached;
};

int cuda_mover_open(uint32_t ordinal, struct gpu_mover **ret, char *why, uint32_t why_bytes);
int host_mover_open(struct gpu_mover **ret, char *why, uint32_t why_bytes);
