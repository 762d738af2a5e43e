/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Transfers: their order, their room, and what has become of their pages when they end.
 */

#include "tests/unit/fixture.h"
#include "tests/unit/suite.h"

static struct fixture f;

static struct core_member *start(uint32_t slabs, uint32_t transfers)
{
	struct core_member *m;

	fixture_start_tiers(&f, 8, 8, transfers);
	m = fixture_member(&f, slabs);
	fixture_cache(&f, m, 1);
	fixture_sink(&f, m, 1); /* and the arena has a slab */
	return m;
}

/* A page under key, leased and on its way down. */
static kvb_page_t start_down(struct core_member *m, uint64_t key)
{
	kvb_page_t page = fixture_seal(&f, m, key);
	struct core_batch b = core_store(&f.c, m, &page, 1);

	assert_batch(b, 0, 0);
	ck_assert(b.wait);
	fixture_check(&f);
	return page;
}

START_TEST(up_goes_before_down_and_each_in_order)
{
	struct core_member *m = start(2, 16);
	fixture_cache(&f, m, 2);
	fixture_sink(&f, m, 2);
	start_down(m, 11);
	start_down(m, 12);
	ck_assert_uint_ne(fixture_load(&f, m, 1, NULL), KVB_PAGE_NONE);
	ck_assert_uint_ne(fixture_load(&f, m, 2, NULL), KVB_PAGE_NONE);
	static const uint64_t want[] = { 1, 2, 11, 12 };
	unsigned t[4];
	for (unsigned i = 0; i < 4; i++) {
		t[i] = fixture_take(&f);
		ck_assert_uint_eq(f.c.transfers[t[i]].direction, i < 2 ? CORE_UP : CORE_DOWN);
		ck_assert_uint_eq(f.c.pages[f.c.transfers[t[i]].from].hash.w[1], want[i]);
	}
	ck_assert_uint_eq(core_next_transfer(&f.c, 0), CORE_NONE16);
	for (unsigned i = 4; i-- > 0;) /* they end in any */
		fixture_done(&f, t[i], 0);
	ck_assert_uint_eq(f.c.h->transfers_used, 0);
	fixture_end(&f);
}
END_TEST

START_TEST(no_room_is_waited_for)
{
	struct core_member *m = start(2, 2);
	kvb_page_t page[3], got;
	bool wait;
	page[0] = start_down(m, 11);
	page[1] = start_down(m, 12);
	page[2] = fixture_seal(&f, m, 13);
	struct core_batch b = core_store(&f.c, m, &page[2], 1);
	assert_batch(b, 0, 0);
	ck_assert(b.wait);
	ck_assert_uint_eq(fixture_load(&f, m, 1, &wait), KVB_PAGE_NONE);
	ck_assert(wait);
	fixture_done(&f, fixture_take(&f), 0);
	got = fixture_load(&f, m, 1, &wait);
	ck_assert_uint_ne(got, KVB_PAGE_NONE);
	assert_batch(core_store(&f.c, m, &page[2], 1), 0, 0);
	ck_assert_uint_eq(fixture_move(&f), 2);
	assert_batch(core_store(&f.c, m, &page[2], 1), 0, 0);
	ck_assert_uint_eq(fixture_move(&f), 1);
	assert_batch(core_store(&f.c, m, page, 3), 3, 0);
	fixture_end(&f);
}
END_TEST

/* The last room goes to what makes way for the page: it is given back, not lost. */
START_TEST(room_taken_by_what_makes_way)
{
	struct core_member *m = start(1, 1);
	bool wait;
	fixture_cache_run(&f, m, 10, 8);
	ck_assert_uint_eq(fixture_load(&f, m, 1, &wait), KVB_PAGE_NONE);
	ck_assert(wait);
	ck_assert_uint_eq(fixture_move(&f), 1);
	ck_assert_uint_ne(fixture_load(&f, m, 1, &wait), KVB_PAGE_NONE);
	ck_assert_uint_eq(fixture_move(&f), 1);
	ck_assert_uint_ne(fixture_lookup(&f, m, 0, 1), KVB_PAGE_NONE);
	fixture_end(&f);
}
END_TEST

