/* SPDX-License-Identifier: Apache-2.0 */

/*
 * tier iostat: what the drives of the store do, a line a part.
 *
 * A transfer is what the drive is given: pages that are neighbours go as one. Every figure is a
 * difference of counters that the daemon keeps anyway; the first line is since its start. Times are
 * counted in powers of two, so a quantile is the upper edge of its bucket: no longer than that.
 *
 * Wear is what is written, since that is what wears flash: how often a day the part is written over
 * at the rate of the line, and what that makes in a year. What the drive writes for it inside, and
 * how much of its life is left, only the drive knows (its health log).
 */

#include <math.h>
#include <string.h>

#include "tools/broker-ctl/columns.h"
#include "tools/broker-ctl/ctl.h"
#include "tools/broker-ctl/format.h"

#define DAY_S (24.0 * 3600)
#define HEADINGS_LINES 20u

#define FIELDS_RATES                                                                               \
	"reads_per_s,writes_per_s,flushes_per_s,read_bytes_per_s,write_bytes_per_s,"               \
	"read_bytes_avg,write_bytes_avg,reads_in_flight,writes_in_flight,queued,"
#define FIELDS_LATENCY "read_p50_s,read_p99_s,write_p50_s,write_p99_s,flush_p50_s,flush_p99_s,"
#define FIELDS_WEAR "written_bytes,amplification,overwrites_per_day,year_bytes,"

static const struct column iostat_columns[] = {
	{ "interval_s", "INTERVAL", COLUMN_SECONDS, true, "what the line covers", ROW },
	{ "reads_per_s", "READ/S", COLUMN_COUNT, false, "reads that ended", ROW },
	{ "writes_per_s", "WRITE/S", COLUMN_COUNT, false, "writes that ended", ROW },
	{ "flushes_per_s", "FLUSH/S", COLUMN_COUNT, false, "flushes that ended", ROW },
	{ "read_bytes_per_s", "READ.B/S", COLUMN_BYTES, false, "bytes read", ROW },
	{ "write_bytes_per_s", "WRITE.B/S", COLUMN_BYTES, false, "bytes written", ROW },
	{ "read_bytes_avg", "READ.AVG", COLUMN_BYTES, false, "bytes a read", ROW },
	{ "write_bytes_avg", "WRITE.AVG", COLUMN_BYTES, false, "bytes a write", ROW },
	{ "reads_in_flight", "READS", COLUMN_COUNT, false, "that the drive has now", ROW },
	{ "writes_in_flight", "WRITES", COLUMN_COUNT, false,
	  "that it has now, with flushes and reads that nobody waits for", ROW },
	{ "queued", "QUEUED", COLUMN_COUNT, false, "that wait for it", ROW },
	{ "read_p50_s", "READ.P50", COLUMN_SECONDS, true, "half of the reads took no longer", ROW },
	{ "read_p99_s", "READ.P99", COLUMN_SECONDS, true, "99 of 100 took no longer", ROW },
	{ "write_p50_s", "WRITE.P50", COLUMN_SECONDS, true, "of the writes", ROW },
	{ "write_p99_s", "WRITE.P99", COLUMN_SECONDS, true, "of the writes", ROW },
	{ "flush_p50_s", "FLUSH.P50", COLUMN_SECONDS, true, "of the flushes", ROW },
	{ "flush_p99_s", "FLUSH.P99", COLUMN_SECONDS, true, "of the flushes", ROW },
	{ "written_bytes", "WRITTEN", COLUMN_BYTES, true, "since the daemon's start", ROW },
	{ "amplification", "AMPLIFIED", COLUMN_COUNT, true,
	  "bytes written for each byte of pages, of all parts since start", ROW },
	{ "overwrites_per_day", "TURNS/DAY", COLUMN_COUNT, true,
	  "how often the part is written over in a day, at the rate of the line", ROW },
	{ "year_bytes", "YEAR", COLUMN_BYTES, true, "written in a year at this rate", ROW },
	{ "latency", "LATENCY", COLUMN_TEXT, true, "with -l, in JSON: transfers by their time",
	  ROW },
	{ "part", "PART", COLUMN_TEXT, false, "file or device", ROW },
};
const struct table table_iostat = TABLE("parts", "part", iostat_columns);

/* ---- histograms ---------------------------------------------------------------------------- */

static uint64_t transfers(const struct store_part_stats *p, enum store_transfer kind)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < STORE_LATENCY_BUCKETS; i++)
		n += p->latency[kind][i];
	return n;
}

