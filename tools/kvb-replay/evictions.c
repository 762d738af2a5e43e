/* SPDX-License-Identifier: Apache-2.0 */

/*
 * How many pages the broker has evicted from a device, asked as an operator's program would: a
 * connection of role ADMIN is given a read-only fd of the stats segment, which the daemon brings up
 * to date before it answers. An engine is told nothing about evictions, since they may be of
 * others.
 */

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "broker/admin/stats_read.h"
#include "tools/kvb-replay/live.h"

#define ANSWER_MS 10000

static int fail(char why[256], int error, const char *what)
{
	(void)snprintf(why, 256, "%s", what);
	return error;
}

/* A connected socket, or -errno. */
static int connect_to(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd, r;

	if (strlen(path) >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	memcpy(addr.sun_path, path, strlen(path) + 1);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0) {
		r = -errno;
		(void)close(fd);
		return r;
	}
	return fd;
}

/* The first fd of a message's control part; the others are closed. -1: none. */
static int take_fd(struct msghdr *msg)
{
	int ret = -1;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		for (size_t i = 0;
		     c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			if (ret < 0)
				ret = fd;
			else
				(void)close(fd);
		}
	}
	return ret;
}

/* The fd of the segment out of the daemon's answer to HELLO. */
static int receive_fd(int sock, char why[256])
{
	union {
		struct kvb_msg_header h;
		struct kvb_msg_error error;
		char bytes[KVB_MSG_BYTES_MAX];
	} m;
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(4 * sizeof(int))];
	} control;
	struct iovec iov = { .iov_base = &m, .iov_len = sizeof(m) };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = &control,
			      .msg_controllen = sizeof(control) };
	struct pollfd p = { .fd = sock, .events = POLLIN };
	ssize_t n;
	int fd;

	if (poll(&p, 1, ANSWER_MS) <= 0)
		return fail(why, -ETIME, "no answer to an operator's HELLO");
	n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
	if (n < 0)
		return fail(why, -errno, "no answer to an operator's HELLO");
	fd = take_fd(&msg);
	if ((size_t)n >= sizeof(m.error) && m.h.type == KVB_MSG_ERROR) {
		m.error.text[sizeof(m.error.text) - 1] = 0;
		(void)fail(why, 0, m.error.text);
	} else if ((size_t)n >= sizeof(m.h) && m.h.type == KVB_MSG_HELLO_REPLY && fd >= 0) {
		return fd;
	} else {
		(void)fail(why, 0, "an answer to HELLO that is none");
	}
	if (fd >= 0)
		(void)close(fd);
	return -EPROTO;
}

/* The segment of the broker at `path`, mapped. */
static int map_segment(const char *path, const struct stats_segment **ret, char why[256])
{
	struct kvb_msg_hello hello = {
		.h = { .magic = KVB_MAGIC, .type = KVB_MSG_HELLO, .length = sizeof(hello) },
		.version_min = KVB_ABI_VERSION,
		.version_max = KVB_ABI_VERSION,
		.role = KVB_ROLE_ADMIN,
		.name = "kvb-replay",
	};
	int sock = connect_to(path);
	int fd, r;

	if (sock < 0)
		return fail(why, sock, "cannot connect as operator");
	if (send(sock, &hello, sizeof(hello), MSG_NOSIGNAL) < 0)
		fd = fail(why, -errno, "cannot say HELLO");
	else
		fd = receive_fd(sock, why);
	(void)close(sock);
	if (fd < 0)
		return fd;
	r = stats_read_map(fd, ret, NULL);
	(void)close(fd);
	return r < 0 ? fail(why, r, "a stats segment of another version than this kvb-replay") : 0;
}

int evictions_read(const struct replay_options *o, uint64_t *ret, char why[256])
{
	const struct stats_segment *segment = NULL;
	struct stats_segment *copy;
	int r = map_segment(o->broker, &segment, why);

	if (r < 0)
		return r;
	copy = malloc(sizeof(*copy));
	r = copy ? stats_read_copy(segment, copy) : -ENOMEM;
	stats_read_unmap(segment);
	if (r < 0) {
		free(copy);
		return fail(why, r, "the stats segment could not be read");
	}
	r = fail(why, -ENODEV, "the broker shows no such device");
	for (uint32_t i = 0; i < copy->devices_n; i++) {
		if (copy->device[i].kind == o->device_kind &&
		    copy->device[i].ordinal == o->device_ordinal) {
			*ret = copy->device[i].evictions;
			r = 0;
		}
	}
	free(copy);
	return r;
}
