/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the verbs of kvb-store share. */

#include <stdbool.h>
#include <stdint.h>

struct args {
	const char *path[16];
	unsigned paths;
	bool json, deep, yes;
};

enum { EXIT_CLEAN = 0, EXIT_DAMAGED = 1, EXIT_USAGE = 2, EXIT_FAILED = 3, EXIT_IN_USE = 4 };

/* A line on the terminal that goes on in place; nothing when stderr is none. */
void bar_show(const char *what, uint64_t done, uint64_t total);
void bar_end(void);

int verb_info(const struct args *a);
int verb_fsck(const struct args *a);
int verb_dump(const struct args *a);
int verb_wipe(const struct args *a);