static double bucket_end_s(unsigned bucket)
{
	return ldexp(1, (int)bucket + 1) / 1e9;
}

static cJSON *quantile(const struct store_part_stats *p, enum store_transfer kind, double q)
{
	const double all = (double)transfers(p, kind);
	double n = 0;

	for (unsigned i = 0; all > 0 && i < STORE_LATENCY_BUCKETS; i++) {
		n += (double)p->latency[kind][i];
		if (n >= q * all)
			return cJSON_CreateNumber(bucket_end_s(i));
	}
	return cJSON_CreateNull();
}

static bool bucket_used(const struct store_part_stats *p, unsigned i)
{
	return p->latency[STORE_READ][i] || p->latency[STORE_WRITE][i] ||
	       p->latency[STORE_FLUSH][i];
}

static cJSON *latency_json(const struct store_part_stats *p)
{
	cJSON *list = cJSON_CreateArray();

	for (unsigned i = 0; i < STORE_LATENCY_BUCKETS; i++) {
		cJSON *o;

		if (!bucket_used(p, i))
			continue;
		o = cJSON_CreateObject();
		cJSON_AddItemToArray(list, o);
		cJSON_AddNumberToObject(o, "up_to_s", bucket_end_s(i));
		cJSON_AddNumberToObject(o, "reads", (double)p->latency[STORE_READ][i]);
		cJSON_AddNumberToObject(o, "writes", (double)p->latency[STORE_WRITE][i]);
		cJSON_AddNumberToObject(o, "flushes", (double)p->latency[STORE_FLUSH][i]);
	}
	return list;
}

static void print_latency(const struct store_part_stats *p)
{
	unsigned first = 0, end = STORE_LATENCY_BUCKETS;

	while (first < end && !bucket_used(p, first))
		first++;
	while (end > first && !bucket_used(p, end - 1))
		end--;
	if (first < end)
		(void)printf("%9s  %9s  %9s  %9s  %s\n", "UP.TO", "READS", "WRITES", "FLUSHES",
			     p->path);
	for (unsigned i = first; i < end; i++)
		(void)printf("%9s  %9llu  %9llu  %9llu\n", format_seconds(bucket_end_s(i)).text,
			     (unsigned long long)p->latency[STORE_READ][i],
			     (unsigned long long)p->latency[STORE_WRITE][i],
			     (unsigned long long)p->latency[STORE_FLUSH][i]);
}

/* ---- lines --------------------------------------------------------------------------------- */

/* What a part did in between: the counters are of the interval, the rest is of its end. */
static struct store_part_stats part_since(const struct stats_segment *from,
					  const struct stats_segment *to, uint32_t part)
{
	struct store_part_stats ret = to->store.part[part];
	const struct store_part_stats *a;

	if (!from || part >= from->store.parts)
		return ret;
	a = &from->store.part[part];
	ret.read_bytes -= a->read_bytes;
	ret.written_bytes -= a->written_bytes;
	for (unsigned k = 0; k < STORE_TRANSFERS; k++) {
		for (unsigned i = 0; i < STORE_LATENCY_BUCKETS; i++)
			ret.latency[k][i] -= a->latency[k][i];
	}
	return ret;
}

static void add_number(cJSON *to, const char *key, double number)
{
	cJSON_AddNumberToObject(to, key, number);
}

static cJSON *average(uint64_t bytes, uint64_t n)
{
	return n ? cJSON_CreateNumber((double)bytes / (double)n) : cJSON_CreateNull();
}

static void add_wear(cJSON *row, const struct store_stats *now, const struct store_part_stats *p,
		     uint32_t part, double s)
{
	const double day = (double)p->written_bytes / s * DAY_S;
	uint64_t written = 0;

	for (uint32_t i = 0; i < now->parts; i++)
		written += now->part[i].written_bytes;
	add_number(row, "written_bytes", (double)now->part[part].written_bytes);
	cJSON_AddItemToObject(row, "amplification", average(written, now->page_bytes_written));
	add_number(row, "overwrites_per_day", p->bytes ? day / (double)p->bytes : 0);
	add_number(row, "year_bytes", day * 365);
}

