/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Prefix commands that name keys: lookup, explain, pin, unpin, evict.
 *
 *   NS HASH... [--space ID] [--salt N]
 *
 * HASH is the 16 B chain hash of a block in hex. Without --space every space of the namespace's
 * tenant is asked, and with each the space below it. Nothing here leases, counts as a lookup or
 * makes a page look used: an operator who looks must not change what is evicted next.
 *
 * Resident is what a lookup finds: on the device. What is only below has a tier, and is not pinned:
 * a pin is about the device. To evict a block is to give it up in every tier.
 *
 * explain walks the page records for the first key that misses, because what the index leads to no
 * more (other epochs) and what another salt or namespace hides can be found in no other way.
 */

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "broker/admin/commands.h"
#include "broker/io/log.h"

/* False: has answered. */
static bool prefix_option(struct admin_conn *conn, unsigned *i, struct prefix_query *q)
{
	const char *name = conn->argv[*i];
	const char *value = *i + 1 < conn->argc ? conn->argv[++*i] : "";
	uint64_t n;

	if (strcmp(name, "--salt") == 0) {
		if (command_parse_number(value, &q->salt))
			return true;
	} else if (strcmp(name, "--space") == 0) {
		const struct core *c = conn->core;

		if (command_parse_number(value, &n) && n < c->h->limits.spaces &&
		    c->spaces[n].used && c->spaces[n].tenant == c->namespaces[q->ns].tenant) {
			q->space = (int)n;
			return true;
		}
		command_fail(conn, ADMIN_EXIT_NOT_FOUND, value, "see broker-ctl space list",
			     "no such space of the namespace's tenant");
		return false;
	}
	command_fail(conn, ADMIN_EXIT_USAGE, name, NULL, "'%s' is no value of it", value);
	return false;
}

/* False: has answered. */
static bool prefix_parse(struct admin_conn *conn, const char *what, struct prefix_query *ret)
{
	int ns = command_find_ns(conn, conn->argv[0]);

	if (ns < 0)
		return false;
	if (!command_need_tenant(conn, what, conn->core->namespaces[ns].tenant))
		return false;
	memset(ret, 0, sizeof(*ret));
	ret->ns = (unsigned)ns;
	ret->space = -1;
	for (unsigned i = 1; i < conn->argc; i++) {
		if (conn->argv[i][0] == '-') {
			if (!prefix_option(conn, &i, ret))
				return false;
		} else if (!command_parse_hash(conn->argv[i], &ret->key[ret->keys++])) {
			command_fail(conn, ADMIN_EXIT_USAGE, conn->argv[i],
				     "see broker-ctl prefix top",
				     "a block's hash is 32 hex digits");
			return false;
		}
	}
	if (ret->keys)
		return true;
	command_fail(conn, ADMIN_EXIT_USAGE, what, NULL, "no hash is named");
	return false;
}

/* A block where it is: on the device, below it, or both; CORE_NONE: not there. */
struct prefix_place {
	uint32_t here, below;
};

static struct prefix_place find_in(const struct core *c, const struct prefix_query *q, unsigned key,
				   unsigned space)
{
	struct prefix_place ret = { CORE_NONE, CORE_NONE };
	const struct core_space *s = &c->spaces[space];
	uint32_t page = core_page_find(c, space, q->ns, q->salt, &q->key[key]);

	if (s->above != CORE_NONE16)
		ret.below = page;
	else
		ret.here = page;
	if (s->below != CORE_NONE16)
		ret.below = core_page_find(c, s->below, q->ns, q->salt, &q->key[key]);
	return ret;
}

/* The first space that has it on the device; else the first that has it below. */
static struct prefix_place prefix_find(const struct core *c, const struct prefix_query *q,
				       unsigned key)
{
	struct prefix_place ret = { CORE_NONE, CORE_NONE };

	for (unsigned s = 0; s < c->h->limits.spaces && ret.here == CORE_NONE; s++) {
		struct prefix_place place;

		if (!c->spaces[s].used || c->spaces[s].tenant != c->namespaces[q->ns].tenant ||
		    (q->space >= 0 ? q->space != (int)s : c->spaces[s].above != CORE_NONE16))
			continue;
		place = find_in(c, q, key, s);
		if (place.here != CORE_NONE || ret.below == CORE_NONE)
			ret = place;
	}
	return ret;
}

