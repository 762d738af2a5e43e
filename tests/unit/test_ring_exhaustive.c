/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Small rings, every interleaving.
 *
 * Client and daemon are two little programs whose every step is one access to shared memory; a
 * search walks all orders of these steps from a fresh ring until both are at rest. The client's
 * steps are the library's own (uapi/steps.h); the daemon's are written after the contract with
 * broker/io/shm.h. A world is one flat struct, so that it can be copied, hashed and gone back to.
 *
 * What must hold in every order: entries and completions arrive once, in order and whole; no slot
 * is reused before its reader is done; and nobody sleeps for ever: a world in which no step is
 * possible and not all has been delivered is a lost wake-up.
 *
 * The search knows no store buffers. That the four full fences of (E) and (F) are needed is shown
 * the other way round: with the load moved before the store, as a CPU may do without the fence,
 * the same search must find the lost wake-up. That also proves that it can.
 */

#include "tests/unit/suite.h"

#include <stdlib.h>
#include <string.h>

#include "broker/io/shm.h"
#include "uapi/steps.h"

#define ENTRIES_MAX 4u
#define FIRST_INDEX (UINT32_MAX - 1) /* the indices wrap on the way */

/* Which full fence is left out. */
enum weak { WEAK_NONE, WEAK_CLIENT_E, WEAK_DAEMON_E, WEAK_CLIENT_F, WEAK_DAEMON_F };

enum client_pc {
	C_FILL,  /* next entry, if there is room and something left to send */
	C_SEND,  /* (A) */
	C_FLAGS, /* (E) */
	C_BELL,
	C_TAKE,    /* (C) */
	C_SHOW,    /* (D) */
	C_MESSAGE, /* socket */
	C_WORD,    /* (F) from here */
	C_ARM,
	C_NEWS,
	C_FUTEX,
	C_ASLEEP,
	C_DISARM,
	C_DONE,
};

enum daemon_pc {
	D_TAIL, /* (A) */
	D_SLOT, /* (D) */
	D_COPY,
	D_HEAD, /* (B) */
	D_POST,
	D_CQTAIL, /* (C) */
	D_NEED,   /* (F) */
	D_WAKE,
	D_FUTEX,
	D_MESSAGE,
	D_FLAG, /* (E) from here */
	D_AGAIN,
	D_ASLEEP,
	D_CLEAR,
};

struct world {
	struct kvb_sub sub;
	struct kvb_ctl ctl;
	struct kvb_sqe sqes[ENTRIES_MAX];
	struct kvb_cqe cqes[ENTRIES_MAX];
	bool sqe_live[ENTRIES_MAX]; /* written and not yet read: what nobody may overwrite */
	bool cqe_live[ENTRIES_MAX];
	uint32_t bell; /* doorbell's count */
	struct kvb_ring ring;
	struct {
		uint32_t pc, filled, taken, messages, word;
		bool news, ring_bell;
	} c;
	struct {
		uint32_t pc, after, sq_head, sq_tail, cq_head, cq_tail, bell, copied, messages;
		bool need_wake, again;
	} d;
};

static struct world w; /* the pointers in w.ring lead into w itself, so a copy put back is whole */
static uint32_t total, total_messages;
static uint32_t batch; /* entries the client makes visible at once */
static enum weak weak;

/* ---- the client ---------------------------------------------------------------------------- */

static bool client_can_step(void)
{
	return w.c.pc != C_DONE && w.c.pc != C_ASLEEP;
}

static void client_fill(void)
{
	const uint32_t slot = w.ring.sq_tail & (w.ring.sq_entries - 1);
	const int room = kvb_step_sq_room(&w.ring);

	ck_assert_int_ge(room, 0);
	if (!room || w.c.filled == total || w.ring.sq_tail - w.ring.sq_sent == batch) {
		w.c.pc = w.ring.sq_tail == w.ring.sq_sent ? C_TAKE
			 : weak == WEAK_CLIENT_E          ? C_FLAGS
							  : C_SEND;
		return;
	}
	ck_assert(!w.sqe_live[slot]);
	w.sqes[slot] = (struct kvb_sqe){ .user_data = w.c.filled++ };
	w.sqe_live[slot] = true;
	w.ring.sq_tail++;
}

