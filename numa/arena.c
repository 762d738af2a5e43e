/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Chunks of an arena: made, placed, filled, looked at by its thread; pieces of them given out.
 *
 * Filling is by a few threads at once, on processors next to the node, a stretch each at a time: on
 * huge pages where the system gives them (they are filled, page-locked and read a good deal
 * faster), the rest by MADV_POPULATE_WRITE: page faults of one file run beside each other,
 * fallocate() does not. Kernels without it (before 5.14) fill by fallocate(). Either fails with an
 * error when memory is short; touching would be a signal.
 *
 * A pool of huge pages is asked how many it has free on the node first, because its pages are lent
 * from other nodes as readily; one that turns out to have less after all, or a system that refuses
 * any step of it, costs the attempt, and the chunk is made of ordinary memory.
 *
 * What the thread says is under the lock. The bitmaps of used units, and how much of what was said
 * has been looked at, are the caller's alone.
 */

#include "numa/arena.h"
#include "numa/huge.h"
#include "numa/placement.h"
#include "numa/topology.h"

#include <errno.h>
#include <fcntl.h>
#include <numaif.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21u << 26)
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

#define ARENA_STRETCH_BYTES                                                                        \
	(256ull << 20) /* filled by one call: an end of the arena waits for it                     \
			*/
#define ARENA_THREADS_MAX 8u
#define ARENA_LOOK_PAGES 1024u
#define ARENA_WORD_BITS (8 * sizeof(unsigned long))

struct arena_chunk {
	int fd;
	bool hugetlb;
	uint64_t bytes;
	uint64_t *used; /* a bit a unit */
};

struct arena {
	uint32_t node;
	uint64_t chunk_bytes, unit_bytes;
	uint32_t chunks;
	struct arena_chunk *chunk;
	uint64_t used_bytes;
	uint32_t seen;  /* chunks, at the last look */
	bool seen_done; /* and whether more come */
	int event_fd;
	pthread_t thread;
	bool started;
	bool stop; /* atomic */
	pthread_mutex_t lock;
	struct arena_status status; /* these two under the lock */
	uint32_t ready;
};

/* One chunk being filled, by several threads. */
struct arena_fill {
	struct arena *arena;
	char *memory;
	uint64_t bytes;
	uint64_t next;      /* atomic: the next stretch */
	int error;          /* atomic: of whoever failed last */
	bool plain;         /* huge pages are not to be asked for, or not to be had */
	uint64_t thp_bytes; /* atomic: came to lie on some */
};

static bool arena_stops(const struct arena *a)
{
	return __atomic_load_n(&a->stop, __ATOMIC_RELAXED);
}

static void arena_notify(struct arena *a)
{
	const uint64_t one = 1;

	/* Cannot fail but when the counter is full, and then the event is there. */
	if (write(a->event_fd, &one, sizeof(one)) < 0)
		return;
}

/* ---- filling ------------------------------------------------------------------------------- */

static int chunk_memfd(uint64_t bytes, bool hugetlb)
{
	const unsigned flags =
		MFD_CLOEXEC | MFD_ALLOW_SEALING | (hugetlb ? MFD_HUGETLB | MFD_HUGE_2MB : 0);
	int fd = memfd_create("kvb-arena", flags | MFD_NOEXEC_SEAL);
	int error;

	/* Kernels before 6.3 do not know the flag. */
	if (fd < 0 && errno == EINVAL)
		fd = memfd_create("kvb-arena", flags);
	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)bytes) == 0 &&
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
		return fd;
	error = -errno;
	close(fd);
	return error;
}

