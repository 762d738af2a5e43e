/* SPDX-License-Identifier: Apache-2.0 */

/*
 * core_check(): every relation between the tables, walked.
 *
 * Counts are made anew from the records and compared with the counters kept along the way; lists
 * are followed and must close. It writes nothing: each slab, client, space and tenant recounts what
 * is its own, so the walk is linear in pages and quadratic only in small things.
 */

#include "broker/core/index.h"

struct report {
	char *why;
	size_t bytes;
};

#define BROKEN(report, ...) core_say((report)->why, (report)->bytes, -EUCLEAN, __VA_ARGS__)
#define MUST(report, cond, ...)                                                                    \
	do {                                                                                       \
		if (!(cond))                                                                       \
			return BROKEN(report, __VA_ARGS__);                                        \
	} while (0)

struct slab_tally {
	uint32_t free, held, quarantined, sealed, arriving;
};

/* A page and its copy: each says so, and is the other's. */
static int check_pair(const struct core *c, struct report *r, uint32_t page)
{
	const struct core_page *p = &c->pages[page];
	const struct core_space *s = &c->spaces[core_slab_of(c, page)->space];
	bool below = p->flags & CORE_PAGE_BELOW;
	uint16_t space = below ? s->below : s->above;
	uint32_t other;

	MUST(r, p->flags & CORE_PAGE_ABOVE || !(p->flags & CORE_PAGE_SPARE),
	     "page %u: the spare copy of nothing", page);
	if (!(p->flags & (CORE_PAGE_BELOW | CORE_PAGE_ABOVE)))
		return 0;
	MUST(r, space != CORE_NONE16 && p->flags & CORE_PAGE_INDEXED,
	     "page %u: a copy where there can be none", page);
	other = core_tier_find(c, space, p);
	MUST(r,
	     other != CORE_NONE && c->pages[other].state == CORE_PAGE_SEALED &&
		     c->pages[other].flags & (below ? CORE_PAGE_ABOVE : CORE_PAGE_BELOW),
	     "page %u: its copy does not know of it", page);
	return 0;
}

static int check_sealed(const struct core *c, struct report *r, uint32_t page)
{
	const struct core_page *p = &c->pages[page];
	struct core_key key = { .hash = p->hash, .salt = p->salt, .ns = p->ns, .epoch = p->epoch };
	uint64_t mix;

	MUST(r, p->ns < c->h->limits.namespaces && c->namespaces[p->ns].used,
	     "page %u: sealed under no namespace (%u)", page, p->ns);
	MUST(r, p->leases || p->flags & (CORE_PAGE_INDEXED | CORE_PAGE_BUSY),
	     "page %u: sealed, unleased, not indexed", page);
	MUST(r, !(p->flags & CORE_PAGE_FAILED) || (p->leases && !(p->flags & CORE_PAGE_INDEXED)),
	     "page %u: failed to arrive and is there", page);
	MUST(r,
	     p->leases ||
		     p->flags & (CORE_PAGE_LISTED | CORE_PAGE_PINNED | CORE_PAGE_RIPE |
				 CORE_PAGE_BUSY) ||
		     core_slab_of(c, page)->state == CORE_SLAB_DRAINING || core_page_stale(c, p),
	     "page %u: unleased and not a candidate", page);
	if (!(p->flags & CORE_PAGE_INDEXED))
		return 0;
	key.space = core_slab_of(c, page)->space;
	mix = core_index_mix(c, core_index_seed(c, key.space, key.ns, key.salt), &p->hash);
	MUST(r, core_index_find(c, mix, &key) == page, "page %u: the index leads elsewhere", page);
	MUST(r, core_group_complete(c, page) == !(p->flags & CORE_PAGE_PENDING),
	     "page %u: found on some ranks of its group only", page);
	return check_pair(c, r, page);
}

static int check_leases_of(const struct core *c, struct report *r, uint32_t page)
{
	const struct core_page *p = &c->pages[page];
	uint32_t n = 0;

	for (uint32_t i = p->lease; n < p->leases; i = c->leases[i].page_next, n++) {
		MUST(r, i < c->h->lease_fresh, "page %u: lease list leaves the table", page);
		MUST(r, c->leases[i].page == page, "page %u: lease %u is of page %u", page, i,
		     c->leases[i].page);
		MUST(r, c->leases[i].count, "page %u: lease %u counts nothing", page, i);
	}
	return 0;
}

