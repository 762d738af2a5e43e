/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Offline replay: the broker's core, without the broker.
 *
 * The tables of core.h in ordinary memory, one device, one tenant, one space and one client that
 * makes the same calls for a request that a live client's entries lead to. Time is the trace's own,
 * so one trace gives one result.
 *
 * A capacity of exactly N pages: memory comes in whole slabs, so enough slabs for N are granted,
 * and a second client, the ballast, allocates what is too much and keeps it.
 *
 * The device does not exist: a slab counts as created when the core asks for it, and its grant as
 * sent and acknowledged at once. A page's stamp is the key it was filled under, kept beside the
 * tables; --verify compares it as the live replay compares bytes.
 */

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "broker/core/core.h"
#include "broker/policy/policy.h"
#include "tools/kvb-replay/key.h"
#include "tools/kvb-replay/replay.h"

#define SLAB_BYTES (2u << 20)
#define SLAB_PAGES_MIN 64u

struct sim {
	struct core core;
	void *mem;
	size_t mem_bytes;
	unsigned client, ballast;
	struct core_member *member, *spare;
	unsigned ns;
	uint64_t epoch;
	uint32_t slabs, slab_pages;
	uint64_t *stamp; /* by page id: first word of the key it was filled under */
	uint64_t core_ns;
	/* of one request, room for the largest */
	struct kvb_hash *key;
	kvb_page_t *page;  /* by position in the request; KVB_PAGE_NONE = not cached */
	kvb_page_t *some;  /* allocated pages, results, pages to release */
	uint32_t *missing; /* positions that have no page */
	struct kvb_seal *seal;
};

