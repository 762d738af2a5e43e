/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Ring entries that wait for copies, and what becomes of the rest of their ring meanwhile.
 *
 * The server and the peers are those of the fuzz targets. Its device has an arena below it and no
 * mover: a copy is done when a test says so.
 */

#include <check.h>
#include <errno.h>
#include <string.h>

#include "broker/io/ring.h"
#include "tests/fuzz/server.h"
#include "tests/unit/suite.h"

#define STRIDE (128u << 10)
#define SLAB_PAGES 16u
#define TURNS 50u

static struct server server;
static struct peer peer, other;
static bool sinking; /* what is below is served here, not by the server */

static void pump(void *arg)
{
	unsigned slab;

	if (!sinking) {
		fuzz_server_settle(&server);
		return;
	}
	ring_turn(&server);
	while ((slab = core_next_slab(&server.core)) != CORE_NONE16)
		core_slab_created(&server.core, slab);
	server.now_ns = server_clock_ns();
	core_set_time(&server.core, server.now_ns);
}

static void attach(struct peer *p)
{
	peer_adopt(p, fuzz_server_connect(&server));
	p->idle = pump;
	ck_assert_int_eq(peer_hello_send(p, "default", 16), 0);
	ck_assert_int_eq(peer_hello_take(p), 0);
	ck_assert_int_eq(peer_map(p), 0);
}

static int32_t call(uint8_t opcode, uint32_t count)
{
	struct kvb_sqe sqe = { .opcode = opcode, .count = count };
	struct kvb_cqe cqe;

	if (opcode == KVB_OP_SEAL)
		sqe.arg = server.core.namespaces[0].epoch;
	ck_assert_int_eq(peer_call(&peer, &sqe, &cqe), 0);
	return cqe.res;
}

/* Two clients that are polled; one has a space of one slab, with something below it. */
static void begin(void)
{
	struct kvb_sqe grow = { .opcode = KVB_OP_SPACE_GROW, .count = 1, .arg = 1000000000 };
	struct kvb_ns_open open = { .flags = KVB_NS_ADMIN };
	struct kvb_cqe cqe;

	sinking = false;
	fuzz_server_start(&server);
	ck_assert_int_eq(core_arena_add(&server.core, 0, 8 << 20, 2 << 20), 1);
	core_device_below(&server.core, 0, 1);
	server.cfg.spin_ns = UINT64_MAX / 2;
	attach(&other);
	attach(&peer);
	ck_assert_int_eq(peer_space_send(&peer, 1, STRIDE, 0), 0);
	ck_assert_int_eq(peer_space_take(&peer), 0);
	ck_assert_int_eq(peer_call(&peer, &grow, &cqe), 0);
	ck_assert_int_eq(cqe.res, 1);
	memcpy(peer_operands(&peer, 0), &open, sizeof(open));
	ck_assert_int_ge(call(KVB_OP_NS_OPEN, 1), 0);
	core_device_below_ready(&server.core, 0, true);
	sinking = true;
	ck_assert_uint_eq(server.hot_count, 2);
}

static void end(void)
{
	core_device_below_ready(&server.core, 0, false);
	sinking = false;
	peer_end(&peer);
	peer_end(&other);
	fuzz_server_end(&server);
}

/* Keys first..first+n-1, sealed and released. Leaves their pages' names in the operands. */
static void cache(uint64_t first, uint32_t n)
{
	struct kvb_seal seal[SLAB_PAGES];
	kvb_page_t page[SLAB_PAGES];

	ck_assert_int_eq(call(KVB_OP_ALLOC, n), (int32_t)n);
	memcpy(page, peer_results(&peer, 0), n * sizeof(page[0]));
	for (uint32_t i = 0; i < n; i++)
		seal[i] = (struct kvb_seal){ .hash = { { first + i, 1 } }, .page = page[i] };
	memcpy(peer_operands(&peer, 0), seal, n * sizeof(seal[0]));
	ck_assert_int_eq(call(KVB_OP_SEAL, n), (int32_t)n);
	memcpy(peer_operands(&peer, 0), page, n * sizeof(page[0]));
	ck_assert_int_eq(call(KVB_OP_RELEASE, n), (int32_t)n);
}

static void submit(uint8_t opcode, uint64_t user_data, uint32_t count, uint64_t arg)
{
	*peer_sqe(&peer) = (struct kvb_sqe){
		.opcode = opcode, .user_data = user_data, .count = count, .arg = arg
	};
	peer_tail(&peer);
}

static void expect(uint64_t user_data, int32_t res)
{
	struct kvb_cqe cqe;

	ck_assert_int_eq(peer_cqe_wait(&peer, &cqe), 0);
	ck_assert_uint_eq(cqe.user_data, user_data);
	ck_assert_int_eq(cqe.res, res);
	peer_cqe_seen(&peer);
}

/* Whatever is started is done, and who waits for it looks. */
static void copy(void)
{
	unsigned t;

	for (unsigned i = 0; i < TURNS; i++) {
		pump(NULL);
		while ((t = core_next_transfer(&server.core, 0)) != CORE_NONE16)
			core_transfer_done(&server.core, t, 0, 0);
		server.parked_look_ns = server.now_ns;
	}
}

