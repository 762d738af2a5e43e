/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Buffers that callers pass: page names and keys, read where they are.
 *
 * A list of integers is refused rather than converted: a conversion would cost more than the call,
 * and who has a list finds array('Q', list) in the message. A view that is not in one piece
 * (pages[::-1], to release the tail of a chain first) is copied.
 */

#include "core.h"

#include <string.h>

static int take_piece(struct operands *o)
{
	if (PyBuffer_IsContiguous(&o->view, 'C')) {
		o->at = o->view.buf;
		return 0;
	}
	o->copy = PyMem_Malloc((size_t)o->view.len);
	if (!o->copy) {
		PyErr_NoMemory();
		return -1;
	}
	if (PyBuffer_ToContiguous(o->copy, &o->view, o->view.len, 'C') < 0)
		return -1;
	o->at = o->copy;
	return 0;
}

static int take(PyObject *object, Py_ssize_t item_bytes, struct operands *o)
{
	if (o->view.len % item_bytes) {
		PyErr_Format(PyExc_ValueError, "%zd bytes are no whole number of %zd-byte items",
			     o->view.len, item_bytes);
		return -1;
	}
	if (o->view.len / item_bytes > INT32_MAX) {
		PyErr_SetString(PyExc_OverflowError, "more than 2^31 - 1 items in one batch");
		return -1;
	}
	o->n = (uint32_t)(o->view.len / item_bytes);
	return take_piece(o);
}

static bool is_integer_format(const char *format)
{
	if (!format)
		return false;
	if (*format == '@' || *format == '=' || *format == '<')
		format++;
	return *format && strchr("QqLlNn", *format) && !format[1];
}

int operands_of_pages(PyObject *object, struct operands *o)
{
	*o = (struct operands){ 0 };
	if (!PyObject_CheckBuffer(object)) {
		PyErr_Format(PyExc_TypeError,
			     "pages are a buffer of 64-bit integers (a memoryview that a call "
			     "returned, array('Q', ...), numpy.uint64), not %.80s",
			     Py_TYPE(object)->tp_name);
		return -1;
	}
	if (PyObject_GetBuffer(object, &o->view, PyBUF_FULL_RO) < 0)
		return -1;
	if (o->view.itemsize != 8 || !is_integer_format(o->view.format)) {
		PyErr_Format(PyExc_TypeError,
			     "pages are 64-bit integers (format 'Q'), not format '%.20s' of %zd "
			     "bytes",
			     o->view.format ? o->view.format : "B", o->view.itemsize);
		operands_release(o);
		return -1;
	}
	if (take(object, 8, o) < 0) {
		operands_release(o);
		return -1;
	}
	return 0;
}

int operands_of_bytes(PyObject *object, uint32_t item_bytes, const char *what, struct operands *o)
{
	*o = (struct operands){ 0 };
	if (!PyObject_CheckBuffer(object)) {
		PyErr_Format(PyExc_TypeError, "%s are a buffer, %u bytes each, not %.80s", what,
			     item_bytes, Py_TYPE(object)->tp_name);
		return -1;
	}
	if (PyObject_GetBuffer(object, &o->view, PyBUF_FULL_RO) < 0)
		return -1;
	if (take(object, item_bytes, o) < 0) {
		operands_release(o);
		return -1;
	}
	return 0;
}

void operands_release(struct operands *o)
{
	PyMem_Free(o->copy);
	o->copy = NULL;
	PyBuffer_Release(&o->view);
}
