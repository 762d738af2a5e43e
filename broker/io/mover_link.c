/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The daemon's end of one mover; see mover_link.h.
 *
 * Of the ring this is the client's half, by the steps of uapi/steps.h, with an eventfd in place of
 * the futex. need_wake is set only while the daemon sleeps, so a mover pays for a wake-up only when
 * one is needed.
 *
 * A mover that ends is started again a second after its last start. One that said itself why it
 * cannot serve would say so again: the pause doubles, up to LINK_PAUSE_NS_MAX.
 */

#include "broker/io/mover_link.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "broker/io/fault.h"
#include "broker/io/log.h"
#include "broker/io/server.h"
#include "broker/io/shm.h"
#include "broker/owner/datagram.h"

#define LINK_WINDOW 32u                  /* requests unanswered: bounds the fds under way */
#define LINK_START_NS 60000000000ull     /* a driver may take its time */
#define LINK_PAUSE_NS 1000000000ull      /* between two starts */
#define LINK_PAUSE_NS_MAX 32000000000ull /* when it says each time that it cannot serve */
#define LINK_RESEND_NS 2000000ull        /* no room in the socket */
#define LINK_LEAVE_MS 2000               /* to end, when it is not wanted any more */
#define LINK_BATCH 64                    /* answers taken at once */

static void link_receive(struct mover_link *link);

/* ---- its end ------------------------------------------------------------------------------- */

static void link_drop_ring(struct mover_link *link)
{
	loop_del(link->server->loop, &link->bell);
	shm_region_free(&link->memory);
	if (link->doorbell_fd >= 0)
		close(link->doorbell_fd);
	if (link->bell_fd >= 0)
		close(link->bell_fd);
	link->memory = (struct shm_region){ .fd = -1 };
	link->doorbell_fd = link->bell_fd = -1;
	link->restless = false;
}

static void link_hang_up(struct mover_link *link)
{
	loop_del(link->server->loop, &link->socket);
	if (link->process.fd >= 0) {
		/* A loop that does not turn any more keeps the socket open, and the mover waits. */
		shutdown(link->process.fd, SHUT_RDWR);
		close(link->process.fd);
	}
	link->process.fd = -1;
}

static void link_kill(struct mover_link *link, const char *why)
{
	snprintf(link->why, sizeof(link->why), "%s", why);
	link->state = LINK_DYING;
	link_hang_up(link);
	pidfd_send_signal(link->process.pidfd, SIGKILL, NULL, 0);
	link->ops->broken(link);
}

/* why: what it did. refused: it said so itself, and would again. */
static void link_break(struct mover_link *link, const char *why, bool refused)
{
	if (link->state == LINK_DYING || link->state == LINK_OFF)
		return;
	if (log_limit_pass(&link->limit, link->server->now_ns, 5))
		log_warn("device %s: its mover, process %d: %s; another is started", link->name,
			 link->process.pid, why);
	if (!refused)
		link->pause_ns = LINK_PAUSE_NS;
	else if (link->pause_ns < LINK_PAUSE_NS_MAX)
		link->pause_ns *= 2;
	link_kill(link, why);
}

static void link_is_dead(struct loop_source *source, uint32_t events)
{
	struct mover_link *link =
		(struct mover_link *)((char *)source - offsetof(struct mover_link, death));
	char how[80] = "";

	if (link->process.fd >= 0)
		link_receive(link); /* it may have said why */
	loop_del(link->server->loop, &link->death);
	link_hang_up(link);
	process_end(&link->process, 0, how, sizeof(how));
	link->memory_is_bad = link->process.status == MOVER_EXIT_MEMORY;
	if (link->state != LINK_DYING) {
		snprintf(link->why, sizeof(link->why), "it is gone; %s", how);
		link->pause_ns = LINK_PAUSE_NS;
		link->ops->broken(link);
		if (log_limit_pass(&link->limit, link->server->now_ns, 5))
			log_warn("device %s: its mover: %s; another is started", link->name,
				 link->why);
	}
	link_drop_ring(link);
	link->state = LINK_OFF;
	link->flights = 0;
	link->head = link->next = link->tail = link->part = 0;
	link->resend_ns = UINT64_MAX;
	link->restart_ns = link->finished ? UINT64_MAX : link->started_ns + link->pause_ns;
	link->ops->gone(link);
}

/* ---- its start ----------------------------------------------------------------------------- */

static void link_socket_ready(struct loop_source *source, uint32_t events)
{
	link_receive((struct mover_link *)((char *)source - offsetof(struct mover_link, socket)));
}

/* Completions may be there: the turn that follows takes them. */
static void link_bell_rings(struct loop_source *source, uint32_t events)
{
}

