/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A space and the space below it: copies that know of each other, and what is written down when.
 *
 * Copies. A page and its copy find each other by their key; BELOW and ABOVE say that there is one
 * to find. While the upper page is in use its copy is SPARE, the first to go below: a key costs
 * memory in both tiers only as long as there is some. When the upper page is ripe, or evicted, its
 * copy is the most recently used below. So capacities add up, and a page that comes and goes is
 * written once.
 *
 * Room below is a free page, a new slab, or the lower space's own eviction, in this order; slabs
 * are asked for before the last free page is gone.
 */

#include "broker/core/index.h"

#define LOWER_WORK 256u /* pages below that one copy may look at for a victim */
#define SLAB_NEAR_NS (20ull * 1000 * 1000)
#define GROW_PART 4u /* a slab below is asked for when less than this part of one is free */
#define HUNGRY_S 2u  /* a space that was refused a slab and asks no more is not waited for */

/* ---- copies that know of each other -------------------------------------------------------- */

uint32_t core_tier_find(const struct core *c, unsigned space, const struct core_page *p)
{
	struct core_key key = {
		.hash = p->hash,
		.salt = p->salt,
		.ns = p->ns,
		.space = (uint16_t)space,
		.epoch = p->epoch,
	};

	return core_index_find(
		c, core_index_mix(c, core_index_seed(c, space, p->ns, p->salt), &p->hash), &key);
}

void core_tier_pair(struct core *c, uint32_t upper, uint32_t lower)
{
	assert(c->pages[upper].flags & CORE_PAGE_INDEXED);
	assert(c->pages[lower].flags & CORE_PAGE_INDEXED);
	c->pages[upper].flags |= CORE_PAGE_BELOW;
	c->pages[lower].flags |= CORE_PAGE_ABOVE | CORE_PAGE_SPARE; /* until the other is ripe */
	if (!(c->pages[lower].flags & CORE_PAGE_BUSY))
		core_page_touch(c, lower);
}

void core_tier_part(struct core *c, uint32_t page)
{
	struct core_page *p = &c->pages[page];
	struct core_space *s = core_space_of(c, page);
	struct core_page *q;
	uint32_t other;

	if (!(p->flags & (CORE_PAGE_BELOW | CORE_PAGE_ABOVE)))
		return;
	other = core_tier_find(c, p->flags & CORE_PAGE_BELOW ? s->below : s->above, p);
	assert(other != CORE_NONE);
	q = &c->pages[other];
	p->flags &= (uint16_t) ~(CORE_PAGE_BELOW | CORE_PAGE_ABOVE | CORE_PAGE_SPARE);
	if (q->flags & CORE_PAGE_BELOW) {
		q->flags &= (uint16_t)~CORE_PAGE_BELOW;
		return;
	}
	q->flags &= (uint16_t) ~(CORE_PAGE_ABOVE | CORE_PAGE_SPARE);
	q->hits = p->hits;
	q->expire_s = p->expire_s;
	if (q->flags & (CORE_PAGE_LISTED | CORE_PAGE_RIPE))
		core_page_touch(c, other);
}

/* ---- room below ---------------------------------------------------------------------------- */

/* A slab is on its way, and not for so long that it may be long: an arena that is being filled. */
static bool is_slab_near(const struct core *c, const struct core_space *low)
{
	return low->creating && c->now_ns < low->asked_ns + SLAB_NEAR_NS;
}

/* Another space of the tenant has nothing to write to and less than this one: it goes first. */
static bool is_sibling_hungry(const struct core *c, const struct core_space *low)
{
	for (unsigned i = 0; i < c->h->limits.spaces; i++) {
		const struct core_space *s = &c->spaces[i];

		if (s->used && s->hungry_s && c->now_s - s->hungry_s <= HUNGRY_S && s != low &&
		    s->tenant == low->tenant && s->device == low->device &&
		    s->slabs * s->slab_bytes < low->slabs * low->slab_bytes)
			return true;
	}
	return false;
}

/* Asks for slabs in good time, when n pages are about to be taken. */
void core_tier_grow_low(struct core *c, struct core_space *low, uint32_t n)
{
	uint32_t want = n + low->pages_per_slab / GROW_PART;
	uint32_t slabs;

	if (low->pages_free >= want || low->creating || is_sibling_hungry(c, low))
		return;
	slabs = (want - low->pages_free + low->pages_per_slab - 1) / low->pages_per_slab;
	low->used_ns = c->now_ns;
	low->hungry_s = core_space_add_slabs(c, low, slabs, NULL) <= 0 ? c->now_s : 0;
}

