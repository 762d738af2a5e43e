/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Superblocks and the table of namespaces.
 *
 * A commit writes the table and a new sequence number to every part: copies 0 and 1, a flush,
 * copies 2 and 3, a flush. What it brings counts as durable after the first flush. So at any moment
 * two copies of one sequence are whole, whatever a power cut does to the others.
 *
 * At open the newest sequence that two copies hold wins. If there is none the part is taken for
 * empty: losing pages is allowed, guessing is not. A single copy that is newer than the winner is a
 * commit that was cut off, or one of which a copy rotted. Its table is taken, since epochs only
 * grow and rows are only added: an epoch too new loses pages, one too old would bring them back.
 *
 * Rows of the table are never used for another namespace: descriptors name them by number. When
 * FORMAT_NS_MAX are used up the pages of further namespaces are not stored.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/store/internal.h"

#define COMMIT_WAIT_NS (10ull * 1000 * 1000)

/* ---- reading ------------------------------------------------------------------------------- */

struct copies {
	struct format_super *super[FORMAT_COPIES]; /* with its table behind it; NULL: not good */
	enum format_verdict verdict[FORMAT_COPIES];
	uint32_t unread; /* of them; where a file is too short for them too */
	bool zero;       /* all that was read is */
	bool foreign;
	uint32_t version;
};

static void copies_free(struct copies *c)
{
	for (uint32_t i = 0; i < FORMAT_COPIES; i++)
		free(c->super[i]);
}

static const struct format_ns *table_of(const struct format_super *super)
{
	return (const void *)((const char *)super + FORMAT_UNIT);
}

static bool all_zero(const char *mem, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		if (mem[i])
			return false;
	return true;
}

/* -ENOMEM, or 0: a copy that can not be read is a damaged one. */
static int read_copy(struct store *s, struct part *p, struct copies *c, uint32_t i)
{
	const uint64_t offset = (uint64_t)i * FORMAT_COPY_BYTES;
	struct format_super *super = store_units_raw(FORMAT_COPY_BYTES / FORMAT_UNIT);
	uint64_t bytes;
	int error;

	if (!super)
		return -ENOMEM;
	c->verdict[i] = FORMAT_DAMAGED;
	error = recover_read(s, p, offset, super, FORMAT_UNIT);
	if (error) {
		c->unread++;
	} else {
		c->zero = c->zero && all_zero((const char *)super, FORMAT_UNIT);
		c->verdict[i] = format_super_check(super, NULL, offset);
	}
	if (c->verdict[i] == FORMAT_FOREIGN) {
		c->foreign = true;
		c->version = super->version;
	}
	if (c->verdict[i] == FORMAT_GOOD) {
		bytes = format_super_bytes(super->ns_count) - FORMAT_UNIT;
		error = bytes ? recover_read(s, p, offset + FORMAT_UNIT,
					     (char *)super + FORMAT_UNIT, (uint32_t)bytes)
			      : 0;
		c->verdict[i] =
			error ? FORMAT_DAMAGED : format_super_check(super, table_of(super), offset);
	}
	if (c->verdict[i] == FORMAT_GOOD)
		c->super[i] = super;
	else
		free(super);
	return 0;
}

static bool same_store(const struct format_super *a, const struct format_super *b)
{
	return memcmp(a->uuid, b->uuid, 16) == 0 && memcmp(a->part_uuid, b->part_uuid, 16) == 0;
}

/* The newest that two hold; NULL: none, or copies of different stores. */
static const struct format_super *choose(const struct copies *c)
{
	const struct format_super *best = NULL;

	for (uint32_t i = 0; i < FORMAT_COPIES; i++) {
		for (uint32_t j = i + 1; j < FORMAT_COPIES; j++) {
			const struct format_super *a = c->super[i], *b = c->super[j];

			if (!a || !b)
				continue;
			if (!same_store(a, b))
				return NULL;
			if (a->seq == b->seq && (!best || a->seq > best->seq))
				best = a;
		}
	}
	return best;
}

