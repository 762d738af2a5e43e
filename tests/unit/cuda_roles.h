/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * One device of the stand-in driver with an owner and a client on it, for the tests of the two
 * sides. Whether memory came back is asked by taking all of it, so no other process shares the
 * device, and it is small.
 *
 * Every case runs in a process of its own, which sets the stand-in up before it loads the driver.
 */

#include "cuda_driver/cuda_api.h"
#include "cuda_driver/cuda_client.h"
#include "cuda_driver/cuda_error.h"
#include "cuda_driver/cuda_owner.h"
#include "tests/unit/suite.h"

#define MIB (1ull << 20)
#define DEVICE_BYTES (64 * MIB)
#define HANDLE_BYTES (4 * MIB)
#define HANDLES 16u /* of the whole device */
#define BATCH 4u

struct roles {
	const struct cuda_api *api;
	struct cuda_owner *owner;
	struct cuda_client *client;
	uint64_t base; /* of a range as long as the device */
	uint64_t tokens[HANDLES];
	uint64_t addresses[HANDLES]; /* adjacent, from base */
	int fds[HANDLES];
};

/* Runs the cases on devices that are gone afterwards. Returns main()'s exit status. */
int roles_run(const char *name, const struct suite_case *cases);

/* FAKECUDA, before the first call to the driver. `more` begins with a comma, or is "". */
void fake_set(unsigned int gpus, const char *more);

/* With a device set up like that, both sides, and a range. */
void roles_open(struct roles *r, const char *more);
/* Closes both sides; all memory is free then. */
void roles_close(struct roles *r);

/* n handles with their fds and tokens. */
void roles_create(struct roles *r, uint32_t n);
/* Closes their fds and releases their tokens; maps may remain. */
void roles_drop(struct roles *r, uint32_t n);

/* Maps the first n at addresses[]. */
int roles_map(struct roles *r, uint32_t n);
/* A word of device memory. */
uint64_t roles_read(struct roles *r, uint64_t address);
void roles_write(struct roles *r, uint64_t address, uint64_t word);
