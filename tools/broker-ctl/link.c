/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The connection: HELLO of role ADMIN, the stats segment, commands and their answers in pieces.
 *
 * Everything has one deadline, --timeout from when it begins. What no answer means depends on
 * when: before the request left, nothing happened; after, nobody knows (exit code 7).
 */

#include <errno.h>
#include <math.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "broker/admin/stats_read.h"
#include "tools/broker-ctl/ctl.h"

#define ANSWER_BYTES_MAX (16u << 20)

static double link_clock_s(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* Waits for the socket to be ready. 0, -ETIME, -errno. */
static int link_wait(const struct ctl *ctl, short events, double until_s)
{
	struct pollfd pfd = { .fd = ctl->link.fd, .events = events };

	for (;;) {
		/* In hours, so that any number of milliseconds fits. */
		double left_s = fmin(until_s - link_clock_s(), 3600);
		int r = poll(&pfd, 1, left_s > 0 ? (int)ceil(left_s * 1000) : 0);

		if (r > 0)
			return 0;
		if (r == 0 && left_s < 3600)
			return -ETIME;
		if (r < 0 && errno != EINTR)
			return -errno;
	}
}

static int link_send(const struct ctl *ctl, const void *msg, size_t bytes, double until_s)
{
	for (;;) {
		int r;

		if (send(ctl->link.fd, msg, bytes, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
			return 0;
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
		r = link_wait(ctl, POLLOUT, until_s);
		if (r < 0)
			return r;
	}
}

/* One datagram. *ret_fd: the fd it brought, or -1. Returns its size, or -errno; 0 = hung up. */
static ssize_t link_receive(const struct ctl *ctl, void *msg, size_t bytes, int *ret_fd,
			    double until_s)
{
	union {
		struct cmsghdr align;
		char room[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = { .iov_base = msg, .iov_len = bytes };
	struct msghdr m = { .msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = &control,
			    .msg_controllen = sizeof(control) };
	const struct kvb_msg_header *h = msg;
	struct cmsghdr *c;
	ssize_t n;
	int r = link_wait(ctl, POLLIN, until_s);

	*ret_fd = -1;
	if (r < 0)
		return r;
	n = recvmsg(ctl->link.fd, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	if (n <= 0)
		return n == 0 || errno == ECONNRESET ? 0 : -errno;
	c = CMSG_FIRSTHDR(&m);
	if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS &&
	    c->cmsg_len >= CMSG_LEN(sizeof(int)))
		memcpy(ret_fd, CMSG_DATA(c), sizeof(*ret_fd));
	if ((size_t)n >= sizeof(*h) && h->magic == KVB_MAGIC && h->length == (size_t)n)
		return n;
	if (*ret_fd >= 0)
		(void)close(*ret_fd);
	*ret_fd = -1;
	return -EPROTO;
}

/* ---- connecting ---------------------------------------------------------------------------- */

static int connect_failed(const struct ctl *ctl, int error)
{
	switch (error) {
	case ENOENT:
	case ECONNREFUSED:
	case ENOTSOCK:
	case ENOTDIR:
		return ctl_fail(ctl, ADMIN_EXIT_UNREACHABLE, ctl->socket,
				"is kvbrokerd running? another socket is named by -S or "
				"$KVBROKER_SOCKET",
				"no daemon answers here: %s", strerror(error));
	case EACCES:
	case EPERM:
		return ctl_fail(ctl, ADMIN_EXIT_PERMISSION, ctl->socket,
				"join the socket's group, or run it as root", "%s",
				strerror(error));
	case EAGAIN:
		return ctl_fail(ctl, ADMIN_EXIT_TIMEOUT, ctl->socket, "wait longer with -t",
				"the daemon does not accept connections");
	default:
		return ctl_fail(ctl, ADMIN_EXIT_FAILED, ctl->socket, NULL, "%s", strerror(error));
	}
}

static int link_connect(struct ctl *ctl)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct timeval tv = { .tv_sec = (time_t)ctl->timeout_s,
			      .tv_usec = (suseconds_t)(fmod(ctl->timeout_s, 1) * 1e6) };

	if (strlen(ctl->socket) >= sizeof(addr.sun_path))
		return ctl_fail(ctl, ADMIN_EXIT_USAGE, "--socket", NULL,
				"a socket's path has at most %zu bytes", sizeof(addr.sun_path) - 1);
	memcpy(addr.sun_path, ctl->socket, strlen(ctl->socket) + 1);
	ctl->link.fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (ctl->link.fd < 0)
		return connect_failed(ctl, errno);
	/* A full backlog makes connect() wait; this bounds it. */
	(void)setsockopt(ctl->link.fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
	if (connect(ctl->link.fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return connect_failed(ctl, errno == EPROTOTYPE ? ENOTSOCK : errno);
	return 0;
}

/* The daemon said KVB_MSG_ERROR. */
static int link_refused(const struct ctl *ctl, const struct kvb_msg_error *msg)
{
	int code = ADMIN_EXIT_FAILED;
	char text[sizeof(msg->text)];

	memcpy(text, msg->text, sizeof(text));
	text[sizeof(text) - 1] = '\0';
	if (msg->error == -EACCES || msg->error == -EPERM)
		code = ADMIN_EXIT_PERMISSION;
	else if (msg->error == -EUSERS)
		code = ADMIN_EXIT_BUSY;
	return ctl_fail(ctl, code, ctl->socket, NULL, "%s", text);
}

/* The segment behind fd (which is closed) becomes ctl->seg. */
static int link_map(struct ctl *ctl, int fd)
{
	const struct stats_segment *seg;
	uint32_t version;
	int r;

	r = stats_read_map(fd, &seg, &version);
	(void)close(fd);
	if (r == -EPROTO)
		return ctl_fail(ctl, ADMIN_EXIT_FAILED, "stats segment",
				"use the broker-ctl that came with the daemon",
				"the daemon's is of version %u, this program reads version %u",
				version, STATS_VERSION);
	if (r < 0)
		return ctl_fail(ctl, ADMIN_EXIT_FAILED, "stats segment", NULL, "%s", strerror(-r));
	r = stats_read_copy(seg, ctl->seg);
	stats_read_unmap(seg);
	if (r < 0)
		return ctl_fail(ctl, ADMIN_EXIT_TIMEOUT, "stats segment",
				"look at the daemon's log",
				"it stays half written: the daemon stopped while it wrote");
	return 0;
}

static int link_hello(struct ctl *ctl, double until_s)
{
	struct kvb_msg_hello hello = {
		.h = { .magic = KVB_MAGIC, .type = KVB_MSG_HELLO, .length = sizeof(hello) },
		.version_min = KVB_ABI_VERSION,
		.version_max = KVB_ABI_VERSION,
		.role = KVB_ROLE_ADMIN,
		.name = "broker-ctl",
	};
	union {
		struct kvb_msg_header h;
		struct kvb_msg_hello_reply reply;
		struct kvb_msg_error error;
	} msg;
	ssize_t n;
	int fd, r;

	r = link_send(ctl, &hello, sizeof(hello), until_s);
	n = r < 0 ? r : link_receive(ctl, &msg, sizeof(msg), &fd, until_s);
	if (n == -ETIME)
		return ctl_fail(ctl, ADMIN_EXIT_TIMEOUT, ctl->socket, "wait longer with -t",
				"the daemon does not answer within %g s", ctl->timeout_s);
	if (n == 0 || n == -EPIPE)
		return ctl_fail(ctl, ADMIN_EXIT_UNREACHABLE, ctl->socket,
				"look at the daemon's log", "the daemon hung up");
	if (n < 0)
		return ctl_fail(ctl, ADMIN_EXIT_FAILED, ctl->socket, "is it kvbrokerd's socket?",
				"%s", strerror((int)-n));
	if (msg.h.type == KVB_MSG_ERROR && (size_t)n == sizeof(msg.error))
		r = link_refused(ctl, &msg.error);
	else if (msg.h.type != KVB_MSG_HELLO_REPLY || (size_t)n != sizeof(msg.reply) || fd < 0)
		r = ctl_fail(ctl, ADMIN_EXIT_FAILED, ctl->socket, "is it kvbrokerd's socket?",
			     "an answer that makes no sense");
	else
		return link_map(ctl, fd);
	if (fd >= 0)
		(void)close(fd);
	return r;
}

int link_open(struct ctl *ctl)
{
	int r;

	if (!ctl->seg)
		ctl->seg = malloc(sizeof(*ctl->seg));
	if (!ctl->seg)
		return ctl_fail(ctl, ADMIN_EXIT_FAILED, "stats segment", NULL, "out of memory");
	r = link_connect(ctl);
	return r ? r : link_hello(ctl, link_clock_s() + ctl->timeout_s);
}

void link_close(struct ctl *ctl)
{
	if (ctl->link.fd >= 0)
		(void)close(ctl->link.fd);
	ctl->link.fd = -1;
}

/* ---- commands ------------------------------------------------------------------------------ */

static int link_send_request(const struct ctl *ctl, const char *const *argv, unsigned argc,
			     bool dry_run, double until_s)
{
	union {
		struct kvb_msg_ctl ctl;
		char bytes[KVB_MSG_BYTES_MAX];
	} msg;
	size_t at = sizeof(msg.ctl);

	for (unsigned i = 0; i < argc; i++) {
		size_t n = strlen(argv[i]) + 1;

		if (n > sizeof(msg) - at)
			return ctl_fail(ctl, ADMIN_EXIT_USAGE, "arguments", "use several commands",
					"they are longer than a message");
		memcpy(msg.bytes + at, argv[i], n);
		at += n;
	}
	msg.ctl = (struct kvb_msg_ctl){
		.h = { .magic = KVB_MAGIC, .type = KVB_MSG_CTL, .length = (uint32_t)at },
		.flags = dry_run ? KVB_CTL_DRY_RUN : 0,
		.argc = argc,
	};
	if (link_send(ctl, &msg, at, until_s) < 0)
		return ctl_fail(ctl, ADMIN_EXIT_UNREACHABLE, ctl->socket, NULL,
				"the daemon hung up");
	return 0;
}

/* All pieces of the answer into *ret, terminated. */
static int link_receive_answer(const struct ctl *ctl, char **ret, int *ret_code, double until_s)
{
	union {
		struct kvb_msg_ctl_reply reply;
		struct kvb_msg_error error;
		char bytes[KVB_MSG_BYTES_MAX];
	} msg;
	char *text = NULL;
	size_t bytes = 0;

	do {
		int fd;
		ssize_t n = link_receive(ctl, &msg, sizeof(msg), &fd, until_s);
		char *more;

		if (fd >= 0)
			(void)close(fd);
		if (n < (ssize_t)sizeof(msg.reply) || msg.reply.h.type != KVB_MSG_CTL_REPLY ||
		    bytes > ANSWER_BYTES_MAX) {
			free(text);
			if (n == -ETIME)
				return ctl_fail(
					ctl, ADMIN_EXIT_TIMEOUT, "answer", "wait longer with -t",
					"none within %g s; whether it was done is not known",
					ctl->timeout_s);
			if (n >= (ssize_t)sizeof(msg.error) && msg.reply.h.type == KVB_MSG_ERROR)
				return link_refused(ctl, &msg.error);
			return ctl_fail(
				ctl, ADMIN_EXIT_TIMEOUT, "answer", "look at the daemon's log",
				"the connection ended before it; whether it was done is not "
				"known");
		}
		n -= (ssize_t)sizeof(msg.reply);
		more = realloc(text, bytes + (size_t)n + 1);
		if (!more) {
			free(text);
			return ctl_fail(ctl, ADMIN_EXIT_TIMEOUT, "answer", NULL, "out of memory");
		}
		text = more;
		memcpy(text + bytes, msg.bytes + sizeof(msg.reply), (size_t)n);
		bytes += (size_t)n;
		text[bytes] = '\0';
	} while (!msg.reply.last);
	*ret = text;
	*ret_code = (int)msg.reply.exit_code;
	return 0;
}

/* Says an answer that is an error. */
static bool link_say_error(const struct ctl *ctl, const cJSON *answer, int code)
{
	const cJSON *error = cJSON_GetObjectItemCaseSensitive(answer, "error");
	const char *what = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(error, "what"));
	const char *why = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(error, "why"));

	if (!error)
		return false;
	(void)ctl_fail(ctl, code, what ? what : "daemon",
		       cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(error, "hint")), "%s",
		       why ? why : "it failed");
	return true;
}

int link_request(struct ctl *ctl, const char *const *argv, unsigned argc, bool dry_run, cJSON **ret,
		 int *ret_code)
{
	double until_s = link_clock_s() + ctl->timeout_s;
	cJSON *answer;
	char *text;
	int r, code;

	r = link_send_request(ctl, argv, argc, dry_run, until_s);
	if (r == 0)
		r = link_receive_answer(ctl, &text, &code, until_s);
	if (r)
		return r;
	answer = cJSON_Parse(text);
	free(text);
	if (!answer)
		return ctl_fail(ctl, ADMIN_EXIT_FAILED, "answer", NULL, "it is no JSON");
	if (link_say_error(ctl, answer, code)) {
		cJSON_Delete(answer);
		return code ? code : ADMIN_EXIT_FAILED;
	}
	*ret = answer;
	*ret_code = code;
	return 0;
}
