/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The owner's side of a CUDA device. See cuda_owner.h.
 *
 * Handles stand in a table of fixed size, free places in a list through it. A token is the place
 * and the number of times it was used: a place that was given up answers no old token, and the
 * number is too wide to come round.
 */

#include "cuda_driver/cuda_owner.h"

#include "cuda_driver/cuda_device.h"
#include "cuda_driver/cuda_error.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OWNER_NO_PLACE UINT32_MAX

struct owner_place {
	cu_handle handle;
	uint64_t uses; /* times it was taken; the last one counts while live */
	uint32_t next_free;
	bool live;
};

struct cuda_owner {
	struct cuda_device device;
	struct cu_allocation allocation; /* the device's, and what else it takes */
	struct cuda_owner_info info;
	uint32_t first_free;
	uint32_t count;
	struct owner_place places[CUDA_OWNER_HANDLES_MAX];
};

static uint64_t owner_token(uint32_t place, uint64_t uses)
{
	return uses * CUDA_OWNER_HANDLES_MAX + place;
}

static uint64_t owner_keep(struct cuda_owner *owner, cu_handle handle)
{
	uint32_t at = owner->first_free;
	struct owner_place *place = &owner->places[at];

	owner->first_free = place->next_free;
	owner->count++;
	place->handle = handle;
	place->uses++;
	place->live = true;
	return owner_token(at, place->uses);
}

/* The handle of a token, forgotten by this. False: the token is of no live handle. */
static bool owner_forget(struct cuda_owner *owner, uint64_t token, cu_handle *ret)
{
	uint32_t at = (uint32_t)(token % CUDA_OWNER_HANDLES_MAX);
	struct owner_place *place = &owner->places[at];

	if (!place->live || owner_token(at, place->uses) != token)
		return false;
	place->live = false;
	place->next_free = owner->first_free;
	owner->first_free = at;
	owner->count--;
	*ret = place->handle;
	return true;
}

/* sysfs spells it in small letters. "" when the driver does not tell. */
static void owner_read_pci_id(const struct cuda_device *d, char *ret, int bytes)
{
	if (d->api->device_get_pci_bus_id(ret, bytes, d->device) != CU_OK)
		ret[0] = '\0';
	ret[bytes - 1] = '\0';
	for (char *c = ret; *c; c++)
		*c = (char)tolower((unsigned char)*c);
}

/* The driver knows it since 12.2, and then says -1 where only the system knows. */
static int32_t owner_read_numa_node(const struct cuda_device *d)
{
	int node = CUDA_NUMA_UNKNOWN;

	if (d->api->device_get_attribute(&node, CU_ATTRIBUTE_HOST_NUMA_ID, d->device) == CU_OK &&
	    node >= 0)
		return node;
	return CUDA_NUMA_UNKNOWN;
}

static int owner_read_info(const struct cuda_device *d, struct cuda_owner_info *ret)
{
	size_t total_bytes = 0;
	int version = 0;
	enum cu_result r;

	r = d->api->device_get_name(ret->name, sizeof(ret->name), d->device);
	if (r != CU_OK)
		return cuda_error_note("cuDeviceGetName", r);
	ret->name[sizeof(ret->name) - 1] = '\0';
	r = d->api->device_get_uuid(&ret->uuid, d->device);
	if (r != CU_OK)
		return cuda_error_note("cuDeviceGetUuid", r);
	r = d->api->device_total_mem(&total_bytes, d->device);
	if (r != CU_OK)
		return cuda_error_note("cuDeviceTotalMem", r);
	r = d->api->driver_get_version(&version);
	if (r != CU_OK)
		return cuda_error_note("cuDriverGetVersion", r);
	ret->total_bytes = total_bytes;
	ret->driver_version = version;
	ret->granularity_bytes = d->granularity_bytes;
	owner_read_pci_id(d, ret->pci_id, sizeof(ret->pci_id));
	ret->numa_node = owner_read_numa_node(d);
	if (d->api->device_get_attribute(&ret->compute_mode, CU_ATTRIBUTE_COMPUTE_MODE,
					 d->device) != CU_OK)
		ret->compute_mode = CU_COMPUTE_DEFAULT;
	return 0;
}

static bool owner_device_takes(const struct cuda_device *d, enum cu_device_attribute attribute)
{
	int value = 0;

	return d->api->device_get_attribute(&value, attribute, d->device) == CU_OK && value != 0;
}

/*
 * The richest allocation that the driver has a granularity for. It can be more than that of a plain
 * one and is a multiple of it, so sizes stay right when an ability is given up later.
 */
static void owner_choose_allocation(struct cuda_owner *owner)
{
	struct cu_allocation wanted = owner->device.allocation;
	size_t granularity_bytes = 0;

	owner->allocation = wanted;
	if (owner_device_takes(&owner->device, CU_ATTRIBUTE_RDMA_SUPPORTED))
		wanted.gpu_direct_rdma_capable = 1;
	if (owner_device_takes(&owner->device, CU_ATTRIBUTE_FABRIC_SUPPORTED))
		wanted.handle_types |= CU_HANDLE_FABRIC;
	if (owner->device.api->mem_get_allocation_granularity(&granularity_bytes, &wanted,
							      CU_GRANULARITY_MINIMUM) != CU_OK ||
	    granularity_bytes == 0 || granularity_bytes % owner->device.granularity_bytes)
		return;
	owner->allocation = wanted;
	owner->info.granularity_bytes = granularity_bytes;
}

