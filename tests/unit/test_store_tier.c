/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The store below host memory: what is written there before it goes, what comes back, and what
 * becomes of it when something happens on its way.
 */

#include "tests/unit/fixture_store.h"
#include "tests/unit/suite.h"

static struct fixture f;
static struct fixture_store store;

/* A member of a space with `slabs` slabs of eight pages. */
static struct core_member *start(uint32_t slabs, uint32_t transfers)
{
	return fixture_store_host(&store, &f, slabs, transfers);
}

static unsigned take(void)
{
	return fixture_store_take(&store);
}

static void done(unsigned transfer, int error)
{
	fixture_store_done(&store, transfer, error);
}

/* ---- what goes ------------------------------------------------------------------------------- */

START_TEST(what_goes_is_written_first_and_waited_for)
{
	struct core_member *m = start(1, 16);
	kvb_page_t page[8];
	fixture_cache_run(&f, m, 0, 8);
	struct core_batch b = core_alloc(&f.c, m, 2, 0, page);
	assert_batch(b, 0, 0);
	ck_assert(b.wait);
	fixture_check(&f);
	ck_assert_uint_eq(f.c.h->transfers_used, 2);
	ck_assert_uint_eq(fixture_space_of(&f, m)->falling, 2);
	ck_assert_uint_eq(core_next_transfer(&f.c, 0), CORE_NONE16); /* the mover has no part */
	unsigned t = take();
	ck_assert_uint_eq(fixture_store_key(&store, t), 0);
	ck_assert_int_eq(core_page_evict(&f.c, fixture_above(&f, m, 0)), -EBUSY);
	done(t, 0);
	assert_batch(core_alloc(&f.c, m, 1, 0, page), 1, 0); /* the first at once */
	ck_assert_uint_eq(fixture_above(&f, m, 0), CORE_NONE);
	ck_assert_uint_ne(fixture_above(&f, m, 1), CORE_NONE);
	ck_assert_uint_eq(fixture_store_serve(&store), 1);
	assert_batch(core_alloc(&f.c, m, 1, 0, page), 1, 0);
	ck_assert_uint_eq(f.c.h->n.stored, 2);
	ck_assert_uint_eq(f.c.h->n.stored_bytes, 2 * STRIDE_8);
	ck_assert_uint_eq(f.c.h->device[0].dropped, 0);
	ck_assert_uint_eq(f.c.h->device[0].demoted, 0);
	fixture_end(&f);
}
END_TEST

START_TEST(drop_neither_waits_nor_writes)
{
	struct core_member *m = start(1, 16);
	kvb_page_t page[8];
	fixture_cache_run(&f, m, 0, 8);
	fixture_store_put(&store, 7, 1);
	struct core_batch b = core_alloc(&f.c, m, 8, KVB_ALLOC_DROP, page);
	assert_batch(b, 8, 0);
	ck_assert(!b.wait);
	ck_assert_uint_eq(f.c.h->transfers_used, 0);
	ck_assert_uint_eq(f.c.h->device[0].dropped, 7); /* one was there */
	ck_assert_uint_eq(store.admits, 0);
	fixture_end(&f);
}
END_TEST

/* Nor does it write what was ripe, and whose copy the store has lost since. */
START_TEST(drop_takes_what_is_ripe_as_it_is)
{
	struct core_member *m = start(1, 16);
	kvb_page_t page;
	fixture_cache_run(&f, m, 0, 8);
	ck_assert(core_alloc(&f.c, m, 1, 0, &page).wait);
	ck_assert_uint_eq(fixture_store_serve(&store), 1);
	store.epoch[0] = 0;
	assert_batch(core_alloc(&f.c, m, 1, KVB_ALLOC_DROP, &page), 1, 0);
	ck_assert_uint_eq(f.c.h->transfers_used, 0);
	ck_assert_uint_eq(fixture_above(&f, m, 0), CORE_NONE);
	ck_assert_uint_eq(f.c.h->device[0].dropped, 1);
	fixture_end(&f);
}
END_TEST

