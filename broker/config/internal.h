/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What the files of broker/config share while a configuration is built: sections as they were said,
 * before anything is made of them. They wait until all are known, because a tenant may name a
 * device that comes after it.
 */

#include "broker/config/config.h"

struct config_pair {
	const char *key, *text;
	unsigned line;
};

struct config_item {
	enum setting_section section;
	struct config_origin at; /* in a file: the line of its first key */
	const char *title;
	unsigned pairs;
	struct config_pair pair[SETTING_KEYS_MAX];
};

struct config_builder {
	struct config *config;
	unsigned items;
	struct config_item *item;
};

/* Says into config->why where `what` stands and what is wrong; returns -EINVAL. */
int config_refuse(struct config *c, struct config_origin at, const char *what, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
/* A copy that lives as long as c; NULL: no memory, said. */
const char *config_keep(struct config *c, const char *text, size_t n);
/* A new section, all zero but its kind; NULL: no memory, said. */
struct config_item *config_add_item(struct config_builder *b, enum setting_section section);
/* A setting that is no section. */
int config_take(struct config *c, unsigned setting, struct config_origin at, const char *text);

/* file.c: reads c->path: settings are taken, sections added. */
int config_read_file(struct config_builder *b);

/* sections.c */
int section_of_argument(struct config_builder *b, enum setting_section section, const char *text);
/* Devices first, tenants last. */
int section_take(struct config *c, const struct config_item *item);
