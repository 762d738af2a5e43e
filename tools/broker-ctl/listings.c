/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What each listing shows, and where in the stats segment it is.
 *
 * Ages are counted to the moment the segment was published, so that all of one answer is of one
 * instant.
 */

#include <string.h>

#include "tools/broker-ctl/columns.h"
#include "tools/broker-ctl/ctl.h"

double listing_hit_ratio(uint64_t hits, uint64_t keys)
{
	return keys ? (double)hits / (double)keys : -1;
}

static cJSON *ratio(uint64_t hits, uint64_t keys)
{
	return keys ? cJSON_CreateNumber(listing_hit_ratio(hits, keys)) : NULL;
}

static cJSON *limit(uint64_t bytes)
{
	return bytes == UINT64_MAX ? NULL : cJSON_CreateNumber((double)bytes);
}

static cJSON *age(const struct stats_segment *seg, uint64_t ns)
{
	return cJSON_CreateNumber(seg->published_ns > ns ? (double)(seg->published_ns - ns) / 1e9
							 : 0);
}

static const char *tenant_name(const struct stats_segment *seg, uint32_t index)
{
	for (uint32_t i = 0; i < seg->tenants_n; i++) {
		if (seg->tenant[i].index == index)
			return seg->tenant[i].name;
	}
	return "?";
}

static cJSON *index_or_none(uint32_t index)
{
	return index == STATS_NONE ? NULL : cJSON_CreateNumber(index);
}

static cJSON *hex_number(uint64_t number)
{
	char text[20];

	(void)snprintf(text, sizeof(text), "0x%llx", (unsigned long long)number);
	return cJSON_CreateString(text);
}

/* ---- clients ------------------------------------------------------------------------------- */

static cJSON *client_tenant(const struct stats_segment *seg, const void *record)
{
	return cJSON_CreateString(tenant_name(seg, ((const struct stats_client *)record)->tenant));
}

static cJSON *client_state(const struct stats_segment *seg, const void *record)
{
	static const char *const name[] = { "free", "attached", "leaving", "dead" };
	uint32_t state = ((const struct stats_client *)record)->state;

	return cJSON_CreateString(state < sizeof(name) / sizeof(name[0]) ? name[state] : "?");
}

static cJSON *client_age(const struct stats_segment *seg, const void *record)
{
	return age(seg, ((const struct stats_client *)record)->opened_ns);
}

static cJSON *client_polled(const struct stats_segment *seg, const void *record)
{
	return cJSON_CreateBool(((const struct stats_client *)record)->hot != 0);
}

static const struct column client_columns[] = {
	{ "id", "ID", COLUMN_COUNT, false, "what kick and show call it", U32(stats_client, id) },
	{ "pid", "PID", COLUMN_COUNT, false, "its process", U32(stats_client, pid) },
	{ "uid", "UID", COLUMN_COUNT, true, "its user", U32(stats_client, uid) },
	{ "name", "NAME", COLUMN_TEXT, false, "as it calls itself", TEXT(stats_client, name) },
	{ "tenant", "TENANT", COLUMN_TEXT, false, "whose budget it uses", CALL(client_tenant) },
	{ "state", "STATE", COLUMN_TEXT, false,
	  "attached; leaving: connection gone, process not; dead: being taken back",
	  CALL(client_state) },
	{ "age_s", "AGE", COLUMN_SECONDS, false, "since it attached", CALL(client_age) },
	{ "held_bytes", "HELD", COLUMN_BYTES, false, "pages it is filling, or keeps to fill",
	  U64(stats_client, held_bytes) },
	{ "pages_held", "PAGES", COLUMN_COUNT, false, "as many pages", U32(stats_client, held) },
	{ "pages_magazine", "MAGAZINE", COLUMN_COUNT, true, "of those, in its magazines",
	  U32(stats_client, magazine) },
	{ "leases", "LEASES", COLUMN_COUNT, false, "pages it has a right to read",
	  U32(stats_client, leases) },
	{ "leases_max", "LEASES.MAX", COLUMN_COUNT, true, "its quota of leases",
	  U32(stats_client, leases_max) },
	{ "pins", "PINS", COLUMN_COUNT, true, "pages it pins", U32(stats_client, pins) },
	{ "spaces", "SPACES", COLUMN_COUNT, true, "spaces it is in", U32(stats_client, spaces) },
	{ "entries", "ENTRIES", COLUMN_COUNT, false, "ring entries taken",
	  U64(stats_client, entries) },
	{ "invalid", "INVALID", COLUMN_COUNT, true, "of those, malformed",
	  U64(stats_client, invalid) },
	{ "polled", "POLLED", COLUMN_BOOL, true, "the daemon polls its ring", CALL(client_polled) },
	{ "sq_fill", "SQ", COLUMN_COUNT, true, "entries waiting for the daemon",
	  U32(stats_client, sq_fill) },
	{ "cq_fill", "CQ", COLUMN_COUNT, true, "completions waiting for the client",
	  U32(stats_client, cq_fill) },
};
const struct table table_clients = TABLE("clients", "client", client_columns);

