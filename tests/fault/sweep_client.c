/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What clients do while the daemon is refused things: one scenario a run.
 *
 *   sweep_client SOCKET cycle|revoke|tenants|death|wide [strict]
 *
 * Without `strict` any call may fail with any error, and the client goes on as an engine would; it
 * must come to its end all the same. With `strict`, which is for fresh clients after the fault,
 * everything must succeed. Exit status 0: came to its end; 1: strict, and something failed.
 */

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "uapi/libkvbroker.h"

#define STRIDE_BYTES 65536u
#define BATCH 24u
#define TIMEOUT_NS (4ull * 1000 * 1000 * 1000)

static const char *socket_path;
static bool strict;

/* True: it went well. */
static bool went(bool ok, const char *what, const struct kvb *kvb)
{
	if (!ok) {
		fprintf(stderr, "sweep_client: %s: %s\n", what, kvb ? kvb_error_text(kvb) : "");
		if (strict)
			exit(1);
	}
	return ok;
}

struct engine {
	struct kvb *kvb;
	struct kvb_space *space;
	struct kvb_ns_info ns;
	kvb_page_t page[BATCH];
	int64_t pages;
};

static bool begin(struct engine *e, const char *tenant, uint32_t regions)
{
	struct kvb_params params = {
		.socket = socket_path,
		.tenant = tenant,
		.name = "sweep",
		.sq_entries = 16,
		.operand_bytes = 16384,
		.magazine = 8,
		.timeout_ns = TIMEOUT_NS,
	};
	struct kvb_space_params geometry = { .regions = regions, .stride_bytes = STRIDE_BYTES };
	static const uint8_t digest[32] = { 0x56 };
	char why[256] = "";

	*e = (struct engine){ 0 };
	return went(kvb_connect(&params, &e->kvb, why) == 0, why, NULL) &&
	       went(kvb_ns_open(e->kvb, digest, KVB_NS_ADMIN, &e->ns) == 0, "namespace", e->kvb) &&
	       went(kvb_space_open(e->kvb, &geometry, &e->space) == 0, "space", e->kvb);
}

/* BATCH pages: what the space has, and memory for the rest. */
static bool take(struct engine *e)
{
	int64_t more;

	e->pages = kvb_alloc(e->space, e->page, BATCH);
	if (!went(e->pages >= 0, "alloc", e->kvb))
		return false;
	if (e->pages < BATCH) {
		if (!went(kvb_space_grow(e->space, BATCH, 1000000000) > 0, "grow", e->kvb))
			return false;
		more = kvb_alloc(e->space, e->page + e->pages, BATCH - (uint32_t)e->pages);
		e->pages += more > 0 ? more : 0;
	}
	for (int64_t i = 0; i < e->pages; i++)
		memset(kvb_page_addr(e->space, 0, e->page[i]), 0x33, STRIDE_BYTES);
	return went(e->pages == BATCH, "alloc", e->kvb);
}

/* Seals all pages but four, looks them up, and gives everything back if told so. */
static void use(struct engine *e, bool give_back)
{
	const uint32_t n = BATCH - 4;
	struct kvb_seal seals[BATCH] = { 0 };
	struct kvb_hash keys[BATCH];
	kvb_page_t found[BATCH];
	kvb_page_t one;

	for (unsigned i = 0; i < n; i++) {
		keys[i] = (struct kvb_hash){ { (uint64_t)getpid(), i } };
		seals[i] = (struct kvb_seal){ .page = e->page[i], .hash = keys[i], .depth = i };
	}
	went(kvb_seal(e->space, e->ns.ns, e->ns.epoch, 0, seals, NULL, n) == n, "seal", e->kvb);
	went(kvb_lookup(e->space, e->ns.ns, 0, keys, found, n, NULL) == n, "lookup", e->kvb);
	one = kvb_page_get(e->space);
	went(one != KVB_PAGE_NONE, "magazine", e->kvb);
	kvb_page_put(e->space, one);
	if (!give_back)
		return;
	went(kvb_release(e->space, e->page, n) == n, "release", e->kvb);
	went(kvb_release(e->space, e->page, n) == n, "release", e->kvb);
	went(kvb_free(e->space, e->page + n, BATCH - n) == BATCH - n, "free", e->kvb);
}

static void end(struct engine *e)
{
	uint64_t epoch;

	if (e->kvb && e->ns.ns == 0 && e->space)
		went(kvb_epoch_bump(e->kvb, e->ns.ns, &epoch) == 0, "bump", e->kvb);
	e->kvb = kvb_disconnect(e->kvb);
}

static void cycle(uint32_t regions)
{
	struct engine e;

	if (begin(&e, "default", regions) && take(&e))
		use(&e, true);
	end(&e);
}

/* Two members of a space: one asks for less, both have to let go. */
static void shrink(void)
{
	struct engine a, b = { 0 };

	if (begin(&a, "default", 1) && begin(&b, "default", 1) && take(&a) && take(&b) &&
	    went(kvb_space_grow(a.space, 128, 1000000000) > 0, "grow", a.kvb)) {
		use(&a, true);
		went(kvb_space_shrink(a.space, 128, 2000000000) > 0, "shrink", a.kvb);
		for (unsigned i = 0; i < 20; i++) {
			went(kvb_quiet_point(a.kvb) >= 0, "quiet point", a.kvb);
			went(kvb_quiet_point(b.kvb) >= 0, "quiet point", b.kvb);
			usleep(1000);
		}
		use(&b, true);
		went(kvb_space_grow(b.space, 32, 1000000000) > 0, "grow again", b.kvb);
	}
	end(&a);
	end(&b);
}

static atomic_bool lent;

/* The other's grow waits for this client, who comes to a quiet point now and then. */
static void *lend(void *arg)
{
	struct engine *e = arg;

	while (!atomic_load(&lent) && kvb_quiet_point(e->kvb) >= 0)
		usleep(2000);
	return NULL;
}

/* One tenant has taken everything; the other comes for what is promised to it. */
static void tenants(void)
{
	struct engine a, b = { 0 };
	pthread_t thread;

	if (begin(&a, "default", 1) && begin(&b, "other", 1)) {
		went(kvb_space_grow(a.space, 1u << 20, 1000000000) > 0, "grow to the limit", a.kvb);
		if (pthread_create(&thread, NULL, lend, &a))
			exit(2);
		if (take(&b))
			use(&b, true);
		atomic_store(&lent, true);
		pthread_join(thread, NULL);
	}
	end(&a);
	end(&b);
}

/* A process that dies with everything it has. */
static void death(void)
{
	pid_t child = fork();
	struct engine e;

	if (child == 0) {
		if (begin(&e, "default", 1) && take(&e))
			use(&e, false);
		kill(getpid(), SIGKILL);
	}
	waitpid(child, NULL, 0);
	cycle(1);
}

int main(int argc, char **argv)
{
	if (argc < 3)
		return 2;
	socket_path = argv[1];
	strict = argc > 3;
	if (strcmp(argv[2], "cycle") == 0)
		cycle(1);
	else if (strcmp(argv[2], "wide") == 0)
		cycle(32);
	else if (strcmp(argv[2], "revoke") == 0)
		shrink();
	else if (strcmp(argv[2], "tenants") == 0)
		tenants();
	else if (strcmp(argv[2], "death") == 0)
		death();
	else
		return 2;
	return 0;
}
