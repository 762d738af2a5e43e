/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Allocations: created, released, exported, imported.
 *
 * A handle is one process's hold on a piece of a device's store, by an fd of its own. Importing a
 * piece makes a new handle each time, also in the process that created it, and such a handle cannot
 * be exported again. A released handle lives on under its maps; its memory lives on under any fd.
 *
 * A handle's number says which slot of the table it has and which use of the slot it is. A number
 * that is not in use aborts: the real driver takes it for a pointer.
 */

#include "tests/fakecuda/fake.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct handle_slot {
	struct handle *handle; /* NULL: free */
	uint32_t use;
	uint32_t next_free;
};

#define HANDLE_NONE UINT32_MAX

static struct handle_slot *handle_slots;
static uint32_t handle_slots_count;
static uint32_t handle_free = HANDLE_NONE;

static bool handle_table_grow(void)
{
	uint32_t count = handle_slots_count ? 2 * handle_slots_count : 64;
	struct handle_slot *slots = realloc(handle_slots, count * sizeof(*slots));

	if (!slots)
		return false;
	handle_slots = slots;
	for (uint32_t i = count; i-- > handle_slots_count;) {
		slots[i] = (struct handle_slot){ .next_free = handle_free };
		handle_free = i;
	}
	handle_slots_count = count;
	return true;
}

/* Takes the fd over; on an error too. */
static enum cu_result handle_add(struct handle model, cu_handle *ret)
{
	struct handle *handle = malloc(sizeof(*handle));
	uint32_t slot;

	if (!handle || (handle_free == HANDLE_NONE && !handle_table_grow())) {
		free(handle);
		store_give(fake.devices[model.ordinal].store, model.fd, model.offset, model.bytes);
		return CU_ERROR_OUT_OF_MEMORY;
	}
	*handle = model;
	handle->references = 1;
	slot = handle_free;
	handle_free = handle_slots[slot].next_free;
	handle_slots[slot].handle = handle;
	*ret = (cu_handle)++handle_slots[slot].use << 32 | (slot + 1);
	return CU_OK;
}

static struct handle_slot *handle_slot_find(cu_handle id)
{
	uint32_t slot = (uint32_t)id - 1;

	if (slot >= handle_slots_count || !handle_slots[slot].handle ||
	    handle_slots[slot].use != id >> 32)
		return NULL;
	return &handle_slots[slot];
}

static struct handle_slot *handle_slot_get(cu_handle id, const char *call)
{
	struct handle_slot *slot = handle_slot_find(id);

	if (!slot) {
		fprintf(stderr,
			"fakecuda: %s: there is no handle %#llx; the real driver crashes here\n",
			call, (unsigned long long)id);
		abort();
	}
	return slot;
}

struct handle *handle_get(cu_handle id, const char *call)
{
	return handle_slot_get(id, call)->handle;
}

int handle_ordinal(cu_handle id)
{
	struct handle_slot *slot = handle_slot_find(id);

	return slot ? (int)slot->handle->ordinal : FAKE_DEVICE_ANY;
}

void handle_put(struct handle *handle)
{
	if (--handle->references > 0)
		return;
	store_give(fake.devices[handle->ordinal].store, handle->fd, handle->offset, handle->bytes);
	free(handle);
}

void handle_finish(void)
{
	for (uint32_t i = 0; i < handle_slots_count; i++) {
		if (handle_slots[i].handle)
			handle_put(handle_slots[i].handle);
		handle_slots[i].handle = NULL;
	}
}

/* ---- create and release -------------------------------------------------------------------- */

static enum cu_result handle_create(cu_handle *ret, size_t bytes, const struct cu_allocation *prop)
{
	struct handle handle = { .bytes = bytes };
	enum cu_result result;

	if (!device_exists(prop->location.id))
		return CU_ERROR_INVALID_DEVICE;
	handle.ordinal = (uint32_t)prop->location.id;
	handle.exportable = prop->handle_types & CU_HANDLE_POSIX_FD;
	result = store_take(fake.devices[handle.ordinal].store, bytes, &handle.fd, &handle.offset);
	return result ? result : handle_add(handle, ret);
}

static bool handle_prop_valid(const struct cu_allocation *prop)
{
	return prop && prop->type == CU_ALLOCATION_PINNED &&
	       prop->location.type == CU_LOCATION_DEVICE;
}

