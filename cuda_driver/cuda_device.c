/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Finds a device and what its allocations are like. See cuda_device.h.
 *
 * Initialising is repeated on every open: it costs nothing the second time, and a driver that was
 * initialised before a fork() says so here and not in the middle of a transfer.
 */

#include "cuda_driver/cuda_device.h"

#include "cuda_driver/cuda_error.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <string.h>

/* 0 when the device can be shared by fd; -EOPNOTSUPP when it cannot. */
static int device_check_sharing(const struct cuda_device *d)
{
	static const enum cu_device_attribute needed[] = {
		CU_ATTRIBUTE_VMM_SUPPORTED,
		CU_ATTRIBUTE_POSIX_FD_SUPPORTED,
	};

	for (size_t i = 0; i < sizeof(needed) / sizeof(needed[0]); i++) {
		int value = 0;
		enum cu_result r = d->api->device_get_attribute(&value, needed[i], d->device);

		if (r != CU_OK)
			return cuda_error_note("cuDeviceGetAttribute", r);
		if (value == 0)
			return cuda_error_refuse(-EOPNOTSUPP, "the device cannot share memory");
	}
	return 0;
}

static int device_load(const struct cuda_api **ret)
{
	enum cu_result r;
	int error = cuda_load(ret);

	if (error)
		return error;
	r = (*ret)->init(0);
	return r == CU_OK ? 0 : cuda_error_note("cuInit", r);
}

int cuda_device_open(uint32_t ordinal, struct cuda_device *ret)
{
	struct cuda_device d = { 0 };
	size_t granularity_bytes = 0;
	enum cu_result r;
	int error;

	error = device_load(&d.api);
	if (error)
		return error;
	if (ordinal > INT_MAX)
		return cuda_error_note("cuDeviceGet", CU_ERROR_INVALID_DEVICE);
	r = d.api->device_get(&d.device, (int)ordinal);
	/* Drivers say "invalid value" to an ordinal beyond the last. */
	if (r == CU_ERROR_INVALID_VALUE)
		r = CU_ERROR_INVALID_DEVICE;
	if (r != CU_OK)
		return cuda_error_note("cuDeviceGet", r);
	error = device_check_sharing(&d);
	if (error)
		return error;

	d.allocation.type = CU_ALLOCATION_PINNED;
	d.allocation.handle_types = CU_HANDLE_POSIX_FD;
	d.allocation.location.type = CU_LOCATION_DEVICE;
	d.allocation.location.id = d.device;
	r = d.api->mem_get_allocation_granularity(&granularity_bytes, &d.allocation,
						  CU_GRANULARITY_MINIMUM);
	if (r != CU_OK)
		return cuda_error_note("cuMemGetAllocationGranularity", r);
	if (granularity_bytes == 0)
		return cuda_error_note("cuMemGetAllocationGranularity", CU_ERROR_UNKNOWN);
	d.granularity_bytes = granularity_bytes;
	*ret = d;
	return 0;
}

static int device_has_uuid(const struct cuda_api *api, int ordinal, const struct cu_uuid *uuid,
			   bool *ret)
{
	struct cu_uuid its;
	cu_device device;
	enum cu_result r = api->device_get(&device, ordinal);

	if (r != CU_OK)
		return cuda_error_note("cuDeviceGet", r);
	r = api->device_get_uuid(&its, device);
	if (r != CU_OK)
		return cuda_error_note("cuDeviceGetUuid", r);
	*ret = memcmp(its.bytes, uuid->bytes, sizeof(its.bytes)) == 0;
	return 0;
}

int cuda_device_find(const struct cu_uuid *uuid, uint32_t *ret_ordinal)
{
	const struct cuda_api *api;
	int error = device_load(&api);
	int count = 0;
	enum cu_result r;

	if (error)
		return error;
	r = api->device_get_count(&count);
	if (r != CU_OK)
		return cuda_error_note("cuDeviceGetCount", r);
	for (int i = 0; i < count; i++) {
		bool found = false;

		error = device_has_uuid(api, i, uuid, &found);
		if (error)
			return error;
		if (found) {
			*ret_ordinal = (uint32_t)i;
			return 0;
		}
	}
	return cuda_error_refuse(-ENODEV, "no GPU that this process sees has that UUID");
}

int cuda_device_map(const struct cuda_device *d, int fd, uint64_t bytes, cu_address address,
		    cu_handle *ret_handle)
{
	cu_handle handle;
	enum cu_result r;

	/* The driver wants the descriptor itself where the pointer goes. */
	r = d->api->mem_import(&handle, (void *)(intptr_t)fd, CU_HANDLE_POSIX_FD);
	if (r == CU_ERROR_UNKNOWN)
		return cuda_error_refuse(-EINVAL, "the fd is no allocation of a GPU");
	if (r != CU_OK)
		return cuda_error_note("cuMemImportFromShareableHandle", r);
	r = d->api->mem_map(address, bytes, 0, handle, 0);
	if (r == CU_OK) {
		*ret_handle = handle;
		return 0;
	}
	d->api->mem_release(handle);
	if (r == CU_ERROR_NOT_SUPPORTED)
		return cuda_error_refuse(-EINVAL, "the fd is an allocation of another size");
	return cuda_error_note("cuMemMap", r);
}
