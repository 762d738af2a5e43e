/* SPDX-License-Identifier: Apache-2.0 */

/*
 * libkvbroker against a daemon of straw (fake_daemon.h): handshake, rings, waiting, what a daemon
 * that is dead, mute or mad does to it. Spaces and magazines: test_lib_space.c.
 *
 * What must hold whatever the daemon does: every call ends, with an error that says why; no fd is
 * left open; nothing outside of the mappings is touched (the address sanitizer watches).
 */

#include "tests/unit/suite.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
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

static struct kvb *client(const struct kvb_params *params)
{
	struct kvb_params p = params ? *params : (struct kvb_params){ 0 };
	struct kvb *kvb = NULL;
	char text[256] = "";

	p.socket = fake.path;
	ck_assert_msg(kvb_connect(&p, &kvb, text) == 0, "%s", text);
	return kvb;
}

/* Connects to a daemon that answers badly; returns the error. */
static int refused(const struct kvb_params *params, const char *expect)
{
	struct kvb_params p = params ? *params : (struct kvb_params){ 0 };
	struct kvb *kvb = (void *)0x1;
	char text[256] = "";

	p.socket = fake.path;
	const int rc = kvb_connect(&p, &kvb, text);
	ck_assert_int_lt(rc, 0);
	ck_assert_ptr_eq(kvb, (void *)0x1);
	ck_assert_msg(strstr(text, expect), "'%s' does not say '%s'", text, expect);
	return rc;
}

/* ---- connecting ---------------------------------------------------------------------------- */

START_TEST(connect_tells_what_it_is_told)
{
	const struct kvb_params p = { .tenant = "blue", .name = "engine-1", .sq_entries = 8 };
	struct kvb_info info;

	fake_init(&fake);
	fake_start(&fake);
	const int before = fds_open();
	struct kvb *kvb = client(&p);
	ck_assert_str_eq(fake.hello.tenant, "blue");
	ck_assert_str_eq(fake.hello.name, "engine-1");
	ck_assert_uint_eq(fake.hello.role, KVB_ROLE_ENGINE);
	kvb_get_info(kvb, &info);
	ck_assert_uint_eq(info.client, 42);
	ck_assert_uint_eq(info.sq_entries, 8);
	ck_assert_uint_eq(info.cq_entries, 16);
	ck_assert_int_eq(kvb_nop(kvb), 0);
	ck_assert_ptr_null(kvb_disconnect(kvb));
	/* The daemon's thread opened its socket, three memfds and the doorbell. */
	ck_assert_int_eq(fds_open(), before + 5);
	fake_stop(&fake);
}
END_TEST

START_TEST(connect_without_a_broker_says_what_to_do)
{
	const struct kvb_params p = { .socket = "/nowhere/broker.sock" };
	struct kvb *kvb = NULL;
	char text[256];

	ck_assert_int_eq(kvb_connect(&p, &kvb, text), -ENOENT);
	ck_assert_ptr_nonnull(strstr(text, "start kvbrokerd"));
	ck_assert_ptr_null(kvb_disconnect(NULL));
}
END_TEST

START_TEST(connect_refuses_impossible_parameters)
{
	const struct kvb_params bad[] = {
		{ .sq_entries = 3 },
		{ .sq_entries = 8192 },
		{ .sq_entries = 8, .cq_entries = 4 },
		{ .operand_bytes = 100 },
		{ .magazine = 5000 },
		{ .tenant = "a-name-that-is-longer-than-thirty-one-bytes" },
		{ .socket = "" },
	};
	struct kvb *kvb = NULL;

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		ck_assert_int_eq(kvb_connect(&bad[i], &kvb, NULL), -EINVAL);
}
END_TEST

START_TEST(connect_passes_a_refusal_on)
{
	fake_init(&fake);
	fake.refusal = "uid 7 is not tenant default's";
	fake_start(&fake);
	ck_assert_int_eq(refused(NULL, "uid 7 is not"), -EACCES);
	fake_stop(&fake);
}
END_TEST

START_TEST(connect_gives_up_on_a_mute_broker)
{
	const struct kvb_params p = { .timeout_ns = 50 * MS };

	fake_init(&fake);
	fake.silent = true;
	fake_start(&fake);
	ck_assert_int_eq(refused(&p, "does not answer"), -ETIME);
	fake_stop(&fake);
}
END_TEST

