/* SPDX-License-Identifier: Apache-2.0 */

/* A store on files: what is put is got, also after it was closed, killed, filled up, resized. */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "tests/unit/store_rig.h"
#include "tests/unit/suite.h"

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* Even loops: io_uring; odd: threads. */
static void make(struct rig *r, int i)
{
	rig_make(r);
	r->cfg.threads = i & 1;
}

START_TEST(what_is_put_is_got)
{
	struct rig r;
	struct store_stats st;

	make(&r, _i);
	ck_assert_int_eq(rig_open(&r), 0);
	store_stats(r.s, &st);
	ck_assert_str_eq(st.engine, _i & 1 ? "threads" : "io_uring");
	ck_assert_int_eq(rig_get(&r, 0), -ENOENT);
	ck_assert_uint_eq(rig_put(&r, 0, 60, 8, NULL), 60);
	ck_assert_uint_eq(rig_count(&r, 0, 60), 60);
	ck_assert_int_eq(rig_get(&r, 60), -ENOENT);
	store_stats(r.s, &st);
	ck_assert_uint_eq(st.pages, 60);
	ck_assert_uint_eq(st.mismatches, 0);
	rig_close(&r);
	rig_remove(&r);
}
END_TEST

START_TEST(found_again_after_close_and_after_kill)
{
	struct rig r;
	struct store_stats st;

	make(&r, _i);
	ck_assert_int_eq(rig_open(&r), 0);
	ck_assert_uint_eq(rig_put(&r, 0, 50, 8, NULL), 50);
	rig_close(&r);
	ck_assert_int_eq(rig_open(&r), 0);
	store_stats(r.s, &st);
	ck_assert_uint_eq(st.recovered_pages, 50);
	ck_assert_uint_eq(rig_count(&r, 0, 50), 50);
	ck_assert_uint_eq(rig_put(&r, 50, 20, 4, NULL), 20);
	rig_abandon(&r);
	ck_assert_int_eq(rig_open(&r), 0);
	ck_assert_uint_eq(rig_count(&r, 0, 71), 70);
	rig_abandon(&r);
	rig_remove(&r);
}
END_TEST

START_TEST(the_oldest_go_and_the_read_stay)
{
	struct rig r;
	struct store_stats st;

	make(&r, _i);
	ck_assert_int_eq(rig_open(&r), 0);
	ck_assert_uint_eq(rig_put(&r, 0, 40, 8, NULL), 40);
	/* 16 segments of 15 pages: 600 pages go round more than twice. */
	for (uint32_t i = 40; i < 640; i += 20) {
		ck_assert_int_eq(rig_get(&r, 7), 0);
		ck_assert_uint_eq(rig_put(&r, i, 20, 8, NULL), 20);
		rig_settle(&r);
	}
	ck_assert_int_eq(rig_get(&r, 7), 0);
	ck_assert_int_eq(rig_get(&r, 8), -ENOENT);
	ck_assert_uint_ge(rig_count(&r, 540, 100), 100);
	store_stats(r.s, &st);
	ck_assert_uint_gt(st.forward_pages, 0);
	ck_assert_uint_eq(st.evicted_pages, r.gone);
	ck_assert_uint_eq(st.pages, 640 - st.evicted_pages);
	ck_assert_uint_eq(st.mismatches, 0);
	rig_close(&r);
	ck_assert_int_eq(rig_open(&r), 0);
	ck_assert_int_eq(rig_get(&r, 7), 0);
	rig_close(&r);
	rig_remove(&r);
}
END_TEST

START_TEST(two_parts_share)
{
	struct rig r;
	struct store_stats st;

	make(&r, _i);
	r.cfg.parts = 2;
	r.cfg.part[1] = (struct store_part_cfg){ r.path[1], 12u << 20 };
	ck_assert_int_eq(rig_open(&r), 0);
	ck_assert_uint_eq(rig_put(&r, 0, 100, 16, NULL), 100);
	ck_assert_uint_eq(rig_count(&r, 0, 100), 100);
	store_stats(r.s, &st);
	ck_assert_uint_gt(st.part[0].written_bytes, 1 << 20);
	ck_assert_uint_gt(st.part[1].written_bytes, 1 << 20);
	rig_abandon(&r);
	ck_assert_int_eq(rig_open(&r), 0);
	ck_assert_uint_eq(rig_count(&r, 0, 100), 100);
	rig_close(&r);
	rig_remove(&r);
}
END_TEST

