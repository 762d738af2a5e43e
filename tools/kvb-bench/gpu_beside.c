/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What an engine pays that runs kernels while the mover copies for somebody else, flat out and both
 * ways.
 *
 *   kernels  a process that launches kernels of its own when it is told to, and times them
 *   load     a process that has pages go down and come up for as long as it is told to
 *
 * Slices alone and slices beside the load alternate; the figure is the median of the one over the
 * median of the other. What the mover moved during the slices beside is told too: a mover that
 * stands still slows nothing down.
 *
 * Over a driver that runs no kernels only the load is run, and the figures of kernels are not
 * there.
 */

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/kvb-bench/gpu.h"

#define POLL_NS (100ull * 1000)
#define SETTLE_NS (20ull * 1000 * 1000)
#define WAIT_NS (60ull * 1000 * 1000 * 1000)

enum { NOT_YET = 0, READY, NO_KERNELS };

struct shared {
	/* kernels */
	uint32_t kernels;         /* NOT_YET, READY, NO_KERNELS */
	uint32_t asked, answered; /* slices */
	uint32_t kind;
	double launch_ns;
	/* load */
	uint32_t load; /* NOT_YET, READY */
	uint32_t on, busy;
	uint64_t moved_bytes, moving_ns;
};

struct beside {
	struct gpu_bench *bench;
	struct shared *shared;
	pid_t kernels, load;
	struct samples alone[KERNEL_KINDS], next_to[KERNEL_KINDS];
};

static uint32_t get(const uint32_t *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static void set(uint32_t *word, uint32_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
}

/* ---- the two processes --------------------------------------------------------------------- */

static void kernels_main(struct gpu_bench *b, struct shared *s)
{
	struct kernels *k;
	struct card card;

	card_open(b->o->device, &card);
	k = kernels_open(&card, b->plan.copy_bytes / 2);
	set(&s->kernels, k != NULL ? READY : NO_KERNELS);
	if (k == NULL)
		return;
	for (uint32_t n = 1;; n++) {
		while (get(&s->asked) != n)
			clock_sleep_ns(POLL_NS);
		s->launch_ns = kernels_run_ns(k, s->kind, b->plan.slice_ns);
		set(&s->answered, n);
	}
}

static void load_main(struct gpu_bench *b, struct shared *s)
{
	struct card card;
	struct rig r;

	card_open(b->o->device, &card);
	rig_open(b, 1, GPU_PACKED_STRIDE, b->plan.set_bytes / 2, &r);
	rig_warm(b, &r, 2 * r.n);
	set(&s->load, READY);
	for (;;) {
		uint64_t ns;

		set(&s->busy, get(&s->on));
		if (!get(&s->on)) {
			clock_sleep_ns(POLL_NS);
			continue;
		}
		ns = clock_now_ns();
		rig_exchange_ns(&r);
		s->moving_ns += clock_now_ns() - ns; /* what is between two copies too */
		__atomic_add_fetch(&s->moved_bytes, 2 * (r.n / 2) * r.page_bytes, __ATOMIC_RELEASE);
	}
}

static pid_t start(struct gpu_bench *b, struct shared *s,
		   void (*body)(struct gpu_bench *, struct shared *))
{
	pid_t pid = fork();

	if (pid < 0)
		bench_die("fork: %s", strerror(errno));
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		body(b, s);
		_exit(0);
	}
	return pid;
}

/* Until the word has the value, as long as both processes live. */
static void wait_for(struct beside *b, const uint32_t *word, uint32_t value, const char *what)
{
	uint64_t until_ns = clock_now_ns() + WAIT_NS;

	while (get(word) != value) {
		if (waitpid(-1, NULL, WNOHANG) > 0)
			bench_die("%s: a process of it ended", what);
		if (clock_now_ns() > until_ns)
			bench_die("%s: it takes too long", what);
		clock_sleep_ns(POLL_NS);
	}
}

/* ---- slices -------------------------------------------------------------------------------- */

static double slice(struct beside *b, enum kernel_kind kind)
{
	struct shared *s = b->shared;

	s->kind = kind;
	set(&s->asked, s->asked + 1);
	wait_for(b, &s->answered, s->asked, "kernels");
	return s->launch_ns;
}

