/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Configurations: what is good, every kind of what is not and where it is said to be, and that a
 * file which was refused has no effect on the next. Each case writes the file and builds from it;
 * the machine's node 0 is the device.
 */

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/config/config.h"
#include "broker/config/nearest.h"
#include "tests/unit/suite.h"

#define MIB (1ull << 20)
#define HOST "device host:0 { size = 64M }\n"

static char path[64];
static struct config config;

static void begin(void)
{
	int fd;

	strcpy(path, "/tmp/kvb-config-XXXXXX");
	fd = mkstemp(path);
	if (fd >= 0)
		(void)close(fd);
}

static void put(const void *text, size_t n)
{
	FILE *file = fopen(path, "we");

	ck_assert_ptr_nonnull(file);
	ck_assert_uint_eq(fwrite(text, 1, n, file), n);
	ck_assert_int_eq(fclose(file), 0);
}

static int build_with(const struct config_arg *arg, unsigned n)
{
	const struct config_args args = { .path = path, .n = n, .arg = arg };

	config_free(&config);
	return config_build(&config, &args);
}

static int build(const char *text)
{
	put(text, strlen(text));
	return build_with(NULL, 0);
}

/* It is refused, where `where` says ("LINE: WHAT: ..."), or without a line. */
static void refused(const char *text, const char *where)
{
	char begins[128];

	ck_assert_msg(build(text) == -EINVAL, "taken: %s", text);
	(void)snprintf(begins, sizeof(begins), "%s:%s", path, where);
	ck_assert_msg(strncmp(config.why, begins, strlen(begins)) == 0,
		      "%s\nis refused with: %s\n"
		      "and not with: %s",
		      text, config.why, begins);
}

/* ---- good ---------------------------------------------------------------------------------- */

static const char good[] = "# all kinds of it\n"
			   "device \"host:0\" {   # a node\n"
			   "    size = 64M\n"
			   "}\n"
			   "device 'cuda:3' { uuid = MIG-1/2-3 size = 1.5G }\n"
			   "host_tier = 128M\n"
			   "store \"/tmp/a b\" { size = 3G }\n"
			   "store /tmp/c {}\n"
			   "tenant rl { device = host:0 min = 25% max = 48M weight = 7 uid = 12 }\n"
			   "tenant rl { device = cuda:3 high = all }\n"
			   "tenant chat {}\n"
			   "revoke=kick\n"
			   "revoke_grace = 17 spin_us = 3\n"
			   "warm = auto\n"
			   "socket_mode = 0600\n"
			   "huge_pages = no\n"
			   "log_level = \"warn\"\n"
			   "socket = '/run/it\\'s \\\\ #1'\n"
			   "state_dir = \"/run//x\"\n";

