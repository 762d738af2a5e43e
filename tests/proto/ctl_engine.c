/* SPDX-License-Identifier: Apache-2.0 */

/*
 * An engine for the tests of broker-ctl: it seals pages under hashes the test can name, and then
 * does one thing a line of its input.
 *
 *   ctl_engine SOCKET TENANT PAGES
 *
 * Page i is sealed under the namespace digest 0xa9, 0x1f, 0x03, 0xc2, 0... and the hash whose 16
 * bytes are i + 1. Lines: `release` gives every lease back, `alloc N` takes pages and keeps them.
 * Each is answered by `ok`; the end of the input ends it. Exit status 1: something failed.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "uapi/libkvbroker.h"

#define PAGES_MAX 64u

static void must(int64_t r, const char *what, const struct kvb *kvb)
{
	if (r >= 0)
		return;
	fprintf(stderr, "ctl_engine: %s: %s\n", what,
		kvb ? kvb_error_text(kvb) : strerror((int)-r));
	exit(1);
}

static void say_ok(void)
{
	puts("ok");
	fflush(stdout);
}

static void seal_pages(struct kvb *kvb, struct kvb_space *space, kvb_page_t *pages, uint32_t n)
{
	static const uint8_t digest[32] = { 0xa9, 0x1f, 0x03, 0xc2 };
	struct kvb_seal seals[PAGES_MAX];
	struct kvb_ns_info ns;

	must(kvb_ns_open(kvb, digest, 0, &ns), "ns_open", kvb);
	must(kvb_space_grow(space, n, 1000000000), "grow", kvb);
	if (kvb_alloc(space, pages, n) != (int64_t)n)
		must(-1, "alloc", kvb);
	memset(seals, 0, sizeof(seals));
	for (uint32_t i = 0; i < n; i++) {
		seals[i].page = pages[i];
		seals[i].depth = i;
		memset(&seals[i].hash, (int)i + 1, sizeof(seals[i].hash));
	}
	if (kvb_seal(space, ns.ns, ns.epoch, 0, seals, pages, n) != (int64_t)n)
		must(-1, "seal", kvb);
}

int main(int argc, char **argv)
{
	struct kvb_params params = { .name = "ctl_engine", .magazine = 1 };
	struct kvb_space_params geometry = { .stride_bytes = 65536 };
	kvb_page_t pages[PAGES_MAX], more[PAGES_MAX];
	struct kvb_space *space;
	char error[256], line[64];
	struct kvb *kvb;
	uint32_t n;

	if (argc != 4)
		return 2;
	params.socket = argv[1];
	params.tenant = argv[2];
	n = (uint32_t)strtoul(argv[3], NULL, 10);
	if (n < 1 || n > PAGES_MAX)
		return 2;
	must(kvb_connect(&params, &kvb, error), error, NULL);
	must(kvb_space_open(kvb, &geometry, &space), "space_open", kvb);
	seal_pages(kvb, space, pages, n);
	say_ok();
	while (fgets(line, sizeof(line), stdin)) {
		if (strncmp(line, "release", 7) == 0)
			must(kvb_release(space, pages, n), "release", kvb);
		else if (strncmp(line, "alloc ", 6) == 0)
			must(kvb_alloc(space, more,
				       (uint32_t)strtoul(line + 6, NULL, 10) % PAGES_MAX),
			     "alloc", kvb);
		else
			return 2;
		say_ok();
	}
	kvb_disconnect(kvb);
	return 0;
}
