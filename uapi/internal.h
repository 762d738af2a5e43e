/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What the files of libkvbroker share; never installed.
 *
 *   connect.c   socket, handshake, mapping of the rings, end of a connection
 *   socket.c    messages in and out, with their fds
 *   ring.c      entries and completions, waiting, whose completion is whose
 *   space.c     addresses, grants, revocation; space_host.c and space_cuda.c how a grant is mapped
 *   ops.c       one-call wrappers
 *   fence.c     fence words, and their release when the broker is gone
 *   magazine.c  page ids at hand
 *
 * COMPLETIONS HAVE FOUR OWNERS, told apart by user_data and the EVENT flag:
 *   user      bit 63 clear: kept for kvb_peek_cqe(), in `side` when a wrapper met it
 *   call      the one wrapper call in progress (kvb_ring_call() does not nest)
 *   magazine  the one refill or return a space has in flight
 *   event     RECALL and REVOKE: noted in the space; acted on later, outside of any call
 * The daemon sends one completion an entry. The library lets a user have at most cq_entries entries
 * unreaped, so that `side` can never run over unless the daemon lies, which ends the connection.
 *
 * THE OPERAND AREA has three parts: the user's half, then kvb_ring_call()'s, then a fixed part for
 * the magazine of each space. A part is used by one entry at a time (the user minds his own).
 *
 * A CONNECTION ENDS ONCE. kvb_end() remembers why in `dead`; from then on every call answers that,
 * and nothing is unmapped before kvb_disconnect(), so the engine can finish reading.
 */

#include <stdarg.h>

#include "libkvbroker.h"
#include "steps.h"

#define KVB_SOCKET_TICK_NS (2ull * 1000 * 1000) /* how soon a sleeper first looks at the socket */
#define KVB_SOCKET_TICK_MAX_NS (64ull * 1000 * 1000) /* and at most how late */
#define KVB_ERROR_BYTES 256u

/* user_data of the library's own entries */
#define KVB_OWN (1ull << 63)
#define KVB_OWN_MAGAZINE                                                                           \
	(1ull << 62) /* lower bits: handle of the space; else number of the call                   \
		      */

enum kvb_magazine_op {
	KVB_MAGAZINE_IDLE,
	KVB_MAGAZINE_REFILL,
	KVB_MAGAZINE_GIVE,
	KVB_MAGAZINE_GIVE_REST, /* a return that stopped; its rest is to be sent again */
};

/* `low` is 0 while memory is short: then a refill waits until the magazine is empty. */
struct kvb_magazine {
	uint32_t n;        /* ids at hand */
	uint32_t low;      /* at or below it a refill is asked for */
	uint32_t size;     /* of pages[] */
	uint32_t want;     /* to be filled up to; shrinks when memory is called back */
	uint32_t incoming; /* ids asked for by the refill in flight; their room is kept */
	uint32_t sent;     /* operands of the entry in flight */
	uint32_t operand;  /* where those start */
	uint32_t chunk;    /* ids one entry can carry */
	uint32_t area;     /* this magazine's part of the operand area */
	uint32_t flags;    /* KVB_CQE_* of the last refill */
	enum kvb_magazine_op op;
	bool recall; /* give everything back */
	kvb_page_t *pages;
};

#define KVB_SLOT_REVOKED (1u << 0)
#define KVB_SLOT_TELL (1u << 1)       /* the user has not been told yet */
#define KVB_SLOT_RECLAIMING (1u << 2) /* RECLAIM_ACK is on its way */

struct kvb_slot {
	uint32_t mapped; /* handles */
	uint32_t flags;  /* KVB_SLOT_* */
	uint64_t deadline_ns;
};

struct kvb_space {
	struct kvb_magazine magazine; /* first: the hot part */
	struct kvb *kvb;
	uint32_t handle;
	uint32_t device; /* its ordinal */
	uint8_t device_uuid[16];
	uint32_t regions;
	uint32_t pages_per_slab;
	uint32_t handles_per_region;
	uint32_t slots;
	uint32_t slabs;   /* completely mapped */
	uint32_t revoked; /* slots with KVB_SLOT_REVOKED */
	uint64_t stride_bytes;
	uint64_t handle_bytes;
	uint64_t region_bytes;
	uint64_t tiers; /* a bit 1 << enum kvb_tier each */
	char *base;
	const struct kvb_space_ops *ops;
	void *reserved; /* host: whole reservation; base is aligned in it */
	uint64_t reserved_bytes;
	struct cuda_client *cuda; /* cuda: the driver's side of it */
	bool fences_known;        /* cuda: its streams can reach the fence words */
	struct kvb_slot *slot;
};

