/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The command line of kvbrokerd, into a struct server_config.
 */

#include "broker/io/server.h"

enum options_verdict {
	OPTIONS_RUN,
	OPTIONS_OWNER, /* to be the owner of a GPU */
	OPTIONS_EXIT,  /* --help, --version: said, all done */
	OPTIONS_WRONG, /* said why on stderr; exit status 2 */
};

/* OPTIONS_OWNER: only the log level of ret is of use, and ret_ordinal. */
enum options_verdict options_parse(int argc, char **argv, struct server_config *ret,
				   uint32_t *ret_ordinal);
