/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A client that kills itself at a labelled point of its life.
 *
 *   kill_client SOCKET POINT    SIGKILL at that point; `-` lives to the end
 *   kill_client --points        the labels, in the order in which a life passes them
 *
 * A point is a call of point() between two steps of tests/fault/peer.h. A life goes through all of
 * them, so that the later ones die with more on their hands. Exit status 1: a step failed, 2: the
 * point was not passed.
 */

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/fault/peer.h"

#define STRIDE_BYTES 65536u
#define BATCH 32u
#define SLABS 2u
#define RESULTS 4096u /* where operands and results of pages lie */

static const char *const labels[] = {
	"connected",       "hello_sent",    "hello_reply",    "mapped",         "space_sent",
	"space_reply",     "ns_opened",     "grow_in_flight", "grant_received", "grant_mapped",
	"grant_acked",     "sqe_written",   "tail_moved",     "doorbell_rung",  "cqe_not_reaped",
	"pages_held",      "pages_written", "magazine_full",  "seal_in_flight", "sealed_half",
	"seal_not_reaped", "pins_held",     "lookup_leases",  "fence_pending",  "shrink_sent",
	"revocation_seen", "reclaim_sent",  "second_space",   "release_half",   "socket_half_shut",
	"socket_closed",
};

static const char *die_at;

static void point(const char *label)
{
	static unsigned next;

	/* The table is what the driver goes by: a point it does not know would never be tried. */
	if (strcmp(labels[next++], label) != 0) {
		fprintf(stderr, "kill_client: point %s is not where the table has it\n", label);
		exit(1);
	}
	if (strcmp(label, die_at) == 0)
		kill(getpid(), SIGKILL);
}

static void must(int e, const char *what)
{
	if (e >= 0)
		return;
	fprintf(stderr, "kill_client: %s: %s\n", what, strerror(-e));
	exit(1);
}

struct life {
	struct peer p;
	uint32_t ns;
	uint64_t epoch;
	kvb_page_t page[BATCH], magazine[BATCH], sealed[BATCH];
	struct kvb_hash key[BATCH];
};

/* The calls that must succeed; res. */
static int32_t call(struct life *l, const struct kvb_sqe *sqe, const char *what)
{
	struct kvb_cqe cqe;

	must(peer_call(&l->p, sqe, &cqe), what);
	must(cqe.res, what);
	return cqe.res;
}

static struct kvb_sqe entry(const struct life *l, enum kvb_op op, uint32_t count)
{
	return (struct kvb_sqe){
		.opcode = (uint8_t)op,
		.space = (uint16_t)l->p.space.space,
		.count = count,
		.operand = count ? RESULTS : 0,
	};
}

static void say_hello(struct life *l, const char *socket)
{
	must(peer_connect(&l->p, socket), "connect");
	point("connected");
	must(peer_hello_send(&l->p, "", 64), "hello");
	point("hello_sent");
	must(peer_hello_take(&l->p), "hello reply");
	point("hello_reply");
	must(peer_map(&l->p), "map");
	point("mapped");
}

static void join(struct life *l)
{
	struct kvb_sqe sqe = { .opcode = KVB_OP_NS_OPEN, .count = 1, .operand = RESULTS };
	struct kvb_ns_open open = { .digest = { 0x59 }, .flags = 0 };
	struct kvb_ns_info info;

	must(peer_space_send(&l->p, 1, STRIDE_BYTES, 0), "space");
	point("space_sent");
	must(peer_space_take(&l->p), "space reply");
	point("space_reply");
	must(peer_grants(&l->p), "grants of others");
	memcpy(peer_operands(&l->p, RESULTS), &open, sizeof(open));
	call(l, &sqe, "ns_open");
	memcpy(&info, peer_results(&l->p, RESULTS), sizeof(info));
	l->ns = info.ns;
	l->epoch = info.epoch;
	point("ns_opened");
}

