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

#include "tests/sim/sabotage.h"

#include <stdio.h>
#include <string.h>

#define SEEDS 40u
#define STEPS 1500u
#define STEPS_LATER 3000u

/* ---- places to break ----------------------------------------------------------------------- */

uint32_t sabotage_find(struct world *w, bool (*want)(const struct core_page *p))
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
	uint32_t page = sabotage_find(w, is_indexed);
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
	uint32_t page = sabotage_find(w, is_indexed);
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

const struct sabotage sabotages[] = {
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
	{ NULL },
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

static int run_all(struct world *w, const struct sabotage *s)
{
	int missed = 0;

	for (; s->name; s++) {
		char why[256] = "nobody noticed";
		unsigned noticed = try_sabotage(w, s, why, sizeof(why));
		bool ok = (noticed & s->by) == s->by;

		printf("%s %s: %s%s%s\n", ok ? "caught" : "MISSED", s->name,
		       noticed & BY_CHECK ? "[check] " : "", noticed & BY_MODEL ? "[model] " : "",
		       why);
		missed += !ok;
	}
	return missed;
}

int sabotage_run_all(struct world *w)
{
	return run_all(w, sabotages) + run_all(w, sabotages_of_tiers) ? 1 : 0;
}
