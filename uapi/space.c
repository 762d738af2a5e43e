/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Spaces: addresses that stay, memory that comes and goes.
 *
 * Opening a space reserves addresses for all it can ever have, in one piece, so a page's address is
 * a multiplication and never changes. Granted handles are mapped over the reservation, and their
 * fds are closed: a mapping needs no fd, and thousands of slabs must not use up an engine's file
 * limit. How that is done is the kind's own table (space_host.c, space_cuda.c); when it is done,
 * and what of a slab is mapped, is here.
 *
 * A grant is mapped whole or refused whole: after a failure nothing of the slabs it names is
 * mapped, and the acknowledgement says so.
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
#include <time.h>

#include "internal.h"

/* ---- grants -------------------------------------------------------------------------------- */

static void unmap_slab(struct kvb_space *s, uint32_t slot)
{
	if (!s->slot[slot].mapped)
		return;
	s->ops->unmap(s, slot);
	if (s->slot[slot].mapped == s->regions * s->handles_per_region)
		s->slabs--;
	s->slot[slot].mapped = 0;
}

/* Old memory of slabs whose taking back is under way makes room for the new. */
static void make_room(struct kvb_space *s, const struct kvb_msg_grant *g)
{
	for (uint32_t i = 0; i < g->count; i++) {
		struct kvb_slot *slot = &s->slot[g->entries[i].slot];

		if (!(slot->flags & KVB_SLOT_RECLAIMING))
			continue;
		unmap_slab(s, g->entries[i].slot);
		slot->flags = 0;
		s->revoked--;
	}
}

