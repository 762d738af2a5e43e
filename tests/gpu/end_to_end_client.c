/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A small engine on a GPU, for the end-to-end test.
 *
 *   end_to_end_client SOCKET TENANT GPU REGIONS MODE [CONTEXT]
 *
 * Modes:
 *   life    everything once, each byte checked
 *   lend    takes all the memory there is and fills it, prints `ready`, gives back what is asked
 *           for, ends with its input
 *   clean   takes one slab more; all the pages it can get must read zero
 *
 * CONTEXT is a GPU whose primary context is made current first, as an engine does, and must be
 * current at the end; without it the thread has none, before and after.
 *
 * Exit status: 0 all was well; 1 a call failed, and stderr says which and why; 3 bytes are not what
 * they must be, which no failure of a driver may lead to.
 */

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cuda_driver/cuda_api.h"
#include "uapi/libkvbroker.h"

#define STRIDE_BYTES 65536u
#define PAGES 64u
#define PAGES_MAX 8192u
#define GROW_NS (10ull * 1000 * 1000 * 1000)

struct engine {
	struct kvb *kvb;
	struct kvb_space *space;
	uint32_t regions;
	kvb_page_t page[PAGES_MAX]; /* `lend`: those it holds */
	uint32_t pages;
};

static unsigned char bytes[STRIDE_BYTES], want[STRIDE_BYTES];

static void must(bool ok, const struct engine *e, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "end_to_end_client: %s: %s\n", what, e->kvb ? kvb_error_text(e->kvb) : "");
	exit(1);
}

static void must_read(bool right, uint32_t region, kvb_page_t page, const char *what)
{
	if (right)
		return;
	fprintf(stderr, "end_to_end_client: page %u, region %u: %s\n", KVB_PAGE_ID(page), region,
		what);
	exit(3);
}

static void stamp(unsigned char *at, uint64_t seed)
{
	for (uint32_t i = 0; i < STRIDE_BYTES; i += 8) {
		const uint64_t word = (seed << 32 | i) * 0x9e3779b97f4a7c15ull + 1;

		memcpy(at + i, &word, sizeof(word));
	}
}

static void write_page(struct engine *e, kvb_page_t page, uint64_t seed)
{
	for (uint32_t r = 0; r < e->regions; r++) {
		stamp(bytes, seed * e->regions + r);
		must(kvb_page_write(e->space, r, page, bytes, STRIDE_BYTES) == 0, e, "write");
	}
}

static void check_page(struct engine *e, kvb_page_t page, uint64_t seed)
{
	for (uint32_t r = 0; r < e->regions; r++) {
		stamp(want, seed * e->regions + r);
		must(kvb_page_read(e->space, r, page, bytes, STRIDE_BYTES) == 0, e, "read");
		must_read(memcmp(bytes, want, STRIDE_BYTES) == 0, r, page, "not what was written");
	}
}

/* ---- life ---------------------------------------------------------------------------------- */

static void live(struct engine *e)
{
	static const uint8_t digest[32] = { 0x67 };
	struct kvb_seal seals[PAGES] = { 0 };
	struct kvb_hash keys[PAGES];
	kvb_page_t pages[PAGES];
	struct kvb_ns_info ns;

	must(kvb_ns_open(e->kvb, digest, KVB_NS_ADMIN, &ns) == 0, e, "namespace");
	must(kvb_space_grow(e->space, PAGES, GROW_NS) > 0, e, "grow");
	must(kvb_alloc(e->space, pages, PAGES) == PAGES, e, "alloc");
	for (uint32_t i = 0; i < PAGES; i++) {
		write_page(e, pages[i], i);
		keys[i] = (struct kvb_hash){ { i + 1, (uint64_t)getpid() } };
		seals[i] = (struct kvb_seal){ .page = pages[i], .hash = keys[i], .depth = i };
	}
	must(kvb_seal(e->space, ns.ns, ns.epoch, 0, seals, pages, PAGES) == PAGES, e, "seal");
	must(kvb_release(e->space, pages, PAGES) == PAGES, e, "release");
	must(kvb_lookup(e->space, ns.ns, 0, keys, pages, PAGES, NULL) == PAGES, e, "lookup");
	for (uint32_t i = 0; i < PAGES; i++)
		check_page(e, pages[i], i);
	must(kvb_release(e->space, pages, PAGES) == PAGES, e, "release");
	/* What is cached would keep its slabs. */
	must(kvb_epoch_bump(e->kvb, ns.ns, &ns.epoch) == 0, e, "epoch");
	must(kvb_space_shrink(e->space, PAGES, GROW_NS) >= 0, e, "shrink");
	must(kvb_quiet_point(e->kvb) >= 0, e, "quiet point");
	must(kvb_space_close(e->space) == 0, e, "close");
	puts("lived");
}

