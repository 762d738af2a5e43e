/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The batch calls of a Space: operands are read where the caller has them, the interpreter's lock
 * is released, one call of the library does the work, results are a memoryview.
 *
 * Two kinds of answers. Calls that return page names return a run, which may be shorter than what
 * was asked for; only when the very first cannot be done they raise. Calls on pages that the caller
 * says it has (free, release, pin, unpin, hint) do all of them or raise, with `done` saying how
 * many came before the one that stopped it.
 */

#include "core.h"

#include <errno.h>

#define space_of(object) ((struct space *)(object))

/* ---- pages --------------------------------------------------------------------------------- */

const char batch_alloc_doc[] =
	"alloc($self, n)\n--\n\n"
	"-> memoryview. "
	"Up to n pages to fill, as page names (uint64). Fewer, also none, when memory is short.";

PyObject *batch_alloc(PyObject *self, PyObject *args, PyObject *kwargs)
{
	static const char *const names[] = { "n", NULL };
	struct space *s = space_of(self);
	unsigned int n;
	struct block *b;
	int64_t got;

	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "I:alloc", (char **)names, &n))
		return NULL;
	if (n > INT32_MAX) {
		PyErr_SetString(PyExc_OverflowError, "more than 2^31 - 1 pages in one batch");
		return NULL;
	}
	b = block_new_pages(n);
	if (!b || !space_enter(s)) {
		Py_XDECREF(b);
		return NULL;
	}
	Py_BEGIN_ALLOW_THREADS got = kvb_alloc(s->space, block_pages(b), n);
	Py_END_ALLOW_THREADS if (got < 0)
	{
		Py_DECREF(b);
		return connection_fail(s->conn, got, 0);
	}
	connection_leave(s->conn);
	return block_finish(b, got);
}

enum page_call { CALL_FREE, CALL_RELEASE, CALL_PIN, CALL_UNPIN, CALL_HINT };

static int64_t call_pages(struct kvb_space *space, enum page_call call, const kvb_page_t *pages,
			  uint32_t n, uint32_t priority, uint32_t ttl_s)
{
	switch (call) {
	case CALL_FREE:
		return kvb_free(space, pages, n);
	case CALL_RELEASE:
		return kvb_release(space, pages, n);
	case CALL_PIN:
		return kvb_pin(space, pages, n);
	case CALL_UNPIN:
		return kvb_unpin(space, pages, n);
	default:
		return kvb_hint(space, pages, n, (enum kvb_priority)priority, ttl_s);
	}
}

/* All of them, or the error of the first that could not be done. */
static PyObject *all_pages(struct space *s, enum page_call call, PyObject *pages, uint32_t priority,
			   uint32_t ttl_s)
{
	struct operands o;
	int64_t done = 0, got = 0;

	if (operands_of_pages(pages, &o) < 0)
		return NULL;
	if (!space_enter(s)) {
		operands_release(&o);
		return NULL;
	}
	Py_BEGIN_ALLOW_THREADS while (done < o.n)
	{
		got = call_pages(s->space, call, (const kvb_page_t *)o.at + done,
				 o.n - (uint32_t)done, priority, ttl_s);
		if (got <= 0)
			break;
		done += got;
	}
	Py_END_ALLOW_THREADS operands_release(&o);
	if (done < o.n)
		return connection_fail(s->conn, got < 0 ? got : -EIO, done);
	connection_leave(s->conn);
	Py_RETURN_NONE;
}

const char batch_free_doc[] = "free($self, pages, /)\n--\n\n"
			      "Gives back pages of alloc() that were not sealed.";

PyObject *batch_free(PyObject *self, PyObject *pages)
{
	return all_pages(space_of(self), CALL_FREE, pages, 0, 0);
}

const char batch_release_doc[] =
	"release($self, pages, /)\n--\n\n"
	"Gives one lease of each page back, in order: what is released last is the most recently\n"
	"used, so release(pages[::-1]) keeps the head of a chain longest.";

PyObject *batch_release(PyObject *self, PyObject *pages)
{
	return all_pages(space_of(self), CALL_RELEASE, pages, 0, 0);
}

