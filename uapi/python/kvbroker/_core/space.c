/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Space: life, memory, size.
 *
 * The library's spaces belong to the connection: a Space that is forgotten leaves its space open
 * until the connection is closed, and a closed connection leaves Spaces that refuse every call.
 *
 * Pages of a GPU have addresses and no views: the CPU must not touch them. read() and write() copy
 * on any kind of device.
 */

#include "core.h"

#include <errno.h>
#include <stdlib.h>
#include <structmember.h>

PyTypeObject *space_type;

#define space_of(object) ((struct space *)(object))

struct kvb_space *space_enter(struct space *s)
{
	if (!connection_enter(s->conn))
		return NULL;
	if (s->space)
		return s->space;
	connection_leave(s->conn);
	raise_error(-EBADF, "the space is closed", 0);
	return NULL;
}

/* ---- life ---------------------------------------------------------------------------------- */

static int parse_device(const char *device, uint32_t *ret_kind, uint32_t *ret_ordinal)
{
	const char *colon = strchr(device, ':');
	const size_t n = colon ? (size_t)(colon - device) : 0;
	char *end = NULL;
	unsigned long ordinal = 0;

	*ret_kind = n == 4 && !strncmp(device, "host", n)   ? KVB_DEVICE_HOST
		    : n == 4 && !strncmp(device, "cuda", n) ? KVB_DEVICE_CUDA
							    : 0;
	if (*ret_kind && colon[1] >= '0' && colon[1] <= '9')
		ordinal = strtoul(colon + 1, &end, 10);
	if (!end || *end || ordinal > 0xffff) {
		PyErr_Format(PyExc_ValueError, "'%.40s' is no device: host:NODE or cuda:N", device);
		return -1;
	}
	*ret_ordinal = (uint32_t)ordinal;
	return 0;
}

PyObject *space_open(struct connection *c, PyObject *args, PyObject *kwargs)
{
	static const char *const names[] = { "stride", "device", "regions", "tag",
					     "group",  "ranks",  "rank",    NULL };
	struct kvb_rank rank = { 0 };
	struct kvb_space_params p = { 0 };
	unsigned long long stride, tag = 0, group_tag = 0;
	const char *device = "host:0";
	struct kvb *kvb;
	struct space *s;
	int rc;

	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "K|$sIKKII:space", (char **)names, &stride,
					 &device, &p.regions, &tag, &group_tag, &rank.ranks,
					 &rank.rank))
		return NULL;
	if (parse_device(device, &p.device_kind, &p.device_ordinal) < 0)
		return NULL;
	p.stride_bytes = stride;
	p.tag = tag;
	rank.group = group_tag;
	s = (struct space *)space_type->tp_alloc(space_type, 0);
	if (!s)
		return NULL;
	s->conn = (struct connection *)Py_NewRef((PyObject *)c);
	kvb = connection_enter(c);
	if (!kvb) {
		Py_DECREF(s);
		return NULL;
	}
	Py_BEGIN_ALLOW_THREADS rc =
		kvb_space_open_rank(kvb, &p, rank.ranks ? &rank : NULL, &s->space);
	Py_END_ALLOW_THREADS if (rc < 0)
	{
		s->space = NULL;
		Py_DECREF(s);
		return connection_fail(c, rc, 0);
	}
	kvb_space_get_info(s->space, &s->info);
	s->tiers = kvb_space_tiers(s->space);
	s->kind = p.device_kind;
	s->ordinal = p.device_ordinal;
	s->tag = tag;
	connection_leave(c);
	return (PyObject *)s;
}

static void space_dealloc(PyObject *self)
{
	PyTypeObject *type = Py_TYPE(self);

	Py_XDECREF(space_of(self)->conn);
	type->tp_free(self);
	Py_DECREF(type);
}

PyDoc_STRVAR(close_doc,
	     "close($self)\n--\n\n"
	     "Leaves the space and unmaps it. EBUSY while this connection holds pages or leases\n"
	     "there; BufferError while there are views of its pages. Again: nothing.");

