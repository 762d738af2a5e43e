/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Reading and parsing; see sysfs.h.
 *
 * Files here have no size that could be asked for, so they are read to their end, and one that does
 * not end in time is refused rather than cut: half a list is another list.
 */

#include "numa/sysfs.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int sysfs_path(char ret[SYSFS_PATH_BYTES], const char *root, const char *fmt, ...)
{
	int n = snprintf(ret, SYSFS_PATH_BYTES, "%s/", root), more;
	va_list args;

	if (n < 0 || n >= (int)SYSFS_PATH_BYTES)
		return -ENAMETOOLONG;
	va_start(args, fmt);
	more = vsnprintf(ret + n, SYSFS_PATH_BYTES - (size_t)n, fmt, args);
	va_end(args);
	return more < 0 || more >= (int)SYSFS_PATH_BYTES - n ? -ENAMETOOLONG : 0;
}

int sysfs_read(const char *path, char ret[SYSFS_TEXT_BYTES])
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), error = 0;
	size_t n = 0;

	if (fd < 0)
		return -errno;
	while (error == 0 && n < SYSFS_TEXT_BYTES) {
		ssize_t got = read(fd, ret + n, SYSFS_TEXT_BYTES - n);

		if (got == 0)
			break;
		if (got > 0)
			n += (size_t)got;
		else if (errno != EINTR)
			error = -errno;
	}
	close(fd);
	if (error)
		return error;
	if (n == SYSFS_TEXT_BYTES)
		return -E2BIG;
	ret[n] = '\0';
	if (strlen(ret) != n)
		return -EBADMSG;
	if (n && ret[n - 1] == '\n')
		ret[n - 1] = '\0';
	return 0;
}

bool sysfs_take_number(const char **at, uint64_t most, uint64_t *ret)
{
	const char *p = *at;
	uint64_t n = 0;

	if (!isdigit((unsigned char)*p))
		return false;
	for (; isdigit((unsigned char)*p); p++) {
		if (__builtin_mul_overflow(n, 10u, &n) ||
		    __builtin_add_overflow(n, (uint64_t)(*p - '0'), &n) || n > most)
			return false;
	}
	*at = p;
	*ret = n;
	return true;
}

static bool take_hex(const char **at, uint64_t most, uint64_t *ret)
{
	static const char digits[] = "0123456789abcdef";
	const char *p = *at, *digit;
	uint64_t n = 0;

	for (; *p && (digit = strchr(digits, tolower((unsigned char)*p))); p++) {
		if (n >> 60)
			return false;
		n = n << 4 | (uint64_t)(digit - digits);
	}
	if (p == *at || n > most)
		return false;
	*at = p;
	*ret = n;
	return true;
}

int sysfs_read_number(const char *path, uint64_t most, uint64_t *ret)
{
	char text[SYSFS_TEXT_BYTES];
	const char *at = text;
	int error = sysfs_read(path, text);
	uint64_t n = 0;
	bool is;

	if (error)
		return error;
	if (text[0] == '0' && text[1] == 'x') {
		at += 2;
		is = take_hex(&at, most, &n);
	} else {
		is = sysfs_take_number(&at, most, &n);
	}
	if (!is || *at)
		return -EBADMSG;
	*ret = n;
	return 0;
}

bool sysfs_parse_set(const char *text, struct sysfs_set *ret)
{
	struct sysfs_set set = { { 0 } };
	const char *at = text;

	while (*at) {
		uint64_t first, last;

		if (!sysfs_take_number(&at, SYSFS_SET_BITS - 1, &first))
			return false;
		last = first;
		if (*at == '-' && (at++, !sysfs_take_number(&at, SYSFS_SET_BITS - 1, &last)))
			return false;
		if (last < first || (*at && *at != ',') || (*at == ',' && !at[1]))
			return false;
		at += *at == ',';
		for (; first <= last; first++)
			sysfs_set_add(&set, (uint32_t)first);
	}
	*ret = set;
	return true;
}

int sysfs_read_set(const char *path, struct sysfs_set *ret)
{
	char text[SYSFS_TEXT_BYTES];
	int error = sysfs_read(path, text);

	if (error)
		return error;
	return sysfs_parse_set(text, ret) ? 0 : -EBADMSG;
}

unsigned sysfs_set_count(const struct sysfs_set *set)
{
	unsigned n = 0;

	for (unsigned i = 0; i < SYSFS_SET_BITS / 64; i++)
		n += (unsigned)__builtin_popcountll(set->word[i]);
	return n;
}

void sysfs_set_text(const struct sysfs_set *set, char *ret, size_t bytes)
{
	size_t n = 0;

	ret[0] = '\0';
	for (uint32_t first = 0; first < SYSFS_SET_BITS; first++) {
		char run[32];
		uint32_t last = first;
		int length;

		if (!sysfs_set_has(set, first))
			continue;
		while (sysfs_set_has(set, last + 1))
			last++;
		length = snprintf(run, sizeof(run), last > first ? "%s%u-%u" : "%s%u", n ? "," : "",
				  first, last);
		if (n + (size_t)length + sizeof("...") > bytes) {
			(void)snprintf(ret + n, bytes - n, "...");
			return;
		}
		memcpy(ret + n, run, (size_t)length + 1);
		n += (size_t)length;
		first = last;
	}
}
