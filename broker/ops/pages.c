/* SPDX-License-Identifier: Apache-2.0 */

/*
 * ALLOC, and what is done to pages named one by one: FREE, RELEASE, PIN, UNPIN, HINT.
 */

#include <errno.h>

#include "broker/ops/ops.h"

#define ALLOC_WAIT_NS (100ull * 1000 * 1000) /* for what is evicted to be written down */

enum ops_verdict op_alloc(struct ring *r, struct ring_op *op, struct kvb_cqe *cqe, uint32_t *units)
{
	struct server *s = r->session->server;
	struct core_member *m = ops_member(r, op);
	uint32_t flags = op->sqe.flags;
	struct core_batch b;
	uint32_t n;

	if (!m)
		return ops_fail(cqe, -ENOENT);
	if (op->until_ns && s->now_ns >= op->until_ns)
		flags |= KVB_ALLOC_DROP;
	n = ops_slice(op, RING_SLICE, units);
	b = core_alloc(&s->core, m, n, flags,
		       ring_results(r, &op->sqe, op->done, n, sizeof(kvb_page_t)));
	*units -= b.work < *units ? b.work : *units;
	if (b.wait && b.done < n) {
		if (!op->until_ns)
			op->until_ns = s->now_ns + ALLOC_WAIT_NS;
		op->done += b.done;
		return OPS_PARK;
	}
	return ops_batch(op, &b, n, cqe);
}

bool op_alloc_cancel(struct ring *r, struct ring_op *op, uint32_t *units)
{
	struct core_member *m = ops_member(r, op);
	const kvb_page_t *pages = ring_results(r, &op->sqe, 0, op->sqe.count, sizeof(kvb_page_t));

	while (m && op->done && *units) {
		uint32_t n = op->done < *units ? op->done : *units, given = 0;
		const kvb_page_t *last = pages + op->done - n;

		while (given < n)
			given += core_free(&r->session->server->core, m, last + given, n - given)
					 .done +
				 1; /* one that the client has freed itself is passed over */
		op->done -= n;
		*units -= n;
	}
	return !m || !op->done;
}

/* The operations whose operands are pages and whose result is how many. */
static struct core_batch run_pages(struct core *c, struct core_member *m, const struct kvb_sqe *sqe,
				   const kvb_page_t *pages, uint32_t n)
{
	switch (sqe->opcode) {
	case KVB_OP_FREE:
		return core_free(c, m, pages, n);
	case KVB_OP_RELEASE:
		return core_release(c, m, pages, n);
	case KVB_OP_HINT:
		return core_hint(c, m, pages, n, sqe->arg);
	default:
		return core_pin(c, m, pages, n, sqe->opcode == KVB_OP_PIN);
	}
}

enum ops_verdict op_pages(struct ring *r, struct ring_op *op, struct kvb_cqe *cqe, uint32_t *units)
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
	b = run_pages(&r->session->server->core, m, &op->sqe, pages, n);
	return ops_batch(op, &b, n, cqe);
}
