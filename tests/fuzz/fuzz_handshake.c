/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Any datagrams on a connection: messages of every type, well framed or not, with fds or without,
 * in any order, from up to two peers at once.
 *
 * An input is a run of records. A record's first byte says which peer and what it sends: raw bytes
 * as they are, or a message of a type with a correct header over a body from the input, or a sane
 * message with a few fields overwritten, or a hang-up. After each record the server runs dry, what
 * it answered is read (fds are closed), and the tables must be whole.
 */

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/fuzz/server.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

#define PEERS 2u
#define RECORDS_MAX 24u
#define SENT_MAX 1024u

struct world {
	struct server s;
	struct fuzz_input in;
	int fd[PEERS];
	uint64_t seq; /* of the last grant */
};

static void drain(struct world *w, unsigned peer)
{
	union {
		struct kvb_msg_grant grant;
		char bytes[KVB_MSG_BYTES_MAX];
	} m;
	int fds[KVB_GRANT_FDS_MAX];
	struct peer p;
	unsigned n;
	int got;

	peer_adopt(&p, w->fd[peer]);
	for (;;) {
		char first;

		if (recv(p.fd, &first, 1, MSG_DONTWAIT | MSG_PEEK) <= 0)
			return;
		got = peer_receive(&p, &m, fds, &n);
		if (got <= 0)
			return;
		MUST((size_t)got >= sizeof(m.grant.h) && m.grant.h.magic == KVB_MAGIC);
		MUST(m.grant.h.length == (uint32_t)got && m.grant.h.nfds == n);
		if (m.grant.h.type == KVB_MSG_GRANT)
			w->seq = m.grant.seq;
		for (unsigned i = 0; i < n; i++)
			close(fds[i]);
	}
}

static void send_with_fds(int to, const void *msg, size_t bytes, unsigned nfds)
{
	union {
		char room[CMSG_SPACE(16 * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov = { (void *)(uintptr_t)msg, bytes };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (nfds) {
		struct cmsghdr *c;

		memset(&control, 0, sizeof(control));
		m.msg_control = control.room;
		m.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
		c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(nfds * sizeof(int));
		for (unsigned i = 0; i < nfds; i++)
			memcpy(CMSG_DATA(c) + i * sizeof(int), &to, sizeof(int));
	}
	(void)sendmsg(to, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
}

union sent {
	struct kvb_msg_header h;
	struct kvb_msg_hello hello;
	struct kvb_msg_space_open open;
	struct kvb_msg_space_close close;
	struct kvb_msg_grant_ack ack;
	uint8_t bytes[SENT_MAX];
};

/* A sane message of a type, for the input to spoil. Its size. */
static size_t sane(const struct world *w, uint8_t type, union sent *m)
{
	size_t bytes = sizeof(m->h);

	memset(m, 0, sizeof(*m));
	switch (type) {
	case KVB_MSG_HELLO:
		m->hello.version_min = m->hello.version_max = KVB_ABI_VERSION;
		m->hello.role = KVB_ROLE_ENGINE;
		m->hello.sq_entries = 4;
		m->hello.operand_bytes = 4096;
		bytes = sizeof(m->hello);
		break;
	case KVB_MSG_SPACE_OPEN:
		m->open.device_kind = KVB_DEVICE_HOST;
		m->open.regions = 1;
		m->open.stride_bytes = 65536;
		bytes = sizeof(m->open);
		break;
	case KVB_MSG_SPACE_CLOSE:
		bytes = sizeof(m->close);
		break;
	case KVB_MSG_GRANT_ACK:
		m->ack.seq = w->seq;
		bytes = sizeof(m->ack);
		break;
	default:
		break;
	}
	m->h = (struct kvb_msg_header){ .magic = KVB_MAGIC,
					.type = type,
					.length = (uint32_t)bytes };
	return bytes;
}

static void record(struct world *w)
{
	union sent m;
	uint8_t what = fuzz_take_byte(&w->in), arg = fuzz_take_byte(&w->in);
	unsigned peer = what & 1;
	unsigned nfds = what & 0x80 ? 1 + arg % 16 : 0;
	size_t bytes = 0;

	if (w->fd[peer] < 0)
		w->fd[peer] = fuzz_server_connect(&w->s);
	switch (what >> 1 & 3) {
	case 0: /* raw */
		bytes = arg * 4u;
		fuzz_take(&w->in, m.bytes, bytes);
		break;
	case 1: /* framed */
		(void)sane(w, arg, &m);
		bytes = sizeof(m.h) + fuzz_take_byte(&w->in);
		fuzz_take(&w->in, m.bytes + sizeof(m.h), bytes - sizeof(m.h));
		m.h.length = (uint32_t)bytes;
		break;
	case 2: /* sane, spoiled in up to three words */
		bytes = sane(w, arg & 15, &m);
		for (unsigned i = 0; i < (arg >> 4 & 3); i++) {
			size_t at = fuzz_take_byte(&w->in) % (bytes / 4) * 4;

			fuzz_take(&w->in, m.bytes + at, 4);
		}
		break;
	default: /* hang up, or one direction of it */
		if (arg & 1) {
			shutdown(w->fd[peer], SHUT_WR);
		} else {
			close(w->fd[peer]);
			w->fd[peer] = -1;
		}
		fuzz_server_settle(&w->s);
		return;
	}
	send_with_fds(w->fd[peer], m.bytes, bytes, nfds);
	fuzz_server_settle(&w->s);
	drain(w, peer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	static struct world w;

	w = (struct world){ .in = { data, bytes }, .fd = { -1, -1 } };
	fuzz_server_start(&w.s);
	for (unsigned i = 0; i < RECORDS_MAX && w.in.left; i++)
		record(&w);
	for (unsigned i = 0; i < PEERS; i++) {
		if (w.fd[i] >= 0)
			close(w.fd[i]);
	}
	fuzz_server_end(&w.s);
	return 0;
}
