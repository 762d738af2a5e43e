/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The end of clients: rights at once, pages in quarantine until the process is dead, then
 * everything.
 */

#include <stdlib.h>

#include "tests/unit/fixture.h"
#include "tests/unit/suite.h"

static struct fixture f;

static void expect_nothing_charged(unsigned tenant)
{
	const struct core_tenant *t = &f.c.tenants[tenant];

	ck_assert_uint_eq(t->clients, 0);
	ck_assert_uint_eq(t->pages_held, 0);
	ck_assert_uint_eq(t->leases, 0);
	ck_assert_uint_eq(t->pins, 0);
	ck_assert_uint_eq(f.c.h->leases_used, 0);
}

START_TEST(i2_pages_of_a_client_that_left_wait_for_its_death)
{
	kvb_page_t page[6], got[8];

	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 1);
	unsigned client = m->client;
	struct core_member *other = fixture_space(&f, fixture_client(&f, 0), STRIDE_8);
	fixture_serve(&f);
	assert_batch(core_alloc(&f.c, m, 2, KVB_ALLOC_MAGAZINE, page), 2, 0);
	fixture_alloc(&f, m, 4, page + 2);
	core_client_close(&f.c, client);
	core_client_close(&f.c, client);
	fixture_check(&f);
	fixture_settle(&f);
	ck_assert_uint_eq(f.c.slabs[0].quarantined, 6);
	ck_assert_uint_eq(f.c.tenants[0].pages_held, 6);
	assert_batch(core_alloc(&f.c, other, 8, 0, got), 2, 0);
	core_client_dead(&f.c, client);
	fixture_settle(&f);
	ck_assert_uint_eq(f.c.slabs[0].quarantined, 0);
	assert_batch(core_alloc(&f.c, other, 8, 0, got + 2), 6, 0);
	ck_assert_int_eq(f.c.clients[client].state, CORE_CLIENT_FREE);
	fixture_end(&f);
}
END_TEST

START_TEST(leases_end_with_the_socket)
{
	kvb_page_t page[4], got[8];

	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 1);
	unsigned client = m->client;
	struct core_member *other = fixture_space(&f, fixture_client(&f, 0), STRIDE_8);
	ck_assert_uint_eq(fixture_ns(&f, other->client, 1, 0), 0);
	fixture_serve(&f);
	for (unsigned i = 0; i < 4; i++)
		page[i] = fixture_seal(&f, m, i);
	assert_batch(core_pin(&f.c, m, page, 4, true), 4, 0);
	ck_assert_uint_eq(fixture_lookup(&f, other, 0, 2), page[2]);
	core_client_close(&f.c, client);
	fixture_settle(&f);
	ck_assert_uint_eq(f.c.clients[client].leases, 0);
	/* what it sealed stays for the others, and the lease of another holds */
	ck_assert_uint_eq(fixture_lookup(&f, other, 0, 3), page[3]);
	ck_assert_int_eq(fixture_release(&f, other, page[3]), 0);
	assert_batch(core_alloc(&f.c, other, 8, 0, got), 7, 0);
	ck_assert_uint_eq(fixture_lookup(&f, other, 0, 2), page[2]);
	core_client_dead(&f.c, client);
	fixture_settle(&f);
	fixture_end(&f);
}
END_TEST

/* Death at each point of a page's way; everything must come back, in slices of every size. */
static void die_at(unsigned point, uint32_t units)
{
	kvb_page_t page[24], got[24];
	uint32_t busy, slices = 0;

	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 0);
	unsigned client = m->client;
	if (point > 0)
		ck_assert_int_eq(core_space_grow(&f.c, m, 3, NULL), 3);
	if (point > 1)
		fixture_serve(&f);
	if (point > 2)
		fixture_alloc(&f, m, 24, page);
	if (point > 3) {
		for (unsigned i = 0; i < 12; i++) {
			struct kvb_seal seal = { .page = page[i], .hash = fixture_hash(i) };
			assert_batch(core_seal(&f.c, m, 0, 1, 0, &seal, 1, got), 1, 0);
		}
	}
	if (point > 4)
		assert_batch(core_pin(&f.c, m, page, 6, true), 6, 0);
	if (point > 5)
		assert_batch(core_release(&f.c, m, page, 9), 9, 0);
	if (point > 6)
		ck_assert_int_eq(core_space_shrink(&f.c, m->space, 2, 0), 2);
	if (point > 7)
		(void)core_reclaim_ack(&f.c, m, 2, &busy);
	if (point & 1) {
		core_client_close(&f.c, client);
		(void)core_work(&f.c, units);
	}
	core_client_dead(&f.c, client);
	while (core_work(&f.c, units)) {
		fixture_check(&f);
		ck_assert_uint_lt(++slices, 1000);
	}
	ck_assert_int_eq(f.c.clients[client].state, CORE_CLIENT_FREE);
	fixture_serve(&f);
	expect_nothing_charged(0);
	fixture_end(&f);
}

START_TEST(fault_059_death_at_every_point_gives_everything_back)
{
	for (unsigned point = 0; point < 9; point++) {
		for (uint32_t units = 1; units < 200; units *= 3)
			die_at(point, units);
	}
	ck_assert_ptr_nonnull(f.mem);
}
END_TEST

