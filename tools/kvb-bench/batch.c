/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Millions of operands through the ring.
 *
 * One entry carries `per` operands; up to `depth` entries are in flight, each with a slot of its
 * own in the operand area. Entries of these operations complete in order, so slot = number % depth.
 * The client never sleeps: it fills, publishes, and spins for completions, as an engine's scheduler
 * would that has more to ask for. What an engine would do too is part of the figure: operands are
 * copied in, results are copied out.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/kvb-bench/bench.h"

#define GROW_NS (60ull * 1000 * 1000 * 1000)
#define SPINS_MAX (1u << 22) /* between looks at the socket */
#define FLOOR_ROUNDS 20000u

const struct kvb_cqe *client_spin_cqe(struct kvb *kvb)
{
	for (;;) {
		for (unsigned i = 0; i < SPINS_MAX; i++) {
			const struct kvb_cqe *cqe = kvb_peek_cqe(kvb);

			if (cqe != NULL)
				return cqe;
			cpu_relax();
		}
		if (kvb_poll(kvb) < 0)
			bench_die("the broker has gone: %s", kvb_error_text(kvb));
	}
}

void client_open(const struct broker *b, const struct kvb_params *params,
		 const struct kvb_space_params *space, struct client *ret)
{
	struct kvb_params p = params != NULL ? *params : (struct kvb_params){ 0 };
	static const uint8_t digest[32] = "kvb-bench";
	int r;

	if (p.operand_bytes == 0)
		p.operand_bytes = 1u << 20;
	*ret = (struct client){ .kvb = client_connect(b, &p) };
	r = kvb_space_open(ret->kvb, space, &ret->space);
	if (r < 0)
		bench_die("cannot open a space: %s", kvb_error_text(ret->kvb));
	r = kvb_ns_open(ret->kvb, digest, 0, &ret->ns);
	if (r < 0)
		bench_die("cannot open a namespace: %s", kvb_error_text(ret->kvb));
	ret->operands = kvb_operands(ret->kvb, &ret->operand_bytes);
}

void client_close(struct client *c)
{
	kvb_disconnect(c->kvb);
	*c = (struct client){ 0 };
}

void client_grow(struct client *c, uint64_t pages)
{
	struct kvb_space_info info;
	uint64_t have;
	int64_t got;

	kvb_space_get_info(c->space, &info);
	have = (uint64_t)info.slabs * info.pages_per_slab;
	while (have < pages) {
		got = kvb_space_grow(c->space, pages - have, GROW_NS);
		if (got <= 0)
			bench_die("cannot grow to %llu pages, have %llu: %s",
				  (unsigned long long)pages, (unsigned long long)have,
				  got < 0 ? kvb_error_text(c->kvb) : "nothing granted");
		have += (uint64_t)got;
	}
}

struct job {
	enum kvb_op op;
	uint32_t per;
	uint32_t depth;
	uint32_t in_bytes;   /* of an operand */
	uint32_t slot_bytes; /* of an entry */
	const uint8_t *in;   /* NULL: nothing to copy in */
	kvb_page_t *out;     /* NULL: results are not wanted */
};

static void prepare(struct client *c, const struct job *job, uint32_t slot, uint64_t first,
		    uint32_t n)
{
	uint8_t *operands = c->operands + (size_t)slot * job->slot_bytes;
	uint32_t at = kvb_operand_offset(c->kvb, operands);
	struct kvb_sqe *sqe = kvb_get_sqe(c->kvb);

	if (sqe == NULL)
		bench_die("the submission queue is full with %u entries", job->depth);
	if (job->in != NULL)
		memcpy(operands, job->in + first * job->in_bytes, (size_t)n * job->in_bytes);
	switch (job->op) {
	case KVB_OP_ALLOC:
		kvb_prep_alloc(sqe, c->space, at, n);
		break;
	case KVB_OP_FREE:
		kvb_prep_free(sqe, c->space, at, n);
		break;
	case KVB_OP_SEAL:
		kvb_prep_seal(sqe, c->space, c->ns.ns, c->ns.epoch, 0, at, n);
		break;
	case KVB_OP_LOOKUP:
		kvb_prep_lookup(sqe, c->space, c->ns.ns, 0, at, n, false);
		break;
	default:
		kvb_prep_release(sqe, c->space, at, n);
		break;
	}
	sqe->user_data = slot;
}