cJSON *listing_clients(const struct stats_segment *seg)
{
	cJSON *rows = cJSON_CreateArray();

	for (uint32_t i = 0; i < seg->clients_n; i++)
		cJSON_AddItemToArray(rows, table_row(&table_clients, seg, &seg->client[i]));
	return rows;
}

/* ---- tenants: a row a device --------------------------------------------------------------- */

struct tenant_row {
	const struct stats_tenant *tenant;
	char name[KVB_NAME_BYTES];
	char device[KVB_NAME_BYTES];
	struct core_budget budget;
};

#define TENANT_U32(field)                                                                          \
	static cJSON *tenant_##field(const struct stats_segment *seg, const void *record)          \
	{                                                                                          \
		return cJSON_CreateNumber(                                                         \
			(double)((const struct tenant_row *)record)->tenant->field);               \
	}
TENANT_U32(uid)
TENANT_U32(clients)
TENANT_U32(pages_held)
TENANT_U32(leases)
TENANT_U32(pins)
TENANT_U32(lookups)
TENANT_U32(allocs)
TENANT_U32(seals)
TENANT_U32(evictions)
TENANT_U32(refusals)

static cJSON *tenant_high(const struct stats_segment *seg, const void *record)
{
	return limit(((const struct tenant_row *)record)->budget.high_bytes);
}

static cJSON *tenant_max(const struct stats_segment *seg, const void *record)
{
	return limit(((const struct tenant_row *)record)->budget.max_bytes);
}

static cJSON *tenant_hit(const struct stats_segment *seg, const void *record)
{
	const struct stats_tenant *t = ((const struct tenant_row *)record)->tenant;

	return ratio(t->lookup_hits, t->lookup_keys);
}

static const struct column tenant_columns[] = {
	{ "tenant", "TENANT", COLUMN_TEXT, false, "its name", TEXT(tenant_row, name) },
	{ "device", "DEVICE", COLUMN_TEXT, false, "the budget is on it", TEXT(tenant_row, device) },
	{ "uid", "UID", COLUMN_COUNT, false, "the user its clients run as", CALL(tenant_uid) },
	{ "min_bytes", "MIN", COLUMN_BYTES, false, "kept for it, never lent",
	  U64(tenant_row, budget.min_bytes) },
	{ "high_bytes", "HIGH", COLUMN_BYTES, false, "above it, it is the first to be revoked from",
	  CALL(tenant_high) },
	{ "max_bytes", "MAX", COLUMN_BYTES, false, "never exceeded", CALL(tenant_max) },
	{ "used_bytes", "USED", COLUMN_BYTES, false, "slabs of its spaces",
	  U64(tenant_row, budget.used_bytes) },
	{ "weight", "WEIGHT", COLUMN_COUNT, false, "its share of what is above the minima",
	  U32(tenant_row, budget.weight) },
	{ "clients", "CLIENTS", COLUMN_COUNT, false, "attached", CALL(tenant_clients) },
	{ "pages_held", "HELD", COLUMN_COUNT, true, "pages its clients are filling",
	  CALL(tenant_pages_held) },
	{ "leases", "LEASES", COLUMN_COUNT, true, "leases of its clients", CALL(tenant_leases) },
	{ "pins", "PINS", COLUMN_COUNT, true, "pages its clients pin", CALL(tenant_pins) },
	{ "lookups", "LOOKUPS", COLUMN_COUNT, true, "since it was made", CALL(tenant_lookups) },
	{ "hit_ratio", "HIT", COLUMN_RATIO, false, "keys found of keys asked for",
	  CALL(tenant_hit) },
	{ "allocs", "ALLOCS", COLUMN_COUNT, true, "pages allocated", CALL(tenant_allocs) },
	{ "seals", "SEALS", COLUMN_COUNT, true, "pages sealed", CALL(tenant_seals) },
	{ "evictions", "EVICTED", COLUMN_COUNT, false, "pages evicted", CALL(tenant_evictions) },
	{ "refusals", "REFUSED", COLUMN_COUNT, true, "requests for memory that were refused",
	  CALL(tenant_refusals) },
};
const struct table table_tenants = TABLE("tenants", "tenant", tenant_columns);

