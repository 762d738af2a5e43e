/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A driver from before virtual memory management: test_cuda_load opens it as libcuda.so.1 and must
 * refuse it. It has the first calls of the list and not the later ones.
 */

#include "cuda_driver/cuda_abi.h"

#define OLD_CALL __attribute__((visibility("default"))) enum cu_result

OLD_CALL cuInit(unsigned int flags);
OLD_CALL cuDriverGetVersion(int *ret_version);

OLD_CALL cuInit(unsigned int flags)
{
	return CU_OK;
}

OLD_CALL cuDriverGetVersion(int *ret_version)
{
	*ret_version = 9000;
	return CU_OK;
}
