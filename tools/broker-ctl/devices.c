/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Devices, and the tiers that pages are in.
 *
 * An arena, the host memory below some devices, is a device to the core, and has its figures in the
 * same records. To an operator it is none: nobody opens a space there. So it is a row of the tiers
 * and not of the devices.
 */

#include <string.h>

#include "tools/broker-ctl/columns.h"
#include "tools/broker-ctl/ctl.h"

static bool is_arena(const struct stats_device *d)
{
	return d->kind == CORE_KIND_ARENA;
}

static const struct stats_device *arena_below(const struct stats_segment *seg,
					      const struct stats_device *d)
{
	return d->below < seg->devices_n ? &seg->device[d->below] : NULL;
}

uint32_t listing_devices_n(const struct stats_segment *seg)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < seg->devices_n; i++)
		n += seg->device[i].name[0] && !is_arena(&seg->device[i]);
	return n;
}

/* ---- devices ------------------------------------------------------------------------------- */

static cJSON *device_free(const struct stats_segment *seg, const void *record)
{
	const struct stats_device *d = record;

	return cJSON_CreateNumber((double)(d->capacity_bytes - d->granted_bytes));
}

static cJSON *pid_or_none(int32_t pid)
{
	return pid > 0 ? cJSON_CreateNumber(pid) : NULL;
}

static cJSON *device_owner(const struct stats_segment *seg, const void *record)
{
	return pid_or_none(((const struct stats_device *)record)->owner_pid);
}

static cJSON *device_mover(const struct stats_segment *seg, const void *record)
{
	return pid_or_none(((const struct stats_device *)record)->mover_pid);
}

static cJSON *device_node(const struct stats_segment *seg, const void *record)
{
	int32_t node = ((const struct stats_device *)record)->node;

	return node >= 0 ? cJSON_CreateNumber(node) : NULL;
}

static cJSON *device_unused(const struct stats_segment *seg, const void *record)
{
	const struct stats_device *d = record;

	return d->memory_known ? cJSON_CreateNumber((double)d->unused_bytes) : NULL;
}

static cJSON *device_others(const struct stats_segment *seg, const void *record)
{
	const struct stats_device *d = record;

	return d->memory_known ? cJSON_CreateNumber((double)d->others_bytes) : NULL;
}

/*
 * ok, or what an operator should know, the worst first: being given up, no memory to be had,
 * what will not go well, the tier below out of reach, tenants above their high mark, memory on its
 * way back.
 */
static cJSON *device_state(const struct stats_segment *seg, const void *record)
{
	const struct stats_device *d = record;
	size_t index = (size_t)(d - seg->device);
	char text[288];

	if (d->drain == STATS_DRAIN_DONE)
		return cJSON_CreateString("drained");
	if (d->drain != STATS_DRAIN_NOT) {
		(void)snprintf(text, sizeof(text), "draining (by an operator%s%s)",
			       d->failed ? "; " : "", d->failed ? d->why : "");
		return cJSON_CreateString(text);
	}
	if (d->failed) {
		(void)snprintf(text, sizeof(text), "failed (%s)", d->why);
		return cJSON_CreateString(text);
	}
	if (d->warning[0]) {
		(void)snprintf(text, sizeof(text), "warning (%s)", d->warning);
		return cJSON_CreateString(text);
	}
	if (d->below != STATS_NONE && !d->below_ready) {
		(void)snprintf(text, sizeof(text), "no lower tier (%s)", d->below_why);
		return cJSON_CreateString(text);
	}
	for (uint32_t i = 0; i < seg->tenants_n; i++) {
		const struct core_budget *b = &seg->tenant[i].budget[index];

		if (b->used_bytes <= b->high_bytes)
			continue;
		(void)snprintf(text, sizeof(text), "pressure (tenant %.31s above high)",
			       seg->tenant[i].name);
		return cJSON_CreateString(text);
	}
	return cJSON_CreateString(d->draining_bytes ? "draining" : "ok");
}

