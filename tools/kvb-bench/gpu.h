/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What the parts of `kvb-bench gpu` share.
 *
 * A driver that was initialised does not survive fork(), and a figure needs clients, peers and
 * kernels in processes of their own. So the benchmark's process never calls the driver: it starts
 * the daemons and runs one stage after the other, each a child that opens the device, measures, and
 * writes its figures into memory that all share. A stage that dies leaves its figures unset.
 *
 * The floor of a figure is measured by the same process, between two slices of the figure, over the
 * same driver: memory of its own on the device, memory of its own on the node next to it.
 *
 * All of it runs over any driver. Over the stand-in, which copies with the processor and runs no
 * kernels, the figures mean nothing and those of kernels are not there.
 */

#include "cuda_driver/cuda_api.h"
#include "tools/kvb-bench/bench.h"

/* ---- what is measured (gpu.c) -------------------------------------------------------------- */

/* Key, words for people. In the order they are told. NaN: there is none. */
#define GPU_FIGURES(X)                                                                             \
	X(grow_per_layer_gib_s, "a slab of 32 regions, from GROW to pages mapped here, median")    \
	X(grow_per_layer_first_gib_s, "the first one of a daemon")                                 \
	X(grow_per_layer_burst_gib_s, "all that is revoked later, asked for at once")              \
	X(bare_map_per_layer_gib_s, "the same handles, made before: import, map, access")          \
	X(grow_per_layer_slab_mib, "")                                                             \
	X(grow_packed_gib_s, "a slab of 64 MiB in one region, median")                             \
	X(grow_packed_first_gib_s, "the first one")                                                \
	X(grow_packed_burst_gib_s, "many of them asked for at once")                               \
	X(bare_map_packed_gib_s, "the same handles, made before: import, map, access")             \
	X(revoke_ms, "from SHRINK until all is unmapped and given back, per layer")                \
	X(bare_unmap_ms, "the same handles: unmap, release of the import")                         \
	X(revoke_ratio, "revoke / bare")                                                           \
	X(revoke_bytes, "")                                                                        \
	X(fence_us_p50, "a stream's write until the completion of the FREE that waited for it")    \
	X(fence_us_p99, "")                                                                        \
	X(fence_floor_us_p50, "a stream's write, another process's stream waits and answers")      \
	X(fence_floor_cpu_us_p50, "a stream's write, another process's CPU spins and answers")     \
	X(bare_down_gb_s, "one big pinned copy, to the host")                                      \
	X(bare_up_gb_s, "to the device")                                                           \
	X(bare_copy_gb_s, "the mean of the two")                                                   \
	X(bare_duplex_gb_s, "both ways at once, sum")                                              \
	X(demote_gb_s, "STORE of pages of 2 MiB, checksums on")                                    \
	X(demote_ratio, "/ bare_down_gb_s")                                                        \
	X(promote_gb_s, "LOAD of them, checksums compared")                                        \
	X(promote_ratio, "/ bare_up_gb_s")                                                         \
	X(duplex_gb_s, "STORE and LOAD at once, sum")                                              \
	X(duplex_ratio, "/ bare_duplex_gb_s")                                                      \
	X(demote_unchecked_gb_s, "without checksums")                                              \
	X(demote_unchecked_ratio, "/ bare_down_gb_s of that run")                                  \
	X(promote_unchecked_gb_s, "without checksums")                                             \
	X(promote_unchecked_ratio, "/ bare_up_gb_s of that run")                                   \
	X(duplex_unchecked_gb_s, "without checksums")                                              \
	X(duplex_unchecked_ratio, "/ bare_duplex_gb_s of that run")                                \
	X(adjacent_down_gb_s, "one chain, 32 regions of 64 KiB, ids side by side: STORE")          \
	X(adjacent_up_gb_s, "LOAD of it")                                                          \
	X(bare_chain_down_gb_s, "one copy of as many bytes")                                       \
	X(bare_chain_up_gb_s, "")                                                                  \
	X(adjacent_ratio, "the smaller of the two")                                                \
	X(adjacent_run_pages, "of the chain, ids that follow each other, mean")                    \
	X(scattered_down_gb_s, "the same chain, no two ids side by side: STORE")                   \
	X(scattered_up_gb_s, "LOAD of it")                                                         \
	X(bare_batch_scattered_down_gb_s, "the same fragments by the driver's batch copy")         \
	X(bare_batch_scattered_up_gb_s, "")                                                        \
	X(scattered_ratio, "the smaller of the two")                                               \
	X(adjacent_unchecked_ratio, "side by side, checksums off")                                 \
	X(scattered_unchecked_ratio, "scattered, checksums off")                                   \
	X(chain_pages, "")                                                                         \
	X(mover_cpu_cores, "processors that the mover takes while it copies, checksums off")       \
	X(mover_cpu_checked_cores, "checksums on")                                                 \
	X(checksum_gb_s_core, "one thread, from memory")                                           \
	X(interference_memory, "slow-down of a memory-bound kernel beside the mover, worst")       \
	X(interference_memory_checked, "checksums on")                                             \
	X(interference_memory_unchecked, "checksums off")                                          \
	X(kernel_memory_alone_us, "a launch of it alone, median")                                  \
	X(kernel_memory_beside_us, "beside the mover, checksums on")                               \
	X(kernel_memory_beside_unchecked_us, "checksums off")                                      \
	X(interference_compute, "slow-down of a compute-bound kernel beside the mover, worst")     \
	X(interference_compute_checked, "checksums on")                                            \
	X(interference_compute_unchecked, "checksums off")                                         \
	X(kernel_compute_alone_us, "a launch of it alone, median")                                 \
	X(kernel_compute_beside_us, "beside the mover, checksums on")                              \
	X(kernel_compute_beside_unchecked_us, "checksums off")                                     \
	X(interference_mover_gb_s, "what the mover moved meanwhile, both ways")

