/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Serving rings: taking entries, running them by ops/, posting completions, sleeping and waking.
 *
 * Per ring and turn: parked entries that are due, then new ones while there is budget. Completions
 * are shown to the client once, at the end, so that a batch costs one fence and at most one
 * wake-up.
 *
 * Order of a completion: results and CQE, then cq_tail (release), then a full fence, then need_wake
 * is read (contract F). Order of falling asleep: NEED_DOORBELL, full fence, sq_tail again (E).
 */

#include <assert.h>
#include <errno.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "broker/io/fault.h"
#include "broker/io/ring.h"
#include "broker/io/shm.h"
#include "broker/ops/ops.h"

#define AREA_ALIGN 4096u
#define MALFORMED_MAX 3u
#define LOOK_NS_MIN (100ull * 1000) /* at what waits, doubling while nothing comes of it */
#define LOOK_NS_MAX (2000ull * 1000)
#define FENCE_WAIT_NS (60ull * 1000 * 1000 * 1000) /* a stream that took so long hangs */

static struct kvb_sub *sub_of(const struct ring *r)
{
	return r->sub.mem;
}

static struct kvb_ctl *ctl_of(const struct ring *r)
{
	return r->ctl.mem;
}

/* ---- making -------------------------------------------------------------------------------- */

static uint32_t align_up(uint64_t bytes)
{
	return (uint32_t)((bytes + AREA_ALIGN - 1) / AREA_ALIGN * AREA_ALIGN);
}

int ring_new(struct session *ss, const struct ring_geometry *geo, struct ring **ret)
{
	struct ring *r = fault_calloc("ring_new", 1, sizeof(*r));
	int e;

	if (!r)
		return -ENOMEM;
	r->session = ss;
	r->geo = *geo;
	r->doorbell_fd = -1;
	r->sub.fd = r->ctl.fd = r->fence.fd = -1;
	r->off_sqes = AREA_ALIGN;
	r->off_operands =
		r->off_sqes + align_up((uint64_t)geo->sq_entries * sizeof(struct kvb_sqe));
	r->off_cqes = AREA_ALIGN;
	r->off_results = r->off_cqes + align_up((uint64_t)geo->cq_entries * sizeof(struct kvb_cqe));
	e = shm_region_new("kvb-sub", (uint64_t)r->off_operands + geo->operand_bytes,
			   SHM_PEER_WRITES, &r->sub);
	if (!e)
		e = shm_region_new("kvb-ctl", (uint64_t)r->off_results + geo->operand_bytes,
				   SHM_WE_WRITE, &r->ctl);
	if (!e)
		e = shm_region_new("kvb-fence", KVB_FENCES * sizeof(struct kvb_fence),
				   SHM_BOTH_WRITE, &r->fence);
	if (!e) {
		r->doorbell_fd =
			fault_fails("doorbell") ? -1 : eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		e = r->doorbell_fd < 0 ? -errno : 0;
	}
	if (e < 0) {
		ring_free(r);
		return e;
	}
	shm_store(&ctl_of(r)->flags, KVB_CTL_NEED_DOORBELL);
	*ret = r;
	return 0;
}

static void unlink_hot(struct ring *r)
{
	struct server *s = r->session->server;

	if (!r->hot)
		return;
	if (r->prev)
		r->prev->next = r->next;
	else
		s->hot = r->next;
	if (r->next)
		r->next->prev = r->prev;
	r->next = r->prev = NULL;
	r->hot = false;
	s->hot_count--;
}

struct ring *ring_free(struct ring *r)
{
	if (!r)
		return NULL;
	unlink_hot(r);
	r->session->server->parked -= r->parked + r->stalled;
	shm_region_free(&r->sub);
	shm_region_free(&r->ctl);
	shm_region_free(&r->fence);
	if (r->doorbell_fd >= 0)
		close(r->doorbell_fd);
	free(r);
	return NULL;
}

void ring_describe(const struct ring *r, struct kvb_msg_hello_reply *reply)
{
	reply->sq_entries = r->geo.sq_entries;
	reply->cq_entries = r->geo.cq_entries;
	reply->operand_bytes = r->geo.operand_bytes;
	reply->sub_bytes = r->sub.bytes;
	reply->ctl_bytes = r->ctl.bytes;
	reply->fence_bytes = r->fence.bytes;
	reply->sub_sqes = r->off_sqes;
	reply->sub_operands = r->off_operands;
	reply->ctl_cqes = r->off_cqes;
	reply->ctl_results = r->off_results;
}

