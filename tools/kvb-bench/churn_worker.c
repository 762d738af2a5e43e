/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A client that lives to be killed: at any moment it holds unsealed pages, half filled ones, pages
 * of its magazine, leases of others' pages and leases of its own, and has entries under way.
 *
 * It never ends by itself: whatever the broker answers that it should not is bench_die(), which the
 * killer notices as an end that it did not cause. Short answers are no error: the space is always
 * full and everybody takes from it.
 */

#include <signal.h>
#include <string.h>
#include <sys/prctl.h>

#include "tools/kvb-bench/churn.h"

#define KEPT_MAX 256u /* pages, and leases, that it holds over time */
#define MAGAZINE_GETS 8u

const struct kvb_space_params churn_space = { .stride_bytes = CHURN_PAGE_BYTES,
					      .tag = 0x636875726e };

struct kept {
	kvb_page_t page[KEPT_MAX];
	uint32_t n;
};

struct worker_state {
	struct client c;
	struct churn_worker_words *words;
	uint64_t random;
	struct kept unsealed, leased;
};

void churn_chain(uint64_t chain, struct kvb_hash ret[CHURN_CHAIN_BLOCKS])
{
	for (uint64_t i = 0; i < CHURN_CHAIN_BLOCKS; i++)
		ret[i] = random_hash(chain * CHURN_CHAIN_BLOCKS + i);
}

void churn_page_fill(void *mem, const struct kvb_hash *hash)
{
	uint64_t *word = mem;

	for (uint32_t i = 0; i < CHURN_PAGE_BYTES / sizeof(*word); i++)
		word[i] = hash->w[i % 2] + i;
}

bool churn_page_verify(const void *mem, const struct kvb_hash *hash)
{
	const uint64_t *word = mem;
	uint64_t wrong = 0;

	for (uint32_t i = 0; i < CHURN_PAGE_BYTES / sizeof(*word); i++)
		wrong |= word[i] ^ (hash->w[i % 2] + i);
	return wrong == 0;
}

static void must(const struct worker_state *w, const char *what, int64_t got, int64_t want)
{
	if (got != want)
		bench_die("a worker's %s did %lld of %lld: %s", what, (long long)got,
			  (long long)want, kvb_error_text(w->c.kvb));
}

static void keep(struct kept *k, kvb_page_t page)
{
	k->page[k->n++] = page;
}

static void free_unsealed(struct worker_state *w)
{
	must(w, "free", kvb_free(w->c.space, w->unsealed.page, w->unsealed.n), w->unsealed.n);
	w->unsealed.n = 0;
}

static void release_leased(struct worker_state *w)
{
	must(w, "release", kvb_release(w->c.space, w->leased.page, w->leased.n), w->leased.n);
	w->leased.n = 0;
}

/* Fills and seals a chain, or its beginning. What was there already stays; ours goes on the heap.
 */
static void seal_chain(struct worker_state *w)
{
	struct kvb_hash hash[CHURN_CHAIN_BLOCKS];
	struct kvb_seal seal[CHURN_CHAIN_BLOCKS];
	kvb_page_t page[CHURN_CHAIN_BLOCKS];
	int64_t n, sealed;

	if (w->unsealed.n + CHURN_CHAIN_BLOCKS > KEPT_MAX)
		free_unsealed(w);
	if (w->leased.n + CHURN_CHAIN_BLOCKS > KEPT_MAX)
		release_leased(w);
	churn_chain(random_next(&w->random) % CHURN_CHAINS, hash);
	n = kvb_alloc(w->c.space, page, CHURN_CHAIN_BLOCKS);
	if (n < 0)
		must(w, "alloc", n, CHURN_CHAIN_BLOCKS);
	for (int64_t i = 0; i < n; i++) {
		churn_page_fill(kvb_page_addr(w->c.space, 0, page[i]), &hash[i]);
		seal[i] =
			(struct kvb_seal){ .page = page[i], .hash = hash[i], .depth = (uint32_t)i };
	}
	sealed = n == 0 ? 0
			: kvb_seal(w->c.space, w->c.ns.ns, w->c.ns.epoch, 0, seal, page,
				   (uint32_t)n);
	must(w, "seal", sealed, n);
	for (int64_t i = 0; i < n; i++) {
		keep(&w->leased, page[i]);
		if (page[i] != seal[i].page)
			keep(&w->unsealed, seal[i].page);
	}
}

static void look_up(struct worker_state *w)
{
	struct kvb_hash hash[CHURN_CHAIN_BLOCKS];
	kvb_page_t page[CHURN_CHAIN_BLOCKS];
	int64_t n;

	if (w->leased.n + CHURN_CHAIN_BLOCKS > KEPT_MAX)
		release_leased(w);
	churn_chain(random_next(&w->random) % CHURN_CHAINS, hash);
	n = kvb_lookup(w->c.space, w->c.ns.ns, 0, hash, page, CHURN_CHAIN_BLOCKS, NULL);
	if (n < 0)
		must(w, "lookup", n, CHURN_CHAIN_BLOCKS);
	for (int64_t i = 0; i < n; i++) {
		if (!churn_page_verify(kvb_page_addr(w->c.space, 0, page[i]), &hash[i]))
			w->words->corrupt++;
		w->words->verified++;
		keep(&w->leased, page[i]);
	}
}

static void use_magazine(struct worker_state *w)
{
	struct kvb_hash hash = random_hash(random_next(&w->random));

	if (w->unsealed.n + MAGAZINE_GETS > KEPT_MAX)
		free_unsealed(w);
	for (unsigned i = 0; i < MAGAZINE_GETS; i++) {
		kvb_page_t page = kvb_page_get(w->c.space);

		if (page == KVB_PAGE_NONE)
			return;
		churn_page_fill(kvb_page_addr(w->c.space, 0, page), &hash);
		if (i % 2 == 0)
			kvb_page_put(w->c.space, page);
		else
			keep(&w->unsealed, page);
	}
}

void churn_worker(const struct broker *b, struct churn_worker_words *words, uint64_t seed)
{
	struct worker_state w = { .words = words, .random = seed };

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	client_open(b, NULL, &churn_space, &w.c);
	for (;;) {
		switch (random_next(&w.random) % 8) {
		case 0:
		case 1:
		case 2:
			seal_chain(&w);
			break;
		case 3:
		case 4:
		case 5:
			look_up(&w);
			break;
		case 6:
			use_magazine(&w);
			break;
		default:
			if (random_next(&w.random) % 2)
				release_leased(&w);
			else
				free_unsealed(&w);
			break;
		}
		__atomic_store_n(&words->ops, words->ops + 1, __ATOMIC_RELAXED);
	}
}