static void grow(struct life *l)
{
	struct kvb_sqe sqe = entry(l, KVB_OP_SPACE_GROW, 0);
	struct kvb_cqe cqe;

	sqe.count = SLABS;
	sqe.arg = 2000000000;
	*peer_sqe(&l->p) = sqe;
	peer_tail(&l->p);
	peer_doorbell(&l->p);
	point("grow_in_flight");
	must(peer_grant_take(&l->p), "grant");
	point("grant_received");
	must(peer_grant_map(&l->p), "map of a grant");
	point("grant_mapped");
	must(peer_grant_ack(&l->p), "ack");
	point("grant_acked");
	while (!peer_cqe_ready(&l->p))
		must(peer_grants(&l->p), "grants");
	must(peer_cqe_wait(&l->p, &cqe), "grow");
	peer_cqe_seen(&l->p);
	must(cqe.res, "grow");
}

/* The pages of the last ALLOC. */
static void take_pages(struct life *l, kvb_page_t *ret)
{
	memcpy(ret, peer_results(&l->p, RESULTS), BATCH * sizeof(*ret));
}

static void allocate(struct life *l)
{
	struct kvb_sqe sqe = entry(l, KVB_OP_ALLOC, BATCH);
	struct kvb_cqe cqe;

	*peer_sqe(&l->p) = sqe;
	point("sqe_written");
	peer_tail(&l->p);
	point("tail_moved");
	peer_doorbell(&l->p);
	point("doorbell_rung");
	must(peer_cqe_wait(&l->p, &cqe), "alloc");
	point("cqe_not_reaped");
	peer_cqe_seen(&l->p);
	if (cqe.res != (int32_t)BATCH)
		must(-ENOMEM, "alloc");
	take_pages(l, l->page);
	point("pages_held");
	for (unsigned i = 0; i < BATCH; i++)
		memset(peer_page(&l->p, l->page[i]), 0xd1, STRIDE_BYTES);
	point("pages_written");
	sqe.flags = KVB_ALLOC_MAGAZINE;
	call(l, &sqe, "magazine");
	take_pages(l, l->magazine);
	point("magazine_full");
}

static void write_seals(struct life *l, unsigned first, unsigned n)
{
	struct kvb_seal *seals = peer_operands(&l->p, RESULTS);

	for (unsigned i = 0; i < n; i++) {
		/* Of this process only: nobody else has sealed them, and nobody will. */
		l->key[first + i] =
			(struct kvb_hash){ { (uint64_t)getpid() << 32 | (first + i), 59 } };
		seals[i] = (struct kvb_seal){ .page = l->page[first + i],
					      .hash = l->key[first + i],
					      .depth = first + i };
	}
}

static void seal(struct life *l)
{
	struct kvb_sqe sqe = entry(l, KVB_OP_SEAL, BATCH / 2);
	struct kvb_cqe cqe;

	sqe.ns = (uint16_t)l->ns;
	sqe.arg = l->epoch;
	write_seals(l, 0, BATCH / 2);
	*peer_sqe(&l->p) = sqe;
	peer_tail(&l->p);
	peer_doorbell(&l->p);
	point("seal_in_flight");
	must(peer_cqe_wait(&l->p, &cqe), "seal");
	peer_cqe_seen(&l->p);
	must(cqe.res, "seal");
	point("sealed_half");
	write_seals(l, BATCH / 2, BATCH / 2);
	*peer_sqe(&l->p) = sqe;
	peer_tail(&l->p);
	peer_doorbell(&l->p);
	must(peer_cqe_wait(&l->p, &cqe), "seal");
	point("seal_not_reaped");
	peer_cqe_seen(&l->p);
}

