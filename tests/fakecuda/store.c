/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The memory of a pretend device, shared by all processes of a machine.
 *
 * A device is a sparse file. A piece of it is an open file of its own on that file, which holds a
 * lock on the piece's range and stands at the piece's offset. Both belong to the open file and not
 * to a process, which is all that is asked of an exported allocation:
 *   - a copy of the fd, by dup or over a socket, is the same piece, in any process;
 *   - a map keeps its open file, hence the lock, after every fd is closed;
 *   - the kernel lets go of the lock with the last of them, however that ends: a killed process
 *     leaks nothing.
 *
 * So the locks are the truth. taken[] in the file's tail is a hint that saves asking for each
 * range; it may claim too much after a death, never too little, and store_repair() puts it right --
 * when a process opens the device, and before memory is refused. Whoever frees a range punches it,
 * so that what is not taken reads zero.
 *
 * The file has twice the addresses that the device has memory, because real device memory does not
 * fragment at this size: what counts is the number of granules taken.
 *
 * Limits: the pages of a piece whose last holder was killed, or never called the driver, stay in
 * memory until a repair. A full directory is noticed when memory is taken, not when it is touched:
 * then it is a SIGBUS.
 *
 * Lives from cuInit to the end of the process.
 */

#include "tests/fakecuda/fake.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define STORE_PATH_MAX 224u
#define STORE_LOCK_USER (1ll << 62)             /* read lock of each process that has the device */
#define STORE_LOCK_CHANGE (STORE_LOCK_USER + 1) /* held while taken[] changes */

struct store_tail {
	uint32_t lost;
	uint32_t resv;
	uint8_t taken[]; /* of each granule */
};

struct store {
	int fd;
	uint64_t granules; /* of memory; there are twice as many in the file */
	struct store_tail *tail;
	size_t tail_bytes;
	char path[STORE_PATH_MAX];
};

static int store_fcntl(int fd, int command, short type, int64_t start, int64_t bytes)
{
	struct flock lock = {
		.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = bytes
	};

	while (fcntl(fd, command, &lock) < 0) {
		if (errno != EINTR)
			return -errno;
	}
	return 0;
}

/* The lock that covers or follows within the range, if any. */
static bool store_held(struct store *st, uint64_t start, uint64_t bytes, struct flock *ret)
{
	*ret = (struct flock){ .l_type = F_WRLCK,
			       .l_whence = SEEK_SET,
			       .l_start = (off_t)start,
			       .l_len = (off_t)bytes };
	return fcntl(st->fd, F_OFD_GETLK, ret) == 0 && ret->l_type != F_UNLCK;
}

static void store_change_begin(struct store *st)
{
	store_fcntl(st->fd, F_OFD_SETLKW, F_WRLCK, STORE_LOCK_CHANGE, 1);
}

static void store_change_end(struct store *st)
{
	store_fcntl(st->fd, F_OFD_SETLK, F_UNLCK, STORE_LOCK_CHANGE, 1);
}

static void store_free_range(struct store *st, uint64_t granule, uint64_t count)
{
	fallocate(st->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		  (off_t)(granule * FAKE_GRANULE_BYTES), (off_t)(count * FAKE_GRANULE_BYTES));
	memset(st->tail->taken + granule, 0, count);
}

/* Frees what is marked and held by nobody. Returns the number of granules taken. */
static uint64_t store_repair(struct store *st)
{
	uint64_t used = 0, i = 0;
	struct flock lock;

	while (i < 2 * st->granules) {
		uint64_t count = 1;

		if (!st->tail->taken[i]) {
			i++;
			continue;
		}
		if (store_held(st, i * FAKE_GRANULE_BYTES, FAKE_GRANULE_BYTES, &lock)) {
			count = (uint64_t)(lock.l_start + lock.l_len) / FAKE_GRANULE_BYTES - i;
			used += count;
		} else {
			store_free_range(st, i, 1);
		}
		i += count;
	}
	return used;
}

static uint64_t store_used(const struct store *st)
{
	uint64_t used = 0;

	for (uint64_t i = 0; i < 2 * st->granules; i++)
		used += st->tail->taken[i];
	return used;
}

/* First run of so many free granules; 2 * granules: none. */
static uint64_t store_run(const struct store *st, uint64_t count)
{
	uint64_t run = 0;

	for (uint64_t i = 0; i < 2 * st->granules; i++) {
		run = st->tail->taken[i] ? 0 : run + 1;
		if (run == count)
			return i + 1 - count;
	}
	return 2 * st->granules;
}

/* ---- open and close ------------------------------------------------------------------------ */

/* The file, new or old, with the lock of a user on it; it may have been removed meanwhile. */
static int store_file(const char *path)
{
	/* Not O_CREAT at once: sticky directories refuse it for files of other users. */
	int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	int error;

	if (fd < 0 && errno == ENOENT) {
		fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
		if (fd >= 0)
			fchmod(fd, 0666);
	}
	if (fd < 0)
		return -errno;
	error = store_fcntl(fd, F_OFD_SETLKW, F_RDLCK, STORE_LOCK_USER, 1);
	if (error) {
		close(fd);
		return error;
	}
	return fd;
}

static int store_file_alive(const char *path)
{
	struct stat stat;

	for (;;) {
		int fd = store_file(path);

		if (fd < 0 && fd != -EEXIST)
			return fd;
		if (fd >= 0 && fstat(fd, &stat) == 0 && stat.st_nlink > 0)
			return fd;
		if (fd >= 0)
			close(fd);
	}
}

