/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Entries in flight: submit(), completions(), and a descriptor to wait for.
 *
 * Operands lie in the ring user's half of the operand area, cut into blocks; an entry has a run of
 * them until its completion. The token that submit() returns is the entry's user_data: the place in
 * `pending` below, a serial number above, so that none is ever used twice.
 *
 * THE DESCRIPTOR. The broker announces completions by futex, which no selector can wait for. So
 * fileno() is an epoll of two: the socket (grants, the end of the broker), and a timer that runs
 * while entries are in flight and fires after TICK_MIN_NS, each time later, up to TICK_MAX_NS,
 * until something comes. Without entries in flight nothing fires.
 */

#include "core.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define BLOCK_BYTES 512u
#define TICK_MIN_NS (20ull * 1000)
#define TICK_MAX_NS (1000ull * 1000)
#define PLACE_BITS 16

int ring_begin(struct connection *c)
{
	struct kvb_info info;
	size_t bytes;

	kvb_get_info(c->kvb, &info);
	(void)kvb_operands(c->kvb, &bytes);
	c->blocks_n = (uint32_t)(bytes / BLOCK_BYTES);
	c->pending_size = info.cq_entries;
	c->blocks = PyMem_Calloc(c->blocks_n ? c->blocks_n : 1, 1);
	c->pending = PyMem_Calloc(c->pending_size, sizeof(*c->pending));
	if (c->blocks && c->pending)
		return 0;
	PyErr_NoMemory();
	return -1;
}

void ring_end(struct connection *c)
{
	PyMem_Free(c->blocks);
	PyMem_Free(c->pending);
	c->blocks = NULL;
	c->pending = NULL;
	c->pending_n = 0;
	if (c->wait_fd >= 0)
		close(c->wait_fd);
	if (c->timer_fd >= 0)
		close(c->timer_fd);
	c->wait_fd = c->timer_fd = -1;
}

/* ---- the descriptor ------------------------------------------------------------------------ */

static void set_timer(struct connection *c, uint64_t ns)
{
	const struct itimerspec in = {
		.it_value = { (time_t)(ns / 1000000000u), (long)(ns % 1000000000u) },
	};

	c->tick_ns = ns;
	if (c->timer_fd >= 0)
		(void)timerfd_settime(c->timer_fd, 0, &in, NULL);
}

static int make_descriptor(struct connection *c)
{
	struct epoll_event event = { .events = EPOLLIN };
	int fds[2];

	c->wait_fd = epoll_create1(EPOLL_CLOEXEC);
	c->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	fds[0] = kvb_fd(c->kvb);
	fds[1] = c->timer_fd;
	for (int i = 0; i < 2; i++)
		if (c->wait_fd < 0 || fds[i] < 0 ||
		    epoll_ctl(c->wait_fd, EPOLL_CTL_ADD, fds[i], &event) < 0) {
			PyErr_SetFromErrno(PyExc_OSError);
			return -1;
		}
	if (c->pending_n)
		set_timer(c, TICK_MIN_NS);
	return 0;
}

PyObject *connection_fileno(PyObject *self, PyObject *none)
{
	struct connection *c = (struct connection *)self;

	if (!connection_enter(c))
		return NULL;
	connection_leave(c);
	if (c->wait_fd < 0 && make_descriptor(c) < 0)
		return NULL;
	return PyLong_FromLong(c->wait_fd);
}

/* ---- submit() ------------------------------------------------------------------------------ */

/* Bytes an operand of the operation takes, or a result if that is more; 0: it has none. */
static uint32_t operand_bytes(uint32_t op)
{
	switch (op) {
	case KVB_OP_ALLOC:
	case KVB_OP_FREE:
	case KVB_OP_RELEASE:
	case KVB_OP_STORE:
	case KVB_OP_PIN:
	case KVB_OP_UNPIN:
	case KVB_OP_HINT:
		return sizeof(kvb_page_t);
	case KVB_OP_LOOKUP:
	case KVB_OP_LOAD:
	case KVB_OP_PREFETCH:
		return sizeof(struct kvb_hash);
	case KVB_OP_SEAL:
		return sizeof(struct kvb_seal);
	default:
		return 0;
	}
}

static bool has_results(uint32_t op)
{
	return op == KVB_OP_ALLOC || op == KVB_OP_SEAL || op == KVB_OP_LOOKUP || op == KVB_OP_LOAD;
}

