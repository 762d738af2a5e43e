/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Arenas, the memory of slabs that movers know, and the pump of transfers; see tiers.h.
 *
 * A slab's memory, as far as the mover of its device is concerned:
 *
 *   NONE -> [PENDING ->] PLACED -> ASKED -> KNOWN -> DROPPING -> NONE
 *             ^            ^         |        |         |
 *             |            +---------+--------+         |   the mover is dead
 *        an arena's slab,                               v
 *        no room filled yet                   given up all the same
 *
 * A transfer is given to the mover when both its slabs are KNOWN and waits in order until then; it
 * ends by a completion or, when the mover is dead and can write no more, with -EIO.
 */

#include "broker/io/tiers.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/io/fault.h"
#include "broker/io/log.h"
#include "broker/io/mover_link.h"
#include "broker/io/server.h"
#include "numa/arena.h"

enum tier_slab_state {
	TIER_NONE = 0, /* no mover has to do with it */
	TIER_PENDING,  /* of an arena: waits for memory */
	TIER_PLACED,   /* it has memory of which no mover has been told */
	TIER_ASKED,    /* the mover is told, and has not answered */
	TIER_KNOWN,
	TIER_DROPPING, /* the core wants it back, the mover has it still */
};

struct tier_slab {
	uint8_t state;
	uint8_t device; /* the upper one, whose mover it is */
	bool lower;     /* of an arena, there: */
	uint32_t chunk;
	uint64_t offset;
};

enum tier_flight_state { FLIGHT_NONE = 0, FLIGHT_WAITS, FLIGHT_FLIES };

struct tier_flight {
	uint8_t state;
	uint8_t device;
	uint16_t next; /* WAITS: the next of its device */
};

struct tier_arena {
	struct server *server;
	struct arena *arena; /* NULL: this device of the core is no arena */
	struct loop_source event;
	struct arena_status status;
	uint32_t ready; /* chunks that movers have been told of */
	bool said_unplaced;
};

struct tier_device {
	struct mover_link link; /* without ops: this device has no tier */
	unsigned arena;
	bool ready;
	uint32_t ready_mark; /* requests up to here are answered before it is ready */
	uint32_t chunks;     /* that the mover has taken */
	uint16_t wait_first, wait_last;
	bool wait_look; /* one that waits may go now */
	int chunk_fd;   /* of the request that is being sent */
	uint64_t up_bytes, down_bytes;
};

struct tiers {
	struct tier_slab *slab;     /* by core slab */
	struct tier_flight *flight; /* by core transfer */
	uint32_t pending;           /* slabs that wait for memory */
	uint32_t flights;           /* with movers */
	struct tier_arena arena[CORE_DEVICES_MAX];
	struct tier_device device[CORE_DEVICES_MAX];
};

static struct tier_device *device_of(struct mover_link *link)
{
	return &link->server->tiers->device[link->device];
}

static const struct core_space *space_of(const struct server *s, unsigned slab)
{
	return &s->core.spaces[s->core.slabs[slab].space];
}

/* ---- memory -------------------------------------------------------------------------------- */

/* Nobody but the core has the slab's memory any more. */
static void slab_given_up(struct server *s, unsigned index)
{
	const struct tier_slab slab = s->tiers->slab[index];

	s->tiers->slab[index] = (struct tier_slab){ 0 };
	if (!slab.lower) {
		grants_slab_given_up(s, index);
		return;
	}
	arena_give(s->tiers->arena[s->tiers->device[slab.device].arena].arena, slab.chunk,
		   slab.offset, space_of(s, index)->slab_bytes);
	core_slab_closed(&s->core, index);
}

/* Tells the mover of a slab that has memory, if there is a mover that serves. */
static void slab_tell(struct server *s, unsigned index)
{
	struct tier_slab *slab = &s->tiers->slab[index];
	struct mover_link *link = &s->tiers->device[slab->device].link;

	if (link->state != LINK_SERVING)
		return;
	slab->state = TIER_ASKED;
	link_ask(link, slab->lower ? MOVER_LOWER : MOVER_SLAB, index);
}

