/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Requests about pages, each beside what the model says of it.
 *
 * Operands are mostly meaningful and now and then stale, repeated, another client's or noise: a
 * batch must stop exactly at the first operand that the model refuses, with its errno, and leave
 * everything behind it alone (model_absorb() sees to that).
 */

#include "tests/sim/world.h"

#include <errno.h>
#include <string.h>

static bool is_mine_filling(const struct m_page *p, int client)
{
	return p->state == CORE_PAGE_FILLING && p->owner == client;
}

static bool is_leased_by(const struct m_page *p, int client)
{
	return p->leases[client];
}

static bool is_pinned_by(const struct m_page *p, int client)
{
	return p->pins[client];
}

static bool is_sealed(const struct m_page *p, int client)
{
	return p->state == CORE_PAGE_SEALED;
}

/* Nobody uses it and there is one below: evicted, its key is there only. */
static bool has_copy(const struct m_page *p, int client)
{
	return p->state == CORE_PAGE_SEALED && p->copied && !p->lessees && !p->pinned;
}

static void trace_batch(struct world *w, struct core_batch b)
{
	world_trace(w, b.done);
	world_trace(w, (uint64_t)(int64_t)b.status);
	world_trace(w, b.flags);
}

static void expect_batch(struct world *w, const char *what, struct core_batch b, uint32_t done,
			 int status)
{
	trace_batch(w, b);
	world_expect(w, b.done == done && b.status == status,
		     "%s: the core did %u with status %d, the model %u with %d", what, b.done,
		     b.status, done, status);
}

/* What the last lease's end means for a page: it is in the order, or it is gone soon. */
static void page_unleased(struct m_space *s, struct m_page *p)
{
	if (!model_leased(p) && !p->pinned)
		model_touch(s, p);
}

/* ---- ALLOC --------------------------------------------------------------------------------- */

/* The page that goes next by the rule, or NULL; passing over as the rule says. */
static struct m_page *next_victim(struct m_space *s, const struct m_member *mm)
{
	for (;;) {
		struct m_page *best = NULL;
		uint32_t best_slot = 0;
		for (uint32_t slot = 0; slot < s->slots; slot++) {
			for (uint32_t i = 0;
			     s->slab[slot].state == CORE_SLAB_LIVE && i < s->pages_per_slab; i++) {
				struct m_page *p = &s->slab[slot].pages[i];
				if (p->state != CORE_PAGE_SEALED || p->pinned || !p->listed ||
				    (best && best->order <= p->order))
					continue;
				best = p;
				best_slot = slot;
			}
		}
		if (!best || !mm->acked[best_slot])
			return NULL;
		if (model_leased(best)) {
			best->listed = false;
		} else if (best->high) {
			best->high = false;
			best->order = ++s->hot;
		} else {
			return best;
		}
	}
}

static bool refused_any(const struct m_space *s, const struct m_member *mm)
{
	for (uint32_t slot = 0; slot < s->slots; slot++) {
		if (s->slab[slot].state == CORE_SLAB_LIVE && !mm->acked[slot])
			return true;
	}
	return false;
}

static bool grant_pending(const struct m_space *s, const struct m_member *mm)
{
	for (uint32_t slot = 0; slot < s->slots; slot++) {
		if (s->slab[slot].state == CORE_SLAB_LIVE && !mm->acked[slot] && !mm->refused[slot])
			return true;
	}
	return false;
}

/* The lowest free id in memory that the member has mapped, or CORE_NONE. */
uint32_t page_lowest_free(const struct m_space *s, const struct m_member *mm)
{
	for (uint32_t slot = 0; slot < s->slots; slot++) {
		for (uint32_t i = 0; s->slab[slot].state == CORE_SLAB_LIVE && mm->acked[slot] &&
				     i < s->pages_per_slab;
		     i++) {
			if (s->slab[slot].pages[i].state == CORE_PAGE_FREE)
				return slot * s->pages_per_slab + i;
		}
	}
	return CORE_NONE;
}

