/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The store on a disk that lies, and a loss of power at every write of every scenario.
 *
 * A scenario is run once to count its writes, then once for each of them with the power going
 * there, and the store is opened on what is left. Then holds:
 *
 *   - what is found is whole;
 *   - never are wrong bytes returned, nor a page of a past epoch once its bump was reported;
 *   - a page that was reported, then covered by a flush that was reported, is there, unless the
 *     store itself said that it is gone;
 *   - where only the process died, a page that was reported is there;
 *   - the store works on.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/sim_disk.h"
#include "tests/unit/store_rig.h"
#include "tests/unit/suite.h"

#define PAGES 400u
#define DISK_BYTES ((4u << 20) + 8 * (128u << 10))

struct page {
	bool reported, flushed, gone;
	uint32_t epoch;
};

struct world {
	struct rig rig;
	struct sim_disk disk;
	struct page page[PAGES];
	uint32_t epoch_sure; /* reported as durable */
	uint32_t puts;
};

static void page_gone(void *arg, const uint64_t where[2], const uint64_t chain[2], uint32_t epoch)
{
	struct world *w = arg;

	ck_assert_uint_lt(chain[1], PAGES);
	w->page[chain[1]].gone = true;
}

static void configure(struct world *w, uint32_t parts)
{
	struct rig *r = &w->rig;

	r->page_bytes = 8192;
	r->epoch = 1;
	r->own_clock = true;
	r->cfg = (struct store_cfg){ .parts = parts,
				     .part = { { "0", 0 }, { "1", 0 } },
				     .segment_bytes = 128 << 10,
				     .depth = 8,
				     .depth_write = 6,
				     .ops = &sim_disk_ops,
				     .ops_arg = &w->disk,
				     .gone = page_gone,
				     .arg = w };
}

static int open_world(struct world *w)
{
	int error;

	w->rig.s = NULL;
	error = rig_open(&w->rig);
	if (!error && !w->epoch_sure)
		w->epoch_sure = 1;
	return error;
}

static struct world *make_world(uint64_t seed, uint32_t parts)
{
	struct world *w = calloc(1, sizeof(*w));

	ck_assert_ptr_nonnull(w);
	sim_disk_make(&w->disk, DISK_BYTES, seed);
	configure(w, parts);
	return w;
}

static void free_world(struct world *w)
{
	sim_disk_free(&w->disk);
	free(w);
}

/* ---- scenarios ----------------------------------------------------------------------------- */

static void put(struct world *w, uint32_t first, uint32_t n, uint32_t depth)
{
	int status[PAGES];

	if (w->disk.off)
		return;
	for (uint32_t i = 0; i < n; i++)
		status[i] = -EIO;
	rig_put(&w->rig, first, n, depth, status);
	for (uint32_t i = 0; i < n; i++) {
		w->page[first + i].reported = status[i] == 0;
		w->page[first + i].epoch = w->rig.epoch; /* what was not may be there too */
	}
}

static void flush(struct world *w)
{
	bool reported[PAGES];

	if (w->disk.off)
		return;
	for (uint32_t i = 0; i < PAGES; i++)
		reported[i] = w->page[i].reported;
	if (rig_flush(&w->rig) == 0)
		for (uint32_t i = 0; i < PAGES; i++)
			w->page[i].flushed = w->page[i].flushed || reported[i];
}

static void bump(struct world *w)
{
	if (w->disk.off)
		return;
	if (rig_bump(&w->rig, w->rig.epoch + 1) == 0)
		w->epoch_sure = w->rig.epoch;
}

static void heat(struct world *w, uint32_t first, uint32_t n)
{
	if (!w->disk.off)
		ck_assert_uint_le(rig_count(&w->rig, first, n), n);
}

static void fill_and_flush(struct world *w)
{
	put(w, 0, 5, 1);
	put(w, 5, 20, 8);
	flush(w);
	put(w, 25, 9, 3);
}

