/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * libkvbroker: an engine's side of kvbroker, shaped like liburing.
 *
 * LIFE CYCLE
 *   kvb_connect() -> kvb_space_open() -> kvb_space_grow() -> { allocate, fill, seal, look up, read,
 *   release } ... -> kvb_disconnect(). A process that dies without it loses nothing of others.
 *
 * TWO WAYS TO CALL. The wrappers (kvb_alloc(), kvb_lookup(), ...) do one operation and wait for it:
 * use these first. The ring (kvb_get_sqe(), kvb_prep_*(), kvb_submit(), kvb_wait_cqe()) keeps many
 * in flight. Both may be mixed on one connection: a wrapper that meets completions of the ring's
 * user keeps them for kvb_peek_cqe(), in order. An entry that was got and not yet submitted goes out
 * with the next wrapper call, so fill it before; background work leaves it alone.
 *
 * THREADS. A connection is used by one thread at a time. Open one a thread, or lock around it.
 *
 * FORK. Mappings are not inherited (MADV_DONTFORK) and every fd is close-on-exec; a child must
 * connect for itself. Rights stay with the socket, so a child that keeps the parent's fd keeps the
 * parent's rights alive until it closes it.
 *
 * WHAT HAPPENS IN THE BACKGROUND. Memory that is granted, magazine recalls and revocations arrive
 * as messages. They are handled inside any call that waits, and in kvb_poll(): an engine with long
 * silences calls kvb_poll() now and then (two loads when nothing came). Revoked memory is only ever
 * unmapped in kvb_quiet_point(), which the engine calls when nothing reads the pages it gave back.
 *
 * GPUS. A space on a device of kind KVB_DEVICE_CUDA has device addresses: kernels and copies of the
 * engine use them, the CPU must not touch them (kvb_page_write() and kvb_page_read() copy). libcuda
 * is loaded when the first such space is opened and not before. The current context of the thread
 * that opens a space must be of its device, and is used as it is: it has to outlive the space. A
 * thread without one has the device's primary context retained, as CUDA's runtime does. Every call
 * puts back what the thread had. The ordinal is the broker's; the GPU is found in this process by its
 * UUID, so CUDA_VISIBLE_DEVICES may number it otherwise. A grant that the driver refuses to map is refused,
 * and the engine goes on without those pages; memory that it refuses to unmap ends the connection.
 *
 * LOWER TIERS. kvb_lookup() knows the device alone. An engine that wants what was written down asks
 * kvb_lookup_tiers() first, decides whether fetching is worth its while, and has kvb_load() bring up
 * the rest of the run; or kvb_load() straight away. What does not come is a miss and no error.
 *
 * FENCES. Entries of the ring can wait for a stream (FREE, SEAL) and a stream for an entry (LOAD), by
 * a fence word: kvb_prep_fence() on the one side, kvb_fence_stream_write() or _wait() on the other.
 * That a LOAD's word was set says that the LOAD is over and not what came: its completion does. When
 * the connection ends, however that is, the library itself sets the word of every LOAD that was
 * submitted to the value it would have had, so that no stream waits for ever; kvb_fence_failed() is
 * true then, and the pages of that LOAD hold nothing. The end is noticed by any call that waits and
 * by kvb_poll(). An engine whose thread blocks in the driver meanwhile has another one in
 * kvb_fence_watch(). An engine that never comes back to the library has its streams hang.
 *
 * ERRORS are negative errno values; kvb_error_text() says more about the last failure.
 * -ENOTCONN the broker has gone or has given up on this client; -EPROTO it sent nonsense. Both are
 * final, and so is -ETIME of a wrapper: its entry is still out there with the operands, so a broker
 * that does not answer within timeout_ns has lost this client. Memory stays mapped, for reading to
 * its end, until kvb_disconnect(). A batch that stops half way returns how many were done, and the
 * error text says at what; asking for the rest returns the error.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvbroker.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KVB_LIB_VERSION_MAJOR 1
#define KVB_LIB_VERSION_MINOR 2

#if defined(__GNUC__)
#define KVB_API __attribute__((visibility("default")))
#else
#define KVB_API
#endif

struct kvb;
struct kvb_space;

/* ---- connection ---------------------------------------------------------------------------- */

