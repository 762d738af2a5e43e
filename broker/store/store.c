/* SPDX-License-Identifier: Apache-2.0 */

/* Keys, pages, turns and figures of a store; see store.h and internal.h. */

#include "broker/store/store.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* xxHash is written to be compiled into its user; so the shared library is not needed. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "broker/store/internal.h"

#define ROUNDS_MAX 16u
#define CHECK_NS (1000ull * 1000 * 1000)

_Static_assert((int)STORE_TRANSFERS == (int)ENGINE_OPS &&
		       STORE_LATENCY_BUCKETS == ENGINE_LATENCY_BUCKETS,
	       "figures are copied");
_Static_assert(STORE_PAGE_BYTES_MAX == FORMAT_PAGE_BYTES_MAX, "what is put can be found");

/* ---- small things -------------------------------------------------------------------------- */

void *store_units_raw(uint64_t units)
{
	void *mem;

	if (fault_fails("store-memory") || posix_memalign(&mem, FORMAT_UNIT, units * FORMAT_UNIT))
		return NULL;
	return mem;
}

void *store_units(uint64_t units)
{
	void *mem = store_units_raw(units);

	return mem ? memset(mem, 0, units * FORMAT_UNIT) : NULL;
}

uint64_t store_page_bytes(const struct iovec *piece, uint32_t n)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < n && n <= STORE_PIECES_MAX; i++)
		bytes += piece[i].iov_len;
	if (bytes > STORE_PAGE_BYTES_MAX)
		return 0;
	/* No room for the piece that would fill up the last unit. */
	return n == STORE_PIECES_MAX && bytes % FORMAT_UNIT ? 0 : bytes;
}

uint32_t store_crc_pieces(const struct iovec *piece, uint32_t n)
{
	uint32_t crc = 0;

	for (uint32_t i = 0; i < n; i++)
		crc = format_crc(crc, piece[i].iov_base, piece[i].iov_len);
	return crc;
}

void store_report(struct store *s, const struct store_done *done)
{
	struct done_list *l = &s->reports;

	if (l->n == l->room) {
		const uint32_t room = l->room ? 2 * l->room : 256;
		struct store_done *more = calloc(room, sizeof(*more));

		if (!more)
			abort(); /* a caller would wait for ever */
		for (uint32_t i = 0; i < l->n; i++)
			more[i] = l->done[(l->head + i) % l->room];
		free(l->done);
		*l = (struct done_list){ .done = more, .n = l->n, .room = room };
	}
	l->done[(l->head + l->n++) % l->room] = *done;
}

/* ---- requests ------------------------------------------------------------------------------ */

struct request *store_request_new(struct store *s)
{
	struct request *r = s->request_free;

	if (!r)
		return NULL;
	s->request_free = r->next;
	s->requests++;
	memset(r, 0, offsetof(struct request, piece));
	return r;
}

void store_request_free(struct store *s, struct request *r)
{
	free(r->bounce);
	r->bounce = NULL;
	r->next = s->request_free;
	s->request_free = r;
	s->requests--;
}

static bool suits(const struct part *p, const struct iovec *v, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		if ((uintptr_t)v[i].iov_base % p->info.align_mem ||
		    v[i].iov_len % p->info.align_bytes)
			return false;
	return true;
}

static void gather(char *to, const struct iovec *v, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		memcpy(to, v[i].iov_base, v[i].iov_len);
		to += v[i].iov_len;
	}
}

int store_request_direct(struct store *s, const struct part *p, struct request *r, bool write)
{
	const uint32_t units = format_units(r->bytes);
	const uint32_t fill = units * FORMAT_UNIT - r->bytes;

	if (r->kind == REQUEST_FORWARD) {
		r->direct[0] = (struct iovec){ r->bounce, (size_t)units * FORMAT_UNIT };
		r->io.iov = r->direct;
		r->io.n_iov = 1;
		return 0;
	}
	if (suits(p, r->piece, r->n) && fill % p->info.align_bytes == 0) {
		r->io.iov = r->piece;
		r->io.n_iov = (uint16_t)r->n;
		if (fill) /* of no meaning; what is read goes where nobody looks */
			r->piece[r->io.n_iov++] =
				(struct iovec){ write ? s->zeros : s->scratch, fill };
		return 0;
	}
	r->bounce = store_units_raw(units);
	if (!r->bounce)
		return -ENOMEM;
	s->stats.bounced++;
	if (write) {
		gather(r->bounce, r->piece, r->n);
		memset(r->bounce + r->bytes, 0, fill);
	}
	r->direct[0] = (struct iovec){ r->bounce, (size_t)units * FORMAT_UNIT };
	r->io.iov = r->direct;
	r->io.n_iov = 1;
	return 0;
}

