/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Faults 29 to 43: lies in ring indices and in entries.
 *
 * What a well-formed entry is, is said here a second time, from the table in kvbroker.h: an entry
 * that this file calls malformed must be -EINVAL, any other may end as it likes, and nobody else
 * may notice.
 */

#include "tests/proto/harness.h"
#include "tests/proto/raw.h"
#include "tests/unit/suite.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define P99_BOUND_NS 100000000ull

static const struct kvb_sqe nop = { .opcode = KVB_OP_NOP };

/* A lie about an index is the end of the liar. */
static void index_lie(void (*lie)(struct raw *r))
{
	struct kvb_msg_hello hello = raw_hello();
	struct scene s;
	struct raw r;

	hello.sq_entries = hello.cq_entries = 4;
	scene_open(&s, OPTIONS());
	raw_attach(&r, &s.b, "other", &hello);
	for (unsigned i = 0; i < 9; i++)
		ck_assert_int_eq(raw_call(&r, &nop).res, 0);
	lie(&r);
	raw_ring_doorbell(&r);
	ck_assert(raw_broken(&r, 20000));
	ck_assert_uint_eq(raw_ctl(&r)->error, EPROTO);
	raw_wait_end(dup(r.sock));
	raw_close(&r);
	scene_close(&s);
}

static void tail_jumps(struct raw *r)
{
	__atomic_store_n(&raw_sub(r)->sq_tail, r->sq_tail + 5, __ATOMIC_RELEASE);
}

static void tail_jumps_far(struct raw *r)
{
	__atomic_store_n(&raw_sub(r)->sq_tail, r->sq_tail + 0x80000000u, __ATOMIC_RELEASE);
}

static void tail_goes_back(struct raw *r)
{
	__atomic_store_n(&raw_sub(r)->sq_tail, r->sq_tail - 1, __ATOMIC_RELEASE);
}

/* Noticed when the daemon needs it: when the CQ seems full. */
static void head_runs_ahead(struct raw *r)
{
	for (unsigned i = 0; i < 4; i++)
		raw_submit(r, &nop);
	EVENTUALLY(__atomic_load_n(&raw_ctl(r)->cq_tail, __ATOMIC_ACQUIRE) == r->sq_tail);
	__atomic_store_n(&raw_sub(r)->cq_head, r->sq_tail + 1, __ATOMIC_RELEASE);
	raw_submit(r, &nop);
}

static void head_goes_back(struct raw *r)
{
	for (unsigned i = 0; i < 4; i++)
		raw_submit(r, &nop);
	EVENTUALLY(__atomic_load_n(&raw_ctl(r)->cq_tail, __ATOMIC_ACQUIRE) == r->sq_tail);
	__atomic_store_n(&raw_sub(r)->cq_head, r->cq_head - 100, __ATOMIC_RELEASE);
	raw_submit(r, &nop);
}

START_TEST(fault_029_tail_jumps)
{
	index_lie(tail_jumps);
	index_lie(tail_jumps_far);
}
END_TEST

START_TEST(fault_030_tail_goes_back)
{
	index_lie(tail_goes_back);
}
END_TEST

START_TEST(fault_032_head_ahead_of_the_tail)
{
	index_lie(head_runs_ahead);
	index_lie(head_goes_back);
}
END_TEST

START_TEST(fault_033_head_that_never_moves)
{
	struct kvb_msg_hello hello = raw_hello();
	struct kvb_cqe cqe;
	struct scene s;
	struct raw r;
	uint64_t cpu;

	hello.sq_entries = hello.cq_entries = 8;
	scene_open(&s, OPTIONS());
	raw_attach(&r, &s.b, "other", &hello);
	for (unsigned i = 0; i < 16; i++) {
		raw_submit(&r, &nop);
		EVENTUALLY(i >= 8 ||
			   __atomic_load_n(&raw_ctl(&r)->sq_head, __ATOMIC_ACQUIRE) == r.sq_tail);
	}
	sleep_ms(100);
	ck_assert_uint_eq(raw_ctl(&r)->cq_tail, 8);
	ck_assert_uint_eq(raw_ctl(&r)->sq_head, 8);
	cpu = broker_cpu_ns(&s.b);
	sleep_ms(500);
	ck_assert_uint_lt(broker_cpu_ns(&s.b) - cpu, 100000000ull);
	bystander_cycle(&s.by);
	for (unsigned i = 0; i < 16; i++)
		ck_assert_int_eq(raw_cqe(&r, &cqe, 20000), 0);
	raw_close(&r);
	scene_close(&s);
}
END_TEST

