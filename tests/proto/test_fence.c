/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Fence words against the running daemon. Two promises: what waits for a word is not done before
 * it, also when whoever should have written it is dead or has left; and the word of a LOAD is set
 * when the LOAD is over, however it ends, and not before.
 *
 * Lower tiers are those of the `host` device; its mover is stopped, so that a LOAD can be met
 * waiting, and killed.
 */

#include "tests/proto/harness.h"
#include "tests/proto/raw.h"
#include "tests/unit/suite.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define STRIDE 65536u
#define PAGES 64u /* two slabs */
#define WAIT_MS 20000u
#define TIER OPTIONS("--host-tier", "64M", "--owner-deadline", "60000")

static uint64_t *word(struct raw *r, unsigned fence)
{
	return &((struct kvb_fence *)(void *)r->fence)[fence].value;
}

static uint64_t word_read(struct raw *r, unsigned fence)
{
	return __atomic_load_n(word(r, fence), __ATOMIC_ACQUIRE);
}

static uint64_t held(const struct broker *b, const char *tenant)
{
	const struct stats_segment *seg = broker_stats(b);

	for (uint32_t i = 0; i < seg->tenants_n; i++) {
		if (strcmp(seg->tenant[i].name, tenant) == 0)
			return seg->tenant[i].pages_held;
	}
	ck_abort_msg("no tenant %s", tenant);
	return 0;
}

/* ---- words that release ------------------------------------------------------------------------
 */

struct meeting {
	const struct broker *b;
	int there[2], go[2];
};

static void meeting_open(struct meeting *m, const struct broker *b)
{
	m->b = b;
	ck_assert_int_eq(pipe(m->there), 0);
	ck_assert_int_eq(pipe(m->go), 0);
}

static void meeting_close(struct meeting *m)
{
	for (unsigned i = 0; i < 2; i++) {
		close(m->there[i]);
		close(m->go[i]);
	}
}

/* The child's side: says that it is there, and waits to be let go. */
static void meet(struct meeting *m)
{
	char byte;

	ck_assert_int_eq(write(m->there[1], "", 1), 1);
	ck_assert_int_eq(read(m->go[0], &byte, 1), 1);
}

static void await(struct meeting *m)
{
	char byte;

	ck_assert_int_eq(read(m->there[0], &byte, 1), 1);
}

static void let_go(struct meeting *m)
{
	ck_assert_int_eq(write(m->go[1], "", 1), 1);
}

static void submit_fenced(struct raw *r, enum kvb_op op, uint32_t operand, kvb_page_t page,
			  uint64_t key)
{
	struct kvb_sqe sqe = { .opcode = (uint8_t)op,
			       .space = (uint16_t)r->geo.space,
			       .fence = 1,
			       .fence_value = 1,
			       .count = 1,
			       .operand = operand };
	struct kvb_seal seal = { .page = page, .hash = raw_hash(key) };

	if (op == KVB_OP_SEAL) {
		sqe.ns = (uint16_t)r->ns.ns;
		sqe.arg = r->ns.epoch;
		memcpy(raw_operand(r, operand), &seal, sizeof(seal));
	} else {
		memcpy(raw_operand(r, operand), &page, sizeof(page));
	}
	raw_submit(r, &sqe);
}

/* Half of its pages are to be freed and half to be sealed, when a word comes that never does. */
static void wait_for_a_word(struct raw *r, const struct broker *b)
{
	kvb_page_t pages[8];

	raw_attach(r, b, "other", NULL);
	raw_space(r, STRIDE, 1);
	raw_ns(r, 1, KVB_NS_ADMIN);
	ck_assert_int_eq(raw_grow(r, 1, 1000), 1);
	ck_assert_int_eq(raw_alloc(r, 8, pages), 8);
	for (unsigned i = 0; i < 8; i++)
		submit_fenced(r, i % 2 ? KVB_OP_SEAL : KVB_OP_FREE, i * 256, pages[i], i);
	ck_assert_int_eq(raw_call(r, &(struct kvb_sqe){ .opcode = KVB_OP_NOP }).res, 0);
}

static void leave_and_write(void *arg)
{
	struct meeting *m = arg;
	struct raw r;

	wait_for_a_word(&r, m->b);
	meet(m);
	close(r.sock);
	meet(m);
	__atomic_store_n(word(&r, 0), 1, __ATOMIC_RELEASE); /* the stream gets there at last */
	meet(m);
}

