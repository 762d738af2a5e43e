/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory as a buffer: what memoryviews that leave this module look at.
 *
 * A block of a space counts itself there while anybody has its buffer, and holds the space, which
 * holds the connection: the mapping outlives the last view. A block of its own memory is a plain
 * array of page names.
 */

#include "core.h"

PyTypeObject *block_type;

static int block_get_buffer(PyObject *self, Py_buffer *view, int flags)
{
	struct block *b = (struct block *)self;

	*view = (Py_buffer){
		.buf = b->at,
		.obj = Py_NewRef(self),
		.len = b->n * b->item_bytes,
		.itemsize = b->item_bytes,
		.ndim = 1,
		.format = flags & PyBUF_FORMAT ? (char *)b->format : NULL,
		.shape = flags & PyBUF_ND ? &b->n : NULL,
		.strides = (flags & PyBUF_STRIDES) == PyBUF_STRIDES ? &b->item_bytes : NULL,
	};
	if (b->space) {
		b->space->exports++;
		b->space->conn->exports++;
	}
	return 0;
}

static void block_release_buffer(PyObject *self, Py_buffer *view)
{
	struct block *b = (struct block *)self;

	if (b->space) {
		b->space->exports--;
		b->space->conn->exports--;
	}
}

static void block_dealloc(PyObject *self)
{
	struct block *b = (struct block *)self;
	PyTypeObject *type = Py_TYPE(self);

	if (b->space)
		Py_DECREF(b->space);
	else
		PyMem_Free(b->at);
	type->tp_free(self);
	Py_DECREF(type);
}

PyObject *block_of_space(struct space *s, void *at, Py_ssize_t bytes)
{
	struct block *b = PyObject_New(struct block, block_type);
	PyObject *view;

	if (!b)
		return NULL;
	b->space = (struct space *)Py_NewRef((PyObject *)s);
	b->at = at;
	b->n = bytes;
	b->item_bytes = 1;
	b->format = "B";
	view = PyMemoryView_FromObject((PyObject *)b);
	Py_DECREF(b);
	return view;
}

struct block *block_new_pages(Py_ssize_t n)
{
	struct block *b = PyObject_New(struct block, block_type);

	if (!b)
		return NULL;
	b->space = NULL;
	b->at = PyMem_Calloc(n ? (size_t)n : 1, sizeof(kvb_page_t));
	b->n = n;
	b->item_bytes = sizeof(kvb_page_t);
	b->format = "Q";
	if (!b->at) {
		Py_DECREF(b);
		PyErr_NoMemory();
		return NULL;
	}
	return b;
}

PyObject *block_finish(struct block *b, Py_ssize_t used)
{
	PyObject *view;

	b->n = used;
	view = PyMemoryView_FromObject((PyObject *)b);
	Py_DECREF(b);
	return view;
}

static PyType_Slot block_slots[] = {
	{ Py_tp_dealloc, block_dealloc },
	{ Py_bf_getbuffer, block_get_buffer },
	{ Py_bf_releasebuffer, block_release_buffer },
	{ 0, NULL },
};

PyType_Spec block_spec = {
	.name = "kvbroker._core.Block",
	.basicsize = sizeof(struct block),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
	.slots = block_slots,
};
