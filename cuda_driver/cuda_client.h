/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The client's side of one CUDA device: maps allocations that another process created, at addresses
 * that stay.
 *
 * Life: open, reserve an address range a region, map and unmap handles in it as they come and go,
 * close. A range is reserved once and never moves, so an address handed to a kernel, to a CUDA
 * graph or to a registration stays good; only what lies behind it changes, by whole handles.
 *
 * Context: an engine has one before it asks us. If the opening thread has a current context it must
 * be of the device, and it is used as it is, not retained: it has to outlive the client. Without
 * one the device's primary context is retained until close. Every call makes the context current
 * for its own time and puts back what the thread had, so any thread may call.
 *
 * Cost: import 23 to 31 us and access 27 to 38 us a handle, mapping 1 to 1.5, whatever its size;
 * access is asked for once a run of adjacent addresses. Imports are kept until unmap.
 *
 * Nothing of the caller's is closed: an fd can be closed as soon as map returned.
 *
 * Errors that stick (cuda_error_is_sticky() of cuda_error_last_result()) leave a process that can
 * only give up the device; every later call fails, close still frees what is ours. Unmapping while
 * a kernel uses the range faults that kernel: the caller knows when its streams are quiet.
 *
 * One thread at a time a client. Not across fork(): a child opens its own, and the parent must not
 * have opened before. It knows nothing of the broker.
 */

#include "cuda_driver/cuda_abi.h"

#include <stdint.h>

struct cuda_client;

/*
 * Opens device `ordinal`, in the order of the process (CUDA_VISIBLE_DEVICES).
 * 0; -ENOENT, -ENOSYS: no usable driver, cuda_load_error() says why; -ENODEV: no such device;
 * -EXDEV: the thread's current context is of another device; -ENOMEM; others by cuda_error.h,
 * cuda_error_last() says which call.
 */
int cuda_client_open(uint32_t ordinal, struct cuda_client **ret);

/*
 * The same device whatever its number in this process: by what the owner knows it as.
 * As above; -ENODEV: this process does not see it.
 */
int cuda_client_open_uuid(const struct cu_uuid *uuid, struct cuda_client **ret);

/* Unmaps and frees all that is reserved, and the fences, gives the context back. NULL is fine.
 * Returns NULL. */
struct cuda_client *cuda_client_close(struct cuda_client *client);

/* Sizes of handles and of ranges are multiples of it. */
uint64_t cuda_client_granularity_bytes(const struct cuda_client *client);

/*
 * Reserves addresses, without memory. bytes is rounded up to the granularity.
 * 0; -EINVAL: 0 bytes; -ENOMEM: no such range; others by cuda_error.h.
 */
int cuda_client_reserve(struct cuda_client *client, uint64_t bytes, uint64_t *ret_address);

/*
 * Gives a reserved range back, and what is still mapped in it.
 * 0; -ENOENT: address is not the start of a range; others by cuda_error.h.
 */
int cuda_client_unreserve(struct cuda_client *client, uint64_t address);

/*
 * Maps n handles of handle_bytes each, fds[i] at addresses[i], readable and writable for the
 * device. All or nothing: after an error none of them is mapped. Adjacent addresses in order make
 * a run.
 * 0; -EINVAL: an address is not in a reserved range or not on the granularity, or an fd is no
 * allocation of that size; -EBUSY: something is mapped there; -ENOMEM; others by cuda_error.h.
 */
int cuda_client_map(struct cuda_client *client, uint32_t n, uint64_t handle_bytes, const int *fds,
		    const uint64_t *addresses);

/*
 * Unmaps every handle within [address, address + bytes), and releases its import. Handles are
 * unmapped whole: one that sticks out of the range is -EINVAL, and then nothing was unmapped.
 * 0, also when nothing was mapped there; -EINVAL; others by cuda_error.h: the rest was still
 * unmapped, what failed stays mapped and can be tried again.
 */
int cuda_client_unmap(struct cuda_client *client, uint64_t address, uint64_t bytes);

/*
 * Copies between host memory and mapped addresses, and waits: when it returns another process sees
 * the bytes. For tools and tests that look at contents: pageable memory, one at a time, no speed to
 * speak of, and copy_to waits for all else that the context does.
 * 0; by cuda_error.h.
 */
int cuda_client_copy_to(struct cuda_client *client, uint64_t address, const void *from,
			uint64_t bytes);
int cuda_client_copy_from(struct cuda_client *client, void *to, uint64_t address, uint64_t bytes);

/*
 * Fences: 64-bit words in memory that is shared with another process, which streams of the device
 * write and wait for, so that no CPU of the engine waits for a stream.
 *
 * count words, stride_bytes (a multiple of 8) apart, from the beginning of a page in a shared
 * mapping. The client takes a view of its own: the mapping may go as soon as this returned, and
 * other clients of the process may register the same words. Once a client.
 * 0; -EINVAL; -EBUSY: it has fences; -ENOENT, -ENOSYS: the driver has no streams; -ENOMEM; others
 * by cuda_error.h.
 */
int cuda_client_fences_register(struct cuda_client *client, void *words, uint32_t count,
				uint32_t stride_bytes);
/*
 * Streams are past every write and wait they were given. close does it too. After an error they are
 * still registered. 0, also when there were none; by cuda_error.h.
 */
int cuda_client_fences_unregister(struct cuda_client *client);

/*
 * Puts a step into `stream`, a stream of the client's context (NULL: its default stream), and
 * returns at once. write: when all that the stream got before is done, and seen by everyone, the
 * word becomes value. wait: the stream goes on once the word has reached value, (int64_t)(word -
 * value)
 * >= 0. A word that never reaches it stops the stream for good, and every synchronisation with it:
 * whoever waits sees to it that the other end is alive, or writes the word itself.
 * 0; -EINVAL: no such word; others by cuda_error.h: nothing was put into the stream.
 */
int cuda_client_stream_write(struct cuda_client *client, cu_stream stream, uint32_t word,
			     uint64_t value);
int cuda_client_stream_wait(struct cuda_client *client, cu_stream stream, uint32_t word,
			    uint64_t value);
