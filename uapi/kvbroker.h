/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The kvbroker ABI, version 1.
 *
 * Everything that crosses the boundary between kvbrokerd and an engine is in this file, and nothing
 * else is: fixed-width types, offsets instead of pointers, reserved fields that must be zero. A test
 * compares every size and offset with tests/unit/abi.golden. Programs normally use libkvbroker.h;
 * this header is enough to write another client, in any language that can map memory.
 *
 * LIFE OF A CONNECTION
 *
 *   1. connect() a SOCK_SEQPACKET unix socket; one struct kvb_msg_* a datagram, native byte order.
 *   2. KVB_MSG_HELLO -> KVB_MSG_HELLO_REPLY with four fds: sub, ctl, fence (memfds), doorbell
 *      (eventfd). The daemon creates every fd and accepts none: a message that carries an fd
 *      towards the daemon ends the connection.
 *   3. KVB_MSG_SPACE_OPEN -> KVB_MSG_SPACE_REPLY: the space's geometry and a handle for it.
 *   4. KVB_MSG_GRANT carries slab memory (one fd a handle); map it, close the fds, answer
 *      KVB_MSG_GRANT_ACK. One grant message is in flight a client; the next follows the ack.
 *   5. Everything else goes over the rings.
 *   6. Closing the socket ends every right of the client. Its leases are dropped at once; pages it
 *      was filling stay in quarantine until its process is seen dead, because it may still have
 *      them mapped. KVB_MSG_BYE as the last message says that it has not: it has unmapped all it
 *      was sent, and need not die for its pages to be free.
 *
 * MEMORY, SPLIT BY WRITER
 *
 *   sub    client writes, daemon reads only: struct kvb_sub, SQEs, operand area.
 *   ctl    daemon writes, client reads only (sealed against writing): struct kvb_ctl, CQEs, result
 *          area. The result of an operand at offset x of the operand area is at offset x (see each
 *          operation) of the result area.
 *   fence  both write: KVB_FENCES words, one a cache line. Values are untrusted by the daemon.
 *
 * THE BARRIER CONTRACT, IN PAIRS. Indices are free running 32-bit counters; entry = index & mask.
 *
 *   (A) client: fill SQE and operands;  store-release sub.sq_tail
 *       daemon: load-acquire sub.sq_tail; copy SQE, then operands, once
 *   (B) daemon: copy SQE and all operands out;  store-release ctl.sq_head
 *       client: load-acquire ctl.sq_head before it reuses an SQE slot. Operands may be reused only
 *       after the operation's CQE.
 *   (C) daemon: fill results and CQE;  store-release ctl.cq_tail
 *       client: load-acquire ctl.cq_tail; read CQE and results
 *   (D) client: done with CQE;  store-release sub.cq_head
 *       daemon: load-acquire sub.cq_head before it reuses a CQE slot. An SQE is only taken when a
 *       CQE slot is reserved for it, so a client that does not reap stops only itself.
 *   (E) client: store sq_tail;  FULL FENCE;  load ctl.flags; KVB_CTL_NEED_DOORBELL -> write doorbell
 *       daemon: store NEED_DOORBELL;  FULL FENCE;  load sub.sq_tail; sleep only if nothing came
 *   (F) client: store sub.need_wake = 1;  FULL FENCE;  load ctl.cq_tail and ctl.sock_seq; futex-wait
 *       on ctl.wake with the value read *before* the store, only if both are unchanged
 *       daemon: store cq_tail or sock_seq;  FULL FENCE;  load sub.need_wake; if set, add one to
 *       ctl.wake and FUTEX_WAKE
 *
 * ERRORS. kvb_cqe.res is a count >= 0 or a negative errno of the values listed with each operation.
 * A batch is processed in operand order and stops at the first operand that cannot be done: res is
 * the number of operands done, status the positive errno that stopped it, with KVB_CQE_STOPPED set.
 * When the very first operand fails res is -errno. An operand that failed changed nothing. Entries
 * that are malformed (unknown opcode or flag, reserved bits, operands out of bounds) are -EINVAL.
 */

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVB_ABI_VERSION 1u
#define KVB_MAGIC 0x3142564bu /* "KVB1" */
#define KVB_DEFAULT_SOCKET "/run/kvbroker/broker.sock"