/* The process is there and nothing watches it: it goes at once. */
static void link_start_failed(struct mover_link *link, int error)
{
	char how[80];

	snprintf(link->why, sizeof(link->why), "cannot start a mover: %s", strerror(-error));
	if (log_limit_pass(&link->limit, link->server->now_ns, 5))
		log_warn("device %s: %s", link->name, link->why);
	link_hang_up(link);
	loop_del(link->server->loop, &link->death);
	if (link->process.pid)
		process_end(&link->process, 0, how, sizeof(how));
	link->state = LINK_OFF;
	link->restart_ns = link->started_ns + link->pause_ns;
}

static void link_start(struct mover_link *link)
{
	struct server *s = link->server;
	const char *uuid = s->cfg.device[link->device].uuid;
	char device[PROCESS_DEVICE_BYTES];
	int error;

	link->started_ns = link->progress_ns = s->now_ns;
	link->state = LINK_STARTING;
	snprintf(device, sizeof(device), "%s%s%s", link->name, uuid[0] ? "@" : "", uuid);
	error = process_start("mover", device, s->cfg.log_level, &link->process);
	if (error == 0)
		error = loop_add(s->loop, &link->death, link->process.pidfd, LOOP_IN, link_is_dead);
	if (error == 0)
		error = loop_add(s->loop, &link->socket, link->process.fd, LOOP_IN,
				 link_socket_ready);
	if (error) {
		link_start_failed(link, error);
		return;
	}
	link->starts++;
}

static int link_make_ring(struct mover_link *link)
{
	char *mem;
	int error = shm_region_new("kvb-mover", MOVER_RING_BYTES, SHM_BOTH_WRITE, &link->memory);

	if (error) {
		link->memory = (struct shm_region){ .fd = -1 };
		return error;
	}
	link->doorbell_fd = fault_fails("mover") ? -1 : eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (link->doorbell_fd < 0)
		return -errno;
	link->bell_fd = fault_fails("mover") ? -1 : eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (link->bell_fd < 0)
		return -errno;
	mem = link->memory.mem;
	link->ring = (struct kvb_ring){
		.sub = (void *)mem,
		.ctl = (void *)(mem + MOVER_RING_CTL),
		.sqes = (void *)(mem + MOVER_RING_SQES),
		.cqes = (void *)(mem + MOVER_RING_CQES),
		.sq_entries = MOVER_RING_ENTRIES,
		.cq_entries = MOVER_RING_ENTRIES,
	};
	kvb_step_begin(&link->ring);
	return loop_add(link->server->loop, &link->bell, link->bell_fd, LOOP_IN | LOOP_EDGE,
			link_bell_rings);
}

static void link_greet(struct mover_link *link, struct mover_hello *hello)
{
	char why[LINK_WHY_BYTES];
	int error;

	hello->why[sizeof(hello->why) - 1] = '\0';
	if (hello->error) {
		snprintf(why, sizeof(why), "it cannot serve: %.120s", hello->why);
		link_break(link, why, true);
		return;
	}
	error = link_make_ring(link);
	if (error) {
		snprintf(why, sizeof(why), "no ring for it: %s", strerror(-error));
		link_break(link, why, false);
		return;
	}
	link->state = LINK_SERVING;
	log_info("device %s: its mover is process %d", link->name, link->process.pid);
	link_ask(link, MOVER_RING, 0);
	link->ops->greeted(link);
}

/* ---- requests ------------------------------------------------------------------------------ */

static struct link_request *link_request(struct mover_link *link, uint32_t index)
{
	return &link->requests[index & (link->requests_max - 1)];
}

/* One message. 0; -EAGAIN: later; others: the mover is lost. */
static int link_send(struct mover_link *link, const struct mover_request *request, const int *fds,
		     uint32_t n)
{
	int error = fault_fails("mover-send")
			    ? -errno
			    : datagram_send(link->process.fd, request, sizeof(*request), fds, n,
					    MSG_DONTWAIT);

	switch (error) {
	case -ENOBUFS:
	case -ENOMEM:
	case -ETOOMANYREFS: /* fds under way: it takes them out */
		return -EAGAIN;
	default:
		return error;
	}
}

static void link_fill_request(struct mover_link *link, const struct link_request *r,
			      struct mover_request *ret, const int **ret_fds, uint32_t *ret_n,
			      int ring_fds[3])
{
	*ret = (struct mover_request){ .type = r->type, .seq = r->seq, .id = r->id };
	*ret_fds = NULL;
	*ret_n = 0;
	if (r->type != MOVER_RING) {
		link->ops->fill(link, r->type, r->id, ret, ret_fds, ret_n);
		return;
	}
	ring_fds[0] = link->memory.fd;
	ring_fds[1] = link->doorbell_fd;
	ring_fds[2] = link->bell_fd;
	*ret_fds = ring_fds;
	*ret_n = 3;
}

