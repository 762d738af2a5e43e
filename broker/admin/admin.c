/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Connections of operators: requests in, answers out in pieces, walks in slices.
 *
 *   admin_message(): argv checked and copied -> command_run() -> answer at once, or a walk
 *   admin_turn():    a slice of each walk -> answer; readers that take nothing are dropped
 *   admin_writable():the next pieces of an answer the socket had no room for
 *
 * One command at a time a connection: a second request before the last piece of the answer is a
 * fault of the protocol. So what a connection can make the daemon hold is one request, one walk
 * and one answer, and answers are bounded by what a request can name (prefix top: 500 pages).
 *
 * A reader that takes nothing for READER_PATIENCE_NS is dropped at the next turn after that.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/admin/commands.h"
#include "broker/admin/stats.h"
#include "broker/io/fault.h"

#define READER_PATIENCE_NS (5ull * 1000 * 1000 * 1000)
#define PIECE_BYTES (KVB_MSG_BYTES_MAX - sizeof(struct kvb_msg_ctl_reply))

int admin_attach(struct session *ss)
{
	struct server *s = ss->server;
	struct admin_conn *conn = fault_calloc("admin", 1, sizeof(*conn));

	if (!conn)
		return -ENOMEM;
	conn->session = ss;
	conn->core = &s->core;
	conn->next = s->admin_first;
	s->admin_first = conn;
	ss->admin = conn;
	stats_publish(s); /* what the operator maps is of now */
	return 0;
}

static void admin_end_walk(struct admin_conn *conn)
{
	free(conn->walk.clients);
	conn->walk.clients = NULL;
	conn->walk.visit = NULL;
	conn->settled = NULL;
	cJSON_Delete(conn->later);
	conn->later = NULL;
}

void admin_detach(struct session *ss)
{
	struct admin_conn **at = &ss->server->admin_first;

	while (*at != ss->admin)
		at = &(*at)->next;
	*at = ss->admin->next;
	admin_end_walk(ss->admin);
	free(ss->admin->out);
	free(ss->admin);
	ss->admin = NULL;
}

/* Sends pieces until the answer is out or the socket is full. */
static void admin_flush(struct admin_conn *conn)
{
	struct {
		struct kvb_msg_ctl_reply reply;
		char text[PIECE_BYTES];
	} piece;
	int error;

	_Static_assert(sizeof(piece) == KVB_MSG_BYTES_MAX, "a piece fills a datagram");
	while (conn->out) {
		size_t left = conn->out_bytes - conn->out_sent;
		size_t n = left < PIECE_BYTES ? left : PIECE_BYTES;

		piece.reply = (struct kvb_msg_ctl_reply){
			.h = { .magic = KVB_MAGIC,
			       .type = KVB_MSG_CTL_REPLY,
			       .length = (uint32_t)(sizeof(piece.reply) + n) },
			.exit_code = conn->exit_code,
			.last = n == left,
		};
		memcpy(piece.text, conn->out + conn->out_sent, n);
		error = session_send(conn->session, &piece, sizeof(piece.reply) + n, NULL, 0);
		/* On -EAGAIN the session waits for room; others would leave the reader waiting. */
		if (error && error != -EAGAIN)
			session_condemn(conn->session, "an operator could not be sent the answer");
		if (error)
			return;
		conn->progress_ns = conn->session->server->now_ns;
		conn->out_sent += n;
		if (n == left) {
			free(conn->out);
			conn->out = NULL;
			conn->busy = false;
		}
	}
}

void command_answer(struct admin_conn *conn, enum admin_exit code, cJSON *answer)
{
	static const char no_memory[] =
		"{\"error\":{\"what\":\"answer\",\"why\":\"the daemon has no memory for it\"}}";

	admin_end_walk(conn);
	conn->out = answer ? cJSON_PrintUnformatted(answer) : NULL;
	cJSON_Delete(answer);
	if (!conn->out) {
		conn->out = strdup(no_memory);
		code = ADMIN_EXIT_FAILED;
	}
	if (!conn->out) {
		session_condemn(conn->session, "there is no memory for an operator's answer");
		return;
	}
	conn->out_bytes = strlen(conn->out);
	conn->out_sent = 0;
	conn->exit_code = code;
	conn->progress_ns = conn->session->server->now_ns;
	admin_flush(conn);
}

void command_walk(struct admin_conn *conn, void (*visit)(struct admin_conn *, uint32_t),
		  void (*finish)(struct admin_conn *))
{
	conn->walk.visit = visit;
	conn->walk.finish = finish;
	conn->walk.next = 0;
}

/* argv out of the datagram: argc strings, each terminated, and nothing behind the last. */
static int admin_parse(struct admin_conn *conn, const struct kvb_msg_ctl *msg, size_t bytes)
{
	size_t at = 0;

	if (msg->flags & ~KVB_CTL_DRY_RUN || msg->argc < 1 || msg->argc > ADMIN_ARGC_MAX)
		return -EPROTO;
	memcpy(conn->args, msg + 1, bytes);
	for (uint32_t i = 0; i < msg->argc; i++) {
		size_t n = strnlen(conn->args + at, bytes - at);

		if (n == bytes - at)
			return -EPROTO;
		conn->argv[i] = conn->args + at;
		at += n + 1;
	}
	if (at != bytes)
		return -EPROTO;
	conn->argc = msg->argc;
	conn->dry_run = msg->flags & KVB_CTL_DRY_RUN;
	return 0;
}

int admin_message(struct session *ss, const void *msg, size_t bytes)
{
	struct admin_conn *conn = ss->admin;

	if (bytes < sizeof(struct kvb_msg_ctl) || bytes > KVB_MSG_BYTES_MAX || conn->busy)
		return -EPROTO;
	if (admin_parse(conn, msg, bytes - sizeof(struct kvb_msg_ctl)) < 0)
		return -EPROTO;
	conn->busy = true;
	command_run(conn);
	return 0;
}

void admin_writable(struct session *ss)
{
	if (ss->admin)
		admin_flush(ss->admin);
}

static void admin_walk_slice(struct admin_conn *conn)
{
	struct admin_walk *w = &conn->walk;
	uint32_t end = conn->core->h->limits.pages;

	if (end - w->next > ADMIN_WALK_PAGES)
		end = w->next + ADMIN_WALK_PAGES;
	while (w->next < end)
		w->visit(conn, w->next++);
	if (end == conn->core->h->limits.pages)
		w->finish(conn);
}

bool admin_turn(struct server *s)
{
	bool more = false;

	gpu_turn(s);
	for (struct admin_conn *conn = s->admin_first; conn; conn = conn->next) {
		if (conn->session->condemned)
			continue;
		if (conn->walk.visit)
			admin_walk_slice(conn);
		else if (conn->settled)
			(void)conn->settled(conn);
		else if (conn->out && s->now_ns - conn->progress_ns > READER_PATIENCE_NS)
			session_condemn(conn->session, "it does not read its answer");
		more |= conn->walk.visit != NULL;
	}
	return more;
}
