/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The broker that is measured, and processes that are its clients.
 *
 * A private broker is a child: found as $KVBROKERD, beside this program, in the build tree, or in
 * PATH; its socket, state and log lie in the temporary directory of this run. It dies with us, and
 * what it leaves is removed by the supervisor (main.c).
 *
 * Figures of the daemon come from its stats segment, whose fd an admin is given, and from the
 * process file system, which tells fds and mappings without believing the daemon.
 */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker/admin/stats_read.h"
#include "tools/kvb-bench/bench.h"

#define START_NS (20ull * 1000 * 1000 * 1000)
#define ARGS_MAX 32u

/* ---- attaching as an admin ----------------------------------------------------------------- */

/* The one fd of a reply, or -1. Any other number of fds is the end of this run. */
static int reply_fd(struct msghdr *mh)
{
	struct cmsghdr *cm = CMSG_FIRSTHDR(mh);
	int fd;

	if (cm == NULL || cm->cmsg_level != SOL_SOCKET || cm->cmsg_type != SCM_RIGHTS ||
	    cm->cmsg_len != CMSG_LEN(sizeof(int)))
		return -1;
	memcpy(&fd, CMSG_DATA(cm), sizeof(fd));
	return fd;
}

static int hello(int sock)
{
	struct kvb_msg_hello msg = {
		.h = { .magic = KVB_MAGIC, .type = KVB_MSG_HELLO, .length = sizeof(msg) },
		.version_min = KVB_ABI_VERSION,
		.version_max = KVB_ABI_VERSION,
		.role = KVB_ROLE_ADMIN,
		.name = "kvb-bench",
	};
	union {
		struct kvb_msg_header h;
		struct kvb_msg_error error;
		char bytes[KVB_MSG_BYTES_MAX];
	} reply;
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(4 * sizeof(int))];
	} control;
	struct iovec iov = { .iov_base = &reply, .iov_len = sizeof(reply) };
	struct msghdr mh = { .msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = &control,
			     .msg_controllen = sizeof(control) };
	ssize_t n;

	if (send(sock, &msg, sizeof(msg), MSG_NOSIGNAL) != (ssize_t)sizeof(msg))
		return -1;
	n = recvmsg(sock, &mh, MSG_CMSG_CLOEXEC);
	if (n < (ssize_t)sizeof(reply.h))
		return -1;
	if (reply.h.type == KVB_MSG_ERROR && n >= (ssize_t)sizeof(reply.error))
		bench_die("the broker refuses to be read: %.*s", (int)sizeof(reply.error.text),
			  reply.error.text);
	return reply.h.type == KVB_MSG_HELLO_REPLY ? reply_fd(&mh) : -1;
}

/* Publishes the stats and maps them the first time. False: nobody answers. */
static bool attach(struct broker *b)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct ucred cred;
	socklen_t bytes = sizeof(cred);
	uint32_t version;
	int fd, sock, r;

	sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (sock < 0)
		bench_die("socket: %s", strerror(errno));
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", b->socket);
	if (connect(sock, (struct sockaddr *)&addr, sizeof(addr)) < 0 || (fd = hello(sock)) < 0) {
		close(sock);
		return false;
	}
	if (b->stats == NULL) {
		r = stats_read_map(fd, &b->stats, &version);
		if (r < 0)
			bench_die("cannot read the broker's stats (version %u): %s", version,
				  strerror(-r));
		if (!b->own && getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &cred, &bytes) == 0)
			b->pid = cred.pid;
	}
	close(fd);
	close(sock);
	return true;
}

const struct stats_segment *broker_stats_seen(struct broker *b)
{
	int r;

	if (b->copy == NULL)
		b->copy = malloc(sizeof(*b->copy));
	if (b->copy == NULL)
		bench_die("out of memory");
	r = stats_read_copy(b->stats, b->copy);
	if (r < 0)
		bench_die("cannot read the broker's stats: %s", strerror(-r));
	return b->copy;
}

const struct stats_segment *broker_stats(struct broker *b)
{
	if (!attach(b))
		bench_die("the broker at %s does not answer", b->socket);
	return broker_stats_seen(b);
}

