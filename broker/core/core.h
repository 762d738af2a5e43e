/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The core: who holds which page, as a deterministic state machine over the tables of tables.h.
 *
 * It makes no syscall, reads no clock and allocates nothing after core_init() (I8): time comes in
 * by core_set_time(), results of the device and deaths of peers by calls, and what it wants done
 * outside it says through two lists the caller empties, core_next_slab() and core_next_member().
 * The daemon, the simulator, the tests and `kvb-replay --sim` all drive this same code. One thread.
 *
 * Arguments of page, namespace and space functions are what a client wrote, already copied to
 * private memory: they are checked here and never asserted. Arguments that the caller made itself
 * (client, member and slab indices) are asserted.
 *
 * Errors: 0 or a count; -errno is what the client is told. Batches: see struct core_batch.
 *
 * Who may call: broker/ops for clients' requests, broker/io for lives and deaths, broker/admin for
 * operators, broker/policy for the tables.
 */

#include <stdbool.h>
#include <stddef.h>

#include "broker/core/tables.h"

struct policy_ops;
struct core_store_ops;

struct core {
	struct core_header *h;
	struct core_page *pages;
	struct core_lease *leases;
	struct core_group *groups;
	uint64_t *free_bits; /* a bit a page record: FREE and in a slab */
	uint16_t *units;     /* slab of each run of CORE_UNIT_PAGES records */
	uint64_t *unit_used; /* a bit a unit: belongs to a slab */
	struct core_slab *slabs;
	struct core_space *spaces;
	struct core_client *clients;
	struct core_member *members;
	struct core_tenant *tenants;
	struct core_ns *namespaces;
	struct core_transfer *transfers;
	uint32_t *sums; /* by page record: checksum of a page in a lower tier; NULL without one */
	const struct policy_ops *policy;
	const struct core_store_ops *store; /* NULL: there is none */
	void *store_arg;
	uint64_t revoke_grace_ns; /* time members have when the core itself revokes; may be set at
				     any time */
	uint64_t now_ns;
	uint32_t now_s; /* seconds since core_init's time base, from 1 */
};

/*
 * What a batch did: `done` operands from the first on; `status` 0 or the negative errno that
 * stopped it at operand `done`; `flags` are KVB_CQE_*; `work` is what it took beyond its operands,
 * in pages looked at.
 */
struct core_batch {
	uint32_t done;
	int status;
	uint32_t flags;
	uint32_t work;
	bool wait; /* a transfer is on its way that brings more: ask again when it is done */
};

/* ---- life of the tables (core.c) ----------------------------------------------------------- */

void core_limits_fill(struct core_limits *limits); /* replaces zeros by defaults */
uint64_t core_bytes(const struct core_limits *limits);

/* mem: core_bytes() of zeros, 4096-aligned, the caller's for as long as the core is used. */
void core_init(struct core *c, void *mem, const struct core_limits *limits,
	       const uint64_t secret[4], uint64_t boot_id, const struct policy_ops *policy);

/* Monotonic; a step back is ignored. */
void core_set_time(struct core *c, uint64_t now_ns);

/*
 * Walks every table and checks every relation between them (charges equal to what is held, lists
 * closed, index and pages agreeing, budgets kept). Slow: for tests, `health --deep`, recovery.
 * Returns 0, or -EUCLEAN with the first broken relation in words.
 */
int core_check(const struct core *c, char *why, size_t why_bytes);

/*
 * Work put off by what must not wait: taking back what dead clients held, emptying slabs that are
 * revoked, sweeping pages of past epochs. At most about `units` page visits. True: more to do now.
 */
bool core_work(struct core *c, uint32_t units);

/* ---- devices and tenants (tenant.c) -------------------------------------------------------- */

int core_device_add(struct core *c, uint32_t kind, uint32_t ordinal, const char *name,
		    uint64_t capacity_bytes, uint64_t handle_bytes); /* index, -EEXIST, -ENOSPC */
int core_device_find(const struct core *c, uint32_t kind, uint32_t ordinal); /* index or -ENODEV */
/*
 * Revokes every slab of a device and makes no more until drain is false again. It is empty when
 * granted_bytes is 0. What is below stays there.
 */
void core_device_drain(struct core *c, unsigned device, bool drain);

