/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Reading a configuration anew; see reload.h. The daemon serves nobody while it compares, which is
 * a file of at most 1M and tables of a few hundred tenants.
 */

#include "broker/admin/reload.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-daemon.h>

#include "broker/admin/admin.h"
#include "broker/io/fault.h"
#include "broker/io/log.h"

void reload_add_change(cJSON *changes, const char *key, const char *from, const char *to, bool live)
{
	cJSON *change = cJSON_CreateObject();

	cJSON_AddStringToObject(change, "key", key);
	cJSON_AddStringToObject(change, "from", from);
	cJSON_AddStringToObject(change, "to", to);
	cJSON_AddBoolToObject(change, "live", live);
	cJSON_AddItemToArray(changes, change);
}

/* ---- what differs -------------------------------------------------------------------------- */

static void compare_settings(const struct config *running, const struct config *fresh,
			     cJSON *changes)
{
	char from[SETTING_TEXT_BYTES], to[SETTING_TEXT_BYTES];

	for (unsigned i = SETTING_SECTIONS_N; i < settings_n; i++) {
		setting_print(&settings[i], &running->cfg, from, sizeof(from));
		setting_print(&settings[i], &fresh->cfg, to, sizeof(to));
		if (strcmp(from, to) != 0)
			reload_add_change(changes, settings[i].name, from, to, settings[i].live);
	}
}

/* "60G GPU-..."; "" for a device that c does not serve. */
static void print_device(const struct config *c, const struct server_device_config *d, char *ret,
			 size_t bytes)
{
	int i = config_find_device(c, d->kind, d->ordinal);
	const struct server_device_config *at = &c->cfg.device[i < 0 ? 0 : i];
	char size[32];

	ret[0] = '\0';
	if (i < 0)
		return;
	setting_print_size(at->capacity_bytes, size, sizeof(size));
	(void)snprintf(ret, bytes, "%s%s%s", size, at->uuid[0] ? " " : "", at->uuid);
}

static void print_store(const struct config *c, const struct server_store_config *store, char *ret,
			size_t bytes)
{
	int i = config_find_store(c, store->path);

	ret[0] = '\0';
	if (i >= 0 && c->cfg.store[i].bytes)
		setting_print_size(c->cfg.store[i].bytes, ret, bytes);
	else if (i >= 0)
		(void)snprintf(ret, bytes, "all");
}

/* Of those of `of`, which is either of the two: the running one's, then what is new in the other.
 */
static void compare_devices(const struct config *running, const struct config *fresh,
			    const struct config *of, cJSON *changes)
{
	char name[32], key[48], from[128], to[128];

	for (unsigned i = 0; i < of->cfg.devices; i++) {
		const struct server_device_config *d = &of->cfg.device[i];

		print_device(running, d, from, sizeof(from));
		print_device(fresh, d, to, sizeof(to));
		config_print_device(d, name, sizeof(name));
		(void)snprintf(key, sizeof(key), "device.%s", name);
		if (strcmp(from, to) != 0 && (of == running || !from[0]))
			reload_add_change(changes, key, from, to, false);
	}
}

static void compare_stores(const struct config *running, const struct config *fresh,
			   const struct config *of, cJSON *changes)
{
	char key[SETTING_TEXT_BYTES + 8], from[32], to[32];

	for (unsigned i = 0; i < of->cfg.stores; i++) {
		const struct server_store_config *store = &of->cfg.store[i];

		print_store(running, store, from, sizeof(from));
		print_store(fresh, store, to, sizeof(to));
		(void)snprintf(key, sizeof(key), "store.%s", store->path);
		if (strcmp(from, to) != 0 && (of == running || !from[0]))
			reload_add_change(changes, key, from, to, false);
	}
}

/* ---- taking it over ------------------------------------------------------------------------ */

void reload_take(struct server *s, unsigned setting, const struct config *from)
{
	const struct setting *what = &settings[setting];
	const void *value = (const char *)&from->cfg + what->at;

	memcpy((char *)&s->cfg + what->at, value, what->bytes);
	memcpy((char *)&s->config->cfg + what->at, value, what->bytes);
	s->config->origin[setting] = from->origin[setting];
	log_init(s->cfg.log_level);
	s->core.revoke_grace_ns = s->cfg.revoke_grace_ns;
	s->hello_ns = 0; /* deadlines of connections are looked at again */
}

/* Where devices and stores, which are the same, stand in the file now. */
static void take_origins(struct config *running, const struct config *fresh)
{
	for (unsigned i = 0; i < fresh->cfg.devices; i++) {
		const struct server_device_config *d = &fresh->cfg.device[i];

		running->device_origin[config_find_device(running, d->kind, d->ordinal)] =
			fresh->device_origin[i];
	}
	for (unsigned i = 0; i < fresh->cfg.stores; i++)
		running->store_origin[config_find_store(running, fresh->cfg.store[i].path)] =
			fresh->store_origin[i];
}

/* Everything that is live, and where all of it stands in the file now. */
static void take_all(struct server *s, struct config *fresh, const struct reload_tenants *tenants)
{
	struct config *running = s->config;

	for (unsigned i = SETTING_SECTIONS_N; i < settings_n; i++) {
		if (settings[i].live)
			reload_take(s, i, fresh);
	}
	reload_tenants_apply(s, tenants);
	memcpy(running->origin, fresh->origin, sizeof(running->origin));
	memcpy(running->tenant_origin, fresh->tenant_origin, sizeof(running->tenant_origin));
	running->cfg.tenants = fresh->cfg.tenants;
	memcpy(running->cfg.tenant, fresh->cfg.tenant, sizeof(running->cfg.tenant));
	take_origins(running, fresh);
}