#define GPU_FIGURE_FIELD(key, what) double key;
struct gpu_figures {
	GPU_FIGURES(GPU_FIGURE_FIELD)
};
#undef GPU_FIGURE_FIELD

/* Sizes, by the memory of the device. */
struct gpu_plan {
	bool small;
	uint64_t grow_bytes; /* the daemon's device while growth is measured */
	uint64_t move_bytes; /* while copies are */
	uint64_t tier_bytes; /* its host tier */
	uint64_t revoke_bytes;
	uint64_t set_bytes;  /* one way in a round */
	uint64_t copy_bytes; /* the big copy */
	uint32_t packed_slabs;
	uint32_t chain_pages;
	uint32_t rounds;
	uint32_t fences;
	uint64_t slice_ns; /* of a kernel beside the mover */
};

struct gpu_bench;

/* Stages over one daemon. */
struct gpu_group {
	const char *what;
	uint64_t device_bytes, tier_bytes; /* 0: no tier */
	bool sums;
	void (*stages)(struct gpu_bench *b);
};

struct gpu_bench {
	const struct bench_options *o;
	struct gpu_plan plan;
	const struct gpu_group *group;
	struct gpu_figures *fig; /* shared */
	struct broker broker;    /* the daemon at hand */
	bool sums;               /* its mover makes checksums */
};

#define GPU_REGIONS 32u
#define GPU_LAYER_STRIDE (64ull << 10) /* of a page in one of 32 regions: 2 MiB in all */
#define GPU_PACKED_STRIDE (2ull << 20)
#define GPU_SLAB_STRIDE (64ull << 20) /* makes slabs of 64 MiB */

void gpu_say(const char *fmt, ...) __attribute__((format(printf, 1, 2))); /* progress, to stderr */
double gpu_gb_s(uint64_t bytes, double ns);                               /* 10^9 bytes */
double gpu_gib_s(uint64_t bytes, double ns);                              /* 2^30 bytes */
/* Index in the stats of the device that is measured. */
uint32_t gpu_stats_device(const struct gpu_bench *b, const struct stats_segment *seg);

/* Stages, each in a child. */
void gpu_grow(struct gpu_bench *b);
void gpu_fence(struct gpu_bench *b);
void gpu_move(struct gpu_bench *b);
void gpu_layer(struct gpu_bench *b);
void gpu_checksum(struct gpu_bench *b);
void gpu_beside(struct gpu_bench *b);

/* ---- the driver (gpu_card.c) --------------------------------------------------------------- */

enum card_direction { CARD_UP = 0, CARD_DOWN = 1 };

/* A device as this process has it open, with its primary context current. Never closed. */
struct card {
	const struct cuda_api *api;
	const struct cuda_stream_api *streams;
	cu_device device;
	cu_context context;
	uint64_t granularity_bytes;
	int node;            /* of the host, next to it; 0 where that is not known */
	cu_stream stream[2]; /* by direction */
};

