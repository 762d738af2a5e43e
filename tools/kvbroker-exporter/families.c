/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The tables: see families.h. What is counted is documented where the segment is (stats.h).
 */

#include <math.h>
#include <string.h>

#include "broker/core/core.h"
#include "tools/kvbroker-exporter/families.h"

#define U32(type, field) FAMILY_U32, offsetof(struct type, field), NULL, false
#define U64(type, field) FAMILY_U64, offsetof(struct type, field), NULL, false
#define APART32(type, field) FAMILY_U32, offsetof(struct type, field), NULL, true
#define LIMIT(type, field) FAMILY_LIMIT, offsetof(struct type, field), NULL, false
#define CALL(function) FAMILY_CALL, 0, function, true
#define NAME(name) "kvbroker_" name
#define TABLE(array)                                                                               \
	{                                                                                          \
		array, sizeof(array) / sizeof((array)[0])                                          \
	}

uint64_t family_count(const struct family *f, const char *record)
{
	uint32_t narrow;
	uint64_t wide;

	switch (f->source) {
	case FAMILY_U32:
		memcpy(&narrow, record + f->offset, sizeof(narrow));
		return narrow;
	case FAMILY_U64:
	case FAMILY_LIMIT:
		memcpy(&wide, record + f->offset, sizeof(wide));
		return wide;
	default:
		return 0;
	}
}

/* ---- the daemon ---------------------------------------------------------------------------- */

#define SEG(field) U64(stats_segment, field)
#define SEG32(field) U32(stats_segment, field)

