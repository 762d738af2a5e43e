/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Faults 13 to 18 and 59 to 70, 92: who a peer is, and the ends of peers and of the daemon.
 */

#include "tests/proto/harness.h"
#include "tests/proto/raw.h"
#include "tests/unit/suite.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- who a peer is ------------------------------------------------------------------------- */

static void connect_and_exit(void *arg)
{
	struct kvb_msg_hello hello = raw_hello();
	int sock = raw_connect(arg);

	raw_send(sock, &hello, getpid() % 2 ? sizeof(hello) : 1, NULL, 0);
}

START_TEST(fault_013_peer_gone_before_it_is_accepted)
{
	struct scene s;

	scene_open(&s, OPTIONS());
	for (unsigned round = 0; round < 5; round++) {
		kill(s.b.pid, SIGSTOP);
		for (unsigned i = 0; i < 20; i++)
			child_join(child_start(connect_and_exit, &s.b));
		kill(s.b.pid, SIGCONT);
		bystander_cycle(&s.by);
	}
	scene_close(&s);
}
END_TEST

struct take_over {
	const struct broker *b;
	int pipe[2];
};

static void hold_pages(void *arg)
{
	struct take_over *t = arg;
	kvb_page_t page[2];
	struct raw r;

	raw_attach(&r, t->b, "other", NULL);
	raw_space(&r, 65536, 1);
	raw_ns(&r, 1, 0);
	ck_assert_int_eq(raw_grow(&r, 1, 1000), 1);
	ck_assert_int_eq(raw_alloc(&r, 2, page), 2);
	ck_assert_int_eq(raw_seal(&r, 1, page, 0, NULL), 1);
	ck_assert_int_eq(write(t->pipe[1], page, sizeof(page)), sizeof(page));
	pause();
}

static void use_pages_of_the_dead(const struct broker *b, const kvb_page_t *page)
{
	struct raw r;

	raw_attach(&r, b, "other", NULL);
	raw_space(&r, 65536, 1);
	ck_assert_int_eq(raw_pages(&r, KVB_OP_FREE, 1, &page[1]), -ENOENT);
	ck_assert_int_eq(raw_pages(&r, KVB_OP_RELEASE, 1, &page[0]), -ENOENT);
	raw_leave(&r);
}

/* A process under the same pid as the one that just died: needs the right to choose pids. */
START_TEST(fault_014_pid_used_again)
{
	struct clone_args args = { .exit_signal = SIGCHLD };
	struct take_over t;
	kvb_page_t page[2];
	struct scene s;
	pid_t pid, again;

	scene_open(&s, OPTIONS());
	t.b = &s.b;
	ck_assert_int_eq(pipe(t.pipe), 0);
	pid = child_start(hold_pages, &t);
	ck_assert_int_eq(read(t.pipe[0], page, sizeof(page)), sizeof(page));
	kill(s.b.pid, SIGSTOP); /* it has not heard of the death when the pid is taken */
	child_kill(pid);
	args.set_tid = (uint64_t)(uintptr_t)&pid;
	args.set_tid_size = 1;
	again = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
	if (again == 0) {
		kill(s.b.pid, SIGCONT);
		use_pages_of_the_dead(&s.b, page);
		_exit(0);
	}
	kill(s.b.pid, SIGCONT);
	if (again > 0)
		child_join(again);
	else
		fprintf(stderr, "# cannot choose a pid: %s\n", strerror(errno));
	scene_close(&s);
}
END_TEST

static uint64_t leases_of(const struct broker *b, const char *tenant)
{
	const struct stats_segment *st = broker_stats(b);

	for (uint32_t i = 0; i < st->tenants_n; i++) {
		if (strcmp(st->tenant[i].name, tenant) == 0)
			return st->tenant[i].leases + st->tenant[i].pages_held;
	}
	return 0;
}

