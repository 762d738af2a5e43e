/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The wheel: start, turn, sleep, stop. See server.h for the picture.
 *
 * A turn that did something is followed by another at once; a turn that did nothing spins while a
 * ring is polled, else the daemon sleeps until the loop, or the earliest of the times that its
 * parts name. While rings are polled, most turns are nothing but a look at them (a spin), so that
 * an answer waits for nothing else; every SERVER_SPINS-th turn is whole, and reads the clock.
 *
 * SIGTERM: nobody new is let in, attached clients are told (DRAINING), and when the last has gone
 * or the time for it is over, what the store wants is written out, for as long again at most. A
 * second signal does not wait. SIGHUP: the configuration's file is read anew.
 */

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/signalfd.h>
#include <systemd/sd-daemon.h>
#include <time.h>
#include <unistd.h>

#include "broker/admin/admin.h"
#include "broker/admin/reload.h"
#include "broker/admin/stats.h"
#include "broker/io/fault.h"
#include "broker/io/log.h"
#include "broker/io/ring.h"
#include "broker/io/start.h"
#include "broker/io/store_tier.h"
#include "broker/io/tiers.h"
#include "broker/io/worker.h"

#define SERVER_WORK_UNITS 256u /* of core_work() a turn */
#define SERVER_SPINS 16u       /* looks at the polled rings between two whole turns */
#define SERVER_LOOK_NS                                                                             \
	50000ull /* between two looks at a loop that cannot say if it has something */
#define SERVER_SETTLE_NS                                                                           \
	100000000ull              /* after work, the figures for operators are brought up to date */
#define SERVER_SESSIONS_SPARE 64u /* connections that have not said HELLO */
#define SERVER_FOR_EVER_NS (1ull << 62)

static struct log_limit overdue_limit;

uint64_t server_clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

static void server_look_at_clock(void *arg)
{
	struct server *s = arg;

	s->now_ns = server_clock_ns();
	core_set_time(&s->core, s->now_ns);
}

/* ---- signals: reload, drain ---------------------------------------------------------------- */

static void server_drain(struct server *s, int signo)
{
	if (s->draining) {
		log_info("stopping at once: second signal");
		s->stop = true;
		return;
	}
	log_info("stopping: %s, waiting for %u clients", strsignal(signo), s->engines);
	s->draining = true;
	s->drain_until_ns = s->now_ns + s->cfg.drain_ns;
	sd_notify(0, "STOPPING=1");
	listener_close(s);
	for (uint32_t i = 0; i < s->sessions_max; i++) {
		struct session *ss = &s->sessions[i];

		if (s->use[i].used && ss->state == SESSION_ENGINE)
			ring_drain(ss->ring);
	}
}

static void server_signal_ready(struct loop_source *source, uint32_t events)
{
	struct server *s = (struct server *)((char *)source - offsetof(struct server, signals));
	struct signalfd_siginfo info;

	while (read(source->fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
		if (info.ssi_signo == SIGHUP)
			reload_on_signal(s);
		else
			server_drain(s, (int)info.ssi_signo);
	}
}

static void server_worker_ready(struct loop_source *source, uint32_t events)
{
	grants_worker_done(
		(struct server *)((char *)source - offsetof(struct server, worker_done)));
}

/* Blocked before the first thread is made, so that none of them takes one. */
static int server_block_signals(struct server *s)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	signal(SIGPIPE, SIG_IGN);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return -errno;
	s->signal_fd =
		fault_fails("signalfd") ? -1 : signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return s->signal_fd < 0 ? -errno : 0;
}

/* ---- start --------------------------------------------------------------------------------- */

static int server_step(int error, const char *what)
{
	if (error)
		log_error("cannot start: %s: %s", what, strerror(-error));
	return error;
}

static int server_start_loop(struct server *s)
{
	int error;

	s->sessions_max = s->cfg.limits.clients + s->cfg.admins_max + SERVER_SESSIONS_SPARE;
	/* Three sources an engine, three a mover, one an arena; the listener, the signals, the
	 * worker and the store besides. */
	error = server_step(
		loop_new(s->cfg.engine, 3 * s->sessions_max + 4 * CORE_DEVICES_MAX + 8, &s->loop),
		"event loop");
	if (error == 0)
		error = server_step(
			loop_add(s->loop, &s->signals, s->signal_fd, LOOP_IN, server_signal_ready),
			"signals");
	if (error == 0)
		error = server_step(loop_add(s->loop, &s->worker_done, worker_fd(s->worker),
					     LOOP_IN, server_worker_ready),
				    "device worker");
	if (error == 0)
		loop_on_wake(s->loop, server_look_at_clock, s);
	if (error == 0 && strcmp(loop_engine_name(s->loop), "epoll") == 0)
		s->look_gap_ns = SERVER_LOOK_NS;
	return error;
}

