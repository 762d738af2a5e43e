/* SPDX-License-Identifier: Apache-2.0 */

/*
 * See fixture.h.
 */

#include "tests/unit/fixture.h"

#include <stdlib.h>

const struct core_limits fixture_limits = {
	.pages = 4096,
	.slabs = 64,
	.spaces = 8,
	.clients = 16,
	.members = 32,
	.tenants = 4,
	.namespaces = 8,
};

void fixture_start(struct fixture *f, const struct core_limits *limits, uint32_t handles)
{
	static const uint64_t secret[4] = { 11, 22, 33, 44 };
	uint64_t bytes;

	limits = limits ? limits : &fixture_limits;
	bytes = core_bytes(limits);
	ck_assert_uint_eq(bytes % 4096, 0);
	f->mem = aligned_alloc(4096, bytes);
	ck_assert_ptr_nonnull(f->mem);
	memset(f->mem, 0, bytes);
	core_init(&f->c, f->mem, limits, secret, 1, &policy_lru);
	core_set_time(&f->c, 1000000000ull);
	ck_assert_int_eq(core_device_add(&f->c, KVB_DEVICE_HOST, 0, "host:0",
					 handles * HANDLE_BYTES, HANDLE_BYTES),
			 0);
}

void fixture_start_tiers(struct fixture *f, uint32_t handles, uint32_t arena_handles,
			 uint32_t transfers)
{
	struct core_limits limits = fixture_limits;

	limits.spaces = 20;
	limits.transfers = transfers;
	fixture_start(f, &limits, handles);
	ck_assert_int_eq(core_arena_add(&f->c, 0, arena_handles * HANDLE_BYTES, HANDLE_BYTES), 1);
	core_device_below(&f->c, 0, 1);
	core_device_below_ready(&f->c, 0, true);
}

void fixture_check(struct fixture *f)
{
	char why[256] = "";
	int r = core_check(&f->c, why, sizeof(why));

	ck_assert_msg(r == 0, "core_check: %s", why);
}

void fixture_end(struct fixture *f)
{
	fixture_check(f);
	free(f->mem);
}

unsigned fixture_tenant(struct fixture *f, const char *name, uint64_t min_bytes, uint64_t max_bytes)
{
	struct core_tenant_spec spec = { .device = -1,
					 .min_bytes = min_bytes,
					 .high_bytes = max_bytes,
					 .max_bytes = max_bytes,
					 .weight = 1 };
	char why[256] = "";
	int r;

	ck_assert_uint_lt(strlen(name), sizeof(spec.name));
	memcpy(spec.name, name, strlen(name));
	r = core_tenant_set(&f->c, &spec, false, why, sizeof(why));
	ck_assert_msg(r >= 0, "tenant %s: %s", name, why);
	return (unsigned)r;
}

unsigned fixture_client(struct fixture *f, unsigned tenant)
{
	int r = core_client_open(&f->c, tenant, 1000, 4711, "client");

	ck_assert_int_ge(r, 0);
	return (unsigned)r;
}

struct core_member *fixture_space(struct fixture *f, unsigned client, uint64_t stride_bytes)
{
	int r = core_space_open(&f->c, client,
				&(struct core_space_spec){ .kind = KVB_DEVICE_HOST,
							   .regions = 1,
							   .stride_bytes = stride_bytes });
	struct core_member *m;

	ck_assert_int_ge(r, 0);
	m = core_member_get(&f->c, client, (uint32_t)r);
	ck_assert_ptr_nonnull(m);
	return m;
}

unsigned fixture_ns(struct fixture *f, unsigned client, uint8_t digest, uint32_t flags)
{
	struct kvb_ns_open open = { .flags = flags };
	struct kvb_ns_info info;
	int ns;

	memset(open.digest, digest, sizeof(open.digest));
	ck_assert_int_eq(core_ns_open(&f->c, client, &open, &info), 0);
	ns = core_ns_get(&f->c, client, info.ns);
	ck_assert_int_ge(ns, 0);
	return (unsigned)ns;
}