START_TEST(what_is_there_is_not_written_again)
{
	struct core_member *m = start(1, 16);
	kvb_page_t page;
	fixture_cache(&f, m, 1);
	fixture_cache_run(&f, m, 2, 7);
	ck_assert(core_alloc(&f.c, m, 1, 0, &page).wait);
	ck_assert_uint_eq(fixture_store_serve(&store), 1);
	fixture_alloc(&f, m, 1, &page);
	assert_batch(core_free(&f.c, m, &page, 1), 1, 0);
	page = fixture_load(&f, m, 1, NULL);
	ck_assert_uint_eq(fixture_store_serve(&store), 1);
	ck_assert_int_eq(fixture_release(&f, m, page), 0);
	fixture_store_put(&store, 2, 7);
	kvb_page_t all[8];
	fixture_alloc(&f, m, 8, all); /* at once */
	ck_assert_uint_eq(f.c.h->transfers_used, 0);
	ck_assert_uint_eq(f.c.h->n.stored, 1);
	ck_assert_uint_eq(f.c.h->device[0].dropped, 0);
	ck_assert_uint_eq(store.admits, 1);
	fixture_end(&f);
}
END_TEST

START_TEST(what_goes_next_is_written_ahead)
{
	struct core_member *m = start(16, 64); /* 128 pages: 8 at hand, up to 16 */
	fixture_cache_run(&f, m, 0, 128);
	kvb_page_t page[8];
	(void)core_alloc(&f.c, m, 0, 0, page); /* looks */
	while (core_work(&f.c, 256))
		;
	fixture_check(&f);
	ck_assert_uint_eq(fixture_store_serve(&store), 16);
	ck_assert_uint_eq(fixture_space_of(&f, m)->ripe, 16);
	for (uint64_t key = 0; key < 16; key++)
		ck_assert_uint_ne(fixture_above(&f, m, key), CORE_NONE);
	fixture_alloc(&f, m, 8, page);
	ck_assert_uint_eq(f.c.h->transfers_used, 0);
	fixture_end(&f);
}
END_TEST

START_TEST(what_admission_refuses_goes_without_a_copy)
{
	struct core_member *m = start(1, 16);
	kvb_page_t page[8];
	fixture_cache_run(&f, m, 0, 8);
	store.refused[0] = store.refused[1] = true;
	fixture_alloc(&f, m, 1, page); /* at once */
	ck_assert_uint_eq(f.c.h->transfers_used, 0);
	ck_assert_uint_eq(f.c.h->n.store_unwanted, 1);
	ck_assert_uint_eq(f.c.h->device[0].dropped, 1);
	ck_assert_uint_eq(fixture_above(&f, m, 0), CORE_NONE);
	ck_assert_uint_eq(store.admits, 1);
	struct core_batch b = core_alloc(&f.c, m, 2, 0, page); /* the next one, and one to write */
	assert_batch(b, 1, 0);
	ck_assert(b.wait);
	ck_assert_uint_eq(fixture_store_key(&store, take()), 2);
	fixture_end(&f);
}
END_TEST

/* Used again, it is another time that it comes to go, and admission may think otherwise. */
START_TEST(admission_is_asked_once_a_time)
{
	struct core_member *m = start(16, 16);
	kvb_page_t page;
	fixture_cache_run(&f, m, 0, 128);
	memset(store.refused, true, sizeof(store.refused));
	(void)core_alloc(&f.c, m, 0, 0, &page);
	while (core_work(&f.c, 256))
		;
	ck_assert_uint_eq(store.admits, 16);
	ck_assert_uint_eq(fixture_space_of(&f, m)->ripe, 16);
	page = fixture_lookup(&f, m, 0, 0);
	ck_assert_int_eq(fixture_release(&f, m, page), 0);
	ck_assert(!(f.c.pages[fixture_above(&f, m, 0)].flags & CORE_PAGE_OFFERED));
	fixture_alloc(&f, m, 1, &page); /* key 1 */
	ck_assert_uint_eq(store.admits, 16);
	ck_assert_uint_ne(fixture_above(&f, m, 0), CORE_NONE);
	ck_assert_uint_eq(fixture_above(&f, m, 1), CORE_NONE);
	fixture_end(&f);
}
END_TEST