static const struct family daemon_families[] = {
	{ NAME("clients"), "Clients there are.", EXPO_GAUGE, SEG32(clients_n) },
	{ NAME("clients_reclaiming"), "Ended clients whose memory is being taken back.", EXPO_GAUGE,
	  SEG32(reaping) },
	{ NAME("tenants"), "Tenants there are.", EXPO_GAUGE, SEG32(tenants_n) },
	{ NAME("namespaces"), "Namespaces there are.", EXPO_GAUGE, SEG32(namespaces_n) },
	{ NAME("spaces"), "Spaces there are.", EXPO_GAUGE, SEG32(spaces_n) },
	{ NAME("page_records_max"), "Pages there can be.", EXPO_GAUGE, SEG32(pages_max) },
	{ NAME("indexed_pages"), "Pages that lookups can find.", EXPO_GAUGE, SEG32(indexed) },
	{ NAME("stale_pages"), "Pages of past epochs, on their way out.", EXPO_GAUGE,
	  SEG(pages_stale) },
	{ NAME("leases"), "Leases there are.", EXPO_GAUGE, SEG32(leases_used) },
	{ NAME("leases_max"), "Leases there can be.", EXPO_GAUGE, SEG32(leases_max) },
	{ NAME("slabs_draining"), "Slabs on their way back.", EXPO_GAUGE, SEG32(draining) },
	{ NAME("state_bytes"), "Memory of the daemon's own tables.", EXPO_GAUGE, SEG(state_bytes) },
	{ NAME("loop_turns_total"), "Turns of the daemon's event loop.", EXPO_COUNTER, SEG(turns) },
	{ NAME("loop_sleeps_total"), "Times that it had nothing to do.", EXPO_COUNTER,
	  SEG(sleeps) },
	{ NAME("connections_accepted_total"), "Connections taken.", EXPO_COUNTER, SEG(accepted) },
	{ NAME("connections_refused_total"), "Connections refused.", EXPO_COUNTER, SEG(refused) },
	{ NAME("protocol_errors_total"), "Connections ended because they broke the protocol.",
	  EXPO_COUNTER, SEG(protocol_errors) },
	{ NAME("attach_timeouts_total"), "Connections ended because they did not say who they are.",
	  EXPO_COUNTER, SEG(attach_timeouts) },
	{ NAME("clients_kicked_total"), "Clients that were disconnected.", EXPO_COUNTER,
	  SEG(kicked) },
	{ NAME("clients_attached_total"), "Clients that attached.", EXPO_COUNTER,
	  SEG(n.clients_opened) },
	{ NAME("clients_reclaimed_total"), "Clients that ended and were taken back.", EXPO_COUNTER,
	  SEG(n.clients_reaped) },
	{ NAME("log_lines_dropped_total"), "Lines of the log that were left out.", EXPO_COUNTER,
	  SEG(log_dropped) },
	{ NAME("allocations_total"), "Requests for pages.", EXPO_COUNTER, SEG(n.allocs) },
	{ NAME("allocation_failures_total"), "Of those, that got fewer than they asked for.",
	  EXPO_COUNTER, SEG(n.alloc_short) },
	{ NAME("allocated_pages_total"), "Pages given out.", EXPO_COUNTER, SEG(n.alloc_pages) },
	{ NAME("freed_pages_total"), "Pages given back unsealed.", EXPO_COUNTER, SEG(n.frees) },
	{ NAME("sealed_pages_total"), "Pages sealed.", EXPO_COUNTER, SEG(n.seals) },
	{ NAME("sealed_duplicates_total"), "Of those, that another had sealed before.",
	  EXPO_COUNTER, SEG(n.seal_dups) },
	{ NAME("lookups_total"), "Lookups.", EXPO_COUNTER, SEG(n.lookups) },
	{ NAME("lookup_keys_total"), "Keys that lookups asked for.", EXPO_COUNTER,
	  SEG(n.lookup_keys) },
	{ NAME("released_leases_total"), "Leases released.", EXPO_COUNTER, SEG(n.releases) },
	{ NAME("loads_total"), "Loads from lower tiers that have ended.", EXPO_COUNTER,
	  SEG(n.loads) },
	{ NAME("load_keys_total"), "Keys that loads asked for.", EXPO_COUNTER, SEG(n.load_keys) },
	{ NAME("load_hits_total"), "Keys that loads brought up.", EXPO_COUNTER, SEG(n.load_hits) },
	{ NAME("load_failures_total"), "Loads that a page did not come up for.", EXPO_COUNTER,
	  SEG(n.load_failed) },
	{ NAME("stale_pages_swept_total"), "Pages of past epochs that were taken back.",
	  EXPO_COUNTER, SEG(n.stale_swept) },
	{ NAME("revocations_overdue_total"), "Slabs that came back later than asked.", EXPO_COUNTER,
	  SEG(n.revocations_overdue) },
	{ NAME("store_written_pages_total"), "Pages written to the store.", EXPO_COUNTER,
	  SEG(n.stored) },
	{ NAME("store_written_bytes_total"), "Bytes written to the store.", EXPO_COUNTER,
	  SEG(n.stored_bytes) },
	{ NAME("store_read_pages_total"), "Pages read from the store.", EXPO_COUNTER,
	  SEG(n.fetched) },
	{ NAME("store_read_bytes_total"), "Bytes read from the store.", EXPO_COUNTER,
	  SEG(n.fetched_bytes) },
	{ NAME("store_lost_pages_total"), "Pages that the store had and did not give.",
	  EXPO_COUNTER, SEG(n.store_lost) },
	{ NAME("store_refused_pages_total"), "Pages that the store did not take.", EXPO_COUNTER,
	  SEG(n.store_refused) },
	{ NAME("store_unwanted_pages_total"), "Pages that admission kept out of the store.",
	  EXPO_COUNTER, SEG(n.store_unwanted) },
};
const struct families families_daemon = TABLE(daemon_families);

/* ---- devices, and the host tier's arenas --------------------------------------------------- */

static double device_free(const struct stats_segment *seg, const void *record)
{
	const struct stats_device *d = record;

	return (double)(d->capacity_bytes - d->granted_bytes);
}

static double device_unused(const struct stats_segment *seg, const void *record)
{
	const struct stats_device *d = record;

	return d->memory_known ? (double)d->unused_bytes : NAN;
}

static double device_others(const struct stats_segment *seg, const void *record)
{
	const struct stats_device *d = record;

	return d->memory_known ? (double)d->others_bytes : NAN;
}

