/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Tables of the memory a mover knows; see memory.h.
 *
 * Sizes come from another process: each product is taken with overflow looked for, and a file that
 * is smaller than it is said to be is refused here, because touching what it lacks would be SIGBUS.
 */

#include "broker/mover/memory.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/mover/point.h"
#include "numa/huge.h"
#include "cuda_driver/gpu.h"

__attribute__((format(printf, 3, 4))) static int refuse(int error, char *why, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(why, MOVER_WHY_BYTES, fmt, args);
	va_end(args);
	return error;
}

static void close_all(const int *fds, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		close(fds[i]);
}

/* ---- chunks -------------------------------------------------------------------------------- */

int mover_memory_chunk(struct mover_memory *m, const struct mover_request *request, int fd,
		       char *why)
{
	struct stat st;
	void *mem;
	int error;

	if (request->id >= MOVER_CHUNKS_MAX || !request->bytes || request->bytes > INT64_MAX)
		return refuse(-EINVAL, why, "no such chunk, or no such size");
	if (m->chunk[request->id].mem)
		return refuse(-EEXIST, why, "chunk %u is known already", request->id);
	if (fstat(fd, &st) < 0 || st.st_size < (off_t)request->bytes)
		return refuse(-EINVAL, why, "chunk %u is smaller than said", request->id);
	mem = huge_map(fd, request->bytes);
	if (!mem)
		return refuse(-errno, why, "chunk %u cannot be mapped: %s", request->id,
			      strerror(errno));
	error = gpu_mover_attach(m->gpu, mem, request->bytes);
	if (error) {
		munmap(mem, request->bytes);
		return refuse(error, why, "chunk %u cannot be made known to the device: %s",
			      request->id, strerror(-error));
	}
	error = mover_point("mover-chunk");
	if (error) {
		gpu_mover_detach(m->gpu, mem);
		munmap(mem, request->bytes);
		return refuse(error, why, "chunk %u: %s", request->id, strerror(-error));
	}
	m->chunk[request->id] = (struct mover_chunk){ .mem = mem, .bytes = request->bytes };
	return 0;
}

/* ---- slabs --------------------------------------------------------------------------------- */

static bool geometry_ok(const struct mover_request *request, uint64_t *ret_region_bytes)
{
	return request->regions && request->regions <= KVB_REGIONS_MAX && request->pages &&
	       request->stride_bytes && request->stride_bytes % 64 == 0 &&
	       !__builtin_mul_overflow((uint64_t)request->pages, request->stride_bytes,
				       ret_region_bytes);
}

static int check_new(const struct mover_memory *m, const struct mover_request *request,
		     uint64_t *ret_region_bytes, char *why)
{
	if (request->id >= MOVER_SLABS_MAX || !geometry_ok(request, ret_region_bytes))
		return refuse(-EINVAL, why, "no such slab, or no such geometry");
	if (m->slab[request->id].used)
		return refuse(-EEXIST, why, "slab %u is known already", request->id);
	return 0;
}

static struct mover_slab slab_of(const struct mover_request *request)
{
	return (struct mover_slab){
		.used = true,
		.regions = request->regions,
		.pages = request->pages,
		.stride_bytes = request->stride_bytes,
	};
}

int mover_memory_lower(struct mover_memory *m, const struct mover_request *request, char *why)
{
	const struct mover_chunk *chunk;
	struct mover_slab slab;
	uint64_t bytes = 0, end;
	int error = check_new(m, request, &bytes, why);

	if (error)
		return error;
	if (request->chunk >= MOVER_CHUNKS_MAX || !m->chunk[request->chunk].mem)
		return refuse(-EINVAL, why, "slab %u lies in a chunk nobody told of", request->id);
	chunk = &m->chunk[request->chunk];
	if (__builtin_mul_overflow(bytes, (uint64_t)request->regions, &bytes) ||
	    __builtin_add_overflow(bytes, request->offset_bytes, &end) || end > chunk->bytes)
		return refuse(-EINVAL, why, "slab %u does not fit in its chunk", request->id);
	slab = slab_of(request);
	slab.lower = true;
	slab.host = chunk->mem + request->offset_bytes;
	m->slab[request->id] = slab;
	return 0;
}

static void unmap_regions(struct mover_memory *m, struct mover_slab *slab, uint32_t n)
{
	for (uint32_t i = 0; i < n && m->gpu; i++)
		gpu_mover_unmap(m->gpu, slab->device[i]);
	free(slab->device);
	slab->device = NULL;
}

int mover_memory_drop(struct mover_memory *m, uint32_t id, char *why)
{
	struct mover_slab *slab;

	if (id >= MOVER_SLABS_MAX || !m->slab[id].used)
		return refuse(-EINVAL, why, "no such slab");
	slab = &m->slab[id];
	if (slab->users)
		return refuse(-EBUSY, why, "%u copies of slab %u are in flight", slab->users, id);
	if (!slab->lower)
		unmap_regions(m, slab, slab->regions);
	*slab = (struct mover_slab){ 0 };
	return 0;
}

/* ---- a slab that comes in pieces ----------------------------------------------------------- */

/* Gives up what was collected and did not become a slab. */
static void piece_forget(struct mover_memory *m)
{
	if (!m->piece.request.type)
		return;
	close_all(m->piece.fds, m->piece.held);
	free(m->piece.fds);
	unmap_regions(m, &m->piece.slab, m->piece.mapped);
	memset(&m->piece, 0, sizeof(m->piece));
}

