/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Distances between words; see nearest.h.
 */

#include "broker/config/nearest.h"

#include <string.h>

unsigned nearest_distance(const char *a, const char *b)
{
	unsigned row[64], n = (unsigned)strlen(b);

	if (n >= 64 || strlen(a) >= 64)
		return 64;
	for (unsigned i = 0; i <= n; i++)
		row[i] = i;
	for (unsigned i = 1; a[i - 1]; i++) {
		unsigned diagonal = row[0];

		row[0] = i;
		for (unsigned k = 1; k <= n; k++) {
			unsigned above = row[k];
			unsigned best = diagonal + (a[i - 1] != b[k - 1]);

			if (above + 1 < best)
				best = above + 1;
			if (row[k - 1] + 1 < best)
				best = row[k - 1] + 1;
			row[k] = best;
			diagonal = above;
		}
	}
	return row[n];
}

int nearest_take(const char *typed, const char *word, unsigned *least)
{
	unsigned d = nearest_distance(typed, word);

	/* More than half of a word changed is another word. */
	if (d > NEAREST_MAX || d >= *least || 2 * d > strlen(word))
		return 0;
	*least = d;
	return 1;
}
