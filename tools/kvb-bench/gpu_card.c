/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The driver, with nobody in between: what floors are made of.
 *
 * Device memory is created as an owner creates it, host memory as a host tier has it (a memfd on
 * the node next to the device, 4 KiB pages, page-locked by the driver), so that a floor differs
 * from the figure in who asks and in nothing else. Nothing is given back but by the end of the
 * process.
 */

#include <dlfcn.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>

#include "cuda_driver/cuda_device.h"
#include "cuda_driver/cuda_error.h"
#include "numa/arena.h"
#include "tools/kvb-bench/gpu.h"

#define BATCH_COPIES_MAX 4096u /* as the mover's */
#define FILL_MS 60000

void card_check(const char *call, enum cu_result result)
{
	if (result != CU_OK)
		bench_die("%s: %s (%d)", call, cuda_error_name(result), (int)result);
}

static int card_attribute(const struct card *c, enum cu_device_attribute attribute, int otherwise)
{
	int value;

	return c->api->device_get_attribute(&value, attribute, c->device) == CU_OK ? value
										   : otherwise;
}

void card_open(uint32_t ordinal, struct card *ret)
{
	struct cuda_device device;
	int error;

	*ret = (struct card){ 0 };
	error = cuda_load_streams(&ret->streams);
	if (error)
		bench_die("no usable CUDA driver: %s", cuda_load_streams_error());
	error = cuda_device_open(ordinal, &device);
	if (error)
		bench_die("cannot open cuda:%u: %s (%s)", ordinal, cuda_error_last(),
			  strerror(-error));
	ret->api = device.api;
	ret->device = device.device;
	ret->granularity_bytes = device.granularity_bytes;
	ret->node = card_attribute(ret, CU_ATTRIBUTE_HOST_NUMA_ID, 0);
	if (ret->node < 0)
		ret->node = 0;
	card_check("cuDevicePrimaryCtxRetain",
		   ret->api->primary_ctx_retain(&ret->context, ret->device));
	card_check("cuCtxSetCurrent", ret->api->ctx_set_current(ret->context));
	for (unsigned i = 0; i < 2; i++)
		card_check("cuStreamCreate", ret->streams->stream_create(
						     &ret->stream[i], CU_FLAG_STREAM_NON_BLOCKING));
}

struct cu_allocation card_allocation(const struct card *c)
{
	return (struct cu_allocation){
		.type = CU_ALLOCATION_PINNED,
		.handle_types = CU_HANDLE_POSIX_FD,
		.location = { .type = CU_LOCATION_DEVICE, .id = c->device },
	};
}

cu_address card_reserve(const struct card *c, uint64_t bytes)
{
	cu_address at;

	card_check("cuMemAddressReserve", c->api->mem_address_reserve(&at, bytes, 0, 0, 0));
	return at;
}

void card_access(const struct card *c, cu_address at, uint64_t bytes)
{
	const struct cu_access_desc desc = {
		.location = { .type = CU_LOCATION_DEVICE, .id = c->device },
		.flags = CU_ACCESS_READ_WRITE,
	};

	card_check("cuMemSetAccess", c->api->mem_set_access(at, bytes, &desc, 1));
}

cu_address card_device_memory(const struct card *c, uint64_t bytes)
{
	const struct cu_allocation allocation = card_allocation(c);
	cu_address at = card_reserve(c, bytes);
	cu_handle handle;

	card_check("cuMemCreate", c->api->mem_create(&handle, bytes, &allocation, 0));
	card_check("cuMemMap", c->api->mem_map(at, bytes, 0, handle, 0));
	card_access(c, at, bytes);
	return at;
}

