/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Lower tiers: LOAD, PREFETCH and STORE, and the mover that does what they start. What the store
 * does of it is in ops_store.c.
 *
 * The mover takes what the core has queued and ends it later, in any order, and now and then badly.
 * It copies the model's memory when it ends, from and to wherever the pages of the transfer were
 * when it began. Memory below is damaged at times: then the checksum must say so.
 */

#include "tests/sim/world.h"

#include <errno.h>
#include <string.h>

static uint32_t sum_of(uint64_t bytes)
{
	return (uint32_t)rng_mix(bytes);
}

static bool is_leased_by(const struct m_page *p, int client)
{
	return model_leased_by(p, client);
}

/* ---- which tier ---------------------------------------------------------------------------- */

/* On the device, or on its way there: its id, or CORE_NONE. */
static uint32_t find_here(const struct world *w, int space, uint32_t under)
{
	const struct m_space *s = &w->m.space[space];
	const struct m_page *p;

	if (under == CORE_NONE || s->slab[under / s->pages_per_slab].state != CORE_SLAB_LIVE)
		return CORE_NONE;
	p = &s->slab[under / s->pages_per_slab].pages[under % s->pages_per_slab];
	return p->state == CORE_PAGE_ARRIVING || !model_stale(w, p) ? under : CORE_NONE;
}

/* The page below that holds the key, or CORE_NONE. */
static uint32_t find_below(const struct world *w, int space, uint32_t under, int ns, uint64_t salt,
			   const struct kvb_hash *hash)
{
	const struct m_space *s = &w->m.space[space];

	if (s->below == M_NONE || !w->m.device[s->device].ready)
		return CORE_NONE;
	if (under != CORE_NONE &&
	    model_stale(w, &s->slab[under / s->pages_per_slab].pages[under % s->pages_per_slab]))
		return CORE_NONE; /* past its time, in every tier */
	return model_find(w, s->below, ns, salt, hash);
}

bool tier_serves(const struct world *w, const struct m_space *s)
{
	return s->below == M_NONE ? w->store_there : w->m.device[s->device].ready;
}

/* Can it come from the store? Not past its time in one of the tiers above. */
static bool find_store(const struct world *w, int space, uint32_t under, int ns, uint64_t salt,
		       const struct kvb_hash *hash)
{
	const struct m_space *s = &w->m.space[space];
	struct m_page key = { .ns = ns, .epoch = w->m.ns[ns].epoch, .salt = salt, .hash = *hash };
	uint32_t low = s->below == M_NONE ? CORE_NONE : model_under(w, s->below, ns, salt, hash);

	if (!tier_serves(w, s) || !store_has(w, s, &key))
		return false;
	if (under != CORE_NONE &&
	    model_stale(w, model_page_at((struct model *)&w->m, space, under)))
		return false;
	return low == CORE_NONE ||
	       !model_stale(w, model_page_at((struct model *)&w->m, s->below, low));
}

enum kvb_tier tier_of_key(const struct world *w, int space, int ns, uint64_t salt,
			  const struct kvb_hash *hash)
{
	uint32_t under = model_under(w, space, ns, salt, hash);

	if (find_here(w, space, under) != CORE_NONE)
		return KVB_TIER_DEVICE;
	if (find_below(w, space, under, ns, salt, hash) != CORE_NONE)
		return KVB_TIER_HOST;
	return find_store(w, space, under, ns, salt, hash) ? KVB_TIER_STORE : KVB_TIER_NONE;
}

/* ---- LOAD, PREFETCH ------------------------------------------------------------------------ */

#define LOAD_CHUNK 32u /* keys that a call has in hand at once */

struct load {
	int member, ns;
	uint64_t salt;
	uint32_t n, lead;
	struct kvb_hash hash[W_BATCH];
	kvb_page_t ret[W_BATCH];
	uint32_t here[W_BATCH], below[W_BATCH]; /* before the call */
	bool store[W_BATCH];                    /* it could come from there */
};

/* A key of the namespace that is below and may come up, or any. */
static struct kvb_hash pick_key(struct world *w, const struct load *l)
{
	int below = w->m.space[w->m.member[l->member].space].below;
	const struct m_space *s = &w->m.space[below == M_NONE ? 0 : below];
	uint32_t ids = s->slots * s->pages_per_slab, at = rnd(w, ids);
	struct kvb_hash hash;

	if (w->cfg.store_room && chance(w, 2) &&
	    store_pick(w, w->m.member[l->member].space, l->ns, l->salt, &hash))
		return hash;
	for (uint32_t k = 0; below != M_NONE && k < ids && !chance(w, 200); k++) {
		uint32_t id = (at + k) % ids;
		const struct m_page *p = model_page_at(&w->m, below, id);

		if (!p)
			k += s->pages_per_slab - 1 - id % s->pages_per_slab;
		else if (p->state == CORE_PAGE_SEALED && p->ns == l->ns && p->salt == l->salt)
			return p->hash;
	}
	return page_pick_hash(w);
}

