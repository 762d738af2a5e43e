/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The reference model's arithmetic: see model.h. Plain searches over plain arrays; nothing here
 * looks into the core but model_slab_live(), which has to learn the generations new pages have.
 */

#include "tests/sim/model.h"

#include <stdlib.h>
#include <string.h>

#include "tests/sim/world.h"

void model_free(struct model *m)
{
	for (unsigned i = 0; i < M_SPACES; i++)
		model_space_drop(m, i);
}

void model_space_open(struct model *m, unsigned space, const struct m_space *geometry)
{
	m->space[space] = *geometry;
	m->space[space].used = true;
}

void model_space_drop(struct model *m, unsigned space)
{
	struct m_space *s = &m->space[space];

	for (unsigned slot = 0; slot < M_SLOTS; slot++)
		free(s->slab[slot].pages);
	free(s->names);
	memset(s, 0, sizeof(*s));
}

void model_slab_live(struct world *w, unsigned space, unsigned slot)
{
	struct m_space *s = &w->m.space[space];
	struct m_slab *slab = &s->slab[slot];
	const struct core_slab *cs = &w->c.slabs[slab->core];

	slab->state = CORE_SLAB_LIVE;
	slab->pages = calloc(s->pages_per_slab, sizeof(*slab->pages));
	if (!slab->pages)
		world_fail(w, "out of memory");
	for (uint32_t i = 0; i < s->pages_per_slab; i++) {
		slab->pages[i].gen = w->c.pages[cs->base + i].gen;
		slab->pages[i].owner = M_NONE;
		slab->pages[i].ns = M_NONE;
	}
}

void model_slab_drop(struct model *m, unsigned space, unsigned slot)
{
	struct m_slab *slab = &m->space[space].slab[slot];

	free(slab->pages);
	memset(slab, 0, sizeof(*slab));
}

bool model_share_fits(const struct model *m, uint32_t mine, uint32_t used, uint32_t limit)
{
	uint32_t tenants = 0;

	for (unsigned i = 0; i < M_TENANTS; i++)
		tenants += m->tenant[i].used;
	if (used >= limit)
		return false;
	return tenants == 1 || mine < limit - used;
}

uint64_t model_used_bytes(const struct model *m, int tenant, int device)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < M_SPACES; i++) {
		const struct m_space *s = &m->space[i];
		if (!s->used || s->device != device || (tenant != M_NONE && s->tenant != tenant))
			continue;
		for (unsigned slot = 0; slot < M_SLOTS; slot++) {
			if (s->slab[slot].state != CORE_SLAB_FREE)
				bytes += s->slab_bytes;
		}
	}
	return bytes;
}

uint64_t model_granted_bytes(const struct model *m, int device)
{
	return model_used_bytes(m, M_NONE, device);
}

struct m_page *model_page_at(struct model *m, int space, uint32_t id)
{
	struct m_space *s = &m->space[space];
	uint32_t slot = id / s->pages_per_slab;

	if (slot >= s->slots || !s->slab[slot].pages)
		return NULL;
	return &s->slab[slot].pages[id % s->pages_per_slab];
}

struct m_page *model_page(struct model *m, int space, kvb_page_t name, uint32_t *ret_slot)
{
	struct m_page *p = model_page_at(m, space, KVB_PAGE_ID(name));

	if (!p || p->gen != KVB_PAGE_GEN(name))
		return NULL;
	if (ret_slot)
		*ret_slot = KVB_PAGE_ID(name) / m->space[space].pages_per_slab;
	return p;
}

void model_lease_set(struct model *m, struct m_page *p, int client, uint32_t count, bool pin)
{
	struct m_client *cl = &m->client[client];
	bool lessee = count || pin;

	cl->leases += (uint32_t)lessee - model_leased_by(p, client);
	cl->pins += (uint32_t)pin - p->pins[client];
	p->leases[client] = (uint16_t)count;
	p->pins[client] = pin;
	p->lessees = (uint16_t)((p->lessees & ~(1u << client)) | (uint32_t)lessee << client);
}

void model_page_freed(struct m_page *p)
{
	uint32_t gen = p->gen == UINT32_MAX ? 1 : p->gen + 1;

	memset(p, 0, sizeof(*p));
	p->state = CORE_PAGE_FREE;
	p->gen = gen;
	p->owner = M_NONE;
	p->ns = M_NONE;
}

