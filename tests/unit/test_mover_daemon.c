/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The daemon's side of a mover; see test_mover_daemon.h.
 */

#include "tests/unit/test_mover_daemon.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker/mover/mover.h"
#include "tests/unit/suite.h"

#define LOST_MS 5000

/* ---- the ring ------------------------------------------------------------------------------ */

int test_memfd(uint64_t bytes, char **ret)
{
	int fd = memfd_create("test-mover", MFD_CLOEXEC);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(ftruncate(fd, (off_t)bytes), 0);
	if (ret) {
		*ret = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		ck_assert_ptr_ne(*ret, MAP_FAILED);
	}
	return fd;
}

void test_ring_open(struct test_ring *r, uint32_t start)
{
	struct kvb_ctl *ctl;

	memset(r, 0, sizeof(*r));
	r->memfd = test_memfd(MOVER_RING_BYTES, &r->mem);
	r->doorbell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ctl = (void *)(r->mem + MOVER_RING_CTL);
	ctl->sq_head = ctl->cq_tail = start;
	ctl->flags = KVB_CTL_NEED_DOORBELL;
	r->ring = (struct kvb_ring){
		.sub = (void *)r->mem,
		.ctl = ctl,
		.sqes = (void *)(r->mem + MOVER_RING_SQES),
		.cqes = (void *)(r->mem + MOVER_RING_CQES),
		.sq_entries = MOVER_RING_ENTRIES,
		.cq_entries = MOVER_RING_ENTRIES,
	};
	kvb_step_begin(&r->ring);
}

void test_ring_close(struct test_ring *r)
{
	munmap(r->mem, MOVER_RING_BYTES);
	close(r->memfd);
	close(r->doorbell);
	close(r->wake);
}

bool test_ring_put(struct test_ring *r, const struct mover_entry *entry)
{
	int room = kvb_step_sq_room(&r->ring);

	ck_assert_int_ge(room, 0);
	if (room == 0)
		return false;
	memcpy(&r->ring.sqes[r->ring.sq_tail++ & (MOVER_RING_ENTRIES - 1)], entry, sizeof(*entry));
	return true;
}

void test_ring_send(struct test_ring *r)
{
	const uint64_t one = 1;

	kvb_step_send(&r->ring);
	kvb_full_fence();
	if (kvb_step_flags(&r->ring) & KVB_CTL_NEED_DOORBELL)
		ck_assert_int_eq(write(r->doorbell, &one, sizeof(one)), sizeof(one));
}

bool test_ring_reap(struct test_ring *r, struct kvb_cqe *ret)
{
	struct pollfd p = { .fd = r->wake, .events = POLLIN };
	uint64_t rung;
	int took;

	while ((took = kvb_step_take(&r->ring, ret)) == 0) {
		if (kvb_step_show_due(&r->ring, false))
			kvb_step_show_head(&r->ring);
		kvb_step_arm(&r->ring);
		kvb_full_fence();
		if (!kvb_step_news(&r->ring) && poll(&p, 1, LOST_MS) == 0)
			return false;
		kvb_step_disarm(&r->ring);
		(void)!read(r->wake, &rung, sizeof(rung));
	}
	ck_assert_int_eq(took, 1);
	if (kvb_step_show_due(&r->ring, true))
		kvb_step_show_head(&r->ring);
	return true;
}

/* ---- the socket ---------------------------------------------------------------------------- */

void test_daemon_start(struct test_daemon *d, uint32_t kind, struct mover_hello *ret)
{
	struct pollfd p = { .events = POLLIN };
	int pair[2];

	memset(d, 0, sizeof(*d));
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	d->pid = fork();
	ck_assert_int_ge(d->pid, 0);
	if (d->pid == 0) {
		/* As a process that was spawned: its socket, and nothing else of the parent's. */
		if (pair[1] != MOVER_FD)
			dup2(pair[1], MOVER_FD);
		close_range(MOVER_FD + 1, ~0u, 0);
		exit(mover_main(kind, 0, 0));
	}
	close(pair[1]);
	d->fd = p.fd = pair[0];
	ck_assert_int_eq(poll(&p, 1, LOST_MS), 1);
	ck_assert_int_eq(recv(d->fd, ret, sizeof(*ret), 0), sizeof(*ret));
	ck_assert_uint_eq(ret->type, MOVER_HELLO);
}

