/* SPDX-License-Identifier: Apache-2.0 */

/*
 * numa show: the nodes of the machine, and what of the broker is on each. Pure functions of both.
 *
 * Nodes are read by broker-ctl, from the same files and by the same code as the daemon reads them
 * (numa/topology.h): it need not stop for that. What the broker has is in the stats segment. The
 * words of the text are those of numactl -H, a line a thing, so that they can be searched.
 *
 * What is near a node that is not there, or near none that is known, comes after all nodes: node -1
 * in the code, `elsewhere` in JSON.
 */

#include <string.h>

#include "broker/core/core.h"
#include "numa/topology.h"
#include "tools/broker-ctl/ctl.h"

#define ELSEWHERE (-1)
#define SET_TEXT_BYTES 512u

static const char *const state_name[] = {
	[TOPOLOGY_USABLE] = "ok",
	[TOPOLOGY_MEMORYLESS] = "memoryless",
	[TOPOLOGY_UNTOLD] = "unknown",
	[TOPOLOGY_FORBIDDEN] = "forbidden",
};

static bool is_near(const struct topology *t, int32_t said, int32_t node)
{
	if (said < 0 || !topology_find(t, (uint32_t)said))
		said = ELSEWHERE;
	return said == node;
}

/* The broker's name of a GPU; NULL: it does not serve it. */
static const char *device_of_gpu(const struct stats_segment *seg, const char *pci)
{
	for (uint32_t i = 0; i < seg->devices_n; i++) {
		if (seg->device[i].name[0] &&
		    strncmp(seg->device[i].pci, pci, sizeof(seg->device[i].pci)) == 0)
			return seg->device[i].name;
	}
	return NULL;
}

/* ---- JSON ---------------------------------------------------------------------------------- */

static void add_bytes(cJSON *to, const char *key, uint64_t bytes, bool known)
{
	if (known)
		cJSON_AddNumberToObject(to, key, (double)bytes);
	else
		cJSON_AddNullToObject(to, key);
}

static void add_text(cJSON *to, const char *key, const char *text)
{
	if (text && text[0])
		cJSON_AddStringToObject(to, key, text);
	else
		cJSON_AddNullToObject(to, key);
}

static void add_arena(cJSON *list, const struct stats_device *d)
{
	cJSON *o = cJSON_CreateObject();

	cJSON_AddStringToObject(o, "name", d->name);
	cJSON_AddNumberToObject(o, "capacity_bytes", (double)d->capacity_bytes);
	cJSON_AddNumberToObject(o, "filled_bytes", (double)d->filled_bytes);
	cJSON_AddNumberToObject(o, "granted_bytes", (double)d->granted_bytes);
	add_bytes(o, "misplaced_bytes", d->misplaced_bytes, !d->unseen_error);
	cJSON_AddBoolToObject(o, "placed", !d->unplaced_error);
	cJSON_AddNumberToObject(o, "hugetlb_bytes", (double)d->hugetlb_bytes);
	cJSON_AddNumberToObject(o, "thp_bytes", (double)d->thp_bytes);
	cJSON_AddNumberToObject(o, "small_bytes",
				(double)(d->filled_bytes - d->hugetlb_bytes - d->thp_bytes));
	cJSON_AddItemToArray(list, o);
}

static void add_near(cJSON *to, const struct topology *t, const struct stats_segment *seg,
		     int32_t node)
{
	cJSON *gpus = cJSON_AddArrayToObject(to, "gpus");
	cJSON *drives = cJSON_AddArrayToObject(to, "drives");
	cJSON *devices = cJSON_AddArrayToObject(to, "devices");
	cJSON *arenas = cJSON_AddArrayToObject(to, "arenas");

	for (unsigned i = 0; i < t->devices; i++) {
		const struct topology_device *d = &t->device[i];
		cJSON *gpu;

		if (d->node != node)
			continue;
		if (d->kind == TOPOLOGY_DRIVE) {
			cJSON_AddItemToArray(drives, cJSON_CreateString(d->name));
			continue;
		}
		gpu = cJSON_CreateObject();
		cJSON_AddStringToObject(gpu, "pci", d->name);
		add_text(gpu, "device", device_of_gpu(seg, d->name));
		cJSON_AddItemToArray(gpus, gpu);
	}
	for (uint32_t i = 0; i < seg->devices_n; i++) {
		const struct stats_device *d = &seg->device[i];

		if (!d->name[0] || !is_near(t, d->node, node))
			continue;
		if (d->kind == CORE_KIND_ARENA)
			add_arena(arenas, d);
		else
			cJSON_AddItemToArray(devices, cJSON_CreateString(d->name));
	}
}

