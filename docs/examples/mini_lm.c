/* SPDX-License-Identifier: Apache-2.0 */

/*
 * An engine in C on kvbroker, whole: a small transformer (mini_lm_model.h) whose KV cache lies in
 * pages of the broker. What is written here is what an engine of any size has to do, in the order
 * in which it does it; the transformer stands for its kernels.
 *
 *     kvbrokerd --socket /tmp/b.sock --state-dir /tmp/b --device host:0=64M --host-tier 256M &
 *     KVBROKER_SOCKET=/tmp/b.sock mini-lm --check "$(head -c 2000 README.md)"
 *
 * A second run, or another process at the same time, answers the same and computes a fraction.
 *
 * ONCE A CONNECTION (engine_connect() in mini_lm_engine.c)
 *   1. kvb_connect
 *   2. kvb_space_open: a region a layer, so that kernels see the layers as separate arrays, or all
 *      layers packed in one. A page is one block of 16 tokens in all of them. kvb_space_grow asks
 *      for memory.
 *   3. kvb_ns_open: the namespace, a digest of whatever makes KV bytes what they are. See IDENTITY.
 *
 * FOR EACH REQUEST (request_compute())
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
 * While there is no request, kvb_poll() and kvb_quiet_point() now and then (engine_idle()).
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
 * (Where they never change, an epoch that an operator has bumped drops the pages and no more; in a
 * run it keeps engines from hits until the next update, for they cannot tell it from one.)
 *
 * RANKS. With KV split over devices each rank has a space, all of one group: a block is found in
 * all of them or in none. Here one process has them all; elsewhere each is a process and the ranks
 * agree on the shortest run.
 *
 * GPUS. The CPU must not touch pages there. This engine then computes in its own memory and copies
 * with kvb_page_write() and kvb_page_read(), where a real one has its kernels use the addresses,
 * and fences (fence.c) instead of waiting.
 */

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mini_lm_engine.h"

#define IDLE_MS 50

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
	engine_answer(e, &q);
	print_answer(e, &q, number);
	return 0;
}

/* A line that begins with a colon. */
static int command(struct engine *e, const char *word)
{
	static const char *const known[] = { "update", "follow",
					     "forget" }; /* enum engine_update */
	uint32_t how = 0;

	while (how < 3 && strcmp(word, known[how]) != 0)
		how++;
	if (how == 3 || !e->options.run) {
		fprintf(stderr, "mini-lm: ':%s' %s; see --help\n", word,
			how == 3 ? "is no command" : "is for engines of a --run");
		return 2;
	}
	engine_update(e, (enum engine_update)how);
	printf("version %" PRIu64 "\n", e->version);
	return fflush(stdout) ? 1 : 0;
}

static void wait_for_input(struct engine *e)
{
	struct pollfd in = { .fd = STDIN_FILENO, .events = POLLIN };

	while (poll(&in, 1, IDLE_MS) == 0)
		engine_idle(e);
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
	e.own = malloc(ENGINE_OWN_BYTES);
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
