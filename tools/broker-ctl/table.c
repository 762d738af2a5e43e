/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Listings: see table.h.
 */

#include <string.h>

#include "broker/core/core.h"
#include "tools/broker-ctl/format.h"
#include "tools/broker-ctl/table.h"

#define CELL_BYTES 160u

static const struct column *table_find(const struct table *table, const char *key, size_t n)
{
	for (unsigned i = 0; i < table->n; i++) {
		if (strlen(table->columns[i].key) == n &&
		    memcmp(table->columns[i].key, key, n) == 0)
			return &table->columns[i];
	}
	return NULL;
}

bool table_select(const struct table *table, const char *fields, bool all, struct table_view *ret,
		  char bad[64])
{
	ret->table = table;
	ret->n = 0;
	if (!fields) {
		for (unsigned i = 0; i < table->n; i++) {
			if (all || !table->columns[i].wide)
				ret->column[ret->n++] = &table->columns[i];
		}
		return true;
	}
	for (;;) {
		size_t n = strcspn(fields, ",");
		const struct column *column = table_find(table, fields, n);

		if (!column || ret->n == TABLE_COLUMNS_MAX) {
			(void)snprintf(bad, 64, "%.*s", (int)(n < 63 ? n : 63), fields);
			return false;
		}
		ret->column[ret->n++] = column;
		if (!fields[n])
			return true;
		fields += n + 1;
	}
}

static cJSON *column_value(const struct column *column, const struct stats_segment *seg,
			   const void *record)
{
	const char *at = (const char *)record + column->offset;
	cJSON *value = NULL;
	uint32_t u32;
	uint64_t u64;

	switch (column->source) {
	case SOURCE_ROW:
		return NULL;
	case SOURCE_TEXT:
		value = cJSON_CreateString(at);
		break;
	case SOURCE_U32:
		memcpy(&u32, at, sizeof(u32));
		value = cJSON_CreateNumber(u32);
		break;
	case SOURCE_U64:
		memcpy(&u64, at, sizeof(u64));
		value = cJSON_CreateNumber((double)u64);
		break;
	case SOURCE_CALL:
		value = column->call(seg, record);
		break;
	}
	return value ? value : cJSON_CreateNull();
}

cJSON *table_row(const struct table *table, const struct stats_segment *seg, const void *record)
{
	cJSON *row = cJSON_CreateObject();

	for (unsigned i = 0; i < table->n; i++) {
		cJSON *value = column_value(&table->columns[i], seg, record);

		if (value)
			cJSON_AddItemToObject(row, table->columns[i].key, value);
	}
	return row;
}

/* What comes from a peer's name must not steer a terminal. */
static void cell_text(char *to, size_t bytes, const char *text)
{
	size_t i;

	for (i = 0; text[i] && i + 1 < bytes; i++)
		to[i] = (unsigned char)text[i] < ' ' || text[i] == 0x7f ? '?' : text[i];
	to[i] = '\0';
}

void table_cell(const struct column *column, const cJSON *row, char *to, size_t bytes)
{
	const cJSON *value = cJSON_GetObjectItemCaseSensitive(row, column->key);
	const char *text = "-";
	struct format_text number;
	struct core_size_text size;

	if (cJSON_IsString(value)) {
		text = value->valuestring[0] ? value->valuestring : "-";
	} else if (cJSON_IsBool(value)) {
		text = cJSON_IsTrue(value) ? "yes" : "no";
	} else if (cJSON_IsNumber(value)) {
		switch (column->kind) {
		case COLUMN_BYTES:
			size = core_size((uint64_t)value->valuedouble);
			(void)snprintf(number.text, sizeof(number.text), "%s", size.text);
			break;
		case COLUMN_SECONDS:
			number = format_seconds(value->valuedouble);
			break;
		case COLUMN_RATIO:
			number = format_ratio(value->valuedouble);
			break;
		default:
			number = format_count(value->valuedouble);
		}
		text = number.text;
	}
	cell_text(to, bytes, text);
}