/* The next page below that may go; CORE_NONE: none, *ret_error: for now, or at all. */
static uint32_t next_low(struct core *c, struct core_space *low, uint32_t *work, int *ret_error)
{
	uint32_t page;

	*ret_error = -ENOSPC;
	if (low->ripe || core_store_usable(c, low)) { /* or it was there when they became ripe */
		core_ripen_soon(c, low);
		page = core_ripe_next(c, low, 1, false, work);
		if (page != CORE_NONE)
			return page;
		if (core_ripe_coming(c, low)) {
			*ret_error = -EAGAIN;
			return CORE_NONE;
		}
	}
	return c->policy->victims(c, low, 1, &page, work) ? page : CORE_NONE;
}

/* A page below, taken from another key. */
static uint32_t evict_low(struct core *c, struct core_space *low, int *ret_error)
{
	uint32_t work = LOWER_WORK, page;

	while (work && (page = next_low(c, low, &work, ret_error)) != CORE_NONE) {
		if (c->pages[page].flags & CORE_PAGE_BUSY)
			continue;
		if (core_slab_of(c, page)->state != CORE_SLAB_LIVE) {
			core_page_discard(c, page);
			continue;
		}
		core_page_evicted(c, page);
		low->evictions++;
		c->h->device[low->device].evictions++;
		return page;
	}
	return CORE_NONE;
}

static uint32_t take_low(struct core *c, struct core_space *low, int *ret_error)
{
	for (unsigned w = 0; w < CORE_SLOT_WORDS; w++) {
		if (low->has_free[w]) {
			unsigned slot = w * 64 + (unsigned)__builtin_ctzll(low->has_free[w]);

			return core_page_take_free(c, &c->slabs[low->slab_of_slot[slot]]);
		}
	}
	return evict_low(c, low, ret_error);
}

/* Is the first memory below on its way? Until then there is nothing to write to. */
bool core_tier_coming(const struct core *c, const struct core_space *s)
{
	const struct core_space *low = &c->spaces[s->below];

	return s->below != CORE_NONE16 && !low->pages_free && is_slab_near(c, low);
}

/* Is there a copy of the page already? They find each other then. */
bool core_tier_has_copy(struct core *c, struct core_space *s, uint32_t page)
{
	uint32_t there;

	assert(!(c->pages[page].flags & CORE_PAGE_BUSY));
	if (s->below == CORE_NONE16)
		return core_store_has(c, page);
	if (c->pages[page].flags & CORE_PAGE_BELOW)
		return true;
	there = core_tier_find(c, s->below, &c->pages[page]);
	if (there != CORE_NONE && core_page_usable(c, there)) {
		core_tier_pair(c, page, there);
		return true;
	}
	if (there != CORE_NONE)
		core_page_displace(c, there);
	return false;
}

uint32_t core_tier_take_lows(struct core *c, const struct core_space *s, uint32_t n, uint32_t *ret,
			     int *ret_error)
{
	struct core_space *low = &c->spaces[s->below];
	uint32_t got = 0, page;
	bool near;

	*ret_error = -EAGAIN;
	if (!core_transfer_room(c, s))
		return 0;
	core_tier_grow_low(c, low, n);
	if (core_tier_coming(c, s))
		return 0;
	near = is_slab_near(c, low); /* then nothing need be evicted below */
	while (got < n && got < core_transfer_room(c, s) && (low->pages_free || !near) &&
	       (page = take_low(c, low, ret_error)) != CORE_NONE)
		core_pages_insert(ret, got++, page);
	/* all that is there is being written or read: with a store behind, it makes way after that
	 */
	if (!got && core_store_usable(c, low) && (s->falling || s->rising || low->falling))
		*ret_error = -EAGAIN;
	/* what was to make way below may have taken the last transfers for itself */
	for (; got > core_transfer_room(c, s); *ret_error = -EAGAIN)
		core_page_make_free(c, ret[--got]);
	return got;
}

void core_tier_begin_down(struct core *c, uint32_t page, uint32_t to)
{
	core_page_arrive(c, to, &c->pages[page]);
	core_transfer_start(c, CORE_DOWN, page, to, false);
}

int core_tier_down(struct core *c, struct core_space *s, uint32_t page)
{
	uint32_t to;
	int error;

	if (core_tier_has_copy(c, s, page))
		return 1;
	if (s->below == CORE_NONE16)
		return core_store_down(c, s, page);
	if (!core_tier_take_lows(c, s, 1, &to, &error))
		return error;
	core_tier_begin_down(c, page, to);
	return 0;
}
