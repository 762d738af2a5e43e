/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The listening socket: its path, who may connect, how many.
 *
 * The path is the operator's and nothing there is followed or replaced but a socket that nobody
 * listens on any more. accept() that fails for want of fds or memory pauses the listener: it is
 * level-triggered, and would otherwise spin until a client leaves.
 *
 * A peer is what the kernel recorded when it connected (SO_PEERCRED), also when the socket has been
 * passed on since. Its pidfd comes from the socket where the kernel can (6.5); before that it is
 * opened by number, and the number may have been given to somebody else if the peer died at once:
 * a process that was born after the connection was seen, or whose socket has hung up, is refused.
 */

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "broker/io/fault.h"
#include "broker/io/log.h"
#include "broker/io/server.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

#define LISTENER_PAUSE_NS 100000000ull
#define LISTENER_BATCH 16
#define LISTENER_BACKLOG 1024

static struct log_limit listener_limit;

static void listener_ready(struct loop_source *source, uint32_t events);

/* ---- path ---------------------------------------------------------------------------------- */

static int listener_address(const char *path, struct sockaddr_un *ret)
{
	size_t bytes = strlen(path);

	*ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (path[0] == '\0' || path[0] == '@') {
		log_error("socket '%s': not a path (abstract names are not served, they carry no "
			  "permissions)",
			  path);
		return -EINVAL;
	}
	if (bytes >= sizeof(ret->sun_path)) {
		log_error("socket %s: name is %zu bytes long, the system takes %zu (give a shorter "
			  "path)",
			  path, bytes, sizeof(ret->sun_path) - 1);
		return -ENAMETOOLONG;
	}
	memcpy(ret->sun_path, path, bytes + 1);
	return 0;
}

/* Whether somebody accepts connections at the address. 1 yes, 0 no, -errno unknown. */
static int listener_probe(const struct sockaddr_un *addr)
{
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int error;

	if (fd < 0)
		return -errno;
	error = connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0 ? -errno : 0;
	close(fd);
	/* EAGAIN: alive with a full backlog. EPROTOTYPE: alive, and not ours. */
	if (error == 0 || error == -EAGAIN || error == -EPROTOTYPE)
		return 1;
	return error == -ECONNREFUSED ? 0 : error;
}

/* Removes a stale socket, and nothing else. */
static int listener_clear(const char *path, const struct sockaddr_un *addr)
{
	struct stat st;
	int alive;

	if (lstat(path, &st) < 0) {
		if (errno == ENOENT)
			return 0;
		log_error("socket %s: %s", path, strerror(errno));
		return -errno;
	}
	if (!S_ISSOCK(st.st_mode)) {
		log_error("socket %s: there is %s of that name (remove it, or give another path)",
			  path, S_ISLNK(st.st_mode) ? "a symbolic link" : "something else");
		return -EEXIST;
	}
	alive = listener_probe(addr);
	if (alive > 0) {
		log_error("socket %s: another daemon is serving it (stop that one, or give another "
			  "path)",
			  path);
		return -EADDRINUSE;
	}
	if (alive < 0) {
		log_error("socket %s: cannot tell whether it is in use: %s", path,
			  strerror(-alive));
		return alive;
	}
	if (unlink(path) < 0 && errno != ENOENT) {
		log_error("socket %s: cannot remove the stale one: %s", path, strerror(errno));
		return -errno;
	}
	return 0;
}

static int listener_group(const struct server_config *cfg)
{
	struct group *group;

	if (!cfg->socket_group)
		return 0;
	group = getgrnam(cfg->socket_group);
	if (!group) {
		log_error("socket group %s: no such group", cfg->socket_group);
		return -ENOENT;
	}
	if (lchown(cfg->socket, (uid_t)-1, group->gr_gid) < 0) {
		log_error("socket %s: cannot give it to group %s: %s", cfg->socket,
			  cfg->socket_group, strerror(errno));
		return -errno;
	}
	return 0;
}

