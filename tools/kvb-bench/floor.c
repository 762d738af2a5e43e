/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Floors: what two processes of this machine need for a round trip with nothing in between.
 *
 * A peer is forked and pinned where the daemon runs. Between slices it sleeps in read(), so that it
 * takes nothing from what is measured; a slice begins with a command through its pipe. ping and
 * pong lie on cache lines of their own, each written by one side.
 *
 * The peer dies with this process.
 */

#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/kvb-bench/bench.h"

#define WARM_ROUNDS 2000u /* of a spin slice: the peer wakes, lines and predictors settle */

struct lines {
	uint32_t ping;
	uint32_t resv0[15 + 16]; /* an adjacent line may be prefetched with this one */
	uint32_t pong;
	uint32_t resv1[15 + 16];
};

struct command {
	uint32_t futex; /* else spin */
	uint32_t rounds;
	uint32_t first; /* ping of the first round */
};

struct floor {
	struct lines *lines;
	pid_t pid;
	int fd;
	uint32_t next;
};

static void futex_wait(uint32_t *word, uint32_t value)
{
	syscall(SYS_futex, word, FUTEX_WAIT, value, NULL, NULL, 0);
}

static void futex_wake(uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void await(uint32_t *word, uint32_t value, bool futex)
{
	uint32_t seen;

	while ((seen = __atomic_load_n(word, __ATOMIC_ACQUIRE)) != value)
		if (futex)
			futex_wait(word, seen);
		else
			cpu_relax();
}

static void peer_run(struct lines *l, int fd)
{
	struct command cmd;

	while (read(fd, &cmd, sizeof(cmd)) == (ssize_t)sizeof(cmd)) {
		for (uint32_t i = 0; i < cmd.rounds; i++) {
			await(&l->ping, cmd.first + i, cmd.futex);
			__atomic_store_n(&l->pong, cmd.first + i, __ATOMIC_RELEASE);
			if (cmd.futex)
				futex_wake(&l->pong);
		}
	}
}

struct floor *floor_open(int cpu)
{
	struct floor *f = calloc(1, sizeof(*f));
	int fds[2];

	if (f == NULL || pipe(fds) < 0)
		bench_die("cannot start the floor's peer: %s", strerror(errno));
	f->lines = mmap(NULL, sizeof(struct lines), PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (f->lines == MAP_FAILED)
		bench_die("cannot map the floor's memory: %s", strerror(errno));
	f->next = 1;
	f->pid = fork();
	if (f->pid < 0)
		bench_die("fork: %s", strerror(errno));
	if (f->pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(fds[1]);
		cpu_pin(cpu);
		peer_run(f->lines, fds[0]);
		_exit(0);
	}
	close(fds[0]);
	f->fd = fds[1];
	return f;
}

struct floor *floor_close(struct floor *f)
{
	close(f->fd);
	/* Clients forked meanwhile have a copy of the pipe, so its end alone may not be seen. */
	kill(f->pid, SIGKILL);
	waitpid(f->pid, NULL, 0);
	munmap(f->lines, sizeof(struct lines));
	free(f);
	return NULL;
}

static void begin(struct floor *f, bool futex, unsigned rounds)
{
	struct command cmd = { .futex = futex, .rounds = rounds, .first = f->next };

	if (write(f->fd, &cmd, sizeof(cmd)) != (ssize_t)sizeof(cmd))
		bench_die("the floor's peer has gone");
}

void floor_spin(struct floor *f, struct samples *s, unsigned rounds)
{
	uint64_t cost_ns = clock_cost_ns(), last_ns = clock_now_ns();

	begin(f, false, WARM_ROUNDS + rounds);
	for (unsigned i = 0; i < WARM_ROUNDS + rounds; i++) {
		uint64_t now_ns;

		__atomic_store_n(&f->lines->ping, f->next, __ATOMIC_RELEASE);
		await(&f->lines->pong, f->next, false);
		f->next++;
		now_ns = clock_now_ns();
		if (i >= WARM_ROUNDS)
			samples_add(s, now_ns - last_ns > cost_ns ? now_ns - last_ns - cost_ns : 0);
		last_ns = now_ns;
	}
}

void floor_futex(struct floor *f, struct samples *s, unsigned rounds, uint64_t pause_ns)
{
	begin(f, true, rounds);
	for (unsigned i = 0; i < rounds; i++) {
		uint64_t start_ns;

		clock_sleep_ns(pause_ns);
		start_ns = clock_now_ns();
		__atomic_store_n(&f->lines->ping, f->next, __ATOMIC_RELEASE);
		futex_wake(&f->lines->ping);
		await(&f->lines->pong, f->next, true);
		samples_add(s, clock_now_ns() - start_ns);
		f->next++;
	}
}