START_TEST(a_device_that_is_not_ready_fails_what_is_queued)
{
	struct core_member *m = start(2, 16);
	kvb_page_t down = start_down(m, 11), up, flies;
	unsigned t;
	bool failed;
	flies = fixture_load(&f, m, 1, NULL);
	t = fixture_take(&f);
	up = start_down(m, 12);
	core_device_below_ready(&f.c, 0, false);
	fixture_check(&f);
	ck_assert_uint_eq(f.c.h->transfers_used, 1); /* the one given out */
	ck_assert_uint_eq(f.c.h->device[0].transfers_failed, 2);
	ck_assert_uint_eq(core_next_transfer(&f.c, 0), CORE_NONE16);
	assert_batch(core_store(&f.c, m, &down, 1), 0, -ENOSPC);
	fixture_done(&f, t, -EIO);
	ck_assert_uint_eq(core_load_arrived(&f.c, m, &flies, 1, &failed), 0);
	ck_assert(failed);
	core_device_below_ready(&f.c, 0, true);
	assert_batch(core_store(&f.c, m, &up, 1), 0, 0);
	ck_assert_uint_eq(fixture_move(&f), 1);
	assert_batch(core_store(&f.c, m, &up, 1), 1, 0);
	fixture_end(&f);
}
END_TEST

START_TEST(the_epoch_passes_on_the_way_down)
{
	struct core_member *m = start(1, 16);
	kvb_page_t page = start_down(m, 11);
	unsigned t = fixture_take(&f);
	core_ns_bump(&f.c, 0);
	fixture_settle(&f);
	fixture_done(&f, t, 0);
	ck_assert_uint_eq(f.c.h->device[0].demoted, 1); /* key 1 only */
	ck_assert_int_eq(fixture_release(&f, m, page), 0);
	fixture_settle(&f);
	ck_assert_uint_eq(f.c.h->indexed, 0);
	ck_assert_uint_eq(f.c.h->pages_stale, 0);
	/* the same key of the new epoch has nothing below */
	page = fixture_seal(&f, m, 11);
	assert_batch(core_store(&f.c, m, &page, 1), 0, 0);
	ck_assert_uint_eq(fixture_move(&f), 1);
	fixture_end(&f);
}
END_TEST

START_TEST(the_epoch_passes_under_a_page_nobody_leases)
{
	struct core_member *m = start(1, 16);
	kvb_page_t page = start_down(m, 11);
	unsigned t = fixture_take(&f);
	ck_assert_int_eq(fixture_release(&f, m, page), 0);
	core_ns_bump(&f.c, 0);
	fixture_settle(&f); /* the sweep leaves what is busy */
	ck_assert_uint_eq(f.c.h->transfers_used, 1);
	fixture_done(&f, t, 0);
	ck_assert_uint_eq(f.c.h->indexed, 0);
	ck_assert_uint_eq(f.c.h->pages_stale, 0);
	fixture_end(&f);
}
END_TEST

START_TEST(the_slab_above_is_revoked_on_the_way_down)
{
	struct core_member *m = start(1, 16);
	uint32_t busy;
	kvb_page_t page = start_down(m, 11);
	unsigned t = fixture_take(&f);
	ck_assert_int_eq(fixture_release(&f, m, page), 0);
	ck_assert_int_eq(core_space_shrink(&f.c, m->space, 1, 1000000000), 1);
	ck_assert_int_eq(core_reclaim_ack(&f.c, m, 0, &busy), 0);
	fixture_settle(&f);
	ck_assert_uint_eq(f.c.spaces[m->space].slabs, 1); /* I1 */
	fixture_done(&f, t, 0);
	fixture_settle(&f);
	ck_assert_uint_eq(f.c.spaces[m->space].slabs, 0);
	ck_assert_uint_ne(fixture_below(&f, m, 11), CORE_NONE);
	fixture_end(&f);
}
END_TEST

