/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The module: its types and constants, how errors become exceptions, and what a fork does.
 *
 * The types are made once a process; the module does not go into sub-interpreters, whose locks
 * would not keep `busy` from racing.
 *
 * Exceptions are Python's own classes (kvbroker/errors.py), chosen by errno there.
 */

#include "core.h"

#include <errno.h>
#include <pthread.h>
#include <unistd.h>

PyMODINIT_FUNC PyInit__core(void);

static PyObject *make_error; /* kvbroker.errors.make_error(errno, text, done) */
static struct connection *open_connections;
static unsigned forks;

/* ---- fork ---------------------------------------------------------------------------------- */

/* In the child: nothing but what a signal handler may do. */
static void forked(void)
{
	forks++;
	for (struct connection *c = open_connections; c; c = c->next) {
		close(kvb_fd(c->kvb));
		if (c->wait_fd >= 0)
			close(c->wait_fd);
		if (c->timer_fd >= 0)
			close(c->timer_fd);
	}
	open_connections = NULL;
}

unsigned fork_count(void)
{
	return forks;
}

void forks_watch(struct connection *c)
{
	c->forks = forks;
	c->prev = NULL;
	c->next = open_connections;
	if (c->next)
		c->next->prev = c;
	open_connections = c;
}

void forks_forget(struct connection *c)
{
	if (c->prev)
		c->prev->next = c->next;
	else
		open_connections = c->next;
	if (c->next)
		c->next->prev = c->prev;
	c->next = c->prev = NULL;
}

/* ---- errors -------------------------------------------------------------------------------- */

PyObject *raise_error(int err, const char *text, int64_t done)
{
	PyObject *error = PyObject_CallFunction(make_error, "isL", -err, text, (long long)done);

	if (error)
		PyErr_SetObject((PyObject *)Py_TYPE(error), error);
	Py_XDECREF(error);
	return NULL;
}

/* ---- the module ---------------------------------------------------------------------------- */

PyDoc_STRVAR(pack_seals_doc,
	     "pack_seals(pages, hashes, depth=0)\n--\n\n"
	     "Operands of SEAL as bytes, 32 a page: for submit().\n\n"
	     "pages: buffer of n 64-bit page names. hashes: 16 bytes each, n of them.\n"
	     "depth: position of the first block in its chain, from 0.");

static PyObject *pack_seals(PyObject *module, PyObject *args, PyObject *kwargs)
{
	static const char *const names[] = { "pages", "hashes", "depth", NULL };
	PyObject *pages_arg, *hashes_arg, *ret = NULL;
	struct operands pages, hashes;
	unsigned int depth = 0;

	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO|I:pack_seals", (char **)names,
					 &pages_arg, &hashes_arg, &depth))
		return NULL;
	if (operands_of_pages(pages_arg, &pages) < 0)
		return NULL;
	if (operands_of_bytes(hashes_arg, sizeof(struct kvb_hash), "hashes", &hashes) < 0) {
		operands_release(&pages);
		return NULL;
	}
	if (pages.n != hashes.n)
		PyErr_Format(PyExc_ValueError, "%u pages and %u hashes", pages.n, hashes.n);
	else
		ret = PyBytes_FromStringAndSize(NULL,
						(Py_ssize_t)(pages.n * sizeof(struct kvb_seal)));
	if (ret)
		seals_fill((struct kvb_seal *)PyBytes_AS_STRING(ret), &pages, &hashes, depth);
	operands_release(&hashes);
	operands_release(&pages);
	return ret;
}

static PyMethodDef methods[] = {
	{ "pack_seals", (PyCFunction)(void (*)(void))pack_seals, METH_VARARGS | METH_KEYWORDS,
	  pack_seals_doc },
	{ NULL, NULL, 0, NULL },
};