const char batch_pin_doc[] = "pin($self, pages, /)\n--\n\n"
			     "Keeps leased pages from eviction beyond their release.";

PyObject *batch_pin(PyObject *self, PyObject *pages)
{
	return all_pages(space_of(self), CALL_PIN, pages, 0, 0);
}

const char batch_unpin_doc[] = "unpin($self, pages, /)\n--\n\nTakes pins back.";

PyObject *batch_unpin(PyObject *self, PyObject *pages)
{
	return all_pages(space_of(self), CALL_UNPIN, pages, 0, 0);
}

const char batch_hint_doc[] = "hint($self, pages, priority=0, ttl_s=0)\n--\n\n"
			      "Says what becomes of leased pages later: PRIORITY_LOW goes first, "
			      "PRIORITY_HIGH is passed\n"
			      "over once; ttl_s: whole seconds from now, 0 = for ever.";

PyObject *batch_hint(PyObject *self, PyObject *args, PyObject *kwargs)
{
	static const char *const names[] = { "pages", "priority", "ttl_s", NULL };
	unsigned int priority = KVB_PRIO_NORMAL, ttl_s = 0;
	PyObject *pages;

	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|II:hint", (char **)names, &pages,
					 &priority, &ttl_s))
		return NULL;
	return all_pages(space_of(self), CALL_HINT, pages, priority, ttl_s);
}

const char batch_store_doc[] =
	"store($self, pages, /)\n--\n\n"
	"-> int. "
	"Writes leased pages down now and waits: how many have a copy below.\n"
	"0 while the space has no lower tier.";

PyObject *batch_store(PyObject *self, PyObject *pages)
{
	struct space *s = space_of(self);
	struct operands o;
	bool nothing_below = false;
	int64_t got;

	if (operands_of_pages(pages, &o) < 0)
		return NULL;
	if (!space_enter(s)) {
		operands_release(&o);
		return NULL;
	}
	Py_BEGIN_ALLOW_THREADS got = kvb_store(s->space, o.at, o.n, &nothing_below);
	Py_END_ALLOW_THREADS operands_release(&o);
	if (got < 0)
		return connection_fail(s->conn, got, 0);
	connection_leave(s->conn);
	return PyLong_FromLongLong(nothing_below ? 0 : got);
}

const char batch_page_get_doc[] = "page_get($self)\n--\n\n"
				  "-> int. "
				  "A page of the magazine; 0 when none can be had.";

PyObject *batch_page_get(PyObject *self, PyObject *none)
{
	struct space *s = space_of(self);
	kvb_page_t page;

	if (!space_enter(s))
		return NULL;
	Py_BEGIN_ALLOW_THREADS page = kvb_page_get(s->space);
	Py_END_ALLOW_THREADS connection_leave(s->conn);
	return PyLong_FromUnsignedLongLong(page);
}

const char batch_page_put_doc[] = "page_put($self, page, /)\n--\n\n"
				  "Back to the magazine: a page that was not sealed.";

PyObject *batch_page_put(PyObject *self, PyObject *arg)
{
	struct space *s = space_of(self);
	const kvb_page_t page = PyLong_AsUnsignedLongLong(arg);

	if (PyErr_Occurred() || !space_enter(s))
		return NULL;
	Py_BEGIN_ALLOW_THREADS kvb_page_put(s->space, page);
	Py_END_ALLOW_THREADS connection_leave(s->conn);
	Py_RETURN_NONE;
}

/* ---- keys ---------------------------------------------------------------------------------- */

/* A namespace of this connection. */
static bool is_ours(const struct space *s, const struct namespace *n)
{
	if (n->conn == s->conn)
		return true;
	PyErr_SetString(PyExc_ValueError, "the namespace was opened on another connection");
	return false;
}

const char batch_seal_doc[] =
	"seal($self, ns, pages, hashes, *, depth=0, epoch=None, salt=0)\n--\n\n"
	"-> memoryview. "
	"Publishes n filled pages under n keys (16 bytes each), blocks depth.. of a chain, "
	"computed\n"
	"under `epoch` (None: ns.epoch). Returns the page now under each key, leased: where it is\n"
	"another than pages[i] the key was there, and pages[i] stays the caller's to fill or "
	"free.\n"
	"Shorter when it stopped (quota, epoch); ask again with the rest to be told why.";

