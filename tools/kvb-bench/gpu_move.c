/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Packed pages of 2 MiB through the daemon and its mover: down, up, both at once, each beside one
 * big copy of the driver's; and what processor time the mover takes meanwhile.
 *
 * A round moves one set of pages each way, then the floors move as many bytes. Medians of rounds.
 * The first page's bytes are looked at when it is back.
 *
 * It is run once over a daemon whose mover makes checksums, and once over one whose does not.
 */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/admin/stats.h"
#include "tools/kvb-bench/gpu.h"

struct moves {
	struct rig rig;
	struct card card;
	struct card_memory up, down; /* of the floors */
	uint32_t per;                /* pages of an entry */
	pid_t mover;
	struct samples store, load, both, bare_store, bare_load, bare_both;
	double busy_s; /* of the mover's processor time, while copies were made */
	double copy_s; /* in which they were */
};

/* utime and stime of a process. */
static double process_cpu_s(pid_t pid)
{
	unsigned long long user, system;
	char path[64], line[1024];
	const char *at;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	f = fopen(path, "r");
	if (f == NULL || fgets(line, sizeof(line), f) == NULL)
		bench_die("cannot read %s: did the mover end?", path);
	fclose(f);
	at = strrchr(line, ')'); /* a name may hold anything */
	if (at == NULL || sscanf(at, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu",
				 &user, &system) != 2)
		bench_die("%s says something else than it should", path);
	return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

/* A set down, then the same set up. */
static void move_one_way(struct moves *m)
{
	struct rig *r = &m->rig;
	uint64_t ns;

	rig_alloc_all(r);
	rig_mark(r, 0, r->page[0], r->generation);
	rig_seal(r, r->n);
	ns = rig_store_ns(r, r->n, m->per);
	samples_add(&m->store, ns);
	m->copy_s += (double)ns / 1e9;
	batch_release(&r->client, r->page, r->n);
	rig_evict_all(r);
	ns = rig_load_ns(r, r->n, m->per);
	samples_add(&m->load, ns);
	m->copy_s += (double)ns / 1e9;
	rig_verify(r, 0, r->got[0], r->generation - 1);
	batch_release(&r->client, r->got, r->n);
}

/* Half a set down while the half that went down before comes up. */
static void move_both_ways(struct moves *m)
{
	uint64_t ns = rig_exchange_ns(&m->rig);

	samples_add(&m->both, ns);
	m->copy_s += (double)ns / 1e9;
}

static void bare_round(struct moves *m)
{
	uint64_t times = m->rig.n * m->rig.page_bytes / m->up.bytes;

	samples_add(&m->bare_store, card_copy_ns(&m->card, NULL, &m->down, times));
	samples_add(&m->bare_load, card_copy_ns(&m->card, &m->up, NULL, times));
	samples_add(&m->bare_both, card_copy_ns(&m->card, &m->up, &m->down, times / 2));
}

static void moves_open(struct gpu_bench *b, struct moves *m)
{
	const struct stats_segment *seg = broker_stats(&b->broker);

	m->mover = seg->device[gpu_stats_device(b, seg)].mover_pid;
	card_open(b->o->device, &m->card);
	card_memory(&m->card, b->plan.copy_bytes, &m->up);
	card_memory(&m->card, b->plan.copy_bytes, &m->down);
	rig_open(b, 1, GPU_PACKED_STRIDE, b->plan.set_bytes, &m->rig);
	if (!(kvb_space_tiers(m->rig.client.space) & 1u << KVB_TIER_HOST))
		bench_die("the space has no host tier");
	rig_warm(b, &m->rig, 2 * m->rig.n);
	m->per = m->rig.n / 8 < 64 ? m->rig.n / 8 : 64;
}

static double ratio(double value, double floor)
{
	return value / floor;
}

static void moves_tell(struct gpu_bench *b, struct moves *m)
{
	const uint64_t bytes = m->rig.n * m->rig.page_bytes;
	const uint64_t both = 2 * (m->rig.n / 2) * m->rig.page_bytes;
	const uint64_t times = bytes / m->up.bytes;
	double down = gpu_gb_s(bytes, samples_percentile_ns(&m->store, 50));
	double up = gpu_gb_s(bytes, samples_percentile_ns(&m->load, 50));
	double duplex = gpu_gb_s(both, samples_percentile_ns(&m->both, 50));
	double bare_down = gpu_gb_s(times * m->up.bytes, samples_percentile_ns(&m->bare_store, 50));
	double bare_up = gpu_gb_s(times * m->up.bytes, samples_percentile_ns(&m->bare_load, 50));
	double bare_both =
		gpu_gb_s(times / 2 * 2 * m->up.bytes, samples_percentile_ns(&m->bare_both, 50));
	struct gpu_figures *f = b->fig;

	if (!b->sums) {
		f->demote_unchecked_gb_s = down;
		f->demote_unchecked_ratio = ratio(down, bare_down);
		f->promote_unchecked_gb_s = up;
		f->promote_unchecked_ratio = ratio(up, bare_up);
		f->duplex_unchecked_gb_s = duplex;
		f->duplex_unchecked_ratio = ratio(duplex, bare_both);
		f->mover_cpu_cores = m->busy_s / m->copy_s;
		return;
	}
	f->bare_down_gb_s = bare_down;
	f->bare_up_gb_s = bare_up;
	f->bare_copy_gb_s = (bare_down + bare_up) / 2;
	f->bare_duplex_gb_s = bare_both;
	f->demote_gb_s = down;
	f->demote_ratio = ratio(down, bare_down);
	f->promote_gb_s = up;
	f->promote_ratio = ratio(up, bare_up);
	f->duplex_gb_s = duplex;
	f->duplex_ratio = ratio(duplex, bare_both);
	f->mover_cpu_checked_cores = m->busy_s / m->copy_s;
}

void gpu_move(struct gpu_bench *b)
{
	struct moves m = { 0 };

	moves_open(b, &m);
	for (uint32_t round = 0; round <= b->plan.rounds; round++) {
		double before_s;

		if (round == 1) { /* what went before were first touches of everything */
			m.store.n = m.load.n = m.both.n = 0;
			m.bare_store.n = m.bare_load.n = m.bare_both.n = 0;
			m.busy_s = m.copy_s = 0;
		}
		before_s = process_cpu_s(m.mover);
		move_one_way(&m);
		move_both_ways(&m);
		m.busy_s += process_cpu_s(m.mover) - before_s;
		bare_round(&m);
	}
	moves_tell(b, &m);
	rig_close(&m.rig);
}
