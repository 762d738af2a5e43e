/* SPDX-License-Identifier: Apache-2.0 */

/*
 * alloc: pages a second, in batches of 64 through the ring, 16 entries in flight.
 *
 * The space is first used until nothing of its order is left: everything is allocated, freed in
 * random order, again and again. Then, always over the whole space:
 *
 * alloc      everything, from free pages
 * free       everything, in an order shuffled over the whole space
 * scattered  one half, while a random half of all pages is free and the other is not
 * evict      everything, while every page is sealed and released, in shuffled order: each page
 *            allocated is one evicted
 * magazine   kvb_page_get(), 16 calls timed together because one is shorter than a clock reading.
 *            Pages go back through the ring, outside the timing, so the magazine does run low
 *            and its refill is part of what is timed.
 */

#include <string.h>

#include "tools/kvb-bench/bench.h"

#define SHUFFLE_ROUNDS 2u
#define SLICES 16u
#define MAGAZINE_GETS 16u
#define MAGAZINE_GROUPS 4096u
#define MAGAZINE_KEPT 4096u /* pages kept before they go back; a multiple of MAGAZINE_GETS */

/* Runs over pages[first..first+n) in slices that alternate with the floor; returns nanoseconds. */
static uint64_t timed(struct fixture *f, uint32_t first, uint32_t n, bool alloc)
{
	uint64_t ns = 0, start_ns, got;
	uint32_t slice = (n / SLICES + BENCH_BATCH - 1) / BENCH_BATCH * BENCH_BATCH;

	while (n > 0) {
		uint32_t now = n < slice ? n : slice;

		start_ns = clock_now_ns();
		if (alloc) {
			got = batch_alloc(&f->client, f->pages + first, now);
			if (got != now)
				bench_die("only %llu of %u pages could be allocated",
					  (unsigned long long)got, now);
		} else {
			batch_free(&f->client, f->pages + first, now);
		}
		ns += clock_now_ns() - start_ns;
		fixture_floor(f);
		first += now;
		n -= now;
	}
	return ns;
}

static void shuffle(struct fixture *f)
{
	random_shuffle_pages(&f->random, f->pages, f->n);
}

static void measure_magazine(struct fixture *f, struct report *r)
{
	struct samples s = { 0 };
	kvb_page_t *kept = f->pages; /* nothing is held meanwhile */
	uint64_t sum_ns = 0;
	uint32_t n = 0;

	while (s.n < MAGAZINE_GROUPS) {
		uint64_t start_ns = clock_now_ns(), ns;
		uint32_t got = 0;

		for (uint32_t i = 0; i < MAGAZINE_GETS; i++)
			kept[n + i] = kvb_page_get(f->client.space);
		ns = clock_now_ns() - start_ns;
		for (uint32_t i = 0; i < MAGAZINE_GETS; i++)
			if (kept[n + i] != KVB_PAGE_NONE)
				kept[n + got++] = kept[n + i];
		n += got;
		if (got == MAGAZINE_GETS) {
			samples_add(&s, ns);
			sum_ns += ns;
		}
		if (n + MAGAZINE_GETS > MAGAZINE_KEPT) {
			if (kvb_free(f->client.space, kept, n) != (int64_t)n)
				bench_die("cannot free: %s", kvb_error_text(f->client.kvb));
			n = 0;
		}
	}
	if (n > 0 && kvb_free(f->client.space, kept, n) != (int64_t)n)
		bench_die("cannot free: %s", kvb_error_text(f->client.kvb));
	report_number(r, "magazine_ns_mean", (double)sum_ns / (double)(s.n * MAGAZINE_GETS),
		      "kvb_page_get(), refills shared out");
	report_number(r, "magazine_ns_p50", samples_percentile_ns(&s, 50) / MAGAZINE_GETS,
		      "kvb_page_get(), of 16 timed together");
	samples_free(&s);
}

int bench_alloc(const struct bench_options *o, struct report *r)
{
	struct fixture f;
	uint64_t alloc_ns, free_ns, scattered_ns, evict_ns, ignored_ns;
	uint32_t half;

	fixture_open(o, &f);
	half = f.n / 2;
	for (unsigned i = 0; i < SHUFFLE_ROUNDS; i++) {
		if (batch_alloc(&f.client, f.pages, f.n) != f.n)
			bench_die("the space cannot be allocated whole");
		shuffle(&f);
		batch_free(&f.client, f.pages, f.n);
	}
	alloc_ns = timed(&f, 0, f.n, true);
	shuffle(&f);
	batch_free(&f.client, f.pages, half);
	scattered_ns = timed(&f, 0, half, true);
	shuffle(&f);
	free_ns = timed(&f, 0, f.n, false);
	if (batch_alloc(&f.client, f.pages, f.n) != f.n)
		bench_die("the space cannot be allocated whole");
	shuffle(&f);
	fixture_seal(&f, 0, f.n, &ignored_ns);
	evict_ns = timed(&f, 0, f.n, true);
	batch_free(&f.client, f.pages, f.n);
	report_number(r, "pages", f.n, "of 256 B");
	report_number(r, "alloc_pages_per_s", (double)o->pages * 1e9 / (double)alloc_ns,
		      "ALLOC from free pages");
	report_number(r, "free_pages_per_s", (double)o->pages * 1e9 / (double)free_ns,
		      "FREE in shuffled order");
	report_number(r, "alloc_scattered_pages_per_s", (double)half * 1e9 / (double)scattered_ns,
		      "ALLOC while a random half is free");
	report_number(r, "evict_ns_per_page", (double)evict_ns / f.n, "ALLOC that evicts");
	measure_magazine(&f, r);
	report_number(r, "batch", BENCH_BATCH, "pages an entry");
	report_number(r, "in_flight", BENCH_DEPTH, "entries");
	report_number(r, "floor_ns_p50", samples_percentile_ns(&f.floor_ns, 50),
		      "bare shared-memory spin round trip");
	fixture_close(&f);
	return 0;
}
