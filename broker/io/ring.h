/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The daemon's side of one client's rings.
 *
 * The client's memory is hostile: sub is mapped read-only here, every word of it is loaded once
 * into a local (shm.h), every SQE is copied whole before it is looked at, indices live in private
 * memory and the shared copies are only written. An index that jumps breaks the client.
 *
 * The polled set: a ring that had work in the last spin_ns is looked at every turn; then it leaves
 * the set, NEED_DOORBELL is set, and its doorbell (an eventfd the daemon never reads, watched
 * edge-triggered) brings it back.
 *
 * A turn gives each polled ring a budget in work units (an operand or an entry costs one or more),
 * small when there are several, so that a short request waits for little of another's long one.
 * A batch larger than what is left goes on in the next turn from a private copy of its SQE, so no
 * client's batch delays another's by more than a slice. Entries of one ring are done in order,
 * except that entries waiting for a fence (at most KVB_FENCES) or for memory let later ones pass.
 *
 * A GPU writes a fence word and rings no doorbell. So a ring with an entry that waits for one stays
 * polled for RING_FENCE_NS, and its words are looked at every turn; one that comes later is found
 * by the look at all that waits, now and then.
 */

#include <stdbool.h>
#include <stdint.h>

#include "broker/io/server.h"

struct shm_region {
	int fd;
	void *mem;
	uint64_t bytes;
};

struct ring_geometry {
	uint32_t sq_entries, cq_entries, operand_bytes;
};

#define RING_TURN_UNITS 512u      /* work units a ring may use a turn, when it is alone */
#define RING_TURN_UNITS_SHARED 8u /* and when others are polled too: they wait that long */
#define RING_FENCE_NS (5ull * 1000 * 1000)
#define RING_SLICE 256u /* operands copied and done at once */

/* An entry being worked on, or parked until its fence or its memory comes. */
struct ring_op {
	struct kvb_sqe sqe; /* the private copy */
	uint32_t done;      /* operands done */
	uint32_t lead;      /* LOOKUP: leading run; GROW: slabs still asked for; LOAD: arrived */
	uint32_t flags;     /* KVB_CQE_* gathered */
	uint32_t error;     /* LOAD: positive errno that ended its run */
	bool broken;        /* LOOKUP ALL, LOAD: a key has missed */
	bool used;
	bool fenced; /* parked, and not run yet: its fence has not come */
	uint64_t aux;
	uint64_t until_ns;               /* of what waits: gives up then */
	uint64_t slots[CORE_SLOT_WORDS]; /* GROW: slabs it waits for */
};

struct ring {
	struct session *session;
	struct ring *next, *prev; /* polled set */
	bool hot;
	uint64_t work_ns; /* when it last had work */
	struct shm_region sub, ctl, fence;
	int doorbell_fd;
	struct ring_geometry geo;
	uint32_t off_sqes, off_operands, off_cqes, off_results;
	/* private copies of what this side owns */
	uint32_t sq_head, cq_tail, cq_head;
	uint32_t published; /* cq_tail as the client has been shown it */
	uint32_t shown_head;
	uint32_t reserved;     /* CQE slots promised to entries taken and not completed */
	uint32_t malformed;    /* in a row; three break the ring */
	uint32_t tail_seen;    /* sq_tail as last read */
	uint32_t operand_seen; /* where the last entry had its operands */
	bool broken;
	bool stalled; /* cold with entries that wait for CQE slots */
	bool current_used;
	struct ring_op current;
	unsigned parked;   /* of parked[] used */
	unsigned fenced;   /* of those, waiting for a fence */
	uint64_t fence_ns; /* when the last of those was parked */
	struct ring_op parked_op[KVB_FENCES];
	uint64_t entries, invalid;
};

/* Makes the three memfds, maps and seals them, makes the doorbell. -errno; frees what it made. */
int ring_new(struct session *ss, const struct ring_geometry *geo, struct ring **ret);
struct ring *ring_free(struct ring *r);
void ring_describe(const struct ring *r, struct kvb_msg_hello_reply *reply);

void ring_wake(struct ring *r); /* into the polled set (doorbell, attach) */
void ring_break(struct ring *r,
		int error);             /* BROKEN, error and a wake-up; no more entries are taken */
void ring_drain(struct ring *r);        /* DRAINING and a wake-up */
void ring_message_sent(struct ring *r); /* the socket has news: sock_seq and a wake-up */
/* Posts an event if a CQE slot is free. False: try again later. */
bool ring_event(struct ring *r, enum kvb_event event, int32_t res, uint32_t status, uint64_t aux);
/* The handle may soon be another space's: entries for this one that are not done end with -ENOENT.
 */
void ring_space_closed(struct ring *r, uint32_t handle);

/* All polled rings once. True: something was done. */
bool ring_turn(struct server *s);
/* When the next parked entry has to be looked at; UINT64_MAX: never. */
uint64_t ring_next_ns(const struct server *s);

/* For LOAD: sets the fence word that an entry names, if it names one. */
void ring_fence_set(struct ring *r, const struct kvb_sqe *sqe);
/* For ops/: the private copy of n operands of `bytes` each, from operand `first` of the entry. */
bool ring_copy_operands(struct ring *r, const struct kvb_sqe *sqe, uint32_t first, uint32_t n,
			uint32_t bytes, void *to);
/* Where result `first` of the entry goes, for results of `bytes` each; NULL out of bounds. */
void *ring_results(struct ring *r, const struct kvb_sqe *sqe, uint32_t first, uint32_t n,
		   uint32_t bytes);