static int check_page(const struct core *c, struct report *r, uint32_t page, struct slab_tally *t)
{
	const struct core_page *p = &c->pages[page];
	bool is_free = bit_test(c->free_bits, page);

	MUST(r, p->gen, "page %u: generation 0", page);
	MUST(r, is_free == (p->state == CORE_PAGE_FREE), "page %u: state %u, free bit %d", page,
	     p->state, is_free);
	MUST(r,
	     p->state == CORE_PAGE_SEALED || p->state == CORE_PAGE_ARRIVING ||
		     !(p->flags & (CORE_PAGE_INDEXED | CORE_PAGE_LISTED | CORE_PAGE_RIPE |
				   CORE_PAGE_BUSY | CORE_PAGE_BELOW | CORE_PAGE_ABOVE)),
	     "page %u: state %u, flags %#x", page, p->state, p->flags);
	switch (p->state) {
	case CORE_PAGE_FREE:
		t->free++;
		return 0;
	case CORE_PAGE_FILLING:
	case CORE_PAGE_QUARANTINE:
		if (p->state == CORE_PAGE_FILLING)
			t->held++;
		else
			t->quarantined++;
		MUST(r,
		     p->owner < c->h->limits.clients &&
			     c->clients[p->owner].state != CORE_CLIENT_FREE,
		     "page %u: held by nobody (%u)", page, p->owner);
		MUST(r, !p->leases, "page %u: held and leased", page);
		return 0;
	case CORE_PAGE_SEALED:
		t->sealed++;
		if (check_leases_of(c, r, page))
			return -EUCLEAN;
		return check_sealed(c, r, page);
	case CORE_PAGE_ARRIVING:
		t->arriving++;
		MUST(r,
		     p->flags & CORE_PAGE_BUSY && !(p->flags & (CORE_PAGE_LISTED | CORE_PAGE_RIPE |
								CORE_PAGE_BELOW | CORE_PAGE_ABOVE)),
		     "page %u: arriving, flags %#x", page, p->flags);
		MUST(r,
		     !(p->flags & CORE_PAGE_INDEXED) ||
			     c->spaces[core_slab_of(c, page)->space].above == CORE_NONE16,
		     "page %u: found below before its bytes are there", page);
		return check_leases_of(c, r, page);
	default:
		return BROKEN(r, "page %u: state %u", page, p->state);
	}
}

static int check_slab(const struct core *c, struct report *r, unsigned index)
{
	const struct core_slab *slab = &c->slabs[index];
	const struct core_space *s = &c->spaces[slab->space];
	struct slab_tally t = { 0 };
	uint32_t mapped = 0;

	MUST(r, slab->space < c->h->limits.spaces && s->used, "slab %u: no space %u", index,
	     slab->space);
	MUST(r, s->slab_of_slot[slab->slot] == index, "slab %u: slot %u is another's", index,
	     slab->slot);
	MUST(r, c->units[slab->base / CORE_UNIT_PAGES] == index, "slab %u: its unit is another's",
	     index);
	MUST(r, bit_test(s->live, slab->slot) == (slab->state == CORE_SLAB_LIVE),
	     "slab %u: live bit", index);
	if (slab->state == CORE_SLAB_CREATING)
		return 0;
	MUST(r, slab->state != CORE_SLAB_LIVE || !c->h->device[s->device].draining,
	     "slab %u: live on a device that is drained", index);
	for (uint32_t i = 0; i < slab->pages; i++) {
		if (check_page(c, r, slab->base + i, &t))
			return -EUCLEAN;
	}
	MUST(r,
	     t.free == slab->free && t.held == slab->held && t.quarantined == slab->quarantined &&
		     t.sealed == slab->sealed && t.arriving == slab->arriving,
	     "slab %u: counts %u/%u/%u/%u free/held/quarantined/sealed, finds %u/%u/%u/%u", index,
	     slab->free, slab->held, slab->quarantined, slab->sealed, t.free, t.held, t.quarantined,
	     t.sealed);
	MUST(r, bit_test(s->has_free, slab->slot) == (slab->state == CORE_SLAB_LIVE && slab->free),
	     "slab %u: has_free bit", index);
	for (uint32_t w = 0; w < slab->hint; w++)
		MUST(r, !c->free_bits[slab->base / 64 + w], "slab %u: free page below the hint",
		     index);
	for (uint16_t i = s->member; i != CORE_NONE16; i = c->members[i].space_next)
		mapped += bit_test(c->members[i].sent, slab->slot);
	MUST(r, mapped == slab->mapped, "slab %u: %u members mapped, counts %u", index, mapped,
	     slab->mapped);
	MUST(r, slab->state != CORE_SLAB_CLOSING || (!mapped && slab->free == slab->pages),
	     "slab %u: closing in use", index);
	return 0;
}

