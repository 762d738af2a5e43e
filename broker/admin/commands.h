/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What the files of broker/admin share: a connection, a command on its way, and helpers that
 * commands build their answers with.
 *
 * A command is a function. It looks at conn->argv (its own words left out), and either answers at
 * once with command_answer() or command_fail(), or starts a walk over the page records, whose
 * `finish` answers. Nothing it calls may block. Everything in argv is the operator's and is
 * checked.
 */

#include <cjson/cJSON.h>

#include "broker/admin/admin.h"
#include "broker/admin/exit_codes.h"
#include "broker/io/server.h"

#define ADMIN_ARGC_MAX 256u
#define ADMIN_WALK_PAGES 4096u /* records a slice of a walk looks at */
#define ADMIN_TOP_MAX 500u
#define ADMIN_FOUND_MAX 8u /* pages that explain a miss */

/* A namespace and keys under it, as the prefix commands name them. */
struct prefix_query {
	unsigned ns;
	int space; /* index, or -1: every space of the tenant */
	uint64_t salt;
	unsigned keys;
	struct kvb_hash key[ADMIN_ARGC_MAX];
};

struct prefix_top {
	unsigned want, got;
	int ns; /* index, or -1: every one the operator may see */
	int by; /* enum in prefix_top.c */
	uint32_t page[ADMIN_TOP_MAX];
	uint64_t score[ADMIN_TOP_MAX]; /* a heap: the lowest first */
};

struct prefix_explain {
	struct prefix_query q;
	unsigned miss; /* first key that is not resident */
	unsigned found;
	uint32_t page[ADMIN_FOUND_MAX];
};

struct epoch_plan {
	unsigned ns;
	uint64_t pages, bytes, leased_pages, leased_bytes;
};

/* What a command on the store waits for. */
struct store_wait {
	uint32_t part;
	uint64_t bytes;         /* that it is to have; 0: none, it is left */
	uint64_t evicted_pages; /* before it began */
	uint64_t number;        /* of the flush, or the check */
};

struct admin_conn;

/* A look at every page record, a slice a turn. Records change between slices. */
struct admin_walk {
	void (*visit)(struct admin_conn *conn, uint32_t page); /* NULL: no walk */
	void (*finish)(struct admin_conn *conn);
	uint32_t next;
	uint64_t *clients; /* a set of clients, if the walk needs one; allocated, ends with it */
	union {
		struct prefix_top top;
		struct prefix_explain explain;
		struct epoch_plan plan;
	};
};

struct admin_conn {
	struct admin_conn *next;
	struct session *session;
	struct core *core;
	bool busy; /* a command is not fully answered */
	bool dry_run;
	unsigned argc;
	const char *argv[ADMIN_ARGC_MAX];
	char args[KVB_MSG_BYTES_MAX]; /* argv's bytes */
	char *out;                    /* the answer; allocated */
	size_t out_bytes, out_sent;
	uint32_t exit_code;
	uint64_t progress_ns; /* when the reader last took something */
	struct admin_walk walk;
	bool (*settled)(struct admin_conn *conn); /* asked every turn, until it has answered */
	cJSON *later;                             /* what it will answer with */
	struct store_wait store;
};

#define COMMAND_CHANGES (1u << 0)  /* changes something: knows a dry run */
#define COMMAND_OPERATOR (1u << 1) /* for uid 0 and the daemon's uid only */

struct command {
	const char *words[2]; /* the second may be NULL */
	const char *usage;    /* arguments */
	unsigned args_min, args_max;
	unsigned flags;
	void (*run)(struct admin_conn *conn);
};

/* Runs conn->argv. commands.c */
void command_run(struct admin_conn *conn);

/* Ends the command with this answer; owns `answer` (NULL: there was no memory for it). */
void command_answer(struct admin_conn *conn, enum admin_exit code, cJSON *answer);
/* Ends it with an error: what, why, hint (may be NULL). */
void command_fail(struct admin_conn *conn, enum admin_exit code, const char *what, const char *hint,
		  const char *fmt, ...) __attribute__((format(printf, 5, 6)));
void command_walk(struct admin_conn *conn, void (*visit)(struct admin_conn *, uint32_t),
		  void (*finish)(struct admin_conn *));

/* ---- helpers (commands.c) ------------------------------------------------------------------ */

bool command_is_operator(const struct admin_conn *conn);
/* May the peer see into, and change, what is this tenant's? */
bool command_may_tenant(const struct admin_conn *conn, unsigned tenant);
/* As above, and answers the refusal. */
bool command_need_tenant(struct admin_conn *conn, const char *what, unsigned tenant);

bool command_parse_number(const char *text, uint64_t *ret); /* decimal, or 0x and hex */
/* The namespace `text` names: [TENANT/]DIGEST, the digest cut short. Answers the error; -1. */
int command_find_ns(struct admin_conn *conn, const char *text);

void command_add_digest(cJSON *to, const struct core_ns *ns); /* "ns" and "digest" */
void command_add_hash(cJSON *to, const char *key, const struct kvb_hash *hash);
bool command_parse_hash(const char *text, struct kvb_hash *ret); /* 32 hex digits */
uint64_t command_page_bytes(const struct core *c, uint32_t page);

/* ---- the commands -------------------------------------------------------------------------- */

void command_client_kick(struct admin_conn *conn);   /* commands.c */
void command_health(struct admin_conn *conn);        /* commands.c */
void command_tenant_set(struct admin_conn *conn);    /* tenant.c */
void command_tenant_delete(struct admin_conn *conn); /* tenant.c */
void command_epoch_bump(struct admin_conn *conn);    /* epoch.c */
void command_config_show(struct admin_conn *conn);   /* config.c */
void command_config_diff(struct admin_conn *conn);
void command_config_reload(struct admin_conn *conn);
void command_config_set(struct admin_conn *conn);
void command_prefix_lookup(struct admin_conn *conn); /* prefix.c */
void command_prefix_explain(struct admin_conn *conn);
void command_prefix_pin(struct admin_conn *conn);
void command_prefix_unpin(struct admin_conn *conn);
void command_prefix_evict(struct admin_conn *conn);
void command_prefix_top(struct admin_conn *conn); /* prefix_top.c */
void command_gpu_drain(struct admin_conn *conn);  /* gpu.c */
void command_gpu_resume(struct admin_conn *conn);
void command_tier_resize(struct admin_conn *conn); /* store.c */
void command_tier_detach(struct admin_conn *conn);
void command_tier_flush(struct admin_conn *conn);
void command_tier_check(struct admin_conn *conn);
void gpu_turn(struct server *s); /* ends what serves a device that has been emptied */
/* It has no memory of the GPU any more, and no process that knows the GPU runs. */
bool gpu_is_drained(const struct server *s, unsigned device);
cJSON *prefix_page_json(const struct admin_conn *conn, uint32_t page);