START_TEST(i6_a_bump_holds_after_a_restart)
{
	struct rig r;

	make(&r, _i);
	ck_assert_int_eq(rig_open(&r), 0);
	ck_assert_uint_eq(rig_put(&r, 0, 20, 8, NULL), 20);
	ck_assert_int_eq(rig_bump(&r, 2), 0);
	ck_assert_uint_eq(rig_count(&r, 0, 20), 0);
	ck_assert_uint_eq(rig_put(&r, 0, 5, 8, NULL), 5);
	rig_abandon(&r);
	r.epoch = 1;
	ck_assert_int_eq(rig_open(&r), 0);
	ck_assert_uint_eq(r.epoch, 2);
	ck_assert_uint_eq(rig_count(&r, 0, 20), 5);
	r.epoch = 1; /* asked for by name, the past is gone too */
	ck_assert_uint_eq(rig_count(&r, 0, 20), 0);
	rig_close(&r);
	rig_remove(&r);
}
END_TEST

static void resize_and_wait(struct rig *r, uint64_t bytes, struct store_stats *ret)
{
	ck_assert_int_eq(store_resize(r->s, 0, bytes), 0);
	for (unsigned i = 0; i < 10000; i++) {
		rig_settle(r);
		store_stats(r->s, ret);
		if (ret->part[0].bytes == ret->part[0].bytes_wanted)
			break;
	}
	ck_assert_uint_eq(ret->part[0].bytes, bytes);
}

START_TEST(grows_and_shrinks_while_it_is_used)
{
	struct rig r;
	struct store_stats st;
	struct stat file;

	make(&r, _i);
	ck_assert_int_eq(rig_open(&r), 0);
	ck_assert_uint_eq(rig_put(&r, 0, 200, 8, NULL), 200);
	ck_assert_int_eq(store_resize(r.s, 0, 30u << 20), 0);
	ck_assert_uint_eq(rig_put(&r, 200, 150, 8, NULL), 150);
	ck_assert_uint_ge(rig_count(&r, 0, 350), 330);
	ck_assert_int_eq(store_resize(r.s, 0, 3u << 20), -EINVAL);
	resize_and_wait(&r, 12u << 20, &st);
	rig_settle(&r);
	ck_assert_int_eq(stat(r.path[0], &file), 0);
	ck_assert_int_eq(file.st_size, 12 << 20);
	ck_assert_uint_eq(rig_put(&r, 400, 30, 8, NULL), 30);
	ck_assert_uint_eq(rig_count(&r, 400, 30), 30);
	rig_close(&r);
	r.cfg.part[0].bytes = 12u << 20;
	ck_assert_int_eq(rig_open(&r), 0);
	ck_assert_uint_eq(rig_count(&r, 400, 30), 30);
	rig_close(&r);
	rig_remove(&r);
}
END_TEST

/* What a part had before it shrank is used again when it grows: there are so many numbers only. */
START_TEST(grows_and_shrinks_for_ever)
{
	struct rig r;
	struct store_stats st;

	make(&r, _i);
	ck_assert_int_eq(rig_open(&r), 0);
	store_stats(r.s, &st);
	ck_assert_uint_eq(st.check.segments, 16);
	for (uint32_t i = 0; i < 5; i++) {
		ck_assert_uint_eq(rig_put(&r, 300 * i, 220, 8, NULL), 220);
		resize_and_wait(&r, 12u << 20, &st);
		resize_and_wait(&r, 20u << 20, &st);
		ck_assert_uint_eq(st.check.segments, 16);
	}
	resize_and_wait(&r, 22u << 20, &st);
	ck_assert_uint_eq(st.check.segments, 18);
	ck_assert_uint_eq(rig_put(&r, 2000, 200, 8, NULL), 200);
	ck_assert_uint_eq(rig_count(&r, 2000, 200), 200);
	rig_close(&r);
	r.cfg.part[0].bytes = 22u << 20;
	ck_assert_int_eq(rig_open(&r), 0);
	ck_assert_uint_eq(rig_count(&r, 2000, 200), 200);
	rig_close(&r);
	rig_remove(&r);
}
END_TEST

