/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Copying under a sequence lock: see the lock even, copy, see it unchanged. The copy is made with
 * plain loads that may race with the daemon's stores; what a race spoils is thrown away by the
 * second look at the lock, so nothing of it is interpreted. Counts of arrays are clamped and texts
 * ended after the copy: a segment is the daemon's, but a file on disk may be anybody's.
 */

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

#include "broker/admin/stats_read.h"
#include "broker/io/shm.h"

#define READ_ROUNDS_MAX 200

int stats_read_map(int fd, const struct stats_segment **ret, uint32_t *ret_version)
{
	const struct stats_segment *seg;
	struct stat st;
	void *mem;

	if (ret_version)
		*ret_version = 0;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size < 4096)
		return -EPROTO;
	mem = mmap(NULL, sizeof(*seg), PROT_READ, MAP_SHARED, fd, 0);
	if (mem == MAP_FAILED)
		return -errno;
	seg = mem;
	if (__atomic_load_n(&seg->magic, __ATOMIC_ACQUIRE) != STATS_MAGIC) {
		stats_read_unmap(seg);
		return -EPROTO;
	}
	if (ret_version)
		*ret_version = seg->version;
	if (seg->version != STATS_VERSION || seg->bytes != sizeof(*seg) ||
	    (uint64_t)st.st_size < sizeof(*seg)) {
		stats_read_unmap(seg);
		return -EPROTO;
	}
	*ret = seg;
	return 0;
}

void stats_read_unmap(const struct stats_segment *seg)
{
	if (seg)
		(void)munmap((void *)(uintptr_t)seg, sizeof(*seg));
}

static void read_clamp(uint32_t *n, uint32_t max)
{
	if (*n > max)
		*n = max;
}

/* Texts end inside their arrays, whoever wrote them. */
static void read_terminate(struct stats_segment *seg)
{
#define TERMINATE(array) ((array)[sizeof(array) - 1] = '\0')
	TERMINATE(seg->daemon_version);
	TERMINATE(seg->engine);
	TERMINATE(seg->policy);
	TERMINATE(seg->policy_summary);
	TERMINATE(seg->state_dir);
	for (uint32_t i = 0; i < seg->devices_n; i++) {
		TERMINATE(seg->device[i].name);
		TERMINATE(seg->device[i].driver);
		TERMINATE(seg->device[i].model);
		TERMINATE(seg->device[i].pci);
		TERMINATE(seg->device[i].why);
		TERMINATE(seg->device[i].warning);
		TERMINATE(seg->device[i].below_why);
	}
	for (uint32_t i = 0; i < seg->tenants_n; i++)
		TERMINATE(seg->tenant[i].name);
	for (uint32_t i = 0; i < seg->clients_n; i++)
		TERMINATE(seg->client[i].name);
	TERMINATE(seg->store.engine);
	for (uint32_t i = 0; i < seg->store.parts; i++)
		TERMINATE(seg->store.part[i].path);
#undef TERMINATE
}

int stats_read_copy(const struct stats_segment *seg, struct stats_segment *ret)
{
	const struct timespec pause = { .tv_nsec = 1000 * 1000 };
	unsigned round;

	for (round = 0; round < READ_ROUNDS_MAX; round++) {
		uint32_t before = shm_load_acquire(&seg->seq);

		if ((before & 1) == 0) {
			memcpy(ret, seg, sizeof(*ret));
			shm_fence();
			if (shm_load(&seg->seq) == before)
				break;
		}
		(void)nanosleep(&pause, NULL);
	}
	if (round == READ_ROUNDS_MAX)
		return -ETIME;
	read_clamp(&ret->devices_n, CORE_DEVICES_MAX);
	read_clamp(&ret->tenants_n, STATS_TENANTS_MAX);
	read_clamp(&ret->clients_n, STATS_CLIENTS_MAX);
	read_clamp(&ret->spaces_n, STATS_SPACES_MAX);
	read_clamp(&ret->namespaces_n, STATS_NAMESPACES_MAX);
	read_clamp(&ret->reclaim_n, 1024);
	read_clamp(&ret->store.parts, STORE_PARTS_MAX);
	read_terminate(ret);
	return 0;
}