static bool column_is_right(const struct column *column)
{
	return column->kind != COLUMN_TEXT && column->kind != COLUMN_BOOL;
}

static void print_cell(const struct table_view *view, unsigned i, int width, const char *text)
{
	const char *gap = i ? "  " : "";

	if (column_is_right(view->column[i]))
		(void)printf("%s%*s", gap, width, text);
	else if (i + 1 == view->n)
		(void)printf("%s%s", gap, text);
	else
		(void)printf("%s%-*s", gap, width, text);
}

void table_print_text(const struct table_view *view, const cJSON *rows, bool header)
{
	int width[TABLE_COLUMNS_MAX];
	char cell[CELL_BYTES];
	const cJSON *row;

	for (unsigned i = 0; i < view->n; i++) {
		width[i] = header ? (int)strlen(view->column[i]->head) : 0;
		cJSON_ArrayForEach(row, rows)
		{
			table_cell(view->column[i], row, cell, sizeof(cell));
			if ((int)strlen(cell) > width[i])
				width[i] = (int)strlen(cell);
		}
	}
	for (unsigned i = 0; header && i < view->n; i++)
		print_cell(view, i, width[i], view->column[i]->head);
	if (header)
		(void)putchar('\n');
	cJSON_ArrayForEach(row, rows)
	{
		for (unsigned i = 0; i < view->n; i++) {
			table_cell(view->column[i], row, cell, sizeof(cell));
			print_cell(view, i, width[i], cell);
		}
		(void)putchar('\n');
	}
}

void table_print_steady(const struct table_view *view, const cJSON *row)
{
	char cell[CELL_BYTES];

	for (unsigned i = 0; i < view->n; i++) {
		int width = (int)strlen(view->column[i]->head);

		table_cell(view->column[i], row, cell, sizeof(cell));
		print_cell(view, i, width < 9 ? 9 : width, row ? cell : view->column[i]->head);
	}
	(void)putchar('\n');
}

static void csv_value(const cJSON *value)
{
	char number[40];

	if (cJSON_IsString(value)) {
		format_csv(stdout, value->valuestring);
	} else if (cJSON_IsBool(value)) {
		(void)fputs(cJSON_IsTrue(value) ? "true" : "false", stdout);
	} else if (cJSON_IsNumber(value)) {
		(void)snprintf(number, sizeof(number), "%.15g", value->valuedouble);
		(void)fputs(number, stdout);
	}
}

void table_print_csv(const struct table_view *view, const cJSON *rows, bool header)
{
	const cJSON *row;

	for (unsigned i = 0; header && i < view->n; i++) {
		(void)fputs(i ? "," : "", stdout);
		format_csv(stdout, view->column[i]->key);
	}
	if (header)
		(void)putchar('\n');
	cJSON_ArrayForEach(row, rows)
	{
		for (unsigned i = 0; i < view->n; i++) {
			(void)fputs(i ? "," : "", stdout);
			csv_value(cJSON_GetObjectItemCaseSensitive(row, view->column[i]->key));
		}
		(void)putchar('\n');
	}
}

void table_print_record(const struct table_view *view, const cJSON *row, bool names)
{
	char cell[CELL_BYTES];
	int width = 0;

	for (unsigned i = 0; i < view->n; i++) {
		if ((int)strlen(view->column[i]->key) > width)
			width = (int)strlen(view->column[i]->key);
	}
	for (unsigned i = 0; i < view->n; i++) {
		table_cell(view->column[i], row, cell, sizeof(cell));
		if (names)
			(void)printf("%-*s  ", width, view->column[i]->key);
		(void)puts(cell);
	}
}

cJSON *table_project(const struct table_view *view, const cJSON *row)
{
	cJSON *to = cJSON_CreateObject();

	for (unsigned i = 0; i < view->n; i++) {
		const char *key = view->column[i]->key;
		const cJSON *value = cJSON_GetObjectItemCaseSensitive(row, key);

		cJSON_AddItemToObject(to, key,
				      value ? cJSON_Duplicate(value, true) : cJSON_CreateNull());
	}
	return to;
}
