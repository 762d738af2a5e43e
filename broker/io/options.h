/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The command line of kvbrokerd: which file is read, what is said beside it, into a configuration.
 */

#include "broker/config/config.h"

enum options_verdict {
	OPTIONS_RUN,
	OPTIONS_OWNER, /* to be the owner of a GPU */
	OPTIONS_MOVER, /* to be the mover of a device */
	OPTIONS_EXIT,  /* --help, --version: said, all done */
	OPTIONS_WRONG, /* said why on stderr; exit status 2 */
};

/*
 * OPTIONS_OWNER, OPTIONS_MOVER: only the log level of ret is of use, and the device. ret refers to
 * argv and to what is allocated here, both for as long as the process lives.
 */
enum options_verdict options_parse(int argc, char **argv, struct config *ret,
				   struct server_device_config *ret_device);
