/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Memory on its way: from the device worker to members of a space, and back.
 *
 * fds of slabs live here, in a table beside the core's, for as long as the slab does. The core says
 * what is owed (core_next_slab, core_next_member); this turns it into jobs, socket messages and
 * ring events, and tells the core what came of them.
 *
 * One GRANT message is in flight a client, so a client that does not read costs one message of
 * kernel memory. A slab with more handles than a message carries goes in several; it counts as
 * mapped with the answer to the last. A revocation is not told before the answer to the grant of
 * the same slab, so a client never hears of the end of what it has not seen begin.
 *
 * Slabs of arenas, and what the mover of a device has of its slabs, are tiers.c's.
 *
 * What finds no room (no CQE slot, no room for fds in flight in the kernel) is put off for
 * GRANTS_RETRY_NS: the client that does not reap costs a look every so often, no spinning.
 */

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "broker/io/fault.h"
#include "broker/io/log.h"
#include "broker/io/ring.h"
#include "broker/io/store_tier.h"
#include "broker/io/tiers.h"
#include "broker/io/worker.h"

#define GRANTS_RETRY_NS 5000000ull

struct grants_slab {
	int *fds;
	uint32_t n;
	uint64_t token; /* what the device knows them by */
};

struct grants {
	struct grants_slab *slab; /* by core slab */
	uint64_t *put_off;        /* a bit a core member */
	uint64_t retry_ns;        /* UINT64_MAX: nothing is put off */
	uint64_t seq;
};

static struct log_limit grants_limit;

int grants_new(struct server *s)
{
	const struct core_limits *limits = &s->core.h->limits;
	struct grants *g = fault_calloc("grants", 1, sizeof(*g));

	if (!g)
		return -ENOMEM;
	s->grants = g;
	g->retry_ns = UINT64_MAX;
	g->slab = fault_calloc("grants", limits->slabs, sizeof(*g->slab));
	g->put_off = fault_calloc("grants", limits->members / 64 + 1, sizeof(*g->put_off));
	return g->slab && g->put_off ? 0 : -ENOMEM;
}

void grants_free(struct server *s)
{
	struct grants *g = s->grants;

	if (!g)
		return;
	for (uint32_t i = 0; g->slab && i < s->core.h->limits.slabs; i++) {
		for (uint32_t k = 0; k < g->slab[i].n; k++)
			close(g->slab[i].fds[k]);
		free(g->slab[i].fds);
	}
	free(g->slab);
	free(g->put_off);
	free(g);
	s->grants = NULL;
}

const int *grants_slab_fds(const struct server *s, unsigned slab, unsigned *ret_n)
{
	const struct grants_slab *g = &s->grants->slab[slab];

	*ret_n = g->n;
	return g->fds;
}

uint64_t grants_next_ns(const struct server *s)
{
	return s->grants->retry_ns;
}

static void grants_put_off(struct server *s, const struct core_member *m)
{
	struct grants *g = s->grants;
	unsigned index = core_member_index(&s->core, m);

	g->put_off[index / 64] |= 1ull << (index % 64);
	if (g->retry_ns == UINT64_MAX)
		g->retry_ns = s->now_ns + GRANTS_RETRY_NS;
}

static bool bit_is_set(const uint64_t *bits, unsigned i)
{
	return bits[i / 64] >> (i % 64) & 1;
}

/* ---- the device ---------------------------------------------------------------------------- */

/* Its memory is an arena's: there are no handles, and no client is sent any. */
static bool grants_is_lower(const struct server *s, unsigned index)
{
	const struct core_space *space = &s->core.spaces[s->core.slabs[index].space];

	return s->core.h->device[space->device].kind == CORE_KIND_ARENA;
}

static void grants_create(struct server *s, unsigned index)
{
	const struct core_space *space = &s->core.spaces[s->core.slabs[index].space];
	const struct worker_job job = {
		.device = space->device,
		.slab = index,
		.count = space->regions * space->handles_per_region,
		.handle_bytes = space->handle_bytes,
	};

	if (worker_submit(s->worker, &job) < 0)
		core_slab_failed(&s->core, index);
}

void grants_slab_given_up(struct server *s, unsigned index)
{
	const struct core_space *space = &s->core.spaces[s->core.slabs[index].space];
	struct grants_slab *g = &s->grants->slab[index];
	const struct worker_job job = {
		.device = space->device,
		.slab = index,
		.count = g->n,
		.handle_bytes = space->handle_bytes,
		.fds = g->fds,
		.token = g->token,
		.close = true,
	};
	int error = worker_submit(s->worker, &job);

	/* The worker keeps a job for every slab it has created. */
	assert(error == 0);
	*g = (struct grants_slab){ 0 };
}

