/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The event loop's common half: slots, choice of the engine. See loop.h and loop_engine.h.
 */

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/io/fault.h"
#include "broker/io/log.h"
#include "broker/io/loop_engine.h"

static int loop_start(struct loop *loop, enum loop_engine want)
{
	int error;

	if (want != LOOP_EPOLL) {
		loop->ops = &loop_uring_ops;
		error = loop->ops->start(loop);
		if (error == 0 || want == LOOP_URING)
			return error;
		log_warn("io_uring is not to be had: %s (events come by epoll instead; check "
			 "kernel.io_uring_disabled and the container's seccomp profile)",
			 strerror(-error));
	}
	loop->ops = &loop_epoll_ops;
	return loop->ops->start(loop);
}

int loop_new(enum loop_engine want, unsigned sources_max, struct loop **ret)
{
	struct loop *loop = fault_calloc("loop", 1, sizeof(*loop));
	int error;

	if (!loop)
		return -ENOMEM;
	/* Twice: a removed source's slot may wait for the kernel to hear of it. */
	loop->slots_max = 2 * sources_max;
	loop->free = LOOP_SLOT_NONE;
	loop->slots = fault_calloc("loop-slots", loop->slots_max, sizeof(*loop->slots));
	error = loop->slots ? loop_start(loop, want) : -ENOMEM;
	if (error) {
		free(loop->slots);
		free(loop);
		return error;
	}
	for (uint32_t slot = loop->slots_max; slot-- > 0;) {
		loop->slots[slot].next = loop->free;
		loop->free = slot;
	}
	*ret = loop;
	return 0;
}

struct loop *loop_free(struct loop *loop)
{
	if (!loop)
		return NULL;
	loop->ops->finish(loop);
	free(loop->slots);
	free(loop);
	return NULL;
}

const char *loop_engine_name(const struct loop *loop)
{
	return loop->ops->name;
}

void loop_slot_free(struct loop *loop, uint32_t slot)
{
	assert(!loop->slots[slot].source);
	loop->slots[slot].next = loop->free;
	loop->free = slot;
}

uint32_t loop_slot_of(const struct loop *loop, uint64_t name)
{
	uint32_t slot = (uint32_t)name;

	if (slot >= loop->slots_max || loop_name(loop, slot) != name || !loop->slots[slot].source)
		return LOOP_SLOT_NONE;
	return slot;
}

void loop_dispatch(struct loop *loop, uint32_t slot, uint32_t events)
{
	struct loop_source *source = loop->slots[slot].source;

	source->ready(source, events);
}

int loop_add(struct loop *loop, struct loop_source *source, int fd, uint32_t want,
	     void (*ready)(struct loop_source *, uint32_t))
{
	uint32_t slot = loop->free;
	struct loop_slot *s;
	int error;

	assert(fd >= 0);
	if (fault_point("loop-add"))
		return -ENOMEM;
	if (slot == LOOP_SLOT_NONE)
		return -ENOSPC;
	s = &loop->slots[slot];
	loop->free = s->next;
	s->source = source;
	s->gen = s->gen == UINT32_MAX ? 1 : s->gen + 1;
	s->want = want;
	s->fd = fd;
	*source = (struct loop_source){ .ready = ready, .fd = fd, .want = want, .id = slot };
	error = loop->ops->add(loop, slot);
	if (error) {
		s->source = NULL;
		source->fd = -1;
		loop_slot_free(loop, slot);
	}
	return error;
}

void loop_del(struct loop *loop, struct loop_source *source)
{
	uint32_t slot = source->id;

	if (source->fd < 0)
		return;
	assert(loop->slots[slot].source == source);
	loop->slots[slot].source = NULL;
	loop->ops->del(loop, slot);
	source->fd = -1;
}

void loop_on_wake(struct loop *loop, void (*woke)(void *arg), void *arg)
{
	loop->woke = woke;
	loop->woke_arg = arg;
}

void loop_woke(const struct loop *loop)
{
	if (loop->woke)
		loop->woke(loop->woke_arg);
}

bool loop_pending(const struct loop *loop)
{
	return loop->ops->pending(loop);
}

int loop_run(struct loop *loop, uint64_t timeout_ns)
{
	return loop->ops->run(loop, timeout_ns);
}
