/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Arenas: chunks are filled in order and in full, sealed, and given out in pieces that neither
 * overlap nor span chunks. Small chunks of small arenas; where memory comes to lie is only to be
 * seen on machines with several nodes, so here it is that a node which is none costs a remark.
 */

#include <check.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "numa/arena.h"
#include "tests/unit/suite.h"

#define MIB (1ull << 20)
#define CHUNK_BYTES (16 * MIB)
#define UNIT_BYTES (2 * MIB)
#define PIECES_MAX 64

static struct arena *arena_of(uint64_t bytes)
{
	struct arena *a;

	ck_assert_int_eq(arena_new(0, bytes, CHUNK_BYTES, UNIT_BYTES, &a), 0);
	return a;
}

/* Waits for news until there are no more. Chunks. */
static uint32_t fill(struct arena *a, struct arena_status *ret)
{
	struct pollfd pfd = { .fd = arena_event_fd(a), .events = POLLIN };
	uint32_t chunks = 0, before;

	do {
		ck_assert_int_eq(poll(&pfd, 1, 20000), 1);
		before = chunks;
		chunks = arena_look(a, ret);
		ck_assert_uint_ge(chunks, before);
	} while (!ret->done);
	return chunks;
}

START_TEST(what_cannot_be_is_refused)
{
	struct arena *a = NULL;

	ck_assert_int_eq(arena_new(0, 0, CHUNK_BYTES, UNIT_BYTES, &a), -EINVAL);
	ck_assert_int_eq(arena_new(0, 3 * MIB, CHUNK_BYTES, UNIT_BYTES, &a), -EINVAL);
	ck_assert_int_eq(arena_new(0, 4 * MIB, CHUNK_BYTES, MIB, &a), -EINVAL);
	ck_assert_int_eq(arena_new(0, 4 * MIB, CHUNK_BYTES, 6 * MIB, &a), -EINVAL);
	ck_assert_int_eq(arena_new(0, 4 * MIB, 12 * MIB, UNIT_BYTES, &a), -EINVAL);
	ck_assert_int_eq(arena_new(0, 4 * MIB, UNIT_BYTES, 2 * UNIT_BYTES, &a), -EINVAL);
	ck_assert_int_eq(arena_new(5000, 4 * MIB, CHUNK_BYTES, UNIT_BYTES, &a), -EINVAL);
	ck_assert_ptr_null(a);
	ck_assert_ptr_null(arena_free(NULL));
}
END_TEST

START_TEST(chunks_are_committed_and_sealed)
{
	static const uint64_t bytes[] = { CHUNK_BYTES, CHUNK_BYTES, 6 * MIB };
	struct arena *a = arena_of(2 * CHUNK_BYTES + 6 * MIB);
	struct arena_status st;

	ck_assert_uint_eq(fill(a, &st), 3);
	ck_assert_uint_eq(st.bytes, 2 * CHUNK_BYTES + 6 * MIB);
	ck_assert_uint_eq(st.filled_bytes, st.bytes);
	ck_assert_int_eq(st.error, 0);
	ck_assert_uint_le(st.hugetlb_bytes + st.thp_bytes, st.filled_bytes);
	ck_assert_uint_le(st.wrong_node_bytes, st.filled_bytes);
	for (uint32_t i = 0; i < 3; i++) {
		uint64_t size;
		int fd = arena_chunk(a, i, &size);
		struct stat file;

		ck_assert_uint_eq(size, bytes[i]);
		ck_assert_int_eq(fstat(fd, &file), 0);
		ck_assert_int_eq(file.st_size, (off_t)size);
		ck_assert_int_ge(file.st_blocks * 512, (off_t)size);
		ck_assert_int_eq(ftruncate(fd, 0), -1);
		ck_assert_int_eq(ftruncate(fd, (off_t)(size * 2)), -1);
	}
	arena_free(a);
}
END_TEST

START_TEST(nothing_is_given_out_before_it_is_looked_at)
{
	struct arena *a = arena_of(CHUNK_BYTES);
	struct pollfd pfd = { .fd = arena_event_fd(a), .events = POLLIN };
	struct arena_status st;
	uint32_t chunk;
	uint64_t offset;

	ck_assert_int_eq(poll(&pfd, 1, 20000), 1);
	ck_assert_int_eq(arena_take(a, UNIT_BYTES, &chunk, &offset), -EAGAIN);
	ck_assert_uint_eq(fill(a, &st), 1);
	ck_assert_int_eq(arena_take(a, UNIT_BYTES, &chunk, &offset), 0);
	arena_free(a);
}
END_TEST