/* Zeroes are defaults. */
struct kvb_params {
	const char *socket;	/* NULL: $KVBROKER_SOCKET, else KVB_DEFAULT_SOCKET */
	const char *tenant;	/* NULL: "default" */
	const char *name;	/* shown to operators; NULL: the program's name */
	uint32_t sq_entries;	/* power of two, 2..4096; default 256 */
	uint32_t cq_entries;	/* power of two >= sq_entries; default 2 * sq_entries */
	uint32_t operand_bytes; /* multiple of 4096; default 256 KiB */
	uint32_t magazine;	/* page ids kept a space for kvb_page_get(); default 256, at most 4096 */
	uint64_t spin_ns;	/* how long to spin before sleeping; default 20 us; UINT64_MAX = only spin */
	uint64_t timeout_ns;	/* of connecting and of wrapper calls; default 10 s */
};

/* Connects and attaches. params may be NULL. On failure *ret is untouched and error_text (may be
 * NULL, 256 B) says why. -ENOENT/-ECONNREFUSED no broker; -EACCES; -EPROTONOSUPPORT; ... */
KVB_API int kvb_connect(const struct kvb_params *params, struct kvb **ret, char error_text[256]);

/* Ends the connection, unmaps everything, frees. NULL is fine. Returns NULL. */
KVB_API struct kvb *kvb_disconnect(struct kvb *kvb);

/* What the last failed call on this connection has to say; never NULL. */
KVB_API const char *kvb_error_text(const struct kvb *kvb);

struct kvb_info {
	uint32_t version; /* ABI version agreed on */
	uint32_t client;  /* id that operators see */
	uint64_t features;
	uint64_t boot_id;
	uint32_t sq_entries, cq_entries, operand_bytes, leases_max;
};
KVB_API void kvb_get_info(const struct kvb *kvb, struct kvb_info *ret);

/* A fd that becomes readable when kvb_poll() has something to do (grants, end of the broker). Not
 * for completions: those are announced by futex only. */
KVB_API int kvb_fd(const struct kvb *kvb);

/* Handles messages and events that have arrived. 0, or -ENOTCONN. */
KVB_API int kvb_poll(struct kvb *kvb);

/* Nothing of this process reads pages it has given back: revoked slabs in which this connection
 * holds nothing are unmapped and returned. Returns how many. */
KVB_API int kvb_quiet_point(struct kvb *kvb);

/* Called, inside kvb_poll() and waiting calls, when a slab is revoked: pages first..first+count-1 of
 * the space are to be given back before deadline_ns from now. NULL removes it. */
typedef void (*kvb_revoke_fn)(void *arg, struct kvb_space *space, uint32_t first, uint32_t count,
			      uint64_t deadline_ns);
KVB_API void kvb_on_revoke(struct kvb *kvb, kvb_revoke_fn fn, void *arg);

/* ---- spaces -------------------------------------------------------------------------------- */

struct kvb_space_params {
	uint32_t device_kind;	 /* enum kvb_device_kind; 0 = host */
	uint32_t device_ordinal; /* NUMA node, or GPU */
	uint32_t regions;	 /* 0 = 1 */
	uint64_t stride_bytes;	 /* of one page in one region; a multiple of 64 */
	uint64_t tag;
};

/* Reserves addresses and joins the space. Owned by the connection. On a GPU also: -ENOENT no
 * libcuda, -ENOSYS one that is too old, -ENODEV no such GPU in this process, -EXDEV the
 * current context is of another device. */
KVB_API int kvb_space_open(struct kvb *kvb, const struct kvb_space_params *params, struct kvb_space **ret);

/* One space of a group, for an engine whose KV is split over `ranks` devices: a key is found in any
 * of them only while all have sealed it. See KVB_MSG_SPACE_OPEN. Since 1.2. */
struct kvb_rank {
	uint64_t group; /* any number, the same for all ranks */
	uint32_t ranks; /* 1..KVB_RANKS_MAX */
	uint32_t rank;	/* 0..ranks-1 */
};
/* As kvb_space_open(); also -EINVAL: no such rank. NULL: no group. */
KVB_API int kvb_space_open_rank(struct kvb *kvb, const struct kvb_space_params *params,
				const struct kvb_rank *rank, struct kvb_space **ret);
/* -EBUSY while this connection holds pages or leases there. Magazine pages are given back. */
KVB_API int kvb_space_close(struct kvb_space *space);

