/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One-call operations: operands in, one entry (or several, if they do not fit), results out.
 *
 * All page and key operations are one loop, run(), over pieces of the caller's arrays; what differs
 * is in struct batch. A piece that ends at memory which this client has not mapped yet
 * (KVB_CQE_GRANT_PENDING) is followed by a short wait for the grant and then goes on where it
 * ended: the daemon says so again until it has seen our acknowledgement, so the wait is bounded by
 * time and not by the number of grants.
 *
 * A batch that stops at a bad operand returns how many were done; the reason is in the error text,
 * and calling again with the rest returns it as an error.
 */

#include <errno.h>
#include <string.h>

#include "internal.h"

#define EMPTY_MAX 64u                               /* fruitless answers "ask again" in a row */
#define LOAD_DEFAULT_NS (5ull * 1000 * 1000 * 1000) /* the broker's, for LOAD with arg 0 */

struct batch {
	const char *name;
	struct kvb_sqe sqe;
	const void *in; /* n operands of in_bytes; NULL: room is needed, but nothing to send */
	uint32_t in_bytes;
	kvb_page_t *out; /* NULL: no results, or nobody wants them */
	uint32_t n;
	bool by_done; /* `done` says how far it came, not res: LOOKUP_ALL, LOOKUP_TIERS */
	bool refused; /* KVB_CQE_NOTHING_BELOW was said */
	uint64_t aux;
};

static const char *reason(int err)
{
	switch (err) {
	case ENOENT:
		return "no page of this client under that name, or its generation has passed";
	case ESTALE:
		return "the namespace's epoch has passed: open the namespace again";
	case EDQUOT:
		return "a quota of this client is used up: release leases or pins first";
	case EPERM:
		return "the namespace was opened without KVB_NS_ADMIN, or this tenant has no right "
		       "to it";
	case EIO:
		return "the epoch has moved, and a store could not record it: after a restart what "
		       "it "
		       "ended may be found again";
	case EINVAL:
		return "an argument is out of range (space, namespace, flags)";
	default:
		return strerror(err);
	}
}

/* Sends operands [from, from + n) and copies the results. */
static int run_piece(struct kvb *kvb, struct batch *b, uint32_t from, uint32_t n,
		     struct kvb_cqe *ret)
{
	const uint64_t bytes = (uint64_t)n * b->in_bytes;
	int rc;

	b->sqe.operand = kvb->call_operand;
	b->sqe.count = n;
	if (b->in)
		memcpy(kvb->operands + kvb->call_operand,
		       (const char *)b->in + (uint64_t)from * b->in_bytes, bytes);
	rc = kvb_ring_call(kvb, &b->sqe, kvb->timeout_ns, ret);
	if (rc)
		return rc;
	if (ret->res > (int64_t)n || ret->done > n)
		return kvb_end(kvb, -EPROTO, "%s: the broker did %d of %u operands", b->name,
			       ret->res, n);
	if (ret->res < 0)
		return 0;
	if (!b->by_done)
		ret->done = (uint32_t)ret->res;
	b->aux = ret->aux;
	b->refused |= ret->flags & KVB_CQE_NOTHING_BELOW;
	if (b->out)
		memcpy(b->out + from, kvb->results + kvb->call_operand,
		       ret->done * sizeof(kvb_page_t));
	return 0;
}

static int64_t run_pieces(struct kvb *kvb, struct batch *b)
{
	const uint64_t deadline_ns = kvb_deadline_ns(kvb->timeout_ns);
	const uint32_t fit = kvb->call_bytes / b->in_bytes;
	const uint32_t most = fit < KVB_COUNT_MAX ? fit : KVB_COUNT_MAX;
	uint64_t wait_ns = KVB_GRANT_WAIT_NS;
	uint32_t done = 0, empty = 0;

	while (done < b->n) {
		const uint32_t n = b->n - done < most ? b->n - done : most;
		struct kvb_cqe cqe;
		const int rc = run_piece(kvb, b, done, n, &cqe);
		const int err = cqe.res < 0 ? -cqe.res : (int)cqe.status;

		if (rc)
			return rc;
		if (cqe.res >= 0)
			done += cqe.done;
		if (err)
			kvb_fail(kvb, -err, "%s: operand %u: %s", b->name, done, reason(err));
		if (cqe.res < 0 && !done)
			return cqe.res;
		if (err)
			break;
		if (cqe.done == n)
			continue;
		empty = cqe.done ? 0 : empty + 1;
		if (cqe.flags & KVB_CQE_GRANT_PENDING) {
			if (!kvb_ring_wait_grant(kvb, &wait_ns, deadline_ns))
				break;
		} else if (!(cqe.flags & KVB_CQE_AGAIN) || empty > EMPTY_MAX) {
			break;
		}
	}
	return kvb->dead ? kvb->dead : (int64_t)done;
}

