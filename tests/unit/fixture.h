/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A small core to test: a device, and short ways to people and memory. With an arena below the
 * device, a mover too, which does what the core queues when the test says so and as it says.
 *
 * Every helper asserts what it does, so that a test reads as its own subject only. All of them work
 * on one struct fixture that lives as long as the test.
 */

#include <check.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>

#include "broker/core/core.h"
#include "broker/policy/policy.h"

#define MIB (1ull << 20)
#define HANDLE_BYTES (2 * MIB)
#define STRIDE_8 (256ull << 10) /* eight pages a slab */

struct fixture {
	struct core c;
	void *mem;
};

/* What fixture_start() does without limits of a test's own. */
extern const struct core_limits fixture_limits;

/* A core with device host:0 of `handles` handles of 2 MiB; limits may be NULL. */
void fixture_start(struct fixture *f, const struct core_limits *limits, uint32_t handles);
/*
 * The same with a host arena of `arena_handles` below the device and room for `transfers`; the
 * mover serves. Spaces opened on it have a lower tier.
 */
void fixture_start_tiers(struct fixture *f, uint32_t handles, uint32_t arena_handles,
			 uint32_t transfers);
/* Checks the tables and frees them. */
void fixture_end(struct fixture *f);
void fixture_check(struct fixture *f);

unsigned fixture_tenant(struct fixture *f, const char *name, uint64_t min_bytes,
			uint64_t max_bytes);
unsigned fixture_client(struct fixture *f, unsigned tenant);
/* Joins a space of one region. */
struct core_member *fixture_space(struct fixture *f, unsigned client, uint64_t stride_bytes);
/* A namespace's handle is its record here, because every client opens them in the same order. */
unsigned fixture_ns(struct fixture *f, unsigned client, uint8_t digest, uint32_t flags);

/* The device creates and takes back what it is asked for; every member maps what it is sent. */
void fixture_serve(struct fixture *f);
/* Grows by `slabs`, which must succeed at once, and serves. */
void fixture_grow(struct fixture *f, struct core_member *m, uint32_t slabs);
/* core_work() until it is dry, serving in between. */
void fixture_settle(struct fixture *f);
void fixture_seconds(struct fixture *f, uint32_t seconds); /* lets them pass */

static inline struct kvb_hash fixture_hash(uint64_t key)
{
	return (struct kvb_hash){ { key * 0x9e3779b97f4a7c15ull, key } };
}

/* A test client and one member with `slabs` slabs of eight pages, tenant "t" without bounds. */
struct core_member *fixture_member(struct fixture *f, uint32_t slabs);

static inline struct core_space *fixture_space_of(struct fixture *f, const struct core_member *m)
{
	return &f->c.spaces[m->space];
}

/* The one below it, which there must be. */
static inline struct core_space *fixture_space_below(struct fixture *f, const struct core_member *m)
{
	return &f->c.spaces[fixture_space_of(f, m)->below];
}

/* n pages, all of which there must be. */
void fixture_alloc(struct fixture *f, struct core_member *m, uint32_t n, kvb_page_t *ret);
/* One page under key in namespace 0, sealed and leased. */
kvb_page_t fixture_seal(struct fixture *f, struct core_member *m, uint64_t key);
int fixture_release(struct fixture *f, struct core_member *m, kvb_page_t page); /* status */
/* The leased page under key, or KVB_PAGE_NONE. */
kvb_page_t fixture_lookup(struct fixture *f, struct core_member *m, unsigned ns, uint64_t key);

/* One page under key, sealed, not leased. */
void fixture_cache(struct fixture *f, struct core_member *m, uint64_t key);
/* `n` of them, from key `first` on. */
void fixture_cache_run(struct fixture *f, struct core_member *m, uint64_t first, uint32_t n);

/* ---- the mover ----------------------------------------------------------------------------- */

/* The next transfer of device 0, which there must be, in flight from here on. */
unsigned fixture_take(struct fixture *f);
/*
 * It ends. What is written down has a checksum that depends on its key; what comes up must expect
 * the one it went down with.
 */
void fixture_done(struct fixture *f, unsigned transfer, int error);
/* Everything that is queued is copied, and the arena's slabs are made; how many copies. */
uint32_t fixture_move(struct fixture *f);
/* The record of the page under key in the space of m, or in the one below it; CORE_NONE. */
uint32_t fixture_above(const struct fixture *f, const struct core_member *m, uint64_t key);
uint32_t fixture_below(const struct fixture *f, const struct core_member *m, uint64_t key);
/* Writes the page under key down, copies it and evicts the one above: it is below only. */
void fixture_sink(struct fixture *f, struct core_member *m, uint64_t key);
/* LOAD of one key: its page, leased, or KVB_PAGE_NONE; *ret_wait as core_load() says. */
kvb_page_t fixture_load(struct fixture *f, struct core_member *m, uint64_t key, bool *ret_wait);
/* The record of a page that m knows. */
uint32_t fixture_record(const struct fixture *f, const struct core_member *m, kvb_page_t page);
/* Of one page that LOAD named: 1 it has come, 0 it is on its way, -1 it never will. */
int fixture_arrived(const struct fixture *f, const struct core_member *m, kvb_page_t page);

#define assert_batch(b, want_done, want_status)                                                    \
	do {                                                                                       \
		struct core_batch b_ = (b);                                                        \
		ck_assert_uint_eq(b_.done, want_done);                                             \
		ck_assert_int_eq(b_.status, want_status);                                          \
	} while (0)
