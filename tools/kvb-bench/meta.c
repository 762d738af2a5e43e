/* SPDX-License-Identifier: Apache-2.0 */

/*
 * meta: what the broker's own tables cost a page. The size of its state memfd at four million
 * pages, all other limits at their defaults, as the kernel tells it; the daemon's own word must
 * agree.
 */

#include "broker/admin/stats.h"
#include "tools/kvb-bench/bench.h"

int bench_meta(const struct bench_options *o, struct report *r)
{
	static const char *const args[] = { "--device", "host:0=1G", "--max-pages", "4194304",
					    NULL };
	const struct stats_segment *stats;
	uint64_t bytes;
	struct broker b;

	broker_start(o, -1, args, &b);
	stats = broker_stats(&b);
	bytes = stats->state_bytes;
	if (b.own) {
		/* Nothing is granted yet, so no memfd is larger than the state. */
		bytes = broker_memfd_largest_bytes(&b);
		if (bytes != stats->state_bytes)
			bench_die("the broker says %llu B of state, its memfd has %llu",
				  (unsigned long long)stats->state_bytes,
				  (unsigned long long)bytes);
	}
	report_number(r, "pages", stats->pages_max, "page records");
	report_number(r, "state_bytes", (double)bytes, "all tables");
	report_number(r, "bytes_per_page", (double)bytes / stats->pages_max, "");
	broker_stop(&b);
	return 0;
}
