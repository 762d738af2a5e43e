/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The daemon's end of an owner: a back end of gpu.h whose device is another process. See owner.h.
 *
 * All but info() and cancel() is for the one thread that works for the device. It alone changes the
 * process and what is known of it, and does so under the lock; so it reads them without, and the
 * other two read them with.
 *
 * A token is the number of the owner, from its start, and the owner's own name for the handles:
 * what an owner made that is gone is never asked of its successor. Closing such handles is closing
 * the fds.
 */

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "broker/core/core.h"
#include "broker/io/fault.h"
#include "broker/owner/datagram.h"
#include "broker/owner/owner.h"
#include "broker/owner/process.h"
#include "broker/owner/wire.h"
#include "cuda_driver/cuda_abi.h"

#define OWNER_START_NS 60000000000ull  /* drivers of many large GPUs take their time */
#define OWNER_RESTART_NS 1000000000ull /* between two starts */
#define OWNER_WHY_BYTES 160            /* of what happened, before how it ended */
#define OWNER_LOOK_NS 100000000ull     /* before a create, memory was looked at so lately */
#define OWNER_GO_MS 100                /* from the end of its socket to its own */
#define OWNER_LEAVE_MS 2000            /* to give its handles back when it is not wanted any more */

struct owner {
	struct gpu_device dev;
	struct owner_config cfg;
	pthread_mutex_t lock;
	struct process process;
	struct gpu_info info;
	uint32_t number; /* of the process: starts so far */
	uint64_t started_ns;
	bool greeted; /* the process serves */
	bool looks;   /* and can tell what is used of the GPU */
	int32_t compute_mode;
	uint64_t looked_ns;
	uint64_t held_bytes; /* of the GPU, created and not closed, by any owner */
	bool cancelled;
	struct log_limit limit;
};

static struct owner *owner_of(struct gpu_device *dev)
{
	return (struct owner *)dev; /* dev is first */
}

static uint64_t owner_clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

static bool owner_is_cancelled(struct owner *o)
{
	bool ret;

	pthread_mutex_lock(&o->lock);
	ret = o->cancelled;
	pthread_mutex_unlock(&o->lock);
	return ret;
}

/* ---- its end and its start ----------------------------------------------------------------- */

/*
 * Ends the process, if there is one, and says why there is none from now on. leave_ms: how long it
 * may take to end by itself.
 */
static void owner_end(struct owner *o, int leave_ms, const char *what)
{
	struct process process = o->process;
	char how[80] = "";

	process.fd = -1;
	pthread_mutex_lock(&o->lock);
	if (o->process.fd >= 0)
		close(o->process.fd);
	o->process.fd = -1;
	o->info.owner_pid = 0;
	pthread_mutex_unlock(&o->lock);
	process_end(&process, leave_ms, how, sizeof(how));
	pthread_mutex_lock(&o->lock);
	o->process = process;
	o->info.failed = true;
	o->info.memory_known = false;
	snprintf(o->info.why, sizeof(o->info.why), "%.*s%s%s", OWNER_WHY_BYTES, what,
		 how[0] ? "; " : "", how);
	pthread_mutex_unlock(&o->lock);
}

static void owner_say_why(struct owner *o)
{
	if (!owner_is_cancelled(o) && log_limit_pass(&o->limit, owner_clock_ns(), 5))
		log_warn("device cuda:%u: %s", o->cfg.ordinal, o->info.why);
}

/* No sooner than a second after the last one, and not beside a former that does not end. */
static int owner_start(struct owner *o)
{
	struct process process = PROCESS_NONE;
	uint64_t now_ns = owner_clock_ns();
	char device[PROCESS_DEVICE_BYTES];
	int error;

	if (o->process.pid) {
		owner_end(o, 0, "the former owner is in the way");
		if (o->process.pid)
			return -EBUSY;
		now_ns = owner_clock_ns();
	}
	if (o->number && now_ns < o->started_ns + OWNER_RESTART_NS) {
		uint64_t rest = o->started_ns + OWNER_RESTART_NS - now_ns;

		poll(NULL, 0, (int)(rest / 1000000) + 1);
	}
	o->started_ns = owner_clock_ns();
	o->greeted = false;
	o->number++;
	snprintf(device, sizeof(device), "cuda:%u%s%s", o->cfg.ordinal, o->cfg.uuid[0] ? "@" : "",
		 o->cfg.uuid);
	error = process_start("owner", device, o->cfg.level, &process);
	if (error) {
		char what[96];

		snprintf(what, sizeof(what), "cannot start an owner: %s", strerror(-error));
		owner_end(o, 0, what);
		return error;
	}
	pthread_mutex_lock(&o->lock);
	o->process = process;
	o->info.owner_pid = process.pid;
	error = o->cancelled ? -ECANCELED : 0;
	pthread_mutex_unlock(&o->lock);
	return error;
}

