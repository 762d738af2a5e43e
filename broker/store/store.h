/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The store: pages of KV on files or block devices, found again after a crash.
 *
 * It is a cache, so it may lose pages; it never returns other bytes than those that were put under
 * the key. What is on disk is said in docs/store-format.md. In short: segments that are appended to
 * and evicted as a whole, in the order of age; an index in memory, rebuilt at open.
 *
 * Keys. A key is made of whose it is and what it is:
 *   - the place: trust domain, geometry of the space, digest of the namespace. 16 bytes, keyed with
 *     a secret of the store; the half that stands for the domain depends on nothing a client says.
 *   - salt, chain hash and epoch.
 * The index knows 86 bits of a keyed hash of it, the disk all of it.
 *
 * Life of a put: queued; written as part of a group (a block of descriptors and the pages behind
 * it); done, when the group and all before it in its segment are. From then on it is found, also
 * after a kill. After the next store_flush() (or one that the store does by itself) it survives a
 * loss of power.
 *
 * Everything here is one thread's, the owner's, and none of it blocks but store_open(),
 * store_close() and the checks of kvb-store. store_open() may be another thread's: ownership goes
 * to the thread of the next call. Memory given to put and get is the store's until it reports.
 *
 * Errors are 0 or -errno. Messages go to `why`, in words.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define STORE_PARTS_MAX 16u
#define STORE_PATH_MAX 256u
#define STORE_PIECES_MAX 256u            /* of a page; as many are a multiple of 4 KiB */
#define STORE_PAGE_BYTES_MAX (64u << 20) /* and a quarter of a segment */
#define STORE_NS_NONE 0xffffu

struct store;
struct engine_ops;

struct store_part_cfg {
	const char *path;
	uint64_t bytes; /* to use of it; a file is made that large, or brought there; 0: all there
			   is */
};

struct store_cfg {
	struct store_part_cfg part[STORE_PARTS_MAX];
	uint32_t parts;
	uint64_t segment_bytes;       /* of a store that is made; power of two; 0: by its size */
	uint64_t pages_max;           /* room of the index; 0: for pages of 64 KiB */
	uint32_t depth;               /* transfers in flight a part; 0: 32 */
	uint32_t depth_write;         /* of those, writes; 0: 16 */
	uint32_t depth_beside;        /* writes in flight while reads are wanted; 0: 1 */
	uint32_t flush_ms;            /* flush by itself so often while there are writes; 0: 1000 */
	uint32_t lock_wait_ms;        /* a killed owner's lock goes late; 0: 5000 */
	bool threads;                 /* the thread pool also where io_uring is to be had */
	bool read_only;               /* for kvb-store: nothing is written */
	bool empty;                   /* whatever was there is given up */
	const struct engine_ops *ops; /* NULL: io_uring, or threads where it is forbidden */
	void *ops_arg;
	/* While the index is rebuilt. */
	void (*progress)(void *arg, uint64_t done, uint64_t total);
	/* A page is no longer in the store: its segment was evicted, or found bad. For the tests of
	 * power cuts: all others that were flushed have to be there. */
	void (*gone)(void *arg, const uint64_t where[2], const uint64_t chain[2], uint32_t epoch);
	void *arg;
};

/* ---- life ---------------------------------------------------------------------------------- */

/*
 * Opens, or makes, a store. Waits for the locks, then reads what is there. -EBUSY: in use;
 * -ENOSPC, -EROFS, -ENOTSUP (no direct I/O), -EMEDIUMTYPE: something else is there, or a store of a
 * later version.
 */
int store_open(const struct store_cfg *cfg, struct store **ret, char *why, size_t why_bytes);
/* Closes the open segments, marks the store clean, waits for all I/O. NULL is fine. */
struct store *store_close(struct store *s);
/* As a kill would: leaves the disk as it is. For tests, and for a store that failed. */
struct store *store_abandon(struct store *s);

/* Readable when store_poll() has something to do. */
int store_event(const struct store *s);
/* True: store_poll() has something to do, whatever store_event() says. */
bool store_pending(const struct store *s);
/* When it wants to be polled at the latest (CLOCK_MONOTONIC); UINT64_MAX: there is no hurry. */
uint64_t store_next_ns(const struct store *s);

