/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The daemon's side of a ring, in this process: what a running daemon shows only after days (its
 * indices past 2^32) or only by chance (entries that wait while the client reaps in silence).
 *
 * The server and the peer are those of the fuzz targets: real rings, sessions and tables, turned by
 * hand.
 */

#include <check.h>
#include <errno.h>
#include <string.h>

#include "broker/io/ring.h"
#include "broker/io/shm.h"
#include "tests/fuzz/server.h"
#include "tests/unit/suite.h"

#define ENTRIES 8u

static struct server server;
static struct peer peer;

static void pump(void *arg)
{
	fuzz_server_settle(arg);
}

static void begin(void)
{
	fuzz_server_start(&server);
	peer_adopt(&peer, fuzz_server_connect(&server));
	peer.idle = pump;
	peer.idle_arg = &server;
	ck_assert_int_eq(peer_hello_send(&peer, "default", ENTRIES), 0);
	ck_assert_int_eq(peer_hello_take(&peer), 0);
	ck_assert_int_eq(peer_map(&peer), 0);
}

static void end(void)
{
	peer_end(&peer);
	fuzz_server_end(&server);
}

static struct ring *ring(void)
{
	for (uint32_t i = 0; i < server.sessions_max; i++) {
		if (server.sessions[i].ring)
			return server.sessions[i].ring;
	}
	ck_abort_msg("no ring");
	return NULL;
}

/* Both sides go on as if `index` entries had been taken and completed. */
static void set_indices(uint32_t index)
{
	struct kvb_sub *sub = (struct kvb_sub *)(void *)peer.sub;
	struct ring *r = ring();
	struct kvb_ctl *ctl = r->ctl.mem;

	ck_assert(!r->current_used && !r->parked);
	peer.sq_tail = peer.cq_head = index;
	shm_store(&sub->sq_tail, index);
	shm_store(&sub->cq_head, index);
	shm_store(&ctl->sq_head, index);
	shm_store(&ctl->cq_tail, index);
	r->sq_head = r->cq_tail = r->cq_head = r->published = r->shown_head = r->tail_seen = index;
}

