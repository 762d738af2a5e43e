/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Faults 53 to 58 and 90: everything that can be had, taken; numbers at their ends; limits moved
 * under those who are above them.
 */

#include "tests/proto/harness.h"
#include "tests/proto/raw.h"
#include "tests/unit/suite.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void allocate_and_free(void *arg)
{
	enum { SLAB = 512, TIMES = 1000000 / SLAB };
	kvb_page_t pages[SLAB + 1];
	struct raw r;

	raw_attach(&r, arg, "other", NULL);
	raw_space(&r, 4096, 1);
	ck_assert_int_eq(raw_grow(&r, 1, 1000), 1);
	for (unsigned i = 0; i < TIMES; i++) {
		ck_assert_int_eq(raw_alloc(&r, SLAB, pages), SLAB);
		if (i % 100 == 0) /* the limit is the limit */
			ck_assert_int_eq(raw_alloc(&r, 1, pages + SLAB), 0);
		ck_assert_int_eq(raw_pages(&r, KVB_OP_FREE, SLAB, pages), SLAB);
	}
	raw_leave(&r);
}

START_TEST(fault_053_allocate_to_the_limit_and_free_a_million_pages)
{
	const struct stats_segment *st;
	struct scene s;

	scene_open(&s, OPTIONS());
	child_join(child_start(allocate_and_free, &s.b));
	EVENTUALLY(broker_stats(&s.b)->clients_n == 1);
	st = broker_stats(&s.b);
	for (uint32_t i = 0; i < st->spaces_n; i++) {
		if (st->space[i].stride_bytes == 4096)
			ck_assert_uint_eq(st->space[i].pages_free, 512);
	}
	scene_close(&s);
}
END_TEST

static void take_all(void *arg)
{
	struct raw r;

	raw_attach(&r, arg, "other", NULL);
	raw_space(&r, 65536, (uint64_t)getpid());
	while (raw_grow(&r, 1, 0) == 1)
		;
	for (;;) {
		struct kvb_cqe cqe;

		/* Obliging: revoked slabs, in which it holds nothing, are given back at once. */
		(void)raw_cqe(&r, &cqe, 5);
		while (r.revokes) {
			struct kvb_sqe ack = { .opcode = KVB_OP_RECLAIM_ACK,
					       .space = (uint16_t)r.geo.space,
					       .arg = r.revoked[--r.revokes] };

			raw_call(&r, &ack);
		}
	}
}

START_TEST(fault_054_many_clients_of_one_against_one_of_another)
{
	enum { MANY = 12 };
	struct scene s;
	pid_t pid[MANY];
	struct raw r;

	scene_open(&s, OPTIONS("--tenant", "default,min=8M", "--tenant", "other", "--tenant",
			       "quiet,min=16M"));
	for (unsigned i = 0; i < MANY; i++)
		pid[i] = child_start(take_all, &s.b);
	EVENTUALLY(broker_stats(&s.b)->clients_n == MANY + 1);
	EVENTUALLY(broker_stats(&s.b)->device[0].granted_bytes >= 40u << 20);
	sleep_ms(100);
	raw_attach(&r, &s.b, "quiet", NULL);
	raw_space(&r, 65536, 1);
	ck_assert_int_eq(raw_grow(&r, 8, 20000), 8);
	raw_leave(&r);
	for (unsigned i = 0; i < MANY; i++)
		child_kill(pid[i]);
	scene_close(&s);
}
END_TEST

static void open_space(struct raw *r, uint32_t regions, uint64_t stride, int want)
{
	struct kvb_msg_space_open open = {
		.h = { .magic = KVB_MAGIC, .type = KVB_MSG_SPACE_OPEN, .length = sizeof(open) },
		.device_kind = KVB_DEVICE_HOST,
		.regions = regions,
		.stride_bytes = stride,
	};
	union raw_message m;

	ck_assert_int_eq(raw_send(r->sock, &open, sizeof(open), NULL, 0), 0);
	ck_assert_int_gt(raw_receive(r->sock, &m, NULL, NULL, 20000), 0);
	ck_assert_uint_eq(m.h.type, KVB_MSG_ERROR);
	ck_assert_msg(m.error.error == want, "%u regions of stride %llx: %d", regions,
		      (unsigned long long)stride, m.error.error);
}