START_TEST(everything_can_be_said)
{
	const struct server_config *c = &config.cfg;

	ck_assert_msg(build(good) == 0, "%s", config.why);
	ck_assert_uint_eq(c->devices, 2);
	ck_assert_uint_eq(c->device[0].kind, KVB_DEVICE_HOST);
	ck_assert_uint_eq(c->device[0].capacity_bytes, 64 * MIB);
	ck_assert_uint_eq(c->device[1].ordinal, 3);
	ck_assert_uint_eq(c->device[1].capacity_bytes, 1536 * MIB);
	ck_assert_str_eq(c->device[1].uuid, "MIG-1/2-3");
	ck_assert_uint_eq(c->tier_bytes, 128 * MIB);
	ck_assert_uint_eq(c->stores, 2);
	ck_assert_str_eq(c->store[0].path, "/tmp/a b");
	ck_assert_uint_eq(c->store[0].bytes, 3072 * MIB);
	ck_assert_uint_eq(c->store[1].bytes, 0);
	ck_assert_uint_eq(c->tenants, 3);
	ck_assert_int_eq(c->tenant[0].device, 0);
	ck_assert_uint_eq(c->tenant[0].min_bytes, 16 * MIB);
	ck_assert_uint_eq(c->tenant[0].high_bytes, 48 * MIB);
	ck_assert_uint_eq(c->tenant[0].weight, 7);
	ck_assert_int_eq(c->tenant[1].device, 1);
	ck_assert_uint_eq(c->tenant[1].uid, 12);
	ck_assert_uint_eq(c->tenant[1].max_bytes, UINT64_MAX);
	ck_assert_int_eq(c->tenant[2].device, -1);
	ck_assert_uint_eq(c->tenant[2].uid, geteuid());
	ck_assert_int_eq(c->revoke_policy, REVOKE_KICK);
	ck_assert_uint_eq(c->revoke_grace_ns, 17000000);
	ck_assert_uint_eq(c->spin_ns, 3000);
	ck_assert_uint_eq(c->warm_bytes, UINT64_MAX);
	ck_assert_uint_eq(c->socket_mode, 0600);
	ck_assert(!c->huge_pages);
	ck_assert_int_eq(c->log_level, LOG_LEVEL_WARN);
	ck_assert_str_eq(c->socket, "/run/it's \\ #1");
	ck_assert_str_eq(c->state_dir, "/run//x");
	/* and what is not said */
	ck_assert_uint_eq(c->limits.clients, 512);
	ck_assert_uint_eq(c->clients_per_uid, 384);
	ck_assert_uint_eq(config.origin[setting_find("max_clients")].kind, CONFIG_BY_DEFAULT);
	ck_assert_uint_eq(config.origin[setting_find("revoke")].line, 12);
	ck_assert_uint_eq(config.origin[setting_find("spin_us")].line, 13);
	ck_assert_uint_eq(config.origin[setting_find("log_level")].line, 17);
	ck_assert_uint_eq(config.device_origin[0].line, 3);
}
END_TEST

START_TEST(the_command_line_wins)
{
	const struct config_arg arg[] = {
		{ (unsigned)setting_find("drain"), "7" },
		{ SETTING_TENANT, "a,uid=3,min=10%" },
		{ SETTING_TENANT, "b" },
	};
	static const char text[] = HOST "drain = 5\nrevoke_grace = 9\ntenant c { min = 1M }\n";
	char origin[128];

	put(text, sizeof(text) - 1);
	ck_assert_msg(build_with(arg, 3) == 0, "%s", config.why);
	ck_assert_uint_eq(config.cfg.drain_ns, 7000000);
	ck_assert_uint_eq(config.cfg.revoke_grace_ns, 9000000);
	ck_assert_uint_eq(config.cfg.tenants, 2);
	ck_assert_str_eq(config.cfg.tenant[0].name, "a");
	ck_assert_uint_eq(config.cfg.tenant[0].min_bytes, 64 * MIB / 10);
	ck_assert_uint_eq(config.cfg.devices, 1); /* the file's */
	config_print_origin(&config, config.origin[setting_find("drain")], origin, sizeof(origin));
	ck_assert_str_eq(origin, "command line");
	ck_assert_uint_eq(config.origin[setting_find("revoke_grace")].kind, CONFIG_BY_FILE);
}
END_TEST

START_TEST(what_the_command_line_replaces_has_to_make_sense)
{
	const struct config_arg arg = { (unsigned)setting_find("drain"), "7" };

	put(HOST "drain = x\n", strlen(HOST "drain = x\n"));
	ck_assert_int_eq(build_with(&arg, 1), -EINVAL);
	ck_assert_ptr_nonnull(strstr(config.why, ":2: drain: 'x' is not a number"));
}
END_TEST

