/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A driver with all calls of memory and none of streams, on a machine without a GPU: test_cuda_load
 * opens it as libcuda.so.1. Who needs memory alone comes to hear of the GPU, who needs streams of
 * the missing symbol.
 */

#include "cuda_driver/cuda_abi.h"

#define STREAMLESS_CALL(field, symbol, args)                                                       \
	__attribute__((visibility("default"))) enum cu_result symbol args;                         \
	enum cu_result symbol args                                                                 \
	{                                                                                          \
		return CU_ERROR_NO_DEVICE;                                                         \
	}
CU_CALLS(STREAMLESS_CALL)
