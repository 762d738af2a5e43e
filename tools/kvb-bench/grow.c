/* SPDX-License-Identifier: Apache-2.0 */

/*
 * grow: getting memory and giving it back, 32 regions, beside one thread that makes, commits, maps
 * and drops the same handles with nobody in between.
 *
 * bare     memfd_create, ftruncate, fallocate (the broker commits what it grants), mmap of every
 *          handle; then munmap and close of every one
 * broker   kvb_space_grow(), kvb_space_shrink(), kvb_quiet_point() until all is unmapped, and then
 *          until the daemon has closed the last of the handles
 *
 * They alternate; both figures are medians. Nothing is pinned: the daemon works on memory in a
 * thread of its own, and where that runs is the scheduler's business.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tools/kvb-bench/bench.h"

#define REGIONS 32u
#define STRIDE_BYTES 4096u
#define SLABS 4u
#define CYCLES 15u
#define WAIT_NS (10ull * 1000 * 1000 * 1000)

struct handle {
	int fd;
	void *mem;
};

static uint64_t bare_cycle(struct handle *handles, uint32_t n, uint64_t bytes)
{
	uint64_t start_ns = clock_now_ns();

	for (uint32_t i = 0; i < n; i++) {
		handles[i].fd = memfd_create("kvb-bench", MFD_CLOEXEC);
		if (handles[i].fd < 0 || ftruncate(handles[i].fd, (off_t)bytes) < 0 ||
		    fallocate(handles[i].fd, 0, 0, (off_t)bytes) < 0)
			bench_die("cannot make %llu B of memory: %s", (unsigned long long)bytes,
				  strerror(errno));
		handles[i].mem =
			mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, handles[i].fd, 0);
		if (handles[i].mem == MAP_FAILED)
			bench_die("mmap: %s", strerror(errno));
	}
	for (uint32_t i = 0; i < n; i++) {
		munmap(handles[i].mem, bytes);
		close(handles[i].fd);
	}
	return clock_now_ns() - start_ns;
}

/* Returns the nanoseconds of growing; *ret_shrink_ns those until the memory is really gone. */
static uint64_t broker_cycle(struct client *c, const struct broker *b, uint64_t pages,
			     unsigned fds_before, uint64_t *ret_shrink_ns)
{
	uint64_t start_ns = clock_now_ns(), grown_ns;
	struct kvb_space_info info;
	int64_t got;

	got = kvb_space_grow(c->space, pages, WAIT_NS);
	grown_ns = clock_now_ns();
	if (got != (int64_t)pages)
		bench_die("grew by %lld of %llu pages: %s", (long long)got,
			  (unsigned long long)pages, kvb_error_text(c->kvb));
	got = kvb_space_shrink(c->space, pages, 0);
	if (got != (int64_t)pages)
		bench_die("shrank by %lld of %llu pages: %s", (long long)got,
			  (unsigned long long)pages, kvb_error_text(c->kvb));
	for (;;) {
		if (kvb_poll(c->kvb) < 0 || kvb_quiet_point(c->kvb) < 0)
			bench_die("the broker has gone: %s", kvb_error_text(c->kvb));
		kvb_space_get_info(c->space, &info);
		if (info.slabs == 0 && broker_fds(b) <= fds_before)
			break;
		if (clock_now_ns() - grown_ns > WAIT_NS)
			bench_die("memory did not go back: %u slabs mapped, %u fds in the broker",
				  info.slabs, broker_fds(b));
	}
	*ret_shrink_ns = clock_now_ns() - grown_ns;
	return grown_ns - start_ns;
}

int bench_grow(const struct bench_options *o, struct report *r)
{
	static const char *const args[] = { "--device", "host:0=1G", "--max-pages", "1048576",
					    NULL };
	struct samples bare = { 0 }, broker = { 0 }, grow = { 0 }, shrink = { 0 };
	struct kvb_space_info info;
	struct handle *handles;
	struct client c;
	struct broker b;
	unsigned fds;
	uint32_t n;
	double bare_s, broker_s;

	broker_start(o, -1, args, &b);
	client_open(&b, NULL,
		    &(struct kvb_space_params){ .regions = REGIONS,
						.stride_bytes = STRIDE_BYTES,
						.tag = (uint64_t)getpid() },
		    &c);
	kvb_space_get_info(c.space, &info);
	n = REGIONS * info.handles_per_region * SLABS;
	handles = calloc(n, sizeof(*handles));
	if (handles == NULL)
		bench_die("out of memory");
	clock_sleep_ns(100 * 1000 * 1000); /* the daemon closes what attaching left behind */
	fds = broker_fds(&b);
	for (unsigned i = 0; i <= CYCLES; i++) {
		uint64_t bare_ns = bare_cycle(handles, n, info.handle_bytes), grow_ns, shrink_ns;

		grow_ns = broker_cycle(&c, &b, (uint64_t)info.pages_per_slab * SLABS, fds,
				       &shrink_ns);
		if (i == 0)
			continue; /* first touches of everything */
		samples_add(&bare, bare_ns);
		samples_add(&broker, grow_ns + shrink_ns);
		samples_add(&grow, grow_ns);
		samples_add(&shrink, shrink_ns);
	}
	bare_s = samples_percentile_ns(&bare, 50) / 1e9;
	broker_s = samples_percentile_ns(&broker, 50) / 1e9;
	report_number(r, "regions", REGIONS, "");
	report_number(r, "handles", n, "memfds a cycle");
	report_number(r, "bytes", (double)n * (double)info.handle_bytes, "a cycle");
	report_number(r, "bare_s", bare_s, "one thread, nobody in between, median cycle");
	report_number(r, "broker_s", broker_s, "grow and shrink, median cycle");
	report_number(r, "grow_s", samples_percentile_ns(&grow, 50) / 1e9, "of it, until mapped");
	report_number(r, "shrink_s", samples_percentile_ns(&shrink, 50) / 1e9,
		      "of it, until the daemon has closed the handles");
	report_number(r, "ratio", bare_s / broker_s, "bare / broker");
	free(handles);
	client_close(&c);
	broker_stop(&b);
	samples_free(&bare);
	samples_free(&broker);
	samples_free(&grow);
	samples_free(&shrink);
	return 0;
}
