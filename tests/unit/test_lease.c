/* SPDX-License-Identifier: Apache-2.0 */

/*
 * SEAL, LOOKUP, RELEASE, PIN and HINT: keys, leases and their quotas.
 */

#include "tests/unit/fixture.h"
#include "tests/unit/suite.h"

static struct fixture f;

static struct core_batch lookup_range(struct core_member *m, bool all, uint64_t first, uint32_t n,
				      kvb_page_t *ret, uint32_t *lead)
{
	struct core_lookup lk = { .all = all };
	struct kvb_hash hash[64];

	for (uint32_t i = 0; i < n; i++)
		hash[i] = fixture_hash(first + i);
	struct core_batch b = core_lookup(&f.c, m, &lk, hash, n, ret);
	*lead = lk.lead;
	return b;
}

START_TEST(lookup_stops_at_the_first_miss)
{
	kvb_page_t page[4], ret[6];
	uint32_t lead;

	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 1);
	for (unsigned i = 0; i < 4; i++)
		page[i] = fixture_seal(&f, m, i < 2 ? i : i + 1); /* keys 0 1 3 4 */
	assert_batch(lookup_range(m, false, 0, 6, ret, &lead), 2, 0);
	ck_assert_uint_eq(lead, 2);
	ck_assert_uint_eq(ret[1], page[1]);
	ck_assert_uint_eq(f.c.clients[m->client].leases, 4);
	assert_batch(lookup_range(m, true, 0, 6, ret, &lead), 6, 0);
	ck_assert_uint_eq(lead, 2);
	ck_assert_uint_eq(ret[2], KVB_PAGE_NONE);
	ck_assert_uint_eq(ret[3], page[2]);
	ck_assert_uint_eq(ret[4], page[3]);
	ck_assert_uint_eq(ret[5], KVB_PAGE_NONE);
	/* leases so far: seal, lookup, lookup for keys 0 and 1; seal, lookup for 3 and 4 */
	for (unsigned i = 0; i < 4; i++) {
		for (unsigned k = 0; k < (i < 2 ? 3 : 2); k++)
			ck_assert_int_eq(fixture_release(&f, m, page[i]), 0);
		ck_assert_int_eq(fixture_release(&f, m, page[i]), -ENOENT);
	}
	fixture_end(&f);
}
END_TEST

START_TEST(lookup_in_slices_keeps_its_lead)
{
	struct core_lookup lk = { .all = true };
	kvb_page_t ret[4];

	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 1);
	for (unsigned i = 0; i < 3; i++)
		fixture_seal(&f, m, i);
	for (unsigned i = 0; i < 5; i++) {
		struct kvb_hash hash = fixture_hash(i == 4 ? 0 : i);
		assert_batch(core_lookup(&f.c, m, &lk, &hash, 1, ret), 1, 0);
	}
	ck_assert_uint_eq(lk.lead, 3);
	ck_assert(lk.broken);
	fixture_end(&f);
}
END_TEST

START_TEST(seal_of_a_known_key_leases_the_first_page)
{
	struct kvb_seal seal = { .hash = fixture_hash(3) };
	kvb_page_t first, ret;

	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 1);
	first = fixture_seal(&f, m, 3);
	fixture_alloc(&f, m, 1, &seal.page);
	assert_batch(core_seal(&f.c, m, 0, 1, 0, &seal, 1, &ret), 1, 0);
	ck_assert_uint_eq(ret, first);
	ck_assert_uint_eq(f.c.clients[m->client].held, 1);
	ck_assert_uint_eq(f.c.clients[m->client].leases, 1);
	assert_batch(core_free(&f.c, m, &seal.page, 1), 1,
		     0); /* still FILLING, still the caller's */
	ck_assert_int_eq(fixture_release(&f, m, first), 0);
	ck_assert_int_eq(fixture_release(&f, m, first), 0);
	ck_assert_int_eq(fixture_release(&f, m, first), -ENOENT);
	fixture_end(&f);
}
END_TEST

START_TEST(seal_twice_the_same_page_in_one_batch)
{
	struct kvb_seal seal[2];
	kvb_page_t page, ret[2];

	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 1);
	fixture_alloc(&f, m, 1, &page);
	seal[0] = (struct kvb_seal){ .page = page, .hash = fixture_hash(1) };
	seal[1] = (struct kvb_seal){ .page = page, .hash = fixture_hash(2) };
	assert_batch(core_seal(&f.c, m, 0, 1, 0, seal, 2, ret), 1, -ENOENT);
	ck_assert_uint_eq(fixture_lookup(&f, m, 0, 2), KVB_PAGE_NONE);
	fixture_end(&f);
}
END_TEST

START_TEST(keys_differ_by_salt)
{
	struct core_lookup lk = { .salt = 5 };
	struct kvb_hash hash = fixture_hash(1);
	kvb_page_t ret;

	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 1);
	fixture_seal(&f, m, 1);
	assert_batch(core_lookup(&f.c, m, &lk, &hash, 1, &ret), 0, 0);
	fixture_end(&f);
}
END_TEST

