/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A space and the one below it: what is written down when, which copies stay, whose room it is.
 */

#include "tests/unit/fixture.h"
#include "tests/unit/suite.h"

static struct fixture f;

#define STRIDE_32 (64ull << 10) /* 32 pages a slab */

/* A member of tenant "t" with `slabs` slabs of 32 pages. */
static struct core_member *start_32(uint32_t slabs, uint32_t arena_handles, uint32_t transfers)
{
	struct core_member *m;
	unsigned client;

	fixture_start_tiers(&f, 16, arena_handles, transfers);
	client = fixture_client(&f, fixture_tenant(&f, "t", 0, UINT64_MAX));
	m = fixture_space(&f, client, STRIDE_32);
	ck_assert_uint_eq(fixture_ns(&f, client, 1, KVB_NS_ADMIN), 0);
	fixture_grow(&f, m, slabs);
	return m;
}

/* ALLOC of one as the daemon does it: asked again when transfers are done. Copies it took. */
static uint32_t alloc_moving(struct core_member *m, kvb_page_t *ret)
{
	uint32_t copies = 0;

	for (unsigned turn = 0; turn < 20; turn++) {
		struct core_batch b = core_alloc(&f.c, m, 1, 0, ret);

		fixture_check(&f);
		if (b.done)
			return copies;
		ck_assert(b.wait);
		copies += fixture_move(&f);
	}
	ck_abort_msg("ALLOC waits for ever");
	return copies;
}

/* A new key, with all the work it makes. Copies. */
static uint32_t cache_moving(struct core_member *m, uint64_t key)
{
	struct kvb_seal seal = { .hash = fixture_hash(key) };
	uint32_t copies = alloc_moving(m, &seal.page);
	kvb_page_t ret;

	assert_batch(core_seal(&f.c, m, 0, f.c.namespaces[0].epoch, 0, &seal, 1, &ret), 1, 0);
	ck_assert_int_eq(fixture_release(&f, m, ret), 0);
	while (core_work(&f.c, 256))
		;
	copies += fixture_move(&f);
	fixture_check(&f);
	return copies;
}

START_TEST(a_space_comes_with_one_below)
{
	fixture_start_tiers(&f, 8, 8, 16);
	struct core_member *m = fixture_member(&f, 2);
	ck_assert_uint_ne(fixture_space_of(&f, m)->below, CORE_NONE16);
	ck_assert_uint_eq(fixture_space_below(&f, m)->above, m->space);
	ck_assert_uint_eq(fixture_space_below(&f, m)->stride_bytes, STRIDE_8);
	ck_assert_uint_eq(fixture_space_below(&f, m)->members, 0);
	ck_assert_int_eq(core_space_open(&f.c, 0,
					 &(struct core_space_spec){ .kind = CORE_KIND_ARENA,
								    .regions = 1,
								    .stride_bytes = STRIDE_8 }),
			 -ENODEV);
	/* they end together */
	unsigned client = m->client, low = fixture_space_of(&f, m)->below, upper = m->space;
	core_client_dead(&f.c, client);
	fixture_settle(&f);
	ck_assert(f.c.spaces[upper].used && f.c.spaces[low].used);
	ck_assert_int_eq(core_space_shrink(&f.c, upper, 9, 0), 2);
	fixture_settle(&f);
	ck_assert(!f.c.spaces[upper].used && !f.c.spaces[low].used);
	fixture_end(&f);
}
END_TEST

START_TEST(pages_that_the_arena_cannot_hold_have_no_lower_tier)
{
	fixture_start_tiers(&f, 8, 1, 16);
	unsigned client = fixture_client(&f, fixture_tenant(&f, "t", 0, UINT64_MAX));
	struct core_member *m = fixture_space(&f, client, 4 * MIB);
	ck_assert_uint_eq(fixture_space_of(&f, m)->below, CORE_NONE16);
	fixture_end(&f);
}
END_TEST

