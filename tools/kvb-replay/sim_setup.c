/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Making the broker of a simulated replay; see sim.h.
 *
 * A capacity of exactly N pages: memory comes in whole slabs, so enough slabs for N are granted,
 * and a second client, the ballast, allocates what is too much and keeps it. Below, where no client
 * can hold a page, it is an operator's pins that keep what is too much: pages that the ballast
 * sealed, under a salt of its own, and had written down.
 */

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "broker/policy/policy.h"
#include "tools/kvb-replay/sim.h"

#define SLAB_BYTES (2u << 20)
#define SLAB_PAGES_MIN 64u
#define TRANSFERS 4096u
#define BALLAST_SALT 1u

/* ---- setting up ---------------------------------------------------------------------------- */

/* Memory for both clients. */
static bool settle_grants(struct sim *s)
{
	struct core *c = &s->core;
	struct core_member *m;
	bool any = false;
	unsigned slab;

	for (; (slab = core_next_slab(c)) != CORE_NONE16; any = true)
		core_slab_created(c, slab);
	while ((m = core_next_member(c))) {
		for (unsigned slot = 0; slot < s->slabs; slot++) {
			if (core_slot_state(c, m, slot) == CORE_SLOT_PENDING) {
				core_grant_sent(c, m, slot);
				core_grant_acked(c, m, slot, /* mapped = */ true);
			}
		}
	}
	return any;
}

static bool settle_transfers(struct sim *s)
{
	struct core *c = &s->core;
	bool any = false;
	unsigned i;

	for (; (i = core_next_transfer(c, s->device)) != CORE_NONE16; any = true) {
		const struct core_transfer *t = &c->transfers[i];
		const uint32_t sum = (uint32_t)s->stamp[t->from];
		const bool fits = t->direction == CORE_DOWN || t->sum == sum;

		s->stamp[t->to] = s->stamp[t->from];
		core_transfer_done(c, i, fits ? 0 : -EBADMSG, sum);
	}
	return any;
}

bool sim_settle(struct sim *s)
{
	bool any = false, now;

	do {
		now = settle_grants(s);
		now |= sim_store_settle(s);
		now |= settle_transfers(s);
		any |= now;
	} while (now);
	return any;
}

/* A client in the one space; its handle there is 0. -errno. */
static int open_client(struct sim *s, unsigned tenant, const char *name, unsigned *ret_client,
		       struct core_member **ret)
{
	int client = core_client_open(&s->core, tenant, getuid(), getpid(), name);
	int handle;

	if (client < 0)
		return client;
	handle = core_space_open(
		&s->core, (unsigned)client,
		&(struct core_space_spec){ .kind = KVB_DEVICE_HOST,
					   .regions = 1,
					   .stride_bytes = SLAB_BYTES / s->slab_pages });
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
	(void)sim_settle(s);
	for (uint32_t i = 0; i < surplus; i++)
		if (core_alloc(&s->core, s->spare, 1, 0, &page).done != 1)
			return -ENOSPC;
	return s->core.spaces[s->member->space].pages_free == capacity ? 0 : -ENOSPC;
}

/* One page below that is nobody's and never evicted. 0 or -errno. */
static int pin_below(struct sim *s, uint64_t number)
{
	struct core *c = &s->core;
	const unsigned space = s->member->space;
	struct kvb_seal seal = { .hash = { { number, 1 } } };
	kvb_page_t page;
	uint32_t low;

	if (core_alloc(c, s->member, 1, 0, &seal.page).done != 1 ||
	    core_seal(c, s->member, s->ns, s->epoch, BALLAST_SALT, &seal, 1, &page).done != 1)
		return -ENOSPC;
	while (core_store(c, s->member, &page, 1).done != 1)
		if (!sim_settle(s))
			return -ENOSPC;
	low = core_page_find(c, c->spaces[space].below, s->ns, BALLAST_SALT, &seal.hash);
	if (low == CORE_NONE || core_page_pin(c, low, true) < 0 ||
	    core_release(c, s->member, &page, 1).done != 1)
		return -EIO;
	return core_page_evict(c, core_page_find(c, space, s->ns, BALLAST_SALT, &seal.hash));
}