cJSON *listing_tenants(const struct stats_segment *seg)
{
	cJSON *rows = cJSON_CreateArray();

	for (uint32_t i = 0; i < seg->tenants_n; i++) {
		for (uint32_t d = 0; d < seg->devices_n; d++) {
			struct tenant_row row = { .tenant = &seg->tenant[i],
						  .budget = seg->tenant[i].budget[d] };

			memcpy(row.name, seg->tenant[i].name, sizeof(row.name));
			memcpy(row.device, seg->device[d].name, sizeof(row.device));
			cJSON_AddItemToArray(rows, table_row(&table_tenants, seg, &row));
		}
	}
	return rows;
}

/* ---- namespaces ---------------------------------------------------------------------------- */

static cJSON *digest_text(const void *record, unsigned bytes)
{
	const uint8_t *digest = ((const struct stats_namespace *)record)->digest;
	char text[65];

	for (unsigned i = 0; i < bytes; i++)
		(void)snprintf(text + 2 * i, 3, "%02x", digest[i]);
	return cJSON_CreateString(text);
}

static cJSON *ns_short(const struct stats_segment *seg, const void *record)
{
	return digest_text(record, 4);
}

static cJSON *ns_digest(const struct stats_segment *seg, const void *record)
{
	return digest_text(record, 32);
}

static cJSON *ns_tenant(const struct stats_segment *seg, const void *record)
{
	return cJSON_CreateString(
		tenant_name(seg, ((const struct stats_namespace *)record)->tenant));
}

static cJSON *ns_stale(const struct stats_segment *seg, const void *record)
{
	const struct stats_namespace *ns = record;

	return cJSON_CreateNumber((double)ns->pages - ns->pages_current);
}

static cJSON *ns_hit(const struct stats_segment *seg, const void *record)
{
	const struct stats_namespace *ns = record;

	return ratio(ns->lookup_hits, ns->lookup_keys);
}

static cJSON *ns_idle(const struct stats_segment *seg, const void *record)
{
	return age(seg, ((const struct stats_namespace *)record)->used_ns);
}

