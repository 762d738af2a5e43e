/* SPDX-License-Identifier: Apache-2.0 */

/*
 * ring: what one NOP through the ring costs.
 *
 * nop       the client publishes an entry and spins for its completion; the daemon is spinning too.
 *           Floor: two processes that spin on two cache lines. Both alternate, slice by slice.
 * idle64    the same while 64 more client processes are attached and idle.
 * wake      the daemon sleeps, because the client paused for longer than an idle ring stays polled;
 *           the client waits by futex. Floor: a futex round trip with the same pause.
 *
 * The daemon and the floor's peer have one CPU, this client the other. Single operations are timed
 * with a clock reading between them, whose cost is taken off; so p50 and p99 are of single trips.
 */

#include "tools/kvb-bench/bench.h"

#define IDLE_CLIENTS 64u
#define ROUNDS 4u
#define SLICES 5u /* a round */
#define SLICE_TRIPS 20000u
#define WARM_TRIPS 2000u /* the daemon wakes and keeps the ring polled */
#define WAKE_SLICES 10u
#define WAKE_TRIPS 40u
#define WAKE_PAUSE_NS (1000ull * 1000)

static struct kvb_sqe *next_sqe(struct kvb *kvb)
{
	struct kvb_sqe *sqe = kvb_get_sqe(kvb);

	if (sqe == NULL)
		bench_die("an empty submission queue is full");
	return sqe;
}

static void finish(struct kvb *kvb, const struct kvb_cqe *cqe)
{
	if (cqe->res != 0)
		bench_die("NOP failed: %d", cqe->res);
	kvb_cqe_seen(kvb);
}

static void nop_slice(struct kvb *kvb, struct samples *s)
{
	uint64_t cost_ns = clock_cost_ns(), last_ns = clock_now_ns();

	for (unsigned i = 0; i < WARM_TRIPS + SLICE_TRIPS; i++) {
		uint64_t now_ns;

		kvb_prep_nop(next_sqe(kvb));
		kvb_submit(kvb);
		finish(kvb, client_spin_cqe(kvb));
		now_ns = clock_now_ns();
		if (i >= WARM_TRIPS)
			samples_add(s, now_ns - last_ns > cost_ns ? now_ns - last_ns - cost_ns : 0);
		last_ns = now_ns;
	}
}

static void wake_slice(struct kvb *kvb, struct samples *s)
{
	const struct kvb_cqe *cqe;

	for (unsigned i = 0; i < WAKE_TRIPS; i++) {
		uint64_t start_ns;

		clock_sleep_ns(WAKE_PAUSE_NS);
		start_ns = clock_now_ns();
		kvb_prep_nop(next_sqe(kvb));
		kvb_submit(kvb);
		if (kvb_wait_cqe(kvb, &cqe, UINT64_MAX) < 0)
			bench_die("the broker has gone: %s", kvb_error_text(kvb));
		samples_add(s, clock_now_ns() - start_ns);
		finish(kvb, cqe);
	}
}

int bench_ring(const struct bench_options *o, struct report *r)
{
	static const char *const args[] = { "--device", "host:0=64M", "--max-pages", "65536",
					    NULL };
	struct samples floor_ns = { 0 }, nop_ns = { 0 }, idle_ns = { 0 }, futex_ns = { 0 },
		       wake_ns = { 0 };
	struct broker b;
	struct floor *f;
	struct kvb *kvb;

	cpu_pin(o->cpu_client);
	broker_start(o, o->cpu_broker, args, &b);
	f = floor_open(o->cpu_broker);
	/* 1 ns: kvb_wait_cqe() sleeps at once. The spinning above does not go through it. */
	kvb = client_connect(&b, &(struct kvb_params){ .spin_ns = 1 });
	for (unsigned round = 0; round < ROUNDS; round++) {
		struct held idle;

		for (unsigned i = 0; i < SLICES; i++) {
			floor_spin(f, &floor_ns, SLICE_TRIPS);
			nop_slice(kvb, &nop_ns);
		}
		held_start(&b, IDLE_CLIENTS, &idle);
		for (unsigned i = 0; i < SLICES; i++) {
			floor_spin(f, &floor_ns, SLICE_TRIPS);
			nop_slice(kvb, &idle_ns);
		}
		held_release(&idle);
	}
	for (unsigned i = 0; i < WAKE_SLICES; i++) {
		floor_futex(f, &futex_ns, WAKE_TRIPS, WAKE_PAUSE_NS);
		wake_slice(kvb, &wake_ns);
	}
	report_number(r, "floor_ns_p50", samples_percentile_ns(&floor_ns, 50),
		      "bare shared-memory spin round trip");
	report_number(r, "floor_ns_p99", samples_percentile_ns(&floor_ns, 99), "");
	report_number(r, "nop_ns_p50", samples_percentile_ns(&nop_ns, 50),
		      "NOP through the ring, both sides spinning");
	report_number(r, "nop_ns_p99", samples_percentile_ns(&nop_ns, 99), "");
	report_number(r, "nop_idle64_ns_p50", samples_percentile_ns(&idle_ns, 50),
		      "with 64 more idle client processes");
	report_number(r, "nop_idle64_ns_p99", samples_percentile_ns(&idle_ns, 99), "");
	report_number(r, "futex_floor_ns_p50", samples_percentile_ns(&futex_ns, 50),
		      "bare futex round trip");
	report_number(r, "wake_ns_p50", samples_percentile_ns(&wake_ns, 50),
		      "NOP, daemon asleep, client waiting by futex");
	report_number(r, "wake_ns_p99", samples_percentile_ns(&wake_ns, 99), "");
	report_number(r, "clock_ns", (double)clock_cost_ns(), "one clock reading, taken off");
	kvb_disconnect(kvb);
	floor_close(f);
	broker_stop(&b);
	samples_free(&floor_ns);
	samples_free(&nop_ns);
	samples_free(&idle_ns);
	samples_free(&futex_ns);
	samples_free(&wake_ns);
	return 0;
}
