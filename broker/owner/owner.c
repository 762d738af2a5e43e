/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The owner process: a loop over requests of the one daemon that started it. See owner.h.
 *
 * It has no CUDA context, maps nothing and launches nothing; it waits in recv() and costs nothing
 * between requests. It ends with its daemon, twice over: by the end of the socket, and, because a
 * driver call that hangs would not see that, by a signal of the kernel at the parent's death.
 * Signals meant for the daemon's process group or its unit are not for it: the daemon may have
 * clients to wait for, and tells it itself.
 *
 * After an error that sticks to the process it answers, and ends: a successor starts clean.
 *
 * Handles are created and sent WIRE_FDS_MAX at a time, so that it needs few fds; its own are closed
 * once they are sent. A create is a block: it is given back whole, by its number.
 */

#include "broker/owner/owner.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "broker/owner/datagram.h"
#include "broker/owner/wire.h"
#include "cuda_driver/cuda_api.h"
#include "cuda_driver/cuda_error.h"
#include "cuda_driver/cuda_owner.h"
#include "cuda_driver/nvml.h"
#include "numa/topology.h"

#define STAND_IN "fakecuda" /* how the name of a device of the stand-in driver begins */
#define OWNER_BLOCKS_MAX CUDA_OWNER_HANDLES_MAX

struct owner_block {
	uint32_t n; /* 0: there is none of this number */
	uint64_t *tokens;
};

struct owner_side {
	struct cuda_owner *cuda;
	struct nvml *nvml; /* NULL: it is not known how much is used */
	struct owner_block block[OWNER_BLOCKS_MAX];
	uint32_t hint; /* a free block is not below */
};

static int side_send(const void *msg, size_t bytes, const int *fds, uint32_t n)
{
	return datagram_send(WIRE_FD, msg, bytes, fds, n, 0);
}

/* ---- blocks -------------------------------------------------------------------------------- */

static void block_forget(struct owner_side *side, uint32_t index)
{
	struct owner_block *b = &side->block[index];

	free(b->tokens);
	*b = (struct owner_block){ 0 };
	if (index < side->hint)
		side->hint = index;
}

/* A free one, with room for n tokens. -ENOSPC, -ENOMEM. */
static int block_new(struct owner_side *side, uint32_t n, uint32_t *ret)
{
	uint32_t i = side->hint;

	while (i < OWNER_BLOCKS_MAX && side->block[i].tokens)
		i++;
	side->hint = i;
	if (i == OWNER_BLOCKS_MAX)
		return -ENOSPC;
	side->block[i].tokens = calloc(n, sizeof(*side->block[i].tokens));
	if (!side->block[i].tokens)
		return -ENOMEM;
	*ret = i;
	return 0;
}

/* ---- requests ------------------------------------------------------------------------------ */

/* True: an error that sticks to this process, so that it serves nobody any more. */
static bool side_is_spoilt(void)
{
	return cuda_error_is_sticky(cuda_error_last_result());
}

/* As many as one message carries, created and sent. */
static int side_create_some(struct owner_side *side, const struct wire_request *request,
			    struct wire_reply *reply)
{
	struct owner_block *b = &side->block[reply->block];
	int fds[WIRE_FDS_MAX];
	uint32_t n = request->count - b->n;
	int error;

	if (n > WIRE_FDS_MAX)
		n = WIRE_FDS_MAX;
	error = cuda_owner_create(side->cuda, n, request->handle_bytes, &b->tokens[b->n], fds);
	if (error) {
		snprintf(reply->why, sizeof(reply->why), "%u handles are not to be had: %s: %.80s",
			 n, strerror(-error), cuda_error_last());
		return error;
	}
	reply->first = b->n;
	reply->count = n;
	b->n += n;
	error = side_send(reply, sizeof(*reply), fds, n);
	if (error)
		snprintf(reply->why, sizeof(reply->why), "fds of handles cannot be sent: %s",
			 strerror(-error));
	for (uint32_t i = 0; i < n; i++)
		close(fds[i]);
	return error;
}

static int side_refuse(enum wire_type type, int error, bool spoilt, const char *why)
{
	struct wire_reply reply = { .type = type, .error = error, .spoilt = spoilt };

	snprintf(reply.why, sizeof(reply.why), "%s", why);
	return side_send(&reply, sizeof(reply), NULL, 0);
}

static int side_create(struct owner_side *side, const struct wire_request *request)
{
	struct wire_reply reply = { .type = WIRE_CREATE };
	struct owner_block *b;
	bool spoilt;
	int error;

	if (request->count == 0 || request->count > WIRE_HANDLES_MAX)
		return side_refuse(WIRE_CREATE, -EINVAL, false, "no such number of handles");
	error = block_new(side, request->count, &reply.block);
	if (error)
		return side_refuse(WIRE_CREATE, error, false, "it cannot keep more handles");
	b = &side->block[reply.block];
	while (error == 0 && b->n < request->count)
		error = side_create_some(side, request, &reply);
	if (error == 0)
		return 0;
	spoilt = side_is_spoilt();
	if (b->n)
		cuda_owner_release(side->cuda, b->n, b->tokens);
	block_forget(side, reply.block);
	error = side_refuse(WIRE_CREATE, error, spoilt, reply.why);
	return spoilt ? -EIO : error;
}

