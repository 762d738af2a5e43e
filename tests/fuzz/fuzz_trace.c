/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Any bytes as a trace file: the reader refuses with a reason, or returns a trace that holds what
 * it promises (ids within their table, each id once a request) and that reads back the same when it
 * is written out again.
 */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/kvb-replay/trace.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

#define MUST(cond)                                                                                 \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

static int compare_ids(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static void check_request(const struct trace *t, const struct trace_request *r)
{
	uint64_t *sorted;

	MUST(r->blocks <= t->blocks_max && r->blocks <= TRACE_IDS_MAX);
	MUST(r->first <= t->ids && r->blocks <= t->ids - r->first);
	MUST(r->at_ms >= 0);
	if (r->blocks == 0)
		return;
	sorted = malloc(r->blocks * sizeof(*sorted));
	MUST(sorted);
	memcpy(sorted, t->id + r->first, r->blocks * sizeof(*sorted));
	qsort(sorted, r->blocks, sizeof(*sorted), compare_ids);
	for (uint32_t i = 1; i < r->blocks; i++)
		MUST(sorted[i] != sorted[i - 1]);
	free(sorted);
}

static void check_again(const struct trace *t)
{
	struct trace again = { 0 };
	char why[TRACE_WHY_BYTES];
	char *text = NULL;
	size_t bytes = 0;
	FILE *file = open_memstream(&text, &bytes);

	MUST(file);
	for (size_t i = 0; i < t->requests; i++) {
		const struct trace_request *r = &t->request[i];

		(void)fprintf(file, "{\"timestamp\":%.17g,\"hash_ids\":[", r->at_ms);
		for (uint32_t k = 0; k < r->blocks; k++)
			(void)fprintf(file, "%s%" PRIu64, k ? "," : "", t->id[r->first + k]);
		(void)fputs("]}\r\n", file);
	}
	(void)fclose(file);
	file = fmemopen(text, bytes, "r");
	MUST(file);
	MUST(trace_read(&again, file, "again", why) == 0);
	MUST(again.requests == t->requests && again.ids == t->ids);
	MUST(again.ids == 0 || memcmp(again.id, t->id, t->ids * sizeof(*t->id)) == 0);
	for (size_t i = 0; i < t->requests; i++) {
		MUST(again.request[i].blocks == t->request[i].blocks);
		MUST(again.request[i].at_ms == t->request[i].at_ms);
	}
	(void)fclose(file);
	free(text);
	trace_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	struct trace t = { 0 };
	char why[TRACE_WHY_BYTES] = "";
	FILE *file;
	int r;

	if (bytes == 0)
		return 0;
	file = fmemopen((void *)(uintptr_t)data, bytes, "r");
	MUST(file);
	r = trace_read(&t, file, "input", why);
	(void)fclose(file);
	MUST(r == 0 || (r < 0 && strncmp(why, "input:", 6) == 0));
	for (size_t i = 0; i < t.requests; i++)
		check_request(&t, &t.request[i]);
	if (r == 0 && t.requests > 0)
		check_again(&t);
	trace_free(&t);
	return 0;
}
