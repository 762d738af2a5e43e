/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Transfers: copies of pages between a space and the space below it, from their start to their end.
 *
 *   core_transfer_start() -> QUEUED -> core_next_transfer() -> FLIGHT -> core_transfer_done()
 *
 * Those of the store (store.c) have a queue of their own, core_next_store_transfer().
 *
 * From start to end both pages are BUSY: neither is evicted, reused, swept or closed with its slab,
 * whatever becomes of the clients that hold or wanted them (I1). What happened to them meanwhile --
 * an epoch passed, a slab is revoked, the key was given to another page -- is looked at at the end.
 *
 * A tenant may have them all in the making when it is alone; beside others it leaves as many as it
 * has, so that what one brings up keeps nobody else from starting (I10).
 *
 * What is on the way up goes before what is on the way down: somebody waits for it.
 */

#include "broker/core/internal.h"

void core_transfers_init(struct core *c)
{
	uint32_t n = c->h->limits.transfers;

	c->h->transfer_free = n ? 0 : CORE_NONE16;
	for (uint32_t i = 0; i < n; i++)
		c->transfers[i].next = i + 1 < n ? (uint16_t)(i + 1) : CORE_NONE16;
	for (unsigned d = 0; d < CORE_DEVICES_MAX; d++) {
		for (unsigned dir = 0; dir < 2; dir++)
			c->h->queue[d][dir] = (struct core_queue){ CORE_NONE16, CORE_NONE16 };
	}
	for (unsigned dir = 0; dir < 2; dir++)
		c->h->store_queue[dir] = (struct core_queue){ CORE_NONE16, CORE_NONE16 };
}

/* As core_share_fits(): beside others a tenant gets no more than it leaves, one by one. */
uint32_t core_transfer_room(const struct core *c, const struct core_space *s)
{
	uint32_t left = c->h->limits.transfers - c->h->transfers_used;
	uint32_t mine = c->tenants[s->tenant].transfers;

	if (!core_share_fits(c, mine, c->h->transfers_used, c->h->limits.transfers))
		return 0;
	return c->h->tenants_used > 1 ? (left - mine + 1) / 2 : left;
}

/* The space that a transfer counts in: the upper one. */
static struct core_space *upper_space(const struct core *c, const struct core_transfer *t)
{
	uint32_t upper = t->direction == CORE_UP ? t->to : t->from;

	return &c->spaces[core_slab_of(c, upper)->space];
}

void core_transfer_enqueue(struct core *c, unsigned index)
{
	struct core_transfer *t = &c->transfers[index];
	struct core_queue *q =
		t->store ? &c->h->store_queue[t->direction] : &c->h->queue[t->device][t->direction];

	t->state = CORE_TRANSFER_QUEUED;
	t->next = CORE_NONE16;
	if (q->first == CORE_NONE16)
		q->first = (uint16_t)index;
	else
		c->transfers[q->last].next = (uint16_t)index;
	q->last = (uint16_t)index;
}

unsigned core_transfer_dequeue(struct core *c, struct core_queue *q)
{
	unsigned index = q->first;

	if (index != CORE_NONE16) {
		q->first = c->transfers[index].next;
		c->transfers[index].next = CORE_NONE16;
		c->transfers[index].state = CORE_TRANSFER_FLIGHT;
	}
	return index;
}

static void set_busy(struct core *c, const struct core_transfer *t, bool busy)
{
	const uint32_t pages[] = { t->from, t->to };

	for (unsigned i = 0; i < 2; i++) {
		if (pages[i] == CORE_NONE)
			continue;
		if (busy)
			c->pages[pages[i]].flags |= CORE_PAGE_BUSY;
		else
			c->pages[pages[i]].flags &= (uint16_t)~CORE_PAGE_BUSY;
	}
}

/* What is read in an arena has one, whoever reads it. */
static bool has_sum(const struct core *c, enum core_direction direction, uint32_t from, bool store)
{
	return store ? direction == CORE_DOWN &&
			       c->spaces[core_slab_of(c, from)->space].above != CORE_NONE16
		     : direction == CORE_UP;
}

void core_transfer_start(struct core *c, enum core_direction direction, uint32_t from, uint32_t to,
			 bool store)
{
	unsigned index = c->h->transfer_free;
	struct core_transfer *t = &c->transfers[index];
	struct core_space *s;

	assert(index != CORE_NONE16);
	c->h->transfer_free = t->next;
	c->h->transfers_used++;
	*t = (struct core_transfer){
		.from = from,
		.to = to,
		.sum = has_sum(c, direction, from, store) ? c->sums[from] : 0,
		.direction = (uint8_t)direction,
		.store = store,
		.since_ns = c->now_ns,
	};
	s = upper_space(c, t);
	t->device = s->device;
	c->tenants[s->tenant].transfers++;
	if (direction == CORE_UP)
		s->rising++;
	else
		s->falling++;
	set_busy(c, t, true);
	core_transfer_enqueue(c, index);
}

