/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What the files of the core share and nobody else calls.
 *
 * Each transition of a page, a lease or a slab is one function here or in its file, so that the
 * counters that must agree with it (core_check()) change in one place.
 */

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "broker/core/core.h"
#include "broker/policy/policy.h"

/* ---- bit sets ------------------------------------------------------------------------------ */

static inline bool bit_test(const uint64_t *set, unsigned bit)
{
	return set[bit / 64] >> (bit % 64) & 1;
}

static inline void bit_set(uint64_t *set, unsigned bit)
{
	set[bit / 64] |= 1ull << (bit % 64);
}

static inline void bit_clear(uint64_t *set, unsigned bit)
{
	set[bit / 64] &= ~(1ull << (bit % 64));
}

/* ---- shares of tables ---------------------------------------------------------------------- */

/*
 * May a tenant that has `mine` of a table's records take another, when `used` of `limit` are taken?
 * Alone it may have them all. Beside others it gets no more than it leaves: so the next one always
 * finds half of the rest, and nobody can take what everybody needs (I10).
 */
static inline bool core_share_fits(const struct core *c, uint32_t mine, uint32_t used,
				   uint32_t limit)
{
	return c->h->tenants_used > 1 ? mine < limit - used : used < limit;
}

/* ---- where a page is ----------------------------------------------------------------------- */

static inline struct core_slab *core_slab_of(const struct core *c, uint32_t page)
{
	return &c->slabs[c->units[page / CORE_UNIT_PAGES]];
}

static inline struct core_space *core_space_of(const struct core *c, uint32_t page)
{
	return &c->spaces[core_slab_of(c, page)->space];
}

static inline unsigned core_slab_index(const struct core *c, const struct core_slab *slab)
{
	return (unsigned)(slab - c->slabs);
}

static inline unsigned core_space_index(const struct core *c, const struct core_space *s)
{
	return (unsigned)(s - c->spaces);
}

static inline kvb_page_t core_name_in(const struct core *c, const struct core_slab *slab,
				      uint32_t page)
{
	return KVB_PAGE(c->pages[page].gen, slab->slot * slab->pages + (page - slab->base));
}

/* The record a client's page id stands for in a space, generation not yet compared; CORE_NONE. */
static inline uint32_t core_page_locate(const struct core *c, const struct core_space *s,
					kvb_page_t name)
{
	uint32_t id = KVB_PAGE_ID(name);
	uint32_t slot = id / s->pages_per_slab;
	const struct core_slab *slab;

	if (slot >= s->slots || s->slab_of_slot[slot] == CORE_NONE16)
		return CORE_NONE;
	slab = &c->slabs[s->slab_of_slot[slot]];
	if (slab->state != CORE_SLAB_LIVE && slab->state != CORE_SLAB_DRAINING)
		return CORE_NONE;
	return slab->base + id % s->pages_per_slab;
}

static inline bool core_page_stale(const struct core *c, const struct core_page *p)
{
	return p->epoch != c->namespaces[p->ns].epoch;
}

static inline bool core_page_expired(const struct core *c, const struct core_page *p)
{
	return p->expire_s && p->expire_s <= c->now_s;
}

/* A SEALED page that nobody uses: does it stay, as a candidate, or is it free? */
static inline bool core_page_kept(const struct core *c, uint32_t page)
{
	const struct core_page *p = &c->pages[page];

	return p->flags & CORE_PAGE_INDEXED && !core_page_stale(c, p) &&
	       core_slab_of(c, page)->state == CORE_SLAB_LIVE;
}

/* May a client be given what is in this page, if it can reach it? */
static inline bool core_page_usable(const struct core *c, uint32_t page)
{
	const struct core_page *p = &c->pages[page];

	return p->state == CORE_PAGE_SEALED && !(p->flags & CORE_PAGE_PENDING) &&
	       !core_page_expired(c, p) && core_slab_of(c, page)->state == CORE_SLAB_LIVE;
}

/* Puts a page among n that are in the order of their ids. */
static inline void core_pages_insert(uint32_t *pages, uint32_t n, uint32_t page)
{
	for (; n && pages[n - 1] > page; n--)
		pages[n] = pages[n - 1];
	pages[n] = page;
}

/* ---- page.c: transitions ------------------------------------------------------------------- */