/* How the memory of a kind of device is mapped: one table a kind. All set the error text. */
struct kvb_space_ops {
	/* Addresses for regions * region_bytes at s->base. */
	int (*reserve)(struct kvb_space *s);
	/* Unmaps everything and gives the addresses back, also half-way through reserve. */
	void (*finish)(struct kvb_space *s);
	/* Every handle of a grant whose numbers were checked. After an error the caller unmaps the
	 * slabs that it names; the fds stay the caller's. */
	int (*map)(struct kvb_space *s, const struct kvb_msg_grant *g, const int *fds);
	/* Whatever of slab `slot` is mapped, in all regions. What cannot be unmapped ends the
	 * connection, and so it is with finish: a broken promise that memory is out of use is not
	 * given. */
	void (*unmap)(struct kvb_space *s, uint32_t slot);
	/* Bytes of mapped pages, by address. */
	int (*write)(struct kvb_space *s, char *at, const void *from, size_t bytes);
	int (*read)(struct kvb_space *s, const char *at, void *to, size_t bytes);
	/* A stream of the device sets fence word `fence`, or waits for it. NULL: it has no streams.
	 */
	int (*stream_write)(struct kvb_space *s, void *stream, uint32_t fence, uint64_t value);
	int (*stream_wait)(struct kvb_space *s, void *stream, uint32_t fence, uint64_t value);
};

struct kvb_region_map {
	void *mem;
	uint64_t bytes;
};

struct kvb {
	struct kvb_ring ring;
	uint32_t in_flight; /* user's entries got and not reaped */
	bool current_used;
	bool chores; /* kvb_ring_chores() has something to do */
	bool tell;   /* kvb_space_tell() has */
	bool telling;
	int dead;               /* 0, or why the connection is over */
	struct kvb_cqe current; /* the user's, as peeked */
	struct kvb_cqe *side;   /* cq_entries */
	uint32_t side_head, side_tail;

	/* the call in progress */
	uint64_t call; /* its user_data; 0 = none */
	uint64_t calls;
	bool call_done;
	struct kvb_cqe call_cqe;

	int fd;
	int doorbell;
	uint64_t spin_ns;
	uint64_t timeout_ns;
	long hang_up_tick;
	uint64_t grants;   /* grant messages handled */
	uint64_t refusals; /* of them, those that could not be mapped; the error text says why */
	uint32_t magazine_size;
	uint32_t call_operand, call_bytes; /* parts of the operand area */
	uint32_t magazine_operand, magazine_bytes;
	char *operands;
	const char *results;
	struct kvb_fence *fences;
	uint64_t fence_used; /* a bit a word: kvb_fence_get() gave it out */
	/* fence.c says how two threads use these */
	uint64_t fence_waited;            /* a bit a word: a LOAD was sent that sets it */
	uint64_t fence_failed;            /* a bit a word: set by us in place of the broker */
	uint64_t fence_value[KVB_FENCES]; /* the furthest that a LOAD sets the word to */
	bool fence_over;                  /* the broker sets none any more */
	struct kvb_region_map sub, ctl, fence;
	struct kvb_info info;

	/* answer to SPACE_OPEN */
	bool reply_wanted;
	int reply_error; /* 0 = none yet, 1 = reply below, < 0 the daemon's errno */
	struct kvb_msg_space_reply reply;

	kvb_revoke_fn revoke_fn;
	void *revoke_arg;
	struct kvb_space *space[KVB_SPACES_MAX]; /* by handle */
	char error[KVB_ERROR_BYTES];
};

