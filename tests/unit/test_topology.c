/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Topologies of machines that are not here: each case writes the files of one below a directory of
 * its own and has them read. What is senseless in them costs itself and nothing beside it.
 */

#include <check.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "numa/placement.h"
#include "numa/topology.h"
#include "tests/unit/suite.h"

#define MIB (1ull << 20)
#define NODE "sys/devices/system/node/"
#define PCI_ROOT "sys/devices/pci0000:00/"

static char root[64];

static void begin(void)
{
	strcpy(root, "/tmp/kvb-topology-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(root));
}

static void end(void)
{
	char command[128];

	(void)snprintf(command, sizeof(command), "rm -rf %s", root);
	ck_assert_int_eq(system(command), 0);
}

/* Directories above it are made. */
static void put_bytes(const char *name, const char *text, size_t n)
{
	char path[256];
	FILE *file;

	(void)snprintf(path, sizeof(path), "%s/%s", root, name);
	for (char *c = path + strlen(root) + 1; (c = strchr(c, '/')); c++) {
		*c = '\0';
		ck_assert(mkdir(path, 0755) == 0 || errno == EEXIST);
		*c = '/';
	}
	file = fopen(path, "we");
	ck_assert_ptr_nonnull(file);
	ck_assert_uint_eq(fwrite(text, 1, n, file), n);
	ck_assert_int_eq(fclose(file), 0);
}

__attribute__((format(printf, 2, 3))) static void put(const char *name, const char *fmt, ...)
{
	char text[2048];
	va_list args;
	int n;

	va_start(args, fmt);
	n = vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	put_bytes(name, text, (size_t)n);
}

static void put_link(const char *name, const char *target)
{
	char path[256];

	put(name, " ");
	(void)snprintf(path, sizeof(path), "%s/%s", root, name);
	ck_assert_int_eq(unlink(path), 0);
	ck_assert_int_eq(symlink(target, path), 0);
}

static void put_node(unsigned id, const char *cpus, const char *distance, uint64_t mib)
{
	char name[96];

	(void)snprintf(name, sizeof(name), NODE "node%u/cpulist", id);
	put(name, "%s\n", cpus);
	(void)snprintf(name, sizeof(name), NODE "node%u/distance", id);
	put(name, "%s\n", distance);
	(void)snprintf(name, sizeof(name), NODE "node%u/meminfo", id);
	put(name,
	    "Node %u MemTotal: %8llu kB\nNode %u MemFree: %llu kB\nNode %u Active(file): 1024 kB\n"
	    "Node %u Inactive(file): 1024 kB\nNode %u SReclaimable: 2048 kB\n",
	    id, (unsigned long long)mib << 10, id, (unsigned long long)mib << 9, id, id, id);
}

static void put_pool(unsigned id, const char *kib, unsigned pages, unsigned pages_free)
{
	char name[128];

	(void)snprintf(name, sizeof(name), NODE "node%u/hugepages/hugepages-%skB/nr_hugepages", id,
		       kib);
	put(name, "%u\n", pages);
	(void)snprintf(name, sizeof(name), NODE "node%u/hugepages/hugepages-%skB/free_hugepages",
		       id, kib);
	put(name, "%u\n", pages_free);
}

static void put_gpu(const char *address, const char *class, const char *vendor, const char *node)
{
	static const char *const files[] = { "class", "vendor", "numa_node" };
	const char *const texts[] = { class, vendor, node };
	char name[128];

	for (unsigned i = 0; i < 3; i++) {
		(void)snprintf(name, sizeof(name), "sys/bus/pci/devices/%s/%s", address, files[i]);
		put(name, "%s\n", texts[i]);
	}
}

static void put_meminfo(uint64_t mib)
{
	put("proc/meminfo", "MemTotal: %llu kB\nMemFree: 2048 kB\nMemAvailable: 3072 kB\n",
	    (unsigned long long)mib << 10);
}

static struct topology *read_it(void)
{
	struct topology *t = NULL;

	ck_assert_int_eq(topology_read(root, &t), 0);
	ck_assert_ptr_nonnull(t);
	ck_assert_uint_ge(t->nodes, 1);
	return t;
}

static void put_two_nodes(void)
{
	put(NODE "online", "0-1\n");
	put(NODE "possible", "0-1\n");
	put_node(0, "0-3,8-11", "10 21", 1024);
	put_node(1, "4-7,12-15", "21 10", 2048);
	put_meminfo(3072);
}

/* ---- machines ------------------------------------------------------------------------------ */

START_TEST(one_node)
{
	struct topology *t;
	char text[32];

	begin();
	put(NODE "online", "0\n");
	put(NODE "possible", "0\n");
	put_node(0, "0-7", "10", 1024);
	put_pool(0, "2048", 16, 9);
	put_pool(0, "1048576", 2, 1);
	put_meminfo(1024);
	t = read_it();
	ck_assert(t->known);
	ck_assert_str_eq(t->why, "");
	ck_assert_uint_eq(t->nodes, 1);
	ck_assert_uint_eq(t->node->total_bytes, 1024 * MIB);
	ck_assert_uint_eq(t->node->available_bytes, 3 * MIB); /* the machine's own figure */
	ck_assert_uint_eq(sysfs_set_count(&t->node->cpus), 8);
	sysfs_set_text(&t->node->cpus, text, sizeof(text));
	ck_assert_str_eq(text, "0-7");
	ck_assert_uint_eq(t->distance[0], 10);
	ck_assert_uint_eq(t->node->pools, 2);
	ck_assert_uint_eq(t->node->pool[0].page_bytes, 2 * MIB);
	ck_assert_uint_eq(t->node->pool[0].pages, 16);
	ck_assert_uint_eq(t->node->pool[0].pages_free, 9);
	ck_assert_uint_eq(t->node->pool[1].page_bytes, 1024 * MIB);
	ck_assert_uint_eq(topology_pool_free(root, 0, 2 * MIB), 9);
	ck_assert_uint_eq(topology_pool_free(root, 1, 2 * MIB), 0);
	ck_assert_int_eq(topology_state(t, 1), TOPOLOGY_ABSENT);
	topology_free(t);
	end();
}
END_TEST

START_TEST(two_nodes)
{
	struct topology *t;
	char text[32];

	begin();
	put_two_nodes();
	put("proc/self/status", "Name:\tx\nMems_allowed:\t3\nMems_allowed_list:\t0-1\nx:\t1\n");
	t = read_it();
	ck_assert_uint_eq(t->nodes, 2);
	ck_assert_int_eq(topology_state(t, 0), TOPOLOGY_USABLE);
	ck_assert_int_eq(topology_state(t, 1), TOPOLOGY_USABLE);
	ck_assert_uint_eq(t->node[1].total_bytes, 2048 * MIB);
	ck_assert_uint_eq(t->node[1].free_bytes, 1024 * MIB);
	ck_assert_uint_eq(t->node[1].available_bytes, 1028 * MIB); /* rebuilt */
	ck_assert_uint_eq(t->distance[1], 21);
	ck_assert_uint_eq(t->distance[3], 10);
	sysfs_set_text(&t->node[1].cpus, text, sizeof(text));
	ck_assert_str_eq(text, "4-7,12-15");
	ck_assert_uint_eq(topology_nearest(t, 1)->id, 1);
	ck_assert_uint_eq(topology_nearest(t, -1)->id, 0);
	ck_assert_uint_eq(topology_nearest(t, 7)->id, 0);
	topology_free(t);
	end();
}
END_TEST

/* One with processors, or GPUs, and nothing else: what is near to it uses its neighbour's. */
START_TEST(a_node_without_memory)
{
	struct topology *t;

	begin();
	put(NODE "online", "0-2\n");
	put(NODE "possible", "0-2\n");
	put_node(0, "0-3", "10 31 20", 1024);
	put_node(1, "4-7", "31 10 15", 0);
	put_node(2, "", "20 15 10", 512); /* and one without processors */
	put_meminfo(1536);
	put_gpu("0000:3b:00.0", "0x030200", "0x10de", "1");
	t = read_it();
	ck_assert_str_eq(t->why, "");
	ck_assert_int_eq(topology_state(t, 1), TOPOLOGY_MEMORYLESS);
	ck_assert_str_eq(topology_state_text(topology_state(t, 1)), "has no memory of its own");
	ck_assert_uint_eq(t->node[1].total_bytes, 0);
	ck_assert_uint_eq(topology_nearest(t, 1)->id, 2);
	ck_assert_uint_eq(sysfs_set_count(&t->node[2].cpus), 0);
	ck_assert_int_eq(topology_state(t, 2), TOPOLOGY_USABLE);
	ck_assert_uint_eq(t->devices, 1);
	ck_assert_int_eq(t->device->node, 1);
	topology_free(t);
	end();
}
END_TEST

/* The machine's figures are better where they are of one node only. */
START_TEST(all_memory_is_one_nodes)
{
	struct topology *t;

	begin();
	put_two_nodes();
	put_node(1, "4-7", "21 10", 0);
	put_meminfo(1024);
	t = read_it();
	ck_assert_uint_eq(t->node[0].available_bytes, 3 * MIB);
	ck_assert_uint_eq(t->node[1].available_bytes, 0);
	topology_free(t);
	end();
}
END_TEST

START_TEST(eight_nodes)
{
	struct topology *t;

	begin();
	put(NODE "online", "0-7\n");
	for (unsigned i = 0; i < 8; i++) {
		char cpus[16], distance[64] = "";

		(void)snprintf(cpus, sizeof(cpus), "%u-%u", i * 16, i * 16 + 15);
		for (unsigned k = 0; k < 8; k++)
			(void)snprintf(distance + strlen(distance), 8, "%u ",
				       i == k           ? 10
				       : i / 4 == k / 4 ? 12
							: 32);
		put_node(i, cpus, distance, i == 5 ? 0 : 256);
	}
	put_meminfo(2048);
	t = read_it();
	ck_assert_uint_eq(t->nodes, 8);
	for (unsigned i = 0; i < 8; i++) {
		ck_assert_uint_eq(t->node[i].id, i);
		ck_assert_uint_eq(sysfs_set_count(&t->node[i].cpus), 16);
		ck_assert_uint_eq(t->distance[i * 8 + i], 10);
	}
	ck_assert_uint_eq(t->distance[1 * 8 + 6], 32);
	ck_assert_uint_eq(topology_nearest(t, 5)->id, 4);
	topology_free(t);
	end();
}
END_TEST

/* Distances are told of those online: with 1 away the third of a line is node 3's. */
START_TEST(an_offline_node)
{
	struct topology *t;
	char text[32];

	begin();
	put(NODE "online", "0,2-3\n");
	put(NODE "possible", "0-4\n");
	put_node(0, "0", "10 20 30", 64);
	put_node(2, "1", "20 10 40", 64);
	put_node(3, "2", "30 40 10", 64);
	put_meminfo(192);
	put_gpu("0000:01:00.0", "0x030000", "0x10de", "1");
	t = read_it();
	ck_assert_uint_eq(t->nodes, 3);
	ck_assert_int_eq(topology_state(t, 1), TOPOLOGY_OFFLINE);
	ck_assert_int_eq(topology_state(t, 4), TOPOLOGY_OFFLINE);
	ck_assert_int_eq(topology_state(t, 5), TOPOLOGY_ABSENT);
	ck_assert_ptr_null(topology_find(t, 1));
	sysfs_set_text(&t->offline, text, sizeof(text));
	ck_assert_str_eq(text, "1,4");
	ck_assert_uint_eq(t->distance[2], 30);
	ck_assert_int_eq(t->device->node, TOPOLOGY_NODE_UNKNOWN); /* said to be near to it */
	topology_free(t);
	end();
}
END_TEST

START_TEST(a_cpuset_forbids_a_node)
{
	struct topology *t;

	begin();
	put_two_nodes();
	put("proc/self/status", "Name:\tx\nMems_allowed_list:\t1\n");
	t = read_it();
	ck_assert_int_eq(topology_state(t, 0), TOPOLOGY_FORBIDDEN);
	ck_assert_int_eq(topology_state(t, 1), TOPOLOGY_USABLE);
	ck_assert_uint_eq(topology_nearest(t, 0)->id, 1);
	/* Another's memory is not promised though there is but one to be had. */
	ck_assert_uint_eq(t->node[1].available_bytes, 1028 * MIB);
	topology_free(t);
	end();
}
END_TEST

/* ---- devices ------------------------------------------------------------------------------- */

static const struct topology_device *device(const struct topology *t, const char *name)
{
	for (unsigned i = 0; i < t->devices; i++) {
		if (strcmp(t->device[i].name, name) == 0)
			return &t->device[i];
	}
	return NULL;
}

START_TEST(gpus_are_near_nodes)
{
	struct topology *t;

	begin();
	put_two_nodes();
	put_gpu("0000:86:00.0", "0x030200", "0x10de", "1");
	put_gpu("0000:3b:00.0", "0x030000", "0x10de", "0");
	put_gpu("0000:40:00.0", "0x030200", "0x10de", "-1");
	put_gpu("0000:41:00.0", "0x030200", "0x10de", "9");
	put_gpu("0000:03:00.0", "0x030000", "0x1a03", "0"); /* the console's */
	put_gpu("0000:05:00.0", "0x020000", "0x10de", "0"); /* no display: a network card */
	t = read_it();
	ck_assert_uint_eq(t->devices, 4);
	ck_assert_str_eq(t->device[0].name, "0000:3b:00.0");
	ck_assert_int_eq(t->device[0].kind, TOPOLOGY_GPU);
	ck_assert_int_eq(device(t, "0000:86:00.0")->node, 1);
	ck_assert_int_eq(device(t, "0000:40:00.0")->node, TOPOLOGY_NODE_UNKNOWN);
	ck_assert_int_eq(device(t, "0000:41:00.0")->node, TOPOLOGY_NODE_UNKNOWN);
	ck_assert_int_eq(topology_pci_node(root, "0000:86:00.0"), 1);
	ck_assert_int_eq(topology_pci_node(root, "0000:40:00.0"), TOPOLOGY_NODE_UNKNOWN);
	ck_assert_int_eq(topology_pci_node(root, "0000:99:00.0"), TOPOLOGY_NODE_UNKNOWN);
	ck_assert_int_eq(topology_pci_node(root, ""), TOPOLOGY_NODE_UNKNOWN);
	ck_assert_int_eq(topology_pci_node(root, ".."), TOPOLOGY_NODE_UNKNOWN);
	ck_assert_int_eq(topology_pci_node(root, "0000:86:00.0/../0000:3b:00.0"),
			 TOPOLOGY_NODE_UNKNOWN);
	topology_free(t);
	end();
}
END_TEST

START_TEST(drives_are_where_their_controllers_are)
{
	struct topology *t;

	begin();
	put_two_nodes();
	put(PCI_ROOT "0000:00:02.0/numa_node", "1\n");
	put(PCI_ROOT "0000:00:02.0/nvme/nvme0/nvme0n1/size", "8\n");
	put_link("sys/block/nvme0n1", "../devices/pci0000:00/0000:00:02.0/nvme/nvme0/nvme0n1");
	put(PCI_ROOT "0000:00:03.0/numa_node", "0\n");
	put(PCI_ROOT "0000:00:03.0/nvme/nvme10/numa_node", "0\n");
	put(PCI_ROOT "0000:00:03.0/nvme/nvme10/nvme10n1/size", "8\n");
	put_link("sys/block/nvme10n1", "../devices/pci0000:00/0000:00:03.0/nvme/nvme10/nvme10n1");
	put(PCI_ROOT "0000:00:04.0/virtio1/block/vda/size", "8\n");
	put_link("sys/block/vda", "../devices/pci0000:00/0000:00:04.0/virtio1/block/vda");
	put("sys/devices/virtual/block/loop0/size", "8\n");
	put_link("sys/block/loop0", "../devices/virtual/block/loop0");
	put_link("sys/block/gone", "../devices/pci0000:00/nowhere");
	/* Two ports: the disk has no place, the ways to it are hidden. */
	put("sys/devices/virtual/nvme-subsystem/nvme-subsys2/nvme2n1/size", "8\n");
	put_link("sys/block/nvme2n1", "../devices/virtual/nvme-subsystem/nvme-subsys2/nvme2n1");
	put(PCI_ROOT "0000:00:05.0/numa_node", "1\n");
	put(PCI_ROOT "0000:00:05.0/nvme/nvme2/nvme2c2n1/hidden", "1\n");
	put_link("sys/block/nvme2c2n1", "../devices/pci0000:00/0000:00:05.0/nvme/nvme2/nvme2c2n1");
	put("sys/devices/virtual/nvme-subsystem/nvme-subsys3/nvme3n1/size", "8\n");
	put_link("sys/block/nvme3n1", "../devices/virtual/nvme-subsystem/nvme-subsys3/nvme3n1");
	t = read_it();
	ck_assert_uint_eq(t->devices, 5);
	ck_assert_str_eq(t->device[0].name, "nvme0n1");
	ck_assert_str_eq(t->device[3].name, "nvme10n1"); /* by number, not by letter */
	ck_assert_int_eq(t->device[0].kind, TOPOLOGY_DRIVE);
	ck_assert_int_eq(device(t, "nvme0n1")->node, 1);
	ck_assert_int_eq(device(t, "nvme10n1")->node, 0);
	ck_assert_int_eq(device(t, "nvme2n1")->node, 1);
	ck_assert_int_eq(device(t, "nvme3n1")->node, TOPOLOGY_NODE_UNKNOWN);
	ck_assert_int_eq(device(t, "vda")->node, TOPOLOGY_NODE_UNKNOWN);
	topology_free(t);
	end();
}
END_TEST

/* Where there is one node no firmware has to tell. */
START_TEST(on_one_node_everything_is_near_it)
{
	struct topology *t;

	begin();
	put(NODE "online", "0\n");
	put_node(0, "0-7", "10", 1024);
	put_meminfo(1024);
	put_gpu("0000:3b:00.0", "0x030200", "0x10de", "-1");
	put(PCI_ROOT "0000:00:04.0/virtio1/block/vda/size", "8\n");
	put_link("sys/block/vda", "../devices/pci0000:00/0000:00:04.0/virtio1/block/vda");
	t = read_it();
	ck_assert_uint_eq(t->devices, 2);
	ck_assert_int_eq(t->device[0].node, 0);
	ck_assert_int_eq(t->device[1].node, 0);
	topology_free(t);
	end();
}
END_TEST

/* ---- what cannot be ------------------------------------------------------------------------ */

START_TEST(without_sysfs_node_0_is_the_machine)
{
	struct topology *t;

	begin();
	put_meminfo(512);
	t = read_it();
	ck_assert(!t->known);
	ck_assert_str_eq(t->why, "/sys/devices/system/node/online: No such file or directory");
	ck_assert_uint_eq(t->nodes, 1);
	ck_assert_uint_eq(t->node->id, 0);
	ck_assert_uint_eq(t->node->total_bytes, 512 * MIB);
	ck_assert_uint_eq(t->node->available_bytes, 3 * MIB);
	ck_assert_int_eq(topology_state(t, 0), TOPOLOGY_USABLE);
	ck_assert_int_eq(topology_state(t, 1), TOPOLOGY_ABSENT);
	topology_free(t);
	end();
}
END_TEST

/* As where a container hides /sys: the directory is there and may not be looked into. */
START_TEST(without_permission_node_0_is_the_machine)
{
	char path[128];
	struct topology *t;

	begin();
	put_two_nodes();
	put_meminfo(512);
	(void)snprintf(path, sizeof(path), "%s/sys", root);
	ck_assert_int_eq(chmod(root, 0755), 0);
	ck_assert_int_eq(chmod(path, 0), 0);
	if (geteuid() == 0)
		ck_assert_int_eq(setresuid(65534, 65534, 0), 0);
	t = read_it();
	ck_assert(!t->known);
	ck_assert_str_eq(t->why, "/sys/devices/system/node/online: Permission denied");
	ck_assert_uint_eq(t->nodes, 1);
	ck_assert_uint_eq(t->devices, 0);
	topology_free(t);
	if (getuid() == 65534)
		ck_assert_int_eq(setresuid(0, 0, 0), 0);
	ck_assert_int_eq(chmod(path, 0755), 0);
	end();
}
END_TEST

START_TEST(without_anything_it_is_an_error)
{
	struct topology *t = NULL;

	begin();
	ck_assert_int_eq(topology_read(root, &t), -ENOENT);
	put("proc/meminfo", "nothing of use\n");
	ck_assert_int_eq(topology_read(root, &t), -EBADMSG);
	ck_assert_ptr_null(t);
	ck_assert_ptr_null(topology_free(NULL));
	end();
}
END_TEST

/* The list of nodes itself: then nothing of the rest is believed. */
START_TEST(senseless_lists_of_nodes)
{
	static const char *const bad[] = {
		"",
		"\n",
		"x",
		"0-",
		"-1",
		"0,",
		",0",
		"1-0",
		"0 1",
		"0--1",
		"0-1x",
		"0x0",
		"1024",
		"0-8191",
		"99999",
		"0-8192",
		"+0",
		"18446744073709551616",
		"0-18446744073709551617",
	};

	begin();
	put_two_nodes();
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct topology *t;

		put(NODE "online", "%s", bad[i]);
		t = read_it();
		ck_assert_msg(!t->known, "'%s' was believed", bad[i]);
		ck_assert_str_eq(t->why, "/sys/devices/system/node/online: it makes no sense");
		ck_assert_uint_eq(t->node->total_bytes, 3072 * MIB);
		topology_free(t);
	}
	end();
}
END_TEST