static void spoil_version(struct fake *f, struct kvb_msg_hello_reply *r)
{
	r->version = 2;
}
static void spoil_magic(struct fake *f, struct kvb_msg_hello_reply *r)
{
	r->h.magic = 5;
}
static void spoil_sq(struct fake *f, struct kvb_msg_hello_reply *r)
{
	r->sq_entries = 12;
}
static void spoil_cq(struct fake *f, struct kvb_msg_hello_reply *r)
{
	r->cq_entries = 1u << 31;
}
static void spoil_sqes(struct fake *f, struct kvb_msg_hello_reply *r)
{
	r->sub_sqes = 0;
}
static void spoil_cqes(struct fake *f, struct kvb_msg_hello_reply *r)
{
	r->ctl_cqes = 0xffffffc0u;
}
static void spoil_odd(struct fake *f, struct kvb_msg_hello_reply *r)
{
	r->sub_operands += 8;
}
static void spoil_results(struct fake *f, struct kvb_msg_hello_reply *r)
{
	r->ctl_results += 4096;
}
static void spoil_size(struct fake *f, struct kvb_msg_hello_reply *r)
{
	r->sub_bytes = 1ull << 40;
}
static void spoil_fence(struct fake *f, struct kvb_msg_hello_reply *r)
{
	r->fence_bytes = 64;
}
static void spoil_operands(struct fake *f, struct kvb_msg_hello_reply *r)
{
	r->operand_bytes = 0;
}

START_TEST(connect_survives_any_reply)
{
	void (*const spoilers[])(struct fake *, struct kvb_msg_hello_reply *) = {
		spoil_version, spoil_magic, spoil_sq,    spoil_cq,      spoil_sqes,     spoil_cqes,
		spoil_odd,     spoil_size,  spoil_fence, spoil_results, spoil_operands,
	};

	for (unsigned i = 0; i < sizeof(spoilers) / sizeof(spoilers[0]); i++) {
		const int before = fds_open();

		fake_init(&fake);
		fake.spoil = spoilers[i];
		fake_start(&fake);
		ck_assert_int_eq(refused(NULL, "broker"), -EPROTO);
		fake_stop(&fake);
		ck_assert_int_eq(fds_open(), before);
	}
}
END_TEST

START_TEST(fault_020_handshake_with_other_fds_than_said)
{
	for (unsigned n = 0; n <= 5; n++) {
		const int before = fds_open();

		if (n == 4)
			continue;
		fake_init(&fake);
		fake.handshake_fds = n;
		fake_start(&fake);
		ck_assert_int_eq(refused(NULL, "no broker of this version"), -EPROTO);
		fake_stop(&fake);
		ck_assert_int_eq(fds_open(), before);
	}
}
END_TEST

/* ---- rings --------------------------------------------------------------------------------- */

START_TEST(ring_wraps_past_the_end_of_the_index)
{
	const struct kvb_params p = { .sq_entries = 2, .cq_entries = 2 };

	fake_init(&fake);
	fake.first_index = UINT32_MAX - 5;
	fake_start(&fake);
	struct kvb *kvb = client(&p);
	for (unsigned i = 0; i < 100; i++) {
		const struct kvb_cqe *cqe;
		struct kvb_sqe *sqe;

		for (unsigned k = 0; k < 2; k++) {
			sqe = kvb_get_sqe(kvb);
			ck_assert_ptr_nonnull(sqe);
			kvb_prep_nop(sqe);
			sqe->user_data = i * 2 + k;
		}
		ck_assert_ptr_null(kvb_get_sqe(kvb));
		ck_assert_int_eq(kvb_submit(kvb), 2);
		for (unsigned k = 0; k < 2; k++) {
			ck_assert_int_eq(kvb_wait_cqe(kvb, &cqe, 1000 * MS), 0);
			ck_assert_uint_eq(cqe->user_data, i * 2 + k);
			kvb_cqe_seen(kvb);
		}
	}
	ck_assert_int_eq(kvb_submit(kvb), 0);
	kvb_disconnect(kvb);
	fake_stop(&fake);
}
END_TEST

