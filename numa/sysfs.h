/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/*
 * Small text files of the kernel, and what stands in them.
 *
 * Every path lies below a root: "" is this machine, anything else a directory that holds a copy of
 * its sys/ and proc/, which is how tests make machines. Nothing that is read is believed: a file
 * may be absent, unreadable (containers hide them), too long or say anything at all, and whoever
 * asked gets an error and no half of a value. For numa/ only; pure but for the reading, no state.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SYSFS_PATH_BYTES 512u
#define SYSFS_TEXT_BYTES 16384u /* the longest file that is read */

/* Numbers of nodes or processors. */
#define SYSFS_SET_BITS 8192u
struct sysfs_set {
	uint64_t word[SYSFS_SET_BITS / 64];
};

/* "root/" and the rest as printf() makes it. 0; -ENAMETOOLONG. */
int sysfs_path(char ret[SYSFS_PATH_BYTES], const char *root, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/*
 * A whole file as a string, its last newline left out. 0; -E2BIG: more than SYSFS_TEXT_BYTES - 1;
 * -EBADMSG: there are zeros in it; -errno.
 */
int sysfs_read(const char *path, char ret[SYSFS_TEXT_BYTES]);

/* A file that is one number, decimal or 0x and hex, of at most `most`. 0, -EBADMSG, as above. */
int sysfs_read_number(const char *path, uint64_t most, uint64_t *ret);
/* A file that is a list as "0-3,8"; an empty one is the empty set. 0, -EBADMSG, as above. */
int sysfs_read_set(const char *path, struct sysfs_set *ret);

/* Digits from *at on, which is moved behind them. False: none there, or more than most. */
bool sysfs_take_number(const char **at, uint64_t most, uint64_t *ret);
bool sysfs_parse_set(const char *text, struct sysfs_set *ret);

static inline bool sysfs_set_has(const struct sysfs_set *set, uint32_t bit)
{
	return bit < SYSFS_SET_BITS && set->word[bit / 64] >> (bit % 64) & 1;
}

static inline void sysfs_set_add(struct sysfs_set *set, uint32_t bit)
{
	if (bit < SYSFS_SET_BITS)
		set->word[bit / 64] |= 1ull << (bit % 64);
}

unsigned sysfs_set_count(const struct sysfs_set *set);
/* "0-3,8"; "" of the empty set. What does not fit is left out, with "..." in its place. */
void sysfs_set_text(const struct sysfs_set *set, char *ret, size_t bytes);