/* Each of the other files, one at a time, with everything that is none. */
START_TEST(senseless_files_cost_themselves)
{
	static const char *const files[] = {
		NODE "possible",
		NODE "node1/cpulist",
		NODE "node1/distance",
		NODE "node1/meminfo",
		NODE "node1/hugepages/hugepages-2048kB/nr_hugepages",
		NODE "node1/hugepages/hugepages-2048kB/free_hugepages",
		"proc/meminfo",
		"proc/self/status",
		"sys/bus/pci/devices/0000:3b:00.0/numa_node",
	};
	static const char *const bad[] = {
		"",
		"\n\n\n",
		"-1",
		"banana",
		"10 21 30",
		"10",
		"300 10",
		"0-3,,5",
		"Node 1 MemTotal: 99999999999999999999999 kB\n",
		"Node 1 MemTotal: 18446744073709551615 kB\nNode 1 MemFree: -4 kB\n",
		"Node MemTotal: 7 kB\nNode 4294967296 MemFree: 1 kB\n: 1\nMemTotal",
		"Node 1 MemTotal: 10 kB\nNode 1 MemFree: 4000000000 kB\n"
		"Node 1 Active(file): 18014398509481983 kB\nNode 1 Inactive(file): "
		"18014398509481983 kB\n",
		"\nMems_allowed_list:",
		"\nMems_allowed_list:\tx\n",
		"\033[2J\377\376",
	};
	const unsigned bad_n = sizeof(bad) / sizeof(bad[0]);
	char *huge = malloc(SYSFS_TEXT_BYTES + 1);

	begin();
	memset(huge, '1', SYSFS_TEXT_BYTES + 1);
	for (unsigned f = 0; f < sizeof(files) / sizeof(files[0]); f++) {
		for (unsigned i = 0; i < bad_n + 2; i++) {
			struct topology *t;

			put_two_nodes();
			put_pool(1, "2048", 4, 4);
			put("proc/self/status", "Name:\tx\nMems_allowed_list:\t0-1\n");
			put_gpu("0000:3b:00.0", "0x030200", "0x10de", "1");
			if (i < bad_n)
				put(files[f], "%s", bad[i]);
			else if (i == bad_n)
				put_bytes(files[f], huge, SYSFS_TEXT_BYTES + 1);
			else
				put_bytes(files[f], "1\0002", 3);
			t = read_it();
			ck_assert(t->known);
			ck_assert_uint_eq(t->nodes, 2);
			ck_assert_uint_eq(t->node[0].total_bytes, 1024 * MIB);
			ck_assert_uint_eq(t->distance[1], 21);
			ck_assert_uint_le(t->node[1].free_bytes, t->node[1].total_bytes);
			ck_assert_uint_le(t->node[1].available_bytes, t->node[1].total_bytes);
			ck_assert_ptr_nonnull(device(t, "0000:3b:00.0"));
			if (strcmp(files[f], NODE "node1/distance") == 0) {
				ck_assert_uint_eq(t->distance[2] + t->distance[3], 0);
				ck_assert_ptr_nonnull(strstr(t->why, "node1/distance"));
			}
			topology_free(t);
		}
	}
	free(huge);
	end();
}
END_TEST

