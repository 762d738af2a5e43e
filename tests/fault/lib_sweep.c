/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The k-th call of each kind that the client library makes of the system fails, for every k.
 *
 *   lib_sweep SOCKET    speaks TAP: a case for each kind of call
 *
 * The linker wraps the calls (-Wl,--wrap): the library's go through this file, and fail when it is
 * their turn. After each failure the library must have said so with an error or gone on; once it is
 * disconnected no fd and no mapping of it may be left, and the next connection works throughout.
 * That everything else is given back too is for a leak checker at the end, where there is one.
 */

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "uapi/libkvbroker.h"

#define STRIDE_BYTES 65536u
#define BATCH 16u
#define CALLS_MAX 300u

enum kind { ALIGNED_ALLOC, CALLOC, MMAP, SOCKET, RECVMSG, SEND, POLL, FSTAT, KINDS };

static const struct {
	const char *name;
	int error;
} kinds[KINDS] = {
	[ALIGNED_ALLOC] = { "aligned_alloc", ENOMEM },
	[CALLOC] = { "calloc", ENOMEM },
	[MMAP] = { "mmap", ENOMEM },
	[SOCKET] = { "socket", EMFILE },
	[RECVMSG] = { "recvmsg", ENOMEM },
	[SEND] = { "send", ENOBUFS },
	[POLL] = { "poll", ENOMEM },
	[FSTAT] = { "fstat", EIO },
};

static const char *socket_path;
static enum kind kind = KINDS; /* that fails */
static unsigned at;            /* which call of it */
static unsigned calls;         /* of it so far */
static long long mapped;       /* bytes of the library's own mappings */

static bool fails(enum kind what)
{
	if (what != kind || ++calls != at)
		return false;
	errno = kinds[what].error;
	return true;
}

/* ---- what the linker puts in the place of the calls ---------------------------------------- */

void *__real_aligned_alloc(size_t align, size_t bytes);
void *__wrap_aligned_alloc(size_t align, size_t bytes);
void *__real_calloc(size_t n, size_t bytes);
void *__wrap_calloc(size_t n, size_t bytes);
void *__real_mmap64(void *addr, size_t bytes, int prot, int flags, int fd, off_t offset);
void *__wrap_mmap64(void *addr, size_t bytes, int prot, int flags, int fd, off_t offset);
int __real_munmap(void *addr, size_t bytes);
int __wrap_munmap(void *addr, size_t bytes);
int __real_socket(int domain, int type, int protocol);
int __wrap_socket(int domain, int type, int protocol);
ssize_t __real_recvmsg(int fd, struct msghdr *msg, int flags);
ssize_t __wrap_recvmsg(int fd, struct msghdr *msg, int flags);
ssize_t __real_send(int fd, const void *buf, size_t bytes, int flags);
ssize_t __wrap_send(int fd, const void *buf, size_t bytes, int flags);
int __real_poll(struct pollfd *fds, nfds_t n, int timeout);
int __wrap_poll(struct pollfd *fds, nfds_t n, int timeout);
int __real_fstat64(int fd, struct stat *st);
int __wrap_fstat64(int fd, struct stat *st);

void *__wrap_aligned_alloc(size_t align, size_t bytes)
{
	return fails(ALIGNED_ALLOC) ? NULL : __real_aligned_alloc(align, bytes);
}

void *__wrap_calloc(size_t n, size_t bytes)
{
	return fails(CALLOC) ? NULL : __real_calloc(n, bytes);
}

void *__wrap_mmap64(void *addr, size_t bytes, int prot, int flags, int fd, off_t offset)
{
	void *mem = fails(MMAP) ? MAP_FAILED : __real_mmap64(addr, bytes, prot, flags, fd, offset);

	if (mem != MAP_FAILED && !(flags & MAP_FIXED))
		mapped += (long long)bytes;
	return mem;
}

int __wrap_munmap(void *addr, size_t bytes)
{
	mapped -= (long long)bytes;
	return __real_munmap(addr, bytes);
}

int __wrap_socket(int domain, int type, int protocol)
{
	return fails(SOCKET) ? -1 : __real_socket(domain, type, protocol);
}

ssize_t __wrap_recvmsg(int fd, struct msghdr *msg, int flags)
{
	return fails(RECVMSG) ? -1 : __real_recvmsg(fd, msg, flags);
}

ssize_t __wrap_send(int fd, const void *buf, size_t bytes, int flags)
{
	return fails(SEND) ? -1 : __real_send(fd, buf, bytes, flags);
}

int __wrap_poll(struct pollfd *fds, nfds_t n, int timeout)
{
	return fails(POLL) ? -1 : __real_poll(fds, n, timeout);
}

int __wrap_fstat64(int fd, struct stat *st)
{
	return fails(FSTAT) ? -1 : __real_fstat64(fd, st);
}

/* ---- a life -------------------------------------------------------------------------------- */

