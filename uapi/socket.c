/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages over the socket, and the fds that travel with them.
 *
 * One datagram is one message. Every fd that arrives is close-on-exec and has an owner from the
 * moment recvmsg() returns: a message that is cut short, lies about its length or carries another
 * number of fds than it says gives them all back and ends the connection.
 *
 * Messages arrive unasked (grants), so they are read wherever the library waits, and
 * kvb_space_open() is the only call that waits for an answer here.
 */

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

static void close_all(const int *fds, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		close(fds[i]);
}

static int gone(struct kvb *kvb)
{
	return kvb_end(
		kvb, -ENOTCONN,
		"the broker has closed the connection: it stopped, or gave up on this client");
}

int kvb_socket_open(struct kvb *kvb, const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct timeval limit;
	int rc;

	if (!*path || strlen(path) >= sizeof(addr.sun_path))
		return kvb_fail(kvb, -EINVAL, "socket path '%.120s' is empty or too long", path);
	memcpy(addr.sun_path, path, strlen(path) + 1);
	kvb->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (kvb->fd < 0)
		return kvb_fail(kvb, -errno, "cannot make a socket: %s", strerror(errno));
	/* connect() blocks while the broker's backlog is full. */
	limit.tv_sec = kvb->timeout_ns / 1000000000u > 86400
			       ? 86400
			       : (time_t)(kvb->timeout_ns / 1000000000u);
	limit.tv_usec = (suseconds_t)(kvb->timeout_ns % 1000000000u / 1000);
	if (!limit.tv_sec && !limit.tv_usec)
		limit.tv_usec = 1;
	(void)setsockopt(kvb->fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	if (connect(kvb->fd, (struct sockaddr *)&addr, sizeof(addr)) == 0)
		return 0;
	rc = errno == EAGAIN ? -ETIME : -errno;
	switch (-rc) {
	case ENOENT:
	case ECONNREFUSED:
		return kvb_fail(kvb, rc, "no broker at %s: start kvbrokerd, or set KVBROKER_SOCKET",
				path);
	case EACCES:
		return kvb_fail(kvb, rc,
				"no permission for %s: the user must be in the socket's group",
				path);
	default:
		return kvb_fail(kvb, rc, "cannot connect to %s: %s", path, strerror(-rc));
	}
}

int kvb_socket_send(struct kvb *kvb, struct kvb_msg_header *h, enum kvb_msg_type type, size_t bytes)
{
	const uint64_t deadline_ns = kvb_deadline_ns(kvb->timeout_ns);

	*h = (struct kvb_msg_header){ .magic = KVB_MAGIC,
				      .type = (uint16_t)type,
				      .length = (uint32_t)bytes };
	for (;;) {
		struct pollfd p = { .fd = kvb->fd, .events = POLLOUT };

		if (send(kvb->fd, h, bytes, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
			return 0;
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN && type == KVB_MSG_HELLO)
			return -ENOTCONN; /* a refusal may be waiting to be read */
		if (errno != EAGAIN)
			return gone(kvb);
		if (kvb_clock_ns() >= deadline_ns)
			return kvb_end(kvb, -ENOTCONN,
				       "the broker does not read its socket: is it stopped?");
		(void)poll(&p, 1, 10);
	}
}

/* Collects the fds of a received message; false if some were lost on the way. */
static bool take_fds(struct msghdr *msg, int *fds, unsigned *ret_nfds)
{
	unsigned n = 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		const unsigned here = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(fds + n, CMSG_DATA(c), here * sizeof(int));
		n += here;
	}
	*ret_nfds = n;
	return !(msg->msg_flags & (MSG_CTRUNC | MSG_TRUNC));
}

int kvb_socket_receive(struct kvb *kvb, union kvb_message *m, int *fds, unsigned *ret_nfds)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int) * KVB_GRANT_FDS_MAX)];
		struct cmsghdr align;
	} control;
	struct iovec iov = { m, sizeof(*m) };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes),
	};
	ssize_t n;

	if (kvb->dead)
		return kvb->dead;
	do
		n = recvmsg(kvb->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN)
		return 0;
	if (n <= 0)
		return gone(kvb);
	if (!take_fds(&msg, fds, ret_nfds)) {
		close_all(fds, *ret_nfds);
		return kvb_end(kvb, -EPROTO,
			       "a message of the broker was cut short: is the limit of open files "
			       "(ulimit -n) too low?");
	}
	if ((size_t)n < sizeof(m->h) || m->h.magic != KVB_MAGIC || m->h.length != (size_t)n ||
	    m->h.nfds != *ret_nfds) {
		close_all(fds, *ret_nfds);
		return kvb_end(
			kvb, -EPROTO,
			"the broker sent a message of %zd bytes and %u fds that is none of ours", n,
			*ret_nfds);
	}
	return 1;
}

