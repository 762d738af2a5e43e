/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Pages that go down and come up; see gpu.h.
 *
 * What a round does outside its timing: pages are allocated, which evicts those of the round
 * before (they have copies below, so nobody waits), and sealed under keys that nobody had before.
 * A LOAD finds its keys below because all pages of the device were taken meanwhile. Generations of
 * keys take turns in two namespaces, and a new one ends the epoch of the one before the last: so
 * the tier below never fills up with what nobody wants.
 *
 * Entries are kept in flight as an engine would that has much to move: up to WINDOW of them, each
 * with operands of its own. Those that wait let later ones pass, so completions come in any order.
 */

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "broker/admin/stats.h"
#include "tools/kvb-bench/gpu.h"

#define WINDOW 12u
#define SLOT_BYTES 8192u /* operands of an entry */
#define WAIT_NS (20ull * 1000 * 1000 * 1000)
#define WARM_NS (40ull * 1000 * 1000 * 1000)
#define PER_PAGES 32u /* of an entry, where both ways are used at once */

struct job {
	enum kvb_op op; /* STORE or LOAD */
	const void *in;
	uint32_t in_bytes; /* of an operand */
	uint32_t n, per;
	uint32_t ns;     /* LOAD */
	kvb_page_t *out; /* LOAD: pages */
	uint32_t sent, done, flying;
	uint64_t below; /* LOAD: keys that came from below */
	uint32_t first[WINDOW];
	bool used[WINDOW];
};

static uint32_t job_count(const struct job *j, uint32_t first)
{
	return j->n - first < j->per ? j->n - first : j->per;
}

static void job_send(struct client *c, struct job *j, unsigned which)
{
	uint32_t slot = 0, n = job_count(j, j->sent), at;
	struct kvb_sqe *sqe;
	uint8_t *operands;

	while (j->used[slot])
		slot++;
	operands = c->operands + (size_t)(which * WINDOW + slot) * SLOT_BYTES;
	memcpy(operands, (const uint8_t *)j->in + (size_t)j->sent * j->in_bytes,
	       (size_t)n * j->in_bytes);
	sqe = kvb_get_sqe(c->kvb);
	if (sqe == NULL)
		bench_die("the submission queue is full with %u entries", j->flying);
	at = kvb_operand_offset(c->kvb, operands);
	if (j->op == KVB_OP_STORE)
		kvb_prep_store(sqe, c->space, at, n);
	else
		kvb_prep_load(sqe, c->space, j->ns, 0, at, n, WAIT_NS);
	sqe->user_data = which * WINDOW + slot;
	j->used[slot] = true;
	j->first[slot] = j->sent;
	j->sent += n;
	j->flying++;
}

static void job_complete(struct client *c, struct job *j, uint32_t slot, const struct kvb_cqe *cqe)
{
	uint32_t first = j->first[slot], n = job_count(j, first);
	uint32_t at = kvb_operand_offset(c->kvb, c->operands + cqe->user_data * SLOT_BYTES);

	if (cqe->flags & KVB_CQE_NOTHING_BELOW)
		bench_die("the space has no lower tier");
	if (cqe->res != (int32_t)n)
		bench_die("%s: %d of %u pages (status %u, flags %#x)",
			  j->op == KVB_OP_STORE ? "STORE" : "LOAD", cqe->res, n, cqe->status,
			  cqe->flags);
	if (j->out != NULL)
		memcpy(j->out + first, kvb_results(c->kvb, at), n * sizeof(*j->out));
	j->below += cqe->aux;
	j->used[slot] = false;
	j->flying--;
	j->done += n;
}

static uint64_t run(struct client *c, struct job *jobs, unsigned n_jobs)
{
	uint64_t start_ns = clock_now_ns();
	const struct kvb_cqe *cqe;
	uint32_t flying;

	do {
		flying = 0;
		for (unsigned i = 0; i < n_jobs; i++) {
			struct job *j = &jobs[i];

			while (j->sent < j->n && j->flying < WINDOW)
				job_send(c, j, i);
			flying += j->flying;
		}
		if (flying == 0)
			break;
		kvb_submit(c->kvb);
		if (kvb_wait_cqe(c->kvb, &cqe, WAIT_NS) < 0)
			bench_die("copies do not end: %s", kvb_error_text(c->kvb));
		do {
			job_complete(c, &jobs[cqe->user_data / WINDOW], cqe->user_data % WINDOW,
				     cqe);
			kvb_cqe_seen(c->kvb);
		} while ((cqe = kvb_peek_cqe(c->kvb)) != NULL);
	} while (true);
	return clock_now_ns() - start_ns;
}