static int listener_bind(struct server *s, const struct sockaddr_un *addr)
{
	const struct server_config *cfg = &s->cfg;
	mode_t mask = umask((mode_t)(0777 & ~cfg->socket_mode));
	struct stat st;
	int error;

	/* The mode is there from the first moment; a chmod after bind would leave a gap. */
	error = bind(s->listen_fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0 ? -errno : 0;
	umask(mask);
	if (error == 0 && lstat(cfg->socket, &st) < 0)
		error = -errno;
	if (error) {
		log_error("socket %s: %s%s", cfg->socket, strerror(-error),
			  error == -ENOENT ? " (create its directory)" : "");
		return error;
	}
	s->socket_dev = st.st_dev;
	s->socket_ino = st.st_ino;
	error = listener_group(cfg);
	if (error == 0 && listen(s->listen_fd, LISTENER_BACKLOG) < 0) {
		error = -errno;
		log_error("socket %s: %s", cfg->socket, strerror(errno));
	}
	return error;
}

int listener_open(struct server *s)
{
	struct sockaddr_un addr;
	int error = listener_address(s->cfg.socket, &addr);

	if (error == 0)
		error = listener_clear(s->cfg.socket, &addr);
	if (error)
		return error;
	s->listen_fd = fault_fails("socket")
			       ? -1
			       : socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (s->listen_fd < 0) {
		error = -errno;
		log_error("socket %s: %s", s->cfg.socket, strerror(errno));
		return error;
	}
	error = listener_bind(s, &addr);
	if (error)
		return error;
	error = loop_add(s->loop, &s->listener, s->listen_fd, LOOP_IN, listener_ready);
	if (error)
		log_error("socket %s: cannot watch it: %s", s->cfg.socket, strerror(-error));
	return error;
}

void listener_close(struct server *s)
{
	struct stat st;

	if (s->listen_fd < 0)
		return;
	loop_del(s->loop, &s->listener);
	s->listener_paused = false;
	if (s->socket_ino && lstat(s->cfg.socket, &st) == 0 && st.st_dev == s->socket_dev &&
	    st.st_ino == s->socket_ino)
		unlink(s->cfg.socket);
	close(s->listen_fd);
	s->listen_fd = -1;
}

/* ---- peers --------------------------------------------------------------------------------- */

/* Start of a process, in clock ticks since boot. */
static int listener_start_ticks(int32_t pid, uint64_t *ret)
{
	char path[48], text[1024];
	const char *at;
	FILE *file;
	size_t n;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	file = fopen(path, "re");
	if (!file)
		return -errno;
	n = fread(text, 1, sizeof(text) - 1, file);
	fclose(file);
	text[n] = '\0';
	/* The name, field 2, may hold anything; the last parenthesis ends it. Start is field 22. */
	at = strrchr(text, ')');
	if (!at || sscanf(at + 1,
			  " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d "
			  "%*d %*d %" SCNu64,
			  ret) != 1)
		return -ESRCH;
	return 0;
}

static int listener_pidfd_by_number(int fd, int32_t pid)
{
	struct pollfd hup = { .fd = fd };
	const uint64_t hz = (uint64_t)sysconf(_SC_CLK_TCK);
	struct timespec now;
	uint64_t born, seen;
	int pidfd, error;

	if (pid <= 0)
		return -ESRCH;
	clock_gettime(CLOCK_BOOTTIME, &now);
	seen = (uint64_t)now.tv_sec * hz + (uint64_t)now.tv_nsec * hz / 1000000000ull;
	pidfd = pidfd_open(pid, 0);
	if (pidfd < 0)
		return -errno;
	error = listener_start_ticks(pid, &born);
	if (error == 0 && (born > seen || (poll(&hup, 1, 0) == 1 && (hup.revents & POLLHUP))))
		error = -ESRCH;
	if (error) {
		close(pidfd);
		return error;
	}
	return pidfd;
}

/*
 * -EXDEV: the peer has no number here, for its pid namespace is neither ours nor below. What has no
 * number can be named to no operator and checked by none, and some kernels give no pidfd of it.
 */
static int listener_peer(int fd, struct session_peer *ret)
{
	struct ucred cred;
	socklen_t bytes = sizeof(cred);

	if (fault_fails("peercred") || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &bytes) < 0)
		return -errno;
	if (cred.pid == 0)
		return -EXDEV;
	*ret = (struct session_peer){ .uid = cred.uid, .gid = cred.gid, .pid = cred.pid };
	bytes = sizeof(ret->pidfd);
	if (fault_fails("pidfd"))
		return -errno;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &ret->pidfd, &bytes) == 0)
		return fcntl(ret->pidfd, F_SETFD, FD_CLOEXEC) < 0 ? -errno : 0;
	if (errno != ENOPROTOOPT)
		return -errno;
	ret->pidfd = listener_pidfd_by_number(fd, cred.pid);
	return ret->pidfd < 0 ? ret->pidfd : 0;
}