static void page_given(struct world *w, struct m_space *s, struct m_page *p, kvb_page_t name,
		       int client)
{
	world_expect(w, KVB_PAGE_GEN(name) != 0, "ALLOC gave a page of generation 0");
	world_expect(w, p->state == CORE_PAGE_FREE || p->gen != KVB_PAGE_GEN(name),
		     "page %u was evicted and kept its generation", KVB_PAGE_ID(name));
	world_expect(w, model_name_is_new(s, name), "page name %#llx was given out a second time",
		     (unsigned long long)name);
	memset(p, 0, sizeof(*p));
	p->state = CORE_PAGE_FILLING;
	p->gen = KVB_PAGE_GEN(name);
	p->owner = client;
	p->ns = M_NONE;
	p->bytes = p->wrote = rng_mix(name) << 1;
	world_remember(w, name);
}

/* Above a lower tier any page may go that nobody uses: what goes next is the core's to choose. */
static bool may_go(const struct m_page *p)
{
	return p->state == CORE_PAGE_SEALED && !p->pinned && !model_leased(p) && !p->busy;
}

static bool any_may_go(const struct m_space *s, const struct m_member *mm)
{
	for (uint32_t slot = 0; slot < s->slots; slot++) {
		for (uint32_t i = 0; s->slab[slot].state == CORE_SLAB_LIVE && mm->acked[slot] &&
				     i < s->pages_per_slab;
		     i++) {
			if (may_go(&s->slab[slot].pages[i]))
				return true;
		}
	}
	return false;
}

/* A page that ALLOC evicted; false: from here on they come in an order of its own. */
static bool check_evicted(struct world *w, struct m_space *s, const struct m_member *mm,
			  const struct m_page *p, uint32_t id, bool loose)
{
	struct m_page *victim = loose ? NULL : next_victim(s, mm);

	loose |= !victim; /* one in memory the client refused comes first */
	world_expect(w, loose || victim == p,
		     "ALLOC evicted page %u (order %lld), not the next (%lld)", id,
		     (long long)p->order, (long long)victim->order);
	world_expect(w, may_go(p), "ALLOC evicted page %u, which is leased, pinned, busy or held",
		     id);
	w->victims++;
	return !loose;
}

/* What was evicted comes turned round where the ids of a chain fall. */
static void restore_order(struct world *w, struct m_space *s, int space, const struct m_member *mm,
			  kvb_page_t *ret, uint32_t n)
{
	const struct m_page *first = n > 1 ? next_victim(s, mm) : NULL;

	if (!first || first != model_page_at(&w->m, space, KVB_PAGE_ID(ret[n - 1])))
		return;
	for (uint32_t i = 0; i < n / 2; i++) {
		kvb_page_t page = ret[i];

		ret[i] = ret[n - 1 - i];
		ret[n - 1 - i] = page;
	}
}

static void check_short(struct world *w, const struct m_space *s, const struct m_member *mm,
			struct core_batch b)
{
	bool end = !(b.flags & (KVB_CQE_GRANT_PENDING | KVB_CQE_AGAIN)) && !refused_any(s, mm);

	bool loose = s->below != M_NONE || w->cfg.store_room;

	world_expect(w, page_lowest_free(s, mm) == CORE_NONE, "ALLOC left a free page aside");
	world_expect(w, !!(b.flags & KVB_CQE_GRANT_PENDING) == grant_pending(s, mm),
		     "ALLOC: grant pending %#x", b.flags);
	if (end && !loose)
		world_expect(w, !next_victim(w->m.space + mm->space, mm),
			     "ALLOC left a page that could go");
	if (end && loose && !b.wait)
		world_expect(w, !any_may_go(s, mm), "ALLOC left a page that could go");
}

/* Memory for the first copies. */
static bool is_slab_coming(const struct world *w, const struct m_space *s)
{
	return s->below != M_NONE && w->c.spaces[s->below].creating;
}

