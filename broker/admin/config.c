/* SPDX-License-Identifier: Apache-2.0 */

/*
 * config show, diff, reload, set: see reload.h for what a reload is.
 *
 * `show` tells what the daemon goes by and where each value came from: budgets from the core, where
 * `tenant set` may have changed them since, everything else from the configuration.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/admin/commands.h"
#include "broker/admin/reload.h"
#include "broker/config/nearest.h"
#include "broker/io/fault.h"
#include "broker/io/log.h"

/* False: has answered. */
static bool is_configured(struct admin_conn *conn, const char *what)
{
	if (conn->session->server->config)
		return true;
	command_fail(conn, ADMIN_EXIT_FAILED, what, NULL, "this daemon was started without any");
	return false;
}

/* ---- show ---------------------------------------------------------------------------------- */

static void add_row(cJSON *rows, const char *key, const char *value, const char *origin)
{
	cJSON *row = cJSON_CreateObject();

	cJSON_AddStringToObject(row, "key", key);
	cJSON_AddStringToObject(row, "value", value);
	cJSON_AddStringToObject(row, "origin", origin);
	cJSON_AddItemToArray(rows, row);
}

static void add_value(const struct config *c, cJSON *rows, const char *key, const char *value,
		      struct config_origin at)
{
	char origin[SETTING_TEXT_BYTES];

	config_print_origin(c, at, origin, sizeof(origin));
	add_row(rows, key, value, origin);
}

static void show_sections(const struct config *c, cJSON *rows)
{
	char key[SETTING_TEXT_BYTES + 16], name[32], size[32];

	for (unsigned i = 0; i < c->cfg.devices; i++) {
		const struct server_device_config *d = &c->cfg.device[i];

		config_print_device(d, name, sizeof(name));
		setting_print_size(d->capacity_bytes, size, sizeof(size));
		(void)snprintf(key, sizeof(key), "device.%s.size", name);
		add_value(c, rows, key, size, c->device_origin[i]);
		(void)snprintf(key, sizeof(key), "device.%s.uuid", name);
		if (d->uuid[0])
			add_value(c, rows, key, d->uuid, c->device_origin[i]);
	}
	for (unsigned i = 0; i < c->cfg.stores; i++) {
		setting_print_size(c->cfg.store[i].bytes, size, sizeof(size));
		(void)snprintf(key, sizeof(key), "store.%s.size", c->cfg.store[i].path);
		add_value(c, rows, key, c->cfg.store[i].bytes ? size : "all", c->store_origin[i]);
	}
}

/* A value that is not as the configuration has it was set since. */
static void add_limit(const struct config *c, cJSON *rows, const char *budget, const char *key,
		      uint64_t value, const struct core_tenant_spec *spec, uint64_t as_said)
{
	struct config_origin at = { .kind = CONFIG_BY_SET };
	char what[160], text[32];

	if (value == as_said)
		at = spec ? c->tenant_origin[spec - c->cfg.tenant]
			  : (struct config_origin){ .kind = CONFIG_BY_DEFAULT };
	(void)snprintf(what, sizeof(what), "%s.%s", budget, key);
	reload_print_limit(value, text, sizeof(text));
	add_value(c, rows, what, text, at);
}

static void show_budget(const struct server *s, cJSON *rows, const struct core_tenant *t,
			unsigned device)
{
	static const struct core_tenant_spec none = { .high_bytes = UINT64_MAX,
						      .max_bytes = UINT64_MAX,
						      .weight = 1 };
	const int said = config_find_tenant(s->config, t->name, device);
	const struct core_tenant_spec *spec = said < 0 ? NULL : &s->config->cfg.tenant[said];
	const struct core_tenant_spec *as = spec ? spec : &none;
	const struct core_budget *b = &t->budget[device];
	char budget[128];

	(void)snprintf(budget, sizeof(budget), "tenant.%s.%s", t->name,
		       s->core.h->device[device].name);
	add_limit(s->config, rows, budget, "min", b->min_bytes, spec, as->min_bytes);
	add_limit(s->config, rows, budget, "high", b->high_bytes, spec, as->high_bytes);
	add_limit(s->config, rows, budget, "max", b->max_bytes, spec, as->max_bytes);
	add_limit(s->config, rows, budget, "weight", b->weight, spec, as->weight);
}

static void show_tenants(const struct server *s, cJSON *rows)
{
	for (unsigned i = 0; i < s->core.h->limits.tenants; i++) {
		const struct core_tenant *t = &s->core.tenants[i];
		const struct core_tenant_spec *spec;
		struct config_origin at = { .kind = CONFIG_BY_SET };
		char key[128], uid[16];

		if (!t->used)
			continue;
		for (unsigned k = 0; k < s->config->cfg.tenants; k++) {
			spec = &s->config->cfg.tenant[k];
			if (strcmp(spec->name, t->name) == 0 && spec->uid == t->uid)
				at = s->config->tenant_origin[k];
		}
		(void)snprintf(key, sizeof(key), "tenant.%s.uid", t->name);
		(void)snprintf(uid, sizeof(uid), "%u", t->uid);
		add_value(s->config, rows, key, uid, at);
		for (unsigned d = 0; d < s->cfg.devices; d++)
			show_budget(s, rows, t, d);
	}
}

