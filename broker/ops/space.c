/* SPDX-License-Identifier: Apache-2.0 */

/*
 * SPACE_GROW, SPACE_SHRINK, RECLAIM_ACK: memory of a space.
 *
 * GROW is the one operation that waits: for the device to make the memory, for the caller to map
 * it, and, up to its timeout, for memory that has to be revoked from others first. It is parked
 * meanwhile, with the slots it waits for. A device that hangs does not keep it for ever: after a
 * while the answer is what is there, and what comes later is granted when it comes.
 */

#include <errno.h>
#include <string.h>

#include "broker/ops/ops.h"

#define GROW_DEVICE_NS                                                                             \
	(5ull * 1000 * 1000 * 1000) /* for the device, beyond the entry's own time                 \
				     */
#define GROW_TIMEOUT_NS_MAX (60ull * 1000 * 1000 * 1000)
#define SHRINK_DEADLINE_NS_MAX (3600ull * 1000 * 1000 * 1000)

/* Slots that are ready; those that failed or were revoked are waited for no longer. */
static uint32_t count_ready(const struct core *c, const struct core_member *m, struct ring_op *op,
			    bool *ret_pending)
{
	uint32_t ready = 0;

	*ret_pending = false;
	for (unsigned slot = 0; slot < KVB_SLOTS_MAX; slot++) {
		uint64_t bit = 1ull << (slot % 64);

		if (!op->slots[slot / 64]) {
			slot |= 63;
			continue;
		}
		if (!(op->slots[slot / 64] & bit))
			continue;
		switch (core_slot_state(c, m, slot)) {
		case CORE_SLOT_READY:
			ready++;
			break;
		case CORE_SLOT_PENDING:
			*ret_pending = true;
			break;
		default:
			op->slots[slot / 64] &= ~bit;
		}
	}
	return ready;
}

enum ops_verdict op_grow(struct ring *r, struct ring_op *op, struct kvb_cqe *cqe, uint32_t *units)
{
	struct server *s = r->session->server;
	struct core_member *m = ops_member(r, op);
	bool pending;
	uint32_t ready;

	if (!m)
		return ops_fail(cqe, -ENOENT);
	if (!op->until_ns) {
		uint64_t timeout =
			op->sqe.arg < GROW_TIMEOUT_NS_MAX ? op->sqe.arg : GROW_TIMEOUT_NS_MAX;

		op->until_ns = s->now_ns + timeout;
		op->lead = op->sqe.count;
		memset(op->slots, 0, sizeof(op->slots));
	}
	*units -= *units < 16 ? *units : 16;
	while (op->lead) { /* slabs still to ask for */
		int n = core_space_grow(&s->core, m, op->lead, op->slots);

		if (n > 0) {
			op->lead -= (uint32_t)n;
			continue;
		}
		if (n == 0 && s->now_ns < op->until_ns)
			break;
		op->aux = (uint64_t)(n < 0 ? -n : ENOSPC);
		op->lead = 0;
	}
	ready = count_ready(&s->core, m, op, &pending);
	if (pending && s->now_ns >= op->until_ns + GROW_DEVICE_NS) {
		pending = false;
		op->aux = ETIMEDOUT;
	}
	if (op->lead || pending)
		return OPS_PARK;
	cqe->done = ready;
	cqe->res = (int32_t)ready;
	if (ready < op->sqe.count) {
		cqe->status = op->aux ? (uint32_t)op->aux : ENOMEM; /* else the device failed */
		cqe->flags = KVB_CQE_STOPPED;
		if (!ready)
			cqe->res = -(int32_t)cqe->status;
	}
	return OPS_DONE;
}

enum ops_verdict op_shrink(struct ring *r, struct ring_op *op, struct kvb_cqe *cqe, uint32_t *units)
{
	struct server *s = r->session->server;
	struct core_member *m = ops_member(r, op);
	uint64_t grace = op->sqe.arg ? op->sqe.arg : s->cfg.revoke_grace_ns;

	if (!m)
		return ops_fail(cqe, -ENOENT);
	if (grace > SHRINK_DEADLINE_NS_MAX)
		return ops_fail(cqe, -EINVAL);
	*units -= *units < 16 ? *units : 16;
	cqe->res = core_space_shrink(&s->core, m->space, op->sqe.count, grace);
	cqe->done = (uint32_t)cqe->res;
	return OPS_DONE;
}

enum ops_verdict op_reclaim_ack(struct ring *r, struct ring_op *op, struct kvb_cqe *cqe,
				uint32_t *units)
{
	struct core_member *m = ops_member(r, op);
	uint32_t busy;

	if (!m)
		return ops_fail(cqe, -ENOENT);
	*units -= *units < 16 ? *units : 16;
	cqe->res = core_reclaim_ack(&r->session->server->core, m, op->sqe.arg, &busy);
	cqe->aux = busy;
	return OPS_DONE;
}