static void *fill_main(void *arg)
{
	struct arena_fill *f = arg;

	while (!arena_stops(f->arena)) {
		uint64_t at = __atomic_fetch_add(&f->next, ARENA_STRETCH_BYTES, __ATOMIC_RELAXED);
		bool plain = __atomic_load_n(&f->plain, __ATOMIC_RELAXED);
		uint64_t bytes;

		if (at >= f->bytes)
			break;
		bytes = f->bytes - at < ARENA_STRETCH_BYTES ? f->bytes - at : ARENA_STRETCH_BYTES;
		if (!plain && huge_collapse(f->memory + at, bytes))
			__atomic_fetch_add(&f->thp_bytes, bytes, __ATOMIC_RELAXED);
		else if (!plain)
			__atomic_store_n(&f->plain, true, __ATOMIC_RELAXED);
		while (madvise(f->memory + at, bytes, MADV_POPULATE_WRITE) < 0) {
			if (errno == EINTR)
				continue;
			__atomic_store_n(&f->error, -errno, __ATOMIC_RELAXED);
			return NULL;
		}
	}
	return NULL;
}

/* Half of the processors this thread may use: engines want the others. */
static unsigned fill_threads(void)
{
	cpu_set_t set;
	unsigned n = 1;

	if (sched_getaffinity(0, sizeof(set), &set) == 0)
		n = (unsigned)CPU_COUNT(&set) / 2;
	return n < 1 ? 1 : n > ARENA_THREADS_MAX ? ARENA_THREADS_MAX : n;
}

static int chunk_fill(struct arena *a, const struct arena_chunk *c, char *memory,
		      uint64_t *ret_thp_bytes)
{
	struct arena_fill f = {
		.arena = a,
		.memory = memory,
		.bytes = c->bytes,
		.plain = c->hugetlb,
	};
	pthread_t thread[ARENA_THREADS_MAX];
	unsigned n = 0, want = fill_threads() - 1;

	while (n < want && pthread_create(&thread[n], NULL, fill_main, &f) == 0)
		n++;
	fill_main(&f);
	while (n > 0)
		pthread_join(thread[--n], NULL);
	if (f.error == -EINVAL)
		f.error = fallocate(c->fd, 0, 0, (off_t)c->bytes) < 0 ? -errno : 0;
	*ret_thp_bytes = f.thp_bytes;
	return f.error;
}

/* 0, or -errno: the system does not let us say where memory is to be. */
static int chunk_place(const struct arena *a, void *memory, uint64_t bytes)
{
	unsigned long nodes[TOPOLOGY_NODES_MAX / ARENA_WORD_BITS] = { 0 };

	nodes[a->node / ARENA_WORD_BITS] = 1ul << (a->node % ARENA_WORD_BITS);
	return mbind(memory, bytes, MPOL_PREFERRED, nodes, TOPOLOGY_NODES_MAX + 1, 0) < 0 ? -errno
											  : 0;
}

/* How much of it lies elsewhere. 0, or -errno: the system does not tell. */
static int chunk_look(const struct arena *a, const struct arena_chunk *c, char *memory,
		      uint64_t *ret_wrong)
{
	uint64_t page = c->hugetlb ? HUGE_BYTES : (uint64_t)sysconf(_SC_PAGESIZE), wrong = 0;
	void *pages[ARENA_LOOK_PAGES];
	int status[ARENA_LOOK_PAGES];

	for (uint64_t at = 0; at < c->bytes && !arena_stops(a);) {
		unsigned long n = 0;

		for (; n < ARENA_LOOK_PAGES && at < c->bytes; n++, at += page)
			pages[n] = memory + at;
		if (move_pages(0, n, pages, NULL, status, 0) < 0)
			return -errno;
		for (unsigned long i = 0; i < n; i++)
			wrong += status[i] >= 0 && (uint32_t)status[i] != a->node ? page : 0;
	}
	*ret_wrong = wrong;
	return 0;
}

/* What is said of it when it is there. */
struct chunk_report {
	uint64_t wrong_bytes, thp_bytes;
	int unplaced, unseen;
};

