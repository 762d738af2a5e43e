/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connection and Namespace: life, messages, fences.
 *
 * Revocations are noted where the library tells of them, which is inside of calls and without the
 * interpreter's lock, and taken by the engine with revocations(): nothing calls back into Python.
 */

#include "core.h"

#include <errno.h>
#include <structmember.h>
#include <time.h>

PyTypeObject *connection_type, *namespace_type;

#define connection_of(object) ((struct connection *)(object))
#define namespace_of(object) ((struct namespace *)(object))

/* ---- one call ------------------------------------------------------------------------------ */

struct kvb *connection_enter(struct connection *c)
{
	if (c->kvb && c->forks != fork_count()) {
		raise_error(-EOWNERDEAD,
			    "this connection belongs to the process that forked: connect in the "
			    "child",
			    0);
		return NULL;
	}
	if (!c->kvb) {
		raise_error(-EBADF, "the connection is closed", 0);
		return NULL;
	}
	if (c->busy) {
		raise_error(-EBUSY,
			    "the connection is in use by another thread: open one a thread, or "
			    "lock around it",
			    0);
		return NULL;
	}
	c->busy = true;
	return c->kvb;
}

PyObject *connection_fail(struct connection *c, int64_t err, int64_t done)
{
	connection_leave(c);
	return raise_error((int)err, kvb_error_text(c->kvb), done);
}

bool seconds_to_ns(double s, uint64_t *ret)
{
	if (!(s >= 0)) {
		PyErr_SetString(PyExc_ValueError, "a time is 0 or more seconds");
		return false;
	}
	*ret = s >= 1.8e10 ? UINT64_MAX : (uint64_t)(s * 1e9);
	return true;
}

/* ---- life ---------------------------------------------------------------------------------- */

static void note_revoked(void *arg, struct kvb_space *space, uint32_t first, uint32_t count,
			 uint64_t deadline_ns)
{
	struct connection *c = arg;
	struct kvb_space_info info;
	struct timespec now;

	if (c->revoked_n == c->revoked_size) {
		const size_t size = c->revoked_size ? 2 * c->revoked_size : 16;
		void *more = PyMem_RawRealloc(c->revoked, size * sizeof(*c->revoked));

		if (!more) /* the slab is marked in the library; quiet_point() still finds it */
			return;
		c->revoked = more;
		c->revoked_size = size;
	}
	clock_gettime(CLOCK_MONOTONIC, &now);
	kvb_space_get_info(space, &info);
	c->revoked[c->revoked_n++] = (struct revocation){
		.space = info.handle,
		.first = first,
		.count = count,
		.deadline_ns =
			(uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec + deadline_ns,
	};
}

static PyObject *connection_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
	struct connection *c = (struct connection *)type->tp_alloc(type, 0);

	if (c)
		c->wait_fd = c->timer_fd = -1;
	return (PyObject *)c;
}

static int connect_with(struct connection *c, const struct kvb_params *params)
{
	struct kvb *kvb = NULL;
	char why[256] = "";
	int rc;

	Py_BEGIN_ALLOW_THREADS rc = kvb_connect(params, &kvb, why);
	Py_END_ALLOW_THREADS if (rc < 0)
	{
		raise_error(rc, why, 0);
		return -1;
	}
	c->kvb = kvb;
	kvb_on_revoke(kvb, note_revoked, c);
	forks_watch(c);
	return ring_begin(c);
}

static int connection_init(PyObject *self, PyObject *args, PyObject *kwargs)
{
	static const char *const names[] = { "socket",     "tenant",     "name",
					     "sq_entries", "cq_entries", "operand_bytes",
					     "magazine",   "spin_s",     "timeout_s",
					     NULL };
	struct connection *c = connection_of(self);
	struct kvb_params p = { 0 };
	double spin_s = 0, timeout_s = 0;

	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|zzz$IIIIdd:Connection", (char **)names,
					 &p.socket, &p.tenant, &p.name, &p.sq_entries,
					 &p.cq_entries, &p.operand_bytes, &p.magazine, &spin_s,
					 &timeout_s))
		return -1;
	if (!seconds_to_ns(spin_s, &p.spin_ns) || !seconds_to_ns(timeout_s, &p.timeout_ns))
		return -1;
	if (c->kvb) {
		PyErr_SetString(PyExc_RuntimeError, "the connection is made already");
		return -1;
	}
	return connect_with(c, &p);
}

