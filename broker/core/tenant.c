/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Devices, tenants and their budgets.
 *
 * On each device a tenant has min <= high <= max and a weight. What is charged is slabs, from the
 * moment their memory is asked for until the device has taken it back. Two rules keep the promises:
 *
 *   a slab is granted only while used + slab <= max;
 *   what is free never falls below what the minima still promise: free >= sum of (min - used) over
 *   tenants below their min. Memory a tenant does not use of its min is not lent.
 *
 * So a tenant below its min is never refused memory the min promises (I7), in any order of
 * requests. Everything above the minima is lent by weight (grow.c), and what was revoked from one
 * tenant for another is the other's to take for a while: a claim, which only minima come before.
 */

#include "broker/core/internal.h"

int core_device_find(const struct core *c, uint32_t kind, uint32_t ordinal)
{
	for (unsigned i = 0; i < CORE_DEVICES_MAX; i++) {
		const struct core_device *d = &c->h->device[i];

		if (d->state != CORE_DEVICE_NONE && d->kind == kind && d->ordinal == ordinal)
			return (int)i;
	}
	return -ENODEV;
}

int core_device_add(struct core *c, uint32_t kind, uint32_t ordinal, const char *name,
		    uint64_t capacity_bytes, uint64_t handle_bytes)
{
	assert(handle_bytes && (handle_bytes & (handle_bytes - 1)) == 0);
	if (core_device_find(c, kind, ordinal) >= 0)
		return -EEXIST;
	for (unsigned i = 0; i < CORE_DEVICES_MAX; i++) {
		struct core_device *d = &c->h->device[i];

		if (d->state != CORE_DEVICE_NONE)
			continue;
		memset(d, 0, sizeof(*d));
		d->state = CORE_DEVICE_READY;
		d->below = CORE_DEVICE_NONE_BELOW;
		d->kind = kind;
		d->ordinal = ordinal;
		d->capacity_bytes = capacity_bytes / handle_bytes * handle_bytes;
		d->handle_bytes = handle_bytes;
		memcpy(d->name, name, strnlen(name, sizeof(d->name) - 1));
		for (unsigned t = 0; t < c->h->limits.tenants; t++) {
			struct core_budget *b = &c->tenants[t].budget[i];

			b->high_bytes = UINT64_MAX;
			b->max_bytes = UINT64_MAX;
			b->weight = 1;
		}
		return (int)i;
	}
	return -ENOSPC;
}

int core_arena_add(struct core *c, uint32_t node, uint64_t capacity_bytes, uint64_t handle_bytes)
{
	static const char prefix[] = "arena:";
	char name[KVB_NAME_BYTES] = "arena:";
	unsigned at = sizeof(prefix) - 1;

	assert(node < 1000);
	if (node >= 100)
		name[at++] = (char)('0' + node / 100);
	if (node >= 10)
		name[at++] = (char)('0' + node / 10 % 10);
	name[at] = (char)('0' + node % 10);
	return core_device_add(c, CORE_KIND_ARENA, node, name, capacity_bytes, handle_bytes);
}

void core_device_below(struct core *c, unsigned device, unsigned arena)
{
	assert(c->h->device[device].kind != CORE_KIND_ARENA);
	assert(c->h->device[arena].kind == CORE_KIND_ARENA && c->h->limits.transfers);
	c->h->device[device].below = (uint8_t)arena;
}

static uint64_t unmet_min(const struct core_budget *b)
{
	return b->min_bytes > b->used_bytes ? b->min_bytes - b->used_bytes : 0;
}

/* Sum over all tenants but one (or none: -1). min_sum: the minima; unmet: what they still promise.
 */
static void sum_minima(const struct core *c, unsigned device, int except, uint64_t *min_sum,
		       uint64_t *unmet)
{
	*min_sum = 0;
	*unmet = 0;
	for (unsigned t = 0; t < c->h->limits.tenants; t++) {
		const struct core_budget *b = &c->tenants[t].budget[device];

		if (!c->tenants[t].used || (int)t == except)
			continue;
		*min_sum += b->min_bytes; /* each <= capacity, few tenants: cannot overflow */
		*unmet += unmet_min(b);
	}
}

/* Bytes of a device that tenants but one have a claim on. */
static uint64_t sum_claims(const struct core *c, unsigned device, unsigned except)
{
	uint64_t claims = 0;

	for (unsigned t = 0; t < c->h->limits.tenants; t++) {
		const struct core_budget *b = &c->tenants[t].budget[device];

		if (c->tenants[t].used && t != except && b->claim_until_ns > c->now_ns)
			claims += b->claim_bytes;
	}
	return claims;
}

int64_t core_budget_spare(const struct core *c, unsigned tenant, unsigned device)
{
	const struct core_device *d = &c->h->device[device];
	uint64_t min_sum, unmet;

	sum_minima(c, device, (int)tenant, &min_sum, &unmet);
	return (int64_t)(d->capacity_bytes - d->granted_bytes - unmet) -
	       (int64_t)sum_claims(c, device, tenant);
}

