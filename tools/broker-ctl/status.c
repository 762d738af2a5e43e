/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The daemon as a whole: status, health, stat, version.
 */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "broker/core/core.h"
#include "tools/broker-ctl/ctl.h"
#include "tools/broker-ctl/format.h"

#define HEADINGS_LINES 20u

static const char *const state_name[] = { "starting", "ready", "draining", "stopped" };
static const char *const state_colour[] = { "\033[33m", "\033[32m", "\033[33m", "\033[31m" };

static uint32_t state_of(const struct stats_segment *seg)
{
	return seg->ready < 4 ? seg->ready : 0;
}

/* ---- status -------------------------------------------------------------------------------- */

static double uptime_s(const struct stats_segment *seg)
{
	return (double)(seg->published_ns - seg->started_ns) / 1e9;
}

/* Members of an object, so that status and version say it alike. */
static void add_daemon(cJSON *to, const struct stats_segment *seg)
{
	char boot[20];

	(void)snprintf(boot, sizeof(boot), "%016llx", (unsigned long long)seg->boot_id);
	cJSON_AddStringToObject(to, "version", seg->daemon_version);
	cJSON_AddNumberToObject(to, "pid", seg->pid);
	cJSON_AddStringToObject(to, "state", state_name[state_of(seg)]);
	cJSON_AddNumberToObject(to, "uptime_s", uptime_s(seg));
	cJSON_AddStringToObject(to, "boot_id", boot);
	cJSON_AddStringToObject(to, "engine", seg->engine);
}

/* NULL: nothing was asked. */
static cJSON *ratio_json(uint64_t hits, uint64_t keys)
{
	double hit = listing_hit_ratio(hits, keys);

	return hit < 0 ? cJSON_CreateNull() : cJSON_CreateNumber(hit);
}

/* All arenas together, and what went between devices and them. */
struct tier_sum {
	uint32_t arenas;
	uint64_t capacity_bytes, used_bytes, filled_bytes, misplaced_bytes, demoted, promoted;
};

static struct tier_sum tier_sum(const struct stats_segment *seg)
{
	struct tier_sum ret = { 0 };

	for (uint32_t i = 0; i < seg->devices_n; i++) {
		const struct stats_device *d = &seg->device[i];

		if (d->kind != CORE_KIND_ARENA)
			continue;
		ret.arenas++;
		ret.capacity_bytes += d->capacity_bytes;
		ret.used_bytes += d->sealed_bytes + d->arriving_bytes;
		ret.filled_bytes += d->filled_bytes;
		ret.misplaced_bytes += d->misplaced_bytes;
		ret.demoted += d->demoted;
		ret.promoted += d->promoted;
	}
	return ret;
}

static void add_loads(cJSON *to, const struct core_counters *n)
{
	cJSON_AddItemToObject(to, "hit_ratio_host", ratio_json(n->lookup_below, n->lookup_keys));
	cJSON_AddNumberToObject(to, "lookup_below", (double)n->lookup_below);
	cJSON_AddNumberToObject(to, "loads", (double)n->loads);
	cJSON_AddNumberToObject(to, "load_keys", (double)n->load_keys);
	cJSON_AddNumberToObject(to, "load_hits", (double)n->load_hits);
	cJSON_AddNumberToObject(to, "load_failed", (double)n->load_failed);
}

