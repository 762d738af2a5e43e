/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A store for the core of a fixture: the set of keys of namespace 0 that it is said to have, and
 * what the core gives out for it, which ends when the test says so and as it says.
 */

#include "tests/unit/fixture.h"

#define STORE_KEYS 256u /* 0 .. STORE_KEYS - 1 */

struct fixture_store {
	struct fixture *f;
	uint16_t space;             /* that clients have open */
	uint32_t epoch[STORE_KEYS]; /* that it has the key in; 0: it has not */
	bool refused[STORE_KEYS];   /* admission does not want it */
	unsigned admits;            /* times that admission was asked */
};

/* A core with device host:0 and nothing below it, room for `transfers`, one member, a store. */
struct core_member *fixture_store_host(struct fixture_store *s, struct fixture *f, uint32_t slabs,
				       uint32_t transfers);
/* The same with an arena of so many handles of eight pages below the device. */
struct core_member *fixture_store_arena(struct fixture_store *s, struct fixture *f, uint32_t slabs,
					uint32_t arena_handles, uint32_t transfers);
void fixture_store_attach(struct fixture_store *s);

/* It has `n` keys from `first` on, in this epoch. */
void fixture_store_put(struct fixture_store *s, uint64_t first, uint32_t n);
bool fixture_store_has(const struct fixture_store *s, uint64_t key);

/* Its next transfer, which there must be, in flight from here on. */
unsigned fixture_store_take(struct fixture_store *s);
/* The key of one in flight. */
uint64_t fixture_store_key(const struct fixture_store *s, unsigned transfer);
/* It ends; what is read has the checksum that fixture_done() expects. */
void fixture_store_done(struct fixture_store *s, unsigned transfer, int error);
/* It does everything that is queued for it; how many. */
uint32_t fixture_store_serve(struct fixture_store *s);

/* Key `first` and the next ones are below only. */
void fixture_store_sink(struct fixture_store *s, struct core_member *m, uint64_t first, uint32_t n);
