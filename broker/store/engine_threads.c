/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Transfers by a pool of threads, where io_uring is forbidden; see engine.h.
 *
 * Flights wait in a list for a thread, and in another for the owner, who is told by the eventfd.
 * As many threads as flights, up to THREADS_MAX; fewer if no more are to be had.
 */

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "broker/io/fault.h"
#include "broker/store/engine.h"

#define THREADS_MAX 32u

struct list {
	struct engine_flight *first, *last;
};

struct pool {
	struct engine *e;
	pthread_mutex_t lock;
	pthread_cond_t work;
	struct list todo, over;
	uint32_t threads;
	bool end;
	pthread_t thread[THREADS_MAX];
};

static void list_push(struct list *l, struct engine_flight *f)
{
	f->next = NULL;
	if (l->last)
		l->last->next = f;
	else
		l->first = f;
	l->last = f;
}

static struct engine_flight *list_pop(struct list *l)
{
	struct engine_flight *f = l->first;

	if (!f)
		return NULL;
	l->first = f->next;
	if (!l->first)
		l->last = NULL;
	return f;
}

static int64_t transfer(const struct pool *p, struct engine_flight *f)
{
	const int fd = p->e->file[f->file].fd;
	int error = fault_point(f->op == ENGINE_FLUSH  ? "store-flush"
				: f->op == ENGINE_READ ? "store-read"
						       : "store-write");
	ssize_t n;

	if (error)
		return error;
	if (f->op == ENGINE_FLUSH)
		n = fdatasync(fd);
	else if (f->op == ENGINE_READ)
		n = preadv(fd, f->iov, (int)f->n_iov, (off_t)f->offset);
	else
		n = pwritev(fd, f->iov, (int)f->n_iov, (off_t)f->offset);
	return n < 0 ? -errno : n;
}

static void *thread_main(void *arg)
{
	struct pool *p = arg;
	const uint64_t one = 1;

	pthread_mutex_lock(&p->lock);
	for (;;) {
		struct engine_flight *f = list_pop(&p->todo);

		if (f) {
			pthread_mutex_unlock(&p->lock);
			f->res = transfer(p, f);
			pthread_mutex_lock(&p->lock);
			list_push(&p->over, f);
			(void)!write(p->e->event, &one, sizeof(one));
		} else if (p->end) {
			break;
		} else {
			pthread_cond_wait(&p->work, &p->lock);
		}
	}
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

static int threads_start(struct engine *e, uint32_t flights)
{
	struct pool *p = fault_calloc("store-threads", 1, sizeof(*p));
	int error = 0;

	if (!p)
		return -ENOMEM;
	p->e = e;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->work, NULL);
	while (!error && p->threads < THREADS_MAX && p->threads < flights) {
		error = -fault_point("store-thread");
		if (!error)
			error = pthread_create(&p->thread[p->threads], NULL, thread_main, p);
		p->threads += error == 0;
	}
	if (p->threads == 0) {
		pthread_cond_destroy(&p->work);
		pthread_mutex_destroy(&p->lock);
		free(p);
		return -error;
	}
	e->own = p;
	return 0;
}

static void threads_finish(struct engine *e)
{
	struct pool *p = e->own;

	pthread_mutex_lock(&p->lock);
	p->end = true;
	pthread_cond_broadcast(&p->work);
	pthread_mutex_unlock(&p->lock);
	for (uint32_t i = 0; i < p->threads; i++)
		pthread_join(p->thread[i], NULL);
	pthread_cond_destroy(&p->work);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

static int threads_nothing(struct engine *e)
{
	return 0;
}

static void threads_fly(struct engine *e, struct engine_flight *f)
{
	struct pool *p = e->own;

	pthread_mutex_lock(&p->lock);
	list_push(&p->todo, f);
	pthread_cond_signal(&p->work);
	pthread_mutex_unlock(&p->lock);
}

static void threads_push(struct engine *e)
{
}

static void threads_reap(struct engine *e)
{
	struct pool *p = e->own;
	struct engine_flight *f, *next;
	uint64_t rung;

	(void)!read(e->event, &rung, sizeof(rung));
	pthread_mutex_lock(&p->lock);
	f = p->over.first;
	p->over = (struct list){ 0 };
	pthread_mutex_unlock(&p->lock);
	for (; f; f = next) {
		next = f->next;
		engine_landed(e, f);
	}
}

static void threads_wait(struct engine *e, uint64_t timeout_ns)
{
	struct pollfd p = { .fd = e->event, .events = POLLIN };
	struct timespec ts = { .tv_sec = (time_t)(timeout_ns / 1000000000u),
			       .tv_nsec = (long)(timeout_ns % 1000000000u) };

	(void)ppoll(&p, 1, &ts, NULL);
}

static bool threads_pending(const struct engine *e)
{
	struct pool *p = e->own;
	bool over;

	pthread_mutex_lock(&p->lock);
	over = p->over.first != NULL;
	pthread_mutex_unlock(&p->lock);
	return over;
}

const struct engine_ops engine_threads_ops = {
	.name = "threads",
	.start = threads_start,
	.finish = threads_finish,
	.files = threads_nothing,
	.fly = threads_fly,
	.push = threads_push,
	.reap = threads_reap,
	.wait = threads_wait,
	.memory = threads_nothing,
	.pending = threads_pending,
};
