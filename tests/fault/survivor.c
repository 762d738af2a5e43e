/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The client whose neighbours die: it has sealed pages under its own keys, and says on request
 * whether they are still what it wrote.
 *
 *   survivor SOCKET TENANT [busy]
 *
 * Prints `ready`. Each line of input is answered by `ok` when a full round went well: every key
 * found, every byte as stamped, pages allocated, freed, a slab given back that was asked for. With
 * `busy` it does such rounds all the time. Ends with its input. Exit status 1: a round failed, and
 * stderr says how.
 */

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "uapi/libkvbroker.h"

#define STRIDE_BYTES 65536u
#define PAGES 8u
#define BATCH 16u

struct survivor {
	struct kvb *kvb;
	struct kvb_space *space;
	struct kvb_ns_info ns;
	struct kvb_hash key[PAGES];
};

static void must(bool ok, const struct survivor *s, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "survivor: %s: %s\n", what, s->kvb ? kvb_error_text(s->kvb) : "");
	exit(1);
}

static void stamp(char *at, unsigned page)
{
	for (uint32_t i = 0; i < STRIDE_BYTES; i += 8) {
		uint64_t word = ((uint64_t)page << 32 | i) * 0x9e3779b97f4a7c15ull;

		memcpy(at + i, &word, sizeof(word));
	}
}

static void begin(struct survivor *s)
{
	struct kvb_seal seals[PAGES] = { 0 };
	kvb_page_t pages[PAGES];

	must(kvb_space_grow(s->space, PAGES, 2000000000) > 0, s, "grow");
	must(kvb_alloc(s->space, pages, PAGES) == PAGES, s, "alloc");
	for (unsigned i = 0; i < PAGES; i++) {
		s->key[i] = (struct kvb_hash){ { (uint64_t)getpid(), i + 1 } };
		seals[i] = (struct kvb_seal){ .page = pages[i], .hash = s->key[i], .depth = i };
		stamp(kvb_page_addr(s->space, 0, pages[i]), i);
	}
	must(kvb_seal(s->space, s->ns.ns, s->ns.epoch, 0, seals, NULL, PAGES) == PAGES, s, "seal");
}

static void read_back(struct survivor *s)
{
	static char want[STRIDE_BYTES];
	kvb_page_t pages[PAGES];

	must(kvb_lookup(s->space, s->ns.ns, 0, s->key, pages, PAGES, NULL) == PAGES, s,
	     "its pages are gone");
	for (unsigned i = 0; i < PAGES; i++) {
		stamp(want, i);
		must(memcmp(want, kvb_page_addr(s->space, 0, pages[i]), STRIDE_BYTES) == 0, s,
		     "its bytes have changed");
	}
	must(kvb_release(s->space, pages, PAGES) == PAGES, s, "release");
}

static void one_round(struct survivor *s)
{
	kvb_page_t pages[BATCH];
	int64_t n;

	must(kvb_quiet_point(s->kvb) >= 0, s, "quiet point");
	n = kvb_alloc(s->space, pages, BATCH);
	must(n >= 0, s, "alloc");
	for (int64_t i = 0; i < n; i++)
		memset(kvb_page_addr(s->space, 0, pages[i]), 0x5e, STRIDE_BYTES);
	read_back(s);
	must(kvb_free(s->space, pages, (uint32_t)n) == n, s, "free");
}

static void serve(struct survivor *s, bool busy)
{
	struct pollfd in = { .fd = STDIN_FILENO, .events = POLLIN };
	char line[64];

	puts("ready");
	for (;;) {
		fflush(stdout);
		while (busy && poll(&in, 1, 0) == 0)
			one_round(s);
		if (!fgets(line, sizeof(line), stdin))
			return;
		one_round(s);
		puts("ok");
	}
}

int main(int argc, char **argv)
{
	struct kvb_space_params geometry = { .stride_bytes = STRIDE_BYTES };
	static const uint8_t digest[32] = { 0x59 };
	struct survivor s = { 0 };
	struct kvb_params params = { .name = "survivor", .magazine = 1 };
	char why[256] = "";

	if (argc < 3)
		return 2;
	params.socket = argv[1];
	params.tenant = argv[2];
	must(kvb_connect(&params, &s.kvb, why) == 0, &s, why);
	must(kvb_ns_open(s.kvb, digest, 0, &s.ns) == 0, &s, "namespace");
	must(kvb_space_open(s.kvb, &geometry, &s.space) == 0, &s, "space");
	begin(&s);
	setvbuf(stdin, NULL, _IONBF, 0); /* what poll() does not see must not be in a buffer */
	serve(&s, argc > 3);
	kvb_disconnect(s.kvb);
	return 0;
}