static void go_round(struct world *w)
{
	put(w, 0, 30, 4);
	flush(w);
	heat(w, 20, 3);
	for (uint32_t i = 30; i < 150; i += 15) {
		put(w, i, 15, 5);
		heat(w, i + 2, 3);
		if (i % 2)
			flush(w);
		if (!w->disk.off)
			rig_settle(&w->rig);
	}
	flush(w);
	put(w, 150, 7, 7);
}

static void epochs(struct world *w)
{
	put(w, 0, 10, 4);
	flush(w);
	bump(w);
	put(w, 10, 10, 4);
	bump(w);
	bump(w);
	put(w, 20, 10, 4);
	flush(w);
}

static void close_and_open(struct world *w)
{
	put(w, 0, 12, 4);
	rig_close(&w->rig);
	if (w->disk.off)
		return;
	for (uint32_t i = 0; i < 12; i++)
		w->page[i].flushed = w->page[i].reported;
	/* The loss may come while it opens. */
	if (open_world(w) < 0)
		return;
	put(w, 12, 12, 4);
	flush(w);
}

/* As fast as it goes, with no flushes but those that it makes for its segments. */
static void fill_fast(struct world *w)
{
	put(w, 0, 250, 16);
}

static void (*const scenarios[])(struct world *) = { fill_and_flush, go_round, epochs,
						     close_and_open, fill_fast };
#define SCENARIOS 5

/* ---- what must hold ------------------------------------------------------------------------ */

static void check_pages(struct world *w, bool all_reported)
{
	const uint32_t epoch = w->rig.epoch;

	for (uint32_t i = 0; i < PAGES; i++) {
		const struct page *p = &w->page[i];
		struct store_key key;
		bool found;
		int status;

		if (p->epoch == 0)
			continue;
		w->rig.epoch = p->epoch;
		rig_key(&w->rig, i, &key);
		found = store_find(w->rig.s, &key);
		status = rig_get(&w->rig, i);
		ck_assert_msg(found == (status == 0), "page %u: found, and not whole", i);
		ck_assert_msg(status != 1, "page %u: wrong bytes", i);
		ck_assert_msg(status == 0 || status == -ENOENT, "page %u: %d", i, status);
		if (p->epoch < w->epoch_sure)
			ck_assert_msg(status != 0, "page %u of a past epoch is back", i);
		else if (p->epoch == epoch && !p->gone &&
			 (p->flushed || (all_reported && p->reported)))
			ck_assert_msg(status == 0, "page %u is lost", i);
	}
	w->rig.epoch = epoch;
}

static void reopen(struct world *w)
{
	w->rig.epoch = 1;
	ck_assert_int_eq(open_world(w), 0);
	ck_assert_uint_ge(w->rig.epoch, w->epoch_sure);
}

static void run(struct world *w, unsigned scenario)
{
	/* No start, no scenario: the power went before. */
	w->rig.cfg.flush_ms = scenarios[scenario] == fill_fast ? 1000000 : 40;
	if (open_world(w) == 0)
		scenarios[scenario](w);
}

static uint64_t count_writes(unsigned scenario, uint64_t seed, uint32_t parts)
{
	struct world *w = make_world(seed, parts);
	uint64_t n;

	run(w, scenario);
	check_pages(w, true);
	rig_close(&w->rig);
	n = w->disk.seen[ENGINE_WRITE];
	reopen(w);
	check_pages(w, true);
	rig_abandon(&w->rig);
	free_world(w);
	return n;
}

static void cut_everywhere(unsigned scenario, bool kill, uint32_t sector_bytes, uint32_t parts)
{
	const uint64_t seed = 1000 + scenario * 10 + parts;
	const uint64_t writes = count_writes(scenario, seed, parts);

	ck_assert_uint_gt(writes, 10);
	for (uint64_t cut = 1; cut <= writes; cut++) {
		struct world *w = make_world(seed, parts);

		w->disk.cut_at = cut;
		w->disk.kill = kill;
		w->disk.sector_bytes = sector_bytes;
		run(w, scenario);
		rig_abandon(&w->rig);
		sim_disk_power_on(&w->disk);
		reopen(w);
		check_pages(w, kill);
		ck_assert_uint_eq(rig_put(&w->rig, 300, 10, 4, NULL), 10);
		ck_assert_uint_eq(rig_count(&w->rig, 300, 10), 10);
		rig_close(&w->rig);
		free_world(w);
	}
}

