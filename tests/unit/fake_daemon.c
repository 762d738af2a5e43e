/* SPDX-License-Identifier: Apache-2.0 */

/*
 * fake_daemon.h's thread. Its errors are Check failures: a daemon of straw that cannot stand proves
 * nothing about the library.
 */

#include "tests/unit/fake_daemon.h"

#include <check.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "broker/io/shm.h"

struct kvb_ctl *fake_ctl(struct fake *f)
{
	return (struct kvb_ctl *)(void *)f->ctl;
}

static struct kvb_sub *sub_of(struct fake *f)
{
	return (struct kvb_sub *)(void *)f->sub;
}

void fake_wake(struct fake *f)
{
	struct kvb_ctl *ctl = fake_ctl(f);

	shm_fence();
	if (!shm_load(&sub_of(f)->need_wake))
		return;
	shm_store_release(&ctl->wake, shm_load(&ctl->wake) + 1);
	syscall(SYS_futex, &ctl->wake, FUTEX_WAKE, 1, NULL, NULL, 0);
}

void fake_complete(struct fake *f, const struct kvb_cqe *cqe)
{
	struct kvb_cqe *cqes = (struct kvb_cqe *)(void *)(f->ctl + f->reply.ctl_cqes);

	if (f->delay_ns) {
		const struct timespec ts = { .tv_nsec = (long)f->delay_ns };
		nanosleep(&ts, NULL);
	}
	cqes[f->cq_tail & (f->reply.cq_entries - 1)] = *cqe;
	shm_store_release(&fake_ctl(f)->cq_tail, ++f->cq_tail);
	fake_wake(f);
}

void fake_result(struct fake *f, uint64_t user_data, int32_t res)
{
	const struct kvb_cqe cqe = {
		.user_data = user_data,
		.res = res,
		.done = res > 0 ? (uint32_t)res : 0,
	};

	fake_complete(f, &cqe);
}

void fake_event(struct fake *f, enum kvb_event event, int32_t res, uint32_t status, uint64_t aux)
{
	const struct kvb_cqe cqe = {
		.user_data = event,
		.res = res,
		.status = status,
		.aux = aux,
		.flags = KVB_CQE_EVENT,
	};

	fake_complete(f, &cqe);
}

void fake_send(struct fake *f, void *msg, uint16_t type, size_t bytes, const int *fds,
	       unsigned nfds)
{
	struct kvb_msg_header *h = msg;
	union {
		char bytes[CMSG_SPACE(sizeof(int) * KVB_GRANT_FDS_MAX)];
		struct cmsghdr align;
	} control;
	struct iovec iov = { msg, bytes };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (!h->magic)
		*h = (struct kvb_msg_header){ KVB_MAGIC, type, (uint16_t)nfds, (uint32_t)bytes, 0 };
	if (nfds) {
		m.msg_control = control.bytes;
		m.msg_controllen = CMSG_SPACE(sizeof(int) * nfds);
		struct cmsghdr *c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * nfds);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * nfds);
	}
	(void)!sendmsg(f->fd, &m, MSG_NOSIGNAL);
	if (!f->ctl)
		return;
	shm_store_release(&fake_ctl(f)->sock_seq, shm_load(&fake_ctl(f)->sock_seq) + 1);
	fake_wake(f);
}

static int memfd_of(const char *name, uint64_t bytes)
{
	const int fd = memfd_create(name, MFD_CLOEXEC);

	ck_assert(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0);
	return fd;
}

void fake_grant(struct fake *f, uint32_t slot)
{
	union {
		struct kvb_msg_grant g;
		char room[sizeof(struct kvb_msg_grant) +
			  KVB_GRANT_FDS_MAX * sizeof(struct kvb_grant_entry)];
	} m;

	m.g = (struct kvb_msg_grant){ .space = FAKE_SPACE,
				      .count = f->space.regions,
				      .seq = ++f->grant_seq };
	for (uint32_t r = 0; r < f->space.regions; r++) {
		if (f->slab_fd[slot][r] < 0)
			f->slab_fd[slot][r] = memfd_of("slab", f->handle_bytes);
		m.g.entries[r] = (struct kvb_grant_entry){ slot, r };
	}
	fake_send(f, &m, KVB_MSG_GRANT, sizeof(m.g) + m.g.count * sizeof(m.g.entries[0]),
		  f->slab_fd[slot], m.g.count);
}

