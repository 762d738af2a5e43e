/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The device worker: a thread that makes and takes back the memory of slabs, because committing
 * gigabytes to a memfd takes milliseconds and the loop must not wait for it. It touches no table:
 * jobs in, results out, an eventfd when there are results.
 *
 * A job that fails leaves nothing behind. fds in a result are the caller's.
 */

#include <stdbool.h>
#include <stdint.h>

struct worker;

struct worker_job {
	uint32_t device; /* index the caller gave in worker_device() */
	uint32_t slab;   /* the caller's, comes back */
	uint32_t count;  /* handles */
	uint64_t handle_bytes;
	int *fds; /* create: count results; close: count fds to end. malloc'd, ownership moves along
		   */
	int error; /* result: 0 or -errno */
	bool close;
};

int worker_new(struct worker **ret);
struct worker *
worker_free(struct worker *w);         /* waits for the job at hand; closes fds of the rest */
int worker_fd(const struct worker *w); /* readable when worker_next() has results */
/* Names a device; kind and ordinal as in the ABI. */
int worker_device(struct worker *w, uint32_t device, uint32_t kind, uint32_t ordinal);
int worker_submit(struct worker *w,
		  const struct worker_job *job); /* -ENOMEM; fds stay the caller's */
bool worker_next(struct worker *w, struct worker_job *ret);