static const struct column ns_columns[] = {
	{ "ns", "NS", COLUMN_TEXT, false, "first digits of the digest", CALL(ns_short) },
	{ "digest", "DIGEST", COLUMN_TEXT, true, "identity of the cached bytes", CALL(ns_digest) },
	{ "tenant", "TENANT", COLUMN_TEXT, false, "whose it is", CALL(ns_tenant) },
	{ "epoch", "EPOCH", COLUMN_COUNT, false, "version of the bytes",
	  U32(stats_namespace, epoch) },
	{ "clients", "CLIENTS", COLUMN_COUNT, false, "that have it open",
	  U32(stats_namespace, refs) },
	{ "pages", "PAGES", COLUMN_COUNT, false, "of this epoch, in every tier",
	  U32(stats_namespace, pages_current) },
	{ "pages_stale", "STALE", COLUMN_COUNT, false, "of past epochs, on their way out",
	  CALL(ns_stale) },
	{ "lookups", "LOOKUPS", COLUMN_COUNT, false, "since it was made",
	  U64(stats_namespace, lookups) },
	{ "keys", "KEYS", COLUMN_COUNT, true, "keys asked for", U64(stats_namespace, lookup_keys) },
	{ "hit_ratio", "HIT", COLUMN_RATIO, false, "keys found of keys asked for", CALL(ns_hit) },
	{ "stale_seals", "STALE.SEALS", COLUMN_COUNT, true, "seals refused: the epoch had passed",
	  U64(stats_namespace, stale_seals) },
	{ "idle_s", "IDLE", COLUMN_SECONDS, true, "since it was last used", CALL(ns_idle) },
};
const struct table table_namespaces = TABLE("namespaces", "namespace", ns_columns);

cJSON *listing_namespaces(const struct stats_segment *seg)
{
	cJSON *rows = cJSON_CreateArray();

	for (uint32_t i = 0; i < seg->namespaces_n; i++)
		cJSON_AddItemToArray(rows, table_row(&table_namespaces, seg, &seg->ns[i]));
	return rows;
}

/* ---- spaces -------------------------------------------------------------------------------- */

static cJSON *space_tenant(const struct stats_segment *seg, const void *record)
{
	return cJSON_CreateString(tenant_name(seg, ((const struct stats_space *)record)->tenant));
}

static cJSON *space_device(const struct stats_segment *seg, const void *record)
{
	uint32_t device = ((const struct stats_space *)record)->device;

	return cJSON_CreateString(device < seg->devices_n ? seg->device[device].name : "?");
}

static cJSON *space_page_bytes(const struct stats_segment *seg, const void *record)
{
	const struct stats_space *s = record;

	return cJSON_CreateNumber((double)s->stride_bytes * s->regions);
}

static cJSON *space_tag(const struct stats_segment *seg, const void *record)
{
	return hex_number(((const struct stats_space *)record)->tag);
}

static cJSON *space_group(const struct stats_segment *seg, const void *record)
{
	const struct stats_space *s = record;

	return s->ranks > 1 ? hex_number(s->group) : NULL;
}

static cJSON *space_below(const struct stats_segment *seg, const void *record)
{
	return index_or_none(((const struct stats_space *)record)->below);
}

static cJSON *space_above(const struct stats_segment *seg, const void *record)
{
	return index_or_none(((const struct stats_space *)record)->above);
}

static cJSON *space_idle(const struct stats_segment *seg, const void *record)
{
	return age(seg, ((const struct stats_space *)record)->used_ns);
}

