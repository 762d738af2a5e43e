/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Segments are evicted as a whole, the oldest first; its pages that were read since they were
 * written get a second chance: they are carried forward, up to a quarter of a segment, so that
 * eviction always gains room. Who is carried counts as not read.
 *
 * The index knows tags only, so the table of the segment is read to know whose pages it had; where
 * there is none the index is walked. A segment is free when no read of it is in flight.
 *
 * What was carried is flushed before the segment is free: a page that had survived a power cut
 * until now still does.
 *
 * A part that shrinks has the segments behind its new end evicted, whatever their age, and all
 * their hot pages carried.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/store/internal.h"

#define DESCS_A_TURN 4096u

static bool shrinks(const struct part *p)
{
	return p->segments_wanted < p->segments;
}

/* ---- which --------------------------------------------------------------------------------- */

static struct segment *choose(struct part *p, bool behind)
{
	struct segment *best = NULL;

	for (uint32_t i = behind ? p->segments_wanted : 0; i < p->segments; i++) {
		struct segment *g = &p->s->segment[p->id[i]];

		if (g->state == SEGMENT_CLOSED && (!best || g->seq < best->seq))
			best = g;
	}
	return best;
}

static bool index_is_full(const struct store *s)
{
	return s->index.used + s->parts * FORMAT_GROUP_MAX * GROUPS_MAX >= s->index.used_max;
}

static struct segment *wanted(struct part *p)
{
	if (shrinks(p))
		return choose(p, true);
	if (!segment_find_free(p) || index_is_full(p->s))
		return choose(p, false);
	return NULL;
}

/* ---- one page ------------------------------------------------------------------------------ */

static void gone(struct store *s, const struct format_desc *d)
{
	s->stats.evicted_pages++;
	if (s->cfg.gone)
		s->cfg.gone(s->cfg.arg, d->where, d->chain, d->epoch);
}

void evict_forwarded(struct part *p, struct request *r, int status)
{
	struct store *s = p->s;
	struct part *from = &s->part[s->segment[r->segment].part];

	from->evict.in_flight--;
	s->more = true; /* it may have been refused, and nothing landed */
	if (status == 0) {
		from->evict.carried = true;
		s->stats.forward_pages++;
		s->stats.forward_bytes += r->bytes;
	} else if (index_table_remove_at(&s->index, &r->tag, r->segment,
					 (uint16_t)(uintptr_t)r->user)) {
		s->stats.evicted_pages++;
		if (s->cfg.gone)
			s->cfg.gone(s->cfg.arg, r->key.where, r->key.chain, r->key.epoch);
	}
	store_request_free(s, r);
}

static void forward_read(struct engine_io *io)
{
	struct store *s = io->owner;
	struct request *r = (struct request *)((char *)io - offsetof(struct request, io));
	struct part *to = write_choose_part(s);
	int status = io->res;

	s->segment[r->segment].readers--;
	if (!status && store_crc_pieces(r->piece, r->n) != r->crc) {
		s->stats.mismatches++;
		status = -EIO;
	}
	r->user = (void *)(uintptr_t)r->unit; /* the old place, until it has a new one */
	r->has_crc = true;
	if (status || !to)
		evict_forwarded(&s->part[s->segment[r->segment].part], r, -EIO);
	else
		write_queue(to, r);
}

/* Through memory of its own. False: not now, or not at all; *ret_wait tells. */
static bool forward(struct part *p, const struct format_desc *d, const struct index_tag *tag,
		    const struct index_place *at, bool *ret_wait)
{
	struct store *s = p->s;
	struct evict *e = &p->evict;
	const uint32_t units = format_units(d->bytes);
	struct request *r;

	*ret_wait = e->in_flight >= FORWARDS_MAX;
	if (*ret_wait || units > e->budget_units || d->bytes > STORE_PAGE_BYTES_MAX ||
	    s->requests + FORWARDS_MAX > REQUESTS_MAX)
		return false;
	r = store_request_new(s);
	if (!r)
		return false;
	r->bounce = store_units_raw(units);
	r->kind = REQUEST_FORWARD;
	r->key = (struct store_key){ .where = { d->where[0], d->where[1] },
				     .chain = { d->chain[0], d->chain[1] },
				     .epoch = d->epoch,
				     .ns = d->ns };
	r->tag = *tag;
	r->bytes = d->bytes;
	r->n = 1;
	r->piece[0] = (struct iovec){ r->bounce, d->bytes };
	if (!r->bounce || read_start(s, r, at, forward_read) < 0) {
		store_request_free(s, r);
		return false;
	}
	e->budget_units -= units;
	e->in_flight++;
	return true;
}

