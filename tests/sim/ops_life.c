/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Who is there: time, clients, their spaces and namespaces, tenants.
 */

#include "tests/sim/world.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

void op_time(struct world *w)
{
	uint64_t step_ns = chance(w, 4) ? 1000000000ull * rnd(w, 5) : 1000000ull * rnd(w, 500);

	if (chance(w, 20)) { /* a clock that steps back is ignored */
		core_set_time(&w->c, w->now_ns - step_ns % w->now_ns);
		world_expect(w, w->c.now_ns == w->now_ns, "the core's clock went back");
		return;
	}
	w->now_ns += step_ns;
	core_set_time(&w->c, w->now_ns);
}

/* ---- clients ------------------------------------------------------------------------------- */

static int pick_tenant(struct world *w)
{
	for (unsigned n = 0, at = rnd(w, M_TENANTS); n < M_TENANTS; n++) {
		if (w->m.tenant[(at + n) % M_TENANTS].used)
			return (int)((at + n) % M_TENANTS);
	}
	return M_NONE;
}

void op_client_open(struct world *w)
{
	int tenant = pick_tenant(w), r;
	bool room = false;

	if (tenant == M_NONE)
		return;
	for (unsigned i = 0; i < w->c.h->limits.clients; i++)
		room |= w->m.client[i].state == CORE_CLIENT_FREE;
	r = core_client_open(&w->c, (unsigned)tenant, w->m.tenant[tenant].uid, (int32_t)w->step,
			     "client");
	world_trace(w, (uint64_t)(int64_t)r);
	world_say(w, "client of tenant %d: %d", tenant, r);
	world_expect(w, room ? r >= 0 && r < M_CLIENTS : r == -ENOSPC, "client: %d", r);
	if (r < 0)
		return;
	struct m_client *cl = &w->m.client[r];
	world_expect(w, cl->state == CORE_CLIENT_FREE, "client %d is there twice", r);
	memset(cl, 0, sizeof(*cl));
	cl->state = CORE_CLIENT_ATTACHED;
	cl->life = ++w->lives;
	cl->tenant = tenant;
	for (unsigned h = 0; h < KVB_SPACES_MAX; h++)
		cl->member[h] = M_NONE;
	world_expect(w, w->c.clients[r].leases_max > 0, "client %d may lease nothing", r);
}

void life_close_client(struct world *w, int client)
{
	world_say(w, "client %d closes", client);
	core_client_close(&w->c, (unsigned)client);
	if (chance(w, 3))
		core_client_close(&w->c, (unsigned)client);
	w->m.client[client].state = CORE_CLIENT_LEAVING;
	w->m.client[client].ns_n = 0;
	world_later(w, EVENT_DEAD, (unsigned)client, 0, w->m.client[client].life);
}

void life_dead_client(struct world *w, int client)
{
	world_say(w, "client %d is dead", client);
	core_client_dead(&w->c, (unsigned)client);
	w->m.client[client].state = CORE_CLIENT_DEAD;
}

void op_client_close(struct world *w)
{
	int client = world_pick_client(w, CORE_CLIENT_ATTACHED);

	if (client != M_NONE)
		life_close_client(w, client);
}

/* ---- spaces -------------------------------------------------------------------------------- */

static const struct {
	uint32_t regions;
	uint64_t stride_bytes;
	uint32_t pages_per_slab; /* with handles of 2 MiB */
	uint32_t handles;        /* a region */
} shapes[] = {
	{ 1, 256 << 10, 8, 1 },  { 1, 64 << 10, 32, 1 }, { 4, 128 << 10, 16, 1 },
	{ 1, 192 << 10, 32, 3 }, { 2, 2 << 20, 1, 1 },   { 1, 320 << 10, 32, 5 },
	{ 1, 16 << 10, 128, 1 }, { 1, 3 << 20, 2, 3 },   { 1, 512, 4096, 1 },
};
#define SHAPES (sizeof(shapes) / sizeof(shapes[0]))

