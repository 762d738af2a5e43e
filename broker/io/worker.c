/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The threads of the device worker, a queue of jobs each and one of results; see worker.h.
 *
 * A node of the queue is never given back while the worker lives: what carried the order to create
 * a slab is kept to carry the order to close it, and carries no other before. So a slab that exists
 * can always be closed, however short memory is.
 *
 * A device is fixed before its first job and used by its thread alone; the lists of nodes at rest
 * are the daemon's; the one lock guards the queues only, and is never held while a device works.
 */

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "broker/io/fault.h"
#include "broker/io/worker.h"
#include "cuda_driver/gpu.h"

#define WORKER_DEVICES_MAX 16u
#define WORKER_CALM_NS (10 * 1000 * 1000) /* after work, before memory is made ahead */
#define WORKER_LOOK_S 2                   /* between two looks at a device that has nothing to do */

struct worker_node {
	struct worker_node *next;
	struct worker_job job;
};

struct worker_queue {
	struct worker_node *first, **last;
};

struct worker_unit {
	struct worker *worker;
	struct gpu_device *dev; /* NULL: there is no such device, and no thread */
	pthread_t thread;
	pthread_cond_t work;
	struct worker_queue jobs;
	bool rest, rests; /* asked for, and done */
};

struct worker {
	pthread_mutex_t lock;
	bool stop;
	struct worker_queue results;
	struct worker_node *closers; /* one for each slab that exists */
	struct worker_node *spare;
	int event_fd;
	struct worker_unit unit[WORKER_DEVICES_MAX];
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
		error = job->fds ? dev->ops->create(dev, job->count, job->handle_bytes, job->fds,
						    &job->token)
				 : -ENOMEM;
	if (error) {
		free(job->fds);
		job->fds = NULL;
	}
	return error;
}

static void worker_close(struct gpu_device *dev, struct worker_job *job)
{
	dev->ops->close(dev, job->count, job->handle_bytes, job->fds, job->token);
	free(job->fds);
	job->fds = NULL;
}

static void worker_do(struct gpu_device *dev, struct worker_job *job)
{
	job->error = 0;
	if (job->close)
		worker_close(dev, job);
	else
		job->error = worker_create(dev, job);
}

/* With the lock held, but not while the device works. */
static void worker_turn(struct worker_unit *unit, struct worker_node *node)
{
	struct worker *w = unit->worker;
	const uint64_t one = 1;
	bool rest = unit->rest;

	pthread_mutex_unlock(&w->lock);
	if (node)
		worker_do(unit->dev, &node->job);
	else if (unit->dev->ops->rest)
		unit->dev->ops->rest(unit->dev, rest);
	pthread_mutex_lock(&w->lock);
	if (node)
		queue_put(&w->results, node);
	else
		unit->rests = rest;
	if (write(w->event_fd, &one, sizeof(one)) < 0)
		return; /* the counter is full, so the event is there */
}

/* With the lock held, but not while the device works. False: there is nothing to make. */
static bool worker_make_ahead(struct worker_unit *unit)
{
	struct worker *w = unit->worker;
	bool more;

	if (!unit->dev->ops->ahead || unit->rests)
		return false;
	pthread_mutex_unlock(&w->lock);
	more = unit->dev->ops->ahead(unit->dev);
	pthread_mutex_lock(&w->lock);
	return more;
}

/* With the lock held, but not while it waits or looks. Jobs, an order or an end may have come. */
static void worker_wait(struct worker_unit *unit)
{
	struct worker *w = unit->worker;
	struct timespec until;

	if (!unit->dev->ops->look || unit->rests) {
		pthread_cond_wait(&unit->work, &w->lock);
		return;
	}
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += WORKER_LOOK_S;
	if (pthread_cond_clockwait(&unit->work, &w->lock, CLOCK_MONOTONIC, &until) != ETIMEDOUT)
		return;
	pthread_mutex_unlock(&w->lock);
	unit->dev->ops->look(unit->dev);
	pthread_mutex_lock(&w->lock);
}

/*
 * After work, with the lock held but not while it waits: whoever has been given memory maps it now,
 * and a driver lets one caller through at a time. True: nothing has come meanwhile.
 */
static bool worker_calm(struct worker_unit *unit)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += WORKER_CALM_NS;
	if (until.tv_nsec >= 1000000000) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000;
	}
	return pthread_cond_clockwait(&unit->work, &unit->worker->lock, CLOCK_MONOTONIC, &until) ==
	       ETIMEDOUT;
}

