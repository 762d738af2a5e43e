/* SPDX-License-Identifier: Apache-2.0 */

/*
 * config: what the daemon goes by, and changing it. `check` reads a file as the daemon would, with
 * the same code, and asks no daemon; everything else does.
 */

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "broker/config/config.h"
#include "tools/broker-ctl/ctl.h"

static const struct column config_columns[] = {
	{ .key = "key",
	  .head = "KEY",
	  .help = "setting; device.NAME.KEY, store.PATH.KEY, tenant.NAME.DEVICE.KEY" },
	{ .key = "value", .head = "VALUE", .help = "what the daemon goes by" },
	{ .key = "origin", .head = "ORIGIN", .help = "default, FILE:LINE, command line, or set" },
};

const struct table table_config = {
	.name = "settings",
	.one = "setting",
	.columns = config_columns,
	.n = sizeof(config_columns) / sizeof(config_columns[0]),
};

int ctl_config_check(struct ctl *ctl)
{
	struct config config;
	const struct config_args args = { .path = ctl->args[0] };
	int r = 0;

	/* "FILE:LINE: WHAT: WHY" already. */
	if (config_build(&config, &args))
		r = ctl_fail(ctl, ADMIN_EXIT_USAGE, "config check", NULL, "%s", config.why);
	else if (output_is_json(ctl)) {
		cJSON *answer = cJSON_CreateObject();

		cJSON_AddStringToObject(answer, "file", ctl->args[0]);
		cJSON_AddNumberToObject(answer, "devices", config.cfg.devices);
		cJSON_AddNumberToObject(answer, "stores", config.cfg.stores);
		cJSON_AddNumberToObject(answer, "tenants", config.cfg.tenants);
		r = output_json(ctl, answer);
	} else {
		(void)printf("%s: good: %u devices, %u stores, %u tenants\n", ctl->args[0],
			     config.cfg.devices, config.cfg.stores, config.cfg.tenants);
	}
	config_free(&config);
	return r;
}

int ctl_config_show(struct ctl *ctl)
{
	static const char *const argv[] = { "config", "show" };
	struct table_view view;
	cJSON *answer, *rows;
	int code, r = output_view(ctl, false, &view);

	if (r == 0)
		r = link_open(ctl);
	if (r == 0)
		r = link_request(ctl, argv, 2, false, &answer, &code);
	if (r)
		return r;
	rows = cJSON_DetachItemFromObjectCaseSensitive(answer, "settings");
	cJSON_Delete(answer);
	return output_list(ctl, rows);
}

/* ---- diff, reload, set --------------------------------------------------------------------- */

static const char *text_of(const cJSON *object, const char *key)
{
	const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, key));

	return text && text[0] ? text : "-";
}

/* A line a change; what comes of them is the last thing said. */
static void say_reload(FILE *to, const cJSON *a, bool plan)
{
	const cJSON *changes = cJSON_GetObjectItemCaseSensitive(a, "changes");
	const cJSON *one;

	cJSON_ArrayForEach(one, changes)(void) fprintf(
		to, "%s: %s -> %s%s\n", text_of(one, "key"), text_of(one, "from"),
		text_of(one, "to"), answer_truth(one, "live") ? "" : "  (at a restart only)");
	cJSON_ArrayForEach(one, cJSON_GetObjectItemCaseSensitive(a, "kept"))(void)
		fprintf(to, "tenant.%s: is not in the file, and stays (broker-ctl tenant delete)\n",
			one->valuestring);
	if (answer_truth(a, "refused"))
		(void)fprintf(to, "%s: would be refused: %s", text_of(a, "file"),
			      text_of(a, "why"));
	else
		(void)fprintf(to, "%s: %d %s%s", text_of(a, "file"), cJSON_GetArraySize(changes),
			      cJSON_GetArraySize(changes) == 1 ? "change" : "changes",
			      plan ? "" : ", done");
}

int ctl_config_reload(struct ctl *ctl)
{
	return ctl_change(ctl, say_reload);
}

/* The daemon is another process, perhaps elsewhere in the file system: it is told the whole path.
 * That the two differ is what was asked for, not a failure. */
int ctl_config_diff(struct ctl *ctl)
{
	const char *argv[3] = { "config", "diff" };
	char path[PATH_MAX];
	cJSON *answer;
	int code, r;

	if (ctl->nargs && !realpath(ctl->args[0], path))
		return ctl_fail(ctl, ADMIN_EXIT_USAGE, ctl->args[0], NULL, "%s", strerror(errno));
	argv[2] = path;
	r = link_open(ctl);
	if (r == 0)
		r = link_request(ctl, argv, 2 + ctl->nargs, false, &answer, &code);
	if (r)
		return r;
	if (output_is_json(ctl))
		return output_json(ctl, answer);
	say_reload(stdout, answer, true);
	(void)putchar('\n');
	cJSON_Delete(answer);
	return 0;
}

static void say_set(FILE *to, const cJSON *a, bool plan)
{
	(void)fprintf(to, "%s%s %s -> %s", plan ? "would set " : "", text_of(a, "key"),
		      text_of(a, "from"), text_of(a, "to"));
}

int ctl_config_set(struct ctl *ctl)
{
	return ctl_change(ctl, say_set);
}