/* Whatever its counters said before, the record is free from here on, under a new generation. */
void core_page_make_free(struct core *c, uint32_t page);
/* FILLING or QUARANTINE -> no holder; the caller makes it SEALED or free. */
void core_page_unhold(struct core *c, struct core_member *m, uint32_t page);
/* FREE record (already taken out of the bitmap) or evicted page -> FILLING of m. */
void core_page_hold(struct core *c, struct core_member *m, uint32_t page, bool magazine);
/* SEALED -> out of the index; it goes when its last lease goes. */
void core_page_unindex(struct core *c, uint32_t page);
/* Puts it in, under the key it carries; nothing else is under that (index.c). */
void core_page_index(struct core *c, uint32_t page);
/* SEALED and unleased -> no state; the caller makes it free or FILLING. */
void core_page_unseal(struct core *c, uint32_t page);
/* Both: what SEALED pages with neither lease nor use come to. */
void core_page_discard(struct core *c, uint32_t page);
/* Makes room for a key whose page may not be given out any more (lookup.c). */
void core_page_displace(struct core *c, uint32_t page);
/* Lowest FREE page of a slab that has one, out of the bitmap. */
uint32_t core_page_take_free(struct core *c, struct core_slab *slab);
/*
 * One page of the member's slabs for bytes that arrive: free, or taken from another key. CORE_NONE:
 * none; b->wait: soon, when what is written down for up to `want` of them has gone. b->work counts
 * what a batch looks at in all. The caller makes the page ARRIVING, or free.
 */
uint32_t core_page_obtain(struct core *c, struct core_member *m, uint32_t want,
			  struct core_batch *b);
/* Evicted from under its key, new generation: no state. */
void core_page_evicted(struct core *c, uint32_t page);
/* Key of another page, or of nobody yet -> ARRIVING, BUSY. */
void core_page_arrive(struct core *c, uint32_t page, const struct core_page *like);
/* ARRIVING -> SEALED, whatever came. */
void core_page_arrived(struct core *c, uint32_t page);

/* ---- lease.c ------------------------------------------------------------------------------- */

/* The lease record of a client on a page; CORE_NONE. */
static inline uint32_t core_lease_find(const struct core *c, unsigned client, uint32_t page)
{
	uint32_t i = c->pages[page].lease;

	if (!c->pages[page].leases)
		return CORE_NONE;
	while (i != CORE_NONE && c->leases[i].client != client)
		i = c->leases[i].page_next;
	return i;
}

/*
 * Who a batch takes leases for: found once, because a lookup takes a lease for every key. What it
 * does for a key is inline for the same reason.
 */
struct core_taker {
	struct core_member *m;
	struct core_client *cl;
	struct core_tenant *t;
};

static inline struct core_taker core_taker(const struct core *c, struct core_member *m)
{
	struct core_client *cl = &c->clients[m->client];

	return (struct core_taker){ m, cl, &c->tenants[cl->tenant] };
}
static inline uint32_t core_lease_new(struct core *c)
{
	uint32_t i = c->h->lease_free;

	if (i != CORE_NONE)
		c->h->lease_free = c->leases[i].page_next;
	else if (c->h->lease_fresh < c->h->limits.leases)
		i = c->h->lease_fresh++;
	return i;
}

/* One more lease on a page of a slab: 0, -EDQUOT. */
static inline int core_lease_take(struct core *c, const struct core_taker *who,
				  const struct core_slab *slab, uint32_t page)
{
	struct core_page *p = &c->pages[page];
	struct core_member *m = who->m;
	struct core_client *cl = who->cl;
	struct core_tenant *t = who->t;
	uint32_t i = core_lease_find(c, m->client, page);
	struct core_lease *l;

	if (i != CORE_NONE) {
		l = &c->leases[i];
		if ((l->count & CORE_LEASE_COUNT_MAX) == CORE_LEASE_COUNT_MAX)
			return -EDQUOT;
		l->count++;
		return 0;
	}
	if (cl->leases >= cl->leases_max ||
	    !core_share_fits(c, (uint32_t)t->leases, c->h->leases_used, c->h->limits.leases))
		return -EDQUOT;
	i = core_lease_new(c);
	if (i == CORE_NONE)
		return -EDQUOT;

	l = &c->leases[i];
	l->page = page;
	l->client = m->client;
	l->count = 1;
	l->page_next = p->leases ? p->lease : CORE_NONE;
	p->lease = i;
	p->leases++;
	l->client_prev = CORE_NONE;
	l->client_next = cl->lease_first;
	if (cl->lease_first != CORE_NONE)
		c->leases[cl->lease_first].client_prev = i;
	cl->lease_first = i;
	cl->leases++;
	m->leases++;
	m->leases_in[slab->slot]++;
	t->leases++;
	c->h->leases_used++;
	return 0;
}

