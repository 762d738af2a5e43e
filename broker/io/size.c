/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Sizes; see size.h.
 */

#include "broker/io/size.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const char size_units[] = "KMGTP";

int size_parse(const char *text, uint64_t percent_of, uint64_t *ret_bytes)
{
	double value, scale = 1;
	char *end;

	if (!isdigit((unsigned char)text[0]))
		return -EINVAL;
	value = strtod(text, &end);
	if (percent_of && strcmp(end, "%") == 0) {
		if (value > 100)
			return -ERANGE;
		*ret_bytes = (uint64_t)(value / 100 * (double)percent_of);
		return 0;
	}
	if (*end) {
		const char *unit = strchr(size_units, toupper((unsigned char)*end));

		if (unit) {
			for (const char *u = size_units; u <= unit; u++)
				scale *= 1024;
			end++;
		}
		if (*end && strcasecmp(end, "B") != 0 && (!unit || strcasecmp(end, "iB") != 0))
			return -EINVAL;
	}
	value *= scale;
	if (!(value < 9.2e18))
		return -ERANGE;
	*ret_bytes = (uint64_t)value;
	return 0;
}
