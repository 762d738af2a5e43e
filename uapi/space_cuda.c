/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a grant of GPU memory is mapped: imports of one message in one batch, at device addresses.
 *
 * The driver is the process's own: cuda_driver/cuda_client.h loads it when the first space on a GPU
 * is opened, uses the context that the engine has, and puts back what a thread had. One reservation
 * holds all regions of a space, so addresses are the same multiplication as on the host.
 *
 * A batch is sorted by address: handles that lie side by side, of one region or of neighbouring
 * slabs, are given access in one call a run.
 *
 * A DRIVER THAT DOES NOT LET GO ends the connection. The broker has been told, or is about to be,
 * that the memory is out of use; over a connection that has ended no goodbye is sent, so it waits
 * for the process's death before it believes that.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_driver/cuda_api.h"
#include "cuda_driver/cuda_client.h"
#include "cuda_driver/cuda_error.h"
#include "internal.h"

struct import {
	uint64_t address;
	int fd;
};

static uint64_t address_of(const char *at)
{
	return (uint64_t)(uintptr_t)at;
}

static int fail_open(struct kvb_space *s, int err)
{
	switch (-err) {
	case ENOENT:
	case ENOSYS:
		return kvb_fail(s->kvb, err, "cannot use cuda:%u: %s", s->device,
				cuda_load_error());
	case ENODEV:
		return kvb_fail(s->kvb, err,
				"this process does not see the broker's cuda:%u: %s (does "
				"CUDA_VISIBLE_DEVICES leave it out?)",
				s->device, cuda_error_last());
	case EXDEV:
		return kvb_fail(s->kvb, err,
				"the current context of this thread is not of cuda:%u: make one of "
				"it current, or none",
				s->device);
	default:
		return kvb_fail(s->kvb, err, "cannot use cuda:%u: %s (%s)", s->device,
				cuda_error_last(), strerror(-err));
	}
}

/* The GPU the broker means, whatever its number here. A broker that does not know says zeroes. */
static int open_device(struct kvb_space *s)
{
	const struct cu_uuid none = { { 0 } };
	struct cu_uuid uuid;

	memcpy(&uuid, s->device_uuid, sizeof(uuid));
	return memcmp(&uuid, &none, sizeof(uuid)) ? cuda_client_open_uuid(&uuid, &s->cuda)
						  : cuda_client_open(s->device, &s->cuda);
}

static int cuda_reserve(struct kvb_space *s)
{
	const uint64_t bytes = s->regions * s->region_bytes;
	uint64_t address;
	int rc = open_device(s);

	if (rc)
		return fail_open(s, rc);
	if (s->handle_bytes % cuda_client_granularity_bytes(s->cuda))
		return kvb_fail(
			s->kvb, -EINVAL,
			"handles of %llu bytes cannot be mapped on cuda:%u, whose granularity "
			"is %llu",
			(unsigned long long)s->handle_bytes, s->device,
			(unsigned long long)cuda_client_granularity_bytes(s->cuda));
	rc = cuda_client_reserve(s->cuda, bytes, &address);
	if (rc)
		return kvb_fail(s->kvb, rc, "cannot reserve %llu bytes of addresses on cuda:%u: %s",
				(unsigned long long)bytes, s->device, cuda_error_last());
	s->base = (char *)(uintptr_t)address;
	return 0;
}

static int not_let_go(struct kvb_space *s, int err)
{
	return kvb_end(
		s->kvb, err,
		"cuda:%u does not unmap memory of the broker: %s; it is given back when this "
		"process ends",
		s->device, cuda_error_last());
}

static void cuda_finish(struct kvb_space *s)
{
	const int rc = s->base ? cuda_client_unreserve(s->cuda, address_of(s->base)) : 0;

	if (rc)
		not_let_go(s, rc);
	cuda_client_close(s->cuda);
}

static int by_address(const void *a, const void *b)
{
	const struct import *x = a, *y = b;

	return (x->address > y->address) - (x->address < y->address);
}

