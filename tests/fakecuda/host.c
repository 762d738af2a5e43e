/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Host memory that was made known to the devices: page-locked, which is what lets a copy go on
 * after its call has returned, and gives a word an address that streams can write and wait for.
 *
 * By whole pages, and every device has it, at the address that the process has. No page is known
 * twice. Nothing is locked here, and nothing is asked of the memory but that it is mapped.
 */

#include "tests/fakecuda/fake.h"

#include <stdlib.h>
#include <sys/mman.h>

#define HOST_PAGE_BYTES 4096ull
#define HOST_FLAGS (CU_FLAG_HOST_PORTABLE | CU_FLAG_HOST_DEVICEMAP)

struct host_range {
	struct host_range *next;
	uint64_t address; /* as it was given */
	uint64_t first;   /* of its pages */
	uint64_t after;
};

static struct host_range *host_list;

static struct host_range *host_overlap(uint64_t first, uint64_t after)
{
	for (struct host_range *range = host_list; range; range = range->next) {
		if (first < range->after && range->first < after)
			return range;
	}
	return NULL;
}

enum host_known host_knows(uint64_t address, uint64_t bytes)
{
	const struct host_range *range = host_overlap(address, address + bytes);

	if (!range)
		return HOST_UNKNOWN;
	return address >= range->first && bytes <= range->after - address ? HOST_KNOWN
									  : HOST_KNOWN_PARTLY;
}

static enum cu_result host_register(uint64_t address, uint64_t bytes)
{
	uint64_t first = address / HOST_PAGE_BYTES * HOST_PAGE_BYTES;
	uint64_t after =
		(address + bytes + HOST_PAGE_BYTES - 1) / HOST_PAGE_BYTES * HOST_PAGE_BYTES;
	struct host_range *range;

	if (after <= first)
		return CU_ERROR_INVALID_VALUE;
	if (host_overlap(first, after))
		return CU_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
	if (msync((void *)(uintptr_t)first, after - first, MS_ASYNC) < 0) /* says what is mapped */
		return CU_ERROR_INVALID_VALUE;
	range = calloc(1, sizeof(*range));
	if (!range)
		return CU_ERROR_OUT_OF_MEMORY;
	*range = (struct host_range){
		.next = host_list, .address = address, .first = first, .after = after
	};
	host_list = range;
	return CU_OK;
}

enum cu_result cuMemHostRegister_v2(void *memory, size_t bytes, unsigned int flags)
{
	enum cu_result result = fake_enter(FAKE_CALL_host_register, context_ordinal(), 1);
	uint32_t ordinal;

	if (result == CU_OK)
		result = context_device(&ordinal);
	if (result == CU_OK && (!memory || bytes == 0 || (flags & ~HOST_FLAGS)))
		result = CU_ERROR_INVALID_VALUE;
	return fake_leave(result ? result : host_register((uintptr_t)memory, bytes));
}

static enum cu_result host_unregister(uint64_t address)
{
	struct host_range *range;

	range = host_overlap(address, address + 1);
	if (range)
		copy_wait_range(range->first, range->after - range->first);
	for (struct host_range **link = &host_list; *link; link = &(*link)->next) {
		range = *link;
		if (range->address != address)
			continue;
		*link = range->next;
		free(range);
		return CU_OK;
	}
	return CU_ERROR_HOST_MEMORY_NOT_REGISTERED;
}

enum cu_result cuMemHostUnregister(void *memory)
{
	enum cu_result result = fake_enter(FAKE_CALL_host_unregister, context_ordinal(), 1);
	uint32_t ordinal;

	if (result == CU_OK)
		result = context_device(&ordinal);
	if (result == CU_OK && !memory)
		result = CU_ERROR_INVALID_VALUE;
	return fake_leave(result ? result : host_unregister((uintptr_t)memory));
}

enum cu_result cuMemHostGetDevicePointer_v2(cu_address *ret_address, void *memory,
					    unsigned int flags)
{
	enum cu_result result = fake_enter(FAKE_CALL_host_get_device_pointer, context_ordinal(), 1);
	uint32_t ordinal;

	if (result == CU_OK)
		result = context_device(&ordinal);
	if (result == CU_OK &&
	    (!ret_address || flags || host_knows((uintptr_t)memory, 1) != HOST_KNOWN))
		result = CU_ERROR_INVALID_VALUE;
	if (result == CU_OK)
		*ret_address = (uintptr_t)memory;
	return fake_leave(result);
}
