/* SPDX-License-Identifier: Apache-2.0 */

/* Queues, flights and their bounds; see engine.h. */

#include "broker/store/engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define DRAIN_WAIT_NS (100ull * 1000 * 1000)

/* ---- figures ------------------------------------------------------------------------------- */

/* One look at the clock for all that begins, and one for all that has ended, in a turn. */
static uint64_t stamp(struct engine *e)
{
	struct timespec ts;

	if (!e->stamp_ns) {
		clock_gettime(CLOCK_MONOTONIC, &ts);
		e->stamp_ns = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
	}
	return e->stamp_ns;
}

static void count_latency(struct engine_file *file, const struct engine_flight *f, uint64_t end_ns)
{
	const uint64_t ns = end_ns > f->began_ns ? end_ns - f->began_ns : 1;
	const uint32_t bucket = 63 - (uint32_t)__builtin_clzll(ns);

	file->latency[f->op]
		     [bucket < ENGINE_LATENCY_BUCKETS ? bucket : ENGINE_LATENCY_BUCKETS - 1]++;
}

/* ---- queues -------------------------------------------------------------------------------- */

static void queue_push(struct engine_queue *q, struct engine_io *io)
{
	io->next = NULL;
	if (q->last)
		q->last->next = io;
	else
		q->first = io;
	q->last = io;
}

static struct engine_io *queue_pop(struct engine_queue *q)
{
	struct engine_io *io = q->first;

	q->first = io->next;
	if (!q->first)
		q->last = NULL;
	return io;
}

static struct engine_queue *queue_of(struct engine *e, const struct engine_io *io)
{
	struct engine_file *f = &e->file[io->file];

	return io->wanted ? &f->wanted : &f->rest;
}

void engine_submit(struct engine *e, struct engine_io *io)
{
	io->res = 0;
	io->tries = 0;
	io->alone = false;
	if (io->wanted)
		e->file[io->file].wanted_ns = e->now_ns;
	e->file[io->file].queued++;
	queue_push(queue_of(e, io), io);
}

/* ---- flights ------------------------------------------------------------------------------- */

/* A piece that goes on in memory where the last one ended is the same piece. */
static void add_piece(struct engine_flight *f, const struct iovec *v)
{
	struct iovec *last = f->n_iov ? &f->iov[f->n_iov - 1] : NULL;

	if (last && (char *)last->iov_base + last->iov_len == (char *)v->iov_base)
		last->iov_len += v->iov_len;
	else
		f->iov[f->n_iov++] = *v;
}

static void board(struct engine_flight *f, struct engine_io *io, struct engine_io **link)
{
	for (uint32_t i = 0; i < io->n_iov; i++)
		add_piece(f, &io->iov[i]);
	f->bytes += io->bytes;
	io->next = NULL;
	*link = io;
}

/*
 * May the next of the queue come along? It must begin where the flight ends on disk. Registered
 * memory is cheaper than vectors: such flights are not made vectors by a passenger.
 */
static bool may_board(const struct engine *e, const struct engine_flight *f,
		      const struct engine_io *io)
{
	const struct iovec *last, *v;

	/* What moves no bytes has no pieces. */
	if (io->op != f->op || io->alone || io->offset != f->offset + f->bytes ||
	    f->bytes + io->bytes > ENGINE_FLIGHT_BYTES_MAX ||
	    f->n_iov + io->n_iov > ENGINE_FLIGHT_IOV_MAX)
		return false;
	last = &f->iov[f->n_iov - 1];
	v = &io->iov[0];
	if (io->n_iov == 1 && (uintptr_t)last->iov_base + last->iov_len == (uintptr_t)v->iov_base)
		return true;
	return f->n_iov > 1 || io->n_iov > 1 ||
	       engine_memory_find(e, last->iov_base, last->iov_len) < 0 ||
	       engine_memory_find(e, v->iov_base, v->iov_len) < 0;
}

