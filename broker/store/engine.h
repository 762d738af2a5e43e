/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Transfers between memory and the parts of a store: what is common to all engines.
 *
 * An engine_io is one transfer, its maker's until engine_submit() and again when done() is called.
 * Here they wait in queues, two a part: reads that somebody waits for, and the rest (write-back,
 * reads of evictions, flushes). Reads go first. At most `depth` flights are with the kernel a part,
 * at most `depth_write` of them from the second queue, and while reads are wanted only
 * `depth_beside`: so write-back never stands between a reader and the drive. They count as wanted
 * for a while after the last of them: who reads one page after the other shall not find a burst of
 * writes before each.
 *
 * A flight is one or more transfers that are neighbours on disk and of one kind. It is done as a
 * whole or not at all: a short count is -EIO for every one of them, since half a page is none. Only
 * a failed flight of several reads is tried again one by one, so that a bad place takes nobody
 * along. -EAGAIN and -EINTR are tried again. A flush waits for nothing and orders nothing; who
 * needs order waits for what goes before it.
 *
 * The ops below are what differs: io_uring, a pool of threads, and the simulated disk of the tests.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define ENGINE_FILES_MAX 16u
#define ENGINE_FLIGHT_BYTES_MAX (2u << 20) /* of several together */
#define ENGINE_FLIGHT_IOV_MAX 256u
#define ENGINE_TRIES 8u
#define ENGINE_WANTED_NS (2ull * 1000 * 1000)

enum engine_op { ENGINE_READ, ENGINE_WRITE, ENGINE_FLUSH, ENGINE_OPS };

#define ENGINE_LATENCY_BUCKETS 40u /* powers of two of ns */

struct engine_io {
	uint8_t op;
	uint8_t file;
	bool wanted; /* a read that somebody waits for */
	bool alone;
	uint8_t tries;
	uint16_t n_iov;
	int32_t res; /* 0, or -errno */
	uint64_t offset;
	uint32_t bytes; /* the sum of the pieces */
	const struct iovec *iov;
	void (*done)(struct engine_io *io);
	void *owner;
	struct engine_io *next;
};

struct engine_flight {
	uint8_t op;
	uint8_t file;
	bool second; /* from the second queue */
	uint64_t offset;
	uint32_t bytes;
	uint32_t n_iov;
	int64_t res; /* bytes, or -errno */
	uint64_t began_ns;
	struct engine_io *first;
	struct engine_flight *next; /* free list; the engine's own while it flies */
	struct iovec iov[ENGINE_FLIGHT_IOV_MAX];
};

struct engine;

struct engine_file_info {
	uint64_t bytes;
	uint32_t align_mem, align_bytes; /* of direct transfers */
	bool device;
	bool made; /* there was nothing */
};

/* What a file is opened for; see file.c. */
struct engine_file_want {
	const char *path;
	uint64_t bytes; /* of one to be made, or to be used at most; 0: all there is */
	uint32_t lock_wait_ms;
	bool read_only;
};

struct engine_file_ops {
	/* Returns an fd, or -errno. */
	int (*open)(void *arg, const struct engine_file_want *want, struct engine_file_info *ret,
		    char *why, size_t why_bytes);
	void (*close)(void *arg, int fd);
	/* A file gets that size, with room on the disk. */
	int (*resize)(void *arg, int fd, uint64_t bytes);
	/* 0: it is still the one of that path, and has so many bytes. */
	int (*check)(void *arg, int fd, uint64_t bytes);
};

struct engine_ops {
	const char *name;
	/* How files are opened, locked, given a size and looked at; NULL: as file.c does. */
	const struct engine_file_ops *file_ops;
	/* flights: at most so many at a time. */
	int (*start)(struct engine *e, uint32_t flights);
	void (*finish)(struct engine *e);
	/* The files, by number, are these now. */
	int (*files)(struct engine *e);
	/* From now on f is the engine's, until engine_landed(). */
	void (*fly)(struct engine *e, struct engine_flight *f);
	void (*push)(struct engine *e); /* tells the kernel of what was given to fly() */
	void (*reap)(struct engine *e); /* calls engine_landed() for what is over; never waits */
	void (*wait)(struct engine *e, uint64_t timeout_ns);
	int (*memory)(struct engine *e); /* the list of memory changed */
	bool (*pending)(const struct engine *e);
};

#define ENGINE_MEMORY_MAX 256u

struct engine_memory {
	char *mem; /* NULL: free */
	uint64_t bytes;
	bool registered;
};

struct engine_queue {
	struct engine_io *first, *last;
};

struct engine_file {
	int fd; /* -1: none */
	struct engine_queue wanted, rest;
	uint32_t in_flight, in_flight_rest, queued;
	uint64_t wanted_ns; /* when a read was last wanted */
	uint64_t read_bytes, written_bytes;
	uint64_t latency[ENGINE_OPS][ENGINE_LATENCY_BUCKETS]; /* flights, however they ended */
};

struct engine {
	const struct engine_ops *ops;
	void *own; /* of the ops */
	void *ops_arg;
	int event; /* readable: something landed */
	uint32_t depth, depth_write, depth_beside;
	uint32_t flights, flying;
	uint64_t landed;   /* counts */
	uint64_t now_ns;   /* as the owner sets it; any clock */
	uint64_t stamp_ns; /* when flights begin and end, for figures; 0: not looked at yet */
	struct engine_flight *flight, *free;
	struct engine_queue done; /* to be reported, outside of the ops */
	struct engine_file file[ENGINE_FILES_MAX];
	struct engine_memory memory[ENGINE_MEMORY_MAX];
};

struct engine_cfg {
	const struct engine_ops *ops; /* NULL: the best there is */
	void *ops_arg;
	bool threads;
	uint32_t depth, depth_write, depth_beside, files;
};

int engine_open(struct engine *e, const struct engine_cfg *cfg);
/* Nothing may be in flight. */
void engine_close(struct engine *e);

/* Gives the fd to the engine to transfer on; it stays the caller's to close. -1: takes it back. */
int engine_file_set(struct engine *e, uint32_t file, int fd);

void engine_submit(struct engine *e, struct engine_io *io);
/* Starts what may start, takes what is over, calls done(). Never waits. */
void engine_turn(struct engine *e);
void engine_wait(struct engine *e, uint64_t timeout_ns);
bool engine_pending(const struct engine *e);
/* Until nothing is queued nor in flight. */
void engine_drain(struct engine *e);
/* Starts nothing any more, and waits for what flies; done() of it is called. */
void engine_settle(struct engine *e);

int engine_memory_add(struct engine *e, void *mem, uint64_t bytes);
void engine_memory_remove(struct engine *e, void *mem);
/* The number of the registered memory that holds all of it; -1. */
int engine_memory_find(const struct engine *e, const void *mem, uint64_t bytes);

/* For the ops: f->res is set. */
void engine_landed(struct engine *e, struct engine_flight *f);

extern const struct engine_file_ops engine_file_real_ops;
extern const struct engine_ops engine_uring_ops;
extern const struct engine_ops engine_threads_ops;
