/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Primary contexts: one a device, there while it is retained, current by thread. A thread whose
 * context was released to nothing under it keeps it as current, and is told that it is destroyed
 * when it wants to use it.
 *
 * With its last hold a context is destroyed, and what its streams had and have not begun with it.
 *
 * No call but these makes a context: that is what an owner process relies on.
 */

#include "tests/fakecuda/fake.h"

#define CONTEXT_SCHEDULE_MASK 0x7u /* automatic, spin, yield or block: one of them */
#define CONTEXT_FLAGS_MASK 0x1fu

static _Thread_local struct cu_context_object *context_current;

enum cu_result context_device(uint32_t *ret_ordinal)
{
	if (!context_current)
		return CU_ERROR_INVALID_CONTEXT;
	if (context_current->retained == 0)
		return CU_ERROR_CONTEXT_IS_DESTROYED;
	*ret_ordinal = context_current->ordinal;
	return CU_OK;
}

int context_ordinal(void)
{
	return context_current ? (int)context_current->ordinal : FAKE_DEVICE_ANY;
}

enum cu_result cuDevicePrimaryCtxRetain(cu_context *ret_context, cu_device device)
{
	enum cu_result result = fake_enter(FAKE_CALL_primary_ctx_retain, device, 1);

	if (result == CU_OK && !ret_context)
		result = CU_ERROR_INVALID_VALUE;
	if (result == CU_OK && !device_exists(device))
		result = CU_ERROR_INVALID_DEVICE;
	if (result == CU_OK) {
		fake.devices[device].primary.retained++;
		*ret_context = &fake.devices[device].primary;
	}
	return fake_leave(result);
}

enum cu_result cuDevicePrimaryCtxRelease_v2(cu_device device)
{
	enum cu_result result = fake_enter(FAKE_CALL_primary_ctx_release, device, 1);

	if (result == CU_OK && !device_exists(device))
		result = CU_ERROR_INVALID_DEVICE;
	if (result == CU_OK && fake.devices[device].primary.retained == 0)
		result = CU_ERROR_INVALID_CONTEXT;
	if (result == CU_OK && --fake.devices[device].primary.retained == 0)
		stream_end_device((uint32_t)device);
	return fake_leave(result);
}

/* How a thread waits is nothing that can be seen here; what the flags may be is. */
enum cu_result cuDevicePrimaryCtxSetFlags_v2(cu_device device, unsigned int flags)
{
	enum cu_result result = fake_enter(FAKE_CALL_primary_ctx_set_flags, device, 1);
	unsigned int schedule = flags & CONTEXT_SCHEDULE_MASK;

	if (result == CU_OK && !device_exists(device))
		result = CU_ERROR_INVALID_DEVICE;
	if (result == CU_OK && ((flags & ~CONTEXT_FLAGS_MASK) || (schedule & (schedule - 1))))
		result = CU_ERROR_INVALID_VALUE;
	return fake_leave(result);
}

enum cu_result cuCtxGetCurrent(cu_context *ret_context)
{
	enum cu_result result = fake_enter(FAKE_CALL_ctx_get_current, FAKE_DEVICE_ANY, 1);

	if (result == CU_OK && !ret_context)
		result = CU_ERROR_INVALID_VALUE;
	if (result == CU_OK)
		*ret_context = context_current;
	return fake_leave(result);
}

enum cu_result cuCtxSetCurrent(cu_context context)
{
	enum cu_result result = fake_enter(FAKE_CALL_ctx_set_current, FAKE_DEVICE_ANY, 1);

	if (result == CU_OK)
		context_current = context;
	return fake_leave(result);
}

/* Answers for a destroyed context too, as the driver does. */
enum cu_result cuCtxGetDevice(cu_device *ret_device)
{
	enum cu_result result = fake_enter(FAKE_CALL_ctx_get_device, FAKE_DEVICE_ANY, 1);

	if (result == CU_OK && !ret_device)
		result = CU_ERROR_INVALID_VALUE;
	if (result == CU_OK && !context_current)
		result = CU_ERROR_INVALID_CONTEXT;
	if (result == CU_OK)
		*ret_device = (cu_device)context_current->ordinal;
	return fake_leave(result);
}

enum cu_result cuCtxSynchronize(void)
{
	enum cu_result result = fake_enter(FAKE_CALL_ctx_synchronize, context_ordinal(), 1);
	uint32_t ordinal;

	if (result == CU_OK)
		result = context_device(&ordinal);
	if (result == CU_OK) {
		stream_wait_device(ordinal);
		result = fake_health(ordinal);
	}
	return fake_leave(result);
}