static int model_space_find(const struct world *w, int tenant, int device, unsigned shape,
			    uint64_t tag)
{
	for (int i = 0; i < M_SPACES; i++) {
		const struct m_space *s = &w->m.space[i];
		if (s->used && s->tenant == tenant && s->device == device &&
		    s->regions == shapes[shape].regions &&
		    s->stride_bytes == shapes[shape].stride_bytes && s->tag == tag)
			return i;
	}
	return M_NONE;
}

static bool space_tables_full(const struct world *w, const struct m_client *cl, int space)
{
	bool full = true;
	uint32_t spaces = 0, members = 0, my_spaces = 0, my_members = 0;

	for (unsigned h = 0; h < KVB_SPACES_MAX; h++)
		full &= cl->member[h] != M_NONE;
	for (unsigned i = 0; i < M_SPACES; i++) {
		spaces += w->m.space[i].used;
		my_spaces += w->m.space[i].used && w->m.space[i].tenant == cl->tenant;
	}
	for (unsigned i = 0; i < w->c.h->limits.members; i++) {
		const struct m_member *mm = &w->m.member[i];

		members += mm->used || w->c.members[i].todo;
		my_members += mm->used && w->m.client[mm->client].tenant == cl->tenant;
	}
	return full || !model_share_fits(&w->m, my_members, members, w->c.h->limits.members) ||
	       (space == M_NONE &&
		!model_share_fits(&w->m, my_spaces, spaces, w->c.h->limits.spaces));
}

/* The space that came with one on a device with an arena, if there was room for it. */
static void adopt_below(struct world *w, unsigned upper)
{
	struct m_space *s = &w->m.space[upper];
	unsigned low = w->c.spaces[upper].below;
	int arena = w->m.device[s->device].below;
	struct m_space geometry = {
		.tenant = s->tenant,
		.device = arena,
		.above = (int)upper,
		.below = M_NONE,
		.regions = 1,
		.stride_bytes = s->regions * s->stride_bytes,
	};
	const struct core_space *cs;

	if (low == CORE_NONE16)
		return;
	world_expect(w, arena != M_NONE && low < M_SPACES && !w->m.space[low].used,
		     "space %u has space %u below it", upper, low);
	/* how many handles make a slab is the core's to choose: nobody maps it */
	cs = &w->c.spaces[low];
	geometry.slab_bytes = cs->handles_per_region * w->m.device[arena].handle_bytes;
	geometry.pages_per_slab = (uint32_t)(geometry.slab_bytes / geometry.stride_bytes);
	if (geometry.slab_bytes)
		geometry.slots =
			(uint32_t)(w->m.device[arena].capacity_bytes / geometry.slab_bytes);
	world_expect(w,
		     geometry.pages_per_slab && geometry.slots &&
			     cs->pages_per_slab == geometry.pages_per_slab &&
			     cs->slots == geometry.slots && cs->slab_bytes == geometry.slab_bytes,
		     "space %u below: %u pages a slab of %llu bytes, %u slots", low,
		     cs->pages_per_slab, (unsigned long long)cs->slab_bytes, cs->slots);
	s->below = (int)low;
	model_space_open(&w->m, low, &geometry);
}

static void adopt_space(struct world *w, unsigned space, int tenant, int device, unsigned shape,
			uint64_t tag)
{
	const struct core_space *cs = &w->c.spaces[space];
	uint64_t handle_bytes = w->m.device[device].handle_bytes;
	struct m_space geometry = {
		.tenant = tenant,
		.device = device,
		.above = M_NONE,
		.below = M_NONE,
		.regions = shapes[shape].regions,
		.stride_bytes = shapes[shape].stride_bytes,
		.tag = tag,
		.pages_per_slab = shapes[shape].pages_per_slab,
		.slab_bytes = handle_bytes * shapes[shape].handles * shapes[shape].regions,
	};

	geometry.slots = (uint32_t)(w->m.device[device].capacity_bytes / geometry.slab_bytes);
	world_expect(w,
		     cs->pages_per_slab == geometry.pages_per_slab &&
			     cs->slab_bytes == geometry.slab_bytes &&
			     cs->handles_per_region == shapes[shape].handles &&
			     cs->slots == geometry.slots,
		     "space of %u x %llu: %u pages a slab of %llu bytes, %u slots",
		     geometry.regions, (unsigned long long)geometry.stride_bytes,
		     cs->pages_per_slab, (unsigned long long)cs->slab_bytes, cs->slots);
	world_expect(w, !w->m.space[space].used && geometry.slots <= M_SLOTS,
		     "space %u is there twice", space);
	model_space_open(&w->m, space, &geometry);
	adopt_below(w, space);
}