START_TEST(wrong_arguments_are_called_options)
{
	static const struct {
		unsigned setting;
		const char *text, *why;
	} wrong[] = {
		{ SETTING_DEVICE, "host:0", "--device host:0: no size" },
		{ SETTING_DEVICE, "moon:0=1G", "--device moon:0: not a device" },
		{ SETTING_DEVICE, "cuda:0@UUID=1G", "--device cuda:0: uuid: 'UUID' is not" },
		{ SETTING_STORE, "/x=lots", "--store /x: size: 'lots' is not a size" },
		{ SETTING_STORE, "=3G", "--store : there is no path" },
		{ SETTING_TENANT, "a,min", "--tenant: a: 'min' has no value" },
		{ SETTING_TENANT, "a,mn=3", "--tenant a: mn: there is no such key; did you mean" },
		{ SETTING_TENANT, "a,min=1M,min=2M", "--tenant a: min: given twice" },
	};

	put(HOST, strlen(HOST));
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		const struct config_arg arg = { wrong[i].setting, wrong[i].text };

		ck_assert_int_eq(build_with(&arg, 1), -EINVAL);
		ck_assert_msg(strncmp(config.why, wrong[i].why, strlen(wrong[i].why)) == 0,
			      "%s: %s", wrong[i].text, config.why);
	}
}
END_TEST

/* ---- not good ------------------------------------------------------------------------------ */

