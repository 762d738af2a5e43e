/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Messages from peers: received, checked, answered.
 *
 * A table says for each type its size, and in which state of the session it may come; what is not
 * in the table is refused, so a new type is safe by omission. No message brings fds: the kernel may
 * hand us some all the same, and then they are closed and the session ends.
 *
 * A message is received into private memory once; nothing of it is read twice from anywhere a peer
 * can write. Faults of the protocol end the session, after an error reply where the peer can be
 * expected to read one; errors of a request (no such tenant, tables full) are replies only.
 */

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "broker/admin/admin.h"
#include "broker/admin/stats.h"
#include "broker/io/fault.h"
#include "broker/io/log.h"
#include "broker/io/ring.h"
#include "cuda_driver/gpu.h"

#define MESSAGE_BATCH 8 /* of one session a turn */
#define MESSAGE_FDS_MAX                                                                            \
	253 /* SCM_MAX_FD: room for all, so that none is lost without being closed */

#define DEFAULT_SQ_ENTRIES 256u
#define DEFAULT_OPERAND_BYTES (256u << 10)

union message {
	struct kvb_msg_header h;
	struct kvb_msg_hello hello;
	struct kvb_msg_space_open space_open;
	struct kvb_msg_space_close space_close;
	struct kvb_msg_grant_ack grant_ack;
	struct kvb_msg_ctl ctl;
	char bytes[KVB_MSG_BYTES_MAX];
};

/* Sends the answer to a request. A peer that cannot be answered would wait for ever: it ends. */
static int message_answer(struct session *ss, const void *msg, size_t bytes, const int *fds,
			  unsigned nfds)
{
	int error = session_send(ss, msg, bytes, fds, nfds);

	if (error)
		session_condemn(ss, "it could not be sent its answer");
	return 0;
}

/* ---- HELLO --------------------------------------------------------------------------------- */

static bool power_of_two(uint32_t n)
{
	return n && !(n & (n - 1));
}

/* Names go to logs, JSON and terminals: printable, terminated, and zeros behind. */
static bool name_valid(const char name[KVB_NAME_BYTES])
{
	size_t n = strnlen(name, KVB_NAME_BYTES);

	for (size_t i = 0; i < KVB_NAME_BYTES; i++) {
		if (i < n ? name[i] < ' ' || name[i] > '~' : name[i] != '\0')
			return false;
	}
	return n < KVB_NAME_BYTES;
}

static int hello_geometry(const struct kvb_msg_hello *msg, struct ring_geometry *ret)
{
	uint32_t sq = msg->sq_entries ? msg->sq_entries : DEFAULT_SQ_ENTRIES;
	uint32_t cq, operands;

	if (!power_of_two(sq) || sq < KVB_SQ_ENTRIES_MIN || sq > KVB_SQ_ENTRIES_MAX)
		return -EINVAL;
	cq = msg->cq_entries ? msg->cq_entries : 2 * sq;
	if (!power_of_two(cq) || cq < sq || cq > 2 * KVB_SQ_ENTRIES_MAX)
		return -EINVAL;
	operands = msg->operand_bytes ? msg->operand_bytes : DEFAULT_OPERAND_BYTES;
	if (operands % 4096 || operands < KVB_OPERAND_BYTES_MIN || operands > KVB_OPERAND_BYTES_MAX)
		return -EINVAL;
	*ret = (struct ring_geometry){ .sq_entries = sq,
				       .cq_entries = cq,
				       .operand_bytes = operands };
	return 0;
}

static int hello_check(const struct kvb_msg_hello *msg)
{
	for (unsigned i = 0; i < sizeof(msg->resv) / sizeof(msg->resv[0]); i++) {
		if (msg->resv[i])
			return -EINVAL;
	}
	if (!name_valid(msg->tenant) || !name_valid(msg->name))
		return -EINVAL;
	return msg->role == KVB_ROLE_ENGINE || msg->role == KVB_ROLE_ADMIN ? 0 : -EINVAL;
}

