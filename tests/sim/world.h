/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * One history: a core, its model, and everything around them that a daemon would be.
 *
 * A seed fixes the sizes of the world, which operations exist in it and how often they come, and
 * every choice made on the way. What the daemon would do later (the device's answers, a client's
 * acknowledgements, the notice of a death) lies in a list of events with the step they are due.
 *
 * A failure ends the history through world_fail(), which does not return.
 */

#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>

#include "broker/core/core.h"
#include "broker/policy/policy.h"
#include "tests/sim/model.h"
#include "tests/sim/rng.h"

#define W_EVENTS 1024
#define W_NAMES 512 /* names of pages remembered, so that stale ones come back */
#define W_BATCH 64
#define W_FLIGHTS 64
#define W_STORED 256

enum op {
	OP_ALLOC,
	OP_FREE,
	OP_SEAL,
	OP_LOOKUP,
	OP_RELEASE,
	OP_PIN,
	OP_HINT,
	OP_LOAD,
	OP_STORE,
	OP_ARRIVED,
	OP_MOVER,
	OP_READY,
	OP_ROT,
	OP_STORE_IO,
	OP_STORE_TURN,
	OP_STORE_LOSE,
	OP_FIND,
	OP_PAGE_EVICT,
	OP_PAGE_PIN,
	OP_GROW,
	OP_SHRINK,
	OP_RECLAIM,
	OP_OVERDUE,
	OP_DEVICE,
	OP_MEMBERS,
	OP_WORK,
	OP_TIME,
	OP_CLIENT_OPEN,
	OP_CLIENT_CLOSE,
	OP_SPACE_OPEN,
	OP_SPACE_CLOSE,
	OP_NS_OPEN,
	OP_EPOCH_BUMP,
	OP_NS_BUMP,
	OP_NS_ADVANCE,
	OP_TENANT_SET,
	OP_TENANT_DELETE,
	OP_N,
};

enum event_kind {
	EVENT_NONE = 0,
	EVENT_CREATED,
	EVENT_FAILED,
	EVENT_CLOSED,
	EVENT_ACK,    /* the client has mapped a slab */
	EVENT_NACK,   /* the client could not */
	EVENT_DEAD,   /* the process of a closed client is gone */
	EVENT_COPIED, /* a transfer ends */
	EVENT_STORED, /* the store has done its part of one */
};

struct event {
	enum event_kind kind;
	uint64_t due_step;
	unsigned index; /* slab, member or client */
	unsigned slot;
	uint32_t life;
};

/* A transfer that is queued or in flight, by its index in the core. */
struct flight {
	bool used;
	bool up;
	bool store;               /* the store's: all of it, or its first leg */
	bool out;                 /* the store has it */
	int from_space, to_space; /* M_NONE: the store */
	uint32_t from, to;        /* page ids */
};

/* What the simulated store has: bytes under a key. */
struct stored {
	bool used;
	int ns;
	uint32_t epoch;
	uint64_t home; /* model_home() of the space: a space that comes again finds its pages */
	uint64_t salt;
	struct kvb_hash hash;
	uint64_t bytes;
	uint64_t since; /* the lower the older */
};

struct config {
	struct core_limits limits;
	uint32_t weight[OP_N]; /* 0: switched off in this history */
	uint32_t weight_sum;
	uint32_t keys; /* hashes in use a namespace */
	uint32_t salts;
	uint32_t batch;         /* most operands of a call */
	uint32_t delay;         /* most steps that an event takes */
	uint32_t refuse_one_in; /* grants refused */
	uint32_t fail_one_in;   /* slabs the device fails to create */
	uint32_t never_one_in;  /* acknowledgements that never come */
	uint32_t wild_one_in;   /* operands that make no sense */
	uint32_t lose_one_in;   /* transfers that fail */
	uint32_t store_room;    /* keys that the store has room for; 0: there is none */
	uint32_t refuse_keys;   /* one in so many of them admission refuses; 0: it is not asked */
	bool store_random;      /* it loses any, not the oldest */
	uint32_t work_units;
	bool small_pages;
	bool traffic; /* few people, who stay, and pages that move */
};

struct world {
	struct core c;
	struct model m;
	struct rng rng;
	struct config cfg;
	void *mem;
	uint64_t mem_bytes;
	uint64_t seed;
	uint64_t step;
	uint64_t now_ns;
	uint64_t trace; /* hash of every call and answer */
	uint32_t lives;
	bool verbose;
	bool may_revoke; /* the call just made may start revocations */
	bool may_rise;   /* it may bring pages up, and evict others for that */
	bool may_insist; /* it may write what admission refuses */
	bool store_there;
	struct flight flight[W_FLIGHTS];
	struct event events[W_EVENTS];
	kvb_page_t names[W_NAMES];
	uint32_t names_next;
	uint64_t did[OP_N];
	struct stored stored[W_STORED];
	uint64_t stored_last; /* `since` last given */
	uint64_t hits, victims, dups, grants, revoked, reaped, demoted, promoted, failures, misses;
	struct { /* what the core counts of the store */
		uint64_t stored, stored_bytes, fetched, fetched_bytes, lost, refused;
	} n;
	char why[512];
	jmp_buf failed; /* last: survives world_start() */
};