/* ---- starting and stopping ----------------------------------------------------------------- */

/* $KVBROKERD, or beside this program, or in the build tree, or a name for execvp() to look up. */
static const char *find_program(char path[PATH_MAX])
{
	static const char *const places[] = { "/kvbrokerd", "/../../broker/kvbrokerd" };
	const char *env = getenv("KVBROKERD");
	ssize_t n;
	char *slash;

	if (env != NULL && *env != '\0')
		return env;
	n = readlink("/proc/self/exe", path, PATH_MAX - 64);
	if (n > 0) {
		path[n] = '\0';
		slash = strrchr(path, '/');
		for (unsigned i = 0; slash != NULL && i < 2; i++) {
			strcpy(slash, places[i]);
			if (access(path, X_OK) == 0)
				return path;
		}
	}
	return "kvbrokerd";
}

static void show_log(const char *log)
{
	char line[512];
	FILE *f = fopen(log, "r");

	if (f == NULL)
		return;
	while (fgets(line, sizeof(line), f) != NULL)
		fprintf(stderr, "kvbrokerd: %s", line);
	fclose(f);
}

static void run_program(const struct broker *b, const char *dir, const char *log, int cpu,
			const char *const *args)
{
	char program[PATH_MAX], state[PATH_MAX];
	const char *argv[ARGS_MAX];
	unsigned n = 0;
	int fd;

	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (cpu >= 0)
		cpu_pin(cpu);
	fd = open(log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || dup2(fd, STDOUT_FILENO) < 0 || dup2(fd, STDERR_FILENO) < 0)
		bench_die("%s: %s", log, strerror(errno));
	snprintf(state, sizeof(state), "%s/state", dir);
	argv[n++] = find_program(program);
	argv[n++] = "--socket";
	argv[n++] = b->socket;
	argv[n++] = "--state-dir";
	argv[n++] = state;
	argv[n++] = "--foreground";
	while (*args != NULL && n < ARGS_MAX - 1)
		argv[n++] = *args++;
	argv[n] = NULL;
	execvp(argv[0], (char *const *)(uintptr_t)argv);
	bench_die("cannot start %s: %s (set $KVBROKERD)", argv[0], strerror(errno));
}

void broker_start(const struct bench_options *o, int cpu, const char *const *args,
		  struct broker *ret)
{
	uint64_t until_ns = clock_now_ns() + START_NS;
	char path[PATH_MAX];

	*ret = (struct broker){ .own = o->socket == NULL };
	if (o->socket != NULL) {
		snprintf(ret->socket, sizeof(ret->socket), "%s", o->socket);
		if (!attach(ret))
			bench_die("no broker answers at %s", o->socket);
		return;
	}
	snprintf(ret->socket, sizeof(ret->socket), "%s/broker.sock", o->dir);
	snprintf(path, sizeof(path), "%s/state", o->dir);
	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		bench_die("%s: %s", path, strerror(errno));
	snprintf(path, sizeof(path), "%s/broker.log", o->dir);
	ret->pid = fork();
	if (ret->pid < 0)
		bench_die("fork: %s", strerror(errno));
	if (ret->pid == 0)
		run_program(ret, o->dir, path, cpu, args);
	while (!attach(ret)) {
		if (waitpid(ret->pid, NULL, WNOHANG) == ret->pid) {
			show_log(path);
			bench_die("the private broker ended at start");
		}
		if (clock_now_ns() > until_ns) {
			show_log(path);
			bench_die("the private broker does not answer");
		}
		clock_sleep_ns(5 * 1000 * 1000);
	}
}

void broker_stop(struct broker *b)
{
	stats_read_unmap(b->stats);
	free(b->copy);
	if (b->own) {
		kill(b->pid, SIGTERM);
		waitpid(b->pid, NULL, 0);
	}
	*b = (struct broker){ 0 };
}

/* ---- what the process file system says ----------------------------------------------------- */