static void fork_and_die(void *arg)
{
	struct take_over *t = arg;
	kvb_page_t page[2];
	struct raw r;

	raw_attach(&r, t->b, "other", NULL);
	raw_space(&r, 65536, 1);
	raw_ns(&r, 1, 0);
	ck_assert_int_eq(raw_grow(&r, 1, 1000), 1);
	ck_assert_int_eq(raw_alloc(&r, 2, page), 2);
	ck_assert_int_eq(raw_seal(&r, 1, page, 0, NULL), 1);
	if (fork() == 0) {
		pid_t self = getpid();

		ck_assert_int_eq(write(t->pipe[1], &self, sizeof(self)), sizeof(self));
		for (;;)
			pause();
	}
}

START_TEST(fault_015_child_keeps_the_socket)
{
	struct take_over t;
	struct scene s;
	pid_t grandchild;

	scene_open(&s, OPTIONS());
	t.b = &s.b;
	ck_assert_int_eq(pipe(t.pipe), 0);
	child_join(child_start(fork_and_die, &t));
	ck_assert_int_eq(read(t.pipe[0], &grandchild, sizeof(grandchild)), sizeof(grandchild));
	sleep_ms(100);
	ck_assert_uint_eq(leases_of(&s.b, "other"), 2);
	ck_assert_uint_eq(broker_stats(&s.b)->clients_n, 2);
	kill(grandchild, SIGKILL);
	EVENTUALLY(leases_of(&s.b, "other") == 0);
	scene_close(&s);
}
END_TEST

static void hello_as_nobody(void *arg)
{
	const int *sock = arg;
	struct kvb_msg_hello hello = raw_hello();
	union raw_message m;

	become_nobody();
	ck_assert_int_eq(raw_send(*sock, &hello, sizeof(hello), NULL, 0), 0);
	ck_assert_int_gt(raw_receive(*sock, &m, NULL, NULL, 20000), 0);
	ck_assert_uint_eq(m.h.type, KVB_MSG_HELLO_REPLY);
}

static void connect_as_nobody(void *arg)
{
	struct take_over *t = arg;
	int sock;

	become_nobody();
	sock = raw_connect(t->b);
	ck_assert_int_ge(sock, 0);
	ck_assert_int_eq(raw_send(t->pipe[1], "", 1, &sock, 1), 0);
}

/* Who connected counts, both ways. */
START_TEST(fault_016_socket_passed_to_another_uid)
{
	struct kvb_msg_hello hello = raw_hello();
	union raw_message m;
	struct take_over t;
	struct scene s;
	unsigned nfds = 1;
	int sock;

	if (!can_be_others())
		return;
	scene_open(&s, OPTIONS("--socket-mode", "0666", "--attach-deadline", "60000"));
	sock = raw_connect(&s.b);
	child_join(child_start(hello_as_nobody, &sock));
	close(sock);
	t.b = &s.b;
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, t.pipe), 0);
	child_join(child_start(connect_as_nobody, &t));
	ck_assert_int_eq(raw_receive(t.pipe[0], &m, &sock, &nfds, 20000), 1);
	ck_assert_uint_eq(nfds, 1);
	ck_assert_int_eq(raw_send(sock, &hello, sizeof(hello), NULL, 0), 0);
	ck_assert_int_eq(raw_wait_end(sock), -EACCES);
	scene_close(&s);
}
END_TEST

static void in_user_namespace(void *arg)
{
	struct kvb_msg_hello hello = raw_hello();
	struct raw r;
	int fd, sock;

	become_nobody();
	if (unshare(CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS) < 0) {
		fprintf(stderr, "# no user namespaces: %s\n", strerror(errno));
		return;
	}
	fd = open("/proc/self/uid_map", O_WRONLY | O_CLOEXEC);
	if (fd >= 0 && write(fd, "0 65534 1\n", 10) == 10)
		ck_assert_uint_eq(getuid(), 0); /* root there, nobody here */
	sock = raw_connect(arg);
	ck_assert_int_ge(sock, 0);
	ck_assert_int_eq(raw_send(sock, &hello, sizeof(hello), NULL, 0), 0);
	ck_assert_int_eq(raw_wait_end(sock), -EACCES);
	raw_attach(&r, arg, "nobody", NULL);
	raw_close(&r);
}

