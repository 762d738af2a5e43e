/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Traces: who asked for which blocks, in which order.
 *
 * A trace is JSON lines, one request a line, in the format of the public Mooncake traces:
 *
 *   {"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1, 2]}
 *
 * An id stands for one block and all before it, so equal ids mean an equal prefix. Of a request we
 * keep the time (milliseconds, optional) and the ids, each id once, in order of first appearance;
 * every other field is checked to be JSON and passed over.
 *
 * A trace comes from anywhere: nothing in it is believed, and the first thing that is wrong ends
 * the reading with file, line, column and reason. Blank lines, CRLF and a missing last newline are
 * fine.
 *
 * The file is read line by line; what is kept is 8 bytes a block and 24 a request, so that live
 * clients share one copy over fork and the simulator measures the core, not a parser.
 */

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define TRACE_IDS_MAX 65536u             /* ids of one request */
#define TRACE_LINE_BYTES_MAX (16u << 20) /* of one line */
#define TRACE_WHY_BYTES 512u

struct trace_request {
	uint64_t first; /* index of its first id in trace.id */
	uint32_t blocks;
	double at_ms; /* since the trace's own zero; that of the request before when not given */
};

struct trace_seen;

/* All zeros is an empty trace. */
struct trace {
	struct trace_request *request;
	size_t requests;
	uint64_t *id;
	size_t ids;
	uint32_t blocks_max; /* of one request */
	/* private to the reader */
	size_t requests_room, ids_room;
	struct trace_seen *seen; /* ids of the request being read */
	size_t seen_room;
};

/* The blocks of a request; NULL when it has none: a trace of such requests only has no ids at all.
 */
static inline const uint64_t *trace_blocks(const struct trace *t, const struct trace_request *r)
{
	return r->blocks ? t->id + r->first : NULL;
}

/*
 * Reads a whole trace; path "-" is standard input. 0, or -EINVAL (malformed), -E2BIG (a limit
 * above), -ENOMEM or what opening or reading said, with FILE:LINE: WHY in why and *ret untouched.
 */
int trace_load(const char *path, struct trace *ret, char why[TRACE_WHY_BYTES]);

/* The same from an open stream; name is what errors call it. On an error t holds what came before.
 */
int trace_read(struct trace *t, FILE *file, const char *name, char why[TRACE_WHY_BYTES]);

void trace_free(struct trace *t);