/* Whatever the state; not in the child of a fork. */
static void end(struct connection *c)
{
	struct kvb *kvb = c->kvb;

	if (!kvb || c->forks != fork_count())
		return;
	forks_forget(c);
	ring_end(c);
	c->kvb = NULL;
	Py_BEGIN_ALLOW_THREADS kvb_disconnect(kvb);
	Py_END_ALLOW_THREADS
}

static void connection_dealloc(PyObject *self)
{
	struct connection *c = connection_of(self);
	PyTypeObject *type = Py_TYPE(self);

	end(c);
	PyMem_RawFree(c->revoked);
	type->tp_free(self);
	Py_DECREF(type);
}

PyDoc_STRVAR(close_doc,
	     "close($self)\n--\n\n"
	     "Ends the connection and unmaps its memory; what it held is freed. Again: nothing.\n\n"
	     "BufferError while there are views of its pages; EBUSY while a thread is in a call.");

static PyObject *connection_close(PyObject *self, PyObject *none)
{
	struct connection *c = connection_of(self);

	if (!c->kvb || c->forks != fork_count())
		Py_RETURN_NONE;
	if (c->exports) {
		PyErr_Format(PyExc_BufferError,
			     "%zd views of this connection's memory are still in use: release them",
			     c->exports);
		return NULL;
	}
	if (!connection_enter(c))
		return NULL;
	connection_leave(c);
	if (c->watchers)
		return raise_error(-EBUSY, "a thread is in fence_watch()", 0);
	end(c);
	Py_RETURN_NONE;
}

static PyObject *connection_exit(PyObject *self, PyObject *args)
{
	return connection_close(self, NULL);
}

static PyObject *connection_self(PyObject *self, PyObject *none)
{
	return Py_NewRef(self);
}

/* ---- messages ------------------------------------------------------------------------------ */

PyDoc_STRVAR(poll_doc,
	     "poll($self)\n--\n\n"
	     "Handles what has arrived: memory granted, pages called back, the end of the broker.\n"
	     "Never waits. An engine with long silences calls it now and then.");

static PyObject *connection_poll(PyObject *self, PyObject *none)
{
	struct connection *c = connection_of(self);
	struct kvb *kvb = connection_enter(c);
	int rc;

	if (!kvb)
		return NULL;
	Py_BEGIN_ALLOW_THREADS rc = kvb_poll(kvb);
	Py_END_ALLOW_THREADS if (rc < 0) return connection_fail(c, rc, 0);
	connection_leave(c);
	Py_RETURN_NONE;
}

PyDoc_STRVAR(quiet_point_doc,
	     "quiet_point($self)\n--\n\n"
	     "-> int. "
	     "Says that nothing reads the pages that were given back: revoked slabs in which this\n"
	     "connection holds nothing are unmapped and returned. How many.\n\n"
	     "A view of a page in such a slab must not be touched afterwards.");

static PyObject *connection_quiet_point(PyObject *self, PyObject *none)
{
	struct connection *c = connection_of(self);
	struct kvb *kvb = connection_enter(c);
	int rc;

	if (!kvb)
		return NULL;
	Py_BEGIN_ALLOW_THREADS rc = kvb_quiet_point(kvb);
	Py_END_ALLOW_THREADS if (rc < 0) return connection_fail(c, rc, 0);
	connection_leave(c);
	return PyLong_FromLong(rc);
}

PyDoc_STRVAR(
	revocations_doc,
	"revocations($self)\n--\n\n"
	"-> list[tuple[int, int, int, float]]. "
	"What was called back since the last time, each once: (handle of the space, first page\n"
	"id, how many, deadline on the clock of time.monotonic()). Give the pages back, then\n"
	"quiet_point().");

