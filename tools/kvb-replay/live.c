/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Live replay, the parent: starts the clients, starts the clock, waits, adds up.
 *
 * It holds the ticket until every client is connected and has its memory, so that no request runs
 * before that and none of it is timed. The first client comes alone, because it asks for the memory
 * that the others then join.
 *
 * Signals are taken in one place, sigtimedwait(): SIGINT and SIGTERM once let the requests under
 * way finish and report what was done; a second one kills the clients. A client that ends badly
 * stops the others. Clients die with their parent.
 */

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tools/kvb-replay/live.h"
#include "uapi/kvbroker.h"

#define SETUP_LOOK_NS (2ull * 1000 * 1000)
#define PROGRESS_NS (200ull * 1000 * 1000)

struct live {
	const struct replay_options *o;
	const struct trace *t;
	struct live_shared *shared;
	sigset_t signals;
	pid_t pid[REPLAY_CLIENTS_MAX]; /* 0: ended, or not started */
	uint32_t running;
	uint32_t interrupts;
	bool terminal;
	enum replay_exit code; /* of the first that ended badly */
};

uint64_t live_clock_ns(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

const char *live_device_name(const struct replay_options *o)
{
	return o->device_kind == KVB_DEVICE_CUDA ? "cuda" : "host";
}

static void stop(struct live *l)
{
	__atomic_store_n(&l->shared->stop, 1, __ATOMIC_RELAXED);
}

/* ---- children ------------------------------------------------------------------------------ */

static bool start_client(struct live *l, uint32_t index)
{
	pid_t parent = getpid();
	pid_t pid = fork();
	sigset_t term;

	if (pid < 0) {
		replay_say("starting client %" PRIu32 ": %s", index, strerror(errno));
		return false;
	}
	if (pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(REPLAY_FAILED);
		(void)sigemptyset(&term);
		(void)sigaddset(&term, SIGTERM);
		(void)sigprocmask(SIG_UNBLOCK, &term, NULL);
		_exit((int)client_main(l->o, l->t, l->shared, index));
	}
	l->pid[index] = pid;
	l->running++;
	return true;
}

static void note_end(struct live *l, uint32_t index, int status)
{
	enum replay_exit code = REPLAY_FAILED;

	if (WIFEXITED(status)) {
		code = (enum replay_exit)WEXITSTATUS(status);
	} else if (WIFSIGNALED(status)) {
		replay_say("client %" PRIu32 " was killed by signal %d (%s)", index,
			   WTERMSIG(status), strsignal(WTERMSIG(status)));
	}
	if (code != REPLAY_OK) {
		stop(l);
		if (l->code == REPLAY_OK)
			l->code = code;
	}
}

static void reap(struct live *l)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		for (uint32_t i = 0; i < l->o->clients; i++) {
			if (l->pid[i] == pid) {
				l->pid[i] = 0;
				l->running--;
				note_end(l, i, status);
			}
		}
	}
}

/* Waits for a child's end or a signal to us, at most timeout_ns, and acts on it. */
static void wait_some(struct live *l, uint64_t timeout_ns)
{
	struct timespec timeout = { .tv_nsec = (long)timeout_ns };
	int signal = sigtimedwait(&l->signals, NULL, &timeout);

	if (signal == SIGINT || signal == SIGTERM) {
		stop(l);
		if (l->interrupts++ > 0) {
			for (uint32_t i = 0; i < l->o->clients; i++)
				if (l->pid[i] > 0)
					(void)kill(l->pid[i], SIGKILL);
		}
	}
	reap(l);
}

/* Until `clients` clients are ready; false when it will not come to that. */
static bool wait_ready(struct live *l, uint32_t clients)
{
	while (__atomic_load_n(&l->shared->ready, __ATOMIC_ACQUIRE) < clients) {
		if (l->code != REPLAY_OK || l->interrupts > 0)
			return false;
		wait_some(l, SETUP_LOOK_NS);
	}
	return true;
}

static bool start_clients(struct live *l)
{
	if (!start_client(l, 0) || !wait_ready(l, 1))
		return false;
	for (uint32_t i = 1; i < l->o->clients; i++)
		if (!start_client(l, i))
			return false;
	return wait_ready(l, l->o->clients);
}

/* ---- progress ------------------------------------------------------------------------------ */

