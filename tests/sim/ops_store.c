/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A simulated store: bytes under keys, that come late, fail, and are lost at any time.
 *
 * It is asked for keys inside of the core's calls and changes only between them. What the core
 * gives out is done later, in any order: then a page's bytes are put under the key that was said
 * when it was given out, or what is under that key is put into the page. Writes of a past epoch may
 * be refused, reads find nothing, or bytes that are not sound. It may be detached at any moment,
 * with transfers out, and attached again, empty or as it was.
 *
 * It also stands for what a daemon finds after a restart: a namespace may be in a later epoch
 * there, with keys that nobody has written in this history.
 */

#include "tests/sim/world.h"

#include <errno.h>
#include <string.h>

static uint32_t sum_of(uint64_t bytes)
{
	return (uint32_t)rng_mix(bytes);
}

/* ---- keys ---------------------------------------------------------------------------------- */

static struct stored *find(struct world *w, const struct stored *key)
{
	for (uint32_t i = 0; i < w->cfg.store_room; i++) {
		struct stored *e = &w->stored[i];

		if (e->used && !memcmp(&e->hash, &key->hash, sizeof(e->hash)) && e->ns == key->ns &&
		    e->epoch == key->epoch && e->home == key->home && e->salt == key->salt)
			return e;
	}
	return NULL;
}

static struct stored key_of_page(const struct world *w, const struct m_space *s,
				 const struct m_page *p)
{
	return (struct stored){
		.used = true,
		.ns = p->ns,
		.epoch = p->epoch,
		.home = model_home(&w->m, s),
		.salt = p->salt,
		.hash = p->hash,
	};
}

/* What the core says, which must be the space that clients have open. */
static struct stored key_of_core(struct world *w, const struct core_key *key)
{
	const struct m_space *s = &w->m.space[key->space % M_SPACES];

	world_expect(w, key->space < M_SPACES && s->used && s->above == M_NONE,
		     "the store is asked for space %u, which no client has open", key->space);
	return (struct stored){
		.used = true,
		.ns = key->ns,
		.epoch = key->epoch,
		.home = model_home(&w->m, s),
		.salt = key->salt,
		.hash = key->hash,
	};
}

/* The one that goes when there is no room for another. */
static struct stored *victim(struct world *w)
{
	struct stored *best = &w->stored[0];

	if (w->cfg.store_random)
		return &w->stored[rnd(w, w->cfg.store_room)];
	for (uint32_t i = 1; i < w->cfg.store_room; i++) {
		if (w->stored[i].since < best->since)
			best = &w->stored[i];
	}
	return best;
}

static void put(struct world *w, const struct stored *key, uint64_t bytes)
{
	struct stored *e = find(w, key);

	for (uint32_t i = 0; !e && i < w->cfg.store_room; i++)
		e = w->stored[i].used ? NULL : &w->stored[i];
	if (!e)
		e = victim(w);
	*e = *key;
	e->bytes = bytes;
	e->since = ++w->stored_last;
}

bool store_has(const struct world *w, const struct m_space *s, const struct m_page *p)
{
	struct stored key = key_of_page(w, s, p);

	return w->store_there && find((struct world *)w, &key);
}

bool store_admits(const struct world *w, const struct kvb_hash *hash)
{
	return !w->cfg.refuse_keys || rng_mix(hash->w[1] + w->seed) % w->cfg.refuse_keys;
}

bool store_pick(struct world *w, int space, int ns, uint64_t salt, struct kvb_hash *ret)
{
	uint64_t home = model_home(&w->m, &w->m.space[space]);

	for (uint32_t n = 0, at = rnd(w, w->cfg.store_room); n < w->cfg.store_room; n++) {
		const struct stored *e = &w->stored[(at + n) % w->cfg.store_room];

		if (!e->used || e->ns != ns || e->salt != salt || e->home != home ||
		    e->epoch != w->m.ns[ns].epoch)
			continue;
		*ret = e->hash;
		return true;
	}
	return false;
}