static void send_nop(uint64_t user_data)
{
	struct kvb_sqe *sqe = peer_sqe(&peer);

	sqe->opcode = KVB_OP_NOP;
	sqe->user_data = user_data;
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

START_TEST(fault_031_indices_go_past_2_to_the_32)
{
	begin();
	set_indices(UINT32_MAX - 20);
	for (uint64_t i = 0; i < 64; i++) {
		send_nop(i);
		if (i % 5 == 4) {
			peer_doorbell(&peer);
			for (uint64_t k = i - 4; k <= i; k++)
				expect(k, 0);
		}
	}
	ck_assert(!ring()->broken);
	ck_assert_uint_lt(ring()->sq_head, 100); /* it did go past */
	end();
}
END_TEST

START_TEST(fault_029_a_jump_across_the_wrap_is_still_a_jump)
{
	struct kvb_sub *sub;

	begin();
	set_indices(UINT32_MAX - 2);
	sub = (struct kvb_sub *)(void *)peer.sub;
	shm_store_release(&sub->sq_tail, UINT32_MAX - 2 + ENTRIES + 1);
	peer_doorbell(&peer);
	fuzz_server_settle(&server);
	ck_assert_uint_eq(server.protocol_errors, 1);
	end();
}
END_TEST

START_TEST(reaping_in_silence_lets_waiting_entries_go_on)
{
	const uint32_t slots = 2 * ENTRIES; /* of the completion queue, by default */
	uint64_t until;

	begin();
	for (uint64_t i = 0; i < slots + 4; i++) {
		send_nop(i);
		if (i % ENTRIES == ENTRIES - 1 || i == slots + 3) {
			peer_doorbell(&peer);
			fuzz_server_settle(&server);
		}
	}
	/* The queue is full, four entries wait, and the ring is left alone until it is cold. */
	until = server.now_ns + server.cfg.spin_ns + 10000000;
	while (server.now_ns < until)
		fuzz_server_settle(&server);
	ck_assert(!ring()->hot && ring()->stalled);
	ck_assert_uint_eq(ring()->cq_tail, slots);
	for (uint64_t i = 0; i < slots + 4; i++)
		expect(i, 0); /* no doorbell */
	end();
}
END_TEST

START_TEST(an_entry_waits_for_its_fence_and_lets_others_pass)
{
	struct kvb_fence *fence;
	struct kvb_sqe *sqe;
	struct kvb_cqe cqe;
	kvb_page_t page;

	begin();
	ck_assert_int_eq(peer_space_send(&peer, 1, 65536, 0), 0);
	ck_assert_int_eq(peer_space_take(&peer), 0);
	sqe = &(struct kvb_sqe){ .opcode = KVB_OP_SPACE_GROW, .count = 1, .arg = 1000000000 };
	ck_assert_int_eq(peer_call(&peer, sqe, &cqe), 0);
	ck_assert_int_eq(cqe.res, 1);
	sqe = &(struct kvb_sqe){ .opcode = KVB_OP_ALLOC, .count = 1 };
	ck_assert_int_eq(peer_call(&peer, sqe, &cqe), 0);
	ck_assert_int_eq(cqe.res, 1);
	memcpy(&page, peer_results(&peer, 0), sizeof(page));
	fence = (struct kvb_fence *)(void *)peer.fence;
	fence[3].value = UINT64_MAX; /* one short of 0, modulo 2^64 */
	for (uint64_t i = 0; i < 2; i++) {
		memcpy(peer_operands(&peer, 64 * (uint32_t)i), &page, sizeof(page));
		sqe = peer_sqe(&peer);
		*sqe = (struct kvb_sqe){ .opcode = KVB_OP_FREE,
					 .user_data = 10 + i,
					 .fence = 4,
					 .count = 1,
					 .operand = 64 * (uint32_t)i };
		peer_tail(&peer);
	}
	send_nop(12);
	peer_doorbell(&peer);
	expect(12, 0);
	ck_assert_uint_eq(ring()->parked, 2);
	sqe = &(struct kvb_sqe){ .opcode = KVB_OP_CANCEL, .arg = 11 };
	*peer_sqe(&peer) = *sqe;
	peer_tail(&peer);
	peer_doorbell(&peer);
	expect(11, -ECANCELED);
	expect(0, 0);
	__atomic_store_n(&fence[3].value, 0, __ATOMIC_RELEASE);
	expect(10, 1);
	ck_assert_uint_eq(server.parked, 0);
	ck_assert_uint_eq(server.core.tenants[0].pages_held, 0);
	end();
}
END_TEST

/* Two that wait for a word that nobody writes: when the time is over, one is asked for again. */
START_TEST(an_entry_does_not_wait_for_its_fence_for_ever)
{
	struct kvb_fence *fence;
	struct kvb_sqe *sqe;
	struct kvb_cqe cqe;
	kvb_page_t page;

	begin();
	ck_assert_int_eq(peer_space_send(&peer, 1, 65536, 0), 0);
	ck_assert_int_eq(peer_space_take(&peer), 0);
	sqe = &(struct kvb_sqe){ .opcode = KVB_OP_SPACE_GROW, .count = 1, .arg = 1000000000 };
	ck_assert_int_eq(peer_call(&peer, sqe, &cqe), 0);
	sqe = &(struct kvb_sqe){ .opcode = KVB_OP_ALLOC, .count = 1 };
	ck_assert_int_eq(peer_call(&peer, sqe, &cqe), 0);
	memcpy(&page, peer_results(&peer, 0), sizeof(page));
	fence = (struct kvb_fence *)(void *)peer.fence;
	memcpy(peer_operands(&peer, 0), &page, sizeof(page));
	sqe = &(struct kvb_sqe){
		.opcode = KVB_OP_FREE, .user_data = 10, .fence = 4, .fence_value = 1, .count = 1
	};
	*peer_sqe(&peer) = *sqe;
	peer_tail(&peer);
	send_nop(11);
	peer_doorbell(&peer);
	expect(11, 0);
	ck_assert_uint_eq(ring()->parked, 1);
	ck_assert_uint_gt(ring()->parked_op[0].until_ns, server.now_ns + 50000000000ull);
	ring()->parked_op[0].until_ns = server.now_ns; /* a minute has passed */
	expect(10, -ETIME);
	ck_assert_uint_eq(server.parked, 0);
	ck_assert_uint_eq(server.core.tenants[0].pages_held, 1);
	/* late, it does nothing by itself; the entry can be sent again */
	__atomic_store_n(&fence[3].value, 1, __ATOMIC_RELEASE);
	fuzz_server_settle(&server);
	ck_assert_uint_eq(server.core.tenants[0].pages_held, 1);
	ck_assert_int_eq(peer_call(&peer, sqe, &cqe), 0);
	ck_assert_int_eq(cqe.res, 1);
	ck_assert_uint_eq(server.core.tenants[0].pages_held, 0);
	end();
}
END_TEST

/* Well-formed or not: a stream waits. A word that does not exist is not written. */
START_TEST(a_load_that_makes_no_sense_sets_its_fence)
{
	struct kvb_fence *fence;
	struct kvb_sqe *sqe;
	struct kvb_cqe cqe;

	begin();
	fence = (struct kvb_fence *)(void *)peer.fence;
	sqe = &(struct kvb_sqe){ .opcode = KVB_OP_LOAD,
				 .fence = KVB_FENCES,
				 .fence_value = 7,
				 .count = 1,
				 .operand = 1 };
	ck_assert_int_eq(peer_call(&peer, sqe, &cqe), 0);
	ck_assert_int_eq(cqe.res, -EINVAL);
	ck_assert_uint_eq(fence[KVB_FENCES - 1].value, 7);
	sqe->fence = KVB_FENCES + 1;
	sqe->fence_value = 8;
	ck_assert_int_eq(peer_call(&peer, sqe, &cqe), 0);
	ck_assert_int_eq(cqe.res, -EINVAL);
	for (unsigned i = 0; i < KVB_FENCES; i++)
		ck_assert_uint_eq(fence[i].value, i == KVB_FENCES - 1 ? 7 : 0);
	end();
}
END_TEST

static const struct suite_case cases[] = {
	{ &fault_031_indices_go_past_2_to_the_32 },
	{ &fault_029_a_jump_across_the_wrap_is_still_a_jump },
	{ &reaping_in_silence_lets_waiting_entries_go_on },
	{ &an_entry_waits_for_its_fence_and_lets_others_pass },
	{ &an_entry_does_not_wait_for_its_fence_for_ever },
	{ &a_load_that_makes_no_sense_sets_its_fence },
	{ NULL },
};

int main(void)
{
	return suite_run("ring-serve", cases);
}