static void lease(struct life *l)
{
	struct kvb_sqe sqe = entry(l, KVB_OP_PIN, BATCH);

	memcpy(peer_operands(&l->p, RESULTS), l->page, sizeof(l->page));
	call(l, &sqe, "pin");
	point("pins_held");
	sqe = entry(l, KVB_OP_LOOKUP, BATCH);
	sqe.ns = (uint16_t)l->ns;
	memcpy(peer_operands(&l->p, RESULTS), l->key, sizeof(l->key));
	if (call(l, &sqe, "lookup") != (int32_t)BATCH)
		must(-ENOENT, "lookup");
	point("lookup_leases");
}

/* A FREE that waits for a fence which never comes. */
static void wait_for_fence(struct life *l)
{
	struct kvb_sqe sqe = entry(l, KVB_OP_FREE, BATCH);

	memcpy(peer_operands(&l->p, RESULTS), l->magazine, sizeof(l->magazine));
	sqe.fence = 7;
	sqe.fence_value = 1;
	*peer_sqe(&l->p) = sqe;
	peer_tail(&l->p);
	peer_doorbell(&l->p);
	sqe = (struct kvb_sqe){ .opcode = KVB_OP_NOP };
	call(l, &sqe, "nop behind a fence");
	point("fence_pending");
}

static void be_revoked(struct life *l)
{
	struct kvb_sqe sqe = entry(l, KVB_OP_SPACE_SHRINK, 0);
	struct kvb_cqe cqe = { 0 };
	bool done = false;
	uint32_t slot = 0;

	sqe.count = 1;
	sqe.arg = 10000000000;
	*peer_sqe(&l->p) = sqe;
	peer_tail(&l->p);
	peer_doorbell(&l->p);
	point("shrink_sent");
	for (bool revoked = false; !revoked || !done;) {
		must(peer_cqe_wait(&l->p, &cqe), "revocation");
		peer_cqe_seen(&l->p);
		if (!(cqe.flags & KVB_CQE_EVENT)) {
			must(cqe.res, "shrink");
			done = true;
		} else if (cqe.user_data == KVB_EVENT_REVOKE) {
			slot = cqe.status;
			revoked = true;
		}
	}
	point("revocation_seen");
	sqe = entry(l, KVB_OP_RECLAIM_ACK, 0);
	sqe.arg = slot;
	*peer_sqe(&l->p) = sqe;
	peer_tail(&l->p);
	peer_doorbell(&l->p);
	point("reclaim_sent");
	must(peer_cqe_wait(&l->p, &cqe), "reclaim");
	peer_cqe_seen(&l->p);
}

/* Another space of this client, with memory on its way, and half of the leases given back. */
static void go(struct life *l)
{
	struct kvb_sqe sqe = entry(l, KVB_OP_RELEASE, BATCH / 2);

	must(peer_space_send(&l->p, 4, STRIDE_BYTES, (uint64_t)getpid()), "second space");
	point("second_space");
	memcpy(peer_operands(&l->p, RESULTS), l->page, sizeof(l->page));
	*peer_sqe(&l->p) = sqe;
	peer_tail(&l->p);
	peer_doorbell(&l->p);
	point("release_half");
	shutdown(l->p.fd, SHUT_WR);
	point("socket_half_shut");
	close(l->p.fd);
	l->p.fd = -1;
	usleep(20000); /* the daemon has heard of the end; the process still has its mappings */
	point("socket_closed");
}

int main(int argc, char **argv)
{
	static struct life life;
	const unsigned n = sizeof(labels) / sizeof(labels[0]);

	if (argc == 2 && strcmp(argv[1], "--points") == 0) {
		for (unsigned i = 0; i < n; i++)
			puts(labels[i]);
		return 0;
	}
	if (argc != 3) {
		fputs("usage: kill_client SOCKET POINT | --points\n", stderr);
		return 2;
	}
	die_at = argv[2];
	say_hello(&life, argv[1]);
	join(&life);
	grow(&life);
	allocate(&life);
	seal(&life);
	lease(&life);
	wait_for_fence(&life);
	be_revoked(&life);
	go(&life);
	peer_end(&life.p);
	return strcmp(die_at, "-") == 0 ? 0 : 2;
}
