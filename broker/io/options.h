/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The command line of kvbrokerd, into a struct server_config.
 */

#include "broker/io/log.h"
#include "broker/io/server.h"

enum options_verdict {
	OPTIONS_RUN,
	OPTIONS_EXIT,  /* --help, --version: said, all done */
	OPTIONS_WRONG, /* said why on stderr; exit status 2 */
};

enum options_verdict options_parse(int argc, char **argv, struct server_config *ret,
				   enum log_level *ret_level);
