/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * From entries of the ring to copies of the device, and back to completions.
 *
 * Entries are taken as they come and wait, in order, for their direction. A batch takes as many as
 * its bounds allow, sorts them by where they lie on the device, and makes one copy of each run that
 * is consecutive both above and below, region by region. Then:
 *
 *   down   READY -> COPYING -> SUMMING -> completed with the sum
 *   up     SUMMING -> READY -> COPYING -> completed; a page whose sum does not fit is completed
 * with -EBADMSG instead of being copied
 *
 * without SUMMING where checksums are off. Two batches of a direction are copied at a time, so that
 * the copy engine never waits for this process, and two more are summed meanwhile; while all are
 * busy entries gather, so that load makes batches large by itself. Batches of one direction are in
 * no order among themselves: the daemon sends nothing that depends on what is not completed.
 *
 * Every entry taken is completed once, and its two slabs have it among their users until then; only
 * what a spoilt device had is not, and is over with the process.
 * One thread.
 */

#include <stdbool.h>
#include <stdint.h>

#include "broker/mover/memory.h"
#include "broker/mover/queue.h"
#include "broker/mover/sum.h"

#define MOVER_BATCH_PAGES_MAX 256u
#define MOVER_BATCH_BYTES_MAX (16ull << 20) /* unless one page is more */
#define MOVER_BATCHES_COPYING 2u            /* of a direction */
#define MOVER_BATCHES 4u                    /* of a direction, in all stages */
#define MOVER_DIRECTIONS 2u

enum mover_stage { MOVER_FREE, MOVER_SUMMING, MOVER_READY, MOVER_COPYING };

struct mover_batch {
	enum mover_stage stage;
	enum gpu_direction direction;
	uint64_t order; /* when it was filled */
	uint32_t n;
	uint32_t gpu; /* COPYING: the device's number of it */
	uint64_t bytes;
	uint64_t start_ns; /* COPYING */
	struct mover_sum_job job;
	struct mover_entry entry[MOVER_BATCH_PAGES_MAX];
	struct mover_page page[MOVER_BATCH_PAGES_MAX]; /* SUMMING */
};

/* Entries that wait; as many as the ring can have out. */
struct mover_waiting {
	uint32_t head, tail; /* run freely */
	struct mover_entry entry[MOVER_RING_ENTRIES];
};

struct mover_batches {
	struct gpu_mover *gpu;
	struct mover_memory *memory;
	struct mover_queue *queue;
	struct mover_sums *sums;
	uint64_t now_ns;
	uint64_t filled; /* batches, ever */
	uint32_t copying[MOVER_DIRECTIONS];
	uint64_t ns_per_mib[MOVER_DIRECTIONS]; /* as measured; 0: not yet */
	uint64_t end_ns[MOVER_DIRECTIONS];     /* when the last one's end was seen */
	bool spoilt;
	struct mover_waiting waiting[MOVER_DIRECTIONS];
	struct mover_batch batch[MOVER_DIRECTIONS][MOVER_BATCHES];
	struct gpu_copy copy[GPU_MOVER_COPIES_MAX];
};

/* All four must outlive it. The queue is open at the first turn; sums may open later, or never. */
void mover_batches_init(struct mover_batches *b, struct gpu_mover *gpu, struct mover_memory *memory,
			struct mover_queue *queue, struct mover_sums *sums);

/*
 * One step of everything. 1: something was done; 0: nothing to do now; -EPROTO: the ring is broken;
 * -EIO: the device is spoilt. After an error only mover_batches_fail() is left.
 */
int mover_batches_turn(struct mover_batches *b, uint64_t now_ns);
/* How long to sleep at most after a turn that did nothing; UINT64_MAX: until something comes. */
uint64_t mover_batches_wait_ns(const struct mover_batches *b);
/*
 * Completes with -EIO what was taken, but not what the device was given and did not end: that may
 * still be written to, until this process is dead. No checksum is under way any more.
 */
void mover_batches_fail(struct mover_batches *b);
