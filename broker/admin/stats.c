/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Publishing: one walk over the tables, written straight into the mapped file under the sequence
 * lock.
 *
 * The daemon pays for its readers only while it turns: stats_turn() is two loads until 100 ms have
 * passed, and a sleeping daemon has no turns. What the last turn before sleep did is seen at the
 * next one, or at once by an operator, because a HELLO of role ADMIN publishes first.
 *
 * The file is made under another name, filled to its size (a hole that a full disk can't back would
 * be a SIGBUS for us) and renamed: a reader of the file of a former daemon keeps that one, whole.
 * Its mode lets everyone read and nobody but the daemon's user write, so a reader can't turn its
 * descriptor into a writable one.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/admin/stats.h"
#include "broker/io/log.h"
#include "broker/io/ring.h"
#include "broker/io/server.h"
#include "broker/io/shm.h"
#include "broker/io/start.h"
#include "broker/io/store_tier.h"
#include "broker/policy/policy.h"

#define STATS_PERIOD_NS (100ull * 1000 * 1000)
#define STATS_RECLAIMS_MAX 1024u

enum stats_state { STATS_STARTING, STATS_READY, STATS_DRAINING, STATS_STOPPED };

struct stats {
	struct stats_segment *seg;
	uint64_t next_ns;
	uint64_t reclaim_total;
	uint64_t reclaim_ns[STATS_RECLAIMS_MAX];
	uint64_t reclaim_sum_ns, reclaim_bucket[STATS_RECLAIM_BUCKETS];
	char path[4096];
};

static void stats_copy_text(char *to, size_t bytes, const char *from)
{
	(void)snprintf(to, bytes, "%s", from);
}

static void stats_lock(struct stats_segment *seg)
{
	shm_store(&seg->seq, shm_load(&seg->seq) + 1);
	shm_fence();
}

static void stats_unlock(struct stats_segment *seg)
{
	shm_store_release(&seg->seq, shm_load(&seg->seq) + 1);
}

static int stats_file_new(const char *path, struct stats_segment **ret)
{
	char temporary[4096 + 8];
	void *mem;
	int fd, r;

	(void)snprintf(temporary, sizeof(temporary), "%s.new", path);
	if (unlink(temporary) < 0 && errno != ENOENT)
		return -errno;
	fd = open(temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644);
	if (fd < 0)
		return -errno;
	/* Not left to the umask: whoever the directory lets in may read. */
	r = fchmod(fd, 0644) < 0 ? errno : posix_fallocate(fd, 0, sizeof(struct stats_segment));
	if (r == 0) {
		mem = mmap(NULL, sizeof(struct stats_segment), PROT_READ | PROT_WRITE, MAP_SHARED,
			   fd, 0);
		if (mem == MAP_FAILED)
			r = errno;
	}
	(void)close(fd);
	if (r == 0 && rename(temporary, path) < 0) {
		r = errno;
		(void)munmap(mem, sizeof(struct stats_segment));
	}
	if (r != 0) {
		(void)unlink(temporary);
		return -r;
	}
	*ret = mem;
	return 0;
}

/* Readers run in other directories. */
static void stats_copy_directory(struct stats_segment *seg, const char *path)
{
	char *whole = realpath(path, NULL);

	if (whole && strlen(whole) < sizeof(seg->state_dir))
		stats_copy_text(seg->state_dir, sizeof(seg->state_dir), whole);
	free(whole);
}

int stats_open(struct server *s)
{
	struct stats *st;
	struct stats_segment *seg;
	struct rlimit files;
	int r;

	st = calloc(1, sizeof(*st));
	if (!st)
		return -ENOMEM;
	r = snprintf(st->path, sizeof(st->path), "%s/stats", s->cfg.state_dir);
	if (r < 0 || (size_t)r >= sizeof(st->path)) {
		free(st);
		return -ENAMETOOLONG;
	}
	r = stats_file_new(st->path, &st->seg);
	if (r < 0) {
		free(st);
		return r;
	}
	seg = st->seg;
	seg->version = STATS_VERSION;
	seg->bytes = sizeof(*seg);
	seg->pid = getpid();
	seg->ready = STATS_STARTING;
	seg->boot_id = s->boot_id;
	seg->started_ns = s->started_ns;
	stats_copy_text(seg->daemon_version, sizeof(seg->daemon_version), KVB_VERSION);
	stats_copy_directory(seg, s->cfg.state_dir);
	seg->files_needed = start_count_files(&s->cfg);
	seg->files_max = getrlimit(RLIMIT_NOFILE, &files) < 0 ? 0 : files.rlim_cur;
	/* Last: a reader that sees the magic sees the rest. */
	__atomic_store_n(&seg->magic, STATS_MAGIC, __ATOMIC_RELEASE);
	s->stats = st;
	return 0;
}

