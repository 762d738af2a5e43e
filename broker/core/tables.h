/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The state of the broker: flat tables in one memfd.
 *
 * Why flat: a restarted daemon maps the same memfd and goes on, so nothing in here is a pointer;
 * records name each other by index. Why one: its size is known at start and nothing is allocated
 * afterwards (I8). `struct core` (core.h) is the process's own view, with the tables' addresses.
 *
 * At four million pages a page costs 64 B for its record, 20 B for a lease, 6.5 B of index and
 * under 2 B for all the rest (`kvb-bench meta` measures it; at most 96). With a lower tier 4 B
 * more, for the checksum; pages there are never leased.
 *
 * A page's way:
 *
 *      grant               ALLOC               SEAL                 eviction, free of a stale page
 *   -> FREE ------------> FILLING ----------> SEALED -------------------------------> FREE
 *        ^ |               |  |                  leased by 0..n clients; in the policy's order
 *        | |  FREE, death  |  | client gone, its process alive       ^
 *        +-|---------------+  +-> QUARANTINE --- process dead ---> FREE
 *          +-- LOAD, or a page written down ---> ARRIVING -----------+ its bytes are there
 *
 * A lower tier is a space below a space: same tenant, no member, its slabs in a host arena instead
 * of on the device. So its pages have the same records, index, order and epochs. What is copied
 * between the two is a transfer; both its pages carry CORE_PAGE_BUSY until it is over, and neither
 * is reused before (I1). A page whose copy is below carries CORE_PAGE_BELOW, the copy
 * CORE_PAGE_ABOVE; they find each other by their key.
 *
 * The store (core.h) is the last tier: it keeps pages by key, outside of the tables. Pages go there
 * from, and come back to, the last memory, arena or host device, by transfers too; a page from it
 * that a GPU wants passes through the arena, in one transfer of two legs.
 *
 * A slab's way: FREE -> CREATING -> LIVE -> DRAINING -> CLOSING -> FREE. Only LIVE slabs hand out
 * pages. A slab leaves DRAINING when every page of it is free and every member that was sent its
 * memory has acknowledged unmapping it or is dead.
 */

#include <stdint.h>

#include "uapi/kvbroker.h"

#define CORE_NONE 0xffffffffu
#define CORE_NONE16 ((uint16_t)0xffff)
#define CORE_DEVICES_MAX 16u
#define CORE_SLOT_WORDS (KVB_SLOTS_MAX / 64)
#define CORE_TOUCHED 16u
#define CORE_DEVICE_NONE_BELOW 0xffu
#define CORE_UNIT_PAGES 64u /* page records are handed to slabs in runs of this many */

/* ---- pages --------------------------------------------------------------------------------- */

enum core_page_state {
	CORE_PAGE_FREE = 0,
	CORE_PAGE_FILLING,    /* held by `owner`, not yet under a key */
	CORE_PAGE_SEALED,     /* complete; under its key while CORE_PAGE_INDEXED */
	CORE_PAGE_QUARANTINE, /* held by a client that is gone but whose process may still write */
	CORE_PAGE_ARRIVING,   /* under its key, nobody's: a transfer brings its bytes */
};

#define CORE_PAGE_MAGAZINE (1u << 0) /* FILLING, and taken for a magazine */
#define CORE_PAGE_INDEXED (1u << 1)  /* the index leads here */
#define CORE_PAGE_LISTED (1u << 2)   /* the policy has it in its order */
#define CORE_PAGE_PINNED (1u << 3)   /* by an operator; clients pin through their lease */
#define CORE_PAGE_LOW (1u << 4)      /* hint: first to go */
#define CORE_PAGE_HIGH (1u << 5)     /* hint: passed over once */
#define CORE_PAGE_BUSY (1u << 6)     /* a transfer reads or writes it */
#define CORE_PAGE_BELOW (1u << 7)    /* indexed, and the space below has a copy */
#define CORE_PAGE_ABOVE (1u << 8)    /* in a lower tier: the copy of a page above */
#define CORE_PAGE_RIPE (1u << 9)     /* on its space's list of what goes next */
#define CORE_PAGE_FAILED (1u << 10)  /* its bytes did not arrive: it goes with its last lease */
#define CORE_PAGE_PENDING (1u << 11) /* of a group of which not every rank has the key: a miss */
#define CORE_PAGE_SPARE (1u << 12)   /* ABOVE, of a page that is in use: the first to go */
#define CORE_PAGE_OFFERED (1u << 13) /* to the store, which took it or not: it goes now */

