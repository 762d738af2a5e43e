/* SPDX-License-Identifier: Apache-2.0 */

/*
 * kvb-bench: the command line, and the supervisor.
 *
 * The benchmark runs in a child, the runner, which leads a process group of its own; the parent
 * does nothing but wait. It makes the temporary directory, passes the first SIGINT or SIGTERM on to
 * the runner (`hold` ends cleanly on it, the others just die), ends whatever is left of the group,
 * reaps it (it is a subreaper, so grandchildren come to it), and removes the directory. So a run
 * that fails, is interrupted or crashes leaves neither processes nor files.
 *
 * Exit codes: 0 measured, 1 failed, 2 bad arguments, 128 + n ended by signal n.
 */

#include <errno.h>
#include <ftw.h>
#include <getopt.h>
#include <stdarg.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cjson/cJSON.h>

#include "tools/kvb-bench/bench.h"

#define GRACE_MS 3000u /* for the broker's drain */

enum option_bits {
	TAKES_CLIENTS = 1,
	TAKES_KILLS = 2,
	TAKES_PAGES = 4,
	TAKES_GPU = 8,   /* --device, --quick */
	TAKES_PATH = 32, /* --path, --quick */
	OWN_BROKERS = 16 /* several, each with options of its own: no --socket, no --cpus */
};

static const struct bench {
	const char *name;
	int (*run)(const struct bench_options *, struct report *);
	unsigned takes;
	const char *what;
} benches[] = {
	{ "ring", bench_ring, 0,
	  "a NOP round trip, spinning and by wake-up, beside bare shared memory and futex" },
	{ "alloc", bench_alloc, TAKES_PAGES,
	  "ALLOC and FREE, ALLOC that evicts, and pages from a magazine" },
	{ "seal", bench_seal, TAKES_PAGES, "SEAL and RELEASE" },
	{ "lookup", bench_lookup, TAKES_PAGES, "LOOKUP of runs of 256 keys, and of a miss" },
	{ "grow", bench_grow, 0, "memory granted and given back, beside the bare system calls" },
	{ "churn", bench_churn, TAKES_KILLS,
	  "clients killed under load, and what is left of them" },
	{ "hold", bench_hold, TAKES_CLIENTS, "idle clients, attached until a signal" },
	{ "fair", bench_fair, 0, "latency beside a flood, and shares of equal clients" },
	{ "meta", bench_meta, 0, "bytes of the broker's tables a page" },
	{ "gpu", bench_gpu, TAKES_GPU | OWN_BROKERS,
	  "growth, copies, fences and kernels on a GPU, beside the driver alone" },
	{ "store", bench_store, TAKES_PATH | OWN_BROKERS,
	  "pages written to a store and read back, beside fio on the same file" },
};
#define BENCHES (sizeof(benches) / sizeof(benches[0]))

static void usage(FILE *to)
{
	fputs("usage: kvb-bench NAME [--json] [--socket PATH] [--cpus B,C] [OPTIONS]\n"
	      "\n"
	      "Measures a broker, each figure beside the floor of this machine.\n"
	      "\n",
	      to);
	for (unsigned i = 0; i < BENCHES; i++)
		fprintf(to, "  %-8s %s\n", benches[i].name, benches[i].what);
	fputs("\n"
	      "  --json         one JSON object, as the last line\n"
	      "  --socket PATH  measure the broker that runs there (default: a private one)\n"
	      "  --cpus B,C     CPUs of the private broker and of the clients (default: the first "
	      "two)\n"
	      "  --help         this text; kvb-bench NAME --help for one benchmark\n",
	      to);
}

static void usage_bench(const struct bench *b)
{
	printf("usage: kvb-bench %s [--json]%s%s%s%s%s%s\n\n%s.\n", b->name,
	       b->takes & OWN_BROKERS ? "" : " [--socket PATH] [--cpus B,C]",
	       b->takes & TAKES_CLIENTS ? " [--clients N]" : "",
	       b->takes & TAKES_KILLS ? " [--kills N]" : "",
	       b->takes & TAKES_PAGES ? " [--pages N]" : "",
	       b->takes & TAKES_GPU ? " [--device N] [--quick]" : "",
	       b->takes & TAKES_PATH ? " --path FILE [--quick]" : "", b->what);
	if (b->takes & TAKES_CLIENTS)
		puts("\n  --clients N    processes to attach, 1..1000 (default 64)");
	if (b->takes & TAKES_KILLS)
		puts("\n  --kills N      clients to kill, 1..1000000 (default 200)");
	if (b->takes & TAKES_PAGES)
		puts("\n  --pages N      pages of 256 B, 65536..16777216 (default 4194304)");
	if (b->takes & TAKES_GPU)
		puts("\n  --device N     as CUDA numbers GPUs here (default 0)\n"
		     "  --quick        small sizes, whatever the device: that it measures, not "
		     "what");
	if (b->takes & TAKES_PATH)
		puts("\n  --path FILE    a file to be made, and removed, on the disk to measure; 4 "
		     "GiB\n"
		     "  --quick        1 GiB, and few and short slices");
}

