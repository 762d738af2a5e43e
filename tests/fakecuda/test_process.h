/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What test programs of the stand-in begin with: every case is a process of its own, which loads
 * the driver with settings of its own, on a pretend machine of its own.
 */

#include "cuda_driver/cuda_api.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PIECE (2ull << 20)

extern const struct cuda_api *cu;

/* Name of that machine, as file names have it. */
void fake_node(char *ret, size_t bytes, const char *node);
/* Loads the driver with these settings, on a pretend machine of this name. */
void fake_load(const char *node, const char *settings);
void fake_start(const char *node, const char *settings); /* and initialises it */
enum cu_result fake_create(int ordinal, uint64_t bytes, cu_handle *ret);
/* Runs this in a process of its own, which ends as processes do. 0: it returned true. */
int child_run(bool (*what)(const char *settings), const char *settings);
uint64_t now_us(void);
