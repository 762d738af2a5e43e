/* SPDX-License-Identifier: Apache-2.0 */

/* The index of a store against a plain table of what should be in it. */

#include <stdlib.h>
#include <string.h>

#include "broker/store/index.h"
#include "tests/unit/suite.h"

#define KEYS 600u

struct model {
	bool there;
	struct index_place at;
};

static uint64_t random_state;

static uint32_t random_below(uint32_t n)
{
	uint64_t x = random_state += 0x9e3779b97f4a7c15ull;

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return (uint32_t)((x ^ (x >> 31)) % n);
}

/* Few homes, so that runs are long, at both ends of the table; and tags that differ in `more`. */
static struct index_tag tag_of(uint32_t key)
{
	const uint64_t high = key % 3 == 0 ? 0 : key % 3 == 1 ? UINT64_MAX << 52 : 1ull << 63;

	return (struct index_tag){ .tag = high + key / 6 + 1, .more = key % 6 / 3 ? 0x3fffff : 5 };
}

static void check_all(const struct store_index *x, const struct model *m)
{
	uint64_t n = 0;

	for (uint32_t key = 0; key < KEYS; key++) {
		const struct index_tag t = tag_of(key);
		struct index_place at;

		ck_assert_int_eq(index_table_find(x, &t, &at), m[key].there);
		n += m[key].there;
		if (!m[key].there)
			continue;
		ck_assert_uint_eq(at.segment, m[key].at.segment);
		ck_assert_uint_eq(at.unit, m[key].at.unit);
		ck_assert_uint_eq(at.crc, m[key].at.crc);
		ck_assert_int_eq(at.hot, m[key].at.hot);
	}
	ck_assert_uint_eq(x->used, n);
}

static void put(struct store_index *x, struct model *m, uint32_t key)
{
	const struct index_tag t = tag_of(key);
	const struct index_place at = { .segment = random_below(4) * (INDEX_SEGMENTS_MAX / 4) +
						   random_below(3),
					.unit = (uint16_t)random_below(65536),
					.crc = random_below(UINT32_MAX),
					.hot = random_below(2) };
	const bool room = m[key].there || x->used < x->used_max;

	ck_assert_int_eq(index_table_put(x, &t, &at), room);
	if (room)
		m[key] = (struct model){ true, at };
}

static void step(struct store_index *x, struct model *m)
{
	const uint32_t key = random_below(KEYS), what = random_below(100);
	const struct index_tag t = tag_of(key);

	if (what < 50) {
		put(x, m, key);
	} else if (what < 85) {
		const bool wrong = random_below(4) == 0;
		const uint16_t unit = (uint16_t)(m[key].at.unit + wrong);

		ck_assert_int_eq(index_table_remove_at(x, &t, m[key].at.segment, unit),
				 m[key].there && !wrong);
		m[key].there = m[key].there && wrong;
	} else if (what < 92) {
		index_table_heat(x, &t);
		m[key].at.hot = true;
	} else if (what < 99) {
		index_table_cool(x, &t);
		m[key].at.hot = false;
	} else {
		uint64_t n = 0;

		for (uint32_t i = 0; i < KEYS; i++) {
			if (m[i].there && m[i].at.segment == m[key].at.segment) {
				m[i].there = false;
				n++;
			}
		}
		ck_assert_uint_eq(index_table_sweep(x, m[key].at.segment), n);
	}
}

START_TEST(any_history_agrees_with_a_table)
{
	static struct model m[KEYS];
	struct store_index x;
	void *mem = calloc(1, index_table_bytes(400));

	ck_assert_ptr_nonnull(mem);
	memset(m, 0, sizeof(m));
	random_state = (uint64_t)_i * 7919;
	index_table_init(&x, mem, 400);
	for (unsigned i = 0; i < 20000; i++) {
		step(&x, m);
		if (i % 97 == 0)
			check_all(&x, m);
	}
	check_all(&x, m);
	free(mem);
}
END_TEST

START_TEST(at_most_32_bytes_a_page)
{
	ck_assert_uint_le(index_table_bytes(1 << 20), 32ull << 20);
	ck_assert_uint_le(index_table_bytes(1ull << 32), 32ull << 32);
}
END_TEST

int main(void)
{
	static const struct suite_case cases[] = {
		{ &any_history_agrees_with_a_table, 60, 10 },
		{ &at_most_32_bytes_a_page, 0, 1 },
		{ 0 },
	};

	return suite_run("store-index", cases);
}
