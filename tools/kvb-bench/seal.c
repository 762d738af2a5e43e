/* SPDX-License-Identifier: Apache-2.0 */

/*
 * seal: publishing pages under keys, in batches of 64 through the ring, 16 entries in flight.
 *
 * Every page of the space is sealed once, in an order that has nothing to do with the pages' ids,
 * so the figure is a mean over an index that goes from empty to full. The leases that SEAL leaves
 * are released in between and reported beside it; keys are made outside the timing.
 */

#include "tools/kvb-bench/bench.h"

#define SLICES 16u

int bench_seal(const struct bench_options *o, struct report *r)
{
	uint64_t seal_ns = 0, release_ns = 0, ns;
	struct fixture f;
	uint32_t slice;

	fixture_open(o, &f);
	slice = f.n / SLICES;
	if (batch_alloc(&f.client, f.pages, f.n) != f.n)
		bench_die("the space cannot be allocated whole");
	random_shuffle_pages(&f.random, f.pages, f.n);
	for (unsigned i = 0; i < SLICES; i++) {
		seal_ns += fixture_seal(&f, i * slice, slice, &ns);
		release_ns += ns;
		fixture_floor(&f);
	}
	report_number(r, "pages", (double)slice * SLICES, "of 256 B");
	report_number(r, "ns_per_page", (double)seal_ns / ((double)slice * SLICES), "SEAL");
	report_number(r, "release_ns_per_page", (double)release_ns / ((double)slice * SLICES),
		      "RELEASE of the leases");
	report_number(r, "batch", BENCH_BATCH, "pages an entry");
	report_number(r, "in_flight", BENCH_DEPTH, "entries");
	report_number(r, "floor_ns_p50", samples_percentile_ns(&f.floor_ns, 50),
		      "bare shared-memory spin round trip");
	fixture_close(&f);
	return 0;
}
