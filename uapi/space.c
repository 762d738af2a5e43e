/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Spaces: addresses that stay, memory that comes and goes.
 *
 * Opening a space reserves addresses for all it can ever have, in one piece, so a page's address is
 * a multiplication and never changes. Granted handles are mapped over the reservation, one mmap() a
 * handle, and their fds are closed: a mapping needs no fd, and thousands of slabs must not use up
 * an engine's file limit. What is revoked is covered by reservation again, so that nobody else's
 * mmap() can slip in.
 *
 * REVOCATION. The event only marks the slot, gives the magazine back (its ids may lie there) and
 * has the user told. kvb_quiet_point() then asks with RECLAIM_ACK; the daemon knows what this
 * client still holds there, the library does not. Only a slab that the daemon has taken back is
 * unmapped. A grant for the same slot may overtake that completion, since it comes by the socket:
 * it finds KVB_SLOT_RECLAIMING, replaces the mapping, and the slot is no longer revoked.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

#include "internal.h"

#define RESERVE_ALIGN (2ull << 20)

/* Bytes of one slab in one region. */
static uint64_t part_bytes(const struct kvb_space *s)
{
	return s->handles_per_region * s->handle_bytes;
}

static char *part_base(const struct kvb_space *s, uint32_t region, uint32_t slot)
{
	return s->base + region * s->region_bytes + slot * part_bytes(s);
}

/* ---- grants -------------------------------------------------------------------------------- */

