/* SPDX-License-Identifier: Apache-2.0 */

/*
 * cuda_abi.h says what the driver says: every value, size, offset and prototype, compared with a
 * real cuda.h. Where the build found none, or one older than what is declared, there is nothing to
 * compare with and the test is skipped.
 */

#include "tests/unit/suite.h"
#include "cuda_driver/cuda_abi.h"

#include <stdio.h>

#ifdef HAVE_CUDA_H

#include <cuda.h>
#include <stdlib.h>
#include <string.h>

#define ABI_EQ(ours, theirs)                                                                       \
	ck_assert_msg((long long)(ours) == (long long)(theirs),                                    \
		      #ours " is %lld, " #theirs " is %lld", (long long)(ours),                    \
		      (long long)(theirs))
#define ABI_MEMBER_EQ(ours, om, theirs, tm)                                                        \
	do {                                                                                       \
		ABI_EQ(offsetof(ours, om), offsetof(theirs, tm));                                  \
		ABI_EQ(sizeof(((ours *)0)->om), sizeof(((theirs *)0)->tm));                        \
	} while (0)

START_TEST(abi_errors_equal)
{
#define ABI_ERROR(name, value)                                                                     \
	ABI_EQ(value, CUDA_ERROR_##name);                                                          \
	ABI_EQ(CU_ERROR_##name, CUDA_ERROR_##name);
	ABI_EQ(CU_OK, CUDA_SUCCESS);
	CU_ERRORS(ABI_ERROR)
#undef ABI_ERROR
}
END_TEST

START_TEST(abi_constants_equal)
{
	ABI_EQ(CU_ATTRIBUTE_COMPUTE_MODE, CU_DEVICE_ATTRIBUTE_COMPUTE_MODE);
	ABI_EQ(CU_COMPUTE_DEFAULT, CU_COMPUTEMODE_DEFAULT);
	ABI_EQ(CU_COMPUTE_PROHIBITED, CU_COMPUTEMODE_PROHIBITED);
	ABI_EQ(CU_COMPUTE_EXCLUSIVE_PROCESS, CU_COMPUTEMODE_EXCLUSIVE_PROCESS);
	ABI_EQ(CU_ATTRIBUTE_PCI_BUS_ID, CU_DEVICE_ATTRIBUTE_PCI_BUS_ID);
	ABI_EQ(CU_ATTRIBUTE_PCI_DEVICE_ID, CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID);
	ABI_EQ(CU_ATTRIBUTE_PCI_DOMAIN_ID, CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID);
	ABI_EQ(CU_ATTRIBUTE_COMPUTE_MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
	ABI_EQ(CU_ATTRIBUTE_COMPUTE_MINOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
	ABI_EQ(CU_ATTRIBUTE_VMM_SUPPORTED, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED);
	ABI_EQ(CU_ATTRIBUTE_POSIX_FD_SUPPORTED,
	       CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED);
	ABI_EQ(CU_ATTRIBUTE_RDMA_SUPPORTED,
	       CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED);
	ABI_EQ(CU_ATTRIBUTE_FABRIC_SUPPORTED, CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_FABRIC_SUPPORTED);
	ABI_EQ(CU_ATTRIBUTE_HOST_NUMA_ID, CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID);
	ABI_EQ(CU_LOCATION_DEVICE, CU_MEM_LOCATION_TYPE_DEVICE);
	ABI_EQ(CU_LOCATION_HOST_NUMA, CU_MEM_LOCATION_TYPE_HOST_NUMA);
	ABI_EQ(CU_ALLOCATION_PINNED, CU_MEM_ALLOCATION_TYPE_PINNED);
	ABI_EQ(CU_HANDLE_NONE, CU_MEM_HANDLE_TYPE_NONE);
	ABI_EQ(CU_HANDLE_POSIX_FD, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
	ABI_EQ(CU_HANDLE_FABRIC, CU_MEM_HANDLE_TYPE_FABRIC);
	ABI_EQ(CU_ACCESS_NONE, CU_MEM_ACCESS_FLAGS_PROT_NONE);
	ABI_EQ(CU_ACCESS_READ, CU_MEM_ACCESS_FLAGS_PROT_READ);
	ABI_EQ(CU_ACCESS_READ_WRITE, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
	ABI_EQ(CU_GRANULARITY_MINIMUM, CU_MEM_ALLOC_GRANULARITY_MINIMUM);
	ABI_EQ(CU_GRANULARITY_RECOMMENDED, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED);
}
END_TEST

START_TEST(abi_stream_constants_equal)
{
	ABI_EQ(CU_FLAG_CTX_BLOCKING_SYNC, CU_CTX_SCHED_BLOCKING_SYNC);
	ABI_EQ(CU_FLAG_STREAM_NON_BLOCKING, CU_STREAM_NON_BLOCKING);
	ABI_EQ(CU_FLAG_EVENT_BLOCKING_SYNC, CU_EVENT_BLOCKING_SYNC);
	ABI_EQ(CU_FLAG_EVENT_DISABLE_TIMING, CU_EVENT_DISABLE_TIMING);
	ABI_EQ(CU_FLAG_HOST_PORTABLE, CU_MEMHOSTREGISTER_PORTABLE);
	ABI_EQ(CU_FLAG_HOST_DEVICEMAP, CU_MEMHOSTREGISTER_DEVICEMAP);
	ABI_EQ(CU_FLAG_WAIT_VALUE_GEQ, CU_STREAM_WAIT_VALUE_GEQ);
	ABI_EQ(CU_COPY_ORDER_STREAM, CU_MEMCPY_SRC_ACCESS_ORDER_STREAM);
	ABI_EQ(CU_PROC_FOUND, CU_GET_PROC_ADDRESS_SUCCESS);
}
END_TEST

START_TEST(abi_stream_layouts_equal)
{
	ABI_EQ(sizeof(cu_stream), sizeof(CUstream));
	ABI_EQ(sizeof(cu_event), sizeof(CUevent));
	ABI_EQ(sizeof(enum cu_copy_order), sizeof(CUmemcpySrcAccessOrder));
	ABI_EQ(sizeof(int), sizeof(CUdriverProcAddressQueryResult));

	ABI_EQ(sizeof(struct cu_copy_attributes), sizeof(CUmemcpyAttributes));
	ABI_MEMBER_EQ(struct cu_copy_attributes, order, CUmemcpyAttributes, srcAccessOrder);
	ABI_MEMBER_EQ(struct cu_copy_attributes, from_hint, CUmemcpyAttributes, srcLocHint);
	ABI_MEMBER_EQ(struct cu_copy_attributes, to_hint, CUmemcpyAttributes, dstLocHint);
	ABI_MEMBER_EQ(struct cu_copy_attributes, flags, CUmemcpyAttributes, flags);
}
END_TEST

START_TEST(abi_layouts_equal)
{
	ABI_EQ(sizeof(cu_device), sizeof(CUdevice));
	ABI_EQ(sizeof(cu_context), sizeof(CUcontext));
	ABI_EQ(sizeof(cu_address), sizeof(CUdeviceptr));
	ABI_EQ(sizeof(cu_handle), sizeof(CUmemGenericAllocationHandle));
	ABI_EQ(sizeof(enum cu_result), sizeof(CUresult));
	ABI_EQ(sizeof(enum cu_device_attribute), sizeof(CUdevice_attribute));
	ABI_EQ(sizeof(enum cu_handle_type), sizeof(CUmemAllocationHandleType));
	ABI_EQ(sizeof(enum cu_granularity), sizeof(CUmemAllocationGranularity_flags));
	ABI_EQ(sizeof(struct cu_uuid), sizeof(CUuuid));

	ABI_EQ(sizeof(struct cu_location), sizeof(CUmemLocation));
	ABI_MEMBER_EQ(struct cu_location, type, CUmemLocation, type);
	ABI_MEMBER_EQ(struct cu_location, id, CUmemLocation, id);

	ABI_EQ(sizeof(struct cu_allocation), sizeof(CUmemAllocationProp));
	ABI_MEMBER_EQ(struct cu_allocation, type, CUmemAllocationProp, type);
	ABI_MEMBER_EQ(struct cu_allocation, handle_types, CUmemAllocationProp,
		      requestedHandleTypes);
	ABI_MEMBER_EQ(struct cu_allocation, location, CUmemAllocationProp, location);
	ABI_MEMBER_EQ(struct cu_allocation, win32_metadata, CUmemAllocationProp,
		      win32HandleMetaData);
	ABI_MEMBER_EQ(struct cu_allocation, compression_type, CUmemAllocationProp,
		      allocFlags.compressionType);
	ABI_MEMBER_EQ(struct cu_allocation, gpu_direct_rdma_capable, CUmemAllocationProp,
		      allocFlags.gpuDirectRDMACapable);
	ABI_MEMBER_EQ(struct cu_allocation, usage, CUmemAllocationProp, allocFlags.usage);
	ABI_MEMBER_EQ(struct cu_allocation, resv, CUmemAllocationProp, allocFlags.reserved);

	ABI_EQ(sizeof(struct cu_access_desc), sizeof(CUmemAccessDesc));
	ABI_MEMBER_EQ(struct cu_access_desc, location, CUmemAccessDesc, location);
	ABI_MEMBER_EQ(struct cu_access_desc, flags, CUmemAccessDesc, flags);
}
END_TEST

/* What a program that includes cuda.h would call is the symbol that the loader asks for. */
START_TEST(abi_symbols_equal)
{
#define ABI_TEXT(name) #name
#define ABI_SYMBOL_EQ(name, symbol) ck_assert_str_eq(ABI_TEXT(name), symbol)
	ABI_SYMBOL_EQ(cuDeviceGetUuid, "cuDeviceGetUuid_v2");
	ABI_SYMBOL_EQ(cuDeviceTotalMem, "cuDeviceTotalMem_v2");
	ABI_SYMBOL_EQ(cuDevicePrimaryCtxRelease, "cuDevicePrimaryCtxRelease_v2");
	ABI_SYMBOL_EQ(cuMemcpyHtoD, "cuMemcpyHtoD_v2");
	ABI_SYMBOL_EQ(cuMemcpyDtoH, "cuMemcpyDtoH_v2");
	ABI_SYMBOL_EQ(cuMemsetD8, "cuMemsetD8_v2");
	ABI_SYMBOL_EQ(cuMemCreate, "cuMemCreate");
	ABI_SYMBOL_EQ(cuMemMap, "cuMemMap");
	ABI_SYMBOL_EQ(cuCtxGetDevice, "cuCtxGetDevice");
	ABI_SYMBOL_EQ(cuCtxSynchronize, "cuCtxSynchronize");
	ABI_SYMBOL_EQ(cuStreamCreate, "cuStreamCreate");
	ABI_SYMBOL_EQ(cuStreamDestroy, "cuStreamDestroy_v2");
	ABI_SYMBOL_EQ(cuStreamWriteValue64, "cuStreamWriteValue64_v2");
	ABI_SYMBOL_EQ(cuStreamWaitValue64, "cuStreamWaitValue64_v2");
	ABI_SYMBOL_EQ(cuEventDestroy, "cuEventDestroy_v2");
	ABI_SYMBOL_EQ(cuMemcpyHtoDAsync, "cuMemcpyHtoDAsync_v2");
	ABI_SYMBOL_EQ(cuMemcpyDtoHAsync, "cuMemcpyDtoHAsync_v2");
	ABI_SYMBOL_EQ(cuMemHostRegister, "cuMemHostRegister_v2");
	ABI_SYMBOL_EQ(cuMemHostUnregister, "cuMemHostUnregister");
	ABI_SYMBOL_EQ(cuMemHostGetDevicePointer, "cuMemHostGetDevicePointer_v2");
	ABI_SYMBOL_EQ(cuGetProcAddress, "cuGetProcAddress_v2");
	ABI_SYMBOL_EQ(cuDevicePrimaryCtxSetFlags, "cuDevicePrimaryCtxSetFlags_v2");
}
END_TEST

/* The list of calls once more, in the driver's own words, against what cuda.h declares. */
#define cu_result cudaError_enum
#define cu_device CUdevice
#define cu_context CUcontext
#define cu_address CUdeviceptr
#define cu_handle CUmemGenericAllocationHandle
#define cu_stream CUstream
#define cu_event CUevent
#define cu_uuid CUuuid_st
#define cu_allocation CUmemAllocationProp_st
#define cu_copy_attributes CUmemcpyAttributes_st
#define cu_access_desc CUmemAccessDesc_st
#define cu_device_attribute CUdevice_attribute_enum
#define cu_handle_type CUmemAllocationHandleType_enum
#define cu_granularity CUmemAllocationGranularity_flags_enum

START_TEST(abi_prototypes_equal)
{
#define ABI_CALL(field, symbol, args)                                                              \
	ck_assert_msg(__builtin_types_compatible_p(__typeof__(symbol), enum cu_result args),       \
		      #symbol " is declared otherwise");
	CU_CALLS(ABI_CALL)
#undef ABI_CALL
}
END_TEST

/* A status is an enumeration there and, of the same size, an int here: that call is compared by
 * itself. */
START_TEST(abi_stream_prototypes_equal)
{
#define ABI_CALL(field, symbol, args)                                                              \
	ck_assert_msg(                                                                             \
		strcmp(#field, "get_proc_address") == 0 ||                                         \
			__builtin_types_compatible_p(__typeof__(symbol), enum cu_result args),     \
		#symbol " is declared otherwise");
	CU_STREAM_CALLS(ABI_CALL)
#undef ABI_CALL
	ck_assert(__builtin_types_compatible_p(__typeof__(cuGetProcAddress_v2),
					       enum cu_result(const char *, void **, int, uint64_t,
							      CUdriverProcAddressQueryResult *)));
}
END_TEST

/* What cuda.h declares under the bare name is the shape of its own version. */
START_TEST(abi_batch_equal)
{
	typedef enum cu_result(*ours_12) CU_BATCH_ARGS_12;
	typedef enum cu_result(*ours_13) CU_BATCH_ARGS_13;
	typedef __typeof__(&cuMemcpyBatchAsync) theirs;

#if CUDA_VERSION >= 13000
	ck_assert(__builtin_types_compatible_p(ours_13, theirs));
	ck_assert(!__builtin_types_compatible_p(ours_12, theirs));
#else
	ck_assert(__builtin_types_compatible_p(ours_12, theirs));
	ck_assert(!__builtin_types_compatible_p(ours_13, theirs));
#endif
	ck_assert_str_eq(CU_BATCH_SYMBOL, "cuMemcpyBatchAsync");
}
END_TEST

int main(void)
{
	static const struct suite_case cases[] = {
		{ &abi_errors_equal, 0 },
		{ &abi_constants_equal, 0 },
		{ &abi_stream_constants_equal, 0 },
		{ &abi_layouts_equal, 0 },
		{ &abi_stream_layouts_equal, 0 },
		{ &abi_symbols_equal, 0 },
		{ &abi_prototypes_equal, 0 },
		{ &abi_stream_prototypes_equal, 0 },
		{ &abi_batch_equal, 0 },
		{ NULL, 0 },
	};

	return suite_run("cuda_abi", cases);
}

#else

int main(void)
{
	puts("1..0 # SKIP no cuda.h of CUDA 12.8 or later was found when this was configured");
	return 0;
}

#endif
