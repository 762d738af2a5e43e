/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Keys in any tier: LOOKUP that goes on below, LOAD and PREFETCH that bring up, STORE that writes
 * down.
 *
 * A key that is only below gets a page on the device at once: ARRIVING, under the key, so that
 * whoever else loads it joins and waits for the same transfer; a plain lookup misses it until it is
 * there (I5). Who loads it holds a lease from the start. So a client that dies or gives up leaves a
 * page that arrives and is a candidate like any other.
 *
 * Keys are dealt with LOAD_CHUNK at a time: first what they have in either tier is held, because
 * making room would evict it, the coldest of a chain most likely; then pages are taken, and given
 * to the keys in the order of their ids, so that what is neighbours below comes to be neighbours
 * above and goes in one copy.
 *
 * A key that is in the store alone is fetched from there: to the device, or through a page of the
 * arena below it.
 */

#include "broker/core/index.h"

#define LOAD_CHUNK 32u

/* Keys of a batch in one space and the one below it. */
struct load {
	struct core_taker who;
	struct core_space *s;
	struct core_index_seed seed, seed_below;
	struct core_key key, key_below;
	bool below; /* there is memory below, and it works */
	bool store; /* and a store behind it, or behind the device itself */
	bool lease;
	/* of a chunk */
	uint32_t here[LOAD_CHUNK]; /* by key: what is held on the device; CORE_NONE */
	uint32_t low[LOAD_CHUNK];  /* by key: what is held below; CORE_NONE */
	bool fetch[LOAD_CHUNK];    /* by key: the store alone has it */
	uint32_t fetches;
	uint32_t page[LOAD_CHUNK];
	uint32_t pages, used;     /* of page[] */
	uint32_t via[LOAD_CHUNK]; /* pages of the arena that what is fetched passes through */
	uint32_t vias, vias_used;
};

static void load_begin(struct core *c, struct load *l, struct core_member *m,
		       const struct core_lookup *lk)
{
	l->s = &c->spaces[m->space];
	l->who = core_taker(c, m);
	l->below = l->s->below != CORE_NONE16 && core_tier_usable(c, l->s);
	l->store = core_store_usable(c, l->below ? &c->spaces[l->s->below] : l->s);
	l->key = (struct core_key){
		.salt = lk->salt,
		.ns = lk->ns,
		.space = m->space,
		.epoch = c->namespaces[lk->ns].epoch,
	};
	l->seed = core_index_seed(c, m->space, lk->ns, lk->salt);
	l->key_below = l->key;
	l->key_below.space = l->s->below;
	if (l->below)
		l->seed_below = core_index_seed(c, l->s->below, lk->ns, lk->salt);
}

static uint32_t find_here(const struct core *c, struct load *l, const struct kvb_hash *hash)
{
	l->key.hash = *hash;
	return core_index_find(c, core_index_mix(c, l->seed, hash), &l->key);
}

/*
 * The page below that can be brought up; CORE_NONE. `here` is what the device has under the key:
 * past its time there it is a miss in every tier.
 */
static uint32_t find_below(const struct core *c, struct load *l, const struct kvb_hash *hash,
			   uint32_t here)
{
	uint32_t page;

	if (!l->below || (here != CORE_NONE && core_page_expired(c, &c->pages[here])))
		return CORE_NONE;
	l->key_below.hash = *hash;
	page = core_index_find(c, core_index_mix(c, l->seed_below, hash), &l->key_below);
	return page != CORE_NONE && core_page_usable(c, page) ? page : CORE_NONE;
}

/* Does the store have it? Not what is past its time here, as for find_below(), or below. */
static bool find_store(const struct core *c, struct load *l, const struct kvb_hash *hash,
		       uint32_t here)
{
	uint32_t low = CORE_NONE;

	if (!l->store || (here != CORE_NONE && core_page_expired(c, &c->pages[here])))
		return false;
	l->key_below.hash = *hash;
	if (l->below)
		low = core_index_find(c, core_index_mix(c, l->seed_below, hash), &l->key_below);
	if (low != CORE_NONE && core_page_expired(c, &c->pages[low]))
		return false;
	l->key.hash = *hash;
	return c->store->has(c->store_arg, &l->key);
}

/* On the device, or on its way there. */
static bool is_here(const struct core *c, uint32_t page)
{
	return page != CORE_NONE &&
	       (core_page_usable(c, page) || (c->pages[page].state == CORE_PAGE_ARRIVING &&
					      core_slab_of(c, page)->state == CORE_SLAB_LIVE));
}

