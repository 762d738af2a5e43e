/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Memory and processors of NUMA nodes; see placement.h.
 */

#include "numa/placement.h"
#include "numa/huge.h"
#include "numa/topology.h"

#include <errno.h>
#include <string.h>

/* Of the kind that arenas take (numa/arena.h). */
static uint64_t pool_bytes(const struct topology_node *node)
{
	for (unsigned i = 0; i < node->pools; i++) {
		if (node->pool[i].page_bytes == HUGE_BYTES)
			return node->pool[i].pages_free * HUGE_BYTES;
	}
	return 0;
}

int placement_node_memory(uint32_t node, struct placement_memory *ret, const char **ret_why)
{
	const struct topology_node *found;
	enum topology_state state;
	struct topology *t;
	int error = topology_read("", &t);

	*ret_why = error ? strerror(-error) : "";
	if (error)
		return error;
	found = topology_find(t, node);
	state = topology_state(t, node);
	if (found && state == TOPOLOGY_USABLE)
		*ret = (struct placement_memory){
			.total_bytes = found->total_bytes,
			.available_bytes = found->available_bytes,
			.pool_bytes = pool_bytes(found),
		};
	topology_free(t);
	*ret_why = topology_state_text(state);
	return state == TOPOLOGY_USABLE ? 0 : -ENODEV;
}

uint32_t placement_near(int32_t node)
{
	const struct topology_node *near;
	struct topology *t;
	uint32_t id;

	if (topology_read("", &t))
		return 0;
	near = topology_nearest(t, node);
	id = near ? near->id : 0;
	topology_free(t);
	return id;
}

bool placement_processors(uint32_t node, cpu_set_t *ret)
{
	char path[SYSFS_PATH_BYTES];
	struct sysfs_set near;

	if (sysfs_path(path, "", "sys/devices/system/node/node%u/cpulist", node) ||
	    sysfs_read_set(path, &near) || sched_getaffinity(0, sizeof(*ret), ret) < 0)
		return false;
	for (uint32_t i = 0; i < CPU_SETSIZE; i++) {
		if (!sysfs_set_has(&near, i))
			CPU_CLR(i, ret);
	}
	return CPU_COUNT(ret) > 0;
}
