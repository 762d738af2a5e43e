/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Inside of a store.
 *
 *   store.c     keys, turns, figures
 *   life.c      open and close
 *   super.c     superblocks and the table of namespaces: reading, choosing, committing
 *   recover.c   what is found at open
 *   write.c     puts: groups, and the segment they are appended to
 *   segment.c   life of segments: opened, closed, poisoned; flushes
 *   evict.c     segments emptied, hot pages carried forward
 *   read.c      gets
 *   resize.c    parts that grow, shrink and leave
 *   scrub.c     the check of all pages beside the load
 *
 * Segment states. All but FREE and BAD hold pages that are found.
 *
 *   FREE --open--> OPENING --trailer durable--> READY --first group--> OPEN
 *        OPEN --full--> CLOSING --groups over, flush, table--> CLOSED --evict--> EVICTING --> FREE
 *   any --flush failed, three mismatches--> BAD (until the next start)
 *   FREE --part shrinks--> GONE
 *
 * A segment that had a failed write is closed without a table: a scan at the next start finds what
 * was reported before.
 */

#include <stdarg.h>
#include <stdio.h>

#include "broker/io/fault.h"
#include "broker/store/engine.h"
#include "broker/store/format.h"
#include "broker/store/index.h"
#include "broker/store/store.h"

#define REQUESTS_MAX 2048u
#define GROUPS_MAX 4u /* in flight a part */
#define GROUP_BYTES_MAX (8u << 20)
#define MISMATCHES_MAX 3u /* that retire a segment */
#define FAILURES_MAX 8u   /* in a row, that take a part off */
#define FORWARDS_MAX 8u   /* in flight a part */
#define SEGMENTS_MIN 4u   /* of a part */

enum segment_state {
	SEGMENT_FREE,
	SEGMENT_OPENING,
	SEGMENT_READY,
	SEGMENT_OPEN,
	SEGMENT_CLOSING,
	SEGMENT_CLOSED,
	SEGMENT_EVICTING,
	SEGMENT_BAD,
	SEGMENT_GONE,
};

struct segment {
	uint64_t seq;
	uint32_t part;
	uint32_t index;     /* in the part */
	uint32_t next_unit; /* where the next group goes */
	uint32_t count;     /* pages described */
	uint32_t expected;  /* a table that could not be read had so many */
	uint32_t readers;
	uint32_t groups; /* in flight */
	uint8_t state;
	uint8_t mismatches;
	bool table_on_disk;
	bool failed;          /* a write */
	bool dirty, covering; /* written, and no flush since, or one is on its way */
	struct format_desc *table;
	uint32_t table_room;
};

/* A flush of a part that somebody waits for. */
struct flush_wait {
	void (*done)(struct store *s, void *arg, int status);
	void *arg;
	struct flush_wait *next;
};

enum request_kind { REQUEST_PUT, REQUEST_GET, REQUEST_FORWARD };

/* A put, a get, or a page that is carried forward: read, then put. */
struct request {
	struct engine_io io;
	struct request *next;
	uint8_t kind;
	bool has_crc;
	bool late;  /* a get that was reported -ETIME */
	bool timed; /* on the list of deadlines */
	bool unchecked;
	uint32_t bytes;
	uint32_t crc;
	uint32_t segment; /* a get: being read */
	uint16_t unit;
	struct store_key key;
	struct index_tag tag;
	void *user;
	uint64_t deadline_ns;
	struct request *time_next, **time_link;
	char *bounce;
	uint32_t n;                               /* the caller's pieces */
	struct iovec piece[STORE_PIECES_MAX + 1]; /* and what fills the last unit */
	struct iovec direct[2];                   /* with a bounce buffer */
};

struct group {
	struct group *next; /* of the part, in order */
	struct segment *segment;
	struct engine_io io; /* of the block */
	struct iovec iov;
	char *block;
	uint32_t left; /* transfers not over */
	bool failed;
	uint32_t n;
	struct request *request[FORMAT_GROUP_MAX];
};

/* Writing the superblocks of a part: copies 0 and 1, a flush, 2 and 3, a flush. */
struct commit {
	struct engine_io io[FORMAT_COPIES];
	struct iovec iov[FORMAT_COPIES][2];
	struct format_super *block[FORMAT_COPIES];
	char *table; /* as of the start */
	struct flush_wait flush;
	struct part *part;
	uint32_t step, left;
	bool active;
};

