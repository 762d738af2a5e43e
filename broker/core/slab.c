/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Slabs: memory on its way to the members of a space and back.
 *
 *   FREE -> CREATING -> LIVE -> DRAINING -> CLOSING -> FREE
 *
 * CREATING and CLOSING wait for the device, which hears of them through core_next_slab(). A LIVE
 * slab is sent to every member; a member gets pages of it once it has acknowledged. DRAINING ends
 * when all pages are free and nobody has the memory mapped any more: a client that neither gives
 * back nor dies keeps it charged to its tenant, which is the tenant's own loss.
 *
 * Page records are lent to a slab in whole units; their generations start above any that closed
 * slabs have used, so that a name can never fit a page it was not given for.
 */

#include "broker/core/internal.h"

static void slab_todo(struct core *c, struct core_slab *slab)
{
	if (slab->todo)
		return;
	slab->todo = 1;
	slab->todo_next = c->h->slab_todo;
	c->h->slab_todo = (uint16_t)core_slab_index(c, slab);
}

unsigned core_next_slab(struct core *c)
{
	unsigned i = c->h->slab_todo;

	if (i != CORE_NONE16) {
		c->h->slab_todo = c->slabs[i].todo_next;
		c->slabs[i].todo = 0;
	}
	return i;
}

/* First of `units` neighbouring free units, lowest first; CORE_NONE. */
static uint32_t find_units(const struct core *c, uint32_t units)
{
	uint32_t total = c->h->limits.pages / CORE_UNIT_PAGES;
	uint32_t run = 0;

	for (uint32_t u = 0; u < total; u++) {
		if (u % 64 == 0 && !run && c->unit_used[u / 64] == UINT64_MAX) {
			u += 63;
			continue;
		}
		run = bit_test(c->unit_used, u) ? 0 : run + 1;
		if (run == units)
			return u + 1 - units;
	}
	return CORE_NONE;
}

static void take_units(struct core *c, struct core_slab *slab, uint32_t first, uint32_t units)
{
	for (uint32_t u = first; u < first + units; u++) {
		bit_set(c->unit_used, u);
		c->units[u] = (uint16_t)core_slab_index(c, slab);
	}
	if (c->h->units_high < first + units) {
		if (c->h->sweep_left) /* a sweep goes round: it must come back to where it began */
			c->h->sweep_left += (first + units - c->h->units_high) * CORE_UNIT_PAGES;
		c->h->units_high = first + units;
	}
	slab->base = first * CORE_UNIT_PAGES;
}

static uint32_t units_of(const struct core_slab *slab)
{
	return (slab->pages + CORE_UNIT_PAGES - 1) / CORE_UNIT_PAGES;
}

int core_slab_create(struct core *c, struct core_space *s)
{
	struct core_slab *slab = NULL;
	uint32_t slot = 0, first;

	while (slot < s->slots && s->slab_of_slot[slot] != CORE_NONE16)
		slot++;
	for (unsigned i = 0; i < c->h->limits.slabs && !slab; i++) {
		if (c->slabs[i].state == CORE_SLAB_FREE && !c->slabs[i].todo)
			slab = &c->slabs[i];
	}
	if (slot == s->slots || !slab)
		return -ENOSPC;
	first = find_units(c, (s->pages_per_slab + CORE_UNIT_PAGES - 1) / CORE_UNIT_PAGES);
	if (first == CORE_NONE)
		return -ENOSPC;

	memset(slab, 0, sizeof(*slab));
	slab->pages = s->pages_per_slab;
	slab->space = (uint16_t)core_space_index(c, s);
	slab->slot = (uint16_t)slot;
	slab->state = CORE_SLAB_CREATING;
	s->creating++;
	s->asked_ns = c->now_ns;
	take_units(c, slab, first, units_of(slab));
	s->slab_of_slot[slot] = (uint16_t)core_slab_index(c, slab);
	s->slabs++;
	slab_todo(c, slab);
	return (int)core_slab_index(c, slab);
}

