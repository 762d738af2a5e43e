/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The seam between the core and what decides which page goes next.
 *
 * A policy keeps an order over the sealed pages of each space in the fields the tables set aside
 * for it (core_page.prev/next/flags, core_space.hot/cold/listed). It is pure: no clock, no memory
 * of its own, so that the daemon, the simulator and `kvb-replay --sim` decide alike.
 *
 * Contract. A page that is leased when the core asks for victims may be in the order; the policy
 * leaves it out of its answer and may drop it from the order, because its release brings it back.
 * A policy must not evict: it names victims, the core does.
 */

#include <stdint.h>

struct core;
struct core_space;

struct policy_ops {
	const char *name;
	const char *summary;
	/* The last lease on a sealed page has gone: it is now a candidate. */
	void (*touch)(struct core *c, uint32_t page);
	/* The page stops being a candidate (evicted, revoked, stale); no-op when not
	 * CORE_PAGE_LISTED. */
	void (*forget)(struct core *c, uint32_t page);
	/*
	 * Up to `want` victims, each taken out of the order, next one first. *work is the number of
	 * pages it may look at; it is decreased. Returns how many.
	 */
	uint32_t (*victims)(struct core *c, struct core_space *s, uint32_t want,
			    uint32_t *ret_pages, uint32_t *work);
};

extern const struct policy_ops policy_lru;

/* By name; NULL when there is none. */
const struct policy_ops *policy_find(const char *name);
/* i-th policy; NULL at the end. */
const struct policy_ops *policy_at(unsigned i);
