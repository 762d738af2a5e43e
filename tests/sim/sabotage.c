/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A judge that never convicts is no judge: here the core's tables are broken on purpose, one way at
 * a time, in the middle of a history, and core_check() or the model must notice.
 *
 * `by` says who has to: a break that is against the tables' own relations is core_check()'s, which
 * operators run too; one that leaves them consistent but wrong (another key, an order of eviction
 * that nobody released in) only the model can see. A break that shows in nothing but what comes
 * next has `later` set: the history goes on until it is noticed.
 */

#include "tests/sim/world.h"

#include <stdio.h>
#include <string.h>

#define BY_CHECK 1u
#define BY_MODEL 2u
#define SEEDS 40u
#define STEPS 1500u
#define STEPS_LATER 3000u

struct sabotage {
	const char *name;
	bool (*apply)(struct world *w); /* false: nothing here to break */
	unsigned by;
	bool later;
};

/* ---- places to break ----------------------------------------------------------------------- */

/* A page record of a slab in use that `want` accepts; CORE_NONE. */
static uint32_t find_page(struct world *w, bool (*want)(const struct core_page *p))
{
	for (unsigned i = 0; i < w->c.h->limits.slabs; i++) {
		const struct core_slab *slab = &w->c.slabs[i];
		if (slab->state != CORE_SLAB_LIVE)
			continue;
		for (uint32_t k = slab->base; k < slab->base + slab->pages; k++) {
			if (want(&w->c.pages[k]))
				return k;
		}
	}
	return CORE_NONE;
}

static bool is_filling(const struct core_page *p)
{
	return p->state == CORE_PAGE_FILLING;
}

static bool is_quarantined(const struct core_page *p)
{
	return p->state == CORE_PAGE_QUARANTINE;
}

static bool is_indexed(const struct core_page *p)
{
	return p->state == CORE_PAGE_SEALED && p->flags & CORE_PAGE_INDEXED;
}

static bool is_leased(const struct core_page *p)
{
	return p->state == CORE_PAGE_SEALED && p->leases;
}

static bool is_candidate(const struct core_page *p)
{
	return p->state == CORE_PAGE_SEALED && !p->leases && p->flags & CORE_PAGE_LISTED;
}

/* Where the index holds a page. */
static struct core_group *find_entry(struct world *w, uint32_t page, unsigned *ret_slot)
{
	for (uint32_t g = 0; g < w->c.h->groups; g++) {
		for (unsigned i = 0; i < CORE_GROUP_SLOTS; i++) {
			if (w->c.groups[g].tag[i] && w->c.groups[g].page[i] == page) {
				*ret_slot = i;
				return &w->c.groups[g];
			}
		}
	}
	return NULL;
}

/* ---- breaks -------------------------------------------------------------------------------- */

#define BREAK_PAGE(name, want, statement)                                                          \
	static bool name(struct world *w)                                                          \
	{                                                                                          \
		uint32_t page = find_page(w, want);                                                \
		if (page == CORE_NONE)                                                             \
			return false;                                                              \
		struct core_page *p = &w->c.pages[page];                                           \
		statement;                                                                         \
		return true;                                                                       \
	}

#define BREAK_SLAB(name, want, statement)                                                          \
	static bool name(struct world *w)                                                          \
	{                                                                                          \
		uint32_t page = find_page(w, want);                                                \
		if (page == CORE_NONE)                                                             \
			return false;                                                              \
		struct core_slab *slab = &w->c.slabs[w->c.units[page / CORE_UNIT_PAGES]];          \
		statement;                                                                         \
		return true;                                                                       \
	}

