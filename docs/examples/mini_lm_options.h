/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The command line of mini_lm.c. */

#include <stdbool.h>
#include <stdint.h>

struct options {
	uint64_t seed;           /* of the weights */
	uint32_t device_kind;    /* enum kvb_device_kind */
	uint32_t device_ordinal; /* of rank 0; each further rank on the next GPU */
	uint32_t ranks;          /* 1..MODEL_RANKS */
	uint32_t blocks;         /* pages it wants to have room for */
	uint32_t answer_tokens;
	const char *run; /* NULL: the weights never change */
	bool packed, check, no_broker;
	bool wrong_pages, half; /* mistakes, for tests */
	char *const *prompts;   /* NULL-terminated; none: from standard input */
};

/* -1: go on; else the status to exit with. */
int options_parse(int argc, char **argv, struct options *ret);