START_TEST(fault_063_peer_in_other_namespaces)
{
	struct scene s;

	if (!can_be_others())
		return;
	scene_open(&s, OPTIONS("--socket-mode", "0666", "--tenant", "default", "--tenant",
			       "nobody,uid=65534"));
	child_join(child_start(in_user_namespace, &s.b));
	scene_close(&s);
}
END_TEST

static void attach_and_leave(void *arg)
{
	struct raw r;

	raw_attach(&r, arg, "default", NULL);
	raw_close(&r);
}

/* The daemon is alone in a pid namespace below this process, whose number it therefore lacks. */
static void beside_a_daemon_that_does_not_see(void *arg)
{
	struct broker b;
	int sock;

	if (unshare(CLONE_NEWPID) < 0) {
		fprintf(stderr, "# no pid namespaces: %s\n", strerror(errno));
		return;
	}
	broker_start(&b, OPTIONS());
	sock = raw_connect(&b);
	ck_assert_int_ge(sock, 0);
	ck_assert_int_eq(raw_wait_end(sock), -EXDEV);
	ck_assert(
		broker_log_has(&b, "connection refused: the peer's process is in a pid namespace"));
	/* one that it sees is served */
	child_join(child_start(attach_and_leave, &b));
	broker_stop(&b);
	broker_remove(&b);
}

START_TEST(fault_063_peer_that_cannot_be_seen)
{
	if (!can_be_others())
		return;
	child_join(child_start(beside_a_daemon_that_does_not_see, NULL));
}
END_TEST

/* ---- paths --------------------------------------------------------------------------------- */

/* A daemon that must refuse to start, naming what it minds. */
static void refuses_to_start(struct broker *b, const char *const *options, const char *why)
{
	broker_spawn(b, NULL, options);
	ck_assert_int_ne(broker_wait(b), 0);
	ck_assert_msg(broker_log_has(b, why), "no '%s' in %s", why, b->log);
	broker_log_is_clean(b);
}

START_TEST(fault_017_things_in_the_place_of_the_socket)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	char target[96];
	struct broker b;
	struct stat st;
	int fd;

	broker_dir(&b);
	snprintf(target, sizeof(target), "%s/target", b.dir);
	ck_assert_int_ge(fd = open(target, O_CREAT | O_WRONLY | O_CLOEXEC, 0644), 0);
	close(fd);
	ck_assert_int_eq(symlink(target, b.socket), 0);
	refuses_to_start(&b, OPTIONS(), "symbolic link");
	ck_assert_int_eq(lstat(b.socket, &st), 0);
	ck_assert(S_ISLNK(st.st_mode));
	unlink(b.socket);
	ck_assert_int_eq(mkdir(b.socket, 0755), 0);
	refuses_to_start(&b, OPTIONS(), "something else");
	rmdir(b.socket);
	ck_assert_int_eq(link(target, b.socket), 0);
	refuses_to_start(&b, OPTIONS(), "something else");
	ck_assert_int_eq(stat(target, &st), 0);
	ck_assert_uint_eq(st.st_nlink, 2);
	unlink(b.socket);
	/* What a killed daemon leaves is replaced: a socket that nobody listens on. */
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", b.socket);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	close(fd);
	broker_spawn(&b, NULL, OPTIONS());
	ck_assert(broker_ready(&b, 20000));
	broker_stop(&b);
}
END_TEST

