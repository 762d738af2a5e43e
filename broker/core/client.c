/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Clients and their membership in spaces: from attaching to the last page taken back.
 *
 *   ATTACHED --- socket gone ---> LEAVING --- process dead ---> DEAD --- all taken back ---> FREE
 *
 * A client's rights end with its socket: core_client_close() marks it and returns; core_work()
 * drops its leases and puts the pages it was filling into quarantine, in slices. They stay there
 * until its process is seen dead, because until then it may still write to them (I1, I2). Only then
 * does it also give up the memory it was sent.
 */

#include "broker/core/internal.h"

int core_client_open(struct core *c, unsigned tenant, uint32_t uid, int32_t pid, const char *name)
{
	assert(tenant < c->h->limits.tenants && c->tenants[tenant].used);
	for (unsigned i = 0; i < c->h->limits.clients; i++) {
		struct core_client *cl = &c->clients[i];

		if (cl->state != CORE_CLIENT_FREE)
			continue;
		memset(cl, 0, sizeof(*cl));
		cl->state = CORE_CLIENT_ATTACHED;
		cl->tenant = (uint16_t)tenant;
		cl->uid = uid;
		cl->pid = pid;
		cl->leases_max = c->h->limits.leases / 4;
		if (cl->leases_max < 64)
			cl->leases_max = c->h->limits.leases;
		cl->lease_first = CORE_NONE;
		cl->opened_ns = c->now_ns;
		memcpy(cl->name, name, strnlen(name, sizeof(cl->name) - 1));
		memset(cl->member, 0xff, sizeof(cl->member));
		memset(cl->ns, 0xff, sizeof(cl->ns));
		c->tenants[tenant].clients++;
		c->h->n.clients_opened++;
		return (int)i;
	}
	return -ENOSPC;
}

static void start_reaping(struct core *c, struct core_client *cl)
{
	cl->reap_slot = 0;
	if (!cl->reaping) {
		cl->reaping = 1;
		c->h->clients_reaping++;
	}
}

void core_client_close(struct core *c, unsigned client)
{
	struct core_client *cl = &c->clients[client];

	assert(cl->state != CORE_CLIENT_FREE);
	if (cl->state != CORE_CLIENT_ATTACHED)
		return;
	cl->state = CORE_CLIENT_LEAVING;
	cl->closed_ns = c->now_ns;
	for (unsigned h = 0; h < KVB_NS_MAX; h++) {
		if (cl->ns[h].ns != CORE_NONE16)
			c->namespaces[cl->ns[h].ns].refs--;
		cl->ns[h].ns = CORE_NONE16;
	}
	start_reaping(c, cl);
}

void core_client_dead(struct core *c, unsigned client)
{
	struct core_client *cl = &c->clients[client];

	core_client_close(c, client);
	cl->state = CORE_CLIENT_DEAD;
	start_reaping(c, cl);
}

/* ---- membership ---------------------------------------------------------------------------- */

struct core_member *core_member_get(struct core *c, unsigned client, uint32_t handle)
{
	const struct core_client *cl = &c->clients[client];

	if (handle >= KVB_SPACES_MAX || cl->member[handle] == CORE_NONE16)
		return NULL;
	return &c->members[cl->member[handle]];
}

struct core_member *core_member_of(struct core *c, unsigned client, unsigned space)
{
	for (unsigned h = 0; h < KVB_SPACES_MAX; h++) {
		struct core_member *m = core_member_get(c, client, h);

		if (m && m->space == space)
			return m;
	}
	return NULL;
}

void core_member_kick(struct core *c, struct core_member *m)
{
	if (m->todo)
		return;
	m->todo = 1;
	m->todo_next = c->h->member_todo;
	c->h->member_todo = (uint16_t)core_member_index(c, m);
}

/* Is there anything to tell it? Grants not sent, revocations, a recall. */
static bool member_owed(const struct core *c, const struct core_member *m)
{
	const struct core_space *s = &c->spaces[m->space];

	if (m->recall)
		return true;
	for (unsigned w = 0; w < CORE_SLOT_WORDS; w++) {
		if (m->revoke[w] || s->live[w] & ~m->sent[w])
			return true;
	}
	return false;
}

struct core_member *core_next_member(struct core *c)
{
	while (c->h->member_todo != CORE_NONE16) {
		struct core_member *m = &c->members[c->h->member_todo];

		c->h->member_todo = m->todo_next;
		m->todo = 0;
		if (m->used && c->clients[m->client].state == CORE_CLIENT_ATTACHED &&
		    member_owed(c, m))
			return m;
	}
	return NULL;
}

void core_member_remove(struct core *c, struct core_member *m)
{
	struct core_space *s = &c->spaces[m->space];
	uint16_t index = (uint16_t)core_member_index(c, m);
	uint16_t *link = &s->member;

	assert(!m->held && !m->leases && !m->magazine);
	for (unsigned slot = 0; slot < s->slots; slot++) {
		if (bit_test(m->sent, slot))
			core_slab_unmap(c, m, slot);
	}
	while (*link != index)
		link = &c->members[*link].space_next;
	*link = m->space_next;
	s->members--;
	c->clients[m->client].member[m->handle] = CORE_NONE16;
	m->used = 0;
	core_space_try_free(c, s);
}

int core_space_close(struct core *c, unsigned client, uint32_t handle)
{
	struct core_member *m = core_member_get(c, client, handle);

	if (!m)
		return -ENOENT;
	if (m->held || m->leases)
		return -EBUSY;
	core_member_remove(c, m);
	return 0;
}