void op_space_open(struct world *w)
{
	int client = world_pick_client(w, CORE_CLIENT_ATTACHED), device = (int)rnd(w, w->m.opens);
	unsigned shape = w->cfg.small_pages && chance(w, 2) ? SHAPES - 1 : rnd(w, SHAPES - 1);
	uint64_t tag = rnd(w, 2);

	if (client == M_NONE)
		return;
	if (w->cfg.traffic) {
		shape = rnd(w, 2);
		tag = 0;
	}
	struct m_client *cl = &w->m.client[client];
	int space = model_space_find(w, cl->tenant, device, shape, tag), known = M_NONE;
	bool fits = w->m.device[device].capacity_bytes / w->m.device[device].handle_bytes >=
		    shapes[shape].handles * shapes[shape].regions;
	bool full = space_tables_full(w, cl, space);
	int r = core_space_open(
		&w->c, (unsigned)client,
		&(struct core_space_spec){ .kind = KVB_DEVICE_HOST,
					   .ordinal = (uint32_t)device,
					   .regions = shapes[shape].regions,
					   .stride_bytes = shapes[shape].stride_bytes,
					   .tag = tag });
	world_trace(w, (uint64_t)(int64_t)r);
	world_say(w, "client %d opens space of shape %u: %d", client, shape, r);
	for (unsigned h = 0; h < KVB_SPACES_MAX; h++) {
		if (space != M_NONE && cl->member[h] != M_NONE &&
		    w->m.member[cl->member[h]].space == space)
			known = (int)h;
	}
	if (known != M_NONE || !fits || full) {
		int want = !fits ? -EINVAL : known != M_NONE ? known : -ENOSPC;
		world_expect(w, r == want, "space: %d, the model has %d", r, want);
		return;
	}
	world_expect(w, r >= 0, "space: %d", r);
	struct core_member *cm = core_member_get(&w->c, (unsigned)client, (uint32_t)r);
	world_expect(w, cm && cl->member[r] == M_NONE, "handle %d of client %d", r, client);
	if (space == M_NONE)
		adopt_space(w, cm->space, cl->tenant, device, shape, tag);
	else
		world_expect(w, cm->space == space, "client %d joined space %u, not %d", client,
			     cm->space, space);
	cl->member[r] = (int)core_member_index(&w->c, cm);
	w->m.member[cl->member[r]] = (struct m_member){
		.used = true, .client = client, .space = cm->space, .handle = (uint32_t)r
	};
}

void op_space_close(struct world *w)
{
	int member = world_pick_member(w), want = 0;

	if (member == M_NONE)
		return;
	struct m_member *mm = &w->m.member[member];
	const struct m_space *s = &w->m.space[mm->space];
	unsigned client = (unsigned)mm->client;
	for (unsigned slot = 0; slot < s->slots; slot++) {
		if (model_member_busy(&w->m, member, slot))
			want = -EBUSY;
	}
	world_expect(w, core_space_close(&w->c, client, KVB_SPACES_MAX + rnd(w, 3)) == -ENOENT,
		     "a space that is not there was closed");
	int r = core_space_close(&w->c, client, mm->handle);
	world_trace(w, (uint64_t)(int64_t)r);
	world_say(w, "client %u closes space handle %u: %d", client, mm->handle, r);
	world_expect(w, r == want, "closing a space: %d, the model has %d", r, want);
	if (r)
		return;
	world_expect(w, !core_member_get(&w->c, client, mm->handle),
		     "a closed handle still leads somewhere");
	w->m.client[client].member[mm->handle] = M_NONE;
	memset(mm, 0, sizeof(*mm));
}

