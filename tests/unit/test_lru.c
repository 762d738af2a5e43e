/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The order in which `lru` lets pages go, seen through ALLOC.
 */

#include "tests/unit/fixture.h"
#include "tests/unit/suite.h"

static struct fixture f;
static kvb_page_t page[8];

/* Eight sealed pages, keys 0..7, released in this order. */
static struct core_member *start_released(const unsigned order[8])
{
	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 1);
	for (unsigned i = 0; i < 8; i++)
		page[i] = fixture_seal(&f, m, i);
	for (unsigned i = 0; i < 8; i++)
		ck_assert_int_eq(fixture_release(&f, m, page[order[i]]), 0);
	return m;
}

/* The key whose page goes next. */
static unsigned next_victim(struct core_member *m)
{
	kvb_page_t got;

	fixture_alloc(&f, m, 1, &got);
	return KVB_PAGE_ID(got);
}

START_TEST(lru_released_longest_ago_goes_first)
{
	static const unsigned order[8] = { 3, 1, 4, 0, 5, 7, 2, 6 };

	struct core_member *m = start_released(order);
	for (unsigned i = 0; i < 8; i++)
		ck_assert_uint_eq(next_victim(m), order[i]);
	fixture_end(&f);
}
END_TEST

/* In the order of release; but a chain, released tail first, is handed out head first again. */
START_TEST(lru_one_batch_takes_them_in_order)
{
	static const unsigned mixed[8] = { 1, 7, 6, 2, 5, 4, 0, 3 };
	static const unsigned chain[8] = { 7, 6, 5, 4, 3, 2, 1, 0 };
	kvb_page_t got[8];

	struct core_member *m = start_released(mixed);
	fixture_alloc(&f, m, 8, got);
	for (unsigned i = 0; i < 8; i++)
		ck_assert_uint_eq(KVB_PAGE_ID(got[i]), mixed[i]);
	fixture_end(&f);
	m = start_released(chain);
	fixture_alloc(&f, m, 8, got);
	for (unsigned i = 0; i < 8; i++)
		ck_assert_uint_eq(KVB_PAGE_ID(got[i]), i);
	fixture_end(&f);
}
END_TEST

START_TEST(lru_leased_pages_are_passed_over_and_come_back_at_release)
{
	static const unsigned order[8] = { 0, 1, 2, 3, 4, 5, 6, 7 };

	struct core_member *m = start_released(order);
	ck_assert_uint_eq(fixture_lookup(&f, m, 0, 0), page[0]);
	ck_assert_uint_eq(fixture_lookup(&f, m, 0, 2), page[2]);
	ck_assert_uint_eq(next_victim(m), 1);
	ck_assert_int_eq(fixture_release(&f, m, page[2]), 0);
	ck_assert_int_eq(fixture_release(&f, m, page[0]), 0);
	static const unsigned rest[7] = { 3, 4, 5, 6, 7, 2, 0 };
	for (unsigned i = 0; i < 7; i++)
		ck_assert_uint_eq(next_victim(m), rest[i]);
	fixture_end(&f);
}
END_TEST

START_TEST(lru_low_goes_first_and_high_is_passed_over_once)
{
	static const unsigned order[8] = { 0, 1, 2, 3, 4, 5, 6, 7 };

	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 1);
	for (unsigned i = 0; i < 8; i++)
		page[i] = fixture_seal(&f, m, i);
	assert_batch(core_hint(&f.c, m, &page[6], 1, KVB_HINT(KVB_PRIO_LOW, 0)), 1, 0);
	assert_batch(core_hint(&f.c, m, &page[0], 1, KVB_HINT(KVB_PRIO_HIGH, 0)), 1, 0);
	for (unsigned i = 0; i < 8; i++)
		ck_assert_int_eq(fixture_release(&f, m, page[order[i]]), 0);
	static const unsigned want[8] = { 6, 1, 2, 3, 4, 5, 7, 0 };
	for (unsigned i = 0; i < 8; i++)
		ck_assert_uint_eq(next_victim(m), want[i]);
	fixture_end(&f);
}
END_TEST

START_TEST(lru_free_pages_come_before_victims)
{
	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 1);
	page[0] = fixture_seal(&f, m, 0);
	ck_assert_int_eq(fixture_release(&f, m, page[0]), 0);
	for (unsigned i = 1; i < 8; i++)
		ck_assert_uint_eq(next_victim(m), i);
	ck_assert_uint_eq(fixture_lookup(&f, m, 0, 0), page[0]);
	ck_assert_int_eq(fixture_release(&f, m, page[0]), 0);
	ck_assert_uint_eq(next_victim(m), 0);
	ck_assert_uint_eq(fixture_lookup(&f, m, 0, 0), KVB_PAGE_NONE);
	fixture_end(&f);
}
END_TEST

START_TEST(lru_an_operators_pin_takes_a_page_out)
{
	static const unsigned order[8] = { 0, 1, 2, 3, 4, 5, 6, 7 };
	struct kvb_hash hash = fixture_hash(0);

	struct core_member *m = start_released(order);
	uint32_t at = core_page_find(&f.c, m->space, 0, 0, &hash);
	ck_assert_int_eq(core_page_pin(&f.c, at, true), 0);
	for (unsigned i = 1; i < 8; i++)
		ck_assert_uint_eq(next_victim(m), i);
	kvb_page_t got;
	assert_batch(core_alloc(&f.c, m, 1, 0, &got), 0, 0);
	ck_assert_int_eq(core_page_pin(&f.c, at, false), 0);
	ck_assert_uint_eq(next_victim(m), 0);
	fixture_end(&f);
}
END_TEST

START_TEST(lru_takes_no_page_of_a_slab_that_is_being_revoked)
{
	static const unsigned order[8] = { 0, 1, 2, 3, 4, 5, 6, 7 };
	kvb_page_t got;
	uint32_t busy;

	struct core_member *m = start_released(order);
	ck_assert_int_eq(core_space_shrink(&f.c, m->space, 1, 0), 1);
	assert_batch(core_alloc(&f.c, m, 1, 0, &got), 0, 0);
	ck_assert_int_eq(core_reclaim_ack(&f.c, m, 0, &busy), 0);
	fixture_settle(&f);
	ck_assert_uint_eq(f.c.h->device[0].granted_bytes, 0);
	fixture_end(&f);
}
END_TEST

START_TEST(policy_is_found_by_name)
{
	ck_assert_ptr_eq(policy_find("lru"), &policy_lru);
	ck_assert_ptr_null(policy_find("no such policy"));
	ck_assert_ptr_nonnull(policy_at(0));
	unsigned n = 0;
	while (policy_at(n))
		n++;
	ck_assert_uint_lt(n, 100);
}
END_TEST

static const struct suite_case cases[] = {
	{ &lru_released_longest_ago_goes_first },
	{ &lru_one_batch_takes_them_in_order },
	{ &lru_leased_pages_are_passed_over_and_come_back_at_release },
	{ &lru_low_goes_first_and_high_is_passed_over_once },
	{ &lru_free_pages_come_before_victims },
	{ &lru_an_operators_pin_takes_a_page_out },
	{ &lru_takes_no_page_of_a_slab_that_is_being_revoked },
	{ &policy_is_found_by_name },
	{ NULL },
};

int main(void)
{
	return suite_run("lru", cases);
}
