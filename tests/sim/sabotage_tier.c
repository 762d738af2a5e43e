/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Breaks of what tiers have: copies, transfers, the store. See sabotage.c.
 */

#include "tests/sim/sabotage.h"

#include <string.h>

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
	uint32_t page = sabotage_find(w, is_arriving);
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
	uint32_t page = sabotage_find(w, is_unpaired);

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
	if (!w->c.sums || sabotage_find(w, is_copy) == CORE_NONE)
		return false;
	for (uint32_t i = 0; i < w->c.h->limits.pages; i++)
		w->c.sums[i] ^= 1;
	return true;
}

/* ---- breaks of the store ------------------------------------------------------------------- */

/* One that waits for the store, or (via) that it fills a page of the arena for. */
static struct core_transfer *find_store_transfer(struct world *w, enum core_direction direction,
						 bool via)
{
	for (uint32_t i = 0; i < w->c.h->limits.transfers; i++) {
		struct core_transfer *t = &w->c.transfers[i];

		if (t->store && t->direction == direction && t->state == CORE_TRANSFER_QUEUED &&
		    (!via || t->from != CORE_NONE))
			return t;
	}
	return NULL;
}

#define BREAK_STORE(name, direction, via, statement)                                               \
	static bool name(struct world *w)                                                          \
	{                                                                                          \
		struct core_transfer *t = find_store_transfer(w, direction, via);                  \
		if (!t)                                                                            \
			return false;                                                              \
		statement;                                                                         \
		return true;                                                                       \
	}

BREAK_STORE(break_store_flag, CORE_DOWN, false, t->store = 0)
BREAK_STORE(break_store_queue, CORE_DOWN, false, w->c.h->store_queue[CORE_DOWN].first = CORE_NONE16)
BREAK_STORE(break_store_direction, CORE_UP, false, t->direction = CORE_DOWN)
BREAK_STORE(break_store_busy, CORE_DOWN, false,
	    w->c.pages[t->from].flags &= (uint16_t)~CORE_PAGE_BUSY)
BREAK_STORE(break_store_target, CORE_UP, false, t->to = CORE_NONE)
BREAK_STORE(break_store_epoch, CORE_DOWN, false, w->c.pages[t->from].epoch++)
BREAK_STORE(break_store_salt, CORE_UP, false, w->c.pages[t->to].salt++)
BREAK_STORE(break_via_busy, CORE_UP, true, w->c.pages[t->from].flags &= (uint16_t)~CORE_PAGE_BUSY)
BREAK_STORE(break_via_visible, CORE_UP, true, w->c.pages[t->from].flags |= CORE_PAGE_INDEXED)
BREAK_STORE(break_via_done, CORE_UP, true, w->c.pages[t->from].state = CORE_PAGE_SEALED)

BREAK_PAGE(break_spare_alone, is_unpaired, p->flags |= CORE_PAGE_SPARE)

static struct core_space *space_of(struct world *w, uint32_t page)
{
	return &w->c.spaces[w->c.slabs[w->c.units[page / CORE_UNIT_PAGES]].space];
}

BREAK_STORE(break_store_falling, CORE_DOWN, false, space_of(w, t->from)->falling--)
BREAK_STORE(break_store_rising, CORE_UP, false, space_of(w, t->to)->rising--)
BREAK_STORE(break_store_share, CORE_DOWN, false,
	    w->c.tenants[space_of(w, t->from)->tenant].transfers--)

/* The mover has it before the store has filled the page that it reads. */
static bool break_second_leg(struct world *w)
{
	struct core_transfer *t = find_store_transfer(w, CORE_UP, true);
	struct core_queue *q = t ? &w->c.h->queue[t->device][CORE_UP] : NULL;
	uint16_t index = (uint16_t)(t - w->c.transfers);

	if (!t || w->c.h->store_queue[CORE_UP].first != index || q->first != CORE_NONE16)
		return false;
	w->c.h->store_queue[CORE_UP].first = t->next;
	t->next = CORE_NONE16;
	t->store = 0;
	q->first = q->last = index;
	return true;
}

/* What it reads back is another key's. */
static bool break_store_bytes(struct world *w)
{
	uint64_t bytes = 0;
	uint32_t n = 0;

	for (uint32_t i = 0; i < W_STORED; i++) {
		struct stored *e = &w->stored[i];
		uint64_t own = e->bytes;

		if (!e->used)
			continue;
		e->bytes = bytes;
		bytes = own;
		n++;
	}
	return n > 8;
}

static bool break_store_gone(struct world *w)
{
	if (!w->store_there)
		return false;
	w->store_there = false;
	return true;
}

#define BREAK_COUNT(name, counter)                                                                 \
	static bool name(struct world *w)                                                          \
	{                                                                                          \
		if (!w->c.h->n.counter)                                                            \
			return false;                                                              \
		w->c.h->n.counter++;                                                               \
		return true;                                                                       \
	}

BREAK_COUNT(break_count_stored, stored)
BREAK_COUNT(break_count_stored_bytes, stored_bytes)
BREAK_COUNT(break_count_fetched, fetched)
BREAK_COUNT(break_count_lost, store_lost)
BREAK_COUNT(break_count_refused, store_refused)

const struct sabotage sabotages_of_tiers[] = {
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
	{ "store-flag", break_store_flag, BY_CHECK, false },
	{ "store-queue", break_store_queue, BY_CHECK, false },
	{ "store-direction", break_store_direction, BY_CHECK, false },
	{ "store-busy", break_store_busy, BY_CHECK | BY_MODEL, false },
	{ "store-target", break_store_target, BY_CHECK, false },
	{ "store-epoch", break_store_epoch, BY_MODEL, false },
	{ "store-salt", break_store_salt, BY_MODEL, false },
	{ "store-falling", break_store_falling, BY_CHECK, false },
	{ "store-rising", break_store_rising, BY_CHECK, false },
	{ "store-share", break_store_share, BY_CHECK, false },
	{ "via-busy", break_via_busy, BY_CHECK | BY_MODEL, false },
	{ "via-visible", break_via_visible, BY_CHECK | BY_MODEL, false },
	{ "via-done", break_via_done, BY_CHECK | BY_MODEL, false },
	{ "spare-alone", break_spare_alone, BY_CHECK, false },
	{ "second-leg", break_second_leg, BY_CHECK | BY_MODEL, true },
	{ "store-bytes", break_store_bytes, BY_MODEL, true },
	{ "store-gone", break_store_gone, BY_MODEL, true },
	{ "count-stored", break_count_stored, BY_MODEL, false },
	{ "count-stored-bytes", break_count_stored_bytes, BY_MODEL, false },
	{ "count-fetched", break_count_fetched, BY_MODEL, false },
	{ "count-lost", break_count_lost, BY_MODEL, false },
	{ "count-refused", break_count_refused, BY_MODEL, false },
	{ NULL },
};
