/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The broker that a simulated replay runs on: sim_setup.c makes it, sim.c makes requests to it.
 *
 * The tables of core.h in ordinary memory, one device, one tenant, one space and one client that
 * makes the same calls for a request that a live client's entries lead to. With --tiers the device
 * has an arena, and so the space one below it, or a store (sim_store.h), or one behind the other.
 *
 * No device exists: a slab counts as created when the core asks for it, its grant as sent and
 * acknowledged at once, and a transfer is done as soon as it is given out.
 *
 * A page's stamp is the key it was filled under, kept beside the tables by page record, copied by
 * transfers as a mover copies bytes, and its checksum too: what comes up is compared with what the
 * core kept of what went down.
 */

#include "broker/core/core.h"
#include "tools/kvb-replay/replay.h"
#include "tools/kvb-replay/sim_store.h"

struct sim {
	struct core core;
	void *mem;
	size_t mem_bytes;
	unsigned device;
	unsigned client, ballast;
	struct core_member *member, *spare;
	unsigned ns;
	uint64_t epoch;
	uint32_t slabs, slab_pages;         /* of the device */
	uint32_t low_slabs, low_slab_pages; /* of its arena; 0: there is none */
	struct sim_store *store;            /* NULL: there is none */
	uint64_t *stamp; /* by page record: first word of the key it was filled under */
	uint64_t core_ns;
	/* of one request, room for the largest */
	struct kvb_hash *key;
	kvb_page_t *page;  /* by position in the request; KVB_PAGE_NONE = not cached */
	kvb_page_t *some;  /* allocated pages, results, pages to release */
	uint8_t *tier;     /* by position: where it was found; enum kvb_tier */
	uint32_t *missing; /* positions that have no page */
	struct kvb_seal *seal;
};

/* 0, or -errno; sim_close() in both cases. */
int sim_open(struct sim *s, const struct replay_options *o, const struct trace *t);
void sim_close(struct sim *s);

/*
 * Does what devices, clients and movers would do, until the core wants nothing more. True: it made
 * memory or copied something, so what waited may go on.
 */
bool sim_settle(struct sim *s);