static bool is_below(const struct core *c, uint32_t page)
{
	return c->spaces[c->slabs[c->units[page / CORE_UNIT_PAGES]].space].above != CORE_NONE16;
}

cJSON *prefix_page_json(const struct admin_conn *conn, uint32_t page)
{
	const struct core *c = conn->core;
	const struct core_page *p = &c->pages[page];
	const struct core_slab *slab = &c->slabs[c->units[page / CORE_UNIT_PAGES]];
	cJSON *o = cJSON_CreateObject();

	command_add_hash(o, "hash", &p->hash);
	command_add_digest(o, &c->namespaces[p->ns]);
	cJSON_AddNumberToObject(o, "epoch", p->epoch);
	cJSON_AddNumberToObject(o, "space", slab->space);
	cJSON_AddNumberToObject(o, "page", KVB_PAGE_ID(core_page_name(c, page)));
	cJSON_AddNumberToObject(o, "bytes", (double)command_page_bytes(c, page));
	cJSON_AddNumberToObject(o, "depth", p->depth);
	cJSON_AddNumberToObject(o, "hits", p->hits);
	cJSON_AddNumberToObject(o, "clients", p->leases);
	cJSON_AddBoolToObject(o, "pinned", p->flags & CORE_PAGE_PINNED);
	cJSON_AddStringToObject(o, "tier", is_below(c, page) ? "host" : "device");
	cJSON_AddBoolToObject(o, "copy_below", p->flags & CORE_PAGE_BELOW);
	cJSON_AddNumberToObject(o, "idle_s",
				p->leases || p->used_s > c->now_s ? 0 : c->now_s - p->used_s);
	return o;
}

/* ---- lookup, explain ----------------------------------------------------------------------- */

/* What is there for each key. Returns the first key that misses. */
static unsigned prefix_report(const struct admin_conn *conn, const struct prefix_query *q,
			      cJSON *answer)
{
	const struct core_ns *ns = &conn->core->namespaces[q->ns];
	cJSON *keys;
	unsigned lead = q->keys, lead_tiers = q->keys;

	command_add_digest(answer, ns);
	cJSON_AddNumberToObject(answer, "epoch", ns->epoch);
	cJSON_AddNumberToObject(answer, "asked", q->keys);
	keys = cJSON_AddArrayToObject(answer, "keys");
	for (unsigned i = 0; i < q->keys; i++) {
		struct prefix_place place = prefix_find(conn->core, q, i);
		uint32_t page = place.here != CORE_NONE ? place.here : place.below;
		cJSON *o;

		if (page != CORE_NONE) {
			o = prefix_page_json(conn, page);
		} else {
			o = cJSON_CreateObject();
			command_add_hash(o, "hash", &q->key[i]);
			if (i < lead_tiers)
				lead_tiers = i;
		}
		if (place.here == CORE_NONE && i < lead)
			lead = i;
		cJSON_AddBoolToObject(o, "resident", place.here != CORE_NONE);
		cJSON_AddItemToArray(keys, o);
	}
	cJSON_AddNumberToObject(answer, "matched", lead);
	cJSON_AddNumberToObject(answer, "matched_tiers", lead_tiers);
	return lead;
}

void command_prefix_lookup(struct admin_conn *conn)
{
	struct prefix_query q;
	cJSON *answer;

	if (!prefix_parse(conn, "prefix lookup", &q))
		return;
	answer = cJSON_CreateObject();
	prefix_report(conn, &q, answer);
	command_answer(conn, ADMIN_EXIT_OK, answer);
}

static void explain_visit(struct admin_conn *conn, uint32_t page)
{
	struct prefix_explain *ex = &conn->walk.explain;
	const struct core *c = conn->core;
	const struct core_page *p = &c->pages[page];
	const struct kvb_hash *key = &ex->q.key[ex->miss];

	if (p->state == CORE_PAGE_SEALED && ex->found < ADMIN_FOUND_MAX &&
	    p->hash.w[0] == key->w[0] && p->hash.w[1] == key->w[1] &&
	    c->namespaces[p->ns].tenant == c->namespaces[ex->q.ns].tenant)
		ex->page[ex->found++] = page;
}

