/* SPDX-License-Identifier: Apache-2.0 */

/*
 * sim: plays histories of the core against its reference model.
 *
 *   sim --seeds A..B [--steps N]     plays each seed twice: the second time must go the same way
 * (I8) sim --seed S [--steps N] [--verbose] sim --random [--steps N]         one seed from the
 * clock, printed sim --sabotage [--seeds A..B]    breaks the state on purpose and wants it noticed
 *
 * The first history that fails ends the run: its seed, step and a line to play it again are
 * printed.
 */

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/sim/world.h"

#define STEPS 2000u

static struct world world; /* large: the model holds whole tables */

static void tell_replay(const struct world *w, uint64_t steps)
{
	printf("replay with: sim --seed %" PRIu64 " --steps %" PRIu64 " --verbose\n", w->seed,
	       steps);
}

/* An assertion of the core or a sanitizer's abort: say which history it was. */
static void on_abort(int sig)
{
	char line[128];
	int n = snprintf(line, sizeof(line),
			 "seed %" PRIu64 " step %" PRIu64 ": aborted (signal %d)\n", world.seed,
			 world.step, sig);

	if (write(STDERR_FILENO, line, (size_t)n) < 0)
		_exit(3);
	signal(sig, SIG_DFL);
	raise(sig);
}

static bool play(uint64_t seed, uint64_t steps)
{
	uint64_t trace;

	for (int turn = 0; turn < 2; turn++) {
		trace = world.trace;
		if (!world_run(&world, seed, steps)) {
			printf("seed %" PRIu64 " step %" PRIu64 ": %s\n", seed, world.step,
			       world.why);
			tell_replay(&world, steps);
			return false;
		}
	}
	if (trace != world.trace) {
		printf("seed %" PRIu64 ": I8: the second run went another way\n", seed);
		tell_replay(&world, steps);
		return false;
	}
	return true;
}

static bool parse_range(const char *text, uint64_t *ret_first, uint64_t *ret_last)
{
	return sscanf(text, "%" SCNu64 "..%" SCNu64, ret_first, ret_last) == 2 &&
	       *ret_first <= *ret_last;
}

static int usage(void)
{
	fputs("usage: sim --seeds A..B | --seed S | --random | --sabotage  [--steps N] "
	      "[--verbose]\n",
	      stderr);
	return 2;
}

int main(int argc, char **argv)
{
	uint64_t first = 1, last = 0, steps = STEPS;
	bool sabotage = false;
	uint64_t grants = 0, hits = 0, victims = 0, dups = 0, revoked = 0, reaped = 0;
	uint64_t demoted = 0, promoted = 0, failures = 0, stored = 0, fetched = 0, lost = 0;

	for (int i = 1; i < argc; i++) {
		const char *next = i + 1 < argc ? argv[i + 1] : "";
		if (!strcmp(argv[i], "--sabotage")) {
			sabotage = true;
		} else if (!strcmp(argv[i], "--verbose")) {
			world.verbose = true;
		} else if (!strcmp(argv[i], "--random")) {
			first = last = (uint64_t)time(NULL) * 1000003u + (uint64_t)getpid();
			printf("seed %" PRIu64 "\n", first);
		} else if (!strcmp(argv[i], "--seeds") && parse_range(next, &first, &last)) {
			i++;
		} else if (!strcmp(argv[i], "--seed") && sscanf(next, "%" SCNu64, &first) == 1) {
			last = first;
			i++;
		} else if (!strcmp(argv[i], "--steps") && sscanf(next, "%" SCNu64, &steps) == 1) {
			i++;
		} else {
			return usage();
		}
	}
	if (sabotage)
		return sabotage_run_all(&world);
	if (first > last)
		return usage();
	signal(SIGABRT, on_abort);
	for (uint64_t seed = first; seed <= last; seed++) {
		if (!play(seed, steps))
			return 1;
		grants += world.grants;
		hits += world.hits;
		victims += world.victims;
		dups += world.dups;
		revoked += world.revoked;
		reaped += world.reaped;
		demoted += world.demoted;
		promoted += world.promoted;
		failures += world.failures;
		stored += world.n.stored;
		fetched += world.n.fetched;
		lost += world.n.lost;
	}
	printf("%" PRIu64 " histories of %" PRIu64 " steps: %" PRIu64 " slabs granted, %" PRIu64
	       " revoked, %" PRIu64 " hits, %" PRIu64 " keys sealed twice, %" PRIu64
	       " pages evicted, %" PRIu64 " pages left by the dead, %" PRIu64
	       " written down, %" PRIu64 " brought up, %" PRIu64 " lost on their way, %" PRIu64
	       " stored, %" PRIu64 " fetched, %" PRIu64 " not there any more\n",
	       last - first + 1, steps, grants, revoked, hits, dups, victims, reaped, demoted,
	       promoted, failures, stored, fetched, lost);
	return 0;
}
