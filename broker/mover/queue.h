/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The mover's end of the ring: the serving half of the barrier contract in kvbroker.h, for the
 * layout of wire.h. The daemon's half is uapi/steps.h.
 *
 *   open -> { take, post, publish; arm before a sleep, disarm after it } -> close
 *
 * Indices run freely modulo 2^32 and live in private memory; the shared copies are only written.
 * What the daemon writes is loaded once and must be possible, else -EPROTO: the ring is of no use
 * any more. An entry is only taken when a completion slot is free for it, so post() cannot fail.
 *
 * One thread.
 */

#include <stdbool.h>
#include <stdint.h>

#include "broker/mover/wire.h"

struct mover_queue {
	char *mem;    /* NULL: not open */
	int doorbell; /* the daemon rings; both eventfds are closed with the queue */
	int wake;     /* rung here */
	uint32_t sq_head;
	uint32_t tail_seen; /* sub.sq_tail when last looked at */
	uint32_t cq_tail;
	uint32_t cq_head; /* sub.cq_head when last looked at */
	uint32_t shown_head, shown_tail;
	uint32_t owed; /* entries taken and not posted */
	bool stuck;    /* entries wait for completions to be reaped, which rings no doorbell */
};

#define MOVER_QUEUE_NONE                                                                           \
	(struct mover_queue)                                                                       \
	{                                                                                          \
		.doorbell = -1, .wake = -1                                                         \
	}

/*
 * Maps the ring and starts where its words stand. The eventfds are the queue's from success on, the
 * memfd stays the caller's. -EINVAL: too small; -errno.
 */
int mover_queue_open(struct mover_queue *q, int memfd, int doorbell, int wake);
void mover_queue_close(struct mover_queue *q); /* one that is not open is fine */

/* Copies the next entry out: 1; 0 none, or stuck; -EPROTO. */
int mover_queue_take(struct mover_queue *q, struct mover_entry *ret);
/* The completion of an entry taken; seen by the daemon after publish. */
void mover_queue_post(struct mover_queue *q, uint32_t id, int32_t res, uint32_t sum);
/* Shows the daemon what was taken and posted, and wakes it if it asked for that. */
void mover_queue_publish(struct mover_queue *q);

/* Asks for the doorbell. True: entries are there already, do not sleep. */
bool mover_queue_arm(struct mover_queue *q);
void mover_queue_disarm(struct mover_queue *q);
