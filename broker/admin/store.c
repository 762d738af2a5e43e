/* SPDX-License-Identifier: Apache-2.0 */

/*
 * tier resize, detach, flush, check: what operators do with the store.
 *
 * Each is begun at once and answered when it is over; who does not wait that long loses the answer
 * and nothing else, and may ask again: the same size, and one waits for the same end. A part is
 * named by its path, as the daemon was given it.
 *
 * A dry run says how many pages lie where a part will end. Which of them are carried to other
 * segments is seen only when their turn comes, and whose they are is on the disk alone, so it is a
 * number, and the most it can be.
 */

#include <errno.h>
#include <string.h>

#include "broker/admin/commands.h"
#include "broker/core/core.h"
#include "broker/io/log.h"
#include "broker/io/store_jobs.h"
#include "broker/io/store_tier.h"

/* NULL: has answered. */
static struct store *need_store(struct admin_conn *conn, const char *what)
{
	struct store *store = store_tier_store(conn->session->server);

	if (!store)
		command_fail(conn, ADMIN_EXIT_NOT_FOUND, what,
			     "it is given one by kvbrokerd --store", "the daemon has no store");
	return store;
}

/* Its number; -1: has answered. */
static int find_part(struct admin_conn *conn, const struct store_stats *st, const char *path)
{
	for (uint32_t i = 0; i < st->parts; i++) {
		const struct store_part_stats *p = &st->part[i];

		if (strcmp(p->path, path) != 0 || p->left)
			continue;
		if (!p->failed)
			return (int)i;
		command_fail(conn, ADMIN_EXIT_FAILED, path,
			     "it is tried again when the daemon is started again",
			     "the part is off: %s", strerror(-p->failed));
		return -1;
	}
	command_fail(conn, ADMIN_EXIT_NOT_FOUND, path, "see broker-ctl tier list",
		     "the store has no part of that path");
	return -1;
}

static void fail_resize(struct admin_conn *conn, int error, const char *path,
			const struct store_resize_plan *plan, uint64_t bytes)
{
	if (error == -EINVAL)
		command_fail(conn, ADMIN_EXIT_USAGE, path, "tier detach empties it and leaves it",
			     "%s is too small: the least is %s", core_size(bytes).text,
			     core_size(plan->bytes_min).text);
	else if (error == -EBUSY && bytes == 0)
		command_fail(conn, ADMIN_EXIT_BUSY, path, "stop the daemon to do without a store",
			     "it is the last part of the store that works");
	else if (error == -EBUSY)
		command_fail(conn, ADMIN_EXIT_BUSY, path,
			     "see wanted_bytes in broker-ctl tier list",
			     "it is on its way to a smaller size, and gets there first");
	else
		command_fail(conn, ADMIN_EXIT_FAILED, path, "see df; a device has what it has",
			     "there is no room for %s: %s", core_size(bytes).text,
			     strerror(-error));
}

/* ---- resize, detach ------------------------------------------------------------------------ */

static bool resize_settled(struct admin_conn *conn)
{
	const struct store *store = store_tier_store(conn->session->server);
	struct store_stats st;
	const struct store_part_stats *p = &st.part[conn->store.part];
	cJSON *answer = conn->later;
	bool done;

	if (store_part_resizing(store, conn->store.part))
		return false;
	store_stats(store, &st);
	done = conn->store.bytes ? p->bytes == p->bytes_wanted : p->left;
	conn->later = NULL;
	cJSON_AddNumberToObject(answer, "bytes", (double)p->bytes);
	cJSON_AddNumberToObject(answer, "evicted_pages",
				(double)(st.evicted_pages - conn->store.evicted_pages));
	cJSON_AddBoolToObject(answer, "done", done && !p->failed);
	if (p->failed)
		cJSON_AddStringToObject(answer, "why", strerror(-p->failed));
	command_answer(conn,
		       !p->failed ? ADMIN_EXIT_OK
		       : done     ? ADMIN_EXIT_PARTIAL
				  : ADMIN_EXIT_FAILED,
		       answer);
	return true;
}

/* bytes 0: to leave it. */
static void resize(struct admin_conn *conn, const char *what, uint64_t bytes)
{
	struct store *store = need_store(conn, what);
	const char *path = conn->argv[0];
	struct store_resize_plan plan;
	struct store_stats st;
	cJSON *answer;
	int part, error;

	if (!store)
		return;
	store_stats(store, &st);
	part = find_part(conn, &st, path);
	if (part < 0)
		return;
	error = store_resize_plan(store, (uint32_t)part, bytes, &plan);
	if (error == 0 && !conn->dry_run)
		error = store_resize(store, (uint32_t)part, bytes);
	if (error) {
		fail_resize(conn, error, path, &plan, bytes);
		return;
	}
	answer = cJSON_CreateObject();
	cJSON_AddStringToObject(answer, "part", path);
	cJSON_AddNumberToObject(answer, "from_bytes", (double)st.part[part].bytes);
	cJSON_AddNumberToObject(answer, "to_bytes", (double)plan.bytes);
	cJSON_AddNumberToObject(answer, "segments", plan.segments);
	cJSON_AddNumberToObject(answer, "pages", (double)plan.pages);
	cJSON_AddBoolToObject(answer, "destroys", plan.pages > 0 || bytes == 0);
	cJSON_AddBoolToObject(answer, "dry_run", conn->dry_run);
	if (conn->dry_run) {
		command_answer(conn, ADMIN_EXIT_OK, answer);
		return;
	}
	log_info("store: part %s of %s %s%s, by uid %u", path, core_size(st.part[part].bytes).text,
		 bytes ? "becomes one of " : "is emptied and left",
		 bytes ? core_size(plan.bytes).text : "", conn->session->uid);
	conn->store = (struct store_wait){ .part = (uint32_t)part,
					   .bytes = bytes,
					   .evicted_pages = st.evicted_pages };
	conn->later = answer;
	conn->settled = resize_settled;
	(void)resize_settled(conn);
}