static bool find_blocks(const struct connection *c, uint32_t n, uint32_t *ret)
{
	uint32_t run = 0;

	for (uint32_t i = 0; i < c->blocks_n && run < n; i++) {
		run = c->blocks[i] ? 0 : run + 1;
		*ret = i + 1 - run;
	}
	return run == n;
}

static PyObject *submit_full(struct connection *c)
{
	connection_leave(c);
	return raise_error(-EAGAIN, "no room for another entry: take completions first", 0);
}

/* The connection is entered, and left. */
static PyObject *submit(struct space *s, const struct kvb_sqe *in, const void *operands,
			uint32_t count)
{
	const uint32_t bytes = count * operand_bytes(in->opcode);
	const uint32_t blocks = (bytes + BLOCK_BYTES - 1) / BLOCK_BYTES;
	struct connection *c = s->conn;
	uint32_t place = 0, first = 0;
	struct kvb_sqe *sqe;
	uint64_t token;
	size_t all;
	char *area = kvb_operands(c->kvb, &all);
	int rc;

	if (blocks > c->blocks_n) {
		connection_leave(c);
		PyErr_Format(PyExc_ValueError, "%u bytes of operands; there is room for %zu", bytes,
			     all);
		return NULL;
	}
	while (place < c->pending_size && c->pending[place].token)
		place++;
	if (place == c->pending_size || (blocks && !find_blocks(c, blocks, &first)))
		return submit_full(c);
	sqe = kvb_get_sqe(c->kvb);
	if (!sqe) {
		rc = kvb_poll(c->kvb); /* over, or full? */
		return rc < 0 ? connection_fail(c, rc, 0) : submit_full(c);
	}
	token = ++c->serial << PLACE_BITS | place;
	*sqe = *in;
	sqe->space = (uint16_t)s->info.handle;
	sqe->count = count;
	sqe->user_data = token;
	if (blocks)
		sqe->operand = kvb_operand_offset(c->kvb, area + (size_t)first * BLOCK_BYTES);
	if (operands)
		memcpy(area + (size_t)first * BLOCK_BYTES, operands, bytes);
	memset(c->blocks + first, 1, blocks);
	c->pending[place] = (struct pending){
		.token = token,
		.first = first,
		.blocks = blocks,
		.count = count,
		.op = in->opcode,
		.flags = in->flags,
	};
	c->pending_n++;
	rc = kvb_submit(c->kvb);
	if (rc < 0)
		return connection_fail(c, rc, 0);
	set_timer(c, TICK_MIN_NS);
	connection_leave(c);
	return PyLong_FromUnsignedLongLong(token);
}

const char space_submit_doc[] =
	"submit($self, op, operands=None, *, count=0, ns=None, salt=0, arg=0, flags=0, fence=-1, "
	"value=0)\n"
	"--\n\n"
	"Sends one entry of the ring and does not wait: a token -> int, by which completions()\n"
	"names it. op: OP_*. operands: a buffer of page names, of hashes, or of pack_seals(), as "
	"the\n"
	"operation has them; count: of OP_ALLOC (pages), OP_SPACE_GROW and OP_SPACE_SHRINK "
	"(slabs).\n"
	"arg: nanoseconds (OP_LOAD, OP_SPACE_*), epoch (OP_SEAL). fence, value: the word that "
	"FREE\n"
	"and SEAL wait for and LOAD sets. EAGAIN: no room; take completions first.";

PyObject *space_submit(PyObject *self, PyObject *args, PyObject *kwargs)
{
	static const char *const names[] = { "op",  "operands", "count", "ns",    "salt",
					     "arg", "flags",    "fence", "value", NULL };
	struct space *s = (struct space *)self;
	PyObject *operands = Py_None, *ns = Py_None, *ret;
	unsigned long long salt = 0, arg = 0, value = 0;
	unsigned int op, count = 0, flags = 0;
	struct operands o = { 0 };
	struct kvb_sqe sqe = { 0 };
	int fence = -1;

	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "I|OI$OKKIiK:submit", (char **)names, &op,
					 &operands, &count, &ns, &salt, &arg, &flags, &fence,
					 &value))
		return NULL;
	if (op >= KVB_OP_N || flags > UINT8_MAX || fence >= (int)KVB_FENCES) {
		PyErr_SetString(PyExc_ValueError, "no such operation, flag or fence");
		return NULL;
	}
	if (ns != Py_None && !PyObject_TypeCheck(ns, namespace_type)) {
		PyErr_SetString(PyExc_TypeError, "ns is a Namespace");
		return NULL;
	}
	if (operands != Py_None) {
		if (!operand_bytes(op) || op == KVB_OP_ALLOC) {
			PyErr_SetString(PyExc_ValueError, "the operation has no operands");
			return NULL;
		}
		if (operands_of_bytes(operands, operand_bytes(op), "operands", &o) < 0)
			return NULL;
		count = o.n;
	} else if (op != KVB_OP_ALLOC && operand_bytes(op)) {
		PyErr_SetString(PyExc_ValueError, "the operation needs operands");
		return NULL;
	}
	sqe.opcode = (uint8_t)op;
	sqe.flags = (uint8_t)flags;
	sqe.ns = ns == Py_None ? 0 : (uint16_t)((struct namespace *)ns)->info.ns;
	sqe.salt = salt;
	sqe.arg = arg;
	if (fence >= 0)
		kvb_prep_fence(&sqe, (uint32_t)fence, value);
	if (count > KVB_COUNT_MAX) {
		PyErr_Format(PyExc_ValueError, "an entry carries at most %u operands",
			     KVB_COUNT_MAX);
		ret = NULL;
	} else {
		ret = space_enter(s) ? submit(s, &sqe, o.at, count) : NULL;
	}
	if (operands != Py_None)
		operands_release(&o);
	return ret;
}

