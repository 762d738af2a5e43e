/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Memory: growth, revocation, and what lies between the core and the device or the clients.
 *
 * The simulator plays the daemon here. It empties core_next_slab() and core_next_member(), sends
 * grants and tells of revocations at once, and lets the answers (created, failed, closed, mapped,
 * not mapped) come late or, for some clients, never.
 */

#include "tests/sim/world.h"

#include <errno.h>

/* ---- growth -------------------------------------------------------------------------------- */

static void adopt_slab(struct world *w, int space, unsigned slot)
{
	struct m_slab *slab = &w->m.space[space].slab[slot];

	world_expect(w, slab->state == CORE_SLAB_FREE, "slot %u is granted twice", slot);
	slab->state = CORE_SLAB_CREATING;
	slab->core = w->c.spaces[space].slab_of_slot[slot];
	world_expect(w,
		     slab->core < w->c.h->limits.slabs &&
			     w->c.slabs[slab->core].state == CORE_SLAB_CREATING,
		     "slot %u was granted without a slab", slot);
}

/* Are slabs, page records or slots of the space exhausted? Then nothing more can be had at all. */
static bool tables_full(const struct world *w, const struct m_space *s)
{
	uint32_t slots = 0, slabs = 0, units = 0,
		 unit_total = w->c.h->limits.pages / CORE_UNIT_PAGES;

	for (unsigned i = 0; i < M_SPACES; i++) {
		const struct m_space *other = &w->m.space[i];
		for (unsigned slot = 0; other->used && slot < M_SLOTS; slot++) {
			if (other->slab[slot].state == CORE_SLAB_FREE)
				continue;
			slabs++;
			slots += other == s;
			units += (other->pages_per_slab + CORE_UNIT_PAGES - 1) / CORE_UNIT_PAGES;
		}
	}
	/* a record still on the list of work for the device is not used again; runs may be broken
	 * up */
	return slots >= s->slots || slabs + 2 >= w->c.h->limits.slabs ||
	       (s->pages_per_slab > CORE_UNIT_PAGES) || units >= unit_total;
}

/* What a tenant has on a device and will keep: nothing that is on its way back. */
static uint64_t settled_bytes(const struct world *w, int tenant, int device)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < M_SPACES; i++) {
		const struct m_space *s = &w->m.space[i];
		if (!s->used || s->tenant != tenant || s->device != device)
			continue;
		for (unsigned slot = 0; slot < M_SLOTS; slot++) {
			const struct m_slab *slab = &s->slab[slot];
			if (slab->state != CORE_SLAB_FREE &&
			    w->c.slabs[slab->core].state < CORE_SLAB_DRAINING)
				bytes += s->slab_bytes;
		}
	}
	return bytes;
}

void op_grow(struct world *w)
{
	uint64_t settled[M_TENANTS];
	int member = world_pick_member(w);
	uint32_t n = rng_range(&w->rng, 1, 4), got = 0;
	uint64_t slots[CORE_SLOT_WORDS] = { 0 };

	if (member == M_NONE)
		return;
	const struct m_member *mm = &w->m.member[member];
	const struct m_space *s = &w->m.space[mm->space];
	const struct m_tenant *t = &w->m.tenant[s->tenant];
	uint64_t min = t->budget[s->device].min_bytes, max = t->budget[s->device].max_bytes;
	uint64_t used = model_used_bytes(&w->m, s->tenant, s->device), free_bytes;
	bool full = tables_full(w, s);

	free_bytes = w->m.device[s->device].capacity_bytes - model_granted_bytes(&w->m, s->device);
	for (int i = 0; i < M_TENANTS; i++)
		settled[i] = settled_bytes(w, i, s->device);
	w->may_revoke = true;
	int r = core_space_grow(&w->c, world_member(w, member), n, slots);
	world_trace(w, (uint64_t)(int64_t)r);
	world_say(w, "grow member %d by %u: %d", member, n, r);
	for (unsigned slot = 0; slot < KVB_SLOTS_MAX; slot++) {
		if (!(slots[slot / 64] >> (slot % 64) & 1))
			continue;
		world_expect(w, slot < s->slots, "slot %u was granted of %u", slot, s->slots);
		adopt_slab(w, mm->space, slot);
		got++;
	}
	world_expect(w, r == -EDQUOT || r == -ENOSPC || (r >= 0 && (uint32_t)r == got && got <= n),
		     "grow by %u: %d with %u slots", n, r, got);
	w->grants += got;
	if (got) {
		world_expect(w, used + got * s->slab_bytes <= max,
			     "I7: tenant %d grew above its max", s->tenant);
		world_expect(w, got * s->slab_bytes <= free_bytes,
			     "device %d is granted twice over", s->device);
	}
	for (int i = 0; i < M_TENANTS; i++) {
		uint64_t left = settled_bytes(w, i, s->device);
		world_expect(w,
			     i == s->tenant || left >= settled[i] ||
				     left >= w->m.tenant[i].budget[s->device].min_bytes,
			     "I7: tenant %d is left less than its min for tenant %d", i, s->tenant);
	}
	if (r == -EDQUOT)
		world_expect(w, used + s->slab_bytes > max, "tenant %d was refused below its max",
			     s->tenant);
	if (!got)
		world_expect(w, full || used + s->slab_bytes > min,
			     "I7: tenant %d was refused (%d) what its min promises", s->tenant, r);
}

