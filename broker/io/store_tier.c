/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Between the core and the store: its life, its keys and its namespaces; see store_tier.h. Pages
 * are moved by store_copy.c.
 */

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/io/fault.h"
#include "broker/io/log.h"
#include "broker/io/store_state.h"

#define STORE_TIER_REPORTS 64u
#define STORE_TIER_HOT_NS (300ull * 1000) /* a read of a good drive takes a third of it */
#define STORE_TIER_PART 2u                /* of the store's pages are remembered by admission */

/* ---- keys ---------------------------------------------------------------------------------- */

/* The namespace in a space; without one, of no geometry. */
static struct store_identity identity_of(const struct core_ns *ns, const struct core_space *space)
{
	struct store_identity id = { 0 };

	memcpy(id.ns_digest, ns->digest, sizeof(id.ns_digest));
	if (space) {
		id.regions = space->regions;
		id.stride_bytes = space->stride_bytes;
		id.tag = space->tag;
	}
	return id;
}

static void make_place(const struct server *s, const struct core_ns *ns, struct store_identity id,
		       struct store_place *ret)
{
	const struct core_tenant *t = &s->core.tenants[ns->tenant];
	char domain[KVB_NAME_BYTES + 16];

	/* The next tenant of that name may be another user's. */
	snprintf(domain, sizeof(domain), "%s/%u", t->name, t->uid);
	id.domain = domain;
	store_place_make(s->store->store, &id, ret);
}

/* A key after the other is of one namespace in one space, whose place is kept. */
bool store_tier_key(const struct server *s, const struct core_key *key, struct store_key *ret)
{
	const struct core_ns *ns = &s->core.namespaces[key->ns];
	struct store_identity id = identity_of(ns, &s->core.spaces[key->space]);
	struct tier_ns *t = &s->store->ns[key->ns];

	if (!t->known || t->row == STORE_NS_NONE)
		return false;
	if (memcmp(&id, &t->last, sizeof(id)) != 0) {
		make_place(s, ns, id, &t->place);
		t->last = id;
	}
	store_key_make(s->store->store, &t->place, t->row, key->epoch, key->salt, key->hash.w, ret);
	return true;
}

/* ---- what the core asks -------------------------------------------------------------------- */

static bool store_tier_has(void *arg, const struct core_key *key)
{
	const struct server *s = arg;
	struct store_key k;

	return store_tier_key(s, key, &k) && store_find(s->store->store, &k);
}

static bool store_tier_admit(void *arg, const struct core_page *page, const struct core_key *key)
{
	const struct server *s = arg;

	return !s->cfg.store_admit || admit_page(&s->store->admit, page, key);
}

static const struct core_store_ops store_tier_ops = { .has = store_tier_has,
						      .admit = store_tier_admit };

/* ---- namespaces ---------------------------------------------------------------------------- */

/*
 * Its row in the store. Two tenants may have namespaces of one digest, whose epochs are their own:
 * a row's name is the digest mixed with what the store makes of the tenant, which nobody can know.
 */
static void name_row(const struct server *s, const struct core_ns *ns, uint8_t ret[32])
{
	struct store_place place;

	make_place(s, ns, identity_of(ns, NULL), &place);
	memcpy(ret, ns->digest, sizeof(ns->digest));
	for (unsigned i = 0; i < 8; i++)
		ret[i] ^= (uint8_t)(place.half[0] >> (8 * i));
}

void store_tier_ns_opened(struct server *s, unsigned index)
{
	const struct core_ns *ns = &s->core.namespaces[index];
	struct tier_ns *t;
	uint8_t name[32];
	uint32_t epoch;

	if (!s->store)
		return;
	t = &s->store->ns[index];
	name_row(s, ns, name);
	if (t->known && memcmp(t->name, name, sizeof(name)) == 0)
		return;
	*t = (struct tier_ns){ .known = true };
	memcpy(t->name, name, sizeof(name));
	t->row = store_ns_open(s->store->store, name, ns->epoch, &epoch);
	if (t->row != STORE_NS_NONE)
		core_ns_advance(&s->core, index, epoch);
	else if (log_limit_pass(&s->store->limit, s->now_ns, 10))
		log_warn("store: it knows as many namespaces as it can; pages of more are not "
			 "stored (kvb-store wipe empties it)");
}

/* What a report is of: a transfer, or the bump of a namespace. */
#define USER_BUMP ((uintptr_t)1 << 16)

void store_tier_ns_bumped(struct server *s, unsigned index)
{
	struct tier_ns *t = s->store ? &s->store->ns[index] : NULL;

	if (!t || !t->known || t->row == STORE_NS_NONE)
		return;
	t->bumps++;
	t->bump_error = 0;
	store_bump(s->store->store, t->row, s->core.namespaces[index].epoch,
		   (void *)(USER_BUMP | index)); /* NOLINT(performance-no-int-to-ptr) */
}

int store_tier_ns_settled(const struct server *s, unsigned index)
{
	const struct tier_ns *t = s->store ? &s->store->ns[index] : NULL;

	if (!t)
		return 1;
	return t->bumps ? 0 : t->bump_error ? t->bump_error : 1;
}

/* ---- the turn ------------------------------------------------------------------------------ */

static void bump_done(struct server *s, unsigned index, int status)
{
	struct tier_ns *t = &s->store->ns[index];

	if (t->bumps) /* else it is another one's by now */
		t->bumps--;
	if (status) {
		t->bump_error = -EIO;
		log_error("store: an epoch's end could not be written: %s (after a restart what it "
			  "ended may be found again; wipe the store, or bump again)",
			  strerror(-status));
	}
	s->parked_look_ns = s->now_ns;
}

