/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Sections: devices, stores and tenants.
 *
 * On the command line a section is one text, which is taken apart into the same title and keys that
 * the file has; from there on nothing knows where it stood but messages. A device's size may be a
 * percentage of its node, a tenant's of its device. A tenant may have several sections, each for
 * another device; it has one uid.
 */

#include <ctype.h>
#include <errno.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/config/internal.h"
#include "broker/config/nearest.h"
#include "broker/io/size.h"
#include "cuda_driver/gpu.h"
#include "numa/topology.h"

#define ORDINAL_MAX 1023u

/* ---- from one text ------------------------------------------------------------------------- */

static int add_pair(struct config *c, struct config_item *item, const char *key, const char *text,
		    size_t n)
{
	const char *kept = config_keep(c, text, n);

	if (!kept)
		return -EINVAL;
	if (item->pairs == SETTING_KEYS_MAX)
		return config_refuse(c, item->at, settings[item->section].name,
				     "%s: more keys than there are", item->title);
	item->pair[item->pairs++] = (struct config_pair){ .key = key, .text = kept };
	return 0;
}

/* DEVICE[@UUID]=SIZE */
static int split_device(struct config *c, struct config_item *item, const char *text)
{
	const char *equals = strchr(text, '='), *at = strchr(text, '@');

	if (at && (!equals || at < equals)) {
		size_t n = equals ? (size_t)(equals - at - 1) : strlen(at + 1);

		item->title = config_keep(c, text, (size_t)(at - text));
		if (!item->title || add_pair(c, item, "uuid", at + 1, n))
			return -EINVAL;
	} else {
		item->title = config_keep(c, text, equals ? (size_t)(equals - text) : strlen(text));
	}
	if (!item->title)
		return -EINVAL;
	return equals ? add_pair(c, item, "size", equals + 1, strlen(equals + 1)) : 0;
}

/* PATH[=SIZE]: a path may have a '=' of its own, the last one counts. */
static int split_store(struct config *c, struct config_item *item, const char *text)
{
	const char *equals = strrchr(text, '=');

	item->title = config_keep(c, text, equals ? (size_t)(equals - text) : strlen(text));
	if (!item->title)
		return -EINVAL;
	return equals ? add_pair(c, item, "size", equals + 1, strlen(equals + 1)) : 0;
}

/* NAME[,KEY=VALUE]... */
static int split_tenant(struct config *c, struct config_item *item, const char *text)
{
	size_t n = strcspn(text, ",");

	item->title = config_keep(c, text, n);
	if (!item->title)
		return -EINVAL;
	while (text[n]) {
		const char *equals, *key;

		text += n + 1;
		n = strcspn(text, ",");
		equals = memchr(text, '=', n);
		if (!equals)
			return config_refuse(c, item->at, "tenant",
					     "%s: '%.*s' has no value (KEY=VALUE)", item->title,
					     (int)n, text);
		key = config_keep(c, text, (size_t)(equals - text));
		if (!key || add_pair(c, item, key, equals + 1, n - (size_t)(equals + 1 - text)))
			return -EINVAL;
	}
	return 0;
}

int section_of_argument(struct config_builder *b, enum setting_section section, const char *text)
{
	static int (*const split[])(struct config *, struct config_item *, const char *) = {
		[SETTING_DEVICE] = split_device,
		[SETTING_STORE] = split_store,
		[SETTING_TENANT] = split_tenant,
	};
	struct config_item *item = config_add_item(b, section);

	if (!item)
		return -EINVAL;
	item->at.kind = CONFIG_BY_COMMAND_LINE;
	return split[section](b->config, item, text);
}

/* ---- keys ---------------------------------------------------------------------------------- */

/* "host:0: " and what is wrong, where the pair stands, or the section. */
static int refuse(struct config *c, const struct config_item *item, const struct config_pair *pair,
		  const char *fmt, ...) __attribute__((format(printf, 4, 5)));

static int refuse(struct config *c, const struct config_item *item, const struct config_pair *pair,
		  const char *fmt, ...)
{
	struct config_origin at = item->at;
	char what[160], why[SETTING_WHY_BYTES];
	va_list args;

	if (pair)
		at.line = pair->line;
	(void)snprintf(what, sizeof(what), "%s %.100s", settings[item->section].name, item->title);
	va_start(args, fmt);
	(void)vsnprintf(why, sizeof(why), fmt, args);
	va_end(args);
	if (!pair)
		return config_refuse(c, at, what, "%s", why);
	return config_refuse(c, at, what, "%s: %s", pair->key, why);
}