/* ---- what the core asks --------------------------------------------------------------------- */

static bool has(void *arg, const struct core_key *key)
{
	struct world *w = arg;
	struct stored k = key_of_core(w, key);

	world_expect(w, w->store_there, "a store is asked that was detached");
	return find(w, &k);
}

static bool admit(void *arg, const struct core_page *page, const struct core_key *key)
{
	struct world *w = arg;
	struct stored k = key_of_core(w, key);

	world_expect(w,
		     !memcmp(&page->hash, &key->hash, sizeof(key->hash)) && page->ns == key->ns &&
			     page->epoch == key->epoch,
		     "admission is asked for a page under another key");
	world_expect(w, !find(w, &k), "admission is asked for a page that is there");
	return store_admits(w, &key->hash);
}

static const struct core_store_ops ops = { .has = has, .admit = admit };
static const struct core_store_ops ops_all = { .has = has };

/* ---- there, and not ------------------------------------------------------------------------- */

static void detach(struct world *w)
{
	bool queued[W_FLIGHTS];

	for (uint32_t i = 0; i < W_FLIGHTS; i++)
		queued[i] = w->flight[i].used && w->flight[i].store && !w->flight[i].out;
	core_store_detach(&w->c);
	w->store_there = false;
	for (uint32_t i = 0; i < W_FLIGHTS; i++) {
		if (queued[i])
			model_store_end(w, i, -EIO);
	}
	if (chance(w, 3))
		memset(w->stored, 0, sizeof(w->stored));
}

void op_store_turn(struct world *w)
{
	world_say(w, "the store is %s", w->store_there ? "detached" : "attached");
	if (w->store_there) {
		detach(w);
		return;
	}
	w->store_there = true;
	core_store_attach(&w->c, w->cfg.refuse_keys ? &ops : &ops_all, w);
}

void op_store_lose(struct world *w)
{
	for (uint32_t n = rng_range(&w->rng, 1, w->cfg.store_room / 4 + 1); n; n--)
		victim(w)->used = false;
}

/* ---- its transfers -------------------------------------------------------------------------- */

/* The page of the model that the store reads or writes. */
static struct m_page *page_of(struct world *w, const struct flight *f, int *ret_space,
			      uint32_t *ret_id)
{
	bool to = f->up && f->from_space == M_NONE;

	*ret_space = to ? f->to_space : f->from_space;
	*ret_id = to ? f->to : f->from;
	return model_page_at(&w->m, *ret_space, *ret_id);
}

/* The key that the core says of a transfer, which must be the page's. */
static struct stored said_key(struct world *w, unsigned transfer, struct m_page **ret_page)
{
	struct flight *f = &w->flight[transfer];
	struct core_key key;
	struct stored said, want;
	uint32_t record, id;
	int space;

	*ret_page = page_of(w, f, &space, &id);
	world_expect(w, *ret_page, "I1: the memory of transfer %u went away", transfer);
	record = core_store_page(&w->c, transfer, &key);
	said = key_of_core(w, &key);
	want = key_of_page(w, &w->m.space[space], *ret_page);
	world_expect(w, record == page_record(w, space, id),
		     "transfer %u is of page record %u, the model has page %u", transfer, record,
		     id);
	world_expect(w,
		     said.ns == want.ns && said.epoch == want.epoch && said.salt == want.salt &&
			     said.home == want.home &&
			     !memcmp(&said.hash, &want.hash, sizeof(said.hash)),
		     "I5: transfer %u is of another key than its page", transfer);
	return said;
}

static bool is_read_queued(const struct world *w)
{
	for (uint32_t i = 0; i < W_FLIGHTS; i++) {
		const struct flight *f = &w->flight[i];

		if (f->used && f->store && f->up && !f->out)
			return true;
	}
	return false;
}