/* Everything a small engine does; each step's result, the first that is negative. */
static int64_t use(struct kvb *kvb)
{
	struct kvb_space_params geometry = { .regions = 2, .stride_bytes = STRIDE_BYTES };
	static const uint8_t digest[32] = { 0x11 };
	struct kvb_seal seals[BATCH] = { 0 };
	struct kvb_hash keys[BATCH];
	kvb_page_t pages[BATCH], found[BATCH];
	struct kvb_space *space;
	static uint64_t life; /* keys of one life are new: nobody has sealed them first */
	struct kvb_ns_info ns;
	int64_t r;

	life++;
	if ((r = kvb_ns_open(kvb, digest, KVB_NS_ADMIN, &ns)) < 0 ||
	    (r = kvb_space_open(kvb, &geometry, &space)) < 0 ||
	    (r = kvb_space_grow(space, BATCH, 1000000000)) < 0 ||
	    (r = kvb_alloc(space, pages, BATCH)) < 0)
		return r;
	if (r < BATCH)
		return -ENOSPC;
	for (unsigned i = 0; i < BATCH; i++) {
		memset(kvb_page_addr(space, 1, pages[i]), 0x44, STRIDE_BYTES);
		keys[i] = (struct kvb_hash){ { i, life } };
		seals[i] = (struct kvb_seal){ .page = pages[i], .hash = keys[i] };
	}
	if ((r = kvb_seal(space, ns.ns, ns.epoch, 0, seals, found, BATCH / 2)) < 0 ||
	    (r = kvb_lookup(space, ns.ns, 0, keys, found, BATCH / 2, NULL)) < 0 ||
	    (r = kvb_release(space, found, (uint32_t)r)) < 0 ||
	    (r = kvb_release(space, found, (uint32_t)r)) < 0 ||
	    (r = kvb_free(space, pages + BATCH / 2, BATCH / 2)) < 0)
		return r;
	kvb_page_put(space, kvb_page_get(space));
	/* What is cached would keep its slabs, and every life wants one of its own. */
	if ((r = kvb_epoch_bump(kvb, ns.ns, &ns.epoch)) < 0 ||
	    (r = kvb_space_shrink(space, 1000, 1000000000)) < 0)
		return r;
	r = kvb_quiet_point(kvb);
	return r < 0 ? r : kvb_space_close(space);
}

static int64_t live(char why[256])
{
	struct kvb_params params = { .socket = socket_path,
				     .name = "sweep",
				     .operand_bytes = 16384,
				     .magazine = 8,
				     .timeout_ns = 1000000000 };
	struct kvb *kvb = NULL;
	int64_t r = kvb_connect(&params, &kvb, why);

	if (r == 0) {
		r = use(kvb);
		snprintf(why, 256, "%s", kvb_error_text(kvb));
	}
	kvb_disconnect(kvb);
	return r;
}

static unsigned fds_open(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned n = 0;

	if (!dir)
		return 0;
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/* ---- cases --------------------------------------------------------------------------------- */

static bool complain(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static bool complain(const char *fmt, ...)
{
	va_list ap;

	printf("# call %u: ", at);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
	return false;
}

static bool one(enum kind what, unsigned nth, unsigned fds, bool *ret_came)
{
	char why[256] = "";
	int64_t r;

	kind = what;
	at = nth;
	calls = 0;
	r = live(why);
	kind = KINDS;
	*ret_came = calls >= nth;
	if (r < 0 && !why[0])
		return complain("error %d without a word about it", (int)r);
	if (r < 0 && !*ret_came)
		return complain("nothing failed, and yet: %s", why);
	if (fds_open() != fds)
		return complain("%u fds are open, %u before (%s)", fds_open(), fds, why);
	if (mapped)
		return complain("%lld bytes stay mapped (%s)", mapped, why);
	r = live(why);
	return r < 0 ? complain("the next connection fails: %s", why) : true;
}

static bool sweep(enum kind what, unsigned fds, unsigned *ret_runs)
{
	bool came = true, ok = true;

	for (*ret_runs = 0; ok && came && *ret_runs < CALLS_MAX; ++*ret_runs)
		ok = one(what, *ret_runs + 1, fds, &came);
	if (ok && *ret_runs < 2)
		return complain("the library never makes this call: the wrap does not hold");
	return ok;
}

int main(int argc, char **argv)
{
	unsigned fds, runs;
	int failed = 0;

	if (argc != 2)
		return 2;
	socket_path = argv[1];
	printf("1..%u\n", KINDS);
	fds = fds_open();
	for (enum kind what = 0; what < KINDS; what++) {
		bool ok = sweep(what, fds, &runs);

		printf("%sok %u - fault_056_library_%s (%u runs)\n", ok ? "" : "not ", what + 1,
		       kinds[what].name, runs);
		fflush(stdout);
		failed += !ok;
	}
	return failed ? 1 : 0;
}
