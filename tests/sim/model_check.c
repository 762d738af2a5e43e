/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The judge: what the core changed by itself is taken over if a rule allows it, else it is a fault.
 *
 * Allowed at any time:
 *   a sealed page that nobody leases and no lookup may return (past epoch, past its time,
 * displaced, or in memory that is being revoked) becomes free, and such a page leaves the index; a
 * client that is gone loses leases; pages it was filling go to quarantine, and become free once its
 * process is dead; a client whose process is dead loses its memberships, and when nothing is left
 * its record; an empty slab that is revoked and mapped by nobody goes back to the device; a space
 * without members and slabs ends.
 */

#include "tests/sim/world.h"

#include <errno.h>
#include <string.h>

const char *const model_page_states[] = { "FREE", "FILLING", "SEALED", "QUARANTINE", "ARRIVING" };

static bool client_gone(const struct world *w, int client)
{
	return w->m.client[client].state != CORE_CLIENT_ATTACHED;
}

/* ---- pages --------------------------------------------------------------------------------- */

static void absorb_leases(struct world *w, struct m_space *s, struct m_page *p,
			  const struct core_page *cp, uint32_t id)
{
	uint16_t seen = 0;
	uint32_t n = 0;

	for (uint32_t i = cp->lease; n < cp->leases; i = w->c.leases[i].page_next, n++) {
		world_expect(w, i < w->c.h->limits.leases, "page %u: its list of leases is broken",
			     id);
		const struct core_lease *l = &w->c.leases[i];
		world_expect(w, l->client < M_CLIENTS, "page %u is leased by client %u", id,
			     l->client);
		world_expect(w,
			     (l->count & CORE_LEASE_COUNT_MAX) == p->leases[l->client] &&
				     !!(l->count & CORE_LEASE_PIN) == p->pins[l->client],
			     "page %u: client %u has %#x leases, the model %u%s", id, l->client,
			     l->count, p->leases[l->client],
			     p->pins[l->client] ? " and a pin" : "");
		seen |= (uint16_t)(1u << l->client);
	}
	for (int i = 0; p->lessees & ~seen && i < M_CLIENTS; i++) {
		if (!model_leased_by(p, i) || seen >> i & 1)
			continue;
		world_expect(w, client_gone(w, i), "page %u: the lease of client %d is lost", id,
			     i);
		model_lease_set(&w->m, p, i, 0, false);
		if (!model_leased(p) && !p->pinned) {
			model_touch(s, p);
			p->fresh = true;
			s->reorder |= 1;
			w->reaped++;
		}
	}
}

/* All are used, or what is left is shared with others. */
static bool are_transfers_scarce(const struct world *w)
{
	uint32_t tenants = 0;

	for (unsigned i = 0; i < M_TENANTS; i++)
		tenants += w->m.tenant[i].used;
	return w->c.h->transfers_used == w->c.h->limits.transfers ||
	       (tenants > 1 && w->c.h->transfers_used);
}

/* May this page, as the model knows it, have become free? */
static bool may_be_free(const struct world *w, const struct m_space *s, const struct m_page *p,
			uint8_t slab_state)
{
	/* below: to be written to, and then there was no transfer for it */
	bool taken =
		w->may_rise || (s->above != M_NONE && w->store_there && are_transfers_scarce(w));

	switch (p->state) {
	case CORE_PAGE_FREE: /* taken, and not used */
		return taken;
	case CORE_PAGE_SEALED:
		return !model_leased(p) && !p->busy &&
		       (slab_state != CORE_SLAB_LIVE || !p->indexed || model_stale(w, p) ||
			(taken && !p->pinned));
	case CORE_PAGE_FILLING:
	case CORE_PAGE_QUARANTINE:
		return w->m.client[p->owner].state == CORE_CLIENT_DEAD;
	default:
		return false;
	}
}

