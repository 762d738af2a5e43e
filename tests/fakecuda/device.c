/* SPDX-License-Identifier: Apache-2.0 */

/*
 * cuInit, and what is asked about a device. Every name begins with "fakecuda", so that nobody takes
 * a figure from a pretend device for one of a GPU; its PCI domain exists on no machine, so that
 * nobody finds another device's node in sysfs under its number.
 *
 * What is told about a device does not fail when it is lost: the real driver answers from memory.
 */

#include "tests/fakecuda/fake.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEVICE_NAME "fakecuda GPU"
#define DEVICE_PCI_DOMAIN 0xfa4e
#define DEVICE_PCI_BUS(ordinal) ((ordinal) + 1)

/* The same for a device of a pretend machine in every process; other machines have others. */
static void device_fill_uuid(uint32_t real, uint8_t *ret)
{
	uint32_t hash = 2166136261u;

	for (const char *at = fake.settings.node; *at; at++)
		hash = (hash ^ (uint8_t)*at) * 16777619u;
	memcpy(ret, "fakecuda", 8);
	memcpy(ret + 8, &hash, 4);
	memcpy(ret + 12, &real, 4);
}

/* Ordinal of what a word of CUDA_VISIBLE_DEVICES names: a number, or a UUID; else FAKE_GPUS_MAX. */
static uint32_t device_named(const char *word)
{
	char *tail;
	unsigned long number = strtoul(word, &tail, 10);

	for (uint32_t i = 0; i < fake.settings.gpus; i++) {
		char text[48] = "GPU-", *at = text + 4;
		uint8_t uuid[16];

		device_fill_uuid(i, uuid);
		for (unsigned k = 0; k < 16; k++)
			at += sprintf(at, k == 4 || k == 6 || k == 8 || k == 10 ? "-%02x" : "%02x",
				      uuid[k]);
		if ((tail != word && !*tail && number == i) || strcmp(word, text) == 0)
			return i;
	}
	return FAKE_GPUS_MAX;
}

/* As the driver: in the order of the variable, up to the first word that names none. */
static void device_hide(void)
{
	const char *variable = getenv("CUDA_VISIBLE_DEVICES");
	struct fake_settings seen = fake.settings;
	char copy[1024], *rest = copy, *word;

	if (!variable)
		return;
	snprintf(copy, sizeof(copy), "%s", variable);
	seen.gpus = 0;
	while ((word = strsep(&rest, ",")) && seen.gpus < FAKE_GPUS_MAX) {
		uint32_t real = device_named(word);

		if (real == FAKE_GPUS_MAX)
			break;
		seen.numa[seen.gpus] = fake.settings.numa[real];
		seen.real[seen.gpus++] = real;
	}
	fake.settings = seen;
}

static enum cu_result device_init(unsigned int flags)
{
	uint32_t done;

	if (flags)
		return CU_ERROR_INVALID_VALUE;
	if (fake.pid)
		return CU_OK;
	device_hide();
	if (fake.settings.gpus == 0)
		return CU_ERROR_NO_DEVICE;
	for (done = 0; done < fake.settings.gpus; done++) {
		struct cu_stream_object *null_stream = &fake.devices[done].null_stream;

		fake.devices[done].primary.ordinal = done;
		null_stream->ordinal = done;
		null_stream->last = &null_stream->first;
		if (store_open(&fake.settings, fake.settings.real[done],
			       &fake.devices[done].store) < 0)
			break;
	}
	if (done < fake.settings.gpus) {
		while (done-- > 0)
			store_close(fake.devices[done].store);
		return CU_ERROR_OPERATING_SYSTEM;
	}
	fake.pid = getpid();
	return CU_OK;
}

/*
 * What the process still has goes before its stores do, so that the last one leaves no file.
 * A child of fork() has its parent's stores, but not the say over them.
 */
static void __attribute__((destructor)) device_finish(void)
{
	if (fake.pid != getpid())
		return;
	fake_lock();
	fake.finished = true;
	fake_wake();
	space_finish();
	handle_finish();
	for (uint32_t i = 0; i < fake.settings.gpus; i++)
		store_close(fake.devices[i].store);
	fake_leave(CU_OK);
}

enum cu_result cuInit(unsigned int flags)
{
	enum cu_result result = fake_enter(FAKE_CALL_init, FAKE_DEVICE_ANY, 1);

	return fake_leave(result ? result : device_init(flags));
}

enum cu_result cuDriverGetVersion(int *ret_version)
{
	enum cu_result result = fake_enter(FAKE_CALL_driver_get_version, FAKE_DEVICE_ANY, 1);

	if (result == CU_OK && !ret_version)
		result = CU_ERROR_INVALID_VALUE;
	if (result == CU_OK)
		*ret_version = fake.settings.version;
	return fake_leave(result);
}

