/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Exit codes of broker-ctl. The daemon chooses them too, because it knows why a command failed.
 */

enum admin_exit {
	ADMIN_EXIT_OK = 0,
	ADMIN_EXIT_FAILED = 1,      /* the operation failed; of `health`: degraded */
	ADMIN_EXIT_USAGE = 2,       /* the command line makes no sense */
	ADMIN_EXIT_UNREACHABLE = 3, /* no daemon; of `health`: down */
	ADMIN_EXIT_NOT_FOUND = 4,   /* no such object */
	ADMIN_EXIT_PERMISSION = 5,
	ADMIN_EXIT_BUSY = 6,    /* leased, pinned, in use: nothing changed */
	ADMIN_EXIT_TIMEOUT = 7, /* no answer; whether it was done is not known */
	ADMIN_EXIT_PARTIAL = 8, /* some of it; the answer lists both */
};
