/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Between the loop (loop.c) and its engines: slots of watched sources, and the engine's table.
 *
 * A slot outlives its source: the kernel may still report what was just removed. Reports carry the
 * slot and its generation; a report of another generation is dropped. loop_dispatch() is the one
 * place where a callback is called.
 */

#include "broker/io/loop.h"

struct loop_slot {
	struct loop_source *source; /* NULL: removed, or free */
	uint32_t gen;               /* never 0; changes with every source */
	uint32_t next; /* free list, or the engine's list of slots to tell the kernel about */
	uint32_t want;
	int fd;
	bool armed;    /* uring: a poll is in the kernel */
	bool listed;   /* uring: on the list */
	uint64_t name; /* uring: of the poll in the kernel */
};

struct loop_engine_ops {
	const char *name;
	int (*start)(struct loop *loop);
	void (*finish)(struct loop *loop);
	int (*add)(struct loop *loop, uint32_t slot);
	/* The engine gives the slot back with loop_slot_free(), now or later. */
	void (*del)(struct loop *loop, uint32_t slot);
	bool (*pending)(const struct loop *loop);
	int (*run)(struct loop *loop, uint64_t timeout_ns);
};

struct loop {
	const struct loop_engine_ops *ops;
	void *engine; /* the engine's own */
	struct loop_slot *slots;
	uint32_t slots_max;
	uint32_t free;
	void (*woke)(void *arg);
	void *woke_arg;
};

#define LOOP_SLOT_NONE 0xffffffffu
#define LOOP_BATCH 128 /* reports taken a run: bounds what a storm of doorbells can cost a turn */

static inline uint64_t loop_name(const struct loop *loop, uint32_t slot)
{
	return (uint64_t)loop->slots[slot].gen << 32 | slot;
}

void loop_slot_free(struct loop *loop, uint32_t slot);
/* The slot a report is about, or LOOP_SLOT_NONE when its source is gone. */
uint32_t loop_slot_of(const struct loop *loop, uint64_t name);
void loop_woke(const struct loop *loop);
void loop_dispatch(struct loop *loop, uint32_t slot, uint32_t events);

extern const struct loop_engine_ops loop_uring_ops;
extern const struct loop_engine_ops loop_epoll_ops;