void op_shrink(struct world *w)
{
	int member = world_pick_member(w);
	uint32_t n = rng_range(&w->rng, 1, 2), live = 0;

	if (member == M_NONE)
		return;
	int space = w->m.member[member].space;
	const struct m_space *s = &w->m.space[space];
	for (unsigned slot = 0; slot < s->slots; slot++)
		live += s->slab[slot].state == CORE_SLAB_LIVE;
	w->may_revoke = true;
	int r = core_space_shrink(&w->c, (unsigned)space, n, 1000000ull * rnd(w, 3000));
	world_trace(w, (uint64_t)(int64_t)r);
	world_say(w, "shrink space %d by %u: %d", space, n, r);
	world_expect(w, r == (int)(live < n ? live : n), "shrink by %u of %u slabs: %d", n, live,
		     r);
}

/* ---- giving back --------------------------------------------------------------------------- */

/* What an obedient client does when a slab is revoked: gives back what it has there, then says so.
 */
static void give_back(struct world *w, int member, unsigned slot)
{
	const struct m_member *mm = &w->m.member[member];
	struct m_space *s = &w->m.space[mm->space];
	struct core_member *cm = world_member(w, member);

	for (uint32_t i = 0; i < s->pages_per_slab; i++) {
		struct m_page *p = &s->slab[slot].pages[i];
		kvb_page_t name = KVB_PAGE(p->gen, slot * s->pages_per_slab + i);
		if (p->state == CORE_PAGE_FILLING && p->owner == mm->client) {
			struct core_batch b = core_free(&w->c, cm, &name, 1);
			world_expect(w, b.done == 1, "page %#llx is not taken back: %d",
				     (unsigned long long)name, b.status);
			model_page_freed(p);
		}
		if (!model_leased_by(p, mm->client))
			continue;
		if (p->pins[mm->client])
			world_expect(w, core_pin(&w->c, cm, &name, 1, false).done == 1,
				     "UNPIN refused");
		for (uint32_t k = p->leases[mm->client]; k; k--)
			world_expect(w, core_release(&w->c, cm, &name, 1).done == 1,
				     "RELEASE refused");
		model_lease_set(&w->m, p, mm->client, 0, false);
	}
	model_absorb(w);
}

