/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Superblocks in every state, memory and kernel services refused at every place, and transfers of
 * the real engines that fail one by one.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/io/fault.h"
#include "broker/store/format.h"
#include "tests/unit/sim_disk.h"
#include "tests/unit/store_rig.h"
#include "tests/unit/suite.h"

#define SIM_BYTES ((4u << 20) + (1u << 20))

/* ---- superblocks --------------------------------------------------------------------------- */

enum copy_state { COPY_GOOD, COPY_OLD, COPY_DAMAGED, COPY_ZERO, COPY_STATES };

struct heads {
	struct rig rig;
	struct sim_disk disk;
	char *old; /* the head as it was two commits before */
};

static void heads_make(struct heads *h)
{
	*h = (struct heads){ .rig = { .page_bytes = 8192, .epoch = 1, .own_clock = true } };
	sim_disk_make(&h->disk, SIM_BYTES, 5);
	h->rig.cfg = (struct store_cfg){ .parts = 1,
					 .part = { { "0", 0 } },
					 .segment_bytes = 128 << 10,
					 .ops = &sim_disk_ops,
					 .ops_arg = &h->disk };
	h->old = malloc(FORMAT_HEAD_BYTES);
	ck_assert_ptr_nonnull(h->old);
	ck_assert_int_eq(rig_open(&h->rig), 0);
	ck_assert_uint_eq(rig_put(&h->rig, 0, 10, 4, NULL), 10);
	rig_close(&h->rig);
	memcpy(h->old, h->disk.now[0], FORMAT_HEAD_BYTES);
	/* From here on all that was put before is of a past epoch. */
	ck_assert_int_eq(rig_open(&h->rig), 0);
	ck_assert_int_eq(rig_bump(&h->rig, 2), 0);
	ck_assert_uint_eq(rig_put(&h->rig, 20, 10, 4, NULL), 10);
	rig_close(&h->rig);
}

static void heads_free(struct heads *h)
{
	sim_disk_free(&h->disk);
	free(h->old);
}

static void set_copy(struct heads *h, uint32_t copy, enum copy_state state)
{
	char *at = h->disk.now[0] + (size_t)copy * FORMAT_COPY_BYTES;

	if (state == COPY_OLD)
		memcpy(at, h->old + (size_t)copy * FORMAT_COPY_BYTES, FORMAT_COPY_BYTES);
	else if (state == COPY_DAMAGED)
		at[60] ^= 1;
	else if (state == COPY_ZERO)
		memset(at, 0, FORMAT_UNIT);
}

/* 256 states of four copies: two good ones are enough, fewer good ones are no store, and no state
 * brings back what was bumped while one good copy is left. */
START_TEST(fault_078_every_state_of_four_superblocks)
{
	struct heads h;
	char *new = malloc(SIM_BYTES);

	ck_assert_ptr_nonnull(new);
	heads_make(&h);
	memcpy(new, h.disk.now[0], SIM_BYTES);
	for (uint32_t state = 0; state < 256; state++) {
		uint32_t n[COPY_STATES] = { 0 };
		struct store_stats st;

		memcpy(h.disk.now[0], new, SIM_BYTES);
		for (uint32_t copy = 0; copy < 4; copy++) {
			set_copy(&h, copy, state >> 2 * copy & 3);
			n[state >> 2 * copy & 3]++;
		}
		h.rig.epoch = 1;
		ck_assert_int_eq(rig_open(&h.rig), 0);
		store_stats(h.rig.s, &st);
		ck_assert_int_eq(st.reset, n[COPY_GOOD] < 2 && n[COPY_OLD] < 2 && n[COPY_ZERO] < 4);
		if (n[COPY_GOOD] >= 2) {
			ck_assert_uint_eq(rig_count(&h.rig, 0, 30), 10);
			ck_assert_uint_eq(rig_count(&h.rig, 20, 10), 10);
		} else if (n[COPY_GOOD] == 1) {
			ck_assert_uint_eq(rig_count(&h.rig, 0, 10), 0);
		}
		rig_abandon(&h.rig);
	}
	heads_free(&h);
	free(new);
}
END_TEST

START_TEST(fault_078_a_later_version_is_refused)
{
	struct heads h;

	heads_make(&h);
	for (uint32_t copy = 0; copy < 4; copy++) {
		const uint64_t offset = (uint64_t)copy * FORMAT_COPY_BYTES;
		struct format_super *s = (void *)(h.disk.now[0] + offset);

		s->incompat = 4;
		format_super_seal(s, (const void *)(s + 1), offset);
	}
	ck_assert_int_eq(rig_open(&h.rig), -EMEDIUMTYPE);
	heads_free(&h);
}
END_TEST

START_TEST(fault_078_a_part_of_another_store)
{
	struct heads h, other;

	heads_make(&h);
	heads_make(&other);
	memcpy(h.disk.now[1], other.disk.now[0], SIM_BYTES);
	h.rig.cfg.parts = 2;
	h.rig.cfg.part[1].path = "1";
	ck_assert_int_eq(rig_open(&h.rig), -EMEDIUMTYPE);
	heads_free(&h);
	heads_free(&other);
}
END_TEST