void op_alloc(struct world *w)
{
	int member = world_pick_member(w);
	uint32_t n = rng_range(&w->rng, 1, w->cfg.batch),
		 flags = (chance(w, 4) ? KVB_ALLOC_MAGAZINE : 0) |
			 (chance(w, 10) ? KVB_ALLOC_DROP : 0);
	kvb_page_t ret[W_BATCH];
	struct core_batch b;

	if (member == M_NONE)
		return;
	struct m_member *mm = &w->m.member[member];
	struct m_space *s = &w->m.space[mm->space];
	bool loose = s->below != M_NONE || w->cfg.store_room, evicting = false;
	uint32_t flights = w->c.h->transfers_used;
	b = core_alloc(&w->c, world_member(w, member), n, flags, ret);
	trace_batch(w, b);
	world_say(w, "alloc %u for member %d: %u, flags %#x%s", n, member, b.done, b.flags,
		  b.wait ? ", wait" : "");
	world_expect(w, b.status == 0 && b.done <= n, "ALLOC of %u: %u, status %d", n, b.done,
		     b.status);
	world_expect(w, !b.wait || (tier_serves(w, s) && !(flags & KVB_ALLOC_DROP)),
		     "ALLOC waits for nothing");
	world_expect(w, !b.wait || w->c.h->transfers_used || is_slab_coming(w, s),
		     "ALLOC waits, and nothing is on its way");
	world_expect(w, !(flags & KVB_ALLOC_DROP) || w->c.h->transfers_used == flights,
		     "ALLOC writes down what it was to drop");
	model_absorb_transfers(w);

	for (uint32_t i = 0; i < b.done; i++) {
		uint32_t want = page_lowest_free(s, mm), id;

		if (want == CORE_NONE && !evicting && !loose)
			restore_order(w, s, mm->space, mm, ret + i, b.done - i);
		evicting |= want == CORE_NONE;
		id = KVB_PAGE_ID(ret[i]);
		struct m_page *p = model_page_at(&w->m, mm->space, id);
		world_trace(w, ret[i]);
		world_expect(w, p && s->slab[id / s->pages_per_slab].state == CORE_SLAB_LIVE,
			     "ALLOC gave page %u, which no live slab backs", id);
		world_expect(w, mm->acked[id / s->pages_per_slab],
			     "ALLOC gave page %u of a slab that its client has not mapped", id);
		if (want != CORE_NONE)
			world_expect(w, id == want, "ALLOC gave page %u, the lowest free is %u", id,
				     want);
		else
			loose = !check_evicted(w, s, mm, p, id, loose);
		page_given(w, s, p, ret[i], mm->client);
	}
	if (refused_any(s, mm))
		s->reorder |= 2; /* pages out of its reach are passed over */
	if (b.done < n)
		check_short(w, s, mm, b);
}

/* ---- FREE ---------------------------------------------------------------------------------- */

void op_free(struct world *w)
{
	int member = world_pick_member(w), status = 0;
	uint32_t n = rng_range(&w->rng, 1, w->cfg.batch), done;
	kvb_page_t page[W_BATCH];

	if (member == M_NONE)
		return;
	const struct m_member *mm = &w->m.member[member];
	n = world_pick_pages(w, member, is_mine_filling, n, page);
	struct core_batch b = core_free(&w->c, world_member(w, member), page, n);
	for (done = 0; done < n; done++) {
		struct m_page *p = model_page(&w->m, mm->space, page[done], NULL);
		if (!p || !is_mine_filling(p, mm->client)) {
			status = -ENOENT;
			break;
		}
		model_page_freed(p);
	}
	world_say(w, "free %u of member %d: %u, status %d", n, member, b.done, b.status);
	expect_batch(w, "FREE", b, done, status);
}

/* ---- SEAL and LOOKUP ----------------------------------------------------------------------- */

