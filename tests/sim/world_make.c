/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What a seed makes of a world: its sizes, its operations, its devices.
 *
 * Swarm testing: a history switches off about a third of the operations and gives the others
 * weights of its own, because a mix of everything never gets far in any one direction.
 */

#include "tests/sim/world.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static uint32_t one_of(struct world *w, const uint32_t *from, uint32_t n)
{
	return from[rnd(w, n)];
}

/*
 * A world with lower tiers in which people stay and pages move: in the usual mix too little lasts
 * long enough to go down, let alone to come up again.
 */
static void choose_traffic(struct world *w)
{
	static const struct {
		enum op op;
		uint32_t weight;
	} often[] = {
		{ OP_ALLOC, 300 },      { OP_SEAL, 300 },     { OP_RELEASE, 500 },
		{ OP_LOAD, 300 },       { OP_LOOKUP, 60 },    { OP_STORE, 100 },
		{ OP_ARRIVED, 80 },     { OP_MOVER, 200 },    { OP_WORK, 100 },
		{ OP_PAGE_EVICT, 100 }, { OP_DEVICE, 100 },   { OP_GROW, 15 },
		{ OP_MEMBERS, 60 },     { OP_RECLAIM, 15 },   { OP_SHRINK, 4 },
		{ OP_FREE, 20 },        { OP_PIN, 10 },       { OP_TIME, 5 },
		{ OP_READY, 4 },        { OP_ROT, 4 },        { OP_EPOCH_BUMP, 6 },
		{ OP_CLIENT_OPEN, 4 },  { OP_NS_OPEN, 4 },    { OP_HINT, 2 },
		{ OP_SPACE_OPEN, 4 },   { OP_TENANT_SET, 1 }, { OP_CLIENT_CLOSE, 1 },
		{ OP_STORE_IO, 200 },   { OP_STORE_TURN, 3 }, { OP_STORE_LOSE, 6 },
		{ OP_NS_ADVANCE, 2 },
	};
	struct config *cfg = &w->cfg;

	memset(cfg->weight, 0, sizeof(cfg->weight));
	for (unsigned i = 0; i < sizeof(often) / sizeof(often[0]); i++)
		cfg->weight[often[i].op] = often[i].weight * rng_range(&w->rng, 2, 4);
	for (unsigned i = 0; i < OP_N; i++) { /* swarm: some of what is not vital is off */
		if (!op_is_vital(i) && i != OP_LOAD && rnd(w, 5) == 0)
			cfg->weight[i] = 0;
	}
	cfg->traffic = true;
	cfg->limits.tenants = 2;
	cfg->limits.clients = rng_range(&w->rng, 2, 4);
	cfg->limits.spaces = rng_range(&w->rng, 2, 8);
	cfg->limits.slabs = 64;
	cfg->limits.pages = CORE_UNIT_PAGES * rng_range(&w->rng, 40, 120);
	cfg->batch = rnd(w, 2) ? 8 : 32;
	cfg->keys = rnd(w, 2) ? 64 : 256;
	cfg->salts = 1;
	cfg->delay = rnd(w, 3) ? rnd(w, 8) : 60;
	cfg->never_one_in = 0;
	cfg->refuse_one_in = rnd(w, 4) ? 0 : 30;
	cfg->limits.leases = rnd(w, 4) ? 0 : cfg->limits.leases;
}

