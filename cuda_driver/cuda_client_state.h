/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What the two files of a client share: memory is in cuda_client.c, fences are in cuda_fence.c.
 * Nobody else includes this.
 *
 * Functions that talk to the driver run between client_enter() and client_leave().
 */

#include "cuda_driver/cuda_client.h"
#include "cuda_driver/cuda_device.h"

#include <stdbool.h>

struct client_range;

/* Fence words as the driver knows them. */
struct client_fences {
	const struct cuda_stream_api *api; /* NULL: none are registered */
	void *words;                       /* our own view of them */
	uint64_t bytes;
	uint32_t count;
	uint32_t stride_bytes;
	cu_address address; /* of the first, for the device */
};

struct cuda_client {
	struct cuda_device device;
	cu_context context;
	bool retained; /* the context is the primary one, held by us */
	struct client_range *ranges;
	struct client_fences fences;
};

/* Makes the client's context current; *ret_before is for client_leave(). 0 or by cuda_error.h. */
int client_enter(const struct cuda_client *client, cu_context *ret_before);
void client_leave(const struct cuda_client *client, cu_context before);