START_TEST(the_slab_above_is_revoked_on_the_way_up)
{
	struct core_member *m = start(1, 16);
	uint32_t busy;
	bool failed;
	kvb_page_t page = fixture_load(&f, m, 1, NULL);
	unsigned t = fixture_take(&f);
	ck_assert_int_eq(core_space_shrink(&f.c, m->space, 1, 0), 1);
	ck_assert_int_eq(core_reclaim_ack(&f.c, m, 0, &busy), -EBUSY);
	ck_assert_uint_eq(busy, 1);
	fixture_settle(&f);
	ck_assert_uint_eq(fixture_load(&f, m, 1, NULL), KVB_PAGE_NONE); /* no second one */
	fixture_done(&f, t, 0);
	ck_assert_uint_eq(core_load_arrived(&f.c, m, &page, 1, &failed), 1);
	ck_assert_int_eq(fixture_release(&f, m, page), 0);
	ck_assert_int_eq(core_reclaim_ack(&f.c, m, 0, &busy), 0);
	fixture_settle(&f);
	ck_assert_uint_eq(f.c.spaces[m->space].slabs, 0);
	ck_assert_uint_ne(fixture_below(&f, m, 1), CORE_NONE);
	fixture_end(&f);
}
END_TEST

START_TEST(the_slab_below_is_revoked_on_the_way_up_and_down)
{
	struct core_member *m = start(1, 16);
	unsigned low = f.c.spaces[m->space].below;
	kvb_page_t page = fixture_load(&f, m, 1, NULL), down;
	unsigned up = fixture_take(&f), t;
	bool failed;
	down = start_down(m, 11);
	t = fixture_take(&f);
	ck_assert_int_eq(core_space_shrink(&f.c, low, 9, 0), 1);
	fixture_settle(&f);
	ck_assert_uint_eq(f.c.spaces[low].slabs, 1); /* I1 */
	fixture_done(&f, t, 0);
	ck_assert_uint_eq(fixture_below(&f, m, 11), CORE_NONE);
	ck_assert(!(f.c.pages[fixture_above(&f, m, 11)].flags & CORE_PAGE_BELOW));
	fixture_settle(&f);
	fixture_done(&f, up, 0);
	fixture_settle(&f);
	ck_assert_uint_eq(core_load_arrived(&f.c, m, &page, 1, &failed), 1);
	ck_assert_uint_eq(f.c.spaces[low].slabs, 0);
	ck_assert_uint_eq(f.c.h->device[1].granted_bytes, 0);
	ck_assert_int_eq(fixture_release(&f, m, down), 0);
	fixture_end(&f);
}
END_TEST

/* A page displaced on its way down leaves no copy under a key that another page has. */
START_TEST(the_page_is_displaced_on_the_way_down)
{
	struct core_member *m = start(1, 16);
	kvb_page_t page = start_down(m, 11), next;
	unsigned t = fixture_take(&f), second;
	assert_batch(core_hint(&f.c, m, &page, 1, KVB_HINT(KVB_PRIO_NORMAL, 1)), 1, 0);
	ck_assert_int_eq(fixture_release(&f, m, page), 0);
	fixture_seconds(&f, 2);
	next = start_down(m, 11); /* past its time: the key is free to be sealed again */
	ck_assert_uint_ne(KVB_PAGE_ID(next), KVB_PAGE_ID(page));
	second = fixture_take(&f);
	fixture_done(&f, second, 0);
	uint32_t low = fixture_below(&f, m, 11);
	fixture_done(&f, t, 0);
	ck_assert_uint_eq(fixture_below(&f, m, 11), low);
	assert_batch(core_store(&f.c, m, &next, 1), 1, 0);
	fixture_end(&f);
}
END_TEST

