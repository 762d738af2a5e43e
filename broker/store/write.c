/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Puts: gathered to groups, appended to the open segment of a part.
 *
 * A group is a block of descriptors and the pages behind it, all written at once. Few groups are in
 * flight at a time; what comes meanwhile makes the next one larger. So one page alone goes at once,
 * and under load a block is shared by many.
 *
 * Groups are reported in the order of the segment, because the scan after a crash goes from one
 * to the next and ends where one is not whole. For the same reason a segment with a failed write
 * takes no more, and what flies behind it fails too.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/store/internal.h"

/* ---- reports ------------------------------------------------------------------------------- */

static void report_put(struct part *p, struct request *r, int status)
{
	struct store *s = p->s;

	if (r->kind == REQUEST_FORWARD) {
		evict_forwarded(p, r, status);
		return;
	}
	s->stats.puts_failed += status != 0;
	store_report(s, &(struct store_done){
				.user = r->user, .status = status, .kind = STORE_DONE_PUT });
	store_request_free(s, r);
}

static int index_page(struct store *s, struct segment *g, struct request *r)
{
	const struct index_place at = {
		.segment = segment_id(s, g),
		.unit = r->unit,
		.crc = r->crc,
	};

	if (!index_table_put(&s->index, &r->tag, &at))
		return -ENOSPC;
	s->stats.page_bytes_written += r->bytes;
	return 0;
}

static void end_group(struct part *p, struct group *group)
{
	struct store *s = p->s;
	struct segment *g = group->segment;
	int status = 0;

	g->groups--;
	if (group->failed && !g->failed) {
		g->failed = true;
		store_failure(p, -EIO);
		if (p->open == g)
			segment_close(p, g);
	} else if (!g->failed) {
		p->failures = 0;
		g->dirty = true;
		p->unflushed = true;
	}
	for (uint32_t i = 0; i < group->n; i++) {
		status = g->failed ? -EIO : index_page(s, g, group->request[i]);
		report_put(p, group->request[i], status);
	}
	group->next = p->group_free;
	p->group_free = group;
}

static void group_transfer_done(struct group *group, int error)
{
	struct part *p = group->io.owner;

	group->failed = group->failed || error;
	group->left--;
	while (p->groups && p->groups->left == 0) {
		struct group *first = p->groups;

		p->groups = first->next;
		if (!p->groups)
			p->groups_end = &p->groups;
		end_group(p, first);
	}
}

static void block_done(struct engine_io *io)
{
	group_transfer_done((struct group *)((char *)io - offsetof(struct group, io)), io->res);
}

static void page_done(struct engine_io *io)
{
	group_transfer_done(io->owner, io->res);
}

/* ---- groups -------------------------------------------------------------------------------- */

static uint32_t units_left(const struct store *s, const struct segment *g, uint32_t pages)
{
	const uint32_t used = g->next_unit + format_tail_units(g->count + pages);

	return used < s->segment_units ? s->segment_units - used : 0;
}

/* The page gets its place, its descriptor and its transfer. False: no memory for it. */
static bool add_page(struct part *p, struct group *group, struct request *r, uint32_t unit)
{
	struct store *s = p->s;
	struct segment *g = group->segment;
	struct format_desc *d = (struct format_desc *)(group->block + sizeof(struct format_group));

	d += group->n;
	if (store_request_direct(s, p, r, true) < 0)
		return false;
	if (!r->has_crc)
		r->crc = store_crc_pieces(r->piece, r->n);
	r->has_crc = true;
	r->unit = (uint16_t)unit;
	*d = (struct format_desc){
		.seq = g->seq,
		.where = { r->key.where[0], r->key.where[1] },
		.chain = { r->key.chain[0], r->key.chain[1] },
		.bytes = r->bytes,
		.data_crc = r->crc,
		.epoch = r->key.epoch,
		.ns = r->key.ns,
		.unit = (uint16_t)unit,
	};
	format_desc_seal(d, p->fold);
	if (!segment_describe(g, d))
		return false;
	r->io.op = ENGINE_WRITE;
	r->io.file = (uint8_t)p->number;
	r->io.offset = segment_offset(s, g) + (uint64_t)unit * FORMAT_UNIT;
	r->io.bytes = format_units(r->bytes) * FORMAT_UNIT;
	r->io.wanted = false;
	r->io.done = page_done;
	r->io.owner = group;
	group->request[group->n++] = r;
	return true;
}

static struct request *next_put(struct part *p)
{
	struct request *r = p->puts;

	p->puts = r->next;
	if (!p->puts)
		p->puts_end = &p->puts;
	p->puts_n--;
	p->puts_bytes -= r->bytes;
	return r;
}

