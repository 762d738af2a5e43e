/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A connection's life: socket, handshake, mapping of the rings, and its end.
 *
 * The daemon creates every fd. What it says about them is checked before it is used (sizes,
 * offsets, powers of two), not out of distrust of a privileged process, but because a version that
 * we misunderstand must end in -EPROTO and not in a stray write in an engine's memory.
 *
 * Mappings carry MADV_DONTFORK: a child would share the ring's memory but none of its private
 * indices. The fds of the rings are closed once mapped.
 */

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

#define DEFAULT_SPIN_NS (20ull * 1000)
#define DEFAULT_TIMEOUT_NS (10ull * 1000 * 1000 * 1000)
#define DEFAULT_MAGAZINE 256u
#define MAGAZINE_MAX 4096u

enum { FD_SUB, FD_CTL, FD_FENCE, FD_DOORBELL, FD_N };

uint64_t kvb_clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t kvb_deadline_ns(uint64_t timeout_ns)
{
	if (timeout_ns == UINT64_MAX)
		return UINT64_MAX; /* the common wait of a busy engine needs no clock */
	const uint64_t now = kvb_clock_ns();
	return timeout_ns > UINT64_MAX - now ? UINT64_MAX : now + timeout_ns;
}

static void set_error(struct kvb *kvb, const char *fmt, va_list ap)
	__attribute__((format(printf, 2, 0)));
static void set_error(struct kvb *kvb, const char *fmt, va_list ap)
{
	vsnprintf(kvb->error, sizeof(kvb->error), fmt, ap);
}

int kvb_fail(struct kvb *kvb, int err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	set_error(kvb, fmt, ap);
	va_end(ap);
	return err;
}

int kvb_end(struct kvb *kvb, int err, const char *fmt, ...)
{
	va_list ap;

	if (kvb->dead)
		return kvb->dead;
	va_start(ap, fmt);
	set_error(kvb, fmt, ap);
	va_end(ap);
	kvb->dead = err;
	if (kvb->fences)
		kvb_fence_release_all(kvb);
	/* The daemon hears of it now, not when the engine gets round to kvb_disconnect(). */
	if (kvb->fd >= 0)
		shutdown(kvb->fd, SHUT_RDWR);
	return err;
}

/* [offset, offset + n * size) lies in a region of `bytes`, behind its header, aligned. */
static bool inside(uint64_t offset, uint64_t n, uint64_t size, uint64_t header, uint64_t bytes)
{
	return offset % 64 == 0 && offset >= header && offset <= bytes &&
	       n <= (bytes - offset) / size;
}

static bool is_power_of_two(uint32_t n)
{
	return n && !(n & (n - 1));
}

static bool reply_makes_sense(const struct kvb_msg_hello_reply *r)
{
	return r->version == KVB_ABI_VERSION && is_power_of_two(r->sq_entries) &&
	       r->sq_entries >= KVB_SQ_ENTRIES_MIN && r->sq_entries <= KVB_SQ_ENTRIES_MAX &&
	       is_power_of_two(r->cq_entries) && r->cq_entries >= r->sq_entries &&
	       r->operand_bytes % 4096 == 0 && r->operand_bytes >= KVB_OPERAND_BYTES_MIN &&
	       r->operand_bytes <= KVB_OPERAND_BYTES_MAX &&
	       inside(r->sub_sqes, r->sq_entries, sizeof(struct kvb_sqe), sizeof(struct kvb_sub),
		      r->sub_bytes) &&
	       inside(r->sub_operands, r->operand_bytes, 1, sizeof(struct kvb_sub), r->sub_bytes) &&
	       inside(r->ctl_cqes, r->cq_entries, sizeof(struct kvb_cqe), sizeof(struct kvb_ctl),
		      r->ctl_bytes) &&
	       inside(r->ctl_results, r->operand_bytes, 1, sizeof(struct kvb_ctl), r->ctl_bytes) &&
	       r->fence_bytes >= KVB_FENCES * sizeof(struct kvb_fence);
}

/* See internal.h: the user's half, the call's part, a part for each space's magazine. */
static void divide_operands(struct kvb *kvb, uint32_t bytes)
{
	const uint32_t half = bytes / 2;
	const uint32_t most = half / 2 / KVB_SPACES_MAX / 64 * 64;
	const uint32_t wish =
		((kvb->magazine_size + 1) / 2 * (uint32_t)sizeof(kvb_page_t) + 63) / 64 * 64;

	kvb->magazine_bytes = wish < most ? wish : most;
	kvb->magazine_operand = bytes - kvb->magazine_bytes * KVB_SPACES_MAX;
	kvb->call_operand = half;
	kvb->call_bytes = kvb->magazine_operand - half;
}