/* The caller's lease on a page it named, or CORE_NONE. */
uint32_t core_lease_named(const struct core *c, const struct core_member *m, kvb_page_t name);

/* The record goes, and the page becomes a candidate, or free, if it was the last. */
void core_lease_end(struct core *c, struct core_member *m, uint32_t lease);
void core_page_unleased(struct core *c, uint32_t page);

/* ---- tier.c -------------------------------------------------------------------------------- */

/* Is the store what comes below this space? */
static inline bool core_store_usable(const struct core *c, const struct core_space *s)
{
	return c->store && s->below == CORE_NONE16 && s->ranks == 1 &&
	       c->h->device[s->device].kind != KVB_DEVICE_CUDA;
}

/* Can pages of this space be written down and brought up now? */
static inline bool core_tier_usable(const struct core *c, const struct core_space *s)
{
	return s->below == CORE_NONE16 ? core_store_usable(c, s)
				       : c->h->device[s->device].below_ready;
}

/* What is under this page's key in another space; CORE_NONE. */
uint32_t core_tier_find(const struct core *c, unsigned space, const struct core_page *p);
/* A page and its copy find, and lose, each other. */
void core_tier_pair(struct core *c, uint32_t upper, uint32_t lower);
void core_tier_part(struct core *c, uint32_t page);
/* Has a page of s, which is usable, a copy below? It and the page find each other then. */
bool core_tier_has_copy(struct core *c, struct core_space *s, uint32_t page);
/*
 * Writes a SEALED page of s down, if that is usable. 0: it is on its way; 1: it has a copy already;
 * -EAGAIN: later; -ENOSPC: there is no room below and none can be made.
 */
int core_tier_down(struct core *c, struct core_space *s, uint32_t page);
/* Up to n pages of s->below to write to, in the order of their ids. 0: *ret_error says why. */
uint32_t core_tier_take_lows(struct core *c, const struct core_space *s, uint32_t n, uint32_t *ret,
			     int *ret_error);
/* Starts the copy to one of them. */
void core_tier_begin_down(struct core *c, uint32_t page, uint32_t to);
/* Asks for slabs of a lower space in good time, when n of its pages are about to be taken. */
void core_tier_grow_low(struct core *c, struct core_space *low, uint32_t n);
/* Is the first memory below on its way? Until then there is nothing to write to. */
bool core_tier_coming(const struct core *c, const struct core_space *s);

/* ---- ripe.c -------------------------------------------------------------------------------- */

/* SEALED and unleased: a candidate for the policy, or no longer one. */
void core_page_touch(struct core *c, uint32_t page);
void core_page_forget(struct core *c, uint32_t page);
/* The list of what goes next. */
void core_ripe_append(struct core *c, struct core_space *s, uint32_t page);
void core_ripe_remove(struct core *c, struct core_space *s, uint32_t page);
/*
 * The next page off it that can go at once; CORE_NONE: none. One without a copy is written down
 * first, and more are, until `want` are on their way; with drop none is.
 */
uint32_t core_ripe_next(struct core *c, struct core_space *s, uint32_t want, bool drop,
			uint32_t *work);
/* There is none, and it is worth waiting for one. */
bool core_ripe_coming(const struct core *c, const struct core_space *s);
/* Is a page of s, that comes to go, to be written down? */
bool core_ripe_wants(struct core *c, const struct core_space *s, uint32_t page);
/* Says that a space may be short of what can go. */
void core_ripen_soon(struct core *c, const struct core_space *s);
void core_ripen_work(struct core *c, uint32_t *units);

/* load.c: how many of these keys in a row are in any tier; their results say in which. */
uint32_t core_lookup_below(struct core *c, struct core_member *m, const struct core_lookup *lk,
			   const struct kvb_hash *hash, uint32_t n, kvb_page_t *ret);

/* ---- group.c -------------------------------------------------------------------------------- */

/* A page was sealed under a key of a group's space, and is indexed: the key is there, or PENDING.
 */
