/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Budgets: what is promised, what is refused, and in which words.
 */

#include "tests/unit/fixture.h"
#include "tests/unit/suite.h"

static struct fixture f;
static char why[256];

static int set(const char *name, uint64_t min, uint64_t high, uint64_t max, uint32_t weight)
{
	struct core_tenant_spec spec = { .device = -1,
					 .min_bytes = min,
					 .high_bytes = high,
					 .max_bytes = max,
					 .weight = weight };

	memcpy(spec.name, name, strlen(name));
	why[0] = 0;
	return core_tenant_set(&f.c, &spec, false, why, sizeof(why));
}

START_TEST(budgets_out_of_order_are_einval)
{
	fixture_start(&f, NULL, 8);
	ck_assert_int_eq(set("a", 2, 1, 3, 1), -EINVAL);
	ck_assert_int_eq(set("a", 0, 4, 3, 1), -EINVAL);
	ck_assert_int_eq(set("a", 0, 1, 1, 0), -EINVAL);
	ck_assert_int_eq(set("a", 0, 1, 1, 1001), -EINVAL);
	ck_assert_int_eq(set("", 0, 1, 1, 1), -EINVAL);
	ck_assert_uint_gt(strlen(why), 0);
	ck_assert_int_eq(core_tenant_find(&f.c, "a"), -ENOENT);
	ck_assert_int_eq(set("a", 0, 1, 1, 1000), 0);
	fixture_end(&f);
}
END_TEST

START_TEST(minimum_that_cannot_be_promised_is_refused_with_the_arithmetic)
{
	fixture_start(&f, NULL, 8192); /* 16 GiB */
	ck_assert_int_ge(set("a", 12902ull * MIB, UINT64_MAX, UINT64_MAX, 1), 0);
	ck_assert_int_eq(set("rl", 8192ull * MIB, UINT64_MAX, UINT64_MAX, 1), -ENOSPC);
	ck_assert_msg(strstr(why, "asked 8.0G min for tenant rl; 3.4G of 16.0G"), "%s", why);
	ck_assert_int_eq(core_tenant_find(&f.c, "rl"), -ENOENT);
	ck_assert_int_ge(set("rl", 3400ull * MIB, UINT64_MAX, UINT64_MAX, 1), 0);
	ck_assert_int_ge(set("a", 0, UINT64_MAX, UINT64_MAX, 1), 0);
	ck_assert_int_ge(set("rl", 8192ull * MIB, UINT64_MAX, UINT64_MAX, 1), 0);
	fixture_end(&f);
}
END_TEST

/* Tiny pages use up page records long before memory: those behind a min are kept. */
START_TEST(a_min_comes_with_its_page_records)
{
	static const struct core_limits few = { .pages = 4096,
						.slabs = 64,
						.spaces = 4,
						.clients = 4,
						.members = 8,
						.tenants = 3,
						.namespaces = 2 };

	fixture_start(&f, &few, 8);
	unsigned kept = fixture_tenant(&f, "kept", 4 * HANDLE_BYTES, UINT64_MAX);
	unsigned greedy = fixture_client(&f, fixture_tenant(&f, "greedy", 0, UINT64_MAX));
	struct core_member *tiny = fixture_space(&f, greedy, 4096); /* 512 pages a slab */
	ck_assert_int_eq(core_space_grow(&f.c, tiny, 8, NULL), 4);
	fixture_serve(&f);
	struct core_member *m = fixture_space(&f, fixture_client(&f, kept), 4096);
	ck_assert_int_eq(core_space_grow(&f.c, m, 4, NULL), 4);
	fixture_serve(&f);
	fixture_end(&f);

	/* as before, but the greedy one's pages are smaller */
	fixture_start(&f, &few, 8);
	kept = fixture_tenant(&f, "kept", 4 * HANDLE_BYTES, UINT64_MAX);
	greedy = fixture_client(&f, fixture_tenant(&f, "greedy", 0, UINT64_MAX));
	tiny = fixture_space(&f, greedy, 1024); /* 2048 pages a slab */
	ck_assert_int_eq(core_space_grow(&f.c, tiny, 8, NULL), 1);
	fixture_serve(&f);
	ck_assert_int_eq(core_space_grow(&f.c, tiny, 1, NULL), -ENOSPC);
	m = fixture_space(&f, fixture_client(&f, kept), 4096);
	ck_assert_int_eq(core_space_grow(&f.c, m, 4, NULL), 4);
	fixture_serve(&f);
	fixture_end(&f);
}
END_TEST