static cJSON *node_json(const struct topology *t, const struct stats_segment *seg, unsigned index)
{
	const struct topology_node *node = &t->node[index];
	cJSON *o = cJSON_CreateObject(), *list;
	char cpus[SET_TEXT_BYTES];

	sysfs_set_text(&node->cpus, cpus, sizeof(cpus));
	cJSON_AddNumberToObject(o, "node", node->id);
	cJSON_AddStringToObject(o, "state", state_name[node->state]);
	cJSON_AddStringToObject(o, "cpus", cpus);
	cJSON_AddNumberToObject(o, "cpus_n", sysfs_set_count(&node->cpus));
	list = cJSON_AddArrayToObject(o, "distances");
	for (unsigned i = 0; i < t->nodes; i++) {
		uint8_t distance = t->distance[index * t->nodes + i];

		cJSON_AddItemToArray(list,
				     distance ? cJSON_CreateNumber(distance) : cJSON_CreateNull());
	}
	add_bytes(o, "total_bytes", node->total_bytes, node->told);
	add_bytes(o, "free_bytes", node->free_bytes, node->told);
	add_bytes(o, "available_bytes", node->available_bytes, node->told);
	list = cJSON_AddArrayToObject(o, "hugepages");
	for (unsigned i = 0; i < node->pools; i++) {
		cJSON *pool = cJSON_CreateObject();

		cJSON_AddNumberToObject(pool, "page_bytes", (double)node->pool[i].page_bytes);
		cJSON_AddNumberToObject(pool, "pages", (double)node->pool[i].pages);
		cJSON_AddNumberToObject(pool, "pages_free", (double)node->pool[i].pages_free);
		cJSON_AddItemToArray(list, pool);
	}
	add_near(o, t, seg, (int32_t)node->id);
	return o;
}

cJSON *numa_json(const struct topology *t, const struct stats_segment *seg)
{
	cJSON *o = cJSON_CreateObject(), *list;
	char offline[SET_TEXT_BYTES];

	sysfs_set_text(&t->offline, offline, sizeof(offline));
	cJSON_AddBoolToObject(o, "known", t->known);
	add_text(o, "why", t->why);
	add_text(o, "offline", offline);
	list = cJSON_AddArrayToObject(o, "nodes");
	for (unsigned i = 0; i < t->nodes; i++)
		cJSON_AddItemToArray(list, node_json(t, seg, i));
	add_near(cJSON_AddObjectToObject(o, "elsewhere"), t, seg, ELSEWHERE);
	return o;
}

/* ---- text ---------------------------------------------------------------------------------- */

static void say_head(FILE *to, const struct topology *t)
{
	struct sysfs_set online = { { 0 } };
	char text[SET_TEXT_BYTES];

	for (unsigned i = 0; i < t->nodes; i++)
		sysfs_set_add(&online, t->node[i].id);
	sysfs_set_text(&online, text, sizeof(text));
	(void)fprintf(to, "available: %u node%s (%s)", t->nodes, t->nodes == 1 ? "" : "s", text);
	sysfs_set_text(&t->offline, text, sizeof(text));
	(void)fprintf(to, text[0] ? ", offline: %s\n" : "%s\n", text);
	if (!t->known)
		(void)fprintf(to, "node 0 stands for the whole machine (%s)\n", t->why);
	else if (t->why[0])
		(void)fprintf(to, "not all of it can be told (%s)\n", t->why);
}

static void say_memory(FILE *to, const struct topology_node *node)
{
	char cpus[SET_TEXT_BYTES];

	sysfs_set_text(&node->cpus, cpus, sizeof(cpus));
	(void)fprintf(to, "node %u cpus: %s\n", node->id, cpus[0] ? cpus : "-");
	if (node->state != TOPOLOGY_USABLE)
		(void)fprintf(to, "node %u %s\n", node->id, topology_state_text(node->state));
	if (node->total_bytes)
		(void)fprintf(to, "node %u size: %s\nnode %u free: %s (%s available)\n", node->id,
			      core_size(node->total_bytes).text, node->id,
			      core_size(node->free_bytes).text,
			      core_size(node->available_bytes).text);
	for (unsigned i = 0; i < node->pools; i++)
		(void)fprintf(to, "node %u hugepages of %s: %llu of %llu free\n", node->id,
			      core_size(node->pool[i].page_bytes).text,
			      (unsigned long long)node->pool[i].pages_free,
			      (unsigned long long)node->pool[i].pages);
}

