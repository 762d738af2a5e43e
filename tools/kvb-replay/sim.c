/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Offline replay: the broker's core, without the broker (sim.h).
 *
 * Time is the trace's own, so one trace gives one result. --verify compares stamps where the live
 * replay compares bytes.
 */

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "tools/kvb-replay/key.h"
#include "tools/kvb-replay/sim.h"

#define WORK_UNITS 4096u
#define IDLE_MAX 100u /* a broker waits for a while: so many rounds of transfers */

static uint64_t clock_ns(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

/* ---- one request --------------------------------------------------------------------------- */

struct hits {
	uint32_t run;
	uint32_t host, store; /* of them, from there */
};

static int batch_error(const struct core_batch *b)
{
	return b->status ? b->status : -EIO;
}

/* Brings blocks from `from` on up into s->page, up to n: how many came. */
static uint32_t load(struct sim *s, uint32_t from, uint32_t n)
{
	struct core_lookup lk = { .ns = (uint16_t)s->ns };
	uint32_t done = 0, idle = 0;
	bool failed, more = n > 0;

	while (more) {
		struct core_batch b = core_load(&s->core, s->member, &lk, s->key + from + done,
						n - done, s->page + from + done);

		done += b.done;
		idle = b.done ? 0 : idle + 1;
		(void)(b.wait && sim_settle(s));
		more = done < n && b.wait && idle < IDLE_MAX;
	}
	(void)sim_settle(s);
	return core_load_arrived(&s->core, s->member, s->page + from, done, &failed);
}

/* The run that is in any tier, all of it on the device and leased then. 0 or -errno. */
static int look_up_tiers(struct sim *s, uint32_t blocks, struct hits *ret)
{
	struct core_lookup lk = { .ns = (uint16_t)s->ns, .tiers = true };
	struct core_batch b = core_lookup(&s->core, s->member, &lk, s->key, blocks, s->page);
	uint32_t n;

	if (b.status)
		return b.status;
	for (uint32_t i = lk.lead; i < b.done; i++)
		s->tier[i] = (uint8_t)KVB_PAGE_TIER(s->page[i]);
	n = load(s, lk.lead, b.done - lk.lead);
	ret->run = lk.lead + n;
	for (uint32_t i = lk.lead; i < ret->run; i++) {
		ret->host += s->tier[i] == KVB_TIER_HOST;
		ret->store += s->tier[i] == KVB_TIER_STORE;
	}
	return 0;
}

/* Finds the run, and leases every block that is on the device. 0 or -errno. */
static int look_up(struct sim *s, uint32_t blocks, struct hits *ret)
{
	struct core_lookup lk = { .ns = (uint16_t)s->ns, .all = true };
	struct core_batch b;
	int r = s->low_slabs || s->store ? look_up_tiers(s, blocks, ret) : 0;
	uint32_t from = ret->run;

	if (r < 0)
		return r;
	b = core_lookup(&s->core, s->member, &lk, s->key + from, blocks - from, s->page + from);
	if (b.done != blocks - from)
		return batch_error(&b);
	ret->run += lk.lead;
	return 0;
}

/* Pages for up to n missing blocks into s->some; returns how many there were. */
static uint32_t allocate(struct sim *s, uint32_t n)
{
	uint32_t got = 0, idle = 0;
	bool more = n > 0;

	while (more) {
		/* What cannot be written down is lost, as when a broker has waited long enough. */
		const bool drop = idle == IDLE_MAX;
		struct core_batch b = core_alloc(&s->core, s->member, drop ? 1 : n - got,
						 drop ? KVB_ALLOC_DROP : 0, s->some + got);

		got += b.done;
		idle = b.done ? 0 : idle + 1;
		(void)(b.wait && sim_settle(s));
		more = got < n && idle <= IDLE_MAX && (b.done || b.wait || b.flags & KVB_CQE_AGAIN);
	}
	return got;
}

/* The page's record in the core. */
static uint32_t record_of(const struct sim *s, kvb_page_t page)
{
	const struct core_space *space = &s->core.spaces[s->member->space];
	const uint32_t id = KVB_PAGE_ID(page);
	const uint16_t slab = space->slab_of_slot[id / space->pages_per_slab];

	return s->core.slabs[slab].base + id % space->pages_per_slab;
}

/* Puts the n pages of s->some under the keys of the first n missing blocks. */
static int seal_pages(struct sim *s, uint32_t n)
{
	struct core_batch b;

	for (uint32_t i = 0; i < n; i++) {
		uint32_t at = s->missing[i];

		s->seal[i] =
			(struct kvb_seal){ .page = s->some[i], .hash = s->key[at], .depth = at };
		s->page[at] = s->some[i];
		s->stamp[record_of(s, s->some[i])] = s->key[at].w[0];
	}
	b = core_seal(&s->core, s->member, s->ns, s->epoch, 0, s->seal, n, s->some);
	return b.done == n ? 0 : batch_error(&b);
}

static int release_tail_first(struct sim *s, uint32_t blocks)
{
	struct core_batch b;
	uint32_t n = 0;

	for (uint32_t i = blocks; i-- > 0;)
		if (s->page[i] != KVB_PAGE_NONE)
			s->some[n++] = s->page[i];
	b = core_release(&s->core, s->member, s->some, n);
	return b.done == n ? 0 : batch_error(&b);
}

/* Pages found must have been filled under the key they were found by. */
static void verify(const struct sim *s, uint32_t blocks, struct replay_counts *n)
{
	for (uint32_t i = 0; i < blocks; i++) {
		if (s->page[i] != KVB_PAGE_NONE) {
			n->pages_verified++;
			n->corrupt += s->stamp[record_of(s, s->page[i])] != s->key[i].w[0];
		}
	}
}

/* What the broker does when nobody asks it for anything. */
static void work(struct sim *s)
{
	bool more;

	do {
		more = core_work(&s->core, WORK_UNITS);
		more |= sim_settle(s);
	} while (more);
}

/* Its hits, or -errno. */
static int run_request(struct sim *s, const uint64_t *id, uint32_t blocks, bool check,
		       struct replay_counts *n)
{
	struct hits hits = { 0 };
	uint32_t missing = 0, got;
	uint64_t t0, t1, t2;
	int r;

	for (uint32_t i = 0; i < blocks; i++)
		s->key[i] = key_of(id[i]);
	t0 = clock_ns();
	r = look_up(s, blocks, &hits);
	t1 = clock_ns();
	if (r < 0)
		return r;
	if (check)
		verify(s, blocks, n);
	for (uint32_t i = 0; i < blocks; i++)
		if (s->page[i] == KVB_PAGE_NONE)
			s->missing[missing++] = i;
	t2 = clock_ns();
	got = allocate(s, missing);
	if ((r = seal_pages(s, got)) < 0 || (r = release_tail_first(s, blocks)) < 0)
		return r;
	work(s);
	s->core_ns += t1 - t0 + clock_ns() - t2;
	n->requests++;
	n->blocks += blocks;
	n->hit_blocks += hits.run;
	n->hit_blocks_host += hits.host;
	n->hit_blocks_store += hits.store;
	n->refused += missing - got;
	return (int)hits.run;
}

static enum replay_exit run_trace(struct sim *s, const struct replay_options *o,
				  const struct trace *t, FILE *per_request,
				  struct replay_result *ret)
{
	uint64_t from = clock_ns();

	for (size_t i = 0; i < t->requests; i++) {
		const struct trace_request *r = &t->request[i];
		int hits;

		core_set_time(&s->core, 1 + (uint64_t)(r->at_ms * 1e6));
		hits = run_request(s, trace_blocks(t, r), r->blocks, o->verify, &ret->n);
		if (hits < 0) {
			replay_say("request %zu: the core refused it: %s", i + 1, strerror(-hits));
			return REPLAY_FAILED;
		}
		if (per_request)
			(void)fprintf(per_request, "%d\n", hits);
	}
	ret->seconds = (double)(clock_ns() - from) / 1e9;
	ret->core_seconds = (double)s->core_ns / 1e9;
	ret->evictions = s->core.h->n.evictions;
	ret->store_writes = s->core.h->n.stored;
	ret->store_carried = sim_store_carried(s);
	ret->store_unwanted = s->core.h->n.store_unwanted;
	return REPLAY_OK;
}

enum replay_exit sim_run(const struct replay_options *o, const struct trace *t,
			 struct replay_result *ret)
{
	FILE *per_request = NULL;
	struct sim s = { 0 };
	enum replay_exit code = REPLAY_FAILED;
	int r;

	if (o->per_request) {
		per_request = fopen(o->per_request, "we");
		if (!per_request) {
			replay_say("%s: %s", o->per_request, strerror(errno));
			return REPLAY_USAGE;
		}
	}
	r = sim_open(&s, o, t);
	if (r < 0) {
		replay_say("a cache of %" PRIu64 " pages could not be set up: %s",
			   o->capacity_pages, strerror(-r));
	} else {
		code = run_trace(&s, o, t, per_request, ret);
	}
	sim_close(&s);
	if (per_request && fclose(per_request) != 0 && code == REPLAY_OK) {
		replay_say("%s: %s", o->per_request, strerror(errno));
		code = REPLAY_FAILED;
	}
	return code;
}
