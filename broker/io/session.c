/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Lives and deaths of peers.
 *
 *   accepted -> HELLO --message--> ENGINE --socket gone--> LEAVING --process dead--> FREE
 *                 |                                           |
 *                 +-------message--> ADMIN ---socket gone-----+--(nothing left to wait for)-> FREE
 *
 * Ends happen at one place, session_turn(), so that no callback, ring or walk finds a session gone
 * under its feet: everybody else only condemns. A condemned session takes no more messages.
 *
 * The socket is the authority on an engine's rights: when it hangs up, rings, leases and rights
 * end. What it was filling may still be mapped by its process, so the session stays as LEAVING,
 * with the pidfd and the core's client record, until the kernel says that the process is dead. A
 * process that dies while a child of it keeps the socket open loses nothing: rights stay with the
 * socket, and the pidfd, already dead, is asked when the socket ends.
 */

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "broker/admin/admin.h"
#include "broker/admin/stats.h"
#include "broker/io/fault.h"
#include "broker/io/log.h"
#include "broker/io/ring.h"
#include "broker/owner/datagram.h"

/* A process that outlives its session by this much was not dying: its death is a notice of its own.
 */
#define SESSION_LINGER_NS 1000000000ull

/* Whoever crowds the daemon, an operator can still come and see. */
#define SESSION_KEPT 4u

static struct log_limit session_limit;

/* ---- the table ----------------------------------------------------------------------------- */

int sessions_new(struct server *s)
{
	s->sessions = fault_calloc("sessions", s->sessions_max, sizeof(*s->sessions));
	s->use = fault_calloc("sessions", s->sessions_max, sizeof(*s->use));
	s->client_session =
		fault_calloc("sessions", s->cfg.limits.clients, sizeof(*s->client_session));
	if (!s->sessions || !s->use || !s->client_session)
		return -ENOMEM;
	memset(s->client_session, 0xff, s->cfg.limits.clients * sizeof(*s->client_session));
	for (uint32_t i = s->sessions_max; i-- > 0;) {
		s->sessions[i].next = s->free;
		s->free = &s->sessions[i];
	}
	s->hello_ns = UINT64_MAX;
	return 0;
}

uint32_t session_count(const struct server *s, uint32_t uid, bool engines_only)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < s->sessions_max; i++) {
		const struct session_use *use = &s->use[i];

		n += use->used && use->uid == uid && (use->engine || !engines_only);
	}
	return n;
}

bool session_uid_operates(uint32_t uid)
{
	return uid == 0 || uid == geteuid();
}

uint32_t session_places(uint32_t uid, uint32_t max)
{
	if (session_uid_operates(uid))
		return max;
	return max > SESSION_KEPT ? max - SESSION_KEPT : 0;
}

struct session *session_of_client(struct server *s, unsigned client)
{
	uint32_t id = s->client_session[client];

	return id == CORE_NONE ? NULL : &s->sessions[id];
}

static void session_free(struct session *ss)
{
	struct server *s = ss->server;

	assert(ss->fd < 0 && !ss->ring && !ss->admin);
	loop_del(s->loop, &ss->death);
	if (ss->pidfd >= 0)
		close(ss->pidfd);
	ss->state = SESSION_FREE;
	s->use[ss->id] = (struct session_use){ 0 };
	s->sessions_used--;
	ss->next = s->free;
	s->free = ss;
}

/* ---- begin --------------------------------------------------------------------------------- */

static void session_socket_ready(struct loop_source *source, uint32_t events)
{
	struct session *ss = (struct session *)((char *)source - offsetof(struct session, socket));

	if (ss->condemned)
		return;
	if (events & LOOP_IN)
		session_receive(ss);
	if (!ss->condemned && (events & LOOP_HUP))
		session_condemn(ss, NULL);
	if (!ss->condemned && (events & LOOP_OUT)) {
		struct loop *loop = ss->server->loop;

		loop_del(loop, &ss->socket);
		ss->blocked = false;
		if (loop_add(loop, &ss->socket, ss->fd, LOOP_IN, session_socket_ready) < 0)
			session_condemn(ss, "its socket cannot be watched");
		else
			admin_writable(ss);
	}
}

int session_new(struct server *s, int fd, const struct session_peer *peer)
{
	struct session *ss = s->free;
	int error;

	assert(ss);
	s->free = ss->next;
	s->sessions_used++;
	*ss = (struct session){
		.server = s,
		.state = SESSION_HELLO,
		.client = CORE_NONE16,
		.id = (uint32_t)(ss - s->sessions),
		.uid = peer->uid,
		.gid = peer->gid,
		.pid = peer->pid,
		.pidfd = peer->pidfd,
		.fd = fd,
		.socket = LOOP_SOURCE_NULL,
		.death = LOOP_SOURCE_NULL,
		.doorbell = LOOP_SOURCE_NULL,
		.since_ns = s->now_ns,
	};
	s->use[ss->id] = (struct session_use){ .uid = peer->uid, .used = true };
	error = loop_add(s->loop, &ss->socket, fd, LOOP_IN, session_socket_ready);
	if (error) {
		close(fd);
		ss->fd = -1;
		session_free(ss);
		return error;
	}
	if (s->hello_ns > s->now_ns + s->cfg.attach_deadline_ns)
		s->hello_ns = s->now_ns + s->cfg.attach_deadline_ns;
	return 0;
}

