/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Budgets of tenants, as a configuration wants them and as the core has them.
 *
 * The core checks and sets one tenant at a time. Several can only be kept together: one's minimum
 * may need what another gives up. So the end is checked first, all of it, on the core's figures;
 * then minima that shrink are set before those that grow, and no step on the way can promise more
 * than the end does, so that none is refused. Nothing is granted between the steps: all is one
 * turn.
 */

#include "broker/admin/reload.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "broker/io/fault.h"
#include "broker/io/log.h"

struct want_budget {
	uint64_t min_bytes, high_bytes, max_bytes;
	uint32_t weight;
};

struct want_tenant {
	const char *name; /* of the configuration it was made of */
	uint32_t uid;
	struct want_budget budget[SERVER_DEVICES_MAX];
};

struct reload_tenants {
	unsigned devices;
	unsigned n;
	struct want_tenant tenant[SERVER_TENANTS_MAX];
};

/* ---- what is wanted ------------------------------------------------------------------------ */

static const struct want_tenant *wanted(const struct reload_tenants *w, const char *name)
{
	for (unsigned i = 0; i < w->n; i++) {
		if (strcmp(w->tenant[i].name, name) == 0)
			return &w->tenant[i];
	}
	return NULL;
}

/* Where nothing is said of it, a tenant has what one has of whom nothing is said. */
static void want_add(struct reload_tenants *w, const struct config *c, const char *name,
		     uint32_t uid)
{
	struct want_tenant *t = &w->tenant[w->n++];

	t->name = name;
	t->uid = uid;
	for (unsigned d = 0; d < w->devices; d++) {
		int said = config_find_tenant(c, name, d);
		const struct core_tenant_spec *spec = &c->cfg.tenant[said < 0 ? 0 : said];

		t->budget[d] = said < 0 ? (struct want_budget){ 0, UINT64_MAX, UINT64_MAX, 1 }
					: (struct want_budget){ spec->min_bytes, spec->high_bytes,
								spec->max_bytes, spec->weight };
	}
}

struct reload_tenants *reload_tenants_new(const struct config *c)
{
	struct reload_tenants *w = fault_calloc("admin", 1, sizeof(*w));

	if (!w)
		return NULL;
	w->devices = c->cfg.devices;
	for (unsigned i = 0; i < c->cfg.tenants; i++) {
		const struct core_tenant_spec *spec = &c->cfg.tenant[i];

		if (!wanted(w, spec->name))
			want_add(w, c, spec->name, spec->uid);
	}
	return w;
}

/* ---- what differs -------------------------------------------------------------------------- */

void reload_print_limit(uint64_t n, char *ret, size_t bytes)
{
	if (n == UINT64_MAX)
		(void)snprintf(ret, bytes, "all");
	else
		setting_print_size(n, ret, bytes);
}

static void compare_limit(cJSON *changes, const char *budget, const char *key, uint64_t has,
			  uint64_t wanted)
{
	char what[160], from[32], to[32];

	if (has == wanted)
		return;
	(void)snprintf(what, sizeof(what), "%s.%s", budget, key);
	reload_print_limit(has, from, sizeof(from));
	reload_print_limit(wanted, to, sizeof(to));
	reload_add_change(changes, what, from, to, true);
}

static void compare_number(cJSON *changes, const char *what, uint32_t has, uint32_t wanted)
{
	char from[16], to[16];

	if (has == wanted)
		return;
	(void)snprintf(from, sizeof(from), "%u", has);
	(void)snprintf(to, sizeof(to), "%u", wanted);
	reload_add_change(changes, what, from, to, true);
}

/* A tenant that is new starts as one of whom nothing is said. */
static void compare_tenant(const struct server *s, const struct reload_tenants *w,
			   const struct want_tenant *t, cJSON *changes)
{
	static const struct core_budget fresh = { .high_bytes = UINT64_MAX,
						  .max_bytes = UINT64_MAX,
						  .weight = 1 };
	int tenant = core_tenant_find(&s->core, t->name);
	char what[160];

	(void)snprintf(what, sizeof(what), "tenant.%s", t->name);
	if (tenant < 0)
		reload_add_change(changes, what, "", "made", true);
	(void)snprintf(what, sizeof(what), "tenant.%s.uid", t->name);
	if (tenant >= 0)
		compare_number(changes, what, s->core.tenants[tenant].uid, t->uid);
	for (unsigned d = 0; d < w->devices; d++) {
		const struct core_budget *b =
			tenant < 0 ? &fresh : &s->core.tenants[tenant].budget[d];
		const struct want_budget *want = &t->budget[d];
		char budget[128];

		(void)snprintf(budget, sizeof(budget), "tenant.%s.%s", t->name,
			       s->core.h->device[d].name);
		compare_limit(changes, budget, "min", b->min_bytes, want->min_bytes);
		compare_limit(changes, budget, "high", b->high_bytes, want->high_bytes);
		compare_limit(changes, budget, "max", b->max_bytes, want->max_bytes);
		(void)snprintf(what, sizeof(what), "%s.weight", budget);
		compare_number(changes, what, b->weight, want->weight);
	}
}

