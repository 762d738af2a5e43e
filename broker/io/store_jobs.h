/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What operators have the store do, and wait for: a flush, a check.
 *
 * One of a kind is under way at a time, and they are numbered; whoever asks is told the number of
 * the one that is his, and asks whether that is over. So nothing here knows who waits, and an
 * operator who goes away leaves nothing behind.
 *
 *   flush   covers what was written before it began: who asks while one is under way gets the next
 *   check   who asks while one is under way waits for that one
 */

#include <stdbool.h>
#include <stdint.h>

#include "broker/store/store.h"

struct store_job {
	uint64_t asked, begun, ended; /* numbers */
	uint64_t failed;              /* the last that did */
};

struct store_jobs {
	struct store_job flush, check;
	struct store_scrub_stats checked; /* what the last check saw */
};

uint64_t store_jobs_flush(struct store_jobs *j, struct store *store);
uint64_t store_jobs_check(struct store_jobs *j, struct store *store);

/* 0: not yet; 1: it is over; -EIO: it failed, or a later one did. */
int store_job_state(const struct store_job *job, uint64_t number);

/* Of a report that is a job's. */
void store_jobs_done(struct store_jobs *j, struct store *store, const struct store_done *done);