static void unmap_slab(struct kvb_space *s, uint32_t slot)
{
	for (uint32_t r = 0; r < s->regions; r++)
		(void)mmap(part_base(s, r, slot), part_bytes(s), PROT_NONE,
			   MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (s->slot[slot].mapped == s->regions * s->handles_per_region)
		s->slabs--;
	s->slot[slot].mapped = 0;
}

static int map_handle(struct kvb_space *s, const struct kvb_grant_entry *e, int fd)
{
	const uint32_t handles = s->regions * s->handles_per_region;
	struct kvb_slot *slot = &s->slot[e->slot];
	char *at = part_base(s, e->handle / s->handles_per_region, e->slot) +
		   e->handle % s->handles_per_region * s->handle_bytes;
	struct stat st;

	/* A file that is too short would be a SIGBUS in the engine one day. */
	if (fstat(fd, &st) < 0 || (uint64_t)st.st_size < s->handle_bytes)
		return kvb_end(s->kvb, -EPROTO,
			       "the broker granted a handle smaller than %llu bytes",
			       (unsigned long long)s->handle_bytes);
	if (mmap(at, s->handle_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) ==
	    MAP_FAILED)
		return kvb_fail(s->kvb, -errno,
				"cannot map granted memory: %s (vm.max_map_count, ulimit -v?)",
				strerror(errno));
	if (slot->flags & KVB_SLOT_RECLAIMING) {
		slot->flags = 0;
		slot->mapped = 0;
		s->revoked--;
		s->slabs--;
	}
	if (slot->mapped < handles && ++slot->mapped == handles)
		s->slabs++;
	return 0;
}

/* Kept from children and from core files: a region at a time, however many handles came. */
static void advise(struct kvb_space *s, const struct kvb_msg_grant *g)
{
	uint32_t slot_min = UINT32_MAX, slot_max = 0, region_min = UINT32_MAX, region_max = 0;

	for (uint32_t i = 0; i < g->count; i++) {
		const uint32_t slot = g->entries[i].slot;
		const uint32_t region = g->entries[i].handle / s->handles_per_region;
		slot_min = slot < slot_min ? slot : slot_min;
		slot_max = slot > slot_max ? slot : slot_max;
		region_min = region < region_min ? region : region_min;
		region_max = region > region_max ? region : region_max;
	}
	for (uint32_t r = region_min; r <= region_max; r++) {
		const uint64_t bytes = (slot_max - slot_min + 1) * part_bytes(s);
		(void)madvise(part_base(s, r, slot_min), bytes, MADV_DONTFORK);
		(void)madvise(part_base(s, r, slot_min), bytes, MADV_DONTDUMP);
	}
}

/* 0, or -errno: nothing of the slabs named is left mapped. */
int kvb_space_granted(struct kvb *kvb, const struct kvb_msg_grant *g, const int *fds)
{
	struct kvb_space *s = g->space < KVB_SPACES_MAX ? kvb->space[g->space] : NULL;
	int rc = 0;

	if (!s) /* closed while the message was on its way */
		return -ENOENT;
	for (uint32_t i = 0; i < g->count; i++)
		if (g->entries[i].slot >= s->slots ||
		    g->entries[i].handle >= s->regions * s->handles_per_region)
			return kvb_end(kvb, -EPROTO,
				       "the broker granted handle %u of slab %u, which cannot be",
				       g->entries[i].handle, g->entries[i].slot);
	for (uint32_t i = 0; i < g->count && !rc; i++)
		rc = map_handle(s, &g->entries[i], fds[i]);
	if (!rc)
		advise(s, g);
	else
		for (uint32_t i = 0; i < g->count; i++)
			unmap_slab(s, g->entries[i].slot);
	return rc;
}

/* ---- revocation ---------------------------------------------------------------------------- */

void kvb_space_event(struct kvb *kvb, const struct kvb_cqe *cqe)
{
	struct kvb_space *s = NULL;

	if (cqe->res >= 0 && cqe->res < (int)KVB_SPACES_MAX)
		s = kvb->space[cqe->res];
	if (!s) /* closed while the event was on its way, or an event of a later version */
		return;
	kvb->chores = true;
	s->magazine.recall = true;
	if (cqe->user_data != KVB_EVENT_REVOKE || cqe->status >= s->slots)
		return;
	struct kvb_slot *slot = &s->slot[cqe->status];
	if (!(slot->flags & KVB_SLOT_REVOKED))
		s->revoked++;
	kvb->tell = true;
	slot->flags = KVB_SLOT_REVOKED | KVB_SLOT_TELL;
	slot->deadline_ns = kvb_deadline_ns(cqe->aux);
}

void kvb_space_tell(struct kvb *kvb)
{
	kvb->tell = false;
	kvb->telling = true;
	for (unsigned i = 0; i < KVB_SPACES_MAX; i++) {
		/* The callback may close the space. */
		for (uint32_t n = 0;
		     kvb->space[i] && kvb->space[i]->revoked && n < kvb->space[i]->slots; n++) {
			struct kvb_space *s = kvb->space[i];
			const uint64_t now = kvb_clock_ns();

			if (!(s->slot[n].flags & KVB_SLOT_TELL))
				continue;
			s->slot[n].flags &= ~KVB_SLOT_TELL;
			if (kvb->revoke_fn)
				kvb->revoke_fn(kvb->revoke_arg, s, n * s->pages_per_slab,
					       s->pages_per_slab,
					       s->slot[n].deadline_ns > now
						       ? s->slot[n].deadline_ns - now
						       : 0);
		}
	}
	kvb->telling = false;
}

void kvb_on_revoke(struct kvb *kvb, kvb_revoke_fn fn, void *arg)
{
	kvb->revoke_fn = fn;
	kvb->revoke_arg = arg;
}

/* Asks whether one revoked slab can go; 1 it went, 0 not yet. */
static int reclaim_slab(struct kvb_space *s, uint32_t n)
{
	const struct kvb_sqe sqe = {
		.opcode = KVB_OP_RECLAIM_ACK,
		.space = (uint16_t)s->handle,
		.arg = n,
	};
	struct kvb_slot *slot = &s->slot[n];
	struct kvb_cqe cqe;
	int rc;

	slot->flags |= KVB_SLOT_RECLAIMING;
	rc = kvb_ring_call(s->kvb, &sqe, s->kvb->timeout_ns, &cqe);
	if (rc)
		return rc;
	if (!(slot->flags & KVB_SLOT_RECLAIMING))
		return 1; /* gone, and granted anew meanwhile */
	slot->flags &= ~KVB_SLOT_RECLAIMING;
	if (cqe.res == -EBUSY)
		return 0;
	slot->flags = 0;
	s->revoked--;
	if (cqe.res < 0)
		return 0; /* the daemon no longer wants it */
	unmap_slab(s, n);
	return 1;
}

int kvb_quiet_point(struct kvb *kvb)
{
	int rc = kvb_poll(kvb);
	int n = 0;

	for (unsigned i = 0; i < KVB_SPACES_MAX && !rc; i++) {
		struct kvb_space *s = kvb->space[i];

		if (!s || !s->revoked)
			continue;
		if (s->magazine.recall)
			rc = kvb_magazine_flush(s);
		for (uint32_t slot = 0; slot < s->slots && s->revoked && rc >= 0; slot++)
			if (s->slot[slot].flags & KVB_SLOT_REVOKED) {
				rc = reclaim_slab(s, slot);
				n += rc > 0;
			}
		rc = rc > 0 ? 0 : rc;
	}
	if (!rc)
		kvb_ring_deferred(kvb);
	return rc ? rc : n;
}

/* ---- life ---------------------------------------------------------------------------------- */

/* What the daemon says of a space, against what was asked and against arithmetic. */
static bool geometry_makes_sense(const struct kvb_msg_space_reply *r, uint32_t regions,
				 uint64_t stride)
{
	uint64_t part, all;

	return r->space < KVB_SPACES_MAX && r->pages_per_slab && r->handles_per_region &&
	       r->slots && r->slots <= KVB_SLOTS_MAX && r->handle_bytes &&
	       r->handle_bytes % 4096 == 0 &&
	       !__builtin_mul_overflow(r->handles_per_region, r->handle_bytes, &part) &&
	       r->handles_per_region <= UINT32_MAX / regions &&
	       part / stride >= r->pages_per_slab && part / stride * stride == part &&
	       part / stride == r->pages_per_slab && r->pages_per_slab <= UINT32_MAX / r->slots &&
	       !__builtin_mul_overflow(part, r->slots, &all) && all == r->region_bytes &&
	       !__builtin_mul_overflow(all, regions, &all) && all <= UINT64_MAX - RESERVE_ALIGN;
}

static int reserve(struct kvb_space *s)
{
	s->reserved_bytes = s->regions * s->region_bytes + RESERVE_ALIGN;
	s->reserved = mmap(NULL, s->reserved_bytes, PROT_NONE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (s->reserved == MAP_FAILED) {
		s->reserved = NULL;
		return kvb_fail(s->kvb, -errno,
				"cannot reserve %llu bytes of addresses: %s (ulimit -v?)",
				(unsigned long long)s->reserved_bytes, strerror(errno));
	}
	s->base = (char *)(((uintptr_t)s->reserved + RESERVE_ALIGN - 1) &
			   ~(uintptr_t)(RESERVE_ALIGN - 1));
	return 0;
}

static int make_space(struct kvb *kvb, const struct kvb_msg_space_reply *r, uint32_t regions,
		      uint64_t stride, struct kvb_space **ret)
{
	struct kvb_space *s;
	int rc;

	if (!geometry_makes_sense(r, regions, stride) || kvb->space[r->space])
		return kvb_end(kvb, -EPROTO, "the broker describes a space that cannot be");
	s = aligned_alloc(64, (sizeof(*s) + 63) / 64 * 64);
	if (!s)
		return kvb_fail(kvb, -ENOMEM, "no memory for a space");
	*s = (struct kvb_space){
		.kvb = kvb,
		.handle = r->space,
		.regions = regions,
		.pages_per_slab = r->pages_per_slab,
		.handles_per_region = r->handles_per_region,
		.slots = r->slots,
		.stride_bytes = stride,
		.handle_bytes = r->handle_bytes,
		.region_bytes = r->region_bytes,
		.slot = calloc(r->slots, sizeof(struct kvb_slot)),
	};
	rc = s->slot ? 0 : kvb_fail(kvb, -ENOMEM, "no memory for %u slots", r->slots);
	if (!rc)
		rc = kvb_magazine_init(s);
	if (!rc)
		rc = reserve(s);
	if (rc) {
		kvb_space_free(s);
		return rc;
	}
	/* Events of a closed space that had the same handle are still nobody's. */
	rc = kvb_ring_reap(kvb);
	if (rc) {
		kvb_space_free(s);
		return rc;
	}
	*ret = kvb->space[r->space] = s;
	return 0;
}

struct kvb_space *kvb_space_free(struct kvb_space *s)
{
	if (!s)
		return NULL;
	if (s->reserved)
		munmap(s->reserved, s->reserved_bytes);
	free(s->magazine.pages);
	free(s->slot);
	free(s);
	return NULL;
}

/* Sends SPACE_OPEN or SPACE_CLOSE and waits for the daemon's word on it. */
static int ask(struct kvb *kvb, struct kvb_msg_header *h, enum kvb_msg_type type, size_t bytes)
{
	const uint64_t deadline_ns = kvb_deadline_ns(kvb->timeout_ns);
	int rc;

	kvb->reply_wanted = true;
	kvb->reply_error = 0;
	rc = kvb_socket_send(kvb, h, type, bytes);
	while (!rc && kvb->reply_wanted) {
		rc = kvb_socket_wait(kvb, deadline_ns);
		if (rc == -ETIME)
			kvb_end(kvb, -ENOTCONN,
				"the broker did not answer on its socket: is it stopped?");
		if (!rc)
			rc = kvb_socket_process(kvb);
	}
	if (!rc && kvb->reply_error < 0)
		rc = kvb->reply_error;
	return rc;
}

int kvb_space_open(struct kvb *kvb, const struct kvb_space_params *params, struct kvb_space **ret)
{
	const uint32_t regions = params->regions ? params->regions : 1;
	struct kvb_msg_space_open open = {
		.device_kind = params->device_kind ? params->device_kind : KVB_DEVICE_HOST,
		.device_ordinal = params->device_ordinal,
		.regions = regions,
		.stride_bytes = params->stride_bytes,
		.tag = params->tag,
	};
	int rc;

	if (kvb->dead)
		return kvb->dead;
	if (!params->stride_bytes || params->stride_bytes % 64 || regions > KVB_REGIONS_MAX)
		return kvb_fail(kvb, -EINVAL,
				"stride %llu is no multiple of 64, or %u regions are not in 1..%u",
				(unsigned long long)params->stride_bytes, regions, KVB_REGIONS_MAX);
	rc = ask(kvb, &open.h, KVB_MSG_SPACE_OPEN, sizeof(open));
	if (!rc)
		rc = make_space(kvb, &kvb->reply, regions, params->stride_bytes, ret);
	/* Grants may have followed the reply at once. */
	if (!rc)
		rc = kvb_socket_process(kvb);
	return rc;
}

int kvb_space_close(struct kvb_space *s)
{
	struct kvb_msg_space_close close_msg = { .space = s->handle };
	struct kvb *kvb = s->kvb;
	int rc;

	if (kvb->dead)
		return kvb->dead;
	rc = kvb_magazine_flush(s);
	if (!rc)
		rc = ask(kvb, &close_msg.h, KVB_MSG_SPACE_CLOSE, sizeof(close_msg));
	if (rc)
		return rc;
	kvb->space[s->handle] = NULL;
	kvb_space_free(s);
	return 0;
}

void kvb_space_get_info(const struct kvb_space *s, struct kvb_space_info *ret)
{
	*ret = (struct kvb_space_info){
		.regions = s->regions,
		.pages_per_slab = s->pages_per_slab,
		.slots = s->slots,
		.handles_per_region = s->handles_per_region,
		.stride_bytes = s->stride_bytes,
		.handle_bytes = s->handle_bytes,
		.region_bytes = s->region_bytes,
		.slabs = s->slabs,
		.handle = s->handle,
	};
}

void *kvb_region_base(const struct kvb_space *s, uint32_t region)
{
	return region < s->regions ? s->base + region * s->region_bytes : NULL;
}

void *kvb_page_addr(const struct kvb_space *s, uint32_t region, kvb_page_t page)
{
	return s->base + region * s->region_bytes + KVB_PAGE_ID(page) * s->stride_bytes;
}

/* ---- size ---------------------------------------------------------------------------------- */

/* Slabs that hold about `pages` pages, as far as the space can ever have them. */
static uint32_t slabs_for(const struct kvb_space *s, uint64_t pages)
{
	const uint64_t n = pages / s->pages_per_slab + (pages % s->pages_per_slab != 0);

	return n < s->slots ? (uint32_t)n : s->slots;
}

int64_t kvb_space_grow(struct kvb_space *s, uint64_t pages, uint64_t timeout_ns)
{
	const struct kvb_sqe sqe = {
		.opcode = KVB_OP_SPACE_GROW,
		.space = (uint16_t)s->handle,
		.count = slabs_for(s, pages),
		.arg = timeout_ns,
	};
	struct kvb *kvb = s->kvb;
	const uint64_t slack = kvb->timeout_ns;
	struct kvb_cqe cqe;
	int rc;

	if (!sqe.count)
		return 0;
	/* The daemon keeps the time; our own limit is for a daemon that does not answer. */
	rc = kvb_ring_call(kvb, &sqe,
			   timeout_ns > UINT64_MAX - slack ? UINT64_MAX : timeout_ns + slack, &cqe);
	if (rc)
		return rc;
	kvb_ring_deferred(kvb);
	if (cqe.res < 0)
		return kvb_fail(kvb, cqe.res,
				"cannot grow by %u slabs: %s (broker-ctl tenant show)", sqe.count,
				cqe.res == -EDQUOT ? "that is above the tenant's max"
						   : strerror(-cqe.res));
	return (int64_t)cqe.res * s->pages_per_slab;
}

int64_t kvb_space_shrink(struct kvb_space *s, uint64_t pages, uint64_t deadline_ns)
{
	const struct kvb_sqe sqe = {
		.opcode = KVB_OP_SPACE_SHRINK,
		.space = (uint16_t)s->handle,
		.count = slabs_for(s, pages),
		.arg = deadline_ns,
	};
	struct kvb_cqe cqe;
	int rc;

	if (!sqe.count)
		return 0;
	rc = kvb_ring_call(s->kvb, &sqe, s->kvb->timeout_ns, &cqe);
	if (rc)
		return rc;
	kvb_ring_deferred(s->kvb);
	if (cqe.res < 0)
		return kvb_fail(s->kvb, cqe.res, "cannot shrink by %u slabs: %s", sqe.count,
				strerror(-cqe.res));
	return (int64_t)cqe.res * s->pages_per_slab;
}
