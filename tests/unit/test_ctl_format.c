/* SPDX-License-Identifier: Apache-2.0 */

/*
 * broker-ctl without a daemon: numbers for people, CSV, fields, the command line, and reading a
 * segment that somebody else wrote.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "broker/admin/stats_read.h"
#include "broker/config/nearest.h"
#include "broker/io/size.h"
#include "tests/unit/suite.h"
#include "tools/broker-ctl/ctl.h"
#include "tools/broker-ctl/format.h"

/* The program's own; here errors are counted, not said. */
static unsigned failures;

int ctl_fail(const struct ctl *ctl, int code, const char *what, const char *hint, const char *fmt,
	     ...)
{
	failures++;
	return code;
}

START_TEST(sizes_are_parsed_or_refused)
{
	static const struct {
		const char *text;
		uint64_t whole, bytes;
	} good[] = {
		{ "0", 0, 0 },
		{ "4096", 0, 4096 },
		{ "512M", 0, 512ull << 20 },
		{ "1.5G", 0, 3ull << 29 },
		{ "64KiB", 0, 65536 },
		{ "2gb", 0, 2ull << 30 },
		{ "30%", 1000, 300 },
		{ "100%", 4096, 4096 },
		{ "1T", 0, 1ull << 40 },
	};
	static const char *const bad[] = { "",    "G",   "-1",  "1Q",   "1 G",     "+5",
					   "1GG", "nan", "inf", "30%%", "9999999P" };
	uint64_t bytes;

	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		ck_assert_int_eq(size_parse(good[i].text, good[i].whole, &bytes), 0);
		ck_assert_uint_eq(bytes, good[i].bytes);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		ck_assert_int_lt(size_parse(bad[i], 100, &bytes), 0);
	ck_assert_int_lt(size_parse("30%", 0, &bytes), 0);
	ck_assert_int_lt(size_parse("101%", 100, &bytes), 0);
}
END_TEST

START_TEST(durations_ratios_and_counts_are_readable)
{
	ck_assert_str_eq(format_seconds(3 * 86400 + 2 * 3600 + 11 * 60).text, "3d 02:11");
	ck_assert_str_eq(format_seconds(3723).text, "1:02:03");
	ck_assert_str_eq(format_seconds(245).text, "4m05s");
	ck_assert_str_eq(format_seconds(2.5).text, "2.5s");
	ck_assert_str_eq(format_seconds(0.0019).text, "1.9ms");
	ck_assert_str_eq(format_seconds(0.0000042).text, "4.2us");
	ck_assert_str_eq(format_seconds(0).text, "0.0s");
	ck_assert_str_eq(format_ratio(0.784).text, "78.4%");
	ck_assert_str_eq(format_count(4120).text, "4120");
	ck_assert_str_eq(format_count(0.5).text, "0.5");
	ck_assert_str_eq(format_count(1234567.8).text, "1234568");
}
END_TEST

static void csv_is(const char *field, const char *want)
{
	char *text;
	size_t bytes;
	FILE *to = open_memstream(&text, &bytes);

	format_csv(to, field);
	fclose(to);
	ck_assert_str_eq(text, want);
	free(text);
}

START_TEST(csv_is_quoted_where_it_must_be)
{
	csv_is("plain", "plain");
	csv_is("", "");
	csv_is("a,b", "\"a,b\"");
	csv_is("say \"x\"", "\"say \"\"x\"\"\"");
	csv_is("two\nlines", "\"two\nlines\"");
}
END_TEST

START_TEST(distance_finds_the_nearest_command)
{
	ck_assert_uint_eq(nearest_distance("status", "status"), 0);
	ck_assert_uint_eq(nearest_distance("stauts", "status"), 2);
	ck_assert_uint_eq(nearest_distance("", "abc"), 3);
	ck_assert_uint_eq(nearest_distance("abc", ""), 3);
	ck_assert_str_eq(ctl_nearest("statsu")->words[0], "status");
	ck_assert_str_eq(ctl_nearest("statsu 1")->words[0], "status");
	ck_assert_str_eq(ctl_nearest("clinet list")->words[0], "client");
	ck_assert_ptr_null(ctl_nearest("something else"));
}
END_TEST