static void server_say_ready(const struct server *s)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < s->cfg.devices; i++)
		bytes += s->core.h->device[i].capacity_bytes;
	log_info("ready: kvbrokerd %s, socket %s, %u devices of %s together, host tier of %s, "
		 "policy %s, events by %s, tables %s on %s pages",
		 KVB_VERSION, s->cfg.socket, s->cfg.devices, core_size(bytes).text,
		 core_size(s->cfg.tier_bytes).text, s->cfg.policy, loop_engine_name(s->loop),
		 core_size(s->state_bytes).text, s->state_huge ? "huge" : "small");
	sd_notifyf(0, "READY=1\nSTATUS=serving %u devices", s->cfg.devices);
}

int server_start(struct server *s, const struct server_config *cfg)
{
	uint64_t watchdog_us;
	int error;

	*s = (struct server){
		.cfg = *cfg,
		.state_fd = -1,
		.lock_fd = -1,
		.listen_fd = -1,
		.signal_fd = -1,
		.listener = LOOP_SOURCE_NULL,
		.signals = LOOP_SOURCE_NULL,
		.worker_done = LOOP_SOURCE_NULL,
		.now_ns = server_clock_ns(),
		.overdue_ns = UINT64_MAX,
		.settle_ns = UINT64_MAX,
	};
	s->started_ns = s->now_ns;
	if (sd_watchdog_enabled(0, &watchdog_us) > 0)
		s->watchdog_ns = watchdog_us * 1000 / 2;
	start_fill_limits(&s->cfg);
	start_raise_nofile(&s->cfg);
	error = server_step(server_block_signals(s), "signals");
	if (error == 0)
		error = start_lock(s);
	if (error == 0)
		error = start_devices(s);
	if (error == 0)
		error = server_step(worker_new(&s->worker), "device worker");
	if (error == 0)
		error = start_tables(s);
	if (error == 0)
		error = server_start_loop(s);
	if (error == 0)
		error = server_step(sessions_new(s), "sessions");
	if (error == 0)
		error = server_step(grants_new(s), "grants");
	if (error == 0)
		error = server_step(tiers_new(s), "host tier");
	if (error == 0)
		error = server_step(store_tier_new(s), "store");
	if (error == 0)
		error = server_step(stats_open(s), "stats segment");
	if (error == 0)
		error = listener_open(s);
	if (error) {
		server_finish(s);
		return error;
	}
	server_say_ready(s);
	stats_publish(s);
	return 0;
}

void server_finish(struct server *s)
{
	if (s->loop) {
		listener_close(s);
		sessions_free(s);
	}
	if (s->stats)
		stats_close(s);
	store_tier_free(s);
	tiers_free(s);
	grants_free(s);
	if (s->loop) {
		loop_del(s->loop, &s->signals);
		loop_del(s->loop, &s->worker_done);
	}
	s->worker = worker_free(s->worker);
	s->loop = loop_free(s->loop);
	if (s->signal_fd >= 0)
		close(s->signal_fd);
	s->signal_fd = -1;
	start_undo(s);
}

/* ---- revocations that are overdue ---------------------------------------------------------- */

/* Everyone attached who was sent the slab and has not given it up. How many. */
static unsigned server_kick_holders(struct server *s, const struct core_slab *slab)
{
	const struct core_space *space = &s->core.spaces[slab->space];
	unsigned n = 0;

	for (uint16_t i = space->member; i != CORE_NONE16; i = s->core.members[i].space_next) {
		const struct core_member *m = &s->core.members[i];
		struct session *ss = session_of_client(s, m->client);

		if (!ss || ss->state != SESSION_ENGINE || ss->condemned ||
		    !(m->sent[slab->slot / 64] >> (slab->slot % 64) & 1))
			continue;
		n++;
		s->kicked++;
		session_break(ss, ETIMEDOUT, "it did not give a revoked slab back in time");
	}
	return n;
}

static void server_act_overdue(struct server *s, unsigned index)
{
	static const char *const words[] = {
		[REVOKE_EXTEND] = "it gets more time",
		[REVOKE_KICK] = "its holders are disconnected",
		[REVOKE_QUARANTINE] = "its memory is out of use until they let go",
	};
	const struct core_slab *slab = &s->core.slabs[index];
	enum revoke_policy policy = s->cfg.revoke_policy;
	uint64_t grace_ns = SERVER_FOR_EVER_NS;

	if (policy == REVOKE_EXTEND)
		grace_ns = s->cfg.revoke_grace_ns;
	/* With nobody left to disconnect it is the death of their processes that is waited for. */
	if ((policy != REVOKE_KICK || server_kick_holders(s, slab)) &&
	    log_limit_pass(&overdue_limit, s->now_ns, 10))
		log_warn("slab %u of space %u is not given back in time by %u clients: %s",
			 slab->slot, slab->space, slab->mapped, words[policy]);
	core_slab_extend(&s->core, index, grace_ns);
}

/* Acts on slabs whose deadline has passed; finds when the next one is. */
static void server_look_at_revocations(struct server *s)
{
	uint64_t next = UINT64_MAX;

	s->revocations_seen = s->core.h->n.revocations;
	for (unsigned i = 0; (i = core_slab_overdue(&s->core, i)) != CORE_NONE16; i++)
		server_act_overdue(s, i);
	for (unsigned i = 0; s->core.h->slabs_draining && i < s->core.h->limits.slabs; i++) {
		const struct core_slab *slab = &s->core.slabs[i];

		if (slab->state == CORE_SLAB_DRAINING && slab->deadline_ns < next)
			next = slab->deadline_ns;
	}
	s->overdue_ns = next;
}