static void bad_arguments(const char *fmt, ...) __attribute__((noreturn, format(printf, 1, 2)));
static void bad_arguments(const char *fmt, ...)
{
	va_list ap;

	fputs("kvb-bench: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputs(" (try kvb-bench --help)\n", stderr);
	exit(2);
}

static uint32_t parse_number(const char *option, const char *text, uint32_t min, uint32_t max)
{
	unsigned long value;
	char *end;

	errno = 0;
	value = strtoul(text, &end, 10);
	if (errno != 0 || end == text || *end != '\0' || *text == '-' || value < min || value > max)
		bad_arguments("%s %s: a number from %u to %u is wanted", option, text, min, max);
	return (uint32_t)value;
}

static void parse_cpus(const char *text, struct bench_options *o)
{
	char tail;

	if (sscanf(text, "%d,%d%c", &o->cpu_broker, &o->cpu_client, &tail) != 2 ||
	    o->cpu_broker < 0 || o->cpu_client < 0)
		bad_arguments("--cpus %s: two CPU numbers are wanted, as in 0,1", text);
}

enum {
	OPT_JSON = 256,
	OPT_SOCKET,
	OPT_CPUS,
	OPT_CLIENTS,
	OPT_KILLS,
	OPT_PAGES,
	OPT_DEVICE,
	OPT_QUICK,
	OPT_PATH,
	OPT_HELP
};

static const struct option long_options[] = {
	{ "json", no_argument, NULL, OPT_JSON },
	{ "socket", required_argument, NULL, OPT_SOCKET },
	{ "cpus", required_argument, NULL, OPT_CPUS },
	{ "clients", required_argument, NULL, OPT_CLIENTS },
	{ "kills", required_argument, NULL, OPT_KILLS },
	{ "pages", required_argument, NULL, OPT_PAGES },
	{ "device", required_argument, NULL, OPT_DEVICE },
	{ "quick", no_argument, NULL, OPT_QUICK },
	{ "path", required_argument, NULL, OPT_PATH },
	{ "help", no_argument, NULL, OPT_HELP },
	{ NULL, 0, NULL, 0 },
};

/* An option that the benchmark would ignore is refused. */
static void need(const struct bench *b, unsigned bit, const char *option)
{
	if (!(b->takes & bit))
		bad_arguments("%s takes no %s", b->name, option);
}

/* The two CPUs of a benchmark that pins its broker and clients. */
static void settle_cpus(const struct bench *b, struct bench_options *o)
{
	const bool given = o->cpu_broker >= 0 || o->cpu_client >= 0;

	if (b->takes & OWN_BROKERS) {
		if (given)
			bad_arguments("%s takes no --cpus", b->name);
		return;
	}
	if (o->cpu_broker < 0)
		o->cpu_broker = cpu_allowed(0);
	if (o->cpu_client < 0)
		o->cpu_client = cpu_allowed(1);
	if (o->cpu_client < 0)
		bad_arguments("two CPUs are needed: the broker and its clients both spin");
}

static void take_option(int option, const struct bench *b, struct bench_options *o)
{
	switch (option) {
	case OPT_JSON:
		o->json = true;
		return;
	case OPT_SOCKET:
		if (b->takes & OWN_BROKERS)
			bad_arguments("%s takes no --socket: it starts brokers of its own",
				      b->name);
		o->socket = optarg;
		return;
	case OPT_CPUS:
		parse_cpus(optarg, o);
		return;
	case OPT_CLIENTS:
		need(b, TAKES_CLIENTS, "--clients");
		o->clients = parse_number("--clients", optarg, 1, 1000);
		return;
	case OPT_KILLS:
		need(b, TAKES_KILLS, "--kills");
		o->kills = parse_number("--kills", optarg, 1, 1000000);
		return;
	case OPT_PAGES:
		need(b, TAKES_PAGES, "--pages");
		o->pages = parse_number("--pages", optarg, 65536, 1u << 24);
		return;
	case OPT_DEVICE:
		need(b, TAKES_GPU, "--device");
		o->device = parse_number("--device", optarg, 0, 1023);
		return;
	case OPT_QUICK:
		need(b, TAKES_GPU | TAKES_PATH, "--quick");
		o->quick = true;
		return;
	case OPT_PATH:
		need(b, TAKES_PATH, "--path");
		o->path = optarg;
		return;
	case OPT_HELP:
		usage_bench(b);
		exit(0);
	default:
		exit(2); /* getopt has said why */
	}
}

static void parse_options(int argc, char **argv, const struct bench *b, struct bench_options *o)
{
	int c;

	optind = 2; /* behind the benchmark's name */
	while ((c = getopt_long(argc, argv, "", long_options, NULL)) != -1)
		take_option(c, b, o);
	if (optind < argc)
		bad_arguments("what is \"%s\"?", argv[optind]);
	settle_cpus(b, o);
}

/* ---- supervisor ---------------------------------------------------------------------------- */

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path) < 0 && errno != ENOENT ? -1 : 0;
}