/* Leases for 64 pages, one client: EDQUOT stops the batch, and what was leased before it stays so.
 */
START_TEST(i10_lease_quota_shortens_a_lookup)
{
	static const struct core_limits few = { .pages = 1024,
						.leases = 64,
						.slabs = 16,
						.spaces = 2,
						.clients = 4,
						.members = 4,
						.tenants = 2,
						.namespaces = 2 };
	kvb_page_t page[80], ret[64];
	uint32_t lead, max;

	fixture_start(&f, &few, 12);
	struct core_member *m = fixture_member(&f, 10);
	max = f.c.clients[m->client].leases_max;
	ck_assert_uint_le(max, 64);
	for (uint32_t i = 0; i < max; i++)
		page[i] = fixture_seal(&f, m, i);
	struct kvb_seal more = { .hash = fixture_hash(1000) };
	fixture_alloc(&f, m, 1, &more.page);
	assert_batch(core_seal(&f.c, m, 0, 1, 0, &more, 1, ret), 0, -EDQUOT);
	ck_assert_uint_eq(f.c.clients[m->client].held,
			  1); /* an operand that failed changed nothing */
	assert_batch(lookup_range(m, false, 0, 4, ret, &lead), 4,
		     0); /* more of the same page is no more */
	for (unsigned i = 0; i < 4; i++)
		ck_assert_int_eq(fixture_release(&f, m, page[i]), 0);
	ck_assert_int_eq(fixture_release(&f, m, page[max - 1]), 0); /* its only lease */
	assert_batch(core_seal(&f.c, m, 0, 1, 0, &more, 1, ret), 1, 0);
	assert_batch(lookup_range(m, false, max - 2, 2, ret, &lead), 1, -EDQUOT);
	ck_assert_uint_eq(lead, 1);
	fixture_end(&f);
}
END_TEST

START_TEST(lease_counts_end_at_their_limit)
{
	kvb_page_t page;

	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 1);
	page = fixture_seal(&f, m, 1);
	assert_batch(core_pin(&f.c, m, &page, 1, true), 1, 0);
	for (unsigned i = 1; i < CORE_LEASE_COUNT_MAX; i++)
		ck_assert_uint_eq(fixture_lookup(&f, m, 0, 1), page);
	struct core_lookup lk = { .ns = 0 };
	struct kvb_hash hash = fixture_hash(1);
	kvb_page_t ret;
	assert_batch(core_lookup(&f.c, m, &lk, &hash, 1, &ret), 0, -EDQUOT);
	ck_assert_uint_eq(f.c.clients[m->client].pins, 1);
	fixture_end(&f);
}
END_TEST

START_TEST(pin_outlives_release)
{
	kvb_page_t page[8], got[8];

	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 1);
	for (unsigned i = 0; i < 8; i++)
		page[i] = fixture_seal(&f, m, i);
	assert_batch(core_pin(&f.c, m, &page[0], 1, true), 1, 0);
	assert_batch(core_pin(&f.c, m, &page[0], 1, true), 1, 0); /* pinning is not counted */
	assert_batch(core_release(&f.c, m, page, 8), 8, 0);
	ck_assert_int_eq(fixture_release(&f, m, page[0]), -ENOENT);
	assert_batch(core_alloc(&f.c, m, 8, 0, got), 7, 0);
	ck_assert_uint_eq(fixture_lookup(&f, m, 0, 0), page[0]);
	ck_assert_int_eq(fixture_release(&f, m, page[0]), 0);
	assert_batch(core_pin(&f.c, m, &page[0], 1, false), 1, 0);
	assert_batch(core_pin(&f.c, m, &page[0], 1, false), 0, -ENOENT);
	assert_batch(core_alloc(&f.c, m, 8, 0, got), 1, 0);
	ck_assert_uint_eq(f.c.clients[m->client].pins, 0);
	fixture_end(&f);
}
END_TEST

START_TEST(fault_058_all_pinned_alloc_is_short_not_stuck)
{
	kvb_page_t page[16], got[1];

	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 2);
	for (unsigned i = 0; i < 16; i++)
		page[i] = fixture_seal(&f, m, i);
	assert_batch(core_pin(&f.c, m, page, 16, true), 16, 0);
	assert_batch(core_release(&f.c, m, page, 16), 16, 0);
	struct core_batch b = core_alloc(&f.c, m, 1, 0, got);
	assert_batch(b, 0, 0);
	ck_assert_uint_eq(b.flags & KVB_CQE_AGAIN, 0);
	fixture_end(&f);
}
END_TEST

