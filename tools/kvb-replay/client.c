/* SPDX-License-Identifier: Apache-2.0 */

/*
 * One client process of a live replay: an engine that computes nothing.
 *
 * It connects, joins the space that all clients of the replay share (the first one also asks for
 * all the memory there is), and then takes requests off the shared ticket until there are none.
 * Instead of computing KV it stamps pages from their keys; instead of attending to them it
 * compares (contents.c).
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

#include "tools/kvb-replay/client.h"
#include "tools/kvb-replay/key.h"

#define GROW_TIMEOUT_NS (5ull * 1000 * 1000 * 1000)
#define SLABS_NS (1ull * 1000 * 1000 * 1000)
#define LOOK_NS (100ull * 1000 * 1000)

static bool stopped(const struct client *c)
{
	return __atomic_load_n(&c->shared->stop, __ATOMIC_RELAXED);
}

bool client_fail(struct client *c, const char *format, ...)
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

bool client_fail_call(struct client *c, const char *what, int64_t r)
{
	return client_fail(c, "request %zu: %s: %s (%s)", c->request + 1, what,
			   kvb_error_text(c->kvb), r < 0 ? strerror((int)-r) : "fewer than asked");
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
		return client_fail(c, "memory for the space: %s (%s)", kvb_error_text(c->kvb),
				   strerror((int)-r));
	}
	if (!wait_for_slabs(c)) {
		return client_fail(c,
				   "%s:%" PRIu32
				   " has no memory for this space: %s (other spaces or tenants may "
				   "have it all: broker-ctl space list)",
				   live_device_name(c->o), c->o->device_ordinal,
				   kvb_error_text(c->kvb));
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
		(void)client_fail(c, "%s", text[0] ? text : strerror(-r));
		/* -ENOENT may also be the tenant. */
		return r == -ECONNREFUSED || (r == -ENOENT && access(c->o->broker, F_OK) < 0)
			       ? REPLAY_NO_BROKER
			       : REPLAY_FAILED;
	}
	r = kvb_space_open(c->kvb, &space, &c->space);
	if (r < 0) {
		(void)client_fail(c, "joining the space on %s:%" PRIu32 ": %s (%s)",
				  live_device_name(c->o), c->o->device_ordinal,
				  kvb_error_text(c->kvb), strerror(-r));
		return REPLAY_FAILED;
	}
	digest_of(c->o, digest);
	r = kvb_ns_open(c->kvb, digest, 0, &ns);
	if (r < 0) {
		(void)client_fail(c, "opening the namespace: %s (%s)", kvb_error_text(c->kvb),
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
		return client_fail(c, "out of memory");
	return (c->key && c->page && c->some && c->missing && c->seal) ||
	       client_fail(c, "out of memory");
}

/* ---- turns --------------------------------------------------------------------------------- */

/* While we hold nothing: memory that is called back goes. */
static bool look_around(struct client *c)
{
	int r = kvb_poll(c->kvb);

	if (r < 0)
		return client_fail(c, "%s (%s)", kvb_error_text(c->kvb), strerror(-r));
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
			(void)client_fail(c, "a client died while it held the ticket");
			(void)pthread_mutex_unlock(ticket);
			return false;
		}
		if (r == 0)
			return true;
		if (r != ETIMEDOUT)
			return client_fail(c, "ticket: %s", strerror(r));
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

/*
 * The run that is in any tier: leases what of it is on the device, and has the rest brought up.
 * What does not come ends the run. *ret: how long it is.
 */
static bool look_up_tiers(struct client *c, uint32_t *ret)
{
	uint32_t device = 0;
	int64_t run, r;

	run = kvb_lookup_tiers(c->space, c->ns, 0, c->key, c->page, c->blocks, &device, &c->epoch);
	if (run < 0)
		return client_fail_call(c, "lookup", run);
	r = kvb_load(c->space, c->ns, 0, c->key + device, c->some, (uint32_t)run - device, NULL);
	if (r < 0 && r != -EDQUOT)
		return client_fail_call(c, "load", r);
	*ret = device + (r > 0 ? (uint32_t)r : 0);
	for (uint32_t i = device; i < run; i++) {
		enum kvb_tier tier = i < *ret ? KVB_PAGE_TIER(c->page[i]) : KVB_TIER_NONE;

		c->n->hit_blocks_host += tier == KVB_TIER_HOST;
		c->n->hit_blocks_store += tier == KVB_TIER_STORE;
		c->page[i] = i < *ret ? c->some[i - device] : KVB_PAGE_NONE;
	}
	c->n->hit_blocks += *ret;
	return true;
}

/* Leases all there is on the device from position `from` on, and counts the hits without `tiers`.
 */
static bool look_up_device(struct client *c, uint32_t from, bool tiers)
{
	int64_t r = kvb_lookup_all(c->space, c->ns, 0, c->key + from, c->page + from,
				   c->blocks - from, &c->epoch);

	if (r < 0)
		return client_fail_call(c, "lookup", r);
	c->n->hit_blocks += tiers ? 0 : (uint64_t)r;
	return true;
}

static bool look_up(struct client *c)
{
	const bool tiers = kvb_space_tiers(c->space) & ~(1ull << KVB_TIER_DEVICE);
	uint32_t from = 0;

	for (uint32_t i = 0; i < c->blocks; i++) {
		c->key[i] = key_of(c->id[i]);
		c->page[i] = KVB_PAGE_NONE;
	}
	return (!tiers || look_up_tiers(c, &from)) &&
	       (from == c->blocks || look_up_device(c, from, tiers));
}

/* LOOKUP and LOAD, then ALLOC for what is missing, head first. The ticket is held. */
static bool look_up_and_allocate(struct client *c)
{
	uint32_t missing = 0;
	int64_t r;

	if (!look_up(c))
		return false;
	for (uint32_t i = 0; i < c->blocks; i++)
		if (c->page[i] == KVB_PAGE_NONE)
			c->missing[missing++] = i;
	c->got = 0;
	while (c->got < missing) {
		r = kvb_alloc(c->space, c->some + c->got, missing - c->got);
		if (r < 0)
			return client_fail_call(c, "alloc", r);
		if (r == 0)
			break;
		c->got += (uint32_t)r;
	}
	c->n->refused += missing - c->got;
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
		return client_fail_call(c, "seal", r);
	sealed = r > 0 ? (uint32_t)r : 0;
	for (uint32_t i = 0; i < c->got; i++) {
		uint32_t at = c->missing[i];

		if (i < sealed)
			c->page[at] = c->some[i];
		if (i >= sealed || c->some[i] != c->seal[i].page) {
			if (i < sealed && c->o->verify && !client_verify_page(c, at))
				return false;
			c->some[unused++] = c->seal[i].page;
		}
	}
	c->n->refused += c->got - sealed;
	if (unused > 0 && (r = kvb_free(c->space, c->some, unused)) != (int64_t)unused)
		return client_fail_call(c, "free", r);
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
		return client_fail_call(c, "release", r);
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
		if (!client_fill(c) || (c->o->verify && !client_verify_found(c)) ||
		    (c->got > 0 && !publish(c)) || !release_tail_first(c))
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