START_TEST(sizes_and_pieces_of_every_kind)
{
	static const uint32_t sizes[] = { 64, 4096, 4160, 12288, 65472, 262144 };
	char *mem, *back;
	struct rig r;

	make(&r, _i);
	ck_assert_int_eq(posix_memalign((void **)&mem, 4096, 1 << 20), 0);
	ck_assert_int_eq(posix_memalign((void **)&back, 4096, 1 << 20), 0);
	for (unsigned i = 0; i < 1 << 20; i++)
		mem[i] = (char)(i * 7 + i / 251);
	ck_assert_int_eq(rig_open(&r), 0);
	for (unsigned i = 0; i < 6; i++) {
		for (unsigned pieces = 1; pieces <= 64; pieces *= 4) {
			struct iovec v[64], w[64];
			const uint32_t each = sizes[i] / pieces, gap = 8192;
			struct store_key key;

			if (each % 64 || each == 0 || pieces * (each + gap) > 1 << 20)
				continue;
			for (unsigned j = 0; j < pieces; j++) {
				v[j] = (struct iovec){ mem + j * (each + gap), each };
				w[j] = (struct iovec){ back + j * (each + gap), each };
			}
			memset(back, 0, 1 << 20);
			rig_key(&r, 1000 * i + pieces, &key);
			ck_assert_int_eq(store_put(r.s, &key, v, pieces, NULL, NULL), 0);
			ck_assert_int_eq(rig_report(&r, STORE_DONE_PUT), 0);
			ck_assert_int_eq(store_get(r.s, &key, w, pieces, 0, NULL), 0);
			ck_assert_int_eq(rig_report(&r, STORE_DONE_GET), 0);
			for (unsigned j = 0; j < pieces; j++) {
				ck_assert_mem_eq(w[j].iov_base, v[j].iov_base, each);
				ck_assert_int_eq(back[j * (each + gap) + each], 0);
			}
		}
	}
	rig_close(&r);
	rig_remove(&r);
	free(mem);
	free(back);
}
END_TEST

START_TEST(what_can_not_be_is_refused)
{
	struct rig r;
	struct store_key key;
	struct iovec v;

	make(&r, _i);
	ck_assert_int_eq(posix_memalign(&v.iov_base, 4096, 1 << 20), 0);
	ck_assert_int_eq(rig_open(&r), 0);
	rig_key(&r, 1, &key);
	v.iov_len = 0;
	ck_assert_int_eq(store_put(r.s, &key, &v, 1, NULL, NULL), -EINVAL);
	ck_assert_int_eq(store_put(r.s, &key, &v, 0, NULL, NULL), -EINVAL);
	ck_assert_int_eq(store_put(r.s, &key, &v, STORE_PIECES_MAX + 1, NULL, NULL), -EINVAL);
	v.iov_len = (1 << 18) + 4096; /* more than a quarter of a segment */
	ck_assert_int_eq(store_put(r.s, &key, &v, 1, NULL, NULL), -EINVAL);
	v.iov_len = 4096;
	key.ns = 9;
	ck_assert_int_eq(store_put(r.s, &key, &v, 1, NULL, NULL), -EINVAL);
	rig_key(&r, 1, &key);
	key.epoch = 0;
	ck_assert_int_eq(store_put(r.s, &key, &v, 1, NULL, NULL), -ESTALE);
	ck_assert_int_eq(store_get(r.s, &key, &v, 1, 0, NULL), -ENOENT);
	rig_close(&r);
	rig_remove(&r);
	free(v.iov_base);
}
END_TEST

START_TEST(opened_with_another_size)
{
	struct rig r;
	struct store_stats st;

	make(&r, _i);
	ck_assert_int_eq(rig_open(&r), 0);
	ck_assert_uint_eq(rig_put(&r, 0, 200, 8, NULL), 200);
	rig_close(&r);
	r.cfg.part[0].bytes = 30u << 20;
	ck_assert_int_eq(rig_open(&r), 0);
	store_stats(r.s, &st);
	ck_assert_uint_eq(st.bytes, 30u << 20);
	ck_assert_uint_eq(rig_count(&r, 0, 200), 200);
	rig_close(&r);
	r.cfg.part[0].bytes = 10u << 20;
	ck_assert_int_eq(rig_open(&r), 0);
	for (unsigned i = 0; i < 1000 && st.bytes != 10u << 20; i++) {
		rig_settle(&r);
		store_stats(r.s, &st);
	}
	ck_assert_uint_eq(st.bytes, 10u << 20);
	rig_close(&r);
	rig_remove(&r);
}
END_TEST