struct kvb_hash page_pick_hash(struct world *w)
{
	uint64_t key = rnd(w, w->cfg.keys);

	return (struct kvb_hash){ { rng_mix(key + 1), key } };
}

/* Room for one more lease of the client on this page. */
bool page_lease_fits(struct world *w, const struct m_page *p, int client)
{
	uint32_t used = 0, tenant_used = 0;

	if (model_leased_by(p, client))
		return p->leases[client] < CORE_LEASE_COUNT_MAX;
	for (int i = 0; i < M_CLIENTS; i++) {
		used += w->m.client[i].leases;
		if (w->m.client[i].tenant == w->m.client[client].tenant)
			tenant_used += w->m.client[i].leases;
	}
	return w->m.client[client].leases < w->c.clients[client].leases_max &&
	       model_share_fits(&w->m, tenant_used, used, w->c.h->limits.leases);
}

/* Leases the page under a key, as LOOKUP and a SEAL of a known key do. 0, or why not. */
static int lease_found(struct world *w, int member, uint32_t id, uint32_t *flags)
{
	struct m_member *mm = &w->m.member[member];
	struct m_page *p = model_page_at(&w->m, mm->space, id);
	uint32_t slot = id / w->m.space[mm->space].pages_per_slab;

	if (!mm->acked[slot]) {
		if (mm->refused[slot])
			return -ENODATA;
		*flags |= KVB_CQE_GRANT_PENDING;
		return -EAGAIN;
	}
	if (!page_lease_fits(w, p, mm->client))
		return -EDQUOT;
	model_lease_set(&w->m, p, mm->client, p->leases[mm->client] + 1u, p->pins[mm->client]);
	return 0;
}

static void page_seal(struct world *w, const struct m_space *s, struct m_page *p, int ns,
		      uint64_t salt, const struct kvb_hash *hash)
{
	p->state = CORE_PAGE_SEALED;
	p->owner = M_NONE;
	p->indexed = true;
	p->ns = ns;
	p->epoch = w->m.ns[ns].epoch;
	p->salt = salt;
	p->hash = *hash;
	p->bytes = model_content(s, &w->m, p);
}

/* One operand. 0 and the page now under the key, or the errno. */
static int seal_one(struct world *w, int member, int ns, uint64_t salt, const struct kvb_seal *seal,
		    uint32_t *flags, kvb_page_t *ret)
{
	struct m_member *mm = &w->m.member[member];
	struct m_page *p = model_page(&w->m, mm->space, seal->page, NULL);
	uint32_t id;
	int r;

	if (!p || !is_mine_filling(p, mm->client))
		return -ENOENT;
	id = model_find(w, mm->space, ns, salt, &seal->hash);
	if (id != CORE_NONE) {
		r = lease_found(w, member, id, flags);
		*ret = KVB_PAGE(model_page_at(&w->m, mm->space, id)->gen, id);
		w->dups += !r;
		return r == -ENODATA ? -EEXIST : r;
	}
	if (!page_lease_fits(w, p, mm->client))
		return -EDQUOT;
	page_seal(w, &w->m.space[mm->space], p, ns, salt, &seal->hash);
	model_lease_set(&w->m, p, mm->client, 1, false);
	*ret = seal->page;
	return 0;
}

