/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Help and shell completion, both made from the tree of commands and the tables of columns, so that
 * they can't say anything else than what there is.
 */

#include <string.h>

#include "broker/config/nearest.h"
#include "tools/broker-ctl/ctl.h"

static void print_option(int id)
{
	const struct ctl_option *o = &ctl_options[id];
	char left[48];

	(void)snprintf(left, sizeof(left), "%c%c%s --%s%s%s", o->letter ? '-' : ' ',
		       o->letter ? o->letter : ' ', o->letter ? "," : " ", o->name,
		       o->value ? " " : "", o->value ? o->value : "");
	(void)printf("  %-22s %s\n", left, o->help);
}

static void words_of(const struct ctl_command *c, char *to, size_t bytes)
{
	(void)snprintf(to, bytes, "%s%s%s", c->words[0], c->words[1] ? " " : "",
		       c->words[1] ? c->words[1] : "");
}

static void help_program(void)
{
	char words[64];

	(void)printf("usage: broker-ctl [OPTIONS] COMMAND [ARGUMENTS]\n\n"
		     "Looks into a kvbroker daemon, and steers it.\n\nCommands:\n");
	for (unsigned i = 0; i < ctl_commands_n; i++) {
		words_of(&ctl_commands[i], words, sizeof(words));
		(void)printf("  %-16s %s\n", words, ctl_commands[i].summary);
	}
	(void)printf("\nOptions (a command says which it takes: broker-ctl COMMAND --help):\n");
	for (int i = 0; i < OPT_N; i++)
		print_option(i);
	(void)printf(
		"\nExit codes: 0 done, 1 failed, 2 usage, 3 no daemon, 4 no such object,\n"
		"5 permission, 6 busy, 7 timed out, 8 done in part; health: 0 ready, 1 degraded,\n"
		"3 down. See broker-ctl(1).\n");
}

void ctl_help(const struct ctl_command *command)
{
	char words[64];

	if (!command) {
		help_program();
		return;
	}
	words_of(command, words, sizeof(words));
	(void)printf("usage: broker-ctl [OPTIONS] %s%s%s\n\n%s.\n\nOptions:\n", words,
		     command->args[0] ? " " : "", command->args, command->summary);
	for (int i = 0; i < OPT_N; i++) {
		if (command->options & OPT(i))
			print_option(i);
	}
	if (!command->table)
		return;
	(void)printf("\nFields (* only if asked for with -o, and in JSON):\n");
	for (unsigned i = 0; i < command->table->n; i++) {
		const struct column *c = &command->table->columns[i];

		(void)printf("%s %-20s %s\n", c->wide ? "*" : " ", c->key, c->help);
	}
}

const struct ctl_command *ctl_nearest(const char *typed)
{
	const struct ctl_command *best = NULL;
	unsigned least = 4;
	char words[64];

	for (unsigned i = 0; i < ctl_commands_n; i++) {
		unsigned d;

		words_of(&ctl_commands[i], words, sizeof(words));
		d = nearest_distance(typed, words);
		if (!ctl_commands[i].words[1]) {
			/* Its argument is no part of it. */
			char first[64];
			unsigned alone;

			(void)snprintf(first, sizeof(first), "%.*s", (int)strcspn(typed, " "),
				       typed);
			alone = nearest_distance(first, words);
			d = alone < d ? alone : d;
		}
		if (d < least) {
			least = d;
			best = &ctl_commands[i];
		}
	}
	return best;
}

/* ---- completion ---------------------------------------------------------------------------- */

static void complete_options(const struct ctl_command *c)
{
	for (int i = 0; i < OPT_N; i++) {
		if (c->options & OPT(i))
			(void)printf(" --%s", ctl_options[i].name);
	}
}

static void complete_values(void)
{
	(void)printf("\tcase $prev in\n");
	for (int i = 0; i < OPT_N; i++) {
		const struct ctl_option *o = &ctl_options[i];

		if (!o->value)
			continue;
		if (o->letter)
			(void)printf("\t-%c|--%s)", o->letter, o->name);
		else
			(void)printf("\t--%s)", o->name);
		if (i == OPT_SOCKET)
			(void)printf(" COMPREPLY=($(compgen -f -- \"$cur\")); return ;;\n");
		else if (i == OPT_BY)
			(void)printf(" COMPREPLY=($(compgen -W 'hits clients idle' -- \"$cur\")); "
				     "return ;;\n");
		else
			(void)printf(" return ;;\n");
	}
	(void)printf("\tesac\n");
}

int ctl_completion(struct ctl *ctl)
{
	char words[64];

	(void)printf("# bash completion of broker-ctl; made by: broker-ctl completion bash\n"
		     "_broker_ctl()\n{\n"
		     "\tlocal cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n"
		     "\tlocal i sock= options= list= words=()\n"
		     "\tfor ((i = 1; i < COMP_CWORD; i++)); do\n"
		     "\t\tcase ${COMP_WORDS[i]} in\n"
		     "\t\t-S|--socket) sock=\"-S ${COMP_WORDS[i+1]}\"; ((i++)) ;;\n"
		     "\t\t-t|-o|--timeout|--fields|--space|--salt|--by|--count) ((i++)) ;;\n"
		     "\t\t-*) ;;\n"
		     "\t\t*) words+=(\"${COMP_WORDS[i]}\") ;;\n"
		     "\t\tesac\n\tdone\n");
	complete_values();
	(void)printf("\tcase \"${words[*]:0:2}\" in\n");
	for (unsigned i = 0; i < ctl_commands_n; i++) {
		const struct ctl_command *c = &ctl_commands[i];

		words_of(c, words, sizeof(words));
		(void)printf("\t'%s'%s) options='", words, c->words[1] ? "" : "*");
		complete_options(c);
		(void)printf("'");
		if (c->complete)
			(void)printf("; [[ $cur == -* ]] || list=\"%s\"", c->complete);
		(void)printf(" ;;\n");
	}
	/* First words without a second, and nothing typed yet. */
	for (unsigned i = 0; i < ctl_commands_n; i++) {
		const struct ctl_command *c = &ctl_commands[i];

		if (!c->words[1] || (i && strcmp(ctl_commands[i - 1].words[0], c->words[0]) == 0))
			continue;
		(void)printf("\t%s) list='", c->words[0]);
		for (unsigned k = i; k < ctl_commands_n; k++) {
			if (strcmp(ctl_commands[k].words[0], c->words[0]) == 0)
				(void)printf(" %s", ctl_commands[k].words[1]);
		}
		(void)printf("' ;;\n");
	}
	(void)printf("\t'') list='");
	for (unsigned i = 0; i < ctl_commands_n; i++) {
		if (!i || strcmp(ctl_commands[i - 1].words[0], ctl_commands[i].words[0]) != 0)
			(void)printf(" %s", ctl_commands[i].words[0]);
	}
	(void)printf("' ;;\n\tesac\n"
		     "\tif [[ $cur == -* ]]; then list=$options; fi\n"
		     "\tCOMPREPLY=($(compgen -W \"$list\" -- \"$cur\"))\n"
		     "}\ncomplete -F _broker_ctl broker-ctl\n");
	return 0;
}
