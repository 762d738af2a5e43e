/* SPDX-License-Identifier: Apache-2.0 */

/*
 * An engine for the tests of lower tiers: it does one thing a line of its input, and answers in
 * one.
 *
 *   tier_client SOCKET DEVICE TENANT [STRIDE [REGIONS]]   prints `ready PAGES_PER_SLAB`
 *
 * A key is a number; what a page under it holds follows from the key and the tenant, all of it.
 *
 *   grow N         asks for N slabs: `grown N`, `failed ERRNO`
 *   put FIRST N    N keys: allocates, writes, seals, releases: `put N`; fewer when for ten seconds
 *                  no page is to be had
 *   get FIRST N    brings keys up that are anywhere, reads each, releases: `got N BELOW US`, BELOW
 *                  of them from below, US the longest call
 *   look FIRST N   `found N DEVICE`: the leading run in any tier, and how much of it is on the
 * device below          `below 1` if the space has a host tier shrink         gives every slab
 * back: `ok` ping N         N empty calls: `worst US`, the longest of them
 *
 *   bump           ends the epoch: `epoch E`, the one that begins
 *   epoch          `epoch E`, the one that the namespace was opened in, or that the last bump began
 *
 * The end of the input ends it. Exit status 1: a call failed that may not; 3: bytes that are wrong.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "uapi/libkvbroker.h"

#define KEYS_MAX 4096u
#define BATCH 32u
#define WAIT_NS 10000000000ull
#define PAGE_BYTES_MAX (4u << 20)

static struct kvb *kvb;
static struct kvb_space *space;
static struct kvb_space_info info;
static struct kvb_ns_info ns;
static uint64_t whose; /* what this tenant's bytes begin with */
static uint64_t bytes[PAGE_BYTES_MAX / 8], want[PAGE_BYTES_MAX / 8];

static void must(int64_t r, const char *what)
{
	if (r >= 0)
		return;
	fprintf(stderr, "tier_client: %s: %s (%s)\n", what, kvb ? kvb_error_text(kvb) : "",
		strerror((int)-r));
	exit(1);
}

static uint64_t clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

static struct kvb_hash hash_of(uint64_t key)
{
	return (struct kvb_hash){ .w = { key + 1, ~key } };
}

static void stamp(uint64_t key, uint32_t region)
{
	uint64_t x = (whose + key * 256 + region + 1) * 0x9e3779b97f4a7c15ull;

	for (uint64_t i = 0; i < info.stride_bytes / 8; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		want[i] = x;
	}
}

static void page_fill(kvb_page_t page, uint64_t key)
{
	for (uint32_t r = 0; r < info.regions; r++) {
		stamp(key, r);
		must(kvb_page_write(space, r, page, want, info.stride_bytes), "write");
	}
}

static void page_check(kvb_page_t page, uint64_t key)
{
	for (uint32_t r = 0; r < info.regions; r++) {
		stamp(key, r);
		must(kvb_page_read(space, r, page, bytes, info.stride_bytes), "read");
		if (memcmp(bytes, want, info.stride_bytes) == 0)
			continue;
		fprintf(stderr, "tier_client: key %llu, region %u: wrong bytes\n",
			(unsigned long long)key, r);
		exit(3);
	}
}

static void grow(uint32_t slabs)
{
	int64_t got = kvb_space_grow(space, (uint64_t)slabs * info.pages_per_slab, 0);

	if (got <= 0)
		printf("failed %lld\n", (long long)-got);
	else
		printf("grown %lld\n", (long long)got / info.pages_per_slab);
}

static void put(uint64_t first, uint32_t n)
{
	uint64_t until_ns = clock_ns() + WAIT_NS;
	uint32_t done = 0;

	while (done < n) {
		kvb_page_t page[BATCH], sealed[BATCH];
		struct kvb_seal seal[BATCH];
		uint32_t some = n - done < BATCH ? n - done : BATCH;
		int64_t got = kvb_alloc(space, page, some);

		must(got, "alloc");
		if (got == 0 && clock_ns() > until_ns)
			break;
		for (uint32_t i = 0; i < got; i++) {
			page_fill(page[i], first + done + i);
			seal[i] = (struct kvb_seal){ .page = page[i],
						     .hash = hash_of(first + done + i),
						     .depth = done + i };
		}
		must(kvb_seal(space, ns.ns, ns.epoch, 0, seal, sealed, (uint32_t)got) == got ? 0
											     : -EIO,
		     "seal");
		for (uint32_t i = 0; i < got; i++) {
			if (sealed[i] != page[i]) /* the key was there */
				must(kvb_free(space, &page[i], 1), "free");
		}
		must(kvb_release(space, sealed, (uint32_t)got), "release");
		done += (uint32_t)got;
	}
	printf("put %u\n", done);
}

/* In batches, as an engine does that cannot have all on the device at once; over keys that are
 * gone. */
