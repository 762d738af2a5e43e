/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Steps of a client; see peer.h.
 */

#include "tests/fault/peer.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

static void idle(const struct peer *p)
{
	const struct timespec ts = { .tv_nsec = 50000 };

	if (p->idle)
		p->idle(p->idle_arg);
	else
		nanosleep(&ts, NULL);
}

/* ---- the socket ---------------------------------------------------------------------------- */

int peer_connect(struct peer *p, const char *socket_path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	*p = PEER_NULL;
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", socket_path);
	p->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (p->fd < 0 || connect(p->fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return -errno;
	return 0;
}

void peer_adopt(struct peer *p, int fd)
{
	*p = PEER_NULL;
	p->fd = fd;
}

static void drop_grant(struct peer *p)
{
	for (uint32_t i = 0; i < p->grants; i++)
		close(p->grant_fds[i]);
	p->grants = 0;
}

void peer_end(struct peer *p)
{
	drop_grant(p);
	if (p->region)
		munmap(p->region, p->region_bytes);
	if (p->sub)
		munmap(p->sub, p->hello.sub_bytes);
	if (p->ctl)
		munmap(p->ctl, p->hello.ctl_bytes);
	if (p->fence)
		munmap(p->fence, p->hello.fence_bytes);
	for (unsigned i = 0; i < 4; i++) {
		if (p->fds[i] >= 0)
			close(p->fds[i]);
	}
	if (p->fd >= 0)
		close(p->fd);
	*p = PEER_NULL;
}

int peer_send(struct peer *p, enum kvb_msg_type type, void *msg, size_t bytes)
{
	struct kvb_msg_header *h = msg;

	*h = (struct kvb_msg_header){ .magic = KVB_MAGIC,
				      .type = (uint16_t)type,
				      .length = (uint32_t)bytes };
	return send(p->fd, msg, bytes, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static unsigned take_fds(struct msghdr *msg, int *fds)
{
	unsigned n = 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		size_t here = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		memcpy(fds + n, CMSG_DATA(c), here * sizeof(int));
		n += (unsigned)here;
	}
	return n;
}

int peer_receive(struct peer *p, void *buf, int *fds, unsigned *ret_nfds)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int) * KVB_GRANT_FDS_MAX)];
		struct cmsghdr align;
	} control;
	struct iovec iov = { buf, KVB_MSG_BYTES_MAX };
	const uint64_t until_ns = now_ns() + PEER_PATIENCE_NS;

	for (;;) {
		struct msghdr msg = { .msg_iov = &iov,
				      .msg_iovlen = 1,
				      .msg_control = control.bytes,
				      .msg_controllen = sizeof(control.bytes) };
		ssize_t n = recvmsg(p->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

		if (n >= 0) {
			*ret_nfds = take_fds(&msg, fds);
			return (int)n;
		}
		if (errno == ECONNRESET)
			return 0;
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
		if (now_ns() > until_ns)
			return -ETIME;
		idle(p);
	}
}

/* A message of one type. -EPROTO another; the daemon's errno if it is an error. */
static int take_message(struct peer *p, enum kvb_msg_type type, void *buf, int *fds, unsigned nfds)
{
	const struct kvb_msg_header *h = buf;
	const struct kvb_msg_error *error = buf;
	unsigned got = 0;
	int n = peer_receive(p, buf, fds, &got);

	if (n > 0 && h->type == type && got == nfds)
		return 0;
	for (unsigned i = 0; i < got; i++)
		close(fds[i]);
	if (n <= 0)
		return n ? n : -ENOTCONN;
	return h->type == KVB_MSG_ERROR && error->error < 0 ? error->error : -EPROTO;
}

/* ---- handshake ----------------------------------------------------------------------------- */

