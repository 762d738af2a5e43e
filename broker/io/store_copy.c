/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Pages between memory and the store.
 *
 *   down:  core gives it out -> [sum] -> the store has it -> core_transfer_done()
 *   up:    core gives it out -> the store has it -> [sum, compared] -> core_transfer_done()
 *
 * The store sums and compares small pages itself, in this thread. Of large ones that would hold
 * every ring up for too long, so a pool of threads does it. What came down from a device by its
 * mover has a checksum already, the store's own kind, which is handed on.
 *
 * A page is named to the store by its pieces, one a region, in the order of the regions, wherever
 * it lies: so the store does not know where a page came from, and may give it back to the other
 * place.
 *
 * Memory is mapped when the first page of a slab is moved, and unmapped before the slab goes back.
 */

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "broker/io/fault.h"
#include "broker/io/log.h"
#include "broker/io/store_state.h"
#include "broker/io/tiers.h"

#define POOLED_BYTES (128u << 10) /* pages from this size on are summed by the pool: some 12 us */

_Static_assert(STORE_PIECES_MAX >= KVB_REGIONS_MAX, "a page has a piece a region");

/* Of an arena. */
static bool is_lower(const struct core_space *space)
{
	return space->above != CORE_NONE16;
}

/* ---- memory of pages ----------------------------------------------------------------------- */

