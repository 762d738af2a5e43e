/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A stand-in for NVIDIA's management library, as far as owners of GPUs call it.
 *
 * The file that FAKENVML names has one line: "FREE USED" in MiB, of every GPU; it is read anew with
 * each question, so that a test takes memory away by writing to it. Another word than two numbers
 * is an error of the library: "deaf" of its start, "blind" of finding a GPU, all else of reading.
 */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
#define FAKE_ERROR 999
#define MEMORY_2 (40u | 2u << 24)

struct fake_memory {
	uint32_t version;
	uint64_t total, reserved, free, used;
};

int EXPORT nvmlInit_v2(void);
int EXPORT nvmlShutdown(void);
int EXPORT nvmlDeviceGetHandleByUUID(const char *uuid, void **ret_device);
int EXPORT nvmlDeviceGetMemoryInfo_v2(void *device, struct fake_memory *ret);

static int started, device;

static void fake_line(char *ret, int bytes)
{
	const char *path = getenv("FAKENVML");
	FILE *f = path ? fopen(path, "re") : NULL;

	ret[0] = '\0';
	if (!f)
		return;
	if (!fgets(ret, bytes, f))
		ret[0] = '\0';
	fclose(f);
}

int nvmlInit_v2(void)
{
	char line[64];

	fake_line(line, sizeof(line));
	started = strncmp(line, "deaf", 4) != 0;
	return started ? 0 : FAKE_ERROR;
}

int nvmlShutdown(void)
{
	started = 0;
	return 0;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **ret_device)
{
	char line[64];

	fake_line(line, sizeof(line));
	if (!started || strncmp(uuid, "GPU-", 4) != 0 || strlen(uuid) != 40 ||
	    strncmp(line, "blind", 5) == 0)
		return FAKE_ERROR;
	*ret_device = &device;
	return 0;
}

int nvmlDeviceGetMemoryInfo_v2(void *of, struct fake_memory *ret)
{
	unsigned long long unused, used;
	char line[64];

	fake_line(line, sizeof(line));
	if (!started || of != &device || ret->version != MEMORY_2 ||
	    sscanf(line, "%llu %llu", &unused, &used) != 2)
		return FAKE_ERROR;
	ret->free = unused << 20;
	ret->used = used << 20;
	ret->total = ret->free + ret->used;
	ret->reserved = 0;
	return 0;
}
