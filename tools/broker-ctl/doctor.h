/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * doctor: is this machine, and the daemon on it, as it should be, and what is to be done if not?
 *
 *   doctor.c          the command, its findings and how they are shown
 *   doctor_machine.c  what files of the kernel tell
 *   doctor_probe.c    what has to be tried: io_uring, the GPU driver
 *   doctor_daemon.c   the daemon, its limits, its files and its store
 *
 * A check looks at one thing and says one or more findings; it changes nothing. Files of the kernel
 * lie below a root, "" for this machine, as in numa/sysfs.h. What is tried is tried first, into a
 * plain record, and judged from that, so that a test judges machines it does not have.
 *
 * ok: as it should be, or of no matter here. warn: it works, with less than there could be. fail:
 * something does not work, or will not.
 */

#include "broker/admin/stats.h"
#include "numa/topology.h"

#include <cjson/cJSON.h>

enum doctor_verdict { DOCTOR_OK, DOCTOR_WARN, DOCTOR_FAIL, DOCTOR_VERDICTS };

struct doctor {
	const char *root;
	const struct stats_segment *seg; /* NULL: no daemon is known */
	cJSON *findings;                 /* an array of check, verdict, text, fix */
	unsigned n[DOCTOR_VERDICTS];
};

/* fix: what to do; NULL: nothing is to be done. */
void doctor_say(struct doctor *d, enum doctor_verdict verdict, const char *check, const char *fix,
		const char *fmt, ...) __attribute__((format(printf, 5, 6)));

/* doctor_machine.c */
void doctor_check_kernel(struct doctor *d);
void doctor_check_clock(struct doctor *d);
void doctor_check_pressure(struct doctor *d);
void doctor_check_huge_pages(struct doctor *d);
void doctor_check_numa(struct doctor *d);

/* doctor_probe.c */
struct doctor_uring {
	int error;         /* 0, -errno of io_uring_setup() */
	bool deferred;     /* it takes SINGLE_ISSUER with DEFER_TASKRUN */
	uint32_t features; /* IORING_FEAT_* */
};
struct doctor_gpu {
	int error;   /* -ENOENT: no driver; else it does not work, or does not answer */
	int version; /* as CUDA tells it: 12040 */
	int devices;
	char name[64]; /* of the first; "" */
	char why[256]; /* of error */
	int nvml_error;
	char nvml_why[256];
};
void doctor_probe_uring(struct doctor_uring *ret);
void doctor_probe_gpu(struct doctor_gpu *ret); /* in a process of its own, for 10 s at most */
void doctor_check_uring(struct doctor *d, const struct doctor_uring *uring);
void doctor_check_gpu(struct doctor *d, const struct doctor_gpu *gpu);

/* doctor_daemon.c */
void doctor_check_daemon(struct doctor *d);
void doctor_check_limits(struct doctor *d);
void doctor_check_socket(struct doctor *d, const char *path);
void doctor_check_state_dir(struct doctor *d);
void doctor_check_store(struct doctor *d);