static void expect_key(struct world *w, const struct m_page *p, const struct core_page *cp,
		       uint32_t id)
{
	world_expect(w,
		     cp->ns == p->ns && cp->epoch == p->epoch && cp->salt == p->salt &&
			     !memcmp(&cp->hash, &p->hash, sizeof(p->hash)),
		     "I5: page %u is under another key than it was sealed under", id);
	world_expect(w, !!(cp->flags & CORE_PAGE_PINNED) == p->pinned, "page %u: operator's pin",
		     id);
	world_expect(w, !!(cp->flags & CORE_PAGE_LOW) == p->low, "page %u: hint LOW", id);
	world_expect(w, !!(cp->flags & CORE_PAGE_BUSY) == p->busy,
		     "I1: page %u is %sbusy, the model has it otherwise", id,
		     cp->flags & CORE_PAGE_BUSY ? "" : "not ");
	world_expect(w, cp->expire_s == p->expire_s,
		     "page %u expires in second %u, the model has %u", id, cp->expire_s,
		     p->expire_s);
}

static void absorb_page(struct world *w, struct m_space *s, const struct m_slab *slab,
			struct m_page *p, const struct core_page *cp, uint32_t id)
{
	bool indexed = cp->flags & CORE_PAGE_INDEXED;

	if (cp->state == CORE_PAGE_SEALED || cp->state == CORE_PAGE_ARRIVING || p->lessees)
		absorb_leases(w, s, p, cp, id);
	if (cp->state == CORE_PAGE_FREE && (p->state != CORE_PAGE_FREE || cp->gen != p->gen) &&
	    may_be_free(w, s, p, slab->state)) {
		uint32_t gen = p->gen;

		model_page_freed(p);
		if ((w->may_rise || s->above != M_NONE) &&
		    cp->gen != gen) /* evicted first, for a page that did not come */
			p->gen = cp->gen;
	}
	if (cp->state == CORE_PAGE_QUARANTINE && p->state == CORE_PAGE_FILLING &&
	    client_gone(w, p->owner))
		p->state = CORE_PAGE_QUARANTINE;
	world_expect(w, cp->state == p->state && cp->gen == p->gen,
		     "page %u is %s of generation %u, the model has %s of %u", id,
		     model_page_states[cp->state % 5], cp->gen, model_page_states[p->state],
		     p->gen);
	if (p->state == CORE_PAGE_FILLING || p->state == CORE_PAGE_QUARANTINE)
		world_expect(w, cp->owner == p->owner,
			     "page %u is held by client %u, the model has %d", id, cp->owner,
			     p->owner);
	if (p->state == CORE_PAGE_FILLING)
		world_expect(w, p->bytes == p->wrote, "I1: page %u was written to by a transfer",
			     id);
	if (p->state != CORE_PAGE_SEALED && p->state != CORE_PAGE_ARRIVING)
		return;
	if (s->above != M_NONE) /* as the page above, when they part */
		p->expire_s = cp->expire_s;
	p->spare = cp->flags & CORE_PAGE_SPARE;
	expect_key(w, p, cp, id);
	if (p->state == CORE_PAGE_ARRIVING) {
		world_expect(w, p->indexed || !indexed, "page %u is in the index", id);
		p->indexed = indexed;
		p->high = cp->flags & CORE_PAGE_HIGH;
		return;
	}
	world_expect(w, !!(cp->flags & CORE_PAGE_FAILED) == p->failed, "page %u: failed", id);
	if (!p->failed && !p->rotten && (p->indexed || p->lessees))
		world_expect(w, p->bytes == model_content(s, &w->m, p),
			     "I5: page %u does not hold the bytes of its key", id);
	if (p->indexed && !indexed)
		world_expect(w,
			     slab->state != CORE_SLAB_LIVE || model_stale(w, p) ||
				     model_find(w, (int)(s - w->m.space), p->ns, p->salt,
						&p->hash) != id,
			     "page %u has left the index", id);
	if (s->reorder & 2 || slab->state != CORE_SLAB_LIVE) /* may have been passed over */
		p->high = cp->flags & CORE_PAGE_HIGH;
	world_expect(w, !!(cp->flags & CORE_PAGE_HIGH) == p->high, "page %u: hint HIGH", id);
	world_expect(w, p->indexed || !indexed, "page %u is in the index again", id);
	p->indexed = indexed;
}

/* Pages came into the order in the core's own sequence: those it kept must not have changed places.
 */
