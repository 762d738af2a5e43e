/* SPDX-License-Identifier: Apache-2.0 */

/*
 * LOAD, PREFETCH, STORE and LOOKUP with tiers: what comes up, for whom, and what becomes of it when
 * something happens on its way.
 */

#include "tests/unit/fixture.h"
#include "tests/unit/suite.h"

static struct fixture f;

/* A member with `slabs` slabs of eight pages, and key 1 below only. */
static struct core_member *start_sunk(uint32_t slabs)
{
	struct core_member *m;

	fixture_start_tiers(&f, 8, 8, 16);
	m = fixture_member(&f, slabs);
	fixture_cache(&f, m, 1);
	fixture_sink(&f, m, 1);
	return m;
}

/* Another client of the same space. */
static struct core_member *join(void)
{
	unsigned client = fixture_client(&f, 0);
	struct core_member *m = fixture_space(&f, client, STRIDE_8);

	ck_assert_uint_eq(fixture_ns(&f, client, 1, KVB_NS_ADMIN), 0);
	fixture_serve(&f);
	return m;
}

START_TEST(load_brings_up_and_waits)
{
	struct core_member *m = start_sunk(1);
	kvb_page_t page = fixture_load(&f, m, 1, NULL);
	ck_assert_uint_ne(page, KVB_PAGE_NONE);
	ck_assert_int_eq(fixture_arrived(&f, m, page), 0);
	ck_assert_uint_eq(m->leases, 1);
	unsigned t = fixture_take(&f);
	ck_assert_int_eq(fixture_arrived(&f, m, page), 0);
	fixture_done(&f, t, 0);
	ck_assert_int_eq(fixture_arrived(&f, m, page), 1);
	ck_assert_uint_eq(fixture_lookup(&f, m, 0, 1), page);
	ck_assert_uint_eq(f.c.h->device[0].promoted, 1);
	ck_assert_uint_eq(f.c.h->device[0].promoted_bytes, STRIDE_8);
	ck_assert_int_eq(fixture_release(&f, m, page), 0);
	ck_assert_int_eq(fixture_release(&f, m, page), 0);
	ck_assert_int_eq(fixture_release(&f, m, page), -ENOENT);
	fixture_end(&f);
}
END_TEST

START_TEST(load_of_what_is_here_is_a_lookup)
{
	struct core_member *m = start_sunk(1);
	struct core_lookup lk = { .ns = 0 };
	struct kvb_hash hash[3] = { fixture_hash(2), fixture_hash(1), fixture_hash(9) };
	kvb_page_t ret[3];
	fixture_cache(&f, m, 2);
	assert_batch(core_load(&f.c, m, &lk, hash, 3, ret), 2, 0);
	ck_assert_uint_eq(lk.lead, 1); /* of them from below */
	ck_assert_int_eq(fixture_arrived(&f, m, ret[0]), 1);
	ck_assert_int_eq(fixture_arrived(&f, m, ret[1]), 0);
	fixture_end(&f);
}
END_TEST

START_TEST(lookup_does_not_see_what_is_arriving)
{
	struct core_member *m = start_sunk(1);
	kvb_page_t page = fixture_load(&f, m, 1, NULL);
	ck_assert_uint_eq(fixture_lookup(&f, m, 0, 1), KVB_PAGE_NONE);
	ck_assert_uint_eq(fixture_above(&f, m, 1), CORE_NONE);
	fixture_move(&f);
	ck_assert_uint_eq(fixture_lookup(&f, m, 0, 1), page);
	fixture_end(&f);
}
END_TEST

START_TEST(a_second_load_joins_the_first)
{
	struct core_member *m = start_sunk(1), *other = join();
	kvb_page_t page = fixture_load(&f, m, 1, NULL);
	ck_assert_uint_eq(fixture_load(&f, other, 1, NULL), page);
	ck_assert_uint_eq(fixture_load(&f, m, 1, NULL), page);
	ck_assert_uint_eq(f.c.h->transfers_used, 1);
	ck_assert_uint_eq(f.c.pages[fixture_record(&f, m, page)].leases, 2);
	fixture_move(&f);
	ck_assert_int_eq(fixture_arrived(&f, other, page), 1);
	fixture_end(&f);
}
END_TEST

