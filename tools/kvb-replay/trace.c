/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Reading traces: see trace.h.
 *
 * A parser of its own, because a trace line is a few kilobytes of integers: a tree of allocated
 * numbers costs thirty times what the integers do. It is a plain recursive descent over one line
 * that ends in a NUL, which no token accepts, so looking at the next byte is always in bounds.
 */

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "tools/kvb-replay/key.h"
#include "tools/kvb-replay/trace.h"

#define DEPTH_MAX 32 /* nesting of fields we pass over */
#define AT_MS_MAX 1e15

struct trace_seen {
	uint64_t id;
	uint64_t request; /* number of the request that used this entry last, from 1 */
};

struct cursor {
	const char *p;
	const char *end; /* *end == 0 */
	int error;
	char why[160];
};

__attribute__((format(printf, 2, 3))) static bool fail(struct cursor *c, const char *format, ...)
{
	va_list ap;

	if (!c->error) {
		c->error = -EINVAL;
		va_start(ap, format);
		(void)vsnprintf(c->why, sizeof(c->why), format, ap);
		va_end(ap);
	}
	return false;
}

static bool fail_limit(struct cursor *c, int error, const char *why)
{
	(void)fail(c, "%s", why);
	c->error = error;
	return false;
}

static void skip_space(struct cursor *c)
{
	while (*c->p == ' ' || *c->p == '\t' || *c->p == '\r')
		c->p++;
}

/* What is at the cursor, for people. */
static const char *found(const struct cursor *c, char buf[16])
{
	unsigned char b = (unsigned char)*c->p;

	if (c->p == c->end)
		return "the end of the line";
	(void)snprintf(buf, 16, b > 0x20 && b < 0x7f ? "'%c'" : "byte 0x%02x", b);
	return buf;
}

static bool expect(struct cursor *c, char want, const char *where)
{
	char buf[16];

	skip_space(c);
	if (*c->p != want)
		return fail(c, "expected '%c' %s, found %s", want, where, found(c, buf));
	c->p++;
	return true;
}

static bool is_digit(char b)
{
	return b >= '0' && b <= '9';
}

/* A string's bytes between the quotes, escapes checked and left as they are. */
static bool take_string(struct cursor *c, const char **ret, size_t *ret_bytes)
{
	const char *first;

	if (!expect(c, '"', "to begin a string"))
		return false;
	first = c->p;
	for (; *c->p != '"'; c->p++) {
		if ((unsigned char)*c->p < 0x20) {
			return fail(c, c->p == c->end ? "the line ends inside a string"
						      : "control character in a string");
		}
		if (*c->p != '\\')
			continue;
		c->p++;
		if (*c->p == 'u') {
			if (strspn(c->p + 1, "0123456789abcdefABCDEF") < 4)
				return fail(c, "\\u without four hex digits");
			c->p += 4;
		} else if (!*c->p || !strchr("\"\\/bfnrt", *c->p)) {
			return fail(c, "unknown escape in a string");
		}
	}
	*ret = first;
	*ret_bytes = (size_t)(c->p - first);
	c->p++;
	return true;
}

/* A JSON number, exactly: the sign, digits without leading zeros, fraction, exponent. */
static bool take_number(struct cursor *c, double *ret)
{
	const char *first = c->p;
	char buf[16];

	if (*c->p == '-')
		c->p++;
	if (!is_digit(*c->p))
		return fail(c, "expected a number, found %s", found(c, buf));
	if (*c->p == '0' && is_digit(c->p[1]))
		return fail(c, "number with a leading zero");
	while (is_digit(*c->p))
		c->p++;
	if (*c->p == '.') {
		c->p++;
		if (!is_digit(*c->p))
			return fail(c, "number that ends in '.'");
		while (is_digit(*c->p))
			c->p++;
	}
	if (*c->p == 'e' || *c->p == 'E') {
		c->p += c->p[1] == '+' || c->p[1] == '-' ? 2 : 1;
		if (!is_digit(*c->p))
			return fail(c, "number without an exponent after 'e'");
		while (is_digit(*c->p))
			c->p++;
	}
	*ret = strtod(first, NULL);
	return true;
}

static bool take_word(struct cursor *c, const char *word)
{
	size_t n = strlen(word);

	if (strncmp(c->p, word, n) != 0)
		return fail(c, "neither a value nor true, false or null");
	c->p += n;
	return true;
}

static bool skip_value(struct cursor *c, int depth);

static bool skip_members(struct cursor *c, int depth, bool object)
{
	const char *name;
	size_t bytes;
	char close = object ? '}' : ']';

	if (depth >= DEPTH_MAX)
		return fail(c, "nested more than %d deep", DEPTH_MAX);
	c->p++;
	skip_space(c);
	if (*c->p == close) {
		c->p++;
		return true;
	}
	for (;;) {
		if (object && (!take_string(c, &name, &bytes) || !expect(c, ':', "after a name")))
			return false;
		if (!skip_value(c, depth + 1))
			return false;
		skip_space(c);
		if (*c->p != ',')
			return expect(c, close, object ? "to end an object" : "to end a list");
		c->p++;
	}
}

