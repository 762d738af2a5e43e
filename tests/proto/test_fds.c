/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Faults 19 to 28: descriptors sent to a daemon that takes none, descriptors it sends to those who
 * do not take them, and the doorbell that both sides share.
 */

#include "tests/proto/harness.h"
#include "tests/proto/raw.h"
#include "tests/unit/suite.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define P99_BOUND_NS 100000000ull /* on a machine that runs a build beside the tests */

START_TEST(fault_019_as_many_fds_as_a_message_carries)
{
	struct kvb_msg_hello hello = raw_hello();
	struct scene s;
	int fds[253];

	for (unsigned i = 0; i < 253; i++)
		fds[i] = 0;
	scene_open(&s, OPTIONS());
	for (unsigned claim = 0; claim <= 253; claim += 253) {
		int sock = raw_connect(&s.b);

		hello.h.nfds = (uint16_t)claim;
		ck_assert_int_eq(raw_send(sock, &hello, sizeof(hello), fds, 253), 0);
		ck_assert_int_eq(raw_wait_end(sock), -EPROTO);
		EVENTUALLY(broker_fds(&s.b, NULL) <= s.fds);
	}
	scene_close(&s);
}
END_TEST

START_TEST(fault_020_fewer_and_more_fds_than_claimed)
{
	static const uint16_t cases[][2] = { { 5, 0 }, { 0, 1 }, { 1, 2 },     { 2, 1 },
					     { 1, 1 }, { 4, 4 }, { 65535, 0 }, { 65535, 3 } };
	struct kvb_msg_space_close shut = {
		.h = { .magic = KVB_MAGIC, .type = KVB_MSG_SPACE_CLOSE, .length = sizeof(shut) },
	};
	const int fds[4] = { 0, 1, 2, 0 };
	struct scene s;
	struct raw r;

	scene_open(&s, OPTIONS());
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct kvb_msg_hello hello = raw_hello();
		int sock = raw_connect(&s.b);

		hello.h.nfds = cases[i][0];
		ck_assert_int_eq(raw_send(sock, &hello, sizeof(hello), fds, cases[i][1]), 0);
		ck_assert_int_eq(raw_wait_end(sock), -EPROTO);
		raw_attach(&r, &s.b, "other", NULL);
		shut.h.nfds = cases[i][0];
		ck_assert_int_eq(raw_send(r.sock, &shut, sizeof(shut), fds, cases[i][1]), 0);
		ck_assert_int_eq(raw_wait_end(dup(r.sock)), -EPROTO);
		raw_close(&r);
	}
	EVENTUALLY(broker_fds(&s.b, NULL) <= s.fds);
	scene_close(&s);
}
END_TEST

/* The daemon has room for a few of the fds only: the kernel cuts the message. */
START_TEST(fault_021_fds_cut_off_by_a_low_limit)
{
	struct kvb_msg_space_close shut = {
		.h = { .magic = KVB_MAGIC, .type = KVB_MSG_SPACE_CLOSE, .length = sizeof(shut) },
	};
	int fds[100] = { 0 };
	unsigned slabs, room;
	struct scene s;
	struct raw r;

	scene_open(&s, OPTIONS());
	for (room = 0; room < 6; room += 3) {
		raw_attach(&r, &s.b, "other", NULL);
		broker_limit_fds(&s.b, broker_fds(&s.b, &slabs) + slabs + room);
		ck_assert_int_eq(raw_send(r.sock, &shut, sizeof(shut), fds, 100), 0);
		raw_wait_end(dup(r.sock));
		raw_close(&r);
		broker_limit_fds(&s.b, 1000);
		EVENTUALLY(broker_fds(&s.b, NULL) <= s.fds);
	}
	scene_close(&s);
}
END_TEST

