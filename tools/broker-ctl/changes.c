/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What only the daemon can do: commands sent to it, plans and results in words.
 *
 * What destroys something is asked about: with --dry-run the plan is all there is; on a terminal
 * the plan comes first and then the question; anywhere else --yes is needed, because nobody is
 * there to ask.
 */

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/core/core.h"
#include "broker/io/size.h"
#include "tools/broker-ctl/ctl.h"

#define ARGV_MAX (CTL_ARGS_MAX + 8)

struct request {
	const char *argv[ARGV_MAX];
	unsigned argc;
};

double answer_number(const cJSON *answer, const char *key)
{
	const cJSON *value = cJSON_GetObjectItemCaseSensitive(answer, key);

	return cJSON_IsNumber(value) ? value->valuedouble : 0;
}

const char *answer_string(const cJSON *answer, const char *key)
{
	const char *value = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(answer, key));

	return value ? value : "?";
}

bool answer_truth(const cJSON *answer, const char *key)
{
	return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(answer, key));
}

/* The command's words, its arguments, and the options the daemon knows. */
static void request_make(const struct ctl *ctl, struct request *ret)
{
	static const enum ctl_option_id passed[] = { OPT_SPACE, OPT_SALT, OPT_BY, OPT_COUNT };
	static const char *const shown[] = { "--space", "--salt", "--by", "--count" };

	ret->argc = 0;
	for (unsigned i = 0; i < 2 && ctl->command->words[i]; i++)
		ret->argv[ret->argc++] = ctl->command->words[i];
	for (unsigned i = 0; i < ctl->nargs; i++)
		ret->argv[ret->argc++] = ctl->args[i];
	for (unsigned i = 0; i < sizeof(passed) / sizeof(passed[0]); i++) {
		if (!ctl_has(ctl, passed[i]))
			continue;
		ret->argv[ret->argc++] = shown[i];
		ret->argv[ret->argc++] = ctl->value[passed[i]];
	}
	if (ctl_has(ctl, OPT_FORCE))
		ret->argv[ret->argc++] = "--force";
}

static int request_send(struct ctl *ctl, const struct request *rq, bool dry_run, cJSON **ret,
			int *ret_code)
{
	return link_request(ctl, rq->argv, rq->argc, dry_run, ret, ret_code);
}

/* Prints the answer, in words or JSON. Returns the daemon's exit code. */
static int answer_print(struct ctl *ctl, cJSON *answer, int code, ctl_say_fn say)
{
	if (output_is_json(ctl)) {
		int r = output_json(ctl, answer);

		return r ? r : code;
	}
	say(stdout, answer, answer_truth(answer, "dry_run"));
	(void)printf("%s\n", answer_truth(answer, "dry_run") ? "  (dry run)" : "");
	cJSON_Delete(answer);
	return code;
}

static bool ask(void)
{
	char line[16] = "";

	(void)fprintf(stderr, "Go on? [y/N] ");
	return fgets(line, sizeof(line), stdin) && (line[0] == 'y' || line[0] == 'Y');
}

/* Shows the plan and asks, unless nothing is lost by it. 0: go on. */
static int confirm(struct ctl *ctl, const struct request *rq, ctl_say_fn say)
{
	bool harmless;
	cJSON *plan;
	int code, r;

	if (ctl_has(ctl, OPT_YES))
		return 0;
	r = request_send(ctl, rq, true, &plan, &code);
	if (r)
		return r;
	harmless = cJSON_IsFalse(cJSON_GetObjectItemCaseSensitive(plan, "destroys"));
	if (!harmless && isatty(STDIN_FILENO) && isatty(STDERR_FILENO)) {
		say(stderr, plan, true);
		(void)fputc('\n', stderr);
		r = ask() ? 0
			  : ctl_fail(ctl, ADMIN_EXIT_FAILED, ctl->command->words[0], NULL,
				     "not done");
	} else if (!harmless) {
		r = ctl_fail(ctl, ADMIN_EXIT_USAGE, ctl->command->words[0],
			     "add -y, or -n to see what would happen",
			     "this destroys something, and there is nobody to ask");
	}
	cJSON_Delete(plan);
	return r;
}

static int change_sent(struct ctl *ctl, const struct request *rq, ctl_say_fn say)
{
	bool dry_run = ctl_has(ctl, OPT_DRY_RUN);
	cJSON *answer;
	int code, r = 0;

	if (!dry_run && ctl->command->options & OPT(OPT_YES))
		r = confirm(ctl, rq, say);
	if (r == 0)
		r = request_send(ctl, rq, dry_run, &answer, &code);
	return r ? r : answer_print(ctl, answer, code, say);
}