static const struct column device_columns[] = {
	{ "name", "DEVICE", COLUMN_TEXT, false, "host:NODE or cuda:N", TEXT(stats_device, name) },
	{ "driver", "DRIVER", COLUMN_TEXT, false, "what serves it", TEXT(stats_device, driver) },
	{ "model", "MODEL", COLUMN_TEXT, true, "what the GPU calls itself",
	  TEXT(stats_device, model) },
	{ "numa", "NUMA", COLUMN_COUNT, true, "node it is, or is near", CALL(device_node) },
	{ "pci", "PCI", COLUMN_TEXT, true, "address of the GPU", TEXT(stats_device, pci) },
	{ "owner_pid", "OWNER", COLUMN_COUNT, true, "process that keeps the GPU's memory",
	  CALL(device_owner) },
	{ "mover_pid", "MOVER", COLUMN_COUNT, true, "process that copies its pages",
	  CALL(device_mover) },
	{ "mover_restarts", "MOVER.RESTARTS", COLUMN_COUNT, true, "how often it was started again",
	  U32(stats_device, mover_restarts) },
	{ "capacity", "CAPACITY", COLUMN_BYTES, true, "capacity_bytes by a shorter name",
	  U64(stats_device, capacity_bytes) },
	{ "capacity_bytes", "CAP", COLUMN_BYTES, false, "given to the daemon",
	  U64(stats_device, capacity_bytes) },
	{ "granted_bytes", "GRANTED", COLUMN_BYTES, false, "in slabs of spaces",
	  U64(stats_device, granted_bytes) },
	{ "held_bytes", "HELD", COLUMN_BYTES, false, "of granted: pages being filled",
	  U64(stats_device, held_bytes) },
	{ "cached_bytes", "CACHED", COLUMN_BYTES, false, "of granted: sealed pages",
	  U64(stats_device, sealed_bytes) },
	{ "arriving_bytes", "ARRIVING", COLUMN_BYTES, true,
	  "of granted: pages that come from the tier below", U64(stats_device, arriving_bytes) },
	{ "idle_bytes", "IDLE", COLUMN_BYTES, false, "of granted: free pages",
	  U64(stats_device, free_bytes) },
	{ "free_bytes", "FREE", COLUMN_BYTES, false, "granted to nobody", CALL(device_free) },
	{ "draining_bytes", "DRAINING", COLUMN_BYTES, true, "of granted: on their way back",
	  U64(stats_device, draining_bytes) },
	{ "unused_bytes", "UNUSED", COLUMN_BYTES, true, "of the GPU, nobody's",
	  CALL(device_unused) },
	{ "others_bytes", "OTHERS", COLUMN_BYTES, true,
	  "of the GPU, taken by others than the daemon", CALL(device_others) },
	{ "warm_bytes", "WARM", COLUMN_BYTES, true, "made ahead of need, granted to nobody",
	  U64(stats_device, warm_bytes) },
	{ "handle_bytes", "HANDLE", COLUMN_BYTES, true, "unit of the driver",
	  U64(stats_device, handle_bytes) },
	{ "slabs", "SLABS", COLUMN_COUNT, true, "granted", U32(stats_device, slabs) },
	{ "pages", "PAGES", COLUMN_COUNT, true, "in them", U64(stats_device, pages) },
	{ "pages_free", "PAGES.FREE", COLUMN_COUNT, true, "of those, free",
	  U64(stats_device, pages_free) },
	{ "grants", "GRANTS", COLUMN_COUNT, true, "slabs granted since start",
	  U64(stats_device, grants) },
	{ "revocations", "REVOKED", COLUMN_COUNT, true, "slabs revoked since start",
	  U64(stats_device, revocations) },
	{ "retired", "RETIRED", COLUMN_COUNT, true, "slabs given up since start: bad memory",
	  U64(stats_device, retired) },
	{ "evictions", "EVICTED", COLUMN_COUNT, false, "pages evicted since start",
	  U64(stats_device, evictions) },
	{ "state", "STATE", COLUMN_TEXT, false,
	  "ok, draining, drained, pressure, no lower tier, warning, failed", CALL(device_state) },
};
const struct table table_devices = TABLE("devices", "device", device_columns);