#define KVB_NAME_BYTES 32u         /* names of tenants, clients: NUL-terminated */
#define KVB_MSG_BYTES_MAX 8192u    /* largest datagram either way */
#define KVB_GRANT_FDS_MAX 128u     /* fds in one KVB_MSG_GRANT */
#define KVB_SPACES_MAX 16u         /* spaces one client may have open */
#define KVB_NS_MAX 16u             /* namespaces one client may have open */
#define KVB_SLOTS_MAX 1024u        /* slabs of one space */
#define KVB_REGIONS_MAX 256u       /* regions of one space */
#define KVB_RANKS_MAX 16u          /* spaces of one group */
#define KVB_FENCES 64u             /* fence words, and pending fences, a client */
#define KVB_SQ_ENTRIES_MIN 2u
#define KVB_SQ_ENTRIES_MAX 4096u
#define KVB_OPERAND_BYTES_MIN 4096u
#define KVB_OPERAND_BYTES_MAX (4u << 20)
#define KVB_COUNT_MAX 65536u       /* operands of one entry */

/* ---- pages --------------------------------------------------------------------------------- */

/*
 * A page: generation in the upper 32 bits, page id in the lower 32. The id is the engine's block
 * number: region r of page p lies at region_base(r) + id * stride. A page whose generation has
 * passed is -ENOENT, never somebody else's page. 0 is no page.
 */
typedef uint64_t kvb_page_t;
#define KVB_PAGE_NONE ((kvb_page_t)0)
#define KVB_PAGE(gen, id) (((kvb_page_t)(gen) << 32) | (uint32_t)(id))
#define KVB_PAGE_ID(page) ((uint32_t)(page))
#define KVB_PAGE_GEN(page) ((uint32_t)((page) >> 32))

/*
 * Where a page's bytes are. In the results of LOOKUP with KVB_LOOKUP_TIERS a name of generation 0 is
 * no page: its id says in which tier the key was found.
 */
enum kvb_tier {
	KVB_TIER_NONE = 0,
	KVB_TIER_DEVICE = 1,
	KVB_TIER_HOST = 2,  /* pinned memory next to the device */
	KVB_TIER_STORE = 3, /* files or drives below all memory; outlives the daemon */
};
#define KVB_PAGE_IN(tier) KVB_PAGE(0, tier)
#define KVB_PAGE_TIER(page) (KVB_PAGE_GEN(page) ? KVB_TIER_DEVICE : KVB_PAGE_ID(page))

/* The chain hash of a block and all before it: 16 B of a cryptographic digest. */
struct kvb_hash {
	uint64_t w[2];
};

/* ---- socket messages ----------------------------------------------------------------------- */

enum kvb_msg_type {
	KVB_MSG_HELLO = 1,       /* client: struct kvb_msg_hello */
	KVB_MSG_HELLO_REPLY = 2, /* daemon: struct kvb_msg_hello_reply, 4 fds (1 for an admin) */
	KVB_MSG_SPACE_OPEN = 3,  /* client: struct kvb_msg_space_open */
	KVB_MSG_SPACE_REPLY = 4, /* daemon: struct kvb_msg_space_reply */
	KVB_MSG_SPACE_CLOSE = 5, /* client: struct kvb_msg_space_close; answered by SPACE_REPLY or ERROR */
	KVB_MSG_GRANT = 6,       /* daemon: struct kvb_msg_grant, up to KVB_GRANT_FDS_MAX fds */
	KVB_MSG_GRANT_ACK = 7,   /* client: struct kvb_msg_grant_ack */
	KVB_MSG_ERROR = 8,       /* daemon: struct kvb_msg_error */
	KVB_MSG_CTL = 9,         /* admin: struct kvb_msg_ctl, then argv */
	KVB_MSG_CTL_REPLY = 10,  /* daemon: struct kvb_msg_ctl_reply, then a piece of JSON */
	KVB_MSG_BYE = 11,        /* client: the header alone; see life of a connection, 6 */
};

/* First bytes of every message. length counts the whole datagram, this header included. */
struct kvb_msg_header {
	uint32_t magic; /* KVB_MAGIC */
	uint16_t type;  /* enum kvb_msg_type */
	uint16_t nfds;  /* fds that travel with this message */
	uint32_t length;
	uint32_t resv;
};

enum kvb_role {
	KVB_ROLE_ENGINE = 1,
	KVB_ROLE_ADMIN = 2,
};

/* Feature bits: asked for in HELLO, the subset that is on comes back. Unknown bits are ignored. */
#define KVB_FEAT_FENCE (1ull << 0)      /* FREE and SEAL wait for fence words */
#define KVB_FEAT_LOOKUP_ALL (1ull << 1) /* KVB_LOOKUP_ALL */
#define KVB_FEAT_LOWER_TIER (1ull << 2) /* there is a host tier or a store below; off without */
#define KVB_FEAT_ALL (KVB_FEAT_FENCE | KVB_FEAT_LOOKUP_ALL | KVB_FEAT_LOWER_TIER)

