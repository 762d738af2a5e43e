/* SPDX-License-Identifier: Apache-2.0 */

/*
 * LOAD, PREFETCH, STORE: between a device and what is below it.
 *
 * This broker has no lower tier: the operations exist so that engines can be written against them,
 * check their handles, and answer that there is nothing below. KVB_FEAT_LOWER_TIER is off.
 */

#include <errno.h>

#include "broker/ops/ops.h"

enum ops_verdict op_below(struct ring *r, struct ring_op *op, struct kvb_cqe *cqe, uint32_t *units)
{
	bool keyed = op->sqe.opcode != KVB_OP_STORE;

	if (!ops_member(r, op) ||
	    (keyed && core_ns_get(&r->session->server->core, r->session->client, op->sqe.ns) < 0))
		return ops_fail(cqe, -ENOENT);
	cqe->flags = KVB_CQE_NOTHING_BELOW;
	return OPS_DONE;
}
