/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The table of ring operations: what shape an entry must have, and who runs it.
 *
 * An operation is safe by omission: a field it does not name here must be zero, operands it does
 * not name do not exist.
 */

#include <errno.h>

#include "broker/ops/ops.h"

#define USES_SPACE (1u << 0)
#define USES_NS (1u << 1)
#define USES_SALT (1u << 2)
#define USES_ARG (1u << 3)
#define USES_FENCE (1u << 4)
#define USES_COUNT (1u << 5) /* a number, not operands */

typedef enum ops_verdict op_fn(struct ring *r, struct ring_op *op, struct kvb_cqe *cqe,
			       uint32_t *units);

struct op_shape {
	op_fn *run;
	uint8_t operand_bytes; /* the larger of operand and result; 0: the entry has none */
	uint8_t flags;         /* those allowed */
	uint8_t uses;
};

static enum ops_verdict op_nop(struct ring *r, struct ring_op *op, struct kvb_cqe *cqe,
			       uint32_t *units)
{
	return OPS_DONE;
}

static const struct op_shape shapes[KVB_OP_N] = {
	[KVB_OP_NOP] = { op_nop, 0, 0, 0 },
	[KVB_OP_ALLOC] = { op_alloc, sizeof(kvb_page_t), KVB_ALLOC_MAGAZINE | KVB_ALLOC_DROP,
			   USES_SPACE },
	[KVB_OP_FREE] = { op_pages, sizeof(kvb_page_t), 0, USES_SPACE | USES_FENCE },
	[KVB_OP_SEAL] = { op_seal, sizeof(struct kvb_seal), 0,
			  USES_SPACE | USES_NS | USES_SALT | USES_ARG | USES_FENCE },
	[KVB_OP_LOOKUP] = { op_lookup, sizeof(struct kvb_hash), KVB_LOOKUP_ALL | KVB_LOOKUP_TIERS,
			    USES_SPACE | USES_NS | USES_SALT },
	[KVB_OP_RELEASE] = { op_pages, sizeof(kvb_page_t), 0, USES_SPACE },
	[KVB_OP_LOAD] = { op_load, sizeof(struct kvb_hash), 0,
			  USES_SPACE | USES_NS | USES_SALT | USES_ARG | USES_FENCE },
	[KVB_OP_PREFETCH] = { op_prefetch, sizeof(struct kvb_hash), 0,
			      USES_SPACE | USES_NS | USES_SALT },
	[KVB_OP_STORE] = { op_store, sizeof(kvb_page_t), 0, USES_SPACE },
	[KVB_OP_PIN] = { op_pages, sizeof(kvb_page_t), 0, USES_SPACE },
	[KVB_OP_UNPIN] = { op_pages, sizeof(kvb_page_t), 0, USES_SPACE },
	[KVB_OP_HINT] = { op_pages, sizeof(kvb_page_t), 0, USES_SPACE | USES_ARG },
	[KVB_OP_SPACE_GROW] = { op_grow, 0, 0, USES_SPACE | USES_ARG | USES_COUNT },
	[KVB_OP_SPACE_SHRINK] = { op_shrink, 0, 0, USES_SPACE | USES_ARG | USES_COUNT },
	[KVB_OP_RECLAIM_ACK] = { op_reclaim_ack, 0, 0, USES_SPACE | USES_ARG },
	[KVB_OP_NS_OPEN] = { op_ns_open, sizeof(struct kvb_ns_open), 0, 0 },
	[KVB_OP_EPOCH_BUMP] = { op_epoch_bump, 0, 0, USES_NS },
	[KVB_OP_CANCEL] = { op_nop, 0, 0, USES_ARG }, /* the ring's own: it knows what waits */
};

static bool fields_fit(const struct op_shape *shape, const struct kvb_sqe *sqe)
{
	uint32_t uses = shape->uses;

	return !(sqe->flags & ~shape->flags) &&
	       (sqe->opcode != KVB_OP_LOOKUP ||
		sqe->flags != (KVB_LOOKUP_ALL | KVB_LOOKUP_TIERS)) &&
	       !sqe->resv[0] && !sqe->resv[1] && (uses & USES_SPACE || !sqe->space) &&
	       (uses & USES_NS || !sqe->ns) && (uses & USES_SALT || !sqe->salt) &&
	       (uses & USES_ARG || !sqe->arg) &&
	       (uses & USES_FENCE ? sqe->fence <= KVB_FENCES : !sqe->fence) &&
	       (sqe->fence || !sqe->fence_value);
}

int ops_check(const struct ring *r, const struct kvb_sqe *sqe)
{
	const struct op_shape *shape;

	if (sqe->opcode >= KVB_OP_N)
		return -EINVAL;
	shape = &shapes[sqe->opcode];
	if (!fields_fit(shape, sqe))
		return -EINVAL;
	if (!shape->operand_bytes) {
		bool count_ok = shape->uses & USES_COUNT ? sqe->count && sqe->count <= KVB_SLOTS_MAX
							 : !sqe->count;

		return count_ok && !sqe->operand ? 0 : -EINVAL;
	}
	if (!sqe->count || sqe->count > KVB_COUNT_MAX || sqe->operand % 8)
		return -EINVAL;
	if (sqe->operand + (uint64_t)sqe->count * shape->operand_bytes > r->geo.operand_bytes)
		return -EINVAL;
	return 0;
}

enum ops_verdict ops_run(struct ring *r, struct ring_op *op, struct kvb_cqe *cqe, uint32_t *units)
{
	return shapes[op->sqe.opcode].run(r, op, cqe, units);
}

bool ops_cancel(struct ring *r, struct ring_op *op, uint32_t *units)
{
	if (op->sqe.opcode == KVB_OP_LOAD)
		return op_load_cancel(r, op, units);
	if (op->sqe.opcode == KVB_OP_ALLOC)
		return op_alloc_cancel(r, op, units);
	return true;
}

struct core_member *ops_member(struct ring *r, const struct ring_op *op)
{
	return core_member_get(&r->session->server->core, r->session->client, op->sqe.space);
}

uint32_t ops_slice(const struct ring_op *op, uint32_t most, uint32_t *units)
{
	uint32_t n = op->sqe.count - op->done;

	if (n > most)
		n = most;
	if (n > *units)
		n = *units ? *units : 1;
	*units -= n < *units ? n : *units;
	return n;
}

enum ops_verdict ops_batch(struct ring_op *op, const struct core_batch *b, uint32_t asked,
			   struct kvb_cqe *cqe)
{
	op->done += b->done;
	op->flags |= b->flags;
	if (!b->status && b->done == asked && op->done < op->sqe.count)
		return OPS_MORE;
	cqe->flags = op->flags;
	cqe->done = op->done;
	cqe->res = (int32_t)op->done;
	if (b->status) {
		cqe->flags |= KVB_CQE_STOPPED;
		cqe->status = (uint32_t)-b->status;
		if (!op->done)
			cqe->res = b->status;
	}
	return OPS_DONE;
}

enum ops_verdict ops_fail(struct kvb_cqe *cqe, int error)
{
	cqe->res = error;
	return OPS_DONE;
}
