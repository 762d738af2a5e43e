/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Words of shared memory. Every access to a word a peer can write, or reads, goes through here: one
 * load into a local, never twice, with the ordering the ABI's contract names (kvbroker.h, A..F).
 */

#include <stdint.h>

static inline uint32_t shm_load(const uint32_t *word)
{
	return __atomic_load_n(word, __ATOMIC_RELAXED);
}

static inline uint32_t shm_load_acquire(const uint32_t *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static inline uint64_t shm_load64(const uint64_t *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static inline void shm_store(uint32_t *word, uint32_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELAXED);
}

static inline void shm_store_release(uint32_t *word, uint32_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
}

static inline void shm_store64(uint64_t *word, uint64_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELAXED);
}

static inline void shm_store64_release(uint64_t *word, uint64_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
}

static inline void shm_fence(void)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

struct shm_region;

/* A memfd of `bytes`, mapped and then sealed, so that it can neither shrink nor grow. */
enum shm_who {
	SHM_PEER_WRITES, /* mapped read-only here */
	SHM_WE_WRITE,    /* F_SEAL_FUTURE_WRITE after our own map: the peer can only read */
	SHM_BOTH_WRITE,
};
int shm_region_new(const char *name, uint64_t bytes, enum shm_who who, struct shm_region *ret);
void shm_region_free(struct shm_region *region);
