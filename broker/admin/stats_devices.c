/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What the stats segment says of devices and of the tiers below them.
 *
 * The core counts what was moved, the tiers (io/tiers.h) know their processes and their memory, the
 * back ends their drivers. Nothing here asks a driver or waits: each keeps what it last knew.
 *
 * An arena has no counters of its own: what was moved is counted where it was moved from, and
 * summed up here over the devices above it.
 */

#include <stdio.h>
#include <string.h>

#include "broker/admin/commands.h"
#include "broker/admin/stats.h"
#include "broker/io/server.h"
#include "broker/io/tiers.h"
#include "cuda_driver/gpu.h"

static void copy_text(char *to, size_t bytes, const char *from)
{
	(void)snprintf(to, bytes, "%s", from);
}

static void fill_driver(struct gpu_device *dev, struct stats_device *sd)
{
	struct gpu_info info;

	dev->ops->info(dev, &info);
	copy_text(sd->driver, sizeof(sd->driver), info.driver);
	copy_text(sd->model, sizeof(sd->model), info.model);
	copy_text(sd->pci, sizeof(sd->pci), info.pci);
	copy_text(sd->why, sizeof(sd->why), info.why);
	copy_text(sd->warning, sizeof(sd->warning), info.warning);
	sd->node = info.node;
	sd->owner_pid = info.owner_pid;
	sd->failed = info.failed;
	sd->warm_bytes = info.warm_bytes;
	sd->memory_known = info.memory_known;
	sd->unused_bytes = info.unused_bytes;
	sd->others_bytes = info.others_bytes;
}

static void fill_device(const struct server *s, unsigned device, struct stats_device *sd)
{
	struct tiers_info info;

	fill_driver(s->device[device], sd);
	if (tiers_get_info(s, device, &info)) {
		sd->mover_pid = info.mover_pid;
		sd->mover_restarts = (uint32_t)info.restarts;
		if (!info.ready)
			copy_text(sd->below_why, sizeof(sd->below_why), info.state);
	}
	if (s->core.h->device[device].draining)
		sd->drain = gpu_is_drained(s, device) ? STATS_DRAIN_DONE : STATS_DRAIN_GOES;
}

/* Any device above an arena knows it. */
static void fill_arena(const struct server *s, unsigned arena, struct stats_device *sd)
{
	struct tiers_info info;

	sd->node = (int32_t)sd->ordinal;
	for (unsigned i = 0; i < s->cfg.devices; i++) {
		if (!tiers_get_info(s, i, &info) || info.arena != (int32_t)arena)
			continue;
		sd->filled_bytes = info.filled_bytes;
		sd->misplaced_bytes = info.wrong_node_bytes;
		sd->hugetlb_bytes = info.hugetlb_bytes;
		sd->thp_bytes = info.thp_bytes;
		sd->unplaced_error = info.unplaced_error;
		sd->unseen_error = info.unseen_error;
		if (info.arena_short)
			copy_text(sd->below_why, sizeof(sd->below_why),
				  "the rest of its memory is not to be had");
		else if (info.filled_bytes < info.arena_bytes)
			copy_text(sd->below_why, sizeof(sd->below_why), "filling");
		return;
	}
}

static void fill_core(const struct core_device *d, struct stats_device *sd)
{
	memcpy(sd->name, d->name, sizeof(sd->name));
	sd->kind = d->kind;
	sd->ordinal = d->ordinal;
	sd->capacity_bytes = d->capacity_bytes;
	sd->granted_bytes = d->granted_bytes;
	sd->draining_bytes = d->draining_bytes;
	sd->handle_bytes = d->handle_bytes;
	sd->evictions = d->evictions;
	sd->grants = d->grants;
	sd->revocations = d->revocations;
	sd->slabs = d->slabs;
	sd->below = d->below == CORE_DEVICE_NONE_BELOW ? STATS_NONE : d->below;
	sd->below_ready = d->below_ready;
	sd->demoted = d->demoted;
	sd->demoted_bytes = d->demoted_bytes;
	sd->promoted = d->promoted;
	sd->promoted_bytes = d->promoted_bytes;
	sd->dropped = d->dropped;
	sd->transfers_failed = d->transfers_failed;
	sd->checksum_misses = d->checksum_misses;
	sd->retired = d->retired;
}

/* Pages of its slabs, by what they are; pages that are next to go, and on their way. */
static void fill_pages(const struct core *c, struct stats_segment *seg)
{
	for (uint32_t i = 0; i < c->h->limits.slabs; i++) {
		const struct core_slab *slab = &c->slabs[i];
		const struct core_space *sp;
		struct stats_device *sd;
		uint64_t page_bytes;

		if (slab->state != CORE_SLAB_LIVE && slab->state != CORE_SLAB_DRAINING)
			continue;
		sp = &c->spaces[slab->space];
		sd = &seg->device[sp->device];
		page_bytes = sp->regions * sp->stride_bytes;
		sd->pages += slab->pages;
		sd->pages_free += slab->free;
		sd->free_bytes += slab->free * page_bytes;
		sd->held_bytes += ((uint64_t)slab->held + slab->quarantined) * page_bytes;
		sd->sealed_bytes += slab->sealed * page_bytes;
		sd->arriving_bytes += slab->arriving * page_bytes;
	}
	for (uint32_t i = 0; i < c->h->limits.spaces; i++) {
		const struct core_space *sp = &c->spaces[i];

		if (!sp->used)
			continue;
		seg->device[sp->device].spaces++;
		seg->device[sp->device].ripe += sp->ripe;
		seg->device[sp->device].flights += sp->falling + sp->rising;
	}
}

/* What went between an arena and the devices above it. */
static void sum_arena(struct stats_segment *seg, uint32_t index)
{
	struct stats_device *arena = &seg->device[index];

	for (uint32_t i = 0; i < seg->devices_n; i++) {
		const struct stats_device *d = &seg->device[i];

		if (!d->name[0] || d->below != index)
			continue;
		arena->flights += d->flights;
		arena->demoted += d->demoted;
		arena->demoted_bytes += d->demoted_bytes;
		arena->promoted += d->promoted;
		arena->promoted_bytes += d->promoted_bytes;
		arena->transfers_failed += d->transfers_failed;
		arena->checksum_misses += d->checksum_misses;
	}
}

void stats_fill_devices(const struct server *s, struct stats_segment *seg)
{
	const struct core_header *h = s->core.h;

	seg->devices_n = 0;
	for (uint32_t i = 0; i < CORE_DEVICES_MAX; i++) {
		struct stats_device *sd = &seg->device[i];

		memset(sd, 0, sizeof(*sd));
		if (h->device[i].state == CORE_DEVICE_NONE)
			continue;
		seg->devices_n = i + 1;
		fill_core(&h->device[i], sd);
		if (sd->kind == CORE_KIND_ARENA)
			fill_arena(s, i, sd);
		else
			fill_device(s, i, sd);
	}
	fill_pages(&s->core, seg);
	for (uint32_t i = 0; i < seg->devices_n; i++) {
		if (seg->device[i].kind == CORE_KIND_ARENA)
			sum_arena(seg, i);
	}
}
