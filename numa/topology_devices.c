/* SPDX-License-Identifier: Apache-2.0 */

/*
 * GPUs and drives of a topology, and near which node each is; see topology.h.
 *
 * The kernel tells the node of PCI devices, -1 where the firmware told nothing; on a machine with
 * one node that leaves no doubt. A drive is somewhere below the PCI device of its controller, and
 * takes the node of whatever above it has one. What is nowhere on a bus (loop devices, RAM, device
 * mapper) is left out.
 *
 * A drive with more than one port is shown by the kernel as a disk without a place, nvme0n1, and a
 * hidden one for each way to it, nvme0c0n1: the disk is near where its first way is.
 */

#include "numa/topology.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PCI_DIR "sys/bus/pci/devices"
#define BLOCK_DIR "sys/block"
#define PCI_CLASS_DISPLAY 0x03u /* the topmost of three bytes */
#define PCI_VENDOR_NVIDIA 0x10deu
#define DEVICES_STEP 16u

static int32_t node_in(const char *dir)
{
	char path[SYSFS_PATH_BYTES];
	uint64_t node;

	if (snprintf(path, sizeof(path), "%s/numa_node", dir) >= (int)sizeof(path) ||
	    sysfs_read_number(path, TOPOLOGY_NODES_MAX - 1, &node))
		return TOPOLOGY_NODE_UNKNOWN;
	return (int32_t)node;
}

/* What the files say, made to be one of the nodes there are. */
static int32_t node_of(const struct topology *t, int32_t said)
{
	if (said >= 0 && topology_find(t, (uint32_t)said))
		return said;
	return t->nodes == 1 ? (int32_t)t->node[0].id : TOPOLOGY_NODE_UNKNOWN;
}

static int add_device(struct topology *t, enum topology_kind kind, const char *name, int32_t said)
{
	struct topology_device *device;

	if (strlen(name) >= sizeof(device->name))
		return 0; /* no device has such a name */
	if (t->devices % DEVICES_STEP == 0) {
		device = reallocarray(t->device, t->devices + DEVICES_STEP, sizeof(*device));
		if (!device)
			return -ENOMEM;
		t->device = device;
	}
	device = &t->device[t->devices++];
	*device = (struct topology_device){ .kind = kind, .node = node_of(t, said) };
	memcpy(device->name, name, strlen(name) + 1);
	return 0;
}

/* ---- GPUs ---------------------------------------------------------------------------------- */

static uint64_t pci_number(const char *root, const char *address, const char *file)
{
	char path[SYSFS_PATH_BYTES];
	uint64_t n;

	if (sysfs_path(path, root, PCI_DIR "/%s/%s", address, file) ||
	    sysfs_read_number(path, UINT32_MAX, &n))
		return 0;
	return n;
}

int32_t topology_pci_node(const char *root, const char *address)
{
	char path[SYSFS_PATH_BYTES];

	/* It comes from a driver: no path of another file. */
	if (!address[0] || address[strspn(address, "0123456789abcdef:.")] || address[0] == '.' ||
	    sysfs_path(path, root, PCI_DIR "/%s", address))
		return TOPOLOGY_NODE_UNKNOWN;
	return node_in(path);
}

static int add_gpu(const char *root, struct topology *t, const char *address)
{
	if (pci_number(root, address, "class") >> 16 != PCI_CLASS_DISPLAY ||
	    pci_number(root, address, "vendor") != PCI_VENDOR_NVIDIA)
		return 0;
	return add_device(t, TOPOLOGY_GPU, address, topology_pci_node(root, address));
}

/* ---- drives -------------------------------------------------------------------------------- */

/* "nvme0c1n2" is a way to "nvme0n2". */
static bool is_way_to(const char *way, const char *disk)
{
	static const char digits[] = "0123456789";
	size_t prefix = strcspn(disk, digits);

	prefix += strspn(disk + prefix, digits);
	if (strncmp(way, disk, prefix) != 0 || way[prefix] != 'c')
		return false;
	way += prefix + 1;
	return strcmp(way + strspn(way, digits), disk + prefix) == 0;
}

/* Of a directory of sysfs, or of whatever above it has a node. */
static int32_t node_above(char *dir)
{
	char *slash;

	for (; (slash = strrchr(dir, '/')) && strcmp(slash, "/devices") != 0; *slash = '\0') {
		int32_t node = node_in(dir);

		if (node >= 0)
			return node;
	}
	return TOPOLOGY_NODE_UNKNOWN;
}

/* Where it is, its links followed. False: it has no place, or is gone. */
static bool find_place(const char *root, const char *name, char ret[PATH_MAX])
{
	char path[SYSFS_PATH_BYTES];

	return sysfs_path(path, root, BLOCK_DIR "/%s", name) == 0 && realpath(path, ret);
}

static int32_t node_of_ways(const char *root, const char *disk)
{
	char path[SYSFS_PATH_BYTES], place[PATH_MAX];
	int32_t node = TOPOLOGY_NODE_UNKNOWN;
	struct dirent *entry;
	DIR *dir;

	if (sysfs_path(path, root, BLOCK_DIR))
		return node;
	dir = opendir(path);
	while (dir && node < 0 && (entry = readdir(dir))) {
		if (is_way_to(entry->d_name, disk) && find_place(root, entry->d_name, place))
			node = node_above(place);
	}
	if (dir)
		closedir(dir);
	return node;
}

static int add_drive(const char *root, struct topology *t, const char *name)
{
	char path[SYSFS_PATH_BYTES], place[PATH_MAX];
	uint64_t hidden = 0;

	if (!find_place(root, name, place))
		return 0;
	if (sysfs_path(path, root, BLOCK_DIR "/%s/hidden", name) == 0 &&
	    sysfs_read_number(path, 1, &hidden) == 0 && hidden)
		return 0;
	if (strstr(place, "/devices/virtual/nvme-subsystem/"))
		return add_device(t, TOPOLOGY_DRIVE, name, node_of_ways(root, name));
	if (strstr(place, "/devices/virtual/"))
		return 0;
	return add_device(t, TOPOLOGY_DRIVE, name, node_above(place));
}

/* ---- all of them --------------------------------------------------------------------------- */

static int compare_devices(const void *a, const void *b)
{
	const struct topology_device *x = a, *y = b;

	if (x->kind != y->kind)
		return x->kind < y->kind ? -1 : 1;
	return strverscmp(x->name, y->name);
}

static int for_each(const char *root, const char *where, struct topology *t,
		    int (*add)(const char *, struct topology *, const char *))
{
	char path[SYSFS_PATH_BYTES];
	struct dirent *entry;
	int error = 0;
	DIR *dir;

	if (sysfs_path(path, root, "%s", where))
		return 0;
	dir = opendir(path);
	while (dir && error == 0 && (entry = readdir(dir))) {
		if (entry->d_name[0] != '.')
			error = add(root, t, entry->d_name);
	}
	if (dir)
		closedir(dir);
	return error;
}

int topology_read_devices(const char *root, struct topology *t)
{
	int error = for_each(root, PCI_DIR, t, add_gpu);

	if (error == 0)
		error = for_each(root, BLOCK_DIR, t, add_drive);
	if (error == 0 && t->devices)
		qsort(t->device, t->devices, sizeof(*t->device), compare_devices);
	return error;
}
