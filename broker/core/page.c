/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Pages: their transitions, ALLOC and FREE.
 *
 * Free pages are bits. ALLOC takes the lowest free id of the lowest slot the member has mapped:
 * batches get neighbouring ids, records are touched in order, and the upper slabs drain. Only when
 * nothing is free are idle magazines called back and pages evicted, in the policy's order.
 *
 * A record's generation changes whenever the page stops being what its name stood for: when it
 * becomes free, and when it is evicted into somebody's hands.
 *
 * Above a lower tier what is evicted comes from the ripe list (tier.c), where most pages have a
 * copy below already. One that has none is written down first, and ALLOC is told to wait; only when
 * the tier cannot take it, or the caller does not want to wait, it is dropped.
 */

#include "broker/core/index.h"

#define EVICT_BATCH 32u
#define EVICT_WORK 4096u /* pages one ALLOC may look at for victims */

static void next_generation(struct core_page *p)
{
	if (++p->gen == 0)
		p->gen = 1;
}

void core_page_make_free(struct core *c, uint32_t page)
{
	struct core_page *p = &c->pages[page];
	struct core_slab *slab = core_slab_of(c, page);
	struct core_space *s = &c->spaces[slab->space];
	uint32_t word = (page - slab->base) / 64;

	next_generation(p);
	p->state = CORE_PAGE_FREE;
	p->flags = 0;
	bit_set(c->free_bits, page);
	if (word < slab->hint)
		slab->hint = word;
	slab->free++;
	if (slab->state == CORE_SLAB_LIVE) {
		s->pages_free++;
		bit_set(s->has_free, slab->slot);
	} else if (slab->free == slab->pages) {
		core_slab_try_close(c, slab);
	}
}

void core_page_hold(struct core *c, struct core_member *m, uint32_t page, bool magazine)
{
	struct core_page *p = &c->pages[page];

	p->state = CORE_PAGE_FILLING;
	p->flags = magazine ? CORE_PAGE_MAGAZINE : 0;
	p->owner = m->client;
	p->leases = 0;
	p->hits = 0;
	p->expire_s = 0;
}

/* The counters of pages held, by `n` more (or, negative, fewer) in one slab. */
static void count_held(struct core *c, struct core_member *m, struct core_slab *slab, int32_t n,
		       bool magazine)
{
	struct core_client *cl = &c->clients[m->client];

	slab->held += (uint32_t)n;
	m->held += (uint32_t)n;
	m->held_in[slab->slot] += (uint32_t)n;
	if (magazine)
		m->magazine += (uint32_t)n;
	cl->held += (uint32_t)n;
	c->tenants[cl->tenant].pages_held += (uint32_t)n;
}

void core_page_unhold(struct core *c, struct core_member *m, uint32_t page)
{
	struct core_page *p = &c->pages[page];
	struct core_slab *slab = core_slab_of(c, page);

	if (p->state == CORE_PAGE_QUARANTINE) {
		slab->quarantined--;
		slab->held++; /* count_held() takes it back */
	}
	count_held(c, m, slab, -1, p->flags & CORE_PAGE_MAGAZINE);
	p->flags &= (uint16_t)~CORE_PAGE_MAGAZINE;
	p->owner = CORE_NONE16;
}

void core_page_unindex(struct core *c, uint32_t page)
{
	uint16_t flags = c->pages[page].flags;

	if (!(flags & CORE_PAGE_INDEXED))
		return;
	if (flags & (CORE_PAGE_BELOW | CORE_PAGE_ABOVE))
		core_tier_part(c, page);
	core_index_remove(c, page);
	if (c->spaces[core_slab_of(c, page)->space].ranks > 1)
		core_group_lost(c, page);
}

void core_page_unseal(struct core *c, uint32_t page)
{
	struct core_page *p = &c->pages[page];
	struct core_ns *ns = &c->namespaces[p->ns];

	assert(p->state == CORE_PAGE_SEALED && !p->leases && !(p->flags & CORE_PAGE_BUSY));
	core_page_unindex(c, page);
	core_page_forget(c, page);
	ns->pages--;
	if (core_page_stale(c, p))
		c->h->pages_stale--;
	else
		ns->pages_current--;
	core_slab_of(c, page)->sealed--;
}

void core_page_discard(struct core *c, uint32_t page)
{
	core_page_unseal(c, page);
	core_page_make_free(c, page);
}

void core_page_evicted(struct core *c, uint32_t page)
{
	core_page_unseal(c, page);
	next_generation(&c->pages[page]);
}