START_TEST(fields_are_chosen_and_ordered)
{
	struct table_view view;
	char bad[64];

	ck_assert(table_select(&table_clients, "pid,id", false, &view, bad));
	ck_assert_uint_eq(view.n, 2);
	ck_assert_str_eq(view.column[0]->key, "pid");
	ck_assert_str_eq(view.column[1]->key, "id");
	ck_assert(!table_select(&table_clients, "pid,nope", false, &view, bad));
	ck_assert_str_eq(bad, "nope");
	ck_assert(!table_select(&table_clients, "pid,", false, &view, bad));
	ck_assert(table_select(&table_clients, NULL, true, &view, bad));
	ck_assert_uint_eq(view.n, table_clients.n);
	ck_assert(table_select(&table_clients, NULL, false, &view, bad));
	ck_assert_uint_lt(view.n, table_clients.n);
}
END_TEST

START_TEST(tables_fit_their_views)
{
	static const struct table *const all[] = { &table_clients,    &table_tenants, &table_spaces,
						   &table_namespaces, &table_devices, &table_tiers,
						   &table_stat,       &table_top,     &table_keys,
						   &table_policy };

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		ck_assert_uint_le(all[i]->n, TABLE_COLUMNS_MAX);
		for (unsigned k = 0; k < all[i]->n; k++) {
			ck_assert_ptr_nonnull(all[i]->columns[k].help);
			for (unsigned m = 0; m < k; m++)
				ck_assert_str_ne(all[i]->columns[k].key, all[i]->columns[m].key);
		}
	}
}
END_TEST

START_TEST(cells_do_not_steer_the_terminal)
{
	cJSON *row =
		cJSON_Parse("{\"name\":\"a\\u001b[31mb\",\"held_bytes\":2147483648,\"pid\":null}");
	struct table_view view;
	char cell[128], bad[64];

	ck_assert(table_select(&table_clients, "name,held_bytes,pid,id", false, &view, bad));
	table_cell(view.column[0], row, cell, sizeof(cell));
	ck_assert_str_eq(cell, "a?[31mb");
	table_cell(view.column[1], row, cell, sizeof(cell));
	ck_assert_str_eq(cell, "2.0G");
	table_cell(view.column[2], row, cell, sizeof(cell));
	ck_assert_str_eq(cell, "-");
	table_cell(view.column[3], row, cell, sizeof(cell));
	ck_assert_str_eq(cell, "-");
	cJSON_Delete(row);
}
END_TEST

static int parse(struct ctl *ctl, const char *line)
{
	static char copy[256]; /* ctl points into it */
	char *argv[300], *save = NULL;
	int argc = 0;

	ck_assert_uint_lt(strlen(line), sizeof(copy));
	strcpy(copy, line);
	*ctl = (struct ctl){ .link = { .fd = -1 } };
	argv[argc++] = (char *)(uintptr_t) "broker-ctl";
	for (char *word = strtok_r(copy, " ", &save); word; word = strtok_r(NULL, " ", &save))
		argv[argc++] = word;
	return ctl_parse(ctl, argc, argv);
}

