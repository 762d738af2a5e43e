/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The store below an arena: what comes up in two legs, what goes down in two steps, and what
 * becomes of it when something happens between them.
 */

#include "tests/unit/fixture_store.h"
#include "tests/unit/suite.h"

static struct fixture f;
static struct fixture_store store;

/* A member of a space with one slab of eight pages, and an arena of so many below it. */
static struct core_member *start(uint32_t arena_handles, uint32_t transfers)
{
	return fixture_store_arena(&store, &f, 1, arena_handles, transfers);
}

/* The same with key 1 in the store, and memory in the arena that it can pass through. */
static struct core_member *start_stored(void)
{
	struct core_member *m = start(1, 16);

	fixture_store_sink(&store, m, 200, 1);
	fixture_store_put(&store, 1, 1);
	return m;
}

/* The first leg of the only load there is. */
static void first_leg(int error)
{
	fixture_store_done(&store, fixture_store_take(&store), error);
}

static void second_leg(int error)
{
	fixture_done(&f, fixture_take(&f), error);
}

static void expect_at_rest(const struct core_member *m, uint32_t free, uint32_t free_below)
{
	fixture_check(&f);
	ck_assert_uint_eq(f.c.h->transfers_used, 0);
	ck_assert_uint_eq(fixture_space_of(&f, m)->pages_free, free);
	ck_assert_uint_eq(fixture_space_below(&f, m)->pages_free, free_below);
}

/* ---- up -------------------------------------------------------------------------------------- */

START_TEST(a_load_passes_through_the_arena)
{
	struct core_member *m = start_stored();
	struct core_lookup lk = { .ns = 0, .tiers = true };
	struct kvb_hash hash[2] = { fixture_hash(200), fixture_hash(1) };
	kvb_page_t tier[2], page;
	assert_batch(core_lookup(&f.c, m, &lk, hash, 2, tier), 2, 0);
	ck_assert_uint_eq(tier[0], KVB_PAGE_IN(KVB_TIER_HOST));
	ck_assert_uint_eq(tier[1], KVB_PAGE_IN(KVB_TIER_STORE));
	page = fixture_load(&f, m, 1, NULL);
	ck_assert_uint_ne(page, KVB_PAGE_NONE);
	ck_assert_uint_eq(f.c.h->transfers_used, 1); /* both legs */
	ck_assert_uint_eq(fixture_space_below(&f, m)->pages_free, 6);
	ck_assert_uint_eq(core_next_transfer(&f.c, 0), CORE_NONE16);
	ck_assert_uint_eq(fixture_below(&f, m, 1), CORE_NONE);
	first_leg(0);
	ck_assert_uint_eq(core_next_store_transfer(&f.c), CORE_NONE16);
	ck_assert_int_eq(fixture_arrived(&f, m, page), 0);
	ck_assert_uint_ne(fixture_below(&f, m, 1), CORE_NONE); /* found there from now on */
	ck_assert_int_eq(core_page_evict(&f.c, fixture_below(&f, m, 1)), -EBUSY);
	second_leg(0); /* with the sum that the store said */
	ck_assert_int_eq(fixture_arrived(&f, m, page), 1);
	ck_assert(f.c.pages[fixture_above(&f, m, 1)].flags & CORE_PAGE_BELOW);
	ck_assert(f.c.pages[fixture_below(&f, m, 1)].flags & CORE_PAGE_SPARE);
	ck_assert_uint_eq(f.c.h->n.fetched, 1);
	ck_assert_uint_eq(f.c.h->device[0].promoted, 1);
	fixture_end(&f);
}
END_TEST