/* ---- namespaces ---------------------------------------------------------------------------- */

/* Somebody has it open, or a page is sealed under it: its record can not be given to another. */
static bool ns_in_use(const struct world *w, int ns)
{
	for (unsigned i = 0; i < M_CLIENTS; i++) {
		for (uint32_t h = 0; h < w->m.client[i].ns_n; h++) {
			if (w->m.client[i].ns[h] == ns)
				return true;
		}
	}
	for (unsigned i = 0; i < M_SPACES; i++) {
		const struct m_space *s = &w->m.space[i];
		for (unsigned slot = 0; s->used && slot < s->slots; slot++) {
			for (uint32_t k = 0; s->slab[slot].pages && k < s->pages_per_slab; k++) {
				const struct m_page *p = &s->slab[slot].pages[k];
				if ((p->state == CORE_PAGE_SEALED ||
				     p->state == CORE_PAGE_ARRIVING) &&
				    p->ns == ns)
					return true;
			}
		}
	}
	return false;
}

void op_ns_open(struct world *w)
{
	int client = world_pick_client(w, CORE_CLIENT_ATTACHED), r, ns;
	struct kvb_ns_open open = { .flags = chance(w, 3) ? KVB_NS_ADMIN : 0 };
	struct kvb_ns_info info;
	uint8_t digest = (uint8_t)rnd(w, 4);
	bool fresh;

	if (client == M_NONE)
		return;
	struct m_client *cl = &w->m.client[client];
	memset(open.digest, digest, sizeof(open.digest));
	if (chance(w, 20)) {
		open.flags |= 1u << rng_range(&w->rng, 1, 31);
		world_expect(w, core_ns_open(&w->c, (unsigned)client, &open, &info) == -EINVAL,
			     "unknown flags of NS_OPEN were taken");
		return;
	}
	r = core_ns_open(&w->c, (unsigned)client, &open, &info);
	world_trace(w, (uint64_t)(int64_t)r);
	if (r == -ENOSPC) {
		uint32_t used = 0, mine = 0;

		for (unsigned i = 0; i < w->c.h->limits.namespaces; i++) {
			const struct m_ns *n = &w->m.ns[i];

			if (!n->used)
				continue;
			world_expect(w, n->tenant != cl->tenant || n->digest != digest,
				     "namespace %u is there and was refused", i);
			used += ns_in_use(w, (int)i);
			mine += ns_in_use(w, (int)i) && n->tenant == cl->tenant;
		}
		world_expect(w, !model_share_fits(&w->m, mine, used, w->c.h->limits.namespaces),
			     "there is a namespace for it and it was refused");
		return;
	}
	world_expect(w, r == 0 && info.ns < KVB_NS_MAX && info.ns <= cl->ns_n,
		     "NS_OPEN: %d, handle %u", r, info.ns);
	ns = core_ns_get(&w->c, (unsigned)client, info.ns);
	world_expect(w, ns >= 0 && ns < M_NAMESPACES, "handle %u leads to namespace %d", info.ns,
		     ns);
	struct m_ns *mn = &w->m.ns[ns];
	if (mn->used && (mn->tenant != cl->tenant || mn->digest != digest)) {
		world_expect(w, !ns_in_use(w, ns), "namespace %d was taken from its users", ns);
		mn->used = false;
	}
	fresh = !mn->used;
	if (fresh)
		*mn = (struct m_ns){ true, cl->tenant, (uint32_t)info.epoch, digest };
	world_expect(w, info.epoch == mn->epoch, "namespace %d is in epoch %llu, the model has %u",
		     ns, (unsigned long long)info.epoch, mn->epoch);
	if (info.ns == cl->ns_n)
		cl->ns_admin[cl->ns_n++] = false;
	cl->ns[info.ns] = ns;
	cl->ns_admin[info.ns] |= open.flags & KVB_NS_ADMIN;
	world_expect(w, !!(info.flags & KVB_NS_ADMIN) == cl->ns_admin[info.ns],
		     "rights of handle %u", info.ns);
	if (fresh && w->cfg.store_room && chance(w, 2))
		store_remembers(w, ns);
}