static void *open_there(void *arg)
{
	ck_assert_int_eq(rig_open(arg), 0);
	return NULL;
}

START_TEST(opened_by_a_thread_that_ends)
{
	pthread_t thread;
	struct rig r;

	make(&r, _i);
	for (unsigned i = 0; i < 2; i++) {
		ck_assert_int_eq(pthread_create(&thread, NULL, open_there, &r), 0);
		ck_assert_int_eq(pthread_join(thread, NULL), 0);
		ck_assert_uint_eq(rig_count(&r, 0, 20), i * 20);
		ck_assert_uint_eq(rig_put(&r, 0, 20, 8, NULL), 20);
		rig_close(&r);
	}
	rig_remove(&r);
}
END_TEST

/* As a loop would that sleeps until it is told: nothing is forgotten. */
static int report_by_event(struct rig *r, uint8_t kind)
{
	struct pollfd p = { .fd = store_event(r->s), .events = POLLIN };
	struct store_done done;

	for (;;) {
		if (store_poll(r->s, now_ns(), &done, 1)) {
			if (done.kind == kind)
				return done.status;
			continue;
		}
		if (store_pending(r->s))
			continue;
		if (store_next_ns(r->s) == UINT64_MAX)
			ck_assert_int_eq(poll(&p, 1, 10000), 1);
		else
			poll(&p, 1, 100);
	}
}

START_TEST(tells_when_it_needs_a_turn)
{
	struct rig r;
	struct iovec v = { NULL, 65536 };

	make(&r, _i);
	ck_assert_int_eq(posix_memalign(&v.iov_base, 4096, 65536), 0);
	memset(v.iov_base, 1, 65536);
	ck_assert_int_eq(rig_open(&r), 0);
	for (uint32_t i = 0; i < 100; i++) {
		struct store_key key;

		rig_key(&r, i, &key);
		ck_assert_int_eq(store_put(r.s, &key, &v, 1, NULL, NULL), 0);
		ck_assert(i || store_pending(r.s));
		ck_assert_int_eq(report_by_event(&r, STORE_DONE_PUT), 0);
		ck_assert_int_eq(store_get(r.s, &key, &v, 1, 0, NULL), 0);
		ck_assert(store_pending(r.s));
		ck_assert_int_eq(report_by_event(&r, STORE_DONE_GET), 0);
	}
	store_flush(r.s, NULL);
	ck_assert_int_eq(report_by_event(&r, STORE_DONE_FLUSH), 0);
	store_bump(r.s, r.ns, 2, NULL);
	ck_assert_int_eq(report_by_event(&r, STORE_DONE_BUMP), 0);
	rig_close(&r);
	rig_remove(&r);
	free(v.iov_base);
}
END_TEST

START_TEST(fault_070_one_owner)
{
	struct rig r, other;

	make(&r, _i);
	ck_assert_int_eq(rig_open(&r), 0);
	other = r;
	other.cfg.lock_wait_ms = 30;
	ck_assert_int_eq(rig_open(&other), -EBUSY);
	ck_assert_uint_eq(rig_put(&r, 0, 4, 4, NULL), 4);
	rig_close(&r);
	ck_assert_int_eq(rig_open(&other), 0);
	rig_close(&other);
	rig_remove(&r);
}
END_TEST