START_TEST(runs_from_three_tiers)
{
	struct core_member *m = start(2, 16);
	struct core_lookup lk = { .ns = 0 };
	struct kvb_hash hash[6];
	kvb_page_t ret[6];
	fixture_store_sink(&store, m, 1, 2);
	fixture_cache(&f, m, 0);
	fixture_store_put(&store, 3, 2);
	for (unsigned i = 0; i < 5; i++)
		hash[i] = fixture_hash(i);
	hash[5] = hash[3]; /* twice */
	assert_batch(core_load(&f.c, m, &lk, hash, 6, ret), 6, 0);
	fixture_check(&f);
	ck_assert_uint_eq(ret[5], ret[3]);
	ck_assert_uint_eq(lk.lead, 5);
	ck_assert_uint_eq(f.c.h->transfers_used, 4);
	ck_assert_uint_eq(fixture_store_serve(&store), 2);
	ck_assert_uint_eq(fixture_move(&f), 4);
	for (unsigned i = 0; i < 6; i++)
		ck_assert_int_eq(fixture_arrived(&f, m, ret[i]), 1);
	fixture_end(&f);
}
END_TEST

/* Its copy below knows of the time that the page above was given. */
START_TEST(past_its_time_below_it_is_past_its_time_in_the_store)
{
	struct core_member *m = start_stored();
	struct core_lookup lk = { .ns = 0, .tiers = true };
	struct kvb_hash hash = fixture_hash(1);
	kvb_page_t page = fixture_load(&f, m, 1, NULL), tier;
	first_leg(0);
	second_leg(0);
	assert_batch(core_hint(&f.c, m, &page, 1, KVB_HINT(KVB_PRIO_NORMAL, 2)), 1, 0);
	ck_assert_int_eq(fixture_release(&f, m, page), 0);
	ck_assert_int_eq(core_page_evict(&f.c, fixture_above(&f, m, 1)), 0);
	assert_batch(core_lookup(&f.c, m, &lk, &hash, 1, &tier), 1, 0);
	ck_assert_uint_eq(tier, KVB_PAGE_IN(KVB_TIER_HOST));
	fixture_seconds(&f, 3);
	lk.broken = false;
	assert_batch(core_lookup(&f.c, m, &lk, &hash, 1, &tier), 0, 0);
	ck_assert_uint_eq(fixture_load(&f, m, 1, NULL), KVB_PAGE_NONE);
	fixture_end(&f);
}
END_TEST

START_TEST(the_first_leg_fails)
{
	struct core_member *m = start_stored();
	kvb_page_t page = fixture_load(&f, m, 1, NULL);
	first_leg(-ENOENT);
	ck_assert_int_eq(fixture_arrived(&f, m, page), -1);
	ck_assert_uint_eq(fixture_below(&f, m, 1), CORE_NONE);
	ck_assert_uint_eq(f.c.h->n.store_lost, 1);
	ck_assert_uint_eq(core_next_transfer(&f.c, 0), CORE_NONE16);
	ck_assert_int_eq(fixture_release(&f, m, page), 0);
	expect_at_rest(m, 8, 7);
	fixture_end(&f);
}
END_TEST

START_TEST(the_second_leg_fails)
{
	struct core_member *m = start_stored();
	kvb_page_t page = fixture_load(&f, m, 1, NULL);
	first_leg(0);
	second_leg(-EIO);
	ck_assert_int_eq(fixture_arrived(&f, m, page), -1);
	ck_assert_uint_ne(fixture_below(&f, m, 1), CORE_NONE); /* nothing is wrong with that */
	ck_assert_int_eq(fixture_release(&f, m, page), 0);
	page = fixture_load(&f, m, 1, NULL);
	ck_assert_uint_eq(core_next_store_transfer(&f.c), CORE_NONE16);
	second_leg(-EBADMSG);
	ck_assert_uint_eq(fixture_below(&f, m, 1), CORE_NONE);
	ck_assert_int_eq(fixture_release(&f, m, page), 0);
	expect_at_rest(m, 8, 7);
	page = fixture_load(&f, m, 1, NULL); /* from the store again */
	first_leg(0);
	second_leg(0);
	ck_assert_int_eq(fixture_arrived(&f, m, page), 1);
	fixture_end(&f);
}
END_TEST