/* The store would keep it for longer. */
START_TEST(what_has_a_time_to_live_is_not_written)
{
	struct core_member *m = start(1, 16);
	kvb_page_t page = fixture_seal(&f, m, 0), got;
	assert_batch(core_hint(&f.c, m, &page, 1, KVB_HINT(KVB_PRIO_NORMAL, 9)), 1, 0);
	ck_assert_int_eq(fixture_release(&f, m, page), 0);
	fixture_cache_run(&f, m, 1, 7);
	fixture_alloc(&f, m, 1, &got);
	ck_assert_uint_eq(fixture_above(&f, m, 0), CORE_NONE);
	ck_assert_uint_eq(f.c.h->transfers_used, 0);
	ck_assert_uint_eq(store.admits, 0);
	fixture_end(&f);
}
END_TEST

START_TEST(a_write_that_fails_is_not_tried_again)
{
	struct core_member *m = start(1, 16);
	kvb_page_t page;
	fixture_cache_run(&f, m, 0, 8);
	ck_assert(core_alloc(&f.c, m, 1, 0, &page).wait);
	done(take(), -EIO);
	ck_assert_uint_eq(f.c.h->n.store_refused, 1);
	ck_assert_uint_eq(fixture_lookup(&f, m, 0, 0) == KVB_PAGE_NONE, 0); /* it is still here */
	kvb_page_t again = fixture_lookup(&f, m, 0, 0);
	ck_assert_int_eq(fixture_release(&f, m, again), 0);
	ck_assert_int_eq(fixture_release(&f, m, again),
			 0); /* used: tried when it comes to go again */
	ck_assert(core_alloc(&f.c, m, 1, 0, &page).wait);
	unsigned t = take();
	ck_assert_uint_eq(fixture_store_key(&store, t), 1);
	done(t, -EIO);
	fixture_alloc(&f, m, 1, &page); /* dropped */
	ck_assert_uint_eq(fixture_above(&f, m, 1), CORE_NONE);
	ck_assert_uint_eq(f.c.h->device[0].dropped, 1);
	fixture_end(&f);
}
END_TEST

START_TEST(writes_leave_the_last_quarter_to_reads)
{
	struct core_member *m = start(3, 8);
	kvb_page_t page[16];
	fixture_cache_run(&f, m, 0, 16);
	fixture_alloc(&f, m, 6, page); /* two are free */
	ck_assert(core_alloc(&f.c, m, 16, 0, page).wait);
	ck_assert_uint_eq(f.c.h->transfers_used, 6);
	fixture_check(&f);
	assert_batch(core_free(&f.c, m, page, 2), 2, 0);
	fixture_store_put(&store, 100, 3);
	ck_assert_uint_ne(fixture_load(&f, m, 100, NULL), KVB_PAGE_NONE);
	ck_assert_uint_ne(fixture_load(&f, m, 101, NULL), KVB_PAGE_NONE);
	bool wait;
	ck_assert_uint_eq(fixture_load(&f, m, 102, &wait), KVB_PAGE_NONE);
	ck_assert(wait);
	/* and are given out after them */
	for (uint64_t i = 0; i < 8; i++) {
		unsigned t = take();
		uint64_t key = fixture_store_key(&store, t);
		ck_assert_uint_eq(key, i < 2 ? 100 + i : key);
		ck_assert_uint_eq(f.c.transfers[t].direction, i < 2 ? CORE_UP : CORE_DOWN);
	}
	fixture_check(&f);
	fixture_end(&f);
}
END_TEST