/* ---- lend ---------------------------------------------------------------------------------- */

static void give_back(void *arg, struct kvb_space *space, uint32_t first, uint32_t count,
		      uint64_t deadline_ns)
{
	struct engine *e = arg;
	kvb_page_t back[PAGES_MAX];
	uint32_t n = 0, kept = 0;

	for (uint32_t i = 0; i < e->pages; i++)
		if (KVB_PAGE_ID(e->page[i]) - first < count)
			back[n++] = e->page[i];
		else
			e->page[kept++] = e->page[i];
	e->pages = kept;
	must(kvb_free(space, back, n) == n, e, "give back");
}

static void lend(struct engine *e)
{
	struct pollfd in = { .fd = STDIN_FILENO, .events = POLLIN };
	struct kvb_space_info info;
	int64_t n;

	kvb_space_get_info(e->space, &info);
	while (kvb_space_grow(e->space, info.pages_per_slab, 0) > 0) {
	}
	while (e->pages < PAGES_MAX &&
	       (n = kvb_alloc(e->space, e->page + e->pages, PAGES_MAX - e->pages)) > 0)
		e->pages += (uint32_t)n;
	must(e->pages > 0, e, "no memory");
	for (uint32_t i = 0; i < e->pages; i++)
		write_page(e, e->page[i], i);
	kvb_on_revoke(e->kvb, give_back, e);
	puts("ready");
	fflush(stdout);
	while (poll(&in, 1, 5) == 0)
		must(kvb_quiet_point(e->kvb) >= 0, e, "quiet point");
}

/* ---- clean --------------------------------------------------------------------------------- */

static void expect_clean(struct engine *e)
{
	struct kvb_space_info info;
	int64_t n;

	kvb_space_get_info(e->space, &info);
	must(kvb_space_grow(e->space, info.pages_per_slab, GROW_NS) > 0, e, "grow");
	n = kvb_alloc(e->space, e->page, PAGES_MAX);
	must(n >= info.pages_per_slab, e, "alloc");
	for (int64_t i = 0; i < n; i++)
		for (uint32_t r = 0; r < e->regions; r++) {
			must(kvb_page_read(e->space, r, e->page[i], bytes, STRIDE_BYTES) == 0, e,
			     "read");
			must_read(memcmp(bytes, want, STRIDE_BYTES) == 0, r, e->page[i],
				  "somebody else's bytes");
		}
	printf("clean %lld\n", (long long)n);
}

/* ---- the context of the thread ------------------------------------------------------------- */

static cu_context context;

static void enter_context(int gpu)
{
	const struct cuda_api *api;
	cu_device device;

	if (cuda_load(&api) || api->init(0) || api->device_get(&device, gpu) ||
	    api->primary_ctx_retain(&context, device) || api->ctx_set_current(context)) {
		fprintf(stderr, "end_to_end_client: no context: %s\n", cuda_load_error());
		exit(1);
	}
}

static void must_be_in_context(const struct engine *e)
{
	const struct cuda_api *api;
	cu_context now = NULL;

	must(cuda_load(&api) == 0 && api->ctx_get_current(&now) == CU_OK && now == context, e,
	     "the thread's current context is not what it was");
}

int main(int argc, char **argv)
{
	struct kvb_params params = { .name = "end-to-end", .magazine = 1 };
	struct kvb_space_params geometry = { .device_kind = KVB_DEVICE_CUDA,
					     .stride_bytes = STRIDE_BYTES };
	static struct engine e;
	char why[256] = "";

	if (argc < 6)
		return 2;
	if (argc > 6)
		enter_context(atoi(argv[6]));
	params.socket = argv[1];
	params.tenant = argv[2];
	geometry.device_ordinal = (uint32_t)atoi(argv[3]);
	geometry.regions = e.regions = (uint32_t)atoi(argv[4]);
	must(kvb_connect(&params, &e.kvb, why) == 0, &e, why);
	must(kvb_space_open(e.kvb, &geometry, &e.space) == 0, &e, "space");
	if (strcmp(argv[5], "life") == 0)
		live(&e);
	else if (strcmp(argv[5], "lend") == 0)
		lend(&e);
	else
		expect_clean(&e);
	must_be_in_context(&e);
	e.kvb = kvb_disconnect(e.kvb);
	must_be_in_context(&e);
	return 0;
}
