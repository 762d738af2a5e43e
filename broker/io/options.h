/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The command line of kvbrokerd, into a struct server_config.
 */

#include "broker/io/server.h"

enum options_verdict {
	OPTIONS_RUN,
	OPTIONS_OWNER, /* to be the owner of a GPU */
	OPTIONS_MOVER, /* to be the mover of a device */
	OPTIONS_EXIT,  /* --help, --version: said, all done */
	OPTIONS_WRONG, /* said why on stderr; exit status 2 */
};

/* OPTIONS_OWNER, OPTIONS_MOVER: only the log level of ret is of use, and the device. */
enum options_verdict options_parse(int argc, char **argv, struct server_config *ret,
				   struct server_device_config *ret_device);
