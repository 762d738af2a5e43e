/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The hostile client; see raw.h.
 */

#include "tests/proto/raw.h"
#include "tests/proto/harness.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define WAIT_MS 20000u
#define FDS_MAX 253u

/* ---- messages ------------------------------------------------------------------------------ */

int raw_connect(const struct broker *b)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	int error;

	ck_assert_int_ge(fd, 0);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", b->socket);
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0)
		return fd;
	error = -errno;
	close(fd);
	return error;
}

int raw_send(int sock, const void *msg, size_t bytes, const int *fds, unsigned nfds)
{
	union {
		struct cmsghdr align;
		char room[CMSG_SPACE(FDS_MAX * sizeof(int))];
	} control = { 0 };
	struct iovec iov = { .iov_base = (void *)(uintptr_t)msg, .iov_len = bytes };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (nfds) {
		struct cmsghdr *c;

		m.msg_control = &control;
		m.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
		c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(nfds * sizeof(int));
		memcpy(CMSG_DATA(c), fds, nfds * sizeof(int));
	}
	return sendmsg(sock, &m, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static void take_fds(struct msghdr *m, int *ret_fds, unsigned *nfds)
{
	unsigned room = nfds ? *nfds : 0, got = 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
		size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		for (size_t i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(fd), sizeof(fd));
			if (got < room)
				ret_fds[got++] = fd;
			else
				close(fd);
		}
	}
	if (nfds)
		*nfds = got;
}

