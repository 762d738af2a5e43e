/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Nodes; see topology.h. Devices are topology_devices.c's.
 *
 * Memory that could be had: the kernel computes MemAvailable for the machine only, and where one
 * node has all the memory that is its figure (virtual machines that are given memory as they use it
 * say less in sysfs). For one of several it is rebuilt from the node's own lines: free memory, the
 * page cache that can be dropped and slabs that can be reclaimed. Shared memory (memfds, tmpfs) is
 * not among them: it counts as anonymous, so what other daemons hold is not promised twice.
 */

#include "numa/topology.h"

#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NODE_DIR "sys/devices/system/node"
#define KIB_MAX (UINT64_MAX >> 10)

/* Remembers the first file that could not be used, without the root before it. */
__attribute__((format(printf, 3, 4))) static void blame(struct topology *t, int error,
							const char *fmt, ...)
{
	char what[96];
	va_list args;

	if (t->why[0])
		return;
	va_start(args, fmt);
	(void)vsnprintf(what, sizeof(what), fmt, args);
	va_end(args);
	(void)snprintf(t->why, sizeof(t->why), "/%s: %s", what,
		       error == -EBADMSG || error == -E2BIG ? "it makes no sense"
							    : strerror(-error));
}

/* ---- memory -------------------------------------------------------------------------------- */

struct meminfo {
	uint64_t total, free, available, active_file, inactive_file, reclaimable; /* KiB */
	bool has_total, has_available;
};

static void meminfo_take(struct meminfo *info, const char *key, size_t n, uint64_t kib)
{
	const struct {
		const char *key;
		uint64_t *to;
	} fields[] = {
		{ "MemTotal", &info->total },
		{ "MemFree", &info->free },
		{ "MemAvailable", &info->available },
		{ "Active(file)", &info->active_file },
		{ "Inactive(file)", &info->inactive_file },
		{ "SReclaimable", &info->reclaimable },
	};

	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
		if (strlen(fields[i].key) == n && memcmp(fields[i].key, key, n) == 0)
			*fields[i].to = kib;
	}
	info->has_total |= n == 8 && memcmp(key, "MemTotal", n) == 0;
	info->has_available |= n == 12 && memcmp(key, "MemAvailable", n) == 0;
}

/* Lines are "Key: N kB", with "Node N " before them in sysfs. Others are passed over. */
static void meminfo_parse(const char *text, struct meminfo *ret)
{
	const char *line, *end;

	for (line = text; *line; line = *end ? end + 1 : end) {
		const char *key = line, *colon, *at;
		uint64_t n;

		end = strchrnul(line, '\n');
		if (strncmp(key, "Node ", 5) == 0) {
			key += 5;
			if (!sysfs_take_number(&key, UINT32_MAX, &n) || *key++ != ' ')
				continue;
		}
		colon = memchr(key, ':', (size_t)(end - key));
		if (!colon)
			continue;
		at = colon + 1 + strspn(colon + 1, " \t");
		if (at < end && sysfs_take_number(&at, KIB_MAX, &n))
			meminfo_take(ret, key, (size_t)(colon - key), n);
	}
}

/* More than the total is not free, whoever says so. */
static uint64_t within(uint64_t kib, uint64_t total)
{
	return (kib < total ? kib : total) << 10;
}

static int meminfo_read(const char *path, struct topology_node *ret)
{
	char text[SYSFS_TEXT_BYTES];
	struct meminfo info = { 0 };
	int error = sysfs_read(path, text);
	uint64_t parts[3];

	if (error)
		return error;
	meminfo_parse(text, &info);
	if (!info.has_total)
		return -EBADMSG;
	parts[0] = info.active_file;
	parts[1] = info.inactive_file;
	parts[2] = info.reclaimable;
	if (!info.has_available) {
		info.available = info.free;
		for (unsigned i = 0; i < 3; i++) {
			if (__builtin_add_overflow(info.available, parts[i], &info.available))
				info.available = info.total;
		}
	}
	ret->told = true;
	ret->total_bytes = info.total << 10;
	ret->free_bytes = within(info.free, info.total);
	ret->available_bytes = within(info.available, info.total);
	return 0;
}

/* Where all memory is one node's the machine's own figures are better. */
static void take_machine_memory(const char *root, struct topology *t)
{
	struct topology_node machine, *only = NULL;
	char path[SYSFS_PATH_BYTES];

	for (unsigned i = 0; i < t->nodes; i++) {
		struct topology_node *node = &t->node[i];

		if (t->nodes > 1 && node->told && !node->total_bytes)
			continue;
		if (only || (t->nodes > 1 && !node->told))
			return;
		only = node;
	}
	if (!only || sysfs_path(path, root, "proc/meminfo") || meminfo_read(path, &machine) ||
	    !machine.total_bytes)
		return;
	only->told = true;
	only->total_bytes = machine.total_bytes;
	only->free_bytes = machine.free_bytes;
	only->available_bytes = machine.available_bytes;
}

/* ---- pools of huge pages ------------------------------------------------------------------- */