struct kvb_msg_hello {
	struct kvb_msg_header h;
	uint32_t version_min; /* ABI versions the client speaks */
	uint32_t version_max;
	uint32_t role;        /* enum kvb_role */
	uint32_t sq_entries;  /* power of two; 0 = default 256 */
	uint32_t cq_entries;  /* power of two >= sq_entries; 0 = twice sq_entries */
	uint32_t operand_bytes; /* multiple of 4096; 0 = default 256 KiB */
	uint64_t features;
	char tenant[KVB_NAME_BYTES]; /* empty = "default" */
	char name[KVB_NAME_BYTES];   /* for operators; empty = the process's name */
	uint64_t resv[4];
};

/* Offsets are from the start of the region named; sizes are bytes. */
struct kvb_msg_hello_reply {
	struct kvb_msg_header h;
	uint32_t version;
	uint32_t client; /* id that operators see */
	uint64_t features;
	uint64_t boot_id; /* differs after a restart of the daemon that lost its pages */
	uint32_t sq_entries;
	uint32_t cq_entries;
	uint64_t sub_bytes;
	uint64_t ctl_bytes;
	uint64_t fence_bytes;
	uint32_t sub_sqes;     /* struct kvb_sqe[sq_entries] in sub */
	uint32_t sub_operands; /* operand area in sub */
	uint32_t ctl_cqes;     /* struct kvb_cqe[cq_entries] in ctl */
	uint32_t ctl_results;  /* result area in ctl, as large as the operand area */
	uint32_t operand_bytes;
	uint32_t leases_max; /* lease quota of this client */
	uint64_t resv[4];
};

enum kvb_device_kind {
	KVB_DEVICE_HOST = 1, /* ordinal is the NUMA node */
	KVB_DEVICE_CUDA = 2, /* ordinal as CUDA numbers GPUs in the daemon's environment */
};

/*
 * Opens, or joins, a space. Clients of one tenant that name the same device, geometry and tag are
 * members of one space and see the same page ids.
 * Errors (KVB_MSG_ERROR): -ENODEV no such device; -EINVAL geometry, or rank and ranks; -ENOSPC
 * tables full.
 *
 * A group: spaces of one tenant, one a rank, for an engine whose KV is split over several devices.
 * A key is found in any of them only while all `ranks` of them have sealed it (in whatever tier):
 * so there is never half a block. Until then, and from when one of them loses it, it is a miss in
 * all. Ranks of a group name the same namespace: the rank is in the space.
 */
struct kvb_msg_space_open {
	struct kvb_msg_header h;
	uint32_t device_kind;
	uint32_t device_ordinal;
	uint32_t regions;      /* 1..KVB_REGIONS_MAX; 1 = packed, or one a layer */
	uint32_t ranks;        /* of its group, up to KVB_RANKS_MAX; 0 or 1: no group */
	uint64_t stride_bytes; /* of one page in one region: a multiple of 64 */
	uint64_t tag;          /* any number; keeps equal geometries apart */
	uint64_t group;        /* any number, the same for all ranks; 0 without a group */
	uint32_t rank;         /* 0..ranks-1; 0 without a group */
	uint32_t resv0;
	uint64_t resv[2];
};

struct kvb_msg_space_reply {
	struct kvb_msg_header h;
	uint32_t space; /* handle for kvb_sqe.space */
	uint32_t pages_per_slab;
	uint32_t handles_per_region; /* handles that back one slab in one region */
	uint32_t slots;              /* slabs the space can ever have; <= KVB_SLOTS_MAX */
	uint64_t handle_bytes;
	uint64_t region_bytes; /* address range to reserve a region: slots * slab bytes of one region */
	uint8_t device_uuid[16]; /* as the driver names a GPU; zero for others */
	uint64_t tiers;          /* bit 1 << enum kvb_tier for each tier this space has pages in */
	uint64_t resv[1];
};

/* Answered by a SPACE_REPLY of which only `space` is set. Errors (KVB_MSG_ERROR): -ENOENT; -EBUSY while the
 * client holds pages or leases there. */
struct kvb_msg_space_close {
	struct kvb_msg_header h;
	uint32_t space;
	uint32_t resv;
};