void core_slab_created(struct core *c, unsigned index)
{
	struct core_slab *slab = &c->slabs[index];
	struct core_space *s = &c->spaces[slab->space];

	assert(slab->state == CORE_SLAB_CREATING);
	s->creating--;
	for (uint32_t i = 0; i < slab->pages; i++) {
		struct core_page *p = &c->pages[slab->base + i];

		p->gen = c->h->gen_floor == UINT32_MAX ? 1 : c->h->gen_floor + 1;
		p->state = CORE_PAGE_FREE;
		p->flags = 0;
		p->leases = 0;
		bit_set(c->free_bits, slab->base + i);
	}
	slab->free = slab->pages;
	slab->state = CORE_SLAB_LIVE;
	bit_set(s->live, slab->slot);
	bit_set(s->has_free, slab->slot);
	s->pages += slab->pages;
	s->pages_free += slab->pages;
	c->h->device[s->device].grants++;
	c->h->n.grants++;
	for (uint16_t i = s->member; i != CORE_NONE16; i = c->members[i].space_next)
		core_member_kick(c, &c->members[i]);
	if (s->above != CORE_NONE16) /* what waited for it can be written down */
		c->h->spaces_ripening = 1;
	/* much may have changed since it was asked for */
	if (c->h->device[s->device].draining)
		core_slab_revoke(c, slab, c->revoke_grace_ns);
	core_budget_converge(c, s->tenant, s->device);
}

/* The record, its units and its charge go back. */
static void slab_release(struct core *c, struct core_slab *slab)
{
	struct core_space *s = &c->spaces[slab->space];

	for (uint32_t u = 0; u < units_of(slab); u++) {
		bit_clear(c->unit_used, slab->base / CORE_UNIT_PAGES + u);
		c->free_bits[slab->base / 64 + u] = 0;
	}
	s->slab_of_slot[slab->slot] = CORE_NONE16;
	s->slabs--;
	core_budget_release(c, s->tenant, s->device, s->slab_bytes);
	slab->state = CORE_SLAB_FREE;
	core_space_try_free(c, s);
}

void core_slab_failed(struct core *c, unsigned index)
{
	assert(c->slabs[index].state == CORE_SLAB_CREATING);
	c->spaces[c->slabs[index].space].creating--;
	slab_release(c, &c->slabs[index]);
}

void core_slab_closed(struct core *c, unsigned index)
{
	struct core_slab *slab = &c->slabs[index];
	struct core_space *s = &c->spaces[slab->space];

	assert(slab->state == CORE_SLAB_CLOSING);
	c->h->device[s->device].draining_bytes -= s->slab_bytes;
	c->tenants[s->tenant].budget[s->device].draining_bytes -= s->slab_bytes;
	slab_release(c, slab);
}

void core_slab_revoke(struct core *c, struct core_slab *slab, uint64_t grace_ns)
{
	struct core_space *s = &c->spaces[slab->space];

	assert(slab->state == CORE_SLAB_LIVE);
	slab->state = CORE_SLAB_DRAINING;
	slab->drain = 0;
	slab->grace_ns = grace_ns;
	slab->deadline_ns = c->now_ns + grace_ns;
	bit_clear(s->live, slab->slot);
	bit_clear(s->has_free, slab->slot);
	s->pages -= slab->pages;
	s->pages_free -= slab->free;
	c->h->slabs_draining++;
	c->h->slabs_undrained++;
	c->h->device[s->device].draining_bytes += s->slab_bytes;
	c->h->device[s->device].revocations++;
	c->tenants[s->tenant].budget[s->device].draining_bytes += s->slab_bytes;
	c->h->n.revocations++;
	for (uint16_t i = s->member; i != CORE_NONE16; i = c->members[i].space_next) {
		struct core_member *m = &c->members[i];

		if (!bit_test(m->sent, slab->slot))
			continue;
		bit_set(m->revoke, slab->slot);
		core_member_kick(c, m);
	}
	core_slab_try_close(c, slab);
}

/*
 * Revoked as any, and what is in it is not written down. Its handles are closed and never handed
 * out again by us; that bad memory does not come back in new ones is the driver's part.
 */
void core_slab_retire(struct core *c, struct core_slab *slab)
{
	if (slab->retired)
		return;
	slab->retired = 1;
	c->h->device[c->spaces[slab->space].device].retired++;
	if (slab->state == CORE_SLAB_LIVE)
		core_slab_revoke(c, slab, c->revoke_grace_ns);
}