static int pool_number(const char *root, uint32_t node, uint64_t kib, const char *file,
		       uint64_t *ret)
{
	char path[SYSFS_PATH_BYTES];
	int error = sysfs_path(path, root, NODE_DIR "/node%u/hugepages/hugepages-%llukB/%s", node,
			       (unsigned long long)kib, file);

	return error ? error : sysfs_read_number(path, KIB_MAX / kib, ret);
}

static int compare_pools(const void *a, const void *b)
{
	const struct topology_pool *x = a, *y = b;

	return (x->page_bytes > y->page_bytes) - (x->page_bytes < y->page_bytes);
}

static void read_pools(const char *root, struct topology *t, struct topology_node *node)
{
	char path[SYSFS_PATH_BYTES];
	struct dirent *entry;
	DIR *dir;

	if (sysfs_path(path, root, NODE_DIR "/node%u/hugepages", node->id))
		return;
	dir = opendir(path);
	while (dir && node->pools < TOPOLOGY_POOLS_MAX && (entry = readdir(dir))) {
		struct topology_pool *pool = &node->pool[node->pools];
		const char *at = entry->d_name + strlen("hugepages-");
		uint64_t kib;
		int error;

		if (strncmp(entry->d_name, "hugepages-", strlen("hugepages-")) != 0 ||
		    !sysfs_take_number(&at, KIB_MAX >> 10, &kib) || !kib || strcmp(at, "kB") != 0)
			continue;
		pool->page_bytes = kib << 10;
		error = pool_number(root, node->id, kib, "nr_hugepages", &pool->pages);
		if (error == 0)
			error = pool_number(root, node->id, kib, "free_hugepages",
					    &pool->pages_free);
		if (error)
			blame(t, error, NODE_DIR "/node%u/hugepages/%.40s", node->id,
			      entry->d_name);
		else
			node->pools++;
	}
	if (dir)
		closedir(dir);
	qsort(node->pool, node->pools, sizeof(node->pool[0]), compare_pools);
}

uint64_t topology_pool_free(const char *root, uint32_t node, uint64_t page_bytes)
{
	uint64_t pages;

	return pool_number(root, node, page_bytes >> 10, "free_hugepages", &pages) ? 0 : pages;
}

/* ---- nodes --------------------------------------------------------------------------------- */

static void read_distances(const char *root, struct topology *t, unsigned row)
{
	char path[SYSFS_PATH_BYTES], text[SYSFS_TEXT_BYTES];
	uint8_t *to = &t->distance[(size_t)row * t->nodes];
	const char *at = text;
	int error = sysfs_path(path, root, NODE_DIR "/node%u/distance", t->node[row].id);
	unsigned n = 0;

	if (error == 0)
		error = sysfs_read(path, text);
	for (; error == 0 && n < t->nodes; n++) {
		uint64_t distance;

		at += strspn(at, " ");
		if (!sysfs_take_number(&at, UINT8_MAX, &distance))
			break;
		to[n] = (uint8_t)distance;
	}
	/* One for each node that is online: a line of another length is of no use. */
	if (error == 0 && (n < t->nodes || at[strspn(at, " ")]))
		error = -EBADMSG;
	if (error) {
		memset(to, 0, t->nodes);
		blame(t, error, NODE_DIR "/node%u/distance", t->node[row].id);
	}
}

static void read_node(const char *root, struct topology *t, struct topology_node *node)
{
	char path[SYSFS_PATH_BYTES];
	int error = sysfs_path(path, root, NODE_DIR "/node%u/cpulist", node->id);

	if (error == 0)
		error = sysfs_read_set(path, &node->cpus);
	if (error)
		blame(t, error, NODE_DIR "/node%u/cpulist", node->id);
	error = sysfs_path(path, root, NODE_DIR "/node%u/meminfo", node->id);
	if (error == 0)
		error = meminfo_read(path, node);
	if (error)
		blame(t, error, NODE_DIR "/node%u/meminfo", node->id);
	read_pools(root, t, node);
}

/* Nodes from which this process may take memory; all of them where that is not told. */
static void read_allowed(const char *root, struct sysfs_set *ret)
{
	static const char key[] = "\nMems_allowed_list:";
	char path[SYSFS_PATH_BYTES], text[SYSFS_TEXT_BYTES];
	char *at;

	memset(ret, 0xff, sizeof(*ret));
	if (sysfs_path(path, root, "proc/self/status") || sysfs_read(path, text))
		return;
	at = strstr(text, key);
	if (!at)
		return;
	at += strlen(key);
	at += strspn(at, " \t");
	at[strcspn(at, "\n")] = '\0';
	(void)sysfs_parse_set(at, ret);
}

static int new_nodes(struct topology *t, const struct sysfs_set *online)
{
	unsigned n = sysfs_set_count(online);

	t->node = calloc(n, sizeof(*t->node));
	t->distance = calloc((size_t)n * n, sizeof(*t->distance));
	if (!t->node || !t->distance)
		return -ENOMEM;
	for (uint32_t id = 0; t->nodes < n; id++) {
		if (sysfs_set_has(online, id))
			t->node[t->nodes++].id = id;
	}
	return 0;
}

