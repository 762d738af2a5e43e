/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The judge of transfers: which may start, and what their ends do to the pages.
 */

#include "tests/sim/world.h"

#include <errno.h>
#include <string.h>

/* The page of the model behind a record of the core. */
static struct m_page *page_of_record(struct world *w, uint32_t record, int *ret_space,
				     uint32_t *ret_id)
{
	const struct core_slab *cs = &w->c.slabs[w->c.units[record / CORE_UNIT_PAGES]];

	*ret_space = cs->space;
	*ret_id = cs->slot * cs->pages + (record - cs->base);
	return model_page_at(&w->m, cs->space, *ret_id);
}

/* A page that becomes ARRIVING: free, or evicted under a new generation. */
static void absorb_arriving(struct world *w, int space, uint32_t id, struct m_page *p,
			    const struct core_page *cp, const struct m_page *from)
{
	struct m_space *s = &w->m.space[space];
	struct m_page was = *p;

	world_expect(w, was.state == CORE_PAGE_FREE || was.state == CORE_PAGE_SEALED,
		     "I1: page %u arrives and is %s", id, model_page_states[was.state]);
	world_expect(w, !was.busy && !model_leased(&was) && !was.pinned,
		     "I1: page %u arrives and is in use", id);
	world_expect(w, was.state == CORE_PAGE_FREE || cp->gen != was.gen,
		     "page %u was evicted and kept its generation", id);
	world_expect(w, s->above != M_NONE || model_name_is_new(s, KVB_PAGE(cp->gen, id)),
		     "page %u arrives under an old name", id);
	w->victims += was.state == CORE_PAGE_SEALED;
	*p = (struct m_page){
		.state = CORE_PAGE_ARRIVING,
		.indexed = s->above == M_NONE,
		.low = cp->flags & CORE_PAGE_LOW,
		.high = cp->flags & CORE_PAGE_HIGH,
		.busy = true,
		.bytes = was.bytes,
		.gen = cp->gen,
		.owner = M_NONE,
		.ns = from->ns,
		.epoch = from->epoch,
		.salt = from->salt,
		.hash = from->hash,
		.expire_s = cp->expire_s,
	};
}

/* ---- the store's --------------------------------------------------------------------------- */

static void absorb_write(struct world *w, const struct core_transfer *t, struct flight *f)
{
	struct m_page *from = page_of_record(w, t->from, &f->from_space, &f->from);
	const struct m_space *s = &w->m.space[f->from_space];

	world_expect(w, from && t->to == CORE_NONE && s->below == M_NONE,
		     "page %u of space %d is written to the store", f->from, f->from_space);
	world_expect(w,
		     from->state == CORE_PAGE_SEALED && !from->busy && from->indexed &&
			     from->epoch == w->m.ns[from->ns].epoch,
		     "page %u is written to the store and is %s", f->from,
		     model_page_states[from->state]);
	world_expect(w, !store_has(w, s, from), "page %u is written to the store a second time",
		     f->from);
	world_expect(w, store_admits(w, &from->hash) || (w->may_insist && model_leased(from)),
		     "page %u is written to the store, which was not to have it", f->from);
	world_expect(w, !from->expire_s || w->may_insist,
		     "page %u is written to the store, and has a time to live", f->from);
	world_expect(w, !from->spare || !(w->c.pages[t->from].flags & CORE_PAGE_SPARE),
		     "page %u is written to the store, the page above it is in use", f->from);
	f->to_space = M_NONE;
	from->busy = true;
}

static void absorb_read(struct world *w, const struct core_transfer *t, struct flight *f)
{
	const struct core_page *cp = &w->c.pages[t->to];
	const struct m_page key = {
		.ns = cp->ns, .epoch = cp->epoch, .salt = cp->salt, .hash = cp->hash
	};
	struct m_page *to = page_of_record(w, t->to, &f->to_space, &f->to), *via;
	const struct m_space *s = &w->m.space[f->to_space];

	world_expect(w, to && s->above == M_NONE && (t->from == CORE_NONE) == (s->below == M_NONE),
		     "page %u of space %d is read from the store", f->to, f->to_space);
	world_expect(w, w->may_rise, "page %u is read from the store, and nobody asked", f->to);
	world_expect(w,
		     cp->ns < M_NAMESPACES && cp->epoch == w->m.ns[cp->ns].epoch &&
			     store_has(w, s, &key),
		     "I5: page %u is to be read from the store, which does not have it", f->to);
	absorb_arriving(w, f->to_space, f->to, to, cp, &key);
	f->from_space = M_NONE;
	if (t->from == CORE_NONE)
		return;
	via = page_of_record(w, t->from, &f->from_space, &f->from);
	world_expect(w, via && f->from_space == s->below, "page %u comes through space %d", f->to,
		     f->from_space);
	absorb_arriving(w, f->from_space, f->from, via, &w->c.pages[t->from], &key);
}

