/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Values for people: see format.h.
 */

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "tools/broker-ctl/format.h"

struct format_text format_seconds(double seconds)
{
	struct format_text ret;
	uint64_t s = seconds > 0 ? (uint64_t)seconds : 0;
	unsigned days = (unsigned)(s / 86400), hours = (unsigned)(s / 3600 % 24);
	unsigned minutes = (unsigned)(s / 60 % 60);

	if (days)
		(void)snprintf(ret.text, sizeof(ret.text), "%ud %02u:%02u", days, hours, minutes);
	else if (hours)
		(void)snprintf(ret.text, sizeof(ret.text), "%u:%02u:%02u", hours, minutes,
			       (unsigned)(s % 60));
	else if (minutes)
		(void)snprintf(ret.text, sizeof(ret.text), "%um%02us", minutes, (unsigned)(s % 60));
	else if (seconds >= 1 || seconds <= 0)
		(void)snprintf(ret.text, sizeof(ret.text), "%.1fs", seconds > 0 ? seconds : 0);
	else if (seconds >= 0.001)
		(void)snprintf(ret.text, sizeof(ret.text), "%.1fms", seconds * 1e3);
	else
		(void)snprintf(ret.text, sizeof(ret.text), "%.1fus", seconds * 1e6);
	return ret;
}

struct format_text format_ratio(double ratio)
{
	struct format_text ret;

	(void)snprintf(ret.text, sizeof(ret.text), "%.1f%%", ratio * 100);
	return ret;
}

struct format_text format_count(double count)
{
	struct format_text ret;

	if (count == floor(count) || fabs(count) >= 100)
		(void)snprintf(ret.text, sizeof(ret.text), "%.0f", count);
	else
		(void)snprintf(ret.text, sizeof(ret.text), "%.1f", count);
	return ret;
}

void format_csv(FILE *to, const char *field)
{
	if (!strpbrk(field, ",\"\r\n")) {
		(void)fputs(field, to);
		return;
	}
	(void)fputc('"', to);
	for (; *field; field++) {
		if (*field == '"')
			(void)fputc('"', to);
		(void)fputc(*field, to);
	}
	(void)fputc('"', to);
}
