/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Checksums of pages: crc32c (iSCSI's polynomial, as RFC 3720 has it) over a page's pieces in the
 * order of the regions, by a few threads of a pool.
 *
 * A job is an array of pages that belong together. The threads take pages from the oldest job; when
 * its last page is done the job is `done` and an eventfd is rung once. What a thread writes, res
 * and sum of its pages, is the submitter's to read when mover_sums_done() says so. A job must stay
 * where it is until then, or until mover_sums_close().
 *
 * One thread submits. A zeroed struct is a pool that is not open. Movers have one, and the daemon
 * for its store.
 */

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define MOVER_SUM_THREADS_MAX 64u

struct mover_page {
	const char *mem; /* first piece */
	uint64_t stride_bytes;
	uint64_t next_bytes; /* from a piece to the next region's */
	uint32_t regions;
	uint32_t sum;  /* out */
	int32_t error; /* out: 0, or -errno that it has no sum for */
};

struct mover_sum_job {
	struct mover_page *page;
	uint32_t n;
	uint32_t step; /* pages that a thread takes at a time */
	uint32_t next; /* to be taken */
	uint32_t left; /* not done */
	struct mover_sum_job *after;
};

struct mover_sums {
	pthread_mutex_t lock;
	pthread_cond_t work;
	struct mover_sum_job *first, *last; /* that have pages to be taken */
	uint32_t threads;
	int event;
	bool open, end;
	pthread_t thread[MOVER_SUM_THREADS_MAX];
};

/* Fills in sum and error of a page, right here. */
void mover_sum_make(struct mover_page *page);

/*
 * Starts up to `threads` threads (1..MOVER_SUM_THREADS_MAX, else it is brought there), near the
 * node that `near` lies on if that can be told; fewer than asked for is fine, none is -errno.
 */
int mover_sums_open(struct mover_sums *s, uint32_t threads, const void *near);
/* Waits for the pages at hand; jobs that are not done stay so. One that was not opened is fine. */
void mover_sums_close(struct mover_sums *s);

/* An eventfd, readable when a job may have become done; -1 when the pool is not open. */
int mover_sums_event(const struct mover_sums *s);
/* Sums job->page[0..n). */
void mover_sums_submit(struct mover_sums *s, struct mover_sum_job *job);
bool mover_sums_done(struct mover_sums *s, const struct mover_sum_job *job);
