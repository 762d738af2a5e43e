/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The prefix index: seeds, insertion, removal. See index.h.
 */

#include "broker/core/index.h"

struct core_index_seed core_index_seed(const struct core *c, unsigned space, unsigned ns,
				       uint64_t salt)
{
	const uint64_t *secret = c->h->secret;
	uint64_t who = (uint64_t)space << 32 | ns;
	struct core_index_seed seed;

	seed.a = core_index_mix_mul(secret[0] ^ salt, secret[1] ^ who);
	seed.b = core_index_mix_mul(secret[2] ^ seed.a, secret[3] ^ salt) | 1;
	return seed;
}

void core_index_insert(struct core *c, uint64_t mix, uint32_t page)
{
	uint32_t group = core_index_home_group(c, mix);

	assert(c->h->indexed < c->h->groups * CORE_GROUP_SLOTS);
	for (;;) {
		struct core_group *g = &c->groups[group];
		uint32_t empty = core_index_match_tags(g, 0);

		if (empty) {
			unsigned slot = (unsigned)__builtin_ctz(empty);

			g->tag[slot] = core_index_tag_of(mix);
			g->page[slot] = page;
			c->h->indexed++;
			c->pages[page].flags |= CORE_PAGE_INDEXED;
			return;
		}
		if (g->passed != UINT16_MAX)
			g->passed++;
		group = core_index_next_group(c, group);
	}
}

void core_page_index(struct core *c, uint32_t page)
{
	const struct core_page *p = &c->pages[page];
	struct core_index_seed seed =
		core_index_seed(c, core_slab_of(c, page)->space, p->ns, p->salt);

	core_index_insert(c, core_index_mix(c, seed, &p->hash), page);
}

void core_index_remove(struct core *c, uint32_t page)
{
	struct core_page *p = &c->pages[page];
	struct core_index_seed seed =
		core_index_seed(c, core_slab_of(c, page)->space, p->ns, p->salt);
	uint64_t mix = core_index_mix(c, seed, &p->hash);
	uint32_t group = core_index_home_group(c, mix);

	assert(p->flags & CORE_PAGE_INDEXED);
	for (uint32_t n = 0; n < c->h->groups; n++) {
		struct core_group *g = &c->groups[group];

		for (uint32_t bits = core_index_match_tags(g, core_index_tag_of(mix)); bits;
		     bits &= bits - 1) {
			unsigned slot = (unsigned)__builtin_ctz(bits);

			if (g->page[slot] != page)
				continue;
			g->tag[slot] = 0;
			c->h->indexed--;
			p->flags &= (uint16_t)~CORE_PAGE_INDEXED;
			return;
		}
		assert(g->passed);
		if (g->passed != UINT16_MAX)
			g->passed--;
		group = core_index_next_group(c, group);
	}
	assert(!"an indexed page is in the index");
}
