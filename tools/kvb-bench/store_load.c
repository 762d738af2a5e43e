/* SPDX-License-Identifier: Apache-2.0 */

/* A store under load, by one thread, as the daemon would; see store.h. */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "broker/store/format.h"
#include "tools/kvb-bench/store.h"

#define WAIT_NS (5ull * 1000 * 1000)
#define REPORTS 32u

static uint64_t cpu_ns(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000000u +
	       (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1000u;
}

static void key_of(const struct load *l, uint64_t number, struct store_key *ret)
{
	const uint64_t chain[2] = { number, number * 0x9e3779b97f4a7c15ull };

	store_key_make(l->s, &l->place, l->ns, l->epoch, 0, chain, ret);
}

static void make_memory(struct load *l)
{
	const uint64_t pages = 2 * STORE_BENCH_DEPTH, bytes = pages * l->page_bytes;

	l->mem = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (l->mem == MAP_FAILED)
		bench_die("mmap: %s", strerror(errno));
	(void)madvise(l->mem, bytes, MADV_HUGEPAGE);
	for (uint64_t i = 0; i < bytes; i++)
		l->mem[i] = (char)(i % l->page_bytes % 251);
	for (uint32_t i = 0; i < pages; i++)
		l->page[i] = (struct load_page){ .mem = l->mem + i * l->page_bytes };
	l->crc = format_crc(0, l->mem, l->page_bytes);
	(void)store_memory_add(l->s, l->mem, bytes);
}

void load_open(struct load *l, const char *path, uint64_t bytes, uint32_t page_bytes)
{
	struct store_cfg cfg = { .part = { { path, bytes } },
				 .parts = 1,
				 .pages_max = bytes / page_bytes,
				 .empty = true };
	const struct store_identity id = { .domain = "bench",
					   .regions = 1,
					   .stride_bytes = page_bytes };
	static const uint8_t digest[32];
	char why[256];

	*l = (struct load){ .page_bytes = page_bytes, .random = 1 };
	if (store_open(&cfg, &l->s, why, sizeof(why)) < 0)
		bench_die("%s", why);
	store_place_make(l->s, &id, &l->place);
	l->ns = store_ns_open(l->s, digest, 1, &l->epoch);
	make_memory(l);
}

void load_close(struct load *l)
{
	store_close(l->s);
	munmap(l->mem, 2ull * STORE_BENCH_DEPTH * l->page_bytes);
	samples_free(&l->lat);
}

static bool start_put(struct load *l, struct load_page *p)
{
	struct iovec v = { p->mem, l->page_bytes };
	struct store_key key;
	int error;

	key_of(l, l->next, &key);
	error = store_put(l->s, &key, &v, 1, &l->crc, p);
	if (error == -EAGAIN)
		return false;
	if (error)
		bench_die("a put was refused: %s", strerror(-error));
	l->next++;
	p->busy = true;
	p->put = true;
	return true;
}

static bool start_get(struct load *l, struct load_page *p, bool checked)
{
	struct iovec v = { p->mem, l->page_bytes };
	struct store_key key;
	int error = -ENOENT;

	for (unsigned tries = 0; error == -ENOENT && tries < 64; tries++) {
		key_of(l, l->first + random_next(&l->random) % (l->next - l->first), &key);
		error = checked ? store_get(l->s, &key, &v, 1, 0, p)
				: store_get_unchecked(l->s, &key, &v, 1, 0, p);
	}
	if (error)
		bench_die("a get was refused: %s", strerror(-error));
	p->busy = true;
	p->put = false;
	p->start_ns = clock_now_ns();
	return true;
}

static void take_report(struct load *l, const struct store_done *done, bool timed)
{
	struct load_page *p = done->user;

	if (done->status)
		bench_die("a transfer failed: %s", strerror(-done->status));
	p->busy = false;
	l->bytes[p->put] += l->page_bytes;
	if (!p->put && timed)
		samples_add(&l->lat, clock_now_ns() - p->start_ns);
}

/* Polls once; sleeps if there was nothing and `sleep` says so. */
static void turn(struct load *l, bool sleep, bool timed)
{
	struct store_done done[REPORTS];
	uint32_t n = store_poll(l->s, clock_now_ns(), done, REPORTS);

	for (uint32_t i = 0; i < n; i++)
		take_report(l, &done[i], timed);
	if (n == 0 && sleep)
		store_wait(l->s, WAIT_NS);
}

static bool anything_busy(const struct load *l)
{
	for (uint32_t i = 0; i < 2 * STORE_BENCH_DEPTH; i++)
		if (l->page[i].busy)
			return true;
	return false;
}

static void start_some(struct load *l, const struct load_slice_cfg *cfg)
{
	for (uint32_t i = 0; i < cfg->puts; i++)
		if (!l->page[i].busy)
			start_put(l, &l->page[i]);
	for (uint32_t i = 0; i < cfg->gets; i++)
		if (!l->page[STORE_BENCH_DEPTH + i].busy)
			start_get(l, &l->page[STORE_BENCH_DEPTH + i], cfg->checked);
}

void load_slice(struct load *l, const struct load_slice_cfg *cfg, struct store_slice *ret)
{
	const uint64_t cpu_start_ns = cpu_ns(), start_ns = clock_now_ns();
	uint64_t ns, moved;

	l->bytes[0] = l->bytes[1] = 0;
	do {
		start_some(l, cfg);
		turn(l, !cfg->spin, cfg->timed);
	} while (clock_now_ns() - start_ns < cfg->ns);
	ns = clock_now_ns() - start_ns;
	/* What was moved beside gets is told by l->bytes. */
	moved = cfg->gets ? l->bytes[0] : l->bytes[1];
	*ret = (struct store_slice){
		.gb_s = (double)moved / (double)ns,
		.cpu_s_gb = moved ? (double)(cpu_ns() - cpu_start_ns) / (double)moved : 0,
	};
	while (anything_busy(l))
		turn(l, true, false);
	l->first = l->next > l->capacity ? l->next - l->capacity : 0;
}

void load_fill(struct load *l)
{
	const struct load_slice_cfg cfg = { .puts = STORE_BENCH_DEPTH, .ns = 1 };
	struct store_stats st;
	struct store_slice slice;

	store_stats(l->s, &st);
	/* What is surely there: not the oldest eighth, nor the segments that are being filled. */
	l->capacity =
		(st.bytes - st.bytes / 8 - 4 * st.segment_bytes) / (l->page_bytes + FORMAT_UNIT);
	while (l->next < l->capacity)
		load_slice(l, &cfg, &slice);
}
