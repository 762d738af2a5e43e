/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * A device of the test's own behind cuda_driver/gpu_mover.h: it copies at once, remembers what it
 * was asked for, and holds back, fails or breaks as told.
 */

#include <stdbool.h>
#include <stdint.h>

#include "cuda_driver/gpu_mover.h"

#define TEST_MAPS_MAX 512u

struct test_batch {
	enum gpu_direction direction;
	uint32_t n;
	struct gpu_copy copies[GPU_MOVER_COPIES_MAX];
};

struct gpu_mover {
	bool hold;       /* batches do not end */
	int fail_submit; /* -errno of the next submit */
	int fail_poll;   /* of every poll */
	int fail_attach;
	uint32_t fail_map; /* which map from now on fails; 0: none */
	bool spoilt;
	bool memory_is_bad;
	uint32_t maps, attached; /* that there are */
	void *map[TEST_MAPS_MAX];
	uint32_t batches; /* submitted, ever; batch[k] is number k */
	struct test_batch batch[16];
};

extern struct gpu_mover test_device;
void test_device_reset(void);
