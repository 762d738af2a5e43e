/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The store beside fio on the same file, the same depth and sizes: slices of both alternate, and
 * their order turns with every round. fio has two slices a round, which gives fio against fio: what
 * the noise of the machine allows.
 *
 * Ours are store_put() and store_get() of registered memory, checksums given and not verified;
 * with verification on, reads are told as ours_checked_gb_s. fio writes in order and reads at
 * random; it writes no descriptors, keeps no index and flushes nothing.
 */

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cjson/cJSON.h>

#include "broker/store/format.h"
#include "tools/kvb-bench/store.h"

#define ROUNDS_MAX 64u
#define TABLE_PAGE_BYTES 4096u

struct store_plan {
	uint64_t half_bytes; /* of the file */
	uint64_t slice_ns;
	uint32_t rounds;
};

static const struct store_plan whole = { 2ull << 30, 1000000000ull, 15 };
static const struct store_plan quick = { 512ull << 20, 250000000ull, 3 };
static const uint32_t sizes[] = { 64u << 10, 256u << 10, 1u << 20, 2u << 20 };
#define SIZES (sizeof(sizes) / sizeof(sizes[0]))

struct store_bench {
	const struct store_plan *plan;
	const char *path;
	struct fio fio;
	double cpu_ours, cpu_fio; /* sums of medians */
	double cpu_checked, cpu_unchecked;
	double write_gb_s; /* of 64 KiB, alone */
};

static const char *made_path; /* removed at exit, whatever happens */

static void remove_file(void)
{
	unlink(made_path);
}

static void make_file(struct store_bench *b)
{
	const size_t step = 4u << 20;
	int fd = open(b->path, O_RDWR | O_CREAT | O_EXCL | O_DIRECT | O_CLOEXEC, 0600);
	char *mem;

	if (fd < 0)
		bench_die("%s: %s (--path wants a file that is not there yet, on the disk to "
			  "measure)",
			  b->path, strerror(errno));
	made_path = b->path;
	atexit(remove_file);
	if (posix_memalign((void **)&mem, 4096, step))
		bench_die("out of memory");
	memset(mem, 0, step);
	/* Written once, so that neither side pays for blocks that were never written. */
	for (uint64_t at = 0; at < 2 * b->plan->half_bytes; at += step)
		if (pwrite(fd, mem, step, (off_t)at) != (ssize_t)step)
			bench_die("%s: %s", b->path, errno ? strerror(errno) : "a short write");
	fsync(fd);
	close(fd);
	free(mem);
}

/* ---- throughput ---------------------------------------------------------------------------- */

