/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The prefix index: key -> page. The half that a lookup runs, inline; index.c has the rest.
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

/* What keys of one batch have in common, mixed with the boot's secret. */
struct core_index_seed {
	uint64_t a, b;
};

struct core_index_seed core_index_seed(const struct core *c, unsigned space, unsigned ns,
				       uint64_t salt);
void core_index_insert(struct core *c, uint64_t mix, uint32_t page);
void core_index_remove(struct core *c, uint32_t page); /* by the page's own key */

/* Folded 64x64 -> 128 bit product: every bit of the result depends on every bit of both. */
static inline uint64_t core_index_mix_mul(uint64_t a, uint64_t b)
{
	unsigned __int128 product = (unsigned __int128)a * b;

	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t core_index_mix(const struct core *c, struct core_index_seed seed,
				      const struct kvb_hash *hash)
{
	uint64_t x = core_index_mix_mul(hash->w[0] + seed.a, hash->w[1] + seed.b);

	return core_index_mix_mul(x ^ c->h->secret[2], x ^ c->h->secret[3] ^ hash->w[1]);
}

static inline uint32_t core_index_home_group(const struct core *c, uint64_t mix)
{
	return (uint32_t)(((unsigned __int128)mix * c->h->groups) >> 64);
}

static inline uint8_t core_index_tag_of(uint64_t mix)
{
	uint8_t tag = (uint8_t)mix;

	return tag ? tag : 1;
}

static inline uint32_t core_index_next_group(const struct core *c, uint32_t group)
{
	return group + 1 == c->h->groups ? 0 : group + 1;
}

/* Bit i: slot i of the group carries this tag (0: is empty). */
static inline uint32_t core_index_match_tags(const struct core_group *g, uint8_t tag)
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

static inline void core_index_prefetch(const struct core *c, uint64_t mix)
{
	__builtin_prefetch(&c->groups[core_index_home_group(c, mix)]);
}

/* First page of the home group whose tag fits, to fetch its record early; CORE_NONE. */
static inline uint32_t core_index_candidate(const struct core *c, uint64_t mix)
{
	const struct core_group *g = &c->groups[core_index_home_group(c, mix)];
	uint32_t bits = core_index_match_tags(g, core_index_tag_of(mix));

	return bits ? g->page[__builtin_ctz(bits)] : CORE_NONE;
}

static inline bool core_index_key_equal(const struct core *c, uint32_t page,
					const struct core_key *key)
{
	const struct core_page *p = &c->pages[page];

	return p->hash.w[0] == key->hash.w[0] && p->hash.w[1] == key->hash.w[1] &&
	       p->salt == key->salt && p->ns == key->ns && p->epoch == key->epoch &&
	       core_slab_of(c, page)->space == key->space;
}

static inline uint32_t core_index_find(const struct core *c, uint64_t mix,
				       const struct core_key *key)
{
	uint32_t group = core_index_home_group(c, mix);
	uint8_t tag = core_index_tag_of(mix);

	for (uint32_t n = 0; n < c->h->groups; n++) {
		const struct core_group *g = &c->groups[group];

		for (uint32_t bits = core_index_match_tags(g, tag); bits; bits &= bits - 1) {
			uint32_t page = g->page[__builtin_ctz(bits)];

			if (core_index_key_equal(c, page, key))
				return page;
		}
		if (!g->passed)
			break;
		group = core_index_next_group(c, group);
	}
	return CORE_NONE;
}