/* Takes one completion; returns operands done. */
static uint32_t complete(struct client *c, const struct job *job, uint32_t slot, uint64_t first,
			 uint32_t n)
{
	const struct kvb_cqe *cqe = client_spin_cqe(c->kvb);
	uint32_t done;

	if (cqe->user_data != slot)
		bench_die("completions out of order");
	if (cqe->res < 0 || (uint32_t)cqe->res > n)
		bench_die("operation %d failed: %d (%s)", (int)job->op, cqe->res,
			  cqe->res < 0 ? strerror(-cqe->res) : "more than asked for");
	done = (uint32_t)cqe->res;
	if (done < n && job->op != KVB_OP_ALLOC)
		bench_die("operation %d did %u of %u operands (status %u, flags %#x)", (int)job->op,
			  done, n, cqe->status, cqe->flags);
	if (job->out != NULL)
		memcpy(job->out + first,
		       kvb_results(c->kvb,
				   kvb_operand_offset(
					   c->kvb, c->operands + (size_t)slot * job->slot_bytes)),
		       (size_t)done * sizeof(kvb_page_t));
	kvb_cqe_seen(c->kvb);
	return done;
}

/* An ALLOC may come up short; what is missing is asked for again until an answer is empty. */
static uint64_t run(struct client *c, struct job job, uint64_t n)
{
	uint32_t asked[256]; /* by slot */
	uint64_t sent = 0, entries = 0, completed = 0, done = 0;
	bool dry = false;

	job.slot_bytes =
		job.per * (job.in_bytes > sizeof(kvb_page_t) ? job.in_bytes : sizeof(kvb_page_t));
	if (job.depth > 256 || (size_t)job.depth * job.slot_bytes > c->operand_bytes)
		bench_die("the operand area is too small for %u entries", job.depth);
	while (completed < entries || (sent < n && !dry)) {
		uint32_t got, slot;

		while (sent < n && !dry && entries - completed < job.depth) {
			slot = (uint32_t)(entries++ % job.depth);
			asked[slot] = n - sent < job.per ? (uint32_t)(n - sent) : job.per;
			prepare(c, &job, slot, sent, asked[slot]);
			sent += asked[slot];
		}
		if (kvb_submit(c->kvb) < 0)
			bench_die("cannot submit: %s", kvb_error_text(c->kvb));
		slot = (uint32_t)(completed++ % job.depth);
		got = complete(c, &job, slot, done, asked[slot]);
		done += got;
		sent -= asked[slot] - got;
		dry = dry || got == 0;
	}
	return done;
}

uint64_t batch_alloc(struct client *c, kvb_page_t *ret, uint64_t n)
{
	return run(
		c,
		(struct job){
			.op = KVB_OP_ALLOC, .per = BENCH_BATCH, .depth = BENCH_DEPTH, .out = ret },
		n);
}

static void run_pages(struct client *c, enum kvb_op op, const kvb_page_t *pages, uint64_t n)
{
	run(c,
	    (struct job){ .op = op,
			  .per = BENCH_BATCH,
			  .depth = BENCH_DEPTH,
			  .in = (const uint8_t *)pages,
			  .in_bytes = sizeof(*pages) },
	    n);
}

void batch_free(struct client *c, const kvb_page_t *pages, uint64_t n)
{
	run_pages(c, KVB_OP_FREE, pages, n);
}

