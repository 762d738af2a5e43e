/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Faults 44 to 52: what a client does to the memory it shares with the daemon. Root tries it here:
 * what holds against root's capabilities holds against an engine's.
 */

#include "tests/proto/harness.h"
#include "tests/proto/raw.h"
#include "tests/unit/suite.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

enum { SUB, CTL, FENCE };

static bool maps_writable(int fd)
{
	void *mem = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (mem == MAP_FAILED)
		return false;
	munmap(mem, 4096);
	return true;
}

static bool takes_writes(int fd)
{
	const char zero = 0;

	return pwrite(fd, &zero, 1, 128) == 1;
}

static bool takes_holes(int fd)
{
	return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 4096) == 0;
}

static int reopened(int fd, int flags)
{
	char path[40];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, flags | O_CLOEXEC);
}

START_TEST(fault_044_ctl_written)
{
	struct kvb_sqe nop = { .opcode = KVB_OP_NOP };
	struct scene s;
	struct raw r;
	int again;

	scene_open(&s, OPTIONS());
	raw_attach(&r, &s.b, "other", NULL);
	/* The control: the same tests are passed by what a client may write. */
	ck_assert(maps_writable(r.fds[SUB]) && maps_writable(r.fds[FENCE]));
	ck_assert(takes_writes(r.fds[SUB]) && takes_writes(r.fds[FENCE]));
	again = reopened(r.fds[SUB], O_RDWR);
	ck_assert(again >= 0 && maps_writable(again) && takes_writes(again));
	close(again);

	ck_assert(!maps_writable(r.fds[CTL]));
	ck_assert(!takes_writes(r.fds[CTL]) && errno == EPERM);
	ck_assert(!takes_holes(r.fds[CTL]) && errno == EPERM);
	ck_assert_int_eq(mprotect(r.ctl, 4096, PROT_READ | PROT_WRITE), -1);
	ck_assert_int_eq(errno, EACCES);
	ck_assert_int_ne(madvise(r.ctl, 4096, MADV_REMOVE), 0);
	again = reopened(r.fds[CTL], O_RDWR);
	if (again >= 0) {
		ck_assert(!maps_writable(again) && !takes_writes(again) && !takes_holes(again));
		close(again);
	}
	ck_assert_int_eq(raw_call(&r, &nop).res, 0);
	raw_close(&r);
	scene_close(&s);
}
END_TEST

static void resize_everything(const struct raw *r, int fd, off_t bytes)
{
	ck_assert_int_eq(ftruncate(fd, 0), -1);
	ck_assert_int_eq(errno, EPERM);
	ck_assert_int_eq(ftruncate(fd, bytes - 4096), -1);
	ck_assert_int_eq(errno, EPERM);
	ck_assert_int_eq(ftruncate(fd, bytes + 4096), -1);
	ck_assert_int_eq(errno, EPERM);
	ck_assert_int_ne(fallocate(fd, 0, bytes, 4096), 0);
	ck_assert_int_eq(ftruncate(fd, bytes), 0); /* the control: the size it has */
}

static void resize_and_seal(void *arg)
{
	struct raw r;

	raw_attach(&r, arg, "other", NULL);
	raw_space(&r, 65536, 4);
	ck_assert_int_eq(raw_grow(&r, 1, 1000), 1);
	resize_everything(&r, r.fds[SUB], (off_t)r.hello.sub_bytes);
	resize_everything(&r, r.fds[CTL], (off_t)r.hello.ctl_bytes);
	resize_everything(&r, r.fds[FENCE], (off_t)r.hello.fence_bytes);
	for (unsigned slot = 0; slot < RAW_SLOTS_MAX; slot++) {
		if (r.slab_fd[slot] < 0)
			continue;
		resize_everything(&r, r.slab_fd[slot], (off_t)r.geo.handle_bytes);
		ck_assert_int_eq(fcntl(r.slab_fd[slot], F_ADD_SEALS, F_SEAL_WRITE), -1);
		ck_assert_int_eq(errno, EPERM);
	}
	for (unsigned i = SUB; i <= FENCE; i++) {
		static const int seals[] = { F_SEAL_WRITE, F_SEAL_FUTURE_WRITE, F_SEAL_SEAL,
					     F_SEAL_SHRINK };

		for (unsigned k = 0; k < 4; k++) {
			ck_assert_int_eq(fcntl(r.fds[i], F_ADD_SEALS, seals[k]), -1);
			ck_assert_int_eq(errno, EPERM);
		}
	}
	raw_leave(&r);
}