static void show_progress(const struct live *l)
{
	enum { WIDTH = 40 };
	static const char BAR[WIDTH + 1] = "########################################";
	uint32_t done = __atomic_load_n(&l->shared->done, __ATOMIC_RELAXED);
	int filled = l->t->requests ? (int)((uint64_t)done * WIDTH / l->t->requests) : WIDTH;

	if (l->terminal) {
		(void)fprintf(stderr, "\r[%-*.*s] %" PRIu32 " of %zu requests, %.0f s ", WIDTH,
			      filled, BAR, done, l->t->requests,
			      (double)(live_clock_ns() - l->shared->start_ns) / 1e9);
	}
}

static void hide_progress(const struct live *l)
{
	if (l->terminal)
		(void)fprintf(stderr, "\r\033[K");
}

/* ---- the whole ----------------------------------------------------------------------------- */

static bool share(struct live *l)
{
	pthread_mutexattr_t attr;
	struct live_shared *shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE,
					  MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (shared == MAP_FAILED) {
		replay_say("shared memory: %s", strerror(errno));
		return false;
	}
	(void)pthread_mutexattr_init(&attr);
	(void)pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
	(void)pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
	(void)pthread_mutex_init(&shared->ticket, &attr);
	(void)pthread_mutexattr_destroy(&attr);
	l->shared = shared;
	return true;
}

static void add_up(const struct live *l, struct replay_result *ret)
{
	for (uint32_t i = 0; i < l->o->clients; i++) {
		const struct replay_counts *n = &l->shared->client[i].n;

		ret->client_requests[i] = n->requests;
		ret->n.requests += n->requests;
		ret->n.blocks += n->blocks;
		ret->n.hit_blocks += n->hit_blocks;
		ret->n.hit_blocks_host += n->hit_blocks_host;
		ret->n.hit_blocks_store += n->hit_blocks_store;
		ret->n.refused += n->refused;
		ret->n.pages_verified += n->pages_verified;
		ret->n.corrupt += n->corrupt;
		ret->n.bytes_filled += n->bytes_filled;
		ret->n.bytes_verified += n->bytes_verified;
		ret->n.fill_ns += n->fill_ns;
		ret->n.verify_ns += n->verify_ns;
	}
	ret->clients = l->o->clients;
}

static bool read_evictions(struct live *l, uint64_t *ret)
{
	char why[256] = "";
	int r = evictions_read(l->o, ret, why);

	if (r < 0) {
		replay_say("the broker's counters: %s (%s)", why, strerror(-r));
		l->code = REPLAY_FAILED;
	}
	return r >= 0;
}

/* From the fork of the first client to the end of the last; the ticket is ours at first. */
static void run_clients(struct live *l, struct replay_result *ret)
{
	uint64_t before = 0, after = 0;
	bool started = start_clients(l) && read_evictions(l, &before);

	if (!started) {
		stop(l);
		if (l->code == REPLAY_OK && l->interrupts == 0)
			l->code = REPLAY_FAILED;
	}
	l->shared->start_ns = live_clock_ns();
	(void)pthread_mutex_unlock(&l->shared->ticket);
	while (l->running > 0) {
		if (started)
			show_progress(l);
		wait_some(l, PROGRESS_NS);
	}
	ret->seconds = (double)(live_clock_ns() - l->shared->start_ns) / 1e9;
	if (started) {
		hide_progress(l);
		if (l->code == REPLAY_OK && read_evictions(l, &after))
			ret->evictions = after - before;
	}
}

enum replay_exit live_run(const struct replay_options *o, const struct trace *t,
			  struct replay_result *ret)
{
	struct live l = { .o = o, .t = t, .terminal = isatty(STDERR_FILENO) };
	sigset_t before;

	if (!share(&l))
		return REPLAY_FAILED;
	(void)signal(SIGCHLD, SIG_DFL); /* ignored, children could not be waited for */
	(void)sigemptyset(&l.signals);
	(void)sigaddset(&l.signals, SIGINT);
	(void)sigaddset(&l.signals, SIGTERM);
	(void)sigaddset(&l.signals, SIGCHLD);
	(void)sigprocmask(SIG_BLOCK, &l.signals, &before);
	(void)pthread_mutex_lock(&l.shared->ticket);
	run_clients(&l, ret);
	add_up(&l, ret);
	ret->interrupted = l.interrupts > 0;
	(void)sigprocmask(SIG_SETMASK, &before, NULL);
	(void)munmap(l.shared, sizeof(*l.shared));
	return l.code;
}
