/* SPDX-License-Identifier: Apache-2.0 */

/*
 * kvbrokerd: options, start, the wheel, stop.
 *
 * Exit status: 0 stopped as asked, 1 could not start or broke, 2 wrong command line.
 */

#include "broker/io/options.h"

/* Large, and one a process: not on the stack. */
static struct server_config config;
static struct server server;

int main(int argc, char **argv)
{
	enum log_level level;
	int error;

	switch (options_parse(argc, argv, &config, &level)) {
	case OPTIONS_EXIT:
		return 0;
	case OPTIONS_WRONG:
		return 2;
	case OPTIONS_RUN:
		break;
	}
	log_init(level);
	if (server_start(&server, &config))
		return 1;
	error = server_run(&server);
	server_finish(&server);
	return error ? 1 : 0;
}