/* The process's own name; "?" when it is not to be read. */
static void hello_process_name(int32_t pid, char ret[KVB_NAME_BYTES])
{
	char path[48];
	FILE *file;
	size_t n = 0;

	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	file = fopen(path, "re");
	if (file) {
		n = fread(ret, 1, KVB_NAME_BYTES - 1, file);
		fclose(file);
	}
	while (n && ret[n - 1] == '\n')
		n--;
	memset(ret + n, 0, KVB_NAME_BYTES - n);
	if (!n || !name_valid(ret))
		snprintf(ret, KVB_NAME_BYTES, "?");
}

/* The tenant's index, or the error after having told the peer. */
static int hello_tenant(struct session *ss, const struct kvb_msg_hello *msg)
{
	const struct core *core = &ss->server->core;
	const char *name = msg->tenant[0] ? msg->tenant : "default";
	int tenant = core_tenant_find(core, name);

	if (tenant < 0) {
		session_send_error(ss, -ENOENT,
				   "tenant %s: there is none of that name (see broker-ctl tenant "
				   "list)",
				   name);
		return -ENOENT;
	}
	if (core->tenants[tenant].uid != ss->uid) {
		session_send_error(ss, -EACCES,
				   "tenant %s: it belongs to uid %u, and you are uid %u", name,
				   core->tenants[tenant].uid, ss->uid);
		return -EACCES;
	}
	if (session_count(ss->server, ss->uid, true) >= ss->server->cfg.clients_per_uid) {
		session_send_error(ss, -EUSERS,
				   "uid %u has %u clients, its limit (close some, or start the "
				   "daemon with a larger --clients-per-uid)",
				   ss->uid, ss->server->cfg.clients_per_uid);
		return -EUSERS;
	}
	return tenant;
}

static int hello_reply(struct session *ss, const struct kvb_msg_hello *msg)
{
	const struct server *s = ss->server;
	const struct ring *r = ss->ring;
	const int fds[] = { r->sub.fd, r->ctl.fd, r->fence.fd, r->doorbell_fd };
	struct kvb_msg_hello_reply reply = {
		.h = { .magic = KVB_MAGIC,
		       .type = KVB_MSG_HELLO_REPLY,
		       .nfds = 4,
		       .length = sizeof(reply) },
		.version = KVB_ABI_VERSION,
		.client = ss->client,
		.features =
			msg->features &
			(s->tiers || s->store ? KVB_FEAT_ALL : KVB_FEAT_ALL & ~KVB_FEAT_LOWER_TIER),
		.boot_id = s->boot_id,
		.leases_max = s->core.clients[ss->client].leases_max,
	};

	ring_describe(r, &reply);
	return message_answer(ss, &reply, sizeof(reply), fds, 4);
}

/* Fills no right before the uid, the tenant and the quota are checked. */
static int hello_engine(struct session *ss, const struct kvb_msg_hello *msg)
{
	struct server *s = ss->server;
	char name[KVB_NAME_BYTES];
	struct ring_geometry geo;
	int tenant, client, error;

	if (hello_geometry(msg, &geo)) {
		session_send_error(
			ss, -EINVAL,
			"rings: %u SQEs, %u CQEs, %u operand bytes (powers of two, %u to "
			"%u SQEs, no fewer CQEs; operand bytes a multiple of 4096 up to %u)",
			msg->sq_entries, msg->cq_entries, msg->operand_bytes, KVB_SQ_ENTRIES_MIN,
			KVB_SQ_ENTRIES_MAX, KVB_OPERAND_BYTES_MAX);
		return -ECONNREFUSED;
	}
	tenant = hello_tenant(ss, msg);
	if (tenant < 0)
		return -ECONNREFUSED;
	if (msg->name[0])
		memcpy(name, msg->name, sizeof(name));
	else
		hello_process_name(ss->pid, name);
	client = core_client_open(&s->core, (unsigned)tenant, ss->uid, ss->pid, name);
	if (client < 0) {
		session_send_error(ss, client,
				   "the daemon has no room for a client more (start it with a "
				   "larger --max-clients)");
		return -ECONNREFUSED;
	}
	error = session_attach(ss, (unsigned)client, &geo);
	if (error) {
		core_client_close(&s->core, (unsigned)client);
		if (s->core.clients[client].state != CORE_CLIENT_FREE)
			core_client_dead(&s->core, (unsigned)client);
		session_send_error(ss, error,
				   "no rings for this client: %s (see the daemon's "
				   "limits of files and memory)",
				   strerror(-error));
		return -ECONNREFUSED;
	}
	log_debug("client %u: pid %d uid %u %s, tenant %s", ss->client, ss->pid, ss->uid, name,
		  s->core.tenants[tenant].name);
	return hello_reply(ss, msg);
}