START_TEST(fault_080_read_only_full_and_wrong)
{
	struct rig r;
	int fd;

	make(&r, _i);
	r.cfg.part[0].bytes = 1ull << 60;
	ck_assert_int_lt(rig_open(&r), 0);
	unlink(r.path[0]);
	r.cfg.part[0].bytes = 6u << 20; /* too small for four segments */
	ck_assert_int_eq(rig_open(&r), -ENOSPC);
	unlink(r.path[0]);
	r.cfg.part[0].bytes = 20u << 20;
	fd = open(r.path[0], O_WRONLY | O_CREAT, 0600);
	ck_assert_int_eq(ftruncate(fd, 20 << 20), 0);
	ck_assert_int_eq(write(fd, "precious", 8), 8);
	ck_assert_int_eq(rig_open(&r), -EMEDIUMTYPE);
	close(fd);
	r.cfg.part[0].path = r.dir;
	ck_assert_int_eq(rig_open(&r), -ENOTBLK);
	r.cfg.part[0].path = "/proc/version";
	ck_assert_int_lt(rig_open(&r), 0);
	rig_remove(&r);
}
END_TEST

START_TEST(fault_080_cut_and_removed_while_open)
{
	struct rig r;
	struct store_stats st;

	make(&r, _i);
	r.own_clock = true;
	ck_assert_int_eq(rig_open(&r), 0);
	ck_assert_uint_eq(rig_put(&r, 0, 20, 8, NULL), 20);
	if (_i < 2)
		ck_assert_int_eq(truncate(r.path[0], 5 << 20), 0);
	else
		ck_assert_int_eq(unlink(r.path[0]), 0);
	for (unsigned i = 0; i < 400; i++)
		rig_settle(&r);
	store_stats(r.s, &st);
	ck_assert_int_eq(st.part[0].failed, -ESTALE);
	ck_assert_uint_eq(rig_count(&r, 0, 20), 0);
	ck_assert_uint_eq(rig_put(&r, 0, 20, 8, NULL), 0);
	rig_close(&r);
	if (_i < 2) { /* a new start makes do with what is there */
		ck_assert_int_eq(rig_open(&r), 0);
		ck_assert_uint_eq(rig_put(&r, 0, 20, 8, NULL), 20);
		rig_close(&r);
	}
	rig_remove(&r);
}
END_TEST

START_TEST(fault_075_past_its_deadline)
{
	struct rig r;
	struct store_key key;
	struct iovec v = { NULL, 65536 };
	struct store_done done;
	unsigned late = 0, freed = 0;

	make(&r, _i);
	ck_assert_int_eq(posix_memalign(&v.iov_base, 4096, 65536), 0);
	ck_assert_int_eq(rig_open(&r), 0);
	ck_assert_uint_eq(rig_put(&r, 0, 1, 1, NULL), 1);
	rig_key(&r, 0, &key);
	ck_assert_int_eq(store_get(r.s, &key, &v, 1, 1, &key), 0);
	for (unsigned i = 0; i < 100000 && !freed; i++) {
		if (!store_poll(r.s, 1000, &done, 1))
			continue;
		ck_assert_ptr_eq(done.user, &key);
		if (done.flags & STORE_DONE_FREED)
			freed++;
		else if (done.status == -ETIME)
			late++;
		else
			break; /* it was faster than the first look at the clock */
	}
	ck_assert_uint_eq(late, freed);
	rig_close(&r);
	rig_remove(&r);
	free(v.iov_base);
}
END_TEST

int main(void)
{
	static const struct suite_case cases[] = {
		{ &what_is_put_is_got, 30, 2 },
		{ &found_again_after_close_and_after_kill, 30, 2 },
		{ &the_oldest_go_and_the_read_stay, 60, 2 },
		{ &two_parts_share, 30, 2 },
		{ &i6_a_bump_holds_after_a_restart, 30, 2 },
		{ &grows_and_shrinks_while_it_is_used, 60, 2 },
		{ &grows_and_shrinks_for_ever, 60, 2 },
		{ &sizes_and_pieces_of_every_kind, 30, 2 },
		{ &what_can_not_be_is_refused, 30, 1 },
		{ &opened_with_another_size, 60, 2 },
		{ &opened_by_a_thread_that_ends, 30, 2 },
		{ &tells_when_it_needs_a_turn, 30, 2 },
		{ &fault_070_one_owner, 30, 1 },
		{ &fault_080_read_only_full_and_wrong, 30, 1 },
		{ &fault_080_cut_and_removed_while_open, 60, 3 },
		{ &fault_075_past_its_deadline, 30, 2 },
		{ 0 },
	};

	return suite_run("store", cases);
}