static double device_failed(const struct stats_segment *seg, const void *record)
{
	return ((const struct stats_device *)record)->failed != 0;
}

static double device_warns(const struct stats_segment *seg, const void *record)
{
	return ((const struct stats_device *)record)->warning[0] != '\0';
}

static double device_drains(const struct stats_segment *seg, const void *record)
{
	return ((const struct stats_device *)record)->drain != STATS_DRAIN_NOT;
}

/* Whether pages can go down and come up; of an arena, whether all of it is there. */
static double tier_ready(const struct stats_segment *seg, const void *record)
{
	const struct stats_device *d = record;

	if (d->kind == CORE_KIND_ARENA)
		return d->filled_bytes >= d->capacity_bytes;
	return d->below == STATS_NONE ? NAN : d->below_ready != 0;
}

/* Figures that only an arena has. */
static double arena_figure(const struct stats_device *d, uint64_t bytes)
{
	return d->kind == CORE_KIND_ARENA ? (double)bytes : NAN;
}

static double arena_filled(const struct stats_segment *seg, const void *record)
{
	return arena_figure(record, ((const struct stats_device *)record)->filled_bytes);
}

static double arena_misplaced(const struct stats_segment *seg, const void *record)
{
	const struct stats_device *d = record;

	return d->unseen_error ? NAN : arena_figure(d, d->misplaced_bytes);
}

static double arena_hugetlb(const struct stats_segment *seg, const void *record)
{
	return arena_figure(record, ((const struct stats_device *)record)->hugetlb_bytes);
}

static double arena_thp(const struct stats_segment *seg, const void *record)
{
	return arena_figure(record, ((const struct stats_device *)record)->thp_bytes);
}

#define DEV(field) U64(stats_device, field)
#define DEV32(field) U32(stats_device, field)

static const struct family device_families[] = {
	{ NAME("capacity_bytes"), "Memory that the daemon was given.", EXPO_GAUGE,
	  DEV(capacity_bytes) },
	{ NAME("mapped_bytes"), "Of that, in slabs of spaces (GRANTED of broker-ctl).", EXPO_GAUGE,
	  DEV(granted_bytes) },
	{ NAME("free_bytes"), "Of the capacity, in no slab.", EXPO_GAUGE, CALL(device_free) },
	{ NAME("held_bytes"), "Pages that engines are filling.", EXPO_GAUGE, DEV(held_bytes) },
	{ NAME("cached_bytes"), "Sealed pages.", EXPO_GAUGE, DEV(sealed_bytes) },
	{ NAME("arriving_bytes"), "Pages that are being brought up or written down to here.",
	  EXPO_GAUGE, DEV(arriving_bytes) },
	{ NAME("idle_bytes"), "Free pages of slabs.", EXPO_GAUGE, DEV(free_bytes) },
	{ NAME("draining_bytes"), "Slabs on their way back.", EXPO_GAUGE, DEV(draining_bytes) },
	{ NAME("warm_bytes"), "Memory made ahead of need.", EXPO_GAUGE, DEV(warm_bytes) },
	{ NAME("device_unused_bytes"), "Of all of a GPU's memory, nobody's.", EXPO_GAUGE,
	  CALL(device_unused) },
	{ NAME("device_others_bytes"), "Of all of a GPU's memory, taken by other programs.",
	  EXPO_GAUGE, CALL(device_others) },
	{ NAME("pages"), "Pages of slabs.", EXPO_GAUGE, DEV(pages) },
	{ NAME("free_pages"), "Of those, free.", EXPO_GAUGE, DEV(pages_free) },
	{ NAME("ripe_pages"), "Pages that are next to go.", EXPO_GAUGE, DEV32(ripe) },
	{ NAME("slabs"), "Slabs granted.", EXPO_GAUGE, DEV32(slabs) },
	{ NAME("device_failed"), "1: it gives no memory now.", EXPO_GAUGE, CALL(device_failed) },
	{ NAME("device_warning"), "1: broker-ctl gpu list warns of something.", EXPO_GAUGE,
	  CALL(device_warns) },
	{ NAME("device_draining"), "1: an operator has it given up.", EXPO_GAUGE,
	  CALL(device_drains) },
	{ NAME("tier_ready"), "1: pages can go down and come up; of host memory: all is there.",
	  EXPO_GAUGE, CALL(tier_ready) },
	{ NAME("tier_filled_bytes"), "Memory of the host tier that is there.", EXPO_GAUGE,
	  CALL(arena_filled) },
	{ NAME("numa_misplaced_bytes"), "Of that, on another NUMA node than asked.", EXPO_GAUGE,
	  CALL(arena_misplaced) },
	{ NAME("hugetlb_bytes"), "Of that, on huge pages set aside.", EXPO_GAUGE,
	  CALL(arena_hugetlb) },
	{ NAME("thp_bytes"), "Of that, on transparent huge pages.", EXPO_GAUGE, CALL(arena_thp) },
	{ NAME("io_inflight_requests"), "Copies queued or under way.", EXPO_GAUGE, DEV(flights) },
	{ NAME("evictions_total"), "Pages evicted.", EXPO_COUNTER, DEV(evictions) },
	{ NAME("dropped_pages_total"), "Pages evicted without a copy below.", EXPO_COUNTER,
	  DEV(dropped) },
	{ NAME("slab_grants_total"), "Slabs granted.", EXPO_COUNTER, DEV(grants) },
	{ NAME("slab_revocations_total"), "Slabs revoked.", EXPO_COUNTER, DEV(revocations) },
	{ NAME("slabs_retired_total"), "Slabs given up: bad memory.", EXPO_COUNTER, DEV(retired) },
	{ NAME("tier_transfer_failures_total"), "Copies that failed.", EXPO_COUNTER,
	  DEV(transfers_failed) },
	{ NAME("tier_checksum_failures_total"), "Of those: other bytes than were written.",
	  EXPO_COUNTER, DEV(checksum_misses) },
	{ NAME("mover_restarts_total"), "Times that its mover was started again.", EXPO_COUNTER,
	  DEV32(mover_restarts) },
};
const struct families families_device = TABLE(device_families);