START_TEST(released_while_arriving_it_is_a_candidate_in_the_end)
{
	struct core_member *m = start_sunk(1);
	kvb_page_t page = fixture_load(&f, m, 1, NULL);
	ck_assert_int_eq(fixture_release(&f, m, page), 0);
	fixture_check(&f);
	ck_assert_int_eq(core_page_evict(&f.c, fixture_record(&f, m, page)), -EBUSY);
	ck_assert_int_eq(core_page_pin(&f.c, fixture_record(&f, m, page), true), -ENOENT);
	fixture_move(&f);
	ck_assert(f.c.pages[fixture_record(&f, m, page)].flags & CORE_PAGE_LISTED);
	ck_assert_uint_eq(fixture_lookup(&f, m, 0, 1), page);
	fixture_end(&f);
}
END_TEST

START_TEST(pinned_and_hinted_while_arriving)
{
	struct core_member *m = start_sunk(1);
	kvb_page_t page = fixture_load(&f, m, 1, NULL);
	assert_batch(core_pin(&f.c, m, &page, 1, true), 1, 0);
	assert_batch(core_hint(&f.c, m, &page, 1, KVB_HINT(KVB_PRIO_LOW, 5)), 1, 0);
	ck_assert_int_eq(fixture_release(&f, m, page), 0);
	fixture_move(&f);
	ck_assert_int_eq(fixture_arrived(&f, m, page), 1);
	ck_assert_uint_eq(m->leases, 1);
	assert_batch(core_pin(&f.c, m, &page, 1, false), 1, 0);
	ck_assert_uint_eq(m->leases, 0);
	fixture_end(&f);
}
END_TEST

START_TEST(the_client_dies_while_arriving)
{
	struct core_member *m = start_sunk(1), *other = join();
	unsigned client = m->client;
	kvb_page_t page = fixture_load(&f, m, 1, NULL);
	unsigned t = fixture_take(&f);
	core_client_close(&f.c, client);
	while (core_work(&f.c, 100))
		;
	fixture_check(&f);
	ck_assert_uint_eq(f.c.pages[fixture_record(&f, other, page)].state, CORE_PAGE_ARRIVING);
	core_client_dead(&f.c, client);
	while (core_work(&f.c, 100))
		;
	ck_assert_uint_eq(f.c.clients[client].state, CORE_CLIENT_FREE);
	fixture_check(&f);
	ck_assert_uint_eq(fixture_load(&f, other, 1, NULL), page); /* it goes on for others */
	fixture_done(&f, t, 0);
	ck_assert_int_eq(fixture_arrived(&f, other, page), 1);
	fixture_end(&f);
}
END_TEST

START_TEST(the_space_is_not_closed_under_a_load)
{
	struct core_member *m = start_sunk(1);
	kvb_page_t page = fixture_load(&f, m, 1, NULL);
	ck_assert_int_eq(core_space_close(&f.c, m->client, m->handle), -EBUSY);
	ck_assert_int_eq(fixture_release(&f, m, page), 0);
	ck_assert_int_eq(core_space_close(&f.c, m->client, m->handle), 0);
	ck_assert_uint_eq(fixture_move(&f), 1);
	fixture_end(&f);
}
END_TEST

START_TEST(the_last_client_goes_and_the_memory_waits_for_the_transfer)
{
	struct core_member *m = start_sunk(1);
	unsigned client = m->client, space = m->space, low = f.c.spaces[space].below;
	ck_assert_uint_ne(fixture_load(&f, m, 1, NULL), KVB_PAGE_NONE);
	unsigned t = fixture_take(&f);
	core_client_dead(&f.c, client);
	fixture_settle(&f);
	(void)core_space_shrink(&f.c, space, 9, 0);
	(void)core_space_shrink(&f.c, low, 9, 0);
	fixture_settle(&f);
	ck_assert_uint_eq(f.c.spaces[space].slabs, 1); /* I1 */
	ck_assert_uint_eq(f.c.spaces[low].slabs, 1);
	fixture_done(&f, t, 0);
	fixture_settle(&f);
	ck_assert(!f.c.spaces[space].used && !f.c.spaces[low].used);
	ck_assert_uint_eq(f.c.h->device[0].granted_bytes, 0);
	ck_assert_uint_eq(f.c.h->device[1].granted_bytes, 0);
	fixture_end(&f);
}
END_TEST