static void fly_group(struct part *p, struct group *group, uint32_t unit)
{
	struct store *s = p->s;
	struct segment *g = group->segment;
	struct format_group *head = (void *)group->block;

	*head = (struct format_group){ .seq = g->seq,
				       .segment = g->index,
				       .unit = (uint16_t)g->next_unit,
				       .units = (uint16_t)(unit - g->next_unit),
				       .count = group->n };
	format_group_seal(head, p->fold);
	group->iov = (struct iovec){ group->block, FORMAT_UNIT };
	group->io = (struct engine_io){ .op = ENGINE_WRITE,
					.file = (uint8_t)p->number,
					.offset = segment_offset(s, g) +
						  (uint64_t)g->next_unit * FORMAT_UNIT,
					.bytes = FORMAT_UNIT,
					.iov = &group->iov,
					.n_iov = 1,
					.done = block_done,
					.owner = p };
	g->next_unit = unit;
	g->groups++;
	group->left = 1 + group->n;
	group->next = NULL;
	*p->groups_end = group;
	p->groups_end = &group->next;
	engine_submit(&s->engine, &group->io);
	for (uint32_t i = 0; i < group->n; i++)
		engine_submit(&s->engine, &group->request[i]->io);
}

/* A group of what is queued, as much as fits. False: not one page did. */
static bool make_group(struct part *p, struct segment *g)
{
	struct store *s = p->s;
	struct group *group = p->group_free;
	uint32_t unit = g->next_unit + 1;
	uint64_t bytes = 0;

	if (g->count == UINT16_MAX || 1 + format_units(p->puts->bytes) > units_left(s, g, 1))
		return false;
	p->group_free = group->next;
	group->segment = g;
	group->n = 0;
	group->failed = false;
	memset(group->block, 0, FORMAT_UNIT);
	while (p->puts && group->n < FORMAT_GROUP_MAX && g->count < UINT16_MAX &&
	       bytes < GROUP_BYTES_MAX) {
		const uint32_t units = format_units(p->puts->bytes);
		struct request *r;

		if (unit - g->next_unit + units > units_left(s, g, 1))
			break;
		r = next_put(p);
		if (!add_page(p, group, r, unit)) {
			report_put(p, r, -ENOMEM);
			continue;
		}
		unit += units;
		bytes += r->bytes;
	}
	if (group->n) {
		fly_group(p, group, unit);
	} else {
		group->next = p->group_free;
		p->group_free = group;
	}
	return true;
}

/* What is carried forward can not wait for the room that its own eviction makes. */
static void refuse_forwards(struct part *p)
{
	struct request **link = &p->puts, *r;

	while ((r = *link)) {
		if (r->kind != REQUEST_FORWARD) {
			link = &r->next;
			continue;
		}
		*link = r->next;
		p->puts_n--;
		p->puts_bytes -= r->bytes;
		report_put(p, r, -ENOSPC);
	}
	p->puts_end = link;
}

void write_refuse(struct part *p, int error)
{
	while (p->puts)
		report_put(p, next_put(p), error);
}

void write_turn(struct part *p)
{
	while (p->puts && p->group_free) {
		struct segment *g = p->open ? p->open : segment_take_ready(p);

		if (p->failed) {
			write_refuse(p, -EIO);
		} else if (g) {
			if (!make_group(p, g))
				segment_close(p, g);
		} else {
			if (!p->opening && !segment_find_free(p)) {
				if (p->evict.segment)
					refuse_forwards(p);
				else if (!p->closing && !p->groups)
					write_refuse(p, -ENOSPC);
			}
			return;
		}
	}
}

void write_queue(struct part *p, struct request *r)
{
	r->next = NULL;
	*p->puts_end = r;
	p->puts_end = &r->next;
	p->puts_n++;
	p->puts_bytes += r->bytes;
}

struct part *write_choose_part(struct store *s)
{
	struct part *best = NULL;

	for (uint32_t i = 0; i < s->parts; i++) {
		struct part *p = &s->part[i];

		if (p->failed || p->segments_wanted == 0)
			continue;
		if (!best || p->puts_bytes < best->puts_bytes)
			best = p;
	}
	return best;
}

int write_init(struct part *p, char *blocks)
{
	p->puts_end = &p->puts;
	p->groups_end = &p->groups;
	for (uint32_t i = 0; i < GROUPS_MAX; i++) {
		p->group[i].block = blocks + (size_t)i * FORMAT_UNIT;
		p->group[i].next = p->group_free;
		p->group_free = &p->group[i];
	}
	p->open_block = store_units(1);
	return p->open_block ? 0 : -ENOMEM;
}
