/* SPDX-License-Identifier: Apache-2.0 */

/*
 * How soon a broker acts on what a stream wrote.
 *
 * broker  a FREE waits for a fence word; a stream of this process writes it. From the call that
 *         gives the stream the write until the completion of the FREE is seen, by spinning
 * floor   a stream of this process writes a word, a stream of another process waits for it and
 *         writes a second one, which is seen here, by spinning: two processes over known shared
 *         memory and nothing in between
 * cpu     the same with a processor of the other process in place of its stream: the least that
 *         anything outside the GPU can do
 *
 * The three alternate. Before each write there is a pause, of a length that no period of a poll
 * agrees with.
 */

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/kvb-bench/gpu.h"

#define PAUSE_NS_MIN (50ull * 1000)
#define PAUSE_NS_MAX (2500ull * 1000)
#define STRIDE_BYTES (64ull << 10)
#define WAIT_NS (20ull * 1000 * 1000 * 1000)

enum { WORD_TO_STREAM, WORD_FROM_STREAM, WORD_TO_CPU, WORD_FROM_CPU, WORDS };

/* Known to the drivers of both processes. A word a line. */
struct words {
	struct kvb_fence word[WORDS];
	/* From here on between the processors. */
	struct kvb_fence queued; /* rounds that the peer's stream waits for */
	struct kvb_fence end;
};

struct known {
	struct card card;
	cu_address at;
};

static void known_open(uint32_t ordinal, struct words *words, struct known *ret)
{
	card_open(ordinal, &ret->card);
	card_check("cuMemHostRegister", ret->card.streams->host_register(
						words, (size_t)getpagesize(),
						CU_FLAG_HOST_PORTABLE | CU_FLAG_HOST_DEVICEMAP));
	card_check("cuMemHostGetDevicePointer",
		   ret->card.streams->host_get_device_pointer(&ret->at, words, 0));
}

static cu_address known_word(const struct known *k, unsigned word)
{
	return k->at + offsetof(struct words, word) + word * sizeof(struct kvb_fence);
}

static void stream_write(const struct known *k, unsigned word, uint64_t value)
{
	card_check("cuStreamWriteValue64",
		   k->card.streams->stream_write_value64(k->card.stream[0], known_word(k, word),
							 value, 0));
}

static uint64_t load(const struct kvb_fence *f)
{
	return __atomic_load_n(&f->value, __ATOMIC_ACQUIRE);
}

static void store(struct kvb_fence *f, uint64_t value)
{
	__atomic_store_n(&f->value, value, __ATOMIC_RELEASE);
}

static void spin_until(const struct kvb_fence *f, uint64_t value, const char *what)
{
	uint64_t start_ns = clock_now_ns();

	while (load(f) < value) {
		cpu_relax();
		if (clock_now_ns() - start_ns > WAIT_NS)
			bench_die("%s does not come", what);
	}
}

/* ---- the peer ------------------------------------------------------------------------------ */

/* One round of each a turn: the stream's is given to it ahead, the processor's is spun for. */
static void peer_run(uint32_t ordinal, struct words *w)
{
	struct known k;

	known_open(ordinal, w, &k);
	for (uint64_t i = 1;; i++) {
		card_check("cuStreamWaitValue64",
			   k.card.streams->stream_wait_value64(k.card.stream[0],
							       known_word(&k, WORD_TO_STREAM), i,
							       CU_FLAG_WAIT_VALUE_GEQ));
		stream_write(&k, WORD_FROM_STREAM, i);
		store(&w->queued, i);
		while (load(&w->word[WORD_TO_CPU]) < i) {
			cpu_relax();
			if (load(&w->end))
				return;
		}
		store(&w->word[WORD_FROM_CPU], i);
	}
}

static pid_t peer_start(uint32_t ordinal, struct words *w)
{
	pid_t pid = fork();

	if (pid < 0)
		bench_die("fork: %s", strerror(errno));
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		peer_run(ordinal, w);
		_exit(0);
	}
	return pid;
}

/* Its stream waits for one more round, which comes here. */
static void peer_end(pid_t pid, const struct known *k, struct words *w, uint64_t rounds)
{
	store(&w->end, 1);
	stream_write(k, WORD_TO_STREAM, rounds + 1);
	waitpid(pid, NULL, 0);
}

