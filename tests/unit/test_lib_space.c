/* SPDX-License-Identifier: Apache-2.0 */

/*
 * libkvbroker against a daemon of straw (fake_daemon.h): spaces, grants, revocation, batches,
 * magazines.
 *
 * What must hold: a page's address never changes, whatever is granted and revoked behind it; every
 * fd is closed once mapped; a grant is always answered; ids in a magazine are given back when asked
 * for and none is lost.
 */

#include "tests/unit/suite.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker/io/shm.h"
#include "tests/unit/fake_daemon.h"
#include "uapi/internal.h"

#define MS 1000000ull

static struct fake fake;

static int fds_open(void)
{
	int n = 0;

	for (int fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static struct kvb *client(uint32_t magazine)
{
	const struct kvb_params p = {
		.socket = fake.path,
		.magazine = magazine,
		.sq_entries = 4,
		.operand_bytes = 4096,
		.timeout_ns = 2000 * MS,
	};
	struct kvb *kvb = NULL;
	char text[256] = "";

	ck_assert_msg(kvb_connect(&p, &kvb, text) == 0, "%s", text);
	return kvb;
}

static struct kvb_space *space_of(struct kvb *kvb, uint32_t regions)
{
	const struct kvb_space_params p = { .regions = regions, .stride_bytes = FAKE_PAGE_BYTES };
	struct kvb_space *space = NULL;

	ck_assert_msg(kvb_space_open(kvb, &p, &space) == 0, "%s", kvb_error_text(kvb));
	return space;
}

static uint32_t slabs(const struct kvb_space *space)
{
	struct kvb_space_info info;

	kvb_space_get_info(space, &info);
	return info.slabs;
}

/* Whether an address can be read, asked of the kernel and not by touching it. */
static bool readable(const void *addr)
{
	int p[2];

	ck_assert_int_eq(pipe(p), 0);
	const bool yes = write(p[1], addr, 1) == 1;
	close(p[0]);
	close(p[1]);
	return yes;
}

/* ---- spaces and grants --------------------------------------------------------------------- */

START_TEST(grown_memory_is_the_brokers)
{
	const uint32_t regions[] = { 1, 32 };

	for (unsigned i = 0; i < 2; i++) {
		fake_init(&fake);
		fake_start(&fake);
		struct kvb *kvb = client(0);
		struct kvb_space *space = space_of(kvb, regions[i]);
		const char *base = kvb_region_base(space, 0);
		ck_assert(!readable(base));
		const int before = fds_open();
		/* 17 pages of 16 a slab: two slabs. */
		ck_assert_int_eq(kvb_space_grow(space, FAKE_PAGES_PER_SLAB + 1, 0),
				 2 * FAKE_PAGES_PER_SLAB);
		ck_assert_uint_eq(slabs(space), 2);
		/* The daemon's side keeps one fd a handle; the library none. */
		ck_assert_int_eq(fds_open(), before + 2 * (int)regions[i]);
		for (uint32_t r = 0; r < regions[i]; r++) {
			const kvb_page_t page = KVB_PAGE(1, FAKE_PAGES_PER_SLAB + 3);
			char *mine = kvb_page_addr(space, r, page);
			char theirs[8] = "";

			ck_assert_ptr_eq(mine, (char *)kvb_region_base(space, r) +
						       (FAKE_PAGES_PER_SLAB + 3) * FAKE_PAGE_BYTES);
			memcpy(mine, "region", 7);
			mine[6] = (char)r;
			ck_assert_int_eq(pread(fake.slab_fd[1][r], theirs, 7, 3 * FAKE_PAGE_BYTES),
					 7);
			ck_assert_int_eq(memcmp(theirs, mine, 7), 0);
		}
		ck_assert_ptr_eq(kvb_region_base(space, 0), base);
		ck_assert_ptr_null(kvb_region_base(space, regions[i]));
		kvb_disconnect(kvb);
		ck_assert(!readable(base));
		fake_stop(&fake);
	}
}
END_TEST

START_TEST(grants_right_after_the_reply_are_mapped)
{
	fake_init(&fake);
	fake.grant_on_open = true;
	fake_start(&fake);
	struct kvb *kvb = client(0);
	struct kvb_space *space = space_of(kvb, 1);
	for (unsigned i = 0; i < 1000 && !slabs(space); i++) {
		usleep(1000);
		ck_assert_int_eq(kvb_poll(kvb), 0);
	}
	ck_assert_uint_eq(slabs(space), 1);
	kvb_disconnect(kvb);
	fake_stop(&fake);
}
END_TEST

START_TEST(space_errors_are_passed_on)
{
	const struct kvb_space_params none = { .device_ordinal = 9, .stride_bytes = 4096 };
	const struct kvb_space_params odd = { .stride_bytes = 100 };
	struct kvb_space *space = NULL;

	fake_init(&fake);
	fake_start(&fake);
	struct kvb *kvb = client(0);
	ck_assert_int_eq(kvb_space_open(kvb, &none, &space), -ENODEV);
	ck_assert_str_eq(kvb_error_text(kvb), "no such device");
	ck_assert_int_eq(kvb_space_open(kvb, &odd, &space), -EINVAL);
	ck_assert_int_eq(kvb_nop(kvb), 0); /* the connection goes on */
	kvb_disconnect(kvb);
	fake_stop(&fake);
}
END_TEST

static void set_held(struct fake *f, void *arg)
{
	__atomic_store_n(&fake_ctl(f)->pages_held, *(uint64_t *)arg, __ATOMIC_RELAXED);
}

START_TEST(close_is_refused_while_pages_are_held)
{
	uint64_t held = 1;

	fake_init(&fake);
	fake_start(&fake);
	struct kvb *kvb = client(8);
	struct kvb_space *space = space_of(kvb, 1);
	ck_assert_uint_ne(kvb_page_get(space), KVB_PAGE_NONE);
	fake_do(&fake, set_held, &held);
	ck_assert_int_eq(kvb_space_close(space), -EBUSY);
	held = 0;
	fake_do(&fake, set_held, &held);
	const char *base = kvb_region_base(space, 0);
	ck_assert_int_eq(kvb_space_close(space), 0);
	ck_assert(!readable(base));
	ck_assert_uint_eq(fake.freed, fake.allocated - 1); /* the magazine, less the page got */
	ck_assert_int_eq(kvb_nop(kvb), 0);
	kvb_disconnect(kvb);
	fake_stop(&fake);
}
END_TEST

static void grant_closed(struct fake *f, void *arg)
{
	f->acks = 0;
	fake_grant(f, 0);
}

START_TEST(grant_of_an_unknown_space_is_answered)
{
	fake_init(&fake);
	fake_start(&fake);
	struct kvb *kvb = client(0);
	struct kvb_space *space = space_of(kvb, 1);
	ck_assert_int_eq(kvb_space_close(space), 0);
	const int before = fds_open();
	fake_do(&fake, grant_closed, NULL);
	ck_assert_int_eq(kvb_poll(kvb), 0);
	for (unsigned i = 0; i < 1000 && !__atomic_load_n(&fake.acks, __ATOMIC_ACQUIRE); i++)
		usleep(1000);
	ck_assert_uint_eq(fake.acks, 1);
	ck_assert_uint_eq(fake.ack.status, ENOENT);
	ck_assert_int_eq(fds_open(), before + 1); /* the daemon's own */
	kvb_disconnect(kvb);
	fake_stop(&fake);
}
END_TEST

struct bad_grant {
	uint32_t count, said_fds, slot, handle;
	uint64_t bytes;
};

static void send_bad_grant(struct fake *f, void *arg)
{
	const struct bad_grant *bad = arg;
	union {
		struct kvb_msg_grant g;
		char room[sizeof(struct kvb_msg_grant) + 2 * sizeof(struct kvb_grant_entry)];
	} m;
	const size_t bytes = sizeof(m.g) + bad->count * sizeof(m.g.entries[0]);
	const int fd = memfd_create("slab", MFD_CLOEXEC);

	m.g = (struct kvb_msg_grant){
		.h = { KVB_MAGIC, KVB_MSG_GRANT, (uint16_t)bad->said_fds, (uint32_t)bytes, 0 },
		.space = FAKE_SPACE,
		.count = bad->count,
	};
	for (unsigned i = 0; i < 2; i++)
		m.g.entries[i] = (struct kvb_grant_entry){ bad->slot, bad->handle };
	ck_assert_int_eq(ftruncate(fd, (off_t)bad->bytes), 0);
	fake_send(f, &m, KVB_MSG_GRANT, bytes, &fd, 1);
	close(fd);
}

START_TEST(fault_020_grants_that_lie_end_the_connection)
{
	const struct bad_grant bad[] = {
		{ 2, 1, 0, 0, FAKE_HANDLE_BYTES },          /* fewer fds than entries */
		{ 1, 2, 0, 0, FAKE_HANDLE_BYTES },          /* fewer than the header says */
		{ 0, 1, 0, 0, FAKE_HANDLE_BYTES },          /* no entry */
		{ 1, 1, FAKE_SLOTS, 0, FAKE_HANDLE_BYTES }, /* outside of the space */
		{ 1, 1, 0, 1, FAKE_HANDLE_BYTES },          /* in a region it has not */
		{ 1, 1, UINT32_MAX, UINT32_MAX, FAKE_HANDLE_BYTES },
		{ 1, 1, 0, 0, 4096 }, /* would be a SIGBUS */
	};

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		fake_init(&fake);
		fake_start(&fake);
		struct kvb *kvb = client(0);
		struct kvb_space *space = space_of(kvb, 1);
		const int before = fds_open();
		fake_do(&fake, send_bad_grant, (void *)&bad[i]);
		ck_assert_int_eq(kvb_poll(kvb), -EPROTO);
		ck_assert_int_eq(fds_open(), before);
		ck_assert(!readable(kvb_region_base(space, 0)));
		kvb_disconnect(kvb);
		fake_stop(&fake);
	}
}
END_TEST

/* The memory of region 1 may only be read. */
static void grant_half_of_use(struct fake *f, void *arg)
{
	char path[64];
	const int rw = memfd_create("slab", MFD_CLOEXEC);

	ck_assert_int_eq(ftruncate(rw, FAKE_HANDLE_BYTES), 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", rw);
	f->slab_fd[0][1] = open(path, O_RDONLY | O_CLOEXEC);
	ck_assert_int_ge(f->slab_fd[0][1], 0);
	close(rw);
	fake_grant(f, 0);
}

START_TEST(grant_that_cannot_be_mapped_is_refused_whole)
{
	fake_init(&fake);
	fake_start(&fake);
	struct kvb *kvb = client(0);
	struct kvb_space *space = space_of(kvb, 2);
	fake_do(&fake, grant_half_of_use, NULL);
	for (unsigned i = 0; i < 1000 && !__atomic_load_n(&fake.acks, __ATOMIC_ACQUIRE); i++) {
		ck_assert_int_eq(kvb_poll(kvb), 0);
		usleep(1000);
	}
	ck_assert_uint_eq(fake.ack.status, EACCES);
	ck_assert(!readable(kvb_region_base(space, 0)));
	ck_assert_uint_eq(slabs(space), 0);
	ck_assert_int_eq(kvb_nop(kvb), 0);
	kvb_disconnect(kvb);
	fake_stop(&fake);
}
END_TEST

START_TEST(space_that_cannot_be_used_here_is_closed_again)
{
	/* No driver, no such GPU, or handles of a size that no GPU maps. */
	const struct kvb_space_params p = { .device_kind = KVB_DEVICE_CUDA,
					    .stride_bytes = FAKE_PAGE_BYTES };
	struct kvb_space *space = NULL;

	fake_init(&fake);
	fake_start(&fake);
	struct kvb *kvb = client(0);
	ck_assert_int_lt(kvb_space_open(kvb, &p, &space), 0);
	ck_assert_ptr_null(space);
	ck_assert_ptr_nonnull(strstr(kvb_error_text(kvb), "cuda:0"));
	ck_assert_uint_eq(fake.closes, 1);
	space = space_of(kvb, 1);
	ck_assert_int_gt(kvb_space_grow(space, 1, 0), 0);
	kvb_disconnect(kvb);
	fake_stop(&fake);
}
END_TEST

START_TEST(pages_are_copied_in_and_out)
{
	enum { N = 100 };
	char in[N], out[N] = "";

	fake_init(&fake);
	fake_start(&fake);
	struct kvb *kvb = client(0);
	struct kvb_space *space = space_of(kvb, 2);
	const kvb_page_t page = KVB_PAGE(1, 3), later = KVB_PAGE(1, FAKE_PAGES_PER_SLAB);
	memset(in, 'k', N);
	ck_assert_int_eq(kvb_page_write(space, 1, page, in, N), -ENOENT);
	ck_assert_int_gt(kvb_space_grow(space, 1, 0), 0);
	ck_assert_int_eq(kvb_page_write(space, 1, page, in, N), 0);
	ck_assert_int_eq(memcmp(kvb_page_addr(space, 1, page), in, N), 0);
	ck_assert_int_eq(*(char *)kvb_page_addr(space, 0, page), 0);
	ck_assert_int_eq(kvb_page_read(space, 1, page, out, N), 0);
	ck_assert_int_eq(memcmp(in, out, N), 0);
	ck_assert_int_eq(kvb_page_read(space, 0, later, out, N), -ENOENT);
	ck_assert_int_eq(kvb_page_read(space, 2, page, out, N), -EINVAL);
	ck_assert_int_eq(kvb_page_read(space, 0, page, out, FAKE_PAGE_BYTES + 1), -EINVAL);
	ck_assert_int_eq(kvb_page_read(space, 0, KVB_PAGE(1, UINT32_MAX), out, N), -EINVAL);
	ck_assert_int_eq(memcmp(in, out, N), 0);
	kvb_disconnect(kvb);
	fake_stop(&fake);
}
END_TEST

START_TEST(child_does_not_inherit_the_memory)
{
	fake_init(&fake);
	fake_start(&fake);
	struct kvb *kvb = client(0);
	struct kvb_space *space = space_of(kvb, 2);
	ck_assert_int_gt(kvb_space_grow(space, 1, 0), 0);
	ck_assert(readable(kvb_region_base(space, 1)));
	const pid_t pid = fork();
	if (pid == 0)
		_exit(readable(kvb_region_base(space, 0)) || readable(kvb_region_base(space, 1)));
	int status = -1;
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
	kvb_disconnect(kvb);
	fake_stop(&fake);
}
END_TEST

/* ---- revocation ---------------------------------------------------------------------------- */

static uint32_t told_first, told_count, told;

static void on_revoke(void *arg, struct kvb_space *space, uint32_t first, uint32_t count,
		      uint64_t deadline_ns)
{
	told++;
	told_first = first;
	told_count = count;
	ck_assert_uint_le(deadline_ns, 1000 * MS);
	/* Calls are allowed in here. */
	ck_assert_int_eq(kvb_nop(arg), 0);
}

static void revoke_slab_1(struct fake *f, void *arg)
{
	fake_event(f, KVB_EVENT_REVOKE, FAKE_SPACE, 1, 1000 * MS);
}

static bool serve_busy_once(struct fake *f, const struct kvb_sqe *sqe)
{
	if (sqe->opcode != KVB_OP_RECLAIM_ACK || f->reclaims++)
		return false;
	fake_result(f, sqe->user_data, -EBUSY);
	return true;
}

/* The slot is granted anew before the answer to RECLAIM_ACK can be read. */
static bool serve_regrant(struct fake *f, const struct kvb_sqe *sqe)
{
	if (sqe->opcode != KVB_OP_RECLAIM_ACK)
		return false;
	close(f->slab_fd[1][0]);
	f->slab_fd[1][0] = -1;
	fake_grant(f, 1);
	usleep(20000);
	fake_result(f, sqe->user_data, 0);
	return true;
}

START_TEST(revoked_slab_is_unmapped_at_the_quiet_point)
{
	fake_init(&fake);
	fake.serve = serve_busy_once;
	fake_start(&fake);
	struct kvb *kvb = client(0);
	struct kvb_space *space = space_of(kvb, 1);
	ck_assert_int_eq(kvb_space_grow(space, 2 * FAKE_PAGES_PER_SLAB, 0),
			 2 * FAKE_PAGES_PER_SLAB);
	const char *gone = kvb_page_addr(space, 0, KVB_PAGE(1, FAKE_PAGES_PER_SLAB));
	kvb_on_revoke(kvb, on_revoke, kvb);
	ck_assert_int_eq(kvb_quiet_point(kvb), 0);
	fake_do(&fake, revoke_slab_1, NULL);
	ck_assert_int_eq(kvb_poll(kvb), 0);
	ck_assert_uint_eq(told, 1);
	ck_assert_uint_eq(told_first, FAKE_PAGES_PER_SLAB);
	ck_assert_uint_eq(told_count, FAKE_PAGES_PER_SLAB);
	ck_assert(readable(gone));
	ck_assert_int_eq(kvb_quiet_point(kvb), 0); /* the daemon says that we hold something */
	ck_assert(readable(gone));
	ck_assert_int_eq(kvb_quiet_point(kvb), 1);
	ck_assert(!readable(gone));
	ck_assert(readable(kvb_region_base(space, 0)));
	ck_assert_uint_eq(slabs(space), 1);
	ck_assert_int_eq(kvb_quiet_point(kvb), 0);
	ck_assert_uint_eq(told, 1);
	kvb_disconnect(kvb);
	fake_stop(&fake);
}
END_TEST

START_TEST(grant_that_overtakes_the_reclaim_stays)
{
	fake_init(&fake);
	fake.serve = serve_regrant;
	fake_start(&fake);
	struct kvb *kvb = client(0);
	struct kvb_space *space = space_of(kvb, 1);
	ck_assert_int_eq(kvb_space_grow(space, 2 * FAKE_PAGES_PER_SLAB, 0),
			 2 * FAKE_PAGES_PER_SLAB);
	char *page = kvb_page_addr(space, 0, KVB_PAGE(1, FAKE_PAGES_PER_SLAB));
	page[0] = 'x';
	fake_do(&fake, revoke_slab_1, NULL);
	ck_assert_int_eq(kvb_quiet_point(kvb), 1);
	ck_assert(readable(page));
	ck_assert_int_eq(page[0], 0); /* the new memory */
	ck_assert_uint_eq(slabs(space), 2);
	ck_assert_int_eq(kvb_quiet_point(kvb), 0);
	kvb_disconnect(kvb);
	fake_stop(&fake);
}
END_TEST

/* ---- batches ------------------------------------------------------------------------------- */

START_TEST(batches_larger_than_the_operand_area_go_in_pieces)
{
	enum { N = 5000 };
	struct kvb_hash *hashes = calloc(N, sizeof(*hashes));
	kvb_page_t *pages = calloc(N, sizeof(*pages));
	uint64_t epoch = 0;

	fake_init(&fake);
	fake_start(&fake);
	struct kvb *kvb = client(0);
	struct kvb_space *space = space_of(kvb, 1);
	ck_assert_int_eq(kvb_alloc(space, pages, N), N);
	for (uint32_t i = 0; i < N; i++)
		ck_assert_uint_eq(pages[i], KVB_PAGE(1, i));
	for (uint32_t i = 0; i < N; i++)
		hashes[i].w[0] = i * 3 + 1;
	ck_assert_int_eq(kvb_lookup(space, 1, 2, hashes, pages, N, &epoch), N);
	for (uint32_t i = 0; i < N; i++)
		ck_assert_uint_eq(pages[i], i * 3 + 1);
	ck_assert_uint_eq(epoch, 7);
	hashes[4000].w[0] = KVB_PAGE_NONE;
	ck_assert_int_eq(kvb_lookup_all(space, 1, 2, hashes, pages, N, NULL), 4000);
	ck_assert_uint_eq(pages[4001], 4001 * 3 + 1);
	/* Stops at a page that is nobody's. */
	pages[1000] = KVB_PAGE_NONE;
	ck_assert_int_eq(kvb_free(space, pages, N), 1000);
	ck_assert_ptr_nonnull(strstr(kvb_error_text(kvb), "operand 1000"));
	ck_assert_int_eq(kvb_free(space, pages + 1000, 1), -ENOENT);
	ck_assert_int_eq(kvb_alloc(space, pages, 0), 0);
	kvb_disconnect(kvb);
	fake_stop(&fake);
	free(hashes);
	free(pages);
}
END_TEST

START_TEST(alloc_maps_what_is_pending_and_goes_on)
{
	kvb_page_t pages[8];

	fake_init(&fake);
	fake.late_grant = true;
	fake_start(&fake);
	struct kvb *kvb = client(8);
	struct kvb_space *space = space_of(kvb, 1);
	ck_assert_int_eq(kvb_alloc(space, pages, 8), 8);
	ck_assert_uint_eq(slabs(space), 1);
	kvb_disconnect(kvb);
	fake_stop(&fake);

	fake_init(&fake);
	fake.late_grant = true;
	fake_start(&fake);
	kvb = client(8);
	space = space_of(kvb, 1);
	ck_assert_uint_ne(kvb_page_get(space), KVB_PAGE_NONE);
	kvb_disconnect(kvb);
	fake_stop(&fake);
}
END_TEST

static bool serve_too_much(struct fake *f, const struct kvb_sqe *sqe)
{
	fake_result(f, sqe->user_data, (int32_t)sqe->count + 1);
	return true;
}

START_TEST(more_results_than_operands_end_the_connection)
{
	kvb_page_t pages[8];

	fake_init(&fake);
	fake.serve = serve_too_much;
	fake_start(&fake);
	struct kvb *kvb = client(8);
	struct kvb_space *space = space_of(kvb, 1);
	ck_assert_int_eq(kvb_alloc(space, pages, 8), -EPROTO);
	kvb_disconnect(kvb);
	fake_stop(&fake);

	fake_init(&fake);
	fake.serve = serve_too_much;
	fake_start(&fake);
	kvb = client(8);
	space = space_of(kvb, 1);
	ck_assert_uint_eq(kvb_page_get(space), KVB_PAGE_NONE);
	ck_assert_int_eq(kvb_nop(kvb), -EPROTO);
	kvb_disconnect(kvb);
	fake_stop(&fake);
}
END_TEST

/* ---- magazines ----------------------------------------------------------------------------- */

START_TEST(magazine_gives_every_id_once)
{
	enum { N = 2000 };
	bool *seen = calloc(N, sizeof(*seen));

	fake_init(&fake);
	fake.pages_max = N;
	fake_start(&fake);
	struct kvb *kvb = client(16);
	struct kvb_space *space = space_of(kvb, 1);
	for (uint32_t i = 0; i < N; i++) {
		const kvb_page_t page = kvb_page_get(space);
		ck_assert_uint_ne(page, KVB_PAGE_NONE);
		ck_assert(!seen[KVB_PAGE_ID(page)]);
		seen[KVB_PAGE_ID(page)] = true;
	}
	ck_assert_uint_eq(kvb_page_get(space), KVB_PAGE_NONE);
	kvb_page_put(space, KVB_PAGE(1, 5));
	ck_assert_uint_eq(kvb_page_get(space), KVB_PAGE(1, 5));
	/* More than it can hold goes back to the daemon. */
	for (uint32_t i = 1; i <= 100; i++)
		kvb_page_put(space, KVB_PAGE(1, i));
	ck_assert_int_eq(kvb_space_close(space), 0);
	ck_assert_uint_eq(fake.freed, 100);
	kvb_disconnect(kvb);
	fake_stop(&fake);
	free(seen);
}
END_TEST

static void recall(struct fake *f, void *arg)
{
	fake_event(f, KVB_EVENT_RECALL, FAKE_SPACE, 0, 0);
}

START_TEST(recalled_magazine_goes_back)
{
	fake_init(&fake);
	fake_start(&fake);
	struct kvb *kvb = client(64);
	struct kvb_space *space = space_of(kvb, 1);
	ck_assert_uint_ne(kvb_page_get(space), KVB_PAGE_NONE);
	fake_do(&fake, recall, NULL);
	for (unsigned i = 0; i < 1000 && (space->magazine.n || space->magazine.recall); i++) {
		ck_assert_int_eq(kvb_poll(kvb), 0);
		usleep(1000);
	}
	ck_assert_uint_eq(space->magazine.n, 0);
	ck_assert(!space->magazine.recall);
	ck_assert_uint_eq(fake.freed, fake.allocated - 1);
	ck_assert_uint_eq(space->magazine.want, 32);
	ck_assert_uint_ne(kvb_page_get(space), KVB_PAGE_NONE);
	kvb_disconnect(kvb);
	fake_stop(&fake);
}
END_TEST

START_TEST(background_work_leaves_half_filled_entries_alone)
{
	fake_init(&fake);
	fake_start(&fake);
	struct kvb *kvb = client(64);
	struct kvb_space *space = space_of(kvb, 1);
	ck_assert_uint_ne(kvb_page_get(space), KVB_PAGE_NONE);
	struct kvb_sqe *sqe = kvb_get_sqe(kvb);
	fake_do(&fake, recall, NULL);
	ck_assert_int_eq(kvb_poll(kvb), 0);
	while (space->magazine.n > 1)
		ck_assert_uint_ne(kvb_page_get(space), KVB_PAGE_NONE);
	ck_assert_uint_eq(kvb->ring.sq_tail - kvb->ring.sq_sent, 1);
	sqe->user_data = 77;
	ck_assert_int_eq(kvb_submit(kvb), 1);
	const struct kvb_cqe *cqe;
	ck_assert_int_eq(kvb_wait_cqe(kvb, &cqe, 1000 * MS), 0);
	ck_assert_uint_eq(cqe->user_data, 77);
	ck_assert_int_eq(cqe->res, 0);
	kvb_disconnect(kvb);
	fake_stop(&fake);
}
END_TEST

START_TEST(bad_page_in_a_magazine_does_not_keep_the_rest)
{
	fake_init(&fake);
	fake_start(&fake);
	struct kvb *kvb = client(16);
	struct kvb_space *space = space_of(kvb, 1);
	for (uint32_t i = 0; i < 8; i++)
		kvb_page_put(space, KVB_PAGE(1, i + 1));
	space->magazine.pages[0] = space->magazine.pages[4] =
		KVB_PAGE_NONE; /* what the fake refuses */
	ck_assert_int_eq(kvb_space_close(space), 0);
	ck_assert_uint_eq(fake.freed, 6);
	kvb_disconnect(kvb);
	fake_stop(&fake);
}
END_TEST

int main(void)
{
	static const struct suite_case cases[] = {
		{ &grown_memory_is_the_brokers, 20 },
		{ &grants_right_after_the_reply_are_mapped, 0 },
		{ &space_errors_are_passed_on, 0 },
		{ &close_is_refused_while_pages_are_held, 0 },
		{ &grant_of_an_unknown_space_is_answered, 0 },
		{ &fault_020_grants_that_lie_end_the_connection, 20 },
		{ &grant_that_cannot_be_mapped_is_refused_whole, 0 },
		{ &space_that_cannot_be_used_here_is_closed_again, 0 },
		{ &pages_are_copied_in_and_out, 0 },
		{ &child_does_not_inherit_the_memory, 20 },
		{ &revoked_slab_is_unmapped_at_the_quiet_point, 0 },
		{ &grant_that_overtakes_the_reclaim_stays, 0 },
		{ &batches_larger_than_the_operand_area_go_in_pieces, 20 },
		{ &alloc_maps_what_is_pending_and_goes_on, 0 },
		{ &more_results_than_operands_end_the_connection, 0 },
		{ &magazine_gives_every_id_once, 20 },
		{ &recalled_magazine_goes_back, 0 },
		{ &background_work_leaves_half_filled_entries_alone, 0 },
		{ &bad_page_in_a_magazine_does_not_keep_the_rest, 0 },
		{ NULL, 0 },
	};

	return suite_run("lib-space", cases);
}
