/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Transfers by io_uring; see engine.h.
 *
 * One ring, of the thread that makes the first transfer (SINGLE_ISSUER; it is made disabled, so
 * that another thread may open the store). With DEFER_TASKRUN the kernel completes nothing until it
 * is entered; it says in the SQ flags that there is something, and rings the eventfd.
 *
 * Files are registered. So is memory, by its number; where that is refused (RLIMIT_MEMLOCK), plain
 * reads and writes do. A flight of one piece in registered memory goes as READ_FIXED or
 * WRITE_FIXED, the rest as vectors.
 *
 * The ring has room for every flight and its completion twice over, so neither queue overflows.
 */

#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "broker/io/fault.h"
#include "broker/store/engine.h"

struct uring {
	struct io_uring ring;
	bool enabled; /* the ring is this thread's */
	bool files, buffers;
};

static int ring_init(struct uring *u, uint32_t entries, unsigned flags)
{
	struct io_uring_params params = { .flags = flags | IORING_SETUP_CQSIZE |
						   IORING_SETUP_R_DISABLED,
					  .cq_entries = 2 * entries };

	return io_uring_queue_init_params(entries, &u->ring, &params);
}

static int uring_start(struct engine *e, uint32_t flights)
{
	struct uring *u = fault_calloc("store-uring", 1, sizeof(*u));
	int files[ENGINE_FILES_MAX];
	int error = -ENOMEM;

	if (!u)
		return error;
	error = fault_point("store-uring-setup");
	if (error == 0) {
		error = ring_init(u, flights,
				  IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
					  IORING_SETUP_TASKRUN_FLAG);
		if (error == -EINVAL)
			error = ring_init(u, flights, 0);
	}
	if (error == 0 && !(u->ring.features & IORING_FEAT_EXT_ARG))
		error = -ENOSYS;
	else if (error == 0)
		error = io_uring_register_eventfd(&u->ring, e->event);
	else
		u->ring.ring_fd = -1;
	if (error) {
		if (u->ring.ring_fd >= 0)
			io_uring_queue_exit(&u->ring);
		free(u);
		return error;
	}
	memset(files, 0xff, sizeof(files)); /* none yet */
	u->files = fault_point("store-uring-files") == 0 &&
		   io_uring_register_files(&u->ring, files, ENGINE_FILES_MAX) == 0;
	u->buffers = fault_point("store-uring-buffers") == 0 &&
		     io_uring_register_buffers_sparse(&u->ring, ENGINE_MEMORY_MAX) == 0;
	e->own = u;
	return 0;
}

static void uring_finish(struct engine *e)
{
	struct uring *u = e->own;

	io_uring_queue_exit(&u->ring);
	free(u);
}

/* The shared library of 2.3 lacks the call for it. */
static void own_ring(struct uring *u)
{
	if (u->enabled)
		return;
	u->enabled = true;
	(void)syscall(SYS_io_uring_register, u->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL,
		      0);
}

static int uring_files(struct engine *e)
{
	struct uring *u = e->own;
	int fd[ENGINE_FILES_MAX];

	for (uint32_t i = 0; i < ENGINE_FILES_MAX; i++)
		fd[i] = e->file[i].fd;
	if (u->files && io_uring_register_files_update(&u->ring, 0, fd, ENGINE_FILES_MAX) < 0)
		u->files = false; /* plain fds do */
	return 0;
}

static int uring_memory(struct engine *e)
{
	struct uring *u = e->own;
	int error = u->buffers ? 0 : -ENOMEM;

	for (uint32_t i = 0; i < ENGINE_MEMORY_MAX && u->buffers; i++) {
		struct engine_memory *m = &e->memory[i];
		struct iovec v = { .iov_base = m->mem, .iov_len = m->mem ? m->bytes : 0 };
		const __u64 tag = 0;
		int n;

		if ((m->mem != NULL) == m->registered)
			continue;
		n = io_uring_register_buffers_update_tag(&u->ring, i, &v, &tag, 1);
		m->registered = m->mem && n == 1;
		if (n < 0)
			error = n;
	}
	return error;
}