START_TEST(what_goes_next_is_written_down_ahead_and_stays_readable)
{
	struct core_member *m = start_32(4, 16, 64); /* 128 pages: 8 at hand, up to 16 */
	for (uint64_t key = 0; key < 128; key++) {
		fixture_cache(&f, m, key);
		while (core_work(&f.c, 256))
			;
		fixture_serve(&f);
		if (key == 119) /* eight are free */
			ck_assert_uint_eq(f.c.h->transfers_used, 0);
		fixture_check(&f);
	}
	ck_assert_uint_ge(fixture_move(&f), 8);
	while (core_work(&f.c, 256))
		;
	fixture_move(&f);
	ck_assert_uint_ge(fixture_space_of(&f, m)->ripe, 8);
	ck_assert_uint_le(fixture_space_of(&f, m)->ripe, 32);
	for (uint64_t key = 0; key < 8; key++) { /* the coldest, and they are still there */
		ck_assert_uint_ne(fixture_below(&f, m, key), CORE_NONE);
		ck_assert_uint_ne(fixture_above(&f, m, key), CORE_NONE);
	}
	kvb_page_t page[8];
	fixture_alloc(&f, m, 8, page); /* at once */
	for (uint64_t key = 0; key < 8; key++)
		ck_assert_uint_eq(fixture_above(&f, m, key), CORE_NONE);
	ck_assert_uint_eq(f.c.h->device[0].dropped, 0);
	fixture_end(&f);
}
END_TEST

START_TEST(a_ripe_page_that_is_used_again_stays)
{
	fixture_start_tiers(&f, 8, 8, 16);
	struct core_member *m = fixture_member(&f, 1);
	kvb_page_t page, got;
	fixture_cache_run(&f, m, 0, 8);
	ck_assert(core_alloc(&f.c, m, 2, 0, &page).wait); /* the slab below */
	fixture_move(&f);
	ck_assert(core_alloc(&f.c, m, 2, 0, &page).wait);
	fixture_move(&f);
	ck_assert(f.c.pages[fixture_above(&f, m, 0)].flags & CORE_PAGE_RIPE);
	page = fixture_lookup(&f, m, 0, 0);
	ck_assert_int_eq(fixture_release(&f, m, page), 0);
	ck_assert(!(f.c.pages[fixture_above(&f, m, 0)].flags & CORE_PAGE_RIPE));
	ck_assert(f.c.pages[fixture_above(&f, m, 0)].flags & CORE_PAGE_BELOW);
	fixture_alloc(&f, m, 1, &got);
	ck_assert_uint_ne(fixture_above(&f, m, 0), CORE_NONE);
	ck_assert_uint_eq(fixture_above(&f, m, 1), CORE_NONE);
	fixture_end(&f);
}
END_TEST

START_TEST(a_space_with_nothing_to_write_asks_for_no_memory_below)
{
	fixture_start_tiers(&f, 8, 8, 16);
	struct core_member *m = fixture_member(&f, 0);
	kvb_page_t page[8];
	struct core_batch b = core_alloc(&f.c, m, 1, 0, page);
	assert_batch(b, 0, 0);
	ck_assert(!b.wait);
	fixture_grow(&f, m, 1);
	fixture_alloc(&f, m, 8, page);
	b = core_alloc(&f.c, m, 1, 0, page);
	assert_batch(b, 0, 0);
	ck_assert(!b.wait);
	ck_assert_uint_eq(fixture_space_below(&f, m)->slabs, 0);
	fixture_end(&f);
}
END_TEST

START_TEST(drop_neither_waits_nor_writes)
{
	fixture_start_tiers(&f, 8, 8, 16);
	struct core_member *m = fixture_member(&f, 1);
	kvb_page_t page[8];
	fixture_cache_run(&f, m, 0, 8);
	struct core_batch b = core_alloc(&f.c, m, 8, KVB_ALLOC_DROP, page);
	assert_batch(b, 8, 0);
	ck_assert(!b.wait);
	ck_assert_uint_eq(f.c.h->transfers_used, 0);
	ck_assert_uint_eq(f.c.h->device[0].dropped, 8);
	fixture_end(&f);
}
END_TEST

START_TEST(without_a_mover_it_is_as_without_a_tier)
{
	fixture_start_tiers(&f, 8, 8, 16);
	struct core_member *m = fixture_member(&f, 1);
	kvb_page_t page[8];
	core_device_below_ready(&f.c, 0, false);
	fixture_cache_run(&f, m, 0, 8);
	fixture_alloc(&f, m, 8, page);
	ck_assert_uint_eq(f.c.h->device[0].dropped, 8);
	ck_assert_uint_eq(f.c.h->device[1].slabs, 0);
	fixture_end(&f);
}
END_TEST

