/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * From a block's id to its key and to the bytes of its page.
 *
 * A trace names blocks by small numbers, the broker by 128-bit hashes. key_of() maps one to the
 * other by two fixed bijective mixes, so that the same id is the same key in every run and every
 * process and no two ids share one. It hides nothing: traces are public.
 *
 * A page is stamped with a stream of 64-bit words that depends on the key, the region and the
 * position: word i is a bijective function of seed + i * odd constant. A page of another key, a
 * page of another region, a page shifted by any number of words or an old page all differ in nearly
 * every word. The stream is plain adds, shifts and exclusive-ors: compilers make vectors of it, and
 * it runs at the speed of memory.
 */

#include <stddef.h>
#include <stdint.h>

#include "uapi/kvbroker.h"

/* A bijection of 64 bits with no visible structure (two rounds of xor-shift-multiply). */
static inline uint64_t key_mix(uint64_t x)
{
	x ^= x >> 32;
	x *= 0xd6e8feb86659fd93ull;
	x ^= x >> 32;
	x *= 0xd6e8feb86659fd93ull;
	x ^= x >> 32;
	return x;
}

static inline struct kvb_hash key_of(uint64_t id)
{
	return (struct kvb_hash){ .w = { key_mix(id + 0x9e3779b97f4a7c15ull),
					 key_mix(id ^ 0x2545f4914f6cdd1dull) } };
}

/* Writes one region of a page. bytes: a multiple of 64, at an address that is one too. */
void key_stamp(void *page, size_t bytes, const struct kvb_hash *key, uint32_t region);

/* Offset of the first byte that is not key_stamp()'s, or `bytes` when every one is. */
size_t key_check(const void *page, size_t bytes, const struct kvb_hash *key, uint32_t region);
