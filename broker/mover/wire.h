/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What the daemon and the mover of a device say to each other.
 *
 * Memory is told over a socketpair (SOCK_SEQPACKET, one struct a datagram, fds beside it), copies
 * over a ring in one memfd that both write. Both ends are one program of one version, so there is
 * no negotiation; still the daemon believes nothing it reads, and every index is checked.
 *
 * SOCKET. The mover speaks first, once: MOVER_HELLO. Every request of the daemon has a sequence
 * number and is answered by a MOVER_REPLY with the same one, in order.
 *
 *   MOVER_RING   the ring's memfd, the doorbell (rung by the daemon) and the wake-up (rung by the
 *                mover), in this order; first of all requests
 *   MOVER_CHUNK  a memfd of a host arena: the mover maps and page-locks it
 *   MOVER_SLAB   fds of a device slab, in the order of grants (handle h of region r is fd
 *                r * handles_per_region + h). More than MOVER_FDS_MAX come in several messages;
 *                `first` says where each goes on; only the last is answered
 *   MOVER_LOWER  where a slab of a lower tier lies: in which chunk, at which offset
 *   MOVER_DROP   a slab (device or lower) is given up: unmapped and forgotten. No copy of it is in
 *                flight
 *
 * RING. The layout and the barrier contract are those of kvbroker.h: struct kvb_sub at 0, entries
 * of 64 B; struct kvb_ctl at its offset, completions of 32 B. The daemon is the client of it
 * (uapi/steps.h is its half), the mover serves. Doorbell and wake-up are two eventfds that travel
 * with MOVER_RING, one each way, instead of futexes: both ends sleep in poll().
 *
 * LAYOUT. A device slab has `regions` runs of addresses; page p of region r lies at
 * run(r) + p * stride. The lower slab is laid out alike, region after region, each `pages` strides
 * long: so neighbours above are neighbours below, and go in one copy.
 */

#include <stdint.h>

#include "broker/owner/datagram.h"
#include "uapi/kvbroker.h"

#define MOVER_FD 3 /* the mover finds its end of the socketpair here */
#define MOVER_FDS_MAX DATAGRAM_FDS_MAX
#define MOVER_RING_ENTRIES 1024u /* power of two */
#define MOVER_RING_SQES 4096u    /* offsets in the memfd */
#define MOVER_RING_CTL (MOVER_RING_SQES + MOVER_RING_ENTRIES * 64u)
#define MOVER_RING_CQES (MOVER_RING_CTL + 4096u)
#define MOVER_RING_BYTES (MOVER_RING_CQES + MOVER_RING_ENTRIES * 32u)
#define MOVER_SLABS_MAX 65536u
#define MOVER_CHUNKS_MAX 4096u
#define MOVER_EXIT_MEMORY                                                                          \
	3 /* its exit status: memory of the device is bad, of what was in flight */

enum mover_type {
	MOVER_HELLO = 1,
	MOVER_REPLY,
	MOVER_RING,
	MOVER_CHUNK,
	MOVER_SLAB,
	MOVER_LOWER,
	MOVER_DROP
};

struct mover_hello {
	uint32_t type;
	int32_t error; /* not 0: it cannot serve, for the reason in why, and ends */
	char why[256];
};

struct mover_request {
	uint32_t type;
	uint32_t seq;
	uint32_t id;    /* chunk, or core slab index */
	uint32_t count; /* SLAB: fds in all */
	uint32_t first; /* SLAB: which of them the first here is */
	uint32_t regions;
	uint32_t handles_per_region;
	uint32_t pages; /* of the slab */
	uint32_t chunk; /* LOWER */
	uint32_t sums;  /* CHUNK 0 only: threads that checksum; 0: checksums are off */
	uint64_t stride_bytes;
	uint64_t handle_bytes;
	uint64_t bytes;        /* CHUNK: its size */
	uint64_t offset_bytes; /* LOWER: in its chunk */
};

struct mover_reply {
	uint32_t type;
	uint32_t seq;
	int32_t error;
	char why[244];
};

/* In place of struct kvb_sqe. A completion is a struct kvb_cqe: user_data = id, res = 0 or -errno,
 * aux = checksum. */
struct mover_entry {
	uint8_t direction; /* enum gpu_direction */
	uint8_t resv0[3];
	uint32_t id;         /* comes back */
	uint32_t slab, page; /* on the device */
	uint32_t lower_slab, lower_page;
	uint32_t sum; /* UP: what the bytes must have, or -EBADMSG */
	uint32_t resv1[9];
};
_Static_assert(sizeof(struct mover_entry) == sizeof(struct kvb_sqe), "entries share their slots");