/* A page that is free, and others that have to be written down before they are. */
START_TEST(what_a_cancelled_alloc_has_taken_goes_back)
{
	begin();
	cache(0, SLAB_PAGES - 1);
	submit(KVB_OP_ALLOC, 7, 2, 0);
	for (unsigned i = 0; i < TURNS; i++)
		pump(NULL);
	ck_assert_uint_eq(server.parked, 1);
	ck_assert_uint_eq(server.core.tenants[0].pages_held, 1);
	submit(KVB_OP_CANCEL, 8, 0, 7);
	expect(7, -ECANCELED);
	expect(8, 0);
	ck_assert_uint_eq(server.parked, 0);
	ck_assert_uint_eq(server.core.tenants[0].pages_held, 0);
	end();
}
END_TEST

/* Keys 0..SLAB_PAGES-1 are below only, and the device is free. */
static void sink_all(void)
{
	cache(0, SLAB_PAGES);
	submit(KVB_OP_ALLOC, 1, SLAB_PAGES, 0);
	copy();
	expect(1, SLAB_PAGES);
	memcpy(peer_operands(&peer, 0), peer_results(&peer, 0), SLAB_PAGES * sizeof(kvb_page_t));
	ck_assert_int_eq(call(KVB_OP_FREE, SLAB_PAGES), SLAB_PAGES);
}

/* Keys that another LOAD brings up cannot be had before it has: that is no reason to be polled. */
START_TEST(a_load_that_waits_lets_others_pass)
{
	struct kvb_hash hash[SLAB_PAGES];

	begin();
	sink_all();
	for (uint32_t i = 0; i < SLAB_PAGES; i++)
		hash[i] = (struct kvb_hash){ { i, 1 } };
	memcpy(peer_operands(&peer, 0), hash, sizeof(hash));
	submit(KVB_OP_LOAD, 2, SLAB_PAGES, 0); /* has its share of copies in flight, and waits */
	submit(KVB_OP_NOP, 3, 0, 0);
	for (unsigned i = 0; i < TURNS; i++)
		pump(NULL);
	ck_assert_uint_gt(server.core.h->transfers_used, 0);
	ck_assert_uint_lt(server.core.h->transfers_used, SLAB_PAGES);
	ck_assert(peer_cqe_ready(&peer));
	expect(3, 0);
	ck_assert_uint_eq(server.parked, 1);
	copy();
	expect(2, SLAB_PAGES);
	ck_assert_uint_eq(server.parked, 0);
	end();
}
END_TEST

#define MANY 1000u

/* Leases of all clients, each as often as it was taken. */
static uint32_t times_leased(void)
{
	uint32_t times = 0;

	for (uint32_t i = 0; i < server.core.h->limits.leases; i++)
		times += server.core.leases[i].count;
	return times;
}

/* Parks a LOAD of a key that is on its way, and of one that is here, very often. */
static void load_many(uint64_t timeout_ns)
{
	struct kvb_hash *hash;

	sink_all();
	cache(100, 1);
	hash = peer_operands(&peer, 0);
	hash[0] = (struct kvb_hash){ { 0, 1 } };
	for (uint32_t i = 1; i < MANY; i++)
		hash[i] = (struct kvb_hash){ { 100, 1 } };
	submit(KVB_OP_LOAD, 2, MANY, timeout_ns);
	for (unsigned i = 0; i < MANY; i++)
		pump(NULL);
	ck_assert_uint_eq(times_leased(), MANY);
	ck_assert_uint_eq(server.parked, 1);
}

/* Gives back MANY leases, no more in a turn than a turn has units. */
static void give_back(void)
{
	for (uint32_t before = MANY, now; before; before = now) {
		ck_assert(!peer_cqe_ready(&peer));
		server.parked_look_ns = server.now_ns;
		pump(NULL);
		now = times_leased();
		ck_assert_uint_le(before - now, RING_TURN_UNITS);
		ck_assert(now < before || now == MANY);
	}
}

START_TEST(a_load_that_is_cancelled_gives_back_in_slices)
{
	begin();
	load_many(0);
	submit(KVB_OP_CANCEL, 3, 0, 2);
	submit(KVB_OP_CANCEL, 4, 0, 2);
	pump(NULL);
	expect(3, 0);
	expect(4, -ENOENT); /* it waits for nothing any more */
	ck_assert_uint_ge(times_leased(), MANY - RING_TURN_UNITS);
	ck_assert_uint_gt(times_leased(), 0);
	for (unsigned i = 0; i < TURNS; i++) {
		server.parked_look_ns = server.now_ns;
		pump(NULL);
	}
	expect(2, -ECANCELED);
	ck_assert_uint_eq(times_leased(), 0);
	ck_assert_uint_eq(server.parked, 0);
	end();
}
END_TEST

START_TEST(a_load_whose_time_is_over_gives_back_in_slices)
{
	struct ring *r = NULL;

	begin();
	load_many(60000000000ull);
	for (uint32_t i = 0; i < server.sessions_max; i++) {
		if (server.sessions[i].ring && server.sessions[i].ring->parked)
			r = server.sessions[i].ring;
	}
	r->parked_op[0].until_ns = 1;
	give_back();
	expect(2, 0);
	ck_assert_uint_eq(server.parked, 0);
	end();
}
END_TEST

static const struct suite_case cases[] = {
	{ &what_a_cancelled_alloc_has_taken_goes_back },
	{ &a_load_that_waits_lets_others_pass },
	{ &a_load_that_is_cancelled_gives_back_in_slices },
	{ &a_load_whose_time_is_over_gives_back_in_slices },
	{ NULL },
};

int main(void)
{
	return suite_run("ring-tiers", cases);
}
