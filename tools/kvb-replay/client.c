/* SPDX-License-Identifier: Apache-2.0 */

/*
 * One client process of a live replay: an engine that computes nothing.
 *
 * It connects, joins the space that all clients of the replay share (the first one also asks for
 * all the memory there is), and then takes requests off the shared ticket until there are none.
 * Instead of computing KV it stamps pages from their keys; instead of attending to them it
 * compares. Both happen in the page itself where the CPU can reach it, and in a copy of one
 * region's part of it where it lies on a GPU.
 *
 * After each request it holds nothing, so memory the broker wants back is given up right there. A
 * client that waits for its turn looks at its socket ten times a second for the same reason.
 *
 * What the broker says is a result, not a bug of ours: what ends a client is said once, by the
 * first that meets it, and stops the others.
 */

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tools/kvb-replay/key.h"
#include "tools/kvb-replay/live.h"
#include "uapi/libkvbroker.h"

#define GROW_TIMEOUT_NS (5ull * 1000 * 1000 * 1000)
#define SLABS_NS (1ull * 1000 * 1000 * 1000)
#define LOOK_NS (100ull * 1000 * 1000)
#define CORRUPT_SAID_MAX 3u

struct client {
	const struct replay_options *o;
	const struct trace *t;
	struct live_shared *shared;
	uint32_t index;
	struct replay_counts *n;
	struct kvb *kvb;
	struct kvb_space *space;
	uint32_t ns;
	size_t region_bytes; /* of one page */
	void *staging;       /* one of these, for pages on a GPU; NULL on the host */
	/* of the request at hand, room for the largest */
	size_t request;
	const uint64_t *id;
	uint32_t blocks;
	uint64_t epoch;
	struct kvb_hash *key;
	kvb_page_t *page;  /* leased, by position; KVB_PAGE_NONE = none */
	kvb_page_t *some;  /* allocated, then what seals[i] led to, then those to release */
	uint32_t *missing; /* positions that had no page; the first `got` have one of ours */
	uint32_t got;
	struct kvb_seal *seal;
};

static bool stopped(const struct client *c)
{
	return __atomic_load_n(&c->shared->stop, __ATOMIC_RELAXED);
}

/* Stops everybody; says why unless somebody already has. Returns false. */
__attribute__((format(printf, 2, 3))) static bool fail(struct client *c, const char *format, ...)
{
	char text[512];
	va_list ap;

	__atomic_store_n(&c->shared->stop, 1, __ATOMIC_RELAXED);
	if (!__atomic_exchange_n(&c->shared->failed, 1, __ATOMIC_RELAXED)) {
		va_start(ap, format);
		(void)vsnprintf(text, sizeof(text), format, ap);
		va_end(ap);
		replay_say("client %" PRIu32 ": %s", c->index, text);
	}
	return false;
}

/* A call of the library failed. */
static bool fail_call(struct client *c, const char *what, int64_t r)
{
	return fail(c, "request %zu: %s: %s (%s)", c->request + 1, what, kvb_error_text(c->kvb),
		    r < 0 ? strerror((int)-r) : "fewer than asked");
}

/* ---- attaching ----------------------------------------------------------------------------- */

/* Names the bytes we write: the way of stamping, and how a page is laid out. */
static void digest_of(const struct replay_options *o, uint8_t ret[32])
{
	uint64_t word[4] = { key_mix(0x6b76622d7265706cull) /* "kvb-repl" */ };

	word[1] = key_mix(word[0] + o->page_bytes);
	word[2] = key_mix(word[1] + o->regions);
	word[3] = key_mix(word[2]);
	memcpy(ret, word, sizeof(word));
}

/* Whether memory that the space had before us, and that is being sent, has come. */
static bool wait_for_slabs(struct client *c)
{
	const uint64_t until_ns = live_clock_ns() + SLABS_NS;
	struct pollfd p = { .fd = kvb_fd(c->kvb), .events = POLLIN };
	struct kvb_space_info info;

	for (;;) {
		kvb_space_get_info(c->space, &info);
		if (info.slabs > 0)
			return true;
		if (live_clock_ns() >= until_ns || kvb_poll(c->kvb) < 0)
			return false;
		(void)poll(&p, 1, 10);
	}
}

