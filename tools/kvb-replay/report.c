/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What a replay says at its end: one JSON object in one line for programs, a small table for
 * people. Every number is one that was counted or timed in this run.
 */

#include <inttypes.h>
#include <stdio.h>

#include "tools/kvb-replay/replay.h"

static double ratio(uint64_t part, uint64_t whole)
{
	return whole ? (double)part / (double)whole : 0.0;
}

static double ns_per_block(double seconds, uint64_t blocks)
{
	return blocks ? seconds * 1e9 / (double)blocks : 0.0;
}

static void print_json(const struct replay_options *o, const struct replay_result *r)
{
	const struct replay_counts *n = &r->n;

	printf("{\"mode\": \"%s\", \"requests\": %" PRIu64 ", \"blocks\": %" PRIu64
	       ", \"hit_blocks\": %" PRIu64 ", \"hit_ratio\": %.6f, \"hit_blocks_device\": %" PRIu64
	       ", \"hit_blocks_host\": %" PRIu64 ", \"hit_blocks_store\": %" PRIu64
	       ", \"evictions\": %" PRIu64 ", \"refused\": %" PRIu64
	       ", \"pages_verified\": %" PRIu64 ", \"corrupt\": %" PRIu64
	       ", \"seconds\": %.6f, \"interrupted\": %s",
	       o->sim ? "sim" : "live", n->requests, n->blocks, n->hit_blocks,
	       ratio(n->hit_blocks, n->blocks),
	       n->hit_blocks - n->hit_blocks_host - n->hit_blocks_store, n->hit_blocks_host,
	       n->hit_blocks_store, r->evictions, n->refused, n->pages_verified, n->corrupt,
	       r->seconds, r->interrupted ? "true" : "false");
	if (o->sim) {
		printf(", \"policy\": \"%s\", \"capacity_pages\": %" PRIu64
		       ", \"host_pages\": %" PRIu64 ", \"store_pages\": %" PRIu64
		       ", \"store_writes\": %" PRIu64 ", \"store_carried\": %" PRIu64
		       ", \"store_unwanted\": %" PRIu64
		       ", \"ns_per_block\": %.1f, \"hot_ns_per_block\": %.1f}\n",
		       o->policy, o->capacity_pages, o->host_pages, o->store_pages, r->store_writes,
		       r->store_carried, r->store_unwanted, ns_per_block(r->seconds, n->blocks),
		       ns_per_block(r->core_seconds, n->blocks));
		return;
	}
	printf(", \"clients\": %" PRIu32 ", \"page_bytes\": %" PRIu64 ", \"regions\": %" PRIu32
	       ", \"bytes_filled\": %" PRIu64 ", \"bytes_verified\": %" PRIu64
	       ", \"fill_seconds\": %.6f, \"verify_seconds\": %.6f, \"client_requests\": [",
	       r->clients, o->page_bytes, o->regions, n->bytes_filled, n->bytes_verified,
	       (double)n->fill_ns / 1e9, (double)n->verify_ns / 1e9);
	for (uint32_t i = 0; i < r->clients; i++)
		printf("%s%" PRIu64, i ? ", " : "", r->client_requests[i]);
	printf("]}\n");
}

static void print_bytes(const char *what, uint64_t bytes, uint64_t ns)
{
	printf("%-10s %9.2f GiB", what, (double)bytes / (double)(1u << 30));
	if (ns)
		printf("  at %.1f GB/s a client", (double)bytes / (double)ns);
	putchar('\n');
}

static void print_live(const struct replay_options *o, const struct replay_result *r)
{
	const struct replay_counts *n = &r->n;

	print_bytes("filled", n->bytes_filled, n->fill_ns);
	if (o->verify)
		print_bytes("verified", n->bytes_verified, n->verify_ns);
	printf("%-10s %9" PRIu32 "  requests:", "clients", r->clients);
	for (uint32_t i = 0; i < r->clients; i++)
		printf(" %" PRIu64, r->client_requests[i]);
	putchar('\n');
}

void report_print(const struct replay_options *o, const struct replay_result *r)
{
	const struct replay_counts *n = &r->n;

	if (o->json) {
		print_json(o, r);
		return;
	}
	printf("%-10s %9" PRIu64 "%s\n", "requests", n->requests,
	       r->interrupted ? "  (interrupted)" : "");
	printf("%-10s %9" PRIu64 "\n", "blocks", n->blocks);
	printf("%-10s %9" PRIu64 "  %.2f %% of the blocks\n", "hits", n->hit_blocks,
	       100 * ratio(n->hit_blocks, n->blocks));
	if (n->hit_blocks_host + n->hit_blocks_store) {
		printf("%-10s %9" PRIu64 "  of the hits from the host tier, %" PRIu64
		       " from the store\n",
		       "brought up", n->hit_blocks_host, n->hit_blocks_store);
	}
	printf("%-10s %9" PRIu64 "\n", "evictions", r->evictions);
	printf("%-10s %9" PRIu64 "  blocks that found no room\n", "refused", n->refused);
	if (o->verify) {
		printf("%-10s %9" PRIu64 "  %" PRIu64 " of them corrupt\n", "checked",
		       n->pages_verified, n->corrupt);
	}
	if (o->store_pages) {
		printf("%-10s %9" PRIu64 "  pages to the store, %" PRIu64 " carried there, %" PRIu64
		       " kept out\n",
		       "written", r->store_writes, r->store_carried, r->store_unwanted);
	}
	if (o->sim) {
		printf("%-10s %9.1f  of them %.1f in the core\n", "ns/block",
		       ns_per_block(r->seconds, n->blocks),
		       ns_per_block(r->core_seconds, n->blocks));
	} else {
		print_live(o, r);
	}
	printf("%-10s %9.2f\n", "seconds", r->seconds);
}