static void serve_member(struct fixture *f, struct core_member *m)
{
	m->recall = 0;
	memset(m->revoke, 0, sizeof(m->revoke));
	for (unsigned slot = 0; slot < f->c.spaces[m->space].slots; slot++) {
		if (core_slot_state(&f->c, m, slot) != CORE_SLOT_PENDING ||
		    f->c.slabs[f->c.spaces[m->space].slab_of_slot[slot]].state != CORE_SLAB_LIVE)
			continue;
		core_grant_sent(&f->c, m, slot);
		core_grant_acked(&f->c, m, slot, true);
	}
}

void fixture_serve(struct fixture *f)
{
	struct core_member *m;

	for (unsigned i; (i = core_next_slab(&f->c)) != CORE_NONE16;) {
		if (f->c.slabs[i].state == CORE_SLAB_CREATING)
			core_slab_created(&f->c, i);
		else
			core_slab_closed(&f->c, i);
	}
	while ((m = core_next_member(&f->c)))
		serve_member(f, m);
}

void fixture_grow(struct fixture *f, struct core_member *m, uint32_t slabs)
{
	ck_assert_int_eq(core_space_grow(&f->c, m, slabs, NULL), (int)slabs);
	fixture_serve(f);
}

void fixture_settle(struct fixture *f)
{
	unsigned turns = 0;

	while (core_work(&f->c, 1000)) {
		fixture_serve(f);
		ck_assert_uint_lt(++turns, 10000);
	}
	fixture_serve(f);
}

void fixture_seconds(struct fixture *f, uint32_t seconds)
{
	core_set_time(&f->c, f->c.now_ns + seconds * 1000000000ull);
}

struct core_member *fixture_member(struct fixture *f, uint32_t slabs)
{
	unsigned client = fixture_client(f, fixture_tenant(f, "t", 0, UINT64_MAX));
	struct core_member *m = fixture_space(f, client, STRIDE_8);

	ck_assert_uint_eq(fixture_ns(f, client, 1, KVB_NS_ADMIN), 0);
	if (slabs)
		fixture_grow(f, m, slabs);
	return m;
}

void fixture_alloc(struct fixture *f, struct core_member *m, uint32_t n, kvb_page_t *ret)
{
	struct core_batch b = core_alloc(&f->c, m, n, 0, ret);

	ck_assert_uint_eq(b.done, n);
	ck_assert_int_eq(b.status, 0);
}

kvb_page_t fixture_seal(struct fixture *f, struct core_member *m, uint64_t key)
{
	struct kvb_seal seal = { .hash = fixture_hash(key) };
	kvb_page_t ret = KVB_PAGE_NONE;

	fixture_alloc(f, m, 1, &seal.page);
	assert_batch(core_seal(&f->c, m, 0, f->c.namespaces[0].epoch, 0, &seal, 1, &ret), 1, 0);
	ck_assert_uint_eq(ret, seal.page);
	return ret;
}

int fixture_release(struct fixture *f, struct core_member *m, kvb_page_t page)
{
	return core_release(&f->c, m, &page, 1).status;
}

kvb_page_t fixture_lookup(struct fixture *f, struct core_member *m, unsigned ns, uint64_t key)
{
	struct core_lookup lk = { .ns = (uint16_t)ns };
	struct kvb_hash hash = fixture_hash(key);
	kvb_page_t ret = KVB_PAGE_NONE;
	struct core_batch b = core_lookup(&f->c, m, &lk, &hash, 1, &ret);

	return b.done ? ret : KVB_PAGE_NONE;
}

void fixture_cache(struct fixture *f, struct core_member *m, uint64_t key)
{
	ck_assert_int_eq(fixture_release(f, m, fixture_seal(f, m, key)), 0);
}

