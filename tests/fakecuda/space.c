/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Device addresses: reserved, mapped, made accessible.
 *
 * They are addresses of this process, and access rights are page protections: what was mapped but
 * not made accessible faults when touched, as it does on a GPU, and what was unmapped faults again.
 * Unlike on a GPU the CPU can touch it too; nothing here helps a caller that relies on that.
 *
 * A map that goes, or changes its rights, waits for the bytes that a copy is moving there just now,
 * and for no more: what the copy has not come to yet finds the address gone, and that is a fault.
 * Who unmaps has to wait for his copies, as the real driver is not known to do it for him.
 *
 * A reservation keeps for each granule which map covers it. A map is of a whole handle from its
 * offset 0, and goes as a whole; what lies between maps does not mind being unmapped. One range may
 * cover many maps of one reservation, never a part of a map. The real driver also lets a map hang
 * over the end of a reservation; here that is an error.
 */

#include "tests/fakecuda/fake.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct map {
	struct handle *handle;
	cu_address address;
	uint8_t access[FAKE_GPUS_MAX]; /* enum cu_access, by device */
};

struct space {
	struct space *next;
	cu_address address;
	uint64_t bytes;
	void *base; /* of what is reserved to have an aligned piece of it */
	size_t base_bytes;
	struct map *maps[]; /* by granule; NULL: none */
};

static struct space *space_list;

static void *space_pointer(cu_address address)
{
	return (void *)(uintptr_t)address;
}

/* The reservation that has the whole range; NULL: none. An empty range has none. */
static struct space *space_find(cu_address address, uint64_t bytes)
{
	for (struct space *space = space_list; space; space = space->next) {
		if (bytes > 0 && address >= space->address &&
		    address - space->address < space->bytes &&
		    bytes <= space->bytes - (address - space->address))
			return space;
	}
	return NULL;
}

static struct map *space_map_at(const struct space *space, cu_address address)
{
	return space->maps[(address - space->address) / FAKE_GRANULE_BYTES];
}

static cu_address space_after(const struct map *map)
{
	return map->address + map->handle->bytes;
}

/* Maps that the range touches, and the device of the first. */
static uint64_t space_count(cu_address address, uint64_t bytes, int *ret_ordinal)
{
	const struct space *space = space_find(address, bytes);
	uint64_t count = 0;
	const struct map *map;

	*ret_ordinal = FAKE_DEVICE_ANY;
	for (cu_address at = address; space && at < address + bytes;) {
		map = space_map_at(space, at);
		if (map && count++ == 0)
			*ret_ordinal = (int)map->handle->ordinal;
		at = map ? space_after(map) : at + FAKE_GRANULE_BYTES;
	}
	return count;
}

/* No map is cut by the range, and, if asked for, no hole is in it. */
static bool space_range_whole(const struct space *space, cu_address address, uint64_t bytes,
			      bool holes)
{
	const struct map *map;

	for (cu_address at = address; at < address + bytes;) {
		map = space_map_at(space, at);
		if (map ? map->address < address || space_after(map) > address + bytes : !holes)
			return false;
		at = map ? space_after(map) : at + FAKE_GRANULE_BYTES;
	}
	return true;
}

/* ---- reserve and free ---------------------------------------------------------------------- */

static enum cu_result space_reserve(cu_address *ret, size_t bytes, size_t alignment)
{
	size_t step = alignment > FAKE_GRANULE_BYTES ? alignment : FAKE_GRANULE_BYTES;
	uint64_t granules = bytes / FAKE_GRANULE_BYTES;
	struct space *space;

