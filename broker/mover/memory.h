/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What memory a mover knows: chunks of host arenas, slabs of its device, slabs of the tier below.
 *
 * Ids are the daemon's, used as indices here and checked at every use: one that is wrong is -EINVAL
 * and changes nothing. Chunks stay until the end; a slab goes with mover_memory_drop(), when no
 * copy uses it (`users`, counted by the batches). A slab of the device is all or nothing: of one
 * that could not be mapped nothing stays.
 *
 * A device slab's fds may come in several messages. Each region is mapped as soon as its handles
 * are there, and their fds are closed, so a slab of any size needs few fds at a time. One slab is
 * being collected at a time; another one that begins takes its place.
 *
 * One thread.
 */

#include <stdbool.h>
#include <stdint.h>

#include "broker/mover/wire.h"
#include "cuda_driver/gpu_mover.h"

struct mover_chunk {
	char *mem; /* NULL: there is none of this number */
	uint64_t bytes;
};

struct mover_slab {
	bool used;
	bool lower;
	uint32_t regions, pages;
	uint64_t stride_bytes;
	uint32_t users;   /* entries that are not completed */
	uint64_t *device; /* address of each region, and NULL for a lower slab */
	char *host;       /* of a lower slab */
};

struct mover_memory {
	struct gpu_mover *gpu;
	struct mover_slab slab[MOVER_SLABS_MAX];
	struct mover_chunk chunk[MOVER_CHUNKS_MAX];
	struct {
		struct mover_slab slab;
		struct mover_request
			request; /* of its first message; type 0: nothing is collected */
		uint32_t got;    /* fds, of request.count */
		uint32_t mapped; /* regions */
		uint32_t held;   /* fds that are not mapped yet */
		int *fds;        /* handles_per_region */
		int error;       /* the first; what comes after is closed */
	} piece;
};

/* Room for the text that goes with an error. */
#define MOVER_WHY_BYTES 244u

/* gpu stays the caller's. */
void mover_memory_init(struct mover_memory *m, struct gpu_mover *gpu);
/* Forgets all. The device is closed before, which took its maps and its knowledge of chunks back.
 */
void mover_memory_finish(struct mover_memory *m);

/*
 * The requests of wire.h; each takes the fds that came with it, whatever it answers. 0, -EINVAL,
 * -EEXIST: the id is in use; -ENOMEM; as gpu_mover.h. why: MOVER_WHY_BYTES.
 */
int mover_memory_chunk(struct mover_memory *m, const struct mover_request *request, int fd,
		       char *why);
/* 1: more messages of this slab are to come. truncated: the process had no room for all fds. */
int mover_memory_slab(struct mover_memory *m, const struct mover_request *request, const int *fds,
		      uint32_t n, bool truncated, char *why);
int mover_memory_lower(struct mover_memory *m, const struct mover_request *request, char *why);
/* -EBUSY: copies of it are in flight. */
int mover_memory_drop(struct mover_memory *m, uint32_t id, char *why);

/* The slabs that an entry names; NULL: one of them, or a page, does not exist, or they do not fit.
 */
struct mover_slab *mover_memory_upper(struct mover_memory *m, const struct mover_entry *entry,
				      struct mover_slab **ret_lower);
/* Where a lower page's piece of a region is. */
static inline char *mover_slab_host(const struct mover_slab *s, uint32_t region, uint32_t page)
{
	return s->host + ((uint64_t)region * s->pages + page) * s->stride_bytes;
}
