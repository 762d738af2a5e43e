/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * kvb-bench: what the broker costs, each figure beside the floor of the machine it ran on.
 *
 * A benchmark is a function that measures and adds named figures to a report. It runs in a process
 * of its own (the runner) below a supervisor, main.c, that owns the temporary directory and ends
 * every process left in the runner's group. So nothing in a benchmark has to clean up: whatever
 * goes wrong is bench_die(), and ^C leaves nothing behind.
 *
 * Machines are noisy and change speed for seconds at a time. A figure that is judged against a
 * floor is therefore measured in short slices that alternate with slices of the floor, on the same
 * CPUs.
 *
 * One thread a process. Times are nanoseconds of CLOCK_MONOTONIC.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "uapi/libkvbroker.h"

struct cJSON;
struct stats_segment;

/* ---- options and report (main.c, report.c) ------------------------------------------------- */

struct bench_options {
	bool json;
	const char *socket; /* NULL: start a private broker */
	uint32_t clients;   /* hold */
	uint32_t kills;     /* churn */
	uint32_t pages;     /* alloc, seal, lookup */
	uint32_t device;    /* gpu: which one */
	bool quick;         /* gpu, store: small sizes */
	const char *path;   /* store: of the file to make */
	int cpu_broker;     /* the two CPUs that everything is pinned to */
	int cpu_client;
	const char *dir; /* ours; removed at the end */
};

struct report {
	struct cJSON *root;
	bool json;
};

void bench_die(const char *fmt, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* A figure, kept to six significant digits unless it is a whole number. what: for people. */
void report_number(struct report *r, const char *key, double value, const char *what);
/* A figure that there is none of here, and why. */
void report_null(struct report *r, const char *key, const char *why);
void report_text(struct report *r, const char *key, const char *text);
/* An array of numbers. */
void report_numbers(struct report *r, const char *key, const double *value, unsigned n,
		    const char *what);
/* An array of objects made by the caller; takes ownership. */
void report_array(struct report *r, const char *key, struct cJSON *array, const char *what);
void report_print(const struct report *r);

int bench_ring(const struct bench_options *o, struct report *r);
int bench_alloc(const struct bench_options *o, struct report *r);
int bench_seal(const struct bench_options *o, struct report *r);
int bench_lookup(const struct bench_options *o, struct report *r);
int bench_grow(const struct bench_options *o, struct report *r);
int bench_churn(const struct bench_options *o, struct report *r);
int bench_hold(const struct bench_options *o, struct report *r);
int bench_fair(const struct bench_options *o, struct report *r);
int bench_meta(const struct bench_options *o, struct report *r);
int bench_gpu(const struct bench_options *o, struct report *r);
int bench_store(const struct bench_options *o, struct report *r);

/* ---- measuring (measure.c) ----------------------------------------------------------------- */

uint64_t clock_now_ns(void);
void clock_sleep_ns(uint64_t ns);
uint64_t
clock_cost_ns(void); /* of one clock_now_ns(); samples of single operations have it taken off */

struct samples {
	uint64_t *ns;
	size_t n, capacity;
};
void samples_add(struct samples *s, uint64_t ns);
double samples_percentile_ns(struct samples *s, double percent); /* sorts */
void samples_free(struct samples *s);

/* In a loop that spins: measured a little faster than a bare loop, so floors use it too. */
static inline void cpu_relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ __volatile__("yield");
#endif
}

void cpu_pin(int cpu);
int cpu_allowed(unsigned nth); /* the nth CPU this process may use, or -1 */

uint64_t random_next(uint64_t *state);
void random_shuffle_pages(uint64_t *state, kvb_page_t *pages, size_t n);
struct kvb_hash random_hash(uint64_t number); /* the key of that number, always the same */

/* ---- floors (floor.c) ---------------------------------------------------------------------- */

