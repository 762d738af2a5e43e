/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The other process: this program, started again, that does what it is told over a socket.
 *
 * It is started with exec because a child of fork has no driver. It initialises the driver with the
 * first order that needs it, so that one that only keeps fds never calls it, and ends when the
 * socket does.
 */

#include "tests/gpu/conformance.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define PEER_ANSWER_S 30

struct peer_message {
	uint32_t op;     /* enum peer_op; in answers enum cu_result */
	int32_t ordinal; /* of the device */
	uint32_t seed;
	uint32_t resv;
	uint64_t bytes;
};

/* One message and an fd, or -1. */
static bool message_send(int socket, const struct peer_message *message, int fd)
{
	struct iovec part = { .iov_base = (void *)message, .iov_len = sizeof(*message) };
	union {
		struct cmsghdr head;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct msghdr head = { .msg_iov = &part, .msg_iovlen = 1 };

	if (fd >= 0) {
		head.msg_control = control.bytes;
		head.msg_controllen = sizeof(control.bytes);
		control.head.cmsg_level = SOL_SOCKET;
		control.head.cmsg_type = SCM_RIGHTS;
		control.head.cmsg_len = CMSG_LEN(sizeof(fd));
		memcpy(CMSG_DATA(&control.head), &fd, sizeof(fd));
	}
	return sendmsg(socket, &head, MSG_NOSIGNAL) == (ssize_t)sizeof(*message);
}

static bool message_receive(int socket, struct peer_message *ret, int *ret_fd)
{
	struct iovec part = { .iov_base = ret, .iov_len = sizeof(*ret) };
	union {
		struct cmsghdr head;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct msghdr head = { .msg_iov = &part,
			       .msg_iovlen = 1,
			       .msg_control = control.bytes,
			       .msg_controllen = sizeof(control.bytes) };
	const struct cmsghdr *first;

	*ret_fd = -1;
	if (recvmsg(socket, &head, MSG_CMSG_CLOEXEC) != (ssize_t)sizeof(*ret))
		return false;
	first = CMSG_FIRSTHDR(&head);
	if (first && first->cmsg_type == SCM_RIGHTS)
		memcpy(ret_fd, CMSG_DATA(first), sizeof(*ret_fd));
	return true;
}

/* ---- the one who orders -------------------------------------------------------------------- */

bool peer_start(struct peer *peer)
{
	struct timeval patience = { .tv_sec = PEER_ANSWER_S };
	int pair[2];
	char number[16];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) < 0)
		return false;
	snprintf(number, sizeof(number), "%d", pair[1]);
	peer->pid = fork();
	if (peer->pid == 0) {
		close(pair[0]);
		execl("/proc/self/exe", "conformance", "--peer", number, NULL);
		_exit(127);
	}
	close(pair[1]);
	peer->socket = pair[0];
	setsockopt(peer->socket, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	return peer->pid > 0;
}

enum cu_result peer_call(struct peer *peer, enum peer_op op, uint64_t bytes, uint32_t seed, int fd,
			 int *ret_fd)
{
	struct peer_message message = {
		.op = op, .ordinal = test_ordinal, .seed = seed, .bytes = bytes
	};
	int back = -1;

	if (!message_send(peer->socket, &message, fd) ||
	    !message_receive(peer->socket, &message, &back))
		return CU_ERROR_OPERATING_SYSTEM;
	if (ret_fd)
		*ret_fd = back;
	else if (back >= 0)
		close(back);
	return (enum cu_result)message.op;
}

void peer_kill(struct peer *peer)
{
	kill(peer->pid, SIGKILL);
	waitpid(peer->pid, NULL, 0);
	close(peer->socket);
}

/* ---- the one who obeys --------------------------------------------------------------------- */

struct peer_state {
	bool ready; /* driver and context */
	cu_handle handle;
	cu_address address;
	int kept;
};

static enum cu_result peer_equals(const struct peer_state *state, const struct peer_message *order)
{
	bool equal;
	enum cu_result result = window_equals(state->address, order->bytes, order->seed, &equal);

	return result == CU_OK && !equal ? CU_ERROR_NOT_FOUND : result;
}

static enum cu_result peer_exhaust(uint64_t bytes)
{
	enum cu_result result;
	cu_handle handle;

	do {
		result = allocation_create(bytes, &handle);
	} while (result == CU_OK);
	return result;
}

static enum cu_result peer_get(struct peer_state *state, const struct peer_message *order, int fd,
			       int *ret_fd)
{
	enum cu_result result =
		order->op == PEER_IMPORT
			? cu->mem_import(&state->handle, (void *)(intptr_t)fd, CU_HANDLE_POSIX_FD)
			: allocation_create(order->bytes, &state->handle);

	if (fd >= 0)
		close(fd);
	if (result == CU_OK)
		result = window_open(state->handle, order->bytes, &state->address);
	if (result == CU_OK && order->op == PEER_CREATE)
		result = cu->mem_export(ret_fd, state->handle, CU_HANDLE_POSIX_FD, 0);
	return result;
}

static enum cu_result peer_obey(struct peer_state *state, const struct peer_message *order, int fd,
				int *ret_fd)
{
	enum cu_result result = CU_OK;

	test_ordinal = order->ordinal;
	if (!state->ready && order->op != PEER_KEEP && order->op != PEER_RETURN) {
		result = cu->init(0);
		if (result == CU_OK)
			result = context_enter();
		state->ready = result == CU_OK;
	}
	if (result != CU_OK)
		return result;
	switch ((enum peer_op)order->op) {
	case PEER_IMPORT:
	case PEER_CREATE:
		return peer_get(state, order, fd, ret_fd);
	case PEER_EXPORT:
		return cu->mem_export(ret_fd, state->handle, CU_HANDLE_POSIX_FD, 0);
	case PEER_FILL:
		return window_fill(state->address, order->bytes, order->seed);
	case PEER_EQUALS:
		return peer_equals(state, order);
	case PEER_DROP:
		result = window_close(state->address, order->bytes);
		return result ? result : cu->mem_release(state->handle);
	case PEER_KEEP:
		state->kept = fd;
		return CU_OK;
	case PEER_RETURN:
		*ret_fd = state->kept;
		return CU_OK;
	case PEER_EXHAUST:
		return peer_exhaust(order->bytes);
	}
	return CU_ERROR_INVALID_VALUE;
}

int peer_main(int socket)
{
	struct peer_state state = { .kept = -1 };
	struct peer_message message;
	int fd;

	while (message_receive(socket, &message, &fd)) {
		int back = -1;

		message.op = peer_obey(&state, &message, fd, &back);
		if (!message_send(socket, &message, back))
			break;
		if (back >= 0)
			close(back);
	}
	return EXIT_SUCCESS;
}
