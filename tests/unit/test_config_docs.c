/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What the papers say of settings is what there is: the shipped broker.conf, broker.conf(5) and
 * kvbrokerd(8) against the table, both ways. The shipped file is good as it is, and with everything
 * in it that is commented out.
 */

#include <check.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/config/config.h"
#include "tests/unit/suite.h"

#define SHIPPED TREE "/packaging/broker.conf"
#define PAGE TREE "/docs/man/broker.conf.5"
#define DAEMON_PAGE TREE "/docs/man/kvbrokerd.8"
#define FILE_BYTES_MAX (256u << 10)

static char *read_all(const char *path)
{
	char *text = calloc(1, FILE_BYTES_MAX);
	FILE *file = fopen(path, "re");
	size_t n;

	ck_assert_msg(text && file, "%s is not there", path);
	n = fread(text, 1, FILE_BYTES_MAX - 1, file);
	ck_assert_uint_gt(n, 0);
	ck_assert_uint_lt(n, FILE_BYTES_MAX - 1);
	ck_assert_int_eq(fclose(file), 0);
	return text;
}

static size_t word(const char *text)
{
	return strspn(text, "abcdefghijklmnopqrstuvwxyz_");
}

/* A setting that is no section, or a key of one. */
static bool is_known(const char *name)
{
	int setting = setting_find(name);

	if (setting >= SETTING_SECTIONS_N)
		return true;
	for (unsigned s = 0; s < SETTING_SECTIONS_N; s++) {
		for (unsigned k = 0; k < settings[s].keys_n; k++) {
			if (strcmp(settings[s].keys[k].name, name) == 0)
				return true;
		}
	}
	return false;
}

/* Calls f with the name of each line `BEFORE name AFTER`, blanks before it passed over. */
static unsigned each_name(const char *text, const char *before, const char *after,
			  void (*f)(const char *name))
{
	unsigned n = 0;

	for (const char *line = text; line && *line; line = strchr(line, '\n')) {
		char name[64];
		size_t length;

		line += *line == '\n';
		if (*line == '#' && before[0] == '\0')
			line++; /* commented out: no blank after the # but those of a section */
		line += before[0] == '\0' ? strspn(line, " ") : 0;
		if (strncmp(line, before, strlen(before)) != 0)
			continue;
		length = word(line + strlen(before));
		if (!length || length >= sizeof(name) ||
		    strncmp(line + strlen(before) + length, after, strlen(after)) != 0)
			continue;
		(void)snprintf(name, sizeof(name), "%.*s", (int)length, line + strlen(before));
		f(name);
		n++;
	}
	return n;
}

static unsigned seen[CONFIG_SETTINGS_MAX];

static void must_be_known(const char *name)
{
	ck_assert_msg(is_known(name), "'%s' is told of, and there is no such setting", name);
	if (setting_find(name) >= 0)
		seen[setting_find(name)]++;
}

static void must_have_seen_all(const char *path)
{
	for (unsigned i = SETTING_SECTIONS_N; i < settings_n; i++)
		ck_assert_msg(seen[i] == 1, "%s tells %u times of '%s'", path, seen[i],
			      settings[i].name);
}

/* Where a section begins in the file: `device "`, commented out or not. */
static const char *section_of(const char *text, const char *name, const char *before)
{
	char begins[64];
	const char *at;

	(void)snprintf(begins, sizeof(begins), "%s%s \"", before, name);
	at = strstr(text, begins);
	ck_assert_msg(at != NULL, "there is no section of %s", name);
	return at;
}

START_TEST(the_shipped_file_has_every_setting)
{
	char *text = read_all(SHIPPED);

	ck_assert_uint_ge(each_name(text, "", " = ", must_be_known), settings_n);
	must_have_seen_all(SHIPPED);
	for (unsigned s = 0; s < SETTING_SECTIONS_N; s++) {
		for (unsigned k = 0; k < settings[s].keys_n; k++) {
			char key[64];

			(void)snprintf(key, sizeof(key), "    %s = ", settings[s].keys[k].name);
			ck_assert_msg(strstr(section_of(text, settings[s].name, "\n#"), key),
				      "%s: %s is not shown", settings[s].name, key);
		}
	}
	free(text);
}
END_TEST

START_TEST(the_page_has_every_setting)
{
	char *text = read_all(PAGE);

	(void)each_name(text, ".BI ", " \" = ", must_be_known);
	must_have_seen_all(PAGE);
	for (unsigned s = 0; s < SETTING_SECTIONS_N; s++) {
		char heading[64];
		const char *at, *next;

		(void)snprintf(heading, sizeof(heading), "\n.SS %s\n", settings[s].name);
		at = strstr(text, heading);
		ck_assert_msg(at != NULL, "%s: no heading", settings[s].name);
		next = strstr(at + 1, "\n.S");
		for (unsigned k = 0; k < settings[s].keys_n; k++) {
			char key[64];
			const char *found;

			(void)snprintf(key, sizeof(key),
				       "\n.BI %s \" = ", settings[s].keys[k].name);
			found = strstr(at, key);
			ck_assert_msg(found && found < next, "%s: %s is not told of",
				      settings[s].name, settings[s].keys[k].name);
		}
	}
	free(text);
}
END_TEST

