/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The daemon's running state: one core, one loop, the sessions of its peers.
 *
 * Data flow: loop -> session (socket messages) or ring (SQEs) -> ops (argument checks) -> core ->
 * decision -> ring (CQE), grants (slab memory), worker (device), tiers (copies). server_run() turns
 * the wheel:
 *
 *      turn:  time -> rings that are polled, a budget each -> core_work() slice -> grants -> tiers
 *             and store -> sockets, deaths, timers if the loop has any -> again, or sleep
 *
 * It sleeps only when no ring is polled (each idle ring has NEED_DOORBELL set and re-checked) and
 * the core has no work left. One thread; those of the device worker (worker.h) and those that fill
 * arenas (numa/arena.h) are the only others.
 */

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "broker/core/core.h"
#include "broker/io/log.h"
#include "broker/io/loop.h"

struct worker;
struct gpu_device;
struct stats;
struct admin_conn;
struct tiers;
struct store_tier;
struct config;

#define SERVER_DEVICES_MAX CORE_DEVICES_MAX
#define SERVER_TENANTS_MAX 256u

#define SERVER_STORES_MAX 16u

#define SERVER_UUID_BYTES 80

struct server_device_config {
	uint32_t kind;
	uint32_t ordinal;
	char uuid[SERVER_UUID_BYTES]; /* of the GPU, or the part of one; "": the ordinal tells */
	uint64_t capacity_bytes;
};

/* A file or block device of the store; bytes 0: all of it. */
struct server_store_config {
	const char *path;
	uint64_t bytes;
};

enum revoke_policy { REVOKE_EXTEND, REVOKE_KICK, REVOKE_QUARANTINE };

/*
 * Made by broker/config from a file and the command line. Of a running daemon's only what is live
 * (settings.h) changes, by broker/admin/reload.c.
 */
struct server_config {
	const char *socket;
	const char *state_dir;
	const char *policy; /* "lru" */
	enum loop_engine engine;
	enum revoke_policy revoke_policy;
	uint64_t revoke_grace_ns;    /* beyond its deadline, each time a revoked slab is extended */
	uint64_t attach_deadline_ns; /* a connection that has not said HELLO by then is closed */
	uint64_t drain_ns;           /* SIGTERM: how long clients have to finish */
	uint64_t spin_ns;            /* how long an idle ring stays polled; default 50 us */
	uint64_t warm_bytes;         /* of each GPU, made ahead of need; UINT64_MAX: a part of it */
	uint64_t owner_deadline_ns;  /* for a request to the owner or the mover of a device */
	uint64_t tier_bytes;         /* host tier, all nodes together; 0: none */
	uint32_t mover_sums;         /* threads of a mover that checksum; 0: nobody does */
	bool store_admit;            /* only what was wanted twice is stored */
	enum log_level log_level;
	uint32_t clients_per_uid;
	uint32_t admins_max;
	uint32_t socket_mode;     /* 0660 */
	const char *socket_group; /* NULL: leave */
	bool huge_pages;          /* state memfd on huge pages if possible */
	struct core_limits limits;
	unsigned devices;
	struct server_device_config device[SERVER_DEVICES_MAX];
	unsigned stores;
	struct server_store_config store[SERVER_STORES_MAX];
	unsigned tenants;
	struct core_tenant_spec tenant[SERVER_TENANTS_MAX];
};

/* The host tier's share of a node; see start.c. */
struct server_tier_share {
	uint32_t node;
	uint32_t devices; /* near to it */
	uint64_t bytes;
};

enum session_state {
	SESSION_FREE = 0,
	SESSION_HELLO,  /* connected; must say HELLO before the deadline */
	SESSION_ENGINE, /* attached, has rings */
	SESSION_ADMIN,
	SESSION_LEAVING, /* socket closed; waiting for the process's death */
};

/* Rings of an engine session; see ring.h. */
struct ring;
struct ring_geometry;

struct session {
	struct server *server;
	uint8_t state;
	bool said_bye;   /* it has nothing mapped any more */
	bool condemned;  /* to be ended at the next safe point of the turn */
	bool ending;     /* on server.ending */
	bool blocked;    /* ADMIN: the socket is full, LOOP_OUT is watched */
	uint16_t client; /* core client, for ENGINE and LEAVING */
	uint32_t id;     /* index in server.sessions */
	uint32_t uid, gid;
	int32_t pid;
	int pidfd;
	int fd;
	struct loop_source socket;
	struct loop_source death; /* pidfd */
	struct loop_source doorbell;
	uint64_t since_ns;
	uint64_t left_ns;     /* first notice of its end */
	struct session *next; /* on the free, the condemned or the ending list */
	struct ring *ring;
	/* grants (grants.c): one message in flight */
	uint64_t grant_seq;
	uint32_t grant_space;
	uint32_t grant_count;
	struct kvb_grant_entry grant_entries[KVB_GRANT_FDS_MAX];
	bool grant_in_flight;
	bool grant_held;       /* in flight but not sent: the kernel had no room for its fds */
	uint32_t grant_slot;   /* a slab with more handles than a message takes: where it goes on */
	uint32_t grant_handle; /* next handle of grant_slot; 0: none is half sent */
	struct admin_conn *admin;
};

/* Who holds which session, apart from the sessions so that counting touches little. */
struct session_use {
	uint32_t uid;
	bool used;
	bool engine;
};

/* A peer as the kernel knew it when it connected. pid 0: not visible from here. */
struct session_peer {
	uint32_t uid, gid;
	int32_t pid;
	int pidfd;
};

struct grants;

