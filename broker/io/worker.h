/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The device worker: a thread for each device that makes and takes back the memory of slabs,
 * because committing gigabytes takes milliseconds and the loop must not wait for it. One for each,
 * so that a GPU whose driver hangs stalls its own grants and nobody else's. It touches no table:
 * jobs in, results out, an eventfd when there are results.
 *
 * A job that fails leaves nothing behind. fds in a result are the caller's. Jobs of one device are
 * done in order, those of several in any.
 */

#include <stdbool.h>
#include <stdint.h>

struct worker;
struct gpu_device;

struct worker_job {
	uint32_t device; /* index the caller gave in worker_device() */
	uint32_t slab;   /* the caller's, comes back */
	uint32_t count;  /* handles */
	uint64_t handle_bytes;
	/* create: count results; close: count fds to end. malloc'd, ownership moves along */
	int *fds;
	uint64_t token; /* create: result; close: what came with the fds */
	int error;      /* result: 0 or -errno */
	bool close;
};

int worker_new(struct worker **ret);
/* Cancels and waits for the jobs at hand; closes fds of the rest. */
struct worker *worker_free(struct worker *w);
int worker_fd(const struct worker *w); /* readable when worker_next() has results */
/* Starts the thread of a device, which stays the caller's and lives until after worker_free(). */
int worker_device(struct worker *w, uint32_t device, struct gpu_device *dev);
int worker_submit(struct worker *w,
		  const struct worker_job *job); /* -ENOMEM; fds stay the caller's */
bool worker_next(struct worker *w, struct worker_job *ret);
/*
 * Ends what serves a device outside this process, after the jobs that are queued, or starts it
 * again; worker_fd() is readable when that was done. Until it is woken it is given no job.
 */
void worker_rest(struct worker *w, uint32_t device, bool rest);
bool worker_is_at_rest(struct worker *w, uint32_t device); /* it was asked for */