START_TEST(fault_022_fds_of_every_kind)
{
	struct kvb_msg_hello hello = raw_hello();
	int pipes[2], pair[2], fds[9];
	struct scene s;

	scene_open(&s, OPTIONS());
	ck_assert_int_eq(pipe(pipes), 0);
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	fds[0] = pipes[0];
	fds[1] = pipes[1];
	fds[2] = pair[0];
	fds[3] = open("/dev/zero", O_RDWR);
	fds[4] = open("/", O_PATH);
	fds[5] = epoll_create1(0);
	fds[6] = memfd_create("evil", MFD_ALLOW_SEALING);
	fds[7] = open("/proc/self/mem", O_RDWR);
	for (unsigned i = 0; i < 9; i++) {
		int sock = raw_connect(&s.b);

		fds[8] = sock; /* itself: a cycle in the kernel's in-flight graph */
		ck_assert_int_eq(raw_send(sock, &hello, sizeof(hello), &fds[i], 1), 0);
		ck_assert_int_eq(raw_wait_end(sock), -EPROTO);
	}
	/* The daemon's copies are closed: the pipe's other end sees it. */
	close(pipes[1]);
	EVENTUALLY(read(pipes[0], pair, 1) == 0);
	scene_close(&s);
}
END_TEST

static void never_reads_grants(void *arg)
{
	struct kvb_sqe sqe = { .opcode = KVB_OP_SPACE_GROW, .count = 8, .arg = 1000000000 };
	struct raw r;

	raw_attach(&r, arg, "other", NULL);
	raw_space(&r, 65536, 7);
	sqe.space = (uint16_t)r.geo.space;
	r.deaf = true;
	raw_submit(&r, &sqe);
	for (;;)
		pause();
}

/* With a limit of its own on fds in flight: its uid lacks CAP_SYS_RESOURCE. */
START_TEST(fault_023_grants_that_nobody_reads)
{
	static const struct broker_how how = { .uid = NOBODY, .nofile = 160 };
	struct scene s;
	pid_t deaf[12];
	struct raw r;

	if (!can_be_others())
		return;
	broker_dir(&s.b);
	ck_assert_int_eq(chown(s.b.dir, NOBODY, NOBODY), 0);
	broker_spawn(&s.b, &how,
		     OPTIONS("--tenant", "default,uid=0", "--tenant", "other,uid=0", "--device",
			     "host:0=256M", "--max-clients", "16", "--clients-per-uid", "16"));
	ck_assert(broker_ready(&s.b, 20000));
	bystander_open(&s.by, &s.b, "default");
	ck_assert_uint_eq(broker_stats_unasked(&s.b)->clients_n,
			  1); /* mapped while fds can be sent */
	for (unsigned i = 0; i < 12; i++)
		deaf[i] = child_start(never_reads_grants, &s.b);
	EVENTUALLY(broker_stats_unasked(&s.b)->clients_n == 13);
	sleep_ms(300);
	bystander_cycle(&s.by);
	for (unsigned i = 0; i < 12; i++)
		child_kill(deaf[i]);
	/* What was put off comes when they are gone. */
	EVENTUALLY(broker_stats_unasked(&s.b)->clients_n == 1);
	raw_attach(&r, &s.b, "other", NULL);
	raw_space(&r, 65536, 8);
	ck_assert_int_eq(raw_grow(&r, 4, 10000), 4);
	raw_leave(&r);
	s.fds = broker_fds(&s.b, NULL);
	scene_close(&s);
}
END_TEST

/* One that asks and asks and reads no answer is ended when its socket is full. */
START_TEST(fault_023_answers_that_nobody_reads)
{
	struct kvb_msg_space_open open = {
		.h = { .magic = KVB_MAGIC, .type = KVB_MSG_SPACE_OPEN, .length = sizeof(open) },
		.device_kind = KVB_DEVICE_CUDA,
	};
	struct scene s;
	struct raw r;
	int error = 0;

	scene_open(&s, OPTIONS());
	raw_attach(&r, &s.b, "other", NULL);
	for (uint64_t until = clock_ns() + 20000000000ull; error != -EPIPE && clock_ns() < until;)
		error = raw_send(r.sock, &open, sizeof(open), NULL, 0);
	ck_assert_int_eq(error, -EPIPE);
	raw_close(&r);
	scene_close(&s);
}
END_TEST