void op_seal(struct world *w)
{
	int member = world_pick_member(w), handle, ns, status = 0;
	uint32_t n = rng_range(&w->rng, 1, w->cfg.batch), done = 0, flags = 0;
	struct kvb_seal seal[W_BATCH];
	kvb_page_t ret[W_BATCH], want[W_BATCH];
	uint64_t salt = rnd(w, w->cfg.salts), epoch;

	if (member == M_NONE)
		return;
	const struct m_member *mm = &w->m.member[member];
	handle = world_pick_ns(w, mm->client);
	if (handle == M_NONE)
		return;
	ns = core_ns_get(&w->c, (unsigned)mm->client, (uint32_t)handle);
	world_expect(w, ns == w->m.client[mm->client].ns[handle], "namespace handle %d is %d",
		     handle, ns);
	epoch = w->m.ns[ns].epoch;
	epoch += chance(w, 60);
	epoch -= chance(w, 30);
	n = world_pick_pages(w, member, is_mine_filling, n, want);
	for (uint32_t i = 0; i < n; i++)
		seal[i] =
			(struct kvb_seal){ .page = want[i], .hash = page_pick_hash(w), .depth = i };
	struct core_batch b =
		core_seal(&w->c, world_member(w, member), (unsigned)ns, epoch, salt, seal, n, ret);
	if (epoch != w->m.ns[ns].epoch)
		status = -ESTALE;
	for (; !status && done < n; done += !status)
		status = seal_one(w, member, ns, salt, &seal[done], &flags, &want[done]);
	world_say(w, "seal %u of member %d in ns %d: %u, status %d", n, member, ns, b.done,
		  b.status);
	expect_batch(w, "SEAL", b, done, status == -EAGAIN ? 0 : status);
	for (uint32_t i = 0; i < done; i++) {
		world_trace(w, ret[i]);
		world_expect(w, ret[i] == want[i], "SEAL result %u is %#llx, the model has %#llx",
			     i, (unsigned long long)ret[i], (unsigned long long)want[i]);
	}
	world_expect(w, (b.flags & KVB_CQE_GRANT_PENDING) == flags, "SEAL flags %#x, the model %#x",
		     b.flags, flags);
}

void op_lookup(struct world *w)
{
	int member = world_pick_member(w), handle, ns, status = 0;
	uint32_t n = rng_range(&w->rng, 1, w->cfg.batch), done = 0, flags = 0, lead = 0;
	struct kvb_hash hash[W_BATCH];
	kvb_page_t ret[W_BATCH], want[W_BATCH];
	bool broken = false;

	if (member == M_NONE)
		return;
	const struct m_member *mm = &w->m.member[member];
	handle = world_pick_ns(w, mm->client);
	if (handle == M_NONE)
		return;
	ns = w->m.client[mm->client].ns[handle];
	for (uint32_t i = 0; i < n; i++)
		hash[i] = page_pick_hash(w);
	struct core_lookup lk = { .salt = rnd(w, w->cfg.salts),
				  .ns = (uint16_t)ns,
				  .all = chance(w, 2),
				  .tiers = chance(w, 3) };
	lk.all &= !lk.tiers;
	struct core_batch b = core_lookup(&w->c, world_member(w, member), &lk, hash, n, ret);
	for (; done < n; done++) {
		uint32_t id = model_find(w, mm->space, ns, lk.salt, &hash[done]);
		int r = id == CORE_NONE ? -ENODATA : lease_found(w, member, id, &flags);
		want[done] =
			r ? KVB_PAGE_NONE : KVB_PAGE(model_page_at(&w->m, mm->space, id)->gen, id);
		if (r == -EAGAIN || r == -EDQUOT) {
			status = r == -EDQUOT ? r : 0;
			break;
		}
		broken |= r == -ENODATA;
		if (broken && !lk.all)
			break;
		lead += !broken;
		w->hits += !r;
	}
	for (; lk.tiers && broken && done < n; done++) {
		enum kvb_tier tier = tier_of_key(w, mm->space, ns, lk.salt, &hash[done]);

		if (tier == KVB_TIER_NONE)
			break;
		want[done] = KVB_PAGE_IN(tier);
	}
	world_say(w, "lookup %u of member %d in ns %d: %u, lead %u, status %d", n, member, ns,
		  b.done, lk.lead, b.status);
	expect_batch(w, "LOOKUP", b, done, status);
	world_expect(w, lk.lead == lead && lk.broken == broken,
		     "LOOKUP: leading run %u, the model has %u", lk.lead, lead);
	world_expect(w, (b.flags & KVB_CQE_GRANT_PENDING) == flags, "LOOKUP flags %#x", b.flags);
	for (uint32_t i = 0; i < done; i++) {
		world_trace(w, ret[i]);
		world_expect(w, ret[i] == want[i],
			     "I5: LOOKUP result %u is %#llx, the model has %#llx", i,
			     (unsigned long long)ret[i], (unsigned long long)want[i]);
	}
}

