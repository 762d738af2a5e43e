/* SPDX-License-Identifier: Apache-2.0 */

/*
 * SEAL and LOOKUP: pages under keys.
 *
 * Both touch, for a key, one index line and one page record, far apart in memory. So a batch runs
 * through a pipe: the mix of a key is made, and its index line fetched, well before its turn; a
 * little before its turn its tag is probed and the record it leads to fetched; at its turn it is
 * compared and acted on. The pipe starts short, since most lookups that miss do so early.
 *
 * What a lookup returns was completely written, under that key, in this epoch (I5): only SEAL puts
 * a page in the index, an epoch is part of the key, and a page leaves the index before it is
 * reused.
 */

#include "broker/core/index.h"

#define PIPE_KEYS 32u    /* power of two, more than PIPE_LINES */
#define PIPE_FIRST 2u    /* index lines fetched before the first key is answered */
#define PIPE_LINES 24u   /* index lines fetched ahead */
#define PIPE_RECORDS 12u /* page records fetched ahead */

/* The keys of a batch, `step` bytes apart, and how far each stage has come. */
struct pipe {
	struct core_index_seed seed;
	const char *keys;
	size_t step;
	uint32_t n;
	uint32_t mixed;
	uint32_t probed;
	uint64_t mix[PIPE_KEYS];
};

/* Field by field: mix[] need not be cleared, and clearing it would cost a short lookup a tenth. */
static inline void pipe_start(struct pipe *p, struct core_index_seed seed,
			      const struct kvb_hash *first, size_t step, uint32_t n)
{
	p->seed = seed;
	p->keys = (const char *)first;
	p->step = step;
	p->n = n;
	p->mixed = 0;
	p->probed = 0;
}

/* The mix of key i, with the stages ahead of it moved on. */
static inline uint64_t pipe_next(struct pipe *p, const struct core *c, uint32_t i)
{
	uint32_t lines = i ? i + PIPE_LINES : PIPE_FIRST;
	uint32_t records = i ? i + PIPE_RECORDS : 1;

	for (; p->mixed < p->n && p->mixed < lines; p->mixed++) {
		const void *key = p->keys + p->mixed * p->step;
		uint64_t mix = core_index_mix(c, p->seed, key);

		p->mix[p->mixed % PIPE_KEYS] = mix;
		core_index_prefetch(c, mix);
	}
	for (; p->probed < p->mixed && p->probed < records; p->probed++) {
		uint32_t page = core_index_candidate(c, p->mix[p->probed % PIPE_KEYS]);

		if (page != CORE_NONE)
			__builtin_prefetch(&c->pages[page], 1);
	}
	return p->mix[i % PIPE_KEYS];
}

/* The page a client may be given under a key: resident, of this epoch, not expired, slab live. */
static inline uint32_t find_usable(const struct core *c, uint64_t mix, const struct core_key *key)
{
	uint32_t page = core_index_find(c, mix, key);

	return page != CORE_NONE && core_page_usable(c, page) ? page : CORE_NONE;
}

static void count_lookup(struct core *c, struct core_member *m, const struct core_lookup *lk,
			 uint32_t keys, uint32_t hits)
{
	struct core_ns *ns = &c->namespaces[lk->ns];
	struct core_tenant *t = &c->tenants[ns->tenant];

	c->h->n.lookups += !lk->later;
	c->h->n.lookup_keys += keys;
	c->h->n.lookup_hits += hits;
	t->lookups += !lk->later;
	t->lookup_keys += keys;
	t->lookup_hits += hits;
	ns->lookups += !lk->later;
	ns->lookup_keys += keys;
	ns->lookup_hits += hits;
	ns->used_ns = c->now_ns;
	c->spaces[m->space].used_ns = c->now_ns;
}

/* One key: 1 leased, 0 a miss, -errno when the run ends here; *flags says more. */
static inline __attribute__((always_inline)) int
lookup_one(struct core *c, const struct core_taker *who, uint64_t mix, const struct core_key *key,
	   uint32_t *flags, kvb_page_t *ret)
{
	const struct core_member *m = who->m;
	uint32_t page = find_usable(c, mix, key);
	struct core_slab *slab;
	struct core_page *p;
	int r;

	if (page == CORE_NONE)
		return 0;
	p = &c->pages[page];
	slab = core_slab_of(c, page);
	if (!bit_test(m->acked, slab->slot)) {
		if (bit_test(m->refused, slab->slot))
			return 0;
		*flags |= KVB_CQE_GRANT_PENDING;
		return -EAGAIN;
	}
	r = core_lease_take(c, who, slab, page);
	if (r < 0)
		return r;
	if (p->hits != UINT8_MAX)
		p->hits++;
	*ret = core_name_in(c, slab, page);
	return 1;
}

