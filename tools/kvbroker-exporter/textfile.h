/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The metrics as a file, for node_exporter's textfile collector: whole or not at all.
 */

#include "tools/kvbroker-exporter/source.h"

/* Reads the source and replaces the file. 0, -ENOMEM, -errno. */
int textfile_write(const char *path, struct source *source);
