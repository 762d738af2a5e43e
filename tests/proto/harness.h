/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The stage of the protocol tests: a real kvbrokerd, a bystander, and the verdict.
 *
 * Every test has a daemon of its own in a directory of its own. A bystander, an honest client that
 * uses the library, is attached before anything bad happens. scene_close() is the verdict that
 * every test ends with: the bystander still gets through a whole cycle of a page's life, the daemon
 * lives, its tables agree with each other, its file descriptors are those of the beginning, nothing
 * is charged to anybody once all have left, it ends with status 0 and its log tells of no assertion
 * and no sanitizer.
 *
 * Failures are Check's: a test process that fails ends at once, and the daemon dies with it. What
 * must die, or hold pages at its end, runs in a process of its own: child_start().
 */

#include <check.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "broker/admin/stats_read.h"
#include "uapi/libkvbroker.h"

#define NOBODY 65534u

struct broker {
	pid_t pid;
	char dir[64]; /* socket, state/ and log lie there */
	char socket[80];
	char log[80];
};

/* How the daemon is started, beyond its options. Zeroes are defaults. */
struct broker_how {
	uint32_t uid;       /* 0: ours */
	uint64_t nofile;    /* RLIMIT_NOFILE; 0: ours */
	int log_fd;         /* 0: the file of the broker */
	const char *binary; /* NULL: the daemon under test */
};

/*
 * Options end with NULL and come after the defaults: a device host:0 of 64M and the tenants
 * `default` and `other` of this uid, unless the options name their own.
 */
void broker_dir(struct broker *b); /* only the directory */
void broker_spawn(struct broker *b, const struct broker_how *how, const char *const *options);
void broker_start(struct broker *b, const char *const *options); /* dir, spawn, wait until ready */
bool broker_ready(struct broker *b, unsigned timeout_ms);        /* false: it has ended */
/* Exit status of a daemon that is to end by itself within 10 s. */
int broker_wait(struct broker *b);
void broker_stop(struct broker *b); /* SIGTERM; wants status 0 and a clean log */
void broker_log_is_clean(const struct broker *b);
bool broker_log_has(const struct broker *b, const char *text);
uint64_t broker_log_bytes(const struct broker *b);
void broker_remove(struct broker *b); /* the directory */

unsigned broker_fds(const struct broker *b, unsigned *ret_slab_fds); /* all but slabs' */
uint64_t broker_cpu_ns(const struct broker *b);                 /* used so far by its one thread */
void broker_limit_fds(const struct broker *b, uint64_t nofile); /* of the running one */
/* A fresh copy, by an operator's connection. In static memory: the next call overwrites it. */
const struct stats_segment *broker_stats(const struct broker *b);
/* As it was published last, a tenth of a second ago at most while there is work. But for the first
 * time without a connection, for when the daemon is short of fds. */
const struct stats_segment *broker_stats_unasked(const struct broker *b);
/* Exit code of a broker-ctl command spoken by hand. */
int broker_ctl(const struct broker *b, const char *const *argv);

/* ---- the bystander ------------------------------------------------------------------------- */

struct bystander {
	struct kvb *kvb;
	struct kvb_space *space;
	struct kvb_ns_info ns;
	uint64_t round;
};

void bystander_open(struct bystander *by, const struct broker *b, const char *tenant);
/* alloc, write, seal, release, look up, verify, release. */
void bystander_cycle(struct bystander *by);
/* The 99th percentile of n round trips, in ns. */
uint64_t bystander_p99_ns(struct bystander *by, unsigned n);
void bystander_close(struct bystander *by);

/* ---- scenes -------------------------------------------------------------------------------- */

struct scene {
	struct broker b;
	struct bystander by;
	unsigned fds; /* of the daemon, with the bystander */
};

#define OPTIONS(...) ((const char *const[]){ __VA_ARGS__ __VA_OPT__(, ) NULL })

void scene_open(struct scene *s, const char *const *options);
/* The bystander works, the daemon's fds are what they were, only the bystander is left. */
void scene_check(struct scene *s);
void scene_close(struct scene *s); /* the whole verdict; see above */

/* ---- processes and time -------------------------------------------------------------------- */

/* Runs fn(arg) in a new process; its status 0 unless fn says otherwise. Failing checks end it. */
pid_t child_start(void (*fn)(void *arg), void *arg);
void child_join(pid_t pid); /* wants status 0 */
void child_kill(pid_t pid); /* SIGKILL, and waits */

uint64_t clock_ns(void);
void sleep_ms(unsigned ms);
/* Asks until it is true, at most for some seconds; fails with what. */
#define EVENTUALLY(cond)                                                                           \
	do {                                                                                       \
		uint64_t eventually_until = clock_ns() + 20000000000ull;                           \
		bool eventually_done;                                                              \
		while (!(eventually_done = (cond)) && clock_ns() < eventually_until)               \
			sleep_ms(5);                                                               \
		ck_assert_msg(eventually_done, "it did not come about: %s", #cond);                \
	} while (0)

/* Only root can be somebody else: tells, and is false otherwise. */
bool can_be_others(void);
void become_nobody(void);
