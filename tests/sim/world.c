/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Moves a world that was made from a seed (world_make.c), and ends it: see world.h.
 */

#include "tests/sim/world.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define W_SECOND_NS 1000000000ull
#define COMPARE_EVERY 61
#define CHECK_EVERY 23
#define SETTLE_TURNS 20000u

static const struct {
	const char *name;
	void (*run)(struct world *w);
	uint32_t weight; /* usual one */
	bool vital;      /* without it a history goes nowhere: never switched off */
} ops[OP_N] = {
	[OP_ALLOC] = { "alloc", op_alloc, 60, true },
	[OP_FREE] = { "free", op_free, 20, false },
	[OP_SEAL] = { "seal", op_seal, 60, true },
	[OP_LOOKUP] = { "lookup", op_lookup, 60, false },
	[OP_RELEASE] = { "release", op_release, 90, true },
	[OP_PIN] = { "pin", op_pin, 10, false },
	[OP_HINT] = { "hint", op_hint, 12, false },
	[OP_LOAD] = { "load", op_load, 50, false },
	[OP_STORE] = { "store", op_store, 15, false },
	[OP_ARRIVED] = { "arrived", op_arrived, 15, false },
	[OP_MOVER] = { "mover", op_mover, 60, true },
	[OP_READY] = { "ready", op_ready, 2, false },
	[OP_ROT] = { "rot", op_rot, 4, false },
	[OP_STORE_IO] = { "store-io", op_store_io, 60, true },
	[OP_STORE_TURN] = { "store-turn", op_store_turn, 2, false },
	[OP_STORE_LOSE] = { "store-lose", op_store_lose, 4, false },
	[OP_FIND] = { "find", op_find, 6, false },
	[OP_PAGE_EVICT] = { "evict", op_page_evict, 4, false },
	[OP_PAGE_PIN] = { "page-pin", op_page_pin, 4, false },
	[OP_GROW] = { "grow", op_grow, 12, true },
	[OP_SHRINK] = { "shrink", op_shrink, 4, false },
	[OP_RECLAIM] = { "reclaim", op_reclaim, 10, true },
	[OP_OVERDUE] = { "overdue", op_overdue, 3, false },
	[OP_DEVICE] = { "device", op_device, 30, true },
	[OP_MEMBERS] = { "members", op_members, 30, true },
	[OP_WORK] = { "work", op_work, 15, true },
	[OP_TIME] = { "time", op_time, 10, true },
	[OP_CLIENT_OPEN] = { "open", op_client_open, 8, true },
	[OP_CLIENT_CLOSE] = { "close", op_client_close, 3, false },
	[OP_SPACE_OPEN] = { "space-open", op_space_open, 10, true },
	[OP_SPACE_CLOSE] = { "space-close", op_space_close, 3, false },
	[OP_NS_OPEN] = { "ns-open", op_ns_open, 8, true },
	[OP_EPOCH_BUMP] = { "epoch-bump", op_epoch_bump, 2, false },
	[OP_NS_BUMP] = { "ns-bump", op_ns_bump, 1, false },
	[OP_NS_ADVANCE] = { "ns-advance", op_ns_advance, 1, false },
	[OP_TENANT_SET] = { "tenant-set", op_tenant_set, 3, true },
	[OP_TENANT_DELETE] = { "tenant-delete", op_tenant_delete, 1, false },
};

const char *op_name(enum op op)
{
	return ops[op].name;
}

uint32_t op_weight(enum op op)
{
	return ops[op].weight;
}

bool op_is_vital(enum op op)
{
	return ops[op].vital;
}

void world_fail(struct world *w, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(w->why, sizeof(w->why), fmt, ap);
	va_end(ap);
	longjmp(w->failed, 1);
}

void world_say(struct world *w, const char *fmt, ...)
{
	va_list ap;

	if (!w->verbose)
		return;
	printf("%6llu  ", (unsigned long long)w->step);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
}

/* ---- chance -------------------------------------------------------------------------------- */

