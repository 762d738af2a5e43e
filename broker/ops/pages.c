/* SPDX-License-Identifier: Apache-2.0 */

/*
 * ALLOC and FREE.
 */

#include <errno.h>

#include "broker/ops/ops.h"

enum ops_verdict op_alloc(struct ring *r, struct ring_op *op, struct kvb_cqe *cqe, uint32_t *units)
{
	struct core_member *m = ops_member(r, op);
	struct core_batch b;
	uint32_t n;

	if (!m)
		return ops_fail(cqe, -ENOENT);
	n = ops_slice(op, RING_SLICE, units);
	b = core_alloc(&r->session->server->core, m, n, op->sqe.flags,
		       ring_results(r, &op->sqe, op->done, n, sizeof(kvb_page_t)));
	return ops_batch(op, &b, n, cqe);
}

enum ops_verdict op_free(struct ring *r, struct ring_op *op, struct kvb_cqe *cqe, uint32_t *units)
{
	struct core_member *m = ops_member(r, op);
	kvb_page_t pages[RING_SLICE];
	struct core_batch b;
	uint32_t n;

	if (!m)
		return ops_fail(cqe, -ENOENT);
	n = ops_slice(op, RING_SLICE, units);
	if (!ring_copy_operands(r, &op->sqe, op->done, n, sizeof(pages[0]), pages))
		return ops_fail(cqe, -EINVAL);
	b = core_free(&r->session->server->core, m, pages, n);
	return ops_batch(op, &b, n, cqe);
}
