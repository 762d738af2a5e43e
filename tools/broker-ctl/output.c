/* SPDX-License-Identifier: Apache-2.0 */

/*
 * An answer in the format asked for.
 */

#include <errno.h>
#include <stdlib.h>

#include "tools/broker-ctl/ctl.h"

bool output_flush(struct ctl *ctl)
{
	/* The C library forgets what it could not write, and with it why. */
	if (fflush(stdout) == EOF && !ctl->output_error)
		ctl->output_error = errno;
	return !ctl->output_error && !ferror(stdout);
}

bool output_is_json(const struct ctl *ctl)
{
	return ctl->format == CTL_JSON || ctl->format == CTL_PRETTY;
}

int output_json(struct ctl *ctl, cJSON *document)
{
	char *text = ctl->format == CTL_PRETTY ? cJSON_Print(document)
					       : cJSON_PrintUnformatted(document);

	cJSON_Delete(document);
	if (!text)
		return ctl_fail(ctl, ADMIN_EXIT_FAILED, "output", NULL, "out of memory");
	(void)puts(text);
	free(text);
	return ADMIN_EXIT_OK;
}

int output_view(struct ctl *ctl, bool all, struct table_view *ret)
{
	char bad[64];

	if (table_select(ctl->command->table, ctl->value[OPT_FIELDS], all, ret, bad))
		return 0;
	return ctl_fail(ctl, ADMIN_EXIT_USAGE, "--fields", "see --help of the command",
			"there is no field '%s'", bad);
}

int output_list(struct ctl *ctl, cJSON *rows)
{
	struct table_view view;
	int r = output_view(ctl, output_is_json(ctl), &view);
	bool header = !ctl_has(ctl, OPT_NO_HEADER);

	if (r == 0 && output_is_json(ctl)) {
		cJSON *document = cJSON_CreateObject();
		cJSON *list = cJSON_AddArrayToObject(document, view.table->name);
		const cJSON *row;

		cJSON_ArrayForEach(row, rows) cJSON_AddItemToArray(list, table_project(&view, row));
		r = output_json(ctl, document);
	} else if (r == 0 && ctl->format == CTL_CSV) {
		table_print_csv(&view, rows, header);
	} else if (r == 0) {
		table_print_text(&view, rows, header);
	}
	cJSON_Delete(rows);
	return r;
}

int output_record(struct ctl *ctl, cJSON *row)
{
	struct table_view view;
	int r = output_view(ctl, true, &view);

	if (r == 0 && output_is_json(ctl)) {
		r = output_json(ctl, table_project(&view, row));
		cJSON_Delete(row);
		return r;
	}
	if (r == 0 && ctl->format == CTL_CSV) {
		cJSON *rows = cJSON_CreateArray();

		cJSON_AddItemToArray(rows, row);
		table_print_csv(&view, rows, !ctl_has(ctl, OPT_NO_HEADER));
		cJSON_Delete(rows);
		return 0;
	}
	if (r == 0)
		table_print_record(&view, row, !ctl_has(ctl, OPT_NO_HEADER));
	cJSON_Delete(row);
	return r;
}