void stats_close(struct server *s)
{
	struct stats *st = s->stats;

	if (!st)
		return;
	stats_lock(st->seg);
	st->seg->ready = STATS_STOPPED;
	stats_unlock(st->seg);
	(void)munmap(st->seg, sizeof(*st->seg));
	free(st);
	s->stats = NULL;
}

static uint64_t stats_page_bytes(const struct core_space *sp)
{
	return sp->regions * sp->stride_bytes;
}

static void stats_fill_tenants(const struct core *c, struct stats_segment *seg)
{
	uint32_t i, n = 0;

	for (i = 0; i < c->h->limits.tenants && n < STATS_TENANTS_MAX; i++) {
		const struct core_tenant *t = &c->tenants[i];
		struct stats_tenant *st = &seg->tenant[n];

		if (!t->used)
			continue;
		memcpy(st->name, t->name, sizeof(st->name));
		st->uid = t->uid;
		st->clients = t->clients;
		st->pages_held = t->pages_held;
		st->index = i;
		st->leases = t->leases;
		st->pins = t->pins;
		st->lookups = t->lookups;
		st->lookup_keys = t->lookup_keys;
		st->lookup_hits = t->lookup_hits;
		st->allocs = t->allocs;
		st->evictions = t->evictions;
		st->seals = t->seals;
		st->refusals = t->refusals;
		memcpy(st->budget, t->budget, sizeof(st->budget));
		n++;
	}
	seg->tenants_n = n;
}

static void stats_fill_client(const struct core *c, const struct core_client *cl, uint32_t id,
			      struct stats_client *sc)
{
	unsigned i;

	memset(sc, 0, sizeof(*sc));
	memcpy(sc->name, cl->name, sizeof(sc->name));
	sc->id = id;
	sc->state = cl->state;
	sc->tenant = cl->tenant;
	sc->uid = cl->uid;
	sc->pid = cl->pid;
	sc->leases = cl->leases;
	sc->leases_max = cl->leases_max;
	sc->pins = cl->pins;
	sc->held = cl->held;
	sc->opened_ns = cl->opened_ns;
	for (i = 0; i < KVB_SPACES_MAX; i++) {
		const struct core_member *m;

		if (cl->member[i] == CORE_NONE16)
			continue;
		m = &c->members[cl->member[i]];
		sc->spaces++;
		sc->magazine += m->magazine;
		sc->held_bytes += m->held * stats_page_bytes(&c->spaces[m->space]);
	}
}

static void stats_fill_ring(const struct ring *r, struct stats_client *sc)
{
	const struct kvb_sub *sub = r->sub.mem;
	uint32_t fill;

	sc->hot = r->hot;
	sc->entries = r->entries;
	sc->invalid = r->invalid;
	fill = shm_load(&sub->sq_tail) - r->sq_head;
	sc->sq_fill = fill <= r->geo.sq_entries ? fill : r->geo.sq_entries;
	fill = r->cq_tail - shm_load(&sub->cq_head);
	sc->cq_fill = fill <= r->geo.cq_entries ? fill : r->geo.cq_entries;
}

static void stats_fill_clients(struct server *s, struct stats_segment *seg)
{
	const struct core *c = &s->core;
	uint32_t i, n = 0;

	for (i = 0; i < c->h->limits.clients && n < STATS_CLIENTS_MAX; i++) {
		const struct core_client *cl = &c->clients[i];
		const struct session *ss;

		if (cl->state == CORE_CLIENT_FREE)
			continue;
		stats_fill_client(c, cl, i, &seg->client[n]);
		ss = session_of_client(s, i);
		if (ss && ss->ring)
			stats_fill_ring(ss->ring, &seg->client[n]);
		n++;
	}
	seg->clients_n = n;
}

static uint32_t stats_index(uint16_t index)
{
	return index == CORE_NONE16 ? STATS_NONE : index;
}

static void stats_fill_spaces(const struct core *c, struct stats_segment *seg)
{
	uint32_t i, n = 0;

	for (i = 0; i < c->h->limits.spaces && n < STATS_SPACES_MAX; i++) {
		const struct core_space *sp = &c->spaces[i];

		if (!sp->used)
			continue;
		seg->space[n++] = (struct stats_space){
			.id = i,
			.device = sp->device,
			.tenant = sp->tenant,
			.regions = sp->regions,
			.stride_bytes = sp->stride_bytes,
			.tag = sp->tag,
			.slab_bytes = sp->slab_bytes,
			.pages_per_slab = sp->pages_per_slab,
			.slots = sp->slots,
			.slabs = sp->slabs,
			.members = sp->members,
			.pages = sp->pages,
			.pages_free = sp->pages_free,
			.listed = sp->listed,
			.below = stats_index(sp->below),
			.above = stats_index(sp->above),
			.ripe = sp->ripe,
			.falling = sp->falling,
			.rising = sp->rising,
			.rank = sp->rank,
			.ranks = sp->ranks,
			.group = sp->group,
			.evictions = sp->evictions,
			.used_ns = sp->used_ns,
		};
	}
	seg->spaces_n = n;
}