void core_slab_try_close(struct core *c, struct core_slab *slab)
{
	if (slab->state != CORE_SLAB_DRAINING || slab->mapped || slab->free != slab->pages)
		return;
	for (uint32_t i = 0; i < slab->pages; i++) {
		if (c->pages[slab->base + i].gen > c->h->gen_floor)
			c->h->gen_floor = c->pages[slab->base + i].gen;
	}
	slab->state = CORE_SLAB_CLOSING;
	c->h->slabs_draining--;
	c->h->slabs_undrained -= slab->drain < slab->pages;
	slab_todo(c, slab);
}

unsigned core_slab_overdue(const struct core *c, unsigned from)
{
	if (!c->h->slabs_draining)
		return CORE_NONE16;
	for (unsigned i = from; i < c->h->limits.slabs; i++) {
		if (c->slabs[i].state == CORE_SLAB_DRAINING && c->slabs[i].deadline_ns <= c->now_ns)
			return i;
	}
	return CORE_NONE16;
}

void core_slab_extend(struct core *c, unsigned index, uint64_t grace_ns)
{
	struct core_slab *slab = &c->slabs[index];

	assert(slab->state == CORE_SLAB_DRAINING);
	slab->grace_ns = grace_ns;
	slab->deadline_ns = c->now_ns + grace_ns;
	c->h->n.revocations_overdue++;
}

/* ---- members and slabs --------------------------------------------------------------------- */

void core_grant_sent(struct core *c, struct core_member *m, unsigned slot)
{
	struct core_space *s = &c->spaces[m->space];

	assert(bit_test(s->live, slot) && !bit_test(m->sent, slot));
	bit_set(m->sent, slot);
	c->slabs[s->slab_of_slot[slot]].mapped++;
}

void core_grant_acked(struct core *c, struct core_member *m, unsigned slot, bool mapped)
{
	if (slot >= KVB_SLOTS_MAX || !bit_test(m->sent, slot))
		return; /* given up meanwhile */
	if (mapped)
		bit_set(m->acked, slot);
	else
		bit_set(m->refused, slot);
}

void core_slab_unmap(struct core *c, struct core_member *m, unsigned slot)
{
	struct core_slab *slab = &c->slabs[c->spaces[m->space].slab_of_slot[slot]];

	assert(bit_test(m->sent, slot) && slab->mapped);
	bit_clear(m->sent, slot);
	bit_clear(m->acked, slot);
	bit_clear(m->refused, slot);
	bit_clear(m->revoke, slot);
	slab->mapped--;
	core_slab_try_close(c, slab);
}

int core_reclaim_ack(struct core *c, struct core_member *m, uint64_t slot, uint32_t *ret_busy)
{
	const struct core_space *s = &c->spaces[m->space];
	const struct core_slab *slab;

	*ret_busy = 0;
	if (slot >= s->slots || !bit_test(m->sent, (unsigned)slot))
		return -ENOENT;
	slab = &c->slabs[s->slab_of_slot[slot]];
	if (slab->state != CORE_SLAB_DRAINING)
		return -ENOENT;
	*ret_busy = m->held_in[slot] + m->leases_in[slot];
	if (*ret_busy)
		return -EBUSY;
	core_slab_unmap(c, m, (unsigned)slot);
	return 0;
}

enum core_slot_state core_slot_state(const struct core *c, const struct core_member *m,
				     unsigned slot)
{
	const struct core_space *s = &c->spaces[m->space];

	if (slot >= s->slots || s->slab_of_slot[slot] == CORE_NONE16)
		return CORE_SLOT_EMPTY;
	switch (c->slabs[s->slab_of_slot[slot]].state) {
	case CORE_SLAB_CREATING:
		return CORE_SLOT_PENDING;
	case CORE_SLAB_LIVE:
		if (bit_test(m->refused, slot))
			return CORE_SLOT_EMPTY;
		return bit_test(m->acked, slot) ? CORE_SLOT_READY : CORE_SLOT_PENDING;
	default:
		return CORE_SLOT_REVOKED;
	}
}
