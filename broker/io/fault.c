/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Fault points; see fault.h. Built only with -Dfault_points=true.
 *
 * The table of names is small and fixed: a point is found by walking it under a lock. That is slow,
 * and these builds are for tests only.
 */

#include "broker/io/fault.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define FAULT_POINTS_MAX 64

static struct {
	pthread_mutex_t lock;
	bool started;
	char name[32]; /* of the point that fails; empty: none */
	unsigned long at;
	int error;
	unsigned long all;
	unsigned points;
	const char *point[FAULT_POINTS_MAX];
	unsigned long count[FAULT_POINTS_MAX];
} fault = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void fault_report(void)
{
	const char *path = getenv("KVB_FAULT_COUNT");
	FILE *file = path ? fopen(path, "we") : NULL;

	if (!file)
		return;
	for (unsigned i = 0; i < fault.points; i++)
		fprintf(file, "%s %lu\n", fault.point[i], fault.count[i]);
	fprintf(file, "* %lu\n", fault.all);
	fclose(file);
}

static void fault_start(void)
{
	const char *spec = getenv("KVB_FAULT");

	fault.started = true;
	fault.error = ENOMEM;
	if (spec && sscanf(spec, "%31[^:]:%lu:%d", fault.name, &fault.at, &fault.error) < 2)
		fault.name[0] = '\0';
	atexit(fault_report);
}

int fault_point(const char *name)
{
	unsigned long nth = 0;
	unsigned i = 0;
	bool hit;

	pthread_mutex_lock(&fault.lock);
	if (!fault.started)
		fault_start();
	fault.all++;
	while (i < fault.points && strcmp(fault.point[i], name) != 0)
		i++;
	if (i == fault.points && i < FAULT_POINTS_MAX)
		fault.point[fault.points++] = name;
	if (i < FAULT_POINTS_MAX)
		nth = ++fault.count[i];
	hit = strcmp(fault.name, "*") == 0 ? fault.all == fault.at
					   : strcmp(fault.name, name) == 0 && nth == fault.at;
	pthread_mutex_unlock(&fault.lock);
	return hit ? -fault.error : 0;
}