/*
 * fds[i] backs handle `handle` of slab `slot`. With H = handles_per_region, handle h of a slab is
 * part h % H of region h / H: map handle_bytes at
 *   region_base(h / H) + slot * H * handle_bytes + (h % H) * handle_bytes.
 * On the host a fd is a memfd, on cuda an allocation that CUDA exported as a POSIX fd: import it,
 * map the whole of it, set access; addresses are device addresses.
 */
struct kvb_grant_entry {
	uint32_t slot;
	uint32_t handle;
};

struct kvb_msg_grant {
	struct kvb_msg_header h;
	uint32_t space;
	uint32_t count; /* = h.nfds; entries that follow */
	uint64_t seq;
	struct kvb_grant_entry entries[];
};

/* status 0: mapped. Else a positive errno: the client could not map and does without these slabs. */
struct kvb_msg_grant_ack {
	struct kvb_msg_header h;
	uint64_t seq;
	uint32_t status;
	uint32_t resv;
};

struct kvb_msg_error {
	struct kvb_msg_header h;
	int32_t error; /* negative errno */
	uint32_t resv;
	char text[240]; /* what, why and what to do; NUL-terminated */
};

/* argv of a broker-ctl command: argc strings, each NUL-terminated, follow. */
#define KVB_CTL_DRY_RUN (1u << 0)
struct kvb_msg_ctl {
	struct kvb_msg_header h;
	uint32_t flags;
	uint32_t argc;
};

/* The reply comes in pieces; the last one has `last` set. exit_code is broker-ctl's (see its man). */
struct kvb_msg_ctl_reply {
	struct kvb_msg_header h;
	uint32_t exit_code;
	uint32_t last;
};

/* ---- rings --------------------------------------------------------------------------------- */

/* Start of `sub`. One cache line the daemon polls; it believes none of it. */
struct kvb_sub {
	uint32_t sq_tail;   /* (A) (E) */
	uint32_t cq_head;   /* (D) */
	uint32_t need_wake; /* (F) */
	uint32_t resv[13];
};

/* ctl.flags */
#define KVB_CTL_NEED_DOORBELL (1u << 0) /* (E): the ring is not polled */
#define KVB_CTL_BROKEN (1u << 1)        /* the daemon gave up on this client; see ctl.error */
#define KVB_CTL_DRAINING (1u << 2)      /* the daemon is going down; finish and disconnect */

/* Start of `ctl`. The first line is what a busy client reads. */
struct kvb_ctl {
	uint32_t cq_tail;  /* (C) */
	uint32_t sq_head;  /* (B) */
	uint32_t flags;    /* KVB_CTL_* */
	uint32_t sock_seq; /* messages sent to the socket so far */
	uint32_t wake;     /* futex word (F) */
	uint32_t error;    /* errno why BROKEN */
	uint32_t resv[10];
	/* counters of this client, for its own information */
	uint64_t entries;      /* SQEs taken */
	uint64_t invalid;      /* SQEs answered -EINVAL */
	uint64_t pages_held;   /* allocated, neither sealed nor freed */
	uint64_t leases;
	uint64_t resv1[4];
};

enum kvb_op {
	KVB_OP_NOP = 0,
	KVB_OP_ALLOC,
	KVB_OP_FREE,
	KVB_OP_SEAL,
	KVB_OP_LOOKUP,
	KVB_OP_RELEASE,
	KVB_OP_LOAD,
	KVB_OP_PREFETCH,
	KVB_OP_STORE,
	KVB_OP_PIN,
	KVB_OP_UNPIN,
	KVB_OP_HINT,
	KVB_OP_SPACE_GROW,
	KVB_OP_SPACE_SHRINK,
	KVB_OP_RECLAIM_ACK,
	KVB_OP_NS_OPEN,
	KVB_OP_EPOCH_BUMP,
	KVB_OP_CANCEL,
	KVB_OP_N,
};

