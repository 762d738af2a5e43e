/* SPDX-License-Identifier: Apache-2.0 */

/* fio for one slice, on its part of the file; see store.h. */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "tools/kvb-bench/store.h"

#define OUTPUT_BYTES_MAX (1u << 20)

static double number(const cJSON *o, const char *key)
{
	const cJSON *n = cJSON_GetObjectItemCaseSensitive(o, key);

	if (!cJSON_IsNumber(n))
		bench_die("fio's report has no number \"%s\"", key);
	return n->valuedouble;
}

static const cJSON *object(const cJSON *o, const char *key)
{
	const cJSON *n = cJSON_GetObjectItemCaseSensitive(o, key);

	if (!cJSON_IsObject(n))
		bench_die("fio's report has no \"%s\"", key);
	return n;
}

static void take(const char *text, bool write, struct store_slice *ret)
{
	const char *begin = strchr(text, '{'); /* it may warn first */
	cJSON *root = begin ? cJSON_Parse(begin) : NULL;
	const cJSON *job = cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(root, "jobs"), 0);
	const cJSON *dir, *lat;
	double run_ms, bytes;

	if (!job || number(job, "error") != 0)
		bench_die("fio failed: %.200s", text);
	dir = object(job, write ? "write" : "read");
	lat = object(object(dir, "clat_ns"), "percentile");
	run_ms = number(dir, "runtime");
	bytes = number(dir, "io_bytes");
	if (run_ms <= 0 || bytes <= 0)
		bench_die("fio moved nothing");
	ret->gb_s = bytes / (run_ms * 1e6);
	ret->cpu_s_gb =
		(number(job, "usr_cpu") + number(job, "sys_cpu")) / 100 * run_ms * 1e6 / bytes;
	ret->p50_us = number(lat, "50.000000") / 1e3;
	ret->p99_us = number(lat, "99.000000") / 1e3;
	cJSON_Delete(root);
}

void fio_slice(const struct fio *f, bool write, uint32_t bytes, uint32_t depth,
	       struct store_slice *ret)
{
	char command[1024];
	char *text = malloc(OUTPUT_BYTES_MAX);
	size_t n;
	FILE *p;

	if (!text)
		bench_die("out of memory");
	snprintf(command, sizeof(command),
		 "exec fio --name=slice --filename='%s' --offset=%" PRIu64 " --size=%" PRIu64
		 " --rw=%s --bs=%u --iodepth=%u --ioengine=io_uring --direct=1 --fixedbufs=1"
		 " --registerfiles=1 --time_based --runtime=%" PRIu64 "ms --norandommap"
		 " --randrepeat=0 --thread --output-format=json 2>&1",
		 f->path, f->offset, f->bytes, write ? "write" : "randread", bytes, depth,
		 f->slice_ns / 1000000);
	p = popen(command, "r");
	if (!p)
		bench_die("fio can not be run");
	n = fread(text, 1, OUTPUT_BYTES_MAX - 1, p);
	text[n] = '\0';
	if (pclose(p) != 0)
		bench_die("fio failed (is it installed?): %.200s", text);
	take(text, write, ret);
	free(text);
}
