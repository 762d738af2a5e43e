/* SPDX-License-Identifier: Apache-2.0 */

/*
 * See fixture_store.h.
 */

#include "tests/unit/fixture_store.h"

static bool has(void *arg, const struct core_key *key)
{
	const struct fixture_store *s = arg;

	ck_assert_uint_eq(key->space, s->space);
	ck_assert_uint_lt(key->hash.w[1], STORE_KEYS);
	return key->epoch && s->epoch[key->hash.w[1]] == key->epoch;
}

static bool admit(void *arg, const struct core_page *page, const struct core_key *key)
{
	struct fixture_store *s = arg;

	ck_assert(!memcmp(&page->hash, &key->hash, sizeof(key->hash)));
	s->admits++;
	return !s->refused[key->hash.w[1]];
}

static const struct core_store_ops ops = { .has = has, .admit = admit };

void fixture_store_attach(struct fixture_store *s)
{
	core_store_attach(&s->f->c, &ops, s);
}

static struct core_member *start(struct fixture_store *s, struct fixture *f, uint32_t slabs)
{
	struct core_member *m = fixture_member(f, slabs);

	memset(s, 0, sizeof(*s));
	s->f = f;
	s->space = m->space;
	fixture_store_attach(s);
	return m;
}

struct core_member *fixture_store_host(struct fixture_store *s, struct fixture *f, uint32_t slabs,
				       uint32_t transfers)
{
	struct core_limits limits = fixture_limits;

	limits.transfers = transfers;
	fixture_start(f, &limits, 32);
	return start(s, f, slabs);
}

struct core_member *fixture_store_arena(struct fixture_store *s, struct fixture *f, uint32_t slabs,
					uint32_t arena_handles, uint32_t transfers)
{
	fixture_start_tiers(f, 32, arena_handles, transfers);
	return start(s, f, slabs);
}

void fixture_store_put(struct fixture_store *s, uint64_t first, uint32_t n)
{
	for (uint64_t key = first; key < first + n; key++)
		s->epoch[key] = s->f->c.namespaces[0].epoch;
}

bool fixture_store_has(const struct fixture_store *s, uint64_t key)
{
	return s->epoch[key] == s->f->c.namespaces[0].epoch;
}

unsigned fixture_store_take(struct fixture_store *s)
{
	unsigned t = core_next_store_transfer(&s->f->c);

	ck_assert_uint_ne(t, CORE_NONE16);
	ck_assert_uint_eq(s->f->c.transfers[t].state, CORE_TRANSFER_FLIGHT);
	return t;
}

uint64_t fixture_store_key(const struct fixture_store *s, unsigned transfer)
{
	const struct core *c = &s->f->c;
	struct core_key key;
	uint32_t page = core_store_page(c, transfer, &key);

	ck_assert(!memcmp(&c->pages[page].hash, &key.hash, sizeof(key.hash)));
	ck_assert_uint_eq(c->pages[page].epoch, key.epoch);
	ck_assert_uint_eq(c->pages[page].ns, key.ns);
	ck_assert_uint_eq(key.space, s->space);
	return key.hash.w[1];
}

void fixture_store_done(struct fixture_store *s, unsigned transfer, int error)
{
	bool up = s->f->c.transfers[transfer].direction == CORE_UP;
	uint64_t key = fixture_store_key(s, transfer);

	if (!up && !error)
		fixture_store_put(s, key, 1);
	core_transfer_done(&s->f->c, transfer, error, up ? (uint32_t)key + 77 : 0);
	fixture_check(s->f);
}

uint32_t fixture_store_serve(struct fixture_store *s)
{
	uint32_t n = 0;

	for (unsigned t; (t = core_next_store_transfer(&s->f->c)) != CORE_NONE16; n++)
		fixture_store_done(s, t, 0);
	return n;
}

void fixture_store_sink(struct fixture_store *s, struct core_member *m, uint64_t first, uint32_t n)
{
	for (uint64_t key = first; key < first + n; key++) {
		fixture_cache(s->f, m, key);
		fixture_sink(s->f, m, key);
	}
}