/* ---- messages ------------------------------------------------------------------------------ */

/*
 * One message of exactly `bytes`. 0; -ETIME: not until then; -EPIPE: the owner is gone; -EPROTO: it
 * is of another size.
 */
static int owner_receive(struct owner *o, uint64_t until_ns, void *ret, size_t bytes,
			 struct datagram_fds *ret_fds)
{
	struct pollfd pfd = { .fd = o->process.fd, .events = POLLIN };
	int error;

	do {
		uint64_t now_ns = owner_clock_ns();
		uint64_t rest_ms = until_ns > now_ns ? (until_ns - now_ns) / 1000000 + 1 : 0;

		if (rest_ms == 0)
			return -ETIME;
		if (poll(&pfd, 1, (int)rest_ms) <= 0)
			continue;
		error = datagram_receive(pfd.fd, ret, bytes, MSG_DONTWAIT, ret_fds);
		if (error != -EAGAIN)
			return error;
	} while (true);
}

/* A message that carries no fds: those that come all the same are closed. */
static int owner_receive_plain(struct owner *o, uint64_t until_ns, void *ret, size_t bytes)
{
	struct datagram_fds fds;
	int error = owner_receive(o, until_ns, ret, bytes, &fds);

	if (error == 0)
		datagram_close_fds(&fds);
	return error;
}

/* Gives the owner up. */
static int owner_broken(struct owner *o, int error)
{
	if (error == -ETIME)
		owner_end(o, 0, "the owner did not answer in time");
	else if (error == -EPIPE) /* it goes; how is to be known */
		owner_end(o, OWNER_GO_MS, "the owner is gone");
	else
		owner_end(o, 0, "the owner does not keep to the protocol");
	return -EIO;
}

static int owner_send(struct owner *o, const struct wire_request *request)
{
	return send(o->process.fd, request, sizeof(*request), MSG_NOSIGNAL) < 0 ? -EPIPE : 0;
}

/* ---- what is used of the GPU ---------------------------------------------------------------- */

/* What will not go well, the worst first, though nothing has failed yet. */
static void owner_warn(struct owner *o, char *ret, size_t bytes)
{
	const struct gpu_info *info = &o->info;
	uint64_t owed =
		o->cfg.capacity_bytes > o->held_bytes ? o->cfg.capacity_bytes - o->held_bytes : 0;
	uint64_t there =
		info->unused_bytes > o->cfg.keep_bytes ? info->unused_bytes - o->cfg.keep_bytes : 0;

	ret[0] = '\0';
	if (o->compute_mode == CU_COMPUTE_PROHIBITED)
		snprintf(ret, bytes,
			 "its compute mode lets no process use it (nvidia-smi -c DEFAULT)");
	else if (o->compute_mode == CU_COMPUTE_EXCLUSIVE_PROCESS)
		snprintf(ret, bytes,
			 "its compute mode is EXCLUSIVE_PROCESS: one engine or its mover can use "
			 "it, not both (nvidia-smi -c DEFAULT)");
	else if (info->memory_known && owed > there)
		snprintf(ret, bytes, "others have taken %s: %s of its %s cannot be had now",
			 core_size(info->others_bytes).text, core_size(owed - there).text,
			 core_size(o->cfg.capacity_bytes).text);
}

/* Says once what is wrong, and that it no longer is. */
static void owner_tell_warning(struct owner *o)
{
	char now[sizeof(o->info.warning)];
	bool was = o->info.warning[0];

	owner_warn(o, now, sizeof(now));
	pthread_mutex_lock(&o->lock);
	memcpy(o->info.warning, now, sizeof(now));
	pthread_mutex_unlock(&o->lock);
	if (now[0] && !was)
		log_warn("device cuda:%u: %s", o->cfg.ordinal, now);
	else if (was && !now[0])
		log_info("device cuda:%u: all of its memory can be had again", o->cfg.ordinal);
}

