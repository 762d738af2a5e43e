/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A configuration: what was said in a file and on a command line, made into a struct server_config,
 * and for each value where it came from.
 *
 *   config_build()   defaults -> file -> command line -> what follows from several of them
 *
 * The command line wins: a setting given there takes the place of the file's, and with one --device
 * (or --store, --tenant) there, all sections of that name in the file are left out. What is left
 * out has to make sense all the same. A build is whole or nothing: on any error there is a reason
 * and no configuration, and the first error is the one told. The daemon builds one when it starts
 * and a fresh one for each reload; `broker-ctl config check` builds one and forgets it.
 *
 * A configuration owns the texts that came from the file; the arguments have to outlive it.
 */

#include <stdbool.h>
#include <stdint.h>

#include "broker/config/settings.h"

#define CONFIG_DEFAULT_PATH "/etc/kvbroker/broker.conf"
#define CONFIG_SETTINGS_MAX 32u
#define CONFIG_FILE_BYTES_MAX (1u << 20)

enum config_origin_kind {
	CONFIG_BY_DEFAULT,
	CONFIG_BY_FILE,
	CONFIG_BY_COMMAND_LINE,
	CONFIG_BY_SET, /* broker-ctl config set */
};

struct config_origin {
	enum config_origin_kind kind;
	unsigned line; /* of the file */
};

struct config_arg {
	unsigned setting;
	const char *text;
};

struct config_args {
	const char *path; /* of the file; NULL: none */
	unsigned n;
	const struct config_arg *arg; /* of the command line, in its order */
};

struct config {
	struct config_args args; /* what it was built from */
	struct server_config cfg;
	char *path;                                       /* of the file; NULL: there is none */
	struct config_origin origin[CONFIG_SETTINGS_MAX]; /* by setting; not of sections */
	struct config_origin device_origin[SERVER_DEVICES_MAX];
	struct config_origin store_origin[SERVER_STORES_MAX];
	struct config_origin tenant_origin[SERVER_TENANTS_MAX];
	unsigned texts;
	char **text;
	char why[SETTING_WHY_BYTES]; /* "FILE:LINE: WHAT: WHY", or "--OPTION: WHY" */
};

/* 0, or -EINVAL with ret->why. ret is to be freed in any case. */
int config_build(struct config *ret, const struct config_args *args);
void config_free(struct config *c);

/* "default", "FILE:LINE", "command line", "set". */
void config_print_origin(const struct config *c, struct config_origin at, char *ret, size_t bytes);

/* Its number in c; -1. */
int config_find_device(const struct config *c, uint32_t kind, uint32_t ordinal);
int config_find_store(const struct config *c, const char *path);
/*
 * What is said of a tenant's budget on a device: the last section of that name that speaks of the
 * device. -1: nothing.
 */
int config_find_tenant(const struct config *c, const char *name, unsigned device);

/* "host:0", "cuda:1" */
void config_print_device(const struct server_device_config *d, char *ret, size_t bytes);
/* That, or cuda:1@UUID. 0, -EINVAL. */
int config_parse_device(const char *text, struct server_device_config *ret);
