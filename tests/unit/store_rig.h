/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A store under test: pages whose bytes follow from their number, put and got one after the other
 * or in numbers.
 */

#include "broker/store/store.h"

#define RIG_PAGES_MAX 65536u

struct rig {
	struct store_cfg cfg;
	struct store *s;
	struct store_place place;
	uint16_t ns;
	uint32_t epoch;
	uint32_t page_bytes;
	uint32_t gone; /* pages that vanished */
	char dir[64];
	char path[2][96];
	uint64_t now_ns;
	bool own_clock; /* time goes on with every poll, by itself */
};

/* A folder with room for files of stores; removed by rig_remove(). */
void rig_make(struct rig *r);
void rig_remove(struct rig *r);

/* Opens with r->cfg; the namespace too. 0, or what store_open() said. */
int rig_open(struct rig *r);
void rig_close(struct rig *r);
void rig_abandon(struct rig *r);

void rig_key(const struct rig *r, uint32_t number, struct store_key *ret);
void rig_fill(const struct rig *r, uint32_t number, void *page);
bool rig_same(const struct rig *r, uint32_t number, const void *page);

/* Puts pages first..first+n, `depth` at a time; the status of each goes to status[] unless NULL.
 * Returns how many were put. */
uint32_t rig_put(struct rig *r, uint32_t first, uint32_t n, uint32_t depth, int *status);
/* 0: found, with its bytes; -ENOENT, -EIO, ...; 1: wrong bytes. */
int rig_get(struct rig *r, uint32_t number);
/* How many of first..first+n are found; ends the test on wrong bytes. */
uint32_t rig_count(struct rig *r, uint32_t first, uint32_t n);
int rig_flush(struct rig *r);
int rig_bump(struct rig *r, uint32_t epoch);
/* Waits for the report of that kind. */
int rig_report(struct rig *r, uint8_t kind);
/* Polls until nothing is left to do. */
void rig_settle(struct rig *r);
