/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Batches of copies; see batch.h.
 *
 * A batch goes from stage to stage in advance(), which does one step and says whether there was one
 * to do. What a batch waits for is polled: the end of copies by an estimate of when it will be
 * (mover_batches_wait_ns()), the end of checksums by the eventfd of their pool.
 */

#include "broker/mover/batch.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/mover/point.h"

#define SUM_HERE_BYTES (128u << 10) /* summed by this thread: sooner done than another is woken */
#define WAIT_NS_MIN (10ull * 1000)
#define WAIT_NS_MAX (1000ull * 1000)
#define RATE_BYTES_MIN (1u << 20) /* smaller batches tell of latency, not of bandwidth */

static uint64_t page_bytes(const struct mover_slab *slab)
{
	return slab->regions * slab->stride_bytes;
}

static void complete(struct mover_batches *b, const struct mover_entry *entry, int32_t res,
		     uint32_t sum)
{
	b->memory->slab[entry->slab].users--;
	b->memory->slab[entry->lower_slab].users--;
	mover_queue_post(b->queue, entry->id, res, sum);
}

/* ---- entries ------------------------------------------------------------------------------- */

static void accept_entry(struct mover_batches *b, const struct mover_entry *entry)
{
	struct mover_slab *upper, *lower;
	struct mover_waiting *w;
	int error = mover_point("mover-taken");

	upper = mover_memory_upper(b->memory, entry, &lower);
	if (!error && (!upper || entry->direction >= MOVER_DIRECTIONS))
		error = -EINVAL;
	if (error) {
		mover_queue_post(b->queue, entry->id, error, 0);
		return;
	}
	upper->users++;
	lower->users++;
	w = &b->waiting[entry->direction];
	w->entry[w->tail++ % MOVER_RING_ENTRIES] = *entry;
}

/* All there are: the ring's completion slots bound them. */
static int take_entries(struct mover_batches *b)
{
	struct mover_entry entry;
	int took = 0, n;

	while ((n = mover_queue_take(b->queue, &entry)) > 0) {
		accept_entry(b, &entry);
		took = 1;
	}
	return n < 0 ? n : took;
}

/* ---- filling ------------------------------------------------------------------------------- */

static int compare_places(const void *one, const void *other)
{
	const struct mover_entry *a = one, *b = other;

	if (a->slab != b->slab)
		return a->slab < b->slab ? -1 : 1;
	if (a->page != b->page)
		return a->page < b->page ? -1 : 1;
	return 0;
}

static bool fill(struct mover_batches *b, struct mover_batch *batch)
{
	struct mover_waiting *w = &b->waiting[batch->direction];
	uint32_t copies = 0;

	batch->n = 0;
	batch->bytes = 0;
	while (w->head != w->tail && batch->n < MOVER_BATCH_PAGES_MAX) {
		const struct mover_entry *entry = &w->entry[w->head % MOVER_RING_ENTRIES];
		const struct mover_slab *slab = &b->memory->slab[entry->slab];

		if (copies + slab->regions > GPU_MOVER_COPIES_MAX ||
		    (batch->n && batch->bytes + page_bytes(slab) > MOVER_BATCH_BYTES_MAX))
			break;
		copies += slab->regions;
		batch->bytes += page_bytes(slab);
		batch->entry[batch->n++] = *entry;
		w->head++;
	}
	if (!batch->n)
		return false;
	batch->order = b->filled++;
	qsort(batch->entry, batch->n, sizeof(batch->entry[0]), compare_places);
	return true;
}

/* ---- checksums ----------------------------------------------------------------------------- */

static bool sums_are_on(const struct mover_batches *b)
{
	return mover_sums_event(b->sums) >= 0;
}

static void start_sums(struct mover_batches *b, struct mover_batch *batch)
{
	for (uint32_t i = 0; i < batch->n; i++) {
		const struct mover_entry *entry = &batch->entry[i];
		const struct mover_slab *lower = &b->memory->slab[entry->lower_slab];

		batch->page[i] = (struct mover_page){
			.mem = mover_slab_host(lower, 0, entry->lower_page),
			.stride_bytes = lower->stride_bytes,
			.next_bytes = lower->pages * lower->stride_bytes,
			.regions = lower->regions,
		};
	}
	batch->stage = MOVER_SUMMING;
	batch->job = (struct mover_sum_job){ .page = batch->page, .n = batch->n };
	if (batch->bytes <= SUM_HERE_BYTES) {
		for (uint32_t i = 0; i < batch->n; i++)
			mover_sum_make(&batch->page[i]);
	} else {
		mover_sums_submit(b->sums, &batch->job);
	}
}

