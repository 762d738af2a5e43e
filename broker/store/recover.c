/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What is found at open.
 *
 * The tail of every segment is read, several at a time. A trailer that says CLOSED, with its table
 * whole, brings its pages; their bytes had reached the disk before. Any other segment is scanned:
 * from group to group, as long as they are whole and of one sequence, and there the pages are read
 * too and must fit their checksums. What a scan found is closed properly then.
 *
 * A page counts if its namespace is in the epoch that the page was written in. Of two pages of one
 * key the one in the newer segment is kept.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "broker/store/internal.h"

#define WINDOW 16u
#define FIRST_GUESS_UNITS 17u /* a table of a thousand pages */
#define READ_WAIT_NS (100ull * 1000 * 1000)
#define BATCH 32u

/* ---- one read ------------------------------------------------------------------------------ */

static void one_done(struct engine_io *io)
{
	*(bool *)io->owner = true;
}

int recover_read(struct store *s, struct part *p, uint64_t offset, void *mem, uint32_t bytes)
{
	bool done = false;
	struct iovec iov = { mem, bytes };
	struct engine_io io = { .op = ENGINE_READ,
				.file = (uint8_t)p->number,
				.wanted = true,
				.offset = offset,
				.bytes = bytes,
				.iov = &iov,
				.n_iov = 1,
				.done = one_done,
				.owner = &done };

	engine_submit(&s->engine, &io);
	engine_turn(&s->engine);
	while (!done) {
		engine_wait(&s->engine, READ_WAIT_NS);
		engine_turn(&s->engine);
	}
	return io.res;
}

/* ---- pages into the index ------------------------------------------------------------------ */

static bool counts(const struct store *s, const struct format_desc *d)
{
	return d->ns < s->ns_count && s->ns[d->ns].epoch == d->epoch;
}

static void insert(struct store *s, struct segment *g, const struct format_desc *d,
		   const struct index_tag *tag)
{
	const struct index_place at = { .segment = segment_id(s, g),
					.unit = d->unit,
					.crc = d->data_crc };
	struct index_place old;

	if (!counts(s, d)) {
		s->stats.recovered_stale++;
		return;
	}
	if (index_table_find(&s->index, tag, &old) && s->segment[old.segment].seq >= g->seq)
		return;
	if (index_table_put(&s->index, tag, &at))
		s->stats.recovered_pages++;
}

static void insert_all(struct store *s, struct segment *g, const struct format_desc *d, uint32_t n)
{
	struct index_tag tag[BATCH];

	for (uint32_t i = 0; i < n; i += BATCH) {
		const uint32_t end = n - i < BATCH ? n - i : BATCH;

		for (uint32_t j = 0; j < end; j++) {
			store_tag(s, d[i + j].where, d[i + j].chain, d[i + j].epoch, &tag[j]);
			index_table_prefetch(&s->index, &tag[j]);
		}
		for (uint32_t j = 0; j < end; j++)
			insert(s, g, &d[i + j], &tag[j]);
	}
}

/* ---- segments without a table -------------------------------------------------------------- */

/* Reads the page and compares. */
static bool page_whole(struct store *s, struct segment *g, const struct format_desc *d, char *mem)
{
	struct part *p = &s->part[g->part];
	const uint32_t bytes = format_units(d->bytes) * FORMAT_UNIT;

	return recover_read(s, p, segment_offset(s, g) + (uint64_t)d->unit * FORMAT_UNIT, mem,
			    bytes) == 0 &&
	       format_crc(0, mem, d->bytes) == d->data_crc;
}

static int scan_segment(struct store *s, struct segment *g, char *mem)
{
	struct part *p = &s->part[g->part];
	struct format_group *head = store_units(1);
	const struct format_desc *d = (const void *)(head + 1);
	uint32_t unit = 0;

	if (!head)
		return -ENOMEM;
	while (unit + 1 < s->segment_units &&
	       recover_read(s, p, segment_offset(s, g) + (uint64_t)unit * FORMAT_UNIT, head,
			    FORMAT_UNIT) == 0 &&
	       format_group_good(head, p->fold, g->seq, g->index, unit, s->segment_units)) {
		g->seq = head->seq;
		for (uint32_t i = 0; i < head->count; i++) {
			if (!page_whole(s, g, &d[i], mem)) {
				s->stats.recovered_torn++;
				continue;
			}
			if (!segment_describe(g, &d[i])) {
				free(head);
				return -ENOMEM;
			}
		}
		unit += head->units;
	}
	free(head);
	if (g->expected > g->count)
		s->stats.recovered_lost += g->expected - g->count;
	s->seq = g->seq > s->seq ? g->seq : s->seq;
	if (g->count == 0) {
		segment_freed(s, g);
		return 0;
	}
	g->state = s->cfg.read_only ? SEGMENT_CLOSED : SEGMENT_CLOSING;
	g->dirty = true;
	s->stats.recovered_segments++;
	insert_all(s, g, g->table, g->count);
	return 0;
}

