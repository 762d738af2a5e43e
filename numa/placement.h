/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Where memory may be put, and who is near it: what daemon, movers and arenas ask of the topology.
 *
 * Each reads the topology of this machine at the call and keeps nothing. Where the machine does not
 * tell its nodes (numa/topology.h) node 0 stands for all of it.
 */

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>

struct placement_memory {
	uint64_t total_bytes;
	uint64_t available_bytes; /* what could be had without swapping */
	uint64_t pool_bytes;      /* in huge pages set aside, and free: not of the above */
};

/*
 * 0; -ENODEV: no memory is to be had from the node, and ret_why says why, to be put behind its
 * number ("has no memory of its own"); -ENOMEM, -errno: nothing is known of memory at all, as
 * ret_why says too. ret_why: a constant, never NULL.
 */
int placement_node_memory(uint32_t node, struct placement_memory *ret, const char **ret_why);

/*
 * The node whose memory a device that is near to `node` (negative: not known) should use: that one,
 * or if it has none the nearest that has; 0 where nothing better is known.
 */
uint32_t placement_near(int32_t node);

/* What of the processors that this thread may use is next to a node. False: none, or not known. */
bool placement_processors(uint32_t node, cpu_set_t *ret);
