/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Work in slices: what must be done soon and must not hold up a turn.
 *
 *   reaping   what clients that are gone held: leases, pages, mappings, in this order
 *   draining  unleased pages of slabs that are revoked
 *   sweeping  pages of past epochs, after a bump
 *   ripening  copies of what goes next, to the tier below (tier.c)
 *
 * Units are page or lease visits; reading a neighbouring record costs a fraction of one.
 */

#include "broker/core/internal.h"

#define SCAN_PER_UNIT 8u /* records read in order for the price of one visit */

static bool spend(uint32_t *units, uint32_t n)
{
	*units = *units > n ? *units - n : 0;
	return *units;
}

/* ---- reaping ------------------------------------------------------------------------------- */

static bool reap_leases(struct core *c, unsigned client, uint32_t *units)
{
	struct core_client *cl = &c->clients[client];

	while (cl->lease_first != CORE_NONE) {
		const struct core_lease *l = &c->leases[cl->lease_first];

		core_lease_end(c, core_member_of(c, client, core_slab_of(c, l->page)->space),
			       cl->lease_first);
		if (!spend(units, 1))
			return false;
	}
	return true;
}

/* Pages a client holds in one slab: into quarantine, or free when its process is dead. */
static void reap_slab(struct core *c, struct core_member *m, struct core_slab *slab,
		      uint32_t *units)
{
	const struct core_client *cl = &c->clients[m->client];
	bool dead = cl->state == CORE_CLIENT_DEAD;
	uint32_t left = m->held_in[slab->slot], i = 0;

	for (; left && i < slab->pages; i++) {
		struct core_page *p = &c->pages[slab->base + i];

		if ((p->state != CORE_PAGE_FILLING && p->state != CORE_PAGE_QUARANTINE) ||
		    p->owner != m->client)
			continue;
		left--;
		if (dead) {
			core_page_unhold(c, m, slab->base + i);
			core_page_make_free(c, slab->base + i);
		} else if (p->state == CORE_PAGE_FILLING) {
			p->state = CORE_PAGE_QUARANTINE;
			slab->held--;
			slab->quarantined++;
		}
	}
	(void)spend(units, i / SCAN_PER_UNIT + 1);
}

static bool reap_pages(struct core *c, unsigned client, uint32_t *units)
{
	struct core_client *cl = &c->clients[client];

	for (; cl->reap_slot < KVB_SPACES_MAX * KVB_SLOTS_MAX; cl->reap_slot++) {
		struct core_member *m = core_member_get(c, client, cl->reap_slot / KVB_SLOTS_MAX);
		unsigned slot = cl->reap_slot % KVB_SLOTS_MAX;

		if (!*units)
			return false;
		if (!m || !m->held) {
			cl->reap_slot |= KVB_SLOTS_MAX - 1;
			continue;
		}
		if (m->held_in[slot])
			reap_slab(c, m, &c->slabs[c->spaces[m->space].slab_of_slot[slot]], units);
	}
	return true;
}

static bool reap_members(struct core *c, unsigned client, uint32_t *units)
{
	for (unsigned h = 0; h < KVB_SPACES_MAX; h++) {
		struct core_member *m = core_member_get(c, client, h);

		if (!m)
			continue;
		core_member_remove(c, m);
		if (!spend(units, 16))
			return false;
	}
	return true;
}

static void reap_client(struct core *c, unsigned client, uint32_t *units)
{
	struct core_client *cl = &c->clients[client];

	if (!reap_leases(c, client, units) || !reap_pages(c, client, units))
		return;
	if (cl->state == CORE_CLIENT_DEAD) {
		if (!reap_members(c, client, units))
			return;
		assert(!cl->held && !cl->leases && !cl->pins);
		c->tenants[cl->tenant].clients--;
		cl->state = CORE_CLIENT_FREE;
		c->h->n.clients_reaped++;
	}
	cl->reaping = 0;
	c->h->clients_reaping--;
}

/* ---- draining ------------------------------------------------------------------------------ */

/*
 * What a revoked slab holds is written down as long as there is time for it. -EAGAIN: as soon as a
 * transfer can be had; 0: it is free, or will be when its transfer is over.
 */