uint32_t core_lookup_below(struct core *c, struct core_member *m, const struct core_lookup *lk,
			   const struct kvb_hash *hash, uint32_t n, kvb_page_t *ret)
{
	struct load l;
	uint32_t done = 0;

	load_begin(c, &l, m, lk);
	for (; done < n; done++) {
		uint32_t here = find_here(c, &l, &hash[done]);

		if (is_here(c, here))
			ret[done] = KVB_PAGE_IN(KVB_TIER_DEVICE);
		else if (find_below(c, &l, &hash[done], here) != CORE_NONE)
			ret[done] = KVB_PAGE_IN(KVB_TIER_HOST);
		else if (find_store(c, &l, &hash[done], here))
			ret[done] = KVB_PAGE_IN(KVB_TIER_STORE);
		else
			break;
		c->h->n.lookup_below += ret[done] != KVB_PAGE_IN(KVB_TIER_DEVICE);
	}
	return done;
}

/* A page that is here: 1 named and, with lease, leased; 0 a miss; -errno as LOOKUP. */
static int take_here(struct core *c, struct load *l, uint32_t page, uint32_t *flags,
		     kvb_page_t *ret)
{
	struct core_member *m = l->who.m;
	struct core_slab *slab = core_slab_of(c, page);
	int r;

	*ret = core_name_in(c, slab, page);
	if (!l->lease)
		return 1;
	if (!bit_test(m->acked, slab->slot)) {
		if (bit_test(m->refused, slab->slot))
			return 0;
		*flags |= KVB_CQE_GRANT_PENDING;
		return -EAGAIN;
	}
	r = core_lease_take(c, &l->who, slab, page);
	return r < 0 ? r : 1;
}

/* Held: neither in the policy's order nor anybody's to take. */
static void hold_low(struct core *c, uint32_t low)
{
	core_page_forget(c, low);
	c->pages[low].flags |= CORE_PAGE_BUSY;
}

static void let_low(struct core *c, uint32_t low)
{
	c->pages[low].flags &= (uint16_t)~CORE_PAGE_BUSY;
	core_page_touch(c, low);
}

/* What nobody leases and no transfer reads would be anybody's to take. */
static bool can_be_held(const struct core_page *p)
{
	return p->state == CORE_PAGE_SEALED && !p->leases &&
	       !(p->flags & (CORE_PAGE_BUSY | CORE_PAGE_PINNED));
}

/* Holds what the keys have below, up to the first that is in no tier. How many want a page. */
static uint32_t hold_lows(struct core *c, struct load *l, const struct kvb_hash *hash, uint32_t n)
{
	uint32_t held = 0;

	memset(l->low, 0xff, sizeof(l->low));
	memset(l->fetch, 0, sizeof(l->fetch));
	l->fetches = 0;
	for (uint32_t i = 0; i < n; i++) {
		uint32_t here = find_here(c, l, &hash[i]), low;

		if (is_here(c, here))
			continue;
		low = find_below(c, l, &hash[i], here);
		if (low == CORE_NONE) {
			if (!find_store(c, l, &hash[i], here))
				break;
			l->fetch[i] = true;
			l->fetches++;
			continue;
		}
		if (c->pages[low].flags & CORE_PAGE_BUSY)
			continue; /* another transfer reads it, or the key is here twice */
		hold_low(c, low);
		l->low[i] = low;
		held++;
	}
	return held + l->fetches;
}

/* Room is going to be made: not by what these keys have on the device. */
static void hold_heres(struct core *c, struct load *l, const struct kvb_hash *hash, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		uint32_t here = find_here(c, l, &hash[i]);

		if (!is_here(c, here) || !can_be_held(&c->pages[here]))
			continue;
		core_page_forget(c, here);
		l->here[i] = here;
	}
}

/* Of a chain the head, which comes first, is to be the most recently used. */
static void let_go(struct core *c, struct load *l, uint32_t n)
{
	for (uint32_t i = n; i-- > 0;) {
		if (l->low[i] != CORE_NONE)
			let_low(c, l->low[i]);
		if (l->here[i] != CORE_NONE && can_be_held(&c->pages[l->here[i]]))
			core_page_touch(c, l->here[i]);
	}
	while (l->used < l->pages)
		core_page_make_free(c, l->page[l->used++]);
	while (l->vias_used < l->vias)
		core_page_make_free(c, l->via[l->vias_used++]);
}

