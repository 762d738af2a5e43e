/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The prefix index: key -> page.
 *
 * Open addressing over groups of one cache line: twelve one-byte tags beside twelve page indices.
 * A key's home group and tag come from a mix keyed with the boot's secret and with what the daemon
 * knows of the caller (space, hence trust domain), so no client can aim at another's group. A probe
 * is one compare of all tags; a tag that fits sends us to the page record, which holds the whole
 * key: nothing is a hit before all of it was compared.
 *
 * A group that was full when a key came by counts it in `passed`; a lookup goes on to the next
 * group only while that is not zero. Removal takes the count back, so there are no tombstones and
 * nothing to rebuild. A count that ever saturates stays.
 *
 * The table is sized so that all pages fill it to four fifths: insertion always finds room.
 */

#include "broker/core/internal.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

/* Folded 64x64 -> 128 bit product: every bit of the result depends on every bit of both. */
static inline uint64_t mix_mul(uint64_t a, uint64_t b)
{
	unsigned __int128 product = (unsigned __int128)a * b;

	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

struct core_index_seed core_index_seed(const struct core *c, unsigned space, unsigned ns, uint64_t salt)
{
	const uint64_t *secret = c->h->secret;
	uint64_t who = (uint64_t)space << 32 | ns;
	struct core_index_seed seed;

	seed.a = mix_mul(secret[0] ^ salt, secret[1] ^ who);
	seed.b = mix_mul(secret[2] ^ seed.a, secret[3] ^ salt) | 1;
	return seed;
}

uint64_t core_index_mix(const struct core *c, struct core_index_seed seed, const struct kvb_hash *hash)
{
	uint64_t x = mix_mul(hash->w[0] + seed.a, hash->w[1] + seed.b);

	return mix_mul(x ^ c->h->secret[2], x ^ c->h->secret[3] ^ hash->w[1]);
}

static inline uint32_t home_group(const struct core *c, uint64_t mix)
{
	return (uint32_t)(((unsigned __int128)mix * c->h->groups) >> 64);
}

static inline uint8_t tag_of(uint64_t mix)
{
	uint8_t tag = (uint8_t)mix;

	return tag ? tag : 1;
}

static inline uint32_t next_group(const struct core *c, uint32_t group)
{
	return group + 1 == c->h->groups ? 0 : group + 1;
}

/* Bit i: slot i of the group carries this tag (0: is empty). */
static inline uint32_t match_tags(const struct core_group *g, uint8_t tag)
{
#ifdef __SSE2__
	__m128i tags = _mm_load_si128((const __m128i *)(const void *)g);

	return (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(tags, _mm_set1_epi8((char)tag))) & 0xfff;
#else
	uint32_t bits = 0;

	for (unsigned i = 0; i < CORE_GROUP_SLOTS; i++)
		bits |= (uint32_t)(g->tag[i] == tag) << i;
	return bits;
#endif
}

void core_index_prefetch(const struct core *c, uint64_t mix)
{
	__builtin_prefetch(&c->groups[home_group(c, mix)]);
}

uint32_t core_index_candidate(const struct core *c, uint64_t mix)
{
	const struct core_group *g = &c->groups[home_group(c, mix)];
	uint32_t bits = match_tags(g, tag_of(mix));

	return bits ? g->page[__builtin_ctz(bits)] : CORE_NONE;
}

static inline bool key_equal(const struct core *c, uint32_t page, const struct core_key *key)
{
	const struct core_page *p = &c->pages[page];

	return p->hash.w[0] == key->hash.w[0] && p->hash.w[1] == key->hash.w[1] &&
	       p->salt == key->salt && p->ns == key->ns && p->epoch == key->epoch &&
	       core_slab_of(c, page)->space == key->space;
}

uint32_t core_index_find(const struct core *c, uint64_t mix, const struct core_key *key)
{
	uint32_t group = home_group(c, mix);
	uint8_t tag = tag_of(mix);

	for (uint32_t n = 0; n < c->h->groups; n++) {
		const struct core_group *g = &c->groups[group];

		for (uint32_t bits = match_tags(g, tag); bits; bits &= bits - 1) {
			uint32_t page = g->page[__builtin_ctz(bits)];

			if (key_equal(c, page, key))
				return page;
		}
		if (!g->passed)
			break;
		group = next_group(c, group);
	}
	return CORE_NONE;
}

void core_index_insert(struct core *c, uint64_t mix, uint32_t page)
{
	uint32_t group = home_group(c, mix);

	assert(c->h->indexed < c->h->groups * CORE_GROUP_SLOTS);
	for (;;) {
		struct core_group *g = &c->groups[group];
		uint32_t empty = match_tags(g, 0);

		if (empty) {
			unsigned slot = (unsigned)__builtin_ctz(empty);

			g->tag[slot] = tag_of(mix);
			g->page[slot] = page;
			c->h->indexed++;
			c->pages[page].flags |= CORE_PAGE_INDEXED;
			return;
		}
		if (g->passed != UINT16_MAX)
			g->passed++;
		group = next_group(c, group);
	}
}

void core_index_remove(struct core *c, uint32_t page)
{
	struct core_page *p = &c->pages[page];
	struct core_index_seed seed = core_index_seed(c, core_slab_of(c, page)->space, p->ns, p->salt);
	uint64_t mix = core_index_mix(c, seed, &p->hash);
	uint32_t group = home_group(c, mix);

	assert(p->flags & CORE_PAGE_INDEXED);
	for (uint32_t n = 0; n < c->h->groups; n++) {
		struct core_group *g = &c->groups[group];

		for (uint32_t bits = match_tags(g, tag_of(mix)); bits; bits &= bits - 1) {
			unsigned slot = (unsigned)__builtin_ctz(bits);

			if (g->page[slot] != page)
				continue;
			g->tag[slot] = 0;
			c->h->indexed--;
			p->flags &= (uint8_t)~CORE_PAGE_INDEXED;
			return;
		}
		assert(g->passed);
		if (g->passed != UINT16_MAX)
			g->passed--;
		group = next_group(c, group);
	}
	assert(!"an indexed page is in the index");
}
