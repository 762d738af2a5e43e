/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The whole of kvbroker in one page: one connection fills blocks and publishes them, another finds
 * them again.
 *
 *     kvbrokerd --socket /tmp/b.sock --state-dir /tmp/b --device host:0=64M &
 *     KVBROKER_SOCKET=/tmp/b.sock example-minimal
 *
 * An engine does the same, with its kernels in place of memset(), and hashes of its token blocks in
 * place of the numbers here.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libkvbroker.h"

#define BLOCKS 8
#define PAGE_BYTES 65536

/* Ends the program with what the library has to say. */
static void check(const struct kvb *kvb, int64_t result, const char *what)
{
	if (result >= 0)
		return;
	fprintf(stderr, "example-minimal: %s: %s\n", what, kvb_error_text(kvb));
	exit(1);
}

static struct kvb *connect_and_open(struct kvb_space **space, struct kvb_ns_info *ns)
{
	/* Clients of one tenant with the same device, geometry and tag share a space. */
	const struct kvb_space_params params = { .stride_bytes = PAGE_BYTES };
	/* The digest stands for everything that makes cached bytes what they are: weights,
	 * tokenizer, data type, layout, rank. Two models must never have the same one. */
	const uint8_t digest[32] = "example: model, dtype, layout";
	struct kvb *kvb = NULL;
	char why[256];

	if (kvb_connect(NULL, &kvb, why) < 0) {
		fprintf(stderr, "example-minimal: %s\n", why);
		exit(1);
	}
	check(kvb, kvb_space_open(kvb, &params, space), "space");
	check(kvb, kvb_ns_open(kvb, digest, 0, ns), "namespace");
	return kvb;
}

int main(void)
{
	struct kvb_space *space, *space2;
	struct kvb_ns_info ns, ns2;
	kvb_page_t page[BLOCKS];
	struct kvb_seal seal[BLOCKS];
	struct kvb_hash hash[BLOCKS];

	/* The first engine: memory, pages, contents, keys. */
	struct kvb *kvb = connect_and_open(&space, &ns);
	check(kvb, kvb_space_grow(space, BLOCKS, 1000000000), "grow");
	const int64_t got = kvb_alloc(space, page, BLOCKS);
	check(kvb, got, "alloc");
	for (int64_t i = 0; i < got; i++) {
		/* A page is the engine's block: same number in every process, and at
		 * kvb_region_base() + id * stride. */
		memset(kvb_page_addr(space, 0, page[i]), 'A' + (int)i, PAGE_BYTES);
		hash[i] = (struct kvb_hash){ { 0x5eed, (uint64_t)i } };
		seal[i] =
			(struct kvb_seal){ .page = page[i], .hash = hash[i], .depth = (uint32_t)i };
	}
	/* From here the pages are complete, others may read them, and nobody writes them any more.
	 * A key that another run of this program left behind keeps its page; ours is then free to
	 * go. */
	kvb_page_t sealed[BLOCKS];
	check(kvb, kvb_seal(space, ns.ns, ns.epoch, 0, seal, sealed, (uint32_t)got), "seal");
	for (int64_t i = 0; i < got; i++)
		if (sealed[i] != page[i])
			check(kvb, kvb_free(space, &page[i], 1), "free");

	/* A second engine: usually another process, which mapped the same memory when it joined. */
	struct kvb *kvb2 = connect_and_open(&space2, &ns2);
	kvb_page_t found[BLOCKS];
	const int64_t hits = kvb_lookup(space2, ns2.ns, 0, hash, found, (uint32_t)got, NULL);
	check(kvb2, hits, "lookup");
	int64_t right = 0;
	for (int64_t i = 0; i < hits; i++) {
		const char *bytes = kvb_page_addr(space2, 0, found[i]);
		right += bytes[0] == 'A' + (int)i && memcmp(bytes, bytes + 1, PAGE_BYTES - 1) == 0;
	}
	printf("%lld blocks sealed, %lld found again, %lld right\n", (long long)got,
	       (long long)hits, (long long)right);

	/* A lease keeps a page from eviction; give it back when the request is done, tail first, so
	 * that the head of the chain is the last to be evicted. */
	for (int64_t i = hits - 1; i >= 0; i--)
		check(kvb2, kvb_release(space2, &found[i], 1), "release");
	kvb_disconnect(kvb2);
	kvb_disconnect(kvb);
	return right == got ? 0 : 1;
}