/* ---- RELEASE, PIN, HINT -------------------------------------------------------------------- */

void op_release(struct world *w)
{
	int member = world_pick_member(w), status = 0;
	uint32_t n = rng_range(&w->rng, 1, w->cfg.batch), done;
	kvb_page_t page[W_BATCH];

	if (member == M_NONE)
		return;
	const struct m_member *mm = &w->m.member[member];
	n = world_pick_pages(w, member, is_leased_by, n, page);
	struct core_batch b = core_release(&w->c, world_member(w, member), page, n);
	for (done = 0; done < n; done++) {
		struct m_page *p = model_page(&w->m, mm->space, page[done], NULL);
		if (!p || !is_leased_by(p, mm->client)) {
			status = -ENOENT;
			break;
		}
		model_lease_set(&w->m, p, mm->client, p->leases[mm->client] - 1u,
				p->pins[mm->client]);
		page_unleased(&w->m.space[mm->space], p);
	}
	world_say(w, "release %u of member %d: %u, status %d", n, member, b.done, b.status);
	expect_batch(w, "RELEASE", b, done, status);
}

void op_pin(struct world *w)
{
	int member = world_pick_member(w), status = 0;
	uint32_t n = rng_range(&w->rng, 1, w->cfg.batch), done;
	kvb_page_t page[W_BATCH];
	bool pin = chance(w, 2);

	if (member == M_NONE)
		return;
	const struct m_member *mm = &w->m.member[member];
	n = world_pick_pages(w, member, pin ? is_leased_by : is_pinned_by, n, page);
	struct core_batch b = core_pin(&w->c, world_member(w, member), page, n, pin);
	for (done = 0; done < n && !status; done += !status) {
		struct m_page *p = model_page(&w->m, mm->space, page[done], NULL);
		if (!p || !model_leased_by(p, mm->client) || (!pin && !p->pins[mm->client]))
			status = -ENOENT;
		else if (pin && !p->pins[mm->client] &&
			 w->m.client[mm->client].pins >= w->c.clients[mm->client].leases_max / 2)
			status = -EDQUOT;
		else
			model_lease_set(&w->m, p, mm->client, p->leases[mm->client], pin);
		if (!status && !pin)
			page_unleased(&w->m.space[mm->space], p);
	}
	world_say(w, "%s %u of member %d: %u, status %d", pin ? "pin" : "unpin", n, member, b.done,
		  b.status);
	expect_batch(w, pin ? "PIN" : "UNPIN", b, done, status);
}

void op_hint(struct world *w)
{
	int member = world_pick_member(w), status = 0;
	uint32_t n = rng_range(&w->rng, 1, w->cfg.batch), done = 0;
	uint32_t priority = rnd(w, chance(w, 20) ? 5 : 3);
	uint64_t ttl_s = chance(w, 2) ? 0 : rng_range(&w->rng, 1, 20);
	kvb_page_t page[W_BATCH];

	if (member == M_NONE)
		return;
	if (chance(w, 40))
		ttl_s = (1ull << 31) + rnd(w, 2);
	const struct m_member *mm = &w->m.member[member];
	n = world_pick_pages(w, member, is_leased_by, n, page);
	struct core_batch b =
		core_hint(&w->c, world_member(w, member), page, n, KVB_HINT(priority, ttl_s));
	if (priority > KVB_PRIO_HIGH || ttl_s > 1ull << 31)
		status = -EINVAL;
	for (; done < n && !status; done += !status) {
		struct m_page *p = model_page(&w->m, mm->space, page[done], NULL);
		if (!p || !model_leased_by(p, mm->client)) {
			status = -ENOENT;
			continue;
		}
		p->low = priority == KVB_PRIO_LOW;
		p->high = priority == KVB_PRIO_HIGH;
		p->expire_s = ttl_s ? w->c.now_s + (uint32_t)ttl_s : 0;
	}
	world_say(w, "hint %u of member %d: %u, status %d", n, member, b.done, b.status);
	expect_batch(w, "HINT", b, done, status);
}

