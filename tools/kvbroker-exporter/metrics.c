/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Families in tables, a table a kind of record; one loop writes any of them.
 *
 * All samples of a family have to stand together, so the loop over families is the outer one and
 * the labels of the records are made before. Tenants, namespaces and clients have names that others
 * choose, and every name is a series that Prometheus keeps: those above a limit, in the order of
 * the daemon's tables, are summed up as "all others", which no tenant can be called (it has
 * spaces). What makes no sense as a sum is left out of that.
 */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/core/core.h"
#include "tools/kvbroker-exporter/families.h"
#include "tools/kvbroker-exporter/metrics.h"

#define OTHERS "all others"

/* Records of one kind, and their labels; one with empty labels is not shown. NULL: it needs none.
 */
struct rows {
	const char *first;
	size_t stride;
	uint32_t n, named; /* named: the first so many go by their own name */
	char (*labels)[METRICS_LABELS_BYTES];
	const char *others;
};

/* ---- names --------------------------------------------------------------------------------- */

const char *metrics_tenant_name(const struct stats_segment *seg, uint32_t index)
{
	for (uint32_t i = 0; i < seg->tenants_n; i++) {
		if (seg->tenant[i].index == index)
			return seg->tenant[i].name;
	}
	return "?";
}

const char *metrics_tier_name(const struct stats_device *d)
{
	return d->kind == CORE_KIND_ARENA ? "host" : "device";
}

void metrics_namespace_name(const struct stats_segment *seg, uint32_t index, char ret[65])
{
	const struct stats_namespace *ns = &seg->ns[index];
	unsigned bytes = 4;

	for (uint32_t i = 0; i < seg->namespaces_n; i++) {
		if (i != index && seg->ns[i].tenant == ns->tenant &&
		    memcmp(seg->ns[i].digest, ns->digest, bytes) == 0)
			bytes = sizeof(ns->digest);
	}
	for (unsigned i = 0; i < bytes; i++)
		(void)snprintf(ret + (size_t)2 * i, 3, "%02x", ns->digest[i]);
}

/* ---- any table ----------------------------------------------------------------------------- */

static void write_count(struct expo *e, const struct family *f, uint64_t count, const char *labels)
{
	if (f->source == FAMILY_LIMIT && count == UINT64_MAX)
		expo_value(e, labels, INFINITY);
	else
		expo_count(e, labels, count);
}

static void write_one(struct expo *e, const struct family *f, const struct stats_segment *seg,
		      const char *record, const char *labels)
{
	double value;

	if (f->source != FAMILY_CALL) {
		write_count(e, f, family_count(f, record), labels);
		return;
	}
	value = f->call(seg, record);
	if (!isnan(value))
		expo_value(e, labels, value);
}

static void write_rows(struct expo *e, const struct stats_segment *seg, const struct families *set,
		       const struct rows *rows)
{
	for (unsigned k = 0; k < set->n; k++) {
		const struct family *f = &set->family[k];
		uint64_t others = 0;

		expo_family(e, f->type, f->name, f->help);
		for (uint32_t i = 0; i < rows->n; i++) {
			const char *record = rows->first + i * rows->stride;

			if (i >= rows->named)
				others += family_count(f, record);
			else if (!rows->labels)
				write_one(e, f, seg, record, NULL);
			else if (rows->labels[i][0])
				write_one(e, f, seg, record, rows->labels[i]);
		}
		if (rows->n > rows->named && !f->apart)
			expo_count(e, rows->others, others);
	}
}

/* ---- kinds of records ---------------------------------------------------------------------- */

/* The table is room for the labels of the most records there are. */
typedef char (*label_table)[METRICS_LABELS_BYTES];

static void write_devices(struct expo *e, const struct stats_segment *seg, label_table labels)
{
	const struct rows rows = { (const char *)seg->device,
				   sizeof(seg->device[0]),
				   seg->devices_n,
				   seg->devices_n,
				   labels,
				   NULL };

	for (uint32_t i = 0; i < seg->devices_n; i++) {
		const struct stats_device *d = &seg->device[i];

		labels[i][0] = '\0';
		if (!d->name[0])
			continue;
		expo_label(labels[i], METRICS_LABELS_BYTES, "device", d->name);
		expo_label(labels[i], METRICS_LABELS_BYTES, "tier", metrics_tier_name(d));
	}
	write_rows(e, seg, &families_device, &rows);
}

static void write_gpus(struct expo *e, const struct stats_segment *seg)
{
	expo_family(e, EXPO_GAUGE, "kvbroker_gpu_info",
		    "1 for each GPU: what it is, to be joined with what others tell of it.");
	for (uint32_t i = 0; i < seg->devices_n; i++) {
		const struct stats_device *d = &seg->device[i];
		char labels[METRICS_LABELS_BYTES] = "", node[16] = "";

		if (strncmp(d->name, "cuda:", 5) != 0)
			continue;
		if (d->node >= 0)
			(void)snprintf(node, sizeof(node), "%d", d->node);
		expo_label(labels, sizeof(labels), "device", d->name);
		expo_label(labels, sizeof(labels), "driver", d->driver);
		expo_label(labels, sizeof(labels), "model", d->model);
		expo_label(labels, sizeof(labels), "pci_bus_id", d->pci);
		expo_label(labels, sizeof(labels), "numa", node);
		expo_count(e, labels, 1);
	}
}

