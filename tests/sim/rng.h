/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The only source of chance in a history: xoshiro256** seeded by splitmix64. A history must be the
 * same on every machine, so neither rand() nor the clock has a place here.
 */

#include <stdint.h>

struct rng {
	uint64_t s[4];
};

static inline uint64_t rng_mix(uint64_t x)
{
	x ^= x >> 30;
	x *= 0xbf58476d1ce4e5b9ull;
	x ^= x >> 27;
	x *= 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

static inline void rng_init(struct rng *r, uint64_t seed)
{
	for (int i = 0; i < 4; i++) {
		seed += 0x9e3779b97f4a7c15ull;
		r->s[i] = rng_mix(seed);
	}
}

static inline uint64_t rng_next(struct rng *r)
{
	uint64_t x = r->s[1] * 5, result = ((x << 7) | (x >> 57)) * 9, t = r->s[1] << 17;

	r->s[2] ^= r->s[0];
	r->s[3] ^= r->s[1];
	r->s[1] ^= r->s[2];
	r->s[0] ^= r->s[3];
	r->s[2] ^= t;
	r->s[3] = (r->s[3] << 45) | (r->s[3] >> 19);
	return result;
}

/* 0 .. n - 1; 0 for n = 0. The bias of the modulus does not matter here. */
static inline uint32_t rng_below(struct rng *r, uint32_t n)
{
	return n ? (uint32_t)(rng_next(r) % n) : 0;
}

static inline uint32_t rng_range(struct rng *r, uint32_t low, uint32_t high)
{
	return low + rng_below(r, high - low + 1);
}

/* True once in `n` times. */
static inline int rng_once_in(struct rng *r, uint32_t n)
{
	return rng_below(r, n) == 0;
}
