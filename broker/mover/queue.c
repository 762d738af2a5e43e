/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Serving the ring; see queue.h. Every access to a shared word is one of the step_ functions, named
 * after its pair of the contract.
 */

#include "broker/mover/queue.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/io/shm.h"

#define ENTRY_MASK (MOVER_RING_ENTRIES - 1)

static struct kvb_sub *sub_of(const struct mover_queue *q)
{
	return (void *)q->mem;
}

static struct kvb_ctl *ctl_of(const struct mover_queue *q)
{
	return (void *)(q->mem + MOVER_RING_CTL);
}

/* ---- steps --------------------------------------------------------------------------------- */

/* (A) How far the daemon has come. -EPROTO: further than the ring is long. */
static int step_look(struct mover_queue *q)
{
	const uint32_t tail = shm_load_acquire(&sub_of(q)->sq_tail);

	if (tail - q->sq_head > MOVER_RING_ENTRIES)
		return -EPROTO;
	q->tail_seen = tail;
	return 0;
}

/* (A) The copy is what is looked at, not the source again. */
static void step_copy(struct mover_queue *q, struct mover_entry *ret)
{
	const struct mover_entry *entries = (const void *)(q->mem + MOVER_RING_SQES);

	memcpy(ret, &entries[q->sq_head & ENTRY_MASK], sizeof(*ret));
	__asm__ volatile("" : : "r"(ret) : "memory");
	q->sq_head++;
}

/* (B) Slots of entries taken are the daemon's again. */
static void step_show_head(struct mover_queue *q)
{
	q->shown_head = q->sq_head;
	shm_store_release(&ctl_of(q)->sq_head, q->sq_head);
}

/* (C) Completions posted are the daemon's to read. */
static void step_show_tail(struct mover_queue *q)
{
	q->shown_tail = q->cq_tail;
	shm_store_release(&ctl_of(q)->cq_tail, q->cq_tail);
}

/* (D) How many completions were reaped. -EPROTO: back, or more than there were. */
static int step_reaped(struct mover_queue *q)
{
	const uint32_t head = shm_load_acquire(&sub_of(q)->cq_head);

	if (q->shown_tail - head > q->shown_tail - q->cq_head)
		return -EPROTO;
	q->cq_head = head;
	return 0;
}

/* (E) After it a full fence, then step_look(). */
static void step_need_doorbell(struct mover_queue *q, bool need)
{
	shm_store(&ctl_of(q)->flags, need ? KVB_CTL_NEED_DOORBELL : 0);
}

/* (F) After step_show_tail() and a full fence. */
static bool step_need_wake(const struct mover_queue *q)
{
	return shm_load(&sub_of(q)->need_wake) != 0;
}

/* ---- strung together ----------------------------------------------------------------------- */

int mover_queue_open(struct mover_queue *q, int memfd, int doorbell, int wake)
{
	struct stat st;
	void *mem;

	if (fstat(memfd, &st) < 0)
		return -errno;
	if (st.st_size < (off_t)MOVER_RING_BYTES)
		return -EINVAL;
	mem = mmap(NULL, MOVER_RING_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	if (mem == MAP_FAILED)
		return -errno;
	*q = (struct mover_queue){ .mem = mem, .doorbell = doorbell, .wake = wake };
	q->sq_head = q->shown_head = q->tail_seen = shm_load(&ctl_of(q)->sq_head);
	q->cq_tail = q->shown_tail = q->cq_head = shm_load(&ctl_of(q)->cq_tail);
	return 0;
}

void mover_queue_close(struct mover_queue *q)
{
	if (q->mem) {
		munmap(q->mem, MOVER_RING_BYTES);
		close(q->doorbell);
		close(q->wake);
	}
	*q = MOVER_QUEUE_NONE;
}

static bool has_slot(const struct mover_queue *q)
{
	return q->cq_tail - q->cq_head + q->owed < MOVER_RING_ENTRIES;
}

int mover_queue_take(struct mover_queue *q, struct mover_entry *ret)
{
	q->stuck = false;
	if (q->tail_seen == q->sq_head && step_look(q) < 0)
		return -EPROTO;
	if (q->tail_seen == q->sq_head)
		return 0;
	if (!has_slot(q) && step_reaped(q) < 0)
		return -EPROTO;
	if (!has_slot(q)) {
		q->stuck = true;
		return 0;
	}
	step_copy(q, ret);
	q->owed++;
	return 1;
}

void mover_queue_post(struct mover_queue *q, uint32_t id, int32_t res, uint32_t sum)
{
	struct kvb_cqe *cqes = (void *)(q->mem + MOVER_RING_CQES);

	cqes[q->cq_tail & ENTRY_MASK] = (struct kvb_cqe){ .user_data = id, .res = res, .aux = sum };
	q->cq_tail++;
	q->owed--;
}

void mover_queue_publish(struct mover_queue *q)
{
	const uint64_t one = 1;

	if (q->shown_head != q->sq_head)
		step_show_head(q);
	if (q->shown_tail == q->cq_tail)
		return;
	step_show_tail(q);
	shm_fence();
	if (step_need_wake(q))
		/* Cannot fail for a reason that matters: a counter that is full wakes as well. */
		(void)!write(q->wake, &one, sizeof(one));
}

bool mover_queue_arm(struct mover_queue *q)
{
	step_need_doorbell(q, true);
	shm_fence();
	/* A tail that jumped is news too: take finds out. */
	return !q->stuck && (step_look(q) < 0 || q->tail_seen != q->sq_head);
}

void mover_queue_disarm(struct mover_queue *q)
{
	step_need_doorbell(q, false);
}
