/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Sizes as people write them: `512M`, `1.5G`, IEC units (K = 1024). They are printed by
 * core_size().
 */

#include <stdint.h>

/* "512M", "1.5G", "4096", "64KiB", and with percent_of != 0 "30%". 0 or -EINVAL (-ERANGE: > 2^63).
 */
int size_parse(const char *text, uint64_t percent_of, uint64_t *ret_bytes);
