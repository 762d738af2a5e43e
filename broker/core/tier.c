/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A space and the space below it: copies that know of each other, and what is written down when.
 *
 * Ripe pages. What goes next must have been written down before its memory is wanted, or whoever
 * asks for memory waits for a copy. So the policy's next victims are made ripe ahead of need: each
 * is copied down, stays readable where it is, and joins a list in the order the policy named them.
 * ALLOC evicts from that list first. A ripe page that is used again leaves the list with its
 * release, as any page enters the policy's order then; its copy below stays and saves the next one.
 * Ripening starts when the pages that can go at once (free, ripe or on their way down) are fewer
 * than a sixteenth of the space and goes on to an eighth: in runs, so that neighbours go together.
 *
 * Copies. A page and its copy find each other by their key; BELOW and ABOVE say that there is one
 * to find. While the upper page is in use its copy is SPARE, the first to go below: a key costs
 * memory in both tiers only as long as there is some. When the upper page is ripe, or evicted, its
 * copy is the most recently used below. So capacities add up, and a page that comes and goes is
 * written once.
 *
 * Room below is a free page, a new slab, or the lower space's own eviction, in this order; slabs
 * are asked for before the last free page is gone.
 */

#include "broker/core/index.h"

#define RIPE_PART 16u    /* of a space's pages: fewer than that can go at once, and more are made */
#define RIPE_MAX 16384u  /* but not more than so many, however large the space */
#define RIPE_LOW_PART 4u /* nor than this part of the space below, so that twice as many fit */
#define RIPEN_BATCH 32u
#define LOWER_WORK 256u /* pages below that one copy may look at for a victim */
#define SLAB_NEAR_NS (20ull * 1000 * 1000)
#define GROW_PART 4u /* a slab below is asked for when less than this part of one is free */
#define HUNGRY_S 2u  /* a space that was refused a slab and asks no more is not waited for */

/* ---- the order of candidates --------------------------------------------------------------- */

static struct core_space *space_of(const struct core *c, uint32_t page)
{
	return &c->spaces[core_slab_of(c, page)->space];
}

static void ripe_link(struct core *c, struct core_space *s, uint32_t page, uint32_t prev,
		      uint32_t next)
{
	struct core_page *p = &c->pages[page];

	assert(!(p->flags & (CORE_PAGE_RIPE | CORE_PAGE_LISTED)));
	p->prev = prev;
	p->next = next;
	*(prev == CORE_NONE ? &s->ripe_first : &c->pages[prev].next) = page;
	*(next == CORE_NONE ? &s->ripe_last : &c->pages[next].prev) = page;
	p->flags |= CORE_PAGE_RIPE;
	s->ripe++;
}

/* What is known below of a page that is now in use, or about to go. */
static void set_spare(struct core *c, const struct core_space *s, uint32_t page, bool spare)
{
	uint32_t low;
	struct core_page *q;

	if (!(c->pages[page].flags & CORE_PAGE_BELOW))
		return;
	low = core_tier_find(c, s->below, &c->pages[page]);
	assert(low != CORE_NONE);
	q = &c->pages[low];
	if (spare)
		q->flags |= CORE_PAGE_SPARE;
	else
		q->flags &= (uint16_t)~CORE_PAGE_SPARE;
	if (q->flags & CORE_PAGE_LISTED)
		core_page_touch(c, low);
}

void core_ripe_append(struct core *c, struct core_space *s, uint32_t page)
{
	ripe_link(c, s, page, s->ripe_last, CORE_NONE);
	set_spare(c, s, page, false);
}

void core_ripe_prepend(struct core *c, struct core_space *s, uint32_t page)
{
	ripe_link(c, s, page, CORE_NONE, s->ripe_first);
}