static PyObject *space_close(PyObject *self, PyObject *none)
{
	struct space *s = space_of(self);
	int rc;

	if (!s->space || !s->conn->kvb)
		Py_RETURN_NONE;
	if (s->exports) {
		PyErr_Format(PyExc_BufferError,
			     "%zd views of this space's memory are still in use: release them",
			     s->exports);
		return NULL;
	}
	if (!space_enter(s))
		return NULL;
	Py_BEGIN_ALLOW_THREADS rc = kvb_space_close(s->space);
	Py_END_ALLOW_THREADS if (rc < 0) return connection_fail(s->conn, rc, 0);
	s->space = NULL;
	connection_leave(s->conn);
	Py_RETURN_NONE;
}

static PyObject *space_self(PyObject *self, PyObject *none)
{
	return Py_NewRef(self);
}

static PyObject *space_exit(PyObject *self, PyObject *args)
{
	return space_close(self, NULL);
}

/* ---- memory -------------------------------------------------------------------------------- */

/* "page[, region]" of a call whose connection is then entered. Only ids below the space's end. */
static bool page_and_region(struct space *s, unsigned long long page, unsigned int region)
{
	if (region < s->info.regions &&
	    KVB_PAGE_ID(page) < (uint64_t)s->info.slots * s->info.pages_per_slab)
		return space_enter(s) != NULL;
	PyErr_Format(PyExc_IndexError,
		     "page %llu of region %u: there are %llu pages and %u regions",
		     page & UINT32_MAX, region,
		     (unsigned long long)s->info.slots * s->info.pages_per_slab, s->info.regions);
	return false;
}

static bool only_host(const struct space *s)
{
	if (s->kind == KVB_DEVICE_HOST)
		return true;
	PyErr_SetString(PyExc_TypeError,
			"the CPU must not touch a GPU's memory: use address(), read() or write()");
	return false;
}

PyDoc_STRVAR(page_doc,
	     "page($self, page, region=0)\n--\n\n"
	     "-> memoryview. "
	     "The bytes of a page in one region, where they are: format 'B', `stride` long, to be\n"
	     "written while the page is held and read while it is leased. Host devices only.\n"
	     "page: its name, or its id. ENOENT while its slab is not mapped here.");

static PyObject *space_page(PyObject *self, PyObject *args, PyObject *kwargs)
{
	static const char *const names[] = { "page", "region", NULL };
	struct space *s = space_of(self);
	unsigned long long page;
	unsigned int region = 0;
	char nothing;
	int rc;

	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "K|I:page", (char **)names, &page,
					 &region) ||
	    !only_host(s) || !page_and_region(s, page, region))
		return NULL;
	rc = kvb_page_read(s->space, region, page, &nothing, 0); /* is it mapped? */
	if (rc < 0)
		return connection_fail(s->conn, rc, 0);
	connection_leave(s->conn);
	return block_of_space(s, kvb_page_addr(s->space, region, page),
			      (Py_ssize_t)s->info.stride_bytes);
}

PyDoc_STRVAR(
	region_doc,
	"region($self, region=0)\n--\n\n"
	"-> memoryview. "
	"All addresses of a region: format 'B', slots * pages_per_slab * stride long; page id i\n"
	"is at i * stride, so numpy.frombuffer(space.region(), numpy.uint8).reshape(-1, stride)\n"
	"and torch.frombuffer() index by page id, without a copy. Touching a slab that is not\n"
	"mapped here ends the process (SIGSEGV). Host devices only.");

static PyObject *space_region(PyObject *self, PyObject *args, PyObject *kwargs)
{
	static const char *const names[] = { "region", NULL };
	struct space *s = space_of(self);
	unsigned int region = 0;

	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|I:region", (char **)names, &region) ||
	    !only_host(s) || !page_and_region(s, 0, region))
		return NULL;
	connection_leave(s->conn);
	return block_of_space(s, kvb_region_base(s->space, region),
			      (Py_ssize_t)s->info.region_bytes);
}

PyDoc_STRVAR(address_doc, "address($self, page, region=0)\n--\n\n"
			  "-> int. "
			  "Where the page's part in a region begins; a device address on a GPU.");

