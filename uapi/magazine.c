/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Magazines: page ids at hand, so that an allocation is the pop of an array.
 *
 * Every id here is FILLING for the daemon, charged to this client, and quarantined if the process
 * dies. When half of the magazine is used up the library asks for more in passing, and takes the
 * answer in a later call; it waits only when the magazine is empty.
 *
 * One entry is in flight a magazine, a refill or a return, in its own small part of the operand
 * area. When memory is short the daemon sends RECALL: everything goes back, and the magazine aims
 * at half of its size from then on, so that idle ids do not swing between clients; each refill that
 * is fully answered lets it aim higher again. A refill that brought less than asked is not followed
 * by another before the magazine is empty.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"

#define EMPTY_MAX 64u /* answers "ask again" without a page before giving up */

int kvb_magazine_init(struct kvb_space *s)
{
	struct kvb_magazine *m = &s->magazine;
	const struct kvb *kvb = s->kvb;

	m->size = m->want = kvb->magazine_size;
	m->area = kvb->magazine_operand + s->handle * kvb->magazine_bytes;
	m->chunk = kvb->magazine_bytes / (uint32_t)sizeof(kvb_page_t);
	m->pages = calloc(m->size, sizeof(*m->pages));
	return m->pages
		       ? 0
		       : kvb_fail(s->kvb, -ENOMEM, "no memory for a magazine of %u pages", m->size);
}

static struct kvb_sqe entry(const struct kvb_space *s, enum kvb_op op, uint32_t operand, uint32_t n)
{
	return (struct kvb_sqe){
		.opcode = (uint8_t)op,
		.space = (uint16_t)s->handle,
		.operand = operand,
		.count = n,
		.user_data = KVB_OWN | KVB_OWN_MAGAZINE | s->handle,
	};
}

/* Both send at once when that is possible without disturbing the user; else with `wait` they wait.
 */
static int start(struct kvb_space *s, const struct kvb_sqe *sqe, bool wait)
{
	if (wait)
		return kvb_ring_send(s->kvb, sqe, kvb_deadline_ns(s->kvb->timeout_ns));
	return kvb_ring_try_send(s->kvb, sqe) ? 0 : -EAGAIN;
}

static int start_refill(struct kvb_space *s, bool wait)
{
	struct kvb_magazine *m = &s->magazine;
	const uint32_t missing = m->want > m->n ? m->want - m->n : 1;
	const uint32_t n = missing < m->chunk ? missing : m->chunk;
	struct kvb_sqe sqe = entry(s, KVB_OP_ALLOC, m->area, n);
	int rc;

	sqe.flags = KVB_ALLOC_MAGAZINE;
	rc = start(s, &sqe, wait);
	if (rc)
		return rc;
	m->op = KVB_MAGAZINE_REFILL;
	m->incoming = m->sent = n;
	return 0;
}

static int start_give(struct kvb_space *s, uint32_t n, bool wait)
{
	struct kvb_magazine *m = &s->magazine;
	const uint32_t out = n < m->chunk ? n : m->chunk;
	const struct kvb_sqe sqe = entry(s, KVB_OP_FREE, m->area, out);
	int rc;

	/* The oldest first: what was put last is warm. */
	memcpy(s->kvb->operands + m->area, m->pages, out * sizeof(*m->pages));
	rc = start(s, &sqe, wait);
	if (rc)
		return rc;
	m->n -= out;
	memmove(m->pages, m->pages + out, m->n * sizeof(*m->pages));
	m->op = KVB_MAGAZINE_GIVE;
	m->operand = m->area;
	m->sent = out;
	return 0;
}

static void refilled(struct kvb_space *s, const struct kvb_cqe *cqe)
{
	struct kvb_magazine *m = &s->magazine;
	const uint32_t got = cqe->res > 0 ? (uint32_t)cqe->res : 0;

	if (got > m->sent) {
		kvb_end(s->kvb, -EPROTO, "the broker gave more pages than it was asked for");
		return;
	}
	memcpy(m->pages + m->n, s->kvb->results + m->area, got * sizeof(*m->pages));
	m->n += got;
	m->incoming = 0;
	m->flags = cqe->flags;
	m->op = KVB_MAGAZINE_IDLE;
	if (got < m->sent) {
		m->low = 0;
	} else {
		m->want = m->want < m->size / 2 ? m->want * 2 : m->size;
		m->low = m->want / 2;
	}
}

/* A page that was not ours to give back (the user put it twice) must not keep the rest here. */
static void gave(struct kvb_space *s, const struct kvb_cqe *cqe)
{
	struct kvb_magazine *m = &s->magazine;
	const uint32_t done = (cqe->res > 0 ? (uint32_t)cqe->res : 0) + 1;

	m->op = KVB_MAGAZINE_IDLE;
	if (done >= m->sent)
		return;
	m->operand += done * (uint32_t)sizeof(kvb_page_t);
	m->sent -= done;
	m->op = KVB_MAGAZINE_GIVE_REST;
	s->kvb->chores = true;
}