int world_pick_client(struct world *w, uint8_t state)
{
	uint32_t n = 0, at;

	for (int i = 0; i < M_CLIENTS; i++)
		n += w->m.client[i].state == state;
	if (!n)
		return M_NONE;
	at = rnd(w, n);
	for (int i = 0;; i++) {
		if (w->m.client[i].state == state && at-- == 0)
			return i;
	}
}

static bool member_acts(const struct world *w, int member)
{
	const struct m_member *m = &w->m.member[member];

	return m->used && w->m.client[m->client].state == CORE_CLIENT_ATTACHED;
}

int world_pick_member(struct world *w)
{
	uint32_t n = 0, at;

	for (int i = 0; i < M_MEMBERS; i++)
		n += member_acts(w, i);
	if (!n)
		return M_NONE;
	at = rnd(w, n);
	for (int i = 0;; i++) {
		if (member_acts(w, i) && at-- == 0)
			return i;
	}
}

int world_pick_ns(struct world *w, int client)
{
	const struct m_client *cl = &w->m.client[client];

	if (w->cfg.traffic && cl->ns_n && !chance(w, 8))
		return 0;
	return cl->ns_n ? (int)rnd(w, cl->ns_n) : M_NONE;
}

void world_remember(struct world *w, kvb_page_t name)
{
	w->names[w->names_next++ % W_NAMES] = name;
}

static kvb_page_t wild_name(struct world *w)
{
	uint32_t id;

	switch (rnd(w, 4)) {
	case 0:
		return w->names[rnd(w, W_NAMES)];
	case 1:
		id = rnd(w, 200);
		return KVB_PAGE(rnd(w, 4), id);
	case 2:
		return KVB_PAGE_NONE;
	default:
		return rng_next(&w->rng);
	}
}

uint32_t world_pick_pages(struct world *w, int member,
			  bool (*want)(const struct m_page *p, int client), uint32_t n,
			  kvb_page_t *ret)
{
	const struct m_member *mm = &w->m.member[member];
	const struct m_space *s = &w->m.space[mm->space];
	uint32_t ids = s->slots * s->pages_per_slab, from = rnd(w, ids), got = 0;

	for (uint32_t k = 0; k < ids && got < n; k++) {
		uint32_t id = (from + k) % ids;
		const struct m_page *p = model_page_at(&w->m, mm->space, id);
		if (!p) /* no slab: on to the next */
			k += s->pages_per_slab - 1 - id % s->pages_per_slab;
		else if (want(p, mm->client))
			ret[got++] = KVB_PAGE(p->gen, id);
	}
	if (!got || chance(w, w->cfg.wild_one_in)) {
		uint32_t at = rnd(w, got + (got < n));
		ret[at] = got && chance(w, 2) ? ret[rnd(w, got)] : wild_name(w);
		got += at == got;
	}
	return got;
}

/* ---- what comes later ---------------------------------------------------------------------- */

void world_later(struct world *w, enum event_kind kind, unsigned index, unsigned slot,
		 uint32_t life)
{
	for (unsigned i = 0; i < W_EVENTS; i++) {
		struct event *e = &w->events[i];
		if (e->kind != EVENT_NONE)
			continue;
		*e = (struct event){ kind, w->step + rnd(w, w->cfg.delay + 1), index, slot, life };
		return;
	}
	world_fail(w, "the simulator's list of events is full");
}

bool world_event_take(struct world *w, bool all, struct event *ret)
{
	for (unsigned i = 0; i < W_EVENTS; i++) {
		struct event *e = &w->events[i];
		if (e->kind == EVENT_NONE || (!all && e->due_step > w->step))
			continue;
		*ret = *e;
		e->kind = EVENT_NONE;
		return true;
	}
	return false;
}

/* ---- beginning and end ---------------------------------------------------------------------- */