static void fake_alloc(struct fake *f, const struct kvb_sqe *sqe)
{
	kvb_page_t *results = (kvb_page_t *)(void *)(f->ctl + f->reply.ctl_results + sqe->operand);
	struct kvb_cqe cqe = { .user_data = sqe->user_data };

	if (f->late_grant && !f->acks) {
		cqe.flags = KVB_CQE_GRANT_PENDING;
		if (!f->grant_seq)
			fake_grant(f, 0);
	} else {
		while (cqe.done < sqe->count && f->allocated < f->pages_max)
			results[cqe.done++] = KVB_PAGE(1, f->allocated++);
		cqe.res = (int32_t)cqe.done;
	}
	fake_complete(f, &cqe);
}

static void fake_free(struct fake *f, const struct kvb_sqe *sqe)
{
	const kvb_page_t *pages =
		(const kvb_page_t *)(void *)(f->sub + f->reply.sub_operands + sqe->operand);
	struct kvb_cqe cqe = { .user_data = sqe->user_data };

	/* Page 0 is nobody's: batches stop there. */
	while (cqe.done < sqe->count && pages[cqe.done]) {
		f->last_freed[f->freed++ % 64] = pages[cqe.done];
		cqe.done++;
	}
	cqe.res = (int32_t)cqe.done;
	if (cqe.done < sqe->count) {
		cqe.status = 2; /* ENOENT */
		cqe.flags = KVB_CQE_STOPPED;
		if (!cqe.done)
			cqe.res = -2;
	}
	fake_complete(f, &cqe);
}

/* Echoes operands as results, so that the library's copying can be seen. */
static void fake_keys(struct fake *f, const struct kvb_sqe *sqe)
{
	const struct kvb_hash *in =
		(const struct kvb_hash *)(void *)(f->sub + f->reply.sub_operands + sqe->operand);
	kvb_page_t *out = (kvb_page_t *)(void *)(f->ctl + f->reply.ctl_results + sqe->operand);
	const struct kvb_cqe cqe = {
		.user_data = sqe->user_data,
		.res = (int32_t)sqe->count,
		.done = sqe->count,
		.aux = 7,
	};

	for (uint32_t i = 0; i < sqe->count; i++)
		out[i] = in[i].w[0];
	fake_complete(f, &cqe);
}

static void fake_serve(struct fake *f, const struct kvb_sqe *sqe)
{
	f->entries++;
	if (f->serve && f->serve(f, sqe))
		return;
	switch (sqe->opcode) {
	case KVB_OP_ALLOC:
		fake_alloc(f, sqe);
		break;
	case KVB_OP_FREE:
		fake_free(f, sqe);
		break;
	case KVB_OP_LOOKUP:
		fake_keys(f, sqe);
		break;
	case KVB_OP_SPACE_GROW:
		f->grow_user_data = sqe->user_data;
		f->grow_count = sqe->count;
		fake_grant(f, f->next_slot++);
		break;
	case KVB_OP_RECLAIM_ACK:
		f->reclaims++;
		fake_result(f, sqe->user_data, 0);
		break;
	default:
		fake_result(f, sqe->user_data, 0);
	}
}

/* GROW is answered when its last slab is acknowledged. */
static void fake_acked(struct fake *f, const struct kvb_msg_grant_ack *ack)
{
	f->ack = *ack;
	f->acks++;
	if (!f->grow_count)
		return;
	if (--f->grow_count)
		fake_grant(f, f->next_slot++);
	else
		fake_result(f, f->grow_user_data, (int32_t)f->next_slot);
}

static void fake_space_open(struct fake *f, const struct kvb_msg_space_open *open)
{
	struct kvb_msg_space_reply reply = {
		.space = FAKE_SPACE,
		.pages_per_slab = (uint32_t)(f->handle_bytes / open->stride_bytes),
		.handles_per_region = 1,
		.slots = FAKE_SLOTS,
		.handle_bytes = f->handle_bytes,
		.region_bytes = FAKE_SLOTS * f->handle_bytes,
		.tiers = f->tiers,
	};

	memcpy(reply.device_uuid, f->device_uuid, sizeof(reply.device_uuid));
	f->space = *open;
	if (open->device_ordinal == 9) {
		struct kvb_msg_error error = { .error = -19, .text = "no such device" };
		fake_send(f, &error, KVB_MSG_ERROR, sizeof(error), NULL, 0);
		return;
	}
	fake_send(f, &reply, KVB_MSG_SPACE_REPLY, sizeof(reply), NULL, 0);
	if (f->grant_on_open)
		fake_grant(f, 0);
}