START_TEST(fault_045_049_sizes_and_seals)
{
	struct scene s;

	scene_open(&s, OPTIONS());
	child_join(child_start(resize_and_seal, &s.b));
	scene_close(&s);
}
END_TEST

/* A hole reads as zeros: an entry of zeros is a NOP, operands of zeros are no pages. */
START_TEST(fault_046_holes_in_what_the_client_writes)
{
	struct kvb_sqe release = { .opcode = KVB_OP_RELEASE, .count = 1 };
	struct scene s;
	struct raw r;

	scene_open(&s, OPTIONS());
	raw_attach(&r, &s.b, "other", NULL);
	for (unsigned i = 0; i < 200; i++) {
		struct kvb_cqe cqe;

		*raw_sqe(&r, r.sq_tail) = release;
		ck_assert_int_eq(madvise(r.sub + 4096, r.hello.sub_bytes - 4096, MADV_REMOVE), 0);
		__atomic_store_n(&raw_sub(&r)->sq_tail, ++r.sq_tail, __ATOMIC_RELEASE);
		raw_ring_doorbell(&r);
		ck_assert_int_eq(raw_cqe(&r, &cqe, 20000), 0);
		ck_assert_int_eq(cqe.res, 0);
	}
	raw_submit(&r, &release);
	/* The first page too: indices of zero, which is a tail that went back. */
	ck_assert_int_eq(madvise(r.sub, 4096, MADV_REMOVE), 0);
	raw_ring_doorbell(&r);
	ck_assert(raw_broken(&r, 20000));
	raw_close(&r);
	scene_close(&s);
}
END_TEST

static void punch_while_used(void *arg)
{
	struct kvb_sqe sqe = { .opcode = KVB_OP_FREE, .count = 512, .space = 0 };
	struct raw r;

	raw_attach(&r, arg, "other", NULL);
	raw_space(&r, 65536, 4);
	for (;;) {
		raw_submit(&r, &sqe);
		madvise(r.sub + 4096, r.hello.sub_bytes - 4096, MADV_REMOVE);
		raw_poll(&r);
	}
}

START_TEST(fault_046_holes_while_they_are_read)
{
	struct scene s;
	pid_t pid;

	scene_open(&s, OPTIONS());
	pid = child_start(punch_while_used, &s.b);
	for (uint64_t until = clock_ns() + 500000000ull; clock_ns() < until;)
		bystander_cycle(&s.by);
	child_kill(pid);
	scene_close(&s);
}
END_TEST

/* Not huge pages, of which a hole can be a SIGBUS: what the daemon maps is ordinary memory. */
START_TEST(fault_047_shared_memory_is_not_hugetlb)
{
	struct scene s;
	struct raw r;

	scene_open(&s, OPTIONS());
	raw_attach(&r, &s.b, "other", NULL);
	for (unsigned i = SUB; i <= FENCE; i++) {
		struct statfs st;

		ck_assert_int_eq(fstatfs(r.fds[i], &st), 0);
		ck_assert_int_eq((int)st.f_type, TMPFS_MAGIC);
		ck_assert_int_eq((int)st.f_bsize, 4096);
	}
	raw_close(&r);
	scene_close(&s);
}
END_TEST

#define CASE(name)                                                                                 \
	{                                                                                          \
		&name, 60                                                                          \
	}

int main(void)
{
	static const struct suite_case cases[] = {
		CASE(fault_044_ctl_written),
		CASE(fault_045_049_sizes_and_seals),
		CASE(fault_046_holes_in_what_the_client_writes),
		CASE(fault_046_holes_while_they_are_read),
		CASE(fault_047_shared_memory_is_not_hugetlb),
		{ NULL, 0 },
	};

	return suite_run("memory", cases);
}
