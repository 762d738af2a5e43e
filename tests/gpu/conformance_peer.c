/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The other process: this program, started again, that does what it is told over a socket.
 *
 * It is started with exec because a child of fork has no driver. It initialises the driver with the
 * first order that needs it, so that one that only keeps fds never calls it, and ends when the
 * socket does.
 */

#include "tests/gpu/conformance.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define PEER_ANSWER_S 30
#define PEER_WORD_MS 500
#define PEER_GATE_MS 300
#define PEER_NOWHERE 0x700000000000ull /* device address that nobody reserved */

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

/* ---- what a peer does with a memfd --------------------------------------------------------- */

static enum cu_result peer_host(const struct peer_message *order, int fd)
{
	void *memory = mmap(NULL, order->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	enum cu_result result = CU_OK;

	if (memory == MAP_FAILED)
		return CU_ERROR_OPERATING_SYSTEM;
	if (order->op == PEER_HOST_FILL)
		pattern_fill(memory, order->bytes, order->seed);
	else if (!pattern_equals(memory, order->bytes, order->seed))
		result = CU_ERROR_NOT_FOUND;
	munmap(memory, order->bytes);
	return result;
}

/* A wait that lasts too long is left behind, and its memory with it. */
static enum cu_result peer_word(const struct peer_message *order, int fd)
{
	struct pinned word;
	enum cu_result result = pinned_open(&word, order->bytes, fcntl(fd, F_DUPFD_CLOEXEC, 0));
	cu_stream stream;
	cu_event event;

	if (result == CU_OK)
		result = cs->stream_create(&stream, CU_FLAG_STREAM_NON_BLOCKING);
	if (result == CU_OK)
		result = cs->event_create(&event, CU_FLAG_EVENT_DISABLE_TIMING);
	if (result == CU_OK)
		result = order->op == PEER_WORD_WRITE
				 ? cs->stream_write_value64(stream, word.address, order->seed, 0)
				 : cs->stream_wait_value64(stream, word.address, order->seed,
							   CU_FLAG_WAIT_VALUE_GEQ);
	if (result == CU_OK)
		result = cs->event_record(event, stream);
	if (result == CU_OK)
		result = event_await(event, PEER_WORD_MS);
	if (result == CU_OK)
		result = cs->event_destroy(event);
	if (result == CU_OK)
		result = cs->stream_destroy(stream);
	return result ? result : pinned_close(&word);
}

/* ---- what nobody shall see in his own process ----------------------------------------------- */

static enum cu_result peer_copy_astray(void)
{
	struct pinned from;
	enum cu_result result = pinned_open(&from, test_granule, -1);
	cu_stream stream;

	if (result == CU_OK)
		result = cs->stream_create(&stream, CU_FLAG_STREAM_NON_BLOCKING);
	if (result == CU_OK)
		result = cs->memcpy_htod_async(PEER_NOWHERE, from.memory, 4096, stream);
	return result ? result : cs->stream_synchronize(stream);
}

static void *peer_open_later(void *gate)
{
	sleep_ms(PEER_GATE_MS);
	gate_open(gate);
	return NULL;
}

static enum cu_result peer_copy_unmap(uint64_t bytes)
{
	struct pinned from, gate;
	pthread_t opener;
	cu_handle handle;
	cu_stream stream;
	cu_address at;
	enum cu_result result = allocation_create(bytes, &handle);

	if (result == CU_OK)
		result = window_open(handle, bytes, &at);
	if (result == CU_OK)
		result = pinned_open(&from, bytes, -1);
	if (result == CU_OK)
		result = pinned_open(&gate, test_granule, -1);
	if (result == CU_OK)
		result = cs->stream_create(&stream, CU_FLAG_STREAM_NON_BLOCKING);
	if (result == CU_OK)
		result = gate_shut(&gate, stream);
	if (result == CU_OK)
		result = cs->memcpy_htod_async(at, from.memory, bytes, stream);
	if (result == CU_OK && pthread_create(&opener, NULL, peer_open_later, &gate))
		result = CU_ERROR_OPERATING_SYSTEM;
	if (result != CU_OK)
		return result;
	result = cu->mem_unmap(at, bytes);
	if (result == CU_OK)
		result = cs->stream_synchronize(stream);
	pthread_join(opener, NULL);
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

static enum cu_result peer_read_granule(void)
{
	struct cu_allocation prop = allocation_prop();
	size_t granule = 0;
	enum cu_result result =
		cu->mem_get_allocation_granularity(&granule, &prop, CU_GRANULARITY_MINIMUM);

	test_granule = granule;
	return result;
}

static bool peer_op_needs_driver(uint32_t op)
{
	return op != PEER_KEEP && op != PEER_RETURN && op != PEER_HOST_EQUALS &&
	       op != PEER_HOST_FILL;
}

static enum cu_result peer_obey(struct peer_state *state, const struct peer_message *order, int fd,
				int *ret_fd)
{
	enum cu_result result = CU_OK;

	test_ordinal = order->ordinal;
	if (!state->ready && peer_op_needs_driver(order->op)) {
		result = cu->init(0);
		if (result == CU_OK)
			result = context_enter();
		if (result == CU_OK)
			result = peer_read_granule();
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
	case PEER_HOST_EQUALS:
	case PEER_HOST_FILL:
		return peer_host(order, fd);
	case PEER_WORD_WRITE:
	case PEER_WORD_WAIT:
		return peer_word(order, fd);
	case PEER_COPY_ASTRAY:
		return peer_copy_astray();
	case PEER_COPY_UNMAP:
		return peer_copy_unmap(order->bytes);
	case PEER_HEALTH:
		return cu->ctx_synchronize();
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