	if (bytes + step < bytes)
		return CU_ERROR_OUT_OF_MEMORY;
	space = calloc(1, sizeof(*space) + granules * sizeof(space->maps[0]));
	if (!space)
		return CU_ERROR_OUT_OF_MEMORY;
	space->base_bytes = bytes + step;
	space->base = mmap(NULL, space->base_bytes, PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (space->base == MAP_FAILED) {
		free(space);
		return CU_ERROR_OUT_OF_MEMORY;
	}
	space->address = ((uintptr_t)space->base + step - 1) / step * step;
	space->bytes = bytes;
	space->next = space_list;
	space_list = space;
	*ret = space->address;
	return CU_OK;
}

enum cu_result cuMemAddressReserve(cu_address *ret_address, size_t bytes, size_t alignment,
				   cu_address hint, unsigned long long flags)
{
	enum cu_result result = fake_enter(FAKE_CALL_mem_address_reserve, FAKE_DEVICE_ANY, 1);

	if (result == CU_OK && (!ret_address || flags || bytes == 0 || bytes % FAKE_GRANULE_BYTES ||
				(alignment & (alignment - 1))))
		result = CU_ERROR_INVALID_VALUE;
	return fake_leave(result ? result : space_reserve(ret_address, bytes, alignment));
}

static enum cu_result space_free(cu_address address, size_t bytes)
{
	int ordinal;

	for (struct space **link = &space_list; *link; link = &(*link)->next) {
		struct space *space = *link;

		if (space->address != address || space->bytes != bytes)
			continue;
		if (space_count(address, bytes, &ordinal) > 0)
			return CU_ERROR_INVALID_VALUE;
		munmap(space->base, space->base_bytes);
		*link = space->next;
		free(space);
		return CU_OK;
	}
	return CU_ERROR_INVALID_VALUE;
}

enum cu_result cuMemAddressFree(cu_address address, size_t bytes)
{
	enum cu_result result = fake_enter(FAKE_CALL_mem_address_free, FAKE_DEVICE_ANY, 1);

	return fake_leave(result ? result : space_free(address, bytes));
}

/* ---- map and unmap ------------------------------------------------------------------------- */

static enum cu_result space_map(cu_address address, size_t bytes, struct handle *handle)
{
	struct space *space = space_find(address, bytes);
	struct map *map;
	int ordinal;

