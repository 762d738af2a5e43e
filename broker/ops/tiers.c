/* SPDX-License-Identifier: Apache-2.0 */

/*
 * LOAD, PREFETCH, STORE: between a device and what is below it.
 *
 * LOAD and STORE wait. An entry is parked between its looks, and looked at again when transfers are
 * done. LOAD goes in two steps: keys are leased from the front, as far as pages can be had
 * (op->done), and what has arrived is counted from the front (op->lead); the names of its pages are
 * kept in the result area, which the client can only read. When a key's bytes do not come, the run
 * ends before it, and the leases from there on are given back.
 */

#include <errno.h>

#include "broker/ops/ops.h"

#define LOAD_TIMEOUT_NS (5ull * 1000 * 1000 * 1000)
#define LOAD_TIMEOUT_NS_MAX (60ull * 1000 * 1000 * 1000)

static uint64_t deadline_ns(const struct server *s, uint64_t asked_ns)
{
	if (!asked_ns)
		asked_ns = LOAD_TIMEOUT_NS;
	return s->now_ns + (asked_ns < LOAD_TIMEOUT_NS_MAX ? asked_ns : LOAD_TIMEOUT_NS_MAX);
}

static bool has_below(const struct server *s, const struct core_member *m)
{
	return s->core.spaces[m->space].below != CORE_NONE16 ||
	       core_space_has_store(&s->core, m->space);
}

static struct core_lookup lookup_of(const struct ring_op *op, int ns)
{
	return (struct core_lookup){ .salt = op->sqe.salt, .ns = (uint16_t)ns };
}

/* ---- LOAD ---------------------------------------------------------------------------------- */

/* Gives back what the entry has leased from its `from`th page on, the last first. False: not all
 * yet, out of units. */
static bool unload(struct ring *r, struct ring_op *op, uint32_t from, uint32_t *units)
{
	struct core_member *m = ops_member(r, op);
	kvb_page_t *pages = ring_results(r, &op->sqe, 0, op->sqe.count, sizeof(*pages));

	while (m && from < op->done && *units) {
		uint32_t n = op->done - from < *units ? op->done - from : *units, given = 0;
		const kvb_page_t *last = pages + op->done - n;

		while (given < n)
			given += core_release(&r->session->server->core, m, last + given, n - given)
					 .done +
				 1; /* one that the client has released itself is passed over */
		op->done -= n;
		*units -= n;
	}
	return !m || from >= op->done;
}

/* Making room for pages costs more than their keys. */
static void charge(const struct core_batch *b, uint32_t *units)
{
	*units -= b->work < *units ? b->work : *units;
}

/* Leases further keys. False: none of them can be had now, or ever. */
static bool load_more(struct ring *r, struct ring_op *op, struct core_member *m, int ns,
		      uint32_t *units)
{
	struct core_lookup lk = lookup_of(op, ns);
	struct kvb_hash hashes[RING_SLICE];
	struct core_batch b;
	uint32_t n = ops_slice(op, RING_SLICE, units);

	if (!ring_copy_operands(r, &op->sqe, op->done, n, sizeof(hashes[0]), hashes))
		return false;
	b = core_load(&r->session->server->core, m, &lk, hashes, n,
		      ring_results(r, &op->sqe, op->done, n, sizeof(kvb_page_t)));
	charge(&b, units);
	op->done += b.done;
	op->aux += lk.lead;
	op->flags |= b.flags;
	op->broken = !b.wait && (b.done < n || b.status);
	if (b.status)
		op->error = (uint32_t)-b.status;
	return b.done > 0;
}

static enum ops_verdict load_done(struct ring *r, struct ring_op *op, struct kvb_cqe *cqe,
				  uint32_t *units)
{
	struct core *core = &r->session->server->core;

	op->ending = true;
	if (!unload(r, op, op->lead, units))
		return OPS_MORE;
	core->h->n.loads++;
	core->h->n.load_hits += op->lead;
	cqe->res = (int32_t)op->lead;
	cqe->done = op->lead;
	cqe->aux = op->aux < op->lead ? op->aux : op->lead; /* some may not have arrived */
	cqe->flags = op->flags;
	cqe->status = op->error;
	if (op->error) {
		cqe->flags |= KVB_CQE_STOPPED;
		if (!op->lead)
			cqe->res = -(int32_t)op->error;
	}
	ring_fence_set(r, &op->sqe);
	return OPS_DONE;
}