static void absorb_order(struct world *w, unsigned space)
{
	struct m_space *s = &w->m.space[space];
	const struct core_space *cs = &w->c.spaces[space];
	int64_t order = 0, last = INT64_MIN;
	uint32_t n = 0;

	for (uint32_t i = cs->cold; i != CORE_NONE; i = w->c.pages[i].next) {
		world_expect(w, n++ < cs->listed, "space %u: the order is longer than %u", space,
			     cs->listed);
		uint32_t id = KVB_PAGE_ID(core_page_name(&w->c, i));
		struct m_page *p = model_page_at(&w->m, (int)space, id);
		world_expect(w, p && p->state == CORE_PAGE_SEALED,
			     "page %u in the order is not sealed", id);
		if (!model_leased(p) && !p->fresh && !(s->reorder & 2) &&
		    s->slab[id / s->pages_per_slab].state == CORE_SLAB_LIVE) {
			world_expect(w, p->listed && p->order > last,
				     "page %u changed its place in the order", id);
			last = p->order;
		}
		p->order = ++order;
		p->listed = true;
		p->fresh = false;
	}
	s->reorder = 0;
	s->hot = order;
	s->cold = 0;
}

/* ---- slabs and spaces ---------------------------------------------------------------------- */

static bool slab_mapped(const struct world *w, unsigned space, unsigned slot)
{
	for (unsigned i = 0; i < M_MEMBERS; i++) {
		const struct m_member *mm = &w->m.member[i];
		if (mm->used && mm->space == (int)space && mm->sent[slot])
			return true;
	}
	return false;
}

static void absorb_slab(struct world *w, unsigned space, unsigned slot)
{
	struct m_space *s = &w->m.space[space];
	struct m_slab *slab = &s->slab[slot];
	const struct core_slab *cs = &w->c.slabs[slab->core];

	if (slab->state == CORE_SLAB_FREE && s->above != M_NONE &&
	    w->c.spaces[space].slab_of_slot[slot] != CORE_NONE16) { /* the core asks by itself */
		slab->core = w->c.spaces[space].slab_of_slot[slot];
		slab->state = CORE_SLAB_CREATING;
		cs = &w->c.slabs[slab->core];
	}
	if (slab->state == CORE_SLAB_FREE) {
		world_expect(w, w->c.spaces[space].slab_of_slot[slot] == CORE_NONE16,
			     "space %u has a slab in slot %u that nobody asked for", space, slot);
		return;
	}
	world_expect(w,
		     w->c.spaces[space].slab_of_slot[slot] == slab->core && cs->space == space &&
			     cs->slot == slot,
		     "slab %u is not where it was", slab->core);
	if (slab->state == CORE_SLAB_LIVE &&
	    (cs->state == CORE_SLAB_DRAINING || cs->state == CORE_SLAB_CLOSING)) {
		world_expect(w, w->may_revoke || s->above != M_NONE,
			     "slab %u was revoked for no reason", slab->core);
		slab->state = CORE_SLAB_DRAINING;
		slab->deadline_ns = cs->deadline_ns;
		w->revoked++;
	}
	for (uint32_t i = 0; slab->pages && i < s->pages_per_slab; i++)
		absorb_page(w, s, slab, &slab->pages[i], &w->c.pages[cs->base + i],
			    slot * s->pages_per_slab + i);
	if (slab->state == CORE_SLAB_DRAINING && cs->state == CORE_SLAB_CLOSING) {
		for (uint32_t i = 0; i < s->pages_per_slab; i++)
			world_expect(w, slab->pages[i].state == CORE_PAGE_FREE,
				     "slab %u is taken back with page %u in use", slab->core, i);
		world_expect(w, !slab_mapped(w, space, slot),
			     "I2: slab %u is taken back while a member has it mapped", slab->core);
		slab->state = CORE_SLAB_CLOSING;
	}
	world_expect(w, cs->state == slab->state, "slab %u is in state %u, the model has %u",
		     slab->core, cs->state, slab->state);
}

