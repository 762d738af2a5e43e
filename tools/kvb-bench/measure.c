/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Clock, samples, CPUs and random numbers of the benchmarks.
 *
 * A sample of one operation is the difference of two clock readings, so it contains one reading of
 * the clock; clock_cost_ns() is taken off where operations are timed singly. It matters only for
 * what takes about as long as the clock itself, and taking it off makes ratios to a floor stricter.
 */

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tools/kvb-bench/bench.h"

#define CLOCK_GROUPS 200u
#define CLOCK_READINGS 100u

uint64_t clock_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void clock_sleep_ns(uint64_t ns)
{
	struct timespec ts = { .tv_sec = (time_t)(ns / 1000000000u),
			       .tv_nsec = (long)(ns % 1000000000u) };

	while (nanosleep(&ts, &ts) < 0 && errno == EINTR)
		;
}

/* The cheapest of many groups: a mean would count whatever else ran meanwhile as the clock's. */
uint64_t clock_cost_ns(void)
{
	static uint64_t cost_ns;
	uint64_t best_ns = UINT64_MAX;

	for (unsigned group = 0; cost_ns == 0 && group < CLOCK_GROUPS; group++) {
		uint64_t start_ns = clock_now_ns(), ns;

		for (unsigned i = 1; i < CLOCK_READINGS; i++)
			clock_now_ns();
		ns = (clock_now_ns() - start_ns) / CLOCK_READINGS;
		if (ns < best_ns)
			best_ns = ns;
	}
	if (cost_ns == 0)
		cost_ns = best_ns;
	return cost_ns;
}

void samples_add(struct samples *s, uint64_t ns)
{
	if (s->n == s->capacity) {
		s->capacity = s->capacity ? s->capacity * 2 : 65536;
		s->ns = realloc(s->ns, s->capacity * sizeof(*s->ns));
		if (s->ns == NULL)
			bench_die("out of memory for samples");
	}
	s->ns[s->n++] = ns;
}

static int compare_ns(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

double samples_percentile_ns(struct samples *s, double percent)
{
	size_t i;

	if (s->n == 0)
		bench_die("nothing was measured");
	qsort(s->ns, s->n, sizeof(*s->ns), compare_ns);
	i = (size_t)((double)s->n * percent / 100.0);
	return (double)s->ns[i < s->n ? i : s->n - 1];
}

void samples_free(struct samples *s)
{
	free(s->ns);
	*s = (struct samples){ 0 };
}

void cpu_pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((unsigned)cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set) < 0)
		bench_die("cannot pin to CPU %d: %s (see --cpus)", cpu, strerror(errno));
}

int cpu_allowed(unsigned nth)
{
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set) < 0)
		return -1;
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET((unsigned)cpu, &set) && nth-- == 0)
			return cpu;
	return -1;
}

static uint64_t mix(uint64_t x)
{
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

uint64_t random_next(uint64_t *state)
{
	*state += 0x9e3779b97f4a7c15ull;
	return mix(*state);
}

void random_shuffle_pages(uint64_t *state, kvb_page_t *pages, size_t n)
{
	for (size_t i = n; i > 1; i--) {
		size_t j = (size_t)(random_next(state) % i);
		kvb_page_t page = pages[j];

		pages[j] = pages[i - 1];
		pages[i - 1] = page;
	}
}

struct kvb_hash random_hash(uint64_t number)
{
	return (struct kvb_hash){ .w = { mix(number * 2 + 1), mix(number * 2 + 2) } };
}