/* Between a device and the host memory below it; an arena's would be the same again. */
static void write_transfer(struct expo *e, const struct stats_segment *seg, const char *name,
			   const char *help, size_t down, size_t up)
{
	const char *const tier[] = { "device", "host" };

	expo_family(e, EXPO_COUNTER, name, help);
	for (uint32_t i = 0; i < seg->devices_n; i++) {
		const struct stats_device *d = &seg->device[i];

		for (unsigned way = 0; way < 2 && d->name[0] && d->below < seg->devices_n; way++) {
			char labels[METRICS_LABELS_BYTES] = "";
			uint64_t value;

			memcpy(&value, (const char *)d + (way ? up : down), sizeof(value));
			expo_label(labels, sizeof(labels), "device", d->name);
			expo_label(labels, sizeof(labels), "from", tier[way]);
			expo_label(labels, sizeof(labels), "to", tier[!way]);
			expo_count(e, labels, value);
		}
	}
}

static void write_tenants(struct expo *e, const struct stats_segment *seg, label_table labels)
{
	const struct rows rows = { (const char *)seg->tenant,
				   sizeof(seg->tenant[0]),
				   seg->tenants_n,
				   METRICS_TENANTS_MAX,
				   labels,
				   "tenant=\"" OTHERS "\"" };

	for (uint32_t i = 0; i < seg->tenants_n && i < rows.named; i++) {
		labels[i][0] = '\0';
		expo_label(labels[i], METRICS_LABELS_BYTES, "tenant", seg->tenant[i].name);
	}
	write_rows(e, seg, &families_tenant, &rows);
}

/* A sum that stays at "no limit" once there is one. */
static void add_budget(const struct family *f, const char *budget, uint64_t *sum)
{
	uint64_t count = family_count(f, budget);

	*sum = count > UINT64_MAX - *sum ? UINT64_MAX : *sum + count;
}

/* A sample a tenant and device. */
static void write_budget(struct expo *e, const struct stats_segment *seg, const struct family *f)
{
	expo_family(e, f->type, f->name, f->help);
	for (uint32_t d = 0; d < seg->devices_n; d++) {
		char others[METRICS_LABELS_BYTES] = "tenant=\"" OTHERS "\"";
		uint64_t sum = 0;

		if (!seg->device[d].name[0])
			continue;
		for (uint32_t i = 0; i < seg->tenants_n; i++) {
			const char *budget = (const char *)&seg->tenant[i].budget[d];
			char labels[METRICS_LABELS_BYTES] = "";

			if (i >= METRICS_TENANTS_MAX) {
				add_budget(f, budget, &sum);
				continue;
			}
			expo_label(labels, sizeof(labels), "tenant", seg->tenant[i].name);
			expo_label(labels, sizeof(labels), "device", seg->device[d].name);
			write_one(e, f, seg, budget, labels);
		}
		expo_label(others, sizeof(others), "device", seg->device[d].name);
		if (seg->tenants_n > METRICS_TENANTS_MAX)
			write_count(e, f, sum, others);
	}
}

static void write_namespaces(struct expo *e, const struct stats_segment *seg, label_table labels)
{
	const struct rows rows = { (const char *)seg->ns,
				   sizeof(seg->ns[0]),
				   seg->namespaces_n,
				   METRICS_NAMESPACES_MAX,
				   labels,
				   "tenant=\"" OTHERS "\",ns=\"" OTHERS "\"" };

	for (uint32_t i = 0; i < seg->namespaces_n && i < rows.named; i++) {
		char name[65];

		metrics_namespace_name(seg, i, name);
		labels[i][0] = '\0';
		expo_label(labels[i], METRICS_LABELS_BYTES, "tenant",
			   metrics_tenant_name(seg, seg->ns[i].tenant));
		expo_label(labels[i], METRICS_LABELS_BYTES, "ns", name);
	}
	write_rows(e, seg, &families_namespace, &rows);
}

static void write_clients(struct expo *e, const struct stats_segment *seg, label_table labels)
{
	const struct rows rows = { (const char *)seg->client,
				   sizeof(seg->client[0]),
				   seg->clients_n,
				   METRICS_CLIENTS_MAX,
				   labels,
				   "client=\"" OTHERS "\"" };

	expo_family(e, EXPO_GAUGE, "kvbroker_client_info",
		    "1 for each client: who has this number now. Another may have it later.");
	for (uint32_t i = 0; i < seg->clients_n && i < rows.named; i++) {
		const struct stats_client *c = &seg->client[i];
		char info[METRICS_LABELS_BYTES], number[16];

		(void)snprintf(number, sizeof(number), "%u", c->id);
		labels[i][0] = '\0';
		expo_label(labels[i], METRICS_LABELS_BYTES, "client", number);
		memcpy(info, labels[i], sizeof(info));
		expo_label(info, sizeof(info), "name", c->name);
		expo_label(info, sizeof(info), "tenant", metrics_tenant_name(seg, c->tenant));
		(void)snprintf(number, sizeof(number), "%d", c->pid);
		expo_label(info, sizeof(info), "pid", number);
		expo_count(e, info, 1);
	}
	write_rows(e, seg, &families_client, &rows);
}