/* ---- keys ---------------------------------------------------------------------------------- */

void store_place_make(const struct store *s, const struct store_identity *id,
		      struct store_place *ret)
{
	struct {
		uint8_t digest[32];
		uint64_t regions, stride_bytes, tag;
	} what = { .regions = id->regions, .stride_bytes = id->stride_bytes, .tag = id->tag };

	memcpy(what.digest, id->ns_digest, sizeof(what.digest));
	ret->half[0] = XXH3_64bits_withSeed(id->domain, strlen(id->domain), s->secret[0]);
	ret->half[1] = XXH3_64bits_withSeed(&what, sizeof(what), s->secret[1]);
}

void store_key_make(const struct store *s, const struct store_place *place, uint16_t ns,
		    uint32_t epoch, uint64_t salt, const uint64_t chain[2], struct store_key *ret)
{
	const uint64_t what[2] = { place->half[1], salt };

	*ret = (struct store_key){
		.where = { place->half[0], XXH3_64bits_withSeed(what, sizeof(what), s->secret[1]) },
		.chain = { chain[0], chain[1] },
		.epoch = epoch,
		.ns = ns,
	};
}

void store_tag(const struct store *s, const uint64_t where[2], const uint64_t chain[2],
	       uint32_t epoch, struct index_tag *ret)
{
	const uint64_t key[5] = { where[0], where[1], chain[0], chain[1], epoch };
	const XXH128_hash_t h = XXH3_128bits_withSeed(key, sizeof(key), s->tag_secret);

	ret->tag = h.low64 ? h.low64 : 1;
	ret->more = (uint32_t)h.high64 & ((1u << 22) - 1);
}

bool store_locate(const struct store *s, const struct store_key *key, const struct index_tag *tag,
		  struct index_place *ret)
{
	return key->ns < s->ns_count && s->ns[key->ns].epoch == key->epoch &&
	       index_table_find(&s->index, tag, ret) &&
	       !s->part[s->segment[ret->segment].part].failed;
}

bool store_find(const struct store *s, const struct store_key *key)
{
	struct index_place at;
	struct index_tag tag;

	store_tag(s, key->where, key->chain, key->epoch, &tag);
	return store_locate(s, key, &tag, &at);
}

void store_forget(struct store *s, const struct store_key *key)
{
	struct index_place at;
	struct index_tag tag;

	store_tag(s, key->where, key->chain, key->epoch, &tag);
	if (index_table_find(&s->index, &tag, &at))
		index_table_remove_at(&s->index, &tag, at.segment, at.unit);
}

/* ---- namespaces ---------------------------------------------------------------------------- */

uint16_t store_ns_open(struct store *s, const uint8_t digest[32], uint32_t epoch,
		       uint32_t *ret_epoch)
{
	for (uint32_t i = 0; i < s->ns_count; i++) {
		if (memcmp(s->ns[i].digest, digest, 32) == 0) {
			*ret_epoch = s->ns[i].epoch;
			return (uint16_t)i;
		}
	}
	*ret_epoch = epoch;
	if (s->ns_count == FORMAT_NS_MAX)
		return STORE_NS_NONE;
	s->ns[s->ns_count] = (struct format_ns){ .epoch = epoch };
	memcpy(s->ns[s->ns_count].digest, digest, 32);
	s->commit_wanted = true;
	return (uint16_t)s->ns_count++;
}

void store_bump(struct store *s, uint16_t ns, uint32_t epoch, void *user)
{
	struct waiter *w, **end = &s->bumps_waiting;
	struct store_done done = { .user = user, .kind = STORE_DONE_BUMP };

	if (ns < s->ns_count && epoch > s->ns[ns].epoch) {
		s->ns[ns].epoch = epoch;
		s->commit_wanted = true;
	}
	if (ns >= s->ns_count || (!s->commit_wanted && !s->committing)) {
		store_report(s, &done);
		return;
	}
	w = calloc(1, sizeof(*w));
	if (!w) {
		done.status = -ENOMEM;
		store_report(s, &done);
		return;
	}
	s->commit_wanted = true; /* one that began before may not have it */
	w->user = user;
	while (*end)
		end = &(*end)->next;
	*end = w;
}

