/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The store, as the core sees it: a set of keys that it asks, and transfers that somebody else
 * carries out.
 *
 *   down   a page of the last memory:  page -> store
 *   up     to the last memory:         store -> page
 *   up     to a space above an arena:  store -> page of the arena -> page
 *
 * The last is one transfer, whose pages are both taken at its start: so it never waits for memory
 * half way. Its first leg is the store's, its second the mover's; the page of the arena is found
 * under the key from the second on.
 *
 * Pages are not marked with whether the store has them: it loses some every time it makes room,
 * and asking it again costs about as much as a lookup. What came from it, or went there, is neither
 * more nor less than any other page.
 *
 * What is on its way down may not take all transfers: the last quarter is for what comes up.
 */

#include "broker/core/internal.h"

#define KEPT_PART 4u /* of the transfers */

static struct core_key key_of(const struct core *c, uint32_t page)
{
	const struct core_page *p = &c->pages[page];
	uint16_t space = core_slab_of(c, page)->space;

	return (struct core_key){
		.hash = p->hash,
		.salt = p->salt,
		.ns = p->ns,
		.space = c->spaces[space].above == CORE_NONE16 ? space : c->spaces[space].above,
		.epoch = p->epoch,
	};
}

bool core_store_has(const struct core *c, uint32_t page)
{
	struct core_key key = key_of(c, page);

	return c->store->has(c->store_arg, &key);
}

bool core_store_wants(struct core *c, uint32_t page)
{
	struct core_page *p = &c->pages[page];
	struct core_key key = key_of(c, page);

	/* Of a spare copy the page above is in use, and its copy is none when it goes; and the
	 * store would not know when a time to live is over. */
	if (p->flags & (CORE_PAGE_SPARE | CORE_PAGE_OFFERED) || p->expire_s ||
	    core_store_has(c, page))
		return false;
	if (!c->store->admit || c->store->admit(c->store_arg, p, &key))
		return true;
	p->flags |= CORE_PAGE_OFFERED;
	c->h->n.store_unwanted++;
	return false;
}

int core_store_down(struct core *c, const struct core_space *s, uint32_t page)
{
	uint32_t left = c->h->limits.transfers - c->h->transfers_used;

	if (!core_transfer_room(c, s) || left <= c->h->limits.transfers / KEPT_PART)
		return -EAGAIN;
	core_transfer_start(c, CORE_DOWN, page, CORE_NONE, true);
	return 0;
}

void core_store_attach(struct core *c, const struct core_store_ops *ops, void *arg)
{
	assert(c->h->limits.transfers && !c->store);
	c->store = ops;
	c->store_arg = arg;
	c->h->spaces_ripening = 1;
}

void core_store_detach(struct core *c)
{
	unsigned index;

	c->store = NULL;
	while ((index = core_next_store_transfer(c)) != CORE_NONE16)
		core_transfer_done(c, index, -EIO, 0);
}

bool core_space_has_store(const struct core *c, unsigned space)
{
	const struct core_space *s = &c->spaces[space];

	return core_store_usable(c, s->below == CORE_NONE16 ? s : &c->spaces[s->below]);
}

void core_store_write_out(struct core *c)
{
	c->h->writing_out = 1;
	c->h->spaces_ripening = 1;
}

bool core_store_is_written_out(const struct core *c)
{
	for (unsigned i = 0; i < c->h->limits.spaces; i++) {
		const struct core_space *s = &c->spaces[i];

		if (s->used && core_tier_usable(c, s) && core_space_has_store(c, i) &&
		    (s->listed || s->ripe || s->falling))
			return false;
	}
	return true;
}

unsigned core_next_store_transfer(struct core *c)
{
	unsigned index = core_transfer_dequeue(c, &c->h->store_queue[CORE_UP]);

	return index != CORE_NONE16 ? index
				    : core_transfer_dequeue(c, &c->h->store_queue[CORE_DOWN]);
}

uint32_t core_store_page(const struct core *c, unsigned index, struct core_key *ret_key)
{
	const struct core_transfer *t = &c->transfers[index];

	assert(t->state == CORE_TRANSFER_FLIGHT && t->store);
	*ret_key = key_of(c, t->direction == CORE_UP ? t->to : t->from);
	return t->from == CORE_NONE ? t->to : t->from;
}

static void count(uint64_t *pages, uint64_t *bytes, const struct core_space *s)
{
	(*pages)++;
	*bytes += s->regions * s->stride_bytes;
}

bool core_store_goes_on(struct core *c, unsigned index, const struct core_space *s, uint32_t sum)
{
	struct core_transfer *t = &c->transfers[index];
	const struct core_page *upper = &c->pages[t->to];

	if (t->direction == CORE_DOWN || t->from == CORE_NONE)
		return false;
	count(&c->h->n.fetched, &c->h->n.fetched_bytes, s);
	core_page_arrived(c, t->from);
	c->sums[t->from] = sum;
	/* As long as the page above is under the key, nothing else below is. */
	if (upper->flags & CORE_PAGE_INDEXED && !core_page_stale(c, upper))
		core_page_index(c, t->from);
	t->sum = sum;
	t->store = 0;
	if (!c->h->device[t->device].below_ready)
		core_transfer_done(c, index, -EIO, 0);
	else
		core_transfer_enqueue(c, index);
	return true;
}

static void up_done(struct core *c, const struct core_transfer *t, struct core_space *s, int error)
{
	s->rising--;
	if (t->from != CORE_NONE) { /* it never got there */
		core_page_arrived(c, t->from);
		core_transfer_settle(c, t->from);
	}
	core_page_arrived(c, t->to);
	if (error) {
		core_page_unindex(c, t->to);
		c->pages[t->to].flags |= CORE_PAGE_FAILED;
		c->h->n.store_lost++;
	} else {
		count(&c->h->n.fetched, &c->h->n.fetched_bytes, s);
	}
	core_transfer_settle(c, t->to);
}

void core_store_done(struct core *c, const struct core_transfer *t, struct core_space *s, int error)
{
	if (t->direction == CORE_UP) {
		up_done(c, t, s, error);
		return;
	}
	s->falling--;
	/* There is no second try, not even when the store has lost it again by then. */
	c->pages[t->from].flags |= CORE_PAGE_OFFERED;
	if (error) {
		c->h->n.store_refused++;
	} else {
		count(&c->h->n.stored, &c->h->n.stored_bytes, s);
	}
	if (error == -EBADMSG && s->above != CORE_NONE16) {
		c->h->device[c->spaces[s->above].device].checksum_misses++;
		core_page_discard(c, t->from);
	} else {
		core_transfer_settle_down(c, s, t->from);
	}
}