START_TEST(i1_the_word_of_one_that_left_releases_nothing)
{
	struct meeting m;
	struct scene s;
	struct raw r;
	pid_t pid;

	scene_open(&s, OPTIONS());
	meeting_open(&m, &s.b);
	pid = child_start(leave_and_write, &m);
	await(&m);
	EVENTUALLY(held(&s.b, "other") == 8);
	let_go(&m);
	await(&m); /* it has hung up */
	let_go(&m);
	await(&m); /* and written the word */
	sleep_ms(300);
	ck_assert_uint_eq(held(&s.b, "other"), 8);
	/* nor is what it did not seal to be found */
	raw_attach(&r, &s.b, "other", NULL);
	raw_space(&r, STRIDE, 1);
	raw_ns(&r, 1, KVB_NS_ADMIN);
	for (uint64_t key = 0; key < 8; key++)
		ck_assert_int_eq(raw_lookup(&r, 1, key, NULL), 0);
	raw_leave(&r);
	bystander_cycle(&s.by);
	child_kill(pid);
	EVENTUALLY(held(&s.b, "other") == 0);
	meeting_close(&m);
	scene_close(&s);
}
END_TEST

static void wait_to_be_killed(void *arg)
{
	struct meeting *m = arg;
	struct raw r;

	wait_for_a_word(&r, m->b);
	meet(m);
}

/* Nobody is there to write the words: what waited for them goes with its client. */
START_TEST(fault_059_killed_while_entries_wait_for_words)
{
	struct meeting m;
	struct scene s;

	scene_open(&s, OPTIONS());
	for (unsigned i = 0; i < 20; i++) {
		pid_t pid;

		meeting_open(&m, &s.b);
		pid = child_start(wait_to_be_killed, &m);
		await(&m);
		ck_assert_uint_eq(held(&s.b, "other"), 8);
		child_kill(pid);
		EVENTUALLY(held(&s.b, "other") == 0);
		meeting_close(&m);
		scene_check(&s);
		ck_assert_int_eq(broker_ctl(&s.b, OPTIONS("health", "--deep")), 0);
	}
	scene_close(&s);
}
END_TEST

/* ---- words that LOAD sets
 * ------------------------------------------------------------------------ */

static pid_t mover(const struct broker *b)
{
	return broker_stats(b)->device[0].mover_pid;
}

static void await_mover(const struct broker *b)
{
	EVENTUALLY(broker_stats(b)->device[0].below_ready && mover(b));
}

/* The device has room for PAGES keys; there are twice as many, the first of them only below. */
static void fill(struct raw *r, const struct broker *b)
{
	kvb_page_t pages[PAGES];

	await_mover(b);
	raw_attach(r, b, "other", NULL);
	raw_space(r, STRIDE, 1);
	raw_ns(r, 1, KVB_NS_ADMIN);
	ck_assert_int_eq(raw_grow(r, 2, 1000), 2);
	for (unsigned half = 0; half < 2; half++) {
		ck_assert_int_eq(raw_alloc(r, PAGES, pages), (int)PAGES);
		ck_assert_int_eq(raw_seal(r, PAGES, pages, half * PAGES, NULL), (int)PAGES);
		ck_assert_int_eq(raw_pages(r, KVB_OP_STORE, PAGES, pages), (int)PAGES);
		ck_assert_int_eq(raw_pages(r, KVB_OP_RELEASE, PAGES, pages), (int)PAGES);
	}
	ck_assert_int_eq(raw_lookup(r, 1, 0, NULL), 0);
}

static struct kvb_sqe load_of(struct raw *r, uint64_t key, uint32_t n, unsigned fence,
			      uint64_t value)
{
	struct kvb_hash *hashes = raw_operand(r, 0);

	for (uint32_t i = 0; i < n; i++)
		hashes[i] = raw_hash(key + i);
	return (struct kvb_sqe){ .opcode = KVB_OP_LOAD,
				 .space = (uint16_t)r->geo.space,
				 .ns = (uint16_t)r->ns.ns,
				 .fence = (uint16_t)(fence + 1),
				 .fence_value = value,
				 .user_data = 1000 + fence,
				 .count = n };
}

