/* SPDX-License-Identifier: Apache-2.0 */

/*
 * See mini_lm_engine.h; the numbers of the sections are those of mini_lm.c.
 *
 * A call that fails in a way that may not be sets engine.lost, and from there nothing is asked of
 * the broker until the request has been given up and the connection with it. A call that gives less
 * than was asked for is no failure.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "mini_lm_engine.h"

#define GROW_TIMEOUT_NS 1000000000ull /* for memory that others have to give up first */
#define CALL_TIMEOUT_NS 2000000000ull /* what a broker that hangs may cost */
#define RECONNECT_NS 200000000ull
#define MAGAZINE 16 /* an answer takes a page at a time, and few of them */

static uint64_t clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

void die(const char *what)
{
	fprintf(stderr, "mini-lm: %s\n", what);
	exit(1);
}

/* Passes a result on. An error is told; after one that is final, or that must not be, the broker is
 * given up. */
static int64_t checked(struct engine *e, int64_t result, const char *what)
{
	if (result >= 0)
		return result;
	if (!e->lost)
		fprintf(stderr, "mini-lm: %s: %s\n", what, kvb_error_text(e->kvb));
	e->lost = true;
	return result;
}

/* ---- 1 to 3: the connection ----------------------------------------------------------------- */

static void engine_disconnect(struct engine *e)
{
	e->kvb = kvb_disconnect(e->kvb);
	e->lost = false;
	e->retry_ns = clock_ns() + RECONNECT_NS;
}

static void open_space(struct engine *e, uint32_t r)
{
	const struct options *o = &e->options;
	const struct kvb_space_params params = {
		.device_kind = o->device_kind,
		.device_ordinal = o->device_ordinal + (o->device_kind == KVB_DEVICE_CUDA ? r : 0),
		.regions = o->packed ? 1 : MODEL_LAYERS,
		.stride_bytes = MODEL_BLOCK_BYTES / o->ranks * (o->packed ? MODEL_LAYERS : 1),
	};
	const struct kvb_rank rank = { .group = 1, .ranks = o->ranks, .rank = r };
	struct kvb_space_info info;

	if (checked(e,
		    kvb_space_open_rank(e->kvb, &params, o->ranks > 1 ? &rank : NULL,
					&e->rank[r].space),
		    "space") < 0)
		return;
	/* A space that others have made has memory; what it gets is for all of them. */
	kvb_space_get_info(e->rank[r].space, &info);
	const uint64_t has = (uint64_t)info.slabs * info.pages_per_slab;
	if (has >= o->blocks)
		return;
	const int64_t got = kvb_space_grow(e->rank[r].space, o->blocks - has, GROW_TIMEOUT_NS);
	if (got < 0 && got != -ENOSPC && got != -EDQUOT) /* less than we wanted is no failure */
		checked(e, got, "memory");
}

/* See IDENTITY. */
static void open_namespace(struct engine *e)
{
	const struct options *o = &e->options;
	const uint32_t layout[] = {
		MODEL_LAYERS, MODEL_HEADS,        MODEL_HEAD_FLOATS, MODEL_MLP,
		MODEL_VOCAB,  MODEL_BLOCK_TOKENS, o->ranks,          o->packed
	};
	uint8_t identity[DIGEST_BYTES];
	struct kvb_ns_info ns;
	struct kvb_info info;
	uint64_t bytes;
	const void *weights = model_weights(e->model, &bytes);
	const struct digest_part parts[] = {
		{ "mini-lm, float", 14 },
		{ layout, sizeof(layout) },
		{ weights, bytes },
		{ o->run, o->run ? strlen(o->run) : 0 },
		{ &e->version, sizeof(e->version) },
	};

	if (!digest_make(parts, 5, identity))
		die("out of memory");
	if (checked(e, kvb_ns_open(e->kvb, identity, o->run ? KVB_NS_ADMIN : 0, &ns), "namespace") <
	    0)
		return;
	kvb_get_info(e->kvb, &info);
	/* Known to this broker from before: if its epoch is another now, an update has passed us
	 * by, and the one we remember keeps us from hits until we have followed. */
	if (info.boot_id != e->boot_id || memcmp(identity, e->identity, DIGEST_BYTES) != 0)
		e->epoch = ns.epoch;
	e->boot_id = info.boot_id;
	e->ns = ns.ns;
	memcpy(e->identity, identity, DIGEST_BYTES);
}

