/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Daemons in temporary directories, and the honest bystander; see harness.h.
 */

#include "tests/proto/harness.h"
#include "tests/proto/raw.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ARGS_MAX 64
#define CYCLE_PAGES 8u
#define STRIDE 65536u
#define SETTLE_MS 20000u

/* ---- time and processes -------------------------------------------------------------------- */

uint64_t clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

void sleep_ms(unsigned ms)
{
	struct timespec ts = { .tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000 };

	while (nanosleep(&ts, &ts) < 0 && errno == EINTR)
		;
}

pid_t child_start(void (*fn)(void *arg), void *arg)
{
	pid_t pid = fork();

	ck_assert_int_ge(pid, 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		fn(arg);
		_exit(0);
	}
	return pid;
}

void child_join(pid_t pid)
{
	int status;

	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0,
		      "a child ended with status 0x%x", (unsigned)status);
}

void child_kill(pid_t pid)
{
	kill(pid, SIGKILL);
	ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
}

bool can_be_others(void)
{
	if (getuid() == 0)
		return true;
	fputs("# needs root, to be somebody else\n", stderr);
	return false;
}

void become_nobody(void)
{
	if (getuid() == NOBODY)
		return;
	ck_assert_int_eq(setgroups(0, NULL), 0);
	ck_assert_int_eq(setresgid(NOBODY, NOBODY, NOBODY), 0);
	ck_assert_int_eq(setresuid(NOBODY, NOBODY, NOBODY), 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
}

/* ---- the daemon ---------------------------------------------------------------------------- */

void broker_dir(struct broker *b)
{
	*b = (struct broker){ .dir = "/tmp/kvb-proto.XXXXXX" };
	ck_assert_ptr_nonnull(mkdtemp(b->dir));
	ck_assert_int_eq(chmod(b->dir, 0755), 0);
	snprintf(b->socket, sizeof(b->socket), "%s/sock", b->dir);
	snprintf(b->log, sizeof(b->log), "%s/log", b->dir);
}

static bool has_option(const char *const *options, const char *name)
{
	for (; *options; options++) {
		if (strcmp(*options, name) == 0)
			return true;
	}
	return false;
}

/* In the child. The binary is opened before the uid changes: its path may be closed to others. */
static void broker_exec(const struct broker *b, const struct broker_how *how, char *const *argv)
{
	int binary = open(how->binary ? how->binary : KVBROKERD, O_RDONLY | O_CLOEXEC);
	int log = how->log_fd ? how->log_fd
			      : open(b->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	struct rlimit limit = { .rlim_cur = how->nofile, .rlim_max = how->nofile };

	dup2(log, 1);
	dup2(log, 2);
	if (how->nofile)
		setrlimit(RLIMIT_NOFILE, &limit);
	if (how->uid)
		become_nobody();
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	fexecve(binary, argv, environ);
	dprintf(2, "fexecve: %s\n", strerror(errno));
	_exit(127);
}

void broker_spawn(struct broker *b, const struct broker_how *how, const char *const *options)
{
	static const struct broker_how plain;
	char state[80];
	const char *argv[ARGS_MAX] = { "kvbrokerd", "--socket",      b->socket, "--state-dir",
				       state,       "--max-clients", "64",      "--max-pages",
				       "16384",     "--drain",       "1000" };
	unsigned n = 11;

	snprintf(state, sizeof(state), "%s/state", b->dir);
	if (!has_option(options, "--device")) {
		argv[n++] = "--device";
		argv[n++] = "host:0=64M";
	}
	if (!has_option(options, "--tenant")) {
		argv[n++] = "--tenant";
		argv[n++] = "default";
		argv[n++] = "--tenant";
		argv[n++] = "other";
	}
	for (; *options; options++) {
		ck_assert_uint_lt(n, ARGS_MAX - 1);
		argv[n++] = *options;
	}
	fflush(NULL);
	b->pid = fork();
	ck_assert_int_ge(b->pid, 0);
	if (b->pid == 0)
		broker_exec(b, how ? how : &plain, (char *const *)(uintptr_t)argv);
}

bool broker_ready(struct broker *b, unsigned timeout_ms)
{
	uint64_t until = clock_ns() + timeout_ms * 1000000ull;

	while (clock_ns() < until) {
		int fd = raw_connect(b);

		if (fd >= 0) {
			close(fd);
			return true;
		}
		if (waitpid(b->pid, NULL, WNOHANG) == b->pid)
			return false;
		sleep_ms(3);
	}
	ck_abort_msg("the daemon is not ready after %u ms; see %s", timeout_ms, b->log);
}

void broker_start(struct broker *b, const char *const *options)
{
	broker_dir(b);
	broker_spawn(b, NULL, options);
	ck_assert_msg(broker_ready(b, 20000), "the daemon did not start; see %s", b->log);
}

int broker_wait(struct broker *b)
{
	uint64_t until = clock_ns() + 20000000000ull;
	int status;

	while (waitpid(b->pid, &status, WNOHANG) == 0) {
		ck_assert_msg(clock_ns() < until, "the daemon does not end; see %s", b->log);
		sleep_ms(2);
	}
	ck_assert_msg(WIFEXITED(status), "the daemon died of signal %d; see %s", WTERMSIG(status),
		      b->log);
	return WEXITSTATUS(status);
}

bool broker_log_has(const struct broker *b, const char *text)
{
	FILE *file = fopen(b->log, "re");
	char line[1024];
	bool has = false;

	ck_assert_ptr_nonnull(file);
	while (!has && fgets(line, sizeof(line), file))
		has = strstr(line, text);
	fclose(file);
	return has;
}

void broker_log_is_clean(const struct broker *b)
{
	static const char *const bad[] = {
		"ssertion",    "Sanitizer",       "runtime error",
		"stack smash", "buffer overflow", "event loop is broken"
	};

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		ck_assert_msg(!broker_log_has(b, bad[i]), "the daemon's log has '%s'; see %s",
			      bad[i], b->log);
}

uint64_t broker_log_bytes(const struct broker *b)
{
	struct stat st;

	ck_assert_int_eq(stat(b->log, &st), 0);
	return (uint64_t)st.st_size;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

void broker_remove(struct broker *b)
{
	nftw(b->dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

void broker_stop(struct broker *b)
{
	kill(b->pid, SIGTERM);
	ck_assert_msg(broker_wait(b) == 0, "the daemon ended with an error; see %s", b->log);
	broker_log_is_clean(b);
	broker_remove(b);
}

unsigned broker_fds(const struct broker *b, unsigned *ret_slab_fds)
{
	char path[64], name[320], link[256];
	unsigned n = 0, slabs = 0;
	struct dirent *entry;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/fd", b->pid);
	dir = opendir(path);
	ck_assert_msg(dir, "the daemon is not there; see %s", b->log);
	while ((entry = readdir(dir))) {
		ssize_t bytes;

		if (entry->d_name[0] == '.')
			continue;
		snprintf(name, sizeof(name), "%s/%s", path, entry->d_name);
		bytes = readlink(name, link, sizeof(link) - 1);
		link[bytes > 0 ? bytes : 0] = '\0';
		if (strstr(link, "memfd:kvb-slab"))
			slabs++;
		else
			n++;
	}
	closedir(dir);
	if (ret_slab_fds)
		*ret_slab_fds = slabs;
	return n;
}

uint64_t broker_cpu_ns(const struct broker *b)
{
	unsigned long long ns = 0;
	char path[64];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/schedstat", b->pid);
	file = fopen(path, "re");
	ck_assert_ptr_nonnull(file);
	ck_assert_int_eq(fscanf(file, "%llu", &ns), 1);
	fclose(file);
	return ns;
}

void broker_limit_fds(const struct broker *b, uint64_t nofile)
{
	struct rlimit limit;

	ck_assert_int_eq(prlimit(b->pid, RLIMIT_NOFILE, NULL, &limit), 0);
	limit.rlim_cur = nofile;
	ck_assert_int_eq(prlimit(b->pid, RLIMIT_NOFILE, &limit, NULL), 0);
}

/* ---- operators ----------------------------------------------------------------------------- */

static int admin_open(const struct broker *b, int *ret_stats_fd)
{
	struct kvb_msg_hello hello = raw_hello();
	union raw_message m;
	int sock = raw_connect(b);
	unsigned nfds = 1;

	ck_assert_msg(sock >= 0, "the daemon takes no connections; see %s", b->log);
	hello.role = KVB_ROLE_ADMIN;
	ck_assert_int_eq(raw_send(sock, &hello, sizeof(hello), NULL, 0), 0);
	ck_assert_int_gt(raw_receive(sock, &m, ret_stats_fd, &nfds, SETTLE_MS), 0);
	ck_assert_uint_eq(m.h.type, KVB_MSG_HELLO_REPLY);
	ck_assert_uint_eq(nfds, 1);
	return sock;
}

static const struct stats_segment *stats_map(const struct broker *b)
{
	const struct stats_segment *seg;
	int fd, sock = admin_open(b, &fd);

	ck_assert_int_eq(stats_read_map(fd, &seg, NULL), 0);
	close(fd);
	close(sock);
	return seg;
}

static const struct stats_segment *stats_copy(const struct stats_segment *seg)
{
	static struct stats_segment copy;

	ck_assert_int_eq(stats_read_copy(seg, &copy), 0);
	return &copy;
}

const struct stats_segment *broker_stats(const struct broker *b)
{
	const struct stats_segment *seg = stats_map(b), *copy = stats_copy(seg);

	stats_read_unmap(seg);
	return copy;
}

const struct stats_segment *broker_stats_unasked(const struct broker *b)
{
	static const struct stats_segment *seg;
	static pid_t pid;

	if (pid != b->pid) {
		stats_read_unmap(seg);
		seg = stats_map(b);
		pid = b->pid;
	}
	return stats_copy(seg);
}

int broker_ctl(const struct broker *b, const char *const *argv)
{
	union raw_message m = { .ctl.h = { .magic = KVB_MAGIC, .type = KVB_MSG_CTL } };
	size_t bytes = sizeof(m.ctl);
	unsigned nfds = 0;
	int fd, code, sock = admin_open(b, &fd);

	for (; *argv; argv++) {
		bytes += (size_t)snprintf(m.bytes + bytes, sizeof(m) - bytes, "%s", *argv) + 1;
		m.ctl.argc++;
	}
	m.h.length = (uint32_t)bytes;
	ck_assert_int_eq(raw_send(sock, &m, bytes, NULL, 0), 0);
	do {
		ck_assert_int_gt(raw_receive(sock, &m, NULL, &nfds, SETTLE_MS), 0);
		ck_assert_uint_eq(m.h.type, KVB_MSG_CTL_REPLY);
	} while (!m.ctl_reply.last);
	code = (int)m.ctl_reply.exit_code;
	close(fd);
	close(sock);
	return code;
}

/* ---- the bystander ------------------------------------------------------------------------- */

void bystander_open(struct bystander *by, const struct broker *b, const char *tenant)
{
	const struct kvb_params params = { .socket = b->socket,
					   .tenant = tenant,
					   .name = "bystander",
					   .magazine = 1,
					   .timeout_ns = 30000000000ull };
	const struct kvb_space_params geometry = { .stride_bytes = STRIDE, .tag = 0xb7 };
	const uint8_t digest[32] = { 0xb7, 0x5a };
	char error[256];

	*by = (struct bystander){ 0 };
	ck_assert_msg(kvb_connect(&params, &by->kvb, error) == 0, "bystander: %s", error);
	ck_assert_int_eq(kvb_space_open(by->kvb, &geometry, &by->space), 0);
	ck_assert_int_ge(kvb_space_grow(by->space, 2 * CYCLE_PAGES, 1000000000), 2 * CYCLE_PAGES);
	ck_assert_int_eq(kvb_ns_open(by->kvb, digest, 0, &by->ns), 0);
	bystander_cycle(by);
}

static uint64_t pattern(uint64_t round, unsigned page)
{
	return 0x9e3779b97f4a7c15ull * (round * CYCLE_PAGES + page + 1);
}

static void bystander_verify(struct bystander *by, const kvb_page_t *pages)
{
	for (unsigned i = 0; i < CYCLE_PAGES; i++) {
		const uint64_t *at = kvb_page_addr(by->space, 0, pages[i]);

		for (unsigned k = 0; k < STRIDE / sizeof(*at); k += 64)
			ck_assert_msg(at[k] == pattern(by->round, i),
				      "the bystander reads foreign bytes");
	}
}

void bystander_cycle(struct bystander *by)
{
	struct kvb_hash hashes[CYCLE_PAGES];
	struct kvb_seal seals[CYCLE_PAGES] = { 0 };
	kvb_page_t pages[CYCLE_PAGES];

	by->round++;
	ck_assert_int_eq(kvb_alloc(by->space, pages, CYCLE_PAGES), CYCLE_PAGES);
	for (unsigned i = 0; i < CYCLE_PAGES; i++) {
		uint64_t *at = kvb_page_addr(by->space, 0, pages[i]);

		for (unsigned k = 0; k < STRIDE / sizeof(*at); k++)
			at[k] = pattern(by->round, i);
		hashes[i] = (struct kvb_hash){ { pattern(by->round, i), by->round } };
		seals[i] = (struct kvb_seal){ .page = pages[i], .hash = hashes[i], .depth = i };
	}
	ck_assert_int_eq(kvb_seal(by->space, by->ns.ns, by->ns.epoch, 0, seals, NULL, CYCLE_PAGES),
			 CYCLE_PAGES);
	ck_assert_int_eq(kvb_release(by->space, pages, CYCLE_PAGES), CYCLE_PAGES);
	memset(pages, 0, sizeof(pages));
	ck_assert_int_eq(kvb_lookup(by->space, by->ns.ns, 0, hashes, pages, CYCLE_PAGES, NULL),
			 CYCLE_PAGES);
	bystander_verify(by, pages);
	ck_assert_int_eq(kvb_release(by->space, pages, CYCLE_PAGES), CYCLE_PAGES);
}

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

uint64_t bystander_p99_ns(struct bystander *by, unsigned n)
{
	uint64_t *took = calloc(n, sizeof(*took));
	uint64_t p99;

	ck_assert_ptr_nonnull(took);
	for (unsigned i = 0; i < n; i++) {
		uint64_t began = clock_ns();

		ck_assert_int_eq(kvb_nop(by->kvb), 0);
		took[i] = clock_ns() - began;
	}
	qsort(took, n, sizeof(*took), by_size);
	p99 = took[n - 1 - n / 100];
	free(took);
	return p99;
}

void bystander_close(struct bystander *by)
{
	by->kvb = kvb_disconnect(by->kvb);
}

/* ---- scenes -------------------------------------------------------------------------------- */

/* Until its arenas are filled and their movers serve, a daemon gets further fds. */
static bool tiers_are_up(const struct broker *b)
{
	const struct stats_segment *seg = broker_stats(b);
	bool arena = false, up = true;

	for (uint32_t i = 0; i < seg->devices_n; i++) {
		const struct stats_device *d = &seg->device[i];

		if (d->kind == CORE_KIND_ARENA) {
			arena = true;
			up &= d->filled_bytes == d->capacity_bytes;
		} else {
			up &= d->below_ready != 0;
		}
	}
	return up || !arena;
}

void scene_open(struct scene *s, const char *const *options)
{
	broker_start(&s->b, options);
	EVENTUALLY(tiers_are_up(&s->b));
	bystander_open(&s->by, &s->b, "default");
	EVENTUALLY(broker_stats(&s->b)->clients_n == 1);
	s->fds = broker_fds(&s->b, NULL);
	/* The operator's connection of a moment ago may have been among them. */
	for (int i = 0; i < 20; i++) {
		unsigned fds = broker_fds(&s->b, NULL);

		s->fds = fds < s->fds ? fds : s->fds;
		sleep_ms(1);
	}
}

void scene_check(struct scene *s)
{
	bystander_cycle(&s->by);
	ck_assert_int_eq(waitpid(s->b.pid, NULL, WNOHANG), 0);
	EVENTUALLY(broker_fds(&s->b, NULL) <= s->fds);
	EVENTUALLY(broker_stats(&s->b)->clients_n == 1);
}

/* Memory in use is exactly the slabs that are open. */
static bool slabs_are_what_is_granted(const struct broker *b)
{
	const struct stats_device *d = &broker_stats(b)->device[0];
	unsigned slabs;

	broker_fds(b, &slabs);
	return slabs * d->handle_bytes == d->granted_bytes;
}

static bool nothing_is_charged(const struct broker *b)
{
	const struct stats_segment *st = broker_stats(b);

	if (st->clients_n || st->leases_used || st->reaping)
		return false;
	for (uint32_t i = 0; i < st->tenants_n; i++) {
		const struct stats_tenant *t = &st->tenant[i];

		if (t->clients || t->pages_held || t->leases || t->pins)
			return false;
	}
	return st->device[0].held_bytes == 0;
}

void scene_close(struct scene *s)
{
	scene_check(s);
	bystander_close(&s->by);
	EVENTUALLY(nothing_is_charged(&s->b));
	EVENTUALLY(slabs_are_what_is_granted(&s->b));
	ck_assert_int_eq(broker_ctl(&s->b, OPTIONS("health", "--deep")), 0);
	broker_stop(&s->b);
}