/* A ripe page whose copy is lost and whose epoch is over has nothing to be written down. */
START_TEST(a_ripe_page_of_a_past_epoch_is_only_dropped)
{
	fixture_start_tiers(&f, 8, 8, 16);
	struct core_member *m = fixture_member(&f, 1);
	kvb_page_t page[4];
	fixture_cache_run(&f, m, 0, 8);
	ck_assert(core_alloc(&f.c, m, 2, 0, page).wait);
	fixture_move(&f);
	ck_assert(core_alloc(&f.c, m, 2, 0, page).wait);
	for (unsigned i = 0; i < 2; i++)
		fixture_done(&f, fixture_take(&f), -EIO); /* ripe, without a copy */
	ck_assert_uint_eq(fixture_space_of(&f, m)->ripe, 2);
	core_ns_bump(&f.c, 0);
	fixture_alloc(&f, m, 4, page);
	ck_assert_uint_eq(f.c.h->transfers_used, 0);
	fixture_end(&f);
}
END_TEST

START_TEST(a_ripe_page_past_its_time_is_only_dropped)
{
	fixture_start_tiers(&f, 8, 8, 16);
	struct core_member *m = fixture_member(&f, 1);
	kvb_page_t page[4];
	fixture_cache_run(&f, m, 0, 8);
	ck_assert(core_alloc(&f.c, m, 1, 0, page).wait);
	fixture_move(&f);
	ck_assert(core_alloc(&f.c, m, 1, 0, page).wait);
	fixture_done(&f, fixture_take(&f), -EIO);
	f.c.pages[f.c.spaces[m->space].ripe_first].expire_s = f.c.now_s;
	fixture_alloc(&f, m, 1, page);
	ck_assert_uint_eq(f.c.h->transfers_used, 0);
	fixture_end(&f);
}
END_TEST

START_TEST(capacity_adds_up)
{
	struct core_member *m = start_32(2, 4, 64); /* 64 pages above, 128 below */
	for (uint64_t key = 0; key < 160; key++)
		cache_moving(m, key);
	for (uint64_t key = 0; key < 160; key++) {
		ck_assert_msg(fixture_above(&f, m, key) != CORE_NONE ||
				      fixture_below(&f, m, key) != CORE_NONE,
			      "key %llu is in neither tier", (unsigned long long)key);
	}
	ck_assert_uint_eq(f.c.h->device[0].dropped, 0);
	ck_assert_uint_eq(fixture_space_below(&f, m)->evictions, 0);
	fixture_end(&f);
}
END_TEST

/* With the arena full a page that goes is written once, and the coldest below makes room. */
START_TEST(a_full_arena_costs_one_copy_a_page)
{
	struct core_member *m = start_32(4, 4, 64); /* 128 pages above, 128 below */
	uint32_t copies = 0;
	for (uint64_t key = 0; key < 300; key++)
		cache_moving(m, key);
	ck_assert_uint_eq(fixture_space_below(&f, m)->pages_free, 0);
	for (uint64_t key = 300; key < 600; key++)
		copies += cache_moving(m, key);
	ck_assert_msg(copies <= 316, "300 pages took %u copies", copies);
	ck_assert_uint_eq(f.c.h->device[0].dropped, 0);
	/* of what is below the last 100 to go down are there still */
	for (uint64_t key = 600 - 128 - 100; key < 600 - 128; key++)
		ck_assert_msg(fixture_below(&f, m, key) != CORE_NONE, "key %llu is lost",
			      (unsigned long long)key);
	fixture_end(&f);
}
END_TEST

START_TEST(the_copy_of_a_page_in_use_goes_first)
{
	fixture_start_tiers(&f, 8, 1, 16); /* eight pages below */
	struct core_member *m = fixture_member(&f, 2);
	for (uint64_t key = 0; key < 8; key++) {
		fixture_cache(&f, m, key);
		fixture_sink(&f, m, key);
	}
	ck_assert_uint_ne(fixture_load(&f, m, 5, NULL), KVB_PAGE_NONE);
	fixture_move(&f);
	ck_assert(f.c.pages[fixture_below(&f, m, 5)].flags & CORE_PAGE_ABOVE);
	kvb_page_t page = fixture_seal(&f, m, 8);
	assert_batch(core_store(&f.c, m, &page, 1), 0, 0);
	ck_assert_uint_eq(fixture_below(&f, m, 5), CORE_NONE);
	ck_assert(!(f.c.pages[fixture_above(&f, m, 5)].flags & CORE_PAGE_BELOW));
	ck_assert_uint_eq(fixture_move(&f), 1);
	for (uint64_t key = 0; key < 9; key++)
		ck_assert_uint_eq(fixture_below(&f, m, key) == CORE_NONE, key == 5);
	fixture_end(&f);
}
END_TEST

