/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What a client may do within the rules, and what others would pay for it.
 *
 * Entries that are cheap to write and dear to answer: a client floods its ring with the dearest
 * entry of its kind that it can arrange, and a bystander measures round trips. What an entry costs
 * is bounded, or charged to its ring's turn: without that each of these floods held every other
 * client up for 20 to 40 ms a round trip. The bound leaves room for a busy machine.
 */

#include "tests/proto/harness.h"
#include "tests/proto/raw.h"
#include "tests/unit/suite.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef __has_feature
#define __has_feature(feature) 0
#endif
#if __has_feature(address_sanitizer)
#define P99_BOUND_NS 40000000ull /* both ends run several times slower */
#else
#define P99_BOUND_NS 10000000ull
#endif
#define SAMPLES 300u
#define TINY 64u          /* the least stride */
#define SLAB_PAGES 32768u /* of it, in 2 MiB */

static struct raw attach_wide(const struct broker *b, bool deaf)
{
	struct kvb_msg_hello hello = raw_hello();
	struct raw r;

	hello.sq_entries = hello.cq_entries = 1024;
	hello.operand_bytes = 1u << 20;
	raw_attach(&r, b, "other", &hello);
	r.deaf = deaf;
	raw_space(&r, TINY, 7);
	raw_ns(&r, 7, 0);
	return r;
}

static void flood(struct raw *r, const struct kvb_sqe *sqe)
{
	raise(SIGSTOP); /* the stage is set */
	for (;;) {
		raw_submit(r, sqe);
		raw_poll(r);
	}
}

/* Runs the flood while the bystander measures. */
static void bystander_among(struct scene *s, void (*attack)(void *arg))
{
	pid_t pid = child_start(attack, &s->b);
	uint64_t p99;
	int status;

	ck_assert_int_eq(waitpid(pid, &status, WUNTRACED), pid);
	ck_assert(WIFSTOPPED(status));
	kill(pid, SIGCONT);
	sleep_ms(50);
	p99 = bystander_p99_ns(&s->by, SAMPLES);
	child_kill(pid);
	ck_assert_uint_lt(p99, P99_BOUND_NS);
	scene_close(s);
}

/* ---- RECLAIM_ACK of a slab that the client leases, with very many leases elsewhere -------------
 */

static void lease_many_and_reclaim(void *arg)
{
	struct raw r = attach_wide(arg, false);
	struct kvb_sqe shrink = { .opcode = KVB_OP_SPACE_SHRINK,
				  .space = (uint16_t)r.geo.space,
				  .count = 1,
				  .arg = 3600ull * 1000 * 1000 * 1000 };
	struct kvb_sqe ack = { .opcode = KVB_OP_RECLAIM_ACK, .space = (uint16_t)r.geo.space };
	static kvb_page_t pages[16384];
	uint64_t sealed = 0;
	int32_t n;

	ck_assert_int_eq(raw_grow(&r, 8, 5000), 8);
	while ((n = raw_alloc(&r, 16384, pages)) > 0) {
		ck_assert_int_eq(raw_seal(&r, (uint32_t)n, pages, sealed, NULL), n);
		sealed += (uint64_t)n;
	}
	ck_assert_int_eq(raw_call(&r, &shrink).res, 1);
	EVENTUALLY((raw_poll(&r), r.revokes > 0));
	ack.arg = r.revoked[0];
	ck_assert_int_eq(raw_call(&r, &ack).res, -EBUSY);
	flood(&r, &ack);
}

START_TEST(reclaim_acks_of_a_client_with_many_leases)
{
	struct scene s;

	scene_open(&s, OPTIONS("--max-pages", "1048576"));
	bystander_among(&s, lease_many_and_reclaim);
}
END_TEST

/* ---- ALLOC by a client that has refused the slabs in which everything lies --------------------
 */