void core_page_arrive(struct core *c, uint32_t page, const struct core_page *like)
{
	struct core_page *p = &c->pages[page];
	struct core_ns *ns = &c->namespaces[like->ns];

	assert(!core_page_stale(c, like));
	p->hash = like->hash;
	p->salt = like->salt;
	p->ns = like->ns;
	p->epoch = like->epoch;
	p->depth = like->depth;
	p->hits = like->hits;
	p->expire_s = like->expire_s;
	p->used_s = c->now_s;
	p->owner = CORE_NONE16;
	p->leases = 0;
	p->state = CORE_PAGE_ARRIVING;
	p->flags = like->flags & (CORE_PAGE_LOW | CORE_PAGE_HIGH);
	ns->pages++;
	ns->pages_current++;
	core_slab_of(c, page)->arriving++;
}

void core_page_arrived(struct core *c, uint32_t page)
{
	struct core_slab *slab = core_slab_of(c, page);

	assert(c->pages[page].state == CORE_PAGE_ARRIVING);
	c->pages[page].state = CORE_PAGE_SEALED;
	slab->arriving--;
	slab->sealed++;
}

uint32_t core_page_take_free(struct core *c, struct core_slab *slab)
{
	struct core_space *s = &c->spaces[slab->space];
	uint64_t *bits = &c->free_bits[slab->base / 64];
	uint32_t word = slab->hint;
	unsigned i;

	assert(slab->free && slab->state == CORE_SLAB_LIVE);
	while (!bits[word])
		word++;
	i = (unsigned)__builtin_ctzll(bits[word]);
	bits[word] &= bits[word] - 1;
	slab->hint = word;
	slab->free--;
	s->pages_free--;
	if (!slab->free)
		bit_clear(s->has_free, slab->slot);
	return slab->base + word * 64 + i;
}

/* Up to n free pages of one slab. */
static uint32_t take_free(struct core *c, struct core_member *m, struct core_slab *slab, uint32_t n,
			  bool magazine, kvb_page_t *ret)
{
	struct core_space *s = &c->spaces[slab->space];
	uint64_t *bits = &c->free_bits[slab->base / 64];
	uint32_t first = slab->slot * slab->pages;
	uint32_t got = 0, word = slab->hint;

	for (; got < n && got < slab->free; word++) {
		uint64_t w = bits[word];
		struct core_page *p = &c->pages[slab->base + word * 64];

		while (w && got < n) {
			unsigned i = (unsigned)__builtin_ctzll(w);

			w &= w - 1;
			__builtin_prefetch(&p[i + 8], 1);
			core_page_hold(c, m, slab->base + word * 64 + i, magazine);
			ret[got++] = KVB_PAGE(p[i].gen, first + word * 64 + i);
		}
		bits[word] = w;
		slab->hint = w ? word : word + 1;
		if (w)
			break;
	}
	slab->free -= got;
	s->pages_free -= got;
	if (!slab->free)
		bit_clear(s->has_free, slab->slot);
	count_held(c, m, slab, (int32_t)got, magazine);
	return got;
}

static uint32_t alloc_free(struct core *c, struct core_member *m, uint32_t n, bool magazine,
			   kvb_page_t *ret)
{
	struct core_space *s = &c->spaces[m->space];
	uint32_t got = 0;

	for (unsigned w = 0; w < CORE_SLOT_WORDS && got < n; w++) {
		uint64_t slots;

		while (got < n && (slots = s->has_free[w] & m->acked[w])) {
			unsigned slot = w * 64 + (unsigned)__builtin_ctzll(slots);

			got += take_free(c, m, &c->slabs[s->slab_of_slot[slot]], n - got, magazine,
					 ret + got);
		}
	}
	return got;
}

/*
 * One victim is evicted for `m`; or goes back into the order if `m` cannot reach its slab; or is
 * free if the slab is being revoked, because only LIVE slabs hand out pages.
 */
static bool claim_victim(struct core *c, struct core_member *m, uint32_t page)
{
	struct core_slab *slab = core_slab_of(c, page);
	struct core_space *s = &c->spaces[slab->space];
	struct core_device *d = &c->h->device[s->device];
	uint16_t flags = c->pages[page].flags;

	if (flags & CORE_PAGE_BUSY) /* the end of its transfer brings it back */
		return false;
	if (slab->state != CORE_SLAB_LIVE) { /* revoked: core_work() would have come to it */
		core_page_discard(c, page);
		return false;
	}
	if (!bit_test(m->acked, slab->slot)) {
		core_page_touch(c, page);
		return false;
	}
	if (s->below != CORE_NONE16)
		d->dropped += !(flags & CORE_PAGE_BELOW);
	else if (core_store_usable(c, s) && flags & CORE_PAGE_INDEXED)
		d->dropped += !core_store_has(c, page);
	core_page_evicted(c, page);
	d->evictions++;
	s->evictions++;
	c->tenants[c->clients[m->client].tenant].evictions++;
	c->h->n.evictions++;
	return true;
}