/* ---- the operator -------------------------------------------------------------------------- */

/* The core's record of a page of the model. */
uint32_t page_record(struct world *w, int space, uint32_t id)
{
	const struct m_space *s = &w->m.space[space];

	return w->c.slabs[s->slab[id / s->pages_per_slab].core].base + id % s->pages_per_slab;
}

void op_find(struct world *w)
{
	int member = world_pick_member(w), handle;
	uint64_t salt = rnd(w, w->cfg.salts);
	struct kvb_hash hash = page_pick_hash(w);

	if (member == M_NONE)
		return;
	const struct m_member *mm = &w->m.member[member];
	handle = world_pick_ns(w, mm->client);
	if (handle == M_NONE)
		return;
	int ns = w->m.client[mm->client].ns[handle];
	uint32_t want = model_find(w, mm->space, ns, salt, &hash);
	uint32_t have = core_page_find(&w->c, (unsigned)mm->space, (unsigned)ns, salt, &hash);
	world_trace(w, have);
	world_expect(w, (want == CORE_NONE) == (have == CORE_NONE), "find: core %#x, model %#x",
		     have, want);
	if (want == CORE_NONE)
		return;
	world_expect(w, have == page_record(w, mm->space, want), "find: core %#x, model page %u",
		     have, want);
	world_expect(w,
		     core_page_name(&w->c, have) ==
			     KVB_PAGE(model_page_at(&w->m, mm->space, want)->gen, want),
		     "page record %u has another name", have);
}

/* A sealed page that its key still leads to, somewhere: its id, or CORE_NONE. */
static uint32_t pick_sealed(struct world *w, int *ret_space)
{
	int member = world_pick_member(w);
	kvb_page_t name;

	if (member == M_NONE)
		return CORE_NONE;
	*ret_space = w->m.member[member].space;
	world_pick_pages(w, member, chance(w, 2) ? has_copy : is_sealed, 1, &name);
	uint32_t id = KVB_PAGE_ID(name);
	const struct m_page *p = model_page_at(&w->m, *ret_space, id);
	return p && p->state == CORE_PAGE_SEALED ? id : CORE_NONE;
}

void op_page_evict(struct world *w)
{
	int space, r;
	uint32_t id = pick_sealed(w, &space);

	if (id == CORE_NONE)
		return;
	struct m_page *p = model_page_at(&w->m, space, id);
	r = core_page_evict(&w->c, page_record(w, space, id));
	world_trace(w, (uint64_t)(int64_t)r);
	world_say(w, "evict page %u: %d", id, r);
	world_expect(w, r == (model_leased(p) || p->pinned || p->busy ? -EBUSY : 0),
		     "evict of page %u: %d", id, r);
	if (!r)
		model_page_freed(p);
}

void op_page_pin(struct world *w)
{
	int space, r;
	uint32_t id = pick_sealed(w, &space);
	bool pin = chance(w, 2);

	if (id == CORE_NONE)
		return;
	struct m_page *p = model_page_at(&w->m, space, id);
	r = core_page_pin(&w->c, page_record(w, space, id), pin);
	world_trace(w, (uint64_t)(int64_t)r);
	world_say(w, "%s page %u: %d", pin ? "pin" : "unpin", id, r);
	world_expect(w, r == 0, "operator's pin of page %u: %d", id, r);
	if (pin == p->pinned)
		return;
	p->pinned = pin;
	if (pin)
		p->listed = false;
	else if (!model_leased(p))
		model_touch(&w->m.space[space], p);
}