/* The handles of a slab side by side, a region behind the other. */
static char *map_handles(const struct server *s, unsigned index, const struct core_space *space)
{
	unsigned n = 0;
	const int *fds = grants_slab_fds(s, index, &n);
	char *mem = mmap(NULL, space->slab_bytes, PROT_NONE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (mem == MAP_FAILED)
		return NULL;
	for (unsigned i = 0; i < n; i++) {
		if (mmap(mem + i * space->handle_bytes, space->handle_bytes, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_FIXED, fds[i], 0) != MAP_FAILED)
			continue;
		munmap(mem, space->slab_bytes);
		return NULL;
	}
	return mem;
}

/* Arenas are filled and stay as they are: it pays to register them. */
static char *map_piece(struct server *s, unsigned index, const struct core_space *space)
{
	uint64_t offset;
	int fd = tiers_slab_memory(s, index, &offset);
	char *mem = mmap(NULL, space->slab_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
			 (off_t)offset);

	if (mem == MAP_FAILED)
		return NULL;
	(void)store_memory_add(s->store->store, mem, space->slab_bytes);
	return mem;
}

static char *slab_memory(struct server *s, unsigned index)
{
	struct store_tier *t = s->store;
	const struct core_space *space = &s->core.spaces[s->core.slabs[index].space];

	if (t->slab[index] || fault_fails("store-map"))
		return t->slab[index];
	t->slab[index] =
		is_lower(space) ? map_piece(s, index, space) : map_handles(s, index, space);
	if (t->slab[index])
		madvise(t->slab[index], space->slab_bytes, MADV_DONTDUMP);
	else if (log_limit_pass(&t->limit, s->now_ns, 10))
		log_warn("store: memory of pages cannot be mapped: %s (their copies fail)",
			 strerror(errno));
	return t->slab[index];
}

void store_tier_slab_close(struct server *s, unsigned index)
{
	struct store_tier *t = s->store;

	if (!t || !t->slab[index])
		return;
	store_memory_remove(t->store, t->slab[index]);
	munmap(t->slab[index], s->core.spaces[s->core.slabs[index].space].slab_bytes);
	t->slab[index] = NULL;
}

/*
 * Where a page lies. In an arena as above it, a region behind the other, though for the core that
 * is one piece. False: its memory is not to be had.
 */
static bool find_page(struct server *s, uint32_t page, struct mover_page *ret)
{
	unsigned index = s->core.units[page / CORE_UNIT_PAGES];
	const struct core_slab *slab = &s->core.slabs[index];
	const struct core_space *space = &s->core.spaces[slab->space], *clients = space;
	char *mem = slab_memory(s, index);

	if (!mem)
		return false;
	if (is_lower(space))
		clients = &s->core.spaces[space->above];
	*ret = (struct mover_page){
		.mem = mem + (page - slab->base) * clients->stride_bytes,
		.stride_bytes = clients->stride_bytes,
		.next_bytes = space == clients ? space->handles_per_region * space->handle_bytes
					       : slab->pages * clients->stride_bytes,
		.regions = clients->regions,
	};
	return true;
}

static void cut_page(const struct mover_page *page, struct iovec ret[KVB_REGIONS_MAX])
{
	for (uint32_t r = 0; r < page->regions; r++)
		ret[r] = (struct iovec){
			.iov_base = (char *)(uintptr_t)page->mem + r * page->next_bytes,
			.iov_len = page->stride_bytes,
		};
}

/* ---- transfers ----------------------------------------------------------------------------- */

static const struct core_space *space_of(const struct server *s, uint32_t page)
{
	return &s->core.spaces[s->core.slabs[s->core.units[page / CORE_UNIT_PAGES]].space];
}

static void list_put(struct store_tier *t, unsigned index)
{
	t->copy[index].stage = COPY_WAITS;
	t->copy[index].next = CORE_NONE16;
	if (t->wait_first == CORE_NONE16)
		t->wait_first = (uint16_t)index;
	else
		t->copy[t->wait_last].next = (uint16_t)index;
	t->wait_last = (uint16_t)index;
}

/* The pool is to sum the page. */
static void start_sum(struct store_tier *t, unsigned index)
{
	struct store_copy *c = &t->copy[index];

	c->job = (struct mover_sum_job){ .page = &c->page, .n = 1 };
	c->stage = COPY_SUMS;
	c->next = t->sum_first;
	t->sum_first = (uint16_t)index;
	mover_sums_submit(&t->sums, &c->job);
}

static void transfer_end(struct server *s, unsigned index, int error, uint32_t sum)
{
	s->store->copy[index].stage = COPY_NONE;
	core_transfer_done(&s->core, index, error, sum);
	s->parked_look_ns = s->now_ns; /* whoever waits for it is looked at now */
}

static int submit_up(struct server *s, unsigned index, const struct iovec *piece)
{
	struct store_tier *t = s->store;
	struct store_copy *c = &t->copy[index];
	uint32_t n = c->page.regions;
	void *user = (void *)(uintptr_t)index; /* NOLINT(performance-no-int-to-ptr) */
	int error = c->pooled ? store_get_unchecked(t->store, &c->key, piece, n, 0, user)
			      : store_get(t->store, &c->key, piece, n, 0, user);

	if (error)
		return error;
	t->reads++;
	t->read_ns = s->now_ns;
	c->stage = COPY_FLIES;
	return 0;
}

static int submit_down(struct store_tier *t, unsigned index, const struct iovec *piece)
{
	struct store_copy *c = &t->copy[index];
	void *user = (void *)(uintptr_t)index; /* NOLINT(performance-no-int-to-ptr) */
	int error;

	if (!c->has_sum && c->pooled) {
		start_sum(t, index);
		return 0;
	}
	error = store_put(t->store, &c->key, piece, c->page.regions, c->has_sum ? &c->sum : NULL,
			  user);
	if (error == 0)
		c->stage = COPY_FLIES;
	return error;
}

/* A transfer that the core has just given out. */
static void begin(struct server *s, unsigned index, uint32_t page)
{
	const struct core_space *space = space_of(s, page);
	const struct core_transfer *t = &s->core.transfers[index];
	struct store_copy *c = &s->store->copy[index];

	c->has_sum = t->direction == CORE_DOWN && is_lower(space) && s->cfg.mover_sums;
	c->sum = t->sum;
	c->pooled = s->store->sums.open && space->regions * space->stride_bytes >= POOLED_BYTES;
}

/* 0; -EAGAIN; -errno: it fails. */
static int submit(struct server *s, unsigned index)
{
	struct store_copy *c = &s->store->copy[index];
	struct iovec piece[KVB_REGIONS_MAX];
	struct core_key key;
	uint32_t page = core_store_page(&s->core, index, &key);

	if (!find_page(s, page, &c->page))
		return -ENOMEM;
	if (!store_tier_key(s, &key, &c->key))
		return -ENOENT;
	if (c->stage == COPY_NONE)
		begin(s, index, page);
	cut_page(&c->page, piece);
	return s->core.transfers[index].direction == CORE_UP ? submit_up(s, index, piece)
							     : submit_down(s->store, index, piece);
}

/* Those that waited go before new ones. CORE_NONE16: none. */
static unsigned next_transfer(struct server *s)
{
	struct store_tier *t = s->store;
	unsigned index = t->wait_first;

	if (index == CORE_NONE16)
		return core_next_store_transfer(&s->core);
	t->wait_first = t->copy[index].next;
	return index;
}

bool store_copy_submit(struct server *s)
{
	struct store_tier *t = s->store;
	bool did = false;
	unsigned index;

	while ((index = next_transfer(s)) != CORE_NONE16) {
		int error = submit(s, index);

		if (error == -EAGAIN) {
			list_put(t, index);
			break;
		}
		did = true;
		if (error)
			transfer_end(s, index, error, 0);
	}
	return did;
}

void store_copy_done(struct server *s, const struct store_done *d)
{
	const unsigned index = (unsigned)(uintptr_t)d->user;
	struct store_tier *t = s->store;
	struct store_copy *c = &t->copy[index];

	if (d->kind == STORE_DONE_GET) {
		t->reads--;
		t->read_ns = s->now_ns;
	}
	if (d->kind == STORE_DONE_PUT || d->status || !c->pooled) {
		transfer_end(s, index, d->status, d->crc);
		return;
	}
	c->sum = d->crc;
	start_sum(t, index);
}

/* ---- sums ---------------------------------------------------------------------------------- */

static void sum_made(struct server *s, unsigned index)
{
	struct store_tier *t = s->store;
	struct store_copy *c = &t->copy[index];
	bool fits = !c->page.error && c->page.sum == c->sum;

	if (s->core.transfers[index].direction == CORE_DOWN) {
		c->has_sum = !c->page.error;
		c->pooled = c->has_sum; /* else the store may try */
		c->sum = c->page.sum;
		list_put(t, index);
		return;
	}
	if (!fits)
		store_distrust(t->store, &c->key);
	transfer_end(s, index, fits ? 0 : -ENOENT, c->sum);
}

static void sums_ready(struct loop_source *source, uint32_t events)
{
	struct store_tier *t =
		(struct store_tier *)((char *)source - offsetof(struct store_tier, summed));
	struct server *s = t->server;
	uint16_t *link = &t->sum_first;
	uint64_t count;

	(void)!read(source->fd, &count, sizeof(count));
	t->rung = true;
	while (*link != CORE_NONE16) {
		const unsigned index = *link;

		if (!mover_sums_done(&t->sums, &t->copy[index].job)) {
			link = &t->copy[index].next;
			continue;
		}
		*link = t->copy[index].next;
		sum_made(s, index);
	}
}

/* ---- life ---------------------------------------------------------------------------------- */

int store_copy_new(struct server *s)
{
	const struct core_limits *limits = &s->core.h->limits;
	struct store_tier *t = s->store;
	int error;

	t->summed = LOOP_SOURCE_NULL;
	t->wait_first = t->wait_last = t->sum_first = CORE_NONE16;
	t->slab = fault_calloc("store", limits->slabs, sizeof(*t->slab));
	t->copy = fault_calloc("store", limits->transfers, sizeof(*t->copy));
	if (!t->slab || !t->copy)
		return -ENOMEM;
	if (!s->cfg.mover_sums)
		return 0;
	error = fault_point("store-sums");
	if (error == 0)
		error = mover_sums_open(&t->sums, s->cfg.mover_sums, t);
	return error ? error
		     : loop_add(s->loop, &t->summed, mover_sums_event(&t->sums), LOOP_IN,
				sums_ready);
}

void store_copy_free(struct server *s)
{
	struct store_tier *t = s->store;

	loop_del(s->loop, &t->summed);
	mover_sums_close(&t->sums);
	for (uint32_t i = 0; t->slab && i < s->core.h->limits.slabs; i++) {
		if (t->slab[i])
			munmap(t->slab[i], s->core.spaces[s->core.slabs[i].space].slab_bytes);
	}
	free(t->slab);
	free(t->copy);
}
