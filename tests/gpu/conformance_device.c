/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What a driver says of itself and its devices, and its contexts.
 */

#include "tests/gpu/conformance.h"

#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void test_init(void)
{
	int version = 0, count = 0;

	EXPECT(INVALID_VALUE, cu->init(1));
	EXPECT(OK, cu->init(0));
	EXPECT(OK, cu->driver_get_version(&version));
	CHECK(version >= 11000 && version < 100000);
	EXPECT(OK, cu->device_get_count(&count));
	CHECK(count > test_ordinal);
}

static void test_ordinals(void)
{
	int count = 0;
	cu_device device;

	EXPECT(OK, cu->device_get_count(&count));
	EXPECT(INVALID_DEVICE, cu->device_get(&device, -1));
	EXPECT(INVALID_DEVICE, cu->device_get(&device, count));
	for (int i = 0; i < count; i++) {
		EXPECT(OK, cu->device_get(&device, i));
		CHECK(device == i);
	}
}

static void test_names(void)
{
	char name[128], cut[5], id[32];

	EXPECT(OK, cu->device_get_name(name, sizeof(name), test_ordinal));
	CHECK(strlen(name) > 4);
	EXPECT(OK, cu->device_get_name(cut, sizeof(cut), test_ordinal));
	CHECK(strlen(cut) == 4 && strncmp(cut, name, 4) == 0);
	EXPECT(INVALID_DEVICE, cu->device_get_name(name, sizeof(name), 99));
	EXPECT(OK, cu->device_get_pci_bus_id(id, sizeof(id), test_ordinal));
	CHECK(strlen(id) == strlen("0000:00:00.0") && id[4] == ':' && id[7] == ':');
	EXPECT(INVALID_VALUE, cu->device_get_pci_bus_id(id, 5, test_ordinal));
}

static void test_uuids(void)
{
	struct cu_uuid ours, again, other;
	int count = 0;

	EXPECT(OK, cu->device_get_count(&count));
	EXPECT(OK, cu->device_get_uuid(&ours, test_ordinal));
	EXPECT(OK, cu->device_get_uuid(&again, test_ordinal));
	CHECK(memcmp(&ours, &again, sizeof(ours)) == 0);
	EXPECT(INVALID_DEVICE, cu->device_get_uuid(&other, count));
	for (int i = 0; i < count; i++) {
		EXPECT(OK, cu->device_get_uuid(&other, i));
		CHECK((memcmp(&ours, &other, sizeof(ours)) == 0) == (i == test_ordinal));
	}
}

static void test_attributes(void)
{
	int bus, device, domain, vmm, posix, major, node;
	char id[32], want[32];

	EXPECT(OK, cu->device_get_attribute(&vmm, CU_ATTRIBUTE_VMM_SUPPORTED, test_ordinal));
	EXPECT(OK, cu->device_get_attribute(&posix, CU_ATTRIBUTE_POSIX_FD_SUPPORTED, test_ordinal));
	CHECK(vmm == 1 && posix == 1);
	EXPECT(OK, cu->device_get_attribute(&major, CU_ATTRIBUTE_COMPUTE_MAJOR, test_ordinal));
	CHECK(major >= 7);
	EXPECT(OK, cu->device_get_attribute(&bus, CU_ATTRIBUTE_PCI_BUS_ID, test_ordinal));
	EXPECT(OK, cu->device_get_attribute(&device, CU_ATTRIBUTE_PCI_DEVICE_ID, test_ordinal));
	EXPECT(OK, cu->device_get_attribute(&domain, CU_ATTRIBUTE_PCI_DOMAIN_ID, test_ordinal));
	snprintf(want, sizeof(want), "%04X:%02X:%02X.0", (unsigned int)domain & 0xffff,
		 (unsigned int)bus & 0xff, (unsigned int)device & 0xff);
	EXPECT(OK, cu->device_get_pci_bus_id(id, sizeof(id), test_ordinal));
	CHECK(strcasecmp(id, want) == 0);
	EXPECT(OK, cu->device_get_attribute(&node, CU_ATTRIBUTE_HOST_NUMA_ID, test_ordinal));
	CHECK(node >= -1 && node < 1024);
	EXPECT(INVALID_VALUE,
	       cu->device_get_attribute(&node, (enum cu_device_attribute)9999, test_ordinal));
	EXPECT(INVALID_DEVICE, cu->device_get_attribute(&node, CU_ATTRIBUTE_HOST_NUMA_ID, 99));
}

static void test_total(void)
{
	size_t bytes = 0;

	EXPECT(OK, cu->device_total_mem(&bytes, test_ordinal));
	CHECK(bytes >= 64ull << 20);
	EXPECT(INVALID_DEVICE, cu->device_total_mem(&bytes, 99));
}

