/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What store_tier.c and store_copy.c share, and nobody else includes: the daemon's state of its
 * store.
 */

#include "broker/io/server.h"
#include "broker/io/store_jobs.h"
#include "broker/io/store_tier.h"
#include "broker/mover/sum.h"
#include "broker/policy/admit.h"
#include "broker/store/store.h"

/* A namespace of the core, as the store knows it. */
struct tier_ns {
	bool known;
	uint16_t row;               /* the store's; STORE_NS_NONE */
	uint8_t name[32];           /* of the row */
	uint32_t bumps;             /* on their way */
	int bump_error;             /* of the last that failed */
	struct store_identity last; /* what keys were last made for, but for the domain */
	struct store_place place;   /* and where that is */
};

enum copy_stage { COPY_NONE = 0, COPY_WAITS, COPY_SUMS, COPY_FLIES };

/* A transfer that the core has given out. */
struct store_copy {
	uint8_t stage;
	bool has_sum;  /* down: `sum` is of the page */
	bool pooled;   /* its checksum is the pool's to make */
	uint16_t next; /* WAITS, SUMS: of the list */
	uint32_t sum;
	struct store_key key;
	struct mover_sum_job job;
	struct mover_page page;
};

struct store_tier {
	struct server *server;
	struct store *store;
	struct loop_source event, summed;
	bool rung;
	struct store_copy *copy;        /* by core transfer */
	uint16_t wait_first, wait_last; /* that the store had no room for, or that have a sum now */
	uint16_t sum_first;             /* whose sums are made */
	uint32_t reads;                 /* that the store has */
	uint64_t read_ns;               /* when it was last given one, or ended one */
	struct mover_sums sums;
	char **slab;        /* by core slab: where it is mapped; NULL */
	struct tier_ns *ns; /* by core namespace */
	struct admit admit;
	uint64_t *admit_bits[2];
	struct log_limit limit;
	struct store_jobs jobs;
};

/* store_tier.c: a key as the store has it. False: it has no row for the namespace. */
bool store_tier_key(const struct server *s, const struct core_key *key, struct store_key *ret);

/* store_copy.c */
int store_copy_new(struct server *s); /* 0, -errno */
void store_copy_free(struct server *s);
bool store_copy_submit(struct server *s); /* what the core wants copied; true: some */
void store_copy_done(struct server *s, const struct store_done *d);
