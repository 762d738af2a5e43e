/* SPDX-License-Identifier: Apache-2.0 */

/*
 * gpu: what a GPU costs through the broker, each figure beside the driver with nobody in between.
 *
 * The run in order, each line a daemon of its own:
 *
 *   no host tier                growth, revocation; fences
 *   host tier                   copies down, up and both ways; kernels beside them
 *   host tier                   a chain in 32 regions
 *   host tier, no checksums     copies; kernels beside them
 *
 * A stage that fails leaves its figures unset and the run goes on: devices are scarce. The exit
 * status tells.
 *
 * See gpu.h for why every stage is a process. Sizes go by the memory of the device: one that is
 * small, or --quick, gets small ones, whose figures are of latencies rather than of bandwidths.
 */

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "broker/admin/stats.h"
#include "tools/kvb-bench/gpu.h"

#define MIB ((uint64_t)1 << 20)
#define GIB ((uint64_t)1 << 30)
#define LARGE_BYTES (24 * GIB) /* a device of so much, and more, has the sizes that count */
#define LEAST_BYTES (1 * GIB)
#define READY_NS (90ull * 1000 * 1000 * 1000)
#define TEXT_BYTES 128

/* Of the device, told by the first stage; and of the run. */
static struct about {
	char model[TEXT_BYTES];
	char driver[TEXT_BYTES];
	uint64_t bytes;
	bool failed; /* a stage has */
} * about;           /* shared */

void gpu_say(const char *fmt, ...)
{
	va_list ap;

	fputs("kvb-bench gpu: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
}

double gpu_gb_s(uint64_t bytes, double ns)
{
	return (double)bytes / ns;
}

double gpu_gib_s(uint64_t bytes, double ns)
{
	return (double)bytes / (double)GIB / (ns / 1e9);
}

uint32_t gpu_stats_device(const struct gpu_bench *b, const struct stats_segment *seg)
{
	for (uint32_t i = 0; i < seg->devices_n; i++) {
		if (seg->device[i].kind == KVB_DEVICE_CUDA &&
		    seg->device[i].ordinal == b->o->device)
			return i;
	}
	bench_die("the broker does not know cuda:%u", b->o->device);
}

/* ---- stages -------------------------------------------------------------------------------- */

static void *shared_memory(size_t bytes)
{
	void *mem = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (mem == MAP_FAILED)
		bench_die("mmap: %s", strerror(errno));
	return mem;
}

/* True: it ended well. A child that fails has said why. */
static bool run_child(struct gpu_bench *b, const char *what, void (*body)(struct gpu_bench *))
{
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid < 0)
		bench_die("fork: %s", strerror(errno));
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		body(b);
		_exit(0);
	}
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			bench_die("waitpid: %s", strerror(errno));
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return true;
	gpu_say("%s: failed, %s %d", what, WIFSIGNALED(status) ? "signal" : "status",
		WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	return false;
}

static void stage(struct gpu_bench *b, const char *what, void (*body)(struct gpu_bench *))
{
	uint64_t start_ns = clock_now_ns();

	if (run_child(b, what, body))
		gpu_say("%s: %.1f s", what, (double)(clock_now_ns() - start_ns) / 1e9);
	else
		about->failed = true;
}

/* ---- the device ---------------------------------------------------------------------------- */

/* The version of the driver's kernel module; what has none is no NVIDIA driver. */
static void module_version(char *ret, size_t bytes)
{
	FILE *f = fopen("/sys/module/nvidia/version", "r");

	if (f == NULL || fgets(ret, (int)bytes, f) == NULL)
		snprintf(ret, bytes, "no kernel module");
	ret[strcspn(ret, "\n")] = '\0';
	if (f != NULL)
		fclose(f);
}

