/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Starting and ending owners and movers; see process.h.
 *
 * It is the binary that runs now, by /proc/self/exe: an upgrade on disk must not give this daemon
 * an owner of another version. It inherits its socket, stderr for its log and nothing else, and
 * the environment less what would lead it to an MPS server, which is an engine's business: a
 * process under MPS shares its fate with every client of that server.
 *
 * posix_spawn() and not fork(): a daemon with threads and gigabytes of tables must not copy itself.
 */

#include "broker/owner/process.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker/io/fault.h"
#include "broker/owner/wire.h"

#define MPS_PREFIX "CUDA_MPS_"

/* The strings stay environ's; the array is the caller's. NULL: no memory. */
static char **process_environment(const char *role)
{
	size_t n = 0, kept = 0;
	char **ret;

	while (environ[n])
		n++;
	ret = fault_calloc(role, n + 1, sizeof(*ret));
	for (size_t i = 0; ret && i < n; i++) {
		if (strncmp(environ[i], MPS_PREFIX, sizeof(MPS_PREFIX) - 1) != 0)
			ret[kept++] = environ[i];
	}
	return ret;
}

/* An error here is a positive errno, as posix_spawn's are. */
static int process_spawn(const char *role, const char *device, enum log_level level, int fd,
			 char **environment, pid_t *ret)
{
	static const char *const words[] = { "error", "warn", "info", "debug" };
	char name[] = "kvbrokerd", what[PROCESS_DEVICE_BYTES + 16], log_level[24];
	char *argv[] = { name, log_level, what, NULL };
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t none, standard;
	int error;

	snprintf(what, sizeof(what), "--%s=%s", role, device);
	snprintf(log_level, sizeof(log_level), "--log-level=%s", words[level]);
	sigemptyset(&none);
	sigemptyset(&standard);
	sigaddset(&standard, SIGPIPE);
	error = posix_spawn_file_actions_init(&actions);
	if (error)
		return error;
	error = posix_spawnattr_init(&attr);
	if (error) {
		posix_spawn_file_actions_destroy(&actions);
		return error;
	}
	error = posix_spawn_file_actions_adddup2(&actions, fd, WIRE_FD);
	if (error == 0)
		error = posix_spawn_file_actions_addclosefrom_np(&actions, WIRE_FD + 1);
	if (error == 0) {
		posix_spawnattr_setsigmask(&attr, &none);
		posix_spawnattr_setsigdefault(&attr, &standard);
		posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
		error = posix_spawn(ret, "/proc/self/exe", &actions, &attr, argv, environment);
	}
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&actions);
	return error;
}

int process_start(const char *role, const char *device, enum log_level level, struct process *ret)
{
	char **environment = process_environment(role);
	int pair[2], error;

	*ret = (struct process)PROCESS_NONE;
	if (!environment)
		return -ENOMEM;
	if (fault_fails(role) || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		error = -errno;
		free(environment);
		return error;
	}
	error = fault_fails(role)
			? errno
			: process_spawn(role, device, level, pair[1], environment, &ret->pid);
	close(pair[1]);
	free(environment);
	if (error) {
		close(pair[0]);
		ret->pid = 0;
		return -error;
	}
	ret->fd = pair[0];
	/* Nobody but us waits for it, so the pid is still its own. */
	ret->pidfd = fault_fails(role) ? -1 : pidfd_open(ret->pid, 0);
	if (ret->pidfd < 0) {
		error = -errno;
		close(ret->fd);
		kill(ret->pid, SIGKILL);
		waitpid(ret->pid, NULL, 0);
		*ret = (struct process)PROCESS_NONE;
		return error;
	}
	return 0;
}

static bool process_wait(const struct process *p, int wait_ms)
{
	struct pollfd pfd = { .fd = p->pidfd, .events = POLLIN };

	return poll(&pfd, 1, wait_ms) == 1;
}

bool process_dead(const struct process *p)
{
	return p->pid == 0 || process_wait(p, 0);
}

bool process_end(struct process *p, int wait_ms, char *why, size_t why_bytes)
{
	siginfo_t info = { 0 };

	if (p->pid == 0)
		return true;
	if (!process_wait(p, wait_ms)) {
		pidfd_send_signal(p->pidfd, SIGKILL, NULL, 0);
		if (!process_wait(p, wait_ms + 1000)) {
			snprintf(why, why_bytes,
				 "process %d does not end, a call into its driver hangs", p->pid);
			return false;
		}
	}
	if (waitid(P_PIDFD, (id_t)p->pidfd, &info, WEXITED | WNOHANG) < 0 ||
	    info.si_code == CLD_EXITED)
		snprintf(why, why_bytes, "process %d ended with status %d", p->pid, info.si_status);
	else
		snprintf(why, why_bytes, "process %d was ended by signal %d", p->pid,
			 info.si_status);
	close(p->pidfd);
	*p = (struct process)PROCESS_NONE;
	p->status = info.si_code == CLD_EXITED ? info.si_status : -1;
	return true;
}
