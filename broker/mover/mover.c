/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The mover process: one loop over the daemon's socket, the ring and what is in flight. See
 * mover.h.
 *
 * It sleeps in ppoll() always: until something comes when nothing is copied, and else for a time
 * that fits what is copied (mover_batches_wait_ns()), since a copy engine rings no bell. The
 * doorbell is asked for before each sleep (contract E). One message of the socket a turn: mapping
 * memory takes long, and copies go on in between.
 *
 * It ends with its daemon, twice over: by the end of the socket, and, because a driver call that
 * hangs would not see that, by a signal of the kernel at the parent's death. Signals meant for the
 * daemon's process group or its unit are not for it: the daemon has copies in flight to wait for.
 *
 * After a device that is spoilt what it was not given yet is completed as failed, and the process
 * ends. What it had may still be written to until then, so the daemon takes that for failed when
 * the process is dead. The successor starts clean.
 */

#include "broker/mover/mover.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "broker/io/log.h"
#include "broker/mover/batch.h"
#include "broker/mover/point.h"
#include "broker/owner/datagram.h"
#include "cuda_driver/gpu.h"

#define TIMER_SLACK_NS 1000ul /* sleeps are tens of us; the usual slack is 50 us */

struct mover_side {
	struct gpu_mover *gpu;
	struct mover_memory memory;
	struct mover_queue queue;
	struct mover_sums sums;
	struct mover_batches batches;
};

static uint64_t clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* ---- the socket ---------------------------------------------------------------------------- */

struct side_message {
	struct mover_request request;
	struct datagram_fds fds;
};

/* ---- requests ------------------------------------------------------------------------------ */

/* Three fds: the ring's memfd, its doorbell, its wake-up. */
static int side_ring(struct mover_side *side, const struct side_message *message, char *why)
{
	int error = -EEXIST;

	if (message->fds.n != 3)
		error = -EINVAL;
	else if (!side->queue.mem)
		error = mover_queue_open(&side->queue, message->fds.fd[0], message->fds.fd[1],
					 message->fds.fd[2]);
	if (!error) {
		close(message->fds.fd[0]);
		return 0;
	}
	datagram_close_fds(&message->fds);
	snprintf(why, MOVER_WHY_BYTES, "the ring cannot be used: %s", strerror(-error));
	return error;
}

static int side_chunk(struct mover_side *side, const struct side_message *message, char *why)
{
	const struct mover_request *request = &message->request;
	int error = -EINVAL;

	if (message->fds.n == 1)
		error = mover_memory_chunk(&side->memory, request, message->fds.fd[0], why);
	else
		snprintf(why, MOVER_WHY_BYTES, "a chunk is one fd");
	datagram_close_fds(&message->fds);
	if (error || request->id != 0 || request->sums == 0)
		return error;
	error = mover_sums_open(&side->sums, request->sums, side->memory.chunk[0].mem);
	if (error)
		snprintf(why, MOVER_WHY_BYTES, "threads that checksum cannot be started: %s",
			 strerror(-error));
	return error;
}

/* What carries no fds; those that came all the same are closed. */
static int side_plain(struct mover_side *side, const struct side_message *message, char *why)
{
	datagram_close_fds(&message->fds);
	if (message->request.type == MOVER_LOWER)
		return mover_memory_lower(&side->memory, &message->request, why);
	return mover_memory_drop(&side->memory, message->request.id, why);
}

/* 0; else the process has to end. */
static int side_request(struct mover_side *side, const struct side_message *message)
{
	struct mover_reply reply = { .type = MOVER_REPLY, .seq = message->request.seq };

	switch (message->request.type) {
	case MOVER_RING:
		reply.error = side_ring(side, message, reply.why);
		break;
	case MOVER_CHUNK:
		reply.error = side_chunk(side, message, reply.why);
		break;
	case MOVER_SLAB:
		reply.error = mover_memory_slab(&side->memory, &message->request, message->fds.fd,
						message->fds.n, message->fds.lost, reply.why);
		break;
	case MOVER_LOWER:
	case MOVER_DROP:
		reply.error = side_plain(side, message, reply.why);
		break;
	default:
		datagram_close_fds(&message->fds);
		return -EPROTO;
	}
	if (reply.error > 0)
		return 0; /* more of this slab is to come */
	if (datagram_send(MOVER_FD, &reply, sizeof(reply), NULL, 0, 0) < 0)
		return -ENOTCONN;
	return gpu_mover_is_spoilt(side->gpu) ? -EIO : 0;
}

/* ---- the loop ------------------------------------------------------------------------------ */