/* What cannot be read is not nothing, and not the machine's either. */
START_TEST(a_node_that_does_not_tell_its_memory)
{
	struct topology *t;

	begin();
	put_two_nodes();
	put_node(0, "0-3", "10 21", 0);
	put(NODE "node1/meminfo", "?");
	t = read_it();
	ck_assert_int_eq(topology_state(t, 0), TOPOLOGY_MEMORYLESS);
	ck_assert_int_eq(topology_state(t, 1), TOPOLOGY_UNTOLD);
	ck_assert_uint_eq(t->node[1].total_bytes, 0);
	ck_assert_ptr_null(topology_nearest(t, 1));
	ck_assert_str_eq(t->why, "/" NODE "node1/meminfo: it makes no sense");
	topology_free(t);
	end();
}
END_TEST

START_TEST(files_that_are_too_long_or_no_text)
{
	char *ones = malloc(SYSFS_TEXT_BYTES), path[128];
	uint64_t n = 7;

	begin();
	memset(ones, '0', SYSFS_TEXT_BYTES);
	(void)snprintf(path, sizeof(path), "%s/file", root);
	put_bytes("file", ones, SYSFS_TEXT_BYTES);
	ck_assert_int_eq(sysfs_read_number(path, 9, &n), -E2BIG);
	put_bytes("file", ones, SYSFS_TEXT_BYTES - 1);
	ck_assert_int_eq(sysfs_read_number(path, 9, &n), 0);
	ck_assert_uint_eq(n, 0);
	put_bytes("file", "1\0", 2);
	ck_assert_int_eq(sysfs_read_number(path, 9, &n), -EBADMSG);
	put("file", "0x1f\n");
	ck_assert_int_eq(sysfs_read_number(path, 0x1f, &n), 0);
	ck_assert_uint_eq(n, 0x1f);
	ck_assert_int_eq(sysfs_read_number(path, 0x1e, &n), -EBADMSG);
	put("file", "0x11111111111111111\n");
	ck_assert_int_eq(sysfs_read_number(path, UINT64_MAX, &n), -EBADMSG);
	put("file", "0x\n");
	ck_assert_int_eq(sysfs_read_number(path, 9, &n), -EBADMSG);
	free(ones);
	end();
}
END_TEST