/* ---- pages --------------------------------------------------------------------------------- */

int store_put(struct store *s, const struct store_key *key, const struct iovec *piece, uint32_t n,
	      const uint32_t *crc, void *user)
{
	const uint64_t most = (uint64_t)s->segment_units * FORMAT_UNIT / 4;
	struct store_done done = { .user = user, .kind = STORE_DONE_PUT };
	struct part *p = write_choose_part(s);
	struct request *r;
	const uint64_t bytes = store_page_bytes(piece, n);

	if (!bytes || bytes > most || key->ns >= s->ns_count)
		return -EINVAL;
	if (s->cfg.read_only)
		return -EROFS;
	if (!p)
		return -EIO;
	if (key->epoch < s->ns[key->ns].epoch)
		return -ESTALE;
	if (key->epoch > s->ns[key->ns].epoch) {
		s->ns[key->ns].epoch = key->epoch;
		s->commit_wanted = true;
	}
	s->stats.puts++;
	if (store_find(s, key)) {
		s->stats.puts_present++;
		store_report(s, &done);
		return 0;
	}
	if (s->requests + 2 * FORWARDS_MAX >= REQUESTS_MAX)
		return -EAGAIN;
	r = store_request_new(s);
	if (!r)
		return -EAGAIN;
	r->kind = REQUEST_PUT;
	r->key = *key;
	store_tag(s, key->where, key->chain, key->epoch, &r->tag);
	r->bytes = (uint32_t)bytes;
	r->n = n;
	memcpy(r->piece, piece, n * sizeof(*piece));
	r->has_crc = crc != NULL;
	r->crc = crc ? *crc : 0;
	r->user = user;
	write_queue(p, r);
	return 0;
}

void store_flush_ended(struct store *s, void *arg, int status)
{
	struct waiter *w = arg;

	if (status)
		w->status = status;
	if (--w->left)
		return;
	store_report(s, &(struct store_done){
				.user = w->user, .status = w->status, .kind = STORE_DONE_FLUSH });
	free(w);
}

void store_flush(struct store *s, void *user)
{
	struct waiter *w = calloc(1, sizeof(*w));

	if (!w) {
		store_report(s, &(struct store_done){ .user = user,
						      .status = -ENOMEM,
						      .kind = STORE_DONE_FLUSH });
		return;
	}
	w->user = user;
	w->left = s->parts;
	for (uint32_t i = 0, parts = s->parts; i < parts; i++) {
		w->flush[i] = (struct flush_wait){ .done = store_flush_ended, .arg = w };
		if (s->part[i].failed)
			store_flush_ended(s, w, s->part[i].leave ? 0 : -EIO);
		else
			flush_wait(&s->part[i], &w->flush[i]);
	}
}

/* ---- turns --------------------------------------------------------------------------------- */

void store_part_fail(struct part *p, int error)
{
	if (p->failed)
		return;
	p->failed = error ? error : -EIO;
	write_refuse(p, -EIO);
}

void store_failure(struct part *p, int error)
{
	if (++p->failures >= FAILURES_MAX || error == -ENODEV || error == -ENXIO)
		store_part_fail(p, error);
}

/* A file that was cut or taken away says so by itself only at the place that is missing. */
static void check_file(struct part *p)
{
	struct store *s = p->s;
	int error;

	if (p->failed || s->now_ns - p->checked_ns < CHECK_NS)
		return;
	p->checked_ns = s->now_ns;
	error = s->file_ops->check(s->cfg.ops_arg, p->fd, p->super.part_bytes);
	if (error)
		store_part_fail(p, error);
}

void store_turn(struct store *s)
{
	uint64_t landed;
	uint32_t rounds = 0;

	do {
		s->more = false;
		landed = s->engine.landed;
		for (uint32_t i = 0; i < s->parts; i++) {
			struct part *p = &s->part[i];

			check_file(p);
			evict_turn(p);
			segment_prepare(p);
			write_turn(p);
			segment_prepare(p);
			segment_close_turn(p);
			resize_turn(p);
			super_commit_start(s);
			flush_turn(p);
		}
		scrub_turn(s);
		engine_turn(&s->engine);
	} while (s->engine.landed != landed && ++rounds < ROUNDS_MAX);
	s->more = s->more || s->engine.landed != landed;
}