static void fake_space_close(struct fake *f)
{
	struct kvb_msg_space_reply reply = { .space = FAKE_SPACE };
	struct kvb_msg_error busy = { .error = -16, .text = "pages are held there" };

	f->closes++;
	if (fake_ctl(f)->pages_held)
		fake_send(f, &busy, KVB_MSG_ERROR, sizeof(busy), NULL, 0);
	else
		fake_send(f, &reply, KVB_MSG_SPACE_REPLY, sizeof(reply), NULL, 0);
}

static bool fake_read_socket(struct fake *f)
{
	union {
		struct kvb_msg_header h;
		struct kvb_msg_space_open open;
		struct kvb_msg_grant_ack ack;
	} m;
	const ssize_t n = recv(f->fd, &m, sizeof(m), MSG_DONTWAIT);

	if (n == 0)
		return false;
	if (n < 0)
		return true;
	if (m.h.type == KVB_MSG_SPACE_OPEN)
		fake_space_open(f, &m.open);
	else if (m.h.type == KVB_MSG_GRANT_ACK)
		fake_acked(f, &m.ack);
	else if (m.h.type == KVB_MSG_SPACE_CLOSE)
		fake_space_close(f);
	return true;
}

static void fake_handshake(struct fake *f)
{
	struct kvb_msg_hello_reply *r = &f->reply;
	struct kvb_msg_error refused = { .error = -13 };

	ck_assert(recv(f->fd, &f->hello, sizeof(f->hello), 0) == sizeof(f->hello));
	if (f->refusal) {
		snprintf(refused.text, sizeof(refused.text), "%s", f->refusal);
		fake_send(f, &refused, KVB_MSG_ERROR, sizeof(refused), NULL, 0);
		return;
	}
	r->version = 1;
	r->client = 42;
	r->sq_entries = f->hello.sq_entries ? f->hello.sq_entries : 256;
	r->cq_entries = f->hello.cq_entries ? f->hello.cq_entries : 2 * r->sq_entries;
	r->operand_bytes = f->hello.operand_bytes ? f->hello.operand_bytes : 65536;
	r->sub_sqes = r->ctl_cqes = 4096;
	r->sub_operands = r->ctl_results = 4096 + 64 * 4096;
	r->sub_bytes = r->ctl_bytes = f->sub_bytes = f->ctl_bytes =
		r->sub_operands + r->operand_bytes;
	r->fence_bytes = KVB_FENCES * sizeof(struct kvb_fence);
	f->sub_fd = memfd_of("sub", f->sub_bytes);
	f->ctl_fd = memfd_of("ctl", f->ctl_bytes);
	f->fence_fd = memfd_of("fence", r->fence_bytes);
	f->doorbell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	f->sub = mmap(NULL, f->sub_bytes, PROT_READ, MAP_SHARED, f->sub_fd, 0);
	f->ctl = mmap(NULL, f->ctl_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, f->ctl_fd, 0);
	ck_assert(f->sub != MAP_FAILED && f->ctl != MAP_FAILED);
	f->sq_head = f->cq_tail = f->first_index;
	fake_ctl(f)->sq_head = f->sq_head;
	fake_ctl(f)->cq_tail = f->cq_tail;
	struct kvb_msg_hello_reply said = *r;
	if (f->spoil)
		f->spoil(f, &said);
	const int fds[] = { f->sub_fd, f->ctl_fd, f->fence_fd, f->doorbell, f->sub_fd };
	fake_send(f, &said, KVB_MSG_HELLO_REPLY, sizeof(said), fds, f->handshake_fds);
}

static bool fake_take(struct fake *f)
{
	const struct kvb_sqe *sqes = (const struct kvb_sqe *)(void *)(f->sub + f->reply.sub_sqes);
	const uint32_t tail = shm_load_acquire(&sub_of(f)->sq_tail);

	if (tail == f->sq_head || tail - f->sq_head > f->reply.sq_entries)
		return false;
	const struct kvb_sqe sqe = sqes[f->sq_head & (f->reply.sq_entries - 1)];
	shm_store_release(&fake_ctl(f)->sq_head, ++f->sq_head);
	fake_serve(f, &sqe);
	return true;
}

