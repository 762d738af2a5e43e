/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * What somebody meant who mistyped a name: for messages, never for deciding.
 */

#define NEAREST_MAX 3u /* edits; what takes more is another word */

/* Letters to change, add or leave out to make b of a; 64 for words longer than that. */
unsigned nearest_distance(const char *a, const char *b);

/* Is `word` nearer to `typed` than *least edits, and near at all? Then *least becomes its. */
int nearest_take(const char *typed, const char *word, unsigned *least);
