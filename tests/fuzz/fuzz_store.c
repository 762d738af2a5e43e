/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Any bytes as what is on the disk: superblocks, groups, tables, trailers.
 *
 * The first byte says which; the next whether its checksums are put right first, or no input would
 * ever come behind them. What is taken for good must lie within its bounds: that is all that the
 * code behind the checks relies on.
 */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/store/format.h"

#define FOLD 0x5eed5eedu
#define UNITS 64u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

#define MUST(cond)                                                                                 \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			fprintf(stderr, "broken: %s\n", #cond);                                    \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

/* Exactly so large, for the sanitizer to see one byte more. */
static void *take(const uint8_t *data, size_t bytes, size_t size)
{
	uint8_t *mem = calloc(1, size);

	MUST(mem);
	memcpy(mem, data, bytes < size ? bytes : size);
	return mem;
}

static void check_page(const struct format_desc *d)
{
	MUST(d->bytes && d->bytes <= FORMAT_PAGE_BYTES_MAX && d->ns < FORMAT_NS_MAX);
	MUST((uint32_t)d->unit + format_units(d->bytes) < UNITS);
}

static void fuzz_super(const uint8_t *data, size_t bytes, bool mend)
{
	struct format_super *s = take(data, bytes, sizeof(*s));
	struct format_ns *ns;

	if (mend && s->ns_count <= FORMAT_NS_MAX) {
		ns = calloc(s->ns_count + 1, sizeof(*ns));
		MUST(ns);
		format_super_seal(s, ns, 0);
		free(ns);
	}
	if (format_super_check(s, NULL, 0) == FORMAT_GOOD) {
		MUST(s->ns_count <= FORMAT_NS_MAX);
		MUST(format_super_bytes(s->ns_count) <= FORMAT_COPY_BYTES);
		MUST((s->part_bytes - FORMAT_HEAD_BYTES) / s->segment_bytes >= 1);
		MUST(s->segment_bytes / FORMAT_UNIT <= 65536);
	}
	free(s);
}

static void fuzz_group(const uint8_t *data, size_t bytes, bool mend)
{
	struct format_group *g = take(data, bytes, FORMAT_UNIT);
	struct format_desc *d = (void *)(g + 1);
	const uint32_t n = g->count <= FORMAT_GROUP_MAX ? g->count : 0;

	for (uint32_t i = 0; i < n && mend; i++) {
		d[i].seq = g->seq;
		format_desc_seal(&d[i], FOLD);
	}
	if (n && mend)
		format_group_seal(g, FOLD);
	if (format_group_good(g, FOLD, 0, 3, g->unit, UNITS)) {
		MUST(g->count && g->count <= FORMAT_GROUP_MAX);
		MUST((uint32_t)g->unit + g->units < UNITS && g->units > 1);
		for (uint32_t i = 0; i < g->count; i++)
			check_page(&d[i]);
	}
	free(g);
}

static void fuzz_tail(const uint8_t *data, size_t bytes, bool mend)
{
	struct format_trailer *t = take(data, bytes, FORMAT_UNIT);
	struct format_desc *table;

	if (mend)
		format_trailer_seal(t, FOLD);
	if (!format_trailer_good(t, FOLD, 3, UNITS)) {
		free(t);
		return;
	}
	MUST(format_tail_units(t->count) <= UNITS);
	bytes = bytes > FORMAT_UNIT ? bytes - FORMAT_UNIT : 0;
	table = take(data + FORMAT_UNIT * (bytes > 0), bytes, t->count * sizeof(*table) + 1);
	for (uint32_t i = 0; i < t->count && mend; i++) {
		table[i].seq = t->seq;
		format_desc_seal(&table[i], FOLD);
	}
	if (mend) {
		t->table_crc = format_crc(0, table, t->count * sizeof(*table));
		format_trailer_seal(t, FOLD);
	}
	if (format_table_good(table, t, FOLD, UNITS))
		for (uint32_t i = 0; i < t->count; i++)
			check_page(&table[i]);
	free(table);
	free(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	bool mend;

	if (bytes < 2)
		return 0;
	mend = data[1] & 1;
	if (data[0] % 3 == 0)
		fuzz_super(data + 2, bytes - 2, mend);
	else if (data[0] % 3 == 1)
		fuzz_group(data + 2, bytes - 2, mend);
	else
		fuzz_tail(data + 2, bytes - 2, mend);
	return 0;
}
