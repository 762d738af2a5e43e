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
	if (c->pages[page].flags & CORE_PAGE_INDEXED)
		core_index_remove(c, page);
}

void core_page_unseal(struct core *c, uint32_t page)
{
	struct core_page *p = &c->pages[page];
	struct core_ns *ns = &c->namespaces[p->ns];

	assert(p->state == CORE_PAGE_SEALED && !p->leases);
	core_page_unindex(c, page);
	c->policy->forget(c, page);
	ns->pages--;
	if (core_page_stale(c, p))
		c->h->pages_stale--;
	else
		ns->pages_current--;
	core_slab_of(c, page)->sealed--;
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
 * One victim of the policy goes to `m`; back into the order if `m` cannot reach its slab; or free
 * if the slab is being revoked, because only LIVE slabs hand out pages.
 */
static uint32_t take_victim(struct core *c, struct core_member *m, uint32_t page, bool magazine,
			    kvb_page_t *ret)
{
	struct core_slab *slab = core_slab_of(c, page);
	struct core_page *p = &c->pages[page];
	struct core_client *cl = &c->clients[m->client];

	if (slab->state != CORE_SLAB_LIVE) { /* revoked: core_work() would have come to it */
		core_page_unseal(c, page);
		core_page_make_free(c, page);
		return 0;
	}
	if (!bit_test(m->acked, slab->slot)) {
		c->policy->touch(c, page);
		return 0;
	}
	core_page_unseal(c, page);
	next_generation(p);
	core_page_hold(c, m, page, magazine);
	count_held(c, m, slab, 1, magazine);
	c->spaces[slab->space].evictions++;
	c->h->device[c->spaces[slab->space].device].evictions++;
	c->tenants[cl->tenant].evictions++;
	c->h->n.evictions++;
	*ret = core_name_in(c, slab, page);
	return 1;
}

static bool has_refused(const struct core_member *m)
{
	uint64_t any = 0;

	for (unsigned w = 0; w < CORE_SLOT_WORDS; w++)
		any |= m->refused[w];
	return any;
}

static uint32_t alloc_evict(struct core *c, struct core_member *m, uint32_t n, bool magazine,
			    kvb_page_t *ret, struct core_batch *b)
{
	struct core_space *s = &c->spaces[m->space];
	uint32_t victims[EVICT_BATCH];
	uint32_t work = EVICT_WORK + n;
	uint32_t got = 0;

	while (got < n && work) {
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
	if (got < n && !work && !has_refused(m))
		b->flags |= KVB_CQE_AGAIN;
	b->work = EVICT_WORK + n - work - got;
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
	if (b.done < n) {
		core_space_recall(c, s, m);
		if (grant_pending(s, m))
			b.flags |= KVB_CQE_GRANT_PENDING;
		else
			b.done += alloc_evict(c, m, n - b.done, magazine, ret + b.done, &b);
	}
	c->h->n.allocs++;
	c->h->n.alloc_pages += b.done;
	c->h->n.alloc_short += b.done < n;
	c->tenants[c->clients[m->client].tenant].allocs += b.done;
	return b;
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

	if (p->state != CORE_PAGE_SEALED || p->leases || p->flags & CORE_PAGE_PINNED)
		return -EBUSY;
	core_page_unseal(c, page);
	core_page_make_free(c, page);
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
		c->policy->forget(c, page);
	} else {
		p->flags &= (uint16_t)~CORE_PAGE_PINNED;
		if (!p->leases)
			core_page_unleased(c, page);
	}
	return 0;
}