START_TEST(directories_are_no_files_and_files_no_directories)
{
	struct topology *t;

	begin();
	put_two_nodes();
	put(NODE "node1/hugepages", "a file\n");
	put("sys/bus/pci/devices", "a file\n");
	put("sys/block/sda", "a file\n"); /* as old kernels have no links here */
	put(NODE "node0/hugepages/hugepages-kB/nr_hugepages", "1\n");
	put(NODE "node0/hugepages/hugepages-0kB/nr_hugepages", "1\n");
	put(NODE "node0/hugepages/hugepages-99999999999999999999kB/nr_hugepages", "1\n");
	put(NODE "node0/hugepages/hugepages-2048kB/nr_hugepages/x", "1\n");
	t = read_it();
	ck_assert_uint_eq(t->node[0].pools, 0);
	ck_assert_uint_eq(t->node[1].pools, 0);
	ck_assert_uint_eq(t->devices, 1);
	ck_assert_int_eq(t->device->node, TOPOLOGY_NODE_UNKNOWN);
	ck_assert_ptr_nonnull(strstr(t->why, "node0/hugepages/hugepages-2048kB"));
	topology_free(t);
	end();
}
END_TEST

START_TEST(a_root_that_is_too_long)
{
	char *longer = malloc(SYSFS_PATH_BYTES + 1);
	struct topology *t;

	memset(longer, 'x', SYSFS_PATH_BYTES);
	longer[SYSFS_PATH_BYTES] = '\0';
	ck_assert_int_eq(topology_read(longer, &t), -ENAMETOOLONG);
	free(longer);
}
END_TEST