static void get(uint64_t first, uint32_t n)
{
	uint32_t at = 0, done = 0, below = 0;
	uint64_t worst_ns = 0;

	while (at < n) {
		uint32_t some = n - at < BATCH ? n - at : BATCH, device = 0;
		struct kvb_hash hash[BATCH];
		kvb_page_t page[BATCH];
		uint64_t began_ns;
		int64_t got;

		for (uint32_t i = 0; i < some; i++)
			hash[i] = hash_of(first + at + i);
		began_ns = clock_ns();
		got = kvb_lookup_tiers(space, ns.ns, 0, hash, page, some, &device, NULL);
		must(got, "lookup");
		if (device)
			must(kvb_release(space, page, device), "release");
		got = kvb_load(space, ns.ns, 0, hash, page, some, NULL);
		must(got, "load");
		began_ns = clock_ns() - began_ns;
		worst_ns = began_ns > worst_ns ? began_ns : worst_ns;
		for (uint32_t i = 0; i < got; i++)
			page_check(page[i], first + at + i);
		if (got)
			must(kvb_release(space, page, (uint32_t)got), "release");
		below += (uint32_t)got > device ? (uint32_t)got - device : 0;
		done += (uint32_t)got;
		at += (uint32_t)got + ((uint32_t)got < some);
	}
	printf("got %u %u %llu\n", done, below, (unsigned long long)worst_ns / 1000);
}

static void look(uint64_t first, uint32_t n)
{
	static struct kvb_hash hash[KEYS_MAX];
	static kvb_page_t page[KEYS_MAX];
	uint32_t device = 0;
	int64_t got;

	for (uint32_t i = 0; i < n; i++)
		hash[i] = hash_of(first + i);
	got = kvb_lookup_tiers(space, ns.ns, 0, hash, page, n, &device, NULL);
	must(got, "lookup");
	if (device)
		must(kvb_release(space, page, device), "release");
	printf("found %lld %u\n", (long long)got, device);
}

static void ping(uint32_t n)
{
	uint64_t worst_ns = 0;

	for (uint32_t i = 0; i < n; i++) {
		uint64_t began_ns = clock_ns(), took_ns;

		must(kvb_nop(kvb), "nop");
		took_ns = clock_ns() - began_ns;
		if (took_ns > worst_ns)
			worst_ns = took_ns;
	}
	printf("worst %llu\n", (unsigned long long)worst_ns / 1000);
}

static void say_epoch(void)
{
	printf("epoch %llu\n", (unsigned long long)ns.epoch);
}

static void bump(void)
{
	uint64_t epoch = 0;

	must(kvb_epoch_bump(kvb, ns.ns, &epoch), "bump");
	ns.epoch = epoch;
	say_epoch();
}

static void shrink(void)
{
	must(kvb_space_shrink(space, 1u << 20, WAIT_NS), "shrink");
	must(kvb_quiet_point(kvb), "quiet point");
	puts("ok");
}

static void open_all(char **argv, int argc)
{
	struct kvb_params params = { .socket = argv[1], .tenant = argv[3], .name = "tier_client" };
	struct kvb_space_params geometry = { .stride_bytes = 65536, .regions = 2 };
	const uint8_t digest[32] = { 1 };
	char error[256] = "";

	geometry.device_kind = argv[2][0] == 'c' ? KVB_DEVICE_CUDA : KVB_DEVICE_HOST;
	geometry.device_ordinal = (uint32_t)strtoul(argv[2] + 5, NULL, 10);
	if (argc > 4)
		geometry.stride_bytes = strtoul(argv[4], NULL, 10);
	if (argc > 5)
		geometry.regions = (uint32_t)strtoul(argv[5], NULL, 10);
	for (const char *c = argv[3]; *c; c++)
		whose = whose * 1000003 + (uint8_t)*c;
	must(kvb_connect(&params, &kvb, error), error);
	must(kvb_space_open(kvb, &geometry, &space), "space");
	kvb_space_get_info(space, &info);
	must(info.stride_bytes <= PAGE_BYTES_MAX ? 0 : -E2BIG, "stride");
	must(kvb_ns_open(kvb, digest, KVB_NS_ADMIN, &ns), "namespace");
}

int main(int argc, char **argv)
{
	char line[64];

	if (argc < 4 || argc > 6 || strlen(argv[2]) < 6)
		return 2;
	open_all(argv, argc);
	printf("ready %u\n", info.pages_per_slab);
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		unsigned long long first = 0;
		unsigned n = 0;

		if (sscanf(line, "grow %u", &n) == 1)
			grow(n);
		else if (sscanf(line, "put %llu %u", &first, &n) == 2)
			put(first, n);
		else if (sscanf(line, "get %llu %u", &first, &n) == 2)
			get(first, n);
		else if (sscanf(line, "look %llu %u", &first, &n) == 2 && n <= KEYS_MAX)
			look(first, n);
		else if (sscanf(line, "ping %u", &n) == 1)
			ping(n);
		else if (strncmp(line, "below", 5) == 0)
			printf("below %d\n", kvb_space_tiers(space) >> KVB_TIER_HOST & 1 ? 1 : 0);
		else if (strncmp(line, "shrink", 6) == 0)
			shrink();
		else if (strncmp(line, "bump", 4) == 0)
			bump();
		else if (strncmp(line, "epoch", 5) == 0)
			say_epoch();
		else
			return 2;
		fflush(stdout);
	}
	kvb_disconnect(kvb);
	return 0;
}
