/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Life of segments, and flushes.
 *
 * A segment that is taken again first gets a trailer that says OPEN and a new number, and that is
 * flushed, before anything else is written into it: so the table of its past is never believed over
 * pages of its present. One is made ready ahead of need.
 *
 * A full segment waits for its groups, is flushed, then gets its table and trailer: a table that
 * can be read says that its pages had reached the disk.
 *
 * A flush that fails is not tried again: the kernel may have forgotten what it could not write, and
 * the next flush would succeed. Everything that was written on the part since the last good one is
 * given up.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/store/internal.h"

uint32_t segment_id(const struct store *s, const struct segment *g)
{
	return (uint32_t)(g - s->segment);
}

uint64_t segment_offset(const struct store *s, const struct segment *g)
{
	return FORMAT_HEAD_BYTES + (uint64_t)g->index * s->segment_units * FORMAT_UNIT;
}

struct engine_io segment_tail_io(const struct store *s, const struct segment *g,
				 const struct iovec *iov, enum engine_op op,
				 void (*done)(struct engine_io *), void *owner)
{
	const uint64_t segment_bytes = (uint64_t)s->segment_units * FORMAT_UNIT;

	return (struct engine_io){ .op = (uint8_t)op,
				   .file = (uint8_t)g->part,
				   .offset = segment_offset(s, g) + segment_bytes - iov->iov_len,
				   .bytes = (uint32_t)iov->iov_len,
				   .iov = iov,
				   .n_iov = 1,
				   .done = done,
				   .owner = owner };
}

/* ---- pages given up ------------------------------------------------------------------------ */

static void drop_page(struct store *s, struct segment *g, const struct format_desc *d)
{
	struct index_tag tag;

	store_tag(s, d->where, d->chain, d->epoch, &tag);
	if (index_table_remove_at(&s->index, &tag, segment_id(s, g), d->unit) && s->cfg.gone)
		s->cfg.gone(s->cfg.arg, d->where, d->chain, d->epoch);
}

void segment_drop_pages(struct store *s, struct segment *g)
{
	for (uint32_t i = 0; g->table && i < g->count; i++)
		drop_page(s, g, &g->table[i]);
	index_table_sweep(&s->index, segment_id(s, g));
}

void segment_poison(struct store *s, struct segment *g)
{
	struct part *p = &s->part[g->part];

	segment_drop_pages(s, g);
	g->failed = true;
	/* What has transfers in flight ends its way first; nothing of it is found any more. */
	if (g->state == SEGMENT_CLOSED)
		g->state = SEGMENT_BAD;
	if (p->open == g)
		segment_close(p, g);
}

void segment_freed(struct store *s, struct segment *g)
{
	struct part *p = &s->part[g->part];

	free(g->table);
	g->table = NULL;
	g->table_room = g->count = g->next_unit = 0;
	g->mismatches = 0;
	g->failed = g->dirty = g->covering = g->table_on_disk = false;
	g->state = g->index < p->segments_wanted ? SEGMENT_FREE : SEGMENT_GONE;
}

bool segment_table_good(const struct store *s, const struct segment *g, const char *table)
{
	const uint32_t fold = s->part[g->part].fold;
	const struct format_trailer *t;

	t = (const void *)(table + (size_t)(format_tail_units(g->count) - 1) * FORMAT_UNIT);
	return format_trailer_good(t, fold, g->index, s->segment_units) && t->seq == g->seq &&
	       t->count == g->count &&
	       format_table_good((const void *)table, t, fold, s->segment_units);
}

bool segment_describe(struct segment *g, const struct format_desc *d)
{
	if (g->count == g->table_room) {
		const uint32_t room = g->table_room ? 2 * g->table_room : 256;
		struct format_desc *table = realloc(g->table, room * sizeof(*table));

		if (!table)
			return false;
		g->table = table;
		g->table_room = room;
	}
	g->table[g->count++] = *d;
	return true;
}

/* ---- opening ------------------------------------------------------------------------------- */

static void open_failed(struct part *p, int error)
{
	p->opening->state = SEGMENT_BAD;
	p->opening = NULL;
	store_failure(p, error);
}

static void open_flushed(struct store *s, void *arg, int status)
{
	struct part *p = arg;

	if (status) {
		open_failed(p, status);
		return;
	}
	p->opening->state = SEGMENT_READY;
	p->ready = p->opening;
	p->opening = NULL;
}

static void open_written(struct engine_io *io)
{
	struct part *p = io->owner;

	if (io->res)
		open_failed(p, io->res);
	else
		flush_wait(p, &p->open_flush);
}

struct segment *segment_find_free(const struct part *p)
{
	for (uint32_t i = 0; i < p->segments_wanted; i++) {
		struct segment *g = &p->s->segment[p->id[i]];

		if (g->state == SEGMENT_FREE)
			return g;
	}
	return NULL;
}

void segment_prepare(struct part *p)
{
	struct store *s = p->s;
	struct segment *g;
	struct format_trailer *t = (void *)p->open_block;

	if (p->ready || p->opening || p->failed || s->cfg.read_only)
		return;
	if (s->closing && (p->open || !p->puts)) /* only for what is still to be written */
		return;
	g = segment_find_free(p);
	if (!g)
		return;
	g->state = SEGMENT_OPENING;
	g->seq = ++s->seq;
	p->opening = g;
	memset(t, 0, FORMAT_UNIT);
	*t = (struct format_trailer){ .seq = g->seq, .segment = g->index, .state = FORMAT_OPEN };
	format_trailer_seal(t, p->fold);
	p->open_iov = (struct iovec){ t, FORMAT_UNIT };
	p->open_flush = (struct flush_wait){ .done = open_flushed, .arg = p };
	p->open_io = segment_tail_io(s, g, &p->open_iov, ENGINE_WRITE, open_written, p);
	engine_submit(&s->engine, &p->open_io);
}

