/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Any entries in the rings of two clients, and any use of what they can write: indices that jump,
 * operands that lie, fences, completions left unreaped, grants acknowledged, refused or ignored.
 *
 * An input is a run of records. Entries are built sane and then spoiled as the input says, because
 * random bytes would never get past the argument checks; page names that the daemon returned can be
 * named again by number. Entries gather until a record makes them visible, so that a batch is what
 * the daemon sees. After each record the server runs dry and the tables must be whole.
 */

#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/fuzz/server.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

#define PEERS 2u
#define ENTRIES 8u
#define AREA 512u /* of the operand area, for each entry of a ring */
#define BATCH_MAX (AREA / sizeof(struct kvb_seal))
#define RECORDS_MAX 48u

struct world {
	struct server s;
	struct fuzz_input in;
	struct peer p[PEERS];
	uint32_t taken[PEERS]; /* entries filled, visible or not */
	kvb_page_t name[256];
	uint8_t names;
};

/* ---- life ---------------------------------------------------------------------------------- */

static void pump(void *arg)
{
	fuzz_server_settle(arg);
}

static void attach(struct world *w, unsigned i, const char *tenant)
{
	struct peer *p = &w->p[i];
	struct kvb_sqe ns = { .opcode = KVB_OP_NS_OPEN, .count = 1 };
	struct kvb_sqe grow = { .opcode = KVB_OP_SPACE_GROW, .count = 1, .arg = 1 };
	struct kvb_ns_open open = { .flags = KVB_NS_ADMIN };
	struct kvb_cqe cqe;

	peer_adopt(p, fuzz_server_connect(&w->s));
	p->idle = pump;
	p->idle_arg = &w->s;
	MUST(peer_hello_send(p, tenant, ENTRIES) == 0 && peer_hello_take(p) == 0);
	MUST(peer_map(p) == 0);
	MUST(peer_space_send(p, 1, 65536, 0) == 0 && peer_space_take(p) == 0);
	memcpy(peer_operands(p, 0), &open, sizeof(open));
	MUST(peer_call(p, &ns, &cqe) == 0 && cqe.res >= 0);
	MUST(peer_call(p, &grow, &cqe) == 0 && cqe.res == 1);
	w->taken[i] = p->sq_tail;
}

/* ---- records ------------------------------------------------------------------------------- */

static kvb_page_t take_name(struct world *w)
{
	uint8_t i = fuzz_take_byte(&w->in);
	kvb_page_t name;

	if (i < 0xf0)
		return w->name[i];
	fuzz_take(&w->in, &name, sizeof(name));
	return name;
}

static void fill_operands(struct world *w, struct peer *p, uint8_t op, uint32_t at, uint32_t n)
{
	char *to = peer_operands(p, at);
	struct kvb_ns_open open = { .digest = { fuzz_take_byte(&w->in) }, .flags = 1 };

	for (uint32_t i = 0; i < n && op != KVB_OP_NS_OPEN; i++) {
		struct kvb_hash hash = { { 0, 0 } };
		struct kvb_seal seal = { .depth = i };
		kvb_page_t page = KVB_PAGE_NONE;

		if (op == KVB_OP_LOOKUP || op == KVB_OP_LOAD || op == KVB_OP_PREFETCH)
			hash.w[0] = fuzz_take_byte(&w->in);
		else
			page = take_name(w);
		seal.page = page;
		if (op == KVB_OP_SEAL)
			seal.hash.w[0] = fuzz_take_byte(&w->in);
		if (op == KVB_OP_SEAL)
			memcpy(to + i * sizeof(seal), &seal, sizeof(seal));
		else if (page)
			memcpy(to + i * sizeof(page), &page, sizeof(page));
		else
			memcpy(to + i * sizeof(hash), &hash, sizeof(hash));
	}
	if (op == KVB_OP_NS_OPEN)
		memcpy(to, &open, sizeof(open));
}

static bool has_operands(uint8_t op)
{
	return op != KVB_OP_NOP && op != KVB_OP_SPACE_GROW && op != KVB_OP_SPACE_SHRINK &&
	       op != KVB_OP_RECLAIM_ACK && op != KVB_OP_EPOCH_BUMP && op != KVB_OP_CANCEL;
}