START_TEST(the_lease_quota_in_the_middle)
{
	fixture_start_tiers(&f, 8, 8, 16);
	struct core_member *m = fixture_member(&f, 1);
	struct kvb_hash hash[4];
	struct core_lookup lk = { .ns = 0 };
	kvb_page_t ret[4];
	for (uint64_t key = 0; key < 4; key++) {
		fixture_cache(&f, m, key);
		fixture_sink(&f, m, key);
		hash[key] = fixture_hash(key);
	}
	f.c.clients[m->client].leases_max = 2;
	assert_batch(core_load(&f.c, m, &lk, hash, 4, ret), 2, -EDQUOT);
	ck_assert_uint_eq(lk.lead, 2);
	fixture_check(&f);
	ck_assert_uint_eq(f.c.h->transfers_used, 2);
	ck_assert_uint_eq(fixture_move(&f), 2);
	lk.lead = 0; /* what arrives for another counts only for who gets a lease on it */
	ck_assert_uint_eq(core_prefetch(&f.c, m, &lk, &hash[2], 1).done, 1);
	lk.lead = 0;
	assert_batch(core_load(&f.c, m, &lk, &hash[2], 1, ret), 0, -EDQUOT);
	ck_assert_uint_eq(lk.lead, 0);
	fixture_end(&f);
}
END_TEST

START_TEST(what_fails_goes_with_its_last_lease)
{
	struct core_member *m = start_sunk(1), *other = join();
	kvb_page_t page = fixture_load(&f, m, 1, NULL);
	ck_assert_uint_eq(fixture_load(&f, other, 1, NULL), page);
	fixture_done(&f, fixture_take(&f), -EIO);
	ck_assert_int_eq(fixture_arrived(&f, m, page), -1);
	ck_assert_int_eq(fixture_arrived(&f, other, page), -1);
	ck_assert_uint_eq(fixture_lookup(&f, m, 0, 1), KVB_PAGE_NONE);
	ck_assert_int_eq(fixture_release(&f, m, page), 0);
	ck_assert_int_eq(fixture_release(&f, other, page), 0);
	ck_assert_uint_eq(f.c.pages[fixture_record(&f, m, page)].state, CORE_PAGE_FREE);
	ck_assert_int_eq(fixture_arrived(&f, m, page), -1);
	/* nothing is known to be wrong with what is below */
	ck_assert_uint_ne(fixture_below(&f, m, 1), CORE_NONE);
	page = fixture_load(&f, m, 1, NULL);
	fixture_move(&f);
	ck_assert_int_eq(fixture_arrived(&f, m, page), 1);
	fixture_end(&f);
}
END_TEST

START_TEST(a_checksum_that_does_not_fit_gives_the_lower_page_up)
{
	struct core_member *m = start_sunk(1);
	kvb_page_t page = fixture_load(&f, m, 1, NULL);
	fixture_done(&f, fixture_take(&f), -EBADMSG);
	ck_assert_int_eq(fixture_arrived(&f, m, page), -1);
	ck_assert_uint_eq(fixture_below(&f, m, 1), CORE_NONE);
	ck_assert_uint_eq(f.c.h->device[0].checksum_misses, 1);
	ck_assert_uint_eq(f.c.h->device[0].transfers_failed, 1);
	ck_assert_int_eq(fixture_release(&f, m, page), 0);
	ck_assert_uint_eq(fixture_load(&f, m, 1, NULL), KVB_PAGE_NONE); /* a miss now */
	fixture_end(&f);
}
END_TEST

