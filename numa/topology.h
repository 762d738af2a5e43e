/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The NUMA nodes of a machine: processors, memory, distances, and which GPU and drive is near
 * which.
 *
 * It is read from sysfs at the call, whole, and is a snapshot: nothing is watched. Every function
 * takes the root below which sys/ and proc/ lie, "" for this machine; a copy of another machine's
 * files is read by the same code.
 *
 * A file that is absent, hidden or senseless costs what stands in it and nothing else; `why` has
 * the first of them. Where the nodes themselves are not told (a container without sysfs, a kernel
 * without NUMA) node 0 stands for the whole machine, with the figures of proc/meminfo.
 *
 *   topology_read() -> [look] -> topology_free()
 *
 * Anybody may call it, any thread; it keeps no state. It needs no library, and knows nothing of the
 * broker.
 */

#include "numa/sysfs.h"

#define TOPOLOGY_NODES_MAX 1024u /* as many as Linux knows */
#define TOPOLOGY_POOLS_MAX 8u
#define TOPOLOGY_NODE_UNKNOWN (-1)

/* Whether memory of a node can be had, by whoever reads this. */
enum topology_state {
	TOPOLOGY_USABLE = 0,
	TOPOLOGY_MEMORYLESS, /* processors or devices only */
	TOPOLOGY_UNTOLD,     /* how much it has cannot be read */
	TOPOLOGY_FORBIDDEN,  /* this process may not take memory there: its cpuset */
	TOPOLOGY_OFFLINE,    /* could be there, is not now */
	TOPOLOGY_ABSENT,
};

struct topology_pool { /* of pages set aside for hugetlb */
	uint64_t page_bytes, pages, pages_free;
};

struct topology_node {
	uint32_t id;
	enum topology_state state; /* the first four */
	struct sysfs_set cpus;
	bool told; /* the next two lines are */
	uint64_t total_bytes, free_bytes;
	uint64_t available_bytes; /* what could be had without swapping */
	unsigned pools;
	struct topology_pool pool[TOPOLOGY_POOLS_MAX]; /* small pages first */
};

enum topology_kind { TOPOLOGY_GPU, TOPOLOGY_DRIVE };

struct topology_device {
	enum topology_kind kind;
	char name[32]; /* a GPU's PCI address as 0000:3b:00.0, a drive's as nvme0n1 */
	int32_t node;  /* of those there are; TOPOLOGY_NODE_UNKNOWN */
};

struct topology {
	bool known;    /* false: node 0 stands for the machine */
	char why[192]; /* the first file that could not be used, and why; "" */
	struct sysfs_set offline;
	unsigned nodes; /* 1 or more, by id */
	struct topology_node *node;
	uint8_t *distance; /* nodes x nodes; 0: not told */
	unsigned devices;  /* GPUs first, then drives, by name */
	struct topology_device *device;
};

/* 0; -ENOMEM; -errno: not even how much memory the machine has can be read. */
int topology_read(const char *root, struct topology **ret);
struct topology *topology_free(struct topology *t); /* NULL is fine */

/* A node that is online; NULL. */
const struct topology_node *topology_find(const struct topology *t, uint32_t id);
enum topology_state topology_state(const struct topology *t, uint32_t id);
/* "usable", "has no memory of its own", ...: what is to be said of a node behind its number. */
const char *topology_state_text(enum topology_state state);
/* Of those with memory that can be had, the one nearest to node id (negative, or none: the first).
 * NULL: there is none. */
const struct topology_node *topology_nearest(const struct topology *t, int32_t id);

/* Pages of a hugetlb pool of a node that are free, by itself; 0 where that is not told. */
uint64_t topology_pool_free(const char *root, uint32_t node, uint64_t page_bytes);
/* Near which node a PCI device is, by its address in small letters; TOPOLOGY_NODE_UNKNOWN. */
int32_t topology_pci_node(const char *root, const char *address);

/* Fills in t->device: topology_devices.c, for topology_read() alone. 0, -ENOMEM. */
int topology_read_devices(const char *root, struct topology *t);
