/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The mover's checksum, by one thread, of pages that are in no cache: what it costs to have one,
 * in processors.
 */

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "broker/mover/sum.h"
#include "tools/kvb-bench/gpu.h"

void gpu_checksum(struct gpu_bench *b)
{
	const uint64_t bytes = b->plan.copy_bytes;
	struct samples s = { 0 };
	char *mem;

	mem = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE,
		   -1, 0);
	if (mem == MAP_FAILED)
		bench_die("mmap: %s", strerror(errno));
	memset(mem, 1, bytes);
	for (uint32_t round = 0; round < b->plan.rounds; round++) {
		uint64_t start_ns = clock_now_ns();

		for (uint64_t at = 0; at < bytes; at += GPU_PACKED_STRIDE) {
			struct mover_page page = { .mem = mem + at,
						   .stride_bytes = GPU_PACKED_STRIDE,
						   .regions = 1 };

			mover_sum_make(&page);
		}
		samples_add(&s, clock_now_ns() - start_ns);
	}
	b->fig->checksum_gb_s_core = gpu_gb_s(bytes, samples_percentile_ns(&s, 50));
	munmap(mem, bytes);
	samples_free(&s);
}
