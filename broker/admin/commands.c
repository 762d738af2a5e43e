/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The table of commands, who may use them, and the small ones.
 *
 * Rights. An operator is uid 0 or the daemon's own uid and may everything. A tenant's uid may act
 * on that tenant's clients and namespaces, and see into them: what prompts another tenant has
 * cached is nobody else's business, so the prefix commands ask for the right also when they only
 * read.
 */

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/admin/commands.h"
#include "broker/admin/stats.h"
#include "broker/io/log.h"
#include "broker/io/ring.h"

static const struct command command_table[] = {
	{ { "client", "kick" }, "ID", 1, 1, COMMAND_CHANGES, command_client_kick },
	{ { "tenant", "set" },
	  "NAME KEY=VALUE...",
	  1,
	  8,
	  COMMAND_CHANGES | COMMAND_OPERATOR,
	  command_tenant_set },
	{ { "tenant", "delete" },
	  "NAME",
	  1,
	  1,
	  COMMAND_CHANGES | COMMAND_OPERATOR,
	  command_tenant_delete },
	{ { "epoch", "bump" }, "NS", 1, 1, COMMAND_CHANGES, command_epoch_bump },
	{ { "prefix", "lookup" }, "NS HASH...", 2, ADMIN_ARGC_MAX, 0, command_prefix_lookup },
	{ { "prefix", "explain" }, "NS HASH...", 2, ADMIN_ARGC_MAX, 0, command_prefix_explain },
	{ { "prefix", "pin" },
	  "NS HASH...",
	  2,
	  ADMIN_ARGC_MAX,
	  COMMAND_CHANGES,
	  command_prefix_pin },
	{ { "prefix", "unpin" },
	  "NS HASH...",
	  2,
	  ADMIN_ARGC_MAX,
	  COMMAND_CHANGES,
	  command_prefix_unpin },
	{ { "prefix", "evict" },
	  "NS HASH...",
	  2,
	  ADMIN_ARGC_MAX,
	  COMMAND_CHANGES,
	  command_prefix_evict },
	{ { "prefix", "top" }, "[NS] [--by WHAT] [--count N]", 0, 5, 0, command_prefix_top },
	{ { "gpu", "drain" },
	  "DEVICE [--force]",
	  1,
	  2,
	  COMMAND_CHANGES | COMMAND_OPERATOR,
	  command_gpu_drain },
	{ { "gpu", "resume" },
	  "DEVICE",
	  1,
	  1,
	  COMMAND_CHANGES | COMMAND_OPERATOR,
	  command_gpu_resume },
	{ { "tier", "resize" },
	  "PATH BYTES",
	  2,
	  2,
	  COMMAND_CHANGES | COMMAND_OPERATOR,
	  command_tier_resize },
	{ { "tier", "detach" },
	  "PATH",
	  1,
	  1,
	  COMMAND_CHANGES | COMMAND_OPERATOR,
	  command_tier_detach },
	{ { "tier", "flush" }, "", 0, 0, COMMAND_CHANGES | COMMAND_OPERATOR, command_tier_flush },
	{ { "tier", "check" }, "", 0, 0, COMMAND_CHANGES | COMMAND_OPERATOR, command_tier_check },
	{ { "config", "show" }, "", 0, 0, COMMAND_OPERATOR, command_config_show },
	{ { "config", "diff" }, "[FILE]", 0, 1, COMMAND_OPERATOR, command_config_diff },
	{ { "config", "reload" },
	  "",
	  0,
	  0,
	  COMMAND_CHANGES | COMMAND_OPERATOR,
	  command_config_reload },
	{ { "config", "set" },
	  "KEY VALUE",
	  2,
	  2,
	  COMMAND_CHANGES | COMMAND_OPERATOR,
	  command_config_set },
	{ { "health", NULL }, "--deep", 1, 1, COMMAND_OPERATOR, command_health },
};

/* ---- answers ------------------------------------------------------------------------------- */

void command_fail(struct admin_conn *conn, enum admin_exit code, const char *what, const char *hint,
		  const char *fmt, ...)
{
	cJSON *answer = cJSON_CreateObject();
	cJSON *error = cJSON_AddObjectToObject(answer, "error");
	char why[512];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	cJSON_AddStringToObject(error, "what", what);
	cJSON_AddStringToObject(error, "why", why);
	if (hint)
		cJSON_AddStringToObject(error, "hint", hint);
	command_answer(conn, code, answer);
}

/* ---- rights -------------------------------------------------------------------------------- */

bool command_is_operator(const struct admin_conn *conn)
{
	return session_uid_operates(conn->session->uid);
}

bool command_may_tenant(const struct admin_conn *conn, unsigned tenant)
{
	return command_is_operator(conn) || conn->core->tenants[tenant].uid == conn->session->uid;
}