static void side_drain(const struct pollfd *fd)
{
	uint64_t count;

	if (fd->revents & POLLIN)
		(void)!read(fd->fd, &count, sizeof(count));
}

/* Sleeps until something comes, at most wait_ns. True: the socket has something. */
static bool side_sleep(struct mover_side *side, uint64_t wait_ns)
{
	struct pollfd fds[] = {
		{ .fd = MOVER_FD, .events = POLLIN },
		{ .fd = side->queue.doorbell, .events = POLLIN },
		{ .fd = mover_sums_event(&side->sums), .events = POLLIN },
	};
	const bool arm = wait_ns && side->queue.mem;
	struct timespec ts;

	if (arm && mover_queue_arm(&side->queue))
		wait_ns = 0;
	ts.tv_sec = (time_t)(wait_ns / 1000000000u);
	ts.tv_nsec = (long)(wait_ns % 1000000000u);
	if (ppoll(fds, 3, wait_ns == UINT64_MAX ? NULL : &ts, NULL) < 0)
		return false;
	if (arm)
		mover_queue_disarm(&side->queue);
	side_drain(&fds[1]);
	side_drain(&fds[2]);
	return fds[0].revents != 0;
}

/* -ENOTCONN: the daemon has gone; others: what broke. */
static int side_serve(struct mover_side *side)
{
	struct side_message message;
	int did = 0, error;

	while (did >= 0) {
		if (side_sleep(side, did ? 0 : mover_batches_wait_ns(&side->batches))) {
			error = datagram_receive(MOVER_FD, &message.request,
						 sizeof(message.request), MSG_DONTWAIT,
						 &message.fds);
			if (!error)
				error = side_request(side, &message);
			if (error && error != -EAGAIN)
				return error == -EPIPE ? -ENOTCONN : error;
		}
		if (side->queue.mem)
			did = mover_batches_turn(&side->batches, clock_ns());
	}
	return did;
}

/* ---- its life ------------------------------------------------------------------------------ */

/* Tells the daemon that it serves, or why not. */
static int side_open(struct mover_side *side, uint32_t kind, uint32_t ordinal)
{
	struct mover_hello hello = { .type = MOVER_HELLO };
	int sent;

	hello.error = gpu_mover_open(kind, ordinal, &side->gpu, hello.why, sizeof(hello.why));
	if (hello.error && !hello.why[0])
		snprintf(hello.why, sizeof(hello.why), "%s", strerror(-hello.error));
	sent = datagram_send(MOVER_FD, &hello, sizeof(hello), NULL, 0, 0);
	if (hello.error || sent)
		return hello.error ? hello.error : sent;
	side->queue = MOVER_QUEUE_NONE;
	mover_memory_init(&side->memory, side->gpu);
	mover_batches_init(&side->batches, side->gpu, &side->memory, &side->queue, &side->sums);
	return mover_point("mover-hello");
}

/* Threads first, since they read what is unmapped below. */
static void side_close(struct mover_side *side)
{
	mover_sums_close(&side->sums);
	if (side->queue.mem)
		mover_batches_fail(&side->batches);
	gpu_mover_close(side->gpu);
	mover_memory_finish(&side->memory);
	mover_queue_close(&side->queue);
}

static bool side_has_socket(void)
{
	int type = 0;
	socklen_t bytes = sizeof(type);

	return getsockopt(MOVER_FD, SOL_SOCKET, SO_TYPE, &type, &bytes) == 0 &&
	       type == SOCK_SEQPACKET;
}

int mover_main(uint32_t kind, uint32_t ordinal, uint32_t driver_ordinal)
{
	static struct mover_side side; /* large, and one a process */
	char name[16];
	int error;
	bool bad;

	if (!side_has_socket()) {
		log_error("--mover is for kvbrokerd itself, which starts one for each device");
		return 2;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS);
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	unsetenv("KVB_FAULT_COUNT"); /* that file is the daemon's, which has points of its own */
	snprintf(name, sizeof(name), "kvb-mover-%u", ordinal);
	prctl(PR_SET_NAME, name);
	error = side_open(&side, kind, driver_ordinal);
	if (!side.gpu)
		return 1;
	if (!error)
		error = side_serve(&side);
	bad = gpu_mover_memory_is_bad(side.gpu);
	side_close(&side);
	if (error == -ENOTCONN)
		return 0;
	log_error("mover of %s:%u: %s; the daemon starts another", gpu_kind_name(kind), ordinal,
		  strerror(-error));
	return bad ? MOVER_EXIT_MEMORY : 1;
}