static const struct {
	const char *text, *where;
} bad[] = {
	{ "", " no device: nothing to serve" },
	{ "# nothing\n", " no device:" },
	/* names */
	{ HOST "max_page = 7\n", "2: max_page: no such option; did you mean 'max_pages'?" },
	{ HOST "max-pages = 7\n", "2: max-pages: no such option; did you mean 'max_pages'?" },
	{ HOST "# a\n\n# b\nsomething = 7\n", "5: something: no such option (see" },
	{ "device host:0 {\n siez = 4M\n}\n", "2: siez: no such option; did you mean 'size'?" },
	{ HOST "tennant x {}\n", "2: tennant: no such option; did you mean 'tenant'?" },
	{ "size = 3M\n", "1: size: no such option" },
	{ HOST "include(\"/etc/passwd\")\n", "2: '(': it stands outside" },
	{ HOST "\"device|size\" = 3M\n", "2: size: it stands in no section" },
	/* syntax */
	{ HOST "drain\n", "3: syntax: premature end of file" },
	{ HOST "drain = \n", "3: syntax: premature end of file" },
	{ HOST "drain 3\n", "2: syntax: missing equal sign" },
	{ HOST "drain = { 3 }\n", "2: syntax: unexpected token" },
	{ HOST "drain += 3\n", "2: syntax: attempt to append" },
	{ HOST "}\n", "2: syntax: unexpected closing brace" },
	{ HOST "= 3\n", "2: syntax: unexpected token" },
	{ "device { size = 3M }\n", "1: syntax: missing title" },
	{ "device = 3M\n", "1: syntax: missing title" },
	{ "device host:0 size = 3M\n", "1: syntax: missing opening brace" },
	{ HOST "tenant a {\n min = 1M\n\n", "2: '{': nothing closes it" },
	/* bytes */
	{ HOST "socket = \"abc\ndrain = 3\n", "2: 0x0a: a string ends in its line" },
	{ HOST "socket = 'abc", "2: 0x0a: a string ends in its line" },
	{ HOST "socket = \"a\\777\"\n", "2: '\\': it stands before" },
	{ HOST "socket = \"a\\\"\n", "2: 0x0a: a string" },
	{ HOST "socket = ${HOME}\n", "2: '$': there are no variables" },
	{ HOST "socket = \"${HOME}\"\n", "2: '$': there are no variables" },
	{ HOST "/* a */\n", "2: '*': it stands outside of quotes" },
	{ HOST "// a\n", "2: '/': it stands outside of quotes" },
	{ HOST "\001\n", "2: 0x01: it is not text" },
	{ HOST "# \033[31m\n", "2: 0x1b: it is not text" },
	/* values */
	{ HOST "max_pages = 63\n", "2: max_pages: '63' is not a number from 64 to 1073741824" },
	{ HOST "max_pages = -1\n", "2: max_pages: '-1' is not a number" },
	{ HOST "max_pages = 99999999999999999999\n", "2: max_pages: '9" },
	{ HOST "drain = 3s\n", "2: drain: '3s' is not a number" },
	{ HOST "drain = ''\n", "2: drain: '' is not a number" },
	{ HOST "revoke = extnd\n",
	  "2: revoke: 'extnd' is none of extend, kick, quarantine; did you mean 'extend'?" },
	{ HOST "io = select\n", "2: io: 'select' is none of auto, uring, epoll" },
	{ HOST "huge_pages = true\n", "2: huge_pages: 'true' is none of no, yes" },
	{ HOST "policy = fifo\n", "2: policy: there is no policy 'fifo'" },
	{ HOST "socket_mode = 0888\n", "2: socket_mode: '0888' is not an octal mode" },
	{ HOST "socket = ''\n", "2: socket: it is empty" },
	{ HOST "host_tier = 1M\n", "2: host_tier: '1M' is not a size (4G, 512M) of at least 2M" },
	{ HOST "warm = lots\n", "2: warm: 'lots' is not a size" },
	/* twice */
	{ HOST "drain = 3\n\ndrain = 3\n", "4: drain: given twice, first in line 2" },
	{ HOST HOST, "2: device host:0: given twice" },
	{ "device host:0 {\nsize = 4M\nsize = 4M\n}", "3: size: given twice, first in line 2" },
	{ HOST "tenant a {}\ntenant a {\nmin=1M }\n", "4: tenant a: given twice" },
	{ HOST "store /x {}\nstore /x {}\n", "3: store /x: given twice" },
	/* devices and stores */
	{ "device host:0 {\n}\n", "2: device host:0: no size" },
	{ "device host:0 { size = 4 M }\n", "1: M: no such option" },
	{ "device host:0 { size = 1M }\n", "1: device host:0: size: less than one handle" },
	{ "device host:0 { size = 101% }\n", "1: device host:0: size: '101%' is not a size" },
	{ "device cuda:0 { size = 30% }\n", "1: device cuda:0: size: '30%' is not a size" },
	{ "device host:1000 { size = 4M }\n", "1: device host:1000: NUMA node 1000" },
	{ "device host:x { size = 4M }\n", "1: device host:x: not a device" },
	{ "device '' { size = 4M }\n", "1: device : not a device" },
	{ "device host:0 { size = 4M uuid = GPU-1 }\n", "1: device host:0: uuid: only GPUs" },
	{ "device cuda:0 { size = 4M uuid = GPU_1 }\n", "1: device cuda:0: uuid: 'GPU_1'" },
	{ HOST "device cuda:1 { size = 4M }\nstore /x {}\n", "3: store: pages of cuda:1 pass" },
	/* tenants */
	{ HOST "tenant 'a b' {}\n", "2: tenant a b: a name has letters" },
	{ HOST "tenant a { uid = nobody-of-this-name }\n", "2: tenant a: uid: there is no user" },
	{ HOST "tenant a { uid = 4294967295 }\n", "2: tenant a: uid: '4294967295' is not" },
	{ HOST "tenant a { weight = 0 }\n", "2: tenant a: weight: '0' is not a number" },
	{ HOST "tenant a { device = host:1 }\n", "2: tenant a: device: host:1 is not served" },
	{ HOST "tenant a {\n\nmin = 3M\nmax = 2M }\n", "4: tenant a: min, high and max are not" },
	{ HOST "tenant a { min = all }\n", "2: tenant a: min: 'all' is not a size" },
	{ HOST "tenant a { min = 60M }\ntenant b { min = 5M }\n", "3: tenant: b: asks for 5.0M" },
	{ HOST "tenant a { device = host:0 uid = 3 }\ntenant a { uid = 4 }\n",
	  "3: tenant a: uid: its uid is 3 in a section before" },
	{ HOST "device cuda:0 { size = 4M }\ntenant a { min = 3% }\n",
	  "3: tenant a: min: '3%' is not a size (512M, 2G; a percentage needs a device)" },
};

START_TEST(what_is_wrong_is_told_with_its_line)
{
	/* A refused file is nothing to the next, whatever state it left the parser in. */
	refused(bad[_i].text, bad[_i].where);
	ck_assert_msg(build(HOST "drain = 12\n") == 0, "%s", config.why);
	ck_assert_uint_eq(config.cfg.drain_ns, 12000000);
}
END_TEST