static PyObject *space_address(PyObject *self, PyObject *args, PyObject *kwargs)
{
	static const char *const names[] = { "page", "region", NULL };
	struct space *s = space_of(self);
	unsigned long long page;
	unsigned int region = 0;

	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "K|I:address", (char **)names, &page,
					 &region) ||
	    !page_and_region(s, page, region))
		return NULL;
	connection_leave(s->conn);
	return PyLong_FromVoidPtr(kvb_page_addr(s->space, region, page));
}

PyDoc_STRVAR(read_doc, "read($self, page, region=0, bytes=None)\n--\n\n"
		       "-> bytes. "
		       "A copy of the first bytes of a page (None: all), on any kind of device.");

static PyObject *space_read(PyObject *self, PyObject *args, PyObject *kwargs)
{
	static const char *const names[] = { "page", "region", "bytes", NULL };
	struct space *s = space_of(self);
	unsigned long long page;
	PyObject *wanted = Py_None, *ret;
	unsigned int region = 0;
	size_t bytes = (size_t)s->info.stride_bytes;
	int rc;

	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "K|IO:read", (char **)names, &page, &region,
					 &wanted))
		return NULL;
	if (wanted != Py_None)
		bytes = PyLong_AsSize_t(wanted);
	if (PyErr_Occurred())
		return NULL;
	if (bytes > s->info.stride_bytes) {
		PyErr_Format(PyExc_ValueError, "%zu bytes of a page of %llu", bytes,
			     (unsigned long long)s->info.stride_bytes);
		return NULL;
	}
	ret = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)bytes);
	if (!ret || !page_and_region(s, page, region)) {
		Py_XDECREF(ret);
		return NULL;
	}
	Py_BEGIN_ALLOW_THREADS rc =
		kvb_page_read(s->space, region, page, PyBytes_AS_STRING(ret), bytes);
	Py_END_ALLOW_THREADS if (rc < 0)
	{
		Py_DECREF(ret);
		return connection_fail(s->conn, rc, 0);
	}
	connection_leave(s->conn);
	return ret;
}

PyDoc_STRVAR(write_doc,
	     "write($self, page, data, region=0)\n--\n\n"
	     "Copies data (a buffer of at most `stride` bytes) to the start of a page, on\n"
	     "any kind of device.");

static PyObject *space_write(PyObject *self, PyObject *args, PyObject *kwargs)
{
	static const char *const names[] = { "page", "data", "region", NULL };
	struct space *s = space_of(self);
	unsigned long long page;
	unsigned int region = 0;
	Py_buffer data;
	int rc;

	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Ky*|I:write", (char **)names, &page, &data,
					 &region))
		return NULL;
	if (!page_and_region(s, page, region)) {
		PyBuffer_Release(&data);
		return NULL;
	}
	Py_BEGIN_ALLOW_THREADS rc =
		kvb_page_write(s->space, region, page, data.buf, (size_t)data.len);
	Py_END_ALLOW_THREADS PyBuffer_Release(&data);
	if (rc < 0)
		return connection_fail(s->conn, rc, 0);
	connection_leave(s->conn);
	Py_RETURN_NONE;
}

/* ---- size ---------------------------------------------------------------------------------- */

PyDoc_STRVAR(
	grow_doc,
	"grow($self, pages, timeout_s=0.0)\n--\n\n"
	"-> int. "
	"Asks for memory for `pages` more pages, waiting up to timeout_s for memory that has to\n"
	"be taken from others; returns pages gained, in whole slabs. ENOSPC, EDQUOT, ENOMEM.");

PyDoc_STRVAR(shrink_doc,
	     "shrink($self, pages, deadline_s=0.0)\n--\n\n"
	     "-> int. "
	     "Asks to give about `pages` pages back; members have deadline_s (0: the broker's\n"
	     "default). Returns pages on their way out; this connection's part ends in\n"
	     "quiet_point().");

static PyObject *resize(struct space *s, PyObject *args, PyObject *kwargs, bool grow)
{
	static const char *const grow_names[] = { "pages", "timeout_s", NULL };
	static const char *const shrink_names[] = { "pages", "deadline_s", NULL };
	unsigned long long pages;
	double seconds = 0;
	uint64_t ns;
	int64_t n;

	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "K|d",
					 (char **)(grow ? grow_names : shrink_names), &pages,
					 &seconds) ||
	    !seconds_to_ns(seconds, &ns) || !space_enter(s))
		return NULL;
	Py_BEGIN_ALLOW_THREADS n =
		grow ? kvb_space_grow(s->space, pages, ns) : kvb_space_shrink(s->space, pages, ns);
	Py_END_ALLOW_THREADS if (n < 0) return connection_fail(s->conn, n, 0);
	connection_leave(s->conn);
	return PyLong_FromLongLong(n);
}