/* ---- a client with everything -------------------------------------------------------------- */

#define PAGES 32u

/* Sealed and leased pages under keys 0..31, filling ones beside them. */
struct rich {
	struct raw r;
	kvb_page_t sealed[PAGES], filling[PAGES];
};

/* All it asks for, also where the space has memory of former members that is yet to be mapped. */
static void rich_alloc(struct rich *c, kvb_page_t *ret)
{
	uint32_t got = 0;

	for (unsigned tries = 0; got < PAGES && tries < 1000; tries++) {
		int32_t n = raw_alloc(&c->r, PAGES - got, ret + got);

		ck_assert_int_ge(n, 0);
		got += (uint32_t)n;
		raw_poll(&c->r);
		if (n == 0 && tries % 10 == 1)
			raw_grow(&c->r, 2, 100);
	}
	ck_assert_uint_eq(got, PAGES);
}

static void rich_open(struct rich *c, const struct broker *b, const char *tenant)
{
	raw_attach(&c->r, b, tenant, NULL);
	raw_space(&c->r, 65536, 3);
	raw_ns(&c->r, 1, KVB_NS_ADMIN);
	rich_alloc(c, c->sealed);
	ck_assert_int_eq(raw_seal(&c->r, PAGES, c->sealed, 0, c->sealed), PAGES);
	rich_alloc(c, c->filling);
}

/* A valid entry of each operation, with operands in place. */
static struct kvb_sqe valid_entry(struct rich *c, unsigned op)
{
	struct kvb_sqe sqe = { .opcode = (uint8_t)op, .space = (uint16_t)c->r.geo.space };
	struct kvb_ns_open *open = raw_operand(&c->r, 0);
	struct kvb_hash *hashes = raw_operand(&c->r, 0);
	struct kvb_seal *seals = raw_operand(&c->r, 0);
	kvb_page_t *pages = raw_operand(&c->r, 0);

	sqe.count = 2;
	switch (op) {
	case KVB_OP_NOP:
		return nop;
	case KVB_OP_SEAL:
		sqe.ns = (uint16_t)c->r.ns.ns;
		sqe.arg = c->r.ns.epoch;
		for (unsigned i = 0; i < 2; i++)
			seals[i] = (struct kvb_seal){ .page = c->filling[i],
						      .hash = raw_hash(1000 + i) };
		break;
	case KVB_OP_LOOKUP:
	case KVB_OP_LOAD:
	case KVB_OP_PREFETCH:
		sqe.ns = (uint16_t)c->r.ns.ns;
		hashes[0] = raw_hash(0);
		hashes[1] = raw_hash(1);
		break;
	case KVB_OP_FREE:
		pages[0] = c->filling[2];
		pages[1] = c->filling[3];
		break;
	case KVB_OP_SPACE_GROW:
	case KVB_OP_SPACE_SHRINK:
		sqe.count = 1;
		sqe.arg = 1000000;
		break;
	case KVB_OP_RECLAIM_ACK:
		sqe.count = 0;
		sqe.arg = 1;
		break;
	case KVB_OP_NS_OPEN:
		sqe.space = 0;
		sqe.count = 1;
		*open = (struct kvb_ns_open){ .digest = { 9 } };
		break;
	case KVB_OP_EPOCH_BUMP:
		sqe.space = 0;
		sqe.count = 0;
		sqe.ns = (uint16_t)c->r.ns.ns;
		break;
	case KVB_OP_CANCEL:
		sqe.space = 0;
		sqe.count = 0;
		sqe.arg = 77;
		break;
	case KVB_OP_HINT:
		sqe.arg = KVB_HINT(KVB_PRIO_LOW, 5);
		/* fall through */
	default: /* ALLOC needs none of it */
		pages[0] = c->sealed[0];
		pages[1] = c->sealed[1];
	}
	return sqe;
}