static void session_doorbell_ready(struct loop_source *source, uint32_t events)
{
	struct session *ss =
		(struct session *)((char *)source - offsetof(struct session, doorbell));

	if (!ss->condemned)
		ring_wake(ss->ring);
}

static bool session_process_dead(const struct session *ss)
{
	struct pollfd pfd = { .fd = ss->pidfd, .events = POLLIN };

	return poll(&pfd, 1, 0) == 1;
}

static void session_watch_end(struct session *ss)
{
	if (ss->ending)
		return;
	ss->ending = true;
	ss->next = ss->server->ending;
	ss->server->ending = ss;
}

static void session_death_ready(struct loop_source *source, uint32_t events)
{
	struct session *ss = (struct session *)((char *)source - offsetof(struct session, death));
	struct server *s = ss->server;

	loop_del(s->loop, source);
	if (ss->state != SESSION_LEAVING)
		return; /* the socket is open still: in a child, or its end is the next event */
	if (s->now_ns - ss->left_ns > SESSION_LINGER_NS)
		ss->left_ns = s->now_ns;
	core_client_dead(&s->core, ss->client);
	session_watch_end(ss);
}

int session_attach(struct session *ss, unsigned client, const struct ring_geometry *geo)
{
	struct server *s = ss->server;
	int error = ring_new(ss, geo, &ss->ring);

	if (error)
		return error;
	error = loop_add(s->loop, &ss->doorbell, ss->ring->doorbell_fd, LOOP_IN | LOOP_EDGE,
			 session_doorbell_ready);
	if (error == 0)
		error = loop_add(s->loop, &ss->death, ss->pidfd, LOOP_IN, session_death_ready);
	if (error) {
		loop_del(s->loop, &ss->doorbell);
		ss->ring = ring_free(ss->ring);
		return error;
	}
	ss->state = SESSION_ENGINE;
	ss->client = (uint16_t)client;
	s->client_session[client] = ss->id;
	s->use[ss->id].engine = true;
	s->engines++;
	ring_wake(ss->ring);
	return 0;
}

/* ---- send ---------------------------------------------------------------------------------- */

static void session_block(struct session *ss)
{
	struct loop *loop = ss->server->loop;

	if (ss->blocked)
		return;
	loop_del(loop, &ss->socket);
	if (loop_add(loop, &ss->socket, ss->fd, LOOP_IN | LOOP_OUT, session_socket_ready) < 0)
		session_condemn(ss, "its socket cannot be watched");
	else
		ss->blocked = true;
}

bool session_hung_up(const struct session *ss)
{
	struct pollfd pfd = { .fd = ss->fd, .events = POLLRDHUP };

	return ss->fd < 0 || (poll(&pfd, 1, 0) > 0 && pfd.revents);
}

int session_send(struct session *ss, const void *msg, size_t bytes, const int *fds, unsigned nfds)
{
	int error;

	if (ss->condemned || ss->fd < 0)
		return -EPIPE;
	error = fault_fails("send") ? -errno
				    : datagram_send(ss->fd, msg, bytes, fds, nfds, MSG_DONTWAIT);
	if (!error && ss->ring)
		ring_message_sent(ss->ring);
	else if (error == -EAGAIN && ss->state == SESSION_ADMIN)
		session_block(ss);
	else if (error == -EAGAIN)
		session_condemn(ss, "it does not read its socket");
	else if (error == -EPIPE || error == -ECONNRESET)
		session_condemn(ss, NULL);
	return error;
}

int session_send_error(struct session *ss, int error, const char *fmt, ...)
{
	struct kvb_msg_error msg = {
		.h = { .magic = KVB_MAGIC, .type = KVB_MSG_ERROR, .length = sizeof(msg) },
		.error = error,
	};
	va_list args;

	va_start(args, fmt);
	vsnprintf(msg.text, sizeof(msg.text), fmt, args);
	va_end(args);
	return session_send(ss, &msg, sizeof(msg), NULL, 0);
}

/* ---- end ----------------------------------------------------------------------------------- */

void session_condemn(struct session *ss, const char *why)
{
	struct server *s = ss->server;

	if (ss->condemned || ss->state == SESSION_FREE || ss->state == SESSION_LEAVING)
		return;
	ss->condemned = true;
	ss->next = s->condemned;
	s->condemned = ss;
	if (why && log_limit_pass(&session_limit, s->now_ns, 10))
		log_warn("pid %d uid %u is disconnected: %s", ss->pid, ss->uid, why);
}

void session_break(struct session *ss, int error, const char *why)
{
	if (ss->condemned || ss->state == SESSION_FREE || ss->state == SESSION_LEAVING)
		return;
	ss->server->protocol_errors++;
	if (ss->ring)
		ring_break(ss->ring, error);
	session_condemn(ss, why);
}

