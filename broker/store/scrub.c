/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The check of all pages beside the load.
 *
 * Segment after segment, descriptor after descriptor; what the index does not have at that place is
 * no page any more and is passed over. The table is in memory while a segment is written, and on
 * the disk afterwards, in the same order: a segment may close under the check, and be taken again;
 * then it has another number, and the check goes on to the next. Nothing is held but what is being
 * read: the segment of a read is not freed before its end, as with gets.
 *
 * Reads are of the second queue, a few at a time: whoever wants a page goes first. What was written
 * behind the check is not looked at. Pages found wrong end as those that a get finds wrong.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/store/internal.h"

#define DESCS_A_TURN 1024u

enum look { LOOK_ON, LOOK_WAIT, LOOK_END };

static void next_segment(struct scrub *c)
{
	free(c->table);
	c->table = NULL;
	c->read = false;
	c->next = 0;
	c->segment++;
}

static bool is_readable(const struct store *s, const struct segment *g)
{
	return !s->part[g->part].failed && g->count &&
	       (g->state == SEGMENT_OPEN || g->state == SEGMENT_CLOSING ||
		g->state == SEGMENT_CLOSED || g->state == SEGMENT_EVICTING);
}

/* ---- tables -------------------------------------------------------------------------------- */

static void table_read(struct engine_io *io)
{
	struct store *s = io->owner;
	struct scrub *c = &s->scrub;
	struct segment *g = &s->segment[c->segment];

	g->readers--;
	c->reading = false;
	c->read = true;
	if (io->res == 0 && segment_table_good(s, g, c->table))
		return;
	free(c->table);
	c->table = NULL;
}

static void read_table(struct store *s, struct segment *g)
{
	struct scrub *c = &s->scrub;
	const uint32_t units = format_tail_units(g->count);

	c->table = store_units_raw(units);
	if (!c->table) {
		c->read = true;
		return;
	}
	g->readers++;
	c->reading = true;
	c->iov = (struct iovec){ c->table, (size_t)units * FORMAT_UNIT };
	c->io = segment_tail_io(s, g, &c->iov, ENGINE_READ, table_read, s);
	engine_submit(&s->engine, &c->io);
}

/* The descriptor that comes next; NULL: *ret says what to do instead. */
static const struct format_desc *next_desc(struct store *s, enum look *ret)
{
	struct scrub *c = &s->scrub;
	struct segment *g = &s->segment[c->segment];

	*ret = LOOK_WAIT;
	if (c->reading)
		return NULL;
	*ret = LOOK_END;
	if (c->next == 0 && !c->read)
		c->seq = g->seq;
	if (c->seq != g->seq || !is_readable(s, g) || c->next >= g->count)
		return NULL;
	if (g->table)
		return &g->table[c->next];
	if (c->table)
		return (const struct format_desc *)c->table + c->next;
	if (c->read || !g->table_on_disk) {
		c->stats.unknown += g->count - c->next;
		return NULL;
	}
	read_table(s, g);
	*ret = LOOK_WAIT;
	return NULL;
}

/* ---- pages --------------------------------------------------------------------------------- */

static void page_read(struct engine_io *io)
{
	struct store *s = io->owner;
	struct scrub *c = &s->scrub;
	struct scrub_read *r = (struct scrub_read *)((char *)io - offsetof(struct scrub_read, io));
	struct segment *g = &s->segment[r->segment];

	g->readers--;
	c->in_flight--;
	if (io->res) {
		c->stats.unreadable++;
		index_table_remove_at(&s->index, &r->tag, r->segment, r->desc.unit);
		store_failure(&s->part[g->part], io->res);
	} else if (format_crc(0, r->mem, r->desc.bytes) != r->desc.data_crc) {
		c->stats.bad++;
		read_mismatch(s, g, &r->tag, r->desc.unit);
	} else {
		c->stats.pages++;
		c->stats.bytes += r->desc.bytes;
	}
	free(r->mem);
	r->mem = NULL;
}

static struct scrub_read *find_idle(struct scrub *c)
{
	for (uint32_t i = 0; i < SCRUB_READS; i++)
		if (!c->page[i].mem)
			return &c->page[i];
	return NULL;
}

/* False: it has to wait. */
static bool look_at_page(struct store *s, const struct format_desc *d)
{
	struct scrub *c = &s->scrub;
	struct segment *g = &s->segment[c->segment];
	struct scrub_read *r = find_idle(c);
	const uint32_t units = format_units(d->bytes);
	struct index_place at;

	if (!r)
		return false;
	store_tag(s, d->where, d->chain, d->epoch, &r->tag);
	if (d->ns >= s->ns_count || s->ns[d->ns].epoch != d->epoch ||
	    !index_table_find(&s->index, &r->tag, &at) || at.segment != c->segment ||
	    at.unit != d->unit)
		return true;
	r->mem = store_units_raw(units);
	if (!r->mem) {
		c->stats.unknown++;
		return true;
	}
	g->readers++;
	c->in_flight++;
	r->desc = *d;
	r->segment = c->segment;
	r->iov = (struct iovec){ r->mem, (size_t)units * FORMAT_UNIT };
	r->io = (struct engine_io){ .op = ENGINE_READ,
				    .file = (uint8_t)g->part,
				    .offset =
					    segment_offset(s, g) + (uint64_t)d->unit * FORMAT_UNIT,
				    .bytes = units * FORMAT_UNIT,
				    .iov = &r->iov,
				    .n_iov = 1,
				    .done = page_read,
				    .owner = s };
	engine_submit(&s->engine, &r->io);
	return true;
}

/* ---- the check ----------------------------------------------------------------------------- */

void scrub_turn(struct store *s)
{
	struct scrub *c = &s->scrub;

	if (!c->active || s->closing)
		return;
	for (uint32_t n = 0; n < DESCS_A_TURN && c->segment < s->segments; n++) {
		enum look look;
		const struct format_desc *d = next_desc(s, &look);

		if (d && !look_at_page(s, d))
			return;
		if (d)
			c->next++;
		else if (look == LOOK_WAIT)
			return;
		else
			next_segment(c);
	}
	if (c->segment < s->segments) {
		s->more = true;
	} else if (!c->in_flight) {
		c->active = false;
		store_report(s, &(struct store_done){ .user = c->user, .kind = STORE_DONE_SCRUB });
	}
}

int store_scrub(struct store *s, void *user)
{
	struct scrub *c = &s->scrub;

	if (c->active)
		return -EBUSY;
	*c = (struct scrub){ .active = true, .user = user };
	s->more = true;
	return 0;
}

void scrub_stats(const struct store *s, struct store_scrub_stats *ret)
{
	*ret = s->scrub.stats;
	ret->active = s->scrub.active;
	ret->segments_done = s->scrub.segment;
	ret->segments = s->segments;
}

void scrub_free(struct store *s)
{
	free(s->scrub.table);
	for (uint32_t i = 0; i < SCRUB_READS; i++)
		free(s->scrub.page[i].mem);
}
