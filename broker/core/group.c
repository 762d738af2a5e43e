/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Groups: a key is found on all ranks or on none.
 *
 * An engine that splits its KV over several devices has a space on each, one a rank, and seals each
 * block once a rank, from as many processes. A block of which a rank is missing is worth nothing,
 * so a page is PENDING, a miss, until every rank has a page under its key, in whatever tier; the
 * last one to seal makes all of them found in the same step. When a rank loses its last page under
 * a key the others' become PENDING in that step, and those that nobody leases are free. A rank that
 * dies between leaves pages that are pending, and go as any page goes. Nothing is waited for.
 *
 * Ranks find each other's pages by the key: same namespace, salt, hash and epoch, another space.
 */

#include "broker/core/internal.h"

/* A space of the group of s, of whatever rank and tier. A rank may have several: an engine that
 * came back with other pages leaves its old space behind. */
static bool is_of_group(const struct core_space *o, const struct core_space *s)
{
	return o->used && o->tenant == s->tenant && o->group == s->group && o->ranks == s->ranks;
}

/* Bit r: rank r has a page under the key of p. */
static uint32_t ranks_having(const struct core *c, const struct core_space *s,
			     const struct core_page *p)
{
	uint32_t ranks = 0;

	for (unsigned i = 0; i < c->h->limits.spaces; i++) {
		const struct core_space *o = &c->spaces[i];

		if (is_of_group(o, s) && !(ranks >> o->rank & 1) &&
		    core_tier_find(c, i, p) != CORE_NONE)
			ranks |= 1u << o->rank;
	}
	return ranks;
}

bool core_group_complete(const struct core *c, uint32_t page)
{
	const struct core_space *s = &c->spaces[core_slab_of(c, page)->space];

	return s->ranks == 1 || ranks_having(c, s, &c->pages[page]) == (1u << s->ranks) - 1;
}

/* All pages of the group under the key of p are PENDING, or found. */
static void set_pending(struct core *c, const struct core_space *s, const struct core_page *p,
			bool pending)
{
	for (unsigned i = 0; i < c->h->limits.spaces; i++) {
		uint32_t page = is_of_group(&c->spaces[i], s) ? core_tier_find(c, i, p) : CORE_NONE;

		if (page == CORE_NONE)
			continue;
		if (pending)
			c->pages[page].flags |= CORE_PAGE_PENDING;
		else
			c->pages[page].flags &= (uint16_t)~CORE_PAGE_PENDING;
	}
}

void core_group_sealed(struct core *c, uint32_t page)
{
	const struct core_space *s = &c->spaces[core_slab_of(c, page)->space];

	if (s->ranks == 1)
		return;
	if (core_group_complete(c, page))
		set_pending(c, s, &c->pages[page], false);
	else
		c->pages[page].flags |= CORE_PAGE_PENDING;
}

/* A pending page of another rank: it is of no use now. */
static void abandon(struct core *c, uint32_t page)
{
	const struct core_page *p = &c->pages[page];

	if (p->state == CORE_PAGE_SEALED && !p->leases &&
	    !(p->flags & (CORE_PAGE_BUSY | CORE_PAGE_PINNED)))
		core_page_discard(c, page);
}

void core_group_lost(struct core *c, uint32_t page)
{
	const struct core_space *s = &c->spaces[core_slab_of(c, page)->space];
	const struct core_page key = c->pages[page];

	if (s->ranks == 1 || key.flags & CORE_PAGE_PENDING ||
	    ranks_having(c, s, &key) >> s->rank & 1)
		return;
	set_pending(c, s, &key, true); /* before one goes: no loss is told twice */
	for (unsigned i = 0; i < c->h->limits.spaces; i++) {
		uint32_t other =
			is_of_group(&c->spaces[i], s) ? core_tier_find(c, i, &key) : CORE_NONE;

		if (other != CORE_NONE)
			abandon(c, other);
	}
}
