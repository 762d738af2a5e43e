/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A buffer that grows by doubling, and the few forms of line there are: see exposition.h.
 */

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/kvbroker-exporter/exposition.h"

static const char *const type_name[] = { "gauge", "counter", "histogram" };

void expo_init(struct expo *e)
{
	*e = (struct expo){ 0 };
}

void expo_free(struct expo *e)
{
	free(e->text);
	expo_init(e);
}

/* Room for so many more bytes and the zero. */
static bool make_room(struct expo *e, size_t bytes)
{
	size_t room = e->room ? e->room : 4096;
	char *text;

	while (room - e->bytes <= bytes)
		room *= 2;
	if (room == e->room)
		return true;
	text = realloc(e->text, room);
	if (!text) {
		e->failed = true;
		return false;
	}
	e->text = text;
	e->room = room;
	return true;
}

void expo_add(struct expo *e, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0 || e->failed || !make_room(e, (size_t)n))
		return;
	va_start(ap, fmt);
	(void)vsnprintf(e->text + e->bytes, e->room - e->bytes, fmt, ap);
	va_end(ap);
	e->bytes += (size_t)n;
}

void expo_family(struct expo *e, enum expo_type type, const char *name, const char *help)
{
	e->type = type;
	e->name = name;
	e->help = help;
	e->headed = false;
}

/* Everything of a line that is before its value. */
static void begin_sample(struct expo *e, const char *suffix, const char *labels)
{
	if (!e->headed)
		expo_add(e, "# HELP %s %s\n# TYPE %s %s\n", e->name, e->help, e->name,
			 type_name[e->type]);
	e->headed = true;
	if (labels && labels[0])
		expo_add(e, "%s%s{%s} ", e->name, suffix, labels);
	else
		expo_add(e, "%s%s ", e->name, suffix);
}

static void add_number(struct expo *e, double value)
{
	if (isinf(value))
		expo_add(e, "%cInf\n", value > 0 ? '+' : '-');
	else
		expo_add(e, "%.15g\n", value);
}

void expo_count(struct expo *e, const char *labels, uint64_t value)
{
	begin_sample(e, "", labels);
	expo_add(e, "%llu\n", (unsigned long long)value);
}

void expo_value(struct expo *e, const char *labels, double value)
{
	begin_sample(e, "", labels);
	add_number(e, value);
}

void expo_histogram(struct expo *e, const double *bound, const uint64_t *bucket, unsigned n,
		    double sum, uint64_t total)
{
	uint64_t below = 0;
	char labels[48];

	for (unsigned i = 0; i < n; i++) {
		below += bucket[i];
		(void)snprintf(labels, sizeof(labels), "le=\"%g\"", bound[i]);
		begin_sample(e, "_bucket", labels);
		expo_add(e, "%llu\n", (unsigned long long)below);
	}
	begin_sample(e, "_bucket", "le=\"+Inf\"");
	expo_add(e, "%llu\n", (unsigned long long)total);
	begin_sample(e, "_sum", NULL);
	add_number(e, sum);
	begin_sample(e, "_count", NULL);
	expo_add(e, "%llu\n", (unsigned long long)total);
}

void expo_label(char *labels, size_t bytes, const char *key, const char *value)
{
	size_t at = strlen(labels);
	int n = snprintf(labels + at, bytes - at, "%s%s=\"", at ? "," : "", key);

	/* A key without room for its quotes and a value of one byte is left out. */
	if (n < 0 || at + (size_t)n + 4 > bytes) {
		labels[at] = '\0';
		return;
	}
	at += (size_t)n;
	for (; *value && at + 4 <= bytes; value++) {
		char c = *value;

		if (c == '\\' || c == '"')
			labels[at++] = '\\';
		labels[at++] = c < ' ' || c > '~' ? '?' : c;
	}
	labels[at++] = '"';
	labels[at] = '\0';
}
