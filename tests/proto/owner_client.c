/* SPDX-License-Identifier: Apache-2.0 */

/*
 * An engine for the tests of GPU owners: it does one thing a line of its input, and answers in one.
 *
 *   owner_client SOCKET DEVICE [REGIONS]   DEVICE as cuda:0 or host:0; prints `ready`
 *
 *   grow N     asks for N slabs, allocates their pages and writes each: `grown N`, `failed ERRNO`
 *   check      reads every page it holds: `ok`; bytes that are not its own are exit status 3
 *   give       gives every page and slab back: `ok`
 *   ping N     frees a page and allocates one, N times: `worst US`, the longest of them
 *
 * The end of the input ends it. Exit status 1: a call failed that may not.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "uapi/libkvbroker.h"

#define STRIDE_BYTES 65536u
#define STRIDE_WIDE_BYTES (1u << 20) /* where REGIONS are given: few pages */
#define STAMP_BYTES 4096u            /* of each page in each region that are written and read */
#define PAGES_MAX 65536u
#define WAIT_NS 10000000000ull

static struct kvb *kvb;
static struct kvb_space *space;
static struct kvb_space_info info;
static kvb_page_t pages[PAGES_MAX];
static uint32_t pages_n, slabs_n;
static uint64_t bytes[STAMP_BYTES / 8], want[STAMP_BYTES / 8];

static void must(int64_t r, const char *what)
{
	if (r >= 0)
		return;
	fprintf(stderr, "owner_client: %s: %s\n", what, kvb ? kvb_error_text(kvb) : "");
	exit(1);
}

static void say(const char *word, int64_t number)
{
	printf("%s %lld\n", word, (long long)number);
	fflush(stdout);
}

static uint64_t clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

static void stamp(uint64_t *to, kvb_page_t page, uint32_t region)
{
	for (uint32_t i = 0; i < STAMP_BYTES / 8; i++)
		to[i] = (page * 256 + region) * 0x9e3779b97f4a7c15ull + i;
}

static void grow(uint32_t slabs)
{
	int64_t got = kvb_space_grow(space, (uint64_t)slabs * info.pages_per_slab, 0);
	int64_t n;

	if (got <= 0) {
		say("failed", -got);
		return;
	}
	n = kvb_alloc(space, pages + pages_n, (uint32_t)got);
	must(n == got ? 0 : -EIO, "alloc");
	for (uint32_t i = pages_n; i < pages_n + n; i++) {
		for (uint32_t r = 0; r < info.regions; r++) {
			stamp(want, pages[i], r);
			must(kvb_page_write(space, r, pages[i], want, STAMP_BYTES), "write");
		}
	}
	pages_n += (uint32_t)n;
	slabs_n += (uint32_t)n / info.pages_per_slab;
	say("grown", n / info.pages_per_slab);
}

static void check(void)
{
	for (uint32_t i = 0; i < pages_n; i++) {
		for (uint32_t r = 0; r < info.regions; r++) {
			stamp(want, pages[i], r);
			must(kvb_page_read(space, r, pages[i], bytes, STAMP_BYTES), "read");
			if (memcmp(bytes, want, STAMP_BYTES) != 0)
				exit(3);
		}
	}
	puts("ok");
	fflush(stdout);
}

static void give(void)
{
	if (pages_n)
		must(kvb_free(space, pages, pages_n), "free");
	must(kvb_space_shrink(space, (uint64_t)slabs_n * info.pages_per_slab, WAIT_NS), "shrink");
	must(kvb_quiet_point(kvb), "quiet point");
	pages_n = slabs_n = 0;
	puts("ok");
	fflush(stdout);
}

static void ping(uint32_t n)
{
	uint64_t worst_ns = 0;
	kvb_page_t *page = &pages[pages_n - 1];

	must(pages_n ? 0 : -EINVAL, "no page");
	for (uint32_t i = 0; i < n; i++) {
		uint64_t began_ns = clock_ns(), took_ns;

		must(kvb_free(space, page, 1), "free");
		must(kvb_alloc(space, page, 1) == 1 ? 0 : -EIO, "alloc");
		took_ns = clock_ns() - began_ns;
		if (took_ns > worst_ns)
			worst_ns = took_ns;
	}
	for (uint32_t r = 0; r < info.regions; r++) {
		stamp(want, *page, r);
		must(kvb_page_write(space, r, *page, want, STAMP_BYTES), "write");
	}
	say("worst", (int64_t)(worst_ns / 1000));
}

int main(int argc, char **argv)
{
	struct kvb_params params = { .name = "owner_client", .magazine = 1 };
	struct kvb_space_params geometry = { .stride_bytes = STRIDE_BYTES, .regions = 2 };
	char error[256] = "", line[64];

	if (argc < 3 || argc > 4 || strlen(argv[2]) < 6)
		return 2;
	params.socket = argv[1];
	geometry.device_kind = argv[2][0] == 'c' ? KVB_DEVICE_CUDA : KVB_DEVICE_HOST;
	geometry.device_ordinal = (uint32_t)strtoul(argv[2] + 5, NULL, 10);
	if (argc == 4) {
		geometry.regions = (uint32_t)strtoul(argv[3], NULL, 10);
		geometry.stride_bytes = STRIDE_WIDE_BYTES;
	}
	must(kvb_connect(&params, &kvb, error), error);
	must(kvb_space_open(kvb, &geometry, &space), "space");
	kvb_space_get_info(space, &info);
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		uint32_t n = (uint32_t)strtoul(line + 5, NULL, 10);

		if (strncmp(line, "grow ", 5) == 0)
			grow(n);
		else if (strncmp(line, "ping ", 5) == 0)
			ping(n);
		else if (strncmp(line, "check", 5) == 0)
			check();
		else if (strncmp(line, "give", 4) == 0)
			give();
		else
			return 2;
	}
	kvb_disconnect(kvb);
	return 0;
}
