/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a grant of host memory is mapped: one mmap() of a memfd a handle, over the reservation.
 *
 * What is taken away is covered by reservation again, so that nobody else's mmap() can slip in.
 * The CPU reads and writes pages where they are; nothing here can fail later than the mmap().
 */

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "internal.h"

#define RESERVE_ALIGN (2ull << 20)

static int host_reserve(struct kvb_space *s)
{
	const uint64_t bytes = s->regions * s->region_bytes + RESERVE_ALIGN;
	void *mem =
		mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (mem == MAP_FAILED)
		return kvb_fail(s->kvb, -errno,
				"cannot reserve %llu bytes of addresses: %s (ulimit -v?)",
				(unsigned long long)bytes, strerror(errno));
	s->reserved = mem;
	s->reserved_bytes = bytes;
	s->base = (char *)(((uintptr_t)mem + RESERVE_ALIGN - 1) & ~(uintptr_t)(RESERVE_ALIGN - 1));
	return 0;
}

static void host_finish(struct kvb_space *s)
{
	if (s->reserved)
		munmap(s->reserved, s->reserved_bytes);
}

static int map_handle(struct kvb_space *s, const struct kvb_grant_entry *e, int fd)
{
	struct stat st;

	/* A file that is too short would be a SIGBUS in the engine one day. */
	if (fstat(fd, &st) < 0 || (uint64_t)st.st_size < s->handle_bytes)
		return kvb_end(s->kvb, -EPROTO,
			       "the broker granted a handle smaller than %llu bytes",
			       (unsigned long long)s->handle_bytes);
	if (mmap(kvb_space_handle_addr(s, e), s->handle_bytes, PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
		return kvb_fail(s->kvb, -errno,
				"cannot map granted memory: %s (vm.max_map_count, ulimit -v?)",
				strerror(errno));
	return 0;
}

/* Kept from children and from core files: a region at a time, however many handles came. */
static void advise(struct kvb_space *s, const struct kvb_msg_grant *g)
{
	uint32_t slot_min = UINT32_MAX, slot_max = 0, region_min = UINT32_MAX, region_max = 0;

	for (uint32_t i = 0; i < g->count; i++) {
		const uint32_t slot = g->entries[i].slot;
		const uint32_t region = g->entries[i].handle / s->handles_per_region;
		slot_min = slot < slot_min ? slot : slot_min;
		slot_max = slot > slot_max ? slot : slot_max;
		region_min = region < region_min ? region : region_min;
		region_max = region > region_max ? region : region_max;
	}
	for (uint32_t r = region_min; r <= region_max; r++) {
		char *at = kvb_space_part_base(s, r, slot_min);
		const uint64_t bytes = (slot_max - slot_min + 1) * kvb_space_part_bytes(s);

		(void)madvise(at, bytes, MADV_DONTFORK);
		(void)madvise(at, bytes, MADV_DONTDUMP);
	}
}

static int host_map(struct kvb_space *s, const struct kvb_msg_grant *g, const int *fds)
{
	int rc = 0;

	for (uint32_t i = 0; i < g->count && !rc; i++)
		rc = map_handle(s, &g->entries[i], fds[i]);
	if (!rc)
		advise(s, g);
	return rc;
}

static void host_unmap(struct kvb_space *s, uint32_t slot)
{
	for (uint32_t r = 0; r < s->regions; r++)
		(void)mmap(kvb_space_part_base(s, r, slot), kvb_space_part_bytes(s), PROT_NONE,
			   MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

static int host_write(struct kvb_space *s, char *at, const void *from, size_t bytes)
{
	memcpy(at, from, bytes);
	return 0;
}

static int host_read(struct kvb_space *s, const char *at, void *to, size_t bytes)
{
	memcpy(to, at, bytes);
	return 0;
}

const struct kvb_space_ops kvb_space_host = {
	.reserve = host_reserve,
	.finish = host_finish,
	.map = host_map,
	.unmap = host_unmap,
	.write = host_write,
	.read = host_read,
};
