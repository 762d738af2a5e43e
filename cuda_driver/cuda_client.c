/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The client's side of a CUDA device. See cuda_client.h.
 *
 * A reserved range carries one cell a granule. The cell where a handle begins holds its import and
 * its length; every cell of it names the first one. So an address finds its handle in one step,
 * overlaps are found before the driver is asked, and whether a cut goes through a handle is seen at
 * the two ends of it. Cells of addresses that were never mapped cost no memory: they are zero pages
 * of a large calloc().
 */

#include "cuda_driver/cuda_client_state.h"

#include "cuda_driver/cuda_error.h"

#include <errno.h>
#include <stdlib.h>

struct client_cell {
	cu_handle handle;  /* in the first cell of a handle */
	uint32_t granules; /* in the first cell: its length */
	uint32_t first;    /* 1 + the handle's first cell; 0: nothing is mapped here */
};

struct client_range {
	struct client_range *next;
	cu_address address;
	uint64_t bytes;
	uint32_t handles; /* mapped in it */
	struct client_cell *cells;
};

static const char not_reserved[] = "not in a reserved range, or not on the granularity";

int client_enter(const struct cuda_client *client, cu_context *ret_before)
{
	const struct cuda_api *api = client->device.api;
	enum cu_result r = api->ctx_get_current(ret_before);

	if (r != CU_OK)
		return cuda_error_note("cuCtxGetCurrent", r);
	if (*ret_before == client->context)
		return 0;
	r = api->ctx_set_current(client->context);
	return r == CU_OK ? 0 : cuda_error_note("cuCtxSetCurrent", r);
}

void client_leave(const struct cuda_client *client, cu_context before)
{
	if (before != client->context)
		client->device.api->ctx_set_current(before);
}

static int client_find_context(struct cuda_client *client)
{
	const struct cuda_api *api = client->device.api;
	cu_device device = -1;
	enum cu_result r;

	r = api->ctx_get_current(&client->context);
	if (r != CU_OK)
		return cuda_error_note("cuCtxGetCurrent", r);
	if (client->context) {
		r = api->ctx_get_device(&device);
		if (r != CU_OK)
			return cuda_error_note("cuCtxGetDevice", r);
		if (device != client->device.device)
			return cuda_error_refuse(-EXDEV, "the thread's context is of another GPU");
		return 0;
	}
	r = api->primary_ctx_retain(&client->context, client->device.device);
	if (r != CU_OK)
		return cuda_error_note("cuDevicePrimaryCtxRetain", r);
	client->retained = true;
	return 0;
}

int cuda_client_open(uint32_t ordinal, struct cuda_client **ret)
{
	struct cuda_client *client = calloc(1, sizeof(*client));
	int error;

	if (!client)
		return cuda_error_refuse(-ENOMEM, "no host memory");
	error = cuda_device_open(ordinal, &client->device);
	if (error == 0)
		error = client_find_context(client);
	if (error) {
		free(client);
		return error;
	}
	*ret = client;
	return 0;
}

int cuda_client_open_uuid(const struct cu_uuid *uuid, struct cuda_client **ret)
{
	uint32_t ordinal;
	int error = cuda_device_find(uuid, &ordinal);

	return error ? error : cuda_client_open(ordinal, ret);
}

uint64_t cuda_client_granularity_bytes(const struct cuda_client *client)
{
	return client->device.granularity_bytes;
}

/* Unmaps the handle whose first cell is `at`. After an error it is as it was. */
static int client_unmap_one(struct cuda_client *client, struct client_range *range, uint32_t at)
{
	uint64_t granularity_bytes = client->device.granularity_bytes;
	struct client_cell *cell = &range->cells[at];
	uint32_t granules = cell->granules;
	cu_handle handle = cell->handle;
	enum cu_result r;

	r = client->device.api->mem_unmap(range->address + at * granularity_bytes,
					  granules * granularity_bytes);
	if (r != CU_OK)
		return cuda_error_note("cuMemUnmap", r);
	for (uint32_t i = 0; i < granules; i++)
		cell[i] = (struct client_cell){ 0 };
	range->handles--;
	r = client->device.api->mem_release(handle);
	return r == CU_OK ? 0 : cuda_error_note("cuMemRelease", r);
}

/* Every handle that begins in cells [from, to). The first error; the rest is unmapped all the same.
 */
static int client_unmap_cells(struct cuda_client *client, struct client_range *range, uint32_t from,
			      uint32_t to)
{
	int error = 0;

	for (uint32_t i = from; i < to && range->handles;) {
		uint32_t granules = range->cells[i].first == i + 1 ? range->cells[i].granules : 0;

		if (granules) {
			int e = client_unmap_one(client, range, i);

			error = error ? error : e;
		}
		i += granules ? granules : 1;
	}
	return error;
}

