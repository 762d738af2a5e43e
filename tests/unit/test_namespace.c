/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Namespaces and epochs: whose bytes a key means, and of which version.
 */

#include "tests/unit/fixture.h"
#include "tests/unit/suite.h"

static struct fixture f;

START_TEST(same_digest_is_the_same_namespace_within_a_tenant_only)
{
	fixture_start(&f, NULL, 8);
	unsigned a = fixture_tenant(&f, "a", 0, UINT64_MAX),
		 b = fixture_tenant(&f, "b", 0, UINT64_MAX);
	unsigned a1 = fixture_client(&f, a), a2 = fixture_client(&f, a), b1 = fixture_client(&f, b);
	unsigned ns = fixture_ns(&f, a1, 1, 0);
	ck_assert_uint_eq(fixture_ns(&f, a1, 1, 0), ns);
	ck_assert_uint_eq(fixture_ns(&f, a2, 1, 0), ns);
	ck_assert_uint_ne(fixture_ns(&f, b1, 1, 0), ns);
	ck_assert_uint_ne(fixture_ns(&f, a1, 2, 0), ns);
	ck_assert_uint_eq(f.c.namespaces[ns].refs, 2);
	fixture_end(&f);
}
END_TEST

START_TEST(fault_036_unknown_flags_and_reserved_words_are_einval)
{
	struct kvb_ns_info info;

	fixture_start(&f, NULL, 8);
	unsigned client = fixture_client(&f, fixture_tenant(&f, "a", 0, UINT64_MAX));
	struct kvb_ns_open flags = { .flags = 2 }, resv = { .resv = 1 };
	ck_assert_int_eq(core_ns_open(&f.c, client, &flags, &info), -EINVAL);
	ck_assert_int_eq(core_ns_open(&f.c, client, &resv, &info), -EINVAL);
	ck_assert_int_eq(core_ns_get(&f.c, client, 0), -ENOENT);
	ck_assert_int_eq(core_ns_get(&f.c, client, KVB_NS_MAX), -ENOENT);
	ck_assert_int_eq(core_ns_get(&f.c, client, UINT32_MAX), -ENOENT);
	fixture_end(&f);
}
END_TEST

START_TEST(epoch_bump_needs_the_right)
{
	uint64_t epoch = 0;

	fixture_start(&f, NULL, 8);
	unsigned tenant = fixture_tenant(&f, "a", 0, UINT64_MAX);
	unsigned plain = fixture_client(&f, tenant), admin = fixture_client(&f, tenant);
	fixture_ns(&f, plain, 1, 0);
	fixture_ns(&f, admin, 1, KVB_NS_ADMIN);
	ck_assert_int_eq(core_epoch_bump(&f.c, plain, 0, &epoch), -EPERM);
	ck_assert_int_eq(core_epoch_bump(&f.c, plain, 1, &epoch), -ENOENT);
	ck_assert_int_eq(core_epoch_bump(&f.c, admin, 0, &epoch), 0);
	ck_assert_uint_eq(epoch, 2);
	fixture_end(&f);
}
END_TEST

START_TEST(i5_a_bump_makes_every_page_a_miss)
{
	kvb_page_t page[8], fresh;
	uint64_t epoch;

	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 2);
	for (unsigned i = 0; i < 8; i++)
		page[i] = fixture_seal(&f, m, i);
	for (unsigned i = 0; i < 4; i++)
		ck_assert_int_eq(fixture_release(&f, m, page[i]), 0);
	ck_assert_int_eq(core_epoch_bump(&f.c, m->client, 0, &epoch), 0);
	for (unsigned i = 0; i < 8; i++)
		ck_assert_uint_eq(fixture_lookup(&f, m, 0, i), KVB_PAGE_NONE);
	ck_assert_uint_eq(f.c.h->pages_stale, 8);
	fixture_check(&f);
	/* what was computed under the old epoch can not be sealed under it any more */
	struct kvb_seal seal = { .hash = fixture_hash(0) };
	kvb_page_t ret;
	fixture_alloc(&f, m, 1, &seal.page);
	assert_batch(core_seal(&f.c, m, 0, epoch - 1, 0, &seal, 1, &ret), 0, -ESTALE);
	assert_batch(core_seal(&f.c, m, 0, epoch + 1, 0, &seal, 1, &ret), 0, -ESTALE);
	assert_batch(core_seal(&f.c, m, 0, epoch + (1ull << 32), 0, &seal, 1, &ret), 0, -ESTALE);
	assert_batch(core_free(&f.c, m, &seal.page, 1), 1, 0);
	/* the same key under the new one is another page; the old one is leased on */
	fresh = fixture_seal(&f, m, 7);
	ck_assert_uint_ne(fresh, page[7]);
	ck_assert_uint_eq(fixture_lookup(&f, m, 0, 7), fresh);
	fixture_settle(&f);
	ck_assert_uint_eq(f.c.h->pages_stale, 4); /* the leased ones */
	for (unsigned i = 4; i < 8; i++)
		ck_assert_int_eq(fixture_release(&f, m, page[i]), 0);
	fixture_settle(&f);
	ck_assert_uint_eq(f.c.h->pages_stale, 0);
	ck_assert_uint_eq(f.c.namespaces[0].pages, 1);
	fixture_end(&f);
}
END_TEST

