/* SPDX-License-Identifier: Apache-2.0 */

/*
 * HTML, written line by line. What others have named goes through text() and nothing else does.
 *
 * Bars are boxes whose widths are parts of a hundred. A bar's parts are told apart by what is
 * written above it and, for those who do not see colours, by the title of each.
 */

#include <stdio.h>
#include <string.h>

#include "broker/core/core.h"
#include "tools/kvbroker-exporter/metrics.h"
#include "tools/kvbroker-exporter/page.h"

#define PAGE_ROWS_MAX 64u /* of a table; what is more is said below it */

static const char style[] =
	":root{color-scheme:light dark;--line:#8884;--a:#2f7ed8;--b:#37a862;--c:#b9c2cc;"
	"--d:#d9822b}"
	"body{font:14px/1.45 system-ui,sans-serif;margin:1.5em auto;max-width:68em;padding:0 1em}"
	"h1{font-size:1.35em;margin:0}h2{font-size:1.05em;margin:1.6em 0 .4em}"
	"table{border-collapse:collapse;width:100%}"
	"th,td{text-align:left;padding:.25em .8em .25em 0;border-bottom:1px solid var(--line);"
	"white-space:nowrap}"
	"th{font-weight:600}td.n,th.n{text-align:right}td.w{width:45%}"
	".bar{display:flex;height:1em;background:var(--line);border-radius:2px;overflow:hidden}"
	".a{background:var(--a)}.b{background:var(--b)}.c{background:var(--c)}"
	".d{background:var(--d)}"
	".key span{padding:0 .5em;border-radius:2px;margin-right:.6em;color:#fff}"
	".key .c{color:#222}.down{color:#c33}p{margin:.3em 0}";

static void text(struct expo *e, const char *from)
{
	for (; *from; from++) {
		switch (*from) {
		case '<':
			expo_add(e, "&lt;");
			break;
		case '>':
			expo_add(e, "&gt;");
			break;
		case '&':
			expo_add(e, "&amp;");
			break;
		case '"':
			expo_add(e, "&quot;");
			break;
		default:
			expo_add(e, "%c", *from < ' ' || *from > '~' ? '?' : *from);
		}
	}
}

static double percent(uint64_t part, uint64_t whole)
{
	return whole == 0 ? 0 : part >= whole ? 100 : (double)part * 100 / (double)whole;
}

static void bar_part(struct expo *e, const char *class, const char *what, uint64_t bytes,
		     uint64_t of)
{
	if (bytes)
		expo_add(e, "<div class=%s style=\"width:%.2f%%\" title=\"%s %s\"></div>", class,
			 percent(bytes, of), what, core_size(bytes).text);
}

static void cell_text(struct expo *e, const char *from)
{
	expo_add(e, "<td>");
	text(e, from);
	expo_add(e, "</td>");
}

static void cell_count(struct expo *e, uint64_t count)
{
	expo_add(e, "<td class=n>%llu</td>", (unsigned long long)count);
}

static void cell_size(struct expo *e, uint64_t bytes)
{
	expo_add(e, "<td class=n>%s</td>", core_size(bytes).text);
}

static void cell_hit(struct expo *e, uint64_t hits, uint64_t keys)
{
	if (keys)
		expo_add(e, "<td class=n>%.1f%%</td>", (double)hits * 100 / (double)keys);
	else
		expo_add(e, "<td class=n>-</td>");
}

static void end_table(struct expo *e, uint32_t n)
{
	expo_add(e, "</table>\n");
	if (n > PAGE_ROWS_MAX)
		expo_add(e, "<p>and %u more</p>\n", n - PAGE_ROWS_MAX);
}

