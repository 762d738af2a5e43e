/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What a replay's pages hold: stamps made from keys, written where an engine would compute and
 * compared where it would attend.
 *
 * In the page itself where the CPU can reach it; in a copy of one region's part of it where the
 * page lies on a GPU. A wrong page is counted and told, and is no reason to stop: how many there
 * are is a result.
 */

#include <inttypes.h>

#include "tools/kvb-replay/client.h"
#include "tools/kvb-replay/key.h"

#define CORRUPT_SAID_MAX 3u

static bool stamp(struct client *c, kvb_page_t page, const struct kvb_hash *key, uint32_t region)
{
	int r;

	if (!c->staging) {
		key_stamp(kvb_page_addr(c->space, region, page), c->region_bytes, key, region);
		return true;
	}
	key_stamp(c->staging, c->region_bytes, key, region);
	r = kvb_page_write(c->space, region, page, c->staging, c->region_bytes);
	return r == 0 || client_fail_call(c, "fill", r);
}

bool client_fill(struct client *c)
{
	uint64_t from_ns = live_clock_ns();

	for (uint32_t i = 0; i < c->got; i++) {
		uint32_t at = c->missing[i];

		for (uint32_t region = 0; region < c->o->regions; region++)
			if (!stamp(c, c->some[i], &c->key[at], region))
				return false;
		c->seal[i] =
			(struct kvb_seal){ .page = c->some[i], .hash = c->key[at], .depth = at };
	}
	c->n->bytes_filled += c->got * c->o->page_bytes;
	c->n->fill_ns += live_clock_ns() - from_ns;
	return true;
}

/* Where the bytes of a page's part can be looked at; NULL: failed, and said so. */
static const void *look_at(struct client *c, kvb_page_t page, uint32_t region)
{
	int r;

	if (!c->staging)
		return kvb_page_addr(c->space, region, page);
	r = kvb_page_read(c->space, region, page, c->staging, c->region_bytes);
	if (r == 0)
		return c->staging;
	(void)client_fail_call(c, "verify", r);
	return NULL;
}

bool client_verify_page(struct client *c, uint32_t at)
{
	bool good = true;

	for (uint32_t region = 0; region < c->o->regions && good; region++) {
		const void *bytes = look_at(c, c->page[at], region);
		size_t offset;

		if (!bytes)
			return false;
		offset = key_check(bytes, c->region_bytes, &c->key[at], region);
		good = offset == c->region_bytes;
		if (!good && c->n->corrupt < CORRUPT_SAID_MAX) {
			replay_say("client %" PRIu32 ": request %zu: block %" PRIu64
				   ": page %" PRIu32 ", region %" PRIu32 ": wrong from byte %zu on",
				   c->index, c->request + 1, c->id[at], KVB_PAGE_ID(c->page[at]),
				   region, offset);
		}
	}
	c->n->pages_verified++;
	c->n->corrupt += !good;
	c->n->bytes_verified += c->o->page_bytes;
	return true;
}

bool client_verify_found(struct client *c)
{
	uint64_t from_ns = live_clock_ns();

	for (uint32_t i = 0; i < c->blocks; i++)
		if (c->page[i] != KVB_PAGE_NONE && !client_verify_page(c, i))
			return false;
	c->n->verify_ns += live_clock_ns() - from_ns;
	return true;
}
