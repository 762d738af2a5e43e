/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The store of a simulated replay: what broker/store/ is to the core, without disk or bytes.
 *
 * A set of keys in the order of age, each with the stamp of its page. Who is written goes behind
 * all others; when there are as many as there may be, the oldest goes, unless it was read since it
 * was written: then it is carried, to the end again, and counts as not read. As in the real one a
 * quarter of what is looked at may be carried, segment by segment, so that room is made whatever
 * was read. The real store empties a segment at once and this one a page at a time: a store of
 * `pages` here is one there that has so many on average.
 *
 * Admission is the daemon's own code.
 */

#include <stdbool.h>
#include <stdint.h>

struct sim;
struct sim_store;

/* From now on the core has it. 0, -ENOMEM. */
int sim_store_open(struct sim *s, uint64_t pages, bool filter);
void sim_store_close(struct sim *s);

/* Carries out what the core wants of it. True: there was something. */
bool sim_store_settle(struct sim *s);
/* Pages written a second time, because they were read. */
uint64_t sim_store_carried(const struct sim *s);
