/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The command line: options may stand anywhere, the words that are none name the command and its
 * arguments. `--` ends the options. Letters may be joined (-jn), a value may follow its letter
 * (-t5) or its name (--timeout=5).
 */

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/broker-ctl/ctl.h"

const struct ctl_option ctl_options[OPT_N] = {
	[OPT_SOCKET] = { 'S', "socket", "PATH",
			 "the daemon's socket (else $KVBROKER_SOCKET, else " KVB_DEFAULT_SOCKET
			 ")" },
	[OPT_JSON] = { 'j', "json", NULL, "print JSON: bytes, seconds, ratios of 1" },
	[OPT_PRETTY] = { 'p', "pretty", NULL, "print JSON for reading" },
	[OPT_CSV] = { 0, "csv", NULL, "print comma-separated values" },
	[OPT_NO_HEADER] = { 'H', "no-header", NULL, "no line of headings" },
	[OPT_QUIET] = { 'q', "quiet", NULL, "print nothing: only the exit code" },
	[OPT_DRY_RUN] = { 'n', "dry-run", NULL, "say what would happen, change nothing" },
	[OPT_YES] = { 'y', "yes", NULL, "do it without asking" },
	[OPT_TIMEOUT] = { 't', "timeout", "SEC", "wait so long for the daemon (10)" },
	[OPT_FIELDS] = { 'o', "fields", "FIELDS", "fields to print, in this order: a,b,c" },
	[OPT_NO_COLOR] = { 0, "no-color", NULL, "no colours on a terminal (as NO_COLOR=1)" },
	[OPT_HELP] = { 'h', "help", NULL, "say how it is used" },
	[OPT_DEEP] = { 0, "deep", NULL, "check every table; the daemon serves nobody meanwhile" },
	[OPT_FEATURES] = { 0, "features", NULL, "list what engines can ask for" },
	[OPT_SPACE] = { 0, "space", "ID", "this space only (else all of the namespace's tenant)" },
	[OPT_SALT] = { 0, "salt", "N", "salt of the keys (0)" },
	[OPT_BY] = { 0, "by", "WHAT", "order: hits, clients or idle (hits)" },
	[OPT_COUNT] = { 0, "count", "N", "as many, 500 at most (20)" },
	[OPT_FORCE] = { 0, "force", NULL, "disconnect the engines that have memory there" },
	[OPT_LATENCY] = { 'l', "latency", NULL, "show how long transfers took, as a histogram" },
	[OPT_WEAR] = { 'w', "wear", NULL, "show what was written, and what that makes in a year" },
};

static int option_by_letter(char letter)
{
	for (int i = 0; i < OPT_N; i++) {
		if (letter && ctl_options[i].letter == letter)
			return i;
	}
	return -1;
}

static int option_by_name(const char *name, size_t n)
{
	for (int i = 0; i < OPT_N; i++) {
		if (strlen(ctl_options[i].name) == n && memcmp(ctl_options[i].name, name, n) == 0)
			return i;
	}
	return -1;
}

/* Takes option id; its value is `inside` (NULL: none) or the next word. */
static int take_option(struct ctl *ctl, int id, const char *shown, const char *inside, char **argv,
		       int argc, int *i)
{
	if (id < 0)
		return ctl_fail(ctl, ADMIN_EXIT_USAGE, shown, "see broker-ctl --help",
				"there is no such option");
	ctl->given |= OPT(id);
	if (!ctl_options[id].value) {
		if (inside)
			return ctl_fail(ctl, ADMIN_EXIT_USAGE, shown, NULL, "it takes no value");
		return 0;
	}
	if (!inside) {
		if (*i + 1 >= argc)
			return ctl_fail(ctl, ADMIN_EXIT_USAGE, shown, NULL, "it needs %s",
					ctl_options[id].value);
		inside = argv[++*i];
	}
	ctl->value[id] = inside;
	return 0;
}

static int take_letters(struct ctl *ctl, char **argv, int argc, int *i)
{
	const char *at = argv[*i] + 1;

	for (; *at; at++) {
		char shown[3] = { '-', *at, '\0' };
		int id = option_by_letter(*at), r;
		const char *inside = NULL;

		if (id >= 0 && ctl_options[id].value && at[1])
			inside = at + 1;
		r = take_option(ctl, id, shown, inside, argv, argc, i);
		if (r || inside)
			return r;
	}
	return 0;
}

static int take_name(struct ctl *ctl, char **argv, int argc, int *i)
{
	const char *name = argv[*i] + 2;
	size_t n = strcspn(name, "=");

	return take_option(ctl, option_by_name(name, n), argv[*i], name[n] ? name + n + 1 : NULL,
			   argv, argc, i);
}

static int take_word(struct ctl *ctl, const char *word)
{
	if (ctl->nargs == CTL_ARGS_MAX)
		return ctl_fail(ctl, ADMIN_EXIT_USAGE, "arguments", "use several commands",
				"there are more than %u", CTL_ARGS_MAX);
	ctl->args[ctl->nargs++] = word;
	return 0;
}

/* "client" alone, or "client foo": says what may follow. False: no command begins like this. */
static bool say_group(const struct ctl *ctl, const char *first)
{
	char list[128] = "";
	size_t at = 0;

	for (unsigned i = 0; i < ctl_commands_n; i++) {
		const struct ctl_command *c = &ctl_commands[i];

		if (c->words[1] && strcmp(c->words[0], first) == 0)
			at += (size_t)snprintf(list + at, sizeof(list) - at, "%s%s", at ? ", " : "",
					       c->words[1]);
	}
	if (at)
		(void)ctl_fail(ctl, ADMIN_EXIT_USAGE, first, "see broker-ctl --help",
			       "it is followed by one of: %s", list);
	return at > 0;
}