static PyObject *space_grow(PyObject *self, PyObject *args, PyObject *kwargs)
{
	return resize(space_of(self), args, kwargs, true);
}

static PyObject *space_shrink(PyObject *self, PyObject *args, PyObject *kwargs)
{
	return resize(space_of(self), args, kwargs, false);
}

/* ---- fences -------------------------------------------------------------------------------- */

static PyObject *stream_fence(struct space *s, PyObject *args, bool write)
{
	unsigned long long stream, value;
	unsigned int fence;
	int rc;

	if (!PyArg_ParseTuple(args, "KIK", &stream, &fence, &value) || !space_enter(s))
		return NULL;
	Py_BEGIN_ALLOW_THREADS rc = (write ? kvb_fence_stream_write : kvb_fence_stream_wait)(
		s->space, (void *)(uintptr_t)stream, fence, value);
	Py_END_ALLOW_THREADS if (rc < 0) return connection_fail(s->conn, rc, 0);
	connection_leave(s->conn);
	Py_RETURN_NONE;
}

PyDoc_STRVAR(
	stream_write_doc,
	"fence_stream_write($self, stream, fence, value, /)\n--\n\n"
	"Queues on a stream (torch.cuda.Stream.cuda_stream; 0 = the default one) that the word\n"
	"becomes value when all before it is done.");

static PyObject *space_stream_write(PyObject *self, PyObject *args)
{
	return stream_fence(space_of(self), args, true);
}

PyDoc_STRVAR(stream_wait_doc, "fence_stream_wait($self, stream, fence, value, /)\n--\n\n"
			      "Queues on a stream that what follows waits for the word.");

static PyObject *space_stream_wait(PyObject *self, PyObject *args)
{
	return stream_fence(space_of(self), args, false);
}

/* ---- the type ------------------------------------------------------------------------------ */

static PyObject *space_slabs(PyObject *self, void *unused)
{
	struct space *s = space_of(self);
	struct kvb_space_info info;

	if (!space_enter(s))
		return NULL;
	kvb_space_get_info(s->space, &info);
	connection_leave(s->conn);
	return PyLong_FromUnsignedLong(info.slabs);
}

static PyObject *space_device(PyObject *self, void *unused)
{
	const struct space *s = space_of(self);

	return PyUnicode_FromFormat("%s:%u", s->kind == KVB_DEVICE_CUDA ? "cuda" : "host",
				    s->ordinal);
}

static PyObject *space_closed(PyObject *self, void *unused)
{
	return PyBool_FromLong(!space_of(self)->space || !space_of(self)->conn->kvb);
}

static PyGetSetDef space_getset[] = {
	{ "slabs", space_slabs, NULL, "Slabs that are mapped here now.", NULL },
	{ "device", space_device, NULL, "'host:NODE' or 'cuda:N'.", NULL },
	{ "closed", space_closed, NULL, "Whether it can be used no more.", NULL },
	{ NULL, NULL, NULL, NULL, NULL },
};

#define INFO(field) offsetof(struct space, info.field)

static PyMemberDef space_members[] = {
	{ "handle", T_UINT, INFO(handle), READONLY, "The broker's handle, as in revocations()." },
	{ "regions", T_UINT, INFO(regions), READONLY, "Regions of each page." },
	{ "stride", T_ULONGLONG, INFO(stride_bytes), READONLY, "Bytes of a page in one region." },
	{ "pages_per_slab", T_UINT, INFO(pages_per_slab), READONLY,
	  "Pages of a slab, the unit in which memory comes and goes." },
	{ "slots", T_UINT, INFO(slots), READONLY, "Slabs that the space can ever have." },
	{ "region_bytes", T_ULONGLONG, INFO(region_bytes), READONLY,
	  "Length of a region's addresses." },
	{ "tiers", T_ULONGLONG, offsetof(struct space, tiers), READONLY,
	  "A bit 1 << TIER_* for each tier that its pages can be in." },
	{ "tag", T_ULONGLONG, offsetof(struct space, tag), READONLY, "As it was opened." },
	{ "connection", T_OBJECT_EX, offsetof(struct space, conn), READONLY, "Whose it is." },
	{ NULL, 0, 0, 0, NULL },
};

