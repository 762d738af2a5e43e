/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Opening and closing a store; see store.h.
 *
 * The engine is started twice: for what is read at open, and again for the thread that will own the
 * store, which need not be the same. A store that is closed properly has no open segment; one that
 * is abandoned, and one whose process was killed, is put right by the next open.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>

#include "broker/store/internal.h"

#define CLOSE_WAIT_NS (20ull * 1000 * 1000)
#define CLOSE_TIME_NS (30ull * 1000 * 1000 * 1000)
#define INDEX_SPARE (2 * FORMAT_GROUP_MAX * GROUPS_MAX) /* of a part: what may be on its way */
/*
 * Room for pages of 64 KiB is 400 MiB a TiB, all of it touched sooner or later. For pages of 16 KiB
 * it would be 1.6 GiB, 100 bytes for each page of 64 KiB: more than the 32 a page that are
 * promised. A store of smaller pages goes without: its oldest segments are evicted when the index
 * is full.
 */
#define PAGE_BYTES_USUAL (64u << 10)

static uint64_t clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void fill_defaults(struct store_cfg *c)
{
	c->depth = c->depth ? c->depth : 32;
	c->depth_write = c->depth_write ? c->depth_write : 16;
	c->depth_beside = c->depth_beside ? c->depth_beside : 1;
	c->flush_ms = c->flush_ms ? c->flush_ms : 1000;
	c->lock_wait_ms = c->lock_wait_ms ? c->lock_wait_ms : 5000;
}

static int start_engine(struct store *s)
{
	const struct engine_cfg cfg = {
		.ops = s->cfg.ops,
		.ops_arg = s->cfg.ops_arg,
		.threads = s->cfg.threads,
		.depth = s->cfg.depth,
		.depth_write = s->cfg.depth_write,
		.depth_beside = s->cfg.depth_beside,
		.files = s->parts,
	};
	int error = engine_open(&s->engine, &cfg);

	for (uint32_t i = 0; i < s->parts && !error; i++)
		error = engine_file_set(&s->engine, i, s->part[i].fd);
	return error;
}

static int open_files(struct store *s, char *why, size_t why_bytes)
{
	for (uint32_t i = 0; i < s->parts; i++) {
		struct part *p = &s->part[i];
		const struct engine_file_want want = {
			.path = p->path,
			.bytes = s->cfg.part[i].bytes,
			.lock_wait_ms = s->cfg.lock_wait_ms,
			.read_only = s->cfg.read_only,
		};

		p->fd = s->file_ops->open(s->cfg.ops_arg, &want, &p->info, why, why_bytes);
		if (p->fd < 0)
			return p->fd;
	}
	return 0;
}

