/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The `host` back end: one sealed memfd a handle, committed on one NUMA node.
 *
 * Commit: fallocate() under a preferred-node policy of the calling thread, because a memfd takes
 * the policy of the thread that allocates when it has none of its own, and that costs one syscall a
 * batch instead of a map, an mbind and an unmap a handle. Preferred, not bound: memory on another
 * node is slower, no memory is an error. A node that is full, or a container that forbids the
 * policy, must not stop the service.
 *
 * Seals: a client that holds the fd can neither shrink it under another's map (SIGBUS) nor grow it
 * beyond what is charged, nor add a write seal that would break the next filler.
 *
 * Close: the hole is punched first. A peer may keep its map for as long as it lives; what it keeps
 * then is an empty file that nobody else will ever be given.
 */

#include "cuda_driver/gpu.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <numaif.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

#define HOST_NODE_BITS 1024u
#define HOST_WORD_BITS (8 * sizeof(unsigned long))

static int host_memfd(void)
{
	int fd = memfd_create("kvb-slab", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);

	/* Kernels before 6.3 do not know the flag. */
	if (fd < 0 && errno == EINVAL)
		fd = memfd_create("kvb-slab", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	return fd < 0 ? -errno : fd;
}

static int host_handle_create(uint64_t bytes)
{
	int fd = host_memfd();
	int error;

	if (fd < 0)
		return fd;
	if (ftruncate(fd, (off_t)bytes) == 0 && fallocate(fd, 0, 0, (off_t)bytes) == 0 &&
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
		return fd;
	error = -errno;
	close(fd);
	return error;
}

static void host_close(struct gpu_device *dev, uint32_t n, uint64_t handle_bytes, const int *fds,
		       uint64_t token)
{
	for (uint32_t i = 0; i < n; i++) {
		fallocate(fds[i], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
			  (off_t)handle_bytes);
		close(fds[i]);
	}
}

static int host_create(struct gpu_device *dev, uint32_t n, uint64_t handle_bytes, int *ret_fds,
		       uint64_t *ret_token)
{
	unsigned long nodes[HOST_NODE_BITS / HOST_WORD_BITS] = { 0 };
	int error = 0;

	nodes[dev->ordinal / HOST_WORD_BITS] = 1ul << (dev->ordinal % HOST_WORD_BITS);
	set_mempolicy(MPOL_PREFERRED, nodes, HOST_NODE_BITS + 1);
	for (uint32_t i = 0; i < n && error == 0; i++) {
		int fd = host_handle_create(handle_bytes);

		if (fd < 0) {
			host_close(dev, i, handle_bytes, ret_fds, 0);
			error = fd;
		} else {
			ret_fds[i] = fd;
		}
	}
	set_mempolicy(MPOL_DEFAULT, NULL, 0);
	*ret_token = 0; /* the fds say it all */
	return error;
}

static void host_info(struct gpu_device *dev, struct gpu_info *ret)
{
	*ret = (struct gpu_info){
		.driver = "host",
		.granularity_bytes = GPU_HANDLE_BYTES_MIN,
		.node = (int32_t)dev->ordinal,
	};
}

static void host_finish(struct gpu_device *dev)
{
	free(dev);
}

static const struct gpu_ops host_ops = {
	.create = host_create,
	.close = host_close,
	.info = host_info,
	.finish = host_finish,
};

int gpu_host_open(uint32_t ordinal, struct gpu_device **ret)
{
	struct gpu_device *dev;

	if (ordinal >= HOST_NODE_BITS)
		return -ENODEV;
	dev = calloc(1, sizeof(*dev));
	if (!dev)
		return -ENOMEM;
	dev->ops = &host_ops;
	dev->ordinal = ordinal;
	*ret = dev;
	return 0;
}