static const struct config_pair *find(const struct config_item *item, const char *key)
{
	for (unsigned i = 0; i < item->pairs; i++) {
		if (strcmp(item->pair[i].key, key) == 0)
			return &item->pair[i];
	}
	return NULL;
}

static int check_keys(struct config *c, const struct config_item *item)
{
	const struct setting *s = &settings[item->section];

	for (unsigned i = 0; i < item->pairs; i++) {
		const struct config_pair *pair = &item->pair[i];
		unsigned least = NEAREST_MAX + 1, k = 0;
		const char *near = NULL;

		for (; k < s->keys_n && strcmp(s->keys[k].name, pair->key) != 0; k++) {
			if (nearest_take(pair->key, s->keys[k].name, &least))
				near = s->keys[k].name;
		}
		if (k == s->keys_n)
			return refuse(c, item, pair, "there is no such key%s%s%s",
				      near ? "; did you mean '" : "", near ? near : "",
				      near ? "'?" : "");
		if (find(item, pair->key) != pair)
			return refuse(c, item, pair, "given twice");
	}
	return 0;
}

/* ---- devices ------------------------------------------------------------------------------- */

static int parse_device(const char *text, uint32_t *ret_kind, uint32_t *ret_ordinal)
{
	char why[SETTING_WHY_BYTES];
	uint64_t ordinal;

	if (strncmp(text, "host:", 5) == 0)
		*ret_kind = KVB_DEVICE_HOST;
	else if (strncmp(text, "cuda:", 5) == 0)
		*ret_kind = KVB_DEVICE_CUDA;
	else
		return -EINVAL;
	if (setting_take_number(text + 5, 0, ORDINAL_MAX, &ordinal, why, sizeof(why)))
		return -EINVAL;
	*ret_ordinal = (uint32_t)ordinal;
	return 0;
}

static bool is_uuid(const char *text)
{
	size_t n = strlen(text);

	if (n >= SERVER_UUID_BYTES ||
	    (strncmp(text, "GPU-", 4) != 0 && strncmp(text, "MIG-", 4) != 0))
		return false;
	while (n-- > 0) {
		if (!isalnum((unsigned char)text[n]) && !strchr("-/", text[n]))
			return false;
	}
	return true;
}

int config_parse_device(const char *text, struct server_device_config *ret)
{
	const char *at = strchr(text, '@');
	char name[32];

	*ret = (struct server_device_config){ 0 };
	(void)snprintf(name, sizeof(name), "%.*s", (int)(at ? at - text : 31), text);
	if (parse_device(name, &ret->kind, &ret->ordinal))
		return -EINVAL;
	if (!at)
		return 0;
	if (ret->kind != KVB_DEVICE_CUDA || !is_uuid(at + 1))
		return -EINVAL;
	memcpy(ret->uuid, at + 1, strlen(at + 1) + 1);
	return 0;
}

static int take_uuid(struct config *c, const struct config_item *item,
		     struct server_device_config *d)
{
	const struct config_pair *pair = find(item, "uuid");

	d->uuid[0] = '\0';
	if (!pair)
		return 0;
	if (d->kind != KVB_DEVICE_CUDA)
		return refuse(c, item, pair, "only GPUs have UUIDs");
	if (!is_uuid(pair->text))
		return refuse(c, item, pair,
			      "'%s' is not a UUID (GPU-... or MIG-..., see nvidia-smi -L)",
			      pair->text);
	memcpy(d->uuid, pair->text, strlen(pair->text) + 1);
	return 0;
}

/* Bytes of a NUMA node; 0 and why. */
static uint64_t node_bytes(uint32_t node, const char **ret_why)
{
	const struct topology_node *found;
	enum topology_state state;
	struct topology *t;
	uint64_t bytes = 0;
	int error = topology_read("", &t);

	*ret_why = error ? strerror(-error) : "";
	if (error)
		return 0;
	found = topology_find(t, node);
	state = topology_state(t, node);
	if (found && state == TOPOLOGY_USABLE)
		bytes = found->total_bytes;
	*ret_why = topology_state_text(state);
	topology_free(t);
	return bytes;
}

