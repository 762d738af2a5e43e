/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * kvbroker._core: libkvbroker for Python. What its files share.
 *
 *   module.c      the module, errors, fork
 *   connection.c  Connection: life, messages, fences, namespaces
 *   space.c       Space: life, memory, size
 *   batch.c       Space: the batch calls, each one call of the library
 *   ring.c        entries in flight, and the descriptor that tells of completions
 *   block.c       memory as a buffer: pages of a space, and arrays of page names
 *   args.c        buffers that callers pass
 *
 * BATCHES ARE BUFFERS. Pages are buffers of 8-byte integers, hashes are bytes, 16 a key; no list of
 * Python integers is made or read on the way. What is returned is a memoryview.
 *
 * ONE THREAD AT A TIME uses a connection, as the library says, and here a second one is refused
 * instead of trusted: the lock of the interpreter is released during every call that can wait, so
 * `busy` says that a call is under way. It is read and written with that lock held.
 *
 * MAPPED MEMORY NEVER GOES WHILE PYTHON LOOKS AT IT, but for slabs that were revoked and are given
 * up in quiet_point(), as the library says: views are counted, and closing is refused while there
 * are any.
 *
 * FORK. The child of a fork has neither the memory nor the right to speak on the parent's socket:
 * its copy of the socket is closed at once, so that it does not keep the parent's rights alive, and
 * every call on a connection from before is refused. Nothing is unmapped or freed there.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <string.h>

#include "libkvbroker.h"

struct pending {
	uint64_t token;         /* 0 = free */
	uint32_t first, blocks; /* of the operand area */
	uint32_t count;
	uint8_t op;
	uint8_t flags;
};

struct revocation {
	uint32_t space; /* its handle */
	uint32_t first, count;
	uint64_t deadline_ns;
};

struct connection {
	PyObject_HEAD struct kvb *kvb;  /* NULL: closed */
	struct connection *next, *prev; /* of all that are open, for the child of a fork */
	unsigned forks;                 /* of this process when it was opened */
	bool busy;
	unsigned watchers;  /* threads in fence_watch() */
	Py_ssize_t exports; /* views of mapped memory */

	/* ring.c */
	struct pending *pending; /* cq_entries */
	uint32_t pending_n, pending_size;
	uint64_t serial;
	uint8_t *blocks; /* a byte a block of the operand area: in use */
	uint32_t blocks_n;
	int wait_fd, timer_fd;
	uint64_t tick_ns;

	struct revocation *revoked;
	size_t revoked_n, revoked_size;
};

struct space {
	PyObject_HEAD struct connection *conn;
	struct kvb_space *space; /* NULL: closed */
	struct kvb_space_info info;
	uint64_t tiers;
	uint64_t tag;
	uint32_t kind, ordinal;
	Py_ssize_t exports;
};

struct namespace
{
	PyObject_HEAD struct connection *conn;
	struct kvb_ns_info info;
	uint64_t latest; /* the epoch that the broker told last */
	uint8_t digest[32];
};

/* Memory as a buffer of n items: mapped pages of a space, or an array of its own. */
struct block {
	PyObject_HEAD struct space *space; /* NULL: own memory */
	char *at;
	Py_ssize_t n, item_bytes;
	const char *format;
};

extern PyTypeObject *connection_type, *space_type, *namespace_type, *block_type;
extern PyType_Spec connection_spec, space_spec, namespace_spec, block_spec;

/* ---- module.c ------------------------------------------------------------------------------ */
/* Sets the exception for a negative errno of the library; `done` operands were done before it.
 * Returns NULL. */
PyObject *raise_error(int err, const char *text, int64_t done);
unsigned fork_count(void);
void forks_watch(struct connection *c); /* until forks_forget() */
void forks_forget(struct connection *c);

/* ---- connection.c -------------------------------------------------------------------------- */
/* The connection for one call, or NULL with an exception; connection_leave() follows. */
struct kvb *connection_enter(struct connection *c);
static inline void connection_leave(struct connection *c)
{
	c->busy = false;
}
/* The last error of the library as an exception; leaves. */
PyObject *connection_fail(struct connection *c, int64_t err, int64_t done);
/* Seconds of an argument to nanoseconds; false with an exception. */
bool seconds_to_ns(double s, uint64_t *ret);