/* Sleeps by (E), at most a little while, so that fake_do() and the end are seen. */
static void fake_sleep(struct fake *f)
{
	struct pollfd p[] = { { .fd = f->doorbell, .events = POLLIN },
			      { .fd = f->fd, .events = POLLIN } };
	uint32_t *flags = &fake_ctl(f)->flags;
	uint64_t rung;

	shm_store(flags, shm_load(flags) | KVB_CTL_NEED_DOORBELL);
	shm_fence();
	if (shm_load_acquire(&sub_of(f)->sq_tail) == f->sq_head)
		poll(p, 2, 2);
	if (read(f->doorbell, &rung, sizeof(rung)) == sizeof(rung))
		f->doorbells++;
	shm_store(flags, shm_load(flags) & ~KVB_CTL_NEED_DOORBELL);
}

static void fake_run_todo(struct fake *f)
{
	void (*todo)(struct fake *, void *) = __atomic_load_n(&f->todo, __ATOMIC_ACQUIRE);

	if (!todo)
		return;
	todo(f, f->todo_arg);
	__atomic_store_n(&f->todo, NULL, __ATOMIC_RELEASE);
}

static void *fake_main(void *arg)
{
	struct fake *f = arg;

	f->fd = accept4(f->listen_fd, NULL, NULL, SOCK_CLOEXEC);
	if (f->fd < 0)
		return NULL;
	if (!f->silent)
		fake_handshake(f);
	while (!__atomic_load_n(&f->stop, __ATOMIC_ACQUIRE)) {
		fake_run_todo(f);
		if (f->ctl && f->fd >= 0 && fake_read_socket(f) && !fake_take(f))
			fake_sleep(f);
	}
	return NULL;
}

void fake_init(struct fake *f)
{
	*f = (struct fake){
		.fd = -1,
		.listen_fd = -1,
		.doorbell = -1,
		.handshake_fds = 4,
		.pages_max = 1u << 20,
		.handle_bytes = FAKE_HANDLE_BYTES,
	};
	for (unsigned s = 0; s < FAKE_SLOTS; s++)
		for (unsigned r = 0; r < KVB_REGIONS_MAX; r++)
			f->slab_fd[s][r] = -1;
}

void fake_start(struct fake *f)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	snprintf(f->dir, sizeof(f->dir), "/tmp/kvb-fake-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/broker.sock", f->dir);
	memcpy(addr.sun_path, f->path, strlen(f->path) + 1);
	f->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	ck_assert(bind(f->listen_fd, (struct sockaddr *)&addr, sizeof(addr)) == 0);
	ck_assert(listen(f->listen_fd, 4) == 0);
	ck_assert(pthread_create(&f->thread, NULL, fake_main, f) == 0);
}

void fake_do(struct fake *f, void (*fn)(struct fake *f, void *arg), void *arg)
{
	const struct timespec ts = { .tv_nsec = 100000 };

	f->todo_arg = arg;
	__atomic_store_n(&f->todo, fn, __ATOMIC_RELEASE);
	while (__atomic_load_n(&f->todo, __ATOMIC_ACQUIRE))
		nanosleep(&ts, NULL);
}

void fake_stop(struct fake *f)
{
	const int fds[] = { f->sub_fd, f->ctl_fd, f->fence_fd };

	__atomic_store_n(&f->stop, true, __ATOMIC_RELEASE);
	shutdown(f->listen_fd, SHUT_RDWR);
	pthread_join(f->thread, NULL);
	for (unsigned s = 0; s < FAKE_SLOTS; s++)
		for (unsigned r = 0; r < KVB_REGIONS_MAX; r++)
			if (f->slab_fd[s][r] >= 0)
				close(f->slab_fd[s][r]);
	if (f->ctl) {
		munmap(f->sub, f->sub_bytes);
		munmap(f->ctl, f->ctl_bytes);
		for (unsigned i = 0; i < 3; i++)
			close(fds[i]);
		close(f->doorbell);
	}
	if (f->fd >= 0)
		close(f->fd);
	close(f->listen_fd);
	unlink(f->path);
	rmdir(f->dir);
}
