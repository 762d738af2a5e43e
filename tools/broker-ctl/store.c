/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The store in listings: a row of the tiers, and one for each file or device that it lies on.
 *
 * The columns are those of the tiers; what a store does not have is left out. Its rows are not made
 * from records of devices, so they are put together here. What it counts in pages is the core's
 * count (what was to be written, and what came), what it counts in bytes of a part is what the
 * drive was given, with tables, and pages that were carried forward.
 */

#include <string.h>

#include "broker/core/core.h"
#include "tools/broker-ctl/ctl.h"
#include "tools/broker-ctl/format.h"

static uint64_t transfers_waiting(const struct store_part_stats *p)
{
	return (uint64_t)p->reads_in_flight + p->writes_in_flight + p->queued;
}

static void add_number(cJSON *to, const char *key, uint64_t number)
{
	cJSON_AddNumberToObject(to, key, (double)number);
}

static const char *part_why(const struct store_part_stats *p)
{
	return p->failed ? strerror(-p->failed) : NULL;
}

/* ---- rows of the tiers --------------------------------------------------------------------- */

static cJSON *part_row(const struct stats_segment *seg, const struct store_part_stats *p)
{
	const uint64_t used = (uint64_t)(p->segments - p->segments_free) * seg->store.segment_bytes;
	cJSON *row = cJSON_CreateObject();

	cJSON_AddStringToObject(row, "tier", "part");
	cJSON_AddStringToObject(row, "device", p->path);
	add_number(row, "capacity_bytes", p->bytes);
	add_number(row, "granted_bytes", used);
	add_number(row, "flights", transfers_waiting(p));
	add_number(row, "wanted_bytes", p->bytes_wanted);
	add_number(row, "segments", p->segments);
	add_number(row, "segments_free", p->segments_free);
	add_number(row, "segments_bad", p->segments_bad);
	add_number(row, "read_bytes", p->read_bytes);
	add_number(row, "written_bytes", p->written_bytes);
	cJSON_AddBoolToObject(row, "ready", p->failed == 0);
	if (p->failed)
		cJSON_AddStringToObject(row, "why", part_why(p));
	return row;
}

static cJSON *store_row(const struct stats_segment *seg)
{
	const struct store_stats *st = &seg->store;
	struct store_part_stats sum = { 0 };
	cJSON *row = cJSON_CreateObject();
	const char *why = NULL;

	for (uint32_t i = 0; i < st->parts; i++) {
		const struct store_part_stats *p = &st->part[i];

		sum.bytes_wanted += p->bytes_wanted;
		sum.segments += p->segments;
		sum.segments_free += p->segments_free;
		sum.segments_bad += p->segments_bad;
		sum.read_bytes += p->read_bytes;
		sum.written_bytes += p->written_bytes;
		sum.queued += (uint32_t)transfers_waiting(p);
		why = why || p->left ? why : part_why(p);
	}
	cJSON_AddStringToObject(row, "tier", "store");
	add_number(row, "capacity_bytes", st->bytes);
	add_number(row, "granted_bytes", st->bytes_used);
	add_number(row, "pages", st->pages);
	add_number(row, "demoted", seg->n.stored);
	add_number(row, "demoted_bytes", seg->n.stored_bytes);
	add_number(row, "promoted", seg->n.fetched);
	add_number(row, "promoted_bytes", seg->n.fetched_bytes);
	add_number(row, "dropped", st->evicted_pages);
	add_number(row, "evictions", st->evicted_pages);
	add_number(row, "flights", sum.queued);
	add_number(row, "failed", seg->n.store_lost + seg->n.store_refused);
	add_number(row, "checksum_misses", st->mismatches);
	add_number(row, "wanted_bytes", sum.bytes_wanted);
	add_number(row, "segments", sum.segments);
	add_number(row, "segments_free", sum.segments_free);
	add_number(row, "segments_bad", sum.segments_bad);
	add_number(row, "read_bytes", sum.read_bytes);
	add_number(row, "written_bytes", sum.written_bytes);
	cJSON_AddBoolToObject(row, "ready", why == NULL);
	if (why)
		cJSON_AddStringToObject(row, "why", why);
	return row;
}

void store_add_rows(const struct stats_segment *seg, cJSON *rows)
{
	if (!seg->store.parts)
		return;
	cJSON_AddItemToArray(rows, store_row(seg));
	for (uint32_t i = 0; i < seg->store.parts; i++)
		if (!seg->store.part[i].left)
			cJSON_AddItemToArray(rows, part_row(seg, &seg->store.part[i]));
}

/* ---- status -------------------------------------------------------------------------------- */

static cJSON *part_json(const struct store_part_stats *p)
{
	cJSON *o = cJSON_CreateObject();

	cJSON_AddStringToObject(o, "path", p->path);
	add_number(o, "bytes", p->bytes);
	add_number(o, "bytes_wanted", p->bytes_wanted);
	add_number(o, "segments", p->segments);
	add_number(o, "segments_free", p->segments_free);
	add_number(o, "segments_bad", p->segments_bad);
	add_number(o, "read_bytes", p->read_bytes);
	add_number(o, "written_bytes", p->written_bytes);
	add_number(o, "reads_in_flight", p->reads_in_flight);
	add_number(o, "writes_in_flight", p->writes_in_flight);
	add_number(o, "queued", p->queued);
	if (p->failed)
		cJSON_AddStringToObject(o, "failed", part_why(p));
	else
		cJSON_AddNullToObject(o, "failed");
	cJSON_AddBoolToObject(o, "left", p->left);
	return o;
}