/* Counts the daemon's fds; *ret_largest_bytes (may be NULL) is the size of its largest memfd. */
static unsigned scan_fds(const struct broker *b, uint64_t *ret_largest_bytes)
{
	char path[64], target[64];
	struct dirent *entry;
	unsigned n = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)b->pid);
	dir = opendir(path);
	if (dir == NULL)
		bench_die("cannot count the broker's fds, %s: %s (run as its user)", path,
			  strerror(errno));
	while ((entry = readdir(dir)) != NULL) {
		struct stat st;
		ssize_t bytes;

		if (entry->d_name[0] == '.')
			continue;
		n++;
		if (ret_largest_bytes == NULL)
			continue;
		bytes = readlinkat(dirfd(dir), entry->d_name, target, sizeof(target));
		if (bytes >= 7 && memcmp(target, "/memfd:", 7) == 0 &&
		    fstatat(dirfd(dir), entry->d_name, &st, 0) == 0 &&
		    (uint64_t)st.st_size > *ret_largest_bytes)
			*ret_largest_bytes = (uint64_t)st.st_size;
	}
	closedir(dir);
	return n;
}

unsigned broker_fds(const struct broker *b)
{
	return scan_fds(b, NULL);
}

uint64_t broker_memfd_largest_bytes(const struct broker *b)
{
	uint64_t bytes = 0;

	scan_fds(b, &bytes);
	return bytes;
}

uint64_t broker_memfd_mapped_bytes(const struct broker *b)
{
	unsigned long long first, end;
	char line[512];
	uint64_t sum = 0;
	FILE *f;

	snprintf(line, sizeof(line), "/proc/%d/maps", (int)b->pid);
	f = fopen(line, "r");
	if (f == NULL)
		bench_die("cannot read the broker's mappings: %s (run as its user)",
			  strerror(errno));
	while (fgets(line, sizeof(line), f) != NULL)
		if (strstr(line, " /memfd:") != NULL &&
		    sscanf(line, "%llx-%llx", &first, &end) == 2)
			sum += end - first;
	fclose(f);
	return sum;
}

/* ---- clients ------------------------------------------------------------------------------- */

struct kvb *client_connect(const struct broker *b, const struct kvb_params *params)
{
	struct kvb_params p = params != NULL ? *params : (struct kvb_params){ 0 };
	char text[256] = "";
	struct kvb *kvb;
	int r;

	p.socket = b->socket;
	if (p.name == NULL)
		p.name = "kvb-bench";
	r = kvb_connect(&p, &kvb, text);
	if (r < 0)
		bench_die("cannot connect to %s: %s (%s)", b->socket, text, strerror(-r));
	return kvb;
}

static void held_run(const struct broker *b, int ready_fd, int hold_fd)
{
	struct kvb *kvb;
	char byte = 0;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	kvb = client_connect(b, NULL);
	if (write(ready_fd, &byte, 1) == 1)
		while (read(hold_fd, &byte, 1) < 0 && errno == EINTR)
			;
	kvb_disconnect(kvb);
	_exit(0);
}

void held_start(const struct broker *b, uint32_t n, struct held *ret)
{
	int ready[2], hold[2];
	char byte;

	*ret = (struct held){ .pid = calloc(n, sizeof(pid_t)), .n = n };
	if (ret->pid == NULL || pipe(ready) < 0 || pipe(hold) < 0)
		bench_die("cannot start clients: %s", strerror(errno));
	for (uint32_t i = 0; i < n; i++) {
		ret->pid[i] = fork();
		if (ret->pid[i] < 0)
			bench_die("cannot start client %u: %s", i, strerror(errno));
		if (ret->pid[i] == 0) {
			close(ready[0]);
			close(hold[1]);
			held_run(b, ready[1], hold[0]);
		}
	}
	close(ready[1]);
	close(hold[0]);
	for (uint32_t i = 0; i < n; i++)
		if (read(ready[0], &byte, 1) != 1)
			bench_die("only %u of %u clients could attach", i, n);
	close(ready[0]);
	ret->hold_fd = hold[1];
}

void held_release(struct held *h)
{
	close(h->hold_fd);
	for (uint32_t i = 0; i < h->n; i++)
		waitpid(h->pid[i], NULL, 0);
	free(h->pid);
	*h = (struct held){ 0 };
}