static void tell_about(struct gpu_bench *b)
{
	char module[64];
	struct card c;
	size_t bytes;
	int version;

	card_open(b->o->device, &c);
	card_check("cuDeviceGetName",
		   c.api->device_get_name(about->model, sizeof(about->model), c.device));
	card_check("cuDeviceTotalMem", c.api->device_total_mem(&bytes, c.device));
	card_check("cuDriverGetVersion", c.api->driver_get_version(&version));
	module_version(module, sizeof(module));
	snprintf(about->driver, sizeof(about->driver), "%s, CUDA %d.%d", module, version / 1000,
		 version % 1000 / 10);
	about->bytes = bytes;
}

static struct gpu_plan plan_of(const struct bench_options *o, uint64_t bytes)
{
	if (bytes < LEAST_BYTES)
		bench_die("cuda:%u has %" PRIu64 " MiB, and at least %" PRIu64 " are needed",
			  o->device, bytes / MIB, LEAST_BYTES / MIB);
	if (o->quick || bytes < LARGE_BYTES)
		return (struct gpu_plan){
			.small = true,
			.grow_bytes = 512 * MIB,
			.move_bytes = 512 * MIB,
			.tier_bytes = 256 * MIB,
			.revoke_bytes = 256 * MIB,
			.set_bytes = 64 * MIB,
			.copy_bytes = 32 * MIB,
			.packed_slabs = 4,
			.chain_pages = 32,
			.rounds = 3,
			.fences = 20,
			.slice_ns = 20 * 1000 * 1000,
		};
	return (struct gpu_plan){
		.grow_bytes = 12 * GIB,
		.move_bytes = 6 * GIB,
		.tier_bytes = 10 * GIB,
		.revoke_bytes = 8 * GIB,
		.set_bytes = 4 * GIB,
		.copy_bytes = 1 * GIB,
		.packed_slabs = 32,
		.chain_pages = 256,
		.rounds = 7,
		.fences = 300,
		.slice_ns = 150 * 1000 * 1000,
	};
}

/* ---- the daemon ---------------------------------------------------------------------------- */

/* Until the tier below the device is whole and can be used. */
static void wait_tier(struct gpu_bench *b)
{
	uint64_t start_ns = clock_now_ns();

	for (;;) {
		const struct stats_segment *seg = broker_stats(&b->broker);
		const struct stats_device *d = &seg->device[gpu_stats_device(b, seg)];
		const struct stats_device *low =
			d->below < seg->devices_n ? &seg->device[d->below] : NULL;

		if (low == NULL)
			bench_die("cuda:%u has no host tier", b->o->device);
		if (d->below_ready && low->filled_bytes == low->capacity_bytes)
			break;
		if (clock_now_ns() - start_ns > READY_NS)
			bench_die("the host tier is not ready: %" PRIu64 " of %" PRIu64
				  " MiB filled, %s",
				  low->filled_bytes / MIB, low->capacity_bytes / MIB, d->below_why);
		clock_sleep_ns(20 * 1000 * 1000);
	}
	gpu_say("host tier: %.1f s to fill and page-lock",
		(double)(clock_now_ns() - start_ns) / 1e9);
}

static void daemon_start(struct gpu_bench *b, uint64_t device_bytes, uint64_t tier_bytes, bool sums)
{
	char device[64], tier[32], warm[32];
	const char *args[16];
	unsigned n = 0;

	snprintf(device, sizeof(device), "cuda:%u=%" PRIu64, b->o->device, device_bytes);
	snprintf(tier, sizeof(tier), "%" PRIu64, tier_bytes);
	snprintf(warm, sizeof(warm), "%" PRIu64, device_bytes / 2);
	args[n++] = "--device";
	args[n++] = device;
	args[n++] = "--drain";
	args[n++] = "100";
	if (tier_bytes > 0) {
		args[n++] = "--host-tier";
		args[n++] = tier;
	}
	if (!sums) {
		args[n++] = "--mover-sums";
		args[n++] = "0";
	}
	/* Growth is measured over memory that lies ready; the first slab of a shape does not. */
	args[n++] = "--warm";
	args[n++] = tier_bytes > 0 ? "0" : warm;
	args[n] = NULL;
	b->sums = sums;
	broker_start(b->o, -1, args, &b->broker);
	if (tier_bytes > 0)
		wait_tier(b);
}

/* ---- the run ------------------------------------------------------------------------------- */