START_TEST(a_bump_under_a_write)
{
	struct core_member *m = start(1, 16);
	kvb_page_t page;
	fixture_cache_run(&f, m, 0, 8);
	ck_assert(core_alloc(&f.c, m, 2, 0, &page).wait);
	unsigned t[2] = { take(), take() };
	core_ns_bump(&f.c, 0);
	fixture_settle(&f);
	ck_assert_uint_eq(fixture_space_of(&f, m)->pages_free, 6); /* I1 */
	core_transfer_done(&f.c, t[0], -ESTALE, 0);
	fixture_check(&f);
	core_transfer_done(&f.c, t[1], 0, 0); /* it came first */
	fixture_check(&f);
	ck_assert_uint_eq(fixture_space_of(&f, m)->pages_free, 8);
	ck_assert_uint_eq(f.c.h->indexed, 0);
	ck_assert_uint_eq(f.c.h->n.store_refused, 1);
	ck_assert_uint_eq(f.c.h->n.stored, 1);
	fixture_end(&f);
}
END_TEST

START_TEST(used_again_while_it_is_written)
{
	struct core_member *m = start(1, 16);
	kvb_page_t page, got;
	fixture_cache_run(&f, m, 0, 8);
	ck_assert(core_alloc(&f.c, m, 1, 0, &page).wait);
	unsigned t = take();
	got = fixture_lookup(&f, m, 0, 0);
	ck_assert_uint_ne(got, KVB_PAGE_NONE);
	done(t, 0);
	ck_assert(
		!(f.c.pages[fixture_record(&f, m, got)].flags & (CORE_PAGE_RIPE | CORE_PAGE_BUSY)));
	ck_assert(core_alloc(&f.c, m, 1, 0, &page).wait); /* key 1 */
	ck_assert_uint_eq(fixture_store_serve(&store), 1);
	fixture_alloc(&f, m, 1, &page);
	ck_assert_uint_eq(fixture_above(&f, m, 1), CORE_NONE);
	ck_assert_int_eq(fixture_release(&f, m, got), 0);
	fixture_end(&f);
}
END_TEST

/* ---- what comes ------------------------------------------------------------------------------ */

START_TEST(lookup_says_what_the_store_has)
{
	struct core_member *m = start(1, 16);
	struct core_lookup lk = { .ns = 0, .tiers = true };
	struct kvb_hash hash[4] = { fixture_hash(1), fixture_hash(2), fixture_hash(3),
				    fixture_hash(4) };
	kvb_page_t ret[4];
	fixture_cache(&f, m, 1);
	fixture_store_put(&store, 2, 1);
	fixture_cache(&f, m, 3);
	assert_batch(core_lookup(&f.c, m, &lk, hash, 4, ret), 3, 0);
	ck_assert_uint_eq(lk.lead, 1);
	ck_assert_uint_eq(ret[1], KVB_PAGE_IN(KVB_TIER_STORE));
	ck_assert_uint_eq(ret[2], KVB_PAGE_IN(KVB_TIER_DEVICE));
	ck_assert_uint_eq(f.c.h->n.lookup_below, 1);
	core_store_detach(&f.c);
	lk = (struct core_lookup){ .ns = 0, .tiers = true };
	assert_batch(core_lookup(&f.c, m, &lk, &hash[1], 3, ret), 0, 0);
	fixture_end(&f);
}
END_TEST