/* What the device was still making when max was lowered goes back as well. */
START_TEST(max_lowered_while_memory_is_on_its_way)
{
	fixture_start(&f, NULL, 8);
	unsigned t = fixture_tenant(&f, "a", 0, UINT64_MAX);
	struct core_member *m = fixture_space(&f, fixture_client(&f, t), STRIDE_8);
	ck_assert_int_eq(core_space_grow(&f.c, m, 4, NULL), 4);
	ck_assert_int_ge(set("a", 0, HANDLE_BYTES, HANDLE_BYTES, 1), 0);
	fixture_settle(&f);
	ck_assert_uint_eq(f.c.tenants[t].budget[0].used_bytes, HANDLE_BYTES);
	fixture_end(&f);
}
END_TEST

START_TEST(fault_055_budgets_at_the_edges_of_64_bits)
{
	fixture_start(&f, NULL, 8);
	ck_assert_int_eq(set("a", UINT64_MAX, UINT64_MAX, UINT64_MAX, 1), -ENOSPC);
	ck_assert_int_eq(set("a", UINT64_MAX - 1, UINT64_MAX, UINT64_MAX, 1), -ENOSPC);
	ck_assert_int_ge(set("a", 8 * HANDLE_BYTES, UINT64_MAX, UINT64_MAX, 1), 0);
	ck_assert_int_eq(set("b", 1, UINT64_MAX, UINT64_MAX, 1), -ENOSPC);
	ck_assert_int_eq(set("b", UINT64_MAX - 8 * HANDLE_BYTES + 1, UINT64_MAX, UINT64_MAX, 1),
			 -ENOSPC);
	ck_assert_int_ge(set("b", 0, UINT64_MAX, UINT64_MAX, 1), 0);
	struct core_member *m = fixture_space(&f, fixture_client(&f, 0), STRIDE_8);
	ck_assert_int_eq(core_space_grow(&f.c, m, UINT32_MAX, NULL), 8);
	fixture_serve(&f);
	ck_assert_int_eq(core_space_grow(&f.c, m, UINT32_MAX, NULL), -ENOSPC);
	fixture_end(&f);
}
END_TEST

START_TEST(dry_run_changes_nothing)
{
	struct core_tenant_spec spec = {
		.name = "a", .device = -1, .weight = 1, .max_bytes = 1, .high_bytes = 1
	};

	fixture_start(&f, NULL, 8);
	ck_assert_int_ge(core_tenant_set(&f.c, &spec, true, why, sizeof(why)), 0);
	ck_assert_int_eq(core_tenant_find(&f.c, "a"), -ENOENT);
	spec.min_bytes = 1;
	spec.high_bytes = 0;
	ck_assert_int_eq(core_tenant_set(&f.c, &spec, true, why, sizeof(why)), -EINVAL);
	fixture_end(&f);
}
END_TEST

START_TEST(table_of_tenants_full)
{
	fixture_start(&f, NULL, 8);
	ck_assert_int_ge(set("a", 0, 1, 1, 1), 0);
	ck_assert_int_ge(set("b", 0, 1, 1, 1), 0);
	ck_assert_int_ge(set("c", 0, 1, 1, 1), 0);
	ck_assert_int_ge(set("d", 0, 1, 1, 1), 0);
	ck_assert_int_eq(set("e", 0, 1, 1, 1), -ENOSPC);
	ck_assert_uint_gt(strlen(why), 0);
	ck_assert_int_ge(set("d", 0, 2, 2, 1), 0);
	ck_assert_int_eq(core_tenant_delete(&f.c, 1), 0);
	ck_assert_int_eq(set("e", 0, 1, 1, 1), 1);
	fixture_end(&f);
}
END_TEST

