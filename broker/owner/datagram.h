/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Datagrams with fds beside them: the one place that knows how the kernel wants them packed.
 *
 * The daemon sends them to clients and movers, owners to the daemon. What comes of a failure is the
 * caller's to say; nothing here waits unless the socket does.
 */

#include <stdbool.h>
#include <stddef.h>

#define DATAGRAM_FDS_MAX 128u /* of one */

struct datagram_fds {
	int fd[DATAGRAM_FDS_MAX]; /* close-on-exec, the receiver's */
	unsigned n;
	bool lost; /* there were more: this process has no room for them */
};

/* fds: n of them, which stay the sender's; NULL if 0. flags of sendmsg(); MSG_NOSIGNAL is implied,
 * and EINTR tried again. 0, -errno. */
int datagram_send(int sock, const void *msg, size_t bytes, const int *fds, unsigned n, int flags);

/* A datagram of exactly `bytes`. flags of recvmsg(). 0; -EAGAIN: none, also when it was
 * interrupted; -EPIPE: the peer has gone; -EPROTO: it has another size, its fds are closed. */
int datagram_receive(int sock, void *msg, size_t bytes, int flags, struct datagram_fds *ret);
void datagram_close_fds(const struct datagram_fds *fds);