/* Why this page, of the same hash and tenant, is not what the key asks for. */
static void explain_page(const struct core *c, const struct prefix_query *q, uint32_t page,
			 char *why, size_t bytes)
{
	const struct core_page *p = &c->pages[page];
	const struct core_slab *slab = &c->slabs[c->units[page / CORE_UNIT_PAGES]];

	if (p->ns != q->ns)
		(void)snprintf(why, bytes, "it is cached under another namespace");
	else if (p->epoch != c->namespaces[q->ns].epoch)
		(void)snprintf(why, bytes, "it was sealed in epoch %u, and the epoch is %u",
			       p->epoch, c->namespaces[q->ns].epoch);
	else if (p->salt != q->salt)
		(void)snprintf(why, bytes, "it is cached under another salt");
	else if (q->space >= 0 && slab->space != q->space &&
		 slab->space != c->spaces[q->space].below)
		(void)snprintf(why, bytes, "it is cached in space %u", slab->space);
	else if (p->flags & CORE_PAGE_PENDING)
		(void)snprintf(why, bytes, "other ranks of its group do not have it");
	else if (slab->state == CORE_SLAB_LIVE && is_below(c, page))
		(void)snprintf(why, bytes, "it is in the host tier, from where LOAD brings it up");
	else if (slab->state != CORE_SLAB_LIVE)
		(void)snprintf(why, bytes, "its slab is being taken back");
	else if (p->expire_s && p->expire_s <= c->now_s)
		(void)snprintf(why, bytes, "its time to live ended %u s ago",
			       c->now_s - p->expire_s);
	else
		(void)snprintf(why, bytes, "it was sealed while this was looked into");
}

static void explain_finish(struct admin_conn *conn)
{
	const struct prefix_explain *ex = &conn->walk.explain;
	const struct core *c = conn->core;
	cJSON *answer = cJSON_CreateObject();
	cJSON *reasons;
	char why[160];
	uint64_t evictions = 0;
	unsigned said = 0;

	prefix_report(conn, &ex->q, answer);
	cJSON_AddNumberToObject(answer, "miss", ex->miss);
	reasons = cJSON_AddArrayToObject(answer, "reasons");
	for (unsigned i = 0; i < ex->found; i++) {
		const struct core_page *p = &c->pages[ex->page[i]];
		const struct kvb_hash *key = &ex->q.key[ex->miss];

		/* The record may have gone to another key since the walk came by. */
		if (p->state != CORE_PAGE_SEALED || memcmp(&p->hash, key, sizeof(*key)) != 0)
			continue;
		explain_page(c, &ex->q, ex->page[i], why, sizeof(why));
		cJSON_AddItemToArray(reasons, cJSON_CreateString(why));
		said++;
	}
	for (unsigned s = 0; s < c->h->limits.spaces; s++) {
		if (c->spaces[s].used && c->spaces[s].tenant == c->namespaces[ex->q.ns].tenant)
			evictions += c->spaces[s].evictions;
	}
	if (!said) {
		(void)snprintf(
			why, sizeof(why),
			"no page has this hash: never sealed, or evicted since (the tenant's "
			"spaces have evicted %llu pages)",
			(unsigned long long)evictions);
		cJSON_AddItemToArray(reasons, cJSON_CreateString(why));
	}
	command_answer(conn, ADMIN_EXIT_OK, answer);
}

void command_prefix_explain(struct admin_conn *conn)
{
	struct prefix_explain *ex = &conn->walk.explain;
	cJSON *answer;

	memset(ex, 0, sizeof(*ex));
	if (!prefix_parse(conn, "prefix explain", &ex->q))
		return;
	answer = cJSON_CreateObject();
	ex->miss = prefix_report(conn, &ex->q, answer);
	if (ex->miss == ex->q.keys) {
		command_answer(conn, ADMIN_EXIT_OK, answer);
		return;
	}
	cJSON_Delete(answer);
	command_walk(conn, explain_visit, explain_finish);
}

/* ---- pin, unpin, evict --------------------------------------------------------------------- */

enum prefix_change { PREFIX_PIN, PREFIX_UNPIN, PREFIX_EVICT };