void reload_tenants_compare(const struct server *s, const struct reload_tenants *w, cJSON *changes,
			    cJSON *kept)
{
	for (unsigned i = 0; i < w->n; i++)
		compare_tenant(s, w, &w->tenant[i], changes);
	for (unsigned t = 0; t < s->core.h->limits.tenants; t++) {
		const struct core_tenant *has = &s->core.tenants[t];

		if (has->used && !wanted(w, has->name))
			cJSON_AddItemToArray(kept, cJSON_CreateString(has->name));
	}
}

/* ---- can it be kept? ----------------------------------------------------------------------- */

static void promise(const struct core_budget *has, uint64_t min_bytes, uint64_t *minima,
		    uint64_t *unmet)
{
	uint64_t used = has ? has->used_bytes : 0;

	*minima = min_bytes > UINT64_MAX - *minima ? UINT64_MAX : *minima + min_bytes;
	*unmet += min_bytes > used ? min_bytes - used : 0;
}

/* The two rules of core/tenant.c, for all tenants together. */
static int check_device(const struct server *s, const struct reload_tenants *w, unsigned device,
			char *why, size_t why_bytes)
{
	const struct core_device *d = &s->core.h->device[device];
	uint64_t minima = 0, unmet = 0, free_bytes = d->capacity_bytes - d->granted_bytes;

	for (unsigned t = 0; t < s->core.h->limits.tenants; t++) {
		const struct core_tenant *has = &s->core.tenants[t];
		const struct want_tenant *want = has->used ? wanted(w, has->name) : NULL;

		if (has->used)
			promise(&has->budget[device],
				want ? want->budget[device].min_bytes
				     : has->budget[device].min_bytes,
				&minima, &unmet);
	}
	for (unsigned i = 0; i < w->n; i++) {
		if (core_tenant_find(&s->core, w->tenant[i].name) < 0)
			promise(NULL, w->tenant[i].budget[device].min_bytes, &minima, &unmet);
	}
	if (minima > d->capacity_bytes)
		(void)snprintf(why, why_bytes,
			       "the minima of all tenants on %s, those that the file does not name "
			       "too, are %s together, and it has %s",
			       d->name, core_size(minima).text, core_size(d->capacity_bytes).text);
	else if (unmet > free_bytes)
		(void)snprintf(
			why, why_bytes,
			"the minima of tenants on %s promise %s beyond what they use, and %s "
			"is free: shrink others first",
			d->name, core_size(unmet).text, core_size(free_bytes).text);
	else
		return 0;
	return -ENOSPC;
}

int reload_tenants_check(const struct server *s, const struct reload_tenants *w, char *why,
			 size_t why_bytes)
{
	unsigned more = 0;
	int error = 0;

	for (unsigned i = 0; i < w->n; i++)
		more += core_tenant_find(&s->core, w->tenant[i].name) < 0;
	if (more > s->core.h->limits.tenants - s->core.h->tenants_used) {
		(void)snprintf(why, why_bytes,
			       "%u tenants are new, and the table of %u has no room for them: "
			       "delete others first",
			       more, s->core.h->limits.tenants);
		return -ENOSPC;
	}
	for (unsigned d = 0; d < w->devices && !error; d++)
		error = check_device(s, w, d, why, why_bytes);
	return error;
}

/* ---- setting it ---------------------------------------------------------------------------- */

static bool is_set(const struct server *s, const struct want_tenant *t, unsigned device)
{
	int tenant = core_tenant_find(&s->core, t->name);
	const struct want_budget *want = &t->budget[device];
	const struct core_budget *b;

	if (tenant < 0 || s->core.tenants[tenant].uid != t->uid)
		return false;
	b = &s->core.tenants[tenant].budget[device];
	return b->min_bytes == want->min_bytes && b->high_bytes == want->high_bytes &&
	       b->max_bytes == want->max_bytes && b->weight == want->weight;
}

static bool grows(const struct server *s, const struct want_tenant *t, unsigned device)
{
	int tenant = core_tenant_find(&s->core, t->name);

	return t->budget[device].min_bytes >
	       (tenant < 0 ? 0 : s->core.tenants[tenant].budget[device].min_bytes);
}

static void set(struct server *s, const struct want_tenant *t, unsigned device)
{
	const struct want_budget *want = &t->budget[device];
	struct core_tenant_spec spec = {
		.uid = t->uid,
		.device = (int)device,
		.min_bytes = want->min_bytes,
		.high_bytes = want->high_bytes,
		.max_bytes = want->max_bytes,
		.weight = want->weight,
	};
	char why[256];

	(void)snprintf(spec.name, sizeof(spec.name), "%s", t->name);
	if (core_tenant_set(&s->core, &spec, false, why, sizeof(why)) < 0)
		log_error("config: tenant %s: refused after it was checked: %s", t->name, why);
}

void reload_tenants_apply(struct server *s, const struct reload_tenants *w)
{
	for (unsigned i = 0; i < w->n; i++) {
		for (unsigned d = 0; d < w->devices; d++) {
			if (!is_set(s, &w->tenant[i], d) && !grows(s, &w->tenant[i], d))
				set(s, &w->tenant[i], d);
		}
	}
	for (unsigned i = 0; i < w->n; i++) {
		for (unsigned d = 0; d < w->devices; d++) {
			if (!is_set(s, &w->tenant[i], d))
				set(s, &w->tenant[i], d);
		}
	}
}