static int hello_admin(struct session *ss, const struct kvb_msg_hello *msg)
{
	struct server *s = ss->server;
	struct kvb_msg_hello_reply reply = {
		.h = { .magic = KVB_MAGIC,
		       .type = KVB_MSG_HELLO_REPLY,
		       .nfds = 1,
		       .length = sizeof(reply) },
		.version = KVB_ABI_VERSION,
		.client = CORE_NONE,
		.boot_id = s->boot_id,
	};
	int fd, error;

	if (s->admins >= session_places(ss->uid, s->cfg.admins_max)) {
		session_send_error(ss, -EUSERS, "%u operators are connected, as many as may be",
				   s->admins);
		return -ECONNREFUSED;
	}
	error = admin_attach(ss);
	fd = error ? error : stats_reader_fd(s);
	if (error == 0) {
		ss->state = SESSION_ADMIN;
		s->admins++;
	}
	if (fd < 0) {
		session_send_error(ss, fd, "no operator's connection: %s", strerror(-fd));
		return -ECONNREFUSED;
	}
	(void)message_answer(ss, &reply, sizeof(reply), &fd, 1);
	close(fd);
	return 0;
}

static int message_hello(struct session *ss, const union message *m, size_t bytes)
{
	const struct kvb_msg_hello *msg = &m->hello;

	if (msg->version_min > msg->version_max || msg->version_min > KVB_ABI_VERSION ||
	    msg->version_max < KVB_ABI_VERSION) {
		session_send_error(ss, -EPROTONOSUPPORT,
				   "this daemon speaks version %u of the protocol, you speak %u to "
				   "%u (upgrade the older side)",
				   KVB_ABI_VERSION, msg->version_min, msg->version_max);
		ss->server->protocol_errors++;
		return -ECONNREFUSED;
	}
	if (hello_check(msg))
		return -EINVAL;
	if (msg->role == KVB_ROLE_ADMIN)
		return hello_admin(ss, msg);
	if (ss->server->draining) {
		session_send_error(ss, -ESHUTDOWN,
				   "the daemon is going down (connect again later)");
		return -ECONNREFUSED;
	}
	return hello_engine(ss, msg);
}

/* ---- the others ---------------------------------------------------------------------------- */

static int space_reply(struct session *ss, uint32_t handle)
{
	struct core *core = &ss->server->core;
	const struct core_member *member = core_member_get(core, ss->client, handle);
	const struct core_space *space = &core->spaces[member->space];
	struct kvb_msg_space_reply reply = {
		.h = { .magic = KVB_MAGIC, .type = KVB_MSG_SPACE_REPLY, .length = sizeof(reply) },
		.space = handle,
		.pages_per_slab = space->pages_per_slab,
		.handles_per_region = space->handles_per_region,
		.slots = space->slots,
		.handle_bytes = space->handle_bytes,
		.region_bytes = space->slots * space->handles_per_region * space->handle_bytes,
		.tiers = 1u << KVB_TIER_DEVICE,
	};
	struct gpu_device *device = ss->server->device[space->device];
	struct gpu_info info;

	if (space->below != CORE_NONE16)
		reply.tiers |= 1u << KVB_TIER_HOST;
	if (core_space_has_store(core, member->space))
		reply.tiers |= 1u << KVB_TIER_STORE;
	device->ops->info(device, &info);
	memcpy(reply.device_uuid, info.uuid, sizeof(reply.device_uuid));
	return message_answer(ss, &reply, sizeof(reply), NULL, 0);
}