ssize_t raw_receive(int sock, union raw_message *ret, int *ret_fds, unsigned *nfds,
		    unsigned timeout_ms)
{
	union {
		struct cmsghdr align;
		char room[CMSG_SPACE(FDS_MAX * sizeof(int))];
	} control;
	struct iovec iov = { .iov_base = ret, .iov_len = sizeof(*ret) };
	struct msghdr m = { .msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = &control,
			    .msg_controllen = sizeof(control) };
	struct pollfd pfd = { .fd = sock, .events = POLLIN };
	ssize_t n;

	if (poll(&pfd, 1, (int)timeout_ms) == 0)
		return -ETIME;
	n = recvmsg(sock, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	if (n < 0)
		return errno == ECONNRESET || errno == EPIPE ? 0 : -errno;
	take_fds(&m, ret_fds, nfds);
	return n;
}

int raw_wait_end(int sock)
{
	union raw_message m;
	int error = 0;
	ssize_t n;

	while ((n = raw_receive(sock, &m, NULL, NULL, WAIT_MS)) > 0) {
		if (m.h.type == KVB_MSG_ERROR)
			error = m.error.error;
	}
	ck_assert_msg(n == 0, "the daemon does not hang up: %s", strerror((int)-n));
	close(sock);
	return error;
}

struct kvb_msg_hello raw_hello(void)
{
	return (struct kvb_msg_hello){
		.h = { .magic = KVB_MAGIC,
		       .type = KVB_MSG_HELLO,
		       .length = sizeof(struct kvb_msg_hello) },
		.version_min = 1,
		.version_max = 1,
		.role = KVB_ROLE_ENGINE,
		.sq_entries = 64,
		.cq_entries = 128,
		.operand_bytes = 65536,
		.features = KVB_FEAT_ALL,
		.name = "hostile",
	};
}

/* ---- attaching ----------------------------------------------------------------------------- */

static void *map_shared(int fd, uint64_t bytes, int prot)
{
	void *mem = mmap(NULL, bytes, prot, MAP_SHARED, fd, 0);

	ck_assert_ptr_ne(mem, MAP_FAILED);
	return mem;
}

void raw_attach(struct raw *r, const struct broker *b, const char *tenant,
		const struct kvb_msg_hello *hello)
{
	struct kvb_msg_hello msg = hello ? *hello : raw_hello();
	union raw_message m;
	unsigned nfds = 4;

	*r = (struct raw){ .sock = raw_connect(b) };
	ck_assert_int_ge(r->sock, 0);
	for (unsigned i = 0; i < RAW_SLOTS_MAX; i++)
		r->slab_fd[i] = -1;
	snprintf(msg.tenant, sizeof(msg.tenant), "%s", tenant);
	ck_assert_int_eq(raw_send(r->sock, &msg, sizeof(msg), NULL, 0), 0);
	ck_assert_int_gt(raw_receive(r->sock, &m, r->fds, &nfds, WAIT_MS), 0);
	ck_assert_msg(m.h.type == KVB_MSG_HELLO_REPLY, "HELLO is refused: %s", m.error.text);
	ck_assert_uint_eq(nfds, 4);
	r->hello = m.hello_reply;
	r->sub = map_shared(r->fds[0], r->hello.sub_bytes, PROT_READ | PROT_WRITE);
	r->ctl = map_shared(r->fds[1], r->hello.ctl_bytes, PROT_READ);
	r->fence = map_shared(r->fds[2], r->hello.fence_bytes, PROT_READ | PROT_WRITE);
}

void raw_close(struct raw *r)
{
	close(r->sock);
	for (unsigned i = 0; i < 4; i++)
		close(r->fds[i]);
	for (unsigned i = 0; i < RAW_SLOTS_MAX; i++) {
		if (r->slab_fd[i] >= 0)
			close(r->slab_fd[i]);
	}
	munmap(r->sub, r->hello.sub_bytes);
	munmap(r->ctl, r->hello.ctl_bytes);
	munmap(r->fence, r->hello.fence_bytes);
	if (r->base)
		munmap(r->base, r->geo.region_bytes);
}

void raw_leave(struct raw *r)
{
	const struct kvb_msg_header bye = { .magic = KVB_MAGIC,
					    .type = KVB_MSG_BYE,
					    .length = sizeof(bye) };

	raw_send(r->sock, &bye, sizeof(bye), NULL, 0);
	raw_wait_end(dup(r->sock));
	raw_close(r);
}

/* ---- rings --------------------------------------------------------------------------------- */

struct kvb_sub *raw_sub(struct raw *r)
{
	return (void *)r->sub;
}

const struct kvb_ctl *raw_ctl(struct raw *r)
{
	return (const void *)r->ctl;
}

void *raw_operand(struct raw *r, uint32_t offset)
{
	return r->sub + r->hello.sub_operands + offset;
}

const void *raw_result(struct raw *r, uint32_t offset)
{
	return r->ctl + r->hello.ctl_results + offset;
}

struct kvb_sqe *raw_sqe(struct raw *r, uint32_t index)
{
	struct kvb_sqe *sqes = (void *)(r->sub + r->hello.sub_sqes);

	return &sqes[index & (r->hello.sq_entries - 1)];
}

void raw_ring_doorbell(struct raw *r)
{
	const uint64_t one = 1;

	(void)!write(r->fds[3], &one, sizeof(one));
}

/* Waits for room, unless the daemon has given up on this client. */
static void wait_for_room(struct raw *r)
{
	uint64_t until = clock_ns() + WAIT_MS * 1000000ull;
	const struct kvb_ctl *ctl = raw_ctl(r);

	while (r->sq_tail - __atomic_load_n(&ctl->sq_head, __ATOMIC_ACQUIRE) >=
		       r->hello.sq_entries &&
	       !(__atomic_load_n(&ctl->flags, __ATOMIC_RELAXED) & KVB_CTL_BROKEN)) {
		ck_assert_msg(clock_ns() < until, "the daemon takes no entries");
		usleep(50);
	}
}

void raw_submit(struct raw *r, const struct kvb_sqe *sqe)
{
	wait_for_room(r);
	*raw_sqe(r, r->sq_tail) = *sqe;
	__atomic_store_n(&raw_sub(r)->sq_tail, ++r->sq_tail, __ATOMIC_RELEASE);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (__atomic_load_n(&raw_ctl(r)->flags, __ATOMIC_RELAXED) & KVB_CTL_NEED_DOORBELL)
		raw_ring_doorbell(r);
}

/* One completion or event, if there is one. */
static bool next_cqe(struct raw *r, struct kvb_cqe *ret)
{
	const struct kvb_cqe *cqes = (const void *)(r->ctl + r->hello.ctl_cqes);

	if (__atomic_load_n(&raw_ctl(r)->cq_tail, __ATOMIC_ACQUIRE) == r->cq_head)
		return false;
	*ret = cqes[r->cq_head & (r->hello.cq_entries - 1)];
	__atomic_store_n(&raw_sub(r)->cq_head, ++r->cq_head, __ATOMIC_RELEASE);
	return true;
}

static void take_event(struct raw *r, const struct kvb_cqe *cqe)
{
	if (cqe->user_data == KVB_EVENT_REVOKE)
		r->revoked[r->revokes++ % RAW_SLOTS_MAX] = cqe->status;
}

static void take_grant(struct raw *r, const union raw_message *m, const int *fds)
{
	struct kvb_msg_grant_ack ack = {
		.h = { .magic = KVB_MAGIC, .type = KVB_MSG_GRANT_ACK, .length = sizeof(ack) },
		.seq = m->grant.seq,
	};

	for (uint32_t i = 0; i < m->grant.count; i++) {
		uint32_t slot = m->grant.entries[i].slot;

		ck_assert_uint_lt(slot, RAW_SLOTS_MAX);
		if (r->slab_fd[slot] >= 0)
			close(r->slab_fd[slot]);
		r->slab_fd[slot] = fds[i];
		ck_assert_ptr_ne(mmap(r->base + slot * r->geo.handle_bytes, r->geo.handle_bytes,
				      PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fds[i], 0),
				 MAP_FAILED);
	}
	raw_send(r->sock, &ack, sizeof(ack), NULL, 0);
}

/* -EPIPE: the daemon has hung up. */
static int take_messages(struct raw *r)
{
	union raw_message m;
	int fds[KVB_GRANT_FDS_MAX];

	while (!r->deaf) {
		unsigned nfds = KVB_GRANT_FDS_MAX;
		ssize_t n = raw_receive(r->sock, &m, fds, &nfds, 0);

		if (n == -ETIME)
			return 0;
		if (n <= 0)
			return -EPIPE;
		if (m.h.type == KVB_MSG_GRANT)
			take_grant(r, &m, fds);
	}
	return 0;
}

int raw_cqe(struct raw *r, struct kvb_cqe *ret, unsigned timeout_ms)
{
	uint64_t until = clock_ns() + timeout_ms * 1000000ull;

	for (unsigned spins = 0;; spins++) {
		int error;

		while (next_cqe(r, ret)) {
			if (!(ret->flags & KVB_CQE_EVENT))
				return 0;
			take_event(r, ret);
		}
		if (spins % 64 < 63)
			continue;
		error = take_messages(r);
		/* What came before it hung up counts. */
		if (error && __atomic_load_n(&raw_ctl(r)->cq_tail, __ATOMIC_ACQUIRE) == r->cq_head)
			return error;
		if (clock_ns() > until)
			return -ETIME;
		if (spins > 2000)
			usleep(200);
	}
}

void raw_poll(struct raw *r)
{
	struct kvb_cqe cqe;

	while (next_cqe(r, &cqe)) {
		if (cqe.flags & KVB_CQE_EVENT)
			take_event(r, &cqe);
	}
	(void)take_messages(r);
}

struct kvb_cqe raw_call(struct raw *r, const struct kvb_sqe *sqe)
{
	struct kvb_cqe cqe;
	int error;

	raw_submit(r, sqe);
	error = raw_cqe(r, &cqe, WAIT_MS);
	ck_assert_msg(error == 0, "no completion of operation %u: %s", sqe->opcode,
		      strerror(-error));
	return cqe;
}

bool raw_broken(struct raw *r, unsigned timeout_ms)
{
	uint64_t until = clock_ns() + timeout_ms * 1000000ull;

	while (!(__atomic_load_n(&raw_ctl(r)->flags, __ATOMIC_ACQUIRE) & KVB_CTL_BROKEN)) {
		if (clock_ns() > until)
			return false;
		sleep_ms(1);
	}
	return true;
}

/* ---- operations ---------------------------------------------------------------------------- */

void raw_space(struct raw *r, uint64_t stride, uint64_t tag)
{
	struct kvb_msg_space_open open = {
		.h = { .magic = KVB_MAGIC, .type = KVB_MSG_SPACE_OPEN, .length = sizeof(open) },
		.device_kind = KVB_DEVICE_HOST,
		.regions = 1,
		.stride_bytes = stride,
		.tag = tag,
	};
	union raw_message m;

	ck_assert_int_eq(raw_send(r->sock, &open, sizeof(open), NULL, 0), 0);
	ck_assert_int_gt(raw_receive(r->sock, &m, NULL, NULL, WAIT_MS), 0);
	ck_assert_uint_eq(m.h.type, KVB_MSG_SPACE_REPLY);
	r->geo = m.space_reply;
	r->stride = stride;
	ck_assert_uint_eq(r->geo.handles_per_region, 1);
	r->base = mmap(NULL, r->geo.region_bytes, PROT_NONE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	ck_assert_ptr_ne(r->base, MAP_FAILED);
}

int32_t raw_grow(struct raw *r, uint32_t slabs, unsigned timeout_ms)
{
	struct kvb_sqe sqe = { .opcode = KVB_OP_SPACE_GROW,
			       .space = (uint16_t)r->geo.space,
			       .count = slabs,
			       .arg = timeout_ms * 1000000ull };

	return raw_call(r, &sqe).res;
}

void raw_ns(struct raw *r, uint8_t digest, uint32_t flags)
{
	struct kvb_ns_open open = { .digest = { digest, 0x55 }, .flags = flags };
	struct kvb_sqe sqe = { .opcode = KVB_OP_NS_OPEN, .count = 1 };

	memcpy(raw_operand(r, 0), &open, sizeof(open));
	ck_assert_int_eq(raw_call(r, &sqe).res, 1);
	memcpy(&r->ns, raw_result(r, 0), sizeof(r->ns));
}

int32_t raw_alloc(struct raw *r, uint32_t n, kvb_page_t *ret)
{
	struct kvb_sqe sqe = { .opcode = KVB_OP_ALLOC,
			       .space = (uint16_t)r->geo.space,
			       .count = n };
	int32_t res = raw_call(r, &sqe).res;

	if (res > 0)
		memcpy(ret, raw_result(r, 0), (size_t)res * sizeof(*ret));
	return res;
}

int32_t raw_pages(struct raw *r, enum kvb_op op, uint32_t n, const kvb_page_t *pages)
{
	struct kvb_sqe sqe = { .opcode = (uint8_t)op, .space = (uint16_t)r->geo.space, .count = n };

	memcpy(raw_operand(r, 0), pages, n * sizeof(*pages));
	return raw_call(r, &sqe).res;
}

struct kvb_hash raw_hash(uint64_t i)
{
	return (struct kvb_hash){ { 0xd6e8feb86659fd93ull * (i + 1), ~i } };
}

int32_t raw_seal(struct raw *r, uint32_t n, const kvb_page_t *pages, uint64_t first,
		 kvb_page_t *ret)
{
	struct kvb_sqe sqe = { .opcode = KVB_OP_SEAL,
			       .space = (uint16_t)r->geo.space,
			       .ns = (uint16_t)r->ns.ns,
			       .arg = r->ns.epoch,
			       .count = n };
	struct kvb_seal *seals = raw_operand(r, 0);
	int32_t res;

	for (uint32_t i = 0; i < n; i++)
		seals[i] = (struct kvb_seal){ .page = pages[i],
					      .hash = raw_hash(first + i),
					      .depth = i };
	res = raw_call(r, &sqe).res;
	if (ret && res > 0)
		memcpy(ret, raw_result(r, 0), (size_t)res * sizeof(*ret));
	return res;
}

int32_t raw_lookup(struct raw *r, uint32_t n, uint64_t first, kvb_page_t *ret)
{
	struct kvb_sqe sqe = { .opcode = KVB_OP_LOOKUP,
			       .space = (uint16_t)r->geo.space,
			       .ns = (uint16_t)r->ns.ns,
			       .count = n };
	struct kvb_hash *hashes = raw_operand(r, 0);
	int32_t res;

	for (uint32_t i = 0; i < n; i++)
		hashes[i] = raw_hash(first + i);
	res = raw_call(r, &sqe).res;
	if (res > 0)
		memcpy(ret, raw_result(r, 0), (size_t)res * sizeof(*ret));
	return res;
}

void *raw_page(struct raw *r, kvb_page_t page)
{
	return r->base + (uint64_t)KVB_PAGE_ID(page) * r->stride;
}