START_TEST(i4_a_reaped_index_starts_clean)
{
	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 1);
	unsigned client = m->client;
	fixture_seal(&f, m, 1);
	core_client_dead(&f.c, client); /* without a close before it */
	fixture_settle(&f);
	unsigned again = fixture_client(&f, 0);
	ck_assert_uint_eq(again, client);
	ck_assert_ptr_null(core_member_get(&f.c, again, 0));
	ck_assert_int_eq(core_ns_get(&f.c, again, 0), -ENOENT);
	ck_assert_uint_eq(f.c.clients[again].leases, 0);
	/* it joins the space that was left, with what is cached there */
	struct core_member *back = fixture_space(&f, again, STRIDE_8);
	ck_assert_uint_eq(fixture_ns(&f, again, 1, 0), 0);
	struct core_lookup lk = { .ns = 0 };
	struct kvb_hash hash = fixture_hash(1);
	kvb_page_t ret;
	struct core_batch b = core_lookup(&f.c, back, &lk, &hash, 1, &ret);
	assert_batch(b, 0, 0);
	ck_assert_uint_ne(b.flags & KVB_CQE_GRANT_PENDING, 0);
	fixture_serve(&f);
	ck_assert_uint_ne(fixture_lookup(&f, back, 0, 1), KVB_PAGE_NONE);
	fixture_end(&f);
}
END_TEST

START_TEST(table_of_clients_full)
{
	fixture_start(&f, NULL, 8); /* sixteen */
	unsigned tenant = fixture_tenant(&f, "t", 0, UINT64_MAX);
	for (unsigned i = 0; i < 16; i++)
		ck_assert_uint_eq(fixture_client(&f, tenant), i);
	ck_assert_int_eq(core_client_open(&f.c, tenant, 0, 1, "one more"), -ENOSPC);
	core_client_close(&f.c, 3);
	fixture_settle(&f);
	ck_assert_int_eq(core_client_open(&f.c, tenant, 0, 1, "one more"), -ENOSPC);
	core_client_dead(&f.c, 3);
	fixture_settle(&f);
	ck_assert_int_eq(core_client_open(&f.c, tenant, 0, 1, "one more"), 3);
	fixture_end(&f);
}
END_TEST

START_TEST(space_close_needs_empty_hands)
{
	kvb_page_t page, sealed;

	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 1);
	unsigned client = m->client, space = m->space;
	ck_assert_int_eq(core_space_close(&f.c, client, 1), -ENOENT);
	ck_assert_int_eq(core_space_close(&f.c, client, UINT32_MAX), -ENOENT);
	fixture_alloc(&f, m, 1, &page);
	ck_assert_int_eq(core_space_close(&f.c, client, 0), -EBUSY);
	assert_batch(core_free(&f.c, m, &page, 1), 1, 0);
	sealed = fixture_seal(&f, m, 1);
	ck_assert_int_eq(core_space_close(&f.c, client, 0), -EBUSY);
	ck_assert_int_eq(fixture_release(&f, m, sealed), 0);
	ck_assert_int_eq(core_space_close(&f.c, client, 0), 0);
	ck_assert_int_eq(core_space_close(&f.c, client, 0), -ENOENT);
	ck_assert(f.c.spaces[space].used); /* with what is cached there */
	struct kvb_hash hash = fixture_hash(1);
	ck_assert_uint_ne(core_page_find(&f.c, space, 0, 0, &hash), CORE_NONE);
	fixture_end(&f);
}
END_TEST

START_TEST(fault_014_a_dead_clients_name_opens_nothing)
{
	kvb_page_t page;

	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 1);
	unsigned client = m->client;
	fixture_alloc(&f, m, 1, &page);
	core_client_dead(&f.c, client);
	fixture_settle(&f);
	/* the same index, the same pid, another life */
	unsigned again = fixture_client(&f, 0);
	ck_assert_uint_eq(again, client);
	struct core_member *back = fixture_space(&f, again, STRIDE_8);
	fixture_serve(&f);
	assert_batch(core_free(&f.c, back, &page, 1), 0, -ENOENT);
	fixture_end(&f);
}
END_TEST

START_TEST(i8_the_clock_goes_forward_only)
{
	fixture_start(&f, NULL, 8);
	uint64_t now_ns = f.c.now_ns;
	core_set_time(&f.c, now_ns - 1);
	ck_assert_uint_eq(f.c.now_ns, now_ns);
	ck_assert_uint_eq(f.c.now_s, 1);
	fixture_seconds(&f, 2);
	ck_assert_uint_eq(f.c.now_s, 3);
	fixture_end(&f);
}
END_TEST

static const struct suite_case cases[] = {
	{ &i2_pages_of_a_client_that_left_wait_for_its_death },
	{ &leases_end_with_the_socket },
	{ &fault_059_death_at_every_point_gives_everything_back, 60 },
	{ &i4_a_reaped_index_starts_clean },
	{ &table_of_clients_full },
	{ &space_close_needs_empty_hands },
	{ &fault_014_a_dead_clients_name_opens_nothing },
	{ &i8_the_clock_goes_forward_only },
	{ NULL },
};

int main(void)
{
	return suite_run("client", cases);
}