static void absorb_members(struct world *w)
{
	for (unsigned i = 0; i < M_MEMBERS && i < w->c.h->limits.members; i++) {
		struct m_member *mm = &w->m.member[i];
		const struct core_member *cm = &w->c.members[i];
		if (mm->used && !cm->used) {
			world_expect(w, w->m.client[mm->client].state == CORE_CLIENT_DEAD,
				     "client %d lost its membership %u", mm->client, i);
			w->m.client[mm->client].member[mm->handle] = M_NONE;
			memset(mm, 0, sizeof(*mm));
		}
		world_expect(w, mm->used == cm->used, "member %u appeared", i);
		for (unsigned slot = 0; mm->used && slot < M_SLOTS; slot++) {
			unsigned bits = (cm->sent[0] >> slot & 1) | (cm->acked[0] >> slot & 1) << 1;
			unsigned want = mm->sent[slot] | (unsigned)mm->acked[slot] << 1;
			if (bits != want && !bits &&
			    w->m.client[mm->client].state == CORE_CLIENT_DEAD)
				mm->sent[slot] = mm->acked[slot] = mm->refused[slot] = false;
			else
				world_expect(w, bits == want,
					     "member %u, slot %u: sent, acknowledged %u, "
					     "the model has %u",
					     i, slot, bits, want);
		}
	}
}

static void absorb_clients(struct world *w)
{
	for (unsigned i = 0; i < M_CLIENTS && i < w->c.h->limits.clients; i++) {
		struct m_client *cl = &w->m.client[i];
		const struct core_client *cc = &w->c.clients[i];
		if (cl->state == CORE_CLIENT_DEAD && cc->state == CORE_CLIENT_FREE) {
			world_expect(w, !cl->leases && !model_client_held(&w->m, (int)i),
				     "client %u is forgotten before all was taken back", i);
			for (unsigned k = 0; k < M_MEMBERS; k++)
				world_expect(
					w, !w->m.member[k].used || w->m.member[k].client != (int)i,
					"client %u is forgotten and still a member", i);
			memset(cl, 0, sizeof(*cl));
		}
		world_expect(w, cl->state == cc->state,
			     "client %u is in state %u, the model has %u", i, cc->state, cl->state);
	}
}

/* ---- all of it ---------------------------------------------------------------------------- */

void model_absorb(struct world *w)
{
	model_absorb_transfers(w);
	absorb_members(w);
	for (unsigned i = 0; i < M_SPACES && i < w->c.h->limits.spaces; i++) {
		struct m_space *s = &w->m.space[i];
		uint32_t members = 0, slabs = 0;
		if (!s->used) {
			world_expect(w, !w->c.spaces[i].used, "space %u appeared", i);
			continue;
		}
		if (w->c.spaces[i].used) {
			if (s->above != M_NONE || s->below != M_NONE || w->cfg.store_room)
				s->reorder |= 2;
			for (unsigned slot = 0; slot < s->slots; slot++)
				absorb_slab(w, i, slot);
			if (s->reorder)
				absorb_order(w, i);
			continue;
		}
		for (unsigned k = 0; k < M_MEMBERS; k++)
			members += w->m.member[k].used && w->m.member[k].space == (int)i;
		for (unsigned slot = 0; slot < M_SLOTS; slot++)
			slabs += s->slab[slot].state != CORE_SLAB_FREE;
		world_expect(w, !members && !slabs, "space %u ended with %u members and %u slabs",
			     i, members, slabs);
		model_space_drop(&w->m, i);
	}
	absorb_clients(w);
	w->may_revoke = false;
	w->may_rise = false;
	w->may_insist = false;
}

/* ---- sums ---------------------------------------------------------------------------------- */