static void job_verify(const struct job *j)
{
	if (j->op == KVB_OP_LOAD && j->below != j->n)
		bench_die("%" PRIu64 " of %u keys came from below: there was nothing to measure",
			  j->below, j->n);
}

static struct job store_of(const struct rig *r, uint32_t n, uint32_t per)
{
	return (struct job){
		.op = KVB_OP_STORE, .in = r->page, .in_bytes = sizeof(*r->page), .n = n, .per = per
	};
}

/* Keys of a generation that is not older than the last but one. */
static struct job load_of(struct rig *r, uint64_t generation, const struct kvb_hash *hash,
			  uint32_t n, uint32_t per)
{
	return (struct job){ .op = KVB_OP_LOAD,
			     .in = hash,
			     .in_bytes = sizeof(*hash),
			     .n = n,
			     .per = per,
			     .ns = r->ns[generation % 2].ns,
			     .out = r->got };
}

uint64_t rig_store_ns(struct rig *r, uint32_t n, uint32_t per)
{
	struct job j = store_of(r, n, per);

	return run(&r->client, &j, 1);
}

uint64_t rig_load_ns(struct rig *r, uint32_t n, uint32_t per)
{
	struct job j = load_of(r, r->generation, r->hash, n, per);
	uint64_t ns = run(&r->client, &j, 1);

	job_verify(&j);
	return ns;
}

/* Both ways at once: page[0..n) down, keys up[0..n) up. */
static uint64_t both_ns(struct rig *r, uint32_t n, const struct kvb_hash *up)
{
	struct job j[2] = { store_of(r, n, PER_PAGES),
			    load_of(r, r->generation - 1, up, n, PER_PAGES) };
	uint64_t ns = run(&r->client, j, 2);

	job_verify(&j[1]);
	return ns;
}

/* ---- pages and keys ------------------------------------------------------------------------ */

void rig_open(struct gpu_bench *b, uint32_t regions, uint64_t stride_bytes, uint64_t bytes,
	      struct rig *ret)
{
	struct kvb_space_info info;
	uint64_t slab_bytes, slabs;

	*ret = (struct rig){ .regions = regions, .page_bytes = regions * stride_bytes };
	client_open(&b->broker, NULL,
		    &(struct kvb_space_params){ .device_kind = KVB_DEVICE_CUDA,
						.device_ordinal = b->o->device,
						.regions = regions,
						.stride_bytes = stride_bytes },
		    &ret->client);
	for (unsigned i = 0; i < 2; i++) {
		const uint8_t digest[32] = { 'r', 'i', 'g', (uint8_t)i };

		if (kvb_ns_open(ret->client.kvb, digest, KVB_NS_ADMIN, &ret->ns[i]) < 0)
			bench_die("cannot open a namespace: %s", kvb_error_text(ret->client.kvb));
	}
	kvb_space_get_info(ret->client.space, &info);
	slab_bytes = info.pages_per_slab * ret->page_bytes;
	slabs = (bytes + slab_bytes - 1) / slab_bytes;
	ret->n = (uint32_t)(slabs * info.pages_per_slab);
	client_grow(&ret->client, ret->n);
	ret->page = calloc(ret->n, sizeof(*ret->page));
	ret->got = calloc(ret->n, sizeof(*ret->got));
	ret->seal = calloc(ret->n, sizeof(*ret->seal));
	ret->hash = calloc(ret->n, sizeof(*ret->hash));
	ret->above = calloc(ret->n, sizeof(*ret->above));
	if (!ret->page || !ret->got || !ret->seal || !ret->hash || !ret->above)
		bench_die("out of memory");
}

/*
 * Whoever opens the space next finds no pages on the device. What is below stays, and makes room as
 * it is needed.
 */
static void give_back(struct client *c)
{
	uint64_t until_ns = clock_now_ns() + WAIT_NS;
	struct kvb_space_info info;

	kvb_space_get_info(c->space, &info);
	if (kvb_space_shrink(c->space, (uint64_t)info.slabs * info.pages_per_slab, 0) < 0)
		bench_die("cannot shrink: %s", kvb_error_text(c->kvb));
	do {
		if (kvb_quiet_point(c->kvb) < 0)
			bench_die("the broker has gone: %s", kvb_error_text(c->kvb));
		kvb_space_get_info(c->space, &info);
		if (clock_now_ns() > until_ns)
			bench_die("%u slabs do not go back", info.slabs);
	} while (info.slabs > 0);
}

