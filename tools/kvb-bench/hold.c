/* SPDX-License-Identifier: Apache-2.0 */

/*
 * hold: idle clients, each a process, attached until a signal, so that others can see what idle
 * clients cost. Says `held N` once all are attached; ends cleanly on SIGTERM or SIGINT.
 */

#include <signal.h>
#include <stdio.h>

#include "tools/kvb-bench/bench.h"

int bench_hold(const struct bench_options *o, struct report *r)
{
	static const char *const args[] = { "--device", "host:0=64M", "--max-pages", "65536",
					    NULL };
	struct broker b;
	struct held held;
	sigset_t set;
	int sig;

	/* Blocked before anything is started, so that no signal finds us half way. */
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	broker_start(o, -1, args, &b);
	sigprocmask(SIG_BLOCK, &set, NULL);
	held_start(&b, o->clients, &held);
	printf("held %u\n", o->clients);
	fflush(stdout);
	sigwait(&set, &sig);
	held_release(&held);
	broker_stop(&b);
	report_number(r, "clients", o->clients, "held until the signal");
	return 0;
}