START_TEST(i7_max_is_never_exceeded)
{
	fixture_start(&f, NULL, 8);
	ck_assert_int_ge(set("a", 0, 3 * HANDLE_BYTES, 3 * HANDLE_BYTES + 1, 1), 0);
	struct core_member *m = fixture_space(&f, fixture_client(&f, 0), STRIDE_8);
	ck_assert_int_eq(core_space_grow(&f.c, m, 8, NULL), 3);
	ck_assert_int_eq(core_space_grow(&f.c, m, 1, NULL), -EDQUOT);
	fixture_serve(&f);
	ck_assert_int_eq(core_space_grow(&f.c, m, 1, NULL), -EDQUOT);
	ck_assert_uint_eq(f.c.tenants[0].budget[0].used_bytes, 3 * HANDLE_BYTES);
	fixture_end(&f);
}
END_TEST

/* Three tenants with minima of 2, 3 and 1 slabs of 8 grow in every order, each as far as it can. */
START_TEST(i7_min_holds_in_every_order_of_borrowers)
{
	static const unsigned orders[6][3] = { { 0, 1, 2 }, { 0, 2, 1 }, { 1, 0, 2 },
					       { 1, 2, 0 }, { 2, 0, 1 }, { 2, 1, 0 } };
	static const uint64_t min[3] = { 2, 3, 1 };

	for (unsigned o = 0; o < 6; o++) {
		struct core_member *m[3];
		fixture_start(&f, NULL, 8);
		for (unsigned t = 0; t < 3; t++) {
			char name[2] = { (char)('a' + t), 0 };
			ck_assert_int_eq(
				set(name, min[t] * HANDLE_BYTES, UINT64_MAX, UINT64_MAX, 1),
				(int)t);
			m[t] = fixture_space(&f, fixture_client(&f, t), STRIDE_8);
		}
		uint64_t spare = 8 - 6;
		for (unsigned i = 0; i < 3; i++) {
			unsigned t = orders[o][i];
			int got = core_space_grow(&f.c, m[t], 8, NULL);
			ck_assert_int_eq(
				got, (int)(min[t] + spare)); /* the first takes all that is lent */
			spare = 0;
			fixture_serve(&f);
			fixture_check(&f);
		}
		ck_assert_uint_eq(f.c.h->device[0].granted_bytes, 8 * HANDLE_BYTES);
		fixture_end(&f);
	}
}
END_TEST

START_TEST(i7_lent_memory_comes_back_by_revocation)
{
	uint32_t busy;

	fixture_start(&f, NULL, 8);
	ck_assert_int_eq(set("rich", 0, UINT64_MAX, UINT64_MAX, 1), 0);
	struct core_member *rich = fixture_space(&f, fixture_client(&f, 0), STRIDE_8);
	fixture_grow(&f, rich, 8);
	/* a minimum in memory that is lent can not be promised before it is back */
	ck_assert_int_eq(set("poor", 2 * HANDLE_BYTES, UINT64_MAX, UINT64_MAX, 1), -ENOSPC);
	ck_assert_msg(strstr(why, "poor") && strstr(why, "free"), "%s", why);
	ck_assert_int_eq(set("poor", 0, UINT64_MAX, UINT64_MAX, 1), 1);
	struct core_member *poor = fixture_space(&f, fixture_client(&f, 1), STRIDE_8);
	ck_assert_int_eq(core_space_grow(&f.c, poor, 2, NULL), 0); /* on its way */
	ck_assert_uint_eq(f.c.h->slabs_draining, 2);
	for (unsigned slot = 0; slot < 8; slot++) {
		if (core_slot_state(&f.c, rich, slot) == CORE_SLOT_REVOKED)
			ck_assert_int_eq(core_reclaim_ack(&f.c, rich, slot, &busy), 0);
	}
	fixture_settle(&f);
	ck_assert_int_eq(core_space_grow(&f.c, poor, 2, NULL), 2);
	fixture_end(&f);
}
END_TEST

