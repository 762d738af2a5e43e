/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Life of the tables: how large they are, where each lies in the memfd, their first contents.
 *
 * Tables follow each other in one block, each on a page boundary, largest alignment first come. A
 * page record that was never used is all zero, so a fresh memfd costs no memory until slabs come.
 */

#include "broker/core/internal.h"

#define TABLE_ALIGN 4096u

void core_limits_fill(struct core_limits *limits)
{
	if (!limits->pages)
		limits->pages = 1u << 20;
	limits->pages = (limits->pages + CORE_UNIT_PAGES - 1) / CORE_UNIT_PAGES * CORE_UNIT_PAGES;
	if (!limits->leases)
		limits->leases = limits->pages;
	if (!limits->slabs)
		limits->slabs = 4096;
	if (!limits->spaces)
		limits->spaces = 64;
	if (!limits->clients)
		limits->clients = 256;
	if (!limits->members)
		limits->members = 2 * limits->clients;
	if (!limits->tenants)
		limits->tenants = 64;
	if (!limits->namespaces)
		limits->namespaces = 256;
	if (limits->transfers >= CORE_NONE16)
		limits->transfers = CORE_NONE16 - 1;
}

/* Twelve slots a group, filled to four fifths when every page is indexed. */
static uint32_t groups_for(uint32_t pages)
{
	return pages / (CORE_GROUP_SLOTS * 4 / 5) + 2;
}

static uint64_t place(uint64_t *at, uint64_t count, uint64_t bytes_each)
{
	uint64_t offset = *at;

	*at += (count * bytes_each + TABLE_ALIGN - 1) / TABLE_ALIGN * TABLE_ALIGN;
	return offset;
}

/* Fills the header's offsets; returns the size of everything. */
static uint64_t lay_out(struct core_header *h, const struct core_limits *l)
{
	uint32_t units = l->pages / CORE_UNIT_PAGES;
	uint64_t at = 0;

	(void)place(&at, 1, sizeof(struct core_header));
	h->groups = groups_for(l->pages);
	h->off_pages = place(&at, l->pages, sizeof(struct core_page));
	h->off_groups = place(&at, h->groups, sizeof(struct core_group));
	h->off_leases = place(&at, l->leases, sizeof(struct core_lease));
	h->off_free = place(&at, units, sizeof(uint64_t));
	h->off_units = place(&at, units, sizeof(uint16_t));
	h->off_unit_used = place(&at, (units + 63) / 64, sizeof(uint64_t));
	h->off_slabs = place(&at, l->slabs, sizeof(struct core_slab));
	h->off_spaces = place(&at, l->spaces, sizeof(struct core_space));
	h->off_clients = place(&at, l->clients, sizeof(struct core_client));
	h->off_members = place(&at, l->members, sizeof(struct core_member));
	h->off_tenants = place(&at, l->tenants, sizeof(struct core_tenant));
	h->off_namespaces = place(&at, l->namespaces, sizeof(struct core_ns));
	h->off_transfers = place(&at, l->transfers, sizeof(struct core_transfer));
	h->off_sums = place(&at, l->transfers ? l->pages : 0, sizeof(uint32_t));
	return at;
}

uint64_t core_bytes(const struct core_limits *limits)
{
	struct core_limits l = *limits;
	struct core_header h;

	core_limits_fill(&l);
	return lay_out(&h, &l);
}

static void view(struct core *c, void *mem)
{
	char *base = mem;

	c->h = mem;
	c->pages = (void *)(base + c->h->off_pages);
	c->leases = (void *)(base + c->h->off_leases);
	c->groups = (void *)(base + c->h->off_groups);
	c->free_bits = (void *)(base + c->h->off_free);
	c->units = (void *)(base + c->h->off_units);
	c->unit_used = (void *)(base + c->h->off_unit_used);
	c->slabs = (void *)(base + c->h->off_slabs);
	c->spaces = (void *)(base + c->h->off_spaces);
	c->clients = (void *)(base + c->h->off_clients);
	c->members = (void *)(base + c->h->off_members);
	c->tenants = (void *)(base + c->h->off_tenants);
	c->namespaces = (void *)(base + c->h->off_namespaces);
	c->transfers = (void *)(base + c->h->off_transfers);
	c->sums = c->h->limits.transfers ? (void *)(base + c->h->off_sums) : NULL;
}

void core_init(struct core *c, void *mem, const struct core_limits *limits,
	       const uint64_t secret[4], uint64_t boot_id, const struct policy_ops *policy)
{
	struct core_header *h = mem;

	assert((uintptr_t)mem % TABLE_ALIGN == 0);
	memset(c, 0, sizeof(*c));
	h->limits = *limits;
	core_limits_fill(&h->limits);
	assert(h->limits.slabs < CORE_NONE16 && h->limits.clients < CORE_NONE16);
	assert(h->limits.members < CORE_NONE16 && h->limits.namespaces < CORE_NONE16);
	assert(h->limits.spaces < CORE_NONE16 && h->limits.tenants < CORE_NONE16);
	h->bytes = lay_out(h, &h->limits);
	memcpy(h->secret, secret, sizeof(h->secret));
	h->boot_id = boot_id;
	h->lease_free = CORE_NONE;
	h->slab_todo = CORE_NONE16;
	h->member_todo = CORE_NONE16;
	h->version = CORE_STATE_VERSION;
	view(c, mem);
	core_transfers_init(c);
	for (unsigned i = 0; i < CORE_DEVICES_MAX; i++)
		h->device[i].below = CORE_DEVICE_NONE_BELOW;
	c->policy = policy;
	c->now_s = 1;
	c->revoke_grace_ns = CORE_REVOKE_GRACE_NS;
	h->magic = CORE_STATE_MAGIC; /* last: a table without it was never finished */
}

void core_set_time(struct core *c, uint64_t now_ns)
{
	if (now_ns <= c->now_ns)
		return;
	if (!c->h->base_ns)
		c->h->base_ns = now_ns;
	c->now_ns = now_ns;
	c->h->now_ns = now_ns;
	c->now_s = (uint32_t)((now_ns - c->h->base_ns) / 1000000000ull) + 1;
}
