/* SPDX-License-Identifier: Apache-2.0 */

/*
 * One chain of pages in 32 regions of 64 KiB, as a vLLM-like layout has it: what it costs that a
 * page is 32 pieces.
 *
 * adjacent   the chain's ids follow each other, as ALLOC gives them in a space with room: pieces of
 *            neighbours lie side by side and go in one copy. Beside one copy of as many bytes
 * scattered  every second id, in random order: nothing to join. Beside the driver's batch copy of
 *            the very same pieces
 *
 * One entry carries the chain, so its latency is part of the figure.
 */

#include <stdlib.h>
#include <string.h>

#include "tools/kvb-bench/gpu.h"

struct layers {
	struct rig rig;
	struct card card;
	struct card_memory up, down; /* as large as the chain */
	struct card_fragments fragments;
	uint32_t chain;
	uint64_t random;
	double run_pages;
	struct samples store, load, bare_store, bare_load;
};

static void layers_open(struct gpu_bench *b, struct layers *l)
{
	size_t n;

	l->chain = b->plan.chain_pages;
	l->random = 1;
	card_open(b->o->device, &l->card);
	rig_open(b, GPU_REGIONS, GPU_LAYER_STRIDE,
		 4 * (uint64_t)l->chain * GPU_REGIONS * GPU_LAYER_STRIDE, &l->rig);
	rig_warm(b, &l->rig, 2 * l->chain);
	card_memory(&l->card, l->chain * l->rig.page_bytes, &l->up);
	card_memory(&l->card, l->chain * l->rig.page_bytes, &l->down);
	n = (size_t)l->chain * GPU_REGIONS;
	l->fragments = (struct card_fragments){ .to = calloc(n, sizeof(cu_address)),
						.from = calloc(n, sizeof(cu_address)),
						.bytes = calloc(n, sizeof(size_t)),
						.n = n };
	if (!l->fragments.to || !l->fragments.from || !l->fragments.bytes)
		bench_die("out of memory");
}

/* The chain is page[0..chain): pieces of it against host memory laid out as a host tier's. */
static uint64_t bare_pieces_ns(struct layers *l, enum card_direction direction)
{
	const struct card_memory *mem = direction == CARD_UP ? &l->up : &l->down;
	struct card_fragments *f = &l->fragments;

	for (uint32_t i = 0; i < l->chain; i++) {
		for (uint32_t r = 0; r < GPU_REGIONS; r++) {
			const size_t at = (size_t)i * GPU_REGIONS + r;
			cu_address device = (cu_address)(uintptr_t)kvb_page_addr(
				l->rig.client.space, r, l->rig.page[i]);
			cu_address host = (cu_address)(uintptr_t)mem->host +
					  ((uint64_t)r * l->chain + i) * GPU_LAYER_STRIDE;

			f->to[at] = direction == CARD_UP ? device : host;
			f->from[at] = direction == CARD_UP ? host : device;
			f->bytes[at] = GPU_LAYER_STRIDE;
		}
	}
	return card_batch_ns(&l->card, direction, f);
}

/* The chain is written down and let go; the device is left with every page allocated. */
static void chain_down(struct layers *l)
{
	struct rig *r = &l->rig;

	rig_mark(r, GPU_REGIONS - 1, r->page[l->chain - 1], r->generation);
	rig_seal(r, l->chain);
	samples_add(&l->store, rig_store_ns(r, l->chain, l->chain));
	batch_release(&r->client, r->page, l->chain);
}

static void chain_up(struct layers *l)
{
	struct rig *r = &l->rig;

	samples_add(&l->load, rig_load_ns(r, l->chain, l->chain));
	rig_verify(r, GPU_REGIONS - 1, r->got[l->chain - 1], r->generation - 1);
	batch_release(&r->client, r->got, l->chain);
}

/* ---- adjacent ------------------------------------------------------------------------------ */

/* Ids that follow the one before, as mean length of such a run. */
static double mean_run(const kvb_page_t *pages, uint32_t n)
{
	uint32_t runs = 1;

	for (uint32_t i = 1; i < n; i++)
		runs += KVB_PAGE_ID(pages[i]) != KVB_PAGE_ID(pages[i - 1]) + 1;
	return (double)n / runs;
}