/* Up to n pages to bring keys up to, in the order of their ids. */
static void take_pages(struct core *c, struct load *l, uint32_t n, struct core_batch *b)
{
	l->pages = 0;
	l->used = 0;
	while (l->pages < n && core_transfer_room(c, l->s)) {
		uint32_t page = core_page_obtain(c, l->who.m, n - l->pages, b);

		if (page == CORE_NONE)
			break;
		core_pages_insert(l->page, l->pages++, page);
	}
}

/* And of the arena, for as many of them as are fetched and have to pass through it. */
static void take_vias(struct core *c, struct load *l, struct core_batch *b)
{
	int error;

	l->vias = 0;
	l->vias_used = 0;
	if (!l->below || !l->fetches)
		return;
	l->vias = core_tier_take_lows(c, l->s, l->fetches, l->via, &error);
	b->wait |= l->vias < l->fetches && error == -EAGAIN;
}

/* A page that is not in the tables, under the key. */
static struct core_page page_like(const struct load *l, const struct kvb_hash *hash)
{
	return (struct core_page){
		.hash = *hash,
		.salt = l->key.salt,
		.ns = l->key.ns,
		.epoch = l->key.epoch,
	};
}

/* The store is to fill a page, or the one of the arena that it passes through. */
static void start_fetch(struct core *c, struct load *l, const struct core_page *like, uint32_t page)
{
	uint32_t via = CORE_NONE, there;

	if (l->below) {
		there = core_tier_find(c, l->s->below, like);
		if (there != CORE_NONE) /* of no use, or it would have been taken */
			core_page_displace(c, there);
		via = l->via[l->vias_used++];
		core_page_arrive(c, via, like);
	}
	core_transfer_start(c, CORE_UP, via, page, true);
}

/*
 * Starts bringing a page up: 1 named and, with lease, leased; 0 there is no page for it, b->wait:
 * yet; -EDQUOT.
 */
static int bring_up(struct core *c, struct load *l, uint32_t i, const struct kvb_hash *hash,
		    struct core_batch *b, kvb_page_t *ret)
{
	const struct core_page like = page_like(l, hash);
	uint32_t page;
	int r;

	if (!core_transfer_room(c, l->s)) {
		b->wait = true;
		return 0;
	}
	if (l->used == l->pages || (l->fetch[i] && l->below && l->vias_used == l->vias))
		return 0;
	page = l->page[l->used++];
	core_page_arrive(c, page, l->fetch[i] ? &like : &c->pages[l->low[i]]);
	core_page_index(c, page);
	r = take_here(c, l, page, &b->flags, ret);
	if (r != 1) { /* over its quota */
		core_page_arrived(c, page);
		core_page_discard(c, page);
		return r;
	}
	if (l->fetch[i])
		start_fetch(c, l, &like, page);
	else
		core_transfer_start(c, CORE_UP, l->low[i], page, false);
	l->low[i] = CORE_NONE; /* the transfer's now */
	return 1;
}

/* One key: 1, 0 the run ends before it (b->wait: for now), -errno. */
static int load_one(struct core *c, struct load *l, uint32_t i, const struct kvb_hash *hash,
		    struct core_lookup *lk, struct core_batch *b, kvb_page_t *ret)
{
	uint32_t here = find_here(c, l, hash);
	int r;

	if (is_here(c, here)) {
		r = take_here(c, l, here, &b->flags, ret);
		lk->lead += r == 1 && c->pages[here].state == CORE_PAGE_ARRIVING;
		return r;
	}
	if (l->low[i] == CORE_NONE && !l->fetch[i]) {
		/* in no tier, or read by another transfer: its end decides */
		b->wait |= find_below(c, l, hash, here) != CORE_NONE;
		return 0;
	}
	if (here != CORE_NONE)
		core_page_displace(c, here);
	r = bring_up(c, l, i, hash, b, ret);
	lk->lead += r == 1;
	return r;
}

/* As load_one(), for keys up to LOAD_CHUNK; b->done goes on. */
static int load_chunk(struct core *c, struct load *l, const struct kvb_hash *hash, uint32_t n,
		      struct core_lookup *lk, struct core_batch *b, kvb_page_t *ret)
{
	uint32_t held;
	bool wait;
	int r = 1;