static void devices(struct expo *e, const struct stats_segment *seg)
{
	expo_add(e, "<h2>Memory</h2>\n<p class=key><span class=a>being filled</span>"
		    "<span class=b>cached</span><span class=c>free pages</span>"
		    "<span class=d>on its way</span> of what the daemon was given</p>\n"
		    "<table><tr><th>Device<th>Tier<th>Use<th class=n>Mapped<th class=n>Capacity"
		    "<th class=n>Evicted<th>State</tr>\n");
	for (uint32_t i = 0; i < seg->devices_n; i++) {
		const struct stats_device *d = &seg->device[i];

		if (!d->name[0])
			continue;
		expo_add(e, "<tr>");
		cell_text(e, d->name);
		cell_text(e, metrics_tier_name(d));
		expo_add(e, "<td class=w><div class=bar>");
		bar_part(e, "a", "being filled", d->held_bytes, d->capacity_bytes);
		bar_part(e, "b", "cached", d->sealed_bytes, d->capacity_bytes);
		bar_part(e, "d", "on its way", d->arriving_bytes, d->capacity_bytes);
		bar_part(e, "c", "free pages", d->free_bytes, d->capacity_bytes);
		expo_add(e, "</div></td>");
		cell_size(e, d->granted_bytes);
		cell_size(e, d->capacity_bytes);
		cell_count(e, d->evictions);
		cell_text(e, d->failed                      ? d->why
			     : d->warning[0]                ? d->warning
			     : d->drain == STATS_DRAIN_DONE ? "drained"
			     : d->drain != STATS_DRAIN_NOT  ? "draining"
			     : d->below_why[0]              ? d->below_why
							    : "ok");
		expo_add(e, "</tr>\n");
	}
	expo_add(e, "</table>\n");
}

/* One bar a tenant and device where it has something; of the device, since a maximum may be none.
 */
static void tenants(struct expo *e, const struct stats_segment *seg)
{
	expo_add(e, "<h2>Tenants</h2>\n<table><tr><th>Tenant<th class=n>Clients<th class=n>Hit"
		    "<th class=n>Evicted<th class=n>Refused<th>Use of each device</tr>\n");
	for (uint32_t i = 0; i < seg->tenants_n && i < PAGE_ROWS_MAX; i++) {
		const struct stats_tenant *t = &seg->tenant[i];

		expo_add(e, "<tr>");
		cell_text(e, t->name);
		cell_count(e, t->clients);
		cell_hit(e, t->lookup_hits, t->lookup_keys);
		cell_count(e, t->evictions);
		cell_count(e, t->refusals);
		expo_add(e, "<td class=w>");
		for (uint32_t d = 0; d < seg->devices_n; d++) {
			const struct core_budget *b = &t->budget[d];

			if (!seg->device[d].name[0] || !b->used_bytes)
				continue;
			text(e, seg->device[d].name);
			expo_add(e, " %s<div class=bar>", core_size(b->used_bytes).text);
			bar_part(e, b->used_bytes > b->high_bytes ? "d" : "b", "used",
				 b->used_bytes, seg->device[d].capacity_bytes);
			expo_add(e, "</div>");
		}
		expo_add(e, "</td></tr>\n");
	}
	end_table(e, seg->tenants_n);
}

static void clients(struct expo *e, const struct stats_segment *seg)
{
	uint64_t most = 1;

	for (uint32_t i = 0; i < seg->clients_n; i++) {
		if (seg->client[i].held_bytes > most)
			most = seg->client[i].held_bytes;
	}
	expo_add(e, "<h2>Clients</h2>\n<table><tr><th>Id<th>Name<th>Tenant<th class=n>Pid"
		    "<th class=n>Leases<th class=n>Entries<th class=n>Held<th></tr>\n");
	for (uint32_t i = 0; i < seg->clients_n && i < PAGE_ROWS_MAX; i++) {
		const struct stats_client *c = &seg->client[i];

		expo_add(e, "<tr><td>%u</td>", c->id);
		cell_text(e, c->name);
		cell_text(e, metrics_tenant_name(seg, c->tenant));
		expo_add(e, "<td class=n>%d</td>", c->pid);
		cell_count(e, c->leases);
		cell_count(e, c->entries);
		cell_size(e, c->held_bytes);
		expo_add(e, "<td class=w><div class=bar>");
		bar_part(e, "a", "held", c->held_bytes, most);
		expo_add(e, "</div></td></tr>\n");
	}
	end_table(e, seg->clients_n);
}