static void client_take(void)
{
	const uint32_t slot = w.ring.cq_head & (w.ring.cq_entries - 1);
	struct kvb_cqe cqe;
	const int got = kvb_step_take(&w.ring, &cqe);

	ck_assert_int_ge(got, 0);
	if (got) {
		ck_assert(w.cqe_live[slot]);
		ck_assert_uint_eq(cqe.user_data, w.c.taken);
		w.cqe_live[slot] = false;
		w.cqes[slot] =
			(struct kvb_cqe){ 0 }; /* fewer worlds that differ in what nobody reads */
		w.c.taken++;
	}
	w.c.pc = kvb_step_show_due(&w.ring, got) ? C_SHOW : got ? C_FILL : C_MESSAGE;
	w.c.word = w.c.pc == C_SHOW && got; /* where C_SHOW goes on */
}

static void client_step(void)
{
	switch (w.c.pc) {
	case C_FILL:
		client_fill();
		break;
	case C_SEND:
		kvb_step_send(&w.ring);
		w.c.pc = weak != WEAK_CLIENT_E ? C_FLAGS : w.c.ring_bell ? C_BELL : C_TAKE;
		break;
	case C_FLAGS:
		w.c.ring_bell = kvb_step_flags(&w.ring) & KVB_CTL_NEED_DOORBELL;
		w.c.pc = weak == WEAK_CLIENT_E ? C_SEND : w.c.ring_bell ? C_BELL : C_TAKE;
		break;
	case C_BELL:
		w.bell++;
		w.c.ring_bell = false;
		w.c.pc = C_TAKE;
		break;
	case C_TAKE:
		client_take();
		break;
	case C_SHOW:
		kvb_step_show_head(&w.ring);
		w.c.pc = w.c.word ? C_FILL : C_MESSAGE;
		w.c.word = 0;
		break;
	case C_MESSAGE:
		w.c.messages += kvb_word_acquire(&w.ctl.sock_seq) - w.ring.sock_seen;
		w.ring.sock_seen = w.c.messages;
		w.c.pc = w.c.taken == total && w.c.messages == total_messages ? C_DONE : C_WORD;
		break;
	case C_WORD:
		w.c.word = kvb_step_wake_word(&w.ring);
		w.c.pc = weak == WEAK_CLIENT_F ? C_NEWS : C_ARM;
		break;
	case C_ARM:
		kvb_step_arm(&w.ring);
		w.c.pc = weak != WEAK_CLIENT_F ? C_NEWS : w.c.news ? C_DISARM : C_FUTEX;
		break;
	case C_NEWS:
		w.c.news = kvb_step_news(&w.ring);
		w.c.pc = weak == WEAK_CLIENT_F ? C_ARM : w.c.news ? C_DISARM : C_FUTEX;
		break;
	case C_FUTEX: /* the kernel compares and sleeps as one */
		w.c.pc = kvb_step_wake_word(&w.ring) == w.c.word ? C_ASLEEP : C_DISARM;
		break;
	case C_DISARM:
		kvb_step_disarm(&w.ring);
		w.c.word = w.c.news = 0;
		w.c.pc = C_FILL;
		break;
	}
}

/* ---- the daemon ---------------------------------------------------------------------------- */

static bool daemon_can_step(void)
{
	if (w.d.pc == D_ASLEEP)
		return w.bell != w.d.bell;
	if (w.d.pc == D_SLOT) /* looked at now and then; a look that sees nothing new is no step */
		return w.sub.cq_head != w.d.cq_head;
	return true;
}

static bool slot_free(void)
{
	return w.d.cq_tail - w.d.cq_head < w.ring.cq_entries;
}

static void daemon_tail(void)
{
	w.d.sq_tail = shm_load_acquire(&w.sub.sq_tail);
	if (w.d.sq_tail != w.d.sq_head)
		w.d.pc = slot_free() ? D_COPY : D_SLOT;
	else
		w.d.pc = w.d.messages < total_messages ? D_MESSAGE
			 : weak == WEAK_DAEMON_E       ? D_AGAIN
						       : D_FLAG;
}

static void daemon_copy(void)
{
	const uint32_t slot = w.d.sq_head & (w.ring.sq_entries - 1);

	ck_assert(w.sqe_live[slot]);
	ck_assert_uint_eq(w.sqes[slot].user_data, w.d.copied);
	w.sqe_live[slot] = false;
	w.sqes[slot] = (struct kvb_sqe){ 0 };
	w.d.sq_head++;
	w.d.pc = D_HEAD;
}