START_TEST(a_key_sealed_above_finds_its_copy_below)
{
	fixture_start_tiers(&f, 8, 8, 16);
	struct core_member *m = fixture_member(&f, 1);
	fixture_cache(&f, m, 1);
	fixture_sink(&f, m, 1);
	kvb_page_t page = fixture_seal(&f, m, 1);
	ck_assert(!(f.c.pages[fixture_above(&f, m, 1)].flags & CORE_PAGE_BELOW));
	assert_batch(core_store(&f.c, m, &page, 1), 1, 0); /* nothing to copy */
	ck_assert_uint_eq(f.c.h->transfers_used, 0);
	ck_assert(f.c.pages[fixture_above(&f, m, 1)].flags & CORE_PAGE_BELOW);
	fixture_check(&f);
	/* and parts from it */
	ck_assert_int_eq(fixture_release(&f, m, page), 0);
	ck_assert_int_eq(core_page_evict(&f.c, fixture_below(&f, m, 1)), 0);
	ck_assert(!(f.c.pages[fixture_above(&f, m, 1)].flags & CORE_PAGE_BELOW));
	fixture_end(&f);
}
END_TEST

START_TEST(a_bump_covers_both_tiers_and_frees_both)
{
	fixture_start_tiers(&f, 8, 8, 16);
	struct core_member *m = fixture_member(&f, 2);
	for (uint64_t key = 0; key < 8; key++) {
		fixture_cache(&f, m, key);
		fixture_sink(&f, m, key);
	}
	fixture_cache_run(&f, m, 8, 8);
	core_ns_bump(&f.c, 0);
	for (uint64_t key = 0; key < 16; key++) {
		ck_assert_uint_eq(fixture_above(&f, m, key), CORE_NONE);
		ck_assert_uint_eq(fixture_below(&f, m, key), CORE_NONE);
		ck_assert_uint_eq(fixture_load(&f, m, key, NULL), KVB_PAGE_NONE);
	}
	fixture_settle(&f);
	ck_assert_uint_eq(f.c.h->indexed, 0);
	ck_assert_uint_eq(fixture_space_of(&f, m)->pages_free, 16);
	ck_assert_uint_eq(fixture_space_below(&f, m)->pages_free,
			  fixture_space_below(&f, m)->pages);
	fixture_end(&f);
}
END_TEST

START_TEST(the_lower_tier_grows_as_it_is_filled)
{
	struct core_member *m = start_32(2, 3, 64);
	for (uint64_t key = 0; key < 100; key++)
		cache_moving(m, key);
	ck_assert_uint_ge(fixture_space_below(&f, m)->slabs, 2);
	for (uint64_t key = 100; key < 300; key++)
		cache_moving(m, key);
	ck_assert_uint_eq(fixture_space_below(&f, m)->slabs, 3);
	ck_assert_uint_eq(f.c.h->device[1].granted_bytes, 3 * HANDLE_BYTES);
	fixture_end(&f);
}
END_TEST

/* Eight spaces of one tenant in an arena of sixteen slabs. */
START_TEST(spaces_of_a_tenant_share_an_arena)
{
	struct core_member *m[8];

	fixture_start_tiers(&f, 16, 16, 64);
	unsigned client = fixture_client(&f, fixture_tenant(&f, "t", 0, UINT64_MAX));
	ck_assert_uint_eq(fixture_ns(&f, client, 1, KVB_NS_ADMIN), 0);
	for (unsigned i = 0; i < 8; i++) {
		int r = core_space_open(&f.c, client,
					&(struct core_space_spec){ .kind = KVB_DEVICE_HOST,
								   .regions = 1,
								   .stride_bytes = STRIDE_32,
								   .tag = i });
		ck_assert_int_ge(r, 0);
		m[i] = core_member_get(&f.c, client, (uint32_t)r);
		fixture_grow(&f, m[i], 1);
	}
	for (uint64_t key = 0; key < 16 * 32 + 64; key++) { /* the first fills it all */
		cache_moving(m[0], key);
		fixture_settle(&f);
	}
	ck_assert_uint_eq(fixture_space_below(&f, m[0])->slabs, 16);
	for (uint64_t key = 0; key < 400; key++) {
		for (unsigned i = 0; i < 8; i++) {
			cache_moving(m[i], 1000 * i + key);
			fixture_settle(&f);
		}
		fixture_seconds(&f, key % 8 == 0);
	}
	for (unsigned i = 0; i < 8; i++)
		ck_assert_msg(fixture_space_below(&f, m[i])->slabs >= 1 &&
				      fixture_space_below(&f, m[i])->slabs <= 3,
			      "space %u has %u of 16 slabs", i,
			      fixture_space_below(&f, m[i])->slabs);
	fixture_end(&f);
}
END_TEST

