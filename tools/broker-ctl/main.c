/* SPDX-License-Identifier: Apache-2.0 */

/*
 * broker-ctl: see ctl.h for how it is made, and broker-ctl(1) for how it is used.
 */

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/broker-ctl/ctl.h"

int ctl_fail(const struct ctl *ctl, int code, const char *what, const char *hint, const char *fmt,
	     ...)
{
	va_list ap;

	if (ctl_has(ctl, OPT_QUIET))
		return code;
	(void)fflush(stdout);
	(void)fprintf(stderr, "broker-ctl: %s: ", what);
	va_start(ap, fmt);
	(void)vfprintf(stderr, fmt, ap);
	va_end(ap);
	if (hint)
		(void)fprintf(stderr, " (%s)", hint);
	(void)fputc('\n', stderr);
	return code;
}

/* Whether what was printed arrived. A reader that has seen enough (head) is no failure. */
static int finish_output(struct ctl *ctl, int code)
{
	if (output_flush(ctl) || ctl->output_error == EPIPE)
		return code;
	return ctl_fail(ctl, ADMIN_EXIT_FAILED, "output", NULL, "%s",
			ctl->output_error ? strerror(ctl->output_error) : "it was not written");
}

int main(int argc, char **argv)
{
	struct ctl ctl = { .link = { .fd = -1 } };
	int code;

	/* So that a reader's end is an error of fflush(), also where the parent did not reset it.
	 */
	(void)signal(SIGPIPE, SIG_IGN);
	code = ctl_parse(&ctl, argc, argv);
	if (code == 0 && ctl_has(&ctl, OPT_HELP)) {
		ctl_help(ctl.command);
		return finish_output(&ctl, 0);
	}
	if (code)
		return code;
	if (ctl_has(&ctl, OPT_QUIET) && !freopen("/dev/null", "w", stdout))
		return ADMIN_EXIT_FAILED;
	code = ctl.command->run(&ctl);
	link_close(&ctl);
	free(ctl.seg);
	return finish_output(&ctl, code);
}