struct core_tenant_spec {
	char name[KVB_NAME_BYTES];
	uint32_t uid;
	int device;                                /* index, or -1 for every device */
	uint64_t min_bytes, high_bytes, max_bytes; /* high and max: UINT64_MAX = the device */
	uint32_t weight;                           /* 1..1000 */
};

/*
 * Creates a tenant or changes its budgets, all or nothing. dry_run only answers.
 * -EINVAL min > high or high > max, weight; -ENOSPC a minimum that cannot be promised; the
 * arithmetic is in why. Returns the tenant's index.
 */
int core_tenant_set(struct core *c, const struct core_tenant_spec *spec, bool dry_run, char *why,
		    size_t why_bytes);
int core_tenant_find(const struct core *c, const char *name); /* index or -ENOENT */
int core_tenant_delete(struct core *c, unsigned tenant);      /* -EBUSY: clients or memory */

/* ---- clients (client.c) -------------------------------------------------------------------- */

/* Index, or -ENOSPC: the table is full. */
int core_client_open(struct core *c, unsigned tenant, uint32_t uid, int32_t pid, const char *name);

/* Its socket is gone: rights end now; pages it was filling wait in quarantine. Idempotent. */
void core_client_close(struct core *c, unsigned client);

/* Its process is gone (after core_client_close): what it held goes back in core_work() slices. */
void core_client_dead(struct core *c, unsigned client);

struct core_space_spec {
	uint32_t kind; /* of the device */
	uint32_t ordinal;
	uint32_t regions;
	uint32_t ranks; /* 0 and 1: no group; then group and rank are 0 */
	uint32_t rank;
	uint64_t stride_bytes;
	uint64_t tag;
	uint64_t group;
};

/* Joins (or makes) a space. Returns the client's handle for it, or -EINVAL -ENODEV -ENOSPC. */
int core_space_open(struct core *c, unsigned client, const struct core_space_spec *spec);
int core_space_close(struct core *c, unsigned client,
		     uint32_t handle); /* -ENOENT -EBUSY pages or leases */

/* The member behind a client's handle, or NULL: a client's mistake. */
struct core_member *core_member_get(struct core *c, unsigned client, uint32_t handle);

static inline unsigned core_member_index(const struct core *c, const struct core_member *m)
{
	return (unsigned)(m - c->members);
}

/* ---- namespaces (namespace.c) -------------------------------------------------------------- */

int core_ns_open(struct core *c, unsigned client, const struct kvb_ns_open *open,
		 struct kvb_ns_info *ret);                               /* 0, -EINVAL, -ENOSPC */
int core_ns_get(const struct core *c, unsigned client, uint32_t handle); /* index or -ENOENT */
int core_epoch_bump(struct core *c, unsigned client, uint32_t handle,
		    uint64_t *ret_epoch);       /* -ENOENT -EPERM */
void core_ns_bump(struct core *c, unsigned ns); /* operator's bump; cannot fail, O(1) (I6) */
/* A tier below knows the namespace in a later epoch: from before a restart. As a bump to that. */
void core_ns_advance(struct core *c, unsigned ns, uint32_t epoch);

/* ---- pages (page.c, lease.c, lookup.c) ----------------------------------------------------- */

/*
 * Pages for `m` into ret[n]: free ones, then by eviction. done may be less than n with status 0.
 * Above a lower tier what is evicted is written down first, and until then `wait` is set, unless
 * flags has KVB_ALLOC_DROP.
 */
struct core_batch core_alloc(struct core *c, struct core_member *m, uint32_t n, uint32_t flags,
			     kvb_page_t *ret);
struct core_batch core_free(struct core *c, struct core_member *m, const kvb_page_t *page,
			    uint32_t n);

/* ret[i]: the page now under the key: the operand's, or the one that was there first. -EEXIST: it
 * lies in a slab this member refused, so that it cannot be given out. */
struct core_batch core_seal(struct core *c, struct core_member *m, unsigned ns, uint64_t epoch,
			    uint64_t salt, const struct kvb_seal *seal, uint32_t n,
			    kvb_page_t *ret);

/*
 * Leading run of resident keys; with all, every key, and *lead counts on while no key missed.
 * A batch larger than the caller's slice is looked up in slices: lead is kept by the caller.
 */