static bool pick_load(struct world *w, struct load *l)
{
	bool below;
	int handle;

	l->member = world_pick_member(w);
	if (l->member == M_NONE)
		return false;
	handle = world_pick_ns(w, w->m.member[l->member].client);
	if (handle == M_NONE)
		return false;
	l->ns = w->m.client[w->m.member[l->member].client].ns[handle];
	l->salt = rnd(w, w->cfg.salts);
	l->n = rng_range(&w->rng, 1, w->cfg.batch);
	below = !chance(w, 3);
	for (uint32_t i = 0; i < l->n; i++) {
		int space = w->m.member[l->member].space;
		uint32_t under;

		l->hash[i] = below ? pick_key(w, l) : page_pick_hash(w);
		under = model_under(w, space, l->ns, l->salt, &l->hash[i]);
		l->here[i] = find_here(w, space, under);
		l->below[i] = find_below(w, space, under, l->ns, l->salt, &l->hash[i]);
		l->store[i] = find_store(w, space, under, l->ns, l->salt, &l->hash[i]);
	}
	return true;
}

/* A key that LOAD has named: its page, leased from here on. */
static void loaded(struct world *w, struct load *l, uint32_t i)
{
	struct m_member *mm = &w->m.member[l->member];
	const struct m_space *s = &w->m.space[mm->space];
	uint32_t id = KVB_PAGE_ID(l->ret[i]);
	struct m_page *p = model_page(&w->m, mm->space, l->ret[i], NULL);

	world_trace(w, l->ret[i]);
	world_expect(w,
		     p && p->indexed && p->ns == l->ns && p->salt == l->salt &&
			     !memcmp(&p->hash, &l->hash[i], sizeof(p->hash)) &&
			     p->epoch == w->m.ns[l->ns].epoch,
		     "I5: LOAD result %u is %#llx, which is not under its key", i,
		     (unsigned long long)l->ret[i]);
	/* a chunk may take what a later one would have found, and that is brought up again */
	world_expect(w, i >= LOAD_CHUNK || l->here[i] == CORE_NONE || l->here[i] == id,
		     "LOAD result %u is page %u; page %u was here", i, id, l->here[i]);
	world_expect(w, l->here[i] == id || l->below[i] != CORE_NONE || l->store[i],
		     "I5: LOAD result %u was in no tier", i);
	world_expect(w, mm->acked[id / s->pages_per_slab],
		     "LOAD gave page %u of a slab that its client has not mapped", id);
	world_expect(w, page_lease_fits(w, p, mm->client), "LOAD went over the lease quota");
	model_lease_set(&w->m, p, mm->client, p->leases[mm->client] + 1u, p->pins[mm->client]);
	l->lead += p->state == CORE_PAGE_ARRIVING;
	world_remember(w, l->ret[i]);
}

static bool is_asked_for(const struct load *l, uint32_t below)
{
	for (uint32_t i = 0; i < l->n; i++) {
		if (l->below[i] == below)
			return true;
	}
	return false;
}

/* Nothing below can be filled on its way from the store: no page is free there, and none may go but
 * those that keys of the same call have there. */
static bool is_full_below(const struct world *w, const struct load *l, int space)
{
	const struct m_space *s = &w->m.space[space];

	for (uint32_t id = 0; id < s->slots * s->pages_per_slab; id++) {
		const struct m_slab *slab = &s->slab[id / s->pages_per_slab];
		const struct m_page *p;

		if (slab->state != CORE_SLAB_LIVE)
			continue;
		p = &slab->pages[id % s->pages_per_slab];
		if (p->state == CORE_PAGE_FREE || (p->state == CORE_PAGE_SEALED && !p->busy &&
						   !p->pinned && !is_asked_for(l, id)))
			return false;
	}
	return true;
}

