/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What the daemon's figures are called in Prometheus, and what each means (kvbroker-exporter(8)).
 *
 * Pure functions of a reading. Names and units follow Prometheus: base units, counters end in
 * _total, ratios are left to whoever divides counters.
 */

#include "tools/kvbroker-exporter/exposition.h"
#include "tools/kvbroker-exporter/source.h"

#define METRICS_LABELS_BYTES 384u

/* Everything, for a reading of source_read(). Of a daemon that is not up: that it is not. */
void metrics_write(struct expo *e, const struct source *s);

/*
 * Names that no two have, for the labels: of a namespace as many digits of its digest as it needs
 * among those of its tenant, 8 or all.
 */
void metrics_namespace_name(const struct stats_segment *seg, uint32_t index, char ret[65]);
const char *metrics_tenant_name(const struct stats_segment *seg, uint32_t index);
const char *metrics_tier_name(const struct stats_device *d); /* "device", "host" */
