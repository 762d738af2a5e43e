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

/* The upper space of a rank; CORE_NONE16: it has none yet. */
static unsigned rank_space(const struct core *c, const struct core_space *s, uint32_t rank)
{
	for (unsigned i = 0; i < c->h->limits.spaces; i++) {
		const struct core_space *o = &c->spaces[i];

		if (o->used && o->above == CORE_NONE16 && o->tenant == s->tenant &&
		    o->group == s->group && o->ranks == s->ranks && o->rank == rank)
			return i;
	}
	return CORE_NONE16;
}

/* A rank's pages under the key of p: on the device, and below; CORE_NONE. */
struct rank_pages {
	uint32_t page[2];
};

static struct rank_pages find_in_rank(const struct core *c, const struct core_space *s,
				      uint32_t rank, const struct core_page *p)
{
	unsigned upper = rank_space(c, s, rank);
	struct rank_pages ret = { { CORE_NONE, CORE_NONE } };

	if (upper == CORE_NONE16)
		return ret;
	ret.page[0] = core_tier_find(c, upper, p);
	if (c->spaces[upper].below != CORE_NONE16)
		ret.page[1] = core_tier_find(c, c->spaces[upper].below, p);
	return ret;
}

static bool is_none(struct rank_pages pages)
{
	return pages.page[0] == CORE_NONE && pages.page[1] == CORE_NONE;
}

bool core_group_complete(const struct core *c, uint32_t page)
{
	const struct core_space *s = &c->spaces[core_slab_of(c, page)->space];

	for (uint32_t rank = 0; rank < s->ranks && s->ranks > 1; rank++) {
		if (is_none(find_in_rank(c, s, rank, &c->pages[page])))
			return false;
	}
	return true;
}

void core_group_sealed(struct core *c, uint32_t page)
{
	const struct core_space *s = &c->spaces[core_slab_of(c, page)->space];

	if (s->ranks == 1)
		return;
	if (!core_group_complete(c, page)) {
		c->pages[page].flags |= CORE_PAGE_PENDING;
		return;
	}
	for (uint32_t rank = 0; rank < s->ranks; rank++) {
		struct rank_pages there = find_in_rank(c, s, rank, &c->pages[page]);

		for (unsigned i = 0; i < 2; i++) {
			if (there.page[i] != CORE_NONE)
				c->pages[there.page[i]].flags &= (uint16_t)~CORE_PAGE_PENDING;
		}
	}
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
	    !is_none(find_in_rank(c, s, s->rank, &key)))
		return;
	for (uint32_t rank = 0; rank < s->ranks; rank++) {
		struct rank_pages there = find_in_rank(c, s, rank, &key);

		/* both pending before one is looked at: no loss is told twice */
		for (unsigned i = 0; i < 2; i++) {
			if (there.page[i] != CORE_NONE)
				c->pages[there.page[i]].flags |= CORE_PAGE_PENDING;
		}
		for (unsigned i = 0; i < 2; i++) {
			if (there.page[i] != CORE_NONE)
				abandon(c, there.page[i]);
		}
	}
}