static void refuse_and_alloc(void *arg)
{
	struct raw filler = attach_wide(arg, false), r;
	struct kvb_sqe alloc = { .opcode = KVB_OP_ALLOC, .count = 1 };
	struct kvb_msg_grant_ack ack = {
		.h = { .magic = KVB_MAGIC, .type = KVB_MSG_GRANT_ACK, .length = sizeof(ack) },
		.status = ENOMEM,
	};
	static kvb_page_t pages[16384];
	int fds[KVB_GRANT_FDS_MAX];
	unsigned nfds = KVB_GRANT_FDS_MAX;
	union raw_message m;
	uint64_t sealed = 0;
	int32_t n;

	ck_assert_int_eq(raw_grow(&filler, 8, 5000), 8);
	while (sealed < 8 * SLAB_PAGES && (n = raw_alloc(&filler, 16384, pages)) > 0) {
		ck_assert_int_eq(raw_seal(&filler, (uint32_t)n, pages, sealed, NULL), n);
		ck_assert_int_eq(raw_pages(&filler, KVB_OP_RELEASE, (uint32_t)n, pages), n);
		sealed += (uint64_t)n;
	}
	r = attach_wide(arg, true);
	ck_assert_int_gt(raw_receive(r.sock, &m, fds, &nfds, 5000), 0);
	ck_assert_uint_eq(m.h.type, KVB_MSG_GRANT);
	ck_assert_uint_eq(m.grant.count, 8);
	ack.seq = m.grant.seq;
	ck_assert_int_eq(raw_send(r.sock, &ack, sizeof(ack), NULL, 0), 0);
	sleep_ms(20);
	alloc.space = (uint16_t)r.geo.space;
	ck_assert_int_eq(raw_call(&r, &alloc).res, 0);
	flood(&r, &alloc);
}

START_TEST(allocs_of_a_client_that_refused_every_slab)
{
	struct scene s;

	scene_open(&s, OPTIONS("--max-pages", "1048576"));
	bystander_among(&s, refuse_and_alloc);
}
END_TEST

/* ---- copies, as many as there can be -----------------------------------------------------------
 */

#define COPIED_STRIDE (64u << 10)
#define COPIED_KEYS 700u /* more than its slabs hold, fewer than fit with what is below */

/* Keys that do not fit the device together, brought up one after the other, for ever. */
static void prefetch_for_ever(void *arg)
{
	struct kvb_msg_hello hello = raw_hello();
	struct kvb_sqe sqe = { .opcode = KVB_OP_PREFETCH, .count = COPIED_KEYS };
	struct kvb_hash *hash;
	kvb_page_t pages[16];
	struct raw r;

	hello.sq_entries = hello.cq_entries = 1024;
	hello.operand_bytes = 1u << 20;
	raw_attach(&r, arg, "other", &hello);
	raw_space(&r, COPIED_STRIDE, 7);
	raw_ns(&r, 7, 0);
	ck_assert_int_eq(raw_grow(&r, 12, 5000), 12);
	for (uint32_t key = 0; key < COPIED_KEYS;) {
		int32_t n = raw_alloc(&r, 16, pages);

		ck_assert_int_ge(n, 0);
		if (!n)
			continue;
		ck_assert_int_eq(raw_seal(&r, (uint32_t)n, pages, key, NULL), n);
		ck_assert_int_eq(raw_pages(&r, KVB_OP_RELEASE, (uint32_t)n, pages), n);
		key += (uint32_t)n;
	}
	for (unsigned half = 0; half < 2; half++) {
		hash = raw_operand(&r, half * COPIED_KEYS * sizeof(*hash));
		for (uint32_t key = 0; key < COPIED_KEYS; key++)
			hash[key] = raw_hash(half ? COPIED_KEYS - 1 - key : key);
	}
	sqe.space = (uint16_t)r.geo.space;
	sqe.ns = (uint16_t)r.ns.ns;
	raise(SIGSTOP);
	for (unsigned i = 0;; i++) {
		sqe.operand = i % 2 * COPIED_KEYS * (uint32_t)sizeof(*hash);
		raw_submit(&r, &sqe);
		raw_poll(&r);
	}
}

START_TEST(a_flood_of_copies)
{
	struct scene s;
	uint64_t began;
	pid_t pid;
	int status;

	scene_open(&s, OPTIONS("--host-tier", "64M"));
	pid = child_start(prefetch_for_ever, &s.b);
	ck_assert_int_eq(waitpid(pid, &status, WUNTRACED), pid);
	ck_assert(WIFSTOPPED(status));
	began = broker_stats(&s.b)->device[0].promoted;
	kill(pid, SIGCONT);
	EVENTUALLY(broker_stats(&s.b)->device[0].promoted >= began + COPIED_KEYS);
	for (unsigned i = 0; i < 50; i++) /* whose evictions are copied too */
		bystander_cycle(&s.by);
	ck_assert_uint_lt(bystander_p99_ns(&s.by, SAMPLES), P99_BOUND_NS);
	child_kill(pid);
	scene_close(&s);
}
END_TEST