static uint32_t take_victim(struct core *c, struct core_member *m, uint32_t page, bool magazine,
			    kvb_page_t *ret)
{
	struct core_slab *slab = core_slab_of(c, page);

	if (!claim_victim(c, m, page))
		return 0;
	core_page_hold(c, m, page, magazine);
	count_held(c, m, slab, 1, magazine);
	*ret = core_name_in(c, slab, page);
	return 1;
}

/* Evicts what has a copy below, and has more written down. True: that is worth waiting for. */
static bool evict_ripe(struct core *c, struct core_member *m, uint32_t n, bool magazine, bool drop,
		       kvb_page_t *ret, uint32_t *got, uint32_t *work)
{
	struct core_space *s = &c->spaces[m->space];
	uint32_t round = s->ripe + s->listed; /* what it cannot reach comes round again */
	uint32_t page;

	while (*got < n && round-- &&
	       (page = core_ripe_next(c, s, n - *got, drop, work)) != CORE_NONE)
		*got += take_victim(c, m, page, magazine, ret + *got);
	core_ripen_soon(c, s);
	return *got < n && !drop && core_ripe_coming(c, s);
}

static bool has_refused(const struct core_member *m)
{
	uint64_t any = 0;

	for (unsigned w = 0; w < CORE_SLOT_WORDS; w++)
		any |= m->refused[w];
	return any;
}

/* What is evicted comes tail of its chain first; who asked fills it head first. */
static void turn_round(kvb_page_t *page, uint32_t n)
{
	if (n < 2 || KVB_PAGE_ID(page[0]) < KVB_PAGE_ID(page[n - 1]))
		return;
	for (uint32_t i = 0; i < n / 2; i++) {
		kvb_page_t p = page[i];

		page[i] = page[n - 1 - i];
		page[n - 1 - i] = p;
	}
}

static uint32_t alloc_evict(struct core *c, struct core_member *m, uint32_t n, bool magazine,
			    bool drop, kvb_page_t *ret, struct core_batch *b)
{
	struct core_space *s = &c->spaces[m->space];
	uint32_t victims[EVICT_BATCH];
	uint32_t work = EVICT_WORK + n;
	uint32_t got = 0;

	if (s->ripe || core_tier_usable(c, s))
		b->wait = evict_ripe(c, m, n, magazine, drop, ret, &got, &work);
	while (got < n && work && !b->wait) {
		uint32_t want = n - got < EVICT_BATCH ? n - got : EVICT_BATCH;
		uint32_t found = c->policy->victims(c, s, want, victims, &work);

		if (!found)
			break;
		for (uint32_t i = 0; i < found; i++) {
			const struct core_page *p = &c->pages[victims[i]];
			struct core_index_seed seed = core_index_seed(c, m->space, p->ns, p->salt);

			core_index_prefetch(c, core_index_mix(c, seed, &p->hash));
		}
		for (uint32_t i = 0; i < found; i++)
			got += take_victim(c, m, victims[i], magazine, ret + got);
	}
	/* With slabs refused, what was passed over may be all there is: asking again would spin. */
	if (got < n && !work && !b->wait && !has_refused(m))
		b->flags |= KVB_CQE_AGAIN;
	b->work = EVICT_WORK + n - work - got;
	turn_round(ret, got);
	return got;
}

static bool grant_pending(const struct core_space *s, const struct core_member *m)
{
	for (unsigned w = 0; w < CORE_SLOT_WORDS; w++) {
		if (s->live[w] & ~m->acked[w] & ~m->refused[w])
			return true;
	}
	return false;
}

struct core_batch core_alloc(struct core *c, struct core_member *m, uint32_t n, uint32_t flags,
			     kvb_page_t *ret)
{
	struct core_space *s = &c->spaces[m->space];
	bool magazine = flags & KVB_ALLOC_MAGAZINE;
	struct core_batch b = { 0 };

	s->used_ns = c->now_ns;
	b.done = alloc_free(c, m, n, magazine, ret);
	core_ripen_soon(c, s);
	if (b.done < n) {
		core_space_recall(c, s, m);
		if (grant_pending(s, m))
			b.flags |= KVB_CQE_GRANT_PENDING;
		else
			b.done += alloc_evict(c, m, n - b.done, magazine, flags & KVB_ALLOC_DROP,
					      ret + b.done, &b);
		/* looking for victims may have freed what nobody can use */
		if (b.done < n && s->pages_free)
			b.done += alloc_free(c, m, n - b.done, magazine, ret + b.done);
	}
	c->h->n.allocs++;
	c->h->n.alloc_pages += b.done;
	c->h->n.alloc_short += b.done < n;
	c->tenants[c->clients[m->client].tenant].allocs += b.done;
	return b;
}

