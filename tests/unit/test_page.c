/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Pages: ALLOC and FREE, names and generations, eviction by an operator.
 */

#include "tests/unit/fixture.h"
#include "tests/unit/suite.h"

static struct fixture f;

START_TEST(alloc_gives_lowest_ids_first)
{
	kvb_page_t page[20], again[3];

	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 3);
	fixture_alloc(&f, m, 20, page);
	for (unsigned i = 0; i < 20; i++)
		ck_assert_uint_eq(KVB_PAGE_ID(page[i]), i);
	kvb_page_t back[3] = { page[9], page[2], page[17] };
	assert_batch(core_free(&f.c, m, back, 3), 3, 0);
	fixture_alloc(&f, m, 3, again);
	ck_assert_uint_eq(KVB_PAGE_ID(again[0]), 2);
	ck_assert_uint_eq(KVB_PAGE_ID(again[1]), 9);
	ck_assert_uint_eq(KVB_PAGE_ID(again[2]), 17);
	ck_assert(KVB_PAGE_GEN(again[0]) != KVB_PAGE_GEN(page[2]));
	fixture_end(&f);
}
END_TEST

START_TEST(alloc_is_short_when_all_is_held)
{
	kvb_page_t page[20];

	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 2);
	struct core_batch b = core_alloc(&f.c, m, 20, 0, page);
	assert_batch(b, 16, 0);
	ck_assert_uint_eq(b.flags, 0);
	assert_batch(core_alloc(&f.c, m, 1, 0, page), 0, 0);
	assert_batch(core_alloc(&f.c, m, 0, 0, page), 0, 0);
	fixture_end(&f);
}
END_TEST

START_TEST(alloc_stops_at_memory_that_is_not_mapped)
{
	kvb_page_t page[20];

	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 1);
	unsigned client = fixture_client(&f, 0);
	struct core_member *late = fixture_space(&f, client, STRIDE_8);
	struct core_batch b = core_alloc(&f.c, late, 4, 0, page);
	assert_batch(b, 0, 0);
	ck_assert_uint_eq(b.flags, KVB_CQE_GRANT_PENDING);
	core_grant_sent(&f.c, late, 0);
	b = core_alloc(&f.c, late, 4, 0, page);
	assert_batch(b, 0, 0);
	ck_assert_uint_eq(b.flags, KVB_CQE_GRANT_PENDING);
	core_grant_acked(&f.c, late, 0, true);
	b = core_alloc(&f.c, late, 4, 0, page);
	assert_batch(b, 4, 0);
	ck_assert_uint_eq(b.flags, 0);
	ck_assert_ptr_ne(m, late);
	fixture_end(&f);
}
END_TEST

START_TEST(refused_memory_is_done_without)
{
	kvb_page_t page[8];

	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 1);
	struct core_member *other = fixture_space(&f, fixture_client(&f, 0), STRIDE_8);
	ck_assert_uint_eq(fixture_ns(&f, other->client, 1, 0), 0);
	fixture_seal(&f, m, 7);
	core_grant_sent(&f.c, other, 0);
	core_grant_acked(&f.c, other, 0, false);
	struct core_batch b = core_alloc(&f.c, other, 8, 0, page);
	assert_batch(b, 0, 0);
	ck_assert_uint_eq(b.flags & KVB_CQE_GRANT_PENDING, 0);
	ck_assert_uint_eq(fixture_lookup(&f, other, 0, 7), KVB_PAGE_NONE);
	fixture_end(&f);
}
END_TEST

START_TEST(fault_037_wrong_names_change_nothing)
{
	kvb_page_t page[2];

	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 1);
	struct core_member *other = fixture_space(&f, fixture_client(&f, 0), STRIDE_8);
	fixture_serve(&f);
	fixture_alloc(&f, m, 2, page);
	const kvb_page_t wrong[] = {
		KVB_PAGE_NONE,
		page[0] + (1ull << 32), /* another generation */
		page[0] - (1ull << 32),
		KVB_PAGE(KVB_PAGE_GEN(page[0]), 8),        /* no slab there */
		KVB_PAGE(KVB_PAGE_GEN(page[0]), 1u << 31), /* beyond every slot */
		UINT64_MAX,
	};
	for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		struct kvb_seal seal = { .page = wrong[i], .hash = fixture_hash(1) };
		kvb_page_t ret;
		assert_batch(core_free(&f.c, m, &wrong[i], 1), 0, -ENOENT);
		assert_batch(core_release(&f.c, m, &wrong[i], 1), 0, -ENOENT);
		assert_batch(core_pin(&f.c, m, &wrong[i], 1, true), 0, -ENOENT);
		assert_batch(core_hint(&f.c, m, &wrong[i], 1, 0), 0, -ENOENT);
		assert_batch(core_seal(&f.c, m, 0, 1, 0, &seal, 1, &ret), 0, -ENOENT);
	}
	/* somebody else's page, by its right name */
	assert_batch(core_free(&f.c, other, page, 1), 0, -ENOENT);
	ck_assert_uint_eq(f.c.clients[m->client].held, 2);
	assert_batch(core_free(&f.c, m, page, 2), 2, 0);
	fixture_end(&f);
}
END_TEST

START_TEST(fault_039_free_twice_is_enoent)
{
	kvb_page_t page[3];

	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 1);
	fixture_alloc(&f, m, 3, page);
	kvb_page_t twice[4] = { page[0], page[1], page[0], page[2] };
	assert_batch(core_free(&f.c, m, twice, 4), 2, -ENOENT);
	ck_assert_uint_eq(f.c.clients[m->client].held, 1);
	assert_batch(core_free(&f.c, m, page, 1), 0, -ENOENT);
	fixture_end(&f);
}
END_TEST

