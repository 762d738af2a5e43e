/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Looking through a store that was opened read-only; for kvb-store.
 *
 * Damage is what had been on stable storage and is not right now: pages of closed segments whose
 * bytes do not fit, pages of tables that can not be read. What a kill or a power cut left half done
 * is none: `unfinished` says how many pages that was.
 */

#include "broker/store/format.h"
#include "broker/store/store.h"

struct store_check {
	uint64_t pages, bytes; /* that are found */
	uint64_t bad;          /* found in the index and wrong, or lost with their table */
	uint64_t unfinished;
	uint64_t stale;      /* of past epochs */
	uint64_t replaced;   /* an older copy of a page */
	uint64_t unreadable; /* reads that failed, of the bad ones */
	uint32_t segments, segments_closed, segments_scanned;
	char first[STORE_PATH_MAX + 160]; /* damage, in words */
};

struct store_check_cfg {
	bool deep; /* reads every page */
	/* For each page that is there; may be NULL. bad: with deep alone. */
	void (*page)(void *arg, uint32_t part, uint32_t segment, const struct format_desc *d,
		     bool bad);
	void (*progress)(void *arg, uint64_t done, uint64_t total);
	void *arg;
};

/* 0, or -ENOMEM. Damage is not an error of this call. */
int store_check(struct store *s, const struct store_check_cfg *cfg, struct store_check *ret);

struct store_head {
	uint8_t uuid[16], part_uuid[16];
	uint64_t seq;
	bool clean;
};

void store_head(const struct store *s, uint32_t part, struct store_head *ret);
/* Namespace by row; false: there is none. */
bool store_ns_row(const struct store *s, uint32_t row, struct format_ns *ret);