BREAK_PAGE(break_generation, is_filling, p->gen ^= 1u << 3)
BREAK_PAGE(break_generation_zero, is_filling, p->gen = 0)
BREAK_PAGE(break_owner, is_filling, p->owner = (uint16_t)(p->owner + 1))
BREAK_PAGE(break_leased_free, is_leased, p->state = CORE_PAGE_FREE)
BREAK_PAGE(break_quarantine, is_quarantined, p->state = CORE_PAGE_FREE)
BREAK_PAGE(break_epoch, is_indexed, p->epoch++)
BREAK_PAGE(break_key, is_indexed, p->hash.w[0] ^= 1)
BREAK_PAGE(break_salt, is_indexed, p->salt++)
BREAK_PAGE(break_ttl, is_indexed, p->expire_s = w->c.now_s + 100)
BREAK_PAGE(break_lease_lost, is_leased, p->leases--)
BREAK_PAGE(break_lease_count, is_leased, w->c.leases[p->lease].count++)
BREAK_PAGE(break_lease_client, is_leased, w->c.leases[p->lease].client ^= 1)
BREAK_PAGE(break_pin, is_candidate, p->flags |= CORE_PAGE_PINNED)
BREAK_PAGE(break_listed, is_candidate, p->flags &= (uint8_t)~CORE_PAGE_LISTED)
BREAK_SLAB(break_free_bit, is_indexed,
	   w->c.free_bits[page / 64] |= 1ull << ((page - slab->base) % 64))
BREAK_SLAB(break_slab_counts, is_filling, slab->held++)
BREAK_SLAB(break_slab_state, is_filling, slab->state = CORE_SLAB_DRAINING)
BREAK_SLAB(break_mapped, is_filling, slab->mapped--)
BREAK_PAGE(break_charge_pages, is_filling, w->c.tenants[w->c.clients[p->owner].tenant].pages_held--)
BREAK_PAGE(break_charge_leases, is_leased,
	   w->c.tenants[w->c.clients[w->c.leases[p->lease].client].tenant].leases++)

static bool break_index_twice(struct world *w)
{
	uint32_t page = find_page(w, is_indexed);
	unsigned slot;
	struct core_group *g = page == CORE_NONE ? NULL : find_entry(w, page, &slot);

	for (unsigned i = 0; g && i < CORE_GROUP_SLOTS; i++) {
		if (g->tag[i])
			continue;
		g->tag[i] = g->tag[slot];
		g->page[i] = page;
		return true;
	}
	return false;
}

static bool break_index_lost(struct world *w)
{
	uint32_t page = find_page(w, is_indexed);
	unsigned slot;
	struct core_group *g = page == CORE_NONE ? NULL : find_entry(w, page, &slot);

	if (!g)
		return false;
	g->tag[slot] = 0;
	return true;
}

static bool break_charge_bytes(struct world *w)
{
	for (unsigned i = 0; i < w->c.h->limits.tenants; i++) {
		struct core_budget *b = &w->c.tenants[i].budget[0];
		if (!b->used_bytes)
			continue;
		b->used_bytes -= w->m.device[0].handle_bytes;
		return true;
	}
	return false;
}

static bool break_acked(struct world *w)
{
	for (unsigned i = 0; i < w->c.h->limits.members; i++) {
		struct core_member *m = &w->c.members[i];
		if (!m->used || m->sent[1])
			continue;
		m->acked[1] = 1;
		return true;
	}
	return false;
}

/* Two neighbours in the order of eviction change places: every list stays whole. */
static bool break_order(struct world *w)
{
	for (unsigned i = 0; i < w->c.h->limits.spaces; i++) {
		struct core_space *s = &w->c.spaces[i];
		if (!s->used || s->listed < 3)
			continue;
		uint32_t a = s->cold, b = w->c.pages[a].next, c = w->c.pages[b].next;
		if (!is_candidate(&w->c.pages[a]) || !is_candidate(&w->c.pages[b]))
			continue;
		s->cold = b;
		w->c.pages[b].prev = CORE_NONE;
		w->c.pages[b].next = a;
		w->c.pages[a].prev = b;
		w->c.pages[a].next = c;
		w->c.pages[c].prev = a;
		return true;
	}
	return false;
}

static bool break_promise(struct world *w)
{
	for (unsigned i = 0; i < w->c.h->limits.tenants; i++) {
		if (!w->c.tenants[i].used)
			continue;
		w->c.tenants[i].budget[0].min_bytes = 2 * w->m.device[0].capacity_bytes;
		return true;
	}
	return false;
}

/* ---- breaks of tiers ----------------------------------------------------------------------- */

static bool is_busy_source(const struct core_page *p)
{
	return p->state == CORE_PAGE_SEALED && p->flags & CORE_PAGE_BUSY;
}

static bool is_arriving(const struct core_page *p)
{
	return p->state == CORE_PAGE_ARRIVING;
}

static bool is_unpaired(const struct core_page *p)
{
	return is_indexed(p) && !(p->flags & (CORE_PAGE_BELOW | CORE_PAGE_ABOVE | CORE_PAGE_BUSY));
}

