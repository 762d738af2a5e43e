/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Admission to a tier that wears out: only what has been wanted twice.
 *
 * Most blocks of a prompt are never asked for again, and to write them costs the drive its life and
 * the readers their bandwidth. A page is let in if it was found by a lookup since it was made, or
 * if its key was turned away before: whoever made it a second time would have been glad of it.
 *
 * Keys that were turned away are remembered in two sets of bits, one of which is cleared when the
 * newer has taken `keys` of them: so it is known of at least that many, at 4 bytes each. A key is
 * mistaken for another one about once in forty: then a page is let in once too early.
 *
 * Pure, and the same in the daemon and in kvb-replay --sim.
 */

#include <stdbool.h>
#include <stdint.h>

struct core_key;
struct core_page;

#define ADMIT_KEYS_MIN 4096u
#define ADMIT_KEYS_MAX (4u << 20)

struct admit {
	uint64_t *bits[2]; /* the caller's, zeroed, of admit_words() each */
	uint64_t mask;
	uint32_t keys, taken;
	unsigned newer;
};

/* keys: brought into ADMIT_KEYS_MIN..ADMIT_KEYS_MAX and to a power of two. */
uint64_t admit_words(uint32_t keys);
void admit_init(struct admit *a, uint32_t keys, uint64_t *older, uint64_t *newer);

/* Let it in? If not, its key is remembered. */
bool admit_page(struct admit *a, const struct core_page *page, const struct core_key *key);