static void owner_look(struct gpu_device *dev)
{
	const struct wire_request request = { .type = WIRE_LOOK };
	struct owner *o = owner_of(dev);
	struct wire_reply reply;
	int error;

	if (o->process.fd < 0 || !o->greeted || !o->looks || owner_is_cancelled(o) ||
	    process_dead(&o->process))
		return;
	error = owner_send(o, &request);
	if (error == 0)
		error = owner_receive_plain(o, owner_clock_ns() + o->cfg.deadline_ns, &reply,
					    sizeof(reply));
	if (error == 0 && reply.type != WIRE_LOOK)
		error = -EPROTO;
	if (error) {
		owner_broken(o, error);
		owner_say_why(o);
		return;
	}
	o->looked_ns = owner_clock_ns();
	pthread_mutex_lock(&o->lock);
	o->info.memory_known = reply.error == 0;
	if (reply.error == 0) {
		o->info.unused_bytes = reply.unused_bytes;
		o->info.others_bytes =
			reply.used_bytes > o->held_bytes ? reply.used_bytes - o->held_bytes : 0;
	}
	pthread_mutex_unlock(&o->lock);
	if (reply.error && log_limit_pass(&o->limit, owner_clock_ns(), 5)) {
		reply.why[sizeof(reply.why) - 1] = '\0';
		log_warn("device cuda:%u: what is used of it is not known: %s", o->cfg.ordinal,
			 reply.why);
	}
	owner_tell_warning(o);
}

/*
 * Refuses what would leave the GPU without memory: an engine whose driver finds none left can start
 * no kernel. What others take between this and the create, the driver refuses.
 */
static int owner_check_room(struct owner *o, uint64_t bytes)
{
	if (owner_clock_ns() > o->looked_ns + OWNER_LOOK_NS)
		owner_look(&o->dev);
	if (o->process.fd < 0)
		return -EIO;
	if (!o->info.memory_known || o->info.unused_bytes >= o->cfg.keep_bytes + bytes)
		return 0;
	if (log_limit_pass(&o->limit, owner_clock_ns(), 5))
		log_warn("device cuda:%u: %s more are not taken: %s of the GPU are unused, and %s "
			 "stay so; others than the broker use %s",
			 o->cfg.ordinal, core_size(bytes).text,
			 core_size(o->info.unused_bytes).text, core_size(o->cfg.keep_bytes).text,
			 core_size(o->info.others_bytes).text);
	return -ENOMEM;
}

static void owner_learn(struct owner *o, struct wire_hello *hello)
{
	bool first = o->info.total_bytes == 0;

	hello->no_look[sizeof(hello->no_look) - 1] = '\0';
	pthread_mutex_lock(&o->lock);
	memcpy(o->info.driver, hello->driver, sizeof(o->info.driver));
	memcpy(o->info.model, hello->model, sizeof(o->info.model));
	memcpy(o->info.uuid, hello->uuid, sizeof(o->info.uuid));
	memcpy(o->info.pci, hello->pci, sizeof(o->info.pci));
	o->info.total_bytes = hello->total_bytes;
	o->info.granularity_bytes = hello->granularity_bytes;
	o->info.node = hello->node;
	o->info.failed = false;
	o->info.why[0] = '\0';
	pthread_mutex_unlock(&o->lock);
	o->compute_mode = hello->compute_mode;
	o->looks = !hello->no_look[0];
	o->looked_ns = 0;
	o->greeted = true;
	if (first && !o->looks)
		log_info("device cuda:%u: what others use of it is not known: %s", o->cfg.ordinal,
			 hello->no_look);
	owner_tell_warning(o);
}

/*
 * Waits until it serves. -EAGAIN: not until then, but it is within the time it has for its start.
 */
static int owner_greet(struct owner *o, uint64_t until_ns)
{
	uint64_t last_ns = o->started_ns + OWNER_START_NS;
	struct wire_hello hello;
	int error;

	error = owner_receive_plain(o, until_ns < last_ns ? until_ns : last_ns, &hello,
				    sizeof(hello));
	if (error == -ETIME && owner_clock_ns() < last_ns) {
		pthread_mutex_lock(&o->lock);
		snprintf(o->info.why, sizeof(o->info.why), "its owner is starting");
		pthread_mutex_unlock(&o->lock);
		return -EAGAIN;
	}
	if (error == 0 && hello.type != WIRE_HELLO)
		error = -EPROTO;
	if (error)
		return owner_broken(o, error);
	hello.driver[sizeof(hello.driver) - 1] = '\0';
	hello.model[sizeof(hello.model) - 1] = '\0';
	hello.pci[sizeof(hello.pci) - 1] = '\0';
	hello.why[sizeof(hello.why) - 1] = '\0';
	if (hello.error) {
		owner_end(o, OWNER_GO_MS, "");
		pthread_mutex_lock(&o->lock);
		memcpy(o->info.why, hello.why, sizeof(o->info.why));
		pthread_mutex_unlock(&o->lock);
		return hello.error < 0 && hello.error >= -4095 ? hello.error : -EIO;
	}
	owner_learn(o, &hello);
	owner_look(&o->dev);
	return o->process.fd >= 0 ? 0 : -EIO;
}