static struct PyModuleDef module_def = {
	PyModuleDef_HEAD_INIT,
	.m_name = "kvbroker._core",
	.m_doc = "libkvbroker's calls; use the names of the package kvbroker.",
	.m_size = -1,
	.m_methods = methods,
};

static int add_type(PyObject *module, const char *name, PyType_Spec *spec, PyTypeObject **ret)
{
	*ret = (PyTypeObject *)PyType_FromSpec(spec);
	return *ret ? PyModule_AddObjectRef(module, name, (PyObject *)*ret) : -1;
}

static int add_constants(PyObject *m)
{
	static const struct {
		const char *name;
		long value;
	} constants[] = {
		{ "OP_NOP", KVB_OP_NOP },
		{ "OP_ALLOC", KVB_OP_ALLOC },
		{ "OP_FREE", KVB_OP_FREE },
		{ "OP_SEAL", KVB_OP_SEAL },
		{ "OP_LOOKUP", KVB_OP_LOOKUP },
		{ "OP_RELEASE", KVB_OP_RELEASE },
		{ "OP_LOAD", KVB_OP_LOAD },
		{ "OP_PREFETCH", KVB_OP_PREFETCH },
		{ "OP_STORE", KVB_OP_STORE },
		{ "OP_PIN", KVB_OP_PIN },
		{ "OP_UNPIN", KVB_OP_UNPIN },
		{ "OP_HINT", KVB_OP_HINT },
		{ "OP_SPACE_GROW", KVB_OP_SPACE_GROW },
		{ "OP_SPACE_SHRINK", KVB_OP_SPACE_SHRINK },
		{ "ALLOC_DROP", KVB_ALLOC_DROP },
		{ "LOOKUP_ALL", KVB_LOOKUP_ALL },
		{ "LOOKUP_TIERS", KVB_LOOKUP_TIERS },
		{ "CQE_STOPPED", KVB_CQE_STOPPED },
		{ "CQE_GRANT_PENDING", KVB_CQE_GRANT_PENDING },
		{ "CQE_NOTHING_BELOW", KVB_CQE_NOTHING_BELOW },
		{ "CQE_AGAIN", KVB_CQE_AGAIN },
		{ "TIER_NONE", KVB_TIER_NONE },
		{ "TIER_DEVICE", KVB_TIER_DEVICE },
		{ "TIER_HOST", KVB_TIER_HOST },
		{ "TIER_STORE", KVB_TIER_STORE },
		{ "PRIORITY_NORMAL", KVB_PRIO_NORMAL },
		{ "PRIORITY_LOW", KVB_PRIO_LOW },
		{ "PRIORITY_HIGH", KVB_PRIO_HIGH },
		{ "FENCES", KVB_FENCES },
	};

	for (size_t i = 0; i < sizeof(constants) / sizeof(constants[0]); i++)
		if (PyModule_AddIntConstant(m, constants[i].name, constants[i].value) < 0)
			return -1;
	return PyModule_AddStringConstant(m, "VERSION", KVB_VERSION);
}

PyMODINIT_FUNC PyInit__core(void)
{
	PyObject *errors = PyImport_ImportModule("kvbroker.errors");
	PyObject *m;

	if (!errors)
		return NULL;
	make_error = PyObject_GetAttrString(errors, "make_error");
	Py_DECREF(errors);
	if (!make_error)
		return NULL;
	m = PyModule_Create(&module_def);
	if (!m)
		return NULL;
	if (add_type(m, "Connection", &connection_spec, &connection_type) < 0 ||
	    add_type(m, "Space", &space_spec, &space_type) < 0 ||
	    add_type(m, "Namespace", &namespace_spec, &namespace_type) < 0 ||
	    add_type(m, "Block", &block_spec, &block_type) < 0 || add_constants(m) < 0) {
		Py_DECREF(m);
		return NULL;
	}
	if (pthread_atfork(NULL, NULL, forked)) {
		Py_DECREF(m);
		return PyErr_NoMemory();
	}
	return m;
}
