/* SPDX-License-Identifier: Apache-2.0 */

/*
 * lookup: finding prefixes, in runs of 256 keys that all hit, leases and results included.
 *
 * A quarter of the pages is sealed and measured, then the rest, and measured again. Pages were
 * sealed in shuffled order, so the ids of a run have nothing to do with each other; runs are looked
 * up in random order. Eight runs are in flight, as from an engine with several requests at hand;
 * what one run alone takes is reported beside it. RELEASE of the leases is outside the timing and
 * reported too.
 *
 * miss: a run of 256 keys whose first key is not there, alone, from submission to completion.
 * Floor: a bare spin round trip. Both are medians of slices that alternate.
 */

#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "tools/kvb-bench/bench.h"

#define RUN 256u
#define RUNS_IN_FLIGHT 8u
#define SLICE_RUNS 32u /* leases held at once: 8192 */
#define SLICES 64u
#define MISS_SLICES 10u
#define MISS_TRIPS 10000u
#define MISS_WARM 1000u

struct run_times {
	uint64_t ns, alone_ns, release_ns;
	uint64_t keys, alone_keys, release_keys;
};

static void slice(struct fixture *f, uint32_t resident, bool alone, struct kvb_hash *hashes,
		  kvb_page_t *got, struct run_times *t)
{
	uint64_t start_ns, ns;
	uint32_t n = SLICE_RUNS * RUN;

	for (uint32_t i = 0; i < SLICE_RUNS; i++) {
		uint64_t first = random_next(&f->random) % (resident / RUN) * RUN;

		for (uint32_t k = 0; k < RUN; k++)
			hashes[i * RUN + k] = random_hash(first + k);
	}
	start_ns = clock_now_ns();
	batch_lookup(&f->client, hashes, got, n, RUN, alone ? 1 : RUNS_IN_FLIGHT);
	ns = clock_now_ns() - start_ns;
	*(alone ? &t->alone_ns : &t->ns) += ns;
	*(alone ? &t->alone_keys : &t->keys) += n;
	start_ns = clock_now_ns();
	batch_release(&f->client, got, n);
	t->release_ns += clock_now_ns() - start_ns;
	t->release_keys += n;
}

static void measure_hits(struct fixture *f, uint32_t resident, cJSON *results)
{
	struct kvb_hash *hashes = malloc(SLICE_RUNS * RUN * sizeof(*hashes));
	kvb_page_t *got = malloc(SLICE_RUNS * RUN * sizeof(*got));
	cJSON *result = cJSON_CreateObject();
	struct run_times t = { 0 };

	if (hashes == NULL || got == NULL || result == NULL)
		bench_die("out of memory");
	for (unsigned i = 0; i < SLICES; i++) {
		slice(f, resident, false, hashes, got, &t);
		slice(f, resident, true, hashes, got, &t);
		if (i % 8 == 0)
			fixture_floor(f);
	}
	cJSON_AddNumberToObject(result, "resident", resident);
	cJSON_AddNumberToObject(result, "ns_per_key", (double)(t.ns * 10 / t.keys) / 10);
	cJSON_AddNumberToObject(result, "alone_ns_per_key",
				(double)(t.alone_ns * 10 / t.alone_keys) / 10);
	cJSON_AddNumberToObject(result, "release_ns_per_key",
				(double)(t.release_ns * 10 / t.release_keys) / 10);
	cJSON_AddItemToArray(results, result);
	free(hashes);
	free(got);
}

/* Keys are written fresh each time, outside the timing: an engine has just hashed them. */
static void miss_slice(struct fixture *f, uint32_t keys, struct samples *s)
{
	struct kvb_hash *hash = (struct kvb_hash *)(void *)f->client.operands;
	uint64_t cost_ns = clock_cost_ns();
	struct kvb *kvb = f->client.kvb;

	for (unsigned i = 0; i < MISS_WARM + MISS_TRIPS; i++) {
		const struct kvb_cqe *cqe;
		uint64_t start_ns, ns;
		struct kvb_sqe *sqe;

		for (uint32_t k = 0; k < keys; k++)
			hash[k] = (struct kvb_hash){ .w = { random_next(&f->random), k } };
		start_ns = clock_now_ns();
		sqe = kvb_get_sqe(kvb);
		if (sqe == NULL)
			bench_die("an empty submission queue is full");
		kvb_prep_lookup(sqe, f->client.space, f->client.ns.ns, 0,
				kvb_operand_offset(kvb, hash), keys, false);
		kvb_submit(kvb);
		cqe = client_spin_cqe(kvb);
		ns = clock_now_ns() - start_ns;
		if (cqe->res != 0)
			bench_die("a key that was never sealed gave %d", cqe->res);
		kvb_cqe_seen(kvb);
		if (i >= MISS_WARM)
			samples_add(s, ns > cost_ns ? ns - cost_ns : 0);
	}
}

static void measure_misses(struct fixture *f, struct report *r)
{
	struct samples run_ns = { 0 }, single_ns = { 0 };

	samples_free(&f->floor_ns);
	for (unsigned i = 0; i < MISS_SLICES; i++) {
		fixture_floor(f);
		miss_slice(f, RUN, &run_ns);
		miss_slice(f, 1, &single_ns);
	}
	report_number(r, "miss_ns_p50", samples_percentile_ns(&run_ns, 50),
		      "run of 256 keys that misses at the first");
	report_number(r, "miss_ns_p99", samples_percentile_ns(&run_ns, 99), "");
	report_number(r, "miss_single_ns_p50", samples_percentile_ns(&single_ns, 50),
		      "one key, not there");
	report_number(r, "floor_ns_p50", samples_percentile_ns(&f->floor_ns, 50),
		      "bare shared-memory spin round trip");
	samples_free(&run_ns);
	samples_free(&single_ns);
}

int bench_lookup(const struct bench_options *o, struct report *r)
{
	cJSON *results = cJSON_CreateArray();
	struct fixture f;
	uint64_t ignored_ns;
	uint32_t quarter;

	if (results == NULL)
		bench_die("out of memory");
	fixture_open(o, &f);
	quarter = f.n / 4;
	if (batch_alloc(&f.client, f.pages, f.n) != f.n)
		bench_die("the space cannot be allocated whole");
	random_shuffle_pages(&f.random, f.pages, f.n);
	fixture_seal(&f, 0, quarter, &ignored_ns);
	measure_hits(&f, quarter, results);
	fixture_seal(&f, quarter, f.n - quarter, &ignored_ns);
	measure_hits(&f, f.n, results);
	report_array(r, "results", results, "a LOOKUP, by key");
	report_number(r, "run", RUN, "keys an entry");
	report_number(r, "in_flight", RUNS_IN_FLIGHT, "runs");
	measure_misses(&f, r);
	fixture_close(&f);
	return 0;
}