/* Ripening that makes room below revokes a slab, which core_work() has passed by then. */
START_TEST(what_work_revokes_it_walks)
{
	struct core_member *m[2];

	fixture_start_tiers(&f, 16, 4, 64);
	unsigned client = fixture_client(&f, fixture_tenant(&f, "t", 0, UINT64_MAX));
	ck_assert_uint_eq(fixture_ns(&f, client, 1, KVB_NS_ADMIN), 0);
	for (unsigned i = 0; i < 2; i++) {
		int r = core_space_open(&f.c, client,
					&(struct core_space_spec){ .kind = KVB_DEVICE_HOST,
								   .regions = 1,
								   .stride_bytes = STRIDE_32,
								   .tag = i });
		m[i] = core_member_get(&f.c, client, (uint32_t)r);
		fixture_grow(&f, m[i], 2);
	}
	for (uint64_t key = 0; key < 250; key++)
		cache_moving(m[0], key);
	ck_assert_uint_eq(fixture_space_below(&f, m[0])->slabs, 4);
	fixture_cache_run(&f, m[1], 1000, 64);
	core_device_below_ready(&f.c, 0, true);
	uint64_t revocations = f.c.h->n.revocations;
	while (core_work(&f.c, 10000))
		;
	ck_assert_uint_gt(f.c.h->n.revocations, revocations);
	ck_assert_uint_eq(f.c.h->slabs_undrained, 0);
	fixture_end(&f);
}
END_TEST

/* A space that was refused once and asks no more does not keep others from what is free. */
START_TEST(hunger_passes)
{
	fixture_start_tiers(&f, 16, 8, 64);
	unsigned client = fixture_client(&f, fixture_tenant(&f, "t", 0, UINT64_MAX));
	ck_assert_uint_eq(fixture_ns(&f, client, 1, KVB_NS_ADMIN), 0);
	struct core_member *m[2];
	for (unsigned i = 0; i < 2; i++) {
		int r = core_space_open(&f.c, client,
					&(struct core_space_spec){ .kind = KVB_DEVICE_HOST,
								   .regions = 1,
								   .stride_bytes = STRIDE_32,
								   .tag = i });
		m[i] = core_member_get(&f.c, client, (uint32_t)r);
		fixture_grow(&f, m[i], 2);
	}
	for (uint64_t key = 0; key < 140; key++)
		cache_moving(m[0], key);
	uint32_t slabs = fixture_space_below(&f, m[0])->slabs;
	ck_assert_uint_ge(slabs, 2);
	/* the other one asks while the device makes none */
	fixture_cache_run(&f, m[1], 1000, 64);
	f.c.tenants[0].budget[1].max_bytes = slabs * HANDLE_BYTES;
	kvb_page_t page;
	(void)core_alloc(&f.c, m[1], 1, 0, &page);
	fixture_settle(&f);
	ck_assert_uint_eq(fixture_space_below(&f, m[1])->slabs, 0);
	f.c.tenants[0].budget[1].max_bytes = UINT64_MAX;
	fixture_seconds(&f, 60);
	for (uint64_t key = 200; key < 500; key++)
		cache_moving(m[0], key);
	ck_assert_uint_ge(fixture_space_below(&f, m[0])->slabs, slabs + 2);
	fixture_end(&f);
}
END_TEST

