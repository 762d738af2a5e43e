/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Steps of server_start(), in this order. Each logs why it fails. Nobody else calls them; what
 * start_count_files() says is also told to operators.
 */

#include "broker/io/server.h"

/* What the options left open: room for the slabs of all devices, else the core's defaults. */
void start_fill_limits(struct server_config *cfg);
/* Open files when every client and slab is there. */
uint64_t start_count_files(const struct server_config *cfg);
void start_raise_nofile(const struct server_config *cfg);
int start_lock(struct server *s);    /* state directory, and the lock against a second daemon */
int start_devices(struct server *s); /* opens them, and looks if they have what they promise */
int start_tables(struct server *s);  /* needs the worker, which goes before the devices do */
void start_undo(struct server *s);