bool model_stale(const struct world *w, const struct m_page *p)
{
	if (p->epoch != w->m.ns[p->ns].epoch)
		return true;
	return p->expire_s && w->c.now_s >= p->expire_s;
}

uint32_t model_find(const struct world *w, int space, int ns, uint64_t salt,
		    const struct kvb_hash *hash)
{
	const struct m_space *s = &w->m.space[space];

	for (uint32_t slot = 0; slot < s->slots; slot++) {
		const struct m_slab *slab = &s->slab[slot];
		if (slab->state != CORE_SLAB_LIVE)
			continue;
		for (uint32_t i = 0; i < s->pages_per_slab; i++) {
			const struct m_page *p = &slab->pages[i];
			if (p->state == CORE_PAGE_SEALED && p->indexed && p->ns == ns &&
			    p->salt == salt && !memcmp(&p->hash, hash, sizeof(*hash)) &&
			    !model_stale(w, p))
				return slot * s->pages_per_slab + i;
		}
	}
	return CORE_NONE;
}

uint32_t model_under(const struct world *w, int space, int ns, uint64_t salt,
		     const struct kvb_hash *hash)
{
	const struct m_space *s = &w->m.space[space];

	for (uint32_t slot = 0; slot < s->slots; slot++) {
		for (uint32_t i = 0; s->slab[slot].pages && i < s->pages_per_slab; i++) {
			const struct m_page *p = &s->slab[slot].pages[i];
			if ((p->state == CORE_PAGE_SEALED || p->state == CORE_PAGE_ARRIVING) &&
			    p->indexed && p->ns == ns && p->salt == salt &&
			    p->epoch == w->m.ns[ns].epoch && !memcmp(&p->hash, hash, sizeof(*hash)))
				return slot * s->pages_per_slab + i;
		}
	}
	return CORE_NONE;
}

uint64_t model_home(const struct model *m, const struct m_space *s)
{
	const struct m_space *top = s->above == M_NONE ? s : &m->space[s->above];

	return rng_mix(rng_mix(rng_mix(top->stride_bytes + top->regions) + top->tag) +
		       ((uint64_t)top->tenant << 8 | (uint64_t)top->device));
}

uint64_t model_content(const struct m_space *s, const struct model *m, const struct m_page *p)
{
	return rng_mix(rng_mix(rng_mix(p->hash.w[1] + 1) + p->salt) + model_home(m, s) +
		       ((uint64_t)p->ns << 32 | p->epoch)) |
	       1;
}

void model_touch(struct m_space *s, struct m_page *p)
{
	p->listed = true;
	p->order = p->low ? --s->cold : ++s->hot;
}

static bool is_held(const struct m_page *p, int client)
{
	return (p->state == CORE_PAGE_FILLING || p->state == CORE_PAGE_QUARANTINE) &&
	       p->owner == client;
}

uint32_t model_client_held(const struct model *m, int client)
{
	uint32_t n = 0;

	for (unsigned i = 0; i < M_SPACES; i++) {
		const struct m_space *s = &m->space[i];
		for (unsigned slot = 0; s->used && slot < s->slots; slot++) {
			for (uint32_t k = 0; s->slab[slot].pages && k < s->pages_per_slab; k++)
				n += is_held(&s->slab[slot].pages[k], client);
		}
	}
	return n;
}

uint32_t model_member_busy(const struct model *m, int member, unsigned slot)
{
	const struct m_member *mm = &m->member[member];
	const struct m_space *s = &m->space[mm->space];
	uint32_t n = 0;

	for (uint32_t i = 0; s->slab[slot].pages && i < s->pages_per_slab; i++) {
		const struct m_page *p = &s->slab[slot].pages[i];
		n += is_held(p, mm->client) || model_leased_by(p, mm->client);
	}
	return n;
}

bool model_name_is_new(struct m_space *s, kvb_page_t name)
{
	for (uint32_t i = 0; i < s->names_n; i++) {
		if (s->names[i] == name)
			return false;
	}
	if (s->names_n == s->names_room) {
		s->names_room = s->names_room ? 2 * s->names_room : 256;
		s->names = realloc(s->names, s->names_room * sizeof(*s->names));
		if (!s->names)
			abort();
	}
	s->names[s->names_n++] = name;
	return true;
}
