/* SPDX-License-Identifier: Apache-2.0 */

/*
 * churn: clients killed with SIGKILL at random moments under load, and what is left of them.
 *
 * Eight workers (churn_worker.c) allocate, fill, seal, look up, verify and hold pages of one space
 * as fast as they can. Each is killed after a random life, sometimes several at once and sometimes
 * while it attaches, and replaced. This process is the survivor: it looks keys up and verifies
 * every byte all the while. The daemon has one CPU, all clients the other.
 *
 * When all workers are dead and the daemon has done with them, nothing of them may be left:
 *
 * leaked_pages   pages that are neither free nor under a key, leases, pins and held pages still
 *                charged, and pages that the survivor cannot get when it then allocates all there
 *                are
 * leaked_fds     fds of the daemon beyond those it had when the survivor alone was attached
 * leaked_bytes   device memory granted beyond what was granted then, and memfds (rings of the dead)
 *                still mapped by the daemon beyond those mapped then
 * reclaim_ms     from the daemon's first notice of an end to charges and leases zero, as the daemon
 *                says (stats segment)
 * notice_ms      from kill() to the dead process's pidfd being readable: the kernel's teardown,
 *                before which the daemon has nothing to notice
 */

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker/admin/stats.h"
#include "tools/kvb-bench/churn.h"

#define LIFE_NS (20ull * 1000 * 1000) /* longest after a worker is at work */
#define BIRTH_NS (4ull * 1000 * 1000) /* longest of those killed while they attach */
#define SETTLE_NS (10ull * 1000 * 1000 * 1000)
#define STUCK_NS (20ull * 1000 * 1000 * 1000)

struct worker_slot {
	pid_t pid;
	int pidfd;
	uint64_t started_ns;
	uint64_t kill_ns; /* 0: once it is at work */
};

struct churn {
	struct broker b;
	struct client survivor;
	struct churn_shared *shared;
	struct worker_slot worker[CHURN_WORKERS];
	uint64_t random;
	uint32_t spawned, kills;
	uint64_t reclaims_seen;
	uint64_t verified;
	struct samples notice_ns, reclaim_ns;
};

struct levels {
	unsigned fds;
	uint64_t granted_bytes, mapped_bytes;
};

static void spawn(struct churn *ch, unsigned i)
{
	struct worker_slot *w = &ch->worker[i];
	uint64_t seed = random_next(&ch->random);

	__atomic_store_n(&ch->shared->worker[i].ops, 0, __ATOMIC_RELAXED);
	w->started_ns = clock_now_ns();
	w->kill_ns = seed % 10 == 0 ? w->started_ns + seed / 16 % BIRTH_NS : 0;
	w->pid = fork();
	if (w->pid < 0)
		bench_die("fork: %s", strerror(errno));
	if (w->pid == 0)
		churn_worker(&ch->b, &ch->shared->worker[i], seed);
	w->pidfd = (int)syscall(SYS_pidfd_open, w->pid, 0);
	if (w->pidfd < 0)
		bench_die("pidfd_open: %s", strerror(errno));
	ch->spawned++;
}

/* Waits for the death that kill() at start_ns has begun. */
static void bury(struct churn *ch, struct worker_slot *w, uint64_t start_ns)
{
	struct pollfd pfd = { .fd = w->pidfd, .events = POLLIN };
	int status;

	if (poll(&pfd, 1, (int)(STUCK_NS / 1000000)) != 1)
		bench_die("a killed process does not die");
	samples_add(&ch->notice_ns, clock_now_ns() - start_ns);
	close(w->pidfd);
	waitpid(w->pid, &status, 0);
	if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
		bench_die("a worker ended by itself (status %#x)", status);
	w->pid = 0;
	ch->kills++;
}