static void daemon_post(void)
{
	const uint32_t slot = w.d.cq_tail & (w.ring.cq_entries - 1);

	ck_assert(!w.cqe_live[slot]);
	w.cqes[slot] = (struct kvb_cqe){ .user_data = w.d.copied++ };
	w.cqe_live[slot] = true;
	w.d.cq_tail++;
	w.d.after = D_CQTAIL;
	w.d.pc = weak == WEAK_DAEMON_F ? D_NEED : D_CQTAIL;
}

/* (F) The store that the client may be asleep for, and whether to wake it. */
static void daemon_tell(bool stored)
{
	if (stored)
		w.d.pc = weak != WEAK_DAEMON_F ? D_NEED : w.d.need_wake ? D_WAKE : D_TAIL;
	else
		w.d.pc = weak == WEAK_DAEMON_F ? w.d.after : w.d.need_wake ? D_WAKE : D_TAIL;
}

static void daemon_step(void)
{
	switch (w.d.pc) {
	case D_TAIL:
		daemon_tail();
		break;
	case D_SLOT:
		w.d.cq_head = shm_load_acquire(&w.sub.cq_head);
		w.d.pc = slot_free() ? D_COPY : D_SLOT;
		break;
	case D_COPY:
		daemon_copy();
		break;
	case D_HEAD:
		shm_store_release(&w.ctl.sq_head, w.d.sq_head);
		w.d.pc = D_POST;
		break;
	case D_POST:
		daemon_post();
		break;
	case D_CQTAIL:
		shm_store_release(&w.ctl.cq_tail, w.d.cq_tail);
		w.d.after = 0;
		daemon_tell(true);
		break;
	case D_NEED:
		w.d.need_wake = shm_load(&w.sub.need_wake);
		daemon_tell(false);
		break;
	case D_WAKE:
		shm_store_release(&w.ctl.wake, shm_load(&w.ctl.wake) + 1);
		w.d.need_wake = false;
		w.d.pc = D_FUTEX;
		break;
	case D_FUTEX:
		if (w.c.pc == C_ASLEEP)
			w.c.pc = C_DISARM;
		w.d.pc = D_TAIL;
		break;
	case D_MESSAGE:
		if (weak == WEAK_DAEMON_F && w.d.after != D_MESSAGE) {
			w.d.after = D_MESSAGE;
			w.d.pc = D_NEED;
			break;
		}
		w.d.after = 0;
		shm_store_release(&w.ctl.sock_seq, ++w.d.messages);
		daemon_tell(true);
		break;
	case D_FLAG:
		shm_store(&w.ctl.flags, KVB_CTL_NEED_DOORBELL);
		w.d.pc = weak != WEAK_DAEMON_E ? D_AGAIN : w.d.again ? D_CLEAR : D_ASLEEP;
		break;
	case D_AGAIN:
		w.d.again = shm_load_acquire(&w.sub.sq_tail) != w.d.sq_head;
		w.d.pc = weak == WEAK_DAEMON_E ? D_FLAG : w.d.again ? D_CLEAR : D_ASLEEP;
		break;
	case D_ASLEEP:
		w.d.bell = w.bell;
		w.d.pc = D_CLEAR;
		break;
	case D_CLEAR:
		shm_store(&w.ctl.flags, 0);
		w.d.again = false;
		w.d.pc = D_TAIL;
		break;
	}
}

/* ---- the search ---------------------------------------------------------------------------- */

/* Worlds met, by a 64-bit hash of all their bytes. */
struct seen {
	uint64_t *hash;
	uint64_t room, used;
};

static uint64_t world_hash(void)
{
	const unsigned char *p = (const unsigned char *)&w;
	uint64_t h = 0x9e3779b97f4a7c15ull;

	for (size_t i = 0; i < sizeof(w); i += 4) {
		uint32_t word;

		memcpy(&word, p + i, 4);
		h = (h ^ word) * 0xff51afd7ed558ccdull;
		h ^= h >> 32;
	}
	return h | 1;
}

static bool seen_add(struct seen *s, uint64_t hash)
{
	if (s->used * 2 >= s->room) {
		struct seen old = *s;

		s->room = old.room ? old.room * 2 : 1u << 16;
		s->used = 0;
		s->hash = calloc(s->room, sizeof(*s->hash));
		ck_assert_ptr_nonnull(s->hash);
		for (uint64_t i = 0; i < old.room; i++)
			if (old.hash[i])
				seen_add(s, old.hash[i]);
		free(old.hash);
	}
	for (uint64_t i = hash & (s->room - 1);; i = (i + 1) & (s->room - 1)) {
		if (s->hash[i] == hash)
			return false;
		if (!s->hash[i]) {
			s->hash[i] = hash;
			s->used++;
			return true;
		}
	}
}