int ctl_change(struct ctl *ctl, ctl_say_fn say)
{
	struct request rq;
	int r = link_open(ctl);

	if (r)
		return r;
	request_make(ctl, &rq);
	return change_sent(ctl, &rq, say);
}

/* ---- client kick, epoch bump, tenant delete ------------------------------------------------ */

static void say_kick(FILE *to, const cJSON *a, bool plan)
{
	(void)fprintf(to,
		      "%s client %.0f (%s, pid %.0f, tenant %s): it %s %.0f pages it was "
		      "filling (%s) and %.0f leases",
		      plan ? "would kick" : "kicked", answer_number(a, "client"),
		      answer_string(a, "name"), answer_number(a, "pid"), answer_string(a, "tenant"),
		      plan ? "would lose" : "loses", answer_number(a, "pages_held"),
		      core_size((uint64_t)answer_number(a, "held_bytes")).text,
		      answer_number(a, "leases"));
}

int ctl_client_kick(struct ctl *ctl)
{
	return ctl_change(ctl, say_kick);
}

static void say_bump(FILE *to, const cJSON *a, bool plan)
{
	(void)fprintf(to, "%s %s %.0f -> %.0f: %.0f pages", plan ? "would move" : "moved",
		      answer_string(a, "ns"), answer_number(a, "from"), answer_number(a, "to"),
		      answer_number(a, "pages"));
	if (!plan) {
		(void)fprintf(to, " became unreachable");
		return;
	}
	(void)fprintf(to, " (%s) become unreachable now",
		      core_size((uint64_t)answer_number(a, "bytes")).text);
	if (answer_number(a, "leased_pages") > 0)
		(void)fprintf(to, ", of which %s held by %.0f clients until they release it",
			      core_size((uint64_t)answer_number(a, "leased_bytes")).text,
			      answer_number(a, "clients"));
}

int ctl_epoch_bump(struct ctl *ctl)
{
	return ctl_change(ctl, say_bump);
}

static void say_delete(FILE *to, const cJSON *a, bool plan)
{
	const char *name = answer_string(a, "tenant");
	struct core_size_text size = core_size((uint64_t)answer_number(a, "used_bytes"));

	if (plan)
		(void)fprintf(to, "would delete tenant %s and take %s of memory back", name,
			      size.text);
	else if (answer_truth(a, "deleted"))
		(void)fprintf(to, "deleted tenant %s", name);
	else
		(void)fprintf(to,
			      "tenant %s is emptied first: %s are on their way back; delete it "
			      "again in a moment",
			      name, size.text);
}

int ctl_tenant_delete(struct ctl *ctl)
{
	return ctl_change(ctl, say_delete);
}

/* ---- tenant set ---------------------------------------------------------------------------- */

static void say_limit(FILE *to, const char *name, const cJSON *budget, const char *key)
{
	const cJSON *value = cJSON_GetObjectItemCaseSensitive(budget, key);

	(void)fprintf(to, " %s %s", name,
		      cJSON_IsNumber(value) ? core_size((uint64_t)value->valuedouble).text : "all");
}

static void say_set(FILE *to, const cJSON *a, bool plan)
{
	const cJSON *budget;

	(void)fprintf(to, "%s%s tenant %s (uid %.0f)", plan ? "would " : "",
		      answer_truth(a, "created") ? (plan ? "make" : "made")
						 : (plan ? "change" : "changed"),
		      answer_string(a, "tenant"), answer_number(a, "uid"));
	cJSON_ArrayForEach(budget, cJSON_GetObjectItemCaseSensitive(a, "budgets"))
	{
		(void)fprintf(to, "\n  %s:", answer_string(budget, "device"));
		say_limit(to, "min", budget, "min_bytes");
		say_limit(to, "high", budget, "high_bytes");
		say_limit(to, "max", budget, "max_bytes");
		(void)fprintf(to, " weight %.0f; used %s, %s of %s free",
			      answer_number(budget, "weight"),
			      core_size((uint64_t)answer_number(budget, "used_bytes")).text,
			      core_size((uint64_t)answer_number(budget, "free_bytes")).text,
			      core_size((uint64_t)answer_number(budget, "capacity_bytes")).text);
	}
}