cJSON *listing_devices(const struct stats_segment *seg)
{
	cJSON *rows = cJSON_CreateArray();

	for (uint32_t i = 0; i < seg->devices_n; i++) {
		if (seg->device[i].name[0] && !is_arena(&seg->device[i]))
			cJSON_AddItemToArray(rows, table_row(&table_devices, seg, &seg->device[i]));
	}
	return rows;
}

/* ---- tiers --------------------------------------------------------------------------------- */

static cJSON *tier_name(const struct stats_segment *seg, const void *record)
{
	return cJSON_CreateString(is_arena(record) ? "host" : "device");
}

/* An arena's is what is there of it; none of a device that has nothing below. */
static cJSON *tier_ready(const struct stats_segment *seg, const void *record)
{
	const struct stats_device *d = record;

	if (is_arena(d))
		return cJSON_CreateBool(d->filled_bytes >= d->capacity_bytes);
	return d->below == STATS_NONE ? NULL : cJSON_CreateBool(d->below_ready != 0);
}

static cJSON *tier_why(const struct stats_segment *seg, const void *record)
{
	const char *why = ((const struct stats_device *)record)->below_why;

	return why[0] ? cJSON_CreateString(why) : NULL;
}

static cJSON *tier_below(const struct stats_segment *seg, const void *record)
{
	const struct stats_device *below = arena_below(seg, record);

	return below ? cJSON_CreateString(below->name) : NULL;
}

static cJSON *tier_filled(const struct stats_segment *seg, const void *record)
{
	const struct stats_device *d = record;

	return is_arena(d) ? cJSON_CreateNumber((double)d->filled_bytes) : NULL;
}

static cJSON *tier_misplaced(const struct stats_segment *seg, const void *record)
{
	const struct stats_device *d = record;

	return is_arena(d) && !d->unseen_error ? cJSON_CreateNumber((double)d->misplaced_bytes)
					       : NULL;
}

static cJSON *tier_hugetlb(const struct stats_segment *seg, const void *record)
{
	const struct stats_device *d = record;

	return is_arena(d) ? cJSON_CreateNumber((double)d->hugetlb_bytes) : NULL;
}

static cJSON *tier_thp(const struct stats_segment *seg, const void *record)
{
	const struct stats_device *d = record;

	return is_arena(d) ? cJSON_CreateNumber((double)d->thp_bytes) : NULL;
}