/* Does no other process use the device? */
static bool store_is_alone(struct store *st)
{
	if (store_fcntl(st->fd, F_OFD_SETLK, F_WRLCK, STORE_LOCK_USER, 1))
		return false;
	store_fcntl(st->fd, F_OFD_SETLK, F_RDLCK, STORE_LOCK_USER, 1);
	return true;
}

int store_open(const struct fake_settings *settings, uint32_t ordinal, struct store **ret)
{
	struct store *st = calloc(1, sizeof(*st));
	uint64_t space = 2 * settings->mem_bytes;
	int error;

	if (!st)
		return -ENOMEM;
	st->granules = settings->mem_bytes / FAKE_GRANULE_BYTES;
	st->tail_bytes = sizeof(struct store_tail) + 2 * st->granules;
	snprintf(st->path, sizeof(st->path), "%s/fakecuda-%s-%u-%llu", settings->dir,
		 settings->node, ordinal, (unsigned long long)settings->mem_bytes);
	st->fd = store_file_alive(st->path);
	error = st->fd < 0 ? st->fd : 0;
	if (!error && ftruncate(st->fd, (off_t)(space + st->tail_bytes)) < 0)
		error = -errno;
	if (!error) {
		st->tail = mmap(NULL, st->tail_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, st->fd,
				(off_t)space);
		if (st->tail == MAP_FAILED)
			error = -errno;
	}
	if (error) {
		fprintf(stderr, "fakecuda: %s: %s; FAKECUDA=dir=PATH names another place\n",
			st->path, strerror(-error));
		if (st->fd >= 0)
			close(st->fd);
		free(st);
		return error;
	}
	store_change_begin(st);
	if (store_repair(st) == 0 && store_is_alone(st))
		st->tail->lost = 0;
	store_change_end(st);
	*ret = st;
	return 0;
}

void store_close(struct store *st)
{
	/* Only if no other process uses the device and no piece of it lives. */
	if (store_fcntl(st->fd, F_OFD_SETLK, F_WRLCK, 0, 0) == 0)
		unlink(st->path);
	munmap(st->tail, st->tail_bytes);
	close(st->fd);
	free(st);
}

/* ---- pieces -------------------------------------------------------------------------------- */

static enum cu_result store_take_range(struct store *st, uint64_t first, uint64_t count,
				       int *ret_fd)
{
	int64_t offset = (int64_t)(first * FAKE_GRANULE_BYTES);
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", st->fd);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return CU_ERROR_OPERATING_SYSTEM;
	if (store_fcntl(fd, F_OFD_SETLK, F_WRLCK, offset, (int64_t)(count * FAKE_GRANULE_BYTES)) ||
	    lseek(fd, offset, SEEK_SET) != offset) {
		close(fd);
		return CU_ERROR_OPERATING_SYSTEM;
	}
	memset(st->tail->taken + first, 1, count);
	*ret_fd = fd;
	return CU_OK;
}

enum cu_result store_take(struct store *st, uint64_t bytes, int *ret_fd, uint64_t *ret_offset)
{
	uint64_t count = bytes / FAKE_GRANULE_BYTES;
	enum cu_result result = CU_ERROR_OUT_OF_MEMORY;
	struct statvfs disk;
	uint64_t first;

	if (count > st->granules || fstatvfs(st->fd, &disk) < 0)
		return result;
	if (disk.f_bavail * disk.f_frsize < bytes) {
		fprintf(stderr, "fakecuda: %s: no room; FAKECUDA=dir=PATH names another place\n",
			st->path);
		return result;
	}
	store_change_begin(st);
	if (store_used(st) + count <= st->granules || store_repair(st) + count <= st->granules) {
		first = store_run(st, count);
		if (first < 2 * st->granules) {
			result = store_take_range(st, first, count, ret_fd);
			*ret_offset = first * FAKE_GRANULE_BYTES;
		}
	}
	store_change_end(st);
	return result;
}

void store_give(struct store *st, int fd, uint64_t offset, uint64_t bytes)
{
	struct flock lock;

	close(fd);
	store_change_begin(st);
	if (!store_held(st, offset, bytes, &lock))
		store_free_range(st, offset / FAKE_GRANULE_BYTES, bytes / FAKE_GRANULE_BYTES);
	store_change_end(st);
}

bool store_find(struct store *st, int fd, uint64_t *ret_offset, uint64_t *ret_bytes)
{
	struct stat ours, theirs;
	struct flock lock;
	off_t at;

	if (fstat(st->fd, &ours) < 0 || fstat(fd, &theirs) < 0 || ours.st_dev != theirs.st_dev ||
	    ours.st_ino != theirs.st_ino)
		return false;
	at = lseek(fd, 0, SEEK_CUR);
	if (at < 0 || (uint64_t)at >= 2 * st->granules * FAKE_GRANULE_BYTES ||
	    !store_held(st, (uint64_t)at, 1, &lock) || lock.l_start != at)
		return false;
	*ret_offset = (uint64_t)at;
	*ret_bytes = (uint64_t)lock.l_len;
	return true;
}

bool store_is_lost(struct store *st)
{
	return __atomic_load_n(&st->tail->lost, __ATOMIC_RELAXED) != 0;
}

void store_lose(struct store *st)
{
	__atomic_store_n(&st->tail->lost, 1, __ATOMIC_RELAXED);
}