/* Up: pages whose bytes are what they were go on; the others end here. */
static void keep_sound(struct mover_batches *b, struct mover_batch *batch)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < batch->n; i++) {
		const struct mover_page *page = &batch->page[i];
		const struct mover_entry entry = batch->entry[i];

		if (page->error)
			complete(b, &entry, page->error, 0);
		else if (page->sum != entry.sum)
			complete(b, &entry, -EBADMSG, page->sum);
		else
			batch->entry[kept++] = entry;
	}
	batch->n = kept;
	batch->stage = kept ? MOVER_READY : MOVER_FREE;
}

static void end_sums(struct mover_batches *b, struct mover_batch *batch)
{
	if (batch->direction == GPU_UP) {
		keep_sound(b, batch);
		return;
	}
	for (uint32_t i = 0; i < batch->n; i++)
		complete(b, &batch->entry[i], batch->page[i].error, batch->page[i].sum);
	batch->stage = MOVER_FREE;
}

/* ---- copies -------------------------------------------------------------------------------- */

/* Whether entry i + 1 lies next to entry i, above and below. */
static bool goes_on(const struct mover_batch *batch, uint32_t i)
{
	const struct mover_entry *a = &batch->entry[i], *b = a + 1;

	return i + 1 < batch->n && a->slab == b->slab && a->page + 1 == b->page &&
	       a->lower_slab == b->lower_slab && a->lower_page + 1 == b->lower_page;
}

/* The copies of a batch into b->copy; how many. */
static uint32_t coalesce(struct mover_batches *b, const struct mover_batch *batch)
{
	uint32_t copies = 0;

	for (uint32_t i = 0, run; i < batch->n; i += run) {
		const struct mover_entry *entry = &batch->entry[i];
		const struct mover_slab *upper = &b->memory->slab[entry->slab];
		const struct mover_slab *lower = &b->memory->slab[entry->lower_slab];

		run = 1;
		while (goes_on(batch, i + run - 1))
			run++;
		for (uint32_t r = 0; r < upper->regions; r++)
			b->copy[copies++] = (struct gpu_copy){
				.device = upper->device[r] + entry->page * upper->stride_bytes,
				.host = mover_slab_host(lower, r, entry->lower_page),
				.bytes = run * upper->stride_bytes,
			};
	}
	return copies;
}

/* All of the batch ends alike; but a device that is spoilt may still be at it: not while it lives.
 */
static void end_batch(struct mover_batches *b, struct mover_batch *batch, int error)
{
	if (error && gpu_mover_is_spoilt(b->gpu)) {
		batch->stage = MOVER_COPYING;
		b->spoilt = true;
		return;
	}
	for (uint32_t i = 0; i < batch->n; i++)
		complete(b, &batch->entry[i], error, 0);
	batch->stage = MOVER_FREE;
}

static void submit(struct mover_batches *b, struct mover_batch *batch)
{
	const uint32_t copies = coalesce(b, batch);
	int error = mover_point("mover-submit");

	if (!error)
		error = gpu_mover_submit(b->gpu, batch->direction, copies, b->copy, &batch->gpu);
	if (error) {
		end_batch(b, batch, error);
		return;
	}
	batch->stage = MOVER_COPYING;
	batch->start_ns = b->now_ns;
	b->copying[batch->direction]++;
	b->spoilt |= mover_point("mover-submitted") != 0;
}

/* Since when the engine has been at this batch: it takes one after the other. */
static uint64_t begun_ns(const struct mover_batches *b, const struct mover_batch *batch)
{
	const uint64_t before = b->end_ns[batch->direction];

	return batch->start_ns > before ? batch->start_ns : before;
}

static void measure(struct mover_batches *b, const struct mover_batch *batch)
{
	uint64_t *rate = &b->ns_per_mib[batch->direction];
	uint64_t took = b->now_ns - begun_ns(b, batch);

	b->end_ns[batch->direction] = b->now_ns;
	if (batch->bytes < RATE_BYTES_MIN)
		return;
	took = took * (1u << 20) / batch->bytes;
	*rate = *rate ? (*rate * 7 + took) / 8 : took;
}

/* False: it is still being copied. */
static bool end_copies(struct mover_batches *b, struct mover_batch *batch)
{
	int error = gpu_mover_poll(b->gpu, batch->gpu);

	if (error == -EINPROGRESS)
		return false;
	b->copying[batch->direction]--;
	measure(b, batch);
	if (!error)
		error = mover_point("mover-copied");
	if (!error && batch->direction == GPU_DOWN && sums_are_on(b))
		start_sums(b, batch);
	else
		end_batch(b, batch, error);
	return true;
}

/* ---- from stage to stage ------------------------------------------------------------------- */

