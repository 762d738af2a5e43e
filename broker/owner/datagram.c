/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Packing and unpacking of fds: see datagram.h.
 *
 * A receiver has room for as many fds as a sender may send; what is lost is lost to the limit of
 * open files, and said.
 */

#include "broker/owner/datagram.h"

#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

union room {
	char bytes[CMSG_SPACE(DATAGRAM_FDS_MAX * sizeof(int))];
	struct cmsghdr align;
};

int datagram_send(int sock, const void *msg, size_t bytes, const int *fds, unsigned n, int flags)
{
	struct iovec iov = { .iov_base = (void *)(uintptr_t)msg, .iov_len = bytes };
	struct msghdr header = { .msg_iov = &iov, .msg_iovlen = 1 };
	union room room;
	ssize_t sent;

	assert(n <= DATAGRAM_FDS_MAX);
	if (n) {
		struct cmsghdr *c;

		memset(&room, 0, sizeof(room));
		header.msg_control = room.bytes;
		header.msg_controllen = CMSG_SPACE(n * sizeof(int));
		c = CMSG_FIRSTHDR(&header);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(n * sizeof(int));
		memcpy(CMSG_DATA(c), fds, n * sizeof(int));
	}
	do {
		sent = sendmsg(sock, &header, flags | MSG_NOSIGNAL);
	} while (sent < 0 && errno == EINTR);
	return sent < 0 ? -errno : 0;
}

static void take_fds(struct msghdr *header, struct datagram_fds *ret)
{
	ret->n = 0;
	ret->lost = header->msg_flags & MSG_CTRUNC;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c; c = CMSG_NXTHDR(header, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		ret->n = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(ret->fd, CMSG_DATA(c), ret->n * sizeof(int));
	}
}

int datagram_receive(int sock, void *msg, size_t bytes, int flags, struct datagram_fds *ret)
{
	union room room;
	struct iovec iov = { .iov_base = msg, .iov_len = bytes };
	struct msghdr header = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = room.bytes,
		.msg_controllen = sizeof(room.bytes),
	};
	ssize_t n = recvmsg(sock, &header, flags | MSG_CMSG_CLOEXEC);

	ret->n = 0;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return -EAGAIN;
	if (n <= 0)
		return -EPIPE;
	take_fds(&header, ret);
	if ((size_t)n == bytes && !(header.msg_flags & MSG_TRUNC))
		return 0;
	datagram_close_fds(ret);
	return -EPROTO;
}

void datagram_close_fds(const struct datagram_fds *fds)
{
	for (unsigned i = 0; i < fds->n; i++)
		close(fds->fd[i]);
}