START_TEST(sets_are_cut_to_their_room)
{
	struct sysfs_set set = { { 0 } };
	char text[12];

	ck_assert(!sysfs_parse_set("1-0", &set));
	ck_assert(!sysfs_parse_set("1,3-2", &set));
	ck_assert_uint_eq(sysfs_set_count(&set), 0);
	ck_assert(sysfs_parse_set("1,3,5,7-9,8191", &set));
	ck_assert_uint_eq(sysfs_set_count(&set), 7);
	ck_assert(sysfs_set_has(&set, 8191));
	ck_assert(!sysfs_set_has(&set, 8192));
	sysfs_set_text(&set, text, sizeof(text));
	ck_assert_str_eq(text, "1,3,5...");
}
END_TEST

/* ---- this machine -------------------------------------------------------------------------- */

START_TEST(this_machine_is_read)
{
	struct placement_memory memory;
	struct topology *t;
	const char *why;

	ck_assert_int_eq(topology_read("", &t), 0);
	ck_assert_ptr_nonnull(topology_nearest(t, -1));
	ck_assert_uint_gt(topology_nearest(t, -1)->total_bytes, 0);
	ck_assert_uint_eq(placement_near(-1), topology_nearest(t, -1)->id);
	ck_assert_uint_eq(placement_near(4000), topology_nearest(t, -1)->id);
	ck_assert_int_eq(placement_node_memory(placement_near(0), &memory, &why), 0);
	ck_assert_uint_ge(memory.total_bytes, memory.available_bytes);
	ck_assert_uint_gt(memory.available_bytes, 0);
	ck_assert_int_eq(placement_node_memory(4000, &memory, &why), -ENODEV);
	ck_assert_str_eq(why, "is not there");
	topology_free(t);
}
END_TEST

#define CASE(name)                                                                                 \
	{                                                                                          \
		&name, 60                                                                          \
	}

int main(void)
{
	static const struct suite_case cases[] = {
		CASE(one_node),
		CASE(two_nodes),
		CASE(a_node_without_memory),
		CASE(all_memory_is_one_nodes),
		CASE(eight_nodes),
		CASE(an_offline_node),
		CASE(a_cpuset_forbids_a_node),
		CASE(gpus_are_near_nodes),
		CASE(drives_are_where_their_controllers_are),
		CASE(on_one_node_everything_is_near_it),
		CASE(without_sysfs_node_0_is_the_machine),
		CASE(without_permission_node_0_is_the_machine),
		CASE(without_anything_it_is_an_error),
		CASE(senseless_lists_of_nodes),
		CASE(senseless_files_cost_themselves),
		CASE(a_node_that_does_not_tell_its_memory),
		CASE(files_that_are_too_long_or_no_text),
		CASE(directories_are_no_files_and_files_no_directories),
		CASE(a_root_that_is_too_long),
		CASE(sets_are_cut_to_their_room),
		CASE(this_machine_is_read),
		{ NULL, 0 },
	};

	return suite_run("topology", cases);
}