void batch_release(struct client *c, const kvb_page_t *pages, uint64_t n)
{
	run_pages(c, KVB_OP_RELEASE, pages, n);
}

void batch_seal(struct client *c, const struct kvb_seal *seals, kvb_page_t *ret, uint64_t n)
{
	run(c,
	    (struct job){ .op = KVB_OP_SEAL,
			  .per = BENCH_BATCH,
			  .depth = BENCH_DEPTH,
			  .in = (const uint8_t *)seals,
			  .in_bytes = sizeof(*seals),
			  .out = ret },
	    n);
}

void batch_lookup(struct client *c, const struct kvb_hash *hashes, kvb_page_t *ret, uint64_t n,
		  uint32_t per, uint32_t depth)
{
	run(c,
	    (struct job){ .op = KVB_OP_LOOKUP,
			  .per = per,
			  .depth = depth,
			  .in = (const uint8_t *)hashes,
			  .in_bytes = sizeof(*hashes),
			  .out = ret },
	    n);
}

/* ---- millions of small pages --------------------------------------------------------------- */

void fixture_open(const struct bench_options *o, struct fixture *ret)
{
	char device[64], pages[32];
	const char *args[] = { "--device", device, "--max-pages", pages, NULL };

	*ret = (struct fixture){ .n = o->pages, .random = 1 };
	snprintf(device, sizeof(device), "host:0=%llu",
		 (unsigned long long)o->pages * BENCH_STRIDE_BYTES);
	snprintf(pages, sizeof(pages), "%u", o->pages);
	cpu_pin(o->cpu_client);
	broker_start(o, o->cpu_broker, args, &ret->broker);
	ret->floor = floor_open(o->cpu_broker);
	client_open(&ret->broker, &(struct kvb_params){ .spin_ns = UINT64_MAX },
		    &(struct kvb_space_params){ .stride_bytes = BENCH_STRIDE_BYTES,
						.tag = (uint64_t)getpid() },
		    &ret->client);
	client_grow(&ret->client, o->pages);
	ret->pages = malloc((size_t)o->pages * sizeof(*ret->pages));
	if (ret->pages == NULL)
		bench_die("out of memory");
	fixture_floor(ret);
}

void fixture_close(struct fixture *f)
{
	free(f->pages);
	client_close(&f->client);
	f->floor = floor_close(f->floor);
	samples_free(&f->floor_ns);
	broker_stop(&f->broker);
}

void fixture_floor(struct fixture *f)
{
	floor_spin(f->floor, &f->floor_ns, FLOOR_ROUNDS);
}

#define SEAL_SLICE 8192u /* leases held at once; keys are made outside the timing */

uint64_t fixture_seal(struct fixture *f, uint32_t first, uint32_t n, uint64_t *ret_release_ns)
{
	struct kvb_seal *seals = calloc(SEAL_SLICE, sizeof(*seals));
	kvb_page_t *got = malloc(SEAL_SLICE * sizeof(*got));
	uint64_t start_ns, seal_ns = 0, release_ns = 0;

	if (seals == NULL || got == NULL)
		bench_die("out of memory");
	while (n > 0) {
		uint32_t now = n < SEAL_SLICE ? n : SEAL_SLICE;

		for (uint32_t i = 0; i < now; i++)
			seals[i] = (struct kvb_seal){ .page = f->pages[first + i],
						      .hash = random_hash(first + i),
						      .depth = i % 256 };
		start_ns = clock_now_ns();
		batch_seal(&f->client, seals, got, now);
		seal_ns += clock_now_ns() - start_ns;
		if (memcmp(got, f->pages + first, now * sizeof(*got)) != 0)
			bench_die("fresh keys were sealed to other pages");
		start_ns = clock_now_ns();
		batch_release(&f->client, got, now);
		release_ns += clock_now_ns() - start_ns;
		first += now;
		n -= now;
	}
	free(seals);
	free(got);
	*ret_release_ns = release_ns;
	return seal_ns;
}