/* One cache line, so that a lookup touches an index line and this. */
struct core_page {
	struct kvb_hash hash; /* with salt, ns, epoch: the key, while SEALED */
	uint64_t salt;
	uint32_t gen; /* never 0; changes when the page becomes free */
	uint32_t epoch;
	uint32_t prev; /* policy's order */
	uint32_t next;
	union {
		uint32_t lease; /* first struct core_lease of this page, while leases > 0 */
		uint32_t ahead; /* policy's hint otherwise: a record worth fetching with this one */
	};
	uint16_t ns;
	uint16_t owner;  /* client, while FILLING or QUARANTINE */
	uint16_t leases; /* lease records on this page = clients that lease or pin it */
	uint16_t flags;
	uint8_t state;
	uint8_t hits;      /* saturating */
	uint16_t depth;    /* block's position in its chain, saturating */
	uint32_t expire_s; /* hint: second after which it is a miss; 0 = never */
	uint32_t used_s;   /* second of its last release */
};
_Static_assert(sizeof(struct core_page) == 64, "a page record is one cache line");

/* A client's right to read a page; `count` holds in bit 15 whether the client pins the page. */
#define CORE_LEASE_PIN 0x8000u
#define CORE_LEASE_COUNT_MAX 0x7fffu
struct core_lease {
	uint32_t page;
	uint32_t page_next; /* other leases of the page; also the free list */
	uint32_t client_prev;
	uint32_t client_next;
	uint16_t client;
	uint16_t count;
};
_Static_assert(sizeof(struct core_lease) == 20, "lease size");

/* ---- prefix index (index.h) ---------------------------------------------------------------- */

#define CORE_GROUP_SLOTS 12
/* One cache line: twelve tags beside the pages they stand for, probed with one compare. */
struct core_group {
	uint8_t tag[CORE_GROUP_SLOTS]; /* 0 = empty */
	uint16_t passed; /* keys that found this group full and went on; saturates for good */
	uint16_t resv;
	uint32_t page[CORE_GROUP_SLOTS];
};
_Static_assert(sizeof(struct core_group) == 64, "an index group is one cache line");

/* ---- memory -------------------------------------------------------------------------------- */

enum core_slab_state {
	CORE_SLAB_FREE = 0,
	CORE_SLAB_CREATING, /* the device is asked for its handles */
	CORE_SLAB_LIVE,
	CORE_SLAB_DRAINING, /* being revoked */
	CORE_SLAB_CLOSING,  /* empty and unmapped; the device is asked to take it back */
};

struct core_slab {
	uint32_t base; /* first page record */
	uint32_t pages;
	uint32_t free;
	uint32_t held; /* FILLING */
	uint32_t quarantined;
	uint32_t sealed;
	uint32_t arriving;
	uint32_t hint;  /* word of the free bitmap below which nothing is free */
	uint32_t drain; /* page at which draining goes on */
	uint16_t space;
	uint16_t slot;
	uint16_t mapped; /* members that were sent its memory and have not given it up */
	uint16_t todo_next;
	uint8_t state;
	uint8_t todo;    /* on the list of slabs the device has work for */
	uint8_t retired; /* its memory is bad: nothing is read from it that need not be */
	uint8_t resv;
	uint64_t deadline_ns; /* DRAINING: when the revocation policy acts */
	uint64_t grace_ns;
};