static uint32_t obtain_evict(struct core *c, struct core_member *m, uint32_t want,
			     struct core_batch *b, uint32_t *work)
{
	struct core_space *s = &c->spaces[m->space];
	uint32_t round = s->ripe + s->listed;
	uint32_t page;

	core_ripen_soon(c, s);
	while (round-- && (page = core_ripe_next(c, s, want, false, work)) != CORE_NONE) {
		if (claim_victim(c, m, page))
			return page;
	}
	b->wait = core_ripe_coming(c, s);
	if (b->wait)
		return CORE_NONE;
	while (*work && c->policy->victims(c, s, 1, &page, work)) {
		if (claim_victim(c, m, page))
			return page;
	}
	b->wait = !*work && !has_refused(m); /* the rest of the order another time */
	return CORE_NONE;
}

static uint32_t obtain_free(struct core *c, const struct core_member *m)
{
	struct core_space *s = &c->spaces[m->space];

	for (unsigned w = 0; w < CORE_SLOT_WORDS; w++) {
		uint64_t slots = s->has_free[w] & m->acked[w];

		if (slots)
			return core_page_take_free(
				c, &c->slabs[s->slab_of_slot[w * 64 +
							     (unsigned)__builtin_ctzll(slots)]]);
	}
	return CORE_NONE;
}

uint32_t core_page_obtain(struct core *c, struct core_member *m, uint32_t want,
			  struct core_batch *b)
{
	uint32_t work = b->work < EVICT_WORK ? EVICT_WORK - b->work : 0;
	uint32_t page = obtain_free(c, m);

	if (page != CORE_NONE)
		return page;
	core_space_recall(c, &c->spaces[m->space], m);
	page = obtain_evict(c, m, want, b, &work);
	b->work = EVICT_WORK - work;
	/* looking for victims may have freed what nobody can use */
	return page == CORE_NONE ? obtain_free(c, m) : page;
}

#define FREE_AHEAD 32u

struct core_batch core_free(struct core *c, struct core_member *m, const kvb_page_t *page,
			    uint32_t n)
{
	const struct core_space *s = &c->spaces[m->space];
	struct core_batch b = { 0 };

	while (b.done < n) {
		uint32_t at[FREE_AHEAD];
		uint32_t chunk = n - b.done < FREE_AHEAD ? n - b.done : FREE_AHEAD;

		for (uint32_t i = 0; i < chunk; i++) {
			at[i] = core_page_locate(c, s, page[b.done + i]);
			if (at[i] != CORE_NONE)
				__builtin_prefetch(&c->pages[at[i]], 1);
		}
		for (uint32_t i = 0; i < chunk; i++) {
			const struct core_page *p = &c->pages[at[i] == CORE_NONE ? 0 : at[i]];

			if (at[i] == CORE_NONE || p->gen != KVB_PAGE_GEN(page[b.done]) ||
			    p->state != CORE_PAGE_FILLING || p->owner != m->client) {
				b.status = -ENOENT;
				goto out;
			}
			core_page_unhold(c, m, at[i]);
			core_page_make_free(c, at[i]);
			b.done++;
		}
	}
out:
	c->h->n.frees += b.done;
	return b;
}

kvb_page_t core_page_name(const struct core *c, uint32_t page)
{
	return core_name_in(c, core_slab_of(c, page), page);
}

int core_page_evict(struct core *c, uint32_t page)
{
	struct core_page *p = &c->pages[page];

	if (p->state != CORE_PAGE_SEALED || p->leases ||
	    p->flags & (CORE_PAGE_PINNED | CORE_PAGE_BUSY))
		return -EBUSY;
	core_page_discard(c, page);
	return 0;
}

int core_page_pin(struct core *c, uint32_t page, bool pin)
{
	struct core_page *p = &c->pages[page];

	if (p->state != CORE_PAGE_SEALED)
		return -ENOENT;
	if (pin == !!(p->flags & CORE_PAGE_PINNED))
		return 0;
	if (pin) {
		p->flags |= CORE_PAGE_PINNED;
		core_page_forget(c, page);
	} else {
		p->flags &= (uint16_t)~CORE_PAGE_PINNED;
		if (!p->leases)
			core_page_unleased(c, page);
	}
	return 0;
}
