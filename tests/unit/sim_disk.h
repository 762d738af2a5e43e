/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A disk that lies, for the store: an engine whose files are memory.
 *
 * Transfers end in an order and after a time that a seed decides. A write that has ended is seen by
 * reads; it survives a loss of power when a flush that began after its end has ended. At the loss
 * (`cut_at` says with which write, counted from 1) each other write is there whole, not at all, or
 * in some of its sectors. After it every transfer fails, until sim_disk_power_on().
 *
 * With `kill` it is the process that dies, not the power: what has ended is there.
 */

#include <stdbool.h>
#include <stdint.h>

#include "broker/store/engine.h"

#define SIM_DISKS_MAX 2u

enum sim_fault {
	SIM_NONE,
	SIM_ERROR,    /* the transfer fails */
	SIM_SHORT,    /* half of it is done */
	SIM_DROP,     /* a write is reported and never made */
	SIM_MISPLACE, /* it goes elsewhere */
	SIM_ROT,      /* a bit of what was written turns */
	SIM_TEAR,     /* only some sectors are written */
};

struct sim_write {
	uint64_t offset;
	uint32_t bytes;
	bool ended;
	char *data;
	struct sim_write *next;
};

struct sim_disk {
	uint64_t bytes; /* of each file */
	uint32_t sector_bytes;
	bool kill, flush_lies;
	uint64_t cut_at;
	/* The k-th transfer of an op, counted from 1, suffers it. */
	enum sim_fault fault;
	uint8_t fault_op;
	uint64_t fault_at;
	int32_t fault_error;
	uint32_t slow; /* turns that a transfer takes at most */

	uint64_t random;
	uint64_t seen[3]; /* transfers, by op */
	bool off;
	bool open[SIM_DISKS_MAX];
	char *now[SIM_DISKS_MAX];    /* what is read */
	char *stable[SIM_DISKS_MAX]; /* what survives */
	struct sim_write *pending[SIM_DISKS_MAX];
	struct engine_flight *flying;
	uint32_t flying_n;
};

void sim_disk_make(struct sim_disk *d, uint64_t bytes, uint64_t seed);
void sim_disk_free(struct sim_disk *d);
/* What the loss of power left is what is there now. */
void sim_disk_power_on(struct sim_disk *d);
uint64_t sim_disk_random(struct sim_disk *d, uint64_t below);

/* A part's path is "0" or "1"; ops_arg is the disk. */
extern const struct engine_ops sim_disk_ops;
