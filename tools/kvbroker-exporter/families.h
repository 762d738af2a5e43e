/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Tables of metrics: name, meaning, and where in a record of the stats segment the figure is.
 *
 * Data for metrics.c and nothing else. A new figure of the segment is a line here and one in
 * kvbroker-exporter(8).
 */

#include "broker/admin/stats.h"
#include "tools/kvbroker-exporter/exposition.h"

/* Series with names of their own; the rest of the records are summed up. */
#define METRICS_TENANTS_MAX 64u
#define METRICS_NAMESPACES_MAX 64u
#define METRICS_CLIENTS_MAX 256u
#define METRICS_ROWS_MAX 256u /* the most of these, and of devices */

enum family_source {
	FAMILY_U32,
	FAMILY_U64,
	FAMILY_LIMIT, /* an uint64_t whose largest value is "no limit" */
	FAMILY_CALL,
};

struct family {
	const char *name, *help;
	enum expo_type type;
	enum family_source source;
	size_t offset;
	double (*call)(const struct stats_segment *seg, const void *record); /* NAN: none */
	bool apart; /* the sum over records means nothing */
};

struct families {
	const struct family *family;
	unsigned n;
};

/* Records: stats_segment, stats_device, core_budget, stats_tenant, ... */
extern const struct families families_daemon, families_device, families_budget, families_tenant,
	families_namespace, families_client;

/* The figure as it stands in the record; 0 of one that is computed. */
uint64_t family_count(const struct family *f, const char *record);
