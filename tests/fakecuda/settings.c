/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Reads the FAKECUDA variable: KEY=VALUE, separated by commas. docs/testing.md tells more.
 *
 *   gpus=N  mem=256M  numa=0:1     how many devices, what each has, next to which node
 *   mode=3                         compute mode: 0 to 3
 *   version=13000                  of the driver; below 12080 it has no batch copy
 *   lat=CALL:15us                  what a call takes
 *   up=25G  down=25G               bytes a second of a device, from the host and to it
 *   fail=CALL[@GPU]:K[+]:RESULT    the K-th such call fails
 *   node=NAME  dir=PATH            whose devices they are, and where their memory lies
 *
 * Strict, because a setting that is misread makes a test that tests nothing: an unknown key, a call
 * or result that does not exist, a number with a tail -- each is an error with a line on stderr,
 * and cuInit fails. lat and fail may be given several times.
 */

#include "tests/fakecuda/fake.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SETTINGS_BYTES_MAX 4096u
#define SETTINGS_MEM_MAX (1ull << 40)
#define SETTINGS_RATE_MAX (1ull << 40)

/* Of an H200 under driver 580, as measured; per piece of memory that the call handles. */
static const struct {
	enum fake_call call;
	uint32_t us;
} settings_latencies[] = {
	{ FAKE_CALL_mem_create, 14 },     { FAKE_CALL_mem_release, 22 },
	{ FAKE_CALL_mem_export, 32 },     { FAKE_CALL_mem_import, 27 },
	{ FAKE_CALL_mem_map, 1 },         { FAKE_CALL_mem_unmap, 23 },
	{ FAKE_CALL_mem_set_access, 32 },
};

static bool settings_refuse(const char *what, const char *text, const char *want)
{
	fprintf(stderr, "fakecuda: FAKECUDA: %s '%s': %s\n", what, text, want);
	return false;
}

uint32_t settings_call_named(const char *name)
{
#define FAKE_CALL_NAME(field, symbol, args) #symbol,
	static const char *const names[] = { FAKE_ALL_CALLS(FAKE_CALL_NAME) };
#undef FAKE_CALL_NAME

	for (uint32_t i = 0; i < FAKE_CALLS; i++) {
		if (strcmp(names[i], name) == 0)
			return i;
	}
	return FAKE_CALLS;
}

static uint32_t settings_result_named(const char *name)
{
#define FAKE_RESULT(name, value) { #name, value },
	static const struct {
		const char *name;
		uint32_t value;
	} results[] = { CU_ERRORS(FAKE_RESULT){ "DEVICE_LOST", FAKE_DEVICE_LOST } };
#undef FAKE_RESULT

	for (uint32_t i = 0; i < sizeof(results) / sizeof(results[0]); i++) {
		if (strcmp(results[i].name, name) == 0)
			return results[i].value;
	}
	return CU_OK;
}

/* Digits and nothing else before *ret_tail. */
static bool settings_number(const char *text, uint64_t *ret, const char **ret_tail)
{
	char *tail;

	if (!isdigit((unsigned char)text[0]))
		return false;
	errno = 0;
	*ret = strtoull(text, &tail, 10);
	*ret_tail = tail;
	return errno == 0;
}

static bool settings_gpus(struct fake_settings *set, const char *text)
{
	const char *tail;
	uint64_t gpus;

	if (!settings_number(text, &gpus, &tail) || *tail || gpus > FAKE_GPUS_MAX)
		return settings_refuse("gpus", text, "0 to 16");
	set->gpus = (uint32_t)gpus;
	return true;
}

static bool settings_mem(struct fake_settings *set, const char *text)
{
	const char *tail;
	uint64_t bytes;
	uint32_t shift = 0;

	if (settings_number(text, &bytes, &tail) && *tail && !tail[1])
		shift = *tail == 'M' ? 20 : *tail == 'G' ? 30 : 0;
	if (shift == 0 || bytes > SETTINGS_MEM_MAX >> shift ||
	    bytes << shift < FAKE_GRANULE_BYTES || (bytes << shift) % FAKE_GRANULE_BYTES)
		return settings_refuse("mem", text,
				       "of each GPU, as 256M or 16G: even, 2M to 1024G");
	set->mem_bytes = bytes << shift;
	return true;
}