static void stats_fill_namespaces(const struct core *c, struct stats_segment *seg)
{
	uint32_t i, n = 0;

	for (i = 0; i < c->h->limits.namespaces && n < STATS_NAMESPACES_MAX; i++) {
		const struct core_ns *ns = &c->namespaces[i];
		struct stats_namespace *sn = &seg->ns[n];

		if (!ns->used)
			continue;
		memcpy(sn->digest, ns->digest, sizeof(sn->digest));
		sn->id = i;
		sn->tenant = ns->tenant;
		sn->refs = ns->refs;
		sn->epoch = ns->epoch;
		sn->pages = ns->pages;
		sn->pages_current = ns->pages_current;
		sn->lookups = ns->lookups;
		sn->lookup_keys = ns->lookup_keys;
		sn->lookup_hits = ns->lookup_hits;
		sn->stale_seals = ns->stale_seals;
		sn->used_ns = ns->used_ns;
		n++;
	}
	seg->namespaces_n = n;
}

static void stats_fill_server(const struct server *s, struct stats_segment *seg)
{
	const struct core_header *h = s->core.h;

	seg->ready = s->draining ? STATS_DRAINING : STATS_READY;
	seg->published_ns = s->now_ns;
	seg->features = KVB_FEAT_ALL & ~(h->limits.transfers ? 0 : KVB_FEAT_LOWER_TIER);
	stats_copy_text(seg->engine, sizeof(seg->engine), loop_engine_name(s->loop));
	stats_copy_text(seg->policy, sizeof(seg->policy), s->core.policy->name);
	stats_copy_text(seg->policy_summary, sizeof(seg->policy_summary), s->core.policy->summary);
	seg->n = h->n;
	seg->turns = s->turns;
	seg->sleeps = s->sleeps;
	seg->accepted = s->accepted;
	seg->refused = s->refused;
	seg->protocol_errors = s->protocol_errors;
	seg->attach_timeouts = s->attach_timeouts;
	seg->kicked = s->kicked;
	seg->log_dropped = log_dropped();
	seg->state_bytes = s->state_bytes;
	seg->pages_max = h->limits.pages;
	seg->indexed = h->indexed;
	seg->leases_used = h->leases_used;
	seg->leases_max = h->limits.leases;
	seg->pages_stale = h->pages_stale;
	seg->reaping = h->clients_reaping;
	seg->draining = h->slabs_draining;
}

static void stats_fill_store(const struct server *s, struct stats_segment *seg)
{
	if (!store_tier_get_stats(s, &seg->store))
		seg->store.parts = 0;
	seg->store_filtered = s->cfg.store_admit;
}

static void stats_fill_reclaims(const struct stats *st, struct stats_segment *seg)
{
	if (seg->reclaim_total == st->reclaim_total)
		return;
	memcpy(seg->reclaim_ns, st->reclaim_ns, sizeof(seg->reclaim_ns));
	memcpy(seg->reclaim_bucket, st->reclaim_bucket, sizeof(seg->reclaim_bucket));
	seg->reclaim_sum_ns = st->reclaim_sum_ns;
	seg->reclaim_total = st->reclaim_total;
	seg->reclaim_n = st->reclaim_total < STATS_RECLAIMS_MAX ? (uint32_t)st->reclaim_total
								: STATS_RECLAIMS_MAX;
}

void stats_publish(struct server *s)
{
	struct stats *st = s->stats;

	if (!st)
		return;
	stats_lock(st->seg);
	stats_fill_server(s, st->seg);
	stats_fill_devices(s, st->seg);
	stats_fill_tenants(&s->core, st->seg);
	stats_fill_clients(s, st->seg);
	stats_fill_spaces(&s->core, st->seg);
	stats_fill_namespaces(&s->core, st->seg);
	stats_fill_store(s, st->seg);
	stats_fill_reclaims(st, st->seg);
	stats_unlock(st->seg);
	st->next_ns = s->now_ns + STATS_PERIOD_NS;
}

void stats_turn(struct server *s)
{
	if (s->stats && s->now_ns >= s->stats->next_ns)
		stats_publish(s);
}

void stats_reclaimed(struct server *s, uint64_t ns)
{
	struct stats *st = s->stats;
	unsigned bucket = 0;

	if (!st)
		return;
	st->reclaim_ns[st->reclaim_total++ % STATS_RECLAIMS_MAX] = ns;
	st->reclaim_sum_ns += ns;
	while (bucket < STATS_RECLAIM_BUCKETS && ns > STATS_RECLAIM_BOUND_NS(bucket))
		bucket++;
	if (bucket < STATS_RECLAIM_BUCKETS)
		st->reclaim_bucket[bucket]++;
}

int stats_reader_fd(const struct server *s)
{
	int fd;

	if (!s->stats)
		return -ENODEV;
	fd = open(s->stats->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	return fd < 0 ? -errno : fd;
}