void tiers_slab_created(struct server *s, unsigned index)
{
	unsigned device = space_of(s, index)->device;

	/* Where nothing is below no copy is ever made. */
	if (!s->tiers || space_of(s, index)->below == CORE_NONE16)
		return;
	s->tiers->slab[index] =
		(struct tier_slab){ .state = TIER_PLACED, .device = (uint8_t)device };
	slab_tell(s, index);
}

static void slab_place(struct server *s, unsigned index)
{
	struct tier_slab *slab = &s->tiers->slab[index];
	const struct core_space *space = space_of(s, index);
	int error = arena_take(s->tiers->arena[space->device].arena, space->slab_bytes,
			       &slab->chunk, &slab->offset);

	if (error == -EAGAIN)
		return;
	s->tiers->pending--;
	if (error) {
		*slab = (struct tier_slab){ 0 };
		core_slab_failed(&s->core, index);
		return;
	}
	slab->state = TIER_PLACED;
	core_slab_created(&s->core, index);
	slab_tell(s, index);
}

void tiers_slab_create(struct server *s, unsigned index)
{
	const struct core_space *upper = &s->core.spaces[space_of(s, index)->above];

	s->tiers->slab[index] = (struct tier_slab){
		.state = TIER_PENDING,
		.device = upper->device,
		.lower = true,
	};
	s->tiers->pending++;
	slab_place(s, index);
}

bool tiers_slab_close(struct server *s, unsigned index)
{
	struct tier_slab *slab = s->tiers ? &s->tiers->slab[index] : NULL;
	struct mover_link *link;

	if (!slab || slab->state == TIER_NONE)
		return true;
	if (slab->state == TIER_PLACED) {
		slab_given_up(s, index);
		return false;
	}
	assert(slab->state == TIER_ASKED || slab->state == TIER_KNOWN);
	link = &s->tiers->device[slab->device].link;
	slab->state = TIER_DROPPING;
	if (link->state == LINK_SERVING)
		link_ask(link, MOVER_DROP, index);
	return false;
}

int tiers_slab_memory(const struct server *s, unsigned index, uint64_t *ret_offset)
{
	const struct tier_slab *slab = &s->tiers->slab[index];
	uint64_t bytes;

	*ret_offset = slab->offset;
	return arena_chunk(s->tiers->arena[space_of(s, index)->device].arena, slab->chunk, &bytes);
}

/* ---- arenas -------------------------------------------------------------------------------- */

/* Chunks that the mover has not been told of. */
static void chunks_tell(struct server *s, struct tier_device *d, uint32_t from)
{
	for (uint32_t i = from; i < s->tiers->arena[d->arena].ready; i++) {
		if (d->link.state == LINK_SERVING)
			link_ask(&d->link, MOVER_CHUNK, i);
	}
}

static void arena_say(struct server *s, struct tier_arena *a, const char *name)
{
	const struct arena_status *st = &a->status;

	if (st->unplaced_error && !a->said_unplaced)
		log_warn("%s: the system does not let memory be placed: %s (a container may forbid "
			 "mbind; the tier works, on whichever node)",
			 name, strerror(-st->unplaced_error));
	a->said_unplaced |= st->unplaced_error != 0;
	if (!st->done)
		log_info("%s: %s of %s are filled", name, core_size(st->filled_bytes).text,
			 core_size(st->bytes).text);
	else if (st->error)
		log_warn("%s: %s of %s are all there is: %s (something else has taken what was "
			 "free at the start)",
			 name, core_size(st->filled_bytes).text, core_size(st->bytes).text,
			 strerror(-st->error));
	else
		log_info(
			"%s: all of %s is filled, %s of it on another node%s, %s on hugetlb pages, "
			"%s on transparent huge pages",
			name, core_size(st->bytes).text, core_size(st->wrong_node_bytes).text,
			st->unseen_error ? " as far as is known" : "",
			core_size(st->hugetlb_bytes).text, core_size(st->thp_bytes).text);
}

