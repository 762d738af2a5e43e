/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The three digests of mini_lm.c, all SHA-256: which bytes a namespace is about, which tokens a
 * block stands for, what came out. The first two decide what an engine takes for its own: a weak
 * hash there is a wrong answer some day.
 */

#include <stdbool.h>
#include <stdint.h>

#include "kvbroker.h"

#define DIGEST_BYTES 32

/* Bytes that go into a digest, one after the other. */
struct digest_part {
	const void *bytes;
	uint64_t n;
};

/* Of all parts and their lengths, so that no two lists of parts are the same digest. False: no
 * memory. */
bool digest_make(const struct digest_part *parts, uint32_t n, uint8_t ret[DIGEST_BYTES]);

/* The chain: of a block and, through `before`, of all tokens before it. before is zero for the
 * first one. False: no memory. */
bool digest_chain(const struct kvb_hash *before, const uint8_t *tokens, uint32_t n,
		  struct kvb_hash *ret);
