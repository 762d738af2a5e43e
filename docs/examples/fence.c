/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A fence: the broker waits for the pages to be written, and the engine does not.
 *
 * SEAL is sent at once, with a fence word and a value; it runs when the word has reached the value.
 * On a GPU the stream that fills the pages writes the word: kvb_fence_stream_write(). Here a thread
 * stands in for the stream.
 *
 *     KVBROKER_SOCKET=/tmp/b.sock example-fence
 */

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "libkvbroker.h"

#define PAGE_BYTES 4096

struct stream {
	void *page;
	struct kvb_fence *fence;
	uint64_t value;
};

/* The "kernel", and behind it the write of the fence. */
static void *run_stream(void *arg)
{
	struct stream *s = arg;

	memset(s->page, 'k', PAGE_BYTES);
	__atomic_store_n(&s->fence->value, s->value, __ATOMIC_RELEASE);
	return NULL;
}

static int fail(const struct kvb *kvb)
{
	fprintf(stderr, "example-fence: %s\n", kvb_error_text(kvb));
	return 1;
}

int main(void)
{
	const struct kvb_space_params params = { .stride_bytes = PAGE_BYTES, .tag = 3 };
	const uint8_t digest[32] = "example: fence";
	const struct kvb_cqe *cqe;
	struct kvb_ns_info ns;
	struct kvb_space *space;
	struct kvb *kvb;
	kvb_page_t page;
	pthread_t thread;
	size_t bytes;
	char why[256];

	if (kvb_connect(NULL, &kvb, why) < 0) {
		fprintf(stderr, "example-fence: %s\n", why);
		return 1;
	}
	if (kvb_space_open(kvb, &params, &space) < 0 || kvb_ns_open(kvb, digest, 0, &ns) < 0 ||
	    kvb_space_grow(space, 1, 1000000000) < 0 || kvb_alloc(space, &page, 1) != 1)
		return fail(kvb);
	const int fence = kvb_fence_get(kvb);
	if (fence < 0)
		return fail(kvb);
	struct stream stream = { kvb_page_addr(space, 0, page),
				 kvb_fence_word(kvb, (uint32_t)fence), 1 };

	struct kvb_seal *seal = kvb_operands(kvb, &bytes);
	/* The hash holds the page's name only so that each run of the example seals a new key. */
	*seal = (struct kvb_seal){ .page = page, .hash = { { 0xfe9ce, page } } };
	struct kvb_sqe *sqe = kvb_get_sqe(kvb);
	kvb_prep_seal(sqe, space, ns.ns, ns.epoch, 0, kvb_operand_offset(kvb, seal), 1);
	kvb_prep_fence(sqe, (uint32_t)fence, stream.value);
	kvb_submit(kvb);
	/* Nothing is sealed while the page is not written, however long that takes. */
	if (kvb_wait_cqe(kvb, &cqe, 10000000) != -ETIME) {
		fprintf(stderr, "example-fence: sealed before the fence\n");
		return 1;
	}
	pthread_create(&thread, NULL, run_stream, &stream);
	if (kvb_wait_cqe(kvb, &cqe, 1000000000) < 0)
		return fail(kvb);
	printf("%d page sealed when its fence was reached\n", cqe->res);
	const int sealed = cqe->res;
	kvb_cqe_seen(kvb);
	pthread_join(thread, NULL);
	kvb_disconnect(kvb);
	return sealed == 1 ? 0 : 1;
}