/* ---- the daemon as a whole ----------------------------------------------------------------- */

static void write_reclaims(struct expo *e, const struct stats_segment *seg)
{
	double bound[STATS_RECLAIM_BUCKETS];

	for (unsigned i = 0; i < STATS_RECLAIM_BUCKETS; i++)
		bound[i] = (double)STATS_RECLAIM_BOUND_NS(i) / 1e9;
	expo_family(e, EXPO_HISTOGRAM, "kvbroker_client_reclaim_duration_seconds",
		    "From the daemon's first notice of a client's end to all of it taken back.");
	expo_histogram(e, bound, seg->reclaim_bucket, STATS_RECLAIM_BUCKETS,
		       (double)seg->reclaim_sum_ns / 1e9, seg->reclaim_total);
}

static void write_daemon(struct expo *e, const struct source *s)
{
	const struct stats_segment *seg = s->seg;
	char labels[METRICS_LABELS_BYTES] = "";

	expo_label(labels, sizeof(labels), "version", seg->daemon_version);
	expo_label(labels, sizeof(labels), "loop", seg->engine);
	expo_label(labels, sizeof(labels), "policy", seg->policy);
	expo_family(e, EXPO_GAUGE, "kvbroker_build_info", "1: what the daemon is.");
	expo_count(e, labels, 1);
	expo_family(e, EXPO_GAUGE, "kvbroker_state", "1 for the state that the daemon is in.");
	for (unsigned i = 0; i < SOURCE_STATES; i++) {
		labels[0] = '\0';
		expo_label(labels, sizeof(labels), "state", source_states[i]);
		expo_count(e, labels, strcmp(source_states[i], source_state(s)) == 0);
	}
	expo_family(e, EXPO_GAUGE, "kvbroker_start_time_seconds",
		    "When the daemon started, in seconds since 1970.");
	expo_value(e, NULL, source_wall_s(seg->started_ns));
}

static void write_figures(struct expo *e, const struct stats_segment *seg, label_table labels)
{
	const struct rows whole = { (const char *)seg, sizeof(*seg), 1, 1, NULL, NULL };

	expo_family(e, EXPO_GAUGE, "kvbroker_stats_timestamp_seconds",
		    "When the daemon last published its figures, in seconds since 1970.");
	expo_value(e, NULL, source_wall_s(seg->published_ns));
	write_rows(e, seg, &families_daemon, &whole);
	expo_family(e, EXPO_COUNTER, "kvbroker_lookup_hits_total",
		    "Keys that lookups found, by where; below: in a lower tier only.");
	expo_count(e, "tier=\"device\"", seg->n.lookup_hits);
	expo_count(e, "tier=\"below\"", seg->n.lookup_below);
	write_reclaims(e, seg);
	write_devices(e, seg, labels);
	write_gpus(e, seg);
	write_transfer(e, seg, "kvbroker_tier_transfer_pages_total",
		       "Pages copied between a device and the host memory below it.",
		       offsetof(struct stats_device, demoted),
		       offsetof(struct stats_device, promoted));
	write_transfer(e, seg, "kvbroker_tier_transfer_bytes_total",
		       "Bytes copied between a device and the host memory below it.",
		       offsetof(struct stats_device, demoted_bytes),
		       offsetof(struct stats_device, promoted_bytes));
	for (unsigned i = 0; i < families_budget.n; i++)
		write_budget(e, seg, &families_budget.family[i]);
	write_tenants(e, seg, labels);
	write_namespaces(e, seg, labels);
	write_clients(e, seg, labels);
}

void metrics_write(struct expo *e, const struct source *s)
{
	label_table labels;

	expo_family(e, EXPO_GAUGE, "kvbroker_exporter_build_info", "1: what the exporter is.");
	expo_count(e, "version=\"" KVB_VERSION "\"", 1);
	expo_family(e, EXPO_GAUGE, "kvbroker_up",
		    "1 while the daemon runs; without it there are no figures of it.");
	expo_count(e, NULL, s->up);
	if (!s->up)
		return;
	write_daemon(e, s);
	if (s->seg->published_ns == 0) /* it is starting, and has said nothing yet */
		return;
	labels = calloc(METRICS_ROWS_MAX, sizeof(labels[0]));
	if (!labels) {
		e->failed = true;
		return;
	}
	write_figures(e, s->seg, labels);
	free(labels);
}
