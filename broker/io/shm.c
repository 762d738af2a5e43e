/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Sealed shared memory for one client; see shm.h.
 *
 * Order matters: our own writable map comes before F_SEAL_FUTURE_WRITE, which lets existing maps
 * write and no later one, by whatever way the file is opened again. A seal that cannot be set is a
 * failure: without it the client could shrink the file under us (SIGBUS) or write what it must not.
 */

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <sys/mman.h>
#include <unistd.h>

#include "broker/io/fault.h"
#include "broker/io/ring.h"
#include "broker/io/shm.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

static int shm_memfd(const char *name)
{
	int fd;

	if (fault_fails("memfd"))
		return -errno;
	fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
	/* Kernels before 6.3 do not know the flag. */
	if (fd < 0 && errno == EINVAL)
		fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	return fd < 0 ? -errno : fd;
}

static int shm_map(struct shm_region *region, enum shm_who who)
{
	int prot = who == SHM_PEER_WRITES ? PROT_READ : PROT_READ | PROT_WRITE;
	void *mem;

	if (ftruncate(region->fd, (off_t)region->bytes) < 0)
		return -errno;
	mem = fault_fails("mmap") ? MAP_FAILED
				  : mmap(NULL, region->bytes, prot, MAP_SHARED, region->fd, 0);
	if (mem == MAP_FAILED)
		return -errno;
	region->mem = mem;
	madvise(mem, region->bytes, MADV_DONTDUMP);
	return 0;
}

static int shm_seal(const struct shm_region *region, enum shm_who who)
{
	int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

	if (who == SHM_WE_WRITE)
		seals |= F_SEAL_FUTURE_WRITE;
	if (fault_fails("seal") || fcntl(region->fd, F_ADD_SEALS, seals) < 0)
		return -errno;
	return 0;
}

int shm_region_new(const char *name, uint64_t bytes, enum shm_who who, struct shm_region *ret)
{
	struct shm_region region = { .fd = shm_memfd(name), .bytes = bytes };
	int error;

	if (region.fd < 0)
		return region.fd;
	error = shm_map(&region, who);
	if (error == 0)
		error = shm_seal(&region, who);
	if (error) {
		shm_region_free(&region);
		return error;
	}
	*ret = region;
	return 0;
}

/* A region of zeros is an empty one. */
void shm_region_free(struct shm_region *region)
{
	if (region->bytes == 0)
		return;
	if (region->mem)
		munmap(region->mem, region->bytes);
	if (region->fd >= 0)
		close(region->fd);
	*region = (struct shm_region){ .fd = -1 };
}