static void compare_tenant(struct world *w, unsigned tenant)
{
	const struct core_tenant *t = &w->c.tenants[tenant];
	uint32_t clients = 0, held = 0, leases = 0, pins = 0;

	for (int i = 0; i < M_CLIENTS; i++) {
		const struct m_client *cl = &w->m.client[i];
		if (cl->state == CORE_CLIENT_FREE || cl->tenant != (int)tenant)
			continue;
		clients++;
		held += model_client_held(&w->m, i);
		leases += cl->leases;
		pins += cl->pins;
	}
	world_expect(w,
		     t->clients == clients && t->pages_held == held && t->leases == leases &&
			     t->pins == pins,
		     "I4: tenant %u is charged %u clients, %u pages, %llu leases, %llu pins; the "
		     "model has "
		     "%u, %u, %u, %u",
		     tenant, t->clients, t->pages_held, (unsigned long long)t->leases,
		     (unsigned long long)t->pins, clients, held, leases, pins);
	for (unsigned d = 0; d < w->m.devices; d++) {
		uint64_t used = model_used_bytes(&w->m, (int)tenant, (int)d);
		world_expect(w, t->budget[d].used_bytes == used,
			     "I4: tenant %u is charged %llu bytes on device %u, the model has %llu",
			     tenant, (unsigned long long)t->budget[d].used_bytes, d,
			     (unsigned long long)used);
	}
}

/* What the core says it has moved. */
static void compare_moved(struct world *w)
{
	uint64_t demoted = 0, promoted = 0, misses = 0;

	for (unsigned d = 0; d < w->m.opens; d++) {
		demoted += w->c.h->device[d].demoted;
		promoted += w->c.h->device[d].promoted;
		misses += w->c.h->device[d].checksum_misses;
	}
	world_expect(w, demoted == w->demoted && promoted == w->promoted && misses == w->misses,
		     "the core wrote %llu pages down, brought %llu up and missed %llu checksums, "
		     "the model %llu, %llu and %llu",
		     (unsigned long long)demoted, (unsigned long long)promoted,
		     (unsigned long long)misses, (unsigned long long)w->demoted,
		     (unsigned long long)w->promoted, (unsigned long long)w->misses);
}

/* And what it says of the store. */
static void compare_stored(struct world *w)
{
	const struct core_counters *n = &w->c.h->n;

	world_expect(w,
		     n->stored == w->n.stored && n->stored_bytes == w->n.stored_bytes &&
			     n->store_refused == w->n.refused,
		     "the core wrote %llu pages to the store and %llu were refused, the model %llu "
		     "and %llu",
		     (unsigned long long)n->stored, (unsigned long long)n->store_refused,
		     (unsigned long long)w->n.stored, (unsigned long long)w->n.refused);
	world_expect(w,
		     n->fetched == w->n.fetched && n->fetched_bytes == w->n.fetched_bytes &&
			     n->store_lost == w->n.lost,
		     "the core read %llu pages from the store and lost %llu, the model %llu and "
		     "%llu",
		     (unsigned long long)n->fetched, (unsigned long long)n->store_lost,
		     (unsigned long long)w->n.fetched, (unsigned long long)w->n.lost);
	world_expect(w, w->cfg.refuse_keys || !n->store_unwanted,
		     "admission that takes everything kept %llu pages out",
		     (unsigned long long)n->store_unwanted);
}

void model_compare(struct world *w)
{
	compare_moved(w);
	compare_stored(w);
	for (unsigned i = 0; i < M_TENANTS && i < w->c.h->limits.tenants; i++) {
		world_expect(w, w->c.tenants[i].used == w->m.tenant[i].used, "tenant %u", i);
		if (w->m.tenant[i].used)
			compare_tenant(w, i);
	}
	for (unsigned d = 0; d < w->m.devices; d++) {
		uint64_t granted = model_granted_bytes(&w->m, (int)d), promised = 0;
		for (unsigned i = 0; i < M_TENANTS; i++) {
			uint64_t used = model_used_bytes(&w->m, (int)i, (int)d);
			uint64_t min = w->m.tenant[i].budget[d].min_bytes;
			if (w->m.tenant[i].used)
				promised += used > min ? used : min;
		}
		world_expect(w, w->c.h->device[d].granted_bytes == granted,
			     "I4: device %u has granted %llu bytes, the model %llu", d,
			     (unsigned long long)w->c.h->device[d].granted_bytes,
			     (unsigned long long)granted);
		world_expect(w, promised <= w->m.device[d].capacity_bytes,
			     "I7: device %u: what is used and promised is %llu of %llu bytes", d,
			     (unsigned long long)promised,
			     (unsigned long long)w->m.device[d].capacity_bytes);
	}
}
