/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The prefix index: keys that crowd one group, the counters of those that went on, and full load.
 *
 * Keys are put in and taken out as clients and operators do, by sealing and evicting pages; only
 * the choice of keys looks inside: it picks those that land in one group, with one tag if wanted,
 * which no client can do without the boot's secret.
 */

#include "broker/core/index.h"

#include "tests/unit/fixture.h"
#include "tests/unit/suite.h"

#define PAGES 512u

static const struct core_limits limits = { .pages = PAGES,
					   .slabs = 16,
					   .spaces = 2,
					   .clients = 2,
					   .members = 2,
					   .tenants = 1,
					   .namespaces = 2 };
static struct fixture f;
static struct core_member *member;

/* All page records in use: eight slabs of 64 pages. */
static void start(void)
{
	fixture_start(&f, &limits, 8);
	unsigned client = fixture_client(&f, fixture_tenant(&f, "t", 0, UINT64_MAX));
	member = fixture_space(&f, client, 32 << 10);
	ck_assert_uint_eq(fixture_ns(&f, client, 1, 0), 0);
	fixture_grow(&f, member, 8);
}

static uint64_t mix_of(uint64_t key)
{
	struct kvb_hash hash = fixture_hash(key);

	return core_index_mix(&f.c, core_index_seed(&f.c, member->space, 0, 0), &hash);
}

/* The next key after *key that lands in `group`, under `tag` unless that is 0. */
static uint64_t next_key(uint64_t *key, uint32_t group, uint8_t tag)
{
	for (;;) {
		uint64_t mix = mix_of(++*key);
		if (core_index_home_group(&f.c, mix) == group &&
		    (!tag || core_index_tag_of(mix) == tag))
			return *key;
	}
}

static uint32_t find(uint64_t key)
{
	struct kvb_hash hash = fixture_hash(key);

	return core_page_find(&f.c, member->space, 0, 0, &hash);
}

static uint64_t all_passed(void)
{
	uint64_t n = 0;

	for (uint32_t g = 0; g < f.c.h->groups; g++)
		n += f.c.groups[g].passed;
	return n;
}

/* Seals and releases `key`; returns its page's name. */
static kvb_page_t put(uint64_t key)
{
	kvb_page_t page = fixture_seal(&f, member, key);

	ck_assert_int_eq(fixture_release(&f, member, page), 0);
	return page;
}

static void crowd(uint32_t group, uint8_t tag)
{
	uint64_t keys[48], key = 0;
	kvb_page_t page[48];

	start();
	for (unsigned i = 0; i < 48; i++) {
		keys[i] = next_key(&key, group, tag);
		page[i] = put(keys[i]);
	}
	/* 36 went past their own group, 24 past the next, 12 past the one after that */
	ck_assert_uint_eq(f.c.groups[group].passed, 36);
	ck_assert_uint_eq(f.c.groups[(group + 1) % f.c.h->groups].passed, 24);
	ck_assert_uint_eq(f.c.groups[(group + 2) % f.c.h->groups].passed, 12);
	ck_assert_uint_eq(all_passed(), 72);
	for (unsigned i = 0; i < 48; i++)
		ck_assert_uint_eq(core_page_name(&f.c, find(keys[i])), page[i]);
	uint64_t absent = next_key(&key, group, tag);
	ck_assert_uint_eq(find(absent), CORE_NONE);
	fixture_check(&f);
	/* every third goes: the rest is still found, wherever a hole is on its way */
	for (unsigned i = 0; i < 48; i += 3)
		ck_assert_int_eq(core_page_evict(&f.c, find(keys[i])), 0);
	for (unsigned i = 0; i < 48; i++)
		ck_assert_uint_eq(find(keys[i]) == CORE_NONE, i % 3 == 0);
	fixture_check(&f);
	for (unsigned i = 0; i < 48; i++) {
		if (i % 3)
			ck_assert_int_eq(core_page_evict(&f.c, find(keys[i])), 0);
	}
	ck_assert_uint_eq(all_passed(), 0);
	ck_assert_uint_eq(f.c.h->indexed, 0);
	fixture_end(&f);
}

