/* SPDX-License-Identifier: Apache-2.0 */

/*
 * prefix top: the resident pages with the most hits, the most clients, or the longest idle time.
 *
 *   [NS] [--by hits|clients|idle] [--count N]
 *
 * One walk over the page records with a heap of the N best. Pages the operator has no right to see
 * are passed over, and copies of pages that are in the tier above too. Records may have changed
 * when the walk ends: the answer shows what they hold then, sorted by what was seen.
 */

#include <stdlib.h>
#include <string.h>

#include "broker/admin/commands.h"

enum top_by { TOP_HITS, TOP_CLIENTS, TOP_IDLE, TOP_N };
static const char *const top_name[TOP_N] = { "hits", "clients", "idle" };

static uint64_t top_score(const struct core *c, const struct core_page *p, int by)
{
	if (by == TOP_HITS)
		return p->hits;
	if (by == TOP_CLIENTS)
		return p->leases;
	return p->leases || p->used_s > c->now_s ? 0 : c->now_s - p->used_s;
}

static void top_swap(struct prefix_top *t, unsigned a, unsigned b)
{
	uint32_t page = t->page[a];
	uint64_t score = t->score[a];

	t->page[a] = t->page[b];
	t->score[a] = t->score[b];
	t->page[b] = page;
	t->score[b] = score;
}

static void top_sink(struct prefix_top *t, unsigned i, unsigned n)
{
	for (;;) {
		unsigned low = i, child = 2 * i + 1;

		if (child < n && t->score[child] < t->score[low])
			low = child;
		if (child + 1 < n && t->score[child + 1] < t->score[low])
			low = child + 1;
		if (low == i)
			return;
		top_swap(t, i, low);
		i = low;
	}
}

static void top_rise(struct prefix_top *t, unsigned i)
{
	while (i && t->score[i] < t->score[(i - 1) / 2]) {
		top_swap(t, i, (i - 1) / 2);
		i = (i - 1) / 2;
	}
}

static void top_visit(struct admin_conn *conn, uint32_t page)
{
	struct prefix_top *t = &conn->walk.top;
	const struct core_page *p = &conn->core->pages[page];
	uint64_t score;

	if (p->state != CORE_PAGE_SEALED || !(p->flags & CORE_PAGE_INDEXED) ||
	    p->flags & CORE_PAGE_ABOVE || (t->ns >= 0 && p->ns != t->ns) ||
	    p->epoch != conn->core->namespaces[p->ns].epoch ||
	    !command_may_tenant(conn, conn->core->namespaces[p->ns].tenant))
		return;
	score = top_score(conn->core, p, t->by);
	if (t->got < t->want) {
		t->page[t->got] = page;
		t->score[t->got] = score;
		top_rise(t, t->got++);
	} else if (score > t->score[0]) {
		t->page[0] = page;
		t->score[0] = score;
		top_sink(t, 0, t->got);
	}
}

static void top_finish(struct admin_conn *conn)
{
	struct prefix_top *t = &conn->walk.top;
	cJSON *answer = cJSON_CreateObject();
	cJSON *pages = cJSON_AddArrayToObject(answer, "pages");

	/* Lowest first to the back: what remains is in falling order. */
	for (unsigned n = t->got; n > 1; n--) {
		top_swap(t, 0, n - 1);
		top_sink(t, 0, n - 1);
	}
	for (unsigned i = 0; i < t->got; i++) {
		const struct core_page *p = &conn->core->pages[t->page[i]];

		if (p->state == CORE_PAGE_SEALED &&
		    command_may_tenant(conn, conn->core->namespaces[p->ns].tenant))
			cJSON_AddItemToArray(pages, prefix_page_json(conn, t->page[i]));
	}
	command_answer(conn, ADMIN_EXIT_OK, answer);
}

/* False: has answered. */
static bool top_option(struct admin_conn *conn, const char *name, const char *value)
{
	struct prefix_top *t = &conn->walk.top;
	uint64_t n;

	if (strcmp(name, "--count") == 0 && command_parse_number(value, &n) && n >= 1 &&
	    n <= ADMIN_TOP_MAX) {
		t->want = (unsigned)n;
		return true;
	}
	if (strcmp(name, "--by") == 0) {
		for (int by = 0; by < TOP_N; by++) {
			if (strcmp(value, top_name[by]) == 0) {
				t->by = by;
				return true;
			}
		}
	}
	command_fail(conn, ADMIN_EXIT_USAGE, name, "--by hits|clients|idle, --count 1 to 500",
		     "'%s' is no value of it", value);
	return false;
}

void command_prefix_top(struct admin_conn *conn)
{
	struct prefix_top *t = &conn->walk.top;

	*t = (struct prefix_top){ .want = 20, .ns = -1, .by = TOP_HITS };
	for (unsigned i = 0; i < conn->argc; i++) {
		if (conn->argv[i][0] == '-') {
			const char *name = conn->argv[i];

			if (!top_option(conn, name, i + 1 < conn->argc ? conn->argv[++i] : ""))
				return;
			continue;
		}
		t->ns = command_find_ns(conn, conn->argv[i]);
		if (t->ns < 0 ||
		    !command_need_tenant(conn, "prefix top", conn->core->namespaces[t->ns].tenant))
			return;
	}
	command_walk(conn, top_visit, top_finish);
}