static PyObject *connection_revocations(PyObject *self, PyObject *none)
{
	struct connection *c = connection_of(self);
	PyObject *list;

	if (!connection_enter(c))
		return NULL;
	list = PyList_New((Py_ssize_t)c->revoked_n);
	for (size_t i = 0; list && i < c->revoked_n; i++) {
		const struct revocation *r = &c->revoked[i];
		PyObject *item = Py_BuildValue("IIId", r->space, r->first, r->count,
					       (double)r->deadline_ns / 1e9);

		if (!item)
			Py_CLEAR(list);
		else
			PyList_SET_ITEM(list, (Py_ssize_t)i, item);
	}
	if (list)
		c->revoked_n = 0;
	connection_leave(c);
	return list;
}

PyDoc_STRVAR(nop_doc, "nop($self)\n--\n\nA round trip to the broker.");

static PyObject *connection_nop(PyObject *self, PyObject *none)
{
	struct connection *c = connection_of(self);
	struct kvb *kvb = connection_enter(c);
	int rc;

	if (!kvb)
		return NULL;
	Py_BEGIN_ALLOW_THREADS rc = kvb_nop(kvb);
	Py_END_ALLOW_THREADS if (rc < 0) return connection_fail(c, rc, 0);
	connection_leave(c);
	Py_RETURN_NONE;
}

/* ---- namespaces ---------------------------------------------------------------------------- */

PyDoc_STRVAR(
	namespace_doc,
	"namespace($self, digest, admin=False)\n--\n\n"
	"-> Namespace. "
	"Opens the namespace of an identity: 32 bytes, a digest of all that the cached bytes\n"
	"depend on (weights, config, tokenizer, KV dtype, layout, ...; never a model's name).\n"
	"admin: with the right to bump its epoch.");

static PyObject *connection_namespace(PyObject *self, PyObject *args, PyObject *kwargs)
{
	static const char *const names[] = { "digest", "admin", NULL };
	struct connection *c = connection_of(self);
	Py_buffer digest;
	int admin = 0, rc;
	struct namespace *n;
	struct kvb *kvb;

	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "y*|p:namespace", (char **)names, &digest,
					 &admin))
		return NULL;
	n = digest.len == sizeof(n->digest)
		    ? (struct namespace *)namespace_type->tp_alloc(namespace_type, 0)
		    : NULL;
	if (n)
		memcpy(n->digest, digest.buf, sizeof(n->digest));
	else if (!PyErr_Occurred())
		PyErr_Format(PyExc_ValueError, "a digest has 32 bytes, not %zd", digest.len);
	PyBuffer_Release(&digest);
	if (!n)
		return NULL;
	kvb = connection_enter(c);
	if (!kvb) {
		Py_DECREF(n);
		return NULL;
	}
	n->conn = connection_of(Py_NewRef(self));
	Py_BEGIN_ALLOW_THREADS rc = kvb_ns_open(kvb, n->digest, admin ? KVB_NS_ADMIN : 0, &n->info);
	Py_END_ALLOW_THREADS if (rc < 0)
	{
		Py_DECREF(n);
		return connection_fail(c, rc, 0);
	}
	n->latest = n->info.epoch;
	connection_leave(c);
	return (PyObject *)n;
}

static void namespace_dealloc(PyObject *self)
{
	PyTypeObject *type = Py_TYPE(self);

	Py_XDECREF(namespace_of(self)->conn);
	type->tp_free(self);
	Py_DECREF(type);
}

PyDoc_STRVAR(bump_doc,
	     "bump($self)\n--\n\n"
	     "-> int. "
	     "The next epoch: what was sealed before is a miss from now on, in every tier.\n"
	     "EPERM without admin=True. EIO: so it is, but a store could not record it, and "
	     "a restart may bring back what was sealed before: bump again.");

static PyObject *namespace_bump(PyObject *self, PyObject *none)
{
	struct namespace *n = namespace_of(self);
	struct kvb *kvb = connection_enter(n->conn);
	uint64_t epoch = 0;
	int rc;

	if (!kvb)
		return NULL;
	Py_BEGIN_ALLOW_THREADS rc = kvb_epoch_bump(kvb, n->info.ns, &epoch);
	Py_END_ALLOW_THREADS if (epoch) n->info.epoch = n->latest = epoch;
	if (rc < 0)
		return connection_fail(n->conn, rc, 0);
	connection_leave(n->conn);
	return PyLong_FromUnsignedLongLong(epoch);
}

static PyObject *namespace_digest(PyObject *self, void *unused)
{
	return PyBytes_FromStringAndSize((const char *)namespace_of(self)->digest, 32);
}