/* ---- the wheel ----------------------------------------------------------------------------- */

/* Clients have had their time: now the store. */
static void server_wind_up(struct server *s)
{
	if (s->store && !s->core.h->writing_out) {
		core_store_write_out(&s->core);
		s->drain_until_ns = s->now_ns + s->cfg.drain_ns;
		log_info("stopping: what is worth it is written to the store");
	}
	if (!s->store || core_store_is_written_out(&s->core) || s->now_ns >= s->drain_until_ns)
		s->stop = true;
}

/* What goes by the clock. */
static void server_timers(struct server *s, bool busy)
{
	server_look_at_clock(s);
	listener_turn(s);
	stats_turn(s);
	if (busy)
		s->settle_ns = s->now_ns + SERVER_SETTLE_NS;
	if (s->revocations_seen != s->core.h->n.revocations || s->now_ns >= s->overdue_ns)
		server_look_at_revocations(s);
	if (s->draining &&
	    (!s->engines || s->core.h->writing_out || s->now_ns >= s->drain_until_ns))
		server_wind_up(s);
	if (s->watchdog_ns && s->now_ns >= s->watchdog_next_ns) {
		s->watchdog_next_ns = s->now_ns + s->watchdog_ns;
		sd_notify(0, "WATCHDOG=1");
	}
}

/* Is there anything to do but to look at rings? */
static bool server_has_chores(const struct server *s)
{
	const struct core_header *h = s->core.h;

	return s->condemned || s->ending || s->admin_first || h->clients_reaping ||
	       h->slabs_undrained || h->sweep_left || h->slab_todo != CORE_NONE16 ||
	       h->member_todo != CORE_NONE16 || (!s->look_gap_ns && loop_pending(s->loop));
}

/* Looks at the polled rings and nothing else, until the time for a whole turn has come. */
static bool server_spin(struct server *s)
{
	bool did = false;

	for (unsigned i = 0; i < SERVER_SPINS && s->hot_count && !server_has_chores(s); i++) {
		did |= tiers_poll(s);
		did |= ring_turn(s);
	}
	return did;
}

/* True: there is more to do now. */
static bool server_turn(struct server *s)
{
	bool busy = ring_turn(s);

	if (admin_turn(s))
		busy = true;
	if (core_work(&s->core, SERVER_WORK_UNITS))
		busy = true;
	grants_turn(s);
	if (tiers_turn(s))
		busy = true;
	if (store_tier_turn(s))
		busy = true;
	session_turn(s);
	s->turns++;
	return busy || s->core.h->clients_reaping;
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* How long there is nothing to do unless the loop says otherwise. */
static uint64_t server_rest_ns(const struct server *s)
{
	uint64_t next = earlier(ring_next_ns(s), session_next_ns(s));

	next = earlier(next, earlier(listener_next_ns(s), grants_next_ns(s)));
	next = earlier(next, earlier(s->overdue_ns, s->settle_ns));
	next = earlier(next, earlier(tiers_next_ns(s), store_tier_next_ns(s)));
	if (s->draining)
		next = earlier(next, s->drain_until_ns);
	if (s->watchdog_ns)
		next = earlier(next, s->watchdog_next_ns);
	if (next == UINT64_MAX)
		return next;
	return next > s->now_ns ? next - s->now_ns : 0;
}

static int server_sleep(struct server *s)
{
	uint64_t rest = server_rest_ns(s);
	int n;

	if (!tiers_arm(s))
		rest = 0;
	s->sleeps++;
	n = loop_run(s->loop, rest);
	tiers_disarm(s);
	s->looked_ns = s->now_ns;
	if (n > 0) {
		s->settle_ns = s->now_ns + SERVER_SETTLE_NS;
	} else if (s->now_ns >= s->settle_ns) {
		s->settle_ns = UINT64_MAX;
		stats_publish(s);
	}
	return n;
}

/* A look at the loop between turns, when it has something or cannot say. */
static int server_look(struct server *s)
{
	if (!loop_pending(s->loop) || s->now_ns - s->looked_ns < s->look_gap_ns)
		return 0;
	s->looked_ns = s->now_ns;
	return loop_run(s->loop, 0);
}

int server_run(struct server *s)
{
	int n = 0;

	while (!s->stop && n >= 0) {
		bool busy = server_spin(s);

		if (server_turn(s))
			busy = true;
		server_timers(s, busy);
		if (s->stop)
			break;
		if (busy || s->hot_count || tiers_hot(s) || store_tier_hot(s))
			n = server_look(s);
		else
			n = server_sleep(s);
	}
	if (n < 0) {
		log_error("the event loop is broken: %s", strerror(-n));
		return n;
	}
	log_info("stopped: %u clients are left behind", s->engines);
	return 0;
}