static int64_t run(struct kvb_space *s, struct batch *b)
{
	struct kvb *kvb = s->kvb;
	int64_t n;

	if (kvb->dead)
		return kvb->dead;
	b->sqe.space = (uint16_t)s->handle;
	n = run_pieces(kvb, b);
	if (n >= 0)
		kvb_ring_deferred(kvb);
	return n;
}

/* ---- pages --------------------------------------------------------------------------------- */

int64_t kvb_alloc(struct kvb_space *space, kvb_page_t *ret_pages, uint32_t n)
{
	struct batch b = {
		.name = "alloc",
		.sqe.opcode = KVB_OP_ALLOC,
		.in_bytes = sizeof(kvb_page_t),
		.out = ret_pages,
		.n = n,
	};

	return run(space, &b);
}

static int64_t run_pages(struct kvb_space *space, const char *name, enum kvb_op op, uint64_t arg,
			 const kvb_page_t *pages, uint32_t n, bool *ret_refused)
{
	struct batch b = {
		.name = name,
		.sqe = { .opcode = (uint8_t)op, .arg = arg },
		.in = pages,
		.in_bytes = sizeof(*pages),
		.n = n,
	};
	const int64_t done = run(space, &b);

	if (ret_refused)
		*ret_refused = b.refused;
	return done;
}

int64_t kvb_free(struct kvb_space *space, const kvb_page_t *pages, uint32_t n)
{
	return run_pages(space, "free", KVB_OP_FREE, 0, pages, n, NULL);
}

int64_t kvb_release(struct kvb_space *space, const kvb_page_t *pages, uint32_t n)
{
	return run_pages(space, "release", KVB_OP_RELEASE, 0, pages, n, NULL);
}

int64_t kvb_pin(struct kvb_space *space, const kvb_page_t *pages, uint32_t n)
{
	return run_pages(space, "pin", KVB_OP_PIN, 0, pages, n, NULL);
}

int64_t kvb_unpin(struct kvb_space *space, const kvb_page_t *pages, uint32_t n)
{
	return run_pages(space, "unpin", KVB_OP_UNPIN, 0, pages, n, NULL);
}

int64_t kvb_hint(struct kvb_space *space, const kvb_page_t *pages, uint32_t n,
		 enum kvb_priority priority, uint32_t ttl_s)
{
	return run_pages(space, "hint", KVB_OP_HINT, KVB_HINT(priority, ttl_s), pages, n, NULL);
}

int64_t kvb_store(struct kvb_space *space, const kvb_page_t *pages, uint32_t n,
		  bool *ret_nothing_below)
{
	return run_pages(space, "store", KVB_OP_STORE, 0, pages, n, ret_nothing_below);
}

/* ---- keys ---------------------------------------------------------------------------------- */

int64_t kvb_seal(struct kvb_space *space, uint32_t ns, uint64_t epoch, uint64_t salt,
		 const struct kvb_seal *seals, kvb_page_t *ret_pages, uint32_t n)
{
	struct batch b = {
		.name = "seal",
		.sqe = { .opcode = KVB_OP_SEAL, .ns = (uint16_t)ns, .salt = salt, .arg = epoch },
		.in = seals,
		.in_bytes = sizeof(*seals),
		.out = ret_pages,
		.n = n,
	};

	return run(space, &b);
}

static int64_t run_keys(struct kvb_space *space, struct batch *b, uint32_t ns, uint64_t salt,
			const struct kvb_hash *hashes, uint32_t n)
{
	b->sqe.ns = (uint16_t)ns;
	b->sqe.salt = salt;
	b->in = hashes;
	b->in_bytes = sizeof(*hashes);
	b->n = n;
	return run(space, b);
}

int64_t kvb_lookup(struct kvb_space *space, uint32_t ns, uint64_t salt,
		   const struct kvb_hash *hashes, kvb_page_t *ret_pages, uint32_t n,
		   uint64_t *ret_epoch)
{
	struct batch b = { .name = "lookup", .sqe.opcode = KVB_OP_LOOKUP, .out = ret_pages };
	const int64_t done = run_keys(space, &b, ns, salt, hashes, n);

	if (ret_epoch && done >= 0)
		*ret_epoch = b.aux;
	return done;
}

int64_t kvb_lookup_all(struct kvb_space *space, uint32_t ns, uint64_t salt,
		       const struct kvb_hash *hashes, kvb_page_t *ret_pages, uint32_t n,
		       uint64_t *ret_epoch)
{
	struct batch b = {
		.name = "lookup",
		.sqe = { .opcode = KVB_OP_LOOKUP, .flags = KVB_LOOKUP_ALL },
		.out = ret_pages,
		.by_done = true,
	};
	uint32_t lead = 0;
	int64_t done;

	/* Keys that a quota or a pending grant kept from being looked at are misses. */
	memset(ret_pages, 0, n * sizeof(*ret_pages));
	done = run_keys(space, &b, ns, salt, hashes, n);
	if (done < 0)
		return done;
	while (lead < n && ret_pages[lead] != KVB_PAGE_NONE)
		lead++;
	if (ret_epoch)
		*ret_epoch = b.aux;
	return lead;
}

