/* SPDX-License-Identifier: Apache-2.0 */

/* A disk that lies; see sim_disk.h. */

#include "tests/unit/sim_disk.h"

#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

uint64_t sim_disk_random(struct sim_disk *d, uint64_t below)
{
	uint64_t x = d->random += 0x9e3779b97f4a7c15ull;

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return (x ^ (x >> 31)) % below;
}

/* ---- the medium ---------------------------------------------------------------------------- */

static void apply_torn(struct sim_disk *d, char *to, const struct sim_write *w)
{
	for (uint32_t at = 0; at < w->bytes; at += d->sector_bytes)
		if (sim_disk_random(d, 2))
			memcpy(to + w->offset + at, w->data + at, d->sector_bytes);
}

static void lose_power(struct sim_disk *d)
{
	d->off = true;
	for (uint32_t i = 0; i < SIM_DISKS_MAX; i++) {
		for (struct sim_write *w = d->pending[i]; w; w = w->next) {
			const uint64_t fate = d->kill && w->ended ? 0 : sim_disk_random(d, 3);

			if (fate == 0)
				memcpy(d->stable[i] + w->offset, w->data, w->bytes);
			else if (fate == 1)
				apply_torn(d, d->stable[i], w);
		}
	}
}

static void forget_pending(struct sim_disk *d, uint32_t file, bool ended_only)
{
	struct sim_write **link = &d->pending[file], *w;

	while ((w = *link)) {
		if (ended_only && !w->ended) {
			link = &w->next;
			continue;
		}
		*link = w->next;
		free(w->data);
		free(w);
	}
}

void sim_disk_power_on(struct sim_disk *d)
{
	if (!d->off)
		lose_power(d);
	for (uint32_t i = 0; i < SIM_DISKS_MAX; i++) {
		forget_pending(d, i, false);
		memcpy(d->now[i], d->stable[i], d->bytes);
	}
	d->off = false;
	d->cut_at = 0;
}

void sim_disk_make(struct sim_disk *d, uint64_t bytes, uint64_t seed)
{
	*d = (struct sim_disk){ .bytes = bytes, .random = seed, .sector_bytes = 512, .slow = 4 };
	for (uint32_t i = 0; i < SIM_DISKS_MAX; i++) {
		d->now[i] = calloc(1, bytes);
		d->stable[i] = calloc(1, bytes);
		ck_assert_ptr_nonnull(d->now[i]);
		ck_assert_ptr_nonnull(d->stable[i]);
	}
}

void sim_disk_free(struct sim_disk *d)
{
	for (uint32_t i = 0; i < SIM_DISKS_MAX; i++) {
		forget_pending(d, i, false);
		free(d->now[i]);
		free(d->stable[i]);
	}
}

/* ---- transfers ----------------------------------------------------------------------------- */

struct flight_own {
	struct sim_write *write; /* of a write: the copy made when it began */
	uint64_t due;
	enum sim_fault fault;
};

/* The engine's flights have no room of ours: a table beside them, by address. */
struct sim {
	struct sim_disk *d;
	uint64_t turn;
	struct flight_own *own;
};

static int sim_start(struct engine *e, uint32_t flights)
{
	struct sim *m = calloc(1, sizeof(*m));

	ck_assert_ptr_nonnull(m);
	m->d = e->ops_arg;
	m->own = calloc(flights, sizeof(*m->own));
	ck_assert_ptr_nonnull(m->own);
	e->own = m;
	return 0;
}

static void sim_finish(struct engine *e)
{
	struct sim *m = e->own;

	ck_assert_ptr_null(m->d->flying);
	free(m->own);
	free(m);
}

static int sim_nothing(struct engine *e)
{
	return 0;
}

static void sim_push(struct engine *e)
{
}

static void gather(const struct engine_flight *f, char *to)
{
	for (uint32_t i = 0; i < f->n_iov; i++) {
		memcpy(to, f->iov[i].iov_base, f->iov[i].iov_len);
		to += f->iov[i].iov_len;
	}
}

static void begin_write(struct sim_disk *d, struct engine_flight *f, struct flight_own *own)
{
	struct sim_write *w = calloc(1, sizeof(*w)), **end = &d->pending[f->file];

	ck_assert_ptr_nonnull(w);
	ck_assert_uint_le(f->offset + f->bytes, d->bytes);
	w->offset = f->offset;
	w->bytes = f->bytes;
	w->data = malloc(f->bytes);
	ck_assert_ptr_nonnull(w->data);
	gather(f, w->data);
	while (*end)
		end = &(*end)->next;
	*end = w;
	own->write = w;
}

static void sim_fly(struct engine *e, struct engine_flight *f)
{
	struct sim *m = e->own;
	struct sim_disk *d = m->d;
	struct flight_own *own = &m->own[f - e->flight];

	*own = (struct flight_own){ .due = m->turn + sim_disk_random(d, d->slow) };
	d->seen[f->op]++;
	if (d->fault && f->op == d->fault_op && d->seen[f->op] == d->fault_at)
		own->fault = d->fault;
	if (f->op == ENGINE_WRITE && !d->off) {
		begin_write(d, f, own);
		if (d->cut_at && d->seen[ENGINE_WRITE] == d->cut_at)
			lose_power(d);
	}
	f->next = d->flying;
	d->flying = f;
	d->flying_n++;
}