static void slices(struct beside *b, enum kernel_kind kind)
{
	struct shared *s = b->shared;

	samples_add(&b->alone[kind], (uint64_t)slice(b, kind));
	set(&s->on, 1);
	wait_for(b, &s->busy, 1, "load");
	clock_sleep_ns(SETTLE_NS);
	samples_add(&b->next_to[kind], (uint64_t)slice(b, kind));
	set(&s->on, 0);
	wait_for(b, &s->busy, 0, "load");
	clock_sleep_ns(SETTLE_NS);
}

/* The load and nothing beside it, until it has moved something. */
static void load_alone(struct beside *b)
{
	uint64_t until_ns = clock_now_ns() + WAIT_NS;

	set(&b->shared->on, 1);
	while (__atomic_load_n(&b->shared->moved_bytes, __ATOMIC_ACQUIRE) == 0) {
		if (clock_now_ns() > until_ns)
			bench_die("the mover moves nothing");
		clock_sleep_ns(POLL_NS);
	}
	set(&b->shared->on, 0);
	wait_for(b, &b->shared->busy, 0, "load");
}

static double worst(double a, double b)
{
	return isnan(a) || b > a ? b : a;
}

static void tell(struct beside *b)
{
	struct gpu_figures *f = b->bench->fig;
	double alone[KERNEL_KINDS], beside[KERNEL_KINDS], memory, compute;

	for (unsigned i = 0; i < KERNEL_KINDS; i++) {
		alone[i] = samples_percentile_ns(&b->alone[i], 50);
		beside[i] = samples_percentile_ns(&b->next_to[i], 50);
	}
	memory = beside[KERNEL_MEMORY] / alone[KERNEL_MEMORY];
	compute = beside[KERNEL_COMPUTE] / alone[KERNEL_COMPUTE];
	f->interference_memory = worst(f->interference_memory, memory);
	f->interference_compute = worst(f->interference_compute, compute);
	if (!b->bench->sums) {
		f->interference_memory_unchecked = memory;
		f->interference_compute_unchecked = compute;
		f->kernel_memory_beside_unchecked_us = beside[KERNEL_MEMORY] / 1e3;
		f->kernel_compute_beside_unchecked_us = beside[KERNEL_COMPUTE] / 1e3;
		return;
	}
	f->interference_memory_checked = memory;
	f->interference_compute_checked = compute;
	f->kernel_memory_alone_us = alone[KERNEL_MEMORY] / 1e3;
	f->kernel_memory_beside_us = beside[KERNEL_MEMORY] / 1e3;
	f->kernel_compute_alone_us = alone[KERNEL_COMPUTE] / 1e3;
	f->kernel_compute_beside_us = beside[KERNEL_COMPUTE] / 1e3;
}

/* READY, or NO_KERNELS. */
static uint32_t start_kernels(struct beside *b)
{
	uint32_t state;

	b->kernels = start(b->bench, b->shared, kernels_main);
	while ((state = get(&b->shared->kernels)) == NOT_YET) {
		if (waitpid(b->kernels, NULL, WNOHANG) > 0 && !get(&b->shared->kernels))
			bench_die("the process that runs kernels ended");
		clock_sleep_ns(POLL_NS);
	}
	if (state == NO_KERNELS)
		waitpid(b->kernels, NULL, 0);
	return state;
}

void gpu_beside(struct gpu_bench *bench)
{
	struct beside b = { .bench = bench };
	bool kernels;

	b.shared = mmap(NULL, sizeof(*b.shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
			-1, 0);
	if (b.shared == MAP_FAILED)
		bench_die("mmap: %s", strerror(errno));
	kernels = start_kernels(&b) == READY;
	b.load = start(bench, b.shared, load_main);
	wait_for(&b, &b.shared->load, READY, "load");
	if (kernels) {
		for (uint32_t round = 0; round < bench->plan.rounds; round++)
			for (unsigned kind = 0; kind < KERNEL_KINDS; kind++)
				slices(&b, kind);
		tell(&b);
		kill(b.kernels, SIGKILL);
		waitpid(b.kernels, NULL, 0);
	} else {
		load_alone(&b);
	}
	if (bench->sums)
		bench->fig->interference_mover_gb_s =
			gpu_gb_s(b.shared->moved_bytes, (double)b.shared->moving_ns);
	kill(b.load, SIGKILL);
	waitpid(b.load, NULL, 0);
}