/* One number for all, or as many as there are GPUs; checked at the end, for gpus= may come later.
 */
static bool settings_numa(struct fake_settings *set, const char *text, uint32_t *ret_count)
{
	uint32_t count = 0;
	char *tail;

	for (const char *at = text; count < FAKE_GPUS_MAX; at = tail + 1) {
		long node = strtol(at, &tail, 10);

		if (tail == at || node < -1 || node > 1023 || (*tail && *tail != ':'))
			break;
		set->numa[count++] = (int)node;
		if (!*tail) {
			*ret_count = count;
			return true;
		}
	}
	return settings_refuse("numa", text, "a node (-1: none) for each GPU, as 0:0:1:1");
}

static bool settings_latency(struct fake_settings *set, char *text)
{
	static const struct {
		const char *unit;
		uint64_t ns;
	} units[] = { { "ns", 1 }, { "us", 1000 }, { "ms", 1000000 }, { "s", 1000000000 } };
	const char *want = "as cuMemCreate:15us or *:0us, in ns, us, ms or s, up to 3600s";
	char *colon = strchr(text, ':');
	uint64_t value = 0, ns = 0;
	const char *tail = "";
	uint32_t call;

	if (!colon || !settings_number(colon + 1, &value, &tail))
		return settings_refuse("lat", text, want);
	for (uint32_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
		if (strcmp(units[i].unit, tail) == 0)
			ns = units[i].ns;
	}
	if (ns == 0 || value > 3600000000000ull / ns)
		return settings_refuse("lat", text, want);
	*colon = '\0';
	call = settings_call_named(text);
	if (call == FAKE_CALLS && strcmp(text, "*") != 0)
		return settings_refuse("lat", text, "not a call that the stand-in has");
	for (uint32_t i = 0; i < FAKE_CALLS; i++) {
		if (i == call || call == FAKE_CALLS)
			set->latency_ns[i] = value * ns;
	}
	return true;
}

static bool settings_rate(uint64_t *ret, const char *key, const char *text)
{
	const char *tail;
	uint64_t rate;
	uint32_t shift = 0;

	if (settings_number(text, &rate, &tail) && *tail && !tail[1])
		shift = *tail == 'K' ? 10 : *tail == 'M' ? 20 : *tail == 'G' ? 30 : 0;
	if (shift == 0 || rate == 0 || rate > SETTINGS_RATE_MAX >> shift)
		return settings_refuse(key, text, "bytes a second, as 500M or 25G, 1K to 1024G");
	*ret = rate << shift;
	return true;
}

static bool settings_fail(struct fake_settings *set, char *text)
{
	const char *want = "CALL[@GPU]:K[+]:RESULT, as cuMemCreate:3:OUT_OF_MEMORY";
	struct fake_rule rule = { .ordinal = FAKE_DEVICE_ANY };
	char *first = strchr(text, ':');
	char *second = first ? strchr(first + 1, ':') : NULL;
	char *device = strchr(text, '@');
	const char *tail;
	uint64_t ordinal;

	if (!second)
		return settings_refuse("fail", text, want);
	rule.result = settings_result_named(second + 1);
	if (rule.result == CU_OK)
		return settings_refuse("fail", second + 1, "not a result that the stand-in has");
	if (!settings_number(first + 1, &rule.count, &tail) || rule.count == 0)
		return settings_refuse("fail", text, want);
	rule.onwards = *tail == '+';
	if (tail + rule.onwards != second)
		return settings_refuse("fail", text, want);
	*first = '\0';
	if (device) {
		if (!settings_number(device + 1, &ordinal, &tail) || *tail ||
		    ordinal >= FAKE_GPUS_MAX)
			return settings_refuse("fail", text, want);
		rule.ordinal = (int)ordinal;
		*device = '\0';
	}
	rule.call = settings_call_named(text);
	if (rule.call == FAKE_CALLS && strcmp(text, "*") != 0)
		return settings_refuse("fail", text, "not a call that the stand-in has");
	if (set->rules_count == FAKE_RULES_MAX)
		return settings_refuse("fail", text, "at most 16 of these");
	set->rules[set->rules_count++] = rule;
	return true;
}

