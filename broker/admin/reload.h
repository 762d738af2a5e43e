/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A running daemon and a configuration of now: what differs, and taking it over.
 *
 * The file is read into a fresh configuration, with the same command line as at the start. What
 * differs is listed; if all of it can change in a running daemon, and what it promises to tenants
 * can be kept, all of it is taken over, else nothing. So after a reload that succeeded the daemon
 * is as if started from the file, but for tenants that the file does not name: they stay, because
 * taking away memory that is in use is for `broker-ctl tenant delete`.
 */

#include <cjson/cJSON.h>

#include "broker/config/config.h"
#include "broker/io/server.h"

struct reload_tenants;

enum reload_result {
	RELOAD_DONE,    /* or would be */
	RELOAD_WRONG,   /* the file: why */
	RELOAD_RESTART, /* something takes effect at the next start only */
	RELOAD_REFUSED, /* tenants: why */
};

/*
 * What the file at `path` (NULL: the daemon's own) would change; all of it is done if `apply` and
 * nothing speaks against it, and logged. The answer gets "file", "changes" (key, from, to, live)
 * and "kept", the tenants that stay; why at least SETTING_WHY_BYTES.
 */
enum reload_result reload_file(struct server *s, const char *path, bool apply, cJSON *answer,
			       char *why);
/* SIGHUP: the daemon's own file; what comes of it is logged. */
void reload_on_signal(struct server *s);
/* Takes over one setting that is live from `from`. */
void reload_take(struct server *s, unsigned setting, const struct config *from);

/* One thing that differs. "" is none. */
void reload_add_change(cJSON *changes, const char *key, const char *from, const char *to,
		       bool live);
void reload_print_limit(uint64_t n, char *ret, size_t bytes); /* a size, or "all" */

/*
 * reload_tenants.c: what c wants of tenants, whose devices are those of the core, in its order.
 * NULL: no memory. Refers to c; to be freed.
 */
struct reload_tenants *reload_tenants_new(const struct config *c);
void reload_tenants_compare(const struct server *s, const struct reload_tenants *w, cJSON *changes,
			    cJSON *kept);
/* Can all of it be kept together? -ENOSPC and why. */
int reload_tenants_check(const struct server *s, const struct reload_tenants *w, char *why,
			 size_t why_bytes);
void reload_tenants_apply(struct server *s, const struct reload_tenants *w);