static void arena_changed(struct loop_source *source, uint32_t events)
{
	struct tier_arena *a =
		(struct tier_arena *)((char *)source - offsetof(struct tier_arena, event));
	struct server *s = a->server;
	unsigned index = (unsigned)(a - s->tiers->arena);
	uint32_t from = a->ready;

	a->ready = arena_look(a->arena, &a->status);
	arena_say(s, a, s->core.h->device[index].name);
	for (unsigned i = 0; i < CORE_DEVICES_MAX; i++) {
		struct tier_device *d = &s->tiers->device[i];

		if (d->link.ops && d->arena == index)
			chunks_tell(s, d, from);
	}
	for (uint32_t i = 0; s->tiers->pending && i < s->core.h->limits.slabs; i++) {
		if (s->tiers->slab[i].state == TIER_PENDING)
			slab_place(s, i);
	}
}

/* ---- transfers ----------------------------------------------------------------------------- */

static bool page_is_known(const struct server *s, uint32_t page, uint32_t *ret_slab,
			  uint32_t *ret_page)
{
	*ret_slab = s->core.units[page / CORE_UNIT_PAGES];
	*ret_page = page - s->core.slabs[*ret_slab].base;
	return s->tiers->slab[*ret_slab].state == TIER_KNOWN;
}

/* Gives a transfer to the mover. False: not yet. */
static bool transfer_submit(struct server *s, struct tier_device *d, unsigned index)
{
	const struct core_transfer *t = &s->core.transfers[index];
	bool up = t->direction == CORE_UP;
	struct mover_entry entry = {
		.direction = t->direction,
		.id = index,
		.sum = t->sum,
	};

	if (!page_is_known(s, up ? t->to : t->from, &entry.slab, &entry.page) ||
	    !page_is_known(s, up ? t->from : t->to, &entry.lower_slab, &entry.lower_page) ||
	    !link_submit(&d->link, &entry))
		return false;
	s->tiers->flight[index] =
		(struct tier_flight){ .state = FLIGHT_FLIES, .device = (uint8_t)d->link.device };
	s->tiers->flights++;
	return true;
}

static void wait_put(struct tiers *t, struct tier_device *d, unsigned index)
{
	t->flight[index] = (struct tier_flight){ .state = FLIGHT_WAITS,
						 .device = (uint8_t)d->link.device,
						 .next = CORE_NONE16 };
	if (d->wait_first == CORE_NONE16)
		d->wait_first = (uint16_t)index;
	else
		t->flight[d->wait_last].next = (uint16_t)index;
	d->wait_last = (uint16_t)index;
}

/* Those that waited go before new ones, in their order. True: some went. */
static bool wait_retry(struct server *s, struct tier_device *d)
{
	uint16_t index = d->wait_first;
	bool did = false;

	d->wait_first = d->wait_last = CORE_NONE16;
	d->wait_look = false;
	while (index != CORE_NONE16) {
		uint16_t next = s->tiers->flight[index].next;

		if (transfer_submit(s, d, index))
			did = true;
		else
			wait_put(s->tiers, d, index);
		index = next;
	}
	return did;
}

static bool device_pump(struct server *s, struct tier_device *d)
{
	bool did = false;

	if (!d->ready)
		return false;
	if (d->wait_look && d->wait_first != CORE_NONE16)
		did = wait_retry(s, d);
	while (d->ready) {
		unsigned index = core_next_transfer(&s->core, d->link.device);

		if (index == CORE_NONE16)
			break;
		did = true;
		if (!transfer_submit(s, d, index))
			wait_put(s->tiers, d, index);
	}
	if (d->ready)
		link_flush(&d->link);
	return did;
}

static void transfer_end(struct server *s, unsigned index, int error, uint32_t sum)
{
	if (s->tiers->flight[index].state == FLIGHT_FLIES)
		s->tiers->flights--;
	s->tiers->flight[index] = (struct tier_flight){ 0 };
	core_transfer_done(&s->core, index, error, sum);
	s->parked_look_ns = s->now_ns; /* whoever waits for it is looked at now */
}

/* ---- what movers say ----------------------------------------------------------------------- */

static void mover_is_ready(struct tier_device *d)
{
	struct server *s = d->link.server;

	if (d->ready || !d->chunks || (int32_t)(d->link.head - d->ready_mark) < 0)
		return;
	d->ready = true;
	core_device_below_ready(&s->core, d->link.device, true);
	log_info("device %s: its tier is ready", d->link.name);
}

