/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * The page for people at /: what there is and how full it is, in bars.
 *
 * One HTML document that needs nothing else: no script, no picture, no other host; it comes again
 * every 5 seconds. A pure function of a reading.
 */

#include "tools/kvbroker-exporter/exposition.h"
#include "tools/kvbroker-exporter/source.h"

void page_write(struct expo *e, const struct source *s);