/*
 * Submission entry. Fields an operation does not use must be zero, except user_data.
 *
 * op           operands (count of)       results at the operands' offset   fields used
 * NOP          -                         -                                 -
 * ALLOC        - (8 B room each)         kvb_page_t[]                      space, count, operand, flags
 * FREE         kvb_page_t                -                                 space, fence
 * SEAL         struct kvb_seal           kvb_page_t[] (key's page)         space, ns, salt, arg=epoch, fence
 * LOOKUP       struct kvb_hash           kvb_page_t[]                      space, ns, salt, flags
 * RELEASE      kvb_page_t                -                                 space
 * LOAD         struct kvb_hash           kvb_page_t[]                      space, ns, salt, arg=timeout ns, fence
 * PREFETCH     struct kvb_hash           -                                 space, ns, salt
 * STORE        kvb_page_t                -                                 space
 * PIN, UNPIN   kvb_page_t                -                                 space
 * HINT         kvb_page_t                -                                 space, arg=KVB_HINT()
 * SPACE_GROW   -                         -                                 space, count=slabs, arg=timeout ns
 * SPACE_SHRINK -                         -                                 space, count=slabs, arg=deadline ns
 * RECLAIM_ACK  -                         -                                 space, arg=slot
 * NS_OPEN      struct kvb_ns_open (1)    struct kvb_ns_info                count=1
 * EPOCH_BUMP   -                         -                                 ns; aux of the CQE = new epoch
 * CANCEL       -                         -                                 arg=user_data to cancel
 *
 * ALLOC      res = pages got, maybe fewer, maybe 0. -EDQUOT never; KVB_CQE_GRANT_PENDING when slabs
 *            wait for this client's acknowledgement. With a lower tier it waits, up to 100 ms, until
 *            what it evicts is written down; KVB_ALLOC_DROP: it does not, and loses it.
 * FREE       ENOENT not a page this client holds, or no longer. With a fence, as SEAL: EBUSY when
 *            KVB_FENCES entries wait already; ETIME when the word is not reached within a minute:
 *            nothing is done then, the pages stay the client's.
 * SEAL       res = pages sealed; each leaves one lease with the caller (in a group: a key that other
 *            ranks have not sealed yet is held so, too, and found from when the last one has). A result that names another
 *            page than the operand: the key existed, that page is now leased, the operand's page
 *            stays the caller's to fill or free. ESTALE epoch passed; ENOENT; EDQUOT leases;
 *            EEXIST the key's page lies in a slab the caller could not map.
 * LOOKUP     res = length of the leading run that is resident; each result page carries one lease.
 *            aux = the namespace's epoch. With KVB_LOOKUP_ALL every key has a result (KVB_PAGE_NONE
 *            for a miss) and every resident one is leased. The run ends, with status: EDQUOT at the
 *            lease quota; ESTALE where the epoch was bumped meanwhile.
 *            With KVB_LOOKUP_TIERS the run goes on over keys that are in any tier: done is its length,
 *            res how many at its start are on the device and leased; the results from res on are
 *            KVB_PAGE_IN(tier), the store's as well, and nothing is leased there: LOAD them.
 * RELEASE    in operand order: what is released last is the most recently used. ENOENT no lease.
 * LOAD       brings the leading run of keys that are in any tier onto the device, and waits for it:
 *            res = its length, each result page carries one lease, aux = how many of them came from
 *            below (at most, when the run was cut short). A key whose bytes do not arrive (timeout,
 *            a checksum that does not fit, a device that fails) ends the run before it: a miss, never
 *            an error. arg 0: 5 s. KVB_CQE_NOTHING_BELOW when the space has neither a host tier nor
 *            a store below: then it is a LOOKUP. A fence word, when one is named, is set to
 *            fence_value when the entry is done, however it ends. EDQUOT, GRANT_PENDING as LOOKUP.
 * PREFETCH   starts the same and does not wait: res = keys that are on the device or on their way.
 * STORE      writes pages down now and waits: res = pages that have a copy below. ENOENT no lease.
 *            Both: KVB_CQE_NOTHING_BELOW without anything below. Pages of a group are not kept in
 *            the store: on the device and in the host tier only.
 * PIN        keeps leased pages from eviction beyond their release, until UNPIN or the client's end.
 *            ENOENT no lease; EDQUOT pin quota.
 * HINT       on leased pages. ENOENT no lease. The store keeps no time to live: a page that has one is
 *            not written there by itself; of one that STORE wrote there, or that was there before the
 *            hint, the copy in the store stays.
 * SPACE_GROW res = slabs granted and acknowledged by the caller. ENOSPC nothing to be had; EDQUOT the
 *            tenant's max; ENOMEM the device failed; ETIMEDOUT it is slow: what it still makes is granted
 *            when it comes.
 * SPACE_SHRINK res = slabs being revoked.
 * RECLAIM_ACK "I hold nothing in this slab and unmap it as soon as you say 0". EBUSY: the caller
 *            still holds or leases pages there, aux = how many. ENOENT: not being revoked.
 * EPOCH_BUMP EPERM without KVB_NS_ADMIN. With a store it is answered when no crash can bring the old
 *            epoch back; EIO: the epoch has moved, aux says to what, but a part of the store could not
 *            record it, so that after a restart what it ended may be found again: bump again.
 * CANCEL     of an entry that waits (for a fence, for memory): 0, and that entry ends with -ECANCELED;
 *            ENOENT: none of that name waits, it was unknown or is done.
 */
