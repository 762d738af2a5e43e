/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The part of the CUDA driver's binary interface that kvbroker calls.
 *
 * Declared here, and by nobody else, because the project builds on machines without a toolkit and
 * runs on machines with any driver: the library is opened by name (cuda_api.h), so all that has to
 * agree is the layout. Sizes, offsets and values equal the driver's on 64-bit Linux;
 * tests/unit/test_cuda_abi.c compares each with a real cuda.h where the build found one. The names
 * are our own, so that both headers fit into one file.
 *
 * The two lists are the only lists: the loader, the error map and the stand-in driver are written
 * over them. A call that is not in CU_CALLS is not called.
 *
 * Versioned names stand where the driver has them: the bare name of such a call is an old function
 * with 32-bit sizes.
 */

#include <stddef.h>
#include <stdint.h>

#define CU_LIBRARY "libcuda.so.1"

typedef int cu_device; /* ordinal within the process, after CUDA_VISIBLE_DEVICES */
typedef struct cu_context_object *cu_context;
typedef uint64_t cu_address; /* of device memory */
typedef uint64_t cu_handle;  /* one allocation, or one reference to it by import */
typedef struct cu_stream_object *cu_stream;
typedef struct cu_event_object *cu_event;

/* Results: name without its CUDA_ERROR_, value. A driver may return others. */
#define CU_ERRORS(X)                                                                               \
	X(INVALID_VALUE, 1)                                                                        \
	X(OUT_OF_MEMORY, 2)                                                                        \
	X(NOT_INITIALIZED, 3)                                                                      \
	X(DEINITIALIZED, 4)                                                                        \
	X(STUB_LIBRARY, 34)                                                                        \
	X(CALL_REQUIRES_NEWER_DRIVER, 36)                                                          \
	X(DEVICE_UNAVAILABLE, 46)                                                                  \
	X(NO_DEVICE, 100)                                                                          \
	X(INVALID_DEVICE, 101)                                                                     \
	X(DEVICE_NOT_LICENSED, 102)                                                                \
	X(INVALID_CONTEXT, 201)                                                                    \
	X(MAP_FAILED, 205)                                                                         \
	X(UNMAP_FAILED, 206)                                                                       \
	X(ALREADY_MAPPED, 208)                                                                     \
	X(NOT_MAPPED, 211)                                                                         \
	X(ECC_UNCORRECTABLE, 214)                                                                  \
	X(PEER_ACCESS_UNSUPPORTED, 217)                                                            \
	X(NVLINK_UNCORRECTABLE, 220)                                                               \
	X(CONTAINED, 226)                                                                          \
	X(OPERATING_SYSTEM, 304)                                                                   \
	X(INVALID_HANDLE, 400)                                                                     \
	X(ILLEGAL_STATE, 401)                                                                      \
	X(NOT_FOUND, 500)                                                                          \
	X(NOT_READY, 600)                                                                          \
	X(ILLEGAL_ADDRESS, 700)                                                                    \
	X(LAUNCH_TIMEOUT, 702)                                                                     \
	X(CONTEXT_IS_DESTROYED, 709)                                                               \
	X(ASSERT, 710)                                                                             \
	X(HOST_MEMORY_ALREADY_REGISTERED, 712)                                                     \
	X(HOST_MEMORY_NOT_REGISTERED, 713)                                                         \
	X(HARDWARE_STACK_ERROR, 714)                                                               \
	X(ILLEGAL_INSTRUCTION, 715)                                                                \
	X(MISALIGNED_ADDRESS, 716)                                                                 \
	X(INVALID_ADDRESS_SPACE, 717)                                                              \
	X(INVALID_PC, 718)                                                                         \
	X(LAUNCH_FAILED, 719)                                                                      \
	X(NOT_PERMITTED, 800)                                                                      \
	X(NOT_SUPPORTED, 801)                                                                      \
	X(SYSTEM_NOT_READY, 802)                                                                   \
	X(SYSTEM_DRIVER_MISMATCH, 803)                                                             \
	X(COMPAT_NOT_SUPPORTED_ON_DEVICE, 804)                                                     \
	X(MPS_CONNECTION_FAILED, 805)                                                              \
	X(MPS_RPC_FAILURE, 806)                                                                    \
	X(MPS_SERVER_NOT_READY, 807)                                                               \
	X(MPS_CLIENT_TERMINATED, 810)                                                              \
	X(EXTERNAL_DEVICE, 911)                                                                    \
	X(UNKNOWN, 999)