/* The simulator found it: what is taken is what was checked, also when slabs differ in size. */
START_TEST(i7_a_larger_slab_is_not_taken_for_a_smaller_one)
{
	fixture_start(&f, NULL, 8);
	ck_assert_int_eq(set("rich", 6 * HANDLE_BYTES, 6 * HANDLE_BYTES, UINT64_MAX, 1), 0);
	ck_assert_int_eq(set("poor", 0, UINT64_MAX, UINT64_MAX, 1000), 1);
	unsigned client = fixture_client(&f, 0);
	struct core_member *large =
		fixture_space(&f, client, 192 << 10); /* slabs of three handles */
	struct core_member *small = fixture_space(&f, client, STRIDE_8);
	fixture_grow(&f, large, 1);
	fixture_seconds(&f, 1);
	fixture_grow(&f, small, 4);
	kvb_page_t page;
	fixture_alloc(&f, small, 1, &page); /* so that the large space is the one longest unused */
	struct core_member *poor = fixture_space(&f, fixture_client(&f, 1), STRIDE_8);
	fixture_grow(&f, poor, 1);
	ck_assert_int_eq(core_space_grow(&f.c, poor, 1, NULL), 0);
	ck_assert_uint_eq(f.c.tenants[0].budget[0].draining_bytes, HANDLE_BYTES);
	fixture_end(&f);
}
END_TEST

START_TEST(revoked_memory_is_the_askers_to_take)
{
	uint32_t busy;

	fixture_start(&f, NULL, 8);
	ck_assert_int_eq(set("heavy", 0, UINT64_MAX, UINT64_MAX, 3), 0);
	ck_assert_int_eq(set("light", 0, UINT64_MAX, UINT64_MAX, 1), 1);
	struct core_member *heavy = fixture_space(&f, fixture_client(&f, 0), STRIDE_8);
	struct core_member *light = fixture_space(&f, fixture_client(&f, 1), STRIDE_8);
	fixture_grow(&f, light, 8);
	for (unsigned i = 0; i < 6; i++) {
		ck_assert_int_eq(core_space_grow(&f.c, heavy, 1, NULL), 0);
		for (unsigned slot = 0; slot < 8; slot++) {
			if (core_slot_state(&f.c, light, slot) == CORE_SLOT_REVOKED)
				ck_assert_int_eq(core_reclaim_ack(&f.c, light, slot, &busy), 0);
		}
		fixture_settle(&f);
		ck_assert_int_le(core_space_grow(&f.c, light, 1, NULL),
				 0); /* asks first, in vain */
		fixture_grow(&f, heavy, 1);
	}
	/* A claim nobody takes up ends. */
	ck_assert_int_eq(core_space_shrink(&f.c, light->space, 1, 1), 1);
	for (unsigned slot = 0; slot < 8; slot++)
		(void)core_reclaim_ack(&f.c, light, slot, &busy);
	fixture_settle(&f);
	f.c.tenants[0].budget[0].claim_bytes = HANDLE_BYTES;
	f.c.tenants[0].budget[0].claim_until_ns = f.c.now_ns + 1;
	ck_assert_int_le(core_space_grow(&f.c, light, 1, NULL), 0);
	fixture_seconds(&f, 5);
	fixture_grow(&f, light, 1);
	fixture_end(&f);
}
END_TEST

