/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Listings: one table of columns each, from which text, CSV, JSON, -o and the help all follow.
 *
 * A row is a JSON object, whoever made it: table_row() makes one from a record of the stats
 * segment, the daemon sends others. JSON and CSV carry bytes, seconds and ratios of 1; text is for
 * people.
 */

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "broker/admin/stats.h"

enum column_kind {
	COLUMN_TEXT,
	COLUMN_COUNT,
	COLUMN_BYTES,
	COLUMN_SECONDS,
	COLUMN_RATIO,
	COLUMN_BOOL,
};

/* Where in the record a value is. SOURCE_ROW: whoever makes the row puts it there itself. */
enum column_source { SOURCE_ROW, SOURCE_TEXT, SOURCE_U32, SOURCE_U64, SOURCE_CALL };

struct column {
	const char *key;  /* in JSON, and what -o calls it */
	const char *head; /* over the column in text */
	enum column_kind kind;
	bool wide; /* left out of text unless -o asks for it */
	const char *help;
	enum column_source source;
	size_t offset;
	cJSON *(*call)(const struct stats_segment *seg, const void *record); /* NULL: no value */
};

#define TABLE_COLUMNS_MAX 40u

struct table {
	const char *name; /* key of the list in JSON */
	const char *one;  /* key of a single one */
	const struct column *columns;
	unsigned n;
};

/* What -o chose, in its order. */
struct table_view {
	const struct table *table;
	const struct column *column[TABLE_COLUMNS_MAX];
	unsigned n;
};

/*
 * fields: "a,b,c", or NULL for all that text shows (all: the wide ones too). False: no such field,
 * its name in bad[] (64 B).
 */
bool table_select(const struct table *table, const char *fields, bool all, struct table_view *ret,
		  char bad[64]);

cJSON *table_row(const struct table *table, const struct stats_segment *seg, const void *record);

void table_print_text(const struct table_view *view, const cJSON *rows, bool header);
void table_print_csv(const struct table_view *view, const cJSON *rows, bool header);
/* A line that comes alone, of columns as wide as their headings and numbers: NULL is the headings.
 */
void table_print_steady(const struct table_view *view, const cJSON *row);
/* One object, a field a line; without names only the values. */
void table_print_record(const struct table_view *view, const cJSON *row, bool names);
/* A copy with the fields of the view only, in their order. */
cJSON *table_project(const struct table_view *view, const cJSON *row);

/* One value as text; "-" for none. to: at least 128 B. */
void table_cell(const struct column *column, const cJSON *row, char *to, size_t bytes);