/* ---- completions() ------------------------------------------------------------------------- */

static PyObject *results_of(struct connection *c, const struct pending *p,
			    const struct kvb_cqe *cqe)
{
	const bool by_done = p->op == KVB_OP_LOOKUP && p->flags;
	const uint32_t n = by_done ? cqe->done : (uint32_t)cqe->res;
	char *area = kvb_operands(c->kvb, &(size_t){ 0 });
	struct block *b;

	if (cqe->res < 0 || !has_results(p->op))
		return Py_NewRef(Py_None);
	if (n > p->count)
		return raise_error(-EPROTO, "the broker did more operands than it was sent", 0);
	b = block_new_pages(n);
	if (!b)
		return NULL;
	memcpy(b->at,
	       kvb_results(c->kvb,
			   kvb_operand_offset(c->kvb, area + (size_t)p->first * BLOCK_BYTES)),
	       n * sizeof(kvb_page_t));
	return block_finish(b, n);
}

static PyObject *take(struct connection *c, const struct kvb_cqe *cqe)
{
	const uint64_t place = cqe->user_data & ((1u << PLACE_BITS) - 1);
	struct pending *p = place < c->pending_size ? &c->pending[place] : NULL;
	PyObject *results, *item;

	if (!p || p->token != cqe->user_data)
		return raise_error(-EPROTO, "the broker completed an entry that was not sent", 0);
	results = results_of(c, p, cqe);
	memset(c->blocks + p->first, 0, p->blocks);
	p->token = 0;
	c->pending_n--;
	if (!results)
		return NULL;
	item = Py_BuildValue("KiIIKN", (unsigned long long)cqe->user_data, cqe->res, cqe->status,
			     cqe->flags, (unsigned long long)cqe->aux, results);
	return item;
}

PyObject *connection_completions(PyObject *self, PyObject *none)
{
	struct connection *c = (struct connection *)self;
	struct kvb *kvb = connection_enter(c);
	const struct kvb_cqe *cqe;
	uint64_t ticks;
	PyObject *list;
	int rc;

	if (!kvb)
		return NULL;
	if (c->timer_fd >= 0 && read(c->timer_fd, &ticks, sizeof(ticks)) < 0 && errno != EAGAIN) {
		connection_leave(c);
		return PyErr_SetFromErrno(PyExc_OSError);
	}
	Py_BEGIN_ALLOW_THREADS rc = kvb_poll(kvb);
	Py_END_ALLOW_THREADS list = PyList_New(0);
	while (list && (cqe = kvb_peek_cqe(kvb))) {
		PyObject *item = take(c, cqe);

		kvb_cqe_seen(kvb);
		if (!item || PyList_Append(list, item) < 0)
			Py_CLEAR(list);
		Py_XDECREF(item);
	}
	/* What has come is given out before the end is told. */
	if (list && rc < 0 && !PyList_GET_SIZE(list)) {
		Py_DECREF(list);
		return connection_fail(c, rc, 0);
	}
	if (!c->pending_n)
		set_timer(c, 0);
	else if (list && PyList_GET_SIZE(list))
		set_timer(c, TICK_MIN_NS);
	else
		set_timer(c, c->tick_ns < TICK_MAX_NS / 2 ? c->tick_ns * 2 : TICK_MAX_NS);
	connection_leave(c);
	return list;
}
