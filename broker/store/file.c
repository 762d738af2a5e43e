/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Files and devices that a store lies on: opened for direct I/O, locked, with room on the disk.
 *
 * The lock is flock()'s, on the file that is used, so it ends with the last reference to it. A
 * killed owner's ring gives its registered files back late (some 100 ms): hence the wait. A device
 * is opened exclusively besides, which keeps mounts away.
 *
 * A file is made as large as it will be, with its blocks: a store that runs out of space in the
 * middle of a write is worse than one that does not start.
 */

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "broker/io/fault.h"
#include "broker/store/engine.h"

#define LOCK_STEP_MS 10u
#define ALIGN_USUAL 4096u

static void sleep_ms(uint32_t ms)
{
	struct timespec ts = { .tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000 };

	nanosleep(&ts, NULL);
}

static int fail(int error, char *why, size_t why_bytes, const char *path, const char *what)
{
	snprintf(why, why_bytes, "%s: %s: %s", path, what, strerror(-error));
	return error;
}

/* Of direct transfers, as the file system says; what it does not say is 4 KiB. */
static int ask_alignment(int fd, struct engine_file_info *ret)
{
	ret->align_mem = ret->align_bytes = ALIGN_USUAL;
#ifdef STATX_DIOALIGN
	struct statx x;

	if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &x) == 0 &&
	    (x.stx_mask & STATX_DIOALIGN)) {
		if (x.stx_dio_offset_align == 0 || x.stx_dio_offset_align > ALIGN_USUAL)
			return -ENOTSUP;
		ret->align_mem = x.stx_dio_mem_align;
		ret->align_bytes = x.stx_dio_offset_align;
	}
#endif
	return 0;
}

static int lock(int fd, uint32_t wait_ms)
{
	for (uint32_t ms = 0;; ms += LOCK_STEP_MS) {
		if (fault_point("store-lock") == 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
			return 0;
		if (errno != EWOULDBLOCK && errno != EINTR)
			return -errno;
		if (ms >= wait_ms)
			return -EBUSY;
		sleep_ms(LOCK_STEP_MS);
	}
}

static int real_resize(void *arg, int fd, uint64_t bytes)
{
	struct stat st;
	int error = fault_point("store-resize");

	if (error)
		return error;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return 0;
	if ((uint64_t)st.st_size > bytes && ftruncate(fd, (off_t)bytes) < 0)
		return -errno;
	if (fallocate(fd, 0, 0, (off_t)bytes) == 0)
		return 0;
	if (errno != EOPNOTSUPP && errno != ENOSYS)
		return -errno;
	/* No such thing here: the size alone. */
	return ftruncate(fd, (off_t)bytes) < 0 ? -errno : 0;
}

static int size_of(int fd, const struct engine_file_want *want, struct engine_file_info *ret)
{
	struct stat st;
	int error;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (S_ISBLK(st.st_mode)) {
		ret->device = true;
		return ioctl(fd, BLKGETSIZE64, &ret->bytes) < 0 ? -errno : 0;
	}
	if (!S_ISREG(st.st_mode))
		return -ENOTBLK;
	ret->made = st.st_size == 0;
	if (ret->made && want->bytes && !want->read_only) {
		error = real_resize(NULL, fd, want->bytes);
		if (error)
			return error;
		st.st_size = (off_t)want->bytes;
	}
	ret->bytes = (uint64_t)st.st_size;
	return 0;
}

static int open_path(const struct engine_file_want *want)
{
	const int flags = (want->read_only ? O_RDONLY : O_RDWR) | O_DIRECT | O_CLOEXEC | O_NOCTTY |
			  O_NONBLOCK;
	struct stat st;
	const bool there = stat(want->path, &st) == 0;
	int fd;

	if (fault_fails("store-open"))
		return -errno;
	if (there && S_ISBLK(st.st_mode))
		fd = open(want->path, flags | (want->read_only ? 0 : O_EXCL));
	else if (there && !S_ISREG(st.st_mode))
		return -ENOTBLK;
	else
		fd = open(want->path, flags | (want->read_only || !want->bytes ? 0 : O_CREAT),
			  0600);
	return fd < 0 ? -errno : fd;
}

/* An -EBUSY of a device is a lock too. */
static int open_waiting(const struct engine_file_want *want)
{
	int fd = open_path(want);

	for (uint32_t ms = 0; fd == -EBUSY && ms < want->lock_wait_ms; ms += LOCK_STEP_MS) {
		sleep_ms(LOCK_STEP_MS);
		fd = open_path(want);
	}
	return fd;
}

static int real_open(void *arg, const struct engine_file_want *want, struct engine_file_info *ret,
		     char *why, size_t why_bytes)
{
	const char *what = "lock it (is a broker running on it?)";
	int fd = open_waiting(want);
	int error;

	*ret = (struct engine_file_info){ 0 };
	if (fd == -EINVAL)
		return fail(-ENOTSUP, why, why_bytes, want->path,
			    "open it for direct I/O (use a file system that has it)");
	if (fd < 0)
		return fail(fd, why, why_bytes, want->path, "open it");
	error = lock(fd, want->lock_wait_ms);
	if (!error) {
		what = "use direct I/O on it";
		error = ask_alignment(fd, ret);
	}
	if (!error) {
		what = "find room for it (a smaller size, or another disk)";
		error = size_of(fd, want, ret);
	}
	if (!error)
		return fd;
	close(fd);
	return fail(error, why, why_bytes, want->path, what);
}

static void real_close(void *arg, int fd)
{
	(void)flock(fd, LOCK_UN); /* a ring that goes may hold the file a little longer */
	close(fd);
}

static int real_check(void *arg, int fd, uint64_t bytes)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (S_ISREG(st.st_mode) && (st.st_nlink == 0 || (uint64_t)st.st_size < bytes))
		return -ESTALE;
	return 0;
}

const struct engine_file_ops engine_file_real_ops = {
	.open = real_open,
	.close = real_close,
	.resize = real_resize,
	.check = real_check,
};
