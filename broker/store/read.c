/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Gets: read to where they are wanted, checked against the checksum that the index has.
 *
 * The index knows the checksum from the descriptor, so the bytes alone are read. What does not fit
 * is no longer found. Three of those in a segment, and all of it is given up: a place that returns
 * wrong bytes is not to be asked again.
 *
 * A get past its deadline is reported, but the drive may still write into the memory: it is
 * reported a second time when it can not any more.
 */

#include <errno.h>
#include <string.h>

#include "broker/store/internal.h"

int read_start(struct store *s, struct request *r, const struct index_place *at,
	       void (*done)(struct engine_io *))
{
	struct segment *g = &s->segment[at->segment];
	struct part *p = &s->part[g->part];
	int error = store_request_direct(s, p, r, false);

	if (error)
		return error;
	g->readers++;
	r->segment = at->segment;
	r->unit = at->unit;
	r->crc = at->crc;
	r->io.op = ENGINE_READ;
	r->io.file = (uint8_t)p->number;
	r->io.wanted = r->kind == REQUEST_GET;
	r->io.offset = segment_offset(s, g) + (uint64_t)at->unit * FORMAT_UNIT;
	r->io.bytes = format_units(r->bytes) * FORMAT_UNIT;
	r->io.done = done;
	r->io.owner = s;
	engine_submit(&s->engine, &r->io);
	return 0;
}

static void bounce_out(struct request *r)
{
	const char *at = r->bounce;

	for (uint32_t i = 0; i < r->n; i++) {
		memcpy(r->piece[i].iov_base, at, r->piece[i].iov_len);
		at += r->piece[i].iov_len;
	}
}

void read_mismatch(struct store *s, struct segment *g, const struct index_tag *tag, uint16_t unit)
{
	s->stats.mismatches++;
	index_table_remove_at(&s->index, tag, segment_id(s, g), unit);
	if (++g->mismatches >= MISMATCHES_MAX && g->state == SEGMENT_CLOSED)
		segment_poison(s, g);
}

/* 0, -ENOENT or -EIO. */
static int outcome(struct store *s, struct request *r)
{
	struct part *p = &s->part[s->segment[r->segment].part];

	if (r->io.res) {
		index_table_remove_at(&s->index, &r->tag, r->segment, r->unit);
		store_failure(p, r->io.res);
		s->stats.gets_failed++;
		return -EIO;
	}
	p->failures = 0;
	if (r->bounce)
		bounce_out(r);
	if (!r->unchecked && store_crc_pieces(r->piece, r->n) != r->crc) {
		read_mismatch(s, &s->segment[r->segment], &r->tag, r->unit);
		return -ENOENT;
	}
	s->stats.page_bytes_read += r->bytes;
	index_table_heat(&s->index, &r->tag);
	return 0;
}

static void untime(struct request *r)
{
	if (!r->timed)
		return;
	r->timed = false;
	*r->time_link = r->time_next;
	if (r->time_next)
		r->time_next->time_link = r->time_link;
}

static void get_done(struct engine_io *io)
{
	struct store *s = io->owner;
	struct request *r = (struct request *)((char *)io - offsetof(struct request, io));
	int status;

	s->segment[r->segment].readers--;
	untime(r);
	status = outcome(s, r);
	store_report(s, &(struct store_done){ .user = r->user,
					      .status = status,
					      .crc = status ? 0 : r->crc,
					      .kind = STORE_DONE_GET,
					      .flags = r->late ? STORE_DONE_FREED : 0 });
	store_request_free(s, r);
}

static void add_deadline(struct store *s, struct request *r, uint64_t deadline_ns)
{
	r->deadline_ns = deadline_ns;
	r->timed = true;
	r->time_next = s->timed;
	r->time_link = &s->timed;
	if (s->timed)
		s->timed->time_link = &r->time_next;
	s->timed = r;
	if (deadline_ns < s->timed_next_ns || !r->time_next)
		s->timed_next_ns = deadline_ns;
}

void read_deadlines(struct store *s)
{
	uint64_t next_ns = UINT64_MAX;

	if (!s->timed || s->now_ns < s->timed_next_ns)
		return;
	for (struct request *r = s->timed, *next; r; r = next) {
		next = r->time_next;
		if (r->deadline_ns > s->now_ns) {
			next_ns = r->deadline_ns < next_ns ? r->deadline_ns : next_ns;
			continue;
		}
		untime(r);
		r->late = true;
		s->stats.gets_late++;
		store_report(s, &(struct store_done){ .user = r->user,
						      .status = -ETIME,
						      .kind = STORE_DONE_GET });
	}
	s->timed_next_ns = next_ns;
}

static int get(struct store *s, const struct store_key *key, const struct iovec *piece, uint32_t n,
	       uint64_t deadline_ns, bool unchecked, void *user)
{
	struct index_place at;
	struct request *r;
	const uint64_t bytes = store_page_bytes(piece, n);
	int error;

	if (!bytes)
		return -EINVAL;
	r = store_request_new(s);
	if (!r)
		return -EAGAIN;
	s->stats.gets++;
	store_tag(s, key->where, key->chain, key->epoch, &r->tag);
	if (!store_locate(s, key, &r->tag, &at)) {
		s->stats.gets_missed++;
		store_request_free(s, r);
		return -ENOENT;
	}
	r->kind = REQUEST_GET;
	r->unchecked = unchecked;
	r->key = *key;
	r->user = user;
	r->n = n;
	r->bytes = (uint32_t)bytes;
	memcpy(r->piece, piece, n * sizeof(*piece));
	error = read_start(s, r, &at, get_done);
	if (error) {
		store_request_free(s, r);
		return error;
	}
	if (deadline_ns)
		add_deadline(s, r, deadline_ns);
	return 0;
}

int store_get(struct store *s, const struct store_key *key, const struct iovec *piece, uint32_t n,
	      uint64_t deadline_ns, void *user)
{
	return get(s, key, piece, n, deadline_ns, false, user);
}

int store_get_unchecked(struct store *s, const struct store_key *key, const struct iovec *piece,
			uint32_t n, uint64_t deadline_ns, void *user)
{
	return get(s, key, piece, n, deadline_ns, true, user);
}

void store_distrust(struct store *s, const struct store_key *key)
{
	struct index_place at;
	struct index_tag tag;

	store_tag(s, key->where, key->chain, key->epoch, &tag);
	if (store_locate(s, key, &tag, &at))
		read_mismatch(s, &s->segment[at.segment], &tag, at.unit);
}
