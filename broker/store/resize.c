/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Parts that become larger, smaller, or leave.
 *
 * A part that grows has its room at once. One that shrinks has the segments behind its new end
 * evicted (evict.c), which takes its time; then the superblocks say so, and the file is cut.
 *
 * A part that shrinks to nothing leaves. Commits do not go there any more, so of an epoch that ends
 * from now on it will not know; who opened it as a store of its own would find that epoch's pages
 * again. Hence its superblocks are wiped before anybody else can have it:
 *
 *   STAYS --no segment left--> EMPTY --nothing in flight; zeros written, flushed--> WIPED
 *         --file closed, lock gone--> LEFT
 */

#include <errno.h>

#include "broker/store/internal.h"

static uint64_t segment_bytes(const struct store *s)
{
	return (uint64_t)s->segment_units * FORMAT_UNIT;
}

static uint64_t part_bytes(const struct store *s, uint64_t segments)
{
	return segments ? FORMAT_HEAD_BYTES + segments * segment_bytes(s) : 0;
}

static bool is_last(const struct store *s, const struct part *p)
{
	for (uint32_t i = 0; i < s->parts; i++)
		if (&s->part[i] != p && !s->part[i].failed && s->part[i].segments_wanted)
			return false;
	return true;
}

/* How many segments that would be. 0, -EINVAL, -ENOSPC, -EBUSY. */
static int segments_for(const struct store *s, const struct part *p, uint64_t bytes,
			uint32_t *ret_segments)
{
	const uint64_t segments =
		bytes < FORMAT_HEAD_BYTES ? 0 : (bytes - FORMAT_HEAD_BYTES) / segment_bytes(s);

	*ret_segments = 0;
	if (p->failed || s->cfg.read_only || (bytes && segments < SEGMENTS_MIN))
		return -EINVAL;
	if (segments > INDEX_SEGMENTS_MAX ||
	    (segments > p->ids && s->segments + (segments - p->ids) > INDEX_SEGMENTS_MAX))
		return -ENOSPC;
	/* Segments behind the end it has now may be gone already. */
	if (p->segments_wanted < p->segments && segments > p->segments_wanted)
		return -EBUSY;
	if (bytes == 0 && is_last(s, p))
		return -EBUSY;
	*ret_segments = (uint32_t)segments;
	return 0;
}

int store_resize_plan(const struct store *s, uint32_t part, uint64_t bytes,
		      struct store_resize_plan *ret)
{
	const struct part *p = part < s->parts ? &s->part[part] : NULL;
	uint32_t segments;
	int error;

	*ret = (struct store_resize_plan){ .bytes_min = part_bytes(s, SEGMENTS_MIN) };
	if (!p)
		return -EINVAL;
	error = segments_for(s, p, bytes, &segments);
	if (error)
		return error;
	ret->bytes = part_bytes(s, segments);
	for (uint32_t i = segments; i < p->segments; i++) {
		const struct segment *g = &s->segment[p->id[i]];

		ret->segments++;
		ret->pages += g->state == SEGMENT_BAD ? 0 : g->count;
	}
	return 0;
}

static int grow(struct store *s, struct part *p, uint32_t segments)
{
	const uint64_t bytes = part_bytes(s, segments);
	int error = 0;

	if (bytes > p->info.bytes && p->info.device)
		return -ENOSPC;
	if (bytes > p->info.bytes)
		error = s->file_ops->resize(s->cfg.ops_arg, p->fd, bytes);
	if (error)
		return error;
	p->info.bytes = bytes > p->info.bytes ? bytes : p->info.bytes;
	for (uint32_t i = p->segments; i < segments; i++) {
		if (i == p->ids)
			p->id[p->ids++] = s->segments++;
		s->segment[p->id[i]] =
			(struct segment){ .part = p->number, .index = i, .state = SEGMENT_FREE };
	}
	p->segments = segments;
	p->segments_wanted = segments;
	p->super.part_bytes = bytes;
	s->commit_wanted = true;
	return 0;
}

