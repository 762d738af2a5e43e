/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Building a configuration from its sources; see config.h.
 */

#include "broker/config/config.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/config/internal.h"
#include "broker/mover/wire.h"
#include "cuda_driver/gpu.h"

#define PAGES_MIN (1u << 20)
#define PAGE_BYTES_SMALL (16ull << 10) /* tables are sized for pages of this size */
#define PAGES_TIER_MAX (8u << 20)      /* no more than that for the sake of a tier */
#define TIER_PAGE_BYTES (64ull << 10)
#define TIER_SPACES 128u /* each has another below it */

static const struct config_origin by_default;

/* ---- what the other files build with ------------------------------------------------------- */

int config_refuse(struct config *c, struct config_origin at, const char *what, const char *fmt, ...)
{
	int n = 0;
	va_list args;

	if (at.kind == CONFIG_BY_FILE)
		n = snprintf(c->why, sizeof(c->why), "%s:%u: %s: ", c->path, at.line, what);
	else if (at.kind == CONFIG_BY_COMMAND_LINE)
		n = snprintf(c->why, sizeof(c->why), "--%s: ", what);
	else
		n = snprintf(c->why, sizeof(c->why), "%s%s%s: ", c->path ? c->path : "",
			     c->path ? ": " : "", what);
	/* An option has dashes where the file has underscores; what it names is left alone. */
	for (char *t = c->why; at.kind == CONFIG_BY_COMMAND_LINE && *t && !strchr(" :", *t); t++)
		*t = *t == '_' ? '-' : *t;
	if (n < 0 || (size_t)n >= sizeof(c->why))
		return -EINVAL;
	va_start(args, fmt);
	(void)vsnprintf(c->why + n, sizeof(c->why) - (size_t)n, fmt, args);
	va_end(args);
	return -EINVAL;
}

static int no_memory(struct config *c)
{
	return config_refuse(c, by_default, "configuration", "there is no memory for it");
}

const char *config_keep(struct config *c, const char *text, size_t n)
{
	char **more = realloc(c->text, (c->texts + 1) * sizeof(*more));

	if (more) {
		c->text = more;
		c->text[c->texts] = strndup(text, n);
	}
	if (!more || !c->text[c->texts]) {
		(void)no_memory(c);
		return NULL;
	}
	return c->text[c->texts++];
}

struct config_item *config_add_item(struct config_builder *b, enum setting_section section)
{
	struct config_item *more = realloc(b->item, (b->items + 1) * sizeof(*more));

	if (!more) {
		(void)no_memory(b->config);
		return NULL;
	}
	b->item = more;
	b->item[b->items] = (struct config_item){ .section = section };
	return &b->item[b->items++];
}

int config_take(struct config *c, unsigned setting, struct config_origin at, const char *text)
{
	char why[SETTING_WHY_BYTES];

	if (setting_take(&settings[setting], &c->cfg, text, why, sizeof(why)))
		return config_refuse(c, at, settings[setting].name, "%s", why);
	c->origin[setting] = at;
	return 0;
}

/* ---- what follows from several settings ---------------------------------------------------- */

static bool is_said(const struct config *c, const char *name)
{
	return c->origin[setting_find(name)].kind != CONFIG_BY_DEFAULT;
}

/* Pages of a tier come on top, and are never leased. */
static void settle_pages(struct server_config *cfg)
{
	uint64_t pages = 0, more = cfg->tier_bytes / TIER_PAGE_BYTES;
	uint32_t of_devices, room;

	for (unsigned i = 0; i < cfg->devices; i++)
		pages += cfg->device[i].capacity_bytes / PAGE_BYTES_SMALL;
	of_devices = pages < PAGES_MIN           ? PAGES_MIN
		     : pages > SETTING_PAGES_MAX ? SETTING_PAGES_MAX
						 : (uint32_t)pages;
	room = of_devices < PAGES_TIER_MAX ? PAGES_TIER_MAX - of_devices : 0;
	cfg->limits.pages = of_devices + (more < room ? (uint32_t)more : room);
	if (!cfg->limits.leases)
		cfg->limits.leases = of_devices;
}

static int settle_stores(struct config *c)
{
	for (unsigned i = 0; c->cfg.stores && !c->cfg.tier_bytes && i < c->cfg.devices; i++) {
		if (c->cfg.device[i].kind == KVB_DEVICE_CUDA)
			return config_refuse(c, c->store_origin[0], "store",
					     "pages of cuda:%u pass through host memory on their "
					     "way there (give host_tier, --host-tier, too)",
					     c->cfg.device[i].ordinal);
	}
	return 0;
}

/* Nobody is named: whoever runs the daemon may have everything. */
static void settle_tenants(struct server_config *cfg)
{
	if (cfg->tenants)
		return;
	cfg->tenant[cfg->tenants++] = (struct core_tenant_spec){
		.name = "default",
		.uid = geteuid(),
		.device = -1,
		.high_bytes = UINT64_MAX,
		.max_bytes = UINT64_MAX,
		.weight = 1,
	};
}