struct core_batch core_lookup(struct core *c, struct core_member *m, struct core_lookup *lk,
			      const struct kvb_hash *hash, uint32_t n, kvb_page_t *ret)
{
	struct core_ns *ns = &c->namespaces[lk->ns];
	struct core_key key = {
		.salt = lk->salt, .ns = lk->ns, .space = m->space, .epoch = ns->epoch
	};
	struct core_batch b = { 0 };
	struct core_taker who = core_taker(c, m);
	uint32_t hits = 0;
	struct pipe pipe;

	if (lk->tiers && lk->broken) {
		count_lookup(c, m, lk, n, 0);
		b.done = core_lookup_below(c, m, lk, hash, n, ret);
		return b;
	}
	pipe_start(&pipe, core_index_seed(c, m->space, lk->ns, lk->salt), hash, sizeof(*hash), n);
	for (; b.done < n; b.done++) {
		uint64_t mix = pipe_next(&pipe, c, b.done);
		int r;

		key.hash = hash[b.done];
		r = lookup_one(c, &who, mix, &key, &b.flags, &ret[b.done]);
		if (r < 0) {
			b.status = r == -EAGAIN ? 0 : r;
			b.flags |= KVB_CQE_STOPPED;
			break;
		}
		if (!r) {
			lk->broken = true;
			if (!lk->all)
				break;
			ret[b.done] = KVB_PAGE_NONE;
		}
		hits += (uint32_t)r;
		lk->lead += !lk->broken;
	}
	count_lookup(c, m, lk, n, hits);
	if (lk->tiers && lk->broken)
		b.done += core_lookup_below(c, m, lk, hash + b.done, n - b.done, ret + b.done);
	return b;
}

void core_page_displace(struct core *c, uint32_t page)
{
	core_page_unindex(c, page);
	if (!c->pages[page].leases && !(c->pages[page].flags & CORE_PAGE_BUSY))
		core_page_discard(c, page);
}

/* FILLING page of m -> SEALED under key. The lease comes first: it is what can fail. */
static int seal_new(struct core *c, const struct core_taker *who, uint32_t page, uint64_t mix,
		    const struct core_key *key, uint32_t depth)
{
	struct core_page *p = &c->pages[page];
	struct core_ns *ns = &c->namespaces[key->ns];
	int r = core_lease_take(c, who, core_slab_of(c, page), page);

	if (r < 0)
		return r;
	core_page_unhold(c, who->m, page);
	p->state = CORE_PAGE_SEALED;
	p->hash = key->hash;
	p->salt = key->salt;
	p->ns = key->ns;
	p->epoch = key->epoch;
	p->depth = depth < UINT16_MAX ? (uint16_t)depth : UINT16_MAX;
	p->used_s = c->now_s;
	core_slab_of(c, page)->sealed++;
	ns->pages++;
	ns->pages_current++;
	core_index_insert(c, mix, page);
	return 0;
}

static int seal_one(struct core *c, const struct core_taker *who, uint64_t mix,
		    const struct core_key *key, const struct kvb_seal *seal, uint32_t *flags,
		    kvb_page_t *ret)
{
	const struct core_member *m = who->m;
	uint32_t page = core_page_locate(c, &c->spaces[m->space], seal->page);
	const struct core_page *p = &c->pages[page == CORE_NONE ? 0 : page];
	uint32_t there;
	int r;

	if (page == CORE_NONE || p->gen != KVB_PAGE_GEN(seal->page) ||
	    p->state != CORE_PAGE_FILLING || p->owner != m->client)
		return -ENOENT;
	if (seal->resv)
		return -EINVAL;
	there = core_index_find(c, mix, key);
	if (there != CORE_NONE && find_usable(c, mix, key) != CORE_NONE) {
		r = lookup_one(c, who, mix, key, flags, ret);
		if (r ==
		    0) /* in a slab the caller could not map: it can have no page under this key */
			return -EEXIST;
		c->h->n.seal_dups += r > 0;
		return r < 0 ? r : 0;
	}
	r = seal_new(c, who, page, mix, key, seal->depth);
	if (r < 0)
		return r;
	if (there != CORE_NONE)
		core_page_displace(c, there);
	core_group_sealed(c, page);
	*ret = seal->page;
	return 0;
}

struct core_batch core_seal(struct core *c, struct core_member *m, unsigned ns, uint64_t epoch,
			    uint64_t salt, const struct kvb_seal *seal, uint32_t n, kvb_page_t *ret)
{
	struct core_ns *space_ns = &c->namespaces[ns];
	struct core_key key = {
		.salt = salt, .ns = (uint16_t)ns, .space = m->space, .epoch = space_ns->epoch
	};
	struct core_batch b = { 0 };
	struct core_taker who = core_taker(c, m);
	uint32_t located = 0;
	struct pipe pipe;

	if (epoch != space_ns->epoch) {
		space_ns->stale_seals++;
		b.status = -ESTALE;
		return b;
	}
	pipe_start(&pipe, core_index_seed(c, m->space, ns, salt), &seal->hash, sizeof(*seal), n);
	for (; b.done < n; b.done++) {
		int r;

		for (; located < n && located < b.done + PIPE_RECORDS; located++) {
			uint32_t at = core_page_locate(c, &c->spaces[m->space], seal[located].page);

			if (at != CORE_NONE)
				__builtin_prefetch(&c->pages[at], 1);
		}
		key.hash = seal[b.done].hash;
		r = seal_one(c, &who, pipe_next(&pipe, c, b.done), &key, &seal[b.done], &b.flags,
			     &ret[b.done]);
		if (r < 0) {
			b.status = r == -EAGAIN ? 0 : r;
			b.flags |= KVB_CQE_STOPPED;
			break;
		}
	}
	c->h->n.seals += b.done;
	c->tenants[space_ns->tenant].seals += b.done;
	return b;
}

uint32_t core_page_find(const struct core *c, unsigned space, unsigned ns, uint64_t salt,
			const struct kvb_hash *hash)
{
	struct core_key key = {
		.hash = *hash,
		.salt = salt,
		.ns = (uint16_t)ns,
		.space = (uint16_t)space,
		.epoch = c->namespaces[ns].epoch,
	};
	uint64_t mix = core_index_mix(c, core_index_seed(c, space, ns, salt), hash);

	return find_usable(c, mix, &key);
}