START_TEST(the_mover_goes_between_the_legs)
{
	struct core_member *m = start_stored();
	kvb_page_t page = fixture_load(&f, m, 1, NULL);
	unsigned t = fixture_store_take(&store);
	core_device_below_ready(&f.c, 0, false);
	ck_assert_uint_eq(f.c.h->transfers_used, 1); /* the store has it still */
	fixture_store_done(&store, t, 0);
	ck_assert_int_eq(fixture_arrived(&f, m, page), -1);
	ck_assert_int_eq(fixture_release(&f, m, page), 0);
	expect_at_rest(m, 8, 6);
	ck_assert_uint_eq(fixture_load(&f, m, 1, NULL), KVB_PAGE_NONE); /* there is no way up */
	core_device_below_ready(&f.c, 0, true);
	page = fixture_load(&f, m, 1, NULL);
	second_leg(0);
	ck_assert_int_eq(fixture_arrived(&f, m, page), 1);
	fixture_end(&f);
}
END_TEST

START_TEST(a_bump_under_each_leg)
{
	for (unsigned leg = 0; leg < 2; leg++) {
		struct core_member *m = start_stored();
		kvb_page_t page = fixture_load(&f, m, 1, NULL);
		unsigned t = fixture_store_take(&store);
		if (leg) {
			fixture_store_done(&store, t, 0);
			core_ns_bump(&f.c, 0);
		} else {
			core_ns_bump(&f.c, 0);
			fixture_store_done(&store, t, 0);
		}
		fixture_settle(&f);
		ck_assert_int_eq(fixture_arrived(&f, m, page), -1);
		second_leg(0);
		ck_assert_int_eq(fixture_arrived(&f, m, page), -1);
		ck_assert_int_eq(fixture_release(&f, m, page), 0);
		fixture_settle(&f);
		expect_at_rest(m, 8, 8);
		ck_assert_uint_eq(f.c.h->pages_stale, 0);
		fixture_end(&f);
	}
}
END_TEST

START_TEST(a_seal_under_the_first_leg)
{
	struct core_member *m = start_stored();
	kvb_page_t page = fixture_load(&f, m, 1, NULL), sealed = fixture_seal(&f, m, 1);
	assert_batch(core_store(&f.c, m, &sealed, 1), 0, 0); /* a page of its own */
	first_leg(0);
	ck_assert_uint_eq(fixture_below(&f, m, 1), CORE_NONE); /* not the one it passes through */
	ck_assert_uint_eq(fixture_move(&f), 2);
	ck_assert_int_eq(fixture_arrived(&f, m, page), 1);
	ck_assert_uint_eq(fixture_space_below(&f, m)->pages_free, 6);
	ck_assert(f.c.pages[fixture_above(&f, m, 1)].flags & CORE_PAGE_BELOW);
	ck_assert_int_eq(fixture_release(&f, m, page), 0);
	ck_assert_uint_eq(fixture_lookup(&f, m, 0, 1), sealed);
	fixture_end(&f);
}
END_TEST

START_TEST(a_seal_under_the_second_leg)
{
	struct core_member *m = start_stored();
	kvb_page_t page = fixture_load(&f, m, 1, NULL), sealed;
	first_leg(0);
	sealed = fixture_seal(&f, m, 1);
	assert_batch(core_store(&f.c, m, &sealed, 1), 1, 0); /* it is there */
	fixture_check(&f);
	second_leg(0);
	ck_assert_int_eq(fixture_arrived(&f, m, page), 1);
	ck_assert_int_eq(fixture_release(&f, m, page), 0);
	ck_assert_uint_eq(fixture_space_below(&f, m)->pages_free, 6);
	fixture_end(&f);
}
END_TEST