static void mover_greeted(struct mover_link *link)
{
	struct tier_device *d = device_of(link);
	struct server *s = link->server;

	chunks_tell(s, d, 0);
	for (uint32_t i = 0; i < s->core.h->limits.slabs; i++) {
		if (s->tiers->slab[i].state == TIER_PLACED &&
		    s->tiers->slab[i].device == link->device)
			slab_tell(s, i);
	}
	d->ready_mark = link->tail;
}

static void mover_broken(struct mover_link *link)
{
	struct tier_device *d = device_of(link);
	struct server *s = link->server;

	if (d->ready)
		core_device_below_ready(&s->core, link->device, false);
	d->ready = false;
	d->chunks = 0;
	s->parked_look_ns = s->now_ns;
}

static void mover_gone(struct mover_link *link)
{
	struct tier_device *d = device_of(link);
	struct server *s = link->server;
	struct tiers *t = s->tiers;

	d->wait_first = d->wait_last = CORE_NONE16;
	if (link->memory_is_bad)
		log_warn("device %s: its memory is damaged; what its mover was at is given up",
			 link->name);
	for (uint32_t i = 0; i < s->core.h->limits.transfers; i++) {
		if (t->flight[i].state != FLIGHT_NONE && t->flight[i].device == link->device)
			transfer_end(s, i,
				     link->memory_is_bad && t->flight[i].state == FLIGHT_FLIES
					     ? -EHWPOISON
					     : -EIO,
				     0);
	}
	for (uint32_t i = 0; i < s->core.h->limits.slabs; i++) {
		struct tier_slab *slab = &t->slab[i];

		if (slab->device != link->device)
			continue;
		if (slab->state == TIER_DROPPING)
			slab_given_up(s, i);
		else if (slab->state == TIER_ASKED || slab->state == TIER_KNOWN)
			slab->state = TIER_PLACED;
	}
}

static void mover_fill(struct mover_link *link, enum mover_type type, uint32_t id,
		       struct mover_request *ret, const int **ret_fds, uint32_t *ret_n)
{
	struct server *s = link->server;
	const struct tier_slab *slab = &s->tiers->slab[id];
	const struct core_space *space, *upper;
	struct arena *arena = s->tiers->arena[device_of(link)->arena].arena;

	if (type == MOVER_CHUNK) {
		ret->sums = id == 0 ? s->cfg.mover_sums : 0;
		device_of(link)->chunk_fd = arena_chunk(arena, id, &ret->bytes);
		*ret_fds = &device_of(link)->chunk_fd;
		*ret_n = 1;
		return;
	}
	if (type == MOVER_DROP)
		return;
	space = space_of(s, id);
	upper = slab->lower ? &s->core.spaces[space->above] : space;
	ret->regions = upper->regions;
	ret->stride_bytes = upper->stride_bytes;
	ret->pages = space->pages_per_slab;
	if (type == MOVER_LOWER) {
		ret->chunk = slab->chunk;
		ret->offset_bytes = slab->offset;
		return;
	}
	ret->handles_per_region = space->handles_per_region;
	ret->handle_bytes = space->handle_bytes;
	*ret_fds = grants_slab_fds(s, id, ret_n);
	ret->count = *ret_n;
}

static void mover_answered(struct mover_link *link, enum mover_type type, uint32_t id)
{
	struct tier_device *d = device_of(link);
	struct server *s = link->server;

	if (type == MOVER_CHUNK)
		d->chunks++;
	else if (type == MOVER_DROP)
		slab_given_up(s, id);
	else if (s->tiers->slab[id].state == TIER_ASKED)
		s->tiers->slab[id].state = TIER_KNOWN;
	d->wait_look = true;
	mover_is_ready(d);
}

static int mover_completed(struct mover_link *link, uint64_t id, int32_t error, uint64_t sum)
{
	struct tier_device *d = device_of(link);
	struct server *s = link->server;
	const struct core_transfer *t;
	const struct core_space *upper;
	uint64_t bytes;

	if (id >= s->core.h->limits.transfers || s->tiers->flight[id].state != FLIGHT_FLIES ||
	    s->tiers->flight[id].device != link->device)
		return -EPROTO;
	t = &s->core.transfers[id];
	upper = space_of(
		s, s->core.units[(t->direction == CORE_UP ? t->to : t->from) / CORE_UNIT_PAGES]);
	bytes = error ? 0 : upper->regions * upper->stride_bytes;
	if (t->direction == CORE_UP)
		d->up_bytes += bytes;
	else
		d->down_bytes += bytes;
	d->wait_look = true;
	transfer_end(s, (unsigned)id, error, (uint32_t)sum);
	return 0;
}