unsigned core_next_transfer(struct core *c, unsigned device)
{
	unsigned index = core_transfer_dequeue(c, &c->h->queue[device][CORE_UP]);

	return index != CORE_NONE16 ? index
				    : core_transfer_dequeue(c, &c->h->queue[device][CORE_DOWN]);
}

void core_device_below_ready(struct core *c, unsigned device, bool ready)
{
	unsigned index;

	c->h->device[device].below_ready = ready;
	c->h->spaces_ripening |= ready;
	while (!ready && (index = core_next_transfer(c, device)) != CORE_NONE16)
		core_transfer_done(c, index, -EIO, 0);
}

void core_transfer_settle(struct core *c, uint32_t page)
{
	const struct core_page *p = &c->pages[page];

	if (p->leases)
		return;
	if (!core_page_kept(c, page))
		core_page_discard(c, page);
	else if (!(p->flags & (CORE_PAGE_LISTED | CORE_PAGE_PINNED | CORE_PAGE_RIPE)))
		core_page_touch(c, page);
}

void core_transfer_settle_down(struct core *c, struct core_space *s, uint32_t page)
{
	const struct core_page *p = &c->pages[page];

	if (!p->leases && core_page_kept(c, page) &&
	    !(p->flags & (CORE_PAGE_LISTED | CORE_PAGE_PINNED)))
		core_ripe_append(c, s, page);
	else
		core_transfer_settle(c, page);
}

static void down_done(struct core *c, const struct core_transfer *t, int error, uint32_t sum)
{
	const struct core_page *p = &c->pages[t->from];
	struct core_space *s = upper_space(c, t);
	struct core_device *d = &c->h->device[s->device];

	s->falling--;
	core_page_arrived(c, t->to);
	if (!error && p->flags & CORE_PAGE_INDEXED && !core_page_stale(c, p)) {
		core_page_index(c, t->to);
		c->pages[t->to].flags |= p->flags & CORE_PAGE_PENDING;
		c->sums[t->to] = sum;
		core_tier_pair(c, t->from, t->to);
		d->demoted++;
		d->demoted_bytes += s->regions * s->stride_bytes;
	}
	core_transfer_settle(c, t->to);
	core_transfer_settle_down(c, s, t->from);
}

static void up_done(struct core *c, const struct core_transfer *t, int error)
{
	struct core_page *p = &c->pages[t->to];
	const struct core_page *low = &c->pages[t->from];
	struct core_space *s = upper_space(c, t);
	struct core_device *d = &c->h->device[s->device];

	s->rising--;
	core_page_arrived(c, t->to);
	if (error) {
		core_page_unindex(c, t->to);
		p->flags |= CORE_PAGE_FAILED;
	} else {
		d->promoted++;
		d->promoted_bytes += s->regions * s->stride_bytes;
		if (p->flags & CORE_PAGE_INDEXED && low->flags & CORE_PAGE_INDEXED)
			core_tier_pair(c, t->to, t->from);
	}
	if (error == -EBADMSG) {
		d->checksum_misses++;
		core_page_discard(c, t->from);
	} else {
		core_transfer_settle(c, t->from);
	}
	core_transfer_settle(c, t->to);
}

void core_transfer_done(struct core *c, unsigned index, int error, uint32_t sum)
{
	struct core_transfer t;
	struct core_space *s;

	assert(index < c->h->limits.transfers);
	t = c->transfers[index];
	assert(t.state == CORE_TRANSFER_FLIGHT && error <= 0);
	s = upper_space(c, &t);
	if (t.store && !error && core_store_goes_on(c, index, s, sum))
		return;
	c->transfers[index].state = CORE_TRANSFER_FREE;
	c->transfers[index].next = c->h->transfer_free;
	c->h->transfer_free = (uint16_t)index;
	c->h->transfers_used--;
	c->tenants[s->tenant].transfers--;
	set_busy(c, &t, false);
	core_ripen_soon(c, s);
	if (t.store) {
		core_store_done(c, &t, s, error);
		return;
	}
	c->h->device[t.device].transfers_failed += error != 0;
	if (t.direction == CORE_UP)
		up_done(c, &t, error);
	else
		down_done(c, &t, error, sum);
	if (error == -EHWPOISON)
		core_slab_retire(c, core_slab_of(c, t.direction == CORE_UP ? t.to : t.from));
}