static int message_space_open(struct session *ss, const union message *m, size_t bytes)
{
	const struct kvb_msg_space_open *msg = &m->space_open;
	const struct core_space_spec spec = {
		.kind = msg->device_kind,
		.ordinal = msg->device_ordinal,
		.regions = msg->regions,
		.ranks = msg->ranks,
		.rank = msg->rank,
		.stride_bytes = msg->stride_bytes,
		.tag = msg->tag,
		.group = msg->group,
	};
	uint64_t resv = msg->resv0;
	int handle, error;

	for (unsigned i = 0; i < sizeof(msg->resv) / sizeof(msg->resv[0]); i++)
		resv |= msg->resv[i];
	if (resv)
		return -EINVAL;
	handle = core_space_open(&ss->server->core, ss->client, &spec);
	if (handle >= 0)
		return space_reply(ss, (uint32_t)handle);
	switch (handle) {
	case -ENODEV:
		error = session_send_error(
			ss, handle,
			"device %s:%u: the daemon does not serve it (see broker-ctl "
			"gpu list)",
			msg->device_kind == KVB_DEVICE_HOST ? "host" : "cuda", msg->device_ordinal);
		break;
	case -EINVAL:
		error = session_send_error(
			ss, handle,
			"geometry: %u regions, stride %llu (1 to %u regions; the "
			"stride a multiple of 64; a slab must fit the device)",
			msg->regions, (unsigned long long)msg->stride_bytes, KVB_REGIONS_MAX);
		break;
	default:
		error = session_send_error(ss, handle,
					   "space: %s (the daemon's tables, or this "
					   "client's %u spaces, are full)",
					   strerror(-handle), KVB_SPACES_MAX);
	}
	if (error)
		session_condemn(ss, "it could not be sent its answer");
	return 0;
}

static int message_space_close(struct session *ss, const union message *m, size_t bytes)
{
	const struct kvb_msg_space_close *msg = &m->space_close;
	struct kvb_msg_space_reply reply = {
		.h = { .magic = KVB_MAGIC, .type = KVB_MSG_SPACE_REPLY, .length = sizeof(reply) },
		.space = msg->space,
	};
	int error;

	if (msg->resv)
		return -EINVAL;
	error = core_space_close(&ss->server->core, ss->client, msg->space);
	if (error == 0) {
		grants_space_closed(ss, msg->space);
		ring_space_closed(ss->ring, msg->space);
		return message_answer(ss, &reply, sizeof(reply), NULL, 0);
	}
	if (session_send_error(ss, error, "space %u stays open: %s", msg->space,
			       error == -EBUSY ? "free and release what you hold there first"
					       : strerror(-error)))
		session_condemn(ss, "it could not be sent its answer");
	return 0;
}

static int message_grant_ack(struct session *ss, const union message *m, size_t bytes)
{
	return m->grant_ack.resv ? -EINVAL : grants_ack(ss, &m->grant_ack);
}

/* The peer has unmapped everything: its end needs no death to be complete. */
static int message_bye(struct session *ss, const union message *m, size_t bytes)
{
	ss->said_bye = true;
	session_condemn(ss, NULL);
	return 0;
}

static int message_ctl(struct session *ss, const union message *m, size_t bytes)
{
	return admin_message(ss, m, bytes);
}

/* ---- receiving ----------------------------------------------------------------------------- */

struct message_type {
	int (*handle)(struct session *ss, const union message *m, size_t bytes);
	size_t bytes; /* exact, or the least where `tail` */
	bool tail;
	uint8_t state; /* in which it may come */
};