/* Capacity that a percentage is of: the device named, or the only one; 0: there is no telling. */
static uint64_t whole_bytes(const struct ctl *ctl)
{
	bool only = listing_devices_n(ctl->seg) == 1;
	const char *device = NULL;

	for (unsigned i = 1; i < ctl->nargs; i++) {
		if (strncmp(ctl->args[i], "device=", 7) == 0)
			device = ctl->args[i] + 7;
	}
	for (uint32_t i = 0; i < ctl->seg->devices_n; i++) {
		const struct stats_device *d = &ctl->seg->device[i];

		if (device ? strcmp(d->name, device) == 0 : only && d->kind != CORE_KIND_ARENA)
			return d->capacity_bytes;
	}
	return 0;
}

/* The daemon takes bytes; people write sizes. */
static int set_size(const struct ctl *ctl, const char *arg, char *to, size_t bytes)
{
	size_t key = strcspn(arg, "=") + 1;
	uint64_t size;

	if (strcmp(arg + key, "all") == 0) {
		(void)snprintf(to, bytes, "%s", arg);
		return 0;
	}
	if (size_parse(arg + key, whole_bytes(ctl), &size) < 0)
		return ctl_fail(ctl, ADMIN_EXIT_USAGE, arg,
				"sizes are as 512M, 2G, 30% (name a device= if there are several)",
				"'%s' is no size", arg + key);
	(void)snprintf(to, bytes, "%.*s%llu", (int)key, arg, (unsigned long long)size);
	return 0;
}

int ctl_tenant_set(struct ctl *ctl)
{
	static const char *const sizes[] = { "min=", "high=", "max=" };
	char text[8][40];
	struct request rq;
	int r = link_open(ctl);

	if (r)
		return r;
	request_make(ctl, &rq);
	for (unsigned i = 3; i < rq.argc; i++) {
		for (unsigned k = 0; k < sizeof(sizes) / sizeof(sizes[0]); k++) {
			if (strncmp(rq.argv[i], sizes[k], strlen(sizes[k])) != 0)
				continue;
			r = set_size(ctl, rq.argv[i], text[i - 3], sizeof(text[0]));
			if (r)
				return r;
			rq.argv[i] = text[i - 3];
			break;
		}
	}
	return change_sent(ctl, &rq, say_set);
}

/* ---- gpu drain, gpu resume ----------------------------------------------------------------- */

static void say_client(FILE *to, const cJSON *client, bool plan, bool force)
{
	(void)fprintf(to,
		      "\n  client %.0f (%s, pid %.0f, tenant %s) %s %.0f slabs mapped, fills %s, "
		      "leases %.0f pages",
		      answer_number(client, "client"), answer_string(client, "name"),
		      answer_number(client, "pid"), answer_string(client, "tenant"),
		      answer_truth(client, "connected") ? "has" : "has left with",
		      answer_number(client, "slabs"),
		      core_size((uint64_t)answer_number(client, "held_bytes")).text,
		      answer_number(client, "leases"));
	if (force && answer_truth(client, "connected"))
		(void)fprintf(to, plan ? "; it would be disconnected" : "; it is disconnected");
}

static void say_drain(FILE *to, const cJSON *a, bool plan)
{
	struct core_size_text granted = core_size((uint64_t)answer_number(a, "granted_bytes"));
	struct core_size_text cached = core_size((uint64_t)answer_number(a, "cached_bytes"));
	const cJSON *client;

	if (answer_truth(a, "drained")) {
		(void)fprintf(to, "%s is drained", answer_string(a, "device"));
		return;
	}
	(void)fprintf(to, "%s %s: %s in slabs", plan ? "would drain" : "drains",
		      answer_string(a, "device"), granted.text);
	if (answer_number(a, "cached_bytes") > 0)
		(void)fprintf(to, ", of which %s are cached and %s", cached.text,
			      answer_truth(a, "below")
				      ? "go to the host tier as the deadline allows"
				      : "lost");
	cJSON_ArrayForEach(client, cJSON_GetObjectItemCaseSensitive(a, "clients"))
		say_client(to, client, plan, answer_truth(a, "force"));
	if (!plan)
		(void)fprintf(to, "\n  ask again in a moment whether it is over");
}

int ctl_gpu_drain(struct ctl *ctl)
{
	return ctl_change(ctl, say_drain);
}

