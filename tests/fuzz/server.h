/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The daemon's own server, turned by hand inside a fuzz target.
 *
 * Everything is real: tables, sessions, rings, the device worker with its memfds, the loop. Only
 * the listener is stepped over, because a connection is a socket pair here, and the wheel, because
 * a target has to know when the daemon has done with an input. One input, one server: what an input
 * does must not depend on the inputs before it.
 *
 * The peer's process is one that has died already (its pidfd says so), so that ends of sessions
 * come to their end without waiting.
 */

#include <stdio.h>
#include <stdlib.h>

#include "broker/io/server.h"
#include "tests/fault/peer.h"

#define MUST(cond)                                                                                 \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			fprintf(stderr, "broken: %s\n", #cond);                                    \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

/* A server with one device of 8 MiB and the tenants "default" and "other". */
void fuzz_server_start(struct server *s);
/* Turns until there is nothing to do; then the tables must be whole. */
void fuzz_server_settle(struct server *s);
/* A connection; the client's end is the caller's. */
int fuzz_server_connect(struct server *s);
/* Everybody has gone by now, the caller has closed its ends: nothing may be left. */
void fuzz_server_end(struct server *s);

/* An input, taken from the front; zeros when it is at its end. */
struct fuzz_input {
	const uint8_t *at;
	size_t left;
};
void fuzz_take(struct fuzz_input *in, void *to, size_t bytes);
uint8_t fuzz_take_byte(struct fuzz_input *in);