START_TEST(fault_077_power_cut_at_every_write)
{
	cut_everywhere((unsigned)_i % SCENARIOS, false, _i < SCENARIOS ? 512 : 4096, 1);
}
END_TEST

START_TEST(fault_077_power_cut_with_two_parts)
{
	cut_everywhere((unsigned)_i, false, 512, 2);
}
END_TEST

START_TEST(fault_064_kill_at_every_write)
{
	cut_everywhere((unsigned)_i, true, 4096, 1);
}
END_TEST

/* ---- disks that fail and lie --------------------------------------------------------------- */

static const struct {
	uint8_t op;
	enum sim_fault fault;
	int32_t error;
} faults[] = {
	{ ENGINE_WRITE, SIM_ERROR, -EIO },   { ENGINE_WRITE, SIM_ERROR, -ENOSPC },
	{ ENGINE_WRITE, SIM_SHORT, 0 },      { ENGINE_READ, SIM_ERROR, -EIO },
	{ ENGINE_READ, SIM_SHORT, 0 },       { ENGINE_READ, SIM_ERROR, -EAGAIN },
	{ ENGINE_WRITE, SIM_ERROR, -EINTR }, { ENGINE_FLUSH, SIM_ERROR, -EIO },
	{ ENGINE_WRITE, SIM_DROP, 0 },       { ENGINE_WRITE, SIM_MISPLACE, 0 },
	{ ENGINE_WRITE, SIM_ROT, 0 },        { ENGINE_WRITE, SIM_TEAR, 0 },
	{ ENGINE_READ, SIM_ROT, 0 },
};
#define FAULTS 13

/* Bytes alone: what is lost may be lost. */
static void check_bytes(struct world *w)
{
	for (uint32_t i = 0; i < PAGES; i++) {
		if (w->page[i].epoch == 0)
			continue;
		w->rig.epoch = w->page[i].epoch;
		ck_assert_msg(rig_get(&w->rig, i) != 1, "page %u: wrong bytes", i);
	}
	w->rig.epoch = w->epoch_sure;
}

static void one_fault(unsigned scenario, unsigned fault, uint64_t at)
{
	struct world *w = make_world(7 + at, 1);

	w->disk.fault = faults[fault].fault;
	w->disk.fault_op = faults[fault].op;
	w->disk.fault_error = faults[fault].error;
	w->disk.fault_at = at;
	run(w, scenario);
	w->disk.fault = SIM_NONE;
	if (w->rig.s)
		check_bytes(w);
	rig_abandon(&w->rig);
	w->disk.kill = true;
	sim_disk_power_on(&w->disk);
	w->rig.epoch = 1;
	if (open_world(w) == 0) {
		check_bytes(w);
		rig_close(&w->rig);
	}
	free_world(w);
}

START_TEST(fault_072_073_076_every_transfer_once)
{
	for (unsigned scenario = 0; scenario < SCENARIOS; scenario++) {
		struct world *w = make_world(7, 1);
		uint64_t n;

		run(w, scenario);
		n = w->disk.seen[faults[_i].op];
		rig_abandon(&w->rig);
		free_world(w);
		for (uint64_t at = 1; at <= n; at += 1 + n / 120)
			one_fault(scenario, (unsigned)_i, at);
	}
}
END_TEST