/*
 * An owner that serves, the one there is or a new one. One that takes long to start costs each
 * request its deadline and no more, and goes on starting.
 */
static int owner_make_ready(struct owner *o)
{
	int error = 0;

	if (owner_is_cancelled(o))
		return -ECANCELED;
	if (o->process.fd >= 0 && process_dead(&o->process)) {
		owner_end(o, 0, "the owner is gone");
		owner_say_why(o);
	}
	if (o->process.fd >= 0 && o->greeted)
		return 0;
	if (o->process.fd < 0)
		error = owner_start(o);
	if (error == 0)
		error = owner_greet(o, owner_clock_ns() + o->cfg.deadline_ns);
	if (error)
		owner_say_why(o);
	else
		log_info("device cuda:%u: its owner is process %d", o->cfg.ordinal, o->process.pid);
	return error;
}

/* ---- the back end -------------------------------------------------------------------------- */

static void owner_close_fds(uint32_t n, const int *fds)
{
	for (uint32_t i = 0; i < n; i++)
		close(fds[i]);
}

/* Gives handles of this very owner back to it. */
static void owner_release(struct owner *o, uint32_t block)
{
	const struct wire_request request = { .type = WIRE_CLOSE, .block = block };
	struct wire_reply reply;
	int error = owner_send(o, &request);

	if (error == 0)
		error = owner_receive_plain(o, owner_clock_ns() + o->cfg.deadline_ns, &reply,
					    sizeof(reply));
	if (error == 0 && reply.type != WIRE_CLOSE)
		error = -EPROTO;
	if (error) {
		owner_broken(o, error);
		owner_say_why(o);
	} else if (reply.error && log_limit_pass(&o->limit, owner_clock_ns(), 5)) {
		reply.why[sizeof(reply.why) - 1] = '\0';
		log_warn("device cuda:%u: memory is not given back well: %s", o->cfg.ordinal,
			 reply.why);
	}
}

/* What one owner_collect() has come to. */
struct owner_batch {
	uint32_t n, have; /* handles wanted, fds that came */
	uint32_t block;
	int error; /* soft: the owner lives */
};

/* One answer to a create. -errno: the owner is to be given up. */
static int owner_take_answer(struct owner *o, struct owner_batch *b, uint64_t until_ns,
			     int *ret_fds)
{
	struct wire_reply reply;
	struct datagram_fds fds;
	int error = owner_receive(o, until_ns, &reply, sizeof(reply), &fds);

	if (error)
		return error;
	if (reply.type != WIRE_CREATE || (!fds.lost && fds.n != reply.count) ||
	    (!reply.error &&
	     (reply.first != b->have || reply.count == 0 || reply.count > b->n - b->have))) {
		datagram_close_fds(&fds);
		return -EPROTO;
	}
	if (reply.error) {
		reply.why[sizeof(reply.why) - 1] = '\0';
		if (log_limit_pass(&o->limit, owner_clock_ns(), 5))
			log_warn("device cuda:%u: %s", o->cfg.ordinal, reply.why);
		b->error = reply.error < 0 && reply.error >= -4095 ? reply.error : -EIO;
		datagram_close_fds(&fds);
		if (reply.spoilt)
			owner_end(o, OWNER_GO_MS, reply.why);
		return 0;
	}
	if (fds.lost)
		datagram_close_fds(&fds);
	for (uint32_t i = 0; i < reply.count; i++)
		ret_fds[b->have + i] = fds.lost ? -1 : fds.fd[i];
	b->have += reply.count;
	b->block = reply.block;
	return 0;
}