void command_tier_resize(struct admin_conn *conn)
{
	uint64_t bytes;

	if (!command_parse_number(conn->argv[1], &bytes) || bytes == 0)
		command_fail(conn, ADMIN_EXIT_USAGE, conn->argv[1], NULL,
			     "the daemon takes a number of bytes, not 0");
	else
		resize(conn, "tier resize", bytes);
}

void command_tier_detach(struct admin_conn *conn)
{
	resize(conn, "tier detach", 0);
}

/* ---- flush, check -------------------------------------------------------------------------- */

/* What both begin with: the store and its figures, and an answer. NULL: has answered. */
static struct store *begin(struct admin_conn *conn, const char *what, struct store_stats *ret_st,
			   cJSON **ret_answer)
{
	struct store *store = need_store(conn, what);

	if (!store)
		return NULL;
	store_stats(store, ret_st);
	*ret_answer = cJSON_CreateObject();
	cJSON_AddBoolToObject(*ret_answer, "dry_run", conn->dry_run);
	return store;
}

static bool flush_settled(struct admin_conn *conn)
{
	const struct store_jobs *jobs = store_tier_jobs(conn->session->server);
	int state = store_job_state(&jobs->flush, conn->store.number);
	cJSON *answer = conn->later;

	if (state == 0)
		return false;
	conn->later = NULL;
	cJSON_AddBoolToObject(answer, "done", state > 0);
	command_answer(conn, state > 0 ? ADMIN_EXIT_OK : ADMIN_EXIT_FAILED, answer);
	return true;
}

static unsigned parts_working(const struct store_stats *st)
{
	unsigned n = 0;

	for (uint32_t i = 0; i < st->parts; i++)
		n += !st->part[i].failed && !st->part[i].left;
	return n;
}

void command_tier_flush(struct admin_conn *conn)
{
	struct store_stats st;
	cJSON *answer;
	struct store *store = begin(conn, "tier flush", &st, &answer);

	if (!store)
		return;
	cJSON_AddNumberToObject(answer, "parts", parts_working(&st));
	if (conn->dry_run) {
		command_answer(conn, ADMIN_EXIT_OK, answer);
		return;
	}
	conn->store.number = store_jobs_flush(store_tier_jobs(conn->session->server), store);
	conn->later = answer;
	conn->settled = flush_settled;
}

static bool check_settled(struct admin_conn *conn)
{
	const struct store_jobs *jobs = store_tier_jobs(conn->session->server);
	const struct store_scrub_stats *seen = &jobs->checked;
	int state = store_job_state(&jobs->check, conn->store.number);
	const bool clean = state > 0 && !seen->bad && !seen->unreadable;
	cJSON *answer = conn->later;

	if (state == 0)
		return false;
	conn->later = NULL;
	cJSON_AddNumberToObject(answer, "pages", (double)seen->pages);
	cJSON_AddNumberToObject(answer, "bytes", (double)seen->bytes);
	cJSON_AddNumberToObject(answer, "bad", (double)seen->bad);
	cJSON_AddNumberToObject(answer, "unreadable", (double)seen->unreadable);
	cJSON_AddNumberToObject(answer, "unknown", (double)seen->unknown);
	cJSON_AddNumberToObject(answer, "segments", seen->segments_done);
	cJSON_AddBoolToObject(answer, "ok", clean);
	cJSON_AddBoolToObject(answer, "done", state > 0);
	if (!clean || seen->unknown)
		log_error("store: the check found %llu pages that are not what was written, %llu "
			  "that cannot be read, %llu whose table cannot be",
			  (unsigned long long)seen->bad, (unsigned long long)seen->unreadable,
			  (unsigned long long)seen->unknown);
	command_answer(conn,
		       !clean          ? ADMIN_EXIT_FAILED
		       : seen->unknown ? ADMIN_EXIT_PARTIAL
				       : ADMIN_EXIT_OK,
		       answer);
	return true;
}

void command_tier_check(struct admin_conn *conn)
{
	struct store_stats st;
	cJSON *answer;
	struct store *store = begin(conn, "tier check", &st, &answer);

	if (!store)
		return;
	if (conn->dry_run) {
		cJSON_AddNumberToObject(answer, "pages", (double)st.pages);
		cJSON_AddNumberToObject(answer, "bytes", (double)st.bytes_used);
		command_answer(conn, ADMIN_EXIT_OK, answer);
		return;
	}
	conn->store.number = store_jobs_check(store_tier_jobs(conn->session->server), store);
	conn->later = answer;
	conn->settled = check_settled;
}