uint32_t store_poll(struct store *s, uint64_t now_ns, struct store_done *ret, uint32_t n)
{
	struct done_list *l = &s->reports;
	uint32_t i;

	s->now_ns = s->engine.now_ns = now_ns;
	store_turn(s);
	read_deadlines(s);
	for (i = 0; i < n && l->n; i++) {
		ret[i] = l->done[l->head];
		l->head = (l->head + 1) % l->room;
		l->n--;
	}
	return i;
}

int store_event(const struct store *s)
{
	return s->engine.event;
}

static bool part_pending(const struct part *p)
{
	if (p->flush_wanted && !p->flushing)
		return true;
	if (!p->puts || !p->group_free)
		return false;
	return p->failed || p->open || p->ready || (!p->opening && segment_find_free(p));
}

bool store_pending(const struct store *s)
{
	for (uint32_t i = 0; i < s->parts; i++)
		if (part_pending(&s->part[i]))
			return true;
	return s->more || s->reports.n || (s->commit_wanted && !s->committing) ||
	       engine_pending(&s->engine);
}

uint64_t store_next_ns(const struct store *s)
{
	uint64_t next_ns = s->timed ? s->timed_next_ns : UINT64_MAX;

	for (uint32_t i = 0; i < s->parts; i++) {
		const struct part *p = &s->part[i];
		const uint64_t flush_ns = p->flushed_ns + s->cfg.flush_ms * 1000000ull;

		if (p->unflushed && !p->failed && flush_ns < next_ns)
			next_ns = flush_ns;
	}
	return next_ns;
}

void store_wait(struct store *s, uint64_t timeout_ns)
{
	if (!store_pending(s))
		engine_wait(&s->engine, timeout_ns);
}

int store_memory_add(struct store *s, void *mem, uint64_t bytes)
{
	return engine_memory_add(&s->engine, mem, bytes);
}

void store_memory_remove(struct store *s, void *mem)
{
	engine_memory_remove(&s->engine, mem);
}

/* ---- figures ------------------------------------------------------------------------------- */

static void part_stats(const struct store *s, const struct part *p, struct store_part_stats *ret)
{
	const struct engine_file *f = &s->engine.file[p->number];

	*ret = (struct store_part_stats){
		.bytes = p->super.part_bytes,
		.bytes_wanted = FORMAT_HEAD_BYTES +
				(uint64_t)p->segments_wanted * s->segment_units * FORMAT_UNIT,
		.segments = p->segments,
		.read_bytes = f->read_bytes,
		.written_bytes = f->written_bytes,
		.reads_in_flight = f->in_flight - f->in_flight_rest,
		.writes_in_flight = f->in_flight_rest,
		.queued = f->queued + p->puts_n,
		.failed = p->leave ? p->leave_error : p->failed,
		.left = p->leave == PART_LEFT,
	};
	if (p->segments == 0)
		ret->bytes = 0;
	if (p->segments_wanted == 0)
		ret->bytes_wanted = 0;
	memcpy(ret->path, p->path, sizeof(ret->path));
	memcpy(ret->latency, f->latency, sizeof(ret->latency));
	for (uint32_t i = 0; i < p->segments; i++) {
		const uint8_t state = s->segment[p->id[i]].state;

		ret->segments_free += state == SEGMENT_FREE || state == SEGMENT_READY;
		ret->segments_bad += state == SEGMENT_BAD;
	}
}

void store_stats(const struct store *s, struct store_stats *ret)
{
	*ret = s->stats;
	snprintf(ret->engine, sizeof(ret->engine), "%s", s->engine.ops->name);
	ret->pages = s->index.used;
	ret->pages_max = s->index.used_max;
	ret->index_bytes = s->index_bytes;
	ret->segment_bytes = (uint64_t)s->segment_units * FORMAT_UNIT;
	ret->namespaces = s->ns_count;
	scrub_stats(s, &ret->check);
	ret->parts = s->parts;
	for (uint32_t i = 0; i < s->parts; i++) {
		const struct part *p = &s->part[i];

		part_stats(s, p, &ret->part[i]);
		ret->bytes += ret->part[i].bytes;
		ret->bytes_used += (uint64_t)(p->segments - ret->part[i].segments_free) *
				   s->segment_units * FORMAT_UNIT;
	}
}