static struct kvb_cqe load_end(struct raw *r)
{
	struct kvb_cqe cqe;

	ck_assert_int_eq(raw_cqe(r, &cqe, WAIT_MS), 0);
	return cqe;
}

static void release_loaded(struct raw *r, const struct kvb_cqe *cqe)
{
	kvb_page_t pages[PAGES];

	if (cqe->res <= 0)
		return;
	memcpy(pages, raw_result(r, 0), (size_t)cqe->res * sizeof(pages[0]));
	ck_assert_int_eq(raw_pages(r, KVB_OP_RELEASE, (uint32_t)cqe->res, pages), cqe->res);
}

START_TEST(load_sets_its_word_when_it_is_done)
{
	struct kvb_sqe sqe;
	struct kvb_cqe cqe;
	struct scene s;
	struct raw r;

	scene_open(&s, TIER);
	fill(&r, &s.b);
	sqe = load_of(&r, 0, 8, 5, 77);
	cqe = raw_call(&r, &sqe);
	ck_assert_int_eq(cqe.res, 8);
	ck_assert_uint_eq(word_read(&r, 5), 77);
	release_loaded(&r, &cqe);
	/* what is there already */
	sqe = load_of(&r, 0, 8, 5, 78);
	cqe = raw_call(&r, &sqe);
	ck_assert_int_eq(cqe.res, 8);
	ck_assert_uint_eq(word_read(&r, 5), 78);
	release_loaded(&r, &cqe);
	/* what is nowhere, and what cannot be asked for */
	sqe = load_of(&r, 100000, 8, 5, 79);
	ck_assert_int_eq(raw_call(&r, &sqe).res, 0);
	ck_assert_uint_eq(word_read(&r, 5), 79);
	sqe = load_of(&r, 0, 8, 5, 80);
	sqe.ns++;
	ck_assert_int_eq(raw_call(&r, &sqe).res, -ENOENT);
	ck_assert_uint_eq(word_read(&r, 5), 80);
	sqe = load_of(&r, 0, 8, 5, 81);
	sqe.space++;
	ck_assert_int_eq(raw_call(&r, &sqe).res, -ENOENT);
	ck_assert_uint_eq(word_read(&r, 5), 81);
	raw_leave(&r);
	scene_close(&s);
}
END_TEST

START_TEST(load_sets_its_word_without_a_lower_tier)
{
	struct kvb_cqe cqe;
	struct kvb_sqe sqe;
	struct scene s;
	struct raw r;

	scene_open(&s, OPTIONS());
	raw_attach(&r, &s.b, "other", NULL);
	raw_space(&r, STRIDE, 1);
	raw_ns(&r, 1, KVB_NS_ADMIN);
	sqe = load_of(&r, 0, 8, 63, UINT64_MAX);
	cqe = raw_call(&r, &sqe);
	ck_assert_int_eq(cqe.res, 0);
	ck_assert(cqe.flags & KVB_CQE_NOTHING_BELOW);
	ck_assert_uint_eq(word_read(&r, 63), UINT64_MAX);
	raw_leave(&r);
	scene_close(&s);
}
END_TEST

/* With its mover stopped a LOAD waits: its word stays, until it is cancelled, or its time is up. */
START_TEST(load_sets_its_word_when_it_is_given_up)
{
	struct kvb_sqe sqe, cancel = { .opcode = KVB_OP_CANCEL, .arg = 1003 };
	struct kvb_cqe cqe, other;
	struct scene s;
	struct raw r;
	pid_t pid;

	scene_open(&s, TIER);
	fill(&r, &s.b);
	pid = mover(&s.b);
	kill(pid, SIGSTOP);
	sqe = load_of(&r, 0, 4, 3, 5);
	raw_submit(&r, &sqe);
	ck_assert_int_eq(raw_cqe(&r, &cqe, 50), -ETIME);
	ck_assert_uint_eq(word_read(&r, 3), 0);
	raw_submit(&r, &cancel);
	cqe = load_end(&r);
	other = load_end(&r);
	if (other.user_data == 1003)
		cqe = other;
	ck_assert_uint_eq(cqe.user_data, 1003);
	ck_assert_int_eq(cqe.res, -ECANCELED);
	ck_assert_uint_eq(word_read(&r, 3), 5);
	sqe = load_of(&r, 8, 4, 4, 6);
	sqe.arg = 100000000;
	raw_submit(&r, &sqe);
	ck_assert_int_eq(raw_cqe(&r, &cqe, 30), -ETIME);
	ck_assert_uint_eq(word_read(&r, 4), 0);
	cqe = load_end(&r);
	ck_assert_int_eq(cqe.res, 0);
	ck_assert_uint_eq(word_read(&r, 4), 6);
	kill(pid, SIGCONT);
	/* nothing is stuck: the same keys come now */
	sqe = load_of(&r, 0, 12, 4, 7);
	cqe = raw_call(&r, &sqe);
	ck_assert_int_eq(cqe.res, 12);
	ck_assert_uint_eq(word_read(&r, 4), 7);
	release_loaded(&r, &cqe);
	raw_leave(&r);
	scene_close(&s);
}
END_TEST