START_TEST(load_fetches_and_waits)
{
	struct core_member *m = start(1, 16);
	fixture_store_put(&store, 1, 1);
	kvb_page_t page = fixture_load(&f, m, 1, NULL);
	ck_assert_uint_ne(page, KVB_PAGE_NONE);
	ck_assert_uint_eq(fixture_load(&f, m, 1, NULL), page); /* joins */
	ck_assert_uint_eq(f.c.h->transfers_used, 1);
	ck_assert_int_eq(fixture_arrived(&f, m, page), 0);
	ck_assert_uint_eq(fixture_lookup(&f, m, 0, 1), KVB_PAGE_NONE);
	ck_assert_uint_eq(core_next_transfer(&f.c, 0), CORE_NONE16);
	unsigned t = take();
	ck_assert_uint_eq(fixture_store_key(&store, t), 1);
	done(t, 0);
	ck_assert_int_eq(fixture_arrived(&f, m, page), 1);
	ck_assert_uint_eq(fixture_lookup(&f, m, 0, 1), page);
	ck_assert_uint_eq(f.c.h->n.fetched, 1);
	ck_assert_uint_eq(f.c.h->n.fetched_bytes, STRIDE_8);
	ck_assert_uint_eq(f.c.h->device[0].promoted, 0);
	fixture_end(&f);
}
END_TEST

START_TEST(prefetch_leases_nothing)
{
	struct core_member *m = start(1, 16);
	struct core_lookup lk = { .ns = 0 };
	struct kvb_hash hash[3] = { fixture_hash(1), fixture_hash(1), fixture_hash(2) };
	fixture_store_put(&store, 1, 1);
	assert_batch(core_prefetch(&f.c, m, &lk, hash, 3), 2, 0); /* a key twice is one page */
	fixture_check(&f);
	ck_assert_uint_eq(m->leases, 0);
	ck_assert_uint_eq(fixture_store_serve(&store), 1);
	ck_assert(f.c.pages[fixture_above(&f, m, 1)].flags & CORE_PAGE_LISTED);
	fixture_end(&f);
}
END_TEST

START_TEST(what_was_lost_meanwhile_is_a_miss)
{
	struct core_member *m = start(1, 16);
	static const int errors[] = { -ENOENT, -EIO, -EBADMSG };
	for (unsigned i = 0; i < 3; i++) {
		fixture_store_put(&store, 1, 1);
		kvb_page_t page = fixture_load(&f, m, 1, NULL);
		store.epoch[1] = 0;
		done(take(), errors[i]);
		ck_assert_int_eq(fixture_arrived(&f, m, page), -1);
		ck_assert_uint_eq(fixture_lookup(&f, m, 0, 1), KVB_PAGE_NONE);
		ck_assert_uint_eq(fixture_load(&f, m, 1, NULL), KVB_PAGE_NONE);
		ck_assert_int_eq(fixture_release(&f, m, page), 0);
		ck_assert_uint_eq(f.c.pages[fixture_record(&f, m, page)].state, CORE_PAGE_FREE);
		ck_assert_uint_eq(f.c.h->n.store_lost, i + 1);
	}
	ck_assert_uint_eq(f.c.h->n.fetched, 0);
	fixture_end(&f);
}
END_TEST

START_TEST(the_lease_quota_in_the_middle)
{
	struct core_member *m = start(1, 16);
	struct core_lookup lk = { .ns = 0 };
	struct kvb_hash hash[4];
	kvb_page_t ret[4];
	for (unsigned i = 0; i < 4; i++)
		hash[i] = fixture_hash(i);
	fixture_store_put(&store, 0, 4);
	f.c.clients[m->client].leases_max = 2;
	assert_batch(core_load(&f.c, m, &lk, hash, 4, ret), 2, -EDQUOT);
	fixture_check(&f); /* none is BUSY but the two */
	ck_assert_uint_eq(lk.lead, 2);
	ck_assert_uint_eq(f.c.h->transfers_used, 2);
	ck_assert_uint_eq(fixture_space_of(&f, m)->pages_free, 6);
	ck_assert_uint_eq(fixture_store_serve(&store), 2);
	fixture_end(&f);
}
END_TEST

