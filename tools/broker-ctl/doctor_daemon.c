/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Checks of the daemon: what it says of itself, what it is allowed, and the files it lives from.
 * See doctor.h.
 *
 * Its limits are those of its process, read from /proc; without a daemon those of this one stand
 * for them, which a service starts with as often as not, and that is said.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "broker/core/core.h"
#include "tools/broker-ctl/doctor.h"

#define CAP_IPC_LOCK_BIT 14u
#define NO_LIMIT UINT64_MAX

/* ---- what it says of itself ---------------------------------------------------------------- */

static void check_device(struct doctor *d, const struct stats_device *dev)
{
	if (dev->failed)
		doctor_say(d, DOCTOR_FAIL, "device", "broker-ctl gpu list; the daemon's log",
			   "%s gives no memory: %s", dev->name, dev->why);
	else if (dev->warning[0])
		doctor_say(d, DOCTOR_WARN, "device", "broker-ctl gpu list", "%s: %s", dev->name,
			   dev->warning);
	else if (dev->below != STATS_NONE && !dev->below_ready)
		doctor_say(d, DOCTOR_WARN, "device",
			   "wait if the tier is filling; else see the daemon's log",
			   "%s works without a tier below: %s", dev->name, dev->below_why);
	if (dev->checksum_misses)
		doctor_say(d, DOCTOR_WARN, "device", "test the machine's memory",
			   "%s: %llu pages came back with other bytes than were written; no engine "
			   "saw them",
			   dev->name, (unsigned long long)dev->checksum_misses);
}

void doctor_check_daemon(struct doctor *d)
{
	static const char *const state[] = { "starting", "ready", "draining", "stopped" };
	const struct stats_segment *seg = d->seg;

	if (seg->ready == 1)
		doctor_say(d, DOCTOR_OK, "daemon", NULL, "%s, pid %d, ready", seg->daemon_version,
			   seg->pid);
	else
		doctor_say(d, DOCTOR_WARN, "daemon", "wait, or start it again",
			   "%s, pid %d, %s: it takes no new clients", seg->daemon_version, seg->pid,
			   seg->ready < 4 ? state[seg->ready] : "in no state that is known");
	if (strcmp(seg->daemon_version, KVB_VERSION) != 0)
		doctor_say(d, DOCTOR_WARN, "daemon", "restart it after an upgrade",
			   "it is version %s, and broker-ctl is %s", seg->daemon_version,
			   KVB_VERSION);
	if (seg->log_dropped)
		doctor_say(d, DOCTOR_WARN, "daemon",
			   "see what its log repeats, or what keeps the log from being written",
			   "%llu lines of its log were left out",
			   (unsigned long long)seg->log_dropped);
	for (uint32_t i = 0; i < seg->devices_n; i++) {
		if (seg->device[i].name[0])
			check_device(d, &seg->device[i]);
	}
}

/* ---- limits -------------------------------------------------------------------------------- */

/* proc/PID/NAME of the daemon, else of this process. False: it is not to be read. */
static bool read_process(const struct doctor *d, const char *name, char text[SYSFS_TEXT_BYTES])
{
	char path[SYSFS_PATH_BYTES];
	int r = d->seg ? sysfs_path(path, d->root, "proc/%d/%s", d->seg->pid, name)
		       : sysfs_path(path, d->root, "proc/self/%s", name);

	return r == 0 && sysfs_read(path, text) == 0;
}

/* The two numbers of a line of proc/PID/limits. */
static bool limit_of(const char *text, const char *what, uint64_t *ret_soft, uint64_t *ret_hard)
{
	const char *line = strstr(text, what);
	char soft[32], hard[32];

	if (!line || sscanf(line + strlen(what), " %31s %31s", soft, hard) != 2)
		return false;
	*ret_soft = strcmp(soft, "unlimited") == 0 ? NO_LIMIT : strtoull(soft, NULL, 10);
	*ret_hard = strcmp(hard, "unlimited") == 0 ? NO_LIMIT : strtoull(hard, NULL, 10);
	return true;
}

/* CAP_IPC_LOCK, with which the limit does not count. */
static bool may_lock_all(const struct doctor *d)
{
	char text[SYSFS_TEXT_BYTES];
	const char *line;

	if (!read_process(d, "status", text))
		return false;
	line = strstr(text, "\nCapEff:");
	return line && strtoull(line + strlen("\nCapEff:"), NULL, 16) >> CAP_IPC_LOCK_BIT & 1;
}

