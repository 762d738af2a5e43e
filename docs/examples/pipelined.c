/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The ring: many operations in flight, none waited for one by one.
 *
 * Runs rounds of ALLOC and FREE, a batch of pages an entry, DEPTH entries in flight. Each entry in
 * flight owns a part of the operand area, found again by its user_data; the part is free to be used
 * once the completion has been seen.
 *
 *     KVBROKER_SOCKET=/tmp/b.sock example-pipelined
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libkvbroker.h"

#define DEPTH 8
#define BATCH 64
#define ROUNDS 10000

struct lane {
	kvb_page_t *operands; /* in the ring user's half of the operand area */
	uint32_t held;        /* pages to be freed by the next entry; 0: the next one allocates */
};

/* Puts the next entry of a lane into the queue; kvb_submit() makes it visible. */
static void queue(struct kvb *kvb, const struct kvb_space *space, struct lane *lane,
		  uint64_t number)
{
	struct kvb_sqe *sqe = kvb_get_sqe(kvb); /* there is room: at most DEPTH are in flight */
	const uint32_t operand = kvb_operand_offset(kvb, lane->operands);

	if (lane->held)
		kvb_prep_free(sqe, space, operand, lane->held);
	else
		kvb_prep_alloc(sqe, space, operand, BATCH);
	sqe->user_data = number;
}

/* Takes a completion in. Returns pages allocated by it. */
static uint32_t complete(struct kvb *kvb, struct lane *lane, const struct kvb_cqe *cqe)
{
	if (cqe->res < 0) {
		fprintf(stderr, "example-pipelined: %s\n", strerror(-cqe->res));
		exit(1);
	}
	if (lane->held) {
		lane->held = 0;
		return 0;
	}
	/* Results lie at the operands' offset of the daemon's memory; FREE wants them as operands.
	 */
	lane->held = (uint32_t)cqe->res;
	memcpy(lane->operands, kvb_results(kvb, kvb_operand_offset(kvb, lane->operands)),
	       lane->held * sizeof(kvb_page_t));
	return lane->held;
}

int main(void)
{
	const struct kvb_space_params params = { .stride_bytes = 4096, .tag = 2 };
	struct lane lane[DEPTH] = { 0 };
	struct kvb_space *space;
	uint64_t pages = 0;
	struct kvb *kvb;
	size_t bytes;
	char why[256];

	if (kvb_connect(NULL, &kvb, why) < 0) {
		fprintf(stderr, "example-pipelined: %s\n", why);
		return 1;
	}
	if (kvb_space_open(kvb, &params, &space) < 0 ||
	    kvb_space_grow(space, DEPTH * BATCH, 1000000000) < 0) {
		fprintf(stderr, "example-pipelined: %s\n", kvb_error_text(kvb));
		return 1;
	}
	kvb_page_t *area = kvb_operands(kvb, &bytes);
	for (uint64_t i = 0; i < DEPTH; i++) {
		lane[i].operands = area + i * BATCH;
		queue(kvb, space, &lane[i], i);
	}
	kvb_submit(kvb);
	for (uint64_t done = 0, sent = DEPTH; done < ROUNDS; done++) {
		const struct kvb_cqe *cqe;

		if (kvb_wait_cqe(kvb, &cqe, UINT64_MAX) < 0) {
			fprintf(stderr, "example-pipelined: %s\n", kvb_error_text(kvb));
			return 1;
		}
		struct lane *mine = &lane[cqe->user_data];
		pages += complete(kvb, mine, cqe);
		kvb_cqe_seen(kvb);
		if (sent++ < ROUNDS) {
			queue(kvb, space, mine, (uint64_t)(mine - lane));
			kvb_submit(kvb);
		}
	}
	printf("%u entries, %llu pages allocated, %u in flight at a time\n", ROUNDS,
	       (unsigned long long)pages, DEPTH);
	kvb_disconnect(kvb);
	return 0;
}