static void launch(struct engine *e, struct engine_file *file, struct engine_queue *q)
{
	struct engine_flight *f = e->free;
	struct engine_io *io = queue_pop(q), **link = &f->first;

	e->free = f->next;
	f->op = io->op;
	f->file = io->file;
	f->second = q == &file->rest;
	f->offset = io->offset;
	f->bytes = 0;
	f->n_iov = 0;
	f->res = 0;
	f->began_ns = stamp(e);
	board(f, io, link);
	file->queued--;
	while (f->op != ENGINE_FLUSH && !io->alone && q->first && may_board(e, f, q->first)) {
		link = &io->next;
		io = queue_pop(q);
		board(f, io, link);
		file->queued--;
	}
	file->in_flight++;
	file->in_flight_rest += f->second;
	e->flying++;
	e->ops->fly(e, f);
}

static bool may_launch_rest(const struct engine *e, const struct engine_file *f)
{
	const bool wanted = f->wanted.first || f->in_flight > f->in_flight_rest ||
			    (f->wanted_ns && e->now_ns - f->wanted_ns < ENGINE_WANTED_NS);

	return f->in_flight < e->depth &&
	       f->in_flight_rest < (wanted ? e->depth_beside : e->depth_write);
}

static void launch_all(struct engine *e)
{
	e->stamp_ns = 0;
	for (uint32_t i = 0; i < ENGINE_FILES_MAX; i++) {
		struct engine_file *f = &e->file[i];

		while (f->wanted.first && e->free && f->in_flight < e->depth)
			launch(e, f, &f->wanted);
		while (f->rest.first && e->free && may_launch_rest(e, f))
			launch(e, f, &f->rest);
	}
	e->ops->push(e);
}

static bool again(struct engine *e, struct engine_io *io, int32_t res, bool several)
{
	if (res == -EAGAIN || res == -EINTR) {
		if (++io->tries >= ENGINE_TRIES)
			return false;
	} else if (several && io->op == ENGINE_READ) {
		io->alone = true;
	} else {
		return false;
	}
	e->file[io->file].queued++;
	queue_push(queue_of(e, io), io);
	return true;
}

void engine_landed(struct engine *e, struct engine_flight *f)
{
	struct engine_file *file = &e->file[f->file];
	const bool several = f->first->next != NULL;
	int32_t res = f->res < 0 ? (int32_t)f->res : f->res == f->bytes ? 0 : -EIO;

	count_latency(file, f, stamp(e));
	if (f->op == ENGINE_FLUSH)
		res = f->res < 0 ? (int32_t)f->res : 0;
	if (res == 0 && f->op == ENGINE_READ)
		file->read_bytes += f->bytes;
	if (res == 0 && f->op == ENGINE_WRITE)
		file->written_bytes += f->bytes;
	file->in_flight--;
	file->in_flight_rest -= f->second;
	if (!f->second)
		file->wanted_ns = e->now_ns;
	e->flying--;
	e->landed++;
	for (struct engine_io *io = f->first, *next; io; io = next) {
		next = io->next;
		io->res = res;
		if (!res || !again(e, io, res, several))
			queue_push(&e->done, io);
	}
	f->next = e->free;
	e->free = f;
}

void engine_turn(struct engine *e)
{
	launch_all(e);
	e->stamp_ns = 0;
	e->ops->reap(e);
	while (e->done.first) {
		struct engine_io *io = queue_pop(&e->done);

		io->done(io);
	}
	launch_all(e);
}

/* Something is queued that could fly: it was given after the last turn. */
static bool may_launch(const struct engine *e)
{
	for (uint32_t i = 0; i < ENGINE_FILES_MAX && e->free; i++) {
		const struct engine_file *f = &e->file[i];

		if ((f->wanted.first && f->in_flight < e->depth) ||
		    (f->rest.first && may_launch_rest(e, f)))
			return true;
	}
	return false;
}