struct core_lookup {
	uint64_t salt;
	uint16_t ns;
	bool all;
	bool tiers;  /* go on over keys in a lower tier: their results are KVB_PAGE_IN(tier) */
	bool broken; /* a key has missed */
	bool later;  /* not its first slice: it is counted */
	uint32_t lead;
};
struct core_batch core_lookup(struct core *c, struct core_member *m, struct core_lookup *lk,
			      const struct kvb_hash *hash, uint32_t n, kvb_page_t *ret);
struct core_batch core_release(struct core *c, struct core_member *m, const kvb_page_t *page,
			       uint32_t n);
struct core_batch core_pin(struct core *c, struct core_member *m, const kvb_page_t *page,
			   uint32_t n, bool pin);
struct core_batch core_hint(struct core *c, struct core_member *m, const kvb_page_t *page,
			    uint32_t n, uint64_t hint);

/* The resident page under a key of a namespace in a space, without leasing; CORE_NONE. */
uint32_t core_page_find(const struct core *c, unsigned space, unsigned ns, uint64_t salt,
			const struct kvb_hash *hash);
kvb_page_t core_page_name(const struct core *c, uint32_t page); /* ABI name of a page record */
int core_page_evict(struct core *c, uint32_t page);             /* -EBUSY: leased, pinned or held */
int core_page_pin(struct core *c, uint32_t page, bool pin);     /* operator's pin */

/* ---- lower tiers (tier.c, load.c, transfer.c) -------------------------------------------------
 */

/* A host arena of that many bytes on a NUMA node, cut into handle_bytes. Index, -EEXIST, -ENOSPC.
 */
int core_arena_add(struct core *c, uint32_t node, uint64_t capacity_bytes, uint64_t handle_bytes);
/* Spaces opened on `device` from now on have their lower tier there. Once, before any client. */
void core_device_below(struct core *c, unsigned device, unsigned arena);
/*
 * Whether transfers between the device and its arena can be made. At first not. When it ends, what
 * is queued fails; what core_next_transfer() gave out is the caller's to end.
 */
void core_device_below_ready(struct core *c, unsigned device, bool ready);

/*
 * The leading run of keys that are in any tier is leased, names in ret; keys from below are
 * ARRIVING until their transfer is over. lk->lead counts how many of the run came from below. wait:
 * no page is free for the next key yet. Stops where core_lookup() stops, and at a key of which no
 * page could be had.
 */
struct core_batch core_load(struct core *c, struct core_member *m, struct core_lookup *lk,
			    const struct kvb_hash *hash, uint32_t n, kvb_page_t *ret);
/* As core_load(), leases nothing. */
struct core_batch core_prefetch(struct core *c, struct core_member *m, struct core_lookup *lk,
				const struct kvb_hash *hash, uint32_t n);
/* Starts writing leased pages down; done counts those that are, wait says the next one is on its
 * way. */
struct core_batch core_store(struct core *c, struct core_member *m, const kvb_page_t *page,
			     uint32_t n);

/* Of the pages that core_load() named: how many at the start have arrived. *ret_failed: the next
 * one never will (else it is still on its way, or all are there). */
uint32_t core_load_arrived(const struct core *c, const struct core_member *m,
			   const kvb_page_t *page, uint32_t n, bool *ret_failed);

/* The next transfer of a device, up before down, in order: index, FLIGHT now; CORE_NONE16: none. */
unsigned core_next_transfer(struct core *c, unsigned device);
/* Its end. DOWN: sum is the checksum of what was written. error: -EBADMSG, a checksum does not fit
 * (the lower page is given up); -EHWPOISON: the device's memory may be bad (the upper page's slab
 * is retired: revoked and not used again); any other negative errno: nothing is known to be wrong.
 */
void core_transfer_done(struct core *c, unsigned transfer, int error, uint32_t sum);

/* ---- the store (store.c) --------------------------------------------------------------------- */

/* What a page is under. */
struct core_key {
	struct kvb_hash hash;
	uint64_t salt;
	uint16_t ns;
	uint16_t space;
	uint32_t epoch;
};

/*
 * The last tier, for the core a set of keys. Pages of a space with no memory below go there when
 * their memory is wanted, and come from there; those of a group (ranks) do not. What it had it may
 * have lost a moment later: then a transfer fails, and that is a miss.
 */
