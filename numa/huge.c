/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Aligned maps, and collapsing: see huge.h.
 *
 * A stretch with nothing in it is not collapsed, so one small page of each is brought in first: it
 * also says on which node the huge page is to lie.
 */

#include "numa/huge.h"

#include <errno.h>
#include <stddef.h>
#include <sys/mman.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

#define SMALL_BYTES 4096u

void *huge_map(int fd, uint64_t bytes)
{
	char *room, *at;
	void *memory;
	int error;

	room = mmap(NULL, bytes + HUGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (room == MAP_FAILED)
		return NULL;
	at = room + (-(uintptr_t)room & (HUGE_BYTES - 1));
	if (at > room)
		munmap(room, (size_t)(at - room));
	if (at + bytes < room + bytes + HUGE_BYTES)
		munmap(at + bytes, (size_t)(room + HUGE_BYTES - at));
	memory = mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
	if (memory != MAP_FAILED)
		return memory;
	error = errno;
	munmap(at, bytes);
	errno = error;
	return NULL;
}

bool huge_collapse(void *memory, uint64_t bytes)
{
	char *at = memory;

	for (uint64_t done = 0; done < bytes; done += HUGE_BYTES) {
		if (madvise(at + done, SMALL_BYTES, MADV_POPULATE_WRITE) < 0)
			return false;
	}
	return madvise(memory, bytes, MADV_COLLAPSE) == 0;
}