static bool is_copied(const struct core_page *p)
{
	return is_indexed(p) && p->flags & CORE_PAGE_BELOW;
}

static bool is_copy(const struct core_page *p)
{
	return is_indexed(p) && p->flags & CORE_PAGE_ABOVE;
}

static bool is_ripe(const struct core_page *p)
{
	return p->flags & CORE_PAGE_RIPE;
}

BREAK_PAGE(break_busy, is_busy_source, p->flags &= (uint16_t)~CORE_PAGE_BUSY)
BREAK_PAGE(break_busy_to, is_arriving, p->flags &= (uint16_t)~CORE_PAGE_BUSY)
BREAK_PAGE(break_arriving_generation, is_arriving, p->gen--)
BREAK_PAGE(break_flight_epoch, is_busy_source, p->epoch++)
BREAK_PAGE(break_pair_stays, is_unpaired, p->flags |= CORE_PAGE_BELOW)
BREAK_PAGE(break_pair_above, is_copied, p->flags &= (uint16_t)~CORE_PAGE_BELOW)
BREAK_PAGE(break_pair_below, is_copy, p->flags &= (uint16_t)~CORE_PAGE_ABOVE)
BREAK_PAGE(break_ripe, is_ripe, p->flags &= (uint16_t)~CORE_PAGE_RIPE)
BREAK_PAGE(break_failed, is_leased, p->flags |= CORE_PAGE_FAILED)

/* ARRIVING, and visible to every LOOKUP. */
static bool break_arriving_visible(struct world *w)
{
	uint32_t page = find_page(w, is_arriving);
	struct core_slab *slab;

	if (page == CORE_NONE)
		return false;
	slab = &w->c.slabs[w->c.units[page / CORE_UNIT_PAGES]];
	slab->arriving--;
	slab->sealed++;
	w->c.pages[page].state = CORE_PAGE_SEALED;
	return true;
}

static struct core_transfer *find_transfer(struct world *w)
{
	for (uint32_t i = 0; i < w->c.h->limits.transfers; i++) {
		if (w->c.transfers[i].state == CORE_TRANSFER_FLIGHT)
			return &w->c.transfers[i];
	}
	return NULL;
}

static bool break_transfer_lost(struct world *w)
{
	struct core_transfer *t = find_transfer(w);

	if (!t)
		return false;
	t->state = CORE_TRANSFER_FREE;
	w->c.h->transfers_used--;
	return true;
}

/* It reads a page that is not its own any more. */
static bool break_transfer_page(struct world *w)
{
	struct core_transfer *t = find_transfer(w);
	uint32_t page = find_page(w, is_unpaired);

	if (!t || page == CORE_NONE)
		return false;
	t->from = page;
	return true;
}

static bool break_falling(struct world *w)
{
	for (unsigned i = 0; i < w->c.h->limits.spaces; i++) {
		if (!w->c.spaces[i].used || w->c.spaces[i].below == CORE_NONE16)
			continue;
		w->c.spaces[i].falling++;
		return true;
	}
	return false;
}

/* Every checksum below is another: no copy up may be taken for good. */
static bool break_sums(struct world *w)
{
	if (!w->c.sums || find_page(w, is_copy) == CORE_NONE)
		return false;
	for (uint32_t i = 0; i < w->c.h->limits.pages; i++)
		w->c.sums[i] ^= 1;
	return true;
}

