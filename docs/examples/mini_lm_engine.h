/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What mini_lm.c is about: an engine that keeps its KV in pages of the broker. The calls, and why
 * they are in this order, are told there.
 *
 * An engine is made by its owner: options, model and `own` memory set, the rest zero. Nothing here
 * fails for want of a broker.
 */

#include <stdbool.h>
#include <stdint.h>

#include "libkvbroker.h"
#include "mini_lm_digest.h"
#include "mini_lm_model.h"
#include "mini_lm_options.h"

#define ENGINE_OWN_BYTES ((size_t)MODEL_BLOCKS * MODEL_LAYERS * MODEL_BLOCK_BYTES)

/* What a rank holds for the request at hand: pages of blocks 0..engine.paged-1, the first `leased`
 * of them sealed and leased, the others ours to fill. */
struct rank {
	struct kvb_space *space;
	kvb_page_t page[MODEL_BLOCKS];
	uint32_t leased;
};

struct engine {
	struct options options;
	struct model *model;
	uint64_t version; /* updates that the weights have seen */
	float *own;       /* as much as the longest sequence needs */
	struct model_block block[MODEL_BLOCKS];

	struct kvb *kvb; /* NULL: there is no broker now */
	bool lost;       /* a call failed that may not; nothing that was leased is believed */
	uint64_t retry_ns;
	struct rank rank[MODEL_RANKS];
	uint32_t paged;
	uint8_t identity[DIGEST_BYTES];
	uint64_t boot_id;
	uint32_t ns;
	uint64_t epoch; /* that the weights belong to, in this namespace */
};

struct request {
	uint8_t token[MODEL_POSITIONS]; /* the prompt, and behind it the answer */
	uint32_t prompt_tokens, tokens;
	struct kvb_hash hash[MODEL_BLOCKS];
	float logits[MODEL_POSITIONS / 2][MODEL_VOCAB]; /* of each token of the answer */
	bool sealing;
	uint32_t reused, below, sealed, again; /* what is told of it */
};

/* Answers q->token[0..prompt_tokens-1], with a broker if there is one: sets all else of q. */
void engine_answer(struct engine *e, struct request *q);

/* Between two requests, and with options.run: the next version of the weights. */
enum engine_update {
	ENGINE_UPDATE, /* and the broker is told that KV of the old ones is gone */
	ENGINE_FOLLOW, /* another engine of the run has told it */
	ENGINE_FORGET, /* and nobody tells it: a mistake, for tests */
};
void engine_update(struct engine *e, enum engine_update how);

/* While there is no request: has ears for the broker, which may want memory back. */
void engine_idle(struct engine *e);

/* Ends the program: there is nothing to go on with. */
void die(const char *what);