static int piece_begin(struct mover_memory *m, const struct mover_request *request, char *why)
{
	const uint32_t per_region = request->handles_per_region;
	uint64_t region_bytes = 0, handles_bytes;
	int error;

	piece_forget(m);
	error = check_new(m, request, &region_bytes, why);
	if (error)
		return error;
	if (!per_region || request->count > GPU_CUDA_HANDLES_MAX ||
	    (uint64_t)request->regions * per_region != request->count ||
	    __builtin_mul_overflow((uint64_t)per_region, request->handle_bytes, &handles_bytes) ||
	    region_bytes > handles_bytes)
		return refuse(-EINVAL, why, "slab %u: the handles do not make its regions",
			      request->id);
	m->piece.slab = slab_of(request);
	m->piece.slab.device = calloc(request->regions, sizeof(*m->piece.slab.device));
	m->piece.fds = calloc(per_region, sizeof(*m->piece.fds));
	m->piece.request = *request;
	if (m->piece.slab.device && m->piece.fds)
		return 0;
	piece_forget(m);
	return refuse(-ENOMEM, why, "no memory for the tables of slab %u", request->id);
}

/* One more fd, which is taken; the last one of a region maps it. */
static int piece_add(struct mover_memory *m, int fd)
{
	const struct mover_request *request = &m->piece.request;
	int error;

	m->piece.fds[m->piece.held++] = fd;
	if (m->piece.held < request->handles_per_region)
		return 0;
	error = gpu_mover_map(m->gpu, m->piece.held, request->handle_bytes, m->piece.fds,
			      &m->piece.slab.device[m->piece.mapped]);
	close_all(m->piece.fds, m->piece.held);
	m->piece.held = 0;
	m->piece.mapped += error == 0;
	return error;
}

static bool piece_continues(const struct mover_memory *m, const struct mover_request *request)
{
	return m->piece.request.type && request->seq == m->piece.request.seq &&
	       request->id == m->piece.request.id && request->first == m->piece.got;
}

/* All fds have come: it becomes a slab, or nothing. */
static int piece_end(struct mover_memory *m, char *why)
{
	const uint32_t id = m->piece.request.id;
	int error = m->piece.error;

	if (!error)
		error = mover_point("mover-slab");
	if (error) {
		piece_forget(m);
		return refuse(error, why, "slab %u cannot be mapped: %s", id, strerror(-error));
	}
	m->slab[id] = m->piece.slab;
	free(m->piece.fds);
	memset(&m->piece, 0, sizeof(m->piece));
	return 0;
}

int mover_memory_slab(struct mover_memory *m, const struct mover_request *request, const int *fds,
		      uint32_t n, bool truncated, char *why)
{
	uint32_t came = n;
	int error = 0;

	if (request->first == 0)
		error = piece_begin(m, request, why);
	else if (!piece_continues(m, request))
		error = refuse(-EINVAL, why, "slab %u: its fds do not go on here", request->id);
	if (!error && truncated) {
		/* Only full messages are truncated by a table of fds that is full. */
		m->piece.error = -EMFILE;
		came = m->piece.request.count - m->piece.got;
		came = came < MOVER_FDS_MAX ? came : MOVER_FDS_MAX;
	}
	if (!error && (!came || came > m->piece.request.count - m->piece.got)) {
		piece_forget(m);
		error = refuse(-EINVAL, why, "slab %u: no such number of fds", request->id);
	}
	if (error) {
		close_all(fds, n);
		return error;
	}
	for (uint32_t i = 0; i < n; i++) {
		if (m->piece.error)
			close(fds[i]);
		else
			m->piece.error = piece_add(m, fds[i]);
	}
	m->piece.got += came;
	return m->piece.got < m->piece.request.count ? 1 : piece_end(m, why);
}

/* ---- entries ------------------------------------------------------------------------------- */

struct mover_slab *mover_memory_upper(struct mover_memory *m, const struct mover_entry *entry,
				      struct mover_slab **ret_lower)
{
	struct mover_slab *upper, *lower;

	if (entry->slab >= MOVER_SLABS_MAX || entry->lower_slab >= MOVER_SLABS_MAX)
		return NULL;
	upper = &m->slab[entry->slab];
	lower = &m->slab[entry->lower_slab];
	if (!upper->used || upper->lower || !lower->lower || entry->page >= upper->pages ||
	    entry->lower_page >= lower->pages || upper->regions != lower->regions ||
	    upper->stride_bytes != lower->stride_bytes)
		return NULL;
	*ret_lower = lower;
	return upper;
}

/* ---- life ---------------------------------------------------------------------------------- */

void mover_memory_init(struct mover_memory *m, struct gpu_mover *gpu)
{
	memset(m, 0, sizeof(*m));
	m->gpu = gpu;
}

void mover_memory_finish(struct mover_memory *m)
{
	m->gpu = NULL;
	piece_forget(m);
	for (uint32_t i = 0; i < MOVER_SLABS_MAX; i++) {
		if (m->slab[i].device)
			unmap_regions(m, &m->slab[i], m->slab[i].regions);
		m->slab[i] = (struct mover_slab){ 0 };
	}
	for (uint32_t i = 0; i < MOVER_CHUNKS_MAX; i++) {
		if (!m->chunk[i].mem)
			continue;
		munmap(m->chunk[i].mem, m->chunk[i].bytes);
		m->chunk[i] = (struct mover_chunk){ 0 };
	}
}