START_TEST(options_stand_anywhere)
{
	struct ctl ctl;

	ck_assert_int_eq(parse(&ctl, "-S /a tenant -j list"), 0);
	ck_assert_str_eq(ctl.socket, "/a");
	ck_assert_int_eq(ctl.format, CTL_JSON);
	ck_assert_str_eq(ctl.command->words[1], "list");
	ck_assert_int_eq(parse(&ctl, "tenant list -Hoid,pid --socket=/b -t2.5"), 0);
	ck_assert(ctl_has(&ctl, OPT_NO_HEADER));
	ck_assert_str_eq(ctl.value[OPT_FIELDS], "id,pid");
	ck_assert_str_eq(ctl.socket, "/b");
	ck_assert(ctl.timeout_s > 2.4 && ctl.timeout_s < 2.6);
	ck_assert_int_eq(parse(&ctl, "client kick 7 -y"), 0);
	ck_assert_uint_eq(ctl.nargs, 1);
	ck_assert_str_eq(ctl.args[0], "7");
	ck_assert_int_eq(parse(&ctl, "tenant show -- -x"), 0);
	ck_assert_str_eq(ctl.args[0], "-x");
	ck_assert_int_eq(parse(&ctl, "-pj status"), 0);
	ck_assert_int_eq(ctl.format, CTL_PRETTY);
	ck_assert_int_eq(parse(&ctl, "client kick -h"), 0);
	ck_assert_uint_eq(failures, 0);
}
END_TEST

START_TEST(command_lines_that_make_no_sense_are_refused)
{
	static const char *const bad[] = {
		"",
		"-Z status",
		"--jsom status",
		"status --json=1",
		"status -S",
		"status extra",
		"client",
		"client kick",
		"client kick 1 2",
		"status -n",
		"version --csv",
		"tenant list --csv -j",
		"status -t x",
		"status -t 0",
		"status -t -1",
		"epoch bump a -n -y",
		"gpu list --deep",
		"tier",
		"gpu drain",
		"gpu drain cuda:0 cuda:1",
		"gpu drain cuda:0 --force=1",
		"gpu resume",
		"gpu resume cuda:0 --force",
		"gpu resume cuda:0 -y",
		"client kick 1 --force",
		"tier list cuda:0",
		"tier list -n",
		"tier show cuda:0",
		"prefix top --space 1",
		"status -o id",
		"health -H",
	};
	struct ctl ctl;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		failures = 0;
		ck_assert_msg(parse(&ctl, bad[i]) == ADMIN_EXIT_USAGE, "%s", bad[i]);
		ck_assert_uint_eq(failures, 1);
	}
}
END_TEST

static struct stats_segment *segment_new(int *ret_fd)
{
	int fd = memfd_create("segment", MFD_CLOEXEC);
	struct stats_segment *seg;