static void uring_fly(struct engine *e, struct engine_flight *f)
{
	struct uring *u = e->own;
	struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring); /* there is one for each flight */
	const int fd = u->files ? f->file : e->file[f->file].fd;
	const int buffer = f->op != ENGINE_FLUSH && f->n_iov == 1
				   ? engine_memory_find(e, f->iov[0].iov_base, f->iov[0].iov_len)
				   : -1;

	if (f->op == ENGINE_FLUSH)
		io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
	else if (buffer >= 0 && f->op == ENGINE_READ)
		io_uring_prep_read_fixed(sqe, fd, f->iov[0].iov_base, f->bytes, f->offset, buffer);
	else if (buffer >= 0)
		io_uring_prep_write_fixed(sqe, fd, f->iov[0].iov_base, f->bytes, f->offset, buffer);
	else if (f->n_iov == 1 && f->op == ENGINE_READ)
		io_uring_prep_read(sqe, fd, f->iov[0].iov_base, f->bytes, f->offset);
	else if (f->n_iov == 1)
		io_uring_prep_write(sqe, fd, f->iov[0].iov_base, f->bytes, f->offset);
	else if (f->op == ENGINE_READ)
		io_uring_prep_readv(sqe, fd, f->iov, f->n_iov, f->offset);
	else
		io_uring_prep_writev(sqe, fd, f->iov, f->n_iov, f->offset);
	if (u->files)
		sqe->flags |= IOSQE_FIXED_FILE;
	io_uring_sqe_set_data(sqe, f);
}

static void uring_push(struct engine *e)
{
	struct uring *u = e->own;

	if (io_uring_sq_ready(&u->ring) == 0)
		return;
	own_ring(u);
	/* What it does not take now (-EAGAIN, -EBUSY) stays there for the next turn. */
	io_uring_submit(&u->ring);
}

static bool uring_pending(const struct engine *e)
{
	const struct uring *u = e->own;

	return io_uring_sq_ready(&u->ring) || io_uring_cq_ready(&u->ring) ||
	       (__atomic_load_n(u->ring.sq.kflags, __ATOMIC_RELAXED) & IORING_SQ_TASKRUN);
}

static void uring_reap(struct engine *e)
{
	struct uring *u = e->own;
	struct io_uring_cqe *cqe;
	uint64_t rung;

	if (e->flying == 0)
		return;
	(void)!read(e->event, &rung, sizeof(rung));
	own_ring(u);
	if (!io_uring_cq_ready(&u->ring))
		io_uring_get_events(&u->ring);
	while (io_uring_peek_cqe(&u->ring, &cqe) == 0 && cqe) {
		struct engine_flight *f = io_uring_cqe_get_data(cqe);
		int error = fault_point(f->op == ENGINE_FLUSH  ? "store-flush"
					: f->op == ENGINE_READ ? "store-read"
							       : "store-write");

		f->res = error ? error : cqe->res;
		io_uring_cqe_seen(&u->ring, cqe);
		engine_landed(e, f);
	}
}

static void uring_wait(struct engine *e, uint64_t timeout_ns)
{
	struct uring *u = e->own;
	struct __kernel_timespec ts = { .tv_sec = (long long)(timeout_ns / 1000000000u),
					.tv_nsec = (long long)(timeout_ns % 1000000000u) };
	struct io_uring_cqe *cqe;

	own_ring(u);
	io_uring_submit_and_wait_timeout(&u->ring, &cqe, 1, &ts, NULL);
}

const struct engine_ops engine_uring_ops = {
	.name = "io_uring",
	.start = uring_start,
	.finish = uring_finish,
	.files = uring_files,
	.fly = uring_fly,
	.push = uring_push,
	.reap = uring_reap,
	.wait = uring_wait,
	.memory = uring_memory,
	.pending = uring_pending,
};
