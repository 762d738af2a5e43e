/* SPDX-License-Identifier: Apache-2.0 */

/*
 * An engine in C on kvbroker, whole: a small transformer (mini_lm_model.h) whose KV cache lies in
 * pages of the broker. What is written here is what an engine of any size has to do, in the order
 * in which it does it; the transformer stands for its kernels.
 *
 *     kvbrokerd --socket /tmp/b.sock --state-dir /tmp/b --device host:0=64M --host-tier 256M &
 *     KVBROKER_SOCKET=/tmp/b.sock mini-lm --check "$(cat README.md | head -c 2000)"
 *
 * A second run, or another process at the same time, answers the same and computes a fraction.
 *
 * ONCE A CONNECTION (engine_connect)
 *   1. kvb_connect
 *   2. kvb_space_open: a region a layer, so that kernels see the layers as separate arrays, or all
 *      layers packed in one. A page is one block of 16 tokens in all of them. kvb_space_grow asks
 *      for memory.
 *   3. kvb_ns_open: the namespace, a digest of whatever makes KV bytes what they are. See IDENTITY.
 *
 * FOR EACH REQUEST (request_compute)
 *   4. hashes of the chain of full blocks of the prompt
 *   5. kvb_lookup_tiers: how long a run is there, and where; what is on the device is leased
 *   6. kvb_load: brings up what is below. Both may give less than there was a moment ago.
 *   7. kvb_alloc: pages for the rest. It may give fewer, or none: those blocks lie in memory of our
 *      own and are not shared. kvb_page_get: one more, while answering, in nanoseconds
 *   8. compute; K and V are written straight into the pages
 *   9. kvb_seal: full blocks are published under their keys. From here nobody writes them.
 *  10. kvb_release, tail first, so that the heads of chains are the last to be evicted; kvb_free of
 *      what was not sealed
 *  11. kvb_quiet_point: nothing here reads pages of the broker. Memory it wants back goes now.
 *
 * WHEN THE BROKER DIES. Any call may say so. Then nothing tells who holds the pages we had leased:
 * their bytes are not ours any more, from some moment on that we cannot know. So a request counts
 * only when its leases could be given back, which proves that they were held until then; else it is
 * computed again in our own memory. That costs time and never an answer. Later requests try to
 * connect again. An engine that streams its answer asks before each token that goes out: kvb_nop()
 * is a round trip.
 *
 * IDENTITY. The digest is of the weights themselves, never of a name, and of all that decides how
 * bytes lie. Where weights are updated in place the epoch is the version: each update bumps it, in
 * O(1) for all tiers, and what was computed before is never found again. Three rules keep that
 * exact. A hit counts only if the lookup's epoch is the one our weights belong to: another engine
 * may have updated before us. Bytes are sealed with that epoch, and refused if it has passed. And
 * who connects anew at a later version opens another namespace (the version then is in the digest),
 * for a broker may have forgotten what epochs there were. Engines that update together are a `run`,
 * and whoever joins one has its present weights; models that never change share theirs with no run.
 *
 * RANKS. With KV split over devices each rank has a space, all of one group: a block is found in
 * all of them or in none. Here one process has them all; elsewhere each is a process and the ranks
 * agree on the shortest run.
 *
 * GPUS. The CPU must not touch pages there. This engine then computes in its own memory and copies
 * with kvb_page_write() and kvb_page_read(), where a real one has its kernels use the addresses,
 * and fences (fence.c) instead of waiting.
 */

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "libkvbroker.h"
#include "mini_lm_digest.h"
#include "mini_lm_model.h"
#include "mini_lm_options.h"

#define GROW_TIMEOUT_NS 1000000000ull /* for memory that others have to give up first */
#define CALL_TIMEOUT_NS 2000000000ull /* what a broker that hangs may cost */
#define RECONNECT_NS 200000000ull
#define IDLE_MS 50
#define MAGAZINE 16 /* an answer takes a page at a time, and few of them */

/* What a rank holds for the request at hand: pages of blocks 0..engine.paged-1, the first `leased`
 * of them sealed and leased, the others ours to fill. */
struct rank {
	struct kvb_space *space;
	kvb_page_t page[MODEL_BLOCKS];
	uint32_t leased;
};

struct engine {
	struct options options;
	struct model *model;
	uint64_t version; /* updates that the weights have seen */
	float *own;       /* as much as the longest sequence needs */
	struct model_block block[MODEL_BLOCKS];

	struct kvb *kvb; /* NULL: there is no broker now */
	bool lost;       /* a call failed that may not; nothing that was leased is believed */
	uint64_t retry_ns;
	struct rank rank[MODEL_RANKS];
	uint32_t paged;
	uint8_t identity[DIGEST_BYTES];
	uint64_t boot_id;
	uint32_t ns;
	uint64_t epoch; /* that the weights belong to, in this namespace */
};

struct request {
	uint8_t token[MODEL_POSITIONS]; /* the prompt, and behind it the answer */
	uint32_t prompt_tokens, tokens;
	struct kvb_hash hash[MODEL_BLOCKS];
	float logits[MODEL_POSITIONS / 2][MODEL_VOCAB]; /* of each token of the answer */
	bool sealing;
	uint32_t reused, below, sealed, again; /* what is told of it */
};