/* Bytes of operand or result, as kvbroker.h has them; 0: none. */
static uint32_t operand_bytes(unsigned op)
{
	switch (op) {
	case KVB_OP_SEAL:
		return sizeof(struct kvb_seal);
	case KVB_OP_LOOKUP:
	case KVB_OP_LOAD:
	case KVB_OP_PREFETCH:
		return sizeof(struct kvb_hash);
	case KVB_OP_NS_OPEN:
		return sizeof(struct kvb_ns_open);
	case KVB_OP_NOP:
	case KVB_OP_SPACE_GROW:
	case KVB_OP_SPACE_SHRINK:
	case KVB_OP_RECLAIM_ACK:
	case KVB_OP_EPOCH_BUMP:
	case KVB_OP_CANCEL:
		return 0;
	default:
		return sizeof(kvb_page_t);
	}
}

static bool one_of(unsigned op, uint32_t set)
{
	return op < KVB_OP_N && set >> op & 1;
}

#define OP(name) (1u << KVB_OP_##name)
#define KEYED (OP(SEAL) | OP(LOOKUP) | OP(LOAD) | OP(PREFETCH))

static bool malformed(const struct kvb_sqe *q, uint32_t area)
{
	unsigned op = q->opcode;
	uint32_t each = operand_bytes(op);
	uint8_t flags = one_of(op, OP(ALLOC) | OP(LOOKUP)) ? 3 : 0;

	if (op >= KVB_OP_N || q->resv[0] || q->resv[1] || q->flags & ~flags ||
	    (op == KVB_OP_LOOKUP && q->flags == (KVB_LOOKUP_ALL | KVB_LOOKUP_TIERS)))
		return true;
	if ((q->space && one_of(op, OP(NOP) | OP(NS_OPEN) | OP(EPOCH_BUMP) | OP(CANCEL))) ||
	    (q->ns && !one_of(op, KEYED | OP(EPOCH_BUMP))) || (q->salt && !one_of(op, KEYED)) ||
	    (q->arg && !one_of(op, OP(SEAL) | OP(LOAD) | OP(HINT) | OP(SPACE_GROW) |
					   OP(SPACE_SHRINK) | OP(RECLAIM_ACK) | OP(CANCEL))))
		return true;
	if (q->fence > KVB_FENCES || (q->fence && !one_of(op, OP(FREE) | OP(SEAL) | OP(LOAD))) ||
	    (q->fence_value && !q->fence))
		return true;
	if (one_of(op, OP(SPACE_GROW) | OP(SPACE_SHRINK)))
		return !q->count || q->count > KVB_SLOTS_MAX || q->operand;
	if (!each)
		return q->count || q->operand;
	if (op == KVB_OP_NS_OPEN && q->count != 1)
		return true;
	return !q->count || q->count > KVB_COUNT_MAX || q->operand % 8 ||
	       q->operand + (uint64_t)q->count * each > area;
}

/* Submits one, keeps the ring from calling three malformed ones in a row no accident. */
static struct kvb_cqe try_entry(struct raw *r, const struct kvb_sqe *sqe)
{
	struct kvb_sqe after = { .opcode = KVB_OP_NOP, .user_data = 0xa11 };
	struct kvb_cqe cqe, got = { 0 };
	bool done = false;

	raw_submit(r, sqe);
	raw_submit(r, &after);
	for (;;) {
		int error = raw_cqe(r, &cqe, 20000);

		ck_assert_msg(error == 0, "entry of operation %u: no answer", sqe->opcode);
		if (cqe.user_data == after.user_data)
			break;
		got = cqe;
		done = true;
	}
	if (done)
		return got;
	/* It waits, for a fence or for memory: cancelled it ends. */
	after = (struct kvb_sqe){ .opcode = KVB_OP_CANCEL,
				  .user_data = 0xa12,
				  .arg = sqe->user_data };
	raw_submit(r, &after);
	for (unsigned answers = 0; answers < 2; answers++) {
		ck_assert_int_eq(raw_cqe(r, &cqe, 20000), 0);
		if (cqe.user_data != after.user_data)
			got = cqe;
	}
	return got;
}

