/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A server for fuzz targets; see server.h.
 */

#include "tests/fuzz/server.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker/admin/admin.h"
#include "broker/io/log.h"
#include "broker/io/ring.h"

#define TURNS_MAX 100000u
#define WORK_UNITS 256u

static struct server_config config = {
	.policy = "lru",
	.engine = LOOP_EPOLL, /* a ring of the kernel's for every input would cost more than the
				 rest */
	.revoke_policy = REVOKE_EXTEND,
	.revoke_grace_ns = 1000000000,
	.attach_deadline_ns = 3600000000000,
	.drain_ns = 1000000,
	.clients_per_uid = 4,
	.admins_max = 2,
	.socket_mode = 0600,
	.limits = { .pages = 2048,
		    .leases = 128,
		    .slabs = 8,
		    .spaces = 4,
		    .clients = 4,
		    .members = 8,
		    .tenants = 4,
		    .namespaces = 4,
		    .transfers = 8 },
	.devices = 1,
	.device = { { .kind = KVB_DEVICE_HOST, .capacity_bytes = 8 << 20 } },
	.tenants = 2,
	.tenant = { { .name = "default",
		      .device = -1,
		      .high_bytes = UINT64_MAX,
		      .max_bytes = UINT64_MAX,
		      .weight = 1 },
		    { .name = "other",
		      .device = -1,
		      .min_bytes = 2 << 20,
		      .high_bytes = 4 << 20,
		      .max_bytes = 4 << 20,
		      .weight = 1 } },
};
static char folder[64], socket_path[96];
static int dead_pidfd = -1;

static void remove_folder(void)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/stats", folder);
	unlink(path);
	snprintf(path, sizeof(path), "%s/lock", folder);
	unlink(path);
	rmdir(folder);
}

/* Once a process: the folder's name, and somebody who is dead. */
static void prepare(void)
{
	pid_t child;

	log_init(LOG_LEVEL_ERROR);
	snprintf(folder, sizeof(folder), "%s/kvb-fuzz-XXXXXX",
		 access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	MUST(mkdtemp(folder));
	snprintf(socket_path, sizeof(socket_path), "%s/sock", folder);
	config.socket = socket_path;
	config.state_dir = folder;
	config.tenant[0].uid = config.tenant[1].uid = geteuid();
	child = fork();
	if (child == 0)
		_exit(0);
	MUST(child > 0);
	dead_pidfd = pidfd_open(child, 0);
	MUST(dead_pidfd >= 0 && waitpid(child, NULL, 0) == child);
}

void fuzz_server_start(struct server *s)
{
	if (dead_pidfd < 0)
		prepare();
	MUST(mkdir(folder, 0700) == 0 || errno == EEXIST);
	MUST(server_start(s, &config) == 0);
}

/* One turn as server.c has it. True: there is more to do. */
static bool turn(struct server *s)
{
	bool busy = ring_turn(s);

	busy |= admin_turn(s);
	busy |= core_work(&s->core, WORK_UNITS);
	grants_turn(s);
	session_turn(s);
	s->now_ns = server_clock_ns();
	core_set_time(&s->core, s->now_ns);
	return busy || s->core.h->clients_reaping || s->condemned;
}

/* The device worker is another thread: what it was asked for comes a little later. */
static bool worker_busy(const struct server *s)
{
	for (unsigned i = 0; i < s->core.h->limits.slabs; i++) {
		uint8_t state = s->core.slabs[i].state;

		if (state == CORE_SLAB_CREATING || state == CORE_SLAB_CLOSING)
			return true;
	}
	return false;
}

void fuzz_server_settle(struct server *s)
{
	char why[256] = "";
	unsigned quiet = 0;

	for (unsigned i = 0; quiet < 3; i++) {
		bool busy = turn(s);
		bool waits = worker_busy(s);
		int n = loop_run(s->loop, waits && !busy ? 1000000 : 0);

		MUST(n >= 0);
		MUST(i < TURNS_MAX);
		quiet = busy || waits || n > 0 ? 0 : quiet + 1;
	}
	if (core_check(&s->core, why, sizeof(why))) {
		fprintf(stderr, "core_check: %s\n", why);
		abort();
	}
}

int fuzz_server_connect(struct server *s)
{
	struct session_peer peer = { .uid = geteuid(), .gid = getegid(), .pid = getpid() };
	int fds[2];

	MUST(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) == 0);
	MUST(fcntl(fds[0], F_SETFL, O_NONBLOCK) == 0);
	peer.pidfd = fcntl(dead_pidfd, F_DUPFD_CLOEXEC, 0);
	MUST(peer.pidfd >= 0);
	MUST(session_new(s, fds[0], &peer) == 0);
	return fds[1];
}

void fuzz_server_end(struct server *s)
{
	fuzz_server_settle(s);
	MUST(s->sessions_used == 0 && s->engines == 0 && s->admins == 0 && s->parked == 0);
	for (unsigned i = 0; i < s->core.h->limits.tenants; i++) {
		const struct core_tenant *t = &s->core.tenants[i];

		MUST(!t->used || (!t->clients && !t->pages_held && !t->leases));
	}
	server_finish(s);
	remove_folder();
}

void fuzz_take(struct fuzz_input *in, void *to, size_t bytes)
{
	size_t n = bytes < in->left ? bytes : in->left;

	memset(to, 0, bytes);
	memcpy(to, in->at, n);
	in->at += n;
	in->left -= n;
}

uint8_t fuzz_take_byte(struct fuzz_input *in)
{
	uint8_t byte;

	fuzz_take(in, &byte, 1);
	return byte;
}
