/* SPDX-License-Identifier: Apache-2.0 */

/*
 * tenant set, tenant delete.
 *
 * `tenant set NAME KEY=VALUE...`: keys min, high, max (bytes; `all` for no limit of its own),
 * weight, uid, device (name; without it every device). What is not named keeps its value; a new
 * tenant starts from min 0, high and max all, weight 1. Because devices may differ in what they
 * keep, each gets its own specification: all are tried before any is set, so that the whole is done
 * or refused. The core's refusals bring their arithmetic. An arena, the host memory below devices,
 * has budgets too; as it is another size and not a device, it is meant only when it is named.
 */

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "broker/admin/commands.h"
#include "broker/io/log.h"

/* One of the keys as given; what was not is left as it is. */
struct tenant_change {
	const char *name;
	int device; /* -1: all */
	bool has_min, has_high, has_max, has_weight, has_uid;
	uint64_t min_bytes, high_bytes, max_bytes, weight, uid;
};

static int tenant_device(const struct core *c, const char *name)
{
	for (unsigned i = 0; i < CORE_DEVICES_MAX; i++) {
		const struct core_device *d = &c->h->device[i];

		if (d->state != CORE_DEVICE_NONE && strcmp(d->name, name) == 0)
			return (int)i;
	}
	return -ENODEV;
}

static bool parse_number(const char *value, bool *has, uint64_t *ret)
{
	*has = true;
	return command_parse_number(value, ret);
}

static bool parse_bytes(const char *value, bool *has, uint64_t *ret)
{
	if (strcmp(value, "all") != 0)
		return parse_number(value, has, ret);
	*has = true;
	*ret = UINT64_MAX;
	return true;
}

/* False: has answered. */
static bool tenant_parse(struct admin_conn *conn, struct tenant_change *ret)
{
	*ret = (struct tenant_change){ .name = conn->argv[0], .device = -1 };
	for (unsigned i = 1; i < conn->argc; i++) {
		const char *arg = conn->argv[i];
		bool good;

		if (strncmp(arg, "min=", 4) == 0)
			good = parse_number(arg + 4, &ret->has_min, &ret->min_bytes);
		else if (strncmp(arg, "high=", 5) == 0)
			good = parse_bytes(arg + 5, &ret->has_high, &ret->high_bytes);
		else if (strncmp(arg, "max=", 4) == 0)
			good = parse_bytes(arg + 4, &ret->has_max, &ret->max_bytes);
		else if (strncmp(arg, "weight=", 7) == 0)
			good = parse_number(arg + 7, &ret->has_weight, &ret->weight);
		else if (strncmp(arg, "uid=", 4) == 0)
			good = parse_number(arg + 4, &ret->has_uid, &ret->uid) &&
			       ret->uid < UINT32_MAX;
		else if (strncmp(arg, "device=", 7) == 0)
			good = (ret->device = tenant_device(conn->core, arg + 7)) >= 0;
		else
			good = false;
		if (!good) {
			command_fail(conn, ADMIN_EXIT_USAGE, arg,
				     "keys: min= high= max= weight= uid= device=",
				     "not a KEY=VALUE of tenant set");
			return false;
		}
	}
	if (ret->has_weight && (ret->weight < 1 || ret->weight > 1000)) {
		command_fail(conn, ADMIN_EXIT_USAGE, "weight", NULL, "it is 1 to 1000");
		return false;
	}
	return true;
}

/* What the tenant's budget on device d is to be. */
static struct core_tenant_spec tenant_spec(const struct admin_conn *conn,
					   const struct tenant_change *ch, int tenant, unsigned d)
{
	struct core_tenant_spec spec = {
		.uid = conn->session->uid,
		.device = (int)d,
		.high_bytes = UINT64_MAX,
		.max_bytes = UINT64_MAX,
		.weight = 1,
	};

	if (tenant >= 0) {
		const struct core_budget *b = &conn->core->tenants[tenant].budget[d];

		spec.uid = conn->core->tenants[tenant].uid;
		spec.min_bytes = b->min_bytes;
		spec.high_bytes = b->high_bytes;
		spec.max_bytes = b->max_bytes;
		spec.weight = b->weight;
	}
	(void)snprintf(spec.name, sizeof(spec.name), "%s", ch->name);
	if (ch->has_min)
		spec.min_bytes = ch->min_bytes;
	if (ch->has_max)
		spec.max_bytes = ch->max_bytes;
	if (ch->has_high)
		spec.high_bytes = ch->high_bytes;
	else if (ch->has_max && spec.high_bytes > spec.max_bytes)
		spec.high_bytes = spec.max_bytes; /* a lower max takes high along */
	if (ch->has_weight)
		spec.weight = (uint32_t)ch->weight;
	if (ch->has_uid)
		spec.uid = (uint32_t)ch->uid;
	return spec;
}

static void add_limit(cJSON *to, const char *key, uint64_t bytes)
{
	if (bytes == UINT64_MAX)
		cJSON_AddNullToObject(to, key);
	else
		cJSON_AddNumberToObject(to, key, (double)bytes);
}

