/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Values for people: durations, ratios, counts, CSV, and how alike two words are. Pure functions.
 * Sizes are broker/io/size.h's, which the daemon's command line uses too.
 */

#include <stdio.h>

struct format_text {
	char text[32];
};

struct format_text format_seconds(double seconds); /* "3d 02:11" "1:02:03" "4m05s" "2.5s" "1.9ms" */
struct format_text format_ratio(double ratio);     /* 0.784 -> "78.4%" */
struct format_text format_count(double count);     /* no exponent, no fraction unless small */

/* One field of a CSV line, quoted if it has to be (RFC 4180). */
void format_csv(FILE *to, const char *field);
