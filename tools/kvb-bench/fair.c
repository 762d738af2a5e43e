/* SPDX-License-Identifier: Apache-2.0 */

/*
 * fair: what one client's work does to another's.
 *
 * The broker has one CPU, all clients share the other. Clients that keep a ring full must therefore
 * need next to no CPU themselves, or the figures would be the scheduler's: a flooder has a ring of
 * 4096 entries, each a LOOKUP of 1024 keys that hit or the RELEASE of their leases, more than 50 ms
 * of work for the broker; the operands never change, and it wakes every 2 ms to fill up what was
 * done meanwhile. Its ring is never empty.
 *
 * alone, beside    latency of another tenant's NOPs, back to back and spinning: the ring's own.
 * Alone that is a bare round trip, beside a flooder it waits for a slice of its work. paced_* a NOP
 * every 500 us, waited for as the library does by default: it spins for 20 us, then sleeps on the
 * futex. Alone the broker has gone to sleep and is woken by the doorbell; beside a flooder it is
 * awake, at work. Wake-ups are the scheduler's, and so is most of the noise. equal entries done in
 * the same two seconds for four tenants that all flood.
 *
 * Alone and beside alternate.
 */

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/kvb-bench/bench.h"

#define EQUALS 4u
#define ENTRIES 4096u
#define KEYS 1024u
#define REFILL_NS (2000ull * 1000)
#define ROUNDS 5u
#define PACED_TRIPS 600u
#define PACE_NS (500ull * 1000)
#define SPIN_TRIPS 20000u
#define WARM_NS (200ull * 1000 * 1000)
#define EQUAL_NS (2000ull * 1000 * 1000)
#define WAIT_NS (20ull * 1000 * 1000 * 1000)

/* Between this process and the flooders. */
struct flood_words {
	uint32_t go; /* ours: flood, or let the ring run empty */
	uint32_t resv0[15];
	struct {
		uint64_t done;  /* entries completed */
		uint32_t ready; /* attached, and its ring empty */
		uint32_t resv[13];
	} flooder[EQUALS];
};