void core_ripe_remove(struct core *c, struct core_space *s, uint32_t page)
{
	struct core_page *p = &c->pages[page];

	assert(p->flags & CORE_PAGE_RIPE);
	*(p->prev == CORE_NONE ? &s->ripe_first : &c->pages[p->prev].next) = p->next;
	*(p->next == CORE_NONE ? &s->ripe_last : &c->pages[p->next].prev) = p->prev;
	p->flags &= (uint16_t)~CORE_PAGE_RIPE;
	s->ripe--;
}

void core_page_touch(struct core *c, uint32_t page)
{
	if (c->pages[page].flags & CORE_PAGE_RIPE) {
		core_ripe_remove(c, space_of(c, page), page);
		set_spare(c, space_of(c, page), page, true);
	}
	c->policy->touch(c, page);
}

void core_page_forget(struct core *c, uint32_t page)
{
	if (c->pages[page].flags & CORE_PAGE_RIPE)
		core_ripe_remove(c, space_of(c, page), page);
	c->policy->forget(c, page);
}

/* ---- copies that know of each other -------------------------------------------------------- */

uint32_t core_tier_find(const struct core *c, unsigned space, const struct core_page *p)
{
	struct core_key key = {
		.hash = p->hash,
		.salt = p->salt,
		.ns = p->ns,
		.space = (uint16_t)space,
		.epoch = p->epoch,
	};

	return core_index_find(
		c, core_index_mix(c, core_index_seed(c, space, p->ns, p->salt), &p->hash), &key);
}

void core_tier_pair(struct core *c, uint32_t upper, uint32_t lower)
{
	assert(c->pages[upper].flags & CORE_PAGE_INDEXED);
	assert(c->pages[lower].flags & CORE_PAGE_INDEXED);
	c->pages[upper].flags |= CORE_PAGE_BELOW;
	c->pages[lower].flags |= CORE_PAGE_ABOVE | CORE_PAGE_SPARE; /* until the other is ripe */
	if (!(c->pages[lower].flags & CORE_PAGE_BUSY))
		core_page_touch(c, lower);
}

void core_tier_part(struct core *c, uint32_t page)
{
	struct core_page *p = &c->pages[page];
	struct core_space *s = space_of(c, page);
	struct core_page *q;
	uint32_t other;

	if (!(p->flags & (CORE_PAGE_BELOW | CORE_PAGE_ABOVE)))
		return;
	other = core_tier_find(c, p->flags & CORE_PAGE_BELOW ? s->below : s->above, p);
	assert(other != CORE_NONE);
	q = &c->pages[other];
	p->flags &= (uint16_t) ~(CORE_PAGE_BELOW | CORE_PAGE_ABOVE | CORE_PAGE_SPARE);
	if (q->flags & CORE_PAGE_BELOW) {
		q->flags &= (uint16_t)~CORE_PAGE_BELOW;
		return;
	}
	q->flags &= (uint16_t) ~(CORE_PAGE_ABOVE | CORE_PAGE_SPARE);
	q->hits = p->hits;
	q->expire_s = p->expire_s;
	if (q->flags & CORE_PAGE_LISTED)
		core_page_touch(c, other);
}

/* ---- room below ---------------------------------------------------------------------------- */

/* A slab is on its way, and not for so long that it may be long: an arena that is being filled. */
static bool is_slab_near(const struct core *c, const struct core_space *low)
{
	return low->creating && c->now_ns < low->asked_ns + SLAB_NEAR_NS;
}

/* Another space of the tenant has nothing to write to and less than this one: it goes first. */
static bool is_sibling_hungry(const struct core *c, const struct core_space *low)
{
	for (unsigned i = 0; i < c->h->limits.spaces; i++) {
		const struct core_space *s = &c->spaces[i];

		if (s->used && s->hungry_s && c->now_s - s->hungry_s <= HUNGRY_S && s != low &&
		    s->tenant == low->tenant && s->device == low->device &&
		    s->slabs * s->slab_bytes < low->slabs * low->slab_bytes)
			return true;
	}
	return false;
}