START_TEST(a_seal_of_what_is_on_its_way)
{
	struct core_member *m = start(1, 16);
	for (int error = 0; error >= -EIO; error -= EIO) {
		fixture_store_put(&store, 1, 1);
		kvb_page_t page = fixture_load(&f, m, 1, NULL), sealed;
		unsigned t = take();
		sealed = fixture_seal(&f, m, 1); /* complete now: it has the key */
		fixture_check(&f);
		ck_assert_uint_ne(sealed, page);
		done(t, error);
		ck_assert_int_eq(fixture_arrived(&f, m, page), error ? -1 : 1);
		ck_assert_int_eq(fixture_release(&f, m, page), 0);
		ck_assert_uint_eq(f.c.pages[fixture_record(&f, m, page)].state, CORE_PAGE_FREE);
		ck_assert_uint_eq(fixture_lookup(&f, m, 0, 1), sealed);
		assert_batch(core_release(&f.c, m, (kvb_page_t[]){ sealed, sealed }, 2), 2, 0);
		ck_assert_int_eq(core_page_evict(&f.c, fixture_record(&f, m, sealed)), 0);
	}
	fixture_end(&f);
}
END_TEST

START_TEST(a_bump_under_a_read)
{
	struct core_member *m = start(1, 16);
	fixture_store_put(&store, 1, 1);
	kvb_page_t page = fixture_load(&f, m, 1, NULL);
	unsigned t = take();
	core_ns_bump(&f.c, 0);
	ck_assert_int_eq(fixture_arrived(&f, m, page), -1);
	fixture_settle(&f);
	done(t, 0);
	ck_assert_int_eq(fixture_arrived(&f, m, page), -1);
	ck_assert_uint_eq(fixture_load(&f, m, 1, NULL), KVB_PAGE_NONE); /* nor in this epoch */
	ck_assert_int_eq(fixture_release(&f, m, page), 0);
	fixture_settle(&f);
	ck_assert_uint_eq(f.c.h->indexed, 0);
	ck_assert_uint_eq(fixture_space_of(&f, m)->pages_free, 8);
	fixture_end(&f);
}
END_TEST

/* As after a restart: the store has been further than this daemon. */
START_TEST(a_namespace_goes_on_where_the_store_is)
{
	struct core_member *m = start(1, 16);
	struct kvb_seal seal = { .hash = fixture_hash(3) };
	kvb_page_t ret;
	fixture_cache(&f, m, 1);
	fixture_alloc(&f, m, 1, &seal.page);
	core_ns_advance(&f.c, 0, 1); /* it is there */
	core_ns_advance(&f.c, 0, 0);
	ck_assert_uint_eq(f.c.namespaces[0].epoch, 1);
	ck_assert_uint_ne(fixture_above(&f, m, 1), CORE_NONE);
	core_ns_advance(&f.c, 0, 7);
	ck_assert_uint_eq(f.c.namespaces[0].epoch, 7);
	fixture_check(&f);
	ck_assert_uint_eq(fixture_above(&f, m, 1), CORE_NONE);
	assert_batch(core_seal(&f.c, m, 0, 1, 0, &seal, 1, &ret), 0, -ESTALE);
	fixture_settle(&f);
	ck_assert_uint_eq(f.c.h->pages_stale, 0);
	ck_assert_uint_eq(f.c.h->indexed, 0);
	fixture_store_put(&store, 2, 1);
	ck_assert_uint_ne(fixture_load(&f, m, 2, NULL), KVB_PAGE_NONE);
	ck_assert_uint_eq(fixture_store_serve(&store), 1);
	assert_batch(core_seal(&f.c, m, 0, 7, 0, &seal, 1, &ret), 1, 0);
	core_ns_bump(&f.c, 0);
	ck_assert_uint_eq(f.c.namespaces[0].epoch, 8);
	fixture_end(&f);
}
END_TEST

/* ---- there, and not -------------------------------------------------------------------------- */