struct figure {
	const char *key;
	uint64_t number;
};

static void add_figures(cJSON *to, const struct figure *figures, size_t n)
{
	for (size_t i = 0; i < n; i++)
		add_number(to, figures[i].key, figures[i].number);
}
#define ADD_FIGURES(to, figures) add_figures(to, figures, sizeof(figures) / sizeof((figures)[0]))

static void add_recovery(cJSON *to, const struct store_stats *st)
{
	const struct figure figures[] = {
		{ "pages", st->recovered_pages }, { "stale", st->recovered_stale },
		{ "torn", st->recovered_torn },   { "segments", st->recovered_segments },
		{ "lost", st->recovered_lost },
	};
	cJSON *o = cJSON_AddObjectToObject(to, "recovery");

	ADD_FIGURES(o, figures);
	cJSON_AddNumberToObject(o, "seconds", (double)st->recovery_ns / 1e9);
	cJSON_AddNumberToObject(o, "index_seconds", (double)st->index_ns / 1e9);
	cJSON_AddBoolToObject(o, "reset", st->reset);
}

static void add_check(cJSON *to, const struct store_scrub_stats *c)
{
	const struct figure figures[] = {
		{ "segments_done", c->segments_done },
		{ "segments", c->segments },
		{ "pages", c->pages },
		{ "bytes", c->bytes },
		{ "bad", c->bad },
		{ "unreadable", c->unreadable },
		{ "unknown", c->unknown },
	};
	cJSON *o = cJSON_AddObjectToObject(to, "check");

	cJSON_AddBoolToObject(o, "active", c->active);
	ADD_FIGURES(o, figures);
}

cJSON *store_json(const struct stats_segment *seg)
{
	const struct store_stats *st = &seg->store;
	const struct core_counters *n = &seg->n;
	const struct figure figures[] = {
		{ "pages", st->pages },
		{ "pages_max", st->pages_max },
		{ "index_bytes", st->index_bytes },
		{ "bytes", st->bytes },
		{ "used_bytes", st->bytes_used },
		{ "segment_bytes", st->segment_bytes },
		{ "namespaces", st->namespaces },
		{ "stored", n->stored },
		{ "stored_bytes", n->stored_bytes },
		{ "fetched", n->fetched },
		{ "fetched_bytes", n->fetched_bytes },
		{ "lost", n->store_lost },
		{ "refused", n->store_refused },
		{ "unwanted", n->store_unwanted },
		{ "puts", st->puts },
		{ "puts_failed", st->puts_failed },
		{ "puts_present", st->puts_present },
		{ "gets", st->gets },
		{ "gets_missed", st->gets_missed },
		{ "gets_late", st->gets_late },
		{ "gets_failed", st->gets_failed },
		{ "mismatches", st->mismatches },
		{ "page_bytes_read", st->page_bytes_read },
		{ "page_bytes_written", st->page_bytes_written },
		{ "evicted_pages", st->evicted_pages },
		{ "forward_pages", st->forward_pages },
		{ "forward_bytes", st->forward_bytes },
		{ "bounced", st->bounced },
		{ "flushes", st->flushes },
		{ "flushes_failed", st->flushes_failed },
		{ "commits", st->commits },
	};
	cJSON *o, *parts;

	if (!st->parts)
		return cJSON_CreateNull();
	o = cJSON_CreateObject();
	cJSON_AddStringToObject(o, "engine", st->engine);
	cJSON_AddStringToObject(o, "admit", seg->store_filtered ? "filter" : "all");
	ADD_FIGURES(o, figures);
	add_recovery(o, st);
	add_check(o, &st->check);
	parts = cJSON_AddArrayToObject(o, "parts");
	for (uint32_t i = 0; i < st->parts; i++)
		cJSON_AddItemToArray(parts, part_json(&st->part[i]));
	return o;
}

void store_print_status(const struct stats_segment *seg)
{
	const struct store_stats *st = &seg->store;

	if (!st->parts)
		return;
	(void)printf("store %s used of %s  pages %llu  written %llu  fetched %llu  evicted %llu  "
		     "by %s\n",
		     core_size(st->bytes_used).text, core_size(st->bytes).text,
		     (unsigned long long)st->pages, (unsigned long long)seg->n.stored,
		     (unsigned long long)seg->n.fetched, (unsigned long long)st->evicted_pages,
		     st->engine);
	if (st->check.active)
		(void)printf("store check: %u of %u segments, %llu pages\n",
			     st->check.segments_done, st->check.segments,
			     (unsigned long long)st->check.pages);
	for (uint32_t i = 0; i < st->parts; i++) {
		const struct store_part_stats *p = &st->part[i];

		if (p->failed)
			(void)printf("store part %s is off: %s\n", p->path, part_why(p));
		else if (p->bytes != p->bytes_wanted)
			(void)printf("store part %s goes from %s to %s\n", p->path,
				     core_size(p->bytes).text, core_size(p->bytes_wanted).text);
	}
}