#define CU_ERROR_ENUM(name, value) CU_ERROR_##name = value,
enum cu_result { CU_OK = 0, CU_ERRORS(CU_ERROR_ENUM) };
#undef CU_ERROR_ENUM

enum cu_device_attribute {
	CU_ATTRIBUTE_COMPUTE_MODE = 20,
	CU_ATTRIBUTE_PCI_BUS_ID = 33,
	CU_ATTRIBUTE_PCI_DEVICE_ID = 34,
	CU_ATTRIBUTE_PCI_DOMAIN_ID = 50,
	CU_ATTRIBUTE_COMPUTE_MAJOR = 75,
	CU_ATTRIBUTE_COMPUTE_MINOR = 76,
	CU_ATTRIBUTE_VMM_SUPPORTED = 102,
	CU_ATTRIBUTE_POSIX_FD_SUPPORTED = 103,
	CU_ATTRIBUTE_RDMA_SUPPORTED = 110, /* cu_allocation.gpu_direct_rdma_capable */
	CU_ATTRIBUTE_FABRIC_SUPPORTED =
		128, /* CU_HANDLE_FABRIC; creating such may be refused yet */
	/* Node of the host next to the device; -1 without NUMA. Drivers before 12.2 refuse it. */
	CU_ATTRIBUTE_HOST_NUMA_ID = 134,
};

/* Of CU_ATTRIBUTE_COMPUTE_MODE: which processes can have a context. */
enum cu_compute_mode {
	CU_COMPUTE_DEFAULT = 0, /* all */
	CU_COMPUTE_PROHIBITED = 2,
	CU_COMPUTE_EXCLUSIVE_PROCESS = 3, /* one at a time */
};

enum cu_location_type {
	CU_LOCATION_DEVICE = 1, /* id is a cu_device */
	CU_LOCATION_HOST_NUMA = 3,
};

enum cu_allocation_type { CU_ALLOCATION_PINNED = 1 };

enum cu_handle_type {
	CU_HANDLE_NONE = 0,
	CU_HANDLE_POSIX_FD = 1,
	CU_HANDLE_FABRIC = 8,
};

enum cu_access {
	CU_ACCESS_NONE = 0,
	CU_ACCESS_READ = 1,
	CU_ACCESS_READ_WRITE = 3,
};

enum cu_granularity {
	CU_GRANULARITY_MINIMUM = 0,
	CU_GRANULARITY_RECOMMENDED = 1,
};

struct cu_uuid {
	uint8_t bytes[16];
};

struct cu_location {
	uint32_t type; /* enum cu_location_type */
	int32_t id;
};

/* What cuMemCreate is asked for. All that is not named here is zero. */
struct cu_allocation {
	uint32_t type;         /* enum cu_allocation_type */
	uint32_t handle_types; /* enum cu_handle_type: how it may be exported */
	struct cu_location location;
	void *win32_metadata; /* NULL */
	uint8_t compression_type;
	uint8_t gpu_direct_rdma_capable;
	uint16_t usage;
	uint8_t resv[4];
};

struct cu_access_desc {
	struct cu_location location;
	uint32_t flags; /* enum cu_access */
};

/*
 * Every call: field of struct cuda_api, symbol, arguments. All return enum cu_result.
 *
 * Rules of the driver that callers count on: an allocation is mapped whole and from offset 0; a
 * mapping is unmapped whole; a mapped range faults until cuMemSetAccess; an importer cannot export
 * again; an exported fd keeps the memory and its bytes alive, in any process; a new allocation
 * reads zero. cuMemImportFromShareableHandle takes the fd itself in the pointer argument and does
 * not close it.
 */
