/* SPDX-License-Identifier: Apache-2.0 */

/*
 * numa show, as a document and in words: of a machine with two nodes and one that is offline, its
 * devices, and a broker's arenas, all made here.
 */

#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/core/core.h"
#include "numa/topology.h"
#include "tests/unit/suite.h"
#include "tools/broker-ctl/ctl.h"

#define GIB (1ull << 30)

static struct topology_node nodes[2];
static uint8_t distances[4];
static struct topology_device devices[4];
static struct topology machine;
static struct stats_segment *seg;

static struct stats_device *segment_device(const char *name, uint32_t kind, int32_t node)
{
	struct stats_device *d = &seg->device[seg->devices_n++];

	(void)snprintf(d->name, sizeof(d->name), "%s", name);
	d->kind = kind;
	d->node = node;
	return d;
}

static void machine_fill(void)
{
	struct stats_device *arena;

	nodes[0] = (struct topology_node){ .told = true,
					   .total_bytes = 8 * GIB,
					   .free_bytes = 4 * GIB,
					   .available_bytes = 6 * GIB,
					   .pools = 1,
					   .pool = { { 2 << 20, 16, 9 } } };
	nodes[1] = (struct topology_node){ .id = 1, .state = TOPOLOGY_MEMORYLESS, .told = true };
	memset(&nodes[0].cpus, 0, sizeof(nodes[0].cpus));
	ck_assert(sysfs_parse_set("0-3", &nodes[0].cpus));
	memcpy(distances, (const uint8_t[]){ 10, 21, 0, 0 }, sizeof(distances));
	devices[0] = (struct topology_device){ TOPOLOGY_GPU, "0000:3b:00.0", 0 };
	devices[1] = (struct topology_device){ TOPOLOGY_GPU, "0000:86:00.0", 1 };
	devices[2] = (struct topology_device){ TOPOLOGY_DRIVE, "nvme0n1", 1 };
	devices[3] = (struct topology_device){ TOPOLOGY_DRIVE, "vda", TOPOLOGY_NODE_UNKNOWN };
	machine = (struct topology){ .known = true,
				     .nodes = 2,
				     .node = nodes,
				     .distance = distances,
				     .devices = 4,
				     .device = devices };
	sysfs_set_add(&machine.offline, 3);
	seg = calloc(1, sizeof(*seg));
	ck_assert_ptr_nonnull(seg);
	(void)segment_device("host:0", KVB_DEVICE_HOST, 0);
	strcpy(segment_device("cuda:5", KVB_DEVICE_CUDA, 1)->pci, "0000:86:00.0");
	(void)segment_device("cuda:6", KVB_DEVICE_CUDA, -1);
	arena = segment_device("arena:0", CORE_KIND_ARENA, 0);
	arena->capacity_bytes = 4 * GIB;
	arena->filled_bytes = 3 * GIB;
	arena->granted_bytes = GIB;
	arena->misplaced_bytes = GIB / 2;
	arena->hugetlb_bytes = GIB;
	arena->thp_bytes = GIB;
}

static const cJSON *get(const cJSON *o, const char *key)
{
	const cJSON *value = cJSON_GetObjectItemCaseSensitive(o, key);

	ck_assert_msg(value != NULL, "there is no %s", key);
	return value;
}

static double number(const cJSON *o, const char *key)
{
	ck_assert(cJSON_IsNumber(get(o, key)));
	return get(o, key)->valuedouble;
}

static const char *text(const cJSON *o, const char *key)
{
	ck_assert(cJSON_IsString(get(o, key)));
	return get(o, key)->valuestring;
}

START_TEST(nodes_as_a_document)
{
	const cJSON *node, *arena;
	cJSON *o;

	machine_fill();
	o = numa_json(&machine, seg);
	ck_assert(cJSON_IsTrue(get(o, "known")));
	ck_assert(cJSON_IsNull(get(o, "why")));
	ck_assert_str_eq(text(o, "offline"), "3");
	ck_assert_int_eq(cJSON_GetArraySize(get(o, "nodes")), 2);
	node = cJSON_GetArrayItem(get(o, "nodes"), 0);
	ck_assert_str_eq(text(node, "state"), "ok");
	ck_assert_str_eq(text(node, "cpus"), "0-3");
	ck_assert(number(node, "cpus_n") == 4);
	ck_assert(number(node, "total_bytes") == 8.0 * GIB);
	ck_assert(cJSON_GetArrayItem(get(node, "distances"), 1)->valuedouble == 21);
	ck_assert(number(cJSON_GetArrayItem(get(node, "hugepages"), 0), "pages_free") == 9);
	ck_assert(cJSON_IsNull(get(cJSON_GetArrayItem(get(node, "gpus"), 0), "device")));
	ck_assert_int_eq(cJSON_GetArraySize(get(node, "drives")), 0);
	ck_assert_str_eq(cJSON_GetArrayItem(get(node, "devices"), 0)->valuestring, "host:0");
	arena = cJSON_GetArrayItem(get(node, "arenas"), 0);
	ck_assert_str_eq(text(arena, "name"), "arena:0");
	ck_assert(number(arena, "filled_bytes") == 3.0 * GIB);
	ck_assert(number(arena, "misplaced_bytes") == GIB / 2);
	ck_assert(number(arena, "hugetlb_bytes") == GIB);
	ck_assert(number(arena, "small_bytes") == GIB);
	ck_assert(cJSON_IsTrue(get(arena, "placed")));
	node = cJSON_GetArrayItem(get(o, "nodes"), 1);
	ck_assert_str_eq(text(node, "state"), "memoryless");
	ck_assert(number(node, "total_bytes") == 0);
	ck_assert(cJSON_IsNull(cJSON_GetArrayItem(get(node, "distances"), 0)));
	ck_assert_str_eq(text(cJSON_GetArrayItem(get(node, "gpus"), 0), "device"), "cuda:5");
	ck_assert_str_eq(cJSON_GetArrayItem(get(node, "drives"), 0)->valuestring, "nvme0n1");
	node = get(o, "elsewhere");
	ck_assert_str_eq(cJSON_GetArrayItem(get(node, "drives"), 0)->valuestring, "vda");
	ck_assert_str_eq(cJSON_GetArrayItem(get(node, "devices"), 0)->valuestring, "cuda:6");
	cJSON_Delete(o);
	free(seg);
}
END_TEST

