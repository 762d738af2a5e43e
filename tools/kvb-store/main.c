/* SPDX-License-Identifier: Apache-2.0 */

/*
 * kvb-store: looks at stores that no broker is using, checks and wipes them.
 *
 * Exit codes: 0 clean, 1 damage was found, 2 bad arguments, 3 it failed, 4 the store is in use.
 */

#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tools/kvb-store/kvb-store.h"

#define BAR_CELLS 40u
#define BAR_EVERY_MS 100

static const struct verb {
	const char *name;
	int (*run)(const struct args *);
	const char *options; /* short ones that it takes */
	const char *what;
} verbs[] = {
	{ "info", verb_info, "j", "what a store is and how much is in it" },
	{ "fsck", verb_fsck, "jD", "checks its structures; --deep: every page too" },
	{ "dump", verb_dump, "j", "a line for each page" },
	{ "wipe", verb_wipe, "y", "gives up all that is there" },
};
#define VERBS (sizeof(verbs) / sizeof(verbs[0]))

static void usage(FILE *to)
{
	fputs("usage: kvb-store VERB [OPTIONS] PATH...\n"
	      "\n"
	      "PATH is the file or device of a store that no broker uses; all of them, where it "
	      "has\n"
	      "several. One that is in use is refused, after 5 s.\n"
	      "\n",
	      to);
	for (unsigned i = 0; i < VERBS; i++)
		fprintf(to, "  %-5s %s\n", verbs[i].name, verbs[i].what);
	fputs("\n"
	      "  -j, --json  one JSON object (dump: one a line)\n"
	      "  --deep      fsck: read every page and compare\n"
	      "  -y, --yes   wipe: do not ask\n"
	      "  --help      this text\n"
	      "\n"
	      "exit: 0 clean, 1 damage was found, 2 bad arguments, 3 failed, 4 in use\n",
	      to);
}

static int bad_usage(const char *what, const char *name)
{
	fprintf(stderr, "kvb-store: %s%s (try kvb-store --help)\n", what, name);
	return EXIT_USAGE;
}

void bar_show(const char *what, uint64_t done, uint64_t total)
{
	static struct timespec last;
	struct timespec now;
	char cells[BAR_CELLS + 1];
	unsigned full;

	if (!isatty(STDERR_FILENO) || total == 0)
		return;
	clock_gettime(CLOCK_MONOTONIC, &now);
	if (done < total &&
	    (now.tv_sec - last.tv_sec) * 1000 + (now.tv_nsec - last.tv_nsec) / 1000000 <
		    BAR_EVERY_MS)
		return;
	last = now;
	full = (unsigned)(done * BAR_CELLS / total);
	for (unsigned i = 0; i < BAR_CELLS; i++)
		cells[i] = i < full ? '#' : '.';
	cells[BAR_CELLS] = '\0';
	fprintf(stderr, "\r%-8s [%s] %3u%%", what, cells, (unsigned)(done * 100 / total));
}

void bar_end(void)
{
	if (isatty(STDERR_FILENO))
		fputs("\r\033[K", stderr);
}

static int parse(int argc, char **argv, const struct verb *verb, struct args *a)
{
	static const struct option options[] = { { "json", no_argument, NULL, 'j' },
						 { "deep", no_argument, NULL, 'D' },
						 { "yes", no_argument, NULL, 'y' },
						 { "help", no_argument, NULL, 'h' },
						 { NULL, 0, NULL, 0 } };
	int c;

	optind = 2; /* behind the verb */
	while ((c = getopt_long(argc, argv, "jyh", options, NULL)) != -1) {
		if (c == 'h') {
			usage(stdout);
			return EXIT_CLEAN;
		}
		if (c == '?')
			return EXIT_USAGE;
		if (!strchr(verb->options, c))
			return bad_usage(verb->name, " takes no such option");
		a->json = a->json || c == 'j';
		a->deep = a->deep || c == 'D';
		a->yes = a->yes || c == 'y';
	}
	for (; optind < argc; optind++) {
		if (a->paths == sizeof(a->path) / sizeof(a->path[0]))
			return bad_usage("a store has 16 parts at most", "");
		a->path[a->paths++] = argv[optind];
	}
	if (a->paths == 0)
		return bad_usage("which store? A path is wanted", "");
	return -1;
}

int main(int argc, char **argv)
{
	struct args a = { 0 };

	if (argc < 2)
		return bad_usage("what is to be done?", "");
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
		usage(stdout);
		return EXIT_CLEAN;
	}
	for (unsigned i = 0; i < VERBS; i++) {
		int status;

		if (strcmp(argv[1], verbs[i].name) != 0)
			continue;
		status = parse(argc, argv, &verbs[i], &a);
		return status >= 0 ? status : verbs[i].run(&a);
	}
	return bad_usage("there is no verb ", argv[1]);
}