bool command_need_tenant(struct admin_conn *conn, const char *what, unsigned tenant)
{
	if (command_may_tenant(conn, tenant))
		return true;
	command_fail(conn, ADMIN_EXIT_PERMISSION, what, "ask an operator",
		     "it is tenant %s's, and you are uid %u", conn->core->tenants[tenant].name,
		     conn->session->uid);
	return false;
}

/* ---- parsing ------------------------------------------------------------------------------- */

bool command_parse_number(const char *text, uint64_t *ret)
{
	int base = text[0] == '0' && (text[1] == 'x' || text[1] == 'X') ? 16 : 10;
	char *end;
	uint64_t n;

	if (!isdigit((unsigned char)text[0]))
		return false;
	errno = 0;
	n = strtoull(text, &end, base);
	if (errno || *end)
		return false;
	*ret = n;
	return true;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

bool command_parse_hash(const char *text, struct kvb_hash *ret)
{
	uint8_t bytes[sizeof(*ret)];

	if (strlen(text) != 2 * sizeof(bytes))
		return false;
	for (size_t i = 0; i < sizeof(bytes); i++) {
		int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);

		if (high < 0 || low < 0)
			return false;
		bytes[i] = (uint8_t)(high << 4 | low);
	}
	memcpy(ret, bytes, sizeof(*ret));
	return true;
}

static void hex_text(char *to, const uint8_t *bytes, size_t n)
{
	for (size_t i = 0; i < n; i++)
		(void)snprintf(to + 2 * i, 3, "%02x", bytes[i]);
}

static bool digest_begins(const uint8_t digest[32], const char *text)
{
	char hex[65];

	hex_text(hex, digest, 32);
	return strncasecmp(hex, text, strlen(text)) == 0;
}

int command_find_ns(struct admin_conn *conn, const char *text)
{
	const struct core *c = conn->core;
	const char *slash = strchr(text, '/');
	const char *digest = slash ? slash + 1 : text;
	int found = -1;

	if (!digest[0] || digest[strspn(digest, "0123456789abcdefABCDEF")]) {
		command_fail(conn, ADMIN_EXIT_USAGE, text, "see broker-ctl ns list",
			     "a namespace is named by the first hex digits of its digest");
		return -1;
	}
	for (unsigned i = 0; i < c->h->limits.namespaces; i++) {
		const struct core_ns *ns = &c->namespaces[i];
		const char *tenant;

		if (!ns->used || !digest_begins(ns->digest, digest))
			continue;
		tenant = c->tenants[ns->tenant].name;
		if (slash && (strlen(tenant) != (size_t)(slash - text) ||
			      memcmp(tenant, text, (size_t)(slash - text))))
			continue;
		if (found >= 0) {
			command_fail(conn, ADMIN_EXIT_USAGE, text,
				     "give more digits, or TENANT/DIGEST",
				     "more than one namespace begins like this");
			return -1;
		}
		found = (int)i;
	}
	if (found < 0)
		command_fail(conn, ADMIN_EXIT_NOT_FOUND, text, "see broker-ctl ns list",
			     "no such namespace");
	return found;
}

void command_add_digest(cJSON *to, const struct core_ns *ns)
{
	char hex[65];

	hex_text(hex, ns->digest, sizeof(ns->digest));
	cJSON_AddStringToObject(to, "digest", hex);
	hex[8] = '\0';
	cJSON_AddStringToObject(to, "ns", hex);
}

void command_add_hash(cJSON *to, const char *key, const struct kvb_hash *hash)
{
	uint8_t bytes[sizeof(*hash)];
	char hex[2 * sizeof(bytes) + 1];

	memcpy(bytes, hash, sizeof(bytes));
	hex_text(hex, bytes, sizeof(bytes));
	cJSON_AddStringToObject(to, key, hex);
}

uint64_t command_page_bytes(const struct core *c, uint32_t page)
{
	const struct core_slab *slab = &c->slabs[c->units[page / CORE_UNIT_PAGES]];
	const struct core_space *space = &c->spaces[slab->space];

	return space->regions * space->stride_bytes;
}

/* ---- client kick, health ------------------------------------------------------------------- */

static uint64_t client_held_bytes(const struct core *c, const struct core_client *cl)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < KVB_SPACES_MAX; i++) {
		const struct core_member *m;

		if (cl->member[i] == CORE_NONE16)
			continue;
		m = &c->members[cl->member[i]];
		bytes += m->held * c->spaces[m->space].regions * c->spaces[m->space].stride_bytes;
	}
	return bytes;
}