static void log_changes(const char *path, const cJSON *changes)
{
	const cJSON *change;

	log_info("config: %s: %d changes", path, cJSON_GetArraySize(changes));
	cJSON_ArrayForEach(change, changes)
	{
		const char *from = cJSON_GetStringValue(cJSON_GetObjectItem(change, "from"));
		const char *to = cJSON_GetStringValue(cJSON_GetObjectItem(change, "to"));

		log_info("config: %s: %s -> %s",
			 cJSON_GetStringValue(cJSON_GetObjectItem(change, "key")),
			 from && from[0] ? from : "none", to && to[0] ? to : "none");
	}
}

/* The names of what is not live, for a sentence. False: all of it is. */
static bool needs_restart(const cJSON *changes, char *why)
{
	const cJSON *change;
	size_t at = 0;

	cJSON_ArrayForEach(change, changes)
	{
		if (cJSON_IsTrue(cJSON_GetObjectItem(change, "live")))
			continue;
		if (at < SETTING_WHY_BYTES)
			at += (size_t)snprintf(
				why + at, SETTING_WHY_BYTES - at, "%s%s", at ? ", " : "",
				cJSON_GetStringValue(cJSON_GetObjectItem(change, "key")));
	}
	if (at && at < SETTING_WHY_BYTES)
		(void)snprintf(why + at, SETTING_WHY_BYTES - at, " can change at a restart only");
	return at > 0;
}

/*
 * Sections may have changed places: the fresh one's devices are put in the order of the running
 * one's, which is the core's. False: they are others.
 */
static bool align_devices(const struct config *running, struct config *fresh)
{
	int at[SERVER_DEVICES_MAX];

	if (fresh->cfg.devices != running->cfg.devices)
		return false;
	for (unsigned i = 0; i < fresh->cfg.devices; i++) {
		const struct server_device_config *d = &fresh->cfg.device[i];

		at[i] = config_find_device(running, d->kind, d->ordinal);
		if (at[i] < 0)
			return false;
	}
	for (unsigned i = 0; i < fresh->cfg.tenants; i++) {
		if (fresh->cfg.tenant[i].device >= 0)
			fresh->cfg.tenant[i].device = at[fresh->cfg.tenant[i].device];
	}
	return true;
}

/* Budgets are of devices: with other devices there is nothing to compare them with. */
static enum reload_result compare(struct server *s, struct config *fresh, bool apply, cJSON *answer,
				  char *why)
{
	cJSON *changes = cJSON_AddArrayToObject(answer, "changes");
	cJSON *kept = cJSON_AddArrayToObject(answer, "kept");
	enum reload_result result = RELOAD_RESTART;
	struct reload_tenants *tenants;

	compare_settings(s->config, fresh, changes);
	compare_devices(s->config, fresh, s->config, changes);
	compare_devices(s->config, fresh, fresh, changes);
	compare_stores(s->config, fresh, s->config, changes);
	compare_stores(s->config, fresh, fresh, changes);
	if (!align_devices(s->config, fresh) || !(tenants = reload_tenants_new(fresh))) {
		if (!needs_restart(changes, why))
			(void)snprintf(why, SETTING_WHY_BYTES,
				       "there is no memory to compare with");
		return result;
	}
	reload_tenants_compare(s, tenants, changes, kept);
	if (!needs_restart(changes, why))
		result = reload_tenants_check(s, tenants, why, SETTING_WHY_BYTES) ? RELOAD_REFUSED
										  : RELOAD_DONE;
	if (result == RELOAD_DONE && apply) {
		take_all(s, fresh, tenants);
		log_changes(fresh->path, changes);
	}
	free(tenants);
	return result;
}

enum reload_result reload_file(struct server *s, const char *path, bool apply, cJSON *answer,
			       char *why)
{
	struct config *fresh = fault_calloc("admin", 1, sizeof(*fresh));
	enum reload_result result = RELOAD_WRONG;
	struct config_args args;

	why[0] = '\0';
	if (!fresh) {
		(void)snprintf(why, SETTING_WHY_BYTES, "there is no memory to read it");
		return RELOAD_REFUSED;
	}
	args = s->config->args;
	if (path)
		args.path = path;
	cJSON_AddStringToObject(answer, "file", args.path);
	if (config_build(fresh, &args) == 0)
		result = compare(s, fresh, apply, answer, why);
	else
		memcpy(why, fresh->why, SETTING_WHY_BYTES);
	config_free(fresh);
	free(fresh);
	return result;
}

void reload_on_signal(struct server *s)
{
	char why[SETTING_WHY_BYTES];
	cJSON *answer;

	if (!s->config || !s->config->args.path) {
		log_warn("config: SIGHUP, but the daemon was started without a file: nothing to "
			 "read");
		return;
	}
	answer = cJSON_CreateObject();
	(void)sd_notify(0, "RELOADING=1");
	if (reload_file(s, NULL, true, answer, why) != RELOAD_DONE)
		log_error("config: SIGHUP: nothing was changed: %s", why);
	(void)sd_notify(0, "READY=1");
	cJSON_Delete(answer);
}