	ck_assert_int_eq(ftruncate(fd, sizeof(*seg)), 0);
	seg = mmap(NULL, sizeof(*seg), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ck_assert_ptr_ne(seg, MAP_FAILED);
	seg->magic = STATS_MAGIC;
	seg->version = STATS_VERSION;
	seg->bytes = sizeof(*seg);
	*ret_fd = fd;
	return seg;
}

START_TEST(segments_are_copied_whole_or_not_at_all)
{
	struct stats_segment *copy = malloc(sizeof(*copy));
	const struct stats_segment *mapped;
	uint32_t version;
	int fd;
	struct stats_segment *seg = segment_new(&fd);

	seg->clients_n = UINT32_MAX;
	memset(seg->client[0].name, 'x', sizeof(seg->client[0].name));
	ck_assert_int_eq(stats_read_map(fd, &mapped, &version), 0);
	ck_assert_int_eq(stats_read_copy(mapped, copy), 0);
	ck_assert_uint_eq(copy->clients_n, STATS_CLIENTS_MAX);
	ck_assert_uint_eq(strlen(copy->client[0].name), KVB_NAME_BYTES - 1);
	seg->seq = 1; /* its writer died */
	ck_assert_int_eq(stats_read_copy(mapped, copy), -ETIME);
	stats_read_unmap(mapped);

	seg->version = STATS_VERSION + 1;
	ck_assert_int_eq(stats_read_map(fd, &mapped, &version), -EPROTO);
	ck_assert_uint_eq(version, STATS_VERSION + 1);
	seg->version = STATS_VERSION;
	seg->magic = 0;
	ck_assert_int_eq(stats_read_map(fd, &mapped, &version), -EPROTO);
	ck_assert_int_eq(ftruncate(fd, 100), 0);
	ck_assert_int_eq(stats_read_map(fd, &mapped, &version), -EPROTO);
	close(fd);
	free(copy);
}
END_TEST

START_TEST(rows_come_from_the_segment)
{
	int fd;
	struct stats_segment *seg = segment_new(&fd);
	cJSON *rows, *row;

	seg->devices_n = 2;
	seg->tenants_n = 1;
	seg->clients_n = 1;
	strcpy(seg->device[0].name, "host:0");
	strcpy(seg->device[1].name, "host:1");
	strcpy(seg->tenant[0].name, "rl");
	seg->tenant[0].index = 5;
	seg->tenant[0].budget[1].max_bytes = UINT64_MAX;
	seg->tenant[0].budget[1].used_bytes = 3;
	seg->client[0].tenant = 5;
	seg->client[0].state = 99;
	rows = listing_tenants(seg);
	ck_assert_int_eq(cJSON_GetArraySize(rows), 2);
	row = cJSON_GetArrayItem(rows, 1);
	ck_assert_str_eq(cJSON_GetStringValue(cJSON_GetObjectItem(row, "device")), "host:1");
	ck_assert(cJSON_IsNull(cJSON_GetObjectItem(row, "max_bytes")));
	ck_assert(cJSON_IsNull(cJSON_GetObjectItem(row, "hit_ratio")));
	ck_assert(cJSON_GetNumberValue(cJSON_GetObjectItem(row, "used_bytes")) == 3);
	cJSON_Delete(rows);
	rows = listing_clients(seg);
	row = cJSON_GetArrayItem(rows, 0);
	ck_assert_str_eq(cJSON_GetStringValue(cJSON_GetObjectItem(row, "tenant")), "rl");
	ck_assert_str_eq(cJSON_GetStringValue(cJSON_GetObjectItem(row, "state")), "?");
	cJSON_Delete(rows);
	close(fd);
}
END_TEST

static const char *text_of(const cJSON *row, const char *key)
{
	return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, key));
}

static double number_of(const cJSON *row, const char *key)
{
	return cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(row, key));
}

static bool is_null(const cJSON *row, const char *key)
{
	return cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(row, key));
}

/* A GPU above an arena, and a device with nothing below. */
static void tiers_fill(struct stats_segment *seg)
{
	seg->devices_n = 3;
	strcpy(seg->device[0].name, "cuda:0");
	seg->device[0].kind = KVB_DEVICE_CUDA;
	seg->device[0].below = 2;
	seg->device[0].mover_pid = 77;
	seg->device[0].mover_restarts = 3;
	seg->device[0].demoted = 5;
	seg->device[0].below_ready = 1;
	strcpy(seg->device[1].name, "host:0");
	seg->device[1].kind = KVB_DEVICE_HOST;
	seg->device[1].below = STATS_NONE;
	strcpy(seg->device[2].name, "arena:1");
	seg->device[2].kind = CORE_KIND_ARENA;
	seg->device[2].below = STATS_NONE;
	seg->device[2].node = 1;
	seg->device[2].capacity_bytes = 100;
	seg->device[2].filled_bytes = 60;
	seg->device[2].misplaced_bytes = 7;
}