static cJSON *part_row(const struct ctl *ctl, const struct store_part_stats *p, uint32_t part,
		       double interval_s)
{
	const double s = interval_s > 0 ? interval_s : INFINITY; /* nothing can have happened */
	const uint64_t reads = transfers(p, STORE_READ), writes = transfers(p, STORE_WRITE);
	cJSON *row = cJSON_CreateObject();

	add_number(row, "interval_s", interval_s);
	add_number(row, "reads_per_s", (double)reads / s);
	add_number(row, "writes_per_s", (double)writes / s);
	add_number(row, "flushes_per_s", (double)transfers(p, STORE_FLUSH) / s);
	add_number(row, "read_bytes_per_s", (double)p->read_bytes / s);
	add_number(row, "write_bytes_per_s", (double)p->written_bytes / s);
	cJSON_AddItemToObject(row, "read_bytes_avg", average(p->read_bytes, reads));
	cJSON_AddItemToObject(row, "write_bytes_avg", average(p->written_bytes, writes));
	add_number(row, "reads_in_flight", p->reads_in_flight);
	add_number(row, "writes_in_flight", p->writes_in_flight);
	add_number(row, "queued", p->queued);
	cJSON_AddItemToObject(row, "read_p50_s", quantile(p, STORE_READ, 0.5));
	cJSON_AddItemToObject(row, "read_p99_s", quantile(p, STORE_READ, 0.99));
	cJSON_AddItemToObject(row, "write_p50_s", quantile(p, STORE_WRITE, 0.5));
	cJSON_AddItemToObject(row, "write_p99_s", quantile(p, STORE_WRITE, 0.99));
	cJSON_AddItemToObject(row, "flush_p50_s", quantile(p, STORE_FLUSH, 0.5));
	cJSON_AddItemToObject(row, "flush_p99_s", quantile(p, STORE_FLUSH, 0.99));
	add_wear(row, &ctl->seg->store, p, part, s);
	if (ctl_has(ctl, OPT_LATENCY))
		cJSON_AddItemToObject(row, "latency", latency_json(p));
	cJSON_AddStringToObject(row, "part", p->path);
	return row;
}

/* Text, and CSV with headings once. */
static int print_rows(struct ctl *ctl, const cJSON *rows, uint64_t n)
{
	const uint64_t every = HEADINGS_LINES / ctl->seg->store.parts;
	const bool header = !ctl_has(ctl, OPT_NO_HEADER);
	struct table_view view;
	const cJSON *row;
	int r = output_view(ctl, false, &view);

	if (r)
		return r;
	if (ctl->format == CTL_CSV) {
		table_print_csv(&view, rows, header && n == 0);
		return 0;
	}
	if (header && n % (every ? every : 1) == 0)
		table_print_steady(&view, NULL);
	cJSON_ArrayForEach(row, rows) table_print_steady(&view, row);
	return 0;
}

static int iostat_line(struct ctl *ctl, const struct stats_segment *from, uint64_t n)
{
	const struct stats_segment *to = ctl->seg;
	cJSON *rows;
	double s;
	int r;

	if (!to->store.parts)
		return ctl_fail(ctl, ADMIN_EXIT_NOT_FOUND, "tier iostat",
				"it is given one by kvbrokerd --store", "the daemon has no store");
	if (from && from->boot_id != to->boot_id)
		from = NULL; /* it has restarted */
	s = (double)(to->published_ns - (from ? from->published_ns : to->started_ns)) / 1e9;
	rows = cJSON_CreateArray();
	for (uint32_t i = 0; i < to->store.parts; i++) {
		struct store_part_stats p = part_since(from, to, i);

		if (!p.left)
			cJSON_AddItemToArray(rows, part_row(ctl, &p, i, s));
	}
	if (output_is_json(ctl))
		return output_list(ctl, rows);
	r = print_rows(ctl, rows, n);
	cJSON_Delete(rows);
	for (uint32_t i = 0;
	     r == 0 && ctl_has(ctl, OPT_LATENCY) && ctl->format == CTL_TEXT && i < to->store.parts;
	     i++) {
		struct store_part_stats p = part_since(from, to, i);

		if (!p.left)
			print_latency(&p);
	}
	return r;
}

int ctl_tier_iostat(struct ctl *ctl)
{
	static const char *const fields[2][2] = {
		{ FIELDS_RATES "part", FIELDS_RATES FIELDS_WEAR "part" },
		{ FIELDS_RATES FIELDS_LATENCY "part",
		  FIELDS_RATES FIELDS_LATENCY FIELDS_WEAR "part" },
	};
	struct table_view view;
	int r;

	if (!ctl->value[OPT_FIELDS] && !output_is_json(ctl))
		ctl->value[OPT_FIELDS] = fields[ctl_has(ctl, OPT_LATENCY)][ctl_has(ctl, OPT_WEAR)];
	r = output_view(ctl, true, &view);
	return r ? r : ctl_sample(ctl, true, iostat_line);
}