/* A store registers host memory with its ring; what can't be is read and written plainly. */
static uint64_t locked_bytes_wanted(const struct doctor *d)
{
	uint64_t bytes = 0;

	if (!d->seg || !d->seg->store.parts)
		return 0;
	for (uint32_t i = 0; i < d->seg->devices_n; i++) {
		if (d->seg->device[i].kind == CORE_KIND_ARENA)
			bytes += d->seg->device[i].capacity_bytes;
	}
	return bytes;
}

static void check_memlock(struct doctor *d, uint64_t soft)
{
	uint64_t want = locked_bytes_wanted(d);

	if (may_lock_all(d))
		doctor_say(d, DOCTOR_OK, "memlock", NULL, "CAP_IPC_LOCK: no limit counts");
	else if (soft == NO_LIMIT)
		doctor_say(d, DOCTOR_OK, "memlock", NULL, "no limit");
	else if (want > soft)
		doctor_say(d, DOCTOR_WARN, "memlock",
			   "LimitMEMLOCK=infinity in its unit, or ulimit -l unlimited before it",
			   "%s may be locked and the host tier has %s: the store reads and writes "
			   "it the slower way",
			   core_size(soft).text, core_size(want).text);
	else
		doctor_say(d, DOCTOR_OK, "memlock", NULL, "%s may be locked, nothing needs more",
			   core_size(soft).text);
}

/* The daemon raises its own limit up to the hard one. */
static void check_files(struct doctor *d, uint64_t soft, uint64_t hard)
{
	const char *fix = "LimitNOFILE= in its unit, or a lower --max-clients";

	if (d->seg && d->seg->files_needed > soft)
		doctor_say(d, DOCTOR_WARN, "files", fix,
			   "%llu may be open and %llu are needed when every client and slab is "
			   "there",
			   (unsigned long long)soft, (unsigned long long)d->seg->files_needed);
	else if (d->seg)
		doctor_say(d, DOCTOR_OK, "files", NULL, "%llu may be open, %llu are needed at most",
			   (unsigned long long)soft, (unsigned long long)d->seg->files_needed);
	else if (hard < 4096)
		doctor_say(
			d, DOCTOR_WARN, "files", fix,
			"%llu may be open in a process started here; 512 clients need some 3200, "
			"and each slab one",
			(unsigned long long)hard);
	else
		doctor_say(d, DOCTOR_OK, "files", NULL,
			   "%llu may be open in a process started here", (unsigned long long)hard);
}

void doctor_check_limits(struct doctor *d)
{
	char text[SYSFS_TEXT_BYTES];
	uint64_t soft, hard;

	if (!read_process(d, "limits", text)) {
		doctor_say(d, DOCTOR_OK, "limits", NULL,
			   "those of the daemon are not told here (another PID namespace?)");
		return;
	}
	if (limit_of(text, "Max locked memory", &soft, &hard))
		check_memlock(d, soft);
	if (limit_of(text, "Max open files", &soft, &hard))
		check_files(d, soft, hard);
}

/* ---- socket and state directory ------------------------------------------------------------ */

/* Whoever may write to a directory may put another file in the place of ours. */
static bool others_may_replace(const struct stat *st)
{
	return (st->st_mode & S_IWOTH) && !(st->st_mode & S_ISVTX);
}

void doctor_check_socket(struct doctor *d, const char *path)
{
	char above[4096];
	const char *slash = strrchr(path, '/');
	struct stat st;

	(void)snprintf(above, sizeof(above), "%.*s", slash ? (int)(slash - path) + 1 : 1,
		       slash ? path : ".");
	if (stat(path, &st) < 0) {
		if (errno != ENOENT && errno != ENOTDIR)
			doctor_say(d, DOCTOR_WARN, "socket",
				   "run this as root, or as one of the socket's group",
				   "%s cannot be looked at: %s", path, strerror(errno));
		else
			doctor_say(d, d->seg ? DOCTOR_WARN : DOCTOR_OK, "socket",
				   d->seg ? "restart the daemon" : NULL, "there is none at %s",
				   path);
		return;
	}
	if (!S_ISSOCK(st.st_mode))
		doctor_say(d, DOCTOR_FAIL, "socket", "take it away, or give another --socket",
			   "%s is no socket", path);
	else if (st.st_mode & S_IWOTH)
		doctor_say(d, DOCTOR_WARN, "socket", "--socket-mode 0660 and --socket-group",
			   "%s: every user of the machine may connect (mode %04o)", path,
			   (unsigned)st.st_mode & 07777);
	else
		doctor_say(d, DOCTOR_OK, "socket", NULL, "%s: mode %04o, uid %u, gid %u", path,
			   (unsigned)st.st_mode & 07777, st.st_uid, st.st_gid);
	if (stat(above, &st) == 0 && others_may_replace(&st))
		doctor_say(d, DOCTOR_FAIL, "socket", "chmod o-w, or put the socket elsewhere",
			   "%s: every user may put another socket in its place", above);
}

