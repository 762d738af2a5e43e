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

int cuda_device_open(uint32_t ordinal, struct cuda_device *ret)
{
	struct cuda_device d = { 0 };
	size_t granularity_bytes = 0;
	enum cu_result r;
	int error;

	error = cuda_load(&d.api);
	if (error)
		return error;
	r = d.api->init(0);
	if (r != CU_OK)
		return cuda_error_note("cuInit", r);
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
