/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Growth, and whose memory makes room for it.
 *
 * What tenant.c admits is granted at once. When it does not, slabs are revoked, in this order:
 *
 *   1. of spaces without a member (caches nobody has open), least recently used first, from any
 *      tenant that stays at or above its min, the asker's own included;
 *   2. of tenants above their high;
 *   3. of the tenant that has most above its min for its weight, as long as it keeps, after the
 *      loss, no less for its weight than the asker has after the gain. So shares settle by weight
 *      and do not swing back.
 *
 * 2 and 3 only serve an asker that is not above its own high. A tenant at its max can only be
 * served from its own spaces without members. Revocation takes time: the asker asks again.
 *
 * In an arena it is the broker that asks, for a space below another; such a space is idle when the
 * one above it has no member. There a tenant also shares with itself: a space that has nothing to
 * write to takes from the tenant's largest, until they are within a slab of each other.
 */

#include "broker/core/internal.h"

#define CLAIM_NS (1000ull * 1000 * 1000) /* a claim outlives the revocation by this much */

/* What a tenant has left on a device once what is being revoked from it has gone. */
static uint64_t settled(const struct core_budget *b)
{
	return b->used_bytes - b->draining_bytes;
}

static bool has_live(const struct core_space *s)
{
	for (unsigned w = 0; w < CORE_SLOT_WORDS; w++) {
		if (s->live[w])
			return true;
	}
	return false;
}

static bool may_lose(const struct core_budget *b, uint64_t bytes)
{
	return settled(b) >= bytes && settled(b) - bytes >= b->min_bytes;
}

/* Nobody uses it now. */
static bool is_idle(const struct core *c, const struct core_space *s)
{
	return !s->members && (s->above == CORE_NONE16 || !c->spaces[s->above].members);
}

/* Rule 1. own_only: the asker is at its max. */
static struct core_space *idle_space(const struct core *c, const struct core_space *asker,
				     bool own_only)
{
	struct core_space *best = NULL;

	for (unsigned i = 0; i < c->h->limits.spaces; i++) {
		struct core_space *s = &c->spaces[i];
		bool own = s->tenant == asker->tenant;

		if (!s->used || !is_idle(c, s) || s == asker || s->device != asker->device ||
		    !has_live(s))
			continue;
		if (!own && (own_only ||
			     !may_lose(&c->tenants[s->tenant].budget[s->device], s->slab_bytes)))
			continue;
		if (!best || s->used_ns < best->used_ns)
			best = s;
	}
	return best;
}

/* In an arena: the largest other space of the asker's tenant that stays the larger one. */
static struct core_space *largest_sibling(const struct core *c, const struct core_space *asker)
{
	uint64_t most = (asker->slabs + 1) * asker->slab_bytes;
	struct core_space *best = NULL;

	for (unsigned i = 0; asker->above != CORE_NONE16 && i < c->h->limits.spaces; i++) {
		struct core_space *s = &c->spaces[i];
		uint64_t left = (s->slabs ? s->slabs - 1 : 0) * s->slab_bytes;

		if (!s->used || s == asker || s->tenant != asker->tenant ||
		    s->device != asker->device || !has_live(s) || left < most)
			continue;
		best = s;
		most = left + 1;
	}
	return best;
}

/* Bytes above min for each unit of weight, `delta` slabs' bytes from now. */
static double share(const struct core_budget *b, int64_t delta)
{
	double above = (double)settled(b) + (double)delta - (double)b->min_bytes;

	return above / b->weight;
}

/* Rules 2 and 3: a space of the tenant to take from, whose slab that tenant can lose; or NULL. */
static const struct core_space *richest_space(const struct core *c, const struct core_space *asker)
{
	const struct core_budget *mine = &c->tenants[asker->tenant].budget[asker->device];
	double floor = share(mine, (int64_t)asker->slab_bytes), most = 0;
	const struct core_space *best = NULL;
	bool best_high = false;

	if (settled(mine) > mine->high_bytes)
		return NULL;
	for (unsigned i = 0; i < c->h->limits.spaces; i++) {
		const struct core_space *s = &c->spaces[i];
		const struct core_budget *b = &c->tenants[s->tenant].budget[asker->device];
		bool high = settled(b) > b->high_bytes;
		double left = share(b, -(int64_t)s->slab_bytes);

		if (!s->used || s->device != asker->device || s->tenant == asker->tenant ||
		    !has_live(s) || !may_lose(b, s->slab_bytes) || (!high && left < floor))
			continue;
		if (!best || high > best_high || (high == best_high && left > most)) {
			best = s;
			best_high = high;
			most = left;
		}
	}
	return best;
}

