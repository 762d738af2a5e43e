/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The store as the last tier: what is written there before it goes, what comes back from there, on
 * its own or through the arena, and what becomes of it when something happens on its way.
 *
 * The store of these tests is a set of keys of namespace 0. What the core gives out for it ends
 * when the test says so and as it says.
 */

#include "tests/unit/fixture.h"
#include "tests/unit/suite.h"

static struct fixture f;

/* ---- a store --------------------------------------------------------------------------------- */

#define KEYS 256u /* 0 .. KEYS - 1 */

static struct {
	uint32_t epoch[KEYS]; /* that it has the key in; 0: it has not */
	bool refused[KEYS];   /* admission does not want it */
	uint16_t space;       /* that clients have open */
	unsigned admits;      /* times that admission was asked */
} store;

static bool store_has(void *arg, const struct core_key *key)
{
	ck_assert_ptr_eq(arg, &store);
	ck_assert_uint_eq(key->space, store.space);
	ck_assert_uint_lt(key->hash.w[1], KEYS);
	return key->epoch && store.epoch[key->hash.w[1]] == key->epoch;
}

static bool store_admit(void *arg, const struct core_page *page, const struct core_key *key)
{
	ck_assert_ptr_eq(arg, &store);
	ck_assert(!memcmp(&page->hash, &key->hash, sizeof(key->hash)));
	store.admits++;
	return !store.refused[key->hash.w[1]];
}

static const struct core_store_ops store_ops = { .has = store_has, .admit = store_admit };

static void attach(const struct core_member *m)
{
	memset(&store, 0, sizeof(store));
	store.space = m->space;
	core_store_attach(&f.c, &store_ops, &store);
}

static void put(uint64_t first, uint32_t n)
{
	for (uint64_t key = first; key < first + n; key++)
		store.epoch[key] = f.c.namespaces[0].epoch;
}

static unsigned take(void)
{
	unsigned t = core_next_store_transfer(&f.c);

	ck_assert_uint_ne(t, CORE_NONE16);
	ck_assert_uint_eq(f.c.transfers[t].state, CORE_TRANSFER_FLIGHT);
	return t;
}

/* The store ends one, in the way of fixture_done(). */
static void done(unsigned transfer, int error)
{
	bool up = f.c.transfers[transfer].direction == CORE_UP;
	struct core_key key;
	uint32_t page = core_store_page(&f.c, transfer, &key);

	ck_assert(!memcmp(&f.c.pages[page].hash, &key.hash, sizeof(key.hash)));
	ck_assert_uint_eq(f.c.pages[page].epoch, key.epoch);
	ck_assert_uint_eq(key.space, store.space);
	if (!up && !error)
		store.epoch[key.hash.w[1]] = key.epoch;
	core_transfer_done(&f.c, transfer, error, up ? (uint32_t)key.hash.w[1] + 77 : 0);
	fixture_check(&f);
}

/* It does everything that is queued for it; how many. */
static uint32_t serve(void)
{
	uint32_t n = 0;

	for (unsigned t; (t = core_next_store_transfer(&f.c)) != CORE_NONE16; n++)
		done(t, 0);
	return n;
}

/* ---- scenes ---------------------------------------------------------------------------------- */

/* A member with `slabs` slabs of eight pages and an arena of so many handles below. */
static struct core_member *start_arena(uint32_t slabs, uint32_t arena_handles, uint32_t transfers)
{
	struct core_member *m;

	fixture_start_tiers(&f, 32, arena_handles, transfers);
	m = fixture_member(&f, slabs);
	attach(m);
	return m;
}

static struct core_space *low_of(const struct core_member *m)
{
	return &f.c.spaces[f.c.spaces[m->space].below];
}

static void sink(struct core_member *m, uint64_t first, uint32_t n)
{
	for (uint64_t key = first; key < first + n; key++) {
		fixture_cache(&f, m, key);
		fixture_sink(&f, m, key);
	}
}

