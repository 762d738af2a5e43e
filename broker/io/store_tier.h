/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The store as the daemon's last tier: broker/store/ below broker/core/.
 *
 *      core: transfers of the store ---> here ---> store_put(), store_get() ---> files, devices
 *      core: has(), admit()         <--- here <--- the store's index, the admission filter
 *
 * The core decides what is written and read; here it is carried out, between the files and the
 * memory that pages lie in: slabs of `host` devices and of arenas, which the daemon maps when the
 * first page of one is moved, and unmaps before the slab goes back. A slab goes back only when none
 * of its pages is BUSY, so nothing is in flight then.
 *
 * Namespaces. The store knows them by digest and tenant, with their epochs, also after a restart.
 * One that is opened takes over the store's epoch if that is later: so what was written before is
 * found again, and what was ended stays ended. A bump is durable when the store has said so.
 *
 * Nothing here blocks but opening, before the daemon serves, and closing. A store that fails takes
 * nothing with it: its pages are misses, and `state` says so to operators.
 *
 * Without --store server.store is NULL, and all of this does nothing. The loop's thread only.
 */

#include <stdbool.h>
#include <stdint.h>

struct server;
struct store;
struct store_jobs;
struct store_stats;

/* After core_init(), the devices and the loop. Logs why it fails. 0, -errno. */
int store_tier_new(struct server *s);
/* Writes out what the store has been given; what the core still had queued fails. */
void store_tier_free(struct server *s);

/* ---- the turn ------------------------------------------------------------------------------ */

/* Transfers to the store, completions back. True: something was done. */
bool store_tier_turn(struct server *s);
bool store_tier_hot(const struct server *s);         /* a read is about to end: do not sleep */
uint64_t store_tier_next_ns(const struct server *s); /* when it wants a turn; UINT64_MAX: never */

/* ---- for others ---------------------------------------------------------------------------- */

/* A slab is about to be given back: its memory is not the daemon's any more. */
void store_tier_slab_close(struct server *s, unsigned slab);

/* A client has opened a namespace: of the core's index. Its epoch may be a later one afterwards. */
void store_tier_ns_opened(struct server *s, unsigned ns);
/* Its epoch has moved: the store is told. */
void store_tier_ns_bumped(struct server *s, unsigned ns);
/* 1: a crash does not bring that bump back, or there is no store; 0: not yet; -EIO: it may. */
int store_tier_ns_settled(const struct server *s, unsigned ns);

/* Figures. False: there is no store. */
bool store_tier_get_stats(const struct server *s, struct store_stats *ret);

/* For operators: the store itself, NULL where there is none; and what they wait for. */
struct store *store_tier_store(const struct server *s);
struct store_jobs *store_tier_jobs(const struct server *s);