static void fill_doorbell(const struct raw *r)
{
	const uint64_t most = UINT64_MAX - 1;
	uint64_t sink;

	ck_assert_int_eq(fcntl(r->fds[3], F_SETFL, O_NONBLOCK), 0);
	(void)!read(r->fds[3], &sink, sizeof(sink));
	ck_assert_int_eq(write(r->fds[3], &most, sizeof(most)), sizeof(most));
	ck_assert_int_eq(fcntl(r->fds[3], F_SETFL, 0), 0);
}

START_TEST(fault_024_doorbell_made_blocking_and_filled)
{
	struct kvb_sqe nop = { .opcode = KVB_OP_NOP };
	struct scene s;
	struct raw r;

	scene_open(&s, OPTIONS());
	raw_attach(&r, &s.b, "other", NULL);
	ck_assert_int_eq(raw_call(&r, &nop).res, 0);
	fill_doorbell(&r);
	sleep_ms(20);
	bystander_cycle(&s.by);
	ck_assert_int_eq(fcntl(r.fds[3], F_SETFL, O_NONBLOCK), 0);
	raw_close(&r);
	scene_close(&s);
}
END_TEST

static void *drain_doorbell(void *arg)
{
	struct raw *r = arg;
	uint64_t sink;

	while (!__atomic_load_n(&r->deaf, __ATOMIC_RELAXED))
		(void)!read(r->fds[3], &sink, sizeof(sink));
	return NULL;
}

START_TEST(fault_025_client_drains_the_doorbell)
{
	struct kvb_sqe nop = { .opcode = KVB_OP_NOP };
	pthread_t thread;
	struct scene s;
	struct raw r;

	scene_open(&s, OPTIONS("--spin-us", "1"));
	raw_attach(&r, &s.b, "other", NULL);
	ck_assert_int_eq(pthread_create(&thread, NULL, drain_doorbell, &r), 0);
	for (unsigned i = 0; i < 300; i++) {
		struct kvb_cqe cqe;

		raw_submit(&r, &nop);
		/* Its own wake-ups may be lost to itself; it rings again. */
		while (raw_cqe(&r, &cqe, 1) == -ETIME)
			raw_ring_doorbell(&r);
	}
	bystander_cycle(&s.by);
	__atomic_store_n(&r.deaf, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	r.deaf = false;
	ck_assert_int_eq(raw_call(&r, &nop).res, 0);
	raw_close(&r);
	scene_close(&s);
}
END_TEST

static void storm(void *arg)
{
	struct raw r;

	raw_attach(&r, arg, "other", NULL);
	for (;;)
		raw_ring_doorbell(&r);
}

START_TEST(fault_026_doorbell_storm)
{
	uint64_t calm, stormy;
	struct scene s;
	pid_t pid[2];

	scene_open(&s, OPTIONS());
	calm = bystander_p99_ns(&s.by, 2000);
	for (unsigned i = 0; i < 2; i++)
		pid[i] = child_start(storm, &s.b);
	EVENTUALLY(broker_stats(&s.b)->clients_n == 3);
	stormy = bystander_p99_ns(&s.by, 2000);
	fprintf(stderr, "# p99 of a round trip: %llu us, in the storm %llu us\n",
		(unsigned long long)calm / 1000, (unsigned long long)stormy / 1000);
	ck_assert_uint_lt(stormy, P99_BOUND_NS);
	for (unsigned i = 0; i < 2; i++)
		child_kill(pid[i]);
	scene_close(&s);
}
END_TEST

START_TEST(fault_027_doorbell_closed_and_watched_elsewhere)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLET };
	int outer = epoll_create1(0), inner = epoll_create1(0);
	struct kvb_sqe nop = { .opcode = KVB_OP_NOP };
	struct scene s;
	struct raw r;

	scene_open(&s, OPTIONS());
	raw_attach(&r, &s.b, "other", NULL);
	for (unsigned i = 0; i < 100; i++)
		ck_assert_int_eq(epoll_ctl(inner, EPOLL_CTL_ADD, dup(r.fds[3]), &event), 0);
	ck_assert_int_eq(epoll_ctl(outer, EPOLL_CTL_ADD, inner, &event), 0);
	for (unsigned i = 0; i < 100; i++)
		ck_assert_int_eq(raw_call(&r, &nop).res, 0);
	close(r.fds[3]);
	r.fds[3] = open("/dev/null", O_RDWR);
	bystander_cycle(&s.by);
	raw_close(&r);
	scene_close(&s);
}
END_TEST