/* All the memory the device and the tenant's budget have for the space. */
static bool grow_to_all(struct client *c)
{
	struct kvb_space_info info;
	int64_t r;

	for (;;) {
		kvb_space_get_info(c->space, &info);
		if (info.slabs == info.slots)
			return true;
		r = kvb_space_grow(c->space,
				   (uint64_t)(info.slots - info.slabs) * info.pages_per_slab,
				   GROW_TIMEOUT_NS);
		if (r <= 0)
			break;
	}
	if (r < 0 && r != -ENOSPC && r != -EDQUOT) {
		return fail(c, "memory for the space: %s (%s)", kvb_error_text(c->kvb),
			    strerror((int)-r));
	}
	if (!wait_for_slabs(c)) {
		return fail(c,
			    "%s:%" PRIu32
			    " has no memory for this space: %s (other spaces or tenants may "
			    "have it all: broker-ctl space list)",
			    live_device_name(c->o), c->o->device_ordinal, kvb_error_text(c->kvb));
	}
	return true;
}

static enum replay_exit attach(struct client *c)
{
	struct kvb_params params = { .socket = c->o->broker, .tenant = c->o->tenant };
	struct kvb_space_params space = {
		.device_kind = c->o->device_kind,
		.device_ordinal = c->o->device_ordinal,
		.regions = c->o->regions,
		.stride_bytes = c->region_bytes,
	};
	struct kvb_ns_info ns;
	uint8_t digest[32];
	char text[256] = "";
	int r = kvb_connect(&params, &c->kvb, text);

	if (r < 0) {
		(void)fail(c, "%s", text[0] ? text : strerror(-r));
		/* -ENOENT may also be the tenant. */
		return r == -ECONNREFUSED || (r == -ENOENT && access(c->o->broker, F_OK) < 0)
			       ? REPLAY_NO_BROKER
			       : REPLAY_FAILED;
	}
	r = kvb_space_open(c->kvb, &space, &c->space);
	if (r < 0) {
		(void)fail(c, "joining the space on %s:%" PRIu32 ": %s (%s)",
			   live_device_name(c->o), c->o->device_ordinal, kvb_error_text(c->kvb),
			   strerror(-r));
		return REPLAY_FAILED;
	}
	digest_of(c->o, digest);
	r = kvb_ns_open(c->kvb, digest, 0, &ns);
	if (r < 0) {
		(void)fail(c, "opening the namespace: %s (%s)", kvb_error_text(c->kvb),
			   strerror(-r));
		return REPLAY_FAILED;
	}
	c->ns = ns.ns;
	return c->index > 0 || grow_to_all(c) ? REPLAY_OK : REPLAY_FAILED;
}

static bool make_room(struct client *c)
{
	size_t n = c->t->blocks_max ? c->t->blocks_max : 1;

	c->key = calloc(n, sizeof(*c->key));
	c->page = calloc(n, sizeof(*c->page));
	c->some = calloc(n, sizeof(*c->some));
	c->missing = calloc(n, sizeof(*c->missing));
	c->seal = calloc(n, sizeof(*c->seal));
	c->region_bytes = c->o->page_bytes / c->o->regions;
	if (c->o->device_kind == KVB_DEVICE_CUDA && !(c->staging = malloc(c->region_bytes)))
		return fail(c, "out of memory");
	return (c->key && c->page && c->some && c->missing && c->seal) || fail(c, "out of memory");
}

/* ---- turns --------------------------------------------------------------------------------- */

/* While we hold nothing: memory that is called back goes. */
static bool look_around(struct client *c)
{
	int r = kvb_poll(c->kvb);

	if (r < 0)
		return fail(c, "%s (%s)", kvb_error_text(c->kvb), strerror(-r));
	(void)kvb_quiet_point(c->kvb);
	return true;
}

/* True with the ticket held; false when there is nothing more to do. */
static bool take_ticket(struct client *c)
{
	pthread_mutex_t *ticket = &c->shared->ticket;

	while (!stopped(c)) {
		uint64_t until_ns = live_clock_ns() + LOOK_NS;
		struct timespec until = { .tv_sec = (time_t)(until_ns / 1000000000ull),
					  .tv_nsec = (long)(until_ns % 1000000000ull) };
		int r = pthread_mutex_clocklock(ticket, CLOCK_MONOTONIC, &until);

		if (r == EOWNERDEAD) {
			(void)pthread_mutex_consistent(ticket);
			(void)fail(c, "a client died while it held the ticket");
			(void)pthread_mutex_unlock(ticket);
			return false;
		}
		if (r == 0)
			return true;
		if (r != ETIMEDOUT)
			return fail(c, "ticket: %s", strerror(r));
		if (!look_around(c))
			return false;
	}
	return false;
}

