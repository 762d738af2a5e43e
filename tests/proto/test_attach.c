/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Faults 1 to 12: the first messages of a connection, and how many connections there may be.
 * Each case first shows that the same thing done right is accepted, where that is not plain from
 * the scene itself: a daemon that refuses everything would pass otherwise.
 */

#include "tests/proto/harness.h"
#include "tests/proto/raw.h"
#include "tests/unit/suite.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static int dial(const struct scene *s)
{
	int sock = raw_connect(&s->b);

	ck_assert_int_ge(sock, 0);
	return sock;
}

/* The error the daemon names when it hangs up after these bytes. */
static int error_of(const struct scene *s, const void *msg, size_t bytes)
{
	int sock = dial(s);

	ck_assert_int_eq(raw_send(sock, msg, bytes, NULL, 0), 0);
	return raw_wait_end(sock);
}

START_TEST(fault_001_connect_and_send_nothing)
{
	uint64_t began, timeouts;
	struct scene s;
	int sock;

	scene_open(&s, OPTIONS("--attach-deadline", "300"));
	timeouts = broker_stats(&s.b)->attach_timeouts;
	sock = dial(&s);
	began = clock_ns();
	raw_wait_end(sock);
	ck_assert_uint_ge(clock_ns() - began, 250000000ull);
	ck_assert_uint_eq(broker_stats(&s.b)->attach_timeouts, timeouts + 1);
	scene_close(&s);
}
END_TEST

/* A datagram is a message: a byte is a malformed one, and an empty one is the end. */
START_TEST(fault_002_a_byte_at_a_time)
{
	struct kvb_msg_hello hello = raw_hello();
	struct scene s;

	scene_open(&s, OPTIONS("--attach-deadline", "60000"));
	for (size_t i = 0; i < 20; i++)
		ck_assert_int_eq(error_of(&s, (const char *)&hello + i, 1), -EPROTO);
	error_of(&s, &hello, 0);
	scene_close(&s);
}
END_TEST

START_TEST(fault_003_larger_than_the_maximum)
{
	static char big[4 * KVB_MSG_BYTES_MAX];
	struct kvb_msg_hello hello = raw_hello();
	struct scene s;

	scene_open(&s, OPTIONS());
	memcpy(big, &hello, sizeof(hello));
	((struct kvb_msg_header *)(void *)big)->length = KVB_MSG_BYTES_MAX + 1;
	ck_assert_int_eq(error_of(&s, big, KVB_MSG_BYTES_MAX + 1), -EMSGSIZE);
	((struct kvb_msg_header *)(void *)big)->length = sizeof(big);
	ck_assert_int_eq(error_of(&s, big, sizeof(big)), -EMSGSIZE);
	ck_assert_int_eq(error_of(&s, big, KVB_MSG_BYTES_MAX), -EPROTO);
	scene_close(&s);
}
END_TEST

START_TEST(fault_004_length_that_is_not_the_length)
{
	static const uint32_t lengths[] = { 0,
					    1,
					    8,
					    15,
					    16,
					    sizeof(struct kvb_msg_hello) - 1,
					    sizeof(struct kvb_msg_hello) + 1,
					    0x80000000,
					    UINT32_MAX };
	struct scene s;

	scene_open(&s, OPTIONS());
	for (unsigned i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		struct kvb_msg_hello hello = raw_hello();

		hello.h.length = lengths[i];
		ck_assert_int_eq(error_of(&s, &hello, sizeof(hello)), -EPROTO);
	}
	scene_close(&s);
}
END_TEST

START_TEST(fault_005_cut_short_and_closed)
{
	struct kvb_msg_hello hello = raw_hello();
	struct scene s;

	scene_open(&s, OPTIONS());
	for (uint32_t n = 1; n < sizeof(hello); n++) {
		int sock = dial(&s);

		/* Consistent with itself in every other case, so that the type's size decides. */
		hello.h.length = n % 2 ? (uint32_t)sizeof(hello) : n;
		ck_assert_int_eq(raw_send(sock, &hello, n, NULL, 0), 0);
		close(sock);
	}
	ck_assert_uint_eq(broker_stats(&s.b)->clients_n, 1);
	scene_close(&s);
}
END_TEST

