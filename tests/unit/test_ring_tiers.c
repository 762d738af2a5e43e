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

/* Keys that another LOAD brings up cannot be had before it has: that is no reason to be polled. */
START_TEST(a_load_that_waits_lets_others_pass)
{
	struct kvb_hash hash[SLAB_PAGES];

	begin();
	cache(0, SLAB_PAGES);
	submit(KVB_OP_ALLOC, 1, SLAB_PAGES, 0); /* all go down */
	copy();
	expect(1, SLAB_PAGES);
	memcpy(peer_operands(&peer, 0), peer_results(&peer, 0), SLAB_PAGES * sizeof(kvb_page_t));
	ck_assert_int_eq(call(KVB_OP_FREE, SLAB_PAGES), SLAB_PAGES);
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

static const struct suite_case cases[] = {
	{ &what_a_cancelled_alloc_has_taken_goes_back },
	{ &a_load_that_waits_lets_others_pass },
	{ NULL },
};

int main(void)
{
	return suite_run("ring-tiers", cases);
}