static cJSON *status_json(const struct stats_segment *seg)
{
	cJSON *o = cJSON_CreateObject();

	add_daemon(o, seg);
	cJSON_AddStringToObject(o, "policy", seg->policy);
	cJSON_AddNumberToObject(o, "clients", seg->clients_n);
	cJSON_AddNumberToObject(o, "tenants", seg->tenants_n);
	cJSON_AddNumberToObject(o, "namespaces", seg->namespaces_n);
	cJSON_AddNumberToObject(o, "spaces", seg->spaces_n);
	cJSON_AddNumberToObject(o, "pages_max", seg->pages_max);
	cJSON_AddNumberToObject(o, "pages_indexed", seg->indexed);
	cJSON_AddNumberToObject(o, "pages_stale", (double)seg->pages_stale);
	cJSON_AddNumberToObject(o, "leases", seg->leases_used);
	cJSON_AddNumberToObject(o, "leases_max", seg->leases_max);
	cJSON_AddNumberToObject(o, "state_bytes", (double)seg->state_bytes);
	cJSON_AddNumberToObject(o, "clients_reaping", seg->reaping);
	cJSON_AddNumberToObject(o, "slabs_draining", seg->draining);
	cJSON_AddNumberToObject(o, "lookups", (double)seg->n.lookups);
	cJSON_AddItemToObject(o, "hit_ratio", ratio_json(seg->n.lookup_hits, seg->n.lookup_keys));
	add_loads(o, &seg->n);
	cJSON_AddNumberToObject(o, "evictions", (double)seg->n.evictions);
	cJSON_AddNumberToObject(o, "accepted", (double)seg->accepted);
	cJSON_AddNumberToObject(o, "refused", (double)seg->refused);
	cJSON_AddNumberToObject(o, "protocol_errors", (double)seg->protocol_errors);
	cJSON_AddNumberToObject(o, "attach_timeouts", (double)seg->attach_timeouts);
	cJSON_AddNumberToObject(o, "kicked", (double)seg->kicked);
	cJSON_AddNumberToObject(o, "log_lines_dropped", (double)seg->log_dropped);
	cJSON_AddItemToObject(o, "devices", listing_devices(seg));
	cJSON_AddItemToObject(o, "tiers", listing_tiers(seg));
	cJSON_AddItemToObject(o, "store", store_json(seg));
	return o;
}

static void print_tiers(const struct stats_segment *seg)
{
	struct tier_sum sum = tier_sum(seg);
	double hit = listing_hit_ratio(seg->n.lookup_below, seg->n.lookup_keys);

	if (!sum.arenas)
		return;
	(void)printf("host tier %s used of %s  demoted %llu  promoted %llu  hit %s",
		     core_size(sum.used_bytes).text, core_size(sum.capacity_bytes).text,
		     (unsigned long long)sum.demoted, (unsigned long long)sum.promoted,
		     hit < 0 ? "-" : format_ratio(hit).text);
	if (sum.filled_bytes < sum.capacity_bytes)
		(void)printf("  (%s are there)", core_size(sum.filled_bytes).text);
	(void)putchar('\n');
}

int ctl_status(struct ctl *ctl)
{
	const struct stats_segment *seg;
	struct table_view view;
	double hit;
	cJSON *rows;
	int r = link_open(ctl);

	if (r)
		return r;
	seg = ctl->seg;
	if (output_is_json(ctl))
		return output_json(ctl, status_json(seg));
	(void)printf("kvbrokerd %s  up %s  %s%s%s  devices %u  clients %u  namespaces %u  "
		     "policy %s  loop %s\n",
		     seg->daemon_version, format_seconds(uptime_s(seg)).text,
		     ctl->colour ? state_colour[state_of(seg)] : "", state_name[state_of(seg)],
		     ctl->colour ? "\033[0m" : "", listing_devices_n(seg), seg->clients_n,
		     seg->namespaces_n, seg->policy, seg->engine);
	rows = listing_devices(seg);
	(void)table_select(&table_devices, NULL, false, &view, NULL);
	table_print_text(&view, rows, true);
	cJSON_Delete(rows);
	hit = listing_hit_ratio(seg->n.lookup_hits, seg->n.lookup_keys);
	(void)printf("pages %u cached of %u  leases %u of %u  lookups %llu  hit %s\n", seg->indexed,
		     seg->pages_max, seg->leases_used, seg->leases_max,
		     (unsigned long long)seg->n.lookups, hit < 0 ? "-" : format_ratio(hit).text);
	print_tiers(seg);
	store_print_status(seg);
	if (seg->reaping || seg->draining)
		(void)printf("taking back: %u ended clients, %u slabs\n", seg->reaping,
			     seg->draining);
	return 0;
}

/* ---- health -------------------------------------------------------------------------------- */

/* Tables, by the daemon itself. Its verdict goes into `answer`. */
static int health_deep(struct ctl *ctl, cJSON *answer)
{
	static const char *const argv[] = { "health", "--deep" };
	cJSON *deep;
	int code, r;

	r = link_request(ctl, argv, 2, false, &deep, &code);
	if (r)
		return r;
	if (!output_is_json(ctl)) {
		const char *why = cJSON_GetStringValue(cJSON_GetObjectItem(deep, "why"));

		(void)printf(
			"tables of %.0f pages checked in %s: %s%s%s\n",
			cJSON_GetNumberValue(cJSON_GetObjectItem(deep, "pages")),
			format_seconds(cJSON_GetNumberValue(cJSON_GetObjectItem(deep, "seconds")))
				.text,
			code ? "broken" : "sound", why ? ": " : "", why ? why : "");
	}
	cJSON_AddItemToObject(answer, "deep", deep);
	return code;
}

