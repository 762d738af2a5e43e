/* SPDX-License-Identifier: Apache-2.0 */

/*
 * NS_OPEN and EPOCH_BUMP.
 */

#include <errno.h>

#include "broker/io/store_tier.h"
#include "broker/ops/ops.h"

enum ops_verdict op_ns_open(struct ring *r, struct ring_op *op, struct kvb_cqe *cqe,
			    uint32_t *units)
{
	struct kvb_ns_open open;
	struct kvb_ns_info info;
	struct kvb_ns_info *ret = ring_results(r, &op->sqe, 0, 1, sizeof(info));
	struct server *server = r->session->server;
	unsigned ns;

	if (op->sqe.count != 1 || !ret ||
	    !ring_copy_operands(r, &op->sqe, 0, 1, sizeof(open), &open))
		return ops_fail(cqe, -EINVAL);
	*units -= *units < 16 ? *units : 16; /* the table of namespaces is searched */
	cqe->res = core_ns_open(&server->core, r->session->client, &open, &info);
	if (cqe->res < 0)
		return OPS_DONE;
	ns = (unsigned)core_ns_get(&server->core, r->session->client, info.ns);
	store_tier_ns_opened(server, ns);
	info.epoch = server->core.namespaces[ns].epoch;
	*ret = info;
	cqe->res = 1;
	cqe->done = 1;
	return OPS_DONE;
}

/* The epoch moves at once; the answer comes when no crash can bring the old one back. */
enum ops_verdict op_epoch_bump(struct ring *r, struct ring_op *op, struct kvb_cqe *cqe,
			       uint32_t *units)
{
	struct server *s = r->session->server;
	int ns = core_ns_get(&s->core, r->session->client, op->sqe.ns), settled;

	if (!op->ending) {
		int error = core_epoch_bump(&s->core, r->session->client, op->sqe.ns, &op->aux);

		if (error)
			return ops_fail(cqe, error);
		store_tier_ns_bumped(s, (unsigned)ns);
		op->ending = true;
	}
	settled = store_tier_ns_settled(s, (unsigned)ns);
	if (!settled)
		return OPS_PARK;
	cqe->res = settled < 0 ? settled : 0;
	cqe->aux = op->aux;
	return OPS_DONE;
}