static uint32_t client_range_cells(const struct cuda_client *client,
				   const struct client_range *range)
{
	return (uint32_t)(range->bytes / client->device.granularity_bytes);
}

/* Unmaps and frees one range, out of the list already. The first error; it is gone regardless. */
static int client_range_free(struct cuda_client *client, struct client_range *range)
{
	int error = client_unmap_cells(client, range, 0, client_range_cells(client, range));
	enum cu_result r = client->device.api->mem_address_free(range->address, range->bytes);

	if (r != CU_OK && error == 0)
		error = cuda_error_note("cuMemAddressFree", r);
	free(range->cells);
	free(range);
	return error;
}

struct cuda_client *cuda_client_close(struct cuda_client *client)
{
	cu_context before = NULL;
	bool entered;

	if (!client)
		return NULL;
	cuda_client_fences_unregister(client);
	entered = client_enter(client, &before) == 0;
	while (client->ranges) {
		struct client_range *range = client->ranges;

		client->ranges = range->next;
		client_range_free(client, range);
	}
	if (entered)
		client_leave(client, before);
	if (client->retained)
		client->device.api->primary_ctx_release(client->device.device);
	free(client);
	return NULL;
}

static int client_range_make(struct cuda_client *client, uint64_t bytes, struct client_range **ret)
{
	struct client_range *range = calloc(1, sizeof(*range));
	enum cu_result r;

	if (!range)
		return cuda_error_refuse(-ENOMEM, "no host memory");
	range->bytes = bytes;
	range->cells = calloc(client_range_cells(client, range), sizeof(*range->cells));
	if (!range->cells) {
		free(range);
		return cuda_error_refuse(-ENOMEM, "no host memory");
	}
	r = client->device.api->mem_address_reserve(&range->address, bytes, 0, 0, 0);
	if (r != CU_OK) {
		free(range->cells);
		free(range);
		return cuda_error_note("cuMemAddressReserve", r);
	}
	*ret = range;
	return 0;
}

int cuda_client_reserve(struct cuda_client *client, uint64_t bytes, uint64_t *ret_address)
{
	uint64_t granularity_bytes = client->device.granularity_bytes;
	struct client_range *range = NULL;
	cu_context before;
	int error;

	if (bytes == 0)
		return cuda_error_refuse(-EINVAL, "a range of 0 bytes");
	if (bytes > (UINT32_MAX - 1) * granularity_bytes)
		return cuda_error_refuse(-ENOMEM, "a range larger than any device");
	bytes = (bytes + granularity_bytes - 1) / granularity_bytes * granularity_bytes;
	error = client_enter(client, &before);
	if (error)
		return error;
	error = client_range_make(client, bytes, &range);
	client_leave(client, before);
	if (error)
		return error;
	range->next = client->ranges;
	client->ranges = range;
	*ret_address = range->address;
	return 0;
}

int cuda_client_unreserve(struct cuda_client *client, uint64_t address)
{
	struct client_range **link = &client->ranges;
	struct client_range *range;
	cu_context before;
	int error;

	while (*link && (*link)->address != address)
		link = &(*link)->next;
	range = *link;
	if (!range)
		return cuda_error_refuse(-ENOENT, "no range begins there");
	error = client_enter(client, &before);
	if (error)
		return error;
	*link = range->next;
	error = client_range_free(client, range);
	client_leave(client, before);
	return error;
}

/* The range that [address, address + bytes) lies in, on granules; NULL: none. */
static struct client_range *client_range_of(const struct cuda_client *client, uint64_t address,
					    uint64_t bytes, uint32_t *ret_cell)
{
	uint64_t granularity_bytes = client->device.granularity_bytes;

	for (struct client_range *range = client->ranges; range; range = range->next) {
		uint64_t offset = address - range->address;

		if (address < range->address || offset >= range->bytes)
			continue;
		if (bytes > range->bytes - offset || offset % granularity_bytes ||
		    bytes % granularity_bytes)
			return NULL;
		*ret_cell = (uint32_t)(offset / granularity_bytes);
		return range;
	}
	return NULL;
}