void rig_close(struct rig *r)
{
	give_back(&r->client);
	free(r->page);
	free(r->got);
	free(r->seal);
	free(r->hash);
	free(r->above);
	client_close(&r->client);
}

/* One entry at a time: above a tier those that wait would be passed by others. */
void rig_alloc(struct rig *r, uint32_t n)
{
	uint64_t until_ns = clock_now_ns() + WAIT_NS;
	uint32_t got = 0;

	while (got < n) {
		int64_t more = kvb_alloc(r->client.space, r->page + got, n - got);

		if (more < 0 || clock_now_ns() > until_ns)
			bench_die("got %u of %u pages: %s", got, n,
				  more < 0 ? kvb_error_text(r->client.kvb)
					   : "is another client here?");
		got += (uint32_t)more;
	}
}

void rig_alloc_all(struct rig *r)
{
	rig_alloc(r, r->n);
}

void rig_evict_all(struct rig *r)
{
	rig_alloc_all(r);
	batch_free(&r->client, r->page, r->n);
}

void rig_seal(struct rig *r, uint32_t n)
{
	struct kvb_ns_info *ns = &r->ns[++r->generation % 2];

	/* Nobody wants the generation before the last any more: its copies make room. */
	if (kvb_epoch_bump(r->client.kvb, ns->ns, &ns->epoch) < 0)
		bench_die("cannot end an epoch: %s", kvb_error_text(r->client.kvb));
	r->client.ns = *ns;
	for (uint32_t i = 0; i < n; i++) {
		r->hash[i] = random_hash(r->generation << 32 | i);
		r->seal[i] =
			(struct kvb_seal){ .page = r->page[i], .hash = r->hash[i], .depth = i };
	}
	batch_seal(&r->client, r->seal, r->got, n);
	if (memcmp(r->got, r->page, n * sizeof(*r->page)) != 0)
		bench_die("fresh keys were sealed to other pages");
}

uint64_t rig_exchange_ns(struct rig *r)
{
	const uint32_t half = r->n / 2;
	uint64_t ns;

	memcpy(r->above, r->hash, half * sizeof(*r->above));
	rig_alloc_all(r);
	batch_free(&r->client, r->page + half, r->n - half);
	rig_seal(r, half);
	ns = both_ns(r, half, r->above);
	batch_release(&r->client, r->page, half);
	batch_release(&r->client, r->got, half);
	return ns;
}

/* Pages that the space below the rig's has; a daemon of this benchmark has one that counts. */
static uint64_t pages_below(struct gpu_bench *b)
{
	const struct stats_segment *seg = broker_stats(&b->broker);
	const uint32_t arena = seg->device[gpu_stats_device(b, seg)].below;
	uint64_t pages = 0;

	for (uint32_t i = 0; i < seg->spaces_n; i++)
		if (seg->space[i].device == arena)
			pages += seg->space[i].pages;
	return pages;
}

void rig_warm(struct gpu_bench *b, struct rig *r, uint32_t n)
{
	const uint32_t some = n / 2 < r->n ? n / 2 : r->n; /* must fit below twice over */
	uint64_t until_ns = clock_now_ns() + WARM_NS;

	do {
		rig_alloc_all(r);
		rig_seal(r, some);
		rig_store_ns(r, some, PER_PAGES);
		batch_release(&r->client, r->page, some);
		batch_free(&r->client, r->page + some, r->n - some);
		if (clock_now_ns() > until_ns)
			bench_die("the tier below has %" PRIu64 " pages of the %u wanted",
				  pages_below(b), n);
	} while (pages_below(b) < n);
}

/* ---- contents ------------------------------------------------------------------------------ */

void rig_mark(struct rig *r, uint32_t region, kvb_page_t page, uint64_t what)
{
	if (kvb_page_write(r->client.space, region, page, &what, sizeof(what)) < 0)
		bench_die("cannot write a page: %s", kvb_error_text(r->client.kvb));
}

void rig_verify(struct rig *r, uint32_t region, kvb_page_t page, uint64_t what)
{
	uint64_t seen;

	if (kvb_page_read(r->client.space, region, page, &seen, sizeof(seen)) < 0)
		bench_die("cannot read a page: %s", kvb_error_text(r->client.kvb));
	if (seen != what)
		bench_die("a page came back with other bytes than it went down with");
}