START_TEST(keys_of_one_group)
{
	crowd(5, 0);
}
END_TEST

START_TEST(keys_of_one_group_and_tag)
{
	crowd(5, 77);
}
END_TEST

START_TEST(keys_of_the_last_group_go_round)
{
	start();
	uint32_t last = f.c.h->groups - 1;
	fixture_end(&f);
	crowd(last, 0);
}
END_TEST

START_TEST(counter_that_saturates_stays)
{
	uint64_t key = 0, keys[14];

	start();
	for (unsigned i = 0; i < 14; i++) {
		keys[i] = next_key(&key, 3, 0);
		put(keys[i]);
		if (i == 12)
			f.c.groups[3].passed = UINT16_MAX; /* as after 65535 that passed at once */
	}
	ck_assert_uint_eq(f.c.groups[3].passed, UINT16_MAX);
	for (unsigned i = 0; i < 14; i++)
		ck_assert_int_eq(core_page_evict(&f.c, find(keys[i])), 0);
	ck_assert_uint_eq(f.c.groups[3].passed, UINT16_MAX);
	put(keys[0]);
	ck_assert_uint_ne(find(keys[0]), CORE_NONE);
	ck_assert_uint_eq(find(keys[1]), CORE_NONE);
	fixture_end(&f);
}
END_TEST

START_TEST(every_page_indexed_and_found)
{
	kvb_page_t page[PAGES];

	start();
	for (uint32_t i = 0; i < PAGES; i++)
		page[i] = put(i);
	ck_assert_uint_eq(f.c.h->indexed, PAGES);
	ck_assert_uint_le(PAGES * 10,
			  f.c.h->groups * CORE_GROUP_SLOTS * 9); /* never more than 9/10 full */
	fixture_check(&f);
	for (uint32_t i = 0; i < PAGES; i++)
		ck_assert_uint_eq(core_page_name(&f.c, find(i)), page[i]);
	for (uint32_t i = PAGES; i < 2 * PAGES; i++)
		ck_assert_uint_eq(find(i), CORE_NONE);
	fixture_end(&f);
}
END_TEST

START_TEST(keys_come_and_go_for_long)
{
	start();
	for (uint64_t key = 0; key < 40000; key++) {
		put(key);
		ck_assert_uint_ne(find(key), CORE_NONE);
		if (key >= PAGES) /* the page of this one has just been taken for the new one */
			ck_assert_uint_eq(find(key - PAGES), CORE_NONE);
	}
	ck_assert_uint_eq(f.c.h->indexed, PAGES);
	fixture_end(&f);
}
END_TEST

START_TEST(fault_095_keys_that_differ_in_one_bit)
{
	struct kvb_seal seal = { .depth = 0 };
	kvb_page_t ret;

	start();
	for (unsigned bit = 0; bit < 128; bit++) {
		seal.hash = (struct kvb_hash){ { 0, 0 } };
		seal.hash.w[bit / 64] = 1ull << (bit % 64);
		ck_assert_uint_eq(core_page_find(&f.c, member->space, 0, 0, &seal.hash), CORE_NONE);
		fixture_alloc(&f, member, 1, &seal.page);
		assert_batch(core_seal(&f.c, member, 0, 1, 0, &seal, 1, &ret), 1, 0);
		ck_assert_uint_eq(ret, seal.page);
	}
	seal.hash = (struct kvb_hash){ { 0, 0 } };
	ck_assert_uint_eq(core_page_find(&f.c, member->space, 0, 0, &seal.hash), CORE_NONE);
	fixture_end(&f);
}
END_TEST

static const struct suite_case cases[] = {
	{ &keys_of_one_group },
	{ &keys_of_one_group_and_tag, 20 },
	{ &keys_of_the_last_group_go_round },
	{ &counter_that_saturates_stays },
	{ &every_page_indexed_and_found },
	{ &keys_come_and_go_for_long, 30 },
	{ &fault_095_keys_that_differ_in_one_bit },
	{ NULL },
};

int main(void)
{
	return suite_run("index", cases);
}