START_TEST(fault_017_things_in_the_place_of_the_state)
{
	char state[96], lock[120], target[96];
	struct broker b;
	struct stat st;
	int fd;

	broker_dir(&b);
	snprintf(state, sizeof(state), "%s/state", b.dir);
	snprintf(lock, sizeof(lock), "%s/lock", state);
	snprintf(target, sizeof(target), "%s/target", b.dir);
	ck_assert_int_eq(mkdir(target, 0755), 0);
	ck_assert_int_eq(symlink(target, state), 0);
	refuses_to_start(&b, OPTIONS(), "not a link");
	unlink(state);
	ck_assert_int_eq(mkdir(state, 0755), 0);
	ck_assert_int_eq(chmod(state, 0777), 0);
	refuses_to_start(&b, OPTIONS(), "others may write");
	ck_assert_int_eq(chmod(state, 0755), 0);
	rmdir(target);
	ck_assert_int_ge(fd = open(target, O_CREAT | O_WRONLY | O_CLOEXEC, 0644), 0);
	ck_assert_int_eq(write(fd, "precious", 8), 8);
	close(fd);
	ck_assert_int_eq(symlink(target, lock), 0);
	refuses_to_start(&b, OPTIONS(), "cannot open its lock");
	ck_assert_int_eq(stat(target, &st), 0);
	ck_assert_int_eq(st.st_size, 8);
	/* A stale lock is only a file: it is the kernel's lock that counts. */
	unlink(lock);
	ck_assert_int_ge(fd = open(lock, O_CREAT | O_WRONLY | O_CLOEXEC, 0644), 0);
	ck_assert_int_eq(write(fd, "1\n", 2), 2);
	close(fd);
	broker_spawn(&b, NULL, OPTIONS());
	ck_assert(broker_ready(&b, 20000));
	broker_stop(&b);
}
END_TEST

START_TEST(fault_018_abstract_and_long_names)
{
	char name[200];
	struct broker b;

	broker_dir(&b);
	refuses_to_start(&b, OPTIONS("--socket", "@kvbroker"), "abstract");
	refuses_to_start(&b, OPTIONS("--socket", ""), "not a path");
	memset(name, 'x', sizeof(name) - 1);
	memcpy(name, "/tmp/", 5);
	name[sizeof(name) - 1] = '\0';
	refuses_to_start(&b, OPTIONS("--socket", name), "bytes long");
	broker_remove(&b);
}
END_TEST

/* ---- ends of clients ----------------------------------------------------------------------- */

enum { STEPS = 16 };

struct step {
	const struct broker *b;
	int pipe[2];
	unsigned stop_at;
};

/* Where the process is to be killed: it says so and waits for it. */
static void label(struct step *p, unsigned step)
{
	if (step != p->stop_at)
		return;
	ck_assert_int_eq(write(p->pipe[1], "", 1), 1);
	for (;;)
		pause();
}

static void submit_only(struct raw *r, enum kvb_op op, uint32_t n)
{
	struct kvb_sqe sqe = { .opcode = (uint8_t)op,
			       .space = (uint16_t)r->geo.space,
			       .count = n,
			       .fence = op == KVB_OP_FREE ? 1 : 0,
			       .fence_value = op == KVB_OP_FREE ? 1 : 0 };

	raw_submit(r, &sqe);
}

static void live_until(void *arg)
{
	struct kvb_msg_hello hello = raw_hello();
	struct step *p = arg;
	kvb_page_t pages[64];
	struct raw r;
	int sock;

	sock = raw_connect(p->b);
	label(p, 0);
	raw_send(sock, &hello, sizeof(hello), NULL, 0);
	label(p, 1);
	raw_attach(&r, p->b, "other", NULL);
	label(p, 2);
	raw_space(&r, 65536, 1);
	label(p, 3);
	r.deaf = true;
	if (p->stop_at == 4) {
		struct kvb_sqe grow = { .opcode = KVB_OP_SPACE_GROW,
					.space = (uint16_t)r.geo.space,
					.count = 2,
					.arg = 1000000000 };

		raw_submit(&r, &grow);
	}
	label(p, 4);
	r.deaf = false;
	ck_assert_int_eq(raw_grow(&r, 2, 1000), 2);
	label(p, 5);
	submit_only(&r, KVB_OP_ALLOC, 64);
	label(p, 6);
	raw_cqe(&r, &(struct kvb_cqe){ 0 }, 20000);
	memcpy(pages, raw_result(&r, 0), sizeof(pages));
	label(p, 7);
	for (unsigned i = 0; i < 64; i++)
		memset(raw_page(&r, pages[i]), 0xdd, 65536);
	label(p, 8);
	raw_ns(&r, 1, KVB_NS_ADMIN);
	ck_assert_int_eq(raw_seal(&r, 32, pages, 0, NULL), 32);
	label(p, 9);
	ck_assert_int_eq(raw_lookup(&r, 32, 0, pages), 32);
	label(p, 10);
	ck_assert_int_eq(raw_pages(&r, KVB_OP_PIN, 16, pages), 16);
	label(p, 11);
	memcpy(raw_operand(&r, 0), pages + 40, 8 * sizeof(pages[0]));
	submit_only(&r, KVB_OP_FREE, 8); /* waits for a fence that never comes */
	label(p, 12);
	ck_assert_int_eq(raw_pages(&r, KVB_OP_RELEASE, 16, pages), 16);
	label(p, 13);
	for (unsigned i = 0; i < 60; i++)
		submit_only(&r, KVB_OP_ALLOC, 1);
	label(p, 14);
	shutdown(r.sock, SHUT_WR);
	label(p, 15);
}

