/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The transformer of mini_lm.c: multi-head attention with rotary positions, RMS norms, gated MLPs,
 * weights made from a seed. Bytes are tokens.
 *
 * It exists so that KV bytes are real and an answer is exact: one thread, one token at a time,
 * every sum in one order whatever was computed before. The same binary on the same machine gives
 * the same bits for the same prompt, so a single wrong byte of KV anywhere in the prefix shows in
 * the logits. Attention is made sharp enough that a page that is wrong shows in the words too.
 *
 * It knows nothing of the broker. Where KV lies is told with every call: `struct model_block`.
 */

#include <stdint.h>

enum {
	MODEL_LAYERS = 4,
	MODEL_HEADS = 4,
	MODEL_HEAD_FLOATS = 16,
	MODEL_HIDDEN = MODEL_HEADS * MODEL_HEAD_FLOATS,
	MODEL_MLP = 160,
	MODEL_VOCAB = 256,
	MODEL_POSITIONS = 4096, /* longest sequence, prompt and answer */
	MODEL_BLOCK_TOKENS = 16,
	MODEL_BLOCKS = MODEL_POSITIONS / MODEL_BLOCK_TOKENS,
	MODEL_RANKS = 2, /* parts its heads can be split into, at most */
};

/* One layer's K and V of one block, all ranks together: K[token][head][], behind it V the same. */
#define MODEL_BLOCK_BYTES (2u * MODEL_BLOCK_TOKENS * MODEL_HIDDEN * (uint32_t)sizeof(float))

/* Where the KV of 16 tokens lies. Rank r of `ranks` has heads r * HEADS / ranks and on, and of them
 * MODEL_BLOCK_BYTES / ranks a layer. */
struct model_block {
	float *kv[MODEL_LAYERS][MODEL_RANKS];
};

struct model;

/* The weights of a seed, or NULL without memory; free() ends it. */
struct model *model_create(uint64_t seed);

/* Training has gone a step on: all weights change a little, as the number of the step says. */
void model_update(struct model *model);

/* The weights, for whoever digests them. */
const void *model_weights(const struct model *model, uint64_t *ret_bytes);

/* One token: writes its K and V into the block of its position, and reads all before it. logits
 * (MODEL_VOCAB of them) may be NULL. */
void model_forward(const struct model *model, const struct model_block *blocks, uint32_t ranks,
		   uint32_t token, uint32_t position, float *logits);
