/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Commands of operators (broker-ctl), over the same socket as engines, role ADMIN.
 *
 * A request is argv; the answer is JSON and an exit code (docs/man/broker-ctl.1). Anyone the socket
 * lets in may read; changing something takes uid 0, the daemon's uid, or the tenant's own uid for
 * the tenant's own clients and namespaces. Long answers go out in pieces as the reader takes them;
 * one that does not read is dropped after a while. Long walks (prefix top, health --deep) run in
 * slices between turns.
 */

#include <stddef.h>

#include "broker/io/server.h"

int admin_attach(struct session *ss); /* after HELLO of role ADMIN; -ENOMEM */
void admin_detach(struct session *ss);
/* A KVB_MSG_CTL datagram of `bytes` bytes, already copied. -EPROTO: end the session. */
int admin_message(struct session *ss, const void *msg, size_t bytes);
void admin_writable(struct session *ss); /* the socket takes more */
bool admin_turn(struct server *s);       /* slices of long walks; true: more to do now */
