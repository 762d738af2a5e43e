/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Spaces: one arrangement of addresses that its members share.
 *
 * Geometry. Page `id` of region r lies at base(r) + id * stride, with no gap, whatever the stride:
 * so the part of a slab in one region is a whole number of handles and a whole number of pages, the
 * least such number. For a stride that divides the handle that is one handle; a stride with an odd
 * factor f needs f of them.
 *
 * A space belongs to one tenant, hence to one trust domain. It outlives its members: what they
 * sealed stays for those who come back, until the memory is wanted elsewhere.
 *
 * Where its device has an arena, a space comes with another below it, whose slabs lie there: one
 * region, its stride a whole page of the space above. The two end together, when neither has a slab
 * and the upper one no member.
 */

#include "broker/core/internal.h"

#define SLAB_BYTES_WANTED (64ull << 20)
#define SLABS_WANTED 64u

/* Called back at most this often while a space is short of pages. */
#define RECALL_EVERY_NS (10ull * 1000 * 1000)

static uint64_t common_divisor(uint64_t a, uint64_t b)
{
	while (b) {
		uint64_t rest = a % b;

		a = b;
		b = rest;
	}
	return a;
}

/*
 * A call of the driver costs the same for any size of handle. So where regions are few a handle is
 * made of several of the device's, as long as the device still gives many slabs.
 */
static uint64_t choose_handle_bytes(const struct core_device *d, uint32_t regions)
{
	uint64_t bytes = d->handle_bytes;

	while (d->kind == KVB_DEVICE_CUDA && 2 * bytes * regions <= SLAB_BYTES_WANTED &&
	       d->capacity_bytes / (2 * bytes * regions) >= SLABS_WANTED)
		bytes <<= 1;
	return bytes;
}

/* 0, or -EINVAL: no slab of this shape fits the device or the numbers do not make sense. */
static int set_geometry(struct core_space *s, const struct core_device *d, uint32_t regions,
			uint64_t stride_bytes)
{
	uint64_t divisor, pages, handles, slots, handle_bytes;

	if (!regions || regions > KVB_REGIONS_MAX || !stride_bytes || stride_bytes % 64 ||
	    stride_bytes > d->capacity_bytes)
		return -EINVAL;
	handle_bytes = choose_handle_bytes(d, regions);
	divisor = common_divisor(stride_bytes, handle_bytes);
	pages = handle_bytes / divisor;
	handles = stride_bytes / divisor;
	if (handles > d->capacity_bytes / handle_bytes / regions)
		return -EINVAL;
	s->slab_bytes = regions * handles * handle_bytes;
	slots = d->capacity_bytes / s->slab_bytes;
	if (slots > UINT32_MAX / pages) /* a page id has 32 bits */
		slots = UINT32_MAX / pages;
	s->regions = regions;
	s->stride_bytes = stride_bytes;
	s->handle_bytes = handle_bytes;
	s->handles_per_region = (uint32_t)handles;
	s->pages_per_slab = (uint32_t)pages;
	s->slots = slots < KVB_SLOTS_MAX ? (uint32_t)slots : KVB_SLOTS_MAX;
	return 0;
}

#define LOWER_HANDLES_MAX 8u
#define LOWER_WASTE_PART 16u /* of a slab below that may be no page */

/*
 * Below nobody maps pages by their ids, so a slab there need not be without a gap: it is the fewest
 * handles of which hardly anything is left over. 0, or -EINVAL: a page is larger than that.
 */