static const struct column tier_columns[] = {
	{ "tier", "TIER", COLUMN_TEXT, false,
	  "device; host: memory next to devices; store: files and drives; part: one of those",
	  CALL(tier_name) },
	{ "device", "DEVICE", COLUMN_TEXT, false,
	  "the device, the arena of a node, the path of a part", TEXT(stats_device, name) },
	{ "numa", "NUMA", COLUMN_COUNT, false, "node it is on, or near", CALL(device_node) },
	{ "below", "BELOW", COLUMN_TEXT, true, "arena that its pages go to", CALL(tier_below) },
	{ "capacity_bytes", "CAP", COLUMN_BYTES, false, "given to the daemon",
	  U64(stats_device, capacity_bytes) },
	{ "granted_bytes", "GRANTED", COLUMN_BYTES, false,
	  "in slabs of spaces; in segments of the store that have pages",
	  U64(stats_device, granted_bytes) },
	{ "cached_bytes", "CACHED", COLUMN_BYTES, false, "of granted: sealed pages",
	  U64(stats_device, sealed_bytes) },
	{ "pages", "PAGES", COLUMN_COUNT, false, "in the slabs, or in the store",
	  U64(stats_device, pages) },
	{ "pages_free", "FREE", COLUMN_COUNT, false, "of those, free",
	  U64(stats_device, pages_free) },
	{ "ripe", "RIPE", COLUMN_COUNT, false, "pages next to go", U32(stats_device, ripe) },
	{ "demoted", "DEMOTED", COLUMN_COUNT, false, "pages written down since start",
	  U64(stats_device, demoted) },
	{ "demoted_bytes", "DEMOTED.BYTES", COLUMN_BYTES, true, "as many bytes",
	  U64(stats_device, demoted_bytes) },
	{ "promoted", "PROMOTED", COLUMN_COUNT, false, "pages brought up since start",
	  U64(stats_device, promoted) },
	{ "promoted_bytes", "PROMOTED.BYTES", COLUMN_BYTES, true, "as many bytes",
	  U64(stats_device, promoted_bytes) },
	{ "dropped", "DROPPED", COLUMN_COUNT, false, "pages evicted without a copy below",
	  U64(stats_device, dropped) },
	{ "evictions", "EVICTED", COLUMN_COUNT, true, "pages evicted since start",
	  U64(stats_device, evictions) },
	{ "flights", "FLIGHTS", COLUMN_COUNT, false, "copies queued or under way",
	  U64(stats_device, flights) },
	{ "failed", "FAILED", COLUMN_COUNT, false, "copies that failed since start",
	  U64(stats_device, transfers_failed) },
	{ "checksum_misses", "BAD.SUM", COLUMN_COUNT, true,
	  "of those: what was read is not what was written", U64(stats_device, checksum_misses) },
	{ "filled_bytes", "FILLED", COLUMN_BYTES, true, "memory of the arena that is there",
	  CALL(tier_filled) },
	{ "misplaced_bytes", "MISPLACED", COLUMN_BYTES, true, "of that, on another node",
	  CALL(tier_misplaced) },
	{ "hugetlb_bytes", "HUGETLB", COLUMN_BYTES, true, "of that, on huge pages set aside",
	  CALL(tier_hugetlb) },
	{ "thp_bytes", "THP", COLUMN_BYTES, true, "of that, on transparent huge pages",
	  CALL(tier_thp) },
	{ "wanted_bytes", "WANTED", COLUMN_BYTES, true, "of a part: what it shrinks to", ROW },
	{ "segments", "SEGMENTS", COLUMN_COUNT, true, "of the store", ROW },
	{ "segments_free", "SEG.FREE", COLUMN_COUNT, true, "of those, empty", ROW },
	{ "segments_bad", "SEG.BAD", COLUMN_COUNT, true, "of those, given up: they failed", ROW },
	{ "read_bytes", "READ", COLUMN_BYTES, true, "read from the drive since start", ROW },
	{ "written_bytes", "WRITTEN", COLUMN_BYTES, true, "written to the drive since start", ROW },
	{ "ready", "READY", COLUMN_BOOL, false,
	  "pages can go to the tier below and come back; the arena is filled; the part works",
	  CALL(tier_ready) },
	{ "why", "WHY", COLUMN_TEXT, true, "it is not ready", CALL(tier_why) },
};
const struct table table_tiers = TABLE("tiers", "tier", tier_columns);

/* Whatever a tier is, its row has every field. */
cJSON *listing_tiers(const struct stats_segment *seg)
{
	cJSON *rows = cJSON_CreateArray(), *ret = cJSON_CreateArray();
	struct table_view all;
	const cJSON *row;

	for (uint32_t i = 0; i < seg->devices_n; i++) {
		if (seg->device[i].name[0])
			cJSON_AddItemToArray(rows, table_row(&table_tiers, seg, &seg->device[i]));
	}
	store_add_rows(seg, rows);
	(void)table_select(&table_tiers, NULL, true, &all, NULL);
	cJSON_ArrayForEach(row, rows) cJSON_AddItemToArray(ret, table_project(&all, row));
	cJSON_Delete(rows);
	return ret;
}
