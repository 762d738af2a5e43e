/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The store of a simulated replay; see sim_store.h.
 *
 * The order of age is a ring of `pages` places: the oldest leaves at one end and what is written
 * enters at the other. Places under keys of one hash are chained, so that a key is found.
 *
 * All keys of a replay are of one namespace, epoch and space, and the ballast's pages are made
 * before there is a store: so the chain hash is the key.
 */

#include "tools/kvb-replay/sim_store.h"

#include <errno.h>
#include <stdlib.h>

#include "broker/policy/admit.h"
#include "tools/kvb-replay/sim.h"

#define SEGMENTS 16u  /* that the capacity is made of; the real store has 8 to 64 */
#define CARRY_PART 4u /* of a segment, that may be carried */
#define ADMIT_PART 2u /* of the pages are remembered by admission, as in the daemon */
#define NO_PLACE UINT32_MAX

struct place {
	struct kvb_hash hash;
	uint64_t stamp;
	uint32_t next; /* in its chain */
	bool read;     /* since it was written */
};

struct sim_store {
	struct place *place;
	uint32_t places, used, oldest;
	uint32_t *chain; /* first places */
	uint32_t chain_mask;
	uint32_t segment;         /* pages of one */
	uint32_t looked, carried; /* of the segment that is being emptied */
	uint64_t carried_all;
	struct admit admit;
	uint64_t *admit_bits[2];
};

/* ---- places and chains --------------------------------------------------------------------- */

/* The link that leads to the place of a key, or to none. */
static uint32_t *find(const struct sim_store *t, const struct kvb_hash *hash)
{
	uint32_t *link = &t->chain[hash->w[0] & t->chain_mask];

	while (*link != NO_PLACE &&
	       (t->place[*link].hash.w[0] != hash->w[0] || t->place[*link].hash.w[1] != hash->w[1]))
		link = &t->place[*link].next;
	return link;
}

/* At the young end. There is room, and the key is not there. */
static void append(struct sim_store *t, const struct kvb_hash *hash, uint64_t stamp)
{
	uint32_t at = (uint32_t)(((uint64_t)t->oldest + t->used++) % t->places);
	uint32_t *first = &t->chain[hash->w[0] & t->chain_mask];

	t->place[at] = (struct place){ .hash = *hash, .stamp = stamp, .next = *first };
	*first = at;
}

static struct place take_oldest(struct sim_store *t)
{
	struct place p = t->place[t->oldest];

	*find(t, &p.hash) = p.next;
	t->oldest = (t->oldest + 1) % t->places;
	t->used--;
	return p;
}

/* Room for one more. */
static void make_room(struct sim_store *t)
{
	while (t->used == t->places) {
		struct place p = take_oldest(t);

		if (t->looked++ == t->segment)
			t->looked = 1, t->carried = 0;
		if (!p.read || t->carried == t->segment / CARRY_PART)
			return;
		t->carried++;
		t->carried_all++;
		append(t, &p.hash, p.stamp);
	}
}

/* ---- what the core asks -------------------------------------------------------------------- */

static bool sim_store_has(void *arg, const struct core_key *key)
{
	const struct sim_store *t = arg;

	return *find(t, &key->hash) != NO_PLACE;
}

static bool sim_store_admit(void *arg, const struct core_page *page, const struct core_key *key)
{
	struct sim_store *t = arg;

	return admit_page(&t->admit, page, key);
}

static const struct core_store_ops sim_store_all = { .has = sim_store_has };
static const struct core_store_ops sim_store_filtered = { .has = sim_store_has,
							  .admit = sim_store_admit };

static int put(struct sim_store *t, const struct core_key *key, uint64_t stamp)
{
	if (!sim_store_has(t, key)) {
		make_room(t);
		append(t, &key->hash, stamp);
	}
	return 0;
}

static int get(struct sim_store *t, const struct core_key *key, uint64_t *ret_stamp)
{
	uint32_t at = *find(t, &key->hash);

	if (at == NO_PLACE)
		return -ENOENT;
	t->place[at].read = true;
	*ret_stamp = t->place[at].stamp;
	return 0;
}

bool sim_store_settle(struct sim *s)
{
	bool any = false;
	unsigned i;

	if (!s->store)
		return false;
	for (; (i = core_next_store_transfer(&s->core)) != CORE_NONE16; any = true) {
		struct core_key key;
		uint64_t *stamp = &s->stamp[core_store_page(&s->core, i, &key)];
		bool up = s->core.transfers[i].direction == CORE_UP;
		int error = up ? get(s->store, &key, stamp) : put(s->store, &key, *stamp);

		core_transfer_done(&s->core, i, error, (uint32_t)*stamp);
	}
	return any;
}

/* ---- life ---------------------------------------------------------------------------------- */

static int make_filter(struct sim_store *t)
{
	uint32_t keys = t->places / ADMIT_PART;

	for (unsigned i = 0; i < 2; i++) {
		t->admit_bits[i] = calloc(admit_words(keys), sizeof(uint64_t));
		if (!t->admit_bits[i])
			return -ENOMEM;
	}
	admit_init(&t->admit, keys, t->admit_bits[0], t->admit_bits[1]);
	return 0;
}

int sim_store_open(struct sim *s, uint64_t pages, bool filter)
{
	struct sim_store *t = s->store = calloc(1, sizeof(*t));
	uint32_t chains = 1;

	if (!t)
		return -ENOMEM;
	while (chains < pages)
		chains *= 2;
	t->places = (uint32_t)pages;
	t->segment = t->places / SEGMENTS > CARRY_PART ? t->places / SEGMENTS : CARRY_PART;
	t->place = calloc(pages, sizeof(*t->place));
	t->chain = malloc(chains * sizeof(*t->chain));
	if (!t->place || !t->chain || (filter && make_filter(t) < 0))
		return -ENOMEM;
	for (uint32_t i = 0; i < chains; i++)
		t->chain[i] = NO_PLACE;
	t->chain_mask = chains - 1;
	core_store_attach(&s->core, filter ? &sim_store_filtered : &sim_store_all, t);
	return 0;
}

void sim_store_close(struct sim *s)
{
	struct sim_store *t = s->store;

	if (!t)
		return;
	free(t->admit_bits[0]);
	free(t->admit_bits[1]);
	free(t->place);
	free(t->chain);
	free(t);
	s->store = NULL;
}

uint64_t sim_store_carried(const struct sim *s)
{
	return s->store ? s->store->carried_all : 0;
}