static void namespaces(struct expo *e, const struct stats_segment *seg)
{
	expo_add(e, "<h2>Namespaces</h2>\n<table><tr><th>Namespace<th>Tenant<th class=n>Epoch"
		    "<th class=n>Pages<th class=n>Stale<th class=n>Lookups<th class=n>Hit</tr>\n");
	for (uint32_t i = 0; i < seg->namespaces_n && i < PAGE_ROWS_MAX; i++) {
		const struct stats_namespace *ns = &seg->ns[i];
		char name[65];

		metrics_namespace_name(seg, i, name);
		expo_add(e, "<tr>");
		cell_text(e, name);
		cell_text(e, metrics_tenant_name(seg, ns->tenant));
		cell_count(e, ns->epoch);
		cell_count(e, ns->pages_current);
		cell_count(e, ns->pages - ns->pages_current);
		cell_count(e, ns->lookups);
		cell_hit(e, ns->lookup_hits, ns->lookup_keys);
		expo_add(e, "</tr>\n");
	}
	end_table(e, seg->namespaces_n);
}

static void reclaims(struct expo *e, const struct stats_segment *seg)
{
	uint64_t within = 0, most = 1;

	if (!seg->reclaim_total)
		return;
	for (unsigned i = 0; i < STATS_RECLAIM_BUCKETS; i++) {
		within += seg->reclaim_bucket[i];
		if (seg->reclaim_bucket[i] > most)
			most = seg->reclaim_bucket[i];
	}
	expo_add(e, "<h2>Taking back what ended clients had</h2>\n<table>"
		    "<tr><th class=n>Up to<th class=n>Clients<th></tr>\n");
	for (unsigned i = 0; i < STATS_RECLAIM_BUCKETS; i++) {
		uint64_t n = seg->reclaim_bucket[i];

		if (n)
			expo_add(e,
				 "<tr><td class=n>%g ms</td><td class=n>%llu</td><td class=w>"
				 "<div class=bar><div class=a style=\"width:%.2f%%\"></div></div>"
				 "</td></tr>\n",
				 (double)STATS_RECLAIM_BOUND_NS(i) / 1e6, (unsigned long long)n,
				 percent(n, most));
	}
	expo_add(e, "</table>\n");
	if (seg->reclaim_total > within)
		expo_add(e, "<p class=down>%llu took longer</p>\n",
			 (unsigned long long)(seg->reclaim_total - within));
}

static void figures(struct expo *e, const struct stats_segment *seg)
{
	uint64_t keys = seg->n.lookup_keys;

	expo_add(e, "<p>%u clients, %u tenants, %u namespaces; %u pages cached of %u; %llu lookups",
		 seg->clients_n, seg->tenants_n, seg->namespaces_n, seg->indexed, seg->pages_max,
		 (unsigned long long)seg->n.lookups);
	if (keys)
		expo_add(e, ", of their keys %.1f%% found on devices and %.1f%% below",
			 (double)seg->n.lookup_hits * 100 / (double)keys,
			 (double)seg->n.lookup_below * 100 / (double)keys);
	expo_add(e, "</p>\n");
	devices(e, seg);
	tenants(e, seg);
	clients(e, seg);
	namespaces(e, seg);
	reclaims(e, seg);
}

void page_write(struct expo *e, const struct source *s)
{
	expo_add(e,
		 "<!doctype html>\n<html lang=en><meta charset=utf-8><meta name=viewport "
		 "content=\"width=device-width\"><meta http-equiv=refresh content=5>"
		 "<title>kvbroker</title><style>%s</style>\n",
		 style);
	if (!s->up) {
		expo_add(e, "<h1>kvbroker <span class=down>down</span></h1>\n<p>");
		text(e, s->why);
		expo_add(e, "</p>\n");
		return;
	}
	expo_add(e, "<h1>kvbroker ");
	text(e, s->seg->daemon_version);
	expo_add(e, " %s</h1>\n<p>pid %d, policy ", source_state(s), s->seg->pid);
	text(e, s->seg->policy);
	expo_add(e, ", loop ");
	text(e, s->seg->engine);
	expo_add(e, "; <a href=/metrics>metrics</a>, <a href=/health>health</a></p>\n");
	if (s->seg->published_ns)
		figures(e, s->seg);
}