START_TEST(a_tenant_of_all_devices_and_of_one_counts_once)
{
	ck_assert_msg(
		build(HOST "tenant a { min = 40M }\ntenant a { device = host:0 min = 60M }\n") == 0,
		"%s", config.why);
	refused(HOST "tenant a { min = 40M }\ntenant a { device = host:0 min = 65M }\n",
		"3: tenant: a:");
}
END_TEST

START_TEST(what_is_no_file_is_refused_at_once)
{
	(void)unlink(path);
	ck_assert_int_eq(build_with(NULL, 0), -EINVAL);
	ck_assert_ptr_nonnull(strstr(config.why, "cannot be read: No such file"));
	ck_assert_int_eq(mkdir(path, 0700), 0);
	ck_assert_int_eq(build_with(NULL, 0), -EINVAL);
	ck_assert_ptr_nonnull(strstr(config.why, "it is not a file"));
	ck_assert_int_eq(rmdir(path), 0);
	ck_assert_int_eq(mkfifo(path, 0600), 0);
	ck_assert_int_eq(build_with(NULL, 0), -EINVAL);
	ck_assert_ptr_nonnull(strstr(config.why, "it is not a file"));
	ck_assert_int_eq(unlink(path), 0);
}
END_TEST

START_TEST(a_file_is_bounded)
{
	char *text = malloc(CONFIG_FILE_BYTES_MAX + 1);

	ck_assert_ptr_nonnull(text);
	memset(text, '#', CONFIG_FILE_BYTES_MAX + 1);
	memcpy(text, HOST, strlen(HOST));
	put(text, CONFIG_FILE_BYTES_MAX);
	ck_assert_msg(build_with(NULL, 0) == 0, "%s", config.why);
	put(text, CONFIG_FILE_BYTES_MAX + 1);
	ck_assert_int_eq(build_with(NULL, 0), -EINVAL);
	ck_assert_ptr_nonnull(strstr(config.why, "it is larger than 1M"));
	/* One word, one string and one line of that size. */
	memset(text + strlen(HOST), 'a', CONFIG_FILE_BYTES_MAX - strlen(HOST));
	put(text, CONFIG_FILE_BYTES_MAX);
	ck_assert_int_eq(build_with(NULL, 0), -EINVAL);
	text[strlen(HOST)] = '"';
	text[CONFIG_FILE_BYTES_MAX - 1] = '"';
	put(text, CONFIG_FILE_BYTES_MAX);
	ck_assert_int_eq(build_with(NULL, 0), -EINVAL);
	free(text);
}
END_TEST

START_TEST(more_sections_than_there_may_be)
{
	char text[32 * (SERVER_TENANTS_MAX + 2)] = HOST;
	size_t n = strlen(text);

	for (unsigned i = 0; i < SERVER_TENANTS_MAX; i++)
		n += (size_t)snprintf(text + n, sizeof(text) - n, "tenant t%u {}\n", i);
	ck_assert_msg(build(text) == 0, "%s", config.why);
	ck_assert_uint_eq(config.cfg.tenants, SERVER_TENANTS_MAX);
	(void)snprintf(text + n, sizeof(text) - n, "tenant more {}\n");
	refused(text, "258: tenant more: 256 are as many as there may be");
}
END_TEST

/* Any bytes, and any byte in place of another: refused with a place, or good. */
START_TEST(garbage_is_refused)
{
	unsigned long long state = 88172645463325252ull;
	unsigned char noise[512];
	char text[sizeof(good)];

	for (unsigned round = 0; round < 300; round++) {
		for (size_t i = 0; i < sizeof(noise); i++) {
			state ^= state << 13;
			state ^= state >> 7;
			state ^= state << 17;
			noise[i] = (unsigned char)state;
		}
		put(noise, sizeof(noise));
		ck_assert_int_eq(build_with(NULL, 0), -EINVAL);
		ck_assert_int_eq(strncmp(config.why, path, strlen(path)), 0);
	}
	for (size_t i = 0; i < sizeof(good) - 1; i++) {
		static const char in_place[] = "{}\"'#=\n\\ \0\377/x";

		for (size_t k = 0; k < sizeof(in_place) - 1; k++) {
			memcpy(text, good, sizeof(good));
			text[i] = in_place[k];
			put(text, sizeof(good) - 1);
			ck_assert(build_with(NULL, 0) == 0 ||
				  strncmp(config.why, path, strlen(path)) == 0);
		}
	}
	ck_assert_int_eq(build(HOST), 0);
}
END_TEST