static int compare(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double median(double *v, uint32_t n)
{
	qsort(v, n, sizeof(*v), compare);
	return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

struct rounds {
	double ours[ROUNDS_MAX], checked[ROUNDS_MAX], fio[2][ROUNDS_MAX], both[2 * ROUNDS_MAX];
	double cpu_ours[ROUNDS_MAX], cpu_checked[ROUNDS_MAX], cpu_fio[2 * ROUNDS_MAX];
	uint32_t n;
};

static void ours(struct store_bench *b, struct load *l, bool write, bool checked, double *ret_gb_s,
		 double *ret_cpu)
{
	const struct load_slice_cfg cfg = { .gets = write ? 0 : STORE_BENCH_DEPTH,
					    .puts = write ? STORE_BENCH_DEPTH : 0,
					    .ns = b->plan->slice_ns,
					    .checked = checked };
	struct store_slice slice;

	load_slice(l, &cfg, &slice);
	*ret_gb_s = slice.gb_s;
	*ret_cpu = slice.cpu_s_gb;
}

static void round_of(struct store_bench *b, struct load *l, bool write, struct rounds *r)
{
	const uint32_t n = r->n++;
	struct store_slice slice;

	for (uint32_t i = 0; i < 3; i++) {
		const uint32_t who = n % 2 ? 2 - i : i; /* ours, fio, fio and back */

		if (who == 0) {
			ours(b, l, write, false, &r->ours[n], &r->cpu_ours[n]);
			continue;
		}
		fio_slice(&b->fio, write, l->page_bytes, STORE_BENCH_DEPTH, &slice);
		r->fio[who - 1][n] = r->both[2 * n + who - 1] = slice.gb_s;
		r->cpu_fio[2 * n + who - 1] = slice.cpu_s_gb;
	}
	if (!write)
		ours(b, l, false, true, &r->checked[n], &r->cpu_checked[n]);
}

static void direction(struct store_bench *b, struct load *l, bool write, cJSON *results)
{
	struct rounds r = { 0 };
	cJSON *o = cJSON_CreateObject();
	double ours_gb_s, fio_gb_s;

	while (r.n < b->plan->rounds)
		round_of(b, l, write, &r);
	ours_gb_s = median(r.ours, r.n);
	fio_gb_s = median(r.both, 2 * r.n);
	b->cpu_ours += median(r.cpu_ours, r.n);
	b->cpu_fio += median(r.cpu_fio, 2 * r.n);
	cJSON_AddNumberToObject(o, "bytes", l->page_bytes);
	cJSON_AddStringToObject(o, "dir", write ? "write" : "read");
	cJSON_AddNumberToObject(o, "ours_gb_s", ours_gb_s);
	cJSON_AddNumberToObject(o, "fio_gb_s", fio_gb_s);
	cJSON_AddNumberToObject(o, "ratio", ours_gb_s / fio_gb_s);
	cJSON_AddNumberToObject(o, "fio_self_ratio", median(r.fio[0], r.n) / median(r.fio[1], r.n));
	if (!write) {
		cJSON_AddNumberToObject(o, "ours_checked_gb_s", median(r.checked, r.n));
		b->cpu_checked += median(r.cpu_checked, r.n);
		b->cpu_unchecked += median(r.cpu_ours, r.n);
	} else if (l->page_bytes == sizes[0]) {
		b->write_gb_s = ours_gb_s;
	}
	cJSON_AddItemToArray(results, o);
}

/* ---- latency ------------------------------------------------------------------------------- */

static double ours_latency_us(struct store_bench *b, struct load *l, uint32_t puts, double percent)
{
	const struct load_slice_cfg cfg = {
		.gets = 1, .puts = puts, .ns = b->plan->slice_ns / 2, .spin = true, .timed = true
	};
	struct store_slice slice;
	double us;

	load_slice(l, &cfg, &slice);
	us = samples_percentile_ns(&l->lat, percent) / 1e3;
	samples_free(&l->lat);
	return us;
}

static void latency(struct store_bench *b, struct load *l, struct report *r)
{
	const uint32_t rounds = (b->plan->rounds + 1) / 2;
	double ours_us[ROUNDS_MAX], fio_us[ROUNDS_MAX], alone[ROUNDS_MAX], beside[ROUNDS_MAX];
	double rate[ROUNDS_MAX];

	for (uint32_t i = 0; i < rounds; i++) {
		struct store_slice slice;

		ours_us[i] = ours_latency_us(b, l, 0, 50);
		fio_slice(&b->fio, false, sizes[0], 1, &slice);
		fio_us[i] = slice.p50_us;
		alone[i] = ours_latency_us(b, l, 0, 99);
		beside[i] = ours_latency_us(b, l, STORE_BENCH_DEPTH, 99);
		rate[i] = (double)l->bytes[1] / ((double)b->plan->slice_ns / 2) / b->write_gb_s;
	}
	report_number(r, "read_us_p50", median(ours_us, rounds), "us, 64 KiB at depth 1, spinning");
	report_number(r, "fio_read_us_p50", median(fio_us, rounds), "us");
	report_number(r, "added_us_p50", median(ours_us, rounds) - median(fio_us, rounds), "us");
	report_number(r, "p99_alone_us", median(alone, rounds), "us");
	report_number(r, "p99_under_writeback_us", median(beside, rounds), "us");
	report_number(r, "p99_ratio_under_writeback",
		      median(beside, rounds) / median(alone, rounds), "x alone");
	report_number(r, "writeback_rate_ratio", median(rate, rounds), "x writes alone");
}

/* ---- rebuild ------------------------------------------------------------------------------- */

/* The ends of the segments, as large as a full table is, one behind the other. */
static double bare_footers_ns(const struct store_bench *b, const struct store_stats *st)
{
	const uint32_t pages = (uint32_t)(st->pages * st->segment_bytes / st->bytes_used);
	const size_t bytes = (size_t)format_tail_units(pages) * FORMAT_UNIT;
	int fd = open(b->path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	uint64_t start_ns = clock_now_ns();
	char *mem;

	if (fd < 0 || posix_memalign((void **)&mem, 4096, bytes))
		bench_die("%s: %s", b->path, strerror(errno));
	for (uint64_t at = FORMAT_HEAD_BYTES + st->segment_bytes; at <= st->bytes;
	     at += st->segment_bytes)
		if (pread(fd, mem, bytes, (off_t)(at - bytes)) != (ssize_t)bytes)
			bench_die("%s: %s", b->path, strerror(errno));
	start_ns = clock_now_ns() - start_ns;
	close(fd);
	free(mem);
	return (double)start_ns;
}

static void rebuild(struct store_bench *b, struct report *r)
{
	struct store_cfg cfg = { .part = { { b->path, b->plan->half_bytes } },
				 .parts = 1,
				 .pages_max = b->plan->half_bytes / TABLE_PAGE_BYTES };
	const uint32_t rounds = b->plan->rounds < 5 ? b->plan->rounds : 5;
	double ns[ROUNDS_MAX], bare_ns[ROUNDS_MAX];
	struct store_stats st;
	struct load l;

	load_open(&l, b->path, b->plan->half_bytes, TABLE_PAGE_BYTES);
	load_fill(&l);
	load_close(&l);
	for (uint32_t i = 0; i < rounds; i++) {
		struct store *s;
		char why[256];

		if (store_open(&cfg, &s, why, sizeof(why)) < 0)
			bench_die("%s", why);
		store_stats(s, &st);
		store_close(s);
		ns[i] = (double)st.index_ns;
		bare_ns[i] = bare_footers_ns(b, &st);
	}
	report_number(r, "rebuild_entries", (double)st.pages, "pages found");
	report_number(r, "rebuild_entries_per_s", (double)st.pages / median(ns, rounds) * 1e9,
		      "entries/s");
	report_number(r, "rebuild_ratio", median(bare_ns, rounds) / median(ns, rounds),
		      "x reading the footers alone");
	report_number(r, "index_bytes_per_page", (double)st.index_bytes / (double)st.pages_max,
		      "B, of the pages there is room for");
}

int bench_store(const struct bench_options *o, struct report *r)
{
	struct store_bench b = { .plan = o->quick ? &quick : &whole, .path = o->path };
	cJSON *results = cJSON_CreateArray();
	struct load l;

	if (!o->path)
		bench_die("--path FILE is wanted: a file to be made on the disk to measure");
	b.fio = (struct fio){ .path = b.path,
			      .offset = b.plan->half_bytes,
			      .bytes = b.plan->half_bytes,
			      .slice_ns = b.plan->slice_ns };
	make_file(&b);
	for (unsigned i = 0; i < SIZES; i++) {
		load_open(&l, b.path, b.plan->half_bytes, sizes[i]);
		load_fill(&l);
		direction(&b, &l, true, results);
		direction(&b, &l, false, results);
		if (i == 0)
			latency(&b, &l, r);
		load_close(&l);
	}
	report_array(r, "results", results, "GB/s");
	report_number(r, "cpu_ratio", b.cpu_ours / b.cpu_fio, "x fio's CPU a byte");
	report_number(r, "cpu_ratio_checked", b.cpu_checked / b.cpu_unchecked,
		      "x ours, reads verified");
	rebuild(&b, r);
	return 0;
}