START_TEST(what_did_not_go_down_stays)
{
	struct core_member *m = start(1, 16);
	kvb_page_t page = start_down(m, 11);
	uint32_t free_below = f.c.spaces[f.c.spaces[m->space].below].pages_free;
	fixture_done(&f, fixture_take(&f), -EIO);
	ck_assert_uint_eq(f.c.spaces[f.c.spaces[m->space].below].pages_free, free_below + 1);
	ck_assert_uint_eq(fixture_below(&f, m, 11), CORE_NONE);
	ck_assert_uint_eq(f.c.h->device[0].transfers_failed, 1);
	assert_batch(core_store(&f.c, m, &page, 1), 0, 0);
	ck_assert_uint_eq(fixture_move(&f), 1);
	assert_batch(core_store(&f.c, m, &page, 1), 1, 0);
	fixture_end(&f);
}
END_TEST

START_TEST(busy_pages_are_neither_evicted_nor_taken)
{
	struct core_member *m = start(1, 16);
	kvb_page_t page = start_down(m, 11), got[8];
	unsigned t = fixture_take(&f);
	uint32_t from = f.c.transfers[t].from, to = f.c.transfers[t].to;
	uint32_t gen = f.c.pages[from].gen;
	ck_assert_int_eq(fixture_release(&f, m, page), 0);
	ck_assert_int_eq(core_page_evict(&f.c, from), -EBUSY);
	ck_assert_int_eq(core_page_evict(&f.c, to), -EBUSY);
	assert_batch(core_alloc(&f.c, m, 8, KVB_ALLOC_DROP, got), 7, 0);
	fixture_check(&f);
	ck_assert_uint_eq(f.c.pages[from].gen, gen);
	fixture_done(&f, t, 0);
	assert_batch(core_alloc(&f.c, m, 1, 0, got), 1, 0);
	ck_assert_uint_ne(f.c.pages[from].gen, gen);
	fixture_end(&f);
}
END_TEST

START_TEST(a_revoked_slab_is_written_down_first)
{
	struct core_member *m = start(2, 4);
	uint32_t busy;
	fixture_cache_run(&f, m, 10, 8);
	ck_assert_int_eq(core_space_shrink(&f.c, m->space, 1, 1000000000), 1);
	for (unsigned turn = 0; turn < 10; turn++) {
		while (core_work(&f.c, 100))
			;
		fixture_check(&f);
		fixture_move(&f);
	}
	for (unsigned slot = 0; slot < 2; slot++)
		(void)core_reclaim_ack(&f.c, m, slot, &busy);
	fixture_settle(&f);
	ck_assert_uint_eq(f.c.spaces[m->space].slabs, 1);
	for (uint64_t key = 10; key < 18; key++)
		ck_assert_msg(fixture_above(&f, m, key) != CORE_NONE ||
				      fixture_below(&f, m, key) != CORE_NONE,
			      "key %llu is lost", (unsigned long long)key);
	fixture_end(&f);
}
END_TEST

START_TEST(a_revoked_slab_past_its_deadline_is_not)
{
	struct core_member *m = start(1, 4);
	fixture_cache_run(&f, m, 10, 8);
	ck_assert_int_eq(core_space_shrink(&f.c, m->space, 1, 0), 1);
	while (core_work(&f.c, 100))
		;
	ck_assert_uint_eq(f.c.h->transfers_used, 0);
	ck_assert_uint_eq(f.c.h->slabs_undrained, 0);
	fixture_end(&f);
}
END_TEST