START_TEST(generation_is_never_zero)
{
	kvb_page_t page;

	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 1);
	fixture_alloc(&f, m, 1, &page);
	f.c.pages[f.c.slabs[0].base].gen = UINT32_MAX; /* as after four thousand million uses */
	page = KVB_PAGE(UINT32_MAX, 0);
	assert_batch(core_free(&f.c, m, &page, 1), 1, 0);
	fixture_alloc(&f, m, 1, &page);
	ck_assert_uint_eq(KVB_PAGE_GEN(page), 1);
	fixture_end(&f);
}
END_TEST

START_TEST(generation_is_never_zero_in_a_new_slab)
{
	kvb_page_t page;

	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 0);
	f.c.h->gen_floor = UINT32_MAX;
	fixture_grow(&f, m, 1);
	fixture_alloc(&f, m, 1, &page);
	ck_assert_uint_ne(KVB_PAGE_GEN(page), 0);
	fixture_end(&f);
}
END_TEST

START_TEST(names_of_a_closed_slab_never_fit_again)
{
	kvb_page_t old[8], new[8];
	uint32_t busy;

	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 1);
	fixture_alloc(&f, m, 8, old);
	assert_batch(core_free(&f.c, m, old, 8), 8, 0);
	ck_assert_int_eq(core_space_shrink(&f.c, m->space, 1, 0), 1);
	ck_assert_int_eq(core_reclaim_ack(&f.c, m, 0, &busy), 0);
	fixture_settle(&f);
	fixture_grow(&f, m, 1);
	fixture_alloc(&f, m, 8, new);
	for (unsigned i = 0; i < 8; i++) {
		ck_assert_uint_eq(KVB_PAGE_ID(new[i]), KVB_PAGE_ID(old[i]));
		assert_batch(core_free(&f.c, m, &old[i], 1), 0, -ENOENT);
	}
	fixture_end(&f);
}
END_TEST

START_TEST(operator_evicts_only_what_nobody_uses)
{
	kvb_page_t page, held;

	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 1);
	page = fixture_seal(&f, m, 5);
	struct kvb_hash hash = fixture_hash(5);
	uint32_t at = core_page_find(&f.c, m->space, 0, 0, &hash);
	ck_assert_uint_ne(at, CORE_NONE);
	ck_assert_uint_eq(core_page_name(&f.c, at), page);
	ck_assert_int_eq(core_page_evict(&f.c, at), -EBUSY); /* leased */
	ck_assert_int_eq(fixture_release(&f, m, page), 0);
	ck_assert_int_eq(core_page_pin(&f.c, at, true), 0);
	ck_assert_int_eq(core_page_evict(&f.c, at), -EBUSY); /* pinned */
	ck_assert_int_eq(core_page_pin(&f.c, at, false), 0);
	ck_assert_int_eq(core_page_evict(&f.c, at), 0);
	ck_assert_uint_eq(core_page_find(&f.c, m->space, 0, 0, &hash), CORE_NONE);
	ck_assert_int_eq(core_page_evict(&f.c, at), -EBUSY); /* free */
	ck_assert_int_eq(core_page_pin(&f.c, at, true), -ENOENT);
	fixture_alloc(&f, m, 1, &held);
	ck_assert_int_eq(core_page_evict(&f.c, at), -EBUSY); /* held */
	fixture_end(&f);
}
END_TEST

START_TEST(fault_053_allocate_and_free_does_not_drift)
{
	kvb_page_t page[16];

	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 2);
	for (unsigned i = 0; i < 100000; i++) {
		struct core_batch b = core_alloc(&f.c, m, 16, i & KVB_ALLOC_MAGAZINE, page);
		ck_assert_uint_eq(b.done, 16);
		b = core_free(&f.c, m, page, 16);
		ck_assert_uint_eq(b.done, 16);
	}
	ck_assert_uint_eq(f.c.clients[m->client].held, 0);
	ck_assert_uint_eq(m->magazine, 0);
	ck_assert_uint_eq(f.c.tenants[0].pages_held, 0);
	fixture_end(&f);
}
END_TEST

START_TEST(short_alloc_calls_idle_magazines_back)
{
	kvb_page_t page[8];

	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 1);
	struct core_member *other = fixture_space(&f, fixture_client(&f, 0), STRIDE_8);
	fixture_serve(&f);
	assert_batch(core_alloc(&f.c, other, 8, KVB_ALLOC_MAGAZINE, page), 8, 0);
	ck_assert_uint_eq(other->magazine, 8);
	ck_assert_ptr_null(core_next_member(&f.c));
	assert_batch(core_alloc(&f.c, m, 1, 0, page), 0, 0);
	ck_assert_ptr_eq(core_next_member(&f.c), other);
	ck_assert_uint_eq(other->recall, 1);
	fixture_end(&f);
}
END_TEST

static const struct suite_case cases[] = {
	{ &alloc_gives_lowest_ids_first },
	{ &alloc_is_short_when_all_is_held },
	{ &alloc_stops_at_memory_that_is_not_mapped },
	{ &refused_memory_is_done_without },
	{ &fault_037_wrong_names_change_nothing },
	{ &fault_039_free_twice_is_enoent },
	{ &generation_is_never_zero },
	{ &generation_is_never_zero_in_a_new_slab },
	{ &names_of_a_closed_slab_never_fit_again },
	{ &operator_evicts_only_what_nobody_uses },
	{ &fault_053_allocate_and_free_does_not_drift, 30 },
	{ &short_alloc_calls_idle_magazines_back },
	{ NULL },
};

int main(void)
{
	return suite_run("page", cases);
}