static int check_list(const struct core *c, struct report *r, unsigned space)
{
	const struct core_space *s = &c->spaces[space];
	uint32_t prev = CORE_NONE, n = 0;

	for (uint32_t i = s->cold; i != CORE_NONE; i = c->pages[i].next, n++) {
		const struct core_page *p = &c->pages[i];

		MUST(r, n < s->listed, "space %u: its order does not end", space);
		MUST(r,
		     p->prev == prev && p->flags & CORE_PAGE_LISTED && p->state == CORE_PAGE_SEALED,
		     "space %u: page %u in its order by mistake", space, i);
		MUST(r, core_slab_of(c, i)->space == space, "space %u: orders page %u of another",
		     space, i);
		prev = i;
	}
	MUST(r, prev == s->hot && n == s->listed, "space %u: order has %u pages, counts %u", space,
	     n, s->listed);
	return 0;
}

static int check_ripe(const struct core *c, struct report *r, unsigned space)
{
	const struct core_space *s = &c->spaces[space];
	uint32_t prev = CORE_NONE, n = 0;

	for (uint32_t i = s->ripe_first; i != CORE_NONE; i = c->pages[i].next, n++) {
		const struct core_page *p = &c->pages[i];

		MUST(r, n < s->ripe, "space %u: its ripe list does not end", space);
		MUST(r,
		     p->prev == prev && p->flags & CORE_PAGE_RIPE &&
			     !(p->flags & CORE_PAGE_LISTED) && p->state == CORE_PAGE_SEALED &&
			     core_slab_of(c, i)->space == space,
		     "space %u: page %u ripe by mistake", space, i);
		prev = i;
	}
	MUST(r, prev == s->ripe_last && n == s->ripe, "space %u: %u pages ripe, counts %u", space,
	     n, s->ripe);
	return 0;
}

/* A space and the one below it. */
static int check_tier(const struct core *c, struct report *r, unsigned space)
{
	const struct core_space *s = &c->spaces[space];
	const struct core_space *other;

	if (s->below != CORE_NONE16) {
		other = &c->spaces[s->below];
		MUST(r,
		     other->used && other->above == space && other->tenant == s->tenant &&
			     other->stride_bytes == s->regions * s->stride_bytes &&
			     c->h->device[other->device].kind == CORE_KIND_ARENA,
		     "space %u: space %u is not below it", space, s->below);
	}
	if (s->above != CORE_NONE16)
		MUST(r, c->spaces[s->above].below == space && !s->members,
		     "space %u: space %u is not above it", space, s->above);
	return check_ripe(c, r, space);
}