static int drain_down(struct core *c, struct core_slab *slab, uint32_t page)
{
	struct core_space *s = &c->spaces[slab->space];
	const struct core_page *p = &c->pages[page];
	int r = 1;

	if (!slab->retired && core_tier_usable(c, s) && c->now_ns < slab->deadline_ns &&
	    p->flags & CORE_PAGE_INDEXED && !(p->flags & CORE_PAGE_PENDING) &&
	    !core_page_stale(c, p) && !core_page_expired(c, p) && !(p->flags & CORE_PAGE_BELOW) &&
	    core_ripe_wants(c, s, page)) {
		core_page_forget(c, page);
		r = core_tier_down(c, s, page);
	}
	if (r == -EAGAIN)
		return r;
	if (r)
		core_page_discard(c, page);
	return 0;
}

static void drain_slab(struct core *c, struct core_slab *slab, uint32_t *units)
{
	while (slab->state == CORE_SLAB_DRAINING && slab->drain < slab->pages && *units) {
		uint32_t page = slab->base + slab->drain++;
		struct core_page *p = &c->pages[page];

		if (p->state == CORE_PAGE_SEALED && !p->leases && !(p->flags & CORE_PAGE_BUSY)) {
			if (drain_down(c, slab, page) == -EAGAIN) {
				slab->drain--;
				return;
			}
			(void)spend(units, 1);
		} else if (slab->drain % SCAN_PER_UNIT == 0) {
			(void)spend(units, 1);
		}
	}
}

/*
 * A slab that was walked once needs no more: its last pages go with their leases and holders. True:
 * one can be walked on now, another only when transfers are over.
 */
static bool drain(struct core *c, uint32_t *units)
{
	for (unsigned i = 0; i < c->h->limits.slabs && c->h->slabs_undrained && *units; i++) {
		struct core_slab *slab = &c->slabs[i];

		if (slab->state != CORE_SLAB_DRAINING || slab->drain == slab->pages)
			continue;
		drain_slab(c, slab, units);
		c->h->slabs_undrained -= slab->drain == slab->pages;
	}
	return c->h->slabs_undrained && !*units; /* else what is left waits for transfers */
}

/* ---- sweeping ------------------------------------------------------------------------------ */

static void sweep_unit(struct core *c, uint32_t unit, uint32_t *units)
{
	for (uint32_t i = 0; i < CORE_UNIT_PAGES; i++) {
		uint32_t page = unit * CORE_UNIT_PAGES + i;
		struct core_page *p = &c->pages[page];

		if (p->state != CORE_PAGE_SEALED || p->leases || p->flags & CORE_PAGE_BUSY ||
		    !core_page_stale(c, p))
			continue;
		core_page_discard(c, page);
		c->h->n.stale_swept++;
		(void)spend(units, 1);
	}
	(void)spend(units, CORE_UNIT_PAGES / SCAN_PER_UNIT);
}

static void sweep(struct core *c, uint32_t *units)
{
	while (c->h->sweep_left && *units) {
		uint32_t unit = c->h->sweep_page / CORE_UNIT_PAGES;

		if (unit >= c->h->units_high)
			unit = 0;
		if (bit_test(c->unit_used, unit) &&
		    c->slabs[c->units[unit]].state != CORE_SLAB_CREATING)
			sweep_unit(c, unit, units);
		else
			(void)spend(units, 1);
		c->h->sweep_page = (unit + 1) * CORE_UNIT_PAGES;
		c->h->sweep_left -= CORE_UNIT_PAGES;
		if (!c->h->pages_stale)
			c->h->sweep_left = 0;
	}
}

bool core_work(struct core *c, uint32_t units)
{
	uint64_t revocations = c->h->n.revocations;
	bool more = false;

	for (unsigned i = 0; i < c->h->limits.clients && c->h->clients_reaping && units; i++) {
		if (c->clients[i].reaping)
			reap_client(c, i, &units);
	}
	if (c->h->slabs_undrained)
		more = !units || drain(c, &units);
	if (c->h->sweep_left && units)
		sweep(c, &units);
	if (c->h->spaces_ripening && units)
		core_ripen_work(c, &units);
	if (c->h->n.revocations != revocations) /* to make room below, and not walked yet */
		more = true;
	return c->h->clients_reaping || more || c->h->sweep_left || c->h->spaces_ripening;
}
