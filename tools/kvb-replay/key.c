/* SPDX-License-Identifier: Apache-2.0 */

/* The stamp of a page: see key.h. */

#include <string.h>

#include "tools/kvb-replay/key.h"

#define STEP 0x9e3779b97f4a7c15ull
#define CHUNK_WORDS                                                                                \
	512 /* compared at once: the difference is searched for only when there is one */

static uint64_t seed_of(const struct kvb_hash *key, uint32_t region)
{
	return key_mix(key->w[0] ^ key_mix(key->w[1] + region));
}

static inline uint64_t word_at(uint64_t seed, uint64_t i)
{
	uint64_t x = seed + i * STEP;

	return x ^ (x >> 29);
}

void key_stamp(void *page, size_t bytes, const struct kvb_hash *key, uint32_t region)
{
	uint64_t *word = page;
	uint64_t seed = seed_of(key, region);

	for (size_t i = 0; i < bytes / 8; i++)
		word[i] = word_at(seed, i);
}

static size_t first_difference(const uint64_t *word, size_t from, size_t to, uint64_t seed)
{
	for (size_t i = from; i < to; i++) {
		uint64_t diff = word[i] ^ word_at(seed, i);

		if (diff)
			return i * 8 + (size_t)__builtin_ctzll(diff) / 8;
	}
	return to * 8; /* another process wrote between the two looks: the last byte looked at */
}

size_t key_check(const void *page, size_t bytes, const struct kvb_hash *key, uint32_t region)
{
	const uint64_t *word = page;
	uint64_t seed = seed_of(key, region);
	size_t words = bytes / 8;

	for (size_t from = 0; from < words; from += CHUNK_WORDS) {
		size_t to = from + CHUNK_WORDS < words ? from + CHUNK_WORDS : words;
		uint64_t diff = 0;

		for (size_t i = from; i < to; i++)
			diff |= word[i] ^ word_at(seed, i);
		if (diff) {
			size_t at = first_difference(word, from, to, seed);

			return at < bytes ? at : bytes - 1;
		}
	}
	return bytes;
}