static uint64_t clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

static void die(const char *what)
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
	if (epoch != e->epoch) { /* KV of other weights than ours */
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
	if (epoch != e->epoch)
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
	if (e->options.swap_pages && run >= 2) {
		const struct model_block first = e->block[0];

		e->block[0] = e->block[1];
		e->block[1] = first;
		q->sealing = false; /* others are not to suffer from it */
	}
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

static void print_answer(const struct engine *e, const struct request *q, uint32_t number)
{
	const struct digest_part part = { q->logits,
					  e->options.answer_tokens * sizeof(q->logits[0]) };
	uint8_t digest[DIGEST_BYTES];

	printf("prompt %u tokens %u reused %u below %u sealed %u again %u answer ", number,
	       q->prompt_tokens, q->reused, q->below, q->sealed, q->again);
	for (uint32_t i = 0; i < e->options.answer_tokens; i++)
		printf("%s%u", i ? "," : "", q->token[q->prompt_tokens + i]);
	if (e->options.check && !digest_make(&part, 1, digest))
		die("out of memory");
	for (uint32_t i = 0; e->options.check && i < DIGEST_BYTES; i++)
		printf("%s%02x", i ? "" : " logits ", digest[i]);
	printf("\n");
	if (fflush(stdout))
		die("output failed");
}

static int answer(struct engine *e, const char *prompt, size_t n, uint32_t number)
{
	static struct request q; /* large */

	if (n == 0 || n + e->options.answer_tokens > MODEL_POSITIONS) {
		fprintf(stderr, "mini-lm: prompt %u has %zu tokens; 1 to %u can be\n", number, n,
			MODEL_POSITIONS - e->options.answer_tokens);
		return 2;
	}
	memcpy(q.token, prompt, n);
	q.prompt_tokens = (uint32_t)n;
	q.again = 0;
	engine_connect(e);
	while (!request_compute(e, &q)) {
		q.again = 1;
		engine_disconnect(e);
	}
	print_answer(e, &q, number);
	return 0;
}

/* ---- weights that change -------------------------------------------------------------------- */

/* Between two requests: nothing is being computed under the old ones. */
static int command(struct engine *e, const char *word)
{
	struct kvb_ns_info ns;

	if (strcmp(word, "update") != 0 && strcmp(word, "follow") != 0 &&
	    strcmp(word, "forget") != 0) {
		fprintf(stderr, "mini-lm: no command ':%s'; see --help\n", word);
		return 2;
	}
	if (!e->options.run) {
		fprintf(stderr,
			"mini-lm: ':%s' without --run: who shares this namespace does not "
			"expect its weights to change\n",
			word);
		return 2;
	}
	engine_connect(e); /* under the weights as they still are */
	model_update(e->model);
	e->version++;
	if (e->kvb && word[0] == 'u') {
		checked(e, kvb_epoch_bump(e->kvb, e->ns, &e->epoch), "update");
	} else if (e->kvb && strcmp(word, "follow") == 0) {
		if (checked(e, kvb_ns_open(e->kvb, e->identity, 0, &ns), "follow") == 0)
			e->epoch = ns.epoch;
	}
	if (e->lost) /* connecting anew, it says which version it has */
		engine_disconnect(e);
	printf("version %" PRIu64 "\n", e->version);
	return fflush(stdout) ? 1 : 0;
}

/* An engine that waits for work still has ears for the broker: memory may be asked back. */
static void wait_for_input(struct engine *e)
{
	struct pollfd in = { .fd = STDIN_FILENO, .events = POLLIN };

	while (poll(&in, 1, IDLE_MS) == 0) {
		if (!e->kvb)
			continue;
		if (kvb_poll(e->kvb) < 0)
			engine_disconnect(e);
		else
			kvb_quiet_point(e->kvb);
	}
}

static int serve_input(struct engine *e)
{
	char *line = NULL;
	size_t room = 0;
	uint32_t number = 0;
	int status = 0;

	setvbuf(stdin, NULL, _IONBF, 0); /* or lines would hide from poll() */
	while (status == 0) {
		wait_for_input(e);
		ssize_t n = getline(&line, &room, stdin);
		if (n < 0)
			break;
		n -= line[n - 1] == '\n';
		line[n] = '\0';
		if (line[0] == ':')
			status = command(e, line + 1);
		else
			status = answer(e, line, (size_t)n, ++number);
	}
	free(line);
	return status;
}

int main(int argc, char **argv)
{
	static struct engine e;
	int status = options_parse(argc, argv, &e.options);

	if (status >= 0)
		return status;
	e.model = model_create(e.options.seed);
	e.own = malloc((size_t)MODEL_BLOCKS * MODEL_LAYERS * MODEL_BLOCK_BYTES);
	if (!e.model || !e.own)
		die("out of memory");
	status = 0;
	for (uint32_t i = 0; e.options.prompts[i] && status == 0; i++)
		status = answer(&e, e.options.prompts[i], strlen(e.options.prompts[i]), i + 1);
	if (!e.options.prompts[0])
		status = serve_input(&e);
	kvb_disconnect(e.kvb);
	free(e.model);
	free(e.own);
	return status;
}
