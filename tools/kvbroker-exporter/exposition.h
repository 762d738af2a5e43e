/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The text format that Prometheus scrapes (exposition format 0.0.4), written into memory.
 *
 *   expo_init() -> [expo_family() -> expo_...()...]... -> look at text, unless failed ->
 * expo_free()
 *
 * The rules that a scrape stands or falls with are kept here: a family's HELP and TYPE come before
 * its first sample, and not at all where it has none; values of labels are printable and escaped,
 * whoever chose them; numbers are exact. That no sample comes twice is up to who
 * makes the labels.
 *
 * Running out of memory is remembered and not reported by each call: failed says it at the end.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum expo_type { EXPO_GAUGE, EXPO_COUNTER, EXPO_HISTOGRAM };

struct expo {
	char *text; /* terminated; NULL while nothing was written */
	size_t bytes, room;
	bool failed; /* out of memory: what is there is not whole */
	const char *name, *help;
	enum expo_type type;
	bool headed;
};

void expo_init(struct expo *e);
void expo_free(struct expo *e);

/* Text as it is, as printf() makes it. */
void expo_add(struct expo *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* What the samples that follow are of. Both texts stay the caller's. */
void expo_family(struct expo *e, enum expo_type type, const char *name, const char *help);
/* labels: as expo_label() makes them, "" or NULL: none. */
void expo_count(struct expo *e, const char *labels, uint64_t value);
void expo_value(struct expo *e, const char *labels, double value); /* INFINITY is fine */
/* bucket: how many, each without the smaller ones; bound: in seconds. total counts all. */
void expo_histogram(struct expo *e, const double *bound, const uint64_t *bucket, unsigned n,
		    double sum, uint64_t total);

/* Adds key="value" to a list of labels; cuts a value that is too long. */
void expo_label(char *labels, size_t bytes, const char *key, const char *value);