/* ---- memory runs short -------------------------------------------------------------------------
 */

/* Slabs made one after the other and closed at once; with fault points, short of memory for a job.
 */
START_TEST(slabs_close_however_short_memory_is)
{
	struct kvb_sqe sqe = { .opcode = KVB_OP_SPACE_SHRINK, .count = 8 };
	uint32_t slabs = 0;
	struct kvb_cqe cqe;
	struct scene s;
	struct raw r;

	setenv("KVB_FAULT", "worker-job:4", 1);
	scene_open(&s, OPTIONS());
	raw_attach(&r, &s.b, "other", NULL);
	raw_space(&r, 64 << 10, 7);
	for (unsigned i = 0; i < 8; i++)
		slabs += raw_grow(&r, 1, 5000) == 1;
	ck_assert_uint_ge(slabs, 7);
	sqe.space = (uint16_t)r.geo.space;
	ck_assert_int_eq(raw_call(&r, &sqe).res, (int32_t)slabs);
	EVENTUALLY((raw_poll(&r), r.revokes == slabs));
	sqe = (struct kvb_sqe){ .opcode = KVB_OP_RECLAIM_ACK, .space = sqe.space };
	for (unsigned i = 0; i < slabs; i++) {
		*raw_sqe(&r, r.sq_tail + i) = sqe;
		raw_sqe(&r, r.sq_tail + i)->arg = r.revoked[i];
	}
	r.sq_tail += slabs; /* all in one turn */
	__atomic_store_n(&raw_sub(&r)->sq_tail, r.sq_tail, __ATOMIC_RELEASE);
	raw_ring_doorbell(&r);
	for (unsigned i = 0; i < slabs; i++) {
		ck_assert_int_eq(raw_cqe(&r, &cqe, 5000), 0);
		ck_assert_int_eq(cqe.res, 0);
	}
	raw_leave(&r);
	scene_close(&s);
}
END_TEST

/* ---- a grant that the kernel had no room for ---------------------------------------------------
 */

static void open_space(struct raw *r, uint64_t tag)
{
	const struct kvb_msg_space_open open = {
		.h = { .magic = KVB_MAGIC, .type = KVB_MSG_SPACE_OPEN, .length = sizeof(open) },
		.device_kind = KVB_DEVICE_HOST,
		.regions = 1,
		.stride_bytes = 64 << 10,
		.tag = tag,
	};

	ck_assert_int_eq(raw_send(r->sock, &open, sizeof(open), NULL, 0), 0);
}

/* The type of the next message; what came with it is closed. */
static unsigned next_type(struct raw *r)
{
	union raw_message m;
	int fds[KVB_GRANT_FDS_MAX];
	unsigned nfds = KVB_GRANT_FDS_MAX;

	ck_assert_int_gt(raw_receive(r->sock, &m, fds, &nfds, 5000), 0);
	while (nfds)
		close(fds[--nfds]);
	return m.h.type;
}

/*
 * One grant message is in flight a client. Here it waits in the daemon (with fault points: the 14th
 * message sent finds too many fds in flight) while its space is closed; a grant of another space
 * waits behind it and must still come.
 */
START_TEST(a_held_grant_of_a_closed_space_does_not_hold_up_others)
{
	struct kvb_msg_space_close close_msg = {
		.h = { .magic = KVB_MAGIC,
		       .type = KVB_MSG_SPACE_CLOSE,
		       .length = sizeof(close_msg) },
	};
	struct raw filler[2], r;
	struct scene s;
	unsigned type;

	setenv("KVB_FAULT", "send:14:109", 1); /* ETOOMANYREFS */
	scene_open(&s, OPTIONS());
	for (unsigned i = 0; i < 2; i++) {
		raw_attach(&filler[i], &s.b, "other", NULL);
		raw_space(&filler[i], 64 << 10, i);
		ck_assert_int_eq(raw_grow(&filler[i], 1, 5000), 1);
	}
	raw_attach(&r, &s.b, "other", NULL);
	open_space(&r, 0);
	ck_assert_uint_eq(next_type(&r), KVB_MSG_SPACE_REPLY);
	usleep(1000);
	open_space(&r, 1);
	usleep(1000);
	ck_assert_int_eq(raw_send(r.sock, &close_msg, sizeof(close_msg), NULL, 0), 0);
	do
		type = next_type(&r);
	while (type == KVB_MSG_SPACE_REPLY);
	ck_assert_uint_eq(type, KVB_MSG_GRANT);
	raw_leave(&r);
	for (unsigned i = 0; i < 2; i++)
		raw_leave(&filler[i]);
	scene_close(&s);
}
END_TEST

