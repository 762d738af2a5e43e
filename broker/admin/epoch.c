/* SPDX-License-Identifier: Apache-2.0 */

/*
 * epoch bump: O(1) and cannot fail; with a store the answer comes when it is written there, so that
 * no crash brings the old epoch back. What it costs, and whom, takes a walk over the pages, so only
 * the dry run tells it: pages and bytes that become unreachable, and how much of that is held by
 * how many clients until they release it.
 */

#include <errno.h>
#include <stdlib.h>

#include "broker/admin/commands.h"
#include "broker/io/fault.h"
#include "broker/io/log.h"
#include "broker/io/store_tier.h"

static void epoch_visit(struct admin_conn *conn, uint32_t page)
{
	const struct core *c = conn->core;
	const struct core_page *p = &c->pages[page];
	struct epoch_plan *plan = &conn->walk.plan;
	uint64_t bytes;

	if (p->state != CORE_PAGE_SEALED || p->ns != plan->ns ||
	    p->epoch != c->namespaces[plan->ns].epoch)
		return;
	bytes = command_page_bytes(c, page);
	plan->pages++;
	plan->bytes += bytes;
	if (!p->leases)
		return;
	plan->leased_pages++;
	plan->leased_bytes += bytes;
	for (uint32_t l = p->lease; l != CORE_NONE; l = c->leases[l].page_next)
		conn->walk.clients[c->leases[l].client / 64] |= 1ull << c->leases[l].client % 64;
}

static void epoch_finish(struct admin_conn *conn)
{
	const struct core_ns *ns = &conn->core->namespaces[conn->walk.plan.ns];
	const struct epoch_plan *plan = &conn->walk.plan;
	unsigned clients = 0;
	cJSON *answer = cJSON_CreateObject();

	for (uint32_t i = 0; i <= conn->core->h->limits.clients / 64; i++)
		clients += (unsigned)__builtin_popcountll(conn->walk.clients[i]);
	command_add_digest(answer, ns);
	cJSON_AddNumberToObject(answer, "from", ns->epoch);
	cJSON_AddNumberToObject(answer, "to", (double)ns->epoch + 1);
	cJSON_AddNumberToObject(answer, "pages", (double)plan->pages);
	cJSON_AddNumberToObject(answer, "bytes", (double)plan->bytes);
	cJSON_AddNumberToObject(answer, "leased_pages", (double)plan->leased_pages);
	cJSON_AddNumberToObject(answer, "leased_bytes", (double)plan->leased_bytes);
	cJSON_AddNumberToObject(answer, "clients", clients);
	cJSON_AddBoolToObject(answer, "dry_run", true);
	command_answer(conn, ADMIN_EXIT_OK, answer);
}

static bool epoch_settled(struct admin_conn *conn)
{
	int settled = store_tier_ns_settled(conn->session->server, conn->walk.plan.ns);
	cJSON *answer = conn->later;

	if (!settled)
		return false;
	conn->later = NULL;
	cJSON_AddBoolToObject(answer, "stored", settled > 0);
	command_answer(conn, settled > 0 ? ADMIN_EXIT_OK : ADMIN_EXIT_PARTIAL, answer);
	return true;
}

void command_epoch_bump(struct admin_conn *conn)
{
	int i = command_find_ns(conn, conn->argv[0]);
	struct core_ns *ns;
	cJSON *answer;

	if (i < 0)
		return;
	ns = &conn->core->namespaces[i];
	if (!command_need_tenant(conn, "epoch bump", ns->tenant))
		return;
	if (conn->dry_run) {
		conn->walk.plan = (struct epoch_plan){ .ns = (unsigned)i };
		conn->walk.clients = fault_calloc("admin", conn->core->h->limits.clients / 64 + 1,
						  sizeof(uint64_t));
		if (conn->walk.clients)
			command_walk(conn, epoch_visit, epoch_finish);
		else
			command_answer(conn, ADMIN_EXIT_FAILED, NULL);
		return;
	}
	answer = cJSON_CreateObject();
	command_add_digest(answer, ns);
	cJSON_AddNumberToObject(answer, "from", ns->epoch);
	cJSON_AddNumberToObject(answer, "pages", ns->pages_current);
	core_ns_bump(conn->core, (unsigned)i);
	cJSON_AddNumberToObject(answer, "to", ns->epoch);
	cJSON_AddBoolToObject(answer, "dry_run", false);
	log_info("epoch of namespace %s moves to %u by uid %u",
		 cJSON_GetStringValue(cJSON_GetObjectItem(answer, "ns")), ns->epoch,
		 conn->session->uid);
	store_tier_ns_bumped(conn->session->server, (unsigned)i);
	conn->walk.plan = (struct epoch_plan){ .ns = (unsigned)i };
	conn->later = answer;
	conn->settled = epoch_settled;
	(void)epoch_settled(conn);
}