void fixture_cache_run(struct fixture *f, struct core_member *m, uint64_t first, uint32_t n)
{
	for (uint64_t key = first; key < first + n; key++)
		fixture_cache(f, m, key);
}

/* ---- the mover ----------------------------------------------------------------------------- */

static uint32_t sum_of(const struct fixture *f, uint32_t page)
{
	return (uint32_t)f->c.pages[page].hash.w[1] + 77;
}

unsigned fixture_take(struct fixture *f)
{
	unsigned t = core_next_transfer(&f->c, 0);

	ck_assert_uint_ne(t, CORE_NONE16);
	ck_assert_uint_eq(f->c.transfers[t].state, CORE_TRANSFER_FLIGHT);
	return t;
}

void fixture_done(struct fixture *f, unsigned transfer, int error)
{
	const struct core_transfer *t = &f->c.transfers[transfer];

	if (t->direction == CORE_UP)
		ck_assert_uint_eq(t->sum, sum_of(f, t->from));
	core_transfer_done(&f->c, transfer, error, error ? 0 : sum_of(f, t->from));
	fixture_check(f);
}

uint32_t fixture_move(struct fixture *f)
{
	uint32_t n = 0;

	fixture_serve(f);
	for (unsigned t; (t = core_next_transfer(&f->c, 0)) != CORE_NONE16; n++)
		fixture_done(f, t, 0);
	fixture_serve(f);
	return n;
}

uint32_t fixture_above(const struct fixture *f, const struct core_member *m, uint64_t key)
{
	struct kvb_hash hash = fixture_hash(key);

	return core_page_find(&f->c, m->space, 0, 0, &hash);
}

uint32_t fixture_below(const struct fixture *f, const struct core_member *m, uint64_t key)
{
	struct kvb_hash hash = fixture_hash(key);

	return core_page_find(&f->c, f->c.spaces[m->space].below, 0, 0, &hash);
}

void fixture_sink(struct fixture *f, struct core_member *m, uint64_t key)
{
	kvb_page_t page = fixture_lookup(f, m, 0, key);
	struct core_batch b;

	ck_assert_uint_ne(page, KVB_PAGE_NONE);
	for (unsigned turn = 0; turn < 4; turn++) { /* the first slab below has to be made */
		b = core_store(&f->c, m, &page, 1);
		ck_assert_int_eq(b.status, 0);
		fixture_move(f);
	}
	ck_assert_uint_eq(b.done, 1);
	ck_assert_int_eq(fixture_release(f, m, page), 0);
	ck_assert_int_eq(core_page_evict(&f->c, fixture_above(f, m, key)), 0);
	ck_assert_uint_eq(fixture_above(f, m, key), CORE_NONE);
	ck_assert_uint_ne(fixture_below(f, m, key), CORE_NONE);
	fixture_check(f);
}

kvb_page_t fixture_load(struct fixture *f, struct core_member *m, uint64_t key, bool *ret_wait)
{
	struct core_lookup lk = { .ns = 0 };
	struct kvb_hash hash = fixture_hash(key);
	kvb_page_t ret = KVB_PAGE_NONE;
	struct core_batch b = core_load(&f->c, m, &lk, &hash, 1, &ret);

	fixture_check(f);
	ck_assert_int_eq(b.status, 0);
	if (ret_wait)
		*ret_wait = b.wait;
	return b.done ? ret : KVB_PAGE_NONE;
}

uint32_t fixture_record(const struct fixture *f, const struct core_member *m, kvb_page_t page)
{
	const struct core_space *s = &f->c.spaces[m->space];
	uint32_t id = KVB_PAGE_ID(page);

	return f->c.slabs[s->slab_of_slot[id / s->pages_per_slab]].base + id % s->pages_per_slab;
}

int fixture_arrived(const struct fixture *f, const struct core_member *m, kvb_page_t page)
{
	bool failed;
	uint32_t n = core_load_arrived(&f->c, m, &page, 1, &failed);

	return failed ? -1 : (int)n;
}