/* All but `capacity` pages that the arena has room for. */
static int take_memory_below(struct sim *s, uint64_t capacity)
{
	uint64_t surplus = (uint64_t)s->low_slabs * s->low_slab_pages - capacity;
	int r = 0;

	for (uint64_t i = 0; i < surplus && !r; i++)
		r = pin_below(s, i);
	return r;
}

static int make_room(struct sim *s, uint32_t blocks)
{
	size_t n = blocks ? blocks : 1;

	s->stamp = calloc(s->core.h->limits.pages, sizeof(*s->stamp));
	s->key = calloc(n, sizeof(*s->key));
	s->page = calloc(n, sizeof(*s->page));
	s->some = calloc(n, sizeof(*s->some));
	s->tier = calloc(n, sizeof(*s->tier));
	s->missing = calloc(n, sizeof(*s->missing));
	s->seal = calloc(n, sizeof(*s->seal));
	return s->stamp && s->key && s->page && s->some && s->tier && s->missing && s->seal
		       ? 0
		       : -ENOMEM;
}

static int make_tables(struct sim *s, const struct policy_ops *policy, bool tiers)
{
	static const uint64_t SECRET[4] = { 1, 2, 3, 4 }; /* the same history every time */
	struct core_limits limits = {
		.pages = s->slabs * s->slab_pages + s->low_slabs * s->low_slab_pages,
		.leases = 4 * s->slabs * s->slab_pages, /* a request may lease all, a tenant half */
		.slabs = s->slabs + s->low_slabs,
		.spaces = 2,
		.clients = 2,
		.members = 2,
		.tenants = 1,
		.namespaces = 1,
		.transfers = tiers ? TRANSFERS : 0,
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

/* Pages of a slab, a power of two, so that a space has room for `pages`; *ret_slabs for them. */
static uint32_t slab_pages_for(uint64_t pages, uint32_t *ret_slabs)
{
	uint32_t slab_pages = SLAB_PAGES_MIN;

	while ((uint64_t)slab_pages * KVB_SLOTS_MAX < pages)
		slab_pages *= 2;
	*ret_slabs = (uint32_t)((pages + slab_pages - 1) / slab_pages);
	return slab_pages;
}

static int add_devices(struct sim *s)
{
	const uint64_t page_bytes = SLAB_BYTES / s->slab_pages;
	int r = core_device_add(&s->core, KVB_DEVICE_HOST, 0, "host:0",
				(uint64_t)s->slabs * SLAB_BYTES, SLAB_BYTES);

	if (r < 0)
		return r;
	s->device = (unsigned)r;
	if (!s->low_slabs)
		return 0;
	r = core_arena_add(&s->core, 0, s->low_slabs * s->low_slab_pages * page_bytes,
			   s->low_slab_pages * page_bytes);
	if (r < 0)
		return r;
	core_device_below(&s->core, s->device, (unsigned)r);
	core_device_below_ready(&s->core, s->device, true);
	return 0;
}

int sim_open(struct sim *s, const struct replay_options *o, const struct trace *t)
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

	s->slab_pages = slab_pages_for(o->capacity_pages, &s->slabs);
	s->low_slab_pages = slab_pages_for(o->host_pages, &s->low_slabs);
	if ((r = make_tables(s, policy_find(o->policy), o->host_pages || o->store_pages)) < 0 ||
	    (r = make_room(s, t->blocks_max)) < 0 || (r = add_devices(s)) < 0)
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
	r = take_memory_below(s, o->host_pages);
	return r || !o->store_pages ? r : sim_store_open(s, o->store_pages, o->store_filter);
}

void sim_close(struct sim *s)
{
	sim_store_close(s);
	if (s->mem)
		(void)munmap(s->mem, s->mem_bytes);
	free(s->stamp);
	free(s->key);
	free(s->page);
	free(s->some);
	free(s->tier);
	free(s->missing);
	free(s->seal);
}