static const struct column space_columns[] = {
	{ "id", "ID", COLUMN_COUNT, false, "what --space calls it", U32(stats_space, id) },
	{ "device", "DEVICE", COLUMN_TEXT, false, "where its memory is", CALL(space_device) },
	{ "tenant", "TENANT", COLUMN_TEXT, false, "whose it is", CALL(space_tenant) },
	{ "clients", "CLIENTS", COLUMN_COUNT, false, "its members", U32(stats_space, members) },
	{ "regions", "REGIONS", COLUMN_COUNT, false, "address ranges", U32(stats_space, regions) },
	{ "page_bytes", "PAGE", COLUMN_BYTES, false, "a page, all regions",
	  CALL(space_page_bytes) },
	{ "stride_bytes", "STRIDE", COLUMN_BYTES, true, "a page in one region",
	  U64(stats_space, stride_bytes) },
	{ "slab_bytes", "SLAB", COLUMN_BYTES, false, "unit of grant and revocation",
	  U64(stats_space, slab_bytes) },
	{ "slabs", "SLABS", COLUMN_COUNT, false, "it has", U32(stats_space, slabs) },
	{ "slots", "SLOTS", COLUMN_COUNT, true, "slabs it can ever have", U32(stats_space, slots) },
	{ "pages_per_slab", "PAGES/SLAB", COLUMN_COUNT, true, "pages of a slab",
	  U32(stats_space, pages_per_slab) },
	{ "pages", "PAGES", COLUMN_COUNT, false, "in slabs that serve", U32(stats_space, pages) },
	{ "pages_free", "FREE", COLUMN_COUNT, false, "of those, free",
	  U32(stats_space, pages_free) },
	{ "pages_listed", "LISTED", COLUMN_COUNT, true, "in the policy's order",
	  U32(stats_space, listed) },
	{ "evictions", "EVICTED", COLUMN_COUNT, false, "pages evicted",
	  U64(stats_space, evictions) },
	{ "idle_s", "IDLE", COLUMN_SECONDS, true, "since it was last used", CALL(space_idle) },
	{ "tag", "TAG", COLUMN_TEXT, true, "its members' number for it", CALL(space_tag) },
	{ "group", "GROUP", COLUMN_TEXT, true, "its group's number, if it is one of several ranks",
	  CALL(space_group) },
	{ "rank", "RANK", COLUMN_COUNT, true, "which of them", U32(stats_space, rank) },
	{ "ranks", "RANKS", COLUMN_COUNT, true, "how many there are", U32(stats_space, ranks) },
	{ "below", "BELOW", COLUMN_COUNT, true, "space with its pages in the tier below",
	  CALL(space_below) },
	{ "above", "ABOVE", COLUMN_COUNT, true, "space that it is below", CALL(space_above) },
	{ "ripe", "RIPE", COLUMN_COUNT, true, "pages next to go", U32(stats_space, ripe) },
	{ "falling", "FALLING", COLUMN_COUNT, true, "pages being written to the tier below",
	  U32(stats_space, falling) },
	{ "rising", "RISING", COLUMN_COUNT, true, "pages being brought up from there",
	  U32(stats_space, rising) },
};
const struct table table_spaces = TABLE("spaces", "space", space_columns);

cJSON *listing_spaces(const struct stats_segment *seg)
{
	cJSON *rows = cJSON_CreateArray();

	for (uint32_t i = 0; i < seg->spaces_n; i++)
		cJSON_AddItemToArray(rows, table_row(&table_spaces, seg, &seg->space[i]));
	return rows;
}

/* ---- rows made elsewhere ------------------------------------------------------------------- */

static const struct column stat_columns[] = {
	{ "interval_s", "INTERVAL", COLUMN_SECONDS, false, "what the line covers", ROW },
	{ "lookups_per_s", "LOOKUPS/S", COLUMN_COUNT, false, "lookups", ROW },
	{ "keys_per_s", "KEYS/S", COLUMN_COUNT, false, "keys looked up", ROW },
	{ "hit_ratio", "HIT", COLUMN_RATIO, false, "keys found of keys asked for", ROW },
	{ "hit_ratio_host", "HIT.HOST", COLUMN_RATIO, true,
	  "keys found in a lower tier only (host or store), of keys asked for", ROW },
	{ "alloc_pages_per_s", "ALLOC/S", COLUMN_COUNT, false, "pages allocated", ROW },
	{ "free_pages_per_s", "FREE/S", COLUMN_COUNT, true, "pages freed unsealed", ROW },
	{ "seal_pages_per_s", "SEAL/S", COLUMN_COUNT, false, "pages sealed", ROW },
	{ "release_pages_per_s", "RELEASE/S", COLUMN_COUNT, true, "leases released", ROW },
	{ "evict_pages_per_s", "EVICT/S", COLUMN_COUNT, false, "pages evicted", ROW },
	{ "demote_pages_per_s", "DEMOTE/S", COLUMN_COUNT, true, "pages written down", ROW },
	{ "promote_pages_per_s", "PROMOTE/S", COLUMN_COUNT, true, "pages brought up", ROW },
	{ "store_pages_per_s", "STORE/S", COLUMN_COUNT, true, "pages written to the store", ROW },
	{ "fetch_pages_per_s", "FETCH/S", COLUMN_COUNT, true, "pages read from the store", ROW },
	{ "grants_per_s", "GRANT/S", COLUMN_COUNT, true, "slabs granted", ROW },
	{ "revocations_per_s", "REVOKE/S", COLUMN_COUNT, true, "slabs revoked", ROW },
	{ "misplaced_bytes", "MISPLACED", COLUMN_BYTES, true,
	  "memory of the host tier on another node than asked", ROW },
	{ "clients", "CLIENTS", COLUMN_COUNT, false, "attached or leaving", ROW },
	{ "leases", "LEASES", COLUMN_COUNT, false, "lease records in use", ROW },
	{ "reclaim_p99_s", "RECLAIM.P99", COLUMN_SECONDS, false,
	  "end of a client to its charges at zero, of the last 1024", ROW },
};
const struct table table_stat = TABLE("stat", "stat", stat_columns);