static PyObject *seal(struct space *s, struct namespace *n, const struct operands *pages,
		      const struct operands *hashes, uint32_t depth, uint64_t epoch, uint64_t salt)
{
	struct block *b = block_new_pages(pages->n);
	struct kvb_seal *seals = PyMem_Malloc(pages->n * sizeof(*seals) + 1);
	int64_t got;

	if (!b || !seals || !space_enter(s)) {
		Py_XDECREF(b);
		PyMem_Free(seals);
		return PyErr_Occurred() ? NULL : PyErr_NoMemory();
	}
	seals_fill(seals, pages, hashes, depth);
	Py_BEGIN_ALLOW_THREADS got =
		kvb_seal(s->space, n->info.ns, epoch, salt, seals, block_pages(b), pages->n);
	Py_END_ALLOW_THREADS PyMem_Free(seals);
	if (got < 0) {
		Py_DECREF(b);
		return connection_fail(s->conn, got, 0);
	}
	connection_leave(s->conn);
	return block_finish(b, got);
}

PyObject *batch_seal(PyObject *self, PyObject *args, PyObject *kwargs)
{
	static const char *const names[] = {
		"ns", "pages", "hashes", "depth", "epoch", "salt", NULL
	};
	PyObject *pages_arg, *hashes_arg, *epoch_arg = Py_None, *ret = NULL;
	struct operands pages, hashes;
	unsigned long long salt = 0, epoch;
	unsigned int depth = 0;
	struct namespace *n;

	if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!OO|$IOK:seal", (char **)names,
					 namespace_type, &n, &pages_arg, &hashes_arg, &depth,
					 &epoch_arg, &salt) ||
	    !is_ours(space_of(self), n))
		return NULL;
	epoch = epoch_arg == Py_None ? n->info.epoch : PyLong_AsUnsignedLongLong(epoch_arg);
	if (PyErr_Occurred() || operands_of_pages(pages_arg, &pages) < 0)
		return NULL;
	if (operands_of_bytes(hashes_arg, sizeof(struct kvb_hash), "hashes", &hashes) == 0) {
		if (hashes.n == pages.n)
			ret = seal(space_of(self), n, &pages, &hashes, depth, epoch, salt);
		else
			PyErr_Format(PyExc_ValueError, "%u pages and %u hashes", pages.n, hashes.n);
		operands_release(&hashes);
	}
	operands_release(&pages);
	return ret;
}

enum key_call { CALL_LOOKUP, CALL_LOOKUP_ALL, CALL_LOOKUP_TIERS, CALL_LOAD, CALL_PREFETCH };

struct key_args {
	struct namespace *n;
	struct operands hashes;
	uint64_t salt;
	uint32_t device; /* CALL_LOOKUP_TIERS */
	struct block *b; /* results; none for CALL_PREFETCH */
	int64_t got;
};

static int64_t call_keys(struct kvb_space *space, enum key_call call, struct key_args *k)
{
	const uint32_t ns = k->n->info.ns, n = k->hashes.n;
	const struct kvb_hash *at = k->hashes.at;
	bool nothing_below;

	switch (call) {
	case CALL_LOOKUP:
		return kvb_lookup(space, ns, k->salt, at, block_pages(k->b), n, &k->n->latest);
	case CALL_LOOKUP_ALL:
		return kvb_lookup_all(space, ns, k->salt, at, block_pages(k->b), n, &k->n->latest);
	case CALL_LOOKUP_TIERS:
		return kvb_lookup_tiers(space, ns, k->salt, at, block_pages(k->b), n, &k->device,
					&k->n->latest);
	case CALL_LOAD:
		return kvb_load(space, ns, k->salt, at, block_pages(k->b), n, &nothing_below);
	default:
		return kvb_prefetch(space, ns, k->salt, at, n, &nothing_below);
	}
}

/* Parses (ns, hashes, *, salt=0) and calls; k->b is the caller's when 0 is returned. */
static int keys(PyObject *self, PyObject *args, PyObject *kwargs, enum key_call call,
		struct key_args *k)
{
	static const char *const names[] = { "ns", "hashes", "salt", NULL };
	static const char *const names_all[] = { "ns", "hashes", "salt", "all", NULL };
	struct space *s = space_of(self);
	unsigned long long salt = 0;
	PyObject *hashes;
	int all = 0;