START_TEST(detached_with_transfers_queued_and_out)
{
	struct core_member *m = start(2, 16);
	kvb_page_t page[4], flies, waits;
	fixture_cache_run(&f, m, 0, 14);
	fixture_store_put(&store, 100, 2);
	flies = fixture_load(&f, m, 100, NULL);
	unsigned read = take(), write;
	waits = fixture_load(&f, m, 101, NULL);
	ck_assert(core_alloc(&f.c, m, 2, 0, page).wait);
	ck_assert_uint_eq(f.c.h->transfers_used, 4);
	done(take(), 0); /* 101 */
	write = take();
	ck_assert_int_eq(fixture_arrived(&f, m, waits), 1);
	waits = flies;
	core_store_detach(&f.c);
	fixture_check(&f);
	ck_assert_uint_eq(f.c.h->transfers_used, 2); /* those given out */
	ck_assert_uint_eq(f.c.h->n.store_refused, 1);
	ck_assert_uint_eq(core_next_store_transfer(&f.c), CORE_NONE16);
	ck_assert_int_eq(fixture_arrived(&f, m, flies), 0);
	assert_batch(core_alloc(&f.c, m, 2, 0, page), 2, 0); /* as without a store */
	ck_assert_uint_eq(fixture_load(&f, m, 102, NULL), KVB_PAGE_NONE);
	fixture_store_attach(&store); /* again, before they end */
	done(read, -EIO);
	ck_assert_int_eq(fixture_arrived(&f, m, flies), -1);
	done(write, 0);
	ck_assert_uint_eq(f.c.h->transfers_used, 0);
	ck_assert_uint_eq(f.c.h->n.store_lost, 1);
	fixture_end(&f);
}
END_TEST

START_TEST(a_queued_read_fails_with_the_store)
{
	struct core_member *m = start(1, 16);
	fixture_store_put(&store, 1, 1);
	kvb_page_t page = fixture_load(&f, m, 1, NULL);
	core_store_detach(&f.c);
	fixture_check(&f);
	ck_assert_int_eq(fixture_arrived(&f, m, page), -1);
	ck_assert_uint_eq(f.c.h->transfers_used, 0);
	ck_assert_int_eq(fixture_release(&f, m, page), 0);
	ck_assert_uint_eq(fixture_space_of(&f, m)->pages_free, 8);
	fixture_end(&f);
}
END_TEST

START_TEST(store_writes_what_admission_refuses)
{
	struct core_member *m = start(1, 16);
	memset(store.refused, true, sizeof(store.refused));
	fixture_store_put(&store, 1, 1);
	kvb_page_t page[2] = { fixture_seal(&f, m, 1), fixture_seal(&f, m, 2) };
	struct core_batch b = core_store(&f.c, m, page, 2);
	assert_batch(b, 1, 0); /* it has one */
	ck_assert(b.wait);
	fixture_check(&f);
	ck_assert_uint_eq(store.admits, 0);
	b = core_store(&f.c, m, page, 2); /* still on its way */
	ck_assert_uint_eq(f.c.h->transfers_used, 1);
	ck_assert(b.wait);
	ck_assert_uint_eq(fixture_store_serve(&store), 1);
	b = core_store(&f.c, m, page, 2);
	assert_batch(b, 2, 0);
	ck_assert(!b.wait);
	core_store_detach(&f.c);
	assert_batch(core_store(&f.c, m, page, 2), 0, -ENOSPC);
	fixture_end(&f);
}
END_TEST