/* Nobody is given bytes of a past epoch after the bump, whenever they were asked for. */
START_TEST(a_bump_while_arriving)
{
	struct core_member *m = start_sunk(1);
	kvb_page_t page = fixture_load(&f, m, 1, NULL);
	unsigned t = fixture_take(&f);
	core_ns_bump(&f.c, 0);
	ck_assert_int_eq(fixture_arrived(&f, m, page), -1);
	fixture_settle(&f);
	fixture_done(&f, t, 0);
	ck_assert_int_eq(fixture_arrived(&f, m, page), -1);
	ck_assert_uint_eq(fixture_lookup(&f, m, 0, 1), KVB_PAGE_NONE);
	ck_assert_int_eq(fixture_release(&f, m, page), 0);
	fixture_settle(&f);
	ck_assert_uint_eq(f.c.h->indexed, 0);
	ck_assert_uint_eq(f.c.h->pages_stale, 0);
	fixture_end(&f);
}
END_TEST

START_TEST(a_page_in_memory_not_mapped_yet_is_grant_pending)
{
	struct core_member *m = start_sunk(1);
	unsigned client = fixture_client(&f, 0);
	struct core_member *other = fixture_space(&f, client, STRIDE_8);
	struct core_lookup lk = { .ns = 0 };
	struct kvb_hash hash = fixture_hash(1);
	kvb_page_t ret;
	ck_assert_uint_eq(fixture_ns(&f, client, 1, 0), 0);
	struct core_batch b = core_load(&f.c, other, &lk, &hash, 1, &ret); /* no page for it */
	assert_batch(b, 0, 0);
	ck_assert_uint_ne(fixture_load(&f, m, 1, NULL), KVB_PAGE_NONE);
	b = core_load(&f.c, other, &lk, &hash, 1, &ret);
	assert_batch(b, 0, 0);
	ck_assert(b.flags & KVB_CQE_GRANT_PENDING);
	ck_assert(!b.wait);
	ck_assert_uint_eq(lk.lead, 0);
	fixture_serve(&f);
	assert_batch(core_load(&f.c, other, &lk, &hash, 1, &ret), 1, 0);
	fixture_move(&f);
	fixture_end(&f);
}
END_TEST

START_TEST(seal_of_a_key_that_is_arriving)
{
	struct core_member *m = start_sunk(1), *other = join();
	kvb_page_t page = fixture_load(&f, m, 1, NULL), sealed;
	unsigned t = fixture_take(&f);
	sealed = fixture_seal(&f, other, 1); /* complete now: it has the key */
	fixture_check(&f);
	ck_assert_uint_ne(sealed, page);
	ck_assert_uint_eq(fixture_lookup(&f, other, 0, 1), sealed);
	/* and is written down to the page that is being read */
	assert_batch(core_store(&f.c, other, &sealed, 1), 1, 0);
	fixture_check(&f);
	fixture_done(&f, t, 0);
	ck_assert_int_eq(fixture_arrived(&f, m, page), 1); /* who loads it has the same bytes */
	ck_assert_int_eq(fixture_release(&f, m, page), 0);
	ck_assert_uint_eq(f.c.pages[fixture_record(&f, m, page)].state, CORE_PAGE_FREE);
	fixture_end(&f);
}
END_TEST

START_TEST(seal_of_a_key_that_arrives_broken)
{
	struct core_member *m = start_sunk(1), *other = join();
	kvb_page_t page = fixture_load(&f, m, 1, NULL), sealed;
	unsigned t = fixture_take(&f);
	sealed = fixture_seal(&f, other, 1);
	assert_batch(core_store(&f.c, other, &sealed, 1), 1, 0);
	fixture_done(&f, t, -EBADMSG);
	ck_assert_uint_eq(fixture_below(&f, m, 1), CORE_NONE);
	ck_assert(!(f.c.pages[fixture_record(&f, m, sealed)].flags & CORE_PAGE_BELOW));
	ck_assert_int_eq(fixture_arrived(&f, m, page), -1);
	ck_assert_uint_eq(fixture_lookup(&f, m, 0, 1), sealed);
	fixture_end(&f);
}
END_TEST