struct kvb_space_info {
	uint32_t regions, pages_per_slab, slots, handles_per_region;
	uint64_t stride_bytes, handle_bytes, region_bytes;
	uint32_t slabs; /* mapped here now */
	uint32_t handle; /* kvb_sqe.space */
};
KVB_API void kvb_space_get_info(const struct kvb_space *space, struct kvb_space_info *ret);

/* A bit 1 << enum kvb_tier for each tier that pages of the space can be in. Since 1.2. */
KVB_API uint64_t kvb_space_tiers(const struct kvb_space *space);

/* Asks for memory for at least `pages` more pages and maps it; waits up to timeout_ns for memory that
 * has to be revoked from others. Returns pages gained (whole slabs), -ENOSPC, -EDQUOT, -ENOMEM; what
 * could not be mapped here is not counted, and if that is all, why it could not. */
KVB_API int64_t kvb_space_grow(struct kvb_space *space, uint64_t pages, uint64_t timeout_ns);
/* Asks to give about `pages` pages back; members have deadline_ns (0 = default). Returns pages on
 * their way out. The caller's own part completes in kvb_quiet_point(). */
KVB_API int64_t kvb_space_shrink(struct kvb_space *space, uint64_t pages, uint64_t deadline_ns);

/* First byte of region 0..regions-1; page p of region r is at kvb_region_base(r) + id * stride.
 * Device addresses on a GPU: the CPU must not touch them. */
KVB_API void *kvb_region_base(const struct kvb_space *space, uint32_t region);
KVB_API void *kvb_page_addr(const struct kvb_space *space, uint32_t region, kvb_page_t page);

/* Copies the first `bytes` bytes of a page's part in one region, from or to the CPU's memory, on any
 * kind of device, and returns when they are there. For tools, tests and CPU-side checks; an engine
 * copies on its own streams. -EINVAL out of bounds, -ENOENT the page's slab is not mapped here, or
 * the driver's error. Since 1.1. */
KVB_API int kvb_page_write(struct kvb_space *space, uint32_t region, kvb_page_t page, const void *from,
			   size_t bytes);
KVB_API int kvb_page_read(struct kvb_space *space, uint32_t region, kvb_page_t page, void *to, size_t bytes);

/* ---- one-call operations ------------------------------------------------------------------- */

/* Each returns operands done (as kvb_cqe.res), or a negative errno; n may be any number: what does
 * not fit one entry is sent in pieces. Slabs that wait to be mapped are mapped and the call goes on. */
KVB_API int64_t kvb_alloc(struct kvb_space *space, kvb_page_t *ret_pages, uint32_t n);
KVB_API int64_t kvb_free(struct kvb_space *space, const kvb_page_t *pages, uint32_t n);
/* ret_pages[i]: page now under the key of seals[i] (see SEAL); may be NULL. */
KVB_API int64_t kvb_seal(struct kvb_space *space, uint32_t ns, uint64_t epoch, uint64_t salt,
			 const struct kvb_seal *seals, kvb_page_t *ret_pages, uint32_t n);
/* ret_pages[0..res-1] are leased. ret_epoch may be NULL. */
KVB_API int64_t kvb_lookup(struct kvb_space *space, uint32_t ns, uint64_t salt,
			   const struct kvb_hash *hashes, kvb_page_t *ret_pages, uint32_t n,
			   uint64_t *ret_epoch);
/* Every resident key is leased, ret_pages has an entry a key; returns the leading run. */
KVB_API int64_t kvb_lookup_all(struct kvb_space *space, uint32_t ns, uint64_t salt,
			       const struct kvb_hash *hashes, kvb_page_t *ret_pages, uint32_t n,
			       uint64_t *ret_epoch);
/* The leading run of keys that are in any tier: returns its length, *ret_device how many at its start
 * are on the device. Those are leased, and named in ret_pages[0..*ret_device-1]. ret_pages[i] behind
 * them is KVB_PAGE_IN(tier) -- KVB_PAGE_TIER() reads it -- also where the device has it, and is not
 * leased. ret_epoch may be NULL. Since 1.2. */
KVB_API int64_t kvb_lookup_tiers(struct kvb_space *space, uint32_t ns, uint64_t salt,
				 const struct kvb_hash *hashes, kvb_page_t *ret_pages, uint32_t n,
				 uint32_t *ret_device, uint64_t *ret_epoch);