static void adjacent_round(struct layers *l)
{
	struct rig *r = &l->rig;

	rig_evict_all(r);
	rig_alloc(r, l->chain);
	l->run_pages = mean_run(r->page, l->chain);
	chain_down(l);
	rig_evict_all(r);
	chain_up(l);
	samples_add(&l->bare_store, card_copy_ns(&l->card, NULL, &l->down, 1));
	samples_add(&l->bare_load, card_copy_ns(&l->card, &l->up, NULL, 1));
}

/* ---- scattered ----------------------------------------------------------------------------- */

/* Of all pages, which are allocated: every second id to the front, in random order. */
static void scatter(struct layers *l)
{
	struct rig *r = &l->rig;
	uint32_t even = 0;

	for (uint32_t i = 0; i < r->n; i++) {
		if (KVB_PAGE_ID(r->page[i]) % 2 == 0) {
			kvb_page_t page = r->page[i];

			r->page[i] = r->page[even];
			r->page[even++] = page;
		}
	}
	random_shuffle_pages(&l->random, r->page, even);
}

static void scattered_round(struct layers *l)
{
	struct rig *r = &l->rig;

	rig_alloc_all(r);
	scatter(l);
	samples_add(&l->bare_store, bare_pieces_ns(l, CARD_DOWN));
	batch_free(&r->client, r->page + l->chain, r->n - l->chain);
	chain_down(l);
	rig_alloc_all(r);
	scatter(l);
	samples_add(&l->bare_load, bare_pieces_ns(l, CARD_UP));
	/* The only free pages: no two of them are neighbours. */
	batch_free(&r->client, r->page, l->chain);
	chain_up(l);
	batch_free(&r->client, r->page + l->chain, r->n - l->chain);
}

/* ---- both ---------------------------------------------------------------------------------- */

static void forget(struct layers *l)
{
	l->store.n = l->load.n = l->bare_store.n = l->bare_load.n = 0;
}

static void run(struct layers *l, void (*round)(struct layers *), uint32_t rounds)
{
	round(l);
	forget(l); /* first touches */
	for (uint32_t i = 0; i < rounds; i++)
		round(l);
}

static double gb_s(const struct layers *l, struct samples *s)
{
	return gpu_gb_s(l->chain * l->rig.page_bytes, samples_percentile_ns(s, 50));
}

static double worse(double down, double bare_down, double up, double bare_up)
{
	return down / bare_down < up / bare_up ? down / bare_down : up / bare_up;
}

/* The smaller of both directions' ratios of a round to what it stands beside. */
static double ratio(struct layers *l)
{
	return worse(gb_s(l, &l->store), gb_s(l, &l->bare_store), gb_s(l, &l->load),
		     gb_s(l, &l->bare_load));
}

/* Over a daemon without checksums only the ratios are new. */
static void unchecked(struct gpu_bench *b, struct layers *l)
{
	run(l, adjacent_round, b->plan.rounds);
	b->fig->adjacent_unchecked_ratio = ratio(l);
	forget(l);
	run(l, scattered_round, b->plan.rounds);
	b->fig->scattered_unchecked_ratio = ratio(l);
}

static void checked(struct gpu_bench *b, struct layers *l)
{
	struct gpu_figures *f = b->fig;

	run(l, adjacent_round, b->plan.rounds);
	f->chain_pages = l->chain;
	f->adjacent_run_pages = l->run_pages;
	f->adjacent_down_gb_s = gb_s(l, &l->store);
	f->adjacent_up_gb_s = gb_s(l, &l->load);
	f->bare_chain_down_gb_s = gb_s(l, &l->bare_store);
	f->bare_chain_up_gb_s = gb_s(l, &l->bare_load);
	f->adjacent_ratio = ratio(l);
	forget(l);
	run(l, scattered_round, b->plan.rounds);
	f->scattered_down_gb_s = gb_s(l, &l->store);
	f->scattered_up_gb_s = gb_s(l, &l->load);
	f->bare_batch_scattered_down_gb_s = gb_s(l, &l->bare_store);
	f->bare_batch_scattered_up_gb_s = gb_s(l, &l->bare_load);
	f->scattered_ratio = ratio(l);
}

void gpu_layer(struct gpu_bench *b)
{
	struct layers l = { 0 };

	layers_open(b, &l);
	if (b->sums)
		checked(b, &l);
	else
		unchecked(b, &l);
	rig_close(&l.rig);
}