/* Each device can keep what it promises to tenants, which the core also asks, later. */
static int settle_minima(struct config *c)
{
	const struct server_config *cfg = &c->cfg;

	for (unsigned d = 0; d < cfg->devices; d++) {
		uint64_t left = cfg->device[d].capacity_bytes;
		char device[32];

		config_print_device(&cfg->device[d], device, sizeof(device));
		for (unsigned i = 0; i < cfg->tenants; i++) {
			const struct core_tenant_spec *spec = &cfg->tenant[i];

			if (config_find_tenant(c, spec->name, d) != (int)i)
				continue;
			if (spec->min_bytes > left)
				return config_refuse(c, c->tenant_origin[i], "tenant",
						     "%s: asks for %s min of %s, of which only %s "
						     "are not promised to tenants before it",
						     spec->name, core_size(spec->min_bytes).text,
						     device, core_size(left).text);
			left -= spec->min_bytes;
		}
	}
	return 0;
}

static int settle(struct config *c)
{
	struct server_config *cfg = &c->cfg;

	if (!cfg->devices)
		return config_refuse(c, by_default, "no device",
				     "nothing to serve (as --device host:0=4G or cuda:0=60G, or in "
				     "a file: --config)");
	if (!cfg->limits.pages)
		settle_pages(cfg);
	if (!cfg->limits.leases)
		cfg->limits.leases = cfg->limits.pages;
	if (cfg->tier_bytes)
		cfg->limits.spaces = TIER_SPACES;
	if (cfg->tier_bytes || cfg->stores)
		cfg->limits.transfers = MOVER_RING_ENTRIES;
	if (!is_said(c, "clients_per_uid"))
		cfg->clients_per_uid = (cfg->limits.clients * 3 + 3) / 4;
	settle_tenants(cfg);
	return settle_stores(c) ? -EINVAL : settle_minima(c);
}

/* ---- the sources, one after another -------------------------------------------------------- */

static int take_arguments(struct config_builder *b, const struct config_args *args)
{
	static const struct config_origin at = { .kind = CONFIG_BY_COMMAND_LINE };

	for (unsigned i = 0; i < args->n; i++) {
		unsigned setting = args->arg[i].setting;
		int error;

		if (setting_is_section(setting))
			error = section_of_argument(b, (enum setting_section)setting,
						    args->arg[i].text);
		else
			error = config_take(b->config, setting, at, args->arg[i].text);
		if (error)
			return error;
	}
	return 0;
}

/* Those of one kind: the command line's, and if it has none the file's. */
static int take_sections(struct config_builder *b, enum setting_section section)
{
	bool given = false;
	int error = 0;

	for (unsigned i = 0; i < b->items; i++)
		given |= b->item[i].section == section &&
			 b->item[i].at.kind == CONFIG_BY_COMMAND_LINE;
	for (unsigned i = 0; i < b->items && !error; i++) {
		const struct config_item *item = &b->item[i];

		if (item->section == section && (!given || item->at.kind == CONFIG_BY_COMMAND_LINE))
			error = section_take(b->config, item);
	}
	return error;
}

int config_build(struct config *ret, const struct config_args *args)
{
	struct config_builder b = { .config = ret };
	int error = 0;

	*ret = (struct config){ .args = *args };
	settings_init(&ret->cfg);
	if (args->path) {
		ret->path = strdup(args->path);
		error = ret->path ? config_read_file(&b) : no_memory(ret);
	}
	if (!error)
		error = take_arguments(&b, args);
	for (unsigned s = 0; s < SETTING_SECTIONS_N && !error; s++)
		error = take_sections(&b, (enum setting_section)s);
	if (!error)
		error = settle(ret);
	free(b.item);
	return error;
}

void config_free(struct config *c)
{
	for (unsigned i = 0; i < c->texts; i++)
		free(c->text[i]);
	free(c->text);
	free(c->path);
	*c = (struct config){ 0 };
}

int config_find_device(const struct config *c, uint32_t kind, uint32_t ordinal)
{
	for (unsigned i = 0; i < c->cfg.devices; i++) {
		if (c->cfg.device[i].kind == kind && c->cfg.device[i].ordinal == ordinal)
			return (int)i;
	}
	return -1;
}

int config_find_store(const struct config *c, const char *path)
{
	for (unsigned i = 0; i < c->cfg.stores; i++) {
		if (strcmp(c->cfg.store[i].path, path) == 0)
			return (int)i;
	}
	return -1;
}

int config_find_tenant(const struct config *c, const char *name, unsigned device)
{
	for (unsigned i = c->cfg.tenants; i-- > 0;) {
		const struct core_tenant_spec *spec = &c->cfg.tenant[i];

		if ((spec->device < 0 || spec->device == (int)device) &&
		    strcmp(spec->name, name) == 0)
			return (int)i;
	}
	return -1;
}

void config_print_origin(const struct config *c, struct config_origin at, char *ret, size_t bytes)
{
	static const char *const words[] = {
		[CONFIG_BY_DEFAULT] = "default",
		[CONFIG_BY_COMMAND_LINE] = "command line",
		[CONFIG_BY_SET] = "set",
	};

	if (at.kind == CONFIG_BY_FILE)
		(void)snprintf(ret, bytes, "%s:%u", c->path, at.line);
	else
		(void)snprintf(ret, bytes, "%s", words[at.kind]);
}

void config_print_device(const struct server_device_config *d, char *ret, size_t bytes)
{
	(void)snprintf(ret, bytes, "%s:%u", d->kind == KVB_DEVICE_HOST ? "host" : "cuda",
		       d->ordinal);
}