/* Nothing more is read from it, however much time there is; other slabs are left alone. */
START_TEST(fault_083_a_slab_of_bad_memory_is_retired_on_the_way_down)
{
	struct core_member *m = start(2, 16);
	uint32_t busy;
	fixture_cache_run(&f, m, 10, 6);
	kvb_page_t page = start_down(m, 20);
	unsigned t = fixture_take(&f);
	unsigned bad = f.c.units[f.c.transfers[t].from / CORE_UNIT_PAGES];
	fixture_done(&f, t, -EHWPOISON);
	ck_assert_int_eq(f.c.slabs[bad].state, CORE_SLAB_DRAINING);
	ck_assert_uint_eq(f.c.h->device[0].retired, 1);
	while (core_work(&f.c, 100))
		;
	ck_assert_uint_eq(f.c.h->slabs_undrained, 0);
	for (unsigned i = 0; i < f.c.h->limits.transfers; i++) {
		const struct core_transfer *x = &f.c.transfers[i];

		ck_assert(x->state == CORE_TRANSFER_FREE || x->direction != CORE_DOWN ||
			  f.c.units[x->from / CORE_UNIT_PAGES] != bad);
	}
	ck_assert_int_eq(fixture_release(&f, m, page), 0);
	ck_assert_int_eq(core_reclaim_ack(&f.c, m, f.c.slabs[bad].slot, &busy), 0);
	fixture_settle(&f);
	ck_assert_uint_eq(f.c.spaces[m->space].slabs, 1);
	/* another in its place is as good as any */
	fixture_grow(&f, m, 1);
	ck_assert_uint_eq(f.c.spaces[m->space].slabs, 2);
	ck_assert_uint_eq(f.c.h->device[0].retired, 1);
	fixture_end(&f);
}
END_TEST

START_TEST(fault_083_a_slab_of_bad_memory_is_retired_on_the_way_up)
{
	struct core_member *m = start(1, 16);
	bool failed;
	kvb_page_t page = fixture_load(&f, m, 1, NULL);
	unsigned t = fixture_take(&f);
	fixture_done(&f, t, -EHWPOISON);
	ck_assert_uint_eq(core_load_arrived(&f.c, m, &page, 1, &failed), 0);
	ck_assert(failed);
	ck_assert_uint_eq(f.c.h->device[0].retired, 1);
	ck_assert_uint_eq(f.c.h->slabs_draining, 1);
	ck_assert_uint_ne(fixture_below(&f, m, 1), CORE_NONE); /* the copy is as good as before */
	ck_assert_int_eq(fixture_release(&f, m, page), 0);
	fixture_end(&f);
}
END_TEST

/* What waits for transfers does not keep the daemon busy. */
START_TEST(draining_without_room_is_dry)
{
	struct core_member *m = start(1, 1);
	unsigned turns = 0;
	fixture_cache_run(&f, m, 10, 8);
	ck_assert_int_eq(core_space_shrink(&f.c, m->space, 1, 1000000000), 1);
	while (core_work(&f.c, 100))
		ck_assert_uint_lt(++turns, 10);
	ck_assert_uint_eq(f.c.h->slabs_undrained, 1);
	for (turns = 0; f.c.h->slabs_undrained; turns++) {
		ck_assert_uint_lt(turns, 20);
		fixture_move(&f);
		while (core_work(&f.c, 100))
			;
	}
	fixture_end(&f);
}
END_TEST

static const struct suite_case cases[] = {
	{ &up_goes_before_down_and_each_in_order },
	{ &no_room_is_waited_for },
	{ &room_taken_by_what_makes_way },
	{ &a_device_that_is_not_ready_fails_what_is_queued },
	{ &the_epoch_passes_on_the_way_down },
	{ &the_epoch_passes_under_a_page_nobody_leases },
	{ &the_slab_above_is_revoked_on_the_way_down },
	{ &the_slab_above_is_revoked_on_the_way_up },
	{ &the_slab_below_is_revoked_on_the_way_up_and_down },
	{ &the_page_is_displaced_on_the_way_down },
	{ &what_did_not_go_down_stays },
	{ &busy_pages_are_neither_evicted_nor_taken },
	{ &a_revoked_slab_is_written_down_first },
	{ &a_revoked_slab_past_its_deadline_is_not },
	{ &draining_without_room_is_dry },
	{ &fault_083_a_slab_of_bad_memory_is_retired_on_the_way_down },
	{ &fault_083_a_slab_of_bad_memory_is_retired_on_the_way_up },
	{ NULL },
};

int main(void)
{
	return suite_run("transfer", cases);
}