/* Somebody has to be there, with memory, before a history can go anywhere. */
static void settle_in(struct world *w)
{
	static void (*const first[])(struct world *) = {
		op_tenant_set, op_client_open, op_client_open, op_space_open,
		op_ns_open,    op_grow,        op_device,      op_members,
	};

	for (uint32_t n = rng_range(&w->rng, 3, 12); n; n--) {
		for (unsigned i = 0; i < sizeof(first) / sizeof(first[0]); i++) {
			first[i](w);
			model_absorb(w);
		}
	}
}

void world_start(struct world *w, uint64_t seed)
{
	static const uint64_t secret[4] = { 0x243f6a8885a308d3ull, 0x13198a2e03707344ull,
					    0xa4093822299f31d0ull, 0x082efa98ec4e6c89ull };
	bool verbose = w->verbose;

	memset(w, 0, offsetof(struct world, failed));
	w->verbose = verbose;
	w->seed = seed;
	rng_init(&w->rng, seed);
	world_choose(w);
	w->mem_bytes = core_bytes(&w->cfg.limits);
	w->mem = aligned_alloc(4096, (w->mem_bytes + 4095) / 4096 * 4096);
	if (!w->mem)
		abort();
	memset(w->mem, 0, w->mem_bytes);
	core_init(&w->c, w->mem, &w->cfg.limits, secret, seed, &policy_lru);
	w->now_ns = W_SECOND_NS;
	core_set_time(&w->c, w->now_ns);
	world_make_devices(w);
	if (w->cfg.store_room)
		op_store_turn(w);
	settle_in(w);
}

void world_stop(struct world *w)
{
	model_free(&w->m);
	free(w->mem);
	w->mem = NULL;
}

/* ---- moving it ----------------------------------------------------------------------------- */

static void check_core(struct world *w)
{
	char why[256] = "";

	if (core_check(&w->c, why, sizeof(why)))
		world_fail(w, "core_check: %s", why);
}

void world_step(struct world *w)
{
	uint32_t at = rnd(w, w->cfg.weight_sum);
	struct event e;
	unsigned op = 0;

	w->step++;
	while (world_event_take(w, false, &e)) {
		event_run(w, &e);
		model_absorb(w);
	}
	while (at >= w->cfg.weight[op])
		at -= w->cfg.weight[op++];
	world_trace(w, op);
	ops[op].run(w);
	w->did[op]++;
	model_absorb(w);
	if (w->step % COMPARE_EVERY == 0)
		model_compare(w);
	if (w->step % CHECK_EVERY == 0)
		check_core(w);
}

/* What a revoked slab holds waits to be written down, as long as there is time. */
static bool may_wait(const struct world *w, const struct m_space *s, const struct m_slab *slab)
{
	return tier_serves(w, s) && w->now_ns < slab->deadline_ns;
}

/* No page may wait for core_work() when it says that it has nothing to do. */
void world_expect_dry(struct world *w)
{
	for (unsigned i = 0; i < M_SPACES; i++) {
		const struct m_space *s = &w->m.space[i];
		for (unsigned slot = 0; s->used && slot < s->slots; slot++) {
			for (uint32_t k = 0; s->slab[slot].pages && k < s->pages_per_slab; k++) {
				const struct m_page *p = &s->slab[slot].pages[k];
				world_expect(
					w,
					p->state != CORE_PAGE_FILLING ||
						w->m.client[p->owner].state == CORE_CLIENT_ATTACHED,
					"a page of a client that left is not in quarantine and "
					"core_work() is dry");
				if (p->state != CORE_PAGE_SEALED || model_leased(p) || p->busy)
					continue;
				world_expect(
					w, p->epoch == w->m.ns[p->ns].epoch,
					"a page of a past epoch is left and core_work() is dry");
				world_expect(
					w,
					s->slab[slot].state == CORE_SLAB_LIVE ||
						may_wait(w, s, &s->slab[slot]),
					"slab %u is revoked, holds a page and core_work() is dry",
					s->slab[slot].core);
			}
		}
	}
	for (unsigned i = 0; i < M_CLIENTS; i++) {
		const struct m_client *cl = &w->m.client[i];
		world_expect(w, cl->state != CORE_CLIENT_DEAD,
			     "client %u is not reaped and core_work() is dry", i);
		world_expect(w, cl->state != CORE_CLIENT_LEAVING || !cl->leases,
			     "client %u is gone, has leases, and core_work() is dry", i);
	}
}