START_TEST(lookup_with_tiers_says_where)
{
	struct core_member *m = start_sunk(1);
	struct core_lookup lk = { .ns = 0, .tiers = true };
	struct kvb_hash hash[5] = { fixture_hash(2), fixture_hash(1), fixture_hash(3),
				    fixture_hash(1), fixture_hash(9) };
	kvb_page_t ret[5], here;
	fixture_cache(&f, m, 2);
	here = fixture_seal(&f, m, 3);
	assert_batch(core_lookup(&f.c, m, &lk, hash, 5, ret), 4, 0);
	ck_assert_uint_eq(lk.lead, 1);
	ck_assert_uint_eq(KVB_PAGE_TIER(ret[0]), KVB_TIER_DEVICE);
	ck_assert_uint_ne(KVB_PAGE_GEN(ret[0]), 0);
	ck_assert_uint_eq(ret[1], KVB_PAGE_IN(KVB_TIER_HOST));
	ck_assert_uint_eq(ret[2], KVB_PAGE_IN(KVB_TIER_DEVICE));
	ck_assert_uint_eq(ret[3], KVB_PAGE_IN(KVB_TIER_HOST));
	ck_assert_uint_eq(m->leases, 2); /* the first, and the one sealed */
	ck_assert_int_eq(fixture_release(&f, m, here), 0);
	/* what is on its way is as good as here; without a mover nothing is below */
	ck_assert_uint_ne(fixture_load(&f, m, 1, NULL), KVB_PAGE_NONE);
	lk = (struct core_lookup){ .ns = 0, .tiers = true };
	assert_batch(core_lookup(&f.c, m, &lk, &hash[1], 1, ret), 1, 0);
	ck_assert_uint_eq(ret[0], KVB_PAGE_IN(KVB_TIER_DEVICE));
	ck_assert_uint_eq(lk.lead, 0);
	fixture_move(&f);
	fixture_end(&f);
}
END_TEST

START_TEST(without_a_mover_what_is_below_is_a_miss)
{
	struct core_member *m = start_sunk(1);
	struct core_lookup lk = { .ns = 0, .tiers = true };
	struct kvb_hash hash = fixture_hash(1);
	kvb_page_t ret;
	core_device_below_ready(&f.c, 0, false);
	assert_batch(core_lookup(&f.c, m, &lk, &hash, 1, &ret), 0, 0);
	ck_assert_uint_eq(fixture_load(&f, m, 1, NULL), KVB_PAGE_NONE);
	core_device_below_ready(&f.c, 0, true);
	lk.broken = false;
	assert_batch(core_lookup(&f.c, m, &lk, &hash, 1, &ret), 1, 0);
	fixture_end(&f);
}
END_TEST

/* A time that was set above holds below as well. */
START_TEST(what_is_past_its_time_is_a_miss_in_every_tier)
{
	struct core_member *m = start_sunk(1);
	struct core_lookup lk = { .ns = 0, .tiers = true };
	struct kvb_hash hash = fixture_hash(1);
	kvb_page_t page = fixture_load(&f, m, 1, NULL), ret;
	fixture_move(&f);
	assert_batch(core_hint(&f.c, m, &page, 1, KVB_HINT(KVB_PRIO_NORMAL, 2)), 1, 0);
	ck_assert_int_eq(fixture_release(&f, m, page), 0);
	fixture_seconds(&f, 3);
	assert_batch(core_lookup(&f.c, m, &lk, &hash, 1, &ret), 0, 0);
	ck_assert_uint_eq(fixture_load(&f, m, 1, NULL), KVB_PAGE_NONE);
	ck_assert_uint_eq(fixture_load(&f, m, 1, NULL), KVB_PAGE_NONE);
	fixture_end(&f);
}
END_TEST