static int set_geometry_below(struct core_space *s, const struct core_device *d,
			      uint64_t page_bytes)
{
	uint64_t most = d->capacity_bytes / d->handle_bytes, handles = 0, slots;

	for (uint64_t n = 1; n <= most && n <= LOWER_HANDLES_MAX; n++) {
		uint64_t rest = n * d->handle_bytes % page_bytes;

		if (n * d->handle_bytes < page_bytes)
			continue;
		handles = n;
		if (rest <= n * d->handle_bytes / LOWER_WASTE_PART)
			break;
	}
	if (!handles)
		return -EINVAL;
	s->slab_bytes = handles * d->handle_bytes;
	slots = most / handles;
	s->regions = 1;
	s->stride_bytes = page_bytes;
	s->handle_bytes = d->handle_bytes;
	s->handles_per_region = (uint32_t)handles;
	s->pages_per_slab = (uint32_t)(s->slab_bytes / page_bytes);
	s->slots = slots < KVB_SLOTS_MAX ? (uint32_t)slots : KVB_SLOTS_MAX;
	return 0;
}

static int space_find(const struct core *c, unsigned tenant, const struct core_space *like)
{
	for (unsigned i = 0; i < c->h->limits.spaces; i++) {
		const struct core_space *s = &c->spaces[i];

		if (s->used && s->tenant == tenant && s->device == like->device &&
		    s->regions == like->regions && s->stride_bytes == like->stride_bytes &&
		    s->tag == like->tag && s->group == like->group && s->ranks == like->ranks &&
		    s->rank == like->rank)
			return (int)i;
	}
	return -ENOENT;
}

/* A record for a space; NULL: the table is full, or the tenant has its share. */
static struct core_space *space_take(struct core *c, unsigned tenant)
{
	struct core_space *found = NULL;
	uint32_t used = 0, mine = 0;

	for (unsigned i = 0; i < c->h->limits.spaces; i++) {
		struct core_space *s = &c->spaces[i];

		used += s->used;
		mine += s->used && s->tenant == tenant;
		if (!s->used && !found)
			found = s;
	}
	return core_share_fits(c, mine, used, c->h->limits.spaces) ? found : NULL;
}

static int space_create(struct core *c, unsigned tenant, const struct core_space *like)
{
	struct core_space *s = space_take(c, tenant);

	if (!s)
		return -ENOSPC;
	*s = *like;
	s->used = 1;
	s->tenant = (uint16_t)tenant;
	s->member = CORE_NONE16;
	s->cold = CORE_NONE;
	s->hot = CORE_NONE;
	s->ripe_first = CORE_NONE;
	s->ripe_last = CORE_NONE;
	s->below = CORE_NONE16;
	s->above = CORE_NONE16;
	s->used_ns = c->now_ns;
	memset(s->slab_of_slot, 0xff, sizeof(s->slab_of_slot));
	memset(s->touched, 0xff, sizeof(s->touched));
	return (int)core_space_index(c, s);
}

/* Without one (no arena, no record, pages larger than the arena) the upper space serves all the
 * same. */
static void space_create_below(struct core *c, unsigned upper)
{
	struct core_space *s = &c->spaces[upper];
	unsigned arena = c->h->device[s->device].below;
	struct core_space like = {
		.device = (uint8_t)arena,
		.group = s->group,
		.ranks = s->ranks,
		.rank = s->rank,
	};
	int space;

	if (arena == CORE_DEVICE_NONE_BELOW ||
	    set_geometry_below(&like, &c->h->device[arena], s->regions * s->stride_bytes) < 0)
		return;
	space = space_create(c, s->tenant, &like);
	if (space < 0)
		return;
	c->spaces[space].above = (uint16_t)upper;
	s->below = (uint16_t)space;
}

/* A record for a membership, zeroed; NULL: the table is full, or the tenant has its share. */
static struct core_member *member_take(struct core *c, unsigned tenant)
{
	struct core_member *found = NULL;
	uint32_t used = 0, mine = 0;

	for (unsigned i = 0; i < c->h->limits.members; i++) {
		struct core_member *m = &c->members[i];

		/* one that is still on the to-do list would have its link overwritten */
		if (m->used || m->todo) {
			used++;
			mine += m->used && c->clients[m->client].tenant == tenant;
		} else if (!found) {
			found = m;
		}
	}
	if (!found || !core_share_fits(c, mine, used, c->h->limits.members))
		return NULL;
	memset(found, 0, sizeof(*found));
	return found;
}

