/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Breaks of the core's tables, and who has to notice each: see sabotage.c.
 */

#include "tests/sim/world.h"

#define BY_CHECK 1u
#define BY_MODEL 2u

struct sabotage {
	const char *name;
	bool (*apply)(struct world *w); /* false: nothing here to break */
	unsigned by;
	bool later;
};

/* Those of pages, people and memory, and those of tiers (sabotage_tier.c); the last has no name. */
extern const struct sabotage sabotages[], sabotages_of_tiers[];

/* A page record of a slab in use that `want` accepts; CORE_NONE. */
uint32_t sabotage_find(struct world *w, bool (*want)(const struct core_page *p));

static inline bool is_indexed(const struct core_page *p)
{
	return p->state == CORE_PAGE_SEALED && p->flags & CORE_PAGE_INDEXED;
}

static inline bool is_leased(const struct core_page *p)
{
	return p->state == CORE_PAGE_SEALED && p->leases;
}

#define BREAK_PAGE(name, want, statement)                                                          \
	static bool name(struct world *w)                                                          \
	{                                                                                          \
		uint32_t page = sabotage_find(w, want);                                            \
		if (page == CORE_NONE)                                                             \
			return false;                                                              \
		struct core_page *p = &w->c.pages[page];                                           \
		statement;                                                                         \
		return true;                                                                       \
	}

#define BREAK_SLAB(name, want, statement)                                                          \
	static bool name(struct world *w)                                                          \
	{                                                                                          \
		uint32_t page = sabotage_find(w, want);                                            \
		if (page == CORE_NONE)                                                             \
			return false;                                                              \
		struct core_slab *slab = &w->c.slabs[w->c.units[page / CORE_UNIT_PAGES]];          \
		statement;                                                                         \
		return true;                                                                       \
	}