START_TEST(wrappers_keep_the_users_completions_in_order)
{
	const struct kvb_params p = { .sq_entries = 4, .cq_entries = 4 };
	const struct kvb_cqe *cqe;

	fake_init(&fake);
	fake_start(&fake);
	struct kvb *kvb = client(&p);
	for (unsigned i = 0; i < 4; i++)
		kvb_get_sqe(kvb)->user_data = i;
	kvb_submit(kvb);
	ck_assert_int_eq(kvb_wait_cqe(kvb, &cqe, 1000 * MS), 0);
	ck_assert_uint_eq(cqe->user_data, 0);
	/* The ring is full of the user's: the wrappers must make room and lose nothing. */
	for (unsigned i = 0; i < 20; i++)
		ck_assert_int_eq(kvb_nop(kvb), 0);
	ck_assert_uint_eq(cqe->user_data, 0);
	ck_assert_ptr_eq(kvb_peek_cqe(kvb), cqe);
	for (unsigned i = 0; i < 4; i++) {
		cqe = kvb_peek_cqe(kvb);
		ck_assert_ptr_nonnull(cqe);
		ck_assert_uint_eq(cqe->user_data, i);
		kvb_cqe_seen(kvb);
	}
	ck_assert_ptr_null(kvb_peek_cqe(kvb));
	kvb_disconnect(kvb);
	fake_stop(&fake);
}
END_TEST

START_TEST(unreaped_entries_are_bounded_by_the_completion_queue)
{
	const struct kvb_params p = { .sq_entries = 2, .cq_entries = 4 };
	unsigned got = 0;

	fake_init(&fake);
	fake_start(&fake);
	struct kvb *kvb = client(&p);
	/* Wrappers drain the ring into the side queue, which must never run over. */
	for (unsigned i = 0; i < 20; i++) {
		struct kvb_sqe *sqe = kvb_get_sqe(kvb);
		got += sqe != NULL;
		ck_assert_int_eq(kvb_nop(kvb), 0);
	}
	ck_assert_uint_eq(got, 4);
	kvb_disconnect(kvb);
	fake_stop(&fake);
}
END_TEST

START_TEST(operands_and_results_have_three_parts_that_do_not_meet)
{
	size_t bytes;

	fake_init(&fake);
	fake_start(&fake);
	struct kvb *kvb = client(&(struct kvb_params){ .operand_bytes = 4096 });
	char *mine = kvb_operands(kvb, &bytes);
	ck_assert_uint_eq(bytes, 2048);
	ck_assert_uint_eq(kvb_operand_offset(kvb, mine + 64), 64);
	ck_assert_ptr_eq(kvb_results(kvb, 64), fake.ctl ? kvb->results + 64 : NULL);
	ck_assert_uint_eq(kvb->call_operand, 2048);
	ck_assert_uint_eq(kvb->call_operand + kvb->call_bytes, kvb->magazine_operand);
	ck_assert_uint_ge(kvb->magazine_bytes, 64);
	ck_assert_uint_eq(kvb->magazine_operand + KVB_SPACES_MAX * kvb->magazine_bytes, 4096);
	ck_assert_ptr_null(kvb_fence_word(kvb, KVB_FENCES));
	ck_assert_ptr_nonnull(kvb_fence_word(kvb, KVB_FENCES - 1));
	kvb_disconnect(kvb);
	fake_stop(&fake);
}
END_TEST

/* ---- waiting ------------------------------------------------------------------------------- */

static void submit_nop(struct kvb *kvb)
{
	struct kvb_sqe *sqe = kvb_get_sqe(kvb);

	ck_assert_ptr_nonnull(sqe);
	kvb_prep_nop(sqe);
	ck_assert_int_eq(kvb_submit(kvb), 1);
}

START_TEST(sleeper_is_woken)
{
	const struct kvb_cqe *cqe;

	fake_init(&fake);
	fake.delay_ns = 1 * MS;
	fake_start(&fake);
	struct kvb *kvb = client(&(struct kvb_params){ .spin_ns = 1 });
	for (unsigned i = 0; i < 50; i++) {
		submit_nop(kvb);
		ck_assert_int_eq(kvb_wait_cqe(kvb, &cqe, 1000 * MS), 0);
		kvb_cqe_seen(kvb);
	}
	kvb_disconnect(kvb);
	fake_stop(&fake);
}
END_TEST

static bool serve_never(struct fake *f, const struct kvb_sqe *sqe)
{
	return true;
}

static void hang_up(struct fake *f, void *arg)
{
	close(f->fd);
	f->fd = -1;
}

static void break_ring(struct fake *f, void *arg)
{
	shm_store(&fake_ctl(f)->error, EPROTO);
	shm_store_release(&fake_ctl(f)->flags, shm_load(&fake_ctl(f)->flags) | KVB_CTL_BROKEN);
	fake_wake(f);
}

