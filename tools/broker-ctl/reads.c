/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Lists and shows: rows of the stats segment, all or one of them; and nodes, from the kernel's
 * files.
 */

#include <string.h>
#include <strings.h>

#include "numa/topology.h"
#include "tools/broker-ctl/ctl.h"

static cJSON *rows_of(const struct ctl *ctl)
{
	const struct table *table = ctl->command->table;

	if (table == &table_clients)
		return listing_clients(ctl->seg);
	if (table == &table_tenants)
		return listing_tenants(ctl->seg);
	if (table == &table_namespaces)
		return listing_namespaces(ctl->seg);
	if (table == &table_spaces)
		return listing_spaces(ctl->seg);
	if (table == &table_tiers)
		return listing_tiers(ctl->seg);
	return listing_devices(ctl->seg);
}

int ctl_list(struct ctl *ctl)
{
	struct table_view view;
	int r = output_view(ctl, false, &view);

	if (r == 0)
		r = link_open(ctl);
	return r ? r : output_list(ctl, rows_of(ctl));
}

/* Is this the row that `name` names? A namespace by the first digits, TENANT/ before them or not.
 */
static bool row_is(const struct ctl *ctl, const cJSON *row, const char *name)
{
	const struct table *table = ctl->command->table;
	const char *digest, *tenant, *slash;
	char cell[160];

	if (table != &table_namespaces) {
		table_cell(&table->columns[0], row, cell, sizeof(cell));
		return strcmp(cell, name) == 0;
	}
	digest = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, "digest"));
	tenant = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, "tenant"));
	slash = strchr(name, '/');
	if (slash && (strlen(tenant) != (size_t)(slash - name) ||
		      memcmp(tenant, name, (size_t)(slash - name)) != 0))
		return false;
	name = slash ? slash + 1 : name;
	return name[0] && strncasecmp(digest, name, strlen(name)) == 0;
}

/* Rows that are not named go. */
static int keep_named(cJSON *rows, const struct ctl *ctl)
{
	for (int i = cJSON_GetArraySize(rows); i-- > 0;) {
		if (!row_is(ctl, cJSON_GetArrayItem(rows, i), ctl->args[0]))
			cJSON_DeleteItemFromArray(rows, i);
	}
	return cJSON_GetArraySize(rows);
}

int ctl_show(struct ctl *ctl)
{
	const struct table *table = ctl->command->table;
	struct table_view view;
	cJSON *rows;
	int r = output_view(ctl, true, &view);
	int n;

	if (r == 0)
		r = link_open(ctl);
	if (r)
		return r;
	rows = rows_of(ctl);
	n = keep_named(rows, ctl);
	if (n == 0 || (n > 1 && table == &table_namespaces)) {
		cJSON_Delete(rows);
		if (n == 0)
			return ctl_fail(ctl, ADMIN_EXIT_NOT_FOUND, ctl->args[0], NULL,
					"there is no such %s", table->one);
		return ctl_fail(ctl, ADMIN_EXIT_USAGE, ctl->args[0],
				"give more digits, or TENANT/DIGEST",
				"more than one namespace begins like this");
	}
	if (n > 1) /* a tenant, on several devices */
		return output_list(ctl, rows);
	r = output_record(ctl, cJSON_DetachItemFromArray(rows, 0));
	cJSON_Delete(rows);
	return r;
}

int ctl_policy_show(struct ctl *ctl)
{
	struct table_view view;
	uint64_t listed = 0;
	cJSON *row;
	int r = output_view(ctl, true, &view);

	if (r == 0)
		r = link_open(ctl);
	if (r)
		return r;
	for (uint32_t i = 0; i < ctl->seg->spaces_n; i++)
		listed += ctl->seg->space[i].listed;
	row = cJSON_CreateObject();
	cJSON_AddStringToObject(row, "policy", ctl->seg->policy);
	cJSON_AddStringToObject(row, "summary", ctl->seg->policy_summary);
	cJSON_AddNumberToObject(row, "pages_listed", (double)listed);
	cJSON_AddNumberToObject(row, "evictions", (double)ctl->seg->n.evictions);
	return output_record(ctl, row);
}

int ctl_numa_show(struct ctl *ctl)
{
	struct topology *t;
	int r = link_open(ctl), error;

	if (r)
		return r;
	error = topology_read("", &t);
	if (error)
		return ctl_fail(ctl, ADMIN_EXIT_FAILED, "numa show", "is /proc mounted?",
				"the memory of this machine cannot be read: %s", strerror(-error));
	if (output_is_json(ctl))
		r = output_json(ctl, numa_json(t, ctl->seg));
	else
		numa_say(stdout, t, ctl->seg);
	topology_free(t);
	return r;
}