int peer_hello_send(struct peer *p, const char *tenant, uint32_t sq_entries)
{
	struct kvb_msg_hello msg = {
		.version_min = KVB_ABI_VERSION,
		.version_max = KVB_ABI_VERSION,
		.role = KVB_ROLE_ENGINE,
		.sq_entries = sq_entries,
		.operand_bytes = 16384,
		.features = KVB_FEAT_ALL,
		.name = "peer",
	};

	snprintf(msg.tenant, sizeof(msg.tenant), "%s", tenant);
	return peer_send(p, KVB_MSG_HELLO, &msg, sizeof(msg));
}

int peer_hello_take(struct peer *p)
{
	char buf[KVB_MSG_BYTES_MAX];
	int fds[KVB_GRANT_FDS_MAX];
	int e = take_message(p, KVB_MSG_HELLO_REPLY, buf, fds, 4);

	if (e)
		return e;
	memcpy(&p->hello, buf, sizeof(p->hello));
	memcpy(p->fds, fds, sizeof(p->fds));
	return 0;
}

static char *map_fd(int *fd, uint64_t bytes, int prot)
{
	void *mem = mmap(NULL, bytes, prot, MAP_SHARED, *fd, 0);

	close(*fd);
	*fd = -1;
	return mem == MAP_FAILED ? NULL : mem;
}

int peer_map(struct peer *p)
{
	p->sub = map_fd(&p->fds[0], p->hello.sub_bytes, PROT_READ | PROT_WRITE);
	p->ctl = map_fd(&p->fds[1], p->hello.ctl_bytes, PROT_READ);
	p->fence = map_fd(&p->fds[2], p->hello.fence_bytes, PROT_READ | PROT_WRITE);
	return p->sub && p->ctl && p->fence ? 0 : -ENOMEM;
}

/* ---- spaces -------------------------------------------------------------------------------- */

int peer_space_send(struct peer *p, uint32_t regions, uint64_t stride_bytes, uint64_t tag)
{
	struct kvb_msg_space_open msg = {
		.device_kind = KVB_DEVICE_HOST,
		.regions = regions,
		.stride_bytes = stride_bytes,
		.tag = tag,
	};

	p->region_bytes = regions;
	return peer_send(p, KVB_MSG_SPACE_OPEN, &msg, sizeof(msg));
}

int peer_space_take(struct peer *p)
{
	char buf[KVB_MSG_BYTES_MAX];
	int fds[KVB_GRANT_FDS_MAX];
	int e = take_message(p, KVB_MSG_SPACE_REPLY, buf, fds, 0);
	void *mem;

	if (e)
		return e;
	memcpy(&p->space, buf, sizeof(p->space));
	p->region_bytes *= p->space.region_bytes;
	mem = mmap(NULL, p->region_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		   -1, 0);
	if (mem == MAP_FAILED)
		return -errno;
	p->region = mem;
	return 0;
}

int peer_grant_take(struct peer *p)
{
	char buf[KVB_MSG_BYTES_MAX];
	struct kvb_msg_grant *msg = (void *)buf;
	int n;

	drop_grant(p);
	n = peer_receive(p, buf, p->grant_fds, &p->grants);
	if (n <= 0)
		return n ? n : -ENOTCONN;
	if (msg->h.type != KVB_MSG_GRANT || msg->count != p->grants)
		return -EPROTO;
	p->grant_seq = msg->seq;
	memcpy(p->grant, msg->entries, p->grants * sizeof(p->grant[0]));
	return 0;
}

int peer_grant_map(struct peer *p)
{
	const uint64_t handle = p->space.handle_bytes, h = p->space.handles_per_region;

	for (uint32_t i = 0; i < p->grants && p->region; i++) {
		const struct kvb_grant_entry *e = &p->grant[i];
		char *at = p->region + e->handle / h * p->space.region_bytes +
			   (e->slot * h + e->handle % h) * handle;

		if (at + handle > p->region + p->region_bytes)
			return -EPROTO;
		if (mmap(at, handle, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
			 p->grant_fds[i], 0) == MAP_FAILED)
			return -errno;
	}
	drop_grant(p);
	return 0;
}