START_TEST(wait_ends_by_time)
{
	const struct kvb_cqe *cqe;

	for (unsigned spins = 0; spins < 2; spins++) {
		fake_init(&fake);
		fake.serve = serve_never;
		fake_start(&fake);
		struct kvb *kvb =
			client(&(struct kvb_params){ .spin_ns = spins ? UINT64_MAX : 1000 });
		submit_nop(kvb);
		const uint64_t start = kvb_clock_ns();
		ck_assert_int_eq(kvb_wait_cqe(kvb, &cqe, 30 * MS), -ETIME);
		ck_assert_uint_ge(kvb_clock_ns() - start, 30 * MS);
		ck_assert_int_eq(kvb_poll(kvb), 0); /* that was no error */
		kvb_disconnect(kvb);
		fake_stop(&fake);
	}
}
END_TEST

/* Waits in the library while the daemon's thread does something to it a little later. */
struct later {
	void (*fn)(struct fake *f, void *arg);
};

static void *do_later(void *arg)
{
	const struct timespec ts = { .tv_nsec = 20000000 };
	struct later *later = arg;

	nanosleep(&ts, NULL);
	fake_do(&fake, later->fn, NULL);
	return NULL;
}

START_TEST(dead_broker_is_noticed_by_every_wait)
{
	void (*const ends[])(struct fake *, void *) = { hang_up, break_ring };
	const struct kvb_cqe *cqe;

	for (unsigned i = 0; i < 4; i++) {
		struct later later = { ends[i % 2] };
		pthread_t thread;

		fake_init(&fake);
		fake.serve = serve_never;
		fake_start(&fake);
		struct kvb *kvb =
			client(&(struct kvb_params){ .spin_ns = i < 2 ? 1000 : UINT64_MAX });
		submit_nop(kvb);
		ck_assert_int_eq(pthread_create(&thread, NULL, do_later, &later), 0);
		ck_assert_int_eq(kvb_wait_cqe(kvb, &cqe, UINT64_MAX), -ENOTCONN);
		pthread_join(thread, NULL);
		ck_assert_int_eq(kvb_nop(kvb), -ENOTCONN);
		ck_assert_int_eq(kvb_submit(kvb), -ENOTCONN);
		ck_assert_int_eq(kvb_poll(kvb), -ENOTCONN);
		ck_assert_ptr_null(kvb_get_sqe(kvb));
		ck_assert_ptr_null(kvb_peek_cqe(kvb));
		ck_assert_str_ne(kvb_error_text(kvb), "");
		kvb_disconnect(kvb);
		fake_stop(&fake);
	}
}
END_TEST

START_TEST(poll_notices_a_dead_broker)
{
	fake_init(&fake);
	fake_start(&fake);
	struct kvb *kvb = client(NULL);
	ck_assert_int_eq(kvb_poll(kvb), 0);
	fake_do(&fake, hang_up, NULL);
	const uint64_t start = kvb_clock_ns();
	while (kvb_poll(kvb) == 0)
		ck_assert_uint_lt(kvb_clock_ns() - start, 1000 * MS);
	ck_assert_int_eq(kvb_poll(kvb), -ENOTCONN);
	kvb_disconnect(kvb);
	fake_stop(&fake);
}
END_TEST

START_TEST(call_without_an_answer_ends_the_connection)
{
	fake_init(&fake);
	fake.serve = serve_never;
	fake_start(&fake);
	struct kvb *kvb = client(&(struct kvb_params){ .timeout_ns = 40 * MS });
	ck_assert_int_eq(kvb_nop(kvb), -ETIME);
	ck_assert_ptr_nonnull(strstr(kvb_error_text(kvb), "40 ms"));
	ck_assert_int_eq(kvb_nop(kvb), -ENOTCONN);
	kvb_disconnect(kvb);
	fake_stop(&fake);
}
END_TEST

/* ---- a mad daemon -------------------------------------------------------------------------- */

static bool serve_jump(struct fake *f, const struct kvb_sqe *sqe)
{
	f->cq_tail += f->reply.cq_entries + 1;
	fake_result(f, sqe->user_data, 0);
	return true;
}

static bool serve_many(struct fake *f, const struct kvb_sqe *sqe)
{
	for (unsigned i = 0; i < 3 * f->reply.cq_entries; i++) {
		const struct timespec ts = { .tv_nsec = 50000 };

		fake_result(f, 1, 0);
		nanosleep(&ts, NULL);
	}
	fake_result(f, sqe->user_data, 0);
	return true;
}

static bool serve_wild_events(struct fake *f, const struct kvb_sqe *sqe)
{
	fake_event(f, KVB_EVENT_RECALL, -1, 0, 0);
	fake_event(f, KVB_EVENT_RECALL, 1 << 30, 0, 0);
	fake_event(f, KVB_EVENT_REVOKE, 3, 1 << 30, 0);
	fake_event(f, (enum kvb_event)99, 3, 0, 0);
	fake_result(f, KVB_OWN | KVB_OWN_MAGAZINE | 12345, 7);
	fake_result(f, KVB_OWN | 12345, 7);
	fake_result(f, sqe->user_data, 0);
	return true;
}

