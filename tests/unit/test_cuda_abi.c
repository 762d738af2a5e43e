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
	ABI_EQ(CU_ATTRIBUTE_PCI_BUS_ID, CU_DEVICE_ATTRIBUTE_PCI_BUS_ID);
	ABI_EQ(CU_ATTRIBUTE_PCI_DEVICE_ID, CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID);
	ABI_EQ(CU_ATTRIBUTE_PCI_DOMAIN_ID, CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID);
	ABI_EQ(CU_ATTRIBUTE_COMPUTE_MAJOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
	ABI_EQ(CU_ATTRIBUTE_COMPUTE_MINOR, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
	ABI_EQ(CU_ATTRIBUTE_VMM_SUPPORTED, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED);
	ABI_EQ(CU_ATTRIBUTE_POSIX_FD_SUPPORTED,
	       CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED);
	ABI_EQ(CU_ATTRIBUTE_HOST_NUMA_ID, CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID);
	ABI_EQ(CU_LOCATION_DEVICE, CU_MEM_LOCATION_TYPE_DEVICE);
	ABI_EQ(CU_LOCATION_HOST_NUMA, CU_MEM_LOCATION_TYPE_HOST_NUMA);
	ABI_EQ(CU_ALLOCATION_PINNED, CU_MEM_ALLOCATION_TYPE_PINNED);
	ABI_EQ(CU_HANDLE_NONE, CU_MEM_HANDLE_TYPE_NONE);
	ABI_EQ(CU_HANDLE_POSIX_FD, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
	ABI_EQ(CU_ACCESS_NONE, CU_MEM_ACCESS_FLAGS_PROT_NONE);
	ABI_EQ(CU_ACCESS_READ, CU_MEM_ACCESS_FLAGS_PROT_READ);
	ABI_EQ(CU_ACCESS_READ_WRITE, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
	ABI_EQ(CU_GRANULARITY_MINIMUM, CU_MEM_ALLOC_GRANULARITY_MINIMUM);
	ABI_EQ(CU_GRANULARITY_RECOMMENDED, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED);
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
}
END_TEST

/* The list of calls once more, in the driver's own words, against what cuda.h declares. */
#define cu_result cudaError_enum
#define cu_device CUdevice
#define cu_context CUcontext
#define cu_address CUdeviceptr
#define cu_handle CUmemGenericAllocationHandle
#define cu_uuid CUuuid_st
#define cu_allocation CUmemAllocationProp_st
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

int main(void)
{
	static const struct suite_case cases[] = {
		{ &abi_errors_equal, 0 },  { &abi_constants_equal, 0 },  { &abi_layouts_equal, 0 },
		{ &abi_symbols_equal, 0 }, { &abi_prototypes_equal, 0 }, { NULL, 0 },
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