static void report(struct server *s, const struct store_done *d)
{
	if (d->kind == STORE_DONE_BUMP)
		bump_done(s, (unsigned)((uintptr_t)d->user & ~USER_BUMP), d->status);
	else if (d->kind == STORE_DONE_FLUSH || d->kind == STORE_DONE_SCRUB)
		store_jobs_done(&s->store->jobs, s->store->store, d);
	else
		store_copy_done(s, d);
}

bool store_tier_turn(struct server *s)
{
	struct store_done done[STORE_TIER_REPORTS];
	struct store_tier *t = s->store;
	uint32_t n;
	bool did, resizing;

	if (!t)
		return false;
	did = store_copy_submit(s);
	if (!did && !t->rung && !store_pending(t->store) && s->now_ns < store_next_ns(t->store))
		return false;
	t->rung = false;
	resizing = store_resizing(t->store);
	n = store_poll(t->store, s->now_ns, done, STORE_TIER_REPORTS);
	for (uint32_t i = 0; i < n; i++)
		report(s, &done[i]);
	if (resizing && !store_resizing(t->store))
		did = true; /* an operator waits for it */
	return did || n || store_pending(t->store);
}

bool store_tier_hot(const struct server *s)
{
	return s->store && s->store->reads && s->now_ns - s->store->read_ns < STORE_TIER_HOT_NS;
}

uint64_t store_tier_next_ns(const struct server *s)
{
	return s->store ? store_next_ns(s->store->store) : UINT64_MAX;
}

/* The store reads its event only while something flies; what came before would wake the loop for
 * ever. */
static void event_ready(struct loop_source *source, uint32_t events)
{
	struct store_tier *t =
		(struct store_tier *)((char *)source - offsetof(struct store_tier, event));
	uint64_t count;

	(void)!read(source->fd, &count, sizeof(count));
	t->rung = true;
}

/* ---- life ---------------------------------------------------------------------------------- */

static void opening(void *arg, uint64_t read, uint64_t total)
{
	struct server *s = arg;
	uint64_t now_ns = server_clock_ns();

	if (now_ns - s->now_ns < 1000000000ull)
		return;
	s->now_ns = now_ns;
	log_info("store: reading what is there: %llu of %llu segments", (unsigned long long)read,
		 (unsigned long long)total);
}

static int open_store(struct server *s)
{
	struct store_cfg cfg = {
		.parts = s->cfg.stores,
		.progress = opening,
		.arg = s,
	};
	char why[512] = "";
	int error;

	for (unsigned i = 0; i < s->cfg.stores; i++)
		cfg.part[i] =
			(struct store_part_cfg){ s->cfg.store[i].path, s->cfg.store[i].bytes };
	error = fault_point("store");
	if (error == 0)
		error = store_open(&cfg, &s->store->store, why, sizeof(why));
	if (error)
		log_error("store: %s", why[0] ? why : strerror(-error));
	return error;
}

static void say_open(const struct server *s)
{
	struct store_stats st;

	store_stats(s->store->store, &st);
	if (st.reset)
		log_warn("store: no two superblocks of a part agreed: it is taken for empty");
	log_info("store: %u parts of %s together by %s, %llu pages found in %llu ms, %s is written",
		 st.parts, core_size(st.bytes).text, st.engine, (unsigned long long)st.pages,
		 (unsigned long long)(st.recovery_ns / 1000000),
		 s->cfg.store_admit ? "what was wanted twice" : "whatever goes");
}

static int make_filter(struct server *s)
{
	struct store_tier *t = s->store;
	struct store_stats st;
	uint64_t pages;
	uint32_t keys;

	store_stats(t->store, &st);
	pages = st.pages_max / STORE_TIER_PART;
	keys = pages < ADMIT_KEYS_MAX ? (uint32_t)pages : ADMIT_KEYS_MAX;
	for (unsigned i = 0; i < 2; i++) {
		t->admit_bits[i] = fault_calloc("store", admit_words(keys), sizeof(uint64_t));
		if (!t->admit_bits[i])
			return -ENOMEM;
	}
	admit_init(&t->admit, keys, t->admit_bits[0], t->admit_bits[1]);
	return 0;
}

int store_tier_new(struct server *s)
{
	const struct core_limits *limits = &s->core.h->limits;
	struct store_tier *t;
	int error;

	if (!s->cfg.stores)
		return 0;
	s->store = t = fault_calloc("store", 1, sizeof(*t));
	if (!t)
		return -ENOMEM;
	t->server = s;
	t->event = LOOP_SOURCE_NULL;
	error = store_copy_new(s);
	t->ns = fault_calloc("store", limits->namespaces, sizeof(*t->ns));
	if (error == 0)
		error = t->ns ? open_store(s) : -ENOMEM;
	if (error == 0)
		error = make_filter(s);
	if (error == 0)
		error = loop_add(s->loop, &t->event, store_event(t->store), LOOP_IN, event_ready);
	if (error)
		return error;
	say_open(s);
	core_store_attach(&s->core, &store_tier_ops, s);
	return 0;
}

void store_tier_free(struct server *s)
{
	struct store_tier *t = s->store;

	if (!t)
		return;
	loop_del(s->loop, &t->event);
	if (s->core.store)
		core_store_detach(&s->core);
	t->store = store_close(t->store);
	store_copy_free(s);
	free(t->admit_bits[0]);
	free(t->admit_bits[1]);
	free(t->ns);
	free(t);
	s->store = NULL;
}

bool store_tier_get_stats(const struct server *s, struct store_stats *ret)
{
	if (!s->store)
		return false;
	store_stats(s->store->store, ret);
	return true;
}

struct store *store_tier_store(const struct server *s)
{
	return s->store ? s->store->store : NULL;
}

struct store_jobs *store_tier_jobs(const struct server *s)
{
	return &s->store->jobs;
}