bool engine_pending(const struct engine *e)
{
	return e->done.first || may_launch(e) || e->ops->pending(e);
}

void engine_wait(struct engine *e, uint64_t timeout_ns)
{
	if (!engine_pending(e))
		e->ops->wait(e, timeout_ns);
}

static bool idle(const struct engine *e)
{
	for (uint32_t i = 0; i < ENGINE_FILES_MAX; i++)
		if (e->file[i].queued || e->file[i].in_flight)
			return false;
	return !e->done.first;
}

void engine_drain(struct engine *e)
{
	engine_turn(e);
	while (!idle(e)) {
		engine_wait(e, DRAIN_WAIT_NS);
		engine_turn(e);
	}
}

void engine_settle(struct engine *e)
{
	e->depth = 0;
	engine_turn(e);
	while (e->flying) {
		engine_wait(e, DRAIN_WAIT_NS);
		engine_turn(e);
	}
}

/* ---- memory -------------------------------------------------------------------------------- */

int engine_memory_add(struct engine *e, void *mem, uint64_t bytes)
{
	for (uint32_t i = 0; i < ENGINE_MEMORY_MAX; i++) {
		if (e->memory[i].mem)
			continue;
		e->memory[i] = (struct engine_memory){ .mem = mem, .bytes = bytes };
		return e->ops->memory(e);
	}
	return -ENOSPC;
}

void engine_memory_remove(struct engine *e, void *mem)
{
	for (uint32_t i = 0; i < ENGINE_MEMORY_MAX; i++) {
		if (e->memory[i].mem != mem)
			continue;
		e->memory[i].mem = NULL;
		e->ops->memory(e);
	}
}

int engine_memory_find(const struct engine *e, const void *mem, uint64_t bytes)
{
	for (uint32_t i = 0; i < ENGINE_MEMORY_MAX; i++) {
		const struct engine_memory *m = &e->memory[i];

		if (m->registered && (const char *)mem >= m->mem &&
		    (const char *)mem + bytes <= m->mem + m->bytes)
			return (int)i;
	}
	return -1;
}

/* ---- life ---------------------------------------------------------------------------------- */

static int start_ops(struct engine *e, const struct engine_cfg *cfg)
{
	int error;

	e->ops = cfg->ops ? cfg->ops : cfg->threads ? &engine_threads_ops : &engine_uring_ops;
	error = e->ops->start(e, e->flights);
	/* Where io_uring is forbidden, or memory for it is short. */
	if (error && !cfg->ops && e->ops == &engine_uring_ops) {
		e->ops = &engine_threads_ops;
		error = e->ops->start(e, e->flights);
	}
	return error;
}

int engine_open(struct engine *e, const struct engine_cfg *cfg)
{
	int error = -ENOMEM;

	*e = (struct engine){ .ops_arg = cfg->ops_arg,
			      .depth = cfg->depth,
			      .depth_write = cfg->depth_write,
			      .depth_beside = cfg->depth_beside };
	for (uint32_t i = 0; i < ENGINE_FILES_MAX; i++)
		e->file[i].fd = -1;
	e->flights = cfg->depth * cfg->files;
	e->flight = calloc(e->flights, sizeof(*e->flight));
	e->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (e->event < 0)
		error = -errno;
	for (uint32_t i = 0; e->flight && i < e->flights; i++) {
		e->flight[i].next = e->free;
		e->free = &e->flight[i];
	}
	if (e->flight && e->event >= 0)
		error = start_ops(e, cfg);
	if (error) {
		if (e->event >= 0)
			close(e->event);
		free(e->flight);
		e->ops = NULL;
	}
	return error;
}

void engine_close(struct engine *e)
{
	if (!e->ops)
		return;
	e->ops->finish(e);
	close(e->event);
	free(e->flight);
	e->ops = NULL;
}

int engine_file_set(struct engine *e, uint32_t file, int fd)
{
	e->file[file].fd = fd;
	return e->ops->files(e);
}