static int side_close(struct owner_side *side, const struct wire_request *request)
{
	struct wire_reply reply = { .type = WIRE_CLOSE };
	struct owner_block *b;

	if (request->block >= OWNER_BLOCKS_MAX || !side->block[request->block].n)
		return side_refuse(WIRE_CLOSE, -ENOENT, false, "no such handles");
	b = &side->block[request->block];
	reply.error = cuda_owner_release(side->cuda, b->n, b->tokens);
	reply.spoilt = reply.error && side_is_spoilt();
	if (reply.error)
		snprintf(reply.why, sizeof(reply.why), "%s: %.100s", strerror(-reply.error),
			 cuda_error_last());
	block_forget(side, request->block);
	if (side_send(&reply, sizeof(reply), NULL, 0) < 0)
		return -EPIPE;
	return reply.spoilt ? -EIO : 0;
}

static int side_look(struct owner_side *side)
{
	struct wire_reply reply = { .type = WIRE_LOOK };
	struct nvml_memory memory;

	if (!side->nvml)
		return side_refuse(WIRE_LOOK, -ENOENT, false, "it was said that this is not known");
	reply.error = nvml_read_memory(side->nvml, &memory, reply.why, sizeof(reply.why));
	if (reply.error == 0) {
		reply.unused_bytes = memory.free_bytes;
		reply.used_bytes = memory.used_bytes;
	}
	return side_send(&reply, sizeof(reply), NULL, 0);
}

/* ---- its life ------------------------------------------------------------------------------ */

static void hello_fill(const struct cuda_owner *cuda, struct wire_hello *hello)
{
	const struct cuda_owner_info *info = cuda_owner_info(cuda);
	bool stand_in = strncmp(info->name, STAND_IN, sizeof(STAND_IN) - 1) == 0;

	snprintf(hello->driver, sizeof(hello->driver), "%s", stand_in ? STAND_IN : "cuda");
	snprintf(hello->model, sizeof(hello->model), "%.63s", info->name);
	memcpy(hello->uuid, &info->uuid, sizeof(hello->uuid));
	hello->total_bytes = info->total_bytes;
	hello->granularity_bytes = info->granularity_bytes;
	hello->node = info->numa_node >= 0 ? info->numa_node : topology_pci_node("", info->pci_id);
	snprintf(hello->pci, sizeof(hello->pci), "%s", info->pci_id);
	hello->compute_mode = info->compute_mode;
}

/* Tells the daemon what it serves, or why nothing. */
static int side_open(struct owner_side *side, uint32_t ordinal)
{
	struct wire_hello hello = { .type = WIRE_HELLO, .node = -1 };
	int sent;

	hello.error = cuda_owner_open(ordinal, &side->cuda);
	if (hello.error == 0) {
		hello_fill(side->cuda, &hello);
		(void)nvml_open(&cuda_owner_info(side->cuda)->uuid, &side->nvml, hello.no_look,
				sizeof(hello.no_look));
	} else if (cuda_load_error()[0]) {
		snprintf(hello.why, sizeof(hello.why), "%s", cuda_load_error());
	} else if (cuda_error_last()[0]) {
		snprintf(hello.why, sizeof(hello.why), "%s: %.100s", strerror(-hello.error),
			 cuda_error_last());
	} else {
		snprintf(hello.why, sizeof(hello.why), "%s", strerror(-hello.error));
	}
	sent = side_send(&hello, sizeof(hello), NULL, 0);
	return hello.error ? hello.error : sent;
}

/* 0: the daemon has gone. */
static int side_serve(struct owner_side *side)
{
	struct wire_request request;
	int error = 0;

	while (error == 0) {
		ssize_t n = recv(WIRE_FD, &request, sizeof(request), MSG_TRUNC);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return 0;
		if (n != (ssize_t)sizeof(request))
			error = -EPROTO;
		else if (request.type == WIRE_CREATE)
			error = side_create(side, &request);
		else if (request.type == WIRE_CLOSE)
			error = side_close(side, &request);
		else if (request.type == WIRE_LOOK)
			error = side_look(side);
		else
			error = -EPROTO;
	}
	return error;
}

static bool side_has_socket(void)
{
	int type = 0;
	socklen_t bytes = sizeof(type);

	return getsockopt(WIRE_FD, SOL_SOCKET, SO_TYPE, &type, &bytes) == 0 &&
	       type == SOCK_SEQPACKET;
}

int owner_main(uint32_t ordinal, uint32_t driver_ordinal)
{
	static struct owner_side side; /* large, and one a process */
	char name[16];
	int error;

	if (!side_has_socket()) {
		log_error("--owner is for kvbrokerd itself, which starts one for each GPU");
		return 2;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	snprintf(name, sizeof(name), "kvb-owner-%u", ordinal);
	prctl(PR_SET_NAME, name);
	error = side_open(&side, driver_ordinal);
	if (error == 0)
		error = side_serve(&side);
	for (uint32_t i = 0; i < OWNER_BLOCKS_MAX; i++)
		free(side.block[i].tokens);
	nvml_close(side.nvml);
	cuda_owner_close(side.cuda);
	return error ? 1 : 0;
}