int kvb_attach(struct kvb *kvb, const struct kvb_msg_hello_reply *r, void *sub, const void *ctl,
	       void *fence)
{
	kvb->side = calloc(r->cq_entries, sizeof(*kvb->side));
	if (!kvb->side)
		return kvb_fail(kvb, -ENOMEM, "no memory for %u completions", r->cq_entries);
	kvb->ring.sub = sub;
	kvb->ring.ctl = ctl;
	kvb->ring.sqes = (struct kvb_sqe *)((char *)sub + r->sub_sqes);
	kvb->ring.cqes = (const struct kvb_cqe *)((const char *)ctl + r->ctl_cqes);
	kvb->ring.sq_entries = r->sq_entries;
	kvb->ring.cq_entries = r->cq_entries;
	kvb->operands = (char *)sub + r->sub_operands;
	kvb->results = (const char *)ctl + r->ctl_results;
	kvb->fences = fence;
	kvb->info = (struct kvb_info){
		.version = r->version,
		.client = r->client,
		.features = r->features,
		.boot_id = r->boot_id,
		.sq_entries = r->sq_entries,
		.cq_entries = r->cq_entries,
		.operand_bytes = r->operand_bytes,
		.leases_max = r->leases_max,
	};
	divide_operands(kvb, r->operand_bytes);
	kvb_step_begin(&kvb->ring);
	return 0;
}

static int map_region(struct kvb *kvb, int fd, uint64_t bytes, int prot, const char *what,
		      struct kvb_region_map *ret)
{
	struct stat st;
	void *mem;

	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || (uint64_t)st.st_size < bytes)
		return kvb_fail(
			kvb, -EPROTO,
			"the broker's %s memory is smaller than it says: it is of another version",
			what);
	mem = mmap(NULL, bytes, prot, MAP_SHARED, fd, 0);
	if (mem == MAP_FAILED)
		return kvb_fail(kvb, -errno, "cannot map %llu bytes of %s: %s",
				(unsigned long long)bytes, what, strerror(errno));
	(void)madvise(mem, bytes, MADV_DONTFORK);
	*ret = (struct kvb_region_map){ mem, bytes };
	return 0;
}

static int map_rings(struct kvb *kvb, const struct kvb_msg_hello_reply *r, const int fds[FD_N])
{
	int rc;

	if (!reply_makes_sense(r))
		return kvb_fail(
			kvb, -EPROTO,
			"the broker describes rings that cannot be: it is of another version");
	rc = map_region(kvb, fds[FD_SUB], r->sub_bytes, PROT_READ | PROT_WRITE, "submission",
			&kvb->sub);
	if (!rc)
		rc = map_region(kvb, fds[FD_CTL], r->ctl_bytes, PROT_READ, "completion", &kvb->ctl);
	if (!rc)
		rc = map_region(kvb, fds[FD_FENCE], r->fence_bytes, PROT_READ | PROT_WRITE, "fence",
				&kvb->fence);
	return rc ? rc : kvb_attach(kvb, r, kvb->sub.mem, kvb->ctl.mem, kvb->fence.mem);
}

