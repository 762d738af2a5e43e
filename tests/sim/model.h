/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The reference model: what the core must be seen doing, written down the slow way.
 *
 * It is made from the words of the design and of core.h and shares no code with the core: arrays,
 * linear searches, a full account of who leases what. Where the contract leaves a choice (which
 * free page, when a swept page goes, how soon a dead client's pages return) the model does not
 * predict but judges: model_absorb() accepts a change of the core's tables only if some rule
 * allows it then, and takes it over. Everything else is a failure of the history.
 *
 * Order of eviction: every page gets an `order` when the last lease on it goes; the unleased page
 * of the lowest order goes first. Above a lower tier that order is the core's to choose, because
 * what goes next is written down first.
 *
 * Tiers. A space below is a space of the model, `below` the one above. Every page has memory, a
 * number: ALLOC writes a number of nobody else there, SEAL the one that belongs to the key, the
 * mover copies it from page to page when a transfer ends, wherever those pages belong by then. So a
 * page that was reused under a transfer holds bytes that are not its own, and is found out. The
 * store has numbers under keys, and is given and gives them in the same way.
 */

#include <stdbool.h>
#include <stdint.h>

#include "broker/core/core.h"

#define M_CLIENTS 16
#define M_TENANTS 6
#define M_SPACES 16
#define M_MEMBERS 32
#define M_NAMESPACES 8
#define M_DEVICES 4
#define M_SLOTS 64
#define M_NONE (-1)

struct world;

struct m_page {
	uint8_t state; /* enum core_page_state */
	bool indexed;
	bool pinned; /* by the operator */
	bool low, high;
	bool listed;    /* in the order of eviction */
	bool fresh;     /* in it at a place that is the core's to choose */
	bool busy;      /* a transfer reads or writes it */
	bool copied;    /* it was written down, or came from there */
	bool spare;     /* below: the core said so, after its last call */
	bool failed;    /* what should have come did not */
	bool rotten;    /* its memory was damaged */
	uint64_t bytes; /* its memory */
	uint64_t wrote; /* FILLING: what its client wrote there */
	uint32_t gen;
	int owner;
	int ns;
	uint32_t epoch;
	uint64_t salt;
	struct kvb_hash hash;
	uint32_t expire_s;
	int64_t order;
	uint16_t leases[M_CLIENTS]; /* counts */
	bool pins[M_CLIENTS];
	uint16_t lessees; /* bit c: client c leases or pins it */
};

struct m_slab {
	uint8_t state; /* enum core_slab_state */
	unsigned core; /* index in the core */
	uint64_t deadline_ns;
	struct m_page *pages;
};

struct m_space {
	bool used;
	int tenant;
	int device;
	int above, below; /* spaces; M_NONE */
	uint32_t regions;
	uint64_t stride_bytes;
	uint64_t tag;
	uint32_t pages_per_slab;
	uint32_t slots;
	uint64_t slab_bytes;
	int64_t hot, cold; /* last orders given */
	/* 1: some pages came into the order in a sequence that is the core's to choose; 2: any may
	 * have */
	uint8_t reorder;
	struct m_slab slab[M_SLOTS];
	kvb_page_t *names; /* every name ever given out in this space */
	uint32_t names_n, names_room;
};

struct m_member {
	bool used;
	int client;
	int space;
	uint32_t handle;
	bool sent[M_SLOTS];
	bool acked[M_SLOTS];
	bool refused[M_SLOTS];
	bool told[M_SLOTS]; /* that the slab is revoked */
};

struct m_client {
	uint8_t state; /* enum core_client_state */
	uint32_t life; /* which one of those that had this index */
	int tenant;
	int32_t pid;
	int member[KVB_SPACES_MAX];
	int ns[KVB_NS_MAX]; /* by handle */
	bool ns_admin[KVB_NS_MAX];
	uint32_t ns_n;
	uint32_t leases; /* pages it leases or pins */
	uint32_t pins;
};

struct m_tenant {
	bool used;
	uint32_t uid;
	char name[KVB_NAME_BYTES];
	struct {
		uint64_t min_bytes, high_bytes, max_bytes;
	} budget[M_DEVICES];
};

struct m_ns {
	bool used;
	int tenant;
	uint32_t epoch;
	uint8_t digest; /* every byte of it */
};

struct m_device {
	uint32_t kind, ordinal;
	uint64_t capacity_bytes;
	uint64_t handle_bytes;
	int below;  /* the arena's index; M_NONE */
	bool ready; /* transfers can be made */
};

struct model {
	uint32_t devices; /* arenas come last */
	uint32_t opens;   /* of those, that clients open */
	struct m_device device[M_DEVICES];
	struct m_tenant tenant[M_TENANTS];
	struct m_client client[M_CLIENTS];
	struct m_member member[M_MEMBERS];
	struct m_space space[M_SPACES];
	struct m_ns ns[M_NAMESPACES];
};

void model_free(struct model *m);

/* ---- spaces and slabs ---------------------------------------------------------------------- */

void model_space_open(struct model *m, unsigned space, const struct m_space *geometry);
void model_space_drop(struct model *m, unsigned space);
void model_slab_live(struct world *w, unsigned space,
		     unsigned slot); /* takes the core's generations */
void model_slab_drop(struct model *m, unsigned space, unsigned slot);
/* The share of a table: alone all of it, beside other tenants no more than is left. */
bool model_share_fits(const struct model *m, uint32_t mine, uint32_t used, uint32_t limit);
uint64_t model_used_bytes(const struct model *m, int tenant, int device);
uint64_t model_granted_bytes(const struct model *m, int device);

/* ---- pages --------------------------------------------------------------------------------- */

/* The page a client means in a space, or NULL: a stale or wrong name. */
struct m_page *model_page(struct model *m, int space, kvb_page_t name, uint32_t *ret_slot);
/* By id, whatever its generation; NULL when no LIVE or DRAINING slab backs the id. */
struct m_page *model_page_at(struct model *m, int space, uint32_t id);
static inline bool model_leased(const struct m_page *p)
{
	return p->lessees != 0;
}
static inline bool model_leased_by(const struct m_page *p, int client)
{
	return p->lessees >> client & 1;
}
void model_lease_set(struct model *m, struct m_page *p, int client, uint32_t count, bool pin);
void model_page_freed(struct m_page *p); /* under its next generation */
/* Its key can not be found any more: of a past epoch, or past its time. */
bool model_stale(const struct world *w, const struct m_page *p);
/* Resident under the key: the id, or CORE_NONE. */
uint32_t model_find(const struct world *w, int space, int ns, uint64_t salt,
		    const struct kvb_hash *hash);
/* In the index under the key in this epoch, come or arriving, whatever its time and its slab. */
uint32_t model_under(const struct world *w, int space, int ns, uint64_t salt,
		     const struct kvb_hash *hash);
/* The space that clients have open, by all that makes it that one, whatever its index. */
uint64_t model_home(const struct model *m, const struct m_space *s);
/* What belongs into a page under its key; a space, what is below it and the store agree. */
uint64_t model_content(const struct m_space *s, const struct model *m, const struct m_page *p);
/* Puts a page that has just lost its last lease into the order. */
void model_touch(struct m_space *s, struct m_page *p);
uint32_t model_client_held(const struct model *m, int client);
uint32_t model_member_busy(const struct model *m, int member,
			   unsigned slot); /* held or leased there */

/* True the first time a name appears in a space: no name ever comes back. */
bool model_name_is_new(struct m_space *s, kvb_page_t name);

/* ---- judging (model_check.c, model_transfer.c) --------------------------------------------- */

extern const char *const model_page_states[];

/* Takes over transfers that the core has started: their pages are BUSY, one of them ARRIVING. */
void model_absorb_transfers(struct world *w);
/* What the end of one does to its pages. */
void model_transfer_end(struct world *w, unsigned transfer, int error);
/* The same of the store's part: the whole, or the first of two legs. */
void model_store_end(struct world *w, unsigned transfer, int error);
/* Takes over what the core may have done by itself since the last call; fails on anything else. */
void model_absorb(struct world *w);
/* Compares counters, budgets and states; slower. */
void model_compare(struct world *w);
