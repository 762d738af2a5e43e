/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Figures of one benchmark: a table for people as they are measured, or one JSON object as the last
 * line. Both come from the same calls, so they cannot disagree.
 */

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cjson/cJSON.h>

#include "tools/kvb-bench/bench.h"

void bench_die(const char *fmt, ...)
{
	va_list ap;

	fflush(stdout);
	fputs("kvb-bench: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(1);
}

/* Six digits are more than any of these machines can repeat. */
static double rounded(double value)
{
	char text[32];

	if (!isfinite(value))
		bench_die("a figure is not a number; the run was too short to measure it");
	if (fabs(value) < 1e15 && value == (double)(int64_t)value)
		return value;
	snprintf(text, sizeof(text), "%.6g", value);
	return strtod(text, NULL);
}

void report_number(struct report *r, const char *key, double value, const char *what)
{
	value = rounded(value);
	cJSON_AddNumberToObject(r->root, key, value);
	if (!r->json) {
		printf("%-34s %14.10g  %s\n", key, value, what);
		fflush(stdout);
	}
}

void report_null(struct report *r, const char *key, const char *why)
{
	cJSON_AddNullToObject(r->root, key);
	if (!r->json)
		printf("%-34s %14s  %s\n", key, "-", why);
}

void report_text(struct report *r, const char *key, const char *text)
{
	cJSON_AddStringToObject(r->root, key, text);
	if (!r->json)
		printf("%-34s %s\n", key, text);
}

void report_numbers(struct report *r, const char *key, const double *value, unsigned n,
		    const char *what)
{
	cJSON *array = cJSON_AddArrayToObject(r->root, key);

	for (unsigned i = 0; i < n; i++)
		cJSON_AddItemToArray(array, cJSON_CreateNumber(rounded(value[i])));
	if (r->json)
		return;
	printf("%-34s", key);
	for (unsigned i = 0; i < n; i++)
		printf(" %.10g", rounded(value[i]));
	printf("  %s\n", what);
}

void report_array(struct report *r, const char *key, struct cJSON *array, const char *what)
{
	char *text;

	cJSON_AddItemToObject(r->root, key, array);
	if (r->json)
		return;
	text = cJSON_PrintUnformatted(array);
	if (text != NULL)
		printf("%-34s %s  %s\n", key, text, what);
	free(text);
}

void report_print(const struct report *r)
{
	char *text;

	if (!r->json)
		return;
	text = cJSON_PrintUnformatted(r->root);
	if (text == NULL)
		bench_die("out of memory");
	printf("%s\n", text);
	free(text);
	fflush(stdout);
}