/* Why it went no further. */
static void load_short(struct world *w, const struct load *l, struct core_batch b, bool lease)
{
	const struct m_member *mm = &w->m.member[l->member];
	const struct m_space *s = &w->m.space[mm->space];
	uint32_t under = model_under(w, mm->space, l->ns, l->salt, &l->hash[b.done]);
	uint32_t here = find_here(w, mm->space, under);
	const struct m_page *p = here == CORE_NONE ? NULL : model_page_at(&w->m, mm->space, here);
	uint32_t slot = here / s->pages_per_slab;

	/* what is held in chunks: a short run is one */
	world_expect(w,
		     l->n > LOAD_CHUNK || l->here[b.done] == CORE_NONE || here == l->here[b.done],
		     "LOAD evicted page %u, which it was asked for", l->here[b.done]);
	if (b.status) {
		world_expect(w, b.status == -EDQUOT && lease, "LOAD: status %d", b.status);
		world_expect(w, !p || !page_lease_fits(w, p, mm->client),
			     "LOAD ended at a quota that is not reached");
		return;
	}
	if (b.flags & KVB_CQE_GRANT_PENDING) {
		world_expect(w, p && !mm->acked[slot] && !mm->refused[slot],
			     "LOAD waits for a grant that is not pending");
		return;
	}
	if (b.wait)
		return;
	world_expect(w, !p || (lease && mm->refused[slot]), "LOAD ended before a key that is here");
	if (p || page_lowest_free(s, mm) == CORE_NONE)
		return;
	world_expect(w, l->below[b.done] == CORE_NONE,
		     "LOAD ended at a key that is below, with a page free");
	world_expect(w, !l->store[b.done] || (s->below != M_NONE && is_full_below(w, l, s->below)),
		     "LOAD ended at a key that the store has, with pages free");
}

void op_load(struct world *w)
{
	struct load l = { 0 };
	bool lease = !chance(w, 5);
	struct core_batch b;

	if (!pick_load(w, &l))
		return;
	struct core_lookup lk = { .salt = l.salt, .ns = (uint16_t)l.ns };
	struct core_member *cm = world_member(w, l.member);
	w->may_rise = true;
	b = lease ? core_load(&w->c, cm, &lk, l.hash, l.n, l.ret)
		  : core_prefetch(&w->c, cm, &lk, l.hash, l.n);
	world_trace(w, b.done);
	world_trace(w, (uint64_t)(int64_t)b.status);
	world_say(w, "%s %u of member %d in ns %d: %u, lead %u, status %d%s",
		  lease ? "load" : "prefetch", l.n, l.member, l.ns, b.done, lk.lead, b.status,
		  b.wait ? ", wait" : "");
	model_absorb_transfers(w);
	for (uint32_t i = 0; i < b.done; i++) {
		if (lease)
			loaded(w, &l, i);
		else
			world_expect(
				w, l.here[i] != CORE_NONE || l.below[i] != CORE_NONE || l.store[i],
				"PREFETCH counts what is in no tier");
	}
	world_expect(w, !lease || lk.lead == l.lead, "LOAD: %u come from below, the model has %u",
		     lk.lead, l.lead);
	model_absorb(w);
	if (b.done < l.n)
		load_short(w, &l, b, lease);
}

/* ---- STORE, and what has arrived ----------------------------------------------------------- */

static bool has_copy(const struct world *w, int space, const struct m_page *p)
{
	const struct m_space *s = &w->m.space[space];
	uint32_t low;

	if (s->below == M_NONE)
		return store_has(w, s, p);
	low = model_under(w, s->below, p->ns, p->salt, &p->hash);

	return low != CORE_NONE || p->epoch != w->m.ns[p->ns].epoch; /* or had */
}

void op_store(struct world *w)
{
	int member = world_pick_member(w);
	uint32_t n = rng_range(&w->rng, 1, w->cfg.batch);
	kvb_page_t page[W_BATCH];

	if (member == M_NONE)
		return;
	const struct m_member *mm = &w->m.member[member];
	const struct m_space *s = &w->m.space[mm->space];
	n = world_pick_pages(w, member, is_leased_by, n, page);
	w->may_insist = s->below == M_NONE;
	struct core_batch b = core_store(&w->c, world_member(w, member), page, n);
	world_trace(w, b.done);
	world_trace(w, (uint64_t)(int64_t)b.status);
	world_say(w, "store %u of member %d: %u, status %d%s", n, member, b.done, b.status,
		  b.wait ? ", wait" : "");
	for (uint32_t i = 0; i <= b.done && i < n; i++) {
		const struct m_page *p = model_page(&w->m, mm->space, page[i], NULL);
		bool mine = p && model_leased_by(p, mm->client);

		if (i == b.done) {
			world_expect(w, (b.status == -ENOENT) == !mine, "STORE of page %#llx: %d",
				     (unsigned long long)page[i], b.status);
			world_expect(w, b.status || b.wait, "STORE neither ends nor waits");
			world_expect(w,
				     b.status != -ESTALE || !p->indexed ||
					     p->epoch != w->m.ns[p->ns].epoch,
				     "STORE takes a page for stale");
			break;
		}
		world_expect(w, mine && has_copy(w, mm->space, p),
			     "STORE counts page %#llx, which has no copy",
			     (unsigned long long)page[i]);
	}
}