static const struct mover_link_ops mover_ops = {
	.greeted = mover_greeted,
	.broken = mover_broken,
	.gone = mover_gone,
	.fill = mover_fill,
	.answered = mover_answered,
	.completed = mover_completed,
};

/* ---- the turn ------------------------------------------------------------------------------ */

bool tiers_poll(struct server *s)
{
	bool did = false;

	for (unsigned i = 0; s->tiers && s->tiers->flights && i < s->cfg.devices; i++)
		did |= link_poll(&s->tiers->device[i].link);
	return did;
}

bool tiers_turn(struct server *s)
{
	bool did = false;

	for (unsigned i = 0; s->tiers && i < s->cfg.devices; i++) {
		struct tier_device *d = &s->tiers->device[i];

		if (!d->link.ops)
			continue;
		did |= link_poll(&d->link);
		did |= device_pump(s, d);
		link_turn(&d->link);
	}
	return did;
}

bool tiers_hot(const struct server *s)
{
	bool hot = false;

	for (unsigned i = 0; s->tiers && s->tiers->flights && i < s->cfg.devices; i++)
		hot |= link_hot(&s->tiers->device[i].link);
	return hot;
}

bool tiers_arm(struct server *s)
{
	bool quiet = true;

	for (unsigned i = 0; s->tiers && s->tiers->flights && i < s->cfg.devices; i++)
		quiet &= link_arm(&s->tiers->device[i].link);
	return quiet;
}

void tiers_disarm(struct server *s)
{
	for (unsigned i = 0; s->tiers && s->tiers->flights && i < s->cfg.devices; i++)
		link_disarm(&s->tiers->device[i].link);
}

uint64_t tiers_next_ns(const struct server *s)
{
	uint64_t next = UINT64_MAX;

	for (unsigned i = 0; s->tiers && i < s->cfg.devices; i++) {
		const struct mover_link *link = &s->tiers->device[i].link;
		uint64_t its = link->ops ? link_next_ns(link) : UINT64_MAX;

		next = its < next ? its : next;
	}
	return next;
}

void tiers_rest(struct server *s, unsigned device, bool rest)
{
	if (s->tiers && s->tiers->device[device].link.ops)
		link_rest(&s->tiers->device[device].link, rest);
}

/* ---- for operators ------------------------------------------------------------------------- */

static void info_state(const struct tier_device *d, const struct tier_arena *a, char *ret,
		       size_t bytes)
{
	if (d->ready)
		snprintf(ret, bytes, "ok");
	else if (a->status.done && a->status.error && !a->ready)
		snprintf(ret, bytes, "failed (no memory for its arena: %s)",
			 strerror(-a->status.error));
	else if (d->link.state == LINK_OFF || d->link.state == LINK_DYING)
		snprintf(ret, bytes, "failed (%s)", d->link.why);
	else
		snprintf(ret, bytes, "%s", a->ready ? "starting" : "filling");
}

bool tiers_get_info(const struct server *s, unsigned device, struct tiers_info *ret)
{
	const struct tier_device *d;
	struct tier_arena *a;

	if (!s->tiers || !s->tiers->device[device].link.ops)
		return false;
	d = &s->tiers->device[device];
	a = &s->tiers->arena[d->arena];
	*ret = (struct tiers_info){
		.mover_pid = d->link.process.pid, /* also of one that is about to end */
		.ready = d->ready,
		.restarts = d->link.starts > 1 ? d->link.starts - 1 : 0,
		.up_bytes = d->up_bytes,
		.down_bytes = d->down_bytes,
		.arena = (int32_t)d->arena,
		.node = s->core.h->device[d->arena].ordinal,
		.arena_bytes = a->status.bytes,
		.filled_bytes = a->status.filled_bytes,
		.used_bytes = arena_used_bytes(a->arena),
		.wrong_node_bytes = a->status.wrong_node_bytes,
		.hugetlb_bytes = a->status.hugetlb_bytes,
		.thp_bytes = a->status.thp_bytes,
		.unplaced_error = a->status.unplaced_error,
		.unseen_error = a->status.unseen_error,
		.arena_short = a->status.done && a->status.error,
	};
	for (uint32_t i = 0; i < s->core.h->limits.transfers; i++)
		ret->flights += s->tiers->flight[i].state != FLIGHT_NONE &&
				s->tiers->flight[i].device == device;
	info_state(d, a, ret->state, sizeof(ret->state));
	return true;
}