START_TEST(two_tenants_share_an_arena)
{
	struct core_member *m[2];

	fixture_start_tiers(&f, 16, 8, 64);
	for (unsigned i = 0; i < 2; i++) {
		unsigned tenant = fixture_tenant(&f, i ? "b" : "a", 0, UINT64_MAX);
		unsigned client = fixture_client(&f, tenant);
		m[i] = fixture_space(&f, client, STRIDE_32);
		ck_assert_uint_eq(fixture_ns(&f, client, 1, KVB_NS_ADMIN), i);
		fixture_grow(&f, m[i], 1);
	}
	for (uint64_t key = 0; key < 400; key++)
		cache_moving(m[0], key);
	ck_assert_uint_eq(fixture_space_below(&f, m[0])->slabs, 8);
	for (uint64_t key = 0; key < 2000; key++) { /* under namespace 0, which is as good as any */
		cache_moving(m[1], 5000 + key);
		fixture_settle(&f);
		fixture_seconds(&f, key % 100 == 0);
	}
	ck_assert_uint_ge(fixture_space_below(&f, m[0])->slabs, 4);
	ck_assert_uint_ge(fixture_space_below(&f, m[1])->slabs, 3);
	ck_assert_uint_eq(fixture_load(&f, m[0], 5000, NULL), KVB_PAGE_NONE);
	fixture_end(&f);
}
END_TEST

/* A hundred ripe pages whose copies failed are not all written again by one request. */
START_TEST(one_alloc_starts_few_copies)
{
	fixture_start_tiers(&f, 16, 8, 512);
	unsigned client = fixture_client(&f, fixture_tenant(&f, "t", 0, UINT64_MAX));
	struct core_member *m = fixture_space(&f, client, 16 << 10); /* 2048 pages */
	ck_assert_uint_eq(fixture_ns(&f, client, 1, KVB_NS_ADMIN), 0);
	fixture_grow(&f, m, 16);
	fixture_cache_run(&f, m, 0, 2048);
	for (unsigned turn = 0; turn < 3; turn++) {
		while (core_work(&f.c, 10000))
			;
		fixture_serve(&f);
	}
	ck_assert_uint_ge(f.c.h->transfers_used, 100);
	for (unsigned t; (t = core_next_transfer(&f.c, 0)) != CORE_NONE16;)
		core_transfer_done(&f.c, t, -EIO, 0);
	fixture_check(&f);
	ck_assert_uint_ge(fixture_space_of(&f, m)->ripe, 100);
	kvb_page_t page;
	struct core_batch b = core_alloc(&f.c, m, 1, 0, &page);
	assert_batch(b, 0, 0);
	ck_assert(b.wait);
	ck_assert_uint_ge(f.c.h->transfers_used, 1);
	ck_assert_uint_le(f.c.h->transfers_used, 64);
	fixture_end(&f);
}
END_TEST

/* Every space that is short has its turn, however few units there are. */
START_TEST(ripening_in_slices_comes_to_an_end)
{
	struct core_member *m = start_32(4, 16, 64);
	unsigned turns = 0;
	fixture_cache_run(&f, m, 0, 128);
	fixture_move(&f);
	core_device_below_ready(&f.c, 0, true); /* looks */
	while (core_work(&f.c, 1))
		ck_assert_uint_lt(++turns, 1000);
	fixture_move(&f);
	while (core_work(&f.c, 1))
		ck_assert_uint_lt(++turns, 1000);
	fixture_move(&f);
	ck_assert_uint_ge(fixture_space_of(&f, m)->ripe, 8);
	fixture_end(&f);
}
END_TEST

static const struct suite_case cases[] = {
	{ &a_space_comes_with_one_below },
	{ &pages_that_the_arena_cannot_hold_have_no_lower_tier },
	{ &what_goes_next_is_written_down_ahead_and_stays_readable },
	{ &a_ripe_page_that_is_used_again_stays },
	{ &a_space_with_nothing_to_write_asks_for_no_memory_below },
	{ &drop_neither_waits_nor_writes },
	{ &without_a_mover_it_is_as_without_a_tier },
	{ &a_ripe_page_of_a_past_epoch_is_only_dropped },
	{ &a_ripe_page_past_its_time_is_only_dropped },
	{ &capacity_adds_up },
	{ &a_full_arena_costs_one_copy_a_page },
	{ &the_copy_of_a_page_in_use_goes_first },
	{ &a_key_sealed_above_finds_its_copy_below },
	{ &a_bump_covers_both_tiers_and_frees_both },
	{ &the_lower_tier_grows_as_it_is_filled },
	{ &spaces_of_a_tenant_share_an_arena, .timeout_s = 60 },
	{ &what_work_revokes_it_walks },
	{ &hunger_passes },
	{ &two_tenants_share_an_arena, .timeout_s = 60 },
	{ &one_alloc_starts_few_copies },
	{ &ripening_in_slices_comes_to_an_end },
	{ NULL },
};

int main(void)
{
	return suite_run("tier", cases);
}