void world_choose(struct world *w)
{
	static const uint32_t batches[] = { 1, 4, 16, 64 };
	static const uint32_t delays[] = { 0, 3, 20, 200 };
	static const uint32_t keys[] = { 4, 16, 64, 256 };
	struct config *cfg = &w->cfg;

	cfg->limits = (struct core_limits){
		.pages = CORE_UNIT_PAGES * rng_range(&w->rng, 6, 40),
		.leases = rnd(w, 3) ? 0 : rng_range(&w->rng, 8, 200),
		.slabs = rng_range(&w->rng, 6, 48),
		.clients = rng_range(&w->rng, 2, M_CLIENTS),
		.members = rng_range(&w->rng, 3, M_MEMBERS),
		.tenants = rng_range(&w->rng, 2, M_TENANTS),
		.namespaces = rng_range(&w->rng, 2, M_NAMESPACES),
	};
	if (rnd(w, 4)) { /* with lower tiers */
		static const uint32_t transfers[] = { 1, 4, 16, W_FLIGHTS };

		cfg->limits.transfers = one_of(w, transfers, 4);
		cfg->limits.pages += CORE_UNIT_PAGES * 16;
		cfg->limits.slabs += 16;
		cfg->limits.spaces = rng_range(&w->rng, 2, M_SPACES);
		cfg->lose_one_in = rnd(w, 2) ? 0 : rng_range(&w->rng, 3, 30);
		if (rnd(w, 3)) { /* and a store */
			cfg->store_room = rnd(w, 3) ? W_STORED : rng_range(&w->rng, 1, 60);
			cfg->refuse_keys = rnd(w, 2) ? 0 : rng_range(&w->rng, 2, 6);
			cfg->store_random = rnd(w, 2);
		}
	} else {
		cfg->limits.spaces = rng_range(&w->rng, 2, 8);
	}
	if (!rnd(w, 8)) { /* a world of a few large slabs */
		cfg->small_pages = true;
		cfg->limits.pages = 3 * 4096;
	}
	cfg->batch = one_of(w, batches, 4);
	cfg->delay = one_of(w, delays, 4);
	cfg->keys = one_of(w, keys, 4);
	cfg->salts = rng_range(&w->rng, 1, 3);
	cfg->refuse_one_in = rnd(w, 2) ? 0 : rng_range(&w->rng, 3, 30);
	cfg->fail_one_in = rnd(w, 2) ? 0 : rng_range(&w->rng, 3, 30);
	cfg->never_one_in = rnd(w, 2) ? 0 : rng_range(&w->rng, 5, 30);
	cfg->wild_one_in = rnd(w, 4) ? rng_range(&w->rng, 5, 50) : 0;
	cfg->work_units = rnd(w, 2) ? 1000000 : rng_range(&w->rng, 1, 64);
	for (unsigned i = 0; i < OP_N; i++) {
		if (!op_is_vital(i) && rnd(w, 3) == 0)
			cfg->weight[i] = 0;
		else
			cfg->weight[i] = op_weight(i) * rng_range(&w->rng, 1, 8);
	}
	if (cfg->limits.transfers && !chance(w, 4))
		choose_traffic(w);
	if (!cfg->store_room)
		cfg->weight[OP_STORE_IO] = cfg->weight[OP_STORE_TURN] = cfg->weight[OP_STORE_LOSE] =
			0;
	for (unsigned i = 0; i < OP_N; i++)
		cfg->weight_sum += cfg->weight[i];
}

/* One for all devices, or one each, or none for some. */
static void make_arenas(struct world *w)
{
	uint32_t arenas = rng_range(&w->rng, 1, w->m.opens);

	for (uint32_t i = 0; i < arenas; i++) {
		struct m_device *d = &w->m.device[w->m.devices++];

		*d = (struct m_device){ .kind = CORE_KIND_ARENA,
					.ordinal = i,
					.handle_bytes = 2ull << 20,
					.below = M_NONE };
		d->capacity_bytes = d->handle_bytes * rng_range(&w->rng, 1, 30);
		world_expect(w,
			     core_arena_add(&w->c, i, d->capacity_bytes, d->handle_bytes) ==
				     (int)(w->m.opens + i),
			     "arena %u was not taken", i);
	}
	for (uint32_t i = 0; i < w->m.opens; i++) {
		if (chance(w, w->cfg.store_room ? 2 : 6))
			continue;
		w->m.device[i].below = (int)(w->m.opens + i % arenas);
		core_device_below(&w->c, i, (unsigned)w->m.device[i].below);
		w->m.device[i].ready = true;
		core_device_below_ready(&w->c, i, true);
	}
}

void world_make_devices(struct world *w)
{
	w->m.opens = 1 + (rnd(w, w->cfg.traffic ? 12 : 4) == 0);
	w->m.devices = w->m.opens;
	for (uint32_t i = 0; i < w->m.opens; i++) {
		struct m_device *d = &w->m.device[i];
		char name[KVB_NAME_BYTES];

		d->kind = KVB_DEVICE_HOST;
		d->ordinal = i;
		d->below = M_NONE;
		d->handle_bytes = 2ull << 20;
		d->capacity_bytes =
			d->handle_bytes * rng_range(&w->rng, 3, w->cfg.traffic ? 12 : 40);
		snprintf(name, sizeof(name), "host:%u", i);
		world_expect(w,
			     core_device_add(&w->c, d->kind, d->ordinal, name, d->capacity_bytes,
					     d->handle_bytes) == (int)i,
			     "device %s was not taken", name);
	}
	world_expect(w,
		     core_device_add(&w->c, KVB_DEVICE_HOST, 0, "host:0", 2 << 20, 2 << 20) ==
			     -EEXIST,
		     "a device was added twice");
	world_expect(w, core_device_find(&w->c, KVB_DEVICE_CUDA, 0) == -ENODEV,
		     "a device that is not there was found");
	if (w->cfg.limits.transfers)
		make_arenas(w);
}
