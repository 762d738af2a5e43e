/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The device worker's thread and its two queues; see worker.h.
 *
 * A node of the queue is never given back while the worker lives: what carried the order to create
 * a slab is kept to carry the order to close it, and carries no other before. So a slab that exists
 * can always be closed, however short memory is.
 *
 * The devices are fixed before the first job and used by the thread alone; the lists of nodes at
 * rest are the daemon's; the lock guards the queues only.
 */

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "broker/io/fault.h"
#include "broker/io/worker.h"
#include "cuda_driver/gpu.h"

#define WORKER_DEVICES_MAX 16u

struct worker_node {
	struct worker_node *next;
	struct worker_job job;
};

struct worker_queue {
	struct worker_node *first, **last;
};

struct worker {
	pthread_t thread;
	bool started;
	pthread_mutex_t lock;
	pthread_cond_t work;
	bool stop;
	struct worker_queue jobs, results;
	struct worker_node *closers; /* one for each slab that exists */
	struct worker_node *spare;
	int event_fd;
	struct gpu_device *device[WORKER_DEVICES_MAX];
};

static void queue_init(struct worker_queue *q)
{
	q->first = NULL;
	q->last = &q->first;
}

static void queue_put(struct worker_queue *q, struct worker_node *node)
{
	node->next = NULL;
	*q->last = node;
	q->last = &node->next;
}

static struct worker_node *queue_take(struct worker_queue *q)
{
	struct worker_node *node = q->first;

	if (node) {
		q->first = node->next;
		if (!q->first)
			q->last = &q->first;
	}
	return node;
}

static int worker_create(struct gpu_device *dev, struct worker_job *job)
{
	int error = fault_point("slab-create");

	job->fds = error ? NULL : fault_calloc("slab-fds", job->count, sizeof(*job->fds));
	if (error == 0)
		error = job->fds ? dev->ops->create(dev, job->count, job->handle_bytes, job->fds)
				 : -ENOMEM;
	if (error) {
		free(job->fds);
		job->fds = NULL;
	}
	return error;
}

static void worker_do(struct worker *w, struct worker_job *job)
{
	struct gpu_device *dev = w->device[job->device];

	if (job->close) {
		dev->ops->close(dev, job->count, job->handle_bytes, job->fds);
		free(job->fds);
		job->fds = NULL;
		job->error = 0;
	} else {
		job->error = worker_create(dev, job);
	}
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	const uint64_t one = 1;

	pthread_mutex_lock(&w->lock);
	while (!w->stop) {
		struct worker_node *node = queue_take(&w->jobs);

		if (!node) {
			pthread_cond_wait(&w->work, &w->lock);
			continue;
		}
		pthread_mutex_unlock(&w->lock);
		worker_do(w, &node->job);
		pthread_mutex_lock(&w->lock);
		queue_put(&w->results, node);
		if (write(w->event_fd, &one, sizeof(one)) < 0)
			continue; /* the counter is full, so the event is there */
	}
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

int worker_new(struct worker **ret)
{
	struct worker *w = fault_calloc("worker", 1, sizeof(*w));
	int error;

	if (!w)
		return -ENOMEM;
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->work, NULL);
	queue_init(&w->jobs);
	queue_init(&w->results);
	w->event_fd = fault_fails("eventfd") ? -1 : eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	error = w->event_fd < 0 ? -errno : 0;
	if (error == 0)
		error = fault_point("thread");
	if (error == 0)
		error = -pthread_create(&w->thread, NULL, worker_main, w);
	w->started = error == 0;
	if (error) {
		worker_free(w);
		return error;
	}
	*ret = w;
	return 0;
}

static void list_put(struct worker_node **list, struct worker_node *node)
{
	node->next = *list;
	*list = node;
}

static struct worker_node *list_take(struct worker_node **list)
{
	struct worker_node *node = *list;

	if (node)
		*list = node->next;
	return node;
}

/* fds of jobs that were not done, and of results that nobody took. */
static void worker_drop(struct worker *w, struct worker_queue *q)
{
	struct worker_node *node;

	while ((node = queue_take(q))) {
		struct worker_job *job = &node->job;

		if (job->fds) {
			struct gpu_device *dev = w->device[job->device];

			dev->ops->close(dev, job->count, job->handle_bytes, job->fds);
			free(job->fds);
		}
		free(node);
	}
}

struct worker *worker_free(struct worker *w)
{
	struct worker_node *node;

	if (!w)
		return NULL;
	if (w->started) {
		pthread_mutex_lock(&w->lock);
		w->stop = true;
		pthread_cond_signal(&w->work);
		pthread_mutex_unlock(&w->lock);
		pthread_join(w->thread, NULL);
	}
	worker_drop(w, &w->jobs);
	worker_drop(w, &w->results);
	while ((node = list_take(&w->closers)) || (node = list_take(&w->spare)))
		free(node);
	for (unsigned i = 0; i < WORKER_DEVICES_MAX; i++)
		gpu_device_close(w->device[i]);
	if (w->event_fd >= 0)
		close(w->event_fd);
	pthread_cond_destroy(&w->work);
	pthread_mutex_destroy(&w->lock);
	free(w);
	return NULL;
}

int worker_fd(const struct worker *w)
{
	return w->event_fd;
}

int worker_device(struct worker *w, uint32_t device, uint32_t kind, uint32_t ordinal)
{
	assert(device < WORKER_DEVICES_MAX && !w->device[device]);
	if (fault_point("device"))
		return -ENOMEM;
	return gpu_device_open(kind, ordinal, &w->device[device]);
}

int worker_submit(struct worker *w, const struct worker_job *job)
{
	struct worker_node *node = list_take(job->close ? &w->closers : &w->spare);

	assert(job->device < WORKER_DEVICES_MAX && w->device[job->device]);
	if (!node && !job->close)
		node = fault_calloc("worker-job", 1, sizeof(*node));
	if (!node)
		return -ENOMEM;
	node->job = *job;
	pthread_mutex_lock(&w->lock);
	queue_put(&w->jobs, node);
	pthread_cond_signal(&w->work);
	pthread_mutex_unlock(&w->lock);
	return 0;
}

bool worker_next(struct worker *w, struct worker_job *ret)
{
	struct worker_node *node;
	uint64_t events;

	pthread_mutex_lock(&w->lock);
	node = queue_take(&w->results);
	if (node) {
		*ret = node->job;
		list_put(ret->close || ret->error ? &w->spare : &w->closers, node);
	} else if (read(w->event_fd, &events, sizeof(events)) < 0) {
		node = NULL; /* nothing to clear */
	}
	pthread_mutex_unlock(&w->lock);
	return node != NULL;
}