/* Kills everyone whose time has come, all before the first is waited for. */
static void kill_due(struct churn *ch, uint32_t kills)
{
	uint64_t now_ns = clock_now_ns(), killed_ns[CHURN_WORKERS];
	bool due[CHURN_WORKERS] = { false };

	for (unsigned i = 0; i < CHURN_WORKERS; i++) {
		struct worker_slot *w = &ch->worker[i];

		if (w->pid == 0)
			continue;
		if (w->kill_ns == 0 &&
		    __atomic_load_n(&ch->shared->worker[i].ops, __ATOMIC_RELAXED) > 0)
			w->kill_ns = now_ns + random_next(&ch->random) % LIFE_NS;
		if (w->kill_ns == 0 && now_ns - w->started_ns > STUCK_NS)
			bench_die("a worker does not get to work");
		if (w->kill_ns == 0 || now_ns < w->kill_ns)
			continue;
		due[i] = true;
		killed_ns[i] = clock_now_ns();
		kill(w->pid, SIGKILL);
	}
	for (unsigned i = 0; i < CHURN_WORKERS; i++) {
		if (!due[i])
			continue;
		bury(ch, &ch->worker[i], killed_ns[i]);
		if (ch->spawned < kills)
			spawn(ch, i);
	}
}

static void collect_reclaims(struct churn *ch)
{
	const struct stats_segment *st = broker_stats_seen(&ch->b);
	const uint64_t room = sizeof(st->reclaim_ns) / sizeof(st->reclaim_ns[0]);

	if (st->reclaim_total - ch->reclaims_seen > room)
		bench_die("the broker's reclaim times ran over");
	while (ch->reclaims_seen < st->reclaim_total)
		samples_add(&ch->reclaim_ns, st->reclaim_ns[ch->reclaims_seen++ % room]);
}

/* A chain is looked up and whatever is there is verified byte for byte. */
static void survive(struct churn *ch)
{
	struct kvb_hash hash[CHURN_CHAIN_BLOCKS];
	kvb_page_t page[CHURN_CHAIN_BLOCKS];
	struct client *c = &ch->survivor;
	int64_t n;

	churn_chain(random_next(&ch->random) % CHURN_CHAINS, hash);
	n = kvb_lookup(c->space, c->ns.ns, 0, hash, page, CHURN_CHAIN_BLOCKS, NULL);
	if (n < 0)
		bench_die("the survivor cannot look up: %s", kvb_error_text(c->kvb));
	for (int64_t i = 0; i < n; i++)
		if (!churn_page_verify(kvb_page_addr(c->space, 0, page[i]), &hash[i]))
			bench_die("the survivor found wrong bytes under a key");
	ch->verified += (uint64_t)n;
	if (n > 0 && kvb_release(c->space, page, (uint32_t)n) != n)
		bench_die("the survivor cannot release: %s", kvb_error_text(c->kvb));
}

static uint64_t granted_bytes(const struct stats_segment *st)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < st->devices_n; i++)
		sum += st->device[i].granted_bytes;
	return sum;
}

/* Waits until the survivor is the only client and the daemon has nothing put off. */
static struct levels settle(struct churn *ch)
{
	uint64_t until_ns = clock_now_ns() + SETTLE_NS;
	const struct stats_segment *st;
	struct levels l;

	for (;;) {
		st = broker_stats(&ch->b);
		if ((st->clients_n == 1 && st->reaping == 0) || clock_now_ns() > until_ns)
			break;
		clock_sleep_ns(20 * 1000 * 1000);
	}
	clock_sleep_ns(200 * 1000 * 1000); /* sockets of admins are closed in the next turn */
	l.fds = broker_fds(&ch->b);
	l.mapped_bytes = broker_memfd_mapped_bytes(&ch->b);
	l.granted_bytes = granted_bytes(st);
	return l;
}

/* What is charged to anyone, with the survivor holding nothing. */
static uint64_t charged(const struct stats_segment *st)
{
	uint64_t sum = st->leases_used;

	for (uint32_t i = 0; i < st->tenants_n; i++)
		sum += st->tenant[i].pages_held + st->tenant[i].pins;
	for (uint32_t i = 0; i < st->devices_n; i++)
		sum += st->device[i].held_bytes / CHURN_PAGE_BYTES;
	return sum;
}

