/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Leases: which client may read which page.
 *
 * A lease record stands for one client on one page, however often that client looked the page up
 * (count) and whether it pins it. It is in two lists: the page's, short, walked to find the record
 * of a client; and the client's, so that its death costs only what it held. A page with a record is
 * neither evicted nor moved. A page's place in the policy's order is left alone when it is leased
 * and renewed when its last record goes: that is what makes it "recently used".
 */

#include "broker/core/internal.h"

void core_page_unleased(struct core *c, uint32_t page)
{
	struct core_page *p = &c->pages[page];
	bool keep = core_page_kept(c, page);

	p->used_s = c->now_s;
	if (p->state == CORE_PAGE_ARRIVING || (!keep && p->flags & CORE_PAGE_BUSY))
		return; /* the end of its transfer asks again */
	if (!keep)
		core_page_discard(c, page);
	else if (!(p->flags & CORE_PAGE_PINNED))
		core_page_touch(c, page);
}

void core_lease_end(struct core *c, struct core_member *m, uint32_t lease)
{
	struct core_lease *l = &c->leases[lease];
	struct core_page *p = &c->pages[l->page];
	struct core_client *cl = &c->clients[l->client];
	uint32_t *link = &p->lease;

	while (*link != lease)
		link = &c->leases[*link].page_next;
	*link = l->page_next;
	p->leases--;

	if (l->client_prev != CORE_NONE)
		c->leases[l->client_prev].client_next = l->client_next;
	else
		cl->lease_first = l->client_next;
	if (l->client_next != CORE_NONE)
		c->leases[l->client_next].client_prev = l->client_prev;

	if (l->count & CORE_LEASE_PIN) {
		cl->pins--;
		c->tenants[cl->tenant].pins--;
	}
	cl->leases--;
	m->leases--;
	m->leases_in[core_slab_of(c, l->page)->slot]--;
	c->tenants[cl->tenant].leases--;
	c->h->leases_used--;
	l->count = 0;
	l->page_next = c->h->lease_free;
	c->h->lease_free = lease;
	if (!p->leases)
		core_page_unleased(c, l->page);
}

uint32_t core_lease_named(const struct core *c, const struct core_member *m, kvb_page_t name)
{
	uint32_t page = core_page_locate(c, &c->spaces[m->space], name);

	if (page == CORE_NONE || c->pages[page].gen != KVB_PAGE_GEN(name) ||
	    (c->pages[page].state != CORE_PAGE_SEALED &&
	     c->pages[page].state != CORE_PAGE_ARRIVING))
		return CORE_NONE;
	return core_lease_find(c, m->client, page);
}

static void prefetch_pages(const struct core *c, const struct core_member *m,
			   const kvb_page_t *page, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		uint32_t at = core_page_locate(c, &c->spaces[m->space], page[i]);

		if (at != CORE_NONE)
			__builtin_prefetch(&c->pages[at], 1);
	}
}

#define RELEASE_AHEAD 16u

struct core_batch core_release(struct core *c, struct core_member *m, const kvb_page_t *page,
			       uint32_t n)
{
	struct core_batch b = { 0 };

	prefetch_pages(c, m, page, n < RELEASE_AHEAD ? n : RELEASE_AHEAD);
	for (; b.done < n; b.done++) {
		uint32_t i;

		if (b.done + RELEASE_AHEAD < n)
			prefetch_pages(c, m, page + b.done + RELEASE_AHEAD, 1);
		i = core_lease_named(c, m, page[b.done]);
		if (i == CORE_NONE || !(c->leases[i].count & CORE_LEASE_COUNT_MAX)) {
			b.status = -ENOENT;
			break;
		}
		if (--c->leases[i].count == 0)
			core_lease_end(c, m, i);
	}
	c->h->n.releases += b.done;
	return b;
}

struct core_batch core_pin(struct core *c, struct core_member *m, const kvb_page_t *page,
			   uint32_t n, bool pin)
{
	struct core_client *cl = &c->clients[m->client];
	struct core_batch b = { 0 };

	for (; b.done < n; b.done++) {
		uint32_t i = core_lease_named(c, m, page[b.done]);
		struct core_lease *l;

		if (i == CORE_NONE || (!pin && !(c->leases[i].count & CORE_LEASE_PIN))) {
			b.status = -ENOENT;
			break;
		}
		l = &c->leases[i];
		if (pin && !(l->count & CORE_LEASE_PIN)) {
			if (cl->pins >= cl->leases_max / 2) {
				b.status = -EDQUOT;
				break;
			}
			l->count |= CORE_LEASE_PIN;
			cl->pins++;
			c->tenants[cl->tenant].pins++;
		} else if (!pin) {
			l->count &= CORE_LEASE_COUNT_MAX;
			cl->pins--;
			c->tenants[cl->tenant].pins--;
			if (!l->count)
				core_lease_end(c, m, i);
		}
	}
	return b;
}

struct core_batch core_hint(struct core *c, struct core_member *m, const kvb_page_t *page,
			    uint32_t n, uint64_t hint)
{
	uint32_t priority = KVB_HINT_PRIORITY(hint);
	uint64_t ttl_s = KVB_HINT_TTL_S(hint);
	struct core_batch b = { 0 };

	if (priority > KVB_PRIO_HIGH || ttl_s > 1u << 31) {
		b.status = -EINVAL;
		return b;
	}
	for (; b.done < n; b.done++) {
		uint32_t i = core_lease_named(c, m, page[b.done]);
		struct core_page *p;

		if (i == CORE_NONE) {
			b.status = -ENOENT;
			break;
		}
		p = &c->pages[c->leases[i].page];
		p->flags &= (uint16_t) ~(CORE_PAGE_LOW | CORE_PAGE_HIGH);
		if (priority == KVB_PRIO_LOW)
			p->flags |= CORE_PAGE_LOW;
		else if (priority == KVB_PRIO_HIGH)
			p->flags |= CORE_PAGE_HIGH;
		p->expire_s = ttl_s ? c->now_s + (uint32_t)ttl_s : 0;
	}
	return b;
}