/* With --speed FACTOR: until the trace's own time, scaled, has come. */
static bool wait_for_time(struct client *c, const struct trace_request *r)
{
	uint64_t due_ns, now_ns;

	if (c->o->speed == 0)
		return true;
	due_ns = c->shared->start_ns;
	if (r->at_ms > c->t->request[0].at_ms)
		due_ns += (uint64_t)((r->at_ms - c->t->request[0].at_ms) * 1e6 / c->o->speed);
	while (!stopped(c) && (now_ns = live_clock_ns()) < due_ns) {
		uint64_t left_ns = due_ns - now_ns < LOOK_NS ? due_ns - now_ns : LOOK_NS;
		struct timespec left = { .tv_nsec = (long)left_ns };

		(void)nanosleep(&left, NULL);
		if (!look_around(c))
			return false;
	}
	return !stopped(c);
}

/* ---- one request --------------------------------------------------------------------------- */

/* LOOKUP, then ALLOC for what is missing, head first. The ticket is held. */
static bool look_up_and_allocate(struct client *c)
{
	uint32_t missing = 0;
	int64_t r;

	for (uint32_t i = 0; i < c->blocks; i++) {
		c->key[i] = key_of(c->id[i]);
		c->page[i] = KVB_PAGE_NONE;
	}
	r = kvb_lookup_all(c->space, c->ns, 0, c->key, c->page, c->blocks, &c->epoch);
	if (r < 0)
		return fail_call(c, "lookup", r);
	c->n->hit_blocks += (uint64_t)r;
	for (uint32_t i = 0; i < c->blocks; i++)
		if (c->page[i] == KVB_PAGE_NONE)
			c->missing[missing++] = i;
	c->got = 0;
	while (c->got < missing) {
		r = kvb_alloc(c->space, c->some + c->got, missing - c->got);
		if (r < 0)
			return fail_call(c, "alloc", r);
		if (r == 0)
			break;
		c->got += (uint32_t)r;
	}
	c->n->refused += missing - c->got;
	return true;
}

static bool stamp(struct client *c, kvb_page_t page, const struct kvb_hash *key, uint32_t region)
{
	int r;

	if (!c->staging) {
		key_stamp(kvb_page_addr(c->space, region, page), c->region_bytes, key, region);
		return true;
	}
	key_stamp(c->staging, c->region_bytes, key, region);
	r = kvb_page_write(c->space, region, page, c->staging, c->region_bytes);
	return r == 0 || fail_call(c, "fill", r);
}

static bool fill(struct client *c)
{
	uint64_t from_ns = live_clock_ns();

	for (uint32_t i = 0; i < c->got; i++) {
		uint32_t at = c->missing[i];

		for (uint32_t region = 0; region < c->o->regions; region++)
			if (!stamp(c, c->some[i], &c->key[at], region))
				return false;
		c->seal[i] =
			(struct kvb_seal){ .page = c->some[i], .hash = c->key[at], .depth = at };
	}
	c->n->bytes_filled += c->got * c->o->page_bytes;
	c->n->fill_ns += live_clock_ns() - from_ns;
	return true;
}

/* Where the bytes of a page's part can be looked at; NULL: failed, and said so. */
static const void *look_at(struct client *c, kvb_page_t page, uint32_t region)
{
	int r;

	if (!c->staging)
		return kvb_page_addr(c->space, region, page);
	r = kvb_page_read(c->space, region, page, c->staging, c->region_bytes);
	if (r == 0)
		return c->staging;
	(void)fail_call(c, "verify", r);
	return NULL;
}