/* Memory that pages lie in often: registered with the kernel, where it can be. -ENOMEM and such are
 * harmless: transfers are slower then. */
int store_memory_add(struct store *s, void *mem, uint64_t bytes);
void store_memory_remove(struct store *s, void *mem);

/* ---- keys ---------------------------------------------------------------------------------- */

struct store_identity {
	const char *domain; /* trust domain: name of the tenant */
	uint8_t ns_digest[32];
	uint64_t regions;
	uint64_t stride_bytes;
	uint64_t tag; /* of the space */
};

struct store_place {
	uint64_t half[2];
};

struct store_key {
	uint64_t where[2]; /* place and salt */
	uint64_t chain[2];
	uint32_t epoch;
	uint16_t ns;
};

void store_place_make(const struct store *s, const struct store_identity *id,
		      struct store_place *ret);
void store_key_make(const struct store *s, const struct store_place *place, uint16_t ns,
		    uint32_t epoch, uint64_t salt, const uint64_t chain[2], struct store_key *ret);

/* ---- namespaces ---------------------------------------------------------------------------- */

/*
 * The namespace of a digest, with the epoch that the store knows for it. One that is new is noted
 * with `epoch`, written with the next commit. STORE_NS_NONE: the table is full, its pages are not
 * stored.
 */
uint16_t store_ns_open(struct store *s, const uint8_t digest[32], uint32_t epoch,
		       uint32_t *ret_epoch);
/*
 * The namespace is in `epoch` (a lower one than known changes nothing). Reported when that is
 * durable on every part: until then a crash may bring the pages of the past epoch back.
 */
void store_bump(struct store *s, uint16_t ns, uint32_t epoch, void *user);

/* ---- pages --------------------------------------------------------------------------------- */

/* Whether a page is there. Costs no I/O. */
bool store_find(const struct store *s, const struct store_key *key);

/*
 * Writes a page: `n` pieces, one behind the other. Its size is a multiple of 64 B. crc: crc32c of
 * the pieces, or NULL to have it made. Reported 0 also where the page is there already.
 * Refusals, at once: -EINVAL, -EAGAIN (too much is queued: ask again after a report), -ESTALE (of a
 * past epoch), -EROFS, -EIO (the store failed), -ENOMEM.
 */
int store_put(struct store *s, const struct store_key *key, const struct iovec *piece, uint32_t n,
	      const uint32_t *crc, void *user);

/*
 * Reads a page. deadline_ns: of CLOCK_MONOTONIC, 0 for none. Reported 0; -ENOENT: not there, or not
 * as it was put; -ETIME: the deadline passed, and the memory stays the store's until a second
 * report, with STORE_DONE_FREED; -EIO.
 * Refusals, at once: -ENOENT -EINVAL -EAGAIN -EIO.
 */
int store_get(struct store *s, const struct store_key *key, const struct iovec *piece, uint32_t n,
	      uint64_t deadline_ns, void *user);

/*
 * As store_get(), but what was read is not compared with the checksum of the report: who asked does
 * that, elsewhere than in this thread, and says store_distrust() of what does not fit.
 */
int store_get_unchecked(struct store *s, const struct store_key *key, const struct iovec *piece,
			uint32_t n, uint64_t deadline_ns, void *user);
/* What is under the key is not what was put: it is not found any more. */
void store_distrust(struct store *s, const struct store_key *key);

/* The page is no longer wanted: not found any more, until a restart finds it again. */
void store_forget(struct store *s, const struct store_key *key);

/* All that was reported written before this call is on stable storage when this is reported. */
void store_flush(struct store *s, void *user);

enum store_done_kind {
	STORE_DONE_PUT = 1,
	STORE_DONE_GET,
	STORE_DONE_BUMP,
	STORE_DONE_FLUSH,
	STORE_DONE_SCRUB,
};

#define STORE_DONE_FREED 1u /* of a get that was reported -ETIME: the memory is free now */

struct store_done {
	void *user;
	int32_t status;
	uint32_t crc; /* of the page, for GET that gave 0 */
	uint8_t kind;
	uint8_t flags;
};