struct core_space {
	uint8_t used;
	uint8_t device;
	uint16_t tenant;
	uint32_t regions;
	uint64_t stride_bytes;
	uint64_t tag;
	uint64_t group; /* group.c */
	uint32_t ranks; /* of the group; 1: none. Lower tiers: of the space above */
	uint32_t rank;
	uint64_t handle_bytes;
	uint32_t handles_per_region;
	uint32_t pages_per_slab;
	uint32_t slots;
	uint32_t slabs;      /* in any state but FREE */
	uint64_t slab_bytes; /* charged a slab: regions * handles_per_region * handle_bytes */
	uint32_t pages;      /* in LIVE slabs */
	uint32_t pages_free;
	uint16_t member; /* first member */
	uint16_t members;
	uint32_t cold; /* policy's order: next victim */
	uint32_t hot;  /* policy's order: last released */
	uint32_t listed;
	uint16_t below;      /* space of the next tier; CORE_NONE16 */
	uint16_t above;      /* in a lower tier: the space it is below */
	uint32_t ripe_first; /* what goes next, in order, most of it with a copy below */
	uint32_t ripe_last;
	uint32_t ripe;
	uint32_t creating;     /* slabs that the device was asked for */
	uint64_t asked_ns;     /* when it was last asked */
	uint32_t hungry_s;     /* in a lower tier: second in which it was last refused a slab; 0 */
	uint32_t falling;      /* transfers down from here */
	uint32_t rising;       /* transfers up to here */
	uint32_t touched_next; /* in touched[] */
	uint32_t touched[CORE_TOUCHED]; /* policy: pages that last entered its order */
	uint64_t used_ns;               /* last time a member allocated or looked up */
	uint64_t evictions;
	uint64_t live[CORE_SLOT_WORDS];     /* slots with a LIVE slab */
	uint64_t has_free[CORE_SLOT_WORDS]; /* of those, with a free page */
	uint16_t slab_of_slot[KVB_SLOTS_MAX];
};

enum core_device_state { CORE_DEVICE_NONE = 0, CORE_DEVICE_READY };

/* A device of this kind is a host arena: no client opens it, spaces below have their slabs there.
 */
#define CORE_KIND_ARENA 0x100u

struct core_device {
	uint8_t state;
	uint8_t below;       /* device index of its arena; CORE_DEVICE_NONE_BELOW */
	uint8_t below_ready; /* transfers between the two can be made now */
	uint8_t draining;    /* an operator empties it: no slab is made or stays */
	uint32_t kind;       /* enum kvb_device_kind */
	uint32_t ordinal;
	uint32_t slabs;
	uint64_t capacity_bytes;
	uint64_t handle_bytes;
	uint64_t granted_bytes;  /* charged to tenants: CREATING..CLOSING */
	uint64_t draining_bytes; /* of those, on their way back */
	uint64_t evictions;
	uint64_t grants;
	uint64_t revocations;
	uint64_t demoted, demoted_bytes;   /* written down to its arena */
	uint64_t promoted, promoted_bytes; /* brought up from there */
	uint64_t dropped;                  /* evicted without a copy below */
	uint64_t transfers_failed;
	uint64_t checksum_misses;  /* of those: what came up was not what went down */
	uint64_t retired;          /* slabs whose memory was bad */
	char name[KVB_NAME_BYTES]; /* "host:0" */
};

/* ---- transfers ----------------------------------------------------------------------------- */

enum core_transfer_state {
	CORE_TRANSFER_FREE = 0,
	CORE_TRANSFER_QUEUED, /* until core_next_transfer() gives it out */
	CORE_TRANSFER_FLIGHT, /* until core_transfer_done() */
};

enum core_direction { CORE_UP = 0, CORE_DOWN = 1 };

/*
 * A copy of one page between a space and the space below it, or between a page and the store. What
 * comes from the store to a space above an arena has a page there too: `store` is set until that is
 * filled, and then the transfer goes on as any other.
 */