static void say_resume(FILE *to, const cJSON *a, bool plan)
{
	if (!answer_truth(a, "resumed"))
		(void)fprintf(to, "%s is not drained", answer_string(a, "device"));
	else
		(void)fprintf(to, "%s %s", plan ? "would take up" : "takes up",
			      answer_string(a, "device"));
}

int ctl_gpu_resume(struct ctl *ctl)
{
	return ctl_change(ctl, say_resume);
}

/* ---- prefix -------------------------------------------------------------------------------- */

static void say_keys(FILE *to, const cJSON *a, bool plan, const char *what)
{
	const cJSON *key;

	(void)fprintf(to, "%s%s %.0f pages (%s) of %s", plan ? "would " : "", what,
		      answer_number(a, "pages"),
		      core_size((uint64_t)answer_number(a, "bytes")).text, answer_string(a, "ns"));
	cJSON_ArrayForEach(key, cJSON_GetObjectItemCaseSensitive(a, "keys"))
	{
		if (!answer_truth(key, "done"))
			(void)fprintf(to, "\n  not %s: %s", answer_string(key, "hash"),
				      answer_string(key, "why"));
	}
}

static void say_pin(FILE *to, const cJSON *a, bool plan)
{
	say_keys(to, a, plan, plan ? "pin" : "pinned");
}

static void say_unpin(FILE *to, const cJSON *a, bool plan)
{
	say_keys(to, a, plan, plan ? "unpin" : "unpinned");
}

static void say_evict(FILE *to, const cJSON *a, bool plan)
{
	say_keys(to, a, plan, plan ? "evict" : "evicted");
}

int ctl_prefix_pin(struct ctl *ctl)
{
	return ctl_change(ctl, say_pin);
}

int ctl_prefix_unpin(struct ctl *ctl)
{
	return ctl_change(ctl, say_unpin);
}

int ctl_prefix_evict(struct ctl *ctl)
{
	return ctl_change(ctl, say_evict);
}

static void explain_print(const cJSON *answer)
{
	const cJSON *keys = cJSON_GetObjectItemCaseSensitive(answer, "keys");
	const cJSON *reason;

	(void)printf("matched %.0f/%.0f blocks in epoch %.0f of %s\n",
		     answer_number(answer, "matched"), answer_number(answer, "asked"),
		     answer_number(answer, "epoch"), answer_string(answer, "ns"));
	cJSON_ArrayForEach(reason, cJSON_GetObjectItemCaseSensitive(answer, "reasons"))(void)
		printf("miss at block %.0f (%s): %s\n", answer_number(answer, "miss"),
		       answer_string(cJSON_GetArrayItem(keys, (int)answer_number(answer, "miss")),
				     "hash"),
		       reason->valuestring);
}

/* lookup is a listing of its keys, with the whole answer in JSON; explain is told in words. */
int ctl_prefix_query(struct ctl *ctl)
{
	struct table_view view;
	struct request rq;
	cJSON *answer;
	int code, r = 0;

	if (ctl->command->table)
		r = output_view(ctl, false, &view);
	if (r == 0)
		r = link_open(ctl);
	if (r)
		return r;
	request_make(ctl, &rq);
	r = request_send(ctl, &rq, false, &answer, &code);
	if (r)
		return r;
	if (output_is_json(ctl) && !ctl_has(ctl, OPT_FIELDS))
		return output_json(ctl, answer);
	if (ctl->command->table) {
		if (ctl->format == CTL_TEXT && !ctl_has(ctl, OPT_FIELDS))
			(void)printf("matched %.0f/%.0f blocks in epoch %.0f of %s\n",
				     answer_number(answer, "matched"),
				     answer_number(answer, "asked"), answer_number(answer, "epoch"),
				     answer_string(answer, "ns"));
		r = output_list(ctl, cJSON_DetachItemFromObjectCaseSensitive(answer, "keys"));
	} else {
		explain_print(answer);
	}
	cJSON_Delete(answer);
	return r ? r : code;
}

int ctl_prefix_top(struct ctl *ctl)
{
	struct table_view view;
	struct request rq;
	cJSON *answer, *pages;
	int code, r = output_view(ctl, false, &view);

	if (r == 0)
		r = link_open(ctl);
	if (r)
		return r;
	request_make(ctl, &rq);
	r = request_send(ctl, &rq, false, &answer, &code);
	if (r)
		return r;
	pages = cJSON_DetachItemFromObjectCaseSensitive(answer, "pages");
	cJSON_Delete(answer);
	return output_list(ctl, pages);
}