/* The space of a tenant, with slabs no larger than that, which misses one least: longest unused. */
static struct core_space *coldest_space(const struct core *c, unsigned tenant, unsigned device,
					uint64_t slab_bytes_max)
{
	struct core_space *best = NULL;

	for (unsigned i = 0; i < c->h->limits.spaces; i++) {
		struct core_space *s = &c->spaces[i];

		if (s->used && s->tenant == tenant && s->device == device && has_live(s) &&
		    s->slab_bytes <= slab_bytes_max && (!best || s->used_ns < best->used_ns))
			best = s;
	}
	return best;
}

/* What the asker will find once everything that is being revoked has come back. */
static int64_t coming(const struct core *c, const struct core_space *asker, bool own_only)
{
	if (own_only)
		return (int64_t)c->tenants[asker->tenant].budget[asker->device].draining_bytes;
	return core_budget_spare(c, asker->tenant, asker->device) +
	       (int64_t)c->h->device[asker->device].draining_bytes;
}

/*
 * Starts revoking until about `bytes` are on their way, and claims them: else whoever asks first
 * when they come would have them, the one they were revoked from for instance. False: there is
 * nothing to hope for.
 */
static bool make_room(struct core *c, const struct core_space *asker, uint64_t bytes, bool own_only)
{
	struct core_budget *mine = &c->tenants[asker->tenant].budget[asker->device];
	int64_t found;

	while (coming(c, asker, own_only) < (int64_t)bytes) {
		struct core_space *s = idle_space(c, asker, own_only);
		const struct core_space *rich;

		if (!s && !own_only) {
			rich = richest_space(c, asker);
			s = rich ? coldest_space(c, rich->tenant, asker->device, rich->slab_bytes)
				 : NULL;
		}
		if (!s)
			s = largest_sibling(c, asker);
		if (!s)
			break;
		core_space_shrink_one(c, s, c->revoke_grace_ns);
	}
	found = coming(c, asker, own_only);
	if (found < (int64_t)asker->slab_bytes)
		return false;
	mine->claim_bytes = found < (int64_t)bytes ? (uint64_t)found : bytes;
	mine->claim_until_ns = c->now_ns + c->revoke_grace_ns + CLAIM_NS;
	return true;
}

int core_space_add_slabs(struct core *c, struct core_space *s, uint32_t slabs,
			 uint64_t slots[CORE_SLOT_WORDS])
{
	uint32_t n = 0;
	int r = 0;

	if (c->h->device[s->device].draining) {
		c->tenants[s->tenant].refusals++;
		return -ENOSPC;
	}
	for (; n < slabs && s->slabs < s->slots; n++) {
		int slab;

		r = core_budget_admit(c, s->tenant, s->device, s->slab_bytes);
		if (r < 0)
			break;
		slab = core_records_admit(c, s) ? core_slab_create(c, s) : -ENOSPC;
		if (slab < 0)
			return n ? (int)n : slab;
		core_budget_charge(c, s->tenant, s->device, s->slab_bytes);
		if (slots)
			bit_set(slots, c->slabs[slab].slot);
	}
	if (n || !slabs)
		return (int)n;
	if (!r) /* every slot is taken */
		return -ENOSPC;
	if (make_room(c, s, (slabs - n) * s->slab_bytes, r == -EDQUOT))
		return 0;
	c->tenants[s->tenant].refusals++;
	return r;
}

int core_space_grow(struct core *c, struct core_member *m, uint32_t slabs,
		    uint64_t slots[CORE_SLOT_WORDS])
{
	return core_space_add_slabs(c, &c->spaces[m->space], slabs, slots);
}

void core_device_drain(struct core *c, unsigned device, bool drain)
{
	c->h->device[device].draining = drain;
	for (unsigned i = 0; drain && i < c->h->limits.slabs; i++) {
		struct core_slab *slab = &c->slabs[i];

		if (slab->state == CORE_SLAB_LIVE && c->spaces[slab->space].device == device)
			core_slab_revoke(c, slab, c->revoke_grace_ns);
	}
}

void core_budget_converge(struct core *c, unsigned tenant, unsigned device)
{
	const struct core_budget *b = &c->tenants[tenant].budget[device];

	while (settled(b) > b->max_bytes) {
		struct core_space *s = coldest_space(c, tenant, device, UINT64_MAX);

		if (!s)
			break;
		core_space_shrink_one(c, s, c->revoke_grace_ns);
	}
}