struct kvb_sqe {
	uint8_t opcode; /* enum kvb_op */
	uint8_t flags;  /* KVB_SQE_* of the operation */
	uint16_t space; /* handle of kvb_msg_space_reply */
	uint16_t ns;    /* handle of kvb_ns_info */
	uint16_t fence; /* fence word + 1; 0 = none */
	uint32_t count;
	uint32_t operand; /* byte offset in the operand area, multiple of 8 */
	uint64_t user_data;
	uint64_t salt;
	uint64_t arg;
	uint64_t fence_value; /* runs once the word has reached this, modulo 2^64; LOAD: sets the word to it */
	uint64_t resv[2];
};

#define KVB_ALLOC_MAGAZINE (1u << 0) /* pages for the library's magazine: called back when memory is short */
#define KVB_ALLOC_DROP (1u << 1)     /* do not wait for what is evicted to be written down */
#define KVB_LOOKUP_ALL (1u << 0)     /* do not stop at the first miss; not with KVB_LOOKUP_TIERS */
#define KVB_LOOKUP_TIERS (1u << 1)   /* go on over keys that are in a lower tier */

struct kvb_cqe {
	uint64_t user_data;
	int32_t res;
	uint32_t flags; /* KVB_CQE_* */
	uint64_t aux;
	uint32_t status;
	uint32_t done; /* operands dealt with; LOOKUP with KVB_LOOKUP_ALL: may be more than res */
};

#define KVB_CQE_STOPPED (1u << 0)       /* fewer operands than asked; status says why */
#define KVB_CQE_GRANT_PENDING (1u << 1) /* the run ended at a slab this client has not mapped */
#define KVB_CQE_NOTHING_BELOW (1u << 2) /* there is no lower tier: no host tier, no store */
#define KVB_CQE_EVENT (1u << 3)         /* nobody's completion: user_data is an enum kvb_event */
#define KVB_CQE_AGAIN (1u << 4)         /* ALLOC stopped by its work bound; asking again may find more */

/* Events: CQEs the client did not ask for. They use reserved slots; none is ever dropped. */
enum kvb_event {
	KVB_EVENT_RECALL = 1, /* give magazine pages of space res back with FREE */
	KVB_EVENT_REVOKE = 2, /* space res, slot status, aux = ns until the deadline: give back what you
				 have there, unmap, RECLAIM_ACK */
};

/* ---- operands ------------------------------------------------------------------------------ */

struct kvb_seal {
	kvb_page_t page;
	struct kvb_hash hash;
	uint32_t depth; /* position of the block in its chain, from 0 */
	uint32_t resv;
};

#define KVB_NS_ADMIN (1u << 0) /* may bump the epoch */

struct kvb_ns_open {
	uint8_t digest[32]; /* identity of the cached bytes: weights, tokenizer, dtype, layout, rank, ... */
	uint32_t flags;     /* KVB_NS_* asked for */
	uint32_t resv;
};

struct kvb_ns_info {
	uint32_t ns; /* handle for kvb_sqe.ns */
	uint32_t flags;
	uint64_t epoch; /* with a store, the one it has recorded when that is later */
};

/* HINT argument: priority and time to live. */
enum kvb_priority {
	KVB_PRIO_NORMAL = 0,
	KVB_PRIO_LOW = 1,  /* first to go once released */
	KVB_PRIO_HIGH = 2, /* passed over once before it goes */
};
#define KVB_HINT(priority, ttl_s) (((uint64_t)(ttl_s) << 8) | (uint64_t)(priority))
#define KVB_HINT_PRIORITY(arg) ((uint32_t)((arg)&0xff))
#define KVB_HINT_TTL_S(arg) ((arg) >> 8) /* seconds from now; 0 = for ever; at most 2^31 */

/* One fence word, alone on its cache line. */
struct kvb_fence {
	uint64_t value;
	uint64_t resv[7];
};

/* True once a fence word has reached the value waited for, compared modulo 2^64. */
static inline int kvb_fence_reached(uint64_t word, uint64_t value)
{
	return (int64_t)(word - value) >= 0;
}

#ifdef __cplusplus
}
#endif