	if (!space || address % FAKE_GRANULE_BYTES || space_count(address, bytes, &ordinal) > 0)
		return CU_ERROR_INVALID_VALUE;
	map = calloc(1, sizeof(*map));
	if (!map)
		return CU_ERROR_OUT_OF_MEMORY;
	if (mmap(space_pointer(address), bytes, PROT_NONE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE,
		 handle->fd, (off_t)handle->offset) == MAP_FAILED) {
		free(map);
		return CU_ERROR_OUT_OF_MEMORY;
	}
	map->handle = handle;
	map->address = address;
	handle->references++;
	for (uint64_t i = 0; i < bytes / FAKE_GRANULE_BYTES; i++)
		space->maps[(address - space->address) / FAKE_GRANULE_BYTES + i] = map;
	return CU_OK;
}

enum cu_result cuMemMap(cu_address address, size_t bytes, size_t offset, cu_handle handle,
			unsigned long long flags)
{
	enum cu_result result;
	struct handle *mapped;

	fake_lock();
	result = fake_begin(FAKE_CALL_mem_map, handle_ordinal(handle), 1);
	if (result != CU_OK)
		return fake_leave(result);
	mapped = handle_get(handle, "cuMemMap");
	if (flags)
		result = CU_ERROR_INVALID_VALUE;
	else if (offset || bytes != mapped->bytes)
		result = CU_ERROR_NOT_SUPPORTED;
	else
		result = space_map(address, bytes, mapped);
	return fake_leave(result);
}

/* What is at its addresses is no longer of the handle. */
static void space_forget(struct space *space, struct map *map)
{
	uint64_t first = (map->address - space->address) / FAKE_GRANULE_BYTES;

	for (uint64_t i = 0; i < map->handle->bytes / FAKE_GRANULE_BYTES; i++)
		space->maps[first + i] = NULL;
	handle_put(map->handle);
	free(map);
}

static void space_unmap_one(struct space *space, struct map *map)
{
	uint64_t bytes = map->handle->bytes;

	/* The reservation stays. If this fails the map stays too, but nobody can reach it. */
	if (mmap(space_pointer(map->address), bytes, PROT_NONE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
		mprotect(space_pointer(map->address), bytes, PROT_NONE);
	space_forget(space, map);
}

static enum cu_result space_unmap(cu_address address, size_t bytes)
{
	struct space *space = space_find(address, bytes);
	struct map *map;

	if (!space || address % FAKE_GRANULE_BYTES || bytes % FAKE_GRANULE_BYTES ||
	    !space_range_whole(space, address, bytes, true))
		return CU_ERROR_INVALID_VALUE;
	for (cu_address at = address; at < address + bytes; at += FAKE_GRANULE_BYTES) {
		map = space_map_at(space, at);
		if (map)
			space_unmap_one(space, map);
	}
	return CU_OK;
}

enum cu_result cuMemUnmap(cu_address address, size_t bytes)
{
	enum cu_result result;
	uint64_t count;
	int ordinal;

	fake_lock();
	count = space_count(address, bytes, &ordinal);
	result = fake_begin(FAKE_CALL_mem_unmap, ordinal, count);
	if (result == CU_OK)
		copy_wait_range(address, bytes);
	return fake_leave(result ? result : space_unmap(address, bytes));
}

void space_finish(void)
{
	for (struct space *space = space_list; space; space = space->next) {
		for (uint64_t i = 0; i < space->bytes / FAKE_GRANULE_BYTES; i++) {
			struct map *map = space->maps[i];

			if (!map)
				continue;
			mmap(space_pointer(map->address), map->handle->bytes,
			     PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
			space_forget(space, map);
		}
	}
}

/* ---- access -------------------------------------------------------------------------------- */

static bool space_desc_valid(const struct cu_access_desc *desc)
{
	return desc->location.type == CU_LOCATION_DEVICE && device_exists(desc->location.id) &&
	       (desc->flags == CU_ACCESS_NONE || desc->flags == CU_ACCESS_READ ||
		desc->flags == CU_ACCESS_READ_WRITE);
}

/* The page protection is that of the device that may do most. */
static enum cu_result space_protect(struct map *map)
{
	int protection = PROT_NONE;

	for (uint32_t i = 0; i < FAKE_GPUS_MAX; i++) {
		if (map->access[i] & CU_ACCESS_READ)
			protection |= PROT_READ;
		if (map->access[i] == CU_ACCESS_READ_WRITE)
			protection |= PROT_WRITE;
	}
	if (mprotect(space_pointer(map->address), map->handle->bytes, protection) < 0)
		return CU_ERROR_OPERATING_SYSTEM;
	return CU_OK;
}

static enum cu_result space_set_access(cu_address address, size_t bytes,
				       const struct cu_access_desc *desc, size_t count)
{
	struct space *space = space_find(address, bytes);
	enum cu_result result = CU_OK;
	struct map *map;

	if (!space || !desc || count == 0 || address % FAKE_GRANULE_BYTES ||
	    bytes % FAKE_GRANULE_BYTES || !space_range_whole(space, address, bytes, false))
		return CU_ERROR_INVALID_VALUE;
	for (size_t i = 0; i < count; i++) {
		if (!space_desc_valid(&desc[i]))
			return CU_ERROR_INVALID_VALUE;
	}
	for (cu_address at = address; at < address + bytes && result == CU_OK;) {
		map = space_map_at(space, at);
		for (size_t i = 0; i < count; i++)
			map->access[desc[i].location.id] = (uint8_t)desc[i].flags;
		result = space_protect(map);
		at = space_after(map);
	}
	return result;
}

enum cu_result cuMemSetAccess(cu_address address, size_t bytes, const struct cu_access_desc *desc,
			      size_t count)
{
	enum cu_result result;
	uint64_t maps;
	int ordinal;

	fake_lock();
	maps = space_count(address, bytes, &ordinal);
	result = fake_begin(FAKE_CALL_mem_set_access, ordinal, maps);
	if (result == CU_OK)
		copy_wait_range(address, bytes);
	return fake_leave(result ? result : space_set_access(address, bytes, desc, count));
}

bool space_allows(cu_address address, uint64_t bytes, uint32_t ordinal, enum cu_access access)
{
	const struct space *space = space_find(address, bytes);
	const struct map *map;

	if (bytes == 0)
		return true;
	if (!space)
		return false;
	for (cu_address at = address; at < address + bytes; at = space_after(map)) {
		map = space_map_at(space, at);
		if (!map || (map->access[ordinal] & (uint32_t)access) != (uint32_t)access)
			return false;
	}
	return true;
}