/* Asks nothing of the driver: it works before cuInit and in a sick process. */
enum cu_result cuGetErrorName(enum cu_result error, const char **ret_name)
{
	switch (error) {
	case CU_OK:
		*ret_name = "CUDA_SUCCESS";
		return CU_OK;
#define DEVICE_ERROR_CASE(name, value)                                                             \
	case CU_ERROR_##name:                                                                      \
		*ret_name = "CUDA_ERROR_" #name;                                                   \
		return CU_OK;
		CU_ERRORS(DEVICE_ERROR_CASE)
#undef DEVICE_ERROR_CASE
	}
	*ret_name = NULL;
	return CU_ERROR_INVALID_VALUE;
}

enum cu_result cuDeviceGetCount(int *ret_count)
{
	enum cu_result result = fake_enter(FAKE_CALL_device_get_count, FAKE_DEVICE_ANY, 1);

	if (result == CU_OK && !ret_count)
		result = CU_ERROR_INVALID_VALUE;
	if (result == CU_OK)
		*ret_count = (int)fake.settings.gpus;
	return fake_leave(result);
}

/* Begins a question about a device whose answer goes to ret. */
static enum cu_result device_ask(enum fake_call call, cu_device device, const void *ret)
{
	enum cu_result result = fake_enter(call, FAKE_DEVICE_ANY, 1);

	if (result == CU_OK && !ret)
		result = CU_ERROR_INVALID_VALUE;
	if (result == CU_OK && !device_exists(device))
		result = CU_ERROR_INVALID_DEVICE;
	return result;
}

enum cu_result cuDeviceGet(cu_device *ret_device, int ordinal)
{
	enum cu_result result = device_ask(FAKE_CALL_device_get, ordinal, ret_device);

	if (result == CU_OK)
		*ret_device = ordinal;
	return fake_leave(result);
}

/* Cut to the room there is, as the driver does. */
enum cu_result cuDeviceGetName(char *ret_name, int bytes, cu_device device)
{
	enum cu_result result = device_ask(FAKE_CALL_device_get_name, device, ret_name);

	if (result == CU_OK && bytes < 1)
		result = CU_ERROR_INVALID_VALUE;
	if (result == CU_OK)
		snprintf(ret_name, (size_t)bytes, "%s", DEVICE_NAME);
	return fake_leave(result);
}

enum cu_result cuDeviceGetUuid_v2(struct cu_uuid *ret_uuid, cu_device device)
{
	enum cu_result result = device_ask(FAKE_CALL_device_get_uuid, device, ret_uuid);

	if (result == CU_OK)
		device_fill_uuid(fake.settings.real[device], (uint8_t *)ret_uuid->bytes);
	return fake_leave(result);
}

static enum cu_result device_attribute(enum cu_device_attribute attribute, cu_device device,
				       int *ret)
{
	switch (attribute) {
	case CU_ATTRIBUTE_COMPUTE_MODE:
		*ret = fake.settings.mode;
		return CU_OK;
	case CU_ATTRIBUTE_PCI_DEVICE_ID:
	case CU_ATTRIBUTE_COMPUTE_MINOR:
		*ret = 0;
		return CU_OK;
	case CU_ATTRIBUTE_PCI_BUS_ID:
		*ret = DEVICE_PCI_BUS((int)fake.settings.real[device]);
		return CU_OK;
	case CU_ATTRIBUTE_PCI_DOMAIN_ID:
		*ret = DEVICE_PCI_DOMAIN;
		return CU_OK;
	case CU_ATTRIBUTE_COMPUTE_MAJOR:
		*ret = 9;
		return CU_OK;
	case CU_ATTRIBUTE_VMM_SUPPORTED:
	case CU_ATTRIBUTE_POSIX_FD_SUPPORTED:
	case CU_ATTRIBUTE_RDMA_SUPPORTED:
	case CU_ATTRIBUTE_FABRIC_SUPPORTED:
		*ret = 1;
		return CU_OK;
	case CU_ATTRIBUTE_HOST_NUMA_ID:
		*ret = fake.settings.numa[device];
		return CU_OK;
	}
	return CU_ERROR_INVALID_VALUE;
}

enum cu_result cuDeviceGetAttribute(int *ret_value, enum cu_device_attribute attribute,
				    cu_device device)
{
	enum cu_result result = device_ask(FAKE_CALL_device_get_attribute, device, ret_value);

	return fake_leave(result ? result : device_attribute(attribute, device, ret_value));
}

enum cu_result cuDeviceTotalMem_v2(size_t *ret_bytes, cu_device device)
{
	enum cu_result result = device_ask(FAKE_CALL_device_total_mem, device, ret_bytes);

	if (result == CU_OK)
		*ret_bytes = fake.settings.mem_bytes;
	return fake_leave(result);
}

enum cu_result cuDeviceGetPCIBusId(char *ret_id, int bytes, cu_device device)
{
	enum cu_result result = device_ask(FAKE_CALL_device_get_pci_bus_id, device, ret_id);
	char id[32];
	int length = 0;

	if (result == CU_OK)
		length = snprintf(id, sizeof(id), "%04X:%02X:00.0", DEVICE_PCI_DOMAIN,
				  DEVICE_PCI_BUS(fake.settings.real[device]));
	if (result == CU_OK && bytes <= length)
		result = CU_ERROR_INVALID_VALUE;
	if (result == CU_OK)
		memcpy(ret_id, id, (size_t)length + 1);
	return fake_leave(result);
}