static void session_leave(struct session *ss)
{
	struct server *s = ss->server;

	s->engines--;
	ss->left_ns = s->now_ns;
	ss->ring = ring_free(ss->ring);
	ss->state = SESSION_LEAVING;
	ss->condemned = false;
	core_client_close(&s->core, ss->client);
	/* The watch on the pidfd may have fired before, when a child still had the socket. */
	if (ss->said_bye || session_process_dead(ss)) {
		loop_del(s->loop, &ss->death);
		core_client_dead(&s->core, ss->client);
	}
	session_watch_end(ss);
}

#define LAST_WORDS_MAX 64

/* A peer that has hung up may have said BYE before, behind what was not read yet. */
static void session_hear_last_words(struct session *ss)
{
	struct kvb_msg_header h;

	for (unsigned i = 0; i < LAST_WORDS_MAX && !ss->said_bye; i++) {
		ssize_t n = recv(ss->fd, &h, sizeof(h), MSG_DONTWAIT | MSG_TRUNC);

		if (n <= 0)
			return;
		ss->said_bye = n == (ssize_t)sizeof(h) && h.magic == KVB_MAGIC &&
			       h.type == KVB_MSG_BYE && h.length == sizeof(h) && !h.nfds && !h.resv;
	}
}

static void session_end(struct session *ss)
{
	struct server *s = ss->server;

	if (ss->state == SESSION_ENGINE)
		session_hear_last_words(ss);
	loop_del(s->loop, &ss->doorbell);
	loop_del(s->loop, &ss->socket);
	close(ss->fd);
	ss->fd = -1;
	if (ss->state == SESSION_ENGINE) {
		session_leave(ss);
		return;
	}
	if (ss->admin) {
		admin_detach(ss);
		ss->admin = NULL;
	}
	if (ss->state == SESSION_ADMIN)
		s->admins--;
	session_free(ss);
}

/* May its process still have memory mapped that it was sent? */
static bool session_may_map(struct core *c, unsigned client)
{
	for (uint32_t handle = 0; handle < KVB_SPACES_MAX; handle++) {
		const struct core_member *m = core_member_get(c, client, handle);

		for (unsigned w = 0; m && w < CORE_SLOT_WORDS; w++) {
			if (m->sent[w])
				return true;
		}
	}
	return false;
}

/*
 * Leaving sessions whose client record the core has given back, or put to rest until the death. A
 * client that was sent no memory has nothing mapped: it need not die for its record to be free.
 */
static void session_reap(struct server *s)
{
	struct session **at = &s->ending;

	while (*at) {
		struct session *ss = *at;
		const struct core_client *client = &s->core.clients[ss->client];

		if (client->state != CORE_CLIENT_FREE &&
		    (client->reaping || client->state == CORE_CLIENT_DEAD)) {
			at = &ss->next;
			continue;
		}
		if (client->state == CORE_CLIENT_LEAVING &&
		    !session_may_map(&s->core, ss->client)) {
			loop_del(s->loop, &ss->death);
			core_client_dead(&s->core, ss->client);
			at = &ss->next;
			continue;
		}
		*at = ss->next;
		ss->ending = false;
		if (client->state != CORE_CLIENT_FREE)
			continue;
		stats_reclaimed(s, s->now_ns - ss->left_ns);
		log_debug("client %u: pid %d has left nothing behind", ss->client, ss->pid);
		s->client_session[ss->client] = CORE_NONE;
		session_free(ss);
	}
}

/* Connections that have not said HELLO in time. */
static void session_expire(struct server *s)
{
	uint64_t next = UINT64_MAX;

	for (uint32_t i = 0; i < s->sessions_max; i++) {
		struct session *ss = &s->sessions[i];
		uint64_t until = ss->since_ns + s->cfg.attach_deadline_ns;

		if (!s->use[i].used || ss->state != SESSION_HELLO || ss->condemned)
			continue;
		if (until <= s->now_ns) {
			s->attach_timeouts++;
			session_condemn(ss, "it connected and did not say HELLO in time");
		} else if (until < next) {
			next = until;
		}
	}
	s->hello_ns = next;
}

void session_turn(struct server *s)
{
	if (s->now_ns >= s->hello_ns)
		session_expire(s);
	while (s->condemned) {
		struct session *ss = s->condemned;

		s->condemned = ss->next;
		session_end(ss);
	}
	if (s->ending)
		session_reap(s);
}

uint64_t session_next_ns(const struct server *s)
{
	return s->condemned ? s->now_ns : s->hello_ns;
}

/* The daemon ends: every socket is closed; what clients hold ends with the tables. */
void sessions_free(struct server *s)
{
	for (uint32_t i = 0; s->sessions && s->use && i < s->sessions_max; i++) {
		if (s->use[i].used)
			session_condemn(&s->sessions[i], NULL);
	}
	if (s->sessions && s->use && s->client_session)
		session_turn(s);
	for (uint32_t i = 0; s->sessions && s->use && i < s->sessions_max; i++) {
		if (s->use[i].used)
			session_free(&s->sessions[i]);
	}
	free(s->sessions);
	free(s->use);
	free(s->client_session);
	s->sessions = NULL;
	s->use = NULL;
	s->client_session = NULL;
}