struct segment *segment_take_ready(struct part *p)
{
	struct segment *g = p->ready;

	if (g) {
		g->state = SEGMENT_OPEN;
		p->ready = NULL;
		p->open = g;
	}
	return g;
}

/* ---- closing ------------------------------------------------------------------------------- */

static void closed(struct part *p)
{
	struct segment *g = p->closing;

	p->closing = NULL;
	free(p->close_mem);
	p->close_mem = NULL;
	free(g->table);
	g->table = NULL;
	g->table_room = 0;
	g->state = SEGMENT_CLOSED;
}

static void table_written(struct engine_io *io)
{
	struct part *p = io->owner;

	if (io->res)
		store_failure(p, io->res); /* its pages are there; the next start scans for them */
	else
		p->closing->table_on_disk = p->unflushed = true;
	p->closing->dirty = p->closing->dirty || io->res == 0;
	closed(p);
}

static void write_table(struct part *p)
{
	struct store *s = p->s;
	struct segment *g = p->closing;
	const uint32_t units = format_tail_units(g->count);
	struct format_trailer *t;

	p->close_mem = store_units(units);
	if (!p->close_mem) {
		closed(p);
		return;
	}
	memcpy(p->close_mem, g->table, g->count * sizeof(*g->table));
	t = (void *)(p->close_mem + (size_t)(units - 1) * FORMAT_UNIT);
	*t = (struct format_trailer){
		.seq = g->seq,
		.segment = g->index,
		.state = FORMAT_CLOSED,
		.count = g->count,
		.table_crc = format_crc(0, g->table, g->count * sizeof(*g->table)),
	};
	format_trailer_seal(t, p->fold);
	p->close_iov = (struct iovec){ p->close_mem, (size_t)units * FORMAT_UNIT };
	p->close_io = segment_tail_io(s, g, &p->close_iov, ENGINE_WRITE, table_written, p);
	engine_submit(&s->engine, &p->close_io);
}

static void close_flushed(struct store *s, void *arg, int status)
{
	struct part *p = arg;

	if (status || p->closing->failed)
		closed(p);
	else
		write_table(p);
}

void segment_close(struct part *p, struct segment *g)
{
	if (p->open == g)
		p->open = NULL;
	g->state = SEGMENT_CLOSING;
}

/* One after the other: the memory of the table and the order of flushes. */
void segment_close_turn(struct part *p)
{
	struct store *s = p->s;

	if (p->closing)
		return;
	for (uint32_t i = 0; i < p->segments; i++) {
		struct segment *g = &s->segment[p->id[i]];

		if (g->state != SEGMENT_CLOSING || g->groups)
			continue;
		p->closing = g;
		if (g->failed || p->failed) {
			closed(p);
			s->more = true; /* whoever waits for it is not told by a transfer */
			continue;
		}
		p->close_flush = (struct flush_wait){ .done = close_flushed, .arg = p };
		flush_wait(p, &p->close_flush);
		return;
	}
}

/* ---- flushes ------------------------------------------------------------------------------- */

void flush_wait(struct part *p, struct flush_wait *w)
{
	struct flush_wait **end = &p->flush_wanted;

	while (*end)
		end = &(*end)->next;
	w->next = NULL;
	*end = w;
}

static void flush_ended(struct engine_io *io)
{
	struct part *p = io->owner;
	struct store *s = p->s;
	struct flush_wait *w = p->flush_active;

	p->flushing = false;
	p->flush_active = NULL;
	s->stats.flushes++;
	s->stats.flushes_failed += io->res != 0;
	for (uint32_t i = 0; i < p->segments; i++) {
		struct segment *g = &s->segment[p->id[i]];

		if (io->res && (g->covering || g->dirty)) {
			g->dirty = false;
			segment_poison(s, g);
		}
		g->covering = false;
	}
	if (io->res)
		store_failure(p, io->res);
	while (w) {
		struct flush_wait *next = w->next;

		w->done(s, w->arg, io->res);
		w = next;
	}
}

void flush_turn(struct part *p)
{
	struct store *s = p->s;

	if (p->flushing)
		return;
	if (!p->flush_wanted) {
		if (!p->unflushed || p->failed ||
		    s->now_ns - p->flushed_ns < s->cfg.flush_ms * 1000000ull)
			return;
	}
	p->flushing = true;
	p->unflushed = false;
	p->flushed_ns = s->now_ns;
	p->flush_active = p->flush_wanted;
	p->flush_wanted = NULL;
	for (uint32_t i = 0; i < p->segments; i++) {
		struct segment *g = &s->segment[p->id[i]];

		g->covering = g->dirty;
		g->dirty = false;
	}
	p->flush_io = (struct engine_io){
		.op = ENGINE_FLUSH, .file = (uint8_t)p->number, .done = flush_ended, .owner = p
	};
	engine_submit(&s->engine, &p->flush_io);
}