static void begin(uint32_t sq_entries, uint32_t cq_entries)
{
	memset(&w, 0, sizeof(w));
	w.ctl.sq_head = w.ctl.cq_tail = FIRST_INDEX;
	w.d.sq_head = w.d.sq_tail = w.d.cq_head = w.d.cq_tail = FIRST_INDEX;
	w.ring.sub = &w.sub;
	w.ring.ctl = &w.ctl;
	w.ring.sqes = w.sqes;
	w.ring.cqes = w.cqes;
	w.ring.sq_entries = sq_entries;
	w.ring.cq_entries = cq_entries;
	kvb_step_begin(&w.ring);
}

/* Walks all orders. Returns how many worlds there are, or 0 once one is stuck. */
static uint64_t search(uint32_t sq_entries, uint32_t cq_entries)
{
	struct seen seen = { 0 };
	struct world *stack = NULL;
	size_t depth = 0, room = 0;
	bool stuck = false;

	begin(sq_entries, cq_entries);
	seen_add(&seen, world_hash());
	stack = malloc((room = 1024) * sizeof(*stack));
	stack[depth++] = w;
	while (depth && !stuck) {
		const struct world here = stack[--depth];

		w = here;
		stuck = !client_can_step() && !daemon_can_step() && w.c.pc != C_DONE;
		for (unsigned who = 0; who < 2; who++) {
			w = here;
			if (who ? !daemon_can_step() : !client_can_step())
				continue;
			if (who)
				daemon_step();
			else
				client_step();
			if (!seen_add(&seen, world_hash()))
				continue;
			if (depth == room)
				stack = realloc(stack, (room *= 2) * sizeof(*stack));
			ck_assert_ptr_nonnull(stack);
			stack[depth++] = w;
		}
	}
	free(stack);
	free(seen.hash);
	return stuck ? 0 : seen.used;
}

/* Slots of the queues, and entries: enough to go round each once and more. */
static const uint32_t sizes[][3] = { { 2, 2, 4 }, { 2, 4, 4 }, { 4, 4, 5 } };

static void search_all(uint32_t sq_entries, uint32_t cq_entries, uint32_t entries)
{
	for (total = 1; total <= entries; total++) {
		for (total_messages = 0; total_messages <= 1; total_messages++) {
			const uint64_t worlds = search(sq_entries, cq_entries);

			ck_assert_msg(
				worlds > 0,
				"lost wake-up: ring %u/%u, %u entries, %u messages, batches of %u",
				sq_entries, cq_entries, total, total_messages, batch);
			/* Two programs of ten steps an entry each: fewer would be a search that
			 * does not. */
			ck_assert_uint_gt(worlds, 100 * total);
		}
	}
}

START_TEST(no_order_loses_anything)
{
	weak = WEAK_NONE;
	for (batch = 1; batch <= ENTRIES_MAX; batch += ENTRIES_MAX - 1)
		for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
			search_all(sizes[i][0], sizes[i][1], sizes[i][2]);
}
END_TEST

START_TEST(each_fence_is_needed)
{
	for (unsigned f = WEAK_CLIENT_E; f <= WEAK_DAEMON_F; f++) {
		bool lost = false;

		weak = f;
		batch = ENTRIES_MAX;
		total_messages = 0;
		for (total = 1; total <= 4 && !lost; total++)
			lost = search(2, 2) == 0;
		ck_assert_msg(lost, "without fence %u nothing is lost: the search sees too little",
			      f);
	}
}
END_TEST

START_TEST(messages_alone_wake_too)
{
	weak = WEAK_NONE;
	total = 0;
	total_messages = 3;
	ck_assert_uint_gt(search(2, 2), 0);
	weak = WEAK_DAEMON_F;
	ck_assert_uint_eq(search(2, 2), 0);
}
END_TEST

int main(void)
{
	static const struct suite_case cases[] = {
		{ &no_order_loses_anything, 120 },
		{ &each_fence_is_needed, 60 },
		{ &messages_alone_wake_too, 0 },
		{ NULL, 0 },
	};

	return suite_run("ring-exhaustive", cases);
}