struct server {
	struct server_config cfg;
	struct config *config; /* cfg as it was said; NULL: it was not (tests) */
	struct core core;
	struct loop *loop;
	struct worker *worker;
	struct gpu_device
		*device[SERVER_DEVICES_MAX]; /* in the order of cfg.device, and the core */
	struct server_tier_share share[SERVER_DEVICES_MAX];
	unsigned shares;
	uint8_t share_of[SERVER_DEVICES_MAX]; /* by device */
	struct tiers *tiers;                  /* tiers.h; NULL: no arena is below the devices */
	struct store_tier *store;             /* store_tier.h; NULL: there is no store */
	struct stats *stats;
	struct session *sessions;
	uint32_t sessions_max;
	uint32_t sessions_used;
	struct session_use *use;  /* by session */
	uint32_t *client_session; /* session of a core client; CORE_NONE */
	struct session *free, *condemned, *ending;
	uint32_t engines, admins;
	struct admin_conn *admin_first; /* admin.c: connections of operators */
	uint64_t hello_ns;              /* the first attach deadline is not before */
	struct grants *grants;
	struct ring *hot; /* ring.c: the polled set */
	uint32_t hot_count;
	uint32_t parked; /* entries of all rings that wait for a fence, memory or CQE slots */
	uint64_t look_ns;
	uint64_t parked_look_ns; /* when they are looked at next */
	uint64_t now_ns;
	uint64_t boot_id;
	uint64_t started_ns;
	void *state;
	uint64_t state_bytes;
	bool state_huge; /* on huge pages */
	int state_fd;
	int lock_fd;
	int listen_fd;
	int signal_fd;
	struct loop_source listener;
	struct loop_source signals;
	struct loop_source worker_done;
	bool listener_paused;
	uint64_t listener_resume_ns;
	dev_t socket_dev; /* of the bound path: only that is unlinked */
	ino_t socket_ino;
	bool draining;
	bool stop;
	uint64_t drain_until_ns;
	/* server.c: when things that go by the clock are due; UINT64_MAX: never */
	uint64_t overdue_ns;                    /* the first revocation */
	uint64_t revocations_seen;              /* of core_counters, when overdue_ns was found */
	uint64_t settle_ns;                     /* figures for operators, after work */
	uint64_t watchdog_ns, watchdog_next_ns; /* 0: systemd does not ask */
	uint64_t looked_ns;                     /* last look at the loop */
	uint64_t look_gap_ns; /* least time between two looks while rings are polled */
	/* counters that are not the core's */
	uint64_t turns, sleeps, accepted, refused, protocol_errors, attach_timeouts, kicked;
};

/* ---- server.c: start, turn, stop ----------------------------------------------------------- */
int server_start(struct server *s, const struct server_config *cfg); /* logs why it fails */
int server_run(struct server *s); /* until SIGTERM/SIGINT and the drain are over */
void server_finish(struct server *s);
uint64_t server_clock_ns(void); /* CLOCK_MONOTONIC */

/* ---- listener.c, session.c ----------------------------------------------------------------- */
int listener_open(struct server *s); /* logs why it fails */
void listener_close(struct server *s);
void listener_turn(struct server *s);              /* ends a pause */
uint64_t listener_next_ns(const struct server *s); /* when it wants a turn; UINT64_MAX: never */

int sessions_new(struct server *s);
void sessions_free(struct server *s); /* ends every session */
/* Takes fd and the peer's pidfd over, also when it fails. -EUSERS quota of the uid, -ENOSPC,
 * -errno. */
int session_new(struct server *s, int fd, const struct session_peer *peer);
void session_receive(
	struct session *ss); /* message.c: takes what the socket has, a few at a time */
/* Turns a session that said HELLO into an engine; the reply is the caller's. -errno. */
int session_attach(struct session *ss, unsigned client, const struct ring_geometry *geo);
uint32_t session_count(const struct server *s, uint32_t uid, bool engines_only);
bool session_uid_operates(uint32_t uid); /* uid 0 and the daemon's own: may everything */
/* Of the first `max` places, those that this uid may take: some are kept for operators. */
uint32_t session_places(uint32_t uid, uint32_t max);
uint64_t session_next_ns(const struct server *s);

/* Ends a session at the end of the turn: socket closed, rights ended. why is for the log. */
void session_condemn(struct session *ss, const char *why);
/* As above, and tells an attached client errno `error` in its ctl. For a client's faults. */
void session_break(struct session *ss, int error, const char *why);
void session_turn(struct server *s);            /* ends condemned sessions, attach deadlines */
bool session_hung_up(const struct session *ss); /* the kernel says so, now */
/* One datagram to the peer; never blocks. 0, or -errno (a peer that does not read is condemned). */
int session_send(struct session *ss, const void *msg, size_t bytes, const int *fds, unsigned nfds);
int session_send_error(struct session *ss, int error, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
struct session *session_of_client(struct server *s, unsigned client);

/* ---- grants.c ------------------------------------------------------------------------------ */
int grants_new(struct server *s);
void grants_free(struct server *s);
uint64_t grants_next_ns(const struct server *s); /* when something put off is tried again */
/* The session closes this space: an answer on its way is not for whoever comes after. */
void grants_space_closed(struct session *ss, uint32_t handle);
/* Empties core_next_slab() into the worker and core_next_member() into sockets and rings. */
void grants_turn(struct server *s);
int grants_ack(struct session *ss, const struct kvb_msg_grant_ack *ack); /* -EPROTO */
void grants_worker_done(struct server *s);                               /* results of the worker */
/* Nobody else has the slab's memory any more: the device takes it back. */
void grants_slab_given_up(struct server *s, unsigned slab);
/* fds of a slab, kept while it lives; NULL when it has none. */
const int *grants_slab_fds(const struct server *s, unsigned slab, unsigned *ret_n);