static int owner_create(struct gpu_device *dev, uint32_t n, uint64_t handle_bytes, int *ret_fds,
			uint64_t *ret_token)
{
	struct owner *o = owner_of(dev);
	struct owner_batch batch = { .n = n };
	const struct wire_request request = {
		.type = WIRE_CREATE,
		.count = n,
		.handle_bytes = handle_bytes,
	};
	uint64_t until_ns;
	bool lost = false;
	int error = owner_make_ready(o);

	if (error == 0)
		error = owner_check_room(o, n * handle_bytes);
	if (error)
		return error;
	until_ns = owner_clock_ns() + o->cfg.deadline_ns;
	error = owner_send(o, &request);
	while (error == 0 && batch.error == 0 && batch.have < n)
		error = owner_take_answer(o, &batch, until_ns, ret_fds);
	if (error) {
		error = owner_broken(o, error);
		owner_say_why(o);
	}
	for (uint32_t i = 0; i < batch.have; i++)
		lost |= ret_fds[i] < 0;
	*ret_token = (uint64_t)o->number << 32 | batch.block;
	if (error == 0 && batch.error == 0 && !lost) {
		o->held_bytes += n * handle_bytes;
		return 0;
	}
	for (uint32_t i = 0; i < batch.have; i++) {
		if (ret_fds[i] >= 0)
			close(ret_fds[i]);
	}
	if (error == 0 && lost && batch.error == 0)
		owner_release(o, batch.block);
	if (error == 0)
		error = batch.error ? batch.error : -EMFILE;
	return error;
}

static void owner_close(struct gpu_device *dev, uint32_t n, uint64_t handle_bytes, const int *fds,
			uint64_t token)
{
	struct owner *o = owner_of(dev);

	owner_close_fds(n, fds);
	o->held_bytes -= n * handle_bytes;
	if (o->process.fd >= 0 && (uint32_t)(token >> 32) == o->number && !owner_is_cancelled(o))
		owner_release(o, (uint32_t)token);
}

static void owner_info(struct gpu_device *dev, struct gpu_info *ret)
{
	struct owner *o = owner_of(dev);

	pthread_mutex_lock(&o->lock);
	*ret = o->info;
	if (o->process.pid && process_dead(&o->process))
		ret->owner_pid = 0;
	if (o->process.fd >= 0 && process_dead(&o->process)) {
		ret->failed = true;
		snprintf(ret->why, sizeof(ret->why),
			 "its owner is gone; another is started when it is needed");
	}
	pthread_mutex_unlock(&o->lock);
}

static void owner_rest(struct gpu_device *dev, bool rest)
{
	struct owner *o = owner_of(dev);

	if (!rest) {
		(void)owner_make_ready(o); /* info() has the reason */
		return;
	}
	owner_end(o, OWNER_LEAVE_MS, "an operator has ended the owner");
	pthread_mutex_lock(&o->lock);
	o->info.owner_pid = o->process.pid; /* one that does not end is still there */
	pthread_mutex_unlock(&o->lock);
}

static void owner_cancel(struct gpu_device *dev)
{
	struct owner *o = owner_of(dev);

	pthread_mutex_lock(&o->lock);
	o->cancelled = true;
	/* Whoever waits for an answer sees the end of the connection. */
	if (o->process.fd >= 0)
		shutdown(o->process.fd, SHUT_RDWR);
	pthread_mutex_unlock(&o->lock);
}

static void owner_finish(struct gpu_device *dev)
{
	struct owner *o = owner_of(dev);

	owner_cancel(dev);
	owner_end(o, OWNER_LEAVE_MS, "stopped");
	if (o->process.pidfd >= 0)
		close(o->process.pidfd);
	pthread_mutex_destroy(&o->lock);
	free(o);
}

static const struct gpu_ops owner_ops = {
	.create = owner_create,
	.close = owner_close,
	.look = owner_look,
	.info = owner_info,
	.rest = owner_rest,
	.cancel = owner_cancel,
	.finish = owner_finish,
};

int owner_open(const struct owner_config *cfg, struct gpu_device **ret)
{
	struct owner *o = fault_calloc("owner", 1, sizeof(*o));
	int error;

	if (!o)
		return -ENOMEM;
	o->dev = (struct gpu_device){ .ops = &owner_ops, .ordinal = cfg->ordinal };
	o->cfg = *cfg;
	o->process = (struct process)PROCESS_NONE;
	o->info = (struct gpu_info){ .driver = "cuda", .node = -1 };
	pthread_mutex_init(&o->lock, NULL);
	error = owner_start(o);
	if (error) {
		owner_finish(&o->dev);
		return error;
	}
	*ret = &o->dev;
	return 0;
}

int owner_wait(struct gpu_device *dev)
{
	return owner_greet(owner_of(dev), UINT64_MAX);
}