static int check_space(const struct core *c, struct report *r, unsigned space)
{
	const struct core_space *s = &c->spaces[space];
	uint32_t slabs = 0, pages = 0, pages_free = 0, members = 0, creating = 0;

	for (unsigned slot = 0; slot < s->slots; slot++) {
		const struct core_slab *slab;

		if (s->slab_of_slot[slot] == CORE_NONE16)
			continue;
		slab = &c->slabs[s->slab_of_slot[slot]];
		MUST(r, slab->state != CORE_SLAB_FREE && slab->space == space && slab->slot == slot,
		     "space %u: slot %u holds a foreign slab", space, slot);
		slabs++;
		creating += slab->state == CORE_SLAB_CREATING;
		pages += slab->state == CORE_SLAB_LIVE ? slab->pages : 0;
		pages_free += slab->state == CORE_SLAB_LIVE ? slab->free : 0;
	}
	MUST(r, slabs == s->slabs && pages == s->pages && pages_free == s->pages_free,
	     "space %u: counts %u slabs %u pages %u free, finds %u %u %u", space, s->slabs,
	     s->pages, s->pages_free, slabs, pages, pages_free);
	MUST(r, creating == s->creating, "space %u: counts %u slabs on their way, finds %u", space,
	     s->creating, creating);
	for (uint16_t i = s->member; i != CORE_NONE16; i = c->members[i].space_next, members++) {
		MUST(r, members < s->members && c->members[i].used && c->members[i].space == space,
		     "space %u: member list", space);
	}
	MUST(r, members == s->members, "space %u: %u members, counts %u", space, members,
	     s->members);
	return check_list(c, r, space) || check_tier(c, r, space) ? -EUCLEAN : 0;
}

/* Pages of one slot that a member's client holds, and leases, by the records themselves. */
static uint32_t count_held_in(const struct core *c, const struct core_member *m, unsigned slot,
			      uint32_t *ret_leases)
{
	const struct core_space *s = &c->spaces[m->space];
	const struct core_slab *slab = &c->slabs[s->slab_of_slot[slot]];
	uint32_t n = 0;

	*ret_leases = 0;
	for (uint32_t i = 0; s->slab_of_slot[slot] != CORE_NONE16 && i < slab->pages; i++) {
		const struct core_page *p = &c->pages[slab->base + i];

		n += (p->state == CORE_PAGE_FILLING || p->state == CORE_PAGE_QUARANTINE) &&
		     p->owner == m->client;
		*ret_leases += (p->state == CORE_PAGE_SEALED || p->state == CORE_PAGE_ARRIVING) &&
			       core_lease_find(c, m->client, slab->base + i) != CORE_NONE;
	}
	return n;
}

static int check_member(const struct core *c, struct report *r, const struct core_member *m)
{
	unsigned index = core_member_index(c, m);
	uint32_t held = 0, leases = 0, leases_in;

	MUST(r, c->clients[m->client].member[m->handle] == index,
	     "member %u: its client knows another", index);
	for (unsigned w = 0; w < CORE_SLOT_WORDS; w++) {
		MUST(r,
		     !((m->acked[w] | m->refused[w] | m->revoke[w]) & ~m->sent[w]) &&
			     !(m->acked[w] & m->refused[w]),
		     "member %u: slots acknowledged that were not sent", index);
	}
	for (unsigned slot = 0; slot < KVB_SLOTS_MAX; slot++) {
		held += m->held_in[slot];
		leases += m->leases_in[slot];
		MUST(r,
		     slot >= c->spaces[m->space].slots ||
			     (m->held_in[slot] == count_held_in(c, m, slot, &leases_in) &&
			      m->leases_in[slot] == leases_in),
		     "member %u: counts %u pages held and %u leased in slot %u, finds other "
		     "numbers",
		     index, m->held_in[slot], m->leases_in[slot], slot);
	}
	MUST(r, held == m->held && m->magazine <= m->held, "member %u: holds %u by slot, %u in all",
	     index, held, m->held);
	MUST(r, leases == m->leases, "member %u: leases %u by slot, %u in all", index, leases,
	     m->leases);
	return 0;
}