/* What stands in the way of giving a page up; NULL: nothing. */
static const char *evict_refusal(const struct core *c, uint32_t page)
{
	if (page == CORE_NONE)
		return NULL;
	if (c->pages[page].leases)
		return "leased";
	if (c->pages[page].flags & CORE_PAGE_PINNED)
		return "pinned";
	return c->pages[page].flags & CORE_PAGE_BUSY ? "being copied" : NULL;
}

/* What stands in the way of it; NULL: nothing. *ret_missing: it is not there to be changed. */
static const char *change_refusal(const struct core *c, const struct prefix_place *place,
				  enum prefix_change change, bool *ret_missing)
{
	const char *refusal;

	*ret_missing =
		place->here == CORE_NONE && (change != PREFIX_EVICT || place->below == CORE_NONE);
	if (*ret_missing)
		return place->below == CORE_NONE ? "not resident" : "in the host tier only";
	if (change != PREFIX_EVICT)
		return NULL;
	refusal = evict_refusal(c, place->here);
	return refusal ? refusal : evict_refusal(c, place->below);
}

static void change_apply(struct admin_conn *conn, const struct prefix_place *place,
			 enum prefix_change change)
{
	if (conn->dry_run)
		return;
	if (change != PREFIX_EVICT) {
		(void)core_page_pin(conn->core, place->here, change == PREFIX_PIN);
		return;
	}
	/* change_refusal() has asked */
	if (place->here != CORE_NONE)
		(void)core_page_evict(conn->core, place->here);
	if (place->below != CORE_NONE)
		(void)core_page_evict(conn->core, place->below);
}

static enum admin_exit change_code(unsigned done, unsigned missing, unsigned busy)
{
	if (!missing && !busy)
		return ADMIN_EXIT_OK;
	if (done)
		return ADMIN_EXIT_PARTIAL;
	return busy ? ADMIN_EXIT_BUSY : ADMIN_EXIT_NOT_FOUND;
}

static void prefix_change(struct admin_conn *conn, const char *what, enum prefix_change change)
{
	unsigned done = 0, missing = 0, busy = 0;
	struct prefix_query q;
	uint64_t bytes = 0;
	cJSON *answer, *keys;

	if (!prefix_parse(conn, what, &q))
		return;
	answer = cJSON_CreateObject();
	command_add_digest(answer, &conn->core->namespaces[q.ns]);
	keys = cJSON_AddArrayToObject(answer, "keys");
	for (unsigned i = 0; i < q.keys; i++) {
		struct prefix_place place = prefix_find(conn->core, &q, i);
		bool missed;
		const char *refusal = change_refusal(conn->core, &place, change, &missed);
		cJSON *o = cJSON_CreateObject();

		command_add_hash(o, "hash", &q.key[i]);
		cJSON_AddBoolToObject(o, "done", !refusal);
		if (refusal) {
			cJSON_AddStringToObject(o, "why", refusal);
			*(missed ? &missing : &busy) += 1;
		} else {
			done++;
			bytes += command_page_bytes(
				conn->core, place.here != CORE_NONE ? place.here : place.below);
			change_apply(conn, &place, change);
		}
		cJSON_AddItemToArray(keys, o);
	}
	cJSON_AddNumberToObject(answer, "pages", done);
	cJSON_AddNumberToObject(answer, "bytes", (double)bytes);
	cJSON_AddNumberToObject(answer, "missing", missing);
	cJSON_AddNumberToObject(answer, "busy", busy);
	cJSON_AddBoolToObject(answer, "dry_run", conn->dry_run);
	if (done && !conn->dry_run)
		log_info("%s of %u pages by uid %u", what, done, conn->session->uid);
	command_answer(conn, change_code(done, missing, busy), answer);
}

void command_prefix_pin(struct admin_conn *conn)
{
	prefix_change(conn, "prefix pin", PREFIX_PIN);
}

void command_prefix_unpin(struct admin_conn *conn)
{
	prefix_change(conn, "prefix unpin", PREFIX_UNPIN);
}

void command_prefix_evict(struct admin_conn *conn)
{
	prefix_change(conn, "prefix evict", PREFIX_EVICT);
}