static bool settings_text(const char *what, char *ret, size_t bytes, const char *text, bool path)
{
	size_t length = strlen(text);
	bool good = length > 0 && length < bytes && (!path || text[0] == '/');

	for (size_t i = 0; i < length && good && !path; i++)
		good = isalnum((unsigned char)text[i]) || text[i] == '-' || text[i] == '_';
	if (!good) {
		return settings_refuse(what, text,
				       path ? "an absolute path, 127 characters at most"
					    : "letters, digits, - and _, 31 at most");
	}
	memcpy(ret, text, length + 1);
	return true;
}

static bool settings_version(struct fake_settings *set, const char *text)
{
	const char *tail;
	uint64_t version;

	if (!settings_number(text, &version, &tail) || *tail || version > 99999)
		return settings_refuse("version", text, "as cuDriverGetVersion tells it: 13000");
	set->version = (int)version;
	return true;
}

static bool settings_mode(struct fake_settings *set, const char *text)
{
	if (text[0] < '0' || text[0] > '3' || text[1])
		return settings_refuse("mode", text, "0 to 3, as the driver numbers them");
	set->mode = text[0] - '0';
	return true;
}

static bool settings_one(struct fake_settings *set, char *text, uint32_t *ret_numa)
{
	char *value = strchr(text, '=');

	if (!value)
		return settings_refuse("cannot read", text, "want KEY=VALUE,KEY=VALUE");
	*value++ = '\0';
	if (strcmp(text, "gpus") == 0)
		return settings_gpus(set, value);
	if (strcmp(text, "mem") == 0)
		return settings_mem(set, value);
	if (strcmp(text, "numa") == 0)
		return settings_numa(set, value, ret_numa);
	if (strcmp(text, "lat") == 0)
		return settings_latency(set, value);
	if (strcmp(text, "fail") == 0)
		return settings_fail(set, value);
	if (strcmp(text, "version") == 0)
		return settings_version(set, value);
	if (strcmp(text, "mode") == 0)
		return settings_mode(set, value);
	if (strcmp(text, "node") == 0)
		return settings_text("node", set->node, sizeof(set->node), value, false);
	if (strcmp(text, "dir") == 0)
		return settings_text("dir", set->dir, sizeof(set->dir), value, true);
	if (strcmp(text, "up") == 0)
		return settings_rate(&set->copy_rate[FAKE_UP], text, value);
	if (strcmp(text, "down") == 0)
		return settings_rate(&set->copy_rate[FAKE_DOWN], text, value);
	return settings_refuse(
		"unknown key", text,
		"there are gpus, mem, numa, lat, up, down, fail, version, mode, node and dir");
}

static void settings_default(struct fake_settings *ret)
{
	*ret = (struct fake_settings){
		.gpus = 1,
		.mem_bytes = 16ull << 30,
		.version = 13000,
		.node = "node",
		.dir = "/dev/shm",
	};
	for (uint32_t i = 0; i < FAKE_GPUS_MAX; i++)
		ret->real[i] = i;
	for (uint32_t i = 0; i < sizeof(settings_latencies) / sizeof(settings_latencies[0]); i++)
		ret->latency_ns[settings_latencies[i].call] = settings_latencies[i].us * 1000ull;
}

bool settings_read(struct fake_settings *ret)
{
	const char *text = getenv("FAKECUDA");
	char copy[SETTINGS_BYTES_MAX];
	char *rest = copy, *one;
	uint32_t numa = 0;

	settings_default(ret);
	if (!text || !text[0])
		return true;
	if (strlen(text) >= sizeof(copy))
		return settings_refuse("too long", "", "4095 characters at most");
	memcpy(copy, text, strlen(text) + 1);
	while ((one = strsep(&rest, ","))) {
		if (!settings_one(ret, one, &numa))
			return false;
	}
	if (numa > 1 && numa != ret->gpus)
		return settings_refuse("numa", text, "one node for all GPUs, or one for each");
	for (uint32_t i = 1; i < FAKE_GPUS_MAX && numa == 1; i++)
		ret->numa[i] = ret->numa[0];
	return true;
}