static bool settle(struct world *w)
{
	struct event e;
	bool more = core_work(&w->c, w->cfg.work_units);

	model_absorb(w);
	op_device(w);
	model_absorb(w);
	op_members(w);
	model_absorb(w);
	op_mover(w);
	model_absorb(w);
	store_serve(w, true);
	while (world_event_take(w, true, &e)) {
		event_run(w, &e);
		model_absorb(w);
		more = true;
	}
	return more;
}

static void expect_no_charges(struct world *w)
{
	const struct core *c = &w->c;

	for (unsigned i = 0; i < c->h->limits.tenants; i++) {
		const struct core_tenant *t = &c->tenants[i];
		world_expect(
			w, !t->clients && !t->pages_held && !t->leases && !t->pins,
			"I4: tenant %u still has %u clients, %u held pages, %llu leases, %llu pins",
			i, t->clients, t->pages_held, (unsigned long long)t->leases,
			(unsigned long long)t->pins);
		for (unsigned d = 0; d < CORE_DEVICES_MAX; d++)
			world_expect(w, !t->budget[d].used_bytes,
				     "I4: tenant %u is charged %llu bytes", i,
				     (unsigned long long)t->budget[d].used_bytes);
	}
	for (unsigned d = 0; d < CORE_DEVICES_MAX; d++)
		world_expect(w, !c->h->device[d].granted_bytes && !c->h->device[d].slabs,
			     "I4: device %u still has %llu bytes granted", d,
			     (unsigned long long)c->h->device[d].granted_bytes);
	world_expect(w, !c->h->transfers_used, "I4: %u transfers are left", c->h->transfers_used);
	world_expect(w, !c->h->leases_used && !c->h->indexed, "I4: %u leases, %u keys are left",
		     c->h->leases_used, c->h->indexed);
}

void world_finish(struct world *w)
{
	uint32_t turns = 0;

	for (int i = 0; i < M_CLIENTS; i++) {
		if (w->m.client[i].state == CORE_CLIENT_ATTACHED)
			life_close_client(w, i);
		model_absorb(w);
		if (w->m.client[i].state == CORE_CLIENT_LEAVING)
			life_dead_client(w, i);
		model_absorb(w);
	}
	while (settle(w))
		world_expect(w, ++turns < SETTLE_TURNS, "core_work() never runs dry");
	check_core(w);
	for (unsigned i = 0; i < M_CLIENTS; i++)
		world_expect(w, w->m.client[i].state == CORE_CLIENT_FREE,
			     "client %u was not reaped", i);

	/* What is left is cached content that nobody uses: it goes when its memory is taken. */
	for (unsigned i = 0; i < M_SPACES; i++) {
		if (w->m.space[i].used)
			core_space_shrink(&w->c, i, KVB_SLOTS_MAX, 0);
		w->may_revoke = true;
		model_absorb(w);
	}
	while (settle(w))
		world_expect(w, ++turns < 2 * SETTLE_TURNS, "core_work() never runs dry");
	model_compare(w);
	check_core(w);
	expect_no_charges(w);
	for (unsigned i = 0; i < M_TENANTS; i++)
		world_expect(w, !w->m.tenant[i].used || core_tenant_delete(&w->c, i) == 0,
			     "tenant %u has nothing and can not be deleted", i);
	check_core(w);
}

bool world_run(struct world *w, uint64_t seed, uint64_t steps)
{
	volatile bool held = false;

	w->mem = NULL;
	if (!setjmp(w->failed)) {
		world_start(w, seed);
		while (w->step < steps)
			world_step(w);
		world_finish(w);
		held = true;
	}
	world_stop(w);
	return held;
}