void op_reclaim(struct world *w)
{
	int member = world_pick_member(w), want;
	uint32_t busy, have;

	if (member == M_NONE)
		return;
	struct m_member *mm = &w->m.member[member];
	struct m_space *s = &w->m.space[mm->space];
	unsigned slot = rnd(w, s->slots + 1);
	for (unsigned i = 0; i < s->slots; i++) { /* rather one that is revoked */
		if (mm->told[i] && mm->sent[i] && chance(w, 2))
			slot = i;
	}
	if (slot < s->slots && s->slab[slot].state == CORE_SLAB_DRAINING && mm->sent[slot] &&
	    chance(w, 2))
		give_back(w, member, slot);
	if (slot >= s->slots || !mm->sent[slot] || s->slab[slot].state != CORE_SLAB_DRAINING) {
		busy = 0;
		want = -ENOENT;
	} else {
		busy = model_member_busy(&w->m, member, slot);
		want = busy ? -EBUSY : 0;
	}
	int r = core_reclaim_ack(&w->c, world_member(w, member), slot, &have);
	world_trace(w, (uint64_t)(int64_t)r);
	world_say(w, "reclaim member %d slot %u: %d", member, slot, r);
	world_expect(w, r == want && have == busy,
		     "RECLAIM_ACK of slot %u: %d with %u busy, the model %d "
		     "with %u",
		     slot, r, have, want, busy);
	if (!r)
		mm->sent[slot] = mm->acked[slot] = mm->refused[slot] = mm->told[slot] = false;
}

/* The policies of the daemon for a client that does not give back in time. */
void op_overdue(struct world *w)
{
	unsigned i = core_slab_overdue(&w->c, 0);

	for (unsigned space = 0; space < M_SPACES; space++) {
		for (unsigned slot = 0; slot < M_SLOTS; slot++) {
			const struct m_slab *slab = &w->m.space[space].slab[slot];
			bool due =
				slab->state == CORE_SLAB_DRAINING && slab->deadline_ns <= w->now_ns;
			world_expect(w, !due || i <= slab->core, "slab %u is overdue and not named",
				     slab->core);
			world_expect(w, slab->state == CORE_SLAB_FREE || slab->core != i || due,
				     "slab %u is named overdue and is not", i);
		}
	}
	if (i == CORE_NONE16)
		return;
	world_say(w, "slab %u is overdue", i);
	unsigned space = w->c.slabs[i].space, slot = w->c.slabs[i].slot;
	if (chance(w, 2)) {
		core_slab_extend(&w->c, i, 1000000000ull);
		w->m.space[space].slab[slot].deadline_ns = w->now_ns + 1000000000ull;
		return;
	}
	for (unsigned k = 0; k < M_MEMBERS; k++) {
		const struct m_member *mm = &w->m.member[k];
		if (mm->used && mm->space == (int)space && mm->sent[slot] &&
		    w->m.client[mm->client].state == CORE_CLIENT_ATTACHED)
			life_close_client(w, mm->client);
	}
}

/* ---- the device and the clients' sockets --------------------------------------------------- */

void op_device(struct world *w)
{
	for (unsigned i; (i = core_next_slab(&w->c)) != CORE_NONE16;) {
		const struct core_slab *slab = &w->c.slabs[i];
		bool creating = slab->state == CORE_SLAB_CREATING;
		world_trace(w, i);
		world_expect(w, creating || slab->state == CORE_SLAB_CLOSING,
			     "the device is asked for slab %u in state %u", i, slab->state);
		world_later(w,
			    !creating                       ? EVENT_CLOSED
			    : chance(w, w->cfg.fail_one_in) ? EVENT_FAILED
							    : EVENT_CREATED,
			    i, slab->slot, slab->space);
	}
}

/* Once nobody is owed anything, everybody has been sent every slab and told of every revocation. */
static void expect_nobody_owed(struct world *w)
{
	for (unsigned i = 0; i < M_MEMBERS; i++) {
		const struct m_member *mm = &w->m.member[i];
		const struct m_space *s = &w->m.space[mm->space];
		if (!mm->used || w->m.client[mm->client].state != CORE_CLIENT_ATTACHED)
			continue;
		for (unsigned slot = 0; slot < s->slots; slot++) {
			world_expect(w, s->slab[slot].state != CORE_SLAB_LIVE || mm->sent[slot],
				     "member %u was never sent slot %u", i, slot);
			world_expect(w,
				     s->slab[slot].state != CORE_SLAB_DRAINING || !mm->sent[slot] ||
					     mm->told[slot],
				     "member %u was never told that slot %u is revoked", i, slot);
		}
	}
}