START_TEST(the_lease_quota_in_the_middle)
{
	struct core_member *m = start_stored();
	struct core_lookup lk = { .ns = 0 };
	struct kvb_hash hash[4];
	kvb_page_t ret[4];
	for (unsigned i = 0; i < 4; i++)
		hash[i] = fixture_hash(i);
	fixture_store_put(&store, 0, 4);
	f.c.clients[m->client].leases_max = 2;
	assert_batch(core_load(&f.c, m, &lk, hash, 4, ret), 2, -EDQUOT);
	fixture_check(&f);
	ck_assert_uint_eq(f.c.h->transfers_used, 2);
	ck_assert_uint_eq(fixture_space_of(&f, m)->pages_free, 6); /* none is kept for the others */
	ck_assert_uint_eq(fixture_space_below(&f, m)->pages_free, 5);
	ck_assert_uint_eq(fixture_store_serve(&store), 2);
	ck_assert_uint_eq(fixture_move(&f), 2);
	fixture_end(&f);
}
END_TEST

START_TEST(no_page_to_pass_through)
{
	struct core_member *m = start(1, 16);
	bool wait;
	fixture_store_put(&store, 1, 1);
	ck_assert_uint_eq(fixture_load(&f, m, 1, &wait), KVB_PAGE_NONE);
	ck_assert(wait); /* the first slab below is on its way */
	fixture_check(&f);
	for (unsigned i; (i = core_next_slab(&f.c)) != CORE_NONE16;)
		core_slab_failed(&f.c, i);
	f.c.tenants[0].budget[1].max_bytes = 0;
	ck_assert_uint_eq(fixture_load(&f, m, 1, &wait), KVB_PAGE_NONE);
	ck_assert(!wait); /* and now there will be none */
	expect_at_rest(m, 8, 0);
	fixture_end(&f);
}
END_TEST

START_TEST(detached_with_loads_in_each_leg)
{
	struct core_member *m = start_stored();
	kvb_page_t page[3];
	fixture_store_put(&store, 1, 3);
	for (unsigned i = 0; i < 3; i++)
		page[i] = fixture_load(&f, m, 1 + i, NULL);
	first_leg(0);
	unsigned flies = fixture_store_take(&store);
	core_store_detach(&f.c);
	fixture_check(&f);
	ck_assert_uint_eq(f.c.h->transfers_used, 2);
	ck_assert_int_eq(fixture_arrived(&f, m, page[2]), -1); /* queued */
	fixture_store_done(&store, flies, 0);                  /* it came all the same */
	ck_assert_uint_eq(fixture_move(&f), 2);
	ck_assert_int_eq(fixture_arrived(&f, m, page[0]), 1);
	ck_assert_int_eq(fixture_arrived(&f, m, page[1]), 1);
	ck_assert_int_eq(fixture_release(&f, m, page[2]), 0);
	expect_at_rest(m, 6, 5);
	fixture_end(&f);
}
END_TEST

/* ---- down ------------------------------------------------------------------------------------ */

/* Keys in one of three tiers, none lost: eight pages, eight below, the rest in the store. */
START_TEST(capacity_adds_up)
{
	struct core_member *m = start(1, 16);
	for (uint64_t key = 0; key < 40; key++) {
		struct kvb_seal seal = { .hash = fixture_hash(key) };
		kvb_page_t ret;
		for (unsigned turn = 0; !core_alloc(&f.c, m, 1, 0, &seal.page).done; turn++) {
			ck_assert_uint_lt(turn, 20);
			fixture_move(&f);
			fixture_store_serve(&store);
		}
		assert_batch(core_seal(&f.c, m, 0, 1, 0, &seal, 1, &ret), 1, 0);
		ck_assert_int_eq(fixture_release(&f, m, ret), 0);
		fixture_check(&f);
	}
	for (uint64_t key = 0; key < 40; key++)
		ck_assert_msg(fixture_above(&f, m, key) != CORE_NONE ||
				      fixture_below(&f, m, key) != CORE_NONE ||
				      fixture_store_has(&store, key),
			      "key %llu is in no tier", (unsigned long long)key);
	ck_assert_uint_eq(f.c.h->device[0].dropped, 0);
	ck_assert_uint_ge(f.c.h->n.stored, 24);
	ck_assert_uint_le(f.c.h->n.stored, 32);
	fixture_end(&f);
}
END_TEST