static bool serve_head_jump(struct fake *f, const struct kvb_sqe *sqe)
{
	shm_store_release(&fake_ctl(f)->sq_head, f->sq_head + 100000);
	fake_result(f, sqe->user_data, 0);
	return true;
}

START_TEST(ring_that_cannot_be_ends_the_connection)
{
	fake_init(&fake);
	fake.serve = serve_jump;
	fake_start(&fake);
	struct kvb *kvb = client(NULL);
	ck_assert_int_eq(kvb_nop(kvb), -EPROTO);
	kvb_disconnect(kvb);
	fake_stop(&fake);

	fake_init(&fake);
	fake.serve = serve_many;
	fake_start(&fake);
	kvb = client(&(struct kvb_params){ .sq_entries = 4, .cq_entries = 4 });
	ck_assert_int_eq(kvb_nop(kvb), -EPROTO);
	kvb_disconnect(kvb);
	fake_stop(&fake);

	fake_init(&fake);
	fake.serve = serve_head_jump;
	fake_start(&fake);
	kvb = client(&(struct kvb_params){ .sq_entries = 2 });
	int rc = 0;
	for (unsigned i = 0; i < 5 && !rc; i++)
		rc = kvb_nop(kvb);
	ck_assert_int_eq(rc, -EPROTO);
	kvb_disconnect(kvb);
	fake_stop(&fake);
}
END_TEST

START_TEST(wild_events_and_completions_are_nobodys)
{
	fake_init(&fake);
	fake.serve = serve_wild_events;
	fake_start(&fake);
	struct kvb *kvb = client(NULL);
	ck_assert_int_eq(kvb_nop(kvb), 0);
	ck_assert_ptr_null(kvb_peek_cqe(kvb));
	kvb_disconnect(kvb);
	fake_stop(&fake);
}
END_TEST

static void send_nonsense(struct fake *f, void *arg)
{
	struct kvb_msg_space_reply reply = { .space = 1 };

	fake_send(f, &reply, KVB_MSG_SPACE_REPLY, sizeof(reply), NULL, 0);
}

static void send_short(struct fake *f, void *arg)
{
	struct kvb_msg_header h = { KVB_MAGIC, KVB_MSG_GRANT, 1, sizeof(h) + 8, 0 };

	fake_send(f, &h, KVB_MSG_GRANT, sizeof(h), &f->doorbell, 1);
}

START_TEST(fault_005_messages_nobody_asked_for)
{
	void (*const sends[])(struct fake *, void *) = { send_nonsense, send_short };

	for (unsigned i = 0; i < 2; i++) {
		fake_init(&fake);
		fake_start(&fake);
		struct kvb *kvb = client(NULL);
		const int before = fds_open();
		fake_do(&fake, sends[i], NULL);
		ck_assert_int_eq(kvb_poll(kvb), -EPROTO);
		ck_assert_int_eq(fds_open(), before);
		kvb_disconnect(kvb);
		fake_stop(&fake);
	}
}
END_TEST

int main(void)
{
	static const struct suite_case cases[] = {
		{ &connect_tells_what_it_is_told, 0 },
		{ &connect_without_a_broker_says_what_to_do, 0 },
		{ &connect_refuses_impossible_parameters, 0 },
		{ &connect_passes_a_refusal_on, 0 },
		{ &connect_gives_up_on_a_mute_broker, 0 },
		{ &connect_survives_any_reply, 20 },
		{ &fault_020_handshake_with_other_fds_than_said, 20 },
		{ &ring_wraps_past_the_end_of_the_index, 20 },
		{ &wrappers_keep_the_users_completions_in_order, 0 },
		{ &unreaped_entries_are_bounded_by_the_completion_queue, 0 },
		{ &operands_and_results_have_three_parts_that_do_not_meet, 0 },
		{ &sleeper_is_woken, 20 },
		{ &wait_ends_by_time, 0 },
		{ &dead_broker_is_noticed_by_every_wait, 20 },
		{ &poll_notices_a_dead_broker, 0 },
		{ &call_without_an_answer_ends_the_connection, 0 },
		{ &ring_that_cannot_be_ends_the_connection, 20 },
		{ &wild_events_and_completions_are_nobodys, 0 },
		{ &fault_005_messages_nobody_asked_for, 0 },
		{ NULL, 0 },
	};

	return suite_run("lib", cases);
}