struct card_memory {
	void *host;        /* known to the driver */
	cu_address device; /* as large */
	uint64_t bytes;
};

void card_open(uint32_t ordinal, struct card *ret);
/* What the driver said; dies unless all is well. */
void card_check(const char *call, enum cu_result result);
/* Allocations as the owner makes them. */
struct cu_allocation card_allocation(const struct card *c);
cu_address card_reserve(const struct card *c, uint64_t bytes);
void card_access(const struct card *c, cu_address at, uint64_t bytes);
cu_address card_device_memory(const struct card *c, uint64_t bytes);
/* Memory of the node next to the device, as a host tier has it; bytes is a power of two. */
void *card_host_memory(const struct card *c, uint64_t bytes);
void card_memory(const struct card *c, uint64_t bytes, struct card_memory *ret);
/* `times` whole copies, one after the other, of each direction that has memory; ns until all are
 * done. */
uint64_t card_copy_ns(const struct card *c, const struct card_memory *up,
		      const struct card_memory *down, uint64_t times);
/* Fragments in one direction by the batch copy, or one by one where the driver has none. */
struct card_fragments {
	cu_address *to, *from;
	size_t *bytes;
	size_t n;
};
uint64_t card_batch_ns(const struct card *c, enum card_direction direction,
		       const struct card_fragments *f);
/* A symbol of the driver that the broker has no use for; false: this driver lacks it. */
bool card_symbol(const char *name, void *ret_call);

/* ---- pages that go down and come up (gpu_rig.c) -------------------------------------------- */

/* A client whose space is full of pages, all of them written down and brought up again by turns. */
struct rig {
	struct client client;
	uint32_t regions;
	uint64_t page_bytes; /* all regions */
	uint32_t n;          /* pages of the space */
	kvb_page_t *page;    /* held, or leased */
	kvb_page_t *got;
	struct kvb_seal *seal;
	struct kvb_hash *hash;
	struct kvb_hash *above;   /* of rig_exchange_ns() */
	uint64_t generation;      /* of keys */
	struct kvb_ns_info ns[2]; /* of odd and even ones */
};

/* `bytes` of space, or a whole number of slabs just above. */
void rig_open(struct gpu_bench *b, uint32_t regions, uint64_t stride_bytes, uint64_t bytes,
	      struct rig *ret);
void rig_close(struct rig *r);
/* Writes pages down until the space below has grown to n pages: what is written later displaces
 * nothing that is wanted yet. */
void rig_warm(struct gpu_bench *b, struct rig *r, uint32_t n);
void rig_alloc(struct rig *r, uint32_t n); /* page[0..n) */
void rig_alloc_all(struct rig *r);         /* evicts what is there */
void rig_evict_all(struct rig *r);         /* and frees: the device is empty */
/* Gives page[0..n) the next generation of keys, hash[0..n); the pages stay leased. */
void rig_seal(struct rig *r, uint32_t n);
/* Each ns until all are done. page[0..n) down; hash[0..n) up, into got[0..n), leased. `per` pages
 * an entry. */
uint64_t rig_store_ns(struct rig *r, uint32_t n, uint32_t per);
uint64_t rig_load_ns(struct rig *r, uint32_t n, uint32_t per);
/*
 * Half of the pages down under new keys, while the half that was sealed last, and has been written
 * down, comes up: ns of that, both ways at once. All else that a round needs is in it, not timed.
 */
uint64_t rig_exchange_ns(struct rig *r);
/* Writes, and looks for, a text of this page's own at its beginning: that a copy was one. */
void rig_mark(struct rig *r, uint32_t region, kvb_page_t page, uint64_t what);
void rig_verify(struct rig *r, uint32_t region, kvb_page_t page, uint64_t what);

/* ---- kernels (gpu_kernel.c) ---------------------------------------------------------------- */

enum kernel_kind { KERNEL_MEMORY = 0, KERNEL_COMPUTE, KERNEL_KINDS };

struct kernels;
/* NULL: this driver runs none. */
struct kernels *kernels_open(const struct card *c, uint64_t bytes);
/* Mean nanoseconds of a launch, launched back to back for about slice_ns. */
double kernels_run_ns(struct kernels *k, enum kernel_kind kind, uint64_t slice_ns);