int store_resize(struct store *s, uint32_t part, uint64_t bytes)
{
	struct part *p = part < s->parts ? &s->part[part] : NULL;
	uint32_t segments;
	int error = p ? segments_for(s, p, bytes, &segments) : -EINVAL;

	if (error)
		return error;
	p->bytes_wanted = bytes;
	s->more = true;
	if (segments > p->segments)
		return grow(s, p, segments);
	p->segments_wanted = segments;
	return 0;
}

bool store_part_resizing(const struct store *s, uint32_t part)
{
	const struct part *p = &s->part[part];

	return p->leave ? p->leave != PART_LEFT : !p->failed && p->segments_wanted != p->segments;
}

bool store_resizing(const struct store *s)
{
	for (uint32_t i = 0; i < s->parts; i++)
		if (store_part_resizing(s, i))
			return true;
	return false;
}

/* ---- leaving ------------------------------------------------------------------------------- */

static void wiped(struct store *s, void *arg, int status)
{
	struct part *p = arg;

	p->leave = PART_WIPED;
	p->leave_error = p->leave_error ? p->leave_error : status;
}

static void zeros_written(struct engine_io *io)
{
	struct part *p = io->owner;

	if (io->res)
		p->leave_error = io->res;
	if (--p->commit.left == 0)
		flush_wait(p, &p->commit.flush);
}

/* Nothing is begun on a part that is off, so what the commits had is free. */
static void wipe(struct part *p)
{
	struct store *s = p->s;
	struct commit *c = &p->commit;

	c->left = FORMAT_COPIES;
	c->flush = (struct flush_wait){ .done = wiped, .arg = p };
	for (uint32_t i = 0; i < FORMAT_COPIES; i++) {
		c->iov[i][0] = (struct iovec){ s->zeros, FORMAT_UNIT };
		c->io[i] = (struct engine_io){ .op = ENGINE_WRITE,
					       .file = (uint8_t)p->number,
					       .offset = (uint64_t)i * FORMAT_COPY_BYTES,
					       .bytes = FORMAT_UNIT,
					       .iov = c->iov[i],
					       .n_iov = 1,
					       .done = zeros_written,
					       .owner = p };
		engine_submit(&s->engine, &c->io[i]);
	}
}

static bool is_busy(const struct part *p)
{
	const struct engine_file *f = &p->s->engine.file[p->number];

	return f->in_flight || f->queued || p->flush_wanted || p->flushing || p->commit.active ||
	       p->groups;
}

static void leave_turn(struct part *p)
{
	struct store *s = p->s;

	if (p->leave == PART_LEFT || is_busy(p))
		return;
	if (p->leave == PART_EMPTY) {
		wipe(p);
	} else if (p->leave == PART_WIPED) {
		(void)engine_file_set(&s->engine, p->number, -1);
		s->file_ops->close(s->cfg.ops_arg, p->fd);
		p->fd = -1;
		p->leave = PART_LEFT;
	}
}

/* ---- shrinking ----------------------------------------------------------------------------- */

static void shrunk(struct part *p)
{
	struct store *s = p->s;

	p->segments = p->segments_wanted;
	if (p->segments == 0) {
		p->leave = PART_EMPTY;
		s->more = true;
		store_part_fail(p, -ENODEV);
		return;
	}
	p->super.part_bytes = part_bytes(s, p->segments);
	s->commit_wanted = true;
	/* If the cut comes before the commit, the next start finds a file that was cut. */
	if (!p->info.device)
		(void)s->file_ops->resize(s->cfg.ops_arg, p->fd, p->super.part_bytes);
	p->info.bytes = p->super.part_bytes;
}

void resize_turn(struct part *p)
{
	if (p->leave) {
		leave_turn(p);
		return;
	}
	if (p->segments_wanted == p->segments)
		return;
	for (uint32_t i = p->segments_wanted; i < p->segments; i++)
		if (p->s->segment[p->id[i]].state != SEGMENT_GONE)
			return;
	shrunk(p);
}