static void add_budget(cJSON *budgets, const struct core *c, int tenant,
		       const struct core_tenant_spec *spec)
{
	const struct core_device *d = &c->h->device[spec->device];
	cJSON *b = cJSON_CreateObject();

	cJSON_AddItemToArray(budgets, b);
	cJSON_AddStringToObject(b, "device", d->name);
	cJSON_AddNumberToObject(b, "min_bytes", (double)spec->min_bytes);
	add_limit(b, "high_bytes", spec->high_bytes);
	add_limit(b, "max_bytes", spec->max_bytes);
	cJSON_AddNumberToObject(b, "weight", spec->weight);
	cJSON_AddNumberToObject(
		b, "used_bytes",
		tenant < 0 ? 0 : (double)c->tenants[tenant].budget[spec->device].used_bytes);
	cJSON_AddNumberToObject(b, "capacity_bytes", (double)d->capacity_bytes);
	cJSON_AddNumberToObject(b, "free_bytes", (double)(d->capacity_bytes - d->granted_bytes));
}

/* Tries or sets every device. 0, or the core's errno with the arithmetic in why. */
static int tenant_apply(struct admin_conn *conn, const struct tenant_change *ch, int tenant,
			bool dry_run, cJSON *budgets, char *why, size_t why_bytes)
{
	const struct core *c = conn->core;

	for (unsigned d = 0; d < CORE_DEVICES_MAX; d++) {
		struct core_tenant_spec spec;
		int r;

		if (c->h->device[d].state == CORE_DEVICE_NONE ||
		    (ch->device >= 0 ? ch->device != (int)d
				     : c->h->device[d].kind == CORE_KIND_ARENA))
			continue;
		spec = tenant_spec(conn, ch, tenant, d);
		r = core_tenant_set(conn->core, &spec, dry_run, why, why_bytes);
		if (r < 0)
			return r;
		if (budgets)
			add_budget(budgets, c, tenant, &spec);
	}
	return 0;
}

/* Names go to logs, terminals, and before the slash of TENANT/DIGEST. */
static bool tenant_name_valid(const char *name)
{
	size_t n = strlen(name);

	if (n < 1 || n >= KVB_NAME_BYTES)
		return false;
	for (size_t i = 0; i < n; i++) {
		if (name[i] <= ' ' || name[i] > '~' || name[i] == '/')
			return false;
	}
	return true;
}

void command_tenant_set(struct admin_conn *conn)
{
	struct tenant_change ch;
	char why[400] = "";
	cJSON *answer;
	int tenant, r;

	if (!tenant_parse(conn, &ch))
		return;
	if (!tenant_name_valid(ch.name)) {
		command_fail(conn, ADMIN_EXIT_USAGE, "tenant set", NULL,
			     "a name has 1 to %u printable characters and no slash or space",
			     KVB_NAME_BYTES - 1);
		return;
	}
	tenant = core_tenant_find(conn->core, ch.name);
	answer = cJSON_CreateObject();
	cJSON_AddStringToObject(answer, "tenant", ch.name);
	cJSON_AddBoolToObject(answer, "created", tenant < 0);
	cJSON_AddNumberToObject(answer, "uid", tenant_spec(conn, &ch, tenant, 0).uid);
	r = tenant_apply(conn, &ch, tenant, true, cJSON_AddArrayToObject(answer, "budgets"), why,
			 sizeof(why));
	if (r == 0 && !conn->dry_run)
		r = tenant_apply(conn, &ch, tenant, false, NULL, why, sizeof(why));
	if (r < 0) {
		cJSON_Delete(answer);
		command_fail(conn, r == -EINVAL ? ADMIN_EXIT_USAGE : ADMIN_EXIT_FAILED,
			     "tenant set", "nothing was changed", "%s", why);
		return;
	}
	cJSON_AddBoolToObject(answer, "dry_run", conn->dry_run);
	if (!conn->dry_run)
		log_info("tenant %s is %s by uid %u", ch.name, tenant < 0 ? "created" : "changed",
			 conn->session->uid);
	command_answer(conn, ADMIN_EXIT_OK, answer);
}

/*
 * A tenant's memory goes back first: what it cached is lost, and its slabs take a moment. Until
 * then the answer is "partial", and the operator asks again.
 */
void command_tenant_delete(struct admin_conn *conn)
{
	const char *name = conn->argv[0];
	int tenant = core_tenant_find(conn->core, name);
	const struct core_tenant *t;
	uint64_t used = 0;
	bool deleted = false;
	cJSON *answer;

	if (tenant < 0) {
		command_fail(conn, ADMIN_EXIT_NOT_FOUND, name, "see broker-ctl tenant list",
			     "no such tenant");
		return;
	}
	t = &conn->core->tenants[tenant];
	if (t->clients) {
		command_fail(conn, ADMIN_EXIT_BUSY, name, "stop or kick them first",
			     "%u clients are connected", t->clients);
		return;
	}
	for (unsigned d = 0; d < CORE_DEVICES_MAX; d++)
		used += t->budget[d].used_bytes;
	if (!conn->dry_run) {
		deleted = core_tenant_delete(conn->core, (unsigned)tenant) == 0;
		log_info("tenant %s is %s by uid %u", name, deleted ? "deleted" : "emptied",
			 conn->session->uid);
	}
	answer = cJSON_CreateObject();
	cJSON_AddStringToObject(answer, "tenant", name);
	cJSON_AddNumberToObject(answer, "used_bytes", (double)used);
	cJSON_AddBoolToObject(answer, "deleted", deleted);
	cJSON_AddBoolToObject(answer, "dry_run", conn->dry_run);
	command_answer(conn, deleted || conn->dry_run ? ADMIN_EXIT_OK : ADMIN_EXIT_PARTIAL, answer);
}