void grants_worker_done(struct server *s)
{
	struct worker_job job;

	while (worker_next(s->worker, &job)) {
		if (job.close) {
			core_slab_closed(&s->core, job.slab);
		} else if (job.error) {
			if (log_limit_pass(&grants_limit, s->now_ns, 5))
				log_warn(
					"device %s: no memory for a slab of %u handles of %s: %s%s",
					s->core.h->device[job.device].name, job.count,
					core_size(job.handle_bytes).text, strerror(-job.error),
					job.error == -ENOMEM ? " (something else has taken what "
							       "was free at the start)"
							     : "");
			core_slab_failed(&s->core, job.slab);
		} else {
			s->grants->slab[job.slab] = (struct grants_slab){
				.fds = job.fds,
				.n = job.count,
				.token = job.token,
			};
			core_slab_created(&s->core, job.slab);
			tiers_slab_created(s, job.slab);
		}
	}
}

/* ---- grant messages ------------------------------------------------------------------------ */

/* fds of a slot that was sent to m and is still its; NULL: given up meanwhile. */
static const int *grants_slot_fds(const struct server *s, const struct core_member *m,
				  unsigned slot, unsigned *ret_n)
{
	const struct core_space *space = &s->core.spaces[m->space];

	if (!bit_is_set(m->sent, slot) || space->slab_of_slot[slot] == CORE_NONE16)
		return NULL;
	return grants_slab_fds(s, space->slab_of_slot[slot], ret_n);
}

/* Everything else this client is owed waited for the message in flight. */
static void grants_kick(struct server *s, const struct session *ss)
{
	for (uint32_t handle = 0; handle < KVB_SPACES_MAX; handle++) {
		struct core_member *m = core_member_get(&s->core, ss->client, handle);

		if (m)
			core_member_kick(&s->core, m);
	}
}

/* Sends the message the session holds, less what was given up since it was put together. */
static void grants_transmit(struct server *s, struct session *ss, struct core_member *m)
{
	union {
		struct kvb_msg_grant msg;
		char room[sizeof(struct kvb_msg_grant) +
			  KVB_GRANT_FDS_MAX * sizeof(struct kvb_grant_entry)];
	} out;
	int fds[KVB_GRANT_FDS_MAX];
	uint32_t n = 0;
	int error;

	for (uint32_t i = 0; i < ss->grant_count; i++) {
		struct kvb_grant_entry entry = ss->grant_entries[i];
		unsigned handles = 0;
		const int *slab = grants_slot_fds(s, m, entry.slot, &handles);

		if (!slab || entry.handle >= handles)
			continue;
		fds[n] = slab[entry.handle];
		out.msg.entries[n] = entry;
		ss->grant_entries[n++] = entry;
	}
	ss->grant_count = n;
	ss->grant_held = false;
	ss->grant_in_flight = n > 0;
	if (!n) {
		ss->grant_handle = 0;
		grants_kick(s, ss);
		return;
	}
	out.msg.h = (struct kvb_msg_header){
		.magic = KVB_MAGIC,
		.type = KVB_MSG_GRANT,
		.nfds = (uint16_t)n,
		.length = (uint32_t)(sizeof(out.msg) + n * sizeof(out.msg.entries[0])),
	};
	out.msg.space = m->handle;
	out.msg.count = n;
	out.msg.seq = ss->grant_seq;
	error = session_send(ss, &out, out.msg.h.length, fds, n);
	if (error && !ss->condemned) {
		/* ETOOMANYREFS: others leave their grants unread. ENOMEM, ENOBUFS: it passes. */
		ss->grant_held = true;
		grants_put_off(s, m);
	}
}

/* Adds handles of a slot from `from` on; the rest, if any, is for the next message. */
static void grants_add(struct session *ss, unsigned slot, unsigned from, unsigned handles)
{
	while (from < handles && ss->grant_count < KVB_GRANT_FDS_MAX)
		ss->grant_entries[ss->grant_count++] =
			(struct kvb_grant_entry){ .slot = slot, .handle = from++ };
	ss->grant_slot = slot;
	ss->grant_handle = from < handles ? from : 0;
}

static void grants_begin(struct server *s, struct session *ss, const struct core_member *m)
{
	ss->grant_seq = ++s->grants->seq;
	ss->grant_space = m->handle;
	ss->grant_count = 0;
}

/* A message with what m is owed, if anything. */
static void grants_send(struct server *s, struct session *ss, struct core_member *m)
{
	const struct core_space *space = &s->core.spaces[m->space];

	grants_begin(s, ss, m);
	for (unsigned w = 0; w < CORE_SLOT_WORDS; w++) {
		uint64_t owed = space->live[w] & ~m->sent[w];

		for (; owed && !ss->grant_handle; owed &= owed - 1) {
			unsigned slot = w * 64 + (unsigned)__builtin_ctzll(owed);
			unsigned handles = space->regions * space->handles_per_region;
			unsigned room = KVB_GRANT_FDS_MAX - ss->grant_count;

			/* Whole slabs where possible: half a slab serves nobody. */
			if (!room || (handles > room && ss->grant_count))
				goto full;
			core_grant_sent(&s->core, m, slot);
			grants_add(ss, slot, 0, handles);
		}
	}
full:
	if (ss->grant_count)
		grants_transmit(s, ss, m);
}