START_TEST(fault_054_every_tenant_finds_half_of_the_leases_left)
{
	static const struct core_limits few = { .pages = 1024,
						.leases = 64,
						.slabs = 16,
						.spaces = 4,
						.clients = 4,
						.members = 4,
						.tenants = 4,
						.namespaces = 4 };
	uint32_t got[3] = { 0 };

	fixture_start(&f, &few, 24);
	for (unsigned t = 0; t < 3; t++)
		ck_assert_uint_eq(
			fixture_tenant(&f, (char[2]){ (char)('a' + t), 0 }, 0, UINT64_MAX), t);
	for (unsigned t = 0; t < 3; t++) {
		unsigned client = fixture_client(&f, t);
		struct core_member *m = fixture_space(&f, client, STRIDE_8);
		unsigned ns = fixture_ns(&f, client, 1, 0);

		fixture_grow(&f, m, 5);
		for (unsigned i = 0; i < 40; i++) {
			struct kvb_seal seal = { .hash = fixture_hash(i) };
			kvb_page_t ret;

			fixture_alloc(&f, m, 1, &seal.page);
			got[t] += core_seal(&f.c, m, ns, 1, 0, &seal, 1, &ret).done;
		}
	}
	ck_assert_uint_eq(got[0], 32);
	ck_assert_uint_eq(got[1], 16);
	ck_assert_uint_eq(got[2], 8);
	fixture_end(&f);
}
END_TEST

START_TEST(pin_quota_is_kept)
{
	static const struct core_limits few = { .pages = 256,
						.leases = 64,
						.slabs = 8,
						.spaces = 2,
						.clients = 2,
						.members = 2,
						.tenants = 2,
						.namespaces = 2 };
	kvb_page_t page[16];
	uint32_t quota;

	fixture_start(&f, &few, 8);
	struct core_member *m = fixture_member(&f, 2);
	f.c.clients[m->client].leases_max = 16;
	quota = f.c.clients[m->client].leases_max / 2;
	ck_assert_uint_eq(quota, 8);
	for (unsigned i = 0; i < 16; i++)
		page[i] = fixture_seal(&f, m, i);
	assert_batch(core_pin(&f.c, m, page, 16, true), quota, -EDQUOT);
	ck_assert_uint_eq(f.c.tenants[0].pins, quota);
	fixture_end(&f);
}
END_TEST

START_TEST(hint_ttl_makes_a_miss)
{
	kvb_page_t page, second;

	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 1);
	page = fixture_seal(&f, m, 1);
	assert_batch(core_hint(&f.c, m, &page, 1, KVB_HINT(KVB_PRIO_NORMAL, 10)), 1, 0);
	fixture_seconds(&f, 8);
	ck_assert_uint_eq(fixture_lookup(&f, m, 0, 1), page);
	fixture_seconds(&f, 3);
	ck_assert_uint_eq(fixture_lookup(&f, m, 0, 1), KVB_PAGE_NONE);
	second = fixture_seal(&f, m,
			      1); /* the key is free for a new page, the old one is leased on */
	ck_assert_uint_ne(second, page);
	ck_assert_uint_eq(fixture_lookup(&f, m, 0, 1), second);
	ck_assert_int_eq(fixture_release(&f, m, page), 0);
	ck_assert_int_eq(fixture_release(&f, m, page), 0);
	ck_assert_int_eq(fixture_release(&f, m, page), -ENOENT);
	fixture_end(&f);
}
END_TEST

START_TEST(hint_refuses_what_it_does_not_know)
{
	kvb_page_t page;

	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 1);
	page = fixture_seal(&f, m, 1);
	assert_batch(core_hint(&f.c, m, &page, 1, KVB_HINT(3, 0)), 0, -EINVAL);
	assert_batch(core_hint(&f.c, m, &page, 1, KVB_HINT(0, (1ull << 31) + 1)), 0, -EINVAL);
	assert_batch(core_hint(&f.c, m, &page, 1, UINT64_MAX), 0, -EINVAL);
	assert_batch(core_hint(&f.c, m, &page, 1, KVB_HINT(2, 1ull << 31)), 1, 0);
	ck_assert_uint_eq(fixture_lookup(&f, m, 0, 1), page);
	fixture_end(&f);
}
END_TEST

static const struct suite_case cases[] = {
	{ &lookup_stops_at_the_first_miss },
	{ &lookup_in_slices_keeps_its_lead },
	{ &seal_of_a_known_key_leases_the_first_page },
	{ &seal_twice_the_same_page_in_one_batch },
	{ &keys_differ_by_salt },
	{ &i10_lease_quota_shortens_a_lookup },
	{ &lease_counts_end_at_their_limit },
	{ &pin_outlives_release },
	{ &fault_058_all_pinned_alloc_is_short_not_stuck },
	{ &fault_054_every_tenant_finds_half_of_the_leases_left },
	{ &pin_quota_is_kept },
	{ &hint_ttl_makes_a_miss },
	{ &hint_refuses_what_it_does_not_know },
	{ NULL },
};

int main(void)
{
	return suite_run("lease", cases);
}
