/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The stats segment: what operators read without asking the daemon.
 *
 * A file `stats` in the state directory, mapped by the daemon; readers map it read-only (an admin
 * connection is given a read-only fd of it). The daemon copies a snapshot of the core into it at
 * most every 100 ms while there is work, and before it answers an admin. A sequence lock guards it:
 * odd while it is written; a reader that saw it odd or changed reads again.
 *
 * Sizes are bytes, times nanoseconds of CLOCK_MONOTONIC. Arrays are `*_n` long. Read by broker-ctl
 * and the exporter through stats_read.h; the layout carries a version and may change with it.
 */

#include <stdbool.h>
#include <stdint.h>

#include "broker/core/core.h"
#include "broker/store/store.h"

#define STATS_MAGIC 0x737461747642564bull
#define STATS_VERSION 7u
#define STATS_SPACES_MAX 256u
#define STATS_CLIENTS_MAX 1024u
#define STATS_TENANTS_MAX 256u
#define STATS_NAMESPACES_MAX 256u
#define STATS_NONE 0xffffffffu
#define STATS_RECLAIM_BUCKETS 16u
#define STATS_RECLAIM_BOUND_NS(bucket) (100000ull << (bucket)) /* 0.1 ms to 3.3 s, doubling */

/* Whether an operator has the device emptied: not, being emptied, empty and nobody's. */
enum stats_drain { STATS_DRAIN_NOT = 0, STATS_DRAIN_GOES, STATS_DRAIN_DONE };

/*
 * A device, or the host arena below some: kind tells (CORE_KIND_ARENA). Indices are the core's, so
 * budgets and spaces name both alike; an arena has the figures of its tier and no driver.
 */
struct stats_device {
	char name[KVB_NAME_BYTES];
	char driver[16];     /* "host", "cuda" */
	char model[64];      /* "" where there is none */
	char pci[16];        /* address of a GPU; "" */
	char why[256];       /* of failed */
	char warning[160];   /* what will not go well; "" */
	char below_why[256]; /* of a tier below that is not ready */
	uint32_t kind, ordinal;
	int32_t node;      /* NUMA node it is on, or near; -1: not known */
	int32_t owner_pid; /* process that keeps its memory; 0: the daemon does, or none runs */
	int32_t mover_pid; /* process that copies its pages; 0: none runs */
	uint32_t mover_restarts; /* how often another one was started */
	uint32_t failed;         /* it gives no memory now, for the reason in why */
	uint32_t below;          /* index of the arena below; STATS_NONE */
	uint32_t below_ready;    /* pages can go there and come back now */
	uint32_t ripe;           /* pages next to go */
	uint32_t drain;          /* enum stats_drain */
	uint32_t memory_known;   /* the next line is */
	uint64_t capacity_bytes, granted_bytes, draining_bytes, handle_bytes;
	uint64_t unused_bytes, others_bytes; /* of the GPU: nobody's; taken by others */
	uint64_t warm_bytes;                 /* made ahead of need, granted to nobody */
	uint64_t held_bytes, sealed_bytes, arriving_bytes,
		free_bytes; /* of granted; pages of live and draining slabs */
	uint64_t pages, pages_free;
	uint64_t evictions, grants, revocations;
	uint32_t slabs, spaces;
	/* between it and the tier below; of an arena: of all devices above it */
	uint64_t flights; /* copies queued or under way */
	uint64_t demoted, demoted_bytes, promoted, promoted_bytes;
	uint64_t dropped; /* evicted without a copy below */
	uint64_t transfers_failed;
	uint64_t checksum_misses; /* of those */
	uint64_t retired;         /* slabs whose memory was bad */
	/* of an arena: its memory that is there, and of that, what lies on another node, and on
	 * huge pages set aside and transparent ones */
	uint64_t filled_bytes, misplaced_bytes, hugetlb_bytes, thp_bytes;
	int32_t unplaced_error; /* 0, or -errno: the system refuses to place it */
	int32_t unseen_error;   /* or to tell where it is: misplaced_bytes is less than is */
};