static const struct format_super *newest(const struct copies *c, const struct format_super *than)
{
	for (uint32_t i = 0; i < FORMAT_COPIES; i++)
		if (c->super[i] && c->super[i]->seq > than->seq &&
		    c->super[i]->ns_count >= than->ns_count)
			than = c->super[i];
	return than;
}

static int take(struct part *p, const struct copies *c, struct format_ns **ret_ns)
{
	const struct format_super *super = choose(c), *last;

	if (!super)
		return -EUCLEAN;
	last = newest(c, super);
	*ret_ns = calloc(FORMAT_NS_MAX, sizeof(**ret_ns));
	if (!*ret_ns)
		return -ENOMEM;
	memcpy(*ret_ns, table_of(last), last->ns_count * sizeof(**ret_ns));
	p->super = *super;
	p->super.seq = last->seq;
	p->super.ns_count = last->ns_count;
	/* The state of the segments is not to be had from a commit that was cut off. */
	p->super.clean = super->clean && last == super;
	return 0;
}

int super_read(struct store *s, struct part *p, struct format_ns **ret_ns, char *why,
	       size_t why_bytes)
{
	struct copies c = { .zero = true };
	uint32_t nothing = 0;
	int error = 0;

	*ret_ns = NULL;
	for (uint32_t i = 0; i < FORMAT_COPIES && !error; i++) {
		error = read_copy(s, p, &c, i);
		nothing += c.verdict[i] == FORMAT_NOTHING;
	}
	if (error) {
		snprintf(why, why_bytes, "%s: out of memory", p->path);
	} else if (c.foreign) {
		error = -EMEDIUMTYPE;
		snprintf(why, why_bytes,
			 "%s: a store of format %u, this program knows %u (use a later one, or "
			 "wipe it)",
			 p->path, c.version, FORMAT_VERSION);
	} else if (nothing + c.unread == FORMAT_COPIES) { /* not one that was ours */
		error = c.zero && nothing ? 1 : -EMEDIUMTYPE;
		snprintf(why, why_bytes,
			 "%s: it holds something that is not a store (kvb-store wipe makes it one)",
			 p->path);
	} else {
		error = take(p, &c, ret_ns);
		if (error == -EUCLEAN)
			snprintf(why, why_bytes,
				 "%s: no two of the four superblocks agree; its pages are lost",
				 p->path);
	}
	copies_free(&c);
	return error;
}

/* ---- commits ------------------------------------------------------------------------------- */

static void commit_step(struct part *p);

/* Durable, or not to be had, on one part more. */
static void part_durable(struct store *s, int status)
{
	struct waiter *w;

	if (status && !s->commit_status)
		s->commit_status = status;
	if (--s->commit_left)
		return;
	while ((w = s->bumps_active)) {
		s->bumps_active = w->next;
		store_report(s, &(struct store_done){ .user = w->user,
						      .status = s->commit_status,
						      .kind = STORE_DONE_BUMP });
		free(w);
	}
}

static void commit_end(struct part *p)
{
	struct store *s = p->s;

	p->commit.active = false;
	for (uint32_t i = 0; i < s->parts; i++)
		if (s->part[i].commit.active)
			return;
	s->committing = false;
	s->stats.commits++;
}

static void commit_failed(struct part *p, int error)
{
	store_part_fail(p, error);
	if (p->commit.step < 2)
		part_durable(p->s, error);
	commit_end(p);
}

static void copy_written(struct engine_io *io)
{
	struct part *p = io->owner;

	if (io->res)
		p->commit.left |= 1u << 31;
	if ((--p->commit.left & ~(1u << 31)) != 0)
		return;
	if (p->commit.left)
		commit_failed(p, -EIO);
	else
		commit_step(p);
}

static void copies_flushed(struct store *s, void *arg, int status)
{
	struct part *p = arg;

	if (status)
		commit_failed(p, status);
	else
		commit_step(p);
}

