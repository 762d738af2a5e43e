/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The admission filter; see admit.h.
 */

#include "broker/policy/admit.h"

#include <string.h>

#include "broker/core/core.h"

#define BITS_PER_KEY 16u
#define PROBES 2u

static uint32_t settle(uint32_t keys)
{
	uint32_t n = ADMIT_KEYS_MIN;

	while (n < keys && n < ADMIT_KEYS_MAX)
		n <<= 1;
	return n;
}

uint64_t admit_words(uint32_t keys)
{
	return (uint64_t)settle(keys) * BITS_PER_KEY / 64;
}

void admit_init(struct admit *a, uint32_t keys, uint64_t *older, uint64_t *newer)
{
	*a = (struct admit){
		.bits = { older, newer },
		.mask = admit_words(keys) * 64 - 1,
		.keys = settle(keys),
		.newer = 1,
	};
}

/* Chain hashes are as good as random; salt, namespace and epoch have to count too. */
static uint64_t mix(const struct core_key *key)
{
	uint64_t more =
		key->salt ^ ((uint64_t)key->epoch << 32 | (uint32_t)key->space << 16 | key->ns);
	unsigned __int128 product =
		(unsigned __int128)(key->hash.w[0] ^ more) * (key->hash.w[1] | 1);

	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static bool has(const struct admit *a, unsigned set, uint64_t h)
{
	for (unsigned i = 0; i < PROBES; i++, h = h >> 32 | h << 32) {
		uint64_t bit = h & a->mask;

		if (!(a->bits[set][bit / 64] >> (bit % 64) & 1))
			return false;
	}
	return true;
}

static void put(struct admit *a, uint64_t h)
{
	if (a->taken == a->keys) {
		a->newer ^= 1;
		a->taken = 0;
		memset(a->bits[a->newer], 0, (a->mask + 1) / 8);
	}
	a->taken++;
	for (unsigned i = 0; i < PROBES; i++, h = h >> 32 | h << 32) {
		uint64_t bit = h & a->mask;

		a->bits[a->newer][bit / 64] |= 1ull << (bit % 64);
	}
}

bool admit_page(struct admit *a, const struct core_page *page, const struct core_key *key)
{
	uint64_t h = mix(key);

	if (page->hits || has(a, 0, h) || has(a, 1, h))
		return true;
	put(a, h);
	return false;
}