int core_budget_admit(const struct core *c, unsigned tenant, unsigned device, uint64_t bytes)
{
	const struct core_device *d = &c->h->device[device];
	struct core_budget after = c->tenants[tenant].budget[device];
	uint64_t min_sum, unmet, free_bytes = d->capacity_bytes - d->granted_bytes;

	if (bytes > after.max_bytes || after.used_bytes > after.max_bytes - bytes)
		return -EDQUOT;
	after.used_bytes += bytes;
	sum_minima(c, device, (int)tenant, &min_sum, &unmet);
	if (bytes > free_bytes || free_bytes - bytes < unmet + unmet_min(&after))
		return -ENOSPC;
	if (after.used_bytes > after.min_bytes &&
	    core_budget_spare(c, tenant, device) < (int64_t)bytes)
		return -ENOSPC;
	return 0;
}

/*
 * Page records are fewer than the smallest pages that would fit the devices. A tenant's min comes
 * with its share of them, or one with tiny pages and no min would keep others from theirs. What a
 * tenant has of its own min is not asked how many pages it makes of it.
 */
bool core_records_admit(const struct core *c, const struct core_space *s)
{
	const struct core_budget *mine = &c->tenants[s->tenant].budget[s->device];
	uint64_t left = c->h->limits.pages, need = s->pages_per_slab;
	uint64_t capacity = 0, promised = 0, min_sum, unmet;

	if (mine->used_bytes + s->slab_bytes <= mine->min_bytes)
		return true;
	for (unsigned d = 0; d < CORE_DEVICES_MAX; d++) {
		capacity += c->h->device[d].capacity_bytes;
		sum_minima(c, d, s->tenant, &min_sum, &unmet);
		promised += unmet;
	}
	if (!promised)
		return true;
	for (uint32_t u = 0; u < c->h->units_high; u += 64)
		left -= (uint64_t)__builtin_popcountll(c->unit_used[u / 64]) * CORE_UNIT_PAGES;
	need = (need + CORE_UNIT_PAGES - 1) / CORE_UNIT_PAGES * CORE_UNIT_PAGES;
	return left >= need &&
	       (double)(left - need) >= (double)promised / (double)capacity * c->h->limits.pages;
}

void core_budget_charge(struct core *c, unsigned tenant, unsigned device, uint64_t bytes)
{
	struct core_budget *b = &c->tenants[tenant].budget[device];

	b->claim_bytes -= b->claim_bytes < bytes ? b->claim_bytes : bytes;
	b->used_bytes += bytes;
	c->h->device[device].granted_bytes += bytes;
	c->h->device[device].slabs++;
}

void core_budget_release(struct core *c, unsigned tenant, unsigned device, uint64_t bytes)
{
	assert(c->tenants[tenant].budget[device].used_bytes >= bytes);
	assert(c->h->device[device].granted_bytes >= bytes);
	c->tenants[tenant].budget[device].used_bytes -= bytes;
	c->h->device[device].granted_bytes -= bytes;
	c->h->device[device].slabs--;
}

int core_tenant_find(const struct core *c, const char *name)
{
	for (unsigned t = 0; t < c->h->limits.tenants; t++) {
		if (c->tenants[t].used && !strncmp(c->tenants[t].name, name, KVB_NAME_BYTES))
			return (int)t;
	}
	return -ENOENT;
}

/* Does what is said of a device, or of every one (-1), concern this one? Arenas are nobody's to
 * name: what tenants have there is lent by weight. */
static bool concerns(const struct core *c, const struct core_tenant_spec *spec, unsigned device)
{
	const struct core_device *d = &c->h->device[device];

	return d->state != CORE_DEVICE_NONE &&
	       (spec->device == (int)device || (spec->device < 0 && d->kind != CORE_KIND_ARENA));
}

/* Can this device keep these promises to this tenant (-1: a new one) as well? */
static int check_budget(const struct core *c, unsigned device, int tenant,
			const struct core_tenant_spec *spec, char *why, size_t why_bytes)
{
	const struct core_device *d = &c->h->device[device];
	uint64_t free_bytes = d->capacity_bytes - d->granted_bytes;
	uint64_t used = tenant < 0 ? 0 : c->tenants[tenant].budget[device].used_bytes;
	uint64_t want = spec->min_bytes > used ? spec->min_bytes - used : 0;
	uint64_t min_sum, unmet, left;

	sum_minima(c, device, tenant, &min_sum, &unmet);
	left = d->capacity_bytes - min_sum;
	if (spec->min_bytes > left)
		return core_say(why, why_bytes, -ENOSPC,
				"asked %s min for tenant %s; %s of %s on %s is unreserved",
				core_size(spec->min_bytes).text, spec->name, core_size(left).text,
				core_size(d->capacity_bytes).text, d->name);
	if (want > free_bytes || free_bytes - want < unmet)
		return core_say(why, why_bytes, -ENOSPC,
				"asked %s min for tenant %s; it uses %s and %s of %s on %s is "
				"free, of which "
				"%s is promised to others: shrink others first",
				core_size(spec->min_bytes).text, spec->name, core_size(used).text,
				core_size(free_bytes).text, core_size(d->capacity_bytes).text,
				d->name, core_size(unmet).text);
	return 0;
}