void op_epoch_bump(struct world *w)
{
	int client = world_pick_client(w, CORE_CLIENT_ATTACHED), handle, r;
	uint64_t epoch = 0;

	if (client == M_NONE)
		return;
	const struct m_client *cl = &w->m.client[client];
	world_expect(w,
		     core_epoch_bump(&w->c, (unsigned)client, cl->ns_n + rnd(w, 40), &epoch) ==
			     -ENOENT,
		     "a namespace that is not open was bumped");
	handle = world_pick_ns(w, client);
	if (handle == M_NONE)
		return;
	r = core_epoch_bump(&w->c, (unsigned)client, (uint32_t)handle, &epoch);
	world_trace(w, (uint64_t)(int64_t)r);
	world_say(w, "client %d bumps handle %d: %d", client, handle, r);
	world_expect(w, r == (cl->ns_admin[handle] ? 0 : -EPERM), "EPOCH_BUMP: %d", r);
	if (!r)
		world_expect(w, epoch == ++w->m.ns[cl->ns[handle]].epoch,
			     "I6: epoch %llu after a bump", (unsigned long long)epoch);
}

void op_ns_bump(struct world *w)
{
	unsigned ns = rnd(w, M_NAMESPACES);

	if (!w->m.ns[ns].used)
		return;
	core_ns_bump(&w->c, ns);
	w->m.ns[ns].epoch++;
}

/* ---- tenants ------------------------------------------------------------------------------- */

/* What is promised or used on a device, with `tenant` (or, -1, one more) at a minimum of `min`. */
static uint64_t promised(const struct world *w, int device, int tenant, uint64_t min,
			 bool count_used)
{
	uint64_t sum = tenant == M_NONE ? min : 0;

	for (int i = 0; i < M_TENANTS; i++) {
		uint64_t used = count_used ? model_used_bytes(&w->m, i, device) : 0;
		uint64_t own = i == tenant ? min : w->m.tenant[i].budget[device].min_bytes;
		if (w->m.tenant[i].used)
			sum += used > own ? used : own;
	}
	return sum;
}

static uint64_t pick_bytes(struct world *w, uint64_t capacity_bytes)
{
	uint64_t eighths = rnd(w, 9);

	return chance(w, 10) ? rng_next(&w->rng)
			     : capacity_bytes / 8 * eighths / rng_range(&w->rng, 1, 4);
}

/* What is said of every device is not said of arenas. */
static bool concerns(const struct world *w, const struct core_tenant_spec *spec, int device)
{
	return spec->device == device || (spec->device < 0 && device < (int)w->m.opens);
}

static int predict_tenant_set(const struct world *w, const struct core_tenant_spec *spec,
			      int tenant)
{
	uint32_t tenants = 0;

	if (spec->min_bytes > spec->high_bytes || spec->high_bytes > spec->max_bytes ||
	    !spec->weight || spec->weight > 1000)
		return -EINVAL;
	for (int d = 0; d < (int)w->m.devices; d++) {
		uint64_t capacity = w->m.device[d].capacity_bytes;
		if (!concerns(w, spec, d))
			continue;
		if (spec->min_bytes > capacity ||
		    promised(w, d, tenant, spec->min_bytes, false) > capacity ||
		    promised(w, d, tenant, spec->min_bytes, true) > capacity)
			return -ENOSPC;
	}
	for (int i = 0; i < M_TENANTS; i++)
		tenants += w->m.tenant[i].used;
	return tenant == M_NONE && tenants == w->c.h->limits.tenants ? -ENOSPC : 0;
}