static const struct message_type message_types[] = {
	[KVB_MSG_HELLO] = { message_hello, sizeof(struct kvb_msg_hello), false, SESSION_HELLO },
	[KVB_MSG_SPACE_OPEN] = { message_space_open, sizeof(struct kvb_msg_space_open), false,
				 SESSION_ENGINE },
	[KVB_MSG_SPACE_CLOSE] = { message_space_close, sizeof(struct kvb_msg_space_close), false,
				  SESSION_ENGINE },
	[KVB_MSG_GRANT_ACK] = { message_grant_ack, sizeof(struct kvb_msg_grant_ack), false,
				SESSION_ENGINE },
	[KVB_MSG_BYE] = { message_bye, sizeof(struct kvb_msg_header), false, SESSION_ENGINE },
	[KVB_MSG_CTL] = { message_ctl, sizeof(struct kvb_msg_ctl), true, SESSION_ADMIN },
};

static int message_dispatch(struct session *ss, const union message *m, size_t bytes)
{
	const size_t types = sizeof(message_types) / sizeof(message_types[0]);
	const struct message_type *type;

	if (bytes < sizeof(m->h) || m->h.magic != KVB_MAGIC || m->h.length != bytes || m->h.nfds)
		return -EPROTO;
	if (m->h.resv || m->h.type >= types || !message_types[m->h.type].handle)
		return -EINVAL;
	type = &message_types[m->h.type];
	if (type->tail ? bytes < type->bytes : bytes != type->bytes)
		return -EPROTO;
	if (type->state != ss->state)
		return -EINVAL;
	return type->handle(ss, m, bytes);
}

/* Closes what came along. True: something did. */
static bool message_close_fds(struct msghdr *m)
{
	bool any = false;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
		size_t n;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(fd), sizeof(fd));
			close(fd);
			any = true;
		}
	}
	return any;
}

/* Ends a session for a fault of the protocol, after telling the peer. */
static void message_fault(struct session *ss, int error, const char *what)
{
	char why[96];

	if (ss->condemned)
		return;
	snprintf(why, sizeof(why), "%s: %s", what, strerror(-error));
	session_send_error(ss, error, "%s", why);
	session_break(ss, -error, why);
}

/* One datagram. 0: there may be more; else the session has none, or has ended. */
static int message_receive(struct session *ss, union message *m)
{
	union {
		struct cmsghdr align;
		char room[CMSG_SPACE(MESSAGE_FDS_MAX * sizeof(int))];
	} control;
	struct iovec iov = { .iov_base = m, .iov_len = sizeof(*m) };
	struct msghdr msg = { .msg_iov = &iov,
			      .msg_iovlen = 1,
			      .msg_control = &control,
			      .msg_controllen = sizeof(control) };
	ssize_t n = fault_fails("receive") ? -1
					   : recvmsg(ss->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	int error;

	if (n < 0) {
		if (errno == EAGAIN || errno == EINTR)
			return -errno;
		/* Reset: it closed without reading what we sent, as one does. */
		session_condemn(ss, errno == ECONNRESET ? NULL : strerror(errno));
		return -EPIPE;
	}
	if (message_close_fds(&msg) || (msg.msg_flags & MSG_CTRUNC)) {
		message_fault(ss, -EPROTO, "the message brought file descriptors");
		return -EPROTO;
	}
	if (n == 0) {
		session_condemn(ss, NULL);
		return -EPIPE;
	}
	if (msg.msg_flags & MSG_TRUNC) {
		message_fault(ss, -EMSGSIZE, "the message is too long");
		return -EMSGSIZE;
	}
	error = message_dispatch(ss, m, (size_t)n);
	/* Refused with a reply of its own: ends without being a fault of the protocol. */
	if (error == -ECONNREFUSED)
		session_condemn(ss, NULL);
	else if (error)
		message_fault(ss, error, "the message is not valid");
	return ss->condemned ? -EPIPE : 0;
}

void session_receive(struct session *ss)
{
	union message m;

	for (int i = 0; i < MESSAGE_BATCH; i++) {
		if (message_receive(ss, &m))
			return;
	}
}