/* All messages of the request at `next`. 0, or as link_send(). */
static int link_send_next(struct mover_link *link)
{
	const struct link_request *r = link_request(link, link->next);
	struct mover_request request;
	int ring_fds[3];
	const int *fds;
	uint32_t n;

	link_fill_request(link, r, &request, &fds, &n, ring_fds);
	do {
		uint32_t some = n - link->part < MOVER_FDS_MAX ? n - link->part : MOVER_FDS_MAX;
		int error;

		request.first = link->part;
		error = link_send(link, &request, fds ? fds + link->part : NULL, some);
		if (error)
			return error;
		link->part += some;
	} while (link->part < n);
	link->part = 0;
	if (link->next == link->head && !link->flights)
		link->progress_ns = link->server->now_ns;
	link->next++;
	return 0;
}

static void link_send_some(struct mover_link *link)
{
	char why[LINK_WHY_BYTES];

	link->resend_ns = UINT64_MAX;
	while (link->state == LINK_SERVING && link->next != link->tail &&
	       link->next - link->head < LINK_WINDOW) {
		int error = link_send_next(link);

		if (error == -EAGAIN) {
			link->resend_ns = link->server->now_ns + LINK_RESEND_NS;
			return;
		}
		if (error) {
			snprintf(why, sizeof(why), "it cannot be told of memory: %s",
				 strerror(-error));
			link_break(link, why, false);
		}
	}
}

void link_ask(struct mover_link *link, enum mover_type type, uint32_t id)
{
	*link_request(link, link->tail++) =
		(struct link_request){ .type = (uint8_t)type, .id = id, .seq = ++link->seq };
	if (link->resend_ns == UINT64_MAX)
		link_send_some(link);
}

static void link_answer(struct mover_link *link, struct mover_reply *reply)
{
	const struct link_request request = *link_request(link, link->head);
	char why[LINK_WHY_BYTES];

	if (link->head == link->next || reply->seq != request.seq) {
		link_break(link, "it answers what was not asked", false);
		return;
	}
	reply->why[sizeof(reply->why) - 1] = '\0';
	if (reply->error) {
		snprintf(why, sizeof(why), "it does not take memory: %.120s", reply->why);
		link_break(link, why, true);
		return;
	}
	link->head++;
	link->progress_ns = link->server->now_ns;
	if (request.type != MOVER_RING)
		link->ops->answered(link, request.type, request.id);
	link_send_some(link);
}

/* One message. False: there is none, or the link is broken. */
static bool link_receive_one(struct mover_link *link)
{
	union {
		uint32_t type;
		struct mover_hello hello;
		struct mover_reply reply;
	} msg;
	ssize_t n = recv(link->process.fd, &msg, sizeof(msg), MSG_DONTWAIT | MSG_TRUNC);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n <= 0)
		return false; /* it goes: its death says more */
	if (link->state == LINK_STARTING && n == (ssize_t)sizeof(msg.hello) &&
	    msg.type == MOVER_HELLO)
		link_greet(link, &msg.hello);
	else if (link->state == LINK_SERVING && n == (ssize_t)sizeof(msg.reply) &&
		 msg.type == MOVER_REPLY)
		link_answer(link, &msg.reply);
	else
		link_break(link, "it does not keep to the protocol", false);
	return link->process.fd >= 0;
}

static void link_receive(struct mover_link *link)
{
	for (int i = 0; i < LINK_BATCH; i++) {
		if (!link_receive_one(link))
			return;
	}
}

/* ---- copies -------------------------------------------------------------------------------- */

bool link_submit(struct mover_link *link, const struct mover_entry *entry)
{
	struct kvb_ring *r = &link->ring;
	int room = link->flights < MOVER_RING_ENTRIES ? kvb_step_sq_room(r) : 0;

	if (room < 0)
		link_break(link, "it claims copies that it was not given", false);
	if (room <= 0)
		return false;
	memcpy(&r->sqes[r->sq_tail & (r->sq_entries - 1)], entry, sizeof(*entry));
	r->sq_tail++;
	if (!link->flights && link->head == link->next)
		link->progress_ns = link->server->now_ns;
	link->flights++;
	link->restless = true;
	return true;
}

void link_flush(struct mover_link *link)
{
	const uint64_t one = 1;

	if (!link->restless)
		return;
	link->restless = false;
	link->work_ns = link->server->now_ns;
	kvb_step_send(&link->ring);
	kvb_full_fence();
	if (!(kvb_step_flags(&link->ring) & KVB_CTL_NEED_DOORBELL))
		return;
	if (write(link->doorbell_fd, &one, sizeof(one)) < 0)
		return; /* the counter is full: it has been rung */
}