static int run_bench(const struct bench *b, const struct bench_options *o)
{
	struct report r = { .root = cJSON_CreateObject(), .json = o->json };
	int status;

	if (r.root == NULL)
		bench_die("out of memory");
	report_text(&r, "bench", b->name);
	status = b->run(o, &r);
	report_print(&r);
	cJSON_Delete(r.root);
	return status;
}

/* Ends what is left of the runner's group, politely first, and reaps it. */
static void end_group(pid_t group)
{
	kill(-group, SIGTERM);
	for (unsigned ms = 0; ms < GRACE_MS; ms += 5) {
		pid_t pid;

		while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
			;
		if (pid < 0)
			return; /* no children at all */
		clock_sleep_ns(5 * 1000 * 1000);
	}
	kill(-group, SIGKILL);
	while (waitpid(-1, NULL, 0) > 0)
		;
}

/* Until the runner has ended; returns its wait status. Signals are passed on to it. */
static int wait_runner(pid_t runner, const sigset_t *set)
{
	int sig, status;

	for (;;) {
		if (sigwait(set, &sig) != 0)
			continue;
		if (sig != SIGCHLD)
			kill(runner, sig);
		if (waitpid(runner, &status, WNOHANG) == runner)
			return status;
	}
}

static int supervise(const struct bench *b, struct bench_options *o)
{
	const char *tmp = getenv("TMPDIR");
	char dir[64];
	sigset_t set, old;
	pid_t runner;
	int status;

	if (snprintf(dir, sizeof(dir), "%s/kvb-bench.XXXXXX",
		     tmp != NULL && strlen(tmp) < 32 ? tmp : "/tmp") < 0 ||
	    mkdtemp(dir) == NULL)
		bench_die("cannot make a temporary directory %s: %s", dir, strerror(errno));
	o->dir = dir;
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, &old);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	runner = fork();
	if (runner < 0)
		bench_die("fork: %s", strerror(errno));
	if (runner == 0) {
		setpgid(0, 0);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		sigprocmask(SIG_SETMASK, &old, NULL);
		exit(run_bench(b, o));
	}
	setpgid(runner, runner);
	status = wait_runner(runner, &set);
	end_group(runner);
	nftw(dir, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
	if (WIFSIGNALED(status))
		return 128 + WTERMSIG(status);
	return WEXITSTATUS(status);
}

int main(int argc, char **argv)
{
	struct bench_options o = {
		.clients = 64, .kills = 200, .pages = 4u << 20, .cpu_broker = -1, .cpu_client = -1
	};

	if (argc < 2)
		bad_arguments("which benchmark?");
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
		usage(stdout);
		return 0;
	}
	for (unsigned i = 0; i < BENCHES; i++) {
		if (strcmp(argv[1], benches[i].name) != 0)
			continue;
		parse_options(argc, argv, &benches[i], &o);
		return supervise(&benches[i], &o);
	}
	bad_arguments("there is no benchmark \"%s\"", argv[1]);
}