static void spoil(struct rich *c, unsigned op, unsigned byte, unsigned char value)
{
	struct kvb_sqe sqe = valid_entry(c, op);
	struct kvb_cqe cqe;

	((unsigned char *)&sqe)[byte] = value;
	if (byte < offsetof(struct kvb_sqe, user_data) || byte >= offsetof(struct kvb_sqe, salt))
		sqe.user_data = 0xbad;
	else
		sqe.user_data |= 1ull << 33;
	cqe = try_entry(&c->r, &sqe);
	ck_assert_uint_eq(cqe.user_data, sqe.user_data);
	if (malformed(&sqe, c->r.hello.operand_bytes))
		ck_assert_msg(cqe.res == -EINVAL, "operation %u byte %u = %02x: %d", op, byte,
			      value, cqe.res);
	ck_assert_msg(cqe.res >= -4095 && cqe.res <= (int32_t)KVB_COUNT_MAX,
		      "operation %u byte %u = %02x: %d", op, byte, value, cqe.res);
}

static void spoil_every_byte(void *arg)
{
	static const unsigned char values[] = { 0, 1, 0x7f, 0x80, 0xff };

	for (unsigned op = 0; op < KVB_OP_N; op++) {
		struct rich c;

		rich_open(&c, arg, "other");
		for (unsigned byte = 0; byte < sizeof(struct kvb_sqe); byte++) {
			for (unsigned v = 0; v < sizeof(values); v++)
				spoil(&c, op, byte, values[v]);
		}
		raw_leave(&c.r);
	}
}

/* The control: unspoilt, each does what it is for. */
static void every_operation(void *arg)
{
	struct rich c;

	rich_open(&c, arg, "other");
	for (unsigned op = 0; op < KVB_OP_N; op++) {
		struct kvb_sqe sqe = valid_entry(&c, op);
		int32_t res = raw_call(&c.r, &sqe).res;

		if (op == KVB_OP_CANCEL)
			ck_assert_int_eq(res, -ENOENT);
		else
			ck_assert_msg(res >= 0 || op == KVB_OP_RECLAIM_ACK, "operation %u: %d", op,
				      res);
		ck_assert(!malformed(&sqe, c.r.hello.operand_bytes));
	}
	raw_leave(&c.r);
}

START_TEST(fault_035_every_byte_of_every_operation)
{
	struct scene s;
	pid_t pid;

	scene_open(&s, OPTIONS());
	child_join(child_start(every_operation, &s.b));
	pid = child_start(spoil_every_byte, &s.b);
	for (unsigned i = 0; i < 20; i++)
		bystander_cycle(&s.by);
	child_join(pid);
	scene_close(&s);
}
END_TEST

/* ---- entries that change under the daemon's hands ------------------------------------------ */

static void *flip(void *arg)
{
	struct raw *r = arg;
	uint64_t n = 0;

	while (!__atomic_load_n(&r->deaf, __ATOMIC_RELAXED)) {
		volatile struct kvb_sqe *sqe = raw_sqe(r, (uint32_t)n);
		volatile uint64_t *operand = raw_operand(r, (uint32_t)(n * 8 % 512));

		n = n * 6364136223846793005ull + 1442695040888963407ull;
		sqe->opcode = (uint8_t)(n >> 33) % KVB_OP_N;
		sqe->count = n >> 40 & 1 ? 2 : UINT32_MAX;
		sqe->operand = n >> 41 & 1 ? 0 : 0xfffffff8;
		sqe->space = (uint16_t)(n >> 42 & 1);
		*operand = n;
	}
	return NULL;
}

/* One life: until a good entry has become the third bad one, or for a while. */
static void rewrite_entries(void *arg)
{
	uint64_t until = clock_ns() + 300000000ull;
	pthread_t thread;
	struct rich c;

	rich_open(&c, arg, "other");
	ck_assert_int_eq(pthread_create(&thread, NULL, flip, &c.r), 0);
	while (clock_ns() < until && !(raw_ctl(&c.r)->flags & KVB_CTL_BROKEN)) {
		struct kvb_cqe cqe;

		for (unsigned i = 0; i < 8; i++) {
			struct kvb_sqe sqe = valid_entry(&c, i * 2 % KVB_OP_N);

			raw_submit(&c.r, &sqe);
		}
		while (raw_cqe(&c.r, &cqe, 1) == 0)
			;
	}
}

START_TEST(fault_034_entries_rewritten_by_a_second_thread)
{
	uint64_t until = clock_ns() + 2000000000ull;
	struct scene s;

	scene_open(&s, OPTIONS("--revoke-grace", "100"));
	while (clock_ns() < until) {
		pid_t pid = child_start(rewrite_entries, &s.b);

		bystander_cycle(&s.by);
		child_join(pid);
	}
	scene_close(&s);
}
END_TEST

