/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A small core to test: a device, and short ways to people and memory.
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

/* A core with device host:0 of `handles` handles of 2 MiB; limits may be NULL. */
void fixture_start(struct fixture *f, const struct core_limits *limits, uint32_t handles);
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

/* n pages, all of which there must be. */
void fixture_alloc(struct fixture *f, struct core_member *m, uint32_t n, kvb_page_t *ret);
/* One page under key in namespace 0, sealed and leased. */
kvb_page_t fixture_seal(struct fixture *f, struct core_member *m, uint64_t key);
int fixture_release(struct fixture *f, struct core_member *m, kvb_page_t page); /* status */
/* The leased page under key, or KVB_PAGE_NONE. */
kvb_page_t fixture_lookup(struct fixture *f, struct core_member *m, unsigned ns, uint64_t key);

#define assert_batch(b, want_done, want_status)                                                    \
	do {                                                                                       \
		struct core_batch b_ = (b);                                                        \
		ck_assert_uint_eq(b_.done, want_done);                                             \
		ck_assert_int_eq(b_.status, want_status);                                          \
	} while (0)