struct core_transfer {
	uint32_t from; /* page records; both BUSY. CORE_NONE: the store */
	uint32_t to;
	uint32_t sum; /* of the bytes: from an arena, what they must have */
	uint16_t next;
	uint8_t state;
	uint8_t direction;
	uint8_t device; /* of the upper space */
	uint8_t store;  /* it is the store's to carry out */
	uint8_t resv[6];
	uint64_t since_ns;
};

struct core_queue {
	uint16_t first, last; /* CORE_NONE16 */
};

/* ---- who ----------------------------------------------------------------------------------- */

struct core_budget {
	uint64_t min_bytes;      /* kept for the tenant, never lent */
	uint64_t high_bytes;     /* above it the tenant is the first to be revoked from */
	uint64_t max_bytes;      /* never exceeded */
	uint64_t used_bytes;     /* slabs of its spaces */
	uint64_t draining_bytes; /* of those, on their way back */
	uint64_t claim_bytes;    /* revoked from others for this tenant and not yet granted */
	uint64_t claim_until_ns; /* after that anybody may have it */
	uint32_t weight;         /* share of what is above the minima */
	uint32_t resv;
};

struct core_tenant {
	uint8_t used;
	uint8_t resv[3];
	uint32_t uid;
	char name[KVB_NAME_BYTES];
	uint32_t clients;
	uint32_t pages_held; /* FILLING or QUARANTINE */
	uint32_t transfers;  /* of its spaces */
	uint32_t resv1;
	uint64_t leases; /* lease records of its clients */
	uint64_t pins;
	uint64_t lookups, lookup_keys, lookup_hits;
	uint64_t allocs, evictions, seals, refusals;
	struct core_budget budget[CORE_DEVICES_MAX];
};

enum core_client_state {
	CORE_CLIENT_FREE = 0,
	CORE_CLIENT_ATTACHED,
	CORE_CLIENT_LEAVING, /* socket gone, process not yet seen dead: its pages are quarantined */
	CORE_CLIENT_DEAD,    /* process dead: everything goes back */
};

struct core_client_ns {
	uint16_t ns;
	uint16_t flags; /* KVB_NS_* granted */
};

struct core_client {
	uint8_t state;
	uint8_t reaping; /* rights ended; core_work() has something left to take back */
	uint16_t tenant;
	uint32_t uid;
	int32_t pid;
	uint32_t leases; /* lease records */
	uint32_t leases_max;
	uint32_t pins;
	uint32_t held; /* FILLING and QUARANTINE pages */
	uint32_t lease_first;
	uint32_t reap_slot; /* where reaping goes on: member index * KVB_SLOTS_MAX + slot */
	uint32_t resv;
	uint64_t opened_ns;
	uint64_t closed_ns; /* first notice of its end */
	char name[KVB_NAME_BYTES];
	uint16_t member[KVB_SPACES_MAX]; /* by the client's handle; CORE_NONE16 = closed */
	struct core_client_ns ns[KVB_NS_MAX];
};

/* A client in a space. */
struct core_member {
	uint8_t used;
	uint8_t recall; /* its magazine is to be called back */
	uint8_t todo;
	uint8_t resv;
	uint16_t client;
	uint16_t space;
	uint16_t handle; /* index in core_client.member */
	uint16_t space_next;
	uint16_t todo_next;
	uint16_t resv1;
	uint32_t held;
	uint32_t magazine; /* of held: taken for the magazine */
	uint32_t leases;   /* lease records on pages of this space */
	uint64_t recalled_ns;
	uint64_t sent[CORE_SLOT_WORDS];    /* memory it has been sent and may have mapped */
	uint64_t acked[CORE_SLOT_WORDS];   /* of those, acknowledged: it may be given pages there */
	uint64_t refused[CORE_SLOT_WORDS]; /* of sent: it could not map them and does without */
	uint64_t revoke[CORE_SLOT_WORDS];  /* of sent: to be told that the slab is revoked */
	uint32_t held_in[KVB_SLOTS_MAX];   /* pages held a slot: its death looks only there */
	uint32_t leases_in[KVB_SLOTS_MAX]; /* lease records a slot: what RECLAIM_ACK asks for */
};