/* A client's counters against its leases and memberships. */
static int check_client(const struct core *c, struct report *r, unsigned client)
{
	const struct core_client *cl = &c->clients[client];
	uint32_t leases = 0, pins = 0, held = 0, by_space = 0, prev = CORE_NONE;

	for (uint32_t i = cl->lease_first; i != CORE_NONE; i = c->leases[i].client_next) {
		const struct core_lease *l = &c->leases[i];

		MUST(r,
		     leases < cl->leases && l->client == client && l->client_prev == prev &&
			     l->count,
		     "client %u: lease list at %u", client, i);
		MUST(r, core_lease_find(c, client, l->page) == i,
		     "client %u: lease %u not on its page", client, i);
		pins += !!(l->count & CORE_LEASE_PIN);
		leases++;
		prev = i;
	}
	for (unsigned h = 0; h < KVB_SPACES_MAX; h++) {
		if (cl->member[h] == CORE_NONE16)
			continue;
		held += c->members[cl->member[h]].held;
		by_space += c->members[cl->member[h]].leases;
	}
	MUST(r, leases == cl->leases && pins == cl->pins && held == cl->held && by_space == leases,
	     "client %u: counts %u leases %u pins %u held, finds %u (%u by space) %u %u", client,
	     cl->leases, cl->pins, cl->held, leases, by_space, pins, held);
	MUST(r, leases <= cl->leases_max, "client %u: above its lease quota", client);
	return 0;
}

static int check_tenant(const struct core *c, struct report *r, unsigned tenant)
{
	const struct core_tenant *t = &c->tenants[tenant];
	uint64_t used[CORE_DEVICES_MAX] = { 0 }, draining[CORE_DEVICES_MAX] = { 0 };
	uint64_t leases = 0, pins = 0;
	uint32_t clients = 0, held = 0;

	for (unsigned i = 0; i < c->h->limits.clients; i++) {
		const struct core_client *cl = &c->clients[i];

		if (cl->state == CORE_CLIENT_FREE || cl->tenant != tenant)
			continue;
		clients++;
		leases += cl->leases;
		pins += cl->pins;
		held += cl->held;
	}
	for (unsigned i = 0; i < c->h->limits.slabs; i++) {
		const struct core_slab *slab = &c->slabs[i];
		const struct core_space *s = &c->spaces[slab->space];

		if (slab->state == CORE_SLAB_FREE || s->tenant != tenant)
			continue;
		used[s->device] += s->slab_bytes;
		draining[s->device] += slab->state >= CORE_SLAB_DRAINING ? s->slab_bytes : 0;
	}
	MUST(r,
	     clients == t->clients && leases == t->leases && pins == t->pins &&
		     held == t->pages_held,
	     "tenant %u: charged %u clients %u held %llu leases %llu pins, finds %u %u %llu %llu",
	     tenant, t->clients, t->pages_held, (unsigned long long)t->leases,
	     (unsigned long long)t->pins, clients, held, (unsigned long long)leases,
	     (unsigned long long)pins);
	for (unsigned d = 0; d < CORE_DEVICES_MAX; d++) {
		const struct core_budget *b = &t->budget[d];

		MUST(r, used[d] == b->used_bytes && draining[d] == b->draining_bytes,
		     "tenant %u device %u: charged %llu bytes, finds %llu", tenant, d,
		     (unsigned long long)b->used_bytes, (unsigned long long)used[d]);
	}
	return 0;
}

static int check_device(const struct core *c, struct report *r, unsigned device)
{
	const struct core_device *d = &c->h->device[device];
	uint64_t granted = 0, promised = 0;

	for (unsigned t = 0; t < c->h->limits.tenants; t++) {
		const struct core_budget *b = &c->tenants[t].budget[device];

		if (!c->tenants[t].used)
			continue;
		granted += b->used_bytes;
		promised += b->min_bytes > b->used_bytes ? b->min_bytes - b->used_bytes : 0;
	}
	MUST(r, granted == d->granted_bytes && granted <= d->capacity_bytes,
	     "device %u: granted %llu, finds %llu", device, (unsigned long long)d->granted_bytes,
	     (unsigned long long)granted);
	MUST(r, promised <= d->capacity_bytes - granted, "device %u: promises %llu with %llu free",
	     device, (unsigned long long)promised,
	     (unsigned long long)(d->capacity_bytes - granted));
	return 0;
}