/* Their pages above are written down again when they go. */
START_TEST(copies_of_pages_in_use_are_not_written)
{
	struct core_member *m = start(1, 16);
	kvb_page_t page[8];
	fixture_store_sink(&store, m, 0, 8);
	for (unsigned i = 0; i < 8; i++)
		page[i] = fixture_load(&f, m, i, NULL);
	ck_assert_uint_eq(fixture_move(&f), 8);
	fixture_store_put(&store, 100, 1);
	assert_batch(core_release(&f.c, m, page, 1), 1, 0);
	ck_assert_int_eq(core_page_evict(&f.c, fixture_above(&f, m, 0)), 0);
	ck_assert_uint_ne(fixture_load(&f, m, 100, NULL), KVB_PAGE_NONE);
	ck_assert_uint_eq(f.c.h->transfers_used, 1); /* it took the place of one of them */
	ck_assert_uint_ne(fixture_below(&f, m, 0), CORE_NONE);
	ck_assert_uint_eq(f.c.h->n.stored, 0);
	fixture_end(&f);
}
END_TEST

START_TEST(what_was_damaged_in_the_arena_is_not_stored)
{
	struct core_member *m = start(1, 16);
	kvb_page_t page;
	fixture_store_sink(&store, m, 0, 8);
	page = fixture_seal(&f, m, 8);
	ck_assert(core_store(&f.c, m, &page, 1).wait); /* key 0 makes way */
	unsigned t = fixture_store_take(&store);
	ck_assert_uint_eq(fixture_store_key(&store, t), 0);
	ck_assert_uint_eq(f.c.transfers[t].sum, 77); /* what it went down with */
	fixture_store_done(&store, t, -EBADMSG);
	ck_assert_uint_eq(fixture_below(&f, m, 0), CORE_NONE);
	ck_assert_uint_eq(f.c.h->device[0].checksum_misses, 1);
	ck_assert_uint_eq(fixture_space_below(&f, m)->pages_free, 1);
	fixture_end(&f);
}
END_TEST

START_TEST(an_arena_slab_is_written_while_there_is_time)
{
	struct core_member *m = start(1, 16);
	fixture_store_sink(&store, m, 0, 8);
	ck_assert_int_eq(core_space_shrink(&f.c, fixture_space_of(&f, m)->below, 1, 1000000000), 1);
	while (core_work(&f.c, 100))
		;
	ck_assert_uint_eq(fixture_store_serve(&store), 8);
	fixture_settle(&f);
	ck_assert_uint_eq(fixture_space_below(&f, m)->slabs, 0);
	for (uint64_t key = 0; key < 8; key++)
		ck_assert(fixture_store_has(&store, key));
	fixture_end(&f);
}
END_TEST

/* Making way below takes the one transfer that was left: what was to go there waits. */
START_TEST(a_write_that_makes_way_may_take_the_last_transfer)
{
	struct core_member *m = start(16, 1);
	kvb_page_t page;
	fixture_store_put(&store, 0, 128);
	fixture_store_sink(&store, m, 0, 128); /* 128 pages below */
	while (core_work(&f.c, 1000))
		;
	ck_assert_uint_ge(fixture_space_below(&f, m)->ripe, 8);
	store.epoch[f.c.pages[fixture_space_below(&f, m)->ripe_first].hash.w[1]] =
		0; /* it was lost meanwhile */
	page = fixture_seal(&f, m, 200);
	struct core_batch b = core_store(&f.c, m, &page, 1);
	fixture_check(&f);
	assert_batch(b, 0, 0);
	ck_assert(b.wait);
	fixture_store_done(&store, fixture_store_take(&store), 0);
	ck_assert_uint_eq(fixture_store_serve(&store), 0);
	assert_batch(core_store(&f.c, m, &page, 1), 0, 0);
	ck_assert_uint_eq(fixture_move(&f), 1);
	assert_batch(core_store(&f.c, m, &page, 1), 1, 0);
	fixture_end(&f);
}
END_TEST