struct core_ns {
	uint8_t used;
	uint8_t resv[3];
	uint16_t tenant;
	uint16_t refs; /* clients that have it open */
	uint32_t epoch;
	uint32_t pages;         /* sealed under any epoch */
	uint32_t pages_current; /* of those, under `epoch` */
	uint32_t resv1;
	uint8_t digest[32];
	uint64_t lookups, lookup_keys, lookup_hits, stale_seals;
	uint64_t used_ns;
};

/* ---- the memfd ----------------------------------------------------------------------------- */

struct core_limits {
	uint32_t pages;
	uint32_t leases; /* 0 = as many as pages */
	uint32_t slabs;
	uint32_t spaces;
	uint32_t clients;
	uint32_t members;
	uint32_t tenants;
	uint32_t namespaces;
	uint32_t transfers; /* in flight at once; 0: there is no lower tier */
};

struct core_counters {
	uint64_t allocs, alloc_pages, alloc_short;
	uint64_t frees, seals, seal_dups;
	uint64_t lookups, lookup_keys, lookup_hits;
	uint64_t releases, evictions, stale_swept;
	uint64_t clients_opened, clients_reaped;
	uint64_t grants, revocations, revocations_overdue;
	uint64_t lookup_below; /* keys that LOOKUP found in a lower tier only */
	uint64_t loads, load_keys, load_hits, load_failed;
	uint64_t stored, stored_bytes;   /* pages written to the store */
	uint64_t fetched, fetched_bytes; /* and read from it */
	uint64_t store_lost;             /* it was said to have them, and they did not come */
	uint64_t store_refused;          /* they were to be written, and were not */
	uint64_t store_unwanted;         /* admission kept them out */
};

#define CORE_STATE_MAGIC 0x6574617473425652ull
#define CORE_STATE_VERSION 3u

/* Offsets are bytes from the start of the memfd. */
struct core_header {
	uint64_t magic;
	uint32_t version;
	uint32_t groups; /* index groups */
	uint64_t bytes;
	uint64_t boot_id;
	uint64_t secret[4]; /* of this boot; keys the index */
	struct core_limits limits;
	uint64_t off_pages, off_leases, off_groups, off_free, off_units, off_unit_used;
	uint64_t off_slabs, off_spaces, off_clients, off_members, off_tenants, off_namespaces;
	uint64_t off_transfers, off_sums;
	uint64_t now_ns;
	uint32_t lease_free; /* free list through page_next */
	uint32_t leases_used;
	uint32_t lease_fresh; /* records at and above were never used */
	uint32_t indexed;
	uint16_t slab_todo;
	uint16_t member_todo;
	uint32_t clients_reaping;
	uint32_t tenants_used;
	uint32_t epoch_floor; /* no namespace that is gone was in a later epoch */
	uint32_t slabs_draining;
	uint32_t slabs_undrained; /* of those, with pages that core_work() has not come to */
	uint32_t sweep_page;      /* where the sweep for stale pages goes on */
	uint32_t sweep_left;      /* records it still has to visit; 0 = at rest */
	uint32_t gen_floor;       /* no page record of a closed slab had a higher generation */
	uint32_t units_high;      /* units at and above were never used */
	uint64_t pages_stale;     /* sealed, of a past epoch */
	uint64_t base_ns;         /* second 1 of used_s and expire_s */
	uint16_t transfer_free;   /* free list through next */
	uint16_t transfers_used;
	uint32_t spaces_ripening; /* a space may be short of pages that can go: core_work() looks */
	struct core_queue queue[CORE_DEVICES_MAX][2]; /* by device and enum core_direction */
	struct core_queue store_queue[2];
	uint32_t writing_out; /* before the end: all goes, to the store if it is wanted there */
	uint32_t resv;
	struct core_counters n;
	struct core_device device[CORE_DEVICES_MAX];
};