static int give_rest(struct kvb_space *s, bool wait)
{
	const struct kvb_sqe sqe = entry(s, KVB_OP_FREE, s->magazine.operand, s->magazine.sent);
	const int rc = start(s, &sqe, wait);

	if (!rc)
		s->magazine.op = KVB_MAGAZINE_GIVE;
	return rc;
}

void kvb_magazine_completed(struct kvb_space *s, const struct kvb_cqe *cqe)
{
	if (s->magazine.op == KVB_MAGAZINE_REFILL)
		refilled(s, cqe);
	else if (s->magazine.op == KVB_MAGAZINE_GIVE)
		gave(s, cqe);
}

bool kvb_magazine_chore(struct kvb_space *s)
{
	struct kvb_magazine *m = &s->magazine;

	if (m->op == KVB_MAGAZINE_GIVE_REST)
		(void)give_rest(s, false);
	if (!m->recall)
		return m->op == KVB_MAGAZINE_GIVE_REST;
	if (m->op == KVB_MAGAZINE_IDLE && m->n)
		(void)start_give(s, m->n, false);
	if (m->op != KVB_MAGAZINE_IDLE || m->n)
		return true;
	m->recall = false;
	m->low = 0;
	m->want = m->want > 1 ? m->want / 2 : 1;
	return false;
}

/* Until the entry in flight has been answered. */
static int settle(struct kvb_space *s)
{
	const uint64_t deadline_ns = kvb_deadline_ns(s->kvb->timeout_ns);
	int rc = kvb_ring_reap(s->kvb);

	while (!rc && s->magazine.op != KVB_MAGAZINE_IDLE) {
		if (s->magazine.op == KVB_MAGAZINE_GIVE_REST)
			rc = give_rest(s, true);
		if (!rc)
			rc = kvb_ring_wait(s->kvb, deadline_ns);
		if (rc == -ETIME)
			kvb_end(s->kvb, -ENOTCONN,
				"the broker did not answer: is it stopped? connect again");
		if (!rc)
			rc = kvb_ring_reap(s->kvb);
	}
	return rc;
}

int kvb_magazine_flush(struct kvb_space *s)
{
	int rc = settle(s);

	while (!rc && s->magazine.n) {
		rc = start_give(s, s->magazine.n, true);
		if (!rc)
			rc = settle(s);
	}
	return rc;
}

/* Empty: wait for pages, as long as the daemon says that there is sense in it. */
static void fill_now(struct kvb_space *s)
{
	struct kvb *kvb = s->kvb;
	struct kvb_magazine *m = &s->magazine;
	const uint64_t deadline_ns = kvb_deadline_ns(kvb->timeout_ns);
	uint64_t wait_ns = KVB_GRANT_WAIT_NS;
	uint32_t empty = 0;

	while (settle(s) == 0 && !m->n) {
		/* A recall that found nothing at hand is over; the next refill is a smaller one. */
		(void)kvb_magazine_chore(s);
		if (start_refill(s, true) || settle(s) || m->n)
			return;
		if (m->flags & KVB_CQE_GRANT_PENDING) {
			if (!kvb_ring_wait_grant(kvb, &wait_ns, deadline_ns))
				return;
		} else if (!(m->flags & KVB_CQE_AGAIN) || ++empty > EMPTY_MAX) {
			return;
		}
	}
}

static kvb_page_t get_slowly(struct kvb_space *s) __attribute__((noinline, cold));
static kvb_page_t get_slowly(struct kvb_space *s)
{
	struct kvb_magazine *m = &s->magazine;

	if (s->kvb->dead)
		return KVB_PAGE_NONE;
	if (!m->n)
		fill_now(s);
	else if (m->op == KVB_MAGAZINE_IDLE && !m->recall && m->low)
		(void)start_refill(s, false);
	else
		(void)kvb_ring_reap(s->kvb);
	return m->n ? m->pages[--m->n] : KVB_PAGE_NONE;
}

kvb_page_t kvb_page_get(struct kvb_space *s)
{
	struct kvb_magazine *m = &s->magazine;

	if (__builtin_expect(m->n > m->low, 1))
		return m->pages[--m->n];
	return get_slowly(s);
}

static void put_slowly(struct kvb_space *s) __attribute__((noinline, cold));
static void put_slowly(struct kvb_space *s)
{
	/* Half goes back, so that puts and gets around this point do not each send an entry. */
	if (!s->kvb->dead && settle(s) == 0 && s->magazine.n == s->magazine.size)
		(void)start_give(s, (s->magazine.size + 1) / 2, true);
}

void kvb_page_put(struct kvb_space *s, kvb_page_t page)
{
	struct kvb_magazine *m = &s->magazine;

	if (page == KVB_PAGE_NONE)
		return;
	if (__builtin_expect(m->n + m->incoming >= m->size, 0))
		put_slowly(s);
	if (m->n + m->incoming < m->size)
		m->pages[m->n++] = page;
}
