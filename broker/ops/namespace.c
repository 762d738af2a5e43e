/* SPDX-License-Identifier: Apache-2.0 */

/*
 * NS_OPEN and EPOCH_BUMP.
 */

#include <errno.h>

#include "broker/ops/ops.h"

enum ops_verdict op_ns_open(struct ring *r, struct ring_op *op, struct kvb_cqe *cqe,
			    uint32_t *units)
{
	struct kvb_ns_open open;
	struct kvb_ns_info info;
	struct kvb_ns_info *ret = ring_results(r, &op->sqe, 0, 1, sizeof(info));

	if (op->sqe.count != 1 || !ret ||
	    !ring_copy_operands(r, &op->sqe, 0, 1, sizeof(open), &open))
		return ops_fail(cqe, -EINVAL);
	*units -= *units < 16 ? *units : 16; /* the table of namespaces is searched */
	cqe->res = core_ns_open(&r->session->server->core, r->session->client, &open, &info);
	if (cqe->res < 0)
		return OPS_DONE;
	*ret = info;
	cqe->res = 1;
	cqe->done = 1;
	return OPS_DONE;
}

enum ops_verdict op_epoch_bump(struct ring *r, struct ring_op *op, struct kvb_cqe *cqe,
			       uint32_t *units)
{
	cqe->res = core_epoch_bump(&r->session->server->core, r->session->client, op->sqe.ns,
				   &cqe->aux);
	return OPS_DONE;
}