static bool verify_page(struct client *c, uint32_t at)
{
	bool good = true;

	for (uint32_t region = 0; region < c->o->regions && good; region++) {
		const void *bytes = look_at(c, c->page[at], region);
		size_t offset;

		if (!bytes)
			return false;
		offset = key_check(bytes, c->region_bytes, &c->key[at], region);
		good = offset == c->region_bytes;
		if (!good && c->n->corrupt < CORRUPT_SAID_MAX) {
			replay_say("client %" PRIu32 ": request %zu: block %" PRIu64
				   ": page %" PRIu32 ", region %" PRIu32 ": wrong from byte %zu on",
				   c->index, c->request + 1, c->id[at], KVB_PAGE_ID(c->page[at]),
				   region, offset);
		}
	}
	c->n->pages_verified++;
	c->n->corrupt += !good;
	c->n->bytes_verified += c->o->page_bytes;
	return true;
}

/* Everything we lease and have not filled ourselves: all of it before we seal. */
static bool verify_found(struct client *c)
{
	uint64_t from_ns = live_clock_ns();

	for (uint32_t i = 0; i < c->blocks; i++)
		if (c->page[i] != KVB_PAGE_NONE && !verify_page(c, i))
			return false;
	c->n->verify_ns += live_clock_ns() - from_ns;
	return true;
}

/*
 * Publishes what was filled. Where another client was first its page is ours to read and our own
 * goes back. What cannot be sealed (the epoch was bumped meanwhile, the lease quota) goes back too.
 */
static bool publish(struct client *c)
{
	uint32_t sealed, unused = 0;
	int64_t r = kvb_seal(c->space, c->ns, c->epoch, 0, c->seal, c->some, c->got);

	if (r < 0 && r != -ESTALE && r != -EDQUOT && r != -EEXIST)
		return fail_call(c, "seal", r);
	sealed = r > 0 ? (uint32_t)r : 0;
	for (uint32_t i = 0; i < c->got; i++) {
		uint32_t at = c->missing[i];

		if (i < sealed)
			c->page[at] = c->some[i];
		if (i >= sealed || c->some[i] != c->seal[i].page) {
			if (i < sealed && c->o->verify && !verify_page(c, at))
				return false;
			c->some[unused++] = c->seal[i].page;
		}
	}
	c->n->refused += c->got - sealed;
	if (unused > 0 && (r = kvb_free(c->space, c->some, unused)) != (int64_t)unused)
		return fail_call(c, "free", r);
	return true;
}

static bool release_tail_first(struct client *c)
{
	uint32_t n = 0;
	int64_t r;

	for (uint32_t i = c->blocks; i-- > 0;)
		if (c->page[i] != KVB_PAGE_NONE)
			c->some[n++] = c->page[i];
	if (n > 0 && (r = kvb_release(c->space, c->some, n)) != (int64_t)n)
		return fail_call(c, "release", r);
	return true;
}

/* False: nothing more to do, or failed. */
static bool run_request(struct client *c)
{
	const struct trace_request *r;
	bool ok = false;

	if (!take_ticket(c))
		return false;
	c->request = c->shared->next;
	if (c->request < c->t->requests) {
		r = &c->t->request[c->request];
		c->id = trace_blocks(c->t, r);
		c->blocks = r->blocks;
		ok = wait_for_time(c, r) && (c->blocks == 0 || look_up_and_allocate(c));
		c->shared->next += ok;
	}
	(void)pthread_mutex_unlock(&c->shared->ticket);
	if (!ok)
		return false;
	if (c->blocks > 0) {
		if (!fill(c) || (c->o->verify && !verify_found(c)) || (c->got > 0 && !publish(c)) ||
		    !release_tail_first(c))
			return false;
	}
	c->n->requests++;
	c->n->blocks += c->blocks;
	__atomic_fetch_add(&c->shared->done, 1, __ATOMIC_RELAXED);
	return look_around(c);
}

enum replay_exit client_main(const struct replay_options *o, const struct trace *t,
			     struct live_shared *shared, uint32_t index)
{
	struct client c = {
		.o = o,
		.t = t,
		.shared = shared,
		.index = index,
		.n = &shared->client[index].n,
	};
	enum replay_exit code = make_room(&c) ? attach(&c) : REPLAY_FAILED;

	if (code == REPLAY_OK) {
		__atomic_fetch_add(&shared->ready, 1, __ATOMIC_RELEASE);
		while (run_request(&c)) {
		}
		if (__atomic_load_n(&shared->failed, __ATOMIC_RELAXED))
			code = REPLAY_FAILED;
	}
	(void)kvb_disconnect(c.kvb);
	free(c.staging);
	free(c.key);
	free(c.page);
	free(c.some);
	free(c.missing);
	free(c.seal);
	return code;
}
