/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A host arena: memory of one NUMA node, in sealed memfds of limited size, filled in the
 * background.
 *
 * Committing memory takes long (a node's whole DRAM a minute or two), so a thread of the arena
 * fills chunk after chunk, and what is filled can be used at once. Chunks are filled in order, and
 * stay as they are until the arena is freed. Their number grows when arena_look() is called and
 * not otherwise, so that whoever has to tell others of chunks has told them before a piece is used.
 *
 *   arena_new() -> [event_fd: a chunk more is ready, or no more will be] -> arena_look() -> take
 * and give -> free
 *
 * Chunks are placed on their node by preference: memory elsewhere is slower, none is an error.
 * Where it came to lie is looked at and counted. Each lies on the largest pages there are for it:
 * those set aside for hugetlb on its node, if the pool has them for a whole chunk; else
 * transparent huge pages (numa/huge.h), else small ones.
 *
 * Pieces of chunks are given out in units, contiguous, first fit; a piece never spans chunks, as
 * two chunks are no neighbours in any process that maps them. One thread takes and gives. It knows
 * nothing of the broker.
 */

#include <stdbool.h>
#include <stdint.h>

#define ARENA_GRAIN_BYTES (2ull << 20) /* sizes are multiples of it */

struct arena;

struct arena_status {
	uint64_t bytes;        /* what it will be */
	uint64_t filled_bytes; /* ready */
	/* of those filled: */
	uint64_t wrong_node_bytes; /* on another node than asked, as far as could be looked at */
	uint64_t hugetlb_bytes, thp_bytes; /* on huge pages of either kind */
	int unplaced_error;                /* 0, or -errno: the system refused to place some */
	int unseen_error;                  /* 0, or -errno: it refused to tell where some are */
	int error; /* 0, or -errno: nothing more comes, though less than asked is there */
	bool done; /* nothing more comes */
};

/*
 * bytes: a multiple of ARENA_GRAIN_BYTES. chunk_bytes, unit_bytes: powers of two, as large or
 * larger, a unit at most a chunk. 0, -EINVAL, -ENOMEM, -errno.
 */
int arena_new(uint32_t node, uint64_t bytes, uint64_t chunk_bytes, uint64_t unit_bytes,
	      struct arena **ret);
struct arena *arena_free(struct arena *arena); /* stops filling first; NULL is fine */

int arena_event_fd(const struct arena *arena); /* readable: arena_look() has news */
/* Takes note of what has been filled. How many chunks there are: 0 to this. */
uint32_t arena_look(struct arena *arena, struct arena_status *ret);
/* Of a chunk that is there; the fd stays the arena's. */
int arena_chunk(const struct arena *arena, uint32_t chunk, uint64_t *ret_bytes);

/* 0; -EAGAIN: not in the chunks that are there, but more come; -ENOSPC: no such run is free. */
int arena_take(struct arena *arena, uint64_t bytes, uint32_t *ret_chunk, uint64_t *ret_offset);
uint64_t arena_used_bytes(const struct arena *arena);
/* Gives back a whole piece that was taken. */
void arena_give(struct arena *arena, uint32_t chunk, uint64_t offset, uint64_t bytes);
