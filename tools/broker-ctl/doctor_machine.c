/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Checks of the machine, from files of the kernel: see doctor.h.
 *
 * A file that is absent or hidden is no fault of the machine: containers hide many. It is said that
 * the thing is not told, and no more.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/core/core.h"
#include "tools/broker-ctl/doctor.h"

/* A small file below the root. False: it is not to be read. */
static bool read_below(const struct doctor *d, const char *name, char text[SYSFS_TEXT_BYTES])
{
	char path[SYSFS_PATH_BYTES];

	return sysfs_path(path, d->root, "%s", name) == 0 && sysfs_read(path, text) == 0;
}

/* ---- kernel, clock, pressure --------------------------------------------------------------- */

void doctor_check_kernel(struct doctor *d)
{
	const char *fix = "use Linux 6.1 or later";
	char text[SYSFS_TEXT_BYTES];
	unsigned major, minor, version;

	if (!read_below(d, "proc/sys/kernel/osrelease", text) ||
	    sscanf(text, "%u.%u", &major, &minor) != 2) {
		doctor_say(d, DOCTOR_WARN, "kernel", "is /proc mounted?", "it is not told");
		return;
	}
	version = major * 1000 + minor;
	if (version < 5003)
		doctor_say(d, DOCTOR_FAIL, "kernel", fix, "Linux %.80s: kvbrokerd needs 5.3", text);
	else if (version < 5014)
		doctor_say(d, DOCTOR_WARN, "kernel", fix,
			   "Linux %.80s: a host tier cannot be filled before 5.14", text);
	else if (version < 6001)
		doctor_say(d, DOCTOR_WARN, "kernel", fix,
			   "Linux %.80s: shared memory is not put on huge pages before 6.1, and "
			   "io_uring costs more",
			   text);
	else
		doctor_say(d, DOCTOR_OK, "kernel", NULL, "Linux %.80s", text);
}

void doctor_check_clock(struct doctor *d)
{
	static const char *const slow[] = { "hpet", "acpi_pm", "jiffies", "refined-jiffies",
					    "pit" };
	char text[SYSFS_TEXT_BYTES];

	if (!read_below(d, "sys/devices/system/clocksource/clocksource0/current_clocksource",
			text)) {
		doctor_say(d, DOCTOR_OK, "clock", NULL, "its source is not told here");
		return;
	}
	for (size_t i = 0; i < sizeof(slow) / sizeof(slow[0]); i++) {
		if (strcmp(text, slow[i]) != 0)
			continue;
		doctor_say(d, DOCTOR_WARN, "clock",
			   "see the kernel's log for why tsc was given up; clocksource=tsc "
			   "tsc=reliable on its command line where that is a mistake",
			   "its source is %.40s: each look at the clock is a slow system call",
			   text);
		return;
	}
	doctor_say(d, DOCTOR_OK, "clock", NULL, "its source is %.40s", text);
}

/* The share of the last minute in which all tasks waited for memory. */
void doctor_check_pressure(struct doctor *d)
{
	char text[SYSFS_TEXT_BYTES];
	const char *full = NULL;
	double percent;

	if (read_below(d, "proc/pressure/memory", text))
		full = strstr(text, "full ");
	full = full ? strstr(full, "avg60=") : NULL;
	if (!full) {
		doctor_say(d, DOCTOR_OK, "pressure", NULL,
			   "not available (psi=1 on the kernel's command line would tell of "
			   "memory that is short)");
		return;
	}
	percent = strtod(full + strlen("avg60="), NULL);
	if (percent >= 5)
		doctor_say(d, DOCTOR_WARN, "pressure",
			   "give the broker less (--device, --host-tier), or find what takes the "
			   "memory",
			   "memory is short: for %.1f %% of the last minute nothing ran, for want "
			   "of it",
			   percent);
	else
		doctor_say(d, DOCTOR_OK, "pressure", NULL,
			   "memory stalled everything for %.1f %% of the last minute", percent);
}

/* ---- huge pages ---------------------------------------------------------------------------- */

/* The word in brackets of "always [madvise] never". False: there is none. */
static bool chosen_word(const char *text, char ret[32])
{
	const char *from = strchr(text, '['), *to = from ? strchr(from, ']') : NULL;

	if (!to || to - from - 1 >= 32)
		return false;
	(void)snprintf(ret, 32, "%.*s", (int)(to - from - 1), from + 1);
	return true;
}