static PyGetSetDef namespace_getset[] = {
	{ "digest", namespace_digest, NULL, "The identity, 32 bytes.", NULL },
	{ NULL, NULL, NULL, NULL, NULL },
};

static PyMemberDef namespace_members[] = {
	{ "handle", T_UINT, offsetof(struct namespace, info.ns), READONLY,
	  "The broker's handle, as in ring entries." },
	{ "epoch", T_ULONGLONG, offsetof(struct namespace, info.epoch), READONLY,
	  "The epoch of opening it, or of this object's last bump(): what seal() says unless told "
	  "otherwise." },
	{ "latest", T_ULONGLONG, offsetof(struct namespace, latest), READONLY,
	  "The epoch that a lookup told last. When it is ahead of `epoch`, others have bumped it: "
	  "open the namespace again before sealing what is computed from then on." },
	{ NULL, 0, 0, 0, NULL },
};

static PyMethodDef namespace_methods[] = {
	{ "bump", namespace_bump, METH_NOARGS, bump_doc },
	{ NULL, NULL, 0, NULL },
};

static PyType_Slot namespace_slots[] = {
	{ Py_tp_doc,
	  (void *)"An identity under which pages are published; from Connection.namespace()." },
	{ Py_tp_dealloc, namespace_dealloc },
	{ Py_tp_methods, namespace_methods },
	{ Py_tp_members, namespace_members },
	{ Py_tp_getset, namespace_getset },
	{ 0, NULL },
};

PyType_Spec namespace_spec = {
	.name = "kvbroker.Namespace",
	.basicsize = sizeof(struct namespace),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
	.slots = namespace_slots,
};

/* ---- fences -------------------------------------------------------------------------------- */

PyDoc_STRVAR(fence_get_doc, "fence_get($self)\n--\n\n"
			    "-> int. "
			    "A fence word that nobody uses, set to 0: its number. ENOSPC.");

static PyObject *connection_fence_get(PyObject *self, PyObject *none)
{
	struct connection *c = connection_of(self);
	struct kvb *kvb = connection_enter(c);

	if (!kvb)
		return NULL;
	const int fence = kvb_fence_get(kvb);
	if (fence < 0)
		return connection_fail(c, fence, 0);
	connection_leave(c);
	return PyLong_FromLong(fence);
}

/* The word of an argument; the connection is entered when there is one. */
static struct kvb_fence *fence_word(struct connection *c, PyObject *arg, uint32_t *ret)
{
	const unsigned long fence = PyLong_AsUnsignedLong(arg);
	struct kvb_fence *word;
	struct kvb *kvb;

	if (PyErr_Occurred())
		return NULL;
	kvb = connection_enter(c);
	if (!kvb)
		return NULL;
	word = fence < KVB_FENCES ? kvb_fence_word(kvb, (uint32_t)fence) : NULL;
	if (!word) {
		connection_leave(c);
		PyErr_Format(PyExc_ValueError, "fence words are 0..%u", KVB_FENCES - 1);
		return NULL;
	}
	*ret = (uint32_t)fence;
	return word;
}

PyDoc_STRVAR(fence_put_doc,
	     "fence_put($self, fence, /)\n--\n\n"
	     "Gives a word back, when no entry and no stream waits for it any more.");

static PyObject *connection_fence_put(PyObject *self, PyObject *arg)
{
	struct connection *c = connection_of(self);
	uint32_t fence;

	if (!fence_word(c, arg, &fence))
		return NULL;
	kvb_fence_put(c->kvb, fence);
	connection_leave(c);
	Py_RETURN_NONE;
}

PyDoc_STRVAR(fence_value_doc,
	     "fence_value($self, fence, /)\n--\n\n-> int. What the word holds now.");

static PyObject *connection_fence_value(PyObject *self, PyObject *arg)
{
	struct connection *c = connection_of(self);
	uint32_t fence;
	const struct kvb_fence *word = fence_word(c, arg, &fence);

	if (!word)
		return NULL;
	connection_leave(c);
	return PyLong_FromUnsignedLongLong(__atomic_load_n(&word->value, __ATOMIC_ACQUIRE));
}

PyDoc_STRVAR(fence_set_doc, "fence_set($self, fence, value, /)\n--\n\n"
			    "Sets the word from the CPU; entries that wait for it go on.");

