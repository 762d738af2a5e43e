/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The exporter over HTTP: /metrics for Prometheus, /health for probes, / for people.
 *
 * One thread of libmicrohttpd's, which never waits for a client: whoever reads slowly has a buffer
 * and a time limit. From web_start() on the source is that thread's; web_stop() gives it back. A
 * document is made at most every 100 ms, which is how often the daemon publishes, and is shared by
 * all who ask for it in between; so what many slow readers can take of the memory is bounded too.
 */

#include "tools/kvbroker-exporter/source.h"

struct web;

/*
 * "127.0.0.1:9810", "[::1]:9810", "0.0.0.0:9810". ret_address has what became of it, with the port
 * that was taken for port 0. The listening socket; -EINVAL: it is no such thing; -errno; why in
 * why.
 */
int web_listen(const char *address, char ret_address[80], char why[256]);
struct web *web_start(int listen_fd, struct source *source); /* NULL: cannot. Owns the fd. */
struct web *web_stop(struct web *web);                       /* NULL is fine */