void op_members(struct world *w)
{
	for (struct core_member *cm; (cm = core_next_member(&w->c));) {
		unsigned i = core_member_index(&w->c, cm);
		struct m_member *mm = &w->m.member[i];
		const struct m_space *s = &w->m.space[mm->space];
		world_trace(w, i);
		world_expect(w, mm->used && w->m.client[mm->client].state == CORE_CLIENT_ATTACHED,
			     "member %u is owed something and is gone", i);
		cm->recall = 0;
		for (unsigned slot = 0; slot < s->slots; slot++) {
			if (cm->revoke[slot / 64] >> (slot % 64) & 1) {
				world_expect(w,
					     mm->sent[slot] &&
						     s->slab[slot].state == CORE_SLAB_DRAINING,
					     "member %u is told of slot %u for no reason", i, slot);
				cm->revoke[slot / 64] &= ~(1ull << (slot % 64));
				mm->told[slot] = true;
			}
			if (s->slab[slot].state != CORE_SLAB_LIVE || mm->sent[slot])
				continue;
			world_expect(w, core_slot_state(&w->c, cm, slot) == CORE_SLOT_PENDING,
				     "slot %u waits to be sent and is not pending", slot);
			core_grant_sent(&w->c, cm, slot);
			mm->sent[slot] = true;
			if (!chance(w, w->cfg.never_one_in))
				world_later(
					w, chance(w, w->cfg.refuse_one_in) ? EVENT_NACK : EVENT_ACK,
					i, slot, w->m.client[mm->client].life);
		}
	}
	expect_nobody_owed(w);
}

static void grant_answered(struct world *w, const struct event *e)
{
	struct m_member *mm = &w->m.member[e->index];
	bool mapped = e->kind == EVENT_ACK;

	if (!mm->used || w->m.client[mm->client].life != e->life ||
	    w->m.client[mm->client].state != CORE_CLIENT_ATTACHED || !mm->sent[e->slot] ||
	    mm->acked[e->slot] || mm->refused[e->slot])
		return; /* it left, or gave the memory up meanwhile */
	world_say(w, "member %u %s slot %u", e->index, mapped ? "maps" : "refuses", e->slot);
	core_grant_acked(&w->c, world_member(w, (int)e->index), e->slot, mapped);
	mm->acked[e->slot] = mapped;
	mm->refused[e->slot] = !mapped;
	if (w->m.space[mm->space].slab[e->slot].state == CORE_SLAB_LIVE)
		world_expect(w,
			     core_slot_state(&w->c, world_member(w, (int)e->index), e->slot) ==
				     (mapped ? CORE_SLOT_READY : CORE_SLOT_EMPTY),
			     "slot %u is in the wrong state after its answer", e->slot);
}

/* A max that was lowered while memory was on its way is kept when it comes. */
static bool above_max(const struct world *w, unsigned slab)
{
	const struct core_space *s = &w->c.spaces[w->c.slabs[slab].space];

	return model_used_bytes(&w->m, s->tenant, s->device) >
	       w->m.tenant[s->tenant].budget[s->device].max_bytes;
}

void event_run(struct world *w, const struct event *e)
{
	world_trace(w, e->kind);
	switch (e->kind) {
	case EVENT_CREATED:
		w->may_revoke = above_max(w, e->index);
		core_slab_created(&w->c, e->index);
		model_slab_live(w, e->life, e->slot);
		break;
	case EVENT_FAILED:
		core_slab_failed(&w->c, e->index);
		model_slab_drop(&w->m, e->life, e->slot);
		break;
	case EVENT_CLOSED:
		core_slab_closed(&w->c, e->index);
		model_slab_drop(&w->m, e->life, e->slot);
		break;
	case EVENT_ACK:
	case EVENT_NACK:
		grant_answered(w, e);
		break;
	case EVENT_COPIED:
		tier_copied(w, e->index);
		break;
	case EVENT_STORED:
		store_ended(w, e->index);
		break;
	case EVENT_DEAD:
		if (w->m.client[e->index].state == CORE_CLIENT_LEAVING &&
		    w->m.client[e->index].life == e->life)
			life_dead_client(w, (int)e->index);
		break;
	default:
		world_fail(w, "an event of kind %d", e->kind);
	}
}

void op_work(struct world *w)
{
	bool more = core_work(&w->c, w->cfg.work_units);

	world_trace(w, more);
	world_say(w, "work: %s", more ? "more" : "dry");
	if (more)
		return;
	model_absorb(w);
	world_expect_dry(w);
}
