/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The daemon's side of a mover, for tests: a ring it writes, memory it tells of, and a mover
 * process at the other end of a socketpair.
 *
 * The ring's half is the library's own (uapi/steps.h), as in the daemon. Everything that does not
 * come within seconds is a failed test.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "broker/mover/wire.h"
#include "uapi/steps.h"

#define TEST_STRIDE 4096u
#define TEST_HANDLE_BYTES (2u << 20)
#define TEST_REGIONS 3u
#define TEST_PAGES 1024u /* of a slab: two handles a region */
#define TEST_HANDLES (TEST_REGIONS * 2u)
#define TEST_CHUNK_BYTES (32u << 20)

/* A ring whose indices start at `start`, and its two eventfds. */
struct test_ring {
	int memfd, doorbell, wake;
	char *mem;
	struct kvb_ring ring;
};

void test_ring_open(struct test_ring *r, uint32_t start);
void test_ring_close(struct test_ring *r);
/* Into the ring, not sent; false: full. */
bool test_ring_put(struct test_ring *r, const struct mover_entry *entry);
/* Sends, and rings if the mover asks for it. */
void test_ring_send(struct test_ring *r);
/* Waits for a completion, asleep as the daemon is. False: none within 5 s. */
bool test_ring_reap(struct test_ring *r, struct kvb_cqe *ret);

/* A memfd of that size, and where it is mapped. */
int test_memfd(uint64_t bytes, char **ret);

struct test_daemon {
	pid_t pid;
	int fd;
	uint32_t seq;
	struct test_ring ring;
};

/* Forks mover_main(kind, 0, 0), and receives its hello. */
void test_daemon_start(struct test_daemon *d, uint32_t kind, struct mover_hello *ret);
/* Sends a request with n fds; the seq is filled in unless `again`. Try: false when it is gone. */
bool test_daemon_try(struct test_daemon *d, struct mover_request *request, const int *fds,
		     uint32_t n, bool again);
void test_daemon_send(struct test_daemon *d, struct mover_request *request, const int *fds,
		      uint32_t n, bool again);
/* The reply to it, or fails the test. */
int test_daemon_reply(struct test_daemon *d, const struct mover_request *request);
int test_daemon_ask(struct test_daemon *d, struct mover_request request, const int *fds,
		    uint32_t n);
/* Exit status as waitpid() has it; -1: it did not end within 5 s. */
int test_daemon_wait(struct test_daemon *d);

/* Requests in the geometry above. */
struct mover_request test_chunk(uint32_t id, uint32_t sums);
struct mover_request test_slab(uint32_t id);
struct mover_request test_lower(uint32_t id, uint64_t offset_bytes);

/* crc32c, bit by bit. */
uint32_t test_crc32c(uint32_t crc, const void *bytes, uint64_t n);
