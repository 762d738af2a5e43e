/* SPDX-License-Identifier: Apache-2.0 */

/*
 * gpu drain, gpu resume: a GPU is given up wholly, so that it can be reset, and taken up again.
 *
 *   drain:   no new slab -> every slab revoked, with the usual deadline -> clients unmap -> handles
 *            closed -> its owner and its mover end -> "drained"
 *   resume:  owner and mover are started, slabs are made again
 *
 * A driver refuses to reset a GPU of which any process has something open. What the broker can do
 * about that is to have nothing open itself; engines that use the GPU besides have to end, and one
 * that does not answer a revocation keeps its slabs until its process is dead (--force disconnects
 * those that have memory there, so that they notice now). Pages that have a copy below keep it, and
 * until the deadline others get one.
 *
 * The command starts it and answers at once; whoever wants to know whether it is over asks again.
 */

#include <errno.h>
#include <string.h>

#include "broker/admin/commands.h"
#include "broker/io/log.h"
#include "broker/io/ring.h"
#include "broker/io/tiers.h"
#include "broker/io/worker.h"
#include "cuda_driver/gpu.h"

bool gpu_is_drained(const struct server *s, unsigned device)
{
	const struct core_device *d = &s->core.h->device[device];
	struct tiers_info tier;
	struct gpu_info info;

	if (!d->draining || d->granted_bytes || !worker_is_at_rest(s->worker, device))
		return false;
	s->device[device]->ops->info(s->device[device], &info);
	return !info.owner_pid && (!tiers_get_info(s, device, &tier) || !tier.mover_pid);
}

void gpu_turn(struct server *s)
{
	for (unsigned i = 0; i < s->cfg.devices; i++) {
		const struct core_device *d = &s->core.h->device[i];

		if (!d->draining || d->granted_bytes || worker_is_at_rest(s->worker, i))
			continue;
		log_info("device %s is empty: its owner and mover end", d->name);
		worker_rest(s->worker, i, true);
		tiers_rest(s, i, true);
	}
}

/* -1: has answered. */
static int find_gpu(struct admin_conn *conn, const char *name)
{
	const struct server *s = conn->session->server;

	for (unsigned i = 0; i < s->cfg.devices; i++) {
		const struct core_device *d = &conn->core->h->device[i];

		if (strcmp(d->name, name) != 0)
			continue;
		if (d->kind == KVB_DEVICE_CUDA)
			return (int)i;
		command_fail(conn, ADMIN_EXIT_USAGE, name, "see broker-ctl gpu list",
			     "it is no GPU: there is nothing to reset");
		return -1;
	}
	command_fail(conn, ADMIN_EXIT_NOT_FOUND, name, "see broker-ctl gpu list", "no such device");
	return -1;
}

/* ---- who has what there -------------------------------------------------------------------- */

struct gpu_use {
	unsigned slabs; /* that it may have mapped */
	uint64_t held_bytes;
	uint32_t leases;
};

static struct gpu_use client_use(const struct core *c, const struct core_client *cl,
				 unsigned device)
{
	struct gpu_use ret = { 0 };

	for (unsigned i = 0; i < KVB_SPACES_MAX; i++) {
		const struct core_member *m;
		const struct core_space *s;

		if (cl->member[i] == CORE_NONE16)
			continue;
		m = &c->members[cl->member[i]];
		s = &c->spaces[m->space];
		if (s->device != device)
			continue;
		for (unsigned w = 0; w < CORE_SLOT_WORDS; w++)
			ret.slabs += (unsigned)__builtin_popcountll(m->sent[w]);
		ret.held_bytes += m->held * s->regions * s->stride_bytes;
		ret.leases += m->leases;
	}
	return ret;
}