struct core_store_ops {
	/* Without a wait, and without an effect. key->space is the one that clients have open. */
	bool (*has)(void *arg, const struct core_key *key);
	/* Is a page that is about to go worth writing? NULL: all are. Asked once a time it comes to
	 * that. */
	bool (*admit)(void *arg, const struct core_page *page, const struct core_key *key);
};

/* From now on it is there. ops and arg stay the caller's. */
void core_store_attach(struct core *c, const struct core_store_ops *ops, void *arg);
/* It is not any more: what is queued fails. What core_next_store_transfer() gave out is the
 * caller's to end. */
void core_store_detach(struct core *c);
/* Do pages that clients have in a space go there, sooner or later? */
bool core_space_has_store(const struct core *c, unsigned space);
/*
 * Before the end: from now on every page that nobody leases is evicted, from every tier that has
 * the store behind it; and so what the store wants is written there. True: none is left.
 */
void core_store_write_out(struct core *c);
bool core_store_is_written_out(const struct core *c);
/* The next transfer of the store, reads before writes: index, FLIGHT now; CORE_NONE16: none. */
unsigned core_next_store_transfer(struct core *c);
/*
 * The page that it fills (UP) or writes (DOWN), and the key; core_transfer_done() ends it, for a
 * read with the checksum that the bytes have. A page of an arena is written with the transfer's
 * checksum, and not with one made of what lies there now: so what was damaged meanwhile never comes
 * back as good. Who finds that it does not fit ends the write with -EBADMSG, and the page is given
 * up.
 */
uint32_t core_store_page(const struct core *c, unsigned transfer, struct core_key *ret_key);

/* ---- slabs (slab.c, grow.c) ---------------------------------------------------------------- */

/*
 * Starts creating up to `slabs` slabs; returns how many, their slots set in slots[] (may be NULL).
 * When memory is short and the tenant deserves it, revocations of others start and fewer, maybe 0,
 * come back: ask again later. -EDQUOT the tenant's max; -ENOSPC nothing to be had, now or later.
 */
int core_space_grow(struct core *c, struct core_member *m, uint32_t slabs,
		    uint64_t slots[CORE_SLOT_WORDS]);
/* Starts revoking up to `slabs` slabs of the space, emptiest first; returns how many. */
int core_space_shrink(struct core *c, unsigned space, uint32_t slabs, uint64_t grace_ns);

/* What the device answered for a slab of core_next_slab(). */
void core_slab_created(struct core *c, unsigned slab);
void core_slab_failed(struct core *c, unsigned slab);
void core_slab_closed(struct core *c, unsigned slab);

/* The client maps a slab's memory: sent (before the message leaves), acknowledged, or refused. */
void core_grant_sent(struct core *c, struct core_member *m, unsigned slot);
void core_grant_acked(struct core *c, struct core_member *m, unsigned slot, bool mapped);
/* 0, -ENOENT not revoked here, -EBUSY with the pages it still holds or leases there in *ret_busy.
 */
int core_reclaim_ack(struct core *c, struct core_member *m, uint64_t slot, uint32_t *ret_busy);

enum core_slot_state { CORE_SLOT_EMPTY, CORE_SLOT_PENDING, CORE_SLOT_READY, CORE_SLOT_REVOKED };
enum core_slot_state core_slot_state(const struct core *c, const struct core_member *m,
				     unsigned slot);

/* The next slab the device has to create (CREATING) or take back (CLOSING); CORE_NONE16. */
unsigned core_next_slab(struct core *c);

/*
 * The next member that is owed something: grants (live and not sent), revocations to tell
 * (m->revoke), a recall (m->recall). The caller clears what it has told. NULL: none. A member comes
 * up again when something new is owed or after core_member_kick().
 */
struct core_member *core_next_member(struct core *c);
void core_member_kick(struct core *c, struct core_member *m);

/* A DRAINING slab whose deadline has passed, from slab index `from` on; CORE_NONE16. */
unsigned core_slab_overdue(const struct core *c, unsigned from);
void core_slab_extend(struct core *c, unsigned slab, uint64_t grace_ns);

#define CORE_REVOKE_GRACE_NS (1000ull * 1000 * 1000) /* default */

/* ---- words for people (text.c) ------------------------------------------------------------- */

/* "3.1G": the one way sizes are printed. */
struct core_size_text {
	char text[24];
};
struct core_size_text core_size(uint64_t bytes);