/* A key that goes up and leaves its copy below, where the copy is on its way out already. */
START_TEST(the_copy_of_what_is_evicted_is_the_last_to_go)
{
	struct core_member *m = start(16, 16);
	fixture_store_put(&store, 0, 128);
	fixture_store_sink(&store, m, 0, 128);
	while (core_work(&f.c, 1000))
		;
	ck_assert_uint_ge(fixture_space_below(&f, m)->ripe, 8);
	uint64_t key = f.c.pages[fixture_space_below(&f, m)->ripe_first].hash.w[1];
	kvb_page_t page = fixture_load(&f, m, key, NULL);
	fixture_move(&f);
	ck_assert(f.c.pages[fixture_below(&f, m, key)].flags & CORE_PAGE_SPARE);
	/* others come, until it is ripe again: a spare copy goes first */
	for (uint64_t more = 128; !(f.c.pages[fixture_below(&f, m, key)].flags & CORE_PAGE_RIPE);
	     more++) {
		ck_assert_uint_lt(more, 144);
		fixture_store_sink(&store, m, more, 1);
		fixture_store_put(&store, more, 1);
		while (core_work(&f.c, 1000))
			;
	}
	ck_assert_int_eq(fixture_release(&f, m, page), 0);
	ck_assert_int_eq(core_page_evict(&f.c, fixture_above(&f, m, key)), 0);
	uint32_t low = fixture_below(&f, m, key);
	ck_assert(!(f.c.pages[low].flags & (CORE_PAGE_RIPE | CORE_PAGE_SPARE)));
	ck_assert_uint_eq(fixture_space_below(&f, m)->hot, low);
	fixture_end(&f);
}
END_TEST

/* What was about to go to the store is there to be taken when there is none any more. */
START_TEST(without_the_store_the_arena_makes_room_as_before)
{
	struct core_member *m = start(16, 16);
	fixture_store_put(&store, 0, 128);
	fixture_store_sink(&store, m, 0, 128);
	while (core_work(&f.c, 1000))
		;
	ck_assert_uint_ge(fixture_space_below(&f, m)->ripe, 8);
	core_store_detach(&f.c);
	fixture_check(&f);
	uint32_t first = fixture_space_below(&f, m)->ripe_first,
		 ripe = fixture_space_below(&f, m)->ripe;
	fixture_store_sink(&store, m, 201, 1);
	ck_assert_uint_eq(fixture_space_below(&f, m)->ripe, ripe - 1);
	ck_assert_uint_eq(f.c.pages[first].hash.w[1], 201);
	fixture_end(&f);
}
END_TEST

static const struct suite_case cases[] = {
	{ &a_load_passes_through_the_arena },
	{ &runs_from_three_tiers },
	{ &past_its_time_below_it_is_past_its_time_in_the_store },
	{ &the_first_leg_fails },
	{ &the_second_leg_fails },
	{ &the_mover_goes_between_the_legs },
	{ &a_bump_under_each_leg },
	{ &a_seal_under_the_first_leg },
	{ &a_seal_under_the_second_leg },
	{ &the_lease_quota_in_the_middle },
	{ &no_page_to_pass_through },
	{ &detached_with_loads_in_each_leg },
	{ &capacity_adds_up },
	{ &copies_of_pages_in_use_are_not_written },
	{ &what_was_damaged_in_the_arena_is_not_stored },
	{ &an_arena_slab_is_written_while_there_is_time },
	{ &a_write_that_makes_way_may_take_the_last_transfer },
	{ &the_copy_of_what_is_evicted_is_the_last_to_go },
	{ &without_the_store_the_arena_makes_room_as_before },
	{ NULL },
};

int main(void)
{
	return suite_run("store-legs", cases);
}