static uint32_t load(const uint32_t *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

/* The pages under the keys that are looked up over and over. */
static void make_prefix(struct client *c, kvb_page_t page[KEYS], uint64_t seed)
{
	struct kvb_hash *hash = (struct kvb_hash *)(void *)c->operands;
	struct kvb_seal seal[KEYS];

	client_grow(c, KEYS);
	if (batch_alloc(c, page, KEYS) != KEYS)
		bench_die("a flooder cannot get %u pages", KEYS);
	for (uint32_t i = 0; i < KEYS; i++)
		seal[i] = (struct kvb_seal){ .page = page[i],
					     .hash = random_hash(seed + i),
					     .depth = i };
	batch_seal(c, seal, page, KEYS);
	batch_release(c, page, KEYS);
	/* From here on the operand area stays as it is: the keys, and behind them the pages. */
	for (uint32_t i = 0; i < KEYS; i++)
		hash[i] = random_hash(seed + i);
	memcpy(hash + KEYS, page, KEYS * sizeof(*page));
}

/* Fills the ring to the brim; *number counts entries, even ones look up, odd ones release. */
static void fill(struct client *c, uint64_t *number)
{
	const struct kvb_hash *hash = (const struct kvb_hash *)(const void *)c->operands;
	struct kvb_sqe *sqe;

	/* Entries not taken yet plus completions not reaped never exceed the completion queue. */
	while ((sqe = kvb_get_sqe(c->kvb)) != NULL) {
		if ((*number)++ % 2 == 0)
			kvb_prep_lookup(sqe, c->space, c->ns.ns, 0,
					kvb_operand_offset(c->kvb, hash), KEYS, false);
		else
			kvb_prep_release(sqe, c->space, kvb_operand_offset(c->kvb, hash + KEYS),
					 KEYS);
	}
	if (kvb_submit(c->kvb) < 0)
		bench_die("a flooder cannot submit: %s", kvb_error_text(c->kvb));
}

static uint64_t reap(struct client *c)
{
	const struct kvb_cqe *cqe;
	uint64_t n = 0;

	while ((cqe = kvb_peek_cqe(c->kvb)) != NULL) {
		if (cqe->res != (int32_t)KEYS)
			bench_die("a flooder's entry did %d of %u keys", cqe->res, KEYS);
		kvb_cqe_seen(c->kvb);
		n++;
	}
	return n;
}

static void flood(const struct broker *b, const char *tenant, struct flood_words *words, unsigned i)
{
	kvb_page_t page[KEYS];
	struct client c;
	uint64_t sent = 0, done = 0;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	client_open(b,
		    &(struct kvb_params){
			    .tenant = tenant, .sq_entries = ENTRIES, .cq_entries = 2 * ENTRIES },
		    &(struct kvb_space_params){ .stride_bytes = BENCH_STRIDE_BYTES, .tag = i }, &c);
	make_prefix(&c, page, (uint64_t)i << 32);
	for (;;) {
		done += reap(&c);
		__atomic_store_n(&words->flooder[i].done, done, __ATOMIC_RELEASE);
		__atomic_store_n(&words->flooder[i].ready, sent == done, __ATOMIC_RELEASE);
		if (load(&words->go))
			fill(&c, &sent);
		else if (kvb_poll(c.kvb) < 0)
			bench_die("a flooder lost the broker: %s", kvb_error_text(c.kvb));
		clock_sleep_ns(REFILL_NS);
	}
}

static pid_t flood_start(const struct broker *b, const char *tenant, struct flood_words *words,
			 unsigned i)
{
	pid_t pid = fork();

	if (pid < 0)
		bench_die("fork: %s", strerror(errno));
	if (pid == 0) {
		flood(b, tenant, words, i);
		_exit(1);
	}
	return pid;
}

/* Until each of n flooders is attached and its ring has run empty. */
static void await_ready(const struct flood_words *words, unsigned n)
{
	uint64_t until_ns = clock_now_ns() + WAIT_NS;

	for (unsigned i = 0; i < n; i++)
		while (!load(&words->flooder[i].ready)) {
			if (clock_now_ns() > until_ns)
				bench_die("flooder %u does not get ready", i);
			clock_sleep_ns(1000 * 1000);
		}
}

static void set_go(struct flood_words *words, uint32_t go)
{
	__atomic_store_n(&words->go, go, __ATOMIC_RELEASE);
	clock_sleep_ns(go ? WARM_NS : 2 * REFILL_NS);
}

static struct kvb_sqe *next_sqe(struct kvb *kvb)
{
	struct kvb_sqe *sqe = kvb_get_sqe(kvb);

	if (sqe == NULL)
		bench_die("an empty submission queue is full");
	return sqe;
}

static void probe_paced(struct kvb *kvb, struct samples *s)
{
	const struct kvb_cqe *cqe;

	for (unsigned i = 0; i < PACED_TRIPS; i++) {
		uint64_t start_ns;

		clock_sleep_ns(PACE_NS);
		start_ns = clock_now_ns();
		kvb_prep_nop(next_sqe(kvb));
		kvb_submit(kvb);
		if (kvb_wait_cqe(kvb, &cqe, UINT64_MAX) < 0)
			bench_die("the broker has gone: %s", kvb_error_text(kvb));
		samples_add(s, clock_now_ns() - start_ns);
		kvb_cqe_seen(kvb);
	}
}

static void probe_spinning(struct kvb *kvb, struct samples *s)
{
	for (unsigned i = 0; i < SPIN_TRIPS; i++) {
		uint64_t start_ns = clock_now_ns();

		kvb_prep_nop(next_sqe(kvb));
		kvb_submit(kvb);
		client_spin_cqe(kvb);
		samples_add(s, clock_now_ns() - start_ns);
		kvb_cqe_seen(kvb);
	}
}

static void measure_latency(const struct broker *b, struct kvb *probe, struct floor *f,
			    struct flood_words *words, const char *tenant, struct report *r)
{
	struct samples alone = { 0 }, beside = { 0 }, alone_spin = { 0 }, beside_spin = { 0 },
		       floor_ns = { 0 };
	pid_t pid = flood_start(b, tenant, words, 0);

	await_ready(words, 1);
	for (unsigned i = 0; i < ROUNDS; i++) {
		floor_spin(f, &floor_ns, SPIN_TRIPS);
		probe_paced(probe, &alone);
		probe_spinning(probe, &alone_spin);
		set_go(words, 1);
		probe_paced(probe, &beside);
		probe_spinning(probe, &beside_spin);
		set_go(words, 0);
		await_ready(words, 1);
	}
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	report_number(r, "paced_alone_p50_ns", samples_percentile_ns(&alone, 50),
		      "NOP every 500 us");
	report_number(r, "paced_alone_p99_ns", samples_percentile_ns(&alone, 99), "");
	report_number(r, "paced_beside_p50_ns", samples_percentile_ns(&beside, 50),
		      "beside a flooder");
	report_number(r, "paced_beside_p99_ns", samples_percentile_ns(&beside, 99), "");
	report_number(r, "alone_p50_ns", samples_percentile_ns(&alone_spin, 50),
		      "NOPs back to back, spinning");
	report_number(r, "alone_p99_ns", samples_percentile_ns(&alone_spin, 99), "");
	report_number(r, "beside_p50_ns", samples_percentile_ns(&beside_spin, 50),
		      "beside a flooder");
	report_number(r, "beside_p99_ns", samples_percentile_ns(&beside_spin, 99), "");
	report_number(r, "floor_ns_p50", samples_percentile_ns(&floor_ns, 50),
		      "bare shared-memory spin round trip");
	samples_free(&alone);
	samples_free(&beside);
	samples_free(&alone_spin);
	samples_free(&beside_spin);
	samples_free(&floor_ns);
}

static void measure_equal(const struct broker *b, struct flood_words *words,
			  const char *const *tenant, struct report *r)
{
	double ops[EQUALS];
	uint64_t before[EQUALS];
	pid_t pid[EQUALS];

	memset(words, 0, sizeof(*words));
	for (unsigned i = 0; i < EQUALS; i++)
		pid[i] = flood_start(b, tenant[i], words, i);
	await_ready(words, EQUALS);
	set_go(words, 1);
	for (unsigned i = 0; i < EQUALS; i++)
		before[i] = __atomic_load_n(&words->flooder[i].done, __ATOMIC_ACQUIRE);
	clock_sleep_ns(EQUAL_NS);
	for (unsigned i = 0; i < EQUALS; i++)
		ops[i] = (double)(__atomic_load_n(&words->flooder[i].done, __ATOMIC_ACQUIRE) -
				  before[i]);
	for (unsigned i = 0; i < EQUALS; i++) {
		kill(pid[i], SIGKILL);
		waitpid(pid[i], NULL, 0);
	}
	report_numbers(r, "equal_ops", ops, EQUALS, "entries of four equal tenants in 2 s");
}

int bench_fair(const struct bench_options *o, struct report *r)
{
	static const char *const names[EQUALS + 1] = { "even0", "even1", "even2", "even3",
						       "probe" };
	const char *tenants[EQUALS + 1] = { NULL };
	char spec[EQUALS + 1][64];
	const char *args[2 * (EQUALS + 1) + 5];
	struct flood_words *words;
	struct broker b;
	struct floor *f;
	struct kvb *probe;
	unsigned n = 0;

	args[n++] = "--device";
	args[n++] = "host:0=256M";
	args[n++] = "--max-pages";
	args[n++] = "1048576";
	for (unsigned i = 0; i <= EQUALS; i++) {
		snprintf(spec[i], sizeof(spec[i]), "%s,weight=100,uid=%u", names[i], getuid());
		args[n++] = "--tenant";
		args[n++] = spec[i];
		if (o->socket == NULL)
			tenants[i] = names[i];
	}
	args[n] = NULL;
	cpu_pin(o->cpu_client);
	broker_start(o, o->cpu_broker, args, &b);
	f = floor_open(o->cpu_broker);
	words = mmap(NULL, sizeof(*words), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		     0);
	if (words == MAP_FAILED)
		bench_die("mmap: %s", strerror(errno));
	probe = client_connect(&b, &(struct kvb_params){ .tenant = tenants[EQUALS] });
	measure_latency(&b, probe, f, words, tenants[0], r);
	measure_equal(&b, words, tenants, r);
	kvb_disconnect(probe);
	munmap(words, sizeof(*words));
	floor_close(f);
	broker_stop(&b);
	return 0;
}