static void engine_connect(struct engine *e)
{
	const struct kvb_params params = { .name = "mini-lm",
					   .magazine = MAGAZINE,
					   .timeout_ns = CALL_TIMEOUT_NS };
	char why[256];

	if (e->kvb || e->options.no_broker || clock_ns() < e->retry_ns)
		return;
	if (kvb_connect(&params, &e->kvb, why) < 0) {
		fprintf(stderr, "mini-lm: %s; computing without\n", why);
		e->retry_ns = clock_ns() + RECONNECT_NS;
		return;
	}
	for (uint32_t r = 0; r < e->options.ranks && !e->lost; r++)
		open_space(e, r);
	if (!e->lost)
		open_namespace(e);
	if (e->lost)
		engine_disconnect(e);
}

/* ---- where a block lies --------------------------------------------------------------------- */

static bool kernels_reach_pages(const struct engine *e)
{
	return e->options.device_kind == KVB_DEVICE_HOST;
}

static uint32_t rank_bytes(const struct engine *e)
{
	return MODEL_BLOCK_BYTES / e->options.ranks; /* of one layer of one block */
}

static void bind_to_own(struct engine *e, uint32_t i)
{
	for (uint32_t l = 0; l < MODEL_LAYERS; l++)
		for (uint32_t r = 0; r < e->options.ranks; r++)
			e->block[i].kv[l][r] =
				e->own +
				((i * MODEL_LAYERS + l) * MODEL_BLOCK_BYTES + r * rank_bytes(e)) /
					sizeof(float);
}

static void bind_to_page(struct engine *e, uint32_t i)
{
	if (!kernels_reach_pages(e))
		return;
	for (uint32_t l = 0; l < MODEL_LAYERS; l++) {
		for (uint32_t r = 0; r < e->options.ranks; r++) {
			const struct rank *rank = &e->rank[r];
			char *at = kvb_page_addr(rank->space, e->options.packed ? 0 : l,
						 rank->page[i]);

			at += e->options.packed ? l * rank_bytes(e) : 0;
			e->block[i].kv[l][r] = (float *)(void *)at;
		}
	}
}

/* Between our own memory and a page that kernels do not reach, all of a rank's part of a block. */
static void copy_page(struct engine *e, uint32_t r, uint32_t i, bool write)
{
	const uint32_t regions = e->options.packed ? 1 : MODEL_LAYERS;
	const uint32_t layers = MODEL_LAYERS / regions, bytes = rank_bytes(e);
	const struct rank *rank = &e->rank[r];
	char piece[MODEL_LAYERS * MODEL_BLOCK_BYTES];

	if (kernels_reach_pages(e))
		return;
	for (uint32_t region = 0; region < regions && !e->lost; region++) {
		float *const(*kv)[MODEL_RANKS] = &e->block[i].kv[region];

		for (uint32_t l = 0; write && l < layers; l++)
			memcpy(piece + l * bytes, kv[l][r], bytes);
		if (write)
			checked(e,
				kvb_page_write(rank->space, region, rank->page[i], piece,
					       layers * bytes),
				"write");
		else
			checked(e,
				kvb_page_read(rank->space, region, rank->page[i], piece,
					      layers * bytes),
				"read");
		for (uint32_t l = 0; !write && l < layers; l++)
			memcpy(kv[l][r], piece + l * bytes, bytes);
	}
}

/* ---- 4 to 6: what is there already ---------------------------------------------------------- */

/* Gives leases back from `keep` on, tail first. False: they were not ours to the end. */
static bool release(struct engine *e, struct rank *rank, uint32_t keep)
{
	kvb_page_t page[MODEL_BLOCKS];
	uint32_t n = 0;

	while (rank->leased > keep)
		page[n++] = rank->page[--rank->leased];
	return !n || checked(e, kvb_release(rank->space, page, n), "release") == n;
}

/* Whether KV of an epoch is of our weights. Where those never change all KV of the namespace is,
 * and a new epoch only says that an operator had it dropped. */
static bool is_ours(struct engine *e, uint64_t epoch)
{
	if (!e->options.run)
		e->epoch = epoch;
	return e->epoch == epoch;
}

/* The leading run of a rank, at most `most` blocks, on the device and leased. */
static uint32_t find(struct engine *e, struct request *q, struct rank *rank, uint32_t most)
{
	uint32_t device = 0;
	uint64_t epoch = 0;
	kvb_page_t again;
	const int64_t run = checked(
		e,
		kvb_lookup_tiers(rank->space, e->ns, 0, q->hash, rank->page, most, &device, &epoch),
		"lookup");

	if (run < 0)
		return 0;
	rank->leased = device;
	if (!is_ours(e, epoch)) {
		release(e, rank, 0);
		return 0;
	}
	/* Here an engine weighs fetching against computing; this one always fetches. */
	if (run == device)
		return device;
	const int64_t more = checked(e,
				     kvb_load(rank->space, e->ns, 0, q->hash + device,
					      rank->page + device, (uint32_t)run - device, NULL),
				     "load");
	if (more <= 0)
		return device;
	rank->leased += (uint32_t)more;
	/* LOAD goes by the epoch of its own moment and does not tell it. Epochs only go up: if it
	 * is ours afterwards it was then. */
	const int64_t got =
		checked(e, kvb_lookup(rank->space, e->ns, 0, q->hash, &again, 1, &epoch), "lookup");
	if (got > 0)
		checked(e, kvb_release(rank->space, &again, 1), "release");
	if (got >= 0 && !is_ours(e, epoch))
		release(e, rank, 0);
	else
		q->below += (uint32_t)more;
	return rank->leased;
}

