/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A daemon of straw for the library's tests: one thread, one client, every answer under the test's
 * control.
 *
 * It speaks the ABI and nothing more: no budgets, no index, pages counted up from 0. What it is
 * good for is being wrong on purpose. A test sets the knobs before fake_start(), or has a function
 * run in the daemon's thread with fake_do() while the library is waiting.
 *
 * Life: fake_start() in a test, fake_stop() at its end. The default answers are in fake_serve().
 */

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "uapi/kvbroker.h"

#define FAKE_PAGE_BYTES 4096u
#define FAKE_HANDLE_BYTES (64u << 10)
#define FAKE_SLOTS 8u
#define FAKE_SPACE 3u /* the handle of the one space */
#define FAKE_PAGES_PER_SLAB (FAKE_HANDLE_BYTES / FAKE_PAGE_BYTES)

struct fake {
	/* knobs */
	uint32_t first_index;   /* where both rings' indices start */
	bool silent;            /* accepts, never answers HELLO */
	bool grant_on_open;     /* the grant of slab 0 follows SPACE_REPLY at once */
	bool late_grant;        /* ALLOC says GRANT_PENDING once before slab 0 is granted */
	const char *refusal;    /* answers HELLO with this error text */
	uint64_t delay_ns;      /* before each completion */
	uint32_t pages_max;     /* ALLOC gives up to so many pages in all */
	unsigned handshake_fds; /* fds to send; 4 */
	uint64_t handle_bytes;  /* FAKE_HANDLE_BYTES */
	uint64_t tiers;         /* of the space */
	uint8_t device_uuid[16];
	/* Spoils what answers HELLO. */
	void (*spoil)(struct fake *f, struct kvb_msg_hello_reply *reply);
	/* Answers an entry itself: false leaves it to fake_serve(). */
	bool (*serve)(struct fake *f, const struct kvb_sqe *sqe);

	/* what happened; read by the test through fake_do() or after a call of the library */
	struct kvb_msg_hello hello;
	struct kvb_msg_grant_ack ack;
	uint32_t acks;
	uint32_t allocated;
	uint32_t freed;
	uint32_t entries;
	uint32_t reclaims;
	uint32_t closes;
	uint32_t doorbells; /* times the daemon had to be woken */
	kvb_page_t last_freed[64];

	/* its own */
	char dir[64];
	char path[96];
	int listen_fd, fd, doorbell;
	int sub_fd, ctl_fd, fence_fd;
	uint64_t sub_bytes, ctl_bytes;
	char *sub, *ctl;
	struct kvb_msg_hello_reply reply;
	struct kvb_msg_space_open space;
	uint32_t sq_head, cq_tail, next_slot;
	uint64_t grant_seq;
	uint64_t grow_user_data;
	uint32_t grow_count;
	int slab_fd[FAKE_SLOTS][KVB_REGIONS_MAX];
	pthread_t thread;
	void (*todo)(struct fake *f, void *arg);
	void *todo_arg;
	bool stop;
};

void fake_init(struct fake *f); /* knobs at their defaults */
void fake_start(struct fake *f);
void fake_stop(struct fake *f);
/* Runs fn in the daemon's thread and waits for it. */
void fake_do(struct fake *f, void (*fn)(struct fake *f, void *arg), void *arg);

/* For functions that run in the daemon's thread. */
void fake_complete(struct fake *f, const struct kvb_cqe *cqe);
void fake_result(struct fake *f, uint64_t user_data, int32_t res);
void fake_event(struct fake *f, enum kvb_event event, int32_t res, uint32_t status, uint64_t aux);
void fake_send(struct fake *f, void *msg, uint16_t type, size_t bytes, const int *fds,
	       unsigned nfds);
/* Grants slab `slot` of the one space, all its regions. */
void fake_grant(struct fake *f, uint32_t slot);
void fake_wake(struct fake *f); /* contract (F), after a store */
struct kvb_ctl *fake_ctl(struct fake *f);