/* ---- tails --------------------------------------------------------------------------------- */

struct slot {
	struct store *s;
	struct engine_io io;
	struct iovec iov;
	struct segment *g; /* NULL: free */
	char *mem;
	uint32_t room_units, units;
	bool done;
};

static void tail_done(struct engine_io *io)
{
	((struct slot *)io->owner)->done = true;
}

static int tail_read(struct slot *slot, struct segment *g, uint32_t units)
{
	struct store *s = slot->s;

	if (units > s->segment_units)
		units = s->segment_units;
	if (slot->room_units < units) {
		free(slot->mem);
		slot->room_units = units;
		slot->mem = store_units_raw(units);
		if (!slot->mem) {
			slot->room_units = 0;
			return -ENOMEM;
		}
	}
	slot->g = g;
	slot->units = units;
	slot->done = false;
	slot->iov = (struct iovec){ slot->mem, (size_t)units * FORMAT_UNIT };
	slot->io = segment_tail_io(s, g, &slot->iov, ENGINE_READ, tail_done, slot);
	slot->io.wanted = true;
	engine_submit(&s->engine, &slot->io);
	return 0;
}

/* What a tail says. >0: more of it has to be read, so many units. The state says what is known:
 * CLOSED, FREE, or OPEN for one to be scanned. */
static uint32_t tail_take(struct slot *slot)
{
	struct store *s = slot->s;
	struct segment *g = slot->g;
	const uint32_t fold = s->part[g->part].fold;
	const char *end = slot->mem + (size_t)slot->units * FORMAT_UNIT;
	const struct format_trailer *t = (const void *)(end - FORMAT_UNIT);
	const struct format_desc *table;
	uint32_t need;

	g->state = SEGMENT_OPEN;
	g->seq = 0;
	if (slot->io.res || !format_trailer_good(t, fold, g->index, s->segment_units))
		return 0;
	g->seq = t->seq;
	s->seq = t->seq > s->seq ? t->seq : s->seq;
	if (t->state != FORMAT_CLOSED)
		return 0;
	need = format_tail_units(t->count);
	if (need > slot->units)
		return need;
	table = (const void *)(end - (size_t)need * FORMAT_UNIT);
	if (!format_table_good(table, t, fold, s->segment_units)) {
		g->expected = t->count;
		return 0;
	}
	g->count = t->count;
	g->table_on_disk = true;
	g->state = SEGMENT_CLOSED;
	if (t->count == 0)
		segment_freed(s, g);
	else
		s->stats.recovered_segments++;
	insert_all(s, g, table, t->count);
	return 0;
}

static int read_tails(struct store *s, struct slot *slot, uint32_t window)
{
	uint32_t next = 0, busy = 0, guess = FIRST_GUESS_UNITS, over = 0;
	int error = 0;

	for (uint32_t i = 0; i < window; i++)
		slot[i].s = s;
	while (next < s->segments || busy) {
		for (uint32_t i = 0; i < window && !error && next < s->segments; i++) {
			struct segment *g = &s->segment[next];

			if (slot[i].g)
				continue;
			next++;
			if (g->state == SEGMENT_FREE) { /* of a part that was made just now */
				over++;
				continue;
			}
			error = tail_read(&slot[i], g, guess);
			busy += error == 0;
		}
		if (error && !busy)
			return error;
		engine_turn(&s->engine);
		for (uint32_t i = 0; i < window; i++) {
			uint32_t more;

			if (!slot[i].g || !slot[i].done)
				continue;
			more = tail_take(&slot[i]);
			if (more)
				guess = more;
			if (more && !error)
				error = tail_read(&slot[i], slot[i].g, more);
			if (more && !error)
				continue;
			slot[i].g = NULL;
			busy--;
			if (s->cfg.progress)
				s->cfg.progress(s->cfg.arg, ++over, s->segments);
		}
		if (busy)
			engine_wait(&s->engine, READ_WAIT_NS);
	}
	return error;
}

/* A page lies in a segment, and is no larger than pages may be. */
static uint32_t page_units_max(const struct store *s)
{
	const uint32_t most = FORMAT_PAGE_BYTES_MAX / FORMAT_UNIT;

	return s->segment_units < most ? s->segment_units : most;
}

static int scan_all(struct store *s)
{
	char *mem = store_units_raw(page_units_max(s));
	int error = mem ? 0 : -ENOMEM;

	for (uint32_t i = 0; i < s->segments && !error; i++)
		if (s->segment[i].state == SEGMENT_OPEN)
			error = scan_segment(s, &s->segment[i], mem);
	free(mem);
	return error;
}

