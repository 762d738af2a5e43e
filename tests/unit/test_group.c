/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Groups: what one rank alone has is found by none, and what one rank loses is lost to all.
 */

#include "tests/unit/fixture.h"
#include "tests/unit/suite.h"

#define RANKS 3u

static struct fixture f;
static struct core_member *rank[RANKS];
static unsigned client[RANKS];

static int join(unsigned who, uint32_t ranks, uint32_t number, uint64_t group)
{
	const struct core_space_spec spec = {
		.kind = KVB_DEVICE_HOST,
		.regions = 1,
		.stride_bytes = STRIDE_8,
		.group = group,
		.ranks = ranks,
		.rank = number,
	};

	return core_space_open(&f.c, who, &spec);
}

/* Three ranks of group 7, a client each, a slab of eight pages each. */
static void start(void)
{
	unsigned tenant;

	fixture_start(&f, NULL, 8);
	tenant = fixture_tenant(&f, "t", 0, UINT64_MAX);
	for (unsigned i = 0; i < RANKS; i++) {
		int handle;

		client[i] = fixture_client(&f, tenant);
		ck_assert_uint_eq(fixture_ns(&f, client[i], 1, KVB_NS_ADMIN), 0);
		handle = join(client[i], RANKS, i, 7);
		ck_assert_int_ge(handle, 0);
		rank[i] = core_member_get(&f.c, client[i], (uint32_t)handle);
		fixture_grow(&f, rank[i], 1);
	}
}

/* How many ranks find the key now; what they are given is released again. */
static unsigned found(uint64_t key)
{
	unsigned n = 0;

	fixture_check(&f);
	for (unsigned i = 0; i < RANKS; i++) {
		kvb_page_t page = fixture_lookup(&f, rank[i], 0, key);

		if (page == KVB_PAGE_NONE)
			continue;
		ck_assert_int_eq(fixture_release(&f, rank[i], page), 0);
		n++;
	}
	return n;
}

static void seal_and_release(unsigned who, uint64_t key)
{
	ck_assert_int_eq(fixture_release(&f, rank[who], fixture_seal(&f, rank[who], key)), 0);
}

static void lose(unsigned who, uint64_t key)
{
	struct kvb_hash hash = fixture_hash(key);
	uint32_t page = core_page_find(&f.c, rank[who]->space, 0, 0, &hash);

	ck_assert_uint_ne(page, CORE_NONE);
	ck_assert_int_eq(core_page_evict(&f.c, page), 0);
}

START_TEST(a_key_is_found_when_the_last_rank_has_sealed_it)
{
	kvb_page_t page[RANKS];

	start();
	for (unsigned i = 0; i < RANKS; i++) {
		ck_assert_uint_eq(found(1), 0);
		page[i] = fixture_seal(&f, rank[i], 1);
	}
	ck_assert_uint_eq(found(1), RANKS);
	for (unsigned i = 0; i < RANKS; i++)
		ck_assert_int_eq(fixture_release(&f, rank[i], page[i]), 0);
	ck_assert_uint_eq(found(1), RANKS);
	ck_assert_uint_eq(found(2), 0);
	fixture_end(&f);
}
END_TEST

START_TEST(what_one_rank_loses_is_lost_to_all)
{
	start();
	for (unsigned i = 0; i < RANKS; i++)
		seal_and_release(i, 1);
	lose(1, 1);
	ck_assert_uint_eq(found(1), 0);
	for (unsigned i = 0; i < RANKS; i++)
		ck_assert_uint_eq(f.c.spaces[rank[i]->space].pages_free, 8);
	fixture_end(&f);
}
END_TEST

START_TEST(a_leased_page_stays_its_readers_when_another_rank_loses_the_key)
{
	kvb_page_t held, again;
	start();
	for (unsigned i = 0; i < RANKS; i++)
		seal_and_release(i, 1);
	held = fixture_lookup(&f, rank[0], 0, 1);
	lose(2, 1);
	ck_assert_uint_eq(fixture_lookup(&f, rank[0], 0, 1), KVB_PAGE_NONE);
	ck_assert_uint_eq(f.c.spaces[rank[0]->space].pages_free, 7);
	ck_assert_uint_eq(f.c.spaces[rank[1]->space].pages_free, 8);
	/* sealed again where it was lost, the leased one counts */
	seal_and_release(1, 1);
	again = fixture_seal(&f, rank[2], 1);
	ck_assert_uint_eq(found(1), RANKS);
	ck_assert_int_eq(fixture_release(&f, rank[2], again), 0);
	ck_assert_int_eq(fixture_release(&f, rank[0], held), 0);
	ck_assert_uint_eq(found(1), RANKS);
	fixture_end(&f);
}
END_TEST