bool link_poll(struct mover_link *link)
{
	struct kvb_cqe cqe;
	bool some = false;
	int r;

	if (link->state != LINK_SERVING || !link->flights)
		return false;
	while ((r = kvb_step_take(&link->ring, &cqe)) > 0) {
		some = true;
		r = cqe.res > 0 || cqe.res < -4095
			    ? -EPROTO
			    : link->ops->completed(link, cqe.user_data, cqe.res, cqe.aux);
		if (r < 0)
			break;
		link->flights--;
	}
	if (r < 0) {
		link_break(link, "it says that copies are done which it was not given", false);
		return true;
	}
	if (some) {
		kvb_step_show_head(&link->ring);
		link->progress_ns = link->work_ns = link->server->now_ns;
	}
	return some;
}

bool link_hot(const struct mover_link *link)
{
	return link->flights && link->state == LINK_SERVING &&
	       link->server->now_ns - link->work_ns < link->server->cfg.spin_ns;
}

bool link_arm(struct mover_link *link)
{
	if (link->state != LINK_SERVING || !link->flights)
		return true;
	kvb_step_arm(&link->ring);
	kvb_full_fence();
	return kvb_word_acquire(&link->ring.ctl->cq_tail) == link->ring.cq_head;
}

void link_disarm(struct mover_link *link)
{
	if (link->state == LINK_SERVING)
		kvb_step_disarm(&link->ring);
}

/* ---- the clock ----------------------------------------------------------------------------- */

static bool link_waits(const struct mover_link *link)
{
	return link->flights || link->head != link->next;
}

static uint64_t link_deadline_ns(const struct mover_link *link)
{
	if (link->state == LINK_STARTING)
		return link->started_ns + LINK_START_NS;
	if (link->state == LINK_SERVING && link_waits(link))
		return link->progress_ns + link->server->cfg.owner_deadline_ns;
	return UINT64_MAX;
}

void link_turn(struct mover_link *link)
{
	uint64_t now_ns = link->server->now_ns;

	if (link->state == LINK_OFF && now_ns >= link->restart_ns)
		link_start(link);
	if (now_ns >= link->resend_ns)
		link_send_some(link);
	if (now_ns < link_deadline_ns(link))
		return;
	/* What it said while we did not look counts. */
	link_receive(link);
	(void)link_poll(link);
	if (now_ns >= link_deadline_ns(link))
		link_break(link,
			   link->state == LINK_STARTING ? "it does not start in time"
							: "it did not answer in time",
			   false);
}

uint64_t link_next_ns(const struct mover_link *link)
{
	uint64_t next = link_deadline_ns(link);

	if (link->state == LINK_OFF && link->restart_ns < next)
		next = link->restart_ns;
	return link->resend_ns < next ? link->resend_ns : next;
}

/* ---- life ---------------------------------------------------------------------------------- */

int link_open(struct mover_link *link, struct server *s, unsigned device, const char *name,
	      uint32_t requests_max, const struct mover_link_ops *ops)
{
	*link = (struct mover_link){
		.ops = ops,
		.server = s,
		.device = device,
		.process = PROCESS_NONE,
		.socket = LOOP_SOURCE_NULL,
		.death = LOOP_SOURCE_NULL,
		.bell = LOOP_SOURCE_NULL,
		.memory = { .fd = -1 },
		.doorbell_fd = -1,
		.bell_fd = -1,
		.requests_max = 1,
		.resend_ns = UINT64_MAX,
		.pause_ns = LINK_PAUSE_NS,
	};
	snprintf(link->name, sizeof(link->name), "%s", name);
	while (link->requests_max < requests_max)
		link->requests_max <<= 1;
	link->requests = fault_calloc("mover", link->requests_max, sizeof(*link->requests));
	if (!link->requests)
		return -ENOMEM;
	link_start(link);
	return 0;
}

void link_rest(struct mover_link *link, bool rest)
{
	link->finished = rest;
	if (link->state == LINK_OFF)
		link->restart_ns = rest ? UINT64_MAX : link->server->now_ns;
	else if (rest && link->state != LINK_DYING)
		link_kill(link, "an operator has ended it");
}

void link_finish(struct mover_link *link)
{
	link->finished = true;
	if (link->ops)
		link_hang_up(link);
}

void link_close(struct mover_link *link)
{
	char how[80];

	if (!link->ops)
		return;
	loop_del(link->server->loop, &link->death);
	process_end(&link->process, LINK_LEAVE_MS, how, sizeof(how));
	if (link->process.pidfd >= 0)
		close(link->process.pidfd);
	link_drop_ring(link);
	free(link->requests);
	*link = (struct mover_link){ 0 };
}