static void test_granularity(void)
{
	struct cu_allocation prop = allocation_prop();
	size_t least = 0, best = 0;

	EXPECT(OK, cu->mem_get_allocation_granularity(&least, &prop, CU_GRANULARITY_MINIMUM));
	EXPECT(OK, cu->mem_get_allocation_granularity(&best, &prop, CU_GRANULARITY_RECOMMENDED));
	CHECK(least > 0 && (least & (least - 1)) == 0 && least <= 2ull << 20);
	CHECK(best >= least && best % least == 0);
	EXPECT(INVALID_VALUE,
	       cu->mem_get_allocation_granularity(&least, &prop, (enum cu_granularity)7));
}

static void test_error_names(void)
{
	const char *name = NULL;

	EXPECT(OK, cu->get_error_name(CU_OK, &name));
	CHECK(strcmp(name, "CUDA_SUCCESS") == 0);
#define ERROR_NAME_CHECK(error, value)                                                             \
	if (cu->get_error_name(CU_ERROR_##error, &name) == CU_OK)                                  \
		CHECK(strcmp(name, "CUDA_ERROR_" #error) == 0);
	CU_ERRORS(ERROR_NAME_CHECK)
#undef ERROR_NAME_CHECK
	EXPECT(OK, cu->get_error_name(CU_ERROR_OUT_OF_MEMORY, &name));
	EXPECT(OK, cu->get_error_name(CU_ERROR_UNKNOWN, &name));
	EXPECT(INVALID_VALUE, cu->get_error_name((enum cu_result)123456, &name));
	CHECK(name == NULL);
}

/* What an owner does: no call of it makes a context. */
static void test_no_context(void)
{
	cu_address address;
	cu_context context;
	cu_handle handle;
	int fd = -1;

	EXPECT(OK, allocation_create(test_granule, &handle));
	EXPECT(OK, cu->mem_export(&fd, handle, CU_HANDLE_POSIX_FD, 0));
	EXPECT(OK, window_open(handle, test_granule, &address));
	EXPECT(OK, cu->ctx_get_current(&context));
	CHECK(context == NULL);
	EXPECT(INVALID_CONTEXT, cu->ctx_get_device(&(cu_device){ 0 }));
	EXPECT(INVALID_CONTEXT, cu->ctx_synchronize());
	EXPECT(INVALID_CONTEXT, cu->memcpy_htod(address, "12345678", 8));
	EXPECT(OK, window_close(address, test_granule));
	EXPECT(OK, cu->mem_release(handle));
	close(fd);
}

static void test_primary_context(void)
{
	cu_context first, second, current;
	cu_device device = -1;

	EXPECT(INVALID_CONTEXT, cu->primary_ctx_release(test_ordinal));
	EXPECT(INVALID_DEVICE, cu->primary_ctx_retain(&first, 99));
	EXPECT(OK, cu->primary_ctx_retain(&first, test_ordinal));
	EXPECT(OK, cu->primary_ctx_retain(&second, test_ordinal));
	CHECK(first && first == second);
	EXPECT(OK, cu->ctx_get_current(&current));
	CHECK(current == NULL);
	EXPECT(OK, cu->ctx_set_current(first));
	EXPECT(OK, cu->ctx_get_current(&current));
	CHECK(current == first);
	EXPECT(OK, cu->ctx_get_device(&device));
	CHECK(device == test_ordinal);
	EXPECT(OK, cu->primary_ctx_release(test_ordinal));
	EXPECT(OK, cu->ctx_synchronize());
	EXPECT(OK, cu->primary_ctx_release(test_ordinal));
	EXPECT(CONTEXT_IS_DESTROYED, cu->ctx_synchronize());
	EXPECT(INVALID_CONTEXT, cu->primary_ctx_release(test_ordinal));
	EXPECT(OK, cu->ctx_set_current(NULL));
	EXPECT(OK, cu->ctx_get_current(&current));
	CHECK(current == NULL);
}

static void test_fork(void)
{
	int status = 0;
	pid_t pid = fork();

	if (pid == 0)
		_exit(cu->device_get_count(&(int){ 0 }) == CU_ERROR_NOT_INITIALIZED ? 0 : 1);
	CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

const struct test tests_device[] = {
	{ "cuInit wants no flags and may be called again", test_init },
	{ "devices are numbered from 0", test_ordinals },
	{ "names are cut to the room, PCI addresses are not", test_names },
	{ "a UUID is of one device", test_uuids },
	{ "attributes agree with the PCI address", test_attributes },
	{ "total memory", test_total },
	{ "granularity is a power of two of at most 2 MiB", test_granularity },
	{ "errors have the names that we know them by", test_error_names },
	{ "create, export and map without a context, and make none", test_no_context },
	{ "a primary context is there while it is retained", test_primary_context },
	{ "a child of fork has no driver", test_fork },
	{ NULL, NULL },
};
