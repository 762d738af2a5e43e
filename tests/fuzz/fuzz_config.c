/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Any bytes as a configuration file: it is refused with the file's name and a reason, or taken, and
 * then it holds what it promises: at least one device, tenants on devices that there are, values
 * that print as what is read again. After each a good file is read, because the parser is one for
 * the whole process and must not keep anything of what came before.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "broker/config/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

#define MUST(cond)                                                                                 \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

static const char good[] = "device cuda:0 { size = 64M }\ndrain = \"7\" # ms\n";

static int build(struct config *config, const void *text, size_t bytes)
{
	static int fd = -1;
	static char path[64];
	struct config_args args = { .path = path };

	if (fd < 0) {
		fd = memfd_create("config", 0);
		(void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	}
	MUST(ftruncate(fd, 0) == 0 && pwrite(fd, text, bytes, 0) == (ssize_t)bytes);
	return config_build(config, &args);
}

static void check_values(const struct config *config)
{
	char text[SETTING_TEXT_BYTES], again[SETTING_TEXT_BYTES], why[SETTING_WHY_BYTES];
	struct server_config other = { 0 };

	for (unsigned i = SETTING_SECTIONS_N; i < settings_n; i++) {
		setting_print(&settings[i], &config->cfg, text, sizeof(text));
		if (!text[0])
			continue;
		MUST(setting_take(&settings[i], &other, text, why, sizeof(why)) == 0);
		setting_print(&settings[i], &other, again, sizeof(again));
		MUST(strcmp(text, again) == 0);
	}
}

static void check(const struct config *config)
{
	const struct server_config *c = &config->cfg;

	MUST(c->devices >= 1 && c->devices <= SERVER_DEVICES_MAX);
	MUST(c->stores <= SERVER_STORES_MAX);
	MUST(c->tenants >= 1 && c->tenants <= SERVER_TENANTS_MAX);
	for (unsigned i = 0; i < c->stores; i++)
		MUST(c->store[i].path[0]);
	for (unsigned i = 0; i < c->tenants; i++) {
		const struct core_tenant_spec *t = &c->tenant[i];

		MUST(t->name[0] && strnlen(t->name, sizeof(t->name)) < sizeof(t->name));
		MUST(t->device >= -1 && t->device < (int)c->devices);
		MUST(t->min_bytes <= t->high_bytes && t->high_bytes <= t->max_bytes);
		MUST(t->weight >= 1 && t->weight <= 1000);
	}
	check_values(config);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	static struct config config;

	if (bytes > CONFIG_FILE_BYTES_MAX)
		return 0;
	if (build(&config, data, bytes) == 0)
		check(&config);
	else
		MUST(strncmp(config.why, "/proc/self/fd/", 14) == 0 && strchr(config.why, ' '));
	config_free(&config);
	MUST(build(&config, good, sizeof(good) - 1) == 0);
	MUST(config.cfg.drain_ns == 7000000 && config.cfg.devices == 1);
	config_free(&config);
	return 0;
}
