/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The command: asks the daemon once, runs every check, shows what was found. See doctor.h.
 *
 * That no daemon answers is a finding and no end of the command: before the first start is when a
 * doctor is of most use.
 */

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "tools/broker-ctl/ctl.h"
#include "tools/broker-ctl/doctor.h"

static const char *const verdict_name[] = { "ok", "warn", "fail" };
static const char *const verdict_colour[] = { "\033[32m", "\033[33m", "\033[31m" };

void doctor_say(struct doctor *d, enum doctor_verdict verdict, const char *check, const char *fix,
		const char *fmt, ...)
{
	cJSON *o = cJSON_CreateObject();
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	cJSON_AddStringToObject(o, "check", check);
	cJSON_AddStringToObject(o, "verdict", verdict_name[verdict]);
	cJSON_AddStringToObject(o, "text", text);
	if (fix)
		cJSON_AddStringToObject(o, "fix", fix);
	else
		cJSON_AddNullToObject(o, "fix");
	cJSON_AddItemToArray(d->findings, o);
	d->n[verdict]++;
}

/* Connects without saying why it can't: that is one of the findings. */
static void find_daemon(struct ctl *ctl, struct doctor *d)
{
	uint32_t given = ctl->given;
	int r;

	ctl->given |= OPT(OPT_QUIET);
	r = link_open(ctl);
	ctl->given = given;
	switch (r) {
	case 0:
		d->seg = ctl->seg;
		break;
	case ADMIN_EXIT_UNREACHABLE:
		doctor_say(d, DOCTOR_WARN, "daemon",
			   "start kvbrokerd, or name its socket with -S or $KVBROKER_SOCKET",
			   "none answers at %s; this is of the machine alone", ctl->socket);
		break;
	case ADMIN_EXIT_PERMISSION:
		doctor_say(d, DOCTOR_WARN, "daemon", "join the socket's group, or run this as root",
			   "this user may not connect to %s; this is of the machine alone",
			   ctl->socket);
		break;
	case ADMIN_EXIT_TIMEOUT:
		doctor_say(d, DOCTOR_FAIL, "daemon",
			   "look at its log; wait longer with -t; restart it if it is stuck",
			   "it does not answer at %s", ctl->socket);
		break;
	default:
		doctor_say(d, DOCTOR_FAIL, "daemon",
			   "broker-ctl status says more; use the broker-ctl that came with the "
			   "daemon",
			   "what answers at %s is not understood", ctl->socket);
	}
}

static void run_checks(struct ctl *ctl, struct doctor *d)
{
	struct doctor_uring uring;
	struct doctor_gpu gpu;

	find_daemon(ctl, d);
	if (d->seg)
		doctor_check_daemon(d);
	doctor_check_kernel(d);
	doctor_probe_uring(&uring);
	doctor_check_uring(d, &uring);
	doctor_check_limits(d);
	doctor_check_huge_pages(d);
	doctor_check_numa(d);
	doctor_probe_gpu(&gpu);
	doctor_check_gpu(d, &gpu);
	doctor_check_socket(d, ctl->socket);
	if (d->seg) {
		doctor_check_state_dir(d);
		doctor_check_store(d);
	}
	doctor_check_clock(d);
	doctor_check_pressure(d);
}

static void print_findings(const struct ctl *ctl, const struct doctor *d)
{
	const cJSON *o;

	cJSON_ArrayForEach(o, d->findings)
	{
		const char *verdict = cJSON_GetStringValue(cJSON_GetObjectItem(o, "verdict"));
		const char *fix = cJSON_GetStringValue(cJSON_GetObjectItem(o, "fix"));
		const char *colour = "";

		for (unsigned i = 0; ctl->colour && i < DOCTOR_VERDICTS; i++) {
			if (strcmp(verdict, verdict_name[i]) == 0)
				colour = verdict_colour[i];
		}
		(void)printf("%s%-4s%s  %-11s %s\n", colour, verdict, *colour ? "\033[0m" : "",
			     cJSON_GetStringValue(cJSON_GetObjectItem(o, "check")),
			     cJSON_GetStringValue(cJSON_GetObjectItem(o, "text")));
		if (fix)
			(void)printf("                  -> %s\n", fix);
	}
	(void)printf("%u ok, %u warn, %u fail\n", d->n[DOCTOR_OK], d->n[DOCTOR_WARN],
		     d->n[DOCTOR_FAIL]);
}

int ctl_doctor(struct ctl *ctl)
{
	struct doctor d = { .root = "", .findings = cJSON_CreateArray() };
	int code;

	run_checks(ctl, &d);
	code = d.n[DOCTOR_FAIL] ? ADMIN_EXIT_FAILED : ADMIN_EXIT_OK;
	if (output_is_json(ctl)) {
		cJSON *o = cJSON_CreateObject();
		int r;

		cJSON_AddBoolToObject(o, "healthy", d.n[DOCTOR_FAIL] == 0);
		cJSON_AddBoolToObject(o, "daemon", d.seg != NULL);
		for (unsigned i = 0; i < DOCTOR_VERDICTS; i++)
			cJSON_AddNumberToObject(o, verdict_name[i], d.n[i]);
		cJSON_AddItemToObject(o, "findings", d.findings);
		r = output_json(ctl, o);
		return r ? r : code;
	}
	print_findings(ctl, &d);
	cJSON_Delete(d.findings);
	return code;
}