static int make_index(struct store *s)
{
	uint64_t pages = s->cfg.pages_max, bytes = 0;
	void *mem;

	for (uint32_t i = 0; i < s->parts; i++)
		bytes += s->part[i].super.part_bytes;
	if (!pages)
		pages = bytes / PAGE_BYTES_USUAL;
	pages += s->parts * INDEX_SPARE;
	s->index_bytes = index_table_bytes(pages);
	mem = fault_fails("store-index") ? MAP_FAILED
					 : mmap(NULL, s->index_bytes, PROT_READ | PROT_WRITE,
						MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (mem == MAP_FAILED)
		return -ENOMEM;
	(void)madvise(mem, s->index_bytes, MADV_HUGEPAGE);
	index_table_init(&s->index, mem, pages);
	return getrandom(&s->tag_secret, sizeof(s->tag_secret), 0) == (ssize_t)sizeof(s->tag_secret)
		       ? 0
		       : -EIO;
}

static int make_tables(struct store *s)
{
	s->part = fault_calloc("store-memory", s->parts, sizeof(*s->part));
	s->ns = fault_calloc("store-memory", FORMAT_NS_MAX, sizeof(*s->ns));
	s->segment = fault_calloc("store-memory", INDEX_SEGMENTS_MAX, sizeof(*s->segment));
	s->request = fault_calloc("store-memory", REQUESTS_MAX, sizeof(*s->request));
	s->zeros = store_units(1);
	s->scratch = store_units(1);
	s->blocks_bytes = (uint64_t)s->parts * GROUPS_MAX * FORMAT_UNIT;
	s->blocks = store_units(s->parts * GROUPS_MAX);
	if (!s->part || !s->ns || !s->segment || !s->request || !s->zeros || !s->scratch ||
	    !s->blocks)
		return -ENOMEM;
	for (uint32_t i = REQUESTS_MAX; i > 0; i--) {
		s->request[i - 1].next = s->request_free;
		s->request_free = &s->request[i - 1];
	}
	for (uint32_t i = 0; i < s->parts; i++) {
		struct part *p = &s->part[i];
		char *blocks = s->blocks + (size_t)i * GROUPS_MAX * FORMAT_UNIT;

		p->s = s;
		p->number = i;
		p->fd = -1;
		p->bytes_wanted = s->cfg.part[i].bytes;
		snprintf(p->path, sizeof(p->path), "%s", s->cfg.part[i].path);
		if (write_init(p, blocks) < 0 || super_commit_init(p) < 0)
			return -ENOMEM;
	}
	return 0;
}

static void free_waiters(struct waiter *w)
{
	while (w) {
		struct waiter *next = w->next;

		free(w);
		w = next;
	}
}

static void finish_part(struct store *s, struct part *p)
{
	for (struct flush_wait *w = p->flush_wanted, *next; w; w = next) {
		next = w->next;
		if (w->done == store_flush_ended)
			store_flush_ended(s, w->arg, -ECANCELED);
	}
	p->flush_wanted = NULL;
	super_commit_finish(p);
	evict_free(p);
	free(p->open_block);
	free(p->close_mem);
	free(p->id);
	if (p->fd >= 0)
		s->file_ops->close(s->cfg.ops_arg, p->fd);
}

struct store *store_abandon(struct store *s)
{
	if (!s)
		return NULL;
	if (s->engine.ops) {
		engine_settle(&s->engine);
		engine_close(&s->engine);
	}
	for (uint32_t i = 0; s->part && i < s->parts; i++)
		finish_part(s, &s->part[i]);
	scrub_free(s);
	free_waiters(s->bumps_waiting);
	free_waiters(s->bumps_active);
	for (uint32_t i = 0; s->segment && i < s->segments; i++)
		free(s->segment[i].table);
	for (uint32_t i = 0; s->request && i < REQUESTS_MAX; i++)
		free(s->request[i].bounce);
	if (s->index.entry)
		munmap(s->index.entry, s->index_bytes);
	free(s->part);
	free(s->ns);
	free(s->segment);
	free(s->request);
	free(s->zeros);
	free(s->scratch);
	free(s->blocks);
	free(s->reports.done);
	free(s);
	return NULL;
}

/* Anything that the way to a clean disk waits for. */
static bool unfinished(const struct store *s)
{
	for (uint32_t i = 0; i < s->parts; i++) {
		const struct part *p = &s->part[i];

		if (!p->failed && (p->puts || p->groups || p->opening || p->closing ||
				   p->flushing || p->flush_wanted || p->evict.segment))
			return true;
		for (uint32_t j = 0; j < p->segments && !p->failed; j++)
			if (s->segment[p->id[j]].state == SEGMENT_CLOSING)
				return true;
	}
	return s->committing || s->commit_wanted;
}

static void finish_all(struct store *s)
{
	uint64_t end_ns = clock_ns() + CLOSE_TIME_NS;

	while (unfinished(s) && clock_ns() < end_ns) {
		s->now_ns = clock_ns();
		store_turn(s);
		store_wait(s, CLOSE_WAIT_NS);
	}
}

struct store *store_close(struct store *s)
{
	if (!s || s->cfg.read_only)
		return store_abandon(s);
	s->closing = true;
	finish_all(s);
	for (uint32_t i = 0; i < s->parts; i++)
		if (s->part[i].open)
			segment_close(&s->part[i], s->part[i].open);
	finish_all(s);
	s->clean = true;
	s->commit_wanted = true;
	finish_all(s);
	return store_abandon(s);
}

static int open_all(struct store *s, char *why, size_t why_bytes)
{
	const uint64_t start_ns = clock_ns();
	uint64_t index_ns;
	int error = make_tables(s);

	why[0] = '\0';
	if (!error)
		error = open_files(s, why, why_bytes);
	if (!error)
		error = start_engine(s);
	if (!error)
		error = recover_parts(s, why, why_bytes);
	if (!error)
		error = make_index(s);
	index_ns = clock_ns();
	if (!error)
		error = recover_pages(s);
	s->stats.index_ns = clock_ns() - index_ns;
	if (!error && !s->cfg.read_only)
		error = super_commit_sync(s);
	if (error)
		return error;
	/* The ring becomes that of the thread that makes the next call. */
	engine_close(&s->engine);
	error = start_engine(s);
	if (!error)
		(void)engine_memory_add(&s->engine, s->blocks, s->blocks_bytes);
	for (uint32_t i = 0; i < s->parts && !error; i++)
		if (s->part[i].bytes_wanted &&
		    s->part[i].bytes_wanted < s->part[i].super.part_bytes)
			(void)store_resize(s, i, s->part[i].bytes_wanted); /* too small: it stays */
	s->stats.recovery_ns = clock_ns() - start_ns;
	return error;
}

int store_open(const struct store_cfg *cfg, struct store **ret, char *why, size_t why_bytes)
{
	struct store *s;
	int error = -EINVAL;

	if (cfg->parts == 0 || cfg->parts > STORE_PARTS_MAX) {
		snprintf(why, why_bytes, "a store has 1 to %u parts", STORE_PARTS_MAX);
		return error;
	}
	s = fault_calloc("store-memory", 1, sizeof(*s));
	if (!s) {
		snprintf(why, why_bytes, "out of memory");
		return -ENOMEM;
	}
	s->cfg = *cfg;
	s->parts = cfg->parts;
	s->file_ops = cfg->ops && cfg->ops->file_ops ? cfg->ops->file_ops : &engine_file_real_ops;
	fill_defaults(&s->cfg);
	error = open_all(s, why, why_bytes);
	if (error) {
		if (why[0] == '\0')
			snprintf(why, why_bytes, "%s: %s", cfg->part[0].path, strerror(-error));
		store_abandon(s);
		return error;
	}
	*ret = s;
	return 0;
}