static int cuda_map(struct kvb_space *s, const struct kvb_msg_grant *g, const int *fds)
{
	struct import import[KVB_GRANT_FDS_MAX];
	uint64_t addresses[KVB_GRANT_FDS_MAX];
	int sorted[KVB_GRANT_FDS_MAX];
	int rc;

	for (uint32_t i = 0; i < g->count; i++)
		import[i] = (struct import){ address_of(kvb_space_handle_addr(s, &g->entries[i])),
					     fds[i] };
	qsort(import, g->count, sizeof(import[0]), by_address);
	for (uint32_t i = 0; i < g->count; i++) {
		addresses[i] = import[i].address;
		sorted[i] = import[i].fd;
	}
	rc = cuda_client_map(s->cuda, g->count, s->handle_bytes, sorted, addresses);
	if (rc)
		return kvb_fail(s->kvb, rc, "cannot map granted memory of cuda:%u: %s (%s)",
				s->device, cuda_error_last(), strerror(-rc));
	return 0;
}

static void cuda_unmap(struct kvb_space *s, uint32_t slot)
{
	for (uint32_t r = 0; r < s->regions; r++) {
		const int rc =
			cuda_client_unmap(s->cuda, address_of(kvb_space_part_base(s, r, slot)),
					  kvb_space_part_bytes(s));
		if (rc)
			not_let_go(s, rc);
	}
}

static int copied(struct kvb_space *s, int rc)
{
	return rc ? kvb_fail(s->kvb, rc, "cannot copy a page of cuda:%u: %s (%s)", s->device,
			     cuda_error_last(), strerror(-rc))
		  : 0;
}

static int cuda_write(struct kvb_space *s, char *at, const void *from, size_t bytes)
{
	return copied(s, cuda_client_copy_to(s->cuda, address_of(at), from, bytes));
}

static int cuda_read(struct kvb_space *s, const char *at, void *to, size_t bytes)
{
	return copied(s, cuda_client_copy_from(s->cuda, to, address_of(at), bytes));
}

/* ---- streams ------------------------------------------------------------------------------- */

static int fence_done(struct kvb_space *s, int rc, const char *what)
{
	return rc ? kvb_fail(s->kvb, rc, "cannot %s of cuda:%u: %s (%s)", what, s->device,
			     cuda_error_last(), strerror(-rc))
		  : 0;
}

/* With the first use: most engines never have a stream wait. */
static int make_known(struct kvb_space *s)
{
	int rc;

	if (s->fences_known)
		return 0;
	rc = cuda_client_fences_register(s->cuda, s->kvb->fences, KVB_FENCES,
					 sizeof(struct kvb_fence));
	if (rc == -ENOENT || rc == -ENOSYS)
		return kvb_fail(s->kvb, rc, "no fences on cuda:%u: %s", s->device,
				cuda_load_streams_error());
	if (rc)
		return fence_done(s, rc, "register the fence words with the driver");
	s->fences_known = true;
	return 0;
}

static int cuda_stream_write(struct kvb_space *s, void *stream, uint32_t fence, uint64_t value)
{
	const int rc = make_known(s);

	return rc ? rc
		  : fence_done(s, cuda_client_stream_write(s->cuda, stream, fence, value),
			       "put a fence into a stream");
}

static int cuda_stream_wait(struct kvb_space *s, void *stream, uint32_t fence, uint64_t value)
{
	const int rc = make_known(s);

	return rc ? rc
		  : fence_done(s, cuda_client_stream_wait(s->cuda, stream, fence, value),
			       "put a wait into a stream");
}

const struct kvb_space_ops kvb_space_cuda = {
	.reserve = cuda_reserve,
	.finish = cuda_finish,
	.map = cuda_map,
	.unmap = cuda_unmap,
	.write = cuda_write,
	.read = cuda_read,
	.stream_write = cuda_stream_write,
	.stream_wait = cuda_stream_wait,
};