/* ---- the table ----------------------------------------------------------------------------- */

START_TEST(what_is_printed_is_read_again)
{
	char text[SETTING_TEXT_BYTES], again[SETTING_TEXT_BYTES], why[SETTING_WHY_BYTES];
	struct server_config other = { 0 };

	ck_assert_uint_le(settings_n, CONFIG_SETTINGS_MAX);
	ck_assert_msg(build(HOST "socket_group = g\nwarm = 3M\n") == 0, "%s", config.why);
	for (unsigned i = SETTING_SECTIONS_N; i < settings_n; i++) {
		setting_print(&settings[i], &config.cfg, text, sizeof(text));
		ck_assert_msg(setting_take(&settings[i], &other, text, why, sizeof(why)) == 0,
			      "%s: '%s': %s", settings[i].name, text, why);
		setting_print(&settings[i], &other, again, sizeof(again));
		ck_assert_str_eq(text, again);
		ck_assert_int_eq(setting_find(settings[i].name), (int)i);
	}
}
END_TEST

START_TEST(what_is_live_is_no_text)
{
	/* It is copied between configurations, and its memory would go with the one it came from.
	 */
	for (unsigned i = SETTING_SECTIONS_N; i < settings_n; i++) {
		if (settings[i].live)
			ck_assert(settings[i].kind != SETTING_STRING &&
				  settings[i].kind != SETTING_POLICY);
	}
}
END_TEST

START_TEST(sizes_are_printed_whole)
{
	static const struct {
		uint64_t n;
		const char *text;
	} sizes[] = { { 0, "0" },
		      { 1, "1" },
		      { 1024, "1K" },
		      { 1025, "1025" },
		      { 1536 * MIB, "1536M" },
		      { 4096 * MIB, "4G" },
		      { 1ull << 60, "1024P" } };
	char text[32];

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		setting_print_size(sizes[i].n, text, sizeof(text));
		ck_assert_str_eq(text, sizes[i].text);
	}
}
END_TEST

START_TEST(only_near_words_are_near)
{
	unsigned least = NEAREST_MAX + 1;

	ck_assert(!nearest_take("size", "store", &least));
	ck_assert(!nearest_take("something", "socket", &least));
	ck_assert(nearest_take("dran", "drain", &least));
	ck_assert_uint_eq(least, 1);
	ck_assert(!nearest_take("dran", "draina", &least)); /* no nearer than what there is */
}
END_TEST

int main(void)
{
	static const struct suite_case cases[] = {
		{ .test = &everything_can_be_said },
		{ .test = &the_command_line_wins },
		{ .test = &what_the_command_line_replaces_has_to_make_sense },
		{ .test = &wrong_arguments_are_called_options },
		{ .test = &what_is_wrong_is_told_with_its_line,
		  .loops = sizeof(bad) / sizeof(bad[0]) },
		{ .test = &a_tenant_of_all_devices_and_of_one_counts_once },
		{ .test = &what_is_no_file_is_refused_at_once, .timeout_s = 10 },
		{ .test = &a_file_is_bounded, .timeout_s = 60 },
		{ .test = &more_sections_than_there_may_be },
		{ .test = &garbage_is_refused, .timeout_s = 300 },
		{ .test = &what_is_printed_is_read_again },
		{ .test = &what_is_live_is_no_text },
		{ .test = &sizes_are_printed_whole },
		{ .test = &only_near_words_are_near },
		{ NULL },
	};

	int status;

	begin();
	status = suite_run("config", cases);
	(void)unlink(path);
	return status;
}