void core_group_sealed(struct core *c, uint32_t page);
/* A page left the index: if it was the last of its rank under its key, it is lost to all. */
void core_group_lost(struct core *c, uint32_t page);
/* Has every rank a page under this one's key? */
bool core_group_complete(const struct core *c, uint32_t page);

/* ---- transfer.c ------------------------------------------------------------------------------ */

void core_transfers_init(struct core *c);
/* How many more copies between s and the space below it may be started now. */
uint32_t core_transfer_room(const struct core *c, const struct core_space *s);
/*
 * Queues a copy; both pages are BUSY from here on. There is room. store: DOWN to CORE_NONE; UP from
 * CORE_NONE, or from an ARRIVING page that the store fills first.
 */
void core_transfer_start(struct core *c, enum core_direction direction, uint32_t from, uint32_t to,
			 bool store);
/* QUEUED, where it belongs: at its start, and when its first leg is over. */
void core_transfer_enqueue(struct core *c, unsigned index);
unsigned core_transfer_dequeue(struct core *c, struct core_queue *q); /* FLIGHT; CORE_NONE16 */
/* A page that was read: as it would be had nobody read it. */
void core_transfer_settle(struct core *c, uint32_t page);
/* A page that was written down: it goes next, unless it is in use again. */
void core_transfer_settle_down(struct core *c, struct core_space *s, uint32_t page);

/* ---- store.c --------------------------------------------------------------------------------- */

/* Is there a copy of an indexed page? */
bool core_store_has(const struct core *c, uint32_t page);
/* Is this page, that comes to go, to be written? Not if it is there. */
bool core_store_wants(struct core *c, uint32_t page);
/* Writes a page of s. 0: it is on its way; -EAGAIN. */
int core_store_down(struct core *c, const struct core_space *s, uint32_t page);
/* The store has done its part of a transfer of s. True: the mover goes on with it. */
bool core_store_goes_on(struct core *c, unsigned index, const struct core_space *s, uint32_t sum);
/* It was the whole, or failed. */
void core_store_done(struct core *c, const struct core_transfer *t, struct core_space *s,
		     int error);

/* ---- slab.c, space.c, client.c ------------------------------------------------------------- */

/* Index, or -ENOSPC when the tables have no room. Charges nothing: grow.c does. */
int core_slab_create(struct core *c, struct core_space *s);
void core_slab_revoke(struct core *c, struct core_slab *slab, uint64_t grace_ns);
void core_slab_retire(struct core *c, struct core_slab *slab); /* once, whatever its state */
void core_slab_try_close(struct core *c, struct core_slab *slab);
void core_slab_unmap(struct core *c, struct core_member *m,
		     unsigned slot); /* m gives up its memory */
bool core_space_shrink_one(struct core *c, struct core_space *s, uint64_t grace_ns);
void core_space_try_free(struct core *c, struct core_space *s);
int core_space_add_slabs(struct core *c, struct core_space *s, uint32_t slabs,
			 uint64_t slots[CORE_SLOT_WORDS]); /* see core_space_grow() */
void core_member_remove(struct core *c, struct core_member *m);
struct core_member *core_member_of(struct core *c, unsigned client, unsigned space);
void core_space_recall(struct core *c, struct core_space *s, const struct core_member *except);

/* ---- namespace.c ----------------------------------------------------------------------------- */

void core_ns_remove(struct core *c, unsigned ns); /* it has no page and no client */

/* ---- tenant.c ------------------------------------------------------------------------------ */

/* What is free and neither promised to nor claimed by others; below 0 while claims wait. */
int64_t core_budget_spare(const struct core *c, unsigned tenant, unsigned device);
/* 0; -EDQUOT above max; -ENOSPC what is free is promised to others. */
int core_budget_admit(const struct core *c, unsigned tenant, unsigned device, uint64_t bytes);
/* May a slab of this space have its page records, or are they promised to others? */
bool core_records_admit(const struct core *c, const struct core_space *s);
void core_budget_charge(struct core *c, unsigned tenant, unsigned device, uint64_t bytes);
void core_budget_release(struct core *c, unsigned tenant, unsigned device, uint64_t bytes);

/* grow.c: revokes what the tenant has above its max, where max was lowered. */
void core_budget_converge(struct core *c, unsigned tenant, unsigned device);

/* ---- text.c -------------------------------------------------------------------------------- */

int core_say(char *why, size_t why_bytes, int error, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