struct evict {
	struct segment *segment; /* NULL: none */
	struct engine_io io;
	struct iovec iov;
	char *table;
	uint32_t next, in_flight;
	uint32_t budget_units; /* that may still be carried forward */
	bool read;
	bool carried;     /* something; so flushes come before the end */
	uint32_t flushes; /* on their way */
	struct flush_wait flush[STORE_PARTS_MAX];
};

/* A part that shrank to nothing: its superblocks are wiped, then its file is closed. */
enum part_leave { PART_STAYS, PART_EMPTY, PART_WIPED, PART_LEFT };

struct part {
	struct store *s;
	uint32_t number;
	char path[STORE_PATH_MAX];
	int fd;
	uint32_t fold; /* of its uuid: what is on disk says whose it is */
	struct engine_file_info info;
	struct format_super super;
	uint64_t bytes_wanted;
	uint32_t segments;        /* of the part, now */
	uint32_t segments_wanted; /* fewer while it shrinks */
	uint32_t *id;             /* of them, in the store's table */
	uint32_t ids;             /* more than segments once it shrank: kept for when it grows */
	int failed;
	uint8_t leave;     /* enum part_leave; not PART_STAYS: failed is set too */
	int leave_error;   /* its superblocks could not be wiped */
	uint32_t failures; /* in a row */
	uint64_t checked_ns;

	struct segment *open, *ready, *opening, *closing;
	struct engine_io open_io, close_io;
	struct iovec open_iov, close_iov;
	struct flush_wait open_flush, close_flush;
	char *open_block, *close_mem;

	struct request *puts, **puts_end; /* not yet in a group */
	uint32_t puts_n;
	uint64_t puts_bytes;
	struct group group[GROUPS_MAX], *group_free, *groups, **groups_end;

	struct engine_io flush_io;
	bool flushing;
	bool unflushed; /* something was written since the last flush began */
	struct flush_wait *flush_wanted, *flush_active;
	uint64_t flushed_ns;

	struct commit commit;
	struct evict evict;
};

#define SCRUB_READS 2u /* in flight */

struct scrub_read {
	struct engine_io io;
	struct iovec iov;
	struct format_desc desc;
	struct index_tag tag;
	uint32_t segment;
	char *mem; /* NULL: none is in flight */
};

struct scrub {
	bool active;
	void *user;
	uint32_t segment, next; /* where it is */
	uint64_t seq;           /* of that segment: another one, and it is another segment */
	struct engine_io io;    /* of the table */
	struct iovec iov;
	char *table;
	bool reading, read; /* the table */
	struct scrub_read page[SCRUB_READS];
	uint32_t in_flight;
	struct store_scrub_stats stats;
};

/* A bump or a flush of the caller's, until it is reported. */
struct waiter {
	struct waiter *next;
	struct flush_wait flush[STORE_PARTS_MAX];
	void *user;
	uint32_t left;
	int status;
};

struct done_list {
	struct store_done *done;
	uint32_t head, n, room;
};

struct store {
	struct store_cfg cfg;
	struct engine engine;
	const struct engine_file_ops *file_ops;
	struct store_index index;
	uint64_t index_bytes;
	uint64_t tag_secret;
	uint64_t seq;
	uint64_t super_seq;
	uint64_t now_ns;
	uint8_t uuid[16];
	uint64_t secret[2];
	uint32_t segment_units;
	struct part *part;
	uint32_t parts;
	struct segment *segment;
	uint32_t segments;
	struct format_ns *ns;
	uint32_t ns_count;
	bool commit_wanted, committing, clean;
	bool closing;         /* nothing new is begun */
	bool more;            /* to do, and no event will tell */
	uint32_t commit_left; /* parts */
	int commit_status;
	struct waiter *bumps_waiting, *bumps_active;
	struct request *request, *request_free;
	uint32_t requests; /* in use */
	struct request *timed;
	uint64_t timed_next_ns; /* no deadline before */
	struct done_list reports;
	struct scrub scrub;
	char *zeros, *scratch; /* a unit each */
	char *blocks;          /* of the groups */
	uint64_t blocks_bytes;
	struct store_stats stats;
};

/* ---- store.c ------------------------------------------------------------------------------- */

void store_tag(const struct store *s, const uint64_t where[2], const uint64_t chain[2],
	       uint32_t epoch, struct index_tag *ret);
