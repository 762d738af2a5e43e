/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What the daemon and the owner of a GPU say to each other over their socketpair.
 *
 * Both ends are one program of one version (the owner is the daemon's own binary), so there is no
 * negotiation; still neither believes a size, a count or a number of fds that the other names. A
 * message is one struct. The owner speaks first, once: WIRE_HELLO. Then each request has its
 * answer: one message to a close or a look; to a create as many as it takes to carry the fds,
 * WIRE_FDS_MAX each, in order, or one with an error, which ends it: the handles that went before
 * are gone. After an answer with `spoilt` the owner ends: its driver serves that process no more.
 */

#include <stdint.h>

#include "broker/owner/datagram.h"

#define WIRE_FD 3 /* the owner finds its end of the socketpair here */
#define WIRE_FDS_MAX DATAGRAM_FDS_MAX
#define WIRE_HANDLES_MAX 16384u /* of one request */

enum wire_type { WIRE_HELLO = 1, WIRE_CREATE, WIRE_CLOSE, WIRE_LOOK };

struct wire_hello {
	uint32_t type;
	int32_t error; /* not 0: it cannot serve the device, for the reason in why, and ends */
	char driver[16];
	char model[64];
	uint8_t uuid[16];
	char pci[16]; /* address, as sysfs spells it; "" */
	uint64_t total_bytes, granularity_bytes;
	int32_t node;         /* NUMA; -1 not known */
	int32_t compute_mode; /* enum cu_compute_mode */
	char why[256];
	char no_look[96]; /* not "": how much memory is used can not be asked, because of this */
};

struct wire_request {
	uint32_t type;
	uint32_t count; /* create: handles */
	uint64_t handle_bytes;
	uint32_t block; /* close: what create was answered with */
	uint32_t resv;
};

struct wire_reply {
	uint32_t type;
	int32_t error;  /* 0, or -errno with the reason in why */
	uint32_t block; /* the handles of this create, all together */
	uint32_t first; /* create: which of the handles the first fd here is */
	uint32_t count; /* create: fds with this message */
	uint32_t spoilt;
	uint64_t unused_bytes, used_bytes; /* look: of the GPU, by anybody */
	char why[256];
};
