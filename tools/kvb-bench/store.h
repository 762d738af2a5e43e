/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The benchmark of the store: a file, of which the first half is a store and the second is fio's.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "broker/store/store.h"
#include "tools/kvb-bench/bench.h"

#define STORE_BENCH_DEPTH 16u

struct store_slice {
	double gb_s;
	double cpu_s_gb;
	double p50_us, p99_us;
};

/* ---- fio (store_fio.c) --------------------------------------------------------------------- */

struct fio {
	const char *path;
	uint64_t offset, bytes; /* its part of the file */
	uint64_t slice_ns;
};

void fio_slice(const struct fio *f, bool write, uint32_t bytes, uint32_t depth,
	       struct store_slice *ret);

/* ---- the store under load (store_load.c) --------------------------------------------------- */

struct load_page {
	char *mem;
	uint64_t start_ns;
	bool busy, put;
};

struct load {
	struct store *s;
	struct store_place place;
	uint16_t ns;
	uint32_t epoch;
	uint32_t page_bytes;
	uint32_t crc;         /* of every page: all are alike */
	uint64_t next, first; /* numbers of pages that are there, about */
	uint64_t capacity;
	uint64_t random;
	char *mem;
	struct load_page page[2 * STORE_BENCH_DEPTH];
	struct samples lat; /* of gets, ns */
	uint64_t bytes[2];  /* got, put */
};

struct load_slice_cfg {
	uint32_t gets, puts; /* in flight */
	uint64_t ns;
	bool checked; /* gets are compared with the checksum */
	bool spin;    /* or sleep when there is nothing to do */
	bool timed;   /* keep the latencies of gets in l->lat */
};

/* An empty store of the first `bytes` of the file. */
void load_open(struct load *l, const char *path, uint64_t bytes, uint32_t page_bytes);
void load_close(struct load *l);
/* Puts until the store has been gone round once. */
void load_fill(struct load *l);
void load_slice(struct load *l, const struct load_slice_cfg *cfg, struct store_slice *ret);
