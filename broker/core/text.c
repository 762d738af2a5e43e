/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The core's words for people: refusals with their arithmetic, broken relations of core_check().
 */

#include <stdarg.h>
#include <stdio.h>

#include "broker/core/internal.h"

struct core_size_text core_size(uint64_t bytes)
{
	static const char unit[] = "BKMGTPE";
	struct core_size_text ret;
	double value = (double)bytes;
	unsigned i = 0;

	while (value >= 1024 && unit[i + 1]) {
		value /= 1024;
		i++;
	}
	if (i)
		(void)snprintf(ret.text, sizeof(ret.text), "%.1f%c", value, unit[i]);
	else
		(void)snprintf(ret.text, sizeof(ret.text), "%uB", (unsigned)bytes);
	return ret;
}

int core_say(char *why, size_t why_bytes, int error, const char *fmt, ...)
{
	va_list ap;

	if (!why || !why_bytes)
		return error;
	va_start(ap, fmt);
	(void)vsnprintf(why, why_bytes, fmt, ap);
	va_end(ap);
	return error;
}
