/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Values for people: sizes and durations, in and out. Pure functions.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct format_text {
	char text[32];
};

/*
 * "4096", "512M", "1.5G", "2GiB", "30%": bytes, units of 1024. A percentage is of whole_bytes, and
 * refused when that is 0. False: not a size, or more than 64 bits hold.
 */
bool format_parse_size(const char *text, uint64_t whole_bytes, uint64_t *ret_bytes);

struct format_text format_size(double bytes); /* "61.2G" */
struct format_text
format_seconds(double seconds);                /* "3d 02:11", "1:02:03", "4m05s", "2.5s", "1.9ms" */
struct format_text format_ratio(double ratio); /* 0.784 -> "78.4%" */
struct format_text format_count(double count); /* no exponent, no fraction unless small */

/* One field of a CSV line, quoted if it has to be (RFC 4180). */
void format_csv(FILE *to, const char *field);

/* How many letters differ, for suggestions after a typo. Words of at most 63 letters. */
unsigned format_distance(const char *a, const char *b);