static const struct column page_columns[] = {
	{ "hash", "HASH", COLUMN_TEXT, false, "chain hash of the block", ROW },
	{ "ns", "NS", COLUMN_TEXT, false, "namespace", ROW },
	{ "digest", "DIGEST", COLUMN_TEXT, true, "its whole digest", ROW },
	{ "epoch", "EPOCH", COLUMN_COUNT, true, "it was sealed in", ROW },
	{ "space", "SPACE", COLUMN_COUNT, false, "space it is in", ROW },
	{ "page", "PAGE", COLUMN_COUNT, false, "page id there", ROW },
	{ "bytes", "BYTES", COLUMN_BYTES, false, "its size", ROW },
	{ "depth", "DEPTH", COLUMN_COUNT, false, "position in its chain", ROW },
	{ "hits", "HITS", COLUMN_COUNT, false, "lookups that found it, 65535 at most", ROW },
	{ "clients", "CLIENTS", COLUMN_COUNT, false, "that lease or pin it", ROW },
	{ "pinned", "PINNED", COLUMN_BOOL, false, "by an operator", ROW },
	{ "tier", "TIER", COLUMN_TEXT, true, "device or host", ROW },
	{ "copy_below", "COPY", COLUMN_BOOL, true, "it has a copy in the tier below", ROW },
	{ "idle_s", "IDLE", COLUMN_SECONDS, false, "since its last release", ROW },
};
const struct table table_top = TABLE("pages", "page", page_columns);

static const struct column key_columns[] = {
	{ "hash", "HASH", COLUMN_TEXT, false, "chain hash asked for", ROW },
	{ "resident", "RESIDENT", COLUMN_BOOL, false, "a lookup would find it", ROW },
	{ "tier", "TIER", COLUMN_TEXT, true, "where it is: device or host", ROW },
	{ "copy_below", "COPY", COLUMN_BOOL, true, "it has a copy in the tier below", ROW },
	{ "epoch", "EPOCH", COLUMN_COUNT, true, "it was sealed in", ROW },
	{ "space", "SPACE", COLUMN_COUNT, false, "space it is in", ROW },
	{ "page", "PAGE", COLUMN_COUNT, false, "page id there", ROW },
	{ "bytes", "BYTES", COLUMN_BYTES, false, "its size", ROW },
	{ "depth", "DEPTH", COLUMN_COUNT, false, "position in its chain", ROW },
	{ "hits", "HITS", COLUMN_COUNT, false, "lookups that found it, 65535 at most", ROW },
	{ "clients", "CLIENTS", COLUMN_COUNT, false, "that lease or pin it", ROW },
	{ "pinned", "PINNED", COLUMN_BOOL, false, "by an operator", ROW },
	{ "idle_s", "IDLE", COLUMN_SECONDS, false, "since its last release", ROW },
};
const struct table table_keys = TABLE("keys", "key", key_columns);

static const struct column policy_columns[] = {
	{ "policy", "POLICY", COLUMN_TEXT, false, "decides which page goes next", ROW },
	{ "summary", "SUMMARY", COLUMN_TEXT, false, "how", ROW },
	{ "pages_listed", "LISTED", COLUMN_COUNT, false, "pages in its order", ROW },
	{ "evictions", "EVICTED", COLUMN_COUNT, false, "pages evicted since start", ROW },
};
const struct table table_policy = TABLE("policies", "policy", policy_columns);