START_TEST(fault_059_sigkill_at_every_step)
{
	struct step p;
	struct scene s;

	scene_open(&s, OPTIONS());
	p.b = &s.b;
	for (p.stop_at = 0; p.stop_at < STEPS; p.stop_at++) {
		char byte;
		pid_t pid;

		ck_assert_int_eq(pipe(p.pipe), 0);
		pid = child_start(live_until, &p);
		close(p.pipe[1]);
		ck_assert_msg(read(p.pipe[0], &byte, 1) == 1, "step %u is not reached", p.stop_at);
		close(p.pipe[0]);
		child_kill(pid);
		EVENTUALLY(leases_of(&s.b, "other") == 0);
		scene_check(&s);
		ck_assert_int_eq(broker_ctl(&s.b, OPTIONS("health", "--deep")), 0);
	}
	scene_close(&s);
}
END_TEST

static void leave_alive(void *arg)
{
	struct step *p = arg;
	kvb_page_t pages[8];
	struct raw r;

	raw_attach(&r, p->b, "other", NULL);
	raw_space(&r, 65536, 1);
	ck_assert_int_eq(raw_grow(&r, 1, 1000), 1);
	ck_assert_int_eq(raw_alloc(&r, 8, pages), 8);
	close(r.sock); /* and lives on, with everything mapped */
	label(p, 0);
}

START_TEST(fault_059_disconnected_alive_waits_in_quarantine)
{
	struct step p = { .stop_at = 0 };
	struct scene s;
	char byte;
	pid_t pid;

	scene_open(&s, OPTIONS());
	p.b = &s.b;
	ck_assert_int_eq(pipe(p.pipe), 0);
	pid = child_start(leave_alive, &p);
	ck_assert_int_eq(read(p.pipe[0], &byte, 1), 1);
	sleep_ms(300);
	ck_assert_uint_eq(leases_of(&s.b, "other"), 8);
	ck_assert_uint_eq(broker_stats(&s.b)->clients_n, 2);
	bystander_cycle(&s.by);
	child_kill(pid);
	EVENTUALLY(leases_of(&s.b, "other") == 0);
	scene_close(&s);
}
END_TEST

static void submit_for_ever(void *arg)
{
	kvb_page_t pages[32];
	struct raw r;

	raw_attach(&r, arg, "other", NULL);
	raw_space(&r, 65536, (uint64_t)getpid());
	ck_assert_int_eq(raw_grow(&r, 1, 1000), 1);
	while (!(raw_ctl(&r)->flags & KVB_CTL_DRAINING)) {
		int32_t n = raw_alloc(&r, 32, pages);

		if (n > 0)
			raw_pages(&r, KVB_OP_FREE, (uint32_t)n, pages);
	}
}