/* ---- tenants ------------------------------------------------------------------------------- */

static const struct family budget_families[] = {
	{ NAME("tenant_usage_bytes"), "Slabs of its spaces.", EXPO_GAUGE,
	  U64(core_budget, used_bytes) },
	{ NAME("tenant_draining_bytes"), "Of those, on their way back.", EXPO_GAUGE,
	  U64(core_budget, draining_bytes) },
	{ NAME("tenant_min_bytes"), "Kept for it.", EXPO_GAUGE, U64(core_budget, min_bytes) },
	{ NAME("tenant_high_bytes"), "Above it, it is the first to be revoked from.", EXPO_GAUGE,
	  LIMIT(core_budget, high_bytes) },
	{ NAME("tenant_max_bytes"), "Never exceeded.", EXPO_GAUGE, LIMIT(core_budget, max_bytes) },
	{ NAME("tenant_weight"), "Its share of what is above the minima.", EXPO_GAUGE,
	  U32(core_budget, weight) },
};
const struct families families_budget = TABLE(budget_families);

#define TEN(field) U64(stats_tenant, field)

static const struct family tenant_families[] = {
	{ NAME("tenant_clients"), "Its clients.", EXPO_GAUGE, U32(stats_tenant, clients) },
	{ NAME("tenant_held_pages"), "Pages that they are filling.", EXPO_GAUGE,
	  U32(stats_tenant, pages_held) },
	{ NAME("tenant_leases"), "Leases that they have.", EXPO_GAUGE, TEN(leases) },
	{ NAME("tenant_pins"), "Pages that they pin.", EXPO_GAUGE, TEN(pins) },
	{ NAME("tenant_lookups_total"), "Its lookups.", EXPO_COUNTER, TEN(lookups) },
	{ NAME("tenant_lookup_keys_total"), "Keys that they asked for.", EXPO_COUNTER,
	  TEN(lookup_keys) },
	{ NAME("tenant_lookup_hits_total"), "Keys that they found.", EXPO_COUNTER,
	  TEN(lookup_hits) },
	{ NAME("tenant_allocated_pages_total"), "Pages given out to it.", EXPO_COUNTER,
	  TEN(allocs) },
	{ NAME("tenant_sealed_pages_total"), "Pages that it sealed.", EXPO_COUNTER, TEN(seals) },
	{ NAME("tenant_evictions_total"), "Pages of it that were evicted.", EXPO_COUNTER,
	  TEN(evictions) },
	{ NAME("tenant_refusals_total"), "Requests for memory that were refused.", EXPO_COUNTER,
	  TEN(refusals) },
};
const struct families families_tenant = TABLE(tenant_families);