/* One entry: sane, then up to three bytes of it as the input has them. */
static void add_entry(struct world *w, unsigned i)
{
	struct peer *p = &w->p[i];
	uint8_t op = fuzz_take_byte(&w->in), n = fuzz_take_byte(&w->in);
	uint8_t spoil = fuzz_take_byte(&w->in), arg = fuzz_take_byte(&w->in);
	struct kvb_sqe *sqes = (void *)(p->sub + p->hello.sub_sqes);
	uint32_t slot = w->taken[i]++ & (ENTRIES - 1), at = slot * AREA;
	struct kvb_sqe sqe = { .opcode = op % (KVB_OP_N + 1), .user_data = at };

	op = sqe.opcode;
	if (has_operands(op)) {
		sqe.count = op == KVB_OP_NS_OPEN ? 1 : n % BATCH_MAX + 1;
		sqe.operand = at;
		fill_operands(w, p, op, at, sqe.count);
	} else if (op == KVB_OP_SPACE_GROW || op == KVB_OP_SPACE_SHRINK) {
		sqe.count = n % 5 + 1;
	}
	if (op == KVB_OP_SEAL || op == KVB_OP_RECLAIM_ACK || op == KVB_OP_HINT)
		sqe.arg = arg;
	else if (op == KVB_OP_CANCEL)
		sqe.arg = (uint64_t)(arg % ENTRIES) * AREA;
	if (op == KVB_OP_ALLOC || op == KVB_OP_LOOKUP)
		sqe.flags = arg & 1;
	if ((op == KVB_OP_FREE || op == KVB_OP_SEAL) && arg & 0x40) {
		sqe.fence = 1 + arg % 4;
		sqe.fence_value = 1;
	}
	for (unsigned k = 0; k < (spoil & 3) && spoil >= 0x80; k++) {
		uint8_t where = fuzz_take_byte(&w->in) % sizeof(sqe);

		((uint8_t *)&sqe)[where] = fuzz_take_byte(&w->in);
	}
	sqes[slot] = sqe;
}

/* Completions taken: names of pages are kept, whatever their entry was. */
static void reap(struct world *w, unsigned i)
{
	struct peer *p = &w->p[i];
	struct kvb_cqe cqe;

	for (unsigned k = 0; k < 4 * ENTRIES && peer_cqe_ready(p); k++) {
		if (peer_cqe_wait(p, &cqe))
			return;
		peer_cqe_seen(p);
		if (cqe.flags & KVB_CQE_EVENT || cqe.res <= 0 || cqe.user_data > ENTRIES * AREA)
			continue;
		for (int32_t n = 0; n < cqe.res && n < 4; n++) {
			kvb_page_t page;

			memcpy(&page, peer_results(p, (uint32_t)cqe.user_data + (uint32_t)n * 8),
			       sizeof(page));
			w->name[w->names++ % 0xf0] = page;
		}
	}
}

static void answer_grants(struct peer *p, uint8_t how)
{
	struct kvb_msg_grant_ack ack = { .status = how & 1 ? 12 : 0 };
	char peek;

	while (recv(p->fd, &peek, 1, MSG_DONTWAIT | MSG_PEEK) > 0) {
		if (peer_grant_take(p))
			return; /* an error, or a hang-up */
		ack.seq = p->grant_seq + (how & 2 ? 1 : 0);
		if (!(how & 4))
			(void)peer_send(p, KVB_MSG_GRANT_ACK, &ack, sizeof(ack));
	}
}

/* What a client writes beside entries: indices, flags, fences. */
static void meddle(struct world *w, struct peer *p)
{
	struct kvb_sub *sub = (void *)p->sub;
	struct kvb_fence *fences = (void *)p->fence;
	uint8_t what = fuzz_take_byte(&w->in);
	uint64_t value;

	fuzz_take(&w->in, &value, what & 0x80 ? 8 : 1);
	switch (what & 3) {
	case 0:
		__atomic_store_n(&sub->sq_tail, p->sq_tail + (uint32_t)value, __ATOMIC_RELEASE);
		break;
	case 1:
		__atomic_store_n(&sub->cq_head, p->cq_head + (uint32_t)value, __ATOMIC_RELEASE);
		break;
	case 2:
		__atomic_store_n(&sub->need_wake, (uint32_t)value, __ATOMIC_RELEASE);
		break;
	default:
		__atomic_store_n(&fences[what >> 2 & 3].value, value, __ATOMIC_RELEASE);
	}
	peer_doorbell(p);
}

static void record(struct world *w)
{
	uint8_t what = fuzz_take_byte(&w->in);
	unsigned i = what & 1;
	struct peer *p = &w->p[i];

	if (p->fd < 0)
		return;
	switch (what >> 1 & 7) {
	case 0:
	case 1:
	case 2:
		add_entry(w, i);
		if (what & 0x80)
			return; /* not yet visible: the next goes with it */
		break;
	case 3:
		answer_grants(p, what >> 4);
		return;
	case 4:
		meddle(w, p);
		break;
	case 5: /* time passes: deadlines, leases of time */
		w->s.now_ns += (uint64_t)fuzz_take_byte(&w->in) << 20;
		break;
	case 6:
		reap(w, i);
		return;
	default:
		if (what & 0x80) {
			peer_end(p);
			fuzz_server_settle(&w->s);
			return;
		}
	}
	while (p->sq_tail != w->taken[i])
		peer_tail(p);
	peer_doorbell(p);
	fuzz_server_settle(&w->s);
	if (!(what & 0x40))
		reap(w, i);
	if (!(what & 0x20))
		answer_grants(p, 0);
	fuzz_server_settle(&w->s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	static struct world w;

	w = (struct world){ .in = { data, bytes } };
	fuzz_server_start(&w.s);
	attach(&w, 0, "default");
	attach(&w, 1, fuzz_take_byte(&w.in) & 1 ? "other" : "default");
	for (unsigned i = 0; i < RECORDS_MAX && w.in.left; i++)
		record(&w);
	for (unsigned i = 0; i < PEERS; i++)
		peer_end(&w.p[i]);
	fuzz_server_end(&w.s);
	return 0;
}
