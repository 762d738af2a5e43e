/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The daemon's end of one mover: its process, the socket over which it is told of memory, the ring
 * of copies. Which memory and which copies is for the one who gives the callbacks: tiers.c.
 *
 *           link_open()        HELLO            link_break(): killed
 *   OFF ---------------> STARTING ---> SERVING -----------------------> DYING ---> OFF, and again
 *    ^  restart, at most one a second                                     | its death: gone()
 *    +--------------------------------------------------------------------+
 *
 * Nothing blocks: requests wait in a queue of their own for room in the socket, at most
 * LINK_WINDOW of them unanswered; their fds are asked for when they are sent. A mover that says
 * what makes no sense, or leaves a request or a copy without an answer for the deadline, is killed.
 *
 * The loop's thread only.
 */

#include <stdbool.h>
#include <stdint.h>

#include "broker/io/loop.h"
#include "broker/io/ring.h"
#include "broker/mover/wire.h"
#include "broker/owner/process.h"
#include "uapi/steps.h"

#define LINK_WHY_BYTES 160

enum link_state { LINK_OFF = 0, LINK_STARTING, LINK_SERVING, LINK_DYING };

struct mover_link;

struct mover_link_ops {
	/* It serves: tell it of everything. */
	void (*greeted)(struct mover_link *link);
	/* It will not serve any more, but may still be at work on what it was given. */
	void (*broken)(struct mover_link *link);
	/* It is dead. Everything that was asked is forgotten. */
	void (*gone)(struct mover_link *link);
	/* What a request says, and its fds, which stay the callback's. */
	void (*fill)(struct mover_link *link, enum mover_type type, uint32_t id,
		     struct mover_request *ret, const int **ret_fds, uint32_t *ret_n);
	void (*answered)(struct mover_link *link, enum mover_type type, uint32_t id);
	/* The end of a copy. -EPROTO: none of that name is in flight. */
	int (*completed)(struct mover_link *link, uint64_t id, int32_t error, uint64_t sum);
};

struct link_request {
	uint8_t type;
	uint32_t id;
	uint32_t seq;
};

struct mover_link {
	const struct mover_link_ops *ops;
	struct server *server;
	unsigned device; /* the caller's */
	char name[KVB_NAME_BYTES];
	enum link_state state;
	struct process process;
	struct loop_source socket, death, bell;
	struct shm_region memory; /* of the ring */
	int doorbell_fd, bell_fd; /* to it, from it */
	struct kvb_ring ring;
	struct link_request *requests; /* head: unanswered; next: unsent; tail; run freely */
	uint32_t requests_max;         /* power of two */
	uint32_t head, next, tail;
	uint32_t part; /* fds of the request at next that have been sent */
	uint32_t seq;
	uint32_t flights;
	bool restless;        /* entries got and not shown */
	bool finished;        /* no other is started */
	uint64_t resend_ns;   /* UINT64_MAX: nothing waits for room */
	uint64_t started_ns;  /* the last start */
	uint64_t pause_ns;    /* between two starts */
	uint64_t restart_ns;  /* OFF: when */
	uint64_t progress_ns; /* it has answered something, or was at rest */
	uint64_t work_ns;     /* it was given, or has done, a copy */
	uint64_t starts;
	struct log_limit limit;
	bool memory_is_bad;       /* the last one ended by memory of the device, see gone() */
	char why[LINK_WHY_BYTES]; /* it does not serve */
};

/* requests_max: what may be asked and unanswered at once. 0, -ENOMEM. */
int link_open(struct mover_link *link, struct server *s, unsigned device, const char *name,
	      uint32_t requests_max, const struct mover_link_ops *ops);
/* Ends it, and starts none until this is said again with false. */
void link_rest(struct mover_link *link, bool rest);
void link_finish(struct mover_link *link); /* tells it to end */
void link_close(struct mover_link *link);  /* waits until it has, kills it, frees */

/* SERVING only. Answered in order. */
void link_ask(struct mover_link *link, enum mover_type type, uint32_t id);
/* SERVING only. False: the ring is full. */
bool link_submit(struct mover_link *link, const struct mover_entry *entry);
void link_flush(struct mover_link *link); /* what was submitted becomes visible */
/* Takes completions. True: some came. */
bool link_poll(struct mover_link *link);
bool link_hot(const struct mover_link *link);
bool link_arm(struct mover_link *link); /* false: completions are there */
void link_disarm(struct mover_link *link);

void link_turn(struct mover_link *link); /* what goes by the clock */
uint64_t link_next_ns(const struct mover_link *link);