int recover_pages(struct store *s)
{
	struct slot slot[WINDOW] = { 0 };
	uint32_t window = s->cfg.depth < WINDOW ? s->cfg.depth : WINDOW;
	int error = read_tails(s, slot, window);

	for (uint32_t i = 0; i < WINDOW; i++)
		free(slot[i].mem);
	return error ? error : scan_all(s);
}

/* ---- parts --------------------------------------------------------------------------------- */

static bool prefix(const struct format_ns *a, uint32_t a_n, const struct format_ns *b, uint32_t b_n)
{
	if (a_n > b_n)
		return false;
	for (uint32_t i = 0; i < a_n; i++)
		if (memcmp(a[i].digest, b[i].digest, sizeof(a[i].digest)) != 0)
			return false;
	return true;
}

static void take_epochs(struct store *s, const struct format_ns *ns, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		if (ns[i].epoch > s->ns[i].epoch)
			s->ns[i].epoch = ns[i].epoch;
}

static uint64_t usual_segment_bytes(uint64_t bytes)
{
	uint64_t segment = 16ull << 20;

	while (segment < FORMAT_SEGMENT_BYTES_MAX && segment * 64 < bytes)
		segment *= 2;
	while (segment > FORMAT_SEGMENT_BYTES_MIN && segment * 2 * SEGMENTS_MIN > bytes)
		segment /= 2;
	return segment;
}

static int random_fill(void *mem, size_t bytes)
{
	return getrandom(mem, bytes, 0) == (ssize_t)bytes ? 0 : -EIO;
}

/* The store that the parts belong to is new. */
static int make_store(struct store *s)
{
	const struct part *p = &s->part[0];
	uint64_t bytes = p->bytes_wanted ? p->bytes_wanted : p->info.bytes;

	if (random_fill(s->uuid, sizeof(s->uuid)) < 0 ||
	    random_fill(s->secret, sizeof(s->secret)) < 0)
		return -EIO;
	if (s->cfg.segment_bytes)
		bytes = s->cfg.segment_bytes;
	else
		bytes = usual_segment_bytes(bytes);
	s->segment_units = (uint32_t)(bytes / FORMAT_UNIT);
	return 0;
}

static int make_part(struct store *s, struct part *p, char *why, size_t why_bytes)
{
	const uint64_t segment = (uint64_t)s->segment_units * FORMAT_UNIT;
	uint64_t bytes = p->bytes_wanted ? p->bytes_wanted : p->info.bytes;

	if (bytes > p->info.bytes && !p->info.device) {
		int error = s->file_ops->resize(s->cfg.ops_arg, p->fd, bytes);

		if (error) {
			snprintf(why, why_bytes, "%s: make it %llu bytes long: %s", p->path,
				 (unsigned long long)bytes, strerror(-error));
			return error;
		}
		p->info.bytes = bytes;
	}
	if (bytes > p->info.bytes || bytes < FORMAT_HEAD_BYTES + SEGMENTS_MIN * segment) {
		snprintf(why, why_bytes,
			 "%s: %llu bytes of %llu there: a store has at least %llu MiB here",
			 p->path, (unsigned long long)bytes, (unsigned long long)p->info.bytes,
			 (unsigned long long)((FORMAT_HEAD_BYTES + SEGMENTS_MIN * segment) >> 20));
		return -ENOSPC;
	}
	p->super = (struct format_super){ .segment_bytes = segment, .part = p->number };
	p->super.part_bytes = bytes - (bytes - FORMAT_HEAD_BYTES) % segment;
	memcpy(p->super.uuid, s->uuid, sizeof(s->uuid));
	memcpy(p->super.secret, s->secret, sizeof(s->secret));
	return random_fill(p->super.part_uuid, sizeof(p->super.part_uuid));
}

/* Its size, as the configuration has it now: larger at once, smaller later by store_resize(). */
static int grow_part(struct store *s, struct part *p, char *why, size_t why_bytes)
{
	const uint64_t segment = p->super.segment_bytes;
	uint64_t bytes = p->bytes_wanted ? p->bytes_wanted : p->info.bytes;
	int error = 0;

	if (bytes < p->super.part_bytes)
		bytes = p->super.part_bytes;
	if (bytes > p->info.bytes && !p->info.device && !s->cfg.read_only && p->bytes_wanted) {
		error = s->file_ops->resize(s->cfg.ops_arg, p->fd, bytes);
		if (!error)
			p->info.bytes = bytes;
	}
	if (bytes > p->info.bytes)
		bytes = p->info.bytes; /* it was cut: what is missing is lost */
	if (!s->cfg.read_only || bytes < p->super.part_bytes)
		p->super.part_bytes = bytes < FORMAT_HEAD_BYTES + segment
					      ? 0
					      : bytes - (bytes - FORMAT_HEAD_BYTES) % segment;
	if (error || p->super.part_bytes == 0) {
		snprintf(why, why_bytes, "%s: %llu bytes wanted, %llu there", p->path,
			 (unsigned long long)bytes, (unsigned long long)p->info.bytes);
		return error ? error : -ENOSPC;
	}
	return 0;
}