#define KEYWORDS(function) (PyCFunction)(void (*)(void))(function)

static PyMethodDef space_methods[] = {
	{ "close", space_close, METH_NOARGS, close_doc },
	{ "page", KEYWORDS(space_page), METH_VARARGS | METH_KEYWORDS, page_doc },
	{ "region", KEYWORDS(space_region), METH_VARARGS | METH_KEYWORDS, region_doc },
	{ "address", KEYWORDS(space_address), METH_VARARGS | METH_KEYWORDS, address_doc },
	{ "read", KEYWORDS(space_read), METH_VARARGS | METH_KEYWORDS, read_doc },
	{ "write", KEYWORDS(space_write), METH_VARARGS | METH_KEYWORDS, write_doc },
	{ "grow", KEYWORDS(space_grow), METH_VARARGS | METH_KEYWORDS, grow_doc },
	{ "shrink", KEYWORDS(space_shrink), METH_VARARGS | METH_KEYWORDS, shrink_doc },
	{ "alloc", KEYWORDS(batch_alloc), METH_VARARGS | METH_KEYWORDS, batch_alloc_doc },
	{ "free", batch_free, METH_O, batch_free_doc },
	{ "release", batch_release, METH_O, batch_release_doc },
	{ "pin", batch_pin, METH_O, batch_pin_doc },
	{ "unpin", batch_unpin, METH_O, batch_unpin_doc },
	{ "hint", KEYWORDS(batch_hint), METH_VARARGS | METH_KEYWORDS, batch_hint_doc },
	{ "store", batch_store, METH_O, batch_store_doc },
	{ "seal", KEYWORDS(batch_seal), METH_VARARGS | METH_KEYWORDS, batch_seal_doc },
	{ "lookup", KEYWORDS(batch_lookup), METH_VARARGS | METH_KEYWORDS, batch_lookup_doc },
	{ "lookup_tiers", KEYWORDS(batch_lookup_tiers), METH_VARARGS | METH_KEYWORDS,
	  batch_lookup_tiers_doc },
	{ "load", KEYWORDS(batch_load), METH_VARARGS | METH_KEYWORDS, batch_load_doc },
	{ "prefetch", KEYWORDS(batch_prefetch), METH_VARARGS | METH_KEYWORDS, batch_prefetch_doc },
	{ "page_get", batch_page_get, METH_NOARGS, batch_page_get_doc },
	{ "page_put", batch_page_put, METH_O, batch_page_put_doc },
	{ "submit", KEYWORDS(space_submit), METH_VARARGS | METH_KEYWORDS, space_submit_doc },
	{ "fence_stream_write", space_stream_write, METH_VARARGS, stream_write_doc },
	{ "fence_stream_wait", space_stream_wait, METH_VARARGS, stream_wait_doc },
	{ "__enter__", space_self, METH_NOARGS, NULL },
	{ "__exit__", space_exit, METH_VARARGS, NULL },
	{ NULL, NULL, 0, NULL },
};

PyDoc_STRVAR(
	space_type_doc,
	"Addresses of pages that all members share; from Connection.space().\n\n"
	"Page names are 64 bits: generation above, page id below. They travel as buffers of\n"
	"uint64 (format 'Q'), n of them; hashes as bytes, 16 a key, in the order of the chain.");

static PyType_Slot space_slots[] = {
	{ Py_tp_doc, (void *)space_type_doc }, { Py_tp_dealloc, space_dealloc },
	{ Py_tp_methods, space_methods },      { Py_tp_members, space_members },
	{ Py_tp_getset, space_getset },        { 0, NULL },
};

PyType_Spec space_spec = {
	.name = "kvbroker.Space",
	.basicsize = sizeof(struct space),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
	.slots = space_slots,
};