#define CU_CALLS(X)                                                                                \
	X(init, cuInit, (unsigned int flags))                                                      \
	X(driver_get_version, cuDriverGetVersion, (int *ret_version))                              \
	X(get_error_name, cuGetErrorName, (enum cu_result error, const char **ret_name))           \
	X(device_get_count, cuDeviceGetCount, (int *ret_count))                                    \
	X(device_get, cuDeviceGet, (cu_device * ret_device, int ordinal))                          \
	X(device_get_name, cuDeviceGetName, (char *ret_name, int bytes, cu_device device))         \
	X(device_get_uuid, cuDeviceGetUuid_v2, (struct cu_uuid * ret_uuid, cu_device device))      \
	X(device_get_attribute, cuDeviceGetAttribute,                                              \
	  (int *ret_value, enum cu_device_attribute attribute, cu_device device))                  \
	X(device_total_mem, cuDeviceTotalMem_v2, (size_t * ret_bytes, cu_device device))           \
	X(device_get_pci_bus_id, cuDeviceGetPCIBusId, (char *ret_id, int bytes, cu_device device)) \
	X(mem_get_allocation_granularity, cuMemGetAllocationGranularity,                           \
	  (size_t * ret_bytes, const struct cu_allocation *prop, enum cu_granularity option))      \
	X(mem_create, cuMemCreate,                                                                 \
	  (cu_handle * ret_handle, size_t bytes, const struct cu_allocation *prop,                 \
	   unsigned long long flags))                                                              \
	X(mem_release, cuMemRelease, (cu_handle handle))                                           \
	X(mem_export, cuMemExportToShareableHandle,                                                \
	  (void *ret_fd, cu_handle handle, enum cu_handle_type type, unsigned long long flags))    \
	X(mem_import, cuMemImportFromShareableHandle,                                              \
	  (cu_handle * ret_handle, void *fd, enum cu_handle_type type))                            \
	X(mem_address_reserve, cuMemAddressReserve,                                                \
	  (cu_address * ret_address, size_t bytes, size_t alignment, cu_address hint,              \
	   unsigned long long flags))                                                              \
	X(mem_address_free, cuMemAddressFree, (cu_address address, size_t bytes))                  \
	X(mem_map, cuMemMap,                                                                       \
	  (cu_address address, size_t bytes, size_t offset, cu_handle handle,                      \
	   unsigned long long flags))                                                              \
	X(mem_unmap, cuMemUnmap, (cu_address address, size_t bytes))                               \
	X(mem_set_access, cuMemSetAccess,                                                          \
	  (cu_address address, size_t bytes, const struct cu_access_desc *desc, size_t count))     \
	X(primary_ctx_retain, cuDevicePrimaryCtxRetain,                                            \
	  (cu_context * ret_context, cu_device device))                                            \
	X(primary_ctx_release, cuDevicePrimaryCtxRelease_v2, (cu_device device))                   \
	X(ctx_get_current, cuCtxGetCurrent, (cu_context * ret_context))                            \
	X(ctx_set_current, cuCtxSetCurrent, (cu_context context))                                  \
	X(ctx_get_device, cuCtxGetDevice, (cu_device * ret_device))                                \
	X(ctx_synchronize, cuCtxSynchronize, (void))                                               \
	X(memcpy_htod, cuMemcpyHtoD_v2, (cu_address to, const void *from, size_t bytes))           \
	X(memcpy_dtoh, cuMemcpyDtoH_v2, (void *to, cu_address from, size_t bytes))                 \
	X(memset_d8, cuMemsetD8_v2, (cu_address to, unsigned char value, size_t bytes))

/* ---- streams: what the mover and the fences of a client need besides ----------------------------
 */

#define CU_FLAG_CTX_BLOCKING_SYNC 0x04u
#define CU_FLAG_STREAM_NON_BLOCKING 0x1u
#define CU_FLAG_EVENT_BLOCKING_SYNC 0x1u
#define CU_FLAG_EVENT_DISABLE_TIMING 0x2u
#define CU_FLAG_HOST_PORTABLE 0x1u
#define CU_FLAG_HOST_DEVICEMAP 0x2u
#define CU_FLAG_WAIT_VALUE_GEQ 0x0u /* (int64_t)(word - value) >= 0 */

/* How one copy of a batch may be ordered. */
enum cu_copy_order {
	CU_COPY_ORDER_STREAM = 1, /* source is read when the stream comes to the copy */
};

