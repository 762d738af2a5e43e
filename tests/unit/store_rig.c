/* SPDX-License-Identifier: Apache-2.0 */

/* A store under test; see store_rig.h. */

#include "tests/unit/store_rig.h"

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define ALIGN 4096u
#define WAIT_NS (10ull * 1000 * 1000)
#define SETTLE_NS (1ull * 1000 * 1000)
#define POLLS_MAX 200000u

static void page_gone(void *arg, const uint64_t where[2], const uint64_t chain[2], uint32_t epoch)
{
	((struct rig *)arg)->gone++;
}

void rig_make(struct rig *r)
{
	*r = (struct rig){ .page_bytes = 65536, .epoch = 1, .dir = "kvb-store.XXXXXX" };
	ck_assert_ptr_nonnull(mkdtemp(r->dir));
	for (unsigned i = 0; i < 2; i++)
		snprintf(r->path[i], sizeof(r->path[i]), "%s/part%u", r->dir, i);
	r->cfg.parts = 1;
	r->cfg.part[0] = (struct store_part_cfg){ r->path[0], 20u << 20 };
	r->cfg.segment_bytes = 1 << 20;
	r->cfg.lock_wait_ms = 1000;
}

void rig_remove(struct rig *r)
{
	for (unsigned i = 0; i < 2; i++)
		unlink(r->path[i]);
	ck_assert_int_eq(rmdir(r->dir), 0);
}

int rig_open(struct rig *r)
{
	static const uint8_t digest[32] = "weights and all that";
	const struct store_identity id = { .domain = "tenant",
					   .ns_digest = "weights and all that",
					   .regions = 1,
					   .stride_bytes = r->page_bytes };
	char why[256];
	int error;

	r->cfg.gone = r->cfg.gone ? r->cfg.gone : page_gone;
	r->cfg.arg = r->cfg.arg ? r->cfg.arg : r;
	error = store_open(&r->cfg, &r->s, why, sizeof(why));
	if (error) {
		ck_assert_uint_gt(strlen(why), 0);
		return error;
	}
	store_place_make(r->s, &id, &r->place);
	r->ns = store_ns_open(r->s, digest, r->epoch, &r->epoch);
	return 0;
}

void rig_close(struct rig *r)
{
	r->s = store_close(r->s);
}

void rig_abandon(struct rig *r)
{
	r->s = store_abandon(r->s);
}

void rig_key(const struct rig *r, uint32_t number, struct store_key *ret)
{
	const uint64_t chain[2] = { number * 0x9e3779b97f4a7c15ull, number };

	store_key_make(r->s, &r->place, r->ns, r->epoch, 7, chain, ret);
}

void rig_fill(const struct rig *r, uint32_t number, void *page)
{
	uint64_t *w = page;

	for (uint32_t i = 0; i < r->page_bytes / 8; i++)
		w[i] = number * 0x2545f4914f6cdd1dull + i * 0x9e3779b97f4a7c15ull;
}

bool rig_same(const struct rig *r, uint32_t number, const void *page)
{
	const uint64_t *w = page;

	for (uint32_t i = 0; i < r->page_bytes / 8; i++)
		if (w[i] != number * 0x2545f4914f6cdd1dull + i * 0x9e3779b97f4a7c15ull)
			return false;
	return true;
}

static uint64_t now_of(struct rig *r)
{
	struct timespec ts;

	if (r->own_clock)
		return r->now_ns += 1000000;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static uint32_t poll_once(struct rig *r, struct store_done *done, uint32_t n)
{
	uint32_t got = store_poll(r->s, now_of(r), done, n);

	if (!got)
		store_wait(r->s, WAIT_NS);
	return got;
}

int rig_report(struct rig *r, uint8_t kind)
{
	struct store_done done;

	for (uint32_t i = 0; i < POLLS_MAX; i++)
		if (poll_once(r, &done, 1) && done.kind == kind)
			return done.status;
	ck_abort_msg("no report");
	return 0;
}

void rig_settle(struct rig *r)
{
	struct store_done done;
	uint32_t idle = 0;

	for (uint32_t i = 0; i < POLLS_MAX && idle < 3; i++) {
		const bool busy = store_poll(r->s, now_of(r), &done, 1) || store_pending(r->s);

		idle = busy ? 0 : idle + 1;
		store_wait(r->s, SETTLE_NS);
	}
}

struct slot {
	char *page;
	uint32_t number;
	bool busy;
};

uint32_t rig_put(struct rig *r, uint32_t first, uint32_t n, uint32_t depth, int *status)
{
	struct slot *slot = calloc(depth, sizeof(*slot));
	uint32_t next = first, over = 0, put = 0, polls = 0;

	ck_assert_ptr_nonnull(slot);
	for (uint32_t i = 0; i < depth; i++)
		ck_assert_int_eq(posix_memalign((void **)&slot[i].page, ALIGN, r->page_bytes), 0);
	while (over < n) {
		struct store_done done;

		for (uint32_t i = 0; i < depth && next < first + n; i++) {
			struct iovec v = { slot[i].page, r->page_bytes };
			struct store_key key;
			int error;

			if (slot[i].busy)
				continue;
			slot[i].number = next++;
			rig_fill(r, slot[i].number, slot[i].page);
			rig_key(r, slot[i].number, &key);
			error = store_put(r->s, &key, &v, 1, NULL, &slot[i]);
			slot[i].busy = error == 0;
			if (error && status)
				status[slot[i].number - first] = error;
			over += error != 0;
		}
		ck_assert_uint_lt(polls++, POLLS_MAX);
		while (over < n && poll_once(r, &done, 1)) {
			struct slot *d = done.user;

			if (done.kind != STORE_DONE_PUT)
				continue;
			if (status)
				status[d->number - first] = done.status;
			put += done.status == 0;
			d->busy = false;
			over++;
		}
	}
	for (uint32_t i = 0; i < depth; i++)
		free(slot[i].page);
	free(slot);
	return put;
}

int rig_get(struct rig *r, uint32_t number)
{
	struct store_key key;
	struct iovec v = { NULL, r->page_bytes };
	int status;

	ck_assert_int_eq(posix_memalign(&v.iov_base, ALIGN, r->page_bytes), 0);
	rig_key(r, number, &key);
	status = store_get(r->s, &key, &v, 1, 0, NULL);
	if (status == 0)
		status = rig_report(r, STORE_DONE_GET);
	if (status == 0 && !rig_same(r, number, v.iov_base))
		status = 1;
	free(v.iov_base);
	return status;
}

uint32_t rig_count(struct rig *r, uint32_t first, uint32_t n)
{
	uint32_t found = 0;

	for (uint32_t i = first; i < first + n; i++) {
		int status = rig_get(r, i);

		ck_assert_msg(status <= 0, "wrong bytes for page %u", i);
		found += status == 0;
	}
	return found;
}

int rig_flush(struct rig *r)
{
	store_flush(r->s, NULL);
	return rig_report(r, STORE_DONE_FLUSH);
}

int rig_bump(struct rig *r, uint32_t epoch)
{
	store_bump(r->s, r->ns, epoch, NULL);
	r->epoch = epoch;
	return rig_report(r, STORE_DONE_BUMP);
}