static void stages_grow(struct gpu_bench *b)
{
	stage(b, "growth", gpu_grow);
	stage(b, "fences", gpu_fence);
}

static void stages_copy(struct gpu_bench *b)
{
	stage(b, "copies", gpu_move);
	stage(b, "kernels beside copies", gpu_beside);
}

static void stages_layer(struct gpu_bench *b)
{
	stage(b, "a chain in 32 regions", gpu_layer);
}

/* In a child: a daemon that cannot be started costs the figures that need it. */
static void group_run(struct gpu_bench *b)
{
	const struct gpu_group *g = b->group;

	daemon_start(b, g->device_bytes, g->tier_bytes, g->sums);
	g->stages(b);
	broker_stop(&b->broker);
}

static void measure(struct gpu_bench *b)
{
	const struct gpu_plan *p = &b->plan;
	const struct gpu_group groups[] = {
		{ "no host tier", p->grow_bytes, 0, true, stages_grow },
		{ "host tier", p->move_bytes, p->tier_bytes, true, stages_copy },
		{ "host tier", p->move_bytes, p->tier_bytes / 2, true, stages_layer },
		{ "host tier, no checksums", p->move_bytes, p->tier_bytes / 2, false,
		  stages_layer },
		{ "host tier, no checksums", p->move_bytes, p->tier_bytes, false, stages_copy },
	};
	struct bench_options o = *b->o;
	struct gpu_bench here;
	char dir[PATH_MAX];

	stage(b, "checksum", gpu_checksum);
	for (unsigned i = 0; i < sizeof(groups) / sizeof(groups[0]); i++) {
		/* A daemon that was left to die keeps the lock of its folder for a while. */
		snprintf(dir, sizeof(dir), "%s/%u", b->o->dir, i);
		if (mkdir(dir, 0700) < 0)
			bench_die("%s: %s", dir, strerror(errno));
		o.dir = dir;
		here = *b;
		here.o = &o;
		here.group = &groups[i];
		if (!run_child(&here, groups[i].what, group_run))
			about->failed = true;
	}
}

/* Figures of kernels are missing on a driver that runs none, others if a stage has failed. */
static void report_figure(struct report *r, const char *key, double value, const char *what)
{
	if (!isnan(value))
		report_number(r, key, value, what);
	else if (about->failed)
		report_null(r, key, "not measured: see what failed");
	else if (strncmp(key, "interference_", 13) == 0 || strncmp(key, "kernel_", 7) == 0)
		report_null(r, key, "this driver runs no kernels");
	else
		bench_die("%s was not measured", key);
}

static void report_about(struct gpu_bench *b, struct report *r)
{
	const time_t now = time(NULL);
	char date[32] = "";
	struct tm tm;

	if (gmtime_r(&now, &tm) != NULL)
		strftime(date, sizeof(date), "%Y-%m-%d", &tm);
	report_text(r, "device", about->model);
	report_text(r, "driver_version", about->driver);
	report_text(r, "date", date);
	report_text(r, "sizes", b->plan.small ? "small: speeds mean little" : "full");
}

int bench_gpu(const struct bench_options *o, struct report *r)
{
	struct gpu_bench b = { .o = o, .fig = shared_memory(sizeof(*b.fig)) };

	about = shared_memory(sizeof(*about));
#define GPU_FIGURE_NONE(key, what) b.fig->key = NAN;
	GPU_FIGURES(GPU_FIGURE_NONE)
#undef GPU_FIGURE_NONE
	if (!run_child(&b, "the device", tell_about))
		exit(1);
	b.plan = plan_of(o, about->bytes);
	gpu_say("cuda:%u, %s, %.0f GiB, %s", o->device, about->model,
		(double)about->bytes / (double)GIB, about->driver);
	measure(&b);
	report_about(&b, r);
#define GPU_FIGURE_TELL(key, what) report_figure(r, #key, b.fig->key, what);
	GPU_FIGURES(GPU_FIGURE_TELL)
#undef GPU_FIGURE_TELL
	return about->failed ? 1 : 0;
}