static void write_copies(struct part *p, uint32_t first)
{
	struct commit *c = &p->commit;

	c->left = 2;
	for (uint32_t i = first; i < first + 2; i++)
		engine_submit(&p->s->engine, &c->io[i]);
}

/* 0: written, 1: durable, 2: the rest is written, 3: over. */
static void commit_step(struct part *p)
{
	struct commit *c = &p->commit;

	c->step++;
	if (c->step == 2) {
		part_durable(p->s, 0);
		write_copies(p, 2);
	} else if (c->step == 4) {
		commit_end(p);
	} else {
		flush_wait(p, &c->flush);
	}
}

static void commit_part(struct part *p)
{
	struct store *s = p->s;
	struct commit *c = &p->commit;
	const uint64_t bytes = format_super_bytes(s->ns_count);

	c->active = true;
	c->step = 0;
	p->super.seq = s->super_seq;
	p->super.clean = s->clean;
	p->super.ns_count = s->ns_count;
	memset(c->table, 0, bytes - FORMAT_UNIT);
	memcpy(c->table, s->ns, s->ns_count * sizeof(*s->ns));
	for (uint32_t i = 0; i < FORMAT_COPIES; i++) {
		*c->block[i] = p->super;
		format_super_seal(c->block[i], (const void *)c->table,
				  (uint64_t)i * FORMAT_COPY_BYTES);
		c->iov[i][0] = (struct iovec){ c->block[i], FORMAT_UNIT };
		c->iov[i][1] = (struct iovec){ c->table, bytes - FORMAT_UNIT };
		c->io[i] = (struct engine_io){ .op = ENGINE_WRITE,
					       .file = (uint8_t)p->number,
					       .offset = (uint64_t)i * FORMAT_COPY_BYTES,
					       .bytes = (uint32_t)bytes,
					       .iov = c->iov[i],
					       .n_iov = s->ns_count ? 2 : 1,
					       .done = copy_written,
					       .owner = p };
	}
	c->flush = (struct flush_wait){ .done = copies_flushed, .arg = p };
	write_copies(p, 0);
}

void super_commit_start(struct store *s)
{
	if (!s->commit_wanted || s->committing || s->cfg.read_only)
		return;
	s->commit_wanted = false;
	s->committing = true;
	s->commit_status = 0;
	s->bumps_active = s->bumps_waiting;
	s->bumps_waiting = NULL;
	s->super_seq++;
	s->commit_left = s->parts;
	for (uint32_t i = 0; i < s->parts; i++)
		if (!s->part[i].failed)
			commit_part(&s->part[i]);
	/* A part that is off hears of no bump: that is said, not hidden. */
	for (uint32_t i = 0; i < s->parts; i++) {
		if (s->part[i].failed && !s->part[i].commit.active) {
			part_durable(s, s->part[i].leave ? 0 : -EIO);
			commit_end(&s->part[i]);
		}
	}
}

int super_commit_sync(struct store *s)
{
	s->commit_wanted = true;
	while (s->commit_wanted || s->committing) {
		bool flush = false;

		super_commit_start(s);
		for (uint32_t i = 0; i < s->parts; i++)
			flush_turn(&s->part[i]);
		engine_turn(&s->engine);
		for (uint32_t i = 0; i < s->parts; i++)
			flush |= s->part[i].flush_wanted && !s->part[i].flushing;
		if (s->committing && !flush)
			engine_wait(&s->engine, COMMIT_WAIT_NS);
	}
	return s->commit_status;
}

int super_commit_init(struct part *p)
{
	struct commit *c = &p->commit;

	c->table = store_units_raw(FORMAT_COPY_BYTES / FORMAT_UNIT);
	if (!c->table)
		return -ENOMEM;
	for (uint32_t i = 0; i < FORMAT_COPIES; i++) {
		c->block[i] = store_units(1);
		if (!c->block[i])
			return -ENOMEM;
	}
	return 0;
}

void super_commit_finish(struct part *p)
{
	free(p->commit.table);
	for (uint32_t i = 0; i < FORMAT_COPIES; i++)
		free(p->commit.block[i]);
}
