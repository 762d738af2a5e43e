/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A client spoken by hand, one step a call: what libkvbroker does in one go, taken apart.
 *
 * Tests that stop, lie or die between two steps of a client's life need the steps; the library
 * rightly hides them. Nothing here checks what the daemon says beyond what the step needs, and
 * nothing is done that the caller did not ask for: no grant is acknowledged, no CQE taken, no
 * doorbell rung behind its back.
 *
 * Life: peer_connect() or peer_adopt() -> hello_send, hello_take, map -> space_send, space_take ->
 * grants and entries -> peer_end(). Steps return 0 or -errno; those that wait give up after
 * PEER_PATIENCE_NS with -ETIME. One thread.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "uapi/kvbroker.h"

#define PEER_PATIENCE_NS (5ull * 1000 * 1000 * 1000)

struct peer {
	int fd;
	/* Called while a step waits, for servers that live in this thread; NULL: sleeps a little.
	 */
	void (*idle)(void *arg);
	void *idle_arg;
	int fds[4]; /* of the handshake, until mapped: sub, ctl, fence, doorbell; -1 */
	struct kvb_msg_hello_reply hello;
	char *sub, *ctl, *fence; /* ctl is read-only */
	uint32_t sq_tail, cq_head;
	struct kvb_msg_space_reply space;
	char *region; /* all of the space's addresses, reserved; NULL */
	uint64_t region_bytes;
	/* the grant in hand: received and not acknowledged */
	uint64_t grant_seq;
	uint32_t grants; /* handles of it */
	struct kvb_grant_entry grant[KVB_GRANT_FDS_MAX];
	int grant_fds[KVB_GRANT_FDS_MAX];
};

#define PEER_NULL ((struct peer){ .fd = -1, .fds = { -1, -1, -1, -1 } })

int peer_connect(struct peer *p, const char *socket);
void peer_adopt(struct peer *p, int fd); /* a connected socket, taken over */
void peer_end(struct peer *p);           /* unmaps, closes, in that order; any state */

/* Puts type and length into the header of msg and sends it as it is. */
int peer_send(struct peer *p, enum kvb_msg_type type, void *msg, size_t bytes);
/* One datagram into buf of KVB_MSG_BYTES_MAX; fds (room for KVB_GRANT_FDS_MAX) are the caller's.
 * Its length; 0 the daemon hung up; -ETIME; -errno. */
int peer_receive(struct peer *p, void *buf, int *fds, unsigned *ret_nfds);

int peer_hello_send(struct peer *p, const char *tenant, uint32_t sq_entries);
int peer_hello_take(struct peer *p); /* the reply and its fds; the daemon's errno if it refuses */
int peer_map(struct peer *p);

int peer_space_send(struct peer *p, uint32_t regions, uint64_t stride_bytes, uint64_t tag);
int peer_space_take(struct peer *p); /* reserves the addresses */
int peer_grant_take(struct peer *p);
int peer_grant_map(struct peer *p);
int peer_grant_ack(struct peer *p);
/* Takes, maps and acknowledges whatever grants are there now. */
int peer_grants(struct peer *p);
char *peer_page(const struct peer *p, kvb_page_t page); /* region 0 */

struct kvb_sqe *peer_sqe(struct peer *p); /* the next entry, zeroed; not yet anybody's */
void peer_tail(struct peer *p);           /* makes it visible: (A) */
void peer_doorbell(struct peer *p);       /* (E), rung whether needed or not */
bool peer_cqe_ready(const struct peer *p);
int peer_cqe_wait(struct peer *p, struct kvb_cqe *ret); /* a copy; stays in the ring */
void peer_cqe_seen(struct peer *p);
/* Sends *sqe, takes grants while waiting, drops events, and takes the completion. */
int peer_call(struct peer *p, const struct kvb_sqe *sqe, struct kvb_cqe *ret);
void *peer_operands(struct peer *p, uint32_t offset);
const void *peer_results(const struct peer *p, uint32_t offset);