/* ---- rounds -------------------------------------------------------------------------------- */

static uint64_t floor_ns(const struct known *k, struct words *w, unsigned to, uint64_t i)
{
	uint64_t start_ns = clock_now_ns();

	stream_write(k, to, i);
	spin_until(&w->word[to + 1], i, "the answer of the other process");
	return clock_now_ns() - start_ns;
}

static uint64_t broker_ns(struct client *c, const struct known *k, uint32_t fence, uint64_t value,
			  kvb_page_t page, uint64_t pause_ns)
{
	struct kvb_sqe *sqe = kvb_get_sqe(c->kvb);
	uint64_t start_ns, ns;
	const struct kvb_cqe *cqe;

	if (sqe == NULL)
		bench_die("the submission queue is full");
	memcpy(c->operands, &page, sizeof(page));
	kvb_prep_free(sqe, c->space, kvb_operand_offset(c->kvb, c->operands), 1);
	kvb_prep_fence(sqe, fence, value);
	kvb_submit(c->kvb);
	clock_sleep_ns(pause_ns);
	start_ns = clock_now_ns();
	if (kvb_fence_stream_write(c->space, k->card.stream[0], fence, value) < 0)
		bench_die("cannot put a fence into a stream: %s", kvb_error_text(c->kvb));
	cqe = client_spin_cqe(c->kvb);
	ns = clock_now_ns() - start_ns;
	if (cqe->res != 1)
		bench_die("FREE behind a fence ended with %d", cqe->res);
	kvb_cqe_seen(c->kvb);
	return ns;
}

static uint64_t pause_ns(uint64_t *random)
{
	return PAUSE_NS_MIN + random_next(random) % (PAUSE_NS_MAX - PAUSE_NS_MIN);
}

static void rounds(struct gpu_bench *b, struct client *c, const struct known *k, struct words *w)
{
	struct samples broker = { 0 }, stream = { 0 }, cpu = { 0 };
	struct gpu_figures *f = b->fig;
	uint64_t random = 1;
	kvb_page_t page;
	int fence = kvb_fence_get(c->kvb);

	if (fence < 0)
		bench_die("no fence: %s", kvb_error_text(c->kvb));
	for (uint64_t i = 1; i <= b->plan.fences; i++) {
		if (batch_alloc(c, &page, 1) != 1)
			bench_die("no page to free");
		samples_add(&broker, broker_ns(c, k, (uint32_t)fence, i, page, pause_ns(&random)));
		spin_until(&w->queued, i, "the other process");
		clock_sleep_ns(PAUSE_NS_MIN);
		samples_add(&stream, floor_ns(k, w, WORD_TO_STREAM, i));
		clock_sleep_ns(PAUSE_NS_MIN);
		samples_add(&cpu, floor_ns(k, w, WORD_TO_CPU, i));
	}
	kvb_fence_put(c->kvb, (uint32_t)fence);
	f->fence_us_p50 = samples_percentile_ns(&broker, 50) / 1e3;
	f->fence_us_p99 = samples_percentile_ns(&broker, 99) / 1e3;
	f->fence_floor_us_p50 = samples_percentile_ns(&stream, 50) / 1e3;
	f->fence_floor_cpu_us_p50 = samples_percentile_ns(&cpu, 50) / 1e3;
	samples_free(&broker);
	samples_free(&stream);
	samples_free(&cpu);
}

void gpu_fence(struct gpu_bench *b)
{
	struct client c;
	struct words *w;
	struct known k;
	pid_t peer;

	w = mmap(NULL, (size_t)getpagesize(), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		 -1, 0);
	if (w == MAP_FAILED)
		bench_die("mmap: %s", strerror(errno));
	peer = peer_start(b->o->device, w);
	known_open(b->o->device, w, &k);
	client_open(&b->broker, NULL,
		    &(struct kvb_space_params){ .device_kind = KVB_DEVICE_CUDA,
						.device_ordinal = b->o->device,
						.stride_bytes = STRIDE_BYTES,
						.tag = (uint64_t)getpid() },
		    &c);
	client_grow(&c, 1);
	rounds(b, &c, &k, w);
	peer_end(peer, &k, w, b->plan.fences);
	client_close(&c);
}