/* ---- namespaces ---------------------------------------------------------------------------- */

static double namespace_stale(const struct stats_segment *seg, const void *record)
{
	const struct stats_namespace *ns = record;

	return (double)ns->pages - (double)ns->pages_current;
}

static const struct family namespace_families[] = {
	{ NAME("namespace_epoch"), "Version of the bytes.", EXPO_GAUGE,
	  APART32(stats_namespace, epoch) },
	{ NAME("namespace_clients"), "Clients that have it open.", EXPO_GAUGE,
	  U32(stats_namespace, refs) },
	{ NAME("namespace_pages"), "Pages of this epoch, in every tier.", EXPO_GAUGE,
	  U32(stats_namespace, pages_current) },
	{ NAME("namespace_stale_pages"), "Pages of past epochs.", EXPO_GAUGE,
	  CALL(namespace_stale) },
	{ NAME("namespace_lookups_total"), "Lookups in it.", EXPO_COUNTER,
	  U64(stats_namespace, lookups) },
	{ NAME("namespace_lookup_keys_total"), "Keys that they asked for.", EXPO_COUNTER,
	  U64(stats_namespace, lookup_keys) },
	{ NAME("namespace_lookup_hits_total"), "Keys that they found.", EXPO_COUNTER,
	  U64(stats_namespace, lookup_hits) },
	{ NAME("namespace_stale_seals_total"), "Seals refused because the epoch had passed.",
	  EXPO_COUNTER, U64(stats_namespace, stale_seals) },
};
const struct families families_namespace = TABLE(namespace_families);

/* ---- clients ------------------------------------------------------------------------------- */

static double client_connected(const struct stats_segment *seg, const void *record)
{
	return ((const struct stats_client *)record)->state == CORE_CLIENT_ATTACHED;
}

#define CLI(field) U32(stats_client, field)

static const struct family client_families[] = {
	{ NAME("client_connected"), "1: it is attached; 0: it is leaving, or has ended.",
	  EXPO_GAUGE, CALL(client_connected) },
	{ NAME("client_held_bytes"), "Pages that it is filling, or keeps to fill.", EXPO_GAUGE,
	  U64(stats_client, held_bytes) },
	{ NAME("client_held_pages"), "As many pages.", EXPO_GAUGE, CLI(held) },
	{ NAME("client_leases"), "Pages that it has a right to read.", EXPO_GAUGE, CLI(leases) },
	{ NAME("client_leases_max"), "Leases that it can have.", EXPO_GAUGE, CLI(leases_max) },
	{ NAME("client_pins"), "Pages that it pins.", EXPO_GAUGE, CLI(pins) },
	{ NAME("client_ring_submissions_waiting"),
	  "Entries of its ring that the daemon has not taken.", EXPO_GAUGE, CLI(sq_fill) },
	{ NAME("client_ring_completions_waiting"), "Answers that it has not taken.", EXPO_GAUGE,
	  CLI(cq_fill) },
	{ NAME("client_ring_entries_total"), "Entries of its ring that were taken.", EXPO_COUNTER,
	  U64(stats_client, entries) },
	{ NAME("client_ring_invalid_entries_total"), "Of those, malformed.", EXPO_COUNTER,
	  U64(stats_client, invalid) },
};
const struct families families_client = TABLE(client_families);