START_TEST(a_rank_that_dies_between_leaves_no_half_group)
{
	int handle;

	start();
	seal_and_release(0, 1);
	seal_and_release(1, 1);
	core_client_dead(&f.c, client[2]);
	fixture_settle(&f);
	ck_assert_uint_eq(fixture_lookup(&f, rank[0], 0, 1), KVB_PAGE_NONE);
	ck_assert_uint_eq(fixture_lookup(&f, rank[1], 0, 1), KVB_PAGE_NONE);
	/* its successor finishes what it began */
	client[2] = fixture_client(&f, 0);
	ck_assert_uint_eq(fixture_ns(&f, client[2], 1, 0), 0);
	handle = join(client[2], RANKS, 2, 7);
	ck_assert_int_ge(handle, 0);
	rank[2] = core_member_get(&f.c, client[2], (uint32_t)handle);
	fixture_serve(&f);
	seal_and_release(2, 1);
	ck_assert_uint_eq(found(1), RANKS);
	fixture_end(&f);
}
END_TEST

START_TEST(an_epoch_ends_for_all_ranks)
{
	start();
	for (unsigned i = 0; i < RANKS; i++)
		seal_and_release(i, 1);
	seal_and_release(0, 2);
	core_ns_bump(&f.c, 0);
	ck_assert_uint_eq(found(1), 0);
	fixture_settle(&f);
	for (unsigned i = 0; i < RANKS; i++)
		ck_assert_uint_eq(f.c.spaces[rank[i]->space].pages_free, 8);
	fixture_end(&f);
}
END_TEST

START_TEST(ranks_of_other_groups_do_not_count)
{
	struct core_member *m;
	int handle;

	start();
	handle = join(client[0], RANKS, 2, 8);
	ck_assert_int_ge(handle, 0);
	m = core_member_get(&f.c, client[0], (uint32_t)handle);
	fixture_grow(&f, m, 1);
	seal_and_release(0, 1);
	seal_and_release(1, 1);
	ck_assert_int_eq(fixture_release(&f, m, fixture_seal(&f, m, 1)), 0);
	ck_assert_uint_eq(found(1), 0);
	fixture_end(&f);
}
END_TEST

/* Its old space is still there, and has the lower index. */
START_TEST(a_rank_that_came_back_with_other_pages)
{
	struct core_space_spec spec = { .kind = KVB_DEVICE_HOST,
					.regions = 1,
					.stride_bytes = STRIDE_8 / 2,
					.group = 7,
					.ranks = RANKS };
	start();
	int handle = core_space_open(&f.c, client[0], &spec);
	ck_assert_int_ge(handle, 0);
	rank[0] = core_member_get(&f.c, client[0], (uint32_t)handle);
	fixture_grow(&f, rank[0], 1);
	for (unsigned i = 0; i < RANKS; i++) {
		ck_assert_uint_eq(found(1), 0);
		seal_and_release(i, 1);
	}
	ck_assert_uint_eq(found(1), RANKS);
	lose(0, 1);
	ck_assert_uint_eq(found(1), 0);
	fixture_end(&f);
}
END_TEST

START_TEST(ranks_that_cannot_be_are_refused)
{
	start();
	ck_assert_int_eq(join(client[0], 2, 2, 7), -EINVAL);
	ck_assert_int_eq(join(client[0], KVB_RANKS_MAX + 1, 0, 7), -EINVAL);
	ck_assert_int_eq(join(client[0], 1, 0, 7), -EINVAL);
	ck_assert_int_eq(join(client[0], 0, 1, 0), -EINVAL);
	ck_assert_int_ge(join(client[0], 1, 0, 0), 0);
	fixture_end(&f);
}
END_TEST

static const struct suite_case cases[] = {
	{ &a_key_is_found_when_the_last_rank_has_sealed_it },
	{ &what_one_rank_loses_is_lost_to_all },
	{ &a_leased_page_stays_its_readers_when_another_rank_loses_the_key },
	{ &a_rank_that_dies_between_leaves_no_half_group },
	{ &an_epoch_ends_for_all_ranks },
	{ &ranks_of_other_groups_do_not_count },
	{ &a_rank_that_came_back_with_other_pages },
	{ &ranks_that_cannot_be_are_refused },
	{ NULL },
};

int main(void)
{
	return suite_run("group", cases);
}