static bool engine_is_full(const struct mover_batches *b, enum gpu_direction direction)
{
	return b->copying[direction] == MOVER_BATCHES_COPYING;
}

static bool older_is_ready(const struct mover_batches *b, const struct mover_batch *batch)
{
	for (uint32_t i = 0; i < MOVER_BATCHES; i++) {
		const struct mover_batch *other = &b->batch[batch->direction][i];

		if (other->stage == MOVER_READY && other->order < batch->order)
			return true;
	}
	return false;
}

static bool begin(struct mover_batches *b, struct mover_batch *batch)
{
	const bool sum = batch->direction == GPU_UP && sums_are_on(b);

	/* What cannot be worked on at once had better gather. */
	if ((!sum && engine_is_full(b, batch->direction)) || !fill(b, batch))
		return false;
	if (sum)
		start_sums(b, batch);
	else
		batch->stage = MOVER_READY;
	return true;
}

/* One step of a batch; false: it waits. */
static bool advance(struct mover_batches *b, struct mover_batch *batch)
{
	switch (batch->stage) {
	case MOVER_FREE:
		return begin(b, batch);
	case MOVER_READY:
		if (engine_is_full(b, batch->direction) || older_is_ready(b, batch))
			return false;
		submit(b, batch);
		return true;
	case MOVER_COPYING:
		return end_copies(b, batch);
	case MOVER_SUMMING:
		if (!mover_sums_done(b->sums, &batch->job))
			return false;
		end_sums(b, batch);
		return true;
	}
	return false;
}

int mover_batches_turn(struct mover_batches *b, uint64_t now_ns)
{
	int did = take_entries(b);

	b->now_ns = now_ns;
	if (did < 0)
		return did;
	for (uint32_t i = 0; i < MOVER_DIRECTIONS * MOVER_BATCHES && !b->spoilt; i++) {
		struct mover_batch *batch = &b->batch[i / MOVER_BATCHES][i % MOVER_BATCHES];

		/* As far as it goes, but once: what ends is shown before the next begins. */
		while (!b->spoilt && advance(b, batch)) {
			did = 1;
			if (batch->stage == MOVER_FREE)
				break;
		}
		mover_queue_publish(b->queue);
	}
	return b->spoilt ? -EIO : did;
}

/*
 * Copies are looked at when a quarter of what is left until their expected end has passed, and past
 * that, ever more rarely: a device that hangs must not cost a processor.
 */
uint64_t mover_batches_wait_ns(const struct mover_batches *b)
{
	uint64_t wait = b->queue->stuck ? WAIT_NS_MAX : UINT64_MAX;

	for (uint32_t i = 0; i < MOVER_DIRECTIONS * MOVER_BATCHES; i++) {
		const struct mover_batch *batch = &b->batch[i / MOVER_BATCHES][i % MOVER_BATCHES];
		uint64_t end, left;

		if (batch->stage != MOVER_COPYING)
			continue;
		end = begun_ns(b, batch) +
		      (batch->bytes >> 10) * b->ns_per_mib[batch->direction] / 1024;
		left = (end > b->now_ns ? end - b->now_ns : b->now_ns - end) / 4;
		left = left < WAIT_NS_MIN ? WAIT_NS_MIN : left;
		left = left > WAIT_NS_MAX ? WAIT_NS_MAX : left;
		wait = left < wait ? left : wait;
	}
	return wait;
}

void mover_batches_fail(struct mover_batches *b)
{
	for (uint32_t d = 0; d < MOVER_DIRECTIONS; d++) {
		struct mover_waiting *w = &b->waiting[d];

		for (uint32_t i = 0; i < MOVER_BATCHES; i++) {
			struct mover_batch *batch = &b->batch[d][i];

			if (batch->stage == MOVER_FREE || batch->stage == MOVER_COPYING)
				continue;
			for (uint32_t k = 0; k < batch->n; k++)
				complete(b, &batch->entry[k], -EIO, 0);
			batch->stage = MOVER_FREE;
		}
		for (; w->head != w->tail; w->head++)
			complete(b, &w->entry[w->head % MOVER_RING_ENTRIES], -EIO, 0);
	}
	mover_queue_publish(b->queue);
}

void mover_batches_init(struct mover_batches *b, struct gpu_mover *gpu, struct mover_memory *memory,
			struct mover_queue *queue, struct mover_sums *sums)
{
	memset(b, 0, sizeof(*b));
	b->gpu = gpu;
	b->memory = memory;
	b->queue = queue;
	b->sums = sums;
	for (uint32_t i = 0; i < MOVER_DIRECTIONS * MOVER_BATCHES; i++)
		b->batch[i / MOVER_BATCHES][i % MOVER_BATCHES].direction = i / MOVER_BATCHES;
}