static void reuse(struct engine *e, struct request *q)
{
	/* Not the last token: what comes out of it is what is asked for. */
	const uint32_t most = (q->prompt_tokens - 1) / MODEL_BLOCK_TOKENS;
	uint32_t run = most;

	for (uint32_t r = 0; r < e->options.ranks && run && !e->lost; r++)
		run = find(e, q, &e->rank[r], run);
	for (uint32_t r = 0; r < e->options.ranks && !e->lost; r++)
		release(e, &e->rank[r], run);
	if (e->lost)
		return;
	for (uint32_t i = 0; i < run; i++) {
		bind_to_page(e, i);
		for (uint32_t r = 0; r < e->options.ranks; r++)
			copy_page(e, r, i, false);
	}
	e->paged = q->reused = run;
	if (!e->options.wrong_pages)
		return;
	for (uint32_t i = 1; i < run; i++)
		e->block[i] = e->block[0];
	q->sealing = false; /* others are not to suffer from it */
}

/* ---- 7: pages for the rest ------------------------------------------------------------------ */

static void alloc(struct engine *e, const struct request *q)
{
	const uint32_t blocks = (q->prompt_tokens + MODEL_BLOCK_TOKENS - 1) / MODEL_BLOCK_TOKENS;
	const uint32_t want = blocks - e->paged;
	int64_t got[MODEL_RANKS] = { 0 }, least = want;

	for (uint32_t r = 0; r < e->options.ranks && least > 0 && !e->lost; r++) {
		got[r] = checked(e, kvb_alloc(e->rank[r].space, e->rank[r].page + e->paged, want),
				 "alloc");
		least = got[r] < least ? got[r] : least;
	}
	for (uint32_t r = 0; r < e->options.ranks && !e->lost; r++)
		if (got[r] > least)
			checked(e,
				kvb_free(e->rank[r].space, e->rank[r].page + e->paged + least,
					 (uint32_t)(got[r] - least)),
				"free");
	if (e->lost)
		return;
	for (; least > 0; least--)
		bind_to_page(e, e->paged++);
}

/* The answer has come to a new block. */
static void alloc_one(struct engine *e, uint32_t i)
{
	if (!e->kvb || i != e->paged) /* behind a block that is not shared nothing needs to be */
		return;
	for (uint32_t r = 0; r < e->options.ranks; r++) {
		e->rank[r].page[i] = kvb_page_get(e->rank[r].space);
		if (e->rank[r].page[i] != KVB_PAGE_NONE)
			continue;
		while (r-- > 0)
			kvb_page_put(e->rank[r].space, e->rank[r].page[i]);
		return;
	}
	bind_to_page(e, e->paged++);
}

/* ---- 9: publish ----------------------------------------------------------------------------- */

/* Seals full blocks of the first `tokens` tokens that are not sealed yet. */
static void publish(struct engine *e, struct request *q, uint32_t tokens)
{
	const uint32_t full = tokens / MODEL_BLOCK_TOKENS;
	const uint32_t from = e->rank[0].leased, to = full < e->paged ? full : e->paged;

	for (uint32_t r = 0; r < e->options.ranks && q->sealing && from < to; r++) {
		struct rank *rank = &e->rank[r];
		struct kvb_seal seal[MODEL_BLOCKS];
		kvb_page_t now[MODEL_BLOCKS];

		for (uint32_t i = from; i < to; i++) {
			copy_page(e, r, i, true);
			seal[i - from] = (struct kvb_seal){ .page = rank->page[i],
							    .hash = q->hash[i],
							    .depth = i };
		}
		if (e->lost || (r == 1 && e->options.half))
			return;
		const int64_t n = kvb_seal(rank->space, e->ns, e->epoch, 0, seal, now, to - from);

		/* ESTALE: the weights were updated meanwhile, and nobody wants these any more.
		 * EDQUOT: too many leases. Either way our pages stay ours, to be used and given
		 * back. */
		if (n != to - from)
			q->sealing = false;
		if (n < 0 && n != -ESTALE && n != -EDQUOT)
			checked(e, n, "seal");
		for (uint32_t i = 0; n > 0 && i < (uint32_t)n; i++) {
			/* Another was first: that page has the key, and we its lease. */
			if (now[i] != rank->page[from + i])
				kvb_page_put(rank->space, rank->page[from + i]);
			rank->page[from + i] = now[i];
			rank->leased++;
			bind_to_page(e, from + i);
		}
		q->sealed += r == 0 && n > 0 ? (uint32_t)n : 0;
	}
}