/* ---- entries that are wrong ---------------------------------------------------------------- */

START_TEST(fault_036_unknown_is_einval_and_three_in_a_row_break)
{
	struct kvb_sqe bad = { .opcode = KVB_OP_N };
	struct scene s;
	struct raw r;

	scene_open(&s, OPTIONS());
	raw_attach(&r, &s.b, "other", NULL);
	for (unsigned op = KVB_OP_N; op < 256; op++) {
		bad.opcode = (uint8_t)op;
		ck_assert_int_eq(try_entry(&r, &bad).res, -EINVAL);
	}
	for (unsigned bit = 0; bit < 8; bit++) {
		struct kvb_sqe flagged = { .opcode = KVB_OP_NOP, .flags = (uint8_t)(1u << bit) };

		ck_assert_int_eq(try_entry(&r, &flagged).res, -EINVAL);
	}
	for (unsigned i = 0; i < 2; i++)
		ck_assert_int_eq(raw_call(&r, &bad).res, -EINVAL);
	ck_assert(!raw_broken(&r, 20));
	raw_submit(&r, &bad);
	ck_assert(raw_broken(&r, 20000));
	ck_assert_uint_eq(raw_ctl(&r)->error, EINVAL);
	raw_close(&r);
	scene_close(&s);
}
END_TEST

static void not_mine(struct rich *me, kvb_page_t page)
{
	static const enum kvb_op ops[] = { KVB_OP_FREE, KVB_OP_RELEASE, KVB_OP_PIN, KVB_OP_UNPIN };

	for (unsigned i = 0; i < 4; i++)
		ck_assert_msg(raw_pages(&me->r, ops[i], 1, &page) == -ENOENT, "page %llx, op %u",
			      (unsigned long long)page, ops[i]);
	ck_assert_int_eq(raw_seal(&me->r, 1, &page, 5000, NULL), -ENOENT);
}

static void wrong_pages(void *arg)
{
	struct rich mine, theirs;
	kvb_page_t page;

	rich_open(&mine, arg, "other");
	rich_open(&theirs, arg, "other"); /* a member of the same space */
	page = mine.filling[0];
	not_mine(&mine, KVB_PAGE_NONE);
	not_mine(&mine, UINT64_MAX);
	for (unsigned bit = 0; bit < 64; bit++) {
		bool one_i_hold = false;

		for (unsigned i = 0; i < PAGES; i++)
			one_i_hold |= mine.filling[i] == (page ^ 1ull << bit) ||
				      mine.sealed[i] == (page ^ 1ull << bit);
		if (!one_i_hold)
			not_mine(&mine, page ^ 1ull << bit);
	}
	for (unsigned i = 0; i < PAGES; i++)
		not_mine(&mine, theirs.filling[i]);
	/* Its own, twice; then its name is nobody's. */
	ck_assert_int_eq(raw_pages(&mine.r, KVB_OP_FREE, 1, &page), 1);
	not_mine(&mine, page);
	ck_assert_int_eq(raw_pages(&theirs.r, KVB_OP_FREE, PAGES, theirs.filling), PAGES);
	raw_leave(&mine.r);
	raw_leave(&theirs.r);
}

START_TEST(fault_037_pages_of_nobody_and_of_others)
{
	struct scene s;

	scene_open(&s, OPTIONS());
	child_join(child_start(wrong_pages, &s.b));
	scene_close(&s);
}
END_TEST

static void wrong_bounds(void *arg)
{
	struct rich c;
	uint32_t area;

	rich_open(&c, arg, "other");
	area = c.r.hello.operand_bytes;
	for (unsigned op = 0; op < KVB_OP_N; op++) {
		uint32_t each = operand_bytes(op);
		const uint32_t cases[][2] = {
			{ 0, 0 },
			{ 0, area / (each ? each : 1) + 1 },
			{ 8, area / (each ? each : 1) },
			{ area - 8, 2 },
			{ area, 1 },
			{ 4, 1 },
			{ 0xfffffff8, 1 },
			{ 0xfffffff8, UINT32_MAX },
			{ 0, UINT32_MAX },
			{ 8, 0x80000000 },
			{ 0, KVB_COUNT_MAX + 1 },
		};

		for (unsigned i = 0; each && i < sizeof(cases) / sizeof(cases[0]); i++) {
			struct kvb_sqe sqe = valid_entry(&c, op);

			sqe.operand = cases[i][0];
			sqe.count = cases[i][1];
			ck_assert_msg(try_entry(&c.r, &sqe).res == -EINVAL,
				      "operation %u, operand %x, count %x", op, sqe.operand,
				      sqe.count);
		}
	}
	/* The control: what fits to the last byte is taken. */
	for (unsigned i = 0; i < area / 16; i++)
		memset(raw_operand(&c.r, i * 16), 0xee, 16);
	ck_assert_int_eq(try_entry(&c.r, &(struct kvb_sqe){ .opcode = KVB_OP_LOOKUP,
							    .space = (uint16_t)c.r.geo.space,
							    .ns = (uint16_t)c.r.ns.ns,
							    .count = area / 16 })
				 .res,
			 0);
	raw_leave(&c.r);
}