/* The proof from outside: every page of the space can be had. Returns how many cannot. */
static uint64_t unallocatable(struct churn *ch)
{
	kvb_page_t *pages = malloc(CHURN_PAGES * sizeof(*pages));
	struct client *c = &ch->survivor;
	uint64_t got;

	if (pages == NULL)
		bench_die("out of memory");
	got = batch_alloc(c, pages, CHURN_PAGES);
	batch_free(c, pages, got);
	free(pages);
	return CHURN_PAGES - got;
}

static double beyond(uint64_t after, uint64_t before)
{
	return after > before ? (double)(after - before) : 0;
}

static void report(struct churn *ch, struct report *r, const struct levels *before)
{
	struct levels after = settle(ch);
	const struct stats_segment *st = broker_stats(&ch->b);
	uint64_t corrupt = 0, left = charged(st), clients = st->clients_n - 1u;

	collect_reclaims(ch);
	for (unsigned i = 0; i < CHURN_WORKERS; i++) {
		corrupt += ch->shared->worker[i].corrupt;
		ch->verified += ch->shared->worker[i].verified;
	}
	report_number(r, "kills", ch->kills, "clients killed with SIGKILL");
	report_number(r, "leaked_pages", (double)(left + unallocatable(ch)),
		      "held, leased or pinned by the dead, or not to be had");
	report_number(r, "leaked_clients", (double)clients, "still in the daemon's tables");
	report_number(r, "leaked_fds", beyond(after.fds, before->fds), "of the daemon");
	report_number(r, "leaked_bytes",
		      beyond(after.granted_bytes, before->granted_bytes) +
			      beyond(after.mapped_bytes, before->mapped_bytes),
		      "granted or mapped by the daemon");
	report_number(r, "pages_verified", (double)ch->verified, "byte for byte, by all");
	report_number(r, "corrupt", (double)corrupt, "pages with wrong bytes");
	report_number(r, "reclaims", (double)ch->reclaim_ns.n, "ends the daemon noticed");
	report_number(r, "reclaim_ms_p50", samples_percentile_ns(&ch->reclaim_ns, 50) / 1e6,
		      "first notice to charges zero");
	report_number(r, "reclaim_ms_p99", samples_percentile_ns(&ch->reclaim_ns, 99) / 1e6, "");
	report_number(r, "reclaim_ms_max", samples_percentile_ns(&ch->reclaim_ns, 100) / 1e6, "");
	report_number(r, "notice_ms_p50", samples_percentile_ns(&ch->notice_ns, 50) / 1e6,
		      "kill() to pidfd readable");
	report_number(r, "notice_ms_p99", samples_percentile_ns(&ch->notice_ns, 99) / 1e6, "");
	if (corrupt > 0)
		bench_die("%llu pages had wrong bytes", (unsigned long long)corrupt);
}

int bench_churn(const struct bench_options *o, struct report *r)
{
	static const char *const args[] = { "--device", "host:0=64M", "--max-pages", "65536",
					    NULL };
	struct churn ch = { .random = (uint64_t)getpid() };
	struct levels before;

	cpu_pin(o->cpu_client);
	broker_start(o, o->cpu_broker, args, &ch.b);
	client_open(&ch.b, NULL, &churn_space, &ch.survivor);
	client_grow(&ch.survivor, CHURN_PAGES);
	ch.shared = mmap(NULL, sizeof(*ch.shared), PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (ch.shared == MAP_FAILED)
		bench_die("mmap: %s", strerror(errno));
	before = settle(&ch);
	ch.reclaims_seen = broker_stats(&ch.b)->reclaim_total;
	for (unsigned i = 0; i < CHURN_WORKERS && ch.spawned < o->kills; i++)
		spawn(&ch, i);
	for (uint64_t turn = 0; ch.kills < o->kills; turn++) {
		kill_due(&ch, o->kills);
		survive(&ch);
		if (turn % 64 == 0)
			collect_reclaims(&ch);
	}
	report(&ch, r, &before);
	client_close(&ch.survivor);
	broker_stop(&ch.b);
	samples_free(&ch.notice_ns);
	samples_free(&ch.reclaim_ns);
	munmap(ch.shared, sizeof(*ch.shared));
	return 0;
}
