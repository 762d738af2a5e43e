/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What churn's killer and survivor (churn.c) and its victims (churn_worker.c) share: one space, the
 * keys that may be in it, and the bytes that belong under a key.
 */

#include "tools/kvb-bench/bench.h"

#define CHURN_WORKERS 8u
#define CHURN_PAGE_BYTES 4096u
#define CHURN_PAGES 16384u
#define CHURN_CHAINS 2048u /* twice as many blocks as pages: there is eviction all the time */
#define CHURN_CHAIN_BLOCKS 16u

extern const struct kvb_space_params churn_space;

/* A worker's words; it writes, the killer reads. A line each. */
struct churn_worker_words {
	uint64_t ops; /* > 0: at work */
	uint64_t verified;
	uint64_t corrupt;
	uint64_t resv[5];
};

struct churn_shared {
	struct churn_worker_words worker[CHURN_WORKERS];
};

void churn_chain(uint64_t chain, struct kvb_hash ret[CHURN_CHAIN_BLOCKS]);
void churn_page_fill(void *mem, const struct kvb_hash *hash);
bool churn_page_verify(const void *mem, const struct kvb_hash *hash);

/* Connects and works until killed. The counters of earlier workers of the slot are added to. */
void churn_worker(const struct broker *b, struct churn_worker_words *words, uint64_t seed)
	__attribute__((noreturn));