/* 0: as sysfs tells. -errno: it does not tell. */
static int read_online(const char *root, struct topology *t, struct sysfs_set *ret)
{
	char path[SYSFS_PATH_BYTES];
	struct sysfs_set possible;
	int error = sysfs_path(path, root, NODE_DIR "/online");

	if (error == 0)
		error = sysfs_read_set(path, ret);
	for (unsigned i = TOPOLOGY_NODES_MAX / 64; error == 0 && i < SYSFS_SET_BITS / 64; i++)
		error = ret->word[i] ? -EBADMSG : 0;
	if (error == 0 && sysfs_set_count(ret) == 0)
		error = -EBADMSG;
	if (error) {
		blame(t, error, NODE_DIR "/online");
		return error;
	}
	if (sysfs_path(path, root, NODE_DIR "/possible") || sysfs_read_set(path, &possible))
		return 0;
	for (unsigned i = 0; i < TOPOLOGY_NODES_MAX / 64; i++)
		t->offline.word[i] = possible.word[i] & ~ret->word[i];
	return 0;
}

static enum topology_state node_state(const struct topology_node *node,
				      const struct sysfs_set *allowed)
{
	if (!node->told)
		return TOPOLOGY_UNTOLD;
	if (!node->total_bytes)
		return TOPOLOGY_MEMORYLESS;
	return sysfs_set_has(allowed, node->id) ? TOPOLOGY_USABLE : TOPOLOGY_FORBIDDEN;
}

static int read_nodes(const char *root, struct topology *t)
{
	struct sysfs_set online = { { 1 } }, allowed;
	char path[SYSFS_PATH_BYTES];
	int error;

	t->known = read_online(root, t, &online) == 0;
	if (!t->known)
		online = (struct sysfs_set){ { 1 } };
	error = new_nodes(t, &online);
	if (error)
		return error;
	if (!t->known) {
		error = sysfs_path(path, root, "proc/meminfo");
		if (error == 0)
			error = meminfo_read(path, t->node);
		return error == 0 && !t->node->total_bytes ? -EBADMSG : error;
	}
	read_allowed(root, &allowed);
	for (unsigned i = 0; i < t->nodes; i++) {
		read_node(root, t, &t->node[i]);
		read_distances(root, t, i);
	}
	take_machine_memory(root, t);
	for (unsigned i = 0; i < t->nodes; i++)
		t->node[i].state = node_state(&t->node[i], &allowed);
	return 0;
}

/* ---- the whole ----------------------------------------------------------------------------- */

int topology_read(const char *root, struct topology **ret)
{
	struct topology *t = calloc(1, sizeof(*t));
	int error = t ? read_nodes(root, t) : -ENOMEM;

	if (error == 0)
		error = topology_read_devices(root, t);
	if (error) {
		topology_free(t);
		return error;
	}
	*ret = t;
	return 0;
}

struct topology *topology_free(struct topology *t)
{
	if (!t)
		return NULL;
	free(t->node);
	free(t->distance);
	free(t->device);
	free(t);
	return NULL;
}

const struct topology_node *topology_find(const struct topology *t, uint32_t id)
{
	for (unsigned i = 0; i < t->nodes; i++) {
		if (t->node[i].id == id)
			return &t->node[i];
	}
	return NULL;
}

enum topology_state topology_state(const struct topology *t, uint32_t id)
{
	const struct topology_node *node = topology_find(t, id);

	if (node)
		return node->state;
	return sysfs_set_has(&t->offline, id) ? TOPOLOGY_OFFLINE : TOPOLOGY_ABSENT;
}

const char *topology_state_text(enum topology_state state)
{
	switch (state) {
	case TOPOLOGY_USABLE:
		return "is usable";
	case TOPOLOGY_MEMORYLESS:
		return "has no memory of its own";
	case TOPOLOGY_UNTOLD:
		return "does not tell how much memory it has";
	case TOPOLOGY_FORBIDDEN:
		return "is outside of the cpuset of this process";
	case TOPOLOGY_OFFLINE:
		return "is offline";
	case TOPOLOGY_ABSENT:
		break;
	}
	return "is not there";
}

const struct topology_node *topology_nearest(const struct topology *t, int32_t id)
{
	const struct topology_node *from = id < 0 ? NULL : topology_find(t, (uint32_t)id);
	const uint8_t *distance = from ? &t->distance[(size_t)(from - t->node) * t->nodes] : NULL;
	const struct topology_node *best = NULL;
	unsigned least = 0;

	for (unsigned i = 0; i < t->nodes; i++) {
		/* What is not told is farther than all that is. */
		unsigned is = distance && distance[i] ? distance[i] : UINT8_MAX + 1u;

		if (t->node[i].state != TOPOLOGY_USABLE)
			continue;
		if (&t->node[i] == from)
			return from;
		if (!best || is < least) {
			best = &t->node[i];
			least = is;
		}
	}
	return best;
}