static int add_segments(struct store *s, struct part *p, bool made)
{
	const uint64_t segment = p->super.segment_bytes;

	p->segments = (uint32_t)((p->super.part_bytes - FORMAT_HEAD_BYTES) / segment);
	p->segments_wanted = p->segments;
	if (s->segments + p->segments > INDEX_SEGMENTS_MAX)
		return -EFBIG;
	p->id = calloc(INDEX_SEGMENTS_MAX, sizeof(*p->id));
	if (!p->id)
		return -ENOMEM;
	p->ids = p->segments;
	for (uint32_t i = 0; i < p->segments; i++) {
		p->id[i] = s->segments;
		s->segment[s->segments++] = (struct segment){
			.part = p->number, .index = i, .state = made ? SEGMENT_FREE : SEGMENT_OPEN
		};
	}
	p->fold = format_uuid_fold(p->super.part_uuid);
	return 0;
}

struct found {
	int error; /* of super_read() */
	struct format_ns *ns;
	bool made;
};

/* The part whose word counts: the one with the newest superblock. */
static struct part *newest_part(struct store *s, const struct found *f)
{
	struct part *best = NULL;

	for (uint32_t i = 0; i < s->parts; i++)
		if (f[i].error == 0 && (!best || s->part[i].super.seq > best->super.seq))
			best = &s->part[i];
	return best;
}

static int join(struct store *s, struct found *f, char *why, size_t why_bytes)
{
	const struct part *first = newest_part(s, f);
	int error = 0;

	if (!first)
		return make_store(s);
	memcpy(s->uuid, first->super.uuid, sizeof(s->uuid));
	memcpy(s->secret, first->super.secret, sizeof(s->secret));
	s->segment_units = (uint32_t)(first->super.segment_bytes / FORMAT_UNIT);
	s->super_seq = first->super.seq;
	s->ns_count = first->super.ns_count;
	memcpy(s->ns, f[first->number].ns, s->ns_count * sizeof(*s->ns));
	for (uint32_t i = 0; i < s->parts; i++) {
		struct part *p = &s->part[i];

		if (f[i].error)
			continue;
		if (memcmp(p->super.uuid, s->uuid, sizeof(s->uuid)) != 0) {
			snprintf(why, why_bytes,
				 "%s: part of another store than %s (kvb-store wipe makes it free)",
				 p->path, first->path);
			error = -EMEDIUMTYPE;
		} else if (p->super.segment_bytes != first->super.segment_bytes ||
			   !prefix(f[i].ns, p->super.ns_count, s->ns, s->ns_count)) {
			f[i].error = -EUCLEAN; /* it went its own way meanwhile */
			s->stats.reset = true;
		} else {
			take_epochs(s, f[i].ns, p->super.ns_count);
		}
	}
	return error;
}

static int read_parts(struct store *s, struct found *f, char *why, size_t why_bytes)
{
	for (uint32_t i = 0; i < s->parts; i++) {
		f[i].error =
			s->cfg.empty ? 1 : super_read(s, &s->part[i], &f[i].ns, why, why_bytes);
		if (f[i].error == -EUCLEAN && !s->cfg.read_only)
			s->stats.reset = true;
		else if (f[i].error < 0)
			return f[i].error;
		if (f[i].error && s->cfg.read_only) {
			snprintf(why, why_bytes, "%s: there is no store", s->part[i].path);
			return -ENOENT;
		}
	}
	return 0;
}

int recover_parts(struct store *s, char *why, size_t why_bytes)
{
	struct found f[STORE_PARTS_MAX] = { 0 };
	int error = read_parts(s, f, why, why_bytes);

	if (!error)
		error = join(s, f, why, why_bytes);
	for (uint32_t i = 0; i < s->parts && !error; i++) {
		struct part *p = &s->part[i];

		error = f[i].error ? make_part(s, p, why, why_bytes)
				   : grow_part(s, p, why, why_bytes);
		if (!error)
			error = add_segments(s, p, f[i].error != 0);
	}
	for (uint32_t i = 0; i < s->parts; i++)
		free(f[i].ns);
	return error;
}
