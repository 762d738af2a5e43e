/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The mover of a device: a process of its own that copies pages between the device and host arenas.
 *
 * The daemon loads no driver, and the owner has no context. So `kvbrokerd --mover cuda:N` (or
 * host:N), the daemon's own binary, holds the GPU's context, maps slabs, page-locks the arenas, and
 * copies what the daemon asks for, by copy engines only.
 *
 *   daemon                                            mover
 *     tiers.c: transfers of the core  --- ring --->     take a batch, coalesce neighbours, submit
 *              core_transfer_done()   <--- ring ---     poll events, checksum, complete
 *     memory of slabs and arenas      --- socket -->    map, register, answer
 *
 * What the two ends promise:
 *   - Its crash harms nobody. It is found dead by its pidfd, copies in flight count as failed once
 *     it is dead and not before (until then it could still write), another one starts, at most one
 * a second, and is told of all memory again.
 *   - Nothing it says is believed: ids out of range end it.
 *   - A page's bytes have a checksum from the moment they are written down, made on the copy in
 * host memory, and are compared before they go up again.
 *   - It ends when the daemon closes the socket or dies.
 */

#include <stdint.h>

/* The mover process: serves device `ordinal` of `kind` (enum gpu_kind), to the driver
 * driver_ordinal, on MOVER_FD until the daemon is gone. Exit status. */
int mover_main(uint32_t kind, uint32_t ordinal, uint32_t driver_ordinal);