KVB_API int64_t kvb_release(struct kvb_space *space, const kvb_page_t *pages, uint32_t n);
KVB_API int64_t kvb_pin(struct kvb_space *space, const kvb_page_t *pages, uint32_t n);
KVB_API int64_t kvb_unpin(struct kvb_space *space, const kvb_page_t *pages, uint32_t n);
KVB_API int64_t kvb_hint(struct kvb_space *space, const kvb_page_t *pages, uint32_t n,
			 enum kvb_priority priority, uint32_t ttl_s); /* what a store has stays there beyond ttl_s */
/* These three set *ret_nothing_below (may be NULL) while the space has neither a host tier nor a
 * store below.
 *
 * Load brings the leading run of keys that are in any tier onto the device and waits for it, at most
 * 5 s and at most half of the connection's timeout_ns: returns its length, ret_pages[0..res-1] are
 * leased. It is shorter than a lookup promised where bytes did not come: a miss. Without a lower tier
 * it is kvb_lookup(). -ENOTCONN when the broker goes meanwhile: nothing is leased any more. */
KVB_API int64_t kvb_load(struct kvb_space *space, uint32_t ns, uint64_t salt, const struct kvb_hash *hashes,
			 kvb_page_t *ret_pages, uint32_t n, bool *ret_nothing_below);
/* Starts the same and does not wait: returns keys that are on the device or on their way. */
KVB_API int64_t kvb_prefetch(struct kvb_space *space, uint32_t ns, uint64_t salt,
			     const struct kvb_hash *hashes, uint32_t n, bool *ret_nothing_below);
/* Writes leased pages down and waits for it: returns pages that have a copy below. */
KVB_API int64_t kvb_store(struct kvb_space *space, const kvb_page_t *pages, uint32_t n,
			  bool *ret_nothing_below);

/* flags: KVB_NS_*. digest: identity of the cached bytes, 32 B. */
KVB_API int kvb_ns_open(struct kvb *kvb, const uint8_t digest[32], uint32_t flags, struct kvb_ns_info *ret);
/* With a store it waits for the drive. -EIO: the epoch has moved, *ret_epoch is the new one, but a
 * store could not record it: bump again, or what was ended may be found after a restart. */
KVB_API int kvb_epoch_bump(struct kvb *kvb, uint32_t ns, uint64_t *ret_epoch);
KVB_API int kvb_nop(struct kvb *kvb);

/* A page from the magazine, refilled when it runs low: nanoseconds. KVB_PAGE_NONE: none to be had. */
KVB_API kvb_page_t kvb_page_get(struct kvb_space *space);
/* Back to the magazine (pages of kvb_page_get() or kvb_alloc() that were not sealed). */
KVB_API void kvb_page_put(struct kvb_space *space, kvb_page_t page);

/* ---- the ring ------------------------------------------------------------------------------ */

/* user_data with bit 63 set is the library's own. */
#define KVB_USER_DATA_MAX (UINT64_MAX >> 1)

/* A zeroed entry, or NULL: the queue is full, or cq_entries are unreaped; submit and reap first. */
KVB_API struct kvb_sqe *kvb_get_sqe(struct kvb *kvb);
/* Makes every entry got so far visible, ringing the doorbell if needed. Returns how many. */
KVB_API int kvb_submit(struct kvb *kvb);
/* The next completion, or NULL. Valid until kvb_cqe_seen(). */
KVB_API const struct kvb_cqe *kvb_peek_cqe(struct kvb *kvb);
/* Waits up to timeout_ns (UINT64_MAX = for ever). 0, -ETIME, -ENOTCONN. */
KVB_API int kvb_wait_cqe(struct kvb *kvb, const struct kvb_cqe **ret, uint64_t timeout_ns);
KVB_API void kvb_cqe_seen(struct kvb *kvb);

/* The half of the operand area that is the ring user's, and its size; the wrappers use the other.
 * kvb_operand_offset() turns an address in it into kvb_sqe.operand, kvb_results() gives where the
 * daemon writes the results of operands at that offset. Operands are free again with the CQE. */
