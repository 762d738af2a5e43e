/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What only a machine of several nodes shows; runs in the virtual machine of numa_vm.py, as root of
 * it. The machine is:
 *
 *   node 0   processor 0, most of the memory
 *   node 1   processor 1, memory, a drive, a pool of huge pages
 *   node 2   processor 2 only; node 1 is nearest
 *   node 3   memory only, little
 *
 * Linux counts nodes with processors first, whatever the machine calls them.
 */

#include <check.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "numa/arena.h"
#include "numa/placement.h"
#include "numa/topology.h"
#include "tests/unit/suite.h"

#define MIB (1ull << 20)
#define CHUNK_BYTES (16 * MIB)
#define NODE_3_BYTES (160 * MIB) /* as numa_vm.py gives it */

static const uint8_t distances[4][4] = {
	{ 10, 20, 30, 40 },
	{ 20, 10, 15, 40 },
	{ 30, 15, 10, 50 },
	{ 40, 40, 50, 10 },
};

static void fill(uint32_t node, uint64_t bytes, struct arena_status *ret)
{
	struct arena *a;
	struct pollfd pfd = { .events = POLLIN };

	ck_assert_int_eq(arena_new(node, bytes, CHUNK_BYTES, 2 * MIB, &a), 0);
	pfd.fd = arena_event_fd(a);
	do {
		ck_assert_int_eq(poll(&pfd, 1, 120000), 1);
		arena_look(a, ret);
	} while (!ret->done);
	arena_free(a);
	ck_assert_int_eq(ret->error, 0);
	ck_assert_uint_eq(ret->filled_bytes, bytes);
}

static void set_pool(unsigned node, unsigned pages)
{
	char path[96];
	FILE *file;

	(void)snprintf(path, sizeof(path),
		       "/sys/devices/system/node/node%u/hugepages/hugepages-2048kB/nr_hugepages",
		       node);
	file = fopen(path, "we");
	ck_assert_ptr_nonnull(file);
	ck_assert_int_gt(fprintf(file, "%u\n", pages), 0);
	ck_assert_int_eq(fclose(file), 0);
	ck_assert_uint_eq(topology_pool_free("", node, 2 * MIB), pages);
}

START_TEST(topology_is_what_the_machine_was_started_with)
{
	static const unsigned cpus[] = { 1, 1, 1, 0 };
	struct topology *t;
	bool drive = false;

	ck_assert_int_eq(topology_read("", &t), 0);
	ck_assert(t->known);
	ck_assert_str_eq(t->why, "");
	ck_assert_uint_eq(t->nodes, 4);
	for (unsigned i = 0; i < 4; i++) {
		ck_assert_uint_eq(t->node[i].id, i);
		ck_assert_uint_eq(sysfs_set_count(&t->node[i].cpus), cpus[i]);
		ck_assert_int_eq(t->node[i].state, i == 2 ? TOPOLOGY_MEMORYLESS : TOPOLOGY_USABLE);
		ck_assert_uint_ge(t->node[i].pools, 1);
	}
	ck_assert_mem_eq(t->distance, distances, sizeof(distances));
	for (unsigned i = 0; i < t->devices; i++) {
		drive |= strcmp(t->device[i].name, "nvme0n1") == 0;
		ck_assert_int_eq(t->device[i].node, 1);
	}
	ck_assert(drive);
	topology_free(t);
}
END_TEST

START_TEST(a_node_without_memory_is_refused_and_its_neighbour_taken)
{
	struct placement_memory memory;
	const char *why;

	ck_assert_int_eq(placement_node_memory(2, &memory, &why), -ENODEV);
	ck_assert_str_eq(why, "has no memory of its own");
	ck_assert_uint_eq(placement_near(2), 1);
	ck_assert_uint_eq(placement_near(3), 3);
	ck_assert_int_eq(placement_node_memory(3, &memory, &why), 0);
	ck_assert_uint_le(memory.total_bytes, NODE_3_BYTES);
	ck_assert_uint_le(memory.available_bytes, memory.total_bytes);
}
END_TEST

START_TEST(arenas_lie_on_their_nodes)
{
	for (uint32_t node = 0; node < 4; node++) {
		struct arena_status st;

		if (node == 2)
			continue;
		fill(node, 4 * CHUNK_BYTES, &st);
		ck_assert_int_eq(st.unplaced_error, 0);
		ck_assert_int_eq(st.unseen_error, 0);
		ck_assert_uint_eq(st.wrong_node_bytes, 0);
		ck_assert_uint_eq(st.hugetlb_bytes, 0);
	}
}
END_TEST

/* More than the node has goes to its neighbours, and is counted: it lies there, or nothing does. */
START_TEST(what_lies_elsewhere_is_counted)
{
	struct arena_status st;

	fill(3, NODE_3_BYTES + 2 * CHUNK_BYTES, &st);
	ck_assert_int_eq(st.unseen_error, 0);
	ck_assert_uint_ge(st.wrong_node_bytes, 2 * CHUNK_BYTES);
	ck_assert_uint_lt(st.wrong_node_bytes, NODE_3_BYTES);
	fill(2, CHUNK_BYTES, &st);
	ck_assert_uint_eq(st.wrong_node_bytes, CHUNK_BYTES);
}
END_TEST

/* A pool of a chunk and a half is one chunk; that of another node is not touched. */
START_TEST(huge_pages_of_the_node_are_taken_first)
{
	struct arena_status st;

	set_pool(0, 8);
	set_pool(1, 12);
	fill(1, 2 * CHUNK_BYTES, &st);
	ck_assert_uint_eq(st.hugetlb_bytes, CHUNK_BYTES);
	ck_assert_uint_le(st.thp_bytes, CHUNK_BYTES);
	ck_assert_uint_eq(st.wrong_node_bytes, 0);
	ck_assert_uint_eq(topology_pool_free("", 1, 2 * MIB), 12);
	fill(3, CHUNK_BYTES, &st);
	ck_assert_uint_eq(st.hugetlb_bytes, 0);
	fill(0, 8 * 2 * MIB, &st);
	ck_assert_uint_eq(st.hugetlb_bytes, CHUNK_BYTES);
	set_pool(0, 0);
	set_pool(1, 0);
}
END_TEST

/* Where mbind() is forbidden memory comes from where it is touched: next to the node. */
START_TEST(without_placing_it_is_filled_next_to_the_node)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mbind, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	const struct sock_fprog program = { sizeof(filter) / sizeof(filter[0]), filter };

	ck_assert_int_eq(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
	ck_assert_int_eq(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
	for (uint32_t node = 0; node < 2; node++) {
		struct arena_status st;

		fill(node, 2 * CHUNK_BYTES, &st);
		ck_assert_int_eq(st.unplaced_error, -EPERM);
		ck_assert_int_eq(st.unseen_error, 0);
		ck_assert_uint_eq(st.wrong_node_bytes, 0);
	}
}
END_TEST

#define CASE(name)                                                                                 \
	{                                                                                          \
		&name, 300                                                                         \
	}

int main(void)
{
	static const struct suite_case cases[] = {
		CASE(topology_is_what_the_machine_was_started_with),
		CASE(a_node_without_memory_is_refused_and_its_neighbour_taken),
		CASE(arenas_lie_on_their_nodes),
		CASE(what_lies_elsewhere_is_counted),
		CASE(huge_pages_of_the_node_are_taken_first),
		CASE(without_placing_it_is_filled_next_to_the_node),
		{ NULL, 0 },
	};

	return suite_run("nodes", cases);
}