int kvb_socket_wait(struct kvb *kvb, uint64_t deadline_ns)
{
	struct pollfd p = { .fd = kvb->fd, .events = POLLIN };

	for (;;) {
		const uint64_t now = kvb_clock_ns();
		const uint64_t left_ms =
			now >= deadline_ns ? 0 : (deadline_ns - now + 999999) / 1000000;
		const int n = poll(&p, 1, left_ms > 1000 ? 1000 : (int)left_ms);

		if (kvb->dead)
			return kvb->dead;
		if (n > 0)
			return 0;
		if (n < 0 && errno != EINTR)
			return gone(kvb);
		if (!left_ms)
			return -ETIME;
	}
}

bool kvb_socket_hung_up(struct kvb *kvb)
{
	struct pollfd p = { .fd = kvb->fd, .events = POLLRDHUP };

	return poll(&p, 1, 0) > 0 && p.revents & (POLLHUP | POLLRDHUP | POLLERR | POLLNVAL);
}

static int take_grant(struct kvb *kvb, const struct kvb_msg_grant *g, const int *fds, unsigned nfds)
{
	if (g->h.length < sizeof(*g) || g->count != nfds || !nfds ||
	    g->h.length != sizeof(*g) + (uint64_t)nfds * sizeof(g->entries[0])) {
		close_all(fds, nfds);
		return kvb_end(kvb, -EPROTO, "the broker granted %u handles with %u fds", g->count,
			       nfds);
	}
	const int status = kvb_space_granted(kvb, g, fds);
	struct kvb_msg_grant_ack ack = { .seq = g->seq, .status = (uint32_t)-status };

	int rc = kvb->dead;

	kvb->grants++;
	kvb->refusals += status != 0;
	if (!rc)
		rc = kvb_socket_send(kvb, &ack.h, KVB_MSG_GRANT_ACK, sizeof(ack));
	close_all(fds, nfds); /* the broker goes on meanwhile */
	return rc;
}

static int take_message(struct kvb *kvb, union kvb_message *m, const int *fds, unsigned nfds)
{
	if (m->h.type == KVB_MSG_GRANT)
		return take_grant(kvb, &m->grant, fds, nfds);
	close_all(fds, nfds);
	if (!nfds && m->h.type == KVB_MSG_ERROR && m->h.length == sizeof(m->error)) {
		m->error.text[sizeof(m->error.text) - 1] = '\0';
		const int err = m->error.error < 0 ? m->error.error : -EPROTO;
		if (!kvb->reply_wanted)
			return kvb_end(kvb, -ENOTCONN, "%s", m->error.text);
		kvb->reply_wanted = false;
		kvb->reply_error = kvb_fail(kvb, err, "%s", m->error.text);
		return 0;
	}
	if (!nfds && m->h.type == KVB_MSG_SPACE_REPLY && m->h.length == sizeof(m->space) &&
	    kvb->reply_wanted) {
		kvb->reply_wanted = false;
		kvb->reply_error = 1;
		kvb->reply = m->space;
		return 0;
	}
	return kvb_end(kvb, -EPROTO, "the broker sent message %u, which nothing asked for",
		       m->h.type);
}

int kvb_socket_process(struct kvb *kvb)
{
	const bool wanted = kvb->reply_wanted;
	union kvb_message m;
	int fds[KVB_GRANT_FDS_MAX];
	unsigned nfds;
	int rc;

	/* Before reading: a message that comes while we read is then seen as news again. */
	kvb->ring.sock_seen = kvb_word_acquire(&kvb->ring.ctl->sock_seq);
	for (;;) {
		rc = kvb_socket_receive(kvb, &m, fds, &nfds);
		if (rc <= 0)
			return rc;
		rc = take_message(kvb, &m, fds, nfds);
		/* After the answer to SPACE_OPEN come grants of a space that must first be made. */
		if (rc || (wanted && !kvb->reply_wanted))
			return rc;
	}
}
