/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Memory of NUMA nodes; see placement.h.
 *
 * The kernel computes MemAvailable for the machine only, and where there is one node that is its
 * figure (virtual machines that are given memory as they use it say less in sysfs). For one of
 * several nodes it is rebuilt from the node's own lines: free memory, the page cache that can be
 * dropped and slabs that can be reclaimed. Shared memory (memfds, tmpfs) is not among them: it
 * counts as anonymous, so what other daemons hold is not promised twice.
 */

#include "numa/placement.h"

#include <errno.h>
#include <inttypes.h>
#include <numa.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct meminfo {
	uint64_t total, free, available, active_file, inactive_file, reclaimable; /* KiB */
	bool has_available;
};

static void meminfo_take(struct meminfo *info, const char *key, uint64_t kib)
{
	if (strcmp(key, "MemTotal") == 0) {
		info->total = kib;
	} else if (strcmp(key, "MemFree") == 0) {
		info->free = kib;
	} else if (strcmp(key, "MemAvailable") == 0) {
		info->available = kib;
		info->has_available = true;
	} else if (strcmp(key, "Active(file)") == 0) {
		info->active_file = kib;
	} else if (strcmp(key, "Inactive(file)") == 0) {
		info->inactive_file = kib;
	} else if (strcmp(key, "SReclaimable") == 0) {
		info->reclaimable = kib;
	}
}

/* Lines are "Key: N kB", with "Node N " before them in sysfs. */
static int meminfo_read(const char *path, struct meminfo *ret)
{
	FILE *file = fopen(path, "re");
	char line[256], key[64];
	uint64_t kib;

	if (!file)
		return -errno;
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, "Node %*u %63[^:]: %" SCNu64, key, &kib) == 2 ||
		    sscanf(line, "%63[^:]: %" SCNu64, key, &kib) == 2)
			meminfo_take(ret, key, kib);
	}
	fclose(file);
	return ret->total ? 0 : -ENODATA;
}

static bool placement_has_nodes(void)
{
	return numa_available() >= 0 && access("/sys/devices/system/node/node0", F_OK) == 0;
}

bool placement_node_exists(uint32_t node)
{
	if (!placement_has_nodes())
		return node == 0;
	return numa_bitmask_isbitset(numa_all_nodes_ptr, node);
}

int placement_node_memory(uint32_t node, struct placement_memory *ret)
{
	char path[96] = "/proc/meminfo";
	struct meminfo info = { 0 };
	int error;

	if (!placement_node_exists(node))
		return -ENODEV;
	if (placement_has_nodes() && numa_bitmask_weight(numa_all_nodes_ptr) > 1)
		snprintf(path, sizeof(path), "/sys/devices/system/node/node%u/meminfo", node);
	error = meminfo_read(path, &info);
	if (error)
		return error;
	if (!info.has_available)
		info.available =
			info.free + info.active_file + info.inactive_file + info.reclaimable;
	ret->total_bytes = info.total << 10;
	ret->available_bytes = info.available << 10;
	return 0;
}