	held = hold_lows(c, l, hash, n);
	memset(l->here, 0xff, sizeof(l->here));
	if (held)
		hold_heres(c, l, hash, n);
	take_pages(c, l, held, b);
	take_vias(c, l, b);
	wait = b->wait; /* for pages: only if the run gets as far as where they end */
	b->wait = false;
	for (uint32_t i = 0; i < n && r == 1; i++) {
		kvb_page_t page;

		r = load_one(c, l, i, &hash[i], lk, b, &page);
		if (r == 0 && (l->low[i] != CORE_NONE || l->fetch[i]))
			b->wait |= wait;
		if (r != 1)
			break;
		if (ret)
			ret[i] = page;
		b->done++;
	}
	let_go(c, l, n);
	return r;
}

static struct core_batch load_run(struct core *c, struct core_member *m, struct core_lookup *lk,
				  const struct kvb_hash *hash, uint32_t n, bool lease,
				  kvb_page_t *ret)
{
	struct core_batch b = { 0 };
	struct load l;
	int r = 1;

	load_begin(c, &l, m, lk);
	l.lease = lease;
	l.s->used_ns = c->now_ns;
	while (b.done < n && r == 1) {
		uint32_t chunk = n - b.done < LOAD_CHUNK ? n - b.done : LOAD_CHUNK;

		r = load_chunk(c, &l, hash + b.done, chunk, lk, &b, ret ? ret + b.done : NULL);
	}
	if (r < 0) {
		b.status = r == -EAGAIN ? 0 : r;
		b.flags |= KVB_CQE_STOPPED;
	}
	c->h->n.load_keys += b.done;
	return b;
}

struct core_batch core_load(struct core *c, struct core_member *m, struct core_lookup *lk,
			    const struct kvb_hash *hash, uint32_t n, kvb_page_t *ret)
{
	return load_run(c, m, lk, hash, n, true, ret);
}

struct core_batch core_prefetch(struct core *c, struct core_member *m, struct core_lookup *lk,
				const struct kvb_hash *hash, uint32_t n)
{
	return load_run(c, m, lk, hash, n, false, NULL);
}

uint32_t core_load_arrived(const struct core *c, const struct core_member *m,
			   const kvb_page_t *page, uint32_t n, bool *ret_failed)
{
	uint32_t done = 0;

	*ret_failed = false;
	for (; done < n; done++) {
		uint32_t at = core_page_locate(c, &c->spaces[m->space], page[done]);
		const struct core_page *p = &c->pages[at == CORE_NONE ? 0 : at];

		if (at != CORE_NONE && p->gen == KVB_PAGE_GEN(page[done])) {
			if (p->state == CORE_PAGE_SEALED && !(p->flags & CORE_PAGE_FAILED) &&
			    !core_page_stale(c, p))
				continue;
			if (p->state == CORE_PAGE_ARRIVING && !core_page_stale(c, p))
				return done;
		}
		*ret_failed = true;
		return done;
	}
	return done;
}

/* 1 it has a copy below, 0 it is on its way or b->wait, -errno. */
static int store_one(struct core *c, struct core_member *m, kvb_page_t name, struct core_batch *b)
{
	struct core_space *s = &c->spaces[m->space];
	uint32_t lease = core_lease_named(c, m, name), page;
	const struct core_page *p;
	int r;

	if (lease == CORE_NONE)
		return -ENOENT;
	page = c->leases[lease].page;
	p = &c->pages[page];
	if (p->flags & CORE_PAGE_BELOW)
		return 1;
	if (!(p->flags & CORE_PAGE_INDEXED) || core_page_stale(c, p))
		return -ESTALE;
	if (p->flags & CORE_PAGE_BUSY) {
		b->wait = true;
		return 0;
	}
	if (!core_tier_usable(c, s))
		return -ENOSPC;
	core_page_forget(c, page);
	r = core_tier_down(c, s, page);
	b->wait |= r == 0 || r == -EAGAIN;
	return r == -EAGAIN ? 0 : r;
}

struct core_batch core_store(struct core *c, struct core_member *m, const kvb_page_t *page,
			     uint32_t n)
{
	struct core_batch b = { 0 };

	for (uint32_t i = 0; i < n; i++) {
		int r = store_one(c, m, page[i], &b);

		if (r == 1 && b.done == i)
			b.done++;
		if (r < 0) {
			if (b.done == i)
				b.status = r;
			break;
		}
	}
	return b;
}