/* How large a GPU is is known when its owner runs; then its size is looked at again. */
static int take_capacity(struct config *c, const struct config_item *item,
			 struct server_device_config *d)
{
	const struct config_pair *pair = find(item, "size");
	uint64_t whole = 0;
	const char *why;

	if (!pair)
		return refuse(c, item, NULL, "no size (4G)");
	if (d->kind == KVB_DEVICE_HOST) {
		whole = node_bytes(d->ordinal, &why);
		if (!whole)
			return refuse(c, item, NULL, "NUMA node %u %s (see numactl -H)", d->ordinal,
				      why);
	}
	if (size_parse(pair->text, whole, &d->capacity_bytes))
		return refuse(c, item, pair, "'%s' is not a size (512M, 2G%s)", pair->text,
			      whole ? ", 30%" : "; no % of a GPU");
	if (d->capacity_bytes < GPU_HANDLE_BYTES_MIN)
		return refuse(c, item, pair, "less than one handle of 2M");
	return 0;
}

static int take_device(struct config *c, const struct config_item *item)
{
	struct server_config *cfg = &c->cfg;
	struct server_device_config *d = &cfg->device[cfg->devices];

	if (cfg->devices == SERVER_DEVICES_MAX)
		return refuse(c, item, NULL, "%u are as many as there may be", SERVER_DEVICES_MAX);
	if (parse_device(item->title, &d->kind, &d->ordinal))
		return refuse(c, item, NULL, "not a device (host:NODE or cuda:N)");
	if (config_find_device(c, d->kind, d->ordinal) >= 0)
		return refuse(c, item, NULL, "given twice");
	if (take_uuid(c, item, d) || take_capacity(c, item, d))
		return -EINVAL;
	c->device_origin[cfg->devices++] = item->at;
	return 0;
}

/* ---- stores -------------------------------------------------------------------------------- */

static int take_store(struct config *c, const struct config_item *item)
{
	struct server_config *cfg = &c->cfg;
	struct server_store_config *store = &cfg->store[cfg->stores];
	const struct config_pair *pair = find(item, "size");

	if (cfg->stores == SERVER_STORES_MAX)
		return refuse(c, item, NULL, "%u are as many as there may be", SERVER_STORES_MAX);
	if (!item->title[0])
		return refuse(c, item, NULL, "there is no path before the size");
	if (config_find_store(c, item->title) >= 0)
		return refuse(c, item, NULL, "given twice");
	*store = (struct server_store_config){ .path = item->title };
	if (pair && size_parse(pair->text, 0, &store->bytes))
		return refuse(c, item, pair, "'%s' is not a size (20G)", pair->text);
	c->store_origin[cfg->stores++] = item->at;
	return 0;
}

/* ---- tenants ------------------------------------------------------------------------------- */

static int tenant_name(struct config *c, const struct config_item *item, char ret[KVB_NAME_BYTES])
{
	size_t n = strlen(item->title);

	if (n == 0 || n >= KVB_NAME_BYTES)
		return refuse(c, item, NULL, "a name has 1 to %u characters", KVB_NAME_BYTES - 1);
	for (size_t i = 0; i < n; i++) {
		if (!isalnum((unsigned char)item->title[i]) && !strchr("._-", item->title[i]))
			return refuse(c, item, NULL,
				      "a name has letters, digits, '.', '_' and '-'");
	}
	memcpy(ret, item->title, n + 1);
	return 0;
}

static int tenant_device(struct config *c, const struct config_item *item, int *ret)
{
	const struct config_pair *pair = find(item, "device");
	uint32_t kind, ordinal;

	*ret = -1;
	if (!pair)
		return 0;
	if (parse_device(pair->text, &kind, &ordinal))
		return refuse(c, item, pair, "'%s' is not a device (host:NODE or cuda:N)",
			      pair->text);
	*ret = config_find_device(c, kind, ordinal);
	return *ret >= 0 ? 0 : refuse(c, item, pair, "%s is not served", pair->text);
}