START_TEST(a_revoked_slab_is_written_while_there_is_time)
{
	struct core_member *m = start(1, 4); /* three at once */
	uint32_t busy, writes = 0;
	fixture_cache_run(&f, m, 0, 8);
	fixture_store_put(&store, 3, 1);
	store.refused[4] = true;
	ck_assert_int_eq(core_space_shrink(&f.c, m->space, 1, 1000000000), 1);
	fixture_serve(&f);
	ck_assert_int_eq(core_reclaim_ack(&f.c, m, 0, &busy), 0);
	for (unsigned turn = 0; turn < 8; turn++) {
		while (core_work(&f.c, 100))
			;
		fixture_check(&f);
		ck_assert_uint_le(f.c.h->transfers_used, 3);
		writes += fixture_store_serve(&store);
	}
	ck_assert_uint_eq(writes, 6);
	fixture_serve(&f);
	ck_assert_uint_eq(fixture_space_of(&f, m)->slabs, 0);
	for (uint64_t key = 0; key < 8; key++)
		ck_assert_int_eq(fixture_store_has(&store, key), key != 4);
	fixture_end(&f);
}
END_TEST

START_TEST(a_revoked_slab_whose_time_is_over_is_dropped)
{
	struct core_member *m = start(1, 16);
	fixture_cache_run(&f, m, 0, 8);
	ck_assert_int_eq(core_space_shrink(&f.c, m->space, 1, 0), 1);
	while (core_work(&f.c, 100))
		;
	ck_assert_uint_eq(f.c.h->transfers_used, 0);
	ck_assert_uint_eq(f.c.h->indexed, 0);
	fixture_end(&f);
}
END_TEST

/* What one rank has of a key is of no use alone. */
START_TEST(groups_have_no_store)
{
	struct core_member *m = start(0, 16);
	struct core_space_spec spec = { .kind = KVB_DEVICE_HOST,
					.regions = 1,
					.stride_bytes = STRIDE_8,
					.group = 7,
					.ranks = 2 };
	struct core_member *rank[2];
	kvb_page_t page[8];
	for (; spec.rank < 2; spec.rank++) {
		int r = core_space_open(&f.c, m->client, &spec);
		ck_assert_int_ge(r, 0);
		rank[spec.rank] = core_member_get(&f.c, m->client, (uint32_t)r);
		fixture_grow(&f, rank[spec.rank], 1);
		fixture_cache_run(&f, rank[spec.rank], 0, 8);
	}
	fixture_alloc(&f, rank[0], 8, page);
	ck_assert_uint_eq(f.c.h->transfers_used, 0);
	fixture_store_put(&store, 0, 8);
	ck_assert_uint_eq(fixture_load(&f, rank[1], 0, NULL), KVB_PAGE_NONE);
	fixture_end(&f);
}
END_TEST

static const struct suite_case cases[] = {
	{ &what_goes_is_written_first_and_waited_for },
	{ &drop_neither_waits_nor_writes },
	{ &drop_takes_what_is_ripe_as_it_is },
	{ &what_is_there_is_not_written_again },
	{ &what_goes_next_is_written_ahead },
	{ &what_admission_refuses_goes_without_a_copy },
	{ &admission_is_asked_once_a_time },
	{ &what_has_a_time_to_live_is_not_written },
	{ &a_write_that_fails_is_not_tried_again },
	{ &writes_leave_the_last_quarter_to_reads },
	{ &a_bump_under_a_write },
	{ &used_again_while_it_is_written },
	{ &lookup_says_what_the_store_has },
	{ &load_fetches_and_waits },
	{ &prefetch_leases_nothing },
	{ &what_was_lost_meanwhile_is_a_miss },
	{ &the_lease_quota_in_the_middle },
	{ &a_seal_of_what_is_on_its_way },
	{ &a_bump_under_a_read },
	{ &a_namespace_goes_on_where_the_store_is },
	{ &detached_with_transfers_queued_and_out },
	{ &a_queued_read_fails_with_the_store },
	{ &store_writes_what_admission_refuses },
	{ &a_revoked_slab_is_written_while_there_is_time },
	{ &a_revoked_slab_whose_time_is_over_is_dropped },
	{ &groups_have_no_store },
	{ NULL },
};

int main(void)
{
	return suite_run("store-tier", cases);
}
