/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Written beside, then renamed: a collector that reads meanwhile has the old one, whole. The name
 * beside does not end in .prom, so it is not collected. Readable by all, since whoever collects is
 * another user.
 */

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/kvbroker-exporter/metrics.h"
#include "tools/kvbroker-exporter/textfile.h"

static int write_all(int fd, const char *text, size_t bytes)
{
	while (bytes) {
		ssize_t n = write(fd, text, bytes);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		text += n;
		bytes -= (size_t)n;
	}
	return 0;
}

static int replace_file(const char *path, const struct expo *e)
{
	char beside[PATH_MAX];
	int n = snprintf(beside, sizeof(beside), "%s.new", path), fd, r;

	if (n < 0 || (size_t)n >= sizeof(beside))
		return -ENAMETOOLONG;
	if (unlink(beside) < 0 && errno != ENOENT)
		return -errno;
	fd = open(beside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	if (fd < 0)
		return -errno;
	r = fchmod(fd, 0644) < 0 ? -errno : write_all(fd, e->text, e->bytes);
	if (close(fd) < 0 && r == 0)
		r = -errno;
	if (r == 0 && rename(beside, path) < 0)
		r = -errno;
	if (r < 0)
		(void)unlink(beside);
	return r;
}

int textfile_write(const char *path, struct source *source)
{
	struct expo e;
	int r;

	source_read(source);
	source_tell(source);
	expo_init(&e);
	metrics_write(&e, source);
	r = e.failed ? -ENOMEM : replace_file(path, &e);
	expo_free(&e);
	return r;
}
