/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The command line of kvbrokerd; see options.h and docs/man/kvbrokerd.8.
 *
 * Options are the settings of broker/config/settings.h and a few that are none. They are collected
 * here and taken by config_build(), after those of the file. Without --config the file of the
 * installation is read if it is there and no device is named: a command line that says what to
 * serve says all, so that a daemon beside the machine's own never takes settings from that one's.
 *
 * Complaints are `kvbrokerd: WHAT: WHY (hint)`.
 */

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/io/options.h"

enum option_id {
	OPT_SETTING = 256, /* and those that follow */
	OPT_CONFIG = OPT_SETTING + CONFIG_SETTINGS_MAX,
	OPT_OWNER,
	OPT_MOVER,
	OPT_FOREGROUND,
	OPT_VERSION,
	OPT_HELP,
};

static const struct option options_other[] = {
	{ "config", required_argument, NULL, OPT_CONFIG },
	{ "owner", required_argument, NULL, OPT_OWNER },
	{ "mover", required_argument, NULL, OPT_MOVER },
	{ "foreground", no_argument, NULL, OPT_FOREGROUND },
	{ "version", no_argument, NULL, OPT_VERSION },
	{ "help", no_argument, NULL, OPT_HELP },
	{ NULL, 0, NULL, 0 },
};

#define OPTIONS_OTHER_N (sizeof(options_other) / sizeof(options_other[0]))

struct options {
	const char *path, *owner, *mover; /* as given */
	unsigned args;
	struct config_arg *arg;
	bool device_given;
	struct option table[CONFIG_SETTINGS_MAX + OPTIONS_OTHER_N];
	char name[CONFIG_SETTINGS_MAX][32];
};

static int complain(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

static int complain(const char *fmt, ...)
{
	va_list args;

	fputs("kvbrokerd: ", stderr);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
	return -EINVAL;
}

/* ---- help ---------------------------------------------------------------------------------- */

static void help_option(const char *name, const char *value, const char *help)
{
	char left[48];
	int n = snprintf(left, sizeof(left), "--%s%s%s", name, value ? " " : "",
			 value ? value : "");

	printf("  %-26s ", left);
	if (n > 26)
		printf("\n%29s", "");
	for (; *help; help++) {
		putchar(*help);
		if (*help == '\n')
			printf("%29s", "");
	}
	putchar('\n');
}

static void help(void)
{
	fputs("usage: kvbrokerd [--config FILE] [--device DEVICE=SIZE]... [OPTION]...\n"
	      "Owns the KV-cache memory of all LLM engines of this machine and lends it to them.\n"
	      "\n",
	      stdout);
	help_option("config", "FILE",
		    "settings, each as one of the options below (broker.conf(5));\n"
		    "options win. Default, if there is no --device:\n" CONFIG_DEFAULT_PATH);
	for (unsigned i = 0; i < settings_n; i++) {
		char name[32];

		setting_option(&settings[i], name, sizeof(name));
		help_option(name, settings[i].value, settings[i].help);
	}
	help_option("foreground", NULL, "stay in the foreground; this is always so");
	help_option("version", NULL, "say which it is");
	help_option("help", NULL, "say this");
}

/* ---- options ------------------------------------------------------------------------------- */

static void make_table(struct options *o)
{
	for (unsigned i = 0; i < settings_n; i++) {
		setting_option(&settings[i], o->name[i], sizeof(o->name[i]));
		o->table[i] = (struct option){
			.name = o->name[i],
			.has_arg = settings[i].value ? required_argument : no_argument,
			.val = OPT_SETTING + (int)i,
		};
	}
	memcpy(o->table + settings_n, options_other, sizeof(options_other));
}

static void take_option(struct options *o, int option, const char *text)
{
	switch (option) {
	case OPT_CONFIG:
		o->path = text;
		break;
	case OPT_OWNER:
		o->owner = text;
		break;
	case OPT_MOVER:
		o->mover = text;
		break;
	case OPT_FOREGROUND:
		break;
	default:
		/* Of a switch there is only the other of its two words. */
		o->arg[o->args++] = (struct config_arg){
			.setting = (unsigned)(option - OPT_SETTING),
			.text = text ? text : "no",
		};
		o->device_given |= option - OPT_SETTING == SETTING_DEVICE;
	}
}

static enum options_verdict take_options(struct options *o, int argc, char **argv)
{
	int option;

	opterr = 0;
	while ((option = getopt_long(argc, argv, "", o->table, NULL)) != -1) {
		if (option == OPT_HELP) {
			help();
			return OPTIONS_EXIT;
		}
		if (option == OPT_VERSION) {
			printf("kvbrokerd %s, protocol %u\n", KVB_VERSION, KVB_ABI_VERSION);
			return OPTIONS_EXIT;
		}
		if (option == '?') {
			complain("%s: not an option, or its value is missing (see --help)",
				 argv[optind - 1]);
			return OPTIONS_WRONG;
		}
		take_option(o, option, optarg);
	}
	if (optind < argc) {
		complain("%s: an argument without an option (see --help)", argv[optind]);
		return OPTIONS_WRONG;
	}
	return OPTIONS_RUN;
}

/* The daemon itself gives one of these, and nothing beside it but how much to say. */
static enum options_verdict options_process(const struct options *o, struct config *ret,
					    struct server_device_config *ret_device)
{
	const char *option = o->owner ? "--owner" : "--mover";
	const char *text = o->owner ? o->owner : o->mover;
	int error = config_parse_device(text, ret_device);

	if (error)
		complain("%s %s: not a device (host:NODE or cuda:N)", option, text);
	else if (o->owner && ret_device->kind != KVB_DEVICE_CUDA)
		error = complain("--owner %s: not a GPU (cuda:N)", text);
	settings_init(&ret->cfg);
	for (unsigned i = 0; i < o->args && !error; i++) {
		const struct setting *s = &settings[o->arg[i].setting];

		if (!setting_is_section(o->arg[i].setting))
			error = setting_take(s, &ret->cfg, o->arg[i].text, ret->why,
					     sizeof(ret->why));
		if (error)
			complain("%s: %s", s->name, ret->why);
	}
	if (error)
		return OPTIONS_WRONG;
	return o->owner ? OPTIONS_OWNER : OPTIONS_MOVER;
}

enum options_verdict options_parse(int argc, char **argv, struct config *ret,
				   struct server_device_config *ret_device)
{
	struct options o = { 0 };
	enum options_verdict verdict;
	struct config_args args;

	o.arg = calloc((size_t)argc + 1, sizeof(*o.arg));
	if (!o.arg) {
		complain("options: there is no memory for them");
		return OPTIONS_WRONG;
	}
	make_table(&o);
	verdict = take_options(&o, argc, argv);
	if (verdict == OPTIONS_RUN && (o.owner || o.mover))
		verdict = options_process(&o, ret, ret_device);
	if (verdict != OPTIONS_RUN) {
		free(o.arg);
		return verdict;
	}
	if (!o.path && !o.device_given && access(CONFIG_DEFAULT_PATH, F_OK) == 0)
		o.path = CONFIG_DEFAULT_PATH;
	args = (struct config_args){ .path = o.path, .n = o.args, .arg = o.arg };
	if (config_build(ret, &args) == 0)
		return OPTIONS_RUN;
	complain("%s", ret->why);
	return OPTIONS_WRONG;
}