/* More than can wait: those that find no place are refused, with their words set. */
START_TEST(load_sets_its_word_when_there_is_no_place_for_it)
{
	enum { MANY = KVB_FENCES + 3 };
	struct kvb_cqe cqe;
	struct scene s;
	struct raw r;
	pid_t pid;

	scene_open(&s, TIER);
	fill(&r, &s.b);
	pid = mover(&s.b);
	kill(pid, SIGSTOP);
	for (unsigned i = 0; i < MANY; i++) {
		struct kvb_sqe sqe = load_of(&r, 0, 1, i % KVB_FENCES, 1 + i / KVB_FENCES);

		sqe.user_data = i;
		raw_submit(&r, &sqe);
	}
	for (unsigned i = KVB_FENCES; i < MANY; i++) {
		cqe = load_end(&r);
		ck_assert_uint_eq(cqe.user_data, i);
		ck_assert_int_eq(cqe.res, -EBUSY);
		ck_assert_uint_eq(word_read(&r, i % KVB_FENCES), 2);
	}
	ck_assert_uint_eq(word_read(&r, 3), 0);
	kill(pid, SIGCONT);
	for (unsigned i = 0; i < KVB_FENCES; i++) {
		cqe = load_end(&r);
		ck_assert_int_eq(cqe.res, 1);
		ck_assert_uint_ge(word_read(&r, (unsigned)cqe.user_data), 1);
	}
	raw_leave(&r);
	scene_close(&s);
}
END_TEST

START_TEST(fault_083_load_sets_its_word_when_the_mover_is_killed)
{
	struct kvb_cqe cqe;
	struct kvb_sqe sqe;
	struct scene s;
	struct raw r;

	scene_open(&s, TIER);
	fill(&r, &s.b);
	for (unsigned i = 0; i < 5; i++) {
		pid_t pid;

		await_mover(&s.b);
		pid = mover(&s.b);
		kill(pid, SIGSTOP);
		sqe = load_of(&r, i * 8, 8, i, 9);
		raw_submit(&r, &sqe);
		ck_assert_int_eq(raw_cqe(&r, &cqe, 30), -ETIME);
		ck_assert_uint_eq(word_read(&r, i), 0);
		kill(pid, SIGKILL);
		cqe = load_end(&r);
		ck_assert_int_eq(cqe.res, 0);
		ck_assert_uint_eq(word_read(&r, i), 9);
		EVENTUALLY(mover(&s.b) != pid);
	}
	await_mover(&s.b);
	sqe = load_of(&r, 0, 8, 0, 10);
	cqe = raw_call(&r, &sqe);
	ck_assert_int_eq(cqe.res, 8);
	ck_assert_uint_eq(word_read(&r, 0), 10);
	release_loaded(&r, &cqe);
	raw_leave(&r);
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
		CASE(i1_the_word_of_one_that_left_releases_nothing),
		CASE(fault_059_killed_while_entries_wait_for_words),
		CASE(load_sets_its_word_when_it_is_done),
		CASE(load_sets_its_word_without_a_lower_tier),
		CASE(load_sets_its_word_when_it_is_given_up),
		CASE(load_sets_its_word_when_there_is_no_place_for_it),
		CASE(fault_083_load_sets_its_word_when_the_mover_is_killed),
		{ NULL, 0 },
	};

	return suite_run("fence", cases);
}