/* The rest of a slab whose first handles have been acknowledged. */
static void grants_go_on(struct server *s, struct session *ss, struct core_member *m)
{
	unsigned slot = ss->grant_slot, from = ss->grant_handle, handles = 0;

	ss->grant_handle = 0;
	if (!grants_slot_fds(s, m, slot, &handles))
		return;
	grants_begin(s, ss, m);
	grants_add(ss, slot, from, handles);
	grants_transmit(s, ss, m);
}

void grants_space_closed(struct session *ss, uint32_t handle)
{
	if (ss->grant_space != handle)
		return;
	ss->grant_space = CORE_NONE;
	ss->grant_handle = 0;
	if (ss->grant_held) {
		ss->grant_held = false;
		ss->grant_in_flight = false;
		grants_kick(ss->server, ss);
	}
}

int grants_ack(struct session *ss, const struct kvb_msg_grant_ack *ack)
{
	struct server *s = ss->server;
	struct core_member *m;
	unsigned handles;

	if (!ss->grant_in_flight || ss->grant_held || ack->seq != ss->grant_seq)
		return -EPROTO;
	ss->grant_in_flight = false;
	s->parked_look_ns = s->now_ns; /* a GROW may have waited for this */
	m = ss->grant_space == CORE_NONE ? NULL
					 : core_member_get(&s->core, ss->client, ss->grant_space);
	if (m) {
		const struct core_space *space = &s->core.spaces[m->space];

		handles = space->regions * space->handles_per_region;
		for (uint32_t i = 0; i < ss->grant_count; i++) {
			const struct kvb_grant_entry *entry = &ss->grant_entries[i];

			if (ack->status || entry->handle + 1 == handles)
				core_grant_acked(&s->core, m, entry->slot, !ack->status);
		}
		if (ack->status) {
			log_debug("client %u could not map a grant: %s", ss->client,
				  strerror((int)(ack->status & 0xfff)));
			ss->grant_handle = 0;
		}
		if (ss->grant_handle)
			grants_go_on(s, ss, m);
	}
	if (!ss->grant_in_flight)
		grants_kick(s, ss);
	return 0;
}

/* ---- events -------------------------------------------------------------------------------- */

/* False: the ring has no room. */
static bool grants_tell_revoked(struct server *s, struct session *ss, struct core_member *m)
{
	const struct core_space *space = &s->core.spaces[m->space];

	for (unsigned w = 0; w < CORE_SLOT_WORDS; w++) {
		/* A grant on its way is answered first; the answer brings the member up again. */
		uint64_t tell = m->revoke[w] & (m->acked[w] | m->refused[w]);

		for (; tell; tell &= tell - 1) {
			unsigned slot = w * 64 + (unsigned)__builtin_ctzll(tell);
			uint64_t until = s->core.slabs[space->slab_of_slot[slot]].deadline_ns;

			if (!ring_event(ss->ring, KVB_EVENT_REVOKE, m->handle, slot,
					until > s->now_ns ? until - s->now_ns : 0))
				return false;
			m->revoke[w] &= ~(1ull << (slot % 64));
		}
	}
	return true;
}

static void grants_member(struct server *s, struct core_member *m)
{
	struct session *ss = session_of_client(s, m->client);

	if (!ss || ss->condemned || ss->state != SESSION_ENGINE)
		return;
	if (m->recall) {
		if (ring_event(ss->ring, KVB_EVENT_RECALL, m->handle, 0, 0))
			m->recall = 0;
		else
			grants_put_off(s, m);
	}
	if (!grants_tell_revoked(s, ss, m))
		grants_put_off(s, m);
	if (ss->grant_held && ss->grant_space == m->handle)
		grants_transmit(s, ss, m);
	if (!ss->grant_in_flight)
		grants_send(s, ss, m);
}

/* Members whose turn was put off, held messages among them: those are owed nothing by the core. */
static void grants_retry(struct server *s)
{
	struct grants *g = s->grants;

	g->retry_ns = UINT64_MAX;
	for (uint32_t w = 0; w <= s->core.h->limits.members / 64; w++) {
		uint64_t again = g->put_off[w];

		g->put_off[w] = 0;
		for (; again; again &= again - 1) {
			struct core_member *m =
				&s->core.members[w * 64 + (unsigned)__builtin_ctzll(again)];

			if (m->used && s->core.clients[m->client].state == CORE_CLIENT_ATTACHED)
				grants_member(s, m);
		}
	}
}

void grants_turn(struct server *s)
{
	struct core_member *m;
	unsigned slab;

	while ((slab = core_next_slab(&s->core)) != CORE_NONE16) {
		if (s->core.slabs[slab].state != CORE_SLAB_CREATING) {
			store_tier_slab_close(s, slab);
			if (tiers_slab_close(s, slab))
				grants_slab_given_up(s, slab);
		} else if (grants_is_lower(s, slab)) {
			tiers_slab_create(s, slab);
		} else {
			grants_create(s, slab);
		}
	}
	if (s->now_ns >= s->grants->retry_ns)
		grants_retry(s);
	while ((m = core_next_member(&s->core)))
		grants_member(s, m);
}