/* It hangs up with a goodbye that the daemon has not come to when it finds the peer gone. */
START_TEST(fault_059_goodbye_behind_what_was_not_read)
{
	struct kvb_msg_header bad = { .magic = KVB_MAGIC,
				      .type = KVB_MSG_SPACE_OPEN,
				      .length = sizeof(bad) };
	struct kvb_msg_header bye = { .magic = KVB_MAGIC,
				      .type = KVB_MSG_BYE,
				      .length = sizeof(bye) };
	kvb_page_t page[4];
	struct scene s;
	struct raw r;

	scene_open(&s, OPTIONS());
	raw_attach(&r, &s.b, "default", NULL);
	raw_space(&r, 64 << 10, 1);
	ck_assert_int_eq(raw_grow(&r, 1, 1000), 1);
	ck_assert_int_eq(raw_alloc(&r, 4, page), 4);
	kill(s.b.pid, SIGSTOP);
	raw_send(r.sock, &bad, sizeof(bad), NULL, 0);
	raw_send(r.sock, &bye, sizeof(bye), NULL, 0);
	raw_close(&r);
	kill(s.b.pid, SIGCONT);
	/* this process lives on, and nothing of it waits for its death */
	EVENTUALLY(broker_stats(&s.b)->clients_n == 1);
	scene_close(&s);
}
END_TEST

START_TEST(fault_060_client_that_is_stopped)
{
	struct scene s;
	pid_t pid[3];

	scene_open(&s, OPTIONS());
	for (unsigned i = 0; i < 3; i++)
		pid[i] = child_start(submit_for_ever, &s.b);
	EVENTUALLY(broker_stats(&s.b)->clients_n == 4);
	for (unsigned round = 0; round < 20; round++) {
		for (unsigned i = 0; i < 3; i++)
			kill(pid[i], SIGSTOP);
		bystander_cycle(&s.by);
		sleep_ms(20);
		bystander_cycle(&s.by);
		for (unsigned i = 0; i < 3; i++)
			kill(pid[i], SIGCONT);
		sleep_ms(5);
	}
	for (unsigned i = 0; i < 3; i++)
		child_kill(pid[i]);
	scene_close(&s);
}
END_TEST

/* One that cannot be answered ends with its next question. */
static void ask_and_not_listen(void *arg)
{
	struct kvb_msg_space_open open = {
		.h = { .magic = KVB_MAGIC, .type = KVB_MSG_SPACE_OPEN, .length = sizeof(open) },
		.device_kind = KVB_DEVICE_HOST,
		.regions = 1,
		.stride_bytes = 65536,
	};
	struct raw r;

	raw_attach(&r, arg, "other", NULL);
	ck_assert_int_eq(shutdown(r.sock, SHUT_RD), 0);
	EVENTUALLY(raw_send(r.sock, &open, sizeof(open), NULL, 0) == -EPIPE);
}

START_TEST(fault_062_one_direction_shut_down)
{
	struct scene s;
	struct raw r;

	scene_open(&s, OPTIONS());
	raw_attach(&r, &s.b, "other", NULL);
	ck_assert_int_eq(shutdown(r.sock, SHUT_WR), 0);
	raw_wait_end(dup(r.sock));
	raw_close(&r);
	child_join(child_start(ask_and_not_listen, &s.b));
	scene_close(&s);
}
END_TEST

/* ---- ends of the daemon -------------------------------------------------------------------- */

static void submit_and_ignore(void *arg)
{
	struct kvb_sqe nop = { .opcode = KVB_OP_NOP };
	struct raw r;

	raw_attach(&r, arg, "other", NULL);
	for (;;) {
		struct kvb_cqe cqe;

		raw_submit(&r, &nop);
		if (raw_cqe(&r, &cqe, 20000) < 0)
			return;
	}
}

/* Those who heed the notice are waited for, those who do not are left behind at the deadline. */
static void drain(void (*client)(void *), unsigned least_ms)
{
	struct broker b;
	uint64_t began;
	pid_t pid[4];

	broker_start(&b, OPTIONS("--drain", "700"));
	for (unsigned i = 0; i < 4; i++)
		pid[i] = child_start(client, &b);
	EVENTUALLY(broker_stats(&b)->clients_n == 4);
	sleep_ms(50);
	began = clock_ns();
	kill(b.pid, SIGTERM);
	ck_assert_int_eq(broker_wait(&b), 0);
	ck_assert_uint_ge(clock_ns() - began, least_ms * 1000000ull);
	for (unsigned i = 0; i < 4; i++)
		child_join(pid[i]);
	broker_log_is_clean(&b);
	ck_assert_int_eq(raw_connect(&b), -ENOENT); /* its path is gone */
	broker_remove(&b);
}