/* The message that answers HELLO; its fds are taken or closed here. */
static int take_hello_reply(struct kvb *kvb, union kvb_message *m, int *fds, unsigned nfds)
{
	int rc;

	if (m->h.type == KVB_MSG_ERROR && m->h.length >= sizeof(m->error)) {
		m->error.text[sizeof(m->error.text) - 1] = '\0';
		rc = kvb_fail(kvb, m->error.error < 0 ? m->error.error : -EPROTO, "%s",
			      m->error.text);
	} else if (m->h.type != KVB_MSG_HELLO_REPLY || m->h.length < sizeof(m->hello) ||
		   nfds != FD_N) {
		rc = kvb_fail(kvb, -EPROTO,
			      "what answers is no broker of this version (message %u, %u fds)",
			      m->h.type, nfds);
	} else {
		rc = map_rings(kvb, &m->hello, fds);
		if (!rc) {
			kvb->doorbell = fds[FD_DOORBELL];
			fds[FD_DOORBELL] = -1;
		}
	}
	for (unsigned i = 0; i < nfds; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	return rc;
}

static int say_hello(struct kvb *kvb, const struct kvb_params *p)
{
	struct kvb_msg_hello hello = {
		.version_min = KVB_ABI_VERSION,
		.version_max = KVB_ABI_VERSION,
		.role = KVB_ROLE_ENGINE,
		.sq_entries = p->sq_entries,
		.cq_entries = p->cq_entries,
		.operand_bytes = p->operand_bytes,
		.features = KVB_FEAT_ALL,
	};
	const uint64_t deadline_ns = kvb_deadline_ns(kvb->timeout_ns);
	union kvb_message m;
	int fds[KVB_GRANT_FDS_MAX];
	unsigned nfds;
	int rc;

	snprintf(hello.tenant, sizeof(hello.tenant), "%s", p->tenant ? p->tenant : "");
	snprintf(hello.name, sizeof(hello.name), "%s",
		 p->name ? p->name : program_invocation_short_name);
	rc = kvb_socket_send(kvb, &hello.h, KVB_MSG_HELLO, sizeof(hello));
	if (rc && rc != -ENOTCONN)
		return rc;
	do {
		rc = kvb_socket_wait(kvb, deadline_ns);
		if (rc == -ETIME)
			return kvb_fail(kvb, rc,
					"the broker accepts connections but does not answer: is it "
					"stopped?");
		if (!rc)
			rc = kvb_socket_receive(kvb, &m, fds, &nfds);
	} while (rc == 0);
	if (rc < 0)
		return rc;
	return take_hello_reply(kvb, &m, fds, nfds);
}

static int check_params(struct kvb *kvb, const struct kvb_params *p)
{
	if (p->tenant && strlen(p->tenant) >= KVB_NAME_BYTES)
		return kvb_fail(kvb, -EINVAL, "tenant name '%.40s...' is longer than %u bytes",
				p->tenant, KVB_NAME_BYTES - 1);
	if (p->sq_entries &&
	    (!is_power_of_two(p->sq_entries) || p->sq_entries < KVB_SQ_ENTRIES_MIN ||
	     p->sq_entries > KVB_SQ_ENTRIES_MAX))
		return kvb_fail(kvb, -EINVAL, "sq_entries %u is no power of two in %u..%u",
				p->sq_entries, KVB_SQ_ENTRIES_MIN, KVB_SQ_ENTRIES_MAX);
	if (p->cq_entries && (!is_power_of_two(p->cq_entries) || p->cq_entries < p->sq_entries))
		return kvb_fail(kvb, -EINVAL,
				"cq_entries %u is no power of two of at least sq_entries",
				p->cq_entries);
	if (p->operand_bytes % 4096 || p->operand_bytes > KVB_OPERAND_BYTES_MAX)
		return kvb_fail(kvb, -EINVAL, "operand_bytes %u is no multiple of 4096 up to %u",
				p->operand_bytes, KVB_OPERAND_BYTES_MAX);
	if (p->magazine > MAGAZINE_MAX)
		return kvb_fail(kvb, -EINVAL, "magazine %u is more than %u", p->magazine,
				MAGAZINE_MAX);
	return 0;
}

/* On one CPU the daemon cannot run while we spin. */
static bool can_spin(void)
{
	cpu_set_t set;

	return sched_getaffinity(0, sizeof(set), &set) < 0 || CPU_COUNT(&set) > 1;
}

int kvb_connect(const struct kvb_params *params, struct kvb **ret, char error_text[256])
{
	const struct kvb_params none = { 0 };
	const struct kvb_params *p = params ? params : &none;
	const char *path = p->socket;
	struct kvb *kvb;
	int rc;

	kvb = aligned_alloc(64, (sizeof(*kvb) + 63) / 64 * 64);
	if (!kvb) {
		if (error_text)
			snprintf(error_text, KVB_ERROR_BYTES, "no memory for a connection");
		return -ENOMEM;
	}
	memset(kvb, 0, sizeof(*kvb));
	kvb->fd = kvb->doorbell = -1;
	kvb->timeout_ns = p->timeout_ns ? p->timeout_ns : DEFAULT_TIMEOUT_NS;
	kvb->spin_ns = !can_spin() ? 0 : p->spin_ns ? p->spin_ns : DEFAULT_SPIN_NS;
	kvb->magazine_size = p->magazine ? p->magazine : DEFAULT_MAGAZINE;
	if (!path)
		path = getenv("KVBROKER_SOCKET");
	rc = check_params(kvb, p);
	if (!rc)
		rc = kvb_socket_open(kvb, path ? path : KVB_DEFAULT_SOCKET);
	if (!rc)
		rc = say_hello(kvb, p);
	if (rc) {
		if (error_text)
			snprintf(error_text, KVB_ERROR_BYTES, "%s", kvb->error);
		kvb_disconnect(kvb);
		return rc;
	}
	*ret = kvb;
	return 0;
}

static void unmap_region(struct kvb_region_map *map)
{
	if (map->mem)
		munmap(map->mem, map->bytes);
}

struct kvb *kvb_disconnect(struct kvb *kvb)
{
	struct kvb_msg_header bye;

	if (!kvb)
		return NULL;
	if (kvb->fences)
		kvb_fence_release_all(kvb);
	/* Unmapped before the socket says goodbye: what we had mapped is then surely out of use. */
	for (unsigned i = 0; i < KVB_SPACES_MAX; i++)
		kvb_space_free(kvb->space[i]);
	if (kvb->fd >= 0)
		(void)kvb_socket_send(kvb, &bye, KVB_MSG_BYE, sizeof(bye));
	unmap_region(&kvb->sub);
	unmap_region(&kvb->ctl);
	unmap_region(&kvb->fence);
	if (kvb->doorbell >= 0)
		close(kvb->doorbell);
	if (kvb->fd >= 0)
		close(kvb->fd);
	free(kvb->side);
	free(kvb);
	return NULL;
}

const char *kvb_error_text(const struct kvb *kvb)
{
	return kvb->error;
}

void kvb_get_info(const struct kvb *kvb, struct kvb_info *ret)
{
	*ret = kvb->info;
}

int kvb_fd(const struct kvb *kvb)
{
	return kvb->fd;
}