int core_space_open(struct core *c, unsigned client, const struct core_space_spec *spec)
{
	struct core_client *cl = &c->clients[client];
	struct core_space like = {
		.tag = spec->tag,
		.group = spec->group,
		.ranks = spec->ranks ? spec->ranks : 1,
		.rank = spec->rank,
	};
	int device = core_device_find(c, spec->kind, spec->ordinal);
	struct core_member *m;
	int handle = -ENOSPC, space;

	if (device < 0 || spec->kind == CORE_KIND_ARENA)
		return -ENODEV;
	like.device = (uint8_t)device;
	if (like.ranks > KVB_RANKS_MAX || like.rank >= like.ranks ||
	    (like.ranks == 1 && like.group) ||
	    set_geometry(&like, &c->h->device[device], spec->regions, spec->stride_bytes) < 0)
		return -EINVAL;
	space = space_find(c, cl->tenant, &like);
	if (space >= 0 && core_member_of(c, client, (unsigned)space))
		return core_member_of(c, client, (unsigned)space)->handle;
	for (int h = KVB_SPACES_MAX - 1; h >= 0; h--) {
		if (cl->member[h] == CORE_NONE16)
			handle = h;
	}
	m = handle < 0 ? NULL : member_take(c, cl->tenant);
	if (m && space < 0) {
		space = space_create(c, cl->tenant, &like);
		if (space >= 0)
			space_create_below(c, (unsigned)space);
	}
	if (!m || space < 0)
		return -ENOSPC;

	m->used = 1;
	m->client = (uint16_t)client;
	m->space = (uint16_t)space;
	m->handle = (uint16_t)handle;
	m->space_next = c->spaces[space].member;
	c->spaces[space].member = (uint16_t)core_member_index(c, m);
	c->spaces[space].members++;
	cl->member[handle] = (uint16_t)core_member_index(c, m);
	core_member_kick(c, m);
	return handle;
}

void core_space_try_free(struct core *c, struct core_space *s)
{
	struct core_space *top = s->above == CORE_NONE16 ? s : &c->spaces[s->above];
	struct core_space *low = top->below == CORE_NONE16 ? NULL : &c->spaces[top->below];

	if (top->members || top->slabs || (low && low->slabs))
		return;
	top->used = 0;
	if (low)
		low->used = 0;
}

void core_space_recall(struct core *c, struct core_space *s, const struct core_member *except)
{
	for (uint16_t i = s->member; i != CORE_NONE16; i = c->members[i].space_next) {
		struct core_member *m = &c->members[i];

		if (m == except || !m->magazine ||
		    c->clients[m->client].state != CORE_CLIENT_ATTACHED ||
		    (m->recalled_ns && c->now_ns - m->recalled_ns < RECALL_EVERY_NS))
			continue;
		m->recalled_ns = c->now_ns;
		m->recall = 1;
		core_member_kick(c, m);
	}
}

/* Emptiest slab first; of equals the highest, because allocation prefers the lowest. */
bool core_space_shrink_one(struct core *c, struct core_space *s, uint64_t grace_ns)
{
	struct core_slab *best = NULL;

	for (unsigned slot = s->slots; slot-- > 0;) {
		struct core_slab *slab;

		if (!bit_test(s->live, slot))
			continue;
		slab = &c->slabs[s->slab_of_slot[slot]];
		if (!best || slab->held < best->held ||
		    (slab->held == best->held && slab->free > best->free))
			best = slab;
	}
	if (best)
		core_slab_revoke(c, best, grace_ns);
	return best;
}

int core_space_shrink(struct core *c, unsigned space, uint32_t slabs, uint64_t grace_ns)
{
	uint32_t n = 0;

	assert(space < c->h->limits.spaces && c->spaces[space].used);
	while (n < slabs && core_space_shrink_one(c, &c->spaces[space], grace_ns))
		n++;
	return (int)n;
}