enum ops_verdict op_load(struct ring *r, struct ring_op *op, struct kvb_cqe *cqe, uint32_t *units)
{
	struct server *s = r->session->server;
	struct core_member *m = ops_member(r, op);
	int ns = core_ns_get(&s->core, r->session->client, op->sqe.ns);
	const kvb_page_t *pages;
	bool failed = false, stuck = false;

	if (!m || ns < 0) {
		ring_fence_set(r, &op->sqe);
		return ops_fail(cqe, -ENOENT);
	}
	if (op->ending)
		return load_done(r, op, cqe, units);
	if (!op->until_ns)
		op->until_ns = deadline_ns(s, op->sqe.arg);
	if (!has_below(s, m))
		op->flags |= KVB_CQE_NOTHING_BELOW;
	while (!op->broken && op->done < op->sqe.count && *units && !stuck)
		stuck = !load_more(r, op, m, ns, units);
	pages = ring_results(r, &op->sqe, 0, op->done, sizeof(*pages));
	op->lead += core_load_arrived(&s->core, m, pages + op->lead, op->done - op->lead, &failed);
	if (failed)
		s->core.h->n.load_failed++;
	if (failed || s->now_ns >= op->until_ns ||
	    (op->lead == op->done && (op->broken || op->done == op->sqe.count)))
		return load_done(r, op, cqe, units);
	return *units || stuck ? OPS_PARK : OPS_MORE;
}

bool op_load_cancel(struct ring *r, struct ring_op *op, uint32_t *units)
{
	if (!unload(r, op, 0, units))
		return false;
	ring_fence_set(r, &op->sqe);
	return true;
}

/* ---- PREFETCH, STORE ----------------------------------------------------------------------- */

enum ops_verdict op_prefetch(struct ring *r, struct ring_op *op, struct kvb_cqe *cqe,
			     uint32_t *units)
{
	struct core *core = &r->session->server->core;
	struct core_member *m = ops_member(r, op);
	int ns = core_ns_get(core, r->session->client, op->sqe.ns);
	struct kvb_hash hashes[RING_SLICE];
	struct core_lookup lk;
	struct core_batch b;
	uint32_t n;

	if (!m || ns < 0)
		return ops_fail(cqe, -ENOENT);
	if (!has_below(r->session->server, m)) {
		cqe->flags = KVB_CQE_NOTHING_BELOW;
		return OPS_DONE;
	}
	lk = lookup_of(op, ns);
	n = ops_slice(op, RING_SLICE, units);
	if (!ring_copy_operands(r, &op->sqe, op->done, n, sizeof(hashes[0]), hashes))
		return ops_fail(cqe, -EINVAL);
	b = core_prefetch(core, m, &lk, hashes, n);
	charge(&b, units);
	return ops_batch(op, &b, n, cqe);
}

enum ops_verdict op_store(struct ring *r, struct ring_op *op, struct kvb_cqe *cqe, uint32_t *units)
{
	struct server *s = r->session->server;
	struct core_member *m = ops_member(r, op);
	kvb_page_t pages[RING_SLICE];
	struct core_batch b;
	uint32_t n;

	if (!m)
		return ops_fail(cqe, -ENOENT);
	if (!has_below(s, m)) {
		cqe->flags = KVB_CQE_NOTHING_BELOW;
		return OPS_DONE;
	}
	if (!op->until_ns)
		op->until_ns = deadline_ns(s, 0);
	n = ops_slice(op, RING_SLICE, units);
	if (!ring_copy_operands(r, &op->sqe, op->done, n, sizeof(pages[0]), pages))
		return ops_fail(cqe, -EINVAL);
	b = core_store(&s->core, m, pages, n);
	if (b.wait && !b.status && b.done < n && s->now_ns < op->until_ns) {
		op->done += b.done;
		return OPS_PARK;
	}
	return ops_batch(op, &b, n, cqe);
}