/* ---- space.c ------------------------------------------------------------------------------- */
PyObject *space_open(struct connection *c, PyObject *args, PyObject *kwargs);
/* As connection_enter(), and the space is open. */
struct kvb_space *space_enter(struct space *s);

/* ---- batch.c: methods of Space ------------------------------------------------------------- */
extern const char batch_alloc_doc[];
PyObject *batch_alloc(PyObject *self, PyObject *args, PyObject *kwargs);
extern const char batch_free_doc[];
PyObject *batch_free(PyObject *self, PyObject *pages);
extern const char batch_release_doc[];
PyObject *batch_release(PyObject *self, PyObject *pages);
extern const char batch_pin_doc[];
PyObject *batch_pin(PyObject *self, PyObject *pages);
extern const char batch_unpin_doc[];
PyObject *batch_unpin(PyObject *self, PyObject *pages);
extern const char batch_hint_doc[];
PyObject *batch_hint(PyObject *self, PyObject *args, PyObject *kwargs);
extern const char batch_store_doc[];
PyObject *batch_store(PyObject *self, PyObject *pages);
extern const char batch_page_get_doc[];
PyObject *batch_page_get(PyObject *self, PyObject *none);
extern const char batch_page_put_doc[];
PyObject *batch_page_put(PyObject *self, PyObject *arg);
extern const char batch_seal_doc[];
PyObject *batch_seal(PyObject *self, PyObject *args, PyObject *kwargs);
extern const char batch_lookup_doc[];
PyObject *batch_lookup(PyObject *self, PyObject *args, PyObject *kwargs);
extern const char batch_lookup_tiers_doc[];
PyObject *batch_lookup_tiers(PyObject *self, PyObject *args, PyObject *kwargs);
extern const char batch_load_doc[];
PyObject *batch_load(PyObject *self, PyObject *args, PyObject *kwargs);
extern const char batch_prefetch_doc[];
PyObject *batch_prefetch(PyObject *self, PyObject *args, PyObject *kwargs);

/* ---- ring.c -------------------------------------------------------------------------------- */
int ring_begin(struct connection *c);
void ring_end(struct connection *c);
extern const char space_submit_doc[];
PyObject *space_submit(PyObject *self, PyObject *args, PyObject *kwargs);
PyObject *connection_completions(PyObject *self, PyObject *none);
PyObject *connection_fileno(PyObject *self, PyObject *none);

/* ---- block.c ------------------------------------------------------------------------------- */
/* A memoryview of mapped bytes. */
PyObject *block_of_space(struct space *s, void *at, Py_ssize_t bytes);
/* Room for n page names, zeroed; then its memoryview, of the first `used` of them. The second takes
 * the reference. */
struct block *block_new_pages(Py_ssize_t n);
PyObject *block_finish(struct block *b, Py_ssize_t used);
static inline kvb_page_t *block_pages(struct block *b)
{
	return (kvb_page_t *)b->at;
}

/* ---- args.c -------------------------------------------------------------------------------- */
struct operands {
	Py_buffer view;
	void *copy; /* of what was not in one piece */
	const void *at;
	uint32_t n;
};

/* A buffer of 8-byte integers, in any stride; or of bytes, item_bytes a key. 0, or -1 with an
 * exception. */
int operands_of_pages(PyObject *o, struct operands *ret);
int operands_of_bytes(PyObject *o, uint32_t item_bytes, const char *what, struct operands *ret);
void operands_release(struct operands *o);

/* Seals of n pages under n hashes, blocks depth.. of a chain. */
static inline void seals_fill(struct kvb_seal *ret, const struct operands *pages,
			      const struct operands *hashes, uint32_t depth)
{
	for (uint32_t i = 0; i < pages->n; i++) {
		ret[i] = (struct kvb_seal){ .depth = depth + i };
		memcpy(&ret[i].page, (const char *)pages->at + i * sizeof(kvb_page_t),
		       sizeof(kvb_page_t));
		memcpy(&ret[i].hash, (const char *)hashes->at + i * sizeof(struct kvb_hash),
		       sizeof(struct kvb_hash));
	}
}