START_TEST(fault_006_magic_and_versions)
{
	static const uint32_t wrong[][2] = {
		{ 0, 0 }, { 2, UINT32_MAX }, { UINT32_MAX, UINT32_MAX }, { 1, 0 }, { 2, 1 }
	};
	static const uint32_t right[][2] = { { 1, 1 }, { 0, UINT32_MAX }, { 0, 1 }, { 1, 2 } };
	struct kvb_msg_hello hello = raw_hello();
	struct scene s;
	struct raw r;

	scene_open(&s, OPTIONS());
	for (unsigned i = 0; i < 4; i++) {
		hello.version_min = right[i][0];
		hello.version_max = right[i][1];
		raw_attach(&r, &s.b, "other", &hello);
		ck_assert_uint_eq(r.hello.version, KVB_ABI_VERSION);
		raw_close(&r);
	}
	for (unsigned i = 0; i < 5; i++) {
		hello.version_min = wrong[i][0];
		hello.version_max = wrong[i][1];
		ck_assert_int_eq(error_of(&s, &hello, sizeof(hello)), -EPROTONOSUPPORT);
	}
	for (unsigned bit = 0; bit < 32; bit++) {
		hello = raw_hello();
		hello.h.magic ^= 1u << bit;
		ck_assert_int_eq(error_of(&s, &hello, sizeof(hello)), -EPROTO);
	}
	scene_close(&s);
}
END_TEST

static void reserved_byte(const struct scene *s, size_t at)
{
	struct kvb_msg_hello hello = raw_hello();

	((unsigned char *)&hello)[at] = 0x40;
	ck_assert_msg(error_of(s, &hello, sizeof(hello)) == -EINVAL, "byte %zu", at);
}

static void refused_after_attach(const struct scene *s, void *msg, size_t bytes, size_t at)
{
	struct raw r;
	int sock;

	((unsigned char *)msg)[at] = 0x40;
	raw_attach(&r, &s->b, "other", NULL);
	ck_assert_int_eq(raw_send(r.sock, msg, bytes, NULL, 0), 0);
	sock = dup(r.sock);
	ck_assert_msg(raw_wait_end(sock) == -EINVAL, "byte %zu", at);
	ck_assert(raw_broken(&r, 5000));
	ck_assert_uint_eq(raw_ctl(&r)->error, EINVAL);
	raw_close(&r);
	((unsigned char *)msg)[at] = 0;
}

START_TEST(fault_007_reserved_bytes)
{
	struct kvb_msg_space_open open = {
		.h = { .magic = KVB_MAGIC, .type = KVB_MSG_SPACE_OPEN, .length = sizeof(open) },
		.device_kind = KVB_DEVICE_HOST,
		.regions = 1,
		.stride_bytes = 65536,
	};
	struct kvb_msg_space_close shut = {
		.h = { .magic = KVB_MAGIC, .type = KVB_MSG_SPACE_CLOSE, .length = sizeof(shut) },
		.space = 0,
	};
	struct scene s;

	scene_open(&s, OPTIONS());
	for (size_t at = 12; at < 16; at++)
		reserved_byte(&s, at);
	for (size_t at = offsetof(struct kvb_msg_hello, resv); at < sizeof(struct kvb_msg_hello);
	     at++)
		reserved_byte(&s, at);
	for (size_t at = offsetof(struct kvb_msg_space_open, resv0); at < sizeof(open); at += 3)
		refused_after_attach(&s, &open, sizeof(open), at);
	for (size_t at = 20; at < 24; at++)
		refused_after_attach(&s, &shut, sizeof(shut), at);
	scene_close(&s);
}
END_TEST

START_TEST(fault_007_names_and_sizes_in_hello)
{
	static const uint32_t bad[][3] = {
		{ 1, 0, 0 },     { 3, 0, 0 },     { 8192, 0, 0 },        { UINT32_MAX, 0, 0 },
		{ 64, 32, 0 },   { 64, 96, 0 },   { 64, 0x80000000, 0 }, { 64, 16384, 0 },
		{ 64, 0, 4095 }, { 64, 0, 2048 }, { 64, 0, 8u << 20 },   { 64, 0, UINT32_MAX },
	};
	struct kvb_msg_hello hello = raw_hello();
	struct scene s;

	scene_open(&s, OPTIONS());
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		hello = raw_hello();
		hello.sq_entries = bad[i][0];
		hello.cq_entries = bad[i][1];
		hello.operand_bytes = bad[i][2];
		ck_assert_int_eq(error_of(&s, &hello, sizeof(hello)), -EINVAL);
	}
	hello = raw_hello();
	memset(hello.name, 'a', sizeof(hello.name)); /* no end */
	ck_assert_int_eq(error_of(&s, &hello, sizeof(hello)), -EINVAL);
	hello = raw_hello();
	memcpy(hello.name, "a\x1b[31m", 7); /* to an operator's terminal */
	ck_assert_int_eq(error_of(&s, &hello, sizeof(hello)), -EINVAL);
	hello = raw_hello();
	hello.name[31] = 'x'; /* behind the end */
	ck_assert_int_eq(error_of(&s, &hello, sizeof(hello)), -EINVAL);
	for (uint32_t role = 0; role < 256; role = role * 3 + 3) {
		hello = raw_hello();
		hello.role = role;
		ck_assert_int_eq(error_of(&s, &hello, sizeof(hello)), -EINVAL);
	}
	scene_close(&s);
}
END_TEST