START_TEST(prefetch_leases_nothing)
{
	struct core_member *m = start_sunk(1);
	struct core_lookup lk = { .ns = 0 };
	struct kvb_hash hash[2] = { fixture_hash(1), fixture_hash(2) };
	assert_batch(core_prefetch(&f.c, m, &lk, hash, 2), 1, 0);
	fixture_check(&f);
	ck_assert_uint_eq(m->leases, 0);
	assert_batch(core_prefetch(&f.c, m, &lk, hash, 2), 1, 0);
	ck_assert_uint_eq(fixture_move(&f), 1);
	ck_assert_uint_ne(fixture_lookup(&f, m, 0, 1), KVB_PAGE_NONE);
	fixture_end(&f);
}
END_TEST

START_TEST(a_load_into_a_full_space_waits_for_what_goes_down)
{
	struct core_member *m = start_sunk(1);
	kvb_page_t page = KVB_PAGE_NONE;
	bool wait;
	fixture_cache_run(&f, m, 10, 8);
	for (unsigned turn = 0; turn < 5 && !page; turn++) {
		page = fixture_load(&f, m, 1, &wait);
		ck_assert(page || wait);
		if (!page)
			ck_assert_uint_eq(fixture_move(&f), 1);
	}
	ck_assert_uint_ne(page, KVB_PAGE_NONE);
	fixture_move(&f);
	ck_assert_int_eq(fixture_arrived(&f, m, page), 1);
	ck_assert_uint_eq(fixture_above(&f, m, 10), CORE_NONE);
	ck_assert_uint_ne(fixture_below(&f, m, 10), CORE_NONE);
	fixture_end(&f);
}
END_TEST

/* Making room for its end does not cost a run its start, which may be the coldest there is. */
START_TEST(a_load_keeps_what_it_finds)
{
	struct core_member *m = start_sunk(1);
	struct kvb_hash hash[3] = { fixture_hash(10), fixture_hash(11), fixture_hash(1) };
	kvb_page_t ret[3];
	uint32_t done = 0;
	fixture_cache_run(&f, m, 10, 8);
	for (unsigned turn = 0; turn < 5 && done < 3; turn++) {
		struct core_lookup lk = { .ns = 0 };
		struct core_batch b = core_prefetch(&f.c, m, &lk, hash, 3);
		fixture_check(&f);
		ck_assert_uint_ge(b.done, 2);
		ck_assert(b.done == 3 || b.wait);
		done = b.done;
		fixture_move(&f);
	}
	struct core_lookup lk = { .ns = 0 };
	assert_batch(core_load(&f.c, m, &lk, hash, 3, ret), 3, 0);
	ck_assert_uint_eq(lk.lead, 0);
	ck_assert_uint_eq(fixture_above(&f, m, 12), CORE_NONE);
	fixture_end(&f);
}
END_TEST

START_TEST(a_key_twice_in_a_load)
{
	struct core_member *m = start_sunk(1);
	struct core_lookup lk = { .ns = 0 };
	struct kvb_hash hash[4] = { fixture_hash(1), fixture_hash(1), fixture_hash(2),
				    fixture_hash(1) };
	kvb_page_t ret[4];
	fixture_cache(&f, m, 2);
	fixture_sink(&f, m, 2);
	assert_batch(core_load(&f.c, m, &lk, hash, 4, ret), 4, 0);
	fixture_check(&f);
	ck_assert_uint_eq(ret[0], ret[1]);
	ck_assert_uint_eq(ret[0], ret[3]);
	ck_assert_uint_eq(m->leases, 2);
	ck_assert_uint_eq(f.c.h->transfers_used, 2);
	fixture_move(&f);
	fixture_end(&f);
}
END_TEST