int ctl_health(struct ctl *ctl)
{
	int r = link_open(ctl), deep = 0;
	bool ready;
	cJSON *answer;

	if (r) /* whatever it is that keeps us out, engines are no better off */
		return r == ADMIN_EXIT_USAGE || r == ADMIN_EXIT_PERMISSION ? r
									   : ADMIN_EXIT_UNREACHABLE;
	ready = state_of(ctl->seg) == 1;
	if (!output_is_json(ctl))
		(void)printf("%s\n", state_name[state_of(ctl->seg)]);
	answer = cJSON_CreateObject();
	cJSON_AddStringToObject(answer, "state", state_name[state_of(ctl->seg)]);
	if (ctl_has(ctl, OPT_DEEP))
		deep = health_deep(ctl, answer);
	if (deep > ADMIN_EXIT_FAILED) {
		cJSON_Delete(answer);
		return deep;
	}
	cJSON_AddBoolToObject(answer, "healthy", ready && !deep);
	if (output_is_json(ctl))
		(void)output_json(ctl, answer);
	else
		cJSON_Delete(answer);
	return ready && !deep ? ADMIN_EXIT_OK : ADMIN_EXIT_FAILED;
}

/* ---- stat ---------------------------------------------------------------------------------- */

static int compare_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static cJSON *reclaim_p99(const struct stats_segment *seg)
{
	uint64_t sorted[1024];
	uint32_t n = seg->reclaim_n;

	if (n == 0)
		return cJSON_CreateNull();
	memcpy(sorted, seg->reclaim_ns, n * sizeof(sorted[0]));
	qsort(sorted, n, sizeof(sorted[0]), compare_u64);
	return cJSON_CreateNumber((double)sorted[(n - 1) * 99 / 100] / 1e9);
}

static void add_moves(cJSON *to_row, const struct stats_segment *from,
		      const struct stats_segment *to, double s)
{
	struct tier_sum a = { 0 }, b = tier_sum(to);

	if (from)
		a = tier_sum(from);
	cJSON_AddNumberToObject(to_row, "demote_pages_per_s", (double)(b.demoted - a.demoted) / s);
	cJSON_AddNumberToObject(to_row, "promote_pages_per_s",
				(double)(b.promoted - a.promoted) / s);
	cJSON_AddNumberToObject(to_row, "misplaced_bytes", (double)b.misplaced_bytes);
}

/* What happened between two copies; from a daemon that has restarted: since its start. */
static cJSON *stat_row(const struct stats_segment *from, const struct stats_segment *to)
{
	static const struct core_counters none;
	bool same = from && from->boot_id == to->boot_id;
	const struct core_counters *a = same ? &from->n : &none, *b = &to->n;
	double s = (double)(to->published_ns - (same ? from->published_ns : to->started_ns)) / 1e9;
	cJSON *o = cJSON_CreateObject();

	cJSON_AddNumberToObject(o, "interval_s", s);
	if (s <= 0)
		s = INFINITY; /* nothing can have happened */
#define RATE(key, counter) cJSON_AddNumberToObject(o, key, (double)(b->counter - a->counter) / s)
	RATE("lookups_per_s", lookups);
	RATE("keys_per_s", lookup_keys);
	cJSON_AddItemToObject(
		o, "hit_ratio",
		ratio_json(b->lookup_hits - a->lookup_hits, b->lookup_keys - a->lookup_keys));
	cJSON_AddItemToObject(
		o, "hit_ratio_host",
		ratio_json(b->lookup_below - a->lookup_below, b->lookup_keys - a->lookup_keys));
	RATE("alloc_pages_per_s", alloc_pages);
	RATE("free_pages_per_s", frees);
	RATE("seal_pages_per_s", seals);
	RATE("release_pages_per_s", releases);
	RATE("evict_pages_per_s", evictions);
	RATE("store_pages_per_s", stored);
	RATE("fetch_pages_per_s", fetched);
	RATE("grants_per_s", grants);
	RATE("revocations_per_s", revocations);
#undef RATE
	add_moves(o, same ? from : NULL, to, s);
	cJSON_AddNumberToObject(o, "clients", to->clients_n);
	cJSON_AddNumberToObject(o, "leases", to->leases_used);
	cJSON_AddItemToObject(o, "reclaim_p99_s", reclaim_p99(to));
	return o;
}