/* Every type of message in every state it has no business in. */
START_TEST(fault_008_messages_out_of_turn)
{
	union raw_message m;
	struct scene s;
	struct raw r;

	scene_open(&s, OPTIONS());
	raw_attach(&r, &s.b, "other", NULL); /* the control: both roles attach */
	raw_close(&r);
	for (uint32_t type = 0; type < 16; type++) {
		uint32_t bytes[] = { 16, 24, 32, 80, 144 };

		for (unsigned i = 0; i < 5; i++) {
			memset(&m, 0, sizeof(m));
			m.h = (struct kvb_msg_header){ .magic = KVB_MAGIC,
						       .type = (uint16_t)type,
						       .length = bytes[i] };
			ck_assert_int_lt(error_of(&s, &m, bytes[i]), 0);
		}
	}
	for (unsigned round = 0; round < 8; round++) {
		struct kvb_msg_hello hello = raw_hello();

		raw_attach(&r, &s.b, "other", NULL);
		ck_assert_int_eq(raw_send(r.sock, &hello, sizeof(hello), NULL, 0), 0);
		ck_assert_int_eq(raw_wait_end(dup(r.sock)), -EINVAL);
		raw_close(&r);
	}
	scene_close(&s);
}
END_TEST

static void answer_wrongly(void *arg)
{
	struct kvb_msg_grant_ack ack = {
		.h = { .magic = KVB_MAGIC, .type = KVB_MSG_GRANT_ACK, .length = sizeof(ack) },
	};
	struct raw r;

	for (ack.seq = 0; ack.seq < 4; ack.seq++) {
		raw_attach(&r, arg, "other", NULL);
		raw_space(&r, 65536, 1);
		ck_assert_int_eq(raw_grow(&r, 1, 1000), 1);
		ck_assert_int_eq(raw_send(r.sock, &ack, sizeof(ack), NULL, 0), 0);
		ck_assert_int_eq(raw_wait_end(dup(r.sock)), -EPROTO);
		raw_close(&r);
	}
}

START_TEST(fault_008_answers_to_grants_that_were_not)
{
	struct scene s;

	scene_open(&s, OPTIONS());
	child_join(child_start(answer_wrongly, &s.b));
	scene_close(&s);
}
END_TEST

static void attach_as_nobody(void *arg)
{
	struct raw r;

	become_nobody();
	raw_attach(&r, arg, "nobody", NULL);
	raw_close(&r);
}

START_TEST(fault_009_many_connections_of_one_uid)
{
	struct kvb_msg_hello hello = raw_hello();
	enum { MANY = 3000, KEPT = 120 };
	unsigned refused = 0;
	int kept[KEPT];
	struct scene s;

	if (!can_be_others())
		return;
	scene_open(&s,
		   OPTIONS("--clients-per-uid", "6", "--socket-mode", "0666", "--tenant", "default",
			   "--tenant", "nobody,uid=65534", "--attach-deadline", "60000"));
	for (unsigned i = 0; i < MANY; i++) {
		union raw_message m;
		unsigned at = i % KEPT;
		int sock = raw_connect(&s.b);

		if (i >= KEPT)
			close(kept[at]);
		kept[at] = sock;
		if (sock < 0 || i < 64)
			continue;
		if (raw_receive(sock, &m, NULL, NULL, 0) > 0 && m.h.type == KVB_MSG_ERROR) {
			ck_assert_int_eq(m.error.error, -EUSERS);
			refused++;
		}
	}
	EVENTUALLY(refused > 0 || broker_fds(&s.b, NULL) > s.fds);
	child_join(child_start(attach_as_nobody, &s.b));
	for (unsigned i = 0; i < KEPT; i++)
		close(kept[i]);
	/* Those that attach have a limit of their own: the bystander and five more. */
	EVENTUALLY(broker_fds(&s.b, NULL) <= s.fds);
	for (unsigned i = 0; i < 6; i++) {
		union raw_message m;

		kept[i] = dial(&s);
		ck_assert_int_eq(raw_send(kept[i], &hello, sizeof(hello), NULL, 0), 0);
		ck_assert_int_gt(raw_receive(kept[i], &m, NULL, NULL, 20000), 0);
		ck_assert_uint_eq(m.h.type, i < 5 ? KVB_MSG_HELLO_REPLY : KVB_MSG_ERROR);
		ck_assert(i < 5 || m.error.error == -EUSERS);
	}
	child_join(child_start(attach_as_nobody, &s.b));
	for (unsigned i = 0; i < 6; i++)
		close(kept[i]);
	scene_close(&s);
}
END_TEST