/* Asks for slabs in good time, when n pages are about to be taken. */
static void grow_low(struct core *c, struct core_space *low, uint32_t n)
{
	uint32_t want = n + low->pages_per_slab / GROW_PART;
	uint32_t slabs;

	if (low->pages_free >= want || low->creating || is_sibling_hungry(c, low))
		return;
	slabs = (want - low->pages_free + low->pages_per_slab - 1) / low->pages_per_slab;
	low->used_ns = c->now_ns;
	low->hungry_s = core_space_add_slabs(c, low, slabs, NULL) <= 0 ? c->now_s : 0;
}

/* A page below, taken from another key. */
static uint32_t evict_low(struct core *c, struct core_space *low)
{
	uint32_t work = LOWER_WORK, page;

	while (work && c->policy->victims(c, low, 1, &page, &work)) {
		if (c->pages[page].flags & CORE_PAGE_BUSY)
			continue;
		if (core_slab_of(c, page)->state != CORE_SLAB_LIVE) {
			core_page_discard(c, page);
			continue;
		}
		core_page_evicted(c, page);
		low->evictions++;
		c->h->device[low->device].evictions++;
		return page;
	}
	return CORE_NONE;
}

static uint32_t take_low(struct core *c, struct core_space *low)
{
	for (unsigned w = 0; w < CORE_SLOT_WORDS; w++) {
		if (low->has_free[w]) {
			unsigned slot = w * 64 + (unsigned)__builtin_ctzll(low->has_free[w]);

			return core_page_take_free(c, &c->slabs[low->slab_of_slot[slot]]);
		}
	}
	return evict_low(c, low);
}

bool core_tier_coming(const struct core *c, const struct core_space *s)
{
	const struct core_space *low = &c->spaces[s->below];

	return !low->pages_free && is_slab_near(c, low);
}

/* Is there a copy of the page already? They find each other then. */
static bool is_below(struct core *c, struct core_space *s, uint32_t page)
{
	uint32_t there;

	assert(!(c->pages[page].flags & CORE_PAGE_BUSY));
	if (c->pages[page].flags & CORE_PAGE_BELOW)
		return true;
	there = core_tier_find(c, s->below, &c->pages[page]);
	if (there != CORE_NONE && core_page_usable(c, there)) {
		core_tier_pair(c, page, there);
		return true;
	}
	if (there != CORE_NONE)
		core_page_displace(c, there);
	return false;
}

/* Up to n pages below to write to, in the order of their ids. 0: *ret_error says why. */
static uint32_t take_lows(struct core *c, const struct core_space *s, uint32_t n, uint32_t *ret,
			  int *ret_error)
{
	struct core_space *low = &c->spaces[s->below];
	uint32_t room = core_transfer_room(c, s), got = 0, page;
	bool near;

	*ret_error = -EAGAIN;
	if (!room)
		return 0;
	grow_low(c, low, n);
	if (core_tier_coming(c, s))
		return 0;
	near = is_slab_near(c, low); /* then nothing need be evicted below */
	*ret_error = near ? -EAGAIN : -ENOSPC;
	while (got < n && got < room && (low->pages_free || !near) &&
	       (page = take_low(c, low)) != CORE_NONE) {
		uint32_t at = got++;

		for (; at && ret[at - 1] > page; at--)
			ret[at] = ret[at - 1];
		ret[at] = page;
	}
	return got;
}

static void begin_down(struct core *c, uint32_t page, uint32_t to)
{
	core_page_arrive(c, to, &c->pages[page]);
	core_transfer_start(c, CORE_DOWN, page, to);
}

int core_tier_down(struct core *c, struct core_space *s, uint32_t page)
{
	uint32_t to;
	int error;

	if (is_below(c, s, page))
		return 1;
	if (!take_lows(c, s, 1, &to, &error))
		return error;
	begin_down(c, page, to);
	return 0;
}

