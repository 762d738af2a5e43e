/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * One client process of a live replay, as its two files see it: client.c makes the requests,
 * contents.c writes and reads the pages.
 */

#include "tools/kvb-replay/live.h"
#include "uapi/libkvbroker.h"

struct client {
	const struct replay_options *o;
	const struct trace *t;
	struct live_shared *shared;
	uint32_t index;
	struct replay_counts *n;
	struct kvb *kvb;
	struct kvb_space *space;
	uint32_t ns;
	size_t region_bytes; /* of one page */
	void *staging;       /* one of these, for pages on a GPU; NULL on the host */
	/* of the request at hand, room for the largest */
	size_t request;
	const uint64_t *id;
	uint32_t blocks;
	uint64_t epoch;
	struct kvb_hash *key;
	kvb_page_t *page;  /* leased, by position; KVB_PAGE_NONE = none */
	kvb_page_t *some;  /* allocated, then what seals[i] led to, then those to release */
	uint32_t *missing; /* positions that had no page; the first `got` have one of ours */
	uint32_t got;
	struct kvb_seal *seal;
};

/* Stops everybody; says why unless somebody already has. Returns false. */
__attribute__((format(printf, 2, 3))) bool client_fail(struct client *c, const char *format, ...);
/* As client_fail(): a call of the library failed, with r < 0 or for fewer operands than asked. */
bool client_fail_call(struct client *c, const char *what, int64_t r);

/* ---- contents.c; false: failed, and said so ------------------------------------------------ */

/* Stamps the first c->got pages of c->some from their keys, and prepares c->seal for them. */
bool client_fill(struct client *c);
/* Compares the page at a position with what its key says, and counts. */
bool client_verify_page(struct client *c, uint32_t at);
/* Everything we lease and have not filled ourselves: all of it before we seal. */
bool client_verify_found(struct client *c);