/* The command that the first words name; takes these words away. */
static int find_command(struct ctl *ctl)
{
	char words[64];
	const struct ctl_command *near;

	for (unsigned i = 0; i < ctl_commands_n; i++) {
		const struct ctl_command *c = &ctl_commands[i];
		unsigned n = c->words[1] ? 2 : 1;

		if (ctl->nargs < n || strcmp(ctl->args[0], c->words[0]) != 0 ||
		    (n == 2 && strcmp(ctl->args[1], c->words[1]) != 0))
			continue;
		ctl->command = c;
		ctl->nargs -= n;
		memmove(ctl->args, ctl->args + n, ctl->nargs * sizeof(ctl->args[0]));
		return 0;
	}
	(void)snprintf(words, sizeof(words), "%.30s%s%.30s", ctl->args[0],
		       ctl->nargs > 1 ? " " : "", ctl->nargs > 1 ? ctl->args[1] : "");
	near = ctl_nearest(words);
	if (near)
		return ctl_fail(ctl, ADMIN_EXIT_USAGE, words, "see broker-ctl --help",
				"there is no such command; nearest is '%s%s%s'", near->words[0],
				near->words[1] ? " " : "", near->words[1] ? near->words[1] : "");
	if (say_group(ctl, ctl->args[0]))
		return ADMIN_EXIT_USAGE;
	return ctl_fail(ctl, ADMIN_EXIT_USAGE, words, "see broker-ctl --help",
			"there is no such command");
}

/* Options the command would ignore are errors. */
static int check_options(const struct ctl *ctl)
{
	const struct ctl_command *c = ctl->command;

	for (int i = 0; i < OPT_N; i++) {
		if (ctl->given & OPT(i) & ~c->options)
			return ctl_fail(ctl, ADMIN_EXIT_USAGE, ctl_options[i].name, NULL,
					"'%s%s%s' does not take --%s", c->words[0],
					c->words[1] ? " " : "", c->words[1] ? c->words[1] : "",
					ctl_options[i].name);
	}
	if (ctl_has(ctl, OPT_DRY_RUN) && ctl_has(ctl, OPT_YES))
		return ctl_fail(ctl, ADMIN_EXIT_USAGE, "--dry-run", NULL, "and --yes contradict");
	if (ctl_has(ctl, OPT_CSV) && (ctl_has(ctl, OPT_JSON) || ctl_has(ctl, OPT_PRETTY)))
		return ctl_fail(ctl, ADMIN_EXIT_USAGE, "--csv", NULL, "and --json contradict");
	if (ctl->nargs < c->args_min || ctl->nargs > c->args_max)
		return ctl_fail(ctl, ADMIN_EXIT_USAGE, c->words[0], NULL,
				"usage: broker-ctl %s%s%s %s", c->words[0], c->words[1] ? " " : "",
				c->words[1] ? c->words[1] : "", c->args);
	return 0;
}

static int set_values(struct ctl *ctl)
{
	const char *env = getenv("KVBROKER_SOCKET");
	const char *no_color = getenv("NO_COLOR");
	char *end;

	ctl->socket = env && env[0] ? env : KVB_DEFAULT_SOCKET;
	if (ctl->value[OPT_SOCKET])
		ctl->socket = ctl->value[OPT_SOCKET];
	ctl->timeout_s = 10;
	if (ctl->value[OPT_TIMEOUT]) {
		const char *text = ctl->value[OPT_TIMEOUT];

		ctl->timeout_s = strtod(text, &end);
		if (!isdigit((unsigned char)text[0]) || *end || !(ctl->timeout_s > 0) ||
		    ctl->timeout_s > 86400)
			return ctl_fail(ctl, ADMIN_EXIT_USAGE, "--timeout", NULL,
					"'%s' is no number of seconds up to 86400", text);
	}
	ctl->format = ctl_has(ctl, OPT_PRETTY) ? CTL_PRETTY
		      : ctl_has(ctl, OPT_JSON) ? CTL_JSON
		      : ctl_has(ctl, OPT_CSV)  ? CTL_CSV
					       : CTL_TEXT;
	ctl->colour =
		isatty(STDOUT_FILENO) && !ctl_has(ctl, OPT_NO_COLOR) && !(no_color && no_color[0]);
	return 0;
}

int ctl_parse(struct ctl *ctl, int argc, char **argv)
{
	bool options = true;
	int r = 0;

	for (int i = 1; i < argc && !r; i++) {
		if (options && strcmp(argv[i], "--") == 0)
			options = false;
		else if (options && strncmp(argv[i], "--", 2) == 0)
			r = take_name(ctl, argv, argc, &i);
		else if (options && argv[i][0] == '-' && argv[i][1])
			r = take_letters(ctl, argv, argc, &i);
		else
			r = take_word(ctl, argv[i]);
	}
	if (r)
		return r;
	if (ctl->nargs == 0) {
		if (ctl_has(ctl, OPT_HELP))
			return 0;
		return ctl_fail(ctl, ADMIN_EXIT_USAGE, "command", "see broker-ctl --help",
				"none is given");
	}
	r = find_command(ctl);
	if (r || ctl_has(ctl, OPT_HELP))
		return r;
	r = check_options(ctl);
	return r ? r : set_values(ctl);
}