	if (!(call == CALL_LOOKUP
		      ? PyArg_ParseTupleAndKeywords(args, kwargs, "O!O|$Kp", (char **)names_all,
						    namespace_type, &k->n, &hashes, &salt, &all)
		      : PyArg_ParseTupleAndKeywords(args, kwargs, "O!O|$K", (char **)names,
						    namespace_type, &k->n, &hashes, &salt)) ||
	    !is_ours(s, k->n) ||
	    operands_of_bytes(hashes, sizeof(struct kvb_hash), "hashes", &k->hashes) < 0)
		return -1;
	if (all)
		call = CALL_LOOKUP_ALL;
	k->salt = salt;
	k->b = block_new_pages(call == CALL_PREFETCH ? 0 : k->hashes.n);
	if (!k->b || !space_enter(s)) {
		Py_XDECREF(k->b);
		operands_release(&k->hashes);
		return -1;
	}
	Py_BEGIN_ALLOW_THREADS k->got = call_keys(s->space, call, k);
	Py_END_ALLOW_THREADS if (call == CALL_LOOKUP_ALL && k->got >= 0) k->got = k->hashes.n;
	operands_release(&k->hashes);
	if (k->got < 0) {
		Py_DECREF(k->b);
		connection_fail(s->conn, k->got, 0);
		return -1;
	}
	connection_leave(s->conn);
	return 0;
}

const char batch_lookup_doc[] =
	"lookup($self, ns, hashes, *, salt=0, all=False)\n--\n\n"
	"-> memoryview. "
	"The leading run of keys (16 bytes each) that are on the device: their pages, each "
	"leased.\n"
	"all: every key has an entry, 0 where it is not there, and every one that is is leased.";

PyObject *batch_lookup(PyObject *self, PyObject *args, PyObject *kwargs)
{
	struct key_args k = { 0 };

	return keys(self, args, kwargs, CALL_LOOKUP, &k) < 0 ? NULL : block_finish(k.b, k.got);
}

const char batch_lookup_tiers_doc[] =
	"lookup_tiers($self, ns, hashes, *, salt=0)\n--\n\n"
	"-> tuple[memoryview, int]. "
	"The leading run of keys that are in any tier, and how many at its start are on the "
	"device:\n"
	"those are pages, each leased; behind them entries are TIER_*, where the key was found, "
	"and\n"
	"nothing is leased: load() them.";

PyObject *batch_lookup_tiers(PyObject *self, PyObject *args, PyObject *kwargs)
{
	struct key_args k = { 0 };

	if (keys(self, args, kwargs, CALL_LOOKUP_TIERS, &k) < 0)
		return NULL;
	return Py_BuildValue("NI", block_finish(k.b, k.got), k.device);
}

const char batch_load_doc[] =
	"load($self, ns, hashes, *, salt=0)\n--\n\n"
	"-> memoryview. "
	"Brings the leading run of keys that are in any tier onto the device and waits for it, at\n"
	"most 5 s: their pages, each leased. What does not come is a miss. Without a lower tier "
	"it\n"
	"is lookup().";

PyObject *batch_load(PyObject *self, PyObject *args, PyObject *kwargs)
{
	struct key_args k = { 0 };

	return keys(self, args, kwargs, CALL_LOAD, &k) < 0 ? NULL : block_finish(k.b, k.got);
}

const char batch_prefetch_doc[] =
	"prefetch($self, ns, hashes, *, salt=0)\n--\n\n"
	"-> int. "
	"Starts what load() does, without waiting or leasing: how many keys\n"
	"are on the device or on their way. 0 without a lower tier.";

PyObject *batch_prefetch(PyObject *self, PyObject *args, PyObject *kwargs)
{
	struct key_args k = { 0 };

	if (keys(self, args, kwargs, CALL_PREFETCH, &k) < 0)
		return NULL;
	Py_DECREF(k.b);
	return PyLong_FromLongLong(k.got);
}