/* ---- their end ----------------------------------------------------------------------------- */

static void damage(struct sim_disk *d, struct engine_flight *f, struct flight_own *own)
{
	struct sim_write *w = own->write;

	switch (own->fault) {
	case SIM_DROP:
		memcpy(w->data, d->now[f->file] + w->offset, w->bytes);
		break;
	case SIM_MISPLACE:
		w->offset = sim_disk_random(d, (d->bytes - w->bytes) / 4096) * 4096;
		break;
	case SIM_ROT:
		w->data[sim_disk_random(d, w->bytes)] ^= 1 << sim_disk_random(d, 8);
		break;
	case SIM_TEAR:
	case SIM_SHORT:
		memcpy(w->data + w->bytes / 2, d->now[f->file] + w->offset + w->bytes / 2,
		       w->bytes - w->bytes / 2);
		break;
	case SIM_ERROR: /* nobody knows what was written */
		for (uint32_t at = 0; at < w->bytes; at += d->sector_bytes)
			if (sim_disk_random(d, 2))
				memcpy(w->data + at, d->now[f->file] + w->offset + at,
				       d->sector_bytes);
		break;
	case SIM_NONE:
		break;
	}
}

static void end_read(struct sim_disk *d, struct engine_flight *f, const struct flight_own *own)
{
	const char *from = d->now[f->file] + f->offset;

	f->res = f->bytes;
	if (f->offset + f->bytes > d->bytes) {
		f->res = 0;
		return;
	}
	for (uint32_t i = 0; i < f->n_iov; i++) {
		memcpy(f->iov[i].iov_base, from, f->iov[i].iov_len);
		from += f->iov[i].iov_len;
	}
	if (own->fault == SIM_ROT)
		((char *)f->iov[0].iov_base)[sim_disk_random(d, f->iov[0].iov_len)] ^= 4;
}

static void end_flush(struct sim_disk *d, struct engine_flight *f, const struct flight_own *own)
{
	f->res = own->fault == SIM_ERROR ? d->fault_error : 0;
	/* What a failed flush did not write is gone for good, and the next one says nothing. */
	for (struct sim_write *w = d->pending[f->file]; w; w = w->next)
		if (w->ended && !d->flush_lies && (!f->res || sim_disk_random(d, 2)))
			memcpy(d->stable[f->file] + w->offset, w->data, w->bytes);
	if (!d->flush_lies)
		forget_pending(d, f->file, true);
	if (f->res)
		memcpy(d->now[f->file], d->stable[f->file], d->bytes);
}

static void end(struct sim_disk *d, struct engine_flight *f, struct flight_own *own)
{
	if (d->off) {
		f->res = -EIO;
		return;
	}
	if (f->op == ENGINE_READ) {
		end_read(d, f, own);
	} else if (f->op == ENGINE_FLUSH) {
		end_flush(d, f, own);
	} else {
		damage(d, f, own);
		own->write->ended = true;
		memcpy(d->now[f->file] + own->write->offset, own->write->data, own->write->bytes);
		f->res = f->bytes;
	}
	if (own->fault == SIM_ERROR)
		f->res = d->fault_error;
	if (own->fault == SIM_SHORT)
		f->res = f->bytes / 2;
}

static void sim_reap(struct engine *e)
{
	struct sim *m = e->own;
	struct sim_disk *d = m->d;
	struct engine_flight **link = &d->flying, *f;

	m->turn++;
	while ((f = *link)) {
		if (m->own[f - e->flight].due > m->turn && !d->off) {
			link = &f->next;
			continue;
		}
		*link = f->next;
		d->flying_n--;
		end(d, f, &m->own[f - e->flight]);
		engine_landed(e, f);
	}
}

static void sim_wait(struct engine *e, uint64_t timeout_ns)
{
}

static bool sim_pending(const struct engine *e)
{
	return ((struct sim *)e->own)->d->flying != NULL;
}

/* ---- files --------------------------------------------------------------------------------- */

static int sim_open(void *arg, const struct engine_file_want *want, struct engine_file_info *ret,
		    char *why, size_t why_bytes)
{
	struct sim_disk *d = arg;
	const int file = want->path[0] - '0';

	ck_assert(!d->open[file]);
	d->open[file] = true;
	*ret = (struct engine_file_info){ .bytes = d->bytes, .align_mem = 512, .align_bytes = 512 };
	ret->device = true;
	return file;
}

static void sim_close(void *arg, int fd)
{
	((struct sim_disk *)arg)->open[fd] = false;
}

static int sim_resize(void *arg, int fd, uint64_t bytes)
{
	return bytes <= ((struct sim_disk *)arg)->bytes ? 0 : -ENOSPC;
}

static int sim_check(void *arg, int fd, uint64_t bytes)
{
	return 0;
}

static const struct engine_file_ops file_ops = {
	.open = sim_open,
	.close = sim_close,
	.resize = sim_resize,
	.check = sim_check,
};

const struct engine_ops sim_disk_ops = {
	.name = "simulated",
	.file_ops = &file_ops,
	.start = sim_start,
	.finish = sim_finish,
	.files = sim_nothing,
	.fly = sim_fly,
	.push = sim_push,
	.reap = sim_reap,
	.wait = sim_wait,
	.memory = sim_nothing,
	.pending = sim_pending,
};