START_TEST(the_page_says_what_is_live)
{
	char *text = read_all(PAGE);

	for (unsigned i = SETTING_SECTIONS_N; i < settings_n; i++) {
		char begins[64];
		const char *at, *next, *live;

		(void)snprintf(begins, sizeof(begins), "\n.BI %s \" = ", settings[i].name);
		at = strstr(text, begins);
		ck_assert_ptr_nonnull(at);
		next = strstr(at, "\n.TP");
		live = strstr(at, "\n.B Live.");
		if (!next)
			next = strstr(at, "\n.SH");
		ck_assert_msg((live && live < next) == settings[i].live, "%s: live or not?",
			      settings[i].name);
	}
	free(text);
}
END_TEST

/* An option of the daemon, by the text between `\-\-` and what is none of its letters. */
static bool is_option(const char *name)
{
	static const char *const others[] = { "config", "foreground", "version", "help" };

	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
		if (strcmp(others[i], name) == 0)
			return true;
	}
	for (unsigned i = 0; i < settings_n; i++) {
		char option[64];

		setting_option(&settings[i], option, sizeof(option));
		if (strcmp(option, name) == 0)
			return true;
	}
	return false;
}

/* "\-\-max\-pages ..." is max-pages. */
static void unescape(const char *text, char *ret, size_t bytes)
{
	size_t n = 0;

	while (n + 1 < bytes && (islower((unsigned char)*text) || strncmp(text, "\\-", 2) == 0)) {
		text += *text == '\\';
		ret[n++] = *text++;
	}
	ret[n] = '\0';
}

START_TEST(the_daemons_page_has_every_option)
{
	char *text = read_all(DAEMON_PAGE);
	const char *options = strstr(text, "\n.SH OPTIONS"), *end = strstr(text, "\n.SH SIGNALS");
	bool told[CONFIG_SETTINGS_MAX] = { false };

	ck_assert(options && end);
	for (const char *at = options; (at = strstr(at, "\n.TP\n")) && at < end; at += 4) {
		const char *line = at + 5, *stop = strchr(line, '\n');

		while ((line = strstr(line, "\\-\\-")) && line < stop) {
			char name[64];

			line += 4;
			unescape(line, name, sizeof(name));
			ck_assert_msg(is_option(name), "--%s is told of and is none", name);
			for (unsigned i = 0; i < settings_n; i++) {
				char option[64];

				setting_option(&settings[i], option, sizeof(option));
				told[i] |= strcmp(option, name) == 0;
			}
		}
	}
	for (unsigned i = 0; i < settings_n; i++)
		ck_assert_msg(told[i], "%s is not told of", settings[i].name);
	free(text);
}
END_TEST

START_TEST(the_shipped_file_is_good)
{
	const struct config_args args = { .path = SHIPPED };
	struct config config;

	ck_assert_msg(config_build(&config, &args) == 0, "%s", config.why);
	config_free(&config);
}
END_TEST

/* What is commented out is the default, but where there is none to be written. */
START_TEST(the_shipped_file_has_the_defaults)
{
	static const char *const examples[] = { "host_tier", "mover_sums", "socket_group",
						"max_pages", "max_leases", "clients_per_uid" };
	char *text = read_all(SHIPPED), value[SETTING_TEXT_BYTES];
	struct server_config defaults;

	settings_init(&defaults);
	for (unsigned i = SETTING_SECTIONS_N; i < settings_n; i++) {
		char line[SETTING_TEXT_BYTES + 64];
		bool example = false;

		for (size_t k = 0; k < sizeof(examples) / sizeof(examples[0]); k++)
			example |= strcmp(examples[k], settings[i].name) == 0;
		if (example)
			continue;
		setting_print(&settings[i], &defaults, value, sizeof(value));
		(void)snprintf(line, sizeof(line), "\n#%s = %s\n", settings[i].name, value);
		ck_assert_msg(strstr(text, line), "%s: its default is %s", settings[i].name, value);
	}
	free(text);
}
END_TEST

/* Every # that a name, a brace, or the blanks of a key follow, is taken away. */
START_TEST(what_is_commented_out_is_good)
{
	char path[] = "/tmp/kvb-config-docs-XXXXXX", *text = read_all(SHIPPED);
	const struct config_args args = { .path = path };
	struct config config;
	int fd = mkstemp(path), r;
	unsigned n = 0;

	for (char *line = text; line && *line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (line[0] != '#' || line[1] == '\n' ||
		    (line[1] == ' ' && strncmp(line + 1, "    ", 4) != 0))
			continue;
		line[0] = ' ';
		n++;
	}
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	ck_assert_int_eq(close(fd), 0);
	r = config_build(&config, &args);
	(void)unlink(path);
	ck_assert_msg(r == 0, "%s", config.why);
	ck_assert_uint_ge(n, settings_n);
	/* and everything in it was read */
	for (unsigned i = SETTING_SECTIONS_N; i < settings_n; i++)
		ck_assert_uint_eq(config.origin[i].kind, CONFIG_BY_FILE);
	ck_assert_uint_eq(config.cfg.devices, 2);
	ck_assert_uint_eq(config.cfg.stores, 1);
	ck_assert_uint_eq(config.cfg.tenants, 2);
	config_free(&config);
	free(text);
}
END_TEST

int main(void)
{
	static const struct suite_case cases[] = {
		{ .test = &the_shipped_file_has_every_setting },
		{ .test = &the_page_has_every_setting },
		{ .test = &the_page_says_what_is_live },
		{ .test = &the_daemons_page_has_every_option },
		{ .test = &the_shipped_file_is_good },
		{ .test = &the_shipped_file_has_the_defaults },
		{ .test = &what_is_commented_out_is_good },
		{ NULL },
	};

	return suite_run("config-docs", cases);
}
