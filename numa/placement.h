/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Which NUMA nodes there are and how much memory each could give.
 *
 * Reads at the call, keeps nothing. On a machine with one node, or (in a container) without NUMA in
 * sysfs, node 0 stands for the whole machine and its figures are those of /proc/meminfo.
 */

#include <stdbool.h>
#include <stdint.h>

struct placement_memory {
	uint64_t total_bytes;
	uint64_t available_bytes; /* what could be had without swapping */
};

bool placement_node_exists(uint32_t node);
/* 0, -ENODEV, -errno. */
int placement_node_memory(uint32_t node, struct placement_memory *ret);