static bool skip_value(struct cursor *c, int depth)
{
	const char *s;
	size_t bytes;
	double number;

	skip_space(c);
	switch (*c->p) {
	case '{':
		return skip_members(c, depth, /* object = */ true);
	case '[':
		return skip_members(c, depth, /* object = */ false);
	case '"':
		return take_string(c, &s, &bytes);
	case 't':
		return take_word(c, "true");
	case 'f':
		return take_word(c, "false");
	case 'n':
		return take_word(c, "null");
	default:
		return take_number(c, &number);
	}
}

/* ---- ids ----------------------------------------------------------------------------------- */

static void *grow(void *old, size_t *room, size_t need, size_t size)
{
	size_t n = *room ? *room : 1024;
	void *mem;

	while (n < need)
		n *= 2;
	mem = reallocarray(old, n, size);
	if (mem)
		*room = n;
	return mem;
}

/* The ids of one request, in a table twice as large; entries of other requests count as empty. */
static bool seen_grow(struct trace *t, const struct trace_request *r)
{
	size_t room = t->seen_room ? t->seen_room * 2 : 1024;
	struct trace_seen *table = calloc(room, sizeof(*table));

	if (!table)
		return false;
	for (size_t i = 0; i < r->blocks; i++) {
		uint64_t id = t->id[r->first + i];
		size_t at = key_mix(id) & (room - 1);

		while (table[at].request)
			at = (at + 1) & (room - 1);
		table[at] = (struct trace_seen){ .id = id, .request = t->requests + 1 };
	}
	free(t->seen);
	t->seen = table;
	t->seen_room = room;
	return true;
}

/* Appends id to the request being read unless it has it. */
static bool add_id(struct cursor *c, struct trace *t, struct trace_request *r, uint64_t id)
{
	uint64_t request = t->requests + 1;
	size_t at;

	if (((size_t)r->blocks + 1) * 2 > t->seen_room && !seen_grow(t, r))
		return fail_limit(c, -ENOMEM, "out of memory");
	at = key_mix(id) & (t->seen_room - 1);
	while (t->seen[at].request == request) {
		if (t->seen[at].id == id)
			return true;
		at = (at + 1) & (t->seen_room - 1);
	}
	if (t->ids == t->ids_room) {
		void *mem = grow(t->id, &t->ids_room, t->ids + 1, sizeof(*t->id));

		if (!mem)
			return fail_limit(c, -ENOMEM, "out of memory");
		t->id = mem;
	}
	t->seen[at] = (struct trace_seen){ .id = id, .request = request };
	t->id[t->ids++] = id;
	r->blocks++;
	return true;
}

static bool take_id(struct cursor *c, uint64_t *ret)
{
	uint64_t id = 0;
	char buf[16];

	skip_space(c);
	if (*c->p == '-')
		return fail(c, "negative block id");
	if (!is_digit(*c->p))
		return fail(c, "expected a block id, found %s", found(c, buf));
	if (*c->p == '0' && is_digit(c->p[1]))
		return fail(c, "block id with a leading zero");
	for (; is_digit(*c->p); c->p++)
		if (__builtin_mul_overflow(id, 10u, &id) ||
		    __builtin_add_overflow(id, (uint64_t)(*c->p - '0'), &id))
			return fail(c, "block id does not fit in 64 bits");
	if (*c->p == '.' || *c->p == 'e' || *c->p == 'E')
		return fail(c, "block id is not an integer");
	*ret = id;
	return true;
}

static bool take_ids(struct cursor *c, struct trace *t, struct trace_request *r)
{
	uint32_t n = 0;
	uint64_t id = 0;

	if (!expect(c, '[', "to begin hash_ids"))
		return false;
	skip_space(c);
	if (*c->p == ']') {
		c->p++;
		return true;
	}
	for (;;) {
		if (n++ == TRACE_IDS_MAX)
			return fail_limit(c, -E2BIG, "more than 65536 block ids in one request");
		if (!take_id(c, &id) || !add_id(c, t, r, id))
			return false;
		skip_space(c);
		if (*c->p != ',')
			return expect(c, ']', "to end hash_ids");
		c->p++;
	}
}

/* ---- lines --------------------------------------------------------------------------------- */

static bool take_timestamp(struct cursor *c, double *ret)
{
	double at_ms;

	skip_space(c);
	if (!take_number(c, &at_ms))
		return false;
	if (!(at_ms >= 0 && at_ms <= AT_MS_MAX))
		return fail(c, "timestamp is not between 0 and 1e15 milliseconds");
	*ret = at_ms;
	return true;
}