bool cuda_owner_has_fabric(const struct cuda_owner *owner)
{
	return owner->allocation.handle_types & CU_HANDLE_FABRIC;
}

bool cuda_owner_has_rdma(const struct cuda_owner *owner)
{
	return owner->allocation.gpu_direct_rdma_capable;
}

int cuda_owner_open(uint32_t ordinal, struct cuda_owner **ret)
{
	struct cuda_owner *owner = calloc(1, sizeof(*owner));
	int error;

	if (!owner)
		return cuda_error_refuse(-ENOMEM, "no host memory");
	error = cuda_device_open(ordinal, &owner->device);
	if (error == 0)
		error = owner_read_info(&owner->device, &owner->info);
	if (error) {
		free(owner);
		return error;
	}
	owner_choose_allocation(owner);
	for (uint32_t i = 0; i < CUDA_OWNER_HANDLES_MAX; i++)
		owner->places[i].next_free =
			i + 1 < CUDA_OWNER_HANDLES_MAX ? i + 1 : OWNER_NO_PLACE;
	*ret = owner;
	return 0;
}

struct cuda_owner *cuda_owner_close(struct cuda_owner *owner)
{
	if (!owner)
		return NULL;
	for (uint32_t i = 0; i < CUDA_OWNER_HANDLES_MAX; i++) {
		if (owner->places[i].live)
			owner->device.api->mem_release(owner->places[i].handle);
	}
	free(owner);
	return NULL;
}

const struct cuda_owner_info *cuda_owner_info(const struct cuda_owner *owner)
{
	return &owner->info;
}

uint32_t cuda_owner_count(const struct cuda_owner *owner)
{
	return owner->count;
}

/* Gives up the ability that is refused most often. False: there is none left. */
static bool owner_allocation_reduce(struct cu_allocation *allocation)
{
	if (allocation->handle_types & CU_HANDLE_FABRIC)
		allocation->handle_types &= ~(uint32_t)CU_HANDLE_FABRIC;
	else if (allocation->gpu_direct_rdma_capable)
		allocation->gpu_direct_rdma_capable = 0;
	else
		return false;
	return true;
}

/*
 * Creates with what the owner believes the device takes, or with less. Only a create that succeeds
 * changes the belief: a device that refuses everything says nothing about abilities.
 */
static enum cu_result owner_create_handle(struct cuda_owner *owner, uint64_t handle_bytes,
					  cu_handle *ret)
{
	struct cu_allocation allocation = owner->allocation;
	enum cu_result r;

	do {
		r = owner->device.api->mem_create(ret, handle_bytes, &allocation, 0);
		if (r == CU_OK)
			owner->allocation = allocation;
		if (r == CU_OK || r == CU_ERROR_OUT_OF_MEMORY || cuda_error_is_sticky(r))
			return r;
	} while (owner_allocation_reduce(&allocation));
	return r;
}

static int owner_create_one(struct cuda_owner *owner, uint64_t handle_bytes, uint64_t *ret_token,
			    int *ret_fd)
{
	const struct cuda_api *api = owner->device.api;
	cu_handle handle;
	enum cu_result r;
	int fd = -1;

	r = owner_create_handle(owner, handle_bytes, &handle);
	if (r != CU_OK)
		return cuda_error_note("cuMemCreate", r);
	r = api->mem_export(&fd, handle, CU_HANDLE_POSIX_FD, 0);
	if (r != CU_OK) {
		api->mem_release(handle);
		return cuda_error_note("cuMemExportToShareableHandle", r);
	}
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	*ret_fd = fd;
	*ret_token = owner_keep(owner, handle);
	return 0;
}

/* Takes back what a failed create has made. Its error is the one that counts. */
static void owner_undo(struct cuda_owner *owner, uint32_t n, const uint64_t *tokens, const int *fds)
{
	for (uint32_t i = 0; i < n; i++) {
		cu_handle handle;

		close(fds[i]);
		if (owner_forget(owner, tokens[i], &handle))
			owner->device.api->mem_release(handle);
	}
}

int cuda_owner_create(struct cuda_owner *owner, uint32_t n, uint64_t handle_bytes,
		      uint64_t *ret_tokens, int *ret_fds)
{
	if (n == 0 || handle_bytes == 0 || handle_bytes % owner->info.granularity_bytes)
		return cuda_error_refuse(-EINVAL, "no such size of a handle on this device");
	if (n > CUDA_OWNER_HANDLES_MAX - owner->count)
		return cuda_error_refuse(-ENOSPC, "the owner keeps its most handles");
	for (uint32_t i = 0; i < n; i++) {
		int error = owner_create_one(owner, handle_bytes, &ret_tokens[i], &ret_fds[i]);

		if (error) {
			owner_undo(owner, i, ret_tokens, ret_fds);
			return error;
		}
	}
	return 0;
}

static int owner_release_one(struct cuda_owner *owner, uint64_t token)
{
	cu_handle handle;
	enum cu_result r;

	if (!owner_forget(owner, token, &handle))
		return cuda_error_refuse(-ENOENT, "no live handle has this token");
	r = owner->device.api->mem_release(handle);
	return r == CU_OK ? 0 : cuda_error_note("cuMemRelease", r);
}

int cuda_owner_release(struct cuda_owner *owner, uint32_t n, const uint64_t *tokens)
{
	int error = 0;

	for (uint32_t i = 0; i < n; i++) {
		int e = owner_release_one(owner, tokens[i]);

		error = error ? error : e;
	}
	return error;
}