/* ---- telling the client -------------------------------------------------------------------- */

/* After what the client may be waiting for was stored (F). */
static void wake_client(struct ring *r)
{
	struct kvb_ctl *ctl = ctl_of(r);

	shm_fence();
	if (!shm_load(&sub_of(r)->need_wake))
		return;
	shm_store_release(&ctl->wake, shm_load(&ctl->wake) + 1);
	(void)syscall(SYS_futex, &ctl->wake, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void show_counters(struct ring *r)
{
	const struct core_client *cl = &r->session->server->core.clients[r->session->client];
	struct kvb_ctl *ctl = ctl_of(r);

	shm_store64(&ctl->entries, r->entries);
	shm_store64(&ctl->invalid, r->invalid);
	shm_store64(&ctl->pages_held, cl->held);
	shm_store64(&ctl->leases, cl->leases);
}

static void publish(struct ring *r)
{
	struct kvb_ctl *ctl = ctl_of(r);

	if (r->shown_head != r->sq_head) {
		r->shown_head = r->sq_head;
		shm_store_release(&ctl->sq_head, r->sq_head);
	}
	if (r->published == r->cq_tail)
		return;
	r->published = r->cq_tail;
	shm_store_release(&ctl->cq_tail, r->cq_tail);
	wake_client(r);
}

static void set_flag(struct ring *r, uint32_t flag)
{
	struct kvb_ctl *ctl = ctl_of(r);

	shm_store_release(&ctl->flags, shm_load(&ctl->flags) | flag);
}

void ring_break(struct ring *r, int error)
{
	if (r->broken)
		return;
	r->broken = true;
	publish(r);
	show_counters(r);
	shm_store(&ctl_of(r)->error, (uint32_t)(error < 0 ? -error : error));
	set_flag(r, KVB_CTL_BROKEN);
	wake_client(r);
}

void ring_drain(struct ring *r)
{
	set_flag(r, KVB_CTL_DRAINING);
	wake_client(r);
}

void ring_message_sent(struct ring *r)
{
	struct kvb_ctl *ctl = ctl_of(r);

	shm_store_release(&ctl->sock_seq, shm_load(&ctl->sock_seq) + 1);
	wake_client(r);
}

/* ---- completions --------------------------------------------------------------------------- */

/* May one more completion be promised? Believes cq_head only as far as it makes sense. */
static bool slot_free(struct ring *r)
{
	if (r->cq_tail + r->reserved - r->cq_head < r->geo.cq_entries)
		return true;
	uint32_t head = shm_load_acquire(&sub_of(r)->cq_head);

	if (r->cq_tail - head > r->cq_tail - r->cq_head) {
		session_break(r->session, EPROTO, "CQ head went back or ran ahead of the tail");
		return false;
	}
	r->cq_head = head;
	return r->cq_tail + r->reserved - r->cq_head < r->geo.cq_entries;
}

static void post(struct ring *r, const struct kvb_cqe *cqe)
{
	struct kvb_cqe *cqes = (void *)((char *)r->ctl.mem + r->off_cqes);

	cqes[r->cq_tail & (r->geo.cq_entries - 1)] = *cqe;
	r->cq_tail++;
}

static void complete(struct ring *r, const struct kvb_cqe *cqe)
{
	assert(r->reserved);
	r->reserved--;
	post(r, cqe);
}

bool ring_event(struct ring *r, enum kvb_event event, int32_t res, uint32_t status, uint64_t aux)
{
	struct kvb_cqe cqe = {
		.user_data = event,
		.res = res,
		.flags = KVB_CQE_EVENT,
		.aux = aux,
		.status = status,
	};

	if (r->broken || !slot_free(r))
		return false;
	post(r, &cqe);
	publish(r);
	return true;
}

/* ---- entries ------------------------------------------------------------------------------- */

/* The client has written, or read, these lines last: they are fetched together, not one by one. */
static void fetch_lines(const char *at, size_t bytes, bool to_write)
{
	for (size_t i = 0; i < bytes; i += 64) {
		if (to_write)
			__builtin_prefetch(at + i, 1);
		else
			__builtin_prefetch(at + i, 0);
	}
}

bool ring_copy_operands(struct ring *r, const struct kvb_sqe *sqe, uint32_t first, uint32_t n,
			uint32_t bytes, void *to)
{
	uint64_t at = sqe->operand + (uint64_t)first * bytes;
	const char *from = (const char *)r->sub.mem + r->off_operands + at;

	if (at + (uint64_t)n * bytes > r->geo.operand_bytes)
		return false;
	if (!first)
		r->operand_seen = sqe->operand;
	fetch_lines(from, (size_t)n * bytes, false);
	memcpy(to, from, (size_t)n * bytes);
	/* the copy is what is looked at, not the source again */
	__asm__ volatile("" : : "r"(to) : "memory");
	return true;
}

void *ring_results(struct ring *r, const struct kvb_sqe *sqe, uint32_t first, uint32_t n,
		   uint32_t bytes)
{
	uint64_t at = sqe->operand + (uint64_t)first * bytes;
	char *to = (char *)r->ctl.mem + r->off_results + at;

	if (at + (uint64_t)n * bytes > r->geo.operand_bytes)
		return NULL;
	fetch_lines(to, (size_t)n * bytes, true);
	return to;
}

/* The next entry into r->current. False: none, or no room for its completion. */
static bool take(struct ring *r)
{
	const struct kvb_sqe *sqes = (const void *)((const char *)r->sub.mem + r->off_sqes);

	if (r->tail_seen == r->sq_head) {
		/* Fetched beside the tail, not after it: an entry costs one transfer, not three.
		 * Who waits for each answer has its operands where they were before. */
		__builtin_prefetch(&sqes[r->sq_head & (r->geo.sq_entries - 1)]);
		__builtin_prefetch((const char *)r->sub.mem + r->off_operands + r->operand_seen);
		r->tail_seen = shm_load_acquire(&sub_of(r)->sq_tail);
		if (r->tail_seen == r->sq_head)
			return false;
		if (r->tail_seen - r->sq_head > r->geo.sq_entries) {
			session_break(r->session, EPROTO, "SQ tail jumped");
			return false;
		}
	}
	if (!slot_free(r))
		return false;
	memcpy(&r->current.sqe, &sqes[r->sq_head & (r->geo.sq_entries - 1)],
	       sizeof(r->current.sqe));
	__asm__ volatile("" : : "r"(&r->current.sqe) : "memory");
	memset((char *)&r->current + sizeof(r->current.sqe), 0,
	       offsetof(struct ring_op, slots) - sizeof(r->current.sqe));
	r->sq_head++;
	r->entries++;
	r->reserved++;
	r->current_used = true;
	return true;
}

void ring_fence_set(struct ring *r, const struct kvb_sqe *sqe)
{
	struct kvb_fence *fences = r->fence.mem;

	if (sqe->fence)
		shm_store64_release(&fences[sqe->fence - 1].value, sqe->fence_value);
}

/* What LOAD names is not waited for, it is set. */
static bool fence_reached(const struct ring *r, const struct kvb_sqe *sqe)
{
	const struct kvb_fence *fences = r->fence.mem;

	return !sqe->fence || sqe->opcode == KVB_OP_LOAD ||
	       kvb_fence_reached(shm_load64(&fences[sqe->fence - 1].value), sqe->fence_value);
}

/* Something of this ring waits and has to be looked at without a doorbell. */
static void count_waiting(struct server *s)
{
	s->parked++;
	s->look_ns = LOOK_NS_MIN;
	s->parked_look_ns = s->now_ns + LOOK_NS_MIN;
}

/* Sets an entry aside; later ones pass it. False: too many wait already. */
static bool park(struct ring *r, const struct ring_op *op)
{
	for (unsigned i = 0; i < KVB_FENCES; i++) {
		if (r->parked_op[i].used)
			continue;
		r->parked_op[i] = *op;
		r->parked_op[i].used = true;
		r->parked_op[i].fenced = !fence_reached(r, &op->sqe);
		r->parked++;
		if (r->parked_op[i].fenced) {
			r->fenced++;
			r->fence_ns = r->session->server->now_ns;
		}
		count_waiting(r->session->server);
		return true;
	}
	return false;
}

static void unpark(struct ring *r, struct ring_op *op)
{
	op->used = false;
	r->parked--;
	r->fenced -= op->fenced;
	r->session->server->parked--;
}

static int32_t cancel(struct ring *r, uint64_t user_data)
{
	for (unsigned i = 0; i < KVB_FENCES && r->parked; i++) {
		struct ring_op *op = &r->parked_op[i];
		struct kvb_cqe cqe = { .user_data = user_data, .res = -ECANCELED };

		if (!op->used || op->sqe.user_data != user_data)
			continue;
		unpark(r, op);
		ops_cancel(r, op);
		complete(r, &cqe);
		return 0;
	}
	return -ENOENT;
}

void ring_space_closed(struct ring *r, uint32_t handle)
{
	for (unsigned i = 0; i < KVB_FENCES && r->parked; i++) {
		struct ring_op *op = &r->parked_op[i];
		struct kvb_cqe cqe = { .user_data = op->sqe.user_data,
				       .res = -ENOENT,
				       .done = op->done };

		if (!op->used || op->sqe.space != handle)
			continue;
		unpark(r, op);
		ops_cancel(r, op);
		complete(r, &cqe);
	}
	/* A batch between two slices: its next one finds no space. */
	if (r->current_used && r->current.sqe.space == handle)
		r->current.sqe.space = UINT16_MAX;
	publish(r);
}

/* Three malformed entries in a row are no accident. */
static void malformed(struct ring *r, struct kvb_cqe *cqe)
{
	cqe->res = -EINVAL;
	/* whatever else is wrong with a LOAD, a stream may wait for its end */
	if (r->current.sqe.opcode == KVB_OP_LOAD && r->current.sqe.fence <= KVB_FENCES)
		ring_fence_set(r, &r->current.sqe);
	r->invalid++;
	if (++r->malformed == MALFORMED_MAX)
		session_break(r->session, EINVAL, "three malformed entries in a row");
}

/* What waits for a fence, FREE or SEAL, waits for nothing else: the time it has is for this. */
static enum ops_verdict wait_for_fence(struct ring *r, struct ring_op *op)
{
	op->until_ns = r->session->server->now_ns + FENCE_WAIT_NS;
	return OPS_PARK;
}

/* Works on r->current until it is done, parked or out of budget. */
static void run_current(struct ring *r, uint32_t *units)
{
	struct ring_op *op = &r->current;
	struct kvb_cqe cqe = { .user_data = op->sqe.user_data };
	enum ops_verdict verdict = OPS_DONE;

	if (!op->done && ops_check(r, &op->sqe) < 0) {
		malformed(r, &cqe);
		*units -= *units < 2 ? *units : 2;
		r->current_used = false;
		complete(r, &cqe);
		return;
	}
	r->malformed = 0;
	if (op->sqe.opcode == KVB_OP_CANCEL)
		cqe.res = cancel(r, op->sqe.arg);
	else if (!fence_reached(r, &op->sqe))
		verdict = wait_for_fence(r, op);
	else
		verdict = ops_run(r, op, &cqe, units);
	*units -= *units ? 1 : 0;
	if (verdict == OPS_MORE)
		return;
	r->current_used = false;
	if (verdict == OPS_PARK && park(r, op))
		return;
	if (verdict == OPS_PARK) {
		ops_cancel(r, op);
		cqe.res = -EBUSY;
	}
	complete(r, &cqe);
}

/*
 * Has what this entry waited for come? A word that one has written who is gone counts for nothing,
 * and the loop may not have said yet that it is.
 */
static bool fence_came(const struct ring *r, const struct ring_op *op)
{
	return fence_reached(r, &op->sqe) && !(op->fenced && session_hung_up(r->session));
}

/* One entry that waited for a fence or memory. True: it is done, or got on. */
static bool run_parked(struct ring *r, struct ring_op *op, uint32_t *units)
{
	struct kvb_cqe cqe = { .user_data = op->sqe.user_data };
	enum ops_verdict verdict;

	r->fenced -= op->fenced;
	op->fenced = false;
	do
		verdict = ops_run(r, op, &cqe, units);
	while (verdict == OPS_MORE && *units);
	if (verdict == OPS_DONE) {
		unpark(r, op);
		complete(r, &cqe);
	}
	return verdict != OPS_PARK;
}

static void give_up_fence(struct ring *r, struct ring_op *op)
{
	const struct kvb_cqe cqe = {
		.user_data = op->sqe.user_data,
		.res = -ETIME,
		.done = op->done,
	};

	unpark(r, op);
	complete(r, &cqe);
}

/* Entries that wait: those whose fence or memory has come are finished, and whose time is over. */
static bool retry_parked(struct ring *r, uint32_t *units)
{
	bool did = false;

	for (unsigned i = 0, left = r->parked; left && *units && i < KVB_FENCES; i++) {
		struct ring_op *op = &r->parked_op[i];

		if (!op->used)
			continue;
		left--;
		if (fence_came(r, op)) {
			did |= run_parked(r, op, units);
		} else if (r->session->server->now_ns >= op->until_ns) {
			give_up_fence(r, op);
			did = true;
		}
	}
	return did;
}

/* Only those whose fence has come: one load for each that waits. */
static bool retry_fenced(struct ring *r, uint32_t *units)
{
	bool did = false;

	for (unsigned i = 0, left = r->fenced; left && *units && i < KVB_FENCES; i++) {
		struct ring_op *op = &r->parked_op[i];

		if (!op->used || !op->fenced)
			continue;
		left--;
		if (fence_came(r, op))
			did |= run_parked(r, op, units);
	}
	return did;
}

/* ---- the polled set ------------------------------------------------------------------------ */

void ring_wake(struct ring *r)
{
	struct server *s = r->session->server;
	struct kvb_ctl *ctl = ctl_of(r);

	r->work_ns = s->now_ns;
	if (r->hot || r->broken)
		return;
	shm_store_release(&ctl->flags, shm_load(&ctl->flags) & ~KVB_CTL_NEED_DOORBELL);
	r->hot = true;
	r->prev = NULL;
	r->next = s->hot;
	if (s->hot)
		s->hot->prev = r;
	s->hot = r;
	s->hot_count++;
}

/*
 * Leaves the polled set, unless something came while it was leaving (E). Entries that only wait for
 * the client to reap do not keep the daemon awake: reaping rings no doorbell, so they are looked at
 * now and then.
 */
static void cool(struct ring *r)
{
	struct kvb_ctl *ctl = ctl_of(r);

	show_counters(r);
	set_flag(r, KVB_CTL_NEED_DOORBELL);
	shm_fence();
	if (shm_load_acquire(&sub_of(r)->sq_tail) != r->sq_head) {
		if (slot_free(r) && !r->broken) {
			shm_store_release(&ctl->flags,
					  shm_load(&ctl->flags) & ~KVB_CTL_NEED_DOORBELL);
			return;
		}
		if (!r->stalled)
			count_waiting(r->session->server);
		r->stalled = true;
	}
	unlink_hot(r);
}

static bool serve(struct ring *r, uint32_t units)
{
	struct server *s = r->session->server;
	bool did = false;

	if (r->broken) {
		unlink_hot(r);
		return false;
	}
	if (r->fenced)
		did = retry_fenced(r, &units);
	while (units && !r->broken && (r->current_used || take(r))) {
		run_current(r, &units);
		did = true;
	}
	publish(r);
	if (did) {
		r->work_ns = s->now_ns;
		if ((r->entries & 255) == 0)
			show_counters(r);
	} else if (s->now_ns - r->work_ns > s->cfg.spin_ns &&
		   (!r->fenced || s->now_ns - r->fence_ns > RING_FENCE_NS)) {
		cool(r);
	}
	return did;
}

/* Rings with entries that wait, in or out of the polled set. */
static bool serve_waiting(struct server *s)
{
	bool did = false;

	for (uint32_t i = 0; i < s->sessions_max; i++) {
		struct ring *r = s->sessions[i].ring;
		uint32_t units = RING_TURN_UNITS;

		if (!r || r->broken)
			continue;
		if (r->stalled && slot_free(r)) {
			r->stalled = false;
			s->parked--;
			ring_wake(r);
			did = true;
		}
		if (r->parked) {
			did |= retry_parked(r, &units);
			publish(r);
		}
	}
	s->look_ns = did                            ? LOOK_NS_MIN
		     : s->look_ns * 2 < LOOK_NS_MAX ? s->look_ns * 2
						    : LOOK_NS_MAX;
	s->parked_look_ns = s->now_ns + s->look_ns;
	return did;
}

bool ring_turn(struct server *s)
{
	bool did = false;

	for (struct ring *r = s->hot, *next; r; r = next) {
		next = r->next;
		did |= serve(r, s->hot_count > 1 ? RING_TURN_UNITS_SHARED : RING_TURN_UNITS);
	}
	if (s->parked && s->now_ns >= s->parked_look_ns)
		did |= serve_waiting(s);
	return did;
}

uint64_t ring_next_ns(const struct server *s)
{
	return s->parked ? s->parked_look_ns : UINT64_MAX;
}
