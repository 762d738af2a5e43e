/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Ripe pages: what goes next has been written down before its memory is wanted.
 *
 * Else whoever asks for memory waits for a copy. So the policy's next victims are made ripe ahead
 * of need: each is written down, stays readable where it is, and joins a list in the order the
 * policy named them. ALLOC evicts from that list first. A ripe page that is used again leaves the
 * list with its release, as any page enters the policy's order then; its copy below stays and saves
 * the next one. Ripening starts when the pages that can go at once (free, ripe or on their way
 * down) are fewer than a sixteenth of the space and goes on to an eighth: in runs, so that
 * neighbours go together.
 *
 * Below is the arena (tier.c), or for the last memory the store (store.c). A page that finds no
 * room there, or that nobody wants there, is ripe without a copy.
 */

#include "broker/core/internal.h"

#define RIPE_PART 16u    /* of a space's pages: fewer than that can go at once, and more are made */
#define RIPE_MAX 16384u  /* but not more than so many, however large the space */
#define RIPE_LOW_PART 4u /* nor than this part of the space below, so that twice as many fit */
#define RIPEN_BATCH 32u
#define COPY_WORK 64u /* pages looked at that starting the copy of one stands for */

/* ---- the order of candidates --------------------------------------------------------------- */

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
	if (q->flags & (CORE_PAGE_LISTED | CORE_PAGE_RIPE))
		core_page_touch(c, low);
}

void core_ripe_append(struct core *c, struct core_space *s, uint32_t page)
{
	ripe_link(c, s, page, s->ripe_last, CORE_NONE);
	set_spare(c, s, page, false);
}

static void ripe_prepend(struct core *c, struct core_space *s, uint32_t page)
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
	c->pages[page].flags &= (uint16_t)~CORE_PAGE_OFFERED;
	if (c->pages[page].flags & CORE_PAGE_RIPE) {
		core_ripe_remove(c, core_space_of(c, page), page);
		set_spare(c, core_space_of(c, page), page, true);
	}
	c->policy->touch(c, page);
}

void core_page_forget(struct core *c, uint32_t page)
{
	if (c->pages[page].flags & CORE_PAGE_RIPE)
		core_ripe_remove(c, core_space_of(c, page), page);
	c->policy->forget(c, page);
}

/* ---- ripening ------------------------------------------------------------------------------ */

/* Of its own pages; where the space below cannot grow, not so many that their copies would take
 * each other's place there. */
static uint32_t ripe_low_mark(const struct core *c, const struct core_space *s)
{
	const struct core_space *low = s->below == CORE_NONE16 ? NULL : &c->spaces[s->below];
	uint32_t mark = s->pages / RIPE_PART;

	if (low && low->hungry_s && mark > low->pages / RIPE_LOW_PART)
		mark = low->pages / RIPE_LOW_PART;
	return mark > RIPE_MAX ? RIPE_MAX : mark;
}

/*
 * Would another copy below take the place of one that is as good? Then it is not made; with a store
 * behind, which is where the other one would go, not if the page is there already.
 */
static bool is_low_crowded(const struct core *c, const struct core_space *s, uint32_t page)
{
	const struct core_space *low = &c->spaces[s->below];

	if (s->below == CORE_NONE16 || !low->pages || s->ripe + s->falling <= low->pages / 2)
		return false;
	return !core_store_usable(c, low) || core_store_has(c, page);
}

/* Pages that can go at once, or soon. */
static uint32_t at_hand(const struct core_space *s)
{
	return s->pages_free + s->ripe + s->falling;
}

/* How many of its pages should be on their way there. */
static uint32_t short_of(const struct core *c, const struct core_space *s)
{
	uint32_t mark = ripe_low_mark(c, s);

	return at_hand(s) < mark ? 2 * mark - at_hand(s) : 0;
}

void core_ripen_soon(struct core *c, const struct core_space *s)
{
	if (core_tier_usable(c, s) && (c->h->writing_out || short_of(c, s)))
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
	if (s->below == CORE_NONE16 ? core_store_wants(c, page) : !core_tier_has_copy(c, s, page))
		return true;
	core_ripe_append(c, s, page);
	return false;
}

/* In the order of their ids, which is the order in which they will be wanted again. */
static bool ripen_store(struct core *c, struct core_space *s, uint32_t *page, uint32_t n)
{
	bool room = true;

	for (uint32_t i = 1; i < n; i++)
		core_pages_insert(page, i, page[i]);
	for (uint32_t i = 0; i < n; i++) {
		room = room && core_store_down(c, s, page[i]) == 0;
		if (!room)
			core_ripe_append(c, s, page[i]);
	}
	return room;
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
	uint32_t got = n ? core_tier_take_lows(c, s, n, low, &error) : 0;

	for (uint32_t i = 0; i < n; i++) {
		uint32_t rank = 0;

		if (i >= got) {
			core_ripe_append(c, s, page[i]);
			continue;
		}
		for (uint32_t k = 0; k < got; k++)
			rank += page[k] < page[i];
		core_tier_begin_down(c, page[i], low[rank]);
	}
	return got == n;
}