/* ---- connect.c ----------------------------------------------------------------------------- */
uint64_t kvb_clock_ns(void);
uint64_t kvb_deadline_ns(uint64_t timeout_ns); /* saturates */
/* Sets the error text; returns err. */
int kvb_fail(struct kvb *kvb, int err, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* As kvb_fail(), and the connection is over. The first reason stays. */
int kvb_end(struct kvb *kvb, int err, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Lays struct kvb over mapped rings described by reply; checks every number in it. */
int kvb_attach(struct kvb *kvb, const struct kvb_msg_hello_reply *reply, void *sub, const void *ctl,
	       void *fence);

/* ---- socket.c ------------------------------------------------------------------------------ */
union kvb_message {
	struct kvb_msg_header h;
	struct kvb_msg_hello_reply hello;
	struct kvb_msg_space_reply space;
	struct kvb_msg_grant grant;
	struct kvb_msg_error error;
	uint8_t bytes[KVB_MSG_BYTES_MAX];
};

int kvb_socket_open(struct kvb *kvb, const char *path);
int kvb_socket_send(struct kvb *kvb, struct kvb_msg_header *h, enum kvb_msg_type type,
		    size_t bytes);
/* One message and its fds, which are the caller's. 1, 0 nothing there, -ENOTCONN, -EPROTO. */
int kvb_socket_receive(struct kvb *kvb, union kvb_message *m, int *fds, unsigned *ret_nfds);
int kvb_socket_wait(struct kvb *kvb, uint64_t deadline_ns); /* readable: 0, -ETIME, -ENOTCONN */
int kvb_socket_process(struct kvb *kvb); /* everything that has arrived; 0 or why it is over */
bool kvb_socket_hung_up(struct kvb *kvb);

/* ---- ring.c -------------------------------------------------------------------------------- */
/* Runs *sqe, whose operands are in the call's part, and waits. 0 with *ret, or negative. */
int kvb_ring_call(struct kvb *kvb, const struct kvb_sqe *sqe, uint64_t timeout_ns,
		  struct kvb_cqe *ret);
/* The same in two steps, for who has something to do in between that makes no other call. After an
 * error of the first there is no second. */
int kvb_ring_call_start(struct kvb *kvb, const struct kvb_sqe *sqe, uint64_t timeout_ns);
int kvb_ring_call_finish(struct kvb *kvb, uint64_t timeout_ns, struct kvb_cqe *ret);
/* Sends an own entry now if a slot is free and no entry of the user is half done. */
bool kvb_ring_try_send(struct kvb *kvb, const struct kvb_sqe *sqe);
int kvb_ring_send(struct kvb *kvb, const struct kvb_sqe *sqe, uint64_t deadline_ns); /* waits */
int kvb_ring_reap(struct kvb *kvb); /* what has arrived, each to its owner */
/* Until there is news: 0, -ETIME, or why it is over. Handles what came. */
int kvb_ring_wait(struct kvb *kvb, uint64_t deadline_ns);
void kvb_ring_chores(struct kvb *kvb); /* returns of recalled magazines */
/* Chores and the user's callback. At the end of a public call that waits, when the results of the
 * call have been copied: the callback may make calls of its own. */
void kvb_ring_deferred(struct kvb *kvb);
/* After KVB_CQE_GRANT_PENDING: lets a grant come, for *wait_ns, which doubles a call. The daemon
 * says "pending" until it has seen our acknowledgement, so this ends by time and not by the grant
 * alone. True: ask again. */
#define KVB_GRANT_WAIT_NS (50ull * 1000)
bool kvb_ring_wait_grant(struct kvb *kvb, uint64_t *wait_ns, uint64_t deadline_ns);

/* ---- space.c ------------------------------------------------------------------------------- */
int kvb_space_granted(struct kvb *kvb, const struct kvb_msg_grant *grant, const int *fds);
void kvb_space_event(struct kvb *kvb, const struct kvb_cqe *cqe);
void kvb_space_tell(struct kvb *kvb); /* the user's callback for what was revoked */
struct kvb_space *kvb_space_free(struct kvb_space *space);

extern const struct kvb_space_ops kvb_space_host, kvb_space_cuda;

/* Bytes of one slab in one region. */
static inline uint64_t kvb_space_part_bytes(const struct kvb_space *s)
{
	return s->handles_per_region * s->handle_bytes;
}

static inline char *kvb_space_part_base(const struct kvb_space *s, uint32_t region, uint32_t slot)
{
	return s->base + region * s->region_bytes + slot * kvb_space_part_bytes(s);
}

static inline char *kvb_space_handle_addr(const struct kvb_space *s,
					  const struct kvb_grant_entry *e)
{
	return kvb_space_part_base(s, e->handle / s->handles_per_region, e->slot) +
	       e->handle % s->handles_per_region * s->handle_bytes;
}

/* ---- fence.c ------------------------------------------------------------------------------- */
/* A LOAD with a fence word is on its way, or will not be sent any more. */
void kvb_fence_note(struct kvb *kvb, const struct kvb_sqe *sqe);
void kvb_fence_release_all(struct kvb *kvb); /* the connection is over; any thread, repeatable */

/* ---- magazine.c ---------------------------------------------------------------------------- */
int kvb_magazine_init(struct kvb_space *space);
void kvb_magazine_completed(struct kvb_space *space, const struct kvb_cqe *cqe);
bool kvb_magazine_chore(struct kvb_space *space); /* true: more to do later */
int kvb_magazine_flush(struct kvb_space *space);  /* all ids back, waiting for it */