static const struct sabotage sabotages[] = {
	{ "generation", break_generation, BY_MODEL, false },
	{ "generation-zero", break_generation_zero, BY_CHECK | BY_MODEL, false },
	{ "owner", break_owner, BY_MODEL, false },
	{ "leased-free", break_leased_free, BY_CHECK | BY_MODEL, false },
	{ "quarantine", break_quarantine, BY_CHECK | BY_MODEL, false },
	{ "epoch", break_epoch, BY_MODEL, false },
	{ "key", break_key, BY_CHECK | BY_MODEL, false },
	{ "salt", break_salt, BY_CHECK | BY_MODEL, false },
	{ "ttl", break_ttl, BY_MODEL, false },
	{ "lease-lost", break_lease_lost, BY_CHECK | BY_MODEL, false },
	{ "lease-count", break_lease_count, BY_MODEL, false },
	{ "lease-client", break_lease_client, BY_CHECK | BY_MODEL, false },
	{ "pin", break_pin, BY_MODEL, false },
	{ "listed", break_listed, BY_CHECK, false },
	{ "free-bit", break_free_bit, BY_CHECK, false },
	{ "slab-counts", break_slab_counts, BY_CHECK, false },
	{ "slab-state", break_slab_state, BY_CHECK | BY_MODEL, false },
	{ "mapped", break_mapped, BY_CHECK, false },
	{ "charge-pages", break_charge_pages, BY_CHECK | BY_MODEL, false },
	{ "charge-leases", break_charge_leases, BY_CHECK | BY_MODEL, false },
	{ "charge-bytes", break_charge_bytes, BY_CHECK | BY_MODEL, false },
	{ "index-twice", break_index_twice, BY_CHECK, false },
	{ "index-lost", break_index_lost, BY_CHECK, false },
	{ "acked", break_acked, BY_CHECK, false },
	{ "promise", break_promise, BY_CHECK, false },
	{ "order", break_order, BY_MODEL, true },
	{ "busy", break_busy, BY_CHECK | BY_MODEL, false },
	{ "busy-to", break_busy_to, BY_CHECK | BY_MODEL, false },
	{ "arriving-visible", break_arriving_visible, BY_CHECK | BY_MODEL, false },
	{ "arriving-generation", break_arriving_generation, BY_MODEL, false },
	{ "flight-epoch", break_flight_epoch, BY_MODEL, false },
	{ "pair-stays", break_pair_stays, BY_CHECK, false },
	{ "pair-above", break_pair_above, BY_CHECK, false },
	{ "pair-below", break_pair_below, BY_CHECK, false },
	{ "ripe", break_ripe, BY_CHECK, false },
	{ "failed", break_failed, BY_CHECK | BY_MODEL, false },
	{ "transfer-lost", break_transfer_lost, BY_CHECK | BY_MODEL, false },
	{ "transfer-page", break_transfer_page, BY_CHECK, false },
	{ "falling", break_falling, BY_CHECK, false },
	{ "sums", break_sums, BY_MODEL, true },
};

/* ---- trying them --------------------------------------------------------------------------- */

/* Plays until there is something to break, and breaks it. */
static bool break_somewhere(struct world *w, const struct sabotage *s, uint64_t seed)
{
	world_start(w, seed);
	while (w->step < STEPS) {
		world_step(w);
		if (w->step >= 200 && s->apply(w))
			return true;
	}
	return false;
}

static bool model_notices(struct world *w, bool later)
{
	uint64_t until = w->step + (later ? STEPS_LATER : 0);

	if (setjmp(w->failed))
		return true;
	model_absorb(w);
	model_compare(w);
	while (w->step < until)
		world_step(w);
	return false;
}

/* BY_* of those who noticed; 0: nobody, or there was never anything to break. */
static unsigned try_sabotage(struct world *w, const struct sabotage *s, char *why, size_t why_bytes)
{
	for (volatile uint64_t seed = 1; seed <= SEEDS; seed++) {
		volatile unsigned noticed = 0;
		volatile bool broken = false;

		if (!setjmp(w->failed))
			broken = break_somewhere(w, s, seed);
		if (broken && core_check(&w->c, why, why_bytes))
			noticed |= BY_CHECK;
		if (broken && model_notices(w, s->later)) {
			noticed |= BY_MODEL;
			snprintf(why, why_bytes, "%.255s", w->why);
		}
		world_stop(w);
		/* a break that shows only later may be overtaken by what happens to come first */
		if (noticed || (broken && !s->later))
			return noticed;
	}
	return 0;
}

int sabotage_run_all(struct world *w)
{
	int missed = 0;

	for (unsigned i = 0; i < sizeof(sabotages) / sizeof(sabotages[0]); i++) {
		const struct sabotage *s = &sabotages[i];
		char why[256] = "nobody noticed";
		unsigned noticed = try_sabotage(w, s, why, sizeof(why));
		bool ok = (noticed & s->by) == s->by;

		printf("%s %s: %s%s%s\n", ok ? "caught" : "MISSED", s->name,
		       noticed & BY_CHECK ? "[check] " : "", noticed & BY_MODEL ? "[model] " : "",
		       why);
		missed += !ok;
	}
	return missed ? 1 : 0;
}