void store_serve(struct world *w, bool all)
{
	struct m_page *p;

	while (all || !chance(w, 4)) {
		unsigned t = core_next_store_transfer(&w->c);

		if (t == CORE_NONE16)
			return;
		world_trace(w, t);
		world_expect(w, t < W_FLIGHTS && w->flight[t].used && w->flight[t].store,
			     "the store is given transfer %u, which is not its", t);
		world_expect(w, w->flight[t].up || !is_read_queued(w),
			     "the store is given a write while a read waits");
		w->flight[t].out = true;
		said_key(w, t, &p);
		world_later(w, EVENT_STORED, t, 0, 0);
	}
}

void op_store_io(struct world *w)
{
	if (!w->store_there && chance(w, 6))
		op_store_turn(w);
	store_serve(w, false);
}

static int error_of_read(struct world *w, const struct stored *there)
{
	if (chance(w, w->cfg.lose_one_in))
		return chance(w, 2) ? -EIO : -EBADMSG;
	if (!w->store_there && chance(w, 2))
		return -EIO;
	return there ? 0 : -ENOENT;
}

static int error_of_write(struct world *w, const struct stored *key)
{
	if (chance(w, w->cfg.lose_one_in) || (!w->store_there && chance(w, 2)))
		return -EIO;
	return key->epoch != w->m.ns[key->ns].epoch && chance(w, 2) ? -ESTALE : 0;
}

void store_ended(struct world *w, unsigned transfer)
{
	struct m_page *p;
	struct stored key = said_key(w, transfer, &p);
	const struct stored *there = find(w, &key);
	bool up = w->flight[transfer].up;
	int error = up ? error_of_read(w, there) : error_of_write(w, &key);
	int space = w->flight[transfer].from_space;

	if (!up && !error && w->m.space[space].above != M_NONE &&
	    w->c.transfers[transfer].sum != sum_of(p->bytes))
		error = -EBADMSG;
	world_expect(w, up || error != -EBADMSG || p->rotten,
		     "the store is told a wrong checksum for transfer %u", transfer);

	world_expect(w, w->flight[transfer].store && w->flight[transfer].out,
		     "the store ends transfer %u twice", transfer);
	if (up)
		p->bytes = error ? 2 * transfer : there->bytes;
	else if (!error)
		put(w, &key, p->bytes);
	world_say(w, "the store %s transfer %u: %d", up ? "reads" : "writes", transfer, error);
	core_transfer_done(&w->c, transfer, error, up ? sum_of(p->bytes) : 0);
	model_store_end(w, transfer, error);
}

/* ---- before a restart ------------------------------------------------------------------------ */

void store_remembers(struct world *w, int ns)
{
	uint32_t epoch = w->m.ns[ns].epoch + rng_range(&w->rng, 1, 3);

	for (uint32_t n = w->cfg.store_room ? rnd(w, 40) : 0; n; n--) {
		const struct m_space *s = &w->m.space[rnd(w, M_SPACES)];
		struct m_page p = {
			.ns = ns,
			.epoch = epoch,
			.salt = rnd(w, w->cfg.salts),
			.hash = page_pick_hash(w),
		};
		struct stored key;

		if (!s->used || s->above != M_NONE || s->tenant != w->m.ns[ns].tenant)
			continue;
		key = key_of_page(w, s, &p);
		put(w, &key, model_content(s, &w->m, &p));
	}
	world_say(w, "namespace %d goes on in epoch %u", ns, epoch);
	core_ns_advance(&w->c, (unsigned)ns, epoch);
	w->m.ns[ns].epoch = epoch;
}

void op_ns_advance(struct world *w)
{
	int ns = (int)rnd(w, M_NAMESPACES);

	if (!w->m.ns[ns].used)
		return;
	if (chance(w, 2)) /* it is there already */
		core_ns_advance(&w->c, (unsigned)ns, w->m.ns[ns].epoch - rnd(w, 2));
	else
		store_remembers(w, ns);
}