void *card_host_memory(const struct card *c, uint64_t bytes)
{
	struct arena_status status;
	struct arena *arena;
	uint64_t got;
	void *mem;
	int r, fd;

	r = arena_new((uint32_t)c->node, bytes, bytes, ARENA_GRAIN_BYTES, &arena);
	if (r < 0)
		bench_die("no %llu B of memory on node %d: %s", (unsigned long long)bytes, c->node,
			  strerror(-r));
	do {
		struct pollfd p = { .fd = arena_event_fd(arena), .events = POLLIN };

		if (poll(&p, 1, FILL_MS) == 0)
			bench_die("memory of node %d does not come", c->node);
		arena_look(arena, &status);
	} while (!status.done);
	if (status.filled_bytes < bytes)
		bench_die("only %llu B of %llu are to be had on node %d: %s",
			  (unsigned long long)status.filled_bytes, (unsigned long long)bytes,
			  c->node, strerror(-status.error));
	fd = arena_chunk(arena, 0, &got);
	mem = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
	if (mem == MAP_FAILED)
		bench_die("cannot map %llu B of memory", (unsigned long long)bytes);
	card_check("cuMemHostRegister",
		   c->streams->host_register(mem, bytes, CU_FLAG_HOST_PORTABLE));
	return mem;
}

void card_memory(const struct card *c, uint64_t bytes, struct card_memory *ret)
{
	*ret = (struct card_memory){
		.host = card_host_memory(c, bytes),
		.device = card_device_memory(c, bytes),
		.bytes = bytes,
	};
}

uint64_t card_copy_ns(const struct card *c, const struct card_memory *up,
		      const struct card_memory *down, uint64_t times)
{
	uint64_t start_ns = clock_now_ns();

	for (uint64_t i = 0; i < times; i++) {
		if (up != NULL)
			card_check("cuMemcpyHtoDAsync",
				   c->streams->memcpy_htod_async(up->device, up->host, up->bytes,
								 c->stream[CARD_UP]));
		if (down != NULL)
			card_check("cuMemcpyDtoHAsync", c->streams->memcpy_dtoh_async(
								down->host, down->device,
								down->bytes, c->stream[CARD_DOWN]));
	}
	for (unsigned i = 0; i < 2; i++)
		card_check("cuStreamSynchronize", c->streams->stream_synchronize(c->stream[i]));
	return clock_now_ns() - start_ns;
}

/* n copies from the first-th on, by one call of the batch copy. */
static void copy_batch(const struct card *c, cu_stream stream, const struct card_fragments *f,
		       size_t first, size_t n)
{
	struct cu_copy_attributes attributes = { .order = CU_COPY_ORDER_STREAM };
	size_t attribute_first = 0, failed;

	if (c->streams->batch_13)
		card_check(CU_BATCH_SYMBOL,
			   c->streams->batch_13(f->to + first, f->from + first, f->bytes + first, n,
						&attributes, &attribute_first, 1, stream));
	else
		card_check(CU_BATCH_SYMBOL,
			   c->streams->batch_12(f->to + first, f->from + first, f->bytes + first, n,
						&attributes, &attribute_first, 1, &failed, stream));
}

static void copy_one(const struct card *c, enum card_direction direction,
		     const struct card_fragments *f, size_t i)
{
	cu_stream stream = c->stream[direction];

	if (direction == CARD_UP)
		card_check("cuMemcpyHtoDAsync",
			   c->streams->memcpy_htod_async(f->to[i],
							 (const void *)(uintptr_t)f->from[i],
							 f->bytes[i], stream));
	else
		card_check("cuMemcpyDtoHAsync",
			   c->streams->memcpy_dtoh_async((void *)(uintptr_t)f->to[i], f->from[i],
							 f->bytes[i], stream));
}

uint64_t card_batch_ns(const struct card *c, enum card_direction direction,
		       const struct card_fragments *f)
{
	const bool batch = c->streams->batch_12 || c->streams->batch_13;
	uint64_t start_ns = clock_now_ns();

	for (size_t i = 0, n; i < f->n; i += n) {
		n = batch ? f->n - i : 1;
		n = n > BATCH_COPIES_MAX ? BATCH_COPIES_MAX : n;
		if (batch)
			copy_batch(c, c->stream[direction], f, i, n);
		else
			copy_one(c, direction, f, i);
	}
	card_check("cuStreamSynchronize", c->streams->stream_synchronize(c->stream[direction]));
	return clock_now_ns() - start_ns;
}

bool card_symbol(const char *name, void *ret_call)
{
	void *library = dlopen(CU_LIBRARY, RTLD_NOW);
	void *call = library != NULL ? dlsym(library, name) : NULL;

	memcpy(ret_call, &call, sizeof(call));
	return call != NULL;
}
