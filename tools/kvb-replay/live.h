/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What the processes of a live replay share: one anonymous mapping, made before the first fork.
 *
 * The ticket keeps the order of requests. Who holds it takes the next request, does its LOOKUP and
 * its ALLOC, and passes it on; filling, sealing, verifying and releasing happen without it, so as
 * many requests overlap there as there are clients. It is a robust process-shared mutex: waiters
 * sleep in the kernel, and a client that dies with it is noticed by the next.
 */

#include <pthread.h>
#include <stdint.h>

#include "tools/kvb-replay/replay.h"

struct live_client {
	struct replay_counts n; /* written by the client, read by the parent after its end */
} __attribute__((aligned(128)));

struct live_shared {
	pthread_mutex_t ticket;
	size_t next;       /* request; under the ticket */
	uint64_t start_ns; /* CLOCK_MONOTONIC at which the first request may start; under the ticket
			    */
	/* atomics */
	uint32_t ready;  /* clients that are connected and have their memory */
	uint32_t stop;   /* take no further request */
	uint32_t failed; /* somebody has said why */
	uint32_t done;   /* requests finished */
	struct live_client client[REPLAY_CLIENTS_MAX];
};

/* CLOCK_MONOTONIC. */
uint64_t live_clock_ns(void);

/* The whole life of client `index` in its process; the exit code. */
enum replay_exit client_main(const struct replay_options *o, const struct trace *t,
			     struct live_shared *shared, uint32_t index);

/* "host" or "cuda". */
const char *live_device_name(const struct replay_options *o);

/*
 * Evictions of the replay's device since the broker's start, by all its clients, from the segment
 * the broker publishes its counters in. 0, or -errno with the reason in why.
 */
int evictions_read(const struct replay_options *o, uint64_t *ret, char why[256]);