START_TEST(fault_073_a_flush_that_failed_is_not_believed_later)
{
	struct world *w = make_world(3, 1);
	struct store_stats st;

	ck_assert_int_eq(open_world(w), 0);
	put(w, 0, 10, 4);
	flush(w);
	put(w, 10, 10, 4);
	w->disk.fault = SIM_ERROR;
	w->disk.fault_op = ENGINE_FLUSH;
	w->disk.fault_error = -EIO;
	w->disk.fault_at = w->disk.seen[ENGINE_FLUSH] + 1;
	ck_assert_int_eq(rig_flush(&w->rig), -EIO);
	store_stats(w->rig.s, &st);
	ck_assert_uint_eq(st.flushes_failed, 1);
	ck_assert_uint_eq(rig_count(&w->rig, 10, 10), 0);
	ck_assert_int_eq(rig_flush(&w->rig), 0);
	ck_assert_uint_eq(rig_count(&w->rig, 10, 10), 0);
	ck_assert_uint_eq(rig_put(&w->rig, 30, 10, 4, NULL), 10);
	ck_assert_uint_eq(rig_count(&w->rig, 30, 10), 10);
	rig_close(&w->rig);
	free_world(w);
}
END_TEST

START_TEST(fault_074_device_vanishes)
{
	struct world *w = make_world(3, 1);
	struct store_stats st;

	ck_assert_int_eq(open_world(w), 0);
	put(w, 0, 10, 4);
	w->disk.off = true;
	for (uint32_t i = 0; i < 40; i++) {
		ck_assert_int_lt(rig_get(&w->rig, i % 10), 0);
		rig_put(&w->rig, 20 + i, 1, 1, NULL);
	}
	store_stats(w->rig.s, &st);
	ck_assert_int_eq(st.part[0].failed, -EIO);
	ck_assert_int_eq(rig_bump(&w->rig, 5), -EIO);
	ck_assert_int_eq(rig_flush(&w->rig), -EIO);
	rig_close(&w->rig);
	free_world(w);
}
END_TEST

START_TEST(fault_075_slower_than_the_deadline)
{
	struct world *w = make_world(3, 1);
	struct store_done done;
	struct store_key key;
	struct iovec v = { malloc(8192), 8192 };
	unsigned late = 0;

	ck_assert_int_eq(open_world(w), 0);
	put(w, 0, 4, 4);
	w->disk.slow = 2000;
	rig_key(&w->rig, 2, &key);
	ck_assert_int_eq(store_get(w->rig.s, &key, &v, 1, w->rig.now_ns + 1, &v), 0);
	for (uint64_t i = 0; i < 5000; i++) {
		if (!store_poll(w->rig.s, w->rig.now_ns + i, &done, 1))
			continue;
		ck_assert_ptr_eq(done.user, &v);
		if (done.flags & STORE_DONE_FREED)
			break;
		ck_assert_int_eq(done.status, -ETIME);
		late++;
	}
	ck_assert_uint_eq(late, 1);
	ck_assert_uint_eq(done.flags, STORE_DONE_FREED);
	ck_assert_int_eq(done.status, 0);
	rig_abandon(&w->rig);
	free_world(w);
	free(v.iov_base);
}
END_TEST

START_TEST(fault_076_flushes_that_lie)
{
	for (uint64_t cut = 5; cut < 80; cut += 3) {
		struct world *w = make_world(cut, 1);

		w->disk.flush_lies = true;
		w->disk.cut_at = cut;
		run(w, (unsigned)_i);
		rig_abandon(&w->rig);
		sim_disk_power_on(&w->disk);
		w->rig.epoch = 1;
		if (open_world(w) == 0) {
			w->epoch_sure = w->rig.epoch;
			check_bytes(w);
			rig_close(&w->rig);
		}
		free_world(w);
	}
}
END_TEST

int main(void)
{
	static const struct suite_case cases[] = {
		{ &fault_077_power_cut_at_every_write, 170, 2 * SCENARIOS },
		{ &fault_077_power_cut_with_two_parts, 170, SCENARIOS },
		{ &fault_064_kill_at_every_write, 170, SCENARIOS },
		{ &fault_072_073_076_every_transfer_once, 170, FAULTS },
		{ &fault_073_a_flush_that_failed_is_not_believed_later, 20, 1 },
		{ &fault_074_device_vanishes, 20, 1 },
		{ &fault_075_slower_than_the_deadline, 20, 1 },
		{ &fault_076_flushes_that_lie, 60, SCENARIOS },
		{ 0 },
	};

	return suite_run("store-crash", cases);
}
