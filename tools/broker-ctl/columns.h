/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * How the columns of a listing are written down: key, heading, kind, wide, help, and one of these
 * for where the value comes from (see struct column).
 */

#include <stddef.h>

#include "tools/broker-ctl/table.h"

#define U32(record, field) SOURCE_U32, offsetof(struct record, field), NULL
#define U64(record, field) SOURCE_U64, offsetof(struct record, field), NULL
#define TEXT(record, field) SOURCE_TEXT, offsetof(struct record, field), NULL
#define CALL(function) SOURCE_CALL, 0, function
#define ROW SOURCE_ROW, 0, NULL
#define TABLE(list, single, cols)                                                                  \
	{                                                                                          \
		.name = list, .one = single, .columns = cols, .n = sizeof(cols) / sizeof(cols[0])  \
	}