START_TEST(fault_038_operands_out_of_bounds)
{
	struct scene s;

	scene_open(&s, OPTIONS());
	child_join(child_start(wrong_bounds, &s.b));
	scene_close(&s);
}
END_TEST

static void twice(void *arg)
{
	struct kvb_sqe sqe = { .opcode = KVB_OP_FREE, .count = 1, .fence = 1, .fence_value = 5 };
	kvb_page_t pages[3];
	struct kvb_cqe cqe;
	struct rich c;

	rich_open(&c, arg, "other");
	pages[0] = pages[1] = c.filling[0];
	pages[2] = c.filling[1];
	ck_assert_int_eq(raw_pages(&c.r, KVB_OP_FREE, 3, pages), 1);
	/* Freed twice at once, both behind a fence. */
	sqe.space = (uint16_t)c.r.geo.space;
	memcpy(raw_operand(&c.r, 0), &c.filling[1], sizeof(kvb_page_t));
	sqe.user_data = 7;
	raw_submit(&c.r, &sqe);
	raw_submit(&c.r, &sqe);
	ck_assert_int_eq(raw_cqe(&c.r, &cqe, 50), -ETIME);
	__atomic_store_n((uint64_t *)(void *)c.r.fence, 5, __ATOMIC_RELEASE);
	ck_assert_int_eq(raw_cqe(&c.r, &cqe, 20000), 0);
	ck_assert(cqe.user_data == 7 && cqe.res == 1);
	ck_assert_int_eq(raw_cqe(&c.r, &cqe, 20000), 0);
	ck_assert(cqe.user_data == 7 && (cqe.res == -EBUSY || cqe.res == -ENOENT));
	/* Leased once, so released once. */
	pages[0] = pages[1] = c.sealed[0];
	ck_assert_int_eq(raw_pages(&c.r, KVB_OP_RELEASE, 2, pages), 1);
	raw_leave(&c.r);
}

START_TEST(fault_039_the_same_page_twice)
{
	struct scene s;

	scene_open(&s, OPTIONS());
	child_join(child_start(twice, &s.b));
	scene_close(&s);
}
END_TEST

/* An entry that waits under tag 9. */
static void wait_at_fence(struct rich *c, unsigned page)
{
	struct kvb_sqe sqe = { .opcode = KVB_OP_FREE,
			       .space = (uint16_t)c->r.geo.space,
			       .count = 1,
			       .operand = 8 * page,
			       .fence = 2,
			       .fence_value = 1,
			       .user_data = 9 };

	memcpy(raw_operand(&c->r, 8 * page), &c->filling[page], sizeof(kvb_page_t));
	raw_submit(&c->r, &sqe);
}

