/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What is below the devices: host arenas, the memory of slabs there, and the movers that copy.
 *
 *      core: transfers ---> tiers ---> mover of the device (a process): ring, socket
 *      core: slabs of arenas ---> tiers ---> numa/arena.h: chunks, filled in the background
 *
 * The core decides what is copied; here it is carried out. A device with a tier has a mover, which
 * is told of every chunk, every slab of the device and every slab below it before a copy between
 * them. What it was told of is its until it has said that it gave it up, or is dead: so the memory
 * of a slab is taken back by slab_close() only after that.
 *
 * Nothing here blocks, and nothing here can fail the daemon: without a mover, or without memory in
 * the arena, the broker works as one without a tier, and `state` says so to operators.
 *
 * Without --host-tier server.tiers is NULL, and all of this does nothing. The loop's thread only.
 */

#include <stdbool.h>
#include <stdint.h>

#define TIERS_CHUNK_BYTES (1ull << 30) /* of an arena: one memfd; a slab lies in one */
#define TIERS_CHUNK_BYTES_MIN                                                                      \
	(64ull << 20) /* smaller where the arena is small: it serves sooner                        \
		       */

static inline uint64_t tiers_chunk_bytes(uint64_t arena_bytes)
{
	uint64_t bytes = TIERS_CHUNK_BYTES;

	while (bytes > TIERS_CHUNK_BYTES_MIN && bytes > arena_bytes / 4)
		bytes >>= 1;
	return bytes;
}

struct server;
struct tiers;

/* What operators see of a device's tier. */
struct tiers_info {
	int32_t mover_pid;         /* 0: none runs */
	bool ready;                /* copies can be made */
	char state[200];           /* "ok", "starting", "filling", "failed (why)" */
	uint64_t restarts;         /* movers started after the first */
	uint32_t flights;          /* copies asked for and not done */
	uint64_t up_bytes;         /* copied to the device so far */
	uint64_t down_bytes;       /* and from it */
	int32_t arena;             /* index of its arena among the core's devices */
	uint32_t node;             /* NUMA node of the arena */
	uint64_t arena_bytes;      /* what the arena will be */
	uint64_t filled_bytes;     /* of it, there */
	uint64_t used_bytes;       /* of those, in slabs */
	uint64_t wrong_node_bytes; /* of those filled, on another node than asked */
	uint64_t hugetlb_bytes, thp_bytes; /* of those filled, on huge pages of either kind */
	int unplaced_error; /* 0, or -errno: the system refuses to place it */
	int unseen_error;   /* or to tell where it is */
	bool arena_short;          /* the rest is not to be had */
};

/* After core_arena_add() and core_device_below(); starts movers and filling. 0, -ENOMEM, -errno. */
int tiers_new(struct server *s);
void tiers_free(struct server *s); /* ends every mover */

/* Ends the mover of a device, if it has one, or starts it again: for gpu drain and resume. */
void tiers_rest(struct server *s, unsigned device, bool rest);

/* False: the device has no tier. */
bool tiers_get_info(const struct server *s, unsigned device, struct tiers_info *ret);

/* ---- the turn ------------------------------------------------------------------------------ */

/* Transfers to movers, completions back. True: something was done. */
bool tiers_turn(struct server *s);
/* Completions only: one load for each mover with copies in flight. */
bool tiers_poll(struct server *s);
/* Copies are in flight and end soon: do not sleep. */
bool tiers_hot(const struct server *s);
/* Before a sleep: completions from now on wake the loop. False: one has come meanwhile. */
bool tiers_arm(struct server *s);
void tiers_disarm(struct server *s);            /* after it */
uint64_t tiers_next_ns(const struct server *s); /* when it wants a turn; UINT64_MAX: never */

/* ---- slabs (for grants.c) ------------------------------------------------------------------ */

/* A slab of an arena is to be made: core_slab_created() or core_slab_failed() now or later. */
void tiers_slab_create(struct server *s, unsigned slab);
/* A slab of a device is there: its mover is told. */
void tiers_slab_created(struct server *s, unsigned slab);
/*
 * The core wants the slab back. True: nobody else has it, go on. False: its mover gives it up
 * first, then grants_slab_given_up() is called for it.
 */
bool tiers_slab_close(struct server *s, unsigned slab);

/* Where a slab of an arena lies: the fd, which stays the arena's, and the offset there. */
int tiers_slab_memory(const struct server *s, unsigned slab, uint64_t *ret_offset);
