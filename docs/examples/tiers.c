/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A request whose prefix is partly on the device and partly below it: ask where it is, decide,
 * load.
 *
 *     kvbrokerd --socket /tmp/b.sock --state-dir /tmp/b --device host:0=64M --host-tier 256M &
 *     KVBROKER_SOCKET=/tmp/b.sock example-tiers
 *
 * The program fills three times what the device holds, one chain after the other, so that the first
 * chains go down. Then it asks for the first one again. Without a tier below it finds nothing.
 */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libkvbroker.h"

#define PAGE_BYTES 65536
#define BLOCKS 64u /* of a chain */

static int fail(const struct kvb *kvb)
{
	fprintf(stderr, "example-tiers: %s\n", kvb_error_text(kvb));
	return 1;
}

static void name_chain(uint32_t chain, struct kvb_hash *hash)
{
	for (uint32_t i = 0; i < BLOCKS; i++)
		hash[i] = (struct kvb_hash){ { 0x71e5, (uint64_t)chain << 32 | i } };
}

/* Fills, publishes and lets go of a chain. */
static int64_t put_chain(struct kvb_space *space, const struct kvb_ns_info *ns, uint32_t chain)
{
	struct kvb_seal seal[BLOCKS];
	struct kvb_hash hash[BLOCKS];
	kvb_page_t page[BLOCKS], sealed[BLOCKS];
	const int64_t n = kvb_alloc(space, page, BLOCKS);

	name_chain(chain, hash);
	for (int64_t i = 0; i < n; i++) {
		memset(kvb_page_addr(space, 0, page[i]), (int)(chain + 1), PAGE_BYTES);
		seal[i] =
			(struct kvb_seal){ .page = page[i], .hash = hash[i], .depth = (uint32_t)i };
	}
	if (n <= 0 || kvb_seal(space, ns->ns, ns->epoch, 0, seal, sealed, (uint32_t)n) != n)
		return -1;
	/* The key was there from another run: its page is leased, and ours is to be given back. */
	for (int64_t i = n - 1; i >= 0; i--)
		if ((sealed[i] != page[i] && kvb_free(space, &page[i], 1) != 1) ||
		    kvb_release(space, &sealed[i], 1) != 1)
			return -1;
	return n;
}

/* How many of the pages hold what the chain was filled with. */
static uint32_t right_pages(struct kvb_space *space, const kvb_page_t *page, int64_t n, char want)
{
	uint32_t right = 0;

	for (int64_t i = 0; i < n; i++) {
		const char *bytes = kvb_page_addr(space, 0, page[i]);

		right += bytes[0] == want && !memcmp(bytes, bytes + 1, PAGE_BYTES - 1);
	}
	return right;
}

int main(void)
{
	const struct kvb_space_params params = { .stride_bytes = PAGE_BYTES, .tag = 4 };
	const uint8_t digest[32] = "example: tiers";
	struct kvb_hash hash[BLOCKS];
	kvb_page_t page[BLOCKS];
	struct kvb_space_info info;
	struct kvb_space *space;
	struct kvb_ns_info ns;
	struct kvb *kvb;
	uint32_t device = 0, chains;
	int64_t run, got;
	char why[256];

	if (kvb_connect(NULL, &kvb, why) < 0) {
		fprintf(stderr, "example-tiers: %s\n", why);
		return 1;
	}
	if (kvb_space_open(kvb, &params, &space) < 0 || kvb_ns_open(kvb, digest, 0, &ns) < 0)
		return fail(kvb);
	/* All there is. Another run of this program may have left the space with all of it. */
	got = kvb_space_grow(space, UINT32_MAX, 1000000000);
	kvb_space_get_info(space, &info);
	if (got < 0 && !info.slabs)
		return fail(kvb);
	chains = 3 * info.slabs * info.pages_per_slab / BLOCKS;
	for (uint32_t i = 0; i < chains; i++)
		if (put_chain(space, &ns, i) < 0)
			return fail(kvb);

	/* Where is the first chain? What is on the device is leased by the question. */
	name_chain(0, hash);
	run = kvb_lookup_tiers(space, ns.ns, 0, hash, page, BLOCKS, &device, NULL);
	if (run < 0)
		return fail(kvb);
	/* Here an engine weighs fetching so many pages against computing them. LOAD may bring fewer
	 * than were promised; the rest is computed like any miss. */
	got = kvb_load(space, ns.ns, 0, hash + device, page + device, (uint32_t)run - device, NULL);
	if (got < 0)
		return fail(kvb);
	got += device;
	const uint32_t right = right_pages(space, page, got, 1);
	printf("%" PRIu32 " chains; of the first, %" PRIu32 " blocks on the device, %" PRId64
	       " brought up, %" PRIu32 " right\n",
	       chains, device, got - device, right);
	for (int64_t i = got - 1; i >= 0; i--)
		if (kvb_release(space, &page[i], 1) != 1)
			return fail(kvb);
	kvb_disconnect(kvb);
	return right == (uint64_t)got ? 0 : 1;
}