/* Moves everything on; never waits. Returns how many reports it wrote, at most n. */
uint32_t store_poll(struct store *s, uint64_t now_ns, struct store_done *ret, uint32_t n);
/* Sleeps until there may be something to poll, at most that long. For tools and tests. */
void store_wait(struct store *s, uint64_t timeout_ns);

/* ---- size ---------------------------------------------------------------------------------- */

/*
 * A part becomes that large. Smaller: the segments behind are evicted, then the file is cut; 0: the
 * part is left once it is empty: its superblocks are wiped, and its file is closed. -EINVAL: that
 * is too small, or there is no such part; -ENOSPC: too large; -EBUSY: it shrinks already, and to
 * less; or it is the last that is there.
 */
int store_resize(struct store *s, uint32_t part, uint64_t bytes);

/* What that would do. */
struct store_resize_plan {
	uint64_t bytes;     /* that it would have: whole segments */
	uint64_t bytes_min; /* it can not have less, but 0 */
	uint32_t segments;  /* emptied */
	uint64_t pages;     /* in them, at most: carried forward, or lost */
};
/* As store_resize(). */
int store_resize_plan(const struct store *s, uint32_t part, uint64_t bytes,
		      struct store_resize_plan *ret);
/* A part, or any, is on its way to be smaller, or to leave. */
bool store_part_resizing(const struct store *s, uint32_t part);
bool store_resizing(const struct store *s);

/* ---- checking ------------------------------------------------------------------------------ */

/*
 * Reads every page that is there, beside the load, and compares it with its checksum. What is wrong
 * is found no longer. Reported 0 when it has been everywhere. -EBUSY: a check is under way.
 */
int store_scrub(struct store *s, void *user);

struct store_scrub_stats {
	uint64_t pages, bytes; /* as they were written */
	uint64_t bad;          /* pages that are not */
	uint64_t unreadable;   /* pages of which the read failed */
	uint64_t unknown;      /* pages of segments whose table can not be read */
	uint32_t segments_done, segments;
	bool active;
};

/* ---- figures ------------------------------------------------------------------------------- */

enum store_transfer { STORE_READ, STORE_WRITE, STORE_FLUSH, STORE_TRANSFERS };

/* Transfers by how long they took: bucket i is of 2^i to 2^(i+1) ns, the last of all above. */
#define STORE_LATENCY_BUCKETS 40u

struct store_part_stats {
	char path[STORE_PATH_MAX];
	uint64_t bytes, bytes_wanted; /* differ while it shrinks */
	uint32_t segments, segments_free, segments_bad;
	uint64_t read_bytes, written_bytes;
	uint32_t reads_in_flight, writes_in_flight, queued;
	int32_t failed; /* -errno that took it off; 0 */
	bool left;      /* it was emptied, and is no part any more */
	/* of what a drive sees: neighbours that go together are one */
	uint64_t latency[STORE_TRANSFERS][STORE_LATENCY_BUCKETS];
};

/* No pointers: it is copied to where others read it. */
struct store_stats {
	char engine[16];
	uint64_t pages, pages_max, index_bytes;
	uint64_t bytes, bytes_used;
	uint64_t segment_bytes;
	uint64_t puts, puts_failed, puts_present;
	uint64_t gets, gets_missed, gets_late, gets_failed;
	uint64_t mismatches; /* read, and not what was written */
	uint64_t page_bytes_read, page_bytes_written;
	uint64_t evicted_pages, forward_pages, forward_bytes;
	uint64_t bounced; /* pages through memory of the store's: not aligned */
	uint64_t flushes, flushes_failed;
	uint64_t commits;
	uint64_t recovered_pages, recovered_stale, recovered_torn, recovered_segments;
	uint64_t recovered_lost; /* of tables that can not be read any more, and not scanned up */
	uint64_t recovery_ns, index_ns; /* of the open: all of it, and the index alone */
	uint32_t namespaces, parts;
	struct store_scrub_stats check; /* under way, or the last */
	bool reset; /* at open a part was taken for empty: no two superblocks agreed */
	struct store_part_stats part[STORE_PARTS_MAX];
};

void store_stats(const struct store *s, struct store_stats *ret);
