/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Checksums and the threads that make them; see sum.h.
 *
 * Threads stay on processors of the node where the memory is: a checksum is one read of it, and a
 * read across nodes costs more than the arithmetic. Only processors that the process may use anyway
 * are taken, so that an operator's own pinning holds.
 */

#include "broker/mover/sum.h"

#include <errno.h>
#include <isa-l/crc.h>
#include <numaif.h>
#include <sched.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "broker/mover/point.h"
#include "numa/placement.h"

#define PIECE_BYTES 4096u
#define AHEAD_BYTES 8192u
#define STEP_BYTES (256u << 10) /* tens of us: the lock costs nothing then, and none waits long */

/*
 * The memory was written by a device, so that none of it is in a cache, and what fetches ahead in
 * the processor stops at each small page. Fetching by hand is worth a sixth with eight threads.
 */
static void fetch_ahead(const char *at, uint64_t left)
{
	uint64_t end = left < AHEAD_BYTES + PIECE_BYTES ? left : AHEAD_BYTES + PIECE_BYTES;

	for (uint64_t i = AHEAD_BYTES; i < end; i += 64)
		__builtin_prefetch(at + i, 0, 2);
}

void mover_sum_make(struct mover_page *page)
{
	uint32_t crc = UINT32_MAX;

	for (uint32_t r = 0; r < page->regions; r++) {
		const char *at = page->mem + r * page->next_bytes;
		uint64_t left = page->stride_bytes;

		while (left) {
			uint32_t n = left < PIECE_BYTES ? (uint32_t)left : PIECE_BYTES;

			fetch_ahead(at, left);
			/* Its argument is not const, though it only reads. */
			crc = crc32_iscsi((unsigned char *)(uintptr_t)at, (int)n, crc);
			at += n;
			left -= n;
		}
	}
	page->sum = ~crc;
	page->error = mover_point("mover-sum");
}

/* ---- the threads --------------------------------------------------------------------------- */

/* The next pages, of the oldest job that has some; waits for them. 0: the end. */
static uint32_t take_pages(struct mover_sums *s, struct mover_sum_job **ret_job,
			   struct mover_page **ret)
{
	struct mover_sum_job *job;
	uint32_t n;

	while (!s->first && !s->end)
		pthread_cond_wait(&s->work, &s->lock);
	if (s->end)
		return 0;
	job = s->first;
	n = job->n - job->next < job->step ? job->n - job->next : job->step;
	*ret_job = job;
	*ret = &job->page[job->next];
	job->next += n;
	if (job->next == job->n) {
		s->first = job->after;
		if (!s->first)
			s->last = NULL;
	}
	return n;
}

static void *thread_main(void *arg)
{
	struct mover_sums *s = arg;
	const uint64_t one = 1;
	struct mover_sum_job *job;
	struct mover_page *page;
	uint32_t n;

	pthread_mutex_lock(&s->lock);
	while ((n = take_pages(s, &job, &page))) {
		pthread_mutex_unlock(&s->lock);
		for (uint32_t i = 0; i < n; i++)
			mover_sum_make(&page[i]);
		pthread_mutex_lock(&s->lock);
		job->left -= n;
		if (job->left == 0)
			(void)!write(s->event, &one, sizeof(one));
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

/* ---- the pool ------------------------------------------------------------------------------ */

/* The node of a page of memory; -1: not to be told. */
static int node_of(const void *mem)
{
	int node = -1;

	if (get_mempolicy(&node, NULL, 0, (void *)(uintptr_t)mem, MPOL_F_NODE | MPOL_F_ADDR) < 0)
		return -1;
	return node;
}

/* What of the processors that this process may use is near. False: nothing, or not known. */
static bool processors_near(const void *mem, cpu_set_t *ret)
{
	const int node = node_of(mem);

	return node >= 0 && placement_processors((uint32_t)node, ret);
}

/* As many threads as can be had. A positive errno: none. */
static int start_threads(struct mover_sums *s, uint32_t threads, const void *near)
{
	pthread_attr_t attr;
	cpu_set_t cpus;
	int error = pthread_attr_init(&attr);

	if (error)
		return error;
	if (processors_near(near, &cpus))
		pthread_attr_setaffinity_np(&attr, sizeof(cpus), &cpus);
	do {
		error = pthread_create(&s->thread[s->threads], &attr, thread_main, s);
		s->threads += error == 0;
	} while (!error && s->threads < threads);
	pthread_attr_destroy(&attr);
	return s->threads ? 0 : error;
}

int mover_sums_open(struct mover_sums *s, uint32_t threads, const void *near)
{
	int error;

	memset(s, 0, sizeof(*s));
	s->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->event < 0)
		return -errno;
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->work, NULL);
	s->open = true;
	error = start_threads(s, threads < MOVER_SUM_THREADS_MAX ? threads : MOVER_SUM_THREADS_MAX,
			      near);
	if (error)
		mover_sums_close(s);
	return -error;
}

void mover_sums_close(struct mover_sums *s)
{
	if (!s->open)
		return;
	pthread_mutex_lock(&s->lock);
	s->end = true;
	pthread_cond_broadcast(&s->work);
	pthread_mutex_unlock(&s->lock);
	for (uint32_t i = 0; i < s->threads; i++)
		pthread_join(s->thread[i], NULL);
	pthread_cond_destroy(&s->work);
	pthread_mutex_destroy(&s->lock);
	close(s->event);
	memset(s, 0, sizeof(*s));
}

int mover_sums_event(const struct mover_sums *s)
{
	return s->open ? s->event : -1;
}

void mover_sums_submit(struct mover_sums *s, struct mover_sum_job *job)
{
	const uint64_t page_bytes = job->page->regions * job->page->stride_bytes;

	job->step = page_bytes < STEP_BYTES ? (uint32_t)(STEP_BYTES / page_bytes) : 1;
	job->next = 0;
	job->left = job->n;
	job->after = NULL;
	pthread_mutex_lock(&s->lock);
	if (s->last)
		s->last->after = job;
	else
		s->first = job;
	s->last = job;
	if (job->n > job->step)
		pthread_cond_broadcast(&s->work);
	else
		pthread_cond_signal(&s->work);
	pthread_mutex_unlock(&s->lock);
}

bool mover_sums_done(struct mover_sums *s, const struct mover_sum_job *job)
{
	bool done;

	pthread_mutex_lock(&s->lock);
	done = job->left == 0;
	pthread_mutex_unlock(&s->lock);
	return done;
}