static PyObject *connection_fence_set(PyObject *self, PyObject *args)
{
	struct connection *c = connection_of(self);
	unsigned long long value;
	struct kvb_fence *word;
	PyObject *which;
	uint32_t fence;

	if (!PyArg_ParseTuple(args, "OK:fence_set", &which, &value))
		return NULL;
	word = fence_word(c, which, &fence);
	if (!word)
		return NULL;
	__atomic_store_n(&word->value, value, __ATOMIC_RELEASE);
	connection_leave(c);
	Py_RETURN_NONE;
}

PyDoc_STRVAR(fence_failed_doc,
	     "fence_failed($self, fence, /)\n--\n\n"
	     "-> bool. "
	     "Whether the library set the word because the broker is gone: the pages of that LOAD\n"
	     "hold nothing.");

static PyObject *connection_fence_failed(PyObject *self, PyObject *arg)
{
	struct connection *c = connection_of(self);
	uint32_t fence;

	if (!fence_word(c, arg, &fence))
		return NULL;
	connection_leave(c);
	return PyBool_FromLong(kvb_fence_failed(c->kvb, fence));
}

PyDoc_STRVAR(
	fence_watch_doc,
	"fence_watch($self, timeout_s, /)\n--\n\n"
	"-> bool. "
	"Waits for the end of the connection, for one thread beside the connection's own: True\n"
	"when it stands after timeout_s, False when it is over and streams were released.");

static PyObject *connection_fence_watch(PyObject *self, PyObject *arg)
{
	struct connection *c = connection_of(self);
	const double timeout_s = PyFloat_AsDouble(arg);
	uint64_t timeout_ns;
	int rc;

	if (PyErr_Occurred() || !seconds_to_ns(timeout_s, &timeout_ns))
		return NULL;
	if (!c->kvb || c->forks != fork_count() || c->watchers)
		return raise_error(c->watchers ? -EBUSY : -EBADF,
				   c->watchers ? "another thread watches already"
					       : "the connection is closed, or of another process",
				   0);
	c->watchers++;
	Py_BEGIN_ALLOW_THREADS rc = kvb_fence_watch(c->kvb, timeout_ns);
	Py_END_ALLOW_THREADS c->watchers--;
	return PyBool_FromLong(rc == 0);
}

/* ---- the type ------------------------------------------------------------------------------ */

static PyObject *connection_info(PyObject *self, void *which)
{
	struct connection *c = connection_of(self);
	struct kvb_info info;

	if (!c->kvb)
		return raise_error(-EBADF, "the connection is closed", 0);
	kvb_get_info(c->kvb, &info);
	switch ((uintptr_t)which) {
	case 0:
		return PyLong_FromUnsignedLong(info.client);
	case 1:
		return PyLong_FromUnsignedLongLong(info.boot_id);
	case 2:
		return PyLong_FromUnsignedLongLong(info.features);
	case 3:
		return PyLong_FromUnsignedLong(info.leases_max);
	case 4:
		return PyLong_FromUnsignedLong(info.operand_bytes / 2);
	default:
		return PyLong_FromUnsignedLong(info.cq_entries);
	}
}

static PyObject *connection_closed(PyObject *self, void *unused)
{
	return PyBool_FromLong(!connection_of(self)->kvb);
}

static PyGetSetDef connection_getset[] = {
	{ "closed", connection_closed, NULL, "Whether close() was called.", NULL },
	{ "client", connection_info, NULL, "The id that operators see.", (void *)0 },
	{ "boot_id", connection_info, NULL,
	  "Differs after a restart of the broker that lost its pages.", (void *)1 },
	{ "features", connection_info, NULL, "Feature bits that are on (KVB_FEAT_*).", (void *)2 },
	{ "leases_max", connection_info, NULL, "Leases this connection may hold.", (void *)3 },
	{ "operand_bytes", connection_info, NULL, "Room for the operands of submit(), in bytes.",
	  (void *)4 },
	{ "entries", connection_info, NULL, "Entries of submit() that may be in flight.",
	  (void *)5 },
	{ NULL, NULL, NULL, NULL, NULL },
};