static void *worker_main(void *arg)
{
	struct worker_unit *unit = arg;
	struct worker *w = unit->worker;
	bool calm = true;

	pthread_mutex_lock(&w->lock);
	while (!w->stop) {
		struct worker_node *node = queue_take(&unit->jobs);
		bool work = node || unit->rest != unit->rests;

		if (work)
			worker_turn(unit, node);
		else if (!calm && !worker_calm(unit))
			continue;
		calm = !work;
		if (!calm)
			continue;
		if (!worker_make_ahead(unit) && !unit->jobs.first && !w->stop &&
		    unit->rest == unit->rests)
			worker_wait(unit);
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
	queue_init(&w->results);
	w->event_fd = fault_fails("eventfd") ? -1 : eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	error = w->event_fd < 0 ? -errno : 0;
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
		if (node->job.fds)
			worker_close(w->unit[node->job.device].dev, &node->job);
		free(node);
	}
}

static void worker_stop(struct worker *w)
{
	pthread_mutex_lock(&w->lock);
	w->stop = true;
	for (unsigned i = 0; i < WORKER_DEVICES_MAX; i++) {
		if (w->unit[i].dev)
			pthread_cond_signal(&w->unit[i].work);
	}
	pthread_mutex_unlock(&w->lock);
	for (unsigned i = 0; i < WORKER_DEVICES_MAX; i++) {
		struct gpu_device *dev = w->unit[i].dev;

		if (dev && dev->ops->cancel)
			dev->ops->cancel(dev);
	}
	for (unsigned i = 0; i < WORKER_DEVICES_MAX; i++) {
		if (w->unit[i].dev)
			pthread_join(w->unit[i].thread, NULL);
	}
}

struct worker *worker_free(struct worker *w)
{
	struct worker_node *node;

	if (!w)
		return NULL;
	worker_stop(w);
	for (unsigned i = 0; i < WORKER_DEVICES_MAX; i++) {
		if (!w->unit[i].dev)
			continue;
		worker_drop(w, &w->unit[i].jobs);
		pthread_cond_destroy(&w->unit[i].work);
	}
	worker_drop(w, &w->results);
	while ((node = list_take(&w->closers)) || (node = list_take(&w->spare)))
		free(node);
	if (w->event_fd >= 0)
		close(w->event_fd);
	pthread_mutex_destroy(&w->lock);
	free(w);
	return NULL;
}

int worker_fd(const struct worker *w)
{
	return w->event_fd;
}

int worker_device(struct worker *w, uint32_t device, struct gpu_device *dev)
{
	struct worker_unit *unit = &w->unit[device];
	int error = fault_point("thread");

	assert(device < WORKER_DEVICES_MAX && !unit->dev);
	unit->worker = w;
	unit->dev = dev;
	queue_init(&unit->jobs);
	pthread_cond_init(&unit->work, NULL);
	if (error == 0)
		error = -pthread_create(&unit->thread, NULL, worker_main, unit);
	if (error) {
		pthread_cond_destroy(&unit->work);
		unit->dev = NULL;
	}
	return error;
}

int worker_submit(struct worker *w, const struct worker_job *job)
{
	struct worker_unit *unit = &w->unit[job->device];
	struct worker_node *node = list_take(job->close ? &w->closers : &w->spare);

	assert(job->device < WORKER_DEVICES_MAX && unit->dev);
	if (!node && !job->close)
		node = fault_calloc("worker-job", 1, sizeof(*node));
	if (!node)
		return -ENOMEM;
	node->job = *job;
	pthread_mutex_lock(&w->lock);
	queue_put(&unit->jobs, node);
	pthread_cond_signal(&unit->work);
	pthread_mutex_unlock(&w->lock);
	return 0;
}

void worker_rest(struct worker *w, uint32_t device, bool rest)
{
	struct worker_unit *unit = &w->unit[device];

	assert(device < WORKER_DEVICES_MAX && unit->dev);
	pthread_mutex_lock(&w->lock);
	unit->rest = rest;
	pthread_cond_signal(&unit->work);
	pthread_mutex_unlock(&w->lock);
}

bool worker_is_at_rest(struct worker *w, uint32_t device)
{
	bool ret;

	pthread_mutex_lock(&w->lock);
	ret = w->unit[device].rest;
	pthread_mutex_unlock(&w->lock);
	return ret;
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