void command_client_kick(struct admin_conn *conn)
{
	struct server *s = conn->session->server;
	const struct core *c = conn->core;
	const struct core_client *cl;
	struct session *ss;
	uint64_t id;
	cJSON *answer;

	if (!command_parse_number(conn->argv[0], &id)) {
		command_fail(conn, ADMIN_EXIT_USAGE, conn->argv[0], "see broker-ctl client list",
			     "a client is named by its id, a number");
		return;
	}
	if (id >= c->h->limits.clients || c->clients[id].state == CORE_CLIENT_FREE) {
		command_fail(conn, ADMIN_EXIT_NOT_FOUND, conn->argv[0],
			     "see broker-ctl client list", "no such client");
		return;
	}
	cl = &c->clients[id];
	if (!command_need_tenant(conn, "client kick", cl->tenant))
		return;
	ss = session_of_client(s, (unsigned)id);
	if (cl->state != CORE_CLIENT_ATTACHED || !ss) {
		command_fail(conn, ADMIN_EXIT_FAILED, conn->argv[0],
			     "its pages come back when the process ends",
			     "it has left already; process %d may still have its memory mapped",
			     cl->pid);
		return;
	}
	answer = cJSON_CreateObject();
	cJSON_AddNumberToObject(answer, "client", (double)id);
	cJSON_AddStringToObject(answer, "name", cl->name);
	cJSON_AddNumberToObject(answer, "pid", cl->pid);
	cJSON_AddStringToObject(answer, "tenant", c->tenants[cl->tenant].name);
	cJSON_AddNumberToObject(answer, "pages_held", cl->held);
	cJSON_AddNumberToObject(answer, "held_bytes", (double)client_held_bytes(c, cl));
	cJSON_AddNumberToObject(answer, "leases", cl->leases);
	cJSON_AddBoolToObject(answer, "dry_run", conn->dry_run);
	if (!conn->dry_run) {
		s->kicked++;
		log_info("client %u is kicked by uid %u", (unsigned)id, conn->session->uid);
		ring_break(ss->ring, EPERM);
		session_condemn(ss, "an operator kicked it");
	}
	command_answer(conn, ADMIN_EXIT_OK, answer);
}

/*
 * core_check() needs the tables to hold still, so nobody is served meanwhile: this is for a moment
 * in which that may be, and for operators only.
 */
void command_health(struct admin_conn *conn)
{
	uint64_t began_ns = server_clock_ns();
	char why[512] = "";
	cJSON *answer;
	int r;

	if (strcmp(conn->argv[0], "--deep") != 0) {
		command_fail(conn, ADMIN_EXIT_USAGE, "health", NULL,
			     "the daemon knows --deep only");
		return;
	}
	r = core_check(conn->core, why, sizeof(why));
	answer = cJSON_CreateObject();
	cJSON_AddStringToObject(answer, "tables", r == 0 ? "sound" : "broken");
	if (r < 0) {
		log_error("health --deep: %s", why);
		cJSON_AddStringToObject(answer, "why", why);
	}
	cJSON_AddNumberToObject(answer, "pages", conn->core->h->limits.pages);
	cJSON_AddNumberToObject(answer, "seconds", (double)(server_clock_ns() - began_ns) / 1e9);
	command_answer(conn, r == 0 ? ADMIN_EXIT_OK : ADMIN_EXIT_FAILED, answer);
}

/* ---- dispatch ------------------------------------------------------------------------------ */

static const struct command *command_find(const struct admin_conn *conn, unsigned *ret_words)
{
	for (size_t i = 0; i < sizeof(command_table) / sizeof(command_table[0]); i++) {
		const struct command *cmd = &command_table[i];
		unsigned words = cmd->words[1] ? 2 : 1;

		if (conn->argc >= words && strcmp(conn->argv[0], cmd->words[0]) == 0 &&
		    (words == 1 || strcmp(conn->argv[1], cmd->words[1]) == 0)) {
			*ret_words = words;
			return cmd;
		}
	}
	return NULL;
}

void command_run(struct admin_conn *conn)
{
	const struct command *cmd;
	unsigned words;
	char what[64];

	cmd = command_find(conn, &words);
	if (!cmd) {
		command_fail(conn, ADMIN_EXIT_USAGE, "command",
			     "is broker-ctl of another version than the daemon?",
			     "the daemon does not know it");
		return;
	}
	(void)snprintf(what, sizeof(what), "%s%s%s", cmd->words[0], words == 2 ? " " : "",
		       words == 2 ? cmd->words[1] : "");
	conn->argc -= words;
	memmove(conn->argv, conn->argv + words, conn->argc * sizeof(conn->argv[0]));
	if (conn->argc < cmd->args_min || conn->argc > cmd->args_max)
		command_fail(conn, ADMIN_EXIT_USAGE, what, NULL, "wants %s", cmd->usage);
	else if (conn->dry_run && !(cmd->flags & COMMAND_CHANGES))
		command_fail(conn, ADMIN_EXIT_USAGE, what, "leave the dry run out",
			     "it changes nothing anyway");
	else if (cmd->flags & COMMAND_OPERATOR && !command_is_operator(conn))
		command_fail(conn, ADMIN_EXIT_PERMISSION, what, "run it as root",
			     "only uid 0 and uid %u may", (unsigned)geteuid());
	else
		cmd->run(conn);
}