PyDoc_STRVAR(space_doc,
	     "space($self, stride, *, device='host:0', regions=1, tag=0, group=0, ranks=0, "
	     "rank=0)\n--\n\n"
	     "Opens or joins a space -> Space.\n\n"
	     "stride: bytes of one page in one region, a multiple of 64. device: 'host:NODE' or\n"
	     "'cuda:N', as the broker numbers them. regions: 1..256; 1 = packed, or one a layer.\n"
	     "tag: keeps equal geometries apart. Connections of one tenant that say the same are\n"
	     "members of one space and see the same page ids. group, ranks, rank: one of `ranks`\n"
	     "spaces whose keys are found only when all ranks have sealed them.");

static PyObject *connection_space(PyObject *self, PyObject *args, PyObject *kwargs)
{
	return space_open(connection_of(self), args, kwargs);
}

#define KEYWORDS(function) (PyCFunction)(void (*)(void))(function)

static PyMethodDef connection_methods[] = {
	{ "close", connection_close, METH_NOARGS, close_doc },
	{ "space", KEYWORDS(connection_space), METH_VARARGS | METH_KEYWORDS, space_doc },
	{ "namespace", KEYWORDS(connection_namespace), METH_VARARGS | METH_KEYWORDS,
	  namespace_doc },
	{ "poll", connection_poll, METH_NOARGS, poll_doc },
	{ "quiet_point", connection_quiet_point, METH_NOARGS, quiet_point_doc },
	{ "revocations", connection_revocations, METH_NOARGS, revocations_doc },
	{ "nop", connection_nop, METH_NOARGS, nop_doc },
	{ "completions", connection_completions, METH_NOARGS,
	  "completions($self)\n--\n\n"
	  "-> list[tuple[int, int, int, int, int, memoryview | None]]. "
	  "Handles what has arrived, as poll(), and takes the completions of submit(): (token,\n"
	  "res, status, flags, aux, results) each. res: how many, or a negative errno. results:\n"
	  "the page names, of operations that have them. Never waits." },
	{ "fileno", connection_fileno, METH_NOARGS,
	  "fileno($self)\n--\n\n"
	  "-> int. "
	  "A descriptor that is readable when completions() is to be called: for selectors and\n"
	  "event loops. It is the connection's; do not read it." },
	{ "fence_get", connection_fence_get, METH_NOARGS, fence_get_doc },
	{ "fence_put", connection_fence_put, METH_O, fence_put_doc },
	{ "fence_value", connection_fence_value, METH_O, fence_value_doc },
	{ "fence_set", connection_fence_set, METH_VARARGS, fence_set_doc },
	{ "fence_failed", connection_fence_failed, METH_O, fence_failed_doc },
	{ "fence_watch", connection_fence_watch, METH_O, fence_watch_doc },
	{ "__enter__", connection_self, METH_NOARGS, NULL },
	{ "__exit__", connection_exit, METH_VARARGS, NULL },
	{ NULL, NULL, 0, NULL },
};

PyDoc_STRVAR(
	connection_doc,
	"Connection(socket=None, tenant=None, name=None, *, sq_entries=0, cq_entries=0,\n"
	"           operand_bytes=0, magazine=0, spin_s=0, timeout_s=0)\n--\n\n"
	"A connection to the broker, for one thread at a time; a context manager.\n\n"
	"socket: path; None = $KVBROKER_SOCKET, or /run/kvbroker/broker.sock. tenant: None =\n"
	"'default'. name: shown to operators. The others: 0 = the library's default (256\n"
	"entries, twice as many completions, 256 KiB of operands, 256 page ids at hand, 20 us\n"
	"of spinning before sleeping, 10 s until a broker that does not answer is given up).");

static PyType_Slot connection_slots[] = {
	{ Py_tp_doc, (void *)connection_doc },
	{ Py_tp_new, connection_new },
	{ Py_tp_init, connection_init },
	{ Py_tp_dealloc, connection_dealloc },
	{ Py_tp_methods, connection_methods },
	{ Py_tp_getset, connection_getset },
	{ 0, NULL },
};

PyType_Spec connection_spec = {
	.name = "kvbroker.Connection",
	.basicsize = sizeof(struct connection),
	.flags = Py_TPFLAGS_DEFAULT,
	.slots = connection_slots,
};