/* Pages with wrong bytes at three places of a segment: it is not asked again. */
START_TEST(fault_076_a_segment_that_rots_is_retired)
{
	struct heads h;
	struct store_stats st;
	uint32_t wrong = 0;

	heads_make(&h);
	for (uint32_t at = FORMAT_HEAD_BYTES; at < SIM_BYTES; at += FORMAT_UNIT) {
		uint64_t first;

		memcpy(&first, h.disk.now[0] + at, sizeof(first));
		for (uint32_t i = 20; i < 24; i++) {
			if (first != i * 0x2545f4914f6cdd1dull)
				continue;
			h.disk.now[0][at + 100] ^= 1;
			wrong++;
		}
	}
	ck_assert_uint_eq(wrong, 4);
	ck_assert_int_eq(rig_open(&h.rig), 0);
	for (uint32_t i = 20; i < 24; i++)
		ck_assert_int_eq(rig_get(&h.rig, i), -ENOENT);
	store_stats(h.rig.s, &st);
	ck_assert_uint_eq(st.mismatches, 3);
	ck_assert_uint_eq(st.part[0].segments_bad, 1);
	ck_assert_uint_eq(rig_count(&h.rig, 20, 10), 0);
	rig_close(&h.rig);
	heads_free(&h);
}
END_TEST

/* ---- refusals of the machine --------------------------------------------------------------- */

#ifdef KVB_FAULT_POINTS

static void scenario(struct rig *r)
{
	int status[40];

	if (rig_open(r) < 0)
		return;
	rig_put(r, 0, 40, 8, status);
	for (uint32_t i = 0; i < 40; i += 3)
		ck_assert_int_le(rig_get(r, i), 0);
	rig_flush(r);
	rig_put(r, 40, 40, 8, status);
	for (uint32_t i = 40; i < 80; i += 7)
		ck_assert_int_le(rig_get(r, i), 0);
	rig_close(r);
}

/* The points are read once a process: each k is a child, as Check makes one for each loop. */
static void sweep(const char *point, const char *error, int k, bool threads)
{
	char spec[64];
	struct rig r;

	snprintf(spec, sizeof(spec), "%s:%d:%s", point, k, error);
	setenv("KVB_FAULT", spec, 1);
	rig_make(&r);
	r.cfg.threads = threads;
	scenario(&r);
	/* Whatever it was, the next start finds nothing wrong. */
	if (rig_open(&r) == 0) {
		rig_count(&r, 0, 80);
		rig_close(&r);
	}
	rig_remove(&r);
}

START_TEST(fault_072_kth_write_of_io_uring)
{
	sweep("store-write", "5", 1 + _i, false);
}
END_TEST

START_TEST(fault_072_kth_write_of_threads)
{
	sweep("store-write", "28", 1 + _i, true);
}
END_TEST

START_TEST(fault_072_kth_read_of_io_uring)
{
	sweep("store-read", "5", 1 + 2 * _i, false);
}
END_TEST

START_TEST(fault_072_kth_read_of_threads)
{
	sweep("store-read", "11", 1 + 2 * _i, true);
}
END_TEST

START_TEST(fault_073_kth_flush)
{
	sweep("store-flush", "5", 1 + _i / 2, _i % 2);
}
END_TEST

START_TEST(fault_072_kth_memory)
{
	sweep("store-memory", "12", 1 + _i, false);
}
END_TEST

START_TEST(fault_081_no_io_uring)
{
	static const char *const errors[] = { "1", "12", "38" };
	struct store_stats st;
	char spec[64];
	struct rig r;

	/* The second ring is that of the store that is used; the first is for opening it. */
	snprintf(spec, sizeof(spec), "store-uring-setup:2:%s", errors[_i]);
	setenv("KVB_FAULT", spec, 1);
	rig_make(&r);
	ck_assert_int_eq(rig_open(&r), 0);
	store_stats(r.s, &st);
	ck_assert_str_eq(st.engine, "threads");
	ck_assert_uint_eq(rig_put(&r, 0, 10, 4, NULL), 10);
	rig_close(&r);
	rig_remove(&r);
}
END_TEST

START_TEST(fault_081_nothing_registered)
{
	struct rig r;

	setenv("KVB_FAULT", _i ? "store-uring-files:2:12" : "store-uring-buffers:2:12", 1);
	rig_make(&r);
	ck_assert_int_eq(rig_open(&r), 0);
	ck_assert_uint_eq(rig_put(&r, 0, 20, 4, NULL), 20);
	ck_assert_uint_eq(rig_count(&r, 0, 20), 20);
	rig_close(&r);
	rig_remove(&r);
}
END_TEST

#endif

int main(void)
{
	static const struct suite_case cases[] = {
		{ &fault_078_every_state_of_four_superblocks, 120, 1 },
		{ &fault_078_a_later_version_is_refused, 20, 1 },
		{ &fault_078_a_part_of_another_store, 20, 1 },
		{ &fault_076_a_segment_that_rots_is_retired, 20, 1 },
#ifdef KVB_FAULT_POINTS
		{ &fault_072_kth_write_of_io_uring, 30, 30 },
		{ &fault_072_kth_write_of_threads, 30, 30 },
		{ &fault_072_kth_read_of_io_uring, 30, 20 },
		{ &fault_072_kth_read_of_threads, 30, 20 },
		{ &fault_073_kth_flush, 30, 12 },
		{ &fault_072_kth_memory, 30, 24 },
		{ &fault_081_no_io_uring, 30, 3 },
		{ &fault_081_nothing_registered, 30, 2 },
#endif
		{ 0 },
	};

	return suite_run("store-fault", cases);
}