/* Sleeps for its completion as the contract has it (F). */
static void wait_by_futex(struct raw *r)
{
	const struct timespec limit = { .tv_sec = 20 };
	struct kvb_ctl *ctl = (void *)r->ctl;
	struct kvb_sub *sub = raw_sub(r);

	while (__atomic_load_n(&ctl->cq_tail, __ATOMIC_ACQUIRE) == r->cq_head) {
		uint32_t seen = __atomic_load_n(&ctl->wake, __ATOMIC_RELAXED);

		__atomic_store_n(&sub->need_wake, 1, __ATOMIC_RELAXED);
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		if (__atomic_load_n(&ctl->cq_tail, __ATOMIC_RELAXED) == r->cq_head)
			ck_assert_msg(syscall(SYS_futex, &ctl->wake, FUTEX_WAIT, seen, &limit, NULL,
					      0) == 0 ||
					      errno == EAGAIN || errno == EINTR,
				      "a wake-up was lost");
		__atomic_store_n(&sub->need_wake, 0, __ATOMIC_RELAXED);
	}
	__atomic_store_n(&sub->cq_head, ++r->cq_head, __ATOMIC_RELEASE);
}

/* Spins for it: the daemon's half alone (E), and many more rounds in the same time. */
static void wait_by_spinning(struct raw *r)
{
	uint64_t until = 0;

	for (unsigned spins = 1;
	     __atomic_load_n(&raw_ctl(r)->cq_tail, __ATOMIC_ACQUIRE) == r->cq_head; spins++) {
		if (spins % 4096)
			continue;
		if (!until)
			until = clock_ns() + 5000000000ull;
		ck_assert_msg(clock_ns() < until, "an entry was not seen");
	}
	__atomic_store_n(&raw_sub(r)->cq_head, ++r->cq_head, __ATOMIC_RELEASE);
}

static void lost_wake_ups(const char *spin_us, const char *io, void (*wait)(struct raw *),
			  unsigned rounds)
{
	struct kvb_sqe nop = { .opcode = KVB_OP_NOP };
	unsigned spin = (unsigned)atoi(spin_us) * 1000;
	struct scene s;
	struct raw r;

	scene_open(&s, OPTIONS("--spin-us", spin_us, "--io", io));
	raw_attach(&r, &s.b, "other", NULL);
	for (unsigned i = 0; i < rounds; i++) {
		/* Around the moment the ring leaves the polled set, sweeping over it. */
		uint64_t until = clock_ns() + spin / 2 + i * 37 % (spin + 8000);

		while (clock_ns() < until)
			;
		raw_submit(&r, &nop);
		wait(&r);
	}
	ck_assert_uint_eq(r.cq_head, rounds);
	raw_close(&r);
	scene_close(&s);
}

START_TEST(fault_028_lost_wake_ups)
{
	lost_wake_ups("0", "auto", wait_by_futex, 5000);
	lost_wake_ups("5", "auto", wait_by_futex, 5000);
	lost_wake_ups("5", "epoll", wait_by_futex, 3000);
	lost_wake_ups("2", "auto", wait_by_spinning, 60000);
}
END_TEST

#define CASE(name)                                                                                 \
	{                                                                                          \
		&name, 90                                                                          \
	}

int main(void)
{
	static const struct suite_case cases[] = {
		CASE(fault_019_as_many_fds_as_a_message_carries),
		CASE(fault_020_fewer_and_more_fds_than_claimed),
		CASE(fault_021_fds_cut_off_by_a_low_limit),
		CASE(fault_022_fds_of_every_kind),
		CASE(fault_023_grants_that_nobody_reads),
		CASE(fault_023_answers_that_nobody_reads),
		CASE(fault_024_doorbell_made_blocking_and_filled),
		CASE(fault_025_client_drains_the_doorbell),
		CASE(fault_026_doorbell_storm),
		CASE(fault_027_doorbell_closed_and_watched_elsewhere),
		CASE(fault_028_lost_wake_ups),
		{ NULL, 0 },
	};

	return suite_run("fds", cases);
}