static void numbers_at_their_ends(void *arg)
{
	static const uint64_t strides[] = {
		0, 1, 63, 65, 1ull << 63, UINT64_MAX - 63, UINT64_MAX, (64ull << 20) + 64
	};
	struct kvb_sqe sqe = { .count = 1 };
	kvb_page_t page;
	struct raw r;

	raw_attach(&r, arg, "other", NULL);
	for (unsigned i = 0; i < sizeof(strides) / sizeof(strides[0]); i++)
		open_space(&r, 1, strides[i], -EINVAL);
	open_space(&r, 0, 65536, -EINVAL);
	open_space(&r, KVB_REGIONS_MAX + 1, 65536, -EINVAL);
	open_space(&r, UINT32_MAX, 64, -EINVAL);
	open_space(&r, 256, 1 << 20, -EINVAL); /* a slab larger than the device */
	raw_space(&r, 65536, 1);
	ck_assert_int_eq(raw_grow(&r, 1, 1000), 1);
	ck_assert_int_eq(raw_alloc(&r, 1, &page), 1);
	raw_ns(&r, 1, 0);
	ck_assert_int_eq(raw_seal(&r, 1, &page, 0, NULL), 1);
	sqe.space = (uint16_t)r.geo.space;
	/* More than there is, for ever: what there is now, or nothing; never a hang. */
	sqe.opcode = KVB_OP_SPACE_GROW;
	sqe.count = KVB_SLOTS_MAX;
	ck_assert_int_ne(raw_call(&r, &sqe).res, KVB_SLOTS_MAX);
	sqe.opcode = KVB_OP_SPACE_SHRINK;
	sqe.count = 1;
	sqe.arg = UINT64_MAX;
	ck_assert_int_eq(raw_call(&r, &sqe).res, -EINVAL);
	sqe.opcode = KVB_OP_HINT;
	memcpy(raw_operand(&r, 0), &page, sizeof(page));
	ck_assert_int_eq(raw_call(&r, &sqe).res, -EINVAL);
	sqe.arg = KVB_HINT(KVB_PRIO_LOW, 1ull << 31);
	ck_assert_int_eq(raw_call(&r, &sqe).res, 1);
	sqe.arg = KVB_HINT(KVB_PRIO_LOW, (1ull << 31) + 1);
	ck_assert_int_eq(raw_call(&r, &sqe).res, -EINVAL);
	sqe.opcode = KVB_OP_RECLAIM_ACK;
	sqe.count = 0;
	sqe.arg = UINT64_MAX;
	ck_assert_int_eq(raw_call(&r, &sqe).res, -ENOENT);
	raw_leave(&r);
}

START_TEST(fault_055_numbers_at_their_ends)
{
	struct scene s;

	scene_open(&s, OPTIONS());
	child_join(child_start(numbers_at_their_ends, &s.b));
	scene_close(&s);
}
END_TEST

static void pin_everything(void *arg)
{
	enum { PAGES = 128 };
	const struct broker *b = arg;
	kvb_page_t pages[PAGES], more[PAGES];
	struct raw r, q;
	uint64_t began;

	raw_attach(&r, b, "other", NULL);
	raw_space(&r, 65536, 1);
	raw_ns(&r, 1, 0);
	ck_assert_int_eq(raw_grow(&r, PAGES / 32, 1000), PAGES / 32);
	ck_assert_int_eq(raw_alloc(&r, PAGES, pages), PAGES);
	ck_assert_int_eq(raw_seal(&r, PAGES, pages, 0, NULL), PAGES);
	ck_assert_int_eq(raw_pages(&r, KVB_OP_PIN, PAGES, pages), PAGES);
	ck_assert_int_eq(raw_pages(&r, KVB_OP_RELEASE, PAGES, pages), PAGES);
	raw_attach(&q, b, "other", NULL);
	raw_space(&q, 65536, 1);
	began = clock_ns();
	for (unsigned i = 0; i < 50; i++)
		ck_assert_int_eq(raw_alloc(&q, PAGES, more), 0);
	ck_assert_uint_lt(clock_ns() - began, 5000000000ull);
	/* The control: without the pins there is something to evict. */
	ck_assert_int_eq(raw_pages(&r, KVB_OP_UNPIN, PAGES, pages), PAGES);
	for (unsigned i = 0; i < 100 && raw_alloc(&q, 1, more) != 1; i++)
		raw_poll(&q);
	ck_assert_int_eq(raw_alloc(&q, 1, more), 1);
	raw_leave(&r);
	raw_leave(&q);
}

START_TEST(fault_058_everything_is_pinned)
{
	struct scene s;

	scene_open(&s, OPTIONS());
	child_join(child_start(pin_everything, &s.b));
	scene_close(&s);
}
END_TEST

static uint64_t granted_to_other(const struct broker *b)
{
	const struct stats_segment *st = broker_stats(b);
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < st->spaces_n; i++) {
		for (uint32_t t = 0; t < st->tenants_n; t++) {
			if (st->tenant[t].index == st->space[i].tenant &&
			    strcmp(st->tenant[t].name, "other") == 0)
				bytes += st->space[i].slabs * st->space[i].slab_bytes;
		}
	}
	return bytes;
}

START_TEST(fault_090_max_lowered_below_use)
{
	struct scene s;
	pid_t pid;

	scene_open(&s, OPTIONS("--tenant", "default", "--tenant", "other,max=32M"));
	pid = child_start(take_all, &s.b);
	EVENTUALLY(granted_to_other(&s.b) == 32u << 20);
	ck_assert_int_eq(broker_ctl(&s.b, OPTIONS("tenant", "set", "other", "max=8388608")), 0);
	EVENTUALLY(granted_to_other(&s.b) <= 8u << 20);
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
		CASE(fault_053_allocate_to_the_limit_and_free_a_million_pages),
		CASE(fault_054_many_clients_of_one_against_one_of_another),
		CASE(fault_055_numbers_at_their_ends),
		CASE(fault_058_everything_is_pinned),
		CASE(fault_090_max_lowered_below_use),
		{ NULL, 0 },
	};

	return suite_run("quota", cases);
}