/* How many keys at the start are on the device and leased. */
static uint32_t device_run(const kvb_page_t *pages, uint32_t n)
{
	uint32_t lead = 0;

	while (lead < n && KVB_PAGE_GEN(pages[lead]))
		lead++;
	return lead;
}

/*
 * In a piece after the one in which the device's run ended, a run begins anew for the broker, and
 * it leases what it finds. Those leases are given back: nothing behind *ret_device is leased.
 */
static int64_t unlease_behind(struct kvb_space *space, kvb_page_t *pages, uint32_t n)
{
	int64_t r = 0;

	for (uint32_t i = 0; i < n && r >= 0; i++) {
		if (!KVB_PAGE_GEN(pages[i]))
			continue;
		r = kvb_release(space, &pages[i], 1);
		pages[i] = KVB_PAGE_IN(KVB_TIER_DEVICE);
	}
	return r;
}

int64_t kvb_lookup_tiers(struct kvb_space *space, uint32_t ns, uint64_t salt,
			 const struct kvb_hash *hashes, kvb_page_t *ret_pages, uint32_t n,
			 uint32_t *ret_device, uint64_t *ret_epoch)
{
	struct batch b = {
		.name = "lookup",
		.sqe = { .opcode = KVB_OP_LOOKUP, .flags = KVB_LOOKUP_TIERS },
		.out = ret_pages,
		.by_done = true,
	};
	const int64_t done = run_keys(space, &b, ns, salt, hashes, n);
	int64_t r;

	if (done < 0)
		return done;
	*ret_device = device_run(ret_pages, (uint32_t)done);
	if (ret_epoch)
		*ret_epoch = b.aux;
	r = unlease_behind(space, ret_pages + *ret_device, (uint32_t)done - *ret_device);
	return r < 0 ? r : done;
}

/* How long a LOAD may take in the broker: its own default, but less than our patience with it. */
static uint64_t load_timeout_ns(const struct kvb_space *space)
{
	const uint64_t half_ns = space->kvb->timeout_ns / 2;

	return half_ns < LOAD_DEFAULT_NS ? half_ns : 0;
}

int64_t kvb_load(struct kvb_space *space, uint32_t ns, uint64_t salt, const struct kvb_hash *hashes,
		 kvb_page_t *ret_pages, uint32_t n, bool *ret_nothing_below)
{
	struct batch b = {
		.name = "load",
		.sqe = { .opcode = KVB_OP_LOAD, .arg = load_timeout_ns(space) },
		.out = ret_pages,
	};
	const int64_t done = run_keys(space, &b, ns, salt, hashes, n);

	if (ret_nothing_below)
		*ret_nothing_below = b.refused;
	return done;
}

int64_t kvb_prefetch(struct kvb_space *space, uint32_t ns, uint64_t salt,
		     const struct kvb_hash *hashes, uint32_t n, bool *ret_nothing_below)
{
	struct batch b = { .name = "prefetch", .sqe.opcode = KVB_OP_PREFETCH };
	const int64_t done = run_keys(space, &b, ns, salt, hashes, n);

	if (ret_nothing_below)
		*ret_nothing_below = b.refused;
	return done;
}

/* ---- names --------------------------------------------------------------------------------- */

static int run_one(struct kvb *kvb, const char *name, const struct kvb_sqe *sqe,
		   struct kvb_cqe *ret)
{
	int rc = kvb_ring_call(kvb, sqe, kvb->timeout_ns, ret);

	if (!rc && ret->res < 0)
		rc = kvb_fail(kvb, ret->res, "%s: %s", name, reason(-ret->res));
	return rc;
}

int kvb_ns_open(struct kvb *kvb, const uint8_t digest[32], uint32_t flags, struct kvb_ns_info *ret)
{
	const struct kvb_sqe sqe = { .opcode = KVB_OP_NS_OPEN,
				     .count = 1,
				     .operand = kvb->call_operand };
	struct kvb_ns_open open = { .flags = flags };
	struct kvb_cqe cqe;
	int rc;

	memcpy(open.digest, digest, sizeof(open.digest));
	memcpy(kvb->operands + kvb->call_operand, &open, sizeof(open));
	rc = run_one(kvb, "namespace", &sqe, &cqe);
	if (rc)
		return rc;
	memcpy(ret, kvb->results + kvb->call_operand, sizeof(*ret));
	kvb_ring_deferred(kvb);
	return 0;
}

