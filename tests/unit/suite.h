/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The frame of a unit test program: one Check suite, run with fork isolation, spoken in TAP.
 *
 * A program lists its cases in an array and calls suite_run() from main(). The return value is 0
 * also when cases failed: in TAP it is the output that counts, and Meson would report a program
 * that exits otherwise as broken rather than count its cases.
 */

#include <check.h>

struct suite_case {
	const TTest **test; /* the name START_TEST() made */
	double timeout_s;   /* 0 = Check's default */
	int loops;          /* runs it that often, _i counting from 0; 0 = once */
};

/* Runs every case up to the one whose test is NULL. Returns main()'s exit status. */
int suite_run(const char *name, const struct suite_case *cases);