struct stats_tenant {
	char name[KVB_NAME_BYTES];
	uint32_t uid, clients, pages_held, index; /* index: what the others call it by */
	uint64_t leases, pins;
	uint64_t lookups, lookup_keys, lookup_hits, allocs, evictions, seals, refusals;
	struct core_budget budget[CORE_DEVICES_MAX];
};

struct stats_client {
	char name[KVB_NAME_BYTES];
	uint32_t id, state, tenant, uid;
	int32_t pid;
	uint32_t leases, leases_max, pins, held, magazine, spaces; /* held, magazine: pages */
	uint64_t held_bytes;
	uint64_t opened_ns;
	uint64_t entries, invalid; /* ring */
	uint32_t hot;              /* its ring is polled */
	uint32_t sq_fill, cq_fill; /* entries waiting for the daemon, for the client */
	uint32_t resv;
};

struct stats_space {
	uint32_t id, device, tenant, regions;
	uint64_t stride_bytes, tag, slab_bytes;
	uint32_t pages_per_slab, slots, slabs, members;
	uint32_t pages, pages_free, listed;
	uint32_t below, above; /* ids of the spaces in the tiers next to it; STATS_NONE */
	uint32_t ripe, falling, rising;
	uint32_t rank, ranks; /* of its group; ranks 1: it is in none */
	uint32_t resv;
	uint64_t group;
	uint64_t evictions, used_ns;
};

struct stats_namespace {
	uint8_t digest[32];
	uint32_t id, tenant, refs, epoch, pages, pages_current;
	uint64_t lookups, lookup_keys, lookup_hits, stale_seals, used_ns;
};

struct stats_segment {
	uint64_t magic;
	uint32_t version;
	uint32_t seq; /* sequence lock */
	uint64_t bytes;
	int32_t pid;    /* of the daemon */
	uint32_t ready; /* 0 starting, 1 ready, 2 draining, 3 stopped */
	uint64_t boot_id;
	uint64_t features; /* KVB_FEAT_*: what engines can have */
	uint64_t started_ns, published_ns;
	char daemon_version[32];
	char engine[16]; /* event loop */
	char policy[16];
	char policy_summary[96];
	char state_dir[256];              /* where this file is; "" if that is too long */
	uint64_t files_needed, files_max; /* open files: with every client and slab; allowed */
	struct core_counters n;
	uint64_t turns, sleeps, accepted, refused, protocol_errors, attach_timeouts, kicked,
		log_dropped;
	uint64_t state_bytes;
	uint32_t pages_max, indexed, leases_used, leases_max;
	uint64_t pages_stale;
	uint32_t reaping, draining;
	/* ends of clients: from the daemon's first notice to charges zero, last 1024, ns */
	uint32_t reclaim_n, resv;
	uint64_t reclaim_total;
	uint64_t reclaim_ns[1024];
	/* the same ends since start: as many took no longer than the bound of the bucket, and more
	 * than that of the one before; what took longer than all is in the total alone */
	uint64_t reclaim_sum_ns, reclaim_bucket[STATS_RECLAIM_BUCKETS];
	uint32_t devices_n, tenants_n, clients_n, spaces_n, namespaces_n,
		resv1; /* devices: arenas too */
	struct stats_device device[CORE_DEVICES_MAX];
	struct stats_tenant tenant[STATS_TENANTS_MAX];
	struct stats_client client[STATS_CLIENTS_MAX];
	struct stats_space space[STATS_SPACES_MAX];
	struct stats_namespace ns[STATS_NAMESPACES_MAX];
	struct store_stats store; /* no parts: there is none */
	uint32_t store_filtered;  /* written there is what was wanted twice */
	uint32_t resv2;
};

struct server;
struct stats;

int stats_open(struct server *s); /* sets s->stats; makes STATE_DIR/stats */
void stats_close(struct server *s);
void stats_publish(struct server *s); /* now */
void stats_turn(struct server *s);    /* if it is time */
void stats_reclaimed(struct server *s, uint64_t ns);
int stats_reader_fd(const struct server *s); /* a new O_RDONLY fd for an admin; -errno */
void stats_fill_devices(const struct server *s, struct stats_segment *seg); /* stats_devices.c */
