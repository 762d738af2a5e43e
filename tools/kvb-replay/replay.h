/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * kvb-replay: what a trace would have found in the cache, and what it finds in a running broker.
 *
 * Two modes, one meaning. sim.c drives the broker's core in this process; live.c forks clients that
 * drive a daemon. In both a request
 *
 *   1. looks up all its blocks: its hits are the leading run that is resident, where there is a
 *      lower tier in either, and brought up. Every block that is then on the device, hit or not, is
 *      leased and kept;
 *   2. allocates its missing blocks, head first; what does not fit beside its own pages stays out;
 *   3. fills and seals them, and reads what it found;
 *   4. releases everything it leases tail first, so that the head of a chain is the most recently
 *      used.
 *
 * The lookup of request i comes after the allocation of request i - 1, so that a result compares
 * with an exact LRU over the same trace.
 */

#include <stdbool.h>
#include <stdint.h>

#include "tools/kvb-replay/trace.h"

#define REPLAY_CLIENTS_MAX 256u
#define SIM_PAGES_MAX (1u << 25) /* 1024 slabs of 32768 pages */

struct replay_options {
	const char *trace;
	bool json;
	bool verify;
	/* offline */
	bool sim;
	const char *policy;
	uint64_t capacity_pages; /* of the device */
	uint64_t device_pages;   /* the same, as --tiers has it */
	uint64_t host_pages;     /* of the tier below; 0 = none */
	uint64_t store_pages;    /* of the store below that; 0 = none */
	bool store_filter;       /* only what was wanted twice is written there */
	const char *per_request; /* file for the hits of each request; NULL = none */
	/* live */
	const char *broker;   /* socket */
	const char *tenant;   /* NULL = the broker's default */
	uint32_t device_kind; /* enum kvb_device_kind */
	uint32_t device_ordinal;
	uint32_t clients;
	uint32_t regions;
	uint64_t page_bytes; /* of all regions together */
	double speed;        /* trace seconds a second; 0 = as fast as it goes */
};

/* What one client, or the simulator, has done. Sizes are bytes, times nanoseconds of its own. */
struct replay_counts {
	uint64_t requests, blocks;
	uint64_t hit_blocks;
	uint64_t hit_blocks_host;  /* of these, those that the host tier had */
	uint64_t hit_blocks_store; /* and the store */
	uint64_t refused;          /* blocks that found no room */
	uint64_t pages_verified, corrupt;
	uint64_t bytes_filled, bytes_verified;
	uint64_t fill_ns, verify_ns;
};

struct replay_result {
	struct replay_counts n;
	uint64_t evictions;
	double seconds;      /* from the first request to the end of the last */
	double core_seconds; /* offline: of these, inside the core */
	/* offline, pages: */
	uint64_t store_writes;   /* written to the store */
	uint64_t store_carried;  /* and again, when it made room and they had been read */
	uint64_t store_unwanted; /* that admission kept out */
	bool interrupted;        /* ended by a signal: the counts are of what was done */
	uint32_t clients;        /* live */
	uint64_t client_requests[REPLAY_CLIENTS_MAX];
};

/* Exit codes, those of broker-ctl as far as they apply. */
enum replay_exit {
	REPLAY_OK = 0,
	REPLAY_FAILED = 1, /* also: a page did not hold what its key says */
	REPLAY_USAGE = 2,  /* command line or trace */
	REPLAY_NO_BROKER = 3,
	REPLAY_INTERRUPTED = 130,
};

/* Both say on stderr what went wrong. *ret is filled when they return REPLAY_OK. */
enum replay_exit sim_run(const struct replay_options *o, const struct trace *t,
			 struct replay_result *ret);
enum replay_exit live_run(const struct replay_options *o, const struct trace *t,
			  struct replay_result *ret);

/* The last line of stdout, or the summary for people. */
void report_print(const struct replay_options *o, const struct replay_result *r);

/* "kvb-replay: ..." on stderr in one write. */
__attribute__((format(printf, 1, 2))) void replay_say(const char *format, ...);