static void check_arena_pages(struct doctor *d, const struct stats_device *a)
{
	uint64_t huge = a->hugetlb_bytes + a->thp_bytes;
	uint64_t small = a->filled_bytes > huge ? a->filled_bytes - huge : 0;

	if (small)
		doctor_say(d, DOCTOR_WARN, "hugepages",
			   "set pages of 2 MiB aside on its node before the daemon starts: "
			   "/sys/devices/system/node/node*/hugepages/hugepages-2048kB/nr_hugepages",
			   "%s: %s of %s lie on small pages, and checksums are slower there",
			   a->name, core_size(small).text, core_size(a->filled_bytes).text);
	else
		doctor_say(d, DOCTOR_OK, "hugepages", NULL,
			   "%s lies on huge pages, %s of it set aside", a->name,
			   core_size(a->hugetlb_bytes).text);
}

void doctor_check_huge_pages(struct doctor *d)
{
	char text[SYSFS_TEXT_BYTES], word[32];

	if (!read_below(d, "sys/kernel/mm/transparent_hugepage/enabled", text) ||
	    !chosen_word(text, word))
		doctor_say(d, DOCTOR_WARN, "hugepages",
			   "a kernel with CONFIG_TRANSPARENT_HUGEPAGE has them",
			   "there are no transparent ones, or they are not told here");
	else if (strcmp(word, "never") == 0)
		doctor_say(d, DOCTOR_WARN, "hugepages",
			   "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
			   "transparent ones are off: tables and the store's index lie on small "
			   "pages");
	else
		doctor_say(d, DOCTOR_OK, "hugepages", NULL, "transparent ones: %s", word);
	for (uint32_t i = 0; d->seg && i < d->seg->devices_n; i++) {
		const struct stats_device *a = &d->seg->device[i];

		if (a->name[0] && a->kind == CORE_KIND_ARENA && a->filled_bytes)
			check_arena_pages(d, a);
	}
}

/* ---- NUMA ---------------------------------------------------------------------------------- */

static void check_arena_node(struct doctor *d, const struct stats_device *a)
{
	if (a->unplaced_error)
		doctor_say(d, DOCTOR_WARN, "numa",
			   "allow mbind() and set_mempolicy() in its container or unit",
			   "%s: the system forbids placing memory (%s)", a->name,
			   strerror(-a->unplaced_error));
	if (a->misplaced_bytes)
		doctor_say(d, DOCTOR_WARN, "numa",
			   "free memory of that node before the daemon starts, or make the host "
			   "tier smaller",
			   "%s: %s%s lie on another node than node %d", a->name,
			   core_size(a->misplaced_bytes).text, a->unseen_error ? " or more" : "",
			   a->node);
	else if (!a->unplaced_error)
		doctor_say(d, DOCTOR_OK, "numa", NULL,
			   a->unseen_error ? "%s: where it lies is not told here"
					   : "%s lies where it should",
			   a->name);
}

void doctor_check_numa(struct doctor *d)
{
	struct topology *t;
	int error = topology_read(d->root, &t);
	unsigned bare = 0;

	if (error) {
		doctor_say(d, DOCTOR_FAIL, "numa", "is /proc mounted?",
			   "how much memory there is cannot be read: %s", strerror(-error));
		return;
	}
	for (unsigned i = 0; i < t->nodes; i++)
		bare += t->node[i].state != TOPOLOGY_USABLE;
	if (!t->known)
		doctor_say(d, DOCTOR_WARN, "numa",
			   "give the container /sys; with one node nothing is lost",
			   "nodes are not told, all memory counts as node 0 (%s)", t->why);
	else if (t->why[0])
		doctor_say(d, DOCTOR_WARN, "numa", "let this be read in the container",
			   "%u nodes, not all of it told (%s)", t->nodes, t->why);
	else
		doctor_say(d, DOCTOR_OK, "numa", NULL,
			   bare ? "%u node%s, %u of them without memory to be had" : "%u node%s",
			   t->nodes, t->nodes == 1 ? "" : "s", bare);
	topology_free(t);
	for (uint32_t i = 0; d->seg && i < d->seg->devices_n; i++) {
		const struct stats_device *a = &d->seg->device[i];

		if (a->name[0] && a->kind == CORE_KIND_ARENA)
			check_arena_node(d, a);
	}
}