/* One line; JSON is a document a line, so that a reader need not wait for the end. */
static int stat_print(struct ctl *ctl, const struct table_view *view, cJSON *row, bool header)
{
	cJSON *rows;

	if (output_is_json(ctl)) {
		int r = output_json(ctl, table_project(view, row));

		cJSON_Delete(row);
		return r;
	}
	rows = cJSON_CreateArray();
	cJSON_AddItemToArray(rows, row);
	header = header && !ctl_has(ctl, OPT_NO_HEADER);
	if (ctl->format == CTL_CSV) {
		table_print_csv(view, rows, header);
	} else {
		if (header)
			table_print_steady(view, NULL);
		table_print_steady(view, row);
	}
	cJSON_Delete(rows);
	return 0;
}

static int stat_line(struct ctl *ctl, const struct stats_segment *from, uint64_t n)
{
	struct table_view view;
	int r = output_view(ctl, output_is_json(ctl), &view);

	return r ? r : stat_print(ctl, &view, stat_row(from, ctl->seg), n % HEADINGS_LINES == 0);
}

int ctl_stat(struct ctl *ctl)
{
	struct table_view view;
	int r = output_view(ctl, output_is_json(ctl), &view);

	return r ? r : ctl_sample(ctl, false, stat_line);
}

/* ---- version ------------------------------------------------------------------------------- */

static const struct {
	uint64_t bit;
	const char *name, *what;
} features[] = {
	{ KVB_FEAT_FENCE, "fence", "FREE and SEAL wait for fence words" },
	{ KVB_FEAT_LOOKUP_ALL, "lookup_all", "LOOKUP goes on after a miss" },
	{ KVB_FEAT_LOWER_TIER, "lower_tier", "LOAD, PREFETCH and STORE have a tier below" },
};

static void version_text(const struct ctl *ctl, bool up)
{
	(void)printf("broker-ctl %s (protocol %u)\n", KVB_VERSION, KVB_ABI_VERSION);
	if (!up) {
		(void)printf("kvbrokerd: not reachable at %s\n", ctl->socket);
		return;
	}
	(void)printf("kvbrokerd %s (pid %d, loop %s)\n", ctl->seg->daemon_version, ctl->seg->pid,
		     ctl->seg->engine);
	for (size_t i = 0; ctl_has(ctl, OPT_FEATURES) && i < sizeof(features) / sizeof(features[0]);
	     i++)
		(void)printf("%-10s  %-3s  %s\n", features[i].name,
			     ctl->seg->features & features[i].bit ? "yes" : "no", features[i].what);
}

/* The program's own version is worth telling without a daemon; its features are the daemon's. */
int ctl_version(struct ctl *ctl)
{
	uint32_t given = ctl->given;
	cJSON *o, *daemon, *list;
	bool up;
	int r;

	if (!ctl_has(ctl, OPT_FEATURES))
		ctl->given |= OPT(OPT_QUIET);
	r = link_open(ctl);
	ctl->given = given;
	if (r && ctl_has(ctl, OPT_FEATURES))
		return r;
	up = r == 0;
	if (!output_is_json(ctl)) {
		version_text(ctl, up);
		return 0;
	}
	o = cJSON_CreateObject();
	cJSON_AddStringToObject(o, "broker_ctl", KVB_VERSION);
	cJSON_AddNumberToObject(o, "protocol", KVB_ABI_VERSION);
	if (!up) {
		cJSON_AddNullToObject(o, "daemon");
		return output_json(ctl, o);
	}
	daemon = cJSON_AddObjectToObject(o, "daemon");
	add_daemon(daemon, ctl->seg);
	if (ctl_has(ctl, OPT_FEATURES)) {
		list = cJSON_AddObjectToObject(o, "features");
		for (size_t i = 0; i < sizeof(features) / sizeof(features[0]); i++)
			cJSON_AddBoolToObject(list, features[i].name,
					      (ctl->seg->features & features[i].bit) != 0);
	}
	return output_json(ctl, o);
}