/* Writes never have the last quarter of the transfers. */
static void expect_room_for_reads(struct world *w)
{
	uint32_t limit = w->c.h->limits.transfers, writes = 0;

	for (uint32_t i = 0; i < limit; i++)
		writes += w->flight[i].used && w->flight[i].store && !w->flight[i].up;
	world_expect(w, writes <= limit - limit / 4, "%u of %u transfers are writes to the store",
		     writes, limit);
}

static void absorb_store_transfer(struct world *w, const struct core_transfer *t, struct flight *f)
{
	world_expect(w, w->store_there, "a transfer for a store that was detached");
	f->store = true;
	if (f->up)
		absorb_read(w, t, f);
	else
		absorb_write(w, t, f);
	expect_room_for_reads(w);
}

static void count(uint64_t *pages, uint64_t *bytes, const struct m_space *s)
{
	(*pages)++;
	*bytes += s->regions * s->stride_bytes;
}

static void write_ended(struct world *w, struct flight *f, int error)
{
	const struct m_space *s = &w->m.space[f->from_space];

	struct m_page *p = model_page_at(&w->m, f->from_space, f->from);

	p->busy = false;
	p->indexed &= error != -EBADMSG;
	w->misses += error == -EBADMSG;
	f->used = false;
	if (error)
		w->n.refused++;
	else
		count(&w->n.stored, &w->n.stored_bytes, s);
}

void model_store_end(struct world *w, unsigned transfer, int error)
{
	struct flight *f = &w->flight[transfer];
	struct m_page *to, *via;

	f->store = f->out = false;
	if (!f->up) {
		write_ended(w, f, error);
		return;
	}
	to = model_page_at(&w->m, f->to_space, f->to);
	via = f->from_space == M_NONE ? NULL : model_page_at(&w->m, f->from_space, f->from);
	if (via) {
		via->state = CORE_PAGE_SEALED;
		via->indexed = !error && to->indexed && to->epoch == w->m.ns[to->ns].epoch;
		via->busy = !error;
	}
	if (error)
		w->n.lost++;
	else
		count(&w->n.fetched, &w->n.fetched_bytes, &w->m.space[f->to_space]);
	if (via && !error) { /* the mover goes on with it */
		if (!w->m.device[w->m.space[f->to_space].device].ready)
			model_transfer_end(w, transfer, -EIO);
		return;
	}
	f->used = false;
	to->state = CORE_PAGE_SEALED;
	to->busy = false;
	to->failed = error;
	to->indexed &= !error;
}

/* ---- all of them --------------------------------------------------------------------------- */

void model_absorb_transfers(struct world *w)
{
	for (uint32_t i = 0; i < w->c.h->limits.transfers; i++) {
		const struct core_transfer *t = &w->c.transfers[i];
		struct flight *f = &w->flight[i];
		struct m_page *from, *to;

		world_expect(w, !f->used || t->state != CORE_TRANSFER_FREE, "transfer %u is lost",
			     i);
		if (t->state == CORE_TRANSFER_FREE || f->used)
			continue;
		*f = (struct flight){ .used = true, .up = t->direction == CORE_UP };
		if (t->store) {
			absorb_store_transfer(w, t, f);
			continue;
		}
		from = page_of_record(w, t->from, &f->from_space, &f->from);
		to = page_of_record(w, t->to, &f->to_space, &f->to);
		world_expect(w, from && to, "transfer %u between pages that are not", i);
		world_expect(w, f->up ? w->may_rise : true, "transfer %u: nobody asked", i);
		world_expect(w,
			     f->up ? w->m.space[f->to_space].below == f->from_space
				   : w->m.space[f->from_space].below == f->to_space,
			     "transfer %u between spaces %d and %d", i, f->from_space, f->to_space);
		world_expect(w,
			     from->state == CORE_PAGE_SEALED && !from->busy &&
				     from->epoch == w->m.ns[from->ns].epoch,
			     "transfer %u copies a page that is %s", i,
			     model_page_states[from->state]);
		absorb_arriving(w, f->to_space, f->to, to, &w->c.pages[t->to], from);
		from->busy = true;
	}
}

void model_transfer_end(struct world *w, unsigned transfer, int error)
{
	struct flight *f = &w->flight[transfer];
	struct m_page *from = model_page_at(&w->m, f->from_space, f->from);
	struct m_page *to = model_page_at(&w->m, f->to_space, f->to);

	world_expect(w, from && to, "I1: the memory of transfer %u went away", transfer);
	f->used = false;
	from->busy = to->busy = false;
	to->state = CORE_PAGE_SEALED;
	if (f->up) {
		to->failed = error;
		to->copied = !error;
		to->indexed &= !error;
		from->indexed &= error != -EBADMSG;
		w->promoted += !error;
		w->failures += error != 0;
		w->misses += error == -EBADMSG;
	} else {
		to->indexed = !error && from->indexed && from->epoch == w->m.ns[from->ns].epoch;
		from->copied |= to->indexed;
		w->demoted += to->indexed;
	}
}