/* Says why and hangs up; the peer may or may not read it. */
static void listener_refuse(struct server *s, int fd, int error, const char *why)
{
	struct kvb_msg_error msg = {
		.h = { .magic = KVB_MAGIC, .type = KVB_MSG_ERROR, .length = sizeof(msg) },
		.error = error,
	};

	s->refused++;
	snprintf(msg.text, sizeof(msg.text), "connection refused: %s", why);
	send(fd, &msg, sizeof(msg), MSG_DONTWAIT | MSG_NOSIGNAL);
	close(fd);
	if (log_limit_pass(&listener_limit, s->now_ns, 10))
		log_warn("%s", msg.text);
}

/* Takes fd over. 0, also when the peer is refused; -errno: this process is short of something. */
static int listener_admit(struct server *s, int fd)
{
	struct session_peer peer;
	char why[160];
	int error = listener_peer(fd, &peer);

	if (error) {
		if (error == -EXDEV)
			snprintf(why, sizeof(why),
				 "the peer's process is in a pid namespace that this daemon does "
				 "not see (give the daemon's container the host's: --pid=host)");
		else
			snprintf(why, sizeof(why), "the peer's process is not to be had: %s",
				 strerror(-error));
		listener_refuse(s, fd, error, why);
		return error == -EMFILE || error == -ENFILE || error == -ENOMEM ? error : 0;
	}
	if (session_count(s, peer.uid, false) >= s->cfg.clients_per_uid + s->cfg.admins_max) {
		snprintf(why, sizeof(why),
			 "uid %u has %u connections, its limit (close some, or start the daemon "
			 "with a larger --clients-per-uid)",
			 peer.uid, session_count(s, peer.uid, false));
		close(peer.pidfd);
		listener_refuse(s, fd, -EUSERS, why);
		return 0;
	}
	if (s->sessions_used >= session_places(peer.uid, s->sessions_max)) {
		close(peer.pidfd);
		listener_refuse(s, fd, -ENOSPC,
				"the daemon is full (start it with a larger --max-clients)");
		return 0;
	}
	error = session_new(s, fd, &peer);
	if (error && log_limit_pass(&listener_limit, s->now_ns, 10))
		log_warn("connection of pid %d dropped: %s", peer.pid, strerror(-error));
	if (error == 0)
		s->accepted++;
	else
		s->refused++;
	return 0;
}

static void listener_pause(struct server *s, int error)
{
	if (log_limit_pass(&listener_limit, s->now_ns, 10))
		log_warn("cannot accept connections: %s (trying again in 100 ms)", strerror(error));
	loop_del(s->loop, &s->listener);
	s->listener_paused = true;
	s->listener_resume_ns = s->now_ns + LISTENER_PAUSE_NS;
}

static void listener_ready(struct loop_source *source, uint32_t events)
{
	struct server *s = (struct server *)((char *)source - offsetof(struct server, listener));

	for (int i = 0; i < LISTENER_BATCH; i++) {
		int fd = fault_fails("accept")
				 ? -1
				 : accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd >= 0) {
			int error = listener_admit(s, fd);

			/* The last fd went to its socket: others in the backlog need not share
			 * its fate. */
			if (error) {
				listener_pause(s, -error);
				return;
			}
		} else if (errno == EAGAIN) {
			return;
		} else if (errno != EINTR && errno != ECONNABORTED && errno != EPROTO) {
			listener_pause(s, errno);
			return;
		}
	}
}

void listener_turn(struct server *s)
{
	if (!s->listener_paused || s->now_ns < s->listener_resume_ns)
		return;
	s->listener_paused = false;
	if (loop_add(s->loop, &s->listener, s->listen_fd, LOOP_IN, listener_ready) < 0) {
		s->listener_paused = true;
		s->listener_resume_ns = s->now_ns + LISTENER_PAUSE_NS;
	}
}

uint64_t listener_next_ns(const struct server *s)
{
	return s->listener_paused ? s->listener_resume_ns : UINT64_MAX;
}