KVB_API void *kvb_operands(struct kvb *kvb, size_t *ret_bytes);
KVB_API uint32_t kvb_operand_offset(const struct kvb *kvb, const void *operand);
KVB_API const void *kvb_results(const struct kvb *kvb, uint32_t offset);
/* ---- fences -------------------------------------------------------------------------------- */

/* Fence word i of 0..KVB_FENCES-1, as the CPU sees it; NULL beyond. */
KVB_API struct kvb_fence *kvb_fence_word(struct kvb *kvb, uint32_t i);

/* A word that nobody uses, set to 0: its number, or -ENOSPC. Put back when no entry and no stream
 * waits for it any more. A word has one kind of use at a time, and its values only go up: the n-th use
 * waits for n. Since 1.2. */
KVB_API int kvb_fence_get(struct kvb *kvb);
KVB_API void kvb_fence_put(struct kvb *kvb, uint32_t fence);

/* Queues on a stream of the space's GPU (a CUstream or cudaStream_t, of the context the space was
 * opened in; NULL its default stream) that the word is set to value once all before it is done, or
 * that what follows waits until the word has reached value. Returns at once; no CPU waits. Stream
 * waits have no timeout. -EINVAL no such word; -EOPNOTSUPP the device has no streams; or the driver's
 * error. Since 1.2. */
KVB_API int kvb_fence_stream_write(struct kvb_space *space, void *stream, uint32_t fence,
				   uint64_t value);
KVB_API int kvb_fence_stream_wait(struct kvb_space *space, void *stream, uint32_t fence,
				  uint64_t value);

/* Whether the library set the word because the broker did not. From any thread. Since 1.2. */
KVB_API bool kvb_fence_failed(const struct kvb *kvb, uint32_t fence);

/* Waits up to timeout_ns for the end of the connection and then releases the words of LOADs: 0 it
 * stands, -ENOTCONN it does not, and they are released. From one other thread than the connection's,
 * which must not disconnect meanwhile; the connection's own calls notice for themselves. Since 1.2. */
KVB_API int kvb_fence_watch(struct kvb *kvb, uint64_t timeout_ns);

/* ---- filling entries ----------------------------------------------------------------------- */

/* Fills an entry from kvb_get_sqe(). operand: an address inside kvb_operands(). */
KVB_API void kvb_prep_nop(struct kvb_sqe *sqe);
KVB_API void kvb_prep_alloc(struct kvb_sqe *sqe, const struct kvb_space *space, uint32_t operand, uint32_t n);
KVB_API void kvb_prep_free(struct kvb_sqe *sqe, const struct kvb_space *space, uint32_t operand, uint32_t n);
KVB_API void kvb_prep_seal(struct kvb_sqe *sqe, const struct kvb_space *space, uint32_t ns, uint64_t epoch,
			   uint64_t salt, uint32_t operand, uint32_t n);
KVB_API void kvb_prep_lookup(struct kvb_sqe *sqe, const struct kvb_space *space, uint32_t ns, uint64_t salt,
			     uint32_t operand, uint32_t n, bool all);
/* Since 1.2: tiers, load (timeout 0: 5 s), prefetch, store. */
KVB_API void kvb_prep_lookup_tiers(struct kvb_sqe *sqe, const struct kvb_space *space, uint32_t ns,
				   uint64_t salt, uint32_t operand, uint32_t n);
KVB_API void kvb_prep_load(struct kvb_sqe *sqe, const struct kvb_space *space, uint32_t ns, uint64_t salt,
			   uint32_t operand, uint32_t n, uint64_t timeout_ns);
KVB_API void kvb_prep_prefetch(struct kvb_sqe *sqe, const struct kvb_space *space, uint32_t ns,
			       uint64_t salt, uint32_t operand, uint32_t n);
KVB_API void kvb_prep_store(struct kvb_sqe *sqe, const struct kvb_space *space, uint32_t operand,
			    uint32_t n);
KVB_API void kvb_prep_release(struct kvb_sqe *sqe, const struct kvb_space *space, uint32_t operand, uint32_t n);
KVB_API void kvb_prep_cancel(struct kvb_sqe *sqe, uint64_t user_data);
/* FREE and SEAL: run once fence word `fence` has reached `value`. LOAD: sets it to `value` when it is
 * over, however it ends. */
KVB_API void kvb_prep_fence(struct kvb_sqe *sqe, uint32_t fence, uint64_t value);

#ifdef __cplusplus
}
#endif