START_TEST(shares_settle_by_weight_and_do_not_swing)
{
	uint32_t busy;

	fixture_start(&f, NULL, 8);
	ck_assert_int_eq(set("heavy", 0, UINT64_MAX, UINT64_MAX, 3), 0);
	ck_assert_int_eq(set("light", 0, UINT64_MAX, UINT64_MAX, 1), 1);
	struct core_member *m[2];
	for (unsigned t = 0; t < 2; t++)
		m[t] = fixture_space(&f, fixture_client(&f, t), STRIDE_8);
	fixture_grow(&f, m[1], 8);
	for (unsigned i = 0; i < 64;
	     i++) { /* both want all, in turns, and ask again when there is room */
		for (unsigned t = 0; t < 2; t++) {
			(void)core_space_grow(&f.c, m[t], 1, NULL);
			for (unsigned slot = 0; slot < 8; slot++) {
				if (core_slot_state(&f.c, m[!t], slot) == CORE_SLOT_REVOKED)
					(void)core_reclaim_ack(&f.c, m[!t], slot, &busy);
			}
			fixture_settle(&f);
			(void)core_space_grow(&f.c, m[t], 1, NULL);
			fixture_settle(&f);
		}
	}
	ck_assert_uint_eq(f.c.tenants[0].budget[0].used_bytes, 6 * HANDLE_BYTES);
	ck_assert_uint_eq(f.c.tenants[1].budget[0].used_bytes, 2 * HANDLE_BYTES);
	uint64_t revoked = f.c.h->n.revocations;
	for (unsigned i = 0; i < 8; i++)
		(void)core_space_grow(&f.c, m[i & 1], 1, NULL);
	ck_assert_uint_eq(f.c.h->n.revocations, revoked);
	fixture_end(&f);
}
END_TEST

START_TEST(fault_090_max_lowered_below_use_converges)
{
	uint32_t busy;

	fixture_start(&f, NULL, 8);
	ck_assert_int_eq(set("a", 0, UINT64_MAX, UINT64_MAX, 1), 0);
	struct core_member *m = fixture_space(&f, fixture_client(&f, 0), STRIDE_8);
	fixture_grow(&f, m, 6);
	ck_assert_int_eq(set("a", 0, 2 * HANDLE_BYTES, 2 * HANDLE_BYTES, 1), 0);
	for (unsigned slot = 0; slot < 8; slot++) {
		if (core_slot_state(&f.c, m, slot) == CORE_SLOT_REVOKED)
			ck_assert_int_eq(core_reclaim_ack(&f.c, m, slot, &busy), 0);
	}
	fixture_settle(&f);
	ck_assert_uint_eq(f.c.tenants[0].budget[0].used_bytes, 2 * HANDLE_BYTES);
	fixture_end(&f);
}
END_TEST

START_TEST(delete_waits_for_clients_and_memory)
{
	fixture_start(&f, NULL, 8);
	struct core_member *m = fixture_member(&f, 2);
	unsigned client = m->client;
	kvb_page_t page = fixture_seal(&f, m, 1);
	ck_assert_int_eq(fixture_release(&f, m, page), 0);
	ck_assert_int_eq(core_tenant_delete(&f.c, 0), -EBUSY);
	core_client_close(&f.c, client);
	ck_assert_int_eq(core_tenant_delete(&f.c, 0), -EBUSY);
	core_client_dead(&f.c, client);
	fixture_settle(&f);
	ck_assert_int_eq(core_tenant_delete(&f.c, 0), -EBUSY); /* now its memory is on its way */
	fixture_settle(&f);
	ck_assert_int_eq(core_tenant_delete(&f.c, 0), 0);
	ck_assert_int_eq(core_tenant_find(&f.c, "t"), -ENOENT);
	ck_assert_uint_eq(f.c.h->device[0].granted_bytes, 0);
	fixture_end(&f);
}
END_TEST

static const struct suite_case cases[] = {
	{ &budgets_out_of_order_are_einval },
	{ &minimum_that_cannot_be_promised_is_refused_with_the_arithmetic },
	{ &a_min_comes_with_its_page_records },
	{ &max_lowered_while_memory_is_on_its_way },
	{ &fault_055_budgets_at_the_edges_of_64_bits },
	{ &dry_run_changes_nothing },
	{ &table_of_tenants_full },
	{ &i7_max_is_never_exceeded },
	{ &i7_min_holds_in_every_order_of_borrowers },
	{ &i7_lent_memory_comes_back_by_revocation },
	{ &i7_a_larger_slab_is_not_taken_for_a_smaller_one },
	{ &revoked_memory_is_the_askers_to_take },
	{ &shares_settle_by_weight_and_do_not_swing },
	{ &fault_090_max_lowered_below_use_converges },
	{ &delete_waits_for_clients_and_memory },
	{ NULL },
};

int main(void)
{
	return suite_run("tenant", cases);
}
