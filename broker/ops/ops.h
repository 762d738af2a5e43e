/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Ring operations: arguments checked, core called, results written.
 *
 * Each operation family has a file; ops.c has the table. An operation works on a slice of its
 * operands and says whether it is finished; the ring calls it again with the same struct ring_op
 * if not. Nothing here trusts an entry: it is the ring's private copy, and operands are
 * copied by ring_copy_operands() before they are looked at.
 */

#include "broker/io/ring.h"

enum ops_verdict {
	OPS_DONE, /* the result is in *cqe */
	OPS_MORE, /* call again: out of budget */
	OPS_PARK, /* waits for memory: call again now and then */
};

/* Checks what can be checked without running: opcode, flags, reserved and unused fields, operand
 * bounds. 0 or -EINVAL. */
int ops_check(const struct ring *r, const struct kvb_sqe *sqe);

/* Runs one slice; *units is decreased by what it cost. cqe: user_data is already set. */
enum ops_verdict ops_run(struct ring *r, struct ring_op *op, struct kvb_cqe *cqe, uint32_t *units);

/* An entry that waited ends without having run to its end: what it has taken is given back. False:
 * not all yet, call again. */
bool ops_cancel(struct ring *r, struct ring_op *op, uint32_t *units);

/* ---- for the operations --------------------------------------------------------------------- */

/* The member behind the entry's space handle; NULL: the client's mistake, -ENOENT. */
struct core_member *ops_member(struct ring *r, const struct ring_op *op);
/* How many operands to do now, 1..most (at most RING_SLICE); taken from *units. */
uint32_t ops_slice(const struct ring_op *op, uint32_t most, uint32_t *units);
/* What a slice of `asked` operands came to; fills *cqe when the entry is finished with it. */
enum ops_verdict ops_batch(struct ring_op *op, const struct core_batch *b, uint32_t asked,
			   struct kvb_cqe *cqe);
enum ops_verdict ops_fail(struct kvb_cqe *cqe, int error);

/* ops/pages.c */
enum ops_verdict op_alloc(struct ring *r, struct ring_op *op, struct kvb_cqe *cqe, uint32_t *units);
bool op_alloc_cancel(struct ring *r, struct ring_op *op, uint32_t *units);
enum ops_verdict op_pages(struct ring *r, struct ring_op *op, struct kvb_cqe *cqe, uint32_t *units);
/* ops/prefix.c */
enum ops_verdict op_seal(struct ring *r, struct ring_op *op, struct kvb_cqe *cqe, uint32_t *units);
enum ops_verdict op_lookup(struct ring *r, struct ring_op *op, struct kvb_cqe *cqe,
			   uint32_t *units);
/* ops/tiers.c */
enum ops_verdict op_load(struct ring *r, struct ring_op *op, struct kvb_cqe *cqe, uint32_t *units);
bool op_load_cancel(struct ring *r, struct ring_op *op, uint32_t *units);
enum ops_verdict op_prefetch(struct ring *r, struct ring_op *op, struct kvb_cqe *cqe,
			     uint32_t *units);
enum ops_verdict op_store(struct ring *r, struct ring_op *op, struct kvb_cqe *cqe, uint32_t *units);
/* ops/space.c */
enum ops_verdict op_grow(struct ring *r, struct ring_op *op, struct kvb_cqe *cqe, uint32_t *units);
enum ops_verdict op_shrink(struct ring *r, struct ring_op *op, struct kvb_cqe *cqe,
			   uint32_t *units);
enum ops_verdict op_reclaim_ack(struct ring *r, struct ring_op *op, struct kvb_cqe *cqe,
				uint32_t *units);
/* ops/namespace.c */
enum ops_verdict op_ns_open(struct ring *r, struct ring_op *op, struct kvb_cqe *cqe,
			    uint32_t *units);
enum ops_verdict op_epoch_bump(struct ring *r, struct ring_op *op, struct kvb_cqe *cqe,
			       uint32_t *units);