static int client_map_one(struct cuda_client *client, int fd, uint64_t handle_bytes,
			  uint64_t address)
{
	uint32_t granules = (uint32_t)(handle_bytes / client->device.granularity_bytes);
	struct client_range *range;
	cu_handle handle;
	uint32_t at;
	int error;

	range = client_range_of(client, address, handle_bytes, &at);
	if (!range)
		return cuda_error_refuse(-EINVAL, not_reserved);
	for (uint32_t i = 0; i < granules; i++) {
		if (range->cells[at + i].first)
			return cuda_error_refuse(-EBUSY, "something is mapped there");
	}
	error = cuda_device_map(&client->device, fd, handle_bytes, address, &handle);
	if (error)
		return error;
	for (uint32_t i = 0; i < granules; i++)
		range->cells[at + i].first = at + 1;
	range->cells[at].handle = handle;
	range->cells[at].granules = granules;
	range->handles++;
	return 0;
}

/* One call a run of adjacent addresses. */
static int client_set_access(struct cuda_client *client, uint32_t n, uint64_t handle_bytes,
			     const uint64_t *addresses)
{
	const struct cu_access_desc desc = {
		.location = client->device.allocation.location,
		.flags = CU_ACCESS_READ_WRITE,
	};

	for (uint32_t i = 0, end; i < n; i = end) {
		enum cu_result r;

		end = i + 1;
		while (end < n && addresses[end] == addresses[end - 1] + handle_bytes)
			end++;
		r = client->device.api->mem_set_access(addresses[i], (end - i) * handle_bytes,
						       &desc, 1);
		if (r != CU_OK)
			return cuda_error_note("cuMemSetAccess", r);
	}
	return 0;
}

static void client_unmap_addresses(struct cuda_client *client, uint32_t n, uint64_t handle_bytes,
				   const uint64_t *addresses)
{
	for (uint32_t i = 0; i < n; i++) {
		uint32_t at;
		struct client_range *range =
			client_range_of(client, addresses[i], handle_bytes, &at);

		if (range)
			client_unmap_one(client, range, at);
	}
}

int cuda_client_map(struct cuda_client *client, uint32_t n, uint64_t handle_bytes, const int *fds,
		    const uint64_t *addresses)
{
	cu_context before;
	uint32_t done = 0;
	int error;

	if (handle_bytes == 0)
		return cuda_error_refuse(-EINVAL, "a handle of 0 bytes");
	error = client_enter(client, &before);
	if (error)
		return error;
	while (done < n && error == 0) {
		error = client_map_one(client, fds[done], handle_bytes, addresses[done]);
		done += error == 0;
	}
	if (error == 0)
		error = client_set_access(client, n, handle_bytes, addresses);
	if (error)
		client_unmap_addresses(client, done, handle_bytes, addresses);
	client_leave(client, before);
	return error;
}

/* Whether a handle lies across the boundary before cell `at`. */
static bool client_cuts_handle(const struct cuda_client *client, const struct client_range *range,
			       uint32_t at)
{
	return at < client_range_cells(client, range) && range->cells[at].first &&
	       range->cells[at].first != at + 1;
}

int cuda_client_unmap(struct cuda_client *client, uint64_t address, uint64_t bytes)
{
	struct client_range *range;
	cu_context before;
	uint32_t from, to;
	int error;

	range = client_range_of(client, address, bytes, &from);
	if (!range)
		return cuda_error_refuse(-EINVAL, not_reserved);
	to = from + (uint32_t)(bytes / client->device.granularity_bytes);
	if (client_cuts_handle(client, range, from) || client_cuts_handle(client, range, to))
		return cuda_error_refuse(-EINVAL, "a handle sticks out of what is to be unmapped");
	error = client_enter(client, &before);
	if (error)
		return error;
	error = client_unmap_cells(client, range, from, to);
	client_leave(client, before);
	return error;
}

int cuda_client_copy_to(struct cuda_client *client, uint64_t address, const void *from,
			uint64_t bytes)
{
	const struct cuda_api *api = client->device.api;
	cu_context before;
	enum cu_result r;
	int error = client_enter(client, &before);

	if (error)
		return error;
	r = api->memcpy_htod(address, from, bytes);
	if (r != CU_OK)
		error = cuda_error_note("cuMemcpyHtoD", r);
	/* From pageable memory it may return when the bytes are staged, before they are there. */
	if (error == 0) {
		r = api->ctx_synchronize();
		if (r != CU_OK)
			error = cuda_error_note("cuCtxSynchronize", r);
	}
	client_leave(client, before);
	return error;
}

int cuda_client_copy_from(struct cuda_client *client, void *to, uint64_t address, uint64_t bytes)
{
	cu_context before;
	enum cu_result r;
	int error = client_enter(client, &before);

	if (error)
		return error;
	r = client->device.api->memcpy_dtoh(to, address, bytes);
	if (r != CU_OK)
		error = cuda_error_note("cuMemcpyDtoH", r);
	client_leave(client, before);
	return error;
}