/* A peer process on `cpu` that answers on shared memory. */
struct floor;
struct floor *floor_open(int cpu);
struct floor *floor_close(struct floor *f);
/* `rounds` bare round trips, two processes spinning on two cache lines. */
void floor_spin(struct floor *f, struct samples *s, unsigned rounds);
/* The same by futex, `pause_ns` of sleep before each. */
void floor_futex(struct floor *f, struct samples *s, unsigned rounds, uint64_t pause_ns);

/* ---- the broker and its clients (broker.c) ------------------------------------------------- */

struct broker {
	pid_t pid;
	bool own;
	char socket[108];
	const struct stats_segment *stats;
	struct stats_segment *copy;
};

/*
 * Starts a private broker pinned to `cpu` (-1: not pinned) with `args` (NULL at the end) behind its
 * socket and state directory, or attaches to the one of --socket. Ready to serve on return.
 */
void broker_start(const struct bench_options *o, int cpu, const char *const *args,
		  struct broker *ret);
void broker_stop(struct broker *b);
/* The stats segment as of now: attaching as an admin makes the daemon publish. Either copy is valid
 * until the next call. */
const struct stats_segment *broker_stats(struct broker *b);
/* As last published: no message, at most 100 ms old while there is work. */
const struct stats_segment *broker_stats_seen(struct broker *b);
unsigned broker_fds(const struct broker *b);                /* open in the daemon */
uint64_t broker_memfd_mapped_bytes(const struct broker *b); /* of its address space */
uint64_t broker_memfd_largest_bytes(const struct broker *b);

struct kvb *client_connect(const struct broker *b, const struct kvb_params *params);

/* `n` idle clients, each a process, that last until held_release() or the end of this process. */
struct held {
	pid_t *pid;
	uint32_t n;
	int hold_fd;
};
void held_start(const struct broker *b, uint32_t n, struct held *ret);
void held_release(struct held *h);

/* ---- batches (batch.c) --------------------------------------------------------------------- */

/* A client with one space of small pages and one namespace. */
struct client {
	struct kvb *kvb;
	struct kvb_space *space;
	struct kvb_ns_info ns;
	uint8_t *operands;
	size_t operand_bytes;
};

#define BENCH_STRIDE_BYTES 256u
#define BENCH_BATCH 64u /* operands of an entry */
#define BENCH_DEPTH 16u /* entries in flight */

void client_open(const struct broker *b, const struct kvb_params *params,
		 const struct kvb_space_params *space, struct client *ret);
void client_close(struct client *c);
/* Grows the space to `pages` pages, mapped. */
void client_grow(struct client *c, uint64_t pages);

/* The next completion, by spinning alone. The caller says kvb_cqe_seen(). */
const struct kvb_cqe *client_spin_cqe(struct kvb *kvb);

/*
 * Operands through the ring, `per` an entry, up to `depth` entries in flight, waiting by spinning.
 * Returns operands done: n, or fewer for ALLOC when there is no more to be had; dies otherwise.
 */
uint64_t batch_alloc(struct client *c, kvb_page_t *ret, uint64_t n);
void batch_free(struct client *c, const kvb_page_t *pages, uint64_t n);
void batch_release(struct client *c, const kvb_page_t *pages, uint64_t n);
void batch_seal(struct client *c, const struct kvb_seal *seals, kvb_page_t *ret, uint64_t n);
void batch_lookup(struct client *c, const struct kvb_hash *hashes, kvb_page_t *ret, uint64_t n,
		  uint32_t per, uint32_t depth);

/* The whole broker and client of the benchmarks with millions of small pages. */
struct fixture {
	struct broker broker;
	struct client client;
	struct floor *floor;
	struct samples floor_ns;
	kvb_page_t *pages; /* room for all of them */
	uint32_t n;
	uint64_t random;
};
void fixture_open(const struct bench_options *o, struct fixture *ret);
void fixture_close(struct fixture *f);
void fixture_floor(struct fixture *f); /* one slice of the spin floor */
/* Seals pages[first..first+n) under keys first.. and releases them in the order of the array.
 * Returns nanoseconds spent sealing; *ret_release_ns those of releasing. */
uint64_t fixture_seal(struct fixture *f, uint32_t first, uint32_t n, uint64_t *ret_release_ns);