/* What a batch may look at for room has a bound, however many keys it has. */
START_TEST(a_load_that_can_reach_nothing_ends_soon)
{
	struct core_limits limits = { .pages = 8192,
				      .slabs = 64,
				      .spaces = 4,
				      .clients = 4,
				      .members = 8,
				      .tenants = 2,
				      .namespaces = 2,
				      .transfers = 64 };
	struct kvb_hash hash[64];
	kvb_page_t ret[64];
	fixture_start(&f, &limits, 8);
	ck_assert_int_eq(core_arena_add(&f.c, 0, 8 * HANDLE_BYTES, HANDLE_BYTES), 1);
	core_device_below(&f.c, 0, 1);
	core_device_below_ready(&f.c, 0, true);
	unsigned client = fixture_client(&f, fixture_tenant(&f, "t", 0, UINT64_MAX));
	struct core_member *m = fixture_space(&f, client, 4096); /* 512 pages a slab */
	ck_assert_uint_eq(fixture_ns(&f, client, 1, KVB_NS_ADMIN), 0);
	fixture_grow(&f, m, 1);
	for (uint64_t key = 0; key < 64; key++) {
		hash[key] = fixture_hash(key);
		fixture_cache(&f, m, key);
		fixture_sink(&f, m, key);
	}
	fixture_grow(&f, m, 7);
	fixture_cache_run(&f, m, 1000, 8 * 512);
	memset(m->acked, 0, sizeof(m->acked)); /* it could map none of them */
	memcpy(m->refused, m->sent, sizeof(m->refused));
	for (unsigned turn = 0; turn < 20; turn++) {
		struct core_lookup lk = { .ns = 0 };
		struct core_batch b = core_load(&f.c, m, &lk, hash, 64, ret);
		ck_assert_uint_eq(b.done, 0);
		ck_assert_uint_le(b.work, 4096);
		fixture_move(&f);
	}
	fixture_end(&f);
}
END_TEST

/* However much one tenant brings up, another one's copies find room at once, in both directions. */
START_TEST(a_tenant_leaves_room_for_the_copies_of_others)
{
	struct core_lookup lk = { .ns = 0 };
	struct core_member *m[2];
	struct kvb_hash hash[16];
	fixture_start_tiers(&f, 16, 16, 16);
	for (unsigned i = 0; i < 2; i++) {
		unsigned client =
			fixture_client(&f, fixture_tenant(&f, i ? "b" : "a", 0, UINT64_MAX));
		m[i] = fixture_space(&f, client, STRIDE_8);
		ck_assert_uint_eq(fixture_ns(&f, client, 1, KVB_NS_ADMIN), i);
		fixture_grow(&f, m[i], 4);
	}
	for (uint64_t key = 0; key < 16; key++) {
		hash[key] = fixture_hash(key);
		fixture_cache(&f, m[0], key);
		fixture_sink(&f, m[0], key);
	}
	fixture_cache(&f, m[1], 100);
	fixture_sink(&f, m[1], 100);
	kvb_page_t page = fixture_seal(&f, m[1], 101);
	assert_batch(core_prefetch(&f.c, m[0], &lk, hash, 16), 8, 0);
	ck_assert_uint_eq(f.c.h->transfers_used, 8);
	ck_assert_uint_ne(fixture_load(&f, m[1], 100, NULL), KVB_PAGE_NONE);
	ck_assert(core_store(&f.c, m[1], &page, 1).wait);
	ck_assert_uint_eq(f.c.h->transfers_used, 10);
	/* more of the first, when some of its own are done */
	for (unsigned i = 0; i < 4; i++)
		fixture_done(&f, fixture_take(&f), 0);
	ck_assert_uint_eq(core_prefetch(&f.c, m[0], &lk, hash, 16).done, 11);
	ck_assert_uint_eq(f.c.h->transfers_used, 9);
	fixture_move(&f);
	assert_batch(core_prefetch(&f.c, m[0], &lk, hash, 16), 16, 0);
	fixture_end(&f);
}
END_TEST

START_TEST(a_load_with_every_page_in_use_ends)
{
	struct core_member *m = start_sunk(1);
	kvb_page_t page[8];
	bool wait;
	fixture_alloc(&f, m, 8, page);
	ck_assert_uint_eq(fixture_load(&f, m, 1, &wait), KVB_PAGE_NONE);
	ck_assert(!wait);
	ck_assert_uint_eq(fixture_below(&f, m, 1) == CORE_NONE, 0);
	fixture_end(&f);
}
END_TEST