void doctor_check_state_dir(struct doctor *d)
{
	const char *path = d->seg->state_dir;
	struct stat st;

	if (!path[0])
		return; /* too long to be told */
	if (stat(path, &st) < 0)
		doctor_say(d, errno == EACCES ? DOCTOR_WARN : DOCTOR_FAIL, "state-dir",
			   errno == EACCES ? "run this as root" : "restart the daemon",
			   "%s cannot be looked at: %s", path, strerror(errno));
	else if (!S_ISDIR(st.st_mode))
		doctor_say(d, DOCTOR_FAIL, "state-dir", "restart the daemon",
			   "%s is no directory any more", path);
	else if (st.st_mode & S_IWOTH)
		doctor_say(d, DOCTOR_FAIL, "state-dir", "chmod o-w it",
			   "%s: others may write to it; the daemon would not start again", path);
	else
		doctor_say(d, DOCTOR_OK, "state-dir", NULL, "%s: mode %04o, uid %u", path,
			   (unsigned)st.st_mode & 07777, st.st_uid);
}

/* ---- store --------------------------------------------------------------------------------- */

static void check_store_space(struct doctor *d, const char *path, const struct stat *st)
{
	struct statvfs fs;
	double part;

	if (S_ISBLK(st->st_mode)) {
		doctor_say(d, DOCTOR_OK, "store", NULL, "%s: a block device", path);
		return;
	}
	if (statvfs(path, &fs) < 0 || fs.f_blocks == 0)
		return;
	part = (double)fs.f_bavail / (double)fs.f_blocks;
	if (part < 0.02)
		doctor_say(d, DOCTOR_WARN, "store", "free some, or make the store smaller",
			   "%s: its file system is full to the last %.1f %%", path, part * 100);
	else
		doctor_say(d, DOCTOR_OK, "store", NULL, "%s: %s, %.0f %% of its file system free",
			   path, core_size((uint64_t)st->st_size).text, part * 100);
}

static void check_store_part(struct doctor *d, const char *path)
{
	struct stat st;
	int fd;

	if (path[0] != '/') {
		doctor_say(d, DOCTOR_OK, "store", NULL,
			   "%s is below the daemon's own directory, and was not looked at", path);
		return;
	}
	if (stat(path, &st) < 0) {
		doctor_say(d, errno == EACCES ? DOCTOR_WARN : DOCTOR_FAIL, "store",
			   errno == EACCES ? "run this as root" : "restart the daemon",
			   "%s cannot be looked at: %s", path, strerror(errno));
		return;
	}
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
		doctor_say(d, DOCTOR_FAIL, "store", "give --store a file or a block device",
			   "%s is neither a file nor a block device", path);
		return;
	}
	fd = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0 && errno == EINVAL)
		doctor_say(d, DOCTOR_FAIL, "store", "use ext4, xfs, or a block device",
			   "%s: its file system has no direct I/O", path);
	else if (fd < 0)
		doctor_say(d, DOCTOR_OK, "store", NULL,
			   "%s: whether it has direct I/O is not this user's to try (%s)", path,
			   strerror(errno));
	if (fd >= 0)
		(void)close(fd);
	check_store_space(d, path, &st);
}

void doctor_check_store(struct doctor *d)
{
	for (uint32_t i = 0; i < d->seg->store.parts && i < STORE_PARTS_MAX; i++) {
		const struct store_part_stats *part = &d->seg->store.part[i];

		if (part->left)
			continue; /* an operator took it out, and may have removed it */
		if (part->failed)
			doctor_say(d, DOCTOR_FAIL, "store",
				   "look at the drive's own log; the part is tried again when the "
				   "daemon starts",
				   "%s was taken off: %s", part->path, strerror(-part->failed));
		else
			check_store_part(d, part->path);
	}
}