/* Clients that have, or may have, something of the device. With kick they are disconnected. */
static void add_clients(struct admin_conn *conn, unsigned device, bool kick, cJSON *answer)
{
	struct server *s = conn->session->server;
	const struct core *c = conn->core;
	cJSON *list = cJSON_AddArrayToObject(answer, "clients");

	for (unsigned i = 0; i < c->h->limits.clients; i++) {
		const struct core_client *cl = &c->clients[i];
		struct gpu_use use;
		struct session *ss;
		cJSON *o;

		if (cl->state == CORE_CLIENT_FREE)
			continue;
		use = client_use(c, cl, device);
		if (!use.slabs && !use.held_bytes && !use.leases)
			continue;
		ss = session_of_client(s, i);
		o = cJSON_CreateObject();
		cJSON_AddItemToArray(list, o);
		cJSON_AddNumberToObject(o, "client", i);
		cJSON_AddStringToObject(o, "name", cl->name);
		cJSON_AddNumberToObject(o, "pid", cl->pid);
		cJSON_AddStringToObject(o, "tenant", c->tenants[cl->tenant].name);
		cJSON_AddNumberToObject(o, "slabs", use.slabs);
		cJSON_AddNumberToObject(o, "held_bytes", (double)use.held_bytes);
		cJSON_AddNumberToObject(o, "leases", use.leases);
		cJSON_AddBoolToObject(o, "connected", cl->state == CORE_CLIENT_ATTACHED && ss);
		if (!kick || cl->state != CORE_CLIENT_ATTACHED || !ss)
			continue;
		s->kicked++;
		ring_break(ss->ring, EPERM);
		session_condemn(ss, "an operator drains its GPU");
	}
}

/* Bytes of pages there that nobody fills: what is lost, or goes to the tier below. */
static uint64_t cached_bytes(const struct core *c, unsigned device)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < c->h->limits.slabs; i++) {
		const struct core_slab *slab = &c->slabs[i];
		const struct core_space *s = &c->spaces[slab->space];

		if ((slab->state == CORE_SLAB_LIVE || slab->state == CORE_SLAB_DRAINING) &&
		    s->device == device)
			bytes += slab->sealed * s->regions * s->stride_bytes;
	}
	return bytes;
}

/* ---- the commands -------------------------------------------------------------------------- */

void command_gpu_drain(struct admin_conn *conn)
{
	struct server *s = conn->session->server;
	bool force = conn->argc == 2;
	int device = find_gpu(conn, conn->argv[0]);
	const struct core_device *d;
	bool drained;
	cJSON *answer;

	if (device < 0)
		return;
	if (force && strcmp(conn->argv[1], "--force") != 0) {
		command_fail(conn, ADMIN_EXIT_USAGE, conn->argv[1], NULL,
			     "it is neither a device nor --force");
		return;
	}
	d = &conn->core->h->device[device];
	answer = cJSON_CreateObject();
	cJSON_AddStringToObject(answer, "device", d->name);
	cJSON_AddNumberToObject(answer, "granted_bytes", (double)d->granted_bytes);
	cJSON_AddNumberToObject(answer, "cached_bytes",
				(double)cached_bytes(conn->core, (unsigned)device));
	cJSON_AddBoolToObject(answer, "below", d->below_ready);
	add_clients(conn, (unsigned)device, force && !conn->dry_run, answer);
	cJSON_AddBoolToObject(answer, "force", force);
	cJSON_AddBoolToObject(answer, "dry_run", conn->dry_run);
	if (!conn->dry_run && !d->draining)
		log_info("device %s is drained by uid %u", d->name, conn->session->uid);
	if (!conn->dry_run)
		core_device_drain(conn->core, (unsigned)device, true);
	drained = gpu_is_drained(s, (unsigned)device);
	cJSON_AddBoolToObject(answer, "drained", drained);
	command_answer(conn, drained || conn->dry_run ? ADMIN_EXIT_OK : ADMIN_EXIT_PARTIAL, answer);
}

void command_gpu_resume(struct admin_conn *conn)
{
	struct server *s = conn->session->server;
	int device = find_gpu(conn, conn->argv[0]);
	const struct core_device *d;
	cJSON *answer;

	if (device < 0)
		return;
	d = &conn->core->h->device[device];
	answer = cJSON_CreateObject();
	cJSON_AddStringToObject(answer, "device", d->name);
	cJSON_AddBoolToObject(answer, "resumed", d->draining);
	cJSON_AddBoolToObject(answer, "dry_run", conn->dry_run);
	if (!conn->dry_run && d->draining) {
		log_info("device %s is taken up again by uid %u", d->name, conn->session->uid);
		core_device_drain(conn->core, (unsigned)device, false);
		worker_rest(s->worker, (uint32_t)device, false);
		tiers_rest(s, (unsigned)device, false);
	}
	command_answer(conn, ADMIN_EXIT_OK, answer);
}
