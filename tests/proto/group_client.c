/* SPDX-License-Identifier: Apache-2.0 */

/*
 * One rank of an engine, for the tests of groups: it does one thing a line of its input, and
 * answers in one.
 *
 *   group_client SOCKET DEVICE GROUP RANKS RANK   prints `ready PAGES_PER_SLAB`, or
 *                                                 `refused ERRNO` and ends
 *
 * A key is a number; what a page under it holds follows from the key and the rank, all of it.
 *
 *   grow N         asks for N slabs: `grown N`, `failed ERRNO`
 *   put FIRST N    N keys, a page at a time: allocates, writes, seals, releases: `put N`
 *   any FIRST N    for each key 1 if it is found in any tier, 0 if not: `any 0110...`
 *   have FIRST N   the same for the device alone, and reads what is found: `have 0110...`
 *   get FIRST N    brings each up that is anywhere and reads it: `got 0110...`
 *
 * The end of the input ends it. Exit status 1: a call failed that may not; 3: bytes that are wrong.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "uapi/libkvbroker.h"

#define KEYS_MAX 1024u
#define STRIDE_BYTES 65536u
#define WAIT_NS 10000000000ull

static struct kvb *kvb;
static struct kvb_space *space;
static struct kvb_space_info info;
static struct kvb_ns_info ns;
static struct kvb_rank rank;
static uint64_t bytes[STRIDE_BYTES / 8], want[STRIDE_BYTES / 8];

static void must(int64_t r, const char *what)
{
	if (r >= 0)
		return;
	fprintf(stderr, "group_client: %s: %s (%s)\n", what, kvb ? kvb_error_text(kvb) : "",
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

static void stamp(uint64_t key)
{
	uint64_t x = (key * KVB_RANKS_MAX + rank.rank + 1) * 0x9e3779b97f4a7c15ull;

	for (uint64_t i = 0; i < STRIDE_BYTES / 8; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		want[i] = x;
	}
}

static void page_check(kvb_page_t page, uint64_t key)
{
	stamp(key);
	must(kvb_page_read(space, 0, page, bytes, STRIDE_BYTES), "read");
	if (memcmp(bytes, want, STRIDE_BYTES) == 0)
		return;
	fprintf(stderr, "group_client: rank %u, key %llu: wrong bytes\n", rank.rank,
		(unsigned long long)key);
	exit(3);
}

/* False: for ten seconds no page is to be had. */
static bool put_one(uint64_t key, uint32_t depth)
{
	uint64_t until_ns = clock_ns() + WAIT_NS;
	struct kvb_seal seal = { .hash = hash_of(key), .depth = depth };
	kvb_page_t page, sealed;
	int64_t got;

	do {
		got = kvb_alloc(space, &page, 1);
		must(got, "alloc");
	} while (got == 0 && clock_ns() < until_ns);
	if (got == 0)
		return false;
	stamp(key);
	must(kvb_page_write(space, 0, page, want, STRIDE_BYTES), "write");
	seal.page = page;
	must(kvb_seal(space, ns.ns, ns.epoch, 0, &seal, &sealed, 1) == 1 ? 0 : -EIO, "seal");
	if (sealed != page) /* the key was there */
		must(kvb_free(space, &page, 1), "free");
	must(kvb_release(space, &sealed, 1), "release");
	return true;
}

static void put(uint64_t first, uint32_t n)
{
	uint32_t done = 0;

	while (done < n && put_one(first + done, done))
		done++;
	printf("put %u\n", done);
}

static bool is_anywhere(uint64_t key)
{
	struct kvb_hash hash = hash_of(key);
	uint32_t device = 0;
	kvb_page_t page;
	int64_t got = kvb_lookup_tiers(space, ns.ns, 0, &hash, &page, 1, &device, NULL);

	must(got, "lookup");
	if (device)
		must(kvb_release(space, &page, 1), "release");
	return got == 1;
}

static bool is_here(uint64_t key)
{
	struct kvb_hash hash = hash_of(key);
	kvb_page_t page;
	int64_t got = kvb_lookup(space, ns.ns, 0, &hash, &page, 1, NULL);

	must(got, "lookup");
	if (got) {
		page_check(page, key);
		must(kvb_release(space, &page, 1), "release");
	}
	return got == 1;
}

static bool comes(uint64_t key)
{
	struct kvb_hash hash = hash_of(key);
	kvb_page_t page;
	int64_t got = kvb_load(space, ns.ns, 0, &hash, &page, 1, NULL);

	must(got, "load");
	if (got) {
		page_check(page, key);
		must(kvb_release(space, &page, 1), "release");
	}
	return got == 1;
}

static void each(const char *word, bool (*is)(uint64_t key), uint64_t first, uint32_t n)
{
	char found[KEYS_MAX + 1] = "";

	for (uint32_t i = 0; i < n; i++)
		found[i] = is(first + i) ? '1' : '0';
	printf("%s %s\n", word, found);
}

static void grow(uint32_t slabs)
{
	int64_t got = kvb_space_grow(space, (uint64_t)slabs * info.pages_per_slab, 0);

	if (got <= 0)
		printf("failed %lld\n", (long long)-got);
	else
		printf("grown %lld\n", (long long)got / info.pages_per_slab);
}

static void open_all(char **argv)
{
	struct kvb_params params = { .socket = argv[1], .name = "group_client" };
	struct kvb_space_params geometry = { .stride_bytes = STRIDE_BYTES };
	const uint8_t digest[32] = { 1 };
	char error[256] = "";
	int rc;

	geometry.device_kind = argv[2][0] == 'c' ? KVB_DEVICE_CUDA : KVB_DEVICE_HOST;
	geometry.device_ordinal = (uint32_t)strtoul(argv[2] + 5, NULL, 10);
	rank.group = strtoull(argv[3], NULL, 10);
	rank.ranks = (uint32_t)strtoul(argv[4], NULL, 10);
	rank.rank = (uint32_t)strtoul(argv[5], NULL, 10);
	must(kvb_connect(&params, &kvb, error), error);
	rc = kvb_space_open_rank(kvb, &geometry, &rank, &space);
	if (rc == -EINVAL) {
		printf("refused %d\n", -rc);
		exit(0);
	}
	must(rc, "space");
	kvb_space_get_info(space, &info);
	must(kvb_ns_open(kvb, digest, 0, &ns), "namespace");
}

int main(int argc, char **argv)
{
	char line[64];

	if (argc != 6 || strlen(argv[2]) < 6)
		return 2;
	open_all(argv);
	printf("ready %u\n", info.pages_per_slab);
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		unsigned long long first = 0;
		char word[8] = "";
		unsigned n = 0;

		if (sscanf(line, "grow %u", &n) == 1)
			grow(n);
		else if (sscanf(line, "%7s %llu %u", word, &first, &n) != 3 || n > KEYS_MAX)
			return 2;
		else if (strcmp(word, "put") == 0)
			put(first, n);
		else if (strcmp(word, "any") == 0)
			each("any", is_anywhere, first, n);
		else if (strcmp(word, "have") == 0)
			each("have", is_here, first, n);
		else if (strcmp(word, "get") == 0)
			each("got", comes, first, n);
		else
			return 2;
		fflush(stdout);
	}
	kvb_disconnect(kvb);
	return 0;
}