int kvb_epoch_bump(struct kvb *kvb, uint32_t ns, uint64_t *ret_epoch)
{
	const struct kvb_sqe sqe = { .opcode = KVB_OP_EPOCH_BUMP, .ns = (uint16_t)ns };
	struct kvb_cqe cqe = { 0 };
	const int rc = run_one(kvb, "epoch bump", &sqe, &cqe);

	if (ret_epoch && cqe.aux)
		*ret_epoch = cqe.aux; /* also with EIO */
	if (rc)
		return rc;
	kvb_ring_deferred(kvb);
	return 0;
}

int kvb_nop(struct kvb *kvb)
{
	const struct kvb_sqe sqe = { .opcode = KVB_OP_NOP };
	struct kvb_cqe cqe;
	const int rc = run_one(kvb, "nop", &sqe, &cqe);

	if (!rc)
		kvb_ring_deferred(kvb);
	return rc;
}

/* ---- entries of the ring's user ------------------------------------------------------------ */

static void prep(struct kvb_sqe *sqe, enum kvb_op op, const struct kvb_space *space,
		 uint32_t operand, uint32_t n)
{
	sqe->opcode = (uint8_t)op;
	sqe->space = (uint16_t)space->handle;
	sqe->operand = operand;
	sqe->count = n;
}

void kvb_prep_nop(struct kvb_sqe *sqe)
{
	sqe->opcode = KVB_OP_NOP;
}

void kvb_prep_alloc(struct kvb_sqe *sqe, const struct kvb_space *space, uint32_t operand,
		    uint32_t n)
{
	prep(sqe, KVB_OP_ALLOC, space, operand, n);
}

void kvb_prep_free(struct kvb_sqe *sqe, const struct kvb_space *space, uint32_t operand, uint32_t n)
{
	prep(sqe, KVB_OP_FREE, space, operand, n);
}

static void prep_keys(struct kvb_sqe *sqe, enum kvb_op op, const struct kvb_space *space,
		      uint32_t ns, uint64_t salt, uint32_t operand, uint32_t n)
{
	prep(sqe, op, space, operand, n);
	sqe->ns = (uint16_t)ns;
	sqe->salt = salt;
}

void kvb_prep_seal(struct kvb_sqe *sqe, const struct kvb_space *space, uint32_t ns, uint64_t epoch,
		   uint64_t salt, uint32_t operand, uint32_t n)
{
	prep_keys(sqe, KVB_OP_SEAL, space, ns, salt, operand, n);
	sqe->arg = epoch;
}

void kvb_prep_lookup(struct kvb_sqe *sqe, const struct kvb_space *space, uint32_t ns, uint64_t salt,
		     uint32_t operand, uint32_t n, bool all)
{
	prep_keys(sqe, KVB_OP_LOOKUP, space, ns, salt, operand, n);
	sqe->flags = all ? KVB_LOOKUP_ALL : 0;
}

void kvb_prep_lookup_tiers(struct kvb_sqe *sqe, const struct kvb_space *space, uint32_t ns,
			   uint64_t salt, uint32_t operand, uint32_t n)
{
	prep_keys(sqe, KVB_OP_LOOKUP, space, ns, salt, operand, n);
	sqe->flags = KVB_LOOKUP_TIERS;
}

void kvb_prep_load(struct kvb_sqe *sqe, const struct kvb_space *space, uint32_t ns, uint64_t salt,
		   uint32_t operand, uint32_t n, uint64_t timeout_ns)
{
	prep_keys(sqe, KVB_OP_LOAD, space, ns, salt, operand, n);
	sqe->arg = timeout_ns;
}

void kvb_prep_prefetch(struct kvb_sqe *sqe, const struct kvb_space *space, uint32_t ns,
		       uint64_t salt, uint32_t operand, uint32_t n)
{
	prep_keys(sqe, KVB_OP_PREFETCH, space, ns, salt, operand, n);
}

void kvb_prep_store(struct kvb_sqe *sqe, const struct kvb_space *space, uint32_t operand,
		    uint32_t n)
{
	prep(sqe, KVB_OP_STORE, space, operand, n);
}

void kvb_prep_release(struct kvb_sqe *sqe, const struct kvb_space *space, uint32_t operand,
		      uint32_t n)
{
	prep(sqe, KVB_OP_RELEASE, space, operand, n);
}

void kvb_prep_cancel(struct kvb_sqe *sqe, uint64_t user_data)
{
	sqe->opcode = KVB_OP_CANCEL;
	sqe->arg = user_data;
}

void kvb_prep_fence(struct kvb_sqe *sqe, uint32_t fence, uint64_t value)
{
	sqe->fence = (uint16_t)(fence + 1);
	sqe->fence_value = value;
}