START_TEST(i6_many_bumps_while_a_sweep_is_under_way)
{
	kvb_page_t page[64];

	fixture_start(&f, NULL, 16);
	struct core_member *m = fixture_member(&f, 8);
	for (unsigned i = 0; i < 64; i++) {
		page[i] = fixture_seal(&f, m, i);
		ck_assert_int_eq(fixture_release(&f, m, page[i]), 0);
		if (i % 9 == 8)
			core_ns_bump(&f.c, 0);
		(void)core_work(&f.c, 1);
		fixture_check(&f);
	}
	core_ns_bump(&f.c, 0);
	fixture_settle(&f);
	ck_assert_uint_eq(f.c.namespaces[0].pages, 0);
	ck_assert_uint_eq(f.c.h->indexed, 0);
	fixture_end(&f);
}
END_TEST

/* The simulator found it: a sweep that began in the middle missed what lay before it. */
START_TEST(i6_sweep_covers_slabs_that_came_meanwhile)
{
	kvb_page_t page;

	fixture_start(&f, NULL, 16);
	struct core_member *m = fixture_member(&f, 3);
	core_ns_bump(&f.c, 0);
	fixture_alloc(&f, m, 1, &page); /* something stale, so that sweeps do not stop at once */
	fixture_seal(&f, m, 100);
	core_ns_bump(&f.c, 0);
	(void)core_work(&f.c, 1); /* the sweep now stands behind the first unit */
	page = fixture_seal(&f, m, 1);
	ck_assert_int_eq(fixture_release(&f, m, page), 0);
	core_ns_bump(&f.c, 0);
	fixture_grow(&f, m, 4);
	fixture_settle(&f);
	ck_assert_uint_eq(f.c.h->pages_stale, 1); /* the leased one */
	fixture_end(&f);
}
END_TEST

START_TEST(fault_093_same_key_misses_in_another_tenant)
{
	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 2); /* tenant t, namespace 0 */
	unsigned other = fixture_tenant(&f, "other", 0, UINT64_MAX);
	struct core_member *thief = fixture_space(&f, fixture_client(&f, other), STRIDE_8);
	ck_assert_uint_ne(thief->space, m->space);
	unsigned ns = fixture_ns(&f, thief->client, 1, 0); /* the same digest */
	ck_assert_uint_ne(ns, 0);
	fixture_grow(&f, thief, 1);
	kvb_page_t page = fixture_seal(&f, m, 42);
	ck_assert_uint_eq(fixture_lookup(&f, thief, ns, 42), KVB_PAGE_NONE);
	/* and its name means nothing there */
	assert_batch(core_release(&f.c, thief, &page, 1), 0, -ENOENT);
	assert_batch(core_pin(&f.c, thief, &page, 1, true), 0, -ENOENT);
	/* what it publishes under that key stays its own */
	struct kvb_seal seal = { .hash = fixture_hash(42) };
	kvb_page_t ret;
	fixture_alloc(&f, thief, 1, &seal.page);
	assert_batch(core_seal(&f.c, thief, ns, 1, 0, &seal, 1, &ret), 1, 0);
	ck_assert_uint_eq(fixture_lookup(&f, m, 0, 42), page);
	fixture_end(&f);
}
END_TEST

START_TEST(fault_094_counters_of_lookups_stay_in_their_tenant)
{
	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 1);
	unsigned other = fixture_tenant(&f, "other", 0, UINT64_MAX);
	fixture_seal(&f, m, 1);
	ck_assert_uint_ne(fixture_lookup(&f, m, 0, 1), KVB_PAGE_NONE);
	ck_assert_uint_eq(f.c.tenants[0].lookup_hits, 1);
	ck_assert_uint_eq(f.c.tenants[other].lookup_hits, 0);
	ck_assert_uint_eq(f.c.tenants[other].lookups, 0);
	fixture_end(&f);
}
END_TEST