void command_config_show(struct admin_conn *conn)
{
	const struct server *s = conn->session->server;
	cJSON *answer, *rows;

	if (!is_configured(conn, "config show"))
		return;
	answer = cJSON_CreateObject();
	cJSON_AddStringToObject(answer, "file", s->config->path ? s->config->path : "");
	rows = cJSON_AddArrayToObject(answer, "settings");
	show_sections(s->config, rows);
	show_tenants(s, rows);
	for (unsigned i = SETTING_SECTIONS_N; i < settings_n; i++) {
		char value[SETTING_TEXT_BYTES];

		setting_print(&settings[i], &s->config->cfg, value, sizeof(value));
		add_value(s->config, rows, settings[i].name, value, s->config->origin[i]);
	}
	command_answer(conn, ADMIN_EXIT_OK, answer);
}

/* ---- diff, reload -------------------------------------------------------------------------- */

static void answer_reload(struct admin_conn *conn, const char *what, const char *path, bool apply)
{
	struct server *s = conn->session->server;
	char why[SETTING_WHY_BYTES];
	enum reload_result result;
	cJSON *answer;

	if (!is_configured(conn, what))
		return;
	if (!path && !s->config->args.path) {
		command_fail(conn, ADMIN_EXIT_FAILED, what, "start it with --config FILE",
			     "the daemon was started without a file");
		return;
	}
	answer = cJSON_CreateObject();
	result = reload_file(s, path, apply, answer, why);
	if (apply)
		log_info("config: reload by uid %u: %s", conn->session->uid,
			 result == RELOAD_DONE ? "done" : why);
	if (result == RELOAD_WRONG || (apply && result != RELOAD_DONE)) {
		cJSON_Delete(answer);
		command_fail(conn, result == RELOAD_WRONG ? ADMIN_EXIT_USAGE : ADMIN_EXIT_FAILED,
			     what, "nothing was changed", "%s", why);
		return;
	}
	cJSON_AddBoolToObject(answer, "dry_run", !apply);
	cJSON_AddBoolToObject(answer, "refused", result != RELOAD_DONE);
	cJSON_AddStringToObject(answer, "why", why);
	command_answer(conn, result == RELOAD_DONE ? ADMIN_EXIT_OK : ADMIN_EXIT_FAILED, answer);
}

void command_config_reload(struct admin_conn *conn)
{
	answer_reload(conn, "config reload", NULL, !conn->dry_run);
}

void command_config_diff(struct admin_conn *conn)
{
	answer_reload(conn, "config diff", conn->argc ? conn->argv[0] : NULL, false);
}

/* ---- set ----------------------------------------------------------------------------------- */

/* A setting that can change now, by name; -1: has answered. */
static int find_live(struct admin_conn *conn, const char *name)
{
	unsigned least = NEAREST_MAX + 1;
	int setting = setting_find(name);
	char hint[64] = "see broker-ctl config show";

	for (unsigned i = SETTING_SECTIONS_N; i < settings_n && setting < 0; i++) {
		if (nearest_take(name, settings[i].name, &least))
			(void)snprintf(hint, sizeof(hint), "did you mean '%s'?", settings[i].name);
	}
	if (setting == SETTING_TENANT || strncmp(name, "tenant.", 7) == 0)
		command_fail(conn, ADMIN_EXIT_USAGE, name, "use broker-ctl tenant set",
			     "budgets are not set here");
	else if (setting < 0)
		command_fail(conn, ADMIN_EXIT_USAGE, name, hint, "there is no such setting");
	else if (!settings[setting].live)
		command_fail(conn, ADMIN_EXIT_FAILED, name, "change it in the file",
			     "it can change at a restart only");
	else
		return setting;
	return -1;
}

void command_config_set(struct admin_conn *conn)
{
	struct server *s = conn->session->server;
	char from[SETTING_TEXT_BYTES], to[SETTING_TEXT_BYTES], why[SETTING_WHY_BYTES];
	struct config *fresh;
	cJSON *answer;
	int setting;

	if (!is_configured(conn, "config set"))
		return;
	setting = find_live(conn, conn->argv[0]);
	if (setting < 0)
		return;
	fresh = fault_calloc("admin", 1, sizeof(*fresh));
	if (!fresh) {
		command_answer(conn, ADMIN_EXIT_FAILED, NULL);
		return;
	}
	if (setting_take(&settings[setting], &fresh->cfg, conn->argv[1], why, sizeof(why))) {
		free(fresh);
		command_fail(conn, ADMIN_EXIT_USAGE, conn->argv[0], NULL, "%s", why);
		return;
	}
	fresh->origin[setting].kind = CONFIG_BY_SET;
	setting_print(&settings[setting], &s->config->cfg, from, sizeof(from));
	setting_print(&settings[setting], &fresh->cfg, to, sizeof(to));
	answer = cJSON_CreateObject();
	cJSON_AddStringToObject(answer, "key", settings[setting].name);
	cJSON_AddStringToObject(answer, "from", from);
	cJSON_AddStringToObject(answer, "to", to);
	cJSON_AddBoolToObject(answer, "dry_run", conn->dry_run);
	if (!conn->dry_run) {
		reload_take(s, (unsigned)setting, fresh);
		log_info("config: %s: %s -> %s by uid %u", settings[setting].name, from, to,
			 conn->session->uid);
	}
	free(fresh);
	command_answer(conn, ADMIN_EXIT_OK, answer);
}