START_TEST(an_arena_is_a_tier_and_no_device)
{
	int fd;
	struct stats_segment *seg = segment_new(&fd);
	cJSON *rows, *row;

	tiers_fill(seg);
	ck_assert_uint_eq(listing_devices_n(seg), 2);
	rows = listing_devices(seg);
	ck_assert_int_eq(cJSON_GetArraySize(rows), 2);
	row = cJSON_GetArrayItem(rows, 0);
	ck_assert(number_of(row, "mover_pid") == 77);
	ck_assert(number_of(row, "mover_restarts") == 3);
	ck_assert_str_eq(text_of(row, "state"), "ok");
	row = cJSON_GetArrayItem(rows, 1);
	ck_assert(is_null(row, "mover_pid"));
	cJSON_Delete(rows);
	rows = listing_tiers(seg);
	ck_assert_int_eq(cJSON_GetArraySize(rows), 3);
	row = cJSON_GetArrayItem(rows, 0);
	ck_assert_str_eq(text_of(row, "tier"), "device");
	ck_assert_str_eq(text_of(row, "below"), "arena:1");
	ck_assert(number_of(row, "demoted") == 5);
	ck_assert(cJSON_IsTrue(cJSON_GetObjectItem(row, "ready")));
	ck_assert(is_null(row, "filled_bytes"));
	row = cJSON_GetArrayItem(rows, 1);
	ck_assert(is_null(row, "below"));
	ck_assert(is_null(row, "ready"));
	row = cJSON_GetArrayItem(rows, 2);
	ck_assert_str_eq(text_of(row, "tier"), "host");
	ck_assert(number_of(row, "numa") == 1);
	ck_assert(number_of(row, "filled_bytes") == 60);
	ck_assert(number_of(row, "misplaced_bytes") == 7);
	ck_assert(cJSON_IsFalse(cJSON_GetObjectItem(row, "ready")));
	cJSON_Delete(rows);
	close(fd);
}
END_TEST

START_TEST(states_say_why_a_tier_is_away)
{
	int fd;
	struct stats_segment *seg = segment_new(&fd);
	cJSON *rows;

	tiers_fill(seg);
	seg->device[0].below_ready = 0;
	strcpy(seg->device[0].below_why, "its mover is starting");
	rows = listing_devices(seg);
	ck_assert_str_eq(text_of(cJSON_GetArrayItem(rows, 0), "state"),
			 "no lower tier (its mover is starting)");
	ck_assert_str_eq(text_of(cJSON_GetArrayItem(rows, 1), "state"), "ok");
	cJSON_Delete(rows);
	seg->device[0].failed = 1;
	strcpy(seg->device[0].why, "the owner is gone");
	seg->device[0].below = UINT32_MAX - 1; /* not an index: whoever wrote it */
	rows = listing_devices(seg);
	ck_assert_str_eq(text_of(cJSON_GetArrayItem(rows, 0), "state"),
			 "failed (the owner is gone)");
	cJSON_Delete(rows);
	seg->device[0].drain = STATS_DRAIN_GOES;
	rows = listing_devices(seg);
	ck_assert_str_eq(text_of(cJSON_GetArrayItem(rows, 0), "state"),
			 "draining (by an operator; the owner is gone)");
	cJSON_Delete(rows);
	seg->device[0].drain = STATS_DRAIN_DONE;
	rows = listing_devices(seg);
	ck_assert_str_eq(text_of(cJSON_GetArrayItem(rows, 0), "state"), "drained");
	cJSON_Delete(rows);
	rows = listing_tiers(seg);
	ck_assert(is_null(cJSON_GetArrayItem(rows, 0), "below"));
	cJSON_Delete(rows);
	close(fd);
}
END_TEST

int main(void)
{
	static const struct suite_case cases[] = {
		{ &sizes_are_parsed_or_refused, 0 },
		{ &durations_ratios_and_counts_are_readable, 0 },
		{ &csv_is_quoted_where_it_must_be, 0 },
		{ &distance_finds_the_nearest_command, 0 },
		{ &fields_are_chosen_and_ordered, 0 },
		{ &tables_fit_their_views, 0 },
		{ &cells_do_not_steer_the_terminal, 0 },
		{ &options_stand_anywhere, 0 },
		{ &command_lines_that_make_no_sense_are_refused, 0 },
		{ &segments_are_copied_whole_or_not_at_all, 0 },
		{ &rows_come_from_the_segment, 0 },
		{ &an_arena_is_a_tier_and_no_device, 0 },
		{ &states_say_why_a_tier_is_away, 0 },
		{ NULL, 0 },
	};

	return suite_run("ctl", cases);
}