bool test_daemon_try(struct test_daemon *d, struct mover_request *request, const int *fds,
		     uint32_t n, bool again)
{
	union {
		char room[CMSG_SPACE(MOVER_FDS_MAX * sizeof(int))];
		struct cmsghdr align;
	} control = { .room = { 0 } };
	struct iovec iov = { .iov_base = request, .iov_len = sizeof(*request) };
	struct msghdr header = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (!again)
		request->seq = ++d->seq;
	if (n) {
		struct cmsghdr *c;

		header.msg_control = control.room;
		header.msg_controllen = CMSG_SPACE(n * sizeof(int));
		c = CMSG_FIRSTHDR(&header);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(n * sizeof(int));
		memcpy(CMSG_DATA(c), fds, n * sizeof(int));
	}
	return sendmsg(d->fd, &header, MSG_NOSIGNAL) == sizeof(*request);
}

void test_daemon_send(struct test_daemon *d, struct mover_request *request, const int *fds,
		      uint32_t n, bool again)
{
	ck_assert(test_daemon_try(d, request, fds, n, again));
}

int test_daemon_reply(struct test_daemon *d, const struct mover_request *request)
{
	struct pollfd p = { .fd = d->fd, .events = POLLIN };
	struct mover_reply reply;

	ck_assert_int_eq(poll(&p, 1, LOST_MS), 1);
	ck_assert_int_eq(recv(d->fd, &reply, sizeof(reply), 0), sizeof(reply));
	ck_assert_uint_eq(reply.type, MOVER_REPLY);
	ck_assert_uint_eq(reply.seq, request->seq);
	/* An error says what and why. */
	ck_assert_int_eq(reply.error != 0, reply.why[0] != '\0');
	return reply.error;
}

int test_daemon_ask(struct test_daemon *d, struct mover_request request, const int *fds, uint32_t n)
{
	test_daemon_send(d, &request, fds, n, false);
	return test_daemon_reply(d, &request);
}

int test_daemon_wait(struct test_daemon *d)
{
	int status;

	for (int i = 0; i < LOST_MS; i++) {
		pid_t pid = waitpid(d->pid, &status, WNOHANG);

		ck_assert_int_ge(pid, 0);
		if (pid == d->pid)
			return status;
		poll(NULL, 0, 1);
	}
	return -1;
}

/* ---- requests ------------------------------------------------------------------------------ */

struct mover_request test_chunk(uint32_t id, uint32_t sums)
{
	return (struct mover_request){
		.type = MOVER_CHUNK, .id = id, .bytes = TEST_CHUNK_BYTES, .sums = sums
	};
}

struct mover_request test_slab(uint32_t id)
{
	return (struct mover_request){
		.type = MOVER_SLAB,
		.id = id,
		.count = TEST_HANDLES,
		.regions = TEST_REGIONS,
		.handles_per_region = TEST_HANDLES / TEST_REGIONS,
		.pages = TEST_PAGES,
		.stride_bytes = TEST_STRIDE,
		.handle_bytes = TEST_HANDLE_BYTES,
	};
}

struct mover_request test_lower(uint32_t id, uint64_t offset_bytes)
{
	return (struct mover_request){
		.type = MOVER_LOWER,
		.id = id,
		.regions = TEST_REGIONS,
		.pages = TEST_PAGES,
		.stride_bytes = TEST_STRIDE,
		.offset_bytes = offset_bytes,
	};
}

uint32_t test_crc32c(uint32_t crc, const void *bytes, uint64_t n)
{
	const unsigned char *at = bytes;

	crc = ~crc;
	for (; n; n--, at++) {
		crc ^= *at;
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
	}
	return ~crc;
}