/* ---- life ---------------------------------------------------------------------------------- */

static int arena_open(struct server *s, unsigned index)
{
	const struct core_device *device = &s->core.h->device[index];
	struct tier_arena *a = &s->tiers->arena[index];
	int error = fault_point("arena");

	a->server = s;
	if (error == 0)
		error = arena_new(device->ordinal, device->capacity_bytes,
				  tiers_chunk_bytes(device->capacity_bytes), device->handle_bytes,
				  &a->arena);
	if (error == 0) {
		a->ready = arena_look(a->arena, &a->status);
		error = loop_add(s->loop, &a->event, arena_event_fd(a->arena), LOOP_IN,
				 arena_changed);
	}
	if (error)
		log_error("%s: %s", device->name, strerror(-error));
	return error;
}

static int device_open(struct server *s, unsigned index)
{
	const struct core_device *device = &s->core.h->device[index];
	struct tier_device *d = &s->tiers->device[index];
	uint64_t arena_bytes = s->core.h->device[device->below].capacity_bytes;

	d->arena = device->below;
	/* A slab is told and dropped, a chunk told, and the ring. */
	return link_open(&d->link, s, index, device->name,
			 2 * s->core.h->limits.slabs +
				 (uint32_t)(arena_bytes / tiers_chunk_bytes(arena_bytes)) + 2,
			 &mover_ops);
}

int tiers_new(struct server *s)
{
	const struct core_limits *limits = &s->core.h->limits;
	int error = 0;

	if (!s->cfg.tier_bytes)
		return 0;
	s->tiers = fault_calloc("tiers", 1, sizeof(*s->tiers));
	if (!s->tiers)
		return -ENOMEM;
	for (unsigned i = 0; i < CORE_DEVICES_MAX; i++) {
		s->tiers->arena[i].event = LOOP_SOURCE_NULL;
		s->tiers->device[i].wait_first = s->tiers->device[i].wait_last = CORE_NONE16;
	}
	s->tiers->slab = fault_calloc("tiers", limits->slabs, sizeof(*s->tiers->slab));
	s->tiers->flight = fault_calloc("tiers", limits->transfers, sizeof(*s->tiers->flight));
	if (!s->tiers->slab || !s->tiers->flight)
		return -ENOMEM;
	if (!s->cfg.mover_sums)
		log_warn("checksums of the host tier are off (--mover-sums 0): what comes back "
			 "from it is not verified");
	for (unsigned i = 0; error == 0 && i < CORE_DEVICES_MAX; i++) {
		if (s->core.h->device[i].state != CORE_DEVICE_NONE &&
		    s->core.h->device[i].kind == CORE_KIND_ARENA)
			error = arena_open(s, i);
	}
	for (unsigned i = 0; error == 0 && i < s->cfg.devices; i++) {
		if (s->core.h->device[i].below != CORE_DEVICE_NONE_BELOW)
			error = device_open(s, i);
	}
	return error;
}

void tiers_free(struct server *s)
{
	struct tiers *t = s->tiers;

	if (!t)
		return;
	for (unsigned i = 0; i < CORE_DEVICES_MAX; i++)
		link_finish(&t->device[i].link);
	for (unsigned i = 0; i < CORE_DEVICES_MAX; i++)
		link_close(&t->device[i].link);
	for (unsigned i = 0; i < CORE_DEVICES_MAX; i++) {
		loop_del(s->loop, &t->arena[i].event);
		t->arena[i].arena = arena_free(t->arena[i].arena);
	}
	free(t->slab);
	free(t->flight);
	free(t);
	s->tiers = NULL;
}
