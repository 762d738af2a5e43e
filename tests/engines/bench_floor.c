/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The C side of bench.py: the same batches by the library alone.
 *
 *     bench_floor SOCKET PAGE_BYTES PAGES BATCH
 *
 * Says "ready", then answers each number on stdin: so many times a batch is allocated and freed,
 * and the nanoseconds that took are said. Ends with its input.
 */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "libkvbroker.h"

#define BATCH_MAX 4096u

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static int run(struct kvb_space *space, uint32_t batch, unsigned long times, uint64_t *ret_ns)
{
	kvb_page_t page[BATCH_MAX];
	const uint64_t start_ns = now_ns();

	for (unsigned long i = 0; i < times; i++)
		if (kvb_alloc(space, page, batch) != batch || kvb_free(space, page, batch) != batch)
			return -1;
	*ret_ns = now_ns() - start_ns;
	return 0;
}

int main(int argc, char **argv)
{
	struct kvb_params params = { .name = "bench-floor" };
	struct kvb_space_params geometry = { .tag = 2 };
	struct kvb_space *space;
	struct kvb *kvb;
	char why[256], line[64];
	uint32_t batch;
	uint64_t ns;

	if (argc != 5)
		return 2;
	params.socket = argv[1];
	geometry.stride_bytes = strtoul(argv[2], NULL, 10);
	batch = (uint32_t)strtoul(argv[4], NULL, 10);
	if (!batch || batch > BATCH_MAX)
		return 2;
	if (kvb_connect(&params, &kvb, why) < 0) {
		fprintf(stderr, "bench_floor: %s\n", why);
		return 1;
	}
	if (kvb_space_open(kvb, &geometry, &space) < 0 ||
	    kvb_space_grow(space, strtoul(argv[3], NULL, 10), 0) < 0)
		goto failed;
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		if (run(space, batch, strtoul(line, NULL, 10), &ns) < 0)
			goto failed;
		printf("%" PRIu64 "\n", ns);
		fflush(stdout);
	}
	kvb_disconnect(kvb);
	return 0;
failed:
	fprintf(stderr, "bench_floor: %s\n", kvb_error_text(kvb));
	kvb_disconnect(kvb);
	return 1;
}
