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
	w->victims += was.state == CORE_PAGE_SEALED;
}

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
		f->used = true;
		from = page_of_record(w, t->from, &f->from_space, &f->from);
		to = page_of_record(w, t->to, &f->to_space, &f->to);
		world_expect(w, from && to, "transfer %u between pages that are not", i);
		f->up = t->direction == CORE_UP;
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