/* False: wait. */
static bool evict_page(struct part *p, const struct format_desc *d)
{
	struct store *s = p->s;
	struct segment *g = p->evict.segment;
	struct index_place at;
	struct index_tag tag;
	bool wait;

	store_tag(s, d->where, d->chain, d->epoch, &tag);
	if (!index_table_find(&s->index, &tag, &at) || at.segment != segment_id(s, g) ||
	    at.unit != d->unit)
		return true; /* it is elsewhere, or was forgotten */
	if (at.hot && d->ns < s->ns_count && s->ns[d->ns].epoch == d->epoch &&
	    (forward(p, d, &tag, &at, &wait) || wait))
		return !wait;
	index_table_remove_at(&s->index, &tag, at.segment, at.unit);
	gone(s, d);
	return true;
}

/* ---- one segment --------------------------------------------------------------------------- */

static void table_read(struct engine_io *io)
{
	struct part *p = io->owner;
	struct evict *e = &p->evict;

	e->read = true;
	if (io->res == 0 && segment_table_good(p->s, e->segment, e->table))
		return;
	free(e->table);
	e->table = NULL;
}

static void start(struct part *p, struct segment *g)
{
	struct store *s = p->s;
	struct evict *e = &p->evict;
	const uint32_t units = format_tail_units(g->count);

	*e = (struct evict){ .segment = g };
	e->budget_units = shrinks(p) ? s->segment_units : s->segment_units / 4;
	g->state = SEGMENT_EVICTING;
	e->table = g->table_on_disk && !g->failed ? store_units_raw(units) : NULL;
	if (!e->table) {
		e->read = true;
		return;
	}
	e->iov = (struct iovec){ e->table, (size_t)units * FORMAT_UNIT };
	e->io = segment_tail_io(s, g, &e->iov, ENGINE_READ, table_read, p);
	engine_submit(&s->engine, &e->io);
}

/* What is not used and lies behind the end goes at once. */
static void leave_behind(struct part *p)
{
	struct store *s = p->s;

	for (uint32_t i = p->segments_wanted; i < p->segments; i++) {
		struct segment *g = &s->segment[p->id[i]];

		if (p->ready == g) {
			p->ready = NULL;
			segment_freed(s, g);
		}
		if (p->open == g)
			segment_close(p, g);
		if (g->state == SEGMENT_FREE || (g->state == SEGMENT_BAD && !g->readers))
			g->state = SEGMENT_GONE;
	}
}

void evict_free(struct part *p)
{
	free(p->evict.table);
	p->evict.table = NULL;
}

static void carried_flushed(struct store *s, void *arg, int status)
{
	((struct evict *)arg)->flushes--;
}

static void flush_carried(struct part *p)
{
	struct store *s = p->s;
	struct evict *e = &p->evict;

	e->carried = false;
	for (uint32_t i = 0; i < s->parts; i++) {
		if (s->part[i].failed)
			continue;
		e->flush[i] = (struct flush_wait){ .done = carried_flushed, .arg = e };
		e->flushes++;
		flush_wait(&s->part[i], &e->flush[i]);
	}
}

void evict_turn(struct part *p)
{
	struct store *s = p->s;
	struct evict *e = &p->evict;
	const struct format_desc *d;

	if (shrinks(p))
		leave_behind(p);
	if (!e->segment) {
		struct segment *g = p->failed || s->closing || s->cfg.read_only ? NULL : wanted(p);

		if (!g)
			return;
		start(p, g);
	}
	if (!e->read)
		return;
	d = (const void *)e->table;
	for (uint32_t n = 0; e->table && e->next < e->segment->count && n < DESCS_A_TURN; n++) {
		if (!evict_page(p, &d[e->next]))
			return;
		e->next++;
	}
	if (e->table && e->next < e->segment->count) {
		s->more = true;
		return;
	}
	if (e->in_flight || e->segment->readers || e->flushes)
		return;
	if (e->carried) {
		flush_carried(p);
		return;
	}
	if (!e->table)
		s->stats.evicted_pages += index_table_sweep(&s->index, segment_id(s, e->segment));
	evict_free(p);
	segment_freed(s, e->segment);
	e->segment = NULL;
	s->more = true; /* the next one may need no transfer to begin, nor this one to end */
}