/* Every unit once: what is taken is marked in a map of the arena. */
START_TEST(pieces_neither_overlap_nor_span_chunks)
{
	bool used[3][CHUNK_BYTES / UNIT_BYTES] = { { false } };
	struct arena *a = arena_of(3 * CHUNK_BYTES);
	struct arena_status st;
	uint32_t chunk, pieces = 0;
	uint64_t offset;
	int error;

	fill(a, &st);
	while ((error = arena_take(a, 3 * UNIT_BYTES, &chunk, &offset)) == 0) {
		ck_assert_uint_lt(chunk, 3);
		ck_assert_uint_le(offset + 3 * UNIT_BYTES, CHUNK_BYTES);
		for (unsigned u = 0; u < 3; u++) {
			ck_assert(!used[chunk][offset / UNIT_BYTES + u]);
			used[chunk][offset / UNIT_BYTES + u] = true;
		}
		pieces++;
	}
	ck_assert_int_eq(error, -ENOSPC);
	ck_assert_uint_eq(pieces, 6); /* two of eight units a chunk are left over */
	ck_assert_uint_eq(arena_used_bytes(a), 18 * UNIT_BYTES);
	ck_assert_int_eq(arena_take(a, 2 * UNIT_BYTES, &chunk, &offset), 0);
	ck_assert_int_eq(arena_take(a, 2 * CHUNK_BYTES, &chunk, &offset), -ENOSPC);
	arena_free(a);
}
END_TEST

START_TEST(what_is_given_back_is_given_out_again)
{
	struct {
		uint32_t chunk;
		uint64_t offset;
	} piece[PIECES_MAX];
	struct arena *a = arena_of(2 * CHUNK_BYTES);
	struct arena_status st;
	uint32_t n = 0, chunk;
	uint64_t offset;

	fill(a, &st);
	while (arena_take(a, UNIT_BYTES, &piece[n].chunk, &piece[n].offset) == 0)
		n++;
	ck_assert_uint_eq(n, 16);
	for (uint32_t i = 0; i < n; i += 2) /* every other one: no two neighbours */
		arena_give(a, piece[i].chunk, piece[i].offset, UNIT_BYTES);
	ck_assert_uint_eq(arena_used_bytes(a), 8 * UNIT_BYTES);
	ck_assert_int_eq(arena_take(a, 2 * UNIT_BYTES, &chunk, &offset), -ENOSPC);
	arena_give(a, piece[5].chunk, piece[5].offset, UNIT_BYTES);
	ck_assert_int_eq(arena_take(a, 3 * UNIT_BYTES, &chunk, &offset), 0);
	ck_assert_uint_eq(chunk, piece[4].chunk);
	ck_assert_uint_eq(offset, piece[4].offset);
	arena_free(a);
}
END_TEST

/* The filling thread is in the middle of it. */
START_TEST(ends_while_it_is_filled)
{
	for (unsigned i = 0; i < 20; i++) {
		struct arena *a = arena_of(8 * CHUNK_BYTES);

		usleep(i * 500);
		ck_assert_ptr_null(arena_free(a));
	}
}
END_TEST

/* Placing is not to be had there, memory is. */
START_TEST(a_node_that_is_none)
{
	struct arena_status st;
	struct arena *a;

	ck_assert_int_eq(arena_new(1000, CHUNK_BYTES, CHUNK_BYTES, UNIT_BYTES, &a), 0);
	ck_assert_uint_eq(fill(a, &st), 1);
	ck_assert_int_lt(st.unplaced_error, 0);
	ck_assert_int_eq(st.error, 0);
	ck_assert_uint_eq(st.filled_bytes, CHUNK_BYTES);
	ck_assert_uint_eq(st.hugetlb_bytes, 0);
	/* Where it is can be seen all the same, and that is elsewhere. */
	ck_assert(st.unseen_error || st.wrong_node_bytes == CHUNK_BYTES);
	arena_free(a);
}
END_TEST

/* As containers do it: neither mbind() nor move_pages() for whoever lacks a privilege. */
static void forbid_placing(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mbind, 1, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_move_pages, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	const struct sock_fprog program = { sizeof(filter) / sizeof(filter[0]), filter };

	ck_assert_int_eq(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
	ck_assert_int_eq(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

START_TEST(fault_087_placing_is_forbidden)
{
	struct arena_status st;
	struct arena *a;

	forbid_placing();
	a = arena_of(2 * CHUNK_BYTES);
	ck_assert_uint_eq(fill(a, &st), 2);
	ck_assert_int_eq(st.unplaced_error, -EPERM);
	ck_assert_int_eq(st.unseen_error, -EPERM);
	ck_assert_int_eq(st.error, 0);
	ck_assert_uint_eq(st.filled_bytes, 2 * CHUNK_BYTES);
	ck_assert_uint_eq(st.wrong_node_bytes, 0);
	arena_free(a);
}
END_TEST

#define CASE(name)                                                                                 \
	{                                                                                          \
		&name, 60                                                                          \
	}

int main(void)
{
	static const struct suite_case cases[] = {
		CASE(what_cannot_be_is_refused),
		CASE(chunks_are_committed_and_sealed),
		CASE(nothing_is_given_out_before_it_is_looked_at),
		CASE(pieces_neither_overlap_nor_span_chunks),
		CASE(what_is_given_back_is_given_out_again),
		CASE(ends_while_it_is_filled),
		CASE(a_node_that_is_none),
		CASE(fault_087_placing_is_forbidden),
		{ NULL, 0 },
	};

	return suite_run("arena", cases);
}