void op_tenant_set(struct world *w)
{
	struct core_tenant_spec spec = { .device = (int)rnd(w, w->m.devices + 1) - 1 };
	uint64_t capacity = w->m.device[spec.device < 0 ? 0 : spec.device].capacity_bytes;
	bool dry_run = chance(w, 5);
	char why[256] = "";
	int tenant = M_NONE, want, r;

	snprintf(spec.name, sizeof(spec.name), "t%u", rnd(w, M_TENANTS));
	spec.uid = 1000;
	spec.min_bytes = chance(w, 2) ? 0 : pick_bytes(w, capacity);
	spec.high_bytes = chance(w, 2) ? UINT64_MAX : pick_bytes(w, capacity);
	spec.max_bytes = chance(w, 2) ? UINT64_MAX : pick_bytes(w, capacity);
	if (w->cfg.traffic && !chance(w, 4)) {
		spec.min_bytes = 0;
		spec.high_bytes = spec.max_bytes = UINT64_MAX;
	}
	spec.weight = chance(w, 15) ? rnd(w, 2) * 1001 : rng_range(&w->rng, 1, 1000);
	for (int i = 0; i < M_TENANTS; i++) {
		if (w->m.tenant[i].used && !strcmp(w->m.tenant[i].name, spec.name))
			tenant = i;
	}
	want = predict_tenant_set(w, &spec, tenant);
	w->may_revoke = true;
	r = core_tenant_set(&w->c, &spec, dry_run, why, sizeof(why));
	world_trace(w, (uint64_t)(int64_t)r);
	world_say(w, "tenant %s: %d %s", spec.name, r, why);
	/* a full table is found out only by doing it */
	if (dry_run && want == -ENOSPC && r >= 0)
		return;
	world_expect(w, want ? r == want : r >= 0, "tenant %s: %d (%s), the model has %d",
		     spec.name, r, why, want);
	world_expect(w, r >= 0 || why[0], "tenant %s was refused without a word", spec.name);
	if (r < 0 || dry_run)
		return;
	world_expect(w, tenant == M_NONE ? !w->m.tenant[r].used : r == tenant, "tenant %s is %d",
		     spec.name, r);
	struct m_tenant *t = &w->m.tenant[r];
	if (tenant == M_NONE) {
		memset(t, 0, sizeof(*t));
		t->used = true;
		t->uid = spec.uid;
		memcpy(t->name, spec.name, sizeof(t->name));
		for (unsigned d = 0; d < M_DEVICES; d++)
			t->budget[d].high_bytes = t->budget[d].max_bytes = UINT64_MAX;
	}
	for (int d = 0; d < (int)w->m.devices; d++) {
		if (!concerns(w, &spec, d))
			continue;
		t->budget[d].min_bytes = spec.min_bytes;
		t->budget[d].high_bytes = spec.high_bytes;
		t->budget[d].max_bytes = spec.max_bytes;
	}
	world_expect(w, core_tenant_find(&w->c, spec.name) == r, "tenant %s is not found",
		     spec.name);
}

void op_tenant_delete(struct world *w)
{
	int tenant = pick_tenant(w), want = 0;

	if (tenant == M_NONE)
		return;
	for (unsigned i = 0; i < M_CLIENTS; i++) {
		if (w->m.client[i].state != CORE_CLIENT_FREE && w->m.client[i].tenant == tenant)
			want = -EBUSY;
	}
	w->may_revoke = !want;
	for (unsigned i = 0; i < M_SPACES; i++) {
		if (w->m.space[i].used && w->m.space[i].tenant == tenant)
			want = -EBUSY;
	}
	int r = core_tenant_delete(&w->c, (unsigned)tenant);
	world_trace(w, (uint64_t)(int64_t)r);
	world_expect(w, r == want, "deleting tenant %d: %d, the model has %d", tenant, r, want);
	if (r)
		return;
	w->m.tenant[tenant].used = false;
	for (unsigned i = 0; i < M_NAMESPACES; i++) {
		if (w->m.ns[i].tenant == tenant)
			w->m.ns[i].used = false;
	}
}