START_TEST(store_counts_what_has_a_copy)
{
	fixture_start_tiers(&f, 8, 8, 16);
	struct core_member *m = fixture_member(&f, 1);
	kvb_page_t page[3];
	for (unsigned i = 0; i < 3; i++)
		page[i] = fixture_seal(&f, m, i);
	struct core_batch b = core_store(&f.c, m, page, 3);
	assert_batch(b, 0, 0); /* the slab below has to be made */
	ck_assert(b.wait);
	fixture_serve(&f);
	b = core_store(&f.c, m, page, 3);
	assert_batch(b, 0, 0);
	ck_assert(b.wait);
	ck_assert_uint_eq(f.c.h->transfers_used, 3);
	fixture_done(&f, fixture_take(&f), 0);
	assert_batch(core_store(&f.c, m, page, 3), 1, 0);
	fixture_move(&f);
	b = core_store(&f.c, m, page, 3);
	assert_batch(b, 3, 0);
	ck_assert(!b.wait);
	ck_assert_uint_eq(f.c.h->device[0].demoted, 3);
	core_ns_bump(&f.c, 0);
	assert_batch(core_release(&f.c, m, page, 2), 2, 0);
	assert_batch(core_store(&f.c, m, page, 1), 0, -ENOENT);
	fixture_end(&f);
}
END_TEST

START_TEST(store_refuses_what_it_cannot_write)
{
	struct core_member *m = start_sunk(1);
	kvb_page_t page = fixture_load(&f, m, 1, NULL), other;
	struct core_batch b = core_store(&f.c, m, &page, 1); /* still arriving */
	assert_batch(b, 0, 0);
	ck_assert(b.wait);
	fixture_done(&f, fixture_take(&f), -EIO);
	assert_batch(core_store(&f.c, m, &page, 1), 0, -ESTALE); /* failed */
	other = fixture_seal(&f, m, 2);
	core_device_below_ready(&f.c, 0, false);
	assert_batch(core_store(&f.c, m, &other, 1), 0, -ENOSPC);
	core_device_below_ready(&f.c, 0, true);
	core_ns_bump(&f.c, 0);
	assert_batch(core_store(&f.c, m, &other, 1), 0, -ESTALE);
	other = KVB_PAGE(1, UINT32_MAX);
	assert_batch(core_store(&f.c, m, &other, 1), 0, -ENOENT);
	fixture_end(&f);
}
END_TEST

static const struct suite_case cases[] = {
	{ &load_brings_up_and_waits },
	{ &load_of_what_is_here_is_a_lookup },
	{ &lookup_does_not_see_what_is_arriving },
	{ &a_second_load_joins_the_first },
	{ &released_while_arriving_it_is_a_candidate_in_the_end },
	{ &pinned_and_hinted_while_arriving },
	{ &the_client_dies_while_arriving },
	{ &the_space_is_not_closed_under_a_load },
	{ &the_last_client_goes_and_the_memory_waits_for_the_transfer },
	{ &the_lease_quota_in_the_middle },
	{ &what_fails_goes_with_its_last_lease },
	{ &a_checksum_that_does_not_fit_gives_the_lower_page_up },
	{ &a_bump_while_arriving },
	{ &a_page_in_memory_not_mapped_yet_is_grant_pending },
	{ &seal_of_a_key_that_is_arriving },
	{ &seal_of_a_key_that_arrives_broken },
	{ &lookup_with_tiers_says_where },
	{ &without_a_mover_what_is_below_is_a_miss },
	{ &what_is_past_its_time_is_a_miss_in_every_tier },
	{ &prefetch_leases_nothing },
	{ &a_load_into_a_full_space_waits_for_what_goes_down },
	{ &a_load_keeps_what_it_finds },
	{ &a_key_twice_in_a_load },
	{ &a_load_that_can_reach_nothing_ends_soon },
	{ &a_tenant_leaves_room_for_the_copies_of_others },
	{ &a_load_with_every_page_in_use_ends },
	{ &store_counts_what_has_a_copy },
	{ &store_refuses_what_it_cannot_write },
	{ NULL },
};

int main(void)
{
	return suite_run("load", cases);
}
