/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Policy `lru`: the page released longest ago goes first.
 *
 * A list a space, cold end first. A page enters at the hot end when its last lease goes; with hint
 * LOW, or as the copy of a page that is in a higher tier too, it enters at the cold end. Leasing
 * leaves it where it is (that costs a lookup nothing); a leased page met at the cold end is taken
 * out of the list, to come back when it is released. So the walk for victims meets each leased page
 * once a lease, and what remains is exact LRU. With hint HIGH a page is passed over once: it goes
 * back to the hot end as an ordinary one.
 *
 * Following a list whose records are spread over memory costs a cache miss a page, one after the
 * other. So each page remembers the page that was touched CORE_TOUCHED touches after it: the walk
 * fetches that record early. It is a hint: following a wrong one costs a fetch and nothing else.
 */

#include <assert.h>

#include "broker/core/core.h"
#include "broker/policy/policy.h"

static struct core_space *space_of(struct core *c, uint32_t page)
{
	return &c->spaces[c->slabs[c->units[page / CORE_UNIT_PAGES]].space];
}

static void unlink_page(struct core *c, struct core_space *s, uint32_t page)
{
	struct core_page *p = &c->pages[page];

	if (p->prev != CORE_NONE)
		c->pages[p->prev].next = p->next;
	else
		s->cold = p->next;
	if (p->next != CORE_NONE)
		c->pages[p->next].prev = p->prev;
	else
		s->hot = p->prev;
	p->flags &= (uint16_t)~CORE_PAGE_LISTED;
	s->listed--;
}

static void link_hot(struct core *c, struct core_space *s, uint32_t page)
{
	struct core_page *p = &c->pages[page];

	p->prev = s->hot;
	p->next = CORE_NONE;
	if (s->hot != CORE_NONE)
		c->pages[s->hot].next = page;
	else
		s->cold = page;
	s->hot = page;
	p->flags |= CORE_PAGE_LISTED;
	s->listed++;
}

static void link_cold(struct core *c, struct core_space *s, uint32_t page)
{
	struct core_page *p = &c->pages[page];

	p->prev = CORE_NONE;
	p->next = s->cold;
	if (s->cold != CORE_NONE)
		c->pages[s->cold].prev = page;
	else
		s->hot = page;
	s->cold = page;
	p->flags |= CORE_PAGE_LISTED;
	s->listed++;
}

/* The page touched CORE_TOUCHED touches ago learns what comes so far behind it. */
static void leave_hint(struct core *c, struct core_space *s, uint32_t page)
{
	uint32_t *touched = &s->touched[s->touched_next++ % CORE_TOUCHED];

	if (*touched < c->h->limits.pages && !c->pages[*touched].leases)
		c->pages[*touched].ahead = page;
	*touched = page;
	c->pages[page].ahead = page;
}

static void lru_touch(struct core *c, uint32_t page)
{
	struct core_space *s = space_of(c, page);

	if (c->pages[page].flags & CORE_PAGE_LISTED)
		unlink_page(c, s, page);
	if (c->pages[page].flags & (CORE_PAGE_LOW | CORE_PAGE_SPARE))
		link_cold(c, s, page);
	else
		link_hot(c, s, page);
	leave_hint(c, s, page);
}

static void lru_forget(struct core *c, uint32_t page)
{
	if (c->pages[page].flags & CORE_PAGE_LISTED)
		unlink_page(c, space_of(c, page), page);
}

static uint32_t lru_victims(struct core *c, struct core_space *s, uint32_t want,
			    uint32_t *ret_pages, uint32_t *work)
{
	uint32_t found = 0;

	while (found < want && *work && s->cold != CORE_NONE) {
		uint32_t page = s->cold;
		struct core_page *p = &c->pages[page];

		(*work)--;
		if (!p->leases && p->ahead < c->h->limits.pages)
			__builtin_prefetch(&c->pages[p->ahead], 1);
		unlink_page(c, s, page);
		if (p->leases)
			continue;
		if (p->flags & CORE_PAGE_HIGH) {
			p->flags &= (uint16_t)~CORE_PAGE_HIGH;
			link_hot(c, s, page);
			continue;
		}
		ret_pages[found++] = page;
	}
	return found;
}

const struct policy_ops policy_lru = {
	.name = "lru",
	.summary = "the page released longest ago goes first",
	.touch = lru_touch,
	.forget = lru_forget,
	.victims = lru_victims,
};