START_TEST(fault_010_connect_loop_at_full_speed)
{
	uint64_t until, log_bytes;
	unsigned worst = 0, n = 0;
	struct scene s;

	scene_open(&s, OPTIONS());
	log_bytes = broker_log_bytes(&s.b);
	until = clock_ns() + 700000000ull;
	while (clock_ns() < until) {
		int sock = raw_connect(&s.b);

		if (sock >= 0) {
			if (n % 2)
				raw_send(sock, "x", 1, NULL, 0);
			close(sock);
		}
		if (++n % 100 == 0) {
			unsigned fds = broker_fds(&s.b, NULL);

			worst = fds > worst ? fds : worst;
		}
	}
	ck_assert_uint_gt(n, 100);
	ck_assert_uint_lt(worst, s.fds + 2 * 64 + 64); /* two a session of one uid */
	ck_assert_uint_lt(broker_log_bytes(&s.b) - log_bytes, 16384);
	scene_close(&s);
}
END_TEST

static void no_fds_left(unsigned room)
{
	struct kvb_msg_hello hello = raw_hello();
	enum { N = 20 };
	union raw_message m;
	unsigned slabs;
	struct scene s;
	uint64_t cpu;
	int sock[N];

	scene_open(&s, OPTIONS("--attach-deadline", "60000"));
	broker_fds(&s.b, &slabs);
	broker_limit_fds(&s.b, s.fds + slabs + room);
	for (unsigned i = 0; i < N; i++)
		sock[i] = dial(&s);
	sleep_ms(200);
	cpu = broker_cpu_ns(&s.b);
	sleep_ms(500);
	ck_assert_uint_lt(broker_cpu_ns(&s.b) - cpu, 100000000ull);
	bystander_cycle(&s.by);
	broker_limit_fds(&s.b, 1000);
	/* Whoever still waits in the backlog is let in now. */
	ck_assert_int_eq(raw_send(sock[N - 1], &hello, sizeof(hello), NULL, 0), 0);
	ck_assert_int_gt(raw_receive(sock[N - 1], &m, NULL, NULL, 20000), 0);
	ck_assert_uint_eq(m.h.type, KVB_MSG_HELLO_REPLY);
	for (unsigned i = 0; i < N; i++)
		close(sock[i]);
	scene_close(&s);
}

/* Short at the socket, and short at the pidfd that goes with it. */
START_TEST(fault_011_no_fds_left_in_accept)
{
	no_fds_left(2);
	no_fds_left(3);
}
END_TEST

static void refused_tenants(void *arg)
{
	static const char *const names[] = { "default", "", "root", "nosuch" };
	const struct broker *b = arg;

	become_nobody();
	for (unsigned i = 0; i < 4; i++) {
		struct kvb_msg_hello hello = raw_hello();
		int sock = raw_connect(b);

		ck_assert_int_ge(sock, 0);
		snprintf(hello.tenant, sizeof(hello.tenant), "%s", names[i]);
		ck_assert_int_eq(raw_send(sock, &hello, sizeof(hello), NULL, 0), 0);
		ck_assert_int_eq(raw_wait_end(sock), i < 3 ? -EACCES : -ENOENT);
	}
	attach_as_nobody(arg);
}

static void refused_by_mode(void *arg)
{
	become_nobody();
	ck_assert_int_eq(raw_connect(arg), -EACCES);
}

START_TEST(fault_012_a_uid_without_permission)
{
	struct scene s;

	if (!can_be_others())
		return;
	scene_open(&s, OPTIONS("--socket-mode", "0666", "--tenant", "default", "--tenant", "root",
			       "--tenant", "nobody,uid=65534"));
	child_join(child_start(refused_tenants, &s.b));
	ck_assert_uint_eq(broker_stats(&s.b)->n.clients_opened, 2); /* nobody's own among them */
	ck_assert_int_eq(chmod(s.b.socket, 0660), 0);
	child_join(child_start(refused_by_mode, &s.b));
	scene_close(&s);
}
END_TEST

#define CASE(name)                                                                                 \
	{                                                                                          \
		&name, 60                                                                          \
	}

int main(void)
{
	static const struct suite_case cases[] = {
		CASE(fault_001_connect_and_send_nothing),
		CASE(fault_002_a_byte_at_a_time),
		CASE(fault_003_larger_than_the_maximum),
		CASE(fault_004_length_that_is_not_the_length),
		CASE(fault_005_cut_short_and_closed),
		CASE(fault_006_magic_and_versions),
		CASE(fault_007_reserved_bytes),
		CASE(fault_007_names_and_sizes_in_hello),
		CASE(fault_008_messages_out_of_turn),
		CASE(fault_008_answers_to_grants_that_were_not),
		CASE(fault_009_many_connections_of_one_uid),
		CASE(fault_010_connect_loop_at_full_speed),
		CASE(fault_011_no_fds_left_in_accept),
		CASE(fault_012_a_uid_without_permission),
		{ NULL, 0 },
	};

	return suite_run("attach", cases);
}
