/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The mover of a `host` device: copies between memfds with the CPU, by a few threads. See
 * gpu_mover.h; it is also what the tests of everything above run on without a GPU.
 *
 * Batches wait in one queue, in the order they came; a thread takes a whole one. The queue is under
 * one mutex; whether a batch is done is an atomic, so that poll takes none. A thread writes to the
 * batch until it sets the state, the caller's thread from then on.
 *
 * fds are checked against the size they stand for before they are mapped: a page beyond the end of
 * a file would be a signal in the middle of a copy. Slabs and arenas are sealed against shrinking.
 */

#include "cuda_driver/gpu_mover_ops.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define HOST_MOVER_THREADS 2u

struct host_batch {
	enum gpu_direction direction;
	uint32_t n;
	struct gpu_copy *copies;
	atomic_bool done;
};

struct host_mover {
	struct gpu_mover base;
	pthread_mutex_t lock;
	pthread_cond_t more;
	bool stop;
	uint32_t head, tail; /* of the queue: tail - head slots wait */
	uint32_t queue[GPU_MOVER_BATCHES_MAX];
	uint32_t threads_count;
	pthread_t threads[HOST_MOVER_THREADS];
	struct host_batch batches[GPU_MOVER_BATCHES_MAX];
};

static struct host_mover *host_mover_of(struct gpu_mover *mover)
{
	return (struct host_mover *)mover; /* base is the first member */
}

/* The next batch; NULL: none comes any more. */
static struct host_batch *host_mover_next(struct host_mover *m)
{
	struct host_batch *batch = NULL;

	pthread_mutex_lock(&m->lock);
	while (!m->stop && m->head == m->tail)
		pthread_cond_wait(&m->more, &m->lock);
	if (!m->stop)
		batch = &m->batches[m->queue[m->head++ % GPU_MOVER_BATCHES_MAX]];
	pthread_mutex_unlock(&m->lock);
	return batch;
}

static void *host_mover_thread(void *arg)
{
	struct host_batch *batch;

	while ((batch = host_mover_next(arg))) {
		for (uint32_t i = 0; i < batch->n; i++) {
			const struct gpu_copy *copy = &batch->copies[i];
			void *device = (void *)(uintptr_t)copy->device;

			if (batch->direction == GPU_UP)
				memcpy(device, copy->host, copy->bytes);
			else
				memcpy(copy->host, device, copy->bytes);
		}
		atomic_store_explicit(&batch->done, true, memory_order_release);
	}
	return NULL;
}

static int host_mover_submit(struct gpu_mover *mover, uint32_t slot, enum gpu_direction direction,
			     uint32_t n, const struct gpu_copy *copies)
{
	struct host_mover *m = host_mover_of(mover);
	struct host_batch *batch = &m->batches[slot];

	batch->copies = malloc(n * sizeof(*copies));
	if (!batch->copies)
		return -ENOMEM;
	memcpy(batch->copies, copies, n * sizeof(*copies));
	batch->n = n;
	batch->direction = direction;
	atomic_store_explicit(&batch->done, false, memory_order_relaxed);
	pthread_mutex_lock(&m->lock);
	m->queue[m->tail++ % GPU_MOVER_BATCHES_MAX] = slot;
	pthread_cond_signal(&m->more);
	pthread_mutex_unlock(&m->lock);
	return 0;
}

static int host_mover_poll(struct gpu_mover *mover, uint32_t slot)
{
	struct host_batch *batch = &host_mover_of(mover)->batches[slot];

	if (!atomic_load_explicit(&batch->done, memory_order_acquire))
		return -EINPROGRESS;
	free(batch->copies);
	batch->copies = NULL;
	return 0;
}

/* What a thread has begun it ends; what waits is dropped. */
static void host_mover_settle(struct gpu_mover *mover)
{
	struct host_mover *m = host_mover_of(mover);

	pthread_mutex_lock(&m->lock);
	m->stop = true;
	pthread_cond_broadcast(&m->more);
	pthread_mutex_unlock(&m->lock);
	for (uint32_t i = 0; i < m->threads_count; i++)
		pthread_join(m->threads[i], NULL);
}

static void host_mover_finish(struct gpu_mover *mover)
{
	struct host_mover *m = host_mover_of(mover);

	for (uint32_t i = 0; i < GPU_MOVER_BATCHES_MAX; i++)
		free(m->batches[i].copies);
	pthread_cond_destroy(&m->more);
	pthread_mutex_destroy(&m->lock);
	free(m);
}

static int host_mover_map_one(int fd, char *at, uint64_t bytes)
{
	struct stat st;

	if (fstat(fd, &st) != 0)
		return -errno;
	if (!S_ISREG(st.st_mode) || st.st_size < 0 || (uint64_t)st.st_size < bytes)
		return -EINVAL;
	if (mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
		return -errno;
	return 0;
}

static int host_mover_map(struct gpu_mover *mover, uint32_t n, uint64_t handle_bytes,
			  const int *fds, uint64_t *ret_device)
{
	int error = 0;
	char *base;

	if (handle_bytes % (uint64_t)sysconf(_SC_PAGESIZE))
		return -EINVAL;
	base = mmap(NULL, n * handle_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		    -1, 0);
	if (base == MAP_FAILED)
		return -errno;
	for (uint32_t i = 0; i < n && error == 0; i++)
		error = host_mover_map_one(fds[i], base + i * handle_bytes, handle_bytes);
	if (error) {
		munmap(base, n * handle_bytes);
		return error;
	}
	*ret_device = (uintptr_t)base;
	return 0;
}

static int host_mover_unmap(struct gpu_mover *mover, uint64_t device, uint32_t n,
			    uint64_t handle_bytes)
{
	return munmap((void *)(uintptr_t)device, n * handle_bytes) ? -errno : 0;
}

/* The CPU knows all memory. */
static int host_mover_attach(struct gpu_mover *mover, void *memory, uint64_t bytes)
{
	return 0;
}

static int host_mover_detach(struct gpu_mover *mover, void *memory)
{
	return 0;
}

static const struct gpu_mover_ops host_mover_ops = {
	.map = host_mover_map,
	.unmap = host_mover_unmap,
	.attach = host_mover_attach,
	.detach = host_mover_detach,
	.submit = host_mover_submit,
	.poll = host_mover_poll,
	.settle = host_mover_settle,
	.finish = host_mover_finish,
};

int host_mover_open(struct gpu_mover **ret, char *why, uint32_t why_bytes)
{
	struct host_mover *m = calloc(1, sizeof(*m));

	if (!m) {
		snprintf(why, why_bytes, "no memory for the mover: free some, or add swap");
		return -ENOMEM;
	}
	m->base.ops = &host_mover_ops;
	m->base.has_batch = true;
	pthread_mutex_init(&m->lock, NULL);
	pthread_cond_init(&m->more, NULL);
	while (m->threads_count < HOST_MOVER_THREADS) {
		int error =
			pthread_create(&m->threads[m->threads_count], NULL, host_mover_thread, m);

		if (error) {
			snprintf(why, why_bytes,
				 "cannot start a thread for copies (%s): raise the limit of tasks",
				 strerror(error));
			gpu_mover_close(&m->base);
			return -error;
		}
		m->threads_count++;
	}
	*ret = &m->base;
	return 0;
}
