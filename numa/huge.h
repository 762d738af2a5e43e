/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Shared memory on huge pages.
 *
 * Systems give huge pages to shared memory rarely (shmem_enabled is `never` by default), but from
 * Linux 6.1 collapse what is there on request. It pays where memory is read once and far apart:
 * tables, and arenas whose every byte is checksummed. Whoever maps such memory elsewhere has large
 * entries in its page tables only if its map is as aligned as the memory is.
 */

#include <stdbool.h>
#include <stdint.h>

#define HUGE_BYTES (2ull << 20)

/* All of a memfd of `bytes`, shared, read and write, at a multiple of HUGE_BYTES. NULL with errno.
 */
void *huge_map(int fd, uint64_t bytes);

/*
 * Puts memory of huge_map(), from a multiple of HUGE_BYTES on, on huge pages, all of it in memory
 * then. False: not to be had, or only for part of it; small pages serve as well, only slower.
 */
bool huge_collapse(void *memory, uint64_t bytes);