/* A chunk of the one memory or the other. 0: it is there; -errno: nothing is left of it. */
static int chunk_try(struct arena *a, struct arena_chunk *c, bool hugetlb, struct chunk_report *ret)
{
	int fd = chunk_memfd(c->bytes, hugetlb), error;
	char *memory;

	if (fd < 0)
		return fd;
	c->fd = fd;
	c->hugetlb = hugetlb;
	memory = huge_map(fd, c->bytes);
	error = memory ? 0 : -errno;
	if (error == 0) {
		ret->unplaced = chunk_place(a, memory, c->bytes);
		error = chunk_fill(a, c, memory, &ret->thp_bytes);
	}
	if (error == 0)
		ret->unseen = chunk_look(a, c, memory, &ret->wrong_bytes);
	if (memory)
		munmap(memory, c->bytes);
	if (error == 0 && arena_stops(a))
		error = -ECANCELED;
	if (error) {
		close(fd);
		c->fd = -1;
	}
	return error;
}

static int chunk_make(struct arena *a, struct arena_chunk *c)
{
	struct chunk_report report = { 0 };
	int error = -ENOMEM;

	if (topology_pool_free("", a->node, HUGE_BYTES) >= c->bytes / HUGE_BYTES)
		error = chunk_try(a, c, true, &report);
	if (error && !arena_stops(a))
		error = chunk_try(a, c, false, &report);
	if (error)
		return error;
	pthread_mutex_lock(&a->lock);
	a->ready++;
	a->status.filled_bytes += c->bytes;
	a->status.wrong_node_bytes += report.wrong_bytes;
	a->status.hugetlb_bytes += c->hugetlb ? c->bytes : 0;
	a->status.thp_bytes += report.thp_bytes;
	if (report.unplaced)
		a->status.unplaced_error = report.unplaced;
	if (report.unseen)
		a->status.unseen_error = report.unseen;
	pthread_mutex_unlock(&a->lock);
	return 0;
}

static void *arena_main(void *arg)
{
	struct arena *a = arg;
	cpu_set_t near;
	int error = 0;

	/*
	 * This thread and those it starts stay next to the node: filling is quicker, and where
	 * placing is forbidden (mbind() in containers) memory still comes from where it is first
	 * touched. Nothing is lost if it cannot be.
	 */
	if (placement_processors(a->node, &near))
		(void)sched_setaffinity(0, sizeof(near), &near);
	for (uint32_t n = 0; error == 0 && n < a->chunks; n++) {
		error = chunk_make(a, &a->chunk[n]);
		if (error == 0)
			arena_notify(a);
	}
	pthread_mutex_lock(&a->lock);
	a->status.error = error;
	a->status.done = true;
	pthread_mutex_unlock(&a->lock);
	arena_notify(a);
	return NULL;
}

/* ---- life ---------------------------------------------------------------------------------- */

static int arena_lay_out(struct arena *a, uint64_t bytes)
{
	a->chunks = (uint32_t)((bytes + a->chunk_bytes - 1) / a->chunk_bytes);
	a->chunk = calloc(a->chunks, sizeof(*a->chunk));
	if (!a->chunk)
		return -ENOMEM;
	for (uint32_t i = 0; i < a->chunks; i++)
		a->chunk[i].fd = -1;
	for (uint32_t i = 0; i < a->chunks; i++) {
		struct arena_chunk *c = &a->chunk[i];

		c->bytes = bytes < a->chunk_bytes ? bytes : a->chunk_bytes;
		c->used = calloc(c->bytes / a->unit_bytes / 64 + 1, sizeof(*c->used));
		if (!c->used)
			return -ENOMEM;
		bytes -= c->bytes;
	}
	return 0;
}

static bool is_power(uint64_t bytes, uint64_t least)
{
	return bytes >= least && !(bytes & (bytes - 1));
}

int arena_new(uint32_t node, uint64_t bytes, uint64_t chunk_bytes, uint64_t unit_bytes,
	      struct arena **ret)
{
	struct arena *a;
	int error;

