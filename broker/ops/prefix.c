/* SPDX-License-Identifier: Apache-2.0 */

/*
 * SEAL and LOOKUP: pages under keys.
 */

#include <errno.h>

#include "broker/ops/ops.h"

/* Keys of the first slice. Most lookups that miss do so early: the rest would be copied for
 * nothing. */
#define LOOKUP_FIRST 4u

enum ops_verdict op_seal(struct ring *r, struct ring_op *op, struct kvb_cqe *cqe, uint32_t *units)
{
	struct core *core = &r->session->server->core;
	struct core_member *m = ops_member(r, op);
	int ns = core_ns_get(core, r->session->client, op->sqe.ns);
	struct kvb_seal seals[RING_SLICE];
	struct core_batch b;
	uint32_t n;

	if (!m || ns < 0)
		return ops_fail(cqe, -ENOENT);
	n = ops_slice(op, RING_SLICE, units);
	if (!ring_copy_operands(r, &op->sqe, op->done, n, sizeof(seals[0]), seals))
		return ops_fail(cqe, -EINVAL);
	b = core_seal(core, m, (unsigned)ns, op->sqe.arg, op->sqe.salt, seals, n,
		      ring_results(r, &op->sqe, op->done, n, sizeof(kvb_page_t)));
	cqe->aux = core->namespaces[ns].epoch;
	return ops_batch(op, &b, n, cqe);
}

enum ops_verdict op_lookup(struct ring *r, struct ring_op *op, struct kvb_cqe *cqe, uint32_t *units)
{
	struct core *core = &r->session->server->core;
	struct core_member *m = ops_member(r, op);
	int ns = core_ns_get(core, r->session->client, op->sqe.ns);
	struct kvb_hash hashes[RING_SLICE];
	struct core_lookup lk = {
		.salt = op->sqe.salt,
		.all = op->sqe.flags & KVB_LOOKUP_ALL,
		.tiers = op->sqe.flags & KVB_LOOKUP_TIERS,
		.broken = op->broken,
		.later = op->done > 0,
		.lead = op->lead,
	};
	struct core_batch b = { 0 };
	uint32_t n;

	if (!m || ns < 0)
		return ops_fail(cqe, -ENOENT);
	lk.ns = (uint16_t)ns;
	if (!op->done)
		op->aux = core->namespaces[ns].epoch;
	n = ops_slice(op, op->done ? RING_SLICE : LOOKUP_FIRST, units);
	if (!ring_copy_operands(r, &op->sqe, op->done, n, sizeof(hashes[0]), hashes))
		return ops_fail(cqe, -EINVAL);
	if (op->aux == core->namespaces[ns].epoch)
		b = core_lookup(core, m, &lk, hashes, n,
				ring_results(r, &op->sqe, op->done, n, sizeof(kvb_page_t)));
	else
		b.status = -ESTALE; /* bumped between two slices: the run ends where the old epoch
				       did */
	op->lead = lk.lead;
	op->broken = lk.broken;
	if (ops_batch(op, &b, n, cqe) == OPS_MORE)
		return OPS_MORE;
	cqe->res = (int32_t)op->lead;
	cqe->aux = op->aux;
	return OPS_DONE;
}