static bool is_named(const char *name, size_t bytes, const char *want)
{
	return bytes == strlen(want) && memcmp(name, want, bytes) == 0;
}

static bool take_request(struct cursor *c, struct trace *t, struct trace_request *r)
{
	bool has_ids = false;
	const char *name;
	size_t bytes;
	bool ok;

	if (!expect(c, '{', "to begin a request"))
		return false;
	skip_space(c);
	if (*c->p == '}')
		return fail(c, "request without hash_ids");
	for (;;) {
		if (!take_string(c, &name, &bytes) || !expect(c, ':', "after a name"))
			return false;
		if (is_named(name, bytes, "hash_ids")) {
			if (has_ids)
				return fail(c, "hash_ids given twice");
			has_ids = true;
			ok = take_ids(c, t, r);
		} else if (is_named(name, bytes, "timestamp")) {
			ok = take_timestamp(c, &r->at_ms);
		} else {
			ok = skip_value(c, 0);
		}
		if (!ok)
			return false;
		skip_space(c);
		if (*c->p != ',')
			break;
		c->p++;
	}
	if (!expect(c, '}', "to end the request"))
		return false;
	skip_space(c);
	if (c->p != c->end)
		return fail(c, "more text after the request");
	return has_ids || fail(c, "request without hash_ids");
}

struct line {
	char *buf; /* buf[bytes] is 0, where the newline was, once a line was not empty */
	size_t bytes;
	size_t room;
};

/* One line that is not empty. A line that fails leaves the trace as it was. */
static bool take_line(const struct line *l, struct trace *t, struct cursor *c)
{
	struct trace_request r = { .first = t->ids };

	*c = (struct cursor){ .p = l->buf, .end = l->buf + l->bytes };
	skip_space(c);
	if (c->p == c->end)
		return true;
	if (t->requests)
		r.at_ms = t->request[t->requests - 1].at_ms;
	if (t->requests == t->requests_room) {
		void *mem =
			grow(t->request, &t->requests_room, t->requests + 1, sizeof(*t->request));

		if (!mem)
			return fail_limit(c, -ENOMEM, "out of memory");
		t->request = mem;
	}
	if (!take_request(c, t, &r)) {
		t->ids = r.first;
		return false;
	}
	t->request[t->requests++] = r;
	if (r.blocks > t->blocks_max)
		t->blocks_max = r.blocks;
	return true;
}

/* 1; 0 at the end of the file; what reading said, -ENOMEM, or -E2BIG once a line is too long. */
static int next_line(FILE *file, struct line *l)
{
	size_t n = 0;
	int b;

	errno = 0;
	while ((b = getc_unlocked(file)) != EOF && b != '\n') {
		if (n == TRACE_LINE_BYTES_MAX)
			return -E2BIG;
		if (n + 2 > l->room) {
			char *mem = grow(l->buf, &l->room, n + 2, 1);

			if (!mem)
				return -ENOMEM;
			l->buf = mem;
		}
		l->buf[n++] = (char)b;
	}
	if (b == EOF && ferror(file))
		return errno ? -errno : -EIO;
	if (n > 0)
		l->buf[n] = 0;
	l->bytes = n;
	return b != EOF || n > 0;
}

int trace_read(struct trace *t, FILE *file, const char *name, char why[TRACE_WHY_BYTES])
{
	struct line l = { 0 };
	struct cursor c;
	uint64_t number = 0;
	int r;

	while ((r = next_line(file, &l)) > 0) {
		number++;
		if (l.bytes > 0 && !take_line(&l, t, &c)) {
			r = c.error;
			(void)snprintf(why, TRACE_WHY_BYTES, "%s:%" PRIu64 ": %s (column %td)",
				       name, number, c.why, c.p - l.buf + 1);
			free(l.buf);
			return r;
		}
	}
	if (r < 0) {
		(void)snprintf(why, TRACE_WHY_BYTES, "%s:%" PRIu64 ": %s", name, number + 1,
			       r == -E2BIG ? "line longer than 16 MiB" : strerror(-r));
	}
	free(l.buf);
	return r;
}

int trace_load(const char *path, struct trace *ret, char why[TRACE_WHY_BYTES])
{
	struct trace t = { 0 };
	bool standard = strcmp(path, "-") == 0;
	FILE *file = standard ? stdin : fopen(path, "re");
	int r;

	if (!file) {
		r = -errno;
		(void)snprintf(why, TRACE_WHY_BYTES, "%s: %s", path, strerror(-r));
		return r;
	}
	r = trace_read(&t, file, standard ? "standard input" : path, why);
	if (!standard)
		(void)fclose(file);
	if (r < 0) {
		trace_free(&t);
		return r;
	}
	*ret = t;
	return 0;
}

void trace_free(struct trace *t)
{
	free(t->request);
	free(t->id);
	free(t->seen);
	*t = (struct trace){ 0 };
}