/* 0, or -errno: nothing of the slabs named is left mapped. */
int kvb_space_granted(struct kvb *kvb, const struct kvb_msg_grant *g, const int *fds)
{
	struct kvb_space *s = g->space < KVB_SPACES_MAX ? kvb->space[g->space] : NULL;
	const uint32_t handles = s ? s->regions * s->handles_per_region : 0;
	int rc;

	if (!s) /* closed while the message was on its way */
		return -ENOENT;
	for (uint32_t i = 0; i < g->count; i++)
		if (g->entries[i].slot >= s->slots || g->entries[i].handle >= handles)
			return kvb_end(kvb, -EPROTO,
				       "the broker granted handle %u of slab %u, which cannot be",
				       g->entries[i].handle, g->entries[i].slot);
	make_room(s, g);
	rc = s->ops->map(s, g, fds);
	for (uint32_t i = 0; i < g->count; i++) {
		struct kvb_slot *slot = &s->slot[g->entries[i].slot];

		if (slot->mapped < handles && ++slot->mapped == handles)
			s->slabs++;
	}
	for (uint32_t i = 0; i < g->count && rc; i++)
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

/* The daemon has taken a slab back: its memory goes, if it has not gone for a new grant already. */
static int let_slab_go(struct kvb_space *s, uint32_t n)
{
	struct kvb_slot *slot = &s->slot[n];

	if (slot->flags & KVB_SLOT_RECLAIMING) {
		slot->flags = 0;
		s->revoked--;
		unmap_slab(s, n);
	}
	return s->kvb->dead;
}

/* What the daemon said about a slab: 1 it takes it back, 0 not, or not yet. */
static int reclaim_answered(struct kvb_space *s, uint32_t n, int32_t res)
{
	struct kvb_slot *slot = &s->slot[n];

	if (!(slot->flags & KVB_SLOT_RECLAIMING))
		return 1; /* gone, and granted anew meanwhile */
	if (res >= 0)
		return 1;
	slot->flags &= ~KVB_SLOT_RECLAIMING;
	if (res != -EBUSY) { /* the daemon no longer wants it */
		slot->flags = 0;
		s->revoked--;
	}
	return 0;
}

/*
 * Asks for every revoked slab whether it can go. The memory of one goes while the daemon is asked
 * for the next: unmapping takes longer than the answer. Returns how many went.
 */
static int reclaim_slabs(struct kvb_space *s)
{
	struct kvb *kvb = s->kvb;
	uint32_t going = s->slots; /* none */
	int n = 0, rc = 0;

	for (uint32_t slot = 0; slot < s->slots && !rc; slot++) {
		const struct kvb_sqe sqe = {
			.opcode = KVB_OP_RECLAIM_ACK,
			.space = (uint16_t)s->handle,
			.arg = slot,
		};
		struct kvb_cqe cqe;

		if (!(s->slot[slot].flags & KVB_SLOT_REVOKED))
			continue;
		s->slot[slot].flags |= KVB_SLOT_RECLAIMING;
		rc = kvb_ring_call_start(kvb, &sqe, kvb->timeout_ns);
		if (going < s->slots)
			let_slab_go(s, going);
		going = s->slots;
		if (!rc)
			rc = kvb_ring_call_finish(kvb, kvb->timeout_ns, &cqe);
		if (!rc && reclaim_answered(s, slot, cqe.res)) {
			going = slot;
			n++;
		}
	}
	if (going < s->slots)
		let_slab_go(s, going);
	return rc ? rc : kvb->dead ? kvb->dead : n;
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
		if (rc >= 0)
			rc = reclaim_slabs(s);
		n += rc > 0 ? rc : 0;
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
	       !__builtin_mul_overflow(all, regions, &all) && all <= INT64_MAX;
}

static int make_space(struct kvb *kvb, const struct kvb_msg_space_reply *r,
		      const struct kvb_msg_space_open *open, struct kvb_space **ret)
{
	const uint32_t regions = open->regions;
	const uint64_t stride = open->stride_bytes;
	struct kvb_space *s;
	int rc;

	if (!geometry_makes_sense(r, regions, stride) || kvb->space[r->space])
		return kvb_end(kvb, -EPROTO, "the broker describes a space that cannot be");
	s = aligned_alloc(64, (sizeof(*s) + 63) / 64 * 64);
	if (!s)
		return kvb_fail(kvb, -ENOMEM, "no memory for a space");
	*s = (struct kvb_space){
		.kvb = kvb,
		.ops = open->device_kind == KVB_DEVICE_CUDA ? &kvb_space_cuda : &kvb_space_host,
		.device = open->device_ordinal,
		.handle = r->space,
		.regions = regions,
		.pages_per_slab = r->pages_per_slab,
		.handles_per_region = r->handles_per_region,
		.slots = r->slots,
		.stride_bytes = stride,
		.handle_bytes = r->handle_bytes,
		.region_bytes = r->region_bytes,
		.tiers = r->tiers,
		.slot = calloc(r->slots, sizeof(struct kvb_slot)),
	};
	memcpy(s->device_uuid, r->device_uuid, sizeof(s->device_uuid));
	rc = s->slot ? 0 : kvb_fail(kvb, -ENOMEM, "no memory for %u slots", r->slots);
	if (!rc)
		rc = kvb_magazine_init(s);
	if (!rc)
		rc = s->ops->reserve(s);
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
	s->ops->finish(s);
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

int kvb_space_open_rank(struct kvb *kvb, const struct kvb_space_params *params,
			const struct kvb_rank *rank, struct kvb_space **ret)
{
	const uint32_t regions = params->regions ? params->regions : 1;
	struct kvb_msg_space_open open = {
		.device_kind = params->device_kind ? params->device_kind : KVB_DEVICE_HOST,
		.device_ordinal = params->device_ordinal,
		.regions = regions,
		.stride_bytes = params->stride_bytes,
		.tag = params->tag,
	};
	struct kvb_msg_space_close close_msg = { 0 };
	int rc;

	if (kvb->dead)
		return kvb->dead;
	if (rank) {
		open.group = rank->group;
		open.ranks = rank->ranks;
		open.rank = rank->rank;
	}
	if (!params->stride_bytes || params->stride_bytes % 64 || regions > KVB_REGIONS_MAX)
		return kvb_fail(kvb, -EINVAL,
				"stride %llu is no multiple of 64, or %u regions are not in 1..%u",
				(unsigned long long)params->stride_bytes, regions, KVB_REGIONS_MAX);
	rc = ask(kvb, &open.h, KVB_MSG_SPACE_OPEN, sizeof(open));
	if (rc)
		return rc;
	close_msg.space = kvb->reply.space;
	rc = make_space(kvb, &kvb->reply, &open, ret);
	/* The broker need not keep for us what we cannot use. */
	if (rc && !kvb->dead)
		(void)ask(kvb, &close_msg.h, KVB_MSG_SPACE_CLOSE, sizeof(close_msg));
	/* Grants may have followed the reply at once. */
	if (!rc)
		rc = kvb_socket_process(kvb);
	return rc;
}

int kvb_space_open(struct kvb *kvb, const struct kvb_space_params *params, struct kvb_space **ret)
{
	return kvb_space_open_rank(kvb, params, NULL, ret);
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
	return kvb->dead;
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

uint64_t kvb_space_tiers(const struct kvb_space *s)
{
	return s->tiers;
}

void *kvb_region_base(const struct kvb_space *s, uint32_t region)
{
	return region < s->regions ? s->base + region * s->region_bytes : NULL;
}

void *kvb_page_addr(const struct kvb_space *s, uint32_t region, kvb_page_t page)
{
	return s->base + region * s->region_bytes + KVB_PAGE_ID(page) * s->stride_bytes;
}

/* Whether bytes 0..bytes-1 of a page's part in a region are there to be copied. */
static int check_copy(const struct kvb_space *s, uint32_t region, kvb_page_t page, size_t bytes)
{
	const uint32_t slot = KVB_PAGE_ID(page) / s->pages_per_slab;

	if (region >= s->regions || bytes > s->stride_bytes || slot >= s->slots)
		return kvb_fail(s->kvb, -EINVAL,
				"%zu bytes of page %u in region %u: the space has %u regions, "
				"strides of %llu bytes and %u pages",
				bytes, KVB_PAGE_ID(page), region, s->regions,
				(unsigned long long)s->stride_bytes, s->slots * s->pages_per_slab);
	if (s->slot[slot].mapped != s->regions * s->handles_per_region)
		return kvb_fail(s->kvb, -ENOENT, "page %u lies in a slab that is not mapped here",
				KVB_PAGE_ID(page));
	return 0;
}

int kvb_page_write(struct kvb_space *s, uint32_t region, kvb_page_t page, const void *from,
		   size_t bytes)
{
	const int rc = check_copy(s, region, page, bytes);

	return rc ? rc : s->ops->write(s, kvb_page_addr(s, region, page), from, bytes);
}

int kvb_page_read(struct kvb_space *s, uint32_t region, kvb_page_t page, void *to, size_t bytes)
{
	const int rc = check_copy(s, region, page, bytes);

	return rc ? rc : s->ops->read(s, kvb_page_addr(s, region, page), to, bytes);
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
	const uint64_t refusals = kvb->refusals;
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
	/* Memory came and could not be mapped: that is what is to be told. */
	if (cqe.res < 0 && kvb->refusals != refusals)
		return cqe.res;
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