START_TEST(fault_069_sigterm_under_load)
{
	drain(submit_for_ever, 0);
	drain(submit_and_ignore, 600);
}
END_TEST

START_TEST(fault_070_two_daemons)
{
	struct broker twin[8], other;
	unsigned alive = 0;
	struct scene s;

	scene_open(&s, OPTIONS());
	other = s.b;
	refuses_to_start(&other, OPTIONS(), "another kvbrokerd is using it");
	broker_dir(&other);
	memcpy(other.socket, s.b.socket, sizeof(other.socket));
	refuses_to_start(&other, OPTIONS(), "another daemon is serving it");
	broker_remove(&other);
	scene_close(&s);
	/* All at once: one wins. */
	broker_dir(&twin[0]);
	for (unsigned i = 0; i < 8; i++) {
		twin[i] = twin[0];
		broker_spawn(&twin[i], NULL, OPTIONS());
	}
	for (unsigned i = 0; i < 8; i++)
		alive += broker_ready(&twin[i], 20000);
	sleep_ms(500);
	for (unsigned i = alive = 0; i < 8; i++) {
		if (waitpid(twin[i].pid, NULL, WNOHANG) == 0) {
			twin[0] = twin[i];
			alive++;
		}
	}
	ck_assert_uint_le(alive, 1);
	if (alive)
		broker_stop(&twin[0]);
}
END_TEST

/* Its log is a pipe that nobody reads and that is full. */
START_TEST(fault_092_log_that_takes_nothing)
{
	struct broker_how how = { 0 };
	struct scene s;
	int log[2];

	ck_assert_int_eq(pipe(log), 0);
	ck_assert_int_ge(fcntl(log[1], F_SETPIPE_SZ, 4096), 4096);
	how.log_fd = log[1];
	broker_dir(&s.b);
	broker_spawn(&s.b, &how, OPTIONS("--log-level", "debug"));
	ck_assert(broker_ready(&s.b, 20000));
	bystander_open(&s.by, &s.b, "default");
	for (unsigned i = 0; i < 300; i++) {
		struct raw r;

		raw_attach(&r, &s.b, "other", NULL);
		raw_close(&r);
	}
	ck_assert_uint_gt(broker_stats(&s.b)->log_dropped, 0);
	bystander_cycle(&s.by);
	bystander_close(&s.by);
	kill(s.b.pid, SIGTERM);
	ck_assert_int_eq(broker_wait(&s.b), 0);
	broker_remove(&s.b);
}
END_TEST

#define CASE(name)                                                                                 \
	{                                                                                          \
		&name, 90                                                                          \
	}

int main(void)
{
	static const struct suite_case cases[] = {
		CASE(fault_013_peer_gone_before_it_is_accepted),
		CASE(fault_014_pid_used_again),
		CASE(fault_015_child_keeps_the_socket),
		CASE(fault_016_socket_passed_to_another_uid),
		CASE(fault_017_things_in_the_place_of_the_socket),
		CASE(fault_017_things_in_the_place_of_the_state),
		CASE(fault_018_abstract_and_long_names),
		CASE(fault_059_sigkill_at_every_step),
		CASE(fault_059_disconnected_alive_waits_in_quarantine),
		CASE(fault_059_goodbye_behind_what_was_not_read),
		CASE(fault_060_client_that_is_stopped),
		CASE(fault_062_one_direction_shut_down),
		CASE(fault_063_peer_in_other_namespaces),
		CASE(fault_063_peer_that_cannot_be_seen),
		CASE(fault_069_sigterm_under_load),
		CASE(fault_070_two_daemons),
		CASE(fault_092_log_that_takes_nothing),
		{ NULL, 0 },
	};

	return suite_run("life", cases);
}