/* A size, or a percentage of the tenant's device; of all devices only if there is but one. */
static int tenant_size(struct config *c, const struct config_item *item, const char *key,
		       const struct core_tenant_spec *spec, uint64_t *ret)
{
	const struct config_pair *pair = find(item, key);
	uint64_t whole = 0;

	if (!pair)
		return 0;
	if (strcmp(pair->text, "all") == 0 && strcmp(key, "min") != 0) {
		*ret = UINT64_MAX;
		return 0;
	}
	if (spec->device >= 0)
		whole = c->cfg.device[spec->device].capacity_bytes;
	else if (c->cfg.devices == 1)
		whole = c->cfg.device[0].capacity_bytes;
	if (size_parse(pair->text, whole, ret))
		return refuse(c, item, pair, "'%s' is not a size (512M, 2G%s)", pair->text,
			      whole ? ", 30%" : "; a percentage needs a device");
	return 0;
}

static int tenant_budget(struct config *c, const struct config_item *item,
			 struct core_tenant_spec *spec)
{
	const struct config_pair *weight = find(item, "weight");
	char why[SETTING_WHY_BYTES];
	uint64_t n = 1;

	if (weight && setting_take_number(weight->text, 1, 1000, &n, why, sizeof(why)))
		return refuse(c, item, weight, "%s", why);
	spec->weight = (uint32_t)n;
	spec->max_bytes = UINT64_MAX;
	if (tenant_size(c, item, "min", spec, &spec->min_bytes) ||
	    tenant_size(c, item, "max", spec, &spec->max_bytes))
		return -EINVAL;
	spec->high_bytes = spec->max_bytes;
	if (tenant_size(c, item, "high", spec, &spec->high_bytes))
		return -EINVAL;
	if (spec->min_bytes > spec->high_bytes || spec->high_bytes > spec->max_bytes)
		return refuse(c, item, NULL, "min, high and max are not in this order");
	return 0;
}

static int tenant_uid(struct config *c, const struct config_item *item, uint32_t *ret)
{
	const struct config_pair *pair = find(item, "uid");
	char why[SETTING_WHY_BYTES];
	const struct passwd *user;
	uint64_t n;

	if (!pair)
		return 0;
	if (isdigit((unsigned char)pair->text[0])) {
		if (setting_take_number(pair->text, 0, UINT32_MAX - 1, &n, why, sizeof(why)))
			return refuse(c, item, pair, "%s", why);
		*ret = (uint32_t)n;
		return 0;
	}
	user = getpwnam(pair->text);
	if (!user)
		return refuse(c, item, pair, "there is no user '%s'", pair->text);
	*ret = user->pw_uid;
	return 0;
}

static int take_tenant(struct config *c, const struct config_item *item)
{
	struct server_config *cfg = &c->cfg;
	struct core_tenant_spec *spec = &cfg->tenant[cfg->tenants];
	const struct core_tenant_spec *before = NULL;

	if (cfg->tenants == SERVER_TENANTS_MAX)
		return refuse(c, item, NULL, "%u are as many as there may be", SERVER_TENANTS_MAX);
	*spec = (struct core_tenant_spec){ 0 };
	if (tenant_name(c, item, spec->name) || tenant_device(c, item, &spec->device))
		return -EINVAL;
	for (unsigned i = 0; i < cfg->tenants; i++) {
		if (strcmp(cfg->tenant[i].name, spec->name) != 0)
			continue;
		before = &cfg->tenant[i];
		if (before->device == spec->device)
			return refuse(c, item, NULL, "given twice (one section a device)");
	}
	spec->uid = before ? before->uid : geteuid();
	if (tenant_uid(c, item, &spec->uid))
		return -EINVAL;
	if (before && before->uid != spec->uid)
		return refuse(c, item, find(item, "uid"), "its uid is %u in a section before",
			      before->uid);
	if (tenant_budget(c, item, spec))
		return -EINVAL;
	c->tenant_origin[cfg->tenants++] = item->at;
	return 0;
}

int section_take(struct config *c, const struct config_item *item)
{
	static int (*const take[])(struct config *, const struct config_item *) = {
		[SETTING_DEVICE] = take_device,
		[SETTING_STORE] = take_store,
		[SETTING_TENANT] = take_tenant,
	};

	return check_keys(c, item) ? -EINVAL : take[item->section](c, item);
}
