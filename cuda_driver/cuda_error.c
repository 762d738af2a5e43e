/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The map from the driver's results to errno. See cuda_error.h.
 *
 * Both switches name every result that cuda_abi.h knows, without a default: the compiler finds the
 * one that was forgotten. Sticky are the faults that the driver documents as leaving the process
 * unusable, memory errors of the device among them, and all that says the device or its server is
 * gone.
 */

#include "cuda_driver/cuda_error.h"

#include <errno.h>
#include <stdio.h>

struct cuda_error_state {
	enum cu_result result;
	char text[96];
};

static _Thread_local struct cuda_error_state cuda_error_state;

int cuda_error_errno(enum cu_result result)
{
	switch (result) {
	case CU_OK:
		return 0;
	case CU_ERROR_OUT_OF_MEMORY:
	case CU_ERROR_MAP_FAILED:
		return -ENOMEM;
	case CU_ERROR_INVALID_VALUE:
	case CU_ERROR_INVALID_HANDLE:
	case CU_ERROR_ILLEGAL_STATE:
	case CU_ERROR_NOT_MAPPED:
	case CU_ERROR_NOT_FOUND:
	case CU_ERROR_HOST_MEMORY_NOT_REGISTERED:
		return -EINVAL;
	case CU_ERROR_NO_DEVICE:
	case CU_ERROR_INVALID_DEVICE:
		return -ENODEV;
	case CU_ERROR_DEVICE_NOT_LICENSED:
	case CU_ERROR_NOT_PERMITTED:
		return -EPERM;
	case CU_ERROR_STUB_LIBRARY:
	case CU_ERROR_CALL_REQUIRES_NEWER_DRIVER:
	case CU_ERROR_PEER_ACCESS_UNSUPPORTED:
	case CU_ERROR_NOT_SUPPORTED:
	case CU_ERROR_SYSTEM_DRIVER_MISMATCH:
	case CU_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE:
		return -EOPNOTSUPP;
	case CU_ERROR_DEVICE_UNAVAILABLE:
	case CU_ERROR_ALREADY_MAPPED:
	case CU_ERROR_NOT_READY:
	case CU_ERROR_HOST_MEMORY_ALREADY_REGISTERED:
	case CU_ERROR_SYSTEM_NOT_READY:
		return -EBUSY;
	case CU_ERROR_NOT_INITIALIZED:
	case CU_ERROR_DEINITIALIZED:
	case CU_ERROR_INVALID_CONTEXT:
	case CU_ERROR_CONTEXT_IS_DESTROYED:
		return -ENXIO;
	case CU_ERROR_MPS_CONNECTION_FAILED:
	case CU_ERROR_MPS_RPC_FAILURE:
	case CU_ERROR_MPS_SERVER_NOT_READY:
	case CU_ERROR_MPS_CLIENT_TERMINATED:
		return -ENOTCONN;
	case CU_ERROR_UNMAP_FAILED:
	case CU_ERROR_ECC_UNCORRECTABLE:
	case CU_ERROR_NVLINK_UNCORRECTABLE:
	case CU_ERROR_CONTAINED:
	case CU_ERROR_OPERATING_SYSTEM:
	case CU_ERROR_ILLEGAL_ADDRESS:
	case CU_ERROR_LAUNCH_TIMEOUT:
	case CU_ERROR_ASSERT:
	case CU_ERROR_HARDWARE_STACK_ERROR:
	case CU_ERROR_ILLEGAL_INSTRUCTION:
	case CU_ERROR_MISALIGNED_ADDRESS:
	case CU_ERROR_INVALID_ADDRESS_SPACE:
	case CU_ERROR_INVALID_PC:
	case CU_ERROR_LAUNCH_FAILED:
	case CU_ERROR_EXTERNAL_DEVICE:
	case CU_ERROR_UNKNOWN:
		return -EIO;
	}
	return -EIO;
}

bool cuda_error_is_sticky(enum cu_result result)
{
	switch (result) {
	case CU_OK:
	case CU_ERROR_INVALID_VALUE:
	case CU_ERROR_OUT_OF_MEMORY:
	case CU_ERROR_NOT_INITIALIZED:
	case CU_ERROR_CALL_REQUIRES_NEWER_DRIVER:
	case CU_ERROR_DEVICE_UNAVAILABLE:
	case CU_ERROR_NO_DEVICE:
	case CU_ERROR_INVALID_DEVICE:
	case CU_ERROR_DEVICE_NOT_LICENSED:
	case CU_ERROR_INVALID_CONTEXT:
	case CU_ERROR_MAP_FAILED:
	case CU_ERROR_UNMAP_FAILED:
	case CU_ERROR_ALREADY_MAPPED:
	case CU_ERROR_NOT_MAPPED:
	case CU_ERROR_PEER_ACCESS_UNSUPPORTED:
	case CU_ERROR_OPERATING_SYSTEM:
	case CU_ERROR_INVALID_HANDLE:
	case CU_ERROR_ILLEGAL_STATE:
	case CU_ERROR_NOT_FOUND:
	case CU_ERROR_NOT_READY:
	case CU_ERROR_HOST_MEMORY_ALREADY_REGISTERED:
	case CU_ERROR_HOST_MEMORY_NOT_REGISTERED:
	case CU_ERROR_NOT_PERMITTED:
	case CU_ERROR_NOT_SUPPORTED:
	case CU_ERROR_SYSTEM_NOT_READY:
	case CU_ERROR_MPS_SERVER_NOT_READY:
		return false;
	case CU_ERROR_DEINITIALIZED:
	case CU_ERROR_STUB_LIBRARY:
	case CU_ERROR_ECC_UNCORRECTABLE:
	case CU_ERROR_NVLINK_UNCORRECTABLE:
	case CU_ERROR_CONTAINED:
	case CU_ERROR_ILLEGAL_ADDRESS:
	case CU_ERROR_LAUNCH_TIMEOUT:
	case CU_ERROR_CONTEXT_IS_DESTROYED:
	case CU_ERROR_ASSERT:
	case CU_ERROR_HARDWARE_STACK_ERROR:
	case CU_ERROR_ILLEGAL_INSTRUCTION:
	case CU_ERROR_MISALIGNED_ADDRESS:
	case CU_ERROR_INVALID_ADDRESS_SPACE:
	case CU_ERROR_INVALID_PC:
	case CU_ERROR_LAUNCH_FAILED:
	case CU_ERROR_SYSTEM_DRIVER_MISMATCH:
	case CU_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE:
	case CU_ERROR_MPS_CONNECTION_FAILED:
	case CU_ERROR_MPS_RPC_FAILURE:
	case CU_ERROR_MPS_CLIENT_TERMINATED:
	case CU_ERROR_EXTERNAL_DEVICE:
	case CU_ERROR_UNKNOWN:
		return true;
	}
	return true;
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

int cuda_error_refuse(int error, const char *why)
{
	struct cuda_error_state *s = &cuda_error_state;

	s->result = CU_OK;
	snprintf(s->text, sizeof(s->text), "%s", why);
	return error;
}

const char *cuda_error_last(void)
{
	return cuda_error_state.text;
}

enum cu_result cuda_error_last_result(void)
{
	return cuda_error_state.result;
}
