/* SPDX-License-Identifier: Apache-2.0 */

/*
 * tier resize, detach, flush, check.
 *
 * The daemon answers when it is over, which may take as long as it takes to read a drive; so there
 * is no limit but the one of --timeout. Who is interrupted, or did not wait long enough, has begun
 * it nevertheless.
 */

#include <stdlib.h>

#include "broker/core/core.h"
#include "broker/io/size.h"
#include "tools/broker-ctl/ctl.h"

#define WAIT_S (30 * 86400.0)

static struct core_size_text size_of(const cJSON *answer, const char *key)
{
	return core_size((uint64_t)answer_number(answer, key));
}

static void wait_for_it(struct ctl *ctl)
{
	if (!ctl_has(ctl, OPT_TIMEOUT))
		ctl->timeout_s = WAIT_S;
}

/* ---- resize, detach ------------------------------------------------------------------------ */

static void say_pages(FILE *to, const cJSON *a, bool plan)
{
	if (plan && answer_number(a, "pages") > 0)
		(void)fprintf(to,
			      "; of %.0f pages there, those that were read since they were written "
			      "are kept as far as there is room, the others are lost",
			      answer_number(a, "pages"));
	else if (!plan && answer_number(a, "segments") > 0)
		(void)fprintf(to, "; meanwhile the store lost %.0f pages",
			      answer_number(a, "evicted_pages"));
	if (!plan && !answer_truth(a, "done"))
		(void)fprintf(to, "; it was not finished: %s", answer_string(a, "why"));
}

static void say_resize(FILE *to, const cJSON *a, bool plan)
{
	(void)fprintf(to, "%s %s from %s to %s", plan ? "would resize" : "resized",
		      answer_string(a, "part"), size_of(a, "from_bytes").text,
		      size_of(a, plan ? "to_bytes" : "bytes").text);
	say_pages(to, a, plan);
}

static void say_detach(FILE *to, const cJSON *a, bool plan)
{
	(void)fprintf(to, "%s %s of %s", plan ? "would empty and leave" : "left",
		      answer_string(a, "part"), size_of(a, "from_bytes").text);
	say_pages(to, a, plan);
}

int ctl_tier_resize(struct ctl *ctl)
{
	char text[24];
	uint64_t bytes;

	if (size_parse(ctl->args[1], 0, &bytes) < 0 || bytes == 0)
		return ctl_fail(ctl, ADMIN_EXIT_USAGE, ctl->args[1],
				"tier detach empties a part and leaves it",
				"it is no size as 512M, 20G");
	(void)snprintf(text, sizeof(text), "%llu", (unsigned long long)bytes);
	ctl->args[1] = text;
	wait_for_it(ctl);
	return ctl_change(ctl, say_resize);
}

int ctl_tier_detach(struct ctl *ctl)
{
	wait_for_it(ctl);
	return ctl_change(ctl, say_detach);
}

/* ---- flush, check -------------------------------------------------------------------------- */

static void say_flush(FILE *to, const cJSON *a, bool plan)
{
	(void)fprintf(to, "%s %.0f parts of the store", plan ? "would flush" : "flushed",
		      answer_number(a, "parts"));
	if (!plan && !answer_truth(a, "done"))
		(void)fprintf(to, ", but it failed: what was written last may be lost (see the "
				  "daemon's log)");
}

int ctl_tier_flush(struct ctl *ctl)
{
	wait_for_it(ctl);
	return ctl_change(ctl, say_flush);
}

static void say_check(FILE *to, const cJSON *a, bool plan)
{
	(void)fprintf(to, "%s %.0f pages (%s%s)", plan ? "would check" : "checked: as written are",
		      answer_number(a, "pages"), plan ? "in segments of " : "",
		      size_of(a, "bytes").text);
	if (plan)
		return;
	(void)fprintf(to, ", not as written %.0f, unreadable %.0f", answer_number(a, "bad"),
		      answer_number(a, "unreadable"));
	if (answer_number(a, "unknown") > 0)
		(void)fprintf(to, "; %.0f could not be looked at: their table cannot be read",
			      answer_number(a, "unknown"));
	if (!answer_truth(a, "done"))
		(void)fprintf(to, "; it was not finished: the daemon stops");
}

int ctl_tier_check(struct ctl *ctl)
{
	wait_for_it(ctl);
	return ctl_change(ctl, say_check);
}