int peer_grant_ack(struct peer *p)
{
	struct kvb_msg_grant_ack ack = { .seq = p->grant_seq };

	return peer_send(p, KVB_MSG_GRANT_ACK, &ack, sizeof(ack));
}

int peer_grants(struct peer *p)
{
	struct pollfd readable = { .fd = p->fd, .events = POLLIN };
	int e = 0;

	while (e == 0 && poll(&readable, 1, 0) == 1) {
		e = peer_grant_take(p);
		if (e == 0)
			e = peer_grant_map(p);
		if (e == 0)
			e = peer_grant_ack(p);
	}
	return e;
}

char *peer_page(const struct peer *p, kvb_page_t page)
{
	uint64_t slab = p->space.handles_per_region * p->space.handle_bytes;

	return p->region + KVB_PAGE_ID(page) * (slab / p->space.pages_per_slab);
}

/* ---- rings --------------------------------------------------------------------------------- */

static struct kvb_sub *sub_of(const struct peer *p)
{
	return (struct kvb_sub *)p->sub;
}

static const struct kvb_ctl *ctl_of(const struct peer *p)
{
	return (const struct kvb_ctl *)p->ctl;
}

struct kvb_sqe *peer_sqe(struct peer *p)
{
	struct kvb_sqe *sqes = (void *)(p->sub + p->hello.sub_sqes);
	struct kvb_sqe *sqe = &sqes[p->sq_tail & (p->hello.sq_entries - 1)];

	memset(sqe, 0, sizeof(*sqe));
	return sqe;
}

void peer_tail(struct peer *p)
{
	__atomic_store_n(&sub_of(p)->sq_tail, ++p->sq_tail, __ATOMIC_RELEASE);
}

void peer_doorbell(struct peer *p)
{
	const uint64_t one = 1;

	if (write(p->fds[3], &one, sizeof(one)) < 0)
		return; /* full: it has been rung */
}

bool peer_cqe_ready(const struct peer *p)
{
	return __atomic_load_n(&ctl_of(p)->cq_tail, __ATOMIC_ACQUIRE) != p->cq_head;
}

int peer_cqe_wait(struct peer *p, struct kvb_cqe *ret)
{
	const struct kvb_cqe *cqes = (const void *)(p->ctl + p->hello.ctl_cqes);
	const uint64_t until_ns = now_ns() + PEER_PATIENCE_NS;

	while (!peer_cqe_ready(p)) {
		if (__atomic_load_n(&ctl_of(p)->flags, __ATOMIC_ACQUIRE) & KVB_CTL_BROKEN)
			return -ENOTCONN;
		if (now_ns() > until_ns)
			return -ETIME;
		idle(p);
	}
	*ret = cqes[p->cq_head & (p->hello.cq_entries - 1)];
	return 0;
}

void peer_cqe_seen(struct peer *p)
{
	__atomic_store_n(&sub_of(p)->cq_head, ++p->cq_head, __ATOMIC_RELEASE);
}

int peer_call(struct peer *p, const struct kvb_sqe *sqe, struct kvb_cqe *ret)
{
	const uint64_t until_ns = now_ns() + PEER_PATIENCE_NS;
	int e = 0;

	*peer_sqe(p) = *sqe;
	peer_tail(p);
	peer_doorbell(p);
	while (e == 0) {
		while (!peer_cqe_ready(p) && e == 0) {
			e = peer_grants(p);
			if (now_ns() > until_ns)
				e = -ETIME;
			if (!peer_cqe_ready(p))
				idle(p);
		}
		if (e == 0)
			e = peer_cqe_wait(p, ret);
		if (e == 0)
			peer_cqe_seen(p);
		if (e == 0 && !(ret->flags & KVB_CQE_EVENT))
			break;
	}
	return e;
}

void *peer_operands(struct peer *p, uint32_t offset)
{
	return p->sub + p->hello.sub_operands + offset;
}

const void *peer_results(const struct peer *p, uint32_t offset)
{
	return p->ctl + p->hello.ctl_results + offset;
}
