/* SPDX-License-Identifier: Apache-2.0 */

/*
 * kvbroker-exporter: the daemon's figures for Prometheus; kvbroker-exporter(8) says how it is used.
 *
 *   main.c      the command line, and until when it runs
 *   source.c    the stats segment, and whether its daemon lives
 *   metrics.c   what figures are called; families.c the tables, exposition.c the text format
 *   page.c      the same for people
 *   web.c       both over HTTP; textfile.c the metrics as a file
 *
 * A process of its own, so that no bug of an HTTP server is the daemon's, and without a privilege:
 * it only reads a file that all may read.
 */

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "tools/kvbroker-exporter/textfile.h"
#include "tools/kvbroker-exporter/web.h"

#define DEFAULT_STATS "/run/kvbroker/state/stats"
#define INTERVAL_S_MIN 0.1
#define INTERVAL_S_MAX 3600

enum { EXIT_FAILED = 1, EXIT_USAGE = 2 };

struct args {
	const char *stats, *listen, *textfile;
	double interval_s; /* 0: once */
};

static void usage(void)
{
	(void)printf(
		"usage: kvbroker-exporter [--stats PATH] --listen ADDRESS:PORT\n"
		"       kvbroker-exporter [--stats PATH] --textfile FILE [--interval SECONDS]\n"
		"\n"
		"The figures of a kvbroker daemon for Prometheus. The daemon is not asked: it\n"
		"publishes them in a file, which is read.\n"
		"\n"
		"  --stats PATH           the daemon's stats segment\n"
		"                         (" DEFAULT_STATS ")\n"
		"  --listen ADDRESS:PORT  serve /metrics, /health and a page for people at /\n"
		"  --textfile FILE        write them to FILE, for node_exporter, and end\n"
		"  --interval SECONDS     do not end: write every so often\n"
		"  --version, --help\n");
}

static int bad_usage(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static int bad_usage(const char *fmt, ...)
{
	va_list ap;

	(void)fputs("kvbroker-exporter: ", stderr);
	va_start(ap, fmt);
	(void)vfprintf(stderr, fmt, ap);
	va_end(ap);
	(void)fputs(" (see kvbroker-exporter --help)\n", stderr);
	return EXIT_USAGE;
}

static bool parse_interval(const char *text, double *ret)
{
	char *end;

	*ret = strtod(text, &end);
	return isdigit((unsigned char)text[0]) && !*end && *ret >= INTERVAL_S_MIN &&
	       *ret <= INTERVAL_S_MAX;
}

static int check_args(const struct args *a)
{
	struct stat st;

	if (!a->listen && !a->textfile)
		return bad_usage("what is it to do? Give --listen or --textfile");
	if (a->listen && a->textfile)
		return bad_usage("--listen and --textfile are two ways; give one, or run two");
	if (a->interval_s > 0 && !a->textfile)
		return bad_usage("--interval is for --textfile; --listen answers when it is asked");
	/* It may not be there yet; but something else will never be it. */
	if (stat(a->stats, &st) == 0 && !S_ISREG(st.st_mode))
		return bad_usage("--stats %s: it is no file; it is called stats, in the daemon's "
				 "--state-dir",
				 a->stats);
	return -1;
}

/* An exit code, or -1: go on. */
static int parse(int argc, char **argv, struct args *a)
{
	static const struct option options[] = {
		{ "stats", required_argument, NULL, 's' },
		{ "listen", required_argument, NULL, 'l' },
		{ "textfile", required_argument, NULL, 't' },
		{ "interval", required_argument, NULL, 'i' },
		{ "version", no_argument, NULL, 'v' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	int c;

	*a = (struct args){ .stats = DEFAULT_STATS };
	while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (c) {
		case 's':
			a->stats = optarg;
			break;
		case 'l':
			a->listen = optarg;
			break;
		case 't':
			a->textfile = optarg;
			break;
		case 'i':
			if (!parse_interval(optarg, &a->interval_s))
				return bad_usage("--interval '%s' is no number of seconds from %g "
						 "to %d",
						 optarg, INTERVAL_S_MIN, INTERVAL_S_MAX);
			break;
		case 'v':
			(void)printf("kvbroker-exporter %s\n", KVB_VERSION);
			return 0;
		case 'h':
			usage();
			return 0;
		default: /* getopt_long() has said what is wrong */
			return EXIT_USAGE;
		}
	}
	if (optind < argc)
		return bad_usage("'%s' is not expected", argv[optind]);
	return check_args(a);
}

/* ---- its life ------------------------------------------------------------------------------ */

static int serve(const struct args *a, struct source *source, const sigset_t *ends)
{
	char why[256], address[80];
	struct web *web;
	int signal_number, fd;

	fd = web_listen(a->listen, address, why);
	if (fd < 0) {
		(void)fprintf(stderr, "kvbroker-exporter: --listen: %s\n", why);
		return fd == -EINVAL ? EXIT_USAGE : EXIT_FAILED;
	}
	web = web_start(fd, source);
	if (!web) {
		(void)fprintf(stderr, "kvbroker-exporter: cannot start to serve: out of memory, "
				      "threads or files\n");
		return EXIT_FAILED;
	}
	(void)fprintf(stderr, "kvbroker-exporter: serving http://%s/metrics\n", address);
	(void)sigwait(ends, &signal_number);
	(void)web_stop(web);
	return 0;
}

static int write_file(const struct args *a, struct source *source, const sigset_t *ends)
{
	const struct timespec pause = { .tv_sec = (time_t)a->interval_s,
					.tv_nsec = (long)(fmod(a->interval_s, 1) * 1e9) };
	int last = 0;

	for (bool first = true;; first = false) {
		int r = textfile_write(a->textfile, source);

		if (r < 0 && r != last)
			(void)fprintf(stderr, "kvbroker-exporter: cannot write %s: %s\n",
				      a->textfile, strerror(-r));
		if (first && (r < 0 || a->interval_s <= 0))
			return r < 0 ? EXIT_FAILED : 0;
		last = r;
		while ((r = sigtimedwait(ends, NULL, &pause)) < 0 && errno == EINTR)
			;
		if (r > 0)
			break;
	}
	/* Nobody will say when these figures are of the past. */
	(void)unlink(a->textfile);
	return 0;
}

int main(int argc, char **argv)
{
	struct source source;
	struct args a;
	sigset_t ends;
	int code = parse(argc, argv, &a);

	if (code >= 0)
		return code;
	(void)sigemptyset(&ends);
	(void)sigaddset(&ends, SIGTERM);
	(void)sigaddset(&ends, SIGINT);
	(void)sigprocmask(SIG_BLOCK, &ends, NULL);
	(void)signal(SIGPIPE, SIG_IGN);
	if (source_init(&source, a.stats) < 0) {
		(void)fprintf(stderr, "kvbroker-exporter: out of memory\n");
		return EXIT_FAILED;
	}
	code = a.listen ? serve(&a, &source, &ends) : write_file(&a, &source, &ends);
	source_free(&source);
	return code;
}