/* ---- an entry that waits while its space's handle goes to another ------------------------------
 */

START_TEST(a_fenced_free_does_not_reach_the_next_space)
{
	struct kvb_msg_space_close close_msg = {
		.h = { .magic = KVB_MAGIC,
		       .type = KVB_MSG_SPACE_CLOSE,
		       .length = sizeof(close_msg) },
	};
	struct kvb_sqe fenced = { .opcode = KVB_OP_FREE, .count = 1, .fence = 1, .fence_value = 1 };
	kvb_page_t old, new;
	struct kvb_cqe cqe;
	struct scene s;
	struct raw r;

	scene_open(&s, OPTIONS());
	raw_attach(&r, &s.b, "other", NULL);
	raw_space(&r, 64 << 10, 1);
	ck_assert_int_eq(raw_grow(&r, 1, 5000), 1);
	ck_assert_int_eq(raw_alloc(&r, 1, &old), 1);
	fenced.operand = r.hello.operand_bytes - sizeof(old);
	memcpy(raw_operand(&r, fenced.operand), &old, sizeof(old));
	raw_submit(&r, &fenced);
	ck_assert_int_eq(raw_pages(&r, KVB_OP_FREE, 1, &old), 1);
	ck_assert_int_eq(raw_send(r.sock, &close_msg, sizeof(close_msg), NULL, 0), 0);
	ck_assert_uint_eq(next_type(&r), KVB_MSG_SPACE_REPLY);

	raw_space(&r, 64 << 10, 2);
	ck_assert_uint_eq(r.geo.space, 0);
	/* closing has ended the entry */
	ck_assert_int_eq(raw_cqe(&r, &cqe, 5000), 0);
	ck_assert_int_eq(cqe.res, -ENOENT);
	ck_assert_int_eq(raw_grow(&r, 1, 5000), 1);
	ck_assert_int_eq(raw_alloc(&r, 1, &new), 1);
	ck_assert(new == old);
	__atomic_store_n((uint64_t *)r.fence, 1, __ATOMIC_RELEASE);
	sleep_ms(20);
	ck_assert_int_eq(raw_pages(&r, KVB_OP_FREE, 1, &new), 1); /* still held */
	raw_leave(&r);
	scene_close(&s);
}
END_TEST

/* ---- places that an operator needs -------------------------------------------------------------
 */

static void take_operators_places(void *arg)
{
	struct kvb_msg_hello hello = raw_hello();

	become_nobody();
	hello.role = KVB_ROLE_ADMIN;
	for (unsigned i = 0; i < 100; i++) {
		int sock = raw_connect(arg);

		if (sock >= 0)
			(void)raw_send(sock, &hello, sizeof(hello), NULL, 0);
	}
	raise(SIGSTOP); /* and keeps them */
}

START_TEST(an_operator_gets_in_whoever_else_has)
{
	struct scene s;
	pid_t pid;
	int status;

	if (!can_be_others())
		return;
	scene_open(&s, OPTIONS("--socket-mode", "0666"));
	pid = child_start(take_operators_places, &s.b);
	ck_assert_int_eq(waitpid(pid, &status, WUNTRACED), pid);
	ck_assert(WIFSTOPPED(status));
	sleep_ms(50);
	ck_assert_int_eq(broker_ctl(&s.b, OPTIONS("health", "--deep")), 0);
	child_kill(pid);
	scene_close(&s);
}
END_TEST

#define CASE(name)                                                                                 \
	{                                                                                          \
		&name, 40                                                                          \
	}

int main(void)
{
	static const struct suite_case cases[] = {
		CASE(reclaim_acks_of_a_client_with_many_leases),
		CASE(allocs_of_a_client_that_refused_every_slab),
		CASE(slabs_close_however_short_memory_is),
		CASE(a_fenced_free_does_not_reach_the_next_space),
		CASE(an_operator_gets_in_whoever_else_has),
		CASE(a_held_grant_of_a_closed_space_does_not_hold_up_others),
		CASE(a_flood_of_copies),
		{ NULL, 0 },
	};

	return suite_run("attack", cases);
}