START_TEST(handles_and_records_run_out_with_enospc)
{
	struct kvb_ns_open open = { .flags = 0 };
	struct kvb_ns_info info;
	unsigned n = 0;

	fixture_start(&f, NULL, 8); /* eight namespaces */
	struct core_member *m = fixture_member(&f, 1);
	fixture_seal(&f, m, 1);
	unsigned client = fixture_client(&f, 0);
	for (;; n++) {
		memset(open.digest, (int)(100 + n), sizeof(open.digest));
		int r = core_ns_open(&f.c, client, &open, &info);
		if (r < 0) {
			ck_assert_int_eq(r, -ENOSPC);
			break;
		}
		ck_assert_uint_eq(info.ns, n);
	}
	ck_assert_uint_eq(n, 7);
	/* records without clients and pages are used again, the one with a page is not */
	core_client_close(&f.c, client);
	client = fixture_client(&f, 0);
	memset(open.digest, 99, sizeof(open.digest));
	ck_assert_int_eq(core_ns_open(&f.c, client, &open, &info), 0);
	ck_assert_uint_ne(fixture_lookup(&f, m, 0, 1), KVB_PAGE_NONE);
	fixture_end(&f);
}
END_TEST

START_TEST(i5_a_namespace_that_comes_back_is_in_a_later_epoch)
{
	static const struct core_limits few = { .pages = 64, .slabs = 4, .namespaces = 2 };
	struct kvb_ns_open open = { .flags = KVB_NS_ADMIN };
	struct kvb_ns_info info;
	uint64_t epoch;

	fixture_start(&f, &few, 8);
	unsigned client = fixture_client(&f, fixture_tenant(&f, "t", 0, UINT64_MAX));
	ck_assert_int_eq(core_ns_open(&f.c, client, &open, &info), 0);
	ck_assert_int_eq(core_epoch_bump(&f.c, client, info.ns, &epoch), 0);
	ck_assert_int_eq(core_epoch_bump(&f.c, client, info.ns, &epoch), 0);
	ck_assert_uint_eq(epoch, 3);
	core_client_dead(&f.c, client);
	fixture_settle(&f);
	client = fixture_client(&f, 0);
	for (unsigned i = 1; i <= 2; i++) /* push it out of the table */
		(void)fixture_ns(&f, client, (uint8_t)i, 0);
	core_client_dead(&f.c, client);
	fixture_settle(&f);
	client = fixture_client(&f, 0);
	ck_assert_int_eq(core_ns_open(&f.c, client, &open, &info), 0);
	ck_assert_uint_gt(info.epoch, 3);
	fixture_end(&f);
}
END_TEST

START_TEST(i10_no_tenant_takes_all_namespaces_or_spaces)
{
	static const struct core_limits few = { .pages = 1024,
						.slabs = 32,
						.spaces = 8,
						.clients = 8,
						.members = 32,
						.tenants = 4,
						.namespaces = 8 };
	uint32_t spaces[2] = { 0 }, names[2] = { 0 };

	fixture_start(&f, &few, 32);
	for (unsigned t = 0; t < 2; t++)
		ck_assert_uint_eq(fixture_tenant(&f, t ? "b" : "a", 0, UINT64_MAX), t);
	for (unsigned t = 0; t < 2; t++) {
		unsigned client = fixture_client(&f, t);

		for (unsigned i = 0; i < 8; i++) {
			struct kvb_ns_open open = { .digest = { (uint8_t)(i + 1) } };
			struct kvb_ns_info info;

			names[t] += core_ns_open(&f.c, client, &open, &info) == 0;
			spaces[t] +=
				core_space_open(&f.c, client,
						&(struct core_space_spec){ .kind = KVB_DEVICE_HOST,
									   .regions = 1,
									   .stride_bytes = STRIDE_8,
									   .tag = i }) >= 0;
		}
	}
	ck_assert_uint_eq(names[0], 4);
	ck_assert_uint_eq(names[1], 2);
	ck_assert_uint_eq(spaces[0], 4);
	ck_assert_uint_eq(spaces[1], 2);
	fixture_end(&f);
}
END_TEST

static const struct suite_case cases[] = {
	{ &i5_a_namespace_that_comes_back_is_in_a_later_epoch },
	{ &i10_no_tenant_takes_all_namespaces_or_spaces },
	{ &same_digest_is_the_same_namespace_within_a_tenant_only },
	{ &fault_036_unknown_flags_and_reserved_words_are_einval },
	{ &epoch_bump_needs_the_right },
	{ &i5_a_bump_makes_every_page_a_miss },
	{ &i6_many_bumps_while_a_sweep_is_under_way },
	{ &i6_sweep_covers_slabs_that_came_meanwhile },
	{ &fault_093_same_key_misses_in_another_tenant },
	{ &fault_094_counters_of_lookups_stay_in_their_tenant },
	{ &handles_and_records_run_out_with_enospc },
	{ NULL },
};

int main(void)
{
	return suite_run("namespace", cases);
}