enum cu_result cuMemCreate(cu_handle *ret_handle, size_t bytes, const struct cu_allocation *prop,
			   unsigned long long flags)
{
	enum cu_result result =
		fake_enter(FAKE_CALL_mem_create, prop ? prop->location.id : FAKE_DEVICE_ANY, 1);

	if (result == CU_OK && (!ret_handle || !handle_prop_valid(prop) || flags || bytes == 0 ||
				bytes % FAKE_GRANULE_BYTES))
		result = CU_ERROR_INVALID_VALUE;
	if (result == CU_OK)
		result = handle_create(ret_handle, bytes, prop);
	return fake_leave(result);
}

enum cu_result cuMemRelease(cu_handle handle)
{
	enum cu_result result;

	fake_lock();
	result = fake_begin(FAKE_CALL_mem_release, handle_ordinal(handle), 1);
	if (result == CU_OK) {
		struct handle_slot *slot = handle_slot_get(handle, "cuMemRelease");

		handle_put(slot->handle);
		slot->handle = NULL;
		slot->next_free = handle_free;
		handle_free = (uint32_t)(slot - handle_slots);
	}
	return fake_leave(result);
}

/* The driver does not look at the device here. */
enum cu_result cuMemGetAllocationGranularity(size_t *ret_bytes, const struct cu_allocation *prop,
					     enum cu_granularity option)
{
	enum cu_result result =
		fake_enter(FAKE_CALL_mem_get_allocation_granularity, FAKE_DEVICE_ANY, 1);

	if (result == CU_OK && (!ret_bytes || !prop || (unsigned int)option > 1))
		result = CU_ERROR_INVALID_VALUE;
	if (result == CU_OK)
		*ret_bytes = FAKE_GRANULE_BYTES;
	return fake_leave(result);
}

/* ---- export and import --------------------------------------------------------------------- */

static enum cu_result handle_export(void *ret_fd, const struct handle *handle)
{
	int fd;

	if (!handle->exportable)
		return CU_ERROR_INVALID_VALUE;
	fd = fcntl(handle->fd, F_DUPFD_CLOEXEC, 0);
	if (fd < 0)
		return CU_ERROR_OPERATING_SYSTEM;
	*(int *)ret_fd = fd;
	return CU_OK;
}

enum cu_result cuMemExportToShareableHandle(void *ret_fd, cu_handle handle,
					    enum cu_handle_type type, unsigned long long flags)
{
	enum cu_result result;

	fake_lock();
	result = fake_begin(FAKE_CALL_mem_export, handle_ordinal(handle), 1);
	if (result == CU_OK && (!ret_fd || type != CU_HANDLE_POSIX_FD || flags))
		result = CU_ERROR_INVALID_VALUE;
	if (result == CU_OK)
		result = handle_export(ret_fd, handle_get(handle, "cuMemExportToShareableHandle"));
	return fake_leave(result);
}

/* Whose piece is this fd? False: it is none. */
static bool handle_identify(int fd, struct handle *ret)
{
	for (uint32_t i = 0; fake.pid && i < fake.settings.gpus; i++) {
		if (store_find(fake.devices[i].store, fd, &ret->offset, &ret->bytes)) {
			ret->ordinal = i;
			return true;
		}
	}
	return false;
}

enum cu_result cuMemImportFromShareableHandle(cu_handle *ret_handle, void *fd,
					      enum cu_handle_type type)
{
	struct handle handle = { 0 };
	enum cu_result result;
	bool found;

	fake_lock();
	found = handle_identify((int)(intptr_t)fd, &handle);
	result = fake_begin(FAKE_CALL_mem_import, found ? (int)handle.ordinal : FAKE_DEVICE_ANY, 1);
	if (result == CU_OK && (!ret_handle || type == CU_HANDLE_NONE))
		result = CU_ERROR_INVALID_VALUE;
	if (result == CU_OK && type != CU_HANDLE_POSIX_FD)
		result = CU_ERROR_NOT_SUPPORTED;
	if (result == CU_OK && !found)
		result = CU_ERROR_UNKNOWN;
	if (result == CU_OK) {
		handle.fd = fcntl((int)(intptr_t)fd, F_DUPFD_CLOEXEC, 0);
		result = handle.fd < 0 ? CU_ERROR_OPERATING_SYSTEM : handle_add(handle, ret_handle);
	}
	return fake_leave(result);
}
