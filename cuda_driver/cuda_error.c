/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The map from the driver's results to errno. See cuda_error.h.
 *
 * One row a result, checked to be complete: a result that cuda_abi.h knows and this table does not
 * fails the unit test. Sticky are the faults that the driver documents as leaving the process
 * unusable, memory errors of the device among them, and all that says the device or its server is
 * gone.
 */

#include "cuda_driver/cuda_error.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>

struct cuda_error_row {
	enum cu_result result;
	int error;
	bool sticky;
};

static const struct cuda_error_row cuda_error_rows[] = {
	{ CU_OK, 0, false },
	{ CU_ERROR_INVALID_VALUE, -EINVAL, false },
	{ CU_ERROR_OUT_OF_MEMORY, -ENOMEM, false },
	{ CU_ERROR_NOT_INITIALIZED, -ENXIO, false },
	{ CU_ERROR_DEINITIALIZED, -ENXIO, true },
	{ CU_ERROR_STUB_LIBRARY, -EOPNOTSUPP, true },
	{ CU_ERROR_CALL_REQUIRES_NEWER_DRIVER, -EOPNOTSUPP, false },
	{ CU_ERROR_DEVICE_UNAVAILABLE, -EBUSY, false },
	{ CU_ERROR_NO_DEVICE, -ENODEV, false },
	{ CU_ERROR_INVALID_DEVICE, -ENODEV, false },
	{ CU_ERROR_DEVICE_NOT_LICENSED, -EPERM, false },
	{ CU_ERROR_INVALID_CONTEXT, -ENXIO, false },
	{ CU_ERROR_MAP_FAILED, -ENOMEM, false },
	{ CU_ERROR_UNMAP_FAILED, -EIO, false },
	{ CU_ERROR_ALREADY_MAPPED, -EBUSY, false },
	{ CU_ERROR_NOT_MAPPED, -EINVAL, false },
	{ CU_ERROR_ECC_UNCORRECTABLE, -EIO, true },
	{ CU_ERROR_PEER_ACCESS_UNSUPPORTED, -EOPNOTSUPP, false },
	{ CU_ERROR_NVLINK_UNCORRECTABLE, -EIO, true },
	{ CU_ERROR_CONTAINED, -EIO, true },
	{ CU_ERROR_OPERATING_SYSTEM, -EIO, false },
	{ CU_ERROR_INVALID_HANDLE, -EINVAL, false },
	{ CU_ERROR_ILLEGAL_STATE, -EINVAL, false },
	{ CU_ERROR_NOT_FOUND, -EINVAL, false },
	{ CU_ERROR_NOT_READY, -EBUSY, false },
	{ CU_ERROR_ILLEGAL_ADDRESS, -EIO, true },
	{ CU_ERROR_LAUNCH_TIMEOUT, -EIO, true },
	{ CU_ERROR_CONTEXT_IS_DESTROYED, -ENXIO, true },
	{ CU_ERROR_ASSERT, -EIO, true },
	{ CU_ERROR_HARDWARE_STACK_ERROR, -EIO, true },
	{ CU_ERROR_ILLEGAL_INSTRUCTION, -EIO, true },
	{ CU_ERROR_MISALIGNED_ADDRESS, -EIO, true },
	{ CU_ERROR_INVALID_ADDRESS_SPACE, -EIO, true },
	{ CU_ERROR_INVALID_PC, -EIO, true },
	{ CU_ERROR_LAUNCH_FAILED, -EIO, true },
	{ CU_ERROR_NOT_PERMITTED, -EPERM, false },
	{ CU_ERROR_NOT_SUPPORTED, -EOPNOTSUPP, false },
	{ CU_ERROR_SYSTEM_NOT_READY, -EBUSY, false },
	{ CU_ERROR_SYSTEM_DRIVER_MISMATCH, -EOPNOTSUPP, true },
	{ CU_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE, -EOPNOTSUPP, true },
	{ CU_ERROR_MPS_CONNECTION_FAILED, -ENOTCONN, true },
	{ CU_ERROR_MPS_RPC_FAILURE, -ENOTCONN, true },
	{ CU_ERROR_MPS_SERVER_NOT_READY, -ENOTCONN, false },
	{ CU_ERROR_MPS_CLIENT_TERMINATED, -ENOTCONN, true },
	{ CU_ERROR_EXTERNAL_DEVICE, -EIO, true },
	{ CU_ERROR_UNKNOWN, -EIO, true },
};

struct cuda_error_state {
	enum cu_result result;
	char text[96];
};

static _Thread_local struct cuda_error_state cuda_error_state;

static const struct cuda_error_row *cuda_error_row(enum cu_result result)
{
	for (size_t i = 0; i < sizeof(cuda_error_rows) / sizeof(cuda_error_rows[0]); i++) {
		if (cuda_error_rows[i].result == result)
			return &cuda_error_rows[i];
	}
	return NULL;
}

int cuda_error_errno(enum cu_result result)
{
	const struct cuda_error_row *row = cuda_error_row(result);

	return row ? row->error : -EIO;
}

bool cuda_error_is_sticky(enum cu_result result)
{
	const struct cuda_error_row *row = cuda_error_row(result);

	return row ? row->sticky : true;
}

const char *cuda_error_name(enum cu_result result)
{
#define CUDA_ERROR_NAME(name, value)                                                               \
	case CU_ERROR_##name:                                                                      \
		return "CUDA_ERROR_" #name;
	switch (result) {
	case CU_OK:
		return "CUDA_SUCCESS";
		CU_ERRORS(CUDA_ERROR_NAME)
	}
#undef CUDA_ERROR_NAME
	return "unknown CUDA error";
}

int cuda_error_note(const char *call, enum cu_result result)
{
	struct cuda_error_state *s = &cuda_error_state;

	s->result = result;
	snprintf(s->text, sizeof(s->text), "%s: %s (%d)", call, cuda_error_name(result),
		 (int)result);
	return cuda_error_errno(result);
}

const char *cuda_error_last(void)
{
	return cuda_error_state.text;
}

enum cu_result cuda_error_last_result(void)
{
	return cuda_error_state.result;
}