struct cu_copy_attributes {
	uint32_t order; /* enum cu_copy_order */
	struct cu_location from_hint;
	struct cu_location to_hint;
	uint32_t flags;
};

/*
 * Loaded apart from CU_CALLS, because an owner needs none of them (cuda_load_streams()).
 *
 * Rules that callers count on: copies of one stream are done in order; an event is done when all
 * that its stream had before it is; event_query answers NOT_READY until then; waiting for a value
 * and writing one act on memory that host_register made known, and are seen across processes.
 */
#define CU_STREAM_CALLS(X)                                                                         \
	X(primary_ctx_set_flags, cuDevicePrimaryCtxSetFlags_v2,                                    \
	  (cu_device device, unsigned int flags))                                                  \
	X(stream_create, cuStreamCreate, (cu_stream * ret_stream, unsigned int flags))             \
	X(stream_destroy, cuStreamDestroy_v2, (cu_stream stream))                                  \
	X(stream_synchronize, cuStreamSynchronize, (cu_stream stream))                             \
	X(stream_query, cuStreamQuery, (cu_stream stream))                                         \
	X(stream_wait_event, cuStreamWaitEvent,                                                    \
	  (cu_stream stream, cu_event event, unsigned int flags))                                  \
	X(stream_write_value64, cuStreamWriteValue64_v2,                                           \
	  (cu_stream stream, cu_address word, uint64_t value, unsigned int flags))                 \
	X(stream_wait_value64, cuStreamWaitValue64_v2,                                             \
	  (cu_stream stream, cu_address word, uint64_t value, unsigned int flags))                 \
	X(event_create, cuEventCreate, (cu_event * ret_event, unsigned int flags))                 \
	X(event_destroy, cuEventDestroy_v2, (cu_event event))                                      \
	X(event_record, cuEventRecord, (cu_event event, cu_stream stream))                         \
	X(event_query, cuEventQuery, (cu_event event))                                             \
	X(event_synchronize, cuEventSynchronize, (cu_event event))                                 \
	X(event_elapsed_time, cuEventElapsedTime, (float *ret_ms, cu_event start, cu_event end))   \
	X(memcpy_htod_async, cuMemcpyHtoDAsync_v2,                                                 \
	  (cu_address to, const void *from, size_t bytes, cu_stream stream))                       \
	X(memcpy_dtoh_async, cuMemcpyDtoHAsync_v2,                                                 \
	  (void *to, cu_address from, size_t bytes, cu_stream stream))                             \
	X(host_register, cuMemHostRegister_v2, (void *memory, size_t bytes, unsigned int flags))   \
	X(host_unregister, cuMemHostUnregister, (void *memory))                                    \
	X(host_get_device_pointer, cuMemHostGetDevicePointer_v2,                                   \
	  (cu_address * ret_address, void *memory, unsigned int flags))                            \
	X(get_proc_address, cuGetProcAddress_v2,                                                   \
	  (const char *symbol, void **ret_call, int version, uint64_t flags, int *ret_status))

/*
 * Many copies in one call, from CUDA 12.8 on. Asked for by get_proc_address with an explicit
 * version, because 13.0 dropped an argument. Copies of one batch may be done in any order.
 */
#define CU_PROC_FOUND 0 /* what get_proc_address writes to ret_status when it found the call */
#define CU_BATCH_SYMBOL "cuMemcpyBatchAsync"
#define CU_BATCH_VERSION_12 12080
#define CU_BATCH_VERSION_13 13000
#define CU_BATCH_ARGS_12                                                                           \
	(cu_address * to, cu_address * from, size_t * bytes, size_t count,                         \
	 struct cu_copy_attributes * attributes, size_t * attribute_first,                         \
	 size_t attributes_count, size_t * ret_failed, cu_stream stream)
#define CU_BATCH_ARGS_13                                                                           \
	(cu_address * to, cu_address * from, size_t * bytes, size_t count,                         \
	 struct cu_copy_attributes * attributes, size_t * attribute_first,                         \
	 size_t attributes_count, cu_stream stream)
typedef enum cu_result(*cu_batch_12) CU_BATCH_ARGS_12;
typedef enum cu_result(*cu_batch_13) CU_BATCH_ARGS_13;