const char *op_name(enum op op);
uint32_t op_weight(enum op op); /* usual one */
bool op_is_vital(enum op op);   /* without it a history goes nowhere: never switched off */

/* Plays one history of `steps` steps. True if it held; else w->why says what did not. */
bool world_run(struct world *w, uint64_t seed, uint64_t steps);
/* The parts of world_run(), for the sabotage tests, which stop in between. */
void world_start(struct world *w, uint64_t seed);
void world_step(struct world *w);
void world_finish(struct world *w); /* every client leaves; every charge must be zero */
void world_stop(struct world *w);   /* frees the memory */

_Noreturn void world_fail(struct world *w, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
#define world_expect(w, cond, ...)                                                                 \
	do {                                                                                       \
		if (!(cond))                                                                       \
			world_fail(w, __VA_ARGS__);                                                \
	} while (0)

/* Folds a number into the trace. */
static inline void world_trace(struct world *w, uint64_t value)
{
	w->trace = rng_mix(w->trace + value) + 0x9e3779b97f4a7c15ull;
}
void world_say(struct world *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static inline uint32_t rnd(struct world *w, uint32_t n)
{
	return rng_below(&w->rng, n);
}
static inline bool chance(struct world *w, uint32_t one_in)
{
	return one_in && rng_once_in(&w->rng, one_in);
}

/* Picks by chance; M_NONE when there is none. */
int world_pick_client(struct world *w, uint8_t state);
int world_pick_member(struct world *w);         /* of an attached client */
int world_pick_ns(struct world *w, int client); /* a handle of the client */
/*
 * Names of up to n different pages that `want` accepts, with a wrong, an old or a repeated one
 * among them now and then. Returns how many.
 */
uint32_t world_pick_pages(struct world *w, int member,
			  bool (*want)(const struct m_page *p, int client), uint32_t n,
			  kvb_page_t *ret);
void world_remember(struct world *w, kvb_page_t name);

void world_later(struct world *w, enum event_kind kind, unsigned index, unsigned slot,
		 uint32_t life);
bool world_event_take(struct world *w, bool all, struct event *ret);

static inline struct core_member *world_member(struct world *w, int member)
{
	return &w->c.members[member];
}

/* world_make.c */
void world_choose(struct world *w); /* cfg */
void world_make_devices(struct world *w);
/* ops_page.c */
void op_alloc(struct world *w);
void op_free(struct world *w);
void op_seal(struct world *w);
void op_lookup(struct world *w);
void op_release(struct world *w);
void op_pin(struct world *w);
void op_hint(struct world *w);
void op_find(struct world *w);
void op_page_evict(struct world *w);
void op_page_pin(struct world *w);
uint32_t page_record(struct world *w, int space, uint32_t id); /* the core's */
struct kvb_hash page_pick_hash(struct world *w);
bool page_lease_fits(struct world *w, const struct m_page *p, int client);
uint32_t page_lowest_free(const struct m_space *s, const struct m_member *mm);
/* ops_tier.c */
void op_load(struct world *w);
void op_store(struct world *w);
void op_arrived(struct world *w);
void op_mover(struct world *w);
void op_ready(struct world *w);
void op_rot(struct world *w);
void tier_copied(struct world *w, unsigned transfer);
bool tier_serves(const struct world *w, const struct m_space *s); /* can pages go down now? */
/* Which tier LOOKUP finds a key in that is not resident, or KVB_TIER_NONE. */
enum kvb_tier tier_of_key(const struct world *w, int space, int ns, uint64_t salt,
			  const struct kvb_hash *hash);
/* ops_store.c */
void op_store_io(struct world *w);
void op_store_turn(struct world *w);
void op_store_lose(struct world *w);
void op_ns_advance(struct world *w);
void store_serve(struct world *w, bool all); /* takes what the core has for the store */
void store_ended(struct world *w, unsigned transfer);
void store_remembers(struct world *w, int ns); /* from before a restart, in a later epoch */
/* Is this page, or one under its key, there? In space s, or in the one below it. */
bool store_has(const struct world *w, const struct m_space *s, const struct m_page *p);
bool store_admits(const struct world *w, const struct kvb_hash *hash);
/* A key that the store has of a space; false: none. */
bool store_pick(struct world *w, int space, int ns, uint64_t salt, struct kvb_hash *ret);
/* ops_slab.c */
void op_grow(struct world *w);
void op_shrink(struct world *w);
void op_reclaim(struct world *w);
void op_overdue(struct world *w);
void op_device(struct world *w);
void op_members(struct world *w);
void op_work(struct world *w);
void event_run(struct world *w, const struct event *e);
/* ops_life.c */
void op_time(struct world *w);
void op_client_open(struct world *w);
void op_client_close(struct world *w);
void op_space_open(struct world *w);
void op_space_close(struct world *w);
void op_ns_open(struct world *w);
void op_epoch_bump(struct world *w);
void op_ns_bump(struct world *w);
void op_tenant_set(struct world *w);
void op_tenant_delete(struct world *w);
void world_expect_dry(struct world *w); /* core_work() said that nothing is left to do */
void life_close_client(struct world *w, int client);
void life_dead_client(struct world *w, int client);
/* sabotage.c */
int sabotage_run_all(struct world *w);