void store_report(struct store *s, const struct store_done *done);
void *store_units(uint64_t units);     /* aligned, zeroed; free() */
void *store_units_raw(uint64_t units); /* not zeroed */
bool store_locate(const struct store *s, const struct store_key *key, const struct index_tag *tag,
		  struct index_place *ret);
struct request *store_request_new(struct store *s);
void store_request_free(struct store *s, struct request *r);
/* Bytes of a page in such pieces; 0: none that may be put or got. */
uint64_t store_page_bytes(const struct iovec *piece, uint32_t n);
/* The page that r describes, as vectors that suit direct I/O. For a write the bytes are there.
 * -ENOMEM. */
int store_request_direct(struct store *s, const struct part *p, struct request *r, bool write);
void store_part_fail(struct part *p, int error);
void store_failure(struct part *p, int error); /* one more */
uint32_t store_crc_pieces(const struct iovec *piece, uint32_t n);
/* Moves the parts on, but for what the caller asked for. */
void store_turn(struct store *s);
/* Of a flush that the caller asked for. arg: its waiter. */
void store_flush_ended(struct store *s, void *arg, int status);

/* ---- super.c ------------------------------------------------------------------------------- */

/* Reads the copies of a part. 0: p->super is what counts and *ret_ns its table (free()); >0: there
 * is nothing; -EMEDIUMTYPE, -EUCLEAN (damaged beyond choice), -EIO. */
int super_read(struct store *s, struct part *p, struct format_ns **ret_ns, char *why,
	       size_t why_bytes);
void super_commit_start(struct store *s);
/* Until no commit is wanted or active. */
int super_commit_sync(struct store *s);
int super_commit_init(struct part *p);
void super_commit_finish(struct part *p);

/* ---- recover.c ----------------------------------------------------------------------------- */

int recover_parts(struct store *s, char *why, size_t why_bytes);
int recover_pages(struct store *s);
/* A transfer, waited for. 0 or -errno. */
int recover_read(struct store *s, struct part *p, uint64_t offset, void *mem, uint32_t bytes);

/* ---- segment.c ----------------------------------------------------------------------------- */

uint64_t segment_offset(const struct store *s, const struct segment *g);
uint32_t segment_id(const struct store *s, const struct segment *g);
/* A transfer of its last units, as many as iov has: of its table, or of the trailer alone. */
struct engine_io segment_tail_io(const struct store *s, const struct segment *g,
				 const struct iovec *iov, enum engine_op op,
				 void (*done)(struct engine_io *), void *owner);
void segment_drop_pages(struct store *s, struct segment *g);
void segment_poison(struct store *s, struct segment *g);
void segment_freed(struct store *s, struct segment *g);
/* The next to be appended to, ready; NULL: not yet. */
struct segment *segment_take_ready(struct part *p);
void segment_prepare(struct part *p); /* has one made ready, if that is wanted */
void segment_close(struct part *p, struct segment *g);
void segment_close_turn(struct part *p);
struct segment *segment_find_free(const struct part *p);
/* What was read as the table of a closed segment is that. */
bool segment_table_good(const struct store *s, const struct segment *g, const char *table);
bool segment_describe(struct segment *g, const struct format_desc *d);
void flush_wait(struct part *p, struct flush_wait *w);
void flush_turn(struct part *p);

/* ---- write.c, evict.c, read.c -------------------------------------------------------------- */

void write_turn(struct part *p);
void write_queue(struct part *p, struct request *r);
void write_refuse(struct part *p, int error); /* all that is queued */
int write_init(struct part *p, char *blocks);
struct part *write_choose_part(struct store *s);

void evict_turn(struct part *p);
void evict_forwarded(struct part *p, struct request *r, int status);
void evict_free(struct part *p);

/* A page that is not what was written. */
void read_mismatch(struct store *s, struct segment *g, const struct index_tag *tag, uint16_t unit);
int read_start(struct store *s, struct request *r, const struct index_place *at,
	       void (*done)(struct engine_io *));
void read_deadlines(struct store *s);

/* ---- resize.c, scrub.c --------------------------------------------------------------------- */

void resize_turn(struct part *p);

void scrub_turn(struct store *s);
void scrub_stats(const struct store *s, struct store_scrub_stats *ret);
void scrub_free(struct store *s);