static void cancel_all_ways(void *arg)
{
	struct kvb_sqe cancel = { .opcode = KVB_OP_CANCEL, .arg = 9, .user_data = 10 };
	struct rich a, b;
	struct kvb_cqe cqe;

	rich_open(&a, arg, "other");
	rich_open(&b, arg, "other");
	wait_at_fence(&a, 0);
	wait_at_fence(&a, 1);                                   /* 041: the same tag twice */
	ck_assert_int_eq(raw_call(&b.r, &cancel).res, -ENOENT); /* another's */
	for (unsigned i = 0; i < 2; i++) {
		unsigned seen = 0;

		raw_submit(&a.r, &cancel);
		for (unsigned k = 0; k < 2; k++) {
			ck_assert_int_eq(raw_cqe(&a.r, &cqe, 20000), 0);
			ck_assert_int_eq(cqe.res, cqe.user_data == 9 ? -ECANCELED : 0);
			seen += (unsigned)cqe.user_data;
		}
		ck_assert_uint_eq(seen, 19);
	}
	ck_assert_int_eq(raw_call(&a.r, &cancel).res, -ENOENT); /* none left */
	cancel.arg = 10;
	ck_assert_int_eq(raw_call(&a.r, &cancel).res, -ENOENT); /* itself */
	/* More than may wait: the rest is told so, and all end. */
	for (unsigned i = 0; i < 60; i++)
		wait_at_fence(&a, i % PAGES);
	for (unsigned i = 0; i < 10; i++)
		wait_at_fence(&a, i);
	for (unsigned i = 0; i < 6; i++) {
		ck_assert_int_eq(raw_cqe(&a.r, &cqe, 20000), 0);
		ck_assert_int_eq(cqe.res, -EBUSY);
	}
	__atomic_store_n((uint64_t *)(void *)(a.r.fence + sizeof(struct kvb_fence)), 1,
			 __ATOMIC_RELEASE);
	for (unsigned i = 0; i < KVB_FENCES; i++)
		ck_assert_int_eq(raw_cqe(&a.r, &cqe, 20000), 0);
	raw_leave(&a.r);
	raw_leave(&b.r);
}

START_TEST(fault_041_042_tags_twice_and_cancels)
{
	struct scene s;

	scene_open(&s, OPTIONS());
	child_join(child_start(cancel_all_ways, &s.b));
	scene_close(&s);
}
END_TEST

/* Entries that fail at once, two malformed ones to each that is merely wrong. */
static void flood(void *arg)
{
	struct raw r;

	raw_attach(&r, arg, "other", NULL);
	for (uint32_t tail = 0;;) {
		while (tail - __atomic_load_n(&raw_ctl(&r)->sq_head, __ATOMIC_ACQUIRE) < 64) {
			*raw_sqe(&r, tail) = (struct kvb_sqe){
				.opcode = tail % 3 ? KVB_OP_N : KVB_OP_FREE, .count = 1, .space = 15
			};
			__atomic_store_n(&raw_sub(&r)->sq_tail, ++tail, __ATOMIC_RELEASE);
		}
		__atomic_store_n(&raw_sub(&r)->cq_head,
				 __atomic_load_n(&raw_ctl(&r)->cq_tail, __ATOMIC_ACQUIRE),
				 __ATOMIC_RELEASE);
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		if (__atomic_load_n(&raw_ctl(&r)->flags, __ATOMIC_RELAXED) & KVB_CTL_NEED_DOORBELL)
			raw_ring_doorbell(&r);
		ck_assert(!(raw_ctl(&r)->flags & KVB_CTL_BROKEN));
	}
}

START_TEST(fault_043_flood_of_entries_that_fail)
{
	struct scene s;
	uint64_t p99;
	pid_t pid;

	scene_open(&s, OPTIONS());
	pid = child_start(flood, &s.b);
	EVENTUALLY(broker_stats(&s.b)->clients_n == 2);
	p99 = bystander_p99_ns(&s.by, 2000);
	fprintf(stderr, "# p99 of a round trip in the flood: %llu us\n",
		(unsigned long long)p99 / 1000);
	ck_assert_uint_lt(p99, P99_BOUND_NS);
	child_kill(pid);
	scene_close(&s);
}
END_TEST

#define CASE(name)                                                                                 \
	{                                                                                          \
		&name, 90                                                                          \
	}

int main(void)
{
	static const struct suite_case cases[] = {
		CASE(fault_029_tail_jumps),
		CASE(fault_030_tail_goes_back),
		CASE(fault_032_head_ahead_of_the_tail),
		CASE(fault_033_head_that_never_moves),
		CASE(fault_034_entries_rewritten_by_a_second_thread),
		CASE(fault_035_every_byte_of_every_operation),
		CASE(fault_036_unknown_is_einval_and_three_in_a_row_break),
		CASE(fault_037_pages_of_nobody_and_of_others),
		CASE(fault_038_operands_out_of_bounds),
		CASE(fault_039_the_same_page_twice),
		CASE(fault_041_042_tags_twice_and_cancels),
		CASE(fault_043_flood_of_entries_that_fail),
		{ NULL, 0 },
	};

	return suite_run("ring", cases);
}