static void say_arena(FILE *to, const struct stats_device *d)
{
	(void)fprintf(to,
		      "%s of %s filled, %s granted, %s%s on another node; %s hugetlb, %s "
		      "transparent huge, %s small pages%s\n",
		      core_size(d->filled_bytes).text, core_size(d->capacity_bytes).text,
		      core_size(d->granted_bytes).text, core_size(d->misplaced_bytes).text,
		      d->unseen_error ? " or more" : "", core_size(d->hugetlb_bytes).text,
		      core_size(d->thp_bytes).text,
		      core_size(d->filled_bytes - d->hugetlb_bytes - d->thp_bytes).text,
		      d->unplaced_error ? "; the system forbids placing" : "");
}

/* "node 0 gpus: A B": the heading comes with the first. */
static void say_name(FILE *to, unsigned *said, const char *of, const char *what, const char *name)
{
	if ((*said)++ == 0)
		(void)fprintf(to, "%s %s:", of, what);
	(void)fprintf(to, " %s", name);
}

static void say_names(FILE *to, const struct topology *t, const struct stats_segment *seg,
		      int32_t node, const char *of)
{
	static const char *const heads[] = { [TOPOLOGY_GPU] = "gpus", [TOPOLOGY_DRIVE] = "drives" };
	unsigned said = 0;

	for (int kind = TOPOLOGY_GPU; kind <= TOPOLOGY_DRIVE; kind++) {
		for (unsigned i = 0; i < t->devices; i++) {
			const struct topology_device *d = &t->device[i];
			const char *device;

			if ((int)d->kind != kind || d->node != node)
				continue;
			say_name(to, &said, of, heads[kind], d->name);
			device = kind == TOPOLOGY_GPU ? device_of_gpu(seg, d->name) : NULL;
			if (device)
				(void)fprintf(to, " (%s)", device);
		}
		if (said)
			(void)fputc('\n', to);
		said = 0;
	}
	for (uint32_t i = 0; i < seg->devices_n; i++) {
		const struct stats_device *d = &seg->device[i];

		if (d->name[0] && d->kind != CORE_KIND_ARENA && is_near(t, d->node, node))
			say_name(to, &said, of, "devices", d->name);
	}
	if (said)
		(void)fputc('\n', to);
}

static void say_near(FILE *to, const struct topology *t, const struct stats_segment *seg,
		     int32_t node)
{
	char of[24] = "elsewhere";

	if (node >= 0)
		(void)snprintf(of, sizeof(of), "node %d", node);
	say_names(to, t, seg, node, of);
	for (uint32_t i = 0; i < seg->devices_n; i++) {
		const struct stats_device *d = &seg->device[i];

		if (!d->name[0] || d->kind != CORE_KIND_ARENA || !is_near(t, d->node, node))
			continue;
		(void)fprintf(to, "%s %s: ", of, d->name);
		say_arena(to, d);
	}
}

static void say_distances(FILE *to, const struct topology *t)
{
	(void)fprintf(to, "node distances:\nnode");
	for (unsigned i = 0; i < t->nodes; i++)
		(void)fprintf(to, " %3u", t->node[i].id);
	for (unsigned i = 0; i < t->nodes; i++) {
		(void)fprintf(to, "\n%3u:", t->node[i].id);
		for (unsigned k = 0; k < t->nodes; k++) {
			uint8_t distance = t->distance[i * t->nodes + k];

			if (distance)
				(void)fprintf(to, " %3u", distance);
			else
				(void)fprintf(to, "   -");
		}
	}
	(void)fputc('\n', to);
}

void numa_say(FILE *to, const struct topology *t, const struct stats_segment *seg)
{
	say_head(to, t);
	for (unsigned i = 0; i < t->nodes; i++) {
		say_memory(to, &t->node[i]);
		say_near(to, t, seg, (int32_t)t->node[i].id);
	}
	say_near(to, t, seg, ELSEWHERE);
	say_distances(to, t);
}