static int check_draining(const struct core *c, struct report *r)
{
	uint32_t draining = 0, undrained = 0;

	for (unsigned i = 0; i < c->h->limits.slabs; i++) {
		if (c->slabs[i].state != CORE_SLAB_DRAINING)
			continue;
		draining++;
		undrained += c->slabs[i].drain < c->slabs[i].pages;
	}
	MUST(r, draining == c->h->slabs_draining && undrained == c->h->slabs_undrained,
	     "slabs: counts %u draining and %u to walk, finds %u and %u", c->h->slabs_draining,
	     c->h->slabs_undrained, draining, undrained);
	return 0;
}

static int check_namespaces(const struct core *c, struct report *r)
{
	uint64_t stale = 0, sealed = 0, by_slab = 0;

	for (unsigned i = 0; i < c->h->limits.namespaces; i++) {
		const struct core_ns *ns = &c->namespaces[i];

		if (!ns->used)
			continue;
		MUST(r, ns->pages_current <= ns->pages,
		     "namespace %u: more current pages than pages", i);
		stale += ns->pages - ns->pages_current;
		sealed += ns->pages;
	}
	for (unsigned i = 0; i < c->h->limits.slabs; i++) {
		if (c->slabs[i].state != CORE_SLAB_FREE)
			by_slab += c->slabs[i].sealed + c->slabs[i].arriving;
	}
	MUST(r, stale == c->h->pages_stale && sealed == by_slab,
	     "namespaces: %llu pages, slabs %llu; stale %llu of %llu", (unsigned long long)sealed,
	     (unsigned long long)by_slab, (unsigned long long)stale,
	     (unsigned long long)c->h->pages_stale);
	return 0;
}

/* A page that a transfer reads or writes: there, and BUSY. */
static bool is_of_transfer(const struct core *c, uint32_t page, uint8_t state)
{
	return c->pages[page].state == state && c->pages[page].flags & CORE_PAGE_BUSY;
}

static int check_transfer(const struct core *c, struct report *r, unsigned index)
{
	const struct core_transfer *t = &c->transfers[index];
	bool fills = t->store && t->direction == CORE_UP; /* the page it comes from, if any */

	MUST(r,
	     (t->to == CORE_NONE && t->store && t->direction == CORE_DOWN) ||
		     (t->to != CORE_NONE && is_of_transfer(c, t->to, CORE_PAGE_ARRIVING)),
	     "transfer %u: to page %u, which is not its", index, t->to);
	MUST(r,
	     (t->from == CORE_NONE && fills) ||
		     (t->from != CORE_NONE &&
		      is_of_transfer(c, t->from, fills ? CORE_PAGE_ARRIVING : CORE_PAGE_SEALED)),
	     "transfer %u: from page %u, which is not its", index, t->from);
	return 0;
}

static int check_queue(const struct core *c, struct report *r, const struct core_queue *q,
		       uint32_t *waiting)
{
	for (unsigned i = q->first; i != CORE_NONE16; i = c->transfers[i].next, (*waiting)++) {
		const struct core_transfer *t = &c->transfers[i];

		MUST(r,
		     *waiting < c->h->transfers_used && t->state == CORE_TRANSFER_QUEUED &&
			     q == (t->store ? &c->h->store_queue[t->direction]
					    : &c->h->queue[t->device][t->direction]),
		     "transfer %u: in a queue by mistake", i);
	}
	return 0;
}

static uint32_t count_busy(const struct core *c)
{
	uint32_t busy = 0;

	for (unsigned i = 0; i < c->h->limits.slabs; i++) {
		const struct core_slab *slab = &c->slabs[i];

		for (uint32_t k = 0; slab->state > CORE_SLAB_CREATING && k < slab->pages; k++)
			busy += !!(c->pages[slab->base + k].flags & CORE_PAGE_BUSY);
	}
	return busy;
}