/* ---- 10, 11: the end of a request ----------------------------------------------------------- */

/* True: whatever was read was right until now. */
static bool let_go(struct engine *e)
{
	bool held = true;

	if (!e->kvb)
		return true;
	for (uint32_t r = 0; r < e->options.ranks; r++) {
		struct rank *rank = &e->rank[r];
		const uint32_t unsealed = e->paged - rank->leased;

		if (unsealed)
			checked(e, kvb_free(rank->space, rank->page + rank->leased, unsealed),
				"free");
		held = release(e, rank, 0) && held;
	}
	e->paged = 0;
	kvb_quiet_point(e->kvb);
	return held && !e->lost;
}

/* ---- a request ------------------------------------------------------------------------------ */

static bool hash_full_blocks(struct request *q, uint32_t from_token)
{
	const struct kvb_hash start = { { 0 } };
	bool made = true;

	for (uint32_t i = from_token / MODEL_BLOCK_TOKENS; i < q->tokens / MODEL_BLOCK_TOKENS; i++)
		made = made &&
		       digest_chain(i ? &q->hash[i - 1] : &start, q->token + i * MODEL_BLOCK_TOKENS,
				    MODEL_BLOCK_TOKENS, &q->hash[i]);
	return made;
}

static uint8_t choose(const float *logits)
{
	uint32_t best = 0;

	for (uint32_t i = 1; i < MODEL_VOCAB; i++)
		best = logits[i] > logits[best] ? i : best;
	return (uint8_t)best;
}

/* False: the broker was lost on the way, and what came out counts for nothing. */
static bool request_compute(struct engine *e, struct request *q)
{
	const uint32_t ranks = e->options.ranks;

	q->tokens = q->prompt_tokens;
	q->reused = q->below = q->sealed = 0;
	q->sealing = true;
	e->paged = 0;
	for (uint32_t r = 0; r < ranks; r++)
		e->rank[r].leased = 0;
	for (uint32_t i = 0; i < MODEL_BLOCKS; i++)
		bind_to_own(e, i);
	if (!hash_full_blocks(q, 0))
		die("out of memory");
	if (e->kvb)
		reuse(e, q);
	if (e->kvb && !e->lost)
		alloc(e, q);

	for (uint32_t t = q->reused * MODEL_BLOCK_TOKENS; t < q->tokens && !e->lost; t++)
		model_forward(e->model, e->block, ranks, q->token[t], t,
			      t + 1 == q->tokens ? q->logits[0] : NULL);
	for (uint32_t n = 0; !e->lost; n++) {
		const uint32_t at = q->tokens;

		if (e->kvb && (n == 0 || at % MODEL_BLOCK_TOKENS == 0))
			publish(e, q, at);
		q->token[q->tokens++] = choose(q->logits[n]);
		if (n + 1 == e->options.answer_tokens)
			break;
		if (!hash_full_blocks(q, at))
			die("out of memory");
		if (at % MODEL_BLOCK_TOKENS == 0)
			alloc_one(e, at / MODEL_BLOCK_TOKENS);
		model_forward(e->model, e->block, ranks, q->token[at], at, q->logits[n + 1]);
	}
	return !e->lost && let_go(e);
}

void engine_answer(struct engine *e, struct request *q)
{
	q->again = 0;
	engine_connect(e);
	while (!request_compute(e, q)) {
		q->again = 1;
		engine_disconnect(e);
	}
}

/* ---- weights that change -------------------------------------------------------------------- */

void engine_update(struct engine *e, enum engine_update how)
{
	struct kvb_ns_info ns;

	engine_connect(e); /* under the weights as they still are */
	model_update(e->model);
	e->version++;
	if (e->kvb && how == ENGINE_UPDATE)
		checked(e, kvb_epoch_bump(e->kvb, e->ns, &e->epoch), "update");
	if (e->kvb && how == ENGINE_FOLLOW &&
	    checked(e, kvb_ns_open(e->kvb, e->identity, 0, &ns), "follow") == 0)
		e->epoch = ns.epoch;
	if (e->lost) /* connecting anew, it says which version it has */
		engine_disconnect(e);
}

void engine_idle(struct engine *e)
{
	if (!e->kvb)
		return;
	if (kvb_poll(e->kvb) < 0)
		engine_disconnect(e);
	else
		kvb_quiet_point(e->kvb);
}