	if (!bytes || bytes % ARENA_GRAIN_BYTES || !is_power(unit_bytes, ARENA_GRAIN_BYTES) ||
	    !is_power(chunk_bytes, unit_bytes) || node >= TOPOLOGY_NODES_MAX)
		return -EINVAL;
	a = calloc(1, sizeof(*a));
	if (!a)
		return -ENOMEM;
	a->node = node;
	a->chunk_bytes = chunk_bytes;
	a->unit_bytes = unit_bytes;
	a->status.bytes = bytes;
	pthread_mutex_init(&a->lock, NULL);
	a->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	error = a->event_fd < 0 ? -errno : arena_lay_out(a, bytes);
	if (error == 0)
		error = -pthread_create(&a->thread, NULL, arena_main, a);
	a->started = error == 0;
	if (error) {
		arena_free(a);
		return error;
	}
	*ret = a;
	return 0;
}

struct arena *arena_free(struct arena *a)
{
	if (!a)
		return NULL;
	__atomic_store_n(&a->stop, true, __ATOMIC_RELAXED);
	if (a->started)
		pthread_join(a->thread, NULL);
	for (uint32_t i = 0; a->chunk && i < a->chunks; i++) {
		if (a->chunk[i].fd >= 0)
			close(a->chunk[i].fd);
		free(a->chunk[i].used);
	}
	free(a->chunk);
	if (a->event_fd >= 0)
		close(a->event_fd);
	pthread_mutex_destroy(&a->lock);
	free(a);
	return NULL;
}

int arena_event_fd(const struct arena *a)
{
	return a->event_fd;
}

uint32_t arena_look(struct arena *a, struct arena_status *ret)
{
	uint64_t events;
	ssize_t n = read(a->event_fd, &events, sizeof(events));

	(void)n; /* nothing to read: nothing has changed */
	pthread_mutex_lock(&a->lock);
	*ret = a->status;
	a->seen = a->ready;
	pthread_mutex_unlock(&a->lock);
	a->seen_done = ret->done;
	return a->seen;
}

int arena_chunk(const struct arena *a, uint32_t chunk, uint64_t *ret_bytes)
{
	*ret_bytes = a->chunk[chunk].bytes;
	return a->chunk[chunk].fd;
}

/* ---- pieces -------------------------------------------------------------------------------- */

static bool unit_used(const struct arena_chunk *c, uint64_t unit)
{
	return c->used[unit / 64] >> (unit % 64) & 1;
}

static void units_set(struct arena_chunk *c, uint64_t first, uint64_t n, bool used)
{
	for (uint64_t u = first; u < first + n; u++) {
		if (used)
			c->used[u / 64] |= 1ull << (u % 64);
		else
			c->used[u / 64] &= ~(1ull << (u % 64));
	}
}

/* First unit of a free run of n; UINT64_MAX. */
static uint64_t units_find(const struct arena_chunk *c, uint64_t units, uint64_t n)
{
	uint64_t run = 0;

	for (uint64_t u = 0; u < units; u++) {
		run = unit_used(c, u) ? 0 : run + 1;
		if (run == n)
			return u + 1 - n;
	}
	return UINT64_MAX;
}

int arena_take(struct arena *a, uint64_t bytes, uint32_t *ret_chunk, uint64_t *ret_offset)
{
	uint64_t n = (bytes + a->unit_bytes - 1) / a->unit_bytes;

	for (uint32_t i = 0; n && i < a->seen; i++) {
		struct arena_chunk *c = &a->chunk[i];
		uint64_t unit = units_find(c, c->bytes / a->unit_bytes, n);

		if (unit == UINT64_MAX)
			continue;
		units_set(c, unit, n, true);
		a->used_bytes += n * a->unit_bytes;
		*ret_chunk = i;
		*ret_offset = unit * a->unit_bytes;
		return 0;
	}
	return a->seen_done ? -ENOSPC : -EAGAIN;
}

uint64_t arena_used_bytes(const struct arena *a)
{
	return a->used_bytes;
}

void arena_give(struct arena *a, uint32_t chunk, uint64_t offset, uint64_t bytes)
{
	uint64_t n = (bytes + a->unit_bytes - 1) / a->unit_bytes;

	units_set(&a->chunk[chunk], offset / a->unit_bytes, n, false);
	a->used_bytes -= n * a->unit_bytes;
}