/* ---- ripening ------------------------------------------------------------------------------ */

/* Of its own pages; where the space below cannot grow, not so many that their copies would take
 * each other's place there. */
static uint32_t ripe_low_mark(const struct core *c, const struct core_space *s)
{
	uint32_t mark = s->pages / RIPE_PART, low = c->spaces[s->below].pages / RIPE_LOW_PART;

	if (c->spaces[s->below].hungry_s && mark > low)
		mark = low;
	return mark > RIPE_MAX ? RIPE_MAX : mark;
}

bool core_tier_crowded(const struct core *c, const struct core_space *s)
{
	const struct core_space *low = &c->spaces[s->below];

	return low->pages && s->ripe + s->falling > low->pages / 2;
}

/* Pages that can go at once, or soon. */
static uint32_t at_hand(const struct core_space *s)
{
	return s->pages_free + s->ripe + s->falling;
}

void core_ripen_soon(struct core *c, const struct core_space *s)
{
	if (core_tier_usable(c, s) && at_hand(s) < ripe_low_mark(c, s))
		c->h->spaces_ripening = 1;
}

/* A victim of the policy. False: it is ripe, or free, or on its way; true: it has to be copied. */
static bool ripen_one(struct core *c, struct core_space *s, uint32_t page)
{
	const struct core_page *p = &c->pages[page];

	if (p->flags & CORE_PAGE_BUSY) /* its transfer makes it ripe */
		return false;
	if (!core_page_kept(c, page) || !core_page_usable(c, page)) {
		core_page_discard(c, page);
		return false;
	}
	if (!is_below(c, s, page))
		return true;
	core_ripe_append(c, s, page);
	return false;
}

/*
 * Starts copies of n pages, in their order, so that neighbours above become neighbours below,
 * whatever that order is. Those for which there is no room are ripe without a copy: whoever takes
 * them tries again, or drops them. True: there was room for all.
 */
static bool ripen_down(struct core *c, struct core_space *s, const uint32_t *page, uint32_t n)
{
	uint32_t low[RIPEN_BATCH];
	int error;
	uint32_t got = n ? take_lows(c, s, n, low, &error) : 0;

	for (uint32_t i = 0; i < n; i++) {
		uint32_t rank = 0;

		if (i >= got) {
			core_ripe_append(c, s, page[i]);
			continue;
		}
		for (uint32_t k = 0; k < got; k++)
			rank += page[k] < page[i];
		begin_down(c, page[i], low[rank]);
	}
	return got == n;
}

void core_ripen(struct core *c, struct core_space *s, uint32_t n, uint32_t *work)
{
	bool more = true;
	uint32_t room;

	if (!s->listed)
		return;
	grow_low(c, &c->spaces[s->below], 1);
	while (n && *work && more && (room = core_transfer_room(c, s)) && !core_tier_coming(c, s)) {
		uint32_t most = room < RIPEN_BATCH ? room : RIPEN_BATCH;
		uint32_t victims[RIPEN_BATCH], down = 0;
		uint32_t found = c->policy->victims(c, s, n < most ? n : most, victims, work);

		for (uint32_t i = 0; i < found; i++) {
			if (ripen_one(c, s, victims[i]))
				victims[down++] = victims[i];
		}
		more = found && ripen_down(c, s, victims, down);
		n -= found;
	}
}

void core_ripen_work(struct core *c, uint32_t *units)
{
	for (unsigned i = 0; i < c->h->limits.spaces && *units; i++) {
		struct core_space *s = &c->spaces[i];
		uint32_t mark;

		if (!s->used || !core_tier_usable(c, s))
			continue;
		mark = ripe_low_mark(c, s);
		if (at_hand(s) < mark)
			core_ripen(c, s, 2 * mark - at_hand(s), units);
	}
	c->h->spaces_ripening = !*units; /* those behind have not been looked at */
}