static int check_spec(const struct core *c, const struct core_tenant_spec *spec, char *why,
		      size_t why_bytes)
{
	if (!spec->name[0] || strnlen(spec->name, KVB_NAME_BYTES) == KVB_NAME_BYTES)
		return core_say(why, why_bytes, -EINVAL, "a tenant's name has 1 to %u bytes",
				KVB_NAME_BYTES - 1);
	if (spec->min_bytes > spec->high_bytes || spec->high_bytes > spec->max_bytes)
		return core_say(why, why_bytes, -EINVAL,
				"tenant %s: min %s, high %s, max %s are not in order", spec->name,
				core_size(spec->min_bytes).text, core_size(spec->high_bytes).text,
				core_size(spec->max_bytes).text);
	if (spec->weight < 1 || spec->weight > 1000)
		return core_say(why, why_bytes, -EINVAL, "tenant %s: weight %u is not in 1..1000",
				spec->name, spec->weight);
	if (spec->device >= (int)CORE_DEVICES_MAX ||
	    (spec->device >= 0 && c->h->device[spec->device].state == CORE_DEVICE_NONE))
		return core_say(why, why_bytes, -EINVAL, "tenant %s: no such device", spec->name);
	return 0;
}

static int tenant_create(struct core *c, const struct core_tenant_spec *spec, char *why,
			 size_t why_bytes)
{
	for (unsigned t = 0; t < c->h->limits.tenants; t++) {
		struct core_tenant *n = &c->tenants[t];

		if (n->used)
			continue;
		memset(n, 0, sizeof(*n));
		n->used = 1;
		c->h->tenants_used++;
		memcpy(n->name, spec->name, sizeof(n->name));
		for (unsigned d = 0; d < CORE_DEVICES_MAX; d++) {
			n->budget[d].high_bytes = UINT64_MAX;
			n->budget[d].max_bytes = UINT64_MAX;
			n->budget[d].weight = 1;
		}
		return (int)t;
	}
	return core_say(why, why_bytes, -ENOSPC, "tenant %s: the table of %u tenants is full",
			spec->name, c->h->limits.tenants);
}

int core_tenant_set(struct core *c, const struct core_tenant_spec *spec, bool dry_run, char *why,
		    size_t why_bytes)
{
	int r = check_spec(c, spec, why, why_bytes);
	int tenant;

	if (r < 0)
		return r;
	tenant = core_tenant_find(c, spec->name);
	for (unsigned d = 0; d < CORE_DEVICES_MAX && !r; d++) {
		if (concerns(c, spec, d))
			r = check_budget(c, d, tenant, spec, why, why_bytes);
	}
	if (r < 0 || dry_run)
		return r < 0 ? r : tenant < 0 ? 0 : tenant;
	if (tenant < 0)
		tenant = tenant_create(c, spec, why, why_bytes);
	if (tenant < 0)
		return tenant;
	c->tenants[tenant].uid = spec->uid;
	for (unsigned d = 0; d < CORE_DEVICES_MAX; d++) {
		struct core_budget *b = &c->tenants[tenant].budget[d];

		if (!concerns(c, spec, d))
			continue;
		b->min_bytes = spec->min_bytes;
		b->high_bytes = spec->high_bytes;
		b->max_bytes = spec->max_bytes;
		b->weight = spec->weight;
		core_budget_converge(c, (unsigned)tenant, d);
	}
	return tenant;
}

int core_tenant_delete(struct core *c, unsigned tenant)
{
	struct core_tenant *t = &c->tenants[tenant];
	bool memory = false;

	assert(t->used);
	if (t->clients)
		return -EBUSY;
	for (unsigned i = 0; i < c->h->limits.spaces; i++) {
		struct core_space *s = &c->spaces[i];

		if (!s->used || s->tenant != tenant)
			continue;
		memory = true;
		while (core_space_shrink_one(c, s, c->revoke_grace_ns))
			;
	}
	if (memory)
		return -EBUSY;
	for (unsigned i = 0; i < c->h->limits.namespaces; i++) {
		if (c->namespaces[i].used && c->namespaces[i].tenant == tenant)
			core_ns_remove(c, i);
	}
	t->used = 0;
	c->h->tenants_used--;
	return 0;
}