static uint64_t clock_ns(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

/* ---- setting up ---------------------------------------------------------------------------- */

/* Does what the device and both clients would do, until the core wants nothing more. */
static void settle(struct sim *s)
{
	struct core *c = &s->core;
	struct core_member *m;
	unsigned slab;

	while ((slab = core_next_slab(c)) != CORE_NONE16)
		core_slab_created(c, slab);
	while ((m = core_next_member(c))) {
		for (unsigned slot = 0; slot < s->slabs; slot++) {
			if (core_slot_state(c, m, slot) == CORE_SLOT_PENDING) {
				core_grant_sent(c, m, slot);
				core_grant_acked(c, m, slot, /* mapped = */ true);
			}
		}
	}
}

/* A client in the one space; its handle there is 0. -errno. */
static int open_client(struct sim *s, unsigned tenant, const char *name, unsigned *ret_client,
		       struct core_member **ret)
{
	int client = core_client_open(&s->core, tenant, getuid(), getpid(), name);
	int handle;

	if (client < 0)
		return client;
	handle = core_space_open(&s->core, (unsigned)client, KVB_DEVICE_HOST, 0, 1,
				 SLAB_BYTES / s->slab_pages, 0);
	if (handle < 0)
		return handle;
	s->core.clients[client].leases_max = s->core.h->limits.leases;
	*ret_client = (unsigned)client;
	*ret = core_member_get(&s->core, (unsigned)client, (uint32_t)handle);
	return 0;
}

/* Slabs for every page there can be, and all but `capacity` pages to the ballast. */
static int take_memory(struct sim *s, uint64_t capacity)
{
	uint32_t surplus = (uint32_t)((uint64_t)s->slabs * s->slab_pages - capacity);
	int r = core_space_grow(&s->core, s->member, s->slabs, NULL);
	kvb_page_t page;

	if (r != (int)s->slabs)
		return r < 0 ? r : -ENOSPC;
	settle(s);
	for (uint32_t i = 0; i < surplus; i++)
		if (core_alloc(&s->core, s->spare, 1, 0, &page).done != 1)
			return -ENOSPC;
	return s->core.spaces[s->member->space].pages_free == capacity ? 0 : -ENOSPC;
}

static int make_room(struct sim *s, uint32_t blocks)
{
	size_t n = blocks ? blocks : 1;

	s->stamp = calloc((size_t)s->slabs * s->slab_pages, sizeof(*s->stamp));
	s->key = calloc(n, sizeof(*s->key));
	s->page = calloc(n, sizeof(*s->page));
	s->some = calloc(n, sizeof(*s->some));
	s->missing = calloc(n, sizeof(*s->missing));
	s->seal = calloc(n, sizeof(*s->seal));
	return s->stamp && s->key && s->page && s->some && s->missing && s->seal ? 0 : -ENOMEM;
}

static int make_tables(struct sim *s, const struct policy_ops *policy)
{
	static const uint64_t SECRET[4] = { 1, 2, 3, 4 }; /* the same history every time */
	struct core_limits limits = {
		.pages = s->slabs * s->slab_pages,
		.leases = 4 * s->slabs * s->slab_pages, /* a request may lease all, a tenant half */
		.slabs = s->slabs,
		.spaces = 1,
		.clients = 2,
		.members = 2,
		.tenants = 1,
		.namespaces = 1,
	};

	core_limits_fill(&limits);
	s->mem_bytes = core_bytes(&limits);
	s->mem = mmap(NULL, s->mem_bytes, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (s->mem == MAP_FAILED) {
		s->mem = NULL;
		return -errno;
	}
	(void)madvise(s->mem, s->mem_bytes, MADV_HUGEPAGE); /* as the daemon does for its own */
	core_init(&s->core, s->mem, &limits, SECRET, 1, policy);
	return 0;
}

static int sim_open(struct sim *s, const struct replay_options *o, const struct trace *t)
{
	struct core_tenant_spec spec = {
		.name = "default",
		.uid = getuid(),
		.device = -1,
		.high_bytes = UINT64_MAX,
		.max_bytes = UINT64_MAX,
		.weight = 1,
	};
	struct kvb_ns_open open = { 0 };
	struct kvb_ns_info info;
	char why[256] = "";
	int tenant, r;

	s->slab_pages = SLAB_PAGES_MIN;
	while ((uint64_t)s->slab_pages * KVB_SLOTS_MAX < o->capacity_pages)
		s->slab_pages *= 2;
	s->slabs = (uint32_t)((o->capacity_pages + s->slab_pages - 1) / s->slab_pages);
	if ((r = make_room(s, t->blocks_max)) < 0 ||
	    (r = make_tables(s, policy_find(o->policy))) < 0 ||
	    (r = core_device_add(&s->core, KVB_DEVICE_HOST, 0, "host:0",
				 (uint64_t)s->slabs * SLAB_BYTES, SLAB_BYTES)) < 0)
		return r;
	tenant = core_tenant_set(&s->core, &spec, /* dry_run = */ false, why, sizeof(why));
	if (tenant < 0)
		return tenant;
	if ((r = open_client(s, (unsigned)tenant, "replay", &s->client, &s->member)) < 0 ||
	    (r = open_client(s, (unsigned)tenant, "ballast", &s->ballast, &s->spare)) < 0 ||
	    (r = core_ns_open(&s->core, s->client, &open, &info)) < 0 ||
	    (r = take_memory(s, o->capacity_pages)) < 0)
		return r;
	s->ns = (unsigned)core_ns_get(&s->core, s->client, info.ns);
	s->epoch = info.epoch;
	return 0;
}

static void sim_close(struct sim *s)
{
	if (s->mem)
		(void)munmap(s->mem, s->mem_bytes);
	free(s->stamp);
	free(s->key);
	free(s->page);
	free(s->some);
	free(s->missing);
	free(s->seal);
}

/* ---- one request --------------------------------------------------------------------------- */

/* Leases every resident block; returns the length of the leading run. */
static int look_up(struct sim *s, uint32_t blocks)
{
	struct core_lookup lookup = { .ns = (uint16_t)s->ns, .all = true };
	struct core_batch b = core_lookup(&s->core, s->member, &lookup, s->key, blocks, s->page);

	return b.done == blocks ? (int)lookup.lead : b.status ? b.status : -EIO;
}

/* Pages for up to n missing blocks into s->some; returns how many there were. */
static uint32_t allocate(struct sim *s, uint32_t n)
{
	struct core_batch b = { 0 };
	uint32_t got = 0;

	do {
		b = core_alloc(&s->core, s->member, n - got, 0, s->some + got);
		got += b.done;
	} while (got < n && (b.done || b.flags & KVB_CQE_AGAIN));
	return got;
}

/* Puts the n pages of s->some under the keys of the first n missing blocks. */
static int seal_pages(struct sim *s, uint32_t n)
{
	struct core_batch b;

	for (uint32_t i = 0; i < n; i++) {
		uint32_t at = s->missing[i];

		s->seal[i] =
			(struct kvb_seal){ .page = s->some[i], .hash = s->key[at], .depth = at };
		s->page[at] = s->some[i];
		s->stamp[KVB_PAGE_ID(s->some[i])] = s->key[at].w[0];
	}
	b = core_seal(&s->core, s->member, s->ns, s->epoch, 0, s->seal, n, s->some);
	return b.done == n ? 0 : b.status ? b.status : -EIO;
}

static int release_tail_first(struct sim *s, uint32_t blocks)
{
	struct core_batch b;
	uint32_t n = 0;

	for (uint32_t i = blocks; i-- > 0;)
		if (s->page[i] != KVB_PAGE_NONE)
			s->some[n++] = s->page[i];
	b = core_release(&s->core, s->member, s->some, n);
	return b.done == n ? 0 : b.status ? b.status : -EIO;
}

/* Pages found must have been filled under the key they were found by. */
static void verify(const struct sim *s, uint32_t blocks, struct replay_counts *n)
{
	for (uint32_t i = 0; i < blocks; i++) {
		if (s->page[i] != KVB_PAGE_NONE) {
			n->pages_verified++;
			n->corrupt += s->stamp[KVB_PAGE_ID(s->page[i])] != s->key[i].w[0];
		}
	}
}

static int run_request(struct sim *s, const uint64_t *id, uint32_t blocks, bool check,
		       struct replay_counts *n)
{
	uint32_t missing = 0, got;
	uint64_t t0, t1, t2;
	int hits, r;

	for (uint32_t i = 0; i < blocks; i++)
		s->key[i] = key_of(id[i]);
	t0 = clock_ns();
	hits = look_up(s, blocks);
	t1 = clock_ns();
	if (hits < 0)
		return hits;
	if (check)
		verify(s, blocks, n);
	for (uint32_t i = 0; i < blocks; i++)
		if (s->page[i] == KVB_PAGE_NONE)
			s->missing[missing++] = i;
	t2 = clock_ns();
	got = allocate(s, missing);
	if ((r = seal_pages(s, got)) < 0 || (r = release_tail_first(s, blocks)) < 0)
		return r;
	s->core_ns += t1 - t0 + clock_ns() - t2;
	n->requests++;
	n->blocks += blocks;
	n->hit_blocks += (uint64_t)hits;
	n->refused += missing - got;
	return hits;
}

static enum replay_exit run_trace(struct sim *s, const struct replay_options *o,
				  const struct trace *t, FILE *per_request,
				  struct replay_result *ret)
{
	uint64_t from = clock_ns();

	for (size_t i = 0; i < t->requests; i++) {
		const struct trace_request *r = &t->request[i];
		int hits;

		core_set_time(&s->core, 1 + (uint64_t)(r->at_ms * 1e6));
		hits = run_request(s, trace_blocks(t, r), r->blocks, o->verify, &ret->n);
		if (hits < 0) {
			replay_say("request %zu: the core refused it: %s", i + 1, strerror(-hits));
			return REPLAY_FAILED;
		}
		if (per_request)
			(void)fprintf(per_request, "%d\n", hits);
	}
	ret->seconds = (double)(clock_ns() - from) / 1e9;
	ret->core_seconds = (double)s->core_ns / 1e9;
	ret->evictions = s->core.h->n.evictions;
	return REPLAY_OK;
}

enum replay_exit sim_run(const struct replay_options *o, const struct trace *t,
			 struct replay_result *ret)
{
	FILE *per_request = NULL;
	struct sim s = { 0 };
	enum replay_exit code = REPLAY_FAILED;
	int r;

	if (o->per_request) {
		per_request = fopen(o->per_request, "we");
		if (!per_request) {
			replay_say("%s: %s", o->per_request, strerror(errno));
			return REPLAY_USAGE;
		}
	}
	r = sim_open(&s, o, t);
	if (r < 0) {
		replay_say("a cache of %" PRIu64 " pages could not be set up: %s",
			   o->capacity_pages, strerror(-r));
	} else {
		code = run_trace(&s, o, t, per_request, ret);
	}
	sim_close(&s);
	if (per_request && fclose(per_request) != 0 && code == REPLAY_OK) {
		replay_say("%s: %s", o->per_request, strerror(errno));
		code = REPLAY_FAILED;
	}
	return code;
}
