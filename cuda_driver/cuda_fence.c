/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Fence words that a GPU's streams write and wait for. See cuda_client.h.
 *
 * The driver registers a range of addresses once a process, and two clients of one process -- two
 * GPUs, two spaces -- want the same words. So each client registers a view of its own: a second
 * mapping of the same pages, which comes and goes with it and touches no other's.
 *
 * The calls of streams are looked up here, when fences are wanted: a client that wants none works
 * on a driver without them.
 */

#include "cuda_driver/cuda_client_state.h"

#include "cuda_driver/cuda_error.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

/* Registers the view in f->words. */
static int fence_register(struct client_fences *f, const struct cuda_stream_api *api)
{
	enum cu_result r = api->host_register(f->words, f->bytes,
					      CU_FLAG_HOST_PORTABLE | CU_FLAG_HOST_DEVICEMAP);

	if (r != CU_OK)
		return cuda_error_note("cuMemHostRegister", r);
	r = api->host_get_device_pointer(&f->address, f->words, 0);
	if (r != CU_OK) {
		api->host_unregister(f->words);
		return cuda_error_note("cuMemHostGetDevicePointer", r);
	}
	return 0;
}

int cuda_client_fences_register(struct cuda_client *client, void *words, uint32_t count,
				uint32_t stride_bytes)
{
	const uint64_t page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
	struct client_fences f = { .count = count, .stride_bytes = stride_bytes };
	const struct cuda_stream_api *api;
	cu_context before;
	int error;

	if (count == 0 || stride_bytes == 0 || stride_bytes % sizeof(uint64_t) ||
	    (uintptr_t)words % page_bytes)
		return cuda_error_refuse(-EINVAL, "fence words do not lie like that");
	if (client->fences.api)
		return cuda_error_refuse(-EBUSY, "the client has fences already");
	error = cuda_load_streams(&api);
	if (error)
		return cuda_error_refuse(error, cuda_load_streams_error());
	f.bytes = (uint64_t)count * stride_bytes;
	f.bytes = (f.bytes + page_bytes - 1) / page_bytes * page_bytes;
	/* An old size of 0: the mapping stays, and there is another one of the same pages. */
	f.words = mremap(words, 0, f.bytes, MREMAP_MAYMOVE);
	if (f.words == MAP_FAILED)
		return cuda_error_refuse(errno == ENOMEM ? -ENOMEM : -EINVAL,
					 "fence words are not in a shared mapping");
	error = client_enter(client, &before);
	if (error == 0) {
		error = fence_register(&f, api);
		client_leave(client, before);
	}
	if (error) {
		munmap(f.words, f.bytes);
		return error;
	}
	f.api = api;
	client->fences = f;
	return 0;
}

int cuda_client_fences_unregister(struct cuda_client *client)
{
	struct client_fences f = client->fences;
	cu_context before;
	enum cu_result r;
	int error;

	if (!f.api)
		return 0;
	error = client_enter(client, &before);
	if (error)
		return error;
	r = f.api->host_unregister(f.words);
	client_leave(client, before);
	if (r != CU_OK)
		return cuda_error_note("cuMemHostUnregister", r);
	munmap(f.words, f.bytes);
	client->fences = (struct client_fences){ 0 };
	return 0;
}

static int fence_enter(const struct cuda_client *client, uint32_t word, cu_context *ret_before)
{
	if (word >= client->fences.count)
		return cuda_error_refuse(-EINVAL, "no such fence word is registered");
	return client_enter(client, ret_before);
}

static cu_address fence_address(const struct cuda_client *client, uint32_t word)
{
	return client->fences.address + (uint64_t)word * client->fences.stride_bytes;
}

int cuda_client_stream_write(struct cuda_client *client, cu_stream stream, uint32_t word,
			     uint64_t value)
{
	cu_context before;
	enum cu_result r;
	int error = fence_enter(client, word, &before);

	if (error)
		return error;
	r = client->fences.api->stream_write_value64(stream, fence_address(client, word), value, 0);
	client_leave(client, before);
	return r == CU_OK ? 0 : cuda_error_note("cuStreamWriteValue64", r);
}

int cuda_client_stream_wait(struct cuda_client *client, cu_stream stream, uint32_t word,
			    uint64_t value)
{
	cu_context before;
	enum cu_result r;
	int error = fence_enter(client, word, &before);

	if (error)
		return error;
	r = client->fences.api->stream_wait_value64(stream, fence_address(client, word), value,
						    CU_FLAG_WAIT_VALUE_GEQ);
	client_leave(client, before);
	return r == CU_OK ? 0 : cuda_error_note("cuStreamWaitValue64", r);
}