/* Up to n more of the policy's victims are made ripe, or start to be. *work as for victims(). */
static void ripen(struct core *c, struct core_space *s, uint32_t n, uint32_t *work)
{
	bool more = true, store = s->below == CORE_NONE16;
	uint32_t room;

	if (!s->listed)
		return;
	if (!store)
		core_tier_grow_low(c, &c->spaces[s->below], 1);
	while (n && *work && more && (room = core_transfer_room(c, s)) && !core_tier_coming(c, s)) {
		uint32_t most = room < RIPEN_BATCH ? room : RIPEN_BATCH;
		uint32_t victims[RIPEN_BATCH], down = 0;
		uint32_t found = c->policy->victims(c, s, n < most ? n : most, victims, work);

		for (uint32_t i = 0; i < found; i++) {
			if (ripen_one(c, s, victims[i]))
				victims[down++] = victims[i];
		}
		more = found &&
		       (store ? ripen_store(c, s, victims, down) : ripen_down(c, s, victims, down));
		n -= found;
	}
}

/* ---- what goes next ------------------------------------------------------------------------ */

/* Nobody will ask for what is of a past epoch, past its time or pending, and a revoked slab has its
 * own way down (work.c). */
static bool is_worth_writing(struct core *c, const struct core_space *s, uint32_t page)
{
	return !(c->pages[page].flags & CORE_PAGE_BELOW) && core_page_kept(c, page) &&
	       core_page_usable(c, page) && !is_low_crowded(c, s, page) &&
	       core_ripe_wants(c, s, page);
}

bool core_ripe_wants(struct core *c, const struct core_space *s, uint32_t page)
{
	return s->below != CORE_NONE16 || core_store_wants(c, page);
}

/* The first of the list that can go at once; what has to be written first is, and leaves it. */
static uint32_t next_of_list(struct core *c, struct core_space *s, bool drop, uint32_t *work)
{
	while (s->ripe_first != CORE_NONE && *work) {
		uint32_t page = s->ripe_first;
		const struct core_page *p = &c->pages[page];
		int r = 1;

		(*work)--;
		core_ripe_remove(c, s, page);
		if (p->leases || p->flags & CORE_PAGE_BUSY)
			continue; /* its release, or the end of its transfer, brings it back */
		if (!drop && core_tier_usable(c, s) && is_worth_writing(c, s, page))
			r = core_tier_down(c, s, page);
		if (r == 0) {
			*work -= *work < COPY_WORK ? *work : COPY_WORK;
			continue;
		}
		if (r != -EAGAIN)
			return page;
		ripe_prepend(c, s, page);
		break;
	}
	return CORE_NONE;
}

uint32_t core_ripe_next(struct core *c, struct core_space *s, uint32_t want, bool drop,
			uint32_t *work)
{
	uint32_t page = next_of_list(c, s, drop, work);

	while (page == CORE_NONE && !drop && core_tier_usable(c, s) && !s->ripe &&
	       s->falling < want) {
		ripen(c, s, want - s->falling, work);
		if (!s->ripe) /* each has to be written first, or there is none */
			break;
		page = next_of_list(c, s, false, work);
	}
	return page;
}

bool core_ripe_coming(const struct core *c, const struct core_space *s)
{
	return core_tier_usable(c, s) && (s->falling || (s->ripe && c->h->transfers_used) ||
					  ((s->ripe || s->listed) && core_tier_coming(c, s)));
}

/* ---- work ---------------------------------------------------------------------------------- */

/* Before the end: all goes, as far as it can be written first. */
static void empty(struct core *c, struct core_space *s, uint32_t *units)
{
	uint32_t page;

	while (*units &&
	       (page = core_ripe_next(c, s, c->h->limits.transfers, false, units)) != CORE_NONE)
		core_page_discard(c, page);
}

void core_ripen_work(struct core *c, uint32_t *units)
{
	for (unsigned i = 0; i < c->h->limits.spaces && *units; i++) {
		struct core_space *s = &c->spaces[i];

		if (!s->used || !core_tier_usable(c, s))
			continue;
		if (c->h->writing_out && core_space_has_store(c, i))
			empty(c, s, units);
		else if (short_of(c, s))
			ripen(c, s, short_of(c, s), units);
	}
	c->h->spaces_ripening = !*units; /* those behind have not been looked at */
}