/* Transfers against the pages they read and write, and the queues they wait in. */
static int check_transfers(const struct core *c, struct report *r)
{
	uint32_t used = 0, queued = 0, waiting = 0, pages = 0, falling = 0, rising = 0, shares = 0;

	for (uint32_t i = 0; i < c->h->limits.transfers; i++) {
		const struct core_transfer *t = &c->transfers[i];

		if (!t->state)
			continue;
		used++;
		queued += t->state == CORE_TRANSFER_QUEUED;
		falling += t->direction == CORE_DOWN;
		rising += t->direction == CORE_UP;
		pages += (t->from != CORE_NONE) + (t->to != CORE_NONE);
		if (check_transfer(c, r, i))
			return -EUCLEAN;
	}
	for (unsigned d = 0; d < CORE_DEVICES_MAX; d++) {
		for (unsigned dir = 0; dir < 2; dir++) {
			if (check_queue(c, r, &c->h->queue[d][dir], &waiting))
				return -EUCLEAN;
		}
	}
	for (unsigned dir = 0; dir < 2; dir++) {
		if (check_queue(c, r, &c->h->store_queue[dir], &waiting))
			return -EUCLEAN;
	}
	for (unsigned i = 0; i < c->h->limits.tenants; i++)
		shares += c->tenants[i].used ? c->tenants[i].transfers : 0;
	for (unsigned i = 0; i < c->h->limits.spaces; i++) {
		falling -= c->spaces[i].used ? c->spaces[i].falling : 0;
		rising -= c->spaces[i].used ? c->spaces[i].rising : 0;
	}
	MUST(r, used == c->h->transfers_used && waiting == queued,
	     "transfers: %u, counts %u; %u queued, counts %u", used, c->h->transfers_used, waiting,
	     queued);
	MUST(r, count_busy(c) == pages, "transfers: of %u pages, %u are busy", pages,
	     count_busy(c));
	MUST(r, !falling && !rising && shares == used, "transfers: spaces or tenants count others");
	return 0;
}

static int check_index(const struct core *c, struct report *r)
{
	uint32_t n = 0, reaping = 0, leases = 0;

	for (uint32_t g = 0; g < c->h->groups; g++) {
		for (unsigned i = 0; i < CORE_GROUP_SLOTS; i++) {
			uint32_t page = c->groups[g].page[i];

			if (!c->groups[g].tag[i])
				continue;
			n++;
			MUST(r,
			     page < c->h->limits.pages && c->pages[page].flags & CORE_PAGE_INDEXED,
			     "index group %u: leads to page %u", g, page);
		}
	}
	MUST(r, n == c->h->indexed, "index: %u entries, counts %u", n, c->h->indexed);
	for (unsigned i = 0; i < c->h->limits.clients; i++) {
		if (c->clients[i].state == CORE_CLIENT_FREE)
			continue;
		reaping += c->clients[i].reaping;
		leases += c->clients[i].leases;
	}
	MUST(r, reaping == c->h->clients_reaping && leases == c->h->leases_used,
	     "%u clients reaping and %u leases, counts %u and %u", reaping, leases,
	     c->h->clients_reaping, c->h->leases_used);
	return 0;
}

int core_check(const struct core *c, char *why, size_t why_bytes)
{
	struct report r = { why, why_bytes };
	const struct core_limits *l = &c->h->limits;
	int e = c->h->magic == CORE_STATE_MAGIC ? 0 : BROKEN(&r, "not a state table");

	for (unsigned i = 0; i < l->slabs && !e; i++)
		e = c->slabs[i].state == CORE_SLAB_FREE ? 0 : check_slab(c, &r, i);
	for (unsigned i = 0; i < l->spaces && !e; i++)
		e = c->spaces[i].used ? check_space(c, &r, i) : 0;
	for (unsigned i = 0; i < l->members && !e; i++)
		e = c->members[i].used ? check_member(c, &r, &c->members[i]) : 0;
	for (unsigned i = 0; i < l->clients && !e; i++)
		e = c->clients[i].state == CORE_CLIENT_FREE ? 0 : check_client(c, &r, i);
	for (unsigned i = 0; i < l->tenants && !e; i++)
		e = c->tenants[i].used ? check_tenant(c, &r, i) : 0;
	for (unsigned i = 0; i < CORE_DEVICES_MAX && !e; i++)
		e = c->h->device[i].state == CORE_DEVICE_NONE ? 0 : check_device(c, &r, i);
	if (!e)
		e = check_draining(c, &r);
	if (!e)
		e = check_namespaces(c, &r);
	if (!e)
		e = check_transfers(c, &r);
	if (!e)
		e = check_index(c, &r);
	return e;
}