/* What could not be seen is not said to be nothing; what is on no node there is is not lost. */
START_TEST(what_is_not_known_is_null)
{
	cJSON *o;
	const cJSON *arena;

	machine_fill();
	machine.known = false;
	strcpy(machine.why, "/sys: no");
	nodes[0].told = false;
	seg->device[3].unseen_error = -EPERM;
	seg->device[3].unplaced_error = -EPERM;
	seg->device[3].node = 7;
	o = numa_json(&machine, seg);
	ck_assert(cJSON_IsFalse(get(o, "known")));
	ck_assert_str_eq(text(o, "why"), "/sys: no");
	ck_assert(cJSON_IsNull(get(cJSON_GetArrayItem(get(o, "nodes"), 0), "available_bytes")));
	arena = cJSON_GetArrayItem(get(get(o, "elsewhere"), "arenas"), 0);
	ck_assert_str_eq(text(arena, "name"), "arena:0");
	ck_assert(cJSON_IsNull(get(arena, "misplaced_bytes")));
	ck_assert(cJSON_IsFalse(get(arena, "placed")));
	cJSON_Delete(o);
	free(seg);
}
END_TEST

static char *words(void)
{
	char *said = NULL;
	size_t n = 0;
	FILE *to = open_memstream(&said, &n);

	numa_say(to, &machine, seg);
	ck_assert_int_eq(fclose(to), 0);
	return said;
}

START_TEST(nodes_in_words)
{
	char *said;

	machine_fill();
	said = words();
	ck_assert_str_eq(
		said,
		"available: 2 nodes (0-1), offline: 3\n"
		"node 0 cpus: 0-3\n"
		"node 0 size: 8.0G\n"
		"node 0 free: 4.0G (6.0G available)\n"
		"node 0 hugepages of 2.0M: 9 of 16 free\n"
		"node 0 gpus: 0000:3b:00.0\n"
		"node 0 devices: host:0\n"
		"node 0 arena:0: 3.0G of 4.0G filled, 1.0G granted, 512.0M on another node; 1.0G "
		"hugetlb, 1.0G transparent huge, 1.0G small pages\n"
		"node 1 cpus: -\n"
		"node 1 has no memory of its own\n"
		"node 1 gpus: 0000:86:00.0 (cuda:5)\n"
		"node 1 drives: nvme0n1\n"
		"node 1 devices: cuda:5\n"
		"elsewhere drives: vda\n"
		"elsewhere devices: cuda:6\n"
		"node distances:\n"
		"node   0   1\n"
		"  0:  10  21\n"
		"  1:   -   -\n");
	free(said);
	free(seg);
}
END_TEST

START_TEST(words_say_what_is_not_known)
{
	char *said;

	machine_fill();
	machine.known = false;
	strcpy(machine.why, "/sys: no");
	seg->device[3].unseen_error = -EPERM;
	seg->device[3].unplaced_error = -EPERM;
	said = words();
	ck_assert_ptr_nonnull(strstr(said, "node 0 stands for the whole machine (/sys: no)\n"));
	ck_assert_ptr_nonnull(strstr(said, "512.0M or more on another node"));
	ck_assert_ptr_nonnull(strstr(said, "small pages; the system forbids placing\n"));
	free(said);
	machine.known = true;
	said = words();
	ck_assert_ptr_nonnull(strstr(said, "not all of it can be told (/sys: no)\n"));
	free(said);
	free(seg);
}
END_TEST

int main(void)
{
	static const struct suite_case cases[] = {
		{ &nodes_as_a_document, 0 },
		{ &what_is_not_known_is_null, 0 },
		{ &nodes_in_words, 0 },
		{ &words_say_what_is_not_known, 0 },
		{ NULL, 0 },
	};

	return suite_run("numa show", cases);
}
