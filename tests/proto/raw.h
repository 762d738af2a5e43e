/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A hostile client: the wire of kvbroker.h spoken by hand, with nothing between a test and the
 * bytes. It believes nothing of the library and shares no code with it.
 *
 * The lower half (raw_connect, raw_send, raw_receive) sends any bytes with any fds. The upper half
 * is an ordinary client that a test can make lie at any step: rings are plain pointers, indices are
 * the test's to spoil, fds of slabs stay open for as long as the test likes.
 *
 * One region a space, and a stride that divides the handle, so that a slab is one fd.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "uapi/kvbroker.h"

struct broker;

union raw_message {
	struct kvb_msg_header h;
	struct kvb_msg_hello hello;
	struct kvb_msg_hello_reply hello_reply;
	struct kvb_msg_space_open space_open;
	struct kvb_msg_space_reply space_reply;
	struct kvb_msg_space_close space_close;
	struct kvb_msg_grant grant;
	struct kvb_msg_grant_ack grant_ack;
	struct kvb_msg_error error;
	struct kvb_msg_ctl ctl;
	struct kvb_msg_ctl_reply ctl_reply;
	char bytes[4 * KVB_MSG_BYTES_MAX];
};

int raw_connect(const struct broker *b); /* fd, or -errno */
/* 0, or -errno. fds may be NULL. Never blocks. */
int raw_send(int sock, const void *msg, size_t bytes, const int *fds, unsigned nfds);
/*
 * Bytes of the next message, 0 the daemon has hung up, -ETIME. *nfds: room in, number out; fds that
 * find no room are closed.
 */
ssize_t raw_receive(int sock, union raw_message *ret, int *ret_fds, unsigned *nfds,
		    unsigned timeout_ms);
/*
 * Reads on until the daemon hangs up, within seconds, and closes the socket. The error of the last
 * KVB_MSG_ERROR, or 0. Fails when the daemon does not hang up.
 */
int raw_wait_end(int sock);

struct kvb_msg_hello raw_hello(void); /* a valid one: engine, rings of 64, 64 KiB of operands */

#define RAW_SLOTS_MAX 64u

struct raw {
	int sock;
	struct kvb_msg_hello_reply hello;
	int fds[4]; /* sub, ctl, fence, doorbell */
	char *sub, *ctl, *fence;
	uint32_t sq_tail, cq_head;
	/* one space */
	struct kvb_msg_space_reply geo;
	uint64_t stride;
	char *base;
	int slab_fd[RAW_SLOTS_MAX]; /* -1: not granted */
	bool deaf;                  /* grants are neither received nor answered */
	uint32_t revokes;           /* REVOKE events seen */
	uint32_t revoked[RAW_SLOTS_MAX];
	/* one namespace */
	struct kvb_ns_info ns;
};

/* Attaches to a tenant. hello NULL: raw_hello(). Fails when refused. */
void raw_attach(struct raw *r, const struct broker *b, const char *tenant,
		const struct kvb_msg_hello *hello);
/* Closes everything. What it has been granted waits for the death of this process... */
void raw_close(struct raw *r);
/* ... unless it has said goodbye. */
void raw_leave(struct raw *r);

struct kvb_sub *raw_sub(struct raw *r);
const struct kvb_ctl *raw_ctl(struct raw *r);
void *raw_operand(struct raw *r, uint32_t offset);
const void *raw_result(struct raw *r, uint32_t offset);
struct kvb_sqe *raw_sqe(struct raw *r, uint32_t index);

/* Writes the entry at the tail and shows it, with the doorbell when it is asked for. */
void raw_submit(struct raw *r, const struct kvb_sqe *sqe);
void raw_ring_doorbell(struct raw *r);
/* The next completion that is not an event. 0, -ETIME, -EPIPE broken or hung up. */
int raw_cqe(struct raw *r, struct kvb_cqe *ret, unsigned timeout_ms);
/* Submits and waits; fails when there is no completion. */
struct kvb_cqe raw_call(struct raw *r, const struct kvb_sqe *sqe);
bool raw_broken(struct raw *r, unsigned timeout_ms); /* waits until the ring is BROKEN */
/* Takes what the socket and the CQ have without waiting. */
void raw_poll(struct raw *r);

void raw_space(struct raw *r, uint64_t stride, uint64_t tag);         /* opens; one a client */
int32_t raw_grow(struct raw *r, uint32_t slabs, unsigned timeout_ms); /* res; maps what comes */
void raw_ns(struct raw *r, uint8_t digest, uint32_t flags);
/* Operations on pages, at operand offset 0. They return res. */
int32_t raw_alloc(struct raw *r, uint32_t n, kvb_page_t *ret);
int32_t raw_pages(struct raw *r, enum kvb_op op, uint32_t n, const kvb_page_t *pages);
/* Page i under the key raw_hash(first + i). */
int32_t raw_seal(struct raw *r, uint32_t n, const kvb_page_t *pages, uint64_t first,
		 kvb_page_t *ret);
int32_t raw_lookup(struct raw *r, uint32_t n, uint64_t first, kvb_page_t *ret);
struct kvb_hash raw_hash(uint64_t i);
void *raw_page(struct raw *r, kvb_page_t page);