/* ---- room below ------------------------------------------------------------------------------ */

/* Making way below takes the one transfer that was left: what was to go there waits. */
START_TEST(a_write_that_makes_way_may_take_the_last_transfer)
{
	struct core_member *m = start_arena(1, 16, 1);
	kvb_page_t page;
	put(0, 128);
	sink(m, 0, 128); /* 128 pages below */
	while (core_work(&f.c, 1000))
		;
	ck_assert_uint_ge(low_of(m)->ripe, 8);
	store.epoch[f.c.pages[low_of(m)->ripe_first].hash.w[1]] = 0; /* it was lost meanwhile */
	page = fixture_seal(&f, m, 200);
	struct core_batch b = core_store(&f.c, m, &page, 1);
	fixture_check(&f);
	assert_batch(b, 0, 0);
	ck_assert(b.wait);
	done(take(), 0);
	ck_assert_uint_eq(serve(), 0);
	assert_batch(core_store(&f.c, m, &page, 1), 0, 0);
	ck_assert_uint_eq(fixture_move(&f), 1);
	assert_batch(core_store(&f.c, m, &page, 1), 1, 0);
	fixture_end(&f);
}
END_TEST

/* A key that goes up and leaves its copy below, where the copy is on its way out already. */
START_TEST(the_copy_of_what_is_evicted_is_the_last_to_go)
{
	struct core_member *m = start_arena(1, 16, 16);
	put(0, 128);
	sink(m, 0, 128);
	while (core_work(&f.c, 1000))
		;
	ck_assert_uint_ge(low_of(m)->ripe, 8);
	uint64_t key = f.c.pages[low_of(m)->ripe_first].hash.w[1];
	kvb_page_t page = fixture_load(&f, m, key, NULL);
	fixture_move(&f);
	ck_assert(f.c.pages[fixture_below(&f, m, key)].flags & CORE_PAGE_SPARE);
	/* others come, until it is ripe again: a spare copy goes first */
	for (uint64_t more = 128; !(f.c.pages[fixture_below(&f, m, key)].flags & CORE_PAGE_RIPE);
	     more++) {
		ck_assert_uint_lt(more, 144);
		sink(m, more, 1);
		put(more, 1);
		while (core_work(&f.c, 1000))
			;
	}
	ck_assert_int_eq(fixture_release(&f, m, page), 0);
	ck_assert_int_eq(core_page_evict(&f.c, fixture_above(&f, m, key)), 0);
	uint32_t low = fixture_below(&f, m, key);
	ck_assert(!(f.c.pages[low].flags & (CORE_PAGE_RIPE | CORE_PAGE_SPARE)));
	ck_assert_uint_eq(low_of(m)->hot, low);
	fixture_end(&f);
}
END_TEST

/* What was about to go to the store is there to be taken when there is none any more. */
START_TEST(without_the_store_the_arena_makes_room_as_before)
{
	struct core_member *m = start_arena(1, 16, 16);
	put(0, 128);
	sink(m, 0, 128);
	while (core_work(&f.c, 1000))
		;
	ck_assert_uint_ge(low_of(m)->ripe, 8);
	core_store_detach(&f.c);
	fixture_check(&f);
	uint32_t first = low_of(m)->ripe_first, ripe = low_of(m)->ripe;
	sink(m, 201, 1);
	ck_assert_uint_eq(low_of(m)->ripe, ripe - 1);
	ck_assert_uint_eq(f.c.pages[first].hash.w[1], 201);
	fixture_end(&f);
}
END_TEST

static const struct suite_case cases[] = {
	{ &the_copy_of_what_is_evicted_is_the_last_to_go },
	{ &without_the_store_the_arena_makes_room_as_before },
	{ &a_write_that_makes_way_may_take_the_last_transfer },
	{ NULL },
};

int main(void)
{
	return suite_run("store-tier", cases);
}