void op_arrived(struct world *w)
{
	int member = world_pick_member(w);
	kvb_page_t page[W_BATCH];
	bool failed, want_failed = false;
	uint32_t n, done, want = 0;

	if (member == M_NONE)
		return;
	const struct m_member *mm = &w->m.member[member];
	n = world_pick_pages(w, member, is_leased_by, rng_range(&w->rng, 1, w->cfg.batch), page);
	done = core_load_arrived(&w->c, world_member(w, member), page, n, &failed);
	for (; want < n; want++) {
		const struct m_page *p = model_page(&w->m, mm->space, page[want], NULL);
		bool good = p && (p->state == CORE_PAGE_SEALED || p->state == CORE_PAGE_ARRIVING) &&
			    !p->failed && p->epoch == w->m.ns[p->ns].epoch;

		want_failed = !good;
		if (!good || p->state == CORE_PAGE_ARRIVING)
			break;
	}
	world_trace(w, done);
	world_expect(w, done == want && failed == want_failed,
		     "of %u pages %u have arrived%s, the model has %u", n, done,
		     failed ? " and one never will" : "", want);
}

/* ---- the mover ----------------------------------------------------------------------------- */

static bool is_queued(const struct world *w, uint32_t transfer, unsigned device)
{
	const struct core_transfer *t = &w->c.transfers[transfer];

	return t->state == CORE_TRANSFER_QUEUED && t->device == device &&
	       !w->flight[transfer].store;
}

static bool is_up_queued(const struct world *w, unsigned device)
{
	for (uint32_t i = 0; i < w->c.h->limits.transfers; i++) {
		if (is_queued(w, i, device) && w->flight[i].up)
			return true;
	}
	return false;
}

/* The mover dies, or is back. */
static void turn_ready(struct world *w, unsigned d)
{
	bool queued[W_FLIGHTS] = { false };
	struct m_device *device = &w->m.device[d];

	if (device->below == M_NONE)
		return;
	device->ready = !device->ready;
	for (uint32_t i = 0; !device->ready && i < w->c.h->limits.transfers; i++)
		queued[i] = is_queued(w, i, d);
	world_say(w, "device %u: its tier is %s", d, device->ready ? "ready" : "away");
	core_device_below_ready(&w->c, d, device->ready);
	for (uint32_t i = 0; i < w->c.h->limits.transfers; i++) {
		if (queued[i])
			model_transfer_end(w, i, -EIO);
	}
}

void op_ready(struct world *w)
{
	turn_ready(w, rnd(w, w->m.opens));
}

void op_mover(struct world *w)
{
	for (unsigned d = 0; d < w->m.opens; d++) {
		if (!w->m.device[d].ready && chance(w, 4))
			turn_ready(w, d);
		for (unsigned t; (t = core_next_transfer(&w->c, d)) != CORE_NONE16;) {
			world_trace(w, t);
			world_expect(w, t < W_FLIGHTS && w->flight[t].used,
				     "the mover is given transfer %u, which is none", t);
			world_expect(w, !w->flight[t].store,
				     "the mover is given transfer %u, which is the store's", t);
			world_expect(w, w->flight[t].up || !is_up_queued(w, d),
				     "the mover is given a copy down while one up waits");
			world_later(w, EVENT_COPIED, t, 0, d);
		}
	}
}

void tier_copied(struct world *w, unsigned transfer)
{
	const struct core_transfer *t = &w->c.transfers[transfer];
	struct flight *f = &w->flight[transfer];
	struct m_page *from = model_page_at(&w->m, f->from_space, f->from);
	struct m_page *to = model_page_at(&w->m, f->to_space, f->to);
	int error = chance(w, w->cfg.lose_one_in) || !w->m.device[t->device].ready ? -EIO : 0;
	uint32_t sum;

	world_expect(w, f->used && from && to, "I1: the memory of transfer %u went away", transfer);
	sum = sum_of(from->bytes);
	if (!error && f->up && t->sum != sum)
		error = -EBADMSG;
	world_expect(w, error != -EBADMSG || from->rotten, "transfer %u has the wrong checksum",
		     transfer);
	to->bytes = error ? 2 * transfer : from->bytes;
	world_say(w, "transfer %u %s: %d", transfer, f->up ? "up" : "down", error);
	core_transfer_done(&w->c, transfer, error, sum);
	model_transfer_end(w, transfer, error);
}

/* Memory below is damaged. */
void op_rot(struct world *w)
{
	unsigned space = rnd(w, M_SPACES);
	struct m_space *s = &w->m.space[space];
	struct m_page *p;

	if (!s->used || s->above == M_NONE)
		return;
	p = model_page_at(&w->m, (int)space, rnd(w, s->slots * s->pages_per_slab));
	if (!p || p->state != CORE_PAGE_SEALED || p->rotten)
		return;
	p->bytes ^= 2;
	p->rotten = true;
}
